# Rows that lie contiguous, one after another.

cdef enum:
    SHORT = 64        # rows up to here are reduced VL at a time


cdef struct Strip:
    const real *x             # logits, or the incoming gradient
    const real *p             # the forward's output, in the derivatives
    real *y
    Py_ssize_t rows
    Py_ssize_t n
    Py_ssize_t x_pitch        # elements from row to row
    Py_ssize_t p_pitch
    Py_ssize_t y_pitch
    double inv_t
    bint stream
    const double *coefficient     # one a row, or NULL for 1
    double *log_sum               # maximum and log of the sum, two a row (CROSS_ENTROPY*)


cdef inline Py_ssize_t padded(Py_ssize_t n) noexcept nogil:
    return (n + LANES - 1) // LANES * LANES


cdef inline Py_ssize_t blocks_of(Py_ssize_t n) noexcept nogil:
    return (n + BLOCK - 1) // BLOCK


cdef inline Py_ssize_t block_length(Py_ssize_t n, Py_ssize_t b) noexcept nogil:
    return BLOCK if n - b * BLOCK > BLOCK else n - b * BLOCK


cdef inline void emit_log(const Strip *s, Py_ssize_t row, double m, double log_sum, const int operation) noexcept nogil:
    cdef real high, low
    if operation == LOGSUMEXP:
        s.y[row * s.y_pitch] = <real> (m + log_sum)
    elif operation == LOG_SOFTMAX:
        split_log(m, log_sum, s.inv_t, &high, &low)
        log_run(s.x + row * s.x_pitch, s.y + row * s.y_pitch, s.n, high, low, <real> s.inv_t, s.stream)
    else:
        s.log_sum[2 * row] = m
        s.log_sum[2 * row + 1] = log_sum


# ------------------------------------------------------------------------------------------ short rows

cdef inline void short_rows(const Strip *s, real *tile, const int operation, const bint scaled) noexcept nogil:
    # VL rows at a time: their reductions, divisions and logarithms are done together, one row a lane.
    cdef bint split = operation != SOFTMAX
    cdef bint keep = operation == SOFTMAX or operation == CROSS_ENTROPY_GRAD
    cdef Py_ssize_t n = s.n, whole = (n - 1) // VL, tail = n - whole * VL, pitch = padded(n)
    cdef Py_ssize_t first, count, r, v, j
    cdef const real *x
    cdef real *e
    cdef vec rows[VL]
    cdef vec counts[VL]
    cdef vec total[NV]
    cdef vec ties[NV]
    cdef vec shift, t = v_set1(<real> s.inv_t), lowest = v_set1(-INFINITY), zero = v_set1(0), top
    cdef real maxima[VL]
    cdef real shifts[VL]
    cdef real sums[VL]
    cdef real tied[VL]
    cdef double stats[STATS]
    cdef double u[VL]
    cdef double log_sums[VL]
    cdef bint nan
    for first from 0 <= first < s.rows by VL:
        count = s.rows - first if s.rows - first < VL else VL
        for r in range(VL):
            x = s.x + (first + (r if r < count else 0)) * s.x_pitch
            top = v_load_n(x + whole * VL, tail, -INFINITY)
            for v in range(whole):
                top = v_max(v_load(x + v * VL), top)
            rows[r] = top
        top = v_hmax_rows(rows)
        v_store(maxima, top)
        v_store(shifts, v_select_lt(lowest, top, top, zero))
        for r in range(VL):
            x = s.x + (first + (r if r < count else 0)) * s.x_pitch
            e = tile + r * pitch
            shift = v_set1(shifts[r])
            for j in range(NV):
                total[j] = ties[j] = zero
            for v in range(whole):
                exp_step(v_sub(v_load(x + v * VL), shift), t, e + v * VL, &total[v % NV], &ties[v % NV],
                         scaled, keep, split)
            exp_step(v_sub(v_load_n(x + whole * VL, tail, -INFINITY), shift), t, e + whole * VL,
                     &total[whole % NV], &ties[whole % NV], scaled, keep, split)
            rows[r] = fold_add(total)
            if split:
                counts[r] = fold_add(ties)
        if operation == SOFTMAX:
            v_store(sums, v_div(v_set1(1), v_hadd_rows(rows)))
            for r in range(count):
                e = tile + r * pitch
                top = v_set1(sums[r])
                for v in range(whole):
                    v_store(s.y + (first + r) * s.y_pitch + v * VL, v_mul(v_load(e + v * VL), top))
                v_store_n(s.y + (first + r) * s.y_pitch + whole * VL, tail, v_mul(v_load(e + whole * VL), top))
            continue
        v_store(sums, v_hadd_rows(rows))
        v_store(tied, v_hadd_rows(counts))
        for r in range(VL):
            u[r] = log_sums[r] = (tied[r] - <double> 1) + sums[r] / EXP_SCALE
        log1p_run(log_sums, count)
        for r in range(count):
            nan = maxima[r] == INFINITY and has_nan(s.x + (first + r) * s.x_pitch, n, 1)
            emit_log(s, first + r, maxima[r], settle_log(maxima[r], u[r], log_sums[r], nan), operation)
            if operation == CROSS_ENTROPY_GRAD:
                stats[1] = sums[r]
                stats[2] = tied[r]
                join_softmax(stats, 1, s.inv_t, s.coefficient[first + r])
                scale_run(tile + r * pitch, s.y + (first + r) * s.y_pitch, n, stats[3])


# ------------------------------------------------------------------------------------------- longer rows

cdef inline const real *block_at(const Strip *s, Py_ssize_t row, Py_ssize_t b) noexcept nogil:
    return s.x + row * s.x_pitch + b * BLOCK


cdef inline void finish_row(const Strip *s, Py_ssize_t row, real *e, double *stats, Py_ssize_t blocks,
                            const int operation, const bint scaled) noexcept nogil:
    cdef double m, log_sum
    if operation != SOFTMAX:
        join_log(stats, blocks, s.inv_t, &m, &log_sum)
        emit_log(s, row, m, log_sum, operation)
    if operation == SOFTMAX or operation == CROSS_ENTROPY_GRAD:
        join_softmax(stats, blocks, s.inv_t, s.coefficient[row] if s.coefficient != NULL else 1)


cdef inline void write_blocks(const Strip *s, Py_ssize_t row, const real *e, const double *stats, Py_ssize_t blocks,
                              const bint stream) noexcept nogil:
    cdef Py_ssize_t b
    for b in range(blocks):
        if stream:
            stream_run(e + b * BLOCK, s.y + row * s.y_pitch + b * BLOCK, block_length(s.n, b), stats[STATS * b + 3])
        else:
            scale_run(e + b * BLOCK, s.y + row * s.y_pitch + b * BLOCK, block_length(s.n, b), stats[STATS * b + 3])


cdef inline void long_rows(const Strip *s, real *scratch, double *stats, const int operation,
                           const bint scaled) noexcept nogil:
    # While one block is exponentiated, the maximum of the next is taken, so that its lines are on their way.
    cdef bint keep = operation == SOFTMAX or operation == CROSS_ENTROPY_GRAD
    cdef Py_ssize_t blocks = blocks_of(s.n), row, b
    cdef real m
    cdef Pass aside
    aside.behind = NULL
    aside.y = NULL
    aside.behind_n = 0
    aside.scale = 0
    m = block_max(s.x, block_length(s.n, 0))
    for row in range(s.rows):
        for b in range(blocks):
            if b + 1 < blocks:
                aside.ahead = block_at(s, row, b + 1)
                aside.ahead_n = block_length(s.n, b + 1)
            elif row + 1 < s.rows:
                aside.ahead = block_at(s, row + 1, 0)
                aside.ahead_n = block_length(s.n, 0)
            else:
                aside.ahead = block_at(s, row, b)
                aside.ahead_n = 0
            stats[STATS * b + 2] = 0
            m = exp_block(block_at(s, row, b), block_length(s.n, b), m, <real> s.inv_t, scratch + b * BLOCK,
                          stats + STATS * b, &aside, scaled, keep, operation != SOFTMAX, False, False)
        finish_row(s, row, scratch, stats, blocks, operation, scaled)
        if keep:
            write_blocks(s, row, scratch, stats, blocks, s.stream)


cdef inline void forward_rows(const Strip *s, real *scratch, double *stats, const int operation) noexcept nogil:
    if s.n <= SHORT and s.rows > VL // 4:
        if s.inv_t == 1:
            short_rows(s, scratch, operation, False)
        else:
            short_rows(s, scratch, operation, True)
    elif s.inv_t == 1:
        long_rows(s, scratch, stats, operation, False)
    else:
        long_rows(s, scratch, stats, operation, True)


# ------------------------------------------------------------------------------------------- derivatives

cdef inline double row_dot(const real *g, const real *p, Py_ssize_t n, const int operation) noexcept nogil:
    cdef Py_ssize_t b
    cdef double dot = 0
    for b in range(blocks_of(n)):
        dot += block_dot(g + b * BLOCK, p + b * BLOCK, block_length(n, b), operation)
    return dot


cdef inline void backward_rows(const Strip *s, const int operation) noexcept nogil:
    cdef Py_ssize_t row
    cdef const real *g
    cdef const real *p
    for row in range(s.rows):
        g = s.x + row * s.x_pitch
        p = s.p + row * s.p_pitch
        gradient_run(g, p, s.y + row * s.y_pitch, s.n, row_dot(g, p, s.n, operation), s.inv_t, operation, s.stream)


cdef void run_strip(const Strip *s, real *scratch, double *stats, int operation) noexcept nogil:
    if operation == SOFTMAX:
        forward_rows(s, scratch, stats, SOFTMAX)
    elif operation == LOG_SOFTMAX:
        forward_rows(s, scratch, stats, LOG_SOFTMAX)
    elif operation == LOGSUMEXP:
        forward_rows(s, scratch, stats, LOGSUMEXP)
    elif operation == CROSS_ENTROPY:
        forward_rows(s, scratch, stats, CROSS_ENTROPY)
    elif operation == CROSS_ENTROPY_GRAD:
        forward_rows(s, scratch, stats, CROSS_ENTROPY_GRAD)
    elif operation == SOFTMAX_GRAD:
        backward_rows(s, SOFTMAX_GRAD)
    elif operation == LOG_SOFTMAX_VJP:
        backward_rows(s, LOG_SOFTMAX_VJP)
    else:
        backward_rows(s, LOG_SOFTMAX_JVP)
