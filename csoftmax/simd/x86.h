/* What the headers of x86's levels have in common: operations whose intrinsics differ in the prefix alone, and those of
 * 128 bits, to which wider vectors are reduced.
 *
 * Before this header a level defines
 *
 *   VL_T, v_T               as simd.h says
 *   CSM_OP(name, s)         the intrinsic "name" of vectors of floats (s = ps) or doubles (s = pd)
 *   CSM_INT(name)           the intrinsic of vectors of integers, whose name ends in their width
 *   CSM_INT_BITS(name)      the intrinsic of vectors of integers, whatever their width
 *   CSM_TO_INT_T, CSM_FROM_INT_T    casts between v_T and vectors of integers
 *   csm_<name>_to_128_T(a)  for name = add and max: a, whose halves meet by add_T or max_T until 128 bits are left
 */
#ifndef CSOFTMAX_X86_H
#define CSOFTMAX_X86_H

#define CSM_X86(T, R, s, epi)                                                                                \
    CSM_INLINE v_##T set1_##T(R a) { return CSM_OP(set1, s)(a); }                                            \
    CSM_INLINE v_##T load_##T(const R *p) { return CSM_OP(loadu, s)(p); }                                    \
    CSM_INLINE void store_##T(R *p, v_##T a) { CSM_OP(storeu, s)(p, a); }                                    \
    CSM_INLINE void stream_##T(R *p, v_##T a) { CSM_OP(stream, s)(p, a); }                                   \
    CSM_INLINE v_##T add_##T(v_##T a, v_##T b) { return CSM_OP(add, s)(a, b); }                              \
    CSM_INLINE v_##T sub_##T(v_##T a, v_##T b) { return CSM_OP(sub, s)(a, b); }                              \
    CSM_INLINE v_##T mul_##T(v_##T a, v_##T b) { return CSM_OP(mul, s)(a, b); }                              \
    CSM_INLINE v_##T div_##T(v_##T a, v_##T b) { return CSM_OP(div, s)(a, b); }                              \
    CSM_INLINE v_##T max_##T(v_##T a, v_##T b) { return CSM_OP(max, s)(a, b); }                              \
    CSM_INLINE v_##T bits_add_##T(v_##T a, v_##T b) {                                                        \
        return CSM_FROM_INT_##T(CSM_INT(add_##epi)(CSM_TO_INT_##T(a), CSM_TO_INT_##T(b)));                   \
    }                                                                                                        \
    CSM_INLINE v_##T bits_and_##T(v_##T a, v_##T b) {                                                        \
        return CSM_FROM_INT_##T(CSM_INT_BITS(and)(CSM_TO_INT_##T(a), CSM_TO_INT_##T(b)));                    \
    }                                                                                                        \
    CSM_INLINE v_##T bits_or_##T(v_##T a, v_##T b) {                                                         \
        return CSM_FROM_INT_##T(CSM_INT_BITS(or)(CSM_TO_INT_##T(a), CSM_TO_INT_##T(b)));                     \
    }
CSM_X86(f32, float, ps, epi32)
CSM_X86(f64, double, pd, epi64)
/* macros, since the intrinsics take constants */
#define bits_shl_f32(a, k) CSM_FROM_INT_f32(CSM_INT(slli_epi32)(CSM_TO_INT_f32(a), k))
#define bits_shr_f32(a, k) CSM_FROM_INT_f32(CSM_INT(srli_epi32)(CSM_TO_INT_f32(a), k))
#define bits_shl_f64(a, k) CSM_FROM_INT_f64(CSM_INT(slli_epi64)(CSM_TO_INT_f64(a), k))
#define bits_shr_f64(a, k) CSM_FROM_INT_f64(CSM_INT(srli_epi64)(CSM_TO_INT_f64(a), k))

CSM_INLINE void csm_stream_fence(void) { _mm_sfence(); }

#define CSM_HAS_HORIZONTAL 1
CSM_INLINE void hpair_f32(v_f32 a, float *low, float *high) {
    __m128 b = csm_add_to_128_f32(a);
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    *low = _mm_cvtss_f32(b);
    *high = _mm_cvtss_f32(_mm_shuffle_ps(b, b, 1));
}
CSM_INLINE void hpair_f64(v_f64 a, double *low, double *high) {
    const __m128d b = csm_add_to_128_f64(a);
    *low = _mm_cvtsd_f64(b);
    *high = _mm_cvtsd_f64(_mm_unpackhi_pd(b, b));
}
CSM_INLINE float hmax_f32(v_f32 a) {
    __m128 b = csm_max_to_128_f32(a);
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_shuffle_ps(b, b, 1)));
}
CSM_INLINE double hmax_f64(v_f64 a) {
    const __m128d b = csm_max_to_128_f64(a);
    return _mm_cvtsd_f64(_mm_max_sd(b, _mm_unpackhi_pd(b, b)));
}

/* count bytes at on (IN), up to 16: each becomes all ones where it is 0, else 0. */
CSM_INLINE __m128i csm_zero_bytes(const char *on, const size_t count) {
    __m128i bytes = _mm_setzero_si128();
    memcpy(&bytes, on, count);
    return _mm_cmpeq_epi8(bytes, _mm_setzero_si128());
}

/* fold_T for lanes that meet within 128 bits */
CSM_INLINE v_f32 csm_fold_in_128_f32(v_f32 a, v_f32 b, const int d) {
    return d == 2 ? add_f32(CSM_OP(shuffle, ps)(a, b, 0x44), CSM_OP(shuffle, ps)(a, b, 0xee))
                  : add_f32(CSM_OP(shuffle, ps)(a, b, 0x88), CSM_OP(shuffle, ps)(a, b, 0xdd));
}
CSM_INLINE v_f64 csm_fold_in_128_f64(v_f64 a, v_f64 b) {
    return add_f64(CSM_OP(unpacklo, pd)(a, b), CSM_OP(unpackhi, pd)(a, b));
}

/* Of four vectors of floats (IN, OUT): each 4 x 4 block of 128 bits of each is transposed. */
CSM_INLINE void transpose_f32(v_f32 *a) {
    const v_f32 t0 = CSM_OP(unpacklo, ps)(a[0], a[1]), t1 = CSM_OP(unpackhi, ps)(a[0], a[1]);
    const v_f32 t2 = CSM_OP(unpacklo, ps)(a[2], a[3]), t3 = CSM_OP(unpackhi, ps)(a[2], a[3]);
    a[0] = CSM_OP(shuffle, ps)(t0, t2, 0x44);
    a[1] = CSM_OP(shuffle, ps)(t0, t2, 0xee);
    a[2] = CSM_OP(shuffle, ps)(t1, t3, 0x44);
    a[3] = CSM_OP(shuffle, ps)(t1, t3, 0xee);
}

#endif /* CSOFTMAX_X86_H */
