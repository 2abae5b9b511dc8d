# Targets of a loss, for what computes it.

cimport numpy as cnp

cdef struct Scaled:               # value 2^exponent: a sum that a double alone may not hold
    double value
    int exponent

cdef cnp.ndarray as_target(object target, cnp.ndarray a, int class_axis)
cdef cnp.ndarray as_weight(object weight, Py_ssize_t classes)
cdef object as_doubles(object a)
cdef int weight_of_targets(Scaled *weight, cnp.ndarray target, cnp.ndarray a, int class_axis, object ignored,
                           cnp.ndarray weights) except -1


cdef inline void two_sum(double a, double b, double *total, double *lost) noexcept:
    """The rounded sum, and exactly what rounding lost."""
    cdef double s = a + b, part = s - a
    lost[0] = (a - (s - part)) + (b - part)
    total[0] = s
