# cython: language_level=3
"""Another package's Cython module on csoftmax: compiled and run by test_capi.py, shown in docs/interop/c.md.

Bounds are checked, as Cython does by default: the functions of memview do not depend on the directives of who calls.
"""

from csoftmax cimport CSM_OK, memview


def log_softmax(const double[:, :] x, double[:, :] out):
    """log_softmax of the rows of x into out: arrays of any strides, and no GIL."""
    cdef int status
    with nogil:
        status = memview.log_softmax(x, out)
    if status != CSM_OK:
        raise ValueError(f"csoftmax returned {status}")


# --------------------------------------------------------------------- memview: each function returns its status

from cython cimport floating
from libc.stdint cimport int64_t


def view_softmax(const floating[:, :] x, floating[:, :] out, double temperature):
    cdef int status
    with nogil:
        status = memview.softmax(x, out, temperature)
    return status


def view_log_softmax(const floating[:, :] x, floating[:, :] out, double temperature):
    cdef int status
    with nogil:
        status = memview.log_softmax(x, out, temperature)
    return status


def view_logsumexp(const floating[:, :] x, floating[:] out):
    cdef int status
    with nogil:
        status = memview.logsumexp(x, out)
    return status


def view_softmax_backward(const floating[:, :] g, const floating[:, :] p, floating[:, :] out, double temperature):
    cdef int status
    with nogil:
        status = memview.softmax_backward(g, p, out, temperature)
    return status


def view_log_softmax_backward(const floating[:, :] g, const floating[:, :] p, floating[:, :] out, double temperature):
    cdef int status
    with nogil:
        status = memview.log_softmax_backward(g, p, out, temperature)
    return status


def view_softmax_jvp(const floating[:, :] v, const floating[:, :] p, floating[:, :] out, double temperature):
    cdef int status
    with nogil:
        status = memview.softmax_jvp(v, p, out, temperature)
    return status


def view_log_softmax_jvp(const floating[:, :] v, const floating[:, :] p, floating[:, :] out, double temperature):
    cdef int status
    with nogil:
        status = memview.log_softmax_jvp(v, p, out, temperature)
    return status


def view_cross_entropy(const floating[:, :] x, const int64_t[:] target, floating[:] loss, int64_t ignore_index):
    cdef int status
    with nogil:
        status = memview.cross_entropy(x, target, loss, ignore_index)
    return status


def view_cross_entropy_with_grad(const floating[:, :] x, const int64_t[:] target, floating[:] loss,
                                 floating[:, :] grad, int64_t ignore_index, double scale):
    cdef int status
    with nogil:
        status = memview.cross_entropy_with_grad(x, target, loss, grad, ignore_index, scale)
    return status


def view_defaults(const double[:, :] x, const int64_t[:] target, double[:] loss, double[:, :] grad, double[:, :] p,
                  double[:, :] log_p, double[:, :] dp, double[:, :] dlog_p, double[:, :] along):
    """The statuses of calls without the arguments that have defaults."""
    return (memview.softmax(x, p), memview.log_softmax(x, log_p), memview.softmax_backward(x, x, dp),
            memview.log_softmax_backward(x, x, dlog_p), memview.log_softmax_jvp(x, x, along),
            memview.cross_entropy(x, target, loss), memview.cross_entropy_with_grad(x, target, loss, grad))


# -------------------------------------------------------------------------------------------- pointers and strides

from csoftmax cimport csm_bf16, csm_f16, softmax_bf16, softmax_f16

cimport csoftmax


def softmax_half(const csm_f16[:, ::1] x, csm_f16[:, ::1] out):
    """softmax of the rows of x, bits of float16."""
    return softmax_f16(x.shape[0], x.shape[1], &x[0, 0], x.shape[1], 1, &out[0, 0], x.shape[1], 1, 1)


def softmax_brain(const csm_bf16[:, ::1] x, csm_bf16[:, ::1] out):
    """softmax of the rows of x, bits of bfloat16."""
    return softmax_bf16(x.shape[0], x.shape[1], &x[0, 0], x.shape[1], 1, &out[0, 0], x.shape[1], 1, 1)


def addresses():
    """Where every function is that can be cimported; importing this module has compared their signatures."""
    # tools/capi.py writes from here
    return {
        "softmax_f32": <size_t> csoftmax.softmax_f32,
        "log_softmax_f32": <size_t> csoftmax.log_softmax_f32,
        "logsumexp_f32": <size_t> csoftmax.logsumexp_f32,
        "softmax_backward_f32": <size_t> csoftmax.softmax_backward_f32,
        "log_softmax_backward_f32": <size_t> csoftmax.log_softmax_backward_f32,
        "cross_entropy_f32": <size_t> csoftmax.cross_entropy_f32,
        "cross_entropy_with_grad_f32": <size_t> csoftmax.cross_entropy_with_grad_f32,
        "softmax_f64": <size_t> csoftmax.softmax_f64,
        "log_softmax_f64": <size_t> csoftmax.log_softmax_f64,
        "logsumexp_f64": <size_t> csoftmax.logsumexp_f64,
        "softmax_backward_f64": <size_t> csoftmax.softmax_backward_f64,
        "log_softmax_backward_f64": <size_t> csoftmax.log_softmax_backward_f64,
        "cross_entropy_f64": <size_t> csoftmax.cross_entropy_f64,
        "cross_entropy_with_grad_f64": <size_t> csoftmax.cross_entropy_with_grad_f64,
        "softmax_f16": <size_t> csoftmax.softmax_f16,
        "log_softmax_f16": <size_t> csoftmax.log_softmax_f16,
        "logsumexp_f16": <size_t> csoftmax.logsumexp_f16,
        "softmax_backward_f16": <size_t> csoftmax.softmax_backward_f16,
        "log_softmax_backward_f16": <size_t> csoftmax.log_softmax_backward_f16,
        "cross_entropy_f16": <size_t> csoftmax.cross_entropy_f16,
        "cross_entropy_with_grad_f16": <size_t> csoftmax.cross_entropy_with_grad_f16,
        "softmax_bf16": <size_t> csoftmax.softmax_bf16,
        "log_softmax_bf16": <size_t> csoftmax.log_softmax_bf16,
        "logsumexp_bf16": <size_t> csoftmax.logsumexp_bf16,
        "softmax_backward_bf16": <size_t> csoftmax.softmax_backward_bf16,
        "log_softmax_backward_bf16": <size_t> csoftmax.log_softmax_backward_bf16,
        "cross_entropy_bf16": <size_t> csoftmax.cross_entropy_bf16,
        "cross_entropy_with_grad_bf16": <size_t> csoftmax.cross_entropy_with_grad_bf16,
        "log_softmax_jvp_f32": <size_t> csoftmax.log_softmax_jvp_f32,
        "log_softmax_jvp_f64": <size_t> csoftmax.log_softmax_jvp_f64,
        "log_softmax_jvp_f16": <size_t> csoftmax.log_softmax_jvp_f16,
        "log_softmax_jvp_bf16": <size_t> csoftmax.log_softmax_jvp_bf16,
    }
    # tools/capi.py writes to here
