"""JAX: softmax, log_softmax and logsumexp on the CPU, for jit, vmap, and derivatives of both modes.

XLA calls csoftmax's kernels through its typed FFI, with no interpreter in the way. What it calls is some
200 lines of C, _jax_handlers.c, compiled where they are used, at the first import: jaxlib brings the headers
and checks their version, so that handlers in csoftmax's wheels would tie these to versions of jaxlib, for
the sake of a fifth of a second once. The outcome is kept in a directory of the user's.

custom_vjp would forbid forward mode, and custom_jvp differentiates backwards only what JAX can transpose.
So the functions are custom_jvp, and the products with their Jacobians primitives that know their transposes.
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
from pathlib import Path
from sysconfig import get_platform

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

import csoftmax

try:
    import jax
    import jax.numpy as jnp
    from jax.extend.core import Primitive
    from jax.interpreters import ad, batching, mlir
except ModuleNotFoundError as error:
    raise ImportError("csoftmax.interop.jax needs JAX: pip install 'csoftmax[jax]'") from error

__all__ = ["log_softmax", "logsumexp", "softmax"]

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
        "csoftmax.interop.jax needs a C compiler, for 200 lines between JAX and csoftmax: "
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
    """Call a handler on arrays whose class axis is the second to last; the result has length `n` there."""
    *batch, classes, inner = operands[0].shape
    result = jax.ShapeDtypeStruct((*batch, classes if n is None else n, inner), operands[0].dtype)
    call = jax.ffi.ffi_call(f"csoftmax_{name}", result, vmap_method="broadcast_all")
    return call(*operands, temperature=np.float64(temperature))


# --------------------------------------------------------------------------------------------- derivatives


def _linear(name, formula, kernel):
    """A function of (v, y, temperature) that is linear in `v`, as a primitive of JAX.

    `formula` is what it computes, in JAX's own functions. It is differentiated by `y`, and computes the
    result where there is no kernel.
    """
    primitive = Primitive(f"csoftmax_{name}")

    def bind(v, y, temperature):
        return primitive.bind(v, y, temperature=temperature)

    def compute(v, y, temperature):
        return _call(kernel, v, y, temperature=temperature) if kernel else formula(v, y, temperature)

    def differentiate(primals, tangents, temperature):
        (v, y), (v_dot, y_dot) = primals, map(ad.instantiate_zeros, tangents)
        by_y = jax.jvp(lambda y: formula(v, y, temperature), [y], [y_dot])[1]
        return bind(v, y, temperature), bind(v_dot, y, temperature) + by_y

    def batch(operands, axes, temperature):
        (size,) = {x.shape[axis] for x, axis in zip(operands, axes, strict=True) if axis is not None}
        moved = [
            jnp.broadcast_to(x, (size, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0)
            for x, axis in zip(operands, axes, strict=True)
        ]
        return bind(*moved, temperature), 0

    primitive.def_impl(jax.jit(compute, static_argnames="temperature"))
    primitive.def_abstract_eval(lambda v, y, temperature: v)
    mlir.register_lowering(primitive, mlir.lower_fun(compute, multiple_results=False))
    ad.primitive_jvps[primitive] = differentiate
    batching.primitive_batchers[primitive] = batch
    return primitive, bind


def _transposes(primitive, bind):
    """Let `bind` be the transpose of the linear primitive."""
    ad.primitive_transposes[primitive] = lambda v, _, y, temperature: (bind(v, y, temperature), None)


def _sum(x):
    return jnp.sum(x, -2, keepdims=True)


_softmax_p, _softmax_product = _linear(
    "softmax_product", lambda v, p, t: p * (v - _sum(p * v)) / t, "softmax_backward"
)
_log_softmax_vjp_p, _log_softmax_vjp = _linear(
    "log_softmax_vjp", lambda v, y, t: (v - jnp.exp(y) * _sum(v)) / t, "log_softmax_backward"
)
_log_softmax_jvp_p, _log_softmax_jvp = _linear(
    "log_softmax_jvp", lambda v, y, t: (v - _sum(jnp.exp(y) * v)) / t, None
)
_transposes(_softmax_p, _softmax_product)
_transposes(_log_softmax_vjp_p, _log_softmax_jvp)
_transposes(_log_softmax_jvp_p, _log_softmax_vjp)


def _differentiable(name, product):
    """The function of (x, temperature) that the handler computes, with its Jacobian's product."""

    @functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
    def function(x, temperature):
        return _call(name, x, temperature=temperature)

    @function.defjvp
    def _(temperature, primals, tangents):
        (x,), (v,) = primals, tangents
        y = function(x, temperature)
        return y, product(v, y, temperature)

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
    # a row of -inf has no softmax, but moving it changes nothing
    p = jnp.where(jnp.isneginf(total), 0, _softmax(x, 1.0))
    return total, _sum(p * v)


# ---------------------------------------------------------------------------------------- public functions


def _logits(x, where):
    """`x` as an array of floats, -inf where it is masked."""
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.integer) or x.dtype == bool:
        x = x.astype(float)
    if x.dtype not in (jnp.float32, jnp.float64, jnp.float16, jnp.bfloat16):
        raise TypeError(f"{x.dtype} has no softmax here: use float16, bfloat16, float32 or float64")
    return x if where is None else jnp.where(where, x, -jnp.inf)


def _temperature(temperature):
    temperature = float(temperature)
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be positive and finite, not {temperature}")
    return temperature


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


@functools.partial(jax.jit, static_argnames=("axis", "temperature"))
def softmax(x, axis=-1, *, temperature=1.0, where=None):
    """Softmax along an axis, as `csoftmax.softmax`.

    Parameters
    ----------
    x : array_like
        Logits: float16, bfloat16, float32 or float64 as they are, integers as JAX's default float.
    axis : int, tuple of ints or None, optional
        The axis, or axes taken together, along which the result sums to 1.
    temperature : float, optional
        The logits are divided by it; a number, not traced.
    where : array_like of bool, optional
        False leaves an element out, with probability 0; broadcast against `x`.

    Returns
    -------
    jax.Array
        Probabilities.

    Raises
    ------
    TypeError
        For numbers of other types.
    ValueError
        If an axis is out of range or named twice, or the temperature is not positive and finite.

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
    """
    x, temperature = _logits(x, where), _temperature(temperature)
    p = _along(lambda x: _softmax(x, temperature), x, _axes(x, axis))
    return p if where is None else jnp.where(where, p, 0)


@functools.partial(jax.jit, static_argnames=("axis", "temperature"))
def log_softmax(x, axis=-1, *, temperature=1.0, where=None):
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
        Log-probabilities.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from csoftmax.interop.jax import log_softmax
    >>> print(jnp.array_str(log_softmax(jnp.array([1.0, 2.0, 3.0])), precision=4))
    [-2.4076 -1.4076 -0.4076]
    """
    x, temperature = _logits(x, where), _temperature(temperature)
    y = _along(lambda x: _log_softmax(x, temperature), x, _axes(x, axis))
    return y if where is None else jnp.where(where, y, -jnp.inf)


@functools.partial(jax.jit, static_argnames=("axis", "keepdims"))
def logsumexp(x, axis=-1, *, keepdims=False, where=None):
    """Logarithm of the sum of exponentials along an axis, as `csoftmax.logsumexp`.

    Parameters
    ----------
    x : array_like
        As for `softmax`.
    axis : int, tuple of ints or None, optional
        The axis or axes to sum over.
    keepdims : bool, optional
        Leave the reduced axes in the result, with length 1.
    where : array_like of bool, optional
        False leaves an element out; broadcast against `x`.

    Returns
    -------
    jax.Array
        Of the type of the logits.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from csoftmax.interop.jax import logsumexp
    >>> round(float(logsumexp(jnp.array([1000.0, 1000.0]))), 2)
    1000.69
    """
    x = _logits(x, where)
    axes = _axes(x, axis)
    total = _along(_logsumexp, x, axes, reduced=True)
    return total if keepdims else total.squeeze(axes)
