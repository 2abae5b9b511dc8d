# From a job to strips and panels: finds the rows in memory, and stages through scratch what is not contiguous
# native reals (16-bit floats, integers, strides, foreign byte order, masks).

cdef enum:
    STAGE = 4096              # reals staged at a time, or one row


cdef inline char *batch_at(const Job *job, const Operand *o, Py_ssize_t row) noexcept nogil:
    cdef char *p = o.data
    cdef Py_ssize_t d
    if job.batch_ndim == 1:
        return p + row * o.batch[0]
    for d in range(job.batch_ndim - 1, -1, -1):
        p += row % job.batch_shape[d] * o.batch[d]
        row //= job.batch_shape[d]
    return p


cdef inline Py_ssize_t axis_run(const Job *job, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    # elements from i on that lie at one stride
    cdef Py_ssize_t inner
    if job.axis_ndim <= 1:
        return n
    inner = job.axis_shape[job.axis_ndim - 1] - i % job.axis_shape[job.axis_ndim - 1]
    return inner if inner < n else n


cdef inline Py_ssize_t axis_offset(const Job *job, const Operand *o, Py_ssize_t i) noexcept nogil:
    cdef Py_ssize_t d, offset = 0
    if job.axis_ndim == 1:
        return i * o.axis[0]
    for d in range(job.axis_ndim - 1, -1, -1):
        offset += i % job.axis_shape[d] * o.axis[d]
        i //= job.axis_shape[d]
    return offset


cdef inline Py_ssize_t axis_stride(const Job *job, const Operand *o) noexcept nogil:
    return o.axis[job.axis_ndim - 1] if job.axis_ndim > 0 else <Py_ssize_t> sizeof(real)


cdef void gather(const Job *job, const Operand *o, const char *row, Py_ssize_t first, Py_ssize_t n,
                 real *dst) noexcept nogil:
    cdef Py_ssize_t i = first, count
    while i < first + n:
        count = axis_run(job, i, first + n - i)
        load_run(o.storage, row + axis_offset(job, o, i), axis_stride(job, o), count, dst)
        dst += count
        i += count


cdef void exclude(const Job *job, Py_ssize_t row, real *dst, Py_ssize_t *kept, real value) noexcept nogil:
    # The elements of dst, a row of job.n reals, that the mask excludes become "value"; kept[0] counts the others.
    cdef const char *mask = batch_at(job, &job.mask, row)
    cdef Py_ssize_t i = 0, count
    kept[0] = 0
    while i < job.n:
        count = axis_run(job, i, job.n - i)
        mask_run(mask + axis_offset(job, &job.mask, i), axis_stride(job, &job.mask), count, dst + i, kept, 0, value)
        i += count


cdef void shift_exactly(const Job *job, Py_ssize_t row, real *dst, uint64_t *key) noexcept nogil:
    # A row of 64-bit integers whose maximum a double does not hold: dst becomes their exact differences from it. OUT
    # key[0]: the key of the maximum.
    cdef const char *x = batch_at(job, &job.x, row)
    cdef const char *mask = batch_at(job, &job.mask, row) if job.mask.data != NULL else NULL
    cdef Py_ssize_t i = 0, count
    key[0] = 0
    while i < job.n:
        count = axis_run(job, i, job.n - i)
        max_keys(job.x.storage, x + axis_offset(job, &job.x, i), axis_stride(job, &job.x), count,
                 mask + axis_offset(job, &job.mask, i) if mask != NULL else NULL, axis_stride(job, &job.mask), key, 0)
        i += count
    i = 0
    while i < job.n:
        count = axis_run(job, i, job.n - i)
        subtract_keys(job.x.storage, x + axis_offset(job, &job.x, i), axis_stride(job, &job.x), count, key, 0, dst + i)
        i += count


cdef void scatter(const Job *job, const Operand *o, char *row, Py_ssize_t first, Py_ssize_t n,
                  const real *src) noexcept nogil:
    cdef Py_ssize_t i = first, count
    while i < first + n:
        count = axis_run(job, i, first + n - i)
        store_run(o.storage, row + axis_offset(job, o, i), axis_stride(job, o), count, src)
        src += count
        i += count


cdef inline bint dense_rows(const Job *job, const Operand *o, Py_ssize_t size) noexcept nogil:
    # a run of rows is one run of elements
    return (job.axis_ndim == 1 and job.batch_ndim >= 1 and o.axis[0] == size
            and o.batch[job.batch_ndim - 1] == size * job.n)


cdef void gather_rows(const Job *job, const Operand *o, const char *row, Py_ssize_t rows, real *dst) noexcept nogil:
    cdef Py_ssize_t r, size = 2 if (o.storage & 15) <= 1 else <Py_ssize_t> sizeof(real)
    if dense_rows(job, o, size):
        load_run(o.storage, row, size, rows * job.n, dst)
        return
    for r in range(rows):
        gather(job, o, row + r * (o.batch[job.batch_ndim - 1] if job.batch_ndim else 0), 0, job.n, dst + r * job.n)


cdef void scatter_rows(const Job *job, const Operand *o, char *row, Py_ssize_t rows, const real *src) noexcept nogil:
    cdef Py_ssize_t r, size = 2 if (o.storage & 15) <= 1 else <Py_ssize_t> sizeof(real)
    if dense_rows(job, o, size):
        store_run(o.storage, row, size, rows * job.n, src)
        return
    for r in range(rows):
        scatter(job, o, row + r * (o.batch[job.batch_ndim - 1] if job.batch_ndim else 0), 0, job.n, src + r * job.n)


cdef inline bint as_it_lies(const Operand *o, int storage) noexcept nogil:
    return o.data == NULL or (o.storage == storage and o.axis[0] == 2)


cdef inline int storage_of(const Job *job) noexcept nogil:
    # that of 16-bit floats which are worked on where they lie, or REAL
    cdef bint half = job.x.storage == F16 or job.x.storage == BF16
    if (HALVES and half and job.n > SHORT and job.axis_ndim == 1 and job.mask.data == NULL
            and not is_loss(job.operation) and as_it_lies(&job.x, job.x.storage)
            and as_it_lies(&job.p, job.x.storage)
            and (job.operation == LOGSUMEXP or as_it_lies(&job.y, job.x.storage))):
        return job.x.storage
    return REAL


cdef inline bint is_loss(int operation) noexcept nogil:
    return operation == CROSS_ENTROPY or operation == CROSS_ENTROPY_GRAD


cdef inline real excluded_input(int operation) noexcept nogil:
    # what the mask puts in place of a logit, or of an incoming gradient
    return 0 if is_derivative(operation) else -INFINITY


cdef inline real excluded_output(int operation) noexcept nogil:
    # what a probability or log-probability is where the mask excludes its class
    return 0 if operation == SOFTMAX or operation == SOFTMAX_GRAD else -INFINITY


cdef inline real excluded_result(int operation) noexcept nogil:
    return 0 if is_derivative(operation) else excluded_output(operation)


# ---------------------------------------------------------------------------------------- masks of rows

cdef void mask_rows(const Job *job, Py_ssize_t row, Py_ssize_t rows, real *tile, real *tile_p,
                    Py_ssize_t *kept) noexcept nogil:
    # Logits, or incoming gradients and outputs of the forward, as if the excluded classes were not there. OUT kept:
    # how many elements of each row stay.
    cdef Py_ssize_t r
    for r in range(rows):
        exclude(job, row + r, tile + r * job.n, kept + r, excluded_input(job.operation))
        if job.p.data != NULL:
            exclude(job, row + r, tile_p + r * job.n, kept + r, excluded_output(job.operation))


cdef void mask_results(const Job *job, Py_ssize_t row, Py_ssize_t rows, real *y, Py_ssize_t *kept) noexcept nogil:
    # Excluded elements where the kernels wrote something else: all of a derivative's, and those of rows that are NaN or
    # have nothing left.
    cdef Py_ssize_t r
    for r in range(rows):
        if is_derivative(job.operation) or kept[r] == 0 or y[r * job.n] != y[r * job.n]:
            exclude(job, row + r, y + r * job.n, kept + r, excluded_result(job.operation))


# ------------------------------------------------------------------------------------------------- rows

cdef inline Py_ssize_t stage_rows(const Job *job) noexcept nogil:
    cdef Py_ssize_t rows = STAGE // (job.n if job.n > 0 else 1)
    return 1 if rows < 1 else (LOSS_CHUNK if rows > LOSS_CHUNK else rows)


cdef inline Py_ssize_t exp_reals(const Job *job) noexcept nogil:
    # what run_strip works in
    cdef Py_ssize_t n = job.n
    return in_flight(n, job.rows) * padded(n) if n > SHORT else groups_of(n) * VL * padded(n)


cdef inline Py_ssize_t loss_room(const Job *job) noexcept nogil:
    # rows whose losses are prepared together, at most
    return job.rows if job.rows < LOSS_CHUNK else LOSS_CHUNK


cdef Py_ssize_t rows_scratch(const Job *job) noexcept nogil:
    cdef Py_ssize_t reals = exp_reals(job)
    cdef Py_ssize_t doubles = in_flight(job.n, job.rows) * blocks_of(job.n) * STATS
    if not job.direct:
        reals += 2 * BLOCK if storage_of(job) != REAL else 2 * (stage_rows(job) * job.n + LANES)
        doubles += (2 if job.exact or is_rescaled(job) else 1) * LOSS_CHUNK
    if is_loss(job.operation):
        doubles += loss_doubles(loss_room(job))
        reals += padded(job.n)
    return (doubles * <Py_ssize_t> sizeof(double) + 63) // 64 * 64 + reals * <Py_ssize_t> sizeof(real)


cdef void run_rows(const Job *job, Py_ssize_t begin, Py_ssize_t end, char *scratch) noexcept nogil:
    cdef Py_ssize_t inner = job.batch_shape[job.batch_ndim - 1] if job.batch_ndim else 1
    cdef Py_ssize_t last = job.batch_ndim - 1, n = job.n, limit, row = begin, r, kept_bytes
    cdef Py_ssize_t size = <Py_ssize_t> sizeof(real) if storage_of(job) == REAL else 2
    cdef bint loss = is_loss(job.operation)
    cdef Py_ssize_t losses = loss_doubles(loss_room(job)) if loss else 0
    cdef Strip s
    cdef double *stats = <double *> scratch
    cdef double *per_row = stats + in_flight(n, job.rows) * blocks_of(n) * STATS
    cdef Py_ssize_t *kept = <Py_ssize_t *> (per_row + losses)
    cdef uint64_t *keys = <uint64_t *> (kept + LOSS_CHUNK)
    cdef Py_ssize_t doubles = (in_flight(n, job.rows) * blocks_of(n) * STATS + losses
                               + (0 if job.direct else (2 if job.exact or is_rescaled(job) else 1) * LOSS_CHUNK))
    cdef real *e = <real *> (scratch + (doubles * <Py_ssize_t> sizeof(double) + 63) // 64 * 64)
    cdef real *spare = e + exp_reals(job)
    cdef real *tile = spare + (padded(n) if loss else 0)
    cdef real *tile_p = tile + stage_rows(job) * n + LANES
    cdef char *x
    cdef char *y
    memset(&s, 0, sizeof(Strip))
    s.n = n
    s.t = inner_temperature(job)
    s.inv_t = 1 / s.t
    s.storage = storage_of(job)
    s.kept = tile
    s.stream = job.stream and s.storage == REAL
    limit = end - begin if job.direct or s.storage != REAL else stage_rows(job)
    if s.storage != REAL and job.operation == LOGSUMEXP and limit > LOSS_CHUNK:
        # its results wait where others count what a mask keeps
        limit = LOSS_CHUNK
    if loss and limit > loss_chunk(n):
        limit = loss_chunk(n)
    while row < end:
        s.rows = inner - row % inner
        if s.rows > end - row:
            s.rows = end - row
        if s.rows > limit:
            s.rows = limit
        if loss and s.rows > loss_chunk(n) - row % loss_chunk(n):
            s.rows = loss_chunk(n) - row % loss_chunk(n)
        x = batch_at(job, &job.x, row)
        y = batch_at(job, &job.y, row) if job.y.data != NULL else NULL
        if job.direct or s.storage != REAL:
            s.x = <const real *> x
            s.y = <real *> y
            if job.batch_ndim:
                s.x_pitch = job.x.batch[last] // size
                s.y_pitch = job.y.batch[last] // size
            if job.p.data != NULL:
                s.p = <const real *> batch_at(job, &job.p, row)
                s.p_pitch = job.p.batch[last] // size if job.batch_ndim else 0
            if not job.direct and job.operation == LOGSUMEXP:
                s.y = <real *> kept
                s.y_pitch = 1
        else:
            gather_rows(job, &job.x, x, s.rows, tile)
            s.x = s.y = tile
            s.x_pitch = s.p_pitch = n
            s.y_pitch = 1 if job.operation == LOGSUMEXP else n
            if job.p.data != NULL:
                gather_rows(job, &job.p, batch_at(job, &job.p, row), s.rows, tile_p)
                s.p = tile_p
            if job.exact:
                for r in range(s.rows):
                    shift_exactly(job, row + r, tile + r * n, keys + r)
            if job.mask.data != NULL:
                mask_rows(job, row, s.rows, tile, tile_p, kept)
            if job.operation == LOGSUMEXP:
                s.y = tile_p
            if is_rescaled(job):
                rescale(job, tile, s.rows, n, 1, kept + LOSS_CHUNK)
        if loss:
            loss_rows(job, &s, row, e, stats, per_row, spare)
        elif HALVES and s.storage != REAL:
            run_strip_16(&s, e, stats, job.operation)
        else:
            run_strip(&s, e, stats, job.operation)
        if is_rescaled(job):
            scale_back(job, tile, s.rows, n, 1, kept + LOSS_CHUNK)
        if not job.direct and job.y.data != NULL:
            if job.operation == LOGSUMEXP:
                if job.exact:
                    for r in range(s.rows):
                        s.y[r] = add_key(job.x.storage, keys[r], s.y[r])
                store_run(job.y.storage, y, job.y.batch[last] if job.batch_ndim else 0, s.rows, s.y)
            elif s.storage == REAL:
                if job.mask.data != NULL:
                    mask_results(job, row, s.rows, s.y, kept)
                scatter_rows(job, &job.y, y, s.rows, s.y)
        row += s.rows
    if job.stream:
        stream_fence()


# ---------------------------------------------------------------------------------------------- columns

cdef Py_ssize_t columns_scratch(const Job *job) noexcept nogil:
    cdef Py_ssize_t across = across_of(job.width)
    cdef Py_ssize_t size = tile_bytes(job.n, job.width, job.staged)
    if not job.direct:
        size += (2 * job.n + 1) * across * <Py_ssize_t> sizeof(real)
        size += (2 if job.exact or is_rescaled(job) else 1) * across * <Py_ssize_t> sizeof(Py_ssize_t)
    if is_loss(job.operation):
        size += loss_doubles(across) * <Py_ssize_t> sizeof(double) + job.n * <Py_ssize_t> sizeof(real)
    return size


cdef void gather_panel(const Operand *o, const char *base, Py_ssize_t n, Py_ssize_t width, Py_ssize_t stride,
                       real *dst, Py_ssize_t step) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        load_run(o.storage, base + i * o.axis[0], stride, width, dst + i * step)


cdef void exclude_panel(const Job *job, Py_ssize_t row, Py_ssize_t width, real *dst, Py_ssize_t step, Py_ssize_t *kept,
                        real value) noexcept nogil:
    # as "exclude", of columns whose rows lie "step" reals apart; kept has a count a column
    cdef const char *mask = batch_at(job, &job.mask, row)
    cdef Py_ssize_t i
    memset(kept, 0, width * sizeof(Py_ssize_t))
    for i in range(job.n):
        mask_run(mask + i * job.mask.axis[0], job.mask.batch[job.batch_ndim - 1], width, dst + i * step, kept, 1, value)


cdef void shift_panel(const Job *job, Py_ssize_t row, Py_ssize_t width, real *dst, Py_ssize_t step,
                      uint64_t *keys) noexcept nogil:
    # as "shift_exactly", of columns; keys has one a column
    cdef const char *x = batch_at(job, &job.x, row)
    cdef const char *mask = batch_at(job, &job.mask, row) if job.mask.data != NULL else NULL
    cdef Py_ssize_t last = job.batch_ndim - 1, i
    memset(keys, 0, width * sizeof(uint64_t))
    for i in range(job.n):
        max_keys(job.x.storage, x + i * job.x.axis[0], job.x.batch[last], width,
                 mask + i * job.mask.axis[0] if mask != NULL else NULL, job.mask.batch[last], keys, 1)
    for i in range(job.n):
        subtract_keys(job.x.storage, x + i * job.x.axis[0], job.x.batch[last], width, keys, 1, dst + i * step)


cdef void mask_panel(const Job *job, Py_ssize_t row, Py_ssize_t width, real *tile, real *tile_p, Py_ssize_t step,
                     Py_ssize_t *kept) noexcept nogil:
    # as "mask_rows", of columns
    exclude_panel(job, row, width, tile, step, kept, excluded_input(job.operation))
    if job.p.data != NULL:
        exclude_panel(job, row, width, tile_p, step, kept, excluded_output(job.operation))


cdef void mask_panel_results(const Job *job, Py_ssize_t row, Py_ssize_t width, real *y, Py_ssize_t step,
                             Py_ssize_t *kept) noexcept nogil:
    # as "mask_results", of columns
    cdef Py_ssize_t c
    cdef bint some = is_derivative(job.operation)
    for c in range(width):
        some = some or kept[c] == 0 or y[c] != y[c]
    if some:
        exclude_panel(job, row, width, y, step, kept, excluded_result(job.operation))


cdef void run_columns(const Job *job, Py_ssize_t begin, Py_ssize_t end, char *scratch) noexcept nogil:
    cdef Py_ssize_t last = job.batch_ndim - 1, inner = job.batch_shape[last], n = job.n
    cdef Py_ssize_t tiles = (inner + job.width - 1) // job.width, across = across_of(job.width)
    cdef Py_ssize_t unit, column, row, i, c
    cdef Py_ssize_t size = <Py_ssize_t> sizeof(real)
    cdef bint loss = is_loss(job.operation)
    cdef Panel s
    cdef double *per_column = <double *> (scratch + tile_bytes(n, job.width, job.staged))
    cdef Py_ssize_t *kept = <Py_ssize_t *> (per_column + (loss_doubles(across) if loss else 0))
    cdef uint64_t *keys = <uint64_t *> (kept + (0 if job.direct else across))
    cdef real *tile = <real *> (keys + (across if job.exact or is_rescaled(job) else 0))
    cdef real *tile_p = tile + (0 if job.direct else n * across)
    cdef real *spare = tile_p + (0 if job.direct else n * across + across)
    cdef char *x
    cdef char *y
    memset(&s, 0, sizeof(Panel))
    s.n = n
    s.t = inner_temperature(job)
    s.inv_t = 1 / s.t
    s.stream = job.stream and job.direct
    s.staged = job.staged
    for unit in range(begin, end):
        column = unit % tiles * job.width
        row = unit // tiles * inner + column
        s.width = job.width if inner - column > job.width else inner - column
        x = batch_at(job, &job.x, row)
        y = batch_at(job, &job.y, row) if job.y.data != NULL else NULL
        if job.direct:
            s.x = <const real *> x
            s.x_step = job.x.axis[0] // size
            s.beside = s.x + (s.width if column + s.width < inner else 0)
            s.y = <real *> y
            s.y_step = 1 if job.operation == LOGSUMEXP else job.y.axis[0] // size
            if job.p.data != NULL:
                s.p = <const real *> batch_at(job, &job.p, row)
                s.p_step = job.p.axis[0] // size
        else:
            gather_panel(&job.x, x, n, s.width, job.x.batch[last], tile, across)
            s.x = s.y = tile
            s.beside = tile
            s.x_step = s.y_step = s.p_step = across
            if job.p.data != NULL:
                gather_panel(&job.p, batch_at(job, &job.p, row), n, s.width, job.p.batch[last], tile_p, across)
                s.p = tile_p
            if job.exact:
                shift_panel(job, row, s.width, tile, across, keys)
            if job.mask.data != NULL:
                mask_panel(job, row, s.width, tile, tile_p, across, kept)
            if job.operation == LOGSUMEXP:
                s.y = tile_p
                s.y_step = 1
            if is_rescaled(job):
                rescale(job, tile, s.width, 1, across, kept + across)
        if loss:
            loss_columns(job, &s, row, unit, scratch, per_column, spare)
        else:
            run_panel(&s, scratch, job.operation)
        if is_rescaled(job):
            scale_back(job, tile, s.width, 1, across, kept + across)
        if not job.direct and job.y.data != NULL:
            if job.operation == LOGSUMEXP:
                for c in range(s.width if job.exact else 0):
                    s.y[c] = add_key(job.x.storage, keys[c], s.y[c])
                store_run(job.y.storage, y, job.y.batch[last], s.width, s.y)
                continue
            if job.mask.data != NULL:
                mask_panel_results(job, row, s.width, s.y, across, kept)
            for i in range(n):
                store_run(job.y.storage, y + i * job.y.axis[0], job.y.batch[last], s.width, s.y + i * across)
    if s.stream:
        stream_fence()


cdef void run(const Job *job, Py_ssize_t begin, Py_ssize_t end, char *scratch) noexcept nogil:
    # as Python's small calls, before they have a job
    if (job.rows == 1 and job.walk == ROWS and job.direct
            and lone(job.operation, job.x.data, job.p.data, job.y.data, job.n, job.temperature)):
        return
    if job.walk == ROWS:
        run_rows(job, begin, end, scratch)
    else:
        run_columns(job, begin, end, scratch)


cdef Py_ssize_t scratch_bytes(const Job *job) noexcept nogil:
    return rows_scratch(job) if job.walk == ROWS else columns_scratch(job)


# --------------------------------------------------------------------------------- one row, by its blocks

cdef inline const real *block_of(const Job *job, const Operand *o, const char *row, Py_ssize_t b, Py_ssize_t n,
                                 real *stage) noexcept nogil:
    if job.direct:
        return <const real *> row + b * BLOCK
    gather(job, o, row, b * BLOCK, n, stage)
    return stage


cdef void measure(const Job *job, Py_ssize_t row, Py_ssize_t begin, Py_ssize_t end, double *stats,
                  char *scratch) noexcept nogil:
    cdef char *x = batch_at(job, &job.x, row)
    cdef char *p = batch_at(job, &job.p, row) if job.p.data != NULL else NULL
    cdef real *stage = <real *> scratch
    cdef const real *block
    cdef double t = job.temperature
    cdef real *e
    cdef real m = 0
    cdef Py_ssize_t b, n
    cdef bint known = False
    cdef Ahead ahead
    cdef Behind behind
    cdef char *y = batch_at(job, &job.y, row) if job.y.data != NULL else NULL
    ahead.y = stage
    for b in range(begin, end):
        n = block_length(job.n, b)
        block = block_of(job, &job.x, x, b, n, stage)
        if p != NULL:
            block_dot_of(job.operation, block, block_of(job, &job.p, p, b, n, stage + BLOCK), n, stats + STATS * b)
            continue
        if not known:
            m = block_max(block, n)
        known = block_ahead(job, block, b, end, &ahead)
        if in_place_exps(job, n):
            e = <real *> y + b * BLOCK
            ahead.y = announced_lines(e, e)
            m = exp_block(block, n, m, t, e, stats + STATS * b, &ahead, &behind, True, False, False, False)
        elif job.operation == SOFTMAX:
            m = exp_block(block, n, m, t, stage, stats + STATS * b, &ahead, &behind, False, False, False, False)
        else:
            m = exp_block(block, n, m, t, stage, stats + STATS * b, &ahead, &behind, False, True, False, False)


cdef inline bint in_place_exps(const Job *job, Py_ssize_t n) noexcept nogil:
    return job.operation == SOFTMAX and job.direct and may_wait(n, job.stream)


cdef inline bint block_ahead(const Job *job, const real *block, Py_ssize_t b, Py_ssize_t end,
                             Ahead *ahead) noexcept nogil:
    # the block after b, where it lies ready in memory; whether there is one
    cdef bint ready = job.direct and b + 1 < end
    ahead.storage = REAL
    ahead.known = False
    ahead.x = block + BLOCK if ready else block
    ahead.n = block_length(job.n, b + 1 if ready else b)
    return ready


cdef void block_dot_of(int operation, const real *g, const real *p, Py_ssize_t n, double *stats) noexcept nogil:
    if operation == SOFTMAX_GRAD:
        block_dot(g, p, g, n, stats, stats + 1, SOFTMAX_GRAD, REAL)
    elif operation == LOG_SOFTMAX_VJP:
        block_dot(g, p, g, n, stats, stats + 1, LOG_SOFTMAX_VJP, REAL)
    else:
        block_dot(g, p, g, n, stats, stats + 1, LOG_SOFTMAX_JVP, REAL)


cdef bint big_dot(const Job *job, Py_ssize_t row, BigDot *dot) noexcept nogil:
    # as finish_line, of a row that blocks write
    cdef const char *x = batch_at(job, &job.x, row)
    cdef const char *p = batch_at(job, &job.p, row)
    cdef real g[VL]
    cdef real probabilities[VL]
    cdef Py_ssize_t i, n
    dot.high = dot.low = 0
    for i from 0 <= i < job.n by VL:
        n = lanes_left(job.n - i)
        gather(job, &job.x, x, i, n, g)
        gather(job, &job.p, p, i, n, probabilities)
        add_terms(dot, g, probabilities, n, job.operation)
        if not fabs(dot.high) < INFINITY:
            return False
    return settle_dot(dot, job.operation)


cdef void join_dots(const Job *job, Py_ssize_t row, double *stats) noexcept nogil:
    # OUT stats: what gradient_dot gives, and 0; or a BigDot, and 1
    cdef double total = 0, lost = 0
    cdef Py_ssize_t b
    cdef real dot, rest
    cdef BigDot big
    for b in range(blocks_of(job.n)):
        add_part(stats[STATS * b], &total, &lost)
        lost += stats[STATS * b + 1]
    gradient_dot(total, lost, job.operation, &dot, &rest)
    stats[0] = dot
    stats[1] = rest
    stats[2] = is_beyond(dot, job.n, job.operation) and big_dot(job, row, &big)
    if stats[2]:
        stats[0] = big.high
        stats[1] = big.low


cdef void finish(const Job *job, Py_ssize_t row, double *stats) noexcept nogil:
    cdef Py_ssize_t blocks = blocks_of(job.n)
    cdef double m = 0, log_sum = 0, log_rest = 0
    cdef real value
    if job.operation == SOFTMAX:
        join_softmax(stats, blocks, job.temperature, 1)
    elif job.p.data != NULL:
        join_dots(job, row, stats)
    else:
        join_log(stats, blocks, job.temperature, &m, &log_sum, &log_rest)
        stats[0] = m
        stats[1] = log_sum
        stats[2] = log_rest
        if job.operation == LOGSUMEXP:
            value = whole_log(m, log_sum, log_rest)
            store_run(job.y.storage, batch_at(job, &job.y, row), 0, 1, &value)


cdef void write(const Job *job, Py_ssize_t row, Py_ssize_t begin, Py_ssize_t end, double *stats,
                char *scratch) noexcept nogil:
    cdef char *x = batch_at(job, &job.x, row)
    cdef char *p = batch_at(job, &job.p, row) if job.p.data != NULL else NULL
    cdef char *y
    cdef real *stage = <real *> scratch
    cdef real *e = stage + 2 * BLOCK
    cdef real *target
    cdef double t = job.temperature
    cdef real high, low
    cdef const real *block
    cdef double unused[STATS]
    cdef Py_ssize_t b, n
    cdef Ahead ahead
    cdef Behind behind
    if job.operation == LOGSUMEXP:
        return
    y = batch_at(job, &job.y, row)
    for b in range(begin, end):
        n = block_length(job.n, b)
        block = block_of(job, &job.x, x, b, n, stage)
        target = <real *> y + b * BLOCK if job.direct else e
        if p != NULL:
            gradient_run_of(job.operation, block, block_of(job, &job.p, p, b, n, stage + BLOCK), target, n,
                            stats, 1 / job.temperature, job.stream)
        elif in_place_exps(job, n):
            scale_run(target, target, n, stats[STATS * b + 3], stats[STATS * b + 4], REAL)
        elif job.operation == SOFTMAX:
            block_ahead(job, block, b, end, &ahead)
            ahead.y = e if job.stream else target
            exp_block(block, n, <real> stats[STATS * b], t, e, unused, &ahead, &behind, True, False, False, False)
            if job.stream:
                stream_run(e, target, n, stats[STATS * b + 3], stats[STATS * b + 4])
            else:
                scale_run(e, target, n, stats[STATS * b + 3], stats[STATS * b + 4], REAL)
        else:
            split_log(stats[0], stats[1], stats[2], 1 / job.temperature, &high, &low)
            log_run(block, target, n, high, low, 1 / job.temperature, job.stream, REAL)
        if not job.direct:
            scatter(job, &job.y, y, b * BLOCK, n, e)
    if job.stream:
        stream_fence()


cdef void gradient_run_of(int operation, const real *g, const real *p, real *y, Py_ssize_t n, const double *stats,
                          double inv_t, bint stream) noexcept nogil:
    # of a block of a row, from what join_dots left
    cdef real dot = <real> stats[0], rest = <real> stats[1]
    cdef BigDot big
    cdef Line line
    if stats[2]:
        big.high = stats[0]
        big.low = stats[1]
        line = line_of(g, p, y, n, REAL)
        write_line(&line, &big, inv_t, operation)
    elif operation == SOFTMAX_GRAD:
        gradient_run(g, p, y, n, dot, rest, inv_t, SOFTMAX_GRAD, stream, REAL)
    elif operation == LOG_SOFTMAX_VJP:
        gradient_run(g, p, y, n, dot, rest, inv_t, LOG_SOFTMAX_VJP, stream, REAL)
    else:
        gradient_run(g, p, y, n, dot, rest, inv_t, LOG_SOFTMAX_JVP, stream, REAL)


# -------------------------------------------------------------------------------------- what a level offers

cdef Kernels kernels
kernels.lanes = VL
kernels.block = BLOCK
kernels.run = run
kernels.lone = lone
kernels.scratch_bytes = scratch_bytes
kernels.measure = measure
kernels.finish = finish
kernels.write = write

TABLE = PyCapsule_New(&kernels, "csoftmax.kernels", NULL)
