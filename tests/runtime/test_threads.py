"""How many threads a call gets and from whom; what comes out whatever their number; forks, and threads refused."""

import asyncio
import concurrent.futures
import os
import threading

import numpy as np
import pytest
from interpreter import output, python

import csoftmax
from csoftmax.runtime import cpus as _cpus

# -------------------------------------------------------------------------------------------------- settings


def test_thread_count_is_set_and_restored():
    before = csoftmax.get_num_threads()
    with csoftmax.threads(3):
        assert csoftmax.get_num_threads() == 3
        with csoftmax.threads(1):
            assert csoftmax.get_num_threads() == 1
        assert csoftmax.get_num_threads() == 3
    with pytest.raises(KeyError), csoftmax.threads(2):
        raise KeyError
    assert csoftmax.get_num_threads() == before
    try:
        csoftmax.set_num_threads(200)
        assert csoftmax.get_num_threads() == 200
        assert csoftmax.softmax(np.zeros((500, 500)))[499, 499] == 1 / 500
    finally:
        csoftmax.set_num_threads(before)


@pytest.mark.parametrize("count", [0, -1])
def test_thread_count_below_one_is_refused(count):
    before = csoftmax.get_num_threads()
    with pytest.raises(ValueError, match=str(count)):
        csoftmax.set_num_threads(count)
    with pytest.raises(ValueError, match=str(count)), csoftmax.threads(count):
        pass
    assert csoftmax.get_num_threads() == before


def test_thread_count_that_is_no_integer_is_refused():
    for count in (1.5, "2", None, True, np.float64(2), [2], np.array([2])):
        with pytest.raises(TypeError, match=f"threads must be an integer, not {type(count).__name__}"):
            csoftmax.set_num_threads(count)
        with pytest.raises(TypeError, match=f"threads must be an integer, not {type(count).__name__}"):
            csoftmax.threads(count).__enter__()


@pytest.mark.parametrize("digits", [6, 20, 5000])
def test_thread_count_beyond_reason_is_refused(digits):
    with pytest.raises(ValueError, match="from 1 to 65536"):
        csoftmax.set_num_threads(10**digits)


def in_thread(work):
    """Run `work` in a Python thread of its own; what it returns or raises."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def test_blocks_that_overlap_in_two_python_threads_leave_nothing_behind():
    before = csoftmax.get_num_threads()
    first_in, second_in, first_out = threading.Event(), threading.Event(), threading.Event()

    def first():
        with csoftmax.threads(before + 1):
            first_in.set()
            second_in.wait()
            seen = csoftmax.get_num_threads()
        first_out.set()
        return seen, csoftmax.get_num_threads()

    def second():
        first_in.wait()
        with csoftmax.threads(before + 2):
            second_in.set()
            first_out.wait()
            seen = csoftmax.get_num_threads()
        return seen, csoftmax.get_num_threads()

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        results = [future.result() for future in [pool.submit(first), pool.submit(second)]]
    assert results == [(before + 1, before), (before + 2, before)]
    assert csoftmax.get_num_threads() == before


def test_a_block_is_of_its_context_alone():
    before = csoftmax.get_num_threads()
    with csoftmax.threads(before + 1):
        assert in_thread(csoftmax.get_num_threads) == before
        try:
            csoftmax.set_num_threads(before + 2)
            assert csoftmax.get_num_threads() == before + 1
            assert in_thread(csoftmax.get_num_threads) == before + 2
        finally:
            csoftmax.set_num_threads(before)


def test_a_block_is_of_its_asyncio_task():
    before = csoftmax.get_num_threads()

    async def task(count, seen):
        with csoftmax.threads(count):
            for _ in range(3):
                await asyncio.sleep(0)
                seen.append(csoftmax.get_num_threads())

    async def both():
        await asyncio.gather(task(before + 1, first), task(before + 2, second))
        return csoftmax.get_num_threads()

    first, second = [], []
    assert asyncio.run(both()) == before
    assert (first, second) == ([before + 1] * 3, [before + 2] * 3)


def test_a_block_that_is_closed_in_another_thread_does_no_harm():
    before = csoftmax.get_num_threads()
    block = csoftmax.threads(before + 1)
    in_thread(block.__enter__)
    block.__exit__(None, None, None)
    assert csoftmax.get_num_threads() == before


# ----------------------------------------------------------------------------------------------- environment


@pytest.mark.parametrize("count", ["0", "-1", "many", "two", "1.5", "²", "65537", "99999999999", "9" * 5000])
def test_thread_count_in_the_environment_that_is_none_is_an_error_at_import(count):
    run = python("print('imported')", CSOFTMAX_NUM_THREADS=count)
    assert run.returncode != 0
    assert run.stdout == ""
    assert f"ImportError: CSOFTMAX_NUM_THREADS={count!r}" in run.stderr
    # a variable of OpenMP's is not ours to judge
    assert output("print(csoftmax.get_num_threads() >= 1)", OMP_NUM_THREADS=count, OMP_THREAD_LIMIT=count) == "True"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"CSOFTMAX_NUM_THREADS": "3"}, "3 CSOFTMAX_NUM_THREADS"),
        ({"OMP_NUM_THREADS": "5"}, "5 OMP_NUM_THREADS"),
        ({"OMP_NUM_THREADS": "5,2"}, "5 OMP_NUM_THREADS"),
        ({"CSOFTMAX_NUM_THREADS": "3", "OMP_NUM_THREADS": "5"}, "3 CSOFTMAX_NUM_THREADS"),
        ({"OMP_NUM_THREADS": "5", "OMP_THREAD_LIMIT": "2"}, "2 OMP_THREAD_LIMIT"),
        ({"OMP_NUM_THREADS": "5", "OMP_THREAD_LIMIT": "9"}, "5 OMP_NUM_THREADS"),
        ({"OMP_THREAD_LIMIT": "1"}, "1 OMP_THREAD_LIMIT"),
        ({"CSOFTMAX_NUM_THREADS": "3", "OMP_THREAD_LIMIT": "1"}, "3 CSOFTMAX_NUM_THREADS"),
    ],
)
def test_threads_from_the_environment(environment, expected):
    if environment == {"OMP_THREAD_LIMIT": "1"} and csoftmax.runtime_info()["threads"]["cpus"] == 1:
        expected = "1 CPUs"  # a limit that limits nothing
    ask = "t = csoftmax.runtime_info()['threads']; print(t['active'], t['origin'])"
    assert output(ask, **environment) == expected


def test_where_the_number_comes_from():
    code = """
def origin(): return csoftmax.runtime_info()["threads"]["origin"]
with csoftmax.threads(7): print(origin())
csoftmax.set_num_threads(3)
print(origin())
csoftmax.show_runtime()
"""
    first, second, *shown = output(code).splitlines()
    assert (first, second) == ("threads()", "set_num_threads")
    assert any("3 of" in line and "set_num_threads" in line for line in shown)


def test_threads_are_at_most_the_cpus_of_the_machine():
    assert 1 <= int(output("print(csoftmax.get_num_threads())")) <= os.cpu_count()


@pytest.mark.linux("it lets a process choose its CPUs")
def test_threads_are_at_most_the_cpus_this_process_may_use():
    cpu = min(os.sched_getaffinity(0))
    code = "import csoftmax; t = csoftmax.runtime_info()['threads']; print(t['active'], t['cpus'])"
    assert output(code, first=f"import os; os.sched_setaffinity(0, [{cpu}])") == "1 1"
    assert 1 <= int(output("print(csoftmax.get_num_threads())")) <= len(os.sched_getaffinity(0))


# ---------------------------------------------------------------------------------------------------- quotas

V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
    "33 31 0:30 / /sys/fs/cgroup/cpuacct rw - cgroup cgroup rw,cpuacct\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
)
GROUP = "sys/fs/cgroup/"
CPU = "sys/fs/cgroup/cpu,cpuacct/"
# mounts, groups of the process, files; CPUs
QUOTAS = {
    "of 1.5 CPUs": (V2, "0::/\n", {GROUP + "cpu.max": "150000 100000"}, 1.5),
    "of a tenth of a CPU": (V2, "0::/a\n", {GROUP + "a/cpu.max": "10000 100000"}, 0.1),
    "none": (V2, "0::/a\n", {GROUP + "a/cpu.max": "max 100000"}, None),
    "unheard of": (V2, "0::/a\n", {GROUP + "a/cpu.max": "unlimited"}, None),
    "no such file": (V2, "0::/a\n", {}, None),
    "of a group that ours lies in": (
        V2,
        "0::/machine.slice/job.scope/step\n",
        {
            GROUP + "machine.slice/cpu.max": "400000 100000",
            GROUP + "machine.slice/job.scope/cpu.max": "100000 100000",
            GROUP + "machine.slice/job.scope/step/cpu.max": "max 100000",
        },
        1,
    ),
    "of another group": (V2, "0::/ours\n", {GROUP + "others/cpu.max": "100000 100000"}, None),
    "where the mounted group is not the root": (
        V2.replace("0:26 / ", "0:26 /docker/1f "),
        "0::/docker/1f/inner\n",
        {GROUP + "inner/cpu.max": "250000 100000", GROUP + "cpu.max": "200000 100000"},
        2,
    ),
    "where our group is named as from outside": (V2, "0::/../x\n", {GROUP + "cpu.max": "300000 100000"}, 3),
    "at a place whose name has a blank": (
        V2.replace("/sys/fs/cgroup", r"/sys/a\040b"), "0::/\n", {"sys/a b/cpu.max": "100000 100000"}, 1,
    ),
    "of the first version": (
        V1,
        "4:memory:/x\n3:cpu,cpuacct:/slurm/job\n0::/\n",
        {CPU + "slurm/job/cpu.cfs_quota_us": "250000", CPU + "slurm/job/cpu.cfs_period_us": "100000"},
        2.5,
    ),
    "of the first version, of a group that ours lies in": (
        V1,
        "3:cpuacct,cpu:/slurm/job\n",
        {
            CPU + "slurm/job/cpu.cfs_quota_us": "-1",
            CPU + "slurm/job/cpu.cfs_period_us": "100000",
            CPU + "slurm/cpu.cfs_quota_us": "50000",
            CPU + "slurm/cpu.cfs_period_us": "100000",
        },
        0.5,
    ),
    "of the first version, none": (
        V1, "3:cpu:/\n", {CPU + "cpu.cfs_quota_us": "-1", CPU + "cpu.cfs_period_us": "100000"}, None,
    ),
    "of the first version, a period of 0": (
        V1, "3:cpu:/\n", {CPU + "cpu.cfs_quota_us": "1", CPU + "cpu.cfs_period_us": "0"}, None,
    ),
    "of both versions": (
        V1 + V2.replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified"),
        "3:cpu:/a\n0::/b\n",
        {
            CPU + "a/cpu.cfs_quota_us": "300000",
            CPU + "a/cpu.cfs_period_us": "100000",
            GROUP + "unified/b/cpu.max": "200000 100000",
        },
        2,
    ),
    "where there is no /proc": ("", "", {GROUP + "cpu.max": "100000 100000"}, None),
    "lines that are none": ("nonsense\n - \n" + V2, "nonsense\n0::/\n", {GROUP + "cpu.max": "100000 100000"}, 1),
}


@pytest.mark.linux("cgroups are its own")
@pytest.mark.parametrize("quota", QUOTAS)
def test_cpu_quota_of_the_cgroups(quota, tmp_path, monkeypatch):
    mounts, groups, files, cpus = QUOTAS[quota]
    for name, text in {"proc/self/mountinfo": mounts, "proc/self/cgroup": groups, **files}.items():
        if text:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
    assert _cpus.quota(tmp_path) == cpus
    for name in ("CSOFTMAX_NUM_THREADS", "OMP_NUM_THREADS", "OMP_THREAD_LIMIT"):
        monkeypatch.delenv(name, raising=False)
    there = len(os.sched_getaffinity(0))
    threads, origin = _cpus.default_threads(99, tmp_path)
    assert threads == min(there, max(1, int(np.ceil(cpus or 99))))
    assert (origin == "cgroup quota") is (threads < there)


# ------------------------------------------------------------------------------------------------------ bits

OPERATIONS = {
    "softmax": lambda x: csoftmax.softmax(x),
    "log_softmax, first axis": lambda x: csoftmax.log_softmax(x, 0),
    "logsumexp": lambda x: csoftmax.logsumexp(x),
    "softmax, masked": lambda x: csoftmax.softmax(x, where=x > -1),
    "softmax of every other column": lambda x: csoftmax.softmax(x[:, ::2]),
    "softmax of one row": lambda x: csoftmax.softmax(x.ravel()),
    "log_softmax of one row": lambda x: csoftmax.log_softmax(x.ravel()),
    "softmax_backward": lambda x: csoftmax.softmax_backward(x, abs(x)),
    "log_softmax_backward of one row": lambda x: csoftmax.log_softmax_backward(x.ravel(), -abs(x).ravel()),
    "cross_entropy": lambda x: csoftmax.cross_entropy(x, np.arange(len(x)) % x.shape[1]),
    "cross_entropy_with_grad, first axis": lambda x: np.append(
        *csoftmax.cross_entropy_with_grad(x, np.arange(x.shape[1]) % len(x), 0)
    ),
}


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_thread_count_changes_a_bit(operation, dtype, rng):
    for shape in ((300, 1000), (7, 50257), (6000, 33)):
        x = rng.standard_normal(shape).astype(dtype)
        with csoftmax.threads(1):
            want = OPERATIONS[operation](x)
        for count in (2, 3, 7):
            with csoftmax.threads(count):
                assert np.array_equal(OPERATIONS[operation](x), want), (shape, count)


def test_many_python_threads_at_once_give_the_bits_of_one():
    inputs = [np.random.default_rng(i).standard_normal((70, 1000)).astype("float32") for i in range(16)]
    want = [csoftmax.softmax(x) for x in inputs]

    def work(task):
        count, x = task
        with csoftmax.threads(count):
            return csoftmax.softmax(x)

    tasks = [(1 + i % 3, x) for i in range(8) for x in inputs]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for got, expected in zip(pool.map(work, tasks), want * 8, strict=True):
            assert np.array_equal(got, expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_row_that_threads_share_may_end_in_a_block_of_one_element(dtype):
    """And that element counts: it is the largest."""
    x = np.zeros(2**20 + 1, dtype)
    x[-1] = 20
    with csoftmax.threads(1):
        want = csoftmax.softmax(x), csoftmax.logsumexp(x)
    with csoftmax.threads(2):
        assert np.array_equal(csoftmax.softmax(x), want[0])
        assert csoftmax.logsumexp(x) == want[1]
    assert want[0][-1] > 0.99


def test_workers_that_wait_take_no_time_of_the_processors():
    code = """
import time
import numpy as np
csoftmax.set_num_threads(4)
csoftmax.softmax(np.zeros((2000, 1000)))
time.sleep(0.1)
before = time.process_time()
time.sleep(1)
print(time.process_time() - before)
"""
    assert float(output(code)) < 0.02


# ----------------------------------------------------------------------------------------------------- forks

FORK = """
import os, warnings
import numpy as np
warnings.simplefilter("ignore", DeprecationWarning)   # of a fork beside threads: that is what is tried
x = np.arange(250000.0).reshape(500, 500) % 7
def workers(): return csoftmax.runtime_info()["threads"]["workers"]
def in_child(work):
    child = os.fork()
    if child == 0:
        os._exit(0 if work() else 3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


@pytest.mark.posix("os.fork")
def test_a_forked_child_has_threads_of_its_own():
    code = """
csoftmax.set_num_threads(2)
want = csoftmax.softmax(x)
assert workers() == 1
def child():
    fresh = workers() == 0 and csoftmax.get_num_threads() == 2
    return fresh and np.array_equal(csoftmax.softmax(x), want) and workers() == 1
in_child(child)
in_child(lambda: child() and in_child(child) is None)
assert workers() == 1 and np.array_equal(csoftmax.softmax(x), want)
"""
    output(FORK + code)


@pytest.mark.posix("os.fork")
def test_set_num_threads_means_in_a_child_what_it_says():
    code = """
csoftmax.set_num_threads(2)
csoftmax.softmax(x)
def child():
    csoftmax.set_num_threads(4)
    csoftmax.softmax(x)
    return csoftmax.get_num_threads() == 4 and workers() == 3
in_child(child)
assert csoftmax.get_num_threads() == 2
"""
    output(FORK + code)


# ------------------------------------------------------------------------------------------- threads refused

REFUSED = """
import resource
import numpy as np
x = np.random.default_rng(0).standard_normal((500, 1000))
y, long = np.empty_like(x), x.ravel()
with csoftmax.threads(1): want = csoftmax.softmax(x, out=np.empty_like(x)), csoftmax.softmax(long)
def counted():
    return csoftmax.runtime_info()["threads"]["workers"]
def equal(a, b):  # in little memory
    return all(np.array_equal(*parts) for parts in zip(a.reshape(500, -1), b.reshape(500, -1), strict=True))
assert counted() == 0 and equal(want[0], want[0])
REFUSE
with csoftmax.threads(4):
    for _ in range(3):
        assert equal(csoftmax.softmax(x, out=y), want[0])
        assert counted() == 0, counted()
    assert equal(csoftmax.softmax(long, out=long), want[1])
RELENT
"""
MEMORY = """
import pathlib
pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
before = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 19), before[1]))
"""
RELENT = """
import time
resource.setrlimit(resource.RLIMIT_AS, before)
time.sleep(1.1)
csoftmax.set_num_threads(4)
csoftmax.softmax(x, out=y)
assert counted() == 3, counted()
"""
# no limit binds the superuser
PROCESSES = """
import os
if os.getuid() == 0:
    os.setuid(65534)
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
"""


@pytest.mark.linux("the limits are its own")
@pytest.mark.parametrize(("refuse", "relent"), [(MEMORY, RELENT), (PROCESSES, "")], ids=["memory", "processes"])
def test_where_no_thread_can_be_made_the_call_goes_on_alone(refuse, relent):
    """And asks again a second later."""
    output(REFUSED.replace("REFUSE", refuse).replace("RELENT", relent))


# --------------------------------------------------------------------------------------- other libraries' say

CTL = """
import numpy as np
def pools(): return [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "csoftmax"]
before = csoftmax.get_num_threads()
(pool,) = pools()
assert pool["num_threads"] == before and pool["filepath"] == csoftmax.runtime.core.__file__, pool
"""


@pytest.mark.parametrize("order", ["csoftmax, threadpoolctl", "threadpoolctl, csoftmax"])
def test_threadpoolctl_sees_the_pool_whichever_comes_first(order):
    output(CTL, first=f"import {order}", CSOFTMAX_NUM_THREADS="3")


def test_threadpoolctl_limits_hold():
    code = """
def origin(): return csoftmax.runtime_info()["threads"]["origin"]
with threadpoolctl.threadpool_limits(1):
    assert (csoftmax.get_num_threads(), origin()) == (1, "threadpoolctl")
    csoftmax.softmax(np.zeros((1000, 1000)))
    assert csoftmax.runtime_info()["threads"]["workers"] == 0
    with csoftmax.threads(4):
        assert csoftmax.get_num_threads() == 1
    with threadpoolctl.threadpool_limits({"csoftmax": 2}), csoftmax.threads(4):
        assert csoftmax.get_num_threads() == 2
assert csoftmax.get_num_threads() == before and origin() != "threadpoolctl"
with csoftmax.threads(4), threadpoolctl.threadpool_limits(2, user_api="csoftmax"):
    assert csoftmax.get_num_threads() == 2
with threadpoolctl.threadpool_limits(1):
    csoftmax.set_num_threads(5)
    assert csoftmax.get_num_threads() == 5
"""
    output(CTL + code, first="import csoftmax, threadpoolctl", CSOFTMAX_NUM_THREADS="3")


def test_workers_of_joblib_get_their_share():
    code = """
import joblib
def count():
    import csoftmax
    return csoftmax.get_num_threads(), csoftmax.runtime_info()["threads"]["origin"]
with joblib.parallel_config("loky", n_jobs=2, inner_max_num_threads=1):
    print(joblib.Parallel()(joblib.delayed(count)() for _ in range(2)))
"""
    root = os.path.dirname(os.path.dirname(csoftmax.__file__))
    assert output(code, PYTHONPATH=root) == str([(1, "OMP_NUM_THREADS")] * 2)


def test_importing_leaves_the_import_of_others_alone():
    code = "import sys; before = list(sys.meta_path)"
    after = "import threadpoolctl; assert sys.meta_path == before, sys.meta_path"
    output(after, first=f"{code}\nimport csoftmax")
    output("assert sys.meta_path == before", first=f"import threadpoolctl\n{code}\nimport csoftmax")
