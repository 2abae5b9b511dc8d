"""PyTorch operators on csoftmax's kernels, for tensors on the CPU: nothing is copied on the way in or out.

`softmax`, `log_softmax`, `logsumexp` and `cross_entropy` are custom operators: autograd differentiates them in
reverse and in forward mode and any number of times, the transforms of torch.func and torch.vmap take them, and
torch.compile traces them. `patch` and `replace_softmax` put the kernels under PyTorch's own functions.
"""

import contextlib
import functools
import math
import operator
import threading
import types
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

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

from torch._C import _functorch
from torch._functorch.pyfunctorch import retrieve_current_functorch_interpreter
from torch._subclasses.functional_tensor import FunctorchFunctionalizeAPI
from torch.autograd import forward_ad

__all__ = ["cross_entropy", "log_softmax", "logsumexp", "patch", "replace_softmax", "softmax", "unpatch"]

Tensor = torch.Tensor
Reduction = Literal["mean", "sum", "none"]

_DTYPES = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
_LIBRARY = torch.library.Library("csoftmax", "FRAGMENT")


# ----------------------------------------------------------------------------------- tensors, and operators


def _array(tensor: Tensor) -> np.ndarray[Any, Any]:
    """The tensor's memory as an ndarray."""
    tensor = tensor.detach()
    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def _refuse_other_dtypes(tensor: Tensor) -> None:
    if tensor.dtype not in _DTYPES:
        raise TypeError(
            f"{tensor.dtype} has no softmax: convert the tensor to float16, bfloat16, float32 or float64 first, "
            "by x.to(torch.float32) or, for softmax and log_softmax, by dtype=torch.float32"
        )


def _fill(out: Tensor, function: Callable[..., Any], *tensors: Tensor, dim: int | Sequence[int]) -> Tensor:
    """`out`, filled with the function of the tensors along `dim`."""
    _refuse_other_dtypes(out)
    function(*map(_array, tensors), dim if type(dim) is int else tuple(dim), out=_array(out))
    return out


def _functionalized(op: Callable[..., Tensor], *args: Any) -> Tensor:
    """The result of the operator, which changes no argument, inside torch.func.functionalize."""
    api = FunctorchFunctionalizeAPI(retrieve_current_functorch_interpreter())
    with api.redispatch_to_next():
        result = op(*api.unwrap_tensors(args))
    return api.wrap_tensors(result)


def _backward(rule: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    """The backward of a Function by a rule for a gradient that is there."""

    def backward(ctx: Any, grad: Tensor | None) -> tuple[Any, ...]:
        return (None,) * len(ctx.needs_input_grad) if grad is None else rule(ctx, grad)

    return backward


def _jvp(rule: Callable[..., Tensor | None]) -> Callable[..., Tensor | None]:
    """The jvp of a Function by a rule whose result is differentiated when one jvp is taken inside another.

    PyTorch switches forward mode off during a jvp, and so loses what an outer one needs. While it is on, the tensors
    of the rule must not have the tangents that the rule is about.
    """

    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor | None:
        with forward_ad._set_fwd_grad_enabled(True):
            saved = [None if t is None else forward_ad.unpack_dual(t, level=0).primal for t in ctx.saved_tensors]
            return rule(types.SimpleNamespace(saved_tensors=saved, **vars(ctx)), *tangents)

    return jvp


def _operator(
    schema: str,
    function: type[torch.autograd.Function],
    kernel: Callable[..., Tensor],
    fake: Callable[..., Tensor],
) -> Callable[..., Tensor]:
    """The operator `schema` of the dispatcher: `kernel` on the CPU, with the derivatives and vmap of `function`.

    `fake` makes a tensor like the result, for torch.compile. What torch.library offers for derivatives knows
    neither forward mode nor torch.func, so `function` is called where the dispatcher comes to each of them.
    """
    name = schema.partition("(")[0]
    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    op = getattr(torch.ops.csoftmax, name).default

    def below_autograd(*args: Any) -> Tensor:
        with torch._C._AutoDispatchBelowAutograd():
            return op(*args)

    function.forward = staticmethod(below_autograd)
    function.backward = staticmethod(_backward(function.backward))
    function.jvp = staticmethod(_jvp(function.jvp))
    # Function.apply would look up the signature and the transforms at each call
    apply = super(torch.autograd.Function, function).apply

    def autograd(*args: Any) -> Tensor:
        if forward_ad._current_level >= 0 or (torch.is_grad_enabled() and torch._C._any_requires_grad(*args)):
            return apply(*args)
        return below_autograd(*args)

    def transform(*args: Any) -> Tensor:
        if _functorch.peek_interpreter_stack().key() == _functorch.TransformType.Functionalize:
            return _functionalized(op, *args)
        return function.apply(*args)

    _LIBRARY.impl(name, kernel, "CPU")
    _LIBRARY.impl(name, autograd, "Autograd")
    _LIBRARY.impl(name, transform, "FuncTorchDynamicLayerFrontMode")
    torch.library.register_fake(f"csoftmax::{name}", fake, lib=_LIBRARY)
    return op


# ------------------------------------------------------------------------- derivatives and batches, in common


def _keep(ctx: Any, *tensors: Tensor) -> None:
    ctx.save_for_backward(*tensors)
    ctx.save_for_forward(*tensors)
    ctx.set_materialize_grads(False)  # None tells what has no tangent


class _OfOutput(torch.autograd.Function):
    """A function of (x, dim) whose derivative is one of its output."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.dim = inputs[-1]
        _keep(ctx, output)


class _OfInputs(torch.autograd.Function):
    """A function of (tensors, dim) whose derivative is one of the tensors."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.dim = inputs
        _keep(ctx, *tensors)


def _inner(a: Tensor, b: Tensor, dim: Sequence[int], keepdim: bool = True) -> Tensor:
    """The sum of a b along `dim`; types of 16 bits are rounded once, at the end."""
    wide = torch.promote_types(a.dtype, torch.float32)
    return (a.to(wide) * b).sum(dim, keepdim=keepdim).to(a.dtype)


def _total(*terms: Tensor | None) -> Tensor | None:
    """The sum of what is there of `terms`."""
    there = [term for term in terms if term is not None]
    return functools.reduce(operator.add, there) if there else None


def _wrap_dim(dim: int, ndim: int) -> int:
    """`dim`, counted from the front."""
    n = max(ndim, 1)
    if not -n <= dim < n:
        raise IndexError(f"Dimension out of range (expected to be in range of [{-n}, {n - 1}], but got {dim})")
    return dim % n


def _batch_first(tensor: Tensor, batch_dim: int | None, size: int) -> Tensor:
    """The tensor with the dimension of its batch in front; one without a batch is repeated, in the same memory."""
    return tensor.expand(size, *tensor.shape) if batch_dim is None else tensor.movedim(batch_dim, 0)


def _vmap(op: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, int]]:
    """The vmap of an operator of (tensors, dim): the same operator, along the next dimension."""

    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:
        *tensors, dim = args
        tensors = [_batch_first(t, d, info.batch_size) for t, d in zip(tensors, in_dims, strict=False)]
        ndim = tensors[0].ndim - 1
        dim = [_wrap_dim(d, ndim) + 1 for d in dim]
        if ndim == 0:
            return op(*[t.unsqueeze(1) for t in tensors], dim).squeeze(1), 0
        return op(*tensors, dim), 0

    return vmap


# ------------------------------------------------------------------------------------ softmax, log_softmax


class _Softmax(_OfOutput):
    """p, the softmax."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        (p,) = ctx.saved_tensors
        return _softmax_backward(grad, p, ctx.dim), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        (p,) = ctx.saved_tensors
        return _softmax_backward(tangent, p, ctx.dim)

    @staticmethod
    def vmap(*args: Any) -> tuple[Tensor, int]:
        return _vmap(_softmax)(*args)


class _SoftmaxBackward(_OfInputs):
    """p (g - <g, p>), symmetric in g, as the Jacobian is: gradients and tangents go through it alike."""

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Any, ...]:
        g, p = ctx.saved_tensors
        along = g - _inner(g, p, ctx.dim)
        return _softmax_backward(v, p, ctx.dim), v * along - g * _inner(v, p, ctx.dim), None

    @staticmethod
    def jvp(ctx: Any, dg: Tensor | None, dp: Tensor | None, _: None) -> Tensor | None:
        g, p = ctx.saved_tensors
        by_g = by_p = None
        if dg is not None:
            by_g = _softmax_backward(dg, p, ctx.dim)
        if dp is not None:
            along = g - _inner(g, p, ctx.dim)
            by_p = dp * along - p * _inner(g, dp, ctx.dim)
        return _total(by_g, by_p)

    @staticmethod
    def vmap(*args: Any) -> tuple[Tensor, int]:
        return _vmap(_softmax_backward)(*args)


class _LogSoftmax(_OfOutput):
    """log p."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        (log_p,) = ctx.saved_tensors
        return _log_softmax_backward(grad, log_p, ctx.dim), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        (log_p,) = ctx.saved_tensors
        return _log_softmax_jvp(tangent, log_p, ctx.dim)

    @staticmethod
    def vmap(*args: Any) -> tuple[Tensor, int]:
        return _vmap(_log_softmax)(*args)


class _LogSoftmaxBackward(_OfInputs):
    """g - p sum(g), over every element, one of log-probability -inf too."""

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Any, ...]:
        g, log_p = ctx.saved_tensors
        by_log_p = -v * log_p.exp() * g.sum(ctx.dim, keepdim=True)
        return _log_softmax_jvp(v, log_p, ctx.dim), by_log_p, None

    @staticmethod
    def jvp(ctx: Any, dg: Tensor | None, d_log_p: Tensor | None, _: None) -> Tensor | None:
        g, log_p = ctx.saved_tensors
        by_g = by_log_p = None
        if dg is not None:
            by_g = _log_softmax_backward(dg, log_p, ctx.dim)
        if d_log_p is not None:
            by_log_p = -d_log_p * log_p.exp() * g.sum(ctx.dim, keepdim=True)
        return _total(by_g, by_log_p)

    @staticmethod
    def vmap(*args: Any) -> tuple[Tensor, int]:
        return _vmap(_log_softmax_backward)(*args)


class _LogSoftmaxJvp(_OfInputs):
    """t - <p, t>."""

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Any, ...]:
        t, log_p = ctx.saved_tensors
        by_log_p = -t * log_p.exp() * v.sum(ctx.dim, keepdim=True)
        return _log_softmax_backward(v, log_p, ctx.dim), by_log_p, None

    @staticmethod
    def jvp(ctx: Any, dt: Tensor | None, d_log_p: Tensor | None, _: None) -> Tensor | None:
        t, log_p = ctx.saved_tensors
        by_t = by_log_p = None
        if dt is not None:
            by_t = _log_softmax_jvp(dt, log_p, ctx.dim)
        if d_log_p is not None:
            by_log_p = -_inner(d_log_p * log_p.exp(), t, ctx.dim).expand_as(t)
        return _total(by_t, by_log_p)

    @staticmethod
    def vmap(*args: Any) -> tuple[Tensor, int]:
        return _vmap(_log_softmax_jvp)(*args)


def _along(function: str) -> Callable[..., Tensor]:
    """The kernel that calls the function of csoftmax named by `function`, for tensors of one shape."""

    def kernel(*args: Any) -> Tensor:
        *tensors, dim = args
        return _fill(torch.empty_like(tensors[-1]), getattr(csoftmax, function), *tensors, dim=dim)

    return kernel


def _like_last(*args: Any) -> Tensor:
    return torch.empty_like(args[-2])


_softmax = _operator("softmax(Tensor x, SymInt[] dim) -> Tensor", _Softmax, _along("softmax"), _like_last)
_softmax_backward = _operator(
    "softmax_backward(Tensor grad, Tensor output, SymInt[] dim) -> Tensor",
    _SoftmaxBackward,
    _along("softmax_backward"),
    _like_last,
)
_log_softmax = _operator(
    "log_softmax(Tensor x, SymInt[] dim) -> Tensor", _LogSoftmax, _along("log_softmax"), _like_last
)
_log_softmax_backward = _operator(
    "log_softmax_backward(Tensor grad, Tensor output, SymInt[] dim) -> Tensor",
    _LogSoftmaxBackward,
    _along("log_softmax_backward"),
    _like_last,
)
_log_softmax_jvp = _operator(
    "log_softmax_jvp(Tensor tangent, Tensor output, SymInt[] dim) -> Tensor",
    _LogSoftmaxJvp,
    _along("log_softmax_jvp"),
    _like_last,
)


# ----------------------------------------------------------------------------------------------- logsumexp


class _Logsumexp(torch.autograd.Function):
    """The logarithm of the sum of exponentials, with length 1 along `dim`."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.dim = inputs
        _keep(ctx, x, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        return grad * _shares(*ctx.saved_tensors, ctx.dim), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return _inner(tangent, _shares(*ctx.saved_tensors, ctx.dim), ctx.dim)

    @staticmethod
    def vmap(*args: Any) -> tuple[Tensor, int]:
        return _vmap(_logsumexp)(*args)


class _Shares(_OfOutput):
    """The softmax of x, but 0 in rows whose `total`, the logsumexp, is -inf: moving them changes nothing."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        (p,) = ctx.saved_tensors
        return _softmax_backward(grad, p, ctx.dim), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor | None, *_: Any) -> Tensor:
        (p,) = ctx.saved_tensors
        return torch.zeros_like(p) if tangent is None else _softmax_backward(tangent, p, ctx.dim)

    @staticmethod
    def vmap(*args: Any) -> tuple[Tensor, int]:
        return _vmap(_shares)(*args)


def _rows(x: Tensor, dim: Sequence[int]) -> Tensor:
    """An empty tensor with one element a row of `x`, its shape but for length 1 along `dim`."""
    return x.new_empty([1 if d in dim or d - x.ndim in dim else n for d, n in enumerate(x.shape)])


def _logsumexp_kernel(x: Tensor, dim: Sequence[int]) -> Tensor:
    return _fill(_rows(x, dim), functools.partial(csoftmax.logsumexp, keepdims=True), x, dim=dim)


def _shares_kernel(x: Tensor, total: Tensor, dim: Sequence[int]) -> Tensor:
    p = _fill(torch.empty_like(x), csoftmax.softmax, x, dim=dim)
    nothing = total.isneginf()
    return p.masked_fill_(nothing, 0) if nothing.any() else p


_logsumexp = _operator("logsumexp(Tensor x, SymInt[] dim) -> Tensor", _Logsumexp, _logsumexp_kernel, _rows)
_shares = _operator(
    "logsumexp_shares(Tensor x, Tensor total, SymInt[] dim) -> Tensor",
    _Shares,
    _shares_kernel,
    lambda x, total, dim: torch.empty_like(x),
)


# ------------------------------------------------------------------------------------------- cross-entropy

# A loss has the arguments (logits, target, weight, ignore_index, reduction, label_smoothing); the last three are its
# options. In each row it is -sum(q log p), where q is the smoothed and weighted target, and its gradient is
# sum(q) p - q, times the row's factor.


def _class_dim(logits: Tensor) -> int:
    return min(1, logits.ndim - 1)


def _loss_shape(logits: Tensor) -> torch.Size:
    dim = _class_dim(logits)
    return logits.shape[:dim] + logits.shape[dim + 1 :]


def _smooth(logits: Tensor, target: Tensor, label_smoothing: float) -> Tensor:
    """Target probabilities with some of each spread over all classes."""
    return target.to(logits.dtype) * (1 - label_smoothing) + label_smoothing / logits.shape[_class_dim(logits)]


def _by_class(logits: Tensor, weight: Tensor | None) -> Tensor:
    """The weights in a shape that fits that of the logits."""
    dim = _class_dim(logits)
    if weight is None:
        return logits.new_ones([1] * logits.ndim)
    return weight.to(logits.dtype).reshape([-1 if d == dim else 1 for d in range(logits.ndim)])


def _own_weights(target: Tensor, weight: Tensor | None, ignore_index: int) -> Tensor:
    """The weight of each target that is a class index, 0 where it is ignored."""
    counted = target != ignore_index
    return counted if weight is None else weight[target.where(counted, 0).long()] * counted


def _row_factors(grad: Tensor, logits: Tensor, target: Tensor, weight: Tensor | None, options: Any) -> Tensor:
    """The gradient of each row's own loss; it may be one number for all."""
    ignore_index, reduction, _ = options
    if reduction != "mean":
        return grad
    if target.is_floating_point():
        return grad / math.prod(_loss_shape(logits))
    return grad / _own_weights(target, weight, ignore_index).sum()


def _row_weights(logits: Tensor, target: Tensor, weight: Tensor | None, options: Any) -> Tensor:
    """sum(q) of each row."""
    ignore_index, _, label_smoothing = options
    if target.is_floating_point():
        return (_smooth(logits, target, label_smoothing) * _by_class(logits, weight)).sum(_class_dim(logits))
    own = _own_weights(target, weight, ignore_index)
    mean = 1 if weight is None else weight.mean()
    return own * (1 - label_smoothing) + (target != ignore_index) * (label_smoothing * mean)


def _loss_along(v: Tensor, logits: Tensor, target: Tensor, weight: Tensor | None, options: Any) -> Tensor:
    """How fast the loss changes as the logits move along `v`."""
    ignore_index, reduction, label_smoothing = options
    dim = _class_dim(logits)
    ones = logits.new_ones(_loss_shape(logits))
    slope = _cross_entropy_backward(ones, logits, target, weight, ignore_index, "none", label_smoothing)
    if reduction == "none":
        return _inner(v, slope, [dim], keepdim=False)
    total = (v.to(torch.promote_types(v.dtype, torch.float32)) * slope).sum()
    return _row_factors(total, logits, target, weight, options).to(v.dtype)


def _gradient_along(
    v: Tensor, grad: Tensor, logits: Tensor, target: Tensor, weight: Tensor | None, options: Any
) -> Tensor:
    """How fast the gradient changes as the logits move along `v`: as the multiple of p in it does."""
    dim = _class_dim(logits)
    factors = _row_factors(grad, logits, target, weight, options) * _row_weights(logits, target, weight, options)
    return factors.unsqueeze(dim) * _softmax_backward(v, _softmax(logits, [dim]), [dim])


def _refuse_derivative_by_weight(target: Tensor) -> None:
    if not target.is_floating_point():
        raise NotImplementedError(
            "the derivative for 'weight' is not implemented where the target holds class indices: "
            "give weight.detach(), or class probabilities"
        )


def _by_target(
    needs: Sequence[bool], grad: Tensor, tensors: Sequence[Tensor], options: Any, of_q: Callable[[], Tensor]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients with respect to target and weight, as far as they are needed, of -sum(q of_q()) in each row."""
    if not any(needs):
        return None, None
    logits, target, weight = tensors
    if needs[1]:
        _refuse_derivative_by_weight(target)
    dim, label_smoothing = _class_dim(logits), options[-1]
    factors = -_row_factors(grad, logits, target, weight, options)
    factors = factors.unsqueeze(dim) if factors.ndim else factors
    values = of_q()

    def times(share: Tensor) -> Tensor:
        # 0 log 0 = 0
        return factors * share * values.masked_fill(values.isneginf() & (share == 0), 0)

    by_target = times(_by_class(logits, weight) * (1 - label_smoothing)) if needs[0] else None
    if not needs[1]:
        return by_target, None
    by_weight = times(_smooth(logits, target, label_smoothing)).movedim(dim, -1)
    return by_target, by_weight.reshape(-1, logits.shape[dim]).sum(0)


def _save_loss(ctx: Any, inputs: tuple[Any, ...]) -> None:
    tensors, ctx.options = inputs[:-3], inputs[-3:]
    _keep(ctx, *tensors)


class _CrossEntropy(torch.autograd.Function):
    """The loss."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _save_loss(ctx, inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        tensors = ctx.saved_tensors
        logits = tensors[0]
        needs_logits, *needs = ctx.needs_input_grad[:3]
        by_logits = _cross_entropy_backward(grad, *tensors, *ctx.options) if needs_logits else None
        dim = _class_dim(logits)
        others = _by_target(needs, grad, tensors, ctx.options, lambda: _log_softmax(logits, [dim]))
        return by_logits, *others, None, None, None

    @staticmethod
    def jvp(
        ctx: Any, d_logits: Tensor | None, d_target: Tensor | None, d_weight: Tensor | None, *_: None
    ) -> Tensor | None:
        logits, target, weight = ctx.saved_tensors
        ignore_index, reduction, label_smoothing = ctx.options
        by_logits = by_target = by_weight = None
        if d_logits is not None:
            by_logits = _loss_along(d_logits, logits, target, weight, ctx.options)
        if d_target is not None:
            by_target = _cross_entropy(logits, d_target, weight, ignore_index, reduction, 0.0) * (1 - label_smoothing)
        if d_weight is not None:
            _refuse_derivative_by_weight(target)
            by_weight = _cross_entropy(logits, target, d_weight, *ctx.options)
        return _total(by_logits, by_target, by_weight)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:
        *tensors, ignore_index, reduction, label_smoothing = args
        size, weight = info.batch_size, tensors[2]
        if in_dims[2] is not None:
            return _one_by_one(_cross_entropy, size, in_dims, args), 0
        logits, target = (_batch_first(*pair, size) for pair in zip(tensors[:2], in_dims[:2], strict=True))
        rows = _cross_entropy(
            _merged(logits, logits), _merged(target, logits), weight, ignore_index, "none", label_smoothing
        )
        shape = _loss_shape(logits[0])
        if reduction == "none":
            return rows.reshape(size, *shape).to(logits.dtype), 0
        total = rows.reshape(size, math.prod(shape)).sum(1, dtype=torch.float64)
        if reduction == "mean":
            total = total / _divisors(target, weight, ignore_index, shape)
        return total.to(logits.dtype), 0


class _CrossEntropyBackward(torch.autograd.Function):
    """The gradient of the loss with respect to the logits: linear in `grad`, in the target and in the weight."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _save_loss(ctx, inputs)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Any, ...]:
        grad, *tensors = ctx.saved_tensors
        logits = tensors[0]
        needs_grad, needs_logits, *needs = ctx.needs_input_grad[:4]
        by_grad = _loss_along(v, *tensors, ctx.options) if needs_grad else None
        by_logits = _gradient_along(v, grad, *tensors, ctx.options) if needs_logits else None
        dim = [_class_dim(logits)]
        # v (sum(q) p - q) = -sum(q (v - <p, v>))
        others = _by_target(
            needs, grad, tensors, ctx.options, lambda: _log_softmax_jvp(v, _log_softmax(logits, dim), dim)
        )
        return by_grad, by_logits, *others, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor | None:
        grad, logits, target, weight = ctx.saved_tensors
        d_grad, d_logits, d_target, d_weight = tangents[:4]
        ignore_index, reduction, label_smoothing = ctx.options
        by_grad = by_logits = by_target = by_weight = None
        if d_grad is not None:
            by_grad = _cross_entropy_backward(d_grad, logits, target, weight, *ctx.options)
        if d_logits is not None:
            by_logits = _gradient_along(d_logits, grad, logits, target, weight, ctx.options)
        if d_target is not None:
            by_target = _cross_entropy_backward(grad, logits, d_target, weight, ignore_index, reduction, 0.0)
            by_target = by_target * (1 - label_smoothing)
        if d_weight is not None:
            _refuse_derivative_by_weight(target)
            by_weight = _cross_entropy_backward(grad, logits, target, d_weight, *ctx.options)
        return _total(by_grad, by_logits, by_target, by_weight)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:
        *tensors, ignore_index, reduction, label_smoothing = args
        size, weight = info.batch_size, tensors[3]
        if in_dims[3] is not None:
            return _one_by_one(_cross_entropy_backward, size, in_dims, args), 0
        grad, logits, target = (_batch_first(*pair, size) for pair in zip(tensors[:3], in_dims[:3], strict=True))
        shape = _loss_shape(logits[0])
        grad = grad.to(torch.promote_types(grad.dtype, torch.float32))
        if reduction == "mean":
            divisors = _divisors(target, weight, ignore_index, shape)
            grad = (grad / divisors).masked_fill(divisors == 0, 0)
        if reduction != "none":
            grad = grad.reshape(size, *[1] * len(shape)).expand(size, *shape)
        merged = (_merged(t, logits) for t in (grad, logits, target))
        result = _cross_entropy_backward(*merged, weight, ignore_index, "none", label_smoothing)
        return result.reshape(logits.shape).to(logits.dtype), 0


def _merged(tensor: Tensor, logits: Tensor) -> Tensor:
    """A tensor that belongs to a batch of losses as one of a single loss with all their rows, in 32 bits at least."""
    if tensor.is_floating_point():
        tensor = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
    return tensor if logits.ndim == 2 else tensor.flatten(0, 1)


def _divisors(target: Tensor, weight: Tensor | None, ignore_index: int, shape: torch.Size) -> Tensor:
    """What "mean" divides by, for each loss of a batch, whose rows have the shape `shape`."""
    rows = math.prod(shape)
    if target.is_floating_point():
        return torch.full((target.shape[0],), rows)
    return _own_weights(target, weight, ignore_index).reshape(target.shape[0], rows).sum(1)


def _one_by_one(op: Callable[..., Tensor], size: int, in_dims: tuple[Any, ...], args: tuple[Any, ...]) -> Tensor:
    """The operator's results for each member of a batch."""
    return torch.stack(
        [
            op(*[a if d is None else a.select(d, i) for a, d in zip(args, in_dims, strict=True)])
            for i in range(size)
        ]
    )


def _loss_arguments(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of csoftmax's cross-entropy, and its options."""
    _refuse_other_dtypes(logits)
    options = {
        "weight": None if weight is None else _array(weight),
        "ignore_index": ignore_index,
        "reduction": reduction,
        "label_smoothing": label_smoothing,
    }
    return (_array(logits), _array(target), _class_dim(logits)), options


def _cross_entropy_kernel(logits: Tensor, *others: Any) -> Tensor:
    arguments, options = _loss_arguments(logits, *others)
    return torch.from_numpy(np.asarray(csoftmax.cross_entropy(*arguments, **options))).to(logits.dtype)


def _cross_entropy_backward_kernel(grad: Tensor, logits: Tensor, *others: Any) -> Tensor:
    arguments, options = _loss_arguments(logits, *others)
    out = torch.empty_like(logits)
    csoftmax.cross_entropy_with_grad(*arguments, **options, grad_output=_array(grad), out=_array(out))
    return out


def _fake_cross_entropy(
    logits: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str, _: float
) -> Tensor:
    return logits.new_empty(_loss_shape(logits) if reduction == "none" else ())


_LOSS = "Tensor logits, Tensor target, Tensor? weight, SymInt ignore_index, str reduction, float label_smoothing"
_cross_entropy = _operator(
    f"cross_entropy({_LOSS}) -> Tensor", _CrossEntropy, _cross_entropy_kernel, _fake_cross_entropy
)
_cross_entropy_backward = _operator(
    f"cross_entropy_backward(Tensor grad, {_LOSS}) -> Tensor",
    _CrossEntropyBackward,
    _cross_entropy_backward_kernel,
    lambda grad, logits, *_: torch.empty_like(logits),
)
# as PyTorch's own
torch.library.register_autocast("csoftmax::cross_entropy", "cpu", torch.float32, lib=_LIBRARY)


# ---------------------------------------------------------------------------------------- public functions


def _dims(function: str, input: Tensor, dim: int | Sequence[int]) -> list[int]:
    """`dim` as a list of dimensions counted from the front."""
    if not isinstance(input, Tensor):
        raise TypeError(
            f"{function}(): argument 'input' must be Tensor, not {type(input).__name__}; "
            f"for arrays there is csoftmax.{function}"
        )
    if type(dim) is int:
        return [_wrap_dim(dim, input.ndim)]
    if isinstance(dim, bool) or dim is None:
        raise TypeError(
            f"{function}(): argument 'dim' must be int or tuple of ints, not {type(dim).__name__}; "
            "all dimensions are dim=tuple(range(x.ndim))"
        )
    try:
        dims = [operator.index(dim)]  # type: ignore[arg-type]
    except TypeError:
        if not isinstance(dim, Sequence) or isinstance(dim, str) or any(isinstance(d, bool) for d in dim):
            raise TypeError(
                f"{function}(): argument 'dim' must be int or tuple of ints, not {dim!r}"
            ) from None
        dims = [operator.index(d) for d in dim]
    return [_wrap_dim(d, input.ndim) for d in dims]


def _softmax_arguments(
    function: str, input: Tensor, dim: int | Sequence[int], dtype: torch.dtype | None
) -> tuple[Tensor, list[int]]:
    dims = _dims(function, input, dim)
    if not dims:
        raise ValueError(f"{function}(): argument 'dim' names no dimension: {dim!r}")
    return input if dtype is None else input.to(dtype=dtype), dims


def softmax(input: Tensor, dim: int | Sequence[int] = -1, dtype: torch.dtype | None = None) -> Tensor:
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
        For integers, unless `dtype` names a floating-point type; for a `dim` that is None or a bool.
    IndexError
        If `dim` is out of range.
    ValueError
        If `dim` names a dimension twice, or none.

    Examples
    --------
    >>> import torch
    >>> from csoftmax.interop.torch import softmax
    >>> softmax(torch.tensor([1.0, 2.0, 3.0]))
    tensor([0.0900, 0.2447, 0.6652])
    """
    return _softmax(*_softmax_arguments("softmax", input, dim, dtype))


def log_softmax(input: Tensor, dim: int | Sequence[int] = -1, dtype: torch.dtype | None = None) -> Tensor:
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
    TypeError, IndexError, ValueError
        As for `softmax`.

    Examples
    --------
    >>> import torch
    >>> from csoftmax.interop.torch import log_softmax
    >>> log_softmax(torch.tensor([1.0, 2.0, 3.0]))
    tensor([-2.4076, -1.4076, -0.4076])
    """
    return _log_softmax(*_softmax_arguments("log_softmax", input, dim, dtype))


def logsumexp(input: Tensor, dim: int | Sequence[int] = -1, keepdim: bool = False) -> Tensor:
    r"""Logarithm of the sum of exponentials along `dim`, as `torch.logsumexp`.

    Parameters
    ----------
    input : Tensor
        As for `softmax`; integers and bool are cast to PyTorch's default type.
    dim : int or tuple of ints, optional
        The dimensions to sum over; all, if it is empty.
    keepdim : bool, optional
        Leave the reduced dimensions in the result, with length 1.

    Returns
    -------
    Tensor
        Of the type of `input`.

    Raises
    ------
    TypeError
        For complex numbers; for a `dim` that is None or a bool.
    IndexError, ValueError
        As for `softmax`.

    Examples
    --------
    >>> import torch
    >>> from csoftmax.interop.torch import logsumexp
    >>> logsumexp(torch.tensor([1000.0, 1000.0]))
    tensor(1000.6932)
    """
    dims = _dims("logsumexp", input, dim) or list(range(input.ndim)) or [0]
    if not (input.is_floating_point() or input.is_complex()):
        input = input.to(torch.get_default_dtype())
    rows = _logsumexp(input, dims)
    return rows if keepdim else rows.squeeze(dims)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    r"""Cross-entropy between logits and targets, as `torch.nn.functional.cross_entropy`.

    Parameters
    ----------
    input : Tensor
        Logits of shape (C), (N, C) or (N, C, d1, d2, ...).
    target : Tensor
        Class indices, in the shape of `input` without C, or probabilities in the shape of `input`.
    weight : Tensor, optional
        A weight for each of the C classes.
    ignore_index : int, optional
        Rows with this index as target count for nothing.
    reduction : {"mean", "sum", "none"}, optional
        What becomes of the rows' losses.
    label_smoothing : float, optional
        The share of each target that is spread evenly over all classes, from 0 to 1.

    Returns
    -------
    Tensor
        The loss, of the type of `input`; float32 for 16 bits under autocast, as PyTorch has it.

    Raises
    ------
    IndexError
        For a target outside [0, C) other than `ignore_index`.
    TypeError
        For logits that are no floating-point numbers.
    ValueError
        For shapes that do not fit, or an unknown reduction or smoothing.
    NotImplementedError
        When the derivative by `weight` is asked for and the target holds class indices.

    Notes
    -----
    The backward pass computes the softmax anew: no tensor of the size of the logits is kept for it.

    A class of probability 0 in the target, or of weight 0, counts for nothing even if its logit is -inf; PyTorch's
    loss is NaN there.

    Examples
    --------
    >>> import torch
    >>> from csoftmax.interop.torch import cross_entropy
    >>> cross_entropy(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([2]))
    tensor(0.4076)
    """
    if not torch.compiler.is_compiling():
        _refuse_targets(input, target)
    return _cross_entropy(input, target, weight, ignore_index, reduction, label_smoothing)


def _refuse_targets(logits: Tensor, target: Tensor) -> None:
    """Raise for class indices that are no integers, and for class probabilities that are no floats."""
    if not isinstance(target, Tensor):
        raise TypeError(f"target must be a tensor, not {type(target).__name__}")
    floats, problem = target.is_floating_point(), f"target has dtype {target.dtype}, but class"
    if target.shape == logits.shape and not floats:
        raise TypeError(f"{problem} probabilities must be floats: target.to(input.dtype)")
    if target.ndim == logits.ndim - 1 and (floats or target.dtype is torch.bool):
        raise TypeError(f"{problem} indices must be integers: target.to(torch.int64)")


# ------------------------------------------------------------------------------------- PyTorch's functions


def _forward(function: str) -> Callable[..., Tensor]:
    """The kernel of PyTorch's forward operator, by the function of csoftmax."""

    def kernel(x: Tensor, dim: int, half_to_float: bool, *, out: Tensor | None = None) -> Tensor:
        if half_to_float:
            raise RuntimeError(f"{function} with half to float conversion is not supported on CPU")
        return _fill(_result(x, out), getattr(csoftmax, function), x, dim=dim)

    return kernel


def _backward_data(function: str) -> Callable[..., Tensor]:
    """The kernel of PyTorch's backward operator, by the function of csoftmax."""

    def kernel(
        grad: Tensor, output: Tensor, dim: int, _: Any, *, out: Tensor | None = None, grad_input: Tensor | None = None
    ) -> Tensor:
        out = out if grad_input is None else grad_input
        return _fill(_result(output, out), getattr(csoftmax, function), grad, output, dim=dim)

    return kernel


def _result(like: Tensor, out: Tensor | None) -> Tensor:
    """The tensor to write into: `out`, or one that is contiguous as by PyTorch, so that view() works as before."""
    if out is None:
        return torch.empty_like(like, memory_format=torch.contiguous_format)
    return out if out.shape == like.shape else out.resize_(like.shape)


_KERNELS = {
    "_softmax": _forward("softmax"),
    "_log_softmax": _forward("log_softmax"),
    "_softmax_backward_data": _backward_data("softmax_backward"),
    "_log_softmax_backward_data": _backward_data("log_softmax_backward"),
}


class _Switch:
    """What decides, for the whole process, whether PyTorch's kernels are replaced."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.patched = False
        self.contexts = 0
        self.library: torch.library.Library | None = None

    def change(self, *, patched: bool | None = None, contexts: int = 0) -> None:
        with self.lock:
            patched = self.patched if patched is None else patched
            contexts += self.contexts
            if not (patched or contexts):
                self.library = None  # with it go the kernels
            elif self.library is None:
                self.library = self.replaced()
            self.patched, self.contexts = patched, contexts

    @staticmethod
    def replaced() -> torch.library.Library:
        library = torch.library.Library("aten", "IMPL")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "(?s).*Overriding a previously registered kernel")
            for name, kernel in _KERNELS.items():
                library.impl(name, kernel, "CPU")
                library.impl(f"{name}.out", kernel, "CPU")
        return library


_switch = _Switch()


def patch() -> None:
    r"""Put csoftmax's kernels under PyTorch's own softmax and log_softmax on the CPU, until `unpatch`.

    They serve the whole process: every thread, forward and backward, and processes forked from it later. Call it
    before threads begin to compute: PyTorch does not let kernels change while they run. To call it again
    changes nothing.

    See Also
    --------
    replace_softmax : the same while a context lasts, and what it reaches.

    Examples
    --------
    >>> import torch
    >>> from csoftmax.interop.torch import patch, unpatch
    >>> patch()
    >>> torch.softmax(torch.tensor([1.0, 2.0, 3.0]), 0)
    tensor([0.0900, 0.2447, 0.6652])
    >>> unpatch()
    """
    _switch.change(patched=True)


def unpatch() -> None:
    r"""Give PyTorch its own kernels back, after `patch`.

    Where a `replace_softmax()` is open, they come back when it ends. Without `patch` nothing happens.

    Examples
    --------
    >>> from csoftmax.interop.torch import unpatch
    >>> unpatch()
    """
    _switch.change(patched=False)


class _Replaced(contextlib.ContextDecorator):
    """A context in which the kernels are replaced; it may be entered any number of times, in any thread."""

    def __init__(self) -> None:
        self.entered = 0

    def __enter__(self) -> None:
        _switch.change(contexts=1)
        self.entered += 1

    def __exit__(self, *_: object) -> None:
        if self.entered == 0:
            raise RuntimeError("replace_softmax() is left more often than it was entered")
        self.entered -= 1
        _switch.change(contexts=-1)


def replace_softmax() -> _Replaced:
    r"""Put csoftmax's kernels under PyTorch's own softmax and log_softmax on the CPU while the context lasts.

    All that PyTorch's dispatcher sends there uses them, in every thread, forward and backward:
    `torch.softmax` and `torch.log_softmax`, their kin in `torch.nn`, cross-entropy, attention that is not
    fused. Autograd stays PyTorch's. What torch.compile turns into kernels of its own is not affected.

    Returns
    -------
    context manager
        To be used in a `with` statement, or as a decorator. Such contexts nest and overlap, within each other, with
        `patch` and between threads: PyTorch's kernels are back when the last has ended.

    See Also
    --------
    patch : the same until further notice.

    Examples
    --------
    >>> import torch
    >>> from csoftmax.interop.torch import replace_softmax
    >>> with replace_softmax():
    ...     torch.nn.Softmax(dim=-1)(torch.tensor([1.0, 2.0, 3.0]))
    tensor([0.0900, 0.2447, 0.6652])
    """
    return _Replaced()
