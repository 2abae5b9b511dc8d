/* The names the kernels use, bound to the precision a module is compiled for (CSM_BITS = 32 or 64).
 *
 * LANES accumulators take part in every sum, whatever the level: element i of a block goes to accumulator
 * i % LANES, and the accumulators are folded by halving. A vector holds VL of them, NV vectors hold all. Each
 * SUBBLOCK has accumulators of its own, which are added to those of the block: no chain of additions is longer
 * than eight. Blocks beyond SHORT are folded in higher precision. Derivatives take their dot products as if in twice the
 * precision (_dot.h), but for softmax's in rows of up to PLAIN.
 */
#ifndef CSOFTMAX_LANES_H
#define CSOFTMAX_LANES_H

#include "_transpose.h"
#include "_vexp.h"

#ifndef CSM_BITS
#error "define CSM_BITS as 32 or 64"
#endif

#define CSM_JOIN_(a, b) a##b
#define CSM_JOIN(a, b) CSM_JOIN_(a, b)
#define CSM_T(name) CSM_JOIN(name##_f, CSM_BITS)

enum { PLAIN = 32 };
#if CSM_BITS == 32
typedef float csm_real;
enum { LANES = 16, BLOCK = 1024, SUBBLOCK = 128, SHORT = 64 };
#define CSM_TINY_SCALE 0x1p-100
#define v_widen widen_f32
#define v_narrow narrow_f32
/* a double has digits to spare for a result: what one lost need not be kept */
enum { PAIRS = 0 };
#else
typedef double csm_real;
enum { LANES = 8, BLOCK = 512, SUBBLOCK = 64, SHORT = 64 };
#define CSM_TINY_SCALE 0x1p-960
#define v_widen load_f64
#define v_narrow store_f64
enum { PAIRS = 1 };
#endif

typedef CSM_T(v) csm_vec;
/* elements from those that are worked on to those that are fetched; the hardware's own fetching ends at every page */
enum { PREFETCH = BLOCK / 2 };
enum { VL = CSM_T(VL), NV = LANES / VL, QUARTER = LANES / 4, VL64 = VL_f64 };
/* vectors an unrolled step works on: enough to hide the latency of exp, few enough for the registers */
#if defined(CSM_AVX2)
enum { STEP = 2 };
#else
enum { STEP = NV > 4 ? NV : 4 };
#endif
/* enough registers to write one row while the next is exponentiated */
#if defined(CSM_AVX512)
enum { FUSED = 1 };
#else
enum { FUSED = 0 };
#endif

#define v_set1 CSM_T(set1)
#define v_load CSM_T(load)
#define v_load_n CSM_T(load_n)
#define v_store CSM_T(store)
#define v_store_n CSM_T(store_n)
#define v_stream CSM_T(stream)
#define v_add CSM_T(add)
#define v_sub CSM_T(sub)
#define v_mul CSM_T(mul)
#define v_div CSM_T(div)
#define v_residual CSM_T(residual)
#define v_fma CSM_T(fma)
#define v_max CSM_T(max)
#define v_exp CSM_T(exp)
#define v_exp_shift CSM_T(exp_shift)
#define v_exp_shift_row CSM_T(exp_shift_row)
#define v_exp_shift_lanes CSM_T(exp_shift_lanes)
#define v_exp_near CSM_T(exp_near)
#define v_and_eq CSM_T(and_eq)
#define v_sum_apart CSM_T(sum_apart)
#define v_select_lt CSM_T(select_lt)
#define v_select_bytes CSM_T(select_bytes)
#define v_hadd CSM_T(hadd)
#define v_hmax CSM_T(hmax)
#define v_all_below CSM_T(all_below)
#define v_hpair CSM_T(hpair)
#define v_hadd_rows CSM_T(hadd_rows)
#define v_hadd_four CSM_T(hadd_four)
#define v_quads_in CSM_T(csm_quads_in)
#define v_quads_out CSM_T(csm_quads_out)
#define EXP_SCALE ((double)CSM_T(EXP_SCALE))
/* factors of exponentials travel scaled up by this, so that none is subnormal */
#define CSM_FACTOR_SCALE 0x1p108

typedef CSM_T(csm_shift) csm_shift;

/* a + b = sum + error, exactly (D. E. Knuth, The Art of Computer Programming, vol. 2, 4.2.2) */
CSM_INLINE void csm_two_sum(double a, double b, double *sum, double *error) {
    const double s = a + b, t = s - a;
    *error = (a - (s - t)) + (b - t);
    *sum = s;
}

/* accumulators, and what they have lost, to the first of them, by halving */
CSM_INLINE void csm_halve(double *sum, double *lost, int count) {
    double error;
    for (int half = count / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; i++) {
            csm_two_sum(sum[i], sum[i + half], &sum[i], &error);
            lost[i] = (lost[i] + lost[i + half]) + error;
        }
    }
}

/* LANES accumulators to hi + lo, by halving. In single precision a double holds their sum with digits to spare,
 * and lo is 0: so it is in the quotient below. */
CSM_INLINE void csm_fold(const csm_real *a, double *hi, double *lo) {
#if CSM_BITS == 32
    v_f64 s[LANES / VL_f64];
    for (int i = 0; i < LANES / VL_f64; i++) s[i] = v_widen(a + i * VL_f64);
    for (int half = LANES / VL_f64 / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) s[i] = add_f64(s[i], s[i + half]);
    *hi = hadd_f64(s[0]);
    *lo = 0;
#else
    double sum[LANES], lost[LANES];
    for (int i = 0; i < LANES; i++) {
        sum[i] = a[i];
        lost[i] = 0;
    }
    csm_halve(sum, lost, LANES);
    *hi = sum[0];
    *lo = fabs(lost[0]) < INFINITY ? lost[0] : 0;
#endif
}

/* What the two halves of a short sum come to: their addition alone is not rounded to a real. For two classes that
 * is all there is to round. */
CSM_INLINE void csm_join_pair(csm_real a, csm_real b, double *hi, double *lo) {
#if CSM_BITS == 32
    *hi = (double)a + (double)b;
    *lo = 0;
#else
    csm_two_sum(a, b, hi, lo);
#endif
}

/* a / (b + rest) = hi + lo, with what the division lost in lo */
CSM_INLINE void csm_quotient(double a, double b, double rest, double *hi, double *lo) {
    *hi = a / b;
#if CSM_BITS == 32
    (void)rest;
    *lo = 0;
#else
    *lo = (fma(-*hi, b, a) - *hi * rest) / b;
    if (!(fabs(*lo) < INFINITY)) *lo = 0;
#endif
}

/* hi + lo as two reals */
CSM_INLINE void csm_split(double hi, double lo, csm_real *high, csm_real *low) {
    *high = (csm_real)hi;
    *low = (csm_real)((hi - (double)*high) + lo);
    if (!(fabs((double)*low) < INFINITY)) *low = 0;
}

/* ------------------------------------------------------------- the same for VL64 rows, one a lane */
CSM_INLINE v_f64 csm_finite_lanes(v_f64 a) { return and_eq_f64(sub_f64(a, a), set1_f64(0), a); }

CSM_INLINE void csm_two_sum_lanes(v_f64 a, v_f64 b, v_f64 *sum, v_f64 *error) {
    const v_f64 s = add_f64(a, b), t = sub_f64(s, a);
    *error = add_f64(sub_f64(a, sub_f64(s, t)), sub_f64(b, t));
    *sum = s;
}

CSM_INLINE void csm_join_pair_lanes(const csm_real *a, const csm_real *b, v_f64 *hi, v_f64 *lo) {
#if CSM_BITS == 32
    *hi = add_f64(v_widen(a), v_widen(b));
    *lo = set1_f64(0);
#else
    csm_two_sum_lanes(v_widen(a), v_widen(b), hi, lo);
#endif
}

CSM_INLINE void csm_halve_lanes(v_f64 *sum, v_f64 *lost, int count) {
    (void)lost;
    for (int half = count / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; i++) {
#if CSM_BITS == 32
            sum[i] = add_f64(sum[i], sum[i + half]);
#else
            v_f64 error;
            csm_two_sum_lanes(sum[i], sum[i + half], &sum[i], &error);
            lost[i] = add_f64(add_f64(lost[i], lost[i + half]), error);
#endif
        }
    }
}

/* accumulator i of the rows stands at a + i * step */
CSM_INLINE void csm_fold_lanes(const csm_real *a, ptrdiff_t step, v_f64 *hi, v_f64 *lo) {
    v_f64 sum[LANES], lost[LANES];
    for (int i = 0; i < LANES; i++) {
        sum[i] = v_widen(a + i * step);
        lost[i] = set1_f64(0);
    }
    csm_halve_lanes(sum, lost, LANES);
    *hi = sum[0];
    *lo = csm_finite_lanes(lost[0]);
}

CSM_INLINE void csm_quotient_lanes(v_f64 a, v_f64 b, v_f64 rest, v_f64 *hi, v_f64 *lo) {
    *hi = div_f64(a, b);
#if CSM_BITS == 32
    (void)rest;
    *lo = set1_f64(0);
#else
    *lo = csm_finite_lanes(div_f64(sub_f64(residual_f64(a, *hi, b), mul_f64(*hi, rest)), b));
#endif
}

/* exp(d + lost) * EXP_SCALE_f64 */
CSM_INLINE void csm_exp_lanes(v_f64 d, v_f64 lost, v_f64 *hi, v_f64 *lo) {
#if CSM_BITS == 32
    const v_f64 e = exp_f64(set1_f64(0), d, exp_shift_row_f64(0), EXP_FAR);
    *hi = add_f64(e, mul_f64(e, lost));
    *lo = set1_f64(0);
#else
    exp_pair_f64(d, lost, hi, lo);
#endif
}

/* a sum less 1, from its ties and the others' sum, times EXP_SCALE */
CSM_INLINE void csm_above_lanes(v_f64 ties, v_f64 sum, v_f64 rest, v_f64 *hi, v_f64 *lo) {
    const v_f64 more = sub_f64(ties, set1_f64(1)), scale = set1_f64(1 / EXP_SCALE);
#if CSM_BITS == 32
    (void)rest;
    *hi = add_f64(more, mul_f64(sum, scale));
    *lo = set1_f64(0);
#else
    csm_two_sum_lanes(more, mul_f64(sum, scale), hi, lo);
    *lo = add_f64(*lo, mul_f64(rest, scale));
#endif
}

/* log(1 + u + rest) */
CSM_INLINE void csm_log1p_lanes(v_f64 u, v_f64 rest, v_f64 *hi, v_f64 *lo) {
    *lo = set1_f64(0);
    *hi = log1p_f64(u, rest, lo, PAIRS);
}

/* m + log + rest, where what is not finite may have left a NaN in rest */
CSM_INLINE v_f64 csm_whole_log_lanes(v_f64 m, v_f64 log, v_f64 rest) {
#if CSM_BITS == 32
    (void)rest;
    return add_f64(m, log);
#else
    csm_two_sum_lanes(m, log, &m, &log);
    return add_f64(m, csm_finite_lanes(add_f64(log, rest)));
#endif
}

CSM_INLINE void csm_split_lanes(v_f64 hi, v_f64 lo, csm_real *high, csm_real *low) {
    v_narrow(high, hi);
    v_narrow(low, csm_finite_lanes(add_f64(sub_f64(hi, v_widen(high)), lo)));
}

#endif /* CSOFTMAX_LANES_H */
