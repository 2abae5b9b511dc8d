"""csoftmax beside NumPy and every other library that is installed, timed by pytest-benchmark: `pytest benchmarks/`.

One group a cell: softmax, forward and backward, of the arrays of `csoftmax bench`. Every answer is checked before
it is timed. What pytest-benchmark cannot do, time all contenders in turn, is the work of `run.py`.
"""

import dataclasses
import functools

import pytest
from contenders import CONTENDERS, check

import csoftmax
from csoftmax.cli.bench import CASES, DIRECTIONS, Problem

INSTALLED = {name: kind for name, kind in CONTENDERS.items() if kind.installed()}
CELLS = [dataclasses.replace(case, operation=operation) for case in CASES for operation in DIRECTIONS]
problem_of = functools.lru_cache(maxsize=1)(Problem)


@functools.cache
def library(name, threads):
    return INSTALLED[name](threads)


@pytest.mark.parametrize(
    ("cell", "name"),
    [
        pytest.param(cell, name, id=f"{cell.operation}, {cell.name}, {name}")
        for cell in CELLS
        for name, kind in INSTALLED.items()
        if kind.has(cell)
    ],
)
def test_speed(benchmark, cell, name, pytestconfig):
    threads = pytestconfig.getoption("--threads", default=1)
    contender, problem = library(name, threads), problem_of(cell)
    run = contender.prepare(problem)
    error = check(contender, problem, run)
    benchmark.group = f"{cell.operation}, {cell.name}: {cell.layout} {cell.dtype}"
    benchmark.extra_info.update(
        dataclasses.asdict(cell), contender=name, threads=threads, ulp=error, isa=csoftmax.get_isa()
    )
    benchmark(run)
