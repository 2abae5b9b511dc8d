/* Handlers of XLA's typed FFI on csoftmax's C API: jax.py compiles this file on the machine where it is used.
 *
 * An operand's class axis is its second to last; all axes before it and the last one make up the batch. Rows
 * are split over XLA's own pool. The calling thread works too and waits only for parts that somebody has
 * begun, so that a pool with no thread to spare delays nothing.
 */
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "csoftmax/csoftmax.h"
#include "xla/ffi/api/c_api.h"

enum { PART_ELEMENTS = 32768 }; /* what is worth a thread of its own */

typedef enum { SOFTMAX, LOG_SOFTMAX, LOGSUMEXP, SOFTMAX_BACKWARD, LOG_SOFTMAX_BACKWARD } Operation;

typedef struct {
    Operation operation;
    XLA_FFI_DataType dtype;
    const void *a, *b; /* b only in the derivatives: the forward's result */
    void *result;
    double temperature;         /* of all rows, unless there are temperatures in an array */
    const void *temperatures;   /* NULL, or one for each `slabs_each` slabs, in order */
    XLA_FFI_DataType temperature_dtype;
    ptrdiff_t slabs_each;
    ptrdiff_t slabs, rows, n;   /* each slab has `rows` rows of n elements */
    ptrdiff_t row, step;        /* strides within a slab */
    ptrdiff_t width, per_slab;  /* a part is `width` rows of one slab */
    ptrdiff_t parts;
    atomic_ptrdiff_t next, done;
    atomic_int status;
    atomic_int holders;         /* the last of them to leave frees the memory */
} Work;

static const csm_api *csm;

void csoftmax_jax_bind(const csm_api *api);
void csoftmax_jax_bind(const csm_api *api) { csm = api; }

#define CASE(code, T, S)                                                                                     \
    case XLA_FFI_DataType_##code: {                                                                          \
        const T *a = (const T *)w->a + at, *b = (const T *)w->b + at;                                        \
        T *y = (T *)w->result + at, *sums = (T *)w->result + slab * w->rows + first;                         \
        switch (w->operation) {                                                                              \
            case SOFTMAX: return csm->softmax_##S(rows, n, a, row, step, y, row, step, t);                   \
            case LOG_SOFTMAX: return csm->log_softmax_##S(rows, n, a, row, step, y, row, step, t);           \
            case LOGSUMEXP: return csm->logsumexp_##S(rows, n, a, row, step, sums, 1);                       \
            case SOFTMAX_BACKWARD:                                                                           \
                return csm->softmax_backward_##S(rows, n, a, row, step, b, row, step, y, row, step, t);      \
            case LOG_SOFTMAX_BACKWARD:                                                                       \
                return csm->log_softmax_backward_##S(rows, n, a, row, step, b, row, step, y, row, step, t);  \
        }                                                                                                    \
        break;                                                                                               \
    }

/* The value of a float, of a subnormal one too: XLA's threads take those for 0 in all arithmetic. */
static double widened(const float *x) {
    uint32_t bits;
    memcpy(&bits, x, sizeof bits);
    if ((bits & 0x7f800000) != 0) return *x;
    return (double)(int32_t)(bits & 0x007fffff) * (bits >> 31 ? -0x1p-149 : 0x1p-149);
}

static double temperature_of(const Work *w, ptrdiff_t slab) {
    const ptrdiff_t i = slab / w->slabs_each;
    if (w->temperatures == NULL) return w->temperature;
    if (w->temperature_dtype == XLA_FFI_DataType_F32) return widened((const float *)w->temperatures + i);
    return ((const double *)w->temperatures)[i];
}

static int run_part(const Work *w, ptrdiff_t part) {
    const ptrdiff_t slab = part / w->per_slab, first = part % w->per_slab * w->width;
    const ptrdiff_t rows = w->rows - first < w->width ? w->rows - first : w->width;
    const ptrdiff_t n = w->n, row = w->row, step = w->step, at = slab * w->rows * n + first * row;
    const double t = temperature_of(w, slab);
    switch (w->dtype) {
        CASE(F32, float, f32)
        CASE(F64, double, f64)
        CASE(F16, csm_f16, f16)
        CASE(BF16, csm_bf16, bf16)
        default: break;
    }
    return CSM_BAD_SHAPE;
}

static void run_parts(Work *w) {
    ptrdiff_t part;
    while ((part = atomic_fetch_add(&w->next, 1)) < w->parts) {
        const int status = run_part(w, part);
        if (status != CSM_OK) atomic_store(&w->status, status);
        atomic_fetch_add(&w->done, 1);
    }
}

static void leave(Work *w) {
    if (atomic_fetch_sub(&w->holders, 1) == 1) free(w);
}

static void help(void *work) {
    run_parts(work);
    leave(work);
}

/* Whether the call went well; its error is of no interest. */
static int succeeded(const XLA_FFI_Api *api, XLA_FFI_Error *error) {
    XLA_FFI_Error_Destroy_Args args = {XLA_FFI_Error_Destroy_Args_STRUCT_SIZE, NULL, error};
    if (error != NULL) api->XLA_FFI_Error_Destroy(&args);
    return error == NULL;
}

static int64_t pool_threads(const XLA_FFI_CallFrame *frame) {
    int64_t threads = 1;
    XLA_FFI_ThreadPool_NumThreads_Args args = {.struct_size = XLA_FFI_ThreadPool_NumThreads_Args_STRUCT_SIZE,
                                               .ctx = frame->ctx,
                                               .num_threads = &threads};
    const int known = succeeded(frame->api, frame->api->XLA_FFI_ThreadPool_NumThreads(&args));
    return known && threads > 1 ? threads : 1;
}

static int run_on_pool(const XLA_FFI_CallFrame *frame, const Work *plan, int64_t threads) {
    Work *w = malloc(sizeof *w);
    int status;
    if (w == NULL) return CSM_NO_MEMORY;
    *w = *plan;
    atomic_init(&w->holders, (int)threads);
    for (int64_t i = 1; i < threads; i++) {
        XLA_FFI_ThreadPool_Schedule_Args args = {.struct_size = XLA_FFI_ThreadPool_Schedule_Args_STRUCT_SIZE,
                                                 .ctx = frame->ctx,
                                                 .task = help,
                                                 .data = w};
        if (!succeeded(frame->api, frame->api->XLA_FFI_ThreadPool_Schedule(&args))) leave(w);
    }
    run_parts(w);
    while (atomic_load(&w->done) < w->parts) sched_yield();
    status = atomic_load(&w->status);
    leave(w);
    return status;
}

static XLA_FFI_Error *failure(const XLA_FFI_CallFrame *frame, XLA_FFI_Error_Code code, const char *message) {
    XLA_FFI_Error_Create_Args args = {XLA_FFI_Error_Create_Args_STRUCT_SIZE, NULL, message, code};
    return frame->api->XLA_FFI_Error_Create(&args);
}

static XLA_FFI_Error *outcome(const XLA_FFI_CallFrame *frame, int status) {
    if (status == CSM_OK) return NULL;
    if (status == CSM_NO_MEMORY)
        return failure(frame, XLA_FFI_Error_Code_RESOURCE_EXHAUSTED, "csoftmax: out of memory");
    if (status == CSM_BAD_TEMPERATURE)
        return failure(frame, XLA_FFI_Error_Code_INVALID_ARGUMENT,
                       "csoftmax: a traced temperature turned out not to be positive and finite");
    return failure(frame, XLA_FFI_Error_Code_INTERNAL, "csoftmax: operands that are not of a float type");
}

static XLA_FFI_Error *describe(XLA_FFI_Metadata *metadata) {
    metadata->api_version =
        (XLA_FFI_Api_Version){XLA_FFI_Api_Version_STRUCT_SIZE, NULL, XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR};
    return NULL;
}

/* Take the operands: their pointers, and how they are made of slabs of rows. Whether they are as promised. */
static int take_operands(const XLA_FFI_CallFrame *frame, Operation operation, Work *w) {
    const int arrays = operation >= SOFTMAX_BACKWARD ? 2 : 1;
    const XLA_FFI_Buffer *a, *t;
    ptrdiff_t inner, temperatures = 1;

    if ((frame->args.size != arrays && frame->args.size != arrays + 1) || frame->rets.size != 1 ||
        frame->attrs.size != 1)
        return 0;
    a = frame->args.args[0];
    w->operation = operation;
    w->dtype = a->dtype;
    w->a = w->b = a->data;
    if (arrays == 2) w->b = ((const XLA_FFI_Buffer *)frame->args.args[1])->data;
    w->result = ((const XLA_FFI_Buffer *)frame->rets.rets[0])->data;
    w->temperature = *(const double *)((const XLA_FFI_Scalar *)frame->attrs.attrs[0])->value;
    if (frame->args.size > arrays) {
        t = frame->args.args[arrays];
        if (t->dtype != XLA_FFI_DataType_F32 && t->dtype != XLA_FFI_DataType_F64) return 0;
        w->temperatures = t->data;
        w->temperature_dtype = t->dtype;
        for (int64_t i = 0; i < t->rank; i++) temperatures *= t->dims[i];
    }

    w->slabs = 1;
    for (int64_t i = 0; i < a->rank - 2; i++) w->slabs *= a->dims[i];
    w->n = a->dims[a->rank - 2];
    inner = a->dims[a->rank - 1];
    w->slabs_each = temperatures > 0 ? w->slabs / temperatures : 1;
    if (inner == 1) {
        /* what was many slabs of one row each is one slab for each temperature */
        w->rows = w->slabs_each;
        w->slabs = temperatures;
        w->slabs_each = 1;
        w->row = w->n;
        w->step = 1;
    } else {
        w->rows = inner;
        w->row = 1;
        w->step = inner;
    }
    return 1;
}

static XLA_FFI_Error *handle(const XLA_FFI_CallFrame *frame, Operation operation) {
    int64_t threads = 1;
    int status = CSM_OK;
    Work w = {.temperatures = NULL};

    if (frame->extension_start != NULL && frame->extension_start->type == XLA_FFI_Extension_Metadata)
        return describe(((XLA_FFI_Metadata_Extension *)frame->extension_start)->metadata);
    if (!take_operands(frame, operation, &w))
        return failure(frame, XLA_FFI_Error_Code_INTERNAL, "csoftmax: wrong operands");
    if (w.slabs * w.rows == 0) return NULL;

    w.width = w.rows;
    if (w.slabs * w.rows * w.n >= 2 * PART_ELEMENTS) {
        threads = pool_threads(frame);
        w.width = w.slabs * w.rows / (4 * threads) + 1;
        if (w.width < PART_ELEMENTS / w.n + 1) w.width = PART_ELEMENTS / w.n + 1;
        if (w.row == 1) w.width = (w.width + 63) / 64 * 64; /* neighbouring columns share cache lines */
        if (w.width > w.rows || threads == 1) w.width = w.rows;
    }
    w.per_slab = (w.rows + w.width - 1) / w.width;
    w.parts = w.slabs * w.per_slab;
    if (threads > w.parts) threads = w.parts;
    if (threads > 1)
        status = run_on_pool(frame, &w, threads);
    else
        for (ptrdiff_t part = 0; part < w.parts && status == CSM_OK; part++) status = run_part(&w, part);
    return outcome(frame, status);
}

#define HANDLER(name, operation)                                                                             \
    XLA_FFI_Error *csoftmax_jax_##name(XLA_FFI_CallFrame *frame);                                            \
    XLA_FFI_Error *csoftmax_jax_##name(XLA_FFI_CallFrame *frame) { return handle(frame, operation); }

HANDLER(softmax, SOFTMAX)
HANDLER(log_softmax, LOG_SOFTMAX)
HANDLER(logsumexp, LOGSUMEXP)
HANDLER(softmax_backward, SOFTMAX_BACKWARD)
HANDLER(log_softmax_backward, LOG_SOFTMAX_BACKWARD)
