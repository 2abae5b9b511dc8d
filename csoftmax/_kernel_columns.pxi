# The axis is not last: vectors of neighbouring columns walk down it, one column a lane. Accumulator i % LANES
# takes row i, as in a contiguous row, so that a column's bits are those of the same numbers in a row.
#
# A panel that fits into scratch is copied there first, and read from memory only for that: its rows may lie at a
# stride that makes them compete for the same lines of the cache. Larger panels are wide, and are swept along their
# rows, three times: what a sweep touches lies together, where a narrow panel of many rows is a page a row.

cdef enum:
    TOGETHER = 4              # rows that share one load of what belongs to their columns
    VECTORS_AHEAD = 8         # are fetched while one is worked on
    NEAR_ROWS = 512           # elements from one row to the next, at most


cdef struct Panel:
    const real *x
    const real *p
    real *y
    Py_ssize_t n
    Py_ssize_t width              # columns
    Py_ssize_t x_step             # elements from one row of the panel to the next
    Py_ssize_t p_step
    Py_ssize_t y_step
    double t                      # the temperature, and its reciprocal
    double inv_t
    bint staged                   # copied into scratch
    bint stream
    const double *coefficient     # one a column, or NULL for 1
    double *top                   # the maximum of each column (CROSS_ENTROPY*)
    double *log_sum               # and the logarithm of its sum, in two parts
    double *log_rest


cdef struct Tile:
    # scratch, in rows of whole vectors
    Py_ssize_t columns            # in whole vectors
    Py_ssize_t across             # from row to row
    bint far                      # some column needs the far reduction
    bint tiny                     # some column needs "after"
    real *maxima                  # of a block, one a column; what shift_lanes makes of them follows
    real *origin
    real *away
    real *magic
    real *center
    real *high                    # what a column's results are made with: factors, or shift, or dot product
    real *low
    real *after
    real *total                   # LANES accumulators a column
    real *ties
    real *e                       # logits, then exponentials; or the incoming gradient
    real *p                       # the forward's output, in the derivatives
    double *dots                  # the dot products' accumulators, in place of total and ties
    double *top
    double *log_sum
    double *log_rest
    double *stats                 # STATS doubles for each block of each column, where there are several


cdef inline Py_ssize_t columns_of(Py_ssize_t width) noexcept nogil:
    return (width + VL - 1) // VL * VL


cdef inline Py_ssize_t across_of(Py_ssize_t width) noexcept nogil:
    # not so many that the rows of a tile would compete for the same lines of the cache
    cdef Py_ssize_t across = columns_of(width)
    return across + VL if across * <Py_ssize_t> sizeof(real) % 1024 == 0 else across


cdef inline Py_ssize_t tile_bytes(Py_ssize_t n, Py_ssize_t width, bint staged, bint derivative) noexcept nogil:
    cdef Py_ssize_t across = across_of(width), rows = n * (2 if derivative else 1) if staged else 0
    return ((8 + 2 * LANES + rows) * across * <Py_ssize_t> sizeof(real)
            + (3 + STATS * blocks_of(n)) * across * <Py_ssize_t> sizeof(double))


cdef inline void lay_tile(Tile *t, Py_ssize_t n, Py_ssize_t width, char *scratch) noexcept nogil:
    t.columns = columns_of(width)
    t.across = across_of(width)
    t.far = t.tiny = False
    t.top = <double *> scratch
    t.log_sum = t.top + t.across
    t.log_rest = t.log_sum + t.across
    t.stats = t.log_rest + t.across
    t.maxima = <real *> (t.stats + STATS * blocks_of(n) * t.across)
    t.origin = t.maxima + t.across
    t.away = t.origin + t.across
    t.magic = t.away + t.across
    t.center = t.magic + t.across
    t.high = t.center + t.across
    t.low = t.high + t.across
    t.after = t.low + t.across
    t.total = t.after + t.across
    t.ties = t.total + LANES * t.across
    t.dots = <double *> t.total
    t.e = t.ties + LANES * t.across
    t.p = t.e + n * t.across


cdef inline vec load_columns(const real *p, Py_ssize_t left, real fill) noexcept nogil:
    # of a vector that may lie beyond the panel's last column
    return v_load(p) if left >= VL else v_load_n(p, lanes_left(left), fill)


cdef inline void store_columns(real *p, Py_ssize_t left, vec a, const bint stream) noexcept nogil:
    if left < VL:
        v_store_n(p, lanes_left(left), a)
    elif stream:
        v_stream(p, a)
    else:
        v_store(p, a)


cdef inline Py_ssize_t some_ahead(Py_ssize_t left, Py_ssize_t step, Py_ssize_t rows) noexcept nogil:
    # How far the vector to be fetched is from one with so many columns left, where so many rows are worked on together:
    # further on in its row; or further down, where that row ends and, as in a narrow array, the next one follows.
    return VECTORS_AHEAD * VL + ((rows - 1) * step if left <= VECTORS_AHEAD * VL and step <= NEAR_ROWS else 0)


cdef inline void stage_vectors(const real *x, Py_ssize_t step, Py_ssize_t left, real *e, Py_ssize_t across,
                               real *maxima, Py_ssize_t ahead, const Py_ssize_t rows, const bint copied) noexcept nogil:
    cdef Py_ssize_t k
    cdef vec a, top = v_load(maxima)
    for k in range(rows):
        prefetch(x + k * step + ahead)
        a = load_columns(x + k * step, left, 0)
        if copied:
            v_store(e + k * across, a)
        top = v_max(a, top)
    v_store(maxima, top)


cdef inline void stage_all(const real *x, Py_ssize_t step, Py_ssize_t width, Py_ssize_t rows, real *e,
                           Py_ssize_t across, real *maxima, const bint copied) noexcept nogil:
    cdef Py_ssize_t i = 0, c
    for c from 0 <= c < across by VL:
        v_store(maxima + c, v_set1(-INFINITY))
    while i <= rows - TOGETHER:
        for c from 0 <= c < width by VL:
            stage_vectors(x + i * step + c, step, width - c, e + i * across + c, across, maxima + c,
                          some_ahead(width - c, step, TOGETHER), TOGETHER, copied)
        i += TOGETHER
    while i < rows:
        for c from 0 <= c < width by VL:
            stage_vectors(x + i * step + c, step, width - c, e + i * across + c, across, maxima + c,
                          some_ahead(width - c, step, 1), 1, copied)
        i += 1


cdef void stage_panel(const real *x, Py_ssize_t step, Py_ssize_t width, Py_ssize_t rows, real *e, Py_ssize_t across,
                      real *maxima) noexcept nogil:
    # rows to scratch, and the maxima of their columns
    stage_all(x, step, width, rows, e, across, maxima, True)


cdef void panel_maxima(const real *x, Py_ssize_t step, Py_ssize_t width, Py_ssize_t rows, Py_ssize_t across,
                       real *maxima) noexcept nogil:
    stage_all(x, step, width, rows, NULL, across, maxima, False)


cdef inline bint is_derivative(const int operation) noexcept nogil:
    return operation == SOFTMAX_GRAD or operation == LOG_SOFTMAX_VJP or operation == LOG_SOFTMAX_JVP


cdef struct Source:
    # where the rows of a block are read: in scratch, or in the panel itself
    real *x
    real *p
    Py_ssize_t x_step
    Py_ssize_t p_step
    Py_ssize_t width
    real *e                       # and where exponentials wait: in scratch, or in the result
    Py_ssize_t e_step
    bint scratch


cdef inline Source source_of(const Panel *s, const Tile *t, Py_ssize_t b) noexcept nogil:
    cdef Source from_
    from_.scratch = s.staged
    if s.staged:
        from_.x_step = from_.p_step = t.across
        from_.width = t.columns
        from_.x = t.e + b * BLOCK * t.across
        from_.p = t.p + b * BLOCK * t.across
        from_.e = from_.x
        from_.e_step = t.across
    else:
        from_.x_step = s.x_step
        from_.p_step = s.p_step
        from_.width = s.width
        from_.x = <real *> s.x + b * BLOCK * s.x_step
        from_.p = <real *> s.p + b * BLOCK * s.p_step
        from_.e = s.y + b * BLOCK * s.y_step
        from_.e_step = s.y_step
    return from_


cdef inline bint exps_wait(const Panel *s, const int operation) noexcept nogil:
    # Exponentials are computed once, and wait to be scaled. Cross-entropy's cannot wait in its result, which may be
    # the logits; nor can they in a result that is stored past the caches.
    return s.staged or (operation == SOFTMAX and not s.stream)


cdef inline shift_t load_shift(const Tile *t, Py_ssize_t c) noexcept nogil:
    cdef shift_t shift
    shift.maximum = v_load(t.origin + c)
    shift.magic = v_load(t.magic + c)
    shift.center = v_load(t.center + c)
    return shift


cdef inline vec column_exp(vec x, vec *d, const shift_t *given, vec away, double t, bint far) noexcept nogil:
    # a column that takes the far reduction has no multiple of ln2 and no remainder of its own: what is reduced is
    # d, and its centre is what the rounding of d lost
    cdef shift_t shift = given[0]
    cdef vec lost
    if far:
        d[0] = over_temperature(x, shift.maximum, t, &lost)
        x = d[0] if t != 1 else v_sub(x, away)
        shift.center = v_sub(shift.center, lost)
    else:
        d[0] = v_sub(x, shift.maximum)
    return v_exp(x, d[0], shift, EXP_LANES)


cdef inline void exp_rows(const real *x, Py_ssize_t step, Py_ssize_t rows, const shift_t *shift, vec away,
                          double temperature, real *e, Py_ssize_t e_step, real *apart, vec *counts, const bint far,
                          const bint split) noexcept nogil:
    # exponentials of a vector of columns to e, unless that is NULL; and (split) those below the maximum to "apart"
    cdef Py_ssize_t i
    cdef vec a, d, below
    for i in range(rows):
        a = column_exp(v_load(x + i * step), &d, shift, away, temperature, far)
        if e != NULL:
            v_store(e + i * e_step, a)
        if split:
            below = v_set1(0)
            v_sum_apart(d, a, &below, counts)
            v_store(apart + i * VL, below)


cdef inline void sum_lanes(const real *a, Py_ssize_t step, Py_ssize_t rows, bint further, bint few, real *total,
                           Py_ssize_t across) noexcept nogil:
    # What the rows of one subblock add to the accumulators of a vector of columns. Every fourth of them is in registers
    # at a time; where the rows are few, so is what halving makes of them, and only that is stored.
    cdef Py_ssize_t i, j, k
    cdef vec part[QUARTER]
    cdef vec four[4]
    for j in range(4):
        for k in range(QUARTER):
            part[k] = v_set1(0)
        if few and rows <= 4:
            four[j] = v_load(a + j * step) if j < rows else part[0]
            continue
        i = j
        while i < rows - LANES + 4:
            for k in range(QUARTER):
                part[k] = v_add(part[k], v_load(a + (i + k * 4) * step))
            i += LANES
        for k in range(QUARTER):
            if i + k * 4 < rows:
                part[k] = v_add(part[k], v_load(a + (i + k * 4) * step))
        if few:
            k = QUARTER // 2
            while k > 0:
                for i in range(k):
                    part[i] = v_add(part[i], part[i + k])
                k //= 2
            four[j] = part[0]
            continue
        for k in range(QUARTER):
            if further:
                part[k] = v_add(v_load(total + (j + k * 4) * across), part[k])
            v_store(total + (j + k * 4) * across, part[k])
    if few:
        v_store(total, v_add(four[0], four[2]))
        v_store(total + across, v_add(four[1], four[3]))


cdef inline void exps_and_sums(const Source *from_, Py_ssize_t rows, Py_ssize_t c, const shift_t *shift, vec away,
                               double temperature, real *total, Py_ssize_t across, real *ties, const bint far,
                               const bint keep, const bint split) noexcept nogil:
    cdef bint few = rows <= SHORT
    cdef Py_ssize_t first, count
    cdef real *e
    cdef real apart[SUBBLOCK * VL]
    cdef vec counts = v_set1(0)
    for first from 0 <= first < rows by SUBBLOCK:
        count = rows - first if rows - first < SUBBLOCK else SUBBLOCK
        e = from_.e + first * from_.e_step + c
        exp_rows(from_.x + first * from_.x_step + c, from_.x_step, count, shift, away, temperature, e if keep else NULL,
                 from_.e_step, apart, &counts, far, split)
        if split:
            sum_lanes(apart, VL, count, first > 0, few, total, across)
        else:
            sum_lanes(e, from_.e_step, count, first > 0, few, total, across)
    if split:
        v_store(ties, counts)


cdef inline vec plain_term(vec sum, const real *g, const real *p, Py_ssize_t left) noexcept nogil:
    return v_fma(load_columns(g, left, 0), load_columns(p, left, 0), sum)


cdef inline vec plain_lanes(const real *g, Py_ssize_t step, const real *p, Py_ssize_t p_step, Py_ssize_t rows,
                            const Py_ssize_t left) noexcept nogil:
    # as dot_lanes, but of columns that may lie beyond the panel's last
    cdef Py_ssize_t i, j, k
    cdef vec part[QUARTER]
    cdef vec four[4]
    for j in range(4):
        for k in range(QUARTER):
            part[k] = v_set1(0)
        i = j
        while i < rows - LANES + 4:
            for k in range(QUARTER):
                part[k] = plain_term(part[k], g + (i + k * 4) * step, p + (i + k * 4) * p_step, left)
            i += LANES
        for k in range(QUARTER):
            if i + k * 4 < rows:
                part[k] = plain_term(part[k], g + (i + k * 4) * step, p + (i + k * 4) * p_step, left)
        if QUARTER == 4:
            part[0] = v_add(part[0], part[2])
            part[1] = v_add(part[1], part[QUARTER - 1])
        four[j] = v_add(part[0], part[1])
    return v_add(v_add(four[0], four[2]), v_add(four[1], four[3]))


cdef inline void dot_lanes(const real *g, Py_ssize_t step, const real *p, Py_ssize_t p_step, Py_ssize_t rows,
                           double *sums, Py_ssize_t across, const int operation) noexcept nogil:
    # the accumulators of a vector of columns of a block; the first is all of them where the rows are few
    cdef Py_ssize_t i, j, k
    cdef dot_t part[QUARTER]
    cdef dot_t four[4]
    for j in range(4):
        for k in range(QUARTER):
            i = j + k * 4
            part[k] = first_term(g + i * step, p + i * p_step, VL, operation) if i < rows else dot_zero()
        i = j + LANES
        while i < rows - LANES + 4:
            for k in range(QUARTER):
                part[k] = dot_term(part[k], g + (i + k * 4) * step, p + (i + k * 4) * p_step, 0, operation, REAL)
            i += LANES
        for k in range(QUARTER):
            if i + k * 4 < rows:
                part[k] = dot_term(part[k], g + (i + k * 4) * step, p + (i + k * 4) * p_step, 0, operation, REAL)
        if rows > SHORT:
            for k in range(QUARTER):
                dot_store(sums + (j + k * 4) * across, LANES, across, part[k])
            continue
        if QUARTER == 4:
            part[0] = dot_join(part[0], part[2])
            part[1] = dot_join(part[1], part[QUARTER - 1])
        four[j] = dot_join(part[0], part[1])
    if rows <= SHORT:
        dot_store(sums, LANES, across, dot_join(dot_join(four[0], four[2]), dot_join(four[1], four[3])))


cdef void other_sums(const Source *from_, Py_ssize_t rows, Py_ssize_t c, const shift_t *shift, const real *away,
                     double t, real *total, Py_ssize_t across, real *ties, int operation, bint far) noexcept nogil:
    # as vector_sums, but for softmax: compiled once for columns and packed rows
    if operation == CROSS_ENTROPY_GRAD:
        if far:
            exps_and_sums(from_, rows, c, shift, v_load(away), t, total, across, ties, True, True, True)
        else:
            exps_and_sums(from_, rows, c, shift, v_load(away), t, total, across, ties, False, True, True)
    elif far:
        exps_and_sums(from_, rows, c, shift, v_load(away), t, total, across, ties, True, False, True)
    else:
        exps_and_sums(from_, rows, c, shift, v_load(away), t, total, across, ties, False, False, True)


cdef inline void vector_sums(const Source *from_, Py_ssize_t rows, Py_ssize_t c, const shift_t *shift,
                             const real *away, double t, real *total, Py_ssize_t across, real *ties, int operation,
                             bint far) noexcept nogil:
    # The sums of one vector of columns in scratch: LANES of them, or two halves where the rows are few. Where
    # exponentials are wanted, they replace what they are of.
    if operation != SOFTMAX:
        other_sums(from_, rows, c, shift, away, t, total, across, ties, operation, far)
    elif far:
        exps_and_sums(from_, rows, c, shift, v_load(away), t, total, across, ties, True, True, False)
    else:
        exps_and_sums(from_, rows, c, shift, v_load(away), t, total, across, ties, False, True, False)


cdef inline void sweep_lane(const Tile *t, const Source *from_, Py_ssize_t begin, Py_ssize_t end, Py_ssize_t c,
                            double temperature, const int operation, const bint far, const bint keep) noexcept nogil:
    # what rows begin, begin + LANES, ... of a subblock add to one accumulator of a vector of columns
    cdef bint split = operation != SOFTMAX
    cdef Py_ssize_t i = begin, left = from_.width - c
    cdef shift_t shift = load_shift(t, c)
    cdef vec a, d, away = v_load(t.away + c), part = v_set1(0), counts = v_set1(0)
    cdef real *total = t.total + begin % LANES * t.across + c
    cdef real *ties = t.ties + begin % LANES * t.across + c
    cdef real *x
    while i < end:
        x = from_.x + i * from_.x_step + c
        prefetch(x + VECTORS_AHEAD * VL)
        a = column_exp(load_columns(x, left, 0), &d, &shift, away, temperature, far)
        gather_sums(a, d, NULL, &part, &counts, False, split)
        if keep:
            store_columns(from_.e + i * from_.e_step + c, left, a, False)
        i += LANES
    if begin >= SUBBLOCK:
        part = v_add(v_load(total), part)
        counts = v_add(v_load(ties), counts)
    v_store(total, part)
    if split:
        v_store(ties, counts)


cdef inline void sweep_rows(const Tile *t, const Source *from_, Py_ssize_t rows, double temperature,
                            const int operation, const bint far, const bint keep) noexcept nogil:
    cdef Py_ssize_t begin, end, j, c
    for begin from 0 <= begin < rows by SUBBLOCK:
        end = begin + SUBBLOCK if rows - begin > SUBBLOCK else rows
        for j in range(begin, begin + LANES if end - begin > LANES else end):
            for c from 0 <= c < t.columns by VL:
                sweep_lane(t, from_, j, end, c, temperature, operation, far, keep)


cdef void sweep_sums(const Tile *t, const Source *from_, Py_ssize_t rows, double temperature, int operation, bint far,
                     bint keep) noexcept nogil:
    # as vector_sums, for all columns of a panel that is not in scratch; of exponentials only softmax's are kept
    if operation == SOFTMAX and keep:
        if far:
            sweep_rows(t, from_, rows, temperature, SOFTMAX, True, True)
        else:
            sweep_rows(t, from_, rows, temperature, SOFTMAX, False, True)
    elif operation == SOFTMAX:
        if far:
            sweep_rows(t, from_, rows, temperature, SOFTMAX, True, False)
        else:
            sweep_rows(t, from_, rows, temperature, SOFTMAX, False, False)
    elif far:
        sweep_rows(t, from_, rows, temperature, LOGSUMEXP, True, False)
    else:
        sweep_rows(t, from_, rows, temperature, LOGSUMEXP, False, False)
    if rows <= SHORT:
        fold_columns(t.total, t.across, t.columns, rows, 2)
        if rows == 1:
            memset(t.total + t.across, 0, t.across * sizeof(real))
    if operation != SOFTMAX:
        fold_columns(t.ties, t.across, t.columns, rows, 1)


cdef inline void column_sums(const Tile *t, const Source *from_, Py_ssize_t rows, double temperature, int operation,
                             bint keep) noexcept nogil:
    # LANES accumulators a column, or two halves where the rows are few; ties in one
    cdef Py_ssize_t c
    cdef shift_t shift
    if not from_.scratch:
        sweep_sums(t, from_, rows, temperature, operation, t.far, keep)
        return
    for c from 0 <= c < t.columns by VL:
        shift = load_shift(t, c)
        vector_sums(from_, rows, c, &shift, t.away + c, temperature, t.total + c, t.across, t.ties + c, operation,
                    t.far)


cdef inline void fold_columns(real *a, Py_ssize_t across, Py_ssize_t columns, Py_ssize_t filled,
                              const Py_ssize_t left) noexcept nogil:
    # LANES accumulators a column to "left" of them, by halving; only the first "filled" were written
    cdef Py_ssize_t half = LANES // 2, i, c
    while half >= left:
        for i in range(half if half < filled - half else filled - half):
            for c from 0 <= c < columns by VL:
                v_store(a + i * across + c,
                        v_add(v_load(a + i * across + c), v_load(a + (i + half) * across + c)))
        half //= 2


cdef inline void sweep_dot(const Source *from_, Py_ssize_t begin, Py_ssize_t end, Py_ssize_t c, double *sums,
                           Py_ssize_t across, const int operation) noexcept nogil:
    # what rows begin, begin + LANES, ... of a subblock add to one accumulator of a vector of columns
    cdef Py_ssize_t i = begin, left = from_.width - c
    cdef const real *g
    cdef const real *p
    cdef dot_t part = dot_zero()
    sums += begin % LANES * across + c
    if begin >= SUBBLOCK:
        part = dot_load(sums, LANES, across)
    while i < end:
        g = from_.x + i * from_.x_step + c
        p = from_.p + i * from_.p_step + c
        prefetch(g + VECTORS_AHEAD * VL)
        prefetch(p + VECTORS_AHEAD * VL)
        if left >= VL:
            part = dot_term(part, g, p, 0, operation, REAL)
        else:
            part = dot_term_n(part, g, p, 0, lanes_left(left), operation, REAL)
        i += LANES
    dot_store(sums, LANES, across, part)


cdef inline int dot_sums(const Tile *t, const Source *from_, Py_ssize_t rows, const int operation,
                         bint plain) noexcept nogil:
    # of the columns of a block; returns how many accumulators a column has
    cdef Py_ssize_t begin, end, j, c
    cdef vec a
    if plain:
        for c from 0 <= c < t.columns by VL:
            if from_.width - c >= VL:
                a = plain_lanes(from_.x + c, from_.x_step, from_.p + c, from_.p_step, rows, VL)
            else:
                a = plain_lanes(from_.x + c, from_.x_step, from_.p + c, from_.p_step, rows, from_.width - c)
            dot_store(t.dots + c, LANES, t.across, dot_plus(dot_zero(), a))
        return 1
    if from_.scratch:
        for c from 0 <= c < t.columns by VL:
            dot_lanes(from_.x + c, from_.x_step, from_.p + c, from_.p_step, rows, t.dots + c, t.across, operation)
        return LANES if rows > SHORT else 1
    if rows < LANES:
        memset(t.dots, 0, 2 * LANES * t.across * sizeof(real))
    for begin from 0 <= begin < rows by SUBBLOCK:
        end = begin + SUBBLOCK if rows - begin > SUBBLOCK else rows
        for j in range(begin, begin + LANES if end - begin > LANES else end):
            for c from 0 <= c < t.columns by VL:
                sweep_dot(from_, j, end, c, t.dots, t.across, operation)
    return LANES


cdef inline void column_total(const Tile *t, Py_ssize_t c, Py_ssize_t rows, v_f64 *high, v_f64 *low) noexcept nogil:
    if rows <= SHORT:
        join_pair_lanes(t.total + c, t.total + t.across + c, high, low)
    else:
        fold_lanes(t.total + c, t.across, high, low)


# --------------------------------------------------------------------------- columns of one block, in lanes

cdef inline void join_columns(const Panel *s, Tile *t, const int operation) noexcept nogil:
    cdef Py_ssize_t c
    cdef v_f64 sum, rest, tied
    cdef bint split = operation != SOFTMAX
    for c from 0 <= c < t.columns by VL64:
        column_total(t, c, s.n, &sum, &rest)
        if split:
            tied = v_widen(t.ties + c)
            log_lanes(sum, rest, tied, t.log_sum + c, t.log_rest + c)
            store_f64(t.top + c, v_widen(t.maxima + c))
        if operation == CROSS_ENTROPY_GRAD:
            two_sum_lanes(mul_f64(tied, set1_f64(EXP_SCALE)), sum, &sum, &tied)
            rest = add_f64(tied, rest)
        if operation == SOFTMAX:
            factor_lanes(sum, rest, NULL, t.high + c, t.low + c, t.after + c)
        elif operation == CROSS_ENTROPY_GRAD:
            if factor_lanes(sum, rest, s.coefficient + c, t.high + c, t.low + c, t.after + c):
                t.tiny = True
    if split and not all_finite(t.maxima, t.columns):
        for c in range(s.width):
            if not -INFINITY < t.maxima[c] < INFINITY:
                settle_column(s, t, c)


cdef inline void settle_column(const Panel *s, Tile *t, Py_ssize_t c) noexcept nogil:
    # the log of the sum of a column whose maximum is infinite
    cdef bint nan = has_nan(s.x + c, s.n, s.x_step)
    settle_log(t.top[c], nan, t.log_sum + c, t.log_rest + c)


# ------------------------------------------------------------------------------ columns of several blocks

cdef inline void keep_stats(const Panel *s, const Tile *t, Py_ssize_t b, const bint split) noexcept nogil:
    cdef Py_ssize_t c, j, blocks = blocks_of(s.n), rows = block_length(s.n, b)
    cdef double high[VL64]
    cdef double low[VL64]
    cdef double *stats
    cdef v_f64 sum, rest
    for c from 0 <= c < t.columns by VL64:
        column_total(t, c, rows, &sum, &rest)
        store_f64(high, sum)
        store_f64(low, rest)
        for j in range(VL64):
            stats = t.stats + ((c + j) * blocks + b) * STATS
            stats[0] = t.maxima[c + j]
            stats[1] = high[j]
            stats[2] = t.ties[c + j] if split else 0
            stats[5] = low[j]
            if split and t.maxima[c + j] == INFINITY and has_nan(s.x + b * BLOCK * s.x_step + c + j, rows, s.x_step):
                stats[2] = NAN


cdef inline void join_stats(const Panel *s, Tile *t, const int operation) noexcept nogil:
    cdef Py_ssize_t c, blocks = blocks_of(s.n)
    for c in range(s.width):
        if operation != SOFTMAX:
            join_log(t.stats + c * blocks * STATS, blocks, s.t, t.top + c, t.log_sum + c, t.log_rest + c)
        if operation == SOFTMAX or operation == CROSS_ENTROPY_GRAD:
            join_softmax(t.stats + c * blocks * STATS, blocks, s.t,
                         s.coefficient[c] if s.coefficient != NULL else 1)


cdef inline void block_shares(const Panel *s, Tile *t, Py_ssize_t b) noexcept nogil:
    # the factors of one block of every column, from its stats
    cdef Py_ssize_t c, blocks = blocks_of(s.n)
    cdef double *stats
    cdef double unit
    t.tiny = False
    for c in range(s.width):
        stats = t.stats + (c * blocks + b) * STATS
        unit = 1 / FACTOR_SCALE
        t.after[c] = 1
        if is_tiny(stats[3], FACTOR_SCALE):
            # as in scale_run
            t.tiny = True
            unit = 1
            t.after[c] = <real> (1 / FACTOR_SCALE)
        split_real(stats[3] * unit, stats[4] * unit, t.high + c, t.low + c)
        t.maxima[c] = <real> stats[0]


# ---------------------------------------------------------------------------------------------- results

cdef inline void log_shares(const Panel *s, Tile *t) noexcept nogil:
    cdef Py_ssize_t c
    for c from 0 <= c < t.columns by VL64:
        split_log_lanes(t.top + c, t.log_sum + c, t.log_rest + c, s.inv_t, t.high + c, t.low + c)
    for c in range(s.width):
        if not -INFINITY < t.top[c] < INFINITY:
            split_log(t.top[c], t.log_sum[c], t.log_rest[c], s.inv_t, t.high + c, t.low + c)


cdef inline void write_vectors(const Panel *s, const Tile *t, const Source *from_, Py_ssize_t i, real *y, Py_ssize_t c,
                               Py_ssize_t left, const Py_ssize_t rows, const int operation,
                               const bint stream) noexcept nogil:
    cdef Py_ssize_t k
    cdef bint waiting = exps_wait(s, operation)
    cdef real *x = from_.e + i * from_.e_step + c if waiting else from_.x + i * from_.x_step + c
    cdef Py_ssize_t step = from_.e_step if waiting else from_.x_step
    cdef vec a, d, high = v_load(t.high + c), low = v_load(t.low + c)
    cdef vec inv_t = v_set1(<real> s.inv_t)
    cdef Slope slope = slope_of(s.inv_t, operation)
    cdef shift_t shift = load_shift(t, c)
    cdef Py_ssize_t ahead = some_ahead(s.width - c, s.y_step, rows)
    slope.dot = high
    if has_rest(operation):
        slope.rest = low
    for k in range(rows):
        a = load_columns(x + k * step, left, 0)
        if is_derivative(operation):
            a = gradient(a, load_columns(from_.p + (i + k) * from_.p_step + c, left, 0), &slope, operation)
        elif operation == LOG_SOFTMAX:
            a = v_fma(v_sub(a, high), inv_t, v_sub(v_set1(0), low))
        else:
            if not waiting:
                a = column_exp(a, &d, &shift, v_load(t.away + c), s.t, t.far)
            a = scaled(a, high, low)
            if t.tiny:
                a = v_mul(a, v_load(t.after + c))
        if not stream:
            prefetch_write(y + k * s.y_step + c + ahead)
        store_columns(y + k * s.y_step + c, left, a, stream)


cdef inline void write_rows(const Panel *s, const Tile *t, const Source *from_, Py_ssize_t first, Py_ssize_t rows,
                            const int operation, const bint stream) noexcept nogil:
    # whole vectors of several rows together; what is left of them, and of the rows, one by one
    cdef Py_ssize_t i = 0, k, c, left, count
    cdef real *y
    while i < rows:
        count = TOGETHER if rows - i >= TOGETHER else 1
        y = s.y + (first + i) * s.y_step
        c = 0
        while count == TOGETHER and c <= s.width - VL:
            write_vectors(s, t, from_, i, y, c, VL, TOGETHER, operation, stream)
            c += VL
        for k in range(count):
            for left from c <= left < s.width by VL:
                write_vectors(s, t, from_, i + k, y + k * s.y_step, left, s.width - left, 1, operation, stream)
        i += count


cdef inline void write_panel(const Panel *s, Tile *t, const int operation) noexcept nogil:
    cdef Py_ssize_t blocks = blocks_of(s.n), b
    cdef Source from_
    for b in range(blocks):
        from_ = source_of(s, t, b)
        if blocks > 1 and (operation == SOFTMAX or operation == CROSS_ENTROPY_GRAD):
            block_shares(s, t, b)
            if not exps_wait(s, operation):
                t.far = shift_lanes(t.maxima, t.columns, s.t, t.origin, t.away, t.magic, t.center)
        if s.stream:
            write_rows(s, t, &from_, b * BLOCK, block_length(s.n, b), operation, True)
        else:
            write_rows(s, t, &from_, b * BLOCK, block_length(s.n, b), operation, False)


cdef inline void forward_columns(const Panel *panel, char *scratch, int operation, const int kind) noexcept nogil:
    # kind: the operation, but LOGSUMEXP for all that keep no exponentials
    cdef Panel local = panel[0]       # whose members need not be read again after every store
    cdef const Panel *s = &local
    cdef Py_ssize_t blocks = blocks_of(s.n), b, c, rows
    cdef const real *x
    cdef Source from_
    cdef Tile t
    lay_tile(&t, s.n, s.width, scratch)
    if operation == CROSS_ENTROPY or operation == CROSS_ENTROPY_GRAD:
        t.top = s.top
        t.log_sum = s.log_sum
        t.log_rest = s.log_rest
    for b in range(blocks):
        rows = block_length(s.n, b)
        from_ = source_of(s, &t, b)
        x = s.x + b * BLOCK * s.x_step
        if s.staged:
            stage_panel(x, s.x_step, s.width, rows, from_.x, t.across, t.maxima)
        else:
            panel_maxima(x, s.x_step, s.width, rows, t.across, t.maxima)
        t.far = shift_lanes(t.maxima, t.columns, s.t, t.origin, t.away, t.magic, t.center)
        column_sums(&t, &from_, rows, s.t, kind, exps_wait(s, kind))
        if blocks > 1:
            keep_stats(s, &t, b, kind != SOFTMAX)
    if blocks > 1:
        join_stats(s, &t, kind)
    else:
        join_columns(s, &t, kind)
    if kind != LOGSUMEXP:
        write_panel(s, &t, kind)
    elif operation == LOG_SOFTMAX:
        log_shares(s, &t)
        write_panel(s, &t, LOG_SOFTMAX)
    elif operation == LOGSUMEXP:
        for c from 0 <= c < t.columns by VL64:
            v_narrow(t.high + c,
                     whole_log_lanes(load_f64(t.top + c), load_f64(t.log_sum + c), load_f64(t.log_rest + c)))
        for c in range(s.width):
            s.y[c * s.y_step] = t.high[c]


cdef inline void backward_columns(const Panel *panel, char *scratch, const int operation) noexcept nogil:
    cdef Panel local = panel[0]
    cdef const Panel *s = &local
    cdef Py_ssize_t blocks = blocks_of(s.n), b, c, rows
    cdef v_f64 high, low, lost
    cdef int accumulators
    cdef Source from_
    cdef Tile t
    lay_tile(&t, s.n, s.width, scratch)
    for c in range(t.columns if blocks > 1 else 0):
        t.top[c] = t.log_sum[c] = 0
    for b in range(blocks):
        rows = block_length(s.n, b)
        from_ = source_of(s, &t, b)
        if s.staged:
            stage_panel(s.x + b * BLOCK * s.x_step, s.x_step, s.width, rows, from_.x, t.across, t.maxima)
            stage_panel(s.p + b * BLOCK * s.p_step, s.p_step, s.width, rows, from_.p, t.across, t.maxima)
        accumulators = dot_sums(&t, &from_, rows, operation, is_plain(s.n, operation))
        for c from 0 <= c < t.columns by VL64:
            dot_columns(t.dots + c, LANES, t.across, accumulators, &high, &low)
            if blocks > 1:
                # as in add_part
                two_sum_lanes(load_f64(t.top + c), high, &high, &lost)
                low = add_f64(add_f64(load_f64(t.log_sum + c), lost), low)
                store_f64(t.top + c, high)
                store_f64(t.log_sum + c, low)
            if b + 1 == blocks:
                dot_split_lanes(high, low, dot_scale(operation), t.high + c, t.low + c if has_rest(operation) else NULL)
    write_panel(s, &t, operation)


cdef void run_panel(const Panel *s, char *scratch, int operation) noexcept nogil:
    if operation == SOFTMAX:
        forward_columns(s, scratch, operation, SOFTMAX)
    elif operation == CROSS_ENTROPY_GRAD:
        forward_columns(s, scratch, operation, CROSS_ENTROPY_GRAD)
    elif not is_derivative(operation):
        forward_columns(s, scratch, operation, LOGSUMEXP)
    elif operation == SOFTMAX_GRAD:
        backward_columns(s, scratch, SOFTMAX_GRAD)
    elif operation == LOG_SOFTMAX_VJP:
        backward_columns(s, scratch, LOG_SOFTMAX_VJP)
    else:
        backward_columns(s, scratch, LOG_SOFTMAX_JVP)
