"""What is built and shipped: exported symbols, needed libraries, no line tracing, nothing fetched, no fast-math."""

import importlib
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import csoftmax

MODULES = sorted(p for p in Path(csoftmax.__file__).parent.rglob("*") if p.suffix in (".so", ".pyd"))
LINUX = pytest.mark.linux("reads ELF")
# what threadpoolctl finds
OF_THE_POOL = {"csoftmax_get_num_threads", "csoftmax_set_num_threads"}
# what the linker and sanitizers add to every shared object
OF_THE_LINKER = {"_init", "_fini", "__bss_start", "_edata", "_end"}


def name_of(path):
    return ".".join(
        (*path.relative_to(Path(csoftmax.__file__).parents[1]).parent.parts, path.name.split(".")[0])
    )


@LINUX
def test_every_module_exports_its_init_function_and_the_core_its_settings():
    assert MODULES
    for path in MODULES:
        table = subprocess.run(
            ["nm", "-D", "--defined-only", path], capture_output=True, text=True, check=True
        )
        symbols = {line.split()[-1].split("@")[0] for line in table.stdout.splitlines()} - OF_THE_LINKER
        pool = OF_THE_POOL if name_of(path) == "csoftmax.runtime.core" else set()
        assert symbols == {f"PyInit_{path.name.split('.')[0]}"} | pool, path.name


@LINUX
def test_modules_need_only_the_c_library():
    allowed = ("libc.", "libm.", "libpthread.", "libgcc_s.", "ld-linux", "libpython")
    for path in MODULES:
        table = subprocess.run(["readelf", "-d", path], capture_output=True, text=True, check=True)
        needed = [line.split("[")[1].rstrip("]") for line in table.stdout.splitlines() if "(NEEDED)" in line]
        assert all(name.startswith(allowed) for name in needed), (path.name, needed)


@LINUX
def test_stack_is_not_executable():
    for path in MODULES:
        table = subprocess.run(["readelf", "-lW", path], capture_output=True, text=True, check=True)
        stack = next(line for line in table.stdout.splitlines() if "GNU_STACK" in line)
        assert "RWE" not in stack, path.name


def test_no_line_is_traced():
    """A traced build calls the trace function for each line of the extensions, and is many times slower."""
    seen = set()

    def trace(frame, event, argument):
        seen.add(frame.f_code.co_filename)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        csoftmax.runtime_info()
        csoftmax.cross_entropy([[1.0, 2.0]], [0])
    finally:
        sys.settrace(before)
    assert any(name.endswith("info.py") for name in seen)
    assert not [name for name in seen if name.endswith((".pyx", ".pxi"))]


def test_flags_of_the_build_leave_ieee_arithmetic_alone():
    flags = csoftmax.runtime_info()["compile_flags"]
    for harmful in ("-ffast-math", "-Ofast", "-funsafe-math-optimizations", "-march=native"):
        assert harmful not in flags


def test_nothing_is_fetched_at_run_time(monkeypatch):
    def refuse(*arguments):
        raise AssertionError(f"a connection to {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    for path in MODULES:
        importlib.import_module(name_of(path))
    csoftmax.cross_entropy_with_grad(np.zeros((3, 4)), [0, 1, 2])
    with socket.socket() as s, pytest.raises(AssertionError, match="connection"):
        s.connect(("127.0.0.1", 9))


def test_the_build_reads_nothing_but_this_tree_and_its_declared_tools():
    root = Path(__file__).parents[2]
    levels = root / "csoftmax" / "runtime" / "levels.py"  # which setup.py runs
    read = (root / "setup.py").read_text() + levels.read_text()
    imported = {
        line.split()[1].split(".")[0] for line in read.splitlines() if line.startswith(("import ", "from "))
    }
    assert imported <= sys.stdlib_module_names | {"numpy", "Cython", "setuptools"}
    assert not imported & {"http", "socket", "ssl", "urllib"}
