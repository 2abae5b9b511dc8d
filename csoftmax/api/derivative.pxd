# Makes C calls of those that derivative.py makes.

cimport csoftmax.plan.plan as _plan

cdef int _SOFTMAX_GRAD, _LOG_SOFTMAX_VJP, _LOG_SOFTMAX_JVP
