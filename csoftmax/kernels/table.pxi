# Which function works on a batch of rows: operation x form of the rows. NULL: rows of that form are staged as reals.

cdef enum RowForm:
    PACKED_FORM               # short rows of reals, several of them in a vector
    REAL_FORM                 # rows of reals
    LOADED_FORM               # rows of 16-bit floats, or masked ones (not of derivatives), loaded a block at a time
    ROW_FORMS

# The results of a batch. Scratch: exp_reals reals; BlockStats of in_flight rows.
ctypedef void (*RowsFn)(const RowBatch *s, real *scratch, BlockStats *stats) noexcept nogil

cdef RowsFn row_kernels[OPERATIONS][ROW_FORMS]


cdef void set_rows(int operation, RowsFn packed, RowsFn reals, RowsFn loaded) noexcept:
    row_kernels[operation][<int> PACKED_FORM] = packed
    row_kernels[operation][<int> REAL_FORM] = reals
    row_kernels[operation][<int> LOADED_FORM] = loaded


set_rows(SOFTMAX, packed_softmax, softmax_rows, softmax_loaded_rows)
set_rows(LOG_SOFTMAX, packed_logs, log_softmax_rows, log_loaded_rows)
set_rows(LOGSUMEXP, packed_logs, log_rows, log_loaded_rows)
set_rows(CROSS_ENTROPY, packed_logs, log_rows, NULL)
set_rows(CROSS_ENTROPY_GRAD, packed_loss_and_gradient, loss_and_gradient_rows, NULL)
set_rows(SOFTMAX_GRAD, softmax_backward_rows, softmax_backward_rows, backward_halves)
set_rows(LOG_SOFTMAX_VJP, log_softmax_vjp_rows, log_softmax_vjp_rows, backward_halves)
set_rows(LOG_SOFTMAX_JVP, log_softmax_jvp_rows, log_softmax_jvp_rows, backward_halves)


cdef inline int form_of(const RowBatch *s) noexcept nogil:
    if s.storage != REAL or s.mask != NULL:
        return LOADED_FORM
    return PACKED_FORM if s.packed else REAL_FORM


cdef void run_batch(const RowBatch *s, real *scratch, BlockStats *stats) noexcept nogil:
    row_kernels[s.operation][form_of(s)](s, scratch, stats)
