"""csoftmax and its peers, cell by cell. `python benchmarks/run.py` runs this once for each thread count.

pytest-benchmark times one test after the other, which on a machine with anything else to do compares one
minute with another. So the first test of a cell times all of its contenders in turn, and each test then plays
its contender's rounds back to pytest-benchmark, whose clock is `clock`.
"""

import dataclasses
import functools

import measure
import pytest
from cases import Problem
from contenders import CONTENDERS, COPIES, check

elapsed = 0.0


def clock():
    return elapsed


def play(rounds):
    global elapsed
    elapsed += next(rounds)


@functools.cache
def library(name, threads):
    return (CONTENDERS | COPIES)[name](threads)


@functools.lru_cache(maxsize=1)
def measured(cell, threads, quick):
    """Every contender's rounds in seconds, and its error in ulp or what is wrong with it."""
    problem, runs, errors = Problem(cell), {}, {}
    for name, kind in (CONTENDERS | COPIES).items():
        if kind.has(cell):
            try:
                run = library(name, threads).prepare(problem)
                errors[name] = check(library(name, threads), problem, run)
                runs[name] = run
            except Exception as error:  # its own test raises it; the others are timed all the same
                errors[name] = error
    return measure.interleave(runs, threads=threads, rounds=3 if quick else 7, budget=0.5), errors


@pytest.mark.benchmark(timer=clock)
def test_peer(benchmark, cell, contender, pytestconfig, request):
    import csoftmax

    global elapsed
    threads = pytestconfig.getoption("--threads")
    times, errors = measured(cell, threads, pytestconfig.getoption("--quick"))
    if isinstance(errors[contender], Exception):
        raise errors[contender]
    benchmark.group = f"{cell}, {threads} threads"
    benchmark.extra_info.update(
        dataclasses.asdict(cell),
        contender=contender,
        suite=next(mark.name for mark in request.node.iter_markers() if mark.name != "benchmark"),
        isa=csoftmax.get_isa(),
        threads=threads,
        ulp=errors[contender],
    )
    elapsed = 0.0
    benchmark.pedantic(play, args=(iter(times[contender]),), rounds=len(times[contender]))
