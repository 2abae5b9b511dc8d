/* Arithmetic of numbers that are sums hi + lo of two doubles: hi is the number, rounded, and lo its compensation term,
 * what hi lacks. In single precision a double has digits to spare, and lo is 0.
 *
 * The second half has the same for VL64 rows, one a lane.
 */
#ifndef CSOFTMAX_COMPENSATED_H
#define CSOFTMAX_COMPENSATED_H

#include "real.h"

/* a + b as *sum + *error (OUT), exactly (D. E. Knuth, The Art of Computer Programming, vol. 2, 4.2.2). */
CSM_INLINE void csm_two_sum(double a, double b, double *sum, double *error) {
    const double s = a + b, t = s - a;
    *error = (a - (s - t)) + (b - t);
    *sum = s;
}

/* Folds "count" accumulators and their compensation terms (IN, destroyed) into the first of them (OUT), by halving. The
 * count is a power of two. */
CSM_INLINE void csm_halve(double *sum, double *lost, int count) {
    double error;
    for (int half = count / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; i++) {
            csm_two_sum(sum[i], sum[i + half], &sum[i], &error);
            lost[i] = (lost[i] + lost[i + half]) + error;
        }
    }
}

/* The sum of the ACCUMULATORS accumulators at a (IN) as *hi + *lo (OUT), by halving. */
CSM_INLINE void csm_fold(const csm_real *a, double *hi, double *lo) {
#if CSM_BITS == 32
    v_f64 s[ACCUMULATORS / VL_f64];
    for (int i = 0; i < ACCUMULATORS / VL_f64; i++) s[i] = v_widen(a + i * VL_f64);
    for (int half = ACCUMULATORS / VL_f64 / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) s[i] = add_f64(s[i], s[i + half]);
    *hi = hadd_f64(s[0]);
    *lo = 0;
#else
    double sum[ACCUMULATORS], lost[ACCUMULATORS];
    for (int i = 0; i < ACCUMULATORS; i++) {
        sum[i] = a[i];
        lost[i] = 0;
    }
    csm_halve(sum, lost, ACCUMULATORS);
    *hi = sum[0];
    *lo = fabs(lost[0]) < INFINITY ? lost[0] : 0;
#endif
}

/* The sum of the two halves of a short sum, as *hi + *lo (OUT): only that addition is not rounded to a real. For two
 * classes it is the only one that rounds. */
CSM_INLINE void csm_join_pair(csm_real a, csm_real b, double *hi, double *lo) {
#if CSM_BITS == 32
    *hi = (double)a + (double)b;
    *lo = 0;
#else
    csm_two_sum(a, b, hi, lo);
#endif
}

/* a / (b + rest) as *hi + *lo (OUT); max error 2^-103 relative, |rest| at most half an ulp of b. */
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

/* hi + lo as two reals, *high + *low (OUT). */
CSM_INLINE void csm_split(double hi, double lo, csm_real *high, csm_real *low) {
    *high = (csm_real)hi;
    *low = (csm_real)((hi - (double)*high) + lo);
    if (!(fabs((double)*low) < INFINITY)) *low = 0;
}

/* ---------------------------------------------------------------------- the same for VL64 rows, one a lane */
/* a, but 0 where it is infinite or NaN: a compensation term is so where its number is. */
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

/* Accumulator i of the rows, of ACCUMULATORS, stands at a + i step (IN, VL64 reals each). */
CSM_INLINE void csm_fold_lanes(const csm_real *a, ptrdiff_t step, v_f64 *hi, v_f64 *lo) {
    v_f64 sum[ACCUMULATORS], lost[ACCUMULATORS];
    for (int i = 0; i < ACCUMULATORS; i++) {
        sum[i] = v_widen(a + i * step);
        lost[i] = set1_f64(0);
    }
    csm_halve_lanes(sum, lost, ACCUMULATORS);
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

/* exp(d + lost) EXP_SCALE_f64 for d <= 0, as *hi + *lo (OUT). */
CSM_INLINE void csm_exp_lanes(v_f64 d, v_f64 lost, v_f64 *hi, v_f64 *lo) {
#if CSM_BITS == 32
    const v_f64 e = exp_f64(set1_f64(0), d, exp_shift_row_f64(0), EXP_DIRECT);
    *hi = add_f64(e, mul_f64(e, lost));
    *lo = set1_f64(0);
#else
    exp_pair_f64(d, lost, hi, lo);
#endif
}

/* ties + (sum + rest) / EXP_SCALE - 1, as *hi + *lo (OUT): a sum of exponentials less 1, from how many of them are 1
 * (the ties with the maximum) and the scaled sum of the others. */
CSM_INLINE void csm_sum_minus_one_lanes(v_f64 ties, v_f64 sum, v_f64 rest, v_f64 *hi, v_f64 *lo) {
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

/* log(1 + u + rest) for u >= 0, as *hi + *lo (OUT). */
CSM_INLINE void csm_log1p_lanes(v_f64 u, v_f64 rest, v_f64 *hi, v_f64 *lo) {
    *lo = set1_f64(0);
    *hi = log1p_f64(u, rest, lo, COMPENSATED);
}

/* m + log + rest, rounded; rest may be NaN where m or log is not finite, and is then passed over. */
CSM_INLINE v_f64 csm_add_log_lanes(v_f64 m, v_f64 log, v_f64 rest) {
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

#endif /* CSOFTMAX_COMPENSATED_H */
