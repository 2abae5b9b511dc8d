"""log_softmax, its backward and its jvp against the oracle and central differences."""

import numpy as np
import oracle
import pytest
from arrays import FLOATS, MAX_ULP, SHAPES, Guarded, exact_differences, widths

import csoftmax

pytestmark = pytest.mark.usefixtures("isa")

OPERATORS = {
    csoftmax.log_softmax_backward: oracle.log_softmax_vjp,
    csoftmax.log_softmax_jvp: oracle.log_softmax_jvp,
}


def value_error(got, x, axis=-1):
    return oracle.max_ulp(got, oracle.log_softmax(x, axis))


def gradient_error(operator, vector, output, axis=-1, temperature=1.0):
    """Error of the operator's result in ulps of the sum of the two terms that it subtracts."""
    got = operator(vector, output, axis, temperature=temperature)
    reference = OPERATORS[operator]
    want = reference(vector, output, axis, temperature)
    size = np.abs(oracle.wide(vector))
    scale = 2 * size / temperature - reference(size, output, axis, temperature)
    return oracle.max_ulp(got, want, scale)


def pair(rng, shape, dtype, axis=-1):
    """A gradient and a log_softmax output, of `dtype`."""
    output = oracle.narrow(oracle.log_softmax(rng.standard_normal(shape) * 3, axis), dtype)
    return rng.standard_normal(shape).astype(dtype), output


@pytest.mark.parametrize("dtype", FLOATS)
def test_every_width_at_several_memory_offsets(dtype, rng):
    for width in widths(dtype):
        x = exact_differences(rng, (3, width), dtype)
        want = csoftmax.log_softmax(x)
        assert value_error(want, x) <= MAX_ULP[dtype], width
        for offset in (1, 6):
            source = Guarded(x.shape, dtype, offset, values=x)
            out = Guarded(x.shape, dtype, offset + width % 5, fill=7)
            assert csoftmax.log_softmax(source.array, out=out.array) is out.array
            assert np.array_equal(out.array, want), (width, offset)
            assert out.intact(), (width, offset)


@pytest.mark.parametrize("dtype", FLOATS)
def test_every_column_count_where_the_axis_is_not_the_last(dtype, rng):
    for classes in (1, 2, 7, 33):
        for columns in [*range(1, 70), 127, 128, 129, 1025]:
            x = exact_differences(rng, (2, classes, columns), dtype)
            assert value_error(csoftmax.log_softmax(x, 1), x, 1) <= MAX_ULP[dtype], (classes, columns)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", FLOATS)
def test_every_axis(dtype, shape, rng):
    ndim = len(shape)
    tuples = [tuple(range(k)) for k in range(ndim + 1)] + [tuple(range(ndim))[::2]]
    for axis in [None, *range(-ndim, ndim), *tuples]:
        x = exact_differences(rng, shape, dtype)
        assert value_error(csoftmax.log_softmax(x, axis), x, axis) <= MAX_ULP[dtype], axis
        for operator in OPERATORS:
            assert gradient_error(operator, *pair(rng, shape, dtype, axis), axis) <= MAX_ULP[dtype], axis


@pytest.mark.parametrize("dtype", FLOATS)
def test_log_probabilities_far_below_the_smallest_number(dtype):
    info = {"float16": 6e4, "bfloat16": 3e38, "float32": 3e38, "float64": 1e308}[dtype]
    x = np.array([[0, -info / 2, -200, -info], [info, 0, 1, -info]], dtype)
    assert value_error(csoftmax.log_softmax(x), x) <= MAX_ULP[dtype]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_it_is_the_shift_less_the_log_of_the_sum_and_not_x_less_logsumexp(dtype):
    """At an offset of 2^20 subtracting a rounded logsumexp would lose 20 bits."""
    x = np.array([[0, -1, -2, -3]], dtype) + np.asarray(2**20, dtype)
    assert value_error(csoftmax.log_softmax(x), x) <= MAX_ULP[dtype]


@pytest.mark.parametrize("axis", [-1, 0])
def test_the_logarithm_of_a_sum_is_not_rounded_before_it_is_subtracted(axis, rng):
    for width in (1000, 3000):
        x = rng.integers(-2, 3, (400, width)).astype(float)
        x = x if axis else x.T
        assert value_error(csoftmax.log_softmax(x, axis), x, axis) <= 0.77, width


def test_errors_of_a_long_sum_of_exponentials_do_not_add_up():
    """Of numbers that repeat, every block rounds alike."""
    x = np.resize([0.0, -0.3], 1_000_003)
    got = csoftmax.log_softmax(x)
    assert value_error(got, x) <= MAX_ULP["float64"]
    assert oracle.max_ulp(csoftmax.logsumexp(x), oracle.logsumexp(x)) <= MAX_ULP["float64"]
    columns = np.stack([x, x], axis=1)
    assert np.array_equal(csoftmax.log_softmax(columns, 0), np.stack([got, got], axis=1))


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_gradient_at_every_width(dtype, operator, rng):
    for width in widths(dtype):
        grad, output = pair(rng, (2, width), dtype)
        assert gradient_error(operator, grad, output) <= MAX_ULP[dtype], width
        want = operator(grad, output)
        g = Guarded(grad.shape, dtype, width % 7, values=grad)
        p = Guarded(grad.shape, dtype, width % 16, values=output)
        out = Guarded(grad.shape, dtype, width % 5, fill=7)
        assert operator(g.array, p.array, out=out.array) is out.array
        assert np.array_equal(out.array, want), width
        assert out.intact(), width


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_gradient_of_a_row_that_is_worked_on_by_blocks(dtype, operator, rng):
    grad, output = pair(rng, 300_001, dtype)
    assert gradient_error(operator, grad, output) <= MAX_ULP[dtype]
    with csoftmax.threads(3):
        assert np.array_equal(operator(grad, output), operator(grad, output, out=grad))


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("shape", [(2, 200_003), (1, 1_000_003)], ids=str)
def test_errors_of_a_long_sum_do_not_add_up(operator, shape):
    """Of numbers that repeat, every block rounds alike. Rows, blocks of one row, and columns."""
    grad, output = np.full(shape, 0.1), np.full(shape, -0.7)
    assert gradient_error(operator, grad, output) <= MAX_ULP["float64"]
    columns = operator(grad.T.copy(), output.T.copy(), 0)
    assert np.array_equal(columns, operator(grad, output).T)


@pytest.mark.parametrize("temperature", [0.25, 1.0, 3.7])
@pytest.mark.parametrize("axis", [0, 1, (0, 2), None])
def test_backward_and_jvp_agree_with_central_differences(axis, temperature, rng):
    x, g, v = rng.standard_normal((3, 4, 5, 6))
    h = 1e-6

    def f(x):
        return csoftmax.log_softmax(x, axis, temperature=temperature)

    slope = (f(x + h * v) - f(x - h * v)) / (2 * h)
    assert np.allclose(
        csoftmax.log_softmax_jvp(v, f(x), axis, temperature=temperature), slope, rtol=0, atol=1e-8
    )
    numeric = np.empty_like(x)
    for i in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[i] = h
        numeric[i] = (g * (f(x + step) - f(x - step))).sum() / (2 * h)
    back = csoftmax.log_softmax_backward(g, f(x), axis, temperature=temperature)
    assert np.allclose(back, numeric, rtol=0, atol=1e-7)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("temperature", [0.1, 2.5])
def test_gradients_carry_the_inverse_temperature(dtype, temperature, operator, rng):
    grad, output = pair(rng, (5, 33), dtype)
    assert gradient_error(operator, grad, output, temperature=temperature) <= MAX_ULP[dtype] + 1


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_near_the_smallest_normal_number_keep_their_digits(dtype, operator, rng):
    smallest = np.finfo(dtype).smallest_normal
    for width in (1, 3, 40, 1100):
        for factor in (1, 64, 4096):
            grad, output = pair(rng, (4, width), dtype)
            grad *= smallest * np.asarray(factor, dtype)
            assert gradient_error(operator, grad, output) <= MAX_ULP[dtype], (width, factor)


@pytest.mark.parametrize("axis", [-1, 0])
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_an_element_of_log_probability_minus_infinity_keeps_its_gradient(dtype, operator, axis, rng):
    for width in (2, 3, 4, 10, 17, 33, 64, 65, 130, 1025, 4097, 9000):
        grad, output = pair(rng, (5, width), dtype)
        output[rng.random((5, width)) < 0.5] = -np.inf
        output[:, 0] = -np.inf
        if axis == 0:
            grad, output = grad.T.copy(), output.T.copy()
        got = operator(grad, output, axis)
        assert np.isfinite(got).all()
        assert gradient_error(operator, grad, output, axis) <= MAX_ULP[dtype] + 1, width
        if operator is csoftmax.log_softmax_backward:
            assert np.array_equal(got[output == -np.inf], grad[output == -np.inf])


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("rows", [1, 3])
def test_minus_infinities_of_a_long_row_keep_their_gradients(operator, rows, rng):
    grad, output = pair(rng, (rows, 300_001), "float32")
    output[:, ::7] = -np.inf
    assert gradient_error(operator, grad, output) <= MAX_ULP["float32"]


def test_gradients_at_minus_infinity_are_those_of_the_loss(rng):
    """cross_entropy_with_grad in one step, and log_softmax_backward in two."""
    x = rng.standard_normal((6, 9))
    x[:, ::3] = -np.inf
    q = rng.random((6, 9))
    gradient = csoftmax.cross_entropy_with_grad(x, q, reduction="sum")[1]
    assert np.allclose(csoftmax.log_softmax_backward(-q, csoftmax.log_softmax(x)), gradient, rtol=0, atol=1e-15)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("axis", [0, 1])
def test_out_may_be_either_input(dtype, operator, axis, rng):
    for shape in ((7, 9), (40, 3), (3, 1000), (200, 70)):
        grad, output = pair(rng, shape, dtype, axis)
        want = operator(grad, output, axis)
        g, p = grad.copy(), output.copy()
        assert operator(g, output, axis, out=g) is g
        assert operator(grad, p, axis, out=p) is p
        assert np.array_equal(g, want)
        assert np.array_equal(p, want)


@pytest.mark.parametrize("dtype", FLOATS)
def test_two_classes_are_the_log_of_the_sigmoid(dtype):
    for size in (1.0, 30.0, 1e4):
        x = np.zeros((101, 2), dtype)
        x[:, 0] = (np.linspace(-1, 1, 101) * size).astype(dtype)
        want = -np.logaddexp(0, -oracle.wide(x[:, 0]))
        got = csoftmax.log_softmax(x)[:, 0]
        assert oracle.max_ulp(got, want) <= MAX_ULP[dtype]
