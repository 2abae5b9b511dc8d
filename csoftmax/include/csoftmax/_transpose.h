/* Rows to lanes and back: four neighbouring elements of each of VL rows, as four vectors with one row a lane.
 *
 * The rows' quads are laid side by side in a vector, so that what is left is a transpose of 4 by 4 within each quad's
 * width; that is its own inverse.
 */
#ifndef CSOFTMAX_TRANSPOSE_H
#define CSOFTMAX_TRANSPOSE_H

#include "_simd.h"

enum { CSM_QUAD = 4 };

/* What compilers are not to merge with what uses it: pointers, of which GCC would keep one for each row, more than
 * there are registers; and what is extracted from a vector and then stored in part, as an extraction to memory
 * under a mask faults on bytes that the mask leaves out. */
#if defined(__GNUC__)
#define CSM_OWN_REGISTER(x, kind) __asm__("" : "+" kind(x))
#else
#define CSM_OWN_REGISTER(x, kind) ((void)(x))
#endif

/* Of a quad the first k elements, 0 < k <= 4, are read and written; no byte beyond them is touched. */
#if defined(CSM_AVX512)
CSM_INLINE __m128 csm_load_quad_f32(const float *p, ptrdiff_t k) {
    return k < 4 ? _mm_maskz_loadu_ps((__mmask8)((1u << k) - 1u), p) : _mm_loadu_ps(p);
}
CSM_INLINE __m256d csm_load_quad_f64(const double *p, ptrdiff_t k) {
    return k < 4 ? _mm256_maskz_loadu_pd((__mmask8)((1u << k) - 1u), p) : _mm256_loadu_pd(p);
}
CSM_INLINE void csm_store_quad_f32(float *p, ptrdiff_t k, __m128 a) {
    if (k < 4) {
        CSM_OWN_REGISTER(a, "v");
        _mm_mask_storeu_ps(p, (__mmask8)((1u << k) - 1u), a);
    } else {
        _mm_storeu_ps(p, a);
    }
}
CSM_INLINE void csm_store_quad_f64(double *p, ptrdiff_t k, __m256d a) {
    if (k < 4) {
        CSM_OWN_REGISTER(a, "v");
        _mm256_mask_storeu_pd(p, (__mmask8)((1u << k) - 1u), a);
    } else {
        _mm256_storeu_pd(p, a);
    }
}
#elif defined(CSM_AVX2)
CSM_INLINE __m128i csm_quad_mask_f32(ptrdiff_t k) {
    return _mm_loadu_si128((const __m128i *)(csm_tail_mask + 8 - k));
}
CSM_INLINE __m256i csm_quad_mask_f64(ptrdiff_t k) {
    return _mm256_loadu_si256((const __m256i *)(csm_tail_mask + 8 - 2 * k));
}
CSM_INLINE __m128 csm_load_quad_f32(const float *p, ptrdiff_t k) {
    return k < 4 ? _mm_maskload_ps(p, csm_quad_mask_f32(k)) : _mm_loadu_ps(p);
}
CSM_INLINE __m256d csm_load_quad_f64(const double *p, ptrdiff_t k) {
    return k < 4 ? _mm256_maskload_pd(p, csm_quad_mask_f64(k)) : _mm256_loadu_pd(p);
}
CSM_INLINE void csm_store_quad_f32(float *p, ptrdiff_t k, __m128 a) {
    if (k < 4) _mm_maskstore_ps(p, csm_quad_mask_f32(k), a);
    else _mm_storeu_ps(p, a);
}
CSM_INLINE void csm_store_quad_f64(double *p, ptrdiff_t k, __m256d a) {
    if (k < 4) _mm256_maskstore_pd(p, csm_quad_mask_f64(k), a);
    else _mm256_storeu_pd(p, a);
}
#endif

#if defined(CSM_X86)
CSM_INLINE void csm_transpose_f32(v_f32 *a) {
    const v_f32 t0 = CSM_OP(unpacklo, ps)(a[0], a[1]), t1 = CSM_OP(unpackhi, ps)(a[0], a[1]);
    const v_f32 t2 = CSM_OP(unpacklo, ps)(a[2], a[3]), t3 = CSM_OP(unpackhi, ps)(a[2], a[3]);
    a[0] = CSM_OP(shuffle, ps)(t0, t2, 0x44);
    a[1] = CSM_OP(shuffle, ps)(t0, t2, 0xee);
    a[2] = CSM_OP(shuffle, ps)(t1, t3, 0x44);
    a[3] = CSM_OP(shuffle, ps)(t1, t3, 0xee);
}
#endif

#if defined(CSM_AVX512) || defined(CSM_AVX2)
CSM_INLINE void csm_transpose_f64(v_f64 *a) {
    const v_f64 t0 = CSM_OP(unpacklo, pd)(a[0], a[1]), t1 = CSM_OP(unpackhi, pd)(a[0], a[1]);
    const v_f64 t2 = CSM_OP(unpacklo, pd)(a[2], a[3]), t3 = CSM_OP(unpackhi, pd)(a[2], a[3]);
#if defined(CSM_AVX512)
    const __m512i low = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13);
    const __m512i high = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
    a[0] = _mm512_permutex2var_pd(t0, low, t2);
    a[1] = _mm512_permutex2var_pd(t1, low, t3);
    a[2] = _mm512_permutex2var_pd(t0, high, t2);
    a[3] = _mm512_permutex2var_pd(t1, high, t3);
#else
    a[0] = _mm256_permute2f128_pd(t0, t2, 0x20);
    a[1] = _mm256_permute2f128_pd(t1, t3, 0x20);
    a[2] = _mm256_permute2f128_pd(t0, t2, 0x31);
    a[3] = _mm256_permute2f128_pd(t1, t3, 0x31);
#endif
}

#if defined(CSM_AVX512)
#define CSM_QUADS_f32(F)                                                                                     \
    _mm512_insertf32x4(_mm512_insertf32x4(_mm512_insertf32x4(_mm512_castps128_ps512(F(0)), F(4), 1), F(8), 2), F(12), 3)
#define CSM_QUADS_f64(F) _mm512_insertf64x4(_mm512_castpd256_pd512(F(0)), F(4), 1)
#define CSM_QUAD_OF_f32(a, q) _mm512_extractf32x4_ps(a, q)
#define CSM_QUAD_OF_f64(a, q) _mm512_extractf64x4_pd(a, q)
#define CSM_EACH_QUAD_f32(F) F(0) F(1) F(2) F(3)
#define CSM_EACH_QUAD_f64(F) F(0) F(1)
#else
#define CSM_QUADS_f32(F) _mm256_insertf128_ps(_mm256_castps128_ps256(F(0)), F(4), 1)
#define CSM_QUADS_f64(F) F(0)
#define CSM_QUAD_OF_f32(a, q) _mm256_extractf128_ps(a, q)
#define CSM_QUAD_OF_f64(a, q) (a)
#define CSM_EACH_QUAD_f32(F) F(0) F(1)
#define CSM_EACH_QUAD_f64(F) F(0)
#endif
#define CSM_LOAD_QUAD_f32(row) csm_load_quad_f32(every4th[row / 4] + i * pitch, k)
#define CSM_LOAD_QUAD_f64(row) csm_load_quad_f64(every4th[row / 4] + i * pitch, k)
#define CSM_STORE_QUAD_f32(q) csm_store_quad_f32(every4th[q] + i * pitch, k, CSM_QUAD_OF_f32(a[i], q));
#define CSM_STORE_QUAD_f64(q) csm_store_quad_f64(every4th[q] + i * pitch, k, CSM_QUAD_OF_f64(a[i], q));
#define CSM_ROWS(T, R)                                                                                       \
    CSM_INLINE void csm_quads_in_##T(const R *p, ptrdiff_t pitch, ptrdiff_t k, v_##T *a) {                   \
        const R *every4th[VL_##T / 4];                                                                       \
        for (int q = 0; q < VL_##T / 4; q++) {                                                               \
            every4th[q] = p + 4 * q * pitch;                                                                 \
            CSM_OWN_REGISTER(every4th[q], "r");                                                              \
        }                                                                                                    \
        for (int i = 0; i < 4; i++) a[i] = CSM_QUADS_##T(CSM_LOAD_QUAD_##T);                                 \
        csm_transpose_##T(a);                                                                                \
    }                                                                                                        \
    CSM_INLINE void csm_quads_out_##T(R *p, ptrdiff_t pitch, ptrdiff_t k, v_##T *a) {                        \
        R *every4th[VL_##T / 4];                                                                             \
        for (int q = 0; q < VL_##T / 4; q++) {                                                               \
            every4th[q] = p + 4 * q * pitch;                                                                 \
            CSM_OWN_REGISTER(every4th[q], "r");                                                              \
        }                                                                                                    \
        csm_transpose_##T(a);                                                                                \
        for (int i = 0; i < 4; i++) { CSM_EACH_QUAD_##T(CSM_STORE_QUAD_##T) }                                \
    }
#else
#if defined(CSM_NEON)
CSM_INLINE float32x4_t csm_pairs(float64x2_t a) { return vreinterpretq_f32_f64(a); }
CSM_INLINE void csm_transpose_f32(v_f32 *a) {
    const float64x2_t t0 = vreinterpretq_f64_f32(vtrn1q_f32(a[0], a[1]));
    const float64x2_t t1 = vreinterpretq_f64_f32(vtrn2q_f32(a[0], a[1]));
    const float64x2_t t2 = vreinterpretq_f64_f32(vtrn1q_f32(a[2], a[3]));
    const float64x2_t t3 = vreinterpretq_f64_f32(vtrn2q_f32(a[2], a[3]));
    a[0] = csm_pairs(vtrn1q_f64(t0, t2));
    a[1] = csm_pairs(vtrn1q_f64(t1, t3));
    a[2] = csm_pairs(vtrn2q_f64(t0, t2));
    a[3] = csm_pairs(vtrn2q_f64(t1, t3));
}
#define csm_low_halves vtrn1q_f64
#define csm_high_halves vtrn2q_f64
#elif defined(CSM_SSE2)
#define csm_low_halves _mm_unpacklo_pd
#define csm_high_halves _mm_unpackhi_pd
#endif
/* vectors shorter than a quad, or as long: VL rows, of 4 / VL vectors each */
#if defined(CSM_SCALAR)
CSM_INLINE void csm_transpose_f32(v_f32 *a) { (void)a; }
CSM_INLINE void csm_transpose_f64(v_f64 *a) { (void)a; }
#else
CSM_INLINE void csm_transpose_f64(v_f64 *a) {
    /* a[0], a[1] are one row, a[2], a[3] the other */
    const v_f64 t0 = csm_low_halves(a[0], a[2]), t1 = csm_high_halves(a[0], a[2]);
    const v_f64 t2 = csm_low_halves(a[1], a[3]), t3 = csm_high_halves(a[1], a[3]);
    a[0] = t0;
    a[1] = t1;
    a[2] = t2;
    a[3] = t3;
}
CSM_INLINE void csm_transpose_back_f64(v_f64 *a) {
    const v_f64 t0 = csm_low_halves(a[0], a[1]), t1 = csm_low_halves(a[2], a[3]);
    const v_f64 t2 = csm_high_halves(a[0], a[1]), t3 = csm_high_halves(a[2], a[3]);
    a[0] = t0;
    a[1] = t1;
    a[2] = t2;
    a[3] = t3;
}
#endif
#if defined(CSM_SCALAR)
#define csm_transpose_back_f64 csm_transpose_f64
#endif
#define csm_transpose_back_f32 csm_transpose_f32
#define CSM_ROWS(T, R)                                                                                       \
    CSM_INLINE void csm_quads_in_##T(const R *p, ptrdiff_t pitch, ptrdiff_t k, v_##T *a) {                   \
        for (int i = 0; i < 4; i++) {                                                                        \
            const ptrdiff_t row = i / (4 / VL_##T), first = i % (4 / VL_##T) * VL_##T, left = k - first;     \
            const R *q = p + row * pitch + first;                                                            \
            a[i] = left >= VL_##T ? load_##T(q) : load_n_##T(q, left < 0 ? 0 : left, 0);                     \
        }                                                                                                    \
        csm_transpose_##T(a);                                                                                \
    }                                                                                                        \
    CSM_INLINE void csm_quads_out_##T(R *p, ptrdiff_t pitch, ptrdiff_t k, v_##T *a) {                        \
        csm_transpose_back_##T(a);                                                                           \
        for (int i = 0; i < 4; i++) {                                                                        \
            const ptrdiff_t row = i / (4 / VL_##T), first = i % (4 / VL_##T) * VL_##T, left = k - first;     \
            R *q = p + row * pitch + first;                                                                  \
            if (left >= VL_##T) store_##T(q, a[i]);                                                          \
            else store_n_##T(q, left < 0 ? 0 : left, a[i]);                                                  \
        }                                                                                                    \
    }
#endif
CSM_ROWS(f32, float)
CSM_ROWS(f64, double)

#endif /* CSOFTMAX_TRANSPOSE_H */
