"""What setup.py tells each type of compiler, with a compiler that only listens."""

import runpy
import sys
import types
from pathlib import Path

import pytest
import setuptools
from setuptools.command.build_ext import build_ext

SETUP = Path(__file__).parents[1] / "setup.py"


class Compiler:
    """A compiler of a type, with or without OpenMP, that notes what it is asked for."""

    def __init__(self, compiler_type, openmp_flag):
        self.compiler_type, self.openmp_flag = compiler_type, openmp_flag

    def compile(self, sources, folder, extra_postargs):
        if extra_postargs[-1:] != [self.openmp_flag] or len(extra_postargs) > 1:
            raise OSError(f"unknown option {extra_postargs}")
        return sources

    def link_executable(self, objects, name, extra_postargs):
        pass


@pytest.fixture
def build(monkeypatch):
    """A function that returns every extension's flags (compiler's, linker's) and macros."""

    def build(compiler_type, openmp_flag, machine="x86_64", **environment):
        for name in ("CSOFTMAX_BUILD_ISA", "CSOFTMAX_OPENMP", "CSOFTMAX_CFLAGS", "CSOFTMAX_DEBUG", "CSOFTMAX_COVERAGE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        given = {}
        monkeypatch.setattr(setuptools, "setup", lambda **arguments: given.update(arguments))
        monkeypatch.setattr("platform.machine", lambda: machine)
        cython = types.SimpleNamespace(cythonize=lambda extensions, **_: extensions)
        monkeypatch.setitem(sys.modules, "Cython.Build", cython)
        monkeypatch.setattr(build_ext, "build_extensions", lambda self: None)
        runpy.run_path(str(SETUP))
        command = given["cmdclass"]["build_ext"](setuptools.Distribution())
        command.extensions, command.compiler = given["ext_modules"], Compiler(compiler_type, openmp_flag)
        command.build_extensions()
        return {
            e.name.removeprefix("csoftmax."): (e.extra_compile_args, e.extra_link_args, dict(e.define_macros))
            for e in command.extensions
        }

    return build


def test_unix(build):
    flags = build("unix", "-fopenmp")
    assert {"_isa.baseline_f32", "_isa.avx2_f64", "_isa.avx512_f32", "_core", "_plan"} <= flags.keys()
    assert "-march=x86-64-v3" in flags["_isa.avx2_f32"][0]
    assert not any("-march" in flag for flag in flags["_isa.baseline_f32"][0] + flags["_core"][0])
    assert [name for name, (compiler, _, _) in flags.items() if "-fopenmp" in compiler] == ["_core"]
    assert "-fopenmp" in flags["_core"][1]
    for compiler, _, macros in flags.values():
        assert not any("fast" in flag or "unsafe" in flag for flag in compiler)
        assert "-ffp-contract=off" in macros["CSM_CFLAGS"]
        assert "CYTHON_TRACE" not in macros


def test_msvc_gets_only_flags_that_it_knows(build):
    flags = build("msvc", "/openmp")
    assert "/arch:AVX512" in flags["_isa.avx512_f64"][0]
    assert "/openmp" in flags["_core"][0]
    for compiler, linker, macros in flags.values():
        assert all(flag.startswith("/") for flag in compiler)
        assert linker == []
        assert "CYTHON_INLINE" not in macros


@pytest.mark.parametrize("compiler_type", ["unix", "msvc"])
def test_without_openmp_it_builds_all_the_same(build, monkeypatch, compiler_type):
    warnings = []
    monkeypatch.setattr(build_ext, "warn", lambda self, message: warnings.append(message))
    compiler, linker, _ = build(compiler_type, "none")["_core"]
    assert not any("openmp" in flag or "omp" in flag for flag in compiler + linker)
    assert warnings == ["no OpenMP found: csoftmax will work on one thread"]


def test_arm64_has_neon(build):
    assert {name for name in build("unix", "-fopenmp", machine="arm64") if name.startswith("_isa.")} == {
        "_isa.baseline_f32", "_isa.baseline_f64", "_isa.neon_f32", "_isa.neon_f64",
    }


def test_levels_are_chosen_by_the_environment(build):
    names = build("unix", "-fopenmp", CSOFTMAX_BUILD_ISA="avx2", CSOFTMAX_CFLAGS="-Og -fsanitize=address")
    assert not any("avx512" in name for name in names)
    assert all("-fsanitize=address" in compiler + linker for compiler, linker, _ in names.values())
    with pytest.raises(SystemExit, match="sse9"):
        build("unix", "-fopenmp", CSOFTMAX_BUILD_ISA="sse9")


@pytest.mark.parametrize("variable", ["CSOFTMAX_DEBUG", "CSOFTMAX_COVERAGE"])
def test_symbols_stay_when_they_are_wanted(build, variable):
    for value, stripped in (("0", True), ("1", False)):
        flags = build("unix", "-fopenmp", **{variable: value}).values()
        assert all(("-g0" in compiler) is stripped for compiler, _, _ in flags)


def test_counters_are_built_in_for_coverage_alone(build):
    for value in ("0", "1"):
        flags = build("unix", "-fopenmp", CSOFTMAX_COVERAGE=value)
        assert all(("--coverage" in part) is (value == "1") for found in flags.values() for part in found[:2])
        assert ("_forward" in flags) is (value == "0")  # Python lines stay Python's
