/* Dot products and sums as if in twice the precision: however many digits cancel in them, a derivative subtracts them
 * with one rounding. In single precision products and sums are those of doubles. In double precision the compensation
 * term is the sum of what products and sums lose (Dot2 of T. Ogita, S. M. Rump and S. Oishi, doi:10.1137/030601818):
 * the relative error of the result is at most 2^-53 + n^2 2^-106 c, for n terms and the condition number c.
 *
 * A csm_dot holds the accumulators of VL lanes. Accumulators are folded by halving, whatever holds them.
 */
#ifndef CSOFTMAX_DOT_H
#define CSOFTMAX_DOT_H

#include "compensated.h"

enum { DOT_PARTS = CSM_BITS == 32 ? VL / VL64 : 1 };

typedef struct {
    v_f64 sum[DOT_PARTS];
    v_f64 lost; /* the compensation terms, in double precision; else 0 */
} csm_dot;

/* Accumulators of nothing. */
CSM_INLINE csm_dot csm_dot_zero(void) {
    csm_dot a;
    for (int i = 0; i < DOT_PARTS; i++) a.sum[i] = set1_f64(0);
    a.lost = set1_f64(0);
    return a;
}

/* csm_dot_mul(a, g, p)     a plus the products of the lanes of g and p
 * csm_dot_mul_at(a, g, p)  the same of the VL reals at g (IN) and those at p (IN)
 * csm_dot_first(g, p)      the same with nothing for a
 * csm_dot_plus(a, g)       a plus the lanes of g
 * csm_dot_join(a, b)       a plus b */
#if CSM_BITS == 32
CSM_INLINE csm_dot csm_dot_mul_at(csm_dot a, const float *g, const float *p) {
    for (int i = 0; i < DOT_PARTS; i++)
        a.sum[i] = fma_f64(widen_f32(g + i * VL64), widen_f32(p + i * VL64), a.sum[i]);
    return a;
}

CSM_INLINE csm_dot csm_dot_mul(csm_dot a, v_f32 g, v_f32 p) {
    float left[VL], right[VL];
    store_f32(left, g);
    store_f32(right, p);
    return csm_dot_mul_at(a, left, right);
}

CSM_INLINE csm_dot csm_dot_first(v_f32 g, v_f32 p) { return csm_dot_mul(csm_dot_zero(), g, p); }

CSM_INLINE csm_dot csm_dot_plus(csm_dot a, v_f32 g) {
    float terms[VL];
    store_f32(terms, g);
    for (int i = 0; i < DOT_PARTS; i++) a.sum[i] = add_f64(a.sum[i], widen_f32(terms + i * VL64));
    return a;
}

CSM_INLINE csm_dot csm_dot_join(csm_dot a, csm_dot b) {
    for (int i = 0; i < DOT_PARTS; i++) a.sum[i] = add_f64(a.sum[i], b.sum[i]);
    return a;
}
#else
CSM_INLINE csm_dot csm_dot_plus(csm_dot a, v_f64 g) {
    v_f64 lost;
    csm_two_sum_lanes(a.sum[0], g, &a.sum[0], &lost);
    a.lost = add_f64(a.lost, lost);
    return a;
}

CSM_INLINE csm_dot csm_dot_mul(csm_dot a, v_f64 g, v_f64 p) {
    const v_f64 product = mul_f64(g, p);
    a.lost = sub_f64(a.lost, residual_f64(product, g, p));
    return csm_dot_plus(a, product);
}

CSM_INLINE csm_dot csm_dot_first(v_f64 g, v_f64 p) {
    const v_f64 product = mul_f64(g, p), zero = set1_f64(0);
    return (csm_dot){{add_f64(product, zero)}, sub_f64(zero, residual_f64(product, g, p))};
}

CSM_INLINE csm_dot csm_dot_mul_at(csm_dot a, const double *g, const double *p) {
    return csm_dot_mul(a, load_f64(g), load_f64(p));
}

CSM_INLINE csm_dot csm_dot_join(csm_dot a, csm_dot b) {
    a.lost = add_f64(a.lost, b.lost);
    return csm_dot_plus(a, b.sum[0]);
}
#endif

/* Accumulators of columns in memory: a matrix of "rows" rows of doubles, "across" apart, and after it, in double
 * precision, another like it, of compensation terms. csm_dot_store writes those of VL columns to sums (OUT), which lies
 * in a row of the first matrix, VL doubles to each; csm_dot_load reads them (IN). */
CSM_INLINE void csm_dot_store(double *sums, ptrdiff_t rows, ptrdiff_t across, csm_dot a) {
    for (int i = 0; i < DOT_PARTS; i++) store_f64(sums + i * VL64, a.sum[i]);
#if CSM_BITS == 64
    store_f64(sums + rows * across, a.lost);
#else
    (void)rows;
    (void)across;
#endif
}

CSM_INLINE csm_dot csm_dot_load(const double *sums, ptrdiff_t rows, ptrdiff_t across) {
    csm_dot a = csm_dot_zero();
    for (int i = 0; i < DOT_PARTS; i++) a.sum[i] = load_f64(sums + i * VL64);
#if CSM_BITS == 64
    a.lost = load_f64(sums + rows * across);
#else
    (void)rows;
    (void)across;
#endif
    return a;
}

/* (sum + lost) scale, scale being a power of two: reals at high (OUT, VL64 of them) and, unless low is NULL, their
 * compensation terms at low (OUT, VL64 reals). */
CSM_INLINE void csm_dot_split_lanes(v_f64 sum, v_f64 lost, double scale, csm_real *high, csm_real *low) {
    const v_f64 by = set1_f64(scale), less = csm_finite_lanes(lost), both = add_f64(sum, less);
    if (low == NULL) v_narrow(high, mul_f64(both, by));
    else csm_split_lanes(mul_f64(both, by), mul_f64(add_f64(sub_f64(sum, both), less), by), high, low);
}

/* The sums of VL64 columns, to *high and *low (OUT), from "count" of the rows that csm_dot_store has written, the first
 * of them at sums (IN). The count is a power of two, at most ACCUMULATORS. */
CSM_INLINE void csm_dot_columns(const double *sums, ptrdiff_t rows, ptrdiff_t across, int count, v_f64 *high,
                                v_f64 *low) {
    v_f64 sum[ACCUMULATORS], lost[ACCUMULATORS];
    for (int i = 0; i < count; i++) {
        sum[i] = load_f64(sums + i * across);
        lost[i] = CSM_BITS == 64 ? load_f64(sums + (rows + i) * across) : set1_f64(0);
    }
    csm_halve_lanes(sum, lost, count);
    *high = sum[0];
    *low = lost[0];
}

/* The sum of one row, from its accumulators a, to *high and *low (OUT). */
CSM_INLINE void csm_dot_row(csm_dot a, double *high, double *low) {
#if CSM_BITS == 32
    for (int half = DOT_PARTS / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) a.sum[i] = add_f64(a.sum[i], a.sum[i + half]);
    *high = hadd_f64(a.sum[0]);
    *low = 0;
#else
    double sum[VL], lost[VL];
    store_f64(sum, a.sum[0]);
    store_f64(lost, a.lost);
    csm_halve(sum, lost, VL);
    *high = sum[0];
    *low = lost[0];
#endif
}

/* The sums of VL rows, from the accumulators of each (IN), times scale, a power of two: reals at high and compensation
 * terms at low (OUT, VL reals each), as csm_dot_split_lanes has them. */
CSM_INLINE void csm_dot_rows(const csm_dot *rows, double scale, csm_real *high, csm_real *low) {
#if CSM_BITS == 32
    for (int first = 0; first < VL; first += VL64) {
        v_f64 sum[VL64];
        for (int r = 0; r < VL64; r++)
            sum[r] = DOT_PARTS > 1 ? add_f64(rows[first + r].sum[0], rows[first + r].sum[DOT_PARTS - 1])
                                   : rows[first + r].sum[0];
        csm_dot_split_lanes(hadd_rows_f64(sum), set1_f64(0), scale, high + first, low == NULL ? NULL : low + first);
    }
#else
    double lanes[VL * VL];
    v_f64 sum[VL + CSM_QUAD], lost[VL + CSM_QUAD];
    for (int r = 0; r < VL; r++) store_f64(lanes + r * VL, rows[r].sum[0]);
    for (int i = 0; i < VL; i += CSM_QUAD)
        v_quads_in(lanes + i, VL, VL - i < CSM_QUAD ? VL - i : CSM_QUAD, sum + i);
    for (int r = 0; r < VL; r++) store_f64(lanes + r * VL, rows[r].lost);
    for (int i = 0; i < VL; i += CSM_QUAD)
        v_quads_in(lanes + i, VL, VL - i < CSM_QUAD ? VL - i : CSM_QUAD, lost + i);
    csm_halve_lanes(sum, lost, VL);
    csm_dot_split_lanes(sum[0], lost[0], scale, high, low);
#endif
}

#endif /* CSOFTMAX_DOT_H */
