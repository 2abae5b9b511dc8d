"""cross_entropy and cross_entropy_with_grad: the product of their options against the oracle; their edges."""

import contextlib
import itertools
import threading
import time

import numpy as np
import oracle
import pytest
from arrays import DTYPES, FLOATS, LAYOUTS, MAX_ULP, SOFTMAX_ULP, exact_differences

import csoftmax

pytestmark = pytest.mark.usefixtures("isa")

REDUCTIONS = ["none", "sum", "mean"]
PROBLEMS = [
    ((7, 5), -1),
    ((5, 7), 0),
    ((4, 3, 6), 1),
    ((3, 4, 5, 2), 1),
    ((6,), 0),
    ((33, 17), 1),
    ((3, 1030), 1),
]


def loss_type(dtype):
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def rows_shape(shape, axis):
    return tuple(np.delete(shape, axis))


def index_target(rng, shape, axis, ignored=None):
    """Random classes, every third of them `ignored` unless that is None."""
    target = np.asarray(rng.integers(0, shape[axis], rows_shape(shape, axis)))
    if ignored is not None:
        target[rng.random(target.shape) < 1 / 3] = ignored
    return target


def probability_target(rng, shape, axis, dtype):
    return oracle.narrow(oracle.softmax(rng.standard_normal(shape) * 2, axis), dtype)


def check(logits, target, axis=-1, *, grad_output=None, **options):
    """Loss, loss of the pair and gradient are right, and in place nothing changes."""
    x = np.array(logits, dtype=logits.dtype.name)
    loss, grad, grad_scale = oracle.cross_entropy(x, target, axis, grad_output=grad_output, **options)
    alone = csoftmax.cross_entropy(logits, target, axis, **options)
    paired, gradient = csoftmax.cross_entropy_with_grad(
        logits, target, axis, grad_output=grad_output, **options
    )
    case = (x.shape, axis, x.dtype, options)
    for got in (alone, paired):
        assert np.asarray(got).dtype == loss_type(x.dtype), case
        assert oracle.max_ulp(got, loss) <= MAX_ULP["float32"], case
    if options.get("reduction") != "none":
        assert isinstance(alone, np.floating), case
        assert isinstance(paired, np.floating), case
    assert gradient.dtype == x.dtype, case
    assert oracle.max_ulp(gradient, grad, grad_scale) <= SOFTMAX_ULP[x.dtype.name], case
    _, in_place = csoftmax.cross_entropy_with_grad(x, target, axis, grad_output=grad_output, out=x, **options)
    assert in_place is x
    assert np.array_equal(x, gradient), case


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_index_targets_with_every_option(dtype, reduction, rng):
    for (shape, axis), smoothing, weighted, ignored, given in itertools.product(
        PROBLEMS, (0.0, 0.1, 1.0), (False, True), (None, -100, 2, 255), (False, True)
    ):
        upstream = rows_shape(shape, axis) if reduction == "none" else ()
        check(
            exact_differences(rng, shape, dtype),
            index_target(rng, shape, axis, ignored),
            axis,
            reduction=reduction,
            label_smoothing=smoothing,
            weight=rng.uniform(0.5, 2, shape[axis]).astype(loss_type(dtype)) if weighted else None,
            ignore_index=-100 if ignored is None else ignored,
            grad_output=rng.standard_normal(upstream).astype(loss_type(dtype)) if given else None,
        )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_probability_targets_with_every_option(dtype, reduction, rng):
    for (shape, axis), smoothing, weighted, given in itertools.product(
        PROBLEMS, (0.0, 0.1, 1.0), (False, True), (False, True)
    ):
        upstream = rows_shape(shape, axis) if reduction == "none" else ()
        check(
            exact_differences(rng, shape, dtype),
            probability_target(rng, shape, axis, dtype),
            axis,
            reduction=reduction,
            label_smoothing=smoothing,
            weight=rng.uniform(0.5, 2, shape[axis]).astype(loss_type(dtype)) if weighted else None,
            grad_output=rng.standard_normal(upstream).astype(loss_type(dtype)) if given else None,
        )


@pytest.mark.parametrize("integer", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", ">i4", ">u2"])
def test_any_integer_type_of_target(integer, rng):
    target = index_target(rng, (50, 100), -1)
    logits = rng.standard_normal((50, 100))
    want = csoftmax.cross_entropy_with_grad(logits, target)
    got = csoftmax.cross_entropy_with_grad(logits, target.astype(integer))
    assert got[0] == want[0]
    assert np.array_equal(got[1], want[1])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits_and_targets_of_every_layout(layout, rng):
    make = LAYOUTS[layout]
    for axis in (0, 1, 2, -1):
        logits = make(exact_differences(rng, (4, 5, 6), "float64"))
        check(logits, index_target(rng, (4, 5, 6), axis)[::-1, ::-1], axis)
        check(logits, make(probability_target(rng, (4, 5, 6), axis, "float64")), axis, reduction="sum")


def test_array_likes_are_converted():
    want = csoftmax.cross_entropy(np.array([[1.0, 2.0], [3.0, 5.0]]), np.array([0, 1]))
    assert csoftmax.cross_entropy([[1, 2], [3, 5]], [0, 1]) == want
    assert csoftmax.cross_entropy([[1, 2], [3, 5]], [[1.0, 0.0], [0.0, 1.0]]) == pytest.approx(want)
    assert csoftmax.cross_entropy([1.0, 2.0], 0) == pytest.approx(np.log1p(np.e))
    weighted = csoftmax.cross_entropy([[1, 2], [3, 5]], [0, 1], weight=[1, 1])
    assert weighted == want


@pytest.mark.parametrize("dtype", FLOATS)
def test_every_target_ignored(dtype, rng):
    logits = exact_differences(rng, (6, 5), dtype)
    target = np.full(6, -100)
    for reduction, want in (("mean", np.nan), ("sum", 0.0), ("none", np.zeros(6))):
        for smoothing in (0.0, 0.1):
            options = {"reduction": reduction, "label_smoothing": smoothing}
            loss, grad = csoftmax.cross_entropy_with_grad(logits, target, **options)
            assert np.array_equal(loss, want, equal_nan=True)
            assert np.array_equal(csoftmax.cross_entropy(logits, target, **options), want, equal_nan=True)
            assert not grad.any()
            assert grad.dtype == dtype


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("probabilities", [False, True])
def test_empty_batch(dtype, probabilities):
    logits = np.empty((0, 5), dtype)
    target = np.empty((0, 5), dtype) if probabilities else np.empty(0, int)
    for reduction, want in (("mean", np.nan), ("sum", 0.0), ("none", np.empty(0))):
        loss, grad = csoftmax.cross_entropy_with_grad(logits, target, reduction=reduction)
        assert np.array_equal(loss, want, equal_nan=True)
        assert loss.dtype == loss_type(np.dtype(dtype))
        assert (grad.shape, grad.dtype) == ((0, 5), dtype)


def test_integer_logits_give_a_float64_loss_and_gradient(rng):
    logits = rng.integers(0, 256, (9, 4)).astype("uint8")
    target = index_target(rng, (9, 4), -1)
    loss, grad = csoftmax.cross_entropy_with_grad(logits, target)
    want = csoftmax.cross_entropy_with_grad(logits.astype(float), target)
    assert (loss.dtype, grad.dtype) == (np.float64, np.float64)
    assert loss == want[0]
    assert np.array_equal(grad, want[1])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_gradient_agrees_with_central_differences(axis, rng):
    shape, h = (3, 4, 5), 1e-5
    logits = rng.standard_normal(shape)
    for target in (index_target(rng, shape, axis, ignored=-100), probability_target(rng, shape, axis, float)):
        for reduction in ("mean", "sum"):
            options = {
                "reduction": reduction,
                "label_smoothing": 0.2,
                "weight": rng.uniform(0.5, 2, shape[axis]),
            }
            _, grad = csoftmax.cross_entropy_with_grad(logits, target, axis, **options)
            numeric = np.empty(shape)
            for i in np.ndindex(shape):
                losses = []
                for step in (h, -h):
                    moved = logits.copy()
                    moved[i] += step
                    losses.append(csoftmax.cross_entropy(moved, target, axis, **options))
                numeric[i] = (losses[0] - losses[1]) / (2 * h)
            assert np.allclose(grad, numeric, rtol=0, atol=1e-8)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_extreme_logits(dtype):
    top = float(np.finfo(dtype).max)
    for size in (1e4, 1e30, top / 4):
        logits = np.array([[size, -size], [-size, -size], [size, size]], dtype)
        loss, grad = csoftmax.cross_entropy_with_grad(logits, [1, 0, 1], reduction="none")
        want, grad_want, grad_scale = oracle.cross_entropy(logits, [1, 0, 1], reduction="none")
        assert oracle.max_ulp(loss, want) <= 4
        assert oracle.max_ulp(grad, grad_want, grad_scale) <= SOFTMAX_ULP[dtype]
    logits = np.array([[0, -np.inf, 1], [0, -np.inf, 1]], dtype)
    loss, grad = csoftmax.cross_entropy_with_grad(logits, [0, 1], reduction="none")
    assert loss[0] == pytest.approx(np.log1p(np.e))
    assert loss[1] == np.inf
    assert np.array_equal(grad[:, 1], np.array([0, -1], dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_near_the_smallest_normal_number_keep_their_digits(dtype, rng):
    smallest = float(np.finfo(dtype).smallest_normal)
    for width, factor in itertools.product((3, 40, 1100), (0.25, 1, 64, 4096)):
        logits = exact_differences(rng, (20, width), dtype)
        target = index_target(rng, logits.shape, -1)
        upstream = (rng.standard_normal(20) * smallest * factor).astype(dtype)
        for x, axis in ((logits, -1), (logits.T.copy(), 0)):
            options = {"reduction": "none", "grad_output": upstream}
            _, want, scale = oracle.cross_entropy(x, target, axis, **options)
            _, grad = csoftmax.cross_entropy_with_grad(x, target, axis, **options)
            assert oracle.max_ulp(grad, want, scale) <= SOFTMAX_ULP[dtype], (width, factor, axis)


@pytest.mark.parametrize("dtype", FLOATS)
def test_losses_are_summed_alike_however_the_batch_lies_in_memory(dtype, rng):
    """Partial sums end at rows that the length of a row fixes, in the middle of a batch's dimension too."""
    for width in (5, 700):
        spread = exact_differences(rng, (7, 100, width + 1), dtype)[:, :90, :width]
        target = index_target(rng, spread.shape, -1)
        for count in (1, 4):
            with csoftmax.threads(count):
                got = csoftmax.cross_entropy(spread, target)
                want = csoftmax.cross_entropy(np.ascontiguousarray(spread), target)
                none = csoftmax.cross_entropy(spread, target, reduction="none")
            assert got == want, (width, count)
            assert np.isclose(got, none.mean(dtype=np.float64), rtol=1e-6), (width, count)


def test_row_has_the_same_bits_wherever_it_stands(rng):
    for dtype in FLOATS:
        for width in (2, 3, 10, 16, 33, 130, 1025):
            rows = exact_differences(rng, (37, width), dtype)
            target = index_target(rng, rows.shape, -1)
            options = {"reduction": "none", "label_smoothing": 0.1}
            loss, grad = csoftmax.cross_entropy_with_grad(rows, target, **options)
            down, grad_down = csoftmax.cross_entropy_with_grad(rows.T.copy(), target, 0, **options)
            assert np.array_equal(loss, down), (dtype, width)
            assert np.array_equal(grad, grad_down.T), (dtype, width)
            assert np.array_equal(csoftmax.cross_entropy(rows, target, **options), loss), (dtype, width)
            for i in (0, 1, 18, 36):
                alone = csoftmax.cross_entropy_with_grad(rows[i], target[i], **options)
                assert alone[0] == loss[i], (dtype, width)
                assert np.array_equal(alone[1], grad[i]), (dtype, width)


@pytest.mark.parametrize("dtype", FLOATS)
def test_any_number_of_threads_gives_the_same_bits(dtype, rng):
    for shape, axis in (
        ((3000, 50), 1),
        ((100001, 3), 1),
        ((50, 3000), 0),
        ((4, 21, 40, 40), 1),
        ((2, 70000), 1),
    ):
        logits = exact_differences(rng, shape, dtype)
        target = index_target(rng, shape, axis, ignored=-100)
        results = []
        for count in (1, 2, 3):
            with csoftmax.threads(count):
                loss, grad = csoftmax.cross_entropy_with_grad(logits, target, axis)
                results.append(
                    (loss.tobytes(), csoftmax.cross_entropy(logits, target, axis).tobytes(), grad.tobytes())
                )
        assert len(set(results)) == 1, shape


def test_mean_of_a_million_equal_weights():
    """Their sum keeps its digits: added one after another, millions of 0.1 are off by 1e-11."""
    logits = np.zeros((10**6, 2))
    loss = csoftmax.cross_entropy(logits, np.zeros(10**6, int), weight=[0.1, 0.1])
    assert loss == pytest.approx(np.log(2), rel=1e-13)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("axis", [0, 1])
def test_a_class_without_a_share_counts_for_nothing_at_a_logit_of_minus_infinity(dtype, axis, rng):
    """0 log 0 = 0: by its probability, by its weight, by both, with smoothing; beside a class that does count."""
    for width in (2, 3, 10, 17, 40, 1100, 2100):
        logits = exact_differences(rng, (9, width), dtype)
        masked = rng.random((9, width)) < 0.4
        masked[:, -1] = False
        logits[masked] = -np.inf
        probabilities = oracle.narrow(oracle.softmax(np.where(masked, -np.inf, rng.standard_normal((9, width)))), dtype)
        dead = masked.all(axis=0) | (np.arange(width) % 2 == 0)
        dead[-1] = False
        logits_of_dead = np.where(dead, np.asarray(-np.inf, dtype), exact_differences(rng, (9, width), dtype))
        target = np.full(9, width - 1)
        cases = [
            (logits, probabilities, {}),
            (logits, probabilities, {"weight": rng.uniform(0.5, 2, width)}),
            (logits_of_dead, target, {"weight": np.where(dead, 0.0, 2.0), "label_smoothing": 0.1}),
            (logits_of_dead, probabilities, {"weight": np.where(dead, 0.0, 2.0), "label_smoothing": 0.3}),
        ]
        for x, goal, options in cases:
            turned = goal if axis or goal.ndim == 1 else goal.T.copy()
            for reduction in REDUCTIONS:
                check(x if axis else x.T.copy(), turned, axis, reduction=reduction, **options)
            loss = csoftmax.cross_entropy(x if axis else x.T.copy(), turned, axis, **options)
            assert np.isfinite(loss)


def test_a_class_with_a_share_still_costs_infinitely_much_at_a_logit_of_minus_infinity():
    logits = np.array([[-np.inf, 0.0, 1.0]])
    for target, options in (([0], {}), ([[1e-300, 0.5, 0.5]], {}), ([1], {"label_smoothing": 0.1})):
        assert csoftmax.cross_entropy(logits, target, **options) == np.inf


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"weight": np.r_[0, np.arange(1, 17)]}], ids=str)
def test_infinite_logits_give_nan_as_log_softmax_does(dtype, axis, options):
    """Whichever class is the target, and the gradient too; ignored rows stay out of it."""
    for width in (2, 3, 17):
        weights = {key: value[:width] if key == "weight" else value for key, value in options.items()}
        for place in range(width):
            logits = np.zeros((width + 1, width), dtype)
            logits[:, place] = np.inf
            target = np.append(np.arange(width), -100)
            one_hot = np.eye(width + 1, width)
            for goal in (target, one_hot):
                ordered = logits if axis else logits.T.copy()
                turned = goal if axis or goal.ndim == 1 else goal.T.copy()
                loss, grad = csoftmax.cross_entropy_with_grad(ordered, turned, axis, reduction="none", **weights)
                assert np.array_equal(
                    loss, csoftmax.cross_entropy(ordered, turned, axis, reduction="none", **weights), equal_nan=True
                )
                assert np.isnan(loss[:width]).all()
                assert np.isnan(grad if axis else grad.T)[:width].all()
            loss, grad = csoftmax.cross_entropy_with_grad(ordered, target, axis, reduction="none", **weights)
            assert loss[width] == 0
            assert not (grad if axis else grad.T)[width].any()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("axis", [0, 1])
def test_sums_of_losses_keep_their_digits(axis, reduction, rng):
    for rows in (32, 256, 1000, 5000):
        logits = np.zeros((rows, 2)) if axis else np.zeros((2, rows))
        loss = csoftmax.cross_entropy(logits, np.zeros(rows, int), axis, reduction=reduction)
        assert loss == pytest.approx(np.log(2) * (1 if reduction == "mean" else rows), rel=5e-16)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_loss_of_float64_is_rounded_about_once(axis, rng):
    for width in (1000, 3000):
        for x in (rng.integers(-2, 3, (400, width)).astype(float), 3 * rng.standard_normal((400, width))):
            target, x = rng.integers(0, width, 400), x if axis else x.T
            loss = csoftmax.cross_entropy(x, target, axis, reduction="none")
            want, _, _ = oracle.cross_entropy(x, target, axis, reduction="none")
            assert oracle.max_ulp(loss, want) <= 0.62, width


def test_a_mean_whose_weights_sum_to_zero_has_no_gradient_either():
    """0 / 0, as in PyTorch; where every target is ignored the gradient is 0."""
    logits, target = np.array([[1.0, 2], [3, 0]]), np.array([0, 0])
    loss, grad = csoftmax.cross_entropy_with_grad(logits, target, weight=[0.0, 1], label_smoothing=0.5)
    assert np.isnan(loss)
    assert np.isnan(grad).all()
    loss, grad = csoftmax.cross_entropy_with_grad(logits, target, ignore_index=0)
    assert np.isnan(loss)
    assert (grad == 0).all()


def losses_and_gradients(logits, target, axis=-1, **options):
    """Both results of every reduction, as bytes."""
    pairs = [csoftmax.cross_entropy_with_grad(logits, target, axis, reduction=r, **options) for r in REDUCTIONS]
    return [np.asarray(result).tobytes() for pair in pairs for result in pair]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("axis", [0, 1])
def test_losses_around_the_ends_of_vectors_groups_and_chunks(dtype, axis, rng):
    for width, rows in itertools.product((3, 10, 33, 70), (1, 3, 4, 7, 8, 9, 15, 17, 64, 127, 255, 256, 257, 300, 513)):
        shape = (rows, width) if axis else (width, rows)
        logits = exact_differences(rng, shape, dtype)
        for ignored, reduction in itertools.product((None, -100), ("none", "mean")):
            options = {"reduction": reduction} if ignored is None else {"reduction": reduction, "ignore_index": ignored}
            target = index_target(rng, shape, axis, ignored)
            target.flat[0] = 1
            check(logits, target, axis, **options)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("axis", [0, 1])
def test_an_ignored_row_changes_no_bit_of_the_others(dtype, axis, rng):
    for rows, place in ((5, 0), (40, 17), (300, 255), (300, 256), (600, 599)):
        logits = exact_differences(rng, (rows, 10), dtype)
        logits[place] = rng.choice([np.nan, np.inf, -np.inf, 1], 10)
        target = rng.integers(0, 10, rows)
        turned = logits if axis else logits.T.copy()
        loss, grad = csoftmax.cross_entropy_with_grad(turned, target, axis, reduction="none")
        target[place] = -100
        less, less_grad = csoftmax.cross_entropy_with_grad(turned, target, axis, reduction="none")
        grad, less_grad = (grad, less_grad) if axis else (grad.T, less_grad.T)
        others = np.arange(rows) != place
        assert loss[others].tobytes() == less[others].tobytes()
        assert grad[others].tobytes() == less_grad[others].tobytes()
        assert less[place] == 0
        assert not less_grad[place].any()
        total = csoftmax.cross_entropy(turned, target, axis, reduction="sum")
        assert oracle.max_ulp(total, oracle.wide(less).sum()) <= 2 * rows


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("axis", [0, 1])
def test_options_that_change_nothing_change_no_bit(dtype, axis, rng):
    """Weights of one, a gradient of one, an ignored index that no target has, targets of any type and stride."""
    for rows in (3, 50, 700):
        shape = (rows, 10) if axis else (10, rows)
        logits = exact_differences(rng, shape, dtype)
        target = rng.integers(0, 10, rows)
        want = losses_and_gradients(logits, target, axis)
        assert losses_and_gradients(logits, target, axis, weight=np.ones(10)) == want
        assert losses_and_gradients(logits, target, axis, ignore_index=2**70) == want
        assert losses_and_gradients(logits, target, axis, ignore_index=-1) == want
        for integer in ("i1", "u1", "i4", ">i4", ">i8", "u8"):
            assert losses_and_gradients(logits, target.astype(integer), axis) == want, integer
        for spread in (np.repeat(target, 3)[::3], target[::-1].copy()[::-1], np.repeat(target.astype("i4"), 2)[::2]):
            assert losses_and_gradients(logits, spread, axis) == want
        _, grad = csoftmax.cross_entropy_with_grad(logits, target, axis, reduction="none")
        _, given = csoftmax.cross_entropy_with_grad(
            logits, target, axis, reduction="none", grad_output=np.ones(rows)
        )
        assert grad.tobytes() == given.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("axis", [0, 1])
def test_gradients_at_the_target_keep_their_digits_where_it_is_almost_certain(dtype, axis):
    """p - 1 = -1 / (1 + exp(d)), from p = 1/2 to where it is as good as 1."""
    difference = np.arange(0, 64, 1 / 64)
    logits = np.stack([difference, np.zeros_like(difference)], -1).astype(dtype)
    want = -1 / (1 + np.exp(oracle.wide(difference)))
    target = np.zeros(len(difference), int)
    _, grad = csoftmax.cross_entropy_with_grad(logits if axis else logits.T.copy(), target, axis, reduction="sum")
    assert oracle.max_ulp((grad if axis else grad.T)[:, 0], want) <= 2


def test_targets_that_change_during_the_call_are_never_read_out_of_bounds():
    """Those that have passed the check, and lie far outside when the kernel comes to them, do not count."""
    rows = 200000
    logits = np.zeros((rows, 3), "f")
    target = np.zeros(rows, int)
    done = threading.Event()

    def change():
        while not done.is_set():
            target[:] = 2**50
            done.wait(0.002)
            target[:] = 0
            done.wait(0.002)

    other = threading.Thread(target=change)
    other.start()
    changed = 0
    try:
        end = time.monotonic() + 60
        while changed < 3 and time.monotonic() < end:
            with contextlib.suppress(IndexError):
                loss, grad = csoftmax.cross_entropy_with_grad(logits, target, reduction="sum")
                assert np.isfinite(grad).all()
                changed += loss < 0.999 * rows * np.log(3)
    finally:
        done.set()
        other.join()
    assert changed == 3


@pytest.mark.parametrize("axis", [-1, 0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_gradient_beyond_the_largest_number_is_infinite_and_not_nan(dtype, axis, rng):
    """Where the upstream gradient is infinite, or too large for float32, so are those of all classes but the target."""
    for rows, classes in ((1, 3), (5, 10), (40, 33), (9, 100), (3, 1100), (4, 5000)):
        x, target = rng.standard_normal((rows, classes)).astype(dtype), rng.integers(0, classes, rows)
        chosen = np.arange(classes) == target[:, None]
        for upstream in (np.inf, -np.inf, *([1e300] if dtype == "float32" else [])):
            _, grad = csoftmax.cross_entropy_with_grad(
                x if axis else x.T.copy(), target, axis, reduction="sum", grad_output=upstream
            )
            grad = grad if axis else grad.T
            want = np.inf if upstream > 0 else -np.inf
            assert (grad[~chosen] == want).all(), (classes, upstream)
