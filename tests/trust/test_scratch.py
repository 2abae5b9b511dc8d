"""The kernels stay within the scratch that they ask for: `scratch`, in a process that one byte too far would kill."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import LEVELS

pytestmark = pytest.mark.linux("pages are protected through its C library")
HERE = Path(__file__).parent
ROOT = HERE.parents[1]
STEPS = {"quick": 6, "short": 2, "nightly": 1}
BUILD = """
from Cython.Build import cythonize
from setuptools import Extension, setup
extension = Extension("exact_scratch", ["exact_scratch.pyx"], extra_compile_args=["-O1"])
setup(name="exact_scratch", ext_modules=cythonize([extension], include_path=[ROOT], language_level=3))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where `exact_scratch` is built, against the declarations of the kernels in the source tree."""
    folder = tmp_path_factory.mktemp("scratch")
    (folder / "exact_scratch.pyx").write_text((HERE / "exact_scratch.pyx").read_text())
    (folder / "setup.py").write_text(BUILD.replace("ROOT", repr(os.fspath(ROOT))))
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def scratch(folder, *arguments):
    return subprocess.run(
        [sys.executable, str(HERE / "scratch.py"), str(folder), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_the_guard_kills_who_writes_one_byte_too_far(folder):
    assert scratch(folder, LEVELS[-1], "overrun", 4096).returncode == -signal.SIGSEGV


@pytest.mark.parametrize("level", LEVELS)
def test_no_byte_beyond_the_scratch_asked_for_is_touched(folder, level, scale, tally):
    run = scratch(folder, level, STEPS[scale])
    assert run.returncode == 0, f"exit {run.returncode} at: {run.stderr[-800:]}"
    tally({"runs of kernels in exact scratch": int(run.stdout)})
