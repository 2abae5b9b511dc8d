"""Values of softmax against the oracle: widths, batch sizes, column counts, axes; and NumPy's own error."""

import itertools
import platform

import numpy as np
import oracle
import pytest
from arrays import DTYPES, SHAPES, SOFTMAX_ULP, Guarded, exact_differences

import csoftmax

pytestmark = pytest.mark.usefixtures("isa")


def check_at_offsets(x, axis, offsets):
    """Softmax of `x` is right, has the same bits at every memory offset, and touches only its elements."""
    want = csoftmax.softmax(x, axis)
    assert oracle.max_ulp(want, oracle.softmax(x, axis)) <= SOFTMAX_ULP[x.dtype.name], (x.shape, axis)
    for offset in offsets:
        source = Guarded(x.shape, x.dtype, offset, values=x)
        out = Guarded(x.shape, x.dtype, offset, fill=7)
        assert csoftmax.softmax(source.array, axis, out=out.array) is out.array
        assert np.array_equal(out.array, want), (x.shape, axis, offset)
        assert out.intact(), (x.shape, axis, offset)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_width_at_several_memory_offsets(dtype, rng):
    for width in range(1, 1101):
        check_at_offsets(exact_differences(rng, (3, width), dtype), -1, offsets=(0, 1, 6, 15))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_batch_size_of_short_rows(dtype, rng):
    for width in [*range(1, 40), 47, 48, 49, 63, 64, 65]:
        x = exact_differences(rng, (70, width), dtype)
        want = csoftmax.softmax(x)
        assert oracle.max_ulp(want, oracle.softmax(x)) <= SOFTMAX_ULP[dtype]
        for rows in [*range(1, 36), 63, 64, 65]:
            source = Guarded((rows, width), dtype, rows % 5, values=x[:rows])
            out = Guarded((rows, width), dtype, rows % 7, fill=7)
            csoftmax.softmax(source.array, out=out.array)
            assert np.array_equal(out.array, want[:rows]), (rows, width)
            assert out.intact(), (rows, width)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_column_count_where_the_axis_is_not_the_last(dtype, rng):
    for classes in (1, 2, 3, 7, 21, 33, 130):
        for columns in [*range(1, 70), 127, 128, 129, 255, 257, 1025]:
            check_at_offsets(
                exact_differences(rng, (2, classes, columns), dtype), 1, offsets=(0, columns % 7)
            )


@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_axis_and_every_tuple_of_axes(dtype, shape, order, rng):
    x = np.asarray(exact_differences(rng, shape, dtype), order=order)
    ndim = len(shape)
    axes = [None, *range(-ndim, ndim)] if ndim else [None, 0, -1]
    for size in range(ndim + 1):
        for positive in itertools.permutations(range(ndim), size):
            axes.append(tuple(a - ndim if a % 2 else a for a in positive))
    for axis in axes:
        assert oracle.max_ulp(csoftmax.softmax(x, axis), oracle.softmax(x, axis)) <= SOFTMAX_ULP[dtype], axis


def test_axis_is_the_last_unless_given(rng):
    x = rng.standard_normal((4, 5))
    assert np.array_equal(csoftmax.softmax(x), csoftmax.softmax(x, axis=1))
    assert np.array_equal(csoftmax.softmax(x, np.int64(0)), csoftmax.softmax(x, axis=0))


@pytest.mark.parametrize("axis", [-1, 0])
def test_error_does_not_grow_with_the_length_of_the_row(axis, rng):
    x = exact_differences(rng, 1 << 20, "float32", spread=1)
    x = x if axis == -1 else np.stack([x, x[::-1], x], axis=1)
    want = oracle.softmax(x, axis)
    assert oracle.max_ulp(csoftmax.softmax(x, axis), want) <= SOFTMAX_ULP["float32"]


def below_smallest_normal(rng, shape, dtype):
    """Logits whose probabilities are subnormal, but for the first of each row, which is nearly 1."""
    info = np.finfo(dtype)
    x = rng.uniform(np.log(info.smallest_subnormal), np.log(info.smallest_normal), shape)
    x[..., 0] = 0
    return x


def one_hot_like(rng, shape, dtype):
    x = rng.standard_normal(shape)
    x[..., shape[-1] // 2] += 25
    return x


CLASSES = {
    "normal": lambda rng, shape, dtype: rng.standard_normal(shape),
    "wide range": lambda rng, shape, dtype: rng.uniform(-0.45, 0.45, shape) * np.log(np.finfo(dtype).max),
    "beyond exp's range": lambda rng, shape, dtype: rng.standard_normal(shape) * np.log(np.finfo(dtype).max),
    "large offset": lambda rng, shape, dtype: 1e4 + rng.standard_normal(shape),
    "exact differences": lambda rng, shape, dtype: exact_differences(rng, shape, dtype),
    "ties": lambda rng, shape, dtype: rng.integers(-20, 21, shape) / 2,
    "one-hot-like": one_hot_like,
    "subnormal results": below_smallest_normal,
}


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_largest_error_is_at_most_that_of_numpys_formula(dtype, name, rng):
    ours = numpys = 0.0
    for shape in ((3000, 3), (1000, 10), (300, 33), (100, 130), (60, 489), (30, 1024), (5, 5000), (1, 70000)):
        x = CLASSES[name](rng, shape, dtype).astype(dtype)
        want = oracle.softmax(x)
        numpys = max(numpys, oracle.max_ulp(oracle.numpy_formula(x), want))
        columns = np.ascontiguousarray(x.T)
        ours = max(
            ours,
            oracle.max_ulp(csoftmax.softmax(x), want),
            oracle.max_ulp(csoftmax.softmax(columns, axis=0), want.T),
        )
    # Known limit: where the sum is 1 NumPy's exponential, rounded once, is the result. Ours is rounded once before, as
    # a normal number, and again with the product.
    once = dtype == "float64" or platform.machine() in ("aarch64", "arm64")
    assert ours <= (1.25 if name == "subnormal results" and once else numpys)


@pytest.mark.parametrize("temperature", [1, 0.7, 3])
@pytest.mark.parametrize("axis", [-1, 0])
def test_what_a_block_apart_from_the_maximum_is_multiplied_by_is_not_rounded(axis, temperature, rng):
    """Its one element has the exponential 1; what is left to round is the sum, and the result."""
    for offset in (0, 1000):
        x = np.full((200, 1024), -np.inf)
        x[:, 0] = offset - rng.uniform(0.1, 30, 200) * temperature
        x[:, 512] = offset
        x = x if axis else x.T
        p = csoftmax.softmax(x, axis, temperature=temperature)
        assert oracle.max_ulp(p, oracle.softmax(x, axis, temperature)) <= 0.65


@pytest.mark.parametrize("dtype", DTYPES)
def test_subnormal_probabilities_are_kept_and_never_flushed(dtype):
    info = np.finfo(dtype)
    x = np.zeros((40, 37), dtype)
    x[:, 1:] = np.linspace(np.log(info.smallest_subnormal), np.log(info.smallest_normal), 36)
    p = csoftmax.softmax(x)
    assert oracle.max_ulp(p, oracle.softmax(x)) <= 1
    assert (p[:, 1:] > 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_shift_by_a_constant_changes_nothing(dtype, rng):
    x = exact_differences(rng, (7, 50), dtype, grid=1 / 64)
    want = oracle.softmax(x)
    for shift in (-100000, -1024, 3, 1024, 100000):
        shifted = x + np.asarray(shift, dtype)
        assert np.array_equal(shifted - np.asarray(shift, dtype), x)
        assert oracle.max_ulp(csoftmax.softmax(shifted), want) <= SOFTMAX_ULP[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 2, 3, 10, 16, 100, 1000, 4097])
def test_equal_logits_give_the_nearest_number_to_one_over_n(dtype, width):
    p = csoftmax.softmax(np.full((3, width), -12.5, dtype))
    assert (p == np.asarray(1, dtype) / np.asarray(width, dtype)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("magnitude", [1.0, 30.0, 1e4, 1e30, "max"])
def test_two_classes_are_the_sigmoid(dtype, magnitude):
    limit = float(np.finfo(dtype).max)
    top = limit if magnitude == "max" else magnitude
    logits = (np.linspace(-1, 1, 101) * top).astype(dtype)
    p = csoftmax.softmax(np.stack([logits, np.zeros_like(logits)], axis=-1))[:, 0]
    with np.errstate(over="ignore"):
        want = 1 / (1 + np.exp(-oracle.wide(logits)))
    assert oracle.max_ulp(p, want) <= 2


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_largest_numbers_do_not_overflow(dtype):
    top = np.finfo(dtype).max
    x = np.array([[top, -top, 0], [top, top, -top], [-top, -top, -top]], dtype)
    third = np.asarray(1, dtype) / np.asarray(3, dtype)
    assert np.array_equal(csoftmax.softmax(x), np.array([[1, 0, 0], [0.5, 0.5, 0], [third] * 3], dtype))


@pytest.mark.parametrize("temperature", [1, 0.7, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_long_rows_in_place_and_between_others(dtype, temperature, rng):
    for width in (8192, 8193, 16384, 16400, 17000, 20011):
        x = exact_differences(rng, (3, width), dtype)
        x[1] *= 1000  # beyond what is reduced by multiples of ln 2
        want = csoftmax.softmax(x, temperature=temperature)
        for row in range(3):
            assert np.array_equal(csoftmax.softmax(x[row], temperature=temperature), want[row]), width
        spacious = np.full((3, width + 5), 7, dtype)
        assert np.array_equal(csoftmax.softmax(x, temperature=temperature, out=spacious[:, 2:-3]), want), width
        assert (np.delete(spacious, np.s_[2:-3], axis=1) == 7).all(), width
        assert np.array_equal(csoftmax.softmax(x, temperature=temperature, out=x), want), width


@pytest.mark.parametrize("axis", [-1, 0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_smallest_subnormal_probability_is_not_zero(dtype, axis):
    """Down to half of it, a probability rounds up to the smallest subnormal number; below that it is 0."""
    subnormal = np.finfo(dtype).smallest_subnormal
    half = np.log(float(subnormal)) - np.log(2)
    above, below = (half + np.array([0.05, 0.2, 0.5, 0.65]), half - np.array([0.05, 0.5, 3, 900]))
    for width in (2, 5, 10, 40, 100, 1100):
        for lows, want in ((above, subnormal), (below, 0)):
            x = np.full((4, width), -np.inf, dtype)
            x[:, 0], x[:, -1] = 0, lows
            p = csoftmax.softmax(x) if axis else csoftmax.softmax(x.T.copy(), 0).T
            assert (p[:, 0] == 1).all(), width
            assert (p[:, -1] == want).all(), (width, p[:, -1])


@pytest.mark.parametrize("sign", [1, -1])
def test_maxima_of_blocks_whose_difference_rounds(sign, rng):
    """The rounding of a block's maximum less the row's would be magnified by its exponential."""
    steps = np.array([5, 25, 15, 22]).repeat(2000)
    x = sign * steps + rng.uniform(-1, 1, (20, steps.size))
    assert oracle.max_ulp(csoftmax.softmax(x), oracle.softmax(x)) <= 4
