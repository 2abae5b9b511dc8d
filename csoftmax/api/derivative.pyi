# Types of the Jacobian products and of softmax's Jacobian: of the dtype of what goes in, if that is one dtype.

from typing import Any, SupportsIndex, TypeAlias, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

_Float = TypeVar("_Float", np.float16, np.float32, np.float64)
_Axis: TypeAlias = SupportsIndex | tuple[SupportsIndex, ...] | None
_Mask: TypeAlias = ArrayLike | None

@overload
def softmax_backward(
    grad_output: NDArray[_Float],
    output: NDArray[_Float],
    axis: _Axis = -1,
    *,
    temperature: float = 1.0,
    where: _Mask = None,
    out: None = None,
) -> NDArray[_Float]: ...
@overload
def softmax_backward(
    grad_output: ArrayLike,
    output: ArrayLike,
    axis: _Axis = -1,
    *,
    temperature: float = 1.0,
    where: _Mask = None,
    out: NDArray[_Float],
) -> NDArray[_Float]: ...
@overload
def softmax_backward(
    grad_output: ArrayLike,
    output: ArrayLike,
    axis: _Axis = -1,
    *,
    temperature: float = 1.0,
    where: _Mask = None,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]: ...
@overload
def softmax_jvp(
    tangent: NDArray[_Float],
    output: NDArray[_Float],
    axis: _Axis = -1,
    *,
    temperature: float = 1.0,
    where: _Mask = None,
    out: None = None,
) -> NDArray[_Float]: ...
@overload
def softmax_jvp(
    tangent: ArrayLike,
    output: ArrayLike,
    axis: _Axis = -1,
    *,
    temperature: float = 1.0,
    where: _Mask = None,
    out: NDArray[_Float],
) -> NDArray[_Float]: ...
@overload
def softmax_jvp(
    tangent: ArrayLike,
    output: ArrayLike,
    axis: _Axis = -1,
    *,
    temperature: float = 1.0,
    where: _Mask = None,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]: ...
@overload
def log_softmax_backward(
    grad_output: NDArray[_Float],
    output: NDArray[_Float],
    axis: _Axis = -1,
    *,
    temperature: float = 1.0,
    where: _Mask = None,
    out: None = None,
) -> NDArray[_Float]: ...
@overload
def log_softmax_backward(
    grad_output: ArrayLike,
    output: ArrayLike,
    axis: _Axis = -1,
    *,
    temperature: float = 1.0,
    where: _Mask = None,
    out: NDArray[_Float],
) -> NDArray[_Float]: ...
@overload
def log_softmax_backward(
    grad_output: ArrayLike,
    output: ArrayLike,
    axis: _Axis = -1,
    *,
    temperature: float = 1.0,
    where: _Mask = None,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]: ...
@overload
def log_softmax_jvp(
    tangent: NDArray[_Float],
    output: NDArray[_Float],
    axis: _Axis = -1,
    *,
    temperature: float = 1.0,
    where: _Mask = None,
    out: None = None,
) -> NDArray[_Float]: ...
@overload
def log_softmax_jvp(
    tangent: ArrayLike,
    output: ArrayLike,
    axis: _Axis = -1,
    *,
    temperature: float = 1.0,
    where: _Mask = None,
    out: NDArray[_Float],
) -> NDArray[_Float]: ...
@overload
def log_softmax_jvp(
    tangent: ArrayLike,
    output: ArrayLike,
    axis: _Axis = -1,
    *,
    temperature: float = 1.0,
    where: _Mask = None,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]: ...
@overload
def softmax_jacobian(output: NDArray[_Float], axis: _Axis = -1, *, out: None = None) -> NDArray[_Float]: ...
@overload
def softmax_jacobian(output: ArrayLike, axis: _Axis = -1, *, out: NDArray[_Float]) -> NDArray[_Float]: ...
@overload
def softmax_jacobian(output: ArrayLike, axis: _Axis = -1, *, out: NDArray[Any] | None = None) -> NDArray[Any]: ...
