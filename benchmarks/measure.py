"""The process that measures: pinned to its CPUs, with an allocator that stays as it is; what machine it runs on."""

import ctypes
import os
import platform
from pathlib import Path

CPUS = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count()))
POOLS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "CSOFTMAX_NUM_THREADS",
)


def pin(threads):
    """Keep this process on `threads` CPUs. Call it before any contender is imported and sizes its pool."""
    if not 1 <= threads <= len(CPUS):
        raise SystemExit(f"{threads} threads asked for, this process may use {len(CPUS)} CPUs")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, CPUS[-threads:])
    for name in POOLS:
        os.environ[name] = str(threads)
    steady_allocator()


def steady_allocator():
    """Put glibc's malloc at once where it arrives in a loop that allocates and frees large results.

    It then keeps results below 32 MiB and maps larger ones anew. Left to adapt, it does the one or the other
    by what the contender before has freed, and a fresh result of 4 MB costs up to four times the operation.
    """
    M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 32 * 2**20)
        libc.mallopt(M_TRIM_THRESHOLD, 2**30)


def caches():
    """Name and size of the first CPU's caches."""
    found = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        found[f"L{level} {kind.lower()}"] = size
    return found


def memory():
    """Bytes of memory, where the system tells."""
    names = "SC_PAGE_SIZE", "SC_PHYS_PAGES"
    known = getattr(os, "sysconf_names", {})
    return os.sysconf(names[0]) * os.sysconf(names[1]) if all(name in known for name in names) else None


def machine_info(found):
    """What pytest-benchmark found out about the machine, less its name, with what else a time depends on."""
    from contenders import CONTENDERS

    import csoftmax

    found.pop("node", None)
    return found | {
        "cpu": {key: found["cpu"].get(key) for key in ("brand_raw", "arch", "count")},
        "caches": caches(),
        "memory": memory(),
        "libc": " ".join(platform.libc_ver()),
        "versions": {name: kind.version() for name, kind in CONTENDERS.items() if kind.installed()},
        "csoftmax": csoftmax.runtime_info(),
    }
