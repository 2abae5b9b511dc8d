# Rows whose elements lie next to each other: native reals, where they lie; or 16-bit floats and masked reals, which are
# loaded a block at a time.

cdef struct RowBatch:
    # The rows that one call of a kernel works on, and what it makes of them.
    int operation
    int storage                   # REAL; or, of 16-bit floats, which x, p and y point to then
    const char *mask              # IN the bytes of the mask, or NULL; rows are loaded then, ...
    Py_ssize_t mask_pitch         # ... so many bytes from row to row, ...
    Py_ssize_t mask_step          # ... and from element to element, 0 or 1
    real *stage                   # scratch of derivatives that are loaded: 2 BLOCK reals
    const real *x                 # IN logits, or the incoming gradient: n elements of each row
    const real *p                 # IN the forward's output, in the derivatives; as many
    real *y                       # OUT results; as many, or one a row (LOGSUMEXP)
    Py_ssize_t rows
    Py_ssize_t n
    Py_ssize_t x_pitch            # elements from row to row
    Py_ssize_t p_pitch
    Py_ssize_t y_pitch
    double t                      # the temperature, and its reciprocal
    double inv_t
    bint packed                   # the strategy is PACKED_ROWS
    bint pending                  # a row's results are written while a later row is exponentiated
    bint stream                   # results are stored past the caches
    const double *coefficient     # IN one a row, or NULL for 1
    double *top                   # OUT the maximum of each row (CROSS_ENTROPY*)
    double *log_sum               # OUT and the logarithm of its sum, in two parts
    double *log_rest


cdef struct PendingRow:
    # A row whose exponentials are summed, and whose results are not yet written.
    real *e                   # its exponentials, if they are stored; loaded logits, if not
    BlockStats *stats         # one a block
    double top                # its maximum, and the logarithm of the sum, in two parts
    double log_sum
    double log_rest


cdef enum:
    PENDING_LEAST = 16 * ACCUMULATORS    # rows of more elements, ...
    FEW_BLOCKS = 16           # ... up to so many blocks, are written while a later one is exponentiated;
    MANY_BLOCKS = 64          # up to so many if no exponentials are stored
    TOGETHER_MOST = 8         # rows that are finished together, ...
    TOGETHER_REALS = 4096     # ... of so many elements, or one


cdef inline Py_ssize_t padded(Py_ssize_t n) noexcept nogil:
    return (n + ACCUMULATORS - 1) // ACCUMULATORS * ACCUMULATORS


cdef inline Py_ssize_t blocks_of(Py_ssize_t n) noexcept nogil:
    return (n + BLOCK - 1) // BLOCK


cdef inline Py_ssize_t block_length(Py_ssize_t n, Py_ssize_t b) noexcept nogil:
    return BLOCK if n - b * BLOCK > BLOCK else n - b * BLOCK


cdef inline char *x_at(const RowBatch *s, Py_ssize_t row, Py_ssize_t b, const bint native) noexcept nogil:
    return at(s.x, row * s.x_pitch + b * BLOCK, REAL if native else s.storage)


cdef inline char *p_at(const RowBatch *s, Py_ssize_t row, Py_ssize_t b, const bint native) noexcept nogil:
    return at(s.p, row * s.p_pitch + b * BLOCK, REAL if native else s.storage)


cdef inline char *y_at(const RowBatch *s, Py_ssize_t row, Py_ssize_t b, const bint native) noexcept nogil:
    return at(s.y, row * s.y_pitch + b * BLOCK, REAL if native else s.storage)


cdef inline Py_ssize_t rows_together(Py_ssize_t n) noexcept nogil:
    # rows of n elements that are finished together
    cdef Py_ssize_t rows = TOGETHER_REALS // (n if n > 0 else 1)
    return TOGETHER_MOST if rows > TOGETHER_MOST else (rows if rows > 1 else 1)


# --------------------------------------------------------------------------------------- load: one block

cdef inline const real *set_next(NextBlock *next, const RowBatch *s, Py_ssize_t row, Py_ssize_t b,
                                 const real *x) noexcept nogil:
    # OUT next, from block b of a row of native reals, which stands at x; returns where the next block stands. The sweep
    # is at full speed only as long as the next block lasts: where that is much shorter, its maximum is taken
    # beforehand.
    cdef Py_ssize_t n = block_length(s.n, b)
    cdef const real *block
    next.x = x
    next.n = n
    next.known = False
    if b + 1 < blocks_of(s.n):
        b += 1
    elif row + 1 < s.rows:
        row += 1
        b = 0
    else:
        return x
    block = <const real *> x_at(s, row, b, True)
    if block_length(s.n, b) < n // 2:
        next.known = True
        next.maximum = block_max(block, block_length(s.n, b))
    else:
        next.x = block
        next.n = block_length(s.n, b)
    return block


cdef inline void set_loaded(Sweep *sweep, const RowBatch *s, Py_ssize_t row, Py_ssize_t b) noexcept nogil:
    # Block b of a row that is not of native reals is loaded to where its exponentials will be, sweep.e. The lines of
    # the next block, and of results that are soon written, are fetched while it is swept.
    cdef char *x = x_at(s, row, b, False)
    sweep.x = sweep.e
    if s.mask == NULL:
        sweep.maximum = load_block(x, sweep.n, sweep.e, s.storage)
    else:
        sweep.maximum = load_where(<const real *> x, s.mask + row * s.mask_pitch + b * BLOCK * s.mask_step, s.mask_step,
                                   sweep.n, sweep.e, -INFINITY)
    sweep.next.known = True
    sweep.next.x = sweep.x
    sweep.next.n = sweep.n
    sweep.next.size = element_size(s.storage)
    sweep.next.memory = x + sweep.n * sweep.next.size
    if b + 1 == blocks_of(s.n):
        sweep.next.memory = x_at(s, row + 1, 0, False)
    sweep.next.y = sweep.e
    if s.n <= TOGETHER_REALS and s.operation != LOGSUMEXP and not s.stream:
        sweep.next.y = y_at(s, row, b, False)


# ------------------------------------------------------------------------------------- finish and store

cdef void finish_rows(const RowBatch *s, Py_ssize_t row, Py_ssize_t rows, PendingRow *f, bint keep,
                      int gathers) noexcept nogil:
    # IN OUT f[rows], from their BlockStats. What each row takes is a chain of operations that wait for each other;
    # those of several rows do not.
    cdef Py_ssize_t blocks = blocks_of(s.n), r
    cdef double logs[TOGETHER_MOST]
    cdef double rests[TOGETHER_MOST]
    cdef bint nan[TOGETHER_MOST]
    if gathers == SUM_AND_TIES:
        for r in range(rows):
            sum_blocks(f[r].stats, blocks, s.t, &f[r].top, logs + r, rests + r, nan + r)
        log1p_run(logs, rests, rows)
        for r in range(rows):
            f[r].log_sum = logs[r]
            f[r].log_rest = rests[r]
            infinite_log(f[r].top, nan[r], &f[r].log_sum, &f[r].log_rest)
    if keep:
        for r in range(rows):
            join_softmax(f[r].stats, blocks, s.t, s.coefficient[row + r] if s.coefficient != NULL else 1)


cdef inline void normalise_rows(const RowBatch *s, Py_ssize_t row, Py_ssize_t rows, const PendingRow *f,
                                const bint native) noexcept nogil:
    # Finishes and writes softmaxes of one block: rows from "row" on, IN f[rows].
    cdef double sums[TOGETHER_MOST]
    cdef double rests[TOGETHER_MOST]
    cdef real high[TOGETHER_MOST]
    cdef real low[TOGETHER_MOST]
    cdef Py_ssize_t r
    cdef vec h, l
    for r in range(TOGETHER_MOST):
        sums[r] = f[r].stats.sum if r < rows else 1
        rests[r] = f[r].stats.sum_rest if r < rows else 0
    for r from 0 <= r < rows by VL64:
        factor_lanes(load_f64(sums + r), load_f64(rests + r), NULL, high + r, low + r, NULL)
    for r in range(rows):
        h = v_set1(high[r])
        l = v_set1(low[r])
        if native or s.storage == REAL:
            normalise(f[r].e, y_at(s, row + r, 0, native), s.n, h, l, REAL)
        elif s.storage == F16:
            normalise(f[r].e, y_at(s, row + r, 0, native), s.n, h, l, F16)
        else:
            normalise(f[r].e, y_at(s, row + r, 0, native), s.n, h, l, BF16)


cdef inline Logs row_logs(const RowBatch *s, const PendingRow *f) noexcept nogil:
    # The numbers that a row's log-probabilities are made with.
    cdef real high, low
    split_log(f.top, f.log_sum, f.log_rest, s.inv_t, &high, &low)
    return logs_of(v_set1(high), v_set1(low), s.inv_t)


cdef inline void write_logs(const RowBatch *s, Py_ssize_t row, const PendingRow *f, const bint native) noexcept nogil:
    # What is made of the logarithm of a row's sum.
    cdef Logs logs
    if s.operation == LOGSUMEXP:
        s.y[row * s.y_pitch] = whole_log(f.top, f.log_sum, f.log_rest)
    elif s.operation == LOG_SOFTMAX:
        logs = row_logs(s, f)
        if native and not s.stream:
            log_block(x_at(s, row, 0, native), y_at(s, row, 0, native), s.n, &logs, False, REAL)
        elif native:
            log_reals(<const real *> x_at(s, row, 0, native), <real *> y_at(s, row, 0, native), s.n, &logs, True)
        elif s.mask != NULL:
            log_reals(f.e, <real *> y_at(s, row, 0, native), s.n, &logs, s.stream)
        else:
            log_halves(x_at(s, row, 0, native), y_at(s, row, 0, native), s.n, &logs, s.storage)
    else:
        s.top[row] = f.top
        s.log_sum[row] = f.log_sum
        s.log_rest[row] = f.log_rest


cdef inline bint may_wait(Py_ssize_t n, bint stream) noexcept nogil:
    # Whether the exponentials of a block of n may wait in the result: it stays in the caches, and is of whole vectors.
    return not stream and n % ACCUMULATORS == 0


cdef inline real *block_exps(const RowBatch *s, Py_ssize_t row, Py_ssize_t b, real *e, const int gathers,
                             const bint native) noexcept nogil:
    # Where the exponentials of block b of a row wait to be normalised: of a long row in the result, else in e, scratch.
    if ((not native and s.storage != REAL) or gathers == SUM_AND_TIES or blocks_of(s.n) <= FEW_BLOCKS
            or not may_wait(block_length(s.n, b), s.stream)):
        return e + b * BLOCK
    return <real *> y_at(s, row, b, native)


cdef inline void write_exps(const RowBatch *s, Py_ssize_t row, const PendingRow *f, const int gathers,
                            const bint native) noexcept nogil:
    # A row's exponentials, normalised.
    cdef const BlockStats *stats = f.stats
    cdef Py_ssize_t b, n
    cdef real *e
    cdef char *y
    for b in range(blocks_of(s.n)):
        n = block_length(s.n, b)
        e = block_exps(s, row, b, f.e, gathers, native)
        y = y_at(s, row, b, native)
        if native or s.storage == REAL:
            normalise_reals(e, <real *> y, n, stats[b].factor, stats[b].factor_rest, s.stream)
        else:
            normalise_halves(e, y, n, stats[b].factor, stats[b].factor_rest, s.storage)


cdef inline void write_row(const RowBatch *s, Py_ssize_t row, const PendingRow *f, const bint keep, const int gathers,
                           const bint native) noexcept nogil:
    if gathers == SUM_AND_TIES:
        write_logs(s, row, f, native)
    if keep:
        write_exps(s, row, f, gathers, native)


# ----------------------------------------------------------------------------------------- rows by sweeps

cdef inline void start_rows(PendingRow *pending, Py_ssize_t count, Py_ssize_t n, real *scratch,
                            BlockStats *stats) noexcept nogil:
    # OUT pending[count], for rows of n elements: where their exponentials and BlockStats are.
    cdef Py_ssize_t row
    for row in range(count):
        pending[row].e = scratch + row * padded(n)
        pending[row].stats = stats + row * blocks_of(n)


cdef inline void sweep_rows(const RowBatch *s, real *scratch, BlockStats *stats, const bint keep, const int gathers,
                            const bint native) noexcept nogil:
    # Rows whose results are written as soon as their batch is summed. Scratch: in_flight rows of exponentials, in whole
    # ACCUMULATORS; as many rows of BlockStats.
    cdef Py_ssize_t blocks = blocks_of(s.n), together = rows_together(s.n), first = 0, rows, row, b
    cdef const real *block = s.x
    cdef Sweep sweep
    cdef PendingRow pending[TOGETHER_MOST]
    cdef PendingRow *f
    start_rows(pending, together, s.n, scratch, stats)
    if native:
        sweep.maximum = block_max(block, block_length(s.n, 0))
    sweep.t = s.t
    while first < s.rows:
        rows = together if s.rows - first > together else s.rows - first
        for row in range(first, first + rows):
            f = &pending[row - first]
            for b in range(blocks):
                sweep.n = block_length(s.n, b)
                sweep.e = block_exps(s, row, b, f.e, gathers, native) if keep else f.e + (0 if native else b * BLOCK)
                if native:
                    sweep.x = block
                    block = set_next(&sweep.next, s, row, b, block)
                    sweep.next.y = sweep.e
                    if keep and not s.stream:
                        sweep.next.y = lines_to_write(sweep.e, <real *> y_at(s, row, b, native))
                    sweep.maximum = sweep_block(&sweep, f.stats + b, keep, gathers, False, False)
                else:
                    set_loaded(&sweep, s, row, b)
                    if keep:
                        sweep_loaded_exps(&sweep, f.stats + b)
                    else:
                        sweep_loaded_sums(&sweep, f.stats + b)
        if keep and gathers == SUM and blocks == 1 and not s.stream:
            normalise_rows(s, first, rows, pending, native)
        else:
            finish_rows(s, first, rows, pending, keep, gathers)
            for row in range(rows):
                write_row(s, first + row, &pending[row], keep, gathers, native)
        first += rows


cdef inline void set_pending(PendingBlock *pending, const RowBatch *s, Py_ssize_t row, Py_ssize_t b,
                             const PendingRow *f, real *unused, const bint logs, const bint native) noexcept nogil:
    # OUT pending: block b of a row, still to be written. Before the first row, what is written goes to OUT unused,
    # whose contents nobody needs yet.
    cdef const BlockStats *stats = f.stats + b
    cdef real *y = <real *> y_at(s, row, b, native)
    pending.x = f.e + b * BLOCK
    pending.y = y
    if row >= 0 and logs:
        if native:
            pending.x = <const real *> x_at(s, row, b, native)
        pending.logs = row_logs(s, f)
        return
    if row >= 0 and not is_tiny(stats.factor, FACTOR_SCALE):
        set_factor(stats.factor, stats.factor_rest, &pending.high, &pending.low)
        return
    pending.x = pending.y = unused
    pending.high = pending.low = v_set1(0)
    pending.logs = logs_of(pending.high, pending.low, 1)
    if row >= 0:
        normalise_reals(f.e + b * BLOCK, y, block_length(s.n, b), stats.factor, stats.factor_rest, False)


cdef inline void fused_rows(const RowBatch *s, real *scratch, BlockStats *stats, const bint logs,
                            const bint native) noexcept nogil:
    # Softmax or log_softmax as by sweep_rows, but while one row is exponentiated the results of an earlier one are
    # written. Rows that are loaded stay in scratch until then (logs).
    cdef Py_ssize_t blocks = blocks_of(s.n), together = rows_together(s.n) if logs else 1, row, rows, b, here = 0
    cdef int gathers = SUM_AND_TIES if logs else SUM
    cdef const real *block = s.x
    cdef Sweep sweep
    cdef PendingRow pending[2 * TOGETHER_MOST]
    cdef PendingRow *f
    cdef PendingRow *earlier
    cdef real *y
    start_rows(pending, 2 * together, s.n, scratch, stats)
    if native:
        sweep.maximum = block_max(block, block_length(s.n, 0))
    sweep.t = s.t
    for row in range(s.rows):
        f = &pending[here]
        earlier = &pending[here + together if here < together else here - together]
        for b in range(blocks):
            sweep.n = block_length(s.n, b)
            sweep.e = f.e + b * BLOCK
            y = <real *> y_at(s, row, b, native)
            if native:
                sweep.x = block
                block = set_next(&sweep.next, s, row, b, block)
                sweep.next.y = sweep.e if logs else y
            else:
                set_loaded(&sweep, s, row, b)
            set_pending(&sweep.pending, s, row - together, b, earlier, sweep.e if native else y, logs, native)
            sweep.maximum = sweep_block(&sweep, f.stats + b, not logs, SUM_AND_TIES if logs else SUM, True, not native)
        here += 1
        if here == together or here == 2 * together or row + 1 == s.rows:
            rows = here if here <= together else here - together
            finish_rows(s, row + 1 - rows, rows, &pending[here - rows], not logs, gathers)
        if here == 2 * together:
            here = 0
    for row in range(s.rows - together if s.rows > together else 0, s.rows):
        write_row(s, row, &pending[row % (2 * together)], not logs, SUM_AND_TIES if logs else SUM, native)


cdef inline bint is_fused(const RowBatch *s, Py_ssize_t together) noexcept nogil:
    # Whether rows are written while later ones are exponentiated: not, if all of them would be pending at the end.
    return FUSED and s.pending and s.rows > together


cdef void softmax_rows(const RowBatch *s, real *scratch, BlockStats *stats) noexcept nogil:
    if is_fused(s, 1):
        fused_rows(s, scratch, stats, False, True)
    else:
        sweep_rows(s, scratch, stats, True, SUM, True)


cdef void softmax_loaded_rows(const RowBatch *s, real *scratch, BlockStats *stats) noexcept nogil:
    sweep_rows(s, scratch, stats, True, SUM, False)


cdef void log_softmax_rows(const RowBatch *s, real *scratch, BlockStats *stats) noexcept nogil:
    if is_fused(s, rows_together(s.n)):
        fused_rows(s, scratch, stats, True, True)
    else:
        log_rows(s, scratch, stats)


cdef void log_rows(const RowBatch *s, real *scratch, BlockStats *stats) noexcept nogil:
    # What is made of the logarithm of each row's sum.
    sweep_rows(s, scratch, stats, False, SUM_AND_TIES, True)


cdef void log_loaded_rows(const RowBatch *s, real *scratch, BlockStats *stats) noexcept nogil:
    # Masked reals, or 16-bit floats.
    if s.operation == LOG_SOFTMAX and s.storage == REAL and is_fused(s, rows_together(s.n)):
        fused_rows(s, scratch, stats, True, False)
    else:
        sweep_rows(s, scratch, stats, False, SUM_AND_TIES, False)


cdef void loss_and_gradient_rows(const RowBatch *s, real *scratch, BlockStats *stats) noexcept nogil:
    sweep_rows(s, scratch, stats, True, SUM_AND_TIES, True)


# ------------------------------------------------------------------------------------ one row, by itself

cdef inline bint single_softmax(const real *x, real *y, Py_ssize_t n, const int times) noexcept nogil:
    # IN x[n] to OUT y[n], up to "times" ACCUMULATORS elements; False if they need the direct range reduction: then
    # nothing is written.
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
        rows[j] = v_exp(rows[j], v_sub(rows[j], shift.maximum), shift, EXP_SHARED)
    for j in range(NV):
        sums[j] = rows[j] if times == 1 else v_add(rows[j], rows[j + NV])
    fold_pair(sums, &first, &second)
    join_pair(first, second, &sum, &lost)
    quotient(1, sum, lost, &q, &rest)
    set_factor(q * FACTOR_SCALE, rest * FACTOR_SCALE, &h, &l)
    for j in range(times * NV):
        v_store_n(y + j * VL, lanes_left(n - j * VL), normalised(rows[j], h, l))
    return True


# ------------------------------------------------------------------------------------------- derivatives

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
        sum[v % NV] = dot_term(sum[v % NV], g + v * VL, p + v * VL, operation)
    if whole >= NV:
        sum[whole % NV] = dot_term_n(sum[whole % NV], g + whole * VL, p + whole * VL, tail, operation)
    return fold_dot(sum)


cdef enum:
    AT_ONCE = 4               # rows whose dot products are taken together
    HELD = 4 * AT_ONCE        # vectors of each operand that are held from the dot products to the results, at most


cdef inline Py_ssize_t plain_rows(const RowBatch *s, const Py_ssize_t rows, const Py_ssize_t width) noexcept nogil:
    # Rows of so many vectors, so many rows at a time as long as there are as many; returns how many are done. All of
    # them are read before any is written: a load waits for a store just before it that looks as if it overlapped.
    cdef const real *g = s.x
    cdef const real *p = s.p
    cdef real *y = s.y
    cdef Py_ssize_t last = (width - 1) * VL, tail = s.n - last, row = 0, r, v, i, j
    cdef vec a[HELD]
    cdef vec b[HELD]
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


cdef inline Py_ssize_t plain_quads(const RowBatch *s) noexcept nogil:
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


cdef inline Py_ssize_t plain_backward(const RowBatch *s) noexcept nogil:
    # Rows of few vectors; returns how many are done.
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


cdef inline Py_ssize_t short_backward(const RowBatch *s, Py_ssize_t begin, const int operation,
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


cdef inline void single_softmax_backward(const real *g, const real *p, real *y, Py_ssize_t n,
                                         double inv_t) noexcept nogil:
    # As short_backward, of softmax: IN g[n] and p[n] to OUT y[n].
    cdef Py_ssize_t whole = (n - 1) // VL, tail = n - whole * VL, v
    cdef Slope slope = slope_of(inv_t, SOFTMAX_GRAD)
    slope.dot = v_mul(v_set1(v_hadd(plain_dot(g, p, whole, tail))), v_set1(<real> dot_scale(SOFTMAX_GRAD)))
    for v in range(whole):
        v_store(y + v * VL, gradient(v_load(g + v * VL), v_load(p + v * VL), &slope, SOFTMAX_GRAD))
    v_store_n(y + whole * VL, tail, gradient(v_load_n(g + whole * VL, tail, 0), v_load_n(p + whole * VL, tail, 0),
                                             &slope, SOFTMAX_GRAD))


cdef bint single_row(int operation, const void *x, const void *p, void *y, Py_ssize_t n,
                     double temperature) noexcept nogil:
    # A row for which SINGLE_ROW has been chosen: IN x[n] and p[n] to OUT y[n]. False if its values need the direct
    # range reduction, which run_rows has: then nothing is written.
    if operation == SOFTMAX_GRAD:
        single_softmax_backward(<const real *> x, <const real *> p, <real *> y, n, 1 / temperature)
        return True
    if n <= ACCUMULATORS:
        return single_softmax(<const real *> x, <real *> y, n, 1)
    return single_softmax(<const real *> x, <real *> y, n, 2)


cdef inline void row_dot(const RowBatch *s, Py_ssize_t row, DotFn block_dot, double *total, double *lost,
                         const bint native) noexcept nogil:
    # The dot product of a row to OUT total + lost, block by block.
    cdef Py_ssize_t b, n
    cdef double high, low
    cdef char *g
    cdef char *p
    total[0] = lost[0] = 0
    for b in range(blocks_of(s.n)):
        n = block_length(s.n, b)
        g = x_at(s, row, b, native)
        p = p_at(s, row, b, native)
        # the lines of a longer result would not wait
        if native:
            block_dot(<const real *> g, <const real *> p, y_at(s, row, b, native) if s.n <= BLOCK else g, n, &high,
                      &low)
        else:
            load_block(g, n, s.stage, s.storage)
            load_block(p, n, s.stage + BLOCK, s.storage)
            block_dot(s.stage, s.stage + BLOCK, s.stage, n, &high, &low)
        add_part(high, total, lost)
        lost[0] += low


cdef inline void row_gradient(const RowBatch *s, Py_ssize_t row, GradientFn write, real dot, real rest,
                              const bint native) noexcept nogil:
    # The results of a row, from what gradient_dot gives.
    cdef Factors factors
    cdef Py_ssize_t b, n
    factors.dot = dot
    factors.rest = rest
    factors.inv_t = s.inv_t
    if native:
        write(<const real *> x_at(s, row, 0, native), <const real *> p_at(s, row, 0, native),
              <real *> y_at(s, row, 0, native), s.n, &factors, s.stream)
        return
    for b in range(blocks_of(s.n)):
        n = block_length(s.n, b)
        if s.n > BLOCK:
            load_block(x_at(s, row, b, native), n, s.stage, s.storage)
            load_block(p_at(s, row, b, native), n, s.stage + BLOCK, s.storage)
        write(s.stage, s.stage + BLOCK, s.stage, n, &factors, False)
        store_block(s.stage, y_at(s, row, b, native), n, s.storage)


cdef void backward_row(const RowBatch *s, Py_ssize_t row, bint native) noexcept nogil:
    cdef int operation = s.operation
    cdef double total, lost
    cdef real dot, rest
    if native:
        row_dot(s, row, block_dots[operation], &total, &lost, True)
    else:
        row_dot(s, row, block_dots[operation], &total, &lost, False)
    gradient_dot(total, lost, operation, &dot, &rest)
    if is_beyond(dot, s.n, operation) and finish_line(
            line_of(x_at(s, row, 0, native), p_at(s, row, 0, native), y_at(s, row, 0, native), s.n, s.storage),
            s.inv_t, operation):
        return
    if native:
        row_gradient(s, row, block_gradients[operation], dot, rest, True)
    else:
        row_gradient(s, row, block_gradients[operation], dot, rest, False)


cdef Py_ssize_t one_by_one(const RowBatch *s, Py_ssize_t begin) noexcept nogil:
    # The group where short_backward stopped; returns how many rows are done then.
    cdef Py_ssize_t end = begin + VL if s.rows - begin > VL else s.rows, row
    for row in range(begin, end):
        backward_row(s, row, True)
    return end


cdef inline void short_groups(const RowBatch *s, const int operation) noexcept nogil:
    # Nothing is called among the rows of short_backward, which keeps its constants in registers.
    cdef Py_ssize_t row = 0
    while row < s.rows:
        row = short_backward(s, row, operation, False)
        if row < s.rows:
            row = one_by_one(s, row)


cdef inline void inlined_backward_row(const RowBatch *s, Py_ssize_t row, const int operation) noexcept nogil:
    # As backward_row, of native reals and without calls through pointers, which cost rows of a hundred elements a fifth
    # of their time.
    cdef const real *g = <const real *> x_at(s, row, 0, True)
    cdef const real *p = <const real *> p_at(s, row, 0, True)
    cdef real *y = <real *> y_at(s, row, 0, True)
    cdef double total = 0, lost = 0, high, low
    cdef Py_ssize_t b
    cdef Factors factors
    for b in range(blocks_of(s.n)):
        block_dot(g + b * BLOCK, p + b * BLOCK, <const real *> y if s.n <= BLOCK else g + b * BLOCK,
                  block_length(s.n, b), &high, &low, operation)
        add_part(high, &total, &lost)
        lost += low
    gradient_dot(total, lost, operation, &factors.dot, &factors.rest)
    if is_beyond(factors.dot, s.n, operation) and finish_line(line_of(g, p, y, s.n, REAL), s.inv_t, operation):
        return
    factors.inv_t = s.inv_t
    write_gradient(g, p, y, s.n, &factors, s.stream, operation)


cdef inline void backward_rows(const RowBatch *s, const int operation) noexcept nogil:
    cdef Py_ssize_t row
    if is_plain(s.n, operation):
        short_backward(s, plain_backward(s), operation, True)
        return
    if s.packed:
        short_groups(s, operation)
        return
    for row in range(s.rows):
        inlined_backward_row(s, row, operation)


cdef void softmax_backward_rows(const RowBatch *s, real *scratch, BlockStats *stats) noexcept nogil:
    backward_rows(s, SOFTMAX_GRAD)


cdef void log_softmax_vjp_rows(const RowBatch *s, real *scratch, BlockStats *stats) noexcept nogil:
    backward_rows(s, LOG_SOFTMAX_VJP)


cdef void log_softmax_jvp_rows(const RowBatch *s, real *scratch, BlockStats *stats) noexcept nogil:
    backward_rows(s, LOG_SOFTMAX_JVP)


cdef void backward_halves(const RowBatch *s, real *scratch, BlockStats *stats) noexcept nogil:
    cdef Py_ssize_t row
    for row in range(s.rows):
        backward_row(s, row, False)
