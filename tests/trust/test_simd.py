"""Every header of simd/ fulfils the contract that simd.h states: `simd_check.c`, compiled against each in turn."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import LEVELS

from csoftmax.runtime import levels as table

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
# plain C is the header of no level here, but of the baseline elsewhere
HEADERS = {level.name: (level.header, level.flags) for level in table.LEVELS if level.name in LEVELS}
HEADERS["scalar"] = ("scalar.h", ())

pytestmark = pytest.mark.posix("takes a compiler with the options of gcc")


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("level", HEADERS)
def test_operations_do_what_the_contract_says(tmp_path, level, bits):
    header, flags = HEADERS[level]
    compiler = os.environ.get("CC", shutil.which("gcc") or "cc")
    macros = [f"-DCSM_BITS={bits}", *([f'-DCSM_SIMD_HEADER="{header}"'] if header else [])]
    options = ["-O2", "-ffp-contract=off", *flags, *macros, f"-I{ROOT}", "-o", tmp_path / "check"]
    subprocess.run([*compiler.split(), *options, HERE / "simd_check.c", "-lm"], check=True)
    done = subprocess.run([tmp_path / "check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[:2000]
