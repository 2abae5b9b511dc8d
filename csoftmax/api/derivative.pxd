# Makes C calls of those that derivative.py makes.

from csoftmax.plan cimport operations

cdef int _SOFTMAX_GRAD, _LOG_SOFTMAX_VJP, _LOG_SOFTMAX_JVP
