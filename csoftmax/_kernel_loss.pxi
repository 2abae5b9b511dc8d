# Cross-entropy over rows and columns.

cdef void loss_rows(const Job *job, const Strip *s, Py_ssize_t row, real *e, double *stats, double *per_row,
                    real *spare) noexcept nogil:
    pass


cdef void loss_columns(const Job *job, const Panel *s, Py_ssize_t row, Py_ssize_t unit, char *scratch,
                       double *per_column) noexcept nogil:
    pass
