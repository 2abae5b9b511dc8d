"""dask: any chunking gives what csoftmax gives, lazily, and on a cluster with less memory than the array."""

import dask
import dask.array as da
import ml_dtypes  # noqa: F401 (gives NumPy the name "bfloat16")
import numpy as np
import oracle
import pytest
import xarray as xr
from distributed import Client, LocalCluster

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
            "ignore_index": -1,
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
