"""A backend for thinc, and so for spaCy: NumpyOps with its softmaxes on csoftmax's kernels.

It is registered under the name "csoftmax", so that ``thinc.api.use_ops("csoftmax")`` is all it takes.
Unlike thinc's own, `softmax` works in place when asked to, and `softmax_sequences` does not clip its input.
"""

import itertools

import numpy as np

import csoftmax

try:
    from thinc.backends.numpy_ops import NumpyOps
except ModuleNotFoundError as error:
    raise ImportError("csoftmax.interop.thinc needs thinc: pip install 'csoftmax[thinc]'") from error

__all__ = ["CSoftmaxOps"]


def _sequences(lengths, rows):
    """Views of each sequence's rows; of a single column as vectors."""
    ends = np.cumsum(lengths).tolist()
    if sum(ends[-1:]) != len(rows):
        raise IndexError(f"the lengths add up to {sum(ends[-1:])}, but there are {len(rows)} rows")
    if rows.shape[1] == 1:
        rows = rows[:, 0]
    return [rows[start:end] for start, end in itertools.pairwise([0, *ends])]


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

    def softmax(self, x, *, inplace=False, axis=-1, temperature=1.0):
        """Softmax of x / temperature along `axis`; in the memory of `x` if `inplace`."""
        return csoftmax.softmax(x, axis, temperature=temperature, out=x if inplace else None)

    def softmax_sequences(self, Xs, lengths, *, inplace=False, axis=-1):
        """Softmax down each column of each sequence; the sequences lie one below the other in `Xs`."""
        if Xs.ndim != 2:
            raise NotImplementedError(f"softmax_sequences takes arrays of 2 dimensions, not of {Xs.ndim}")
        Y = Xs if inplace else Xs.copy()
        for y in _sequences(lengths, Y):
            csoftmax.softmax(y, -y.ndim, out=y)
        return Y

    def backprop_softmax(self, Y, dY, *, axis=-1, temperature=1.0):
        """Gradient by the input of `softmax`, from the one by its output `Y`."""
        return csoftmax.softmax_backward(dY, Y, axis, temperature=temperature)

    def backprop_softmax_sequences(self, dY, Y, lengths):
        """Gradient by the input of `softmax_sequences`, from the one by its output `Y`."""
        dX = dY.copy()
        for dx, y in zip(_sequences(lengths, dX), _sequences(lengths, Y), strict=True):
            csoftmax.softmax_backward(dx, y, -y.ndim, out=dx)
        return dX
