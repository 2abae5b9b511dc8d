"""The table of edge cases, one test a row, at every float type; NaN and infinities in every position."""

import numpy as np
import oracle
import pytest
from arrays import FLOATS, SOFTMAX_ULP, exact_differences

import csoftmax

pytestmark = pytest.mark.usefixtures("isa")

FUNCTIONS = {
    "softmax": (csoftmax.softmax, oracle.softmax, 0),
    "log_softmax": (csoftmax.log_softmax, oracle.log_softmax, 0),
    "logsumexp": (csoftmax.logsumexp, oracle.logsumexp, 16),
}
WIDTHS = [2, 3, 5, 10, 16, 17, 33, 70, 130, 1025]
PLACES = {"first": 0, "middle": 0.5, "last": 1}
NAN, INF = np.nan, np.inf


def along(function, x, axis):
    """Apply `function` along the last axis of `x`, as rows or as columns of the transpose."""
    return function(x) if axis == -1 else function(np.ascontiguousarray(x.T), axis=0).T


def check(x, axis, **special):
    """Even rows hold the value named for each function throughout, odd rows what they would alone."""
    for name, value in special.items():
        function, reference, least = FUNCTIONS[name]
        got = along(function, x, axis)
        assert got.dtype == x.dtype, name
        assert np.array_equal(got[::2], np.full_like(got[::2], value), equal_nan=True), name
        want = reference(x[1::2])
        assert (
            oracle.max_ulp(got[1::2], want, np.maximum(np.abs(want), least)) <= SOFTMAX_ULP[x.dtype.name]
        ), name


def rows(rng, width, dtype, *values, place=0):
    """Twelve finite rows; every even one holds `values` from `place`, a fraction of the row, on."""
    x = exact_differences(rng, (12, width), dtype)
    start = round(place * (width - len(values)))
    x[::2, start : start + len(values)] = values
    return x


@pytest.mark.parametrize("axis", [-1, 0])
@pytest.mark.parametrize("dtype", FLOATS)
class TestTable:
    @pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
    def test_nan_in_the_row(self, dtype, axis, place, rng):
        for width in WIDTHS:
            for nan in (NAN, -NAN):
                x = rows(rng, width, dtype, nan, place=place)
                check(x, axis, softmax=NAN, log_softmax=NAN, logsumexp=NAN)

    @pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
    def test_plus_infinity_in_the_row(self, dtype, axis, place, rng):
        for width in WIDTHS:
            x = rows(rng, width, dtype, INF, place=place)
            check(x, axis, softmax=NAN, log_softmax=NAN, logsumexp=INF)

    def test_plus_and_minus_infinity_in_the_row(self, dtype, axis, rng):
        for width in WIDTHS:
            for pair in ((INF, -INF), (-INF, INF), (INF, INF)):
                check(rows(rng, width, dtype, *pair), axis, softmax=NAN, log_softmax=NAN, logsumexp=INF)

    def test_nan_beside_an_infinity_in_the_row(self, dtype, axis, rng):
        for width in WIDTHS:
            for pair in ((NAN, INF), (INF, NAN), (-INF, NAN), (NAN, -INF)):
                x = rows(rng, width, dtype, *pair, place=1)
                check(x, axis, softmax=NAN, log_softmax=NAN, logsumexp=NAN)

    def test_row_of_minus_infinity(self, dtype, axis, rng):
        for width in [1, *WIDTHS]:
            x = exact_differences(rng, (12, width), dtype)
            x[::2] = -INF
            check(x, axis, softmax=NAN, log_softmax=NAN, logsumexp=-INF)

    def test_some_minus_infinity(self, dtype, axis, rng):
        for width in WIDTHS:
            x = exact_differences(rng, (12, width), dtype)
            x[:, 1:][rng.random((12, width - 1)) < 0.5] = -INF
            for function, reference, least in FUNCTIONS.values():
                want = reference(x)
                got = along(function, x, axis)
                assert oracle.max_ulp(got, want, np.maximum(np.abs(want), least)) <= SOFTMAX_ULP[dtype]
            assert (along(csoftmax.softmax, x, axis)[np.isneginf(x)] == 0).all()
            assert np.array_equal(np.isneginf(along(csoftmax.log_softmax, x, axis)), np.isneginf(x))

    def test_axis_of_length_zero(self, dtype, axis):
        empty = np.empty((5, 0), dtype)
        for name, (function, _, _) in FUNCTIONS.items():
            got = along(function, empty, axis)
            assert got.dtype == dtype
            if name == "logsumexp":
                assert np.array_equal(got, np.full(5, -INF, dtype))
            else:
                assert got.shape == (5, 0)

    def test_any_other_axis_of_length_zero(self, dtype, axis):
        for name, (function, _, _) in FUNCTIONS.items():
            got = along(function, np.empty((0, 5), dtype), axis)
            assert (got.shape, got.dtype) == ((0,) if name == "logsumexp" else (0, 5), dtype)

    def test_axis_of_length_one(self, dtype, axis):
        x = np.array([[-3], [0], [1e4], [5e-8]], dtype)
        assert np.array_equal(along(csoftmax.softmax, x, axis), np.ones_like(x))
        assert np.array_equal(along(csoftmax.log_softmax, x, axis), np.zeros_like(x))
        assert np.array_equal(along(csoftmax.logsumexp, x, axis), x[:, 0])

    def test_axis_of_length_one_without_a_finite_number(self, dtype, axis):
        x = np.array([[NAN], [INF], [-INF]], dtype)
        assert np.isnan(along(csoftmax.softmax, x, axis)).all()
        assert np.isnan(along(csoftmax.log_softmax, x, axis)).all()
        assert np.array_equal(along(csoftmax.logsumexp, x, axis), x[:, 0], equal_nan=True)


@pytest.mark.parametrize("axis", [-1, 0, None])
@pytest.mark.parametrize("dtype", FLOATS)
def test_zero_dimensional_input(dtype, axis):
    for value in (-3, 0, 1e4, INF):
        x = np.array(value, dtype)
        results = [function(x, axis) for function, _, _ in FUNCTIONS.values()]
        assert all(np.shape(r) == () and np.asarray(r).dtype == dtype for r in results)
        want = [NAN, NAN, INF] if value == INF else [1, 0, x]
        assert np.array_equal([float(r) for r in results], np.array(want, float), equal_nan=True)


@pytest.mark.parametrize("shape", [(0,), (0, 0), (2, 0, 3), (0, 4, 5), (4, 5, 0)], ids=str)
@pytest.mark.parametrize("axis", [None, 0, -1])
def test_empty_arrays_of_any_shape(shape, axis):
    empty = np.empty(shape, "float32")
    operators = (
        csoftmax.softmax_backward,
        csoftmax.softmax_jvp,
        csoftmax.log_softmax_backward,
        csoftmax.log_softmax_jvp,
    )
    results = [f(empty, axis) for f in (csoftmax.softmax, csoftmax.log_softmax)]
    results += [operator(empty, empty, axis) for operator in operators]
    assert all((r.shape, r.dtype) == (shape, np.float32) for r in results)
    total = np.asarray(csoftmax.logsumexp(empty, axis))
    assert total.shape == np.sum(empty, axis=axis).shape
    assert (total == -INF).all()


def test_jacobian_of_empty_arrays():
    assert csoftmax.softmax_jacobian(np.empty((3, 0))).shape == (3, 0, 0)
    assert csoftmax.softmax_jacobian(np.empty((0, 3))).shape == (0, 3, 3)


def places(width):
    """Every place of a row, or for long rows those around its ends and the multiples of 1024."""
    near = {w + k for w in [0, 64, 512, *range(1024, width, 1024), width] for k in range(-20, 20)}
    return list(range(width)) if width < 130 else sorted(p for p in near if 0 <= p < width)


@pytest.mark.parametrize("dtype", FLOATS)
def test_nan_and_infinities_in_every_position(dtype, rng):
    for width in [*range(1, 71), 127, 128, 129, 1023, 1024, 1025, 4097]:
        here = places(width)
        row = exact_differences(rng, width, dtype, spread=1)
        diagonal = (np.arange(len(here)), here)
        x = np.tile(row, (len(here), 1))
        for value, total in ((NAN, NAN), (INF, INF)):
            x[diagonal] = value
            for axis in (-1, 0):
                assert np.isnan(along(csoftmax.softmax, x, axis)).all(), (width, value)
                assert np.isnan(along(csoftmax.log_softmax, x, axis)).all(), (width, value)
                totals = along(csoftmax.logsumexp, x, axis)
                assert np.array_equal(totals, np.full_like(totals, total), equal_nan=True), (width, value)
        x[diagonal] = -INF
        x = x[:: 1 if width < 130 else 7]
        for function, reference, least in FUNCTIONS.values():
            want = reference(x)
            for axis in (-1, 0):
                got = along(function, x, axis)
                assert oracle.max_ulp(got, want, np.maximum(np.abs(want), least)) <= SOFTMAX_ULP[dtype], width


@pytest.mark.parametrize("axis", [-1, 0])
@pytest.mark.parametrize("dtype", FLOATS)
def test_nan_and_inf_in_one_row(dtype, axis, rng):
    """An infinite maximum does not hide the NaN, whichever block either is in."""
    for width in (2, 33, 1025, 2500):
        for nan, infinite in ((0, width - 1), (width - 1, 0), (width // 2, width // 2 - 1)):
            x = exact_differences(rng, (20, width), dtype)
            x[3:9, infinite] = INF
            x[3:9, nan] = NAN
            for function, _, _ in FUNCTIONS.values():
                missing = np.isnan(along(function, x, axis)).reshape(20, -1)
                assert missing[3:9].all(), (width, nan)
                assert not missing[:3].any(), (width, nan)
                assert not missing[9:].any(), (width, nan)


@pytest.mark.parametrize("axis", [-1, 0])
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_special_row_leaves_its_neighbours_bits_alone(dtype, axis, rng):
    largest = {"float16": 65504, "float64": 1.7e308}.get(dtype, 3e38)
    for width in [*range(1, 71), 130, 1025]:
        x = rng.standard_normal((40, width)).astype(dtype)
        special = rng.choice(40, 5, replace=False)
        others = np.setdiff1d(np.arange(40), special)
        for function, _, _ in FUNCTIONS.values():
            want = along(function, x, axis)[others]
            for value in (NAN, INF, -INF, largest, -largest):
                y = x.copy()
                y[special, rng.integers(width)] = value
                assert np.array_equal(along(function, y, axis)[others], want), (width, value)


@pytest.mark.parametrize("dtype", FLOATS)
def test_nan_in_a_gradient_stays_in_its_row(dtype, rng):
    others = np.delete(np.arange(9), 4)
    for width in [*range(1, 71), 130, 1025]:
        g = rng.standard_normal((9, width)).astype(dtype)
        logs = csoftmax.log_softmax(rng.standard_normal((9, width)).astype(dtype))
        bad = g.copy()
        bad[4, rng.integers(width)] = NAN
        for operator, output in (
            (csoftmax.softmax_backward, np.exp(logs)),
            (csoftmax.log_softmax_backward, logs),
            (csoftmax.log_softmax_jvp, logs),
        ):
            got = operator(bad, output)
            assert np.isnan(got[4]).all(), width
            assert np.array_equal(got[others], operator(g, output)[others]), width
