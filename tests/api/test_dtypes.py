"""Types in and out: 16-bit floats, integers, bool, `dtype=`, and the conversions between them."""

import ml_dtypes
import numpy as np
import oracle
import pytest
from arrays import FLOATS, MAX_ULP, SOFTMAX_ULP, exact_differences

import csoftmax

pytestmark = pytest.mark.usefixtures("isa")

HALVES = ["float16", "bfloat16"]
INTEGERS = ["bool", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", ">i4", ">u8"]
SHAPES = [((70, 5), -1), ((40, 33), -1), ((3, 1000), -1), ((33, 70), 0), ((3, 21, 40), 1)]


def every_pattern(dtype):
    """All 2^16 numbers of a 16-bit type."""
    return np.arange(1 << 16, dtype=np.uint16).view(dtype)


def padded(column, width):
    """Rows of an element of `column` and -inf otherwise, so that logsumexp gives the element back."""
    rows = np.full((column.size, width), -np.inf, column.dtype)
    rows[:, 0] = column
    return rows


def same_numbers(got, want):
    with np.errstate(invalid="ignore"):
        return got.dtype == want.dtype and np.array_equal(got, want, equal_nan=True)


@pytest.mark.parametrize("width", [1, 2, 17, 70])
@pytest.mark.parametrize("dtype", HALVES)
def test_every_16_bit_pattern_is_read_exactly(dtype, width):
    x = every_pattern(dtype)
    want = nearest(x, "float32")
    assert same_numbers(csoftmax.logsumexp(padded(x, width), dtype="float32"), want)
    assert same_numbers(csoftmax.logsumexp(padded(x, width).T.copy(), axis=0, dtype="float32"), want)
    assert same_numbers(csoftmax.logsumexp(padded(x, width)), x)


def nearest(x, dtype):
    """NumPy's and ml_dtypes' conversions, which round to nearest even (and complain of signalling NaN)."""
    with np.errstate(all="ignore"):
        return x.astype(dtype)


def around_every_rounding_boundary(dtype):
    """float32 numbers at and next to the middle between every two neighbours of a 16-bit type, and beyond."""
    x = nearest(every_pattern(dtype), "float32")
    x = np.sort(x[np.isfinite(x)])
    middle = ((x[:-1].astype(float) + x[1:]) / 2).astype("float32")
    top = np.asarray([x[-1], x[0]]) * np.float32([[1], [1.001], [1.003], [1.0000001]])
    sides = [np.nextafter(middle, np.float32(side)) for side in (-np.inf, np.inf)]
    return np.concatenate([x, middle, *sides, top.ravel(), np.float32([np.nan, np.inf, -np.inf])])


@pytest.mark.parametrize("width", [1, 2, 17])
@pytest.mark.parametrize("dtype", HALVES)
def test_every_16_bit_result_is_rounded_to_nearest_even(dtype, width):
    x = around_every_rounding_boundary(dtype)
    want = nearest(x, dtype)
    assert same_numbers(csoftmax.logsumexp(padded(x, width), dtype=dtype), want)
    assert same_numbers(csoftmax.logsumexp(padded(x, width).T.copy(), axis=0, dtype=dtype), want)


def finite_numbers(dtype):
    """Those of a 16-bit type, each once, in order, as float64."""
    x = nearest(every_pattern(dtype), "float32")
    return np.unique(x[np.isfinite(x)].astype(float))


def float64_beside_every_rounding_boundary(dtype):
    """float64 numbers by the middle between every two neighbours of a 16-bit type, nearer to it than any float32.

    Rounded to float32 first, they would become that middle, and then fall on the wrong side of it.
    """
    x = finite_numbers(dtype)
    middle = (x[:-1] + x[1:]) / 2
    return np.concatenate([middle, np.nextafter(middle, -np.inf), np.nextafter(middle, np.inf)])


def nearest_of_two(x, dtype):
    """The nearest number of a 16-bit type to each float64, ties to even; ml_dtypes goes through float32, and errs."""
    grid = finite_numbers(dtype)
    above = np.clip(np.searchsorted(grid, x), 1, grid.size - 1)
    low, high = grid[above - 1], grid[above]
    down, up = x - low, high - x
    even = (low.astype(dtype).view(np.uint16) & 1) == 0
    return np.where((down < up) | ((down == up) & even), low, high).astype(dtype)


@pytest.mark.parametrize("width", [1, 2, 17])
@pytest.mark.parametrize("dtype", HALVES)
def test_every_16_bit_result_of_float64_is_rounded_once(dtype, width):
    x = float64_beside_every_rounding_boundary(dtype)
    want = nearest_of_two(x, dtype)
    assert same_numbers(csoftmax.logsumexp(padded(x, width), dtype=dtype), want)
    assert same_numbers(csoftmax.logsumexp(padded(x, width).T.copy(), axis=0, dtype=dtype), want)


@pytest.mark.parametrize("payload", [0x7FFFFFFF, 0xFFFFFFFF, 0x7FC00000, 0x7F800001, 0xFF807FFF, 0x7FFF8000])
@pytest.mark.parametrize("dtype", HALVES)
def test_a_nan_of_any_payload_is_nan_in_16_bits(dtype, payload):
    """Rounded as if it were a number, a NaN's bits may carry over into those of a zero."""
    for width in (1, 3, 16, 40, 100):
        rows = np.zeros((20, width), np.float32)
        rows[::2] = np.uint32(payload).view(np.float32)
        nan = np.isnan(rows[:, 0])
        for x, axis in ((rows, -1), (rows.T.copy(), 0)):
            assert np.array_equal(np.isnan(csoftmax.logsumexp(x, axis, dtype=dtype)), nan), width
            for function in (csoftmax.softmax, csoftmax.log_softmax):
                got = function(x, axis, dtype=dtype)
                assert np.array_equal(np.isnan(got).all(axis), nan), (width, function)
                assert np.array_equal(np.isnan(got).any(axis), nan), (width, function)


@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("dtype", HALVES)
def test_rows_of_16_bit_results_are_rounded_to_nearest_even(dtype, axis):
    """Below -60 a log-probability is the logit itself when another logit is 0."""
    x = around_every_rounding_boundary(dtype)
    x = x[(x < -60) & (x > -1e38)]
    x = np.pad(x, (0, -x.size % 70)).reshape(-1, 70)
    x = np.insert(x, 0, 0, axis=1)
    x = x[(x[:, 1:] < -60).all(axis=1)]
    got = csoftmax.log_softmax(x if axis else x.T.copy(), axis, dtype=dtype)
    got = got if axis else got.T
    # the first column holds what little the others leave of 1
    assert same_numbers(got[:, 1:], nearest(x, dtype)[:, 1:])


@pytest.mark.parametrize("dtype", HALVES)
def test_16_bit_softmax_is_the_float32_one_rounded_once(dtype, rng):
    for shape, axis in SHAPES:
        x = exact_differences(rng, shape, dtype)
        p = csoftmax.softmax(x, axis)
        assert p.dtype == dtype
        assert oracle.max_ulp(p, oracle.softmax(x, axis)) <= SOFTMAX_ULP[dtype]
        g = rng.standard_normal(shape).astype(dtype)
        grad = csoftmax.softmax_backward(g, p, axis)
        assert grad.dtype == dtype
        scale = oracle.wide(p) * 8
        assert oracle.max_ulp(grad, oracle.softmax_vjp(g, p, axis), scale) <= MAX_ULP[dtype]


@pytest.mark.parametrize("dtype", HALVES)
def test_16_bit_subnormal_probabilities_are_kept(dtype):
    info = ml_dtypes.finfo(dtype)
    low, high = np.log(float(info.smallest_subnormal)), np.log(float(info.smallest_normal))
    x = np.zeros((40, 37), dtype)
    x[:, 1:] = np.linspace(low, high, 36)
    p = csoftmax.softmax(x)
    assert oracle.max_ulp(p, oracle.softmax(x)) <= MAX_ULP[dtype]
    assert (p[:, 2:] > 0).all()


# Neighbours of these are told apart by long double, not by double.
LARGE = {
    "<i8": [2**53, 2**62, -(2**60), 2**63 - 300],
    ">i8": [2**62, -(2**62)],
    "<u8": [2**62, 2**64 - 300],
    ">u8": [2**63],
}


def check_integers(x, axis=-1, where=None):
    """The forward functions of 64-bit integers are the oracle's, whose long double holds each of them."""
    wide = oracle.wide(x)
    assert (wide.astype(x.dtype) == x).all()
    for temperature in (1.0, 3.5):
        got = csoftmax.softmax(x, axis, temperature=temperature, where=where)
        assert oracle.max_ulp(got, oracle.softmax(wide, axis, temperature, where)) <= SOFTMAX_ULP["float64"]
        got = csoftmax.log_softmax(x, axis, temperature=temperature, where=where)
        assert oracle.max_ulp(got, oracle.log_softmax(wide, axis, temperature, where)) <= MAX_ULP["float64"]
    got = csoftmax.logsumexp(x, axis, where=where)
    assert oracle.max_ulp(got, oracle.logsumexp(wide, axis, where)) <= 1


@pytest.mark.parametrize("integer", INTEGERS)
def test_integers_are_float64_of_them(integer, rng):
    dtype = np.dtype(integer)
    low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    x = rng.integers(low, high, (20, 10), dtype.newbyteorder("="), endpoint=True).astype(dtype)
    x[0, :2] = low, high
    x[1] = low
    x[2] = high
    near = (rng.integers(0, 2 if dtype.kind == "b" else 100, (20, 10))).astype(dtype)
    if dtype.itemsize == 8:
        # not every one is a float64
        check_integers(x)
        check_integers(x, 0)
    for values in (near,) if dtype.itemsize == 8 else (x, near):
        floats = values.astype(float)
        for function in (csoftmax.softmax, csoftmax.log_softmax, csoftmax.logsumexp):
            for axis in (0, 1, None):
                got = function(values, axis)
                assert got.dtype == np.float64
                assert np.array_equal(got, function(floats, axis))
        assert oracle.max_ulp(csoftmax.softmax(values), oracle.softmax(floats)) <= SOFTMAX_ULP["float64"]


@pytest.mark.parametrize(("integer", "base"), [(dtype, base) for dtype, bases in LARGE.items() for base in bases])
def test_integers_that_a_double_does_not_hold_are_told_apart(integer, base, rng):
    dtype = np.dtype(integer)
    for width in (1, 2, 3, 10, 17, 40, 1100, 5000):
        near = rng.integers(0, 40, (6, width))
        x = (near.astype(dtype.newbyteorder("=")) + np.array(base, dtype.newbyteorder("="))).astype(dtype)
        x[0] = near[0]
        check_integers(x)
        check_integers(x.T.copy(), 0)
        check_integers(x[::-1, ::-1])
        check_integers(x, where=near > 10)
        check_integers(x.T.copy(), 0, where=(near > 10).T)
    cube = (rng.integers(0, 9, (3, 4, 5)).astype(dtype.newbyteorder("=")) + np.array(base, dtype)).astype(dtype)
    for axis in (1, (0, 2), None):
        check_integers(cube, axis)


def test_a_larger_integer_under_the_mask_changes_no_bit_of_what_it_leaves():
    x = np.array([[2**62, 2**62 + 1, -5], [2**62, 2**62 + 1, 2**63 - 1]])
    where = np.array([True, True, False])
    for function in (csoftmax.softmax, csoftmax.log_softmax, csoftmax.logsumexp):
        result = function(x, where=where)
        assert np.array_equal(result[0], result[1])
    assert np.allclose(csoftmax.softmax(x, where=where)[1], csoftmax.softmax([0.0, 1.0, -np.inf]), rtol=1e-15, atol=0)


def test_a_row_of_small_integers_has_its_bits_beside_one_of_large_ones(rng):
    small = rng.integers(-50, 50, (1, 12))
    for large in (2**62, -(2**62)):
        both = np.concatenate([small, small + large])
        for function in (csoftmax.softmax, csoftmax.log_softmax, csoftmax.logsumexp):
            assert np.array_equal(function(both)[:1], function(small))
            assert np.array_equal(function(both.T.copy(), 0).T[:1], function(small))


def test_a_long_row_of_large_integers(rng):
    near = rng.integers(0, 30, 300_001)
    x = near + 2**62
    with csoftmax.threads(2):
        p = csoftmax.softmax(x)
        assert oracle.max_ulp(p, oracle.softmax(near)) <= SOFTMAX_ULP["float64"]
        assert np.array_equal(csoftmax.softmax(near), csoftmax.softmax(near.astype(float)))


def test_loss_of_large_integers(rng):
    near, target = rng.integers(0, 20, (50, 7)), rng.integers(0, 7, 50)
    for weight in (None, np.arange(1.0, 8.0)):
        options = {"weight": weight, "label_smoothing": 0.1}
        want = csoftmax.cross_entropy_with_grad(near.astype(float), target, **options)
        got = csoftmax.cross_entropy_with_grad(near + 2**62, target, **options)
        columns = csoftmax.cross_entropy_with_grad((near + 2**62).T.copy(), target, 0, **options)
        assert np.allclose(got[0], want[0], rtol=1e-14)
        assert np.allclose(got[1], want[1], rtol=0, atol=1e-16)
        assert np.allclose(columns[1].T, want[1], rtol=0, atol=1e-16)


@pytest.mark.parametrize("integer", ["u1", "i1", "u2", "bool"])
def test_small_integers_do_not_wrap(integer):
    p = csoftmax.softmax(np.array([1, 0, 1], integer))
    assert np.allclose(p, np.array([np.e, 1, np.e]) / (2 * np.e + 1), rtol=1e-15, atol=0)


def test_python_numbers_and_lists_of_them():
    assert csoftmax.softmax([1, 2]).dtype == np.float64
    assert csoftmax.softmax([True, False]).dtype == np.float64
    assert csoftmax.logsumexp([1.5, 2]).dtype == np.float64


@pytest.mark.parametrize("given", [*FLOATS, "i2"])
@pytest.mark.parametrize("wanted", FLOATS)
def test_dtype_names_the_type_of_the_result(given, wanted, rng):
    """The arithmetic is that of the wider type, so that a narrower result is rounded once."""
    narrowed = wanted == "float32" and given in ("float64", "i2")
    for shape, axis in SHAPES:
        x = exact_differences(rng, shape, given)
        allowed, allowed_p = (0.502, 0.502) if narrowed else (MAX_ULP[wanted], SOFTMAX_ULP[wanted])
        p = csoftmax.softmax(x, axis, dtype=wanted)
        assert p.dtype == wanted
        assert oracle.max_ulp(p, oracle.softmax(x, axis)) <= allowed_p
        logs = csoftmax.log_softmax(x, axis, dtype=wanted)
        want = oracle.log_softmax(x, axis)
        assert logs.dtype == wanted
        assert oracle.max_ulp(logs, want) <= allowed
        total = csoftmax.logsumexp(x, axis, dtype=wanted)
        assert total.dtype == wanted
        assert oracle.max_ulp(total, oracle.logsumexp(x, axis), np.full(total.shape, 16)) <= allowed
        out = np.zeros(shape, wanted)
        assert csoftmax.softmax(x, axis, dtype=wanted, out=out) is out
        assert np.array_equal(out, p)


def test_dtype_is_any_name_that_numpy_knows():
    for name in (np.float32, "f4", np.dtype("float32"), "single"):
        assert csoftmax.softmax([1.0, 2.0], dtype=name).dtype == np.float32
    assert csoftmax.softmax([1.0, 2.0], dtype=float).dtype == np.float64
    assert csoftmax.softmax([1.0, 2.0], dtype=ml_dtypes.bfloat16).dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "int4"])
def test_other_ml_dtypes_are_refused(name):
    x = np.ones(3).astype(getattr(ml_dtypes, name))
    for function in (csoftmax.softmax, csoftmax.log_softmax, csoftmax.logsumexp):
        with pytest.raises(TypeError, match=name):
            function(x)


def test_two_float_types_are_promoted_to_the_one_that_holds_both(rng):
    """Integers count as float64; float16 and bfloat16 hold each other's numbers in float32 only."""
    rank = {"float16": 0, "bfloat16": 0, "float32": 1, "float64": 2, "i4": 2}
    for one in rank:
        for other in rank:
            g, p = rng.standard_normal((4, 9)), rng.random((4, 9))
            grad = csoftmax.softmax_backward(g.astype(one), p.astype(other))
            wanted = {0: one if one == other else "float32", 1: "float32", 2: "float64"}
            assert grad.dtype == wanted[max(rank[one], rank[other])], (one, other)
