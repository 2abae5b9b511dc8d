"""The one value that travels from the plan through the core to the kernels: what to compute, on what memory."""

cdef enum:
    MAX_DIMS = 64


cdef enum Operation:
    SOFTMAX
    LOG_SOFTMAX
    LOGSUMEXP
    SOFTMAX_GRAD          # y (g - sum(g y)) / T: VJP and JVP alike
    LOG_SOFTMAX_VJP       # (g - exp(y) sum(g)) / T
    LOG_SOFTMAX_JVP       # (g - sum(g exp(y))) / T
    CROSS_ENTROPY
    CROSS_ENTROPY_GRAD    # the loss and its gradient
    OPERATIONS


# Walks: rows one after another, or tiles of neighbouring columns down the axis.
cdef enum Walk:
    ROWS
    COLUMNS


cdef struct Operand:
    char *data                        # NULL: this operation has no such operand
    int storage                       # enum csm_storage
    Py_ssize_t batch[MAX_DIMS]        # strides in bytes over the batch dimensions ...
    Py_ssize_t axis[MAX_DIMS]         # ... and over the reduced ones


cdef struct Loss:
    const double *weight              # one a class, or NULL
    long long ignore_index
    double smoothing
    bint indices                      # targets are class indices, not probabilities
    double scale                      # 1 / normaliser of the gradient, ...
    int exponent                      # ... but for this power of two


cdef struct Job:
    int operation
    int walk
    # direct: every operand is aligned native reals with unit stride along the walk, and the temperature is not extreme
    bint direct
    bint wide                         # the arithmetic is of doubles, not floats
    bint exact                        # x: 64-bit integers, some of which a double does not hold
    bint stream                       # results are larger than the caches: store past them
    double temperature
    Py_ssize_t n                      # length of a row
    Py_ssize_t rows
    int axis_ndim
    int batch_ndim                    # COLUMNS: the last one is across the columns
    Py_ssize_t axis_shape[MAX_DIMS]
    Py_ssize_t batch_shape[MAX_DIMS]
    Py_ssize_t width                  # COLUMNS: columns of a tile
    bint staged                       # COLUMNS: logits are copied into scratch, where exponentials replace them
    Py_ssize_t units                  # rows, or tiles
    Operand x                         # logits, or the incoming gradient
    Operand p                         # the forward's output, in the derivatives
    Operand y                         # the result
    Operand mask
    Operand target
    Operand upstream                  # gradient of the loss, one a row
    Operand row_loss                  # reduction "none": where each row's loss goes
    double *partial                   # else: SUMS pairs a chunk of rows or a tile: sums of losses and what they lost
    Loss loss


cdef inline void clear_operand(Operand *o) noexcept nogil:
    o.data = NULL
    o.storage = 0
    o.batch[0] = o.axis[0] = 0


cdef inline void init_job(Job *job, int operation, double temperature, bint wide) noexcept nogil:
    """OUT `job`: every field, of a job without operands and rows. The caller gives it both; `choose` decides the rest."""
    job.operation = operation
    job.temperature = temperature
    job.wide = wide
    job.walk = ROWS
    job.direct = job.exact = job.stream = job.staged = False
    job.n = job.rows = job.units = 0
    job.width = 1
    job.axis_ndim = job.batch_ndim = 1
    job.axis_shape[0] = job.batch_shape[0] = 0
    clear_operand(&job.x)
    clear_operand(&job.p)
    clear_operand(&job.y)
    clear_operand(&job.mask)
    clear_operand(&job.target)
    clear_operand(&job.upstream)
    clear_operand(&job.row_loss)
    job.partial = NULL
    job.loss.weight = NULL
    job.loss.ignore_index = 0
    job.loss.smoothing = 0
    job.loss.indices = False
    job.loss.scale = 1
    job.loss.exponent = 0


cdef inline void set_rows(Job *job, Py_ssize_t rows, Py_ssize_t n) noexcept nogil:
    """`rows` rows of `n` elements, in two dimensions."""
    job.rows = job.units = job.batch_shape[0] = rows
    job.n = job.axis_shape[0] = n


cdef inline void set_operand(Operand *o, int storage, const void *data, Py_ssize_t row, Py_ssize_t step) noexcept nogil:
    """An operand in two dimensions: bytes from row to row, and from one element of a row to the next."""
    o.data = <char *> data
    o.storage = storage
    o.batch[0] = row
    o.axis[0] = step


cdef inline bint is_derivative(int operation) noexcept nogil:
    return operation == SOFTMAX_GRAD or operation == LOG_SOFTMAX_VJP or operation == LOG_SOFTMAX_JVP


cdef inline double least_temperature(int operation, double least) noexcept nogil:
    # from which on an operation is done without scaling its rows: a derivative's division by a lower temperature would
    # raise what had lost digits as a subnormal number
    return 1e-6 if is_derivative(operation) else least


cdef inline bint is_extreme(int operation, double temperature) noexcept nogil:
    # The kernels of doubles would under- or overflow: rows are staged, and scaled there.
    return not least_temperature(operation, 1e-270) < temperature < 1e300


cdef inline bint needs_doubles(int operation, double temperature) noexcept nogil:
    # the kernels of floats would, so that they are not given the row
    return not least_temperature(operation, 1e-30) < temperature < 1e30


# What a level offers. A kernel works on units [begin, end) in scratch of scratch_bytes(job); it owns no
# thread and no memory. A long row is taken in two passes over its blocks, with the statistics of all blocks
# (STATS doubles each) between them.
cdef enum:
    STATS = 6
    LOSS_CHUNK = 256
    # A chunk has SUMS sums of losses. Sum b, counted from the middle one, is of losses around 2^(SUM_STEP b), divided
    # by that: all but the middle one are seldom needed.
    SUMS = 5
    SUM_STEP = 1000


cdef inline Py_ssize_t loss_chunk(Py_ssize_t n) noexcept nogil:
    # rows whose losses are summed together, whoever works on them: fixed by a row's length
    return 1 if n > 65536 else (LOSS_CHUNK if n * LOSS_CHUNK < 65536 else 65536 // n)


# Memory that a kernel works in, handed out piece by piece: each piece begins at a multiple of 64 bytes from the base.
# Whoever lays out scratch does so in one function, which takes the base: with the base NULL the pieces are NULL too, and
# "used" is the size that the same function needs with memory. So sizes and offsets cannot disagree.
cdef struct Scratch:
    char *base                        # IN, "used" bytes at least once all pieces are handed out; or NULL
    Py_ssize_t used                   # bytes from the base to the end of the last piece


cdef inline Scratch scratch_at(char *base) noexcept nogil:
    """Scratch of which nothing has been handed out yet."""
    cdef Scratch scratch
    scratch.base = base
    scratch.used = 0
    return scratch


cdef inline void *scratch_alloc(Scratch *scratch, Py_ssize_t count, Py_ssize_t size) noexcept nogil:
    """The next piece: `count` elements of `size` bytes, or NULL where only the size is asked for."""
    cdef Py_ssize_t first = (scratch.used + 63) // 64 * 64
    scratch.used = first + count * size
    return NULL if scratch.base == NULL else scratch.base + first


cdef inline double *scratch_doubles(Scratch *scratch, Py_ssize_t count) noexcept nogil:
    return <double *> scratch_alloc(scratch, count, sizeof(double))


ctypedef void (*RunFn)(const Job *, Py_ssize_t begin, Py_ssize_t end, char *scratch) noexcept nogil
ctypedef bint (*LoneFn)(int operation, const void *x, const void *p, void *y, Py_ssize_t n,
                        double temperature) noexcept nogil
ctypedef Py_ssize_t (*ScratchFn)(const Job *) noexcept nogil
ctypedef void (*BlocksFn)(const Job *, Py_ssize_t row, Py_ssize_t begin, Py_ssize_t end, double *stats,
                          char *scratch) noexcept nogil
ctypedef void (*FinishFn)(const Job *, Py_ssize_t row, double *stats) noexcept nogil

cdef struct Kernels:
    int lanes                         # of a vector
    int block                         # elements of a block
    RunFn run
    LoneFn lone                       # one short row of reals, without a job or scratch; False if it takes run
    ScratchFn scratch_bytes
    Py_ssize_t block_scratch          # bytes of scratch that measure and write work in
    BlocksFn measure                  # first pass over blocks [begin, end) of one long row
    FinishFn finish
    BlocksFn write                    # second pass


cdef struct SplitScratch:
    # what one thread takes a long row by its blocks in
    char *block                       # kernels.block_scratch bytes
    double *stats                     # STATS doubles for each block of the row


cdef inline Py_ssize_t lay_split(SplitScratch *split, const Kernels *kernels, Py_ssize_t n,
                                 char *base) noexcept nogil:
    """OUT `split`, for a row of `n` elements; returns the bytes that it takes from `base` on."""
    cdef Scratch scratch = scratch_at(base)
    split.block = <char *> scratch_alloc(&scratch, kernels.block_scratch, 1)
    split.stats = scratch_doubles(&scratch, (n + kernels.block - 1) // kernels.block * STATS)
    return scratch.used
