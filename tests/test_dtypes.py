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


@pytest.mark.parametrize("integer", INTEGERS)
def test_integers_are_float64_of_them(integer, rng):
    dtype = np.dtype(integer)
    low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    x = rng.integers(low, high, (20, 10), dtype.newbyteorder("="), endpoint=True).astype(dtype)
    x[0, :2] = low, high
    x[1] = low
    x[2] = high
    near = (rng.integers(0, 2 if dtype.kind == "b" else 100, (20, 10))).astype(dtype)
    for values in (x, near):
        floats = values.astype(float)
        for function in (csoftmax.softmax, csoftmax.log_softmax, csoftmax.logsumexp):
            for axis in (0, 1, None):
                got = function(values, axis)
                assert got.dtype == np.float64
                assert np.array_equal(got, function(floats, axis))
        assert oracle.max_ulp(csoftmax.softmax(values), oracle.softmax(floats)) <= SOFTMAX_ULP["float64"]


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
