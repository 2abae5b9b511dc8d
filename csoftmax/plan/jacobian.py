"""The Jacobian of softmax as matrices: NumPy's work, but for the checks of its arguments."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csoftmax.plan.arguments import as_array, check_out, default_mode, reduced_axes, result_dtype


def jacobian(output: object, axis: object, out: object) -> NDArray[Any]:
    """diag(p) - p p^T of each row of `output`, in two trailing axes."""
    _caller_mode = default_mode()
    p = as_array("output", output)
    reduced = reduced_axes(axis, p.ndim)
    result = result_dtype(p.dtype, None)
    rest = [d for d in range(p.ndim) if d not in reduced]
    batch = tuple([p.shape[d] for d in rest])
    n = math.prod([p.shape[d] for d in reduced])
    rows = p.transpose(rest + reduced).reshape((*batch, n))
    shape = (*batch, n, n)
    y = np.empty(shape, result) if out is None else check_out(out, shape, result)
    with np.errstate(all="ignore"):
        rows = rows.astype(np.float64 if result.itemsize == 8 else np.float32, copy=False)
        # out may overlap the rows: a ufunc reads all that its result would change before it writes it
        diagonal = rows * (1 - rows)
        np.multiply(-rows[..., :, None], rows[..., None, :], out=y, casting="same_kind")
        np.einsum("...ii->...i", y)[...] = diagonal
    return y
