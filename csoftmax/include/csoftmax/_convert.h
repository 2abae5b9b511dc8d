/* Runs of elements between an array's storage and the kernels' reals: 16-bit floats, integers, other
 * precisions, foreign byte order, any stride. Elements are moved by memcpy, so alignment does not matter.
 */
#ifndef CSOFTMAX_CONVERT_H
#define CSOFTMAX_CONVERT_H

#include "_lanes.h"
#include "_storage.h"

#if CSM_BITS == 32
#define CSM_STORED_REAL CSM_F32
#else
#define CSM_STORED_REAL CSM_F64
#endif

static const unsigned char csm_storage_size[] = {2, 2, 4, 8, 1, 1, 1, 2, 2, 4, 4, 8, 8};

/* ------------------------------------------------------------------------------------- 16-bit floats */
CSM_INLINE float csm_from_bf16(uint16_t h) { return csm_float_of((uint32_t)h << 16); }

CSM_INLINE uint16_t csm_to_bf16(float x) {
    const uint32_t u = csm_bits_of(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((u >> 16) | 0x0040u);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

CSM_INLINE float csm_from_f16(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16, rest = h & 0x7fffu;
    if (rest >= 0x7c00u) return csm_float_of(sign | 0x7f800000u | ((rest & 0x3ffu) << 13) | (rest > 0x7c00u ? 0x400000u : 0u));
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

typedef struct {
    csm_vec first, second;
} csm_pair;

/* ------------------------------------------------------------- VL 16-bit floats at a time, where the CPU can */
#if CSM_BITS == 32 && defined(CSM_AVX512)
enum { CSM_HALVES = 1 };
typedef __m256i csm_16;
CSM_INLINE csm_16 csm_load_16(const uint16_t *p) { return _mm256_loadu_si256((const void *)p); }
CSM_INLINE void csm_store_16(uint16_t *p, csm_16 a) { _mm256_storeu_si256((void *)p, a); }
CSM_INLINE csm_16 csm_load_n_16(const uint16_t *p, ptrdiff_t k) {
    return _mm256_maskz_loadu_epi16((__mmask16)((1u << k) - 1u), p);
}
CSM_INLINE void csm_store_n_16(uint16_t *p, ptrdiff_t k, csm_16 a) {
    _mm256_mask_storeu_epi16(p, (__mmask16)((1u << k) - 1u), a);
}
CSM_INLINE v_f32 csm_widen_f16(csm_16 a) { return _mm512_cvtph_ps(a); }
CSM_INLINE csm_16 csm_narrow_f16(v_f32 a) { return _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT); }
CSM_INLINE v_f32 csm_widen_bf16(csm_16 a) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(a), 16));
}
/* lanes whose upper half is the bfloat16; a NaN must have no bits in the lower half: of 16-bit operands it has none */
CSM_INLINE __m512i csm_round_bf16(v_f32 a) {
    const __m512i u = _mm512_castps_si512(a), up = _mm512_add_epi32(u, _mm512_set1_epi32(0x7fff));
    return _mm512_mask_sub_epi32(up, _mm512_test_epi32_mask(u, _mm512_set1_epi32(0x10000)), up, _mm512_set1_epi32(-1));
}
CSM_INLINE csm_16 csm_narrow_own_bf16(v_f32 a) {
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(csm_round_bf16(a), 16));
}
CSM_INLINE csm_16 csm_narrow_bf16(v_f32 a) {
    const __m512i u = _mm512_castps_si512(a), quiet = _mm512_or_si512(u, _mm512_set1_epi32(0x400000));
    const __mmask16 nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_mov_epi32(csm_round_bf16(a), nan, quiet), 16));
}
CSM_INLINE csm_pair csm_load_pair_bf16(const uint16_t *p) {
    const __m512i v = _mm512_loadu_si512((const void *)p);
    const __m512i odd = _mm512_and_si512(v, _mm512_set1_epi32((int)0xffff0000));
    return (csm_pair){_mm512_castsi512_ps(_mm512_slli_epi32(v, 16)), _mm512_castsi512_ps(odd)};
}
CSM_INLINE void csm_store_pair_bf16(uint16_t *p, csm_pair a) {
    const __m512i even = _mm512_srli_epi32(csm_round_bf16(a.first), 16);
    const __m512i upper = _mm512_set1_epi32((int)0xffff0000);
    /* even | (odd & upper) */
    _mm512_storeu_si512((void *)p, _mm512_ternarylogic_epi32(even, csm_round_bf16(a.second), upper, 0xf8));
}
#elif CSM_BITS == 32 && defined(CSM_AVX2)
enum { CSM_HALVES = 1 };
typedef __m128i csm_16;
CSM_INLINE csm_16 csm_load_16(const uint16_t *p) { return _mm_loadu_si128((const void *)p); }
CSM_INLINE void csm_store_16(uint16_t *p, csm_16 a) { _mm_storeu_si128((void *)p, a); }
CSM_INLINE csm_16 csm_load_n_16(const uint16_t *p, ptrdiff_t k) {
    uint16_t lanes[8] = {0};
    memcpy(lanes, p, 2 * (size_t)k);
    return csm_load_16(lanes);
}
CSM_INLINE void csm_store_n_16(uint16_t *p, ptrdiff_t k, csm_16 a) {
    uint16_t lanes[8];
    csm_store_16(lanes, a);
    memcpy(p, lanes, 2 * (size_t)k);
}
CSM_INLINE v_f32 csm_widen_f16(csm_16 a) { return _mm256_cvtph_ps(a); }
CSM_INLINE csm_16 csm_narrow_f16(v_f32 a) { return _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT); }
CSM_INLINE v_f32 csm_widen_bf16(csm_16 a) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(a), 16));
}
CSM_INLINE __m256i csm_round_bf16(v_f32 a) {
    const __m256i u = _mm256_castps_si256(a), up = _mm256_add_epi32(u, _mm256_set1_epi32(0x7fff));
    return _mm256_add_epi32(up, _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1)));
}
CSM_INLINE csm_16 csm_upper_bf16(__m256i u) {
    u = _mm256_srli_epi32(u, 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(u), _mm256_extracti128_si256(u, 1));
}
CSM_INLINE csm_16 csm_narrow_own_bf16(v_f32 a) { return csm_upper_bf16(csm_round_bf16(a)); }
CSM_INLINE csm_16 csm_narrow_bf16(v_f32 a) {
    const __m256i quiet = _mm256_or_si256(_mm256_castps_si256(a), _mm256_set1_epi32(0x400000));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
    return csm_upper_bf16(_mm256_blendv_epi8(csm_round_bf16(a), quiet, nan));
}
CSM_INLINE csm_pair csm_load_pair_bf16(const uint16_t *p) {
    const __m256i v = _mm256_loadu_si256((const void *)p);
    const __m256i odd = _mm256_and_si256(v, _mm256_set1_epi32((int)0xffff0000));
    return (csm_pair){_mm256_castsi256_ps(_mm256_slli_epi32(v, 16)), _mm256_castsi256_ps(odd)};
}
CSM_INLINE void csm_store_pair_bf16(uint16_t *p, csm_pair a) {
    const __m256i even = _mm256_srli_epi32(csm_round_bf16(a.first), 16);
    _mm256_storeu_si256((void *)p, _mm256_blend_epi16(even, csm_round_bf16(a.second), 0xaa));
}
#else
enum { CSM_HALVES = 0 };
#define CSM_NO_HALVES 1
#endif

#define csm_narrow_own_f16 csm_narrow_f16

/* Element i of an array of "storage" (a constant: native reals or 16-bit floats), and those after it, as a vector; the
 * n variants take n of them, a vector at most, and fill up the others. */
#if defined(CSM_NO_HALVES)
#define CSM_OF_STORAGE(half, real) real
#else
#define CSM_OF_STORAGE(half, real)                                                                           \
    if (storage == CSM_F16) half(f16) else if (storage == CSM_BF16) half(bf16) else real
#endif

CSM_INLINE csm_vec csm_take(const void *p, ptrdiff_t i, const int storage) {
#define CSM_TAKE(name) return csm_widen_##name(csm_load_16((const uint16_t *)p + i));
    (void)storage;
    CSM_OF_STORAGE(CSM_TAKE, return v_load((const csm_real *)p + i);)
}

CSM_INLINE void csm_put(void *p, ptrdiff_t i, csm_vec a, const int storage) {
#define CSM_PUT(name) csm_store_16((uint16_t *)p + i, csm_narrow_own_##name(a));
    (void)storage;
    CSM_OF_STORAGE(CSM_PUT, v_store((csm_real *)p + i, a);)
}

CSM_INLINE csm_vec csm_take_n(const void *p, ptrdiff_t i, ptrdiff_t n, csm_real fill, const int storage) {
    csm_real lanes[VL];
#define CSM_TAKE_N(name) v_store(lanes, csm_widen_##name(csm_load_n_16((const uint16_t *)p + i, n)));
    (void)storage;
    (void)lanes;
    CSM_OF_STORAGE(CSM_TAKE_N, return v_load_n((const csm_real *)p + i, n, fill);)
    return v_load_n(lanes, n, fill);
}

CSM_INLINE void csm_put_n(void *p, ptrdiff_t i, ptrdiff_t n, csm_vec a, const int storage) {
#define CSM_PUT_N(name) csm_store_n_16((uint16_t *)p + i, n, csm_narrow_own_##name(a));
    (void)storage;
    CSM_OF_STORAGE(CSM_PUT_N, v_store_n((csm_real *)p + i, n, a);)
}

/* 2 VL elements, in an order that is undone when they are put back: for what needs none */
CSM_INLINE csm_pair csm_take_pair(const void *p, ptrdiff_t i, const int storage) {
#if !defined(CSM_NO_HALVES)
    if (storage == CSM_BF16) return csm_load_pair_bf16((const uint16_t *)p + i);
#endif
    return (csm_pair){csm_take(p, i, storage), csm_take(p, i + VL, storage)};
}

CSM_INLINE void csm_put_pair(void *p, ptrdiff_t i, csm_pair a, const int storage) {
#if !defined(CSM_NO_HALVES)
    if (storage == CSM_BF16) {
        csm_store_pair_bf16((uint16_t *)p + i, a);
        return;
    }
#endif
    csm_put(p, i, a.first, storage);
    csm_put(p, i + VL, a.second, storage);
}

/* ------------------------------------------------------------------------------------- contiguous runs */
#if CSM_BITS == 32
#if defined(CSM_NO_HALVES)
#define CSM_VECTORS(code)
#else
#define CSM_VECTORS(code) code
#endif
#define CSM_HALF(name)                                                                                       \
    static void csm_load_run_##name(const char *p, ptrdiff_t n, float *dst) {                                \
        ptrdiff_t i = 0;                                                                                     \
        CSM_VECTORS(for (; i + VL <= n; i += VL)                                                             \
                        store_f32(dst + i, csm_widen_##name(csm_load_16((const uint16_t *)p + i)));)         \
        for (; i < n; i++) {                                                                                 \
            uint16_t h;                                                                                      \
            memcpy(&h, p + 2 * i, sizeof h);                                                                 \
            dst[i] = csm_from_##name(h);                                                                     \
        }                                                                                                    \
    }                                                                                                        \
    static void csm_store_run_##name(char *p, ptrdiff_t n, const float *src) {                               \
        ptrdiff_t i = 0;                                                                                     \
        CSM_VECTORS(for (; i + VL <= n; i += VL)                                                             \
                        csm_store_16((uint16_t *)p + i, csm_narrow_##name(load_f32(src + i)));)              \
        for (; i < n; i++) {                                                                                 \
            const uint16_t h = csm_to_##name(src[i]);                                                        \
            memcpy(p + 2 * i, &h, sizeof h);                                                                 \
        }                                                                                                    \
    }
CSM_HALF(f16)
CSM_HALF(bf16)
#endif

/* -------------------------------------------------------------------------------------- strided runs */
/* n elements at p, p + stride, ... into dst */
CSM_ONCE static void csm_load_run(int storage, const char *p, ptrdiff_t stride, ptrdiff_t n, csm_real *dst) {
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

/* double to a 16-bit float in one rounding: first to float with the lost bits made sticky */
CSM_INLINE float csm_sticky(double x) {
    float f = (float)x;
    if ((double)f != x && x == x && !isinf(f)) {
        uint32_t u = csm_bits_of(f);
        if (fabs((double)f) > fabs(x)) u -= 1;
        f = csm_float_of(u | 1u);
    }
    return f;
}

/* n elements of src to p, p + stride, ...; float storages only */
CSM_ONCE static void csm_store_run(int storage, char *p, ptrdiff_t stride, ptrdiff_t n, const csm_real *src) {
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
CSM_ONCE static void csm_max_keys(int storage, const char *p, ptrdiff_t stride, ptrdiff_t n, const char *mask,
                                  ptrdiff_t mask_stride, uint64_t *keys, ptrdiff_t key_step) {
    for (ptrdiff_t i = 0; i < n; i++) {
        const uint64_t key = csm_load_key(storage, p + i * stride);
        if ((mask == NULL || mask[i * mask_stride]) && key > keys[i * key_step]) keys[i * key_step] = key;
    }
}

/* dst[i] becomes the exact difference of integer i and that of keys[i * key_step], rounded once, where the latter is
 * large; elsewhere it stays what it is. */
CSM_ONCE static void csm_subtract_keys(int storage, const char *p, ptrdiff_t stride, ptrdiff_t n, const uint64_t *keys,
                                       ptrdiff_t key_step, csm_real *dst) {
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
