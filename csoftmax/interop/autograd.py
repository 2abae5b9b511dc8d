"""softmax, log_softmax and logsumexp as primitives of HIPS autograd, with derivatives in both modes."""

from collections.abc import Callable
from typing import Any, SupportsIndex, TypeAlias, TypeVar, cast

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple
from numpy.typing import ArrayLike, NDArray

import csoftmax
from csoftmax._extras import how_to_install

try:
    import autograd.numpy as anp
    from autograd.extend import Box, defjvp, defvjp
    from autograd.extend import primitive as _primitive
except ModuleNotFoundError as error:
    raise ImportError(f"csoftmax.interop.autograd needs autograd: {how_to_install('autograd')}") from error

__all__ = ["log_softmax", "logsumexp", "softmax"]

_Axis: TypeAlias = SupportsIndex | tuple[SupportsIndex, ...] | None
_Function = TypeVar("_Function", bound=Callable[..., Any])


def primitive(function: _Function) -> _Function:
    """autograd's own decorator, which has no types."""
    return cast(_Function, _primitive(function))


@primitive
def softmax(x: ArrayLike, axis: _Axis = -1, temperature: float = 1.0) -> NDArray[Any]:
    """Softmax, as `csoftmax.softmax`; autograd differentiates it by `x`.

    Parameters
    ----------
    x : array_like
        Logits.
    axis : int, tuple of ints or None, optional
        The axis, or axes taken together, along which the result sums to 1.
    temperature : float, optional
        The logits are divided by it.

    Returns
    -------
    ndarray
        Probabilities.

    Examples
    --------
    >>> import autograd.numpy as np
    >>> from autograd import grad
    >>> from csoftmax.interop.autograd import softmax
    >>> grad(lambda x: softmax(x)[0])(np.array([1.0, 2.0, 3.0]))
    array([ 0.08192507, -0.02203304, -0.05989202])
    """
    return csoftmax.softmax(x, axis, temperature=temperature)


@primitive
def log_softmax(x: ArrayLike, axis: _Axis = -1, temperature: float = 1.0) -> NDArray[Any]:
    """Logarithm of the softmax, as `csoftmax.log_softmax`; autograd differentiates it by `x`.

    Parameters
    ----------
    x, axis, temperature
        As for `softmax`.

    Returns
    -------
    ndarray
        Log-probabilities.

    Examples
    --------
    >>> import autograd.numpy as np
    >>> from autograd import grad
    >>> from csoftmax.interop.autograd import log_softmax
    >>> grad(lambda x: log_softmax(x)[0])(np.array([1.0, 2.0, 3.0]))
    array([ 0.90996943, -0.24472847, -0.66524096])
    """
    return csoftmax.log_softmax(x, axis, temperature=temperature)


@primitive
def logsumexp(x: ArrayLike, axis: _Axis = -1, keepdims: bool = False) -> Any:
    """Logarithm of the sum of exponentials, as `csoftmax.logsumexp`; autograd differentiates it by `x`.

    Parameters
    ----------
    x, axis, keepdims
        As for `csoftmax.logsumexp`.

    Returns
    -------
    ndarray or scalar
        A scalar where no axis is left.

    Examples
    --------
    >>> import autograd.numpy as np
    >>> from autograd import grad
    >>> from csoftmax.interop.autograd import logsumexp
    >>> grad(logsumexp)(np.array([1.0, 2.0, 3.0]))
    array([0.09003057, 0.24472847, 0.66524096])
    """
    return csoftmax.logsumexp(x, axis, keepdims=keepdims)


def _traced(*arrays: Any) -> bool:
    """Whether autograd traces an array, and so has to see what is done to it in its own functions."""
    return any(isinstance(a, Box) for a in arrays)


def _softmax_product(v: Any, p: Any, axis: _Axis, temperature: float) -> Any:
    """The product of softmax's Jacobian, which is symmetric, and `v`."""
    if _traced(v, p):
        return p * (v - anp.sum(p * v, axis, keepdims=True)) / temperature
    return csoftmax.softmax_backward(v, p, axis, temperature=temperature)


def _log_softmax_vjp(v: Any, log_p: Any, axis: _Axis, temperature: float) -> Any:
    if _traced(v, log_p):
        return (v - anp.exp(log_p) * anp.sum(v, axis, keepdims=True)) / temperature
    return csoftmax.log_softmax_backward(v, log_p, axis, temperature=temperature)


def _log_softmax_jvp(v: Any, log_p: Any, axis: _Axis, temperature: float) -> Any:
    if _traced(v, log_p):
        return (v - anp.sum(anp.exp(log_p) * v, axis, keepdims=True)) / temperature
    return csoftmax.log_softmax_jvp(v, log_p, axis, temperature=temperature)


def _logsumexp_gradient(y: Any, x: Any, axis: _Axis, keepdims: bool) -> Any:
    """softmax of `x`, which is the gradient of its logsumexp `y`; 0 in a row of -inf, where moving changes nothing."""
    empty = anp.equal(y, -np.inf)  # of the values, whatever is traced
    if not empty.any():
        return softmax(x, axis)
    if not keepdims:
        empty = np.expand_dims(empty, _axes(x, axis))
    # Both sides are masked, so that no derivative of this one meets the NaN of such a row.
    return anp.where(empty, 0, softmax(anp.where(empty, 0, x), axis))


def _axes(x: Any, axis: _Axis) -> tuple[int, ...]:
    axes: Any = range(anp.ndim(x)) if axis is None else axis
    return normalize_axis_tuple(axes, anp.ndim(x))


def _logsumexp_vjp(v: Any, y: Any, x: Any, axis: _Axis, keepdims: bool) -> Any:
    if not keepdims:
        v = anp.expand_dims(v, _axes(x, axis))
    return v * _logsumexp_gradient(y, x, axis, keepdims)


def _logsumexp_jvp(v: Any, y: Any, x: Any, axis: _Axis, keepdims: bool) -> Any:
    return anp.sum(v * _logsumexp_gradient(y, x, axis, keepdims), axis, keepdims=keepdims)


defvjp(softmax, lambda p, x, axis=-1, temperature=1.0: lambda v: _softmax_product(v, p, axis, temperature))
defjvp(softmax, lambda v, p, x, axis=-1, temperature=1.0: _softmax_product(v, p, axis, temperature))
defvjp(
    log_softmax, lambda y, x, axis=-1, temperature=1.0: lambda v: _log_softmax_vjp(v, y, axis, temperature)
)
defjvp(log_softmax, lambda v, y, x, axis=-1, temperature=1.0: _log_softmax_jvp(v, y, axis, temperature))
defvjp(logsumexp, lambda y, x, axis=-1, keepdims=False: lambda v: _logsumexp_vjp(v, y, x, axis, keepdims))
defjvp(logsumexp, lambda v, y, x, axis=-1, keepdims=False: _logsumexp_jvp(v, y, x, axis, keepdims))
