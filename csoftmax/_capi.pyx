"""The softmax family for C, C++ and Cython: pointers and strides to a problem, run at once by the thread that calls.

csoftmax.h says what the functions do. They take no lock and set no Python error, and work in the default floating-point
mode whatever the caller's is. Scratch is on the stack wherever
it fits; which way a row takes changes none of its bits.
"""

from cpython.pycapsule cimport PyCapsule_New
from libc.math cimport INFINITY
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int64_t, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from csoftmax.runtime.dispatch cimport kernels_for
from csoftmax.kernels.problem cimport (
    CROSS_ENTROPY, CROSS_ENTROPY_GRAD, LOG_SOFTMAX, LOG_SOFTMAX_VJP, LOGSUMEXP, SOFTMAX, SOFTMAX_GRAD, Problem, Kernels,
    View, SplitScratch, init_problem, lay_split, needs_doubles, set_view, set_rows,
)
from csoftmax.plan.strategy cimport Means, can_split, choose, item_size

cdef extern from "runtime/float_mode.h" nogil:
    unsigned long long enter_mode "csm_enter_mode"() noexcept
    void leave_mode "csm_leave_mode"(unsigned long long) noexcept

cdef extern from "csoftmax/simd/storage.h":
    enum:
        CSM_F16, CSM_BF16, CSM_F32, CSM_F64, CSM_I64

# The table that C sees. The prototypes let the compiler compare csoftmax.h with the definitions below.
cdef extern from *:
    """
    #include "csoftmax/csoftmax.h"
    #define CSM_PROTOTYPE(name, arguments) static int csm_##name arguments;
    #define CSM_ADDRESS(name, arguments) csm_##name,
    CSM_ALL_FUNCTIONS(CSM_PROTOTYPE)
    static const csm_api csm_table = {CSM_API_VERSION, sizeof(csm_api), CSM_ALL_FUNCTIONS(CSM_ADDRESS)};
    """
    const int csm_table

_C_API = PyCapsule_New(<void *> &csm_table, "csoftmax._capi._C_API", NULL)

cdef enum:
    SMALL_STACK = 16384       # scratch of short rows
    LARGE_STACK = 131072      # and of long ones: a thread's stack may be as small as 512 KiB


# ----------------------------------------------------------------------------------------------- a problem

cdef inline int begin(Problem *problem, int operation, int storage, Py_ssize_t rows, Py_ssize_t n,
                      double temperature) noexcept nogil:
    if rows < 0 or n < 0:
        return CSM_BAD_SHAPE
    if not 0 < temperature < INFINITY:
        return CSM_BAD_TEMPERATURE
    init_problem(problem, operation, temperature, storage == CSM_F64 or needs_doubles(operation, temperature))
    set_rows(problem, rows, n)
    return CSM_OK


cdef inline void set_elements(View *o, int storage, const void *data, Py_ssize_t row,
                              Py_ssize_t step) noexcept nogil:
    # as set_view, with strides in elements
    set_view(o, storage, data, row * item_size(storage), step * item_size(storage))


cdef int forward(int operation, int storage, Py_ssize_t rows, Py_ssize_t n, const void *x, Py_ssize_t x_row,
                 Py_ssize_t x_step, void *y, Py_ssize_t y_row, Py_ssize_t y_step,
                 double temperature) noexcept nogil:
    cdef Problem problem
    cdef double nothing = -INFINITY
    cdef unsigned long long caller_mode = enter_mode()
    cdef int status = begin(&problem, operation, storage, rows, n, temperature)
    if status != CSM_OK:
        leave_mode(caller_mode)
        return status
    set_elements(&problem.x, storage, x, x_row, x_step)
    if n == 0 and operation == LOGSUMEXP:
        set_elements(&problem.x, CSM_F64, &nothing, 0, 1)
        set_rows(&problem, rows, 1)
    set_elements(&problem.y, storage, y, y_row, y_step)
    status = run(&problem)
    leave_mode(caller_mode)
    return status


cdef int backward(int operation, int storage, Py_ssize_t rows, Py_ssize_t n, const void *dy, Py_ssize_t dy_row,
                  Py_ssize_t dy_step, const void *y, Py_ssize_t y_row, Py_ssize_t y_step, void *dx,
                  Py_ssize_t dx_row, Py_ssize_t dx_step, double temperature) noexcept nogil:
    cdef Problem problem
    cdef unsigned long long caller_mode = enter_mode()
    cdef int status = begin(&problem, operation, storage, rows, n, temperature)
    if status != CSM_OK:
        leave_mode(caller_mode)
        return status
    set_elements(&problem.x, storage, dy, dy_row, dy_step)
    set_elements(&problem.p, storage, y, y_row, y_step)
    set_elements(&problem.y, storage, dx, dx_row, dx_step)
    status = run(&problem)
    leave_mode(caller_mode)
    return status


cdef int loss_of(int operation, int storage, Py_ssize_t rows, Py_ssize_t n, const void *x, Py_ssize_t x_row,
                 Py_ssize_t x_step, const int64_t *target, Py_ssize_t target_row, int64_t ignore_index,
                 void *loss, Py_ssize_t loss_row, void *dx, Py_ssize_t dx_row, Py_ssize_t dx_step,
                 double scale) noexcept nogil:
    cdef Problem problem
    cdef Py_ssize_t i
    cdef int64_t index
    cdef unsigned long long caller_mode
    cdef int status = begin(&problem, operation, storage, rows, n, 1)
    if status != CSM_OK:
        return status
    for i in range(rows):
        index = target[i * target_row]
        if index != ignore_index and not 0 <= index < n:
            return CSM_BAD_TARGET
    set_elements(&problem.x, storage, x, x_row, x_step)
    set_elements(&problem.y, storage, dx, dx_row, dx_step)
    set_elements(&problem.target, CSM_I64, target, target_row, 0)
    set_elements(&problem.row_loss, CSM_F64 if storage == CSM_F64 else CSM_F32, loss, loss_row, 0)
    if n == 0:
        for i in range(rows):
            memset(problem.row_loss.data + i * problem.row_loss.row, 0, item_size(problem.row_loss.storage))
    problem.loss.ignore_index = ignore_index
    problem.loss.indices = True
    problem.loss.scale = scale
    caller_mode = enter_mode()
    status = run(&problem)
    leave_mode(caller_mode)
    return status


# ------------------------------------------------------------------------------------------------- its run

cdef inline char *aligned(char *p) noexcept nogil:
    return <char *> ((<uintptr_t> p + 63) // 64 * 64)


cdef inline int run(Problem *problem) noexcept nogil:
    cdef const Kernels *kernels = kernels_for(problem.wide)
    cdef char stack[SMALL_STACK + 64]
    cdef Py_ssize_t size
    cdef Means means
    if problem.rows == 0 or problem.n == 0:
        return CSM_OK
    means.threads = 1
    means.useful = NULL
    means.on_stack = True
    choose(problem, kernels, &means)
    size = kernels.scratch_bytes(problem)
    if size > SMALL_STACK:
        return run_long(problem, kernels, size)
    kernels.run(problem, 0, problem.units, aligned(stack))
    return CSM_OK


cdef int run_long(const Problem *problem, const Kernels *kernels, Py_ssize_t size) noexcept nogil:
    cdef char stack[LARGE_STACK + 64]
    cdef char *memory
    if size <= LARGE_STACK:
        kernels.run(problem, 0, problem.units, aligned(stack))
        return CSM_OK
    memory = <char *> malloc(size + 64)
    if memory != NULL:
        kernels.run(problem, 0, problem.units, aligned(memory))
        free(memory)
        return CSM_OK
    return CSM_OK if run_by_blocks(problem, kernels, aligned(stack)) else CSM_NO_MEMORY


cdef bint run_by_blocks(const Problem *problem, const Kernels *kernels, char *scratch) noexcept nogil:
    """Rows in two passes over their blocks, or False where that cannot be done in LARGE_STACK bytes."""
    cdef Py_ssize_t blocks = (problem.n + kernels.block - 1) // kernels.block, row
    cdef SplitScratch split
    if not can_split(problem) or lay_split(&split, kernels, problem.n, NULL) > LARGE_STACK:
        return False
    lay_split(&split, kernels, problem.n, scratch)
    for row in range(problem.rows):
        kernels.measure(problem, row, 0, blocks, split.stats, split.block)
        kernels.finish(problem, row, split.stats)
        kernels.write(problem, row, 0, blocks, split.stats, split.block)
    return True


# ----------------------------------------------------------------------------------------------------- f32

cdef int softmax_f32 "csm_softmax_f32"(
        ptrdiff_t rows, ptrdiff_t n, const float *x, ptrdiff_t x_row, ptrdiff_t x_step, float *y,
        ptrdiff_t y_row, ptrdiff_t y_step, double temperature) noexcept nogil:
    return forward(SOFTMAX, CSM_F32, rows, n, x, x_row, x_step, y, y_row, y_step, temperature)

cdef int log_softmax_f32 "csm_log_softmax_f32"(
        ptrdiff_t rows, ptrdiff_t n, const float *x, ptrdiff_t x_row, ptrdiff_t x_step, float *y,
        ptrdiff_t y_row, ptrdiff_t y_step, double temperature) noexcept nogil:
    return forward(LOG_SOFTMAX, CSM_F32, rows, n, x, x_row, x_step, y, y_row, y_step, temperature)

cdef int logsumexp_f32 "csm_logsumexp_f32"(
        ptrdiff_t rows, ptrdiff_t n, const float *x, ptrdiff_t x_row, ptrdiff_t x_step, float *y,
        ptrdiff_t y_row) noexcept nogil:
    return forward(LOGSUMEXP, CSM_F32, rows, n, x, x_row, x_step, y, y_row, 0, 1)

cdef int softmax_backward_f32 "csm_softmax_backward_f32"(
        ptrdiff_t rows, ptrdiff_t n, const float *dy, ptrdiff_t dy_row, ptrdiff_t dy_step, const float *y,
        ptrdiff_t y_row, ptrdiff_t y_step, float *dx, ptrdiff_t dx_row, ptrdiff_t dx_step,
        double temperature) noexcept nogil:
    return backward(SOFTMAX_GRAD, CSM_F32, rows, n, dy, dy_row, dy_step, y, y_row, y_step, dx, dx_row,
                    dx_step, temperature)

cdef int log_softmax_backward_f32 "csm_log_softmax_backward_f32"(
        ptrdiff_t rows, ptrdiff_t n, const float *dy, ptrdiff_t dy_row, ptrdiff_t dy_step, const float *y,
        ptrdiff_t y_row, ptrdiff_t y_step, float *dx, ptrdiff_t dx_row, ptrdiff_t dx_step,
        double temperature) noexcept nogil:
    return backward(LOG_SOFTMAX_VJP, CSM_F32, rows, n, dy, dy_row, dy_step, y, y_row, y_step, dx, dx_row,
                    dx_step, temperature)

cdef int cross_entropy_f32 "csm_cross_entropy_f32"(
        ptrdiff_t rows, ptrdiff_t n, const float *x, ptrdiff_t x_row, ptrdiff_t x_step, const int64_t *target,
        ptrdiff_t target_row, int64_t ignore_index, float *loss, ptrdiff_t loss_row) noexcept nogil:
    return loss_of(CROSS_ENTROPY, CSM_F32, rows, n, x, x_row, x_step, target, target_row, ignore_index, loss,
                   loss_row, NULL, 0, 0, 1)

cdef int cross_entropy_with_grad_f32 "csm_cross_entropy_with_grad_f32"(
        ptrdiff_t rows, ptrdiff_t n, const float *x, ptrdiff_t x_row, ptrdiff_t x_step, const int64_t *target,
        ptrdiff_t target_row, int64_t ignore_index, float *loss, ptrdiff_t loss_row, float *dx,
        ptrdiff_t dx_row, ptrdiff_t dx_step, double scale) noexcept nogil:
    return loss_of(CROSS_ENTROPY_GRAD, CSM_F32, rows, n, x, x_row, x_step, target, target_row, ignore_index,
                   loss, loss_row, dx, dx_row, dx_step, scale)

# ----------------------------------------------------------------------------------------------------- f64

cdef int softmax_f64 "csm_softmax_f64"(
        ptrdiff_t rows, ptrdiff_t n, const double *x, ptrdiff_t x_row, ptrdiff_t x_step, double *y,
        ptrdiff_t y_row, ptrdiff_t y_step, double temperature) noexcept nogil:
    return forward(SOFTMAX, CSM_F64, rows, n, x, x_row, x_step, y, y_row, y_step, temperature)

cdef int log_softmax_f64 "csm_log_softmax_f64"(
        ptrdiff_t rows, ptrdiff_t n, const double *x, ptrdiff_t x_row, ptrdiff_t x_step, double *y,
        ptrdiff_t y_row, ptrdiff_t y_step, double temperature) noexcept nogil:
    return forward(LOG_SOFTMAX, CSM_F64, rows, n, x, x_row, x_step, y, y_row, y_step, temperature)

cdef int logsumexp_f64 "csm_logsumexp_f64"(
        ptrdiff_t rows, ptrdiff_t n, const double *x, ptrdiff_t x_row, ptrdiff_t x_step, double *y,
        ptrdiff_t y_row) noexcept nogil:
    return forward(LOGSUMEXP, CSM_F64, rows, n, x, x_row, x_step, y, y_row, 0, 1)

cdef int softmax_backward_f64 "csm_softmax_backward_f64"(
        ptrdiff_t rows, ptrdiff_t n, const double *dy, ptrdiff_t dy_row, ptrdiff_t dy_step, const double *y,
        ptrdiff_t y_row, ptrdiff_t y_step, double *dx, ptrdiff_t dx_row, ptrdiff_t dx_step,
        double temperature) noexcept nogil:
    return backward(SOFTMAX_GRAD, CSM_F64, rows, n, dy, dy_row, dy_step, y, y_row, y_step, dx, dx_row,
                    dx_step, temperature)

cdef int log_softmax_backward_f64 "csm_log_softmax_backward_f64"(
        ptrdiff_t rows, ptrdiff_t n, const double *dy, ptrdiff_t dy_row, ptrdiff_t dy_step, const double *y,
        ptrdiff_t y_row, ptrdiff_t y_step, double *dx, ptrdiff_t dx_row, ptrdiff_t dx_step,
        double temperature) noexcept nogil:
    return backward(LOG_SOFTMAX_VJP, CSM_F64, rows, n, dy, dy_row, dy_step, y, y_row, y_step, dx, dx_row,
                    dx_step, temperature)

cdef int cross_entropy_f64 "csm_cross_entropy_f64"(
        ptrdiff_t rows, ptrdiff_t n, const double *x, ptrdiff_t x_row, ptrdiff_t x_step,
        const int64_t *target, ptrdiff_t target_row, int64_t ignore_index, double *loss,
        ptrdiff_t loss_row) noexcept nogil:
    return loss_of(CROSS_ENTROPY, CSM_F64, rows, n, x, x_row, x_step, target, target_row, ignore_index, loss,
                   loss_row, NULL, 0, 0, 1)

cdef int cross_entropy_with_grad_f64 "csm_cross_entropy_with_grad_f64"(
        ptrdiff_t rows, ptrdiff_t n, const double *x, ptrdiff_t x_row, ptrdiff_t x_step,
        const int64_t *target, ptrdiff_t target_row, int64_t ignore_index, double *loss, ptrdiff_t loss_row,
        double *dx, ptrdiff_t dx_row, ptrdiff_t dx_step, double scale) noexcept nogil:
    return loss_of(CROSS_ENTROPY_GRAD, CSM_F64, rows, n, x, x_row, x_step, target, target_row, ignore_index,
                   loss, loss_row, dx, dx_row, dx_step, scale)

# ----------------------------------------------------------------------------------------------------- f16

cdef int softmax_f16 "csm_softmax_f16"(
        ptrdiff_t rows, ptrdiff_t n, const csm_f16 *x, ptrdiff_t x_row, ptrdiff_t x_step, csm_f16 *y,
        ptrdiff_t y_row, ptrdiff_t y_step, double temperature) noexcept nogil:
    return forward(SOFTMAX, CSM_F16, rows, n, x, x_row, x_step, y, y_row, y_step, temperature)

cdef int log_softmax_f16 "csm_log_softmax_f16"(
        ptrdiff_t rows, ptrdiff_t n, const csm_f16 *x, ptrdiff_t x_row, ptrdiff_t x_step, csm_f16 *y,
        ptrdiff_t y_row, ptrdiff_t y_step, double temperature) noexcept nogil:
    return forward(LOG_SOFTMAX, CSM_F16, rows, n, x, x_row, x_step, y, y_row, y_step, temperature)

cdef int logsumexp_f16 "csm_logsumexp_f16"(
        ptrdiff_t rows, ptrdiff_t n, const csm_f16 *x, ptrdiff_t x_row, ptrdiff_t x_step, csm_f16 *y,
        ptrdiff_t y_row) noexcept nogil:
    return forward(LOGSUMEXP, CSM_F16, rows, n, x, x_row, x_step, y, y_row, 0, 1)

cdef int softmax_backward_f16 "csm_softmax_backward_f16"(
        ptrdiff_t rows, ptrdiff_t n, const csm_f16 *dy, ptrdiff_t dy_row, ptrdiff_t dy_step, const csm_f16 *y,
        ptrdiff_t y_row, ptrdiff_t y_step, csm_f16 *dx, ptrdiff_t dx_row, ptrdiff_t dx_step,
        double temperature) noexcept nogil:
    return backward(SOFTMAX_GRAD, CSM_F16, rows, n, dy, dy_row, dy_step, y, y_row, y_step, dx, dx_row,
                    dx_step, temperature)

cdef int log_softmax_backward_f16 "csm_log_softmax_backward_f16"(
        ptrdiff_t rows, ptrdiff_t n, const csm_f16 *dy, ptrdiff_t dy_row, ptrdiff_t dy_step, const csm_f16 *y,
        ptrdiff_t y_row, ptrdiff_t y_step, csm_f16 *dx, ptrdiff_t dx_row, ptrdiff_t dx_step,
        double temperature) noexcept nogil:
    return backward(LOG_SOFTMAX_VJP, CSM_F16, rows, n, dy, dy_row, dy_step, y, y_row, y_step, dx, dx_row,
                    dx_step, temperature)

cdef int cross_entropy_f16 "csm_cross_entropy_f16"(
        ptrdiff_t rows, ptrdiff_t n, const csm_f16 *x, ptrdiff_t x_row, ptrdiff_t x_step,
        const int64_t *target, ptrdiff_t target_row, int64_t ignore_index, float *loss,
        ptrdiff_t loss_row) noexcept nogil:
    return loss_of(CROSS_ENTROPY, CSM_F16, rows, n, x, x_row, x_step, target, target_row, ignore_index, loss,
                   loss_row, NULL, 0, 0, 1)

cdef int cross_entropy_with_grad_f16 "csm_cross_entropy_with_grad_f16"(
        ptrdiff_t rows, ptrdiff_t n, const csm_f16 *x, ptrdiff_t x_row, ptrdiff_t x_step,
        const int64_t *target, ptrdiff_t target_row, int64_t ignore_index, float *loss, ptrdiff_t loss_row,
        csm_f16 *dx, ptrdiff_t dx_row, ptrdiff_t dx_step, double scale) noexcept nogil:
    return loss_of(CROSS_ENTROPY_GRAD, CSM_F16, rows, n, x, x_row, x_step, target, target_row, ignore_index,
                   loss, loss_row, dx, dx_row, dx_step, scale)

# ---------------------------------------------------------------------------------------------------- bf16

cdef int softmax_bf16 "csm_softmax_bf16"(
        ptrdiff_t rows, ptrdiff_t n, const csm_bf16 *x, ptrdiff_t x_row, ptrdiff_t x_step, csm_bf16 *y,
        ptrdiff_t y_row, ptrdiff_t y_step, double temperature) noexcept nogil:
    return forward(SOFTMAX, CSM_BF16, rows, n, x, x_row, x_step, y, y_row, y_step, temperature)

cdef int log_softmax_bf16 "csm_log_softmax_bf16"(
        ptrdiff_t rows, ptrdiff_t n, const csm_bf16 *x, ptrdiff_t x_row, ptrdiff_t x_step, csm_bf16 *y,
        ptrdiff_t y_row, ptrdiff_t y_step, double temperature) noexcept nogil:
    return forward(LOG_SOFTMAX, CSM_BF16, rows, n, x, x_row, x_step, y, y_row, y_step, temperature)

cdef int logsumexp_bf16 "csm_logsumexp_bf16"(
        ptrdiff_t rows, ptrdiff_t n, const csm_bf16 *x, ptrdiff_t x_row, ptrdiff_t x_step, csm_bf16 *y,
        ptrdiff_t y_row) noexcept nogil:
    return forward(LOGSUMEXP, CSM_BF16, rows, n, x, x_row, x_step, y, y_row, 0, 1)

cdef int softmax_backward_bf16 "csm_softmax_backward_bf16"(
        ptrdiff_t rows, ptrdiff_t n, const csm_bf16 *dy, ptrdiff_t dy_row, ptrdiff_t dy_step,
        const csm_bf16 *y, ptrdiff_t y_row, ptrdiff_t y_step, csm_bf16 *dx, ptrdiff_t dx_row,
        ptrdiff_t dx_step, double temperature) noexcept nogil:
    return backward(SOFTMAX_GRAD, CSM_BF16, rows, n, dy, dy_row, dy_step, y, y_row, y_step, dx, dx_row,
                    dx_step, temperature)

cdef int log_softmax_backward_bf16 "csm_log_softmax_backward_bf16"(
        ptrdiff_t rows, ptrdiff_t n, const csm_bf16 *dy, ptrdiff_t dy_row, ptrdiff_t dy_step,
        const csm_bf16 *y, ptrdiff_t y_row, ptrdiff_t y_step, csm_bf16 *dx, ptrdiff_t dx_row,
        ptrdiff_t dx_step, double temperature) noexcept nogil:
    return backward(LOG_SOFTMAX_VJP, CSM_BF16, rows, n, dy, dy_row, dy_step, y, y_row, y_step, dx, dx_row,
                    dx_step, temperature)

cdef int cross_entropy_bf16 "csm_cross_entropy_bf16"(
        ptrdiff_t rows, ptrdiff_t n, const csm_bf16 *x, ptrdiff_t x_row, ptrdiff_t x_step,
        const int64_t *target, ptrdiff_t target_row, int64_t ignore_index, float *loss,
        ptrdiff_t loss_row) noexcept nogil:
    return loss_of(CROSS_ENTROPY, CSM_BF16, rows, n, x, x_row, x_step, target, target_row, ignore_index, loss,
                   loss_row, NULL, 0, 0, 1)

cdef int cross_entropy_with_grad_bf16 "csm_cross_entropy_with_grad_bf16"(
        ptrdiff_t rows, ptrdiff_t n, const csm_bf16 *x, ptrdiff_t x_row, ptrdiff_t x_step,
        const int64_t *target, ptrdiff_t target_row, int64_t ignore_index, float *loss, ptrdiff_t loss_row,
        csm_bf16 *dx, ptrdiff_t dx_row, ptrdiff_t dx_step, double scale) noexcept nogil:
    return loss_of(CROSS_ENTROPY_GRAD, CSM_BF16, rows, n, x, x_row, x_step, target, target_row, ignore_index,
                   loss, loss_row, dx, dx_row, dx_step, scale)
