# The prologue: a block of logits as native reals, with its maximum, from whatever holds them. Reals next to each other
# are read where they lie; everything else fills a block in scratch, which stays in the first-level cache.

cdef inline char *at(const void *base, Py_ssize_t i, int storage) noexcept nogil:
    # the address of element i
    return <char *> base + i * (<Py_ssize_t> sizeof(real) if storage == REAL else 2)


cdef inline Py_ssize_t lanes_left(Py_ssize_t n) noexcept nogil:
    # how many of the n elements that are left the next vector has
    return 0 if n < 0 else (VL if n > VL else n)


cdef inline vec max_vec(const real *x, Py_ssize_t n, vec top) noexcept nogil:
    # The maxima of "top" and IN x[n], lane by lane; a NaN in x is passed over.
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
    # The maximum of IN x[n].
    return v_hmax(max_vec(x, n, v_set1(-INFINITY)))


cdef inline real shift_of(real maximum) noexcept nogil:
    # What is subtracted before the exponential: 0 in place of -inf.
    return maximum if maximum > -INFINITY else 0


cdef bint has_nan(const real *x, Py_ssize_t n, Py_ssize_t step) noexcept nogil:
    # Whether some of n elements is NaN; IN x, an element every "step".
    cdef Py_ssize_t i
    for i in range(n):
        if x[i * step] != x[i * step]:
            return True
    return False


cdef inline real load_halves(const void *x, Py_ssize_t n, real *block, const int storage) noexcept nogil:
    # IN x[n] of 16-bit floats to OUT block[n] of reals; returns their maximum. The lines that the next block is loaded
    # from are fetched.
    cdef Py_ssize_t i = 0
    cdef vec a, top = v_set1(-INFINITY)
    while i <= n - VL:
        prefetch(at(x, i + PREFETCH, storage))
        a = take(x, i, storage)
        v_store(block + i, a)
        top = v_max(a, top)
        i += VL
    if i < n:
        a = take_n(x, i, n - i, -INFINITY, storage)
        v_store_n(block + i, n - i, a)
        top = v_max(a, top)
    return v_hmax(top)


cdef real load_block(const void *x, Py_ssize_t n, real *block, int storage) noexcept nogil:
    # As load_halves, of either of them.
    if storage == F16:
        return load_halves(x, n, block, F16)
    return load_halves(x, n, block, BF16)


# ----------------------------------------------------------------------------------------------- masks

cdef void load_where(const real *x, const char *mask, Py_ssize_t n, real *block, real value) noexcept nogil:
    # IN x[n] to OUT block[n], which may be x, but "value" where a byte of IN mask[n] is 0.
    cdef Py_ssize_t i = 0
    cdef vec excluded = v_set1(value)
    while i <= n - VL:
        v_store(block + i, v_select_bytes(mask + i, v_load(x + i), excluded))
        i += VL
    while i < n:
        block[i] = x[i] if mask[i] else value
        i += 1


cdef void exclude_run(const char *mask, Py_ssize_t stride, Py_ssize_t n, real *block, real value) noexcept nogil:
    # INOUT block[n] becomes "value" where a byte of the mask is 0; the mask has a byte every "stride" bytes.
    cdef Py_ssize_t i
    if stride == 1:
        load_where(block, mask, n, block, value)
    elif stride == 0:
        for i in range(0 if mask[0] else n):
            block[i] = value
    else:
        for i in range(n):
            block[i] = block[i] if mask[i * stride] else value
