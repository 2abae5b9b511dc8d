# Makes C calls of those that forward.py makes.

from csoftmax.plan cimport operations

cdef int _SOFTMAX, _LOG_SOFTMAX
