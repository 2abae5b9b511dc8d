"""HIPS autograd: derivatives of both modes and of the second order, against finite differences."""

import warnings

import autograd.numpy as anp
import numpy as np
import pytest
import torch
from autograd import elementwise_grad, grad, hessian, jacobian, make_jvp, make_vjp
from autograd.test_util import check_grads
from hypothesis import given
from hypothesis import strategies as st

import csoftmax
from csoftmax.interop.autograd import log_softmax, logsumexp, softmax

pytestmark = pytest.mark.interop

AXES = [-1, 0, 1, (0, 2), None]


@pytest.fixture
def x(rng):
    return rng.standard_normal((3, 4, 2))


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("function", [softmax, log_softmax])
def test_derivatives(function, temperature, axis, x):
    want = getattr(csoftmax, function.__name__)(x, axis, temperature=temperature)
    assert (function(x, axis, temperature) == want).all()
    check_grads(function, modes=["rev", "fwd"], order=2)(x, axis, temperature=temperature)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("keepdims", [False, True])
def test_logsumexp(keepdims, axis, x):
    assert np.all(logsumexp(x, axis, keepdims) == csoftmax.logsumexp(x, axis, keepdims=keepdims))
    check_grads(logsumexp, modes=["rev", "fwd"], order=2)(x, axis, keepdims=keepdims)


@pytest.mark.parametrize(
    ("function", "backward"), [(softmax, "softmax_backward"), (log_softmax, "log_softmax_backward")]
)
def test_first_derivatives_are_csoftmax(function, backward, x, monkeypatch):
    calls = []
    kernel = getattr(csoftmax, backward)
    monkeypatch.setattr(csoftmax, backward, lambda *args, **kw: calls.append(1) or kernel(*args, **kw))
    v = anp.arange(24.0).reshape(x.shape)
    got = grad(lambda x: anp.sum(v * function(x, 1)))(x)
    assert len(calls) == 1
    assert (got == kernel(v, function(x, 1), 1)).all()


def test_jacobian(x):
    got = jacobian(softmax)(x[0, :, 0])
    np.testing.assert_allclose(got, csoftmax.softmax_jacobian(csoftmax.softmax(x[0, :, 0])), atol=1e-15)


def test_mixed_with_other_functions(x):
    def loss(w):
        return -anp.mean(log_softmax(anp.tanh(anp.dot(x[:, :, 0], w)), 1)[anp.arange(3), [0, 1, 0]])

    check_grads(loss, modes=["rev"], order=2)(anp.linspace(-1, 1, 8).reshape(4, 2))


# ------------------------------------------------------------------------------------- logits of -inf


INF = np.inf
ROWS = np.array([[-INF, -INF, -INF], [-INF, 0.0, 1.0], [1.0, 2.0, 3.0], [-INF, 5.0, -INF], [-INF, -INF, -INF]])
WANT = np.nan_to_num(csoftmax.softmax(ROWS))  # the gradient of logsumexp: 0 where a row is -inf


def test_logsumexp_at_minus_infinity():
    assert (grad(logsumexp)(np.array([-INF, -INF])) == 0).all()
    assert grad(logsumexp)(np.array([-INF])) == 0
    assert (grad(lambda x: logsumexp(x, None))(np.full((2, 3), -INF)) == 0).all()
    assert (grad(lambda x: logsumexp(x, (0, -1)))(np.full((2, 3), -INF)) == 0).all()


@pytest.mark.parametrize("keepdims", [False, True])
def test_logsumexp_of_rows_some_of_which_are_minus_infinity(keepdims):
    assert (elementwise_grad(lambda x: logsumexp(x, -1, keepdims))(ROWS) == WANT).all()
    assert (elementwise_grad(lambda x: logsumexp(x.T, 0, keepdims))(ROWS) == WANT).all()
    assert (elementwise_grad(lambda x: logsumexp(x[:, None], (2, 1), keepdims))(ROWS) == WANT).all()


@pytest.mark.parametrize("keepdims", [False, True])
def test_logsumexp_in_forward_mode_at_minus_infinity(keepdims, rng):
    v = rng.standard_normal(ROWS.shape)
    y, moved = make_jvp(lambda x: logsumexp(x, 1, keepdims))(ROWS)(v)
    assert y.shape == moved.shape == csoftmax.logsumexp(ROWS, keepdims=keepdims).shape
    np.testing.assert_allclose(moved, (v * WANT).sum(1, keepdims=keepdims), rtol=1e-15)


def test_second_derivatives_of_logsumexp_at_minus_infinity():
    assert (hessian(logsumexp)(np.array([-INF, -INF])) == 0).all()
    for row, p in zip(ROWS, WANT, strict=True):
        np.testing.assert_allclose(hessian(logsumexp)(row), np.diag(p) - np.outer(p, p), atol=1e-16)
    assert np.isfinite(hessian(lambda x: anp.sum(logsumexp(x)[1:4]))(ROWS)).all()


def test_masking_by_minus_infinity_leaves_the_gradient_of_the_others(rng):
    """A layer before it gets no NaN from a row that is masked altogether."""
    keep = np.array([[True, False, True], [False, False, False]])
    x, w = rng.standard_normal((2, 4)), rng.standard_normal((4, 3))

    def loss(w):
        y = logsumexp(anp.where(keep, anp.dot(x, w), -INF))
        return anp.sum(anp.where(keep.any(1), y, 0))

    got = grad(loss)(w)
    scores = np.where(keep, x @ w, -INF)[:1]
    np.testing.assert_allclose(got, x[:1].T @ csoftmax.softmax(scores), rtol=1e-12)


def test_logsumexp_taken_in_parts_has_the_gradient_of_the_whole():
    """As sums over paths do, whose first parts may be empty."""

    def in_parts(x):
        return logsumexp(anp.array([logsumexp(x[:2]), x[2]]))

    for x in [-INF, -INF, 2.0], [-INF, 1.0, 2.0], [-INF, -INF, -INF]:
        np.testing.assert_allclose(grad(in_parts)(np.array(x)), grad(logsumexp)(np.array(x)), rtol=1e-15)
    assert grad(lambda x: logsumexp(anp.stack([-INF, -INF + x])))(1.0) == 0


@pytest.mark.parametrize("x", [[0.0, 1000.0], [-1e308, 1e308], [-1e-308, -745.0]])
def test_second_derivatives_are_finite_wherever_the_logits_are(x):
    for function in logsumexp, lambda x: softmax(x)[0], lambda x: log_softmax(x)[0]:
        assert np.isfinite(hessian(function)(np.array(x))).all()


def test_softmax_at_minus_infinity():
    x, v = ROWS[1], np.array([3.0, 1.0, -2.0])
    p = csoftmax.softmax(x)
    jacobian_of_softmax = np.diag(p) - np.outer(p, p)
    np.testing.assert_allclose(jacobian(softmax)(x), jacobian_of_softmax, atol=1e-16)
    np.testing.assert_allclose(make_jvp(softmax)(x)(v)[1], jacobian_of_softmax @ v, atol=1e-15)
    assert np.isfinite(hessian(lambda x: softmax(x)[1])(x)).all()
    # a row without a finite logit has no softmax, and so no gradient either: NaN, as in PyTorch
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert np.isnan(grad(lambda x: softmax(x)[0])(ROWS[0])).all()
        assert np.isnan(grad(lambda x: log_softmax(x)[0])(ROWS[0])).all()


@given(data=st.data())
def test_gradients_at_any_pattern_of_minus_infinity_are_pytorchs(data):
    shape = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 6)))
    axis = data.draw(st.sampled_from([0, 1, (0, 1)]))
    seed = data.draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    x = np.where(rng.random(shape) < data.draw(st.sampled_from([0.0, 0.3, 0.7, 1.0])), -INF, rng.normal(0, 3, shape))
    t = torch.tensor(x, requires_grad=True)
    y = torch.logsumexp(t, axis, keepdim=True)
    some = ~y.isneginf().numpy()
    v = rng.standard_normal(some.shape)
    (y * torch.tensor(v))[some].sum().backward()
    got = grad(lambda x: anp.sum((logsumexp(x, axis, True)[some]) * v[some]))(x)
    np.testing.assert_allclose(got, t.grad.nan_to_num(0), rtol=1e-13, atol=1e-15)
    got = grad(lambda x: anp.sum(logsumexp(x, axis)))(x)
    np.testing.assert_allclose(got, np.nan_to_num(csoftmax.softmax(x, axis)), rtol=1e-13, atol=1e-15)


def pytorch_gradient(x, v, axis):
    t = torch.tensor(x, requires_grad=True)
    (gradient,) = torch.autograd.grad(torch.log_softmax(t, axis), t, torch.tensor(v))
    return gradient.numpy()


@given(data=st.data())
def test_log_softmax_keeps_the_upstream_gradient_at_minus_infinity(data):
    """g - p sum(g) over every element, as in PyTorch; both modes have one Jacobian, I - 1 p^T."""
    n = data.draw(st.integers(2, 6))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    x = np.where(rng.random((3, n)) < 0.4, -INF, rng.normal(0, 3, (3, n)))
    x[:, data.draw(st.integers(0, n - 1))] = 0  # no row without a finite logit
    v = rng.standard_normal(x.shape)
    got = make_vjp(log_softmax)(x)[0](v)
    np.testing.assert_allclose(got, pytorch_gradient(x, v, 1), rtol=1e-12, atol=1e-14)
    p = csoftmax.softmax(x)
    moved = make_jvp(log_softmax)(x)(v)[1]
    np.testing.assert_allclose(moved, v - (p * v).sum(1, keepdims=True), rtol=1e-12, atol=1e-14)


def test_jacobians_of_log_softmax_at_minus_infinity_agree():
    x = ROWS[1]
    want = np.eye(3) - csoftmax.softmax(x)
    np.testing.assert_allclose(jacobian(log_softmax)(x), want, rtol=1e-15)
    columns = [make_jvp(log_softmax)(x)(e)[1] for e in np.eye(3)]
    np.testing.assert_allclose(np.transpose(columns), want, rtol=1e-15)


def test_log_softmax_of_a_masked_class_with_mass_in_the_target():
    """A smoothed target gives every class some mass; the gradient is PyTorch's of cross_entropy."""
    x, q = ROWS[1], np.array([0.1, 0.6, 0.3])
    gradient = make_vjp(log_softmax)(x)[0](-q)
    np.testing.assert_allclose(gradient, csoftmax.softmax(x) - q, rtol=1e-14)
    t = torch.tensor(x, requires_grad=True)
    torch.nn.functional.cross_entropy(t, torch.tensor(q)).backward()
    np.testing.assert_allclose(gradient, t.grad, rtol=1e-14)


def test_second_derivatives_of_log_softmax_at_minus_infinity():
    x = ROWS[1]
    p = csoftmax.softmax(x)
    for k in range(3):
        got = hessian(lambda x, k=k: log_softmax(x)[k])(x)
        np.testing.assert_allclose(got, np.outer(p, p) - np.diag(p), atol=1e-16)
