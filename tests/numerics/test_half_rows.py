"""Rows of 16-bit floats, converted inside the kernels' passes: each result is the float32 result, rounded once.

The float32 results are held against the oracle elsewhere.
"""

import ml_dtypes  # noqa: F401 (gives NumPy the name "bfloat16")
import numpy as np
import pytest

import csoftmax

HALVES = ["float16", "bfloat16"]
WIDTHS = [*range(60, 140), 255, 256, 257, 511, 512, 513, 1000, *range(1020, 1030), 2047, 2050, 4097, 16385, 17000]
FORWARD = ["softmax", "log_softmax", "logsumexp"]
DERIVATIVES = ["softmax_backward", "softmax_jvp", "log_softmax_backward", "log_softmax_jvp"]


def operands(name, shape, dtype, rng):
    x = (rng.standard_normal(shape) * 3).astype(dtype)
    if name in FORWARD:
        return [x]
    logits = rng.standard_normal(shape).astype("f4")
    return [x, (csoftmax.log_softmax if name.startswith("log") else csoftmax.softmax)(logits).astype(dtype)]


def same_bits(got, want):
    want = want.astype(got.dtype)
    return ((got.view("u2") == want.view("u2")) | (np.isnan(got) & np.isnan(want))).all()


def check(name, arrays, **options):
    function = getattr(csoftmax, name)
    got = function(*arrays, **options)
    options.pop("out", None)
    want = function(*(a.astype("f4") for a in arrays), **options)
    assert got.dtype == arrays[0].dtype
    assert same_bits(got, want), (arrays[0].shape, options)


@pytest.mark.parametrize("name", FORWARD + DERIVATIVES)
@pytest.mark.parametrize("dtype", HALVES)
def test_every_width(isa, dtype, name, rng):
    for width in WIDTHS:
        check(name, operands(name, (1 + width % 6, width), dtype, rng))


@pytest.mark.parametrize("name", FORWARD + DERIVATIVES)
@pytest.mark.parametrize("dtype", HALVES)
def test_number_of_rows(isa, dtype, name, rng):
    for rows in range(1, 40):
        check(name, operands(name, (rows, 70 + 45 * rows), dtype, rng))


@pytest.mark.parametrize("name", FORWARD + DERIVATIVES)
@pytest.mark.parametrize("dtype", HALVES)
def test_rows_an_odd_number_of_bytes_apart(isa, dtype, name, rng):
    """As in packed records: 16-bit floats need no more."""
    packed = []
    for a in operands(name, (5, 200), dtype, rng):
        records = np.zeros(len(a), [("values", a.dtype, 200), ("tag", "u1")])
        records["values"] = a
        assert records["values"].strides == (401, 2)
        packed.append(records["values"])
    check(name, packed)
    if name != "logsumexp":
        out = np.zeros(5, [("values", dtype, 200), ("tag", "u1")])
        out["tag"] = 7
        check(name, packed, out=out["values"])
        assert (out["tag"] == 7).all()


@pytest.mark.parametrize("temperature", [0.37, 3.0])
@pytest.mark.parametrize("name", FORWARD[:2] + DERIVATIVES)
@pytest.mark.parametrize("dtype", HALVES)
def test_temperature(isa, dtype, name, temperature, rng):
    for width in (65, 200, 1030):
        check(name, operands(name, (5, width), dtype, rng), temperature=temperature)


@pytest.mark.parametrize("name", FORWARD)
@pytest.mark.parametrize("dtype", HALVES)
def test_special_rows_and_maxima_far_from_zero(isa, dtype, name, rng):
    for width in (65, 128, 300, 1100, 4100):
        x = rng.standard_normal((14, width)).astype(dtype)
        for row, value in enumerate((np.nan, np.inf, -np.inf, 3e4, -3e4)):
            x[row, rng.integers(width)] = value
            x[row + 5] = value
        x[10, -1], x[11, 0] = np.nan, np.inf
        x[12] += np.float32(600).astype(dtype)
        check(name, [x])


@pytest.mark.parametrize("name", FORWARD[:2] + DERIVATIVES)
@pytest.mark.parametrize("dtype", HALVES)
def test_rows_of_any_pitch_and_in_place(isa, dtype, name, rng):
    function = getattr(csoftmax, name)
    for width in (65, 96, 257, 1024, 4099):
        arrays = operands(name, (7, width), dtype, rng)
        want = function(*(a.astype("f4") for a in arrays))
        for shift in (0, 1, 5):
            wide = [np.full((7, width + 9), 7, dtype) for _ in range(3)]
            windows = [w[:, shift : shift + width] for w in wide]
            for window, a in zip(windows, arrays, strict=False):
                window[...] = a
            function(*windows[: len(arrays)], out=windows[2])
            assert same_bits(windows[2], want)
            windows[2][...] = 7
            assert (wide[2] == 7).all()
            for target in range(len(arrays)):
                given = [w.copy() for w in windows[: len(arrays)]]
                function(*given, out=given[target])
                assert same_bits(given[target], want)
            backwards = [w[::-1] for w in windows[: len(arrays)]]
            assert same_bits(function(*backwards)[::-1], want)
