# What the core and the C API ask of the dispatch.

from csoftmax.kernels.problem cimport Kernels

cdef const Kernels *kernels_for(bint wide) noexcept nogil
