"""What a wheel is tried with where the packages that the tests need have none: every operation, at every level.

    python tests/smoke.py
"""

import numpy as np

import csoftmax


def expected(x, axis):
    """softmax and log_softmax by NumPy's formulas, in double."""
    shifted = x.astype("float64") - x.max(axis=axis, keepdims=True)
    total = np.exp(shifted).sum(axis=axis, keepdims=True)
    return np.exp(shifted) / total, shifted - np.log(total)


def try_arrays(dtype, shape, axis):
    """All operations on an array, its results within 1e-5 of the formulas'."""
    x, g = np.random.default_rng(0).standard_normal((2, *shape)).astype(dtype)
    p, logs = expected(x, axis)
    target = np.arange(x.size // shape[axis]).reshape(np.delete(shape, axis)) % shape[axis]
    loss = -np.take_along_axis(logs, np.expand_dims(target, axis), axis)

    def dot(a, b):
        return (a * b).sum(axis=axis, keepdims=True)

    for got, want in (
        (csoftmax.softmax(x, axis), p),
        (csoftmax.log_softmax(x, axis), logs),
        (csoftmax.logsumexp(x, axis, keepdims=True), np.log(np.exp(x.astype("f8")).sum(axis, keepdims=True))),
        (csoftmax.softmax_backward(g, p.astype(dtype), axis), p * (g - dot(p, g))),
        (csoftmax.log_softmax_backward(g, logs.astype(dtype), axis), g - p * g.sum(axis, keepdims=True)),
        (csoftmax.log_softmax_jvp(g, logs.astype(dtype), axis), g - dot(p, g)),
        (csoftmax.cross_entropy(x, target, axis, reduction="none"), loss.squeeze(axis)),
        (csoftmax.cross_entropy_with_grad(x, target, axis, reduction="sum")[0], loss.sum()),
    ):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-5)


def main():
    csoftmax.show_runtime()
    for level in csoftmax.runtime_info()["isa"]["supported"]:
        for threads in (1, 2):
            with csoftmax.use_isa(level), csoftmax.threads(threads):
                for dtype in ("float32", "float64"):
                    for shape in ((3, 5), (40, 33), (2, 70_001), (300, 1000)):
                        try_arrays(dtype, shape, -1)
                        try_arrays(dtype, shape, 0)
    print("all operations are right")


if __name__ == "__main__":
    main()
