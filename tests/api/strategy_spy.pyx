"""Looks at the problems that the kernels are given: what was chosen for them, and which of their functions is called.

`wrap` replaces the functions in the two tables of one level until `unwrap`; `seen` tells of the calls since it was
called last.
"""

from cpython.pycapsule cimport PyCapsule_GetPointer

from csoftmax.kernels.problem cimport Problem, Kernels

cdef Kernels original[2]          # of float32 and of float64
cdef Kernels *tables[2]
cdef Problem last                     # what `run` or `measure` was given; nobody looks at its strides
cdef const char *function = NULL  # the last one called but `finish`


cdef void run(const Problem *problem, Py_ssize_t begin, Py_ssize_t end, char *scratch) noexcept nogil:
    global last, function
    last = problem[0]
    function = "run"
    original[problem.wide].run(problem, begin, end, scratch)


cdef void measure(const Problem *problem, Py_ssize_t row, Py_ssize_t begin, Py_ssize_t end, double *stats,
                  char *scratch) noexcept nogil:
    global last, function
    last = problem[0]
    function = "measure"
    original[problem.wide].measure(problem, row, begin, end, stats, scratch)


cdef bint single_32(int operation, const void *x, const void *p, void *y, Py_ssize_t n,
                    double temperature) noexcept nogil:
    global function
    function = "single"
    return original[0].single(operation, x, p, y, n, temperature)


cdef bint single_64(int operation, const void *x, const void *p, void *y, Py_ssize_t n,
                    double temperature) noexcept nogil:
    global function
    function = "single"
    return original[1].single(operation, x, p, y, n, temperature)


def wrap(table_32, table_64):
    """Replaces what the two tables of a level hold."""
    tables[:] = [<Kernels *> PyCapsule_GetPointer(table_32, "csoftmax.kernels"),
                 <Kernels *> PyCapsule_GetPointer(table_64, "csoftmax.kernels")]
    for wide in range(2):
        original[wide] = tables[wide][0]
        tables[wide].run = run
        tables[wide].measure = measure
    tables[0].single = single_32
    tables[1].single = single_64


def unwrap():
    """Puts back what the tables held."""
    for wide in range(2):
        tables[wide][0] = original[wide]


def seen():
    """The function called last, and the problem that it was given: strategy, wide, threads, width, stream, staged."""
    global function
    if function == NULL:
        return None
    name = (<bytes> function).decode()
    function = NULL
    if name == "single":
        return name, None
    return name, (last.strategy, bool(last.wide), last.threads, last.width, bool(last.stream), last.staged)
