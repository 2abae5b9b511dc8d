"""`where`: masks of every layout and shape against the oracle; what lies under a mask counts for nothing."""

import numpy as np
import oracle
import pytest
from arrays import FLOATS, LAYOUTS, MAX_ULP, SOFTMAX_ULP, WRITABLE_LAYOUTS, exact_differences

import csoftmax

pytestmark = pytest.mark.usefixtures("isa")

AXES = [0, 1, 2, (0, 1), (0, 2), None]
SHAPES = [(3, 5, 7), (2, 37, 3), (5, 4, 70)]


def check(x, where, axis):
    """The three functions under `where` are the oracle's; every kept row has a finite element."""
    dtype = x.dtype.name
    allowed = MAX_ULP[dtype]
    values = np.array(x)
    p = csoftmax.softmax(x, axis, where=where)
    assert p.dtype == dtype
    assert oracle.max_ulp(p, oracle.softmax(values, axis, where=where)) <= SOFTMAX_ULP[dtype]
    logs = csoftmax.log_softmax(x, axis, where=where)
    want = oracle.log_softmax(values, axis, where=where)
    assert oracle.max_ulp(logs, want) <= allowed
    total = csoftmax.logsumexp(x, axis, where=where)
    want = oracle.logsumexp(values, axis, where=where)
    assert oracle.max_ulp(total, want, np.maximum(np.abs(want), 30)) <= allowed


@pytest.mark.parametrize("axis", AXES, ids=str)
@pytest.mark.parametrize("dtype", FLOATS)
def test_mask_of_every_broadcast_shape(dtype, axis, rng):
    for shape in SHAPES:
        for mask_shape in (
            shape,
            shape[1:],
            shape[2:],
            (shape[0], 1, 1),
            (1, shape[1], 1),
            (1, 1, 1),
            (1,),
            (),
        ):
            where = rng.random(mask_shape) < 0.6
            check(exact_differences(rng, shape, dtype), where, axis)
            check(exact_differences(rng, shape, dtype), np.asarray(where).tolist(), axis)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_input_and_mask_of_every_layout(dtype, layout, rng):
    for shape in SHAPES:
        x = LAYOUTS[layout](exact_differences(rng, shape, dtype))
        where = rng.random(shape) < 0.6
        for axis in AXES:
            check(x, where, axis)
            check(x, LAYOUTS.get(layout, np.array)(where) if "swapped" not in layout else where, axis)


@pytest.mark.parametrize("layout", WRITABLE_LAYOUTS)
def test_out_of_every_layout_and_in_place(layout, rng):
    for shape in SHAPES:
        values, where = exact_differences(rng, shape, "float32"), rng.random(shape) < 0.6
        for function in (csoftmax.softmax, csoftmax.log_softmax):
            for axis in AXES:
                want = function(values, axis, where=where)
                out = WRITABLE_LAYOUTS[layout](np.full(shape, 7, "float32"))
                assert function(values, axis, where=where, out=out) is out
                assert np.array_equal(out, want)
                x = WRITABLE_LAYOUTS[layout](values)
                assert np.array_equal(function(x, axis, where=where, out=x), want)


@pytest.mark.parametrize("dtype", FLOATS)
def test_every_width(dtype, rng):
    for width in [*range(1, 140), 1000, 1024, 1025, 4097]:
        x = exact_differences(rng, (6, width), dtype)
        where = rng.random((6, width)) < 0.5
        check(x, where, -1)
        check(x.T.copy(), where.T, 0)


@pytest.mark.parametrize("hidden", [np.nan, np.inf, -np.inf, "largest"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_what_lies_under_the_mask_changes_no_bit(dtype, hidden, rng):
    hidden = {"float16": 65504, "float64": 1.7e308}.get(dtype, 3e38) if hidden == "largest" else hidden
    for shape, axis in (((40, 5), -1), ((40, 33), -1), ((6, 1025), -1), ((33, 40), 0), ((3, 5, 20), 1)):
        x = exact_differences(rng, shape, dtype)
        where = rng.random(shape) < 0.6
        covered = np.where(where, x, np.asarray(hidden, dtype))
        for function in (csoftmax.softmax, csoftmax.log_softmax, csoftmax.logsumexp):
            assert np.array_equal(function(covered, axis, where=where), function(x, axis, where=where))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("axis", [0, -1])
def test_mask_that_leaves_nothing_in_a_row(dtype, axis, rng):
    for width in (1, 2, 3, 10, 17, 33, 130, 1025):
        x = rng.standard_normal((12, width)).astype(dtype)
        x[::4] = np.nan
        where = np.ones((12, width), bool)
        where[::2] = False
        if axis == 0:
            x, where = x.T.copy(), where.T.copy()
        p, logs, total = (
            np.moveaxis(np.asarray(f(x, axis, where=where)), -1, 0) if axis == 0 else f(x, axis, where=where)
            for f in (csoftmax.softmax, csoftmax.log_softmax, csoftmax.logsumexp)
        )
        assert (p[::2] == 0).all()
        assert (logs[::2] == -np.inf).all()
        assert (total[::2] == -np.inf).all()
        assert (p[1::2] > 0).all()
        assert np.isfinite(logs[1::2]).all()
        assert np.isfinite(total[1::2]).all()


@pytest.mark.parametrize("dtype", FLOATS)
def test_special_values_that_the_mask_keeps(dtype):
    nan, inf = np.nan, np.inf
    x = np.array([[1, nan, 2], [1, inf, 2], [-inf, 5, -inf], [1, -inf, 1]], dtype)
    where = np.array([[1, 1, 0], [1, 1, 0], [1, 0, 1], [1, 1, 1]], bool)
    p = csoftmax.softmax(x, where=where)
    logs = csoftmax.log_softmax(x, where=where)
    assert np.isnan(p[:3][where[:3]]).all()
    assert (p[~where] == 0).all()
    assert (logs[~where] == -np.inf).all()
    assert np.isnan(logs[:3][where[:3]]).all()
    assert np.array_equal(p[3], np.array([0.5, 0, 0.5], dtype))
    assert np.array_equal(
        csoftmax.logsumexp(x, where=where)[:3], np.array([nan, inf, -inf], dtype), equal_nan=True
    )


@pytest.mark.parametrize("columns", [1, 4, 5, 16, 17, 40])
@pytest.mark.parametrize("dtype", FLOATS)
def test_special_values_that_the_mask_keeps_in_columns(dtype, columns):
    """What the mask leaves out of a column that is NaN is 0 or -inf, in whole vectors of columns and in the rest."""
    nan, inf = np.nan, np.inf
    x = np.array([[1, nan, 2], [1, inf, 2], [-inf, 5, -inf], [1, -inf, 1], [nan, 3, 4]], dtype)
    where = np.array([[1, 1, 0], [1, 1, 0], [1, 0, 1], [1, 1, 1], [1, 1, 0]], bool)
    for first in range(len(x)):
        for chosen in ((first + np.arange(columns)) % len(x), np.full(columns, first)):
            rows, kept = x[chosen], where[chosen]
            columnar, mask = np.ascontiguousarray(rows.T), np.ascontiguousarray(kept.T)
            for function, nothing in ((csoftmax.softmax, 0), (csoftmax.log_softmax, -inf)):
                got = function(columnar, 0, where=mask)
                assert (got[~mask] == nothing).all()
                assert np.array_equal(got.T, function(rows, where=kept), equal_nan=True)
            total = csoftmax.logsumexp(columnar, 0, where=mask)
            assert np.array_equal(total, csoftmax.logsumexp(rows, where=kept), equal_nan=True)


# each with the function of which it is the derivative, and the oracle's
DERIVATIVES = [
    (csoftmax.softmax_backward, csoftmax.softmax, oracle.softmax_vjp),
    (csoftmax.softmax_jvp, csoftmax.softmax, oracle.softmax_vjp),
    (csoftmax.log_softmax_backward, csoftmax.log_softmax, oracle.log_softmax_vjp),
    (csoftmax.log_softmax_jvp, csoftmax.log_softmax, oracle.log_softmax_jvp),
]


def check_derivatives(g, x, where, axis):
    """The four derivatives under `where` are the oracle's, whatever lies under the mask."""
    dtype, where = x.dtype.name, np.broadcast_to(where, x.shape)
    for operator, function, reference in DERIVATIVES:
        output = function(np.array(x), axis, where=where)
        want = reference(g, output, axis, where=where)
        scale = np.maximum(np.abs(oracle.wide(g)).max(), 1) * (1 if function is csoftmax.softmax else x.size)
        hidden = np.where(where, g, np.asarray(np.nan, dtype)), np.where(where, output, np.asarray(np.inf, dtype))
        for gradient, p in ((g, output), hidden):
            got = operator(gradient, p, axis, where=where)
            assert got.dtype == dtype
            assert (got[~where] == 0).all()
            assert oracle.max_ulp(got, want, np.broadcast_to(scale, want.shape)) <= MAX_ULP[dtype]


@pytest.mark.parametrize("axis", AXES, ids=str)
@pytest.mark.parametrize("dtype", FLOATS)
def test_derivatives_under_a_mask_of_every_broadcast_shape(dtype, axis, rng):
    for shape in SHAPES:
        for mask_shape in (shape, shape[1:], (shape[0], 1, 1), (1, shape[1], 1), (1,), ()):
            x, g = rng.standard_normal((2, *shape)).astype(dtype)
            check_derivatives(g, x, rng.random(mask_shape) < 0.6, axis)


@pytest.mark.parametrize("dtype", FLOATS)
def test_derivatives_under_a_mask_of_every_width(dtype, rng):
    for width in [*range(1, 70), 128, 129, 1000, 1025, 4097]:
        x, g = rng.standard_normal((2, 6, width)).astype(dtype)
        where = rng.random((6, width)) < 0.5
        check_derivatives(g, x, where, -1)
        check_derivatives(g.T.copy(), x.T.copy(), where.T, 0)


@pytest.mark.parametrize("dtype", FLOATS)
def test_masked_columns_have_the_bits_of_masked_rows(dtype, rng):
    """A tile of columns is masked while it is loaded, whatever the strides of the mask and of the result."""
    for n, columns in [(3, 5), (9, 70), (70, 33), (1100, 37)]:
        x, g = rng.standard_normal((2, n, columns)).astype(dtype)
        rows, g_rows = x.T.copy(), g.T.copy()
        full = rng.random((n, 2 * columns)) < 0.7
        strided = np.zeros((n, 2 * columns), dtype)
        for where in (
            full[:, :columns],
            full[:, ::2],
            full[::-1, columns - 1 :: -1],
            np.asfortranarray(full[:, :columns]),
            full[:, :1],
            full[:1, :columns],
            (full * 2).astype(np.uint8).view(bool)[:, :columns],
        ):
            kept = np.ascontiguousarray(np.broadcast_to(where, x.shape).T)
            total = csoftmax.logsumexp(x, 0, where=where)
            assert np.array_equal(total, csoftmax.logsumexp(rows, where=kept))
            for function in (csoftmax.softmax, csoftmax.log_softmax):
                want = function(rows, where=kept)
                assert np.array_equal(function(x, 0, where=where).T, want, equal_nan=True)
                function(x, 0, where=where, out=strided[:, ::2])
                assert np.array_equal(strided[:, ::2].T, want, equal_nan=True)
            for derivative, function, _ in DERIVATIVES:
                p = function(rows, where=kept)
                want = derivative(g_rows, p, where=kept)
                assert np.array_equal(derivative(g, p.T.copy(), 0, where=where).T, want, equal_nan=True)
                derivative(g, p.T.copy(), 0, where=where, out=strided[:, 1::2])
                assert np.array_equal(strided[:, 1::2].T, want, equal_nan=True)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_derivatives_of_every_layout_under_a_mask(layout, rng):
    for shape in SHAPES:
        x, g = rng.standard_normal((2, *shape)).astype("float32")
        where = rng.random(shape) < 0.6
        output = csoftmax.log_softmax(x, 1, where=where)
        want = csoftmax.log_softmax_backward(g, output, 1, where=where)
        mask = LAYOUTS.get(layout, np.array)(where) if "swapped" not in layout else where
        got = csoftmax.log_softmax_backward(LAYOUTS[layout](g), LAYOUTS[layout](output), 1, where=mask)
        assert np.array_equal(got, want)


@pytest.mark.parametrize("derivative", DERIVATIVES, ids=lambda d: d[0].__name__)
def test_derivative_in_place_and_of_a_row_with_nothing_left(derivative, rng):
    operator, function, _ = derivative
    x, g = rng.standard_normal((2, 9, 40))
    where = rng.random((9, 40)) < 0.6
    where[::3] = False
    output = function(x, where=where)
    want = operator(g, output, where=where)
    assert (want[::3] == 0).all()
    assert np.isfinite(want).all()
    for memory in (g, output):
        arguments = [np.array(a) for a in (g, output)]
        target = arguments[0 if memory is g else 1]
        assert operator(*arguments, where=where, out=target) is target
        assert np.array_equal(target, want)


@pytest.mark.parametrize("derivative", DERIVATIVES, ids=lambda d: d[0].__name__)
def test_nan_in_a_row_spreads_over_what_the_mask_keeps(derivative):
    operator, function, _ = derivative
    x, where = np.array([[1.0, 2.0, 3.0, 4.0]] * 5), np.array([True, False, True, True])
    output = function(x, where=where)
    for shape in ((5, 4), (4, 5)):
        axis = shape.index(4)
        g = np.array([[np.nan, 0.0, 1.0, 2.0]] * 5)
        got = np.moveaxis(operator(np.moveaxis(g, 1, axis), np.moveaxis(output, 1, axis), axis,
                                   where=where if axis else where[:, None]), axis, 1)
        assert (got[:, 1] == 0).all()
        assert np.isnan(got[:, [0, 2, 3]]).sum() >= 5 * (1 if operator is csoftmax.log_softmax_backward else 3)


@pytest.mark.parametrize("derivative", DERIVATIVES, ids=lambda d: d[0].__name__)
def test_derivative_may_overlap_its_mask(derivative, rng):
    operator, function, _ = derivative
    x, g = rng.standard_normal((2, 200, 30))
    memory = np.zeros(200 * 30 * 8, np.uint8)
    mask, out = memory[3000:9000].view(bool).reshape(200, 30), memory.view(np.float64).reshape(200, 30)
    mask[:, ::3] = True
    output = function(x, where=mask)
    want = operator(g, output, where=mask.copy())
    assert np.array_equal(operator(g, output, where=mask, out=out), want)


@pytest.mark.parametrize("derivative", DERIVATIVES, ids=lambda d: d[0].__name__)
def test_derivative_refuses_a_mask_that_does_not_fit_or_is_not_boolean(derivative):
    operator = derivative[0]
    p = np.full((2, 3), 1 / 3)
    with pytest.raises(ValueError, match=r"where has shape \(2,\).*output's \(2, 3\)"):
        operator(p, p, where=[True, False])
    with pytest.raises(TypeError, match="where must be boolean, not int64"):
        operator(p, p, where=np.ones((2, 3), np.int64))


@pytest.mark.parametrize("function", [csoftmax.softmax, csoftmax.log_softmax, csoftmax.logsumexp])
class TestRefused:
    @pytest.mark.parametrize("shape", [(4,), (3, 2), (3, 1), (1, 2, 3), (2, 2, 3)], ids=str)
    def test_mask_that_does_not_broadcast_to_x(self, function, shape):
        with pytest.raises(ValueError, match="where"):
            function(np.ones((2, 3)), where=np.ones(shape, bool))

    @pytest.mark.parametrize("mask", [[1, 0, 1], [1.0, 0.0, 1.0], ["a", "", "b"], 1], ids=str)
    def test_mask_that_is_not_boolean(self, function, mask):
        with pytest.raises(TypeError, match="where"):
            function(np.ones(3), where=mask)


@pytest.mark.parametrize("function", [csoftmax.softmax, csoftmax.log_softmax])
@pytest.mark.parametrize("axis", [0, -1])
def test_out_may_overlap_the_mask(axis, function, rng):
    """So many rows that the first are written before the mask of the last is read."""
    for shape in ((1, 100), (200, 300)):
        x = rng.standard_normal(shape)
        memory = np.zeros(x.nbytes, np.uint8)
        mask, out = memory[x.size * 4 : x.size * 5].view(bool).reshape(shape), memory.view(np.float64).reshape(shape)
        mask[:, ::3] = True
        want = function(x, axis, where=mask.copy())
        assert np.array_equal(function(x, axis, where=mask, out=out), want)


def test_reduced_out_may_overlap_the_mask(rng):
    x = rng.standard_normal((10, 8))
    memory = np.zeros(80, bool)
    mask, out = memory.reshape(10, 8), memory.view(np.float64)
    mask[:, ::3] = True
    want = csoftmax.logsumexp(x, where=mask.copy())
    assert np.array_equal(csoftmax.logsumexp(x, where=mask, out=out), want)


@pytest.mark.parametrize("function", [csoftmax.softmax, csoftmax.log_softmax])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_results_have_the_same_bits_wherever_they_are_stored(function, dtype, rng):
    """In place, in rows with gaps, at addresses that are no multiple of an element; with excluded rows among them."""
    for n in 1, 5, 37, 64, 65, 1000, 5000:
        x = (rng.standard_normal((9, n)) * 3).astype(dtype)
        x[3, n // 2] = np.nan
        mask = rng.random((9, n)) < 0.6
        mask[5] = False
        want = function(x, where=mask)
        wide = np.full((9, n + 3), 7, dtype)
        assert np.array_equal(function(x, where=mask, out=wide[:, 1:-2]), want, equal_nan=True)
        assert (wide[:, [0, -2, -1]] == 7).all()
        odd = np.zeros(want.nbytes + 1, np.uint8)[1:].view(dtype).reshape(9, n)
        assert np.array_equal(function(x, where=mask, out=odd), want, equal_nan=True)
        assert np.array_equal(function(x, where=mask, out=x), want, equal_nan=True)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_broadcast_masks_have_the_bits_of_whole_ones(dtype, rng):
    for n in 6, 70, 2000:
        x = rng.standard_normal((30, n)).astype(dtype)
        for mask in (rng.random(n) < 0.5, rng.random((30, 1)) < 0.5, (rng.random((n, 30)) < 0.5).T):
            whole = np.array(np.broadcast_to(mask, x.shape))
            for function in csoftmax.softmax, csoftmax.log_softmax, csoftmax.logsumexp:
                assert np.array_equal(function(x, where=mask), function(x, where=whole), equal_nan=True)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_every_byte_but_0_includes(dtype, rng):
    for shape, axis in (((20, 300), -1), ((20, 5), -1), ((20, 300), 0)):
        x = rng.standard_normal(shape).astype(dtype)
        byte = rng.choice(np.array([0, 1, 2, 128, 255], np.uint8), shape)
        got = csoftmax.softmax(x, axis, where=byte.view(bool))
        assert np.array_equal(got, csoftmax.softmax(x, axis, where=byte != 0))
