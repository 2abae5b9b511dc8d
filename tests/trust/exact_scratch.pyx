"""Hands the kernels scratch of exactly the bytes that they ask for, right before a page that nobody may touch.

`wrap` replaces the functions in the table of one level, for the whole process. From then on every call of the package
at that level, on one thread, works in such scratch. It is full of 0xff, which are NaN, and has a margin before it; what
changed the margin is told by `damaged`.
"""

from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.string cimport memset

from csoftmax.kernels.problem cimport Problem, Kernels

cdef extern from "<sys/mman.h>" nogil:
    int PROT_NONE, PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS
    void *MAP_FAILED
    void *mmap(void *, size_t, int, int, int, Py_ssize_t)
    int mprotect(void *, size_t, int)

cdef enum:
    ROOM = 1 << 24                # bytes of scratch, at most; a multiple of the size of any page
    GUARD = 1 << 16               # bytes of the guard, likewise
    MARGIN = 64                   # bytes before the scratch that nobody may write
    MARK = 0xA5

cdef Kernels original[2]          # of float32 and of float64
cdef char *end = NULL             # of all scratch: the guard begins here
cdef Py_ssize_t runs = 0
cdef Py_ssize_t broken = 0


cdef char *begin(Py_ssize_t size) noexcept nogil:
    """Fresh scratch of so many bytes, at a multiple of 8 as its doubles need it: up to 7 bytes behind it are marked."""
    cdef Py_ssize_t whole = (size + 7) // 8 * 8
    if size > ROOM - MARGIN:
        return NULL
    memset(end - whole - MARGIN, MARK, MARGIN)
    memset(end - whole, 0xFF, size)
    memset(end - whole + size, MARK, whole - size)
    return end - whole


cdef void check(const char *scratch, Py_ssize_t size) noexcept nogil:
    global runs, broken
    cdef Py_ssize_t whole = (size + 7) // 8 * 8, i
    runs += 1
    for i in range(MARGIN):
        broken += (scratch[i - MARGIN] & 0xFF) != MARK
    for i in range(size, whole):
        broken += (scratch[i] & 0xFF) != MARK


cdef void run_exactly(int wide, const Problem *problem, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    cdef Py_ssize_t size = original[wide].scratch_bytes(problem)
    cdef char *scratch = begin(size)
    original[wide].run(problem, first, last, scratch)
    check(scratch, size)


cdef void run_32(const Problem *problem, Py_ssize_t first, Py_ssize_t last, char *scratch) noexcept nogil:
    run_exactly(0, problem, first, last)


cdef void run_64(const Problem *problem, Py_ssize_t first, Py_ssize_t last, char *scratch) noexcept nogil:
    run_exactly(1, problem, first, last)


cdef void pass_exactly(int wide, bint second, const Problem *problem, Py_ssize_t row, Py_ssize_t first, Py_ssize_t last,
                       double *stats) noexcept nogil:
    cdef Py_ssize_t size = original[wide].block_scratch
    cdef char *scratch = begin(size)
    if second:
        original[wide].write(problem, row, first, last, stats, scratch)
    else:
        original[wide].measure(problem, row, first, last, stats, scratch)
    check(scratch, size)


cdef void measure_32(const Problem *problem, Py_ssize_t row, Py_ssize_t first, Py_ssize_t last, double *stats,
                     char *scratch) noexcept nogil:
    pass_exactly(0, False, problem, row, first, last, stats)


cdef void measure_64(const Problem *problem, Py_ssize_t row, Py_ssize_t first, Py_ssize_t last, double *stats,
                     char *scratch) noexcept nogil:
    pass_exactly(1, False, problem, row, first, last, stats)


cdef void write_32(const Problem *problem, Py_ssize_t row, Py_ssize_t first, Py_ssize_t last, double *stats,
                   char *scratch) noexcept nogil:
    pass_exactly(0, True, problem, row, first, last, stats)


cdef void write_64(const Problem *problem, Py_ssize_t row, Py_ssize_t first, Py_ssize_t last, double *stats,
                   char *scratch) noexcept nogil:
    pass_exactly(1, True, problem, row, first, last, stats)


def wrap(table_32, table_64):
    """Replaces what the two tables of a level hold; once a process."""
    global end
    cdef Kernels *tables[2]
    cdef char *memory
    assert end == NULL
    memory = <char *> mmap(NULL, ROOM + GUARD, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    if memory == MAP_FAILED or mprotect(memory + ROOM, GUARD, PROT_NONE):
        raise MemoryError("no memory for the scratch and its guard")
    end = memory + ROOM
    tables[:] = [<Kernels *> PyCapsule_GetPointer(table_32, "csoftmax.kernels"),
                 <Kernels *> PyCapsule_GetPointer(table_64, "csoftmax.kernels")]
    original[0] = tables[0][0]
    original[1] = tables[1][0]
    tables[0].run, tables[0].measure, tables[0].write = run_32, measure_32, write_32
    tables[1].run, tables[1].measure, tables[1].write = run_64, measure_64, write_64


def overrun(Py_ssize_t bytes):
    """Writes one byte behind scratch of so many bytes."""
    begin(bytes)[bytes] = 1


def counted():
    """How many runs there were, and how many bytes beside their scratch were written."""
    return runs, broken
