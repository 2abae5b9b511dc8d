"""Hypothesis: the family on arrays of any shape, strides, type, axis, mask and values."""

import ml_dtypes
import numpy as np
import oracle
import pytest
from arrays import MAX_ULP, SOFTMAX_ULP
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import csoftmax

pytestmark = pytest.mark.usefixtures("isa")

SHAPES = hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=9)
NOT_EMPTY = hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=7)
TYPES = ["<f4", "<f8", ">f4", ">f8", "<f2", ">f2", "bfloat16"]


def numbers(draw, dtype, shape, special=False):
    """An array of `dtype` with values within 60, or, if `special`, any there are."""
    carrier = np.dtype("f4" if dtype == "bfloat16" else dtype)
    limits = {} if special else {"min_value": -60, "max_value": 60}
    elements = st.floats(width=carrier.itemsize * 8, allow_nan=special, allow_infinity=special, **limits)
    with np.errstate(all="ignore"):
        return draw(hnp.arrays(carrier, shape, elements=elements)).astype(dtype)


@st.composite
def strided(draw, shapes=SHAPES, special=False):
    """A float array: permuted, sliced with steps of either sign, aligned or not, of either byte order."""
    dtype = np.dtype(draw(st.sampled_from(TYPES)))
    x = numbers(draw, dtype, draw(shapes), special)
    x = x.transpose(draw(st.permutations(range(x.ndim))))
    steps = draw(st.lists(st.sampled_from([1, -1, 2, -2, 3]), min_size=x.ndim, max_size=x.ndim))
    x = x[tuple(slice(None, None, step) for step in steps)]
    if draw(st.booleans()) and x.size:
        memory = np.empty(x.nbytes + 1, np.uint8)[1:].view(dtype).reshape(x.shape)
        memory[...] = x
        x = memory
    return x


@st.composite
def with_axis(draw, arrays):
    x = draw(arrays)
    if x.ndim == 0:
        return x, draw(st.sampled_from([-1, 0, None]))
    one = st.integers(-x.ndim, x.ndim - 1)
    some = st.lists(one, max_size=x.ndim, unique_by=lambda a: a % x.ndim).map(tuple)
    return x, draw(st.none() | one | some)


def allowed(x):
    """Error where x - max may round: half an ulp of it, which exp turns into as many ulps of the result."""
    rounding = 2 * float(np.abs(oracle.wide(x)).max(initial=0))
    return SOFTMAX_ULP[x.dtype.name] + rounding * (1 if x.dtype.itemsize > 2 else 2**-13)


def log_error(got, want):
    return oracle.max_ulp(got, want, np.maximum(np.abs(want), 64))


@given(with_axis(strided()))
def test_forward_of_any_array(case):
    x, axis = case
    before = x.copy()
    p, logs, total = (
        np.asarray(f(x, axis)) for f in (csoftmax.softmax, csoftmax.log_softmax, csoftmax.logsumexp)
    )
    assert all(r.dtype == x.dtype.name and r.dtype.isnative for r in (p, logs, total))
    assert oracle.max_ulp(p, oracle.softmax(x, axis)) <= allowed(x)
    assert log_error(logs, oracle.log_softmax(x, axis)) <= MAX_ULP[x.dtype.name]
    assert log_error(total, oracle.logsumexp(x, axis)) <= MAX_ULP[x.dtype.name]
    assert np.array_equal(x, before)


@given(with_axis(strided()), st.data())
def test_any_mask(case, data):
    x, axis = case
    where = data.draw(hnp.arrays(bool, x.shape))
    p, logs, total = (
        np.asarray(f(x, axis, where=where))
        for f in (csoftmax.softmax, csoftmax.log_softmax, csoftmax.logsumexp)
    )
    assert oracle.max_ulp(p, oracle.softmax(x, axis, where=where)) <= allowed(x)
    assert log_error(logs, oracle.log_softmax(x, axis, where=where)) <= MAX_ULP[x.dtype.name]
    assert log_error(total, oracle.logsumexp(x, axis, where)) <= MAX_ULP[x.dtype.name]


@given(with_axis(strided(special=True)))
def test_extreme_values_give_nan_exactly_where_the_oracle_does(case):
    x, axis = case
    p, logs, total = (
        np.asarray(f(x, axis)) for f in (csoftmax.softmax, csoftmax.log_softmax, csoftmax.logsumexp)
    )
    want = oracle.softmax(x, axis)
    tolerance = float(ml_dtypes.finfo(p.dtype).eps)
    assert np.array_equal(np.isnan(p), np.isnan(want))
    assert np.allclose(oracle.wide(p), want, rtol=0, atol=400 * tolerance, equal_nan=True)
    assert log_error(logs, oracle.log_softmax(x, axis)) <= MAX_ULP[x.dtype.name]
    assert log_error(total, oracle.logsumexp(x, axis)) <= MAX_ULP[x.dtype.name]


@given(with_axis(strided(NOT_EMPTY)), st.floats(1e-3, 1e3))
def test_probabilities_are_a_distribution_at_any_temperature(case, temperature):
    x, axis = case
    p = np.asarray(csoftmax.softmax(x, axis, temperature=temperature)).astype(float)
    tolerance = float(ml_dtypes.finfo(x.dtype.name).eps)
    axes = oracle.axes_of(x.ndim, axis)
    assert ((p >= 0) & (p <= 1)).all()
    assert np.allclose(p.sum(axis=axes), 1, rtol=0, atol=10 * tolerance)
    wide = oracle.wide(x)
    largest = np.where(wide == wide.max(axis=axes, keepdims=True), p, np.inf)
    assert (p <= largest.min(axis=axes, keepdims=True)).all()


@given(with_axis(strided()), st.integers(-40, 40))
def test_adding_a_constant_changes_nothing_where_sums_are_exact(case, shift):
    x, axis = case
    x = np.round(x.astype("f4")).astype(x.dtype)
    shifted = x + np.asarray(shift, x.dtype)
    p, logs = csoftmax.softmax(shifted, axis), csoftmax.log_softmax(shifted, axis)
    # A sum just above 1 takes eight roundings of an ulp of 1, which is two of the probability's just below 1.
    limit = SOFTMAX_ULP[x.dtype.name] + (2 if x.dtype.itemsize > 2 else 0)
    assert oracle.max_ulp(p, oracle.softmax(x, axis)) <= limit
    assert log_error(logs, oracle.log_softmax(x, axis)) <= MAX_ULP[x.dtype.name]


@given(with_axis(strided()), st.data())
def test_gradients_of_any_array(case, data):
    x, axis = case
    g = numbers(data.draw, x.dtype, x.shape)
    p, logs = csoftmax.softmax(x, axis), csoftmax.log_softmax(x, axis)
    size, wide = np.abs(oracle.wide(g)), oracle.wide(p)
    axes = oracle.axes_of(x.ndim, axis)
    limit = MAX_ULP[x.dtype.name]
    got, want = csoftmax.softmax_backward(g, p, axis), oracle.softmax_vjp(g, p, axis)
    assert oracle.max_ulp(got, want, wide * (size + oracle.total(size * wide, axes, keepdims=True))) <= limit
    got, want = csoftmax.log_softmax_backward(g, logs, axis), oracle.log_softmax_vjp(g, logs, axis)
    # known limit: a probability that is subnormal is rounded before it is multiplied by the sum
    least = 16 * float(ml_dtypes.finfo(x.dtype.name).smallest_normal)
    unit = np.maximum(size + np.exp(oracle.wide(logs)) * oracle.total(size, axes, keepdims=True), least)
    assert oracle.max_ulp(got, want, unit) <= limit


@given(with_axis(strided()), st.data())
def test_log_softmax_gradients_at_any_minus_infinities_and_under_any_mask(case, data):
    x, axis = case
    g = numbers(data.draw, x.dtype, x.shape)
    absent = data.draw(hnp.arrays(bool, x.shape))
    where = data.draw(st.none() | hnp.arrays(bool, x.shape))
    logs = np.array(csoftmax.log_softmax(x, axis))
    logs[absent] = -np.inf
    kept = True if where is None else where
    size = np.where(kept, np.abs(oracle.wide(g)), 0)
    axes = oracle.axes_of(x.ndim, axis)
    least = 16 * float(ml_dtypes.finfo(x.dtype.name).smallest_normal)
    unit = np.maximum(size + oracle.total(size, axes, keepdims=True), least)
    for operator, reference in (
        (csoftmax.log_softmax_backward, oracle.log_softmax_vjp),
        (csoftmax.log_softmax_jvp, oracle.log_softmax_jvp),
    ):
        got = operator(g, logs, axis, where=where)
        assert oracle.max_ulp(got, reference(g, logs, axis, where=where), unit) <= MAX_ULP[x.dtype.name]
        assert not np.asarray(got)[np.broadcast_to(~np.asarray(kept), x.shape)].any()


@given(strided(NOT_EMPTY), st.sampled_from(["mean", "sum", "none"]), st.floats(0, 1), st.data())
def test_cross_entropy_of_any_array(x, reduction, smoothing, data):
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    rest = np.max(x, axis=axis).shape
    target = data.draw(hnp.arrays("i4", rest, elements=st.integers(-1, x.shape[axis] - 1)))
    options = {"ignore_index": -1, "label_smoothing": smoothing, "reduction": reduction}
    loss, grad = csoftmax.cross_entropy_with_grad(x, target, axis, **options)
    want, grad_want, grad_scale = oracle.cross_entropy(x, target, axis, **options)
    assert oracle.max_ulp(loss, want) <= MAX_ULP["float32"]
    assert oracle.max_ulp(grad, grad_want, grad_scale) <= allowed(x)


@given(with_axis(strided(NOT_EMPTY)), st.data())
def test_result_may_be_written_into_any_view_of_the_same_memory(case, data):
    x, axis = case
    memory = np.array(np.resize(x, 3 * x.size), dtype=x.dtype.name)
    start_x, start_out = (data.draw(st.integers(0, 2 * x.size)) for _ in range(2))
    source, out = (memory[start : start + x.size].reshape(x.shape) for start in (start_x, start_out))
    want = np.array(csoftmax.softmax(source.copy(), axis))
    assert csoftmax.softmax(source, axis, out=out) is out
    assert np.array_equal(out, want)
