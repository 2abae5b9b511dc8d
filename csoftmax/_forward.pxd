# Makes C calls of those that _forward.py makes.

cimport csoftmax._plan as _plan

cdef int _SOFTMAX, _LOG_SOFTMAX
