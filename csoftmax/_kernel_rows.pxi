# Rows that lie contiguous, one after another.

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

cdef inline void short_rows(const Strip *s, real *tile, const int operation) noexcept nogil:
    # VL rows at a time: their reductions, divisions and logarithms are done together, one row a lane.
    cdef bint keep = operation == SOFTMAX or operation == CROSS_ENTROPY_GRAD
    cdef bint split = operation != SOFTMAX
    cdef Py_ssize_t n = s.n, whole = (n - 1) // VL, tail = n - whole * VL, pitch = padded(n)
    cdef Py_ssize_t first, count, r, v
    cdef const real *x
    cdef vec rows[VL]
    cdef vec counts[VL]
    cdef vec top
    cdef real maxima[VL]
    cdef real sums[VL]
    cdef real tied[VL]
    cdef real high[VL]
    cdef real low[VL]
    cdef double log_sums[VL]
    for first from 0 <= first < s.rows by VL:
        count = s.rows - first if s.rows - first < VL else VL
        for r in range(VL):
            x = s.x + (first + (r if r < count else 0)) * s.x_pitch
            top = v_load_n(x + whole * VL, tail, -INFINITY)
            for v in range(whole):
                top = v_max(v_load(x + v * VL), top)
            rows[r] = top
        v_store(maxima, v_hmax_rows(rows))
        for r in range(VL):
            x = s.x + (first + (r if r < count else 0)) * s.x_pitch
            if s.inv_t == 1 and v_exp_near(shift_of(maxima[r])):
                short_exp(x, whole, tail, maxima[r], 1, tile + r * pitch, rows + r, counts + r, False, keep, split)
            else:
                short_exp(x, whole, tail, maxima[r], <real> s.inv_t, tile + r * pitch, rows + r, counts + r,
                          True, keep, split)
        v_store(sums, v_hadd_rows(rows))
        if split:
            v_store(tied, v_hadd_rows(counts))
            short_logs(s, first, count, maxima, sums, tied, log_sums, operation)
        if keep:
            short_factors(s, first, count, sums, tied, high, low, operation)
            for r in range(count):
                short_write(s.y + (first + r) * s.y_pitch, tile + r * pitch, whole, tail, v_set1(high[r]),
                            v_set1(low[r]))


cdef inline void short_exp(const real *x, Py_ssize_t whole, Py_ssize_t tail, real maximum, real inv_t, real *e,
                           vec *total_out, vec *ties_out, const bint far, const bint keep,
                           const bint split) noexcept nogil:
    cdef shift_t shift = v_exp_shift_row(shift_of(maximum))
    cdef vec t = v_set1(inv_t)
    cdef vec total[NV]
    cdef vec ties[NV]
    cdef Py_ssize_t v, j
    for j in range(NV):
        total[j] = ties[j] = v_set1(0)
    for v in range(whole):
        exp_step(v_load(x + v * VL), &shift, t, e + v * VL, &total[v % NV], &ties[v % NV], far, keep, split)
    exp_step(v_load_n(x + whole * VL, tail, -INFINITY), &shift, t, e + whole * VL, &total[whole % NV],
             &ties[whole % NV], far, keep, split)
    total_out[0] = fold_add(total)
    if split:
        ties_out[0] = fold_add(ties)


cdef inline void short_logs(const Strip *s, Py_ssize_t first, Py_ssize_t count, const real *maxima, const real *sums,
                            const real *tied, double *log_sums, const int operation) noexcept nogil:
    cdef double u[VL]
    cdef Py_ssize_t r
    cdef bint nan
    for r in range(VL):
        u[r] = log_sums[r] = (tied[r] - <double> 1) + sums[r] / EXP_SCALE
    log1p_run(log_sums, count)
    for r in range(count):
        nan = maxima[r] == INFINITY and has_nan(s.x + (first + r) * s.x_pitch, s.n, 1)
        log_sums[r] = settle_log(maxima[r], u[r], log_sums[r], nan)
        emit_log(s, first + r, maxima[r], log_sums[r], operation)


cdef inline void short_factors(const Strip *s, Py_ssize_t first, Py_ssize_t count, const real *sums, const real *tied,
                               real *high, real *low, const int operation) noexcept nogil:
    # as join_softmax for a row of one block
    cdef double q[VL]
    cdef double rest[VL]
    cdef Py_ssize_t r
    cdef double total, lost
    if operation == SOFTMAX:
        for r in range(VL):
            quotient(1, sums[r], 0, q + r, rest + r)
    else:
        for r in range(VL):
            two_sum(tied[r] * EXP_SCALE, sums[r], &total, &lost)
            quotient(s.coefficient[first + (r if r < count else 0)], total, lost, q + r, rest + r)
    for r in range(VL):
        split_real(q[r], rest[r], high + r, low + r)


cdef inline void short_write(real *y, const real *e, Py_ssize_t whole, Py_ssize_t tail, vec high,
                             vec low) noexcept nogil:
    cdef Py_ssize_t v
    for v in range(whole):
        v_store(y + v * VL, scaled(v_load(e + v * VL), high, low))
    v_store_n(y + whole * VL, tail, scaled(v_load(e + whole * VL), high, low))


# ------------------------------------------------------------------------------------------- longer rows

cdef inline const real *block_at(const Strip *s, Py_ssize_t row, Py_ssize_t b) noexcept nogil:
    return s.x + row * s.x_pitch + b * BLOCK


cdef inline void finish_row(const Strip *s, Py_ssize_t row, double *stats, Py_ssize_t blocks,
                            const int operation) noexcept nogil:
    cdef double m, log_sum
    if operation != SOFTMAX:
        join_log(stats, blocks, s.inv_t, &m, &log_sum)
        emit_log(s, row, m, log_sum, operation)
    if operation == SOFTMAX or operation == CROSS_ENTROPY_GRAD:
        join_softmax(stats, blocks, s.inv_t, s.coefficient[row] if s.coefficient != NULL else 1)


cdef inline void write_blocks(const Strip *s, Py_ssize_t row, const real *e, const double *stats,
                              Py_ssize_t blocks) noexcept nogil:
    cdef real *y = s.y + row * s.y_pitch
    cdef Py_ssize_t b
    for b in range(blocks):
        if s.stream:
            stream_run(e + b * BLOCK, y + b * BLOCK, block_length(s.n, b), stats[STATS * b + 3], stats[STATS * b + 4])
        else:
            scale_run(e + b * BLOCK, y + b * BLOCK, block_length(s.n, b), stats[STATS * b + 3], stats[STATS * b + 4])


cdef inline void long_rows(const Strip *s, real *scratch, double *stats, const int operation) noexcept nogil:
    # While one block is exponentiated, the maximum of the next is taken, so that its lines are on their way.
    cdef bint keep = operation == SOFTMAX or operation == CROSS_ENTROPY_GRAD
    cdef Py_ssize_t blocks = blocks_of(s.n), row, b
    cdef real m
    cdef Ahead ahead
    m = block_max(s.x, block_length(s.n, 0))
    for row in range(s.rows):
        for b in range(blocks):
            ahead.x = block_at(s, row, b)
            ahead.n = 0
            ahead.y = s.y + row * s.y_pitch + b * BLOCK if keep and not s.stream else NULL
            if b + 1 < blocks:
                ahead.x = block_at(s, row, b + 1)
                ahead.n = block_length(s.n, b + 1)
            elif row + 1 < s.rows:
                ahead.x = block_at(s, row + 1, 0)
                ahead.n = block_length(s.n, 0)
            m = exp_block(block_at(s, row, b), block_length(s.n, b), m, <real> s.inv_t, scratch + b * BLOCK,
                          stats + STATS * b, &ahead, keep, operation != SOFTMAX)
        finish_row(s, row, stats, blocks, operation)
        if keep:
            write_blocks(s, row, scratch, stats, blocks)


cdef inline void forward_rows(const Strip *s, real *scratch, double *stats, const int operation) noexcept nogil:
    if s.n <= SHORT and s.rows > VL // 4:
        short_rows(s, scratch, operation)
    else:
        long_rows(s, scratch, stats, operation)


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
