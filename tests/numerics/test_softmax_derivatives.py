"""softmax_backward, softmax_jvp, softmax_jacobian against the oracle, central differences and each other."""

import ml_dtypes
import mpmath
import numpy as np
import oracle
import pytest
from arrays import DTYPES, SHAPES, Guarded

import csoftmax

pytestmark = pytest.mark.usefixtures("isa")

OPERATORS = [csoftmax.softmax_backward, csoftmax.softmax_jvp]
MAX_ULP = 6  # of the terms of g - dot; NumPy's formula reaches 5.4


def pair(rng, shape, dtype, axis=-1):
    """A gradient and a softmax output, of `dtype`."""
    output = oracle.narrow(oracle.softmax(rng.standard_normal(shape) * 3, axis), dtype)
    return rng.standard_normal(shape).astype(dtype), output


def vjp_error(got, grad, output, axis=-1, temperature=1.0):
    """Error in ulps of p (|g| + sum(p |g|)) / temperature: the size of the terms that g - dot cancels."""
    p, size = oracle.wide(output), np.abs(oracle.wide(grad))
    dot = (p * size).sum(axis=oracle.axes_of(p.ndim, axis), keepdims=True)
    want = oracle.softmax_vjp(grad, output, axis, temperature)
    return oracle.max_ulp(got, want, scale=p * (size + dot) / temperature)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_width_at_several_memory_offsets(dtype, operator, rng):
    for width in range(1, 1101):
        grad, output = pair(rng, (3, width), dtype)
        want = operator(grad, output)
        assert vjp_error(want, grad, output) <= MAX_ULP, width
        for offset in (1, 6, 15):
            g = Guarded(grad.shape, dtype, offset, values=grad)
            p = Guarded(grad.shape, dtype, 16 - offset, values=output)
            out = Guarded(grad.shape, dtype, width % 16, fill=7)
            assert operator(g.array, p.array, out=out.array) is out.array
            assert np.array_equal(out.array, want), (width, offset)
            assert out.intact(), (width, offset)


@pytest.mark.parametrize("dtype", DTYPES)
def test_short_rows_are_the_same_alone_and_in_a_batch_of_any_size(dtype, rng):
    """Rows are taken in groups, and what is left in others: each within its own memory, in place too."""
    most = 41
    for width in [*range(1, 41), 64]:
        grad, output = pair(rng, (most, width), dtype)
        grad *= (10.0 ** rng.integers(-30, 8, grad.shape)).astype(dtype)
        grad[rng.random(grad.shape) < 0.1] = -0.0
        grad[3, 0], output[5, -1] = np.inf, np.nan
        want = np.stack([csoftmax.softmax_backward(g, p, temperature=0.7) for g, p in zip(grad, output, strict=True)])
        for rows in [*range(1, 20), 24, 31, 32, 33, most]:
            g, p, expected = grad[:rows], output[:rows], want[:rows].view(f"i{want.itemsize}")
            expected = np.where(np.isnan(want[:rows]), 0, expected)

            def same(got, expected=expected):
                return np.array_equal(np.where(np.isnan(got), 0, got.view(expected.dtype)), expected)

            apart = [Guarded((rows, width + 3), dtype, fill=7) for _ in range(3)]
            views = [guarded.array[:, 1 : width + 1] for guarded in apart]
            views[0][...], views[1][...] = g, p
            csoftmax.softmax_backward(views[0], views[1], temperature=0.7, out=views[2])
            assert same(np.ascontiguousarray(views[2])), (width, rows)
            views[2][...] = 7
            assert (apart[2].memory == 7).all(), (width, rows)
            for offset in (0, 5):
                left = Guarded(g.shape, dtype, offset, values=g)
                right = Guarded(g.shape, dtype, offset, values=p)
                out = Guarded(g.shape, dtype, offset, fill=7)
                csoftmax.softmax_backward(left.array, right.array, temperature=0.7, out=out.array)
                assert same(out.array), (width, rows, offset)
                assert out.intact(), (width, rows, offset)
                csoftmax.softmax_backward(left.array, p, temperature=0.7, out=left.array)
                csoftmax.softmax_backward(g, right.array, temperature=0.7, out=right.array)
                assert same(left.array), (width, rows, offset)
                assert same(right.array), (width, rows, offset)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_column_count_where_the_axis_is_not_the_last(dtype, operator, rng):
    for classes in (1, 2, 7, 33):
        for columns in [*range(1, 70), 127, 128, 129, 257]:
            grad, output = pair(rng, (2, classes, columns), dtype, axis=1)
            assert vjp_error(operator(grad, output, 1), grad, output, 1) <= MAX_ULP, (classes, columns)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("shape", [(2, 200_003), (1, 1_000_003)], ids=str)
def test_errors_of_a_long_dot_product_do_not_add_up(operator, shape):
    """Of numbers that repeat, every block rounds alike. Rows, blocks of one row, and columns."""
    grad, output = np.full(shape, 0.1), np.full(shape, 0.7)
    assert vjp_error(operator(grad, output), grad, output) <= MAX_ULP
    columns = operator(grad.T.copy(), output.T.copy(), 0)
    assert np.array_equal(columns, operator(grad, output).T)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("width", [33, 64, 65, 127, 1000, 1025, 3001, 70_001])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_dot_product_that_cancels_keeps_its_digits(dtype, width, operator, rng):
    """What is left of it has the error of its own size, not of the terms': where it is 0, none."""
    output = np.tile(rng.uniform(0.5, 1, (3, (width + 1) // 2)).astype(dtype), 2)[:, :width]
    half = rng.standard_normal((3, (width + 1) // 2)).astype(dtype) * 1000
    grad = np.concatenate([half, -half], axis=1)[:, :width]
    dots = [mpmath.fdot(g.tolist(), p.tolist()) for g, p in zip(grad, output, strict=True)]
    dot = oracle.wide([[float(d)] for d in dots]) + oracle.wide([[float(d - float(d))] for d in dots])
    want = oracle.wide(output) * (oracle.wide(grad) - dot)
    scale = output * np.maximum(np.abs(grad), np.abs(dot))
    assert oracle.max_ulp(operator(grad, output), want, scale=scale) <= 3
    columns = operator(np.ascontiguousarray(grad.T), np.ascontiguousarray(output.T), 0)
    assert np.array_equal(columns.T, operator(grad, output))


DERIVATIVES = [*OPERATORS, csoftmax.log_softmax_backward, csoftmax.log_softmax_jvp]


@pytest.mark.parametrize("operator", DERIVATIVES)
@pytest.mark.parametrize("columns", [5, 4096])
@pytest.mark.parametrize("dtype", DTYPES)
def test_terms_of_different_blocks_cancel_alike_in_rows_and_columns(dtype, columns, operator):
    """2**60 + 1 - 2**60, each in another block: what joining the blocks rounds off is kept."""
    grad, output = np.zeros((1, 3072), dtype), np.ones((1, 3072), dtype)
    if operator not in OPERATORS:
        output[:] = 0  # log p
    grad[0, 0], grad[0, 1024], grad[0, 2048] = 2.0**60, 1, -(2.0**60)
    rows = operator(grad, output)
    assert rows[0, 1] == -1
    assert np.array_equal(operator(grad.T.repeat(columns, 1), output.T.repeat(columns, 1), 0)[:, -1], rows[0])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_axis(dtype, shape, rng):
    ndim = len(shape)
    tuples = [tuple(range(k)) for k in range(ndim + 1)] + [tuple(range(ndim))[::2]]
    for axis in [None, *range(-ndim, ndim), *tuples]:
        grad, output = pair(rng, shape, dtype, axis)
        for operator in OPERATORS:
            assert vjp_error(operator(grad, output, axis), grad, output, axis) <= MAX_ULP, axis


@pytest.mark.parametrize("temperature", [0.25, 1.0, 3.7])
@pytest.mark.parametrize("axis", [0, 1, (0, 2), None])
def test_backward_and_jvp_agree_with_central_differences(axis, temperature, rng):
    x, g, v = rng.standard_normal((3, 4, 5, 6))
    h = 1e-6

    def f(x):
        return csoftmax.softmax(x, axis, temperature=temperature)

    slope = (f(x + h * v) - f(x - h * v)) / (2 * h)
    p = f(x)
    assert np.allclose(csoftmax.softmax_jvp(v, p, axis, temperature=temperature), slope, rtol=0, atol=1e-8)
    back = csoftmax.softmax_backward(g, p, axis, temperature=temperature)
    assert np.isclose((back * v).sum(), (g * slope).sum(), rtol=0, atol=1e-8)
    numeric = np.empty_like(x)
    for i in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[i] = h
        numeric[i] = (g * (f(x + step) - f(x - step))).sum() / (2 * h)
    assert np.allclose(back, numeric, rtol=0, atol=1e-8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [0.1, 2.5])
def test_gradients_carry_the_inverse_temperature(dtype, temperature, rng):
    grad, output = pair(rng, (5, 33), dtype)
    for operator in OPERATORS:
        got = operator(grad, output, temperature=temperature)
        assert vjp_error(got, grad, output, temperature=temperature) <= MAX_ULP + 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 2, 3, 10, 17, 64, 130])
def test_jacobian_is_diag_p_minus_p_pt(dtype, width, rng):
    _, p = pair(rng, (4, width), dtype)
    jacobian = csoftmax.softmax_jacobian(p)
    want = oracle.softmax_jacobian(p)
    scale = np.abs(want) + np.eye(width) * oracle.wide(p)[..., None]
    assert oracle.max_ulp(jacobian, want, scale) <= 1
    assert jacobian.dtype == dtype
    assert np.array_equal(jacobian, np.swapaxes(jacobian, -1, -2))


@pytest.mark.parametrize("axis", [-4, -3, -2, -1, 0, 1, 2, 3])
def test_jacobian_replaces_its_axis_by_two_trailing_ones(axis, rng):
    _, p = pair(rng, (2, 3, 4, 5), "float64", axis)
    jacobian = csoftmax.softmax_jacobian(p, axis)
    assert np.allclose(jacobian, oracle.softmax_jacobian(p, axis).astype(float), rtol=1e-14, atol=0)
    out = np.full_like(jacobian, 7)
    assert csoftmax.softmax_jacobian(p, axis, out=out) is out
    assert np.array_equal(out, jacobian)


@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("dtype", DTYPES)
def test_jacobian_may_overlap_its_input(dtype, rows, rng):
    """Wherever the rows lie in the result, at its end too, and whether or not they are read where they lie."""
    size = rows * 5
    for first in (0, 3, size * 2, size * 4):
        for view in (lambda p: p, lambda p: p[::-1, ::-1], lambda p: p[:, ::-1]):
            memory = rng.random(size * 5).astype(dtype)
            p = view(memory[first : first + size].reshape(rows, 5))
            want = csoftmax.softmax_jacobian(p.copy())
            out = memory.reshape(rows, 5, 5)
            assert csoftmax.softmax_jacobian(p, out=out) is out
            assert np.array_equal(out, want), first


def test_jacobian_times_vector_is_the_jvp(rng):
    v, p = pair(rng, (6, 40), "float64")
    product = (csoftmax.softmax_jacobian(p) @ v[..., None])[..., 0]
    assert np.allclose(product, csoftmax.softmax_jvp(v, p), rtol=0, atol=1e-15)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("dtype", DTYPES)
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


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_array_as_gradient_output_and_result(dtype, rng):
    _, p = pair(rng, (5, 33), dtype)
    want = csoftmax.softmax_backward(p.copy(), p.copy())
    assert np.array_equal(csoftmax.softmax_backward(p, p, out=p), want)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_near_the_smallest_normal_number_keep_their_digits(dtype, operator, rng):
    smallest = np.finfo(dtype).smallest_normal
    for width in (1, 3, 40, 1100):
        for factor in (1, 64, 4096):
            grad, output = pair(rng, (4, width), dtype)
            grad *= smallest * np.asarray(factor, dtype)
            assert vjp_error(operator(grad, output), grad, output) <= MAX_ULP, (width, factor)


@pytest.mark.parametrize("axis", [-1, 0])
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("temperature", [1e-4, 0.01, 100, 1e4])
@pytest.mark.parametrize("dtype", DTYPES)
def test_temperature_spares_subnormal_probabilities_a_rounding(dtype, temperature, operator, axis, rng):
    normal, subnormal = np.log([np.finfo(dtype).smallest_normal, np.finfo(dtype).smallest_subnormal])
    for width in (4, 40, 300):
        logits = np.zeros((5, width))
        logits[:, 1:] = rng.uniform(subnormal + 1, normal + 10, (5, width - 1))
        output, grad = oracle.narrow(oracle.softmax(logits), dtype), rng.standard_normal((5, width)).astype(dtype)
        if axis == 0:
            output, grad = output.T.copy(), grad.T.copy()
        got = operator(grad, output, axis, temperature=temperature)
        assert vjp_error(got, grad, output, axis, temperature) <= MAX_ULP + 1, width


@pytest.mark.parametrize("width", [65, 100, 1000, 3000])
def test_means_of_the_largest_gradients_stay_finite(width, rng):
    output = csoftmax.softmax((rng.standard_normal((300, width)) * 2).astype("float32"))
    largest = np.full(output.shape, np.finfo("float32").max)
    with np.errstate(all="raise"):
        assert np.isfinite(csoftmax.softmax_backward(largest, output)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradient_of_a_saturated_row_is_zero(dtype, rng):
    grad = (rng.standard_normal((3, 50)) * 1e3).astype(dtype)
    output = np.zeros((3, 50), dtype)
    output[:, 7] = 1
    assert not csoftmax.softmax_backward(grad, output).any()
    assert not csoftmax.softmax_backward(grad, output, temperature=1e-300).any()


def test_gradient_type_is_that_of_both_inputs_promoted(rng):
    grad, output = pair(rng, (3, 10), "float64")
    single = csoftmax.softmax_backward(grad.astype("float32"), output.astype("float32"))
    mixed = csoftmax.softmax_backward(grad.astype("float32"), output)
    integer = csoftmax.softmax_backward(np.arange(30).reshape(3, 10), output)
    assert (single.dtype, mixed.dtype, integer.dtype) == (np.float32, np.float64, np.float64)
    assert vjp_error(mixed, grad.astype("float32"), output) <= MAX_ULP
    assert vjp_error(integer, np.arange(30).reshape(3, 10), output) <= MAX_ULP


# ------------------------------------------------------ dot products beyond the largest number

LARGE_TYPES = [*DTYPES, "bfloat16"]
LARGE_WIDTHS = [2, 3, 10, 17, 33, 64, 65, 130, 1025, 5000]
# Without FMA, what a product near the largest number is rounded by is not known: the dot product has a double's digits.
LARGE_ULP = 8
LESS = 100  # powers of two by which the oracle's gradients are smaller: long double holds their sum whatever its type


def bits(a):
    """Its numbers as integers, NaN of one kind."""
    a = np.where(np.isnan(a), np.asarray(np.nan, a.dtype), a)
    return np.ascontiguousarray(a).view(f"u{a.itemsize}")


def large_gradients(rng, shape, dtype, operator):
    """By name: gradients up to the largest number.

    Known limit: in rows of up to 64 softmax_backward does not look whether its dot product is finite, which it may not
    be if all gradients are within rounding of the largest number and the probabilities add up to more than 1.
    """
    largest = ml_dtypes.finfo(dtype).max
    if operator in OPERATORS and shape[-1] <= 64:
        largest = np.asarray(float(largest) * 0.9).astype(dtype)
    ordinary = rng.standard_normal(shape).astype(dtype)
    one = ordinary.copy()
    one[..., shape[-1] // 2] = largest
    some = np.where(rng.random((*shape[:-1], 1)) < 0.5, largest, ordinary)
    signs = np.where(np.arange(shape[-1]) % 2, -1, 1).astype(dtype)
    return {
        "constant": np.full(shape, largest, dtype),
        "alternating": np.broadcast_to(signs * largest, shape).astype(dtype),
        "one": one,
        "some rows": some.astype(dtype),
        "a quarter": rng.uniform(-0.25, 0.25, shape).astype(dtype) * largest,
    }


def outputs(operator, rng, shape, dtype):
    forward = oracle.softmax if operator in OPERATORS else oracle.log_softmax
    return oracle.narrow(forward(rng.standard_normal(shape) * 3), dtype)


def large_error(operator, got, grad, output, temperature=1.0, where=None):
    """Error in ulps of the largest term that a result is the difference of."""
    reference = {
        csoftmax.log_softmax_backward: oracle.log_softmax_vjp,
        csoftmax.log_softmax_jvp: oracle.log_softmax_jvp,
    }.get(operator, oracle.softmax_vjp)
    small = np.ldexp(oracle.wide(grad), -LESS)
    size = np.abs(small if where is None else np.where(where, small, 0))
    want = reference(small, output, -1, temperature, where)
    p = oracle.wide(output) if operator in OPERATORS else np.exp(oracle.wide(output))
    p = p if where is None else np.where(where, p, 0)
    if operator is csoftmax.log_softmax_backward:
        terms = size + p * size.sum(axis=-1, keepdims=True)
    else:
        terms = size + (p * size).sum(axis=-1, keepdims=True)
        terms = p * terms if operator in OPERATORS else terms
    return oracle.max_ulp(got, np.ldexp(want, LESS), scale=np.ldexp(terms / temperature, LESS))


@pytest.mark.parametrize("temperature", [1.0, 0.3, 3.0])
@pytest.mark.parametrize("dtype", LARGE_TYPES)
@pytest.mark.parametrize("operator", DERIVATIVES)
def test_gradients_are_finite_although_their_dot_product_is_not(operator, dtype, temperature, rng):
    """Rows, each of them alone, and columns: with the same bits."""
    for width in LARGE_WIDTHS:
        output = outputs(operator, rng, (19, width), dtype)
        for name, grad in large_gradients(rng, output.shape, dtype, operator).items():
            got = operator(grad, output, temperature=temperature)
            assert large_error(operator, got, grad, output, temperature) <= LARGE_ULP, (width, name)
            alone = [operator(g, p, temperature=temperature) for g, p in zip(grad, output, strict=True)]
            assert np.array_equal(bits(np.stack(alone)), bits(got)), (width, name)
            columns = operator(grad.T.copy(), output.T.copy(), 0, temperature=temperature)
            assert np.array_equal(bits(columns.T), bits(got)), (width, name)
            strided = operator(grad[:, ::-1], output[:, ::-1], temperature=temperature)
            assert large_error(operator, strided, grad[:, ::-1], output[:, ::-1], temperature) <= LARGE_ULP


@pytest.mark.parametrize("axis", [-1, 0])
@pytest.mark.parametrize("dtype", LARGE_TYPES)
@pytest.mark.parametrize("operator", DERIVATIVES)
def test_results_of_large_gradients_may_replace_either_input(operator, dtype, axis, rng):
    for width in LARGE_WIDTHS:
        output = outputs(operator, rng, (19, width), dtype)
        for name, grad in large_gradients(rng, output.shape, dtype, operator).items():
            want = operator(grad, output)
            for first in (True, False):
                g, p = (np.array(a if axis == -1 else a.T, order="C") for a in (grad, output))
                got = operator(g, p, axis, out=g if first else p)
                assert np.array_equal(bits(got if axis == -1 else got.T), bits(want)), (width, name, first)


@pytest.mark.parametrize("dtype", LARGE_TYPES)
@pytest.mark.parametrize("operator", DERIVATIVES)
def test_large_gradients_under_a_mask(operator, dtype, rng):
    for width in LARGE_WIDTHS:
        output = outputs(operator, rng, (7, width), dtype)
        where = rng.random(output.shape) < 0.7
        for name, grad in large_gradients(rng, output.shape, dtype, operator).items():
            got = operator(grad, output, where=where)
            assert large_error(operator, got, grad, output, where=where) <= LARGE_ULP, (width, name)
            columns = operator(grad.T.copy(), output.T.copy(), 0, where=where.T.copy())
            assert np.array_equal(bits(columns.T), bits(got)), (width, name)


@pytest.mark.parametrize("dtype", LARGE_TYPES)
@pytest.mark.parametrize("operator", DERIVATIVES)
def test_large_gradients_of_a_row_that_threads_share(operator, dtype, rng):
    output = outputs(operator, rng, (1, 300_001), dtype)
    for name, grad in large_gradients(rng, output.shape, dtype, operator).items():
        want = operator(np.repeat(grad, 2, 0), np.repeat(output, 2, 0))[:1]
        assert large_error(operator, want, grad, output) <= LARGE_ULP, name
        with csoftmax.threads(2):
            assert np.array_equal(bits(operator(grad, output)), bits(want)), name
            g, p = grad.copy(), output.copy()
            assert np.array_equal(bits(operator(g, output, out=g)), bits(want)), name
            assert np.array_equal(bits(operator(grad, p, out=p)), bits(want)), name


@pytest.mark.parametrize("dtype", LARGE_TYPES)
@pytest.mark.parametrize("operator", DERIVATIVES)
def test_nan_and_infinities_among_the_largest_gradients_show_as_among_small_ones(operator, dtype, rng):
    for width in (2, 3, 10, 33, 65, 130, 1025):
        positions = range(width) if width < 200 else [0, 1, 511, 512, 1023, 1024]
        output = outputs(operator, rng, (len(positions), width), dtype)
        for value in (np.nan, np.inf, -np.inf):
            # all of one sign, lest infinities of both come together in the sum
            small = np.full(output.shape, np.copysign(1, value), dtype)
            large = small * np.asarray(float(ml_dtypes.finfo(dtype).max) * 0.9).astype(dtype)
            for row, position in enumerate(positions):
                large[row, position] = small[row, position] = value
            for g, p, axis in ((large, output, -1), (large.T.copy(), output.T.copy(), 0)):
                got = operator(g, p, axis)
                got = got if axis == -1 else got.T
                want = operator(small, output)
                assert np.array_equal(np.isnan(got), np.isnan(want)), (width, value, axis)
                assert np.array_equal(np.isposinf(got), np.isposinf(want)), (width, value, axis)
                assert np.array_equal(np.isneginf(got), np.isneginf(want)), (width, value, axis)


@pytest.mark.parametrize("operator", DERIVATIVES)
def test_small_gradients_beside_the_largest_keep_their_digits(operator):
    """Of a class of probability 0, log_softmax's is the gradient itself, be its sum infinite."""
    output = np.array([[0.5, 0.5, 0, 0]])
    grad = np.array([[1.7e308, 1.7e308, 1.2345e-305, -1e-320]])
    if operator not in OPERATORS:
        with np.errstate(divide="ignore"):
            output = np.log(output)
    got = operator(grad, output)
    assert np.isfinite(got).all()
    if operator is csoftmax.log_softmax_backward:
        assert np.array_equal(got[0, 2:], grad[0, 2:])
