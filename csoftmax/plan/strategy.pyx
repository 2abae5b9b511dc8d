"""How a problem is worked on, from its shape, strides, dtypes and threads: the one place where a strategy is chosen.

Short rows are packed, or a single one stays in registers; longer ones are a batch, and long ones are split by their
blocks where threads would be idle. Where the axis is strided but a batch dimension lies closer, tiles of neighbouring
columns are swept down the axis. What is not native reals with unit stride is staged, but for rows of 16-bit floats, and
masked ones, that the kernels load a block at a time where they lie. The choice is carried in the problem, and the
kernels and the core obey it. It changes none of a row's bits, which depend on its length, its dtype and the ISA level
alone.
"""

import os
import sys

from csoftmax.runtime.dispatch import get_isa

from libc.stdint cimport uintptr_t

from csoftmax.kernels.problem cimport (
    COLUMN_TILES, CROSS_ENTROPY, CROSS_ENTROPY_GRAD, DIRECT, FOR_ALIGNMENT, FOR_BYTE_ORDER, FOR_DTYPES,
    FOR_HALVES, FOR_INTEGERS, FOR_MASK, FOR_STRIDES, FOR_TEMPERATURE, LOADED, LOG_SOFTMAX, LOG_SOFTMAX_JVP,
    LOG_SOFTMAX_VJP, LOGSUMEXP, NOT_STAGED, OPERANDS, OPERATIONS, PACKED_ROWS, ROW_BATCH, SINGLE_ROW, SOFTMAX,
    SOFTMAX_GRAD, SPLIT_BLOCKS, SPLIT_ROW, STAGED, WAVE_ELEMENTS, Kernels, Problem, View, is_derivative, is_extreme,
    is_loss, is_single_row, is_small, loss_chunk,
)
from csoftmax.runtime.core cimport effective_threads, useful_threads
from csoftmax.runtime.dispatch cimport kernels_for

cdef extern from "csoftmax/simd/storage.h":
    enum:
        CSM_F16, CSM_BF16, CSM_F32, CSM_F64, CSM_B1, CSM_I8, CSM_U8, CSM_I16, CSM_U16, CSM_I32, CSM_U32, CSM_SWAPPED

cdef extern from "csoftmax/simd/cpu.h":
    int csm_cpu_streams()

cdef enum:
    PACKED_LEAST = 4              # fewer short rows beside each other are not worth packing
    SPLIT_LEAST = 32768           # rows from here are split where there are fewer than threads
    SPLIT_ALWAYS = 262144         # rows from here always are

cdef enum:
    TILE_BYTES = 327680           # of the rows and results of a tile of columns, for its sweeps to find them in L2, ...
    TILE_LEAST_BYTES = 1024       # ... which one row of it must reach ...
    TILE_MOST_BYTES = 4096        # ... and need not exceed
    SWEEP_ROW_BYTES = 8128        # of one row of a taller tile
    SWEEP_ELEMENTS = 8388608      # of all of such a tile
    GATHERED_BYTES = 262144       # of the rows of a tile that is gathered in scratch, ...
    GATHERED_ROW_BYTES = 2048     # ... one of which need not exceed this
    NEAR_GATHERED_BYTES = 32768   # the same for scratch on a stack
    NEAR_ROW_BYTES = 512          # ... and of one row of any tile
    RIVAL_BYTES = 2048            # rows at a multiple of this compete for the same lines of the cache
    NARROW = 4                    # fewer neighbouring columns than this are gathered as rows


# ------------------------------------------------------------------------------------------ operands and memory

def stream_bytes_wanted():
    """Size from which results are stored past the caches: ``CSOFTMAX_STREAM_BYTES``, else what suits this CPU."""
    text = os.environ.get("CSOFTMAX_STREAM_BYTES")
    if not text:
        return 32 << 20 if csm_cpu_streams() else sys.maxsize
    if not text.isdecimal() or len(text) > 100:
        raise ImportError(f"CSOFTMAX_STREAM_BYTES must be a number of bytes, not {text[:100]!r}")
    return min(int(text), sys.maxsize)


cdef Py_ssize_t stream_bytes = stream_bytes_wanted()


cdef Py_ssize_t item_size(int storage) noexcept nogil:
    cdef int kind = storage & ~CSM_SWAPPED
    if kind == CSM_F16 or kind == CSM_BF16 or kind == CSM_I16 or kind == CSM_U16:
        return 2
    if kind == CSM_F32 or kind == CSM_I32 or kind == CSM_U32:
        return 4
    if kind == CSM_B1 or kind == CSM_I8 or kind == CSM_U8:
        return 1
    return 8


cdef int dtype_reason(const View *o, bint wide) noexcept nogil:
    """Why the operand's dtype is not that of the arithmetic, or NOT_STAGED."""
    cdef int kind = o.storage & ~CSM_SWAPPED
    if o.data == NULL or o.storage == (CSM_F64 if wide else CSM_F32):
        return NOT_STAGED
    if kind == CSM_F16 or kind == CSM_BF16:
        return FOR_HALVES
    if kind == CSM_F32 or kind == CSM_F64:
        return FOR_BYTE_ORDER if o.storage & CSM_SWAPPED else FOR_DTYPES
    return FOR_INTEGERS


cdef inline Py_ssize_t batch_stride(const Problem *problem, const View *o, int d) noexcept nogil:
    return o.row if d == problem.batch_ndim - 1 else o.batch[d]


cdef bint is_aligned(const Problem *problem, const View *o, Py_ssize_t size) noexcept nogil:
    """The operand lies at a multiple of `size`, and its strides are such multiples."""
    cdef int d
    if o.data == NULL:
        return True
    if <uintptr_t> o.data & (size - 1):
        return False
    for d in range(problem.batch_ndim):
        if batch_stride(problem, o, d) & (size - 1):
            return False
    for d in range(problem.axis_ndim - 1):
        if o.axis[d] & (size - 1):
            return False
    return o.step & (size - 1) == 0


cdef inline bint unit_axis(const View *o) noexcept nogil:
    return o.data == NULL or o.step == item_size(o.storage)


cdef inline bint unit_batch(const Problem *problem, const View *o, int d) noexcept nogil:
    return o.data == NULL or batch_stride(problem, o, d) == item_size(o.storage)


cdef bint unit_across(const Problem *problem, int d) noexcept nogil:
    """Neighbours along batch dimension `d` are neighbours in memory."""
    return (unit_batch(problem, &problem.x, d) and unit_batch(problem, &problem.p, d)
            and unit_batch(problem, &problem.y, d))


cdef inline Py_ssize_t distance(Py_ssize_t stride) noexcept nogil:
    return stride if stride >= 0 else -stride


cdef int columns_dimension(const Problem *problem) noexcept nogil:
    """The batch dimension whose neighbours are to be neighbouring columns, or -1: the last one with unit strides, else
    the one that lies closest, if it lies closer than the axis does.
    """
    cdef int d, closest = -1
    cdef Py_ssize_t stride, least = 0
    for d in range(problem.batch_ndim - 1, -1, -1):
        if (problem.inner if d == problem.batch_ndim - 1 else problem.batch_shape[d]) < NARROW:
            continue
        if unit_across(problem, d):
            return d
        stride = distance(batch_stride(problem, &problem.x, d))
        if stride != 0 and (closest < 0 or stride < least):
            closest = d
            least = stride
    if closest >= 0 and least < distance(problem.x.step):
        return closest
    return -1


cdef void make_last(Problem *problem, int d) noexcept nogil:
    """Batch dimension `d` becomes the innermost one."""
    cdef int j, last = problem.batch_ndim - 1
    cdef View *operands[OPERANDS]
    if d == last:
        return
    operands[:] = [&problem.x, &problem.p, &problem.y, &problem.mask, &problem.target, &problem.upstream,
                   &problem.row_loss]
    problem.inner = move_last(problem.batch_shape, d, last)
    for j in range(OPERANDS):
        if operands[j].data != NULL:
            operands[j].row = move_last(operands[j].batch, d, last)


cdef Py_ssize_t move_last(Py_ssize_t *sizes, int d, int last) noexcept nogil:
    """Moves one number behind those that follow it, and returns it."""
    cdef Py_ssize_t size = sizes[d]
    cdef int i
    for i in range(d, last):
        sizes[i] = sizes[i + 1]
    sizes[last] = size
    return size


cdef int staged_for(const Problem *problem, bint unit) noexcept nogil:
    """Why rows or columns cannot be read and written where they lie, or NOT_STAGED; `unit`: they lie at unit stride."""
    cdef Py_ssize_t size = 8 if problem.wide else 4
    cdef int reason = dtype_reason(&problem.x, problem.wide)
    if reason == NOT_STAGED:
        reason = dtype_reason(&problem.p, problem.wide)
    if reason == NOT_STAGED:
        reason = dtype_reason(&problem.y, problem.wide)
    if reason != NOT_STAGED:
        return reason
    if problem.mask.data != NULL:
        return FOR_MASK
    if is_extreme(problem.operation, problem.temperature):
        return FOR_TEMPERATURE
    if not (is_aligned(problem, &problem.x, size) and is_aligned(problem, &problem.p, size)
            and is_aligned(problem, &problem.y, size)):
        return FOR_ALIGNMENT
    return NOT_STAGED if unit else FOR_STRIDES


cdef bint are_contiguous(const Problem *problem, const View *o, int storage) noexcept nogil:
    """The operand's rows are aligned elements of that storage, next to each other."""
    cdef Py_ssize_t size = item_size(storage)
    return o.data == NULL or (o.storage == storage and o.step == size and is_aligned(problem, o, size))


cdef bint can_load(const Problem *problem) noexcept nogil:
    """Rows of 16-bit floats, or masked ones, that the kernels load where they lie, a block at a time."""
    cdef const Kernels *kernels = problem.kernels
    cdef int storage = problem.x.storage
    if (not kernels.loads[problem.operation] or problem.n <= kernels.short_row or problem.axis_ndim > 1
            or problem.rescaled):
        return False
    if problem.mask.data != NULL:
        if (storage != (CSM_F64 if problem.wide else CSM_F32) or is_derivative(problem.operation)
                or not 0 <= problem.mask.step <= 1):
            return False
    elif not kernels.halves or (storage != CSM_F16 and storage != CSM_BF16):
        return False
    return (are_contiguous(problem, &problem.x, storage) and are_contiguous(problem, &problem.p, storage)
            and (problem.operation == LOGSUMEXP or are_contiguous(problem, &problem.y, storage)))


cdef inline bint streams(const Problem *problem) noexcept nogil:
    """Results are stored past the caches: they are reals that are stored where they lie, and are larger."""
    return ((problem.access == DIRECT or (problem.access == LOADED and problem.mask.data != NULL))
            and problem.y.data != NULL and problem.operation != LOGSUMEXP
            and problem.rows * problem.n * (8 if problem.wide else 4) >= stream_bytes)


# ------------------------------------------------------------------------------------------------------ rows

cdef inline void choose_rows(Problem *problem) noexcept nogil:
    """Of rows whose access is known."""
    cdef const Kernels *kernels = problem.kernels
    problem.width = 1
    problem.exps_in_scratch = False
    problem.units = problem.rows
    problem.stream = streams(problem)
    # Of rows that are loaded, only masked logits wait.
    problem.pending = (not problem.stream and problem.n > kernels.pending_least
                       and (problem.access != LOADED
                            or (problem.mask.data != NULL and problem.operation == LOG_SOFTMAX))
                       and problem.n <= kernels.pending_most[problem.operation])
    if (problem.rows == 1 and problem.access == DIRECT
            and is_single_row(kernels, problem.operation, problem.n, problem.temperature)):
        problem.strategy = SINGLE_ROW
    elif problem.n <= kernels.short_row and problem.inner >= PACKED_LEAST:
        problem.strategy = PACKED_ROWS
    else:
        problem.strategy = ROW_BATCH


cdef bint can_split(const Problem *problem) noexcept nogil:
    return (problem.strategy == ROW_BATCH and problem.mask.data == NULL and not problem.exact and not problem.rescaled
            and not is_loss(problem.operation))


cdef bint choose_split(Problem *problem, int threads) noexcept nogil:
    """Splits rows by their blocks where they are long and fewer than threads, or very long."""
    cdef Py_ssize_t block = problem.kernels.block
    if not can_split(problem) or problem.n < SPLIT_LEAST or (problem.rows >= threads and problem.n < SPLIT_ALWAYS):
        return False
    problem.strategy = SPLIT_ROW
    if problem.access == LOADED:
        problem.access = STAGED
        problem.staged = FOR_HALVES
    problem.threads = <int> min(threads, (problem.n + block * SPLIT_BLOCKS - 1) // (block * SPLIT_BLOCKS))
    return True


# --------------------------------------------------------------------------------------------------- columns

cdef void set_width(Problem *problem, const Means *means) noexcept nogil:
    """How wide the tiles of columns are: such that their sweeps find them in the cache, where that leaves enough to
    read in a row of them. And whether their exponentials wait in scratch.
    """
    cdef Py_ssize_t size = 8 if problem.wide else 4, line = 64 // size, column = problem.n * size, even, fits
    if problem.access != DIRECT:
        fits = NEAR_GATHERED_BYTES if means.on_stack else GATHERED_BYTES
        fits //= column * (2 if problem.p.data != NULL else 1)
        problem.width = min(fits, GATHERED_ROW_BYTES // size)
    else:
        fits = TILE_BYTES // (column * (1 + (problem.p.data != NULL) + (problem.y.data != NULL)))
        if fits >= min(TILE_LEAST_BYTES // size, problem.inner):
            problem.width = min(fits, TILE_MOST_BYTES // size)
            problem.exps_in_scratch = (not means.on_stack
                                       and (problem.operation == SOFTMAX or problem.operation == CROSS_ENTROPY_GRAD)
                                       and (problem.y.step % RIVAL_BYTES == 0
                                            or problem.inner * size < TILE_LEAST_BYTES))
        else:
            # whoever waits for Ctrl-C waits for a tile
            problem.width = min(SWEEP_ROW_BYTES // size, SWEEP_ELEMENTS // problem.n)
    if means.on_stack:
        problem.width = min(problem.width, NEAR_ROW_BYTES // size)
    if is_loss(problem.operation):
        # losses are summed by tiles, which no thread count may move
        problem.width = min(problem.width, TILE_LEAST_BYTES // size)
    problem.width = max(line, problem.width // line * line)
    even = (problem.rows + means.threads - 1) // means.threads
    if not is_loss(problem.operation) and problem.rows // problem.inner < means.threads and problem.width > even:
        # no thread should be without work; nor should there be a tile of a few columns over, since two threads that
        # write to one line of the cache wait for each other
        problem.width = (even + line - 1) // line * line
    problem.width = min(problem.width, problem.inner)


cdef void choose_tiles(Problem *problem, const Means *means) noexcept nogil:
    """Of columns across the last batch dimension, whose access is known."""
    cdef int d
    problem.strategy = COLUMN_TILES
    problem.pending = False
    problem.exps_in_scratch = False
    set_width(problem, means)
    problem.units = problem.rows // problem.inner * ((problem.inner + problem.width - 1) // problem.width)
    # only whole lines are stored past the caches
    problem.stream = streams(problem) and (<uintptr_t> problem.y.data & 63) == 0 and (problem.y.step & 63) == 0
    for d in range(problem.batch_ndim - 1):
        problem.stream = problem.stream and (problem.y.batch[d] & 63) == 0


# --------------------------------------------------------------------------------------------------- threads

cdef enum:
    CHUNKS = 4                    # a thread at least, so that one which is late or slow holds up none
    CHUNK_NS = 100000             # time that a chunk may take if it can be smaller
    WIDE_CHUNK = 128              # units of larger chunks than this ...
    ALIGNED_UNITS = 16            # ... come in multiples of this: the rows that kernels work on together
    MOST_CHUNKS = 1073741824      # the pool counts them in 31 bits

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
cdef double STAGED_TIMES = 2      # as long if it is staged or loaded, ...
cdef double COLUMN_TIMES = 1.5    # ... or swept down its columns
cdef double BORDER_NS = 500       # what a row costs two threads that have neighbouring columns of it in their caches
cdef double CACHED_BYTES = 4e6    # of arrays that are in them, call after call


cdef double time_of(const Problem *problem) noexcept nogil:
    """Nanoseconds that one thread takes for the problem, to a factor of two."""
    cdef double element = ELEMENT_NS[problem.operation] * 16 / problem.kernels.lanes
    if problem.access != DIRECT:
        element *= STAGED_TIMES
    if problem.strategy == COLUMN_TILES:
        return problem.rows * problem.n * element * COLUMN_TIMES
    return problem.rows * (problem.n * element + ROW_NS)


cdef double cost_of_borders(const Problem *problem, int threads) noexcept nogil:
    """Nanoseconds that threads lose together to tiles of columns whose rows lie in the same lines of the cache."""
    cdef double size = 8 if problem.wide else 4, operands = 1 + (problem.p.data != NULL) + (problem.y.data != NULL)
    if (problem.strategy != COLUMN_TILES or problem.rows >= threads * problem.inner
            or size * operands * problem.rows * problem.n > CACHED_BYTES):
        return 0
    return problem.n * BORDER_NS


cdef Py_ssize_t units_of_chunk(const Problem *problem, int threads, double ns) noexcept nogil:
    """So many units that every thread gets several chunks, none of which takes long. A loss is summed by chunks whose
    size no thread count may move: it gets whole ones of those.
    """
    cdef Py_ssize_t unit_elements = (problem.n * problem.rows) // problem.units + 1
    cdef Py_ssize_t least = 1, units = problem.units, chunks
    if is_loss(problem.operation) and problem.strategy != COLUMN_TILES:
        least = loss_chunk(problem.n)
    if threads > 1:
        # as many for each thread
        chunks = threads * <Py_ssize_t> min(max(ns / (CHUNK_NS * threads) + 1, CHUNKS), MOST_CHUNKS // threads)
        units = (problem.units + chunks - 1) // chunks
        if units > WIDE_CHUNK:
            units = (units + ALIGNED_UNITS - 1) // ALIGNED_UNITS * ALIGNED_UNITS
    if units * unit_elements > WAVE_ELEMENTS:
        units = WAVE_ELEMENTS // unit_elements + 1
    return max(least, units // least * least)


cdef void choose_threads(Problem *problem, const Means *means) noexcept nogil:
    """How many threads work on the problem, on how much at a time; and whether they split its rows."""
    cdef double ns = time_of(problem)
    cdef int threads = means.useful(means.threads, ns - cost_of_borders(problem, means.threads))
    if choose_split(problem, threads):
        return
    threads = <int> min(threads, problem.units)
    problem.chunk = units_of_chunk(problem, threads, ns)
    problem.threads = <int> min(threads, (problem.units + problem.chunk - 1) // problem.chunk)


cdef inline void choose_one_thread(Problem *problem) noexcept nogil:
    problem.threads = 1
    problem.chunk = problem.units


# ------------------------------------------------------------------------------------------------ all of it

cdef void choose_direct(Problem *problem, const Kernels *kernels, const Means *means) noexcept nogil:
    problem.kernels = kernels
    problem.access = DIRECT
    problem.staged = NOT_STAGED
    problem.rescaled = False
    choose_rows(problem)
    choose_one_thread(problem)
    if means != NULL and not is_small(problem):
        choose_threads(problem, means)


cdef void choose(Problem *problem, const Kernels *kernels, const Means *means) noexcept nogil:
    cdef int d = -1
    cdef bint unit = (problem.axis_ndim == 1 and unit_axis(&problem.x) and unit_axis(&problem.p)
                      and (problem.operation == LOGSUMEXP or unit_axis(&problem.y)))
    problem.kernels = kernels
    problem.rescaled = problem.wide and is_extreme(problem.operation, problem.temperature)
    if problem.axis_ndim == 1 and (not unit or problem.n == 1):
        d = columns_dimension(problem)
    if d >= 0:
        make_last(problem, d)
        unit = unit_across(problem, problem.batch_ndim - 1)
    problem.staged = staged_for(problem, unit or (d < 0 and problem.n == 1))
    problem.access = DIRECT if problem.staged == NOT_STAGED else STAGED
    if d >= 0:
        choose_tiles(problem, means)
    else:
        if can_load(problem):
            problem.access = LOADED
            problem.staged = NOT_STAGED
        choose_rows(problem)
    choose_one_thread(problem)
    if means.useful != NULL and not is_small(problem):
        choose_threads(problem, means)


cdef Means means_of_call() noexcept:
    """What a call may use in this context."""
    cdef Means means
    means.threads = effective_threads()
    means.useful = useful_threads
    means.on_stack = False
    return means


cdef void choose_for_call(Problem *problem) noexcept:
    cdef Means means = means_of_call()
    choose(problem, kernels_for(problem.wide), &means)


cdef void choose_direct_for_call(Problem *problem) noexcept:
    cdef Means means
    if is_small(problem):
        # it is over before the context has been looked at
        choose_direct(problem, kernels_for(problem.wide), NULL)
        return
    means = means_of_call()
    choose_direct(problem, kernels_for(problem.wide), &means)


# ---------------------------------------------------------------------------------------------- what was chosen

STRATEGIES = {
    SINGLE_ROW: "single row",
    PACKED_ROWS: "packed rows",
    ROW_BATCH: "row batch",
    SPLIT_ROW: "split row",
    COLUMN_TILES: "column tiles",
}
REASONS = {
    NOT_STAGED: False,
    FOR_INTEGERS: "integers",
    FOR_HALVES: "16-bit floats",
    FOR_DTYPES: "dtypes",
    FOR_BYTE_ORDER: "byte order",
    FOR_MASK: "mask",
    FOR_TEMPERATURE: "temperature",
    FOR_ALIGNMENT: "alignment",
    FOR_STRIDES: "strides",
}


def nothing_chosen():
    """What `explain` tells where there is nothing to do."""
    return {
        "strategy": None,
        "isa": get_isa(),
        "dtype": None,
        "threads": 0,
        "tile": None,
        "streams": False,
        "staged": False,
    }


cdef dict described(const Problem *problem):
    return {
        "strategy": STRATEGIES[problem.strategy],
        "dtype": "float64" if problem.wide else "float32",
        "threads": problem.threads,
        "tile": problem.width if problem.strategy == COLUMN_TILES else None,
        "streams": bool(problem.stream),
        "staged": REASONS[problem.staged],
    }
