"""How to measure: one process a thread count, pinned to its CPUs, all contenders in turn in every round."""

import ctypes
import os
import statistics
import time

CPUS = sorted(os.sched_getaffinity(0))
POOLS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "CSOFTMAX_NUM_THREADS",
)
SETTLE = 0.01  # seconds in which the thread pool of the contender before stops spinning


def pin(threads):
    """Keep this process on `threads` CPUs. Call it before any contender is imported and sizes its pool."""
    if threads > len(CPUS):
        raise SystemExit(f"{threads} threads asked for, this process may use {len(CPUS)} CPUs")
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
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, 32 * 2**20)
        libc.mallopt(M_TRIM_THRESHOLD, 2**30)


def seconds(run, calls):
    """Seconds a call, over `calls` calls in a row."""
    repeat = range(calls)
    start = time.perf_counter()
    for _ in repeat:
        run()
    return (time.perf_counter() - start) / calls


def glance(run, least=0.002):
    """Seconds of the quickest call of `least` seconds of calls: the first ones find the caches cold."""
    quickest, end = float("inf"), time.perf_counter() + least
    while time.perf_counter() < end:
        quickest = min(quickest, seconds(run, 1))
    return quickest


def interleave(runs, *, threads, rounds=9, block=0.002, budget=1.0, dropout=20):
    """Time callables fairly: rounds in which each runs once, in turn, after a call that is not timed.

    Parameters
    ----------
    runs : dict of str to callable
        Each has been called before, so that nothing is left to compile.
    threads : int
        With more than one, every contender's pool gets time to go to sleep before the next one starts.
    rounds : int
        Rounds for a contender that is quick enough for `budget`; a slower one sits the last rounds out.
    block : float
        Seconds a short call is repeated for within a round.
    budget : float
        Seconds for one contender, all rounds together.
    dropout : float
        A contender this many times slower than the fastest is timed but once.

    Returns
    -------
    dict of str to list of float
        Seconds a call, one entry a round.
    """
    first = {}
    for name, run in runs.items():
        if threads > 1:
            time.sleep(SETTLE)
        first[name] = glance(run)
    slow = dropout * min(first.values())
    times = {name: [first[name]] if first[name] > min(slow, budget) else [] for name in runs}
    calls = {name: max(1, round(block / first[name])) for name in runs}
    left = {name: 0 if times[name] else budget for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            if left[name] <= 0:
                continue
            if threads > 1:
                time.sleep(SETTLE)
            start = time.perf_counter()
            if first[name] < 0.01:
                run()
            times[name].append(seconds(run, calls[name]))
            left[name] -= time.perf_counter() - start
    return times


def median(times):
    """The median of every contender's rounds."""
    return {name: statistics.median(rounds) for name, rounds in times.items()}
