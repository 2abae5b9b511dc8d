# cython: language_level=3, boundscheck=False, wraparound=False
"""Another package's Cython module on csoftmax: compiled and run by test_capi.py, shown in docs/interop/c.md."""

from csoftmax cimport CSM_OK, log_softmax_f64


def log_softmax(const double[:, :] x, double[:, :] out):
    """log_softmax of the rows of x into out: arrays of any strides, and no GIL."""
    cdef int status
    with nogil:
        status = log_softmax_f64(
            x.shape[0], x.shape[1], &x[0, 0], x.strides[0] // 8, x.strides[1] // 8,
            &out[0, 0], out.strides[0] // 8, out.strides[1] // 8, 1.0)
    if status != CSM_OK:
        raise ValueError(f"csoftmax returned {status}")


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
    }
