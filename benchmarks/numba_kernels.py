"""Softmax and its relatives as one writes them in Numba: plain loops over the rows of (rows, n) arrays."""

import numpy as np
from numba import njit, prange

kernel = njit(parallel=True, fastmath=True, cache=True)


@njit(fastmath=True, cache=True, inline="always")
def maximum(row):
    best = row[0]
    for value in row:
        best = max(best, value)
    return best


@kernel
def softmax(x, out):
    for i in prange(x.shape[0]):
        shift, total = maximum(x[i]), x.dtype.type(0)
        for j in range(x.shape[1]):
            out[i, j] = np.exp(x[i, j] - shift)
            total += out[i, j]
        scale = 1 / total
        for j in range(x.shape[1]):
            out[i, j] *= scale


@kernel
def log_softmax(x, out):
    for i in prange(x.shape[0]):
        shift, total = maximum(x[i]), x.dtype.type(0)
        for j in range(x.shape[1]):
            total += np.exp(x[i, j] - shift)
        log_total = np.log(total)
        for j in range(x.shape[1]):
            out[i, j] = (x[i, j] - shift) - log_total


@kernel
def logsumexp(x, out):
    for i in prange(x.shape[0]):
        shift, total = maximum(x[i]), x.dtype.type(0)
        for j in range(x.shape[1]):
            total += np.exp(x[i, j] - shift)
        out[i, 0] = shift + np.log(total)


@kernel
def softmax_backward(grad, output, out):
    for i in prange(grad.shape[0]):
        dot = grad.dtype.type(0)
        for j in range(grad.shape[1]):
            dot += grad[i, j] * output[i, j]
        for j in range(grad.shape[1]):
            out[i, j] = output[i, j] * (grad[i, j] - dot)


@kernel
def log_softmax_backward(grad, output, out):
    for i in prange(grad.shape[0]):
        total = grad.dtype.type(0)
        for j in range(grad.shape[1]):
            total += grad[i, j]
        for j in range(grad.shape[1]):
            out[i, j] = grad[i, j] - np.exp(output[i, j]) * total


@kernel
def cross_entropy(x, target):
    loss = 0.0
    for i in prange(x.shape[0]):
        shift, total = maximum(x[i]), x.dtype.type(0)
        for j in range(x.shape[1]):
            total += np.exp(x[i, j] - shift)
        loss += np.log(total) - (x[i, target[i]] - shift)
    return loss / x.shape[0]


@kernel
def cross_entropy_with_grad(x, target, out):
    loss = 0.0
    for i in prange(x.shape[0]):
        shift, total = maximum(x[i]), x.dtype.type(0)
        for j in range(x.shape[1]):
            out[i, j] = np.exp(x[i, j] - shift)
            total += out[i, j]
        loss += np.log(total) - (x[i, target[i]] - shift)
        scale = 1 / (total * x.shape[0])
        for j in range(x.shape[1]):
            out[i, j] *= scale
        out[i, target[i]] -= x.dtype.type(1) / x.shape[0]
    return loss / x.shape[0]
