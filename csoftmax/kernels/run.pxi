# From a problem to row batches and column tiles: finds the rows in memory, and stages through scratch what is not
# contiguous native reals (16-bit floats, integers, strides, foreign byte order, masks).

cdef enum:
    STAGE = 4096              # reals staged at a time, or one row


cdef inline char *batch_at(const Problem *problem, const View *o, Py_ssize_t row) noexcept nogil:
    cdef char *p = o.data
    cdef Py_ssize_t d
    if problem.batch_ndim == 1:
        return p + row * o.row
    for d in range(problem.batch_ndim - 1, -1, -1):
        p += row % problem.batch_shape[d] * o.batch[d]
        row //= problem.batch_shape[d]
    return p


cdef inline Py_ssize_t axis_run(const Problem *problem, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    # elements from i on that lie at one stride
    cdef Py_ssize_t inner
    if problem.axis_ndim == 1:
        return n
    inner = problem.axis_shape[problem.axis_ndim - 1] - i % problem.axis_shape[problem.axis_ndim - 1]
    return inner if inner < n else n


cdef inline Py_ssize_t axis_offset(const Problem *problem, const View *o, Py_ssize_t i) noexcept nogil:
    cdef Py_ssize_t d, offset = 0
    if problem.axis_ndim == 1:
        return i * o.step
    for d in range(problem.axis_ndim - 1, -1, -1):
        offset += i % problem.axis_shape[d] * o.axis[d]
        i //= problem.axis_shape[d]
    return offset


cdef void gather(const Problem *problem, const View *o, const char *row, Py_ssize_t first, Py_ssize_t n,
                 real *dst) noexcept nogil:
    cdef Py_ssize_t i = first, count
    while i < first + n:
        count = axis_run(problem, i, first + n - i)
        load_run(o.storage, row + axis_offset(problem, o, i), o.step, count, dst)
        dst += count
        i += count


cdef void exclude(const Problem *problem, Py_ssize_t row, real *dst, real value) noexcept nogil:
    # The elements of IN OUT dst[problem.n], a row, that the mask excludes become "value".
    cdef const char *mask = batch_at(problem, &problem.mask, row)
    cdef Py_ssize_t i = 0, count
    while i < problem.n:
        count = axis_run(problem, i, problem.n - i)
        exclude_run(mask + axis_offset(problem, &problem.mask, i), problem.mask.step, count, dst + i, value)
        i += count


cdef void shift_exactly(const Problem *problem, Py_ssize_t row, real *dst, uint64_t *key) noexcept nogil:
    # A row of 64-bit integers whose maximum a double does not hold: dst becomes their exact differences from it. OUT
    # key[0]: the key of the maximum.
    cdef const char *x = batch_at(problem, &problem.x, row)
    cdef const char *mask = batch_at(problem, &problem.mask, row) if problem.mask.data != NULL else NULL
    cdef Py_ssize_t i = 0, count
    key[0] = 0
    while i < problem.n:
        count = axis_run(problem, i, problem.n - i)
        max_keys(problem.x.storage, x + axis_offset(problem, &problem.x, i), problem.x.step, count,
                 mask + axis_offset(problem, &problem.mask, i) if mask != NULL else NULL, problem.mask.step, key, 0)
        i += count
    i = 0
    while i < problem.n:
        count = axis_run(problem, i, problem.n - i)
        subtract_keys(problem.x.storage, x + axis_offset(problem, &problem.x, i), problem.x.step, count, key, 0,
                      dst + i)
        i += count


cdef void scatter(const Problem *problem, const View *o, char *row, Py_ssize_t first, Py_ssize_t n,
                  const real *src) noexcept nogil:
    cdef Py_ssize_t i = first, count
    while i < first + n:
        count = axis_run(problem, i, first + n - i)
        store_run(o.storage, row + axis_offset(problem, o, i), o.step, count, src)
        src += count
        i += count


cdef inline bint dense_rows(const Problem *problem, const View *o, Py_ssize_t size) noexcept nogil:
    # a run of rows is one run of elements
    return problem.axis_ndim == 1 and o.step == size and o.row == size * problem.n


cdef void gather_rows(const Problem *problem, const View *o, const char *row, Py_ssize_t rows,
                      real *dst) noexcept nogil:
    cdef Py_ssize_t r, size = 2 if (o.storage & 15) <= 1 else <Py_ssize_t> sizeof(real)
    if dense_rows(problem, o, size):
        load_run(o.storage, row, size, rows * problem.n, dst)
        return
    for r in range(rows):
        gather(problem, o, row + r * o.row, 0, problem.n, dst + r * problem.n)


cdef void scatter_rows(const Problem *problem, const View *o, char *row, Py_ssize_t rows,
                       const real *src) noexcept nogil:
    cdef Py_ssize_t r, size = 2 if (o.storage & 15) <= 1 else <Py_ssize_t> sizeof(real)
    if dense_rows(problem, o, size):
        store_run(o.storage, row, size, rows * problem.n, src)
        return
    for r in range(rows):
        scatter(problem, o, row + r * o.row, 0, problem.n, src + r * problem.n)


cdef inline real excluded_input(int operation) noexcept nogil:
    # what the mask puts in place of a logit, or of an incoming gradient
    return 0 if is_derivative(operation) else -INFINITY


cdef inline real excluded_output(int operation) noexcept nogil:
    # what a probability or log-probability is where the mask excludes its class
    return 0 if operation == SOFTMAX or operation == SOFTMAX_GRAD else -INFINITY


cdef inline real excluded_result(int operation) noexcept nogil:
    return 0 if is_derivative(operation) else excluded_output(operation)


# ---------------------------------------------------------------------------------------- masks of rows

cdef inline bint is_contiguous(const Problem *problem, const View *o) noexcept nogil:
    # Whether the elements of a row are native reals next to each other.
    return problem.axis_ndim == 1 and o.storage == REAL and o.step == <Py_ssize_t> sizeof(real)


cdef void load_rows(const Problem *problem, const View *o, Py_ssize_t row, Py_ssize_t rows, real *dst, real excluded,
                    char *expanded) noexcept nogil:
    # Rows [row, row + rows) of an operand to OUT dst[rows * problem.n], as if the excluded classes were not there.
    # Scratch: expanded[rows * problem.n + 7], where there is a mask.
    cdef const char *x = batch_at(problem, o, row)
    cdef const char *mask
    cdef Py_ssize_t r, pitch = problem.mask.row, step = problem.mask.step
    if problem.mask.data == NULL:
        gather_rows(problem, o, x, rows, dst)
        return
    mask = batch_at(problem, &problem.mask, row)
    if is_contiguous(problem, o) and (<uintptr_t> x | <uintptr_t> o.row) % sizeof(real) == 0 and 0 <= step <= 1:
        if dense_rows(problem, o, sizeof(real)) and (pitch == 0 or step == 0):
            expand_mask(mask, pitch, step, rows, problem.n, expanded)
            mask = expanded
            pitch = problem.n
            step = 1
        if dense_rows(problem, o, sizeof(real)) and pitch == problem.n:
            select_block(<const real *> x, mask, rows * problem.n, dst, excluded)
            return
        for r in range(rows):
            load_where(<const real *> x, mask, step, problem.n, dst + r * problem.n, excluded)
            x += o.row
            mask += pitch
        return
    gather_rows(problem, o, x, rows, dst)
    for r in range(rows):
        exclude(problem, row + r, dst + r * problem.n, excluded)


cdef void mask_results(const Problem *problem, Py_ssize_t row, Py_ssize_t rows, real *y,
                       Py_ssize_t pitch) noexcept nogil:
    # The excluded elements of IN OUT y, "pitch" reals from row to row, where the kernels wrote something else: all of a
    # derivative's, and those of rows that are NaN, as a row without a class is.
    cdef Py_ssize_t r
    for r in range(rows):
        if is_derivative(problem.operation) or y[r * pitch] != y[r * pitch]:
            exclude(problem, row + r, y + r * pitch, excluded_result(problem.operation))


# ------------------------------------------------------------------------------------------------- rows

cdef inline Py_ssize_t stage_rows(const Problem *problem) noexcept nogil:
    # rows that are staged together, at most
    cdef Py_ssize_t rows = STAGE // (problem.n if problem.n > 0 else 1)
    return 1 if rows < 1 else (LOSS_CHUNK if rows > LOSS_CHUNK else rows)


cdef inline Py_ssize_t in_flight(const Problem *problem) noexcept nogil:
    # Rows whose exponentials and BlockStats are stored at a time, at most: two sets of those that are finished together
    # if one set is pending, which for softmax are single rows.
    cdef Py_ssize_t most = rows_together(problem.n)
    if is_derivative(problem.operation) or problem.strategy == PACKED_ROWS:
        return 0
    if problem.pending:
        most = 2 if problem.operation == SOFTMAX else 2 * most
    return most if problem.rows > most else problem.rows


cdef inline Py_ssize_t exp_reals(const Problem *problem) noexcept nogil:
    # What run_batch works in.
    if problem.strategy == PACKED_ROWS and not is_derivative(problem.operation):
        return groups_of(problem.n) * VL * problem.n
    return in_flight(problem) * padded(problem.n)


cdef inline Py_ssize_t loss_room(const Problem *problem) noexcept nogil:
    # rows whose losses are prepared together, at most
    return problem.rows if problem.rows < LOSS_CHUNK else LOSS_CHUNK


cdef Py_ssize_t lay_rows(const Problem *problem, RowScratch *r, char *base) noexcept nogil:
    # OUT r: its pieces, from base on; NULL are those that the problem does not need, or all if base is. Returns the
    # size of all in bytes.
    cdef Scratch scratch = scratch_at(base)
    cdef Py_ssize_t rows = stage_rows(problem)
    r.probabilities = r.tile = r.tile_p = NULL
    r.keys = NULL
    r.exponents = NULL
    r.mask = NULL
    r.stats = <BlockStats *> scratch_alloc(&scratch, in_flight(problem) * blocks_of(problem.n), sizeof(BlockStats))
    r.e = scratch_reals(&scratch, exp_reals(problem))
    if is_loss(problem.operation):
        lay_losses(&r.losses, loss_room(problem), &scratch)
        r.probabilities = scratch_reals(&scratch, padded(problem.n))
    if problem.access == DIRECT:
        return scratch.used
    if problem.access == LOADED:
        r.tile = scratch_reals(&scratch, 2 * BLOCK)
        r.tile_p = scratch_reals(&scratch, LOSS_CHUNK)
        return scratch.used
    r.keys = <uint64_t *> scratch_alloc(&scratch, rows if problem.exact else 0, sizeof(uint64_t))
    r.exponents = <Py_ssize_t *> scratch_alloc(&scratch, rows if problem.rescaled else 0, sizeof(Py_ssize_t))
    r.mask = <char *> scratch_alloc(&scratch, rows * problem.n + 7 if problem.mask.data != NULL else 0, 1)
    # A row's last vector is written whole.
    r.tile = scratch_reals(&scratch, rows * problem.n + ACCUMULATORS)
    r.tile_p = scratch_reals(&scratch, rows * (problem.n if problem.p.data != NULL else 1) + ACCUMULATORS)
    return scratch.used


cdef inline Py_ssize_t most_rows(const Problem *problem, Py_ssize_t rows) noexcept nogil:
    # How many of so many rows run_batch is given together, at most.
    if problem.access == STAGED and rows > stage_rows(problem):
        rows = stage_rows(problem)
    if problem.access == LOADED and problem.operation == LOGSUMEXP and rows > LOSS_CHUNK:
        rows = LOSS_CHUNK
    if is_loss(problem.operation) and rows > loss_chunk(problem.n):
        rows = loss_chunk(problem.n)
    return rows


cdef inline Py_ssize_t rows_from(const Problem *problem, Py_ssize_t row, Py_ssize_t rows) noexcept nogil:
    # How many of the next rows, "rows" of them at most, lie at one stride and belong to one sum of losses.
    cdef Py_ssize_t left = problem.inner - row % problem.inner
    if rows > left:
        rows = left
    if is_loss(problem.operation):
        left = loss_chunk(problem.n) - row % loss_chunk(problem.n)
        if rows > left:
            rows = left
    return rows


cdef inline void begin_batch(const Problem *problem, RowBatch *s, const RowScratch *scratch) noexcept nogil:
    # OUT s: what all of the problem's batches have in common.
    memset(s, 0, sizeof(RowBatch))
    s.n = problem.n
    s.t = inner_temperature(problem)
    s.inv_t = 1 / s.t
    s.storage = problem.x.storage if problem.access == LOADED else REAL
    s.stage = scratch.tile if problem.access == LOADED else NULL
    s.operation = problem.operation
    s.packed = problem.strategy == PACKED_ROWS
    s.pending = problem.pending
    s.stream = problem.stream


cdef inline void place_batch(const Problem *problem, Py_ssize_t row, RowBatch *s,
                             const RowScratch *scratch) noexcept nogil:
    # OUT s: where rows from "row" of the problem on lie.
    cdef Py_ssize_t size = element_size(s.storage)
    s.x = <const real *> batch_at(problem, &problem.x, row)
    s.x_pitch = problem.x.row // size
    if problem.y.data != NULL:
        s.y = <real *> batch_at(problem, &problem.y, row)
        s.y_pitch = problem.y.row // size
    if problem.p.data != NULL:
        s.p = <const real *> batch_at(problem, &problem.p, row)
        s.p_pitch = problem.p.row // size
    if problem.access == LOADED and problem.operation == LOGSUMEXP:
        s.y = scratch.tile_p
        s.y_pitch = 1
    if problem.mask.data != NULL:
        s.mask = batch_at(problem, &problem.mask, row)
        s.mask_pitch = problem.mask.row
        s.mask_step = problem.mask.step


cdef inline bint is_stored_directly(const Problem *problem, const char *y) noexcept nogil:
    # Whether the results of a batch of staged rows, the first of them at y, need no scratch of their own.
    return (y != NULL and is_contiguous(problem, &problem.y) and problem.operation != LOGSUMEXP
            and not is_loss(problem.operation) and not problem.rescaled
            and (<uintptr_t> y | <uintptr_t> problem.y.row) % sizeof(real) == 0)


cdef void load_batch(const Problem *problem, Py_ssize_t row, RowBatch *s, const RowScratch *scratch) noexcept nogil:
    # OUT s: s.rows rows from "row" of the problem on, as reals in scratch. What the mask excludes is replaced there;
    # 64-bit integers that a double does not hold are their differences from the maximum; at an extreme temperature
    # powers of two are taken out.
    cdef char *y = batch_at(problem, &problem.y, row) if problem.y.data != NULL else NULL
    cdef Py_ssize_t n = problem.n, r
    load_rows(problem, &problem.x, row, s.rows, scratch.tile, excluded_input(problem.operation), scratch.mask)
    s.x = s.y = scratch.tile
    s.x_pitch = s.y_pitch = s.p_pitch = n
    if problem.operation == LOGSUMEXP:
        s.y = scratch.tile_p
        s.y_pitch = 1
    elif is_stored_directly(problem, y):
        s.y = <real *> y
        s.y_pitch = problem.y.row // <Py_ssize_t> sizeof(real)
    if problem.p.data != NULL:
        load_rows(problem, &problem.p, row, s.rows, scratch.tile_p, excluded_output(problem.operation), scratch.mask)
        s.p = scratch.tile_p
    if problem.exact:
        for r in range(s.rows):
            shift_exactly(problem, row + r, scratch.tile + r * n, scratch.keys + r)
            if problem.mask.data != NULL:
                exclude(problem, row + r, scratch.tile + r * n, excluded_input(problem.operation))
    if problem.rescaled:
        rescale(problem, scratch.tile, s.rows, n, 1, scratch.exponents)


cdef inline void store_sums(const Problem *problem, Py_ssize_t row, Py_ssize_t rows, const real *sums) noexcept nogil:
    # OUT problem.y: results of LOGSUMEXP, of rows or columns from "row" of the problem on.
    store_run(problem.y.storage, batch_at(problem, &problem.y, row), problem.y.row, rows, sums)


cdef void store_batch(const Problem *problem, Py_ssize_t row, const RowBatch *s,
                      const RowScratch *scratch) noexcept nogil:
    # OUT problem.y: the results of a batch that load_batch has loaded.
    cdef char *y
    cdef Py_ssize_t r
    if problem.rescaled:
        scale_back(problem, scratch.tile, s.rows, problem.n, 1, scratch.exponents)
    if problem.y.data == NULL:
        return
    if problem.operation == LOGSUMEXP:
        for r in range(s.rows if problem.exact else 0):
            s.y[r] = add_key(problem.x.storage, scratch.keys[r], s.y[r])
        store_sums(problem, row, s.rows, s.y)
        return
    if problem.mask.data != NULL:
        mask_results(problem, row, s.rows, s.y, s.y_pitch)
    y = batch_at(problem, &problem.y, row)
    if s.y != <real *> y:
        scatter_rows(problem, &problem.y, y, s.rows, s.y)


cdef void run_rows(const Problem *problem, Py_ssize_t begin, Py_ssize_t end, char *base) noexcept nogil:
    # Rows [begin, end) of the problem. Scratch: base.
    cdef Py_ssize_t most = most_rows(problem, end - begin), row = begin
    cdef RowScratch scratch
    cdef RowBatch s
    lay_rows(problem, &scratch, base)
    begin_batch(problem, &s, &scratch)
    while row < end:
        s.rows = rows_from(problem, row, most if most < end - row else end - row)
        if problem.access == STAGED:
            load_batch(problem, row, &s, &scratch)
        else:
            place_batch(problem, row, &s, &scratch)
        if is_loss(problem.operation):
            loss_rows(problem, &s, row, &scratch)
        else:
            run_batch(&s, scratch.e, scratch.stats)
        if problem.access == STAGED:
            store_batch(problem, row, &s, &scratch)
        elif problem.access == LOADED and problem.operation == LOGSUMEXP:
            store_sums(problem, row, s.rows, s.y)
        elif problem.mask.data != NULL:
            mask_results(problem, row, s.rows, s.y, s.y_pitch)
        row += s.rows
    if problem.stream:
        stream_fence()


# ---------------------------------------------------------------------------------------------- columns

cdef Py_ssize_t lay_columns(const Problem *problem, Py_ssize_t width, ColumnScratch *c, char *base) noexcept nogil:
    # As lay_rows, for tiles of "width" columns: problem.width, or fewer, which take no more of it.
    cdef Scratch scratch = scratch_at(base)
    lay_tile(&c.tile, problem.n, width, &scratch)
    lay_stage(&c.stage, problem, width, &scratch)
    if is_loss(problem.operation):
        lay_losses(&c.losses, width, &scratch)
        c.probabilities = scratch_reals(&scratch, problem.n)
    return scratch.used


cdef inline Py_ssize_t place_tile(const Problem *problem, Py_ssize_t unit, ColumnTile *s) noexcept nogil:
    # OUT s: where tile "unit" of the problem lies. Returns which row of the problem its first column is.
    cdef Py_ssize_t inner = problem.inner, tiles = (inner + problem.width - 1) // problem.width
    cdef Py_ssize_t column = unit % tiles * problem.width, row = unit // tiles * inner + column
    cdef Py_ssize_t size = <Py_ssize_t> sizeof(real)
    s.width = problem.width if inner - column > problem.width else inner - column
    s.x = <const real *> batch_at(problem, &problem.x, row)
    s.x_step = problem.x.step // size
    s.right = s.x + (s.width if column + s.width < inner else 0)
    s.right_step = s.x_step
    if problem.y.data != NULL:
        s.y = <real *> batch_at(problem, &problem.y, row)
        s.y_step = 1 if problem.operation == LOGSUMEXP else problem.y.step // size
    if problem.p.data != NULL:
        s.p = <const real *> batch_at(problem, &problem.p, row)
        s.p_step = problem.p.step // size
    return row


cdef void run_columns(const Problem *problem, Py_ssize_t begin, Py_ssize_t end, char *base) noexcept nogil:
    # Tiles [begin, end) of the problem. Scratch: base.
    cdef Py_ssize_t unit, row, width = 0
    cdef ColumnScratch scratch
    cdef ColumnTile s
    memset(&s, 0, sizeof(ColumnTile))
    s.n = problem.n
    s.t = inner_temperature(problem)
    s.inv_t = 1 / s.t
    s.stream = problem.stream
    for unit in range(begin, end):
        row = place_tile(problem, unit, &s)
        if s.width != width:
            width = s.width
            lay_columns(problem, width, &scratch, base)
        if is_tile_loaded(problem):
            load_tile(problem, row, &scratch.stage, &s)
        if is_loss(problem.operation):
            loss_columns(problem, &s, row, unit, &scratch)
        else:
            run_tile(&s, &scratch.tile, problem.operation)
        if problem.access != DIRECT:
            store_tile(problem, row, &scratch.stage, &s)
    if s.stream:
        stream_fence()


cdef void run(const Problem *problem, Py_ssize_t begin, Py_ssize_t end, char *scratch) noexcept nogil:
    if problem.strategy == COLUMN_TILES:
        run_columns(problem, begin, end, scratch)
    elif (problem.strategy != SINGLE_ROW
            or not single_row(problem.operation, problem.x.data, problem.p.data, problem.y.data, problem.n,
                              problem.temperature)):
        run_rows(problem, begin, end, scratch)


cdef Py_ssize_t scratch_bytes(const Problem *problem) noexcept nogil:
    # How many bytes run works in.
    cdef RowScratch rows
    cdef ColumnScratch columns
    if problem.strategy == COLUMN_TILES:
        return lay_columns(problem, problem.width, &columns, NULL)
    return lay_rows(problem, &rows, NULL)


# --------------------------------------------------------------------------------- one row, by its blocks

cdef struct BlockScratch:
    # Scratch of measure and write: a block each, which is written in whole vectors.
    real *x                   # logits or incoming gradients where they are staged; or their exponentials
    real *p                   # staged outputs of the forward
    real *e                   # results, or exponentials that are to be normalised


cdef Py_ssize_t lay_blocks(BlockScratch *b, char *base) noexcept nogil:
    # As lay_rows.
    cdef Scratch scratch = scratch_at(base)
    b.x = scratch_reals(&scratch, BLOCK)
    b.p = scratch_reals(&scratch, BLOCK)
    b.e = scratch_reals(&scratch, BLOCK)
    return scratch.used


cdef inline const real *block_of(const Problem *problem, const View *o, const char *row, Py_ssize_t b, Py_ssize_t n,
                                 real *stage) noexcept nogil:
    if problem.access == DIRECT:
        return <const real *> row + b * BLOCK
    gather(problem, o, row, b * BLOCK, n, stage)
    return stage


cdef inline bint in_place_exps(const Problem *problem, Py_ssize_t n) noexcept nogil:
    # Whether the exponentials of a block of n wait in the result.
    return problem.operation == SOFTMAX and problem.access == DIRECT and may_wait(n, problem.stream)


cdef inline bint next_of_split(const Problem *problem, const real *block, Py_ssize_t b, Py_ssize_t end,
                               NextBlock *next) noexcept nogil:
    # OUT next: the block after b, where it lies ready in memory; whether there is one.
    cdef bint ready = problem.access == DIRECT and b + 1 < end
    next.known = False
    next.x = block + BLOCK if ready else block
    next.n = block_length(problem.n, b + 1 if ready else b)
    return ready


cdef void measure_dots(const Problem *problem, Py_ssize_t row, Py_ssize_t begin, Py_ssize_t end, BlockStats *stats,
                       const BlockScratch *scratch) noexcept nogil:
    # As measure, of a derivative.
    cdef char *x = batch_at(problem, &problem.x, row)
    cdef char *p = batch_at(problem, &problem.p, row)
    cdef const real *g
    cdef Py_ssize_t b, n
    for b in range(begin, end):
        n = block_length(problem.n, b)
        g = block_of(problem, &problem.x, x, b, n, scratch.x)
        block_dots[problem.operation](g, block_of(problem, &problem.p, p, b, n, scratch.p), g, n, &stats[b].sum,
                                      &stats[b].sum_rest)


cdef void measure(const Problem *problem, Py_ssize_t row, Py_ssize_t begin, Py_ssize_t end, double *blocks,
                  char *base) noexcept nogil:
    # OUT blocks: the BlockStats of blocks [begin, end) of a row. Scratch: base, of which lay_blocks says how much.
    cdef BlockStats *stats = <BlockStats *> blocks
    cdef char *x = batch_at(problem, &problem.x, row)
    cdef char *y = batch_at(problem, &problem.y, row) if problem.y.data != NULL else NULL
    cdef Py_ssize_t b
    cdef bint known = False
    cdef real m = 0
    cdef Sweep sweep
    cdef BlockScratch scratch
    lay_blocks(&scratch, base)
    if problem.p.data != NULL:
        measure_dots(problem, row, begin, end, stats, &scratch)
        return
    sweep.t = problem.temperature
    for b in range(begin, end):
        sweep.n = block_length(problem.n, b)
        sweep.x = block_of(problem, &problem.x, x, b, sweep.n, scratch.x)
        sweep.maximum = m if known else block_max(sweep.x, sweep.n)
        sweep.e = sweep.next.y = scratch.x
        if in_place_exps(problem, sweep.n):
            sweep.e = <real *> y + b * BLOCK
            sweep.next.y = lines_to_write(sweep.e, sweep.e)
        known = next_of_split(problem, sweep.x, b, end, &sweep.next)
        if problem.operation == SOFTMAX:
            m = sweep_exps(&sweep, stats + b)
        else:
            m = sweep_sums(&sweep, stats + b)


cdef bint big_dot(const Problem *problem, Py_ssize_t row, BigDot *dot) noexcept nogil:
    # As finish_line, of a row that blocks write.
    cdef const char *x = batch_at(problem, &problem.x, row)
    cdef const char *p = batch_at(problem, &problem.p, row)
    cdef real g[VL]
    cdef real probabilities[VL]
    cdef Py_ssize_t i, n
    dot.high = dot.low = 0
    for i from 0 <= i < problem.n by VL:
        n = lanes_left(problem.n - i)
        gather(problem, &problem.x, x, i, n, g)
        gather(problem, &problem.p, p, i, n, probabilities)
        add_terms(dot, g, probabilities, n, problem.operation)
        if not fabs(dot.high) < INFINITY:
            return False
    return finish_dot(dot, problem.operation)


cdef void join_dots(const Problem *problem, Py_ssize_t row, BlockStats *stats) noexcept nogil:
    # IN stats: one a block. OUT sum and sum_rest of the first: what gradient_dot gives, and a factor of 1; or a BigDot,
    # and the factor its gradients were multiplied by.
    cdef double total = 0, lost = 0
    cdef Py_ssize_t b
    cdef real dot, rest
    cdef BigDot big
    for b in range(blocks_of(problem.n)):
        add_part(stats[b].sum, &total, &lost)
        lost += stats[b].sum_rest
    gradient_dot(total, lost, problem.operation, &dot, &rest)
    stats.sum = dot
    stats.sum_rest = rest
    stats.factor = 1
    if is_beyond(dot, problem.n, problem.operation) and big_dot(problem, row, &big):
        stats.sum = big.high
        stats.sum_rest = big.low
        stats.factor = ldexp(1, -LESS)


cdef void finish(const Problem *problem, Py_ssize_t row, double *blocks) noexcept nogil:
    # IN OUT blocks: the BlockStats of all blocks of a row. For softmax each gets its factor; else the first gets what
    # all results of the row are made with.
    cdef BlockStats *stats = <BlockStats *> blocks
    cdef Py_ssize_t count = blocks_of(problem.n)
    cdef double m = 0, log_sum = 0, log_rest = 0
    cdef real value
    if problem.operation == SOFTMAX:
        join_softmax(stats, count, problem.temperature, 1)
    elif problem.p.data != NULL:
        join_dots(problem, row, stats)
    else:
        join_log(stats, count, problem.temperature, &m, &log_sum, &log_rest)
        stats.maximum = m
        stats.sum = log_sum
        stats.sum_rest = log_rest
        if problem.operation == LOGSUMEXP:
            value = whole_log(m, log_sum, log_rest)
            store_run(problem.y.storage, batch_at(problem, &problem.y, row), 0, 1, &value)


cdef void write_gradients(const Problem *problem, Py_ssize_t row, Py_ssize_t begin, Py_ssize_t end,
                          const BlockStats *stats, const BlockScratch *scratch) noexcept nogil:
    # As write, of a derivative.
    cdef char *x = batch_at(problem, &problem.x, row)
    cdef char *p = batch_at(problem, &problem.p, row)
    cdef char *y = batch_at(problem, &problem.y, row)
    cdef const real *g
    cdef const real *probabilities
    cdef real *target
    cdef Factors factors
    cdef Line line
    cdef BigDot big
    cdef Py_ssize_t b, n
    factors.dot = <real> stats.sum
    factors.rest = <real> stats.sum_rest
    factors.inv_t = 1 / problem.temperature
    big.high = stats.sum
    big.low = stats.sum_rest
    for b in range(begin, end):
        n = block_length(problem.n, b)
        g = block_of(problem, &problem.x, x, b, n, scratch.x)
        probabilities = block_of(problem, &problem.p, p, b, n, scratch.p)
        target = <real *> y + b * BLOCK if problem.access == DIRECT else scratch.e
        if stats.factor == 1:
            block_gradients[problem.operation](g, probabilities, target, n, &factors, problem.stream)
        else:
            line = line_of(g, probabilities, target, n, REAL)
            write_line(&line, &big, factors.inv_t, problem.operation)
        if problem.access != DIRECT:
            scatter(problem, &problem.y, y, b * BLOCK, n, target)


cdef void write_exponentials(const Problem *problem, const real *block, Py_ssize_t b, Py_ssize_t end,
                             const BlockStats *stats, real *e, real *target) noexcept nogil:
    # Softmax of block b of a row, IN block, to OUT target. Scratch: e[BLOCK].
    cdef Py_ssize_t n = block_length(problem.n, b)
    cdef BlockStats unused
    cdef Sweep sweep
    if in_place_exps(problem, n):
        e = target
    else:
        next_of_split(problem, block, b, end, &sweep.next)
        sweep.next.y = e if problem.stream else target
        sweep.x = block
        sweep.n = n
        sweep.e = e
        sweep.maximum = <real> stats[b].maximum
        sweep.t = problem.temperature
        sweep_exps(&sweep, &unused)
    normalise_reals(e, target, n, stats[b].factor, stats[b].factor_rest, problem.stream)


cdef void write(const Problem *problem, Py_ssize_t row, Py_ssize_t begin, Py_ssize_t end, double *blocks,
                char *base) noexcept nogil:
    # The results of blocks [begin, end) of a row, from IN blocks, its BlockStats, as finish left them. Scratch: as of
    # measure.
    cdef const BlockStats *stats = <const BlockStats *> blocks
    cdef char *x = batch_at(problem, &problem.x, row)
    cdef char *y
    cdef real *target
    cdef real high, low
    cdef const real *block
    cdef Logs logs
    cdef Py_ssize_t b, n
    cdef BlockScratch scratch
    if problem.operation == LOGSUMEXP:
        return
    lay_blocks(&scratch, base)
    y = batch_at(problem, &problem.y, row)
    if problem.p.data != NULL:
        write_gradients(problem, row, begin, end, stats, &scratch)
    else:
        split_log(stats.maximum, stats.sum, stats.sum_rest, 1 / problem.temperature, &high, &low)
        logs = logs_of(v_set1(high), v_set1(low), 1 / problem.temperature)
        for b in range(begin, end):
            n = block_length(problem.n, b)
            block = block_of(problem, &problem.x, x, b, n, scratch.x)
            target = <real *> y + b * BLOCK if problem.access == DIRECT else scratch.e
            if problem.operation == SOFTMAX:
                write_exponentials(problem, block, b, end, stats, scratch.e, target)
            else:
                log_reals(block, target, n, &logs, problem.stream)
            if problem.access != DIRECT:
                scatter(problem, &problem.y, y, b * BLOCK, n, target)
    if problem.stream:
        stream_fence()


# -------------------------------------------------------------------------------------- what a level offers

cdef void set_loads(Kernels *level) noexcept:
    # OUT level.loads, from the table of operations.
    cdef int operation
    for operation in range(<int> OPERATIONS):
        level.loads[operation] = row_kernels[operation][<int> LOADED_FORM] != NULL


cdef BlockScratch no_blocks
cdef Kernels kernels
kernels.lanes = VL
kernels.block = BLOCK
kernels.short_row = SHORT
kernels.halves = HALVES
kernels.single_most[<int> SOFTMAX] = 2 * ACCUMULATORS
kernels.single_most[<int> SOFTMAX_GRAD] = PLAIN
kernels.pending_least = PENDING_LEAST
kernels.pending_most[<int> SOFTMAX] = FEW_BLOCKS * BLOCK if FUSED else 0
kernels.pending_most[<int> LOG_SOFTMAX] = MANY_BLOCKS * BLOCK if FUSED else 0
set_loads(&kernels)
kernels.run = run
kernels.single = single_row
kernels.scratch_bytes = scratch_bytes
kernels.block_scratch = lay_blocks(&no_blocks, NULL)
kernels.measure = measure
kernels.finish = finish
kernels.write = write

TABLE = PyCapsule_New(&kernels, "csoftmax.kernels", NULL)
