"""Operators for ONNX's reference evaluator, on csoftmax's kernels.

``onnx.reference.ReferenceEvaluator(model, new_ops=OPERATORS)`` evaluates a model with them, of any opset.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import csoftmax
from csoftmax._extras import how_to_install

try:
    from onnx.reference.op_run import OpRun
except ModuleNotFoundError as error:
    raise ImportError(f"csoftmax.interop.onnx needs ONNX: {how_to_install('onnx')}") from error

__all__ = [
    "OPERATORS",
    "Hardmax",
    "LogSoftmax",
    "NegativeLogLikelihoodLoss",
    "Softmax",
    "SoftmaxCrossEntropyLoss",
]


class _AlongAxis(OpRun):
    """An operator with one input, one output of its shape, and an axis."""

    apply: Callable[..., NDArray[Any]]

    def _run(self, x: NDArray[Any], axis: int) -> tuple[NDArray[Any]]:
        if self.run_params["opsets"].get("", 13) >= 13:
            return (self.apply(x, axis),)
        # Before opset 13 the axis was 1 by default, and those after it belonged to the row.
        axis = axis if self.onnx_node.attribute else 1
        rows = x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))
        return (self.apply(rows, -1).reshape(x.shape),)


class Softmax(_AlongAxis):
    """Probabilities."""

    apply = staticmethod(csoftmax.softmax)


class LogSoftmax(_AlongAxis):
    """Log-probabilities."""

    apply = staticmethod(csoftmax.log_softmax)


class Hardmax(_AlongAxis):
    """1 for the first of the largest elements, 0 for all others: softmax's limit at temperature 0."""

    @staticmethod
    def apply(x: NDArray[Any], axis: int) -> NDArray[Any]:
        y = np.zeros_like(x)
        if x.size:
            np.put_along_axis(y, x.argmax(axis, keepdims=True), 1, axis)
        return y


def _check_target(x: NDArray[Any], target: NDArray[Any], ignore_index: int | None) -> None:
    """An error unless every target is a class, or the `ignore_index` where the node has one, as ONNX's text says."""
    batch = x.shape[:1] + x.shape[2:]
    if x.ndim < 2 or target.shape != batch:
        raise ValueError(f"scores of shape {x.shape} want targets of shape {batch}, not {target.shape}")
    wrong = (target < 0) | (target >= x.shape[1])
    if ignore_index is not None:
        wrong &= target != ignore_index
    if wrong.any():
        place = tuple(map(int, np.argwhere(wrong)[0]))
        ignored = "without ignore_index" if ignore_index is None else f"with ignore_index {ignore_index}"
        raise IndexError(f"target {target[place]} at {place} is no class from 0 to {x.shape[1] - 1}, {ignored}")


class SoftmaxCrossEntropyLoss(OpRun):
    """Cross-entropy of scores, and their log-probabilities if the node has a second output."""

    def _run(
        self,
        x: NDArray[Any],
        target: NDArray[Any],
        weight: NDArray[Any] | None = None,
        ignore_index: int | None = None,
        reduction: Literal["mean", "sum", "none"] = "mean",
    ) -> tuple[Any, ...]:
        _check_target(x, target, ignore_index)
        options = {} if ignore_index is None else {"ignore_index": ignore_index}
        loss = csoftmax.cross_entropy(x, target, 1, weight=weight, reduction=reduction, **options)
        loss = np.asarray(loss, x.dtype)
        return (loss, csoftmax.log_softmax(x, 1)) if len(self.onnx_node.output) == 2 else (loss,)


class NegativeLogLikelihoodLoss(OpRun):
    """Cross-entropy of log-probabilities, whether they are normalised or not: nothing here is a softmax."""

    def _run(
        self,
        x: NDArray[Any],
        target: NDArray[Any],
        weight: NDArray[Any] | None = None,
        ignore_index: int | None = None,
        reduction: Literal["mean", "sum", "none"] = "mean",
    ) -> tuple[Any, ...]:
        _check_target(x, target, ignore_index)
        if weight is not None and weight.shape != x.shape[1:2]:
            raise ValueError(f"weights of shape {x.shape[1:2]} are wanted, one a class, not {weight.shape}")
        work = np.result_type(x, np.float32)
        counted = np.ones(target.shape, bool) if ignore_index is None else target != ignore_index
        index = np.where(counted, target, 0)
        weights = np.where(counted, 1 if weight is None else weight[index], 0).astype(work)
        picked = np.take_along_axis(x, index[:, None], 1)[:, 0].astype(work)
        # what has weight 0 counts for nothing, be its log-probability -inf
        loss: Any = -weights * np.where(weights == 0, 0, picked)
        if reduction != "none":
            loss = loss.sum()
        if reduction == "mean":
            total = weights.sum()
            loss = loss / total if total else np.nan
        return (np.asarray(loss, x.dtype),)


OPERATORS: list[type[OpRun]] = [Softmax, LogSoftmax, Hardmax, SoftmaxCrossEntropyLoss, NegativeLogLikelihoodLoss]
