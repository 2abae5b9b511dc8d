# What the plan and the C API ask of the choice of a strategy.

from csoftmax.kernels.problem cimport Problem, Kernels

# What a call may use.
cdef struct Means:
    int threads                   # at most
    int (*useful)(int threads, double ns) noexcept nogil    # how many of them are worth waking; NULL: one thread works
    bint on_stack                 # scratch is a part of the caller's stack


# Decides how a problem whose operands, shape and strides are set is worked on, and by how many threads: every field
# that init_problem leaves to it. The batch dimension that a column tile lies across becomes the last one.
cdef void choose(Problem *problem, const Kernels *kernels, const Means *means) noexcept nogil

# The same for rows of reals of the kernels' precision, aligned and with unit stride: what remains to be chosen then.
# A small problem, on which one thread works, needs no means.
cdef void choose_direct(Problem *problem, const Kernels *kernels, const Means *means) noexcept nogil

# The same two with the kernels of the level in use, and the threads that this context may use.
cdef void choose_for_call(Problem *problem) noexcept
cdef void choose_direct_for_call(Problem *problem) noexcept

# Whether a row may be taken in two passes over its blocks.
cdef bint can_split(const Problem *problem) noexcept nogil

# What has been chosen, in words: for `explain`.
cdef dict described(const Problem *problem)

# Bytes of an element.
cdef Py_ssize_t item_size(int storage) noexcept nogil
