"""SciPy's softmax, log_softmax and logsumexp on csoftmax's kernels: changing an import is all it takes.

Floats of up to 64 bits and integers are computed here, in arrays, lists, scalars and whatever else `numpy.asarray`
takes, such as a DataFrame, along any axis that SciPy takes. All else is SciPy's own answer: complex numbers, long
double, object arrays, the float8 types, bool in softmax and log_softmax, the `b` and `return_sign` of logsumexp, empty
arrays, masked arrays and matrices, arrays of other libraries, and every error. Three things are better than in SciPy:
integers do not wrap around in ``x - max``, float16 is summed in float32, and infinities and NaN print no warnings.
"""

import operator
from collections.abc import Callable
from typing import Any, Literal, SupportsIndex, TypeAlias, TypeVar, overload

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple
from numpy.typing import ArrayLike, NDArray

import csoftmax
from csoftmax._extras import how_to_install

try:
    # By name, since scipy.special's own names may be replaced by the functions below.
    from scipy.special import log_softmax as _scipy_log_softmax
    from scipy.special import logsumexp as _scipy_logsumexp
    from scipy.special import softmax as _scipy_softmax
except ModuleNotFoundError as error:
    raise ImportError(f"csoftmax.interop.scipy needs SciPy: {how_to_install('scipy')}") from error

__all__ = ["log_softmax", "logsumexp", "softmax"]

_Float = TypeVar("_Float", np.float16, np.float32, np.float64)
_Axis: TypeAlias = SupportsIndex | tuple[SupportsIndex, ...] | None
_PlainAxis: TypeAlias = int | tuple[int, ...] | None

_LIBRARIES = {"cupy", "dask", "sparse", "torch"}  # whose arrays SciPy knows by their type alone


def _is_of_another_library(x: object) -> bool:
    """Whether `x` is what SciPy may answer with an array of the same kind: the array-API standard's arrays."""
    if isinstance(x, np.ndarray | np.generic):
        return isinstance(x, np.ma.MaskedArray | np.matrix)
    return hasattr(x, "__array_namespace__") or any(
        base.__module__.partition(".")[0] in _LIBRARIES for base in type(x).__mro__
    )


def _plain_axis(axis: object) -> _PlainAxis:
    """`axis` in Python's integers; TypeError if there are none in it, as for bool, which NumPy refuses too."""
    if axis is None or type(axis) is int:
        return axis
    parts = axis if isinstance(axis, tuple) else (axis,)
    if any(isinstance(part, bool) for part in parts):
        raise TypeError("an integer is required")
    plain = tuple(operator.index(part) for part in parts)
    return plain if isinstance(axis, tuple) else plain[0]


def _ours(x: object, axis: object, kinds: str = "iu") -> tuple[NDArray[Any], _PlainAxis] | None:
    """`x` as an ndarray and `axis` in plain integers, or None where SciPy is to answer; `kinds`: whole numbers."""
    if _is_of_another_library(x):
        return None
    try:
        plain = _plain_axis(axis)
    except TypeError:
        return None
    a = np.asarray(x)
    real = a.dtype.kind in kinds or a.dtype.char in "efd" or a.dtype.name == "bfloat16"
    return (a, plain) if real and a.size else None


def _like_x(function: Callable[..., Any], x: object, axis: object) -> Any:
    """The `function` of csoftmax on `x`, with SciPy's dtype and shape, or None where SciPy is to answer."""
    ours = _ours(x, axis)
    if ours is None:
        return None
    a, plain = ours
    # The dtype of np.exp(a), as SciPy has it for integers: 16 bits for the smallest.
    dtype = np.exp.resolve_dtypes((a.dtype, None))[1] if a.dtype.kind in "iu" else None
    if a.ndim:
        return function(a, plain, dtype=dtype)
    return function(a.reshape(1), dtype=dtype)[0] if plain in (None, 0, -1, ()) else None


@overload
def softmax(x: NDArray[_Float], axis: _Axis = None) -> NDArray[_Float]: ...
@overload
def softmax(x: ArrayLike, axis: _Axis = None) -> Any: ...
def softmax(x: ArrayLike, axis: _Axis = None) -> Any:
    r"""Compute the softmax function as `scipy.special.softmax` does.

    Parameters
    ----------
    x : array_like
        Logits.
    axis : int or tuple of ints, optional
        Axis or axes along which the result sums to 1; by default all of them.

    Returns
    -------
    ndarray
        Of the shape of `x`; a scalar if `x` is one.

    See Also
    --------
    csoftmax.softmax : with `out`, `where`, `dtype` and `temperature`.

    Examples
    --------
    >>> from csoftmax.interop.scipy import softmax
    >>> softmax([[1.0, 2.0], [3.0, 4.0]])
    array([[0.0320586 , 0.08714432],
           [0.23688282, 0.64391426]])
    """
    y = _like_x(csoftmax.softmax, x, axis)
    return _scipy_softmax(x, axis) if y is None else y


@overload
def log_softmax(x: NDArray[_Float], axis: _Axis = None) -> NDArray[_Float]: ...
@overload
def log_softmax(x: ArrayLike, axis: _Axis = None) -> Any: ...
def log_softmax(x: ArrayLike, axis: _Axis = None) -> Any:
    r"""Compute the logarithm of the softmax function as `scipy.special.log_softmax` does.

    Parameters
    ----------
    x, axis
        As for `softmax`.

    Returns
    -------
    ndarray
        Of the shape of `x`; a scalar if `x` is one.

    See Also
    --------
    csoftmax.log_softmax : with `out`, `where`, `dtype` and `temperature`.

    Examples
    --------
    >>> from csoftmax.interop.scipy import log_softmax
    >>> log_softmax([1000.0, 1.0])
    array([   0., -999.])
    """
    y = _like_x(csoftmax.log_softmax, x, axis)
    if y is None:
        return _scipy_log_softmax(x, axis)
    if y.ndim:
        given: Any = range(y.ndim) if axis is None else axis
        axes = normalize_axis_tuple(given, y.ndim)
        nan_rows = np.isnan(y[tuple(slice(1 if d in axes else None) for d in range(y.ndim))])
        if nan_rows.any():
            # NaN fills a row, except that beside +inf SciPy has -inf.
            with np.errstate(all="ignore"):
                np.copyto(y, _scipy_log_softmax(x, axis), where=nan_rows)
    return y


@overload
def logsumexp(
    a: NDArray[_Float], axis: None = None, b: None = None, keepdims: Literal[False] = False,
    return_sign: Literal[False] = False,
) -> _Float: ...
@overload
def logsumexp(
    a: NDArray[_Float], axis: _Axis = None, b: None = None, *, keepdims: Literal[True],
    return_sign: Literal[False] = False,
) -> NDArray[_Float]: ...
@overload
def logsumexp(
    a: ArrayLike, axis: _Axis = None, b: ArrayLike | None = None, keepdims: bool = False, *,
    return_sign: Literal[True],
) -> tuple[Any, Any]: ...
@overload
def logsumexp(
    a: ArrayLike, axis: _Axis = None, b: ArrayLike | None = None, keepdims: bool = False, return_sign: bool = False
) -> Any: ...
def logsumexp(
    a: ArrayLike, axis: _Axis = None, b: ArrayLike | None = None, keepdims: bool = False, return_sign: bool = False
) -> Any:
    r"""Compute the logarithm of the sum of exponentials as `scipy.special.logsumexp` does.

    Parameters
    ----------
    a : array_like
        Exponents.
    axis : int or tuple of ints, optional
        Axis or axes to sum over; by default all of them.
    b : array_like, optional
        Factors of the exponentials.
    keepdims : bool, optional
        Leave the reduced axes in the result, with length 1.
    return_sign : bool, optional
        Return the sign of the sum too, and the logarithm of its absolute value.

    Returns
    -------
    res : ndarray or scalar
        ``log(sum(b * exp(a)))``.
    sgn : ndarray or scalar
        Only with `return_sign`: +1, 0 or -1, or the phase of a complex sum.

    See Also
    --------
    csoftmax.logsumexp : with `out`, `where` and `dtype`.

    Examples
    --------
    >>> from csoftmax.interop.scipy import logsumexp
    >>> float(logsumexp([1000.0, 1000.0]))
    1000.6931471805599
    """
    ours = _ours(a, axis, "iub") if b is None and not return_sign else None
    if ours is None:
        return _scipy_logsumexp(a, axis, b, keepdims, return_sign)
    x, plain = ours
    x = x if x.ndim else x.reshape(1)  # a scalar has one axis here, as in SciPy
    return csoftmax.logsumexp(x, plain, keepdims=keepdims, dtype=None if x.dtype.kind == "f" else np.float64)
