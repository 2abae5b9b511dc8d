# Packed rows: rows too short to fill vectors. VL of them, a group, are transposed into a tile, one row a lane. So the
# work on an element fills its vectors, and the work on a row is done for all rows of a group together. Each step is
# taken for several groups, as one group is a chain of operations that wait for each other. Accumulator
# i % ACCUMULATORS takes element i, as in a longer row.

cdef enum:
    GROUPS = 4                # at a time ...
    GROUP_REALS = 2048        # ... of so many elements, one group at the least


cdef struct Group:
    # VL rows, one a lane.
    Py_ssize_t first
    Py_ssize_t count
    real *tile
    bint direct               # some row needs the direct range reduction
    bint tiny                 # some row needs "after"
    real maxima[VL]           # what shift_lanes makes of them follows
    real origin[VL]
    real away[VL]
    real magic[VL]
    real center[VL]
    real sums[2 * VL]         # two halves
    real ties[VL]
    real high[VL]
    real low[VL]
    real after[VL]


cdef inline Py_ssize_t groups_of(Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t groups = GROUP_REALS // (n * VL)
    return GROUPS if groups > GROUPS else (groups if groups > 1 else 1)


cdef inline vec keep_quads(const vec *quads, Py_ssize_t count, real *tile, vec top) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(count):
        v_store(tile + j * VL, quads[j])
        top = v_max(quads[j], top)
    return top


cdef inline void announce(const real *x, real *y, bint writes) noexcept nogil:
    # The lines of the next rows, and of the results, are fetched: later they are met four elements a row.
    cdef Py_ssize_t j
    for j in range(QUAD):
        prefetch(x + j * VL)
        if writes:
            prefetch_write(y + j * VL)


cdef inline vec pack(const real *x, Py_ssize_t pitch, Py_ssize_t rows, Py_ssize_t n, real *tile, real *y,
                     bint writes) noexcept nogil:
    # Element i of IN "rows" rows of x, "pitch" elements from row to row, to OUT tile + i * VL; returns their maxima.
    cdef Py_ssize_t i = 0, r
    cdef vec top = v_set1(-INFINITY)
    cdef vec quads[QUAD]
    if rows == VL:
        while i <= n - QUAD:
            announce(x + VL * pitch + i * VL, y + i * VL, writes)
            v_quads_in(x + i, pitch, QUAD, quads)
            top = keep_quads(quads, QUAD, tile + i * VL, top)
            i += QUAD
        if i < n:
            v_quads_in(x + i, pitch, n - i, quads)
            top = keep_quads(quads, n - i, tile + i * VL, top)
        return top
    for i in range(n):
        v_store(tile + i * VL, v_set1(0))
        for r in range(rows):
            tile[i * VL + r] = x[r * pitch + i]
        top = v_max(v_load(tile + i * VL), top)
    return top


cdef inline void tile_exps(Group *a, Py_ssize_t n, double t, real *below, const bint direct, const bint keep,
                           const int gathers) noexcept nogil:
    # The exponentials of IN OUT a.tile, in its place (keep); and (SUM_AND_TIES) those below the maximum, with 0 for the
    # others, to OUT below, of the tile's size, and the number of the others to a.ties.
    cdef vec counts = v_set1(0), away = v_load(a.away), e, d, one
    cdef real *tile = a.tile          # which need not be read again after every store
    cdef shift_t shift
    cdef Py_ssize_t i
    shift.maximum = v_load(a.origin)
    shift.magic = v_load(a.magic)
    shift.center = v_load(a.center)
    for i in range(n):
        e = column_exp(v_load(tile + i * VL), &d, &shift, away, t, direct)
        if keep:
            v_store(tile + i * VL, e)
        if gathers == SUM_AND_TIES:
            one = v_set1(0)
            add_exps(e, d, &one, &counts, SUM_AND_TIES)
            v_store(below + i * VL, one)
    if gathers == SUM_AND_TIES:
        v_store(a.ties, counts)


cdef inline void tile_halves(const real *a, Py_ssize_t n, real *sums) noexcept nogil:
    # The two halves of the accumulators of IN a[n * VL], a tile, to OUT sums[2 * VL]; every fourth accumulator is in
    # registers at a time.
    cdef Py_ssize_t i, j, k
    cdef vec part[QUARTER]
    cdef vec four[4]
    for j in range(4):
        for k in range(QUARTER):
            part[k] = v_set1(0)
        if n <= 4:
            four[j] = v_load(a + j * VL) if j < n else part[0]
            continue
        i = j
        while i < n - ACCUMULATORS + 4:
            for k in range(QUARTER):
                part[k] = v_add(part[k], v_load(a + (i + k * 4) * VL))
            i += ACCUMULATORS
        for k in range(QUARTER):
            if i + k * 4 < n:
                part[k] = v_add(part[k], v_load(a + (i + k * 4) * VL))
        k = QUARTER // 2
        while k > 0:
            for i in range(k):
                part[i] = v_add(part[i], part[i + k])
            k //= 2
        four[j] = part[0]
    v_store(sums, v_add(four[0], four[2]))
    v_store(sums + VL, v_add(four[1], four[3]))


cdef inline void group_exps(Group *a, Py_ssize_t n, double t, const bint direct, const bint keep,
                            const int gathers) noexcept nogil:
    # The exponentials of a group, and OUT a.sums: the two halves of each row's sum.
    cdef real below[SHORT * VL]
    tile_exps(a, n, t, below, direct, keep, gathers)
    tile_halves(&below[0] if gathers == SUM_AND_TIES else a.tile, n, a.sums)


cdef void direct_group_exps(Group *a, Py_ssize_t n, double t, bint keep, int gathers) noexcept nogil:
    # As group_exps, with the direct range reduction: for a temperature, or a maximum far from 0. Compiled once.
    if gathers == SUM:
        group_exps(a, n, t, True, True, SUM)
    else:
        group_exps(a, n, t, True, keep, SUM_AND_TIES)


cdef inline void group_logs(const RowBatch *s, Group *a) noexcept nogil:
    # What is made of the logarithm of each row's sum.
    cdef double tops[VL]
    cdef double logs[VL]
    cdef double rests[VL]
    cdef bint loss = s.top != NULL
    # those of a loss have room for whole vectors
    cdef double *top = s.top + a.first if loss else tops
    cdef double *log_sum = s.log_sum + a.first if loss else logs
    cdef double *log_rest = s.log_rest + a.first if loss else rests
    cdef v_f64 sum, rest
    cdef bint nan
    cdef Py_ssize_t r
    for r from 0 <= r < VL by VL64:
        store_f64(top + r, v_widen(a.maxima + r))
        join_pair_lanes(a.sums + r, a.sums + VL + r, &sum, &rest)
        log_lanes(sum, rest, v_widen(a.ties + r), log_sum + r, log_rest + r)
        if s.operation == LOG_SOFTMAX:
            split_log_lanes(top + r, log_sum + r, log_rest + r, s.inv_t, a.high + r, a.low + r)
    if not all_finite(a.maxima, VL):
        for r in range(a.count):
            if not -INFINITY < top[r] < INFINITY:
                nan = has_nan(s.x + (a.first + r) * s.x_pitch, s.n, 1)
                infinite_log(top[r], nan, log_sum + r, log_rest + r)
                split_log(top[r], log_sum[r], log_rest[r], s.inv_t, a.high + r, a.low + r)
    if s.operation == LOGSUMEXP:
        for r from 0 <= r < VL by VL64:
            v_narrow(a.high + r, add_log_lanes(load_f64(top + r), load_f64(log_sum + r), load_f64(log_rest + r)))
        for r in range(a.count):
            s.y[(a.first + r) * s.y_pitch] = a.high[r]


cdef inline void group_factors(const RowBatch *s, Group *a, const int gathers) noexcept nogil:
    # The factors of each row's exponentials.
    cdef bint split = gathers == SUM_AND_TIES
    cdef const double *coefficient = s.coefficient + a.first if split else NULL
    cdef v_f64 sum, rest, tied
    cdef Py_ssize_t r
    for r from 0 <= r < VL by VL64:
        join_pair_lanes(a.sums + r, a.sums + VL + r, &sum, &rest)
        if split:
            two_sum_lanes(mul_f64(v_widen(a.ties + r), set1_f64(EXP_SCALE)), sum, &sum, &tied)
            rest = add_f64(tied, rest)
        if factor_lanes(sum, rest, coefficient + r if split else NULL, a.high + r, a.low + r, a.after + r):
            a.tiny = True


cdef inline vec group_result(vec a, vec high, vec low, const Logs *logs, const int operation) noexcept nogil:
    # A result, from a logit or an exponential.
    if operation == LOG_SOFTMAX:
        return log_of(a, logs)
    return normalised(a, high, low)


cdef inline void unpack(const Group *a, Py_ssize_t n, double inv_t, real *y, Py_ssize_t pitch,
                        const int operation) noexcept nogil:
    cdef Py_ssize_t i = 0, j, r
    cdef vec high = v_load(a.high), low = v_load(a.low), e
    cdef Logs logs = logs_of(high, low, inv_t)
    cdef vec quads[QUAD]
    cdef real lanes[VL]
    if a.count == VL and not a.tiny:
        while i <= n - QUAD:
            for j in range(QUAD):
                quads[j] = group_result(v_load(a.tile + (i + j) * VL), high, low, &logs, operation)
            v_quads_out(y + i, pitch, QUAD, quads)
            i += QUAD
        if i < n:
            for j in range(QUAD):
                quads[j] = group_result(v_load(a.tile + (i + j if j < n - i else i) * VL), high, low, &logs, operation)
            v_quads_out(y + i, pitch, n - i, quads)
        return
    for i in range(n):
        e = group_result(v_load(a.tile + i * VL), high, low, &logs, operation)
        v_store(lanes, v_mul(e, v_load(a.after)) if a.tiny else e)
        for r in range(a.count):
            y[r * pitch + i] = lanes[r]


cdef inline Py_ssize_t pack_groups(const RowBatch *s, Py_ssize_t first, real *tile, Group *group,
                                   bint writes) noexcept nogil:
    # Rows from "first" on to OUT group[GROUPS], whose tiles follow each other in OUT tile; how many groups there are.
    cdef Py_ssize_t most = groups_of(s.n), groups = 0, pitch = s.x_pitch
    cdef Group *a
    while groups < most and first < s.rows:
        a = &group[groups]
        a.first = first
        a.count = s.rows - first if s.rows - first < VL else VL
        a.tile = tile + groups * s.n * VL
        a.tiny = False
        v_store(a.maxima, pack(s.x + first * pitch, pitch, a.count, s.n, a.tile, s.y + first * s.y_pitch, writes))
        first += a.count
        groups += 1
    return groups


cdef inline void packed_rows(const RowBatch *s, real *tile, const bint keep, const int gathers) noexcept nogil:
    # Scratch: tile, groups_of(s.n) times VL rows.
    cdef bint writes = keep or s.operation == LOG_SOFTMAX
    cdef Py_ssize_t first = 0, groups, g
    cdef Group group[GROUPS]
    cdef Group *a
    while first < s.rows:
        groups = pack_groups(s, first, tile, group, writes)
        for g in range(groups):
            a = &group[g]
            first += a.count
            a.direct = shift_lanes(a.maxima, VL, s.t, a.origin, a.away, a.magic, a.center)
        for g in range(groups):
            if group[g].direct:
                direct_group_exps(&group[g], s.n, s.t, keep, gathers)
            else:
                group_exps(&group[g], s.n, s.t, False, keep, gathers)
        for g in range(groups):
            if gathers == SUM_AND_TIES:
                group_logs(s, &group[g])
            if keep:
                group_factors(s, &group[g], gathers)
        for g in range(groups):
            a = &group[g]
            if keep:
                unpack(a, s.n, s.inv_t, s.y + a.first * s.y_pitch, s.y_pitch, SOFTMAX)
            elif writes:
                unpack(a, s.n, s.inv_t, s.y + a.first * s.y_pitch, s.y_pitch, LOG_SOFTMAX)


cdef void packed_softmax(const RowBatch *s, real *scratch, BlockStats *stats) noexcept nogil:
    packed_rows(s, scratch, True, SUM)


cdef void packed_logs(const RowBatch *s, real *scratch, BlockStats *stats) noexcept nogil:
    packed_rows(s, scratch, False, SUM_AND_TIES)


cdef void packed_loss_and_gradient(const RowBatch *s, real *scratch, BlockStats *stats) noexcept nogil:
    packed_rows(s, scratch, True, SUM_AND_TIES)
