# Types of the losses: a scalar of the logits' dtype, or with reduction="none" an array of it. Of 16-bit logits the
# loss is float32; they fall to the last overload, as everything does whose dtype is not known.

from typing import Any, Literal, SupportsIndex, TypeAlias, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

_Float = TypeVar("_Float", np.float32, np.float64)
_Scalar: TypeAlias = Literal["mean", "sum"]
_Reduction: TypeAlias = Literal["mean", "sum", "none"]

@overload
def cross_entropy(
    logits: NDArray[_Float],
    target: ArrayLike,
    axis: SupportsIndex = -1,
    *,
    weight: ArrayLike | None = None,
    ignore_index: SupportsIndex = -100,
    label_smoothing: float = 0.0,
    reduction: _Scalar = "mean",
) -> _Float: ...
@overload
def cross_entropy(
    logits: NDArray[_Float],
    target: ArrayLike,
    axis: SupportsIndex = -1,
    *,
    weight: ArrayLike | None = None,
    ignore_index: SupportsIndex = -100,
    label_smoothing: float = 0.0,
    reduction: Literal["none"],
) -> NDArray[_Float]: ...
@overload
def cross_entropy(
    logits: ArrayLike,
    target: ArrayLike,
    axis: SupportsIndex = -1,
    *,
    weight: ArrayLike | None = None,
    ignore_index: SupportsIndex = -100,
    label_smoothing: float = 0.0,
    reduction: _Reduction = "mean",
) -> Any: ...
@overload
def cross_entropy_with_grad(
    logits: NDArray[_Float],
    target: ArrayLike,
    axis: SupportsIndex = -1,
    *,
    weight: ArrayLike | None = None,
    ignore_index: SupportsIndex = -100,
    label_smoothing: float = 0.0,
    reduction: _Scalar = "mean",
    grad_output: ArrayLike | None = None,
    out: NDArray[_Float] | None = None,
) -> tuple[_Float, NDArray[_Float]]: ...
@overload
def cross_entropy_with_grad(
    logits: NDArray[_Float],
    target: ArrayLike,
    axis: SupportsIndex = -1,
    *,
    weight: ArrayLike | None = None,
    ignore_index: SupportsIndex = -100,
    label_smoothing: float = 0.0,
    reduction: Literal["none"],
    grad_output: ArrayLike | None = None,
    out: NDArray[_Float] | None = None,
) -> tuple[NDArray[_Float], NDArray[_Float]]: ...
@overload
def cross_entropy_with_grad(
    logits: ArrayLike,
    target: ArrayLike,
    axis: SupportsIndex = -1,
    *,
    weight: ArrayLike | None = None,
    ignore_index: SupportsIndex = -100,
    label_smoothing: float = 0.0,
    reduction: _Reduction = "mean",
    grad_output: ArrayLike | None = None,
    out: NDArray[Any] | None = None,
) -> tuple[Any, NDArray[Any]]: ...
