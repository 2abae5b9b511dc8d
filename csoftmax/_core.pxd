# What the plan asks of the core.

from csoftmax._job cimport Job

# Runs a job to its end: 0, or -1 with an exception set.
cdef int run(const Job *job, bint wide) except -1

# Threads a large job may use.
cdef int effective_threads() noexcept nogil
