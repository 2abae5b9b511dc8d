# Derivatives of one block of one row: dot products, and the pass that writes results. g is the incoming gradient (or
# tangent), p the forward's output.

cdef inline vec exp_of(vec log_p) noexcept nogil:
    return v_exp(v_set1(0), log_p, v_exp_shift_row(0), EXP_FAR)


cdef inline bint is_plain(Py_ssize_t n, const int operation) noexcept nogil:
    # the dot product of so few terms is taken in their own precision
    return operation == SOFTMAX_GRAD and n <= PLAIN


cdef inline dot_t dot_of(dot_t sum, vec g, vec p, const int operation) noexcept nogil:
    # g p, g or g exp(p) * EXP_SCALE more
    if operation == SOFTMAX_GRAD:
        return dot_mul(sum, g, p)
    if operation == LOG_SOFTMAX_VJP:
        return dot_plus(sum, g)
    return dot_mul(sum, g, exp_of(p))


cdef inline dot_t dot_term(dot_t sum, const void *g, const void *p, Py_ssize_t i, const int operation,
                           const int storage) noexcept nogil:
    # of the vectors at element i
    if operation == SOFTMAX_GRAD and storage == REAL:
        return dot_mul_at(sum, <const real *> g + i, <const real *> p + i)
    return dot_of(sum, take(g, i, storage), take(p, i, storage), operation)


cdef inline dot_t dot_term_n(dot_t sum, const void *g, const void *p, Py_ssize_t i, Py_ssize_t n, const int operation,
                             const int storage) noexcept nogil:
    return dot_of(sum, take_n(g, i, n, 0, storage), take_n(p, i, n, 0, storage), operation)


cdef inline dot_t first_term(const real *g, const real *p, Py_ssize_t n, const int operation) noexcept nogil:
    # of n elements, a vector at most
    cdef vec a = v_load_n(g, n, 0), b = v_load_n(p, n, 0)
    return dot_first(a, b) if operation == SOFTMAX_GRAD else dot_of(dot_zero(), a, b, operation)


cdef inline dot_t fold_dot(const dot_t *a) noexcept nogil:
    cdef dot_t s[NV]
    cdef Py_ssize_t j, half = NV // 2
    for j in range(NV):
        s[j] = a[j]
    while half > 0:
        for j in range(half):
            s[j] = dot_join(s[j], s[j + half])
        half //= 2
    return s[0]


cdef inline void block_dot(const void *g, const void *p, const void *y, Py_ssize_t n, double *high, double *low,
                           const int operation, const int storage) noexcept nogil:
    # sum(g p), sum(g) or sum(g exp(p)) * EXP_SCALE, = high + low; y is where the results will go
    cdef dot_t sum[NV]
    cdef Py_ssize_t i = 0, j
    for j in range(NV):
        sum[j] = dot_zero()
    while i <= n - LANES:
        prefetch(at(g, i + PREFETCH, storage))
        prefetch(at(p, i + PREFETCH, storage))
        prefetch_write(at(y, i, storage))
        for j in range(NV):
            sum[j] = dot_term(sum[j], g, p, i + j * VL, operation, storage)
        i += LANES
    if i < n:
        for j in range(NV):
            sum[j] = dot_term_n(sum[j], g, p, i + j * VL, lanes_left(n - i - j * VL), operation, storage)
    dot_row(fold_dot(sum), high, low)


cdef struct Slope:
    # what a row's derivative is made with
    vec dot
    vec rest                  # what its rounding lost, if has_rest
    vec lift                  # for softmax: twice the part of 1 / T above 1, taken in before p could lose digits as a
    vec factor                # subnormal number; and the part below 1


cdef inline Slope slope_of(double inv_t, const int operation) noexcept nogil:
    # but for its dot
    cdef Slope slope
    cdef double above = inv_t if inv_t > 1 and operation == SOFTMAX_GRAD else 1
    slope.dot = slope.rest = v_set1(0)
    slope.lift = v_set1(<real> (2 * above))
    slope.factor = v_set1(<real> (1 if above > 1 else inv_t))
    return slope


cdef inline vec gradient(vec g, vec p, const Slope *slope, const int operation) noexcept nogil:
    cdef vec e
    if operation == SOFTMAX_GRAD:
        # halves, so that g - dot cannot overflow; "lift" carries the 2
        return v_mul(v_mul(v_fma(g, v_set1(<real> 0.5), slope.dot), v_mul(p, slope.lift)), slope.factor)
    if operation == LOG_SOFTMAX_VJP:
        e = v_mul(exp_of(p), v_set1(<real> (1 / EXP_SCALE)))
        g = v_fma(e, slope.dot, v_fma(e, slope.rest, g))
    else:
        g = v_add(g, slope.dot)
    return v_mul(g, slope.factor)


cdef inline bint has_rest(const int operation) noexcept nogil:
    # the rounding of the sum of all gradients, which may be larger than any, counts too
    return operation == LOG_SOFTMAX_VJP


cdef inline double dot_scale(const int operation) noexcept nogil:
    return -0.5 if operation == SOFTMAX_GRAD else (-1 / EXP_SCALE if operation == LOG_SOFTMAX_JVP else -1)


cdef inline void gradient_dot(double total, double lost, const int operation, real *dot, real *rest) noexcept nogil:
    # what a slope is made with, from a dot product
    cdef double scale = dot_scale(operation), high = whole_sum(total, lost), low = (total - high) + lost
    dot[0] = <real> (high * scale)
    low = (high * scale - dot[0]) + low * scale
    rest[0] = <real> low if -INFINITY < low < INFINITY else 0


cdef inline void gradient_run(const void *g, const void *p, void *y, Py_ssize_t n, real dot, real rest,
                              double inv_t, const int operation, const bint stream, const int storage) noexcept nogil:
    # results, from what gradient_dot gives
    cdef Slope slope = slope_of(inv_t, operation)
    cdef Py_ssize_t i = 0, j
    cdef pair a, b
    slope.dot = v_set1(dot)
    slope.rest = v_set1(rest)
    if storage == REAL and stream and n >= 4 * VL:
        i = unaligned(<real *> y)
        put_n(y, 0, i, gradient(take_n(g, 0, i, 0, REAL), take_n(p, 0, i, 0, REAL), &slope, operation), REAL)
        while i <= n - VL:
            v_stream(<real *> y + i, gradient(take(g, i, REAL), take(p, i, REAL), &slope, operation))
            i += VL
    while i <= n - 2 * VL:
        for j from 0 <= j < 2 * VL by VL:
            prefetch(at(g, i + j + PREFETCH, storage))
            prefetch(at(p, i + j + PREFETCH, storage))
            prefetch_write(at(y, i + j + PREFETCH, storage))
        a = take_pair(g, i, storage)
        b = take_pair(p, i, storage)
        a.first = gradient(a.first, b.first, &slope, operation)
        a.second = gradient(a.second, b.second, &slope, operation)
        put_pair(y, i, a, storage)
        i += 2 * VL
    while i <= n - VL:
        put(y, i, gradient(take(g, i, storage), take(p, i, storage), &slope, operation), storage)
        i += VL
    if i < n:
        put_n(y, i, n - i,
              gradient(take_n(g, i, n - i, 0, storage), take_n(p, i, n - i, 0, storage), &slope, operation), storage)
