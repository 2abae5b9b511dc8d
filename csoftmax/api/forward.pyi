# Types of softmax, log_softmax and logsumexp: what dtype goes in decides what dtype comes out.

from collections.abc import Sequence
from typing import Any, Literal, SupportsIndex, TypeAlias, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

_Float = TypeVar("_Float", np.float16, np.float32, np.float64)
_Axis: TypeAlias = SupportsIndex | tuple[SupportsIndex, ...] | None
_Integers: TypeAlias = NDArray[np.integer[Any]] | NDArray[np.bool_]
_Mask: TypeAlias = ArrayLike | None

@overload
def softmax(
    x: NDArray[_Float],
    axis: _Axis = -1,
    *,
    temperature: float = 1.0,
    where: _Mask = None,
    out: None = None,
    dtype: None = None,
) -> NDArray[_Float]: ...
@overload
def softmax(
    x: _Integers | Sequence[float],
    axis: _Axis = -1,
    *,
    temperature: float = 1.0,
    where: _Mask = None,
    out: None = None,
    dtype: None = None,
) -> NDArray[np.float64]: ...
@overload
def softmax(
    x: ArrayLike,
    axis: _Axis = -1,
    *,
    temperature: float = 1.0,
    where: _Mask = None,
    out: NDArray[_Float],
    dtype: DTypeLike | None = None,
) -> NDArray[_Float]: ...
@overload
def softmax(
    x: ArrayLike,
    axis: _Axis = -1,
    *,
    temperature: float = 1.0,
    where: _Mask = None,
    out: None = None,
    dtype: type[_Float] | np.dtype[_Float],
) -> NDArray[_Float]: ...
@overload
def softmax(
    x: ArrayLike,
    axis: _Axis = -1,
    *,
    temperature: float = 1.0,
    where: _Mask = None,
    out: NDArray[Any] | None = None,
    dtype: DTypeLike | None = None,
) -> NDArray[Any]: ...
@overload
def log_softmax(
    x: NDArray[_Float],
    axis: _Axis = -1,
    *,
    temperature: float = 1.0,
    where: _Mask = None,
    out: None = None,
    dtype: None = None,
) -> NDArray[_Float]: ...
@overload
def log_softmax(
    x: _Integers | Sequence[float],
    axis: _Axis = -1,
    *,
    temperature: float = 1.0,
    where: _Mask = None,
    out: None = None,
    dtype: None = None,
) -> NDArray[np.float64]: ...
@overload
def log_softmax(
    x: ArrayLike,
    axis: _Axis = -1,
    *,
    temperature: float = 1.0,
    where: _Mask = None,
    out: NDArray[_Float],
    dtype: DTypeLike | None = None,
) -> NDArray[_Float]: ...
@overload
def log_softmax(
    x: ArrayLike,
    axis: _Axis = -1,
    *,
    temperature: float = 1.0,
    where: _Mask = None,
    out: None = None,
    dtype: type[_Float] | np.dtype[_Float],
) -> NDArray[_Float]: ...
@overload
def log_softmax(
    x: ArrayLike,
    axis: _Axis = -1,
    *,
    temperature: float = 1.0,
    where: _Mask = None,
    out: NDArray[Any] | None = None,
    dtype: DTypeLike | None = None,
) -> NDArray[Any]: ...

# Whether an axis is left, and the result therefore an array, shows only for axis=None and keepdims=True.
@overload
def logsumexp(
    x: NDArray[_Float],
    axis: None,
    *,
    where: _Mask = None,
    keepdims: Literal[False] = False,
    out: None = None,
    dtype: None = None,
) -> _Float: ...
@overload
def logsumexp(
    x: NDArray[_Float],
    axis: _Axis = -1,
    *,
    where: _Mask = None,
    keepdims: Literal[True],
    out: None = None,
    dtype: None = None,
) -> NDArray[_Float]: ...
@overload
def logsumexp(
    x: Sequence[float],
    axis: _Axis = -1,
    *,
    where: _Mask = None,
    keepdims: Literal[False] = False,
    out: None = None,
    dtype: None = None,
) -> np.float64: ...
@overload
def logsumexp(
    x: ArrayLike,
    axis: _Axis = -1,
    *,
    where: _Mask = None,
    keepdims: bool = False,
    out: NDArray[_Float],
    dtype: DTypeLike | None = None,
) -> NDArray[_Float]: ...
@overload
def logsumexp(
    x: ArrayLike,
    axis: _Axis = -1,
    *,
    where: _Mask = None,
    keepdims: bool = False,
    out: NDArray[Any] | None = None,
    dtype: DTypeLike | None = None,
) -> Any: ...
