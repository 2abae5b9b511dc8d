"""scikit-learn: patched wherever it holds its softmax, as it was when unpatched, the same results between."""

import sys
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier, _base
from sklearn.utils import extmath
from sklearn.utils.tests import test_extmath as sklearn_tests

import csoftmax
from csoftmax.interop import sklearn as interop
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


# ---------------------------------------------------------------------------------- patches within patches


OURS = interop.softmax, interop.inplace_softmax


def test_contexts_nest():
    with patched():
        with patched():
            assert held() == OURS
        assert held() == OURS
        with patched(), patched():
            pass
        assert held() == OURS
    assert held() == OWN


def test_contexts_end_in_any_order():
    contexts = [patched() for _ in range(3)]
    for context in contexts:
        context.__enter__()
    for context in contexts:
        assert held() == OURS
        context.__exit__(None, None, None)
    assert held() == OWN


def test_an_exception_in_an_inner_context_leaves_the_outer_one():
    with patched():
        with pytest.raises(KeyError), patched():
            raise KeyError
        assert held() == OURS
    assert held() == OWN


def test_a_context_within_a_patched_process_leaves_it_patched():
    patch()
    with patched():
        pass
    assert held() == OURS
    unpatch()
    assert held() == OWN


def test_patch_within_a_context_outlasts_it():
    with patched():
        patch()
    assert held() == OURS


def test_unpatch_within_a_context_waits_for_its_end():
    patch()
    with patched():
        unpatch()
        assert held() == OURS
    assert held() == OWN


def test_a_context_that_is_dropped_ends():
    context = patched()
    context.__enter__()
    assert held() == OURS
    del context
    assert held() == OWN


def test_contexts_of_threads_overlap():
    here, may_end = threading.Barrier(2), threading.Event()

    def work():
        with patched():
            here.wait()
            may_end.wait()

    thread = threading.Thread(target=work)
    thread.start()
    with patched():
        here.wait()
    while_the_threads_context_lasts = held()
    may_end.set()
    thread.join()
    assert while_the_threads_context_lasts == OURS
    assert held() == OWN


def test_many_threads_enter_and_leave():
    seen = set()

    def work():
        for _ in range(100):
            with patched():
                seen.add(held() == OURS)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {True}
    assert held() == OWN


@given(st.lists(st.sampled_from(["patch", "unpatch", "enter", "first out", "last out"]), max_size=12))
def test_any_sequence_of_patches(steps):
    process, open_contexts = False, []
    for step in steps:
        if step in ("patch", "unpatch"):
            process = step == "patch"
            getattr(interop, step)()
        elif step == "enter":
            open_contexts.append(patched())
            open_contexts[-1].__enter__()
        elif open_contexts:
            open_contexts.pop(0 if step == "first out" else -1).__exit__(None, None, None)
        assert held() == (OURS if process or open_contexts else OWN)
    unpatch()
    while open_contexts:
        open_contexts.pop().__exit__(None, None, None)
    assert held() == OWN


def test_a_foreign_activation_is_left_alone(monkeypatch):
    def foreign(X):
        return None

    with patched():
        monkeypatch.setitem(_base.ACTIVATIONS, "softmax", foreign)
    assert _base.ACTIVATIONS["softmax"] is foreign
    monkeypatch.setitem(_base.ACTIVATIONS, "softmax", OWN[1])


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
