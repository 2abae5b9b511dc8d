# Reductions: what the accumulators of a block gather, and how the numbers of a row's blocks become one.
#
#   add     a vector of exponentials to the block's accumulators              add_exps
#   fold    the block's accumulators to its BlockStats                        fold_block
#   join    the BlockStats of a row's blocks to factors, or to a logarithm    join_softmax, join_log
#   finish  the numbers that results are made from                            set_factor, split_log
#
# A pair of numbers (high, low), (sum, rest) or (total, lost) is one number in twice the precision: the second is the
# compensation term, which the rounding of the first has lost.

cdef enum Gathers:
    # What the accumulators of a block gather. Without its ties, a sum that is close to 1 has a logarithm that keeps its
    # digits.
    SUM                       # the sum of all exponentials
    SUM_AND_TIES              # the sum of those below the maximum, and the number of elements at it


cdef struct BlockStats:
    # The numbers of one block of one row: STATS doubles. After finish those of the first block may be of the row: its
    # maximum, and in place of the sum its logarithm, or what gradient_dot gives.
    double maximum            # of the block's logits
    double sum                # of exponentials, times EXP_SCALE; or a dot product
    double sum_rest           # compensation term of the sum
    # Elements at the maximum, which the sum is without (SUM_AND_TIES), else 0; NaN if the maximum is infinite and some
    # logit is NaN.
    double ties
    # What the block's exponentials are multiplied by, times FACTOR_SCALE; or, of a dot product, what its gradients were
    # multiplied by; and the compensation term.
    double factor
    double factor_rest


cdef struct Accumulators:
    # Sums of a block under way: element i of the block adds to accumulator i % ACCUMULATORS.
    vec total[NV]             # of the subblocks that are done
    vec part[NV]              # of the subblock under way
    vec ties[NV]              # elements at the maximum
    vec top[NV]               # maxima of the next block


# ------------------------------------------------------------------------------------- add, within a block

cdef inline void clear(Accumulators *a) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(NV):
        a.total[j] = a.part[j] = a.ties[j] = v_set1(0)
        a.top[j] = v_set1(-INFINITY)


cdef inline void add_exps(vec e, vec d, vec *total, vec *ties, const int gathers) noexcept nogil:
    # The exponentials e of the differences d from the maximum are added to IN OUT total; or, where d is 0, counted in
    # IN OUT ties (SUM_AND_TIES).
    if gathers == SUM_AND_TIES:
        v_add_or_count(d, e, total, ties)
    else:
        total[0] = v_add(total[0], e)


cdef inline void end_subblock(Accumulators *a) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(NV):
        a.total[j] = v_add(a.total[j], a.part[j])
        a.part[j] = v_set1(0)


# ------------------------------------------------------------------------ fold, the accumulators of a block

cdef inline vec fold_add(const vec *a) noexcept nogil:
    # The sum of IN a[NV], lane by lane, by halving.
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
    # IN a[NV] to the two halves that fold_add and v_hadd add last.
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


cdef inline void fold_block(const vec *a, Py_ssize_t n, double *high, double *low) noexcept nogil:
    # The sum of IN a[NV], the accumulators of n elements, to OUT high + low. That of more than SHORT elements is folded
    # in higher precision.
    cdef real lanes[ACCUMULATORS]
    cdef real first, second
    cdef Py_ssize_t j
    if n <= SHORT:
        fold_pair(a, &first, &second)
        join_pair(first, second, high, low)
    else:
        for j in range(NV):
            v_store(lanes + j * VL, a[j])
        fold(lanes, high, low)


# ------------------------------------------------------------------------------- join, the blocks of a row

cdef inline void add_part(double sum, double *total, double *rest) noexcept nogil:
    # The sum of one more block, or row, is added to IN OUT total, and what the addition rounds off to IN OUT rest: of
    # equal parts these errors would add up, not cancel.
    cdef double lost
    two_sum(total[0], sum, total, &lost)
    rest[0] += lost


cdef inline double whole_sum(double total, double rest) noexcept nogil:
    return total + rest if -INFINITY < rest < INFINITY else total


cdef inline double row_maximum(const BlockStats *stats, Py_ssize_t blocks) noexcept nogil:
    # The largest maximum of IN stats[blocks].
    cdef double top = -INFINITY
    cdef Py_ssize_t b
    for b in range(blocks):
        if stats[b].maximum > top:
            top = stats[b].maximum
    return top


cdef void block_factors(BlockStats *stats, Py_ssize_t blocks, double top, double t) noexcept nogil:
    # In each of IN OUT stats[blocks], factor + factor_rest becomes exp((maximum - top) / t) * EXP_SCALE_f64.
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
            m = stats[b + j].maximum
            q[j] = exact = m - top
            # what the roundings of m - top and of its quotient lost
            error = m - (exact + top) if top >= -m else (m - exact) - top
            if t != 1:
                q[j] = exact / t
                error = (error + fma(-q[j], t, exact)) / t
            lost[j] = error if -1 < error < 1 else 0
        exp_lanes(load_n_f64(q, count, 0), load_n_f64(lost, count, 0), &h, &l)
        store_n_f64(high, count, h)
        store_n_f64(low, count, l)
        for j in range(count):
            is_top = stats[b + j].maximum == top
            stats[b + j].factor = EXP_SCALE_f64 if is_top else high[j]
            stats[b + j].factor_rest = 0 if is_top else low[j]
        b += count


cdef inline void join_factors(BlockStats *stats, Py_ssize_t blocks, double t, double coefficient,
                              double later) noexcept nogil:
    # As join_softmax, of several blocks, from the coefficient times FACTOR_SCALE / later.
    cdef double total = 0, rest = 0, sum, high, low, product, error
    cdef BlockStats *s
    cdef Py_ssize_t b
    block_factors(stats, blocks, row_maximum(stats, blocks), t)
    for b in range(blocks):
        s = stats + b
        high = s.factor / EXP_SCALE_f64
        two_sum(s.ties * EXP_SCALE, s.sum, &sum, &error)
        product = sum * high
        rest += fma(sum, high, -product) + ((s.sum_rest + error) * high + sum * (s.factor_rest / EXP_SCALE_f64))
        two_sum(total, product, &total, &error)
        rest += error
    quotient(coefficient, total, rest, &high, &low)
    high *= later / EXP_SCALE_f64
    low *= later / EXP_SCALE_f64
    for b in range(blocks):
        s = stats + b
        product = s.factor * high
        s.factor_rest = fma(s.factor, high, -product) + (s.factor * low + s.factor_rest * high)
        s.factor = product


cdef inline void join_softmax(BlockStats *stats, Py_ssize_t blocks, double t, double coefficient) noexcept nogil:
    # The factor of each of IN OUT stats[blocks] becomes what makes a block's exponentials the row's softmax times the
    # coefficient.
    cdef double total = 0, rest = 0, high, low, later = FACTOR_SCALE
    if -1 < coefficient < 1:
        # scaled up before the quotient might be subnormal, not after
        coefficient *= FACTOR_SCALE
        later = 1
    if blocks > 1:
        join_factors(stats, blocks, t, coefficient, later)
        return
    two_sum(stats.ties * EXP_SCALE, stats.sum, &total, &rest)
    quotient(coefficient, total, rest + stats.sum_rest, &high, &low)
    stats.factor = high * later
    stats.factor_rest = low * later


cdef inline void log1p_run(double *u, double *rest, Py_ssize_t n) noexcept nogil:
    # IN OUT u[n] + rest[n] becomes log(1 + u + rest).
    cdef Py_ssize_t i = 0, count
    cdef v_f64 high, low
    while i < n:
        count = n - i if n - i < VL64 else VL64
        log1p_lanes(load_n_f64(u + i, count, 0), load_n_f64(rest + i, count, 0), &high, &low)
        store_n_f64(u + i, count, high)
        store_n_f64(rest + i, count, low)
        i += VL64


cdef inline void infinite_log(double m, bint nan, double *log_sum, double *log_rest) noexcept nogil:
    # IN OUT log_sum + log_rest, the logarithm of a row's sum, becomes right where the row's maximum m is infinite. nan:
    # whether the row has a NaN.
    if m == -INFINITY:
        log_sum[0] = NAN if nan else -INFINITY
        log_rest[0] = 0
    elif m == INFINITY:
        log_sum[0] = NAN if nan else 0
        log_rest[0] = 0


cdef inline void sum_above(double ties, double sum, double lost, double *above, double *rest) noexcept nogil:
    # ties + (sum + lost) / EXP_SCALE - 1 to OUT above + rest, as sum_minus_one_lanes.
    cdef double part = 0
    above[0] = ties - 1
    if COMPENSATED:
        add_part(sum / EXP_SCALE, above, &part)
        rest[0] = part + lost / EXP_SCALE
    else:
        above[0] += sum / EXP_SCALE
        rest[0] = 0


cdef inline void sum_blocks(BlockStats *stats, Py_ssize_t blocks, double t, double *top, double *above, double *rest,
                            bint *nan) noexcept nogil:
    # Of the row x with IN stats[blocks], whose factors are overwritten: OUT top is max(x), OUT above + rest is
    # sum(exp((x - top) / t)) - 1, and OUT nan is whether x has a NaN while top is infinite.
    cdef double m = row_maximum(stats, blocks), u = 0, lost = 0, high, low, product
    cdef BlockStats *s
    cdef bint counted = False
    cdef Py_ssize_t b
    top[0] = m
    if blocks == 1:
        sum_above(stats.ties, stats.sum, stats.sum_rest, above, rest)
        nan[0] = isnan(above[0] if m == -INFINITY else stats.ties)
        return
    nan[0] = False
    block_factors(stats, blocks, m, t)
    for b in range(blocks):
        s = stats + b
        nan[0] = nan[0] or isnan(s.ties) or (s.maximum < m and isnan(s.sum))
        sum_above(s.ties if s.maximum == m and not counted else s.ties + 1, s.sum, s.sum_rest, &high, &low)
        counted = counted or s.maximum == m
        product = high * (s.factor / EXP_SCALE_f64)
        if COMPENSATED:
            lost += (fma(high, s.factor / EXP_SCALE_f64, -product)
                     + (low * s.factor + high * s.factor_rest) / EXP_SCALE_f64)
        add_part(product, &u, &lost)
    above[0] = whole_sum(u, lost)
    nan[0] = nan[0] or (m == -INFINITY and isnan(above[0]))
    rest[0] = lost - (above[0] - u) if COMPENSATED and above[0] - u == above[0] - u else 0


cdef inline void join_log(BlockStats *stats, Py_ssize_t blocks, double t, double *top, double *log_sum,
                          double *log_rest) noexcept nogil:
    # Of the row x with IN stats[blocks]: OUT top is max(x), OUT log_sum + log_rest is log(sum(exp((x - top) / t))).
    cdef bint nan
    sum_blocks(stats, blocks, t, top, log_sum, log_rest, &nan)
    log1p_run(log_sum, log_rest, 1)
    infinite_log(top[0], nan, log_sum, log_rest)


# --------------------------------------------------------------------- finish, what results are made from

cdef inline real whole_log(double m, double log_sum, double log_rest) noexcept nogil:
    # m + log_sum + log_rest, rounded once
    cdef double total = m, rest = log_rest
    if COMPENSATED:
        add_part(log_sum, &total, &rest)
        return <real> whole_sum(total, rest)
    return <real> (m + log_sum)


cdef inline void split_log(double m, double log_sum, double log_rest, double inv_t, real *high,
                           real *low) noexcept nogil:
    # OUT high and low, with which log p = (x - high) / T - low, without the cancellation of x - logsumexp(x).
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
        low[0] = <real> (both + log_rest if COMPENSATED else both)


cdef inline bint is_tiny(double factor, double scale) noexcept nogil:
    # whether factor / scale would lose digits as a real, for being subnormal
    return factor != 0 and -TINY_SCALE * scale < factor < TINY_SCALE * scale


cdef inline void set_factor(double factor, double rest, vec *high, vec *low) noexcept nogil:
    # OUT high + low, in each lane: (factor + rest) / FACTOR_SCALE, which is not tiny.
    cdef real h, l
    split_real(factor / FACTOR_SCALE, rest / FACTOR_SCALE, &h, &l)
    high[0] = v_set1(h)
    low[0] = v_set1(l)
