"""What the arguments of a call are: arrays and their dtypes, axes, numbers, masks, and where results are written.

Each is checked here, and refused with an error that names what was given and what was wanted. The only place where an
array is ever copied, and only because it overlaps the result.
"""

import sys

import numpy as np
from numpy.exceptions import AxisError

cimport numpy as cnp
from cpython.number cimport PyNumber_Index
from libc.math cimport INFINITY, isfinite

from csoftmax.plan import errors as _advice

from csoftmax.runtime cimport core as _core

cnp.import_array()

cdef object FLOAT32 = np.dtype(np.float32)
cdef object FLOAT64 = np.dtype(np.float64)
DOUBLE_INTEGERS = 2**53           # a double holds every integer up to this modulus

cdef object shown = _advice.shown


# ------------------------------------------------------------------------------------------------- dtypes

cdef int storage_of_any(cnp.dtype d) except -2:
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
    elif size == 2 and (<object> d).type.__name__ == "bfloat16":
        storage = CSM_BF16
    if storage >= 0 and not cnp.PyArray_ISNBO(d.byteorder):
        storage += CSM_SWAPPED
    return storage


cdef bint is_masked(object a):
    # nobody has a masked array who has not imported numpy.ma, whose import would be slow
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


cpdef cnp.ndarray as_array(name, object a):
    """An ndarray of a dtype that the kernels know."""
    cdef cnp.ndarray array = to_array(name, a)
    if storage_of(array.dtype) < 0:
        raise _advice.refuse(name, a, array)
    return array


cdef object native(object dtype):
    """The dtype in this machine's byte order."""
    return dtype if dtype.isnative else dtype.newbyteorder("=")


cpdef object result_dtype(object given, object dtype):
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
    """The dimension that `one` names. An array of no dimensions is a row of one element."""
    cdef int dimensions = max(ndim, 1)
    if type(one) is not int:
        if not is_integer(one):
            raise TypeError(f"axis must be an integer, a tuple of integers or None, not {shown(axis)}")
        one = PyNumber_Index(one)
    if not -dimensions <= one < dimensions:
        raise AxisError(one, ndim)
    return one + dimensions if one < 0 else one


cdef bint is_integer(object value):
    """Is it an integer for NumPy too, which refuses a bool and an array of one element as an axis?"""
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
    """An int of any size."""
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
    """`where` as it is given, if it broadcasts to `a`, called `name`: `lay_out` broadcasts it."""
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


# ------------------------------------------------------------------------------------ memory, and its overlaps

cdef bint needs_exact_shift(cnp.ndarray a):
    """Are integers of `a` beyond 2^53, where not each is a double? Then the kernels subtract the maximum first."""
    cdef int kind = storage_of(a.dtype) & ~CSM_SWAPPED
    if kind != CSM_I64 and kind != CSM_U64:
        return False
    return a.max() > DOUBLE_INTEGERS or a.min() < -DOUBLE_INTEGERS


cdef bint overlap(cnp.ndarray a, cnp.ndarray b):
    return np.may_share_memory(a, b)


cdef bint same_memory(cnp.ndarray a, cnp.ndarray b):
    """Does each element of `a` lie where that of `b` does?"""
    cdef int d
    if (cnp.PyArray_DATA(a) != cnp.PyArray_DATA(b) or cnp.PyArray_NDIM(a) != cnp.PyArray_NDIM(b)
            or cnp.PyArray_ITEMSIZE(a) != cnp.PyArray_ITEMSIZE(b)):
        return False
    for d in range(cnp.PyArray_NDIM(a)):
        if cnp.PyArray_DIM(a, d) > 1 and cnp.PyArray_STRIDE(a, d) != cnp.PyArray_STRIDE(b, d):
            return False
    return True


cdef cnp.ndarray unspoiled(cnp.ndarray a, cnp.ndarray out, bint in_place):
    """`a`, or a copy of it where writing `out` would change what is still to be read. `in_place`: `out` may be `a`."""
    if not overlap(a, out) or (in_place and same_memory(a, out)):
        return a
    return a.copy(order="K")


cpdef cnp.ndarray check_out(object out, tuple shape, object dtype):
    """`out`, if the result can be written to it."""
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


cdef tuple tuple_shape(cnp.ndarray a):
    return (<object> a).shape


# ------------------------------------------------------------------------------------------- for plain Python

def reduced_axes(object axis, int ndim):
    """The dimensions that `axis` names, in ascending order."""
    cdef Axes axes
    cdef int d
    find_axes(axis, ndim, &axes)
    return [d for d in range(ndim) if axes.reduced[d]]


def default_mode():
    """Sets the processor's default floating-point mode until what is returned is forgotten."""
    return _core.default_mode()
