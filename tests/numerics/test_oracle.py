"""The reference itself: against mpmath at 50 digits, closed forms, and neighbouring numbers."""

import mpmath
import numpy as np
import oracle
import pytest
from arrays import FLOATS

LONG_DOUBLE_ERROR = 2.0**-60


def exact(x, temperature=1.0):
    """Probabilities, log-probabilities and logsumexp of a row in 50 digits, as wide floats."""
    with mpmath.workdps(50):
        scaled = [mpmath.mpf(float(v)) / mpmath.mpf(temperature) for v in x]
        total = mpmath.fsum(mpmath.exp(v) for v in scaled)
        logs = [v - mpmath.log(total) for v in scaled]

        def wide(values):
            return oracle.wide([mpmath.nstr(v, 30, min_fixed=0, max_fixed=0) for v in values])

        return wide([mpmath.exp(v) for v in logs]), wide(logs), wide([mpmath.log(total)])[0]


@pytest.mark.parametrize("temperature", [1.0, 0.25, 1.7])
@pytest.mark.parametrize("scale", [1, 20, 700])
def test_oracle_agrees_with_mpmath(scale, temperature, rng):
    for width in (1, 2, 5, 40):
        x = rng.standard_normal(width) * scale + rng.standard_normal()
        p, logs, total = exact(x, temperature)
        assert np.allclose(
            oracle.softmax(x, temperature=temperature), p, rtol=1e3 * LONG_DOUBLE_ERROR, atol=0
        )
        assert np.allclose(oracle.log_softmax(x, temperature=temperature), logs, rtol=1e-17, atol=1e-17)
        if temperature == 1:
            assert np.allclose(oracle.logsumexp(x), total, rtol=1e-17, atol=1e-17)


def product(matrix, vector):
    return (matrix * vector).sum(axis=-1)


def test_gradients_are_products_with_the_jacobian(rng):
    g, v, x = rng.standard_normal((3, 6))
    p, logs = oracle.softmax(x), oracle.log_softmax(x)
    jacobian = np.diag(p) - np.outer(p, p)
    assert np.allclose(oracle.softmax_jacobian(p), jacobian, rtol=0, atol=LONG_DOUBLE_ERROR)
    assert np.allclose(oracle.softmax_vjp(g, p), product(jacobian.T, g), rtol=0, atol=LONG_DOUBLE_ERROR)
    log_jacobian = np.eye(6) - p
    assert np.allclose(oracle.log_softmax_vjp(g, logs), product(log_jacobian.T, g), rtol=0, atol=LONG_DOUBLE_ERROR)
    assert np.allclose(oracle.log_softmax_jvp(v, logs), product(log_jacobian, v), rtol=0, atol=LONG_DOUBLE_ERROR)


def test_cross_entropy_of_uniform_logits():
    """Four classes: every log p is -log 4; the options then only weigh the rows."""
    log4 = np.log(oracle.wide(4))
    target = np.array([0, 1, -100])
    weight = np.array([1.0, 3.0, 1.0, 1.0])
    loss, grad, _ = oracle.cross_entropy(np.zeros((3, 4)), target, weight=weight, reduction="none")
    assert np.allclose(loss, [log4, 3 * log4, 0], rtol=1e-18, atol=0)
    want = np.array([[-0.75, 0.25, 0.25, 0.25], [0.75, -2.25, 0.75, 0.75], [0] * 4])
    assert np.allclose(grad, want, rtol=1e-18, atol=0)
    loss, grad, _ = oracle.cross_entropy(np.zeros((3, 4)), target, weight=weight)
    assert np.isclose(loss, log4, rtol=1e-18, atol=0)
    assert np.allclose(grad, want / 4, rtol=1e-18, atol=0)
    loss, grad, _ = oracle.cross_entropy(np.zeros((3, 4)), target, label_smoothing=1, reduction="sum")
    assert np.isclose(loss, 2 * log4, rtol=1e-18, atol=0)
    assert np.allclose(grad, 0, rtol=0, atol=1e-18)
    probabilities = np.array([[0.5, 0.5, 0, 0], [1, 0, 0, 0]])
    loss, grad, _ = oracle.cross_entropy(np.zeros((2, 4)), probabilities, weight=weight)
    assert np.isclose(loss, 1.5 * log4, rtol=1e-18, atol=0)
    assert np.allclose(grad[0], np.array([0, -1, 0.5, 0.5]) / 2, rtol=0, atol=1e-18)


@pytest.mark.parametrize("dtype", FLOATS)
def test_neighbours_are_one_ulp_apart_everywhere(dtype):
    bits = {"float16": np.uint16, "bfloat16": np.uint16, "float32": np.uint32, "float64": np.uint64}[dtype]
    one = int(np.ones(1, dtype).view(bits)[0])
    largest = int(np.full(1, np.inf, dtype).view(bits)[0]) - 1
    patterns = np.array([0, 1, 2, 1000, one - 1, one, one + 1, largest - 1], bits)
    numbers, next_up = patterns.view(dtype), (patterns + bits(1)).view(dtype)
    assert np.array_equal(oracle.ulp_error(next_up, numbers), np.ones(8))
    assert np.array_equal(oracle.ulp_error(-next_up, -numbers.astype(float)), np.ones(8))
    assert np.array_equal(oracle.ulp_error(numbers, numbers), np.zeros(8))


def test_ulp_error_of_special_values():
    nan, inf, top = np.nan, np.inf, float(np.finfo("float32").max)
    got = np.array([nan, nan, 1, inf, -inf, inf, 0, inf, top, inf], "float32")
    want = [nan, 1, nan, inf, inf, 1, 2.0**-149, top * 1.5, inf, 2.0**128]
    error = oracle.ulp_error(got, want)
    assert np.array_equal(error[[0, 3, 6, 7, 9]], [0, 0, 1, error[7], 0])
    assert np.isinf(error[[1, 2, 4, 8]]).all()
    assert error[5] > 1e6
    assert error[7] == 0


def test_logs_keep_their_digits_close_to_one():
    """log(1 + e^-60) is e^-60 to 26 digits, far below the rounding of 1."""
    tiny = np.exp(-oracle.wide(60))
    assert np.isclose(oracle.logsumexp([0.0, -60.0]), tiny, rtol=1e-18, atol=0)
    assert np.isclose(oracle.log_softmax([0.0, -60.0])[0], -tiny, rtol=1e-18, atol=0)
    assert np.isclose(oracle.cross_entropy(np.array([[0.0, -60.0]]), [0])[0], tiny, rtol=1e-18, atol=0)
