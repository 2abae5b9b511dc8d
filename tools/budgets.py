#!/usr/bin/env python3
"""What the kernels may weigh: copies of the exponential in each module, and bytes of all modules, from the disassembly.

    python tools/budgets.py   # those that are built in csoftmax/kernels/isa; exit status 1 if one is over its budget

A body of the exponential ends with a shift that makes a power of two out of an integer; its distance, which no other
operation of the kernels has, tells it from other shifts. Needs objdump (binutils).
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST_COPIES = 140
MOST_BYTES = 1_890_000  # of six modules
# AVX-512 tables have 16 entries an octave: 4 bits fewer than the mantissa; elsewhere the shift is the mantissa's bits.
X86 = re.compile(r"\bv?psll(?:d +\$0x1[37]|q +\$0x3[04]),")
ARM = re.compile(r"\bshl\s+v\d+\.(?:4s, v\d+\.4s, #23|2d, v\d+\.2d, #52)\b")


def copies(disassembly):
    """How many bodies of the exponential a disassembly, the text of objdump -d, has."""
    return sum(1 for line in disassembly.splitlines() if X86.search(line) or ARM.search(line))


def disassemble(module):
    """The text of a module's instructions, without their bytes."""
    command = ["objdump", "-d", "--no-show-raw-insn", str(module)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def over_budget(counts, sizes):
    """A line for each budget that is exceeded: counts and sizes (bytes) are by the module's name."""
    for name, count in counts.items():
        if count > MOST_COPIES:
            yield f"{name} has {count} copies of the exponential, more than {MOST_COPIES}"
    # fewer levels have as many sixths of it
    most = MOST_BYTES * len(sizes) / 6
    if sum(sizes.values()) > most:
        yield f"{len(sizes)} modules have {sum(sizes.values()):,} bytes, more than {most:,.0f}"


def main():
    """Print the table; return the exit status."""
    modules = sorted((ROOT / "csoftmax" / "kernels" / "isa").glob("*_f[36][24].*.so"))
    if not modules:
        print("no kernels in csoftmax/kernels/isa: build them first, with python setup.py build_ext -i")
        return 1
    counts, sizes = {}, {}
    for module in modules:
        name = module.name.partition(".")[0]
        counts[name], sizes[name] = copies(disassemble(module)), module.stat().st_size
        print(f"{name:14} {counts[name]:4} copies of the exponential, {sizes[name]:9,} bytes")
    print(f"{'together':14} {sum(counts.values()):4} {sum(sizes.values()):35,} bytes")
    problems = list(over_budget(counts, sizes))
    print(*problems, sep="\n", end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
