"""The bits of a row depend on its values, length, type and ISA level, and on nothing around the row."""

import os
import subprocess
import sys

import numpy as np
import oracle
import pytest
from arrays import DTYPES, FLOATS, SOFTMAX_ULP, exact_differences

import csoftmax

pytestmark = pytest.mark.usefixtures("isa")

SHORT_WIDTHS = range(1, 131)
WIDTHS = [1000, 1023, 1024, 1025, 4097]
THREADS = [1, 2, 3]


def backward(grad, axis=-1, out=None):
    """softmax_backward with an output that belongs to the gradient: the one sorts the other's values."""
    output = np.abs(grad) / np.asarray(64, grad.dtype)
    return csoftmax.softmax_backward(grad, output, axis, out=out)


def log_backward(grad, axis=-1, out=None):
    """log_softmax_backward with an output that belongs to the gradient."""
    return csoftmax.log_softmax_backward(grad, -np.abs(grad), axis, out=out)


def masked(x, axis=-1, out=None):
    """softmax of the elements above -1."""
    return csoftmax.softmax(x, axis, where=x > -1, out=out)


def total(x, axis=-1, out=None):
    """logsumexp, spread over its row like the other results."""
    result = np.broadcast_to(csoftmax.logsumexp(x, axis, keepdims=True), x.shape)
    if out is None:
        return result
    reduced = np.empty(np.max(x, axis=axis, keepdims=True).shape, x.dtype)
    out[...] = csoftmax.logsumexp(x, axis, keepdims=True, out=reduced)
    return out


FUNCTIONS = {
    "softmax": csoftmax.softmax,
    "softmax where": masked,
    "softmax_backward": backward,
    "log_softmax": csoftmax.log_softmax,
    "log_softmax_backward": log_backward,
    "logsumexp": total,
}
EVERY_FUNCTION = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)


def same_bits(got, want):
    got = np.broadcast_to(np.asarray(got), np.broadcast_shapes(np.shape(got), np.shape(want)))
    return got.tobytes() == np.broadcast_to(want, got.shape).tobytes()


def surroundings(rng, row, batch, position, offsets):
    """The row alone and in company: name, array, axis, and where its result stands."""
    width = row.size
    others = (rng.standard_normal((batch, width)) * 3).astype(row.dtype)
    others[-1] *= 30
    rows = others.copy()
    rows[position] = row
    stack = np.stack([others, rows])

    yield "alone", row, -1, ...
    yield "in a batch", rows, -1, position
    yield "in a batch from the end", rows[::-1], -1, batch - 1 - position
    yield "as a column", rows.T.copy(), 0, (slice(None), position)
    yield "as a column with stride 1", rows.T, 0, (slice(None), position)
    yield "as a column of (N, C, d)", stack.transpose(0, 2, 1).copy(), 1, (1, slice(None), position)
    yield "over all axes", row.reshape(1, width, 1), None, (0, slice(None), 0)
    yield "every second element", np.repeat(row, 2)[::2], -1, ...
    yield "backwards in memory", row[::-1].copy()[::-1], -1, ...
    for offset in offsets:
        memory = np.full(width + offset, np.nan, row.dtype)
        memory[offset:] = row
        yield f"at an offset of {offset}", memory[offset:], -1, ...
    misaligned = np.empty(row.nbytes + 1, np.uint8)[1:].view(row.dtype)
    misaligned[...] = row
    yield "misaligned", misaligned, -1, ...


def check_row(function, rng, row, batch, offsets):
    position = int(rng.integers(batch))
    with csoftmax.threads(1):
        want = np.array(function(row))
    for name, x, axis, place in surroundings(rng, row, batch, position, offsets):
        case = (row.size, name, batch, position)
        assert same_bits(np.asarray(function(x, axis))[place], want), case
        out = np.zeros_like(x)
        function(x, axis, out=out)
        assert same_bits(out[place], want), (case, "out=")


@EVERY_FUNCTION
@pytest.mark.parametrize("dtype", FLOATS)
def test_row_has_the_same_bits_wherever_it_stands(dtype, function, rng):
    short = SHORT_WIDTHS if dtype in DTYPES else SHORT_WIDTHS[::5]
    for width in [*short, *WIDTHS]:
        row = (rng.standard_normal(width) * 3).astype(dtype)
        check_row(function, rng, row, batch=int(rng.integers(1, 40 if width < 1000 else 5)), offsets=(1, 7))


@pytest.mark.parametrize("dtype", DTYPES)
def test_small_call_has_the_bits_of_a_batch(dtype, rng):
    info = np.finfo(dtype)
    factors = (1, -1, 30, 1e-30, info.max / 64, info.smallest_subnormal, 0.0, -0.0)
    for width in range(2, 41):
        rows = rng.standard_normal((16, width)) * 3
        rows[:8] *= np.array(factors, dtype)[:, None]
        rows[8, 0], rows[9, -1], rows[10, 0], rows[11, 0] = np.nan, np.inf, -np.inf, -0.0
        rows[12] = -np.inf
        rows = rows.astype(dtype)
        for temperature in (1.0, 0.3, 1e-3, 250.0):
            outputs = csoftmax.softmax(rows, temperature=temperature)
            grads = csoftmax.softmax_backward(rows, outputs, temperature=temperature)
            for row, output, grad in zip(rows, outputs, grads, strict=True):
                case = (width, temperature, row)
                x, g, p = row.copy(), row.copy(), output.copy()
                assert same_bits(csoftmax.softmax(x, temperature=temperature), output), case
                assert same_bits(csoftmax.softmax(x[None], temperature=temperature, out=x[None]), output[None]), case
                assert same_bits(csoftmax.softmax_backward(g, p, temperature=temperature), grad), case
                assert same_bits(csoftmax.softmax_backward(g, p, temperature=temperature, out=g), grad), case
                assert same_bits(csoftmax.softmax_backward(row, p, temperature=temperature, out=p), grad), case
                for result, want in ((x, output), (g, grad), (p, grad)):
                    assert same_bits(result, want), case


@EVERY_FUNCTION
@pytest.mark.parametrize("dtype", [*DTYPES, "float16"])
def test_long_row_has_the_same_bits_wherever_it_stands(dtype, function, rng):
    for width, threads in ((70000, 2), (300001, 1)):
        row = (rng.standard_normal(width) * 3).astype(dtype)
        with csoftmax.threads(threads):
            check_row(function, rng, row, batch=2, offsets=(3,))


@EVERY_FUNCTION
@pytest.mark.parametrize("dtype", FLOATS)
def test_any_number_of_threads_gives_the_same_bits(dtype, function, rng):
    for shape, axis in (
        ((400, 130), -1),
        ((400, 130), 0),
        ((20001, 3), -1),
        ((3, 50001), -1),
        ((3, 50001), 0),
        ((300001,), -1),
        ((100001, 2), 0),
        ((2, 21, 40, 40), 1),
        ((20, 30, 70), (0, 2)),
        ((20, 30, 70), None),
    ):
        x = (rng.standard_normal(shape) * 3).astype(dtype)
        results = []
        for count in THREADS:
            with csoftmax.threads(count):
                results += [function(x, axis), function(x, axis, out=x.copy())]
        assert all(same_bits(result, results[0]) for result in results[1:]), (shape, axis)


@EVERY_FUNCTION
def test_equal_rows_have_equal_bits_in_a_batch_of_any_size(function, rng):
    for dtype in FLOATS:
        for width in (1, 2, 3, 7, 10, 16, 31, 32, 33, 64, 65):
            row = rng.standard_normal(width).astype(dtype)
            want = function(row)
            for batch in range(1, 66):
                assert same_bits(function(np.tile(row, (batch, 1))), want), (width, batch)


def test_rows_are_what_the_oracle_says_in_company_too(rng):
    """Guards the tests above against a library that is wrong in the same way everywhere."""
    for width in (3, 100, 4097):
        row = exact_differences(rng, width, "float32")
        for name, x, axis, place in surroundings(rng, row, batch=5, position=2, offsets=(1, 13)):
            got = np.asarray(csoftmax.softmax(x, axis))[place]
            assert oracle.max_ulp(got, oracle.softmax(row)) <= SOFTMAX_ULP["float32"], (width, name)


# widths around whole vectors and around the tiles' own, and those whose rows compete for lines of the cache
PANEL_WIDTHS = [1, 4, 15, 17, 120, 125, 129, 241, 250, 255, 256, 257, 503, 1007, 1009, 1023, 1536, 2031, 2033, 2282]


@EVERY_FUNCTION
@pytest.mark.parametrize("threads", [1, 2])  # a tile's width heeds them
@pytest.mark.parametrize("dtype", DTYPES)
def test_columns_have_the_bits_of_rows(dtype, threads, function, rng):
    for n, width in [(n, width) for n in (21, 300) for width in PANEL_WIDTHS] + [(1100, 250), (5000, 20)]:
        x = exact_differences(rng, (n, width), dtype)
        around = np.full((n, width + 40), 7, dtype)
        want = function(np.ascontiguousarray(x.T)).T
        with csoftmax.threads(threads):
            assert same_bits(function(x, 0), want), (n, width)
            assert same_bits(function(x, 0, out=around[:, 20:-20]), want), (n, width)
        assert (around[:, :20] == 7).all(), (n, width)
        assert (around[:, -20:] == 7).all(), (n, width)


STREAMED = 1 << 20  # bytes of a result from which on it is written around the caches, in the processes started here


def check_streamed(dtype, rng):
    """Results around the caches, rows and aligned columns, have the bits of a row alone, which goes through them."""
    for name, function in FUNCTIONS.items():
        for width in (33, 1027, 100_003):
            row = exact_differences(rng, width, dtype)
            rows = np.broadcast_to(row, (STREAMED // row.nbytes + 1, width))
            assert same_bits(function(rows), function(row)), (name, width)
        for width in (33, 1100):
            row = exact_differences(rng, width, dtype)
            shape = (STREAMED // (1024 * row.nbytes) + 2, width, 1024)
            columns = np.ascontiguousarray(np.broadcast_to(row[:, None], shape))
            memory = np.empty(columns.nbytes + 64, np.uint8)
            start = -memory.ctypes.data % 64
            out = memory[start : start + columns.nbytes].view(dtype).reshape(shape)
            assert same_bits(function(columns, 1, out=out), function(row)[:, None]), (name, width)


@pytest.mark.parametrize("dtype", DTYPES)
def test_results_beyond_the_caches_have_the_bits_of_rows_alone(dtype, isa):
    """Streamed from a size that is read at import, and that CPUs which do not gain by it never reach otherwise."""
    code = f"""
import numpy as np, csoftmax, test_batch_invariance
with csoftmax.use_isa({isa!r}):
    test_batch_invariance.check_streamed({dtype!r}, np.random.default_rng(20240229))
"""
    paths = [os.path.dirname(__file__), *sys.path]
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"CSOFTMAX_STREAM_BYTES": str(STREAMED), "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, f"exit {result.returncode}: {result.stderr}"


@pytest.mark.parametrize(("threads", "rows"), [(1, 34_000), (2, 150_000)])
def test_no_row_is_left_out_of_a_call_of_several_waves(threads, rows, rng):
    """Work is handed out in waves of 2^25 elements a thread; the rows are one row, which takes no memory."""
    row = rng.standard_normal(1000).astype("float32")
    out = np.full(rows, 7, "float32")
    with csoftmax.threads(threads):
        csoftmax.logsumexp(np.broadcast_to(row, (rows, 1000)), out=out)
    assert (out == csoftmax.logsumexp(row)).all()


def special_rows(rng, n, dtype):
    """A zero of either sign as the maximum, infinities, sums that overflow, products that are subnormal."""
    huge, tiny = float(np.finfo(dtype).max), float(np.finfo(dtype).tiny)
    x = rng.standard_normal((12, n)).astype(dtype)
    x[0] = -800
    x[0, 0] = -0.0
    x[1:4, -1] = np.inf, -np.inf, np.nan
    x[4:6] = huge * 0.8
    x[6, ::2] = -huge
    x[7:12] *= tiny * 2.0 ** np.arange(0, 10, 2)[:, None]
    return x.astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [2, 3, 17, 64, 65, 200, 1100])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_special_rows_have_the_same_bits_alone_in_a_batch_and_as_columns(dtype, n, rng):
    x = special_rows(rng, n, dtype)
    logits = rng.standard_normal(x.shape).astype(dtype)
    p, logs = csoftmax.softmax(logits), csoftmax.log_softmax(logits)
    for run, others in (
        (csoftmax.softmax, ()),
        (csoftmax.log_softmax, ()),
        (csoftmax.softmax_backward, (p,)),
        (csoftmax.log_softmax_backward, (logs,)),
        (csoftmax.log_softmax_jvp, (logs,)),
    ):
        batch = run(x, *others)
        columns = run(*(np.ascontiguousarray(a.T) for a in (x, *others)), axis=0).T
        alone = np.stack([run(*rows) for rows in zip(x, *others, strict=True)])
        for got in columns, alone:
            same = (got.view(f"u{x.itemsize}") == batch.view(f"u{x.itemsize}")) | (np.isnan(got) & np.isnan(batch))
            assert same.all(), (run.__name__, np.argwhere(~same)[:3])
