# The arguments of a call, for the modules that make problems of them.

cimport numpy as cnp

from csoftmax.kernels.problem cimport MAX_DIMS

cdef extern from "csoftmax/simd/storage.h":
    enum:
        CSM_F16, CSM_BF16, CSM_F32, CSM_F64, CSM_B1, CSM_I8, CSM_U8, CSM_I16, CSM_U16, CSM_I32, CSM_U32, CSM_I64
        CSM_U64, CSM_SWAPPED

cdef struct Axes:
    bint reduced[MAX_DIMS]        # by dimension: is it one of those that a row extends over?


# ------------------------------------------------------------------------------------------------- dtypes

cdef int storage_of_any(cnp.dtype dtype) except -2


cdef inline int storage_of(cnp.dtype dtype) except -2:
    """The kernels' code of a dtype, an enum csm_storage, or -1 for what they do not know."""
    if cnp.PyArray_ISNBO(dtype.byteorder):
        if dtype.type_num == cnp.NPY_FLOAT32:
            return CSM_F32
        if dtype.type_num == cnp.NPY_FLOAT64:
            return CSM_F64
    return storage_of_any(dtype)


cdef inline bint is_float(int storage) noexcept:
    return storage >= 0 and (storage & ~CSM_SWAPPED) <= CSM_F64


cdef inline bint is_wide(cnp.dtype dtype) except -1:
    """Is the arithmetic that of float64? It is float32 for narrower floats alone."""
    cdef int storage = storage_of(dtype)
    return not is_float(storage) or (storage & ~CSM_SWAPPED) == CSM_F64


cpdef cnp.ndarray as_array(name, object a)
cdef object native(object dtype)
cpdef object result_dtype(object given, object dtype)
cdef object promote(object a, object b)


# --------------------------------------------------------------------------------------------------- axes

cdef int find_axes(object axis, int ndim, Axes *axes) except -1
cdef int find_axis(object one, object axis, int ndim) except -1
cdef bint is_integer(object value)


# ---------------------------------------------------------------------------------------- other arguments

cdef double as_number(name, object value) except? -1
cdef object as_integer(name, object value)
cdef double check_temperature(object temperature) except -1
cdef bint check_keepdims(object keepdims) except -1
cdef cnp.ndarray as_mask(object where, cnp.ndarray a, name)


# ------------------------------------------------------------------------------------------- memory and shapes

cdef bint needs_exact_shift(cnp.ndarray a)
cdef cnp.ndarray unspoiled(cnp.ndarray a, cnp.ndarray out, bint in_place)
cpdef cnp.ndarray check_out(object out, tuple shape, object dtype)
cdef tuple tuple_shape(cnp.ndarray a)


cdef inline bint same_shape(cnp.ndarray a, cnp.ndarray b) noexcept:
    cdef int d
    if cnp.PyArray_NDIM(a) != cnp.PyArray_NDIM(b):
        return False
    for d in range(cnp.PyArray_NDIM(a)):
        if cnp.PyArray_DIM(a, d) != cnp.PyArray_DIM(b, d):
            return False
    return True
