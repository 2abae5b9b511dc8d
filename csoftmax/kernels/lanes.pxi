# Rows of one block, one a lane: what join_softmax, join_log and split_log (reduce.pxi) do for one row, for VL64
# rows at once.

cdef inline bint shift_lanes(const real *maxima, Py_ssize_t count, double t, real *origin, real *away, real *magic,
                             real *center) noexcept nogil:
    # How the exponentials of each row are reduced, from IN maxima[count]: OUT origin, away, magic and center, as many.
    # "away" is the maximum of a row whose range reduction is direct, else 0. True if there are such rows. Whole vectors
    # are read and written.
    cdef vec m, a, b, zero = v_set1(0)
    cdef Py_ssize_t c, j
    cdef bint some = False, direct
    for c from 0 <= c < count by VL:
        m = v_load(maxima + c)
        m = v_select_lt(v_set1(-INFINITY), m, m, zero)
        v_store(origin + c, m)
        if t == 1 and v_exp_near(v_hmax(v_max(m, v_sub(zero, m)))):
            v_exp_shift_lanes(m, &a, &b)
            v_store(away + c, zero)
            v_store(magic + c, a)
            v_store(center + c, b)
            continue
        for j in range(c, c + VL):
            direct = t != 1 or not v_exp_near(origin[j])
            some = some or direct
            away[j] = origin[j] if direct else 0
            v_exp_shift(INFINITY if direct else origin[j], magic + j, center + j)
    return some


cdef inline bint factor_lanes(v_f64 sum, v_f64 rest, const double *coefficient, real *high, real *low,
                              real *after) noexcept nogil:
    # OUT high[VL64] + low[VL64], which multiply exponentials whose sum is sum + rest, from IN coefficient[VL64] (NULL:
    # 1). True if a factor would be subnormal: then the products are to be multiplied by OUT after[VL64], which is
    # written only where there are coefficients.
    cdef v_f64 h, l, zero = set1_f64(0)
    cdef double factor[VL64]
    cdef double sums[VL64]
    cdef double rests[VL64]
    cdef double exact, lost
    cdef bint tiny = False
    cdef Py_ssize_t j
    quotient_lanes(set1_f64(1) if coefficient == NULL else load_f64(coefficient), sum, rest, &h, &l)
    split_lanes(h, l, high, low)
    if coefficient == NULL:
        return False
    v_narrow(after, set1_f64(1))
    l = max_f64(h, sub_f64(zero, h))
    if hmax_f64(select_lt_f64(l, set1_f64(TINY_SCALE), set1_f64(1), zero)) == 0:
        return False
    store_f64(factor, h)
    store_f64(sums, sum)
    store_f64(rests, rest)
    for j in range(VL64):
        if is_tiny(factor[j], 1) or (factor[j] == 0 and coefficient[j] != 0):
            tiny = True
            quotient(coefficient[j] * FACTOR_SCALE, sums[j], rests[j], &exact, &lost)
            split_real(exact, lost, high + j, low + j)
            after[j] = <real> (1 / FACTOR_SCALE)
    return tiny


cdef inline void log_lanes(v_f64 sum, v_f64 rest, v_f64 ties, double *log_sum, double *log_rest) noexcept nogil:
    # log(ties + (sum + rest) / EXP_SCALE), for finite maxima, to OUT log_sum[VL64] + log_rest[VL64].
    sum_minus_one_lanes(ties, sum, rest, &sum, &rest)
    log1p_lanes(sum, rest, &sum, &rest)
    store_f64(log_sum, sum)
    store_f64(log_rest, rest)


cdef inline bint all_finite(const real *maxima, Py_ssize_t count) noexcept nogil:
    # Whether IN maxima[count] are. Whole vectors are read.
    cdef vec m, zero = v_set1(0), top = v_set1(0)
    cdef Py_ssize_t c
    for c from 0 <= c < count by VL:
        m = v_load(maxima + c)
        top = v_max(v_max(m, v_sub(zero, m)), top)
    return v_hmax(top) < INFINITY


cdef inline bint all_below(const real *a, Py_ssize_t count, double limit) noexcept nogil:
    # Whether the magnitudes of IN a[count] are below the limit; NaN is not. Whole vectors are read.
    cdef Py_ssize_t c
    cdef bint all = True
    for c from 0 <= c < count by VL:
        all &= v_all_below(v_load(a + c), <real> limit)
    return all


cdef inline void split_log_lanes(const double *maxima, const double *log_sum, const double *log_rest, double inv_t,
                                 real *high, real *low) noexcept nogil:
    # As split_log, for finite maxima: IN maxima, log_sum, log_rest, OUT high, low, VL64 of each.
    cdef v_f64 m = load_f64(maxima), l = load_f64(log_sum), both
    if inv_t == 1:
        both = add_f64(m, l)
        v_narrow(high, both)
        both = v_widen(high)
        l = select_lt_f64(max_f64(m, sub_f64(set1_f64(0), m)), l, add_f64(sub_f64(l, both), m),
                          add_f64(sub_f64(m, both), l))
        if COMPENSATED:
            l = add_f64(l, load_f64(log_rest))
    else:
        v_narrow(high, m)
    v_narrow(low, l)
