"""Forked children, many Python threads, arrays that change during the call, cgroups, other libraries' threads.

What may hang or crash runs in a process of its own, under a time limit.
"""

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import csoftmax

FORKS = {"quick": 5, "short": 100, "nightly": 1000}
BUSY_FORKS = {"quick": 5, "short": 300, "nightly": 10000}     # while other threads compute
ROUNDS = {"quick": 3, "short": 20, "nightly": 200}
SETUP = """
import multiprocessing, os, sys, threading, warnings
import numpy as np
import csoftmax
warnings.simplefilter("ignore", DeprecationWarning)   # of a fork beside threads: that is what is tried
csoftmax.set_num_threads(2)
rounds = int(sys.argv[1])
x = np.random.default_rng(0).standard_normal((300, 500))
want = csoftmax.softmax(x)
def right():
    return np.array_equal(csoftmax.softmax(x), want)
workers = csoftmax.runtime.core.workers
"""
FORK = """
def right_with_threads():
    return workers() == 0 and csoftmax.get_num_threads() == 2 and right() and workers() == 1
def in_child(work):
    child = os.fork()
    if child == 0:
        os._exit(0 if work() else 3)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


def run(code, rounds=1, timeout=300, **environment):
    """Run `code` after `SETUP` in a fresh interpreter; a hang, a crash or an assertion fails."""
    result = subprocess.run(
        [sys.executable, "-c", SETUP + code, str(rounds)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=os.environ | environment,
    )
    assert result.returncode == 0, f"exit {result.returncode}: {result.stderr}"
    return result.stdout


# --------------------------------------------------------------------------------------------------- fork


@pytest.mark.posix("os.fork")
def test_child_after_a_parallel_call(scale, tally):
    run(FORK + "for _ in range(rounds): assert in_child(right_with_threads) and right()", FORKS[scale])
    tally({"forks": FORKS[scale]})


@pytest.mark.posix("os.fork")
def test_grandchild():
    run(FORK + "assert in_child(lambda: right() and in_child(right)) and right()")


@pytest.mark.posix("os.fork")
def test_child_of_a_fork_during_a_parallel_call_of_another_thread(scale, tally):
    """As a web server that forks workers while it serves. A child has threads of its own; none hangs."""
    code = """
stop = threading.Event()
def busy():
    while not stop.is_set():
        assert right()
callers = [threading.Thread(target=busy) for _ in range(3)]
for caller in callers: caller.start()
try:
    for _ in range(rounds): assert in_child(right_with_threads)
finally:
    stop.set()
    for caller in callers: caller.join()
assert right()
"""
    run(FORK + code, BUSY_FORKS[scale], timeout=1800)
    tally({"forks": BUSY_FORKS[scale]})


@pytest.mark.posix("os.fork")
def test_multiprocessing_pool_of_forked_workers(scale, tally):
    code = """
def job(i):
    return np.array_equal(csoftmax.softmax(x + 0 * i), want)
with multiprocessing.get_context("fork").Pool(3) as pool:
    assert all(pool.map(job, range(rounds)))
assert right()
"""
    run(code, FORKS[scale])
    tally({"calls in forked workers": FORKS[scale]})


@pytest.mark.posix("os.fork")
def test_server_that_forks_its_workers_before_they_serve(scale, tally):
    """As gunicorn: a warm parent, workers that serve over a pipe, a worker that is killed and replaced."""
    code = """
import signal, struct
def serve(requests, replies):
    while data := os.read(requests, 4):
        row = struct.unpack("i", data)[0]
        os.write(replies, csoftmax.softmax(x)[row].tobytes())
def worker():
    ask, answer = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ask[1])
        serve(ask[0], answer[1])
        os._exit(0)
    os.close(ask[0]), os.close(answer[1])
    return child, ask[1], answer[0]
for i in range(rounds):
    child, ask, answer = worker()
    os.write(ask, struct.pack("i", i % 300))
    assert os.read(answer, 4000) == want[i % 300].tobytes()
    if i % 2:
        os.kill(child, signal.SIGKILL)
    os.close(ask), os.close(answer)
    os.waitpid(child, 0)
"""
    run(FORK + code, FORKS[scale])
    tally({"forks": FORKS[scale]})


# ------------------------------------------------------------------------------------------------ threads


def in_threads(count, work):
    """Run `work(i)` in `count` Python threads that start together; what any of them raises is raised."""
    start, errors = threading.Barrier(count), []

    def body(i):
        try:
            start.wait()
            work(i)
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=body, args=(i,)) for i in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if errors:
        raise errors[0]


@pytest.mark.parametrize("threads", [1, 2])
def test_64_threads_on_one_array_and_on_their_own(threads, scale, tally):
    shared = np.random.default_rng(1).standard_normal((90, 800)).astype("float32")
    target = np.arange(90)
    own = [np.random.default_rng(i).standard_normal((5 + i, 700)) for i in range(64)]
    with csoftmax.threads(1):
        want_shared = csoftmax.softmax(shared)
        want_loss = csoftmax.cross_entropy(shared, target)
        want_own = [csoftmax.log_softmax(x, 0) for x in own]

    def work(i):
        with csoftmax.threads(threads):
            for _ in range(ROUNDS[scale]):
                assert np.array_equal(csoftmax.softmax(shared), want_shared)
                assert np.array_equal(csoftmax.log_softmax(own[i], 0), want_own[i])
                assert csoftmax.cross_entropy(shared, target) == want_loss

    in_threads(64, work)
    tally({"calls in 64 threads": 64 * 3 * ROUNDS[scale]})


def test_settings_changed_by_other_threads_change_no_result(scale, tally):
    x = np.random.default_rng(1).standard_normal((300, 300))
    level = csoftmax.get_isa()
    want = csoftmax.softmax(x)
    before = csoftmax.get_num_threads()

    def work(i):
        for k in range(20 * ROUNDS[scale]):
            if i % 2:
                csoftmax.set_num_threads(1 + k % 3)
            else:
                assert np.array_equal(csoftmax.softmax(x), want)

    try:
        in_threads(8, work)
    finally:
        csoftmax.set_num_threads(before)
    assert csoftmax.get_isa() == level
    tally({"calls while settings change": 80 * ROUNDS[scale]})


MUTATION = """
stop = threading.Event()
logits = np.random.default_rng(0).standard_normal((2000, 50)).astype("f4")
target = np.zeros(2000, "i8")
mask = np.ones(logits.shape, bool)
scores = 0
def spoil():
    while not stop.is_set():
        target[:] = -(2**62)
        logits[:] = np.nan
        target[:] = 2**62
        logits[:] = np.inf
        mask[:] = False
        target[:] = 0
        mask[:] = True
spoiler = threading.Thread(target=spoil)
spoiler.start()
refused = 0
try:
    for i in range(rounds):
        for reduction in ("mean", "none"):
            try:
                csoftmax.cross_entropy(logits, target, reduction=reduction)
                csoftmax.cross_entropy_with_grad(logits, target, reduction=reduction, label_smoothing=0.1)
                csoftmax.cross_entropy(logits.T, target, 0, weight=np.ones(50))
            except IndexError:
                refused += 1
        csoftmax.softmax(logits, where=mask)
        csoftmax.logsumexp(logits, 0)
finally:
    stop.set()
    spoiler.join()
print(refused)
"""


def test_arrays_that_change_during_the_call_never_crash_it(scale, tally):
    """Class indices are checked and then used: what is used must be what was checked, or left out."""
    rounds = 20 * ROUNDS[scale]
    run(MUTATION, rounds)
    tally({"calls on changing arrays": 8 * rounds})


# ------------------------------------------------------------------------------------------------ cgroups

# of each kind: where its hierarchy is, as a rule, what is written into a new group, and what is then to be seen
CGROUPS = {
    "quota of the first version": (
        ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"],
        {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "100000"},
        "assert (csoftmax.get_num_threads(), info()['origin'], info()['quota']) == (1, 'cgroup quota', 1), info()",
    ),
    "quota of the second version": (
        ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"],
        {"cpu.max": "100000 100000"},
        "assert (csoftmax.get_num_threads(), info()['origin'], info()['quota']) == (1, 'cgroup quota', 1), info()",
    ),
    "limit on processes": (
        ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"],
        {"pids.max": "1"},
        "csoftmax.set_num_threads(4); assert right() and right() and info()['workers'] == 0, info()",
    ),
}
IN_GROUP = """
import os, pathlib, sys
pathlib.Path(sys.argv[1], "cgroup.procs").write_text(str(os.getpid()))
os.environ["OPENBLAS_NUM_THREADS"] = "1"
import numpy as np
import csoftmax
x = np.random.default_rng(0).standard_normal((300, 500))
with csoftmax.threads(1): want = csoftmax.softmax(x)
def right(): return np.array_equal(csoftmax.softmax(x), want)
def info(): return csoftmax.runtime_info()["threads"]
"""


def new_group(roots, files):
    """A group with another in it, below the first of the roots where the system allows it; else None."""
    for root in roots:
        outer = Path(root, f"csoftmax-{os.getpid()}")
        if not Path(root, "cgroup.procs").exists():
            continue  # no hierarchy at all
        try:
            (outer / "inner").mkdir(parents=True)
            for name, text in files.items():
                with open(outer / name, "r+") as file:
                    file.write(text)
            return outer
        except OSError:
            remove_group(outer)
    return None


def remove_group(outer):
    for group in (outer / "inner", outer):
        with contextlib.suppress(OSError):
            group.rmdir()


@pytest.mark.linux("cgroups are its own")
@pytest.mark.parametrize("kind", CGROUPS)
def test_limits_of_a_cgroup_that_ours_lies_in(kind, tally):
    """Where the system lets this process make one; tests/runtime/test_threads.py has all kinds, as files."""
    roots, files, code = CGROUPS[kind]
    group = new_group(roots, files)
    tally({"cgroups made": int(group is not None)})
    if group is None:
        return
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("CSOFTMAX_", "OMP_"))}
    try:
        result = subprocess.run(
            [sys.executable, "-c", IN_GROUP + code, str(group / "inner")],
            capture_output=True,
            text=True,
            timeout=100,
            env=environment,
        )
    finally:
        remove_group(group)
    assert result.returncode == 0, result.stderr


# ------------------------------------------------------------------------------------- other run times


BESIDE = {
    "sklearn": """
from sklearn.cluster import KMeans
def other():
    return KMeans(3, n_init=1, random_state=0).fit(x).inertia_
""",
    "onnxruntime": """
import onnx, onnxruntime
helper = onnx.helper
value = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [300, 500]) for name in "ab"]
graph = helper.make_graph([helper.make_node("Softmax", ["a"], ["b"])], "g", value[:1], value[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 2
session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
def other():
    return float(session.run(None, {"a": x.astype("f4")})[0].sum())
""",
    "torch": """
import torch
torch.set_num_threads(2)
t = torch.from_numpy(x.astype("f4"))
def other():
    return float(torch.softmax(t @ t.T, -1).sum())
""",
}


@pytest.mark.posix("os.fork")
@pytest.mark.parametrize("first", ["csoftmax", "other"])
@pytest.mark.parametrize(
    "library", ["sklearn", *(pytest.param(name, marks=pytest.mark.peers) for name in ("torch", "onnxruntime"))]
)
def test_beside_the_threads_of_another_library(library, first, scale, tally):
    """Parallel calls of both in turns, at once from two threads, and in forked children of csoftmax's."""
    order = "right(); other()" if first == "csoftmax" else "other(); right()"
    code = f"""{FORK}{BESIDE[library]}
{order}
before = other()
def ours():
    for _ in range(rounds): assert right()
worker = threading.Thread(target=ours)
worker.start()
for _ in range(rounds): assert np.isclose(other(), before, rtol=1e-4)
worker.join()
assert in_child(right) and right()
"""
    run(code, ROUNDS[scale])
    tally({"rounds beside other libraries' threads": ROUNDS[scale]})


def test_modules_claim_free_threading_only_where_it_was_run():
    """No free-threaded Python has run these tests, so importing must not switch its GIL off."""
    if hasattr(sys, "_is_gil_enabled") and not os.environ.get("PYTHON_GIL"):
        assert sys._is_gil_enabled()
