"""Above the kernels: releases the GIL, shares a problem's units out to the pool's threads, hands out scratch.

A unit is a row, or a tile of columns; a split row is shared out by its blocks, which its length alone fixes. How a
problem is worked on has been chosen before (plan/strategy.pyx), its threads and chunks too. Who works on a unit changes
none of its bits. Work goes out in waves, so that Ctrl-C is heard between two of them.
"""

from contextlib import contextmanager

from csoftmax.runtime import cpus as _cpus

from cpython.contextvars cimport PyContextVar_New, get_value
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport uintptr_t
from libc.stdlib cimport free, malloc

from csoftmax.kernels.problem cimport (
    SPLIT_BLOCKS, SPLIT_ROW, STATS, WAVE_ELEMENTS, Problem, Kernels, is_single_row, is_small,
)
from csoftmax.runtime.dispatch cimport kernels_for

cdef extern from "pool.h" nogil:
    void watch_forks "csm_pool_watch_forks"() noexcept
    void run_chunks "csm_pool_run"(void (*run)(void *, Py_ssize_t, int) noexcept nogil, void *, Py_ssize_t chunks,
                                   int threads) noexcept
    int pool_useful "csm_pool_useful"(int threads, double ns) noexcept
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
    SMALL_SCRATCH = 16384         # bytes of scratch on the stack of a call that keeps the GIL
    MOST_COUNT = 65536            # threads that may be asked for

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


cdef int run(const Problem *problem) except -1:
    cdef char small[SMALL_SCRATCH]
    cdef Py_ssize_t size
    cdef unsigned long long mode
    if problem.units == 0:
        return 0
    mode = enter_mode()
    size = (problem.kernels.scratch_bytes(problem) + 127) // 64 * 64
    if is_small(problem) and size < SMALL_SCRATCH - 64:
        # letting go of the GIL, or asking for memory, would cost more than the work
        problem.kernels.run(problem, 0, problem.units, aligned(small))
        leave_mode(mode)
        return 0
    try:
        return run_split(problem) if problem.strategy == SPLIT_ROW else run_units(problem, size)
    finally:
        leave_mode(mode)


cdef bint run_single(int operation, const void *x, const void *p, void *y, Py_ssize_t n, double temperature,
                     bint wide) noexcept:
    cdef const Kernels *kernels = kernels_for(wide)
    cdef unsigned long long mode
    cdef bint done
    if not is_single_row(kernels, operation, n, temperature):
        return False
    mode = enter_mode()
    done = kernels.single(operation, x, p, y, n, temperature)
    leave_mode(mode)
    return done


# What the threads of a call have in common, during one wave.
cdef struct Call:
    const Problem *problem
    char *scratch                 # `size` bytes a thread
    Py_ssize_t size
    Py_ssize_t first              # chunk of the wave
    Py_ssize_t row                # SPLIT_ROW: the row under way, a chunk of which is SPLIT_BLOCKS of its blocks
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


cdef int run_units(const Problem *problem, Py_ssize_t size) except -1:
    """The problem's units by chunks, in `size` bytes of scratch a thread."""
    cdef Call call
    cdef char *memory
    cdef int threads = problem.threads
    memory = scratch_for(size, &threads)
    call.problem = problem
    call.scratch = aligned(memory)
    call.size = size
    try:
        run_waves(&call, one_chunk, (problem.units + problem.chunk - 1) // problem.chunk, threads,
                  WAVE_ELEMENTS // (problem.chunk * ((problem.n * problem.rows) // problem.units + 1)) + 1)
    finally:
        free(memory)
    return 0


cdef int run_waves(Call *call, void (*one)(void *, Py_ssize_t, int) noexcept nogil, Py_ssize_t chunks, int threads,
                   Py_ssize_t wave) except -1:
    """All chunks, so many a thread at a time; between two waves Ctrl-C is heard."""
    cdef Py_ssize_t count
    call.first = 0
    while call.first < chunks:
        count = min(threads * wave, chunks - call.first)
        with nogil:
            run_chunks(one, call, count, threads)
        call.first += count
        if call.first < chunks:
            PyErr_CheckSignals()
    return 0


cdef void one_chunk(void *work, Py_ssize_t i, int slot) noexcept nogil:
    cdef const Call *call = <const Call *> work
    cdef const Problem *problem = call.problem
    cdef Py_ssize_t begin = (call.first + i) * problem.chunk
    problem.kernels.run(problem, begin, min(begin + problem.chunk, problem.units), call.scratch + slot * call.size)


cdef int run_split(const Problem *problem) except -1:
    """Two passes over the blocks of each row, with the statistics of all its blocks joined between them."""
    cdef const Kernels *kernels = problem.kernels
    cdef Call call
    cdef Py_ssize_t chunks, wave = WAVE_ELEMENTS // (SPLIT_BLOCKS * kernels.block)
    cdef int threads = problem.threads
    cdef char *memory = NULL
    call.problem = problem
    call.size = (kernels.block_scratch + 63) // 64 * 64
    call.blocks = (problem.n + kernels.block - 1) // kernels.block
    call.stats = <double *> malloc(call.blocks * STATS * sizeof(double))
    try:
        if call.stats == NULL:
            raise MemoryError(f"no memory for the {call.blocks * STATS * sizeof(double)} bytes of a long row's "
                              "statistics")
        memory = scratch_for(call.size, &threads)
        call.scratch = aligned(memory)
        chunks = (call.blocks + SPLIT_BLOCKS - 1) // SPLIT_BLOCKS
        for call.row in range(problem.rows):
            call.second = False
            run_waves(&call, some_blocks, chunks, threads, wave)
            with nogil:
                kernels.finish(problem, call.row, call.stats)
            PyErr_CheckSignals()
            call.second = True
            run_waves(&call, some_blocks, chunks, threads, wave)
            PyErr_CheckSignals()
    finally:
        free(call.stats)
        free(memory)
    return 0


cdef void some_blocks(void *work, Py_ssize_t i, int slot) noexcept nogil:
    cdef const Call *call = <const Call *> work
    cdef const Kernels *kernels = call.problem.kernels
    cdef Py_ssize_t begin = (call.first + i) * SPLIT_BLOCKS, end = min(begin + SPLIT_BLOCKS, call.blocks)
    cdef char *scratch = call.scratch + slot * call.size
    if call.second:
        kernels.write(call.problem, call.row, begin, end, call.stats, scratch)
    else:
        kernels.measure(call.problem, call.row, begin, end, call.stats, scratch)


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


cdef int useful_threads(int threads, double ns) noexcept nogil:
    return pool_useful(threads, ns)


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
