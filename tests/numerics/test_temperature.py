"""temperature: softmax(x / T) for moderate, tiny and huge T, where dividing first would overflow."""

import numpy as np
import oracle
import pytest
from arrays import FLOATS, MAX_ULP, SOFTMAX_ULP, exact_differences

import csoftmax

pytestmark = pytest.mark.usefixtures("isa")

SHAPES = [((40, 5), -1), ((40, 33), -1), ((6, 1025), -1), ((33, 40), 0), ((3, 21, 40), 1), ((4, 5, 6), None)]


@pytest.mark.parametrize("temperature", [0.125, 0.5, 2, 64.0])
@pytest.mark.parametrize("dtype", FLOATS)
def test_powers_of_two_are_as_exact_as_one(dtype, temperature, rng):
    for shape, axis in SHAPES:
        x = exact_differences(rng, shape, dtype)
        p = csoftmax.softmax(x, axis, temperature=temperature)
        assert oracle.max_ulp(p, oracle.softmax(x, axis, temperature)) <= SOFTMAX_ULP[dtype]
        logs = csoftmax.log_softmax(x, axis, temperature=temperature)
        want = oracle.log_softmax(x, axis, temperature)
        assert oracle.max_ulp(logs, want) <= MAX_ULP[dtype]


@pytest.mark.parametrize("temperature", [0.1, 0.7, 1 / 3, 3.0, 1e3, np.float32(1.3)])
@pytest.mark.parametrize("dtype", FLOATS)
def test_any_other_loses_no_more_than_the_rounding_of_the_quotient(dtype, temperature, rng):
    for shape, axis in SHAPES:
        x = exact_differences(rng, shape, dtype)
        spread = float(np.ptp(x.astype(float))) / temperature
        allowed = SOFTMAX_ULP[dtype] + (2 * spread if dtype in ("float32", "float64") else spread / 1000)
        p = csoftmax.softmax(x, axis, temperature=temperature)
        assert oracle.max_ulp(p, oracle.softmax(x, axis, temperature)) <= allowed
        logs = csoftmax.log_softmax(x, axis, temperature=temperature)
        want = oracle.log_softmax(x, axis, temperature)
        assert oracle.max_ulp(logs, want) <= allowed


@pytest.mark.parametrize("dtype", FLOATS)
def test_one_changes_no_bit(dtype, rng):
    for shape, axis in SHAPES:
        x = rng.standard_normal(shape).astype(dtype)
        for function in (csoftmax.softmax, csoftmax.log_softmax):
            assert np.array_equal(function(x, axis, temperature=1), function(x, axis))
        p = csoftmax.softmax(x, axis)
        for operator in (csoftmax.softmax_backward, csoftmax.log_softmax_jvp):
            assert np.array_equal(operator(x, p, axis, temperature=1), operator(x, p, axis))


@pytest.mark.parametrize("temperature", [5e-324, 1e-310, 1e-300, 1e-50, 1e-40])
@pytest.mark.parametrize("dtype", FLOATS)
def test_near_zero_it_is_argmax(dtype, temperature):
    x = np.array([[1, 2, -3], [2, 2, 1], [0, 0, 0], [-1, -2, -3]], dtype)
    p = csoftmax.softmax(x, temperature=temperature)
    third = np.asarray(np.float64(1) / 3, dtype)
    want = np.array([[0, 1, 0], [0.5, 0.5, 0], [third] * 3, [1, 0, 0]], dtype)
    assert np.array_equal(p, want)
    assert np.array_equal(csoftmax.softmax(x.T.copy(), 0, temperature=temperature).T, want)
    logs = csoftmax.log_softmax(x, temperature=temperature)
    assert oracle.max_ulp(logs, oracle.log_softmax(x, -1, temperature)) <= MAX_ULP[dtype]


@pytest.mark.parametrize("temperature", [1e40, 1e300, 1.7e308])
@pytest.mark.parametrize("dtype", FLOATS)
def test_near_infinity_it_is_uniform(dtype, temperature):
    x = np.array([[1, 2, -3, 100], [0, -100, 30, 2]], dtype)
    assert (csoftmax.softmax(x, temperature=temperature) == 0.25).all()
    assert (csoftmax.softmax(x.T.copy(), 0, temperature=temperature) == 0.25).all()


@pytest.mark.parametrize("temperature", [1e-310, 1e-40, 0.3, 1e40, 1e300])
@pytest.mark.parametrize("dtype", FLOATS)
def test_infinite_logits_are_as_without(dtype, temperature):
    inf, nan = np.inf, np.nan
    x = np.array([[1, -inf], [inf, 1], [nan, 1], [-inf, -inf]], dtype)
    p = csoftmax.softmax(x, temperature=temperature)
    assert np.array_equal(p, np.array([[1, 0], [nan, nan], [nan, nan], [nan, nan]], dtype), equal_nan=True)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_largest_logits_do_not_overflow(dtype):
    top = np.finfo(dtype).max
    x = np.array([[top, -top], [top, top]], dtype)
    for temperature in (1e-3, 0.5, 2.0, 1e3):
        p = csoftmax.softmax(x, temperature=temperature)
        assert np.array_equal(p, np.array([[1, 0], [0.5, 0.5]], dtype))
    p = csoftmax.softmax(x, temperature=float(top))
    assert oracle.max_ulp(p, oracle.softmax(x, -1, float(top))) <= SOFTMAX_ULP[dtype]


@pytest.mark.parametrize("dtype", FLOATS)
def test_with_a_mask(dtype, rng):
    x = exact_differences(rng, (20, 33), dtype)
    where = rng.random((20, 33)) < 0.5
    p = csoftmax.softmax(x, temperature=0.5, where=where)
    assert oracle.max_ulp(p, oracle.softmax(x, -1, 0.5, where)) <= SOFTMAX_ULP[dtype]


@pytest.mark.parametrize("temperature", [0.7, 0.01])
def test_rows_of_several_blocks_are_as_accurate_as_rows_of_one(temperature, rng):
    for n in 512, 513, 1025, 3000:
        x = rng.standard_normal((4, n)) * (100 if temperature > 0.1 else 3)
        got = csoftmax.softmax(x, temperature=temperature)
        assert oracle.max_ulp(got, oracle.softmax(x, temperature=temperature)) <= 4, n


@pytest.mark.parametrize("temperature", [0.1, 0.3, 0.7, 1 / 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_temperature_that_the_type_does_not_hold_costs_no_digits(dtype, temperature, rng):
    """What rounding the temperature to the type of the logits loses is magnified by the quotient: it is made up for."""
    for shape, axis in SHAPES:
        x = exact_differences(rng, shape, dtype)
        p = csoftmax.softmax(x, axis, temperature=temperature)
        assert oracle.max_ulp(p, oracle.softmax(x, axis, temperature)) <= 5, shape
