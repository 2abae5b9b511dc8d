"""Multiclass objectives and metrics for LightGBM and XGBoost: what the libraries' own compute, on csoftmax's kernels.

With p the softmax of a sample's raw scores and y its label as one-hot, the gradient is p - y. The hessian is
p (1 - p), times C / (C - 1) for the C classes of LightGBM, times 2 and at least 1e-16 for XGBoost up to 3.2. (XGBoost's
pull request 12537, merged in September 2026, has abs(p - y) in its place: later versions grow other trees.) The metrics
are the mean of -log p of the label, from raw scores, which is what the libraries hand over beside an objective of one's
own. Neither library is imported here.
"""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

import csoftmax

__all__ = [
    "lightgbm_metric",
    "lightgbm_objective",
    "lightgbm_sklearn_metric",
    "lightgbm_sklearn_objective",
    "xgboost_metric",
    "xgboost_objective",
    "xgboost_sklearn_metric",
    "xgboost_sklearn_objective",
]

_BLOCK = 2**15  # elements that stay in cache from the scores to both derivatives
_Derivatives: TypeAlias = tuple[NDArray[np.float32], NDArray[np.float32]]


def _checked_scores(scores: ArrayLike) -> NDArray[Any]:
    scores = np.asarray(scores)
    if scores.ndim != 2 or scores.shape[1] < 2:
        raise ValueError(
            f"raw scores of shape (samples, classes) with at least 2 classes are wanted, not of shape {scores.shape}: "
            "set num_class among the parameters to the number of classes, to 2 for two classes as well "
            "(LGBMClassifier then wants metric='None' too)"
        )
    return scores


def _checked_labels(labels: ArrayLike, scores: NDArray[Any]) -> NDArray[Any]:
    """Class indices as intp, or probabilities of the scores' shape; ValueError that names the first offender."""
    y = np.asarray(labels)
    samples, classes = scores.shape
    if y.dtype.kind not in "fiub":
        raise ValueError(f"labels are class indices from 0 to {classes - 1}, not {y.dtype}: encode them beforehand")
    if y.shape == scores.shape:
        with np.errstate(invalid="ignore"):
            one = abs(y.sum(1, dtype=np.float64) - 1) < 1e-4
        wrong = np.flatnonzero(~((y >= 0).all(1) & one))
        if wrong.size:
            raise ValueError(
                f"soft labels are probabilities that add up to 1, but those of sample {wrong[0]} are {y[wrong[0]]}"
            )
        return y.astype(np.float64)
    if y.shape == (samples, 1):
        y = y[:, 0]
    if y.shape != (samples,):
        raise ValueError(
            f"labels of shape ({samples},), or soft ones of shape {scores.shape}, are wanted, not of shape {y.shape}"
        )
    wrong = np.flatnonzero(~((y >= 0) & (y < classes) & (y == np.floor(y))))
    if wrong.size:
        raise ValueError(f"labels are integers from 0 to {classes - 1}, but that of sample {wrong[0]} is {y[wrong[0]]}")
    return y.astype(np.intp)


def _checked_weight(weight: ArrayLike | None, samples: int) -> NDArray[Any] | None:
    """The weights, or None for equal ones: XGBoost has an empty array for that."""
    if weight is None:
        return None
    w = np.asarray(weight)
    if samples and not w.size:
        return None
    if w.shape != (samples,):
        raise ValueError(f"weights of shape ({samples},) are wanted, not of shape {w.shape}")
    wrong = np.flatnonzero(~((w >= 0) & (w < np.inf)))
    if wrong.size:
        raise ValueError(f"weights are finite and not negative, but that of sample {wrong[0]} is {w[wrong[0]]}")
    return w


def _derivatives(
    scores: ArrayLike, labels: ArrayLike, weight: ArrayLike | None, factor: float | None, least: float = 0.0
) -> _Derivatives:
    """Gradient and hessian in float32, in the memory order of `scores`, which are read once. No factor: LightGBM's."""
    scores = _checked_scores(scores)
    y = _checked_labels(labels, scores)
    samples, classes = scores.shape
    w = _checked_weight(weight, samples)
    if factor is None:
        factor = classes / (classes - 1)
    grad = np.empty_like(scores, dtype=np.float32)
    hess = np.empty_like(grad)
    step = max(1, _BLOCK // classes)
    for start in range(0, samples, step):
        rows = slice(start, start + step)
        p = csoftmax.softmax(scores[rows])
        h = 1 - p
        h *= p
        h *= factor
        if y.ndim == 2:
            np.subtract(p, y[rows], out=p, casting="same_kind")
        else:
            p[np.arange(len(p)), y[rows]] -= 1
        scale = 1 if w is None else w[rows, None]
        np.multiply(p, scale, out=grad[rows], casting="same_kind")
        np.multiply(h, scale, out=hess[rows], casting="same_kind")
        if least:
            np.maximum(hess[rows], least, out=hess[rows])
    return grad, hess


def _logloss(scores: ArrayLike, labels: ArrayLike, weight: ArrayLike | None) -> float:
    """Weighted mean of the cross-entropy; a sample of weight 0 counts for nothing."""
    scores = _checked_scores(scores)
    losses = csoftmax.cross_entropy(scores, _checked_labels(labels, scores), reduction="none")
    w = _checked_weight(weight, len(scores))
    if w is None:
        return float(losses.mean(dtype=np.float64)) if losses.size else np.nan
    counted = w > 0
    total = w[counted].sum(dtype=np.float64)
    return float(losses[counted] @ w[counted].astype(np.float64) / total) if total else np.nan


def lightgbm_objective(preds: ArrayLike, train_data: Any) -> _Derivatives:
    """LightGBM's "multiclass", for ``lightgbm.train``: the value of ``params["objective"]``.

    Parameters
    ----------
    preds : array_like of shape (samples, classes)
        Raw scores.
    train_data : lightgbm.Dataset
        Where the labels and weights are.

    Returns
    -------
    grad, hess : ndarray of float32
        In the shape and memory order of `preds`.

    Raises
    ------
    ValueError
        If a label is no integer from 0 to classes - 1, or a weight negative or not finite: it says which. If the scores
        have no axis of at least 2 classes, as without `num_class`.

    Notes
    -----
    The parameters must name `num_class`. LightGBM starts its own objective from the logarithms of the class
    frequencies, but any other from 0: trees are the same as its own with ``boost_from_average=False``.

    Examples
    --------
    >>> import lightgbm
    >>> import numpy as np
    >>> from csoftmax.interop.boosting import lightgbm_objective
    >>> X, y = np.arange(90.0).reshape(-1, 1), np.arange(90) // 30
    >>> params = {"objective": lightgbm_objective, "num_class": 3, "verbose": -1}
    >>> model = lightgbm.train(params, lightgbm.Dataset(X, y), num_boost_round=10)
    >>> model.predict([[10.0], [80.0]]).argmax(axis=1)
    array([0, 2])
    """
    return _derivatives(preds, train_data.get_label(), train_data.get_weight(), None)


def lightgbm_sklearn_objective(y_true: ArrayLike, y_pred: ArrayLike, weight: ArrayLike | None = None) -> _Derivatives:
    """LightGBM's "multiclass", for ``lightgbm.LGBMClassifier(objective=...)``.

    Parameters
    ----------
    y_true : array_like of shape (samples,) or (samples, classes)
        Labels from 0 to classes - 1, or soft ones: probabilities.
    y_pred : array_like of shape (samples, classes)
        Raw scores.
    weight : array_like of shape (samples,), optional
        Weights of the samples.

    Returns
    -------
    grad, hess : ndarray of float32
        As from `lightgbm_objective`.

    Examples
    --------
    >>> import lightgbm
    >>> from csoftmax.interop.boosting import lightgbm_sklearn_objective
    >>> model = lightgbm.LGBMClassifier(objective=lightgbm_sklearn_objective)
    """
    return _derivatives(y_pred, y_true, weight, None)


def xgboost_objective(predt: ArrayLike, dtrain: Any) -> _Derivatives:
    """XGBoost's "multi:softprob", for the `obj` of ``xgboost.train``.

    Parameters
    ----------
    predt, dtrain
        Raw scores and an ``xgboost.DMatrix``, as `preds` and `train_data` for `lightgbm_objective`.

    Returns
    -------
    grad, hess : ndarray of float32
        In the shape and memory order of `predt`.

    Raises
    ------
    ValueError
        As `lightgbm_objective`.

    Notes
    -----
    The hessian is that of XGBoost up to 3.2, 2 p (1 - p). XGBoost's pull request 12537 of September 2026 has
    abs(p - y) in its place; beside a version that has it, trees are not the same as its own.

    Give the parameters ``"objective": "multi:softprob"`` and `num_class` all the same: they make predictions
    probabilities.

    Examples
    --------
    >>> import numpy as np
    >>> import xgboost
    >>> from csoftmax.interop.boosting import xgboost_objective
    >>> data = xgboost.DMatrix(np.arange(90.0).reshape(-1, 1), np.arange(90) // 30)
    >>> params = {"objective": "multi:softprob", "num_class": 3}
    >>> model = xgboost.train(params, data, num_boost_round=10, obj=xgboost_objective)
    >>> model.predict(data).argmax(axis=1)[[10, 80]]
    array([0, 2])
    """
    return _derivatives(predt, dtrain.get_label(), dtrain.get_weight(), 2.0, 1e-16)


def xgboost_sklearn_objective(
    y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None
) -> _Derivatives:
    """XGBoost's "multi:softprob", for ``xgboost.XGBClassifier(objective=...)``.

    Parameters
    ----------
    y_true, y_pred, sample_weight
        Labels, raw scores and weights, as for `lightgbm_sklearn_objective`.

    Returns
    -------
    grad, hess : ndarray of float32
        As from `xgboost_objective`.

    Examples
    --------
    >>> import xgboost
    >>> from csoftmax.interop.boosting import xgboost_sklearn_objective
    >>> model = xgboost.XGBClassifier(objective=xgboost_sklearn_objective)
    """
    return _derivatives(y_pred, y_true, sample_weight, 2.0, 1e-16)


def lightgbm_metric(preds: ArrayLike, eval_data: Any) -> tuple[str, float, bool]:
    """LightGBM's "multi_logloss" of raw scores, for the `feval` of ``lightgbm.train`` beside `lightgbm_objective`.

    LightGBM takes the scores of an objective of one's own for probabilities when it computes its "multi_logloss", in
    silence, and early stopping then stops at the wrong round. Give it this one instead.

    Parameters
    ----------
    preds : array_like of shape (samples, classes)
        Raw scores; beside an objective that LightGBM knows by name it would hand over probabilities.
    eval_data : lightgbm.Dataset
        Where the labels and weights are.

    Returns
    -------
    name : str
        "softmax_logloss".
    value : float
        Mean of -log p of the labels, weighted; NaN where all weights are 0.
    is_higher_better : bool
        False.

    Raises
    ------
    ValueError
        As `lightgbm_objective`.

    Examples
    --------
    >>> import lightgbm
    >>> import numpy as np
    >>> from csoftmax.interop.boosting import lightgbm_metric, lightgbm_objective
    >>> data = lightgbm.Dataset(np.arange(90.0).reshape(-1, 1), np.arange(90) // 30)
    >>> params = {"objective": lightgbm_objective, "num_class": 3, "verbose": -1}
    >>> seen = {}
    >>> model = lightgbm.train(
    ...     params, data, 10, valid_sets=[data], feval=lightgbm_metric, callbacks=[lightgbm.record_evaluation(seen)]
    ... )
    >>> losses = seen["training"]["softmax_logloss"]
    >>> bool(losses[-1] < losses[0] < np.log(3))
    True
    """
    return "softmax_logloss", _logloss(preds, eval_data.get_label(), eval_data.get_weight()), False


def lightgbm_sklearn_metric(
    y_true: ArrayLike, y_pred: ArrayLike, weight: ArrayLike | None = None
) -> tuple[str, float, bool]:
    """LightGBM's "multi_logloss" of raw scores, for ``LGBMClassifier.fit(eval_metric=...)``.

    The classifier needs ``metric="None"`` too, or it goes on computing its own metric, of raw scores as if they were
    probabilities, and early stopping obeys the first that does not improve.

    Parameters
    ----------
    y_true, y_pred, weight
        Labels, raw scores and weights, as for `lightgbm_sklearn_objective`.

    Returns
    -------
    name, value, is_higher_better
        As from `lightgbm_metric`.

    Examples
    --------
    >>> from csoftmax.interop.boosting import lightgbm_sklearn_metric
    >>> name, value, _ = lightgbm_sklearn_metric([0, 2], [[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]])
    >>> name, round(value, 4)
    ('softmax_logloss', 0.7531)
    """
    return "softmax_logloss", _logloss(y_pred, y_true, weight), False


def xgboost_metric(predt: ArrayLike, dtrain: Any) -> tuple[str, float]:
    """XGBoost's "mlogloss" of raw scores, for the `custom_metric` of ``xgboost.train`` beside `xgboost_objective`.

    XGBoost hands raw scores to it only if `obj` is given too, else probabilities. Its own "mlogloss" is right beside
    `xgboost_objective` as well, as long as the parameters name ``"objective": "multi:softprob"``.

    Parameters
    ----------
    predt, dtrain
        Raw scores and an ``xgboost.DMatrix``, as for `xgboost_objective`.

    Returns
    -------
    name : str
        "softmax_logloss".
    value : float
        As from `lightgbm_metric`.

    Examples
    --------
    >>> import numpy as np
    >>> import xgboost
    >>> from csoftmax.interop.boosting import xgboost_metric
    >>> name, value = xgboost_metric(np.zeros((2, 3)), xgboost.DMatrix(np.zeros((2, 1)), [0, 2]))
    >>> name, round(value, 4)
    ('softmax_logloss', 1.0986)
    """
    return "softmax_logloss", _logloss(predt, dtrain.get_label(), dtrain.get_weight())


def xgboost_sklearn_metric(y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
    """XGBoost's "mlogloss" of raw scores, for ``XGBClassifier(eval_metric=...)`` beside `xgboost_sklearn_objective`.

    Parameters
    ----------
    y_true, y_pred, sample_weight
        Labels, raw scores and weights, as for `lightgbm_sklearn_objective`.

    Returns
    -------
    float
        As the value from `lightgbm_metric`; XGBoost calls it by this function's name.

    Examples
    --------
    >>> from csoftmax.interop.boosting import xgboost_sklearn_metric
    >>> round(xgboost_sklearn_metric([0, 2], [[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]]), 4)
    0.7531
    """
    return _logloss(y_pred, y_true, sample_weight)
