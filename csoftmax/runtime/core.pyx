"""Above the kernels: releases the GIL, shares a job's units out to the pool's threads, hands out scratch.

A unit is a row, or a tile of columns; a long row is split by its blocks, which its length alone fixes. Who works
on a unit changes none of its bits. Work goes out in waves, so that Ctrl-C is heard between two of them.
"""

from contextlib import contextmanager

from csoftmax.runtime import cpus as _cpus

cimport cython
from cpython.contextvars cimport PyContextVar_New, get_value
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport uintptr_t
from libc.stdlib cimport free, malloc

from csoftmax.runtime.dispatch cimport kernels_for
from csoftmax.kernels.problem cimport (
    COLUMNS, CROSS_ENTROPY, CROSS_ENTROPY_GRAD, LOG_SOFTMAX, LOG_SOFTMAX_JVP, LOG_SOFTMAX_VJP, LOGSUMEXP, OPERATIONS,
    ROWS, SOFTMAX, SOFTMAX_GRAD, STATS, Job, Kernels, init_job, is_extreme, loss_chunk, set_operand,
    set_rows,
)

cdef extern from "csoftmax/_storage.h":
    enum:
        CSM_F32, CSM_F64

cdef extern from "pool.h" nogil:
    void watch_forks "csm_pool_watch_forks"() noexcept
    void share_out "csm_pool_run"(void (*run)(void *, Py_ssize_t, int) noexcept nogil, void *, Py_ssize_t chunks,
                                  int threads) noexcept
    int useful_threads "csm_pool_useful"(int threads, double ns) noexcept
    int count_workers "csm_pool_workers"() noexcept

cdef extern from "float_mode.h" nogil:
    unsigned long long CSM_DEFAULT_MODE
    unsigned long long enter_mode "csm_enter_mode"() noexcept
    void leave_mode "csm_leave_mode"(unsigned long long) noexcept

# What threadpoolctl finds in this module; csoftmax/runtime/threadpoolctl.py says how.
cdef extern from *:
    """
    #if defined(_WIN32)
    #define CSM_EXPORT __declspec(dllexport)
    #else
    #define CSM_EXPORT __attribute__((visibility("default")))
    #endif
    static int csm_default_threads = 1;    /* of the process, as set_num_threads or the environment has it */
    static int csm_limit = 0;              /* what threadpoolctl has set since, or 0 */
    CSM_EXPORT int csoftmax_get_num_threads(void) { return csm_limit ? csm_limit : csm_default_threads; }
    CSM_EXPORT void csoftmax_set_num_threads(int n) {
        csm_limit = n == csm_default_threads ? 0 : n < 1 ? 1 : n;
    }
    """
    int default_threads "csm_default_threads"
    int limit "csm_limit"
    int process_threads "csoftmax_get_num_threads"() noexcept nogil

cdef enum:
    SMALL_SCRATCH = 16384
    GIL_ELEMENTS = 4096           # calls below this keep the GIL: letting go would cost more than the work
    SPLIT_ROW = 32768             # rows from here are worked on by blocks where there are fewer than threads
    LONG_ROW = 262144             # rows from here always are
    WAVE_ELEMENTS = 33554432      # elements of a wave, a thread
    BLOCKS = 32                   # of a long row, in a chunk
    SHARES = 4                    # chunks a thread at least, so that who is late or slow holds up none
    CHUNK_NS = 100000             # time that a chunk may take if it can be smaller
    WIDE_CHUNK = 128              # units of larger chunks than this ...
    ALIGNED_UNITS = 16            # ... come in multiples of this: the rows that kernels take together
    MOST_CHUNKS = 1073741824
    MOST_COUNT = 65536            # threads that may be asked for

# ------------------------------------------------------------------------------------------------ how long

# ns an element on one thread with vectors of 16 lanes, of contiguous reals in the cache
cdef double[<int> OPERATIONS] ELEMENT_NS
ELEMENT_NS[<int> SOFTMAX] = 0.24
ELEMENT_NS[<int> LOG_SOFTMAX] = 0.24
ELEMENT_NS[<int> LOGSUMEXP] = 0.2
ELEMENT_NS[<int> SOFTMAX_GRAD] = 0.16
ELEMENT_NS[<int> LOG_SOFTMAX_VJP] = 0.24
ELEMENT_NS[<int> LOG_SOFTMAX_JVP] = 0.24
ELEMENT_NS[<int> CROSS_ENTROPY] = 0.2
ELEMENT_NS[<int> CROSS_ENTROPY_GRAD] = 0.28
cdef double ROW_NS = 10           # and a row
cdef double STAGED = 2            # times as long if it must be gathered, ...
cdef double DOWN = 1.5            # ... or walked down its columns
cdef double BORDER_NS = 500       # what a row costs two threads that have neighbouring columns of it in their caches
cdef double CACHED_BYTES = 4e6    # of arrays that are in them, call after call


cdef double time_of(const Job *job, const Kernels *kernels) noexcept nogil:
    """Nanoseconds that one thread takes for the job, to a factor of two."""
    cdef double element = ELEMENT_NS[job.operation] * 16 / kernels.lanes
    if not job.direct:
        element *= STAGED
    if job.walk == COLUMNS:
        return job.rows * job.n * element * DOWN
    return job.rows * (job.n * element + ROW_NS)


cdef double cost_of_borders(const Job *job, int threads) noexcept nogil:
    """Nanoseconds that threads lose together to tiles of columns whose rows lie in the same lines of the cache."""
    cdef double size = 8 if job.wide else 4, operands = 1 + (job.p.data != NULL) + (job.y.data != NULL)
    if (job.walk == ROWS or job.rows >= threads * job.batch_shape[job.batch_ndim - 1]
            or size * operands * job.rows * job.n > CACHED_BYTES):
        return 0
    return job.n * BORDER_NS


# ------------------------------------------------------------------------------------------------- its run

cdef class Mode:
    """Puts a floating-point mode back when it is forgotten."""
    cdef unsigned long long mode

    def __dealloc__(self):
        leave_mode(self.mode)


cdef object default_mode():
    """Sets the default floating-point mode: until what is returned is forgotten, if the caller had another."""
    cdef unsigned long long mode = enter_mode()
    cdef Mode caller
    if mode == CSM_DEFAULT_MODE:
        return None
    caller = Mode.__new__(Mode)
    caller.mode = mode
    return caller


cdef char *aligned(char *p) noexcept nogil:
    return <char *> ((<uintptr_t> p + 63) // 64 * 64)


cdef int run(const Job *job) except -1:
    cdef const Kernels *kernels = kernels_for(job.wide)
    cdef char small[SMALL_SCRATCH]
    cdef Py_ssize_t size
    cdef int threads
    cdef double ns
    cdef unsigned long long mode
    if job.units == 0:
        return 0
    mode = enter_mode()
    size = (kernels.scratch_bytes(job) + 127) // 64 * 64
    if job.rows * job.n < GIL_ELEMENTS and size < SMALL_SCRATCH - 64:
        kernels.run(job, 0, job.units, aligned(small))
        leave_mode(mode)
        return 0
    try:
        ns = time_of(job, kernels)
        threads = effective_threads()
        threads = useful_threads(threads, ns - cost_of_borders(job, threads))
        if by_blocks(job, threads):
            return run_by_blocks(job, kernels, threads)
        return run_units(job, kernels, size, threads, ns)
    finally:
        leave_mode(mode)


cdef bint run_lone(int operation, const void *x, const void *p, void *y, Py_ssize_t n, double temperature,
                   bint wide) noexcept:
    cdef unsigned long long mode = enter_mode()
    cdef bint done = kernels_for(wide).lone(operation, x, p, y, n, temperature)
    leave_mode(mode)
    return done


cdef bint is_loss(const Job *job) noexcept nogil:
    return job.operation == CROSS_ENTROPY or job.operation == CROSS_ENTROPY_GRAD


cdef bint by_blocks(const Job *job, int threads) noexcept:
    if (job.walk != ROWS or job.mask.data != NULL or job.exact or is_extreme(job.operation, job.temperature)
            or is_loss(job)):
        return False
    return job.n >= LONG_ROW or (job.rows < threads and job.n >= SPLIT_ROW)


cdef struct Share:
    # what the threads of a call have in common; of one wave
    const Job *job
    const Kernels *kernels
    char *scratch                 # `size` bytes a thread
    Py_ssize_t size
    Py_ssize_t first              # chunk of the wave
    Py_ssize_t chunk              # units in a chunk
    Py_ssize_t row                # of those below: a long row by its blocks, of which a chunk has BLOCKS
    Py_ssize_t blocks
    double *stats
    bint second                   # pass


cdef char *scratch_for(Py_ssize_t size, int *threads) except NULL:
    """Memory for so many threads, or for fewer if there is not so much."""
    cdef char *memory
    while True:
        memory = <char *> malloc(size * threads[0] + 64)
        if memory != NULL:
            return memory
        if threads[0] == 1:
            raise MemoryError(f"no memory for {size} bytes of scratch")
        threads[0] = threads[0] // 2


cdef Py_ssize_t units_of_chunk(const Job *job, int threads, double ns) noexcept nogil:
    """So many units that every thread gets several chunks, none of which takes long. A loss is summed by chunks whose
    size no thread count may move: it gets whole ones of those.
    """
    cdef Py_ssize_t least = loss_chunk(job.n) if is_loss(job) and job.walk == ROWS else 1, units = job.units, chunks
    cdef Py_ssize_t unit_elements = (job.n * job.rows) // job.units + 1
    if threads > 1:
        # as many for each thread; the pool counts them in 31 bits
        chunks = threads * <Py_ssize_t> min(max(ns / (CHUNK_NS * threads) + 1, SHARES), MOST_CHUNKS // threads)
        units = (job.units + chunks - 1) // chunks
        if units > WIDE_CHUNK:
            units = (units + ALIGNED_UNITS - 1) // ALIGNED_UNITS * ALIGNED_UNITS
    if units * unit_elements > WAVE_ELEMENTS:
        units = WAVE_ELEMENTS // unit_elements + 1
    return max(least, units // least * least)


cdef int run_units(const Job *job, const Kernels *kernels, Py_ssize_t size, int threads, double ns) except -1:
    cdef Share share
    cdef char *memory
    threads = <int> min(threads, job.units)
    memory = scratch_for(size, &threads)
    share.job = job
    share.kernels = kernels
    share.scratch = aligned(memory)
    share.size = size
    share.chunk = units_of_chunk(job, threads, ns)
    try:
        run_waves(&share, one_chunk, (job.units + share.chunk - 1) // share.chunk, threads,
                  WAVE_ELEMENTS // (share.chunk * ((job.n * job.rows) // job.units + 1)) + 1)
    finally:
        free(memory)
    return 0


cdef int run_waves(Share *share, void (*work)(void *, Py_ssize_t, int) noexcept nogil, Py_ssize_t chunks, int threads,
                   Py_ssize_t wave) except -1:
    """All chunks, so many a thread at a time; between two waves Ctrl-C is heard."""
    cdef Py_ssize_t count
    share.first = 0
    while share.first < chunks:
        count = min(threads * wave, chunks - share.first)
        with nogil:
            share_out(work, share, count, threads)
        share.first += count
        if share.first < chunks:
            PyErr_CheckSignals()
    return 0


cdef void one_chunk(void *work, Py_ssize_t i, int slot) noexcept nogil:
    cdef const Share *share = <const Share *> work
    cdef Py_ssize_t begin = (share.first + i) * share.chunk
    share.kernels.run(share.job, begin, min(begin + share.chunk, share.job.units), share.scratch + slot * share.size)


cdef int run_by_blocks(const Job *job, const Kernels *kernels, int threads) except -1:
    # two passes over the blocks of each row, with the statistics of all its blocks joined between them
    cdef Share share
    cdef Py_ssize_t chunks, wave = WAVE_ELEMENTS // (BLOCKS * kernels.block)
    cdef char *memory = NULL
    share.job = job
    share.kernels = kernels
    share.size = (kernels.block_scratch + 63) // 64 * 64
    share.blocks = (job.n + kernels.block - 1) // kernels.block
    share.stats = <double *> malloc(share.blocks * STATS * sizeof(double))
    try:
        if share.stats == NULL:
            raise MemoryError(f"no memory for the {share.blocks * STATS * sizeof(double)} bytes of a long row's "
                              "statistics")
        memory = scratch_for(share.size, &threads)
        share.scratch = aligned(memory)
        chunks = (share.blocks + BLOCKS - 1) // BLOCKS
        for share.row in range(job.rows):
            share.second = False
            run_waves(&share, some_blocks, chunks, threads, wave)
            with nogil:
                kernels.finish(job, share.row, share.stats)
            PyErr_CheckSignals()
            share.second = True
            run_waves(&share, some_blocks, chunks, threads, wave)
            PyErr_CheckSignals()
    finally:
        free(share.stats)
        free(memory)
    return 0


cdef void some_blocks(void *work, Py_ssize_t i, int slot) noexcept nogil:
    cdef const Share *share = <const Share *> work
    cdef Py_ssize_t begin = (share.first + i) * BLOCKS, end = min(begin + BLOCKS, share.blocks)
    cdef char *scratch = share.scratch + slot * share.size
    if share.second:
        share.kernels.write(share.job, share.row, begin, end, share.stats, scratch)
    else:
        share.kernels.measure(share.job, share.row, begin, end, share.stats, scratch)


# ---------------------------------------------------------------------------------------------- how many

cdef object of_context = PyContextVar_New("csoftmax.threads", NULL)
cdef bint contexts_used = False   # threads() has been entered, ever: else nobody need look
cdef str origin                   # where the process's number comes from


cdef int effective_threads() noexcept:
    cdef int n
    if contexts_used:
        asked = get_value(of_context, None)
        if asked is not None:
            n = asked
            return limit if 0 < limit < min(n, default_threads) else n
    return process_threads()


def get_num_threads():
    """Number of threads a large call may use.

    Returns
    -------
    int
        Of the innermost `threads` block that is open in this context, else of the process.

    Examples
    --------
    >>> import csoftmax
    >>> csoftmax.get_num_threads() >= 1
    True
    """
    return effective_threads()


def thread_origin():
    """Where `get_num_threads` has its number from."""
    if contexts_used and get_value(of_context, None) is not None and effective_threads() == get_value(of_context, None):
        return "threads()"
    return "threadpoolctl" if limit else origin


def workers():
    """How many threads this process has made so far, beside its own."""
    return count_workers()


cdef int as_count(object n) except -1:
    if isinstance(n, bool) or not hasattr(type(n), "__index__") or getattr(n, "ndim", 0):
        raise TypeError(f"the number of threads must be an integer, not {type(n).__name__}")
    count = n.__index__()
    if not 1 <= count <= MOST_COUNT:
        given = count if abs(count) < 10**20 else "a number of more than 20 digits"
        raise ValueError(f"the number of threads must be from 1 to {MOST_COUNT}, not {given}")
    return count


def set_num_threads(n):
    """Set the number of threads a large call may use, for the whole process.

    It counts from now on, also against a limit that threadpoolctl has set before, but not within a `threads` block.

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
    global default_threads, limit, origin
    default_threads = as_count(n)
    limit = 0
    origin = "set_num_threads"


@contextmanager
def threads(n):
    """Use `n` threads within a ``with`` block.

    The number is of the calling context, a `contextvars.Context`: of this Python thread and, under asyncio, of this
    task and those that it starts. Other threads do not see it.
    Blocks of one context must be left in the reverse order of entering them, as nested ``with`` statements are: of two
    generators that overlap, the one that is closed last restores what it found.

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
    global contexts_used
    token = of_context.set(as_count(n))
    contexts_used = True
    try:
        yield
    finally:
        try:
            of_context.reset(token)
        except ValueError:
            pass  # closed in another context than it was opened in, where it was never set


watch_forks()
default_threads, origin = _cpus.default_threads(MOST_COUNT)


# -------------------------------------------------------------------------------------------------- buffers

def softmax_rows(const cython.floating[:, ::1] x not None, cython.floating[:, ::1] out not None):
    """Softmax of each row of `x` into `out`, of any objects with buffers: `x` itself, or apart from it."""
    cdef Job job
    cdef Py_ssize_t size = sizeof(cython.floating)
    if x.shape[0] != out.shape[0] or x.shape[1] != out.shape[1]:
        raise ValueError(f"out has shape {(out.shape[0], out.shape[1])}, but x has {(x.shape[0], x.shape[1])}")
    if x.shape[0] == 0 or x.shape[1] == 0:
        return
    init_job(&job, SOFTMAX, 1, size == 8)
    set_rows(&job, x.shape[0], x.shape[1])
    set_operand(&job.x, CSM_F64 if size == 8 else CSM_F32, &x[0, 0], job.n * size, size)
    set_operand(&job.y, CSM_F64 if size == 8 else CSM_F32, &out[0, 0], job.n * size, size)
    job.direct = True
    run(&job)
