"""Stores past the caches: switched on for every size or for none, the results have the same bits."""

import os
import subprocess
import sys
import textwrap

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


# `aligned` makes an array that begins at a multiple of 64 bytes, with a gap behind each of its parts.
STREAMED = """
import sys
import numpy as np, csoftmax
dtype = np.dtype(sys.argv[2])
def aligned(shape, gap=0):
    part = int(np.prod(shape[1:])) + gap
    memory = np.full(shape[0] * part * dtype.itemsize + 64, 0xFF, np.uint8)
    start = -memory.ctypes.data % 64
    parts = memory[start : start + shape[0] * part * dtype.itemsize].view(dtype).reshape(shape[0], part)
    return parts[:, : part - gap].reshape(shape) if gap == 0 else np.lib.stride_tricks.as_strided(
        parts, shape, (parts.strides[0], *np.empty(shape[1:], dtype).strides))
def alone(function, x):
    return np.stack([function(row) for row in x])
rng = np.random.default_rng(5)
functions = [csoftmax.softmax, csoftmax.log_softmax]
"""

# 64 columns of 1100: blocks of unlike maxima, hundreds apart
COLUMNS_OF_BLOCKS = """
rows = rng.standard_normal((64, 1100)).astype(dtype)
rows[:, :512] += 40
rows[::2, 700] += 45
for function in functions:
    out = aligned((1100, 64))
    function(np.ascontiguousarray(rows.T), 0, out=out)
    assert (out.T == alone(function, rows)).all(), function
"""

UNALIGNED_PANELS = """
for gap in (1, 4, 64 // dtype.itemsize):
    x = rng.standard_normal((5, 40, 64)).astype(dtype)
    for function in functions:
        out = aligned(x.shape, gap)
        assert out.ctypes.data % 64 == 0
        function(x, 1, out=out)
        want = np.stack([alone(function, np.ascontiguousarray(panel.T)).T for panel in x])
        assert (out == want).all(), (function, gap)
"""


def run_streamed(code, level, dtype):
    code = STREAMED + "with csoftmax.use_isa(sys.argv[1]):\n" + textwrap.indent(code, "    ")
    result = subprocess.run(
        [sys.executable, "-c", code, level, dtype],
        env=os.environ | {"CSOFTMAX_STREAM_BYTES": "0"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, f"exit {result.returncode}: {result.stderr}"


def digest(level, stream_bytes):
    result = subprocess.run(
        [sys.executable, "-c", DIGEST, level],
        env=os.environ | {"CSOFTMAX_STREAM_BYTES": stream_bytes},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return result.returncode, result.stdout, result.stderr


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_columns_of_several_blocks_are_exponentiated_again_as_they_are_stored(isa, dtype):
    """Each block from its own maximum; `out` is aligned, so that columns are streamed at all."""
    run_streamed(COLUMNS_OF_BLOCKS, isa, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_panels_that_are_not_aligned_are_not_streamed(isa, dtype):
    """A 3-D `out` whose first panel is aligned, and the others not: an aligned store there would end the process."""
    run_streamed(UNALIGNED_PANELS, isa, dtype)


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
