"""Gradient boosting: the libraries' own trees from csoftmax's objectives, in each library's memory order."""

import lightgbm
import numpy as np
import pytest
import xgboost
from sklearn.datasets import load_digits

import csoftmax
from csoftmax.interop import boosting

pytestmark = pytest.mark.interop

ROUNDS = 12
LIGHTGBM = {"num_class": 10, "verbose": -1, "num_threads": 1, "deterministic": True, "force_row_wise": True}
XGBOOST = {"objective": "multi:softprob", "num_class": 10, "nthread": 1, "base_score": 0.5}


@pytest.fixture(scope="module")
def digits():
    return load_digits(return_X_y=True)


@pytest.fixture(params=["even", "weighted"])
def weight(request, digits):
    return None if request.param == "even" else np.random.default_rng(3).uniform(0.25, 4, len(digits[1]))


class Data:
    """What an objective asks of a Dataset or DMatrix."""

    def __init__(self, label, weight):
        self.get_label = lambda: label
        self.get_weight = lambda: weight


def expected(scores, labels, weight, factor):
    """The definition, in float64."""
    p = np.exp(scores - scores.max(1, keepdims=True), dtype=np.float64)
    p /= p.sum(1, keepdims=True)
    weight = np.ones(len(p)) if weight is None else weight
    y = labels[:, None] == np.arange(p.shape[1])
    return (p - y) * weight[:, None], factor * p * (1 - p) * weight[:, None]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("classes", [2, 10, 100])
@pytest.mark.parametrize("samples", [1, 70_000 // 10 + 1])
@pytest.mark.parametrize(("library", "dtype", "order"), [("lightgbm", "f8", "F"), ("xgboost", "f4", "C")])
def test_derivatives(library, dtype, order, samples, classes, weighted, rng):
    scores = np.asarray(rng.standard_normal((samples, classes)) * 4, dtype, order=order)
    labels = rng.integers(0, classes, samples)
    weight = rng.uniform(0, 3, samples).astype("f4") if weighted else None
    factor = 2 if library == "xgboost" else classes / (classes - 1)
    none = np.empty(0) if library == "xgboost" else None
    data = Data(labels.astype("f4"), none if weight is None else weight)
    grad, hess = getattr(boosting, f"{library}_objective")(scores, data)
    for got in grad, hess:
        assert got.dtype == np.float32
        assert got.flags[f"{order}_CONTIGUOUS"]
    for got, want in zip((grad, hess), expected(scores, labels, weight, factor), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-6)
    again = getattr(boosting, f"{library}_sklearn_objective")(labels, scores, weight)
    assert all((a == b).all() for a, b in zip(again, (grad, hess), strict=True))


def test_scores_are_not_changed_and_read_in_place(rng, monkeypatch):
    seen = []
    softmax = csoftmax.softmax
    monkeypatch.setattr(csoftmax, "softmax", lambda x: seen.append(x) or softmax(x))
    scores = np.asfortranarray(rng.standard_normal((50_000, 3)))
    before = scores.copy()
    boosting.lightgbm_sklearn_objective(np.zeros(50_000), scores, None)
    assert (scores == before).all()
    assert len(seen) > 1
    assert all(x.base is scores for x in seen)
    assert sum(len(x) for x in seen) == len(scores)


def test_xgboost_hessian_is_never_zero():
    grad, hess = boosting.xgboost_sklearn_objective(np.array([0]), np.array([[200.0, -200.0]], "f4"))
    assert (grad == 0).all()
    assert (hess == np.float32(1e-16)).all()


def test_lightgbm_grows_its_own_trees(digits, weight):
    X, y = digits

    def train(objective):
        params = LIGHTGBM | {"objective": objective, "boost_from_average": False}
        return lightgbm.train(params, lightgbm.Dataset(X, y, weight=weight), ROUNDS)

    ours, own = train(boosting.lightgbm_objective), train("multiclass")
    trees, own_trees = ours.trees_to_dataframe(), own.trees_to_dataframe()
    for column in "node_index", "left_child", "right_child", "split_feature", "threshold":
        assert trees[column].equals(own_trees[column])
    np.testing.assert_allclose(trees["value"], own_trees["value"], rtol=1e-5, atol=1e-6)
    raw = ours.predict(X)
    np.testing.assert_allclose(raw, own.predict(X, raw_score=True), rtol=1e-5, atol=1e-5)
    assert (csoftmax.softmax(raw).argmax(1) == y).mean() > 0.95


def test_lightgbm_classifier(digits, weight):
    X, y = digits
    params = LIGHTGBM | {"objective": boosting.lightgbm_objective}
    want = lightgbm.train(params, lightgbm.Dataset(X, y, weight=weight), ROUNDS).predict(X)
    options = {name: value for name, value in LIGHTGBM.items() if name != "num_class"}
    model = lightgbm.LGBMClassifier(
        n_estimators=ROUNDS, objective=boosting.lightgbm_sklearn_objective, **options
    )
    got = model.fit(X, y, sample_weight=weight).predict(X, raw_score=True)
    np.testing.assert_array_equal(got, want)


def test_xgboost_grows_its_own_trees(digits, weight):
    X, y = digits
    data = xgboost.DMatrix(X, y, weight=weight)
    ours = xgboost.train(XGBOOST, data, ROUNDS, obj=boosting.xgboost_objective)
    own = xgboost.train(XGBOOST, data, ROUNDS)
    trees, own_trees = ours.trees_to_dataframe(), own.trees_to_dataframe()
    for column in "ID", "Feature", "Split", "Yes", "No":
        assert trees[column].equals(own_trees[column])
    np.testing.assert_allclose(ours.predict(data), own.predict(data), rtol=1e-5, atol=1e-6)
    assert (ours.predict(data).argmax(1) == y).mean() > 0.95


def test_xgboost_classifier(digits, weight):
    X, y = digits
    data = xgboost.DMatrix(X, y, weight=weight)
    want = xgboost.train(XGBOOST, data, ROUNDS, obj=boosting.xgboost_objective).predict(data)
    model = xgboost.XGBClassifier(
        n_estimators=ROUNDS, objective=boosting.xgboost_sklearn_objective, n_jobs=1, base_score=0.5
    )
    np.testing.assert_array_equal(model.fit(X, y, sample_weight=weight).predict_proba(X), want)
