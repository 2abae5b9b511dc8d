"""softmax, log_softmax and logsumexp in functions that Numba compiles, with no interpreter in the way.

Compiled code names csoftmax's C functions by symbol, and LLVM learns their addresses when this module is
imported: a function that Numba has cached on disk finds them in the next process too.
"""

import ctypes
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

import csoftmax
from csoftmax import _capi
from csoftmax._extras import how_to_install

try:
    from llvmlite.binding import add_symbol
    from numba import types
    from numba.core.errors import TypingError
    from numba.extending import get_cython_function_address, intrinsic, overload, register_jitable
except ModuleNotFoundError as error:
    raise ImportError(f"csoftmax.interop.numba needs Numba: {how_to_install('numba')}") from error

__all__ = ["log_softmax", "logsumexp", "softmax"]

_Float = TypeVar("_Float", np.float32, np.float64)


def softmax(
    x: NDArray[_Float], axis: int = -1, temperature: float = 1.0, out: NDArray[_Float] | None = None
) -> NDArray[_Float]:
    """Softmax of a vector or a matrix, as `csoftmax.softmax`; for code that Numba compiles.

    Parameters
    ----------
    x : ndarray
        float32 or float64, one- or two-dimensional, of any strides.
    axis : int, optional
        The axis along which the result sums to 1.
    temperature : float, optional
        The logits are divided by it.
    out : ndarray, optional
        Where to write the result: of the shape and dtype of `x`, which it may be itself. Spares a loop over
        small rows an allocation for each.

    Returns
    -------
    ndarray
        Probabilities; `out` if it was given.

    Examples
    --------
    >>> import numpy as np
    >>> from numba import njit
    >>> from csoftmax.interop.numba import softmax
    >>> @njit
    ... def entropy(logits):
    ...     p = softmax(logits)
    ...     return -np.sum(p * np.log(p))
    >>> round(entropy(np.zeros(4)), 6)
    1.386294
    """
    return csoftmax.softmax(x, axis, temperature=temperature, out=out)


def log_softmax(
    x: NDArray[_Float], axis: int = -1, temperature: float = 1.0, out: NDArray[_Float] | None = None
) -> NDArray[_Float]:
    """Logarithm of the softmax, as `csoftmax.log_softmax`; for code that Numba compiles.

    Parameters
    ----------
    x, axis, temperature, out
        As for `softmax`.

    Returns
    -------
    ndarray
        Log-probabilities; `out` if it was given.

    Examples
    --------
    >>> import numpy as np
    >>> from numba import njit
    >>> from csoftmax.interop.numba import log_softmax
    >>> @njit
    ... def likelihood(logits, label):
    ...     return log_softmax(logits)[label]
    >>> round(likelihood(np.array([1.0, 2.0, 3.0]), 2), 6)
    -0.407606
    """
    return csoftmax.log_softmax(x, axis, temperature=temperature, out=out)


def logsumexp(x: NDArray[_Float], axis: int = -1) -> Any:
    """Logarithm of the sum of exponentials, as `csoftmax.logsumexp`; for code that Numba compiles.

    Parameters
    ----------
    x, axis
        As for `softmax`.

    Returns
    -------
    ndarray or scalar
        A scalar for a vector.

    Examples
    --------
    >>> import numpy as np
    >>> from numba import njit
    >>> from csoftmax.interop.numba import logsumexp
    >>> njit(lambda x: logsumexp(x, 0))(np.full((2, 3), 1000.0))
    array([1000.69314718, 1000.69314718, 1000.69314718])
    """
    return csoftmax.logsumexp(x, axis)


SUFFIXES = {types.float32: "f32", types.float64: "f64"}
C_TYPES = {"int": types.intc, "ptrdiff_t": types.intp, "double": types.double}

_capsule_name = ctypes.pythonapi.PyCapsule_GetName
_capsule_name.restype, _capsule_name.argtypes = ctypes.c_char_p, [ctypes.py_object]


def _signature(function):
    """The signature of a C function, as Cython wrote it into the module; pointers are addresses."""
    result, parameters = _capsule_name(_capi.__pyx_capi__[function]).decode().rstrip(")").split(" (")
    return C_TYPES[result](*(types.intp if p.endswith("*") else C_TYPES[p] for p in parameters.split(", ")))


def _c_functions(name):
    """The C function of each dtype, as something that compiled code can call."""
    functions = {}
    for dtype, suffix in SUFFIXES.items():
        function = f"{name}_{suffix}"
        add_symbol(f"csm_{function}", get_cython_function_address("csoftmax._capi", function))
        functions[dtype] = types.ExternalFunction(f"csm_{function}", _signature(function))
    return functions


_FORWARD = {softmax: _c_functions("softmax"), log_softmax: _c_functions("log_softmax")}
_LOGSUMEXP = _c_functions("logsumexp")


# ------------------------------------------------------------------------------------------- what is accepted


def _is_absent(argument):
    return argument is None or isinstance(argument, types.NoneType | types.Omitted)


def _check_array(name, a):
    if not isinstance(a, types.Array) or a.ndim not in (1, 2) or a.dtype not in SUFFIXES:
        raise TypingError(f"{name} must be a float32 or float64 array of one or two dimensions, not {a}")


def _check_out(x, out):
    _check_array("out", out)
    if (out.ndim, out.dtype) != (x.ndim, x.dtype) or not out.mutable:
        raise TypingError(f"out must be a writable {x.dtype} array of {x.ndim} dimensions, not {out}")


# --------------------------------------------------------------------------------------- steps of compiled code
# `size`, the bytes of an element, is a constant to the compiler, which a.itemsize is not.


@intrinsic
def _address(typing_context, a):
    """Address of an array's first element, without the counted reference that `a.ctypes` takes."""

    def generate(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        return builder.ptrtoint(array.data, context.get_value_type(types.intp))

    return types.intp(a), generate


@register_jitable
def _steps(a, size):
    """Strides from row to row and from element to element of a vector or a matrix."""
    return a.strides[0] // size, a.strides[a.ndim - 1] // size


@register_jitable
def _is_whole(a, size):
    """Whether all strides are whole elements; those of a field of packed records need not be."""
    return a.strides[0] % size == 0 and a.strides[a.ndim - 1] % size == 0


@register_jitable
def _extent(a, size):
    """First address of an array's memory, and the one past its end."""
    first = last = _address(a)
    for d in range(a.ndim):
        span = (a.shape[d] - 1) * a.strides[d]
        if span < 0:
            first += span
        else:
            last += span
    return first, last + size


@register_jitable
def _spoils(x, out, size):
    """Whether writing `out` may change what of `x` is still to be read."""
    x_first, x_last = _extent(x, size)
    first, last = _extent(out, size)
    return first < x_last and x_first < last and (x_first != first or x.strides != out.strides)


@register_jitable
def _is_first(axis, ndim):
    """Whether the axis of a matrix is its first one; a vector has only a last one."""
    if axis < -ndim or axis >= ndim:
        raise ValueError("axis is out of range")
    return ndim == 2 and (axis == 0 or axis == -2)


# ----------------------------------------------------------------------------------------- what Numba compiles


def _implement_forward(function):
    @overload(function)
    def typed(x, axis=-1, temperature=1.0, out=None):
        _check_array("x", x)
        compute, size = _FORWARD[function][x.dtype], x.dtype.bitwidth // 8

        @register_jitable
        def write(x, axis, temperature, y):
            n = x.shape[x.ndim - 1]
            rows = x.shape[0] if x.ndim == 2 else 1
            x_row, x_step = _steps(x, size)
            y_row, y_step = _steps(y, size)
            if _is_first(axis, x.ndim):
                rows, n, x_row, x_step, y_row, y_step = n, rows, x_step, x_row, y_step, y_row
            if compute(rows, n, _address(x), x_row, x_step, _address(y), y_row, y_step, temperature) != 0:
                raise ValueError("temperature must be positive and finite")
            return y

        if _is_absent(out):

            def code(x, axis=-1, temperature=1.0, out=None):
                y = np.empty_like(x)
                if _is_whole(x, size):
                    return write(x, axis, temperature, y)
                return write(x.copy(), axis, temperature, y)

        else:
            _check_out(x, out)

            def code(x, axis=-1, temperature=1.0, out=None):
                if out.shape != x.shape:
                    raise ValueError("out does not have the shape of x")
                if not _is_whole(out, size):
                    raise ValueError("out has strides that are not whole elements")
                if _is_whole(x, size) and not _spoils(x, out, size):
                    return write(x, axis, temperature, out)
                return write(x.copy(), axis, temperature, out)

        return code

    return typed


_implement_forward(softmax)
_implement_forward(log_softmax)


@overload(logsumexp)
def _typed_logsumexp(x, axis=-1):
    _check_array("x", x)
    compute, size = _LOGSUMEXP[x.dtype], x.dtype.bitwidth // 8

    @register_jitable
    def reduce(x, axis):
        n = x.shape[x.ndim - 1]
        rows = x.shape[0] if x.ndim == 2 else 1
        row, step = _steps(x, size)
        if _is_first(axis, x.ndim):
            rows, n, row, step = n, rows, step, row
        y = np.empty(rows, x.dtype)
        compute(rows, n, _address(x), row, step, _address(y), 1)
        return y

    @register_jitable
    def code(x, axis=-1):
        return reduce(x, axis) if _is_whole(x, size) else reduce(x.copy(), axis)

    return (lambda x, axis=-1: code(x, axis)[0]) if x.ndim == 1 else code
