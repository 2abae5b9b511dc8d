# Cross-entropy. With q the weighted target distribution of a row and Q its sum,
#     loss = Q logsumexp(x) - sum(q x),    d loss / d x = Q p - q.
# Rows and columns differ only in the step between their elements.

cdef struct Losses:
    # of some rows; each array has a number a row, and room for whole vectors
    const real *x
    real *y
    Py_ssize_t rows
    Py_ssize_t x_pitch        # elements from row to row
    Py_ssize_t x_step         # and from one to the next
    Py_ssize_t y_pitch
    Py_ssize_t y_step
    bint ignored              # some are
    int64_t *target           # class index; -1 for an ignored one, and for probabilities
    double *coefficient       # upstream Q; then the loss
    double *top               # max(x)
    double *log_sum           # in two parts
    double *log_rest
    double *upstream          # what the gradient is multiplied by
    double *weight            # of the index
    double *whole             # Q
    double *dot               # sum(q (m - x))
    double *at_target         # x[target], read before the gradient may overwrite it
    double *surprise          # -log(p[target]), in place of log_rest
    bint scaled               # powers of two have been taken out of some rows:
    int64_t *loss_exponent    # out of weight, whole and dot, and so of the loss,
    int64_t *grad_exponent    # and out of the gradient
    real *each                # losses that are not summed


cdef void lay_losses(Losses *l, Py_ssize_t rows, Scratch *scratch) noexcept nogil:
    # OUT l: its arrays, in scratch, for "rows" rows or columns at most.
    cdef Py_ssize_t pitch = tile_pitch(rows)
    l.target = <int64_t *> scratch_alloc(scratch, pitch, sizeof(int64_t))
    l.coefficient = scratch_doubles(scratch, pitch)
    l.top = scratch_doubles(scratch, pitch)
    l.log_sum = scratch_doubles(scratch, pitch)
    l.log_rest = scratch_doubles(scratch, pitch)
    l.upstream = scratch_doubles(scratch, pitch)
    l.weight = scratch_doubles(scratch, pitch)
    l.whole = scratch_doubles(scratch, pitch)
    l.dot = scratch_doubles(scratch, pitch)
    l.at_target = scratch_doubles(scratch, pitch)
    l.surprise = l.log_rest
    l.loss_exponent = <int64_t *> scratch_alloc(scratch, pitch, sizeof(int64_t))
    l.grad_exponent = <int64_t *> scratch_alloc(scratch, pitch, sizeof(int64_t))
    l.each = scratch_reals(scratch, pitch)


cdef struct RowScratch:
    # Scratch of run_rows, for the rows that run_batch is given together.
    BlockStats *stats         # one for each block of each row in flight
    real *e                   # exponentials of the rows in flight, or groups of packed rows with one row a lane
    Losses losses             # of a loss
    real *probabilities       # of a loss: the target's, of one row
    real *tile                # staged rows, which their results may replace; or two blocks of loaded ones
    char *mask                # of staged rows: a byte for each element
    real *tile_p              # staged outputs of the forward; or the results of LOGSUMEXP, one a row
    uint64_t *keys            # of each row's maximum, where that is subtracted exactly
    Py_ssize_t *exponents     # powers of two that are taken out of each row at an extreme temperature


cdef struct ColumnScratch:
    # Scratch of run_columns, for one tile.
    TileScratch tile
    TileStage stage
    Losses losses             # of a loss
    real *probabilities       # of a loss: the target's, of one column


cdef inline double class_weight(const Problem *problem, Py_ssize_t c) noexcept nogil:
    return problem.loss.weight[c] if problem.loss.weight != NULL else 1


cdef inline double unweighted_target(const Problem *problem, const real *probabilities, Py_ssize_t c) noexcept nogil:
    # q[c] before it is weighted, but for what the index itself adds. IN probabilities[problem.n], unless targets are
    # indices.
    cdef double target = problem.loss.smoothing / problem.n
    if not problem.loss.indices:
        target += (1 - problem.loss.smoothing) * probabilities[c]
    return target


cdef inline double target_weight(const Problem *problem, const real *probabilities, Py_ssize_t c) noexcept nogil:
    # q[c], but for what the index itself adds.
    return unweighted_target(problem, probabilities, c) * class_weight(problem, c)


cdef inline bint is_spread(const Problem *problem) noexcept nogil:
    # more than one class may have a part of q
    return problem.loss.smoothing > 0 or not problem.loss.indices


cdef void gather_target(const Problem *problem, Py_ssize_t row, real *probabilities) noexcept nogil:
    if not problem.loss.indices:
        gather(problem, &problem.target, batch_at(problem, &problem.target, row), 0, problem.n, probabilities)


cdef inline void load_indices(const char *p, Py_ssize_t stride, Py_ssize_t rows, int64_t *index,
                              const int storage) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(rows):
        index[i] = load_index(storage, p + i * stride)


cdef bint find_targets(const Problem *problem, Py_ssize_t row, const Losses *losses) noexcept nogil:
    # Each index is read once, and trusted only when it has been checked again: somebody may have changed it. True if
    # some are ignored.
    cdef Losses l = losses[0]
    cdef const char *p = batch_at(problem, &problem.target, row)
    cdef Py_ssize_t stride = problem.target.row, i
    cdef double own = 1 - problem.loss.smoothing
    cdef const double *weight = problem.loss.weight
    cdef int64_t ignore = problem.loss.ignore_index, index
    cdef uint64_t n = problem.n
    cdef bint ignored = False, counted
    if problem.target.storage == I64:
        load_indices(p, stride, l.rows, l.target, I64)
    elif problem.target.storage == I32:
        load_indices(p, stride, l.rows, l.target, I32)
    else:
        load_indices(p, stride, l.rows, l.target, problem.target.storage)
    for i in range(l.rows):
        index = l.target[i]
        counted = index != ignore and <uint64_t> index < n
        ignored |= not counted
        l.target[i] = index if counted else -1
        l.whole[i] = own if counted else 0
        l.at_target[i] = l.x[i * l.x_pitch + (index if counted else 0) * l.x_step]
    if weight != NULL:
        for i in range(l.rows):
            if l.target[i] >= 0:
                l.whole[i] *= weight[l.target[i]]
    return ignored


cdef void spread_target(const Problem *problem, const real *x, Py_ssize_t step, const real *probabilities,
                        const int64_t *exponent, double *whole, double *dot) noexcept nogil:
    # IN x: a logit every "step"; probabilities[problem.n], unless targets are indices. q is added to IN OUT whole, and
    # its product with max(x) - x to IN OUT dot; both without a power of two, if one is given. If none is, and some q[c]
    # loses digits for being subnormal or 0, the infinity that dot becomes tells that one is needed.
    cdef double top = -INFINITY, q, below, lost, whole_rest = 0, dot_rest = 0
    cdef Py_ssize_t c
    for c in range(problem.n):
        if x[c * step] > top:
            top = x[c * step]
    for c in range(problem.n):
        if unweighted_target(problem, probabilities, c) == 0 or class_weight(problem, c) == 0:
            # 0 log 0 is 0: a class whose q is 0 counts for nothing, even if its logit is -inf
            continue
        # a quarter: the difference may overflow where the product does not
        below = 0.25 * top - 0.25 * x[c * step]
        if exponent != NULL:
            q = target_weight_times(problem, probabilities, c, 1, -exponent[0])
            below = target_weight_times(problem, probabilities, c, below, 2 - exponent[0])
        else:
            q = target_weight(problem, probabilities, c)
            below = 4 * q * below if q >= DBL_MIN or q <= -DBL_MIN else INFINITY
        two_sum(whole[0], q, whole, &lost)
        whole_rest += lost
        two_sum(dot[0], below, dot, &lost)
        dot_rest += lost
    whole[0] += whole_rest
    if -INFINITY < dot[0] < INFINITY:
        dot[0] += dot_rest


cdef void prepare_losses(const Problem *problem, Py_ssize_t row, Losses *losses, real *probabilities) noexcept nogil:
    cdef Losses l = losses[0]
    cdef const char *upstream
    cdef Py_ssize_t stride = problem.upstream.row, across = tile_pitch(l.rows), i
    cdef double scale = problem.loss.scale
    losses.ignored = False
    for i in range(l.rows):
        l.upstream[i] = scale
    if problem.upstream.data != NULL:
        upstream = batch_at(problem, &problem.upstream, row)
        for i in range(l.rows):
            l.upstream[i] *= (<const double *> (upstream + i * stride))[0]
    if problem.loss.indices:
        losses.ignored = find_targets(problem, row, losses)
    else:
        for i in range(l.rows):
            l.target[i] = -1
            l.whole[i] = l.at_target[i] = 0
    for i in range(l.rows, across):
        l.whole[i] = l.at_target[i] = l.upstream[i] = 0
    for i in range(across):
        l.weight[i] = l.whole[i]
    for i in range(across):
        l.dot[i] = 0
    if is_spread(problem):
        for i in range(l.rows):
            if l.target[i] >= 0 or not problem.loss.indices:
                gather_target(problem, row + i, probabilities)
                spread_target(problem, l.x + i * l.x_pitch, l.x_step, probabilities, NULL, l.whole + i, l.dot + i)
    losses.scaled = not all_ordinary(problem, &l)
    if losses.scaled:
        for i in range(l.rows):
            scale_loss(problem, row, i, &l, probabilities)
    for i in range(across):
        l.coefficient[i] = l.upstream[i] * l.whole[i]


cdef inline void add_to_sums(const Losses *l, v_f64 total, v_f64 rest, double *partial) noexcept nogil:
    # One more batch's losses, summed in lanes as total + rest, to the SUMS pairs of sums of its chunk: IN OUT partial.
    cdef double totals[VL64]
    cdef double rests[VL64]
    cdef double *middle = partial + 2 * (SUMS // 2)
    cdef double sum = middle[0], sum_rest = middle[1]
    cdef Py_ssize_t i
    store_f64(totals, total)
    store_f64(rests, rest)
    for i in range(VL64):
        add_part(totals[i], &sum, &sum_rest)
        sum_rest += rests[i]
    if l.scaled or not -INFINITY < sum < INFINITY:
        sum_by_size(l, partial)
    else:
        middle[0] = sum
        middle[1] = sum_rest


cdef void finish_losses(const Problem *problem, Py_ssize_t row, Py_ssize_t part, const Losses *losses) noexcept nogil:
    cdef Losses l = losses[0]
    cdef v_f64 zero = set1_f64(0), quarter = set1_f64(0.25), total = zero, rest = zero
    cdef v_f64 m, below, log_sum, log_rest, weight, loss, at_index, lost
    cdef bint each = problem.row_loss.data != NULL
    cdef Py_ssize_t i
    if l.ignored:
        for i in range(l.rows):
            if l.target[i] < 0:
                l.top[i] = l.log_sum[i] = l.log_rest[i] = 0
    for i in range(l.rows, (l.rows + VL64 - 1) // VL64 * VL64):
        l.top[i] = l.log_sum[i] = l.log_rest[i] = 0
    for i from 0 <= i < l.rows by VL64:
        m = load_f64(l.top + i)
        log_sum = load_f64(l.log_sum + i)
        weight = load_f64(l.weight + i)
        loss = mul_f64(load_f64(l.whole + i), log_sum)
        if COMPENSATED:
            log_rest = mul_f64(load_f64(l.whole + i), load_f64(l.log_rest + i))
            # of quarters, as in spread_target
            two_sum_lanes(mul_f64(m, quarter), sub_f64(zero, mul_f64(load_f64(l.at_target + i), quarter)), &below,
                          &lost)
            weight = mul_f64(weight, set1_f64(4))
            log_rest = add_f64(log_rest, mul_f64(weight, lost))
            two_sum_lanes(loss, load_f64(l.dot + i), &loss, &lost)
            at_index = and_ne_f64(weight, zero, mul_f64(weight, below))
            loss = add_log_lanes(loss, at_index, add_f64(log_rest, lost))
            below = mul_f64(below, set1_f64(4))
        else:
            below = sub_f64(m, load_f64(l.at_target + i))
            loss = add_f64(loss, load_f64(l.dot + i))
            loss = add_f64(loss, and_ne_f64(weight, zero, mul_f64(weight, below)))
        # where a logit is +inf as log_softmax, and the gradient: NaN, whichever class is the target
        loss = select_lt_f64(m, set1_f64(INFINITY), loss, sub_f64(m, m))
        if problem.operation == CROSS_ENTROPY_GRAD:
            store_f64(l.surprise + i, add_f64(below, log_sum))
        store_f64(l.coefficient + i, loss)
        if each:
            v_narrow(l.each + i, loss)
        else:
            two_sum_lanes(total, loss, &total, &lost)
            rest = add_f64(rest, lost)
    if each:
        if l.scaled:
            scale_each(&l)
        store_run(problem.row_loss.storage, batch_at(problem, &problem.row_loss, row), problem.row_loss.row, l.rows,
                  l.each)
        return
    add_to_sums(&l, total, rest, problem.partial + 2 * SUMS * part)


cdef void finish_gradients(const Problem *problem, Py_ssize_t row, const Losses *losses,
                           real *probabilities) noexcept nogil:
    # IN OUT l.y: upstream * Q * p becomes the gradient.
    cdef Losses l = losses[0]
    cdef Py_ssize_t i, c
    cdef double target
    cdef bint spread = is_spread(problem), rescaled
    # where p is close to 1, p - 1 has lost its digits
    cdef v_f64 near = set1_f64(-INFINITY if spread else 1), others, weight
    cdef double *at_index = l.dot
    cdef real *y
    if spread or l.ignored:
        for i in range(l.rows):
            y = l.y + i * l.y_pitch
            if l.ignored and l.target[i] < 0:
                for c in range(problem.n):
                    y[c * l.y_step] = 0
            elif spread:
                gather_target(problem, row + i, probabilities)
                rescaled = l.scaled and (l.loss_exponent[i] != 0 or l.grad_exponent[i] != 0)
                for c in range(problem.n):
                    target = (target_weight_times(problem, probabilities, c, l.upstream[i], -l.loss_exponent[i])
                              if rescaled else l.upstream[i] * target_weight(problem, probabilities, c))
                    y[c * l.y_step] = <real> (y[c * l.y_step] - target)
    if not problem.loss.indices:
        return
    for i in range(l.rows):
        at_index[i] = l.y[i * l.y_pitch + (l.target[i] if l.target[i] >= 0 else 0) * l.y_step]
    for i from 0 <= i < l.rows by VL64:
        others = load_f64(l.surprise + i)
        weight = mul_f64(load_f64(l.upstream + i), load_f64(l.weight + i))
        store_f64(at_index + i, select_lt_f64(others, near, mul_f64(weight, expm1_neg_f64(others)),
                                              sub_f64(load_f64(at_index + i), weight)))
    for i in range(l.rows):
        if l.target[i] >= 0:
            l.y[i * l.y_pitch + l.target[i] * l.y_step] = <real> at_index[i]


cdef void loss_rows(const Problem *problem, RowBatch *s, Py_ssize_t row, const RowScratch *scratch) noexcept nogil:
    # The losses of a batch, whose first row is "row" of the problem, and their gradients.
    cdef Losses l = scratch.losses
    l.rows = s.rows
    l.x = s.x
    l.y = s.y
    l.x_pitch = s.x_pitch
    l.y_pitch = s.y_pitch
    l.x_step = l.y_step = 1
    s.coefficient = l.coefficient
    s.top = l.top
    s.log_sum = l.log_sum
    s.log_rest = l.log_rest
    prepare_losses(problem, row, &l, scratch.probabilities)
    run_batch(s, scratch.e, scratch.stats)
    finish_losses(problem, row, row // loss_chunk(problem.n), &l)
    if problem.operation == CROSS_ENTROPY_GRAD:
        finish_gradients(problem, row, &l, scratch.probabilities)
        if l.scaled:
            scale_gradients(problem, &l)


cdef void loss_columns(const Problem *problem, ColumnTile *s, Py_ssize_t row, Py_ssize_t unit,
                       const ColumnScratch *scratch) noexcept nogil:
    # As loss_rows, of tile "unit" of the problem.
    cdef Losses l = scratch.losses
    l.rows = s.width
    l.x = s.x
    l.y = s.y
    l.x_step = s.x_step
    l.y_step = s.y_step
    l.x_pitch = l.y_pitch = 1
    s.coefficient = l.coefficient
    s.top = l.top
    s.log_sum = l.log_sum
    s.log_rest = l.log_rest
    prepare_losses(problem, row, &l, scratch.probabilities)
    run_tile(s, &scratch.tile, problem.operation)
    finish_losses(problem, row, unit, &l)
    if problem.operation == CROSS_ENTROPY_GRAD:
        finish_gradients(problem, row, &l, scratch.probabilities)
        if l.scaled:
            scale_gradients(problem, &l)
