# What the modules that users call ask for: in C where they are compiled, else in Python.

from csoftmax.kernels.problem cimport Problem

cpdef forward(int operation, x, axis, temperature, where, out, dtype, dict explained=*)

cpdef logsumexp(x, axis, where, keepdims, out, dtype, dict explained=*)

cpdef backward(int operation, v, output, axis, temperature, where, out, name, dict explained=*)

# For the losses: runs a problem; or tells `explained`, unless that is None, what has been chosen for it.
cdef int run_or_explain(const Problem *problem, dict explained) except -1
