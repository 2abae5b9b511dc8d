"""The whole benchmark: all contenders of a cell in turn, in a process with one thread and one with all, and the report.

    python benchmarks/run.py                          # about 20 minutes on two cores; writes docs/benchmarks.md
    python benchmarks/run.py --quick                  # the short form, a few minutes
    python benchmarks/run.py --threads 1 softmax 1000 # no report; the cells that have all of these, for tuning

A line a cell: ns an element (µs a call of fewer than a thousand), the ratio of medians (the best peer's time over
csoftmax's), the ratio of minima (steadier when the machine is busy), in brackets the ratio asked for and the one aimed
at, csoftmax's error in ulp, and the peers' times. It begins with XX below what is asked and with - below the aim. The
figures stay in benchmarks/results/, the report is docs/benchmarks.md.
"""

import argparse
import dataclasses
import functools
import json
import statistics
import subprocess
import sys
from pathlib import Path

import measure

HERE = Path(__file__).parent
RESULTS = HERE / "results"


def options():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", help="measure the cells that have all of these, as printed")
    parser.add_argument("--quick", action="store_true", help="cells of at most two million elements, three rounds")
    parser.add_argument("--suite", choices=["cells", "batches", "row_lengths"], help="measure this one alone")
    parser.add_argument("--threads", type=int, help="measure with so many, and write no report")
    parser.add_argument("--json", type=Path, help="with --threads: write the figures to this file")
    chosen = parser.parse_args()
    if chosen.json and not chosen.threads:
        parser.error("--json needs --threads: without it the files are benchmarks/results/*.json")
    return chosen


def entrants(cell, contenders):
    """The cell's callables, the errors in ulp of their answers, and whose answers are wrong."""
    from contenders import check

    from csoftmax.cli.bench import Problem

    problem, runs, errors, wrong = Problem(cell), {}, {}, {}
    for contender in contenders:
        if contender.has(cell):
            try:
                run = contender.prepare(problem)
                errors[contender.name] = check(contender, problem, run)
                runs[contender.name] = run
            except Exception as error:  # the run fails for it at its end; the others are timed all the same
                wrong[contender.name] = f"{type(error).__name__}: {error}"
    return runs, errors, wrong


def show(cell, aims, times, errors):
    """Print one cell's line."""
    middle = {name: statistics.median(rounds) for name, rounds in times.items()}
    scale = 1e6 if cell.size < 1000 else 1e9 / cell.size
    ours, peers = middle.pop("csoftmax", None), sorted((seconds, name) for name, seconds in middle.items())
    others = ", ".join(f"{name} {seconds * scale:.2f}" for seconds, name in peers)
    if ours is None or not peers:
        print(f"   {cell!s:62} {others}", flush=True)
        return
    ratio, minima = peers[0][0] / ours, min(min(times[name]) for _, name in peers) / min(times["csoftmax"])
    mark = "  " if not aims or ratio >= aims[1] else "- " if ratio >= aims[0] else "XX"
    asked = f"({aims[0]:.1f} {aims[1]:.1f})" if aims else " " * 9
    print(
        f"{mark} {cell!s:62} {ours * scale:6.3f}  {ratio:5.2f} {minima:5.2f}  {asked}"
        f"  {errors['csoftmax']:5.2f} ulp  {others}",
        flush=True,
    )


def measured(chosen):
    """Measure the chosen cells; return the figures of every contender, and the number of wrong answers."""
    from contenders import CONTENDERS, COPIES
    from suites import suite, targets

    from csoftmax.cli.bench import interleave

    cells = suite(chosen.threads, chosen.quick)
    cells = [
        (name, cell)
        for name, cell in cells
        if all(word in str(cell) for word in chosen.words) and chosen.suite in (None, name)
    ]
    if not cells:
        sys.exit(f"no cell has all of: {', '.join(chosen.words) or chosen.suite}")
    contenders = [kind(chosen.threads) for kind in (CONTENDERS | COPIES).values() if kind.installed()]
    aims, figures, failures = targets(), [], 0
    time = functools.partial(interleave, threads=chosen.threads, rounds=range(3 if chosen.quick else 7), budget=0.5)
    for name, cell in cells:
        runs, errors, wrong = entrants(cell, contenders)
        for contender, reason in wrong.items():
            failures += 1
            print(f"!! {cell!s:62} {contender}: {reason}", flush=True)
        times = time(runs) if runs else {}
        show(cell, aims.get(cell) if chosen.threads == 1 else None, times, errors)
        for contender, rounds in times.items():
            figure = {"suite": name, "contender": contender, "ulp": errors[contender], "times": rounds}
            figures.append(dataclasses.asdict(cell) | figure)
    return figures, failures


def run_one(chosen):
    """Measure in this process; return whether an answer was wrong."""
    measure.pin(chosen.threads)
    figures, failures = measured(chosen)
    if chosen.json:
        from pytest_benchmark.plugin import pytest_benchmark_generate_machine_info

        import csoftmax

        content = {
            "machine_info": measure.machine_info(pytest_benchmark_generate_machine_info()),
            "threads": chosen.threads,
            "isa": csoftmax.get_isa(),
            "results": figures,
        }
        chosen.json.write_text(json.dumps(content, indent=1) + "\n")
    return failures > 0


def main():
    chosen = options()
    if chosen.threads is not None:
        return run_one(chosen)
    RESULTS.mkdir(exist_ok=True)
    files, failed = [], False
    for threads in sorted({1, len(measure.CPUS)}):
        files.append(RESULTS / f"{threads}-threads.json")
        files[-1].unlink(missing_ok=True)
        own = [f"--threads={threads}", f"--json={files[-1]}"]
        failed |= subprocess.run([sys.executable, __file__, *sys.argv[1:], *own]).returncode != 0
    subprocess.run([sys.executable, HERE / "report.py", *filter(Path.exists, files)], check=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
