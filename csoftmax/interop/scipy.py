"""SciPy's softmax, log_softmax and logsumexp on csoftmax's kernels: changing an import is all it takes.

Floats of up to 64 bits and integers, in arrays and lists, are computed here. All else is SciPy's own answer:
complex numbers, long double, bool, weights, signs, scalars, empty arrays, masked arrays and those of other
libraries. Two things are better than in SciPy: integers do not wrap around in ``x - max``, and infinities and
NaN print no warnings.
"""

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

import csoftmax

try:
    # By name, since scipy.special's own names may be replaced by the functions below.
    from scipy.special import log_softmax as _scipy_log_softmax
    from scipy.special import logsumexp as _scipy_logsumexp
    from scipy.special import softmax as _scipy_softmax
except ModuleNotFoundError as error:
    raise ImportError("csoftmax.interop.scipy needs SciPy: pip install 'csoftmax[scipy]'") from error

__all__ = ["log_softmax", "logsumexp", "softmax"]

_AXIS_TYPES = (type(None), int, tuple)


def _ours(x, axis):
    """`x` as an ndarray that csoftmax takes, or None where SciPy is to answer."""
    if type(axis) not in _AXIS_TYPES or isinstance(x, np.ma.MaskedArray | np.matrix):
        return None
    if not isinstance(x, np.ndarray | list | tuple):
        return None
    a = np.asarray(x)
    real = a.dtype.kind in "iu" or a.dtype.char in "efd" or a.dtype.name == "bfloat16"
    return a if real and a.ndim and a.size else None


def _result_dtype(a):
    """None for floats; for integers the dtype of ``np.exp(a)``, as SciPy has it: 16 bits for the smallest."""
    return np.exp.resolve_dtypes((a.dtype, None))[1] if a.dtype.kind in "iu" else None


def softmax(x, axis=None):
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
    a = _ours(x, axis)
    return _scipy_softmax(x, axis) if a is None else csoftmax.softmax(a, axis, dtype=_result_dtype(a))


def log_softmax(x, axis=None):
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
    a = _ours(x, axis)
    if a is None:
        return _scipy_log_softmax(x, axis)
    y = csoftmax.log_softmax(a, axis, dtype=_result_dtype(a))
    axes = normalize_axis_tuple(range(a.ndim) if axis is None else axis, a.ndim)
    nan_rows = np.isnan(y[tuple(slice(1 if d in axes else None) for d in range(a.ndim))])
    if nan_rows.any():
        # NaN fills a row, except that beside +inf SciPy has -inf.
        with np.errstate(all="ignore"):
            np.copyto(y, _scipy_log_softmax(a, axis), where=nan_rows)
    return y


def logsumexp(a, axis=None, b=None, keepdims=False, return_sign=False):
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
    x = _ours(a, axis) if b is None and not return_sign else None
    if x is None:
        return _scipy_logsumexp(a, axis, b, keepdims, return_sign)
    return csoftmax.logsumexp(x, axis, keepdims=keepdims, dtype=None if x.dtype.kind == "f" else np.float64)
