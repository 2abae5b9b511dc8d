/* The names the kernels use, bound to the precision a module is compiled for (CSM_BITS = 32 or 64).
 *
 * LANES accumulators take part in every sum, whatever the level: element i of a block goes to accumulator
 * i % LANES, and the accumulators are folded by halving. A vector holds VL of them, NV vectors hold all. Each
 * SUBBLOCK has accumulators of its own, which are added to those of the block: no chain of additions is longer
 * than eight. Blocks beyond SHORT are folded in higher precision.
 */
#ifndef CSOFTMAX_LANES_H
#define CSOFTMAX_LANES_H

#include "_vexp.h"

#ifndef CSM_BITS
#error "define CSM_BITS as 32 or 64"
#endif

#define CSM_JOIN_(a, b) a##b
#define CSM_JOIN(a, b) CSM_JOIN_(a, b)
#define CSM_T(name) CSM_JOIN(name##_f, CSM_BITS)

#if CSM_BITS == 32
typedef float csm_real;
enum { LANES = 16, BLOCK = 1024, SUBBLOCK = 128, SHORT = 64 };
#define CSM_TINY_SCALE 0x1p-100
#else
typedef double csm_real;
enum { LANES = 8, BLOCK = 512, SUBBLOCK = 64, SHORT = 64 };
#define CSM_TINY_SCALE 0x1p-960
#endif

typedef CSM_T(v) csm_vec;
enum { VL = CSM_T(VL), NV = LANES / VL, VL64 = VL_f64 };
/* vectors an unrolled step works on: enough to hide the latency of exp, few enough for the registers */
#if defined(CSM_AVX2)
enum { STEP = 2 };
#else
enum { STEP = NV > 4 ? NV : 4 };
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
#define v_fma CSM_T(fma)
#define v_max CSM_T(max)
#define v_exp CSM_T(exp)
#define v_exp_shift CSM_T(exp_shift)
#define v_exp_shift_row CSM_T(exp_shift_row)
#define v_exp_near CSM_T(exp_near)
#define v_and_eq CSM_T(and_eq)
#define v_and_ne CSM_T(and_ne)
#define v_select_lt CSM_T(select_lt)
#define v_hadd CSM_T(hadd)
#define v_hmax CSM_T(hmax)
#define v_hadd_rows CSM_T(hadd_rows)
#define v_hmax_rows CSM_T(hmax_rows)
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

/* LANES accumulators, `step` apart, to hi + lo */
CSM_INLINE void csm_fold(const csm_real *a, ptrdiff_t step, double *hi, double *lo) {
    double s[LANES];
    *lo = 0;
    for (int i = 0; i < LANES; i++) s[i] = a[i * step];
    for (int half = LANES / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; i++) {
#if CSM_BITS == 32
            s[i] += s[i + half];
#else
            double error;
            csm_two_sum(s[i], s[i + half], &s[i], &error);
            *lo += error;
#endif
        }
    }
    *hi = s[0];
}

/* a / (b + rest) = hi + lo, with what the division lost in lo */
CSM_INLINE void csm_quotient(double a, double b, double rest, double *hi, double *lo) {
    *hi = a / b;
    *lo = (fma(-*hi, b, a) - *hi * rest) / b;
    if (!(fabs(*lo) < INFINITY)) *lo = 0;
}

/* hi + lo as two reals */
CSM_INLINE void csm_split(double hi, double lo, csm_real *high, csm_real *low) {
    *high = (csm_real)hi;
    *low = (csm_real)((hi - (double)*high) + lo);
    if (!(fabs((double)*low) < INFINITY)) *low = 0;
}

#endif /* CSOFTMAX_LANES_H */
