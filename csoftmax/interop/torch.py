"""PyTorch operators on csoftmax's kernels, for tensors on the CPU: nothing is copied on the way in or out.

`softmax`, `log_softmax`, `logsumexp` and `cross_entropy` are custom operators: autograd differentiates them,
twice too, and torch.compile traces them. `replace_softmax` puts the kernels under PyTorch's own functions.
"""

import contextlib
import functools
import warnings

import numpy as np

import csoftmax
from csoftmax._extras import how_to_install

try:
    import ml_dtypes
    import torch
except ModuleNotFoundError as error:
    raise ImportError(
        f"csoftmax.interop.torch needs PyTorch and ml_dtypes: {how_to_install('torch')}"
    ) from error

__all__ = ["cross_entropy", "log_softmax", "logsumexp", "replace_softmax", "softmax"]

Tensor = torch.Tensor


def _array(tensor):
    """The tensor's memory as an ndarray."""
    tensor = tensor.detach()
    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def _fill(out, function, *tensors, dim):
    """`out`, filled with the function of the tensors along `dim`."""
    if not out.is_floating_point():
        raise TypeError(f"{out.dtype} has no softmax: name a floating-point type, as in dtype=torch.float32")
    function(*map(_array, tensors), dim, out=_array(out))
    return out


def _operator(name):
    return torch.library.custom_op(f"csoftmax::{name}", mutates_args=(), device_types="cpu")


# ------------------------------------------------------------------------------------ softmax, log_softmax


@_operator("softmax")
def _softmax(x: Tensor, dim: list[int]) -> Tensor:
    return _fill(torch.empty_like(x), csoftmax.softmax, x, dim=tuple(dim))


@_operator("softmax_backward")
def _softmax_backward(grad: Tensor, output: Tensor, dim: list[int]) -> Tensor:
    return _fill(torch.empty_like(output), csoftmax.softmax_backward, grad, output, dim=tuple(dim))


@_operator("log_softmax")
def _log_softmax(x: Tensor, dim: list[int]) -> Tensor:
    return _fill(torch.empty_like(x), csoftmax.log_softmax, x, dim=tuple(dim))


@_operator("log_softmax_backward")
def _log_softmax_backward(grad: Tensor, output: Tensor, dim: list[int]) -> Tensor:
    return _fill(torch.empty_like(output), csoftmax.log_softmax_backward, grad, output, dim=tuple(dim))


for _forward in _softmax, _log_softmax:
    _forward.register_fake(lambda x, dim: torch.empty_like(x))
for _backward in _softmax_backward, _log_softmax_backward:
    _backward.register_fake(lambda grad, output, dim: torch.empty_like(output))


def _save_output(ctx, inputs, output):
    ctx.dim = inputs[-1]
    ctx.save_for_backward(output)


def _save_inputs(ctx, inputs, output):
    *tensors, ctx.dim = inputs
    ctx.save_for_backward(*tensors)


def _softmax_grad(ctx, grad):
    (p,) = ctx.saved_tensors
    return _softmax_backward(grad, p, ctx.dim), None


def _log_softmax_grad(ctx, grad):
    (log_p,) = ctx.saved_tensors
    return _log_softmax_backward(grad, log_p, ctx.dim), None


def _softmax_grad_grad(ctx, v):
    # of p (g - <g, p>): symmetric in g, as the Jacobian is
    g, p = ctx.saved_tensors
    along = g - (g * p).sum(ctx.dim, keepdim=True)
    return _softmax_backward(v, p, ctx.dim), v * along - g * (v * p).sum(ctx.dim, keepdim=True), None


def _log_softmax_grad_grad(ctx, v):
    # of g - p sum(g)
    g, log_p = ctx.saved_tensors
    vp = v * log_p.exp()
    return v - vp.sum(ctx.dim, keepdim=True), -vp * g.sum(ctx.dim, keepdim=True), None


_softmax.register_autograd(_softmax_grad, setup_context=_save_output)
_log_softmax.register_autograd(_log_softmax_grad, setup_context=_save_output)
_softmax_backward.register_autograd(_softmax_grad_grad, setup_context=_save_inputs)
_log_softmax_backward.register_autograd(_log_softmax_grad_grad, setup_context=_save_inputs)


# ----------------------------------------------------------------------------------------------- logsumexp


def _rows(x, dim):
    """An empty tensor with one element a row of `x`, its shape but for length 1 along `dim`."""
    return x.new_empty([1 if d in dim or d - x.ndim in dim else n for d, n in enumerate(x.shape)])


@_operator("logsumexp")
def _logsumexp(x: Tensor, dim: list[int]) -> Tensor:
    return _fill(_rows(x, dim), functools.partial(csoftmax.logsumexp, keepdims=True), x, dim=tuple(dim))


_logsumexp.register_fake(_rows)


def _save_input_and_output(ctx, inputs, output):
    x, ctx.dim = inputs
    ctx.save_for_backward(x, output)


def _logsumexp_grad(ctx, grad):
    x, total = ctx.saved_tensors
    # a row of -inf has no softmax, but moving it changes nothing
    return grad * _softmax(x, ctx.dim).masked_fill(total.isneginf(), 0), None


_logsumexp.register_autograd(_logsumexp_grad, setup_context=_save_input_and_output)


# ------------------------------------------------------------------------------------------- cross-entropy


def _class_dim(logits):
    return min(1, logits.ndim - 1)


def _loss_arguments(logits, target, weight, ignore_index, reduction, label_smoothing):
    """Arguments of csoftmax's cross-entropy, and its options."""
    options = {
        "weight": None if weight is None else _array(weight),
        "ignore_index": ignore_index,
        "reduction": reduction,
        "label_smoothing": label_smoothing,
    }
    return (_array(logits), _array(target), _class_dim(logits)), options


@_operator("cross_entropy")
def _cross_entropy(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
) -> Tensor:
    arguments, options = _loss_arguments(logits, target, weight, ignore_index, reduction, label_smoothing)
    return torch.from_numpy(np.asarray(csoftmax.cross_entropy(*arguments, **options))).to(logits.dtype)


@_operator("cross_entropy_backward")
def _cross_entropy_backward(
    grad: Tensor,
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
) -> Tensor:
    arguments, options = _loss_arguments(logits, target, weight, ignore_index, reduction, label_smoothing)
    out = torch.empty_like(logits)
    csoftmax.cross_entropy_with_grad(*arguments, **options, grad_output=_array(grad), out=_array(out))
    return out


@_cross_entropy.register_fake
def _(logits, target, weight, ignore_index, reduction, label_smoothing):
    dim = _class_dim(logits)
    return logits.new_empty(logits.shape[:dim] + logits.shape[dim + 1 :] if reduction == "none" else ())


_cross_entropy_backward.register_fake(lambda grad, logits, *_: torch.empty_like(logits))


def _save_loss_inputs(ctx, inputs, output):
    *tensors, ctx.ignore_index, ctx.reduction, ctx.label_smoothing = inputs
    ctx.save_for_backward(*tensors)


def _cross_entropy_grad(ctx, grad):
    options = ctx.ignore_index, ctx.reduction, ctx.label_smoothing
    return _cross_entropy_backward(grad, *ctx.saved_tensors, *options), None, None, None, None, None


def _cross_entropy_grad_grad(ctx, v):
    # The gradient is linear in `grad`; of the logits, it has in each row a multiple of p and nothing else.
    grad, logits, target, weight = ctx.saved_tensors
    options = ctx.ignore_index, ctx.reduction, ctx.label_smoothing
    dim = _class_dim(logits)
    unit = _cross_entropy_backward(torch.ones_like(grad), logits, target, weight, *options)
    by_grad = (v * unit).sum(dim) if ctx.reduction == "none" else (v * unit).sum()
    scale = grad * _row_weights(logits, target, weight, *options)
    by_logits = scale.unsqueeze(dim) * _softmax_backward(v, _softmax(logits, [dim]), [dim])
    return by_grad, by_logits, None, None, None, None, None


def _row_weights(logits, target, weight, ignore_index, reduction, label_smoothing):
    """The factor of p in the gradient of each row: the weights of its target, over what "mean" divides by."""
    dim = _class_dim(logits)
    classes = logits.shape[dim]
    weight = logits.new_ones(classes) if weight is None else weight
    if target.is_floating_point():
        smooth = target * (1 - label_smoothing) + label_smoothing / classes
        rows = torch.tensordot(smooth.movedim(dim, -1), weight, 1)
        divisor = rows.numel()
    else:
        counted = target != ignore_index
        own = weight[target.where(counted, 0)] * counted
        rows = own * (1 - label_smoothing) + counted * (label_smoothing * weight.mean())
        divisor = own.sum()
    return rows / divisor if reduction == "mean" else rows


_cross_entropy.register_autograd(_cross_entropy_grad, setup_context=_save_loss_inputs)
_cross_entropy_backward.register_autograd(_cross_entropy_grad_grad, setup_context=_save_loss_inputs)


# ---------------------------------------------------------------------------------------- public functions


def _cast(input, dtype):
    return input if dtype is None else input.to(dtype)


def _dims(dim):
    return [dim] if isinstance(dim, int) else list(dim)


def softmax(input, dim=-1, *, dtype=None):
    r"""Softmax along `dim`, as `torch.softmax`.

    Parameters
    ----------
    input : Tensor
        Logits on the CPU: float16, bfloat16, float32 or float64, of any strides.
    dim : int or tuple of ints, optional
        The dimension, or dimensions taken together, along which the result sums to 1.
    dtype : torch.dtype, optional
        Cast `input` to this type first.

    Returns
    -------
    Tensor
        Probabilities, with the memory order of `input`.

    Raises
    ------
    TypeError
        For integers, unless `dtype` names a floating-point type.
    IndexError
        If `dim` is out of range.

    Examples
    --------
    >>> import torch
    >>> from csoftmax.interop.torch import softmax
    >>> softmax(torch.tensor([1.0, 2.0, 3.0]))
    tensor([0.0900, 0.2447, 0.6652])
    """
    return _softmax(_cast(input, dtype), _dims(dim))


def log_softmax(input, dim=-1, *, dtype=None):
    r"""Logarithm of the softmax along `dim`, as `torch.log_softmax`.

    Parameters
    ----------
    input, dim, dtype
        As for `softmax`.

    Returns
    -------
    Tensor
        Log-probabilities, with the memory order of `input`.

    Raises
    ------
    TypeError, IndexError
        As for `softmax`.

    Examples
    --------
    >>> import torch
    >>> from csoftmax.interop.torch import log_softmax
    >>> log_softmax(torch.tensor([1.0, 2.0, 3.0]))
    tensor([-2.4076, -1.4076, -0.4076])
    """
    return _log_softmax(_cast(input, dtype), _dims(dim))


def logsumexp(input, dim=-1, keepdim=False):
    r"""Logarithm of the sum of exponentials along `dim`, as `torch.logsumexp`.

    Parameters
    ----------
    input : Tensor
        As for `softmax`.
    dim : int or tuple of ints, optional
        The dimensions to sum over.
    keepdim : bool, optional
        Leave the reduced dimensions in the result, with length 1.

    Returns
    -------
    Tensor
        Of the type of `input`.

    Examples
    --------
    >>> import torch
    >>> from csoftmax.interop.torch import logsumexp
    >>> logsumexp(torch.tensor([1000.0, 1000.0]))
    tensor(1000.6932)
    """
    dim = _dims(dim)
    rows = _logsumexp(input, dim)
    return rows if keepdim else rows.squeeze(tuple(dim))


def cross_entropy(input, target, weight=None, *, ignore_index=-100, reduction="mean", label_smoothing=0.0):
    r"""Cross-entropy between logits and targets, as `torch.nn.functional.cross_entropy`.

    Parameters
    ----------
    input : Tensor
        Logits of shape (C), (N, C) or (N, C, d1, d2, ...).
    target : Tensor
        Class indices, in the shape of `input` without C, or probabilities in the shape of `input`.
    weight : Tensor, optional
        A constant weight for each of the C classes.
    ignore_index : int, optional
        Rows with this index as target count for nothing.
    reduction : {"mean", "sum", "none"}, optional
        What becomes of the rows' losses.
    label_smoothing : float, optional
        The share of each target that is spread evenly over all classes, from 0 to 1.

    Returns
    -------
    Tensor
        The loss, of the type of `input`.

    Notes
    -----
    The backward pass computes the softmax anew: no tensor of the size of the logits is kept for it.

    Examples
    --------
    >>> import torch
    >>> from csoftmax.interop.torch import cross_entropy
    >>> cross_entropy(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([2]))
    tensor(0.4076)
    """
    if target.requires_grad:
        return _cross_entropy_of_variable_target(input, target, weight, reduction, label_smoothing)
    return _cross_entropy(input, target, weight, ignore_index, reduction, label_smoothing)


def _cross_entropy_of_variable_target(input, target, weight, reduction, label_smoothing):
    """Cross-entropy by its definition, since the operator takes targets as constants."""
    dim = _class_dim(input)
    smooth = target * (1 - label_smoothing) + label_smoothing / input.shape[dim]
    products = (smooth * log_softmax(input, dim)).movedim(dim, -1)
    rows = -(products if weight is None else products * weight).sum(-1)
    return {"none": rows, "sum": rows.sum(), "mean": rows.mean()}[reduction]


# ------------------------------------------------------------------------------------- PyTorch's functions


def _contiguous(x):
    # as PyTorch's own kernels, so that a later view() works as before
    return torch.empty_like(x, memory_format=torch.contiguous_format)


_KERNELS = {
    "_softmax": lambda x, dim, half_to_float: _fill(_contiguous(x), csoftmax.softmax, x, dim=dim),
    "_log_softmax": lambda x, dim, half_to_float: _fill(_contiguous(x), csoftmax.log_softmax, x, dim=dim),
    "_softmax_backward_data": lambda grad, output, dim, input_dtype: _fill(
        _contiguous(output), csoftmax.softmax_backward, grad, output, dim=dim
    ),
    "_log_softmax_backward_data": lambda grad, output, dim, input_dtype: _fill(
        _contiguous(output), csoftmax.log_softmax_backward, grad, output, dim=dim
    ),
}


@contextlib.contextmanager
def replace_softmax():
    r"""Put csoftmax's kernels under PyTorch's own softmax and log_softmax on the CPU while the context lasts.

    All that PyTorch's dispatcher sends there uses them, in every thread, forward and backward:
    `torch.softmax` and `torch.log_softmax`, their kin in `torch.nn`, cross-entropy, attention that is not
    fused. Autograd stays PyTorch's. What torch.compile turns into kernels of its own is not affected.

    Yields
    ------
    None

    Examples
    --------
    >>> import torch
    >>> from csoftmax.interop.torch import replace_softmax
    >>> with replace_softmax():
    ...     torch.nn.Softmax(dim=-1)(torch.tensor([1.0, 2.0, 3.0]))
    tensor([0.0900, 0.2447, 0.6652])
    """
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*Overriding a previously registered kernel")
        for name, kernel in _KERNELS.items():
            library.impl(name, kernel, "CPU")
    try:
        yield
    finally:
        del library  # with it go the kernels
