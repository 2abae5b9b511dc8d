"""What every benchmark shares: the cell that is measured, its data, right answer and error, and the timer.

``csoftmax bench`` is `run`; ``benchmarks/`` and ``tools/accuracy.py`` of the source tree build on the same parts.
The contenders of a cell run in one process, turn by turn, so that what disturbs the machine disturbs all of them;
a contender's time is the median over the rounds. What is computed is checked before it is timed.
"""

import dataclasses
import functools
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

import csoftmax

Array = NDArray[Any]

NUMPY = "NumPy"
WRONG_ULPS = 100.0  # a larger error is no rounding error
ROUND_SECONDS = 1e-3  # of one contender's calls in a round, at least
LEAST_ROUNDS = 3
SETTLE = 0.01  # seconds in which the thread pool of the contender before stops spinning
FORMATS = {  # explicit digits, exponent of the smallest normal number
    "float32": (23, -126),
    "float64": (52, -1022),
    "float16": (10, -14),
    "bfloat16": (7, -126),
}


class WrongAnswer(Exception):
    """What a contender computed is not what was asked for, so its time means nothing."""


@dataclass(frozen=True, order=True)
class Cell:
    """One thing to measure: all that changes what is computed, and nothing about who computes it."""

    operation: str
    shape: tuple[int, ...]
    axis: int = -1
    dtype: str = "float32"
    out: bool = False
    reduction: str = "mean"
    name: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.operation} {self.shape} axis={self.axis} {self.dtype} {'out=' if self.out else 'fresh'}"

    @property
    def layout(self) -> str:
        """The shape, and the axis if it is not the last."""
        return "x".join(map(str, self.shape)) + (f" axis {self.axis}" if self.axis >= 0 else "")

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def batch(self) -> tuple[int, ...]:
        """The shape without the axis."""
        axis = self.axis % len(self.shape)
        return self.shape[:axis] + self.shape[axis + 1 :]


CASES = (  # arrays that a user would recognise
    Cell("softmax", (10_000, 10), name="10 classes"),
    Cell("softmax", (1000, 1000), name="ImageNet head"),
    Cell("softmax", (8, 12, 256, 256), name="attention block"),
    Cell("softmax", (32, 50_257), name="vocabulary"),
    Cell("softmax", (1, 1 << 22), name="long row"),
    Cell("softmax", (1000, 1000), axis=0, name="columns"),
    Cell("softmax", (4, 21, 256, 256), axis=1, name="segmentation map"),
    Cell("softmax", (10,), name="one small call"),
)
DIRECTIONS = {"softmax": "forward", "softmax_backward": "backward"}


def ulp(values: Array, dtype: DTypeLike) -> Array:
    """Return the unit in the last place of `dtype` around `values`: the smallest subnormal for zero."""
    digits, exponent = FORMATS[np.dtype(dtype).name]
    size = np.maximum(np.abs(values), math.ldexp(1.0, exponent))
    unit: Array = np.ldexp(np.ones((), size.dtype), np.frexp(size)[1] - 1 - digits)
    return unit


def errors_in_ulp(got: Array, want: Array, unit: Array) -> Array:
    """Return the differences in `unit`: 0 where both are the same, infinite where just one is no finite number."""
    with np.errstate(all="ignore"):
        difference: Array = np.abs(got.astype(want.dtype) - want) / unit
    difference[got == want] = 0
    difference[np.isnan(difference)] = np.inf
    return difference


def aligned_empty(shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Return an array that starts on a cache line, so that no contender is better served by chance."""
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    array: Array = raw[start : start + nbytes].view(dtype).reshape(shape)
    return array


def wide(x: Array) -> Array:
    """Return `x` in the type in which its right answers are computed."""
    return x.astype(np.longdouble)


def numpy_softmax(x: Array, axis: int, out: Array | None = None) -> Array:
    """Return the softmax as a careful user of NumPy writes it: in place of its first temporary."""
    y: Array = np.subtract(x, x.max(axis=axis, keepdims=True), out=out)
    np.exp(y, out=y)
    y /= y.sum(axis=axis, keepdims=True)
    return y


def numpy_softmax_backward(g: Array, p: Array, axis: int, out: Array | None = None) -> Array:
    """Return its derivative ``p * (g - sum(g * p))``, written likewise."""
    y: Array = np.multiply(g, p, out=out)
    np.subtract(g, y.sum(axis=axis, keepdims=True), out=y)
    y *= p
    return y


def backward_terms(g: Array, p: Array, axis: int) -> Array:
    """Return the size of the terms of softmax's derivative, which may cancel: no formula keeps all digits then."""
    size = np.abs(g)
    terms: Array = p * (size + (size * p).sum(axis=axis, keepdims=True))
    return terms


def shifted_and_log_sum(x: Array) -> tuple[Array, Array, Array]:
    """Return the maximum of each row of wide logits, what is left of them, and the log of the sum of its powers."""
    top = x.max(-1, keepdims=True)
    shifted = x - top
    back = shifted - x  # what the subtraction rounds off, by Knuth's two-sum, is added to the powers below
    lost = (x - (shifted - back)) - (top + back)
    powers = np.exp(shifted) * (1 + lost)
    # Each maximum adds 1. Without the first of them a sum close to 1 keeps its digits.
    ones = powers == 1
    rest = np.where(ones, 0, powers).sum(-1, keepdims=True)
    return top, shifted + lost, np.log1p(ones.sum(-1, keepdims=True) - 1 + rest)


class Problem:
    """A cell's inputs, shared by all contenders, and the judge of their results."""

    limit = 2**17  # elements that are checked: long double is slow

    def __init__(self, cell: Cell, seed: int = 0) -> None:
        self.cell = cell
        self.rng = np.random.default_rng(seed)
        self.dtype: np.dtype[Any] = np.dtype(cell.dtype)
        self.x = self.draw(3.0)
        self.out = aligned_empty(cell.batch if cell.operation == "logsumexp" else cell.shape, self.dtype)

    @property
    def _drawn(self) -> type[np.floating[Any]]:
        return np.float64 if self.cell.dtype == "float64" else np.float32

    def draw(self, scale: float) -> Array:
        """Return normal numbers of the cell's shape and type."""
        array = aligned_empty(self.cell.shape, self.dtype)
        array[...] = self.rng.standard_normal(self.cell.shape, dtype=self._drawn) * scale
        return array

    @functools.cached_property
    def grad(self) -> Array:
        """The gradient that comes in."""
        return self.draw(1.0)

    @functools.cached_property
    def output(self) -> Array:
        """What the forward pass would have handed to the backward."""
        array = aligned_empty(self.cell.shape, self.dtype)
        x, axis = self.x.astype(self._drawn), self.cell.axis
        if self.cell.operation == "log_softmax_backward":
            x -= x.max(axis=axis, keepdims=True)
            array[...] = x - np.log(np.exp(x).sum(axis=axis, keepdims=True))
        else:
            array[...] = numpy_softmax(x, axis)
        return array

    @functools.cached_property
    def target(self) -> Array:
        """A class for every row."""
        return self.rng.integers(0, self.cell.shape[-1], self.cell.batch)

    @functools.cached_property
    def _rows(self) -> tuple[Array, ...]:
        """Indices of the rows that are checked: the first, the last, and some between."""
        n = self.cell.shape[self.cell.axis]
        rows = self.cell.size // n
        count = min(rows, max(1, self.limit // n))
        flat = np.unique(np.linspace(0, rows - 1, count).astype(int))
        return np.unravel_index(flat, self.cell.batch) if self.cell.batch else ()

    def rows(self, array: Array) -> Array:
        """Return the checked rows of an array of the cell's shape, as (rows, n)."""
        return np.atleast_2d(np.moveaxis(array, self.cell.axis, -1)[self._rows])

    def compared(self, rows: Array) -> Array:
        """Return of a very long row only so many elements, by an odd step: no lane of a vector escapes."""
        return rows[:, :: rows.shape[1] // self.limit | 1]

    @functools.cached_property
    def want(self) -> tuple[Array, Array]:
        """The right answer where it is compared, and the size of the terms that add up to it."""
        values, terms = map(self.compared, np.broadcast_arrays(*self._answer()))
        return values, terms

    def _answer(self) -> tuple[Any, Any]:
        operation = self.cell.operation
        if operation == "softmax_backward":
            g, p = wide(self.rows(self.grad)), wide(self.rows(self.output))
            return numpy_softmax_backward(g, p, -1), backward_terms(g, p, -1)
        if operation == "log_softmax_backward":
            g, p = wide(self.rows(self.grad)), np.exp(wide(self.rows(self.output)))
            size = np.abs(g)
            return g - p * g.sum(-1, keepdims=True), size + p * size.sum(-1, keepdims=True)
        top, shifted, log_total = shifted_and_log_sum(wide(self.rows(self.x)))
        if operation == "logsumexp":
            return top + log_total, np.maximum(np.abs(top), log_total)
        if operation == "log_softmax":
            return shifted - log_total, np.maximum(log_total - shifted, 1)
        p = np.exp(shifted - log_total)
        if operation == "softmax":
            return p, p
        one_hot = np.arange(p.shape[1]) == self.target[self._rows][..., None]
        count = self.target.size if self.cell.reduction == "mean" else 1
        return (p - one_hot) / count, (p + one_hot) / count

    @functools.cached_property
    def losses(self) -> Array:
        """Cross-entropy of each row."""
        losses = []
        for row, target in zip(self.x, self.target, strict=True):
            _, shifted, log_total = shifted_and_log_sum(wide(row))
            losses.append(log_total[0] - shifted[target])
        return np.array(losses)

    def errors(self, result: Any) -> Array:
        """Return the errors of `result` in units in the last place; NaN counts as infinite."""
        operation = self.cell.operation
        if operation == "copy":
            return np.where(result == self.x, 0, np.inf)
        if not operation.startswith("cross_entropy"):
            return self._elementwise(result)
        if isinstance(result, np.ndarray) and result.shape == self.cell.shape:
            return self._elementwise(result)
        loss, *gradient = result if isinstance(result, tuple) else (result,)
        loss, want = np.atleast_1d(loss), self.losses
        if self.cell.reduction != "none":
            want = np.array([want.mean() if self.cell.reduction == "mean" else want.sum()])
        return np.concatenate(
            [errors_in_ulp(loss, want, ulp(want, loss.dtype)), *(self._elementwise(g).ravel() for g in gradient)]
        )

    def _elementwise(self, result: Array) -> Array:
        rows = result[self._rows].reshape(-1, 1) if self.cell.operation == "logsumexp" else self.rows(result)
        values, terms = self.want
        wider = result.dtype.itemsize > self.dtype.itemsize == 2  # than the 16 bits of the logits
        return errors_in_ulp(self.compared(rows), values, ulp(terms, result.dtype if wider else self.dtype))

    def error(self, result: Any) -> float:
        """Return the largest of the errors."""
        return float(self.errors(result).max())

    @property
    def tolerance(self) -> float:
        """The error in ulp beyond which a result is wrong, not merely what adding in 16 bits comes to."""
        return 0.25 * 2.0 ** FORMATS[self.dtype.name][0] if self.dtype.itemsize == 2 else 2.0**17


def seconds_a_call(run: Callable[[], Any], calls: int) -> float:
    """Return the seconds a call, over `calls` calls in a row."""
    repeat = range(calls)
    start = time.perf_counter()
    for _ in repeat:
        run()
    return (time.perf_counter() - start) / calls


def glance(run: Callable[[], Any], least: float = 0.002) -> float:
    """Return the seconds of the quickest call of `least` seconds of calls: the first find the caches cold."""
    quickest, end = math.inf, time.perf_counter() + least
    while time.perf_counter() < end:
        quickest = min(quickest, seconds_a_call(run, 1))
    return quickest


def interleave(
    runs: Mapping[str, Callable[[], Any]],
    *,
    threads: int = 1,
    rounds: Iterable[Any] = range(9),
    block: float = 0.002,
    budget: float = 1.0,
    dropout: float = 20.0,
    around: Callable[[str], AbstractContextManager[Any]] = lambda name: nullcontext(),
) -> dict[str, list[float]]:
    """Time callables fairly: rounds in which each runs once, in turn, after a call that is not timed.

    Parameters
    ----------
    runs : mapping of str to callable
        Each has been called before, so that nothing is left to compile.
    threads : int
        With more than one, every contender's pool gets time to go to sleep before the next one starts.
    rounds : iterable
        One item a round, for a contender that is quick enough for `budget`; a slower one sits the last rounds out.
    block : float
        Seconds a short call is repeated for within a round.
    budget : float
        Seconds for one contender, all rounds together.
    dropout : float
        A contender this many times slower than the fastest is timed but once.
    around : callable
        The context, by the contender's name, in which it is called.

    Returns
    -------
    dict of str to list of float
        Seconds a call, one entry a round.
    """
    settle = SETTLE if threads > 1 else 0
    first = {}
    for name, run in runs.items():
        time.sleep(settle)
        with around(name):
            first[name] = glance(run)
    slow = min(dropout * min(first.values()), budget)
    times = {name: [first[name]] if first[name] > slow else [] for name in runs}
    left = {name: 0 if times[name] else budget for name in runs}
    for _ in rounds:
        for name, run in runs.items():
            if left[name] <= 0:
                continue
            time.sleep(settle)
            start = time.perf_counter()
            with around(name):
                if first[name] < 0.01:
                    run()
                times[name].append(seconds_a_call(run, max(1, round(block / first[name]))))
            left[name] -= time.perf_counter() - start
    return times


@dataclass(frozen=True)
class Measurement:
    """The error of one contender (`NUMPY` or an ISA level) and its seconds a call, one figure a round."""

    ulps: float
    times: list[float]

    @property
    def seconds(self) -> float:
        return statistics.median(self.times)


@dataclass(frozen=True)
class Results:
    """The measurements of a run, by cell and contender, and the settings behind them."""

    dtype: str
    threads: int
    levels: list[str]
    cells: dict[Cell, dict[str, Measurement]] = field(default_factory=dict)

    def of(self, operation: str) -> dict[Cell, dict[str, Measurement]]:
        """Return the operation's part of the measurements."""
        return {cell: measured for cell, measured in self.cells.items() if cell.operation == operation}

    def ratio(self, cell: Cell, contender: str) -> float:
        """Return how many times faster than NumPy's formula the contender is."""
        return self.cells[cell][NUMPY].seconds / self.cells[cell][contender].seconds

    def mean_ratio(self, contender: str, *operations: str) -> float:
        """Return the geometric mean of the ratios over all cells of the operations, by default of all."""
        chosen = [cell for cell in self.cells if cell.operation in (operations or DIRECTIONS)]
        return statistics.geometric_mean(self.ratio(cell, contender) for cell in chosen)

    def as_dict(self) -> dict[str, Any]:
        """Return every figure, and what csoftmax ran on, as JSON can hold it."""
        return {
            "runtime": csoftmax.runtime_info(),
            "dtype": self.dtype,
            "threads": self.threads,
            "reference_bits": np.finfo(np.longdouble).nmant + 1,
            "results": [
                {
                    "operation": DIRECTIONS[cell.operation],
                    "case": cell.name,
                    "shape": cell.shape,
                    "axis": cell.axis,
                    "contender": contender,
                    "seconds": measured.seconds,
                    "ratio": self.ratio(cell, contender),
                    "ulps": measured.ulps,
                    "times": measured.times,
                }
                for cell, contenders in self.cells.items()
                for contender, measured in contenders.items()
            ],
            "geometric_means": {
                level: {name: self.mean_ratio(level, operation) for operation, name in DIRECTIONS.items()}
                | {"all": self.mean_ratio(level)}
                for level in self.levels
            },
        }


def run(dtype: Literal["float32", "float64"], threads: int, seconds: float, progress: Callable[[str], None]) -> Results:
    """Measure softmax, forward and backward, against NumPy's formula on every case: ``csoftmax bench``.

    Parameters
    ----------
    dtype : str
        Type of the arrays.
    threads : int
        Threads that csoftmax uses.
    seconds : float
        Time for the whole run. A slow machine may exceed it: no contender runs in fewer than three rounds.
    progress : callable
        Called between the rounds with the name of what is being measured.

    Returns
    -------
    Results

    Raises
    ------
    WrongAnswer
        csoftmax is wrong. That is found before the cell is timed.
    """
    isa = csoftmax.runtime_info()["isa"]
    results = Results(dtype, threads, [level for level in isa["built"] if level in isa["supported"]])
    cells = [
        dataclasses.replace(case, operation=operation, dtype=dtype) for case in CASES for operation in DIRECTIONS
    ]
    end = time.monotonic() + seconds
    with csoftmax.threads(threads):
        for i, cell in enumerate(cells):
            tick = partial(progress, f"{cell.name}, {DIRECTIONS[cell.operation]}")
            tick()
            problem = Problem(cell)
            backward = cell.operation == "softmax_backward"
            inputs: tuple[Any, ...] = (problem.grad, problem.output) if backward else (problem.x,)
            formula: Callable[..., Array] = numpy_softmax_backward if backward else numpy_softmax
            calls: dict[str, Callable[[], Array]] = {NUMPY: partial(formula, *inputs, cell.axis)}
            calls |= dict.fromkeys(results.levels, partial(getattr(csoftmax, cell.operation), *inputs, cell.axis))
            errors = _check(problem, calls)
            now = time.monotonic()
            rounds = _rounds(now + (end - now) / (len(cells) - i), tick)
            times = interleave(
                calls, rounds=rounds, block=ROUND_SECONDS, budget=math.inf, dropout=math.inf, around=_at
            )
            results.cells[cell] = {name: Measurement(errors[name], times[name]) for name in calls}
    return results


def _rounds(deadline: float, tick: Callable[[], None]) -> Iterator[None]:
    """Yield once a round until the deadline, and three times at least."""
    done = 0
    while done < LEAST_ROUNDS or time.monotonic() < deadline:
        yield
        done += 1
        tick()


def _at(contender: str) -> AbstractContextManager[None]:
    return nullcontext() if contender == NUMPY else csoftmax.use_isa(contender)


def _check(problem: Problem, calls: Mapping[str, Callable[[], Array]]) -> dict[str, float]:
    """Return every contender's largest error in ulp over the checked rows, or raise WrongAnswer.

    Every element, not only those rows, is compared with NumPy's result.
    """
    cell = problem.cell
    whole = calls[NUMPY]()
    terms = backward_terms(problem.grad, problem.output, cell.axis) if "backward" in cell.operation else whole
    unit = ulp(terms, whole.dtype)
    errors = {}
    for name, call in calls.items():
        with _at(name):
            got = call()
        where = f"{DIRECTIONS[cell.operation]} at {name} of {cell.layout}"
        if (got.shape, got.dtype) != (whole.shape, whole.dtype):
            raise WrongAnswer(f"{where} has shape {got.shape} and type {got.dtype}")
        errors[name] = problem.error(got)
        error = max(errors[name], float(errors_in_ulp(got, whole, unit).max()))
        if name != NUMPY and not error <= WRONG_ULPS:
            raise WrongAnswer(f"{where} is off by {error:.3g} ulp")
    return errors
