"""Libraries that run several processes or threads: each gets its share of the CPUs."""

import os
import warnings

import dask
import distributed
import numpy as np
import pytest

import csoftmax

pytestmark = pytest.mark.interop


def count():
    """In a worker: how many threads, and where the number comes from."""
    import csoftmax

    info = csoftmax.runtime_info()["threads"]
    return info["active"], info["origin"]


def test_workers_of_distributed_get_one_thread_each(monkeypatch):
    for name in ("CSOFTMAX_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    root = os.path.dirname(os.path.dirname(csoftmax.__file__))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own, about ports and event loops
        with (
            distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=None, silence_logs=40) as cluster,
            distributed.Client(cluster) as client,
        ):
            counts = client.run(count)
    assert list(counts.values()) == [(1, "OMP_NUM_THREADS")] * 2


def test_tasks_of_the_threaded_scheduler_share_one_pool():
    x = np.random.default_rng(0).standard_normal((300, 500))
    want = csoftmax.softmax(x)
    before = csoftmax.runtime_info()["threads"]["workers"]
    results = dask.compute(*[dask.delayed(csoftmax.softmax)(x) for _ in range(20)], scheduler="threads", num_workers=4)
    assert all(np.array_equal(got, want) for got in results)
    assert csoftmax.runtime_info()["threads"]["workers"] <= max(before, csoftmax.get_num_threads() - 1)
