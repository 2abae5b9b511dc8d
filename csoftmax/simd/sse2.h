/* SSE2: 128 bits, 16 registers, no fused operations. Every x86-64 CPU has it; it is the baseline there. */
#ifndef CSOFTMAX_SSE2_H
#define CSOFTMAX_SSE2_H

#include <emmintrin.h>

enum { CSM_STEP = 4, CSM_FUSED = 0 };

enum { VL_f32 = 4, VL_f64 = 2 };
typedef __m128 v_f32;
typedef __m128d v_f64;
#define CSM_OP(name, s) _mm_##name##_##s
#define CSM_INT(name) _mm_##name
#define CSM_INT_BITS(name) _mm_##name##_si128
#define CSM_TO_INT_f32 _mm_castps_si128
#define CSM_TO_INT_f64 _mm_castpd_si128
#define CSM_FROM_INT_f32 _mm_castsi128_ps
#define CSM_FROM_INT_f64 _mm_castsi128_pd
#define csm_add_to_128_f32(a) (a)
#define csm_add_to_128_f64(a) (a)
#define csm_max_to_128_f32(a) (a)
#define csm_max_to_128_f64(a) (a)
#include "x86.h"

#define CSM_HAS_BYTES 1
CSM_INLINE v_f32 select_bytes_f32(const char *on, v_f32 v, v_f32 w) {
    __m128i off = csm_zero_bytes(on, VL_f32);
    off = _mm_unpacklo_epi8(off, off);
    const v_f32 mask = _mm_castsi128_ps(_mm_unpacklo_epi16(off, off));
    return _mm_or_ps(_mm_and_ps(mask, w), _mm_andnot_ps(mask, v));
}
CSM_INLINE v_f64 select_bytes_f64(const char *on, v_f64 v, v_f64 w) {
    __m128i off = csm_zero_bytes(on, VL_f64);
    off = _mm_unpacklo_epi8(off, off);
    off = _mm_unpacklo_epi16(off, off);
    const v_f64 mask = _mm_castsi128_pd(_mm_unpacklo_epi32(off, off));
    return _mm_or_pd(_mm_and_pd(mask, w), _mm_andnot_pd(mask, v));
}

#define CSM_SSE2(T, s, all)                                                                                  \
    CSM_INLINE v_##T fma_##T(v_##T a, v_##T b, v_##T c) { return add_##T(mul_##T(a, b), c); }                \
    CSM_INLINE v_##T fnma_##T(v_##T a, v_##T b, v_##T c) { return sub_##T(c, mul_##T(a, b)); }               \
    CSM_INLINE v_##T and_eq_##T(v_##T a, v_##T b, v_##T v) { return _mm_and_##s(_mm_cmpeq_##s(a, b), v); }   \
    CSM_INLINE v_##T and_ne_##T(v_##T a, v_##T b, v_##T v) { return _mm_and_##s(_mm_cmpneq_##s(a, b), v); }  \
    CSM_INLINE v_##T and_not_lt_##T(v_##T a, v_##T b, v_##T v) {                                             \
        return _mm_and_##s(_mm_cmpnlt_##s(a, b), v);                                                         \
    }                                                                                                        \
    CSM_INLINE v_##T select_lt_##T(v_##T a, v_##T b, v_##T v, v_##T w) {                                     \
        const v_##T m = _mm_cmplt_##s(a, b);                                                                 \
        return _mm_or_##s(_mm_and_##s(m, v), _mm_andnot_##s(m, w));                                          \
    }                                                                                                        \
    CSM_INLINE int all_lt_##T(v_##T a, v_##T b) { return _mm_movemask_##s(_mm_cmplt_##s(a, b)) == all; }
CSM_SSE2(f32, ps, 0xf)
CSM_SSE2(f64, pd, 0x3)

/* two floats in the lower half of a vector */
CSM_INLINE v_f32 csm_load_2_f32(const float *p) { return _mm_castsi128_ps(_mm_loadl_epi64((const __m128i *)p)); }
CSM_INLINE void csm_store_2_f32(float *p, v_f32 a) { _mm_storel_epi64((__m128i *)p, _mm_castps_si128(a)); }
CSM_INLINE v_f64 widen_f32(const float *p) { return _mm_cvtps_pd(csm_load_2_f32(p)); }
CSM_INLINE void narrow_f32(float *p, v_f64 a) { csm_store_2_f32(p, _mm_cvtpd_ps(a)); }

#define CSM_HAS_TAILS 1
CSM_INLINE v_f32 load_n_f32(const float *p, ptrdiff_t k, float fill) {
    const v_f32 rest = set1_f32(fill);
    if (k >= 4) return load_f32(p);
    if (k < 2) return k < 1 ? rest : _mm_move_ss(rest, _mm_load_ss(p));
    return _mm_movelh_ps(csm_load_2_f32(p), k < 3 ? rest : _mm_move_ss(rest, _mm_load_ss(p + 2)));
}
CSM_INLINE void store_n_f32(float *p, ptrdiff_t k, v_f32 a) {
    if (k >= 4) {
        store_f32(p, a);
        return;
    }
    if (k >= 2) {
        csm_store_2_f32(p, a);
        a = _mm_movehl_ps(a, a);
        p += 2;
    }
    if (k & 1) _mm_store_ss(p, a);
}
CSM_INLINE v_f64 load_n_f64(const double *p, ptrdiff_t k, double fill) {
    const v_f64 rest = set1_f64(fill);
    return k >= 2 ? load_f64(p) : k < 1 ? rest : _mm_move_sd(rest, _mm_load_sd(p));
}
CSM_INLINE void store_n_f64(double *p, ptrdiff_t k, v_f64 a) {
    if (k >= 2) store_f64(p, a);
    else if (k == 1) _mm_store_sd(p, a);
}

#define fold_f32 csm_fold_in_128_f32
#define fold_f64(a, b, d) ((void)(d), csm_fold_in_128_f64(a, b))
#define in_order_f32(a) (a)
#define in_order_f64(a) (a)
#define swap_f32(a, d) (a)
#define swap_f64(a, d) (a)
CSM_INLINE v_f32 spread_f32(v_f32 a, const int i) {
    return i == 0   ? _mm_shuffle_ps(a, a, 0x00)
           : i == 1 ? _mm_shuffle_ps(a, a, 0x55)
           : i == 2 ? _mm_shuffle_ps(a, a, 0xaa)
                    : _mm_shuffle_ps(a, a, 0xff);
}
CSM_INLINE v_f64 spread_f64(v_f64 a, const int i) { return i == 0 ? _mm_unpacklo_pd(a, a) : _mm_unpackhi_pd(a, a); }

/* the lower, and the upper, lanes of a and b */
#define csm_low_lanes_f64 _mm_unpacklo_pd
#define csm_high_lanes_f64 _mm_unpackhi_pd

#endif /* CSOFTMAX_SSE2_H */
