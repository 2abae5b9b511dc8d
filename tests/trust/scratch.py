"""Sweeps every operation in scratch of exactly the bytes asked for: one element too far and we die.

    python tests/trust/scratch.py FOLDER LEVEL STEP

FOLDER holds the built `exact_scratch`. Run by `test_scratch`, in a process of its own. It notes each block of calls on
stderr, so that the last note names what a killed process was at, and prints how often the kernels ran at the end.
"""

import importlib
import os
import sys

import ml_dtypes  # noqa: F401 (gives NumPy the name "bfloat16")
import numpy as np
from guard import LAYOUTS, calls

import csoftmax

DTYPES = ["float32", "float64", "float16", "bfloat16", "int64"]
WIDTHS = [1, 2, 3, 5, 8, 9, 16, 17, 31, 33, 63, 64, 65, 100, 257, 512, 1000, 1025, 2049, 4097]
LONG = 262_144 + 1500  # elements of a row that is worked on by its blocks


def row_counts(width):
    """More rows than are prepared together where they are short, in a loss at most 256."""
    return (1, 5, 33, 300) if width <= 17 else (1, 5, 33) if width <= 1025 else (1, 7)


def integer_calls(x, axis, mask, target, out):
    """What takes 64-bit integers beyond 2^53, whose maximum is subtracted exactly."""
    yield csoftmax.softmax(x, axis, out=out)
    yield csoftmax.log_softmax(x, axis, where=mask, out=out)
    yield csoftmax.logsumexp(x, axis)
    yield csoftmax.logsumexp(x, axis, where=mask)
    yield csoftmax.cross_entropy(x, target, axis, label_smoothing=0.1)
    yield csoftmax.cross_entropy_with_grad(x, target, axis, out=out)[1]


def operands(rng, layout, dtype, rows, width):
    """x, p, out, a mask that keeps the first element of every row, targets; of one layout, and the axis."""
    float_dtype = "float64" if dtype == "int64" else dtype
    kinds = dtype, float_dtype, float_dtype, bool
    made = [LAYOUTS[layout](lambda shape, k=kind: np.zeros(shape, k), rows, width) for kind in kinds]
    x, p, out, mask = (array for array, _ in made)
    axis = made[0][1]
    x[...] = rng.integers(0, 30, x.shape) + (2**60 if dtype == "int64" else 0)
    p[...] = -rng.uniform(0.1, 1, p.shape)
    mask[...] = rng.integers(0, 3, x.shape) > 0
    mask[(*[slice(None)] * (axis % x.ndim), 0)] = True
    return x, p, out, mask, rng.integers(0, x.shape[axis], np.delete(x.shape, axis)), axis


def one_block(rng, layout, dtype, rows, width):
    x, p, out, mask, target, axis = operands(rng, layout, dtype, rows, width)
    small = np.zeros(target.shape, out.dtype)
    if dtype == "int64":
        results = integer_calls(x, axis, mask, target, out)
    else:
        results = calls(x, p, axis, mask, target, out, small)
    for k, result in enumerate(results):
        assert not np.isnan(result).any(), (layout, dtype, rows, width, k, "read what was never written")
    assert exact_scratch.counted()[1] == 0, (layout, dtype, rows, width, "wrote beside its scratch")


def sweep(step):
    rng = np.random.default_rng(1)
    csoftmax.set_num_threads(1)
    for dtype in DTYPES:
        for layout in LAYOUTS:
            os.write(2, f"{dtype}, {layout}\n".encode())
            for width in WIDTHS[:: step if "rival" in layout or "wide" in layout else 1]:
                for rows in row_counts(width)[:: 2 if "rival" in layout else 1]:
                    one_block(rng, layout, dtype, rows, width)
        os.write(2, f"{dtype}, long rows\n".encode())
        for layout in ("rows", "every second"):
            one_block(rng, layout, dtype, 1, LONG)


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    exact_scratch = importlib.import_module("exact_scratch")
    level = sys.argv[2]
    exact_scratch.wrap(*(importlib.import_module(f"csoftmax.kernels.isa.{level}_f{bits}").TABLE for bits in (32, 64)))
    if sys.argv[3] == "overrun":
        exact_scratch.overrun(int(sys.argv[4]))
    else:
        with csoftmax.use_isa(level):
            sweep(int(sys.argv[3]))
    runs, broken = exact_scratch.counted()
    print(runs)
