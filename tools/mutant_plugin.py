"""Pytest, for tools/mutants.py: which tests reach a change, or only those that do, the likeliest to notice it first.

CSM_MUTANTS_SEEN   file of a byte a change, which what runs sets; each test's are written to it with ".tests" behind
CSM_MUTANT_TESTS   JSON: {test: seconds that it may take}, in order; the other tests are deselected, and the names of
                   those that were begun are written to it with ".begun" behind, and where one hung
"""

import faulthandler
import json
import os
import resource
import time
from pathlib import Path

import pytest

MEMORY = 12 << 30  # bytes of addresses that a test may ask for: a wrong size is to fail, not to fill the machine
SEEN = os.environ.get("CSM_MUTANTS_SEEN")
CHOSEN = json.loads(Path(os.environ["CSM_MUTANT_TESTS"]).read_text()) if "CSM_MUTANT_TESTS" in os.environ else None
BEGUN = open(f"{os.environ['CSM_MUTANT_TESTS']}.begun", "a") if CHOSEN is not None else None  # noqa: SIM115


def pytest_configure():
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard), hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    if CHOSEN is not None:
        wanted = {test: i for i, test in enumerate(CHOSEN)}
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in wanted])
        items[:] = sorted((item for item in items if item.nodeid in wanted), key=lambda item: wanted[item.nodeid])


def seen():
    """The changes that were reached since it was last asked."""
    with open(SEEN, "r+b") as file:
        reached = file.read()
        file.seek(0)
        file.write(bytes(len(reached)))
    return [number for number, byte in enumerate(reached) if byte]


def note(**entry):
    with open(f"{SEEN}.tests", "a") as file:
        file.write(json.dumps(entry) + "\n")


def pytest_collection_finish():
    if SEEN:
        note(test=None, passed=True, seconds=0, seen=seen())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    item.csm_failed, start = False, time.monotonic()
    if CHOSEN is not None:
        BEGUN.write(f"begun {item.nodeid}\n")
        BEGUN.flush()
        faulthandler.dump_traceback_later(CHOSEN[item.nodeid], exit=True, file=BEGUN)
    result = yield
    faulthandler.cancel_dump_traceback_later()
    if SEEN:
        note(test=item.nodeid, passed=not item.csm_failed, seconds=time.monotonic() - start, seen=seen())
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    item.csm_failed |= report.failed
    return report
