"""Options of the benchmark run, and what it notes about the machine."""

import os
import platform
from pathlib import Path

import measure
import pytest

SUITES = {
    "cells": "every operation on the shapes its users have",
    "batches": "a growing number of rows, beside a copy of the same bytes",
    "row_lengths": "rows of 1 to 2^24 elements",
}


def pytest_addoption(parser):
    group = parser.getgroup("peers")
    group.addoption("--threads", type=int, default=1, help="threads (and CPUs) for every contender")
    group.addoption(
        "--quick", action="store_true", help="cells of at most two million elements, three rounds"
    )


def pytest_configure(config):
    measure.pin(config.getoption("--threads"))
    config.addinivalue_line("filterwarnings", "default")  # the peers' own warnings are none of ours
    for name, meaning in SUITES.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")


def pytest_generate_tests(metafunc):
    from contenders import CONTENDERS, COPIES
    from suites import suite

    config = metafunc.config
    metafunc.parametrize(
        "cell, contender",
        [
            pytest.param(cell, name, id=f"{cell.slug}-{name}", marks=getattr(pytest.mark, marker))
            for marker, cell in suite(config.getoption("--threads"), config.getoption("--quick"))
            for name, kind in (CONTENDERS | COPIES).items()
            if kind.has(cell)
        ],
    )


def caches():
    """Name and size of the first CPU's caches."""
    found = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        found[f"L{level} {kind.lower()}"] = size
    return found


def pytest_benchmark_update_machine_info(config, machine_info):
    from contenders import CONTENDERS

    import csoftmax

    del machine_info["node"]
    machine_info["cpu"] = {key: machine_info["cpu"].get(key) for key in ("brand_raw", "arch", "count")}
    machine_info["caches"] = caches()
    machine_info["memory"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    machine_info["libc"] = " ".join(platform.libc_ver())
    machine_info["versions"] = {name: kind.version() for name, kind in CONTENDERS.items()}
    machine_info["csoftmax"] = csoftmax.runtime_info()
