"""Builds the kernels once for every ISA level and precision of this machine's architecture.

Environment: CSOFTMAX_BUILD_ISA names the levels to build (comma-separated; "baseline" is always among them),
CSOFTMAX_OPENMP=0 builds without threads, CSOFTMAX_CFLAGS adds compiler flags (sanitizers, warnings).
"""

import os
import platform
import sys
import tempfile
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

MSVC = sys.platform == "win32"
MACHINE = platform.machine().lower()
X86 = MACHINE in ("x86_64", "amd64")
ARM64 = MACHINE in ("arm64", "aarch64")

# The table of ISA levels: level -> flags that let the compiler use it.
LEVELS = {"baseline": []}
if X86:
    LEVELS["avx2"] = ["/arch:AVX2"] if MSVC else ["-march=x86-64-v3"]
    LEVELS["avx512"] = ["/arch:AVX512"] if MSVC else ["-march=x86-64-v4", "-mprefer-vector-width=512"]
if ARM64:
    LEVELS["neon"] = []

# No -ffast-math and its like, not even at link time: they would turn subnormals off for the whole process.
# No contraction: which products are fused is written out, so that a row's bits do not depend on inlining.
CFLAGS = ["/O2", "/fp:precise"]
if not MSVC:
    CFLAGS = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fvisibility=hidden"]
    CFLAGS += ["-Wall", "-Wextra"]
CFLAGS += os.environ.get("CSOFTMAX_CFLAGS", "").split()
LDFLAGS = os.environ.get("CSOFTMAX_CFLAGS", "").split()

OPENMP_PROBE = "#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n"


def levels_to_build():
    wanted = os.environ.get("CSOFTMAX_BUILD_ISA")
    if not wanted:
        return LEVELS
    unknown = set(wanted.split(",")) - set(LEVELS)
    if unknown:
        sys.exit(f"CSOFTMAX_BUILD_ISA names {', '.join(sorted(unknown))}; this machine has {', '.join(LEVELS)}")
    return {level: flags for level, flags in LEVELS.items() if level == "baseline" or level in wanted.split(",")}


def extensions():
    def extension(name, sources, **options):
        return Extension(
            f"csoftmax.{name}",
            sources,
            include_dirs=[numpy.get_include(), "csoftmax/include"],
            define_macros=[
                ("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"),
                ("CSM_CFLAGS", '"' + " ".join(CFLAGS) + '"'),
                *options.pop("macros", []),
            ],
            extra_compile_args=CFLAGS + options.pop("flags", []),
            extra_link_args=list(LDFLAGS),
            depends=[str(p) for p in Path("csoftmax").rglob("*.h")] + [str(p) for p in Path("csoftmax").glob("*.p*")],
        )

    yield extension("_cyutility", ["csoftmax/_cyutility.c"])
    for name in ("_dispatch", "_core", "_plan", "_capi"):
        yield extension(name, [f"csoftmax/{name}.pyx"])
    for level, flags in levels_to_build().items():
        for bits in (32, 64):
            macros = [("CSM_BITS", str(bits))]
            if not MSVC:
                # a row function that is not inlined would not see its constant arguments
                macros.append(("CYTHON_INLINE", "inline __attribute__((always_inline, unused))"))
            yield extension(f"_isa.{level}_f{bits}", [f"csoftmax/_isa/{level}_f{bits}.pyx"], macros=macros, flags=flags)


class BuildExt(build_ext):
    """Adds OpenMP to the core where the compiler has it; without it the package works on one thread."""

    def build_extensions(self):
        flags = self.openmp_flags()
        for extension in self.extensions:
            if extension.name == "csoftmax._core":
                extension.extra_compile_args += flags[0]
                extension.extra_link_args += flags[1]
        super().build_extensions()

    def openmp_flags(self):
        if os.environ.get("CSOFTMAX_OPENMP") == "0":
            return [], []
        candidates = [(["/openmp"], [])] if MSVC else [(["-fopenmp"], ["-fopenmp"])]
        if sys.platform == "darwin":
            candidates.append((["-Xpreprocessor", "-fopenmp"], ["-lomp"]))
        for compile_flags, link_flags in candidates:
            with tempfile.TemporaryDirectory() as folder:
                source = Path(folder, "probe.c")
                source.write_text(OPENMP_PROBE)
                try:
                    objects = self.compiler.compile([str(source)], folder, extra_postargs=compile_flags)
                    self.compiler.link_executable(objects, str(Path(folder, "probe")), extra_postargs=link_flags)
                    return compile_flags, link_flags
                except Exception:
                    continue
        self.warn("no OpenMP found: csoftmax will work on one thread")
        return [], []


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
        annotate=bool(os.environ.get("CSOFTMAX_ANNOTATE")),
    ),
    cmdclass={"build_ext": BuildExt},
)
