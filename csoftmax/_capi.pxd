# The softmax family for other Cython modules, as `from csoftmax cimport softmax_f32`. csoftmax.h says what the
# functions do; they need no GIL, and 0 is success.

from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int64_t, uint16_t

cdef extern from *:
    # in the exported signatures both read uint16_t
    ctypedef uint16_t csm_f16 "uint16_t"
    ctypedef uint16_t csm_bf16 "uint16_t"

cdef enum csm_status:
    CSM_OK = 0
    CSM_BAD_SHAPE = 1
    CSM_BAD_TEMPERATURE = 2
    CSM_BAD_TARGET = 3
    CSM_NO_MEMORY = 4

# tools/capi.py writes from here
cdef int softmax_f32 "csm_softmax_f32"(
        ptrdiff_t rows, ptrdiff_t n, const float *x, ptrdiff_t x_row, ptrdiff_t x_step, float *y, ptrdiff_t y_row,
        ptrdiff_t y_step, double temperature) noexcept nogil
cdef int log_softmax_f32 "csm_log_softmax_f32"(
        ptrdiff_t rows, ptrdiff_t n, const float *x, ptrdiff_t x_row, ptrdiff_t x_step, float *y, ptrdiff_t y_row,
        ptrdiff_t y_step, double temperature) noexcept nogil
cdef int logsumexp_f32 "csm_logsumexp_f32"(
        ptrdiff_t rows, ptrdiff_t n, const float *x, ptrdiff_t x_row, ptrdiff_t x_step, float *y,
        ptrdiff_t y_row) noexcept nogil
cdef int softmax_backward_f32 "csm_softmax_backward_f32"(
        ptrdiff_t rows, ptrdiff_t n, const float *dy, ptrdiff_t dy_row, ptrdiff_t dy_step, const float *y,
        ptrdiff_t y_row, ptrdiff_t y_step, float *dx, ptrdiff_t dx_row, ptrdiff_t dx_step,
        double temperature) noexcept nogil
cdef int log_softmax_backward_f32 "csm_log_softmax_backward_f32"(
        ptrdiff_t rows, ptrdiff_t n, const float *dy, ptrdiff_t dy_row, ptrdiff_t dy_step, const float *y,
        ptrdiff_t y_row, ptrdiff_t y_step, float *dx, ptrdiff_t dx_row, ptrdiff_t dx_step,
        double temperature) noexcept nogil
cdef int cross_entropy_f32 "csm_cross_entropy_f32"(
        ptrdiff_t rows, ptrdiff_t n, const float *x, ptrdiff_t x_row, ptrdiff_t x_step, const int64_t *target,
        ptrdiff_t target_row, int64_t ignore_index, float *loss, ptrdiff_t loss_row) noexcept nogil
cdef int cross_entropy_with_grad_f32 "csm_cross_entropy_with_grad_f32"(
        ptrdiff_t rows, ptrdiff_t n, const float *x, ptrdiff_t x_row, ptrdiff_t x_step, const int64_t *target,
        ptrdiff_t target_row, int64_t ignore_index, float *loss, ptrdiff_t loss_row, float *dx, ptrdiff_t dx_row,
        ptrdiff_t dx_step, double scale) noexcept nogil
cdef int softmax_f64 "csm_softmax_f64"(
        ptrdiff_t rows, ptrdiff_t n, const double *x, ptrdiff_t x_row, ptrdiff_t x_step, double *y, ptrdiff_t y_row,
        ptrdiff_t y_step, double temperature) noexcept nogil
cdef int log_softmax_f64 "csm_log_softmax_f64"(
        ptrdiff_t rows, ptrdiff_t n, const double *x, ptrdiff_t x_row, ptrdiff_t x_step, double *y, ptrdiff_t y_row,
        ptrdiff_t y_step, double temperature) noexcept nogil
cdef int logsumexp_f64 "csm_logsumexp_f64"(
        ptrdiff_t rows, ptrdiff_t n, const double *x, ptrdiff_t x_row, ptrdiff_t x_step, double *y,
        ptrdiff_t y_row) noexcept nogil
cdef int softmax_backward_f64 "csm_softmax_backward_f64"(
        ptrdiff_t rows, ptrdiff_t n, const double *dy, ptrdiff_t dy_row, ptrdiff_t dy_step, const double *y,
        ptrdiff_t y_row, ptrdiff_t y_step, double *dx, ptrdiff_t dx_row, ptrdiff_t dx_step,
        double temperature) noexcept nogil
cdef int log_softmax_backward_f64 "csm_log_softmax_backward_f64"(
        ptrdiff_t rows, ptrdiff_t n, const double *dy, ptrdiff_t dy_row, ptrdiff_t dy_step, const double *y,
        ptrdiff_t y_row, ptrdiff_t y_step, double *dx, ptrdiff_t dx_row, ptrdiff_t dx_step,
        double temperature) noexcept nogil
cdef int cross_entropy_f64 "csm_cross_entropy_f64"(
        ptrdiff_t rows, ptrdiff_t n, const double *x, ptrdiff_t x_row, ptrdiff_t x_step, const int64_t *target,
        ptrdiff_t target_row, int64_t ignore_index, double *loss, ptrdiff_t loss_row) noexcept nogil
cdef int cross_entropy_with_grad_f64 "csm_cross_entropy_with_grad_f64"(
        ptrdiff_t rows, ptrdiff_t n, const double *x, ptrdiff_t x_row, ptrdiff_t x_step, const int64_t *target,
        ptrdiff_t target_row, int64_t ignore_index, double *loss, ptrdiff_t loss_row, double *dx, ptrdiff_t dx_row,
        ptrdiff_t dx_step, double scale) noexcept nogil
cdef int softmax_f16 "csm_softmax_f16"(
        ptrdiff_t rows, ptrdiff_t n, const csm_f16 *x, ptrdiff_t x_row, ptrdiff_t x_step, csm_f16 *y, ptrdiff_t y_row,
        ptrdiff_t y_step, double temperature) noexcept nogil
cdef int log_softmax_f16 "csm_log_softmax_f16"(
        ptrdiff_t rows, ptrdiff_t n, const csm_f16 *x, ptrdiff_t x_row, ptrdiff_t x_step, csm_f16 *y, ptrdiff_t y_row,
        ptrdiff_t y_step, double temperature) noexcept nogil
cdef int logsumexp_f16 "csm_logsumexp_f16"(
        ptrdiff_t rows, ptrdiff_t n, const csm_f16 *x, ptrdiff_t x_row, ptrdiff_t x_step, csm_f16 *y,
        ptrdiff_t y_row) noexcept nogil
cdef int softmax_backward_f16 "csm_softmax_backward_f16"(
        ptrdiff_t rows, ptrdiff_t n, const csm_f16 *dy, ptrdiff_t dy_row, ptrdiff_t dy_step, const csm_f16 *y,
        ptrdiff_t y_row, ptrdiff_t y_step, csm_f16 *dx, ptrdiff_t dx_row, ptrdiff_t dx_step,
        double temperature) noexcept nogil
cdef int log_softmax_backward_f16 "csm_log_softmax_backward_f16"(
        ptrdiff_t rows, ptrdiff_t n, const csm_f16 *dy, ptrdiff_t dy_row, ptrdiff_t dy_step, const csm_f16 *y,
        ptrdiff_t y_row, ptrdiff_t y_step, csm_f16 *dx, ptrdiff_t dx_row, ptrdiff_t dx_step,
        double temperature) noexcept nogil
cdef int cross_entropy_f16 "csm_cross_entropy_f16"(
        ptrdiff_t rows, ptrdiff_t n, const csm_f16 *x, ptrdiff_t x_row, ptrdiff_t x_step, const int64_t *target,
        ptrdiff_t target_row, int64_t ignore_index, float *loss, ptrdiff_t loss_row) noexcept nogil
cdef int cross_entropy_with_grad_f16 "csm_cross_entropy_with_grad_f16"(
        ptrdiff_t rows, ptrdiff_t n, const csm_f16 *x, ptrdiff_t x_row, ptrdiff_t x_step, const int64_t *target,
        ptrdiff_t target_row, int64_t ignore_index, float *loss, ptrdiff_t loss_row, csm_f16 *dx, ptrdiff_t dx_row,
        ptrdiff_t dx_step, double scale) noexcept nogil
cdef int softmax_bf16 "csm_softmax_bf16"(
        ptrdiff_t rows, ptrdiff_t n, const csm_bf16 *x, ptrdiff_t x_row, ptrdiff_t x_step, csm_bf16 *y, ptrdiff_t y_row,
        ptrdiff_t y_step, double temperature) noexcept nogil
cdef int log_softmax_bf16 "csm_log_softmax_bf16"(
        ptrdiff_t rows, ptrdiff_t n, const csm_bf16 *x, ptrdiff_t x_row, ptrdiff_t x_step, csm_bf16 *y, ptrdiff_t y_row,
        ptrdiff_t y_step, double temperature) noexcept nogil
cdef int logsumexp_bf16 "csm_logsumexp_bf16"(
        ptrdiff_t rows, ptrdiff_t n, const csm_bf16 *x, ptrdiff_t x_row, ptrdiff_t x_step, csm_bf16 *y,
        ptrdiff_t y_row) noexcept nogil
cdef int softmax_backward_bf16 "csm_softmax_backward_bf16"(
        ptrdiff_t rows, ptrdiff_t n, const csm_bf16 *dy, ptrdiff_t dy_row, ptrdiff_t dy_step, const csm_bf16 *y,
        ptrdiff_t y_row, ptrdiff_t y_step, csm_bf16 *dx, ptrdiff_t dx_row, ptrdiff_t dx_step,
        double temperature) noexcept nogil
cdef int log_softmax_backward_bf16 "csm_log_softmax_backward_bf16"(
        ptrdiff_t rows, ptrdiff_t n, const csm_bf16 *dy, ptrdiff_t dy_row, ptrdiff_t dy_step, const csm_bf16 *y,
        ptrdiff_t y_row, ptrdiff_t y_step, csm_bf16 *dx, ptrdiff_t dx_row, ptrdiff_t dx_step,
        double temperature) noexcept nogil
cdef int cross_entropy_bf16 "csm_cross_entropy_bf16"(
        ptrdiff_t rows, ptrdiff_t n, const csm_bf16 *x, ptrdiff_t x_row, ptrdiff_t x_step, const int64_t *target,
        ptrdiff_t target_row, int64_t ignore_index, float *loss, ptrdiff_t loss_row) noexcept nogil
cdef int cross_entropy_with_grad_bf16 "csm_cross_entropy_with_grad_bf16"(
        ptrdiff_t rows, ptrdiff_t n, const csm_bf16 *x, ptrdiff_t x_row, ptrdiff_t x_step, const int64_t *target,
        ptrdiff_t target_row, int64_t ignore_index, float *loss, ptrdiff_t loss_row, csm_bf16 *dx, ptrdiff_t dx_row,
        ptrdiff_t dx_step, double scale) noexcept nogil
cdef int log_softmax_jvp_f32 "csm_log_softmax_jvp_f32"(
        ptrdiff_t rows, ptrdiff_t n, const float *dy, ptrdiff_t dy_row, ptrdiff_t dy_step, const float *y,
        ptrdiff_t y_row, ptrdiff_t y_step, float *dx, ptrdiff_t dx_row, ptrdiff_t dx_step,
        double temperature) noexcept nogil
cdef int log_softmax_jvp_f64 "csm_log_softmax_jvp_f64"(
        ptrdiff_t rows, ptrdiff_t n, const double *dy, ptrdiff_t dy_row, ptrdiff_t dy_step, const double *y,
        ptrdiff_t y_row, ptrdiff_t y_step, double *dx, ptrdiff_t dx_row, ptrdiff_t dx_step,
        double temperature) noexcept nogil
cdef int log_softmax_jvp_f16 "csm_log_softmax_jvp_f16"(
        ptrdiff_t rows, ptrdiff_t n, const csm_f16 *dy, ptrdiff_t dy_row, ptrdiff_t dy_step, const csm_f16 *y,
        ptrdiff_t y_row, ptrdiff_t y_step, csm_f16 *dx, ptrdiff_t dx_row, ptrdiff_t dx_step,
        double temperature) noexcept nogil
cdef int log_softmax_jvp_bf16 "csm_log_softmax_jvp_bf16"(
        ptrdiff_t rows, ptrdiff_t n, const csm_bf16 *dy, ptrdiff_t dy_row, ptrdiff_t dy_step, const csm_bf16 *y,
        ptrdiff_t y_row, ptrdiff_t y_step, csm_bf16 *dx, ptrdiff_t dx_row, ptrdiff_t dx_step,
        double temperature) noexcept nogil

# What memview.pxd calls: `size` bytes an element of reals, and strides in bytes.
cdef int memview_softmax "csm_memview_softmax"(
        ptrdiff_t size, ptrdiff_t rows, ptrdiff_t n, const void *x, ptrdiff_t x_row, ptrdiff_t x_step, void *y,
        ptrdiff_t y_row, ptrdiff_t y_step, double temperature) noexcept nogil
cdef int memview_log_softmax "csm_memview_log_softmax"(
        ptrdiff_t size, ptrdiff_t rows, ptrdiff_t n, const void *x, ptrdiff_t x_row, ptrdiff_t x_step, void *y,
        ptrdiff_t y_row, ptrdiff_t y_step, double temperature) noexcept nogil
cdef int memview_logsumexp "csm_memview_logsumexp"(
        ptrdiff_t size, ptrdiff_t rows, ptrdiff_t n, const void *x, ptrdiff_t x_row, ptrdiff_t x_step, void *y,
        ptrdiff_t y_row) noexcept nogil
cdef int memview_softmax_backward "csm_memview_softmax_backward"(
        ptrdiff_t size, ptrdiff_t rows, ptrdiff_t n, const void *dy, ptrdiff_t dy_row, ptrdiff_t dy_step, const void *y,
        ptrdiff_t y_row, ptrdiff_t y_step, void *dx, ptrdiff_t dx_row, ptrdiff_t dx_step,
        double temperature) noexcept nogil
cdef int memview_log_softmax_backward "csm_memview_log_softmax_backward"(
        ptrdiff_t size, ptrdiff_t rows, ptrdiff_t n, const void *dy, ptrdiff_t dy_row, ptrdiff_t dy_step, const void *y,
        ptrdiff_t y_row, ptrdiff_t y_step, void *dx, ptrdiff_t dx_row, ptrdiff_t dx_step,
        double temperature) noexcept nogil
cdef int memview_cross_entropy "csm_memview_cross_entropy"(
        ptrdiff_t size, ptrdiff_t rows, ptrdiff_t n, const void *x, ptrdiff_t x_row, ptrdiff_t x_step,
        const void *target, ptrdiff_t target_row, int64_t ignore_index, void *loss, ptrdiff_t loss_row) noexcept nogil
cdef int memview_cross_entropy_with_grad "csm_memview_cross_entropy_with_grad"(
        ptrdiff_t size, ptrdiff_t rows, ptrdiff_t n, const void *x, ptrdiff_t x_row, ptrdiff_t x_step,
        const void *target, ptrdiff_t target_row, int64_t ignore_index, void *loss, ptrdiff_t loss_row, void *dx,
        ptrdiff_t dx_row, ptrdiff_t dx_step, double scale) noexcept nogil
cdef int memview_log_softmax_jvp "csm_memview_log_softmax_jvp"(
        ptrdiff_t size, ptrdiff_t rows, ptrdiff_t n, const void *dy, ptrdiff_t dy_row, ptrdiff_t dy_step, const void *y,
        ptrdiff_t y_row, ptrdiff_t y_step, void *dx, ptrdiff_t dx_row, ptrdiff_t dx_step,
        double temperature) noexcept nogil
# tools/capi.py writes to here
