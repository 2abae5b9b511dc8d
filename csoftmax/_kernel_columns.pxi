# The axis is not last: vectors of neighbouring columns walk down it, one column a lane. Accumulator i % LANES
# takes row i, as in a contiguous row, so that a column's bits are those of the same numbers in a row.

cdef enum:
    ROWS_AHEAD = 12           # rows of a panel to fetch ahead: each is on a page of its own
    TILE_BYTES = 262144       # exponentials of a tile are kept while they fit here, else computed twice


cdef struct Panel:
    const real *x
    const real *p
    real *y
    Py_ssize_t n
    Py_ssize_t width              # columns
    Py_ssize_t x_step             # elements from one row of the panel to the next
    Py_ssize_t p_step
    Py_ssize_t y_step
    double inv_t
    bint stream
    bint keep                     # scratch has room for the exponentials of the whole panel
    const double *coefficient     # one a column, or NULL for 1
    double *log_sum               # two a column (CROSS_ENTROPY*)


cdef struct Tile:
    # scratch, in whole vectors across
    Py_ssize_t across             # padded columns
    bint keep                     # as the panel's
    bint far                      # some column needs the general reduction
    real *maximum                 # of a block, one a column; then what the columns share
    real *origin                  # maximum, or 0 where that is -inf
    real *away                    # 0, or the maximum in columns that take the far reduction
    real *magic
    real *center
    real *total                   # LANES accumulators a column
    real *part                    # and those of a SUBBLOCK
    real *ties
    real *e
    double *stats                 # STATS doubles for each block of each column


cdef inline bint tile_keeps(Py_ssize_t n, Py_ssize_t across) noexcept nogil:
    return n * across * <Py_ssize_t> sizeof(real) <= TILE_BYTES


cdef inline Py_ssize_t tile_bytes(Py_ssize_t n, Py_ssize_t width) noexcept nogil:
    cdef Py_ssize_t across = (width + VL - 1) // VL * VL
    cdef Py_ssize_t reals = (5 + 3 * LANES) * across + (n * across if tile_keeps(n, across) else across)
    return reals * sizeof(real) + blocks_of(n) * across * STATS * sizeof(double)


cdef inline void lay_tile(Tile *t, Py_ssize_t n, Py_ssize_t width, bint keep, char *scratch) noexcept nogil:
    t.across = (width + VL - 1) // VL * VL
    t.keep = keep
    t.stats = <double *> scratch
    t.maximum = <real *> (scratch + blocks_of(n) * t.across * STATS * sizeof(double))
    t.origin = t.maximum + t.across
    t.away = t.origin + t.across
    t.magic = t.away + t.across
    t.center = t.magic + t.across
    t.total = t.center + t.across
    t.part = t.total + LANES * t.across
    t.ties = t.part + LANES * t.across
    t.e = t.ties + LANES * t.across


cdef inline vec load_columns(const real *p, Py_ssize_t left, real fill) noexcept nogil:
    return v_load(p) if left >= VL else v_load_n(p, left, fill)


cdef inline void store_columns(real *p, Py_ssize_t left, vec a, const bint stream) noexcept nogil:
    if left < VL:
        v_store_n(p, left, a)
    elif stream:
        v_stream(p, a)
    else:
        v_store(p, a)


cdef inline void fold_columns(real *a, Py_ssize_t across, Py_ssize_t filled) noexcept nogil:
    # LANES accumulators a column to one, by halving; only the first "filled" were written
    cdef Py_ssize_t half = LANES // 2, i, c
    while half > 0:
        for i in range(half):
            if i + half < filled:
                for c from 0 <= c < across by VL:
                    v_store(a + i * across + c,
                            v_add(v_load(a + i * across + c), v_load(a + (i + half) * across + c)))
        half //= 2


cdef inline real *accumulators(const Tile *t, Py_ssize_t i) noexcept nogil:
    # of row i of a block: the first SUBBLOCK adds to the block's own
    return (t.total if i < SUBBLOCK else t.part) + i % LANES * t.across


cdef inline void join_part(const Tile *t, Py_ssize_t i, Py_ssize_t rows) noexcept nogil:
    # after row i: a SUBBLOCK that is complete goes into the block
    cdef Py_ssize_t c, filled = i % SUBBLOCK + 1
    if i < SUBBLOCK or (filled < SUBBLOCK and i + 1 < rows):
        return
    if filled > LANES:
        filled = LANES
    for c from 0 <= c < filled * t.across by VL:
        v_store(t.total + c, v_add(v_load(t.total + c), v_load(t.part + c)))


cdef inline void column_maxima(const Panel *s, const Tile *t, Py_ssize_t first, Py_ssize_t rows) noexcept nogil:
    cdef Py_ssize_t i, c
    cdef vec lowest = v_set1(-INFINITY)
    cdef const real *x = s.x + first * s.x_step
    for c from 0 <= c < s.width by VL:
        v_store(t.maximum + c, lowest)
    for i in range(rows):
        for c from 0 <= c < s.width by VL:
            prefetch(x + (i + ROWS_AHEAD) * s.x_step + c)
            v_store(t.maximum + c,
                    v_max(load_columns(x + i * s.x_step + c, s.width - c, 0), v_load(t.maximum + c)))


cdef inline void column_shifts(const Panel *s, Tile *t) noexcept nogil:
    cdef Py_ssize_t c
    cdef real m
    cdef bint far
    t.far = False
    for c in range(s.width):
        m = shift_of(t.maximum[c])
        far = s.inv_t != 1 or not v_exp_near(m)
        t.far = t.far or far
        t.origin[c] = m
        t.away[c] = m if far else 0
        v_exp_shift(INFINITY if far else m, t.magic + c, t.center + c)


cdef inline vec column_exp(const Panel *s, const Tile *t, const real *x, Py_ssize_t c, vec inv_t, real *e, vec *total,
                           vec *ties, const bint far, const bint keep, const bint split) noexcept nogil:
    cdef shift_t shift
    cdef vec a = load_columns(x + c, s.width - c, 0), d, p
    shift.maximum = v_load(t.origin + c)
    shift.magic = v_load(t.magic + c)
    shift.center = v_load(t.center + c)
    d = v_sub(a, shift.maximum)
    if far:
        d = v_mul(d, inv_t)
        a = v_mul(v_sub(a, v_load(t.away + c)), inv_t)
    p = v_exp(a, d, shift, False)
    gather_sums(p, d, e, total, ties, keep, split)
    return p


cdef inline void column_sums(const Panel *s, const Tile *t, Py_ssize_t first, Py_ssize_t rows,
                             const bint far, const bint keep, const bint split) noexcept nogil:
    cdef Py_ssize_t i, c, filled = rows if rows < LANES else LANES
    cdef vec total, ties, inv_t = v_set1(<real> s.inv_t), zero = v_set1(0)
    cdef const real *x
    cdef real *e
    cdef real *sums
    cdef real *counts
    for i in range(rows):
        x = s.x + (first + i) * s.x_step
        e = t.e + (first + i) * t.across if t.keep else t.e
        sums = accumulators(t, i)
        counts = t.ties + i % LANES * t.across
        for c from 0 <= c < s.width by VL:
            total = zero if i % SUBBLOCK < LANES else v_load(sums + c)
            if split:
                ties = zero if i < LANES else v_load(counts + c)
            column_exp(s, t, x, c, inv_t, e + c, &total, &ties, far, keep, split)
            v_store(sums + c, total)
            if split:
                v_store(counts + c, ties)
        join_part(t, i, rows)
    if rows <= SHORT:
        fold_columns(t.total, t.across, filled)
    if split:
        fold_columns(t.ties, t.across, filled)


cdef inline void column_total(const Tile *t, Py_ssize_t c, Py_ssize_t rows, double *high, double *low) noexcept nogil:
    if rows <= SHORT:
        high[0] = t.total[c]
        low[0] = 0
    else:
        fold(t.total + c, t.across, high, low)


cdef inline void column_stats(const Panel *s, const Tile *t, Py_ssize_t b, const bint split) noexcept nogil:
    cdef Py_ssize_t c, blocks = blocks_of(s.n)
    cdef double *stats
    for c in range(s.width):
        stats = t.stats + (c * blocks + b) * STATS
        stats[0] = t.maximum[c]
        column_total(t, c, block_length(s.n, b), stats + 1, stats + 5)
        stats[2] = 0
        if split:
            stats[2] = t.ties[c]
            if t.maximum[c] == INFINITY and has_nan(s.x + b * BLOCK * s.x_step + c, block_length(s.n, b), s.x_step):
                stats[2] = NAN


cdef inline void write_columns(const Panel *s, Tile *t, const bint stream) noexcept nogil:
    # y = e * factor, block by block; the factor of a block stands in its stats
    cdef Py_ssize_t blocks = blocks_of(s.n), b, i, c
    cdef double factor, unit
    cdef double *stats
    cdef bint tiny
    cdef vec e, unused, inv_t = v_set1(<real> s.inv_t)
    cdef real *high = t.total
    cdef real *low = t.total + t.across
    cdef real *after = t.total + 2 * t.across
    cdef real *y
    for b in range(blocks):
        tiny = False
        for c in range(s.width):
            stats = t.stats + (c * blocks + b) * STATS
            unit = 1 / FACTOR_SCALE
            after[c] = 1
            if 0 < stats[3] < TINY_SCALE * FACTOR_SCALE:
                # as in scale_run
                tiny = True
                unit = 1
                after[c] = <real> (1 / FACTOR_SCALE)
            split_real(stats[3] * unit, stats[4] * unit, high + c, low + c)
            t.maximum[c] = <real> stats[0]
        if not t.keep:
            column_shifts(s, t)
        for i in range(b * BLOCK, b * BLOCK + block_length(s.n, b)):
            y = s.y + i * s.y_step
            for c from 0 <= c < s.width by VL:
                if not stream:
                    prefetch_write(y + ROWS_AHEAD * s.y_step + c)
                if t.keep:
                    e = v_load(t.e + i * t.across + c)
                else:
                    unused = v_set1(0)
                    e = column_exp(s, t, s.x + i * s.x_step, c, inv_t, t.e, &unused, &unused, True, False, False)
                e = scaled(e, v_load(high + c), v_load(low + c))
                if tiny:
                    e = v_mul(e, v_load(after + c))
                store_columns(y + c, s.width - c, e, stream)


cdef inline void log_columns(const Panel *s, const Tile *t, const double *log_sum) noexcept nogil:
    # log_sum: maximum and log of the sum, two a column
    cdef Py_ssize_t i, c
    cdef vec inv_t = v_set1(<real> s.inv_t)
    for c in range(s.width):
        split_log(log_sum[2 * c], log_sum[2 * c + 1], s.inv_t, t.maximum + c, t.origin + c)
        t.origin[c] = -t.origin[c]
    for i in range(s.n):
        for c from 0 <= c < s.width by VL:
            store_columns(s.y + i * s.y_step + c, s.width - c,
                          v_fma(v_sub(load_columns(s.x + i * s.x_step + c, s.width - c, 0), v_load(t.maximum + c)),
                                inv_t, v_load(t.origin + c)), s.stream)


cdef inline void forward_columns(const Panel *s, char *scratch, const int operation) noexcept nogil:
    cdef bint split = operation != SOFTMAX
    cdef bint writes = operation == SOFTMAX or operation == CROSS_ENTROPY_GRAD
    cdef Py_ssize_t blocks = blocks_of(s.n), b, c, rows
    cdef double *stats
    cdef double *log_sum
    cdef Tile t
    lay_tile(&t, s.n, s.width, s.keep, scratch)
    for b in range(blocks):
        rows = block_length(s.n, b)
        column_maxima(s, &t, b * BLOCK, rows)
        column_shifts(s, &t)
        if writes and t.keep:
            if t.far:
                column_sums(s, &t, b * BLOCK, rows, True, True, split)
            else:
                column_sums(s, &t, b * BLOCK, rows, False, True, split)
        else:
            column_sums(s, &t, b * BLOCK, rows, True, False, split)
        column_stats(s, &t, b, split)
    if split:
        # two doubles a column: in the caller's memory, or over accumulators that are done with
        log_sum = s.log_sum if s.log_sum != NULL else <double *> t.total
        if blocks == 1:
            for c in range(s.width):
                stats = t.stats + c * STATS
                stats[3] = (stats[2] - 1) + stats[1] / EXP_SCALE
                log_sum[c] = stats[3]
            log1p_run(log_sum, s.width)
            for c in range(s.width - 1, -1, -1):
                stats = t.stats + c * STATS
                log_sum[2 * c + 1] = settle_log(stats[0], stats[3], log_sum[c], isnan(stats[2]))
                log_sum[2 * c] = stats[0]
        else:
            for c in range(s.width):
                join_log(t.stats + c * blocks * STATS, blocks, s.inv_t, log_sum + 2 * c, log_sum + 2 * c + 1)
        if operation == LOG_SOFTMAX:
            log_columns(s, &t, log_sum)
        elif operation == LOGSUMEXP:
            for c in range(s.width):
                s.y[c * s.y_step] = <real> (log_sum[2 * c] + log_sum[2 * c + 1])
    if writes:
        for c in range(s.width):
            join_softmax(t.stats + c * blocks * STATS, blocks, s.inv_t,
                         s.coefficient[c] if s.coefficient != NULL else 1)
        if s.stream:
            write_columns(s, &t, True)
        else:
            write_columns(s, &t, False)


cdef inline void backward_columns(const Panel *s, char *scratch, const int operation) noexcept nogil:
    cdef Py_ssize_t b, i, c, rows
    cdef double high, low
    cdef real *sums
    cdef vec sum, factor = v_set1(gradient_factor(s.inv_t, operation))
    cdef const real *g
    cdef const real *p
    cdef double *dots
    cdef Tile t
    lay_tile(&t, s.n, s.width, s.keep, scratch)
    dots = t.stats
    for c in range(s.width):
        dots[c] = 0
    for b in range(blocks_of(s.n)):
        rows = block_length(s.n, b)
        for i in range(rows):
            g = s.x + (b * BLOCK + i) * s.x_step
            p = s.p + (b * BLOCK + i) * s.p_step
            sums = accumulators(&t, i)
            for c from 0 <= c < s.width by VL:
                sum = v_set1(0) if i % SUBBLOCK < LANES else v_load(sums + c)
                v_store(sums + c, dot_term(load_columns(g + c, s.width - c, 0), load_columns(p + c, s.width - c, 0),
                                           sum, operation))
            join_part(&t, i, rows)
        if rows <= SHORT:
            fold_columns(t.total, t.across, rows if rows < LANES else LANES)
        for c in range(s.width):
            column_total(&t, c, rows, &high, &low)
            high += low
            dots[c] += high / EXP_SCALE if operation == LOG_SOFTMAX_JVP else high
    for c in range(s.width):
        t.origin[c] = gradient_dot(dots[c], operation)
    for i in range(s.n):
        g = s.x + i * s.x_step
        p = s.p + i * s.p_step
        for c from 0 <= c < s.width by VL:
            store_columns(s.y + i * s.y_step + c, s.width - c,
                          gradient(load_columns(g + c, s.width - c, 0), load_columns(p + c, s.width - c, 0),
                                   v_load(t.origin + c), factor, operation), s.stream)


cdef void run_panel(const Panel *s, char *scratch, int operation) noexcept nogil:
    if operation == SOFTMAX:
        forward_columns(s, scratch, SOFTMAX)
    elif operation == LOG_SOFTMAX:
        forward_columns(s, scratch, LOG_SOFTMAX)
    elif operation == LOGSUMEXP:
        forward_columns(s, scratch, LOGSUMEXP)
    elif operation == CROSS_ENTROPY:
        forward_columns(s, scratch, CROSS_ENTROPY)
    elif operation == CROSS_ENTROPY_GRAD:
        forward_columns(s, scratch, CROSS_ENTROPY_GRAD)
    elif operation == SOFTMAX_GRAD:
        backward_columns(s, scratch, SOFTMAX_GRAD)
    elif operation == LOG_SOFTMAX_VJP:
        backward_columns(s, scratch, LOG_SOFTMAX_VJP)
    else:
        backward_columns(s, scratch, LOG_SOFTMAX_JVP)
