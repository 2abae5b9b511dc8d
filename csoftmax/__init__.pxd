# What `from csoftmax cimport ...` offers: the softmax family of _capi.pxd, for pointers and strides; and, as memview,
# of memview.pxd, for typed memoryviews.

from csoftmax._capi cimport (
    CSM_BAD_SHAPE, CSM_BAD_TARGET, CSM_BAD_TEMPERATURE, CSM_NO_MEMORY, CSM_OK, csm_bf16, csm_f16,
)

# tools/capi.py writes from here
from csoftmax._capi cimport (
    softmax_f32, log_softmax_f32, logsumexp_f32, softmax_backward_f32, log_softmax_backward_f32, cross_entropy_f32,
    cross_entropy_with_grad_f32, softmax_f64, log_softmax_f64, logsumexp_f64, softmax_backward_f64,
    log_softmax_backward_f64, cross_entropy_f64, cross_entropy_with_grad_f64, softmax_f16, log_softmax_f16,
    logsumexp_f16, softmax_backward_f16, log_softmax_backward_f16, cross_entropy_f16, cross_entropy_with_grad_f16,
    softmax_bf16, log_softmax_bf16, logsumexp_bf16, softmax_backward_bf16, log_softmax_backward_bf16,
    cross_entropy_bf16, cross_entropy_with_grad_bf16, log_softmax_jvp_f32, log_softmax_jvp_f64, log_softmax_jvp_f16,
    log_softmax_jvp_bf16,
)
# tools/capi.py writes to here
