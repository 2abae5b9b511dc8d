"""The one value that travels from the plan through the core to the kernels: what to compute, on what memory, and how.

Its operands are two-dimensional strided views: rows, and the elements of a row. Where an array has more dimensions that
do not merge, a layout beside the problem holds them, and a row's number is taken apart into its places along them.
"""

cdef enum:
    MAX_DIMS = 64
    OPERANDS = 7              # x, p, y, mask, target, upstream, row_loss


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


# How a problem is worked on. `choose` decides once, and the kernels and the core obey. What follows from a row's
# length, its dtype and the level alone is no strategy, and kernels see to it: how the sum of a block is folded, in what
# precision a dot product is taken, how many vectors are in registers. It decides bits, which a strategy never does.
cdef enum Strategy:
    SINGLE_ROW            # one short row, which stays in registers and needs no scratch
    PACKED_ROWS           # short rows, several at a time
    ROW_BATCH             # rows one after another, each by its blocks
    SPLIT_ROW             # long rows, each in two passes over its blocks, which threads share
    COLUMN_TILES          # tiles of neighbouring columns, one column a lane, which are swept down the axis


# Where the kernels read and write.
cdef enum Access:
    DIRECT                # reals of the kernels' precision with unit stride along rows or across columns, as they lie
    LOADED                # contiguous rows of 16-bit floats, or of masked reals, as they lie, loaded a block at a time
    STAGED                # reals in scratch, to which operands are copied first and from which results are copied last


# Why operands are staged.
cdef enum Reason:
    NOT_STAGED
    FOR_INTEGERS
    FOR_HALVES            # 16-bit floats
    FOR_DTYPES            # an operand is of another precision than the arithmetic
    FOR_BYTE_ORDER
    FOR_MASK
    FOR_TEMPERATURE       # an extreme one, for which powers of two are taken out of the rows
    FOR_ALIGNMENT
    FOR_STRIDES


# Strides in bytes.
cdef struct View:
    char *data                        # NULL: this operation has no such operand
    int storage                       # enum csm_storage
    Py_ssize_t row                    # from row to row, along the innermost batch dimension
    Py_ssize_t step                   # from one element of a row to the next, along the innermost reduced dimension
    Py_ssize_t *batch                 # over all batch dimensions, outermost first; NULL if there is but one
    Py_ssize_t *axis                  # the same over the reduced ones


# The dimensions of a problem, outermost first, and the strides of its operands over them.
cdef struct Layout:
    Py_ssize_t batch_shape[MAX_DIMS]
    Py_ssize_t axis_shape[MAX_DIMS]
    Py_ssize_t batch[OPERANDS][MAX_DIMS]
    Py_ssize_t axis[OPERANDS][MAX_DIMS]


cdef struct Loss:
    const double *weight              # one a class, or NULL
    long long ignore_index
    double smoothing
    bint indices                      # targets are class indices, not probabilities
    double scale                      # 1 / normaliser of the gradient, ...
    int exponent                      # ... but for this power of two


cdef struct Kernels               # declared below


cdef struct Problem:
    int operation
    bint wide                         # the arithmetic is of doubles, not floats
    bint exact                        # x: 64-bit integers, some of which a double does not hold
    double temperature
    Py_ssize_t n                      # length of a row
    Py_ssize_t rows
    Py_ssize_t inner                  # rows along the innermost batch dimension; COLUMN_TILES: it is across the columns
    int batch_ndim                    # dimensions that rows lie along, and that the elements of a row do: 1 at least
    int axis_ndim
    Py_ssize_t *batch_shape           # outermost first, where there is more than one, else NULL
    Py_ssize_t *axis_shape
    # What `choose` decides:
    const Kernels *kernels            # of the precision of the arithmetic, at the level in use
    int strategy
    int access
    int staged                        # the reason of STAGED access
    bint rescaled                     # the temperature is extreme: powers of two are taken out of the staged rows
    bint stream                       # results are larger than the caches: they are stored past them
    bint pending                      # ROW_BATCH: a row's results are written while a later row is exponentiated
    Py_ssize_t width                  # COLUMN_TILES: columns of a tile, at most
    bint exps_in_scratch              # COLUMN_TILES: exponentials wait in scratch, not in the result
    Py_ssize_t units                  # rows, or tiles
    int threads                       # that work on it
    Py_ssize_t chunk                  # units that a thread works on at a time
    View x                         # logits, or the incoming gradient
    View p                         # the forward's output, in the derivatives
    View y                         # the result
    View mask
    View target
    View upstream                  # gradient of the loss, one a row
    View row_loss                  # reduction "none": where each row's loss goes
    double *partial                   # else: SUMS pairs a chunk of rows or a tile: sums of losses and what they lost
    Loss loss


cdef inline bint is_loss(int operation) noexcept nogil:
    return operation == CROSS_ENTROPY or operation == CROSS_ENTROPY_GRAD


cdef inline void init_problem(Problem *problem, int operation, double temperature, bint wide) noexcept nogil:
    """OUT `problem`: what to compute, on nothing yet. The caller sets rows and operands; what is left `choose` sets.

    Of an absent operand nothing but its data, which is NULL, means anything. Only losses have weights and sums.
    """
    problem.operation = operation
    problem.temperature = temperature
    problem.wide = wide
    problem.exact = False
    problem.n = problem.rows = problem.inner = 0
    problem.axis_ndim = problem.batch_ndim = 1
    problem.axis_shape = problem.batch_shape = NULL
    problem.x.data = problem.p.data = problem.y.data = problem.mask.data = NULL
    problem.target.data = problem.upstream.data = problem.row_loss.data = NULL
    if is_loss(operation):
        problem.partial = NULL
        problem.loss.weight = NULL
        problem.loss.ignore_index = 0
        problem.loss.smoothing = 0
        problem.loss.indices = False
        problem.loss.scale = 1
        problem.loss.exponent = 0


cdef inline void set_rows(Problem *problem, Py_ssize_t rows, Py_ssize_t n) noexcept nogil:
    """`rows` rows of `n` elements, in two dimensions."""
    problem.rows = problem.inner = rows
    problem.n = n


cdef inline void set_view(View *o, int storage, const void *data, Py_ssize_t row, Py_ssize_t step) noexcept nogil:
    """An operand in two dimensions: bytes from row to row, and from one element of a row to the next."""
    o.data = <char *> data
    o.storage = storage
    o.row = row
    o.step = step
    o.batch = o.axis = NULL


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


# What a level offers. A kernel works on units [begin, end) in scratch of scratch_bytes(problem); it owns no
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
# One function lays out each kernel's scratch, from a base that may be NULL: then all pieces are NULL, and "used" is the
# size that the same function needs where there is memory. So sizes and offsets cannot disagree.
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
    cdef Py_ssize_t first = (scratch.used + 63) & -64
    scratch.used = first + count * size
    return NULL if scratch.base == NULL else scratch.base + first


cdef inline double *scratch_doubles(Scratch *scratch, Py_ssize_t count) noexcept nogil:
    return <double *> scratch_alloc(scratch, count, sizeof(double))


# What the choice of a strategy and those who obey it have in common.
cdef enum:
    SMALL_ELEMENTS = 4096         # a call of fewer is worked on by the thread that calls, which keeps the GIL
    WAVE_ELEMENTS = 33554432      # elements that a thread works on before Ctrl-C is heard
    SPLIT_BLOCKS = 32             # blocks of a split row that a thread takes at a time


cdef inline bint is_small(const Problem *problem) noexcept nogil:
    return problem.rows * problem.n < SMALL_ELEMENTS


ctypedef void (*RunFn)(const Problem *, Py_ssize_t begin, Py_ssize_t end, char *scratch) noexcept nogil
ctypedef bint (*SingleFn)(int operation, const void *x, const void *p, void *y, Py_ssize_t n,
                          double temperature) noexcept nogil
ctypedef Py_ssize_t (*ScratchFn)(const Problem *) noexcept nogil
ctypedef void (*BlocksFn)(const Problem *, Py_ssize_t row, Py_ssize_t begin, Py_ssize_t end, double *stats,
                          char *scratch) noexcept nogil
ctypedef void (*FinishFn)(const Problem *, Py_ssize_t row, double *stats) noexcept nogil

cdef struct Kernels:
    int lanes                         # of a vector
    int block                         # elements of a block
    # What `choose` needs to know of the level; lengths of rows:
    Py_ssize_t short_row              # up to this they are packed
    bint loads[OPERATIONS]            # longer ones that are masked are loaded where they lie, ...
    bint halves                       # ... and so are 16-bit floats
    Py_ssize_t single_most[OPERATIONS]     # up to this `single` takes one; 0 where it takes none
    Py_ssize_t pending_least          # beyond this, ...
    Py_ssize_t pending_most[OPERATIONS]    # ... up to this, results are pending until a later row is exponentiated
    RunFn run
    SingleFn single                   # a single row, without a problem or scratch; False if its values need `run`
    ScratchFn scratch_bytes
    Py_ssize_t block_scratch          # bytes of scratch that measure and write work in
    BlocksFn measure                  # first pass over blocks [begin, end) of one long row
    FinishFn finish
    BlocksFn write                    # second pass


cdef inline bint is_single_row(const Kernels *kernels, int operation, Py_ssize_t n, double temperature) noexcept nogil:
    """One direct row is a single row, for which the kernel needs no scratch: a call asks before it makes a problem."""
    return n <= kernels.single_most[operation] and (temperature == 1 or is_derivative(operation))


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
