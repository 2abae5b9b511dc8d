from csoftmax._job cimport Job

# Decides how the kernels walk a job whose operands, shape and strides are set: for so many threads, with tiles of
# columns of at most so many bytes in scratch.
cdef void find_walk(Job *job, bint wide, int threads, Py_ssize_t tile_bytes) noexcept nogil

# Whether results of so many bytes are stored past the caches.
cdef bint streams(Py_ssize_t size) noexcept nogil

# Bytes of an element.
cdef Py_ssize_t item_size(int storage) noexcept nogil
