"""scikit-learn's softmax on csoftmax's kernels.

`patch` replaces it wherever scikit-learn holds it: in predict_proba of LogisticRegression, in
AdaBoostClassifier, in discriminant analysis, calibration and the loss module, and in the output layer of
MLPClassifier.
"""

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import csoftmax
from csoftmax._extras import how_to_install

try:
    from sklearn.neural_network import _base
    from sklearn.utils import extmath
except ModuleNotFoundError as error:
    raise ImportError(
        f"csoftmax.interop.sklearn needs scikit-learn: {how_to_install('sklearn')}"
    ) from error

__all__ = ["patch", "patched", "unpatch"]

_softmax = extmath.softmax
_inplace_softmax = _base.inplace_softmax

# Who wants the patch: the process since `patch`, and so many contexts of `patched`, in whatever threads.
_lock = threading.Lock()
_for_the_process = False
_contexts = 0


def _is_ours(X: Any) -> bool:
    return type(X) is np.ndarray and X.ndim == 2 and X.dtype in (np.float32, np.float64)


def softmax(X: Any, copy: bool = True) -> Any:
    """Softmax of the rows of X, by `sklearn.utils.extmath.softmax` where X is no matrix of floats."""
    return csoftmax.softmax(X, out=None if copy else X) if _is_ours(X) else _softmax(X, copy=copy)


def inplace_softmax(X: Any) -> None:
    """Softmax of the rows of X, in place."""
    if _is_ours(X):
        csoftmax.softmax(X, out=X)
    else:
        _inplace_softmax(X)


def _replace(old: Callable[..., Any], new: Callable[..., Any]) -> None:
    """Put `new` wherever a module of scikit-learn has `old` by its name."""
    for name, module in list(sys.modules.items()):
        if name.startswith("sklearn.") and vars(module).get(old.__name__) is old:
            setattr(module, old.__name__, new)
    if _base.ACTIVATIONS["softmax"] is old:
        _base.ACTIVATIONS["softmax"] = new


def _put_in_place() -> None:
    _replace(_softmax, softmax)
    _replace(_inplace_softmax, inplace_softmax)


def _take_away_if_unwanted() -> None:
    if not (_for_the_process or _contexts):
        _replace(softmax, _softmax)
        _replace(inplace_softmax, _inplace_softmax)


def patch() -> None:
    """Let scikit-learn compute softmax with csoftmax, in modules loaded later too, until `unpatch`.

    Examples
    --------
    >>> from csoftmax.interop.sklearn import patch, unpatch
    >>> from sklearn.linear_model import LogisticRegression
    >>> patch()
    >>> LogisticRegression().fit([[0.0], [1.0], [2.0]], [0, 1, 2]).predict_proba([[0.0]]).argmax()
    np.int64(0)
    >>> unpatch()
    """
    global _for_the_process
    with _lock:
        _put_in_place()
        _for_the_process = True


def unpatch() -> None:
    """Give scikit-learn its own softmax back, however often `patch` was called.

    While a context of `patched` lasts, in any thread, it keeps csoftmax's; the last one to end gives it back.

    Examples
    --------
    >>> from csoftmax.interop.sklearn import unpatch
    >>> unpatch()
    """
    global _for_the_process
    with _lock:
        _for_the_process = False
        _take_away_if_unwanted()


@contextlib.contextmanager
def patched() -> Iterator[None]:
    """Patch scikit-learn while the context lasts, for all threads of the process.

    Contexts may lie within one another, overlap and end in any order: the patch goes with the last of them, and stays
    where `patch` was called.

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
    global _contexts
    with _lock:
        _put_in_place()
        _contexts += 1
    try:
        yield
    finally:
        with _lock:
            _contexts -= 1
            _take_away_if_unwanted()
