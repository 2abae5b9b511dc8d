"""Targets of a loss: class indices, which are checked and counted, or probabilities; and the weights of the classes."""

import numpy as np

cimport numpy as cnp
from cpython.exc cimport PyErr_CheckSignals
from libc.math cimport isfinite, isinf
from libc.stdint cimport INT64_MAX, INT64_MIN

from csoftmax.plan import errors as _advice

from csoftmax.kernels.problem cimport MAX_DIMS
from csoftmax.plan.arguments cimport CSM_I32, CSM_I64, as_array, is_float, same_shape, storage_of, tuple_shape

cnp.import_array()

cdef extern from "csoftmax/simd/storage.h":
    long long load_index "csm_load_index"(int, const char *) nogil

cdef enum:
    LISTEN = 1048576              # targets that are checked before Ctrl-C is heard

cdef object shown = _advice.shown


cdef cnp.ndarray as_target(object target, cnp.ndarray a, int class_axis):
    """Class indices or class probabilities, of a shape that fits the logits `a`."""
    cdef cnp.ndarray t = as_array("target", target)
    cdef bint floats = is_float(storage_of(t.dtype))
    if cnp.PyArray_TYPE(t) == cnp.NPY_BOOL or not (same_shape(t, a) if floats else lacks(t, a, class_axis)):
        raise _advice.wrong_target(target, t, tuple_shape(a), class_axis)
    return t


cdef bint lacks(cnp.ndarray t, cnp.ndarray a, int axis) noexcept:
    """`t` has the shape of `a` without `axis`."""
    cdef int d
    if t.ndim != a.ndim - 1:
        return False
    for d in range(t.ndim):
        if cnp.PyArray_DIM(t, d) != cnp.PyArray_DIM(a, d if d < axis else d + 1):
            return False
    return True


cdef cnp.ndarray as_weight(object weight, Py_ssize_t classes):
    """One weight a class, as contiguous float64, or None."""
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


cdef int weight_of_targets(Scaled *weight, cnp.ndarray target, cnp.ndarray a, int class_axis, object ignored,
                           cnp.ndarray weights) except -1:
    """The weight of the targets that count, by which "mean" divides. `IndexError` for the first index that is neither a
    class nor ignored.
    """
    cdef Py_ssize_t classes = cnp.PyArray_DIM(a, class_axis)
    weight.exponent = 0
    if is_float(storage_of(target.dtype)):
        if ignored != -100:
            raise ValueError(f"ignore_index ({shown(ignored)}) is for class indices, but target is probabilities, of "
                             f"dtype {(<object> target).dtype}; leave ignore_index out")
        weight.value = cnp.PyArray_SIZE(a) // max(classes, 1)
        return 0
    weight.value = weight_of_indices(target, classes, ignored, weights)
    if isinf(weight.value):
        # the sum of the weights is, or one of them
        weight.value = weight_of_indices(target, classes, ignored, np.ldexp(weights, -64))
        weight.exponent = 64
    return 0


cdef struct Count:
    Py_ssize_t classes
    bint fits                         # ignore_index does, and can be told from what load_index returns for larger ones
    long long ignore
    const double *weight              # one a class, or NULL
    bint valid                        # every target so far is a class or ignored, as an int64
    Py_ssize_t unweighted             # how many targets count
    double total                      # of their weights
    Py_ssize_t unheard                # targets since Ctrl-C has been looked for
    double lost                       # by its roundings; beside it, gcc would add to both as one vector, more slowly


cdef double weight_of_indices(cnp.ndarray target, Py_ssize_t classes, object ignored,
                              cnp.ndarray weight) except? -1:
    """The weight of the targets that count, or how many they are."""
    cdef Count count
    cdef Py_ssize_t shape[MAX_DIMS]
    cdef Py_ssize_t strides[MAX_DIMS]
    count.classes = classes
    count.fits = INT64_MIN <= ignored < INT64_MAX
    count.ignore = ignored if count.fits else 0
    count.weight = NULL if weight is None else <double *> cnp.PyArray_DATA(weight)
    count.valid = True
    count.unweighted = count.unheard = 0
    count.total = count.lost = 0
    if cnp.PyArray_SIZE(target):
        count_views(storage_of(target.dtype), merged(target, shape, strides), shape, strides,
                    <const char *> cnp.PyArray_DATA(target), &count)
    if not count.valid:
        error = _advice.no_class(target, classes, ignored)
        if error is not None:
            raise error
    if count.weight == NULL:
        return count.unweighted
    return count.total + count.lost if isfinite(count.lost) else count.total


cdef int merged(cnp.ndarray a, Py_ssize_t *shape, Py_ssize_t *strides) noexcept:
    """Shape and strides in the order of indices, with dimensions merged where one ends and the next one begins: how
    many are left, at least 1.
    """
    cdef int d, last = 0
    shape[0] = 1
    strides[0] = 0
    for d in range(a.ndim):
        if cnp.PyArray_DIM(a, d) == 1:
            continue
        if shape[last] != 1 and strides[last] != cnp.PyArray_DIM(a, d) * cnp.PyArray_STRIDE(a, d):
            last += 1
            shape[last] = 1
        shape[last] *= cnp.PyArray_DIM(a, d)
        strides[last] = cnp.PyArray_STRIDE(a, d)
    return last + 1


cdef int count_views(int storage, int ndim, const Py_ssize_t *shape, const Py_ssize_t *strides, const char *data,
                     Count *count) except -1:
    """Counts the targets at `data` of `ndim` dimensions, in the order of indices."""
    cdef Py_ssize_t i, part
    if ndim > 1:
        for i in range(shape[0]):
            count_views(storage, ndim - 1, shape + 1, strides + 1, data + i * strides[0], count)
        return 0
    for i from 0 <= i < shape[0] by LISTEN:
        part = min(shape[0] - i, LISTEN)
        count_run(storage, data + i * strides[0], strides[0], part, count)
        count.unheard += part
        if count.unheard >= LISTEN:
            count.unheard = 0
            PyErr_CheckSignals()
    return 0


cdef void count_run(int storage, const char *data, Py_ssize_t stride, Py_ssize_t n, Count *count) noexcept:
    """Counts targets at one stride: the types that most targets have are constants to the compiler."""
    if storage == CSM_I64:
        count_stored(CSM_I64, data, stride, n, count)
    elif storage == CSM_I32:
        count_stored(CSM_I32, data, stride, n, count)
    else:
        count_stored(storage, data, stride, n, count)


cdef inline void count_stored(const int storage, const char *data, Py_ssize_t stride, Py_ssize_t n,
                              Count *count) noexcept:
    cdef unsigned long long classes = count.classes
    cdef long long index, ignore = count.ignore
    cdef Py_ssize_t known = 0, ignored = 0, i
    cdef bint ignores_class = count.fits and <unsigned long long> ignore < classes
    cdef double total = count.total, lost = count.lost, error
    for i in range(n):
        index = load_index(storage, data + i * stride)
        known += <unsigned long long> index < classes
        ignored += index == ignore
    if not count.fits:
        ignored = 0
    count.unweighted += known - ignored if ignores_class else known
    if count.weight != NULL:
        for i in range(n):
            index = load_index(storage, data + i * stride)
            if <unsigned long long> index < classes and not (ignores_class and index == ignore):
                two_sum(total, count.weight[index], &total, &error)
                lost += error
        count.total, count.lost = total, lost
    if known + (0 if ignores_class else ignored) != n:
        count.valid = False
