"""Numba: compiled code gets the bits of the Python functions, without the interpreter, from a cache and in prange."""

import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import oracle
import pytest
from arrays import SOFTMAX_ULP, exact_differences

import csoftmax
from csoftmax.interop.numba import log_softmax, logsumexp, softmax

pytestmark = pytest.mark.interop

# Compiled once for each type of argument, whatever the ISA level.


@numba.njit
def family(x, axis, temperature):
    return softmax(x, axis, temperature), log_softmax(x, axis, temperature), logsumexp(x, axis)


@numba.njit
def into(x, axis, out):
    return softmax(x, axis, out=out)


@numba.njit
def defaults(x):
    return softmax(x), log_softmax(x), logsumexp(x)


@numba.njit(parallel=True)
def rows_in_parallel(x, out):
    for i in numba.prange(len(x)):
        softmax(x[i], out=out[i])


SHAPES = [(1,), (10,), (1000,), (3, 4), (7, 33), (40, 10), (2, 5000)]
LAYOUTS = {
    "C": np.array,
    "F": lambda a: np.array(a, order="F"),
    "strided": lambda a: np.repeat(a, 3, -1)[..., ::3],
    "backwards": lambda a: np.flip(np.flip(a).copy()),
}


def same_bits(got, want):
    if isinstance(got, float):  # as which Numba returns a float32, too
        got = want.dtype.type(got)
    return np.shape(got) == np.shape(want) and np.asarray(got).tobytes() == np.asarray(want).tobytes()


def packed(a):
    """`a` as a field of packed records: its strides are not whole elements."""
    records = np.zeros(a.shape, [("tag", "u1"), ("value", a.dtype)])
    records["value"] = a
    return records["value"]


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_bits_are_those_of_python(layout, dtype, rng):
    for shape in SHAPES:
        x = LAYOUTS[layout](rng.standard_normal(shape).astype(dtype))
        for axis in range(-x.ndim, x.ndim):
            for temperature in (1.0, 0.7):
                p, log_p, total = family(x, axis, temperature)
                assert same_bits(p, csoftmax.softmax(x, axis, temperature=temperature)), (shape, axis)
                assert same_bits(log_p, csoftmax.log_softmax(x, axis, temperature=temperature)), (shape, axis)
                assert same_bits(total, csoftmax.logsumexp(x, axis)), (shape, axis)
                assert p.dtype == log_p.dtype == dtype


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_temperatures_and_logits_of_any_size(dtype, rng):
    """What the Python functions make of them, from the smallest temperature to the largest, and of -inf."""
    x = rng.standard_normal((6, 5)).astype(dtype)
    for temperature in (5e-324, 1e-310, 1e-45, 1e-20, 1e20, 1e300, 1.7976931348623157e308, 2):
        for scale in (temperature, 1.0, float(np.finfo(dtype).max) / 4):
            with np.errstate(all="ignore"):
                scaled = (x * scale).astype(dtype)
            scaled[2, 1] = scaled[3] = -np.inf
            for axis in (0, 1):
                p, log_p, total = family(scaled, axis, temperature)
                assert same_bits(p, csoftmax.softmax(scaled, axis, temperature=temperature))
                assert same_bits(log_p, csoftmax.log_softmax(scaled, axis, temperature=temperature))
                assert same_bits(total, csoftmax.logsumexp(scaled, axis))


def test_what_the_oracle_says(rng):
    x = exact_differences(rng, (40, 10), "float32")
    assert oracle.max_ulp(defaults(x)[0], oracle.softmax(x)) <= SOFTMAX_ULP["float32"]


def test_defaults_are_those_of_python(rng):
    x = rng.standard_normal((4, 3)).T
    for got, function in zip(defaults(x), (softmax, log_softmax, logsumexp), strict=True):
        assert same_bits(got, function(x))
        assert same_bits(got, getattr(csoftmax, function.__name__)(x))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("layout", ["C", "strided"])
def test_out(layout, rng):
    x = rng.standard_normal((6, 10)).astype("float32")
    for axis in (0, 1):
        want = csoftmax.softmax(x, axis)
        out = LAYOUTS[layout](np.zeros_like(x))
        assert same_bits(into(x, axis, out), want)
        assert same_bits(out, want)
        memory = LAYOUTS[layout](x)
        assert same_bits(into(memory, axis, memory), want)


@pytest.mark.parametrize("shift", [-11, -10, -3, 3, 10, 11])
def test_out_that_overlaps_the_input(shift, rng):
    for backwards in (False, True):
        memory = rng.standard_normal(1000).astype("float32")
        x, out = memory[20:980].reshape(96, 10), memory[20 + shift : 980 + shift].reshape(96, 10)
        out = out[::-1, ::-1] if backwards else out
        want = csoftmax.softmax(x.copy())
        assert same_bits(into(x, -1, out), want)


def test_strides_that_are_not_whole_elements(rng):
    x = rng.standard_normal((5, 6)).astype("float32")
    for got, want in zip(defaults(packed(x)), defaults(x), strict=True):
        assert same_bits(got, want)
    with pytest.raises(ValueError, match="out has strides that are not whole elements"):
        into(x, -1, packed(x))


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)])
def test_empty(shape):
    p, log_p, total = defaults(np.zeros(shape, "float32"))
    assert p.shape == log_p.shape == shape
    assert same_bits(total, csoftmax.logsumexp(np.zeros(shape, "float32")))


def test_read_only_input(rng):
    x = rng.standard_normal((6, 10)).astype("float32")
    x.flags.writeable = False
    assert same_bits(into(x, -1, np.zeros((6, 10), "float32")), csoftmax.softmax(x))


def test_prange(rng):
    x = rng.standard_normal((1000, 10)).astype("float32")
    out = np.zeros_like(x)
    rows_in_parallel(x, out)
    assert same_bits(out, csoftmax.softmax(x))


def test_wrong_values(rng):
    x = rng.standard_normal((3, 4))
    for axis in (-3, 2):
        with pytest.raises(ValueError, match="axis is out of range"):
            family(x, axis, 1.0)
    for temperature in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="temperature must be positive and finite"):
            family(x, -1, temperature)
    with pytest.raises(ValueError, match="out does not have the shape of x"):
        into(x.astype("float32"), -1, np.zeros((4, 3), "float32"))


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (lambda x: softmax(x), [np.arange(3)], "x must be a float32 or float64 array of one or two"),
        (lambda x: logsumexp(x), [np.zeros((1, 1, 1))], "x must be a float32 or float64 array of one or two"),
        (lambda x: log_softmax(x), [1.0], "x must be a float32 or float64 array of one or two"),
        (lambda x, y: softmax(x, out=y), [np.zeros(3), np.zeros(3, "f4")], "out must be a writable float64"),
        (lambda x, y: softmax(x, out=y), [np.zeros(3), np.zeros((3, 1))], "out must be a writable float64"),
    ],
)
def test_wrong_types(function, arguments, message):
    with pytest.raises(numba.TypingError, match=message):
        numba.njit(function)(*arguments)


def test_no_interpreter_and_no_address():
    """The compiled code calls the C function by its symbol, and no object of Python's."""

    @numba.njit
    def bare(x, out):
        softmax(x, out=out)

    bare.compile("void(float32[::1], float32[::1])")
    [code] = bare.inspect_llvm().values()
    assert "@csm_softmax_f32(" in code
    assert not [line for line in code.splitlines() if "call" in line and "inttoptr (i64" in line]
    assert bare.nopython_signatures


CACHED = """
import numpy as np
from numba import njit
from csoftmax.interop.numba import softmax

@njit(cache=True)
def cached(x):
    return softmax(x)

p = cached(np.array([1.0, 2.0, 3.0]))
print(sum(cached.stats.cache_hits.values()), p.tobytes().hex())
"""


def test_a_cached_function_runs_in_the_next_process(tmp_path):
    """Where the addresses are others: they must not have been cached with the code."""
    script = tmp_path / "cached.py"
    script.write_text(CACHED)
    package = os.fspath(Path(csoftmax.__file__).parents[1])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    want = csoftmax.softmax(np.array([1.0, 2.0, 3.0])).tobytes().hex()
    for hits in (0, 1, 1):
        done = subprocess.run(
            [sys.executable, os.fspath(script)],
            env=os.environ | {"PYTHONPATH": path, "NUMBA_CACHE_DIR": os.fspath(tmp_path / "cache")},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == [str(hits), want]


def test_temperatures_of_any_size(rng):
    for temperature in (5e-324, 1e-290, 1e301, 1.7976931348623157e308):
        for shape in ((3,), (40, 10), (2, 5000)):
            x = rng.standard_normal(shape)
            got = family(x, -1, temperature)
            assert same_bits(got[0], csoftmax.softmax(x, temperature=temperature))
            assert same_bits(got[1], csoftmax.log_softmax(x, temperature=temperature))
    assert family(np.array([0.0, -1.0]), -1, 1e-308)[1][1] == -1 / 1e-308
