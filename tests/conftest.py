"""Fixtures of the whole suite: every numeric test runs at every ISA level that this CPU has."""

import gc
import os
import sys

import numpy as np
import pytest
from hypothesis import settings

import csoftmax
from csoftmax.runtime import levels as table

ALL_LEVELS = tuple(level.name for level in table.LEVELS)
# marks of tests that need a system, and whether this is one
SYSTEMS = {"linux": sys.platform == "linux", "posix": os.name == "posix"}
LEVELS = tuple(csoftmax.runtime_info()["isa"]["supported"])

settings.register_profile("ci", derandomize=True, deadline=None, max_examples=60)
settings.register_profile("explore", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_addoption(parser):
    """How much the tests in tests/trust try."""
    sizes = ["quick", "short", "nightly"]
    parser.addoption("--scale", choices=sizes, default="quick", help="size of tests/trust")


def pytest_ignore_collect(collection_path, config):
    """Pass over integrations whose libraries the extra `test` does not bring, unless `-m` asks for them."""
    asked = "interop" in config.option.markexpr.replace("not interop", "")
    if collection_path.parent.name == "interop" and collection_path.name != "test_interop_scipy.py" and not asked:
        return True
    return None


def pytest_collection_modifyitems(config, items):
    """Skip what other systems run, with the reason that its mark tells; deselect what only the nightly size runs."""
    for item in items:
        for mark in item.iter_markers():
            if not SYSTEMS.get(mark.name, True):
                item.add_marker(pytest.mark.skip(reason=f"on {mark.name} alone: {mark.args[0]}"))
    if config.getoption("--scale") == "nightly":
        return
    left_out = [item for item in items if item.get_closest_marker("nightly")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def pytest_report_header():
    """Say which levels ran, so that none is ever left out in silence."""
    absent = ", ".join(sorted(set(ALL_LEVELS) - set(LEVELS))) or "none"
    return f"csoftmax: ISA levels tested: {', '.join(LEVELS)} (this CPU or build lacks: {absent})"


@pytest.fixture(scope="module", params=LEVELS)
def isa(request):
    """Run the test at one ISA level; module scope, so that Hypothesis may use it."""
    with csoftmax.use_isa(request.param):
        yield request.param


@pytest.fixture
def rng():
    """A generator that starts anew for every test, so that the order of tests changes nothing."""
    return np.random.default_rng(20240229)


@pytest.fixture(scope="session")
def scale(request):
    """How much tests/trust tries: "quick" with the whole suite, "short" in CI, "nightly" all of it."""
    return request.config.getoption("--scale")


@pytest.fixture
def tally(record_property):
    """Record figures, by name, for the report that tools/trust.py writes."""

    def record(figures):
        for name, figure in figures.items():
            record_property(name, figure)

    return record


def pytest_collection_finish():
    """Spare the collector what lives as long as the run."""
    gc.collect()
    gc.freeze()
