"""Weights, upstream gradients, probabilities and logits of any size: loss and gradient as exact arithmetic has them."""

import mpmath
import numpy as np
import oracle
import pytest
from arrays import DTYPES, FLOATS
from hypothesis import given
from hypothesis import strategies as st

import csoftmax

pytestmark = pytest.mark.usefixtures("isa")

X = np.array([[0.0, 1.0]])
P = csoftmax.softmax(X)[0]
TINY, TOP = 5e-324, float(np.finfo(np.float64).max)


def same_bits(got, want):
    return got.dtype == want.dtype and got.shape == want.shape and got.tobytes() == want.tobytes()


def check(x, target, axis=-1, *, allowed=4, **options):
    """Loss and gradient against the oracle, in the type of the result; in place nothing changes."""
    grad_output = options.pop("grad_output", None)
    want, want_grad, scale = oracle.cross_entropy(x, target, axis, grad_output=grad_output, **options)
    alone = csoftmax.cross_entropy(x, target, axis, **options)
    loss, grad = csoftmax.cross_entropy_with_grad(x, target, axis, grad_output=grad_output, **options)
    assert same_bits(np.asarray(alone), np.asarray(loss))
    assert oracle.max_ulp(loss, want) <= allowed, (loss, want)
    assert oracle.max_ulp(grad, want_grad, scale) <= 2 * allowed, (grad, want_grad)
    again = x.copy()
    csoftmax.cross_entropy_with_grad(again, target, axis, grad_output=grad_output, out=again, **options)
    assert same_bits(again, grad)
    return loss, grad


# ------------------------------------------------------------------------------------------ upstream gradients


@pytest.mark.parametrize("upstream", [1e300, 1e293, -1e300, TOP, 1e-300, 1e-310, TINY, -TINY, 1e16, 1e-16, 0.0])
def test_upstream_gradients(upstream):
    _, grad = check(X, np.array([0]), grad_output=upstream)
    np.testing.assert_allclose(grad, [[-P[1] * upstream, P[1] * upstream]], rtol=1e-15, atol=TINY)
    check(X, np.array([1]), grad_output=[upstream], reduction="none")
    check(X, np.array([[0.25, 0.75]]), grad_output=upstream, reduction="sum")
    check(X, np.array([0]), grad_output=upstream, label_smoothing=0.1)


@pytest.mark.parametrize("dtype", FLOATS)
def test_upstream_gradients_of_narrower_types(dtype):
    x = np.array([[0, 1, -50], [3, 60, 0]], dtype)
    for upstream in (1e30, 1e38, 1e45, 1e300, 1e-30, 1e-40, 1e-45, 1e-300):
        for target in (np.array([0, 2]), np.array([2, 0])):
            check(x, target, grad_output=np.array([upstream, -upstream]), reduction="none")
            check(x.T.copy(), target, 0, grad_output=np.array([upstream, 1]), reduction="none")


@pytest.mark.parametrize("dtype", FLOATS)
def test_an_infinite_upstream_gradient_times_the_gradient(dtype):
    inf = np.inf
    for width in (2, 5, 40, 1500):
        x = np.zeros((4, width), dtype)
        x[:, 0] = 3
        for target, where in ((np.zeros(4, int), 0), (np.full(4, width - 1), width - 1)):
            for upstream in (inf, -inf):
                want = np.full((4, width), upstream, dtype)
                want[:, where] = -upstream
                _, grad = csoftmax.cross_entropy_with_grad(x, target, grad_output=upstream)
                assert np.array_equal(grad, want)
                _, grad = csoftmax.cross_entropy_with_grad(x.T.copy(), target, 0, grad_output=upstream)
                assert np.array_equal(grad.T, want)
        _, grad = csoftmax.cross_entropy_with_grad(x, np.array([0, -100, 1, 0]), grad_output=inf)
        assert (grad[1] == 0).all()
        assert np.isinf(grad[0]).all()
        _, grad = csoftmax.cross_entropy_with_grad(x, np.zeros(4, int), grad_output=np.nan)
        assert np.isnan(grad).all()


# ----------------------------------------------------------------------------------------------------- weights

WEIGHTS = [1e300, 1e308, TOP, 1e200, 1e-200, 1e-300, 1e-310, 3 * TINY]


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_weights(weight, reduction):
    x, target = np.array([[0.0, 1.0], [2.0, -1.0], [0.5, 0.25]]), np.array([0, 1, 0])
    for weights in ([weight] * 2, [weight, weight / 4], [weight, 0.0], [weight, 1.0], [-weight, weight / 2]):
        if weights[0] < 0 and reduction != "none":
            # the rows' losses cancel
            continue
        with np.errstate(all="ignore"):
            options = {"weight": np.array(weights), "reduction": reduction}
            check(x, target, **options)
            check(x.T.copy(), target, 0, **options)
            check(x, target, label_smoothing=0.2, **options)
            if weights[0] > 0 or reduction == "none":
                check(x, np.array([[0.25, 0.75], [1.0, 0.0], [0.5, 0.5]]), **options)


def test_known_values_of_weights():
    loss, grad = csoftmax.cross_entropy_with_grad(X, [0], weight=[1e-310] * 2)
    np.testing.assert_allclose(loss, 1.3132616875182228, rtol=1e-15)
    np.testing.assert_allclose(grad, [[-P[1], P[1]]], rtol=1e-15)
    loss, grad = csoftmax.cross_entropy_with_grad(np.repeat(X, 2, 0), [0, 0], weight=[1e308] * 2)
    np.testing.assert_allclose(loss, 1.3132616875182228, rtol=1e-15)
    np.testing.assert_allclose(grad, [[-P[1] / 2, P[1] / 2]] * 2, rtol=1e-15)
    grad = csoftmax.cross_entropy_with_grad(X, [0], weight=[1e300] * 2, reduction="sum")[1]
    np.testing.assert_allclose(grad, [[-P[1] * 1e300, P[1] * 1e300]], rtol=1e-15)


def test_a_weight_and_an_upstream_gradient_that_balance():
    for weight, upstream in ((1e300, 1e-300), (1e-310, 1e308), (TOP, TINY), (1e200, 1e200), (1e-200, 1e-200)):
        check(X, np.array([0]), weight=np.array([weight, 1.0]), grad_output=upstream, reduction="sum")
        check(X, np.array([0]), weight=np.array([weight, 1.0]), grad_output=[upstream], reduction="none")
        check(X, np.array([0]), weight=np.array([weight] * 2), grad_output=upstream)


def test_weights_of_unlike_sizes():
    """The largest of the weights says nothing about the targets that count."""
    x = np.array([[0.0, 1.0, 2.0, 0.5], [1.0, 0.0, 3.0, 0.25]])
    weight = np.array([1e-310, 1e308, 1.0, 1e-200])
    for target in ([0, 0], [1, 1], [0, 3], [1, 0], [2, 0], [3, 3]):
        for reduction in ("none", "sum", "mean"):
            check(x, np.array(target), weight=weight, reduction=reduction)
    for target in np.eye(4)[[0, 3]], np.eye(4)[[0, 0]], np.eye(4)[[2, 1]]:
        check(x, target, weight=weight, reduction="none")
        check(x, target, weight=weight)


def test_weight_0_counts_for_nothing():
    x = np.array([[-np.inf, 0.0], [1.0, 2.0]])
    for reduction, want in (("sum", np.log1p(np.exp(-1.0))), ("mean", np.log1p(np.exp(-1.0)))):
        loss, grad = csoftmax.cross_entropy_with_grad(x, [0, 1], weight=[0.0, 1.0], reduction=reduction)
        np.testing.assert_allclose(loss, want, rtol=1e-14)
        assert (grad[0] == 0).all()
    _, grad = csoftmax.cross_entropy_with_grad(x, [0, 1], weight=[0.0, 1.0], reduction="sum", grad_output=np.inf)
    assert (grad[0] == 0).all()


def test_weights_that_are_not_finite_are_as_ever():
    for weight in ([np.inf, 1.0], [np.nan, 1.0]):
        loss = csoftmax.cross_entropy(np.repeat(X, 2, 0), [0, 1], weight=weight, reduction="none")
        assert not np.isfinite(loss[0])
        np.testing.assert_allclose(loss[1], 0.31326168751822286)


# ------------------------------------------------------------------------------------- logits, sums and means


@pytest.mark.parametrize("rows", [2, 4, 300, 5000])
def test_a_mean_of_losses_whose_sum_overflows(rows):
    for size in (1.5e308, TOP, 1e305):
        x = np.repeat([[size, 0.0]], rows, 0)
        target = np.ones(rows, int)
        for shaped, axis in ((x, -1), (x.T.copy(), 0)):
            loss = csoftmax.cross_entropy(shaped, target, axis)
            np.testing.assert_allclose(loss, size, rtol=1e-15)
            paired, grad = csoftmax.cross_entropy_with_grad(shaped, target, axis, out=shaped.copy())
            assert paired == loss
            assert oracle.max_ulp(np.moveaxis(grad, axis, -1), np.repeat([[1 / rows, -1 / rows]], rows, 0)) <= 1
            if rows * size > TOP:
                assert csoftmax.cross_entropy(shaped, target, axis, reduction="sum") == np.inf
        np.testing.assert_allclose(csoftmax.cross_entropy(x, np.eye(2)[target]), size, rtol=1e-15)


def test_logits_near_the_largest_number():
    far = np.array([[1.7e308, -1.7e308, 0.0], [-TOP, TOP, 1.0], [0.0, 1.0, 2.0], [0.0, 3.0, 0.0]])
    for target in (np.array([1, 0, 2, 1]), np.array([0, 1, 0, 0]), np.array([2, 2, 1, 2])):
        for options in ({}, {"label_smoothing": 0.1}, {"weight": np.array([0.01, 1e-3, 1e-200])}):
            for reduction in ("none", "sum", "mean"):
                check(far, target, reduction=reduction, **options)
                check(far.T.copy(), target, 0, reduction=reduction, **options)
    probabilities = np.array([[0.5, 0.25, 0.25], [0.1, 0.9, 0.0], [1.0, 0.0, 0.0], [0.2, 0.3, 0.5]])
    for reduction in ("none", "sum", "mean"):
        check(far, probabilities, reduction=reduction)
    assert np.isinf(csoftmax.cross_entropy(np.array([[np.inf, 0.0], [-np.inf, 0.0]]), [1, 0], reduction="none")[1])


def test_an_infinite_loss_stays_infinite():
    x = np.array([[0.0, -np.inf], [1.0, 2.0]])
    for options in ({}, {"weight": [1e308] * 2}, {"weight": [1e-310] * 2}):
        for reduction in ("sum", "mean"):
            assert csoftmax.cross_entropy(x, [1, 0], reduction=reduction, **options) == np.inf


# ------------------------------------------------------------------------------------------------------- paths


@pytest.mark.parametrize("width", [2, 3, 10, 40, 65, 1000, 5000])
@pytest.mark.parametrize("dtype", FLOATS)
def test_every_path_and_no_row_changes_another(dtype, width, rng):
    """A row that needs powers of two taken out leaves the bits of those around it alone."""
    x = rng.standard_normal((40, width)).astype(dtype)
    target, upstream = rng.integers(0, width, 40), rng.standard_normal(40)
    probabilities = oracle.narrow(oracle.softmax(rng.standard_normal((40, width))), dtype)
    weight = rng.uniform(0.5, 2, width)
    extreme = np.ldexp(upstream, rng.integers(-1000, 1000, 40))
    mixed = np.where(rng.random(40) < 0.3, extreme, upstream)
    for chosen in (target, probabilities):
        for options in ({}, {"weight": weight}, {"label_smoothing": 0.2}):
            options = {"reduction": "none", **options}
            calm, plain = csoftmax.cross_entropy_with_grad(x, chosen, grad_output=upstream, **options)
            loss, grad = csoftmax.cross_entropy_with_grad(x, chosen, grad_output=mixed, **options)
            assert same_bits(loss, calm)
            assert same_bits(grad[mixed == upstream], plain[mixed == upstream])
            across = chosen.T.copy() if chosen is probabilities else chosen
            columns = csoftmax.cross_entropy_with_grad(x.T.copy(), across, 0, grad_output=mixed, **options)
            assert same_bits(columns[0], loss)
            assert same_bits(columns[1].T.copy(), grad)
            spread = csoftmax.cross_entropy_with_grad(np.repeat(x, 2, 1)[:, ::2], chosen, grad_output=mixed, **options)
            assert same_bits(np.ascontiguousarray(spread[1]), grad)
            for i in (0, 17, 39):
                one = csoftmax.cross_entropy_with_grad(x[i], chosen[i], grad_output=mixed[i], **options)
                assert same_bits(one[1], grad[i])
            check(x, chosen, grad_output=mixed, allowed=8 if dtype in DTYPES else 4, **options)


@pytest.mark.parametrize("factor", [2.0**-900, 2.0**-60, 2.0**60, 2.0**900])
def test_a_power_of_two_in_the_weights_changes_no_digit(factor, rng):
    x, target = rng.standard_normal((300, 10)), rng.integers(0, 10, 300)
    weight = rng.uniform(0.5, 2, 10)
    for chosen in (target, oracle.softmax(rng.standard_normal((300, 10))).astype(float)):
        for options in ({"reduction": "none"}, {"reduction": "none", "label_smoothing": 0.1}):
            loss, grad = csoftmax.cross_entropy_with_grad(x, chosen, weight=weight, **options)
            other = csoftmax.cross_entropy_with_grad(x, chosen, weight=weight * factor, **options)
            assert same_bits(other[0], loss * factor)
            assert same_bits(other[1], grad * factor)
    options = {"label_smoothing": 0.1}
    loss, grad = csoftmax.cross_entropy_with_grad(x, target, weight=weight, **options)
    other = csoftmax.cross_entropy_with_grad(x, target, weight=weight * factor, **options)
    np.testing.assert_allclose(other[0], loss, rtol=4e-16)
    assert same_bits(other[1], grad)


def test_long_rows(rng):
    x = rng.standard_normal((2, 300_000))
    for upstream in (1e300, 1e-310):
        check(x, np.array([5, 299_999]), grad_output=np.array([upstream, 1.0]), reduction="none", allowed=8)
        check(x, np.array([5, 7]), weight=np.full(300_000, upstream), allowed=8)


# --------------------------------------------------------------------------------- against mpmath, by exponents

EXPONENTS = st.integers(-1074, 1023)
SIZES = st.builds(lambda m, e: float(np.ldexp(m, e)), st.floats(1, 2, exclude_max=True), EXPONENTS)


def decimal(v):
    if abs(v) < mpmath.mpf(2) ** -16000:
        return "0"
    return mpmath.nstr(v, 30, min_fixed=0, max_fixed=0)


def exact_row(x, shares):
    """-sum q log p, and Q p - q, in mpmath."""
    scaled = [mpmath.mpf(float(v)) for v in x]
    top = max(scaled)
    rest = mpmath.fsum(mpmath.exp(v - top) for i, v in enumerate(scaled) if i != int(np.argmax(x)))
    logs = [v - top - mpmath.log1p(rest) for v in scaled]
    total = mpmath.fsum(shares)
    loss = -mpmath.fsum(q * v for q, v in zip(shares, logs, strict=True))
    terms = [(total * mpmath.exp(v), q) for q, v in zip(shares, logs, strict=True)]
    return loss, terms


@given(
    rows=st.lists(
        st.tuples(st.lists(st.floats(-1, 1), min_size=3, max_size=3), st.integers(0, 2), SIZES), min_size=1, max_size=5
    ),
    base=EXPONENTS,
    weights=st.lists(st.tuples(st.floats(1, 2, exclude_max=True), st.integers(-300, 300)), min_size=3, max_size=3),
    size=st.one_of(st.integers(-5, 5), st.integers(1000, 1023)),
    reduction=st.sampled_from(["none", "sum", "mean"]),
    smoothing=st.sampled_from([0.0, 0.25]),
)
def test_exact_over_all_weights_upstream_gradients_and_logits(rows, base, weights, size, reduction, smoothing):
    weights = [float(np.ldexp(m, min(max(base + e, -1074), 1023))) for m, e in weights]
    x = np.ldexp(np.array([row[0] for row in rows]), size)
    target = np.array([row[1] for row in rows])
    upstream = np.array([row[2] for row in rows]) if reduction == "none" else rows[0][2]
    got, grad = csoftmax.cross_entropy_with_grad(
        x, target, weight=weights, reduction=reduction, label_smoothing=smoothing, grad_output=upstream
    )
    with mpmath.workdps(60):
        exact_weights = [mpmath.mpf(w) for w in weights]
        divisor = mpmath.fsum(exact_weights[t] for t in target) if reduction == "mean" else mpmath.mpf(1)
        losses, grads, scales = [], [], []
        for i, t in enumerate(target):
            apart = mpmath.mpf(smoothing)
            shares = [w * ((c == t) * (1 - apart) + apart / 3) for c, w in enumerate(exact_weights)]
            loss, terms = exact_row(x[i], shares)
            by = mpmath.mpf(float(np.broadcast_to(upstream, target.shape)[i])) / divisor
            losses.append(loss)
            grads.append([decimal((a - b) * by) for a, b in terms])
            scales.append([decimal((a + b) * by) for a, b in terms])
        if reduction != "none":
            losses = [mpmath.fsum(losses) / divisor]
        want = oracle.wide([decimal(v) for v in losses])
    assert oracle.max_ulp(np.atleast_1d(got), want) <= 4
    # the terms that cancel may be larger than the largest number, from whose ulp the error is measured then
    beyond = np.maximum(oracle.wide(scales) / oracle.wide(TOP), 1)
    assert (oracle.ulp_error(grad, oracle.wide(grads), oracle.wide(scales)) <= 8 * beyond).all()


def test_no_bit_of_a_row_depends_on_the_other_rows(rng):
    """Losses and gradients of rows alone, together and in columns, with weights and upstream gradients of any size."""
    for trial in range(60):
        classes, rows = int(rng.integers(2, 40)), int(rng.integers(2, 9))
        x = (rng.standard_normal((rows, classes)) * 10.0 ** rng.integers(-2, 4)).astype(["f4", "f8"][trial % 2])
        weight = 10.0 ** rng.uniform(-320, 300, classes) if trial % 3 else rng.random(classes)
        upstream = 10.0 ** rng.uniform(-300, 300, rows) * rng.choice([-1, 1], rows)
        upstream[0] = 1
        shares = csoftmax.softmax(rng.standard_normal((rows, classes)) * rng.choice([1, 200]))
        for target in (rng.integers(0, classes, rows), shares):
            options = {"weight": weight, "label_smoothing": rng.choice([0, 0.1]), "reduction": "none"}
            loss, grad = csoftmax.cross_entropy_with_grad(x, target, grad_output=upstream, **options)
            columns = csoftmax.cross_entropy_with_grad(x.T.copy(), target.T, 0, grad_output=upstream, **options)
            assert np.array_equal(columns[0], loss, equal_nan=True)
            assert np.array_equal(columns[1].T, grad, equal_nan=True)
            for i in range(rows):
                alone = csoftmax.cross_entropy_with_grad(
                    x[i : i + 1], target[i : i + 1], grad_output=upstream[i : i + 1], **options
                )
                assert np.array_equal(alone[0], loss[i : i + 1], equal_nan=True), (trial, i)
                assert np.array_equal(alone[1], grad[i : i + 1], equal_nan=True), (trial, i)


def test_a_small_share_has_the_same_gradient_beside_a_large_upstream_gradient():
    x = [[-168.46731310175613, 539.5153260415644, -332.19376368343435], [0, 1, 2.0]]
    weight = [1.0, 1000.0, 1.1199163422038627e-300]
    first = [
        csoftmax.cross_entropy_with_grad(
            x, [2, 0], weight=weight, label_smoothing=0.1, reduction="none", grad_output=[1.0, other]
        )[1][0]
        for other in (1.0, 1e100)
    ]
    assert same_bits(*first)


def test_a_share_that_underflows_is_no_share_of_zero():
    x, target = np.array([[0, -1e200]]), np.array([[0.5, 1e-170]])
    options = {"weight": [0, 1e-160], "reduction": "sum"}
    assert csoftmax.cross_entropy(x, target, **options) == pytest.approx(1e-130, rel=1e-14)
    loss = csoftmax.cross_entropy_with_grad(x, target, grad_output=1e20, **options)[0]
    assert loss == csoftmax.cross_entropy(x, target, **options)
    tiny = csoftmax.cross_entropy([[0, -1000.0]], [1], weight=[5e-324] * 2, label_smoothing=0.5, reduction="sum")
    assert tiny == pytest.approx(3.7e-321, rel=2e-3)
