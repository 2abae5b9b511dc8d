"""Every memory layout in and out: values, memory order of the result, aliasing, array-likes."""

import array

import numpy as np
import oracle
import pytest
from arrays import (
    BROADCAST_LAYOUTS,
    DTYPES,
    LAYOUTS,
    SOFTMAX_ULP,
    WRITABLE_LAYOUTS,
    Subclass,
    exact_differences,
)

import csoftmax

pytestmark = pytest.mark.usefixtures("isa")

AXES = [0, 1, 2, -1, (0, 1), (2, 0), (1, 2), None]
SHAPES = [(3, 5, 7), (2, 37, 3), (5, 4, 70), (9, 4, 3)]


@pytest.mark.parametrize("layout", LAYOUTS | BROADCAST_LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_input_of_every_layout(dtype, layout, rng):
    for shape in SHAPES:
        x = (LAYOUTS | BROADCAST_LAYOUTS)[layout](exact_differences(rng, shape, dtype))
        before = np.array(x)
        for axis in AXES:
            p = csoftmax.softmax(x, axis)
            assert type(p) is np.ndarray
            assert p.dtype == dtype
            assert p.dtype.isnative
            assert p.flags.writeable
            assert oracle.max_ulp(p, oracle.softmax(before, axis)) <= SOFTMAX_ULP[dtype], (shape, axis)
            assert p.strides == np.exp(x).strides, (shape, axis)
        assert np.array_equal(x, before)


@pytest.mark.parametrize("layout", WRITABLE_LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_out_of_every_layout(dtype, layout, rng):
    for shape in SHAPES:
        x = exact_differences(rng, shape, dtype)
        for axis in AXES:
            out = WRITABLE_LAYOUTS[layout](np.full(shape, 7, dtype))
            assert csoftmax.softmax(x, axis, out=out) is out
            assert oracle.max_ulp(out, oracle.softmax(x, axis)) <= SOFTMAX_ULP[dtype], (shape, axis)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "read-only"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_in_place_in_every_layout(dtype, layout, rng):
    for shape in SHAPES:
        values = exact_differences(rng, shape, dtype)
        for axis in AXES:
            x = LAYOUTS[layout](values)
            assert csoftmax.softmax(x, axis, out=x) is x
            assert oracle.max_ulp(x, oracle.softmax(values, axis)) <= SOFTMAX_ULP[dtype], (shape, axis)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("operator", [csoftmax.softmax_backward, csoftmax.softmax_jvp])
def test_gradients_of_every_layout(operator, layout, rng):
    for shape in SHAPES:
        for axis in AXES:
            g, p = rng.standard_normal(shape), csoftmax.softmax(rng.standard_normal(shape), axis)
            want = oracle.softmax_vjp(g, p, axis)
            out = WRITABLE_LAYOUTS.get(layout, np.array)(np.zeros(shape))
            mixed = operator(LAYOUTS[layout](g), p, axis), operator(g, LAYOUTS[layout](p), axis)
            both = operator(LAYOUTS[layout](g), LAYOUTS[layout](p), axis, out=out)
            assert both is out
            for got in (*mixed, both):
                assert oracle.max_ulp(got, want, scale=np.ones(shape)) <= 4, (shape, axis)


def test_records_around_a_field_are_not_written(rng):
    x = WRITABLE_LAYOUTS["field of records"](rng.standard_normal((3, 4, 5)))
    x.base["tag"] = 9
    csoftmax.softmax(x, out=x)
    assert (x.base["tag"] == 9).all()


def test_gaps_of_a_sliced_out_are_not_written(rng):
    for axis in (0, 1):
        memory = np.full((21, 90), 7.0)
        csoftmax.softmax(rng.standard_normal((10, 40)), axis, out=memory[1::2, 5:85:2])
        memory[1::2, 5:85:2] = 7
        assert (memory == 7).all()


OVERLAPS = {
    "shifted up": lambda m: (m[:1200], m[1:1201]),
    "shifted down": lambda m: (m[1:1201], m[:1200]),
    "shifted by a row": lambda m: (m[:1200], m[30:1230]),
    "reversed": lambda m: (m[:1200], m[1199::-1]),
    "half": lambda m: (m[:1200], m[600:1800]),
    "interleaved": lambda m: (m[:2400:2], m[1:2401:2]),
    "strided over contiguous": lambda m: (m[:1200], m[:2400:2]),
}


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_out_that_overlaps_the_input_otherwise(dtype, overlap, rng):
    values = rng.standard_normal(2500).astype(dtype)
    for shape in ((40, 30), (400, 3), (1200,), (2, 1, 600)):
        for axis in (0, -1):
            x, out = (a.reshape(shape) for a in OVERLAPS[overlap](values.copy()))
            want = csoftmax.softmax(x.copy(), axis)
            csoftmax.softmax(x, axis, out=out)
            assert np.array_equal(out, want), (shape, axis)
            g, out = (a.reshape(shape) for a in OVERLAPS[overlap](values.copy()))
            p = csoftmax.softmax(g, axis)
            want = csoftmax.softmax_backward(g.copy(), p, axis)
            csoftmax.softmax_backward(g, p, axis, out=out)
            assert np.array_equal(out, want), (shape, axis)
            g = rng.standard_normal(shape).astype(dtype)
            p, out = (a.reshape(shape) for a in OVERLAPS[overlap](values.copy()))
            want = csoftmax.softmax_backward(g, p.copy(), axis)
            csoftmax.softmax_backward(g, p, axis, out=out)
            assert np.array_equal(out, want), (shape, axis, "over the output")


@pytest.mark.parametrize("axis", [0, 1])
def test_out_that_is_the_transpose_of_the_input(axis, rng):
    for side in (3, 16, 65):
        x = rng.standard_normal((side, side))
        want = csoftmax.softmax(x.copy(), axis)
        assert np.array_equal(csoftmax.softmax(x, axis, out=x.T), want)
        g, p = rng.standard_normal((side, side)), want.copy()
        want = csoftmax.softmax_backward(g, p.copy(), axis)
        assert np.array_equal(csoftmax.softmax_backward(g, p, axis, out=p.T), want)


class ArrayLike:
    def __array__(self, dtype=None, copy=None):
        return np.array([1.0, 2.0, 4.0])


@pytest.mark.parametrize(
    "like",
    [[1.0, 2.0, 4.0], (1.0, 2.0, 4.0), [np.float64(1), 2, 4], array.array("d", [1, 2, 4]), ArrayLike()],
    ids=lambda like: type(like).__name__,
)
def test_array_likes_are_converted(like):
    p = csoftmax.softmax(like)
    assert type(p) is np.ndarray
    assert np.array_equal(p, csoftmax.softmax(np.array([1.0, 2.0, 4.0])))
    assert np.array_equal(csoftmax.softmax_backward(like, p), csoftmax.softmax_backward([1.0, 2.0, 4.0], p))


def test_memoryviews_and_nested_lists_are_converted():
    want = csoftmax.softmax(np.array([[1.0, 2.0], [3.0, 5.0]]))
    assert np.array_equal(csoftmax.softmax(memoryview(np.array([[1.0, 2.0], [3.0, 5.0]]))), want)
    assert np.array_equal(csoftmax.softmax([[1, 2], [3, 5]]), want)
    assert csoftmax.softmax(3.0) == 1


def test_subclass_as_out_is_returned_itself():
    out = np.zeros(3).view(Subclass)
    assert csoftmax.softmax([1.0, 2.0, 4.0], out=out) is out
    assert out.sum() == pytest.approx(1)


def test_rows_that_are_not_whole_elements_apart(rng, isa):
    """As of a sub-array field: most rows begin at no multiple of the element's size."""
    for dtype in DTYPES:
        for shape, axis in (((9, 8), -1), ((40, 8), 0), ((3, 70), -1), ((50, 33), 0)):
            records = np.zeros(shape[:1], [("a", dtype, shape[1:]), ("b", "i2")])
            values = rng.standard_normal(shape).astype(dtype)
            records["a"] = values
            assert records["a"].strides[0] % records["a"].itemsize != 0
            want = csoftmax.softmax(values, axis)
            assert np.array_equal(csoftmax.softmax(records["a"], axis), want)
            assert np.array_equal(csoftmax.softmax(records["a"], axis, out=records["a"]), want)
            assert not records["b"].any()


def test_a_long_row_over_two_axes_that_cannot_be_merged(rng):
    """The blocks of the row begin anywhere within the inner axis."""
    a = rng.standard_normal((300, 2, 1000)).astype("float32")
    x = a[:, 0, :]
    flat = np.ascontiguousarray(x).ravel()
    for function in (csoftmax.softmax, csoftmax.log_softmax, csoftmax.logsumexp):
        for threads in (1, 2):
            with csoftmax.threads(threads):
                assert np.array_equal(np.ravel(function(x, None)), np.ravel(function(flat, None))), function
    p = csoftmax.softmax(flat).reshape(300, 1000)
    assert np.array_equal(csoftmax.softmax_backward(x, p, None).ravel(), csoftmax.softmax_backward(flat, p.ravel()))
