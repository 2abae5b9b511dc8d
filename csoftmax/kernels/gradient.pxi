# Derivatives of one block of one row: dot products, and the pass that writes results. g is the incoming gradient (or
# tangent), p the forward's output.

cdef inline vec exp_of(vec log_p) noexcept nogil:
    return v_exp(v_set1(0), log_p, v_exp_shift_row(0), EXP_DIRECT)


cdef inline bint is_plain(Py_ssize_t n, const int operation) noexcept nogil:
    # Whether a row of n is so short that its dot product is taken in its own precision.
    return operation == SOFTMAX_GRAD and n <= PLAIN


cdef inline dot_t dot_of(dot_t sum, vec g, vec p, const int operation) noexcept nogil:
    # The terms of a vector, g p, g or g exp(p) * EXP_SCALE, are added to the sum.
    if operation == SOFTMAX_GRAD:
        return dot_mul(sum, g, p)
    if operation == LOG_SOFTMAX_VJP:
        return dot_plus(sum, g)
    return dot_mul(sum, g, exp_of(p))


cdef inline dot_t dot_term(dot_t sum, const real *g, const real *p, const int operation) noexcept nogil:
    # The terms of IN g[VL] and p[VL] more.
    if operation == SOFTMAX_GRAD:
        return dot_mul_at(sum, g, p)
    return dot_of(sum, v_load(g), v_load(p), operation)


cdef inline dot_t dot_term_n(dot_t sum, const real *g, const real *p, Py_ssize_t n, const int operation) noexcept nogil:
    # The terms of IN g[n] and p[n] more, a vector at most.
    return dot_of(sum, v_load_n(g, n, 0), v_load_n(p, n, 0), operation)


cdef inline dot_t first_term(const real *g, const real *p, Py_ssize_t n, const int operation) noexcept nogil:
    # The terms of IN g[n] and p[n], a vector at most, which are the first of their accumulators.
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


cdef inline void block_dot(const real *g, const real *p, const void *y, Py_ssize_t n, double *high, double *low,
                           const int operation) noexcept nogil:
    # sum(g p), sum(g) or sum(g exp(p)) * EXP_SCALE of IN g[n] and p[n] to OUT high + low; y is where the results will
    # be stored, so that its lines are fetched.
    cdef dot_t sum[NV]
    cdef Py_ssize_t i = 0, j
    for j in range(NV):
        sum[j] = dot_zero()
    while i <= n - ACCUMULATORS:
        prefetch(g + i + PREFETCH)
        prefetch(p + i + PREFETCH)
        prefetch_write(<const real *> y + i)
        for j in range(NV):
            sum[j] = dot_term(sum[j], g + i + j * VL, p + i + j * VL, operation)
        i += ACCUMULATORS
    if i < n:
        for j in range(NV):
            sum[j] = dot_term_n(sum[j], g + i + j * VL, p + i + j * VL, lanes_left(n - i - j * VL), operation)
    dot_row(fold_dot(sum), high, low)


cdef struct Slope:
    # The numbers that a row's derivative is made with, in each lane.
    vec dot
    vec rest                  # its compensation term, if has_rest
    vec lift                  # for softmax: twice the part of 1 / T above 1, taken in before p could lose digits as a
    vec factor                # subnormal number; and the part below 1


cdef inline Slope slope_of(double inv_t, const int operation) noexcept nogil:
    # All of a slope but its dot product.
    cdef Slope slope
    cdef double above = inv_t if inv_t > 1 and operation == SOFTMAX_GRAD else 1
    slope.dot = slope.rest = v_set1(0)
    slope.lift = v_set1(<real> (2 * above))
    slope.factor = v_set1(<real> (1 if above > 1 else inv_t))
    return slope


cdef inline vec gradient(vec g, vec p, const Slope *slope, const int operation) noexcept nogil:
    # Results, from gradients and the forward's output: one rounding of the difference and one of each product.
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
    # Whether the compensation term of the dot product counts: the sum of all gradients may be larger than any.
    return operation == LOG_SOFTMAX_VJP


cdef inline double dot_scale(const int operation) noexcept nogil:
    return -0.5 if operation == SOFTMAX_GRAD else (-1 / EXP_SCALE if operation == LOG_SOFTMAX_JVP else -1)


cdef inline void gradient_dot(double total, double lost, const int operation, real *dot, real *rest) noexcept nogil:
    # OUT dot and rest, which a slope is made with, from the dot product total + lost.
    cdef double scale = dot_scale(operation), high = whole_sum(total, lost), low = (total - high) + lost
    dot[0] = <real> (high * scale)
    low = (high * scale - dot[0]) + low * scale
    rest[0] = <real> low if -INFINITY < low < INFINITY else 0


cdef struct Factors:
    # What the results of a row are made with: what gradient_dot gives, and the reciprocal of the temperature.
    real dot
    real rest
    double inv_t


cdef inline void write_gradient(const real *g, const real *p, real *y, Py_ssize_t n, const Factors *factors,
                                bint stream, const int operation) noexcept nogil:
    # Results, from IN g[n] and p[n], to OUT y[n], which may be either of them, or past the caches.
    cdef Slope slope = slope_of(factors.inv_t, operation)
    cdef Py_ssize_t i = 0, j
    cdef vec first, second
    slope.dot = v_set1(factors.dot)
    slope.rest = v_set1(factors.rest)
    if stream and n >= 4 * VL:
        i = unaligned(y)
        v_store_n(y, i, gradient(v_load_n(g, i, 0), v_load_n(p, i, 0), &slope, operation))
        while i <= n - VL:
            v_stream(y + i, gradient(v_load(g + i), v_load(p + i), &slope, operation))
            i += VL
    while i <= n - 2 * VL:
        for j from 0 <= j < 2 * VL by VL:
            prefetch(g + i + j + PREFETCH)
            prefetch(p + i + j + PREFETCH)
            prefetch_write(y + i + j + PREFETCH)
        # Both are read before either is written: a load waits for a store just before it that seems to overlap with it.
        first = gradient(v_load(g + i), v_load(p + i), &slope, operation)
        second = gradient(v_load(g + i + VL), v_load(p + i + VL), &slope, operation)
        v_store(y + i, first)
        v_store(y + i + VL, second)
        i += 2 * VL
    while i <= n - VL:
        v_store(y + i, gradient(v_load(g + i), v_load(p + i), &slope, operation))
        i += VL
    if i < n:
        v_store_n(y + i, n - i, gradient(v_load_n(g + i, n - i, 0), v_load_n(p + i, n - i, 0), &slope, operation))


# ------------------------------------------------------------------------------------- once an operation

ctypedef void (*DotFn)(const real *g, const real *p, const void *y, Py_ssize_t n, double *high,
                       double *low) noexcept nogil
ctypedef void (*GradientFn)(const real *g, const real *p, real *y, Py_ssize_t n, const Factors *factors,
                            bint stream) noexcept nogil

cdef DotFn block_dots[OPERATIONS]             # block_dot, of each derivative
cdef GradientFn block_gradients[OPERATIONS]   # write_gradient


cdef void softmax_dot(const real *g, const real *p, const void *y, Py_ssize_t n, double *high,
                      double *low) noexcept nogil:
    block_dot(g, p, y, n, high, low, SOFTMAX_GRAD)


cdef void log_softmax_vjp_dot(const real *g, const real *p, const void *y, Py_ssize_t n, double *high,
                              double *low) noexcept nogil:
    block_dot(g, p, y, n, high, low, LOG_SOFTMAX_VJP)


cdef void log_softmax_jvp_dot(const real *g, const real *p, const void *y, Py_ssize_t n, double *high,
                              double *low) noexcept nogil:
    block_dot(g, p, y, n, high, low, LOG_SOFTMAX_JVP)


cdef void softmax_gradient(const real *g, const real *p, real *y, Py_ssize_t n, const Factors *factors,
                           bint stream) noexcept nogil:
    write_gradient(g, p, y, n, factors, stream, SOFTMAX_GRAD)


cdef void log_softmax_vjp_gradient(const real *g, const real *p, real *y, Py_ssize_t n, const Factors *factors,
                                   bint stream) noexcept nogil:
    write_gradient(g, p, y, n, factors, stream, LOG_SOFTMAX_VJP)


cdef void log_softmax_jvp_gradient(const real *g, const real *p, real *y, Py_ssize_t n, const Factors *factors,
                                   bint stream) noexcept nogil:
    write_gradient(g, p, y, n, factors, stream, LOG_SOFTMAX_JVP)


cdef void set_derivative(int operation, DotFn dot, GradientFn gradient) noexcept:
    block_dots[operation] = dot
    block_gradients[operation] = gradient


set_derivative(SOFTMAX_GRAD, softmax_dot, softmax_gradient)
set_derivative(LOG_SOFTMAX_VJP, log_softmax_vjp_dot, log_softmax_vjp_gradient)
set_derivative(LOG_SOFTMAX_JVP, log_softmax_jvp_dot, log_softmax_jvp_gradient)
