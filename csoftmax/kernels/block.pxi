# One block of one row: maximum, exponentials with their sum, and the passes that write results.
# Lengths are in elements; "e" is scratch whose rows are padded to whole LANES.

cdef struct Ahead:
    # The block that comes next: its maximum is taken, and so its lines are fetched, by the sweep before it. Where
    # there is none, or a much shorter one, the block itself.
    const void *x             # of "storage"
    int storage
    real *kept                # where it is kept as reals, unless it is of reals
    Py_ssize_t n
    const void *y             # lines that are to be at hand for writing: announced_lines
    bint known                # the next block is shorter, and its maximum known beforehand
    real maximum


cdef struct Logs:
    # what a row's log-probabilities are made with: (x pre + high) inv_t + low
    vec pre
    vec high
    vec inv_t
    vec low


cdef struct Behind:
    # The same block of an earlier row: its results are written meanwhile. While there are none, what is written lies
    # where the exponentials are about to come.
    const void *x             # its exponentials; or, for log_softmax, its logits, of "storage"
    void *y                   # of "storage"
    int storage
    vec high                  # factor of the exponentials
    vec low
    Logs logs                 # or what the log-probabilities are made with


cdef inline const void *announced_lines(const real *e, const void *y) noexcept nogil:
    # while a block's exponentials go to e, and its results later to y: those of y; or, where e is y, what comes next
    return e + PREFETCH if e == y else y


cdef inline char *at(const void *base, Py_ssize_t i, int storage) noexcept nogil:
    # element i
    return <char *> base + i * (<Py_ssize_t> sizeof(real) if storage == REAL else 2)


cdef inline vec fold_add(const vec *a) noexcept nogil:
    cdef vec s[NV]
    cdef Py_ssize_t j, half = NV // 2
    for j in range(NV):
        s[j] = a[j]
    while half > 0:
        for j in range(half):
            s[j] = v_add(s[j], s[j + half])
        half //= 2
    return s[0]


cdef inline void fold_pair(const vec *a, real *first, real *second) noexcept nogil:
    # the two halves that fold_add and hadd add last
    cdef vec s[NV]
    cdef Py_ssize_t j, half = NV // 2
    for j in range(NV):
        s[j] = a[j]
    while half > (1 if VL == 1 else 0):
        for j in range(half):
            s[j] = v_add(s[j], s[j + half])
        half //= 2
    if VL == 1:
        v_store(first, s[0])
        v_store(second, s[1 if NV > 1 else 0])
    else:
        v_hpair(s[0], first, second)


cdef inline Py_ssize_t lanes_left(Py_ssize_t n) noexcept nogil:
    return 0 if n < 0 else (VL if n > VL else n)


cdef inline real shift_of(real maximum) noexcept nogil:
    return maximum if maximum > -INFINITY else 0


cdef inline vec max_vec(const real *x, Py_ssize_t n, vec top) noexcept nogil:
    cdef Py_ssize_t i = 0, j
    cdef vec m[STEP]
    if n >= STEP * VL:
        for j in range(STEP):
            m[j] = top
        while i <= n - STEP * VL:
            for j in range(STEP):
                m[j] = v_max(v_load(x + i + j * VL), m[j])
            i += STEP * VL
        for j in range(STEP):
            top = v_max(m[j], top)
    while i <= n - VL:
        top = v_max(v_load(x + i), top)
        i += VL
    if i < n:
        top = v_max(v_load_n(x + i, n - i, -INFINITY), top)
    return top


cdef inline real block_max(const real *x, Py_ssize_t n) noexcept nogil:
    return v_hmax(max_vec(x, n, v_set1(-INFINITY)))


cdef bint has_nan(const real *x, Py_ssize_t n, Py_ssize_t step) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        if x[i * step] != x[i * step]:
            return True
    return False


cdef inline bint is_tiny(double factor, double scale) noexcept nogil:
    # factor / scale would lose digits as a real, for being subnormal
    return factor != 0 and -TINY_SCALE * scale < factor < TINY_SCALE * scale


cdef inline vec scaled(vec e, vec high, vec low) noexcept nogil:
    return v_fma(e, high, v_mul(e, low))


cdef inline void set_factor(double factor, double rest, vec *high, vec *low) noexcept nogil:
    # (factor + rest) / FACTOR_SCALE, not tiny
    cdef real h, l
    split_real(factor / FACTOR_SCALE, rest / FACTOR_SCALE, &h, &l)
    high[0] = v_set1(h)
    low[0] = v_set1(l)


cdef inline void share_run(const real *e, void *y, Py_ssize_t n, vec high, vec low, const int storage) noexcept nogil:
    # y = e * (high + low)
    cdef Py_ssize_t i = 0
    while i <= n - VL:
        prefetch_write(at(y, i + PREFETCH, storage))
        put(y, i, scaled(v_load(e + i), high, low), storage)
        i += VL
    if i < n:
        put_n(y, i, n - i, scaled(v_load_n(e + i, n - i, 0), high, low), storage)


cdef inline void scale_run(const real *e, void *y, Py_ssize_t n, double factor, double rest,
                           const int storage) noexcept nogil:
    # y = e * (factor + rest) / FACTOR_SCALE
    cdef Py_ssize_t i = 0
    cdef vec h, l, after = v_set1(<real> (1 / FACTOR_SCALE))
    if is_tiny(factor, FACTOR_SCALE):
        # scale down after the product instead
        set_factor(factor * FACTOR_SCALE, rest * FACTOR_SCALE, &h, &l)
        while i <= n - VL:
            put(y, i, v_mul(scaled(v_load(e + i), h, l), after), storage)
            i += VL
        if i < n:
            put_n(y, i, n - i, v_mul(scaled(v_load_n(e + i, n - i, 0), h, l), after), storage)
        return
    set_factor(factor, rest, &h, &l)
    share_run(e, y, n, h, l, storage)


cdef void scale_run_16(const real *e, void *y, Py_ssize_t n, double factor, double rest, int storage) noexcept nogil:
    if storage == F16:
        scale_run(e, y, n, factor, rest, F16)
    else:
        scale_run(e, y, n, factor, rest, BF16)


cdef inline Py_ssize_t unaligned(const real *y) noexcept nogil:
    # elements before the first vector boundary; what is misaligned by part of an element never streams
    return <Py_ssize_t> ((-<uintptr_t> y) % (VL * sizeof(real))) // <Py_ssize_t> sizeof(real)


cdef inline void stream_run(const real *e, real *y, Py_ssize_t n, double factor, double rest) noexcept nogil:
    cdef Py_ssize_t i = unaligned(y)
    cdef vec h, l
    if n < 4 * VL or is_tiny(factor, FACTOR_SCALE):
        scale_run(e, y, n, factor, rest, REAL)
        return
    set_factor(factor, rest, &h, &l)
    v_store_n(y, i, scaled(v_load_n(e, i, 0), h, l))
    while i <= n - VL:
        v_stream(y + i, scaled(v_load(e + i), h, l))
        i += VL
    v_store_n(y + i, n - i, scaled(v_load_n(e + i, n - i, 0), h, l))


cdef inline void gather_sums(vec p, vec d, real *e, vec *total, vec *ties, const bint keep,
                             const bint split) noexcept nogil:
    # split: elements at the maximum are counted in ties and left out of the total, so that the logarithm of a
    # sum close to 1 keeps its digits.
    if keep:
        v_store(e, p)
    if split:
        v_sum_apart(d, p, total, ties)
    else:
        total[0] = v_add(total[0], p)


cdef inline vec over_temperature(vec x, vec m, double t, vec *lost) noexcept nogil:
    # (x - m) / t, and what its roundings lost: the exponential would magnify that by the quotient's size. Beyond
    # EXP_NEAR x - m itself is exact wherever it matters.
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


cdef inline void exp_step(vec x, const shift_t *shift, double t, real *e, vec *total, vec *ties,
                          const bint far, const bint keep, const bint split) noexcept nogil:
    cdef vec d, lost
    if far:
        d = over_temperature(x, shift.maximum, t, &lost)
        gather_sums(v_exp(lost, d, shift[0], EXP_FAR), d, e, total, ties, keep, split)
    else:
        d = v_sub(x, shift.maximum)
        gather_sums(v_exp(x, d, shift[0], EXP_ROW), d, e, total, ties, keep, split)


cdef inline void fold_block(const vec *a, Py_ssize_t n, double *high, double *low) noexcept nogil:
    cdef real lanes[LANES]
    cdef real first, second
    cdef Py_ssize_t j
    if n <= SHORT:
        fold_pair(a, &first, &second)
        join_pair(first, second, high, low)
    else:
        for j in range(NV):
            v_store(lanes + j * VL, a[j])
        fold(lanes, high, low)


cdef inline void end_subblock(vec *total, vec *part) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(NV):
        total[j] = v_add(total[j], part[j])
        part[j] = v_set1(0)


cdef inline void look_ahead(const Ahead *ahead, Py_ssize_t i, vec *top, const int storage) noexcept nogil:
    # STEP vectors from i on
    cdef Py_ssize_t j
    cdef vec x
    for j in range(STEP):
        x = take(ahead.x, i + j * VL, storage)
        if storage != REAL:
            v_store(ahead.kept + i + j * VL, x)
        top[j % NV] = v_max(x, top[j % NV])
        prefetch(at(ahead.x, i + j * VL + PREFETCH, storage))


cdef inline void look_ahead_n(const Ahead *ahead, Py_ssize_t i, Py_ssize_t n, vec *top,
                              const int storage) noexcept nogil:
    # n elements from i on, a vector at most
    cdef vec x = take_n(ahead.x, i, n, -INFINITY, storage)
    if storage != REAL:
        v_store_n(ahead.kept + i, n, x)
    top[0] = v_max(x, top[0])


cdef void end_ahead(const Ahead *ahead, Py_ssize_t i, Py_ssize_t n, vec *top) noexcept nogil:
    if ahead.storage == F16:
        look_ahead_n(ahead, i, n, top, F16)
    elif ahead.storage == BF16:
        look_ahead_n(ahead, i, n, top, BF16)
    else:
        look_ahead_n(ahead, i, n, top, REAL)


cdef inline void load_ahead(const Ahead *ahead, Py_ssize_t i) noexcept nogil:
    # from i on, nothing but their conversion
    if ahead.storage != REAL:
        load_run(ahead.storage, at(ahead.x, i, ahead.storage), 2, ahead.n - i, ahead.kept + i)


cdef inline Logs logs_of(vec high, vec low, double inv_t) noexcept nogil:
    # (x - high) / T - low, from what split_log gives. Above a temperature of 1 the difference is of quarters, which
    # changes none of its digits: the difference itself may overflow where its quotient does not.
    cdef Logs logs
    cdef real pre = <real> (0.25 if inv_t < 1 else 1)
    logs.pre = v_set1(pre)
    logs.high = v_mul(high, v_set1(-pre))
    logs.inv_t = v_set1(<real> inv_t / pre)
    logs.low = v_sub(v_set1(0), low)
    return logs


cdef inline vec log_of(vec x, const Logs *logs) noexcept nogil:
    return v_fma(v_fma(x, logs.pre, logs.high), logs.inv_t, logs.low)


cdef inline vec share(vec a, const Behind *behind, const bint logs) noexcept nogil:
    if logs:
        return log_of(a, &behind.logs)
    return scaled(a, behind.high, behind.low)


cdef inline void write_behind(const Behind *behind, Py_ssize_t i, const bint logs, const int storage) noexcept nogil:
    cdef Py_ssize_t j
    cdef pair a
    for j in range(STEP):
        if not logs:
            put(behind.y, i + j * VL, share(take(behind.x, i + j * VL, REAL), behind, False), storage)
        elif j % 2 == 0:
            a = take_pair(behind.x, i + j * VL, storage)
            a.first = share(a.first, behind, True)
            a.second = share(a.second, behind, True)
            put_pair(behind.y, i + j * VL, a, storage)


cdef inline void write_behind_n(const Behind *behind, Py_ssize_t i, Py_ssize_t n, const bint logs,
                                const int storage) noexcept nogil:
    put_n(behind.y, i, n, share(take_n(behind.x, i, n, 0, storage if logs else REAL), behind, logs), storage)


cdef void end_behind(const Behind *behind, Py_ssize_t i, Py_ssize_t n, bint logs) noexcept nogil:
    if behind.storage == F16:
        if logs:
            write_behind_n(behind, i, n, True, F16)
        else:
            write_behind_n(behind, i, n, False, F16)
    elif behind.storage == BF16:
        if logs:
            write_behind_n(behind, i, n, True, BF16)
        else:
            write_behind_n(behind, i, n, False, BF16)
    elif logs:
        write_behind_n(behind, i, n, True, REAL)
    else:
        write_behind_n(behind, i, n, False, REAL)


cdef inline void exp_stretch(const real *x, real *e, const shift_t *shift, double t, vec *part, vec *ties, vec *top,
                             const Ahead *ahead, const Behind *behind, Py_ssize_t i, const bint far, const bint keep,
                             const bint split, const bint fused, const bint half) noexcept nogil:
    # STEP vectors from i on
    cdef Py_ssize_t j
    if half and ahead.storage == F16:
        look_ahead(ahead, i, top, F16)
    elif half and ahead.storage == BF16:
        look_ahead(ahead, i, top, BF16)
    else:
        look_ahead(ahead, i, top, REAL)
    if keep:
        for j in range(STEP):
            prefetch_write(at(ahead.y, i + j * VL, F16 if half else REAL))
    if fused and half and behind.storage == F16:
        write_behind(behind, i, split, F16)
    elif fused and half and behind.storage == BF16:
        write_behind(behind, i, split, BF16)
    elif fused:
        write_behind(behind, i, split, REAL)
    for j in range(STEP):
        exp_step(v_load(x + i + j * VL), shift, t, e + i + j * VL, &part[j % NV], &ties[j % NV], far, keep, split)


cdef inline void exp_end(const real *x, Py_ssize_t left, real *e, const shift_t *shift, double t, vec *part, vec *ties,
                         vec *top, const Ahead *ahead, const Behind *behind, Py_ssize_t i, const bint far,
                         const bint keep, const bint split, const bint fused, const bint half) noexcept nogil:
    # one vector, or part of one
    if half:
        end_ahead(ahead, i, lanes_left(ahead.n - i), top)
    else:
        look_ahead_n(ahead, i, lanes_left(ahead.n - i), top, REAL)
    if fused and half:
        end_behind(behind, i, left, split)
    elif fused:
        write_behind_n(behind, i, left, split, REAL)
    exp_step(v_load_n(x + i, left, -INFINITY), shift, t, e + i, part, ties, far, keep, split)


cdef inline real exp_block_far(const real *x, Py_ssize_t n, real maximum, double t, real *e, double *stats,
                               const Ahead *ahead, const Behind *behind, const bint far, const bint keep,
                               const bint split, const bint fused, const bint half) noexcept nogil:
    cdef shift_t shift = v_exp_shift_row(shift_of(maximum))
    cdef vec total[NV]
    cdef vec part[NV]
    cdef vec ties[NV]
    cdef vec top[NV]
    cdef Py_ssize_t i = 0, j, together = n if n < ahead.n else ahead.n
    for j in range(NV):
        total[j] = part[j] = ties[j] = v_set1(0)
        top[j] = v_set1(-INFINITY)
    while i <= together - STEP * VL:
        if i % SUBBLOCK == 0:
            end_subblock(total, part)
        exp_stretch(x, e, &shift, t, part, ties, top, ahead, behind, i, far, keep, split, fused, half)
        i += STEP * VL
    while i < n:
        if i % SUBBLOCK == 0:
            end_subblock(total, part)
        for j in range(NV):
            exp_end(x, lanes_left(n - i), e, &shift, t, &part[j], &ties[j], &top[j], ahead, behind, i, far, keep, split,
                    fused, half)
            i += VL
    end_subblock(total, part)
    for j in range(1, NV):
        top[0] = v_max(top[j], top[0])
    if i < ahead.n:
        if half:
            load_ahead(ahead, i)
            top[0] = max_vec(ahead.kept + i, ahead.n - i, top[0])
        else:
            top[0] = max_vec(<const real *> ahead.x + i, ahead.n - i, top[0])
    stats[0] = maximum
    fold_block(total, n, stats + 1, stats + 5)
    stats[2] = 0
    if split:
        stats[2] = v_hadd(fold_add(ties))
        if maximum == INFINITY and has_nan(x, n, 1):
            stats[2] = NAN
    return ahead.maximum if ahead.known else v_hmax(top[0])


cdef inline real exp_block(const real *x, Py_ssize_t n, real maximum, double t, real *e, double *stats,
                           const Ahead *ahead, const Behind *behind, const bint keep, const bint split,
                           const bint fused, const bint half) noexcept nogil:
    # Exponentials of a block against its maximum into e (keep), their sum into stats; returns the maximum of
    # the block ahead; writes (fused) the results of the block behind.
    if t == 1 and v_exp_near(shift_of(maximum)):
        return exp_block_far(x, n, maximum, t, e, stats, ahead, behind, False, keep, split, fused, half)
    return exp_block_far(x, n, maximum, t, e, stats, ahead, behind, True, keep, split, fused, half)


# ---------------------------------------------------------------------------------------- joining blocks
# stats: STATS doubles a block: its maximum, its sum (scaled by EXP_SCALE), its ties, then its factor and what
# the factor's rounding lost, and what the sum's rounding lost.

cdef inline double joint_max(const double *stats, Py_ssize_t blocks) noexcept nogil:
    cdef double top = -INFINITY
    cdef Py_ssize_t b
    for b in range(blocks):
        if stats[STATS * b] > top:
            top = stats[STATS * b]
    return top


cdef inline void block_factors(double *stats, Py_ssize_t blocks, double top, double t) noexcept nogil:
    # stats[3] + stats[4] = exp((m_b - m) / T) * EXP_SCALE_f64
    cdef double q[VL64]
    cdef double lost[VL64]
    cdef double high[VL64]
    cdef double low[VL64]
    cdef double m, exact, error
    cdef v_f64 h, l
    cdef bint is_top
    cdef Py_ssize_t b = 0, j, count
    while b < blocks:
        count = blocks - b if blocks - b < VL64 else VL64
        for j in range(count):
            m = stats[STATS * (b + j)]
            q[j] = exact = m - top
            # what the roundings of m_b - m and of its quotient lost
            error = m - (exact + top) if top >= -m else (m - exact) - top
            if t != 1:
                q[j] = exact / t
                error = (error + fma(-q[j], t, exact)) / t
            lost[j] = error if -1 < error < 1 else 0
        exp_lanes(load_n_f64(q, count, 0), load_n_f64(lost, count, 0), &h, &l)
        store_n_f64(high, count, h)
        store_n_f64(low, count, l)
        for j in range(count):
            is_top = stats[STATS * (b + j)] == top
            stats[STATS * (b + j) + 3] = EXP_SCALE_f64 if is_top else high[j]
            stats[STATS * (b + j) + 4] = 0 if is_top else low[j]
        b += count


cdef inline void join_softmax(double *stats, Py_ssize_t blocks, double t, double coefficient) noexcept nogil:
    # stats[3] + stats[4] becomes the factor that scale_run takes
    cdef double total = 0, rest = 0, sum, high, low, product, error, later = FACTOR_SCALE
    cdef double *s
    cdef Py_ssize_t b
    if -1 < coefficient < 1:
        # scaled up before the quotient might be subnormal, not after
        coefficient *= FACTOR_SCALE
        later = 1
    if blocks == 1:
        two_sum(stats[2] * EXP_SCALE, stats[1], &total, &rest)
        quotient(coefficient, total, rest + stats[5], &high, &low)
        stats[3] = high * later
        stats[4] = low * later
        return
    block_factors(stats, blocks, joint_max(stats, blocks), t)
    for b in range(blocks):
        s = stats + STATS * b
        high = s[3] / EXP_SCALE_f64
        two_sum(s[2] * EXP_SCALE, s[1], &sum, &error)
        product = sum * high
        rest += fma(sum, high, -product) + ((s[5] + error) * high + sum * (s[4] / EXP_SCALE_f64))
        two_sum(total, product, &total, &error)
        rest += error
    quotient(coefficient, total, rest, &high, &low)
    high *= later / EXP_SCALE_f64
    low *= later / EXP_SCALE_f64
    for b in range(blocks):
        s = stats + STATS * b
        product = s[3] * high
        s[4] = fma(s[3], high, -product) + (s[3] * low + s[4] * high)
        s[3] = product


cdef inline void log1p_run(double *u, double *rest, Py_ssize_t n) noexcept nogil:
    # log(1 + u + rest), in as many parts
    cdef Py_ssize_t i = 0, count
    cdef v_f64 high, low
    while i < n:
        count = n - i if n - i < VL64 else VL64
        log1p_lanes(load_n_f64(u + i, count, 0), load_n_f64(rest + i, count, 0), &high, &low)
        store_n_f64(u + i, count, high)
        store_n_f64(rest + i, count, low)
        i += VL64


cdef inline void settle_log(double m, bint nan, double *log_sum, double *log_rest) noexcept nogil:
    # of a row whose maximum is infinite
    if m == -INFINITY:
        log_sum[0] = NAN if nan else -INFINITY
        log_rest[0] = 0
    elif m == INFINITY:
        log_sum[0] = NAN if nan else 0
        log_rest[0] = 0


cdef inline void add_part(double sum, double *total, double *rest) noexcept nogil:
    # Of one more block, or row. What the addition loses is kept: of parts that repeat it would add up, not cancel.
    cdef double lost
    two_sum(total[0], sum, total, &lost)
    rest[0] += lost


cdef inline double whole_sum(double total, double rest) noexcept nogil:
    return total + rest if -INFINITY < rest < INFINITY else total


cdef inline real whole_log(double m, double log_sum, double log_rest) noexcept nogil:
    # m + log_sum + log_rest
    cdef double total = m, rest = log_rest
    if PAIRS:
        add_part(log_sum, &total, &rest)
        return <real> whole_sum(total, rest)
    return <real> (m + log_sum)


cdef inline void sum_above(double ties, double sum, double lost, double *above, double *rest) noexcept nogil:
    # as above_lanes
    cdef double part = 0
    above[0] = ties - 1
    if PAIRS:
        add_part(sum / EXP_SCALE, above, &part)
        rest[0] = part + lost / EXP_SCALE
    else:
        above[0] += sum / EXP_SCALE
        rest[0] = 0


cdef inline void sum_blocks(double *stats, Py_ssize_t blocks, double t, double *top, double *above, double *rest,
                            bint *nan) noexcept nogil:
    # max(x), sum(exp((x - max) / T)) - 1, in two parts, and whether x has a NaN, with stats split into ties and others
    cdef double m = joint_max(stats, blocks), u = 0, lost = 0, high, low, product
    cdef double *s
    cdef bint counted = False
    cdef Py_ssize_t b
    top[0] = m
    if blocks == 1:
        sum_above(stats[2], stats[1], stats[5], above, rest)
        nan[0] = isnan(above[0] if m == -INFINITY else stats[2])
        return
    nan[0] = False
    block_factors(stats, blocks, m, t)
    for b in range(blocks):
        s = stats + STATS * b
        nan[0] = nan[0] or isnan(s[2]) or (s[0] < m and isnan(s[1]))
        sum_above(s[2] if s[0] == m and not counted else s[2] + 1, s[1], s[5], &high, &low)
        counted = counted or s[0] == m
        product = high * (s[3] / EXP_SCALE_f64)
        if PAIRS:
            lost += fma(high, s[3] / EXP_SCALE_f64, -product) + (low * s[3] + high * s[4]) / EXP_SCALE_f64
        add_part(product, &u, &lost)
    above[0] = whole_sum(u, lost)
    nan[0] = nan[0] or (m == -INFINITY and isnan(above[0]))
    rest[0] = lost - (above[0] - u) if PAIRS and above[0] - u == above[0] - u else 0


cdef inline void join_log(double *stats, Py_ssize_t blocks, double t, double *top, double *log_sum,
                          double *log_rest) noexcept nogil:
    # max(x) and log(sum(exp((x - max) / T)))
    cdef bint nan
    sum_blocks(stats, blocks, t, top, log_sum, log_rest, &nan)
    log1p_run(log_sum, log_rest, 1)
    settle_log(top[0], nan, log_sum, log_rest)


cdef inline void split_log(double m, double log_sum, double log_rest, double inv_t, real *high,
                           real *low) noexcept nogil:
    # log p = (x - high) / T - low, without the cancellation of x - logsumexp(x)
    cdef double both
    if not (-INFINITY < m < INFINITY):
        high[0] = NAN
        low[0] = 0
    elif inv_t != 1:
        high[0] = <real> m
        low[0] = <real> log_sum
    else:
        both = m + log_sum
        high[0] = <real> both
        both = high[0]
        both = (m - both) + log_sum if (m if m > 0 else -m) >= log_sum else (log_sum - both) + m
        low[0] = <real> (both + log_rest if PAIRS else both)


cdef inline void log_run(const void *x, void *y, Py_ssize_t n, real high, real low, double inv_t, const bint stream,
                         const int storage) noexcept nogil:
    cdef Logs logs = logs_of(v_set1(high), v_set1(low), inv_t)
    cdef Py_ssize_t i = 0, j
    cdef pair a
    if storage == REAL and stream and n >= 4 * VL:
        i = unaligned(<real *> y)
        put_n(y, 0, i, log_of(take_n(x, 0, i, 0, REAL), &logs), REAL)
        while i <= n - VL:
            v_stream(<real *> y + i, log_of(take(x, i, REAL), &logs))
            i += VL
    while i <= n - 2 * VL:
        for j from 0 <= j < 2 * VL by VL:
            prefetch(at(x, i + j + PREFETCH, storage))
            prefetch_write(at(y, i + j + PREFETCH, storage))
        a = take_pair(x, i, storage)
        a.first = log_of(a.first, &logs)
        a.second = log_of(a.second, &logs)
        put_pair(y, i, a, storage)
        i += 2 * VL
    while i <= n - VL:
        put(y, i, log_of(take(x, i, storage), &logs), storage)
        i += VL
    if i < n:
        put_n(y, i, n - i, log_of(take_n(x, i, n - i, 0, storage), &logs), storage)


cdef void log_run_16(const void *x, void *y, Py_ssize_t n, real high, real low, double inv_t,
                     int storage) noexcept nogil:
    if storage == F16:
        log_run(x, y, n, high, low, inv_t, False, F16)
    else:
        log_run(x, y, n, high, low, inv_t, False, BF16)
