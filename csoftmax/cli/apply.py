"""Apply a function of the family to an array in a file, block by block: the work of ``csoftmax apply``."""

import itertools
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple
from numpy.lib.format import open_memmap

import csoftmax
from csoftmax.cli.arrays import open_array
from csoftmax.cli.files import Failure, check_writable, replacing

OPERATIONS: dict[str, Callable[..., Any]] = {
    "softmax": csoftmax.softmax,
    "log_softmax": csoftmax.log_softmax,
    "logsumexp": csoftmax.logsumexp,
}
BLOCK_BYTES = 64 << 20  # of input at a time, unless a row is longer

Axes = int | tuple[int, ...] | None
Block = tuple[slice, ...]


def apply(source: str, target: Path, operation: str, axis: Axes, **options: Any) -> None:
    """Write to `target` (.npy) the operation's result for the array that `source` names.

    Parameters
    ----------
    source : str
        As `csoftmax.cli.arrays.open_array` takes it.
    target : Path
        The result replaces it when it is complete, so that it may be the source.
    operation : str
        A name in `OPERATIONS`.
    axis : int, tuple of ints or None
        The function's `axis`.
    **options
        The function's other arguments.

    Raises
    ------
    Failure
        A file cannot be read or written, or the array is none that the function takes.
    """
    check_writable(target)
    x = open_array(source)
    function = OPERATIONS[operation]
    try:
        dtype = function(np.empty([0] * x.ndim, x.dtype), axis, **options).dtype
        axes = normalize_axis_tuple(range(x.ndim) if axis is None else axis, x.ndim) if x.ndim else ()
    except (TypeError, ValueError) as error:
        raise Failure(f"{source}: {error}") from error
    gone = axes if operation == "logsumexp" else ()

    def left(of_dimensions: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(value for d, value in enumerate(of_dimensions) if d not in gone)

    with replacing(target) as part, _progress(Path(source).name, x.size * x.dtype.itemsize) as advance:
        result = _create(part, left(x.shape), dtype, _column_major(x))
        for block in _blocks(x, axes):
            piece = x[*block, ...]
            function(piece, axis, out=result[*left(block), ...], **options)
            advance(piece.nbytes)
        result.flush()


def _column_major(x: Any) -> bool:
    return isinstance(x, np.ndarray) and x.flags.fnc


def _create(path: Path, shape: tuple[int, ...], dtype: Any, column_major: bool) -> Any:
    """Return a mapped array with its room on the disk taken, since a full disk would kill the process later."""
    result = open_memmap(path, mode="w+", dtype=dtype, shape=shape, fortran_order=column_major)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, path.stat().st_size))
    return result


def _blocks(x: Any, axes: tuple[int, ...]) -> Iterator[Block]:
    """Cut the array into blocks of whole rows and whole chunks of zarr, as large as `BLOCK_BYTES` allows."""
    if x.size == 0:
        yield (slice(None),) * x.ndim
        return
    chunks = getattr(x, "chunks", (1,) * x.ndim)
    lengths = [n if d in axes else min(n, chunks[d]) for d, n in enumerate(x.shape)]
    fastest_first = range(x.ndim) if _column_major(x) else reversed(range(x.ndim))
    for d in fastest_first:
        room = BLOCK_BYTES // (math.prod(lengths) * x.dtype.itemsize)
        lengths[d] = min(x.shape[d], lengths[d] * max(1, room))
    starts = [range(0, n, length) for n, length in zip(x.shape, lengths, strict=True)]
    for corner in itertools.product(*starts):
        yield tuple(slice(i, i + length) for i, length in zip(corner, lengths, strict=True))


@contextmanager
def _progress(name: str, size: int) -> Iterator[Callable[[int], None]]:
    """Show, if rich is there and stderr a terminal, how much is done, how fast, and how long it will take."""
    try:
        from rich import progress
        from rich.console import Console
    except ModuleNotFoundError:
        yield lambda _: None
        return
    console = Console(stderr=True)
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=size)
        yield lambda done: bar.advance(task, done)
