"""From Python arguments to a job: checks them, finds axes, types and memory order, makes the result, and decides
how the kernels walk. The only place where an array is ever copied, and only because it overlaps the result.
"""

import math
import sys

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

cimport numpy as cnp
from cpython.exc cimport PyErr_CheckSignals
from libc.math cimport isfinite
from libc.stdint cimport INT64_MIN

from csoftmax cimport _core
from csoftmax._job cimport (
    COLUMNS, CROSS_ENTROPY, CROSS_ENTROPY_GRAD, LOG_SOFTMAX, LOG_SOFTMAX_JVP, LOG_SOFTMAX_VJP, LOGSUMEXP, ROWS,
    SOFTMAX, SOFTMAX_GRAD, Job, Operand, loss_chunk,
)
from csoftmax._walk cimport find_walk, streams

cnp.import_array()

cdef extern from "csoftmax/_storage.h":
    enum:
        CSM_F16, CSM_BF16, CSM_F32, CSM_F64, CSM_B1, CSM_I8, CSM_U8, CSM_I16, CSM_U16, CSM_I32, CSM_U32, CSM_I64
        CSM_U64, CSM_SWAPPED
    long long load_index "csm_load_index"(int, const char *) nogil

cdef enum:
    TILE_BYTES = 262144           # of a tile of columns that is copied to scratch
    LISTEN = 1048576              # targets that are checked before Ctrl-C is heard

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

INSTEAD = {
    "g": "convert it to float64 first: x.astype(np.float64)",
    "c": "a softmax of complex numbers is not defined; take the real part or the modulus first",
    "O": "convert it to a float dtype first: x.astype(np.float64)",
    "U": "convert strings to numbers first: x.astype(np.float64)",
    "S": "convert strings to numbers first: x.astype(np.float64)",
    "T": "convert strings to numbers first: x.astype(np.float64)",
    "M": "convert it to numbers first: x.view(np.int64)",
    "m": "convert it to numbers first: x.view(np.int64)",
    "V": "take one of its numeric fields, or convert it to a float dtype",
}


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


cdef object refuse(name, object dtype):
    kind = "g" if dtype.kind == "f" else dtype.kind
    advice = INSTEAD.get(kind, "convert it to a float dtype first: x.astype(np.float64)")
    return TypeError(f"{name} has dtype {dtype}, which csoftmax does not take; {advice}")


cdef bint is_masked(object a):
    # nobody has a masked array who has not imported numpy.ma, and that takes a while
    ma = sys.modules.get("numpy.ma")
    return ma is not None and isinstance(a, ma.MaskedArray)


cdef cnp.ndarray as_array(name, object a):
    """An ndarray of a dtype that the kernels know, without a copy wherever `a` lends its memory."""
    if is_masked(a):
        raise TypeError(f"{name} is a masked array, which csoftmax does not take; "
                        "pass its data, and where=~x.mask to the functions that have it")
    cdef cnp.ndarray array = np.asarray(a)
    if storage_of(array.dtype) < 0:
        raise refuse(name, array.dtype)
    return array


cdef object native(object dtype):
    return dtype if dtype.isnative else dtype.newbyteorder("=")


cdef object result_dtype(object given, object dtype):
    """The dtype of the result: as asked for, else floats stay and all else becomes float64."""
    if dtype is None:
        return native(given) if is_float(storage_of(given)) else FLOAT64
    wanted = np.dtype(dtype)
    if not is_float(storage_of(wanted)):
        raise TypeError(f"dtype must be float16, bfloat16, float32 or float64, not {wanted}")
    return wanted


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

cdef tuple normalize_axes(object axis, int ndim):
    if axis is None:
        return tuple(range(ndim))
    if ndim == 0:
        # a 0-d array is a row of one element
        if axis not in (0, -1, (), (0,), (-1,)):
            normalize_axis_tuple(axis, 0)
        return ()
    return normalize_axis_tuple(axis, ndim)


cdef double check_temperature(object temperature) except -1:
    cdef double t
    if isinstance(temperature, (str, bytes)):
        raise TypeError(f"temperature must be a number, not {type(temperature).__name__}")
    t = float(temperature)
    if not (isfinite(t) and t > 0):
        raise ValueError(f"temperature must be positive and finite, not {temperature!r}")
    # the reciprocal of anything smaller would overflow
    return t if t > 1e-307 else 1e-307


# ----------------------------------------------------------------------------------------------- operands

cdef int set_operand(Operand *o, cnp.ndarray a) except -1:
    o.data = <char *> cnp.PyArray_DATA(a)
    o.storage = storage_of(a.dtype)
    return 0


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
    if not isinstance(out, np.ndarray) or is_masked(out):
        raise TypeError(f"out must be an ndarray, not {type(out).__name__}")
    if out.shape != shape:
        raise ValueError(f"out has shape {out.shape}, but the result has shape {shape}")
    if native(out.dtype) != native(dtype):
        raise TypeError(f"out has dtype {out.dtype}, but the result has dtype {dtype}")
    if not out.flags.writeable:
        raise ValueError("out is read-only, but the result is to be written to it")
    return out


cdef cnp.ndarray like(cnp.ndarray a, object dtype):
    return np.empty_like(a, dtype=dtype, order="K", subok=False)


cdef cnp.ndarray reduced(cnp.ndarray y, tuple shape, tuple axes):
    """`y` with the reduced axes put back at length 1."""
    return y if y.ndim == len(shape) else np.expand_dims(y, axes)


# -------------------------------------------------------------------------------------------- memory walk

cdef int lay_out(Job *job, tuple shape, tuple axes, list operands) except -1:
    """Dimensions and strides of the job. `operands`: for x, p, y, mask (target, upstream, row_loss) an array or
    None; one without the reduced axes has length 1 there. Batch dimensions go from the largest stride to the smallest and are merged where all
    operands allow; reduced ones keep their order, since the order of a sum decides its last bits.
    """
    cdef Operand *into[7]
    cdef int d, k, ndim = len(shape), count = len(operands)
    cdef Py_ssize_t size
    into[0] = &job.x
    into[1] = &job.p
    into[2] = &job.y
    into[3] = &job.mask
    into[4] = &job.target
    into[5] = &job.upstream
    into[6] = &job.row_loss
    strides = [None] * count
    for k in range(count):
        into[k].data = NULL
        if operands[k] is not None:
            set_operand(into[k], operands[k])
            strides[k] = operands[k].strides
    lead = 2 if operands[2] is not None and job.operation != LOGSUMEXP else 0
    batch = sorted((d for d in range(ndim) if d not in axes and shape[d] > 1),
                   key=lambda d: (-abs(strides[lead][d]), -abs(strides[0][d])))
    job.n = job.rows = 1
    job.batch_ndim = job.axis_ndim = 0
    for d in batch:
        size = shape[d]
        job.rows *= size
        add_dimension(into, strides, count, d, size, &job.batch_ndim, job.batch_shape, True)
    for d in sorted(axes):
        size = shape[d]
        job.n *= size
        if size > 1:
            add_dimension(into, strides, count, d, size, &job.axis_ndim, job.axis_shape, False)
    if job.axis_ndim == 0:
        job.axis_ndim = 1
        job.axis_shape[0] = 1
        for k in range(count):
            into[k].axis[0] = 0 if operands[k] is None else operands[k].itemsize
    return 0


cdef int add_dimension(Operand **into, list strides, int count, int d, Py_ssize_t size, int *ndim, Py_ssize_t *shape,
                       bint batch) except -1:
    cdef int k, last = ndim[0] - 1
    cdef bint merge = last >= 0
    cdef Py_ssize_t *s
    for k in range(count):
        if into[k].data != NULL and merge:
            s = &into[k].batch[0] if batch else &into[k].axis[0]
            if s[last] != size * <Py_ssize_t> strides[k][d]:
                merge = False
    if merge:
        shape[last] *= size
    else:
        last += 1
        ndim[0] += 1
        shape[last] = size
    for k in range(count):
        if into[k].data != NULL:
            s = &into[k].batch[0] if batch else &into[k].axis[0]
            s[last] = strides[k][d]
    return 0


# --------------------------------------------------------------------------------------------- operations

cdef bint plain(object a, int *number) noexcept:
    """An exact, native, aligned, C-contiguous float32 or float64 ndarray, whose last axis is worth walking along."""
    if not cnp.PyArray_CheckExact(a):
        return False
    number[0] = cnp.PyArray_TYPE(<cnp.ndarray> a)
    return ((number[0] == cnp.NPY_FLOAT32 or number[0] == cnp.NPY_FLOAT64)
            and cnp.PyArray_ISCARRAY_RO(<cnp.ndarray> a) and cnp.PyArray_NDIM(<cnp.ndarray> a) > 0
            and cnp.PyArray_SIZE(<cnp.ndarray> a) > 0
            and cnp.PyArray_DIM(<cnp.ndarray> a, cnp.PyArray_NDIM(<cnp.ndarray> a) - 1) > 1)


cdef void plain_job(Job *job, int operation, cnp.ndarray x, cnp.ndarray p, cnp.ndarray y, double temperature,
                    Py_ssize_t size) noexcept:
    """Rows of plain arrays: nothing to find out."""
    cdef int ndim = cnp.PyArray_NDIM(x)
    job.operation = operation
    job.walk = ROWS
    job.direct = True
    job.temperature = temperature
    job.n = cnp.PyArray_DIM(x, ndim - 1)
    job.rows = job.units = cnp.PyArray_SIZE(x) // job.n
    job.width = 1
    job.axis_ndim = job.batch_ndim = 1
    job.axis_shape[0] = job.n
    job.batch_shape[0] = job.rows
    job.mask.data = NULL
    plain_operand(&job.x, x, job.n, size)
    plain_operand(&job.y, y, 1 if operation == LOGSUMEXP else job.n, size)
    if p is None:
        job.p.data = NULL
    else:
        plain_operand(&job.p, p, job.n, size)
    job.stream = operation != LOGSUMEXP and streams(job.rows * job.n * size)


cdef inline void plain_operand(Operand *o, cnp.ndarray a, Py_ssize_t n, Py_ssize_t size) noexcept:
    o.data = <char *> cnp.PyArray_DATA(a)
    o.storage = CSM_F64 if size == 8 else CSM_F32
    o.axis[0] = size
    o.batch[0] = n * size


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


cdef inline double plain_temperature(object temperature) noexcept:
    """`temperature` if it is an ordinary float, else 0."""
    cdef double t
    if type(temperature) is float:
        t = temperature
        if 1e-30 < t < 1e30:
            return t
    return 0


def forward(int operation, x, axis, temperature, where, out, dtype):
    """softmax or log_softmax."""
    cdef Job job
    cdef cnp.ndarray a, y, mask = None
    cdef int number
    cdef bint wide
    cdef double t = plain_temperature(temperature)
    if (t > 0 and where is None and dtype is None and last_axis(axis, x) and plain(x, &number)
            and (out is None or plain_out(out, x, number))):
        a = x
        if out is None:
            y = cnp.PyArray_EMPTY(cnp.PyArray_NDIM(a), cnp.PyArray_DIMS(a), number, 0)
        else:
            y = out
        plain_job(&job, operation, a, None, y, t, 8 if number == cnp.NPY_FLOAT64 else 4)
        _core.run(&job, number == cnp.NPY_FLOAT64)
        return y
    a = as_array("x", x)
    t = check_temperature(temperature)
    axes = normalize_axes(axis, a.ndim)
    result = result_dtype(a.dtype, dtype)
    if where is not None:
        mask = as_mask(where, a)
    if out is None:
        y = like(a, result)
    else:
        y = check_out(out, tuple_shape(a), result)
        a = apart(a, y, True)
        if mask is not None:
            mask = apart(mask, y, False)
    if a.size == 0:
        return y
    wide = is_wide(a.dtype) or is_wide(result) or not 1e-30 < t < 1e30
    job.operation = operation
    job.temperature = t
    lay_out(&job, tuple_shape(a), axes, [a, None, y, mask])
    find_walk(&job, wide, _core.effective_threads(), TILE_BYTES)
    _core.run(&job, wide)
    return y


def logsumexp(x, axis, where, keepdims, out, dtype):
    """log of the sum of exponentials over `axis`."""
    cdef Job job
    cdef cnp.ndarray a, y, mask = None
    cdef int number
    cdef bint wide
    if (where is None and not keepdims and out is None and dtype is None and last_axis(axis, x)
            and plain(x, &number)):
        a = x
        y = cnp.PyArray_EMPTY(cnp.PyArray_NDIM(a) - 1, cnp.PyArray_DIMS(a), number, 0)
        plain_job(&job, LOGSUMEXP, a, None, y, 1, 8 if number == cnp.NPY_FLOAT64 else 4)
        _core.run(&job, number == cnp.NPY_FLOAT64)
        return y if y.ndim else y[()]
    a = as_array("x", x)
    axes = normalize_axes(axis, a.ndim)
    result = result_dtype(a.dtype, dtype)
    if where is not None:
        mask = as_mask(where, a)
    if keepdims:
        shape = tuple([1 if d in axes else a.shape[d] for d in range(a.ndim)])
    else:
        shape = tuple([a.shape[d] for d in range(a.ndim) if d not in axes])
    if out is None:
        # of the input's memory order
        y = like(a[(*[slice(0, 1) if d in axes else slice(None) for d in range(a.ndim)], ...)], result)
        if tuple_shape(y) != shape:
            y = y.squeeze(axes) if a.size else np.empty(shape, result)
    else:
        y = check_out(out, shape, result)
        a = apart(a, y, False)
        if mask is not None:
            mask = apart(mask, y, False)
    if a.size == 0:
        y[...] = -np.inf
    else:
        wide = is_wide(a.dtype) or is_wide(result)
        job.operation = LOGSUMEXP
        job.temperature = 1
        lay_out(&job, tuple_shape(a), axes, [a, None, reduced(y, tuple_shape(a), axes), mask])
        find_walk(&job, wide, _core.effective_threads(), TILE_BYTES)
        _core.run(&job, wide)
    return y if out is not None or y.ndim else y[()]


def backward(int operation, v, output, axis, temperature, out, name):
    """The product of a Jacobian and `v`, called `name`, from the forward's `output`."""
    cdef Job job
    cdef cnp.ndarray g, p, y
    cdef int number, other
    cdef bint wide
    cdef double t = plain_temperature(temperature)
    if (t > 0 and last_axis(axis, v) and plain(v, &number) and plain(output, &other) and number == other
            and same_shape(v, output)
            and (out is None or (plain_out(out, v, number) and (out is output or not plain_overlap(out, output))))):
        g = v
        if out is None:
            y = cnp.PyArray_EMPTY(cnp.PyArray_NDIM(g), cnp.PyArray_DIMS(g), number, 0)
        else:
            y = out
        plain_job(&job, operation, g, output, y, t, 8 if number == cnp.NPY_FLOAT64 else 4)
        _core.run(&job, number == cnp.NPY_FLOAT64)
        return y
    g = as_array(name, v)
    p = as_array("output", output)
    t = check_temperature(temperature)
    if tuple_shape(g) != tuple_shape(p):
        raise ValueError(f"{name} has shape {tuple_shape(g)}, but output has shape {tuple_shape(p)}")
    axes = normalize_axes(axis, p.ndim)
    result = promote(g.dtype, p.dtype)
    if out is None:
        y = like(p, result)
    else:
        y = check_out(out, tuple_shape(p), result)
        g = apart(g, y, True)
        p = apart(p, y, True)
    if p.size == 0:
        return y
    wide = is_wide(result) or not 1e-30 < t < 1e30
    job.operation = operation
    job.temperature = t
    lay_out(&job, tuple_shape(p), axes, [g, p, y, None])
    find_walk(&job, wide, _core.effective_threads(), TILE_BYTES)
    _core.run(&job, wide)
    return y


def cross_entropy(logits, target, axis, weight, ignore_index, label_smoothing, reduction, grad_output, out, bint grad):
    """The loss, and with `grad` its gradient too, as a pair."""
    cdef Job job
    cdef cnp.ndarray a = as_array("logits", logits), t, y = None, per_row = None, upstream = None, w = None, partial
    cdef double counted, smoothing = check_smoothing(label_smoothing)
    cdef bint indices, wide
    if isinstance(axis, (tuple, list)) or axis is None:
        raise TypeError(f"axis must be an integer: the class axis of the logits, not {axis!r}")
    if a.ndim == 0:
        raise ValueError("logits must have a class axis, but are 0-d")
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"reduction must be 'none', 'mean' or 'sum', not {reduction!r}")
    axes = normalize_axes(axis, a.ndim)
    cdef int class_axis = axes[0]
    shape = tuple_shape(a)
    classes = shape[class_axis]
    rest = shape[:class_axis] + shape[class_axis + 1:]
    t = as_array("target", target)
    indices = not is_float(storage_of(t.dtype))
    if t.dtype == bool:
        raise TypeError("target must be integer class indices or float probabilities, not bool")
    if tuple_shape(t) != (rest if indices else shape):
        raise ValueError(f"target has shape {tuple_shape(t)}, but "
                         + (f"class indices need the logits' shape without the class axis, {rest}" if indices
                            else f"class probabilities need the logits' shape, {shape}"))
    if weight is not None:
        w = np.ascontiguousarray(as_array("weight", weight), dtype=np.float64)
        if tuple_shape(w) != (classes,):
            raise ValueError(f"weight has shape {tuple_shape(w)}, but there are {classes} classes")
    ignored = operator_index("ignore_index", ignore_index)
    counted = check_indices(t, classes, ignored, w) if indices else <double> t.size / max(classes, 1)
    result = result_dtype(a.dtype, None)
    loss_dtype = FLOAT64 if is_wide(a.dtype) else FLOAT32
    if grad:
        upstream = as_upstream(grad_output, rest if reduction == "none" else ())
        y = like(a, result) if out is None else check_out(out, shape, result)
        if out is not None:
            a = apart(a, y, True)
            t = apart(t, y, False)
            if upstream is not None:
                upstream = apart(upstream, y, False)
    if reduction == "none":
        per_row = np.zeros(rest, loss_dtype)
    if a.size == 0:
        loss = per_row if reduction == "none" else loss_dtype.type(0 if reduction == "sum" else np.nan)
        return (loss, y) if grad else loss
    wide = is_wide(a.dtype)
    job.operation = CROSS_ENTROPY_GRAD if grad else CROSS_ENTROPY
    job.temperature = 1
    job.loss.indices = indices
    job.loss.smoothing = smoothing
    job.loss.ignore_index = representable(ignored)
    job.loss.weight = NULL if w is None else <double *> cnp.PyArray_DATA(w)
    job.loss.scale = 1 / counted if reduction == "mean" and counted != 0 else 1
    lay_out(&job, shape, axes, [
        a, None, y, None,
        np.expand_dims(t, class_axis) if indices else t,
        None if upstream is None else np.expand_dims(np.broadcast_to(upstream, rest), class_axis),
        None if per_row is None else np.expand_dims(per_row, class_axis),
    ])
    find_walk(&job, wide, _core.effective_threads(), TILE_BYTES)
    parts = job.units if job.walk == COLUMNS else (job.rows + loss_chunk(job.n) - 1) // loss_chunk(job.n)
    partial = np.zeros(0 if reduction == "none" else parts)
    job.partial = <double *> cnp.PyArray_DATA(partial)
    _core.run(&job, wide)
    if reduction == "none":
        loss = per_row if per_row.ndim else per_row[()]
    else:
        total = float(partial.sum())
        if reduction == "mean":
            total = total / counted if counted != 0 else np.nan
        loss = loss_dtype.type(total)
    return (loss, y) if grad else loss


cdef double check_smoothing(object smoothing) except -1:
    cdef double s = float(smoothing)
    if not 0 <= s <= 1:
        raise ValueError(f"label_smoothing must be from 0 to 1, not {smoothing!r}")
    return s


cdef object operator_index(name, object value):
    if not hasattr(type(value), "__index__"):
        raise TypeError(f"{name} must be an integer, not {type(value).__name__}")
    return value.__index__()


cdef cnp.ndarray as_upstream(object grad_output, tuple shape):
    if grad_output is None:
        return None
    upstream = as_array("grad_output", grad_output).astype(np.float64)
    if tuple_shape(upstream) != shape:
        raise ValueError(f"grad_output has shape {tuple_shape(upstream)}, but the loss has shape {shape}")
    return upstream


cdef long long representable(object index) except? -1:
    """An ignore_index that no target can have becomes one that none has."""
    return index if -2 ** 63 <= index < 2 ** 63 else INT64_MIN


cdef double check_indices(cnp.ndarray target, object classes, object ignored, cnp.ndarray weight) except? -1:
    """The weight of the targets that count; `IndexError` for the first that is neither a class nor ignored."""
    cdef Py_ssize_t count = classes, i, inner, stride
    cdef long long index, ignore = representable(ignored)
    cdef double total = 0
    cdef double *w = NULL if weight is None else <double *> cnp.PyArray_DATA(weight)
    cdef int storage = storage_of(target.dtype)
    cdef cnp.flatiter walk = cnp.PyArray_IterNew(target)
    cdef const char *p
    if target.ndim <= 1:
        inner = target.size
        stride = target.strides[0] if target.ndim else 0
    else:
        inner = 0
        stride = 0
    p = <const char *> cnp.PyArray_DATA(target)
    for i in range(target.size):
        if i % LISTEN == LISTEN - 1:
            PyErr_CheckSignals()
        if not inner:
            p = <const char *> cnp.PyArray_ITER_DATA(walk)
        index = load_index(storage, p)
        if index != ignore:
            if not 0 <= index < count:
                where = np.unravel_index(i, tuple_shape(target))
                raise IndexError(f"target{list(map(int, where))} is {target.flat[i]}, which is not a class index from 0 to "
                                 f"{count - 1} nor ignore_index ({ignored})")
            total += 1 if w == NULL else w[index]
        if inner:
            p += stride
        else:
            cnp.PyArray_ITER_NEXT(walk)
    return total


def jacobian(output, axis, out):
    """diag(p) - p p^T of each row of `output`, in two trailing axes."""
    cdef cnp.ndarray p = as_array("output", output), y, rows
    axes = normalize_axes(axis, p.ndim)
    result = result_dtype(p.dtype, None)
    rest = [d for d in range(p.ndim) if d not in axes]
    batch = tuple([p.shape[d] for d in rest])
    n = math.prod([p.shape[d] for d in axes])
    rows = np.ascontiguousarray(p.transpose(rest + sorted(axes))).reshape(batch + (n,))
    rows = rows.astype(FLOAT64 if is_wide(result) else FLOAT32, copy=False)
    shape = batch + (n, n)
    y = np.empty(shape, result) if out is None else check_out(out, shape, result)
    if overlap(rows, y):
        rows = rows.copy()
    np.multiply(-rows[..., :, None], rows[..., None, :], out=y, casting="same_kind")
    np.einsum("...ii->...i", y)[...] = rows * (1 - rows)
    return y


cdef tuple tuple_shape(cnp.ndarray a):
    return (<object> a).shape


cdef cnp.ndarray as_mask(object where, cnp.ndarray a):
    mask = np.asarray(where)
    if mask.dtype != bool:
        raise TypeError(f"where must be boolean, not {mask.dtype}")
    try:
        return np.broadcast_to(mask, tuple_shape(a))
    except ValueError:
        raise ValueError(f"where has shape {mask.shape}, which does not broadcast to x's {tuple_shape(a)}") from None
