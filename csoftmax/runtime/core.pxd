# What the plan asks of the core.

from csoftmax.kernels.problem cimport Problem

# Runs a problem whose strategy has been chosen to its end: 0, or -1 with an exception set.
cdef int run(const Problem *problem) except -1

# Threads that a call may use in this context, and how many of those are worth waking for work of so many nanoseconds.
cdef int effective_threads() noexcept
cdef int useful_threads(int threads, double ns) noexcept nogil

# Runs one aligned row of reals with unit stride without a problem, if it is a single row, as is_single_row has it: else
# False.
cdef bint run_single(int operation, const void *x, const void *p, void *y, Py_ssize_t n, double temperature,
                     bint wide) noexcept

# Sets the processor's default floating-point mode. The caller's is put back when the object returned is forgotten;
# None if there is nothing to put back.
cdef object default_mode()
