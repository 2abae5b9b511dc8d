"""How the kernels walk: from a job's shape and strides to its regime. The one place where a regime is chosen.

Rows with unit stride are walked as rows. Where the axis is strided but a batch dimension lies closer, tiles of
neighbouring columns are walked down the axis. All else is staged, row by row. Short rows, and rows that are worked on
by blocks, are told apart by the rows' length alone (kernels, core).
"""

import os
import sys

from libc.stdint cimport uintptr_t

from csoftmax.kernels.problem cimport (
    COLUMNS, CROSS_ENTROPY, CROSS_ENTROPY_GRAD, LOGSUMEXP, ROWS, SOFTMAX, Job, Operand, is_extreme,
)

cdef extern from "csoftmax/_storage.h":
    enum:
        CSM_F16, CSM_BF16, CSM_F32, CSM_F64, CSM_B1, CSM_I8, CSM_U8, CSM_I16, CSM_U16, CSM_I32, CSM_U32, CSM_SWAPPED

cdef extern from "csoftmax/_cpu.h":
    int csm_cpu_streams()

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


def stream_bytes_wanted():
    """Size from which results are stored past the caches: ``CSOFTMAX_STREAM_BYTES``, else what suits this CPU."""
    text = os.environ.get("CSOFTMAX_STREAM_BYTES")
    if not text:
        return 32 << 20 if csm_cpu_streams() else sys.maxsize
    if not text.isdecimal() or len(text) > 100:
        raise ImportError(f"CSOFTMAX_STREAM_BYTES must be a number of bytes, not {text[:100]!r}")
    return min(int(text), sys.maxsize)


cdef Py_ssize_t stream_bytes = stream_bytes_wanted()


cdef bint streams(Py_ssize_t size) noexcept nogil:
    return size >= stream_bytes


cdef Py_ssize_t item_size(int storage) noexcept nogil:
    cdef int kind = storage & ~CSM_SWAPPED
    if kind == CSM_F16 or kind == CSM_BF16 or kind == CSM_I16 or kind == CSM_U16:
        return 2
    if kind == CSM_F32 or kind == CSM_I32 or kind == CSM_U32:
        return 4
    if kind == CSM_B1 or kind == CSM_I8 or kind == CSM_U8:
        return 1
    return 8


cdef bint real_operand(const Job *job, const Operand *o, Py_ssize_t size) noexcept nogil:
    # native reals, whose strides are whole elements
    cdef int d
    if o.data == NULL:
        return True
    if o.storage != (CSM_F64 if size == 8 else CSM_F32) or <uintptr_t> o.data & (size - 1):
        return False
    for d in range(job.batch_ndim):
        if o.batch[d] & (size - 1):
            return False
    for d in range(job.axis_ndim):
        if o.axis[d] & (size - 1):
            return False
    return True


cdef inline bint unit_axis(const Operand *o) noexcept nogil:
    return o.data == NULL or o.axis[0] == item_size(o.storage)


cdef inline bint unit_batch(const Operand *o, int d) noexcept nogil:
    return o.data == NULL or o.batch[d] == item_size(o.storage)


cdef inline Py_ssize_t distance(Py_ssize_t stride) noexcept nogil:
    return stride if stride >= 0 else -stride


cdef int columns_dimension(const Job *job) noexcept nogil:
    """The batch dimension whose neighbours are to be neighbouring columns, or -1: the last one with unit strides, else
    the one that lies closest, if it lies closer than the axis does.
    """
    cdef int d, closest = -1
    for d in range(job.batch_ndim - 1, -1, -1):
        if job.batch_shape[d] < NARROW:
            continue
        if unit_batch(&job.x, d) and unit_batch(&job.p, d) and unit_batch(&job.y, d):
            return d
        if job.x.batch[d] != 0 and (closest < 0 or distance(job.x.batch[d]) < distance(job.x.batch[closest])):
            closest = d
    if closest >= 0 and distance(job.x.batch[closest]) < distance(job.x.axis[0]):
        return closest
    return -1


cdef void make_last(Job *job, int d) noexcept nogil:
    cdef int i, j, last = job.batch_ndim - 1
    cdef Operand *o
    cdef Operand *operands[7]
    cdef Py_ssize_t size = job.batch_shape[d], stride
    operands[:] = [&job.x, &job.p, &job.y, &job.mask, &job.target, &job.upstream, &job.row_loss]
    for i in range(d, last):
        job.batch_shape[i] = job.batch_shape[i + 1]
    job.batch_shape[last] = size
    for j in range(7):
        o = operands[j]
        stride = o.batch[d]
        for i in range(d, last):
            o.batch[i] = o.batch[i + 1]
        o.batch[last] = stride


cdef void set_width(Job *job, Py_ssize_t inner, Py_ssize_t size, int threads, bint near) noexcept nogil:
    """How wide the tiles of columns are: such that their sweeps find them in the cache, where that leaves enough to
    read in a row of them. And whether logits are copied into scratch.
    """
    cdef Py_ssize_t line = 64 // size, column = job.n * size, share, fits
    cdef bint loss = job.operation == CROSS_ENTROPY or job.operation == CROSS_ENTROPY_GRAD
    if not job.direct:
        fits = (NEAR_GATHERED_BYTES if near else GATHERED_BYTES) // (column * (2 if job.p.data != NULL else 1))
        job.width = min(fits, GATHERED_ROW_BYTES // size)
    else:
        fits = TILE_BYTES // (column * (1 + (job.p.data != NULL) + (job.y.data != NULL)))
        if fits >= min(TILE_LEAST_BYTES // size, inner):
            job.width = min(fits, TILE_MOST_BYTES // size)
            job.staged = (not near and (job.operation == SOFTMAX or job.operation == CROSS_ENTROPY_GRAD)
                          and (job.y.axis[0] % RIVAL_BYTES == 0 or inner * size < TILE_LEAST_BYTES))
        else:
            # whoever waits for Ctrl-C waits for a tile
            job.width = min(SWEEP_ROW_BYTES // size, SWEEP_ELEMENTS // job.n)
    if near:
        job.width = min(job.width, NEAR_ROW_BYTES // size)
    if loss:
        # losses are summed by tiles, which no thread count may move
        job.width = min(job.width, TILE_LEAST_BYTES // size)
    job.width = max(line, job.width // line * line)
    share = (job.rows + threads - 1) // threads
    if not loss and job.rows // inner < threads and job.width > share:
        # no thread should be without work; nor should there be a tile of a few columns over, since two threads that
        # write to one line of the cache wait for each other
        job.width = (share + line - 1) // line * line
    job.width = min(job.width, inner)


cdef void find_walk(Job *job, int threads, bint near) noexcept nogil:
    cdef Py_ssize_t size = 8 if job.wide else 4, inner
    cdef bint reduces = job.operation == LOGSUMEXP, rows
    cdef int d = -1
    job.direct = (job.mask.data == NULL and not is_extreme(job.operation, job.temperature)
                  and real_operand(job, &job.x, size) and real_operand(job, &job.p, size)
                  and real_operand(job, &job.y, size))
    job.walk = ROWS
    job.width = 1
    job.staged = False
    job.units = job.rows
    rows = job.axis_ndim == 1 and (unit_axis(&job.x) and unit_axis(&job.p) and (reduces or unit_axis(&job.y)))
    if job.axis_ndim == 1 and (not rows or job.n == 1):
        d = columns_dimension(job)
    if d >= 0:
        job.walk = COLUMNS
        make_last(job, d)
        inner = job.batch_shape[job.batch_ndim - 1]
        d = job.batch_ndim - 1
        job.direct = (job.direct and unit_batch(&job.x, d) and unit_batch(&job.p, d)
                      and unit_batch(&job.y, d))
        set_width(job, inner, size, threads, near)
        job.units = job.rows // inner * ((inner + job.width - 1) // job.width)
    elif not rows and job.n > 1:
        job.direct = False
    job.stream = job.y.data != NULL and not reduces and streams(job.rows * job.n * size)
    if job.stream and job.walk == COLUMNS:
        job.stream = job.direct and (<uintptr_t> job.y.data & 63) == 0 and (job.y.axis[0] & 63) == 0
        for d in range(job.batch_ndim - 1):
            job.stream = job.stream and (job.y.batch[d] & 63) == 0
