/* The working part of a C consumer: it knows the table, and nothing of Python. */
#include "work.h"

#ifdef Py_PYTHON_H
#error "csoftmax.h has included Python.h"
#endif

int log_odds(const csm_api *csm, ptrdiff_t rows, ptrdiff_t n, const float *x, float *y) {
    /* dense rows: n elements from row to row, 1 from element to element */
    return csm->log_softmax_f32(rows, n, x, n, 1, y, n, 1, 1.0);
}
