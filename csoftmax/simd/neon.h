/* NEON (Advanced SIMD): 128 bits, 32 registers. Every 64-bit Arm CPU has it; it is the baseline there too. */
#ifndef CSOFTMAX_NEON_H
#define CSOFTMAX_NEON_H

#include <arm_neon.h>

enum { CSM_STEP = 4, CSM_FUSED = 0 };

enum { VL_f32 = 4, VL_f64 = 2 };
typedef float32x4_t v_f32;
typedef float64x2_t v_f64;

#define CSM_HAS_FMA 1
#define CSM_NEON(T, R, u)                                                                                    \
    CSM_INLINE v_##T set1_##T(R a) { return vdupq_n_##T(a); }                                                \
    CSM_INLINE v_##T load_##T(const R *p) { return vld1q_##T(p); }                                           \
    CSM_INLINE void store_##T(R *p, v_##T a) { vst1q_##T(p, a); }                                            \
    CSM_INLINE void stream_##T(R *p, v_##T a) { vst1q_##T(p, a); }                                           \
    CSM_INLINE v_##T add_##T(v_##T a, v_##T b) { return vaddq_##T(a, b); }                                   \
    CSM_INLINE v_##T sub_##T(v_##T a, v_##T b) { return vsubq_##T(a, b); }                                   \
    CSM_INLINE v_##T mul_##T(v_##T a, v_##T b) { return vmulq_##T(a, b); }                                   \
    CSM_INLINE v_##T div_##T(v_##T a, v_##T b) { return vdivq_##T(a, b); }                                   \
    CSM_INLINE v_##T fma_##T(v_##T a, v_##T b, v_##T c) { return vfmaq_##T(c, a, b); }                       \
    CSM_INLINE v_##T fnma_##T(v_##T a, v_##T b, v_##T c) { return vfmsq_##T(c, a, b); }                      \
    CSM_INLINE v_##T max_##T(v_##T a, v_##T b) { return vbslq_##T(vcgtq_##T(a, b), a, b); }                  \
    CSM_INLINE v_##T and_eq_##T(v_##T a, v_##T b, v_##T v) {                                                 \
        return vbslq_##T(vceqq_##T(a, b), v, vdupq_n_##T(0));                                                \
    }                                                                                                        \
    CSM_INLINE v_##T and_ne_##T(v_##T a, v_##T b, v_##T v) {                                                 \
        return vbslq_##T(vceqq_##T(a, b), vdupq_n_##T(0), v);                                                \
    }                                                                                                        \
    CSM_INLINE v_##T and_not_lt_##T(v_##T a, v_##T b, v_##T v) {                                             \
        return vbslq_##T(vcltq_##T(a, b), vdupq_n_##T(0), v);                                                \
    }                                                                                                        \
    CSM_INLINE v_##T select_lt_##T(v_##T a, v_##T b, v_##T v, v_##T w) {                                     \
        return vbslq_##T(vcltq_##T(a, b), v, w);                                                             \
    }                                                                                                        \
    CSM_INLINE v_##T bits_add_##T(v_##T a, v_##T b) {                                                        \
        return vreinterpretq_##T##_##u(vaddq_##u(vreinterpretq_##u##_##T(a), vreinterpretq_##u##_##T(b)));   \
    }                                                                                                        \
    CSM_INLINE v_##T bits_and_##T(v_##T a, v_##T b) {                                                        \
        return vreinterpretq_##T##_##u(vandq_##u(vreinterpretq_##u##_##T(a), vreinterpretq_##u##_##T(b)));   \
    }                                                                                                        \
    CSM_INLINE v_##T bits_or_##T(v_##T a, v_##T b) {                                                         \
        return vreinterpretq_##T##_##u(vorrq_##u(vreinterpretq_##u##_##T(a), vreinterpretq_##u##_##T(b)));   \
    }
CSM_NEON(f32, float, u32)
CSM_NEON(f64, double, u64)
/* macros, since the intrinsics take constants */
#define bits_shl_f32(a, k) vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(a), k))
#define bits_shr_f32(a, k) vreinterpretq_f32_u32(vshrq_n_u32(vreinterpretq_u32_f32(a), k))
#define bits_shl_f64(a, k) vreinterpretq_f64_u64(vshlq_n_u64(vreinterpretq_u64_f64(a), k))
#define bits_shr_f64(a, k) vreinterpretq_f64_u64(vshrq_n_u64(vreinterpretq_u64_f64(a), k))

CSM_INLINE v_f64 widen_f32(const float *p) { return vcvt_f64_f32(vld1_f32(p)); }
CSM_INLINE void narrow_f32(float *p, v_f64 a) { vst1_f32(p, vcvt_f32_f64(a)); }
CSM_INLINE void csm_stream_fence(void) {}

/* ------------------------------------------------------------------------------------------- horizontal */
#define CSM_HAS_HORIZONTAL 1
CSM_INLINE void hpair_f32(v_f32 a, float *low, float *high) {
    const float32x2_t b = vadd_f32(vget_low_f32(a), vget_high_f32(a));
    *low = vget_lane_f32(b, 0);
    *high = vget_lane_f32(b, 1);
}
CSM_INLINE void hpair_f64(v_f64 a, double *low, double *high) {
    *low = vgetq_lane_f64(a, 0);
    *high = vgetq_lane_f64(a, 1);
}
CSM_INLINE float hmax_f32(v_f32 a) {
    const float32x2_t low = vget_low_f32(a), high = vget_high_f32(a);
    const float32x2_t b = vbsl_f32(vcgt_f32(low, high), low, high);
    return vget_lane_f32(b, 0) > vget_lane_f32(b, 1) ? vget_lane_f32(b, 0) : vget_lane_f32(b, 1);
}
CSM_INLINE double hmax_f64(v_f64 a) {
    return vgetq_lane_f64(a, 0) > vgetq_lane_f64(a, 1) ? vgetq_lane_f64(a, 0) : vgetq_lane_f64(a, 1);
}
CSM_INLINE int all_lt_f32(v_f32 a, v_f32 b) { return vminvq_u32(vcltq_f32(a, b)) != 0; }
CSM_INLINE int all_lt_f64(v_f64 a, v_f64 b) { return vminvq_u32(vreinterpretq_u32_u64(vcltq_f64(a, b))) != 0; }

/* the lower, and the upper, halves of a and b */
CSM_INLINE v_f32 csm_low_halves(v_f32 a, v_f32 b) {
    return vreinterpretq_f32_f64(vtrn1q_f64(vreinterpretq_f64_f32(a), vreinterpretq_f64_f32(b)));
}
CSM_INLINE v_f32 csm_high_halves(v_f32 a, v_f32 b) {
    return vreinterpretq_f32_f64(vtrn2q_f64(vreinterpretq_f64_f32(a), vreinterpretq_f64_f32(b)));
}
CSM_INLINE v_f32 fold_f32(v_f32 a, v_f32 b, const int d) {
    return d == 2 ? vaddq_f32(csm_low_halves(a, b), csm_high_halves(a, b)) : vpaddq_f32(a, b);
}
#define fold_f64(a, b, d) ((void)(d), vpaddq_f64(a, b))
#define in_order_f32(a) (a)
#define in_order_f64(a) (a)
#define swap_f32(a, d) (a)
#define swap_f64(a, d) (a)
CSM_INLINE v_f32 spread_f32(v_f32 a, const int i) {
    return i == 0   ? vdupq_laneq_f32(a, 0)
           : i == 1 ? vdupq_laneq_f32(a, 1)
           : i == 2 ? vdupq_laneq_f32(a, 2)
                    : vdupq_laneq_f32(a, 3);
}
CSM_INLINE v_f64 spread_f64(v_f64 a, const int i) { return i == 0 ? vdupq_laneq_f64(a, 0) : vdupq_laneq_f64(a, 1); }

/* --------------------------------------------------------------------------------------------- transpose */
CSM_INLINE void transpose_f32(v_f32 *a) {
    const v_f32 t0 = vtrn1q_f32(a[0], a[1]), t1 = vtrn2q_f32(a[0], a[1]);
    const v_f32 t2 = vtrn1q_f32(a[2], a[3]), t3 = vtrn2q_f32(a[2], a[3]);
    a[0] = csm_low_halves(t0, t2);
    a[1] = csm_low_halves(t1, t3);
    a[2] = csm_high_halves(t0, t2);
    a[3] = csm_high_halves(t1, t3);
}
#define csm_low_lanes_f64 vtrn1q_f64
#define csm_high_lanes_f64 vtrn2q_f64

#endif /* CSOFTMAX_NEON_H */
