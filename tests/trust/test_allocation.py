"""Memory: nothing leaks, by any function or error; an allocation that fails is a MemoryError, and no more."""

import gc
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import fuzz
import numpy as np
import pytest

import csoftmax

CALLS = {"quick": 1_000, "short": 100_000, "nightly": 100_000}
ERROR_CALLS = {"quick": 300, "short": 10_000, "nightly": 100_000}
STATUS = Path("/proc/self/statm")

X = np.random.default_rng(0).standard_normal((4, 6))
LARGE = np.random.default_rng(0).standard_normal((64, 80)).astype("f4")  # beyond what is worked on in place
P = csoftmax.softmax(X)
MASK = X > -1
TARGET = np.array([0, 5, -100, 2])
OUT = np.empty_like(X)


def switch_level():
    with csoftmax.use_isa(csoftmax.get_isa()):
        pass


FUNCTIONS = {
    "softmax": lambda: csoftmax.softmax(X),
    "softmax of a list": lambda: csoftmax.softmax([1.0, 2.0]),
    "softmax of a large array": lambda: csoftmax.softmax(LARGE, 0),
    "softmax with everything": lambda: csoftmax.softmax(X, (0, 1), temperature=2, where=MASK, out=OUT),
    "softmax in float16": lambda: csoftmax.softmax(X, dtype="float16"),
    "softmax over its own window": lambda: csoftmax.softmax(OUT[:-1], out=OUT[1:]),
    "log_softmax": lambda: csoftmax.log_softmax(X, 0),
    "logsumexp": lambda: csoftmax.logsumexp(X, where=MASK, keepdims=True),
    "logsumexp of a large array": lambda: csoftmax.logsumexp(LARGE, None),
    "softmax_backward": lambda: csoftmax.softmax_backward(X, P, out=OUT),
    "softmax_jvp": lambda: csoftmax.softmax_jvp(X, P, 0),
    "log_softmax_backward": lambda: csoftmax.log_softmax_backward(X, P),
    "log_softmax_jvp": lambda: csoftmax.log_softmax_jvp(X, P, temperature=3.0),
    "softmax_jacobian": lambda: csoftmax.softmax_jacobian(P),
    "cross_entropy": lambda: csoftmax.cross_entropy(X, TARGET, weight=np.ones(6), reduction="none"),
    "cross_entropy of probabilities": lambda: csoftmax.cross_entropy(X, P, label_smoothing=0.1),
    "cross_entropy_with_grad": lambda: csoftmax.cross_entropy_with_grad(X, TARGET, grad_output=2.0, out=OUT),
    "switches": lambda: csoftmax.set_num_threads(csoftmax.get_num_threads()),
    "use_isa": switch_level,
}


def growth(call, count):
    """Python's memory blocks and resident pages that `count` calls left behind, after as many to warm up."""

    def measure():
        gc.collect()
        return np.array([sys.getallocatedblocks(), int(STATUS.read_text().split()[1])])

    for _ in range(count // 10):
        call()
    before = measure()
    for _ in range(count):
        call()
    return measure() - before


def check_growth(call, count):
    # the heap may grow once; a leak grows it every time
    blocks, pages = np.minimum(growth(call, count // 2), growth(call, count // 2))
    assert blocks < 50 + count // 100, f"{blocks} blocks after {count} calls"
    assert pages < 100 + count // 1000, f"{pages} pages after {count} calls"


@pytest.mark.linux("resident memory is read in /proc")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_function_leaks(name, scale, tally):
    count = CALLS[scale]
    held = [sys.getrefcount(a) for a in (X, P, MASK, TARGET, OUT)]
    check_growth(FUNCTIONS[name], count)
    assert [sys.getrefcount(a) for a in (X, P, MASK, TARGET, OUT)] == held
    tally({"calls checked for leaks": count})


def faulty_calls():
    """One case for every fault of every function it applies to."""
    found = {}
    for seed in range(3000):
        case = fuzz.draw(random.Random(seed), [csoftmax.get_isa()])
        if len(case.faults) == 1:
            found.setdefault((case.function, *case.faults), case)
    return found


@pytest.mark.linux("resident memory is read in /proc")
def test_no_error_leaks(scale, tally):
    cases = faulty_calls()
    assert len(cases) > 45
    for name, case in cases.items():

        def call(case=case):
            try:
                getattr(csoftmax, case.function)(*case.arguments, **case.options)
            except Exception as error:
                return type(error)
            raise AssertionError("accepted")

        if all(a.size < 3000 for a in case.arguments if isinstance(a, np.ndarray)):
            check_growth(call, ERROR_CALLS[scale])
            tally({"failing calls checked for leaks": ERROR_CALLS[scale]})
        else:
            assert call(), name


# ----------------------------------------------------------------------------------- allocations that fail

STARVED = """
import ctypes, sys
import numpy as np
import csoftmax
shim = ctypes.CDLL(sys.argv[1])
csoftmax.set_num_threads(2)
x = np.random.default_rng(0).standard_normal((100, 900))
p, target, out = csoftmax.softmax(x), np.arange(100), np.full_like(x, 7)
long = np.zeros(300000, "f4")
calls = [
    lambda: csoftmax.softmax(x, out=out),
    lambda: csoftmax.softmax(x, 0, out=out),
    lambda: csoftmax.softmax(x, where=x > 0, out=out),
    lambda: csoftmax.log_softmax(x.T, out=out.T),
    lambda: csoftmax.logsumexp(x),
    lambda: csoftmax.logsumexp(long),
    lambda: csoftmax.softmax(long),
    lambda: csoftmax.softmax_backward(x, p, out=out),
    lambda: csoftmax.log_softmax_jvp(x, p, 0, out=out),
    lambda: csoftmax.softmax_jacobian(p[:, :5]),
    lambda: csoftmax.cross_entropy(x, target),
    lambda: csoftmax.cross_entropy_with_grad(x, target, out=out, reduction="none"),
]
def bits(result):
    return [np.asarray(part).tobytes() for part in (result if isinstance(result, tuple) else (result,))]
failures = 0
for k, call in enumerate(calls):
    want = bits(call())
    for after in range(1000):
        out[:] = 7
        shim.fail_after(after)
        try:
            got = call()
        except MemoryError as error:
            assert str(error) and (out == 7).all(), k
            error = None
            got = None
        finally:
            failed = shim.has_failed()
            shim.fail_after(-1)
        # without scratch for both threads it goes on with one
        assert got is None or bits(got) == want, f"call {k} is wrong after its allocation {after} failed"
        if not failed:
            assert got is not None
            break
        failures += 1
    call()
print(failures)
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    library = tmp_path_factory.mktemp("shim") / "failing_malloc.so"
    source = Path(__file__).with_name("failing_malloc.c")
    compiler = os.environ.get("CC", shutil.which("gcc") or "cc")
    subprocess.run([*compiler.split(), "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


@pytest.mark.linux("malloc is replaced by LD_PRELOAD")
def test_every_allocation_that_fails_is_a_memory_error(shim, tally):
    run = subprocess.run(
        [sys.executable, "-c", STARVED, shim],
        env=os.environ | {"LD_PRELOAD": str(shim)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, f"exit {run.returncode}: {run.stderr}"
    assert int(run.stdout) >= 8
    tally({"allocations made to fail": int(run.stdout)})


@pytest.mark.linux("only it holds a process to RLIMIT_AS")
@pytest.mark.parametrize(
    "call",
    [
        "csoftmax.softmax(x)",
        "csoftmax.softmax(x, 0)",
        "csoftmax.log_softmax(x, dtype='f8')",
        "csoftmax.softmax(x, where=np.broadcast_to(True, x.shape), out=x)",
        "csoftmax.softmax_backward(x, x)",
        "csoftmax.cross_entropy_with_grad(x, np.zeros(2, int))",
        "csoftmax.softmax_jacobian(x)",
    ],
)
def test_a_process_without_memory_gets_a_memory_error_and_lives(call):
    code = f"""
import resource
import numpy as np
import csoftmax
x = np.zeros((2, 8_000_000), "f4")
csoftmax.softmax(x[:, :9])
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 20),) * 2)
try:
    {call}
except MemoryError:
    assert not x.any() and csoftmax.softmax([0.0, 0.0])[0] == 0.5
    print("MemoryError")
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "MemoryError\n"), run.stderr
