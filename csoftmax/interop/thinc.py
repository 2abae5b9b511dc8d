"""A backend for thinc, and so for spaCy: NumpyOps with its softmaxes on csoftmax's kernels.

It is registered under the name "csoftmax", so that ``thinc.api.use_ops("csoftmax")`` is all it takes.
Unlike thinc's own, `softmax` works in place when asked to, and `softmax_sequences` does not clip its input.
"""

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

import csoftmax
from csoftmax._extras import how_to_install

try:
    from thinc.backends.numpy_ops import NumpyOps
except ModuleNotFoundError as error:
    raise ImportError(f"csoftmax.interop.thinc needs thinc: {how_to_install('thinc')}") from error

__all__ = ["CSoftmaxOps"]


def _checked_lengths(lengths: Any, rows: int) -> list[int]:
    """The lengths as integers that are not negative and add up to the number of rows, or an error."""
    given = np.asarray(lengths)
    if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
        raise TypeError(f"the lengths are a vector of integers, not {given.dtype} of shape {given.shape}")
    checked: list[int] = given.tolist()
    for place, length in enumerate(checked):
        if length < 0:
            raise ValueError(f"lengths are not negative, but that of sequence {place} is {length}")
    if sum(checked) != rows:
        raise IndexError(f"the lengths add up to {sum(checked)}, but there are {rows} rows")
    return checked


def _sequences(lengths: Any, rows: NDArray[Any]) -> list[NDArray[Any]]:
    """Views of each sequence's rows; of a single column as vectors."""
    if rows.ndim != 2:
        raise NotImplementedError(f"softmax_sequences takes arrays of 2 dimensions, not of {rows.ndim}")
    ends = itertools.accumulate(_checked_lengths(lengths, len(rows)), initial=0)
    if rows.shape[1] == 1:
        rows = rows[:, 0]
    return [rows[start:end] for start, end in itertools.pairwise(ends)]


class CSoftmaxOps(NumpyOps):
    """thinc's operations on NumPy arrays, with softmax and its derivative by csoftmax.

    Examples
    --------
    >>> import numpy as np
    >>> from csoftmax.interop.thinc import CSoftmaxOps
    >>> CSoftmaxOps().softmax(np.zeros((1, 4), np.float32))
    array([[0.25, 0.25, 0.25, 0.25]], dtype=float32)
    """

    name = "csoftmax"

    def softmax(self, x: Any, *, inplace: bool = False, axis: int = -1, temperature: float = 1.0) -> Any:
        """Softmax of x / temperature along `axis`; in the memory of `x` if `inplace`."""
        return csoftmax.softmax(x, axis, temperature=temperature, out=x if inplace else None)

    def softmax_sequences(self, Xs: Any, lengths: Any, *, inplace: bool = False, axis: int = -1) -> Any:
        """Softmax down each column of each sequence; the sequences lie one below the other in `Xs`.

        An error, and nothing is written, unless the lengths are integers that are not negative and add up to the rows.
        """
        Y = Xs if inplace else Xs.copy()
        for y in _sequences(lengths, Y):
            csoftmax.softmax(y, -y.ndim, out=y)
        return Y

    def backprop_softmax(self, Y: Any, dY: Any, *, axis: int = -1, temperature: float = 1.0) -> Any:
        """Gradient by the input of `softmax`, from the one by its output `Y`."""
        return csoftmax.softmax_backward(dY, Y, axis, temperature=temperature)

    def backprop_softmax_sequences(self, dY: Any, Y: Any, lengths: Any) -> Any:
        """Gradient by the input of `softmax_sequences`, from the one by its output `Y`."""
        dX = dY.copy()
        for dx, y in zip(_sequences(lengths, dX), _sequences(lengths, Y), strict=True):
            csoftmax.softmax_backward(dx, y, -y.ndim, out=dx)
        return dX
