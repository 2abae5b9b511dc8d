/* Transposition of quads: four neighbouring elements of each of VL_T rows, and four vectors with one row a lane.
 *
 *   quads_in_T(p, pitch, k, a)    a (OUT) becomes the four vectors of the rows at p (IN), p + pitch, ...
 *   quads_out_T(p, pitch, k, a)   writes the four vectors a (IN, destroyed) to the rows at p (OUT), p + pitch, ...
 *
 * Of each row the first k elements, 0 < k <= 4, are read or written, and no byte beyond them; pitch is in elements.
 *
 * A level of vectors longer than a quad defines
 *
 *   quad_T                        four reals
 *   load_quad_T(p, k), store_quad_T(p, k, a)    the first k of them
 *   join_quads_T(quad)            a vector of quad(0), quad(1), ... side by side, for a macro "quad"
 *   quad_of_T(a, q)               quad q of a vector, q a constant
 *   transpose_T(a)                four vectors (IN, OUT), in which each block of 4 x 4 lanes is transposed
 *
 * and levels of shorter ones transpose_f32 for 4 x 4 floats and, if a vector has two doubles,
 * csm_low_lanes_f64(a, b) = a[0], b[0] and csm_high_lanes_f64(a, b) = a[1], b[1].
 */
#ifndef CSOFTMAX_TRANSPOSE_H
#define CSOFTMAX_TRANSPOSE_H

#include "simd.h"

enum { CSM_QUAD = 4 };

#if defined(CSM_HAS_QUADS)
/* Quads of rows 4q, 4q + 1, ... lie in quad q of the vectors. The pointers are made opaque: GCC would keep one for each
 * row, which are more than there are registers. */
#define CSM_LOAD_QUAD_f32(q) load_quad_f32(every4th[q] + i * pitch, k)
#define CSM_LOAD_QUAD_f64(q) load_quad_f64(every4th[q] + i * pitch, k)
#define CSM_EVERY_4TH(T, R)                                                                                  \
    R *every4th[VL_##T / 4];                                                                                 \
    for (int q = 0; q < VL_##T / 4; q++) {                                                                   \
        every4th[q] = p + 4 * q * pitch;                                                                     \
        CSM_OPAQUE(every4th[q], "r");                                                                        \
    }
#define CSM_QUADS_OF_ROWS(T, R)                                                                              \
    CSM_INLINE void quads_in_##T(const R *p, ptrdiff_t pitch, ptrdiff_t k, v_##T *a) {                       \
        CSM_EVERY_4TH(T, const R)                                                                            \
        for (int i = 0; i < 4; i++) a[i] = join_quads_##T(CSM_LOAD_QUAD_##T);                                \
        transpose_##T(a);                                                                                    \
    }                                                                                                        \
    CSM_INLINE void quads_out_##T(R *p, ptrdiff_t pitch, ptrdiff_t k, v_##T *a) {                            \
        CSM_EVERY_4TH(T, R)                                                                                  \
        transpose_##T(a);                                                                                    \
        for (int i = 0; i < 4; i++)                                                                          \
            for (int q = 0; q < VL_##T / 4; q++) store_quad_##T(every4th[q] + i * pitch, k, quad_of_##T(a[i], q)); \
    }
#else
/* Each row is 4 / VL_T vectors, those of one row one after another: for floats a transposition is its own inverse. */
#define transpose_back_f32 transpose_f32
#if defined(csm_low_lanes_f64)
CSM_INLINE void transpose_f64(v_f64 *a) {
    const v_f64 t0 = csm_low_lanes_f64(a[0], a[2]), t1 = csm_high_lanes_f64(a[0], a[2]);
    const v_f64 t2 = csm_low_lanes_f64(a[1], a[3]), t3 = csm_high_lanes_f64(a[1], a[3]);
    a[0] = t0;
    a[1] = t1;
    a[2] = t2;
    a[3] = t3;
}
CSM_INLINE void transpose_back_f64(v_f64 *a) {
    const v_f64 t0 = csm_low_lanes_f64(a[0], a[1]), t1 = csm_low_lanes_f64(a[2], a[3]);
    const v_f64 t2 = csm_high_lanes_f64(a[0], a[1]), t3 = csm_high_lanes_f64(a[2], a[3]);
    a[0] = t0;
    a[1] = t1;
    a[2] = t2;
    a[3] = t3;
}
#else
#define transpose_back_f64 transpose_f64
#endif
#define CSM_QUADS_OF_ROWS(T, R)                                                                              \
    CSM_INLINE void quads_in_##T(const R *p, ptrdiff_t pitch, ptrdiff_t k, v_##T *a) {                       \
        for (int i = 0; i < 4; i++) {                                                                        \
            const ptrdiff_t row = i / (4 / VL_##T), first = i % (4 / VL_##T) * VL_##T, left = k - first;     \
            const R *q = p + row * pitch + first;                                                            \
            a[i] = left >= VL_##T ? load_##T(q) : load_n_##T(q, left < 0 ? 0 : left, 0);                     \
        }                                                                                                    \
        transpose_##T(a);                                                                                    \
    }                                                                                                        \
    CSM_INLINE void quads_out_##T(R *p, ptrdiff_t pitch, ptrdiff_t k, v_##T *a) {                            \
        transpose_back_##T(a);                                                                               \
        for (int i = 0; i < 4; i++) {                                                                        \
            const ptrdiff_t row = i / (4 / VL_##T), first = i % (4 / VL_##T) * VL_##T, left = k - first;     \
            R *q = p + row * pitch + first;                                                                  \
            if (left >= VL_##T) store_##T(q, a[i]);                                                          \
            else store_n_##T(q, left < 0 ? 0 : left, a[i]);                                                  \
        }                                                                                                    \
    }
#endif
CSM_QUADS_OF_ROWS(f32, float)
CSM_QUADS_OF_ROWS(f64, double)

#endif /* CSOFTMAX_TRANSPOSE_H */
