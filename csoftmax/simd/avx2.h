/* AVX2, FMA and F16C: 256 bits, 16 registers. */
#ifndef CSOFTMAX_AVX2_H
#define CSOFTMAX_AVX2_H

#if !defined(__AVX2__) || !(defined(__FMA__) || defined(_MSC_VER))
#error "avx2.h needs the compiler's flags of the level avx2, which stand in csoftmax/runtime/levels.py"
#endif
#include <immintrin.h>

enum { CSM_STEP = 2, CSM_FUSED = 0 };

enum { VL_f32 = 8, VL_f64 = 4 };
typedef __m256 v_f32;
typedef __m256d v_f64;
#define CSM_OP(name, s) _mm256_##name##_##s
#define CSM_INT(name) _mm256_##name
#define CSM_INT_BITS(name) _mm256_##name##_si256
#define CSM_TO_INT_f32 _mm256_castps_si256
#define CSM_TO_INT_f64 _mm256_castpd_si256
#define CSM_FROM_INT_f32 _mm256_castsi256_ps
#define CSM_FROM_INT_f64 _mm256_castsi256_pd
#define CSM_AVX2_TO_128(name)                                                                                \
    CSM_INLINE __m128 csm_##name##_to_128_f32(v_f32 a) {                                                     \
        return _mm_##name##_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));                      \
    }                                                                                                        \
    CSM_INLINE __m128d csm_##name##_to_128_f64(v_f64 a) {                                                    \
        return _mm_##name##_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1));                      \
    }
CSM_AVX2_TO_128(add)
CSM_AVX2_TO_128(max)
#include "x86.h"

#define CSM_HAS_BYTES 1
CSM_INLINE v_f32 select_bytes_f32(const char *on, v_f32 v, v_f32 w) {
    return _mm256_blendv_ps(v, w, _mm256_castsi256_ps(_mm256_cvtepi8_epi32(csm_zero_bytes(on, VL_f32))));
}
CSM_INLINE v_f64 select_bytes_f64(const char *on, v_f64 v, v_f64 w) {
    return _mm256_blendv_pd(v, w, _mm256_castsi256_pd(_mm256_cvtepi8_epi64(csm_zero_bytes(on, VL_f64))));
}

#define CSM_HAS_FMA 1
#define CSM_HAS_TAILS 1
/* 256 bits of this from the start, less k elements, have the first k elements set */
static const int32_t csm_tail_mask[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
#define CSM_AVX2(T, R, s, words, all)                                                                        \
    CSM_INLINE v_##T fma_##T(v_##T a, v_##T b, v_##T c) { return _mm256_fmadd_##s(a, b, c); }                \
    CSM_INLINE v_##T fnma_##T(v_##T a, v_##T b, v_##T c) { return _mm256_fnmadd_##s(a, b, c); }              \
    CSM_INLINE v_##T and_eq_##T(v_##T a, v_##T b, v_##T v) {                                                 \
        return _mm256_and_##s(_mm256_cmp_##s(a, b, _CMP_EQ_OQ), v);                                          \
    }                                                                                                        \
    CSM_INLINE v_##T and_ne_##T(v_##T a, v_##T b, v_##T v) {                                                 \
        return _mm256_and_##s(_mm256_cmp_##s(a, b, _CMP_NEQ_UQ), v);                                         \
    }                                                                                                        \
    CSM_INLINE v_##T and_not_lt_##T(v_##T a, v_##T b, v_##T v) {                                             \
        return _mm256_and_##s(_mm256_cmp_##s(a, b, _CMP_NLT_UQ), v);                                         \
    }                                                                                                        \
    CSM_INLINE v_##T select_lt_##T(v_##T a, v_##T b, v_##T v, v_##T w) {                                     \
        const v_##T m = _mm256_cmp_##s(a, b, _CMP_LT_OQ);                                                    \
        return _mm256_or_##s(_mm256_and_##s(m, v), _mm256_andnot_##s(m, w));                                 \
    }                                                                                                        \
    CSM_INLINE int all_lt_##T(v_##T a, v_##T b) {                                                            \
        return _mm256_movemask_##s(_mm256_cmp_##s(a, b, _CMP_LT_OQ)) == all;                                 \
    }                                                                                                        \
    CSM_INLINE v_##T load_n_##T(const R *p, ptrdiff_t k, R fill) {                                           \
        const __m256i m = _mm256_loadu_si256((const __m256i *)(csm_tail_mask + 8 - words * k));              \
        return _mm256_blendv_##s(set1_##T(fill), _mm256_maskload_##s(p, m), CSM_FROM_INT_##T(m));            \
    }                                                                                                        \
    CSM_INLINE void store_n_##T(R *p, ptrdiff_t k, v_##T a) {                                                \
        const __m256i m = _mm256_loadu_si256((const __m256i *)(csm_tail_mask + 8 - words * k));              \
        _mm256_maskstore_##s(p, m, a);                                                                       \
    }
CSM_AVX2(f32, float, ps, 1, 0xff)
CSM_AVX2(f64, double, pd, 2, 0xf)

CSM_INLINE v_f64 widen_f32(const float *p) { return _mm256_cvtps_pd(_mm_loadu_ps(p)); }
CSM_INLINE void narrow_f32(float *p, v_f64 a) { _mm_storeu_ps(p, _mm256_cvtpd_ps(a)); }

/* ------------------------------------------------------------------------------------------- horizontal */
CSM_INLINE v_f32 fold_f32(v_f32 a, v_f32 b, const int d) {
    return d == 4 ? add_f32(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31))
                  : csm_fold_in_128_f32(a, b, d);
}
CSM_INLINE v_f64 fold_f64(v_f64 a, v_f64 b, const int d) {
    return d == 2 ? add_f64(_mm256_permute2f128_pd(a, b, 0x20), _mm256_permute2f128_pd(a, b, 0x31))
                  : csm_fold_in_128_f64(a, b);
}
CSM_INLINE v_f32 in_order_f32(v_f32 a) {
    return _mm256_permutevar8x32_ps(a, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}
CSM_INLINE v_f64 in_order_f64(v_f64 a) { return _mm256_permute4x64_pd(a, 0xd8); }
#define swap_f32(a, d) _mm256_permute_ps(a, 0xb1)
#define swap_f64(a, d) (a)
CSM_INLINE v_f32 spread_f32(v_f32 a, const int i) {
    const v_f32 pair = i < 2 ? _mm256_permute_ps(a, 0x00) : _mm256_permute_ps(a, 0xff);
    return i % 2 == 0 ? _mm256_permute2f128_ps(pair, pair, 0x00) : _mm256_permute2f128_ps(pair, pair, 0x11);
}
CSM_INLINE v_f64 spread_f64(v_f64 a, const int i) {
    return i == 0   ? _mm256_permute4x64_pd(a, 0x00)
           : i == 1 ? _mm256_permute4x64_pd(a, 0xaa)
           : i == 2 ? _mm256_permute4x64_pd(a, 0x55)
                    : _mm256_permute4x64_pd(a, 0xff);
}

/* --------------------------------------------------------------------------------------------- transpose */
#define CSM_HAS_QUADS 1
typedef __m128 quad_f32;
typedef __m256d quad_f64;
CSM_INLINE __m128i csm_quad_mask_f32(ptrdiff_t k) {
    return _mm_loadu_si128((const __m128i *)(csm_tail_mask + 8 - k));
}
CSM_INLINE __m256i csm_quad_mask_f64(ptrdiff_t k) {
    return _mm256_loadu_si256((const __m256i *)(csm_tail_mask + 8 - 2 * k));
}
CSM_INLINE quad_f32 load_quad_f32(const float *p, ptrdiff_t k) {
    return k < 4 ? _mm_maskload_ps(p, csm_quad_mask_f32(k)) : _mm_loadu_ps(p);
}
CSM_INLINE quad_f64 load_quad_f64(const double *p, ptrdiff_t k) {
    return k < 4 ? _mm256_maskload_pd(p, csm_quad_mask_f64(k)) : _mm256_loadu_pd(p);
}
CSM_INLINE void store_quad_f32(float *p, ptrdiff_t k, quad_f32 a) {
    if (k < 4) _mm_maskstore_ps(p, csm_quad_mask_f32(k), a);
    else _mm_storeu_ps(p, a);
}
CSM_INLINE void store_quad_f64(double *p, ptrdiff_t k, quad_f64 a) {
    if (k < 4) _mm256_maskstore_pd(p, csm_quad_mask_f64(k), a);
    else _mm256_storeu_pd(p, a);
}
#define join_quads_f32(quad) _mm256_insertf128_ps(_mm256_castps128_ps256(quad(0)), quad(1), 1)
#define join_quads_f64(quad) quad(0)
CSM_INLINE quad_f32 quad_of_f32(v_f32 a, const int q) {
    return q == 0 ? _mm256_castps256_ps128(a) : _mm256_extractf128_ps(a, 1);
}
CSM_INLINE quad_f64 quad_of_f64(v_f64 a, const int q) {
    (void)q;
    return a;
}
CSM_INLINE void transpose_f64(v_f64 *a) {
    const v_f64 t0 = _mm256_unpacklo_pd(a[0], a[1]), t1 = _mm256_unpackhi_pd(a[0], a[1]);
    const v_f64 t2 = _mm256_unpacklo_pd(a[2], a[3]), t3 = _mm256_unpackhi_pd(a[2], a[3]);
    a[0] = _mm256_permute2f128_pd(t0, t2, 0x20);
    a[1] = _mm256_permute2f128_pd(t1, t3, 0x20);
    a[2] = _mm256_permute2f128_pd(t0, t2, 0x31);
    a[3] = _mm256_permute2f128_pd(t1, t3, 0x31);
}

/* ----------------------------------------------------------------------------------------- 16-bit floats */
#define CSM_HAS_16 1
typedef __m128i v_16;
CSM_INLINE v_16 load_16(const uint16_t *p) { return _mm_loadu_si128((const void *)p); }
CSM_INLINE void store_16(uint16_t *p, v_16 a) { _mm_storeu_si128((void *)p, a); }
CSM_INLINE v_16 load_n_16(const uint16_t *p, ptrdiff_t k) {
    uint16_t lanes[8] = {0};
    memcpy(lanes, p, 2 * (size_t)k);
    return load_16(lanes);
}
CSM_INLINE void store_n_16(uint16_t *p, ptrdiff_t k, v_16 a) {
    uint16_t lanes[8];
    store_16(lanes, a);
    memcpy(p, lanes, 2 * (size_t)k);
}
CSM_INLINE v_f32 widen_f16(v_16 a) { return _mm256_cvtph_ps(a); }
CSM_INLINE v_16 narrow_f16(v_f32 a) { return _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT); }
CSM_INLINE v_f32 widen_bf16(v_16 a) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(a), 16));
}
/* the upper 16 bits of each lane are it as a bfloat16, unless it is a NaN that has bits in the lower 16 */
CSM_INLINE __m256i csm_round_bf16(v_f32 a) {
    const __m256i u = _mm256_castps_si256(a), up = _mm256_add_epi32(u, _mm256_set1_epi32(0x7fff));
    return _mm256_add_epi32(up, _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1)));
}
CSM_INLINE v_16 csm_upper_16(__m256i u) {
    u = _mm256_srli_epi32(u, 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(u), _mm256_extracti128_si256(u, 1));
}
CSM_INLINE v_16 narrow_own_bf16(v_f32 a) { return csm_upper_16(csm_round_bf16(a)); }
CSM_INLINE v_16 narrow_bf16(v_f32 a) {
    const __m256i quiet = _mm256_or_si256(_mm256_castps_si256(a), _mm256_set1_epi32(0x400000));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
    return csm_upper_16(_mm256_blendv_epi8(csm_round_bf16(a), quiet, nan));
}
CSM_INLINE void load_pair_bf16(const uint16_t *p, v_f32 *even, v_f32 *odd) {
    const __m256i v = _mm256_loadu_si256((const void *)p);
    *even = _mm256_castsi256_ps(_mm256_slli_epi32(v, 16));
    *odd = _mm256_castsi256_ps(_mm256_and_si256(v, _mm256_set1_epi32((int)0xffff0000)));
}
CSM_INLINE void store_pair_bf16(uint16_t *p, v_f32 even, v_f32 odd) {
    const __m256i low = _mm256_srli_epi32(csm_round_bf16(even), 16);
    _mm256_storeu_si256((void *)p, _mm256_blend_epi16(low, csm_round_bf16(odd), 0xaa));
}

#endif /* CSOFTMAX_AVX2_H */
