/* AVX-512 with F, DQ, BW, VL and CD: 512 bits, 32 registers, masks. */
#ifndef CSOFTMAX_AVX512_H
#define CSOFTMAX_AVX512_H

#if !defined(__AVX512F__) || !defined(__AVX512DQ__) || !defined(__AVX512BW__) || !defined(__AVX512VL__)
#error "avx512.h needs the compiler's flags of the level avx512, which stand in csoftmax/runtime/levels.py"
#endif
#include <immintrin.h>

enum { CSM_STEP = 4, CSM_FUSED = 1 };

enum { VL_f32 = 16, VL_f64 = 8 };
typedef __m512 v_f32;
typedef __m512d v_f64;
#define CSM_OP(name, s) _mm512_##name##_##s
#define CSM_INT(name) _mm512_##name
#define CSM_INT_BITS(name) _mm512_##name##_si512
#define CSM_TO_INT_f32 _mm512_castps_si512
#define CSM_TO_INT_f64 _mm512_castpd_si512
#define CSM_FROM_INT_f32 _mm512_castsi512_ps
#define CSM_FROM_INT_f64 _mm512_castsi512_pd
#define CSM_AVX512_TO_128(name)                                                                              \
    CSM_INLINE __m128 csm_##name##_to_128_f32(v_f32 a) {                                                     \
        const __m256 b = _mm256_##name##_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));        \
        return _mm_##name##_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));                      \
    }                                                                                                        \
    CSM_INLINE __m128d csm_##name##_to_128_f64(v_f64 a) {                                                    \
        const __m256d b = _mm256_##name##_pd(_mm512_castpd512_pd256(a), _mm512_extractf64x4_pd(a, 1));       \
        return _mm_##name##_pd(_mm256_castpd256_pd128(b), _mm256_extractf128_pd(b, 1));                      \
    }
CSM_AVX512_TO_128(add)
CSM_AVX512_TO_128(max)
#include "x86.h"

#define CSM_HAS_FMA 1
#define CSM_HAS_TAILS 1
#define CSM_HAS_COUNT 1
#define CSM_HAS_BYTES 1
CSM_INLINE v_f32 select_bytes_f32(const char *on, v_f32 v, v_f32 w) {
    const __m128i bytes = _mm_loadu_si128((const __m128i *)on);
    return _mm512_mask_mov_ps(w, _mm_test_epi8_mask(bytes, bytes), v);
}
CSM_INLINE v_f64 select_bytes_f64(const char *on, v_f64 v, v_f64 w) {
    const __m128i bytes = _mm_loadl_epi64((const __m128i *)on);
    return _mm512_mask_mov_pd(w, (__mmask8)_mm_test_epi8_mask(bytes, bytes), v);
}
/* a mask of the first k lanes */
#define CSM_FIRST(k) ((1u << (k)) - 1u)
#define CSM_AVX512(T, R, s, M)                                                                               \
    CSM_INLINE v_##T fma_##T(v_##T a, v_##T b, v_##T c) { return _mm512_fmadd_##s(a, b, c); }                \
    CSM_INLINE v_##T fnma_##T(v_##T a, v_##T b, v_##T c) { return _mm512_fnmadd_##s(a, b, c); }              \
    CSM_INLINE v_##T and_eq_##T(v_##T a, v_##T b, v_##T v) {                                                 \
        return _mm512_maskz_mov_##s(_mm512_cmp_##s##_mask(a, b, _CMP_EQ_OQ), v);                             \
    }                                                                                                        \
    CSM_INLINE v_##T and_ne_##T(v_##T a, v_##T b, v_##T v) {                                                 \
        return _mm512_maskz_mov_##s(_mm512_cmp_##s##_mask(a, b, _CMP_NEQ_UQ), v);                            \
    }                                                                                                        \
    CSM_INLINE v_##T and_not_lt_##T(v_##T a, v_##T b, v_##T v) {                                             \
        return _mm512_maskz_mov_##s(_mm512_cmp_##s##_mask(a, b, _CMP_NLT_UQ), v);                            \
    }                                                                                                        \
    CSM_INLINE v_##T select_lt_##T(v_##T a, v_##T b, v_##T v, v_##T w) {                                     \
        return _mm512_mask_mov_##s(w, _mm512_cmp_##s##_mask(a, b, _CMP_LT_OQ), v);                           \
    }                                                                                                        \
    CSM_INLINE int all_lt_##T(v_##T a, v_##T b) {                                                            \
        return _mm512_cmp_##s##_mask(a, b, _CMP_LT_OQ) == (M)CSM_FIRST(VL_##T);                              \
    }                                                                                                        \
    CSM_INLINE v_##T load_n_##T(const R *p, ptrdiff_t k, R fill) {                                           \
        return _mm512_mask_loadu_##s(set1_##T(fill), (M)CSM_FIRST(k), p);                                    \
    }                                                                                                        \
    CSM_INLINE void store_n_##T(R *p, ptrdiff_t k, v_##T a) { _mm512_mask_storeu_##s(p, (M)CSM_FIRST(k), a); } \
    CSM_INLINE void add_or_count_##T(v_##T d, v_##T v, v_##T *total, v_##T *count) {                         \
        const unsigned zero = _mm512_cmp_##s##_mask(d, set1_##T(0), _CMP_EQ_OQ);                             \
        *count = _mm512_mask_add_##s(*count, (M)zero, *count, set1_##T(1));                                  \
        *total = _mm512_mask_add_##s(*total, (M)~zero, *total, v);                                           \
    }
CSM_AVX512(f32, float, ps, __mmask16)
CSM_AVX512(f64, double, pd, __mmask8)

CSM_INLINE v_f64 widen_f32(const float *p) { return _mm512_cvtps_pd(_mm256_loadu_ps(p)); }
CSM_INLINE void narrow_f32(float *p, v_f64 a) { _mm256_storeu_ps(p, _mm512_cvtpd_ps(a)); }

/* ------------------------------------------------------------------------------------------- horizontal */
CSM_INLINE v_f32 fold_f32(v_f32 a, v_f32 b, const int d) {
    return d == 8   ? add_f32(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee))
           : d == 4 ? add_f32(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd))
                    : csm_fold_in_128_f32(a, b, d);
}
CSM_INLINE v_f64 fold_f64(v_f64 a, v_f64 b, const int d) {
    return d == 4   ? add_f64(_mm512_shuffle_f64x2(a, b, 0x44), _mm512_shuffle_f64x2(a, b, 0xee))
           : d == 2 ? add_f64(_mm512_shuffle_f64x2(a, b, 0x88), _mm512_shuffle_f64x2(a, b, 0xdd))
                    : csm_fold_in_128_f64(a, b);
}
CSM_INLINE v_f32 in_order_f32(v_f32 a) {
    return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), a);
}
CSM_INLINE v_f64 in_order_f64(v_f64 a) {
    return _mm512_permutexvar_pd(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), a);
}
CSM_INLINE v_f32 swap_f32(v_f32 a, const int d) {
    return d == 2 ? _mm512_permute_ps(a, 0x4e) : _mm512_permute_ps(a, 0xb1);
}
#define swap_f64(a, d) _mm512_permute_pd(a, 0x55)
#define CSM_SPREAD(T, x)                                                                                     \
    CSM_INLINE v_##T spread_##T(v_##T a, const int i) {                                                      \
        return i == 0   ? _mm512_shuffle_##x(a, a, 0x00)                                                     \
               : i == 1 ? _mm512_shuffle_##x(a, a, 0x55)                                                     \
               : i == 2 ? _mm512_shuffle_##x(a, a, 0xaa)                                                     \
                        : _mm512_shuffle_##x(a, a, 0xff);                                                    \
    }
CSM_SPREAD(f32, f32x4)
CSM_SPREAD(f64, f64x2)

/* --------------------------------------------------------------------------------------------- transpose */
#define CSM_HAS_QUADS 1
typedef __m128 quad_f32;
typedef __m256d quad_f64;
/* What is stored in part is made opaque: merged with the extraction from a vector, it would be an extraction to memory
 * under a mask, which faults on bytes that the mask excludes. */
#define CSM_QUADS(T, R, prefix, s)                                                                           \
    CSM_INLINE quad_##T load_quad_##T(const R *p, ptrdiff_t k) {                                             \
        return k < 4 ? prefix##_maskz_loadu_##s((__mmask8)CSM_FIRST(k), p) : prefix##_loadu_##s(p);          \
    }                                                                                                        \
    CSM_INLINE void store_quad_##T(R *p, ptrdiff_t k, quad_##T a) {                                          \
        if (k < 4) {                                                                                         \
            CSM_OPAQUE(a, "v");                                                                              \
            prefix##_mask_storeu_##s(p, (__mmask8)CSM_FIRST(k), a);                                          \
        } else {                                                                                             \
            prefix##_storeu_##s(p, a);                                                                       \
        }                                                                                                    \
    }
CSM_QUADS(f32, float, _mm, ps)
CSM_QUADS(f64, double, _mm256, pd)
#define join_quads_f32(quad)                                                                                 \
    _mm512_insertf32x4(                                                                                      \
        _mm512_insertf32x4(_mm512_insertf32x4(_mm512_castps128_ps512(quad(0)), quad(1), 1), quad(2), 2), quad(3), 3)
#define join_quads_f64(quad) _mm512_insertf64x4(_mm512_castpd256_pd512(quad(0)), quad(1), 1)
CSM_INLINE quad_f32 quad_of_f32(v_f32 a, const int q) {
    return q == 0   ? _mm512_extractf32x4_ps(a, 0)
           : q == 1 ? _mm512_extractf32x4_ps(a, 1)
           : q == 2 ? _mm512_extractf32x4_ps(a, 2)
                    : _mm512_extractf32x4_ps(a, 3);
}
CSM_INLINE quad_f64 quad_of_f64(v_f64 a, const int q) {
    return q == 0 ? _mm512_extractf64x4_pd(a, 0) : _mm512_extractf64x4_pd(a, 1);
}
CSM_INLINE void transpose_f64(v_f64 *a) {
    const v_f64 t0 = _mm512_unpacklo_pd(a[0], a[1]), t1 = _mm512_unpackhi_pd(a[0], a[1]);
    const v_f64 t2 = _mm512_unpacklo_pd(a[2], a[3]), t3 = _mm512_unpackhi_pd(a[2], a[3]);
    const __m512i low = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13);
    const __m512i high = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
    a[0] = _mm512_permutex2var_pd(t0, low, t2);
    a[1] = _mm512_permutex2var_pd(t1, low, t3);
    a[2] = _mm512_permutex2var_pd(t0, high, t2);
    a[3] = _mm512_permutex2var_pd(t1, high, t3);
}

/* ------------------------------------------------------------------------------------------------ tables */
#define CSM_HAS_LOOKUP 1
CSM_INLINE v_f32 lookup_f32(const v_f32 *table, v_f32 index) {
    return _mm512_permutexvar_ps(_mm512_castps_si512(index), table[0]);
}
CSM_INLINE v_f64 lookup_f64(const v_f64 *table, v_f64 index) {
    return _mm512_permutex2var_pd(table[0], _mm512_castpd_si512(index), table[1]);
}
CSM_INLINE v_f32 bits_lookup_f32(const v_f32 *table, v_f32 index) {
    return _mm512_castsi512_ps(_mm512_permutexvar_epi32(_mm512_castps_si512(index), _mm512_castps_si512(table[0])));
}
CSM_INLINE v_f64 bits_lookup_f64(const v_f64 *table, v_f64 index) {
    return _mm512_castsi512_pd(_mm512_permutex2var_epi64(_mm512_castpd_si512(table[0]), _mm512_castpd_si512(index),
                                                         _mm512_castpd_si512(table[1])));
}

/* ----------------------------------------------------------------------------------------- 16-bit floats */
#define CSM_HAS_16 1
typedef __m256i v_16;
CSM_INLINE v_16 load_16(const uint16_t *p) { return _mm256_loadu_si256((const void *)p); }
CSM_INLINE void store_16(uint16_t *p, v_16 a) { _mm256_storeu_si256((void *)p, a); }
CSM_INLINE v_16 load_n_16(const uint16_t *p, ptrdiff_t k) {
    return _mm256_maskz_loadu_epi16((__mmask16)CSM_FIRST(k), p);
}
CSM_INLINE void store_n_16(uint16_t *p, ptrdiff_t k, v_16 a) {
    _mm256_mask_storeu_epi16(p, (__mmask16)CSM_FIRST(k), a);
}
CSM_INLINE v_f32 widen_f16(v_16 a) { return _mm512_cvtph_ps(a); }
CSM_INLINE v_16 narrow_f16(v_f32 a) { return _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT); }
CSM_INLINE v_f32 widen_bf16(v_16 a) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(a), 16));
}
/* the upper 16 bits of each lane are it as a bfloat16, unless it is a NaN that has bits in the lower 16 */
CSM_INLINE __m512i csm_round_bf16(v_f32 a) {
    const __m512i u = _mm512_castps_si512(a), up = _mm512_add_epi32(u, _mm512_set1_epi32(0x7fff));
    return _mm512_mask_sub_epi32(up, _mm512_test_epi32_mask(u, _mm512_set1_epi32(0x10000)), up, _mm512_set1_epi32(-1));
}
CSM_INLINE v_16 csm_upper_16(__m512i u) { return _mm512_cvtepi32_epi16(_mm512_srli_epi32(u, 16)); }
CSM_INLINE v_16 narrow_own_bf16(v_f32 a) { return csm_upper_16(csm_round_bf16(a)); }
CSM_INLINE v_16 narrow_bf16(v_f32 a) {
    const __m512i u = _mm512_castps_si512(a), quiet = _mm512_or_si512(u, _mm512_set1_epi32(0x400000));
    const __mmask16 nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
    return csm_upper_16(_mm512_mask_mov_epi32(csm_round_bf16(a), nan, quiet));
}
CSM_INLINE void load_pair_bf16(const uint16_t *p, v_f32 *even, v_f32 *odd) {
    const __m512i v = _mm512_loadu_si512((const void *)p);
    *even = _mm512_castsi512_ps(_mm512_slli_epi32(v, 16));
    *odd = _mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32((int)0xffff0000)));
}
CSM_INLINE void store_pair_bf16(uint16_t *p, v_f32 even, v_f32 odd) {
    const __m512i low = _mm512_srli_epi32(csm_round_bf16(even), 16);
    const __m512i upper = _mm512_set1_epi32((int)0xffff0000);
    /* low | (odd & upper) */
    _mm512_storeu_si512((void *)p, _mm512_ternarylogic_epi32(low, csm_round_bf16(odd), upper, 0xf8));
}

/* The generic code for this takes a third more of the time of short rows' derivatives. */
#define CSM_HAS_FOUR 1
CSM_INLINE void hadd_four_f32(v_f32 *r, float scale) {
    v_f32 a[2];
    for (int i = 0; i < 2; i++)
        a[i] = _mm512_add_ps(_mm512_shuffle_f32x4(r[2 * i], r[2 * i + 1], 0x44),
                            _mm512_shuffle_f32x4(r[2 * i], r[2 * i + 1], 0xee));
    a[0] = _mm512_add_ps(_mm512_shuffle_f32x4(a[0], a[1], 0x88), _mm512_shuffle_f32x4(a[0], a[1], 0xdd));
    a[0] = _mm512_add_ps(a[0], _mm512_permute_ps(a[0], 0x4e));
    a[0] = _mm512_mul_ps(_mm512_add_ps(a[0], _mm512_permute_ps(a[0], 0xb1)), _mm512_set1_ps(scale));
    r[0] = _mm512_shuffle_f32x4(a[0], a[0], 0x00);
    r[1] = _mm512_shuffle_f32x4(a[0], a[0], 0x55);
    r[2] = _mm512_shuffle_f32x4(a[0], a[0], 0xaa);
    r[3] = _mm512_shuffle_f32x4(a[0], a[0], 0xff);
}
CSM_INLINE void hadd_four_f64(v_f64 *r, double scale) {
    v_f64 a[2];
    for (int i = 0; i < 2; i++)
        a[i] = _mm512_add_pd(_mm512_shuffle_f64x2(r[2 * i], r[2 * i + 1], 0x44),
                            _mm512_shuffle_f64x2(r[2 * i], r[2 * i + 1], 0xee));
    a[0] = _mm512_add_pd(_mm512_shuffle_f64x2(a[0], a[1], 0x88), _mm512_shuffle_f64x2(a[0], a[1], 0xdd));
    a[0] = _mm512_mul_pd(_mm512_add_pd(a[0], _mm512_permute_pd(a[0], 0x55)), _mm512_set1_pd(scale));
    r[0] = _mm512_shuffle_f64x2(a[0], a[0], 0x00);
    r[1] = _mm512_shuffle_f64x2(a[0], a[0], 0x55);
    r[2] = _mm512_shuffle_f64x2(a[0], a[0], 0xaa);
    r[3] = _mm512_shuffle_f64x2(a[0], a[0], 0xff);
}

#endif /* CSOFTMAX_AVX512_H */
