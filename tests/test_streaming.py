"""Stores past the caches: switched on for every size or for none, the results have the same bits."""

import os
import subprocess
import sys

import pytest

# prints a digest of the results of every operation, at unaligned places and widths around whole vectors
DIGEST = """
import hashlib, sys
import numpy as np, csoftmax
rng = np.random.default_rng(3)
digest = hashlib.sha256()
def results(rows, n, dtype, first, axis):
    shape = (rows, n) if axis else (n, rows)
    x, g = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    x[0] = 3
    x[-1, 1:] = -120
    out = np.full(rows * n + 64, 7, dtype)
    y = out[first : first + rows * n].reshape(shape)
    for t in 1.0, 0.3:
        yield csoftmax.softmax(x, axis, out=y, temperature=t)
        yield csoftmax.log_softmax(x, axis, out=y, temperature=t)
    p, logs = csoftmax.softmax(x, axis), csoftmax.log_softmax(x, axis)
    yield csoftmax.softmax_backward(g, p, axis, out=y)
    yield csoftmax.log_softmax_backward(g, logs, axis, out=y)
    yield csoftmax.cross_entropy_with_grad(x, np.zeros(rows, int), axis, out=y)[1]
    yield out
shapes = (5, 3), (9, 63), (7, 64), (6, 65), (4, 100), (3, 1024), (2, 1100), (1, 5000), (64, 40), (130, 700)
with csoftmax.use_isa(sys.argv[1]):
    for dtype in "float32", "float64", "float16":
        for rows, n in shapes:
            for first in 0, 1, 5, 16:
                for axis in -1, 0:
                    for result in results(rows, n, dtype, first, axis):
                        digest.update(np.ascontiguousarray(result))
print(digest.hexdigest())
"""


def digest(level, stream_bytes):
    result = subprocess.run(
        [sys.executable, "-c", DIGEST, level],
        env=os.environ | {"CSOFTMAX_STREAM_BYTES": stream_bytes},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return result.returncode, result.stdout, result.stderr


def test_no_bit_depends_on_it(isa):
    never, always = (digest(isa, size) for size in (str(1 << 62), "0"))
    assert never[0] == 0, never[2]
    assert never == always


@pytest.mark.parametrize("size", ["much", "-1", "-100000000000000000000000"])
def test_a_size_that_is_no_number_is_named(size):
    code, _, error = digest("baseline", size)
    assert code == 1
    assert f"CSOFTMAX_STREAM_BYTES must be a number of bytes, not '{size}'" in error


@pytest.mark.parametrize("size", ["", "0", "123456789012345678901234567890"])
def test_any_size_is_taken(size):
    assert digest("baseline", size)[0] == 0
