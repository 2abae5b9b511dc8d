# Cross-entropy. With q the weighted target distribution of a row and Q its sum,
#     loss = Q logsumexp(x) - sum(q x),    d loss / d x = Q p - q.
# Rows and columns differ only in the step between their elements.

cdef struct LossRow:
    bint counted              # not ignored
    Py_ssize_t target         # class index; -1 for probabilities
    double weight             # of the index
    double whole              # Q
    double dot                # sum(q (m - x))
    double at_target          # x[target], read before the gradient may overwrite it
    double upstream           # what the gradient is multiplied by


cdef inline double class_weight(const Job *job, Py_ssize_t c) noexcept nogil:
    return job.loss.weight[c] if job.loss.weight != NULL else 1


cdef inline double target_share(const Job *job, const LossRow *r, const real *probabilities,
                                Py_ssize_t c) noexcept nogil:
    # q[c], but for the share of the index itself
    cdef double share = job.loss.smoothing / job.n
    if not job.loss.indices:
        share += (1 - job.loss.smoothing) * probabilities[c]
    return share * class_weight(job, c)


cdef inline void prepare_loss(const Job *job, Py_ssize_t row, const real *x, Py_ssize_t step, LossRow *r,
                              real *probabilities, double *coefficient) noexcept nogil:
    cdef double top = -INFINITY, q, lost, whole_rest = 0, dot_rest = 0
    cdef Py_ssize_t c
    cdef int64_t index
    r.counted = True
    r.target = -1
    r.weight = r.whole = r.dot = r.at_target = 0
    r.upstream = job.loss.scale
    if job.upstream.data != NULL:
        r.upstream *= (<double *> batch_at(job, &job.upstream, row))[0]
    if job.loss.indices:
        index = load_index(job.target.storage, batch_at(job, &job.target, row))
        # out of range only if somebody changed it after it was checked
        r.counted = index != job.loss.ignore_index and 0 <= index < job.n
        if r.counted:
            r.target = index
            r.weight = (1 - job.loss.smoothing) * class_weight(job, index)
            r.at_target = x[index * step]
            r.whole = r.weight
    else:
        gather(job, &job.target, batch_at(job, &job.target, row), 0, job.n, probabilities)
    if r.counted and (job.loss.smoothing > 0 or not job.loss.indices):
        for c in range(job.n):
            if x[c * step] > top:
                top = x[c * step]
        for c in range(job.n):
            q = target_share(job, r, probabilities, c)
            two_sum(r.whole, q, &r.whole, &lost)
            whole_rest += lost
            q *= top - x[c * step]
            two_sum(r.dot, q, &r.dot, &lost)
            dot_rest += lost
        r.whole += whole_rest
        if -INFINITY < r.dot < INFINITY:
            r.dot += dot_rest
    coefficient[0] = r.upstream * r.whole if r.counted else 0


cdef inline double settle_loss(const Job *job, const LossRow *r, double m, double log_sum,
                               double log_rest) noexcept nogil:
    cdef double loss, rest, gap, lost
    if not r.counted:
        return 0
    if m == INFINITY:
        # as log_softmax, and the gradient: NaN, whichever class is the target
        return m - m
    if not PAIRS:
        loss = r.whole * log_sum + r.dot
        if r.target >= 0 and r.weight != 0:
            loss += r.weight * (m - r.at_target)
        return loss
    loss = r.whole * log_sum
    rest = r.whole * log_rest
    if r.dot != 0:
        add_part(r.dot, &loss, &rest)
    if r.target >= 0 and r.weight != 0:
        two_sum(m, -r.at_target, &gap, &lost)
        add_part(r.weight * gap, &loss, &rest)
        rest += r.weight * lost
    return whole_sum(loss, rest)


cdef void settle_gradient(const Job *job, Py_ssize_t row, const LossRow *r, double m, double log_sum, real *y,
                          Py_ssize_t step, real *probabilities) noexcept nogil:
    # y holds upstream * Q * p
    cdef double others
    cdef Py_ssize_t c
    if not r.counted:
        for c in range(job.n):
            y[c * step] = 0
        return
    if not job.loss.indices:
        gather(job, &job.target, batch_at(job, &job.target, row), 0, job.n, probabilities)
    if job.loss.smoothing > 0 or not job.loss.indices:
        for c in range(job.n):
            y[c * step] = <real> (y[c * step] - r.upstream * target_share(job, r, probabilities, c))
        if r.target >= 0:
            y[r.target * step] = <real> (y[r.target * step] - r.upstream * r.weight)
        return
    # p - 1 has lost its digits where p is close to 1
    others = m - r.at_target + log_sum
    if others < 1:
        y[r.target * step] = <real> (r.upstream * r.weight * expm1(-others))
    else:
        y[r.target * step] = <real> (y[r.target * step] - r.upstream * r.weight)


cdef inline void keep_loss(const Job *job, Py_ssize_t row, double loss, double *total, double *rest) noexcept nogil:
    cdef real value = <real> loss
    if job.row_loss.data != NULL:
        store_run(job.row_loss.storage, batch_at(job, &job.row_loss, row), 0, 1, &value)
    else:
        add_part(loss, total, rest)


cdef inline void keep_total(const Job *job, Py_ssize_t part, double total, double rest) noexcept nogil:
    # of some of a part's rows
    if job.row_loss.data == NULL:
        add_part(total, &job.partial[2 * part], &job.partial[2 * part + 1])
        job.partial[2 * part + 1] += rest


cdef inline Py_ssize_t loss_doubles(Py_ssize_t rows) noexcept nogil:
    # coefficient, maximum and log of the sum, in two parts, and a LossRow for each
    return rows * (4 + (<Py_ssize_t> sizeof(LossRow) + 7) // 8)


cdef void loss_rows(const Job *job, Strip *s, Py_ssize_t row, real *e, double *stats, double *per_row,
                    real *spare) noexcept nogil:
    cdef double *coefficient = per_row
    cdef LossRow *r = <LossRow *> (per_row + 4 * s.rows)
    cdef double total = 0, rest = 0
    cdef Py_ssize_t i
    s.coefficient = coefficient
    s.top = per_row + s.rows
    s.log_sum = s.top + s.rows
    s.log_rest = s.log_sum + s.rows
    for i in range(s.rows):
        prepare_loss(job, row + i, s.x + i * s.x_pitch, 1, r + i, spare, coefficient + i)
    run_strip(s, e, stats, job.operation)
    for i in range(s.rows):
        keep_loss(job, row + i, settle_loss(job, r + i, s.top[i], s.log_sum[i], s.log_rest[i]), &total, &rest)
        if job.operation == CROSS_ENTROPY_GRAD:
            settle_gradient(job, row + i, r + i, s.top[i], s.log_sum[i], s.y + i * s.y_pitch, 1, spare)
    keep_total(job, row // loss_chunk(job.n), total, rest)


cdef void loss_columns(const Job *job, Panel *s, Py_ssize_t row, Py_ssize_t unit, char *scratch, double *per_column,
                       real *spare) noexcept nogil:
    cdef Py_ssize_t across = across_of(s.width)
    cdef double *coefficient = per_column
    cdef LossRow *r = <LossRow *> (per_column + 4 * across)
    cdef double total = 0, rest = 0
    cdef Py_ssize_t c
    s.coefficient = coefficient
    s.top = per_column + across
    s.log_sum = s.top + across
    s.log_rest = s.log_sum + across
    for c in range(s.width, across):
        coefficient[c] = 1
    for c in range(s.width):
        prepare_loss(job, row + c, s.x + c, s.x_step, r + c, spare, coefficient + c)
    run_panel(s, scratch, job.operation)
    for c in range(s.width):
        keep_loss(job, row + c, settle_loss(job, r + c, s.top[c], s.log_sum[c], s.log_rest[c]), &total, &rest)
        if job.operation == CROSS_ENTROPY_GRAD:
            settle_gradient(job, row + c, r + c, s.top[c], s.log_sum[c], s.y + c, s.y_step, spare)
    keep_total(job, unit, total, rest)
