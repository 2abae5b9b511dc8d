/* Plain C, one lane a vector: for architectures that no other header is for. */
#ifndef CSOFTMAX_SCALAR_H
#define CSOFTMAX_SCALAR_H

enum { CSM_STEP = 4, CSM_FUSED = 0 };

enum { VL_f32 = 1, VL_f64 = 1 };
typedef float v_f32;
typedef double v_f64;

#define CSM_SCALAR(T, R, U)                                                                                  \
    CSM_INLINE v_##T set1_##T(R a) { return a; }                                                             \
    CSM_INLINE v_##T load_##T(const R *p) { return *p; }                                                     \
    CSM_INLINE void store_##T(R *p, v_##T a) { *p = a; }                                                     \
    CSM_INLINE void stream_##T(R *p, v_##T a) { *p = a; }                                                    \
    CSM_INLINE v_##T add_##T(v_##T a, v_##T b) { return a + b; }                                             \
    CSM_INLINE v_##T sub_##T(v_##T a, v_##T b) { return a - b; }                                             \
    CSM_INLINE v_##T mul_##T(v_##T a, v_##T b) { return a * b; }                                             \
    CSM_INLINE v_##T div_##T(v_##T a, v_##T b) { return a / b; }                                             \
    CSM_INLINE v_##T fma_##T(v_##T a, v_##T b, v_##T c) { return a * b + c; }                                \
    CSM_INLINE v_##T fnma_##T(v_##T a, v_##T b, v_##T c) { return c - a * b; }                               \
    CSM_INLINE v_##T max_##T(v_##T a, v_##T b) { return a > b ? a : b; }                                     \
    CSM_INLINE v_##T and_eq_##T(v_##T a, v_##T b, v_##T v) { return a == b ? v : 0; }                        \
    CSM_INLINE v_##T and_ne_##T(v_##T a, v_##T b, v_##T v) { return a == b ? 0 : v; }                        \
    CSM_INLINE v_##T and_not_lt_##T(v_##T a, v_##T b, v_##T v) { return a < b ? 0 : v; }                     \
    CSM_INLINE v_##T select_lt_##T(v_##T a, v_##T b, v_##T v, v_##T w) { return a < b ? v : w; }             \
    CSM_INLINE U csm_to_bits_##T(R a) {                                                                      \
        U u;                                                                                                 \
        memcpy(&u, &a, sizeof u);                                                                            \
        return u;                                                                                            \
    }                                                                                                        \
    CSM_INLINE R csm_from_bits_##T(U u) {                                                                    \
        R a;                                                                                                 \
        memcpy(&a, &u, sizeof a);                                                                            \
        return a;                                                                                            \
    }                                                                                                        \
    CSM_INLINE v_##T bits_add_##T(v_##T a, v_##T b) {                                                        \
        return csm_from_bits_##T(csm_to_bits_##T(a) + csm_to_bits_##T(b));                                   \
    }                                                                                                        \
    CSM_INLINE v_##T bits_and_##T(v_##T a, v_##T b) {                                                        \
        return csm_from_bits_##T(csm_to_bits_##T(a) & csm_to_bits_##T(b));                                   \
    }                                                                                                        \
    CSM_INLINE v_##T bits_or_##T(v_##T a, v_##T b) {                                                         \
        return csm_from_bits_##T(csm_to_bits_##T(a) | csm_to_bits_##T(b));                                   \
    }                                                                                                        \
    CSM_INLINE v_##T bits_shl_##T(v_##T a, const int k) { return csm_from_bits_##T(csm_to_bits_##T(a) << k); } \
    CSM_INLINE v_##T bits_shr_##T(v_##T a, const int k) { return csm_from_bits_##T(csm_to_bits_##T(a) >> k); } \
    CSM_INLINE void transpose_##T(v_##T *a) { (void)a; }
CSM_SCALAR(f32, float, uint32_t)
CSM_SCALAR(f64, double, uint64_t)

CSM_INLINE v_f64 widen_f32(const float *p) { return *p; }
CSM_INLINE void narrow_f32(float *p, v_f64 a) { *p = (float)a; }
CSM_INLINE void csm_stream_fence(void) {}

#endif /* CSOFTMAX_SCALAR_H */
