"""More elements than 32 bits can count, and Ctrl-C while they are worked on.

Broadcast inputs have billions of elements and no memory. What needs gigabytes for real runs with
--scale=nightly.
"""

import os
import subprocess
import sys

import numpy as np
import oracle
import pytest

import csoftmax

BEYOND = 2**31 + 7
# The quick size takes several waves, of 2^25 elements a thread, of the two threads that these tests use.
BILLIONS = {"quick": 2**27 + 1027, "short": 2**32 + 3, "nightly": 2**33}


@pytest.fixture(autouse=True)
def two_threads():
    """Which calls take several waves does not depend on the machine."""
    with csoftmax.threads(2):
        yield


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_logsumexp_of_a_row_that_is_one_number_broadcast(dtype, scale, tally):
    n = BILLIONS[scale]
    x = np.broadcast_to(np.asarray(1, dtype), n)
    want = 1 + np.log(oracle.wide(n))
    assert oracle.max_ulp(csoftmax.logsumexp(x), want) <= 1
    tally({"elements": n})


def test_logsumexp_of_many_rows_that_are_one_row_broadcast(scale, tally):
    rows = BILLIONS[scale] // 1024
    row = np.linspace(-3, 3, 1024, dtype="f4")
    got = np.full(rows, 7, "f4")
    csoftmax.logsumexp(np.broadcast_to(row, (rows, 1024)), out=got)
    assert (got == csoftmax.logsumexp(row)).all()
    tally({"elements": rows * 1024})


def test_cross_entropy_of_many_rows_that_are_one_row_broadcast(scale, tally):
    rows = BILLIONS[scale] // 1024
    row = np.linspace(-3, 3, 1024, dtype="f4")
    loss = csoftmax.cross_entropy(np.broadcast_to(row, (rows, 1024)), np.broadcast_to(5, rows))
    assert abs(loss - csoftmax.cross_entropy(row, 5)) < 1e-5
    tally({"elements": rows * 1024})


@pytest.mark.nightly  # 4 GiB, and minutes
def test_one_row_beyond_31_bits_in_place(tally):
    peaks = [0, 12345, 2**31 - 1, 2**31, BEYOND - 1]
    x = np.full(BEYOND, -20, "float16")
    x[peaks] = 0
    assert csoftmax.softmax(x, out=x) is x
    want = 1 / (len(peaks) + np.exp(oracle.wide(-20)) * (BEYOND - len(peaks)))
    assert oracle.max_ulp(x[peaks], np.full(len(peaks), want)) <= 0.502
    assert np.count_nonzero(x) == len(peaks)
    tally({"elements": BEYOND})


@pytest.mark.nightly  # 4 GiB, and minutes
@pytest.mark.parametrize("axis", [-1, 0])
def test_many_rows_beyond_31_bits_in_place(axis, tally):
    rows, n = BEYOND // 1024 + 2, 1024
    row = np.linspace(-4, 4, n).astype("float16")
    x = np.empty((rows, n) if axis else (n, rows), "float16")
    x[...] = row if axis else row[:, None]
    csoftmax.softmax(x, axis, out=x)
    view, want = x if axis else x.T, csoftmax.softmax(row)
    for i in (0, 1, 2**20, 2**21 - 1, 2**21, rows - 1):
        assert np.array_equal(view[i], want)
    tally({"elements": rows * n})


# Each would run for seconds at least; `zeros` is of any shape and takes no memory.
LONG_CALLS = {
    "one row": "csoftmax.logsumexp(zeros('f4', 2**33))",
    "one row, staged": "csoftmax.logsumexp(zeros('f2', 2**33))",
    "many rows": "csoftmax.logsumexp(zeros('f4', 2**23, 1024))",
    "many short rows": "csoftmax.logsumexp(zeros('f8', 2**29, 8), out=np.empty(2**29))",
    "columns": "csoftmax.logsumexp(zeros('f4', 2**19, 2**14), 0)",
    "masked rows": "csoftmax.logsumexp(zeros('f8', 2**23, 1024), where=np.ones(1024, bool))",
    "softmax": "csoftmax.softmax(zeros('f4', 2**23, 1024), out=sink(2**23, 1024))",
    "softmax of integers": "csoftmax.softmax(zeros('i2', 2**23, 1024), out=sink(2**23, 1024, dtype='f8'))",
    "backward": "csoftmax.softmax_backward(*[zeros('f4', 2**23, 1024)] * 2, out=sink(2**23, 1024))",
    "loss": "csoftmax.cross_entropy(zeros('f4', 2**23, 1024), zeros('i8', 2**23))",
    "check of indices": "csoftmax.cross_entropy(zeros('f4', 2**30, 2), zeros('i8', 2**30))",
}
INTERRUPT = """
import signal, time
import numpy as np
import csoftmax
def zeros(dtype, *shape):
    return np.broadcast_to(np.zeros(shape[-1] if len(shape) > 1 else 1, dtype), shape)
def sink(rows, n, dtype="f4"):
    # each row is written an element behind the one before
    memory = np.empty(rows + n, dtype)
    return np.lib.stride_tricks.as_strided(memory, (rows, n), 2 * memory.strides)
csoftmax.softmax(np.zeros((300, 300)))
signal.signal(signal.SIGPROF, signal.default_int_handler)
due = time.process_time() + 0.3
signal.setitimer(signal.ITIMER_PROF, 0.3)
try:
    CALL
    print("finished")
except KeyboardInterrupt:
    print(time.process_time() - due)
    assert csoftmax.softmax(np.zeros((300, 300)))[0, 0] == 1 / 300
"""


@pytest.mark.posix("a signal after so much time of the processors")
@pytest.mark.parametrize("call", LONG_CALLS.values(), ids=LONG_CALLS)
def test_ctrl_c_is_heard_within_half_a_second_of_work(call, tally):
    """The signal, and the half second, by processor time of all threads: a busy machine decides nothing."""
    result = subprocess.run(
        [sys.executable, "-c", INTERRUPT.replace("CALL", call)],
        capture_output=True,
        text=True,
        env=os.environ | {"CSOFTMAX_NUM_THREADS": "2"},
    )
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 0.5 * 2
    tally({"calls interrupted": 1})
