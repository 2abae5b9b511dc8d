/* Lane primitives: one short vocabulary over AVX-512, AVX2 + FMA, SSE2, NEON and plain C.
 *
 * The level is the one the compiler was asked for. Every primitive exists for both precisions, with the
 * suffix _f32 or _f64; VL_f32 and VL_f64 are the lanes of a vector. C, not C++: inline templates would merge
 * across objects that were built for different levels.
 *
 * max(a, b) is "a > b ? a : b": a NaN in a is passed over, a NaN in b stays.
 */
#ifndef CSOFTMAX_SIMD_H
#define CSOFTMAX_SIMD_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define CSM_AVX512 1
#elif defined(__AVX2__) && (defined(__FMA__) || defined(_MSC_VER))
#define CSM_AVX2 1
#elif defined(__SSE2__) || defined(_M_X64)
#define CSM_SSE2 1
#elif defined(__aarch64__) || defined(_M_ARM64)
#define CSM_NEON 1
#else
#define CSM_SCALAR 1
#endif

#if defined(CSM_AVX512) || defined(CSM_AVX2) || defined(CSM_SSE2)
#define CSM_X86 1
#include <immintrin.h>
#elif defined(CSM_NEON)
#include <arm_neon.h>
#endif

#if defined(_MSC_VER)
#define CSM_INLINE static __forceinline
#define CSM_ALIGN(n) __declspec(align(n))
#define CSM_ONCE __declspec(noinline)
#else
#define CSM_INLINE static inline __attribute__((always_inline, unused))
#define CSM_ALIGN(n) __attribute__((aligned(n)))
/* large, and no better for being specialised */
#if defined(__clang__)
#define CSM_ONCE __attribute__((noinline))
#else
#define CSM_ONCE __attribute__((noinline, noclone))
#endif
#endif

#if defined(__GNUC__) || defined(__clang__)
#define csm_prefetch(p) __builtin_prefetch((p), 0, 3)
#define csm_prefetch_write(p) __builtin_prefetch((p), 1, 3)
#define csm_prefetch_next(p) __builtin_prefetch((p), 0, 2)
#else
#define csm_prefetch(p) ((void)(p))
#define csm_prefetch_next(p) ((void)(p))
#define csm_prefetch_write(p) ((void)(p))
#endif

CSM_INLINE float csm_float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

CSM_INLINE uint32_t csm_bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* ------------------------------------------------------------------------------------------------ x86 */
#if defined(CSM_X86)

#if defined(CSM_AVX512)
enum { VL_f32 = 16, VL_f64 = 8 };
typedef __m512 v_f32;
typedef __m512d v_f64;
#define CSM_OP(name, s) _mm512_##name##_##s
#define CSM_CAST_IN_f32 _mm512_castps_si512
#define CSM_CAST_IN_f64 _mm512_castpd_si512
#define CSM_CAST_OUT_f32 _mm512_castsi512_ps
#define CSM_CAST_OUT_f64 _mm512_castsi512_pd
#define CSM_INT(name) _mm512_##name
#define CSM_INT_LOGIC(name) _mm512_##name##_si512
#elif defined(CSM_AVX2)
enum { VL_f32 = 8, VL_f64 = 4 };
typedef __m256 v_f32;
typedef __m256d v_f64;
#define CSM_OP(name, s) _mm256_##name##_##s
#define CSM_CAST_IN_f32 _mm256_castps_si256
#define CSM_CAST_IN_f64 _mm256_castpd_si256
#define CSM_CAST_OUT_f32 _mm256_castsi256_ps
#define CSM_CAST_OUT_f64 _mm256_castsi256_pd
#define CSM_INT(name) _mm256_##name
#define CSM_INT_LOGIC(name) _mm256_##name##_si256
#else
enum { VL_f32 = 4, VL_f64 = 2 };
typedef __m128 v_f32;
typedef __m128d v_f64;
#define CSM_OP(name, s) _mm_##name##_##s
#define CSM_CAST_IN_f32 _mm_castps_si128
#define CSM_CAST_IN_f64 _mm_castpd_si128
#define CSM_CAST_OUT_f32 _mm_castsi128_ps
#define CSM_CAST_OUT_f64 _mm_castsi128_pd
#define CSM_INT(name) _mm_##name
#define CSM_INT_LOGIC(name) _mm_##name##_si128
#endif

#define CSM_COMMON(T, R, s)                                                                                  \
    CSM_INLINE v_##T set1_##T(R a) { return CSM_OP(set1, s)(a); }                                            \
    CSM_INLINE v_##T load_##T(const R *p) { return CSM_OP(loadu, s)(p); }                                    \
    CSM_INLINE void store_##T(R *p, v_##T a) { CSM_OP(storeu, s)(p, a); }                                    \
    CSM_INLINE void stream_##T(R *p, v_##T a) { CSM_OP(stream, s)(p, a); }                                   \
    CSM_INLINE v_##T add_##T(v_##T a, v_##T b) { return CSM_OP(add, s)(a, b); }                              \
    CSM_INLINE v_##T sub_##T(v_##T a, v_##T b) { return CSM_OP(sub, s)(a, b); }                              \
    CSM_INLINE v_##T mul_##T(v_##T a, v_##T b) { return CSM_OP(mul, s)(a, b); }                              \
    CSM_INLINE v_##T div_##T(v_##T a, v_##T b) { return CSM_OP(div, s)(a, b); }                              \
    CSM_INLINE v_##T max_##T(v_##T a, v_##T b) { return CSM_OP(max, s)(a, b); }

CSM_COMMON(f32, float, ps)
CSM_COMMON(f64, double, pd)

CSM_INLINE void csm_stream_fence(void) { _mm_sfence(); }

#if defined(CSM_SSE2)
#define CSM_FUSED(T, s)                                                                                      \
    CSM_INLINE v_##T fma_##T(v_##T a, v_##T b, v_##T c) { return add_##T(mul_##T(a, b), c); }                \
    CSM_INLINE v_##T fnma_##T(v_##T a, v_##T b, v_##T c) { return sub_##T(c, mul_##T(a, b)); }
#else
#define CSM_FUSED(T, s)                                                                                      \
    CSM_INLINE v_##T fma_##T(v_##T a, v_##T b, v_##T c) { return CSM_OP(fmadd, s)(a, b, c); }                \
    CSM_INLINE v_##T fnma_##T(v_##T a, v_##T b, v_##T c) { return CSM_OP(fnmadd, s)(a, b, c); }
#endif
CSM_FUSED(f32, ps)
CSM_FUSED(f64, pd)

/* VL_f64 floats as doubles, and back, rounded. */
#if defined(CSM_AVX512)
CSM_INLINE v_f64 widen_f32(const float *p) { return _mm512_cvtps_pd(_mm256_loadu_ps(p)); }
CSM_INLINE void narrow_f32(float *p, v_f64 a) { _mm256_storeu_ps(p, _mm512_cvtpd_ps(a)); }
#elif defined(CSM_AVX2)
CSM_INLINE v_f64 widen_f32(const float *p) { return _mm256_cvtps_pd(_mm_loadu_ps(p)); }
CSM_INLINE void narrow_f32(float *p, v_f64 a) { _mm_storeu_ps(p, _mm256_cvtpd_ps(a)); }
#else
CSM_INLINE v_f64 widen_f32(const float *p) {
    return _mm_cvtps_pd(_mm_castsi128_ps(_mm_loadl_epi64((const __m128i *)p)));
}
CSM_INLINE void narrow_f32(float *p, v_f64 a) {
    _mm_storel_epi64((__m128i *)p, _mm_castps_si128(_mm_cvtpd_ps(a)));
}
#endif

/* Comparisons that select: keep(d, lo, e) is 0 where d < lo; the others keep v where the relation holds,
 * "ne" also where either is NaN. */
#if defined(CSM_AVX512)
#define CSM_COMPARE(T, R, s)                                                                                 \
    CSM_INLINE v_##T keep_##T(v_##T d, v_##T lo, v_##T v) {                                                  \
        return CSM_OP(maskz_mov, s)(_mm512_cmp_##s##_mask(d, lo, _CMP_NLT_UQ), v);                           \
    }                                                                                                        \
    CSM_INLINE v_##T and_eq_##T(v_##T a, v_##T b, v_##T v) {                                                 \
        return CSM_OP(maskz_mov, s)(_mm512_cmp_##s##_mask(a, b, _CMP_EQ_OQ), v);                             \
    }                                                                                                        \
    CSM_INLINE v_##T and_ne_##T(v_##T a, v_##T b, v_##T v) {                                                 \
        return CSM_OP(maskz_mov, s)(_mm512_cmp_##s##_mask(a, b, _CMP_NEQ_UQ), v);                            \
    }                                                                                                        \
    CSM_INLINE v_##T select_lt_##T(v_##T a, v_##T b, v_##T yes, v_##T no) {                                  \
        return CSM_OP(mask_mov, s)(no, _mm512_cmp_##s##_mask(a, b, _CMP_LT_OQ), yes);                        \
    }
#else
#if defined(CSM_AVX2)
#define CSM_CMP(s, a, b, name) _mm256_cmp_##s(a, b, name)
#define CSM_NLT _CMP_NLT_UQ
#define CSM_EQ _CMP_EQ_OQ
#define CSM_NE _CMP_NEQ_UQ
#define CSM_LT _CMP_LT_OQ
#else
#define CSM_CMP(s, a, b, name) CSM_CMP_(s, a, b, name)
#define CSM_CMP_(s, a, b, name) _mm_##name##_##s(a, b)
#define CSM_NLT cmpnlt
#define CSM_EQ cmpeq
#define CSM_NE cmpneq
#define CSM_LT cmplt
#endif
#define CSM_COMPARE(T, R, s)                                                                                 \
    CSM_INLINE v_##T keep_##T(v_##T d, v_##T lo, v_##T v) {                                                  \
        return CSM_OP(and, s)(CSM_CMP(s, d, lo, CSM_NLT), v);                                                \
    }                                                                                                        \
    CSM_INLINE v_##T and_eq_##T(v_##T a, v_##T b, v_##T v) {                                                 \
        return CSM_OP(and, s)(CSM_CMP(s, a, b, CSM_EQ), v);                                                  \
    }                                                                                                        \
    CSM_INLINE v_##T and_ne_##T(v_##T a, v_##T b, v_##T v) {                                                 \
        return CSM_OP(and, s)(CSM_CMP(s, a, b, CSM_NE), v);                                                  \
    }                                                                                                        \
    CSM_INLINE v_##T select_lt_##T(v_##T a, v_##T b, v_##T yes, v_##T no) {                                  \
        const v_##T m = CSM_CMP(s, a, b, CSM_LT);                                                            \
        return CSM_OP(or, s)(CSM_OP(and, s)(m, yes), CSM_OP(andnot, s)(m, no));                              \
    }
#endif
CSM_COMPARE(f32, float, ps)
CSM_COMPARE(f64, double, pd)

/* sum_apart adds the lanes of v where d is not 0 (or NaN) to the total, and counts the others. */
#if defined(CSM_AVX512)
#define CSM_APART(T, R, s)                                                                                   \
    CSM_INLINE void sum_apart_##T(v_##T d, v_##T v, v_##T *total, v_##T *ties) {                             \
        const unsigned tied = _mm512_cmp_##s##_mask(d, set1_##T(0), _CMP_EQ_OQ);                             \
        *ties = CSM_OP(mask_add, s)(*ties, tied, *ties, set1_##T(1));                                        \
        *total = CSM_OP(mask_add, s)(*total, ~tied, *total, v);                                              \
    }
CSM_APART(f32, float, ps)
CSM_APART(f64, double, pd)
#endif

/* select_bytes(on, yes, no) has the lanes of yes where a byte of on[VL] is not 0, else those of no. */
#if defined(CSM_AVX512)
CSM_INLINE v_f32 select_bytes_f32(const char *on, v_f32 yes, v_f32 no) {
    const __m128i b = _mm_loadu_si128((const __m128i *)on);
    return _mm512_mask_mov_ps(no, _mm_test_epi8_mask(b, b), yes);
}
CSM_INLINE v_f64 select_bytes_f64(const char *on, v_f64 yes, v_f64 no) {
    const __m128i b = _mm_loadl_epi64((const __m128i *)on);
    return _mm512_mask_mov_pd(no, (__mmask8)_mm_test_epi8_mask(b, b), yes);
}
#else
/* k bytes, each all ones where it was 0 */
CSM_INLINE __m128i csm_zero_bytes(const char *on, const size_t k) {
    __m128i b = _mm_setzero_si128();
    memcpy(&b, on, k);
    return _mm_cmpeq_epi8(b, _mm_setzero_si128());
}
#if defined(CSM_AVX2)
CSM_INLINE v_f32 select_bytes_f32(const char *on, v_f32 yes, v_f32 no) {
    return _mm256_blendv_ps(yes, no, _mm256_castsi256_ps(_mm256_cvtepi8_epi32(csm_zero_bytes(on, 8))));
}
CSM_INLINE v_f64 select_bytes_f64(const char *on, v_f64 yes, v_f64 no) {
    return _mm256_blendv_pd(yes, no, _mm256_castsi256_pd(_mm256_cvtepi8_epi64(csm_zero_bytes(on, 4))));
}
#else
CSM_INLINE v_f32 select_bytes_f32(const char *on, v_f32 yes, v_f32 no) {
    __m128i off = csm_zero_bytes(on, 4);
    off = _mm_unpacklo_epi8(off, off);
    const v_f32 m = _mm_castsi128_ps(_mm_unpacklo_epi16(off, off));
    return _mm_or_ps(_mm_and_ps(m, no), _mm_andnot_ps(m, yes));
}
CSM_INLINE v_f64 select_bytes_f64(const char *on, v_f64 yes, v_f64 no) {
    __m128i off = csm_zero_bytes(on, 2);
    off = _mm_unpacklo_epi8(off, off);
    off = _mm_unpacklo_epi16(off, off);
    const v_f64 m = _mm_castsi128_pd(_mm_unpacklo_epi32(off, off));
    return _mm_or_pd(_mm_and_pd(m, no), _mm_andnot_pd(m, yes));
}
#endif
#endif

/* Tails: the first k lanes, 0 <= k <= VL; no byte beyond them is touched. */
#if defined(CSM_AVX512)
#define CSM_TAIL(T, R, s, M)                                                                                 \
    CSM_INLINE v_##T load_n_##T(const R *p, ptrdiff_t k, R fill) {                                           \
        return CSM_OP(mask_loadu, s)(set1_##T(fill), (M)((1u << k) - 1u), p);                                \
    }                                                                                                        \
    CSM_INLINE void store_n_##T(R *p, ptrdiff_t k, v_##T a) {                                                \
        CSM_OP(mask_storeu, s)(p, (M)((1u << k) - 1u), a);                                                   \
    }
CSM_TAIL(f32, float, ps, __mmask16)
CSM_TAIL(f64, double, pd, __mmask8)
#elif defined(CSM_AVX2)
static const int32_t csm_tail_mask[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
#define CSM_TAIL(T, R, s, per)                                                                               \
    CSM_INLINE v_##T load_n_##T(const R *p, ptrdiff_t k, R fill) {                                           \
        const __m256i m = _mm256_loadu_si256((const __m256i *)(csm_tail_mask + 8 - per * k));                \
        return CSM_OP(blendv, s)(set1_##T(fill), CSM_OP(maskload, s)(p, m), CSM_CAST_OUT_##T(m));            \
    }                                                                                                        \
    CSM_INLINE void store_n_##T(R *p, ptrdiff_t k, v_##T a) {                                                \
        const __m256i m = _mm256_loadu_si256((const __m256i *)(csm_tail_mask + 8 - per * k));                \
        CSM_OP(maskstore, s)(p, m, a);                                                                       \
    }
CSM_TAIL(f32, float, ps, 1)
CSM_TAIL(f64, double, pd, 2)
#else
CSM_INLINE v_f32 load_n_f32(const float *p, ptrdiff_t k, float fill) {
    const v_f32 rest = set1_f32(fill);
    if (k >= 4) return load_f32(p);
    if (k < 2) return k < 1 ? rest : _mm_move_ss(rest, _mm_load_ss(p));
    const v_f32 two = _mm_castsi128_ps(_mm_loadl_epi64((const __m128i *)p));
    return _mm_movelh_ps(two, k < 3 ? rest : _mm_move_ss(rest, _mm_load_ss(p + 2)));
}
CSM_INLINE void store_n_f32(float *p, ptrdiff_t k, v_f32 a) {
    if (k >= 4) {
        store_f32(p, a);
        return;
    }
    if (k >= 2) {
        _mm_storel_epi64((__m128i *)p, _mm_castps_si128(a));
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
#endif

/* The bits of a vector as integers of the same width. */
#define CSM_INTEGER(T, R, I, epi)                                                                            \
    CSM_INLINE v_##T bits_add_##T(v_##T a, v_##T b) {                                                        \
        return CSM_CAST_OUT_##T(CSM_INT(add_##epi)(CSM_CAST_IN_##T(a), CSM_CAST_IN_##T(b)));                 \
    }                                                                                                        \
    CSM_INLINE v_##T bits_and_##T(v_##T a, v_##T b) {                                                        \
        return CSM_CAST_OUT_##T(CSM_INT_LOGIC(and)(CSM_CAST_IN_##T(a), CSM_CAST_IN_##T(b)));                 \
    }                                                                                                        \
    CSM_INLINE v_##T bits_or_##T(v_##T a, v_##T b) {                                                         \
        return CSM_CAST_OUT_##T(CSM_INT_LOGIC(or)(CSM_CAST_IN_##T(a), CSM_CAST_IN_##T(b)));                  \
    }
CSM_INTEGER(f32, float, int32_t, epi32)
CSM_INTEGER(f64, double, int64_t, epi64)
#define bits_shl_f32(a, k) CSM_CAST_OUT_f32(CSM_INT(slli_epi32)(CSM_CAST_IN_f32(a), k))
#define bits_shr_f32(a, k) CSM_CAST_OUT_f32(CSM_INT(srli_epi32)(CSM_CAST_IN_f32(a), k))
#define bits_shl_f64(a, k) CSM_CAST_OUT_f64(CSM_INT(slli_epi64)(CSM_CAST_IN_f64(a), k))
#define bits_shr_f64(a, k) CSM_CAST_OUT_f64(CSM_INT(srli_epi64)(CSM_CAST_IN_f64(a), k))

/* Horizontal reductions halve: lane i meets lane i + VL/2, then i + VL/4, ... */
#define CSM_HORIZONTAL_128(name)                                                                             \
    CSM_INLINE float h##name##_128_f32(__m128 a) {                                                           \
        a = _mm_##name##_ps(a, _mm_movehl_ps(a, a));                                                         \
        return _mm_cvtss_f32(_mm_##name##_ss(a, _mm_shuffle_ps(a, a, 1)));                                   \
    }                                                                                                        \
    CSM_INLINE double h##name##_128_f64(__m128d a) {                                                         \
        return _mm_cvtsd_f64(_mm_##name##_sd(a, _mm_unpackhi_pd(a, a)));                                     \
    }
CSM_HORIZONTAL_128(add)
CSM_HORIZONTAL_128(max)
/* the two halves that hadd adds last */
CSM_INLINE void hpair_128_f32(__m128 a, float *low, float *high) {
    a = _mm_add_ps(a, _mm_movehl_ps(a, a));
    *low = _mm_cvtss_f32(a);
    *high = _mm_cvtss_f32(_mm_shuffle_ps(a, a, 1));
}
CSM_INLINE void hpair_128_f64(__m128d a, double *low, double *high) {
    *low = _mm_cvtsd_f64(a);
    *high = _mm_cvtsd_f64(_mm_unpackhi_pd(a, a));
}
#if defined(CSM_SSE2)
#define hpair_f32 hpair_128_f32
#define hpair_f64 hpair_128_f64
#define CSM_HORIZONTAL(name)                                                                                 \
    CSM_INLINE float h##name##_f32(v_f32 a) { return h##name##_128_f32(a); }                                 \
    CSM_INLINE double h##name##_f64(v_f64 a) { return h##name##_128_f64(a); }
#else
#define CSM_HORIZONTAL_256(name)                                                                             \
    CSM_INLINE float h##name##_256_f32(__m256 a) {                                                           \
        return h##name##_128_f32(_mm_##name##_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1)));   \
    }                                                                                                        \
    CSM_INLINE double h##name##_256_f64(__m256d a) {                                                         \
        return h##name##_128_f64(_mm_##name##_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1)));   \
    }
CSM_HORIZONTAL_256(add)
CSM_HORIZONTAL_256(max)
CSM_INLINE void hpair_256_f32(__m256 a, float *low, float *high) {
    hpair_128_f32(_mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1)), low, high);
}
CSM_INLINE void hpair_256_f64(__m256d a, double *low, double *high) {
    hpair_128_f64(_mm_add_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1)), low, high);
}
#if defined(CSM_AVX2)
#define hpair_f32 hpair_256_f32
#define hpair_f64 hpair_256_f64
#define CSM_HORIZONTAL(name)                                                                                 \
    CSM_INLINE float h##name##_f32(v_f32 a) { return h##name##_256_f32(a); }                                 \
    CSM_INLINE double h##name##_f64(v_f64 a) { return h##name##_256_f64(a); }
#else
#define CSM_HORIZONTAL(name)                                                                                 \
    CSM_INLINE float h##name##_f32(v_f32 a) {                                                                \
        return h##name##_256_f32(                                                                            \
            _mm256_##name##_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1)));                    \
    }                                                                                                        \
    CSM_INLINE double h##name##_f64(v_f64 a) {                                                               \
        return h##name##_256_f64(                                                                            \
            _mm256_##name##_pd(_mm512_castpd512_pd256(a), _mm512_extractf64x4_pd(a, 1)));                    \
    }
CSM_INLINE void hpair_f32(v_f32 a, float *low, float *high) {
    hpair_256_f32(_mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1)), low, high);
}
CSM_INLINE void hpair_f64(v_f64 a, double *low, double *high) {
    hpair_256_f64(_mm256_add_pd(_mm512_castpd512_pd256(a), _mm512_extractf64x4_pd(a, 1)), low, high);
}
#endif
#endif
CSM_HORIZONTAL(add)
CSM_HORIZONTAL(max)

/* VL vectors, one a row, added up at once: lane r of the result is hadd of row r. */
#if defined(CSM_AVX512)
CSM_INLINE v_f32 hadd_rows_f32(const v_f32 *r) {
    v_f32 a[8], b[4], c[2];
    for (int i = 0; i < 8; i++)
        a[i] = _mm512_add_ps(_mm512_shuffle_f32x4(r[2 * i], r[2 * i + 1], 0x44),
                            _mm512_shuffle_f32x4(r[2 * i], r[2 * i + 1], 0xee));
    for (int i = 0; i < 4; i++)
        b[i] = _mm512_add_ps(_mm512_shuffle_f32x4(a[2 * i], a[2 * i + 1], 0x88),
                            _mm512_shuffle_f32x4(a[2 * i], a[2 * i + 1], 0xdd));
    for (int i = 0; i < 2; i++)
        c[i] = _mm512_add_ps(_mm512_shuffle_ps(b[2 * i], b[2 * i + 1], 0x44),
                            _mm512_shuffle_ps(b[2 * i], b[2 * i + 1], 0xee));
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    c[0] = _mm512_add_ps(_mm512_shuffle_ps(c[0], c[1], 0x88), _mm512_shuffle_ps(c[0], c[1], 0xdd));
    return _mm512_permutexvar_ps(order, c[0]);
}
CSM_INLINE v_f64 hadd_rows_f64(const v_f64 *r) {
    v_f64 a[4], b[2];
    for (int i = 0; i < 4; i++)
        a[i] = _mm512_add_pd(_mm512_shuffle_f64x2(r[2 * i], r[2 * i + 1], 0x44),
                            _mm512_shuffle_f64x2(r[2 * i], r[2 * i + 1], 0xee));
    for (int i = 0; i < 2; i++)
        b[i] = _mm512_add_pd(_mm512_shuffle_f64x2(a[2 * i], a[2 * i + 1], 0x88),
                            _mm512_shuffle_f64x2(a[2 * i], a[2 * i + 1], 0xdd));
    const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    b[0] = _mm512_add_pd(_mm512_unpacklo_pd(b[0], b[1]), _mm512_unpackhi_pd(b[0], b[1]));
    return _mm512_permutexvar_pd(order, b[0]);
}
#elif defined(CSM_AVX2)
CSM_INLINE v_f32 hadd_rows_f32(const v_f32 *r) {
    v_f32 a[4], b[2];
    for (int i = 0; i < 4; i++)
        a[i] = _mm256_add_ps(_mm256_permute2f128_ps(r[2 * i], r[2 * i + 1], 0x20),
                            _mm256_permute2f128_ps(r[2 * i], r[2 * i + 1], 0x31));
    for (int i = 0; i < 2; i++)
        b[i] = _mm256_add_ps(_mm256_shuffle_ps(a[2 * i], a[2 * i + 1], 0x44),
                            _mm256_shuffle_ps(a[2 * i], a[2 * i + 1], 0xee));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    b[0] = _mm256_add_ps(_mm256_shuffle_ps(b[0], b[1], 0x88), _mm256_shuffle_ps(b[0], b[1], 0xdd));
    return _mm256_permutevar8x32_ps(b[0], order);
}
CSM_INLINE v_f64 hadd_rows_f64(const v_f64 *r) {
    v_f64 a[2];
    for (int i = 0; i < 2; i++)
        a[i] = _mm256_add_pd(_mm256_permute2f128_pd(r[2 * i], r[2 * i + 1], 0x20),
                            _mm256_permute2f128_pd(r[2 * i], r[2 * i + 1], 0x31));
    a[0] = _mm256_add_pd(_mm256_unpacklo_pd(a[0], a[1]), _mm256_unpackhi_pd(a[0], a[1]));
    return _mm256_permute4x64_pd(a[0], 0xd8);
}
#else
CSM_INLINE v_f32 hadd_rows_f32(const v_f32 *r) {
    const v_f32 a = _mm_add_ps(_mm_shuffle_ps(r[0], r[1], 0x44), _mm_shuffle_ps(r[0], r[1], 0xee));
    const v_f32 b = _mm_add_ps(_mm_shuffle_ps(r[2], r[3], 0x44), _mm_shuffle_ps(r[2], r[3], 0xee));
    return _mm_add_ps(_mm_shuffle_ps(a, b, 0x88), _mm_shuffle_ps(a, b, 0xdd));
}
CSM_INLINE v_f64 hadd_rows_f64(const v_f64 *r) {
    return _mm_add_pd(_mm_unpacklo_pd(r[0], r[1]), _mm_unpackhi_pd(r[0], r[1]));
}
#endif

/* whether the magnitudes of all lanes are below a limit; NaN is not */
#if defined(CSM_AVX512)
CSM_INLINE int all_below_f32(v_f32 a, float limit) {
    return _mm512_cmp_ps_mask(_mm512_abs_ps(a), _mm512_set1_ps(limit), _CMP_LT_OQ) == 0xffff;
}
CSM_INLINE int all_below_f64(v_f64 a, double limit) {
    return _mm512_cmp_pd_mask(_mm512_abs_pd(a), _mm512_set1_pd(limit), _CMP_LT_OQ) == 0xff;
}
#elif defined(CSM_AVX2)
CSM_INLINE int all_below_f32(v_f32 a, float limit) {
    a = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
    return _mm256_movemask_ps(_mm256_cmp_ps(a, _mm256_set1_ps(limit), _CMP_LT_OQ)) == 0xff;
}
CSM_INLINE int all_below_f64(v_f64 a, double limit) {
    a = _mm256_andnot_pd(_mm256_set1_pd(-0.0), a);
    return _mm256_movemask_pd(_mm256_cmp_pd(a, _mm256_set1_pd(limit), _CMP_LT_OQ)) == 0xf;
}
#else
CSM_INLINE int all_below_f32(v_f32 a, float limit) {
    a = _mm_andnot_ps(_mm_set1_ps(-0.0f), a);
    return _mm_movemask_ps(_mm_cmplt_ps(a, _mm_set1_ps(limit))) == 0xf;
}
CSM_INLINE int all_below_f64(v_f64 a, double limit) {
    a = _mm_andnot_pd(_mm_set1_pd(-0.0), a);
    return _mm_movemask_pd(_mm_cmplt_pd(a, _mm_set1_pd(limit))) == 0x3;
}
#endif

/* Four vectors, one a row: each becomes its own hadd, scaled, in every lane. */
#if defined(CSM_AVX512)
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
#elif defined(CSM_AVX2)
CSM_INLINE void hadd_four_f32(v_f32 *r, float scale) {
    v_f32 a[2];
    for (int i = 0; i < 2; i++)
        a[i] = _mm256_add_ps(_mm256_permute2f128_ps(r[2 * i], r[2 * i + 1], 0x20),
                            _mm256_permute2f128_ps(r[2 * i], r[2 * i + 1], 0x31));
    a[0] = _mm256_add_ps(_mm256_shuffle_ps(a[0], a[1], 0x44), _mm256_shuffle_ps(a[0], a[1], 0xee));
    a[0] = _mm256_mul_ps(_mm256_add_ps(a[0], _mm256_permute_ps(a[0], 0xb1)), _mm256_set1_ps(scale));
    a[1] = _mm256_permute_ps(a[0], 0xff);
    a[0] = _mm256_permute_ps(a[0], 0x00);
    r[0] = _mm256_permute2f128_ps(a[0], a[0], 0x00);
    r[1] = _mm256_permute2f128_ps(a[0], a[0], 0x11);
    r[2] = _mm256_permute2f128_ps(a[1], a[1], 0x00);
    r[3] = _mm256_permute2f128_ps(a[1], a[1], 0x11);
}
CSM_INLINE void hadd_four_f64(v_f64 *r, double scale) {
    const v_f64 a = _mm256_mul_pd(hadd_rows_f64(r), _mm256_set1_pd(scale));
    r[0] = _mm256_permute4x64_pd(a, 0x00);
    r[1] = _mm256_permute4x64_pd(a, 0x55);
    r[2] = _mm256_permute4x64_pd(a, 0xaa);
    r[3] = _mm256_permute4x64_pd(a, 0xff);
}
#else
CSM_INLINE void hadd_four_f32(v_f32 *r, float scale) {
    const v_f32 a = _mm_mul_ps(hadd_rows_f32(r), _mm_set1_ps(scale));
    r[0] = _mm_shuffle_ps(a, a, 0x00);
    r[1] = _mm_shuffle_ps(a, a, 0x55);
    r[2] = _mm_shuffle_ps(a, a, 0xaa);
    r[3] = _mm_shuffle_ps(a, a, 0xff);
}
CSM_INLINE void hadd_four_f64(v_f64 *r, double scale) {
    for (int i = 0; i < 4; i += 2) {
        const v_f64 a = _mm_mul_pd(hadd_rows_f64(r + i), _mm_set1_pd(scale));
        r[i] = _mm_unpacklo_pd(a, a);
        r[i + 1] = _mm_unpackhi_pd(a, a);
    }
}
#endif

#endif /* CSM_X86 */

/* ----------------------------------------------------------------------------------------------- NEON */
#if defined(CSM_NEON)
enum { VL_f32 = 4, VL_f64 = 2 };
typedef float32x4_t v_f32;
typedef float64x2_t v_f64;

#define CSM_NEON_OPS(T, R, q, u, U)                                                                          \
    CSM_INLINE v_##T set1_##T(R a) { return vdupq_n_##q(a); }                                                \
    CSM_INLINE v_##T load_##T(const R *p) { return vld1q_##q(p); }                                           \
    CSM_INLINE void store_##T(R *p, v_##T a) { vst1q_##q(p, a); }                                            \
    CSM_INLINE void stream_##T(R *p, v_##T a) { vst1q_##q(p, a); }                                           \
    CSM_INLINE v_##T add_##T(v_##T a, v_##T b) { return vaddq_##q(a, b); }                                   \
    CSM_INLINE v_##T sub_##T(v_##T a, v_##T b) { return vsubq_##q(a, b); }                                   \
    CSM_INLINE v_##T mul_##T(v_##T a, v_##T b) { return vmulq_##q(a, b); }                                   \
    CSM_INLINE v_##T div_##T(v_##T a, v_##T b) { return vdivq_##q(a, b); }                                   \
    CSM_INLINE v_##T fma_##T(v_##T a, v_##T b, v_##T c) { return vfmaq_##q(c, a, b); }                       \
    CSM_INLINE v_##T fnma_##T(v_##T a, v_##T b, v_##T c) { return vfmsq_##q(c, a, b); }                      \
    CSM_INLINE v_##T max_##T(v_##T a, v_##T b) { return vbslq_##q(vcgtq_##q(a, b), a, b); }                  \
    CSM_INLINE v_##T keep_##T(v_##T d, v_##T lo, v_##T v) {                                                  \
        return vbslq_##q(vcltq_##q(d, lo), vdupq_n_##q(0), v);                                               \
    }                                                                                                        \
    CSM_INLINE v_##T and_eq_##T(v_##T a, v_##T b, v_##T v) {                                                 \
        return vbslq_##q(vceqq_##q(a, b), v, vdupq_n_##q(0));                                                \
    }                                                                                                        \
    CSM_INLINE v_##T and_ne_##T(v_##T a, v_##T b, v_##T v) {                                                 \
        return vbslq_##q(vceqq_##q(a, b), vdupq_n_##q(0), v);                                                \
    }                                                                                                        \
    CSM_INLINE v_##T select_lt_##T(v_##T a, v_##T b, v_##T yes, v_##T no) {                                  \
        return vbslq_##q(vcltq_##q(a, b), yes, no);                                                          \
    }                                                                                                        \
    CSM_INLINE v_##T bits_add_##T(v_##T a, v_##T b) {                                                        \
        return vreinterpretq_##q##_##u(vaddq_##u(vreinterpretq_##u##_##q(a), vreinterpretq_##u##_##q(b)));   \
    }                                                                                                        \
    CSM_INLINE v_##T bits_and_##T(v_##T a, v_##T b) {                                                        \
        return vreinterpretq_##q##_##u(vandq_##u(vreinterpretq_##u##_##q(a), vreinterpretq_##u##_##q(b)));   \
    }                                                                                                        \
    CSM_INLINE v_##T bits_or_##T(v_##T a, v_##T b) {                                                         \
        return vreinterpretq_##q##_##u(vorrq_##u(vreinterpretq_##u##_##q(a), vreinterpretq_##u##_##q(b)));   \
    }
CSM_NEON_OPS(f32, float, f32, u32, uint32_t)
CSM_NEON_OPS(f64, double, f64, u64, uint64_t)
#define bits_shl_f32(a, k) vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(a), k))
#define bits_shr_f32(a, k) vreinterpretq_f32_u32(vshrq_n_u32(vreinterpretq_u32_f32(a), k))
#define bits_shl_f64(a, k) vreinterpretq_f64_u64(vshlq_n_u64(vreinterpretq_u64_f64(a), k))
#define bits_shr_f64(a, k) vreinterpretq_f64_u64(vshrq_n_u64(vreinterpretq_u64_f64(a), k))
CSM_INLINE v_f64 widen_f32(const float *p) { return vcvt_f64_f32(vld1_f32(p)); }
CSM_INLINE void narrow_f32(float *p, v_f64 a) { vst1_f32(p, vcvt_f32_f64(a)); }
CSM_INLINE void csm_stream_fence(void) {}
#endif

/* --------------------------------------------------------------------------------------------- plain C */
#if defined(CSM_SCALAR)
enum { VL_f32 = 1, VL_f64 = 1 };
typedef float v_f32;
typedef double v_f64;

#define CSM_SCALAR_OPS(T, R, U)                                                                              \
    CSM_INLINE v_##T set1_##T(R a) { return a; }                                                             \
    CSM_INLINE v_##T load_##T(const R *p) { return *p; }                                                     \
    CSM_INLINE void store_##T(R *p, v_##T a) { *p = a; }                                                     \
    CSM_INLINE void stream_##T(R *p, v_##T a) { *p = a; }                                                    \
    CSM_INLINE v_##T add_##T(v_##T a, v_##T b) { return a + b; }                                             \
    CSM_INLINE v_##T sub_##T(v_##T a, v_##T b) { return a - b; }                                             \
    CSM_INLINE v_##T mul_##T(v_##T a, v_##T b) { return a * b; }                                             \
    CSM_INLINE v_##T div_##T(v_##T a, v_##T b) { return a / b; }                                             \
    CSM_INLINE v_##T fma_##T(v_##T a, v_##T b, v_##T c) { return a * b + c; }                                \
    CSM_INLINE v_##T fnma_##T(v_##T a, v_##T b, v_##T c) { return c - a * b; }                               \
    CSM_INLINE v_##T max_##T(v_##T a, v_##T b) { return a > b ? a : b; }                                     \
    CSM_INLINE v_##T keep_##T(v_##T d, v_##T lo, v_##T v) { return d < lo ? 0 : v; }                         \
    CSM_INLINE v_##T and_eq_##T(v_##T a, v_##T b, v_##T v) { return a == b ? v : 0; }                        \
    CSM_INLINE v_##T and_ne_##T(v_##T a, v_##T b, v_##T v) { return a == b ? 0 : v; }                        \
    CSM_INLINE v_##T select_lt_##T(v_##T a, v_##T b, v_##T yes, v_##T no) { return a < b ? yes : no; }       \
    CSM_INLINE U csm_to_bits_##T(R a) {                                                                      \
        U u;                                                                                                 \
        memcpy(&u, &a, sizeof u);                                                                            \
        return u;                                                                                            \
    }                                                                                                        \
    CSM_INLINE R csm_from_bits_##T(U u) {                                                                    \
        R a;                                                                                                 \
        memcpy(&a, &u, sizeof a);                                                                            \
        return a;                                                                                            \
    }                                                                                                        \
    CSM_INLINE v_##T bits_add_##T(v_##T a, v_##T b) {                                                        \
        return csm_from_bits_##T(csm_to_bits_##T(a) + csm_to_bits_##T(b));                                   \
    }                                                                                                        \
    CSM_INLINE v_##T bits_and_##T(v_##T a, v_##T b) {                                                        \
        return csm_from_bits_##T(csm_to_bits_##T(a) & csm_to_bits_##T(b));                                   \
    }                                                                                                        \
    CSM_INLINE v_##T bits_or_##T(v_##T a, v_##T b) {                                                         \
        return csm_from_bits_##T(csm_to_bits_##T(a) | csm_to_bits_##T(b));                                   \
    }
CSM_SCALAR_OPS(f32, float, uint32_t)
CSM_SCALAR_OPS(f64, double, uint64_t)
#define bits_shl_f32(a, k) csm_from_bits_f32(csm_to_bits_f32(a) << (k))
#define bits_shr_f32(a, k) csm_from_bits_f32(csm_to_bits_f32(a) >> (k))
#define bits_shl_f64(a, k) csm_from_bits_f64(csm_to_bits_f64(a) << (k))
#define bits_shr_f64(a, k) csm_from_bits_f64(csm_to_bits_f64(a) >> (k))
CSM_INLINE v_f64 widen_f32(const float *p) { return *p; }
CSM_INLINE void narrow_f32(float *p, v_f64 a) { *p = (float)a; }
CSM_INLINE void csm_stream_fence(void) {}
#endif

/* ------------------------------------------------- what several levels share by way of a small buffer */
#if !defined(CSM_X86)
#define CSM_SELECT_BYTES(T, R)                                                                               \
    CSM_INLINE v_##T select_bytes_##T(const char *on, v_##T yes, v_##T no) {                                 \
        R a[VL_##T], b[VL_##T];                                                                              \
        store_##T(a, yes);                                                                                   \
        store_##T(b, no);                                                                                    \
        for (int i = 0; i < VL_##T; i++) a[i] = on[i] ? a[i] : b[i];                                         \
        return load_##T(a);                                                                                  \
    }
CSM_SELECT_BYTES(f32, float)
CSM_SELECT_BYTES(f64, double)
#endif

#if !defined(CSM_X86)
#define CSM_TAIL(T, R)                                                                                       \
    CSM_INLINE v_##T load_n_##T(const R *p, ptrdiff_t k, R fill) {                                           \
        R lanes[VL_##T];                                                                                     \
        for (ptrdiff_t i = 0; i < VL_##T; i++) lanes[i] = i < k ? p[i] : fill;                               \
        return load_##T(lanes);                                                                              \
    }                                                                                                        \
    CSM_INLINE void store_n_##T(R *p, ptrdiff_t k, v_##T a) {                                                \
        R lanes[VL_##T];                                                                                     \
        store_##T(lanes, a);                                                                                 \
        for (ptrdiff_t i = 0; i < VL_##T; i++)                                                               \
            if (i < k) p[i] = lanes[i];                                                                      \
    }
CSM_TAIL(f32, float)
CSM_TAIL(f64, double)
#endif

#if !defined(CSM_AVX512)
#define CSM_APART(T)                                                                                         \
    CSM_INLINE void sum_apart_##T(v_##T d, v_##T v, v_##T *total, v_##T *ties) {                             \
        *ties = add_##T(*ties, and_eq_##T(d, set1_##T(0), set1_##T(1)));                                     \
        *total = add_##T(*total, and_ne_##T(d, set1_##T(0), v));                                             \
    }
CSM_APART(f32)
CSM_APART(f64)
#endif

/* a - b c, rounded once: exact where b is the rounded quotient of a and c (T. J. Dekker, doi:10.1007/BF01397083) */
#if defined(CSM_SSE2) || defined(CSM_SCALAR)
#define CSM_RESIDUAL(T, splitter)                                                                            \
    CSM_INLINE v_##T residual_##T(v_##T a, v_##T b, v_##T c) {                                               \
        const v_##T split = set1_##T(splitter), product = mul_##T(b, c);                                     \
        const v_##T bs = mul_##T(b, split), bh = sub_##T(bs, sub_##T(bs, b)), bl = sub_##T(b, bh);           \
        const v_##T cs = mul_##T(c, split), ch = sub_##T(cs, sub_##T(cs, c)), cl = sub_##T(c, ch);           \
        const v_##T e1 = sub_##T(product, mul_##T(bh, ch)), e2 = sub_##T(e1, mul_##T(bl, ch));               \
        const v_##T e3 = sub_##T(e2, mul_##T(bh, cl)), lost = sub_##T(mul_##T(bl, cl), e3);                  \
        return sub_##T(sub_##T(a, product), lost);                                                           \
    }
CSM_RESIDUAL(f32, 0x1p12f + 1)
CSM_RESIDUAL(f64, 0x1p27 + 1)
#else
CSM_INLINE v_f32 residual_f32(v_f32 a, v_f32 b, v_f32 c) { return fnma_f32(b, c, a); }
CSM_INLINE v_f64 residual_f64(v_f64 a, v_f64 b, v_f64 c) { return fnma_f64(b, c, a); }
#endif

#if !defined(CSM_X86)
#define CSM_HORIZONTAL(T, R, name)                                                                           \
    CSM_INLINE R h##name##_##T(v_##T a) {                                                                    \
        R lanes[VL_##T];                                                                                     \
        store_##T(lanes, a);                                                                                 \
        for (int half = VL_##T / 2; half > 0; half /= 2)                                                     \
            for (int i = 0; i < half; i++) lanes[i] = CSM_SCALAR_##name(lanes[i], lanes[i + half]);          \
        return lanes[0];                                                                                     \
    }
#define CSM_SCALAR_add(a, b) ((a) + (b))
#define CSM_SCALAR_max(a, b) ((a) > (b) ? (a) : (b))
CSM_HORIZONTAL(f32, float, add)
CSM_HORIZONTAL(f64, double, add)
CSM_HORIZONTAL(f32, float, max)
CSM_HORIZONTAL(f64, double, max)
#define CSM_HPAIR(T, R)                                                                                      \
    CSM_INLINE void hpair_##T(v_##T a, R *low, R *high) {                                                    \
        R lanes[VL_##T + 1];                                                                                 \
        store_##T(lanes, a);                                                                                 \
        for (int half = VL_##T / 2; half > 1; half /= 2)                                                     \
            for (int i = 0; i < half; i++) lanes[i] += lanes[i + half];                                      \
        *low = lanes[0];                                                                                     \
        *high = VL_##T > 1 ? lanes[1] : 0;                                                                   \
    }                                                                                                        \
    CSM_INLINE v_##T hadd_rows_##T(const v_##T *r) {                                                         \
        R lanes[VL_##T];                                                                                     \
        for (int i = 0; i < VL_##T; i++) lanes[i] = hadd_##T(r[i]);                                          \
        return load_##T(lanes);                                                                              \
    }                                                                                                        \
    CSM_INLINE void hadd_four_##T(v_##T *r, R scale) {                                                       \
        for (int i = 0; i < 4; i++) r[i] = set1_##T(hadd_##T(r[i]) * scale);                                 \
    }                                                                                                        \
    CSM_INLINE int all_below_##T(v_##T a, R limit) {                                                         \
        R lanes[VL_##T];                                                                                     \
        int all = 1;                                                                                         \
        store_##T(lanes, a);                                                                                 \
        for (int i = 0; i < VL_##T; i++) all &= lanes[i] < limit && lanes[i] > -limit;                       \
        return all;                                                                                          \
    }
CSM_HPAIR(f32, float)
CSM_HPAIR(f64, double)
#endif

#endif /* CSOFTMAX_SIMD_H */
