/* Exponentials and logarithms of vectors, written once for both precisions and every level.
 *
 * exp. A lane is exp(x - m) for x <= m, where m is a maximum. The range reduction writes x - m = k ln2 + f, with k a
 * multiple of 1/16 where the level looks up 16 entries in registers (CSM_HAS_LOOKUP), else an integer. ln2 is two
 * constants, as W. J. Cody and W. Waite have it (Software Manual for the Elementary Functions, 1980), and
 * e^f = 1 + f + f^2 h(f) with h minimax on the reduced range. Adding a magic number rounds k and puts it where its
 * power of two is made (P. T. P. Tang, doi:10.1145/63522.214214, for the table).
 *
 * The rounding of x - m is what other implementations lose most by: many ulp where x - m is large. With a shared
 * reduction x and m are each reduced by multiples of ln2, which is exact, and only the two remainders are subtracted.
 * That needs |m| < EXP_NEAR. For a maximum beyond it x - m is itself exact for every x whose exponential is not 0, and
 * is reduced directly.
 *
 * Results are scaled up by EXP_SCALE = 2^EXP_BIAS: what would be subnormal is normal here, and is rounded once, by the
 * caller's last multiplication. x - m below EXP_MIN gives exactly 0, NaN stays NaN, and x = m gives exactly EXP_SCALE.
 *
 * log1p. The reduction and the coefficients are those of the freely usable fdlibm (Sun Microsystems, 1993). It is of
 * doubles alone: a logarithm is taken once a row.
 */
#ifndef CSOFTMAX_MATH_H
#define CSOFTMAX_MATH_H

#include "simd.h"

CSM_INLINE v_f64 csm_pattern(uint64_t bits) {
    double x;
    memcpy(&x, &bits, sizeof x);
    return set1_f64(x);
}

/* How the range is reduced: with the maximum of the row, one for all lanes; with a maximum for each lane; directly. */
enum { EXP_SHARED, EXP_SHARED_LANES, EXP_DIRECT };
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

/* h(f) = c[0] f^(n-1) + ... + c[n-1] */
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

/* Two variants of what follows from z, the magic number plus k: by 16 entries for a k in sixteenths, and without.
 *
 *   EXP_MAGIC_T                   1.5 times the power of two whose unit in the last place is that of k, plus what makes
 *                                 the last bits of z the exponent of 2^k, scaled
 *   csm_exp_power_T(z)            2^k, scaled
 *   csm_exp_add_lack_T(a, z)      a plus what 2^k, being rounded, lacks, relative to it
 *   csm_exp_sub_lack_T(a, z)      a less that, and csm_exp_sub_lack_row_T the same where all lanes of a are equal
 *   csm_exp_sub_lost_f64(a, product, p, s)    a less what the rounding of p s, p = csm_exp_power_f64(z), to the product
 *                                 has added
 *   EXP_H_T(f)                    h(f) for the reduced range
 *   EXP_Q_T(f, g, k)              e^f - 1, where f is g - k EXP_LN2_LO, rounded */
#if defined(CSM_HAS_LOOKUP)
#define EXP_MAGIC_f32 (0x1.8p19f + 127 + EXP_BIAS_f32)
#define EXP_MAGIC_f64 (0x1.8p48 + 1023 + EXP_BIAS_f64)

/* Entry j: the bits of 2^(j/16), less those of 1, and less j in the place to which csm_exp_power shifts it. */
CSM_ALIGN(64) static const uint32_t csm_exp_powers_f32[16] = {
    0x00000000, 0xfffdaac3, 0xfffb95c2, 0xfff9c3d3, 0xfff837f0, 0xfff6f532, 0xfff5fed7, 0xfff5583f,
    0xfff504f3, 0xfff508a4, 0xfff5672a, 0xfff6248c, 0xfff744fd, 0xfff8ccdf, 0xfffac0c7, 0xfffd257d};
CSM_ALIGN(64) static const uint64_t csm_exp_powers_f64[16] = {
    0x0000000000000000, 0xffffb5586cf9890f, 0xffff72b83c7d517b, 0xffff387a6e756238,
    0xffff06fe0a31b715, 0xfffedea64c123422, 0xfffebfdad5362a27, 0xfffeab07dd485429,
    0xfffea09e667f3bcd, 0xfffea11473eb0187, 0xfffeace5422aa0db, 0xfffec49182a3f090,
    0xfffee89f995ad3ad, 0xffff199bdd85529c, 0xffff5818dcfba487, 0xffffa4afa2a490da};

/* What the entries, being rounded, lack, relative to them: 2^(j/16) = entry j * (1 + lack j). */
CSM_ALIGN(64) static const float csm_exp_lacks_f32[16] = {
    0.0f, 0x1.8d96d4p-25f, -0x1.9c0c22p-27f, 0x1.964904p-25f, 0x1.125002p-25f, 0x1.370be4p-25f,
    -0x1.0a3550p-25f, -0x1.00d8acp-27f, 0x1.26055cp-26f, -0x1.05cb44p-25f, 0x1.67a1cap-28f, 0x1.a3b5e4p-28f,
    -0x1.f9c304p-27f, -0x1.6961b4p-28f, -0x1.a5217cp-28f, 0x1.61428ep-28f};
CSM_ALIGN(64) static const double csm_exp_lacks_f64[16] = {
    0x0.0p+0, 0x1.79aa65d837b6dp-54, -0x1.01b15eaa59348p-55, 0x1.68efde3a8a894p-54,
    0x1.34d754db0abb6p-55, 0x1.59f48a72a4c6dp-55, 0x1.690cebb7aafb0p-56, 0x1.063e1e21c5409p-54,
    -0x1.3b3efbf5e2228p-54, -0x1.b32dcb94da51dp-56, 0x1.db72fc1f0eab4p-55, 0x1.1affc2b91ce27p-56,
    0x1.c1a7792cb3387p-55, 0x1.36eae30af0cb3p-56, 0x1.4a385a63d07a7p-56, -0x1.ff7128fd391f0p-55};

#define CSM_EXP_TABLES(T, R, shift)                                                                           \
    CSM_INLINE v_##T csm_exp_power_##T(v_##T z) {                                                            \
        v_##T powers[16 / VL_##T];                                                                           \
        for (int i = 0; i < 16 / VL_##T; i++) powers[i] = load_##T((const R *)csm_exp_powers_##T + i * VL_##T); \
        return bits_add_##T(bits_shl_##T(z, shift), bits_lookup_##T(powers, z));                             \
    }                                                                                                        \
    CSM_INLINE v_##T csm_exp_lack_##T(v_##T z) {                                                             \
        v_##T lacks[16 / VL_##T];                                                                            \
        for (int i = 0; i < 16 / VL_##T; i++) lacks[i] = load_##T(csm_exp_lacks_##T + i * VL_##T);           \
        return lookup_##T(lacks, z);                                                                         \
    }                                                                                                        \
    CSM_INLINE v_##T csm_exp_add_lack_##T(v_##T a, v_##T z) { return add_##T(a, csm_exp_lack_##T(z)); }      \
    CSM_INLINE v_##T csm_exp_sub_lack_##T(v_##T a, v_##T z) { return sub_##T(a, csm_exp_lack_##T(z)); }      \
    CSM_INLINE v_##T csm_exp_sub_lack_row_##T(v_##T a, v_##T z) {                                            \
        v_##T less[16 / VL_##T];                                                                             \
        for (int i = 0; i < 16 / VL_##T; i++) less[i] = sub_##T(a, load_##T(csm_exp_lacks_##T + i * VL_##T)); \
        return lookup_##T(less, z);                                                                          \
    }
CSM_EXP_TABLES(f32, float, 19)
CSM_EXP_TABLES(f64, double, 48)
#define csm_exp_sub_lost_f64(a, product, p, s) sub_f64(a, residual_f64(product, p, s))

/* f is so small that its own rounding does not show */
#define EXP_Q_f32(f, g, k) fma_f32(mul_f32(f, f), EXP_H_f32(f), f)
#define EXP_Q_f64(f, g, k) fma_f64(mul_f64(f, f), EXP_H_f64(f), f)
#define EXP_H_f32(f) fma_f32(f, set1_f32(0x1.5556398c6f960p-3f), set1_f32(0x1.00022022a1c8ap-1f))
#define EXP_H_f64(f)                                                                                         \
    CSM_HORNER_f64(f, 5, 0x1.6c14c5dfe64a3p-10, 0x1.11123b442993ep-7, 0x1.5555555900631p-5,                  \
                   0x1.555555548ec17p-3, 0x1.fffffffffffb8p-2)
#else
#define EXP_MAGIC_f32 (0x1.8p23f + 127 + EXP_BIAS_f32)
#define EXP_MAGIC_f64 (0x1.8p52 + 1023 + EXP_BIAS_f64)
/* powers of two lack nothing, nor does a product with one lose anything */
#define csm_exp_power_f32(z) bits_shl_f32(z, 23)
#define csm_exp_power_f64(z) bits_shl_f64(z, 52)
#define csm_exp_add_lack_f32(a, z) (a)
#define csm_exp_add_lack_f64(a, z) (a)
#define csm_exp_sub_lack_f32(a, z) (a)
#define csm_exp_sub_lack_f64(a, z) (a)
#define csm_exp_sub_lack_row_f32(a, z) (a)
#define csm_exp_sub_lack_row_f64(a, z) (a)
#define csm_exp_sub_lost_f64(a, product, p, s) (a)

/* g + (f^2 h(f) - k LN2_LO), past the rounding of f */
#define EXP_Q_f32(f, g, k) sub_f32(g, fnma_f32(mul_f32(f, f), EXP_H_f32(f), mul_f32(k, set1_f32(EXP_LN2_LO_f32))))
#define EXP_Q_f64(f, g, k) sub_f64(g, fnma_f64(mul_f64(f, f), EXP_H_f64(f), mul_f64(k, set1_f64(EXP_LN2_LO_f64))))
#define EXP_H_f32(f)                                                                                         \
    CSM_HORNER_f32(f, 5, 0x1.6a234ef00e51dp-10f, 0x1.123a688bb2865p-7f, 0x1.5558f4c594bcep-5f,               \
                   0x1.555490a30b4b1p-3f, 0x1.fffffb94582eep-2f)
#define EXP_H_f64(f)                                                                                         \
    CSM_HORNER_f64(f, 10, 0x1.ad7f0e41acd02p-26, 0x1.28adcce59d13cp-22, 0x1.71df262277f1cp-19,               \
                   0x1.a01999af432a8p-16, 0x1.a01a0129b9975p-13, 0x1.6c16c1844a8f4p-10,                      \
                   0x1.1111111127e73p-7, 0x1.55555555507f2p-5, 0x1.55555555554f9p-3, 0x1.000000000000ap-1)
#endif

/* The range reduction that a maximum m determines: k is (x - m) / ln2, rounded; k plus m's own multiple of ln2 is taken
 * from x, and m's own remainder, "center", from what is left. "magic" is EXP_MAGIC less m's own multiple.
 *
 *   exp_near_T(m)                        whether the reduction can be shared
 *   exp_shift_T(m, magic, center)        the reduction for m, to *magic and *center (OUT); a direct one if m is far
 *   exp_shift_lanes_T(m, magic, center)  the same for a maximum a lane, all of them near
 *   exp_shift_row_T(m)                   the same for a maximum that all lanes share
 *   exp_T(x, d, s, how)                  exp(d) EXP_SCALE, where d is x - m, rounded, or that over a temperature, and
 *                                        "how" is a constant of the enum above. For a direct reduction x is what the
 *                                        rounding of d has lost, and s is not read.
 *
 * max error of exp_T for d in [EXP_MIN, 0], of 10^8 samples: f32 1.1 ulp with a table and 1.3 ulp without, f64 0.7 ulp
 * and 1.1 ulp; f64 directly, with what d has lost, 0.9 ulp and 1.1 ulp. */
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
    CSM_INLINE v_##T exp_##T(v_##T x, v_##T d, csm_shift_##T s, const int how) {                             \
        const v_##T z = fma_##T(d, set1_##T((R)EXP_LOG2E), set1_##T((R)EXP_MAGIC_##T));                      \
        const v_##T k = sub_##T(z, how == EXP_DIRECT ? set1_##T((R)EXP_MAGIC_##T) : s.magic);                   \
        const v_##T r = fnma_##T(k, set1_##T(EXP_LN2_HI_##T), how == EXP_DIRECT ? d : x);                       \
        const v_##T g = how == EXP_DIRECT   ? add_##T(r, csm_exp_add_lack_##T(x, z))                            \
                        : how == EXP_SHARED ? sub_##T(r, csm_exp_sub_lack_row_##T(s.center, z))                 \
                                         : sub_##T(r, csm_exp_sub_lack_##T(s.center, z));                    \
        const v_##T f = fnma_##T(k, set1_##T(EXP_LN2_LO_##T), g);                                            \
        const v_##T q = EXP_Q_##T(f, g, k);                                                                  \
        const v_##T p = csm_exp_power_##T(z);                                                                \
        return and_not_lt_##T(d, set1_##T(EXP_MIN_##T), fma_##T(p, q, p));                                   \
    }
CSM_EXP(f32, float)
CSM_EXP(f64, double)

/* exp(d + lost) EXP_SCALE as *high + *low (OUT), for d in [EXP_MIN, 0], |lost| at most half an ulp of d.
 * max error 2^-56 relative with a table and 2^-55 without. */
CSM_INLINE void exp_pair_f64(v_f64 d, v_f64 lost, v_f64 *high, v_f64 *low) {
    const v_f64 z = fma_f64(d, set1_f64(EXP_LOG2E), set1_f64(EXP_MAGIC_f64));
    const v_f64 k = sub_f64(z, set1_f64(EXP_MAGIC_f64));
    const v_f64 r = fnma_f64(k, set1_f64(EXP_LN2_HI_f64), d);
    const v_f64 f = fnma_f64(k, set1_f64(EXP_LN2_LO_f64), r);
    const v_f64 rest = csm_exp_add_lack_f64(add_f64(fnma_f64(k, set1_f64(EXP_LN2_LO_f64), sub_f64(r, f)), lost), z);
    const v_f64 first = add_f64(set1_f64(1.0), f), lost_of_first = sub_f64(f, sub_f64(first, set1_f64(1.0)));
    const v_f64 tail = fma_f64(mul_f64(f, f), EXP_H_f64(f), lost_of_first), s = add_f64(first, tail);
    const v_f64 last = fma_f64(rest, s, sub_f64(tail, sub_f64(s, first)));
    const v_f64 p = csm_exp_power_f64(z), product = mul_f64(p, s);
    *high = and_not_lt_f64(d, set1_f64(EXP_MIN_f64), product);
    *low = and_not_lt_f64(d, set1_f64(EXP_MIN_f64), csm_exp_sub_lost_f64(mul_f64(p, last), product, p, s));
}

/* log(1 + u) for u >= 0; infinity and NaN stay. max error 0.8 ulp on [0, 2^60].
 * With the constant "pair" it is log(1 + u + rest), and *low (OUT) is what rounding it has lost: max error of their sum
 * 2^-52.7 relative on the same interval, |rest| at most half an ulp of u. */
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

/* exp(-l) - 1. max error on [0, 1]: 1.2 ulp where fma_T is rounded once, else 1.4 ulp. */
CSM_INLINE v_f64 expm1_neg_f64(v_f64 l) {
    const v_f64 h = CSM_HORNER_f64(l, 12, -1.0509453754979482e-10, 1.952715306431462e-09, -2.4856214837612005e-08,
                                   2.753900275371731e-07, -2.7556179049708925e-06, 2.4801539739718985e-05,
                                   -1.984126853148021e-04, 1.3888888865978557e-03, -8.333333333096557e-03,
                                   4.166666666665401e-02, -1.666666666666664e-01, 0.5);
    return fma_f64(mul_f64(l, h), l, sub_f64(set1_f64(0.0), l));
}

#endif /* CSOFTMAX_MATH_H */
