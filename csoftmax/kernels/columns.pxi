# The axis is not last: vectors of neighbouring columns walk down it, one column a lane. Accumulator i % LANES
# takes row i, as in a contiguous row, so that a column's bits are those of the same numbers in a row.
#
# A panel is swept along its rows, few of them at a time: what a sweep touches lies together, and rows at a stride that
# makes them compete for the same lines of the cache are not met together.

cdef enum:
    TOGETHER = 4              # rows that share one load of what belongs to their columns
    VECTORS_AHEAD = 8         # are fetched while one is worked on


cdef struct Panel:
    const real *x
    const real *p
    real *y
    real *e                       # where exponentials wait: in scratch, or in the result
    const real *beside            # the panel that comes next, if it lies beside this one; else this one
    Py_ssize_t n
    Py_ssize_t width              # columns
    Py_ssize_t x_step             # elements from one row of the panel to the next
    Py_ssize_t p_step
    Py_ssize_t y_step
    Py_ssize_t e_step
    Py_ssize_t beside_step
    double t                      # the temperature, and its reciprocal
    double inv_t
    bint staged                   # logits are copied into scratch, where exponentials replace them
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
    double *dots                  # the dot products' accumulators, in place of total and ties
    real *e                       # logits, then exponentials, where they are staged
    double *top
    double *log_sum
    double *log_rest
    BlockStats *stats             # for each block of each column, where there are several


cdef inline Py_ssize_t columns_of(Py_ssize_t width) noexcept nogil:
    return (width + VL - 1) // VL * VL


cdef inline Py_ssize_t across_of(Py_ssize_t width) noexcept nogil:
    # not so many that the rows of a tile would compete for the same lines of the cache
    cdef Py_ssize_t across = columns_of(width)
    return across + VL if across * <Py_ssize_t> sizeof(real) % 1024 == 0 else across


cdef inline Py_ssize_t tile_bytes(Py_ssize_t n, Py_ssize_t width, bint staged) noexcept nogil:
    return across_of(width) * ((8 + 2 * LANES + (n if staged else 0)) * <Py_ssize_t> sizeof(real)
                               + (3 + STATS * blocks_of(n)) * <Py_ssize_t> sizeof(double))


cdef inline void lay_tile(Tile *t, Py_ssize_t n, Py_ssize_t width, char *scratch) noexcept nogil:
    t.columns = columns_of(width)
    t.across = across_of(width)
    t.far = t.tiny = False
    t.top = <double *> scratch
    t.log_sum = t.top + t.across
    t.log_rest = t.log_sum + t.across
    t.stats = <BlockStats *> (t.log_rest + t.across)
    t.maxima = <real *> (t.stats + blocks_of(n) * t.across)
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


cdef inline vec load_columns(const real *p, Py_ssize_t left, real fill) noexcept nogil:
    # of a vector that may lie beyond the panel's last column
    return v_load(p) if left >= VL else v_load_n(p, lanes_left(left), fill)


cdef inline void store_columns(real *p, Py_ssize_t left, vec a, bint stream) noexcept nogil:
    if left < VL:
        v_store_n(p, lanes_left(left), a)
    elif stream:
        v_stream(p, a)
    else:
        v_store(p, a)


cdef inline Py_ssize_t fetched(Py_ssize_t c, Py_ssize_t width, Py_ssize_t further) noexcept nogil:
    # How far from a vector at column c that lies which is to be fetched: in the same row, or, where that ends, in the
    # one that will be next, "further" on.
    return VECTORS_AHEAD * VL + (0 if c < width - VECTORS_AHEAD * VL else further - width)


cdef inline void top_vectors(const real *x, Py_ssize_t step, Py_ssize_t left, Py_ssize_t ahead, real *e,
                             Py_ssize_t e_step, real *maxima, const Py_ssize_t rows, const bint staged) noexcept nogil:
    cdef Py_ssize_t k
    cdef vec a, top = v_load(maxima)
    for k in range(rows):
        prefetch(x + k * step + ahead)
        a = load_columns(x + k * step, left, 0)
        if staged:
            v_store(e + k * e_step, a)
        top = v_max(a, top)
    v_store(maxima, top)


cdef inline void top_rows(const Panel *s, Py_ssize_t i, Py_ssize_t e_step, real *maxima, const Py_ssize_t rows,
                          const bint staged) noexcept nogil:
    cdef const real *x = s.x + i * s.x_step
    cdef real *e = s.e + i * e_step
    cdef Py_ssize_t step = s.x_step, width = s.width, c = 0
    while c <= width - VL:
        top_vectors(x + c, step, VL, fetched(c, width, rows * step), e + c, e_step, maxima + c, rows, staged)
        c += VL
    if c < width:
        top_vectors(x + c, step, width - c, fetched(c, width, rows * step), e + c, e_step, maxima + c, rows, staged)


cdef inline void find_maxima(const Panel *s, const Tile *t, const bint staged) noexcept nogil:
    cdef Py_ssize_t c, i = 0
    for c from 0 <= c < t.columns by VL:
        v_store(t.maxima + c, v_set1(-INFINITY))
    while i <= s.n - TOGETHER:
        top_rows(s, i, t.across, t.maxima, TOGETHER, staged)
        i += TOGETHER
    while i < s.n:
        top_rows(s, i, t.across, t.maxima, 1, staged)
        i += 1


cdef void panel_maxima(Panel *s, const Tile *t) noexcept nogil:
    # of one block; what is staged is from then on of whole vectors
    if not s.staged:
        find_maxima(s, t, False)
        return
    find_maxima(s, t, True)
    s.x = s.e
    s.x_step = t.across
    s.width = t.columns


cdef inline bint exps_wait(const Panel *s, const int operation) noexcept nogil:
    # Exponentials are computed once, and wait to be scaled; but not in a result that is stored past the caches.
    return (operation == SOFTMAX or operation == CROSS_ENTROPY_GRAD) and (s.staged or not s.stream)


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


# ------------------------------------------------------------------------------------------------- sums

cdef struct Lane:
    # the rows that add to one accumulator, or to every fourth: so many of the panel's apart
    const real *x
    const real *p
    real *e
    const real *beside
    Py_ssize_t rows               # from its first one to the last of all
    Py_ssize_t width
    Py_ssize_t x_step
    Py_ssize_t p_step
    Py_ssize_t e_step
    Py_ssize_t beside_step
    Py_ssize_t x_further          # from its first row to that of the lane which comes next
    Py_ssize_t p_further
    Py_ssize_t e_further


cdef inline Lane lane_of(const Panel *s, Py_ssize_t i, Py_ssize_t end, Py_ssize_t further) noexcept nogil:
    # from row i on; the next one starts so many rows further
    cdef Lane lane
    lane.x = s.x + i * s.x_step
    lane.p = s.p + i * s.p_step
    lane.e = s.e + i * s.e_step
    lane.rows = end - i
    lane.width = s.width
    lane.beside = s.beside + i * s.beside_step
    lane.beside_step = s.beside_step
    lane.x_step = s.x_step
    lane.p_step = s.p_step
    lane.e_step = s.e_step
    lane.x_further = further * s.x_step
    lane.p_further = further * s.p_step
    lane.e_further = further * s.e_step
    return lane


cdef inline vec exp_term(vec part, const real *x, real *e, Py_ssize_t ahead, Py_ssize_t left, const shift_t *shift,
                         vec away, double t, vec *counts, const int operation, const bint far,
                         const bint keep) noexcept nogil:
    cdef vec a, d
    a = column_exp(load_columns(x, left, 0), &d, shift, away, t, far)
    add_exps(a, d, &part, counts, SUM if operation == SOFTMAX else SUM_AND_TIES)
    if keep:
        prefetch_write(e + ahead)
        store_columns(e, left, a, False)
    return part


cdef inline vec lane_sum(const Lane *lane, Py_ssize_t c, Py_ssize_t left, const shift_t *shift, vec away,
                         double t, vec *counts, const int operation, const bint far, const bint keep) noexcept nogil:
    # of the exponentials of a vector of columns, which are left to wait (keep)
    cdef const real *x = lane.x + c
    cdef real *e = lane.e + c
    cdef Py_ssize_t i, x_ahead = fetched(c, lane.width, lane.x_further)
    cdef Py_ssize_t ahead = fetched(c, lane.width, lane.e_further)
    cdef vec part = v_set1(0)
    for i from 0 <= i < lane.rows by LANES:
        prefetch(x + x_ahead)
        part = exp_term(part, x, e, ahead, left, shift, away, t, counts, operation, far, keep)
        x += LANES * lane.x_step
        e += LANES * lane.e_step
    return part


cdef struct Spot:
    # in every fourth row, one after another
    const real *x
    const real *p
    real *e
    const real *beside
    Py_ssize_t ahead              # from x, from p and from e to what is fetched
    Py_ssize_t p_ahead
    Py_ssize_t e_ahead


cdef inline Spot spot_of(const Lane *lane, Py_ssize_t c) noexcept nogil:
    cdef Spot spot
    spot.x = lane.x + c
    spot.p = lane.p + c
    spot.e = lane.e + c
    spot.beside = lane.beside + c
    spot.ahead = fetched(c, lane.width, lane.x_further)
    spot.p_ahead = fetched(c, lane.width, lane.p_further)
    spot.e_ahead = fetched(c, lane.width, lane.e_further)
    return spot


cdef inline vec next_term(vec part, Spot *at, const Lane *lane, Py_ssize_t left, const shift_t *shift, vec away,
                          double t, vec *counts, const int operation, const bint far, const bint keep) noexcept nogil:
    # of a dot product in its own precision; or of exponentials: while they are computed, what lies beside is fetched
    if operation == SOFTMAX_GRAD:
        prefetch(at.x + at.ahead)
        prefetch(at.p + at.p_ahead)
        part = v_fma(load_columns(at.x, left, 0), load_columns(at.p, left, 0), part)
        at.p += 4 * lane.p_step
    else:
        prefetch_next(at.beside)
        at.beside += 4 * lane.beside_step
        part = exp_term(part, at.x, at.e, at.e_ahead, left, shift, away, t, counts, operation, far, keep)
        at.e += 4 * lane.e_step
    at.x += 4 * lane.x_step
    return part


cdef inline vec fourth_sum(Spot *at, const Lane *lane, Py_ssize_t left, const shift_t *shift, vec away, double t,
                           vec *counts, const int operation, const bint far, const bint keep) noexcept nogil:
    # every fourth accumulator, joined by halving
    cdef Py_ssize_t rows = lane.rows
    cdef vec zero = v_set1(0), p = zero, q = zero, r = zero, s = zero
    while rows > LANES - 4:
        p = next_term(p, at, lane, left, shift, away, t, counts, operation, far, keep)
        q = next_term(q, at, lane, left, shift, away, t, counts, operation, far, keep)
        if QUARTER == 4:
            r = next_term(r, at, lane, left, shift, away, t, counts, operation, far, keep)
            s = next_term(s, at, lane, left, shift, away, t, counts, operation, far, keep)
        rows -= LANES
    if rows > 0:
        p = next_term(p, at, lane, left, shift, away, t, counts, operation, far, keep)
    if QUARTER == 4:
        if rows > 4:
            q = next_term(q, at, lane, left, shift, away, t, counts, operation, far, keep)
        if rows > 8:
            r = next_term(r, at, lane, left, shift, away, t, counts, operation, far, keep)
        return v_add(v_add(p, r), v_add(q, s))
    return v_add(p, q)


cdef inline dot_t lane_dot(dot_t part, const Lane *lane, Py_ssize_t i, Py_ssize_t c, Py_ssize_t left,
                           const int operation) noexcept nogil:
    cdef const real *g = lane.x + i * lane.x_step + c
    cdef const real *p = lane.p + i * lane.p_step + c
    cdef Py_ssize_t ahead = fetched(c, lane.width, lane.x_further)
    cdef Py_ssize_t p_ahead = fetched(c, lane.width, lane.p_further)
    while i < lane.rows:
        prefetch(g + ahead)
        prefetch(p + p_ahead)
        if left >= VL:
            part = dot_term(part, g, p, operation)
        else:
            part = dot_term_n(part, g, p, lanes_left(left), operation)
        g += LANES * lane.x_step
        p += LANES * lane.p_step
        i += LANES
    return part


cdef inline void add_lane(const Panel *s, const Tile *t, const Lane *lane, Py_ssize_t begin, Py_ssize_t c,
                          Py_ssize_t left, const int operation, const bint far, const bint keep) noexcept nogil:
    # rows begin, begin + LANES, ... of a subblock to one accumulator of a vector of columns
    cdef Py_ssize_t at = begin % LANES * t.across + c
    cdef vec part, counts = v_set1(0)
    cdef shift_t shift
    cdef dot_t dot
    if is_derivative(operation):
        dot = dot_load(t.dots + at, LANES, t.across) if begin >= SUBBLOCK else dot_zero()
        dot_store(t.dots + at, LANES, t.across, lane_dot(dot, lane, 0, c, left, operation))
        return
    shift = load_shift(t, c)
    part = lane_sum(lane, c, left, &shift, v_load(t.away + c), s.t, &counts, operation, far, keep)
    if begin >= SUBBLOCK:
        part = v_add(v_load(t.total + at), part)
        counts = v_add(v_load(t.ties + at), counts)
    v_store(t.total + at, part)
    if operation != SOFTMAX:
        v_store(t.ties + at, counts)


cdef void add_last(const Panel *s, const Tile *t, const Lane *lane, Py_ssize_t begin, int operation, bint far,
                   bint keep) noexcept nogil:
    # of the columns that fill no vector; compiled once
    cdef Py_ssize_t left = s.width % VL
    add_lane(s, t, lane, begin, s.width - left, left, operation, far, keep)


cdef inline void many_sums(const Panel *s, const Tile *t, const int operation, const bint far,
                           const bint keep) noexcept nogil:
    # to LANES accumulators a column; ties to one
    cdef Panel local = s[0]
    cdef Tile tile = t[0]
    cdef Py_ssize_t begin, end, j, c
    cdef Lane lane
    for begin from 0 <= begin < s.n by SUBBLOCK:
        end = begin + SUBBLOCK if s.n - begin > SUBBLOCK else s.n
        for j in range(begin, begin + LANES if end - begin > LANES else end):
            lane = lane_of(s, j, end, 1)
            for c from 0 <= c <= local.width - VL by VL:
                add_lane(&local, &tile, &lane, j, c, VL, operation, far, keep)
            if local.width % VL:
                add_last(s, t, &lane, j, operation, far, keep)
    if not is_derivative(operation) and operation != SOFTMAX:
        fold_columns(t.ties, t.across, t.columns)


cdef inline void add_fourth(const Panel *s, const Tile *t, const Lane *lane, Py_ssize_t turn, Py_ssize_t c,
                            Py_ssize_t left, const int operation, const bint plain, const bint far,
                            const bint keep) noexcept nogil:
    # Every fourth accumulator of a vector of columns, and what waits for them in the first rows of the tile: of a sum
    # two halves are left, a dot product is left whole.
    cdef Py_ssize_t to = t.across * (turn // 2) + c, k, half = QUARTER // 2
    cdef bint split = not is_derivative(operation) and operation != SOFTMAX
    cdef vec part, counts, away
    cdef Spot spot
    cdef shift_t shift
    cdef dot_t dot[QUARTER]
    if is_derivative(operation) and not plain:
        for k in range(QUARTER):
            dot[k] = lane_dot(dot_zero(), lane, 4 * k, c, left, operation)
        while half > 0:
            for k in range(half):
                dot[k] = dot_join(dot[k], dot[k + half])
            half //= 2
        if turn % 2:
            dot[0] = dot_join(dot_load(t.dots + to, LANES, t.across), dot[0])
        if turn == 3:
            to = c
            dot[0] = dot_join(dot_load(t.dots + to, LANES, t.across), dot[0])
        dot_store(t.dots + to, LANES, t.across, dot[0])
        return
    counts = v_load(t.ties + c) if split else v_set1(0)
    shift = load_shift(t, c)
    away = v_load(t.away + c)
    spot = spot_of(lane, c)
    part = fourth_sum(&spot, lane, left, &shift, away, s.t, &counts, operation, far, keep)
    if split:
        v_store(t.ties + c, counts)
    if turn % 2:
        part = v_add(v_load(t.total + to), part)
    if plain and turn == 3:
        to = c
        part = v_add(v_load(t.total + to), part)
    v_store(t.total + to, part)


cdef void add_last_fourth(const Panel *s, const Tile *t, const Lane *lane, Py_ssize_t turn, int operation, bint plain,
                          bint far, bint keep) noexcept nogil:
    # as add_last
    cdef Py_ssize_t left = s.width % VL
    add_fourth(s, t, lane, turn, s.width - left, left, operation, plain, far, keep)


cdef inline void few_sums(const Panel *s, const Tile *t, const int operation, const bint plain, const bint far,
                          const bint keep) noexcept nogil:
    # as many_sums, where rows are few: their accumulators are joined at once
    cdef Panel local = s[0]
    cdef Tile tile = t[0]
    cdef Py_ssize_t first[4]
    cdef Py_ssize_t turn, c
    cdef Lane lane
    # those that are joined first follow each other
    first[0] = 0
    first[1] = 2
    first[2] = 1
    first[3] = 3
    if not is_derivative(operation) and operation != SOFTMAX:
        memset(t.ties, 0, t.columns * sizeof(real))
    for turn in range(4):
        if turn % 2 and first[turn] >= s.n and not is_derivative(operation):
            continue
        lane = lane_of(s, first[turn], s.n, first[turn + 1] - first[turn] if turn < 3 else 0)
        for c from 0 <= c <= local.width - VL by VL:
            add_fourth(&local, &tile, &lane, turn, c, VL, operation, plain, far, keep)
        if local.width % VL:
            add_last_fourth(s, t, &lane, turn, operation, plain, far, keep)


cdef inline void column_sums(const Panel *s, const Tile *t, const int operation, const bint plain, const bint far,
                             const bint keep) noexcept nogil:
    if plain or s.n <= SHORT:
        few_sums(s, t, operation, plain, far, keep)
    else:
        many_sums(s, t, operation, far, keep)


cdef void other_sums(const Panel *s, const Tile *t, int operation, bint far, bint keep) noexcept nogil:
    # what is seldom wanted, compiled once
    column_sums(s, t, operation, False, far, keep)


cdef void panel_sums(const Panel *s, const Tile *t, int operation, bint keep) noexcept nogil:
    # of the exponentials of one block, which are left to wait (keep)
    if operation == SOFTMAX and keep and not t.far:
        column_sums(s, t, SOFTMAX, False, False, True)
    elif operation == LOGSUMEXP and not t.far:
        column_sums(s, t, LOGSUMEXP, False, False, False)
    else:
        other_sums(s, t, operation, t.far, keep)


cdef void panel_dots(const Panel *s, const Tile *t, int operation, bint plain) noexcept nogil:
    # of the columns of one block, to t.total where they are plain
    if plain:
        column_sums(s, t, SOFTMAX_GRAD, True, False, False)
    elif operation == SOFTMAX_GRAD:
        column_sums(s, t, SOFTMAX_GRAD, False, False, False)
    else:
        other_sums(s, t, operation, False, False)


cdef inline void fold_columns(real *a, Py_ssize_t across, Py_ssize_t columns) noexcept nogil:
    # LANES accumulators a column to one, by halving
    cdef Py_ssize_t half = LANES // 2, i, c
    while half > 0:
        for i in range(half):
            for c from 0 <= c < columns by VL:
                v_store(a + i * across + c,
                        v_add(v_load(a + i * across + c), v_load(a + (i + half) * across + c)))
        half //= 2


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
    infinite_log(t.top[c], nan, t.log_sum + c, t.log_rest + c)


# ------------------------------------------------------------------------------ columns of several blocks

cdef inline void keep_stats(const Panel *s, const Tile *t, Py_ssize_t b, const bint split) noexcept nogil:
    cdef Py_ssize_t c, j, blocks = blocks_of(s.n), rows = block_length(s.n, b)
    cdef double high[VL64]
    cdef double low[VL64]
    cdef BlockStats *stats
    cdef v_f64 sum, rest
    for c from 0 <= c < t.columns by VL64:
        column_total(t, c, rows, &sum, &rest)
        store_f64(high, sum)
        store_f64(low, rest)
        for j in range(VL64):
            stats = t.stats + (c + j) * blocks + b
            stats.maximum = t.maxima[c + j]
            stats.sum = high[j]
            stats.sum_rest = low[j]
            stats.ties = t.ties[c + j] if split else 0
            if split and t.maxima[c + j] == INFINITY and has_nan(s.x + b * BLOCK * s.x_step + c + j, rows, s.x_step):
                stats.ties = NAN


cdef inline void join_stats(const Panel *s, Tile *t, const int operation) noexcept nogil:
    cdef Py_ssize_t c, blocks = blocks_of(s.n)
    for c in range(s.width):
        if operation != SOFTMAX:
            join_log(t.stats + c * blocks, blocks, s.t, t.top + c, t.log_sum + c, t.log_rest + c)
        if operation == SOFTMAX or operation == CROSS_ENTROPY_GRAD:
            join_softmax(t.stats + c * blocks, blocks, s.t,
                         s.coefficient[c] if s.coefficient != NULL else 1)


cdef inline void block_shares(const Panel *s, Tile *t, Py_ssize_t b) noexcept nogil:
    # the factors of one block of every column, from its stats
    cdef Py_ssize_t c, blocks = blocks_of(s.n)
    cdef BlockStats *stats
    cdef double unit
    t.tiny = False
    for c in range(s.width):
        stats = t.stats + c * blocks + b
        unit = 1 / FACTOR_SCALE
        t.after[c] = 1
        if is_tiny(stats.factor, FACTOR_SCALE):
            # as in normalise_block
            t.tiny = True
            unit = 1
            t.after[c] = <real> (1 / FACTOR_SCALE)
        split_real(stats.factor * unit, stats.factor_rest * unit, t.high + c, t.low + c)
        t.maxima[c] = <real> stats.maximum


# ---------------------------------------------------------------------------------------------- results

cdef inline void log_shares(const Panel *s, Tile *t) noexcept nogil:
    cdef Py_ssize_t c
    for c from 0 <= c < t.columns by VL64:
        split_log_lanes(t.top + c, t.log_sum + c, t.log_rest + c, s.inv_t, t.high + c, t.low + c)
    for c in range(s.width):
        if not -INFINITY < t.top[c] < INFINITY:
            split_log(t.top[c], t.log_sum[c], t.log_rest[c], s.inv_t, t.high + c, t.low + c)


cdef inline Panel block_of_panel(const Panel *s, Py_ssize_t b) noexcept nogil:
    cdef Panel block = s[0]
    block.n = block_length(s.n, b)
    block.x += b * BLOCK * s.x_step
    block.p += b * BLOCK * s.p_step
    block.y += b * BLOCK * s.y_step
    block.e += b * BLOCK * s.e_step
    block.beside += b * BLOCK * s.beside_step
    return block


cdef inline void write_vectors(const Panel *s, const Tile *t, Py_ssize_t i, Py_ssize_t c, Py_ssize_t left,
                               const Py_ssize_t rows, const int operation) noexcept nogil:
    cdef Py_ssize_t k
    cdef bint waiting = exps_wait(s, operation)
    cdef Py_ssize_t step = s.e_step if waiting else s.x_step
    cdef const real *x = s.x + i * step + c
    cdef const real *p = s.p + i * s.p_step + c if is_derivative(operation) else NULL
    cdef real *y = s.y + i * s.y_step + c
    cdef Py_ssize_t ahead = fetched(c, s.width, rows * s.y_step)
    cdef vec a, d, high = v_load(t.high + c), low = v_load(t.low + c)
    cdef Logs logs = logs_of(high, low, s.inv_t)
    cdef Slope slope = slope_of(s.inv_t, operation)
    cdef shift_t shift
    if waiting:
        x = s.e + i * step + c
    slope.dot = high
    if has_rest(operation):
        slope.rest = low
    for k in range(rows):
        a = load_columns(x, left, 0)
        x += step
        if is_derivative(operation):
            a = gradient(a, load_columns(p, left, 0), &slope, operation)
            p += s.p_step
        elif operation == LOG_SOFTMAX:
            a = log_of(a, &logs)
        else:
            if not waiting:
                shift = load_shift(t, c)
                a = column_exp(a, &d, &shift, v_load(t.away + c), s.t, t.far)
            a = normalised(a, high, low)
            if t.tiny:
                a = v_mul(a, v_load(t.after + c))
        if not s.stream:
            prefetch_write(y + ahead)
        store_columns(y, left, a, s.stream)
        y += s.y_step


cdef inline void write_block(const Panel *s, const Tile *t, const int operation) noexcept nogil:
    # several rows together, what is left of them one by one
    cdef Py_ssize_t i = 0, c
    while i <= s.n - TOGETHER:
        for c from 0 <= c <= s.width - VL by VL:
            write_vectors(s, t, i, c, VL, TOGETHER, operation)
        c = s.width // VL * VL
        if c < s.width:
            write_vectors(s, t, i, c, s.width - c, TOGETHER, operation)
        i += TOGETHER
    while i < s.n:
        for c from 0 <= c < s.width by VL:
            write_vectors(s, t, i, c, s.width - c, 1, operation)
        i += 1


cdef inline void write_panel(const Panel *s, Tile *t, const int operation) noexcept nogil:
    cdef Py_ssize_t blocks = blocks_of(s.n), b
    cdef Panel block
    for b in range(blocks - 1, -1, -1):
        block = block_of_panel(s, b)
        if blocks > 1 and operation == SOFTMAX:
            block_shares(s, t, b)
            if not exps_wait(s, operation):
                t.far = shift_lanes(t.maxima, t.columns, s.t, t.origin, t.away, t.magic, t.center)
        write_block(&block, t, operation)


cdef void write_shares(const Panel *s, Tile *t) noexcept nogil:
    write_panel(s, t, SOFTMAX)


cdef void write_between(const Panel *s, const Tile *t, Py_ssize_t first, Py_ssize_t width,
                        int operation) noexcept nogil:
    # derivatives of so many columns of the panel
    cdef Panel panel = s[0]
    cdef Tile tile = t[0]
    panel.x += first
    panel.p += first
    panel.y += first
    panel.width = width
    # which takes whole lines
    panel.stream = False
    tile.high += first
    tile.low += first
    write_panel(&panel, &tile, operation)


cdef void write_beyond(const Panel *s, const Tile *t, int operation) noexcept nogil:
    # Derivatives of a panel where the dot product of some column is_beyond: each of those by itself, and what lies
    # between them as ever.
    cdef Py_ssize_t c, first = 0
    cdef Line line
    for c in range(s.width):
        if not is_beyond(t.high[c], s.n, operation):
            continue
        line = line_of(s.x + c, s.p + c, s.y + c, s.n, REAL)
        line.g_stride *= s.x_step
        line.p_stride *= s.p_step
        line.y_stride *= s.y_step
        if finish_line(line, s.inv_t, operation):
            write_between(s, t, first, c - first, operation)
            first = c + 1
    write_between(s, t, first, s.width - first, operation)


cdef inline void forward_columns(const Panel *panel, char *scratch, int operation, const int kind) noexcept nogil:
    # kind: the operation, but LOGSUMEXP for all that keep no exponentials
    cdef Panel local = panel[0]       # whose members need not be read again after every store
    cdef const Panel *s = &local
    cdef Py_ssize_t blocks = blocks_of(s.n), b, c
    cdef Panel block
    cdef Tile t
    lay_tile(&t, s.n, s.width, scratch)
    if s.staged or s.y == NULL:
        local.e = t.e
        local.e_step = t.across
    else:
        local.e = s.y
        local.e_step = s.y_step
    local.beside_step = s.x_step
    # what an operation does not have is never read nor written, but stepped along
    local.p = s.x
    if s.y == NULL:
        local.y = local.e
    if operation == CROSS_ENTROPY or operation == CROSS_ENTROPY_GRAD:
        t.top = s.top
        t.log_sum = s.log_sum
        t.log_rest = s.log_rest
    for b in range(blocks):
        block = block_of_panel(s, b)
        panel_maxima(&block, &t)
        t.far = shift_lanes(t.maxima, t.columns, s.t, t.origin, t.away, t.magic, t.center)
        panel_sums(&block, &t, kind, exps_wait(s, kind))
        if blocks > 1:
            keep_stats(s, &t, b, kind != SOFTMAX)
    if blocks > 1:
        join_stats(s, &t, kind)
    else:
        join_columns(s, &t, kind)
    if kind != LOGSUMEXP:
        write_shares(s, &t)
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
    cdef Py_ssize_t blocks = blocks_of(s.n), b, c
    cdef bint plain = is_plain(s.n, operation)
    cdef v_f64 high, low, lost
    cdef Panel block
    cdef Tile t
    lay_tile(&t, s.n, s.width, scratch)
    # neither read nor written, but stepped along
    local.e = s.y
    local.beside = s.x
    for c in range(t.columns if blocks > 1 else 0):
        t.top[c] = t.log_sum[c] = 0
    for b in range(blocks):
        block = block_of_panel(s, b)
        panel_dots(&block, &t, operation, plain)
        for c from 0 <= c < t.columns by VL64:
            if plain:
                high = v_widen(t.total + c)
                low = set1_f64(0)
            else:
                dot_columns(t.dots + c, LANES, t.across, LANES if block.n > SHORT else 1, &high, &low)
            if blocks > 1:
                # as in add_part
                two_sum_lanes(load_f64(t.top + c), high, &high, &lost)
                low = add_f64(add_f64(load_f64(t.log_sum + c), lost), low)
                store_f64(t.top + c, high)
                store_f64(t.log_sum + c, low)
            if b + 1 == blocks:
                dot_split_lanes(high, low, dot_scale(operation), t.high + c, t.low + c if has_rest(operation) else NULL)
    if not is_looked_at(s.n, operation) or all_below(t.high, t.columns, largest_dot(operation)):
        write_panel(s, &t, operation)
    else:
        write_beyond(s, &t, operation)


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
