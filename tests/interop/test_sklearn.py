"""scikit-learn: patched wherever it holds its softmax, as it was when unpatched, the same results between."""

import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier, _base
from sklearn.utils import extmath
from sklearn.utils.tests import test_extmath as sklearn_tests

import csoftmax
from csoftmax.interop.sklearn import patch, patched, unpatch

pytestmark = pytest.mark.interop

OWN = extmath.softmax, _base.inplace_softmax


@pytest.fixture(autouse=True)
def as_it_was():
    assert held() == OWN
    yield
    unpatch()
    assert held() == OWN


@pytest.fixture
def calls(monkeypatch):
    """The arrays on which csoftmax is called."""
    seen = []
    softmax = csoftmax.softmax
    monkeypatch.setattr(csoftmax, "softmax", lambda x, **options: seen.append(x) or softmax(x, **options))
    return seen


def held():
    assert _base.ACTIVATIONS["softmax"] is _base.inplace_softmax
    return extmath.softmax, _base.inplace_softmax


def test_every_module_that_holds_it():
    holders = [name for name, module in sys.modules.items() if vars(module).get("softmax") is OWN[0]]
    assert {"sklearn.utils.extmath", "sklearn.linear_model._logistic"} < set(holders)
    patch()
    for name in holders:
        if name.startswith("sklearn."):
            assert sys.modules[name].softmax is extmath.softmax
    assert extmath.softmax is not OWN[0]
    patch()
    unpatch()
    assert all(sys.modules[name].softmax is OWN[0] for name in holders)


def test_context_ends_with_an_exception(monkeypatch):
    monkeypatch.delattr(csoftmax, "softmax")
    with pytest.raises(AttributeError), patched():
        extmath.softmax(np.zeros((2, 3)))
    assert held() == OWN


def test_own_test(calls):
    with patched():
        sklearn_tests.test_softmax()
    assert len(calls) == 1


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_values(dtype, order, calls, rng):
    X = np.asarray(rng.standard_normal((50, 7)), dtype, order=order)
    want = OWN[0](X)
    with patched():
        got = extmath.softmax(X)
        in_place = X.copy(order="K")
        assert extmath.softmax(in_place, copy=False) is in_place
        activated = X.copy(order="K")
        assert _base.ACTIVATIONS["softmax"](activated) is None
    assert len(calls) == 3
    for result in got, in_place, activated:
        assert result.dtype == dtype
        np.testing.assert_allclose(result, want, rtol=50 * np.finfo(dtype).eps)


@pytest.mark.parametrize("X", [[[1.0, 2.0]], np.matrix([[1.0, 2.0]]), np.array([[1, 2]], np.longdouble)])
def test_all_else_is_scikit_learns(X, calls):
    want = OWN[0](X)
    with patched():
        got = extmath.softmax(X)
    assert calls == []
    assert type(got) is type(want)
    assert (got == want).all()


def test_estimators(calls):
    X, y = load_digits(return_X_y=True)
    X = X / 16
    linear = LogisticRegression().fit(X, y)
    network = MLPClassifier((20,), random_state=1, max_iter=3, early_stopping=False)

    def results():
        with pytest.warns(match="Maximum iterations"):
            fitted = network.fit(X, y)
        return linear.predict_proba(X), fitted.predict_proba(X), fitted.loss_

    want = results()
    assert calls == []
    with patched():
        got = results()
    assert len(calls) > 3 * len(X) / 200
    for ours, own in zip(got, want, strict=True):
        np.testing.assert_allclose(ours, own, rtol=1e-6, atol=1e-12)
