# The kernels: compiled once a precision (CSM_BITS) and ISA level by isa/kernel.pyx, whose C setup.py compiles for each.
#
# How a call goes through them:
#
#   run (run.pxi)                  rows or columns of a problem are found in memory
#     |  gather, exclude           what is not native reals next to each other is staged (load.pxi: masks, 16-bit
#     |                            floats)
#   run_batch (table.pxi)          operation x form of the rows -> function
#     |-- packed rows              short rows, several of them in a vector (packed.pxi, lanes.pxi)
#     |-- rows                     longer ones (rows.pxi), block by block:
#     |     load                   the next block, as reals (load.pxi)
#     |     sweep                  this block's exponentials and their sum, the next one's maximum, and the results of a
#     |                            pending row (block.pxi)
#     |     reduce                 add, fold, join, finish: from vectors to what results are made from (reduce.pxi)
#     |     store                  normalised exponentials, log-probabilities (store.pxi)
#     |-- derivatives              dot product of a row, and its results (gradient.pxi, overflow.pxi)
#   run_tile (columns.pxi)           the same down the columns of a tile, which tiles.pxi loads and stores
#   measure, finish, write         the same for the blocks of one split row, which threads work on together
#   loss_rows, loss_columns        around run_batch and run_tile: targets, losses and their gradients (loss.pxi,
#                                  scale.pxi)
#
# Words:
#
#   row              the elements of one softmax; n of them
#   row batch        rows that one call of a kernel works on
#   packed rows      short rows, transposed so that a vector has one element of each
#   single row       a short row that is a call by itself
#   split row        a long row whose blocks several threads work on
#   column tile      neighbouring columns that are worked on together, where the axis is not the last one
#   block            BLOCK elements of a row, or what is left of it; subblock: SUBBLOCK elements of a block
#   lane             an element of a vector; a vector has VL of them
#   accumulator      one of ACCUMULATORS partial sums, which are NV vectors: element i of a block is added to
#                    accumulator i % ACCUMULATORS
#   BlockStats       the numbers of a block: maximum, sum, ties
#   ties             the elements that are the maximum
#   prologue, load   from memory to a block of reals
#   epilogue, store  from exponentials or logits to results in memory
#   sweep            the loop between the two
#   next block       the block whose maximum a sweep takes
#   pending row      a row that is summed, and whose results are not yet written
#   stage            copy into scratch
#   stream           store past the caches
#   prefetch         ask for a line of memory before it is needed
#   range reduction  x - maximum to a multiple of ln2 and a remainder: shared, where x and the maximum are reduced each
#                    by itself, exactly, and all elements share the maximum's; direct, where their difference is reduced
#                    (simd/math.h)
#   normalise        multiply an exponential by 1 / sum
#   compensation     what a rounding has lost, as a second number ("rest", "low", "lost")
#   form             how a batch's rows lie: packed, reals, or loaded a block at a time (16-bit floats, masked reals)
#
# Comments name lengths in elements: IN x[n] is read, OUT y[n] written, IN OUT both. Scratch for exponentials, "e", has
# rows of whole ACCUMULATORS.
#
# Numerics, the same in every regime, so that the bits of a row do not depend on its surroundings:
# a row is cut into blocks of BLOCK elements. Each block has its own maximum m_b; its exponentials
# exp(x - m_b) are summed in ACCUMULATORS accumulators, folded by halving. Blocks are joined in double:
# m = max m_b, S = sum_b S_b exp(m_b - m). Each result is exp(x - m_b) * (exp(m_b - m) / S): one rounding of
# the exponential, one of the product; the factor, the sum and its logarithm are held as a number and its compensation
# term, where a double has no digits to spare. (M. Milakov and N. Gimelshein, arXiv:1805.02867.)
#
# A maximum of -inf is replaced by 0 as the shift, so that exp(-inf - shift) is 0 and not NaN.

from libc.float cimport DBL_MIN
from libc.math cimport INFINITY, NAN, fabs, fma, frexp, isnan, ldexp
from libc.stdint cimport int64_t, uint64_t, uintptr_t
from libc.string cimport memcpy, memset
from cpython.pycapsule cimport PyCapsule_New

from csoftmax.kernels.problem cimport (
    Problem, Kernels, View, Scratch, COLUMN_TILES, CROSS_ENTROPY, CROSS_ENTROPY_GRAD, DIRECT, is_derivative, is_loss,
    LOADED, LOG_SOFTMAX, LOG_SOFTMAX_JVP, LOG_SOFTMAX_VJP, LOGSUMEXP, LOSS_CHUNK, loss_chunk, OPERATIONS, PACKED_ROWS,
    scratch_alloc, scratch_at, scratch_doubles, SINGLE_ROW, SOFTMAX, SOFTMAX_GRAD, STAGED, STATS, SUM_STEP, SUMS,
)

cdef extern from "csoftmax/simd/compensated.h" nogil:
    # double or float, as the module is compiled; double to Cython, whose temporaries must hold both
    ctypedef double real "csm_real"
    ctypedef struct vec "csm_vec":
        pass
    ctypedef struct v_f64:
        pass
    enum:
        VL, NV, ACCUMULATORS, QUARTER, BLOCK, SUBBLOCK, SHORT, PLAIN, PREFETCH, STEP, FUSED, VL64
        EXP_SHARED, EXP_SHARED_LANES, EXP_DIRECT
        COMPENSATED
    const double EXP_SCALE
    const double TINY_SCALE "CSM_TINY_SCALE"
    const double FACTOR_SCALE "CSM_FACTOR_SCALE"
    vec v_set1(real) noexcept
    vec v_load(const real *) noexcept
    vec v_load_n(const real *, Py_ssize_t, real) noexcept
    void v_store(real *, vec) noexcept
    void v_store_n(real *, Py_ssize_t, vec) noexcept
    void v_stream(real *, vec) noexcept
    vec v_add(vec, vec) noexcept
    vec v_sub(vec, vec) noexcept
    vec v_mul(vec, vec) noexcept
    vec v_div(vec, vec) noexcept
    vec v_residual(vec, vec, vec) noexcept    # a - b c
    vec v_fma(vec, vec, vec) noexcept
    vec v_max(vec, vec) noexcept
    ctypedef struct shift_t "csm_shift":    # how a row is reduced, from its maximum
        vec maximum
        vec magic
        vec center
    vec v_exp(vec x, vec d, shift_t, int how) noexcept      # exp(d) * EXP_SCALE, d = x - maximum
    shift_t v_exp_shift_row(real) noexcept
    void v_exp_shift(real, real *, real *) noexcept
    void v_exp_shift_lanes(vec, vec *, vec *) noexcept
    v_f64 v_widen(const real *) noexcept    # VL64 of them
    void v_narrow(real *, v_f64) noexcept
    bint v_exp_near(real) noexcept
    void fold "csm_fold"(const real *, double *, double *) noexcept
    void fold_lanes "csm_fold_lanes"(const real *, Py_ssize_t, v_f64 *, v_f64 *) noexcept
    void two_sum_lanes "csm_two_sum_lanes"(v_f64, v_f64, v_f64 *, v_f64 *) noexcept
    void quotient_lanes "csm_quotient_lanes"(v_f64, v_f64, v_f64, v_f64 *, v_f64 *) noexcept
    void split_lanes "csm_split_lanes"(v_f64, v_f64, real *, real *) noexcept
    void two_sum "csm_two_sum"(double, double, double *, double *) noexcept
    void quotient "csm_quotient"(double, double, double, double *, double *) noexcept
    void split_real "csm_split"(double, double, real *, real *) noexcept
    vec v_and_eq(vec, vec, vec) noexcept
    void v_add_or_count(vec d, vec, vec *total, vec *ties) noexcept
    vec v_select_lt(vec, vec, vec, vec) noexcept
    vec v_select_bytes(const char *, vec, vec) noexcept     # by VL bytes
    real v_hadd(vec) noexcept
    real v_hmax(vec) noexcept
    bint v_all_below(vec, real) noexcept    # the magnitudes of all lanes
    void v_hpair(vec, real *, real *) noexcept
    vec v_hadd_rows(const vec *) noexcept
    void v_hadd_four(vec *, real) noexcept
    enum:
        QUAD "CSM_QUAD"
    void v_quads_in(const real *, Py_ssize_t, Py_ssize_t, vec *) noexcept
    void v_quads_out(real *, Py_ssize_t, Py_ssize_t, vec *) noexcept
    void join_pair "csm_join_pair"(real, real, double *, double *) noexcept
    void join_pair_lanes "csm_join_pair_lanes"(const real *, const real *, v_f64 *, v_f64 *) noexcept
    v_f64 load_f64(const double *) noexcept
    v_f64 load_n_f64(const double *, Py_ssize_t, double) noexcept
    void store_f64(double *, v_f64) noexcept
    void store_n_f64(double *, Py_ssize_t, v_f64) noexcept
    v_f64 add_f64(v_f64, v_f64) noexcept
    v_f64 sub_f64(v_f64, v_f64) noexcept
    v_f64 mul_f64(v_f64, v_f64) noexcept
    v_f64 max_f64(v_f64, v_f64) noexcept
    v_f64 select_lt_f64(v_f64, v_f64, v_f64, v_f64) noexcept
    v_f64 and_ne_f64(v_f64, v_f64, v_f64) noexcept
    v_f64 set1_f64(double) noexcept
    void exp_lanes "csm_exp_lanes"(v_f64, v_f64, v_f64 *, v_f64 *) noexcept
    void sum_minus_one_lanes "csm_sum_minus_one_lanes"(v_f64, v_f64, v_f64, v_f64 *, v_f64 *) noexcept
    void log1p_lanes "csm_log1p_lanes"(v_f64, v_f64, v_f64 *, v_f64 *) noexcept
    v_f64 add_log_lanes "csm_add_log_lanes"(v_f64, v_f64, v_f64) noexcept
    v_f64 expm1_neg_f64(v_f64) noexcept     # exp(-l) - 1, 0 <= l <= 1
    double hmax_f64(v_f64) noexcept
    const double EXP_SCALE_f64
    void stream_fence "csm_stream_fence"() noexcept
    void prefetch "csm_prefetch"(const void *) noexcept
    void prefetch_next "csm_prefetch_next"(const void *) noexcept
    void prefetch_write "csm_prefetch_write"(const void *) noexcept

cdef extern from "csoftmax/simd/dot.h" nogil:
    ctypedef struct dot_t "csm_dot":        # accumulators of a dot product
        pass
    dot_t dot_zero "csm_dot_zero"() noexcept
    dot_t dot_mul_at "csm_dot_mul_at"(dot_t, const real *, const real *) noexcept
    dot_t dot_mul "csm_dot_mul"(dot_t, vec, vec) noexcept
    dot_t dot_first "csm_dot_first"(vec, vec) noexcept
    dot_t dot_plus "csm_dot_plus"(dot_t, vec) noexcept
    dot_t dot_join "csm_dot_join"(dot_t, dot_t) noexcept
    void dot_store "csm_dot_store"(double *, Py_ssize_t rows, Py_ssize_t across, dot_t) noexcept
    dot_t dot_load "csm_dot_load"(const double *, Py_ssize_t rows, Py_ssize_t across) noexcept
    void dot_columns "csm_dot_columns"(const double *, Py_ssize_t rows, Py_ssize_t across, int count, v_f64 *,
                                       v_f64 *) noexcept
    void dot_split_lanes "csm_dot_split_lanes"(v_f64, v_f64, double, real *, real *) noexcept
    void dot_row "csm_dot_row"(dot_t, double *, double *) noexcept
    void dot_rows "csm_dot_rows"(const dot_t *, double, real *, real *) noexcept

cdef extern from "csoftmax/simd/convert.h" nogil:
    void load_run "csm_load_run"(int, const char *, Py_ssize_t, Py_ssize_t, real *) noexcept
    void store_run "csm_store_run"(int, char *, Py_ssize_t, Py_ssize_t, const real *) noexcept
    void max_keys "csm_max_keys"(int, const char *, Py_ssize_t, Py_ssize_t, const char *, Py_ssize_t, uint64_t *,
                                 Py_ssize_t) noexcept
    void subtract_keys "csm_subtract_keys"(int, const char *, Py_ssize_t, Py_ssize_t, const uint64_t *, Py_ssize_t,
                                           real *) noexcept
    real add_key "csm_add_key"(int, uint64_t, real) noexcept
    enum:
        REAL "CSM_STORED_REAL"              # the storage of native reals
        F16 "CSM_F16"
        BF16 "CSM_BF16"
        I32 "CSM_I32"
        I64 "CSM_I64"
        HALVES "CSM_HALVES"                 # 16-bit floats are loaded as vectors
    vec load_at "csm_load_at"(const void *, Py_ssize_t, int) noexcept     # element and those after it, from a storage
    vec load_n_at "csm_load_n_at"(const void *, Py_ssize_t, Py_ssize_t, real, int) noexcept
    void store_at "csm_store_at"(void *, Py_ssize_t, vec, int) noexcept
    ctypedef struct pair "csm_pair":
        vec first
        vec second
    pair load_pair_at "csm_load_pair_at"(const void *, Py_ssize_t, int) noexcept
    void store_pair_at "csm_store_pair_at"(void *, Py_ssize_t, pair, int) noexcept
    void store_n_at "csm_store_n_at"(void *, Py_ssize_t, Py_ssize_t, vec, int) noexcept
    int64_t load_index "csm_load_index"(int, const char *) noexcept

include "load.pxi"
include "reduce.pxi"
include "store.pxi"
include "block.pxi"
include "gradient.pxi"
include "overflow.pxi"
include "lanes.pxi"
include "rows.pxi"
include "columns.pxi"
include "tiles.pxi"
include "packed.pxi"
include "table.pxi"
include "loss.pxi"
include "scale.pxi"
include "run.pxi"
