"""softmax, log_softmax, logsumexp and the products of their Jacobians: from a call's arguments to its result.

Plain arrays have a way of their own, on which nothing has to be found out. All else goes through `lay_out`.
"""

import numpy as np

cimport numpy as cnp

from csoftmax.runtime cimport core as _core
from csoftmax.kernels.problem cimport (
    LOG_SOFTMAX, LOG_SOFTMAX_JVP, LOG_SOFTMAX_VJP, LOGSUMEXP, SOFTMAX, SOFTMAX_GRAD, Layout, Problem, init_problem,
    needs_doubles, set_rows, set_view,
)
from csoftmax.plan.arguments cimport (
    CSM_F32, CSM_F64, Axes, as_array, as_mask, check_keepdims, check_out, check_temperature, find_axes, is_wide, native,
    needs_exact_shift, promote, result_dtype, same_shape, tuple_shape, unspoiled,
)
from csoftmax.plan.plan cimport lay_out, like, like_reduced
from csoftmax.plan.strategy cimport choose_direct_for_call, choose_for_call, described

cnp.import_array()

OPERATIONS = {
    "softmax": SOFTMAX,
    "log_softmax": LOG_SOFTMAX,
    "logsumexp": LOGSUMEXP,
    "softmax_grad": SOFTMAX_GRAD,
    "log_softmax_vjp": LOG_SOFTMAX_VJP,
    "log_softmax_jvp": LOG_SOFTMAX_JVP,
}


# ------------------------------------------------------------------------------------------- plain arrays

cdef bint plain(object a, int *number) noexcept:
    """Is it an exact, native, aligned, C-contiguous float32 or float64 ndarray, with several elements a row?"""
    if not cnp.PyArray_CheckExact(a):
        return False
    number[0] = cnp.PyArray_TYPE(<cnp.ndarray> a)
    return ((number[0] == cnp.NPY_FLOAT32 or number[0] == cnp.NPY_FLOAT64)
            and cnp.PyArray_ISCARRAY_RO(<cnp.ndarray> a) and cnp.PyArray_NDIM(<cnp.ndarray> a) > 0
            and cnp.PyArray_DIM(<cnp.ndarray> a, cnp.PyArray_NDIM(<cnp.ndarray> a) - 1) > 1
            and rows_of(<cnp.ndarray> a) > 0)


cdef inline Py_ssize_t rows_of(cnp.ndarray a) noexcept:
    cdef Py_ssize_t rows = 1
    cdef int d
    for d in range(cnp.PyArray_NDIM(a) - 1):
        rows *= cnp.PyArray_DIM(a, d)
    return rows


cdef int run_plain(int operation, cnp.ndarray x, cnp.ndarray p, cnp.ndarray y, int number, double temperature,
                   dict explained) except -1:
    """Computes the last axis of plain arrays, or tells `explained` how. One short row needs no problem."""
    cdef Problem problem
    cdef Py_ssize_t n = cnp.PyArray_DIM(x, cnp.PyArray_NDIM(x) - 1), rows = rows_of(x)
    cdef bint wide = number == cnp.NPY_FLOAT64
    if explained is not None:
        plain_problem(&problem, operation, x, p, y, temperature, n, rows, 8 if wide else 4)
        choose_direct_for_call(&problem)
        return run_or_explain(&problem, explained)
    if rows == 1 and _core.run_single(operation, cnp.PyArray_DATA(x), NULL if p is None else cnp.PyArray_DATA(p),
                                      cnp.PyArray_DATA(y), n, temperature, wide):
        return 0
    plain_problem(&problem, operation, x, p, y, temperature, n, rows, 8 if wide else 4)
    choose_direct_for_call(&problem)
    return _core.run(&problem)


cdef void plain_problem(Problem *problem, int operation, cnp.ndarray x, cnp.ndarray p, cnp.ndarray y,
                        double temperature, Py_ssize_t n, Py_ssize_t rows, Py_ssize_t size) noexcept:
    """Rows of `n` contiguous reals of `size` bytes each; `p` may be None."""
    cdef int storage = CSM_F64 if size == 8 else CSM_F32
    init_problem(problem, operation, temperature, size == 8)
    set_rows(problem, rows, n)
    set_view(&problem.x, storage, cnp.PyArray_DATA(x), n * size, size)
    set_view(&problem.y, storage, cnp.PyArray_DATA(y), size if operation == LOGSUMEXP else n * size, size)
    if p is not None:
        set_view(&problem.p, storage, cnp.PyArray_DATA(p), n * size, size)


cdef inline bint plain_overlap(cnp.ndarray a, cnp.ndarray b) noexcept:
    """Do plain arrays have memory in common?"""
    cdef char *p = <char *> cnp.PyArray_DATA(a)
    cdef char *q = <char *> cnp.PyArray_DATA(b)
    return p < q + cnp.PyArray_NBYTES(b) and q < p + cnp.PyArray_NBYTES(a)


cdef inline bint plain_out(object out, cnp.ndarray x, int number) except -1:
    """Can the result be written to `out` without a further check? It is `x` itself, or plain, of the dtype and shape of
    `x`, and has no memory in common with it.
    """
    cdef int other
    if out is x:
        return cnp.PyArray_ISWRITEABLE(x)
    return (plain(out, &other) and other == number and cnp.PyArray_ISWRITEABLE(<cnp.ndarray> out)
            and same_shape(x, <cnp.ndarray> out) and not plain_overlap(x, out))


cdef inline bint last_axis(object axis, object x):
    return type(axis) is int and (axis == -1 or (axis > 0 and axis + 1 == getattr(x, "ndim", 0)))


cdef inline double plain_temperature(int operation, object temperature) noexcept:
    """`temperature` if it is an ordinary float, else 0."""
    cdef double t
    if type(temperature) is float:
        t = temperature
        if not needs_doubles(operation, t):
            return t
    return 0


# ------------------------------------------------------------------------------------------- any arrays

cdef int run_or_explain(const Problem *problem, dict explained) except -1:
    """Runs a problem; or tells `explained`, unless that is None, what has been chosen for it."""
    if explained is None:
        return _core.run(problem)
    explained.update(described(problem))
    return 0


cpdef forward(int operation, x, axis, temperature, where, out, dtype, dict explained=None):
    """softmax or log_softmax. A dict `explained`, here and below, is told only how the problem would be run."""
    cdef object _caller_mode
    cdef Problem problem
    cdef Layout layout
    cdef Axes axes
    cdef cnp.ndarray a, y, mask = None
    cdef int number
    cdef double t = plain_temperature(operation, temperature)
    if (t > 0 and where is None and dtype is None and last_axis(axis, x) and plain(x, &number)
            and (out is None or plain_out(out, x, number))):
        a = x
        if out is None:
            y = cnp.PyArray_SimpleNew(cnp.PyArray_NDIM(a), cnp.PyArray_DIMS(a), number)
        else:
            y = out
        run_plain(operation, a, None, y, number, t, explained)
        return y
    _caller_mode = _core.default_mode()
    a = as_array("x", x)
    t = check_temperature(temperature)
    find_axes(axis, a.ndim, &axes)
    result = result_dtype(a.dtype, dtype)
    if where is not None:
        mask = as_mask(where, a, "x")
    if out is None:
        y = like(a, result, mask)
    else:
        y = check_out(out, tuple_shape(a), result)
        a = unspoiled(a, y, True)
        if mask is not None:
            mask = unspoiled(mask, y, False)
    if cnp.PyArray_SIZE(a) == 0:
        return y
    init_problem(&problem, operation, t, is_wide(a.dtype) or is_wide(result) or needs_doubles(operation, t))
    problem.exact = needs_exact_shift(a)
    lay_out(&problem, &layout, a, &axes, [a, None, y, mask])
    choose_for_call(&problem)
    run_or_explain(&problem, explained)
    return y


cpdef logsumexp(x, axis, where, keepdims, out, dtype, dict explained=None):
    """log of the sum of exponentials over `axis`."""
    cdef object _caller_mode
    cdef Problem problem
    cdef Layout layout
    cdef Axes axes
    cdef cnp.ndarray a, y, mask = None
    cdef int number
    cdef bint keep = keepdims is not False and check_keepdims(keepdims)
    if (where is None and not keep and out is None and dtype is None and last_axis(axis, x)
            and plain(x, &number)):
        a = x
        y = cnp.PyArray_SimpleNew(cnp.PyArray_NDIM(a) - 1, cnp.PyArray_DIMS(a), number)
        run_plain(LOGSUMEXP, a, None, y, number, 1, explained)
        return y if y.ndim else y[()]
    _caller_mode = _core.default_mode()
    a = as_array("x", x)
    find_axes(axis, a.ndim, &axes)
    result = result_dtype(a.dtype, dtype)
    if where is not None:
        mask = as_mask(where, a, "x")
    if out is None:
        y = like_reduced(a, &axes, keep, native(result))
    else:
        shape = [1 if axes.reduced[d] else a.shape[d] for d in range(a.ndim) if keep or not axes.reduced[d]]
        y = check_out(out, tuple(shape), result)
        a = unspoiled(a, y, False)
        if mask is not None:
            mask = unspoiled(mask, y, False)
    if cnp.PyArray_SIZE(a) == 0:
        if explained is None:
            y[...] = -np.inf
    else:
        init_problem(&problem, LOGSUMEXP, 1, is_wide(a.dtype) or is_wide(result))
        problem.exact = needs_exact_shift(a)
        lay_out(&problem, &layout, a, &axes, [a, None, y, mask])
        choose_for_call(&problem)
        run_or_explain(&problem, explained)
    return y if out is not None or y.ndim else y[()]


cpdef backward(int operation, v, output, axis, temperature, where, out, name, dict explained=None):
    """The product of a Jacobian and `v`, called `name`, from the forward's `output`."""
    cdef object _caller_mode
    cdef Problem problem
    cdef Layout layout
    cdef Axes axes
    cdef cnp.ndarray g, p, y, mask = None
    cdef int number, other
    cdef double t = plain_temperature(operation, temperature)
    if (t > 0 and where is None and last_axis(axis, v) and plain(v, &number) and plain(output, &other)
            and number == other and same_shape(v, output)
            and (out is None or (plain_out(out, v, number) and (out is output or not plain_overlap(out, output))))):
        g = v
        if out is None:
            y = cnp.PyArray_SimpleNew(cnp.PyArray_NDIM(g), cnp.PyArray_DIMS(g), number)
        else:
            y = out
        run_plain(operation, g, output, y, number, t, explained)
        return y
    _caller_mode = _core.default_mode()
    g = as_array(name, v)
    p = as_array("output", output)
    t = check_temperature(temperature)
    if not same_shape(g, p):
        raise ValueError(f"{name} has shape {tuple_shape(g)}, but output has shape {tuple_shape(p)}")
    find_axes(axis, p.ndim, &axes)
    if where is not None:
        mask = as_mask(where, p, "output")
    result = promote(g.dtype, p.dtype)
    if out is None:
        y = like(p, result)
    else:
        y = check_out(out, tuple_shape(p), result)
        g = unspoiled(g, y, True)
        p = unspoiled(p, y, True)
        if mask is not None:
            mask = unspoiled(mask, y, False)
    if cnp.PyArray_SIZE(p) == 0:
        return y
    init_problem(&problem, operation, t, is_wide(result) or needs_doubles(operation, t))
    lay_out(&problem, &layout, p, &axes, [g, p, y, mask])
    choose_for_call(&problem)
    run_or_explain(&problem, explained)
    return y
