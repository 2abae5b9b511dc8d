"""Peak memory: no operation holds more than a few rows beside its input and result."""

import subprocess
import sys

import pytest

MEBIBYTE = 1 << 20

# The peak is reset after the arrays are touched and the library warmed up, so only the call itself counts.
MEASURE = """
import pathlib, tracemalloc
import numpy as np, csoftmax
status, clear = pathlib.Path("/proc/self/status"), pathlib.Path("/proc/self/clear_refs")
def kib(name):
    return int(status.read_text().split(name + ":")[1].split()[0])
def peak(call):
    call()
    clear.write_text("5")
    before = kib("VmRSS")
    tracemalloc.start()
    call()
    traced = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return max(kib("VmHWM") - before, 0) * 1024, traced
rng = np.random.default_rng(0)
x = rng.standard_normal((256, 50257), dtype="float32")
target = rng.integers(0, 50257, 256)
probabilities = np.full_like(x, 1 / 50257)
where = x > 0
half = x.astype("float16")
columns = x.reshape(50257, 256)
swapped = x[:, ::-1]
csoftmax.softmax(x, out=probabilities)
"""

CALLS = [
    "csoftmax.cross_entropy(x, target)",
    "csoftmax.cross_entropy(x, target, label_smoothing=0.1)",
    "csoftmax.cross_entropy(x, probabilities)",
    "csoftmax.cross_entropy(columns, target, axis=0)",
    "csoftmax.cross_entropy_with_grad(x, target, out=x)",
    "csoftmax.cross_entropy_with_grad(columns, target, axis=0, out=columns)",
    "csoftmax.softmax(half, out=half)",
    "csoftmax.softmax(half, dtype='float32', out=probabilities)",
    "csoftmax.softmax(x, out=x)",
    "csoftmax.softmax(x, axis=0, out=x)",
    "csoftmax.softmax(x, where=where, out=probabilities)",
    "csoftmax.softmax(x, where=where[:1], out=probabilities)",
    "csoftmax.softmax(swapped, out=probabilities)",
    "csoftmax.softmax_backward(x, probabilities, out=x)",
    "csoftmax.log_softmax(x, out=probabilities)",
    "csoftmax.logsumexp(x)",
    "csoftmax.logsumexp(x, axis=0)",
    "csoftmax.logsumexp(half, where=where)",
]


@pytest.fixture(scope="module")
def peaks():
    """Peak of resident and of traced memory of every call, measured in one process of its own."""
    report = "".join(f"print(*peak(lambda: {call}))\n" for call in CALLS)
    run = subprocess.run(
        [sys.executable, "-c", MEASURE + report], capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    return dict(zip(CALLS, ([int(v) for v in line.split()] for line in run.stdout.splitlines()), strict=True))


@pytest.mark.linux("peak memory is read in /proc")
@pytest.mark.parametrize("call", CALLS)
def test_extra_memory_is_below_a_mebibyte(call, peaks):
    resident, traced = peaks[call]
    assert traced < MEBIBYTE
    assert resident < MEBIBYTE
