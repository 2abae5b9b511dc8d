# The epilogue: exponentials are normalised, or logits made log-probabilities, and stored as the result has them.

cdef struct Logs:
    # The numbers that log-probabilities are made with, in each lane: (x pre + high) inv_t + low.
    vec pre
    vec high
    vec inv_t
    vec low


cdef inline vec normalised(vec e, vec high, vec low) noexcept nogil:
    # e (high + low), rounded twice at most
    return v_fma(e, high, v_mul(e, low))


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


cdef inline Py_ssize_t unaligned(const real *y) noexcept nogil:
    # elements before the first vector boundary; what is misaligned by part of an element never streams
    return <Py_ssize_t> ((-<uintptr_t> y) % (VL * sizeof(real))) // <Py_ssize_t> sizeof(real)


# -------------------------------------------------------------------------------------------- normalise

cdef inline void normalise(const real *e, void *y, Py_ssize_t n, vec high, vec low, const int storage) noexcept nogil:
    # IN e[n], times high + low, to OUT y[n]; y may be e.
    cdef Py_ssize_t i = 0
    while i <= n - VL:
        prefetch_write(at(y, i + PREFETCH, storage))
        store_at(y, i, normalised(v_load(e + i), high, low), storage)
        i += VL
    if i < n:
        store_n_at(y, i, n - i, normalised(v_load_n(e + i, n - i, 0), high, low), storage)


cdef inline void normalise_block(const real *e, void *y, Py_ssize_t n, double factor, double rest,
                                 const int storage) noexcept nogil:
    # IN e[n], times (factor + rest) / FACTOR_SCALE, to OUT y[n]; y may be e. A factor that would be subnormal stays
    # scaled up until after the product.
    cdef Py_ssize_t i = 0
    cdef vec h, l, after = v_set1(<real> (1 / FACTOR_SCALE))
    if is_tiny(factor, FACTOR_SCALE):
        set_factor(factor * FACTOR_SCALE, rest * FACTOR_SCALE, &h, &l)
        while i <= n - VL:
            store_at(y, i, v_mul(normalised(v_load(e + i), h, l), after), storage)
            i += VL
        if i < n:
            store_n_at(y, i, n - i, v_mul(normalised(v_load_n(e + i, n - i, 0), h, l), after), storage)
        return
    set_factor(factor, rest, &h, &l)
    normalise(e, y, n, h, l, storage)


cdef void normalise_halves(const real *e, void *y, Py_ssize_t n, double factor, double rest,
                           int storage) noexcept nogil:
    # As normalise_block, to OUT y[n] of 16-bit floats.
    if storage == F16:
        normalise_block(e, y, n, factor, rest, F16)
    else:
        normalise_block(e, y, n, factor, rest, BF16)


cdef inline void normalise_streaming(const real *e, real *y, Py_ssize_t n, double factor, double rest) noexcept nogil:
    # As normalise_block, to OUT y[n] past the caches, where the factor is not tiny and n is 4 VL at least.
    cdef Py_ssize_t i = unaligned(y)
    cdef vec h, l
    set_factor(factor, rest, &h, &l)
    v_store_n(y, i, normalised(v_load_n(e, i, 0), h, l))
    while i <= n - VL:
        v_stream(y + i, normalised(v_load(e + i), h, l))
        i += VL
    v_store_n(y + i, n - i, normalised(v_load_n(e + i, n - i, 0), h, l))


cdef void normalise_reals(const real *e, real *y, Py_ssize_t n, double factor, double rest, bint stream) noexcept nogil:
    # As normalise_block, to OUT y[n] of reals, past the caches if so told.
    if stream and n >= 4 * VL and not is_tiny(factor, FACTOR_SCALE):
        normalise_streaming(e, y, n, factor, rest)
    else:
        normalise_block(e, y, n, factor, rest, REAL)


# ------------------------------------------------------------------------------------- log-probabilities

cdef inline void log_block(const void *x, void *y, Py_ssize_t n, const Logs *logs, const bint stream,
                           const int storage) noexcept nogil:
    # Log-probabilities of IN x[n] to OUT y[n], both of "storage"; y may be x.
    cdef Py_ssize_t i = 0, j
    cdef pair a
    if storage == REAL and stream and n >= 4 * VL:
        i = unaligned(<real *> y)
        store_n_at(y, 0, i, log_of(load_n_at(x, 0, i, 0, REAL), logs), REAL)
        while i <= n - VL:
            v_stream(<real *> y + i, log_of(load_at(x, i, REAL), logs))
            i += VL
    while i <= n - 2 * VL:
        for j from 0 <= j < 2 * VL by VL:
            prefetch(at(x, i + j + PREFETCH, storage))
            prefetch_write(at(y, i + j + PREFETCH, storage))
        a = load_pair_at(x, i, storage)
        a.first = log_of(a.first, logs)
        a.second = log_of(a.second, logs)
        store_pair_at(y, i, a, storage)
        i += 2 * VL
    while i <= n - VL:
        store_at(y, i, log_of(load_at(x, i, storage), logs), storage)
        i += VL
    if i < n:
        store_n_at(y, i, n - i, log_of(load_n_at(x, i, n - i, 0, storage), logs), storage)


cdef void log_halves(const void *x, void *y, Py_ssize_t n, const Logs *logs, int storage) noexcept nogil:
    # As log_block, of 16-bit floats.
    if storage == F16:
        log_block(x, y, n, logs, False, F16)
    else:
        log_block(x, y, n, logs, False, BF16)


cdef void log_reals(const real *x, real *y, Py_ssize_t n, const Logs *logs, bint stream) noexcept nogil:
    # As log_block, of reals.
    log_block(x, y, n, logs, stream, REAL)


# --------------------------------------------------------------------------------------------- as they are

cdef inline void store_halves(const real *block, void *y, Py_ssize_t n, const int storage) noexcept nogil:
    # IN block[n] to OUT y[n] of 16-bit floats.
    cdef Py_ssize_t i = 0
    while i <= n - VL:
        prefetch_write(at(y, i + PREFETCH, storage))
        store_at(y, i, v_load(block + i), storage)
        i += VL
    if i < n:
        store_n_at(y, i, n - i, v_load_n(block + i, n - i, 0), storage)


cdef void store_block(const real *block, void *y, Py_ssize_t n, int storage) noexcept nogil:
    # As store_halves, to either of them.
    if storage == F16:
        store_halves(block, y, n, F16)
    else:
        store_halves(block, y, n, BF16)
