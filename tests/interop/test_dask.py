"""dask: any chunking gives what csoftmax gives, lazily, and on a cluster with less memory than the array."""

import dask
import dask.array as da
import ml_dtypes  # noqa: F401 (gives NumPy the name "bfloat16")
import numpy as np
import oracle
import pytest
import xarray as xr
from distributed import Client, LocalCluster
from hypothesis import given, settings
from hypothesis import strategies as st

import csoftmax
import csoftmax.interop.dask as cd

pytestmark = pytest.mark.interop

CHUNKS = [(4, 6, 5), (2, 4, 3), (3, 6, 2), (4, (4, 0, 2), 5), (4, 1, 3)]
AXES = [-1, 0, 1, (0, 2), None]
TOLERANCE = {
    "float32": 2e-6,
    "float64": 1e-14,
    "float16": 2e-3,
    "bfloat16": 2e-2,
    "int64": 1e-14,
    "uint8": 1e-14,
}


@pytest.fixture(autouse=True, scope="module")
def scheduler():
    with dask.config.set(scheduler="synchronous"):
        yield


def same(lazy, want, tolerance):
    assert isinstance(lazy, da.Array)
    got = lazy.compute()
    assert lazy.shape == got.shape == np.shape(want)
    assert lazy.dtype == got.dtype == want.dtype
    np.testing.assert_allclose(np.asarray(got, "f8"), np.asarray(want, "f8"), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_forward(dtype, chunks, axis, rng):
    x = (rng.standard_normal((4, 6, 5)) * 10 + 50).astype(dtype)
    lazy = da.from_array(x, chunks)
    for name in "softmax", "log_softmax":
        result = getattr(cd, name)(lazy, axis)
        assert result.chunks == lazy.chunks
        same(result, getattr(csoftmax, name)(x, axis), TOLERANCE[dtype])
    for keepdims in False, True:
        want = np.asarray(csoftmax.logsumexp(x, axis, keepdims=keepdims))
        same(cd.logsumexp(lazy, axis, keepdims=keepdims), want, TOLERANCE[dtype])


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("chunks", CHUNKS)
def test_odd_values(chunks, axis, rng):
    x = rng.standard_normal((4, 6, 5))
    x[0, 3, 2] = x[1, :, 1] = x[3, :4, 3] = -np.inf
    x[2, 2, :] = np.nan
    x[3, 4, 4] = np.inf
    lazy = da.from_array(x, chunks)
    for name in "softmax", "log_softmax", "logsumexp":
        want = np.asarray(getattr(csoftmax, name)(x, axis))
        same(getattr(cd, name)(lazy, axis), want, 1e-13)


def test_large_values_keep_their_digits(rng):
    x = rng.standard_normal((3, 40)) + 1e6
    want = csoftmax.softmax(x)
    np.testing.assert_allclose(cd.softmax(da.from_array(x, (1, 7))).compute(), want, rtol=1e-14)


def test_16_bits_are_rounded_once(rng):
    x = rng.standard_normal((300, 40)).astype("float16")
    lazy = da.from_array(x, (300, 1))
    for name in "softmax", "log_softmax", "logsumexp":
        got = getattr(cd, name)(lazy).compute()
        assert oracle.max_ulp(got, getattr(oracle, name)(x)) < 0.503


def test_nothing_is_computed_before_time():
    def fail(block):
        raise AssertionError("computed")

    x = da.zeros((4, 6), chunks=(2, 3)).map_blocks(fail, dtype=float, meta=np.empty((0, 0)))
    target = da.zeros(4, dtype=int)
    for result in cd.softmax(x), cd.log_softmax(x), cd.logsumexp(x), cd.cross_entropy(x, target):
        with pytest.raises(AssertionError, match="computed"):
            result.compute()


def test_refused_at_once():
    with pytest.raises(TypeError, match="complex"):
        cd.softmax(da.zeros(3, dtype=complex))
    with pytest.raises(np.exceptions.AxisError):
        cd.softmax(da.zeros(3), 1)
    with pytest.raises(ValueError, match="reduction"):
        cd.cross_entropy(da.zeros((2, 3)), da.zeros(2, dtype=int), reduction="median")


# ------------------------------------------------------------------------------------------- cross-entropy


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["indices", "probabilities"])
@pytest.mark.parametrize("chunks", CHUNKS)
def test_cross_entropy(chunks, kind, weighted, label_smoothing, reduction, rng):
    for dtype, tolerance in ("float32", 2e-6), ("float16", 2e-6):
        x = (rng.standard_normal((4, 6, 5)) * 5).astype(dtype)
        target = rng.integers(0, 6, (4, 5))
        target[0, 0] = target[3, 4] = -1
        if kind == "probabilities":
            target = csoftmax.softmax(rng.standard_normal(x.shape), 1)
        options = {
            "weight": rng.uniform(0.5, 2, 6).astype("f4") if weighted else None,
            "ignore_index": -1 if kind == "indices" else -100,
            "label_smoothing": label_smoothing,
            "reduction": reduction,
        }
        target_chunks = (3, 5) if kind == "indices" else (3, 3, 2)
        lazy = cd.cross_entropy(da.from_array(x, chunks), da.from_array(target, target_chunks), 1, **options)
        same(lazy, np.asarray(csoftmax.cross_entropy(x, target, 1, **options)), tolerance)


def test_cross_entropy_of_impossible_classes():
    x = da.from_array(np.array([[0.0, -np.inf, 1.0]]), (1, 2))
    target = da.from_array(np.array([[0.5, 0.0, 0.5]]), (1, 2))
    assert np.isfinite(cd.cross_entropy(x, target).compute())


@pytest.mark.parametrize("classes", [5, 2])
def test_cross_entropy_refuses_wrong_targets(classes):
    loss = cd.cross_entropy(da.zeros((2, 5), chunks=(2, classes)), da.from_array(np.array([1, 7])))
    with pytest.raises(IndexError, match="7"):
        loss.compute()


# ------------------------------------------------------------------------------------- any chunks, any values


def chunks_of(length):
    """Any chunks of an axis, empty ones too."""
    return st.lists(st.integers(0, length), max_size=3).map(
        lambda cuts: tuple(int(n) for n in np.diff([0, *sorted(cuts), length]))
    )


@st.composite
def problems(draw):
    """Logits with -inf here and there, a mask that broadcasts against them, and chunks for both."""
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 6)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = np.where(rng.random(shape) < draw(st.sampled_from([0, 0.3, 0.9])), -np.inf, rng.standard_normal(shape) * 5)
    mask_shape = tuple(draw(st.sampled_from([1, n])) for n in shape)
    mask = rng.random(mask_shape) < draw(st.sampled_from([0.2, 0.7, 1]))
    chunks, mask_chunks = (tuple(draw(chunks_of(n)) for n in a.shape) for a in (x, mask))
    return da.from_array(x, chunks), da.from_array(mask, mask_chunks), draw(st.sampled_from([0, 1, (0, 1), None]))


@settings(max_examples=150, deadline=None)
@given(problem=problems(), temperature=st.sampled_from([1.0, 0.3, 70.0, 1e-300]), masked=st.booleans())
def test_any_chunks_and_masks(problem, temperature, masked):
    lazy, mask, axis = problem
    x = lazy.compute()
    for where in (mask, mask.compute()) if masked else (None,):
        options = {"where": mask.compute() if masked else None}
        for name in "softmax", "log_softmax":
            got = getattr(cd, name)(lazy, axis, temperature=temperature, where=where)
            assert got.chunks == lazy.chunks
            same(got, getattr(csoftmax, name)(x, axis, temperature=temperature, **options), 1e-13)
        same(cd.logsumexp(lazy, axis, where=where), np.asarray(csoftmax.logsumexp(x, axis, **options)), 1e-13)


@settings(max_examples=150, deadline=None)
@given(
    problem=problems(),
    weighted=st.booleans(),
    smoothing=st.sampled_from([0, 0.1, 1]),
    reduction=st.sampled_from(["mean", "sum", "none"]),
    indices=st.booleans(),
)
def test_any_chunks_of_a_loss(problem, weighted, smoothing, reduction, indices):
    lazy, mask, _ = problem
    x, rng = lazy.compute(), np.random.default_rng(1)
    rows, classes = x.shape
    if indices:
        target, chunks = rng.integers(-1, classes, rows), lazy.chunks[:1]
    else:
        # what is impossible has no share in the target, unless smoothing gives it some
        target, chunks = np.where(np.isneginf(x), 0, rng.random(x.shape)), mask.chunks
        chunks = tuple(c if sum(c) == n else (n,) for c, n in zip(chunks, x.shape, strict=True))
    options = {
        "weight": np.where(np.isneginf(x).any(0), 0, rng.random(classes)) if weighted else None,
        "ignore_index": -1 if indices else -100,
        "label_smoothing": smoothing,
        "reduction": reduction,
    }
    want = loss_by_formula(x, target, **options)
    for given_target in da.from_array(target, chunks), target:
        np.testing.assert_allclose(cd.cross_entropy(lazy, given_target, **options).compute(), want, rtol=1e-12)


def loss_by_formula(x, target, weight, ignore_index, label_smoothing, reduction):
    rows, classes = x.shape
    w = np.ones(classes) if weight is None else weight
    ignored, counts = np.zeros(rows, bool), np.ones(rows)
    if target.ndim == 1:
        ignored = target == ignore_index
        counts = np.where(ignored, 0, w[target])
        target = np.arange(classes) == target[:, None]
    share = w * (target * (1 - label_smoothing) + label_smoothing / classes)
    log_p = csoftmax.log_softmax(x)
    with np.errstate(all="ignore"):
        losses = -np.where((share == 0) & np.isneginf(log_p), 0, share * log_p).sum(1)
        losses[ignored] = 0
        if reduction == "none":
            return losses
        return losses.sum() / (counts.sum() if reduction == "mean" else 1)


@pytest.mark.parametrize("chunks", [(1, 4), (1, 2), (1, 1), (1, (1, 0, 3))])
def test_nothing_of_an_impossible_class_is_nothing(chunks):
    """0 log 0 = 0 of probabilities, of weights, of both with smoothing, and of 16-bit logits."""
    x = np.array([[-np.inf, 0.0, 1.0, 2.0]])
    q = np.array([[0.0, 0.5, 0.3, 0.2]])
    want = -(q[0, 1:] * csoftmax.log_softmax(x[0, 1:])).sum()
    for dtype in "float64", "float32", "float16", "bfloat16":
        lazy = da.from_array(x.astype(dtype), chunks)
        for target in q, da.from_array(q, chunks), da.from_array(q, (1, 3)):
            np.testing.assert_allclose(cd.cross_entropy(lazy, target).compute(), want, rtol=1e-6)
    lazy, weight = da.from_array(x, chunks), np.array([0.0, 1.0, 1.0, 1.0])
    smoothed = cd.cross_entropy(lazy, [1], weight=weight, label_smoothing=0.1).compute()
    np.testing.assert_allclose(smoothed, 2.272415815333271, rtol=1e-14)
    np.testing.assert_allclose(cd.cross_entropy(lazy, q, label_smoothing=0.1).compute(), np.inf)
    np.testing.assert_allclose(cd.cross_entropy(lazy, [0]).compute(), np.inf)
    assert cd.cross_entropy(lazy, [0], weight=weight, reduction="sum").compute() == 0


@pytest.mark.parametrize("chunks", [1, 2, 5])
def test_integers_beyond_the_digits_of_float64(chunks):
    """Differences of chunks are taken exactly, over the whole range of the type."""
    for dtype, low in ("int64", -(2**63)), ("uint64", 0):
        x = np.array([2**62, 2**62 + 1, 2**62 - 5, low, 2**63 - 1], dtype)
        exact = np.array([int(v) - (2**63 - 1) for v in x.tolist()], float)
        near = np.array([0, 1, -5.0])
        lazy = da.from_array(x, chunks)
        np.testing.assert_allclose(cd.log_softmax(lazy).compute(), csoftmax.log_softmax(exact), rtol=1e-15)
        lazy = da.from_array(x[:3], min(chunks, 2))
        np.testing.assert_allclose(cd.softmax(lazy).compute(), csoftmax.softmax(near), rtol=1e-14)
        where = np.array([True, True, False])
        got = cd.softmax(lazy, where=where, temperature=3).compute()
        np.testing.assert_allclose(got, csoftmax.softmax(near, where=where, temperature=3), rtol=1e-14)


@pytest.mark.parametrize(
    ("x", "temperature", "log_p"),
    [
        ([1.7e308, -1.7e308], 1e308, csoftmax.log_softmax([1.7, -1.7])),
        ([1.7e308, -1.7e308], 100, [0, -3.4e306]),
        ([0, -5e-324, -1e-323], 5e-324, csoftmax.log_softmax([0.0, -1.0, -2.0])),
        ([0, -1.0], 1e-308, [0, -1e308]),
        ([0, -1.0], 1e-310, [0, -np.inf]),
        ([1e-320, 0, -np.inf], 1e-320, [*csoftmax.log_softmax([1.0, 0.0]), -np.inf]),
        ([1e300, 0], 1.7e308, csoftmax.log_softmax([1e300 / 1.7e308, 0])),
    ],
)
def test_temperatures_of_any_size(x, temperature, log_p):
    """Where each element is a chunk, all arithmetic is that of the joints."""
    lazy = da.from_array(np.array(x), 1)
    np.testing.assert_allclose(cd.log_softmax(lazy, temperature=temperature).compute(), log_p, rtol=1e-14)
    np.testing.assert_allclose(cd.softmax(lazy, temperature=temperature).compute(), np.exp(log_p), rtol=1e-14)
    for label, loss in enumerate(np.negative(log_p)):
        got = cd.cross_entropy(lazy, label, temperature=temperature).compute()
        np.testing.assert_allclose(got, loss, rtol=1e-14)


@pytest.mark.parametrize("scale", [5e-324, 1e-310, 1e-160, 1.0, 1e160, 8e307])
@pytest.mark.parametrize("chunks", [(2, 3), (1, 2)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weights_of_any_size(dtype, chunks, scale, rng):
    """Means are those of weights 1 and 2; sums and single losses are so many times as large."""
    x = rng.standard_normal((4, 3)).astype(dtype)
    lazy = da.from_array(x, chunks)
    ordinary = np.array([1.0, 2.0, 1.0])
    probabilities = csoftmax.softmax(rng.standard_normal((4, 3)))
    for target, smoothing in (np.array([0, 1, 1, 2]), 0), (np.array([0, 1, -100, 2]), 0.1), (probabilities, 0.1):
        options = {"label_smoothing": smoothing}
        by_ordinary, by_scaled = (
            {
                reduction: cd.cross_entropy(lazy, target, weight=w, reduction=reduction, **options).compute()
                for reduction in ("mean", "sum", "none")
            }
            for w in (ordinary, ordinary * scale)
        )
        size = np.float64(1 if target.ndim == 1 else scale)
        with np.errstate(all="ignore"):
            for reduction, factor in ("mean", size), ("sum", np.float64(scale)), ("none", np.float64(scale)):
                want = (by_ordinary[reduction].astype("f8") * factor).astype(dtype)
                tiny = float(np.finfo(dtype).smallest_subnormal)
                np.testing.assert_allclose(by_scaled[reduction], want, rtol=1e-6, atol=2 * tiny)


@pytest.mark.parametrize("chunks", [(1, 2), (1, 1)])
def test_weights_of_very_unlike_sizes(chunks):
    lazy, weight = da.from_array(np.array([[0.0, 1.0]] * 3), chunks), [1e308, 1e-310]
    for target, want in ([1, 1, 1], np.log1p(np.exp(-1))), ([0, 1, 1], np.log1p(np.e)):
        np.testing.assert_allclose(cd.cross_entropy(lazy, target, weight=weight).compute(), want, rtol=1e-14)
    finite = da.from_array(np.array([[1.5e308, 0.0]] * 4), chunks)
    assert cd.cross_entropy(finite, [1] * 4).compute() == 1.5e308


# --------------------------------------------------------------------------------- what is taken and refused


@pytest.mark.parametrize("axis", [-1, 0, None])
@pytest.mark.parametrize("value", [3.0, np.float32(3), np.int64(3), -np.inf, np.nan])
def test_no_dimensions(value, axis):
    for x in value, da.from_array(np.asarray(value)):
        for name in "softmax", "log_softmax", "logsumexp":
            got = getattr(cd, name)(x, axis)
            want = np.asarray(getattr(csoftmax, name)(value, axis))
            assert got.dtype == want.dtype
            assert got.shape == got.compute().shape == ()
            assert np.array_equal(got.compute(), want, equal_nan=True)
    with pytest.raises(np.exceptions.AxisError):
        cd.softmax(value, 1)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 3)])
@pytest.mark.parametrize("axis", [-1, 0, None])
def test_nothing_along_an_axis(axis, shape):
    for name in "softmax", "log_softmax", "logsumexp":
        same(getattr(cd, name)(da.zeros(shape), axis), np.asarray(getattr(csoftmax, name)(np.zeros(shape), axis)), 0)


def test_array_likes(rng):
    x = rng.standard_normal((3, 4)).tolist()
    for name in "softmax", "log_softmax", "logsumexp":
        for axis in -1, [0, 1], np.int8(0):
            same(getattr(cd, name)(x, axis), np.asarray(getattr(csoftmax, name)(x, axis)), 1e-14)
    for target in [0, 3, 1], np.array([0, 3, 1], "u1"), da.from_array([0, 3, 1], 1), csoftmax.softmax(x):
        for logits in x, np.array(x), da.from_array(np.array(x), (2, 3)):
            want = csoftmax.cross_entropy(x, np.asarray(target))
            np.testing.assert_allclose(cd.cross_entropy(logits, target).compute(), want, rtol=1e-14)
    np.testing.assert_allclose(cd.cross_entropy(x[0], 2).compute(), csoftmax.cross_entropy(x[0], 2), rtol=1e-14)


@pytest.mark.parametrize("chunks", [(2, 4), (1, 3), (2, 2)])
@pytest.mark.parametrize("temperature", [0.5, 7.0])
def test_loss_at_a_temperature(temperature, chunks, rng):
    x, target = rng.standard_normal((2, 4)), [3, 0]
    got = cd.cross_entropy(da.from_array(x, chunks), target, temperature=temperature).compute()
    np.testing.assert_allclose(got, csoftmax.cross_entropy(x / temperature, target), rtol=1e-14)


@pytest.mark.parametrize("chunks", [(4, 6), (2, 3)])
def test_dtype(chunks, rng):
    x = rng.standard_normal((4, 6)).astype("f4")
    for dtype in "float64", "float16", "bfloat16":
        for name in "softmax", "log_softmax", "logsumexp":
            want = np.asarray(getattr(csoftmax, name)(x, dtype=dtype))
            same(getattr(cd, name)(da.from_array(x, chunks), dtype=dtype), want, TOLERANCE[dtype] * 10)


def test_chunks_of_unknown_sizes(rng):
    """Rows that are selected by their values; but not classes."""
    x, target = rng.standard_normal((6, 4)), np.array([0, 1, 2, 3, 0, 1])
    lazy, labels = da.from_array(x, (2, 3)), da.from_array(target, 2)
    kept = target < 2
    some, of_some = lazy[da.from_array(kept, 2)], labels[da.from_array(kept, 2)]
    np.testing.assert_allclose(cd.softmax(some).compute(), csoftmax.softmax(x[kept]))
    np.testing.assert_allclose(cd.logsumexp(some, where=np.array([True, False, True, True])).compute(),
                               csoftmax.logsumexp(x[kept][:, [0, 2, 3]]))
    for reduction in "mean", "sum", "none":
        got = cd.cross_entropy(some, of_some, reduction=reduction).compute()
        np.testing.assert_allclose(got, csoftmax.cross_entropy(x[kept], target[kept], reduction=reduction))
        q = csoftmax.softmax(x)
        got = cd.cross_entropy(some, da.from_array(q, (2, 3))[da.from_array(kept, 2)], reduction=reduction).compute()
        np.testing.assert_allclose(got, csoftmax.cross_entropy(x[kept], q[kept], reduction=reduction))
    with pytest.raises(ValueError, match="cannot be aligned, 1 of them with 3: call compute_chunk_sizes"):
        cd.cross_entropy(some, target[kept])
    with pytest.raises(ValueError, match="length of the class axis is unknown: call compute_chunk_sizes"):
        cd.cross_entropy(some, [0, 1, 2, 3], 0)


@pytest.mark.parametrize("classes", [4, 3])
@pytest.mark.parametrize(
    ("target", "options", "error", "message"),
    [
        ([0.0, 1.0], {}, ValueError, r"shape \(2,\) and dtype float64, .* class indices must be integers"),
        ([True, False], {}, TypeError, "not bool"),
        (np.eye(4, dtype=int)[:2], {}, ValueError, "class probabilities must be floats"),
        ([0], {}, ValueError, r"target has shape \(1,\)"),
        ([[0.5], [0.5]], {}, ValueError, r"target has shape \(2, 1\)"),
        (["a", "b"], {}, TypeError, "target has dtype <U1"),
        ([0, 1], {"axis": (1,)}, TypeError, "axis must be an integer"),
        ([0, 1], {"axis": None}, TypeError, "axis must be an integer"),
        ([0, 1], {"axis": 2}, np.exceptions.AxisError, "axis 2"),
        ([0, 1], {"weight": [1.0] * 5}, ValueError, r"weight has shape \(5,\), but the 4 classes"),
        ([0, 1], {"weight": [1.0] * 3}, ValueError, r"weight has shape \(3,\), but the 4 classes"),
        ([0, 1], {"label_smoothing": 1.5}, ValueError, "label_smoothing must be from 0 to 1"),
        ([0, 1], {"label_smoothing": np.nan}, ValueError, "label_smoothing must be from 0 to 1"),
        ([0, 1], {"ignore_index": 0.5}, TypeError, "ignore_index must be an integer"),
        ([0, 1], {"temperature": 0}, ValueError, "temperature must be positive and finite"),
        ([0, 1], {"reduction": None}, ValueError, "reduction must be"),
    ],
)
def test_losses_that_are_refused_at_once(target, options, error, message, classes):
    """In csoftmax's own words, whether the class axis is chunked or not."""
    logits = da.zeros((2, 4), chunks=(2, classes))
    with pytest.raises(error, match=message):
        cd.cross_entropy(logits, target, **options)


@pytest.mark.parametrize("classes", [4, 3])
def test_no_index_to_ignore_in_probabilities(classes):
    with pytest.raises(ValueError, match="ignore_index"):
        cd.cross_entropy(da.zeros((2, 4), chunks=(2, classes)), np.full((2, 4), 0.25), ignore_index=0)


@pytest.mark.parametrize("classes", [4, 3])
@pytest.mark.parametrize("wrong", [-1, 4, 300, -101, 2**40])
@pytest.mark.parametrize("weight", [None, [1.0, 2.0, 3.0, 4.0]])
def test_labels_out_of_range(weight, wrong, classes):
    for reduction in "mean", "sum", "none":
        loss = cd.cross_entropy(
            da.zeros((2, 4), chunks=(1, classes)), np.array([1, wrong]), weight=weight, reduction=reduction
        )
        with pytest.raises(IndexError, match=rf"{wrong}.* neither a class index from 0 to 3"):
            loss.compute()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"where": np.ones((2, 4))}, TypeError, "where must be boolean, not float64"),
        ({"where": np.ones((4, 2), bool)}, ValueError, r"where has shape \(4, 2\), which does not broadcast"),
        ({"where": np.ones((1, 2, 4), bool)}, ValueError, r"where has shape \(1, 2, 4\), which does not broadcast"),
        ({"temperature": -1}, ValueError, "temperature must be positive and finite, not -1"),
        ({"temperature": "1"}, TypeError, "temperature must be a number"),
        ({"temperature": [1.0, 2.0]}, TypeError, "temperature must be a number"),
        ({"dtype": int}, TypeError, "dtype"),
    ],
)
@pytest.mark.parametrize("classes", [4, 3])
def test_refused_at_once_too(classes, options, error, message):
    for name in "softmax", "log_softmax":
        with pytest.raises(error, match=message):
            getattr(cd, name)(da.zeros((2, 4), chunks=(2, classes)), **options)


# ------------------------------------------------------------------------------------------------ no warnings


@pytest.mark.parametrize("chunks", [1, 2, 4])
def test_no_warnings(chunks, recwarn):
    """Neither from csoftmax nor from NumPy or dask on the way; pytest makes errors of them."""
    odd = [-np.inf, np.inf, np.nan, 0.0]
    rows = [[6e4, -6e4, 0, 1], [-np.inf] * 4, odd, [np.nan] * 4, [1e-8, 0, 0, -6e4]]
    for dtype in "float16", "float32", "float64", "bfloat16":
        extreme = np.array(rows).astype(dtype)
        largest = np.finfo(dtype if dtype != "bfloat16" else "f4").max
        with np.errstate(all="ignore"):
            huge = np.array([[largest, -largest, 0, 1]]).astype(dtype)
        for x in extreme, huge:
            lazy, where = da.from_array(x, (1, chunks)), np.arange(x.size).reshape(x.shape) % 3 > 0
            for options in {}, {"temperature": 1e-300}, {"temperature": 1e300}, {"where": where}:
                for name in "softmax", "log_softmax":
                    for axis in 0, 1, None:
                        dask.compute(getattr(cd, name)(lazy, axis, **options), scheduler="threads")
            cd.logsumexp(lazy, where=where).compute()
            for target in np.full(len(x), -100), np.zeros(len(x), int), np.full(x.shape, 0.25, "f2"):
                for weight in None, [1e308] * 4, [0.0] * 4, [1, -1, np.inf, np.nan]:
                    for reduction in "mean", "sum", "none":
                        cd.cross_entropy(lazy, target, weight=weight, reduction=reduction).compute()
    assert np.isnan(cd.cross_entropy(da.zeros((2, 4), chunks=(1, chunks)), [-100, -100]).compute())
    assert cd.cross_entropy(da.zeros((2, 4), chunks=(1, chunks)), [-100, -100], reduction="sum").compute() == 0
    assert [str(warning.message) for warning in recwarn] == []


def test_no_warnings_of_chunks_that_do_not_fit(recwarn):
    """The operands follow the logits, which dask says nothing about."""
    x = da.zeros((60, 40), chunks=(1, 40))
    where, target = da.ones((60, 40), chunks=(60, 1), dtype=bool), da.zeros(60, chunks=60, dtype=int)
    assert cd.softmax(x, where=where).chunks == x.chunks
    assert cd.cross_entropy(x, target, reduction="none").chunks == x.chunks[:1]
    assert [str(warning.message) for warning in recwarn] == []


# --------------------------------------------------------------------------------------- cluster and xarray


def test_array_larger_than_the_memory_of_a_cluster():
    """The class axis is chunked, so that whole rows meet in no worker."""
    limit, workers, rows, classes = 300 * 2**20, 2, 640, 2**18
    cluster = LocalCluster(
        n_workers=workers, threads_per_worker=1, memory_limit=limit, dashboard_address=None, silence_logs=40
    )
    with cluster, Client(cluster) as client:
        x = da.random.default_rng(5).standard_normal((rows, classes), dtype=np.float32, chunks=(64, 2**14))
        assert x.nbytes > workers * limit
        p = cd.softmax(x)
        assert {worker["memory_limit"] for worker in client.scheduler_info()["workers"].values()} == {limit}
        totals, largest, norms = dask.compute(p.sum(1), p.max(1), cd.logsumexp(x), scheduler=client)
        row = x[-1].compute(scheduler=client)
    np.testing.assert_allclose(totals, 1, rtol=1e-6)
    np.testing.assert_allclose(norms[-1], csoftmax.logsumexp(row), rtol=1e-6)
    np.testing.assert_allclose(largest[-1], csoftmax.softmax(row).max(), rtol=1e-6)


@pytest.mark.parametrize("chunks", [{"time": 2}, {"time": 2, "class": 3}])
def test_xarray(chunks, rng):
    x = xr.DataArray(rng.standard_normal((4, 7, 5)), dims=("time", "class", "place"), name="logits")
    want = csoftmax.softmax(x.values, 1)

    def softmax(x, function, **options):
        dims = {"input_core_dims": [["class"]], "output_core_dims": [["class"]]}
        return xr.apply_ufunc(function, x, **dims, **options).transpose(*x.dims)

    np.testing.assert_array_equal(softmax(x, csoftmax.softmax), want)
    lazy = softmax(x.chunk(chunks), cd.softmax, dask="allowed")
    assert lazy.chunks is not None
    xr.testing.assert_allclose(lazy.compute(), x.copy(data=want))


def test_xarray_parallelized(rng):
    x = xr.DataArray(rng.standard_normal((4, 7)), dims=("time", "class")).chunk(time=2)
    dims = {"input_core_dims": [["class"]], "output_core_dims": [["class"]]}
    p = xr.apply_ufunc(csoftmax.softmax, x, **dims, dask="parallelized", output_dtypes=[x.dtype])
    np.testing.assert_array_equal(p.compute(), csoftmax.softmax(x.values))
