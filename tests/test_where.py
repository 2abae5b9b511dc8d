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


@pytest.mark.parametrize("dtype", FLOATS)
def test_gradient_is_zero_where_the_mask_left_elements_out(dtype, rng):
    x, g = rng.standard_normal((2, 9, 20)).astype(dtype)
    where = rng.random((9, 20)) < 0.6
    where[0] = False
    outputs = csoftmax.softmax(x, where=where), csoftmax.log_softmax(x, where=where)
    for operator in (csoftmax.softmax_backward, csoftmax.softmax_jvp):
        grad = operator(g, outputs[0])
        assert (grad[~where] == 0).all()
        assert np.isfinite(grad).all()
        assert oracle.max_ulp(grad, oracle.softmax_vjp(g, outputs[0]), np.ones(g.shape)) <= MAX_ULP[dtype]
    for operator, reference in (
        (csoftmax.log_softmax_backward, oracle.log_softmax_vjp),
        (csoftmax.log_softmax_jvp, oracle.log_softmax_jvp),
    ):
        grad = operator(g, outputs[1])
        assert (grad[~where] == 0).all()
        assert np.isfinite(grad).all()
        want = np.where(where, reference(np.where(where, g, 0), outputs[1]), 0)
        assert oracle.max_ulp(grad, want, np.full(g.shape, 16)) <= MAX_ULP[dtype]


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


def test_out_may_overlap_the_mask(rng):
    x = rng.standard_normal(100)
    memory = np.zeros(800, np.uint8)
    mask, out = memory[350:450].view(bool), memory.view(np.float64)
    mask[::3] = True
    want = csoftmax.softmax(x, where=mask.copy())
    assert np.array_equal(csoftmax.softmax(x, where=mask, out=out), want)


def test_reduced_out_may_overlap_the_mask(rng):
    x = rng.standard_normal((10, 8))
    memory = np.zeros(80, bool)
    mask, out = memory.reshape(10, 8), memory.view(np.float64)
    mask[:, ::3] = True
    want = csoftmax.logsumexp(x, where=mask.copy())
    assert np.array_equal(csoftmax.logsumexp(x, where=mask, out=out), want)
