"""What the type checkers must conclude from the stubs: dtype in, dtype out. Checked by `make types`, never run."""

from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

import csoftmax
from csoftmax.interop import autograd, boosting, scipy, sklearn

f32: NDArray[np.float32] = np.zeros((2, 3), np.float32)
f16: NDArray[np.float16] = np.zeros((2, 3), np.float16)
i8: NDArray[np.int8] = np.zeros((2, 3), np.int8)
labels = np.array([0, 1])

assert_type(csoftmax.softmax(f32), NDArray[np.float32])
assert_type(csoftmax.softmax(f16, axis=None, where=[True, False, True]), NDArray[np.float16])
assert_type(csoftmax.softmax(f32, dtype=np.float64), NDArray[np.float64])
assert_type(csoftmax.softmax(i8, axis=(0, 1)), NDArray[np.float64])
assert_type(csoftmax.softmax([1.0, 2.0], temperature=2), NDArray[np.float64])
assert_type(csoftmax.log_softmax(i8, out=f32, dtype="float32"), NDArray[np.float32])
assert_type(csoftmax.log_softmax([[1.0, 2.0]]), NDArray[Any])
assert_type(csoftmax.logsumexp(f32, None), np.float32)
assert_type(csoftmax.logsumexp(f32, axis=0, keepdims=True), NDArray[np.float32])
assert_type(csoftmax.logsumexp([1.0, 2.0]), np.float64)

assert_type(csoftmax.softmax_backward(f32, f32), NDArray[np.float32])
assert_type(csoftmax.log_softmax_jvp(f16, f16, axis=0), NDArray[np.float16])
assert_type(csoftmax.softmax_jacobian(f32), NDArray[np.float32])

assert_type(csoftmax.cross_entropy(f32, labels), np.float32)
assert_type(csoftmax.cross_entropy(f32, labels, reduction="none"), NDArray[np.float32])
assert_type(csoftmax.cross_entropy_with_grad(f32, labels), tuple[np.float32, NDArray[np.float32]])

with csoftmax.threads(2), csoftmax.use_isa("baseline"):
    assert_type(csoftmax.get_isa(), str)
    assert_type(csoftmax.get_num_threads(), int)
    assert_type(csoftmax.runtime_info(), dict[str, Any])
    assert_type(csoftmax.explain("softmax", f32, axis=None, temperature=2.0), dict[str, Any])

assert_type(scipy.softmax(f32, axis=1), NDArray[np.float32])
assert_type(scipy.log_softmax(f16, np.int64(1)), NDArray[np.float16])
assert_type(scipy.logsumexp(f32), np.float32)
assert_type(scipy.logsumexp(f32, (0, np.int8(1)), keepdims=True), NDArray[np.float32])
assert_type(scipy.logsumexp(f32, b=[1.0, 2.0, 3.0], return_sign=True), tuple[Any, Any])
assert_type(autograd.softmax(f32), NDArray[Any])
assert_type(boosting.xgboost_sklearn_objective(labels, f32), tuple[NDArray[np.float32], NDArray[np.float32]])
assert_type(boosting.lightgbm_sklearn_metric(labels, f32, weight=[1.0, 2.0]), tuple[str, float, bool])

with sklearn.patched():
    sklearn.patch()
