"""The reference of every numeric test: plain NumPy in wide floats, written from the formulas.

Nothing here is fast or clever, and nothing is shared with the package. `ulp_error` measures the distance of
a result from the reference in units in the last place of the result's own type.

Wide floats are long doubles. Where a long double is a double (Windows, macOS on arm64), and wherever the environment
variable ORACLE is "quad", they are the quadruple precision of the package numpy-quaddtype. That type has no identity
for sums, no `ldexp` by an array and no cast from or to bfloat16, and takes a transposed matrix in a product for the
matrix itself. `total`, `power_of_two`, `wide` and `narrow` make up for that: tests use these, sums in place of products
of matrices, and no long doubles.
"""

import os

import ml_dtypes
import numpy as np

QUAD = os.environ.get("ORACLE") == "quad" or np.finfo(np.longdouble).nmant < 63
if QUAD:
    import numpy_quaddtype

    WIDE = numpy_quaddtype.QuadPrecDType()
    parse = numpy_quaddtype.QuadPrecision
    np.seterr(all="ignore")  # its arithmetic warns of infinities that are right
else:
    WIDE = parse = np.longdouble


def wide(x):
    """Wide copy of any real array-like; of a string or a list of strings, the numbers nearest to those decimals."""
    x = np.asarray(x)
    if x.dtype.kind == "U":
        return np.array([parse(text) for text in x.flat], WIDE).reshape(x.shape)
    # what has no cast of its own is exact as a float32
    return x.astype("float32").astype(WIDE) if x.dtype == "bfloat16" else x.astype(WIDE)


def narrow(x, dtype):
    """Wide floats rounded to a type that the package works in."""
    return x.astype("float32").astype(dtype) if np.dtype(dtype) == "bfloat16" else x.astype(dtype)


def total(x, axis=None, keepdims=False):
    """Sum of wide floats; 0 of none."""
    return np.sum(x, axis=axis, keepdims=keepdims, initial=wide(0))


def power_of_two(exponent):
    """2 to the power of integers between -2140 and 2040, exactly."""
    half = np.asarray(exponent) // 2
    return wide(np.ldexp(1.0, half)) * np.ldexp(1.0, exponent - half)


def axes_of(ndim, axis):
    """`axis` as a tuple of non-negative axes; a 0-d array is a single row of one element."""
    if axis is None or ndim == 0:
        return tuple(range(ndim))
    return tuple(a % ndim for a in (axis if isinstance(axis, tuple) else (axis,)))


def _shifted(x, axis, temperature, where):
    """Maximum of each row, (x - maximum) / temperature, its exponentials, log of their sum, and the mask."""
    x = wide(x)
    axes = axes_of(x.ndim, axis)
    kept = np.broadcast_to(True if where is None else np.asarray(where), x.shape)
    top = np.max(x, axis=axes, keepdims=True, initial=-np.inf, where=kept)
    shifted = x - top
    # What the subtraction rounded off (Knuth's two-sum): float64 needs it for a reference good to 0.01 ulp.
    back = shifted - x
    lost = (x - (shifted - back)) - (top + back)
    lost = np.where(np.isfinite(lost), lost, 0)
    shifted, lost = shifted / wide(temperature), lost / wide(temperature)
    powers = np.where(kept, np.exp(shifted) * (1 + lost), 0)
    # The maxima count 1 each: without the first of them the sum keeps its digits where it is close to 1.
    count = (powers == 1).sum(axis=axes, keepdims=True)
    rest = total(np.where(powers == 1, 0, powers), axes, keepdims=True)
    return top, shifted + lost, powers, np.log1p(count - 1 + rest), kept


@np.errstate(all="ignore")
def softmax(x, axis=-1, temperature=1.0, where=None):
    """Probabilities; 0 where the mask leaves an element out."""
    _, _, powers, _, kept = _shifted(x, axis, temperature, where)
    return np.where(kept, powers / total(powers, axes_of(powers.ndim, axis), keepdims=True), 0)


@np.errstate(all="ignore")
def log_softmax(x, axis=-1, temperature=1.0, where=None):
    """Log-probabilities; -inf where the mask leaves an element out."""
    _, shifted, _, log_total, kept = _shifted(x, axis, temperature, where)
    return np.where(kept, shifted - log_total, -np.inf)


@np.errstate(all="ignore")
def logsumexp(x, axis=-1, where=None, keepdims=False):
    """log(sum(exp(x))); an infinite maximum is the result itself."""
    top, _, _, log_total, _ = _shifted(x, axis, 1.0, where)
    result = np.where(np.isinf(top), top, top + log_total)
    return result if keepdims else result.squeeze(axes_of(np.ndim(x), axis))


def _included(where, grad, p):
    """Gradients and probabilities as if what the mask excludes were not there, and the mask."""
    kept = np.broadcast_to(True if where is None else np.asarray(where), p.shape)
    return np.where(kept, wide(grad), 0), np.where(kept, p, 0), kept


@np.errstate(all="ignore")
def softmax_vjp(grad, output, axis=-1, temperature=1.0, where=None):
    """J^T g of softmax = J g, from its output p: p (g - sum(p g)) / temperature."""
    g, p, kept = _included(where, grad, wide(output))
    dot = total(p * g, axes_of(p.ndim, axis), keepdims=True)
    return np.where(kept, p * (g - dot) / wide(temperature), 0)


@np.errstate(all="ignore")
def log_softmax_vjp(grad, output, axis=-1, temperature=1.0, where=None):
    """J^T g of log_softmax, from its output log p: (g - p sum(g)) / temperature."""
    g, p, kept = _included(where, grad, np.exp(wide(output)))
    gradients = total(g, axes_of(p.ndim, axis), keepdims=True)
    return np.where(kept, (g - p * gradients) / wide(temperature), 0)


@np.errstate(all="ignore")
def log_softmax_jvp(tangent, output, axis=-1, temperature=1.0, where=None):
    """J v of log_softmax, from its output log p: (v - sum(p v)) / temperature."""
    v, p, kept = _included(where, tangent, np.exp(wide(output)))
    dot = total(p * v, axes_of(p.ndim, axis), keepdims=True)
    return np.where(kept, (v - dot) / wide(temperature), 0)


def softmax_jacobian(output, axis=-1):
    """diag(p) - p p^T, the axis replaced by two trailing ones."""
    p = np.moveaxis(wide(output), axis, -1)
    return p[..., :, None] * np.eye(p.shape[-1]) - p[..., :, None] * p[..., None, :]


def target_weights(classes, target, axis=-1, weight=None, ignore_index=-100, label_smoothing=0.0):
    """What cross-entropy multiplies each -log p by, class axis last, and what "mean" divides by."""
    weight = wide(np.ones(classes)) if weight is None else wide(weight)
    target, smooth = np.asarray(target), wide(label_smoothing)
    if target.dtype.kind in "iu":
        counted = target != ignore_index
        one_hot = (target[..., None] == np.arange(classes)) & counted[..., None]
        shared = counted[..., None] * (smooth / classes)
        return weight * (one_hot * (1 - smooth) + shared), total(weight * one_hot)
    given = np.moveaxis(wide(target), axis, -1)
    return weight * (given * (1 - smooth) + smooth / classes), wide(given[..., 0].size)


@np.errstate(all="ignore")
def cross_entropy(logits, target, axis=-1, *, reduction="mean", grad_output=None, **options):
    """Loss, its gradient by the logits as PyTorch defines every option, and that gradient's scale.

    Each row's loss is -sum_c a_c log p_c, so that its gradient is p sum(a) - a; the options only choose `a`.
    The scale, for `ulp_error`, is the size of the two terms that the gradient cancels.
    """
    log_p = np.moveaxis(log_softmax(logits, axis), axis, -1)
    a, divisor = target_weights(log_p.shape[-1], target, axis, **options)
    weights = total(a, -1, keepdims=True)
    loss = total(np.where(a == 0, 0, -a * log_p), -1)
    upstream = wide(1) if grad_output is None else wide(grad_output)[..., None]
    if reduction != "none":
        loss = total(loss)
    if reduction == "mean":
        loss, upstream = loss / divisor, upstream / divisor
    grad = np.where(weights == 0, 0, (np.exp(log_p) * weights - a) * upstream)
    grad_scale = np.where(weights == 0, 0, (np.exp(log_p) * weights + a) * np.abs(upstream))
    return loss, np.moveaxis(grad, -1, axis), np.moveaxis(grad_scale, -1, axis)


def ulp(value, dtype):
    """Distance between neighbours of `dtype` around `value`; below the normal range, of subnormals."""
    info = ml_dtypes.finfo(dtype)
    size = np.maximum(np.abs(wide(value)), power_of_two(int(info.minexp)))
    return power_of_two(np.frexp(size)[1] - 1 - int(info.nmant))


@np.errstate(all="ignore")
def ulp_error(got, want, scale=None):
    """Error of `got` against the wide `want`, in ulps of got's dtype around `want`, or `scale` if given.

    Where a formula cancels, `scale` is the size of the terms that cancel. Equal infinities and NaN for NaN
    count as 0, any other mix with NaN or a wrong infinity as inf. An overflow is measured from the power of
    two past the largest number, so that infinity is right where it is the correct rounding.
    """
    got, want = np.asarray(got), wide(want)
    value, dtype = wide(got), got.dtype
    beyond = power_of_two(int(ml_dtypes.finfo(dtype).maxexp))
    overflow = np.isinf(value) & np.isfinite(want)
    value = np.where(overflow, np.copysign(beyond, value), value)
    size = np.minimum(np.abs(want if scale is None else wide(scale)), beyond / 2)
    error = np.abs(value - want) / ulp(size, dtype)
    same = (value == want) | (np.isnan(value) & np.isnan(want)) | (overflow & (np.abs(want) >= beyond))
    error = np.where(same, 0, error)
    return np.where(np.isnan(error), np.inf, error).astype(np.float64)


def max_ulp(got, want, scale=None):
    """Largest `ulp_error`; 0 for empty arrays. The shapes have to agree exactly."""
    assert np.shape(got) == np.shape(want), f"shape {np.shape(got)}, wanted {np.shape(want)}"
    return float(ulp_error(got, want, scale).max(initial=0.0))


def numpy_formula(x, axis=-1):
    """Softmax as NumPy's users write it, in the type of `x`."""
    powers = np.exp(x - x.max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)
