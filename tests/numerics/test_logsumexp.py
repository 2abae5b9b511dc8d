"""logsumexp: values, axes, keepdims, layouts and `out` against the oracle."""

import itertools

import numpy as np
import oracle
import pytest
from arrays import BROADCAST_LAYOUTS, FLOATS, LAYOUTS, MAX_ULP, SHAPES, Guarded, exact_differences, widths

import csoftmax

pytestmark = pytest.mark.usefixtures("isa")


def error(got, x, axis=-1, keepdims=False):
    """Error in ulps of the maximum or the result, whichever is larger: the rest may cancel the maximum."""
    want = oracle.logsumexp(x, axis, keepdims=keepdims)
    top = np.max(oracle.wide(x), axis=oracle.axes_of(np.ndim(x), axis), keepdims=keepdims, initial=-np.inf)
    return oracle.max_ulp(got, want, np.maximum(np.abs(top), np.abs(want)))


@pytest.mark.parametrize("dtype", FLOATS)
def test_every_width_at_several_memory_offsets(dtype, rng):
    for width in widths(dtype):
        x = exact_differences(rng, (3, width), dtype)
        want = csoftmax.logsumexp(x)
        assert error(want, x) <= MAX_ULP[dtype], width
        for offset in (1, 6):
            source = Guarded(x.shape, dtype, offset, values=x)
            out = Guarded((3,), dtype, offset, fill=7)
            assert csoftmax.logsumexp(source.array, out=out.array) is out.array
            assert np.array_equal(out.array, want), (width, offset)
            assert out.intact(), (width, offset)


@pytest.mark.parametrize("dtype", FLOATS)
def test_every_column_count_where_the_axis_is_not_the_last(dtype, rng):
    for classes in (1, 2, 7, 33):
        for columns in [*range(1, 70), 127, 128, 129, 1025]:
            x = exact_differences(rng, (2, classes, columns), dtype)
            assert error(csoftmax.logsumexp(x, 1), x, 1) <= MAX_ULP[dtype], (classes, columns)


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", FLOATS)
def test_every_axis_and_every_tuple_of_axes(dtype, shape, keepdims, rng):
    ndim = len(shape)
    axes = [None, *range(-ndim, ndim)] if ndim else [None, 0, -1]
    for size in range(ndim + 1):
        axes += itertools.combinations(range(ndim), size)
    for order in "CF":
        x = np.asarray(exact_differences(rng, shape, dtype), order=order)
        for axis in axes:
            got = csoftmax.logsumexp(x, axis, keepdims=keepdims)
            assert np.asarray(got).dtype == dtype
            assert error(got, x, axis, keepdims) <= MAX_ULP[dtype], axis
            out = np.zeros(np.shape(got), dtype)
            assert csoftmax.logsumexp(x, axis, keepdims=keepdims, out=out) is out
            assert np.array_equal(out, got)


@pytest.mark.parametrize("layout", LAYOUTS | BROADCAST_LAYOUTS)
def test_input_of_every_layout(layout, rng):
    for shape in ((3, 5, 7), (2, 37, 3), (5, 4, 70)):
        x = (LAYOUTS | BROADCAST_LAYOUTS)[layout](exact_differences(rng, shape, "float32"))
        before = np.array(x)
        for axis in (0, 1, 2, (0, 1), (2, 0), None):
            assert error(csoftmax.logsumexp(x, axis), before, axis) <= MAX_ULP["float32"], (shape, axis)
        assert np.array_equal(x, before)


def test_strided_out_and_out_within_the_input(rng):
    x = rng.standard_normal((6, 5))
    want = csoftmax.logsumexp(x)
    out = np.full(13, 7.0)
    csoftmax.logsumexp(x, out=out[12:0:-2])
    assert np.array_equal(out[12:0:-2], want)
    assert (out[1::2] == 7).all()
    y = x.copy()
    assert np.array_equal(csoftmax.logsumexp(y, out=y[:, 2]), want)
    y = x.copy()
    assert np.array_equal(csoftmax.logsumexp(y, out=y.ravel()[3:9]), want)


@pytest.mark.parametrize("shape", [(5,), (6, 1), (1, 6), ()], ids=str)
def test_out_of_the_wrong_shape(shape):
    out = np.full(shape, 7.0)
    with pytest.raises(ValueError, match=r"\(6,\)"):
        csoftmax.logsumexp(np.zeros((6, 5)), out=out)
    assert (out == 7).all()


def test_out_of_the_wrong_type_or_read_only():
    with pytest.raises(TypeError, match="float32"):
        csoftmax.logsumexp(np.zeros((6, 5)), out=np.zeros(6, "float32"))
    out = np.full(6, 7.0)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        csoftmax.logsumexp(np.zeros((6, 5)), out=out)
    with pytest.raises(TypeError, match="list"):
        csoftmax.logsumexp(np.zeros((6, 5)), out=[0.0] * 6)


@pytest.mark.parametrize("dtype", FLOATS)
def test_large_and_small_offsets(dtype, rng):
    for offset in (-1e4, -300, 300, 1e4):
        x = (rng.standard_normal((20, 50)) + offset).astype(dtype)
        assert error(csoftmax.logsumexp(x), x) <= MAX_ULP[dtype]


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_the_largest_numbers_do_not_overflow(dtype):
    top = 1e308 if dtype == "float64" else 3e38
    x = np.array([[top, top, -top], [-top, -top, -top], [top, 0, 0]], dtype)
    assert np.array_equal(csoftmax.logsumexp(x), x[:, 0])


def test_sum_of_float16_that_rounds_to_infinity_or_not():
    x = np.full((1, 2), 65504, "float16")
    assert csoftmax.logsumexp(x)[0] == 65504
    assert csoftmax.logsumexp(np.full((1, 1 << 16), 65504, "float16"))[0] == 65504


def test_error_does_not_grow_with_the_length_of_the_row(rng):
    x = exact_differences(rng, 1 << 20, "float32", spread=1)
    assert error(csoftmax.logsumexp(x), x) <= 2
    columns = np.stack([x, x[::-1], x], axis=1)
    assert error(csoftmax.logsumexp(columns, 0), columns, 0) <= 2


@pytest.mark.parametrize("axis", [-1, 0])
def test_the_logarithm_of_a_sum_is_not_rounded_before_it_is_used(axis, rng):
    for width in (33, 130, 1000, 3000):
        for x in (rng.integers(-2, 3, (400, width)).astype(float), 3 * rng.standard_normal((400, width))):
            x = x if axis else x.T
            assert oracle.max_ulp(csoftmax.logsumexp(x, axis), oracle.logsumexp(x, axis)) <= 0.62, width


@pytest.mark.parametrize("axis", [-1, 0])
def test_sums_of_several_blocks_far_below_one_keep_their_digits(axis, rng):
    """The logarithm is the sum, and the factors of the blocks are all that is rounded."""
    x = rng.uniform(-712, -600, (100, 1536))
    x[:, 0] = 0
    x[:, 1:1024] = -np.inf
    x[:, 1025:] = -np.inf
    x = x if axis else x.T
    assert oracle.max_ulp(csoftmax.logsumexp(x, axis), oracle.logsumexp(x, axis)) <= 0.6
