"""HIPS autograd: derivatives of both modes and of the second order, against finite differences."""

import autograd.numpy as anp
import numpy as np
import pytest
from autograd import grad, jacobian
from autograd.test_util import check_grads

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
