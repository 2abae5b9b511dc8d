"""temperature from the smallest subnormal to the largest number: what exact arithmetic gives, on every path."""

import ml_dtypes
import mpmath
import numpy as np
import oracle
import pytest
from arrays import DTYPES, FLOATS, MAX_ULP, SOFTMAX_ULP
from hypothesis import assume, given
from hypothesis import strategies as st

import csoftmax

pytestmark = pytest.mark.usefixtures("isa")

TOP = float(np.finfo(np.float64).max)
# logits, temperature and the logits of the same softmax at temperature 1, or close enough
KNOWN = [
    ([1.7e308, -1.7e308], 1e308, [1.7, -1.7]),
    ([1.7e308, -1.7e308], 1.7e308, [1.0, -1.0]),
    ([TOP, 0.0, -TOP], TOP, [1.0, 0.0, -1.0]),
    ([1e308, 9e307, -1e308], 2e307, [5.0, 4.5, -5.0]),
    ([1e300, 3e300], 1e300, [1.0, 3.0]),
    ([0.0, -1e-310], 1e-310, [0.0, -1.0]),
    ([5e-324, 0.0, -5e-324], 5e-324, [1.0, 0.0, -1.0]),
    ([1e-300, 2e-300, 4e-300], 1e-300, [1.0, 2.0, 4.0]),
    ([3e-309, 2e-309, -1e-309], 1e-309, [3.0, 2.0, -1.0]),
    ([-2e-275, 1e-275, -4e-275], 1e-275, [-2.0, 1.0, -4.0]),
]
# what a log-probability is where nothing but the largest logit is left
LONE = [
    ([3e38, -3e38], 3.0, "float32", -2e38),
    ([-3e38, 3e38], 7.0, "float32", -6e38 / 7),
    ([3.4e38, -3.4e38], 1e30, "float32", -6.8e8),
    ([1.7e308, -1.7e308], 100.0, "float64", -3.4e306),
    ([1.7e308, -1.7e308], 2.0, "float64", -1.7e308),
    ([1.5e308, -1.5e308], 1.9, "float64", -(1.5e308 / 1.9) * 2),
    ([0.0, -1.0], 1e-308, "float64", -1e308),
    ([0.0, -1.0], 1e-310, "float64", -np.inf),
    ([1.0, 0.0], 6e-309, "float64", -1 / 6e-309),
    ([1.5e-308, -1e-308], 5e-324, "float64", -2.5e-308 / 5e-324),
]
EXTREMES = [5e-324, 3e-320, 1e-308, 3e-290, 1e-271, 1e301, 3e307, TOP]
WIDTHS = [1, 2, 3, 10, 40, 65, 1000, 5000]


def same_bits(got, want):
    return got.dtype == want.dtype and got.shape == want.shape and got.tobytes() == want.tobytes()


def logits(rng, shape, temperature, dtype="float64"):
    """Logits whose quotients are of every size that an exponential knows."""
    spread = rng.choice([0.5, 5.0, 300.0], (*shape[:-1], 1))
    x = oracle.wide(np.clip(rng.standard_normal(shape) * spread, -900, 900)) * temperature
    top = float(ml_dtypes.finfo(dtype).max)
    return oracle.narrow(np.minimum(np.maximum(x, -top), top), dtype)


@pytest.mark.parametrize(("x", "temperature", "plain"), KNOWN)
def test_known_values(x, temperature, plain):
    for function in (csoftmax.softmax, csoftmax.log_softmax):
        got, want = function(x, temperature=temperature), function(plain)
        np.testing.assert_allclose(got, want, rtol=1e-13)
        assert same_bits(function(np.array([x] * 9).T.copy(), 0, temperature=temperature).T, np.array([got] * 9))


@pytest.mark.parametrize(("x", "temperature", "dtype", "lowest"), LONE)
def test_log_probabilities_of_what_is_far_below(x, temperature, dtype, lowest):
    """x - max may overflow where its quotient does not: short, packed, long and split rows, columns, masks."""
    low = int(np.argmin(x))
    for width in (2, 10, 40, 300, 1000, 5000, 300_000):
        row = np.full(width, x[low], dtype)
        row[width // 2] = x[1 - low]
        want = np.full(width, lowest, dtype)
        want[width // 2] = 0
        batch = np.tile(row, (9 if width < 300_000 else 1, 1))
        results = [
            csoftmax.log_softmax(row, temperature=temperature),
            *csoftmax.log_softmax(batch, temperature=temperature),
            csoftmax.log_softmax(batch, temperature=temperature, where=batch < np.inf)[0],
            csoftmax.log_softmax(batch.T.copy(), 0, temperature=temperature).T[0],
        ]
        for got in results:
            assert oracle.max_ulp(got, want) <= 4, width


def test_log_probabilities_of_16_bit_floats_above_1():
    for dtype in ("float16", "bfloat16"):
        top = 6e4 if dtype == "float16" else 3e38
        for width in (2, 70, 2000):
            x = np.full((5, width), -top, dtype)
            x[:, 1] = top
            for temperature in (2.0, 3.0, 100.0):
                got = csoftmax.log_softmax(x, temperature=temperature)
                assert oracle.max_ulp(got, oracle.log_softmax(x, -1, temperature)) <= MAX_ULP[dtype]


@pytest.mark.parametrize("temperature", EXTREMES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_forward_on_every_path(dtype, temperature, rng):
    for width in WIDTHS:
        x = logits(rng, (9, width), temperature, dtype)
        mask = rng.random(x.shape) < 0.7
        for name in ("softmax", "log_softmax"):
            function, reference = getattr(csoftmax, name), getattr(oracle, name)
            got = function(x, temperature=temperature)
            allowed = (SOFTMAX_ULP if name == "softmax" else MAX_ULP)[dtype]
            assert oracle.max_ulp(got, reference(x, -1, temperature)) <= allowed, (name, width)
            assert same_bits(function(x[3], temperature=temperature), got[3])
            assert same_bits(function(x[2:4], temperature=temperature), got[2:4])
            assert same_bits(function(x.T.copy(), 0, temperature=temperature), got.T.copy())
            assert same_bits(function(np.repeat(x, 2, 1)[:, ::2], temperature=temperature), got)
            out = x.copy()
            assert same_bits(function(out, temperature=temperature, out=out), got)
            masked = function(x, temperature=temperature, where=mask)
            assert oracle.max_ulp(masked, reference(x, -1, temperature, mask)) <= allowed, (name, width)
            columns = function(x.T.copy(), 0, temperature=temperature, where=mask.T)
            assert same_bits(columns, masked.T.copy())


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e303])
def test_one_row_that_others_split(temperature, rng):
    x = logits(rng, (2, 300_000), temperature)
    for name in ("softmax", "log_softmax"):
        got = getattr(csoftmax, name)(x, temperature=temperature)
        assert oracle.max_ulp(got, getattr(oracle, name)(x, -1, temperature)) <= SOFTMAX_ULP["float64"]
        assert same_bits(getattr(csoftmax, name)(x[1], temperature=temperature), got[1])


@pytest.mark.parametrize("temperature", EXTREMES)
def test_rows_without_a_finite_maximum_are_as_ever(temperature):
    inf, nan = np.inf, np.nan
    x = np.array([[1, -inf], [inf, 1], [nan, 1], [-inf, -inf], [-inf, nan], [inf, inf]])
    for function in (csoftmax.softmax, csoftmax.log_softmax):
        want = function(x)
        assert np.array_equal(function(x, temperature=temperature), want, equal_nan=True)
        assert np.array_equal(function(x.T.copy(), 0, temperature=temperature).T, want, equal_nan=True)


def derivatives(g, x, temperature, axis=-1):
    """Name, result, reference and the size of its terms, of every product with a Jacobian."""
    p, logs = csoftmax.softmax(x, axis), csoftmax.log_softmax(x, axis)
    size, share = np.abs(oracle.wide(g)), np.exp(oracle.wide(logs))
    total = np.abs(oracle.wide(g).sum(axis, keepdims=True))
    dot = (oracle.wide(p) * size).sum(axis, keepdims=True)
    log_dot = (share * size).sum(axis, keepdims=True)
    options = {"axis": axis, "temperature": temperature}
    return [
        ("softmax_backward", csoftmax.softmax_backward(g, p, **options),
         oracle.softmax_vjp(g, p, **options), oracle.wide(p) * (size + dot)),
        ("softmax_jvp", csoftmax.softmax_jvp(g, p, **options),
         oracle.softmax_vjp(g, p, **options), oracle.wide(p) * (size + dot)),
        ("log_softmax_backward", csoftmax.log_softmax_backward(g, logs, **options),
         oracle.log_softmax_vjp(g, logs, **options), size + share * total),
        ("log_softmax_jvp", csoftmax.log_softmax_jvp(g, logs, **options),
         oracle.log_softmax_jvp(g, logs, **options), size + log_dot),
    ]  # fmt: skip


@pytest.mark.parametrize("temperature", [*EXTREMES, 1e-7, 1e-40, 1e-200])
@pytest.mark.parametrize("dtype", FLOATS)
def test_derivatives_on_every_path(dtype, temperature, rng):
    info = ml_dtypes.finfo(dtype)
    least, most = float(info.smallest_subnormal), float(info.max)
    for width in (2, 3, 10, 40, 1000, 5000):
        x = rng.standard_normal((9, width)).astype(dtype)
        for size in (1.0, temperature, min(temperature * 1e5, 1e300), least * 1000):
            if not 100 * least < size < most / (100 * width):
                continue
            g = (rng.standard_normal(x.shape) * size).astype(dtype)
            for (name, got, want, scale), (_, across, _, _) in zip(
                derivatives(g, x, temperature), derivatives(g.T.copy(), x.T.copy(), temperature, 0), strict=True
            ):
                error = oracle.max_ulp(got, want, scale / oracle.wide(temperature))
                assert error <= 4 + (dtype in DTYPES), (name, width, size)
                assert same_bits(across, got.T.copy()), (name, width, size)


def test_a_derivative_alone_and_in_a_batch(rng):
    for temperature in (5e-324, 1e-280, 1e-7, 1e305):
        for width in (3, 40, 1000, 70_000):
            g, x = rng.standard_normal((2, 5, width))
            p = csoftmax.softmax(x)
            for function in (csoftmax.softmax_backward, csoftmax.log_softmax_jvp, csoftmax.log_softmax_backward):
                got = function(g, p, temperature=temperature)
                assert same_bits(function(g[4], p[4], temperature=temperature), got[4])
                out = g.copy()
                assert same_bits(function(out, p, temperature=temperature, out=out), got)


# --------------------------------------------------------------------------------- against mpmath, by exponents

EXPONENTS = st.integers(-1074, 1023)
FRACTIONS = st.lists(st.floats(-1, 1, allow_subnormal=False), min_size=2, max_size=12)


def numbers(fractions, exponent):
    return np.ldexp(np.array(fractions), exponent)


def exact(values):
    return [mpmath.mpf(float(v)) for v in values]


def wide_of(values):
    """Wide floats, which hold every exponent met here."""
    least = mpmath.mpf(2) ** -16000
    texts = [mpmath.nstr(v if abs(v) > least else 0 * least, 30, min_fixed=0, max_fixed=0) for v in values]
    return oracle.wide(texts)


def exact_logs(x, temperature):
    scaled = [v / mpmath.mpf(temperature) for v in exact(x)]
    top = max(scaled)
    powers = [mpmath.exp(v - top) for v in scaled]
    # the first of the largest apart, so that a sum close to 1 keeps its digits
    rest = mpmath.fsum(power for i, power in enumerate(powers) if i != int(np.argmax(x)))
    return [v - top - mpmath.log1p(rest) for v in scaled]


MANTISSAS = st.floats(1, 2, exclude_max=True)


@given(fractions=FRACTIONS, temperature=EXPONENTS, mantissa=MANTISSAS, apart=st.integers(-3, 12))
def test_softmax_and_log_softmax_are_exact_over_all_temperatures(fractions, temperature, mantissa, apart):
    t = float(np.ldexp(mantissa, temperature))
    x = numbers(fractions, min(max(temperature + apart, -1074), 1023))
    with mpmath.workdps(40):
        logs = exact_logs(x, t)
        want, want_p = wide_of(logs), wide_of([mpmath.exp(v) for v in logs])
    # ordinary temperatures round the difference first, as everywhere
    assert oracle.max_ulp(csoftmax.softmax(x, temperature=t), want_p) <= 4
    assert oracle.max_ulp(csoftmax.log_softmax(x, temperature=t), want) <= 4


@given(
    fractions=FRACTIONS,
    temperature=EXPONENTS,
    mantissa=MANTISSAS,
    exponent=st.integers(-1074, 960),
    spread=st.sampled_from([0.1, 3.0, 300.0]),
)
def test_derivatives_are_exact_over_all_temperatures(fractions, temperature, mantissa, exponent, spread):
    t = float(np.ldexp(mantissa, temperature))
    # by a temperature that is divided by without scaling, what was rounded as a subnormal number is raised
    assume(t < 1e-6 or t >= 1 or exponent > -900)
    g, x = numbers(fractions, exponent), spread * np.array(fractions[::-1])
    p, logs = csoftmax.softmax(x), csoftmax.log_softmax(x)
    with mpmath.workdps(60):
        exact_g, exact_p, share, by = exact(g), exact(p), [mpmath.exp(v) for v in exact(logs)], mpmath.mpf(t)
        dot = mpmath.fsum(a * b for a, b in zip(exact_g, exact_p, strict=True))
        log_dot = mpmath.fsum(a * b for a, b in zip(exact_g, share, strict=True))
        total = mpmath.fsum(exact_g)
        wants = {
            csoftmax.softmax_backward: [b * (a - dot) for a, b in zip(exact_g, exact_p, strict=True)],
            csoftmax.log_softmax_backward: [a - b * total for a, b in zip(exact_g, share, strict=True)],
            csoftmax.log_softmax_jvp: [a - log_dot for a in exact_g],
        }
        # of the terms that are subtracted, and of those of the sums
        size = mpmath.fsum(abs(a) * b for a, b in zip(exact_g, share, strict=True))
        sizes = {
            csoftmax.softmax_backward: [b * (abs(a) + size) for a, b in zip(exact_g, exact_p, strict=True)],
            csoftmax.log_softmax_backward: [abs(a) + b * abs(total) for a, b in zip(exact_g, share, strict=True)],
            csoftmax.log_softmax_jvp: [abs(a) + size for a in exact_g],
        }
        references = {f: [wide_of([v / by for v in values[f]]) for values in (wants, sizes)] for f in wants}
    for function, (want, scale) in references.items():
        output = p if function is csoftmax.softmax_backward else logs
        got = function(g, output, temperature=t)
        assert oracle.max_ulp(got, want, scale) <= 4, function.__name__
        if function is csoftmax.softmax_backward:
            assert same_bits(csoftmax.softmax_jvp(g, output, temperature=t), got)
