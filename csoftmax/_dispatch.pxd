# What the core and the C API ask of the dispatch.

from csoftmax._job cimport Kernels

cdef const Kernels *kernels_for(bint wide) noexcept nogil
