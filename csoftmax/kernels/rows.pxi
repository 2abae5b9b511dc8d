# Rows that lie contiguous, one after another.

cdef struct Strip:
    int storage               # REAL; or, of 16-bit floats to which x, p and y point then
    real *kept                # and two blocks of scratch for their logits as reals
    const real *x             # logits, or the incoming gradient
    const real *p             # the forward's output, in the derivatives
    real *y
    Py_ssize_t rows
    Py_ssize_t n
    Py_ssize_t x_pitch        # elements from row to row
    Py_ssize_t p_pitch
    Py_ssize_t y_pitch
    double t                      # the temperature, and its reciprocal
    double inv_t
    bint stream
    const double *coefficient     # one a row, or NULL for 1
    double *top                   # the maximum of each row (CROSS_ENTROPY*)
    double *log_sum               # and the logarithm of its sum, in two parts
    double *log_rest


cdef inline Py_ssize_t padded(Py_ssize_t n) noexcept nogil:
    return (n + LANES - 1) // LANES * LANES


cdef inline Py_ssize_t blocks_of(Py_ssize_t n) noexcept nogil:
    return (n + BLOCK - 1) // BLOCK


cdef inline Py_ssize_t block_length(Py_ssize_t n, Py_ssize_t b) noexcept nogil:
    return BLOCK if n - b * BLOCK > BLOCK else n - b * BLOCK


cdef inline char *x_at(const Strip *s, Py_ssize_t row, Py_ssize_t b, const bint half) noexcept nogil:
    return at(s.x, row * s.x_pitch + b * BLOCK, F16 if half else REAL)


cdef inline char *p_at(const Strip *s, Py_ssize_t row, Py_ssize_t b, const bint half) noexcept nogil:
    return at(s.p, row * s.p_pitch + b * BLOCK, F16 if half else REAL)


cdef inline char *y_at(const Strip *s, Py_ssize_t row, Py_ssize_t b, const bint half) noexcept nogil:
    return at(s.y, row * s.y_pitch + b * BLOCK, F16 if half else REAL)


cdef enum:
    FUSED_LEAST = 16 * LANES  # rows of more elements, ...
    FEW_BLOCKS = 16           # ... up to so many blocks, are written while a later one is exponentiated;
    MANY_BLOCKS = 64          # up to so many if no exponentials are kept
    TOGETHER_MOST = 8         # rows that are finished together, ...
    TOGETHER_REALS = 4096     # ... of so many elements, or one


cdef struct Finished:
    # a row whose exponentials are summed
    real *e
    double *stats
    double top                # its maximum, and the logarithm of the sum, in two parts
    double log_sum
    double log_rest


cdef inline Py_ssize_t rows_together(Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t rows = TOGETHER_REALS // (n if n > 0 else 1)
    return TOGETHER_MOST if rows > TOGETHER_MOST else (rows if rows > 1 else 1)


cdef inline Py_ssize_t in_flight(Py_ssize_t n, Py_ssize_t rows) noexcept nogil:
    # those of the rows whose exponentials and statistics are kept
    cdef Py_ssize_t most = rows_together(n) * (2 if FUSED and blocks_of(n) <= MANY_BLOCKS else 1)
    return most if rows > most else rows


cdef inline void finish_rows(const Strip *s, Py_ssize_t row, Py_ssize_t rows, Finished *f, const bint keep,
                             const bint split) noexcept nogil:
    # what each takes is a chain of operations that wait for each other; those of several rows do not
    cdef Py_ssize_t blocks = blocks_of(s.n), r
    cdef double logs[TOGETHER_MOST]
    cdef double rests[TOGETHER_MOST]
    cdef bint nan[TOGETHER_MOST]
    if split:
        for r in range(rows):
            sum_blocks(f[r].stats, blocks, s.t, &f[r].top, logs + r, rests + r, nan + r)
        log1p_run(logs, rests, rows)
        for r in range(rows):
            f[r].log_sum = logs[r]
            f[r].log_rest = rests[r]
            settle_log(f[r].top, nan[r], &f[r].log_sum, &f[r].log_rest)
    if keep:
        for r in range(rows):
            join_softmax(f[r].stats, blocks, s.t, s.coefficient[row + r] if s.coefficient != NULL else 1)


cdef inline void share_rows(const Strip *s, Py_ssize_t row, Py_ssize_t rows, const Finished *f,
                            const bint half) noexcept nogil:
    # finishes and writes softmaxes of one block
    cdef double sums[TOGETHER_MOST]
    cdef double rests[TOGETHER_MOST]
    cdef real high[TOGETHER_MOST]
    cdef real low[TOGETHER_MOST]
    cdef Py_ssize_t r
    cdef vec h, l
    for r in range(TOGETHER_MOST):
        sums[r] = f[r].stats[1] if r < rows else 1
        rests[r] = f[r].stats[5] if r < rows else 0
    for r from 0 <= r < rows by VL64:
        factor_lanes(load_f64(sums + r), load_f64(rests + r), NULL, high + r, low + r, NULL)
    for r in range(rows):
        h = v_set1(high[r])
        l = v_set1(low[r])
        if not half:
            share_run(f[r].e, y_at(s, row + r, 0, half), s.n, h, l, REAL)
        elif s.storage == F16:
            share_run(f[r].e, y_at(s, row + r, 0, half), s.n, h, l, F16)
        else:
            share_run(f[r].e, y_at(s, row + r, 0, half), s.n, h, l, BF16)


cdef inline void write_row(const Strip *s, Py_ssize_t row, const Finished *f, int operation, const bint keep,
                           const bint split, const bint half) noexcept nogil:
    cdef real high, low
    if split and operation == LOGSUMEXP:
        s.y[row * s.y_pitch] = whole_log(f.top, f.log_sum, f.log_rest)
    elif split and operation == LOG_SOFTMAX:
        split_log(f.top, f.log_sum, f.log_rest, s.inv_t, &high, &low)
        if half:
            log_run_16(x_at(s, row, 0, half), y_at(s, row, 0, half), s.n, high, low, s.inv_t, s.storage)
        else:
            log_run(x_at(s, row, 0, half), y_at(s, row, 0, half), s.n, high, low, s.inv_t, s.stream, REAL)
    elif split:
        s.top[row] = f.top
        s.log_sum[row] = f.log_sum
        s.log_rest[row] = f.log_rest
    if keep:
        write_blocks(s, row, f.e, f.stats, split, half)


cdef inline bint may_wait(Py_ssize_t n, bint stream) noexcept nogil:
    # Exponentials of a block may wait in a result that stays in the caches. They are stored as whole vectors.
    return not stream and n % LANES == 0


cdef inline real *block_exps(const Strip *s, Py_ssize_t row, Py_ssize_t b, real *e, const bint split,
                             const bint half) noexcept nogil:
    # where the exponentials of block b of a row wait to be scaled: of a long row in the result, else in e, scratch
    if split or half or blocks_of(s.n) <= FEW_BLOCKS or not may_wait(block_length(s.n, b), s.stream):
        return e + b * BLOCK
    return <real *> y_at(s, row, b, half)


cdef inline void write_blocks(const Strip *s, Py_ssize_t row, real *e, const double *stats, const bint split,
                              const bint half) noexcept nogil:
    cdef Py_ssize_t b, n
    cdef real *exps
    for b in range(blocks_of(s.n)):
        n = block_length(s.n, b)
        exps = block_exps(s, row, b, e, split, half)
        if half:
            scale_run_16(exps, y_at(s, row, b, half), n, stats[3], stats[4], s.storage)
        elif s.stream:
            stream_run(exps, <real *> y_at(s, row, b, half), n, stats[3], stats[4])
        else:
            scale_run(exps, y_at(s, row, b, half), n, stats[3], stats[4], REAL)
        stats += STATS


cdef inline void set_behind(Behind *behind, const Strip *s, Py_ssize_t row, Py_ssize_t b, const Finished *f, real *e,
                            const bint logs, const bint half) noexcept nogil:
    # block b of a row, still to be written; e is where that of the row under way will be
    cdef const double *stats = f.stats + STATS * b
    cdef real high, low
    cdef char *y = y_at(s, row, b, half)
    if row >= 0 and logs:
        split_log(f.top, f.log_sum, f.log_rest, s.inv_t, &high, &low)
        behind.x = x_at(s, row, b, half)
        behind.y = y
        behind.storage = s.storage
        behind.logs = logs_of(v_set1(high), v_set1(low), s.inv_t)
        return
    if row >= 0 and not is_tiny(stats[3], FACTOR_SCALE):
        behind.x = f.e + b * BLOCK
        behind.y = y
        behind.storage = s.storage
        set_factor(stats[3], stats[4], &behind.high, &behind.low)
        return
    behind.x = behind.y = e
    behind.storage = REAL
    behind.high = behind.low = v_set1(0)
    behind.logs = logs_of(behind.high, behind.low, 1)
    if row >= 0 and half:
        scale_run_16(f.e + b * BLOCK, y, block_length(s.n, b), stats[3], stats[4], s.storage)
    elif row >= 0:
        scale_run(f.e + b * BLOCK, y, block_length(s.n, b), stats[3], stats[4], REAL)


cdef inline const real *first_block(const Strip *s, const bint half) noexcept nogil:
    # as reals
    if not half:
        return s.x
    load_run(s.storage, <const char *> s.x, 2, block_length(s.n, 0), s.kept)
    return s.kept


cdef void take_first(Ahead *ahead, const real *next, const real *x, Py_ssize_t n) noexcept nogil:
    # of a much shorter block: the sweep over x is at full speed only as long as there is something ahead
    load_ahead(ahead, 0)
    ahead.known = True
    ahead.maximum = block_max(next, ahead.n)
    ahead.x = x
    ahead.n = n
    ahead.storage = REAL


cdef inline const real *set_ahead(Ahead *ahead, const Strip *s, Py_ssize_t row, Py_ssize_t b, const real *x,
                                  const bint half) noexcept nogil:
    # from x, block b of a row, to the next one; where that is, as reals
    cdef Py_ssize_t n = block_length(s.n, b)
    cdef const real *next
    ahead.x = x
    ahead.kept = <real *> x
    ahead.n = n
    ahead.storage = REAL
    ahead.known = False
    if b + 1 < blocks_of(s.n):
        b += 1
    elif row + 1 < s.rows:
        row += 1
        b = 0
    else:
        return x
    ahead.x = x_at(s, row, b, half)
    ahead.n = block_length(s.n, b)
    if half:
        ahead.storage = s.storage
        ahead.kept = s.kept + (BLOCK if x == s.kept else 0)
        next = ahead.kept
    else:
        next = <const real *> ahead.x
    if ahead.n < n // 2:
        take_first(ahead, next, x, n)
    return next


cdef inline void long_rows(const Strip *s, real *scratch, double *stats, int operation, const bint keep,
                           const bint split, const bint half) noexcept nogil:
    # While one block is exponentiated, the maximum of the next is taken, so that its lines are on their way; of 16-bit
    # floats (half) it is converted, too.
    cdef Py_ssize_t blocks = blocks_of(s.n), together = rows_together(s.n), first = 0, rows, row, b
    cdef const real *x = first_block(s, half)
    cdef const real *next
    cdef real m = block_max(x, block_length(s.n, 0))
    cdef real *e
    cdef Ahead ahead
    cdef Behind behind
    cdef Finished finished[TOGETHER_MOST]
    cdef Finished *f
    for row in range(together):
        finished[row].e = scratch + row * padded(s.n)
        finished[row].stats = stats + row * blocks * STATS
    while first < s.rows:
        rows = together if s.rows - first > together else s.rows - first
        for row in range(first, first + rows):
            f = &finished[row - first]
            for b in range(blocks):
                e = block_exps(s, row, b, f.e, split, half) if keep else f.e
                next = set_ahead(&ahead, s, row, b, x, half)
                ahead.y = announced_lines(e, y_at(s, row, b, half)) if keep and not s.stream else e
                m = exp_block(x, block_length(s.n, b), m, s.t, e, f.stats + STATS * b, &ahead, &behind, keep,
                              split, False, half)
                x = next
        if keep and not split and blocks == 1 and not s.stream:
            share_rows(s, first, rows, finished, half)
        else:
            finish_rows(s, first, rows, finished, keep, split)
            for row in range(rows):
                write_row(s, first + row, &finished[row], operation, keep, split, half)
        first += rows


cdef inline void fused_rows(const Strip *s, real *scratch, double *stats, const bint logs,
                            const bint half) noexcept nogil:
    # softmax or log_softmax, as above, but while one row is exponentiated the results of an earlier one are written
    cdef Py_ssize_t blocks = blocks_of(s.n), together = rows_together(s.n) if logs else 1, row, rows, b, here = 0
    cdef const real *x = first_block(s, half)
    cdef const real *next
    cdef real m = block_max(x, block_length(s.n, 0))
    cdef real *e
    cdef Ahead ahead
    cdef Behind behind
    cdef Finished finished[2 * TOGETHER_MOST]
    cdef Finished *f
    cdef Finished *earlier
    for row in range(2 * together):
        finished[row].e = scratch + row * padded(s.n)
        finished[row].stats = stats + row * blocks * STATS
    for row in range(s.rows):
        f = &finished[here]
        earlier = &finished[here + together if here < together else here - together]
        for b in range(blocks):
            e = f.e + b * BLOCK
            next = set_ahead(&ahead, s, row, b, x, half)
            ahead.y = e if logs else y_at(s, row, b, half)
            set_behind(&behind, s, row - together, b, earlier, e, logs, half)
            m = exp_block(x, block_length(s.n, b), m, s.t, e, f.stats + STATS * b, &ahead, &behind, not logs, logs,
                          True, half)
            x = next
        here += 1
        if here == together or here == 2 * together or row + 1 == s.rows:
            rows = here if here <= together else here - together
            finish_rows(s, row + 1 - rows, rows, &finished[here - rows], not logs, logs)
        if here == 2 * together:
            here = 0
    for row in range(s.rows - together if s.rows > together else 0, s.rows):
        write_row(s, row, &finished[row % (2 * together)], LOG_SOFTMAX if logs else SOFTMAX, not logs, logs, half)


cdef inline bint lone_softmax(const real *x, real *y, Py_ssize_t n, const int times) noexcept nogil:
    # of up to once or twice LANES elements; False if they need the far reduction
    cdef vec rows[2 * NV]
    cdef vec sums[NV]
    cdef shift_t shift
    cdef vec top = v_set1(-INFINITY), h, l
    cdef double sum, lost, q, rest
    cdef real m, first, second
    cdef Py_ssize_t j
    for j in range(times * NV):
        rows[j] = v_load_n(x + j * VL, lanes_left(n - j * VL), -INFINITY)
        top = v_max(rows[j], top)
    m = shift_of(v_hmax(top))
    if not v_exp_near(m):
        return False
    shift = v_exp_shift_row(m)
    for j in range(times * NV):
        rows[j] = v_exp(rows[j], v_sub(rows[j], shift.maximum), shift, EXP_ROW)
    for j in range(NV):
        sums[j] = rows[j] if times == 1 else v_add(rows[j], rows[j + NV])
    fold_pair(sums, &first, &second)
    join_pair(first, second, &sum, &lost)
    quotient(1, sum, lost, &q, &rest)
    set_factor(q * FACTOR_SCALE, rest * FACTOR_SCALE, &h, &l)
    for j in range(times * NV):
        v_store_n(y + j * VL, lanes_left(n - j * VL), scaled(rows[j], h, l))
    return True


cdef inline void softmax_rows(const Strip *s, real *scratch, double *stats, const bint half) noexcept nogil:
    if FUSED and s.n > FUSED_LEAST and blocks_of(s.n) <= FEW_BLOCKS and not s.stream:
        fused_rows(s, scratch, stats, False, half)
    else:
        long_rows(s, scratch, stats, SOFTMAX, True, False, half)


cdef inline void log_rows(const Strip *s, real *scratch, double *stats, int operation, const bint half) noexcept nogil:
    if (FUSED and operation == LOG_SOFTMAX and s.n > FUSED_LEAST and blocks_of(s.n) <= MANY_BLOCKS
            and not s.stream):
        fused_rows(s, scratch, stats, True, half)
    else:
        long_rows(s, scratch, stats, operation, False, True, half)


# ------------------------------------------------------------------------------------------- derivatives

cdef inline void row_dot(const void *g, const void *p, const void *y, Py_ssize_t n, double *total, double *lost,
                         const int operation, const int storage) noexcept nogil:
    cdef Py_ssize_t b
    cdef double high, low
    total[0] = lost[0] = 0
    if n > BLOCK:
        # the lines of so long a result would not wait
        y = g
    for b in range(blocks_of(n)):
        block_dot(at(g, b * BLOCK, storage), at(p, b * BLOCK, storage), at(y, b * BLOCK, storage), block_length(n, b),
                  &high, &low, operation, storage)
        add_part(high, total, lost)
        lost[0] += low


cdef inline vec plain_dot(const real *g, const real *p, Py_ssize_t whole, Py_ssize_t tail) noexcept nogil:
    cdef vec sum[NV]
    cdef Py_ssize_t v, j
    for j in range(NV):
        sum[j] = v_set1(0)
    for v in range(whole):
        sum[v % NV] = v_fma(v_load(g + v * VL), v_load(p + v * VL), sum[v % NV])
    sum[whole % NV] = v_fma(v_load_n(g + whole * VL, tail, 0), v_load_n(p + whole * VL, tail, 0), sum[whole % NV])
    return fold_add(sum)


cdef inline dot_t short_dot(const real *g, const real *p, Py_ssize_t whole, Py_ssize_t tail,
                            const int operation) noexcept nogil:
    cdef dot_t sum[NV]
    cdef Py_ssize_t v, j
    for j in range(NV):
        if j < whole:
            sum[j] = first_term(g + j * VL, p + j * VL, VL, operation)
        elif j == whole:
            sum[j] = first_term(g + j * VL, p + j * VL, tail, operation)
        else:
            sum[j] = dot_zero()
    for v in range(NV, whole):
        sum[v % NV] = dot_term(sum[v % NV], g, p, v * VL, operation, REAL)
    if whole >= NV:
        sum[whole % NV] = dot_term_n(sum[whole % NV], g, p, whole * VL, tail, operation, REAL)
    return fold_dot(sum)


cdef enum:
    AT_ONCE = 4               # rows whose dot products are taken together
    KEPT = 4 * AT_ONCE        # vectors of each operand that are kept from the dot products to the results, at most


cdef inline Py_ssize_t plain_rows(const Strip *s, const Py_ssize_t rows, const Py_ssize_t width) noexcept nogil:
    # Rows of so many vectors, so many rows at a time as long as there are as many; returns how many are done. All of
    # them are read before any is written: a load waits for a store just before it that looks as if it overlapped.
    cdef const real *g = s.x
    cdef const real *p = s.p
    cdef real *y = s.y
    cdef Py_ssize_t last = (width - 1) * VL, tail = s.n - last, row = 0, r, v, i, j
    cdef vec a[KEPT]
    cdef vec b[KEPT]
    cdef vec dots[2 * AT_ONCE]
    cdef vec sum[NV]
    cdef Slope slope = slope_of(s.inv_t, SOFTMAX_GRAD)
    while row <= s.rows - rows:
        for r in range(rows):
            for j in range(NV):
                sum[j] = v_set1(0)
            for v in range(width):
                i = r * width + v
                a[i] = v_load(g + v * VL) if v < width - 1 else v_load_n(g + last, tail, 0)
                b[i] = v_load(p + v * VL) if v < width - 1 else v_load_n(p + last, tail, 0)
                sum[v % NV] = v_fma(a[i], b[i], sum[v % NV])
            dots[r] = fold_add(sum)
            g += s.x_pitch
            p += s.p_pitch
        for r from 0 <= r < rows by AT_ONCE:
            v_hadd_four(dots + r, <real> dot_scale(SOFTMAX_GRAD))
        for r in range(rows):
            slope.dot = dots[r]
            for v in range(width - 1):
                v_store(y + v * VL, gradient(a[r * width + v], b[r * width + v], &slope, SOFTMAX_GRAD))
            i = (r + 1) * width - 1
            v_store_n(y + last, tail, gradient(a[i], b[i], &slope, SOFTMAX_GRAD))
            y += s.y_pitch
        row += rows
    return row


cdef inline Py_ssize_t plain_quads(const Strip *s) noexcept nogil:
    # the same of rows of a quad at most, VL at a time, one a lane
    cdef vec a[QUAD]
    cdef vec b[QUAD]
    cdef vec sum[QUAD]
    cdef Py_ssize_t row = 0, j
    cdef Slope slope = slope_of(s.inv_t, SOFTMAX_GRAD)
    while row <= s.rows - VL:
        v_quads_in(s.x + row * s.x_pitch, s.x_pitch, s.n, a)
        v_quads_in(s.p + row * s.p_pitch, s.p_pitch, s.n, b)
        for j in range(QUAD):
            sum[j] = v_fma(a[j], b[j], v_set1(0))
        # halved, as the other accumulators are 0
        slope.dot = v_add(v_add(sum[0], sum[2]), v_add(sum[1], sum[3]))
        slope.dot = v_mul(slope.dot, v_set1(<real> dot_scale(SOFTMAX_GRAD)))
        for j in range(QUAD):
            a[j] = gradient(a[j], b[j], &slope, SOFTMAX_GRAD)
        v_quads_out(s.y + row * s.y_pitch, s.y_pitch, s.n, a)
        row += VL
    return row


cdef inline Py_ssize_t plain_backward(const Strip *s) noexcept nogil:
    # rows of few vectors; how many are done
    if s.n <= QUAD:
        return plain_quads(s)
    if s.n <= VL:
        return plain_rows(s, 2 * AT_ONCE if FUSED else AT_ONCE, 1)  # where registers allow
    if s.n <= 2 * VL:
        return plain_rows(s, AT_ONCE, 2)
    if s.n <= 3 * VL:
        return plain_rows(s, AT_ONCE, 3)
    if s.n <= 4 * VL:
        return plain_rows(s, AT_ONCE, 4)
    return 0


cdef inline Py_ssize_t short_backward(const Strip *s, Py_ssize_t begin, const int operation,
                                      const bint plain) noexcept nogil:
    # VL rows at a time, whose sums are folded together; returns how many are done before some dot product is_beyond
    cdef Py_ssize_t n = s.n, whole = (n - 1) // VL, tail = n - whole * VL, first, count, r, v, row
    cdef const real *g
    cdef const real *p
    cdef real *y
    cdef vec plain_sums[VL]
    cdef dot_t rows[VL]
    cdef real dots[VL]
    cdef real rests[VL]
    cdef Slope slope = slope_of(s.inv_t, operation)
    for first from begin <= first < s.rows by VL:
        count = s.rows - first if s.rows - first < VL else VL
        for r in range(VL):
            row = first + (r if r < count else 0)
            g = s.x + row * s.x_pitch
            p = s.p + row * s.p_pitch
            if plain:
                plain_sums[r] = plain_dot(g, p, whole, tail) if r < count else v_set1(0)
            else:
                rows[r] = short_dot(g, p, whole, tail, operation) if r < count else dot_zero()
        if plain:
            v_store(dots, v_mul(v_hadd_rows(plain_sums), v_set1(<real> dot_scale(operation))))
        else:
            dot_rows(rows, dot_scale(operation), dots, rests if has_rest(operation) else NULL)
        if is_looked_at(SHORT, operation) and not all_below(dots, VL, largest_dot(operation)):
            return first
        for r in range(count):
            row = first + r
            g = s.x + row * s.x_pitch
            p = s.p + row * s.p_pitch
            y = s.y + row * s.y_pitch
            slope.dot = v_set1(dots[r])
            if has_rest(operation):
                slope.rest = v_set1(rests[r])
            for v in range(whole):
                v_store(y + v * VL, gradient(v_load(g + v * VL), v_load(p + v * VL), &slope, operation))
            v_store_n(y + whole * VL, tail, gradient(v_load_n(g + whole * VL, tail, 0),
                                                     v_load_n(p + whole * VL, tail, 0), &slope, operation))
    return s.rows


cdef inline void lone_backward(const real *g, const real *p, real *y, Py_ssize_t n, double inv_t) noexcept nogil:
    # as short_backward, of softmax
    cdef Py_ssize_t whole = (n - 1) // VL, tail = n - whole * VL, v
    cdef Slope slope = slope_of(inv_t, SOFTMAX_GRAD)
    slope.dot = v_mul(v_set1(v_hadd(plain_dot(g, p, whole, tail))), v_set1(<real> dot_scale(SOFTMAX_GRAD)))
    for v in range(whole):
        v_store(y + v * VL, gradient(v_load(g + v * VL), v_load(p + v * VL), &slope, SOFTMAX_GRAD))
    v_store_n(y + whole * VL, tail, gradient(v_load_n(g + whole * VL, tail, 0), v_load_n(p + whole * VL, tail, 0),
                                             &slope, SOFTMAX_GRAD))


cdef bint lone(int operation, const void *x, const void *p, void *y, Py_ssize_t n, double temperature) noexcept nogil:
    # a row by itself, as a small call has it
    if operation == SOFTMAX and n <= LANES and temperature == 1:
        return lone_softmax(<const real *> x, <real *> y, n, 1)
    if operation == SOFTMAX and n <= 2 * LANES and temperature == 1:
        return lone_softmax(<const real *> x, <real *> y, n, 2)
    if is_plain(n, operation):
        lone_backward(<const real *> x, <const real *> p, <real *> y, n, 1 / temperature)
        return True
    return False


cdef inline void backward_row(const Strip *s, Py_ssize_t row, const int operation, const int storage) noexcept nogil:
    cdef const void *g = x_at(s, row, 0, storage != REAL)
    cdef const void *p = p_at(s, row, 0, storage != REAL)
    cdef void *y = y_at(s, row, 0, storage != REAL)
    cdef double total, lost
    cdef real dot, rest
    row_dot(g, p, y, s.n, &total, &lost, operation, storage)
    gradient_dot(total, lost, operation, &dot, &rest)
    if is_beyond(dot, s.n, operation) and finish_line(line_of(g, p, y, s.n, storage), s.inv_t, operation):
        return
    gradient_run(g, p, y, s.n, dot, rest, s.inv_t, operation, s.stream, storage)


cdef Py_ssize_t one_by_one(const Strip *s, Py_ssize_t begin, int operation) noexcept nogil:
    # the group where short_backward stopped; returns how many rows are done then
    cdef Py_ssize_t end = begin + VL if s.rows - begin > VL else s.rows, row
    for row in range(begin, end):
        backward_row(s, row, operation, REAL)
    return end


cdef inline void short_groups(const Strip *s, const int operation) noexcept nogil:
    # Nothing is called among the rows of short_backward, which keeps its constants in registers.
    cdef Py_ssize_t row = 0
    while row < s.rows:
        row = short_backward(s, row, operation, False)
        if row < s.rows:
            row = one_by_one(s, row, operation)


cdef inline void backward_rows(const Strip *s, const int operation, const int storage) noexcept nogil:
    cdef Py_ssize_t row
    if storage == REAL and is_plain(s.n, operation):
        short_backward(s, plain_backward(s), operation, True)
        return
    if storage == REAL and s.n <= SHORT and s.rows > VL // 4:
        short_groups(s, operation)
        return
    for row in range(s.rows):
        backward_row(s, row, operation, storage)


cdef void run_strip(const Strip *s, real *scratch, double *stats, int operation) noexcept nogil:
    if is_packed(s.n, s.rows) and not is_derivative(operation):
        run_packed(s, scratch, operation)
    elif operation == SOFTMAX:
        softmax_rows(s, scratch, stats, False)
    elif operation == CROSS_ENTROPY_GRAD:
        long_rows(s, scratch, stats, CROSS_ENTROPY_GRAD, True, True, False)
    elif not is_derivative(operation):
        log_rows(s, scratch, stats, operation, False)
    elif operation == SOFTMAX_GRAD:
        backward_rows(s, SOFTMAX_GRAD, REAL)
    elif operation == LOG_SOFTMAX_VJP:
        backward_rows(s, LOG_SOFTMAX_VJP, REAL)
    else:
        backward_rows(s, LOG_SOFTMAX_JVP, REAL)


cdef inline void backward_rows_16(const Strip *s, const int operation) noexcept nogil:
    if s.storage == F16:
        backward_rows(s, operation, F16)
    else:
        backward_rows(s, operation, BF16)


cdef void run_strip_16(const Strip *s, real *scratch, double *stats, int operation) noexcept nogil:
    if operation == SOFTMAX:
        softmax_rows(s, scratch, stats, True)
    elif not is_derivative(operation):
        log_rows(s, scratch, stats, operation, True)
    elif operation == SOFTMAX_GRAD:
        backward_rows_16(s, SOFTMAX_GRAD)
    elif operation == LOG_SOFTMAX_VJP:
        backward_rows_16(s, LOG_SOFTMAX_VJP)
    else:
        backward_rows_16(s, LOG_SOFTMAX_JVP)
