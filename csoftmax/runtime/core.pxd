# What the plan asks of the core.

from csoftmax.kernels.problem cimport Job

# Runs a job to its end: 0, or -1 with an exception set.
cdef int run(const Job *job) except -1

# Runs one row of reals without a job, if it is short and there is a short way: else False.
cdef bint run_lone(int operation, const void *x, const void *p, void *y, Py_ssize_t n, double temperature,
                   bint wide) noexcept

# Threads a large job may use.
cdef int effective_threads() noexcept

# Sets the processor's default floating-point mode. The caller's is put back when the object returned is forgotten;
# None if there is nothing to put back.
cdef object default_mode()
