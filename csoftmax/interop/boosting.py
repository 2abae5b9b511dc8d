"""Multiclass objectives for LightGBM and XGBoost: what the libraries' own compute, on csoftmax's kernels.

With p the softmax of a sample's raw scores and y its label as one-hot, the gradient is p - y. The hessian is
p (1 - p), times C / (C - 1) for the C classes of LightGBM, times 2 and at least 1e-16 for XGBoost.
Neither library is imported here.
"""

import numpy as np

import csoftmax

__all__ = [
    "lightgbm_objective",
    "lightgbm_sklearn_objective",
    "xgboost_objective",
    "xgboost_sklearn_objective",
]

_BLOCK = 2**15  # elements that stay in cache from the scores to both derivatives


def _derivatives(scores, labels, weight, factor, least=0.0):
    """Gradient and hessian in float32, in the memory order of `scores`, which are read once."""
    grad = np.empty_like(scores, dtype=np.float32)
    hess = np.empty_like(grad)
    labels = np.asarray(labels).astype(np.intp)
    samples, classes = scores.shape
    step = max(1, _BLOCK // classes)
    for start in range(0, samples, step):
        rows = slice(start, start + step)
        p = csoftmax.softmax(scores[rows])
        h = 1 - p
        h *= p
        h *= factor
        p[np.arange(len(p)), labels[rows]] -= 1
        scale = 1 if weight is None else weight[rows, None]
        np.multiply(p, scale, out=grad[rows], casting="same_kind")
        np.multiply(h, scale, out=hess[rows], casting="same_kind")
        if least:
            np.maximum(hess[rows], least, out=hess[rows])
    return grad, hess


def _lightgbm_factor(scores):
    classes = scores.shape[1]
    return classes / (classes - 1)


def lightgbm_objective(preds, train_data):
    """LightGBM's "multiclass", for ``lightgbm.train``: the value of ``params["objective"]``.

    Parameters
    ----------
    preds : ndarray of shape (samples, classes)
        Raw scores.
    train_data : lightgbm.Dataset
        Where the labels and weights are.

    Returns
    -------
    grad, hess : ndarray of float32
        In the shape and memory order of `preds`.

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
    return _derivatives(preds, train_data.get_label(), train_data.get_weight(), _lightgbm_factor(preds))


def lightgbm_sklearn_objective(y_true, y_pred, weight):
    """LightGBM's "multiclass", for ``lightgbm.LGBMClassifier(objective=...)``.

    Parameters
    ----------
    y_true : ndarray of shape (samples,)
        Labels from 0 to classes - 1.
    y_pred : ndarray of shape (samples, classes)
        Raw scores.
    weight : ndarray of shape (samples,) or None
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
    return _derivatives(y_pred, y_true, weight, _lightgbm_factor(y_pred))


def xgboost_objective(predt, dtrain):
    """XGBoost's "multi:softprob", for the `obj` of ``xgboost.train``.

    Parameters
    ----------
    predt, dtrain
        Raw scores and an ``xgboost.DMatrix``, as `preds` and `train_data` for `lightgbm_objective`.

    Returns
    -------
    grad, hess : ndarray of float32
        In the shape and memory order of `predt`.

    Notes
    -----
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
    weight = dtrain.get_weight()
    return _derivatives(predt, dtrain.get_label(), weight if weight.size else None, 2.0, 1e-16)


def xgboost_sklearn_objective(y_true, y_pred, sample_weight=None):
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
