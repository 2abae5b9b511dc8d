"""JAX: softmax, log_softmax and logsumexp on the CPU, for jit, vmap, and derivatives of both modes.

XLA calls csoftmax's kernels through its typed FFI, with no interpreter in the way. What it calls is some
250 lines of C, _jax_handlers.c, compiled where they are used, at the first import: jaxlib brings the headers
and checks their version, so that handlers in csoftmax's wheels would tie these to versions of jaxlib, for
the sake of a fifth of a second once. The outcome is kept in a directory of the user's.

custom_vjp would forbid forward mode, and custom_jvp differentiates backwards only what JAX can transpose.
So the functions are custom_jvp, and the products with their Jacobians primitives that know their transposes.

A temperature that is a plain number is an attribute of the call, and one that is an array of JAX's an operand,
which may be traced, mapped and differentiated. Below, `traced` is the tuple of it: empty, or of one array.
"""

import ctypes
import functools
import hashlib
import math
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from sysconfig import get_platform
from typing import Any, SupportsIndex, TypeAlias

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

import csoftmax
from csoftmax._extras import how_to_install

try:
    import jax
    import jax.numpy as jnp
    from jax.custom_derivatives import SymbolicZero
    from jax.extend.core import Primitive
    from jax.interpreters import ad, batching, mlir
    from jax.typing import ArrayLike
except ModuleNotFoundError as error:
    raise ImportError(f"csoftmax.interop.jax needs JAX: {how_to_install('jax')}") from error

__all__ = ["log_softmax", "logsumexp", "softmax"]

_Numbers: TypeAlias = ArrayLike | Sequence[Any]
_Axis: TypeAlias = SupportsIndex | Sequence[SupportsIndex] | None

# ------------------------------------------------------------------------------------------------ handlers

_SOURCE = Path(__file__).with_name("_jax_handlers.c")
_FLAGS = ["-O2", "-std=c11", "-shared", "-fPIC"]
_HANDLERS = ["softmax", "log_softmax", "logsumexp", "softmax_backward", "log_softmax_backward"]


def _compiler():
    """The C compiler as a list of arguments: $CC, or the first of the usual ones."""
    if os.environ.get("CC"):
        return shlex.split(os.environ["CC"])
    for name in "cc", "gcc", "clang":
        if shutil.which(name):
            return [name]
    raise ImportError(
        "csoftmax.interop.jax needs a C compiler, for 250 lines between JAX and csoftmax: "
        "there is no cc, gcc or clang; install one, or name one in the environment variable CC"
    )


def _cache_directory():
    """Where compiled handlers are kept: $CSOFTMAX_CACHE_DIR, or the user's directory for such things."""
    if os.environ.get("CSOFTMAX_CACHE_DIR"):
        return Path(os.environ["CSOFTMAX_CACHE_DIR"])
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "csoftmax"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "csoftmax"


def _compile(target):
    """Compile the handlers into the file `target`, which other processes may be doing as well."""
    includes = [f"-I{folder}" for folder in (csoftmax.get_include(), jax.ffi.include_dir())]
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(dir=target.parent)
    except OSError as error:
        raise ImportError(
            f"csoftmax.interop.jax cannot write to {target.parent}: "
            "name another directory in the environment variable CSOFTMAX_CACHE_DIR"
        ) from error
    try:
        made = Path(folder, target.name)
        command = [*_compiler(), *_FLAGS, *includes, str(_SOURCE), "-o", str(made)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise ImportError(
                f"csoftmax.interop.jax cannot run the C compiler {command[0]!r}: {error}"
            ) from error
        if done.returncode:
            raise ImportError(f"csoftmax.interop.jax: {shlex.join(command)} failed:\n{done.stderr}")
        os.replace(made, target)
    finally:
        shutil.rmtree(folder)


def _load():
    """The compiled handlers, from the cache if these versions have been compiled before."""
    headers = [
        Path(csoftmax.get_include(), "csoftmax/csoftmax.h"),
        Path(jax.ffi.include_dir(), "xla/ffi/api/c_api.h"),
    ]
    sources = [path.read_bytes() for path in (_SOURCE, *headers)]
    key = repr((csoftmax.runtime_info()["version"], sources, os.environ.get("CC"), _FLAGS, get_platform()))
    name = f"jax-{hashlib.sha256(key.encode()).hexdigest()[:20]}.so"
    target = _cache_directory() / name
    if not target.exists():
        _compile(target)
    return ctypes.CDLL(str(target))


def _register():
    from csoftmax._capi import _C_API

    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    library = _load()
    library.csoftmax_jax_bind(ctypes.c_void_p(pointer(_C_API, b"csoftmax._capi._C_API")))
    for name in _HANDLERS:
        handler = jax.ffi.pycapsule(getattr(library, f"csoftmax_jax_{name}"))
        jax.ffi.register_ffi_target(f"csoftmax_{name}", handler, platform="cpu")


_register()


def _call(name, *operands, temperature=1.0, n=None):
    """Call a handler on arrays whose class axis is the second to last; the result has length `n` there.

    The last operand may be traced temperatures: one, or one for each place along the first axes.
    """
    *batch, classes, inner = operands[0].shape
    result = jax.ShapeDtypeStruct((*batch, classes if n is None else n, inner), operands[0].dtype)
    call = jax.ffi.ffi_call(f"csoftmax_{name}", result, vmap_method="broadcast_all")
    return call(*operands, temperature=np.float64(temperature))


# --------------------------------------------------------------------------------------------- derivatives


def _divide(x, temperature):
    """x / temperature, of a number that XLA would take for 0 as it does subnormal ones too.

    By the smallest number that it does not, as often as that goes, at most twice: what that leaves finite is 0.
    The barrier keeps XLA from dividing by the product.
    """
    least = float(jnp.finfo(x.dtype).tiny)
    for _ in range(2):
        if temperature < least:
            x, temperature = jax.lax.optimization_barrier(x / least), temperature / least
    return x / max(temperature, least)


def _linear(name, formula, kernel):
    """A function of (v, y, traced) that is linear in `v`, as a primitive of JAX.

    `formula` is what it computes, before the division by the temperature, in JAX's own functions. It is
    differentiated by `y` and the temperature, and computes the result where there is no kernel.
    """
    primitive = Primitive(f"csoftmax_{name}")

    def bind(v, y, traced, temperature):
        return primitive.bind(v, y, *traced, temperature=temperature)

    def evaluate(v, y, traced, temperature):
        dtype = jnp.promote_types(v.dtype, jnp.float32)
        result = formula(v.astype(dtype), y.astype(dtype))
        if not traced:
            return _divide(result, temperature).astype(v.dtype)
        (t,) = traced
        return (result / t.reshape(t.shape + (1,) * (v.ndim - t.ndim))).astype(v.dtype)

    def compute(v, y, *traced, temperature):
        if kernel:
            return _call(kernel, v, y, *traced, temperature=temperature)
        return evaluate(v, y, traced, temperature)

    def differentiate(primals, tangents, temperature):
        v, *others = primals
        v_dot, *others_dot = map(ad.instantiate_zeros, tangents)
        by_others = jax.jvp(lambda y, *t: evaluate(v, y, t, temperature), others, others_dot)[1]
        y, *traced = others
        return bind(v, y, traced, temperature), bind(v_dot, y, traced, temperature) + by_others

    def batch(operands, axes, temperature):
        (size,) = {x.shape[axis] for x, axis in zip(operands, axes, strict=True) if axis is not None}

        def move(x, axis):
            if axis is None:
                # a scalar is a temperature that is everyone's
                return jnp.broadcast_to(x, (size, *x.shape)) if x.ndim else x
            return jnp.moveaxis(x, axis, 0)

        v, y, *traced = map(move, operands, axes)
        return bind(v, y, traced, temperature), 0

    primitive.def_impl(jax.jit(compute, static_argnames="temperature"))
    primitive.def_abstract_eval(lambda v, *others, temperature: v)
    mlir.register_lowering(primitive, mlir.lower_fun(compute, multiple_results=False))
    ad.primitive_jvps[primitive] = differentiate
    batching.primitive_batchers[primitive] = batch
    return primitive, bind


def _transposes(primitive, bind):
    """Let `bind` be the transpose of the linear primitive."""

    def transpose(v, _, y, *traced, temperature):
        return bind(v, y, traced, temperature), None, *(None for _ in traced)

    ad.primitive_transposes[primitive] = transpose


def _sum(x):
    return jnp.sum(x, -2, keepdims=True)


_softmax_p, _softmax_product = _linear(
    "softmax_product", lambda v, p: p * (v - _sum(p * v)), "softmax_backward"
)
_log_softmax_vjp_p, _log_softmax_vjp = _linear(
    "log_softmax_vjp", lambda v, y: v - jnp.exp(y) * _sum(v), "log_softmax_backward"
)
_log_softmax_jvp_p, _log_softmax_jvp = _linear(
    "log_softmax_jvp", lambda v, y: v - _sum(jnp.exp(y) * v), None
)
_transposes(_softmax_p, _softmax_product)
_transposes(_log_softmax_vjp_p, _log_softmax_jvp)
_transposes(_log_softmax_jvp_p, _log_softmax_vjp)


def _is_zero(tangent):
    return isinstance(tangent, SymbolicZero)


def _differentiable(name, product):
    """The function of (x, traced, temperature) that the handler computes, with its Jacobian's product."""

    @functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
    def function(x, traced, temperature):
        return _call(name, x, *traced, temperature=temperature)

    def differentiate(temperature, primals, tangents):
        (x, traced), (v, traced_dot) = primals, tangents
        y = function(x, traced, temperature)
        if _is_zero(v):
            v = jnp.zeros_like(x)
        if traced and not _is_zero(traced_dot[0]):
            # The derivative by T is -J (x / T) / T, and J, to which a constant is nothing, maps x / T to what
            # it maps log p to. A class that has no probability keeps none.
            log_p = y if name == "log_softmax" else _log_softmax(x, traced, temperature)
            log_p -= log_p.max(-2, keepdims=True)  # so that equal logits have exactly the same
            v -= (jnp.where(jnp.isneginf(log_p), 0, log_p) * traced_dot[0]).astype(v.dtype)
        return y, product(v, y, traced, temperature)

    function.defjvp(differentiate, symbolic_zeros=True)
    return function


_softmax = _differentiable("softmax", _softmax_product)
_log_softmax = _differentiable("log_softmax", _log_softmax_jvp)


@jax.custom_jvp
def _logsumexp(x):
    return _call("logsumexp", x, n=1)


@_logsumexp.defjvp
def _(primals, tangents):
    (x,), (v,) = primals, tangents
    total = _logsumexp(x)
    # A row of -inf has no softmax, but moving it changes nothing. It is not even asked for its softmax, whose
    # NaN would come back from further derivatives.
    empty = jnp.isneginf(total)
    p = jnp.where(empty, 0, _softmax(jnp.where(empty, 0, x), (), 1.0))
    return total, _sum(p * v)


# ---------------------------------------------------------------------------------------- public functions


def _logits(x):
    """`x` as an array of floats."""
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.integer) or x.dtype == bool:
        x = x.astype(float)
    if x.dtype not in (jnp.float32, jnp.float64, jnp.float16, jnp.bfloat16):
        raise TypeError(f"{x.dtype} has no softmax here: use float16, bfloat16, float32 or float64")
    return x


def _shifted(x, where, axes):
    """Integers as floats, and what is to be added to their logsumexp.

    In rows whose maximum float64 may not hold, integers of 64 bits become their exact differences from it.
    """
    if x.dtype not in (jnp.int64, jnp.uint64):
        return _logits(x), 0
    least = jnp.iinfo(x.dtype).min
    top = jnp.max(x, axes, keepdims=True, initial=least, where=True if where is None else where)
    large = (top > 2**53) | (top < -(2**53)) if least else top > 2**53
    # modulo 2^64, in which the differences are right however large they are
    below = top.astype(jnp.uint64) - x.astype(jnp.uint64)
    return jnp.where(large, -below.astype(float), x.astype(float)), jnp.where(large, top, 0).astype(float)


def _mask(where, x):
    """`where` as an array that broadcasts to `x`, or None."""
    if where is None:
        return None
    where = jnp.asarray(where)
    if where.dtype != bool:
        raise TypeError(f"where must be boolean, not {where.dtype}")
    missing = x.ndim - where.ndim
    if missing < 0 or any(n not in (1, x.shape[missing + d]) for d, n in enumerate(where.shape)):
        raise ValueError(f"where has shape {where.shape}, which does not broadcast to x's {x.shape}")
    return where


def _check_temperature(number):
    csoftmax.softmax(np.empty(0), temperature=number)  # which raises what there is to raise


def _traced(temperature):
    """An array of JAX's as the temperatures' tuple."""
    kinds = jnp.floating, jnp.integer
    if temperature.ndim or not any(jnp.issubdtype(temperature.dtype, kind) for kind in kinds):
        raise TypeError(
            f"temperature must be one real number, not an array of shape {temperature.shape} and dtype "
            f"{temperature.dtype}; jax.vmap gives each row one of its own"
        )
    if not isinstance(temperature, jax.core.Tracer):
        _check_temperature(float(temperature))
    return (temperature.astype(jnp.promote_types(temperature.dtype, jnp.float32)),)


def _axes(x, axis):
    axes = range(x.ndim) if axis is None or (x.ndim == 0 and axis in (0, -1)) else axis
    return tuple(sorted(normalize_axis_tuple(axes, x.ndim)))


def _along(function, x, axes, reduced=False):
    """The function of `x` with `axes` merged into the middle one of three; its result with axes as before."""
    first, count = min(axes, default=0), len(axes)
    merged = range(first, first + count)
    x = jnp.moveaxis(x, axes, merged)
    lengths = x.shape[:first], x.shape[first : first + count], x.shape[first + count :]
    y = function(x.reshape([math.prod(part) for part in lengths]))
    shape = lengths[0] + ((1,) * count if reduced else lengths[1]) + lengths[2]
    return jnp.moveaxis(y.reshape(shape), merged, axes)


def _array(x):
    """`x` as something that compiled functions take as one argument."""
    return x if x is None or isinstance(x, jax.Array | np.ndarray) else jnp.asarray(x)


def _hashable(axis):
    return axis if axis is None or isinstance(axis, int | tuple) or np.ndim(axis) == 0 else tuple(axis)


def _compiled(name, function, left_out):
    """softmax or log_softmax; what is masked becomes `left_out`.

    Checks are made while a call of new kind is compiled, and cost the next ones nothing.
    """

    def forward(x, where, traced, axis, temperature):
        x = jnp.asarray(x)
        where, axes = _mask(where, x), _axes(x, axis)
        x, _ = _shifted(x, where, axes)
        _check_temperature(temperature)
        if where is not None:
            # a row of which nothing is left has no softmax, whose NaN would come back from derivatives
            some = jnp.broadcast_to(where, x.shape).any(axes, keepdims=True)
            x = jnp.where(where, x, jnp.where(some, -jnp.inf, 0).astype(x.dtype))
        y = _along(lambda x: function(x, traced, float(temperature)), x, axes)
        return y if where is None else jnp.where(where, y, left_out)

    forward.__name__ = name
    compiled = jax.jit(forward, static_argnames=("axis", "temperature"))

    def call(x, axis, temperature, where):
        traced = ()
        if isinstance(temperature, jax.Array):
            traced, temperature = _traced(temperature), 1.0
        elif not isinstance(temperature, float | int):
            _check_temperature(temperature)
            temperature = float(temperature)
        return compiled(_array(x), _array(where), traced, axis=_hashable(axis), temperature=temperature)

    return call


_compiled_softmax = _compiled("softmax", _softmax, 0)
_compiled_log_softmax = _compiled("log_softmax", _log_softmax, -jnp.inf)


@functools.partial(jax.jit, static_argnames=("axis", "keepdims"))
def _compiled_logsumexp(x, where, axis, keepdims):
    x = jnp.asarray(x)
    where, axes = _mask(where, x), _axes(x, axis)
    x, shift = _shifted(x, where, axes)
    total = _along(_logsumexp, x if where is None else jnp.where(where, x, -jnp.inf), axes, reduced=True) + shift
    return total if keepdims else total.squeeze(axes)


def softmax(
    x: _Numbers, axis: _Axis = -1, *, temperature: ArrayLike = 1.0, where: _Numbers | None = None
) -> jax.Array:
    """Softmax along an axis, as `csoftmax.softmax`.

    Parameters
    ----------
    x : array_like
        Logits: float16, bfloat16, float32 or float64 as they are, integers as JAX's default float.
    axis : int, sequence of ints or None, optional
        The axis, or axes taken together, along which the result sums to 1.
    temperature : float or scalar jax.Array, optional
        The logits are divided by it. A number is compiled in; an array of JAX's may be traced, mapped by
        `jax.vmap` and differentiated by.
    where : array_like of bool, optional
        False leaves an element out, with probability 0; broadcast against `x`.

    Returns
    -------
    jax.Array
        Probabilities.

    Raises
    ------
    TypeError
        For numbers of other types, or a mask that is not boolean.
    ValueError
        If an axis is out of range or named twice, the mask does not fit, or the temperature is not positive
        and finite. A traced temperature is known only to the compiled program, which then fails with JAX's
        `JaxRuntimeError`.

    Examples
    --------
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from csoftmax.interop.jax import softmax
    >>> x = jnp.array([1.0, 2.0, 3.0])
    >>> softmax(x).round(4)
    Array([0.09  , 0.2447, 0.6652], dtype=float32)
    >>> jax.grad(lambda x: softmax(x)[0])(x).round(4)
    Array([ 0.0819, -0.022 , -0.0599], dtype=float32)
    >>> jax.jacfwd(lambda t: softmax(x, temperature=t))(2.0).round(4)
    Array([ 0.0615,  0.0246, -0.0861], dtype=float32)
    """
    return _compiled_softmax(x, axis, temperature, where)


def log_softmax(
    x: _Numbers, axis: _Axis = -1, *, temperature: ArrayLike = 1.0, where: _Numbers | None = None
) -> jax.Array:
    """Logarithm of the softmax along an axis, as `csoftmax.log_softmax`.

    Parameters
    ----------
    x, axis, temperature
        As for `softmax`.
    where : array_like of bool, optional
        False leaves an element out, with log-probability -inf; broadcast against `x`.

    Returns
    -------
    jax.Array
        Log-probabilities. The derivative at one of -inf is that of a class that keeps its logit: 1 by it,
        and finite by the temperature.

    Raises
    ------
    TypeError, ValueError
        As `softmax`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from csoftmax.interop.jax import log_softmax
    >>> print(jnp.array_str(log_softmax(jnp.array([1.0, 2.0, 3.0])), precision=4))
    [-2.4076 -1.4076 -0.4076]
    """
    return _compiled_log_softmax(x, axis, temperature, where)


def logsumexp(
    x: _Numbers, axis: _Axis = -1, *, keepdims: bool = False, where: _Numbers | None = None
) -> jax.Array:
    """Logarithm of the sum of exponentials along an axis, as `csoftmax.logsumexp`.

    Parameters
    ----------
    x : array_like
        As for `softmax`.
    axis : int, sequence of ints or None, optional
        The axis or axes to sum over.
    keepdims : bool, optional
        Leave the reduced axes in the result, with length 1.
    where : array_like of bool, optional
        False leaves an element out; broadcast against `x`.

    Returns
    -------
    jax.Array
        Of the type of the logits.

    Raises
    ------
    TypeError, ValueError
        As `softmax`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from csoftmax.interop.jax import logsumexp
    >>> round(float(logsumexp(jnp.array([1000.0, 1000.0]))), 2)
    1000.69
    """
    return _compiled_logsumexp(_array(x), _array(where), axis=_hashable(axis), keepdims=keepdims)
