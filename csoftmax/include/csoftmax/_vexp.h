/* exp and log1p over the lane primitives, written once for both precisions and every level.
 *
 * exp(x - m), m the maximum: x - m = k ln2 + f with k a multiple of 1/16 where 16 table entries can be permuted
 * in a register (AVX-512), else of 1; two-constant Cody-Waite reduction (W. J. Cody and W. Waite, Software Manual
 * for the Elementary Functions, 1980); e^f = 1 + f + f^2 h(f) with h minimax on the reduced range. k is rounded,
 * and its power of two made, by adding a magic number (P. T. P. Tang, doi:10.1145/63522.214214 for the table).
 *
 * The rounding of x - m is what other implementations lose most by: many ulp where x - m is large. Here x and m
 * are each reduced by multiples of ln2, which is exact, and only the two remainders are subtracted ("near"). Where
 * |m| is beyond EXP_NEAR, x - m is itself exact for every x whose exponential is not 0, and is taken first.
 *
 * The result is scaled up by 2^EXP_BIAS: what would be subnormal is normal here, and is rounded once, by the
 * caller's last multiplication. x - m below EXP_MIN gives exactly 0, NaN stays NaN, and x = m gives exactly 1.
 *
 * log1p: the reduction and coefficients of the freely usable fdlibm algorithm (Sun Microsystems, 1993), in
 * double lanes only: the logarithm of a sum is taken once a row.
 */
#ifndef CSOFTMAX_VEXP_H
#define CSOFTMAX_VEXP_H

#include "_simd.h"

CSM_INLINE v_f64 csm_pattern(uint64_t bits) {
    double x;
    memcpy(&x, &bits, sizeof x);
    return set1_f64(x);
}

/* What a lane's reduction is from: the row's maximum; the maximum of a row of its own; or none, being far off. */
enum { EXP_ROW, EXP_LANES, EXP_FAR };
enum { EXP_BIAS_f32 = 24, EXP_BIAS_f64 = 54 };
#define EXP_SCALE_f32 0x1p24f
#define EXP_SCALE_f64 0x1p54
/* e^EXP_MIN lies below half of the smallest subnormal */
#define EXP_MIN_f32 -103.98f
#define EXP_MIN_f64 -745.14
#define EXP_NEAR_f32 256.0f
#define EXP_NEAR_f64 2048.0
#define EXP_LOG2E 1.4426950408889634
#define EXP_LN2_HI_f32 0.693359375f
#define EXP_LN2_LO_f32 -2.12194440e-4f
#define EXP_LN2_HI_f64 6.93147180369123816490e-01
#define EXP_LN2_LO_f64 1.90821492927058770002e-10

#if defined(CSM_AVX512)
#define EXP_MAGIC_f32 (0x1.8p19f + 127 + EXP_BIAS_f32)
#define EXP_MAGIC_f64 (0x1.8p48 + 1023 + EXP_BIAS_f64)

/* entry j: bits of 2^(j/16), less those of 1 and less j in the place where the shifted magic sum has it */
CSM_ALIGN(64) static const uint32_t csm_exp_table_f32[16] = {
    0x00000000, 0xfffdaac3, 0xfffb95c2, 0xfff9c3d3, 0xfff837f0, 0xfff6f532, 0xfff5fed7, 0xfff5583f,
    0xfff504f3, 0xfff508a4, 0xfff5672a, 0xfff6248c, 0xfff744fd, 0xfff8ccdf, 0xfffac0c7, 0xfffd257d};
CSM_ALIGN(64) static const uint64_t csm_exp_table_f64[16] = {
    0x0000000000000000, 0xffffb5586cf9890f, 0xffff72b83c7d517b, 0xffff387a6e756238,
    0xffff06fe0a31b715, 0xfffedea64c123422, 0xfffebfdad5362a27, 0xfffeab07dd485429,
    0xfffea09e667f3bcd, 0xfffea11473eb0187, 0xfffeace5422aa0db, 0xfffec49182a3f090,
    0xfffee89f995ad3ad, 0xffff199bdd85529c, 0xffff5818dcfba487, 0xffffa4afa2a490da};

/* what the entries lack, relative to them */
CSM_ALIGN(64) static const float csm_exp_low_f32[16] = {
    0.0f, 0x1.8d96d4p-25f, -0x1.9c0c22p-27f, 0x1.964904p-25f, 0x1.125002p-25f, 0x1.370be4p-25f,
    -0x1.0a3550p-25f, -0x1.00d8acp-27f, 0x1.26055cp-26f, -0x1.05cb44p-25f, 0x1.67a1cap-28f, 0x1.a3b5e4p-28f,
    -0x1.f9c304p-27f, -0x1.6961b4p-28f, -0x1.a5217cp-28f, 0x1.61428ep-28f};
CSM_ALIGN(64) static const double csm_exp_low_f64[16] = {
    0x0.0p+0, 0x1.79aa65d837b6dp-54, -0x1.01b15eaa59348p-55, 0x1.68efde3a8a894p-54,
    0x1.34d754db0abb6p-55, 0x1.59f48a72a4c6dp-55, 0x1.690cebb7aafb0p-56, 0x1.063e1e21c5409p-54,
    -0x1.3b3efbf5e2228p-54, -0x1.b32dcb94da51dp-56, 0x1.db72fc1f0eab4p-55, 0x1.1affc2b91ce27p-56,
    0x1.c1a7792cb3387p-55, 0x1.36eae30af0cb3p-56, 0x1.4a385a63d07a7p-56, -0x1.ff7128fd391f0p-55};

CSM_INLINE v_f32 csm_power_low_f32(v_f32 z) {
    return _mm512_permutexvar_ps(_mm512_castps_si512(z), _mm512_load_ps(csm_exp_low_f32));
}

CSM_INLINE v_f64 csm_power_low_f64(v_f64 z) {
    return _mm512_permutex2var_pd(_mm512_load_pd(csm_exp_low_f64), _mm512_castpd_si512(z),
                                  _mm512_load_pd(csm_exp_low_f64 + 8));
}

CSM_INLINE v_f32 csm_power_f32(v_f32 z) {
    const __m512i i = _mm512_castps_si512(z);
    const __m512i t = _mm512_permutexvar_epi32(i, _mm512_load_si512((const void *)csm_exp_table_f32));
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_slli_epi32(i, 19), t));
}

CSM_INLINE v_f64 csm_power_f64(v_f64 z) {
    const __m512i i = _mm512_castpd_si512(z);
    const __m512i t = _mm512_permutex2var_epi64(_mm512_load_si512((const void *)csm_exp_table_f64), i,
                                                _mm512_load_si512((const void *)(csm_exp_table_f64 + 8)));
    return _mm512_castsi512_pd(_mm512_add_epi64(_mm512_slli_epi64(i, 48), t));
}

/* what an entry lacks is put back into the remainder; where a row has one remainder of its maximum for all lanes, the
 * table can hold their difference */
#define EXP_LOW_f32(a, z) add_f32(a, csm_power_low_f32(z))
#define EXP_LOW_f64(a, z) add_f64(a, csm_power_low_f64(z))
#define EXP_LESS_LOW_f32(a, z) sub_f32(a, csm_power_low_f32(z))
#define EXP_LESS_LOW_f64(a, z) sub_f64(a, csm_power_low_f64(z))
#define EXP_ROW_LESS_LOW_f32(a, z)                                                                           \
    _mm512_permutexvar_ps(_mm512_castps_si512(z), sub_f32(a, _mm512_load_ps(csm_exp_low_f32)))
/* a, less what product lost on p times s: nothing where p is a power of two */
#define EXP_LESS_ROUNDING_f64(a, product, p, s) sub_f64(a, residual_f64(product, p, s))
#define EXP_ROW_LESS_LOW_f64(a, z)                                                                           \
    _mm512_permutex2var_pd(sub_f64(a, _mm512_load_pd(csm_exp_low_f64)), _mm512_castpd_si512(z),              \
                           sub_f64(a, _mm512_load_pd(csm_exp_low_f64 + 8)))
/* e^f - 1: f is so small that its own rounding does not show */
#define EXP_Q_f32(f, g, k) fma_f32(mul_f32(f, f), EXP_H_f32(f), f)
#define EXP_Q_f64(f, g, k) fma_f64(mul_f64(f, f), EXP_H_f64(f), f)
#define EXP_H_f32(f) fma_f32(f, set1_f32(0x1.5556398c6f960p-3f), set1_f32(0x1.00022022a1c8ap-1f))
#define EXP_H_f64(f)                                                                                         \
    CSM_HORNER_f64(f, 5, 0x1.6c14c5dfe64a3p-10, 0x1.11123b442993ep-7, 0x1.5555555900631p-5,                  \
                   0x1.555555548ec17p-3, 0x1.fffffffffffb8p-2)
#else
#define EXP_MAGIC_f32 (0x1.8p23f + 127 + EXP_BIAS_f32)
#define EXP_MAGIC_f64 (0x1.8p52 + 1023 + EXP_BIAS_f64)
#define EXP_LOW_f32(a, z) (a)
#define EXP_LOW_f64(a, z) (a)
#define EXP_LESS_LOW_f32(a, z) (a)
#define EXP_LESS_LOW_f64(a, z) (a)
#define EXP_LESS_ROUNDING_f64(a, product, p, s) (a)
#define EXP_ROW_LESS_LOW_f32(a, z) (a)
#define EXP_ROW_LESS_LOW_f64(a, z) (a)
/* e^f - 1 = g + (f^2 h(f) - k LN2_LO), past the rounding of f = g - k LN2_LO */
#define EXP_Q_f32(f, g, k) sub_f32(g, fnma_f32(mul_f32(f, f), EXP_H_f32(f), mul_f32(k, set1_f32(EXP_LN2_LO_f32))))
#define EXP_Q_f64(f, g, k) sub_f64(g, fnma_f64(mul_f64(f, f), EXP_H_f64(f), mul_f64(k, set1_f64(EXP_LN2_LO_f64))))
#define csm_power_f32(z) bits_shl_f32(z, 23)
#define csm_power_f64(z) bits_shl_f64(z, 52)
#define EXP_H_f32(f)                                                                                         \
    CSM_HORNER_f32(f, 5, 0x1.6a234ef00e51dp-10f, 0x1.123a688bb2865p-7f, 0x1.5558f4c594bcep-5f,               \
                   0x1.555490a30b4b1p-3f, 0x1.fffffb94582eep-2f)
#define EXP_H_f64(f)                                                                                         \
    CSM_HORNER_f64(f, 10, 0x1.ad7f0e41acd02p-26, 0x1.28adcce59d13cp-22, 0x1.71df262277f1cp-19,               \
                   0x1.a01999af432a8p-16, 0x1.a01a0129b9975p-13, 0x1.6c16c1844a8f4p-10,                      \
                   0x1.1111111127e73p-7, 0x1.55555555507f2p-5, 0x1.55555555554f9p-3, 0x1.000000000000ap-1)
#endif

/* highest power first */
#define CSM_HORNER(T, R)                                                                                     \
    CSM_INLINE v_##T csm_horner_##T(v_##T f, int n, const R *c) {                                            \
        v_##T h = set1_##T(c[0]);                                                                            \
        for (int i = 1; i < n; i++) h = fma_##T(h, f, set1_##T(c[i]));                                       \
        return h;                                                                                            \
    }
CSM_HORNER(f32, float)
CSM_HORNER(f64, double)
#define CSM_HORNER_f32(f, n, ...) csm_horner_f32(f, n, (const float[n]){__VA_ARGS__})
#define CSM_HORNER_f64(f, n, ...) csm_horner_f64(f, n, (const double[n]){__VA_ARGS__})

/* How a row is reduced, from its maximum: k = (x - maximum) / ln2 rounded; then k plus the maximum's own multiple
 * of ln2 is taken from x ("magic" has that multiple in it), and from the remainder the maximum's own remainder. */
#define CSM_EXP(T, R)                                                                                        \
    typedef struct {                                                                                         \
        v_##T maximum, magic, center;                                                                        \
    } csm_shift_##T;                                                                                         \
    CSM_INLINE int exp_near_##T(R m) { return -EXP_NEAR_##T < m && m < EXP_NEAR_##T; }                       \
    CSM_INLINE void exp_shift_##T(R m, R *magic, R *center) {                                                \
        R k = 0;                                                                                             \
        if (exp_near_##T(m)) k = (m * (R)EXP_LOG2E + (R)EXP_MAGIC_##T) - (R)EXP_MAGIC_##T;                   \
        *magic = (R)EXP_MAGIC_##T - k;                                                                       \
        *center = exp_near_##T(m) ? (m - k * EXP_LN2_HI_##T) - k * EXP_LN2_LO_##T : 0;                       \
    }                                                                                                        \
    /* the same for a row a lane, all of them near */                                                        \
    CSM_INLINE void exp_shift_lanes_##T(v_##T m, v_##T *magic, v_##T *center) {                              \
        const v_##T big = set1_##T((R)EXP_MAGIC_##T);                                                        \
        const v_##T k = sub_##T(add_##T(mul_##T(m, set1_##T((R)EXP_LOG2E)), big), big);                      \
        *magic = sub_##T(big, k);                                                                            \
        *center = sub_##T(sub_##T(m, mul_##T(k, set1_##T(EXP_LN2_HI_##T))),                                  \
                          mul_##T(k, set1_##T(EXP_LN2_LO_##T)));                                             \
    }                                                                                                        \
    CSM_INLINE csm_shift_##T exp_shift_row_##T(R m) {                                                        \
        R magic, center;                                                                                     \
        exp_shift_##T(m, &magic, &center);                                                                   \
        return (csm_shift_##T){set1_##T(m), set1_##T(magic), set1_##T(center)};                              \
    }                                                                                                        \
    /* d = x - maximum, or that over the temperature; EXP_FAR: x is what the rounding of d lost */           \
    CSM_INLINE v_##T exp_##T(v_##T x, v_##T d, csm_shift_##T s, const int how) {                             \
        const v_##T z = fma_##T(d, set1_##T((R)EXP_LOG2E), set1_##T((R)EXP_MAGIC_##T));                      \
        const v_##T k = sub_##T(z, how == EXP_FAR ? set1_##T((R)EXP_MAGIC_##T) : s.magic);                   \
        const v_##T r = fnma_##T(k, set1_##T(EXP_LN2_HI_##T), how == EXP_FAR ? d : x);                       \
        const v_##T g = how == EXP_FAR   ? add_##T(r, EXP_LOW_##T(x, z))                                     \
                        : how == EXP_ROW ? sub_##T(r, EXP_ROW_LESS_LOW_##T(s.center, z))                     \
                                         : sub_##T(r, EXP_LESS_LOW_##T(s.center, z));                        \
        const v_##T f = fnma_##T(k, set1_##T(EXP_LN2_LO_##T), g);                                            \
        const v_##T q = EXP_Q_##T(f, g, k);                                                                  \
        const v_##T p = csm_power_##T(z);                                                                    \
        return keep_##T(d, set1_##T(EXP_MIN_##T), fma_##T(p, q, p));                                         \
    }
CSM_EXP(f32, float)
CSM_EXP(f64, double)

/* exp(d + lost) * EXP_SCALE = high + low, for d <= 0: some four bits of low are right */
CSM_INLINE void exp_pair_f64(v_f64 d, v_f64 lost, v_f64 *high, v_f64 *low) {
    const v_f64 z = fma_f64(d, set1_f64(EXP_LOG2E), set1_f64(EXP_MAGIC_f64));
    const v_f64 k = sub_f64(z, set1_f64(EXP_MAGIC_f64));
    const v_f64 r = fnma_f64(k, set1_f64(EXP_LN2_HI_f64), d);
    const v_f64 f = fnma_f64(k, set1_f64(EXP_LN2_LO_f64), r);
    const v_f64 rest = EXP_LOW_f64(add_f64(fnma_f64(k, set1_f64(EXP_LN2_LO_f64), sub_f64(r, f)), lost), z);
    const v_f64 first = add_f64(set1_f64(1.0), f), lost_of_first = sub_f64(f, sub_f64(first, set1_f64(1.0)));
    const v_f64 tail = fma_f64(mul_f64(f, f), EXP_H_f64(f), lost_of_first), s = add_f64(first, tail);
    const v_f64 last = fma_f64(rest, s, sub_f64(tail, sub_f64(s, first)));
    const v_f64 p = csm_power_f64(z), product = mul_f64(p, s);
    *high = keep_f64(d, set1_f64(EXP_MIN_f64), product);
    *low = keep_f64(d, set1_f64(EXP_MIN_f64), EXP_LESS_ROUNDING_f64(mul_f64(p, last), product, p, s));
}

/* log(1 + u) for u >= 0; inf and NaN stay. "pair": of u + rest, and what its rounding lost to low. */
CSM_INLINE v_f64 log1p_f64(v_f64 u, v_f64 rest, v_f64 *low, const int pair) {
    const v_f64 one = set1_f64(1.0), two52 = set1_f64(0x1p52);
    const v_f64 s = add_f64(one, u);
    const v_f64 exact = sub_f64(u, sub_f64(s, one)), lost = pair ? add_f64(exact, rest) : exact;
    /* s = 2^k m with m in [sqrt(1/2), sqrt(2)) */
    const v_f64 shifted = bits_add_f64(s, csm_pattern(0x3ff0000000000000 - 0x3fe6a09e00000000));
    const v_f64 k = sub_f64(sub_f64(bits_or_f64(bits_shr_f64(shifted, 52), two52), two52), set1_f64(1023.0));
    const v_f64 m = bits_add_f64(bits_and_f64(shifted, csm_pattern(0x000fffffffffffff)),
                                 csm_pattern(0x3fe6a09e00000000));
    const v_f64 f = sub_f64(m, one);
    const v_f64 t = div_f64(f, add_f64(set1_f64(2.0), f));
    const v_f64 z = mul_f64(t, t);
    const v_f64 r = mul_f64(z, CSM_HORNER_f64(z, 7, 1.479819860511658591e-01, 1.531383769920937332e-01,
                                              1.818357216161805012e-01, 2.222219843214978396e-01,
                                              2.857142874366239149e-01, 3.999999999940941908e-01,
                                              6.666666666666735130e-01));
    const v_f64 half = mul_f64(set1_f64(0.5), mul_f64(f, f));
    const v_f64 last = fma_f64(k, set1_f64(EXP_LN2_LO_f64), div_f64(lost, s));
    const v_f64 body = sub_f64(fma_f64(t, add_f64(half, r), last), half);
    v_f64 log;
    if (pair) {
        /* k ln2_hi is exact, and not below f unless it is 0 */
        const v_f64 whole = mul_f64(k, set1_f64(EXP_LN2_HI_f64)), first = add_f64(whole, f);
        const v_f64 tail = add_f64(sub_f64(f, sub_f64(first, whole)), body);
        log = add_f64(first, tail);
        *low = sub_f64(tail, sub_f64(log, first));
    } else {
        log = fma_f64(k, set1_f64(EXP_LN2_HI_f64), add_f64(body, f));
    }
    return select_lt_f64(u, set1_f64(INFINITY), log, u);
}

/* exp(-l) - 1 for 0 <= l <= 1 */
CSM_INLINE v_f64 expm1_neg_f64(v_f64 l) {
    const v_f64 h = CSM_HORNER_f64(l, 12, -1.0509453754979482e-10, 1.952715306431462e-09, -2.4856214837612005e-08,
                                   2.753900275371731e-07, -2.7556179049708925e-06, 2.4801539739718985e-05,
                                   -1.984126853148021e-04, 1.3888888865978557e-03, -8.333333333096557e-03,
                                   4.166666666665401e-02, -1.666666666666664e-01, 0.5);
    return fma_f64(mul_f64(l, h), l, sub_f64(set1_f64(0.0), l));
}

#endif /* CSOFTMAX_VEXP_H */
