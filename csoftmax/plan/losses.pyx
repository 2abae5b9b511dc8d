"""Cross-entropy and its gradient: from a call's arguments to the loss, of all rows together or of each."""

import numpy as np

cimport numpy as cnp
from libc.math cimport NAN, frexp, isfinite, ldexp
from libc.stdint cimport INT64_MAX, INT64_MIN

from csoftmax.plan import errors as _advice

from csoftmax.runtime cimport core as _core
from csoftmax.kernels.problem cimport (
    COLUMN_TILES, CROSS_ENTROPY, CROSS_ENTROPY_GRAD, MAX_DIMS, SUM_STEP, SUMS, Layout, Problem, init_problem,
    loss_chunk,
)
from csoftmax.plan.arguments cimport (
    Axes, as_array, as_integer, as_number, check_out, find_axes, find_axis, is_float, is_integer, is_wide,
    needs_exact_shift, result_dtype, storage_of, tuple_shape, unspoiled,
)
from csoftmax.plan.operations cimport run_or_explain
from csoftmax.plan.plan cimport lay_out, like
from csoftmax.plan.strategy cimport choose_for_call
from csoftmax.plan.targets cimport Scaled, as_doubles, as_target, as_weight, two_sum, weight_of_targets

cnp.import_array()

cdef object shown = _advice.shown


def cross_entropy(logits, target, axis, weight, ignore_index, label_smoothing, reduction, gradient,
                  dict explained=None):
    """The loss; if `gradient` is not None but (grad_output, out), the pair of the loss and its gradient.

    A dict `explained` is told only how the problem would be run.
    """
    cdef object _caller_mode = _core.default_mode()
    cdef Problem problem
    cdef Layout layout
    cdef Axes axes
    cdef cnp.ndarray a = as_array("logits", logits), t, w, y = None, upstream = None, per_row = None
    cdef Scaled total, divisor
    cdef double smoothing = check_smoothing(label_smoothing)
    cdef int class_axis = find_class_axis(axis, a)
    cdef bint wide = is_wide(a.dtype)
    check_reduction(reduction)
    find_axes(class_axis, a.ndim, &axes)
    t = as_target(target, a, class_axis)
    w = as_weight(weight, cnp.PyArray_DIM(a, class_axis))
    ignored = as_integer("ignore_index", ignore_index)
    weight_of_targets(&divisor, t, a, class_axis, ignored, w)
    if gradient is not None:
        grad_output, out = gradient
        result = result_dtype(a.dtype, None)
        upstream = as_upstream(grad_output, a, class_axis, reduction)
        y = like(a, result) if out is None else check_out(out, tuple_shape(a), result)
        if out is not None:
            a = unspoiled(a, y, True)
            t = unspoiled(t, y, False)
            w = None if w is None else unspoiled(w, y, False)
    if reduction == "none":
        per_row = new_losses(a, class_axis, cnp.NPY_FLOAT64 if wide else cnp.NPY_FLOAT32)
    if reduction != "mean":
        divisor.value, divisor.exponent = 1, 0
    init_problem(&problem, CROSS_ENTROPY if gradient is None else CROSS_ENTROPY_GRAD, 1, wide)
    problem.loss.indices = not is_float(storage_of(t.dtype))
    problem.loss.smoothing = smoothing
    # every target is a class or ignored by now, so that any number but a class stands for what none can be
    problem.loss.ignore_index = ignored if INT64_MIN <= ignored <= INT64_MAX else -1
    problem.loss.weight = NULL if w is None else <double *> cnp.PyArray_DATA(w)
    set_scale(&problem, divisor)
    total.value, total.exponent = 0, 0
    if cnp.PyArray_SIZE(a):
        problem.exact = needs_exact_shift(a)
        lay_out(&problem, &layout, a, &axes, [a, None, y, None, t, upstream, per_row])
        choose_for_call(&problem)
        total.value = run_loss(&problem, &total.exponent) if explained is None else run_or_explain(&problem, explained)
    if per_row is not None:
        loss = per_row if per_row.ndim else per_row[()]
    else:
        loss = np.float64(quotient(total, divisor)) if wide else np.float32(<float> quotient(total, divisor))
    return loss if gradient is None else (loss, y)


# ------------------------------------------------------------------------------------------------ arguments

cdef int find_class_axis(object axis, cnp.ndarray logits) except -1:
    if not is_integer(axis):
        raise TypeError(f"axis must be an integer: the class axis of the logits, not {shown(axis)}")
    if logits.ndim == 0:
        raise ValueError("logits must have a class axis, but are 0-d")
    return find_axis(axis, axis, logits.ndim)


cdef int check_reduction(object reduction) except -1:
    if not isinstance(reduction, str) or reduction not in ("none", "mean", "sum"):
        raise ValueError(f"reduction must be 'none', 'mean' or 'sum', not {shown(reduction)}")
    return 0


cdef double check_smoothing(object smoothing) except -1:
    cdef double s = as_number("label_smoothing", smoothing)
    if not 0 <= s <= 1:
        raise ValueError(f"label_smoothing must be from 0 to 1, not {shown(smoothing)}")
    return s


cdef cnp.ndarray as_upstream(object grad_output, cnp.ndarray a, int class_axis, object reduction):
    """A copy, as float64, of the gradient with respect to the loss."""
    if grad_output is None:
        return None
    upstream = as_doubles(as_array("grad_output", grad_output))
    shape = tuple_shape(a)
    shape = shape[:class_axis] + shape[class_axis + 1:] if reduction == "none" else ()
    if upstream.shape != shape:
        raise ValueError(f"grad_output has shape {upstream.shape}, but the loss has shape {shape} "
                         f"with reduction={reduction!r}")
    return upstream


cdef cnp.ndarray new_losses(cnp.ndarray a, int class_axis, int type_num):
    """An array of one loss a row: of the shape of the logits `a` without the class axis."""
    cdef cnp.npy_intp shape[MAX_DIMS]
    cdef int d
    for d in range(a.ndim - 1):
        shape[d] = cnp.PyArray_DIM(a, d if d < class_axis else d + 1)
    return cnp.PyArray_ZEROS(a.ndim - 1, shape, type_num, 0)


# ------------------------------------------------------------------------------------------------ reductions

cdef double quotient(Scaled total, Scaled divisor) noexcept:
    """total / divisor, or NaN where the divisor is 0: no target has been counted."""
    cdef int above = 0, below = 0
    if divisor.value == 0:
        return NAN
    if isfinite(divisor.value):
        divisor.value = frexp(divisor.value, &below)
    if isfinite(total.value):
        total.value = frexp(total.value, &above)
    return ldexp(total.value / divisor.value, total.exponent - divisor.exponent + above - below)


cdef void set_scale(Problem *problem, Scaled divisor) noexcept:
    """What the gradient is multiplied by: 1 / divisor, as a number and a power of two if need be."""
    cdef int e = 0
    problem.loss.scale = NAN
    problem.loss.exponent = 0
    if divisor.value == 0:
        return
    if isfinite(divisor.value):
        divisor.value = frexp(divisor.value, &e)
    problem.loss.scale = 1 / divisor.value
    problem.loss.exponent = -e - divisor.exponent
    if -1000 < problem.loss.exponent < 1000:
        problem.loss.scale = ldexp(problem.loss.scale, problem.loss.exponent)
        problem.loss.exponent = 0


cdef double run_loss(Problem *problem, int *exponent) except? -1:
    """Runs the problem; the sum of the losses, unless each has been stored, to be multiplied by a power of two."""
    cdef cnp.npy_intp parts = 0, size, middle = 2 * (SUMS // 2), i
    cdef cnp.ndarray partial
    cdef double *sums
    if problem.row_loss.data == NULL:
        parts = (problem.rows + loss_chunk(problem.n) - 1) // loss_chunk(problem.n)
        if problem.strategy == COLUMN_TILES:
            parts = problem.units
    size = parts * 2 * SUMS
    partial = cnp.PyArray_ZEROS(1, &size, cnp.NPY_FLOAT64, 0)
    problem.partial = sums = <double *> cnp.PyArray_DATA(partial)
    _core.run(problem)
    if not isfinite(sum_of(sums, parts, SUMS // 2)):
        # finite sums may overflow together: on to the next one
        for i in range(parts):
            sums = problem.partial + 2 * SUMS * i
            if isfinite(sums[middle]):
                sums[middle + 2] += ldexp(sums[middle], -SUM_STEP)
                sums[middle] = sums[middle + 1] = 0
    return join_sums(problem.partial, parts, exponent)


cdef double sum_of(const double *sums, Py_ssize_t parts, int which) noexcept:
    """One of the SUMS sums, of all parts, as if in twice the precision."""
    cdef double total = 0, lost = 0, error
    cdef Py_ssize_t i
    for i from 2 * which <= i < 2 * SUMS * parts by 2 * SUMS:
        two_sum(total, sums[i], &total, &error)
        lost += error + sums[i + 1]
    return total + lost if isfinite(lost) else total


cdef double join_sums(const double *sums, Py_ssize_t parts, int *exponent) noexcept:
    """The sum of all sums, to be multiplied by 2^exponent: those of the smallest losses are added first."""
    cdef double total = 0, sum
    cdef int which
    exponent[0] = 0
    for which in range(SUMS):
        sum = sum_of(sums, parts, which)
        if sum != 0:
            total = sum + ldexp(total, exponent[0] - (which - SUMS // 2) * SUM_STEP)
            exponent[0] = (which - SUMS // 2) * SUM_STEP
    return total
