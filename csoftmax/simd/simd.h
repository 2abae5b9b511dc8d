/* Vectors of floats and doubles: what each ISA level defines, and generic code for what a level leaves to it.
 *
 * One header a level (avx512.h, avx2.h, sse2.h, neon.h, scalar.h) defines the operations below in terms of its
 * intrinsics, with its conversions of 16-bit floats and its tuning constants. The rest of simd/ and the kernels are
 * written once, in terms of these operations. This is C and not C++: inline templates would be merged across objects
 * that are compiled for different levels.
 *
 * Each operation exists twice: T = f32 with R = float, and T = f64 with R = double. VL_T is the number of lanes, that
 * is, of elements of a vector. Memory needs no alignment unless it is said. IN and OUT tell what a pointer is for.
 *
 * Every level defines
 *
 *   VL_T, v_T                  the number of lanes (a power of two, at most 16), and the type of a vector
 *   set1_T(a)                  the real a in each lane
 *   load_T(p)                  the VL_T reals at p (IN)
 *   store_T(p, a)              writes VL_T reals to p (OUT)
 *   stream_T(p, a)             the same past the caches, if there is a way; p is aligned to the size of a vector
 *   csm_stream_fence()         orders what stream_T has written before what is written next
 *   add, sub, mul, div_T(a, b) rounded once, to nearest
 *   fma_T(a, b, c)             a b + c, and fnma_T(a, b, c) is c - a b: rounded once where CSM_HAS_FMA, else twice
 *   max_T(a, b)                a > b ? a : b, so that a NaN in a is passed over and a NaN in b stays
 *   and_eq_T(a, b, v)          v where a = b, else 0
 *   and_ne_T(a, b, v)          v where a != b or either is NaN, else 0
 *   and_not_lt_T(a, b, v)      v where a >= b or either is NaN, else 0
 *   select_lt_T(a, b, v, w)    v where a < b, else w
 *   bits_add, bits_and, bits_or_T(a, b)    of the lanes' bits, as unsigned integers of their width
 *   bits_shl, bits_shr_T(a, k) the bits shifted left or right by the constant k; zeros come in
 *   widen_f32(p)               the VL_f64 floats at p (IN) as doubles
 *   narrow_f32(p, a)           writes VL_f64 doubles to p (OUT) as floats, rounded once
 *   CSM_STEP, CSM_FUSED        tuning, see real.h
 *
 * and, if it has better than the generic code at the end of this header, under the macro that says so
 *
 *   CSM_HAS_FMA        nothing to define: fma_T and fnma_T are rounded once
 *   CSM_HAS_TAILS      load_n_T, store_n_T
 *   CSM_HAS_COUNT      add_or_count_T
 *   CSM_HAS_BYTES      select_bytes_T
 *   CSM_HAS_HORIZONTAL hpair_T, hmax_T, all_lt_T, and four shuffles that hadd_rows_T and hadd_four_T are made of:
 *                      fold_T, in_order_T, swap_T, spread_T
 *   CSM_HAS_FOUR       hadd_four_T, where what compilers make of the generic one is slower
 *   CSM_HAS_QUADS      the operations that transpose.h lists; levels of more than four floats a vector need them
 *   CSM_HAS_16         the conversions of 16-bit floats that convert.h lists
 *   CSM_HAS_LOOKUP     lookup_T, bits_lookup_T: tables of 16 entries, for math.h
 */
#ifndef CSOFTMAX_SIMD_H
#define CSOFTMAX_SIMD_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* CSM_INLINE: is compiled into its caller. CSM_OUTLINE: is large, and no better for being specialised. */
#if defined(_MSC_VER)
#define CSM_INLINE static __forceinline
#define CSM_ALIGN(n) __declspec(align(n))
#define CSM_OUTLINE __declspec(noinline)
#else
#define CSM_INLINE static inline __attribute__((always_inline, unused))
#define CSM_ALIGN(n) __attribute__((aligned(n)))
#if defined(__clang__)
#define CSM_OUTLINE __attribute__((noinline))
#else
#define CSM_OUTLINE __attribute__((noinline, noclone))
#endif
#endif

/* Fetches of the cache line at p: to be read soon, to be written, and to be read later (into L2). */
#if defined(__GNUC__) || defined(__clang__)
#define csm_prefetch(p) __builtin_prefetch((p), 0, 3)
#define csm_prefetch_write(p) __builtin_prefetch((p), 1, 3)
#define csm_prefetch_next(p) __builtin_prefetch((p), 0, 2)
#else
#define csm_prefetch(p) ((void)(p))
#define csm_prefetch_next(p) ((void)(p))
#define csm_prefetch_write(p) ((void)(p))
#endif

/* Makes x, in a register of that kind ("r": general, "v": vector), a value that compilers know nothing about, and so do
 * not merge with what uses it. */
#if defined(__GNUC__)
#define CSM_OPAQUE(x, kind) __asm__("" : "+" kind(x))
#else
#define CSM_OPAQUE(x, kind) ((void)(x))
#endif

/* The float that has these bits, and the bits of a float. */
CSM_INLINE float csm_float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

CSM_INLINE uint32_t csm_bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* The level's header is the one that the build names (csoftmax/runtime/levels.py has the table of levels); by default
 * that of what every CPU of the architecture has. */
#if defined(CSM_SIMD_HEADER)
#include CSM_SIMD_HEADER
#elif defined(__SSE2__) || defined(_M_X64)
#include "sse2.h"
#elif defined(__aarch64__) || defined(_M_ARM64)
#include "neon.h"
#else
#include "scalar.h"
#endif

/* load_n_T(p, k, fill): the first k reals at p (IN), 0 <= k <= VL_T, and "fill" in the other lanes.
 * store_n_T(p, k, a): writes the first k lanes to p (OUT). No byte beyond the k reals is read or written. */
#if !defined(CSM_HAS_TAILS)
#define CSM_TAILS(T, R)                                                                                      \
    CSM_INLINE v_##T load_n_##T(const R *p, ptrdiff_t k, R fill) {                                           \
        R lanes[VL_##T];                                                                                     \
        for (ptrdiff_t i = 0; i < VL_##T; i++) lanes[i] = i < k ? p[i] : fill;                               \
        return load_##T(lanes);                                                                              \
    }                                                                                                        \
    CSM_INLINE void store_n_##T(R *p, ptrdiff_t k, v_##T a) {                                                \
        R lanes[VL_##T];                                                                                     \
        store_##T(lanes, a);                                                                                 \
        for (ptrdiff_t i = 0; i < VL_##T; i++)                                                               \
            if (i < k) p[i] = lanes[i];                                                                      \
    }
CSM_TAILS(f32, float)
CSM_TAILS(f64, double)
#endif

/* add_or_count_T(d, v, total, count): where d = 0 a lane of *count (IN, OUT) grows by 1; where it is not, or is NaN,
 * that of *total (IN, OUT) grows by v. */
#if !defined(CSM_HAS_COUNT)
#define CSM_COUNT(T)                                                                                         \
    CSM_INLINE void add_or_count_##T(v_##T d, v_##T v, v_##T *total, v_##T *count) {                         \
        *count = add_##T(*count, and_eq_##T(d, set1_##T(0), set1_##T(1)));                                   \
        *total = add_##T(*total, and_ne_##T(d, set1_##T(0), v));                                             \
    }
CSM_COUNT(f32)
CSM_COUNT(f64)
#endif

/* select_bytes_T(on, v, w): v in the lanes whose byte of the VL_T bytes at on (IN) is not 0, else w. */
#if !defined(CSM_HAS_BYTES)
#define CSM_SELECT_BYTES(T, R)                                                                               \
    CSM_INLINE v_##T select_bytes_##T(const char *on, v_##T v, v_##T w) {                                    \
        R chosen[VL_##T], others[VL_##T];                                                                    \
        store_##T(chosen, v);                                                                                \
        store_##T(others, w);                                                                                \
        for (int i = 0; i < VL_##T; i++) chosen[i] = on[i] ? chosen[i] : others[i];                          \
        return load_##T(chosen);                                                                             \
    }
CSM_SELECT_BYTES(f32, float)
CSM_SELECT_BYTES(f64, double)
#endif

/* residual_T(a, b, c): a - b c, rounded once, where b is the rounded quotient of a and c, or a the rounded product of b
 * and c; then it is exact. Without fused operations the product is split (T. J. Dekker, doi:10.1007/BF01397083). */
#if defined(CSM_HAS_FMA)
CSM_INLINE v_f32 residual_f32(v_f32 a, v_f32 b, v_f32 c) { return fnma_f32(b, c, a); }
CSM_INLINE v_f64 residual_f64(v_f64 a, v_f64 b, v_f64 c) { return fnma_f64(b, c, a); }
#else
#define CSM_RESIDUAL(T, splitter)                                                                            \
    CSM_INLINE v_##T residual_##T(v_##T a, v_##T b, v_##T c) {                                               \
        const v_##T split = set1_##T(splitter), product = mul_##T(b, c);                                     \
        const v_##T bs = mul_##T(b, split), bh = sub_##T(bs, sub_##T(bs, b)), bl = sub_##T(b, bh);           \
        const v_##T cs = mul_##T(c, split), ch = sub_##T(cs, sub_##T(cs, c)), cl = sub_##T(c, ch);           \
        const v_##T e1 = sub_##T(product, mul_##T(bh, ch)), e2 = sub_##T(e1, mul_##T(bl, ch));               \
        const v_##T e3 = sub_##T(e2, mul_##T(bh, cl)), lost = sub_##T(mul_##T(bl, cl), e3);                  \
        return sub_##T(sub_##T(a, product), lost);                                                           \
    }
CSM_RESIDUAL(f32, 0x1p12f + 1)
CSM_RESIDUAL(f64, 0x1p27 + 1)
#endif

/* Horizontal operations reduce the lanes of one vector. All of them halve: lane i meets lane i + VL/2, lane i of the
 * result meets its lane i + VL/4, and so on, so that every level adds up in the same order.
 *
 *   hpair_T(a, low, high)      the last two partial sums, in *low and *high (OUT)
 *   hadd_T(a)                  their sum
 *   hmax_T(a)                  the largest lane, by max_T
 *   all_lt_T(a, b)             whether a < b in all lanes; it is not where either is NaN
 *   all_below_T(a, limit)      whether the magnitudes of all lanes are below a limit; that of NaN is not
 *   hadd_rows_T(r)             of the VL_T vectors r (IN): lane i of the result is hadd_T(r[i])
 *   hadd_four_T(r, scale)      each of the four vectors r (IN, OUT) becomes hadd_T of itself times scale, in each lane
 *
 * The shuffles of CSM_HAS_HORIZONTAL:
 *
 *   fold_T(a, b, d)            lanes i and i + d of each group of 2d lanes are added up, for a constant d; a's sums and
 *                              b's lie side by side in the result, which has twice as many groups, of d lanes
 *   in_order_T(a)              the lanes of what log2(VL_T) levels of folds of vectors 0, 1, ... came to, in that order
 *   swap_T(a, d)               lanes i and i + d of each group of 2d lanes exchanged; d < VL_T / 4
 *   spread_T(a, i)             the one sum of vector i of four (of VL_T, if that is less) in each lane, where a is what
 *                              two levels of folds and swaps for what was left came to */
#if !defined(CSM_HAS_HORIZONTAL)
#define CSM_LANE_BY_LANE(T, R)                                                                               \
    CSM_INLINE void hpair_##T(v_##T a, R *low, R *high) {                                                    \
        R lanes[VL_##T + 1];                                                                                 \
        store_##T(lanes, a);                                                                                 \
        for (int half = VL_##T / 2; half > 1; half /= 2)                                                     \
            for (int i = 0; i < half; i++) lanes[i] += lanes[i + half];                                      \
        *low = lanes[0];                                                                                     \
        *high = VL_##T > 1 ? lanes[1] : 0;                                                                   \
    }                                                                                                        \
    CSM_INLINE R hmax_##T(v_##T a) {                                                                         \
        R lanes[VL_##T];                                                                                     \
        store_##T(lanes, a);                                                                                 \
        for (int half = VL_##T / 2; half > 0; half /= 2)                                                     \
            for (int i = 0; i < half; i++) lanes[i] = lanes[i] > lanes[i + half] ? lanes[i] : lanes[i + half]; \
        return lanes[0];                                                                                     \
    }                                                                                                        \
    CSM_INLINE int all_lt_##T(v_##T a, v_##T b) {                                                            \
        R left[VL_##T], right[VL_##T];                                                                       \
        int all = 1;                                                                                         \
        store_##T(left, a);                                                                                  \
        store_##T(right, b);                                                                                 \
        for (int i = 0; i < VL_##T; i++) all &= left[i] < right[i];                                          \
        return all;                                                                                          \
    }
CSM_LANE_BY_LANE(f32, float)
CSM_LANE_BY_LANE(f64, double)
#endif

#define CSM_REDUCE(T, R, U, magnitude)                                                                       \
    CSM_INLINE R hadd_##T(v_##T a) {                                                                         \
        R low, high;                                                                                         \
        hpair_##T(a, &low, &high);                                                                           \
        return VL_##T > 1 ? low + high : low;                                                                \
    }                                                                                                        \
    CSM_INLINE int all_below_##T(v_##T a, R limit) {                                                         \
        const U bits = magnitude;                                                                            \
        R mask;                                                                                              \
        memcpy(&mask, &bits, sizeof mask);                                                                   \
        return all_lt_##T(bits_and_##T(a, set1_##T(mask)), set1_##T(limit));                                 \
    }
CSM_REDUCE(f32, float, uint32_t, 0x7fffffffu)
CSM_REDUCE(f64, double, uint64_t, UINT64_C(0x7fffffffffffffff))

#if defined(CSM_HAS_HORIZONTAL)
#define CSM_SUMS_OF_ROWS(T, R)                                                                               \
    CSM_INLINE v_##T hadd_rows_##T(const v_##T *r) {                                                         \
        v_##T a[VL_##T];                                                                                     \
        for (int i = 0; i < VL_##T; i++) a[i] = r[i];                                                        \
        for (int d = VL_##T / 2; d > 0; d /= 2)                                                              \
            for (int i = 0; i < d; i++) a[i] = fold_##T(a[2 * i], a[2 * i + 1], d);                          \
        return in_order_##T(a[0]);                                                                           \
    }
#define CSM_SUMS_OF_FOUR(T, R)                                                                               \
    CSM_INLINE void hadd_four_##T(v_##T *r, R scale) {                                                       \
        enum { TOGETHER = VL_##T < 4 ? VL_##T : 4 };                                                         \
        for (int first = 0; first < 4; first += TOGETHER) {                                                  \
            v_##T a[TOGETHER];                                                                               \
            int d = VL_##T / 2;                                                                              \
            for (int i = 0; i < TOGETHER; i++) a[i] = r[first + i];                                          \
            for (int half = TOGETHER / 2; half > 0; half /= 2, d /= 2)                                       \
                for (int i = 0; i < half; i++) a[i] = fold_##T(a[2 * i], a[2 * i + 1], d);                   \
            for (; d > 0; d /= 2) a[0] = add_##T(a[0], swap_##T(a[0], d));                                   \
            a[0] = mul_##T(a[0], set1_##T(scale));                                                           \
            for (int i = 0; i < TOGETHER; i++) r[first + i] = spread_##T(a[0], i);                           \
        }                                                                                                    \
    }
#else
#define CSM_SUMS_OF_ROWS(T, R)                                                                               \
    CSM_INLINE v_##T hadd_rows_##T(const v_##T *r) {                                                         \
        R lanes[VL_##T];                                                                                     \
        for (int i = 0; i < VL_##T; i++) lanes[i] = hadd_##T(r[i]);                                          \
        return load_##T(lanes);                                                                              \
    }
#define CSM_SUMS_OF_FOUR(T, R)                                                                               \
    CSM_INLINE void hadd_four_##T(v_##T *r, R scale) {                                                       \
        for (int i = 0; i < 4; i++) r[i] = set1_##T(hadd_##T(r[i]) * scale);                                 \
    }
#endif
CSM_SUMS_OF_ROWS(f32, float)
CSM_SUMS_OF_ROWS(f64, double)
#if !defined(CSM_HAS_FOUR)
CSM_SUMS_OF_FOUR(f32, float)
CSM_SUMS_OF_FOUR(f64, double)
#endif

#endif /* CSOFTMAX_SIMD_H */
