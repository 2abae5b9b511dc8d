# The prologue: a block of logits as native reals, with its maximum, from whatever holds them. Reals next to each other
# are read where they lie; everything else fills a block in scratch, which stays in the first-level cache.

cdef inline Py_ssize_t element_size(int storage) noexcept nogil:
    # bytes of a native real or a 16-bit float
    return <Py_ssize_t> sizeof(real) if storage == REAL else 2


cdef inline char *at(const void *base, Py_ssize_t i, int storage) noexcept nogil:
    # the address of element i
    return <char *> base + i * element_size(storage)


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
    # IN x[n] of 16-bit floats to OUT block[n] of reals; returns their maximum.
    cdef Py_ssize_t i = 0, count
    cdef vec a, b, top = v_set1(-INFINITY)
    while i <= n - 2 * VL:
        a = load_at(x, i, storage)
        b = load_at(x, i + VL, storage)
        v_store(block + i, a)
        v_store(block + i + VL, b)
        top = v_max(a, v_max(b, top))
        i += 2 * VL
    while i < n:
        count = lanes_left(n - i)
        a = load_n_at(x, i, count, -INFINITY, storage)
        v_store_n(block + i, count, a)
        top = v_max(a, top)
        i += VL
    return v_hmax(top)


cdef inline real fill_block(Py_ssize_t n, real *block, real value) noexcept nogil:
    # OUT block[n]: the value throughout; returns it.
    cdef Py_ssize_t i
    for i in range(n):
        block[i] = value
    return value


cdef real copy_block(const real *x, Py_ssize_t n, real *block) noexcept nogil:
    # IN x[n] to OUT block[n]; returns their maximum.
    cdef Py_ssize_t i = 0
    cdef vec a, top = v_set1(-INFINITY)
    while i < n:
        a = v_load_n(x + i, lanes_left(n - i), -INFINITY)
        v_store_n(block + i, lanes_left(n - i), a)
        top = v_max(a, top)
        i += VL
    return v_hmax(top)


cdef real select_block(const real *x, const char *mask, Py_ssize_t n, real *block, real value) noexcept nogil:
    # IN x[n] to OUT block[n], which may be x, but "value" where a byte of IN mask[n] is 0; returns the maximum. The
    # last vector overlaps the one before it.
    cdef Py_ssize_t i = 0
    cdef vec a, top = v_set1(-INFINITY), excluded = v_set1(value)
    cdef real last, x_i
    while i < n and n >= VL:
        i = i if i <= n - VL else n - VL
        a = v_select_bytes(mask + i, v_load(x + i), excluded)
        v_store(block + i, a)
        top = v_max(a, top)
        i += VL
    last = v_hmax(top)
    while i < n:
        x_i = x[i]
        block[i] = x_i if mask[i] else value
        last = block[i] if block[i] > last else last
        i += 1
    return last


cdef inline real load_where(const real *x, const char *mask, Py_ssize_t step, Py_ssize_t n, real *block,
                            real value) noexcept nogil:
    # As select_block, of a mask that has a byte for each element (step 1), or one for all (0).
    if step:
        return select_block(x, mask, n, block, value)
    return copy_block(x, n, block) if mask[0] else fill_block(n, block, value)


cdef void expand_mask(const char *mask, Py_ssize_t pitch, Py_ssize_t step, Py_ssize_t rows, Py_ssize_t n,
                      char *bytes) noexcept nogil:
    # The mask of rows of n to OUT bytes[rows * n], and up to 7 bytes more. IN mask: the bytes of one row, for all of
    # them (pitch 0), or one byte a row, every "pitch" bytes (step 0).
    cdef uint64_t word
    cdef Py_ssize_t i, r = 1, count
    if step:
        memcpy(bytes, mask, n)
        while r < rows:
            count = r if r < rows - r else rows - r
            memcpy(bytes + r * n, bytes, count * n)
            r += count
        return
    for r in range(rows):
        word = 0
        word -= mask[r * pitch] != 0
        for i from 0 <= i < n by 8:
            memcpy(bytes + r * n + i, &word, 8)


cdef real load_block(const void *x, Py_ssize_t n, real *block, int storage) noexcept nogil:
    # As load_halves, of either of them.
    if storage == F16:
        return load_halves(x, n, block, F16)
    return load_halves(x, n, block, BF16)


cdef void exclude_run(const char *mask, Py_ssize_t stride, Py_ssize_t n, real *block, real value) noexcept nogil:
    # IN OUT block[n] becomes "value" where a byte of the mask is 0; the mask has a byte every "stride" bytes.
    cdef Py_ssize_t i
    cdef real b
    if stride == 1:
        select_block(block, mask, n, block, value)
    elif stride == 0:
        if not mask[0]:
            fill_block(n, block, value)
    else:
        for i in range(n):
            b = block[i]
            block[i] = b if mask[i * stride] else value
