/* The softmax family for C and C++: functions without the interpreter, threads or global state.
 *
 *     #define CSM_WITH_PYTHON         // in the file that imports; all others need no Python.h
 *     #include <csoftmax/csoftmax.h>
 *
 *     const csm_api *csm = csm_import();        // with the GIL; NULL with a Python exception set
 *     csm->softmax_f32(rows, n, x, n, 1, y, n, 1, 1.0);        // from any thread, without the GIL
 *
 * Each operation exists for four types: _f32 (float), _f64 (double), _f16 and _bf16 (uint16_t holding the
 * bits of an IEEE half and of a bfloat16, computed in float). It works on `rows` rows of `n` elements. After
 * each array stand its strides in elements, of any sign: from row to row, and from element to element of a
 * row. The result may be the very memory of an input, with the same strides; no other overlap is allowed.
 * Arrays need not be aligned. The bits are those of the Python functions, at the ISA level that is active in
 * them.
 *
 * Calls work in up to 160 KiB of stack, and take what they need beyond that from the heap for as long as they
 * last. Where there is nothing to be had, rows are worked on by their blocks, more slowly, and only these
 * calls fail: rows of more than a million elements, but for derivatives of contiguous floats, which need no
 * scratch; cross-entropy of more than 10 000 classes in contiguous floats, 3 000 in all else; columns
 * (elements a stride apart, rows next to each other) of more than 500 elements; rows of more than 3 000 at a
 * temperature from 1e300 up, or below 1e-270 (derivatives: 1e-6).
 */
#ifndef CSOFTMAX_H
#define CSOFTMAX_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef uint16_t csm_f16;
typedef uint16_t csm_bf16;

/* What every function returns. Unless it is CSM_OK, nothing has been written. */
enum csm_status {
    CSM_OK = 0,
    CSM_BAD_SHAPE = 1,       /* rows or n is negative; of memoryviews: their shapes do not fit */
    CSM_BAD_TEMPERATURE = 2, /* not positive and finite */
    CSM_BAD_TARGET = 3,      /* neither a class from 0 to n - 1 nor ignore_index */
    CSM_NO_MEMORY = 4
};

/* The functions of one type T with suffix S, whose losses are of type L, as F(name, (arguments)).
 *
 *   softmax, log_softmax          y of x / temperature
 *   logsumexp                     one y a row; -inf where n is 0
 *   softmax_backward              dx from dy and the softmax y that was returned for the same temperature
 *                                 (the Jacobian is symmetric: it is the directional derivative along dy too)
 *   log_softmax_backward          the same for log_softmax: dy - exp(y) sum(dy), to which an element with
 *                                 y = -inf counts too (set its dy to 0 if it should not)
 *   log_softmax_jvp               the directional derivative of log_softmax along dy: dy - sum(exp(y) dy)
 *   cross_entropy                 one loss a row, 0 where the target is ignore_index
 *   cross_entropy_with_grad       also the gradient of each loss times scale (1 / rows for that of their
 *                                 mean)
 *
 * temperature is any positive finite double, scale any double: results are those of exact arithmetic, as
 * far as their type holds them.
 */
/* tools/capi.py writes from here */
/* clang-format off */
#define CSM_FUNCTIONS(F, T, S, L)                                                                            \
    F(softmax_##S, (ptrdiff_t rows, ptrdiff_t n, const T *x, ptrdiff_t x_row, ptrdiff_t x_step, T *y,        \
      ptrdiff_t y_row, ptrdiff_t y_step, double temperature))                                                \
    F(log_softmax_##S, (ptrdiff_t rows, ptrdiff_t n, const T *x, ptrdiff_t x_row, ptrdiff_t x_step,          \
      T *y, ptrdiff_t y_row, ptrdiff_t y_step, double temperature))                                          \
    F(logsumexp_##S, (ptrdiff_t rows, ptrdiff_t n, const T *x, ptrdiff_t x_row, ptrdiff_t x_step, T *y,      \
      ptrdiff_t y_row))                                                                                      \
    F(softmax_backward_##S, (ptrdiff_t rows, ptrdiff_t n, const T *dy, ptrdiff_t dy_row,                     \
      ptrdiff_t dy_step, const T *y, ptrdiff_t y_row, ptrdiff_t y_step, T *dx, ptrdiff_t dx_row,             \
      ptrdiff_t dx_step, double temperature))                                                                \
    F(log_softmax_backward_##S, (ptrdiff_t rows, ptrdiff_t n, const T *dy, ptrdiff_t dy_row,                 \
      ptrdiff_t dy_step, const T *y, ptrdiff_t y_row, ptrdiff_t y_step, T *dx, ptrdiff_t dx_row,             \
      ptrdiff_t dx_step, double temperature))                                                                \
    F(cross_entropy_##S, (ptrdiff_t rows, ptrdiff_t n, const T *x, ptrdiff_t x_row, ptrdiff_t x_step,        \
      const int64_t *target, ptrdiff_t target_row, int64_t ignore_index, L *loss, ptrdiff_t loss_row))       \
    F(cross_entropy_with_grad_##S, (ptrdiff_t rows, ptrdiff_t n, const T *x, ptrdiff_t x_row,                \
      ptrdiff_t x_step, const int64_t *target, ptrdiff_t target_row, int64_t ignore_index, L *loss,          \
      ptrdiff_t loss_row, T *dx, ptrdiff_t dx_row, ptrdiff_t dx_step, double scale))

#define CSM_FUNCTIONS_2(F, T, S, L)                                                                          \
    F(log_softmax_jvp_##S, (ptrdiff_t rows, ptrdiff_t n, const T *dy, ptrdiff_t dy_row,                      \
      ptrdiff_t dy_step, const T *y, ptrdiff_t y_row, ptrdiff_t y_step, T *dx, ptrdiff_t dx_row,             \
      ptrdiff_t dx_step, double temperature))

/* All functions, in the order of the table. New ones are only ever added at the end, with a new version. */
#define CSM_API_VERSION 2
#define CSM_ALL_FUNCTIONS(F)                                                                                 \
    CSM_FUNCTIONS(F, float, f32, float)                                                                      \
    CSM_FUNCTIONS(F, double, f64, double)                                                                    \
    CSM_FUNCTIONS(F, csm_f16, f16, float)                                                                    \
    CSM_FUNCTIONS(F, csm_bf16, bf16, float)                                                                  \
    CSM_FUNCTIONS_2(F, float, f32, float)                                                                    \
    CSM_FUNCTIONS_2(F, double, f64, double)                                                                  \
    CSM_FUNCTIONS_2(F, csm_f16, f16, float)                                                                  \
    CSM_FUNCTIONS_2(F, csm_bf16, bf16, float)
/* clang-format on */
/* tools/capi.py writes to here */

#define CSM_MEMBER(name, arguments) int(*name) arguments;
typedef struct csm_api {
    size_t version; /* CSM_API_VERSION of the installed csoftmax */
    size_t size;    /* bytes of its csm_api */
    CSM_ALL_FUNCTIONS(CSM_MEMBER)
} csm_api;
#undef CSM_MEMBER

#ifdef __cplusplus
}
#endif

#ifdef CSM_WITH_PYTHON
#include <Python.h>

/* The table of the installed csoftmax, valid while the process lives; NULL with ImportError set if there is
 * none, or if it is older than this header.
 */
static inline const csm_api *csm_import(void) {
    const csm_api *api;
    PyObject *module = PyImport_ImportModule("csoftmax._capi");
    if (module == NULL)
        return NULL;
    Py_DECREF(module);
    api = (const csm_api *)PyCapsule_Import("csoftmax._capi._C_API", 0);
    if (api != NULL && (api->version < CSM_API_VERSION || api->size < sizeof(csm_api))) {
        PyErr_Format(PyExc_ImportError,
                     "csoftmax has version %zu of its C API, but %d is needed: upgrade csoftmax",
                     api->version, CSM_API_VERSION);
        return NULL;
    }
    return api;
}
#endif /* CSM_WITH_PYTHON */

#endif /* CSOFTMAX_H */
