"""Gradient boosting: the libraries' own trees from csoftmax's objectives, in each library's memory order."""

import itertools

import lightgbm
import numpy as np
import pytest
import xgboost
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.model_selection import cross_val_score, train_test_split

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


# ------------------------------------------------------------------------------------- what is refused


def every_function(scores, labels, weight=None):
    """Each objective and metric on the same arguments, as a call still to be made."""
    for library, kind in itertools.product(["lightgbm", "xgboost"], ["objective", "metric"]):
        none = np.empty(0) if library == "xgboost" else None
        data = Data(labels, none if weight is None else weight)
        yield lambda f=f"{library}_{kind}", d=data: getattr(boosting, f)(scores, d)
        yield lambda f=f"{library}_sklearn_{kind}": getattr(boosting, f)(labels, scores, weight)


BAD_LABELS = {
    "negative": ([0, 2, -1, -1], "integers from 0 to 2, but that of sample 2 is -1"),
    "negative float": (np.array([0, -1.0, 5, 0], "f4"), "that of sample 1 is -1.0"),
    "too large": ([0, 1, 2, 3], "that of sample 3 is 3"),
    "huge": ([2**63 - 1, 0, 0, 0], "that of sample 0 is 9223372036854775807"),
    "fractional": ([0, 1.5, 2, 0.25], "that of sample 1 is 1.5"),
    "NaN": ([0, 0, np.nan, 0], "that of sample 2 is nan"),
    "infinite": ([np.inf, 0, 0, 0], "that of sample 0 is inf"),
    "minus infinity": ([0, 0, 0, -np.inf], "that of sample 3 is -inf"),
    "from 1": ([1, 2, 3, 1], "that of sample 2 is 3"),
    "strings": (["a", "b", "a", "c"], "encode them"),
    "objects": (np.array([0, 1, 2, 0], object), "encode them"),
    "too few": ([0, 1], r"labels of shape \(4,\).*not of shape \(2,\)"),
    "scalar": (1, r"not of shape \(\)"),
    "two a sample": (np.zeros((4, 2)), r"soft ones of shape \(4, 3\).*not of shape \(4, 2\)"),
    "soft, negative": ([[-1, 1, 1.0]] + [[1, 0, 0]] * 3, "of sample 0 are"),
    "soft, not of 1": ([[1, 0, 0]] * 3 + [[0.5, 0, 0]], "of sample 3 are"),
    "soft, infinite": ([[1, 0, 0], [0, 1, 0], [np.inf, -np.inf, 1], [0, 0, 1]], "of sample 2 are"),
    "soft, NaN": ([[1, 0, 0], [np.nan, 0, 1]] + [[1, 0, 0]] * 2, "of sample 1 are"),
}


@pytest.mark.parametrize("name", BAD_LABELS)
def test_labels_that_are_none_are_refused(name):
    labels, message = BAD_LABELS[name]
    for call in every_function(np.zeros((4, 3), "f4"), np.asarray(labels)):
        with pytest.raises(ValueError, match=message):
            call()


@given(label=st.floats(width=32), place=st.integers(0, 6), classes=st.integers(2, 5))
def test_a_label_is_taken_if_and_only_if_it_is_a_class(label, place, classes):
    labels = np.zeros(7, "f4")
    labels[place] = label
    scores = np.zeros((7, classes))
    if label in range(classes):
        grad, _ = boosting.xgboost_sklearn_objective(labels, scores)
        assert grad[place, int(label)] == np.float32(1 / classes - 1)
        assert (grad[place] < 0).sum() == 1
    else:
        for call in every_function(scores, labels):
            with pytest.raises(ValueError, match=f"that of sample {place} is "):
                call()


@pytest.mark.parametrize("shape", [(4,), (12,), (4, 1), (4, 0), (), (2, 2, 3)])
def test_scores_without_an_axis_of_classes_are_refused(shape):
    for call in every_function(np.zeros(shape), np.zeros(4)):
        with pytest.raises(ValueError, match=r"num_class"):
            call()


def test_num_class_forgotten_in_training(digits):
    X, y = digits
    params = {"objective": boosting.lightgbm_objective, "verbose": -1}
    with pytest.raises(ValueError, match="set num_class among the parameters"):
        lightgbm.train(params, lightgbm.Dataset(X, y), 2)
    with pytest.raises(ValueError, match="set num_class among the parameters"):
        xgboost.train({"nthread": 1}, xgboost.DMatrix(X, y), 2, obj=boosting.xgboost_objective)


def test_the_advice_for_two_classes_works(digits):
    X, y = digits[0], digits[1] % 2
    lgbm = lightgbm.LGBMClassifier(objective=boosting.lightgbm_sklearn_objective, n_estimators=5, verbose=-1)
    xgb = xgboost.XGBClassifier(objective=boosting.xgboost_sklearn_objective, n_estimators=5)
    for model in lgbm, xgb:
        with pytest.raises(ValueError, match=r"num_class among the parameters .* to 2 for two classes"):
            model.fit(X, y)
    raw = lgbm.set_params(num_class=2, metric="None").fit(X, y).predict_proba(X, raw_score=True)
    for scores in raw, xgb.set_params(num_class=2).fit(X, y).predict_proba(X):
        assert (scores.argmax(1) == y).mean() > 0.9


def test_labels_out_of_range_in_training(digits):
    X, y = digits
    params = LIGHTGBM | {"objective": boosting.lightgbm_objective, "num_class": 9}
    with pytest.raises(ValueError, match=r"integers from 0 to 8, but that of sample 9 is 9\.0"):
        lightgbm.train(params, lightgbm.Dataset(X, y), 2)
    with pytest.raises(ValueError, match=r"that of sample 0 is -1\.0"):
        xgboost.train(XGBOOST, xgboost.DMatrix(X, y - 1.0), 2, obj=boosting.xgboost_objective)


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf, -np.inf])
def test_weights_that_are_none_are_refused(bad):
    for call in every_function(np.zeros((4, 3)), np.zeros(4), np.array([1, 0, bad, 1])):
        with pytest.raises(ValueError, match=f"not negative, but that of sample 2 is {bad}"):
            call()
    for call in every_function(np.zeros((4, 3)), np.zeros(4), np.ones(3)):
        with pytest.raises(ValueError, match=r"weights of shape \(4,\) are wanted, not of shape \(3,\)"):
            call()


@pytest.mark.parametrize("samples", [3, 5])
@pytest.mark.parametrize("dtype", ["f4", "f8", "i8", "?"])
def test_soft_labels(samples, dtype, rng):
    """Of the scores' shape they are probabilities, as many samples as classes or not; one-hot they are indices."""
    scores = rng.standard_normal((samples, 3))
    hard = rng.integers(0, 3, samples)
    one_hot = (hard[:, None] == np.arange(3)).astype(dtype)
    for hard_call, soft_call in zip(every_function(scores, hard), every_function(scores, one_hot), strict=True):
        for a, b in zip(np.atleast_1d(hard_call()), np.atleast_1d(soft_call()), strict=True):
            if isinstance(a, np.ndarray | float):
                np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
    soft = np.full((samples, 3), 1 / 3)
    grad, hess = boosting.lightgbm_sklearn_objective(soft, scores)
    p = csoftmax.softmax(scores)
    np.testing.assert_allclose(grad, p - 1 / 3, atol=1e-7)
    np.testing.assert_allclose(hess, 1.5 * p * (1 - p), atol=1e-7)


def test_labels_as_a_column_and_without_samples():
    grad, _ = boosting.xgboost_sklearn_objective([[1], [0]], np.zeros((2, 2)))
    assert (grad == [[0.5, -0.5], [-0.5, 0.5]]).all()
    for call in every_function(np.zeros((0, 3)), np.zeros(0)):
        call()


# ----------------------------------------------------------------------------------------------- metrics


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("weighted", [False, True])
def test_metrics_are_the_mean_of_the_loss(dtype, order, weighted, rng):
    scores = np.asarray(rng.standard_normal((500, 7)) * 5, dtype, order=order)
    labels = rng.integers(0, 7, 500)
    weight = rng.uniform(0, 3, 500) if weighted else None
    losses = -np.log(np.take_along_axis(csoftmax.softmax(scores.astype("f8")), labels[:, None], 1)[:, 0])
    want = np.average(losses, weights=weight)
    data = Data(labels.astype("f4"), np.empty(0) if weight is None else weight)
    name, value, higher = boosting.lightgbm_metric(scores, data)
    assert (name, higher) == ("softmax_logloss", False)
    assert value == pytest.approx(want, rel=1e-6)
    assert boosting.lightgbm_sklearn_metric(labels, scores, weight) == (name, value, False)
    assert boosting.xgboost_metric(scores, data) == (name, value)
    assert boosting.xgboost_sklearn_metric(labels, scores, sample_weight=weight) == value


def test_metric_of_extreme_scores():
    """Nothing is clipped, what has weight 0 counts for nothing, and no warning is printed."""
    scores = [[0.0, 5000.0], [-np.inf, 0.0], [np.nan, 0.0]]
    assert boosting.xgboost_sklearn_metric([0, 0, 0], scores, [1.0, 0.0, 0.0]) == 5000
    assert boosting.xgboost_sklearn_metric([0, 0], scores[:2]) == np.inf
    assert np.isnan(boosting.xgboost_sklearn_metric([0, 0, 0], scores, [0, 0, 0]))


@pytest.fixture(scope="module")
def halves(digits):
    return train_test_split(*digits, random_state=0)


OPTIONS = {"num_class": 10, "verbose": -1, "num_threads": 1}


def lightgbm_stops(halves, objective, **options):
    """Round at which training stops early, and the losses that it saw."""
    X, X_test, y, y_test = halves
    seen = {}
    train = lightgbm.Dataset(X, y)
    feval = options.pop("feval", None)
    model = lightgbm.train(
        OPTIONS | {"objective": objective, "boost_from_average": False} | options,
        train,
        150,
        valid_sets=[train.create_valid(X_test, y_test)],
        feval=feval,
        callbacks=[lightgbm.early_stopping(5, verbose=False), lightgbm.record_evaluation(seen)],
    )
    return model.best_iteration, *seen["valid_0"].values()


def test_lightgbm_stops_where_its_own_objective_does(halves):
    own, own_losses = lightgbm_stops(halves, "multiclass", metric="multi_logloss")
    ours, losses = lightgbm_stops(halves, boosting.lightgbm_objective, feval=boosting.lightgbm_metric)
    assert ours == own
    np.testing.assert_allclose(losses, own_losses, rtol=1e-6)
    # what the page warns of: LightGBM takes raw scores for probabilities
    wrong, _ = lightgbm_stops(halves, boosting.lightgbm_objective, metric="multi_logloss")
    assert wrong < own / 2


def test_lightgbm_classifier_stops_where_its_own_objective_does(halves):
    X, X_test, y, y_test = halves

    def stops(**fit_options):
        model = lightgbm.LGBMClassifier(
            n_estimators=150, objective=boosting.lightgbm_sklearn_objective, n_jobs=1, verbose=-1, metric="None"
        )
        stop = lightgbm.early_stopping(5, verbose=False)
        return model.fit(X, y, eval_X=X_test, eval_y=y_test, callbacks=[stop], **fit_options).best_iteration_

    own, _ = lightgbm_stops(halves, "multiclass", metric="multi_logloss")
    assert stops(eval_metric=boosting.lightgbm_sklearn_metric) == own
    assert stops(eval_metric=lambda y_true, y_pred: boosting.lightgbm_sklearn_metric(y_true, y_pred)) == own


def test_xgboost_stops_where_its_own_objective_does(halves):
    X, X_test, y, y_test = halves
    test = xgboost.DMatrix(X_test, y_test)

    def stops(**options):
        seen = {}
        model = xgboost.train(
            XGBOOST | options.pop("params", {}),
            xgboost.DMatrix(X, y),
            150,
            evals=[(test, "test")],
            early_stopping_rounds=5,
            evals_result=seen,
            verbose_eval=False,
            **options,
        )
        return model.best_iteration, *seen["test"].values()

    own, own_losses = stops()
    ours, losses = stops(
        obj=boosting.xgboost_objective,
        custom_metric=boosting.xgboost_metric,
        params={"disable_default_eval_metric": True},
    )
    assert ours == own
    np.testing.assert_allclose(losses, own_losses, rtol=1e-4)
    assert stops(obj=boosting.xgboost_objective)[0] == own
    model = xgboost.XGBClassifier(
        n_estimators=150,
        objective=boosting.xgboost_sklearn_objective,
        eval_metric=boosting.xgboost_sklearn_metric,
        early_stopping_rounds=5,
        n_jobs=1,
        base_score=0.5,
    )
    model.fit(X, y, eval_set=[(X_test, y_test)], verbose=False)
    assert model.best_iteration == own
    assert "xgboost_sklearn_metric" in model.evals_result()["validation_0"]


def test_what_predict_and_cross_val_score_give(digits):
    """What the page says of them."""
    X, y = digits[0][:300], digits[1][:300]
    options = {"n_estimators": 3, "n_jobs": 1}
    model = xgboost.XGBClassifier(objective=boosting.xgboost_sklearn_objective, **options)
    assert (cross_val_score(model, X, y, cv=2) > 0.5).all()
    model = lightgbm.LGBMClassifier(objective=boosting.lightgbm_sklearn_objective, verbose=-1, **options).fit(X, y)
    with pytest.warns(match="Returning raw scores"):
        raw = model.predict(X)
    assert raw.shape == (300, 10)
    assert not np.allclose(raw.sum(1), 1)
    with pytest.warns() as warned:
        assert np.isnan(cross_val_score(model, X, y, cv=2)).all()
    assert any("Scoring failed" in str(warning.message) for warning in warned)
