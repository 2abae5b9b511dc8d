"""Threads above the kernels: releases the GIL, splits a job's units over a team, hands out scratch.

A unit is a row, or a tile of columns; a long row is split by its blocks, which its length alone fixes. Who works
on a unit changes none of its bits. Work goes out in waves, so that Ctrl-C is heard between two of them.
"""

import math
import os
from contextlib import contextmanager

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from cython.parallel cimport prange, threadid
from libc.stdint cimport uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from csoftmax._dispatch cimport kernels_for
from csoftmax._job cimport (
    CROSS_ENTROPY, CROSS_ENTROPY_GRAD, ROWS, SOFTMAX, STATS, Job, Kernels, blocks_scratch, is_extreme, loss_chunk,
)

cdef extern from *:
    """
    #ifdef _OPENMP
    #include <omp.h>
    #define CSM_OPENMP _OPENMP
    #else
    #define CSM_OPENMP 0
    #define omp_get_max_threads() 1
    #endif
    """
    const int CSM_OPENMP
    int omp_get_max_threads() noexcept nogil

cdef extern from "csoftmax/_storage.h":
    enum:
        CSM_F32, CSM_F64

cdef enum:
    SMALL_SCRATCH = 16384
    GIL_ELEMENTS = 4096           # calls below this keep the GIL: letting go would cost more than the work
    THREAD_ELEMENTS = 32768       # elements that are worth a thread of their own
    WAVE_ELEMENTS = 33554432      # elements of a wave, a thread
    LONG_ROW = 262144             # rows from here are worked on by blocks
    MOST_COUNT = 65536            # threads that may be asked for; ...
    MOST_THREADS = 512            # of a team: the OpenMP run time ends the process if it cannot start one

cdef int wanted_threads = 1
cdef bint wanted_by_user = False
cdef int initial_limit = omp_get_max_threads()
cdef bint forked = False


cdef int effective_threads() noexcept nogil:
    # OpenMP's own limit (threadpoolctl, omp_set_num_threads) is obeyed; but where it is the one of import, it cannot
    # be told from none, and a count that the user asked for goes first
    cdef int limit = omp_get_max_threads()
    if forked or not CSM_OPENMP:
        return 1
    if limit > wanted_threads or (wanted_by_user and limit == initial_limit):
        limit = wanted_threads
    return limit if limit < MOST_THREADS else MOST_THREADS


cdef char *aligned(char *p) noexcept nogil:
    return <char *> ((<uintptr_t> p + 63) // 64 * 64)


cdef int run(const Job *job, bint wide) except -1:
    cdef const Kernels *kernels = kernels_for(wide)
    cdef char small[SMALL_SCRATCH]
    cdef Py_ssize_t size, elements = job.rows * job.n
    cdef int threads = 1
    if job.units == 0:
        return 0
    size = (kernels.scratch_bytes(job) + 127) // 64 * 64
    if elements < GIL_ELEMENTS and size < SMALL_SCRATCH - 64:
        kernels.run(job, 0, job.units, aligned(small))
        return 0
    if elements >= 2 * THREAD_ELEMENTS:
        threads = effective_threads()
        if threads > elements // THREAD_ELEMENTS:
            threads = <int> (elements // THREAD_ELEMENTS)
    if by_blocks(job, threads):
        return run_by_blocks(job, kernels, threads)
    return run_units(job, kernels, size, threads)


cdef bint run_lone(int operation, const void *x, const void *p, void *y, Py_ssize_t n, double temperature,
                   bint wide) noexcept:
    return kernels_for(wide).lone(operation, x, p, y, n, temperature)


cdef bint by_blocks(const Job *job, int threads) noexcept:
    if (job.walk != ROWS or job.mask.data != NULL or job.exact or is_extreme(job.operation, job.temperature)
            or job.operation in (CROSS_ENTROPY, CROSS_ENTROPY_GRAD)):
        return False
    return job.n >= LONG_ROW or (job.rows < threads and job.n >= 2 * THREAD_ELEMENTS)


cdef int run_units(const Job *job, const Kernels *kernels, Py_ssize_t size, int threads) except -1:
    # each thread takes whole chunks; a loss needs chunks that no thread count can move
    cdef Py_ssize_t unit_elements = (job.n * job.rows) // job.units + 1
    cdef Py_ssize_t chunk = 1, chunks, wave, first, last, i
    cdef char *scratch
    cdef char *memory
    if threads > job.units:
        threads = <int> job.units
    if job.operation in (CROSS_ENTROPY, CROSS_ENTROPY_GRAD) and job.walk == ROWS:
        chunk = loss_chunk(job.n)
    else:
        chunk = (job.units + threads * 4 - 1) // (threads * 4) if threads > 1 else job.units
        if chunk * unit_elements > WAVE_ELEMENTS:
            chunk = WAVE_ELEMENTS // unit_elements + 1
    chunks = (job.units + chunk - 1) // chunk
    if threads > chunks:
        threads = <int> chunks
    wave = threads * (WAVE_ELEMENTS // (chunk * unit_elements) + 1)
    memory = <char *> malloc(size * threads + 64)
    if memory == NULL:
        raise MemoryError(f"no memory for {size * threads} bytes of scratch")
    scratch = aligned(memory)
    try:
        first = 0
        while first < chunks:
            last = first + wave if first + wave < chunks else chunks
            with nogil:
                if threads == 1:
                    for i in range(first, last):
                        kernels.run(job, i * chunk, min_units(job, (i + 1) * chunk), scratch)
                else:
                    for i in prange(first, last, num_threads=threads, schedule="dynamic", chunksize=1):
                        kernels.run(job, i * chunk, min_units(job, (i + 1) * chunk), scratch + threadid() * size)
            first = last
            if first < chunks:
                PyErr_CheckSignals()
    finally:
        free(memory)
    return 0


cdef inline Py_ssize_t min_units(const Job *job, Py_ssize_t end) noexcept nogil:
    return end if end < job.units else job.units


cdef int run_by_blocks(const Job *job, const Kernels *kernels, int threads) except -1:
    # two passes over the blocks of each row, with the statistics of all its blocks joined between them
    cdef Py_ssize_t blocks = (job.n + kernels.block - 1) // kernels.block, row
    cdef Py_ssize_t size = blocks_scratch(kernels)
    cdef double *stats = <double *> malloc(blocks * STATS * sizeof(double))
    cdef char *memory = <char *> malloc(size * threads + 64)
    cdef char *scratch = aligned(memory)
    try:
        if stats == NULL or memory == NULL:
            raise MemoryError(f"no memory for the {blocks * STATS * sizeof(double)} bytes of a long row's statistics")
        for row in range(job.rows):
            pass_over_blocks(job, kernels, row, blocks, stats, scratch, size, threads, False)
            with nogil:
                kernels.finish(job, row, stats)
            pass_over_blocks(job, kernels, row, blocks, stats, scratch, size, threads, True)
    finally:
        free(stats)
        free(memory)
    return 0


cdef int pass_over_blocks(const Job *job, const Kernels *kernels, Py_ssize_t row, Py_ssize_t blocks, double *stats,
                          char *scratch, Py_ssize_t size, int threads, bint second) except -1:
    cdef Py_ssize_t chunk = 32, chunks = (blocks + 31) // 32
    cdef Py_ssize_t wave = threads * (WAVE_ELEMENTS // (chunk * kernels.block)), first = 0, last, i
    while first < chunks:
        last = first + wave if first + wave < chunks else chunks
        with nogil:
            if threads == 1:
                for i in range(first, last):
                    one_pass(job, kernels, row, i * chunk, blocks, stats, scratch, second)
            else:
                for i in prange(first, last, num_threads=threads, schedule="dynamic", chunksize=1):
                    one_pass(job, kernels, row, i * chunk, blocks, stats, scratch + threadid() * size, second)
        first = last
        PyErr_CheckSignals()
    return 0


cdef inline void one_pass(const Job *job, const Kernels *kernels, Py_ssize_t row, Py_ssize_t begin, Py_ssize_t blocks,
                          double *stats, char *scratch, bint second) noexcept nogil:
    cdef Py_ssize_t end = begin + 32 if begin + 32 < blocks else blocks
    if second:
        kernels.write(job, row, begin, end, stats, scratch)
    else:
        kernels.measure(job, row, begin, end, stats, scratch)


# ---------------------------------------------------------------------------------------------- how many

def quota_cpus():
    """CPUs that this process's cgroup may use, rounded up; None without a quota."""
    try:
        with open("/sys/fs/cgroup/cpu.max") as f:
            quota, period = f.read().split()
        return None if quota == "max" else max(1, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):
        pass
    try:
        with open("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") as f:
            quota = int(f.read())
        with open("/sys/fs/cgroup/cpu/cpu.cfs_period_us") as f:
            period = int(f.read())
        return None if quota <= 0 else max(1, math.ceil(quota / period))
    except (OSError, ValueError, ZeroDivisionError):
        return None


def usable_cpus():
    """CPUs this process may use: its affinity, within the cgroup's quota."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = quota_cpus()
    return cpus if quota is None else min(cpus, quota)


def default_threads():
    """Thread count from the environment, else every CPU this process may use."""
    for name in ("CSOFTMAX_NUM_THREADS", "OMP_NUM_THREADS"):
        text = os.environ.get(name, "").split(",")[0].strip()
        if text.isdecimal() and len(text) < 10 and 1 <= int(text) <= MOST_COUNT:
            return int(text)
        if text and name == "CSOFTMAX_NUM_THREADS":
            raise ImportError(f"CSOFTMAX_NUM_THREADS={text!r} is not an integer from 1 to {MOST_COUNT}")
    return usable_cpus()


def openmp_version():
    """The OpenMP specification date (yyyymm) of the build, or 0 where it has no threads."""
    return CSM_OPENMP


def get_num_threads():
    """Number of threads a large call may use.

    Returns
    -------
    int
        The count set, or 1 in a forked child, where an OpenMP team could not start.

    Examples
    --------
    >>> import csoftmax
    >>> csoftmax.get_num_threads() >= 1
    True
    """
    return 1 if forked or not CSM_OPENMP else wanted_threads


def set_num_threads(n):
    """Set the number of threads a large call may use, for the whole process.

    A lower limit that is set on OpenMP afterwards, as by threadpoolctl, holds too, unless it is the one that OpenMP
    had at import.

    Parameters
    ----------
    n : int
        From 1 up; more than the CPUs too. Small calls use fewer.

    Raises
    ------
    TypeError
        If `n` is not an integer.
    ValueError
        If `n` is below 1.

    Examples
    --------
    >>> import csoftmax
    >>> before = csoftmax.get_num_threads()
    >>> csoftmax.set_num_threads(1)
    >>> csoftmax.get_num_threads()
    1
    >>> csoftmax.set_num_threads(before)
    """
    global wanted_threads, wanted_by_user
    if isinstance(n, bool) or not hasattr(type(n), "__index__") or getattr(n, "ndim", 0):
        raise TypeError(f"the number of threads must be an integer, not {type(n).__name__}")
    count = n.__index__()
    if not 1 <= count <= MOST_COUNT:
        given = count if abs(count) < 10**20 else "a number of more than 20 digits"
        raise ValueError(f"the number of threads must be from 1 to {MOST_COUNT}, not {given}")
    wanted_threads = count
    wanted_by_user = True


@contextmanager
def threads(n):
    """Use `n` threads within a ``with`` block.

    Parameters
    ----------
    n : int
        As for `set_num_threads`.

    Examples
    --------
    >>> import csoftmax
    >>> with csoftmax.threads(1):
    ...     csoftmax.get_num_threads()
    1
    """
    global wanted_threads, wanted_by_user
    before = wanted_threads, wanted_by_user
    set_num_threads(n)
    try:
        yield
    finally:
        wanted_threads, wanted_by_user = before


def after_fork_in_child():
    """The pool of OpenMP's threads does not survive a fork: a team started in the child would wait for ever."""
    global forked
    forked = True


wanted_threads = default_threads()
wanted_by_user = bool(os.environ.get("CSOFTMAX_NUM_THREADS", "").strip())
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=after_fork_in_child)


# -------------------------------------------------------------------------------------------------- buffers

def softmax_rows(const cython.floating[:, ::1] x not None, cython.floating[:, ::1] out not None):
    """Softmax of each row of `x` into `out`, of any objects with buffers: `x` itself, or apart from it."""
    cdef Job job
    cdef Py_ssize_t size = sizeof(cython.floating)
    if x.shape[0] != out.shape[0] or x.shape[1] != out.shape[1]:
        raise ValueError(f"out has shape {(out.shape[0], out.shape[1])}, but x has {(x.shape[0], x.shape[1])}")
    if x.shape[0] == 0 or x.shape[1] == 0:
        return
    memset(&job, 0, sizeof(Job))
    job.operation = SOFTMAX
    job.walk = ROWS
    job.direct = True
    job.temperature = 1
    job.n = job.axis_shape[0] = x.shape[1]
    job.rows = job.units = job.batch_shape[0] = x.shape[0]
    job.axis_ndim = job.batch_ndim = job.width = 1
    job.x.data = <char *> &x[0, 0]
    job.y.data = <char *> &out[0, 0]
    job.x.storage = job.y.storage = CSM_F64 if size == 8 else CSM_F32
    job.x.axis[0] = job.y.axis[0] = size
    job.x.batch[0] = job.y.batch[0] = job.n * size
    run(&job, size == 8)
