"""Builds the kernels once for every ISA level and precision of this machine's architecture.

csoftmax/runtime/levels.py has the levels and their flags. Cython translates the kernels to C once; each level and
precision compiles that C under a name of its own.

Environment:

CSOFTMAX_BUILD_ISA    levels to build, comma-separated ("baseline" is always among them); by default all
CSOFTMAX_CFLAGS       more flags for compiler and linker (sanitizers, warnings)
CSOFTMAX_DEBUG=1      keep symbols and line numbers, for perf and gdb
CSOFTMAX_ANNOTATE=1   write Cython's annotated HTML beside the sources
CSOFTMAX_COVERAGE=1   count the lines that run, with gcc's gcov, for tools/cython_coverage.py; never to be released
"""

import itertools
import os
import runpy
import sys
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

LEVELS = {level.name: level for level in runpy.run_path("csoftmax/runtime/levels.py")["levels_of_this_machine"]()}
ISA = Path("csoftmax/kernels/isa")

# What each type of compiler is told. "threads", "release" and "coverage" are (compiler's, linker's). No -ffast-math
# and its like, not even at link time: they would turn subnormals off for the whole process. No contraction: which
# products are fused is written out, so that a row's bits do not depend on inlining.
UNIX = {
    "all": [
        *("-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"),
        *("-fvisibility=hidden", "-Wall", "-Wextra"),
    ],
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


def extension(name, sources, macros=(), depends=()):
    return Extension(
        f"csoftmax.{name}",
        sources,
        # "." for csoftmax/simd, whose headers are private
        include_dirs=[numpy.get_include(), "csoftmax/include", "."],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"), *macros],
        depends=[str(p) for ending in ("*.h", "*.px[di]") for p in Path("csoftmax").rglob(ending)] + list(depends),
    )


def modules():
    """The extensions that Cython translates, the kernels last, for all levels and precisions."""
    yield extension("_cyutility", ["csoftmax/_cyutility.c"])
    yield extension("runtime.core", ["csoftmax/runtime/core.pyx", "csoftmax/runtime/pool.c"])
    plan = [f"plan.{name}" for name in ("arguments", "losses", "operations", "plan", "strategy", "targets")]
    for name in ("runtime.dispatch", *plan, "_capi", "api.keywords"):
        yield extension(name, [f"csoftmax/{name.replace('.', '/')}.pyx"])
    # plain Python, compiled because a call of a Python function costs half as much as a small softmax
    for name in () if COVERAGE else ("api.forward", "api.derivative", "api.loss"):
        yield extension(name, [f"csoftmax/{name.replace('.', '/')}.py"])
    yield extension("kernels.isa.kernel", [str(ISA / "kernel.pyx")])


def kernels(translated):
    """The extensions of the kernels, one a level and precision: each is a C file that includes the translated one."""
    for level, bits in itertools.product(levels_to_build(), (32, 64)):
        source = ISA / f"{level}_f{bits}.c"
        code = f'#define PyInit_kernel PyInit_{source.stem}\n#include "kernel.c"\n'
        if not source.exists() or source.read_text() != code:
            source.write_text(code)
        macros = [("CSM_BITS", str(bits))]
        if LEVELS[level].header:
            macros.append(("CSM_SIMD_HEADER", f'"{LEVELS[level].header}"'))
        yield extension(f"kernels.isa.{source.stem}", [str(source)], macros, [translated])


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
            level = LEVELS.get(extension.name.removeprefix("csoftmax.kernels.isa.").rpartition("_")[0])
            if level:
                own = level.msvc_flags if msvc else level.flags
            else:
                own = flags["others" if extension.name in SELDOM_CALLED else "calls"]
            extension.extra_compile_args += [*flags["all"], *own, *release[0], *extra]
            extension.extra_link_args += release[1] + extra
            extension.define_macros.append(("CSM_CFLAGS", '"' + " ".join(flags["all"] + extra) + '"'))
            if level and not msvc and not COVERAGE:
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

*MODULES, KERNEL = cythonize(
    list(modules()),
    compiler_directives=DIRECTIVES,
    shared_utility_qualified_name="csoftmax._cyutility",
    include_path=["."],
    annotate=switched_on("CSOFTMAX_ANNOTATE"),
)

setup(ext_modules=[*MODULES, *kernels(KERNEL.sources[0])], cmdclass={"build_ext": BuildExt})
