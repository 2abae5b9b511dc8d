"""Run-time switches: ISA levels, threads, environment variables, fork; what an import leaves alone."""

import concurrent.futures
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
import threading

import numpy as np
import pytest
from conftest import ALL_LEVELS, LEVELS

import csoftmax

CPU_FLAGS = {"avx2": {"avx2", "fma", "bmi2"}, "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"}}


def python(code, first="import csoftmax", **environment):
    """Run `code` in a fresh interpreter whose warnings are errors."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("CSOFTMAX_", "OMP_"))}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", f"{first}\n{code}"],
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=100,
    )


def output(code, first="import csoftmax", **environment):
    run = python(code, first, **environment)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    return run.stdout.strip()


def test_every_level_the_cpu_has_is_supported():
    if platform.machine() in ("x86_64", "AMD64"):
        flags = set(pathlib.Path("/proc/cpuinfo").read_text().split("flags", 1)[1].split("\n", 1)[0].split())
        expected = {"baseline"} | {level for level, needed in CPU_FLAGS.items() if needed <= flags}
    else:
        expected = {"neon"} | set(LEVELS) & {"baseline"}
    assert set(LEVELS) == expected


def test_the_best_level_is_chosen():
    best = max(LEVELS, key=ALL_LEVELS.index)
    assert output("print(csoftmax.get_isa())") == best


@pytest.mark.parametrize("level", LEVELS)
def test_isa_is_chosen_by_the_environment(level):
    assert output("print(csoftmax.get_isa())", CSOFTMAX_ISA=level) == level


@pytest.mark.parametrize("level", ["sse9", "avx", *sorted(set(ALL_LEVELS) - set(LEVELS))])
def test_isa_that_is_unknown_or_absent_is_an_error_at_import_that_lists_those_there_are(level):
    run = python("print('imported')", CSOFTMAX_ISA=level)
    assert run.returncode != 0
    assert run.stdout == ""
    message = run.stderr.strip().splitlines()[-1]
    assert "CSOFTMAX_ISA" in message
    assert all(name in message for name in LEVELS)


def test_use_isa_switches_and_restores_even_after_an_error():
    before = csoftmax.get_isa()
    for level in LEVELS:
        with csoftmax.use_isa(level):
            assert csoftmax.get_isa() == level
            assert csoftmax.softmax([0.0, 0.0])[0] == 0.5
        assert csoftmax.get_isa() == before
        with pytest.raises(KeyError), csoftmax.use_isa(level):
            raise KeyError
        assert csoftmax.get_isa() == before


@pytest.mark.parametrize("level", ["sse9", *sorted(set(ALL_LEVELS) - set(LEVELS))])
def test_use_isa_of_an_absent_level_lists_those_there_are(level):
    before = csoftmax.get_isa()
    with pytest.raises(ValueError, match=".*".join(LEVELS)), csoftmax.use_isa(level):
        pass
    assert csoftmax.get_isa() == before


@pytest.mark.parametrize("name", [3, None, b"baseline", ["baseline"], np.array(["a", "b"])], ids=repr)
def test_isa_that_is_no_name_is_refused(name):
    with pytest.raises(TypeError, match=f"must be a string, not {type(name).__name__}"), csoftmax.use_isa(name):
        pass


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


@pytest.mark.parametrize("digits", [6, 20, 5000])
def test_thread_count_beyond_reason_is_refused(digits):
    with pytest.raises(ValueError, match="from 1 to 65536"):
        csoftmax.set_num_threads(10**digits)


@pytest.mark.parametrize("count", ["0", "-1", "many", "1.5", "²", "65537", "99999999999", "9" * 5000])
def test_thread_count_in_the_environment_that_is_none_is_an_error_at_import(count):
    run = python("print('imported')", CSOFTMAX_NUM_THREADS=count)
    assert run.stdout == ""
    assert "ImportError: CSOFTMAX_NUM_THREADS=" in run.stderr
    # OpenMP itself says what it thinks of its own variable, and goes on
    assert python("print(csoftmax.get_num_threads() >= 1)", OMP_NUM_THREADS=count).stdout == "True\n"


OPENMP = """
import threadpoolctl
print(*[m["filepath"] for m in threadpoolctl.threadpool_info() if m["user_api"] == "openmp"])
"""
UNDER_A_LIMIT = """
import ctypes, os, sys
import numpy as np
openmp = ctypes.CDLL(sys.argv[1])
openmp.omp_set_num_threads(1)
import csoftmax
tasks = lambda: len(os.listdir("/proc/self/task"))
y, before = np.zeros((1000, 1000)), tasks()
def threads():
    csoftmax.softmax(y)
    return tasks() - before + 1
under = threads()
with csoftmax.threads(3):
    asked = threads()
openmp.omp_set_num_threads(4)
print(under, asked, threads())
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads are counted in Linux's /proc")
def test_a_limit_that_openmp_had_before_the_import_is_obeyed():
    """Without a count from the user; a process keeps the threads it has started."""
    library = output(OPENMP)
    if not library:
        pytest.skip("this build has no OpenMP")
    run = subprocess.run(
        [sys.executable, "-c", UNDER_A_LIMIT, library],
        env={k: v for k, v in os.environ.items() if not k.startswith("CSOFTMAX_")} | {"OMP_NUM_THREADS": "4"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert run.stdout.split() == ["1", "3", "4"], run.stderr


def test_threads_from_the_environment():
    ask = "print(csoftmax.get_num_threads())"
    assert output(ask, CSOFTMAX_NUM_THREADS="3") == "3"
    assert output(ask, OMP_NUM_THREADS="5") == "5"
    assert output(ask, CSOFTMAX_NUM_THREADS="3", OMP_NUM_THREADS="5") == "3"


@pytest.mark.parametrize("count", ["0", "-2", "two"])
def test_thread_count_of_the_environment_that_is_no_positive_integer_is_an_error_at_import(count):
    run = python("print('imported')", CSOFTMAX_NUM_THREADS=count)
    assert run.returncode != 0
    assert run.stdout == ""
    assert repr(count) in run.stderr.strip().splitlines()[-1]


QUOTAS = {
    "of 1.5 CPUs": ({"cpu.max": "150000 100000"}, "2"),
    "of a tenth of a CPU": ({"cpu.max": "10000 100000"}, "1"),
    "none": ({"cpu.max": "max 100000"}, "None"),
    "unheard of": ({"cpu.max": "unlimited"}, "None"),
    "no such file": ({}, "None"),
    "of 2.5 CPUs in the first version's files": (
        {"cpu/cpu.cfs_quota_us": "250000", "cpu/cpu.cfs_period_us": "100000"}, "3",
    ),
    "none in the first version's files": (
        {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "None",
    ),
    "a period of 0": ({"cpu/cpu.cfs_quota_us": "1", "cpu/cpu.cfs_period_us": "0"}, "None"),
}


@pytest.mark.parametrize("quota", QUOTAS)
def test_cpu_quota_of_the_cgroup(quota):
    files, cpus = QUOTAS[quota]
    code = (
        "import builtins, io\n"
        f"files = {files}\n"
        "def fake(path, *arguments):\n"
        "    group, _, name = str(path).partition('/sys/fs/cgroup/')\n"
        "    if not name:\n"
        "        return there(path, *arguments)\n"
        "    if name not in files:\n"
        "        raise FileNotFoundError(path)\n"
        "    return io.StringIO(files[name])\n"
        "there, builtins.open = builtins.open, fake\n"
        "import csoftmax, os\n"
        "from csoftmax import _core\n"
        f"assert _core.quota_cpus() == {cpus}, _core.quota_cpus()\n"
        f"assert csoftmax.get_num_threads() == min({cpus} or 99, len(os.sched_getaffinity(0)))\n"
    )
    output(code, first="")


def test_threads_are_at_most_the_cpus_this_process_may_use():
    cpu = min(os.sched_getaffinity(0))
    pinned = f"import os; os.sched_setaffinity(0, [{cpu}]); "
    run = subprocess.run(
        [sys.executable, "-c", pinned + "import csoftmax; print(csoftmax.get_num_threads())"],
        env={k: v for k, v in os.environ.items() if not k.startswith(("CSOFTMAX_", "OMP_"))},
        capture_output=True,
        text=True,
    )
    assert run.stdout.strip() == "1", run.stderr
    assert 1 <= int(output("print(csoftmax.get_num_threads())")) <= len(os.sched_getaffinity(0))


def test_runtime_info_tells_what_is_in_force():
    for level in LEVELS:
        with csoftmax.threads(7), csoftmax.use_isa(level):
            info = csoftmax.runtime_info()
            assert (info["isa"]["active"], info["threads"]["active"]) == (level, 7)
    assert info["version"] == importlib.metadata.version("csoftmax")
    assert set(info["isa"]["supported"]) <= set(info["isa"]["built"])
    assert info["compiler"]
    assert json.loads(json.dumps(info)) == info
    told = output("print(csoftmax.runtime_info()['environment'])", CSOFTMAX_NUM_THREADS="3")
    assert told == "{'CSOFTMAX_NUM_THREADS': '3'}"


def test_show_runtime_prints_it_for_people(capsys):
    csoftmax.show_runtime()
    shown = capsys.readouterr().out
    info = csoftmax.runtime_info()
    for word in (info["version"], info["compiler"], info["numpy"], csoftmax.get_isa()):
        assert word in shown


@pytest.mark.parametrize("level", LEVELS)
def test_subnormals_and_rounding_are_alive_after_import_and_use(level):
    output(
        "import numpy as np\n"
        "csoftmax.softmax(np.zeros((300, 300)))\n"
        "csoftmax.softmax(np.zeros((300, 300), 'f'), axis=0)\n"
        "assert 5e-324 * 1.0 != 0 and np.float32(1e-45) * np.float32(1) != 0\n"
        "assert (np.full(99, 5e-324) * 1.0).all() and (np.full(99, 1e-45, 'f') * np.float32(1)).all()\n"
        "assert 1 + 2.0**-53 == 1 and -1 - 2.0**-53 == -1 and 1 + 3 * 2.0**-53 == 1 + 2.0**-51",
        CSOFTMAX_ISA=level,
    )


@pytest.mark.usefixtures("isa")
def test_no_floating_point_error_is_ever_raised():
    x = np.array([[np.nan, 1, 2], [np.inf, -np.inf, 0], [3e38, -3e38, 0], [-200, 0, 0], [-np.inf] * 3])
    with np.errstate(all="raise"):
        for dtype in ("float32", "float64"):
            logits = x.astype(dtype)
            p, logs = csoftmax.softmax(logits), csoftmax.log_softmax(logits)
            csoftmax.logsumexp(logits)
            csoftmax.softmax_backward(logits, p)
            csoftmax.log_softmax_backward(logits, logs)
            csoftmax.softmax(logits, dtype="float16")
            csoftmax.cross_entropy_with_grad(logits, [0, 1, 2, 0, 1])
            for reduction in ("sum", "mean", "none"):
                csoftmax.cross_entropy(np.repeat(logits[2:3], 9, axis=0), [1] * 9, reduction=reduction)
            for output in (p, logits, np.array([1e-38, 1e-30], dtype), np.array([1e38, 1e38], dtype)):
                csoftmax.softmax_jacobian(output)
            np.add(np.ones(3), 1)
        signalling = np.array([0x7FA00000] * 3, "u4").view("f4")
        csoftmax.cross_entropy_with_grad(np.zeros((1, 3)), [0], weight=signalling, grad_output=signalling[0])
        csoftmax.softmax_jacobian(csoftmax.softmax(np.array([1, 9]), dtype="float16"))


def test_import_brings_in_nothing_but_numpy():
    others = ("scipy", "torch", "jax", "numba", "rich", "matplotlib", "ml_dtypes", "dask", "onnx")
    assert output(f"import sys; print([m for m in {others} if m in sys.modules])") == "[]"


def test_many_python_threads_at_once_give_the_bits_of_one():
    inputs = [np.random.default_rng(i).standard_normal((70, 1000)).astype("float32") for i in range(16)]
    want = [csoftmax.softmax(x) for x in inputs]
    for count in (1, 2):
        with csoftmax.threads(count), concurrent.futures.ThreadPoolExecutor(8) as pool:
            for got, expected in zip(pool.map(csoftmax.softmax, inputs * 4), want * 4, strict=True):
                assert np.array_equal(got, expected)


def test_the_gil_is_released_during_the_work():
    """With forced switches off, another thread runs before the call returns only if the call lets it."""
    x = np.zeros(1 << 23, "float32")
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        for _ in range(20):
            entered, returned = threading.Event(), []

            def work(entered=entered, returned=returned):
                entered.set()
                csoftmax.softmax(x, out=x)
                returned.append(True)

            worker = threading.Thread(target=work)
            worker.start()
            entered.wait()
            released = not returned
            worker.join()
            if released:
                break
    finally:
        sys.setswitchinterval(interval)
    assert released


def test_a_forked_child_works():
    code = (
        "import os, numpy as np, warnings\n"
        "warnings.simplefilter('ignore')\n"
        "csoftmax.set_num_threads(2)\n"
        "x = np.arange(250000.0).reshape(500, 500) % 7\n"
        "want = csoftmax.softmax(x)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os._exit(0 if np.array_equal(csoftmax.softmax(x), want) else 3)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0\n"
        "assert np.array_equal(csoftmax.softmax(x), want)"
    )
    output(code)
