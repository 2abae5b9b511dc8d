"""What setup.py tells each type of compiler, with a compiler that only listens."""

import runpy
import shutil
import sys
import types
from pathlib import Path

import pytest
import setuptools
from setuptools.command.build_ext import build_ext

from csoftmax.runtime import levels as table

SETUP = Path(__file__).parents[2] / "setup.py"


@pytest.fixture
def build(monkeypatch, tmp_path):
    """A function that returns every extension's flags (compiler's, linker's) and macros."""
    package = tmp_path / "csoftmax"
    package.joinpath("kernels", "isa").mkdir(parents=True)
    package.joinpath("runtime").mkdir()
    shutil.copy(SETUP, tmp_path)
    shutil.copy(table.__file__, package / "runtime")
    monkeypatch.chdir(tmp_path)

    def build(compiler_type, machine="x86_64", **environment):
        for name in ("CSOFTMAX_BUILD_ISA", "CSOFTMAX_CFLAGS", "CSOFTMAX_DEBUG", "CSOFTMAX_COVERAGE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        given = {}
        monkeypatch.setattr(setuptools, "setup", lambda **arguments: given.update(arguments))
        monkeypatch.setattr("platform.machine", lambda: machine)
        cython = types.SimpleNamespace(cythonize=lambda extensions, **_: extensions)
        monkeypatch.setitem(sys.modules, "Cython.Build", cython)
        monkeypatch.setattr(build_ext, "build_extensions", lambda self: None)
        runpy.run_path("setup.py")
        command = given["cmdclass"]["build_ext"](setuptools.Distribution())
        command.extensions = given["ext_modules"]
        command.compiler = types.SimpleNamespace(compiler_type=compiler_type)
        command.build_extensions()
        return {
            e.name.removeprefix("csoftmax."): (e.extra_compile_args, e.extra_link_args, dict(e.define_macros))
            for e in command.extensions
        }

    return build


def test_unix(build):
    flags = build("unix")
    kernels = {"kernels.isa.baseline_f32", "kernels.isa.avx2_f64", "kernels.isa.avx512_f32"}
    assert kernels | {"runtime.core", "plan.plan", "plan.operations"} <= flags.keys()
    assert "-march=x86-64-v3" in flags["kernels.isa.avx2_f32"][0]
    assert not any("-march" in flag for flag in flags["kernels.isa.baseline_f32"][0] + flags["runtime.core"][0])
    assert [name for name, (compiler, _, _) in flags.items() if "-pthread" in compiler] == ["runtime.core"]
    assert "-pthread" in flags["runtime.core"][1]
    for compiler, _, macros in flags.values():
        assert not any("fast" in flag or "unsafe" in flag for flag in compiler)
        assert "-ffp-contract=off" in macros["CSM_CFLAGS"]
        assert "CYTHON_TRACE" not in macros


def test_msvc_gets_only_flags_that_it_knows(build):
    flags = build("msvc")
    assert "/arch:AVX512" in flags["kernels.isa.avx512_f64"][0]
    for compiler, linker, macros in flags.values():
        assert all(flag.startswith("/") for flag in compiler)
        assert linker == []
        assert "CYTHON_INLINE" not in macros


@pytest.mark.parametrize("compiler_type", ["unix", "msvc"])
def test_no_openmp_is_asked_for(build, compiler_type):
    for compiler, linker, _ in build(compiler_type).values():
        assert not any("omp" in flag for flag in compiler + linker)


@pytest.mark.parametrize("compiler_type", ["unix", "msvc"])
@pytest.mark.parametrize("machine", ["x86_64", "AMD64", "arm64", "riscv64"])
def test_each_level_is_built_as_the_table_says(build, compiler_type, machine):
    flags = build(compiler_type, machine=machine)
    levels = [level for level in table.LEVELS if not level.architectures or machine.lower() in level.architectures]
    assert {name for name in flags if name.startswith("kernels.isa.")} == {
        f"kernels.isa.{level.name}_f{bits}" for level in levels for bits in (32, 64)
    }
    for level in levels:
        for bits in ("32", "64"):
            compiler, _, macros = flags[f"kernels.isa.{level.name}_f{bits}"]
            own = level.msvc_flags if compiler_type == "msvc" else level.flags
            assert [flag for flag in compiler if "arch" in flag or "vector" in flag] == list(own)
            assert macros["CSM_BITS"] == bits
            assert macros.get("CSM_SIMD_HEADER") == (f'"{level.header}"' if level.header else None)


def test_the_documentation_lists_the_levels_of_the_table():
    page = (SETUP.parent / "docs" / "api.md").read_text()
    rows = [line for line in page.split("| level |")[1].splitlines() if line.startswith("| `")]
    assert rows == [
        f"| `{level.name}` | {', '.join(level.architectures) or 'any'} | {', '.join(level.features) or 'any'} |"
        for level in table.LEVELS
    ]


def test_arm64_has_neon(build):
    assert {name for name in build("unix", machine="arm64") if name.startswith("kernels.isa.")} == {
        "kernels.isa.baseline_f32", "kernels.isa.baseline_f64", "kernels.isa.neon_f32", "kernels.isa.neon_f64",
    }


def test_levels_are_chosen_by_the_environment(build):
    names = build("unix", CSOFTMAX_BUILD_ISA="avx2", CSOFTMAX_CFLAGS="-Og -fsanitize=address")
    assert not any("avx512" in name for name in names)
    assert all("-fsanitize=address" in compiler + linker for compiler, linker, _ in names.values())
    with pytest.raises(SystemExit, match="sse9"):
        build("unix", CSOFTMAX_BUILD_ISA="sse9")


@pytest.mark.parametrize("variable", ["CSOFTMAX_DEBUG", "CSOFTMAX_COVERAGE"])
def test_symbols_stay_when_they_are_wanted(build, variable):
    for value, stripped in (("0", True), ("1", False)):
        flags = build("unix", **{variable: value}).values()
        assert all(("-g0" in compiler) is stripped for compiler, _, _ in flags)


def test_counters_are_built_in_for_coverage_alone(build):
    for value in ("0", "1"):
        flags = build("unix", CSOFTMAX_COVERAGE=value)
        assert all(("--coverage" in part) is (value == "1") for found in flags.values() for part in found[:2])
        assert ("api.forward" in flags) is (value == "0")  # Python lines stay Python's
