"""Writes docs/accuracy.md: the error of every operation, type and ISA level, beside other libraries.

    python tools/accuracy.py [--long] [--check]

Needs the extras `test` and `peers`. --long adds rows of 2**24 numbers; --check fails where csoftmax is worse
than every peer.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from contenders import CONTENDERS, OPERATIONS  # noqa: E402

import csoftmax  # noqa: E402
from csoftmax.cli.bench import FORMATS, Cell, Problem  # noqa: E402

BITS = np.finfo(np.longdouble).nmant + 1
LEVELS = csoftmax.runtime_info()["isa"]["supported"]
SMALLEST = {"float32": -87, "float64": -708, "float16": -9.7, "bfloat16": -87}  # log of the smallest normal
PEERS = "NumPy", "SciPy", "PyTorch", "JAX"
OWN_OUTPUT = "softmax_backward", "log_softmax_backward"  # JAX takes its own forward's output to these, not ours
REDUCTIONS = {"cross_entropy": "none", "cross_entropy_with_grad": "sum"}
TITLES = {"cross_entropy_with_grad": "cross_entropy gradient"}
CLASSES = {
    "normal": lambda rng, shape, dtype: rng.standard_normal(shape) * 3,
    "wide range": lambda rng, shape, dtype: rng.standard_normal(shape) * 30,
    "large offset": lambda rng, shape, dtype: rng.standard_normal(shape) * 3 + 1000,
    "ties": lambda rng, shape, dtype: rng.integers(-2, 3, shape),
    "one-hot-like": lambda rng, shape, dtype: np.where(
        np.arange(shape[1]) == 5, 20, rng.standard_normal(shape)
    ),
    "subnormal results": lambda rng, shape, dtype: np.where(
        np.arange(shape[1]) == 0, 0, SMALLEST[dtype] + 4 * rng.uniform(-1, 1, shape)
    ),
}


class Data(Problem):
    """Logits of a class; every element of them is checked, in units of the result where nothing cancels in it."""

    limit = 2**24

    def __init__(self, name, cell):
        super().__init__(cell, seed=7)
        self.x[...] = np.asarray(CLASSES[name](np.random.default_rng(7), cell.shape, cell.dtype))

    @property
    def cancels(self):
        return self.cell.operation.endswith(("backward", "grad"))

    def _answer(self):
        values, terms = super()._answer()
        return values, terms if self.cancels else values

    @np.errstate(all="ignore")
    def figures(self, contender):
        """Worst and mean error of what a contender computes."""
        result = contender.to_numpy(contender.prepare(self)())
        errors = self.errors(result[1] if isinstance(result, tuple) else result)
        return float(errors.max()), float(errors.mean())


def measure(shapes):
    """Rows of the table: operation, dtype, class, shape, error of each level, error of each peer, and the error
    that correct rounding has where it is in units of the result.
    """
    contenders = {name: CONTENDERS[name](threads=csoftmax.get_num_threads()) for name in ("csoftmax", *PEERS)}
    us = contenders.pop("csoftmax")
    for dtype in FORMATS:
        for name in CLASSES:
            for shape in shapes:
                for operation in OPERATIONS:
                    reduction = REDUCTIONS.get(operation, "mean")
                    data = Data(name, Cell(operation, shape, dtype=dtype, reduction=reduction))
                    ours = {}
                    for level in LEVELS:
                        with csoftmax.use_isa(level):
                            ours[level] = data.figures(us)
                    peers = {
                        peer: data.figures(contender)
                        for peer, contender in contenders.items()
                        if takes(contender, operation)
                    }
                    yield operation, dtype, name, shape, ours, peers, 0 if data.cancels else 0.5


def takes(contender, operation):
    """Whether a peer has an operation, in whatever type, that can be given our inputs."""
    own_output = contender.name == "JAX" and operation in OWN_OUTPUT
    return contender.has(Cell(operation, (1, 1))) and not own_output


def is_above(worst, others, floor):
    """Whether a worst error is above another, as the table shows them, and above the floor."""
    return float(f"{worst:.3g}") > max(floor, float(f"{others:.3g}"))


def show(figures):
    worst, mean = figures
    return f"{worst:.3g} ({mean:.2g})" if np.isfinite(worst) else "wrong"


def report(rows, write):
    """Write the page; in how many rows csoftmax is behind the best peer, and in how many behind all."""
    rows = sorted(rows, key=lambda row: (OPERATIONS.index(row[0]), list(FORMATS).index(row[1])))
    behind = worst = 0
    heading = None
    body = []
    for operation, dtype, name, shape, ours, peers, floor in rows:
        if heading != (operation, dtype):
            heading = operation, dtype
            body.append(f"\n## {TITLES.get(operation, operation)}, {dtype}\n")
            columns = [*(f"csoftmax {level}" for level in ours), *PEERS]
            body.append("| input | " + " | ".join(columns) + " |\n|---" + "|---" * len(columns) + "|")
        top = max(figures[0] for figures in ours.values())
        is_behind = is_above(top, min(figures[0] for figures in peers.values()), floor)
        is_worst = is_above(top, max(figures[0] for figures in peers.values()), floor)
        behind, worst = behind + is_behind, worst + is_worst
        cells = [show(f) for f in ours.values()] + [show(peers[p]) if p in peers else "" for p in PEERS]
        mark = " (worst)" if is_worst else " *" if is_behind else ""
        body.append(f"| {name} {shape[0]} x {shape[1]}{mark} | " + " | ".join(cells) + " |")
    versions = ", ".join(f"{peer} {CONTENDERS[peer].version()}" for peer in PEERS)
    write(
        f"""# Accuracy

Generated by `python tools/accuracy.py`. Worst error, and in brackets the mean, in units in the last place of
the result, against a reference in long double ({BITS} bits) from the same inputs. Where a gradient cancels,
the unit is that of the terms that cancel. NumPy is the formula that its users write, in the input's type.
"wrong" is NaN or an infinity where there is a number. {versions}.

An asterisk marks the rows in which a peer's worst error is below csoftmax's worst at any level, unless that is
the 0.5 of correct rounding: {behind} of {len(rows)}. csoftmax is worse than every peer in {worst}.
"""
        + "\n".join(body)
        + "\n"
    )
    return behind, worst


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--long", action="store_true", help="rows of 2**24 numbers too")
    parser.add_argument("--check", action="store_true", help="fail where csoftmax is worse than every peer")
    options = parser.parse_args()
    rows = list(measure([(500, 33), (200, 1000), *([(1, 2**24)] if options.long else [])]))
    behind, worst = report(rows, (ROOT / "docs" / "accuracy.md").write_text)
    print(f"rows={len(rows)} behind_the_best={behind} worse_than_all={worst}")
    return int(options.check and worst > 0)


if __name__ == "__main__":
    sys.exit(main())
