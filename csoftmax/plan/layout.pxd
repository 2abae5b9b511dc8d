from csoftmax.kernels.problem cimport Job

# Decides how the kernels walk a job whose operands, shape and strides are set, for so many threads. "near": the
# caller's scratch is a stack, and tiles of columns are as narrow as that takes.
cdef void find_walk(Job *job, int threads, bint near) noexcept nogil

# Whether results of so many bytes are stored past the caches.
cdef bint streams(Py_ssize_t size) noexcept nogil

# Bytes of an element.
cdef Py_ssize_t item_size(int storage) noexcept nogil
