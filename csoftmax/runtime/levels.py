"""The ISA levels: the one table that the build, the dispatcher, the tests and the documentation read.

setup.py runs this file by its path before anything is built, so it imports nothing of the package.
"""

import platform
from typing import NamedTuple


class Level(NamedTuple):
    """One way to compile the kernels, and which CPUs can run the result."""

    name: str
    architectures: tuple[str, ...]  #: as `platform.machine` names them, in lower case; empty: every one
    features: tuple[str, ...]  #: what the CPU must have, of the names in simd/cpu.h
    flags: tuple[str, ...]  #: of gcc and clang
    msvc_flags: tuple[str, ...]
    header: str | None  #: in simd/; None: that of what every CPU of the architecture has, which simd.h chooses


X86_64 = ("x86_64", "amd64")
ARM64 = ("aarch64", "arm64")
X86_64_V3 = ("avx2", "fma", "f16c", "bmi1", "bmi2", "abm", "movbe")
X86_64_V4 = (*X86_64_V3, "avx512f", "avx512dq", "avx512cd", "avx512bw", "avx512vl")
WIDE = "-mprefer-vector-width=512"  # compilers prefer 256 bits

#: from the least to the best: of those that a CPU can run the last one is chosen
LEVELS = (
    Level("baseline", (), (), (), (), None),
    Level("avx2", X86_64, X86_64_V3, ("-march=x86-64-v3",), ("/arch:AVX2",), "avx2.h"),
    Level("avx512", X86_64, X86_64_V4, ("-march=x86-64-v4", WIDE), ("/arch:AVX512",), "avx512.h"),
    Level("neon", ARM64, ("asimd",), (), (), None),
)


def levels_of_this_machine() -> list[Level]:
    """The levels for the architecture of this machine, whatever its CPU has."""
    machine = platform.machine().lower()
    return [level for level in LEVELS if not level.architectures or machine in level.architectures]
