# From arrays to a problem, for the modules whose functions users call.

cimport numpy as cnp

from csoftmax.kernels.problem cimport Layout, Problem
from csoftmax.plan.arguments cimport Axes

# A new array of the shape of `a`, in the memory order that NumPy's ufuncs give to what they make of it.
cdef cnp.ndarray like(cnp.ndarray a, object dtype, cnp.ndarray mask=*)

# The same without the reduced axes, or with them at length 1.
cdef cnp.ndarray like_reduced(cnp.ndarray a, const Axes *axes, bint keepdims, object dtype)

# Sets the operands of an initialised problem, its dimensions, those of `shaped`, and its strides. `operands`: for x, p,
# y, mask, target, upstream and row_loss an array or None, which those at the end need not be told. The problem points
# into `layout` where it has more than two dimensions, so that `layout` must outlive it.
cdef int lay_out(Problem *problem, Layout *layout, cnp.ndarray shaped, const Axes *axes, list operands) except -1
