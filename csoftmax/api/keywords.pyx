"""Calls that name their arguments as PyTorch, SciPy or JAX do are told the names that they have here.

What is raised for an unknown keyword is put into better words after it has been raised, so that a call that works
pays for one more jump in C and nothing else: a compiled function's own entry for calls, its vectorcall slot, is
replaced by `call`, which goes on to where the slot led before.
"""

from csoftmax.plan import errors as _advice

from cpython.object cimport PyObject

cdef extern from *:
    """
    typedef PyObject *const *csm_arguments;

    static inline vectorcallfunc *csm_slot(PyObject *function) {
        return (vectorcallfunc *) ((char *) function + Py_TYPE(function)->tp_vectorcall_offset);
    }
    """
    ctypedef void *csm_arguments
    ctypedef PyObject *(*vectorcallfunc)(PyObject *, csm_arguments, size_t, PyObject *) noexcept
    vectorcallfunc *slot "csm_slot"(PyObject *) noexcept
    vectorcallfunc PyVectorcall_Function(PyObject *)
    bint PyFunction_Check(PyObject *) noexcept
    bint PyErr_ExceptionMatches(PyObject *)
    void PyErr_Fetch(PyObject **, PyObject **, PyObject **) noexcept
    void PyErr_Restore(PyObject *, PyObject *, PyObject *) noexcept
    void PyErr_SetObject(PyObject *, PyObject *) noexcept
    void Py_XDECREF(PyObject *) noexcept
    PyObject *PyExc_TypeError

cdef vectorcallfunc further = NULL        # where the slots of compiled functions led: to one function of Cython's


cdef PyObject *call(PyObject *function, csm_arguments arguments, size_t count, PyObject *names) noexcept:
    cdef PyObject *result = further(function, arguments, count, names)
    if result == NULL and names != NULL and PyErr_ExceptionMatches(PyExc_TypeError):
        reword(function, names)
    return result


cdef void reword(PyObject *function, PyObject *names) noexcept:
    """Puts another message in place of the error that is set, if one of the keywords is some other library's."""
    cdef PyObject *kind
    cdef PyObject *error
    cdef PyObject *traceback
    PyErr_Fetch(&kind, &error, &traceback)
    message = None
    try:
        message = _advice.other_keywords(<object> function, <object> names)
    except Exception:
        pass
    if message is None:
        PyErr_Restore(kind, error, traceback)
        return
    Py_XDECREF(kind)
    Py_XDECREF(error)
    Py_XDECREF(traceback)
    PyErr_SetObject(PyExc_TypeError, <PyObject *> message)


def explained(*functions):
    """The functions, with calls that say what a keyword of another library is called here."""
    return [function if explain(function) else wrapped(function) for function in functions]


cdef bint explain(object function) except -1:
    """Replaces the slot of a compiled function. False where there is none, as in a function that is not compiled."""
    global further
    cdef vectorcallfunc entry = PyVectorcall_Function(<PyObject *> function)
    # the interpreter may pass by the slots of its own functions
    if entry == NULL or PyFunction_Check(<PyObject *> function) or (further != NULL and entry != further):
        return False
    further = entry
    slot(<PyObject *> function)[0] = call
    return True


def wrapped(function):
    """The same for a function of Python, as there are in builds that count the lines that run."""
    import functools

    @functools.wraps(function)
    def call_wrapped(*arguments, **named):
        try:
            return function(*arguments, **named)
        except TypeError as error:
            message = _advice.other_keywords(function, tuple(named))
            if message is None:
                raise
            raise TypeError(message) from error

    return call_wrapped
