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
    double t                      # the temperature, and its reciprocal
    double inv_t
    bint stream
    const double *coefficient     # one a row, or NULL for 1
    double *top                   # the maximum of each row (CROSS_ENTROPY*)
    double *log_sum               # and the logarithm of its sum


cdef inline Py_ssize_t padded(Py_ssize_t n) noexcept nogil:
    return (n + LANES - 1) // LANES * LANES


cdef inline Py_ssize_t blocks_of(Py_ssize_t n) noexcept nogil:
    return (n + BLOCK - 1) // BLOCK


cdef inline Py_ssize_t block_length(Py_ssize_t n, Py_ssize_t b) noexcept nogil:
    return BLOCK if n - b * BLOCK > BLOCK else n - b * BLOCK


cdef inline const real *block_at(const Strip *s, Py_ssize_t row, Py_ssize_t b) noexcept nogil:
    return s.x + row * s.x_pitch + b * BLOCK


cdef enum:
    FEW_BLOCKS = 4            # rows of so many blocks are written one row late


cdef struct Finished:
    # a row whose exponentials are summed
    real *e
    double *stats
    double top                # its maximum, and the logarithm of the sum
    double log_sum


cdef inline Py_ssize_t in_flight(Py_ssize_t n) noexcept nogil:
    # rows: while the sum of one is folded and divided by, the next one is under way
    return 2 if FUSED and blocks_of(n) <= FEW_BLOCKS else 1


cdef inline void finish_row(const Strip *s, Py_ssize_t row, Finished *f, const int operation) noexcept nogil:
    cdef Py_ssize_t blocks = blocks_of(s.n)
    if operation != SOFTMAX:
        join_log(f.stats, blocks, s.t, &f.top, &f.log_sum)
    if operation == SOFTMAX or operation == CROSS_ENTROPY_GRAD:
        join_softmax(f.stats, blocks, s.t, s.coefficient[row] if s.coefficient != NULL else 1)


cdef inline void write_row(const Strip *s, Py_ssize_t row, const Finished *f, const int operation) noexcept nogil:
    cdef real *y = s.y + row * s.y_pitch
    cdef real high, low
    if operation == LOGSUMEXP:
        y[0] = <real> (f.top + f.log_sum)
    elif operation == LOG_SOFTMAX:
        split_log(f.top, f.log_sum, s.inv_t, &high, &low)
        log_run(s.x + row * s.x_pitch, y, s.n, high, low, <real> s.inv_t, s.stream)
    elif operation != SOFTMAX:
        s.top[row] = f.top
        s.log_sum[row] = f.log_sum
    if operation == SOFTMAX or operation == CROSS_ENTROPY_GRAD:
        write_blocks(y, s.n, f.e, f.stats, s.stream)


cdef inline void write_blocks(real *y, Py_ssize_t n, const real *e, const double *stats, bint stream) noexcept nogil:
    cdef Py_ssize_t b
    for b in range(blocks_of(n)):
        if stream:
            stream_run(e + b * BLOCK, y + b * BLOCK, block_length(n, b), stats[STATS * b + 3], stats[STATS * b + 4])
        else:
            scale_run(e + b * BLOCK, y + b * BLOCK, block_length(n, b), stats[STATS * b + 3], stats[STATS * b + 4])


cdef inline void set_behind(Behind *behind, const Strip *s, Py_ssize_t row, Py_ssize_t b, const Finished *f,
                            bint there) noexcept nogil:
    # block b of a row, still to be written
    cdef const double *stats = f.stats + STATS * b
    behind.e = f.e + b * BLOCK
    if there and not is_tiny(stats[3], FACTOR_SCALE):
        behind.y = s.y + row * s.y_pitch + b * BLOCK
        set_factor(stats[3], stats[4], &behind.high, &behind.low)
        return
    behind.y = f.e + b * BLOCK
    behind.high = behind.low = v_set1(0)
    if there:
        scale_run(f.e + b * BLOCK, s.y + row * s.y_pitch + b * BLOCK, block_length(s.n, b), stats[3], stats[4])


cdef inline void long_rows(const Strip *s, real *scratch, double *stats, const int operation,
                           const bint fused) noexcept nogil:
    # While one block is exponentiated, the maximum of the next is taken, so that its lines are on their way, and
    # (fused) the results of the row before are written.
    cdef bint keep = operation == SOFTMAX or operation == CROSS_ENTROPY_GRAD
    cdef Py_ssize_t blocks = blocks_of(s.n), flight = in_flight(s.n), row, b
    cdef real m
    cdef Ahead ahead
    cdef Behind behind
    cdef Finished finished[2]
    cdef Finished *f
    for row in range(flight):
        finished[row].e = scratch + row * padded(s.n)
        finished[row].stats = stats + row * blocks * STATS
    m = block_max(s.x, block_length(s.n, 0))
    for row in range(s.rows):
        f = &finished[row % flight]
        for b in range(blocks):
            ahead.x = block_at(s, row, b)
            ahead.n = block_length(s.n, b)
            ahead.y = s.y + row * s.y_pitch + b * BLOCK if keep and not s.stream else NULL
            if b + 1 < blocks:
                ahead.x = block_at(s, row, b + 1)
                ahead.n = block_length(s.n, b + 1)
            elif row + 1 < s.rows:
                ahead.x = block_at(s, row + 1, 0)
                ahead.n = block_length(s.n, 0)
            if fused:
                set_behind(&behind, s, row - 1, b, &finished[(row + 1) % 2], row > 0)
            m = exp_block(block_at(s, row, b), block_length(s.n, b), m, s.t, f.e + b * BLOCK,
                          f.stats + STATS * b, &ahead, &behind, keep, operation != SOFTMAX, fused)
        finish_row(s, row, f, operation)
        if not fused and row + 1 >= flight:
            write_row(s, row + 1 - flight, &finished[(row + 1) % flight], operation)
    if flight == 2:
        write_row(s, s.rows - 1, &finished[(s.rows - 1) % 2], operation)


cdef inline bint lone_row(const real *x, real *y, Py_ssize_t n) noexcept nogil:
    # The softmax of a row of one accumulator's length, as a small call has it; False if it needs the far reduction.
    cdef vec rows[NV]
    cdef shift_t shift
    cdef vec top = v_set1(-INFINITY), h, l
    cdef double sum, lost, q, rest
    cdef real m, first, second
    cdef Py_ssize_t j
    for j in range(NV):
        rows[j] = v_load_n(x + j * VL, lanes_left(n - j * VL), -INFINITY)
        top = v_max(rows[j], top)
    m = shift_of(v_hmax(top))
    if not v_exp_near(m):
        return False
    shift = v_exp_shift_row(m)
    for j in range(NV):
        rows[j] = v_exp(rows[j], v_sub(rows[j], shift.maximum), shift, EXP_ROW)
    fold_pair(rows, &first, &second)
    join_pair(first, second, &sum, &lost)
    quotient(1, sum, lost, &q, &rest)
    set_factor(q * FACTOR_SCALE, rest * FACTOR_SCALE, &h, &l)
    for j in range(NV):
        v_store_n(y + j * VL, lanes_left(n - j * VL), scaled(rows[j], h, l))
    return True


cdef inline void forward_rows(const Strip *s, real *scratch, double *stats, const int operation) noexcept nogil:
    if operation == SOFTMAX and s.rows == 1 and s.n <= LANES and s.t == 1 and lone_row(s.x, s.y, s.n):
        return
    if FUSED and operation == SOFTMAX and in_flight(s.n) == 2 and not s.stream:
        long_rows(s, scratch, stats, operation, True)
    else:
        long_rows(s, scratch, stats, operation, False)


# ------------------------------------------------------------------------------------------- derivatives

cdef inline double row_dot(const real *g, const real *p, const real *y, Py_ssize_t n,
                           const int operation) noexcept nogil:
    cdef Py_ssize_t b
    cdef double dot = 0
    for b in range(blocks_of(n)):
        dot += block_dot(g + b * BLOCK, p + b * BLOCK, y + b * BLOCK, block_length(n, b), operation)
    return dot


cdef inline vec short_dot(const real *g, const real *p, Py_ssize_t whole, Py_ssize_t tail,
                          const int operation) noexcept nogil:
    cdef vec sum[NV]
    cdef Py_ssize_t v, j
    for j in range(NV):
        sum[j] = v_set1(0)
    for v in range(whole):
        sum[v % NV] = dot_term(v_load(g + v * VL), v_load(p + v * VL), sum[v % NV], operation)
    sum[whole % NV] = dot_term(v_load_n(g + whole * VL, tail, 0), v_load_n(p + whole * VL, tail, 0),
                               sum[whole % NV], operation)
    return fold_add(sum)


cdef inline void short_backward(const Strip *s, const int operation) noexcept nogil:
    # VL rows at a time, whose sums are folded together
    cdef Py_ssize_t n = s.n, whole = (n - 1) // VL, tail = n - whole * VL, first, count, r, v, row
    cdef const real *g
    cdef const real *p
    cdef real *y
    cdef vec rows[VL]
    cdef real dots[VL]
    cdef vec d, f = v_set1(gradient_factor(s.inv_t, operation))
    for first from 0 <= first < s.rows by VL:
        count = s.rows - first if s.rows - first < VL else VL
        for r in range(VL):
            row = first + (r if r < count else 0)
            rows[r] = short_dot(s.x + row * s.x_pitch, s.p + row * s.p_pitch, whole, tail, operation)
        v_store(dots, v_mul(v_hadd_rows(rows), v_set1(gradient_dot(1, operation))))
        for r in range(count):
            row = first + r
            g = s.x + row * s.x_pitch
            p = s.p + row * s.p_pitch
            y = s.y + row * s.y_pitch
            d = v_set1(dots[r])
            for v in range(whole):
                v_store(y + v * VL, gradient(v_load(g + v * VL), v_load(p + v * VL), d, f, operation))
            v_store_n(y + whole * VL, tail, gradient(v_load_n(g + whole * VL, tail, 0),
                                                     v_load_n(p + whole * VL, tail, 0), d, f, operation))


cdef inline void backward_rows(const Strip *s, const int operation) noexcept nogil:
    cdef Py_ssize_t row
    cdef const real *g
    cdef const real *p
    if s.n <= SHORT and s.rows > VL // 4:
        short_backward(s, operation)
        return
    for row in range(s.rows):
        g = s.x + row * s.x_pitch
        p = s.p + row * s.p_pitch
        gradient_run(g, p, s.y + row * s.y_pitch, s.n, row_dot(g, p, s.y + row * s.y_pitch, s.n, operation), s.inv_t,
                     operation, s.stream)


cdef void run_strip(const Strip *s, real *scratch, double *stats, int operation) noexcept nogil:
    if is_packed(s.n, s.rows) and not is_derivative(operation):
        run_packed(s, scratch, operation)
    elif operation == SOFTMAX:
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
