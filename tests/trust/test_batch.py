"""Batch invariance as a property of any array, over every operation; and in another process."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from arrays import FLOATS
from hypothesis import given
from hypothesis import strategies as st

import csoftmax

pytestmark = pytest.mark.usefixtures("isa")

WIDTHS = {"quick": range(1, 301, 43), "short": range(1, 301, 3), "nightly": range(1, 1101)}


def results(x, g, target, axis):
    """Every operation on the rows of `x` along `axis`, each result with the rows first."""
    p = np.abs(g) / np.asarray(8, g.dtype)
    probabilities = np.abs(x) / np.asarray(8, x.dtype)
    many = {
        "softmax": csoftmax.softmax(x, axis),
        "softmax of a temperature": csoftmax.softmax(x, axis, temperature=1.7),
        "masked softmax": csoftmax.softmax(x, axis, where=x > -1),
        "log_softmax": csoftmax.log_softmax(x, axis),
        "softmax_backward": csoftmax.softmax_backward(g, p, axis),
        "softmax_jvp": csoftmax.softmax_jvp(g, p, axis),
        "log_softmax_backward": csoftmax.log_softmax_backward(g, -p, axis),
        "log_softmax_jvp": csoftmax.log_softmax_jvp(g, -p, axis),
        "gradient": csoftmax.cross_entropy_with_grad(x, target, axis, reduction="sum")[1],
        "gradient of probabilities": csoftmax.cross_entropy_with_grad(
            x, probabilities, axis, reduction="sum"
        )[1],
    }
    one = {
        "logsumexp": csoftmax.logsumexp(x, axis),
        "masked logsumexp": csoftmax.logsumexp(x, axis, where=x > -1),
        "cross_entropy": csoftmax.cross_entropy(x, target, axis, reduction="none", label_smoothing=0.1),
    }
    return {name: np.moveaxis(r, axis, -1) for name, r in many.items()} | one


def data(seed, rows, width, dtype):
    rng = np.random.default_rng(seed)
    x, g = (rng.standard_normal((2, rows, width)) * 3).astype(dtype)
    return x, g, rng.integers(0, width, rows)


def same(got, want, place, case):
    for name, result in want.items():
        assert got[name][place].tobytes() == result[0].tobytes(), (name, *case)


@pytest.mark.parametrize("dtype", FLOATS)
def test_every_row_alone_and_in_company(dtype, scale, tally):
    count = 0
    for width in WIDTHS[scale]:
        rows = 1 + width * 7 % 37
        x, g, target = data(width, rows, width, dtype)
        with csoftmax.threads(2):
            together = results(x, g, target, -1)
            columns = results(x.T.copy(), g.T.copy(), target, 0)
        for i in {0, rows // 2, rows - 1}:
            alone = results(x[i : i + 1], g[i : i + 1], target[i : i + 1], -1)
            same(together, alone, i, (width, i))
            same(columns, alone, i, (width, i, "column"))
            count += 2 * len(alone)
    tally({"rows compared bit for bit": count})


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 70),
    st.integers(1, 140),
    st.sampled_from(FLOATS),
    st.sampled_from([-1, 0]),
    st.integers(0, 7),
    st.integers(1, 3),
    st.data(),
)
def test_any_row_of_any_batch(seed, rows, width, dtype, axis, offset, threads, drawn):
    x, g, target = data(seed, rows, width, dtype)
    i = drawn.draw(st.integers(0, rows - 1))
    alone = results(x[i : i + 1], g[i : i + 1], target[i : i + 1], -1)
    memory = np.zeros(x.size + offset, dtype)
    shifted = memory[offset:].reshape(x.shape if axis else x.T.shape)
    shifted[...] = x if axis else x.T
    with csoftmax.threads(threads):
        together = results(shifted, g if axis else np.ascontiguousarray(g.T), target, axis)
    same(together, alone, i, ())


HASH = """
import hashlib, sys
import numpy as np
import csoftmax
x = (np.random.default_rng(3).standard_normal((50, 257)) * 3).astype(sys.argv[1])
with csoftmax.use_isa(sys.argv[2]):
    print(hashlib.sha256(csoftmax.softmax(x).tobytes() + csoftmax.log_softmax(x, 0).tobytes()).hexdigest())
"""


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_another_process_computes_the_same_bits(dtype, isa):
    x = (np.random.default_rng(3).standard_normal((50, 257)) * 3).astype(dtype)
    here = hashlib.sha256(csoftmax.softmax(x).tobytes() + csoftmax.log_softmax(x, 0).tobytes()).hexdigest()
    there = subprocess.run(
        [sys.executable, "-c", HASH, dtype, isa], capture_output=True, text=True, check=True
    )
    assert there.stdout.strip() == here
