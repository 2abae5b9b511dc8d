"""scikit-learn's softmax on csoftmax's kernels.

`patch` replaces it wherever scikit-learn holds it: in predict_proba of LogisticRegression, in
AdaBoostClassifier, in discriminant analysis, calibration and the loss module, and in the output layer of
MLPClassifier.
"""

import contextlib
import sys

import numpy as np

import csoftmax

try:
    from sklearn.neural_network import _base
    from sklearn.utils import extmath
except ModuleNotFoundError as error:
    raise ImportError(
        "csoftmax.interop.sklearn needs scikit-learn: pip install 'csoftmax[sklearn]'"
    ) from error

__all__ = ["patch", "patched", "unpatch"]

_softmax = extmath.softmax
_inplace_softmax = _base.inplace_softmax


def _is_ours(X):
    return type(X) is np.ndarray and X.ndim == 2 and X.dtype in (np.float32, np.float64)


def softmax(X, copy=True):
    """Softmax of the rows of X, by `sklearn.utils.extmath.softmax` where X is no matrix of floats."""
    return csoftmax.softmax(X, out=None if copy else X) if _is_ours(X) else _softmax(X, copy=copy)


def inplace_softmax(X):
    """Softmax of the rows of X, in place."""
    if _is_ours(X):
        csoftmax.softmax(X, out=X)
    else:
        _inplace_softmax(X)


def _replace(old, new):
    """Put `new` wherever a module of scikit-learn has `old` by its name."""
    for name, module in list(sys.modules.items()):
        if name.startswith("sklearn.") and vars(module).get(old.__name__) is old:
            setattr(module, old.__name__, new)


def patch():
    """Let scikit-learn compute softmax with csoftmax, in modules loaded later too.

    Examples
    --------
    >>> from csoftmax.interop.sklearn import patch, unpatch
    >>> from sklearn.linear_model import LogisticRegression
    >>> patch()
    >>> LogisticRegression().fit([[0.0], [1.0], [2.0]], [0, 1, 2]).predict_proba([[0.0]]).argmax()
    np.int64(0)
    >>> unpatch()
    """
    _replace(_softmax, softmax)
    _replace(_inplace_softmax, inplace_softmax)
    _base.ACTIVATIONS["softmax"] = inplace_softmax


def unpatch():
    """Give scikit-learn its own softmax back.

    Examples
    --------
    >>> from csoftmax.interop.sklearn import unpatch
    >>> unpatch()
    """
    _replace(softmax, _softmax)
    _replace(inplace_softmax, _inplace_softmax)
    _base.ACTIVATIONS["softmax"] = _inplace_softmax


@contextlib.contextmanager
def patched():
    """Patch scikit-learn while the context lasts.

    Yields
    ------
    None

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.utils import extmath
    >>> from csoftmax.interop.sklearn import patched
    >>> with patched():
    ...     extmath.softmax(np.zeros((1, 2)))
    array([[0.5, 0.5]])
    """
    patch()
    try:
        yield
    finally:
        unpatch()
