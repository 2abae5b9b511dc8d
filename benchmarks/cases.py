"""What is measured: the cells (operation, shape, axis, dtype, out=), their data, and the right answers."""

import functools
import math
from dataclasses import dataclass

import ml_dtypes  # registers bfloat16 with NumPy
import numpy as np

OPERATIONS = (
    "softmax",
    "log_softmax",
    "logsumexp",
    "softmax_backward",
    "log_softmax_backward",
    "cross_entropy",
    "cross_entropy_with_grad",
)
DTYPES = ("float32", "float64", "float16", "bfloat16")


@dataclass(frozen=True, order=True)
class Cell:
    """One thing to measure. Everything that changes what is computed, and nothing about who computes it."""

    operation: str
    shape: tuple[int, ...]
    axis: int = -1
    dtype: str = "float32"
    out: bool = False

    def __str__(self):
        shape = f"({self.shape[0]},)" if len(self.shape) == 1 else str(self.shape)
        return f"{self.operation} {shape} axis={self.axis} {self.dtype} {'out=' if self.out else 'fresh'}"

    @property
    def slug(self):
        shape = "x".join(map(str, self.shape))
        return f"{self.operation}-{shape}-axis{self.axis}-{self.dtype}-{'out' if self.out else 'fresh'}"

    @property
    def size(self):
        return math.prod(self.shape)


def aligned_empty(shape, dtype):
    """An array that starts on a cache line, so that no contender is served better than another by chance."""
    dtype = np.dtype(dtype)
    nbytes = math.prod(shape) * dtype.itemsize
    raw = np.empty(nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + nbytes].view(dtype).reshape(shape)


def wide(x):
    """`x` in the type its right answers are computed in."""
    return x.astype(np.longdouble if x.dtype == np.float64 else np.float64)


class Problem:
    """A cell's inputs, shared by all contenders, and the judge of their results."""

    def __init__(self, cell, seed=0):
        self.cell = cell
        self.rng = np.random.default_rng(seed)
        self.dtype = np.dtype(cell.dtype)
        self.x = self._random(3.0)
        self.out = aligned_empty(self.batch if cell.operation == "logsumexp" else cell.shape, self.dtype)

    @property
    def batch(self):
        """The shape without the axis."""
        axis = self.cell.axis % len(self.cell.shape)
        return self.cell.shape[:axis] + self.cell.shape[axis + 1 :]

    def _random(self, scale):
        draw = np.float64 if self.cell.dtype == "float64" else np.float32
        values = self.rng.standard_normal(self.cell.shape, dtype=draw)
        values *= scale
        array = aligned_empty(self.cell.shape, self.dtype)
        array[...] = values
        return array

    @functools.cached_property
    def grad(self):
        return self._random(1.0)

    @functools.cached_property
    def output(self):
        """What the forward pass would have handed to the backward."""
        array = aligned_empty(self.cell.shape, self.dtype)
        x = self.x.astype(np.float64 if self.cell.dtype == "float64" else np.float32)
        shifted = x - x.max(axis=self.cell.axis, keepdims=True)
        total = np.exp(shifted).sum(axis=self.cell.axis, keepdims=True)
        log_p = shifted - np.log(total)
        array[...] = log_p if self.cell.operation == "log_softmax_backward" else np.exp(log_p)
        return array

    @functools.cached_property
    def target(self):
        return self.rng.integers(0, self.cell.shape[-1], self.batch)

    @functools.cached_property
    def _rows(self):
        """Indices of the rows that are checked: the first, the last, and some between."""
        n = self.cell.shape[self.cell.axis]
        rows = self.cell.size // n
        count = min(rows, max(1, self._limit // n))
        flat = np.unique(np.linspace(0, rows - 1, count).astype(int))
        return np.unravel_index(flat, self.batch) if self.batch else ()

    @property
    def _limit(self):
        """How many elements are checked: long double is slow, the other dtypes are checked in float64."""
        return 2**17 if self.cell.dtype == "float64" else 2**19

    def rows(self, array):
        """The checked rows of an array of the cell's shape, as (rows, n)."""
        return np.atleast_2d(np.moveaxis(array, self.cell.axis, -1)[self._rows])

    def compared(self, rows):
        """Of a very long row only so many elements; an odd step, so that no lane of a vector escapes."""
        step = rows.shape[1] // self._limit | 1
        return rows[:, ::step]

    @functools.cached_property
    def want(self):
        """The right answer where it is compared, and the unit in the last place to count its error in.

        Where the operation adds numbers that may cancel, the unit is that of the largest of them.
        """
        values, terms = self._answer()
        values, terms = map(self.compared, np.broadcast_arrays(values, terms))
        return values, unit_in_the_last_place(self.dtype, terms)

    def _answer(self):
        operation = self.cell.operation
        if operation == "softmax_backward":
            g, p = wide(self.rows(self.grad)), wide(self.rows(self.output))
            return p * (g - (g * p).sum(-1, keepdims=True)), np.abs(g * p).max(-1, keepdims=True)
        if operation == "log_softmax_backward":
            g, p = wide(self.rows(self.grad)), np.exp(wide(self.rows(self.output)))
            second = p * g.sum(-1, keepdims=True)
            return g - second, np.maximum(np.abs(g), np.abs(second)).max(-1, keepdims=True)
        x = wide(self.rows(self.x))
        maximum = x.max(-1, keepdims=True)
        shifted = x - maximum
        log_total = np.log(np.exp(shifted).sum(-1, keepdims=True))
        if operation == "logsumexp":
            return maximum + log_total, np.maximum(np.abs(maximum), log_total)
        if operation == "log_softmax":
            return shifted - log_total, np.maximum(log_total - shifted, 1)
        p = np.exp(shifted - log_total)
        if operation == "softmax":
            return p, p
        p[np.arange(len(x)), self.target[self._rows]] -= 1
        return p / self.target.size, 1 / self.target.size

    @functools.cached_property
    def mean_loss(self):
        """Cross-entropy over all rows."""
        losses = []
        for row, target in zip(self.x, self.target, strict=True):
            row = wide(row)
            maximum = row.max()
            losses.append(maximum - row[target] + np.log(np.exp(row - maximum).sum()))
        return np.mean(losses)

    def error(self, result):
        """The largest error of `result` in units in the last place; NaN counts as infinite."""
        operation = self.cell.operation
        if operation == "copy":
            return float("inf") if (result != self.x).any() else 0.0
        if operation.startswith("cross_entropy"):
            loss, *gradient = result if isinstance(result, tuple) else (result,)
            loss = np.asarray(loss)
            unit = unit_in_the_last_place(loss.dtype, self.mean_loss)
            return max([largest_error(loss, self.mean_loss, unit), *map(self._elementwise, gradient)])
        return self._elementwise(result)

    def _elementwise(self, result):
        rows = result[self._rows].reshape(-1, 1) if self.cell.operation == "logsumexp" else self.rows(result)
        return largest_error(self.compared(rows), *self.want)

    @property
    def tolerance(self):
        """The error in ulp beyond which a result is wrong, not merely what adding in 16 bits comes to."""
        return 0.25 / float(ml_dtypes.finfo(self.dtype).eps) if self.dtype.itemsize == 2 else 2.0**17


def unit_in_the_last_place(dtype, values):
    """The distance from `values` to the next number of a dtype, not below that of its smallest normal."""
    info = ml_dtypes.finfo(dtype)
    _, exponent = np.frexp(np.maximum(np.abs(values), float(info.smallest_normal)))
    return np.ldexp(float(info.eps), exponent - 1)


def largest_error(result, want, unit):
    error = np.max(np.abs(result.astype(want.dtype) - want) / unit)
    return float("inf") if np.isnan(error) else float(error)
