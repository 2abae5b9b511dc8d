"""Inside libraries that flush subnormal numbers, or whose threads do: the bits are csoftmax's own."""

import jax
import numba
import numpy as np
import pytest
import torch

import csoftmax
import csoftmax.interop.jax as cj
import csoftmax.interop.numba as cn
import csoftmax.interop.torch as ct

pytestmark = pytest.mark.interop


@pytest.fixture
def flushing():
    """PyTorch's flush-to-zero mode, which is that of the calling thread."""
    assert torch.set_flush_denormal(True)
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(scope="module")
def x():
    return np.linspace(-110, 0, 300_000, dtype=np.float32).reshape(300, 1000)[:, ::-7]


@pytest.fixture(scope="module")
def want(x):
    p = csoftmax.softmax(x, 0)
    assert np.count_nonzero((p > 0) & (p < np.finfo(np.float32).tiny)) > 100
    return p.view("u4")


def test_torch_flushes(flushing):
    tiny = torch.tensor([1e-40])
    assert (tiny * 1.0).numpy().view("u4") == 0


def test_functions_of_numpy_arrays(x, want, flushing):
    got = csoftmax.softmax(x, 0)
    assert np.array_equal(got.view("u4"), want)


def test_operators_of_torch(x, want, flushing):
    got = ct.softmax(torch.from_numpy(x.copy()), 0)
    assert np.array_equal(got.numpy().view("u4"), want)


def test_gradients_of_torch(x):
    logits = torch.from_numpy(x.copy()).requires_grad_()
    upstream = torch.linspace(-1e-30, 1e-30, x.size).reshape(x.shape)

    def gradient():
        (found,) = torch.autograd.grad(ct.softmax(logits, 0), logits, upstream)
        return found.numpy().view("u4")

    expected = gradient()
    torch.set_flush_denormal(True)
    try:
        got = gradient()
    finally:
        torch.set_flush_denormal(False)
    assert np.array_equal(got, expected)


def test_inside_jax(x, want, flushing):
    """XLA's threads flush, whatever the caller's mode."""
    got = jax.jit(lambda a: cj.softmax(a, 0))(x)
    assert np.array_equal(np.asarray(got).view("u4"), want)


def test_inside_code_that_numba_compiled(x, want, flushing):
    @numba.njit
    def compiled(a):
        return cn.softmax(a, 0)

    assert np.array_equal(compiled(x).view("u4"), want)
