"""The softmax family for C, C++ and Cython: pointers and strides to a problem, run at once by the thread that calls.

csoftmax.h says what the functions do. They take no lock and set no Python error, and work in the default
floating-point mode whatever the caller's is. Scratch is on the stack wherever it fits; which strategy a row is computed
by changes none of its bits.
"""

from cpython.pycapsule cimport PyCapsule_New
from libc.math cimport INFINITY
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int64_t, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from csoftmax.runtime.dispatch cimport kernels_for
from csoftmax.kernels.problem cimport (
    CROSS_ENTROPY, CROSS_ENTROPY_GRAD, LOG_SOFTMAX, LOG_SOFTMAX_JVP, LOG_SOFTMAX_VJP, LOGSUMEXP, SOFTMAX,
    SOFTMAX_GRAD, Problem, Kernels, View, SplitScratch, init_problem, lay_split, needs_doubles, set_view, set_rows,
)
from csoftmax.plan.strategy cimport Means, can_split, choose, item_size

cdef extern from "runtime/float_mode.h" nogil:
    unsigned long long enter_mode "csm_enter_mode"() noexcept
    void leave_mode "csm_leave_mode"(unsigned long long) noexcept

cdef extern from "csoftmax/simd/storage.h":
    enum:
        CSM_F16, CSM_BF16, CSM_F32, CSM_F64, CSM_I64
    long long load_index "csm_load_index"(int, const char *) nogil

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


# --------------------------------------------------------------------------------- arguments, whatever their types

cdef struct Strided:
    # an array of rows; strides in bytes
    char *data
    Py_ssize_t row
    Py_ssize_t step               # from element to element; 0 where a row has one


cdef inline void set_strided(Strided *a, const void *data, Py_ssize_t row, Py_ssize_t step,
                             Py_ssize_t size) noexcept nogil:
    """An array whose strides count `size` bytes."""
    a.data = <char *> data
    a.row = row * size
    a.step = step * size


cdef inline int reals_of(Py_ssize_t size) noexcept nogil:
    """The storage of reals of `size` bytes."""
    return CSM_F64 if size == sizeof(double) else CSM_F32


# --------------------------------------------------------------------------------------------------- a problem

cdef inline int begin(Problem *problem, int operation, int storage, Py_ssize_t rows, Py_ssize_t n,
                      double temperature) noexcept nogil:
    if rows < 0 or n < 0:
        return CSM_BAD_SHAPE
    if not 0 < temperature < INFINITY:
        return CSM_BAD_TEMPERATURE
    init_problem(problem, operation, temperature, storage == CSM_F64 or needs_doubles(operation, temperature))
    set_rows(problem, rows, n)
    return CSM_OK


cdef inline void set_array(View *o, int storage, const Strided *a) noexcept nogil:
    set_view(o, storage, a.data, a.row, a.step)


cdef int forward(int operation, int storage, Py_ssize_t rows, Py_ssize_t n, const Strided *a,
                 double temperature) noexcept nogil:
    """Probabilities, their logarithms, or one logsumexp a row. IN/OUT `a`: x and y."""
    cdef Problem problem
    cdef double nothing = -INFINITY
    cdef Strided one
    cdef unsigned long long caller_mode = enter_mode()
    cdef int status = begin(&problem, operation, storage, rows, n, temperature)
    if status != CSM_OK:
        leave_mode(caller_mode)
        return status
    set_array(&problem.x, storage, &a[0])
    if n == 0 and operation == LOGSUMEXP:
        set_strided(&one, &nothing, 0, 0, 1)
        set_array(&problem.x, CSM_F64, &one)
        set_rows(&problem, rows, 1)
    set_array(&problem.y, storage, &a[1])
    status = run(&problem)
    leave_mode(caller_mode)
    return status


cdef int backward(int operation, int storage, Py_ssize_t rows, Py_ssize_t n, const Strided *a,
                  double temperature) noexcept nogil:
    """The product of each row's Jacobian and dy, from the forward's result y. IN/OUT `a`: dy, y and dx."""
    cdef Problem problem
    cdef unsigned long long caller_mode = enter_mode()
    cdef int status = begin(&problem, operation, storage, rows, n, temperature)
    if status != CSM_OK:
        leave_mode(caller_mode)
        return status
    set_array(&problem.x, storage, &a[0])
    set_array(&problem.p, storage, &a[1])
    set_array(&problem.y, storage, &a[2])
    status = run(&problem)
    leave_mode(caller_mode)
    return status


cdef int loss_of(int operation, int storage, Py_ssize_t rows, Py_ssize_t n, const Strided *a, int64_t ignore_index,
                 double scale) noexcept nogil:
    """One loss a row, and its gradient times `scale`. IN/OUT `a`: x, target, loss and, for the gradient, dx."""
    cdef Problem problem
    cdef unsigned long long caller_mode
    cdef int loss_storage = CSM_F64 if storage == CSM_F64 else CSM_F32
    cdef int status = begin(&problem, operation, storage, rows, n, 1)
    cdef Py_ssize_t i
    if status == CSM_OK:
        status = check_classes(rows, n, &a[1], ignore_index)
    if status != CSM_OK:
        return status
    set_array(&problem.x, storage, &a[0])
    set_array(&problem.target, CSM_I64, &a[1])
    set_array(&problem.row_loss, loss_storage, &a[2])
    if operation == CROSS_ENTROPY_GRAD:
        set_array(&problem.y, storage, &a[3])
    if n == 0:
        for i in range(rows):
            memset(a[2].data + i * a[2].row, 0, item_size(loss_storage))
    problem.loss.ignore_index = ignore_index
    problem.loss.indices = True
    problem.loss.scale = scale
    caller_mode = enter_mode()
    status = run(&problem)
    leave_mode(caller_mode)
    return status


cdef int check_classes(Py_ssize_t rows, Py_ssize_t n, const Strided *target, int64_t ignore_index) noexcept nogil:
    """CSM_BAD_TARGET if one of the targets is neither a class nor ignored."""
    cdef Py_ssize_t i
    cdef long long index
    for i in range(rows):
        index = load_index(CSM_I64, target.data + i * target.row)
        if index != ignore_index and not 0 <= index < n:
            return CSM_BAD_TARGET
    return CSM_OK


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


# ---------------------------------------------------------------------------------------------- functions
# tools/capi.py writes from here
cdef int softmax_f32 "csm_softmax_f32"(
        ptrdiff_t rows, ptrdiff_t n, const float *x, ptrdiff_t x_row, ptrdiff_t x_step, float *y, ptrdiff_t y_row,
        ptrdiff_t y_step, double temperature) noexcept nogil:
    cdef Strided a[2]
    set_strided(&a[0], x, x_row, x_step, sizeof(float))
    set_strided(&a[1], y, y_row, y_step, sizeof(float))
    return forward(SOFTMAX, CSM_F32, rows, n, a, temperature)

cdef int log_softmax_f32 "csm_log_softmax_f32"(
        ptrdiff_t rows, ptrdiff_t n, const float *x, ptrdiff_t x_row, ptrdiff_t x_step, float *y, ptrdiff_t y_row,
        ptrdiff_t y_step, double temperature) noexcept nogil:
    cdef Strided a[2]
    set_strided(&a[0], x, x_row, x_step, sizeof(float))
    set_strided(&a[1], y, y_row, y_step, sizeof(float))
    return forward(LOG_SOFTMAX, CSM_F32, rows, n, a, temperature)

cdef int logsumexp_f32 "csm_logsumexp_f32"(
        ptrdiff_t rows, ptrdiff_t n, const float *x, ptrdiff_t x_row, ptrdiff_t x_step, float *y,
        ptrdiff_t y_row) noexcept nogil:
    cdef Strided a[2]
    set_strided(&a[0], x, x_row, x_step, sizeof(float))
    set_strided(&a[1], y, y_row, 0, sizeof(float))
    return forward(LOGSUMEXP, CSM_F32, rows, n, a, 1)

cdef int softmax_backward_f32 "csm_softmax_backward_f32"(
        ptrdiff_t rows, ptrdiff_t n, const float *dy, ptrdiff_t dy_row, ptrdiff_t dy_step, const float *y,
        ptrdiff_t y_row, ptrdiff_t y_step, float *dx, ptrdiff_t dx_row, ptrdiff_t dx_step,
        double temperature) noexcept nogil:
    cdef Strided a[3]
    set_strided(&a[0], dy, dy_row, dy_step, sizeof(float))
    set_strided(&a[1], y, y_row, y_step, sizeof(float))
    set_strided(&a[2], dx, dx_row, dx_step, sizeof(float))
    return backward(SOFTMAX_GRAD, CSM_F32, rows, n, a, temperature)

cdef int log_softmax_backward_f32 "csm_log_softmax_backward_f32"(
        ptrdiff_t rows, ptrdiff_t n, const float *dy, ptrdiff_t dy_row, ptrdiff_t dy_step, const float *y,
        ptrdiff_t y_row, ptrdiff_t y_step, float *dx, ptrdiff_t dx_row, ptrdiff_t dx_step,
        double temperature) noexcept nogil:
    cdef Strided a[3]
    set_strided(&a[0], dy, dy_row, dy_step, sizeof(float))
    set_strided(&a[1], y, y_row, y_step, sizeof(float))
    set_strided(&a[2], dx, dx_row, dx_step, sizeof(float))
    return backward(LOG_SOFTMAX_VJP, CSM_F32, rows, n, a, temperature)

cdef int cross_entropy_f32 "csm_cross_entropy_f32"(
        ptrdiff_t rows, ptrdiff_t n, const float *x, ptrdiff_t x_row, ptrdiff_t x_step, const int64_t *target,
        ptrdiff_t target_row, int64_t ignore_index, float *loss, ptrdiff_t loss_row) noexcept nogil:
    cdef Strided a[3]
    set_strided(&a[0], x, x_row, x_step, sizeof(float))
    set_strided(&a[1], target, target_row, 0, sizeof(int64_t))
    set_strided(&a[2], loss, loss_row, 0, sizeof(float))
    return loss_of(CROSS_ENTROPY, CSM_F32, rows, n, a, ignore_index, 1)

cdef int cross_entropy_with_grad_f32 "csm_cross_entropy_with_grad_f32"(
        ptrdiff_t rows, ptrdiff_t n, const float *x, ptrdiff_t x_row, ptrdiff_t x_step, const int64_t *target,
        ptrdiff_t target_row, int64_t ignore_index, float *loss, ptrdiff_t loss_row, float *dx, ptrdiff_t dx_row,
        ptrdiff_t dx_step, double scale) noexcept nogil:
    cdef Strided a[4]
    set_strided(&a[0], x, x_row, x_step, sizeof(float))
    set_strided(&a[1], target, target_row, 0, sizeof(int64_t))
    set_strided(&a[2], loss, loss_row, 0, sizeof(float))
    set_strided(&a[3], dx, dx_row, dx_step, sizeof(float))
    return loss_of(CROSS_ENTROPY_GRAD, CSM_F32, rows, n, a, ignore_index, scale)

cdef int softmax_f64 "csm_softmax_f64"(
        ptrdiff_t rows, ptrdiff_t n, const double *x, ptrdiff_t x_row, ptrdiff_t x_step, double *y, ptrdiff_t y_row,
        ptrdiff_t y_step, double temperature) noexcept nogil:
    cdef Strided a[2]
    set_strided(&a[0], x, x_row, x_step, sizeof(double))
    set_strided(&a[1], y, y_row, y_step, sizeof(double))
    return forward(SOFTMAX, CSM_F64, rows, n, a, temperature)

cdef int log_softmax_f64 "csm_log_softmax_f64"(
        ptrdiff_t rows, ptrdiff_t n, const double *x, ptrdiff_t x_row, ptrdiff_t x_step, double *y, ptrdiff_t y_row,
        ptrdiff_t y_step, double temperature) noexcept nogil:
    cdef Strided a[2]
    set_strided(&a[0], x, x_row, x_step, sizeof(double))
    set_strided(&a[1], y, y_row, y_step, sizeof(double))
    return forward(LOG_SOFTMAX, CSM_F64, rows, n, a, temperature)

cdef int logsumexp_f64 "csm_logsumexp_f64"(
        ptrdiff_t rows, ptrdiff_t n, const double *x, ptrdiff_t x_row, ptrdiff_t x_step, double *y,
        ptrdiff_t y_row) noexcept nogil:
    cdef Strided a[2]
    set_strided(&a[0], x, x_row, x_step, sizeof(double))
    set_strided(&a[1], y, y_row, 0, sizeof(double))
    return forward(LOGSUMEXP, CSM_F64, rows, n, a, 1)

cdef int softmax_backward_f64 "csm_softmax_backward_f64"(
        ptrdiff_t rows, ptrdiff_t n, const double *dy, ptrdiff_t dy_row, ptrdiff_t dy_step, const double *y,
        ptrdiff_t y_row, ptrdiff_t y_step, double *dx, ptrdiff_t dx_row, ptrdiff_t dx_step,
        double temperature) noexcept nogil:
    cdef Strided a[3]
    set_strided(&a[0], dy, dy_row, dy_step, sizeof(double))
    set_strided(&a[1], y, y_row, y_step, sizeof(double))
    set_strided(&a[2], dx, dx_row, dx_step, sizeof(double))
    return backward(SOFTMAX_GRAD, CSM_F64, rows, n, a, temperature)

cdef int log_softmax_backward_f64 "csm_log_softmax_backward_f64"(
        ptrdiff_t rows, ptrdiff_t n, const double *dy, ptrdiff_t dy_row, ptrdiff_t dy_step, const double *y,
        ptrdiff_t y_row, ptrdiff_t y_step, double *dx, ptrdiff_t dx_row, ptrdiff_t dx_step,
        double temperature) noexcept nogil:
    cdef Strided a[3]
    set_strided(&a[0], dy, dy_row, dy_step, sizeof(double))
    set_strided(&a[1], y, y_row, y_step, sizeof(double))
    set_strided(&a[2], dx, dx_row, dx_step, sizeof(double))
    return backward(LOG_SOFTMAX_VJP, CSM_F64, rows, n, a, temperature)

cdef int cross_entropy_f64 "csm_cross_entropy_f64"(
        ptrdiff_t rows, ptrdiff_t n, const double *x, ptrdiff_t x_row, ptrdiff_t x_step, const int64_t *target,
        ptrdiff_t target_row, int64_t ignore_index, double *loss, ptrdiff_t loss_row) noexcept nogil:
    cdef Strided a[3]
    set_strided(&a[0], x, x_row, x_step, sizeof(double))
    set_strided(&a[1], target, target_row, 0, sizeof(int64_t))
    set_strided(&a[2], loss, loss_row, 0, sizeof(double))
    return loss_of(CROSS_ENTROPY, CSM_F64, rows, n, a, ignore_index, 1)

cdef int cross_entropy_with_grad_f64 "csm_cross_entropy_with_grad_f64"(
        ptrdiff_t rows, ptrdiff_t n, const double *x, ptrdiff_t x_row, ptrdiff_t x_step, const int64_t *target,
        ptrdiff_t target_row, int64_t ignore_index, double *loss, ptrdiff_t loss_row, double *dx, ptrdiff_t dx_row,
        ptrdiff_t dx_step, double scale) noexcept nogil:
    cdef Strided a[4]
    set_strided(&a[0], x, x_row, x_step, sizeof(double))
    set_strided(&a[1], target, target_row, 0, sizeof(int64_t))
    set_strided(&a[2], loss, loss_row, 0, sizeof(double))
    set_strided(&a[3], dx, dx_row, dx_step, sizeof(double))
    return loss_of(CROSS_ENTROPY_GRAD, CSM_F64, rows, n, a, ignore_index, scale)

cdef int softmax_f16 "csm_softmax_f16"(
        ptrdiff_t rows, ptrdiff_t n, const csm_f16 *x, ptrdiff_t x_row, ptrdiff_t x_step, csm_f16 *y, ptrdiff_t y_row,
        ptrdiff_t y_step, double temperature) noexcept nogil:
    cdef Strided a[2]
    set_strided(&a[0], x, x_row, x_step, sizeof(csm_f16))
    set_strided(&a[1], y, y_row, y_step, sizeof(csm_f16))
    return forward(SOFTMAX, CSM_F16, rows, n, a, temperature)

cdef int log_softmax_f16 "csm_log_softmax_f16"(
        ptrdiff_t rows, ptrdiff_t n, const csm_f16 *x, ptrdiff_t x_row, ptrdiff_t x_step, csm_f16 *y, ptrdiff_t y_row,
        ptrdiff_t y_step, double temperature) noexcept nogil:
    cdef Strided a[2]
    set_strided(&a[0], x, x_row, x_step, sizeof(csm_f16))
    set_strided(&a[1], y, y_row, y_step, sizeof(csm_f16))
    return forward(LOG_SOFTMAX, CSM_F16, rows, n, a, temperature)

cdef int logsumexp_f16 "csm_logsumexp_f16"(
        ptrdiff_t rows, ptrdiff_t n, const csm_f16 *x, ptrdiff_t x_row, ptrdiff_t x_step, csm_f16 *y,
        ptrdiff_t y_row) noexcept nogil:
    cdef Strided a[2]
    set_strided(&a[0], x, x_row, x_step, sizeof(csm_f16))
    set_strided(&a[1], y, y_row, 0, sizeof(csm_f16))
    return forward(LOGSUMEXP, CSM_F16, rows, n, a, 1)

cdef int softmax_backward_f16 "csm_softmax_backward_f16"(
        ptrdiff_t rows, ptrdiff_t n, const csm_f16 *dy, ptrdiff_t dy_row, ptrdiff_t dy_step, const csm_f16 *y,
        ptrdiff_t y_row, ptrdiff_t y_step, csm_f16 *dx, ptrdiff_t dx_row, ptrdiff_t dx_step,
        double temperature) noexcept nogil:
    cdef Strided a[3]
    set_strided(&a[0], dy, dy_row, dy_step, sizeof(csm_f16))
    set_strided(&a[1], y, y_row, y_step, sizeof(csm_f16))
    set_strided(&a[2], dx, dx_row, dx_step, sizeof(csm_f16))
    return backward(SOFTMAX_GRAD, CSM_F16, rows, n, a, temperature)

cdef int log_softmax_backward_f16 "csm_log_softmax_backward_f16"(
        ptrdiff_t rows, ptrdiff_t n, const csm_f16 *dy, ptrdiff_t dy_row, ptrdiff_t dy_step, const csm_f16 *y,
        ptrdiff_t y_row, ptrdiff_t y_step, csm_f16 *dx, ptrdiff_t dx_row, ptrdiff_t dx_step,
        double temperature) noexcept nogil:
    cdef Strided a[3]
    set_strided(&a[0], dy, dy_row, dy_step, sizeof(csm_f16))
    set_strided(&a[1], y, y_row, y_step, sizeof(csm_f16))
    set_strided(&a[2], dx, dx_row, dx_step, sizeof(csm_f16))
    return backward(LOG_SOFTMAX_VJP, CSM_F16, rows, n, a, temperature)

cdef int cross_entropy_f16 "csm_cross_entropy_f16"(
        ptrdiff_t rows, ptrdiff_t n, const csm_f16 *x, ptrdiff_t x_row, ptrdiff_t x_step, const int64_t *target,
        ptrdiff_t target_row, int64_t ignore_index, float *loss, ptrdiff_t loss_row) noexcept nogil:
    cdef Strided a[3]
    set_strided(&a[0], x, x_row, x_step, sizeof(csm_f16))
    set_strided(&a[1], target, target_row, 0, sizeof(int64_t))
    set_strided(&a[2], loss, loss_row, 0, sizeof(float))
    return loss_of(CROSS_ENTROPY, CSM_F16, rows, n, a, ignore_index, 1)

cdef int cross_entropy_with_grad_f16 "csm_cross_entropy_with_grad_f16"(
        ptrdiff_t rows, ptrdiff_t n, const csm_f16 *x, ptrdiff_t x_row, ptrdiff_t x_step, const int64_t *target,
        ptrdiff_t target_row, int64_t ignore_index, float *loss, ptrdiff_t loss_row, csm_f16 *dx, ptrdiff_t dx_row,
        ptrdiff_t dx_step, double scale) noexcept nogil:
    cdef Strided a[4]
    set_strided(&a[0], x, x_row, x_step, sizeof(csm_f16))
    set_strided(&a[1], target, target_row, 0, sizeof(int64_t))
    set_strided(&a[2], loss, loss_row, 0, sizeof(float))
    set_strided(&a[3], dx, dx_row, dx_step, sizeof(csm_f16))
    return loss_of(CROSS_ENTROPY_GRAD, CSM_F16, rows, n, a, ignore_index, scale)

cdef int softmax_bf16 "csm_softmax_bf16"(
        ptrdiff_t rows, ptrdiff_t n, const csm_bf16 *x, ptrdiff_t x_row, ptrdiff_t x_step, csm_bf16 *y, ptrdiff_t y_row,
        ptrdiff_t y_step, double temperature) noexcept nogil:
    cdef Strided a[2]
    set_strided(&a[0], x, x_row, x_step, sizeof(csm_bf16))
    set_strided(&a[1], y, y_row, y_step, sizeof(csm_bf16))
    return forward(SOFTMAX, CSM_BF16, rows, n, a, temperature)

cdef int log_softmax_bf16 "csm_log_softmax_bf16"(
        ptrdiff_t rows, ptrdiff_t n, const csm_bf16 *x, ptrdiff_t x_row, ptrdiff_t x_step, csm_bf16 *y, ptrdiff_t y_row,
        ptrdiff_t y_step, double temperature) noexcept nogil:
    cdef Strided a[2]
    set_strided(&a[0], x, x_row, x_step, sizeof(csm_bf16))
    set_strided(&a[1], y, y_row, y_step, sizeof(csm_bf16))
    return forward(LOG_SOFTMAX, CSM_BF16, rows, n, a, temperature)

cdef int logsumexp_bf16 "csm_logsumexp_bf16"(
        ptrdiff_t rows, ptrdiff_t n, const csm_bf16 *x, ptrdiff_t x_row, ptrdiff_t x_step, csm_bf16 *y,
        ptrdiff_t y_row) noexcept nogil:
    cdef Strided a[2]
    set_strided(&a[0], x, x_row, x_step, sizeof(csm_bf16))
    set_strided(&a[1], y, y_row, 0, sizeof(csm_bf16))
    return forward(LOGSUMEXP, CSM_BF16, rows, n, a, 1)

cdef int softmax_backward_bf16 "csm_softmax_backward_bf16"(
        ptrdiff_t rows, ptrdiff_t n, const csm_bf16 *dy, ptrdiff_t dy_row, ptrdiff_t dy_step, const csm_bf16 *y,
        ptrdiff_t y_row, ptrdiff_t y_step, csm_bf16 *dx, ptrdiff_t dx_row, ptrdiff_t dx_step,
        double temperature) noexcept nogil:
    cdef Strided a[3]
    set_strided(&a[0], dy, dy_row, dy_step, sizeof(csm_bf16))
    set_strided(&a[1], y, y_row, y_step, sizeof(csm_bf16))
    set_strided(&a[2], dx, dx_row, dx_step, sizeof(csm_bf16))
    return backward(SOFTMAX_GRAD, CSM_BF16, rows, n, a, temperature)

cdef int log_softmax_backward_bf16 "csm_log_softmax_backward_bf16"(
        ptrdiff_t rows, ptrdiff_t n, const csm_bf16 *dy, ptrdiff_t dy_row, ptrdiff_t dy_step, const csm_bf16 *y,
        ptrdiff_t y_row, ptrdiff_t y_step, csm_bf16 *dx, ptrdiff_t dx_row, ptrdiff_t dx_step,
        double temperature) noexcept nogil:
    cdef Strided a[3]
    set_strided(&a[0], dy, dy_row, dy_step, sizeof(csm_bf16))
    set_strided(&a[1], y, y_row, y_step, sizeof(csm_bf16))
    set_strided(&a[2], dx, dx_row, dx_step, sizeof(csm_bf16))
    return backward(LOG_SOFTMAX_VJP, CSM_BF16, rows, n, a, temperature)

cdef int cross_entropy_bf16 "csm_cross_entropy_bf16"(
        ptrdiff_t rows, ptrdiff_t n, const csm_bf16 *x, ptrdiff_t x_row, ptrdiff_t x_step, const int64_t *target,
        ptrdiff_t target_row, int64_t ignore_index, float *loss, ptrdiff_t loss_row) noexcept nogil:
    cdef Strided a[3]
    set_strided(&a[0], x, x_row, x_step, sizeof(csm_bf16))
    set_strided(&a[1], target, target_row, 0, sizeof(int64_t))
    set_strided(&a[2], loss, loss_row, 0, sizeof(float))
    return loss_of(CROSS_ENTROPY, CSM_BF16, rows, n, a, ignore_index, 1)

cdef int cross_entropy_with_grad_bf16 "csm_cross_entropy_with_grad_bf16"(
        ptrdiff_t rows, ptrdiff_t n, const csm_bf16 *x, ptrdiff_t x_row, ptrdiff_t x_step, const int64_t *target,
        ptrdiff_t target_row, int64_t ignore_index, float *loss, ptrdiff_t loss_row, csm_bf16 *dx, ptrdiff_t dx_row,
        ptrdiff_t dx_step, double scale) noexcept nogil:
    cdef Strided a[4]
    set_strided(&a[0], x, x_row, x_step, sizeof(csm_bf16))
    set_strided(&a[1], target, target_row, 0, sizeof(int64_t))
    set_strided(&a[2], loss, loss_row, 0, sizeof(float))
    set_strided(&a[3], dx, dx_row, dx_step, sizeof(csm_bf16))
    return loss_of(CROSS_ENTROPY_GRAD, CSM_BF16, rows, n, a, ignore_index, scale)

cdef int log_softmax_jvp_f32 "csm_log_softmax_jvp_f32"(
        ptrdiff_t rows, ptrdiff_t n, const float *dy, ptrdiff_t dy_row, ptrdiff_t dy_step, const float *y,
        ptrdiff_t y_row, ptrdiff_t y_step, float *dx, ptrdiff_t dx_row, ptrdiff_t dx_step,
        double temperature) noexcept nogil:
    cdef Strided a[3]
    set_strided(&a[0], dy, dy_row, dy_step, sizeof(float))
    set_strided(&a[1], y, y_row, y_step, sizeof(float))
    set_strided(&a[2], dx, dx_row, dx_step, sizeof(float))
    return backward(LOG_SOFTMAX_JVP, CSM_F32, rows, n, a, temperature)

cdef int log_softmax_jvp_f64 "csm_log_softmax_jvp_f64"(
        ptrdiff_t rows, ptrdiff_t n, const double *dy, ptrdiff_t dy_row, ptrdiff_t dy_step, const double *y,
        ptrdiff_t y_row, ptrdiff_t y_step, double *dx, ptrdiff_t dx_row, ptrdiff_t dx_step,
        double temperature) noexcept nogil:
    cdef Strided a[3]
    set_strided(&a[0], dy, dy_row, dy_step, sizeof(double))
    set_strided(&a[1], y, y_row, y_step, sizeof(double))
    set_strided(&a[2], dx, dx_row, dx_step, sizeof(double))
    return backward(LOG_SOFTMAX_JVP, CSM_F64, rows, n, a, temperature)

cdef int log_softmax_jvp_f16 "csm_log_softmax_jvp_f16"(
        ptrdiff_t rows, ptrdiff_t n, const csm_f16 *dy, ptrdiff_t dy_row, ptrdiff_t dy_step, const csm_f16 *y,
        ptrdiff_t y_row, ptrdiff_t y_step, csm_f16 *dx, ptrdiff_t dx_row, ptrdiff_t dx_step,
        double temperature) noexcept nogil:
    cdef Strided a[3]
    set_strided(&a[0], dy, dy_row, dy_step, sizeof(csm_f16))
    set_strided(&a[1], y, y_row, y_step, sizeof(csm_f16))
    set_strided(&a[2], dx, dx_row, dx_step, sizeof(csm_f16))
    return backward(LOG_SOFTMAX_JVP, CSM_F16, rows, n, a, temperature)

cdef int log_softmax_jvp_bf16 "csm_log_softmax_jvp_bf16"(
        ptrdiff_t rows, ptrdiff_t n, const csm_bf16 *dy, ptrdiff_t dy_row, ptrdiff_t dy_step, const csm_bf16 *y,
        ptrdiff_t y_row, ptrdiff_t y_step, csm_bf16 *dx, ptrdiff_t dx_row, ptrdiff_t dx_step,
        double temperature) noexcept nogil:
    cdef Strided a[3]
    set_strided(&a[0], dy, dy_row, dy_step, sizeof(csm_bf16))
    set_strided(&a[1], y, y_row, y_step, sizeof(csm_bf16))
    set_strided(&a[2], dx, dx_row, dx_step, sizeof(csm_bf16))
    return backward(LOG_SOFTMAX_JVP, CSM_BF16, rows, n, a, temperature)

cdef int memview_softmax "csm_memview_softmax"(
        ptrdiff_t size, ptrdiff_t rows, ptrdiff_t n, const void *x, ptrdiff_t x_row, ptrdiff_t x_step, void *y,
        ptrdiff_t y_row, ptrdiff_t y_step, double temperature) noexcept nogil:
    cdef Strided a[2]
    set_strided(&a[0], x, x_row, x_step, 1)
    set_strided(&a[1], y, y_row, y_step, 1)
    return forward(SOFTMAX, reals_of(size), rows, n, a, temperature)

cdef int memview_log_softmax "csm_memview_log_softmax"(
        ptrdiff_t size, ptrdiff_t rows, ptrdiff_t n, const void *x, ptrdiff_t x_row, ptrdiff_t x_step, void *y,
        ptrdiff_t y_row, ptrdiff_t y_step, double temperature) noexcept nogil:
    cdef Strided a[2]
    set_strided(&a[0], x, x_row, x_step, 1)
    set_strided(&a[1], y, y_row, y_step, 1)
    return forward(LOG_SOFTMAX, reals_of(size), rows, n, a, temperature)

cdef int memview_logsumexp "csm_memview_logsumexp"(
        ptrdiff_t size, ptrdiff_t rows, ptrdiff_t n, const void *x, ptrdiff_t x_row, ptrdiff_t x_step, void *y,
        ptrdiff_t y_row) noexcept nogil:
    cdef Strided a[2]
    set_strided(&a[0], x, x_row, x_step, 1)
    set_strided(&a[1], y, y_row, 0, 1)
    return forward(LOGSUMEXP, reals_of(size), rows, n, a, 1)

cdef int memview_softmax_backward "csm_memview_softmax_backward"(
        ptrdiff_t size, ptrdiff_t rows, ptrdiff_t n, const void *dy, ptrdiff_t dy_row, ptrdiff_t dy_step, const void *y,
        ptrdiff_t y_row, ptrdiff_t y_step, void *dx, ptrdiff_t dx_row, ptrdiff_t dx_step,
        double temperature) noexcept nogil:
    cdef Strided a[3]
    set_strided(&a[0], dy, dy_row, dy_step, 1)
    set_strided(&a[1], y, y_row, y_step, 1)
    set_strided(&a[2], dx, dx_row, dx_step, 1)
    return backward(SOFTMAX_GRAD, reals_of(size), rows, n, a, temperature)

cdef int memview_log_softmax_backward "csm_memview_log_softmax_backward"(
        ptrdiff_t size, ptrdiff_t rows, ptrdiff_t n, const void *dy, ptrdiff_t dy_row, ptrdiff_t dy_step, const void *y,
        ptrdiff_t y_row, ptrdiff_t y_step, void *dx, ptrdiff_t dx_row, ptrdiff_t dx_step,
        double temperature) noexcept nogil:
    cdef Strided a[3]
    set_strided(&a[0], dy, dy_row, dy_step, 1)
    set_strided(&a[1], y, y_row, y_step, 1)
    set_strided(&a[2], dx, dx_row, dx_step, 1)
    return backward(LOG_SOFTMAX_VJP, reals_of(size), rows, n, a, temperature)

cdef int memview_cross_entropy "csm_memview_cross_entropy"(
        ptrdiff_t size, ptrdiff_t rows, ptrdiff_t n, const void *x, ptrdiff_t x_row, ptrdiff_t x_step,
        const void *target, ptrdiff_t target_row, int64_t ignore_index, void *loss, ptrdiff_t loss_row) noexcept nogil:
    cdef Strided a[3]
    set_strided(&a[0], x, x_row, x_step, 1)
    set_strided(&a[1], target, target_row, 0, 1)
    set_strided(&a[2], loss, loss_row, 0, 1)
    return loss_of(CROSS_ENTROPY, reals_of(size), rows, n, a, ignore_index, 1)

cdef int memview_cross_entropy_with_grad "csm_memview_cross_entropy_with_grad"(
        ptrdiff_t size, ptrdiff_t rows, ptrdiff_t n, const void *x, ptrdiff_t x_row, ptrdiff_t x_step,
        const void *target, ptrdiff_t target_row, int64_t ignore_index, void *loss, ptrdiff_t loss_row, void *dx,
        ptrdiff_t dx_row, ptrdiff_t dx_step, double scale) noexcept nogil:
    cdef Strided a[4]
    set_strided(&a[0], x, x_row, x_step, 1)
    set_strided(&a[1], target, target_row, 0, 1)
    set_strided(&a[2], loss, loss_row, 0, 1)
    set_strided(&a[3], dx, dx_row, dx_step, 1)
    return loss_of(CROSS_ENTROPY_GRAD, reals_of(size), rows, n, a, ignore_index, scale)

cdef int memview_log_softmax_jvp "csm_memview_log_softmax_jvp"(
        ptrdiff_t size, ptrdiff_t rows, ptrdiff_t n, const void *dy, ptrdiff_t dy_row, ptrdiff_t dy_step, const void *y,
        ptrdiff_t y_row, ptrdiff_t y_step, void *dx, ptrdiff_t dx_row, ptrdiff_t dx_step,
        double temperature) noexcept nogil:
    cdef Strided a[3]
    set_strided(&a[0], dy, dy_row, dy_step, 1)
    set_strided(&a[1], y, y_row, y_step, 1)
    set_strided(&a[2], dx, dx_row, dx_step, 1)
    return backward(LOG_SOFTMAX_JVP, reals_of(size), rows, n, a, temperature)
# tools/capi.py writes to here
