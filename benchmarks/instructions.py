"""Count the instructions of ten fixed cases at the avx2 level and compare with the snapshot beside this file.

    python benchmarks/instructions.py          # exit status 1 if a case takes 2 % more than instructions.json,
                                               # and that is of the same compiler
    python benchmarks/instructions.py --update # write instructions.json

Unlike times these do not depend on what else the machine does. They do depend on the compiler, which the
snapshot names. Every process prepares all cases and calls each once; one process does no more, and each of
the others calls one case many times: the difference is that case's. Needs valgrind, which knows no AVX-512.
"""

import argparse
import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

import csoftmax

SNAPSHOT = Path(__file__).with_suffix(".json")
TOLERANCE = 0.02
ENVIRONMENT = {
    "CSOFTMAX_ISA": "avx2",
    "CSOFTMAX_NUM_THREADS": "1",
    "LD_BIND_NOW": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
}
CASES = {  # function, shape, axis, dtype, calls
    "softmax of 10": ("softmax", (10,), -1, "float32", 30_000),
    "softmax, rows of 3": ("softmax", (5000, 3), -1, "float32", 100),
    "softmax, rows of 10": ("softmax", (2000, 10), -1, "float32", 100),
    "softmax, rows of 1000": ("softmax", (64, 1000), -1, "float32", 100),
    "softmax, rows of 50257": ("softmax", (2, 50257), -1, "float32", 100),
    "softmax, columns": ("softmax", (200, 300), 0, "float32", 100),
    "softmax, float64": ("softmax", (64, 1000), -1, "float64", 100),
    "softmax, float16": ("softmax", (64, 1000), -1, "float16", 100),
    "softmax_backward": ("softmax_backward", (64, 1000), -1, "float32", 100),
    "cross_entropy_with_grad": ("cross_entropy_with_grad", (64, 1000), -1, "float32", 100),
}


def prepare(function, shape, axis, dtype, calls):
    """The case as a callable, and how often it is to be called."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype(dtype)
    second = ()
    if function == "softmax_backward":
        second = (csoftmax.softmax(x, axis=axis),)
    elif function == "cross_entropy_with_grad":
        second = (rng.integers(0, shape[-1], shape[0]),)
    return functools.partial(getattr(csoftmax, function), x, *second, axis=axis), calls


def run(name):
    """What the counted process does: prepare all, call each once and one many times."""
    prepared = {case: prepare(*details) for case, details in CASES.items()}
    for call, _ in prepared.values():
        call()
    if name:
        call, calls = prepared[name]
        for _ in range(calls):
            call()


def count(name):
    """Instructions of a process that calls this case many times; with an empty name, none."""
    valgrind = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    done = subprocess.run(
        [*valgrind, sys.executable, __file__, "--run", name],
        env=os.environ | ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
    )
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or not found:
        sys.exit(f"valgrind failed on {name!r}:\n{done.stderr}")
    return int(found[1])


def measure():
    """Instructions a call of every case."""
    nothing = count("")
    return {name: round((count(name) - nothing) / calls) for name, (*_, calls) in CASES.items()}


def compare(before, now):
    """Print both counts of every case; return whether none is slower."""
    fine = True
    for name, instructions in now.items():
        change = instructions / before[name] - 1
        verdict = "SLOWER" if change > TOLERANCE else "faster: --update" if change < -TOLERANCE else ""
        fine &= change <= TOLERANCE
        print(f"{name:28} {before[name]:>12,} {instructions:>12,} {change:+7.1%} {verdict}")
    return fine


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--update", action="store_true", help=f"write {SNAPSHOT.name}")
    parser.add_argument("--run", metavar="CASE", help="call one case, uncounted: what runs under valgrind")
    options = parser.parse_args()
    if options.run is not None:
        run(options.run)
        return
    compiler, now = csoftmax.runtime_info()["compiler"], measure()
    if options.update:
        SNAPSHOT.write_text(json.dumps({"compiler": compiler, "instructions": now}, indent=2) + "\n")
        return
    before = json.loads(SNAPSHOT.read_text())
    if before["compiler"] != compiler:
        print(f"The snapshot is of {before['compiler']}, this build of {compiler}: they need not agree.")
    fine = compare(before["instructions"], now)
    sys.exit(before["compiler"] == compiler and not fine)


if __name__ == "__main__":
    main()
