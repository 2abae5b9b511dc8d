"""Operators for ONNX's reference evaluator, on csoftmax's kernels.

``onnx.reference.ReferenceEvaluator(model, new_ops=OPERATORS)`` evaluates a model with them, of any opset.
"""

import math

import numpy as np

import csoftmax

try:
    from onnx.reference.op_run import OpRun
except ModuleNotFoundError as error:
    raise ImportError("csoftmax.interop.onnx needs ONNX: pip install 'csoftmax[onnx]'") from error

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

    def _run(self, x, axis):
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
    def apply(x, axis):
        y = np.zeros_like(x)
        if x.size:
            np.put_along_axis(y, x.argmax(axis, keepdims=True), 1, axis)
        return y


class SoftmaxCrossEntropyLoss(OpRun):
    """Cross-entropy of scores, and their log-probabilities if the node has a second output."""

    def _run(self, x, target, weight=None, ignore_index=None, reduction="mean"):
        options = {} if ignore_index is None else {"ignore_index": ignore_index}
        loss = csoftmax.cross_entropy(x, target, 1, weight=weight, reduction=reduction, **options)
        loss = np.asarray(loss, x.dtype)
        return (loss, csoftmax.log_softmax(x, 1)) if len(self.onnx_node.output) == 2 else (loss,)


class NegativeLogLikelihoodLoss(OpRun):
    """Cross-entropy of log-probabilities, whether they are normalised or not: nothing here is a softmax."""

    def _run(self, x, target, weight=None, ignore_index=None, reduction="mean"):
        work = np.result_type(x, np.float32)
        counted = np.ones(target.shape, bool) if ignore_index is None else target != ignore_index
        index = np.where(counted, target, 0)
        weights = np.where(counted, 1 if weight is None else weight[index], 0).astype(work)
        picked = np.take_along_axis(x, index[:, None], 1)[:, 0].astype(work)
        loss = -weights * np.where(counted, picked, 0)
        if reduction != "none":
            loss = loss.sum()
        if reduction == "mean":
            loss /= weights.sum()
        return (np.asarray(loss, x.dtype),)


OPERATORS = [Softmax, LogSoftmax, Hardmax, SoftmaxCrossEntropyLoss, NegativeLogLikelihoodLoss]
