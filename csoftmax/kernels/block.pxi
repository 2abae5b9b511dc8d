# The sweep: one pass over a block of a row, which exponentiates the block, sums the exponentials, takes the maximum of
# the next block, so that its lines are on their way, and writes the results of a block of an earlier row. It sees
# nothing but native reals next to each other: "load" and "store" are for everything else.

cdef struct NextBlock:
    # The block that comes next. Where there is none, or a much shorter one, x is the block itself.
    const real *x             # IN x[n]
    Py_ssize_t n
    const void *y             # lines that are fetched for writing: lines_to_write
    const void *memory        # where blocks are loaded: where the next block is loaded from, whose lines are fetched,
    Py_ssize_t size           # and bytes of an element there and of y
    bint known                # the maximum is known beforehand: the next block is shorter, or has been loaded
    real maximum


cdef struct PendingBlock:
    # The same block of an earlier row, whose results are not yet written. While there is none, x and y are where the
    # exponentials are about to be stored.
    const real *x             # IN its exponentials; for log_softmax, its logits
    real *y                   # OUT its results
    vec high                  # factor of the exponentials, in two parts
    vec low
    Logs logs                 # or what the log-probabilities are made with


cdef struct Sweep:
    const real *x             # IN x[n], the block's logits
    Py_ssize_t n
    real *e                   # OUT e[n], their exponentials ("keep"), in whole vectors; may be x
    real maximum              # of x
    double t                  # temperature
    NextBlock next
    PendingBlock pending      # set where results are written (fused)


cdef inline const void *lines_to_write(const real *e, const real *y) noexcept nogil:
    # While a block's exponentials are stored to e, and its results later to y: the lines of y; or, where e is y, those
    # that come next.
    return e + PREFETCH if e == y else y


cdef inline vec over_temperature(vec x, vec m, double t, vec *lost) noexcept nogil:
    # (x - m) / t, and OUT lost, what its roundings lost: the exponential would magnify that by the quotient's size.
    # Beyond EXP_NEAR x - m itself is exact wherever it matters.
    cdef vec d = v_sub(x, m), q, back, rest
    cdef real divisor = <real> t
    lost[0] = v_set1(0)
    if t == 1:
        return d
    back = v_sub(d, x)
    q = v_div(d, v_set1(divisor))
    rest = v_sub(v_sub(x, v_sub(d, back)), v_add(m, back))
    rest = v_add(rest, v_fma(q, v_set1(<real> (divisor - t)), v_residual(d, q, v_set1(divisor))))
    rest = v_mul(rest, v_set1(<real> (1 / t)))
    lost[0] = v_and_eq(v_sub(rest, rest), v_set1(0), rest)
    return q


# --------------------------------------------------------------------------------- parts of one step

cdef inline void scan_next(const NextBlock *next, Py_ssize_t i, vec *top) noexcept nogil:
    # STEP vectors of the next block, from element i on, to its maxima IN OUT top[NV].
    cdef Py_ssize_t j
    for j in range(STEP):
        top[j % NV] = v_max(v_load(next.x + i + j * VL), top[j % NV])
        prefetch(next.x + i + j * VL + PREFETCH)


cdef inline void scan_next_n(const NextBlock *next, Py_ssize_t i, vec *top) noexcept nogil:
    # A vector of the next block from element i on, or what is left of it, to IN OUT top.
    top[0] = v_max(v_load_n(next.x + i, lanes_left(next.n - i), -INFINITY), top[0])


cdef inline vec pending_result(vec a, const PendingBlock *pending, const bint logs) noexcept nogil:
    if logs:
        return log_of(a, &pending.logs)
    return normalised(a, pending.high, pending.low)


cdef inline void write_pending(const PendingBlock *pending, Py_ssize_t i, const bint logs) noexcept nogil:
    # STEP vectors of results, from element i on.
    cdef Py_ssize_t j
    for j in range(STEP):
        v_store(pending.y + i + j * VL, pending_result(v_load(pending.x + i + j * VL), pending, logs))


cdef inline void write_pending_n(const PendingBlock *pending, Py_ssize_t i, Py_ssize_t n,
                                 const bint logs) noexcept nogil:
    # n results from element i on, a vector at most.
    v_store_n(pending.y + i, n, pending_result(v_load_n(pending.x + i, n, 0), pending, logs))


cdef void write_all_pending(const PendingBlock *pending, Py_ssize_t n, bint logs) noexcept nogil:
    # The results of a pending block of n elements, all of them.
    cdef Py_ssize_t i
    for i from 0 <= i < n by VL:
        if logs:
            write_pending_n(pending, i, lanes_left(n - i), True)
        else:
            write_pending_n(pending, i, lanes_left(n - i), False)


# ----------------------------------------------------------------------- the sweep, with the shared reduction

cdef inline void shared_exps(vec x, const shift_t *shift, real *e, vec *total, vec *ties, const bint keep,
                             const int gathers) noexcept nogil:
    # The exponentials of a vector of logits are added to IN OUT total and ties, and stored to OUT e (keep).
    cdef vec d = v_sub(x, shift.maximum)
    cdef vec p = v_exp(x, d, shift[0], EXP_SHARED)
    if keep:
        v_store(e, p)
    add_exps(p, d, total, ties, gathers)


cdef inline void sweep_step(const Sweep *s, const shift_t *shift, Accumulators *a, Py_ssize_t i, const bint keep,
                            const int gathers, const bint fused, const bint loaded) noexcept nogil:
    # STEP vectors from element i on.
    cdef Py_ssize_t j
    if not loaded:
        scan_next(&s.next, i, a.top)
    if loaded:
        for j in range(STEP):
            prefetch(<const char *> s.next.memory + (i + j * VL + PREFETCH) * s.next.size)
            prefetch_write(<const char *> s.next.y + (i + j * VL) * s.next.size)
    elif keep:
        for j in range(STEP):
            prefetch_write(<const real *> s.next.y + i + j * VL)
    if fused:
        write_pending(&s.pending, i, gathers == SUM_AND_TIES)
    for j in range(STEP):
        shared_exps(v_load(s.x + i + j * VL), shift, s.e + i + j * VL, &a.part[j % NV], &a.ties[j % NV], keep, gathers)


cdef inline real end_sweep(const Sweep *s, Accumulators *a, Py_ssize_t i, BlockStats *stats,
                           const int gathers) noexcept nogil:
    # OUT stats, from the accumulators; returns the maximum of the next block, whose first i elements are in a.top.
    cdef Py_ssize_t j
    end_subblock(a)
    for j in range(1, NV):
        a.top[0] = v_max(a.top[j], a.top[0])
    if i < s.next.n:
        a.top[0] = max_vec(s.next.x + i, s.next.n - i, a.top[0])
    stats.maximum = s.maximum
    fold_block(a.total, s.n, &stats.sum, &stats.sum_rest)
    stats.ties = 0
    if gathers == SUM_AND_TIES:
        stats.ties = v_hadd(fold_add(a.ties))
        if s.maximum == INFINITY and has_nan(s.x, s.n, 1):
            stats.ties = NAN
    return s.next.maximum if s.next.known else v_hmax(a.top[0])


cdef inline real sweep_shared(const Sweep *sweep, BlockStats *stats, const bint keep, const int gathers,
                              const bint fused, const bint loaded) noexcept nogil:
    # As sweep_block, with the shared range reduction.
    cdef Sweep local = sweep[0]       # whose members need not be read again after every store
    cdef const Sweep *s = &local
    cdef shift_t shift = v_exp_shift_row(shift_of(s.maximum))
    cdef Accumulators a
    cdef Py_ssize_t i = 0, j, together = s.n if s.n < s.next.n else s.next.n
    clear(&a)
    while i <= together - STEP * VL:
        if i % SUBBLOCK == 0:
            end_subblock(&a)
        sweep_step(s, &shift, &a, i, keep, gathers, fused, loaded)
        i += STEP * VL
    while i < s.n:
        if i % SUBBLOCK == 0:
            end_subblock(&a)
        for j in range(NV):
            if not loaded:
                scan_next_n(&s.next, i, a.top + j)
            if fused:
                write_pending_n(&s.pending, i, lanes_left(s.n - i), gathers == SUM_AND_TIES)
            shared_exps(v_load_n(s.x + i, lanes_left(s.n - i), -INFINITY), &shift, s.e + i, a.part + j, a.ties + j,
                        keep, gathers)
            i += VL
    return end_sweep(s, &a, i, stats, gathers)


# ------------------------------------------------------------------- the sweep, with the direct reduction

cdef inline void direct_exps(vec x, const shift_t *shift, double t, real *e, vec *total, vec *ties, bint keep,
                             int gathers) noexcept nogil:
    # As shared_exps, of (x - maximum) / t.
    cdef vec lost
    cdef vec d = over_temperature(x, shift.maximum, t, &lost)
    cdef vec p = v_exp(lost, d, shift[0], EXP_DIRECT)
    if keep:
        v_store(e, p)
    if gathers == SUM_AND_TIES:
        add_exps(p, d, total, ties, SUM_AND_TIES)
    else:
        add_exps(p, d, total, ties, SUM)


cdef real sweep_direct(const Sweep *sweep, BlockStats *stats, bint keep, int gathers) noexcept nogil:
    # As sweep_block, with the direct range reduction: for a temperature, or a maximum far from 0. It is compiled once:
    # the division takes longer than what could be decided at compile time.
    cdef Sweep local = sweep[0]
    cdef const Sweep *s = &local
    cdef shift_t shift = v_exp_shift_row(shift_of(s.maximum))
    cdef Accumulators a
    cdef Py_ssize_t i = 0, j, together = s.n if s.n < s.next.n else s.next.n
    clear(&a)
    while i <= together - ACCUMULATORS:
        if i % SUBBLOCK == 0:
            end_subblock(&a)
        for j in range(NV):
            a.top[j] = v_max(v_load(s.next.x + i), a.top[j])
            prefetch(s.next.x + i + PREFETCH)
            if keep:
                prefetch_write(<const real *> s.next.y + i)
            direct_exps(v_load(s.x + i), &shift, s.t, s.e + i, a.part + j, a.ties + j, keep, gathers)
            i += VL
    while i < s.n:
        if i % SUBBLOCK == 0:
            end_subblock(&a)
        for j in range(NV):
            scan_next_n(&s.next, i, a.top + j)
            direct_exps(v_load_n(s.x + i, lanes_left(s.n - i), -INFINITY), &shift, s.t, s.e + i, a.part + j, a.ties + j,
                        keep, gathers)
            i += VL
    if gathers == SUM_AND_TIES:
        return end_sweep(s, &a, i, stats, SUM_AND_TIES)
    return end_sweep(s, &a, i, stats, SUM)


# ----------------------------------------------------------------------------------------- the whole sweep

cdef inline real sweep_block(const Sweep *s, BlockStats *stats, const bint keep, const int gathers, const bint fused,
                             const bint loaded) noexcept nogil:
    # Exponentials of a block against its maximum, to s.e (keep), and their sum, to OUT stats; the results of the
    # pending block are written (fused); returns the maximum of the next block, which is known beforehand where blocks
    # are loaded.
    if s.t == 1 and v_exp_near(shift_of(s.maximum)):
        return sweep_shared(s, stats, keep, gathers, fused, loaded)
    if fused:
        write_all_pending(&s.pending, s.n, gathers == SUM_AND_TIES)
    return sweep_direct(s, stats, keep, gathers)


# The same as functions that are called: for blocks of a split row, and for loaded ones.

cdef real sweep_exps(const Sweep *s, BlockStats *stats) noexcept nogil:
    return sweep_block(s, stats, True, SUM, False, False)


cdef real sweep_sums(const Sweep *s, BlockStats *stats) noexcept nogil:
    return sweep_block(s, stats, False, SUM_AND_TIES, False, False)


cdef real sweep_loaded_exps(const Sweep *s, BlockStats *stats) noexcept nogil:
    return sweep_block(s, stats, True, SUM, False, True)


cdef real sweep_loaded_sums(const Sweep *s, BlockStats *stats) noexcept nogil:
    return sweep_block(s, stats, False, SUM_AND_TIES, False, True)
