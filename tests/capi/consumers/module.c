/* Another package's extension module in C, and in C++ through module.cpp: compiled and run by test_capi.py. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#define CSM_WITH_PYTHON
#include "work.h"

#ifndef NAME
#define NAME "consumer_c"
#define INIT PyInit_consumer_c
#endif

static const csm_api *csm;

/* log_softmax(x, y, n): float32 buffers, n elements a row */
static PyObject *log_softmax(PyObject *self, PyObject *args) {
    Py_buffer x, y;
    Py_ssize_t n;
    int status;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*w*n", &x, &y, &n)) return NULL;
    Py_BEGIN_ALLOW_THREADS
    status = log_odds(csm, x.len / (n * (Py_ssize_t)sizeof(float)), n, (const float *)x.buf, (float *)y.buf);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&x);
    PyBuffer_Release(&y);
    return PyLong_FromLong(status);
}

/* table(): version, size, and (offset, address) of every function that the header knows */
static PyObject *table(PyObject *self, PyObject *args) {
    PyObject *functions = PyDict_New(), *entry;
    (void)self;
    (void)args;
    if (functions == NULL) return NULL;
#define ADD(name, arguments)                                                                                 \
    entry = Py_BuildValue("(nn)", (Py_ssize_t)offsetof(csm_api, name), (Py_ssize_t)csm->name);               \
    if (entry == NULL || PyDict_SetItemString(functions, #name, entry) < 0) return NULL;                     \
    Py_DECREF(entry);
    CSM_ALL_FUNCTIONS(ADD)
    return Py_BuildValue("(nnN)", (Py_ssize_t)csm->version, (Py_ssize_t)csm->size, functions);
}

/* reimport(): csm_import once more */
static PyObject *reimport(PyObject *self, PyObject *args) {
    (void)self;
    (void)args;
    return csm_import() == NULL ? NULL : PyBool_FromLong(csm_import() == csm);
}

static PyMethodDef methods[] = {
    {"log_softmax", log_softmax, METH_VARARGS, NULL},
    {"table", table, METH_NOARGS, NULL},
    {"reimport", reimport, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, NAME, NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC INIT(void) {
    csm = csm_import();
    return csm == NULL ? NULL : PyModule_Create(&definition);
}
