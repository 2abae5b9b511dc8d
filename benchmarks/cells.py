"""The cells that decide whether csoftmax is ahead: best peer's time / csoftmax's, one thread, in minutes.

    python benchmarks/cells.py                               # all of them
    python benchmarks/cells.py "softmax (1000, 1000) axis=0" # those whose name, as printed, has this
    python benchmarks/cells.py log_softmax bfloat16          # those that have all of these
    CSOFTMAX_ISA=avx2 python benchmarks/cells.py             # another instruction set

For every cell: ns an element (µs a call for the small one), the ratio of medians, the ratio of minima
(steadier when the machine is busy), the ratio asked for and aimed at, csoftmax's error in ulp, and the
peers' times. The last lines compare with np.exp alone.
"""

import argparse
import math
import sys
import time

import measure
import numpy as np
from cases import Cell, Problem
from contenders import CONTENDERS, WrongAnswerError, check

F32, F64, F16, BF16 = "float32", "float64", "float16", "bfloat16"
SHAPES = (  # softmax in float32: shape, axis, out=, (at least, aim)
    ((1000, 1000), -1, False, (1.4, 1.7)),
    ((32, 50257), -1, False, (1.4, 1.7)),
    ((300, 4097), -1, False, (1.4, 1.7)),
    ((64, 128256), -1, True, (1.3, 1.7)),
    ((8, 12, 512, 512), -1, True, (1.3, 1.7)),
    ((1, 2**24), -1, True, (1.3, 1.7)),
    ((10000, 10), -1, False, (2.5, 4)),
    ((100000, 3), -1, False, (2.5, 4)),
    ((20000, 33), -1, False, (1.4, 2)),
    ((1000, 1000), 0, False, (1.4, 2)),
    ((32, 1000, 14, 14), 1, False, (1.8, 2.5)),
    ((8, 21, 512, 512), 1, False, (2.5, 4)),
    ((10,), -1, False, (3, 4)),
)


def targets():
    """Every cell with the ratio it must reach and the one aimed at."""
    cells = {Cell("softmax", shape, axis, F32, out): ratios for shape, axis, out, ratios in SHAPES}
    cells |= {
        Cell("softmax", (1000, 1000), -1, F64): (1.4, 1.7),
        Cell("softmax", (8, 12, 512, 512), -1, F64, True): (1.8, 2.5),
        Cell("softmax", (1000, 1000), 0, F64): (1.4, 2),
    }
    for dtype in (F16, BF16):
        cells |= {
            Cell("softmax", (1000, 1000), -1, dtype): (2.2, 3),
            Cell("softmax", (32, 50257), -1, dtype): (2.2, 3),
            Cell("softmax", (8, 12, 512, 512), -1, dtype, True): (2.2, 3),
        }
    cells |= {Cell("log_softmax", shape, axis, F32, out): (1.4, 2) for shape, axis, out, _ in SHAPES}
    cells |= {Cell("logsumexp", shape, axis, F32): (1.4, 2) for shape, axis, _, _ in SHAPES}
    cells |= {
        Cell("softmax_backward", (1000, 1000), -1, F32): (1.1, 1.3),
        Cell("softmax_backward", (8, 12, 512, 512), -1, F32, True): (1.3, 2),
        Cell("softmax_backward", (10000, 10), -1, F32): (1.3, 2),
        Cell("softmax_backward", (1000, 1000), 0, F32): (1.3, 2),
        Cell("log_softmax_backward", (1000, 1000), -1, F32): (1.3, 2),
    }
    for operation, ratios in ("cross_entropy", (2, 3)), ("cross_entropy_with_grad", (2.5, 4)):
        cells |= {Cell(operation, shape, -1, F32): ratios for shape in ((1000, 1000), (256, 50257))}
    return cells


def show(cell, ratios, times, errors):
    """Print one cell's line; return its ratio."""
    middle = measure.median(times)
    ours = middle["csoftmax"]
    peers = sorted((seconds, name) for name, seconds in middle.items() if name != "csoftmax")
    ratio = peers[0][0] / ours
    ratio_of_minima = min(min(times[name]) for _, name in peers) / min(times["csoftmax"])
    scale = 1e6 if cell.size < 1000 else 1e9 / cell.size
    mark = "  " if ratio >= ratios[1] else "- " if ratio >= ratios[0] else "XX"
    others = ", ".join(f"{name} {seconds * scale:.2f}" for seconds, name in peers)
    print(
        f"{mark} {cell!s:62} {ours * scale:6.3f}  {ratio:5.2f} {ratio_of_minima:5.2f}"
        f"  ({ratios[0]:.1f} {ratios[1]:.1f})  {errors['csoftmax']:5.2f} ulp  {others}",
        flush=True,
    )
    return ratio


def entrants(cell, contenders):
    """The contenders' callables for a cell, and their errors in ulp."""
    problem, runs, errors = Problem(cell), {}, {}
    for contender in contenders:
        if contender.has(cell):
            runs[contender.name] = run = contender.prepare(problem)
            errors[contender.name] = check(contender, problem, run)
    return runs, errors


def against_exp(contender, dtype):
    """Print the time of a softmax of (1000, 1000) in units of np.exp's of the same array."""
    problem = Problem(Cell("softmax", (1000, 1000), -1, dtype, True))
    runs = {"csoftmax": contender.prepare(problem), "np.exp": lambda: np.exp(problem.x, out=problem.out)}
    middle = measure.median(measure.interleave(runs, threads=contender.threads, rounds=31))
    print(f"   {problem.cell!s:62} {middle['csoftmax'] / middle['np.exp']:.2f} of np.exp")


def options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="measure the cells that have all of these substrings")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main(words, rounds, threads):
    chosen = {cell: wanted for cell, wanted in targets().items() if all(word in str(cell) for word in words)}
    if not chosen:
        sys.exit("no cell has all of: " + ", ".join(words))
    # SciPy calls NumPy's functions, so it is never the best; without it this takes half the time.
    contenders = [kind(threads) for name, kind in CONTENDERS.items() if name != "SciPy"]
    start, ratios = time.perf_counter(), []
    print(
        "XX below what is asked, - below the aim; ns an element (µs for (10,)); ratio of medians, of minima"
    )
    for cell, wanted in chosen.items():
        try:
            runs, errors = entrants(cell, contenders)
        except (WrongAnswerError, TypeError, AttributeError) as error:
            print(f"!! {cell!s:62} {error}", flush=True)
            continue
        times = measure.interleave(runs, threads=threads, rounds=rounds, budget=0.5, dropout=3)
        ratios.append(show(cell, wanted, times, errors))
    for dtype in F32, F64:
        if Cell("softmax", (1000, 1000), -1, dtype) in chosen:
            against_exp(contenders[0], dtype)
    if ratios:
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        print(f"geometric mean {mean:.2f} over {len(ratios)} cells, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    chosen = options()
    measure.pin(chosen.threads)
    main(**vars(chosen))
