# Rows of a derivative whose dot product is beyond the largest number, although their results need not be. They are
# seldom met, and worked on element by element, by the same few functions wherever they lie: the dot product of
# gradients that are a power of two smaller, in twice the precision, and each result from its own gradient and
# probability alone.

cdef enum:
    # Gradients are divided by this power of two: room for n terms, each of them up to EXP_SCALE times a gradient.
    LESS = 100


cdef struct BigDot:
    # A dot product of gradients that are 2^LESS smaller: high + low.
    double high
    double low


cdef struct Line:
    # A row of n elements of one storage, at strides in bytes.
    int storage
    const char *g             # IN the incoming gradient
    const char *p             # IN the forward's output
    char *y                   # OUT results; may be g or p
    Py_ssize_t g_stride
    Py_ssize_t p_stride
    Py_ssize_t y_stride
    Py_ssize_t n


cdef inline bint is_looked_at(Py_ssize_t n, const int operation) noexcept nogil:
    # Whether dot products of rows of n are compared with largest_dot at all. In short rows of softmax that would cost a
    # tenth of their time, for gradients that are all within rounding of the largest number.
    return operation != SOFTMAX_GRAD or n > SHORT


cdef inline double largest_dot(const int operation) noexcept nogil:
    # From here on the difference of a gradient and a dot product may overflow before it is divided by the temperature.
    # Softmax halves both; else a dot product of less than a quarter ulp of the largest number adds nothing to that.
    if operation == SOFTMAX_GRAD:
        return INFINITY
    return ldexp(1, 969) if sizeof(real) == sizeof(double) else ldexp(1, 102)


cdef inline bint is_beyond(real dot, Py_ssize_t n, const int operation) noexcept nogil:
    # Whether a dot product of a row of n, as gradient_dot gives it, is too large for gradient(). NaN is.
    return is_looked_at(n, operation) and not fabs(dot) < largest_dot(operation)


cdef void add_terms(BigDot *dot, const real *g, const real *p, Py_ssize_t n, int operation) noexcept nogil:
    # The terms of IN g[n] and p[n], up to VL of them, are added to IN OUT dot.
    cdef real e[VL]
    cdef double a, b, product, lost
    cdef Py_ssize_t i
    if operation == LOG_SOFTMAX_JVP:
        v_store(e, exp_of(v_load_n(p, n, 0)))
    for i in range(n):
        a = g[i] * ldexp(1, -LESS)
        b = p[i] if operation == SOFTMAX_GRAD else (e[i] if operation == LOG_SOFTMAX_JVP else 1)
        product = a * b
        dot.low += fma(a, b, -product)
        two_sum(dot.high, product, &dot.high, &lost)
        dot.low += lost


cdef bint finish_dot(BigDot *dot, int operation) noexcept nogil:
    # IN OUT dot, the sum of all terms, becomes what results are made with. False if it is infinite or NaN, as some
    # input then is.
    cdef double unit = 1 if operation == SOFTMAX_GRAD else 1 / EXP_SCALE
    if not fabs(dot.high) < INFINITY:
        return False
    two_sum(dot.high, dot.low, &dot.high, &dot.low)
    dot.high *= unit
    dot.low *= unit
    return True


cdef double big_result(double g, double e, double times, const BigDot *dot, double inv_t) noexcept nogil:
    # (g - e dot) times inv_t, whose factors may lie anywhere in the range.
    cdef double product = dot.high * e
    cdef int64_t exponent = 0
    if fabs(product) < ldexp(1, -LESS):
        # g as it is, so that a small one keeps its digits
        g = (g - ldexp(product, LESS)) - ldexp(dot.low * e, LESS)
    else:
        g = fma(-dot.high, e, fma(-dot.low, e, g * ldexp(1, -LESS)))
        exponent = LESS
    g = significand(g, &exponent) * significand(times, &exponent) * significand(inv_t, &exponent)
    return power_times(g, exponent)


cdef void big_results(const BigDot *dot, const real *g, const real *p, real *y, Py_ssize_t n, double inv_t,
                      int operation) noexcept nogil:
    # The results of IN g[n] and p[n], up to VL of them, to OUT y[n], which may be either.
    cdef real e[VL]
    cdef double times
    cdef Py_ssize_t i
    v_store(e, exp_of(v_load_n(p, n, 0)) if operation == LOG_SOFTMAX_VJP else v_set1(1))
    for i in range(n):
        times = p[i] if operation == SOFTMAX_GRAD else 1
        y[i] = <real> big_result(g[i], e[i], times, dot, inv_t)


cdef inline Line line_of(const void *g, const void *p, void *y, Py_ssize_t n, int storage) noexcept nogil:
    # A row of n elements next to each other.
    cdef Line line
    line.storage = storage
    line.g = <const char *> g
    line.p = <const char *> p
    line.y = <char *> y
    line.g_stride = line.p_stride = line.y_stride = <Py_ssize_t> sizeof(real) if storage == REAL else 2
    line.n = n
    return line


cdef inline Py_ssize_t load_line(const Line *line, Py_ssize_t i, real *g, real *p) noexcept nogil:
    # Up to VL elements from i on, as reals, to OUT g[VL] and p[VL]; returns how many.
    cdef Py_ssize_t n = lanes_left(line.n - i)
    load_run(line.storage, line.g + i * line.g_stride, line.g_stride, n, g)
    load_run(line.storage, line.p + i * line.p_stride, line.p_stride, n, p)
    return n


cdef void write_line(const Line *line, const BigDot *dot, double inv_t, int operation) noexcept nogil:
    # The results of a row, from its dot product.
    cdef real g[VL]
    cdef real p[VL]
    cdef Py_ssize_t i, n
    for i from 0 <= i < line.n by VL:
        n = load_line(line, i, g, p)
        big_results(dot, g, p, g, n, inv_t, operation)
        store_run(line.storage, line.y + i * line.y_stride, line.y_stride, n, g)


cdef bint finish_line(Line line, double inv_t, int operation) noexcept nogil:
    # The results of a row whose dot product is_beyond. False if something in it is infinite or NaN: then nothing is
    # written, and the results are those of gradient().
    cdef BigDot dot
    cdef real g[VL]
    cdef real p[VL]
    cdef Py_ssize_t i, n
    dot.high = dot.low = 0
    for i from 0 <= i < line.n by VL:
        n = load_line(&line, i, g, p)
        add_terms(&dot, g, p, n, operation)
        if not fabs(dot.high) < INFINITY:
            return False
    if not finish_dot(&dot, operation):
        return False
    write_line(&line, &dot, inv_t, operation)
    return True
