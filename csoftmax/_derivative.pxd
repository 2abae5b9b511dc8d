# Makes C calls of those that _derivative.py makes.

cimport csoftmax._plan as _plan

cdef int _SOFTMAX_GRAD, _LOG_SOFTMAX_VJP, _LOG_SOFTMAX_JVP
