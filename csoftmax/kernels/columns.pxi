# The axis is not last. A column tile is a number of neighbouring columns whose elements have unit stride across the
# tile; row i of the tile holds element i of each column. A sweep works on vectors of VL neighbouring columns, one
# column a lane. Accumulator i % ACCUMULATORS of a column takes the term of row i, as in a contiguous row, so that the
# bits of a column are those of the same numbers in a row.
#
#   row set        the rows of a tile whose terms go to one accumulator, ACCUMULATORS rows apart; or to every fourth one
#   fourth         QUARTER accumulators of a column: j, j + 4, j + 8, ... for one j in 0 ... 3
#   loaded tile    its logits lie in scratch, where their exponentials replace them (tiles.pxi)
#   short tile     a tile of up to SHORT_TILE rows, each of which has an accumulator to itself
#   normalise      multiply exponentials by the reciprocal of their sum
#
# A sweep goes along the rows of a tile, ROW_GROUP of them at a time: what it touches lies together in memory, and rows
# at a stride that maps them to the same sets of the cache do not evict each other.

cdef enum:
    ROW_GROUP = 4             # rows for which the numbers that belong to their columns are loaded once
    PREFETCH_VECTORS = 8      # vectors from the one that is worked on to the one that is prefetched
    SHORT_TILE = 8            # up to so many rows, all of a vector of columns are met together; ACCUMULATORS at most


# What a sweep adds up, as a compile-time constant: the sum of the exponentials of each column, and ...
cdef enum:
    TIES = 1                  # ... elements at the maximum are counted instead of added,
    STORE_EXPS = 2            # ... the exponentials are stored at ColumnTile.e,
    DIRECT_REDUCTION = 4      # ... some column needs the direct range reduction (csm_exp's EXP_DIRECT);
    PRODUCTS = 8              # or the sum of products g p, each rounded once, in the precision of the reals


cdef struct ColumnTile:
    # Where the elements of a tile lie. Steps are in elements, from one row of the tile to the next.
    const real *x                 # IN: logits, or the incoming gradient
    const real *p                 # IN: the forward's output, in the derivatives
    real *y                       # OUT: results
    real *e                       # exponentials that wait to be normalised: in scratch, or in y
    const real *right             # IN: the tile on the right, which is prefetched; x where there is none
    Py_ssize_t n                  # rows: the length of a column
    Py_ssize_t width              # columns
    Py_ssize_t x_step
    Py_ssize_t p_step
    Py_ssize_t y_step
    Py_ssize_t e_step
    Py_ssize_t right_step
    double t                      # the temperature, and its reciprocal
    double inv_t
    # Of a loaded tile: the maxima of its columns, a row for each block, tile_pitch(width) apart; else NULL. Then x is
    # scratch, which may be overwritten, and its rows are of whole vectors.
    real *maxima
    bint stream                   # results are stored past the caches, with non-temporal stores
    # "width" numbers each, and room for whole vectors:
    const double *coefficient     # IN: what the softmax of each column is multiplied by, or NULL for 1
    double *top                   # OUT: the maximum of each column (CROSS_ENTROPY, CROSS_ENTROPY_GRAD), ...
    double *log_sum               # OUT: ... the logarithm of its sum, ...
    double *log_rest              # OUT: ... and what log_sum lost to rounding


cdef struct TileScratch:
    # Rows of "columns" numbers, one a column; "pitch" numbers from row to row.
    Py_ssize_t columns            # the width of the tile in whole vectors
    Py_ssize_t pitch
    Py_ssize_t group              # ROW_GROUP, for loops that the compiler is not to unroll
    Py_ssize_t n                  # rows of the tile; what is known of it tells the compiler nothing of a block's
    bint direct_reduction         # some column needs the direct range reduction
    bint tiny                     # a factor of some column would be subnormal: "after" counts
    bint products                 # dot products are added in the precision of the reals (is_plain)
    real *maxima                  # of one block; shift_lanes turns them into the four rows that follow
    real *origin
    real *away
    real *magic
    real *center
    real *high                    # factor of the exponentials, or shift of the logs, or dot product; "low" is what
    real *low                     # "high" lost to rounding
    real *after                   # what results are multiplied by after "high", where that is scaled up
    real *sums                    # ACCUMULATORS rows: accumulator j of each column in row j
    real *ties                    # ACCUMULATORS rows: how many elements are at the maximum
    double *dots                  # accumulators of dot products, in place of sums and ties
    double *top
    double *log_sum
    double *log_rest
    BlockStats *stats             # of each block of each column, where there are several blocks


ctypedef void (*TileFn)(const ColumnTile *, TileScratch *) noexcept nogil
ctypedef void (*TileSumsFn)(const ColumnTile *, const TileScratch *) noexcept nogil

cdef struct ColumnOperation:
    int what                  # what exp_sums adds up; STORE_EXPS: results are normalised exponentials
    TileSumsFn dots           # of a derivative: the dot products of one block of a tile; else NULL
    TileFn write              # the results of a tile, from its finished sums; or NULL


cdef inline Py_ssize_t whole_vectors(Py_ssize_t width) noexcept nogil:
    return (width + VL - 1) // VL * VL


cdef inline Py_ssize_t tile_pitch(Py_ssize_t width) noexcept nogil:
    # Elements from row to row of scratch, such that ACCUMULATORS rows are no multiple of 4096 bytes: a sweep goes from
    # one row to the ACCUMULATORS-th after it, and a load waits for an earlier store whose address has the same lowest
    # 12 bits.
    cdef Py_ssize_t pitch = whole_vectors(width)
    return pitch + VL if pitch * <Py_ssize_t> sizeof(real) % 256 == 0 else pitch


cdef inline real *scratch_reals(Scratch *scratch, Py_ssize_t count) noexcept nogil:
    return <real *> scratch_alloc(scratch, count, sizeof(real))


cdef inline void lay_tile(TileScratch *t, Py_ssize_t n, Py_ssize_t width, Scratch *scratch) noexcept nogil:
    # OUT t, in scratch: for "width" columns of n rows. A narrower tile takes no more of it.
    cdef Py_ssize_t pitch = tile_pitch(width)
    t.columns = whole_vectors(width)
    t.pitch = pitch
    t.group = ROW_GROUP
    t.n = n
    t.direct_reduction = t.tiny = t.products = False
    t.top = scratch_doubles(scratch, pitch)
    t.log_sum = scratch_doubles(scratch, pitch)
    t.log_rest = scratch_doubles(scratch, pitch)
    t.stats = <BlockStats *> scratch_alloc(scratch, blocks_of(n) * pitch, sizeof(BlockStats))
    t.maxima = scratch_reals(scratch, pitch)
    t.origin = scratch_reals(scratch, pitch)
    t.away = scratch_reals(scratch, pitch)
    t.magic = scratch_reals(scratch, pitch)
    t.center = scratch_reals(scratch, pitch)
    t.high = scratch_reals(scratch, pitch)
    t.low = scratch_reals(scratch, pitch)
    t.after = scratch_reals(scratch, pitch)
    t.sums = scratch_reals(scratch, 2 * ACCUMULATORS * pitch)
    t.ties = NULL if t.sums == NULL else t.sums + ACCUMULATORS * pitch
    t.dots = <double *> t.sums


cdef inline ColumnTile block_of_tile(const ColumnTile *s, Py_ssize_t b) noexcept nogil:
    # Rows b BLOCK ... of the tile, BLOCK of them at most.
    cdef ColumnTile block = s[0]
    block.n = block_length(s.n, b)
    block.x += b * BLOCK * s.x_step
    block.p += b * BLOCK * s.p_step
    block.y += b * BLOCK * s.y_step
    block.e += b * BLOCK * s.e_step
    block.right += b * BLOCK * s.right_step
    return block


# ------------------------------------------------------------------------------------- load, store, prefetch

cdef inline vec load_columns(const real *p, Py_ssize_t left) noexcept nogil:
    # VL columns from p on, of which "left" are columns of the tile: where those are fewer, the other lanes are 0.
    return v_load(p) if left >= VL else v_load_n(p, lanes_left(left), 0)


cdef inline void store_columns(real *p, Py_ssize_t left, vec a, bint stream) noexcept nogil:
    if left < VL:
        v_store_n(p, lanes_left(left), a)
    elif stream:
        v_stream(p, a)
    else:
        v_store(p, a)


cdef inline Py_ssize_t prefetch_distance(Py_ssize_t c, Py_ssize_t width, Py_ssize_t following) noexcept nogil:
    # Elements from the vector at column c to the one that is prefetched. That is PREFETCH_VECTORS further in the row;
    # or, where the row ends before, in the row that the sweep visits next, which starts "following" elements after it.
    if width < PREFETCH_VECTORS * VL:
        return following
    return PREFETCH_VECTORS * VL + (0 if c < width - PREFETCH_VECTORS * VL else following - width)


# -------------------------------------------------------------------------------------------------- maxima

cdef inline void max_vectors(const ColumnTile *s, const TileScratch *t, Py_ssize_t i, Py_ssize_t c, Py_ssize_t left,
                             const Py_ssize_t rows) noexcept nogil:
    # Raises the maxima of a vector of columns by "rows" rows from i on.
    cdef Py_ssize_t step = s.x_step, ahead = prefetch_distance(c, s.width, rows * s.x_step), k
    cdef const real *x = s.x + i * step + c
    cdef vec top = v_load(t.maxima + c)
    for k in range(rows):
        prefetch(x + k * step + ahead)
        top = v_max(load_columns(x + k * step, left), top)
    v_store(t.maxima + c, top)


cdef inline void max_rows(const ColumnTile *s, const TileScratch *t, Py_ssize_t i,
                          const Py_ssize_t rows) noexcept nogil:
    cdef Py_ssize_t c = 0
    while c <= s.width - VL:
        max_vectors(s, t, i, c, VL, rows)
        c += VL
    if c < s.width:
        max_vectors(s, t, i, c, s.width - c, rows)


cdef void find_maxima(const ColumnTile *s, const TileScratch *t) noexcept nogil:
    # OUT t.maxima: those of the columns of one block.
    cdef Py_ssize_t c, i = 0
    for c from 0 <= c < t.columns by VL:
        v_store(t.maxima + c, v_set1(-INFINITY))
    while i <= s.n - ROW_GROUP:
        max_rows(s, t, i, ROW_GROUP)
        i += ROW_GROUP
    if i < s.n:
        max_rows(s, t, i, s.n - i)


# ------------------------------------------------------------------------------------------------ row sets

cdef struct RowSet:
    # Rows of a tile whose terms go to one accumulator, or to every fourth one. Steps are in elements, from one row of
    # the set to the next. rows_of gives a set at the first column, "at_column" at any.
    const real *x
    const real *p
    real *e
    const real *right
    Py_ssize_t count              # rows
    Py_ssize_t width              # columns
    Py_ssize_t x_step
    Py_ssize_t p_step
    Py_ssize_t e_step
    Py_ssize_t right_step
    # elements from x, p and e to what is prefetched; before at_column: to the first row of the set that comes next
    Py_ssize_t x_ahead
    Py_ssize_t p_ahead
    Py_ssize_t e_ahead


cdef inline RowSet rows_of(const ColumnTile *s, Py_ssize_t i, Py_ssize_t end, Py_ssize_t every,
                           Py_ssize_t following) noexcept nogil:
    # Rows i, i + every, ... before "end". The set that comes next starts "following" rows after this one.
    cdef RowSet rows
    rows.x = s.x + i * s.x_step
    rows.p = s.p + i * s.p_step
    rows.e = s.e + i * s.e_step
    rows.right = s.right + i * s.right_step
    rows.count = (end - i + every - 1) // every
    rows.width = s.width
    rows.x_step = every * s.x_step
    rows.p_step = every * s.p_step
    rows.e_step = every * s.e_step
    rows.right_step = every * s.right_step
    rows.x_ahead = following * s.x_step
    rows.p_ahead = following * s.p_step
    rows.e_ahead = following * s.e_step
    return rows


cdef inline RowSet at_column(const RowSet *rows, Py_ssize_t c) noexcept nogil:
    # The same rows, from column c on.
    cdef RowSet here = rows[0]
    here.x += c
    here.p += c
    here.e += c
    here.right += c
    here.x_ahead = prefetch_distance(c, rows.width, rows.x_ahead)
    here.p_ahead = prefetch_distance(c, rows.width, rows.p_ahead)
    here.e_ahead = prefetch_distance(c, rows.width, rows.e_ahead)
    return here


# ---------------------------------------------------------------------------------- sums of one vector of columns

cdef struct Reduction:
    # How the exponentials of a vector of columns are reduced, from their maxima: what shift_lanes gives.
    shift_t shift
    vec away                  # the maximum in lanes of the direct range reduction, else 0
    double t                  # the temperature


cdef inline Reduction load_reduction(const ColumnTile *s, const TileScratch *t, Py_ssize_t c) noexcept nogil:
    cdef Reduction reduction
    reduction.shift.maximum = v_load(t.origin + c)
    reduction.shift.magic = v_load(t.magic + c)
    reduction.shift.center = v_load(t.center + c)
    reduction.away = v_load(t.away + c)
    reduction.t = s.t
    return reduction


cdef inline vec column_exp(vec x, vec *d, const shift_t *given, vec away, double t, const bint direct) noexcept nogil:
    # exp((x - maximum) / t) EXP_SCALE. OUT d[0]: (x - maximum) / t. A lane of the direct range reduction has neither a
    # multiple of ln2 nor a remainder of its maximum: what is reduced is d, and its centre is what the rounding of d
    # lost.
    cdef shift_t shift = given[0]
    cdef vec lost
    if direct:
        d[0] = over_temperature(x, shift.maximum, t, &lost)
        x = d[0] if t != 1 else v_sub(x, away)
        shift.center = v_sub(shift.center, lost)
    else:
        d[0] = v_sub(x, shift.maximum)
    return v_exp(x, d[0], shift, EXP_SHARED_LANES)


cdef inline vec reduced_exp(vec x, vec *d, const Reduction *r, const bint direct) noexcept nogil:
    return column_exp(x, d, &r.shift, r.away, r.t, direct)


cdef inline vec add_exp(vec sum, vec *ties, RowSet *at, Py_ssize_t left, const Reduction *reduction,
                        const int what) noexcept nogil:
    # The sum with the exponentials of the next row of the set. IN OUT ties: with those of the row (TIES).
    cdef vec d, a = reduced_exp(load_columns(at.x, left), &d, reduction, what & DIRECT_REDUCTION)
    if what & TIES:
        v_add_or_count(d, a, &sum, ties)
    else:
        sum = v_add(sum, a)
    if what & STORE_EXPS:
        prefetch_write(at.e + at.e_ahead)
        store_columns(at.e, left, a, False)
    at.x += at.x_step
    at.e += at.e_step
    return sum


cdef inline vec sum_rows(RowSet *at, Py_ssize_t left, const Reduction *reduction, vec *ties,
                         const int what) noexcept nogil:
    # The sum of exponentials for one accumulator. A subblock has eight rows for each at most, so that the rounding of
    # the sum is at most 8 u, u = 2^-24 or 2^-53, of itself.
    cdef vec sum = v_set1(0)
    while at.count > 0:
        prefetch(at.x + at.x_ahead)
        sum = add_exp(sum, ties, at, left, reduction, what)
        at.count -= 1
    return sum


cdef inline vec add_term(vec sum, vec *ties, RowSet *at, Py_ssize_t left, const Reduction *reduction,
                         const int what) noexcept nogil:
    # The sum with the products, or with the exponentials, of the next row of the set. While exponentials are computed
    # there is time to prefetch the tile on the right.
    if what & PRODUCTS:
        prefetch(at.x + at.x_ahead)
        prefetch(at.p + at.p_ahead)
        sum = v_fma(load_columns(at.x, left), load_columns(at.p, left), sum)
        at.x += at.x_step
        at.p += at.p_step
        return sum
    prefetch_next(at.right)
    at.right += at.right_step
    return add_exp(sum, ties, at, left, reduction, what)


cdef inline vec sum_fourth(RowSet *at, Py_ssize_t left, const Reduction *reduction, vec *ties,
                           const int what) noexcept nogil:
    # The sum of QUARTER accumulators, folded by halving. After each row the accumulators change places, so that the
    # term's code stands here once: the one that takes the next row is always "a". The pairs that are folded stay pairs.
    cdef vec a = v_set1(0), b = a, c = a, d = a, sum
    while at.count > 0:
        sum = add_term(a, ties, at, left, reduction, what)
        if QUARTER == 4:
            a = b
            b = c
            c = d
            d = sum
        else:
            a = b
            b = sum
        at.count -= 1
    return v_add(v_add(a, c), v_add(b, d)) if QUARTER == 4 else v_add(a, b)


cdef inline dot_t add_dot(dot_t dot, RowSet *at, Py_ssize_t left, const int operation) noexcept nogil:
    # A dot product with the term of the next row of the set.
    prefetch(at.x + at.x_ahead)
    prefetch(at.p + at.p_ahead)
    if left >= VL:
        dot = dot_term(dot, at.x, at.p, operation)
    else:
        dot = dot_term_n(dot, at.x, at.p, lanes_left(left), operation)
    at.x += at.x_step
    at.p += at.p_step
    return dot


cdef inline dot_t dot_fourth(RowSet *at, Py_ssize_t left, const int operation) noexcept nogil:
    # As sum_fourth, of dot products.
    cdef dot_t a = dot_zero(), b = a, c = a, d = a, dot
    while at.count > 0:
        dot = add_dot(a, at, left, operation)
        if QUARTER == 4:
            a = b
            b = c
            c = d
            d = dot
        else:
            a = b
            b = dot
        at.count -= 1
    return dot_join(dot_join(a, c), dot_join(b, d)) if QUARTER == 4 else dot_join(a, b)


# ------------------------------------------------------------------------------------ sums of a block of a tile

cdef inline void add_rows(const ColumnTile *s, const TileScratch *t, const RowSet *rows, Py_ssize_t begin,
                          Py_ssize_t c, Py_ssize_t left, const int operation, const int what) noexcept nogil:
    # The terms of a set, which starts at row "begin", to one accumulator of a vector of columns.
    cdef Py_ssize_t to = begin % ACCUMULATORS * t.pitch + c
    cdef RowSet at = at_column(rows, c)
    cdef vec sum, ties = v_set1(0)
    cdef Reduction reduction
    cdef dot_t dot
    if is_derivative(operation):
        dot = dot_load(t.dots + to, ACCUMULATORS, t.pitch) if begin >= SUBBLOCK else dot_zero()
        while at.count > 0:
            dot = add_dot(dot, &at, left, operation)
            at.count -= 1
        dot_store(t.dots + to, ACCUMULATORS, t.pitch, dot)
        return
    reduction = load_reduction(s, t, c)
    sum = sum_rows(&at, left, &reduction, &ties, what)
    if begin >= SUBBLOCK:
        sum = v_add(v_load(t.sums + to), sum)
        ties = v_add(v_load(t.ties + to), ties)
    v_store(t.sums + to, sum)
    if what & TIES:
        v_store(t.ties + to, ties)


cdef void add_last_rows(const ColumnTile *s, const TileScratch *t, const RowSet *rows, Py_ssize_t begin, int operation,
                        int what) noexcept nogil:
    # add_rows of the columns that fill no vector. It is compiled once for all operations.
    cdef Py_ssize_t left = s.width % VL
    add_rows(s, t, rows, begin, s.width - left, left, operation, what)


cdef inline void many_rows(const ColumnTile *s, const TileScratch *t, const int operation,
                           const int what) noexcept nogil:
    # OUT t.sums or t.dots: ACCUMULATORS accumulators a column, OUT t.ties: one a column, of a block of any length.
    cdef ColumnTile local = s[0]
    cdef TileScratch scratch = t[0]
    cdef Py_ssize_t begin, end, j, c
    cdef RowSet rows
    for begin from 0 <= begin < s.n by SUBBLOCK:
        end = begin + SUBBLOCK if s.n - begin > SUBBLOCK else s.n
        for j in range(begin, begin + ACCUMULATORS if end - begin > ACCUMULATORS else end):
            rows = rows_of(s, j, end, ACCUMULATORS, 1)
            for c from 0 <= c <= local.width - VL by VL:
                add_rows(&local, &scratch, &rows, j, c, VL, operation, what)
            if local.width % VL:
                add_last_rows(s, t, &rows, j, operation, what)
    if what & TIES:
        fold_accumulators(t.ties, t.pitch, t.columns)


cdef inline void add_fourth(const ColumnTile *s, const TileScratch *t, const RowSet *rows, Py_ssize_t position,
                            Py_ssize_t c, Py_ssize_t left, const int operation, const int what) noexcept nogil:
    # The fourth at a position of the order of few_rows, folded, to what is there already: of the two fourths that make
    # a half of all accumulators, in row 0 or 1 of t.sums. Dot products and products are folded into one number, in
    # row 0.
    cdef Py_ssize_t to = t.pitch * (position // 2) + c
    cdef bint whole = is_derivative(operation)
    cdef RowSet at = at_column(rows, c)
    cdef Reduction reduction
    cdef vec sum, ties
    cdef dot_t dot
    if whole and not what & PRODUCTS:
        dot = dot_fourth(&at, left, operation)
        if position % 2:
            dot = dot_join(dot_load(t.dots + to, ACCUMULATORS, t.pitch), dot)
        if position == 3:
            to = c
            dot = dot_join(dot_load(t.dots + to, ACCUMULATORS, t.pitch), dot)
        dot_store(t.dots + to, ACCUMULATORS, t.pitch, dot)
        return
    ties = v_load(t.ties + c) if what & TIES else v_set1(0)
    reduction = load_reduction(s, t, c)
    sum = sum_fourth(&at, left, &reduction, &ties, what)
    if what & TIES:
        v_store(t.ties + c, ties)
    if position % 2:
        sum = v_add(v_load(t.sums + to), sum)
    if whole and position == 3:
        to = c
        sum = v_add(v_load(t.sums + to), sum)
    v_store(t.sums + to, sum)


cdef void add_last_fourth(const ColumnTile *s, const TileScratch *t, const RowSet *rows, Py_ssize_t position,
                          int operation, int what) noexcept nogil:
    # add_fourth of the columns that fill no vector. It is compiled once for all operations.
    cdef Py_ssize_t left = s.width % VL
    add_fourth(s, t, rows, position, s.width - left, left, operation, what)


cdef inline void few_rows(const ColumnTile *s, const TileScratch *t, const int operation,
                          const int what) noexcept nogil:
    # As many_rows, of up to SHORT rows, whose accumulators are folded at once: OUT t.sums: two numbers a column, of
    # which the sum is made; or t.dots, or t.sums of products: one.
    cdef ColumnTile local = s[0]
    cdef TileScratch scratch = t[0]
    cdef Py_ssize_t first[4]
    cdef Py_ssize_t position, c
    cdef RowSet rows
    # the first rows of the fourths, in the order in which folding by halving adds them
    first[0] = 0
    first[1] = 2
    first[2] = 1
    first[3] = 3
    if what & TIES:
        memset(t.ties, 0, t.columns * sizeof(real))
    for position in range(4):
        if position % 2 and first[position] >= s.n and not is_derivative(operation):
            continue
        rows = rows_of(s, first[position], s.n, 4, first[position + 1] - first[position] if position < 3 else 0)
        for c from 0 <= c <= local.width - VL by VL:
            add_fourth(&local, &scratch, &rows, position, c, VL, operation, what)
        if local.width % VL:
            add_last_fourth(s, t, &rows, position, operation, what)


cdef inline void short_dots(const ColumnTile *s, const TileScratch *t, Py_ssize_t c, Py_ssize_t left,
                            const int operation) noexcept nogil:
    # OUT t.dots: one number a column, of all rows of a vector of columns of a short tile. Its terms are folded in the
    # rows of t.dots: an array of SHORT_TILE numbers would make the compiler unroll the loops.
    cdef RowSet rows = rows_of(s, 0, s.n, 1, 0), at = at_column(&rows, c)
    cdef double *dots = t.dots + c
    cdef Py_ssize_t i, half = SHORT_TILE // 2
    cdef dot_t dot
    for i in range(s.n):
        dot_store(dots + i * t.pitch, ACCUMULATORS, t.pitch, add_dot(dot_zero(), &at, left, operation))
    while half > 0:
        for i in range(half, s.n if s.n < 2 * half else 2 * half):
            dot = dot_load(dots + i * t.pitch, ACCUMULATORS, t.pitch)
            dot = dot_join(dot_load(dots + (i - half) * t.pitch, ACCUMULATORS, t.pitch), dot)
            dot_store(dots + (i - half) * t.pitch, ACCUMULATORS, t.pitch, dot)
        half //= 2


cdef inline void short_sums(const ColumnTile *s, const TileScratch *t, Py_ssize_t c, Py_ssize_t left,
                            const int operation, const int what) noexcept nogil:
    # As few_rows, of a vector of columns of a short tile: each accumulator, a row of t.sums, has one term at most.
    cdef RowSet rows = rows_of(s, 0, s.n, 1, 0), at = at_column(&rows, c)
    cdef Reduction reduction = load_reduction(s, t, c)
    cdef real *sums = t.sums + c
    cdef vec zero = v_set1(0), ties = zero
    cdef Py_ssize_t i, half = SHORT_TILE // 2
    v_store(sums + t.pitch, zero)
    for i in range(s.n):
        v_store(sums + i * t.pitch, add_term(zero, &ties, &at, left, &reduction, what))
    while half > 1:
        for i in range(half, s.n if s.n < 2 * half else 2 * half):
            v_store(sums + (i - half) * t.pitch, v_add(v_load(sums + (i - half) * t.pitch), v_load(sums + i * t.pitch)))
        half //= 2
    if what & TIES:
        v_store(t.ties + c, ties)
    if what & PRODUCTS:
        v_store(sums, v_add(v_load(sums), v_load(sums + t.pitch)))


cdef inline void short_tile(const ColumnTile *s, const TileScratch *t, const int operation,
                            const int what) noexcept nogil:
    # As few_rows, of up to SHORT_TILE rows.
    cdef ColumnTile local = s[0]
    cdef TileScratch scratch = t[0]
    cdef Py_ssize_t c
    for c from 0 <= c < local.width by VL:
        if is_derivative(operation) and not what & PRODUCTS:
            short_dots(&local, &scratch, c, local.width - c, operation)
        else:
            short_sums(&local, &scratch, c, local.width - c, operation, what)


cdef inline void column_sums(const ColumnTile *s, const TileScratch *t, const int operation,
                             const int what) noexcept nogil:
    if t.n <= SHORT_TILE:
        short_tile(s, t, operation, what)
    elif what & PRODUCTS or s.n <= SHORT:
        few_rows(s, t, operation, what)
    else:
        many_rows(s, t, operation, what)


cdef void seldom_sums(const ColumnTile *s, const TileScratch *t, int operation, int what) noexcept nogil:
    # column_sums, compiled once for everything that has no copy of its own below.
    column_sums(s, t, operation, what)


cdef void exp_sums(const ColumnTile *s, const TileScratch *t, int what) noexcept nogil:
    # The sums of the exponentials of one block.
    if t.direct_reduction:
        what |= DIRECT_REDUCTION
    if what == STORE_EXPS:
        column_sums(s, t, SOFTMAX, STORE_EXPS)
    elif what == TIES:
        column_sums(s, t, SOFTMAX, TIES)
    else:
        seldom_sums(s, t, SOFTMAX, what)


cdef inline void fold_accumulators(real *a, Py_ssize_t pitch, Py_ssize_t columns) noexcept nogil:
    # IN OUT a: ACCUMULATORS rows of accumulators, "pitch" elements from row to row. By halving, the first becomes their
    # sum.
    cdef Py_ssize_t half = ACCUMULATORS // 2, i, c
    while half > 0:
        for i in range(half):
            for c from 0 <= c < columns by VL:
                v_store(a + i * pitch + c, v_add(v_load(a + i * pitch + c), v_load(a + (i + half) * pitch + c)))
        half //= 2


cdef inline void column_total(const TileScratch *t, Py_ssize_t c, Py_ssize_t rows, v_f64 *high,
                              v_f64 *low) noexcept nogil:
    # OUT high + low: the sums of VL64 columns of a block of "rows" rows, and what they lost to rounding.
    if rows <= SHORT:
        join_pair_lanes(t.sums + c, t.sums + t.pitch + c, high, low)
    else:
        fold_lanes(t.sums + c, t.pitch, high, low)


# ---------------------------------------------------------------------------------------- tiles of one block

cdef void finish_columns(const ColumnTile *s, TileScratch *t, int what) noexcept nogil:
    # From the sums of the only block: OUT t.top, t.log_sum, t.log_rest (TIES) and the factors t.high, t.low, t.after
    # (STORE_EXPS), of whole vectors.
    cdef Py_ssize_t c
    cdef v_f64 sum, rest, tied
    for c from 0 <= c < t.columns by VL64:
        column_total(t, c, s.n, &sum, &rest)
        if what & TIES:
            tied = v_widen(t.ties + c)
            log_lanes(sum, rest, tied, t.log_sum + c, t.log_rest + c)
            store_f64(t.top + c, v_widen(t.maxima + c))
            if not what & STORE_EXPS:
                continue
            two_sum_lanes(mul_f64(tied, set1_f64(EXP_SCALE)), sum, &sum, &tied)
            rest = add_f64(tied, rest)
            if factor_lanes(sum, rest, s.coefficient + c, t.high + c, t.low + c, t.after + c):
                t.tiny = True
        else:
            factor_lanes(sum, rest, NULL, t.high + c, t.low + c, t.after + c)
    if what & TIES and not all_finite(t.maxima, t.columns):
        finish_infinite(s, t)


cdef void finish_infinite(const ColumnTile *s, TileScratch *t) noexcept nogil:
    # The logarithms of columns whose maximum is infinite.
    cdef Py_ssize_t c
    for c in range(s.width):
        if not -INFINITY < t.maxima[c] < INFINITY:
            infinite_log(t.top[c], has_nan(s.x + c, s.n, s.x_step), t.log_sum + c, t.log_rest + c)


# ------------------------------------------------------------------------------------ tiles of several blocks

cdef void store_stats(const ColumnTile *s, const TileScratch *t, Py_ssize_t b, bint split) noexcept nogil:
    # OUT t.stats: those of block b of each column, from its sums; split: ties are counted.
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


cdef void join_blocks(const ColumnTile *s, TileScratch *t, int what) noexcept nogil:
    # As finish_columns, from the stats of several blocks. The factors stay in the stats: each block has its own.
    cdef Py_ssize_t c, blocks = blocks_of(s.n)
    for c in range(s.width):
        if what & TIES:
            join_log(t.stats + c * blocks, blocks, s.t, t.top + c, t.log_sum + c, t.log_rest + c)
        if what & STORE_EXPS:
            join_softmax(t.stats + c * blocks, blocks, s.t,
                         s.coefficient[c] if s.coefficient != NULL else 1)


cdef void load_factors(const ColumnTile *s, TileScratch *t, Py_ssize_t b) noexcept nogil:
    # OUT t.high, t.low, t.after, t.tiny, t.maxima: those of block b of each column, from its stats.
    cdef Py_ssize_t c, blocks = blocks_of(s.n)
    cdef BlockStats *stats
    cdef double unit
    t.tiny = False
    for c in range(s.width):
        stats = t.stats + c * blocks + b
        unit = 1 / FACTOR_SCALE
        t.after[c] = 1
        if is_tiny(stats.factor, FACTOR_SCALE):
            # the product is scaled down, not the factor, as in normalise_block
            t.tiny = True
            unit = 1
            t.after[c] = <real> (1 / FACTOR_SCALE)
        split_real(stats.factor * unit, stats.factor_rest * unit, t.high + c, t.low + c)
        t.maxima[c] = <real> stats.maximum


# ------------------------------------------------------------------------------------------- writing results

cdef inline void write_vectors(const ColumnTile *s, const TileScratch *t, Py_ssize_t i, Py_ssize_t c, Py_ssize_t left,
                               const Py_ssize_t rows, const int operation, const bint waiting) noexcept nogil:
    # Results of a vector of columns, "rows" rows from i on. waiting: SOFTMAX's exponentials wait at s.e; else they are
    # computed again.
    cdef Py_ssize_t k, step = s.e_step if waiting else s.x_step
    cdef const real *x = s.x + i * step + c
    cdef const real *p = s.p + i * s.p_step + c if is_derivative(operation) else NULL
    cdef real *y = s.y + i * s.y_step + c
    cdef Py_ssize_t ahead = prefetch_distance(c, s.width, rows * s.y_step)
    cdef vec a, d, high = v_load(t.high + c), low = v_load(t.low + c)
    cdef Logs logs = logs_of(high, low, s.inv_t)
    cdef Slope slope = slope_of(s.inv_t, operation)
    cdef Reduction reduction = load_reduction(s, t, c)
    if waiting:
        x = s.e + i * step + c
    slope.dot = high
    if has_rest(operation):
        slope.rest = low
    for k in range(rows):
        a = load_columns(x, left)
        x += step
        if is_derivative(operation):
            a = gradient(a, load_columns(p, left), &slope, operation)
            p += s.p_step
        elif operation == LOG_SOFTMAX:
            a = log_of(a, &logs)
        else:
            if not waiting:
                a = reduced_exp(a, &d, &reduction, t.direct_reduction)
            a = normalised(a, high, low)
            if t.tiny:
                a = v_mul(a, v_load(t.after + c))
        if not s.stream:
            prefetch_write(y + ahead)
        store_columns(y, left, a, s.stream)
        y += s.y_step


cdef inline void write_rows(const ColumnTile *s, const TileScratch *t, Py_ssize_t i, const Py_ssize_t rows,
                            const int operation, const bint waiting) noexcept nogil:
    cdef Py_ssize_t c
    for c from 0 <= c <= s.width - VL by VL:
        write_vectors(s, t, i, c, VL, rows, operation, waiting)
    c = s.width // VL * VL
    if c < s.width:
        write_vectors(s, t, i, c, s.width - c, rows, operation, waiting)


cdef inline bint has_exp(const int operation, const bint waiting) noexcept nogil:
    # whether an exponential is computed for each result
    return operation == LOG_SOFTMAX_VJP or (operation == SOFTMAX and not waiting)


cdef inline void write_block(const ColumnTile *s, const TileScratch *t, const int operation,
                             const bint waiting) noexcept nogil:
    # Where an exponential is computed for each result, the compiler does not know the number of rows, so that it does
    # not unroll over them: that would hide no more latency, and repeat the exponential.
    cdef Py_ssize_t i = 0
    if has_exp(operation, waiting):
        while i < s.n:
            write_rows(s, t, i, t.group if s.n - i > t.group else s.n - i, operation, waiting)
            i += t.group
        return
    while i <= s.n - ROW_GROUP:
        write_rows(s, t, i, ROW_GROUP, operation, waiting)
        i += ROW_GROUP
    if i < s.n:
        write_rows(s, t, i, s.n - i, operation, waiting)


cdef inline bint exps_wait(const ColumnTile *s) noexcept nogil:
    # Exponentials are stored when they are summed, and normalised where they lie; but not in a result that is stored
    # past the caches.
    return s.maxima != NULL or not s.stream


cdef void write_softmax(const ColumnTile *s, TileScratch *t) noexcept nogil:
    # The last block is the one that is most likely to be in the caches still.
    cdef Py_ssize_t blocks = blocks_of(s.n), b
    cdef ColumnTile block
    for b in range(blocks - 1, -1, -1):
        block = block_of_tile(s, b)
        if blocks > 1:
            load_factors(s, t, b)
        if exps_wait(s):
            write_block(&block, t, SOFTMAX, True)
            continue
        if blocks > 1:
            t.direct_reduction = shift_lanes(t.maxima, t.columns, s.t, t.origin, t.away, t.magic, t.center)
        write_block(&block, t, SOFTMAX, False)


cdef inline void write_tile(const ColumnTile *s, const TileScratch *t, const int operation) noexcept nogil:
    # As write_softmax, of operations whose results are made of the same numbers in all blocks of a column.
    cdef Py_ssize_t b
    cdef ColumnTile block
    for b in range(blocks_of(s.n) - 1, -1, -1):
        block = block_of_tile(s, b)
        write_block(&block, t, operation, False)


cdef void split_infinite_logs(const ColumnTile *s, TileScratch *t) noexcept nogil:
    # OUT t.high, t.low: what log-probabilities of columns are made with whose maximum is infinite.
    cdef Py_ssize_t c
    for c in range(s.width):
        if not -INFINITY < t.top[c] < INFINITY:
            split_log(t.top[c], t.log_sum[c], t.log_rest[c], s.inv_t, t.high + c, t.low + c)


cdef void write_log_softmax(const ColumnTile *s, TileScratch *t) noexcept nogil:
    cdef Py_ssize_t c
    for c from 0 <= c < t.columns by VL64:
        split_log_lanes(t.top + c, t.log_sum + c, t.log_rest + c, s.inv_t, t.high + c, t.low + c)
    if blocks_of(s.n) > 1 or not all_finite(t.maxima, t.columns):
        split_infinite_logs(s, t)
    write_tile(s, t, LOG_SOFTMAX)


cdef void write_logsumexp(const ColumnTile *s, TileScratch *t) noexcept nogil:
    # OUT s.y: a number for each column, a step of y_step from one to the next.
    cdef Py_ssize_t c
    for c from 0 <= c < t.columns by VL64:
        v_narrow(t.high + c, add_log_lanes(load_f64(t.top + c), load_f64(t.log_sum + c), load_f64(t.log_rest + c)))
    for c in range(s.width):
        s.y[c * s.y_step] = t.high[c]


cdef void write_softmax_grad(const ColumnTile *s, TileScratch *t) noexcept nogil:
    write_tile(s, t, SOFTMAX_GRAD)


cdef void write_log_softmax_vjp(const ColumnTile *s, TileScratch *t) noexcept nogil:
    write_tile(s, t, LOG_SOFTMAX_VJP)


cdef void write_log_softmax_jvp(const ColumnTile *s, TileScratch *t) noexcept nogil:
    write_tile(s, t, LOG_SOFTMAX_JVP)


# ------------------------------------------------------------------------------------------------ dot products

cdef void softmax_grad_dots(const ColumnTile *s, const TileScratch *t) noexcept nogil:
    # sum(g p), of a block: OUT t.sums where products are added in their own precision, else t.dots.
    if t.products:
        column_sums(s, t, SOFTMAX_GRAD, PRODUCTS)
    else:
        column_sums(s, t, SOFTMAX_GRAD, 0)


cdef void log_softmax_vjp_dots(const ColumnTile *s, const TileScratch *t) noexcept nogil:
    # OUT t.dots: sum(g), of a block.
    seldom_sums(s, t, LOG_SOFTMAX_VJP, 0)


cdef void log_softmax_jvp_dots(const ColumnTile *s, const TileScratch *t) noexcept nogil:
    # OUT t.dots: sum(g exp(p)) EXP_SCALE, of a block.
    seldom_sums(s, t, LOG_SOFTMAX_JVP, 0)


cdef void add_block_dots(TileScratch *t, Py_ssize_t c, v_f64 *high, v_f64 *low) noexcept nogil:
    # IN OUT high + low: the dot products of VL64 columns of one block become those of the blocks so far, which are in
    # t.top + t.log_sum: what an addition loses is added to log_sum.
    cdef v_f64 lost
    two_sum_lanes(load_f64(t.top + c), high[0], high, &lost)
    low[0] = add_f64(add_f64(load_f64(t.log_sum + c), lost), low[0])
    store_f64(t.top + c, high[0])
    store_f64(t.log_sum + c, low[0])


cdef void finish_dots(const ColumnTile *s, TileScratch *t, Py_ssize_t b, int operation) noexcept nogil:
    # From the accumulators of block b: OUT t.high, t.low: after the last block, what a Slope is made with.
    cdef Py_ssize_t blocks = blocks_of(s.n), count = ACCUMULATORS if block_length(s.n, b) > SHORT else 1, c
    cdef v_f64 high, low
    for c from 0 <= c < t.columns by VL64:
        if t.products:
            high = v_widen(t.sums + c)
            low = set1_f64(0)
        else:
            dot_columns(t.dots + c, ACCUMULATORS, t.pitch, count, &high, &low)
        if blocks > 1:
            add_block_dots(t, c, &high, &low)
        if b + 1 == blocks:
            dot_split_lanes(high, low, dot_scale(operation), t.high + c, t.low + c if has_rest(operation) else NULL)


cdef void write_between(const ColumnTile *s, const TileScratch *t, Py_ssize_t first, Py_ssize_t width,
                        TileFn write) noexcept nogil:
    # Derivatives of "width" columns of the tile, from "first" on.
    cdef ColumnTile columns = s[0]
    cdef TileScratch scratch = t[0]
    columns.x += first
    columns.p += first
    columns.y += first
    columns.width = width
    # non-temporal stores need aligned vectors
    columns.stream = False
    scratch.high += first
    scratch.low += first
    write(&columns, &scratch)


cdef void write_beyond(const ColumnTile *s, const TileScratch *t, int operation, TileFn write) noexcept nogil:
    # Derivatives of a tile where the dot product of some column is_beyond the range: each of those columns by itself,
    # and what lies between them as ever.
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
            write_between(s, t, first, c - first, write)
            first = c + 1
    write_between(s, t, first, s.width - first, write)


# --------------------------------------------------------------------------------------------- the operations

cdef ColumnOperation[<int> OPERATIONS] COLUMN_OPERATIONS
COLUMN_OPERATIONS[<int> SOFTMAX].what = STORE_EXPS
COLUMN_OPERATIONS[<int> SOFTMAX].write = write_softmax
COLUMN_OPERATIONS[<int> LOG_SOFTMAX].what = TIES
COLUMN_OPERATIONS[<int> LOG_SOFTMAX].write = write_log_softmax
COLUMN_OPERATIONS[<int> LOGSUMEXP].what = TIES
COLUMN_OPERATIONS[<int> LOGSUMEXP].write = write_logsumexp
COLUMN_OPERATIONS[<int> CROSS_ENTROPY].what = TIES
COLUMN_OPERATIONS[<int> CROSS_ENTROPY_GRAD].what = TIES | STORE_EXPS
COLUMN_OPERATIONS[<int> CROSS_ENTROPY_GRAD].write = write_softmax
COLUMN_OPERATIONS[<int> SOFTMAX_GRAD].dots = softmax_grad_dots
COLUMN_OPERATIONS[<int> SOFTMAX_GRAD].write = write_softmax_grad
COLUMN_OPERATIONS[<int> LOG_SOFTMAX_VJP].dots = log_softmax_vjp_dots
COLUMN_OPERATIONS[<int> LOG_SOFTMAX_VJP].write = write_log_softmax_vjp
COLUMN_OPERATIONS[<int> LOG_SOFTMAX_JVP].dots = log_softmax_jvp_dots
COLUMN_OPERATIONS[<int> LOG_SOFTMAX_JVP].write = write_log_softmax_jvp


cdef void forward_tile(const ColumnTile *tile, TileScratch *t, const ColumnOperation *operation) noexcept nogil:
    cdef ColumnTile s = tile[0]
    cdef Py_ssize_t blocks = blocks_of(s.n), b
    cdef int what = operation.what
    cdef bint loaded = s.maxima != NULL
    cdef ColumnTile block
    s.e = <real *> s.x if loaded or s.y == NULL else s.y
    s.e_step = s.x_step if loaded or s.y == NULL else s.y_step
    # An operand that an operation does not have is neither read nor written, but its pointer is stepped along.
    s.p = s.x
    if s.y == NULL:
        s.y = s.e
    if s.top != NULL:
        t.top = s.top
        t.log_sum = s.log_sum
        t.log_rest = s.log_rest
    for b in range(blocks):
        block = block_of_tile(&s, b)
        if loaded:
            t.maxima = s.maxima + b * t.pitch
            block.width = t.columns
        else:
            find_maxima(&block, t)
        t.direct_reduction = shift_lanes(t.maxima, t.columns, s.t, t.origin, t.away, t.magic, t.center)
        exp_sums(&block, t, what if exps_wait(&s) else what & TIES)
        if blocks > 1:
            store_stats(&s, t, b, what & TIES)
    if blocks > 1:
        join_blocks(&s, t, what)
    else:
        finish_columns(&s, t, what)
    if operation.write != NULL:
        operation.write(&s, t)


cdef void backward_tile(const ColumnTile *tile, TileScratch *t, int operation) noexcept nogil:
    cdef ColumnTile s = tile[0]
    cdef Py_ssize_t blocks = blocks_of(s.n), b
    cdef TileFn write = COLUMN_OPERATIONS[operation].write
    cdef ColumnTile block
    # An operand that derivatives do not have is neither read nor written, but its pointer is stepped along.
    s.e = s.y
    s.right = s.x
    t.products = is_plain(s.n, operation)
    if blocks > 1:
        memset(t.top, 0, t.columns * sizeof(double))
        memset(t.log_sum, 0, t.columns * sizeof(double))
    for b in range(blocks):
        block = block_of_tile(&s, b)
        COLUMN_OPERATIONS[operation].dots(&block, t)
        finish_dots(&s, t, b, operation)
    if not is_looked_at(s.n, operation) or all_below(t.high, t.columns, largest_dot(operation)):
        write(&s, t)
    else:
        write_beyond(&s, t, operation, write)


cdef void run_tile(const ColumnTile *s, const TileScratch *scratch, int operation) noexcept nogil:
    # OUT: the results of a tile. Scratch: as lay_tile lays it out for s.width columns of s.n rows.
    cdef TileScratch t = scratch[0]
    if is_derivative(operation):
        backward_tile(s, &t, operation)
    else:
        forward_tile(s, &t, &COLUMN_OPERATIONS[operation])
