"""Builds the kernels once for every ISA level and precision of this machine's architecture.

Environment:

CSOFTMAX_BUILD_ISA    levels to build, comma-separated ("baseline" is always among them); by default all
CSOFTMAX_CFLAGS       more flags for compiler and linker (sanitizers, warnings)
CSOFTMAX_DEBUG=1      keep symbols and line numbers, for perf and gdb
CSOFTMAX_ANNOTATE=1   write Cython's annotated HTML beside the sources
CSOFTMAX_COVERAGE=1   count the lines that run, with gcc's gcov, for tools/cython_coverage.py; never to be released
"""

import os
import platform
import sys
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

MACHINE = platform.machine().lower()
LEVELS = ["baseline"]
if MACHINE in ("x86_64", "amd64"):
    LEVELS += ["avx2", "avx512"]
if MACHINE in ("arm64", "aarch64"):
    LEVELS += ["neon"]

# What each type of compiler is told. "threads", "release" and "coverage" are (compiler's, linker's). No -ffast-math
# and its like, not even at link time: they would turn subnormals off for the whole process. No contraction: which
# products are fused is written out, so that a row's bits do not depend on inlining.
UNIX = {
    "all": [
        *("-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"),
        *("-fvisibility=hidden", "-Wall", "-Wextra"),
    ],
    "avx2": ["-march=x86-64-v3"],
    "avx512": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
    "threads": (["-pthread"], ["-pthread"]),
    "release": (["-g0"], ["-Wl,-x" if sys.platform == "darwin" else "-Wl,--strip-all"]),
    # around the kernels: modules that every call passes, and others
    "calls": ["-O2"],
    "others": ["-Os"],
    # functions that nothing calls are to be seen too
    "coverage": (["-Og", "-w", "--coverage", "-DCYTHON_INLINE=__attribute__((used))"], ["--coverage"]),
}
MSVC = {
    "all": ["/O2", "/fp:precise"],
    "avx2": ["/arch:AVX2"],
    "avx512": ["/arch:AVX512"],
    "threads": ([], []),
    "release": ([], []),
    "calls": [],
    "others": [],
    "coverage": ([], []),
}

SELDOM_CALLED = ("csoftmax._cyutility", "csoftmax.runtime.dispatch")


def switched_on(name):
    return os.environ.get(name, "0") not in ("", "0")


COVERAGE = switched_on("CSOFTMAX_COVERAGE")
DEBUG = switched_on("CSOFTMAX_DEBUG")


def levels_to_build():
    wanted = os.environ.get("CSOFTMAX_BUILD_ISA")
    if not wanted:
        return LEVELS
    unknown = set(wanted.split(",")) - set(LEVELS)
    if unknown:
        sys.exit(f"CSOFTMAX_BUILD_ISA names {', '.join(sorted(unknown))}; this machine has {', '.join(LEVELS)}")
    return [level for level in LEVELS if level == "baseline" or level in wanted.split(",")]


def extensions():
    def extension(name, sources, macros=()):
        return Extension(
            f"csoftmax.{name}",
            sources,
            include_dirs=[numpy.get_include(), "csoftmax/include"],
            define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"), *macros],
            depends=[str(p) for ending in ("*.h", "*.px[di]") for p in Path("csoftmax").rglob(ending)],
        )

    yield extension("_cyutility", ["csoftmax/_cyutility.c"])
    yield extension("runtime.core", ["csoftmax/runtime/core.pyx", "csoftmax/runtime/pool.c"])
    for name in ("runtime.dispatch", "plan.strategy", "plan.plan", "_capi", "api.keywords"):
        yield extension(name, [f"csoftmax/{name.replace('.', '/')}.pyx"])
    # plain Python, compiled because a call of a Python function costs half as much as a small softmax
    for name in () if COVERAGE else ("api.forward", "api.derivative", "api.loss"):
        yield extension(name, [f"csoftmax/{name.replace('.', '/')}.py"])
    for level in levels_to_build():
        for bits in (32, 64):
            name = f"kernels.isa.{level}_f{bits}"
            yield extension(name, [f"csoftmax/{name.replace('.', '/')}.pyx"], [("CSM_BITS", str(bits))])


class BuildExt(build_ext):
    """Gives each extension the flags of its level, and the core threads."""

    def finalize_options(self):
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()

    def build_extensions(self):
        msvc = self.compiler.compiler_type == "msvc"
        flags = MSVC if msvc else UNIX
        extra = os.environ.get("CSOFTMAX_CFLAGS", "").split()
        release = flags["coverage"] if COVERAGE else ([], []) if DEBUG else flags["release"]
        for extension in self.extensions:
            level = extension.name.removeprefix("csoftmax.kernels.isa.").partition("_")[0]
            kind = level if level in LEVELS else "others" if extension.name in SELDOM_CALLED else "calls"
            extension.extra_compile_args += flags["all"] + flags.get(kind, []) + release[0] + extra
            extension.extra_link_args += release[1] + extra
            extension.define_macros.append(("CSM_CFLAGS", '"' + " ".join(flags["all"] + extra) + '"'))
            if level in LEVELS and not msvc and not COVERAGE:
                # a row function that is not inlined would not see its constant arguments
                extension.define_macros.append(("CYTHON_INLINE", "inline __attribute__((always_inline, unused))"))
            if extension.name == "csoftmax.runtime.core":
                extension.extra_compile_args += flags["threads"][0]
                extension.extra_link_args += flags["threads"][1]
        super().build_extensions()


DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "initializedcheck": False,
    "cdivision": True,
    "embedsignature": False,
    "freethreading_compatible": False,
}

setup(
    ext_modules=cythonize(
        list(extensions()),
        compiler_directives=DIRECTIVES,
        shared_utility_qualified_name="csoftmax._cyutility",
        include_path=["."],
        annotate=switched_on("CSOFTMAX_ANNOTATE"),
    ),
    cmdclass={"build_ext": BuildExt},
)
