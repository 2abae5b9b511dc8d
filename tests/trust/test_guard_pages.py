"""No byte outside an argument is touched: the sweep of `guard`, in a process that would die of one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from arrays import FLOATS
from conftest import LEVELS

pytestmark = pytest.mark.linux("pages are protected through its C library")
STEPS = {"quick": 47, "short": 11, "nightly": 1}


def guard(*arguments):
    here = Path(__file__).parent
    return subprocess.run(
        [sys.executable, str(here / "guard.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_the_fence_kills_who_reads_one_byte_too_far():
    assert guard("overrun").returncode == -signal.SIGSEGV


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("level", LEVELS)
def test_no_byte_beyond_any_argument_is_touched(level, dtype, scale, tally):
    run = guard(level, dtype, STEPS[scale])
    assert run.returncode == 0, f"exit {run.returncode} at: {run.stderr[-800:]}"
    tally({"calls between guard pages": int(run.stdout)})
