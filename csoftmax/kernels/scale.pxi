# What keeps results right far beyond the range in which the kernels' arithmetic neither under- nor overflows: powers of
# two are taken out of rows before the kernels see them, and put back into the results. Each depends on its own row, so
# that a row's bits do not depend on its surroundings.

cdef enum:
    RAISED = 600              # powers of two: logits and a temperature near 0 are multiplied by this, ...
    LOWERED = -100            # ... or by this, near the largest number
    LIFTED = 400              # of the reciprocal of the temperature that derivatives are computed with
    LARGE_GRADIENT = 500      # incoming gradients from this on ...
    LESS_GRADIENT = -600      # ... are multiplied by this


# ----------------------------------------------------------------------------------- extreme temperatures

cdef inline double inner_temperature(const Problem *problem) noexcept nogil:
    # what the kernels work with
    if not problem.rescaled:
        return problem.temperature
    if is_derivative(problem.operation):
        return ldexp(1, -LIFTED)
    return ldexp(problem.temperature, RAISED if problem.temperature < 1 else LOWERED)


cdef void rescale_logits(real *x, Py_ssize_t n, Py_ssize_t step, double t) noexcept nogil:
    # Near 0 the maximum is taken off first, unless it is so small that nothing it is taken from could overflow: the
    # difference is exact (P. H. Sterbenz) wherever its quotient is not beyond all exponentials.
    cdef double m = -INFINITY, by = ldexp(1, RAISED if t < 1 else LOWERED)
    cdef Py_ssize_t i
    for i in range(n):
        if x[i * step] > m:
            m = x[i * step]
    if not -INFINITY < m < INFINITY:
        return
    if t > 1 or fabs(m) < 1e-240:
        m = 0
    for i in range(n):
        x[i * step] = <real> ((x[i * step] - m) * by)


cdef int rescale_gradient(real *g, Py_ssize_t n, Py_ssize_t step) noexcept nogil:
    # The derivatives are linear in the incoming gradient: its largest finite element is brought near 1 from below, and
    # away from the largest number. Returns the power of two.
    cdef double top = 0
    cdef int exponent = 0
    cdef Py_ssize_t i
    for i in range(n):
        if top < fabs(g[i * step]) < INFINITY:
            top = fabs(g[i * step])
    frexp(top, &exponent)
    if 0 <= exponent < LARGE_GRADIENT:
        return 0
    exponent = LESS_GRADIENT if exponent > 0 else -exponent
    for i in range(n):
        g[i * step] = <real> ldexp(g[i * step], exponent)
    return exponent


cdef void rescale(const Problem *problem, real *x, Py_ssize_t rows, Py_ssize_t pitch, Py_ssize_t step,
                  Py_ssize_t *exponents) noexcept nogil:
    # staged rows, "pitch" apart, with elements "step" apart, for inner_temperature
    cdef Py_ssize_t r
    for r in range(rows):
        if is_derivative(problem.operation):
            exponents[r] = rescale_gradient(x + r * pitch, problem.n, step)
        else:
            rescale_logits(x + r * pitch, problem.n, step, problem.temperature)


cdef void scale_back(const Problem *problem, real *y, Py_ssize_t rows, Py_ssize_t pitch, Py_ssize_t step,
                     const Py_ssize_t *exponents) noexcept nogil:
    # derivatives in place of what rescale was given: what is left of the temperature is divided by
    cdef int exponent = 0
    cdef double t = frexp(problem.temperature, &exponent)
    cdef Py_ssize_t r, i
    if not is_derivative(problem.operation):
        return
    for r in range(rows):
        for i in range(problem.n):
            y[r * pitch + i * step] = <real> ldexp(y[r * pitch + i * step] / t,
                                                   -LIFTED - exponent - <int> exponents[r])


# ------------------------------------------------------------- weights and upstream gradients of any size

cdef enum:
    INFINITE = 1000000        # exponent of what is infinite
    ROOM = 24                 # so many binary digits are left for the sum of a row's targets
    MOST_COEFFICIENT = 800    # exponents of what an upstream gradient may be to the kernels, which multiply it by
    MOST_FLOAT = 90           # FACTOR_SCALE: of doubles, of floats, ...
    LEAST_COEFFICIENT = -800  # ... and at the least


cdef inline double significand(double a, int64_t *exponent) noexcept nogil:
    # as frexp's, whose exponent is added; what is not finite has none
    cdef int e = 0
    if not fabs(a) < INFINITY:
        return a
    a = frexp(a, &e)
    exponent[0] += e
    return a


cdef inline double power_times(double a, int64_t exponent) noexcept nogil:
    # a 2^exponent
    if exponent >= INFINITE:
        return a * INFINITY
    return ldexp(a, <int> (exponent if exponent > -INFINITE else -INFINITE))


cdef double scaled_product(double a, double b, int64_t exponent) noexcept nogil:
    # a b 2^exponent, whatever the product itself would be
    a = significand(a, &exponent) * significand(b, &exponent)
    return power_times(a, exponent)


cdef double target_weight_times(const Problem *problem, const real *probabilities, Py_ssize_t c, double factor,
                                int64_t exponent) noexcept nogil:
    # target_weight times factor 2^exponent, whatever that itself would be
    cdef double target = significand(unweighted_target(problem, probabilities, c), &exponent)
    target *= significand(class_weight(problem, c), &exponent)
    return power_times(target * factor, exponent)


cdef inline bint is_ordinary(double a) noexcept nogil:
    # products of three such numbers are far from the ends of the range
    return (1e-15 < fabs(a)) & (fabs(a) < 1e15) | (a == 0)


cdef inline bint row_is_ordinary(const Losses *l, Py_ssize_t i) noexcept nogil:
    return is_ordinary(l.whole[i]) & is_ordinary(l.upstream[i]) & (l.dot[i] < INFINITY)


cdef inline bint scale_is_ordinary(const Problem *problem) noexcept nogil:
    return problem.loss.exponent == 0 and is_ordinary(problem.loss.scale)


cdef bint all_ordinary(const Problem *problem, const Losses *l) noexcept nogil:
    # of the losses' rows: no power of two needs to be taken out
    cdef bint ordinary = scale_is_ordinary(problem)
    cdef Py_ssize_t i
    if problem.loss.weight == NULL and not is_spread(problem) and problem.upstream.data == NULL:
        return ordinary
    for i in range(l.rows):
        ordinary &= row_is_ordinary(l, i)
    return ordinary


cdef int64_t largest_target(const Problem *problem, const real *probabilities) noexcept nogil:
    # the largest exponent of a finite part of q
    cdef int64_t largest = -INFINITE, exponent
    cdef double product
    cdef Py_ssize_t c
    for c in range(problem.n):
        exponent = 0
        product = significand(unweighted_target(problem, probabilities, c), &exponent)
        product *= significand(class_weight(problem, c), &exponent)
        if 0 < fabs(product) < INFINITY and exponent > largest:
            largest = exponent
    return largest


cdef void scale_targets(const Problem *problem, Py_ssize_t row, Py_ssize_t i, const Losses *l,
                        real *probabilities) noexcept nogil:
    # powers of two out of weight, whole and dot of one of the losses' rows
    cdef double own = 1 - problem.loss.smoothing, weight
    cdef int64_t exponent = 0, largest = -INFINITE
    if problem.loss.indices:
        weight = own * significand(class_weight(problem, l.target[i]), &exponent)
        if 0 < fabs(weight) < INFINITY:
            largest = exponent
    if is_spread(problem):
        gather_target(problem, row + i, probabilities)
        exponent = largest_target(problem, probabilities)
        largest = (exponent if exponent > largest else largest) + ROOM
    # all are 0, or not finite
    exponent = largest if largest > -INFINITE + ROOM else 0
    l.whole[i] = l.dot[i] = 0
    if problem.loss.indices:
        l.whole[i] = scaled_product(own, class_weight(problem, l.target[i]), -exponent)
    l.weight[i] = l.whole[i]
    if is_spread(problem):
        spread_target(problem, l.x + i * l.x_pitch, l.x_step, probabilities, &exponent, l.whole + i, l.dot + i)
    l.loss_exponent[i] = exponent


cdef void scale_upstream(const Problem *problem, Py_ssize_t row, Py_ssize_t i, const Losses *l) noexcept nogil:
    # out of what the gradient of one of the losses' rows is multiplied by, as far as the kernels need it
    cdef int64_t exponent = problem.loss.exponent + l.loss_exponent[i], within
    cdef int64_t most = MOST_COEFFICIENT if sizeof(real) == sizeof(double) else MOST_FLOAT
    cdef double upstream = significand(problem.loss.scale, &exponent)
    if problem.upstream.data != NULL:
        upstream *= significand((<const double *> batch_at(problem, &problem.upstream, row + i))[0], &exponent)
    if l.whole[i] == 0 and not is_spread(problem) and not isnan(upstream):
        # of weight 0, which counts for nothing: infinity times 0 is 0
        upstream = 0
    if fabs(upstream) == INFINITY:
        upstream = 1 if upstream > 0 else -1
        exponent = INFINITE
    within = most if exponent > most else exponent
    within = LEAST_COEFFICIENT if within < LEAST_COEFFICIENT else within
    if exponent >= INFINITE:
        within = 0
    l.upstream[i] = ldexp(upstream, <int> within)
    l.grad_exponent[i] = exponent - within


cdef void scale_loss(const Problem *problem, Py_ssize_t row, Py_ssize_t i, const Losses *l,
                     real *probabilities) noexcept nogil:
    # An ordinary row stays as it is, whatever stands beside it, so that its bits depend on nothing but the row.
    l.loss_exponent[i] = l.grad_exponent[i] = 0
    if scale_is_ordinary(problem) and row_is_ordinary(l, i):
        return
    if problem.loss.indices and l.target[i] < 0:
        l.upstream[i] = 0
        return
    scale_targets(problem, row, i, l, probabilities)
    scale_upstream(problem, row, i, l)


cdef double scaled_loss(const Losses *l, Py_ssize_t i, int64_t *exponent) noexcept nogil:
    # of one of the rows, and a power of two that it is to be multiplied by; finite, although the loss itself may not be
    cdef double loss = l.coefficient[i]
    exponent[0] = l.loss_exponent[i] if l.scaled else 0
    if fabs(loss) < INFINITY or not (fabs(l.top[i]) < INFINITY and fabs(l.at_target[i]) < INFINITY):
        return loss
    exponent[0] += 64
    loss = ldexp(l.whole[i], -64) * l.log_sum[i] + ldexp(l.dot[i], -64)
    return loss + ldexp(l.weight[i], -62) * (0.25 * l.top[i] - 0.25 * l.at_target[i])


cdef void scale_each(const Losses *l) noexcept nogil:
    cdef int64_t exponent
    cdef double loss
    cdef Py_ssize_t i
    for i in range(l.rows):
        loss = scaled_loss(l, i, &exponent)
        l.each[i] = <real> power_times(loss, exponent)


cdef void sum_by_size(const Losses *l, double *partial) noexcept nogil:
    # each loss to the sum that is in its range
    cdef int64_t exponent, which
    cdef double loss
    cdef Py_ssize_t i
    for i in range(l.rows):
        loss = scaled_loss(l, i, &exponent)
        which = SUMS // 2
        if 0 < fabs(loss) < INFINITY:
            loss = significand(loss, &exponent)
            exponent += SUMS // 2 * SUM_STEP + SUM_STEP // 2
            which = exponent // SUM_STEP
            which = 0 if which < 0 else (SUMS - 1 if which >= SUMS else which)
            loss = ldexp(loss, <int> (exponent - SUM_STEP // 2 - which * SUM_STEP))
        add_part(loss, partial + 2 * which, partial + 2 * which + 1)


cdef void scale_gradients(const Problem *problem, const Losses *l) noexcept nogil:
    # the powers of two are put back
    cdef real *y
    cdef Py_ssize_t i, c
    for i in range(l.rows):
        if l.grad_exponent[i] == 0:
            continue
        y = l.y + i * l.y_pitch
        for c in range(problem.n):
            y[c * l.y_step] = <real> power_times(y[c * l.y_step], l.grad_exponent[i])
