# Makes C calls of those that forward.py makes.

cimport csoftmax.plan.plan as _plan

cdef int _SOFTMAX, _LOG_SOFTMAX
