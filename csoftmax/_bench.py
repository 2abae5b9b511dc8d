"""Measure softmax, forward and backward, against NumPy's formula: the work of ``csoftmax bench``.

The contenders of a cell (an operation on an array) run in one process, turn by turn, so that what disturbs
the machine disturbs all of them; a contender's time is the median over the rounds. What csoftmax computes is
checked before it is timed.
"""

import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from timeit import Timer
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

import csoftmax

Array = NDArray[Any]

NUMPY = "NumPy"
WRONG_ULPS = 100.0  # a larger error is no rounding error
SAMPLED_ELEMENTS = 1 << 17
ROUND_SECONDS = 1e-3  # of NumPy's calls in a round, at least
LEAST_ROUNDS = 3


class WrongAnswer(Exception):
    """What csoftmax computed is not what was asked for."""


@dataclass(frozen=True)
class Case:
    """An array that a user would recognise."""

    name: str
    shape: tuple[int, ...]
    axis: int = -1

    def __str__(self) -> str:
        return "x".join(map(str, self.shape)) + (f" axis {self.axis}" if self.axis >= 0 else "")

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))


@dataclass(frozen=True)
class Operation:
    """A function of csoftmax, NumPy's formula for it, and the terms whose last place its error counts in."""

    name: str
    function: Callable[..., Array]
    formula: Callable[..., Array]
    terms: Callable[..., Array]


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
    """The measurements of a run, by (operation's name, case) and contender, and the settings behind them."""

    dtype: str
    threads: int
    levels: list[str]
    cells: dict[tuple[str, Case], dict[str, Measurement]] = field(default_factory=dict)

    def ratio(self, operation: str, case: Case, contender: str) -> float:
        """Return how many times faster than NumPy's formula the contender is."""
        cell = self.cells[operation, case]
        return cell[NUMPY].seconds / cell[contender].seconds

    def mean_ratio(self, contender: str, *operations: str) -> float:
        """Return the geometric mean of the ratios over all cases of the operations, by default of all."""
        names = operations or [operation.name for operation in OPERATIONS]
        return statistics.geometric_mean(
            self.ratio(name, case, contender) for name in names for case in CASES
        )

    def as_dict(self) -> dict[str, Any]:
        """Return every figure, and what csoftmax ran on, as JSON can hold it."""
        return {
            "runtime": csoftmax.runtime_info(),
            "dtype": self.dtype,
            "threads": self.threads,
            "reference_bits": np.finfo(np.longdouble).nmant + 1,
            "results": [
                {
                    "operation": operation,
                    "case": case.name,
                    "shape": case.shape,
                    "axis": case.axis,
                    "contender": contender,
                    "seconds": measured.seconds,
                    "ratio": self.ratio(operation, case, contender),
                    "ulps": measured.ulps,
                    "times": measured.times,
                }
                for (operation, case), cell in self.cells.items()
                for contender, measured in cell.items()
            ],
            "geometric_means": {
                level: {operation.name: self.mean_ratio(level, operation.name) for operation in OPERATIONS}
                | {"all": self.mean_ratio(level)}
                for level in self.levels
            },
        }


def numpy_softmax(x: Array, axis: int) -> Array:
    """Return the softmax as a careful user of NumPy writes it: in place of its first temporary."""
    y: Array = x - x.max(axis=axis, keepdims=True)
    np.exp(y, out=y)
    y /= y.sum(axis=axis, keepdims=True)
    return y


def numpy_softmax_backward(g: Array, y: Array, axis: int) -> Array:
    """Return its derivative ``y * (g - sum(g * y))``, written likewise."""
    result: Array = g * y
    total = result.sum(axis=axis, keepdims=True)
    np.subtract(g, total, out=result)
    result *= y
    return result


def _backward_terms(_: Array, g: Array, y: Array, axis: int) -> Array:
    # g - sum(g * y) and the sum itself may cancel, and then no formula gets the last places of the result
    terms: Array = y * np.maximum(np.abs(g), np.abs(g * y).sum(axis=axis, keepdims=True))
    return terms


CASES = (
    Case("10 classes", (10_000, 10)),
    Case("ImageNet head", (1000, 1000)),
    Case("attention block", (8, 12, 256, 256)),
    Case("vocabulary", (32, 50_257)),
    Case("long row", (1, 1 << 22)),
    Case("columns", (1000, 1000), axis=0),
    Case("segmentation map", (4, 21, 256, 256), axis=1),
    Case("one small call", (10,)),
)
OPERATIONS = (
    Operation("forward", csoftmax.softmax, numpy_softmax, lambda result, x, axis: result),
    Operation("backward", csoftmax.softmax_backward, numpy_softmax_backward, _backward_terms),
)


def run(dtype: Literal["float32", "float64"], threads: int, seconds: float, progress: Callable[[str], None]) -> Results:
    """Measure every operation on every case.

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
    rng = np.random.default_rng(0)
    end = time.monotonic() + seconds

    with csoftmax.threads(threads):
        for case in CASES:
            x, g = (rng.standard_normal(case.shape, dtype) for _ in range(2))
            inputs = (x,), (g, numpy_softmax(x, case.axis))
            for operation, arrays in zip(OPERATIONS, inputs, strict=True):
                tick = partial(progress, f"{case.name}, {operation.name}")
                tick()
                ours = partial(operation.function, *arrays, case.axis)
                calls = {NUMPY: partial(operation.formula, *arrays, case.axis)} | dict.fromkeys(
                    results.levels, ours
                )
                errors = _check(operation, case, arrays, calls)
                now = time.monotonic()
                deadline = now + (end - now) / (len(CASES) * len(OPERATIONS) - len(results.cells))
                times = _time(calls, deadline, tick)
                results.cells[operation.name, case] = {
                    contender: Measurement(errors[contender], times[contender]) for contender in calls
                }
    return results


def _at(contender: str) -> AbstractContextManager[None]:
    return nullcontext() if contender == NUMPY else csoftmax.use_isa(contender)


def _check(
    operation: Operation, case: Case, arrays: tuple[Array, ...], calls: Mapping[str, Callable[[], Array]]
) -> dict[str, float]:
    """Return every contender's largest error over a sample of rows, in ulp, or raise WrongAnswer."""
    rows = [_sample(array, case.axis).astype(np.longdouble) for array in arrays]
    reference = operation.formula(*rows, -1)
    reference_ulp = ulp(operation.terms(reference, *rows, -1), arrays[0].dtype)

    whole = calls[NUMPY]()
    whole_ulp = ulp(operation.terms(whole, *arrays, case.axis), whole.dtype)
    errors = {NUMPY: largest_error(_sample(whole, case.axis), reference, reference_ulp)}
    for level, call in calls.items():
        if level == NUMPY:
            continue
        with csoftmax.use_isa(level):
            got = call()
        where = f"{operation.name} at {level} of {case}"
        if (got.shape, got.dtype) != (whole.shape, whole.dtype):
            raise WrongAnswer(f"{where} has shape {got.shape} and type {got.dtype}")
        errors[level] = largest_error(_sample(got, case.axis), reference, reference_ulp)
        error = np.maximum(errors[level], largest_error(got, whole, whole_ulp))
        if not error <= WRONG_ULPS:
            raise WrongAnswer(f"{where} is off by {error:.3g} ulp")
    return errors


def _sample(array: Array, axis: int) -> Array:
    rows = np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis])
    return rows[:: max(1, array.size // SAMPLED_ELEMENTS)]


def ulp(terms: Array, dtype: DTypeLike) -> Array:
    """Return the unit in the last place of `terms` in `dtype`: the smallest subnormal for zero."""
    unit: Array = np.spacing(np.abs(terms).astype(dtype))
    return unit


def largest_error(got: Array, want: Array, unit: Array) -> float:
    """Return the largest difference in `unit`, or NaN where either is NaN."""
    difference = got - want
    np.abs(difference, out=difference)
    difference /= unit
    return float(difference.max())


def _time(
    calls: Mapping[str, Callable[[], Array]], deadline: float, tick: Callable[[], None]
) -> dict[str, list[float]]:
    """Return the seconds a call of every contender, one figure a round, in rounds until the deadline."""
    timers = {name: Timer(call) for name, call in calls.items()}
    repeats = max(1, round(ROUND_SECONDS / min(timers[NUMPY].repeat(3, 1))))
    times: dict[str, list[float]] = {name: [] for name in timers}
    turns = deque(timers)
    while len(times[NUMPY]) < LEAST_ROUNDS or time.monotonic() < deadline:
        for name in turns:
            with _at(name):
                times[name].append(timers[name].timeit(repeats) / repeats)
        turns.rotate()  # so that nobody always runs after the same one
        tick()
    return times
