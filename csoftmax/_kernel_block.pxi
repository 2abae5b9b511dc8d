# One block of one row: maximum, exponentials with their sum, dot products, and the passes that write results.
# Lengths are in elements; "e" is scratch whose rows are padded to whole LANES.

cdef struct Pass:
    # What a sweep over a block does besides its own exponentials, so that memory works while the units do:
    const real *ahead         # the block that comes next: its maximum is taken (and its lines fetched)
    Py_ssize_t ahead_n
    const real *behind        # exponentials that are done: scaled into y
    real *y
    Py_ssize_t behind_n
    real scale


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


cdef inline void scale_run(const real *e, real *y, Py_ssize_t n, double factor) noexcept nogil:
    # y = e * factor / FACTOR_SCALE
    cdef Py_ssize_t i = 0
    cdef real after = 1
    cdef real scale = <real> (factor / FACTOR_SCALE)
    if 0 < factor < TINY_SCALE * FACTOR_SCALE:
        # the factor itself would be subnormal: scale down after the product instead
        scale = <real> factor
        after = <real> (1 / FACTOR_SCALE)
        while i <= n - VL:
            v_store(y + i, v_mul(v_mul(v_load(e + i), v_set1(scale)), v_set1(after)))
            i += VL
        if i < n:
            v_store_n(y + i, n - i, v_mul(v_mul(v_load_n(e + i, n - i, 0), v_set1(scale)), v_set1(after)))
        return
    while i <= n - VL:
        v_store(y + i, v_mul(v_load(e + i), v_set1(scale)))
        i += VL
    if i < n:
        v_store_n(y + i, n - i, v_mul(v_load_n(e + i, n - i, 0), v_set1(scale)))


cdef inline Py_ssize_t unaligned(const real *y) noexcept nogil:
    # elements before the first vector boundary; what is misaligned by part of an element never streams
    return <Py_ssize_t> ((-<uintptr_t> y) % (VL * sizeof(real))) // <Py_ssize_t> sizeof(real)


cdef inline void stream_run(const real *e, real *y, Py_ssize_t n, double factor) noexcept nogil:
    cdef Py_ssize_t i = unaligned(y)
    cdef vec scale = v_set1(<real> (factor / FACTOR_SCALE))
    if n < 4 * VL or 0 < factor < TINY_SCALE * FACTOR_SCALE:
        scale_run(e, y, n, factor)
        return
    v_store_n(y, i, v_mul(v_load_n(e, i, 0), scale))
    while i <= n - VL:
        v_stream(y + i, v_mul(v_load(e + i), scale))
        i += VL
    v_store_n(y + i, n - i, v_mul(v_load_n(e + i, n - i, 0), scale))


cdef inline vec exp_step(vec d, vec inv_t, real *e, vec *total, vec *ties,
                         const bint scaled, const bint keep, const bint split) noexcept nogil:
    # d = x - maximum. split: elements at the maximum are counted in ties and left out of the total, so that
    # the logarithm of a sum close to 1 keeps its digits.
    cdef vec p
    cdef vec zero = v_set1(0)
    if scaled:
        p = v_exp(v_mul(d, inv_t))
    else:
        p = v_exp(d)
    if keep:
        v_store(e, p)
    if split:
        total[0] = v_add(total[0], v_and_ne(d, zero, p))
        ties[0] = v_add(ties[0], v_and_eq(d, zero, v_set1(1)))
    else:
        total[0] = v_add(total[0], p)
    return p


cdef inline real exp_block(const real *x, Py_ssize_t n, real maximum, real inv_t, real *e, double *stats,
                           const Pass *aside, const bint scaled, const bint keep, const bint split,
                           const bint behind, const bint stream) noexcept nogil:
    # Exponentials of a block against its maximum into e (keep), their sum into stats; returns the maximum of
    # the block ahead.
    cdef vec shift = v_set1(shift_of(maximum)), t = v_set1(inv_t), r = v_set1(aside.scale)
    cdef vec total[NV]
    cdef vec ties[NV]
    cdef vec top[NV]
    cdef vec d[STEP]
    cdef Py_ssize_t i = 0, j, left, together = n if n < aside.ahead_n else aside.ahead_n
    cdef const real *ahead = aside.ahead
    cdef const real *done = aside.behind
    cdef real *y = aside.y
    for j in range(NV):
        total[j] = ties[j] = v_set1(0)
        top[j] = v_set1(-INFINITY)
    if behind and aside.behind_n < together:
        together = aside.behind_n
    while i <= together - STEP * VL:
        for j in range(STEP):
            d[j] = v_sub(v_load(x + i + j * VL), shift)
        for j in range(STEP):
            top[j % NV] = v_max(v_load(ahead + i + j * VL), top[j % NV])
        for j in range(STEP):
            exp_step(d[j], t, e + i + j * VL, &total[j % NV], &ties[j % NV], scaled, keep, split)
        if behind:
            for j in range(STEP):
                if stream:
                    v_stream(y + i + j * VL, v_mul(v_load(done + i + j * VL), r))
                else:
                    v_store(y + i + j * VL, v_mul(v_load(done + i + j * VL), r))
        i += STEP * VL
    for j in range(1, NV):
        top[0] = v_max(top[j], top[0])
    top[0] = max_vec(ahead + i, aside.ahead_n - i, top[0])
    if behind:
        left = i
        while left <= aside.behind_n - VL:
            if stream:
                v_stream(y + left, v_mul(v_load(done + left), r))
            else:
                v_store(y + left, v_mul(v_load(done + left), r))
            left += VL
        if left < aside.behind_n:
            v_store_n(y + left, aside.behind_n - left, v_mul(v_load_n(done + left, aside.behind_n - left, 0), r))
    while i <= n - LANES:
        for j in range(NV):
            exp_step(v_sub(v_load(x + i + j * VL), shift), t, e + i + j * VL, &total[j], &ties[j],
                     scaled, keep, split)
        i += LANES
    if i < n:
        for j in range(NV):
            left = lanes_left(n - i - j * VL)
            exp_step(v_sub(v_load_n(x + i + j * VL, left, -INFINITY), shift), t, e + i + j * VL,
                     &total[j], &ties[j], scaled, keep, split)
    stats[0] = maximum
    stats[1] = v_hadd(fold_add(total))
    if split:
        stats[2] = v_hadd(fold_add(ties))
        if maximum == INFINITY and has_nan(x, n, 1):
            stats[2] = NAN
    return v_hmax(top[0])


# ---------------------------------------------------------------------------------------- joining blocks
# stats: STATS doubles a block: its maximum, its sum (scaled by EXP_SCALE), its ties, and then its factor.

cdef inline double joint_max(const double *stats, Py_ssize_t blocks) noexcept nogil:
    cdef double top = -INFINITY
    cdef Py_ssize_t b
    for b in range(blocks):
        if stats[STATS * b] > top:
            top = stats[STATS * b]
    return top


cdef inline void block_factors(double *stats, Py_ssize_t blocks, double top, double inv_t) noexcept nogil:
    # stats[3] = exp(m_b - m) * EXP_SCALE_f64
    cdef double d[VL64]
    cdef Py_ssize_t b = 0, j, count
    while b < blocks:
        count = blocks - b if blocks - b < VL64 else VL64
        for j in range(count):
            d[j] = (stats[STATS * (b + j)] - top) * inv_t
        store_n_f64(d, count, exp_f64(load_n_f64(d, count, 0)))
        for j in range(count):
            stats[STATS * (b + j) + 3] = d[j]
        b += count


cdef inline void join_softmax(double *stats, Py_ssize_t blocks, double inv_t, double coefficient) noexcept nogil:
    # stats[3] becomes the factor that scale_run takes
    cdef double total = 0
    cdef Py_ssize_t b
    if blocks == 1:
        stats[3] = coefficient / (stats[1] + (stats[2] * EXP_SCALE)) * FACTOR_SCALE
        return
    block_factors(stats, blocks, joint_max(stats, blocks), inv_t)
    for b in range(blocks):
        total += (stats[STATS * b + 1] + stats[STATS * b + 2] * EXP_SCALE) * (stats[STATS * b + 3] / EXP_SCALE_f64)
    for b in range(blocks):
        stats[STATS * b + 3] *= coefficient / total * (FACTOR_SCALE / EXP_SCALE_f64)


cdef inline void log1p_run(double *u, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i = 0, count
    while i < n:
        count = n - i if n - i < VL64 else VL64
        store_n_f64(u + i, count, log1p_f64(load_n_f64(u + i, count, 0)))
        i += VL64


cdef inline double settle_log(double m, double u, double log_sum, bint nan) noexcept nogil:
    # log_sum = log1p(u), but for rows whose maximum is infinite
    if m == -INFINITY:
        return NAN if isnan(u) else -INFINITY
    if m == INFINITY:
        return NAN if nan else 0
    return log_sum


cdef inline void join_log(double *stats, Py_ssize_t blocks, double inv_t, double *top, double *log_sum) noexcept nogil:
    # max(x) and log(sum(exp((x - max) / T))), with stats split into ties and the rest
    cdef double m = joint_max(stats, blocks), u = 0, part
    cdef bint counted = False, nan = False
    cdef Py_ssize_t b
    if blocks == 1:
        u = (stats[2] - 1) + stats[1] / EXP_SCALE
        nan = isnan(stats[2])
    else:
        block_factors(stats, blocks, m, inv_t)
        for b in range(blocks):
            part = stats[STATS * b + 2]
            nan = nan or isnan(part) or (stats[STATS * b] < m and isnan(stats[STATS * b + 1]))
            if not counted and stats[STATS * b] == m:
                counted = True
                part -= 1
            u += (part + stats[STATS * b + 1] / EXP_SCALE) * (stats[STATS * b + 3] / EXP_SCALE_f64)
    top[0] = m
    log_sum[0] = u
    log1p_run(log_sum, 1)
    log_sum[0] = settle_log(m, u, log_sum[0], nan)


cdef inline void split_log(double m, double log_sum, double inv_t, real *high, real *low) noexcept nogil:
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
        low[0] = <real> ((m - both) + log_sum if (m if m > 0 else -m) >= log_sum else (log_sum - both) + m)


cdef inline void log_run(const real *x, real *y, Py_ssize_t n, real high, real low, real inv_t,
                         const bint stream) noexcept nogil:
    cdef vec h = v_set1(high), l = v_set1(-low), t = v_set1(inv_t)
    cdef Py_ssize_t i = 0
    if stream and n >= 4 * VL:
        i = unaligned(y)
        v_store_n(y, i, v_fma(v_sub(v_load_n(x, i, 0), h), t, l))
        while i <= n - VL:
            v_stream(y + i, v_fma(v_sub(v_load(x + i), h), t, l))
            i += VL
    while i <= n - VL:
        v_store(y + i, v_fma(v_sub(v_load(x + i), h), t, l))
        i += VL
    if i < n:
        v_store_n(y + i, n - i, v_fma(v_sub(v_load_n(x + i, n - i, 0), h), t, l))


# ------------------------------------------------------------------------------------------- derivatives

cdef inline vec dot_term(vec g, vec p, vec sum, const int operation) noexcept nogil:
    if operation == SOFTMAX_GRAD:
        return v_fma(g, p, sum)
    if operation == LOG_SOFTMAX_VJP:
        return v_add(g, sum)
    return v_fma(g, v_exp(p), sum)


cdef inline double block_dot(const real *g, const real *p, Py_ssize_t n, const int operation) noexcept nogil:
    # sum(g p), sum(g) or sum(g exp(p))
    cdef vec sum[NV]
    cdef Py_ssize_t i = 0, j, left
    cdef double dot
    for j in range(NV):
        sum[j] = v_set1(0)
    while i <= n - LANES:
        for j in range(NV):
            sum[j] = dot_term(v_load(g + i + j * VL), v_load(p + i + j * VL), sum[j], operation)
        i += LANES
    if i < n:
        for j in range(NV):
            left = lanes_left(n - i - j * VL)
            sum[j] = dot_term(v_load_n(g + i + j * VL, left, 0), v_load_n(p + i + j * VL, left, 0), sum[j],
                              operation)
    dot = v_hadd(fold_add(sum))
    return dot / EXP_SCALE if operation == LOG_SOFTMAX_JVP else dot


cdef inline vec gradient(vec g, vec p, vec dot, vec factor, const int operation) noexcept nogil:
    if operation == SOFTMAX_GRAD:
        # halves, so that g - dot cannot overflow; the factor carries the 2
        return v_mul(v_fma(g, v_set1(<real> 0.5), dot), v_mul(p, factor))
    if operation == LOG_SOFTMAX_VJP:
        return v_mul(v_fma(v_exp(p), dot, g), factor)
    return v_mul(v_add(g, dot), factor)


cdef inline real gradient_dot(double dot, const int operation) noexcept nogil:
    if operation == SOFTMAX_GRAD:
        return <real> (-0.5 * dot)
    if operation == LOG_SOFTMAX_VJP:
        return <real> (-dot / EXP_SCALE)
    return <real> -dot


cdef inline real gradient_factor(double inv_t, const int operation) noexcept nogil:
    return <real> (2 * inv_t if operation == SOFTMAX_GRAD else inv_t)


cdef inline void gradient_run(const real *g, const real *p, real *y, Py_ssize_t n, double dot, double inv_t,
                              const int operation, const bint stream) noexcept nogil:
    cdef vec d = v_set1(gradient_dot(dot, operation)), f = v_set1(gradient_factor(inv_t, operation))
    cdef Py_ssize_t i = 0
    if stream and n >= 4 * VL:
        i = unaligned(y)
        v_store_n(y, i, gradient(v_load_n(g, i, 0), v_load_n(p, i, 0), d, f, operation))
        while i <= n - VL:
            v_stream(y + i, gradient(v_load(g + i), v_load(p + i), d, f, operation))
            i += VL
    while i <= n - VL:
        v_store(y + i, gradient(v_load(g + i), v_load(p + i), d, f, operation))
        i += VL
    if i < n:
        v_store_n(y + i, n - i, gradient(v_load_n(g + i, n - i, 0), v_load_n(p + i, n - i, 0), d, f, operation))
