# The prologue and the epilogue of column tiles. A tile of native reals with unit stride is worked on where it lies,
# unless it is staged. Any other is loaded into scratch, where it is native reals with unit stride: converted from
# 16-bit floats, integers, odd strides or foreign byte order, masked, and with the maxima of its columns. So the sweeps
# know nothing of all that. Results that are native reals with unit stride are written where they belong; others are
# written in scratch, from where they are stored.

cdef struct TileStage:
    # Rows of scratch, with an element a column; "pitch" elements from row to row.
    Py_ssize_t pitch
    real *x                       # n rows: logits or incoming gradients; then results that are to be converted
    real *p                       # n rows: the forward's output (derivatives); or one row: results of LOGSUMEXP
    real *maxima                  # a row for each block: the maxima of its columns
    char *mask                    # ROW_GROUP rows: bytes of a mask that has no unit stride
    uint64_t *keys                # one row: the keys of the maxima of 64-bit integers (problem.exact)
    Py_ssize_t *exponents         # one row: powers of two that are taken out of each column (problem.rescaled)


cdef inline bint is_tile_loaded(const Problem *problem) noexcept nogil:
    # Whether tiles are loaded into scratch.
    return problem.access != DIRECT or problem.exps_in_scratch


cdef void lay_stage(TileStage *st, const Problem *problem, Py_ssize_t width, Scratch *scratch) noexcept nogil:
    # OUT st, in scratch: for a tile of "width" columns.
    cdef Py_ssize_t pitch = tile_pitch(width), n = problem.n if is_tile_loaded(problem) else 0
    st.pitch = pitch
    st.x = scratch_reals(scratch, n * pitch)
    st.p = scratch_reals(scratch, (n if problem.p.data != NULL else 1) * pitch)
    st.maxima = scratch_reals(scratch, blocks_of(n) * pitch)
    st.mask = <char *> scratch_alloc(scratch, ROW_GROUP * pitch if problem.mask.data != NULL else 0, 1)
    st.keys = <uint64_t *> scratch_alloc(scratch, pitch if problem.exact else 0, sizeof(uint64_t))
    st.exponents = <Py_ssize_t *> scratch_alloc(scratch, pitch if problem.rescaled else 0, sizeof(Py_ssize_t))


cdef inline bint is_native(const View *o, const char *tile) noexcept nogil:
    # Whether the tile at an address is of native reals with unit stride across its columns.
    cdef Py_ssize_t size = <Py_ssize_t> sizeof(real)
    return (o.storage == REAL and o.row == size and o.step % size == 0
            and <uintptr_t> tile % sizeof(real) == 0)


# ------------------------------------------------------------------------------------------------- prologue

cdef struct TileSource:
    # Rows that are loaded. Steps are in elements.
    const char *raw               # IN: what is converted, or NULL where x is of native reals
    const real *x
    Py_ssize_t x_step
    const char *mask              # IN: a byte for each element, with unit stride; or NULL
    Py_ssize_t mask_step
    real *to                      # OUT: rows of scratch; they may be x itself
    Py_ssize_t pitch
    real *maxima                  # IN OUT: one a column
    Py_ssize_t width


cdef inline vec where_columns(const char *mask, Py_ssize_t left, vec a, vec excluded) noexcept nogil:
    # "a" where the mask includes it, of "left" columns at most; lanes beyond them stay.
    cdef char bytes[VL]
    if left >= VL:
        return v_select_bytes(mask, a, excluded)
    memset(bytes, 1, VL)
    memcpy(bytes, mask, left)
    return v_select_bytes(bytes, a, excluded)


cdef inline void load_vectors(const TileSource *l, Py_ssize_t c, Py_ssize_t left, const Py_ssize_t rows,
                              const bint masked) noexcept nogil:
    # A vector of columns of so many rows: excluded logits become -inf, and the maxima are raised.
    cdef Py_ssize_t ahead = prefetch_distance(c, l.width, rows * l.x_step), k
    cdef vec a, top = v_load(l.maxima + c), excluded = v_set1(-INFINITY)
    for k in range(rows):
        prefetch(l.x + k * l.x_step + c + ahead)
        a = load_columns(l.x + k * l.x_step + c, left)
        if masked:
            prefetch(l.mask + (k + rows) * l.mask_step + c)
            a = where_columns(l.mask + k * l.mask_step + c, left, a, excluded)
        v_store(l.to + k * l.pitch + c, a)
        top = v_max(a, top)
    v_store(l.maxima + c, top)


cdef inline void load_tile_rows(const TileSource *source, const Py_ssize_t rows, const bint masked) noexcept nogil:
    cdef TileSource l = source[0]
    cdef Py_ssize_t c = 0
    while c <= l.width - VL:
        load_vectors(&l, c, VL, rows, masked)
        c += VL
    if c < l.width:
        load_vectors(&l, c, l.width - c, rows, masked)


cdef void load_group(const TileSource *l, Py_ssize_t rows) noexcept nogil:
    # Of up to ROW_GROUP rows.
    cdef TileSource one = l[0]
    cdef Py_ssize_t k
    if rows == ROW_GROUP:
        if l.mask != NULL:
            load_tile_rows(l, ROW_GROUP, True)
        else:
            load_tile_rows(l, ROW_GROUP, False)
        return
    for k in range(rows):
        if l.mask != NULL:
            load_tile_rows(&one, 1, True)
            one.mask += l.mask_step
        else:
            load_tile_rows(&one, 1, False)
        one.x += l.x_step
        one.to += l.pitch


cdef const char *mask_rows_at(const Problem *problem, const char *mask, Py_ssize_t i, Py_ssize_t rows,
                              const TileStage *st, Py_ssize_t width, Py_ssize_t *step) noexcept nogil:
    # Returns the mask's bytes of rows i ... of the tile at "mask", up to ROW_GROUP of them, with unit stride: where
    # they lie, or a copy in scratch. OUT step[0]: bytes from row to row.
    cdef Py_ssize_t stride = problem.mask.row, k, c
    cdef const char *row = mask + i * problem.mask.step
    step[0] = problem.mask.step
    if stride == 1:
        return row
    step[0] = st.pitch
    for k in range(rows):
        if stride == 0:
            memset(st.mask + k * st.pitch, row[0], width)
        else:
            for c in range(width):
                st.mask[k * st.pitch + c] = row[c * stride]
        row += problem.mask.step
    return st.mask


cdef void convert_rows(const Problem *problem, const View *o, const char *tile, Py_ssize_t i, Py_ssize_t rows, real *to,
                       const TileStage *st, Py_ssize_t width) noexcept nogil:
    # OUT to: rows i ... of the tile as reals
    cdef Py_ssize_t k
    for k in range(i, i + rows):
        load_run(o.storage, tile + k * o.step, o.row, width, to)
        to += st.pitch


cdef void load_blocks(const Problem *problem, const TileStage *st, const TileSource *source) noexcept nogil:
    # OUT st.x, st.maxima: all rows of a tile; its "mask" points to the mask of the tile, of any stride.
    cdef TileSource l = source[0]
    cdef Py_ssize_t b, c, i, end, rows
    for b in range(blocks_of(problem.n)):
        l.maxima = st.maxima + b * st.pitch
        for c from 0 <= c < l.width by VL:
            v_store(l.maxima + c, v_set1(-INFINITY))
        end = b * BLOCK + block_length(problem.n, b)
        for i from b * BLOCK <= i < end by ROW_GROUP:
            rows = ROW_GROUP if end - i > ROW_GROUP else end - i
            l.to = st.x + i * st.pitch
            if source.raw != NULL:
                convert_rows(problem, &problem.x, source.raw, i, rows, l.to, st, l.width)
                l.x = l.to
            else:
                l.x = source.x + i * l.x_step
            if source.mask != NULL:
                l.mask = mask_rows_at(problem, source.mask, i, rows, st, l.width, &l.mask_step)
            load_group(&l, rows)


cdef void load_logits(const Problem *problem, Py_ssize_t row, const TileStage *st, Py_ssize_t width) noexcept nogil:
    # OUT st.x, st.maxima: a tile of logits, whose first column is "row" of the problem.
    cdef const char *x = batch_at(problem, &problem.x, row)
    cdef TileSource l
    l.width = width
    l.pitch = st.pitch
    l.mask = batch_at(problem, &problem.mask, row) if problem.mask.data != NULL else NULL
    l.raw = NULL
    l.x = st.x
    l.x_step = st.pitch
    if is_native(&problem.x, x):
        l.x = <const real *> x
        l.x_step = problem.x.step // <Py_ssize_t> sizeof(real)
    elif problem.exact:
        convert_rows(problem, &problem.x, x, 0, problem.n, st.x, st, width)
        subtract_maxima(problem, row, width, st)
    else:
        l.raw = x
    load_blocks(problem, st, &l)
    if problem.rescaled:
        rescale(problem, st.x, width, 1, st.pitch, st.exponents)
        l.raw = l.mask = NULL
        l.x = st.x
        l.x_step = st.pitch
        load_blocks(problem, st, &l)


cdef void subtract_maxima(const Problem *problem, Py_ssize_t row, Py_ssize_t width, const TileStage *st) noexcept nogil:
    # As "shift_exactly", of the columns of a tile. OUT st.x: differences; OUT st.keys: one a column.
    cdef const char *x = batch_at(problem, &problem.x, row)
    cdef const char *mask = batch_at(problem, &problem.mask, row) if problem.mask.data != NULL else NULL
    cdef Py_ssize_t i
    memset(st.keys, 0, width * sizeof(uint64_t))
    for i in range(problem.n):
        max_keys(problem.x.storage, x + i * problem.x.step, problem.x.row, width,
                 mask + i * problem.mask.step if mask != NULL else NULL, problem.mask.row, st.keys, 1)
    for i in range(problem.n):
        subtract_keys(problem.x.storage, x + i * problem.x.step, problem.x.row, width, st.keys, 1, st.x + i * st.pitch)


cdef void load_gradients(const Problem *problem, Py_ssize_t row, const TileStage *st, Py_ssize_t width) noexcept nogil:
    # OUT st.x, st.p: incoming gradients and the forward's output, as if excluded classes were not there.
    cdef const char *x = batch_at(problem, &problem.x, row)
    cdef const char *p = batch_at(problem, &problem.p, row)
    cdef const char *mask = batch_at(problem, &problem.mask, row) if problem.mask.data != NULL else NULL
    cdef const char *included
    cdef real *gradients = st.x
    cdef real *outputs = st.p
    cdef Py_ssize_t i, step
    for i in range(problem.n):
        convert_rows(problem, &problem.x, x, i, 1, gradients, st, width)
        convert_rows(problem, &problem.p, p, i, 1, outputs, st, width)
        if mask != NULL:
            included = mask_rows_at(problem, mask, i, 1, st, width, &step)
            select_block(gradients, included, width, gradients, excluded_input(problem.operation))
            select_block(outputs, included, width, outputs, excluded_output(problem.operation))
        gradients += st.pitch
        outputs += st.pitch
    if problem.rescaled:
        rescale(problem, st.x, width, 1, st.pitch, st.exponents)


cdef void load_tile(const Problem *problem, Py_ssize_t row, const TileStage *st, ColumnTile *s) noexcept nogil:
    # IN OUT s: a tile, whose first column is "row" of the problem, from where it lies to scratch.
    if is_derivative(problem.operation):
        load_gradients(problem, row, st, s.width)
        s.p = st.p
        s.p_step = st.pitch
    else:
        load_logits(problem, row, st, s.width)
        s.maxima = st.maxima
    if not is_native(&problem.x, <const char *> s.x):
        s.right = st.x
        s.right_step = st.pitch
    s.x = st.x
    s.x_step = st.pitch
    if problem.operation == LOGSUMEXP and problem.access != DIRECT:
        s.y = st.p
    elif s.y != NULL and not is_native(&problem.y, <const char *> s.y):
        s.y = st.x
        s.y_step = st.pitch


# ------------------------------------------------------------------------------------------------- epilogue

cdef inline bint has_excluded(const Problem *problem, const ColumnTile *s) noexcept nogil:
    # Whether results may differ from what excluded elements are to have: all of a derivative may, and those of columns
    # that are NaN, as are those of which nothing is included.
    cdef Py_ssize_t c
    if problem.mask.data == NULL or is_derivative(problem.operation):
        return problem.mask.data != NULL
    for c in range(s.width):
        if s.y[c] != s.y[c]:
            return True
    return False


cdef void store_tile(const Problem *problem, Py_ssize_t row, const TileStage *st, const ColumnTile *s) noexcept nogil:
    # OUT problem.y: the results of a tile that load_tile has loaded.
    cdef char *y
    cdef real *results
    cdef const char *mask = NULL
    cdef Py_ssize_t i, c, step
    if problem.y.data == NULL:
        return
    if problem.operation == LOGSUMEXP:
        for c in range(s.width if problem.exact else 0):
            s.y[c] = add_key(problem.x.storage, st.keys[c], s.y[c])
        store_sums(problem, row, s.width, s.y)
        return
    if problem.rescaled:
        scale_back(problem, s.y, s.width, 1, s.y_step, st.exponents)
    y = batch_at(problem, &problem.y, row)
    if has_excluded(problem, s):
        mask = batch_at(problem, &problem.mask, row)
    elif s.y == <real *> y:
        return
    for i in range(problem.n):
        results = s.y + i * s.y_step
        if mask != NULL:
            select_block(results, mask_rows_at(problem, mask, i, 1, st, s.width, &step), s.width, results,
                         excluded_result(problem.operation))
        if s.y != <real *> y:
            store_run(problem.y.storage, y + i * problem.y.step, problem.y.row, s.width, results)
