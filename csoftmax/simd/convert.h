/* Elements between an array's memory and the kernels' reals, for every storage type: native reals, other precisions,
 * 16-bit floats, integers, booleans, foreign byte order, any stride. Memory needs no alignment.
 *
 * A level that has instructions for 16-bit floats says CSM_HAS_16 and defines, for h = f16 and bf16,
 *
 *   v_16                                    VL_f32 16-bit floats
 *   load_16(p), store_16(p, a)              all of them
 *   load_n_16(p, k), store_n_16(p, k, a)    the first k, 0 <= k <= VL_f32; zeros elsewhere; no byte beyond is touched
 *   widen_h(a)                              v_16 to v_f32
 *   narrow_h(a)                             v_f32 to v_16, rounded once, to nearest even; NaNs stay NaNs
 *   narrow_own_bf16(a)                      the same where each NaN is one that widen_bf16 has made, or the CPU's own
 *   load_pair_bf16(p, even, odd)            2 VL_f32 bfloat16 at p (IN): those with even index and those with odd
 *   store_pair_bf16(p, even, odd)           writes them to p (OUT), rounded as by narrow_own_bf16
 */
#ifndef CSOFTMAX_CONVERT_H
#define CSOFTMAX_CONVERT_H

#include "real.h"
#include "storage.h"

#if CSM_BITS == 32
#define CSM_STORED_REAL CSM_F32
#else
#define CSM_STORED_REAL CSM_F64
#endif

/* bytes of an element, by storage type */
static const unsigned char csm_storage_size[] = {2, 2, 4, 8, 1, 1, 1, 2, 2, 4, 4, 8, 8};

/* ------------------------------------------------------------------------- single 16-bit floats, exactly */
CSM_INLINE float csm_from_bf16(uint16_t h) { return csm_float_of((uint32_t)h << 16); }

CSM_INLINE uint16_t csm_to_bf16(float x) {
    const uint32_t u = csm_bits_of(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((u >> 16) | 0x0040u);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

CSM_INLINE float csm_from_f16(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16, rest = h & 0x7fffu;
    if (rest >= 0x7c00u) {
        const uint32_t quiet = rest > 0x7c00u ? 0x400000u : 0u;
        return csm_float_of(sign | 0x7f800000u | ((rest & 0x3ffu) << 13) | quiet);
    }
    if (rest >= 0x0400u) return csm_float_of(sign | ((rest << 13) + 0x38000000u));
    /* subnormal: rest * 2^-24, exact */
    return csm_float_of(sign | csm_bits_of((float)rest * 0x1p-24f));
}

CSM_INLINE uint16_t csm_to_f16(float x) {
    const uint32_t u = csm_bits_of(x), sign = (u >> 16) & 0x8000u, rest = u & 0x7fffffffu;
    if (rest > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | ((rest >> 13) & 0x3ffu));
    if (rest >= 0x47800000u) return (uint16_t)(sign | 0x7c00u);
    /* below 2^-14: adding 0.5 leaves the value, rounded to a multiple of 2^-24, in the low bits */
    if (rest < 0x38800000u) return (uint16_t)(sign | (csm_bits_of(csm_float_of(rest) + 0.5f) - 0x3f000000u));
    return (uint16_t)(sign | ((rest - 0x38000000u + 0x0fffu + ((rest >> 13) & 1u)) >> 13));
}

/* --------------------------------------------------------------------------------------- vectors of reals
 * Element i of an array p of a storage type, and those after it, as a vector, and back. "storage" is a constant: native
 * reals or, where CSM_HALVES, 16-bit floats too. The _n_ variants move the first n elements, 0 <= n <= VL; the other
 * lanes become "fill". */
#if CSM_BITS == 32 && defined(CSM_HAS_16)
enum { CSM_HALVES = 1 };
#define narrow_own_f16 narrow_f16
#define CSM_BY_STORAGE(half, real)                                                                           \
    if (storage == CSM_F16) half(f16) else if (storage == CSM_BF16) half(bf16) else real
#else
enum { CSM_HALVES = 0 };
#define CSM_BY_STORAGE(half, real) real
#endif

CSM_INLINE csm_vec csm_load_at(const void *p, ptrdiff_t i, const int storage) {
#define CSM_LOAD_HALVES(h) return widen_##h(load_16((const uint16_t *)p + i));
    (void)storage;
    CSM_BY_STORAGE(CSM_LOAD_HALVES, return v_load((const csm_real *)p + i);)
}

CSM_INLINE void csm_store_at(void *p, ptrdiff_t i, csm_vec a, const int storage) {
#define CSM_STORE_HALVES(h) store_16((uint16_t *)p + i, narrow_own_##h(a));
    (void)storage;
    CSM_BY_STORAGE(CSM_STORE_HALVES, v_store((csm_real *)p + i, a);)
}

CSM_INLINE csm_vec csm_load_n_at(const void *p, ptrdiff_t i, ptrdiff_t n, csm_real fill, const int storage) {
    csm_real lanes[VL];
#define CSM_LOAD_N_HALVES(h) v_store(lanes, widen_##h(load_n_16((const uint16_t *)p + i, n)));
    (void)storage;
    (void)lanes;
    CSM_BY_STORAGE(CSM_LOAD_N_HALVES, return v_load_n((const csm_real *)p + i, n, fill);)
    return v_load_n(lanes, n, fill);
}

CSM_INLINE void csm_store_n_at(void *p, ptrdiff_t i, ptrdiff_t n, csm_vec a, const int storage) {
#define CSM_STORE_N_HALVES(h) store_n_16((uint16_t *)p + i, n, narrow_own_##h(a));
    (void)storage;
    CSM_BY_STORAGE(CSM_STORE_N_HALVES, v_store_n((csm_real *)p + i, n, a);)
}

/* 2 VL elements as two vectors, in an order that storing them undoes: for what does not depend on the order. */
typedef struct {
    csm_vec first, second;
} csm_pair;

CSM_INLINE csm_pair csm_load_pair_at(const void *p, ptrdiff_t i, const int storage) {
    csm_pair a;
#if CSM_BITS == 32 && defined(CSM_HAS_16)
    if (storage == CSM_BF16) {
        load_pair_bf16((const uint16_t *)p + i, &a.first, &a.second);
        return a;
    }
#endif
    a.first = csm_load_at(p, i, storage);
    a.second = csm_load_at(p, i + VL, storage);
    return a;
}

CSM_INLINE void csm_store_pair_at(void *p, ptrdiff_t i, csm_pair a, const int storage) {
#if CSM_BITS == 32 && defined(CSM_HAS_16)
    if (storage == CSM_BF16) {
        store_pair_bf16((uint16_t *)p + i, a.first, a.second);
        return;
    }
#endif
    csm_store_at(p, i, a.first, storage);
    csm_store_at(p, i + VL, a.second, storage);
}

/* ---------------------------------------------------------------- contiguous runs of 16-bit floats, any n */
#if CSM_BITS == 32
#if defined(CSM_HAS_16)
#define CSM_VECTORS(code) code
#else
#define CSM_VECTORS(code)
#endif
#define CSM_HALF(name)                                                                                       \
    static void csm_load_run_##name(const char *p, ptrdiff_t n, float *dst) {                                \
        ptrdiff_t i = 0;                                                                                     \
        CSM_VECTORS(for (; i + VL <= n; i += VL)                                                             \
                        store_f32(dst + i, widen_##name(load_16((const uint16_t *)p + i)));)         \
        for (; i < n; i++) {                                                                                 \
            uint16_t h;                                                                                      \
            memcpy(&h, p + 2 * i, sizeof h);                                                                 \
            dst[i] = csm_from_##name(h);                                                                     \
        }                                                                                                    \
    }                                                                                                        \
    static void csm_store_run_##name(char *p, ptrdiff_t n, const float *src) {                               \
        ptrdiff_t i = 0;                                                                                     \
        CSM_VECTORS(for (; i + VL <= n; i += VL)                                                             \
                        store_16((uint16_t *)p + i, narrow_##name(load_f32(src + i)));)              \
        for (; i < n; i++) {                                                                                 \
            const uint16_t h = csm_to_##name(src[i]);                                                        \
            memcpy(p + 2 * i, &h, sizeof h);                                                                 \
        }                                                                                                    \
    }
CSM_HALF(f16)
CSM_HALF(bf16)
#endif

/* -------------------------------------------------------------------------------------------- strided runs
 * Reads the n elements at p (IN), p + stride, ..., stride in bytes, into the reals at dst (OUT, n of them). */
CSM_OUTLINE static void csm_load_run(int storage, const char *p, ptrdiff_t stride, ptrdiff_t n, csm_real *dst) {
    const int swapped = storage & CSM_SWAPPED, kind = storage & ~CSM_SWAPPED;
    const int dense = !swapped && stride == csm_storage_size[kind];
    if (dense && kind == CSM_STORED_REAL) {
        memcpy(dst, p, (size_t)n * sizeof *dst);
        return;
    }
#define CSM_LOAD(T, expression)                                                                              \
    if (dense) {                                                                                             \
        for (ptrdiff_t i = 0; i < n; i++) {                                                                  \
            T v;                                                                                             \
            memcpy(&v, p + i * (ptrdiff_t)sizeof v, sizeof v);                                               \
            dst[i] = (csm_real)(expression);                                                                 \
        }                                                                                                    \
    } else {                                                                                                 \
        for (ptrdiff_t i = 0; i < n; i++, p += stride) {                                                     \
            T v;                                                                                             \
            csm_fetch(&v, p, sizeof v, swapped);                                                             \
            dst[i] = (csm_real)(expression);                                                                 \
        }                                                                                                    \
    }                                                                                                        \
    break
    switch (kind) {
    case CSM_F16:
#if CSM_BITS == 32
        if (dense) {
            csm_load_run_f16(p, n, dst);
            break;
        }
#endif
        CSM_LOAD(uint16_t, csm_from_f16(v));
    case CSM_BF16:
#if CSM_BITS == 32
        if (dense) {
            csm_load_run_bf16(p, n, dst);
            break;
        }
#endif
        CSM_LOAD(uint16_t, csm_from_bf16(v));
    case CSM_F32: CSM_LOAD(float, v);
    case CSM_F64: CSM_LOAD(double, v);
    case CSM_B1: CSM_LOAD(uint8_t, v != 0);
    case CSM_I8: CSM_LOAD(int8_t, v);
    case CSM_U8: CSM_LOAD(uint8_t, v);
    case CSM_I16: CSM_LOAD(int16_t, v);
    case CSM_U16: CSM_LOAD(uint16_t, v);
    case CSM_I32: CSM_LOAD(int32_t, v);
    case CSM_U32: CSM_LOAD(uint32_t, v);
    case CSM_I64: CSM_LOAD(int64_t, v);
    case CSM_U64: CSM_LOAD(uint64_t, v);
    default: break;
    }
#undef CSM_LOAD
}

/* A double cut to a float, whose last bit is set if that lost anything: rounding it to a 16-bit float rounds once. */
CSM_INLINE float csm_sticky(double x) {
    float f = (float)x;
    if ((double)f != x && x == x && !isinf(f)) {
        uint32_t u = csm_bits_of(f);
        if (fabs((double)f) > fabs(x)) u -= 1;
        f = csm_float_of(u | 1u);
    }
    return f;
}

/* Writes the n reals at src (IN) to the elements at p (OUT), p + stride, ..., stride in bytes, rounded once. These are
 * floats of some storage type. */
CSM_OUTLINE static void csm_store_run(int storage, char *p, ptrdiff_t stride, ptrdiff_t n, const csm_real *src) {
    const int swapped = storage & CSM_SWAPPED, kind = storage & ~CSM_SWAPPED;
    const int dense = !swapped && stride == csm_storage_size[kind];
    if (dense && kind == CSM_STORED_REAL) {
        memcpy(p, src, (size_t)n * sizeof *src);
        return;
    }
#if CSM_BITS == 32
    if (dense && kind == CSM_F16) {
        csm_store_run_f16(p, n, src);
        return;
    }
    if (dense && kind == CSM_BF16) {
        csm_store_run_bf16(p, n, src);
        return;
    }
#define CSM_NARROW(x) (x)
#else
#define CSM_NARROW(x) csm_sticky(x)
#endif
#define CSM_STORE(T, expression)                                                                             \
    for (ptrdiff_t i = 0; i < n; i++, p += stride) {                                                         \
        const T v = (T)(expression);                                                                         \
        csm_fetch(p, (const char *)&v, sizeof v, swapped);                                                   \
    }                                                                                                        \
    break
    switch (kind) {
    case CSM_F16: CSM_STORE(uint16_t, csm_to_f16(CSM_NARROW(src[i])));
    case CSM_BF16: CSM_STORE(uint16_t, csm_to_bf16(CSM_NARROW(src[i])));
    case CSM_F32: CSM_STORE(float, src[i]);
    case CSM_F64: CSM_STORE(double, src[i]);
    default: break;
    }
#undef CSM_STORE
}

/* ------------------------------------------------------------------- integers that a double does not hold
 * Differences of 64-bit integers are taken before they are rounded to a double. A key is an integer moved so that
 * signed and unsigned ones have one order and differences modulo 2^64: key(a) - key(b) = a - b. */
CSM_INLINE uint64_t csm_load_key(int storage, const char *p) {
    uint64_t v;
    csm_fetch(&v, p, sizeof v, storage & CSM_SWAPPED);
    return (storage & ~CSM_SWAPPED) == CSM_I64 ? v ^ (UINT64_C(1) << 63) : v;
}

/* Whether the integer of this key is larger than 2^53 in modulus. */
CSM_INLINE int csm_key_is_large(int storage, uint64_t key) {
    const uint64_t zero = (storage & ~CSM_SWAPPED) == CSM_I64 ? UINT64_C(1) << 63 : 0;
    return (key > zero ? key - zero : zero - key) > UINT64_C(1) << 53;
}

/* Raises keys[i * key_step] to the key of each of n integers at p that the mask (NULL: none) includes. */
CSM_OUTLINE static void csm_max_keys(int storage, const char *p, ptrdiff_t stride, ptrdiff_t n, const char *mask,
                                  ptrdiff_t mask_stride, uint64_t *keys, ptrdiff_t key_step) {
    for (ptrdiff_t i = 0; i < n; i++) {
        const uint64_t key = csm_load_key(storage, p + i * stride);
        if ((mask == NULL || mask[i * mask_stride]) && key > keys[i * key_step]) keys[i * key_step] = key;
    }
}

/* dst[i] becomes the exact difference of integer i and that of keys[i * key_step], rounded once, where the latter is
 * large; elsewhere it stays what it is. */
CSM_OUTLINE static void csm_subtract_keys(int storage, const char *p, ptrdiff_t stride, ptrdiff_t n,
                                          const uint64_t *keys, ptrdiff_t key_step, csm_real *dst) {
    for (ptrdiff_t i = 0; i < n; i++) {
        const uint64_t key = keys[i * key_step];
        if (csm_key_is_large(storage, key)) dst[i] = -(csm_real)(key - csm_load_key(storage, p + i * stride));
    }
}

/* y plus the integer of a key that is large; y itself where it is not. */
CSM_INLINE csm_real csm_add_key(int storage, uint64_t key, csm_real y) {
    const int64_t zero = (storage & ~CSM_SWAPPED) == CSM_I64 ? INT64_C(1) << 31 : 0;
    if (!csm_key_is_large(storage, key)) return y;
    return (csm_real)((double)((int64_t)(key >> 32) - zero) * 0x1p32 + ((double)(key & 0xffffffffu) + y));
}

#endif /* CSOFTMAX_CONVERT_H */
