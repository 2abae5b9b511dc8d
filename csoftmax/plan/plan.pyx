"""From Python arguments to a problem: checks them, finds axes, types and memory order, makes the result, and has
a strategy chosen. The only place where an array is ever copied, and only because it overlaps the result.
"""

import math
import sys

import numpy as np
from numpy.exceptions import AxisError

cimport numpy as cnp
from cpython.exc cimport PyErr_CheckSignals
from cpython.number cimport PyNumber_Index
from cpython.object cimport PyTypeObject
from cpython.ref cimport Py_INCREF
from libc.math cimport INFINITY, NAN, frexp, isfinite, isinf, ldexp
from libc.stdint cimport INT64_MAX, INT64_MIN

from csoftmax.plan import errors as _advice

from csoftmax.runtime cimport core as _core
from csoftmax.kernels.problem cimport (
    COLUMN_TILES, CROSS_ENTROPY, CROSS_ENTROPY_GRAD, LOG_SOFTMAX, LOG_SOFTMAX_JVP, LOG_SOFTMAX_VJP, LOGSUMEXP, MAX_DIMS,
    OPERANDS, SOFTMAX, SOFTMAX_GRAD, SUM_STEP, SUMS, Problem, Layout, View, init_problem, loss_chunk, needs_doubles,
    set_view, set_rows,
)
from csoftmax.plan.strategy cimport choose_direct_for_call, choose_for_call, described, item_size

cnp.import_array()

cdef extern from "csoftmax/simd/storage.h":
    enum:
        CSM_F16, CSM_BF16, CSM_F32, CSM_F64, CSM_B1, CSM_I8, CSM_U8, CSM_I16, CSM_U16, CSM_I32, CSM_U32, CSM_I64
        CSM_U64, CSM_SWAPPED
    long long load_index "csm_load_index"(int, const char *) nogil

cdef extern from "numpy/arrayobject.h":
    # both steal a reference to the dtype
    object PyArray_NewLikeArray(cnp.ndarray, cnp.NPY_ORDER, cnp.PyArray_Descr *, int)
    object PyArray_NewFromDescr(PyTypeObject *, cnp.PyArray_Descr *, int, const cnp.npy_intp *, const cnp.npy_intp *,
                                void *, int, object)

cdef enum:
    LISTEN = 1048576              # targets that are checked before Ctrl-C is heard
    MASK = 3                      # of the operands

OPERATIONS = {
    "softmax": SOFTMAX,
    "log_softmax": LOG_SOFTMAX,
    "logsumexp": LOGSUMEXP,
    "softmax_grad": SOFTMAX_GRAD,
    "log_softmax_vjp": LOG_SOFTMAX_VJP,
    "log_softmax_jvp": LOG_SOFTMAX_JVP,
}

cdef object FLOAT32 = np.dtype(np.float32)
cdef object FLOAT64 = np.dtype(np.float64)
DOUBLE_INTEGERS = 2**53           # a double holds every integer up to this modulus

cdef object shown = _advice.shown

cdef struct Axes:
    bint reduced[MAX_DIMS]        # by dimension: is it one of those taken together?


# ------------------------------------------------------------------------------------------------- dtypes

cdef int storage_of(object dtype) except -2:
    """The kernels' name of a dtype's storage, or -1 for what they do not take."""
    cdef cnp.dtype d = dtype
    cdef int number = d.type_num, storage = -1, size = cnp.PyDataType_ELSIZE(d)
    if number == cnp.NPY_FLOAT32:
        storage = CSM_F32
    elif number == cnp.NPY_FLOAT64:
        storage = CSM_F64
    elif number == cnp.NPY_FLOAT16:
        storage = CSM_F16
    elif number == cnp.NPY_BOOL:
        storage = CSM_B1
    elif d.kind == c"i":
        storage = CSM_I8 if size == 1 else (CSM_I16 if size == 2 else (CSM_I32 if size == 4 else CSM_I64))
    elif d.kind == c"u":
        storage = CSM_U8 if size == 1 else (CSM_U16 if size == 2 else (CSM_U32 if size == 4 else CSM_U64))
    elif size == 2 and (<object> dtype).type.__name__ == "bfloat16":
        storage = CSM_BF16
    if storage >= 0 and not cnp.PyArray_ISNBO(d.byteorder):
        storage += CSM_SWAPPED
    return storage


cdef bint is_float(int storage) noexcept:
    return storage >= 0 and (storage & ~CSM_SWAPPED) <= CSM_F64


cdef bint is_masked(object a):
    # nobody has a masked array who has not imported numpy.ma, and that takes a while
    ma = sys.modules.get("numpy.ma")
    return ma is not None and isinstance(a, ma.MaskedArray)


cdef cnp.ndarray to_array(name, object a):
    """An ndarray of any dtype, without a copy wherever `a` lends its memory."""
    if cnp.PyArray_CheckExact(a):
        return a
    if is_masked(a):
        raise _advice.masked(name)
    try:
        return np.asarray(a)
    except Exception as error:
        advice = _advice.no_array(name, a, error)
        if advice is None:
            raise
        raise advice from error


cdef cnp.ndarray as_array(name, object a):
    """An ndarray of a dtype that the kernels know."""
    cdef cnp.ndarray array = to_array(name, a)
    if storage_of(array.dtype) < 0:
        raise _advice.refuse(name, a, array)
    return array


cdef object native(object dtype):
    return dtype if dtype.isnative else dtype.newbyteorder("=")


cdef object result_dtype(object given, object dtype):
    """The dtype of the result: as asked for, else floats stay and all else becomes float64."""
    if dtype is None:
        return native(given) if is_float(storage_of(given)) else FLOAT64
    try:
        wanted = np.dtype(dtype)
        if is_float(storage_of(wanted)):
            return wanted
        given = wanted
    except (TypeError, ValueError, SyntaxError):
        given = shown(dtype)
    raise TypeError(f"dtype must be float16, float32, float64 or ml_dtypes.bfloat16, not {given}")


cdef object promote(object a, object b):
    """The float dtype that holds both."""
    a = result_dtype(a, None)
    b = result_dtype(b, None)
    if a == b:
        return a
    return FLOAT64 if FLOAT64 in (a, b) else FLOAT32


cdef bint is_wide(object dtype):
    return not is_float(storage_of(dtype)) or dtype.itemsize == 8


# --------------------------------------------------------------------------------------------------- axes

cdef int find_axes(object axis, int ndim, Axes *axes) except -1:
    """Marks what `axis` names: an integer, several, or None for all."""
    cdef int d
    for d in range(ndim):
        axes.reduced[d] = axis is None
    if isinstance(axis, (tuple, list)):
        axes.reduced[0] = False
        for one in axis:
            d = find_axis(one, axis, ndim)
            if axes.reduced[d]:
                raise ValueError(f"repeated axis in axis={shown(axis)}")
            axes.reduced[d] = True
    elif axis is not None:
        axes.reduced[find_axis(axis, axis, ndim)] = True
    return 0


cdef int find_axis(object one, object axis, int ndim) except -1:
    """The dimension that `one` names. An array of no dimensions is taken as a row of one element."""
    cdef int dimensions = max(ndim, 1)
    if type(one) is not int:
        if not is_integer(one):
            raise TypeError(f"axis must be an integer, a tuple of integers or None, not {shown(axis)}")
        one = PyNumber_Index(one)
    if not -dimensions <= one < dimensions:
        raise AxisError(one, ndim)
    return one + dimensions if one < 0 else one


cdef bint is_integer(object value):
    """Is it one for NumPy too, which takes neither a bool nor an array of one?"""
    return not isinstance(value, bool) and hasattr(type(value), "__index__") and not getattr(value, "ndim", 0)


# ---------------------------------------------------------------------------------------- other arguments

cdef double as_number(name, object value) except? -1:
    """A float from what is a real number; one too large for a float is infinite."""
    if type(value) is float:
        return value
    kind = getattr(getattr(value, "dtype", None), "kind", "f")
    # NumPy before 2.4 makes a number of an array of one
    if not isinstance(value, (str, bytes, bytearray)) and kind not in "cmMSUT" and not getattr(value, "ndim", 0):
        try:
            return float(value)
        except OverflowError:
            return INFINITY if value > 0 else -INFINITY
        except TypeError:
            pass
    raise TypeError(f"{name} must be a number, not {shown(value)}")


cdef object as_integer(name, object value):
    if type(value) is int:
        return value
    try:
        return PyNumber_Index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, not {shown(value)}") from None


cdef double check_temperature(object temperature) except -1:
    cdef double t = as_number("temperature", temperature)
    if not (isfinite(t) and t > 0):
        raise ValueError(f"temperature must be positive and finite, not {shown(temperature)}")
    return t


cdef bint check_keepdims(object keepdims) except -1:
    if not isinstance(keepdims, (bool, np.bool_, int)):
        raise TypeError(f"keepdims must be True or False, not {shown(keepdims)}")
    return keepdims


cdef cnp.ndarray as_mask(object where, cnp.ndarray a, name):
    """`where` as it is given: `lay_out` broadcasts it."""
    cdef cnp.ndarray mask = to_array("where", where)
    cdef int d, missing = a.ndim - mask.ndim
    cdef bint fits = missing >= 0
    if cnp.PyArray_TYPE(mask) != cnp.NPY_BOOL:
        raise TypeError(f"where must be boolean, not {(<object> mask).dtype}")
    for d in range(mask.ndim if fits else 0):
        if cnp.PyArray_DIM(mask, d) != 1 and cnp.PyArray_DIM(mask, d) != cnp.PyArray_DIM(a, d + missing):
            fits = False
    if not fits:
        raise ValueError(f"where has shape {tuple_shape(mask)}, which does not broadcast to {name}'s "
                         f"{tuple_shape(a)}")
    return mask


# ----------------------------------------------------------------------------------------------- operands

cdef int set_array(View *o, cnp.ndarray a) except -1:
    """The array's memory; its strides are for `lay_out` to set."""
    o.data = <char *> cnp.PyArray_DATA(a)
    o.storage = storage_of(a.dtype)
    return 0


cdef bint needs_exact_shift(cnp.ndarray a):
    """Some integers of `a` are beyond 2^53, where a double does not hold each: their differences are taken first."""
    cdef int kind = storage_of(a.dtype) & ~CSM_SWAPPED
    if kind != CSM_I64 and kind != CSM_U64:
        return False
    return a.max() > DOUBLE_INTEGERS or a.min() < -DOUBLE_INTEGERS


cdef bint overlap(cnp.ndarray a, cnp.ndarray b):
    return np.may_share_memory(a, b)


cdef bint same_memory(cnp.ndarray a, cnp.ndarray b):
    cdef int d
    if (cnp.PyArray_DATA(a) != cnp.PyArray_DATA(b) or cnp.PyArray_NDIM(a) != cnp.PyArray_NDIM(b)
            or cnp.PyArray_ITEMSIZE(a) != cnp.PyArray_ITEMSIZE(b)):
        return False
    for d in range(cnp.PyArray_NDIM(a)):
        if cnp.PyArray_DIM(a, d) > 1 and cnp.PyArray_STRIDE(a, d) != cnp.PyArray_STRIDE(b, d):
            return False
    return True


cdef cnp.ndarray apart(cnp.ndarray a, cnp.ndarray out, bint in_place):
    """`a`, or a copy of it where writing `out` would change what is still to be read."""
    if not overlap(a, out) or (in_place and same_memory(a, out)):
        return a
    return a.copy(order="K")


cdef cnp.ndarray check_out(object out, tuple shape, object dtype):
    cdef int d
    if not isinstance(out, np.ndarray) or is_masked(out):
        raise TypeError(f"out must be an ndarray, not {type(out).__name__}"
                        + ("; out.numpy() shares its memory" if hasattr(out, "numpy") else ""))
    if out.shape != shape:
        raise ValueError(f"out has shape {out.shape}, but the result has shape {shape}")
    if native(out.dtype) != native(dtype):
        raise TypeError(f"out has dtype {out.dtype}, but the result has dtype {dtype}")
    if not out.flags.writeable:
        raise ValueError("out is read-only, but the result is to be written to it")
    # the strides of an empty array may be anything
    for d in range((<cnp.ndarray> out).ndim if cnp.PyArray_SIZE(out) else 0):
        if cnp.PyArray_STRIDE(out, d) == 0 and cnp.PyArray_DIM(out, d) > 1:
            raise ValueError(f"out repeats one element along axis {d}, but the result needs one each")
    return out


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
    walked_strides(a, a.ndim, strides[0])
    if mask is not None:
        walked_strides(mask, a.ndim, strides[1])
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


cdef void walked_strides(cnp.ndarray a, int ndim, Py_ssize_t *strides) noexcept:
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


# -------------------------------------------------------------------------------------------- memory walk

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
    """The dimensions to walk, from the largest stride to the smallest, and how many they are."""
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


# --------------------------------------------------------------------------------------------- operations

cdef bint plain(object a, int *number) noexcept:
    """An exact, native, aligned, C-contiguous float32 or float64 ndarray, whose last axis is worth walking along."""
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


cdef int run_or_explain(const Problem *problem, dict explained) except -1:
    """Runs a problem; or tells `explained`, unless that is None, what has been chosen for it."""
    if explained is None:
        return _core.run(problem)
    explained.update(described(problem))
    return 0


cdef int run_plain(int operation, cnp.ndarray x, cnp.ndarray p, cnp.ndarray y, int number, double temperature,
                   dict explained) except -1:
    """Rows of plain arrays: nothing to find out. A small call is over before it has a problem."""
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
    cdef int storage = CSM_F64 if size == 8 else CSM_F32
    init_problem(problem, operation, temperature, size == 8)
    set_rows(problem, rows, n)
    set_view(&problem.x, storage, cnp.PyArray_DATA(x), n * size, size)
    set_view(&problem.y, storage, cnp.PyArray_DATA(y), size if operation == LOGSUMEXP else n * size, size)
    if p is not None:
        set_view(&problem.p, storage, cnp.PyArray_DATA(p), n * size, size)


cdef inline bint same_shape(cnp.ndarray a, cnp.ndarray b) noexcept:
    cdef int d
    if cnp.PyArray_NDIM(a) != cnp.PyArray_NDIM(b):
        return False
    for d in range(cnp.PyArray_NDIM(a)):
        if cnp.PyArray_DIM(a, d) != cnp.PyArray_DIM(b, d):
            return False
    return True


cdef inline bint plain_overlap(cnp.ndarray a, cnp.ndarray b) noexcept:
    """As `overlap`, of plain arrays."""
    cdef char *p = <char *> cnp.PyArray_DATA(a)
    cdef char *q = <char *> cnp.PyArray_DATA(b)
    return p < q + cnp.PyArray_NBYTES(b) and q < p + cnp.PyArray_NBYTES(a)


cdef inline bint plain_out(object out, cnp.ndarray x, int number) except -1:
    """`out` can be taken as it is: `x` itself, or plain, of its kind and apart from it."""
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
        a = apart(a, y, True)
        if mask is not None:
            mask = apart(mask, y, False)
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
    cdef bint keep = check_keepdims(keepdims)
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
        a = apart(a, y, False)
        if mask is not None:
            mask = apart(mask, y, False)
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
        g = apart(g, y, True)
        p = apart(p, y, True)
        if mask is not None:
            mask = apart(mask, y, False)
    if cnp.PyArray_SIZE(p) == 0:
        return y
    init_problem(&problem, operation, t, is_wide(result) or needs_doubles(operation, t))
    lay_out(&problem, &layout, p, &axes, [g, p, y, mask])
    choose_for_call(&problem)
    run_or_explain(&problem, explained)
    return y


def cross_entropy(logits, target, axis, weight, ignore_index, label_smoothing, reduction, grad_output, out, bint grad,
                  dict explained=None):
    """The loss, and with `grad` its gradient too, as a pair."""
    cdef object _caller_mode = _core.default_mode()
    cdef Problem problem
    cdef Layout layout
    cdef Axes axes
    cdef cnp.ndarray a = as_array("logits", logits), t, w, y = None, upstream = None, per_row = None
    cdef double counted, total, smoothing = check_smoothing(label_smoothing)
    cdef int exponent = 0, scale = 0
    cdef int class_axis = find_class_axis(axis, a)
    cdef bint indices, wide = is_wide(a.dtype)
    check_reduction(reduction)
    find_axes(class_axis, a.ndim, &axes)
    t = as_target(target, a, class_axis)
    indices = not is_float(storage_of(t.dtype))
    w = as_weight(weight, cnp.PyArray_DIM(a, class_axis))
    ignored = as_integer("ignore_index", ignore_index)
    if indices:
        counted = check_indices(t, cnp.PyArray_DIM(a, class_axis), ignored, w)
        if isinf(counted):
            # the sum of the weights is, or one of them
            counted = check_indices(t, cnp.PyArray_DIM(a, class_axis), ignored, np.ldexp(w, -64))
            exponent = 64
    else:
        if ignored != -100:
            raise ValueError(f"ignore_index ({shown(ignored)}) is for class indices, but target is probabilities, of "
                             f"dtype {(<object> t).dtype}; leave ignore_index out")
        counted = cnp.PyArray_SIZE(a) // max(cnp.PyArray_DIM(a, class_axis), 1)
    loss_type = cnp.NPY_FLOAT64 if wide else cnp.NPY_FLOAT32
    if grad:
        result = result_dtype(a.dtype, None)
        upstream = as_upstream(grad_output, a, class_axis, reduction)
        y = like(a, result) if out is None else check_out(out, tuple_shape(a), result)
        if out is not None:
            a = apart(a, y, True)
            t = apart(t, y, False)
            w = None if w is None else apart(w, y, False)
    if reduction == "none":
        per_row = new_losses(a, class_axis, loss_type)
    init_problem(&problem, CROSS_ENTROPY_GRAD if grad else CROSS_ENTROPY, 1, wide)
    problem.loss.indices = indices
    problem.loss.smoothing = smoothing
    # every target is a class or ignored by now, so that any number but a class stands for what none can be
    problem.loss.ignore_index = ignored if INT64_MIN <= ignored <= INT64_MAX else -1
    problem.loss.weight = NULL if w is None else <double *> cnp.PyArray_DATA(w)
    set_scale(&problem, counted if reduction == "mean" else 1, exponent if reduction == "mean" else 0)
    total = 0
    if cnp.PyArray_SIZE(a):
        problem.exact = needs_exact_shift(a)
        lay_out(&problem, &layout, a, &axes, [a, None, y, None, t, upstream, per_row])
        choose_for_call(&problem)
        total = run_loss(&problem, &scale) if explained is None else run_or_explain(&problem, explained)
    if per_row is not None:
        loss = per_row if per_row.ndim else per_row[()]
    else:
        if reduction == "mean":
            total = quotient(total, counted, scale - exponent) if cnp.PyArray_SIZE(a) else NAN
        else:
            total = ldexp(total, scale)
        loss = np.float64(total) if wide else np.float32(<float> total)
    return (loss, y) if grad else loss


cdef double quotient(double total, double counted, int exponent) noexcept:
    """total / counted 2^exponent, or NaN for nothing counted."""
    cdef int above = 0, below = 0
    if counted == 0:
        return NAN
    if isfinite(counted):
        counted = frexp(counted, &below)
    if isfinite(total):
        total = frexp(total, &above)
    return ldexp(total / counted, exponent + above - below)


cdef void set_scale(Problem *problem, double counted, int exponent) noexcept:
    """What the gradient is multiplied by: 1 / (counted 2^exponent), as a number and a power of two if need be."""
    cdef int e = 0
    problem.loss.scale = NAN
    problem.loss.exponent = 0
    if counted == 0:
        return
    if isfinite(counted):
        counted = frexp(counted, &e)
    problem.loss.scale = 1 / counted
    problem.loss.exponent = -e - exponent
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
    cdef double total = 0, lost = 0, error
    cdef Py_ssize_t i
    for i from 2 * which <= i < 2 * SUMS * parts by 2 * SUMS:
        two_sum(total, sums[i], &total, &error)
        lost += error + sums[i + 1]
    return total + lost if isfinite(lost) else total


cdef double join_sums(const double *sums, Py_ssize_t parts, int *exponent) noexcept:
    """From the smallest to the largest."""
    cdef double total = 0, sum
    cdef int which
    exponent[0] = 0
    for which in range(SUMS):
        sum = sum_of(sums, parts, which)
        if sum != 0:
            total = sum + ldexp(total, exponent[0] - (which - SUMS // 2) * SUM_STEP)
            exponent[0] = (which - SUMS // 2) * SUM_STEP
    return total


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


cdef tuple without(cnp.ndarray a, int axis):
    """The shape of `a` without one axis."""
    shape = tuple_shape(a)
    return shape[:axis] + shape[axis + 1:]


cdef bint lacks(cnp.ndarray t, cnp.ndarray a, int axis) noexcept:
    """`t` has the shape of `a` without `axis`."""
    cdef int d
    if t.ndim != a.ndim - 1:
        return False
    for d in range(t.ndim):
        if cnp.PyArray_DIM(t, d) != cnp.PyArray_DIM(a, d if d < axis else d + 1):
            return False
    return True


cdef cnp.ndarray as_target(object target, cnp.ndarray a, int class_axis):
    """Class indices or class probabilities, of a shape that fits the logits `a`."""
    cdef cnp.ndarray t = as_array("target", target)
    cdef bint floats = is_float(storage_of(t.dtype))
    if cnp.PyArray_TYPE(t) == cnp.NPY_BOOL or not (same_shape(t, a) if floats else lacks(t, a, class_axis)):
        raise _advice.wrong_target(target, t, tuple_shape(a), class_axis)
    return t


cdef cnp.ndarray as_weight(object weight, Py_ssize_t classes):
    if weight is None:
        return None
    cdef cnp.ndarray w = as_array("weight", weight)
    if w.ndim != 1 or cnp.PyArray_DIM(w, 0) != classes:
        raise ValueError(f"weight has shape {tuple_shape(w)}, but the {classes} classes need shape {(classes,)}")
    if cnp.PyArray_TYPE(w) == cnp.NPY_FLOAT64 and cnp.PyArray_ISCARRAY_RO(w):
        return w
    return as_doubles(w)


cdef object as_doubles(object a):
    """A contiguous copy; of a signalling NaN too, without a warning."""
    with np.errstate(invalid="ignore"):
        return np.array(a, np.float64, order="C")


cdef cnp.ndarray as_upstream(object grad_output, cnp.ndarray a, int class_axis, object reduction):
    """A copy, as float64, of the gradient with respect to the loss."""
    if grad_output is None:
        return None
    upstream = as_doubles(as_array("grad_output", grad_output))
    shape = without(a, class_axis) if reduction == "none" else ()
    if upstream.shape != shape:
        raise ValueError(f"grad_output has shape {upstream.shape}, but the loss has shape {shape} "
                         f"with reduction={reduction!r}")
    return upstream


cdef cnp.ndarray new_losses(cnp.ndarray a, int class_axis, int type_num):
    cdef cnp.npy_intp shape[MAX_DIMS]
    cdef int d
    for d in range(a.ndim - 1):
        shape[d] = cnp.PyArray_DIM(a, d if d < class_axis else d + 1)
    return cnp.PyArray_ZEROS(a.ndim - 1, shape, type_num, 0)


cdef struct Counted:
    Py_ssize_t classes
    bint fits                         # ignore_index does, and can be told from what load_index returns for larger ones
    long long ignore
    const double *weight
    Py_ssize_t unweighted             # how many targets count
    double total                      # of their weights, and what its roundings lost
    double lost


cdef double check_indices(cnp.ndarray target, Py_ssize_t classes, object ignored, cnp.ndarray weight) except? -1:
    """The weight of the targets that count; `IndexError` for the first that is neither a class nor ignored."""
    cdef Counted counted
    cdef Walker walker
    cdef int last = target.ndim - 1, storage = storage_of(target.dtype)
    cdef Py_ssize_t left = cnp.PyArray_SIZE(target), length = 1, stride = 0, done = 0, unheard = 0, part
    cdef bint fit = True
    counted.classes = classes
    counted.fits = INT64_MIN <= ignored < INT64_MAX
    counted.ignore = ignored if counted.fits else 0
    counted.weight = NULL if weight is None else <double *> cnp.PyArray_DATA(weight)
    counted.unweighted = 0
    counted.total = counted.lost = 0
    if cnp.PyArray_IS_C_CONTIGUOUS(target):
        length = left
        stride = cnp.PyArray_ITEMSIZE(target)
    elif last >= 0:
        length = cnp.PyArray_DIM(target, last)
        stride = cnp.PyArray_STRIDE(target, last)
    start(&walker, target)
    while left > 0:
        part = min(length - done, LISTEN)
        fit &= count_run(storage, walker.data + done * stride, stride, part, &counted)
        left -= part
        done += part
        unheard += part
        if unheard >= LISTEN:
            unheard = 0
            PyErr_CheckSignals()
        if done == length and left > 0:
            done = 0
            walker.place[last] += length - 1
            walker.data += (length - 1) * stride
            step(&walker, target)
    if not fit:
        refuse_index(target, &counted, ignored)
    if counted.weight == NULL:
        return counted.unweighted
    return counted.total + counted.lost if isfinite(counted.lost) else counted.total


cdef bint count_run(int storage, const char *data, Py_ssize_t stride, Py_ssize_t n, Counted *counted) noexcept:
    """Counts targets at one stride. False if one of them is neither a class nor ignored as an int64."""
    if storage == CSM_I64:
        return count_stored(CSM_I64, data, stride, n, counted)
    if storage == CSM_I32:
        return count_stored(CSM_I32, data, stride, n, counted)
    return count_stored(storage, data, stride, n, counted)


cdef inline bint count_stored(const int storage, const char *data, Py_ssize_t stride, Py_ssize_t n,
                              Counted *counted) noexcept:
    cdef unsigned long long classes = counted.classes
    cdef long long index, ignore = counted.ignore
    cdef Py_ssize_t known = 0, ignored = 0, i
    cdef bint ignores_class = counted.fits and <unsigned long long> ignore < classes
    cdef double error
    for i in range(n):
        index = load_index(storage, data + i * stride)
        known += <unsigned long long> index < classes
        ignored += index == ignore
    if not counted.fits:
        ignored = 0
    counted.unweighted += known - ignored if ignores_class else known
    if counted.weight != NULL:
        for i in range(n):
            index = load_index(storage, data + i * stride)
            if <unsigned long long> index < classes and not (ignores_class and index == ignore):
                two_sum(counted.total, counted.weight[index], &counted.total, &error)
                counted.lost += error
    return known + (0 if ignores_class else ignored) == n


cdef int refuse_index(cnp.ndarray target, const Counted *counted, object ignored) except -1:
    """Raises for the first target that is neither a class nor ignored, if there is one."""
    cdef int storage = storage_of(target.dtype)
    cdef Py_ssize_t i
    cdef long long index
    cdef Walker walker
    start(&walker, target)
    for i in range(cnp.PyArray_SIZE(target)):
        if i % LISTEN == LISTEN - 1:
            PyErr_CheckSignals()
        index = load_index(storage, walker.data)
        if not 0 <= index < counted.classes and not (counted.fits and index == counted.ignore):
            if counted.fits or target[at(&walker, target.ndim)] != ignored:
                raise no_class(target[at(&walker, target.ndim)], at(&walker, target.ndim), counted.classes, ignored)
        step(&walker, target)
    return 0


cdef struct Walker:
    const char *data                  # of the element it has come to
    Py_ssize_t place[MAX_DIMS]


cdef void start(Walker *walker, cnp.ndarray a) noexcept:
    cdef int d
    walker.data = <const char *> cnp.PyArray_DATA(a)
    for d in range(a.ndim):
        walker.place[d] = 0


cdef inline void step(Walker *walker, cnp.ndarray a) noexcept:
    """To the next element, in the order of indices. NumPy's own iterator ends at 32 dimensions."""
    cdef int d = a.ndim - 1
    while d >= 0:
        walker.place[d] += 1
        walker.data += cnp.PyArray_STRIDE(a, d)
        if walker.place[d] < cnp.PyArray_DIM(a, d):
            return
        walker.data -= walker.place[d] * cnp.PyArray_STRIDE(a, d)
        walker.place[d] = 0
        d -= 1


cdef tuple at(const Walker *walker, int ndim):
    return tuple([walker.place[d] for d in range(ndim)])


cdef inline void two_sum(double a, double b, double *total, double *lost) noexcept:
    """The rounded sum, and exactly what rounding lost."""
    cdef double s = a + b, part = s - a
    lost[0] = (a - (s - part)) + (b - part)
    total[0] = s


cdef object no_class(object index, tuple place, Py_ssize_t classes, object ignored):
    """The error for a target that is no class."""
    problem = f"target{list(place) if place else ''} is {index}"
    if classes == 0:
        return IndexError(f"{problem}, but the logits have no classes: their class axis has length 0")
    return IndexError(f"{problem}, which is neither a class index from 0 to {classes - 1} nor "
                      f"ignore_index ({shown(ignored)})")


def jacobian(output, axis, out):
    """diag(p) - p p^T of each row of `output`, in two trailing axes."""
    cdef object _caller_mode = _core.default_mode()
    cdef Axes axes
    cdef cnp.ndarray p = as_array("output", output), y, rows
    cdef int d
    find_axes(axis, p.ndim, &axes)
    result = result_dtype(p.dtype, None)
    rest = [d for d in range(p.ndim) if not axes.reduced[d]]
    taken = [d for d in range(p.ndim) if axes.reduced[d]]
    batch = tuple([p.shape[d] for d in rest])
    n = math.prod([p.shape[d] for d in taken])
    rows = np.ascontiguousarray(p.transpose(rest + taken)).reshape(batch + (n,))
    with np.errstate(invalid="ignore"):
        rows = rows.astype(FLOAT64 if is_wide(result) else FLOAT32, copy=False)
    shape = batch + (n, n)
    y = np.empty(shape, result) if out is None else check_out(out, shape, result)
    with np.errstate(all="ignore"):
        # out may overlap the rows: a ufunc reads all that its result would change before it writes it
        diagonal = rows * (1 - rows)
        np.multiply(-rows[..., :, None], rows[..., None, :], out=y, casting="same_kind")
        np.einsum("...ii->...i", y)[...] = diagonal
    return y


cdef tuple tuple_shape(cnp.ndarray a):
    return (<object> a).shape
