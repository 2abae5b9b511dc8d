/* Names for the precision a module is compiled for: CSM_BITS = 32 (real = float) or 64 (real = double).
 *
 * v_<operation> is <operation>_T of simd.h, math.h and transpose.h for the module's reals.
 *
 * Constants of the numerics are the same at every level, since the bits of results depend on them. A row is cut into
 * blocks of BLOCK elements, and those into subblocks of SUBBLOCK. Element i of a subblock is added to accumulator
 * i % ACCUMULATORS, and accumulators are folded by halving. Those of each subblock start at zero and are added to those
 * of the block, so that no chain of additions is longer than eight. Blocks of up to SHORT elements are folded in the
 * module's precision, longer ones in higher precision. Derivatives take dot products as if in twice the precision
 * (dot.h), but for softmax's in rows of up to PLAIN elements.
 */
#ifndef CSOFTMAX_REAL_H
#define CSOFTMAX_REAL_H

#include "math.h"
#include "transpose.h"

#ifndef CSM_BITS
#error "define CSM_BITS as 32 or 64"
#endif

#define CSM_JOIN_(a, b) a##b
#define CSM_JOIN(a, b) CSM_JOIN_(a, b)
#define CSM_T(name) CSM_JOIN(name##_f, CSM_BITS)

typedef CSM_T(v) csm_vec;
typedef CSM_T(csm_shift) csm_shift;

enum { PLAIN = 32, SHORT = 64 };
#if CSM_BITS == 32
typedef float csm_real;
enum { ACCUMULATORS = 16, BLOCK = 1024, SUBBLOCK = 128 };
#define CSM_TINY_SCALE 0x1p-100
#define v_widen widen_f32
#define v_narrow narrow_f32
/* whether numbers carry a compensation term; a double has digits to spare for a result in single precision */
enum { COMPENSATED = 0 };
#else
typedef double csm_real;
enum { ACCUMULATORS = 8, BLOCK = 512, SUBBLOCK = 64 };
#define CSM_TINY_SCALE 0x1p-960
#define v_widen load_f64
#define v_narrow store_f64
enum { COMPENSATED = 1 };
#endif
#define EXP_SCALE ((double)CSM_T(EXP_SCALE))
/* factors of exponentials travel scaled up by this, so that none is subnormal */
#define CSM_FACTOR_SCALE 0x1p108

/* VL lanes a vector of reals and VL64 a vector of doubles; NV vectors hold the accumulators */
enum { VL = CSM_T(VL), NV = ACCUMULATORS / VL, QUARTER = ACCUMULATORS / 4, VL64 = VL_f64 };

/* Tuning, which changes no bit. STEP: vectors that an unrolled step works on, enough to hide the latency of the
 * exponential and few enough for the registers. FUSED: whether there are registers to write one row while the next is
 * exponentiated. PREFETCH: elements from those that are worked on to those that are fetched, since the hardware's own
 * prefetching ends at every page. */
enum { STEP = NV > (int)CSM_STEP ? NV : (int)CSM_STEP, FUSED = CSM_FUSED, PREFETCH = BLOCK / 2 };

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
#define v_add_or_count CSM_T(add_or_count)
#define v_select_lt CSM_T(select_lt)
#define v_select_bytes CSM_T(select_bytes)
#define v_hadd CSM_T(hadd)
#define v_hmax CSM_T(hmax)
#define v_all_below CSM_T(all_below)
#define v_hpair CSM_T(hpair)
#define v_hadd_rows CSM_T(hadd_rows)
#define v_hadd_four CSM_T(hadd_four)
#define v_quads_in CSM_T(quads_in)
#define v_quads_out CSM_T(quads_out)

#endif /* CSOFTMAX_REAL_H */
