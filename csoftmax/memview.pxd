# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""The softmax family on typed memoryviews, for Cython modules: `from csoftmax cimport memview`.

The functions need no GIL and never raise. They work along the rows of two-dimensional views of float or double, of any
strides (negative ones, 0, and those that are no whole elements too), and write results into views that they are given.
These may be the very memory of an input, with the same strides; no other overlap is allowed. The bits are those of the
Python functions. What they return is the status of csoftmax.h: CSM_OK, or, with nothing written, CSM_BAD_SHAPE where
the shapes of the views do not fit, CSM_BAD_TEMPERATURE, CSM_BAD_TARGET or CSM_NO_MEMORY.
"""

from cython cimport floating
from libc.stdint cimport int64_t

from csoftmax._capi cimport (
    CSM_BAD_SHAPE, memview_cross_entropy, memview_cross_entropy_with_grad, memview_log_softmax,
    memview_log_softmax_backward, memview_log_softmax_jvp, memview_logsumexp, memview_softmax, memview_softmax_backward,
)


# tools/capi.py writes from here
cdef inline int softmax(const floating[:, :] x, floating[:, :] out, double temperature=1.0) noexcept nogil:
    """Writes the softmax of each row of x / temperature."""
    if out.shape[0] != x.shape[0] or out.shape[1] != x.shape[1]:
        return CSM_BAD_SHAPE
    return memview_softmax(
        sizeof(floating), x.shape[0], x.shape[1], &x[0, 0], x.strides[0], x.strides[1], &out[0, 0], out.strides[0],
        out.strides[1], temperature)


cdef inline int log_softmax(const floating[:, :] x, floating[:, :] out, double temperature=1.0) noexcept nogil:
    """Writes the logarithm of the softmax of each row of x / temperature."""
    if out.shape[0] != x.shape[0] or out.shape[1] != x.shape[1]:
        return CSM_BAD_SHAPE
    return memview_log_softmax(
        sizeof(floating), x.shape[0], x.shape[1], &x[0, 0], x.strides[0], x.strides[1], &out[0, 0], out.strides[0],
        out.strides[1], temperature)


cdef inline int logsumexp(const floating[:, :] x, floating[:] out) noexcept nogil:
    """Writes the logarithm of the sum of exponentials of each row; -inf where rows have no elements."""
    if out.shape[0] != x.shape[0]:
        return CSM_BAD_SHAPE
    return memview_logsumexp(
        sizeof(floating), x.shape[0], x.shape[1], &x[0, 0], x.strides[0], x.strides[1], &out[0], out.strides[0])


cdef inline int softmax_backward(
        const floating[:, :] grad_output, const floating[:, :] output, floating[:, :] grad_input,
        double temperature=1.0) noexcept nogil:
    """Writes the gradient with respect to x, from the softmax that was returned for the same temperature."""
    if (output.shape[0] != grad_output.shape[0] or output.shape[1] != grad_output.shape[1] or
            grad_input.shape[0] != grad_output.shape[0] or grad_input.shape[1] != grad_output.shape[1]):
        return CSM_BAD_SHAPE
    return memview_softmax_backward(
        sizeof(floating), grad_output.shape[0], grad_output.shape[1], &grad_output[0, 0], grad_output.strides[0],
        grad_output.strides[1], &output[0, 0], output.strides[0], output.strides[1], &grad_input[0, 0],
        grad_input.strides[0], grad_input.strides[1], temperature)


cdef inline int log_softmax_backward(
        const floating[:, :] grad_output, const floating[:, :] output, floating[:, :] grad_input,
        double temperature=1.0) noexcept nogil:
    """Writes the gradient with respect to x, from the log_softmax that was returned for the same temperature."""
    if (output.shape[0] != grad_output.shape[0] or output.shape[1] != grad_output.shape[1] or
            grad_input.shape[0] != grad_output.shape[0] or grad_input.shape[1] != grad_output.shape[1]):
        return CSM_BAD_SHAPE
    return memview_log_softmax_backward(
        sizeof(floating), grad_output.shape[0], grad_output.shape[1], &grad_output[0, 0], grad_output.strides[0],
        grad_output.strides[1], &output[0, 0], output.strides[0], output.strides[1], &grad_input[0, 0],
        grad_input.strides[0], grad_input.strides[1], temperature)


cdef inline int cross_entropy(
        const floating[:, :] logits, const int64_t[:] target, floating[:] loss,
        int64_t ignore_index=-100) noexcept nogil:
    """Writes one loss a row: 0 where the target is ignore_index."""
    if target.shape[0] != logits.shape[0] or loss.shape[0] != logits.shape[0]:
        return CSM_BAD_SHAPE
    return memview_cross_entropy(
        sizeof(floating), logits.shape[0], logits.shape[1], &logits[0, 0], logits.strides[0], logits.strides[1],
        &target[0], target.strides[0], ignore_index, &loss[0], loss.strides[0])


cdef inline int cross_entropy_with_grad(
        const floating[:, :] logits, const int64_t[:] target, floating[:] loss, floating[:, :] grad,
        int64_t ignore_index=-100, double scale=1.0) noexcept nogil:
    """Writes one loss a row, and the gradient of each loss times scale (1 / rows: of their mean)."""
    if (target.shape[0] != logits.shape[0] or loss.shape[0] != logits.shape[0] or grad.shape[0] != logits.shape[0] or
            grad.shape[1] != logits.shape[1]):
        return CSM_BAD_SHAPE
    return memview_cross_entropy_with_grad(
        sizeof(floating), logits.shape[0], logits.shape[1], &logits[0, 0], logits.strides[0], logits.strides[1],
        &target[0], target.strides[0], ignore_index, &loss[0], loss.strides[0], &grad[0, 0], grad.strides[0],
        grad.strides[1], scale)


cdef inline int log_softmax_jvp(
        const floating[:, :] tangent, const floating[:, :] output, floating[:, :] out,
        double temperature=1.0) noexcept nogil:
    """Writes the directional derivative, from the log_softmax that was returned for the same temperature."""
    if (output.shape[0] != tangent.shape[0] or output.shape[1] != tangent.shape[1] or out.shape[0] != tangent.shape[0]
            or out.shape[1] != tangent.shape[1]):
        return CSM_BAD_SHAPE
    return memview_log_softmax_jvp(
        sizeof(floating), tangent.shape[0], tangent.shape[1], &tangent[0, 0], tangent.strides[0], tangent.strides[1],
        &output[0, 0], output.strides[0], output.strides[1], &out[0, 0], out.strides[0], out.strides[1], temperature)


cdef inline int softmax_jvp(
        const floating[:, :] tangent, const floating[:, :] output, floating[:, :] out,
        double temperature=1.0) noexcept nogil:
    """Writes the directional derivative, from the softmax that was returned for the same temperature."""
    if (output.shape[0] != tangent.shape[0] or output.shape[1] != tangent.shape[1] or out.shape[0] != tangent.shape[0]
            or out.shape[1] != tangent.shape[1]):
        return CSM_BAD_SHAPE
    return memview_softmax_backward(
        sizeof(floating), tangent.shape[0], tangent.shape[1], &tangent[0, 0], tangent.strides[0], tangent.strides[1],
        &output[0, 0], output.strides[0], output.strides[1], &out[0, 0], out.strides[0], out.strides[1], temperature)
# tools/capi.py writes to here
