"""From arrays to a problem for the kernels: memory order of new results, and the strides of all operands.

Dimensions are ordered and merged, so that most problems have one batch dimension and one that is reduced.
"""

cimport numpy as cnp
from cpython.object cimport PyTypeObject
from cpython.ref cimport Py_INCREF

from csoftmax.kernels.problem cimport LOGSUMEXP, MAX_DIMS, OPERANDS, Layout, Problem, View
from csoftmax.plan.arguments cimport Axes, storage_of
from csoftmax.plan.strategy cimport item_size

cnp.import_array()

cdef extern from "numpy/arrayobject.h":
    # both steal a reference to the dtype
    object PyArray_NewLikeArray(cnp.ndarray, cnp.NPY_ORDER, cnp.PyArray_Descr *, int)
    object PyArray_NewFromDescr(PyTypeObject *, cnp.PyArray_Descr *, int, const cnp.npy_intp *, const cnp.npy_intp *,
                                void *, int, object)

cdef enum:
    MASK = 3                      # of the operands


# --------------------------------------------------------------------------------------------- new results

cdef cnp.ndarray like(cnp.ndarray a, object dtype, cnp.ndarray mask=None):
    """A new array of the shape of `a`, in the memory order that NumPy's ufuncs give to what they make of `a`."""
    if cnp.PyArray_IS_C_CONTIGUOUS(a) or cnp.PyArray_IS_F_CONTIGUOUS(a) or cnp.PyArray_SIZE(a) == 0:
        Py_INCREF(dtype)
        return PyArray_NewLikeArray(a, cnp.NPY_KEEPORDER, <cnp.PyArray_Descr *> dtype, 0)
    return arranged(a, NULL, True, dtype, mask)


cdef cnp.ndarray like_reduced(cnp.ndarray a, const Axes *axes, bint keepdims, object dtype):
    """As `like`, without the reduced axes, or with them at length 1."""
    cdef cnp.npy_intp shape[MAX_DIMS]
    cdef int d, ndim = 0
    if not (cnp.PyArray_IS_C_CONTIGUOUS(a) or cnp.PyArray_SIZE(a) == 0):
        return arranged(a, axes, keepdims, dtype, None)
    for d in range(a.ndim):
        if keepdims or not axes.reduced[d]:
            shape[ndim] = 1 if axes.reduced[d] else cnp.PyArray_DIM(a, d)
            ndim += 1
    return cnp.PyArray_EMPTY(ndim, shape, (<cnp.dtype> dtype).type_num, 0)


cdef cnp.ndarray arranged(cnp.ndarray a, const Axes *axes, bint keepdims, object dtype, cnp.ndarray mask):
    """A new array of the shape of `a`, with the axes in the order of their strides, the largest outermost.

    An axis along which `a` has a stride of 0 or a length of 1 says nothing about its place: there the mask decides,
    if there is one, and else it stays where C order has it. `axes`, unless it is NULL, are reduced.
    """
    cdef Py_ssize_t strides[2][MAX_DIMS]
    cdef cnp.npy_intp shape[MAX_DIMS]
    cdef cnp.npy_intp result[MAX_DIMS]
    cdef int order[MAX_DIMS]
    cdef cnp.npy_intp step = cnp.PyDataType_ELSIZE(<cnp.dtype> dtype)
    cdef int d, i, ndim = 0
    broadcast_strides(a, a.ndim, strides[0])
    if mask is not None:
        broadcast_strides(mask, a.ndim, strides[1])
    order_axes(a.ndim, strides, 1 if mask is None else 2, order)
    for i in range(a.ndim - 1, -1, -1):
        d = order[i]
        result[d] = step
        shape[d] = 1 if axes != NULL and axes.reduced[d] else cnp.PyArray_DIM(a, d)
        step *= shape[d]
    for d in range(a.ndim):
        if keepdims or not axes.reduced[d]:
            shape[ndim] = shape[d]
            result[ndim] = result[d]
            ndim += 1
    Py_INCREF(dtype)
    return PyArray_NewFromDescr(<PyTypeObject *> cnp.ndarray, <cnp.PyArray_Descr *> dtype, ndim, shape, result, NULL, 0,
                                None)


cdef void broadcast_strides(cnp.ndarray a, int ndim, Py_ssize_t *strides) noexcept:
    """Strides of `a`, broadcast to `ndim` dimensions: 0 along those that it lacks and those of length 1."""
    cdef int d, missing = ndim - a.ndim
    for d in range(ndim):
        strides[d] = 0 if d < missing or cnp.PyArray_DIM(a, d - missing) == 1 else cnp.PyArray_STRIDE(a, d - missing)


cdef void order_axes(int ndim, Py_ssize_t[MAX_DIMS] *strides, int arrays, int *order) noexcept:
    """The axes, outermost first. From the last to the first, each goes inwards past those that have larger strides."""
    cdef int d, i, place, verdict
    for d in range(ndim - 1, -1, -1):
        place = d
        for i in range(d + 1, ndim):
            verdict = compared(d, order[i], strides, arrays)
            if verdict < 0:
                break
            if verdict > 0:
                place = i
        for i in range(d, place):
            order[i] = order[i + 1]
        order[place] = d


cdef int compared(int d, int other, Py_ssize_t[MAX_DIMS] *strides, int arrays) noexcept:
    """Is axis `d` to be inside the `other`? 1: yes, -1: no, 0: no array has a stride other than 0 along both."""
    cdef int k
    for k in range(arrays):
        if strides[k][d] != 0 and strides[k][other] != 0:
            return 1 if size_of(strides[k][d]) < size_of(strides[k][other]) else -1
    return 0


# ------------------------------------------------------------------------------------- operands of a problem

cdef int set_array(View *o, cnp.ndarray a) except -1:
    """The array's memory; its strides are for `lay_out` to set."""
    o.data = <char *> cnp.PyArray_DATA(a)
    o.storage = storage_of(a.dtype)
    return 0


cdef int lay_out(Problem *problem, Layout *layout, cnp.ndarray shaped, const Axes *axes, list operands) except -1:
    """Dimensions, those of `shaped`, and strides of the problem, which points into `layout` where it has more than two.

    `operands`: for x, p, y, mask, target, upstream and row_loss an array or None, which those at the end need not be
    told. Batch dimensions go from the largest stride to the smallest and are merged where all operands allow;
    reduced ones keep their order, since the order of a sum decides its last bits.
    """
    cdef View *into[OPERANDS]
    cdef Py_ssize_t strides[OPERANDS][MAX_DIMS]
    cdef int order[MAX_DIMS]
    cdef int i, k, d, batch, ndim = shaped.ndim
    into[:] = [&problem.x, &problem.p, &problem.y, &problem.mask, &problem.target, &problem.upstream, &problem.row_loss]
    for k in range(len(operands)):
        if operands[k] is not None:
            set_array(into[k], operands[k])
            spread(operands[k], axes, ndim, k == MASK, strides[k])
    batch = order_batch(shaped, axes, strides[2 if problem.y.data != NULL and problem.operation != LOGSUMEXP else 0],
                        strides[0], order)
    problem.n = problem.rows = 1
    problem.batch_ndim = problem.axis_ndim = 0
    for i in range(batch):
        d = order[i]
        problem.rows *= cnp.PyArray_DIM(shaped, d)
        add_dimension(into, strides, d, cnp.PyArray_DIM(shaped, d), &problem.batch_ndim, layout.batch_shape,
                      layout.batch)
    for d in range(ndim):
        if axes.reduced[d]:
            problem.n *= cnp.PyArray_DIM(shaped, d)
            if cnp.PyArray_DIM(shaped, d) > 1:
                add_dimension(into, strides, d, cnp.PyArray_DIM(shaped, d), &problem.axis_ndim, layout.axis_shape,
                              layout.axis)
    point_into(problem, into, layout)
    return 0


cdef void point_into(Problem *problem, View **into, Layout *layout) noexcept:
    """The innermost dimensions become the problem's own; a problem without any has one row, or rows of one element."""
    cdef int k
    for k in range(OPERANDS):
        if into[k].data != NULL:
            into[k].row = layout.batch[k][problem.batch_ndim - 1] if problem.batch_ndim else 0
            into[k].step = layout.axis[k][problem.axis_ndim - 1] if problem.axis_ndim else item_size(into[k].storage)
            into[k].batch = layout.batch[k] if problem.batch_ndim > 1 else NULL
            into[k].axis = layout.axis[k] if problem.axis_ndim > 1 else NULL
    problem.inner = layout.batch_shape[problem.batch_ndim - 1] if problem.batch_ndim else 1
    problem.batch_shape = layout.batch_shape if problem.batch_ndim > 1 else NULL
    problem.axis_shape = layout.axis_shape if problem.axis_ndim > 1 else NULL
    problem.batch_ndim = max(problem.batch_ndim, 1)
    problem.axis_ndim = max(problem.axis_ndim, 1)


cdef void spread(cnp.ndarray a, const Axes *axes, int ndim, bint align, Py_ssize_t *strides) noexcept:
    """Strides over the problem's dimensions. `a` may lack the reduced ones, or all; if it aligns, leading ones."""
    cdef int d, i = 0, missing = ndim - a.ndim
    for d in range(ndim):
        if d < missing if align or a.ndim == 0 else missing and axes.reduced[d]:
            strides[d] = 0
        else:
            strides[d] = 0 if cnp.PyArray_DIM(a, i) == 1 else cnp.PyArray_STRIDE(a, i)
            i += 1


cdef int order_batch(cnp.ndarray shaped, const Axes *axes, const Py_ssize_t *first, const Py_ssize_t *second,
                     int *order) noexcept:
    """Puts the batch dimensions into `order`, from the largest stride to the smallest; how many they are."""
    cdef int d, i, count = 0
    for d in range(shaped.ndim):
        if not axes.reduced[d] and cnp.PyArray_DIM(shaped, d) > 1:
            i = count
            while i > 0 and (size_of(first[order[i - 1]]) < size_of(first[d])
                             or (size_of(first[order[i - 1]]) == size_of(first[d])
                                 and size_of(second[order[i - 1]]) < size_of(second[d]))):
                order[i] = order[i - 1]
                i -= 1
            order[i] = d
            count += 1
    return count


cdef inline Py_ssize_t size_of(Py_ssize_t stride) noexcept:
    return -stride if stride < 0 else stride


cdef void add_dimension(View **into, Py_ssize_t[MAX_DIMS] *strides, int d, Py_ssize_t size, int *ndim,
                        Py_ssize_t *shape, Py_ssize_t[MAX_DIMS] *laid) noexcept:
    """Adds dimension `d` to those that are laid: to the last one, if it goes on where that one ends in all operands."""
    cdef int k, last = ndim[0] - 1
    cdef bint merge = last >= 0
    for k in range(OPERANDS):
        if into[k].data != NULL and merge and laid[k][last] != size * strides[k][d]:
            merge = False
    if merge:
        shape[last] *= size
    else:
        last += 1
        ndim[0] += 1
        shape[last] = size
    for k in range(OPERANDS):
        if into[k].data != NULL:
            laid[k][last] = strides[k][d]
