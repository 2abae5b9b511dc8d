"""JAX: values, transformations, derivatives of both modes and orders, and how the handlers are compiled."""

import itertools
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from jax.test_util import check_grads

import csoftmax
import csoftmax.interop.jax as cj

pytestmark = pytest.mark.interop

FLOATS = ["float32", "float64", "float16", "bfloat16"]
FUNCTIONS = [cj.softmax, cj.log_softmax, cj.logsumexp]
AXES = [-1, 0, 1, (0, 2), (1, 2), None]


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def x(rng):
    return rng.standard_normal((4, 5, 3)) * 3


# ---------------------------------------------------------------------------------------------- the values


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_values(function, dtype, axis, x):
    x = jnp.asarray(x, dtype)
    want = getattr(oracle, function.__name__)(np.asarray(x), axis)
    y = function(x, axis)
    assert y.dtype == x.dtype
    assert y.shape == want.shape
    scale = np.maximum(np.abs(want), 1) if function is not cj.softmax else None
    assert oracle.max_ulp(np.asarray(y), want, scale) < 4


# rows, columns in few and in many slabs, columns of which one part is narrower: alone and split over the pool
@pytest.mark.parametrize("shape", [(7, 3, 1), (3000, 90, 1), (2, 40, 5000), (300, 30, 20), (1, 70_000, 3)])
@pytest.mark.parametrize("dtype", FLOATS)
def test_bits_are_csoftmaxs(dtype, shape, rng):
    x, g = (np.asarray(jnp.asarray(rng.standard_normal(shape), dtype)) for _ in range(2))
    for name in "softmax", "log_softmax", "logsumexp":
        got = getattr(cj, name)(x, 1)
        want = getattr(csoftmax, name)(x, 1)
        assert (np.asarray(got) == want).all()
        if name != "logsumexp":
            (grad,) = jax.vjp(lambda x, name=name: getattr(cj, name)(x, 1), x)[1](jnp.asarray(g))
            assert (np.asarray(grad) == getattr(csoftmax, f"{name}_backward")(g, want, 1)).all()


def test_many_calls_at_once(rng):
    """More calls that split their rows than the pool has threads, from threads of their own."""
    x = rng.standard_normal((8, 400, 300)).astype("f4")
    want = csoftmax.softmax(x)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda i: np.asarray(cj.softmax(x[i % 8])), range(200)))
    assert all((result == want[i % 8]).all() for i, result in enumerate(results))


def test_isa_level_in_use_is_obeyed(isa, x):
    assert (np.asarray(cj.softmax(x)) == csoftmax.softmax(x)).all()


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (0, 3), (1,)])
def test_odd_shapes(shape):
    x = np.ones(shape)
    for axis in (-1, None):
        for function in FUNCTIONS:
            got, want = function(x, axis), getattr(csoftmax, function.__name__)(x, axis)
            assert got.shape == np.shape(want)
            assert np.array_equal(got, want)


@pytest.mark.parametrize("row", [[np.inf, 0, 1], [-np.inf, 0, 1], [np.nan, 0, 1], [-np.inf] * 3])
def test_odd_values(row):
    for function in FUNCTIONS:
        assert np.array_equal(
            function(jnp.array(row)), getattr(csoftmax, function.__name__)(row), equal_nan=True
        )


@pytest.mark.parametrize("axis", [-1, 0, (0, 2)])
def test_where(axis, x, rng):
    where = rng.random((4, 1, 3)) < 0.6
    where[1] = False
    for function in FUNCTIONS:
        want = getattr(csoftmax, function.__name__)(x, axis, where=where)
        assert np.array_equal(function(x, axis, where=where), want)

        def total(x, function=function):
            y = function(x, axis, where=where)
            return jnp.where(where, y, 0).sum() if y.shape == x.shape else y.sum()

        grad = jax.grad(total)(x)
        assert jnp.isfinite(grad).all()
        assert (jnp.where(where, 0, grad) == 0).all()


def test_keepdims_and_temperature(x):
    assert np.array_equal(
        cj.logsumexp(x, (0, 2), keepdims=True), csoftmax.logsumexp(x, (0, 2), keepdims=True)
    )
    for name in "softmax", "log_softmax":
        want = getattr(csoftmax, name)(x, 0, temperature=0.3)
        assert np.array_equal(getattr(cj, name)(x, 0, temperature=0.3), want)


def test_integers_become_the_default_float():
    assert cj.softmax(np.array([200, 100], "u1")).dtype == np.float64
    with jax.enable_x64(False):
        assert cj.softmax(np.array([200, 100], "u1")).dtype == np.float32


def test_refused():
    with pytest.raises(TypeError, match="complex128 has no softmax here"):
        cj.softmax(np.array([1j]))
    with pytest.raises(np.exceptions.AxisError, match="axis 2 is out of bounds"):
        cj.softmax(np.zeros((2, 3)), 2)
    with pytest.raises(ValueError, match="repeated axis"):
        cj.logsumexp(np.zeros((2, 3)), (0, -2))
    with pytest.raises(ValueError, match="positive and finite, not 0"):
        cj.softmax(np.zeros(3), temperature=0)


# --------------------------------------------------------------------------------------- transformations


@pytest.mark.parametrize("axis", [-1, 0, (0, 2)])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_derivatives(function, axis, x):
    options = {"keepdims": True} if function is cj.logsumexp else {"temperature": 0.7}
    x = x[:2, :3, :2] / 3
    check_grads(lambda x: function(x, axis, **options), [x], order=2, modes=["fwd", "rev"])
    check_grads(function, [x], order=2, modes=["fwd", "rev"])


@pytest.mark.parametrize("function", FUNCTIONS)
def test_hessian_in_every_mode(function, x):
    def value(x):
        return (function(x) ** 2).sum()

    def same_in_jax(x):
        return (getattr(jax.nn, function.__name__)(x, axis=-1) ** 2).sum()

    x = x[0, :2]
    want = jax.hessian(same_in_jax)(x)
    for outer in jax.jacfwd, jax.jacrev:
        for inner in jax.jacfwd, jax.jacrev:
            np.testing.assert_allclose(jax.jit(outer(inner(value)))(x), want, atol=1e-12)


@pytest.mark.parametrize(("in_axes", "out_axes"), [(0, 0), (1, -1), (-1, -1)])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_vmap(function, in_axes, out_axes, x):
    for axis in (0, -1, (0, 1)):
        got = jax.vmap(lambda x, axis=axis: function(x, axis), in_axes, out_axes)(x)
        want = np.stack([function(part, axis) for part in np.moveaxis(x, in_axes, 0)], out_axes)
        assert np.array_equal(got, want)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_vmap_of_derivatives(function, x):
    """By all rows at once what each gives alone, with the tangents, the logits or both mapped."""

    def pullback(g, x):
        return jax.vjp(function, x)[1](g)[0]

    def pushforward(g, x):
        return jax.jvp(function, (x,), (g,))[1]

    for derivative, g in (pullback, np.asarray(function(np.cos(x)))), (pushforward, np.cos(x)):
        alone = np.stack([[derivative(tangent, row) for row in x] for tangent in g])
        each = np.arange(len(x))
        for axes, operands, want in (
            ((0, 0), (g, x), alone[each, each]),
            ((0, None), (g, x[1]), alone[:, 1]),
            ((None, 0), (g[1], x), alone[1]),
        ):
            got = jax.vmap(derivative, axes)(*operands)
            np.testing.assert_allclose(got, want, rtol=1e-14, atol=1e-15)


def test_handlers_compute_the_derivatives(x):
    gradient = jax.jit(jax.grad(lambda x: (cj.log_softmax(x) * cj.softmax(x)).sum())).lower(x).as_text()
    for name in "softmax", "log_softmax", "softmax_backward", "log_softmax_backward":
        assert f"@csoftmax_{name}(" in gradient


def test_logsumexp_gradient_of_nothing_is_zero():
    assert (jax.grad(cj.logsumexp)(jnp.full(3, -jnp.inf)) == 0).all()


def test_inside_a_model(rng):
    """A layer, scanned and rematerialised, as models are."""
    w, xs = rng.standard_normal((3, 3)), rng.standard_normal((6, 3))

    def loss(w, log_softmax):
        def step(h, x):
            return log_softmax(h @ w + x), h.sum()

        h, sums = jax.lax.scan(jax.checkpoint(step), xs[0], xs)
        return h[0] + sums.sum()

    got = jax.jit(jax.grad(lambda w: loss(w, cj.log_softmax)))(w)
    np.testing.assert_allclose(got, jax.grad(lambda w: loss(w, jax.nn.log_softmax))(w), rtol=1e-10)


# ------------------------------------------------------------------------ derivatives where probabilities are 0


def partly_minus_inf(rng, shape):
    """Logits of which a random part is -inf, but not all along the last axis."""
    x = rng.standard_normal(shape) * 3
    lost = rng.random(shape) < 0.5
    lost[..., rng.integers(shape[-1])] = False
    return np.where(lost, -np.inf, x)


@pytest.mark.parametrize("seed", range(6))
def test_jacobians_where_probabilities_are_0(seed):
    """Both modes give 1 - p at each logit, one of -inf too, and so does jax.nn where it has no NaN."""
    x = partly_minus_inf(np.random.default_rng(seed), (6,))
    p = csoftmax.softmax(x)
    want = {
        cj.softmax: np.diag(p) - np.outer(p, p),
        cj.log_softmax: np.eye(6) - p,
        cj.logsumexp: p,
    }
    for function in FUNCTIONS:
        for mode in jax.jacfwd, jax.jacrev:
            np.testing.assert_allclose(mode(function)(x), want[function], atol=1e-15)
            np.testing.assert_allclose(jax.jit(jax.vmap(mode(function)))(x[None])[0], want[function], atol=1e-15)


@pytest.mark.parametrize("axis", [0, 1, (0, 1), None])
@pytest.mark.parametrize("dtype", FLOATS)
def test_both_modes_agree_where_probabilities_are_0(dtype, axis, rng):
    x = partly_minus_inf(rng, (4, 3))
    x[0] = 1.0
    x = jnp.asarray(x, dtype)
    for function in FUNCTIONS:
        forward, reverse = (
            np.asarray(mode(lambda x, function=function: function(x, axis))(x), "f8")
            for mode in (jax.jacfwd, jax.jacrev)
        )
        assert np.isfinite(forward).all()
        np.testing.assert_allclose(forward, reverse, atol=4 * float(jnp.finfo(dtype).eps))


def test_loss_of_a_target_that_is_impossible():
    """A smoothed label leaves some mass on a masked class, and the gradient says so."""
    x, q = np.array([-np.inf, 1.0, 2.0]), np.array([0.1, 0.6, 0.3])
    grad = jax.grad(lambda x: -jnp.where(jnp.isneginf(x), 0, q * cj.log_softmax(x)).sum())(x)
    np.testing.assert_allclose(grad, csoftmax.softmax(x) * 0.9 - [0, 0.6, 0.3], atol=1e-15)
    (grad,) = jax.vjp(cj.log_softmax, x)[1](jnp.asarray(-q))
    np.testing.assert_allclose(grad, csoftmax.softmax(x) - q, atol=1e-15)


def test_no_tangent_no_change():
    x = jnp.array([-jnp.inf, 0.0, 0.0])
    for function in FUNCTIONS:
        assert (jax.jvp(function, (x,), (jnp.zeros(3),))[1] == 0).all()


@pytest.mark.parametrize("outer", [jax.jacfwd, jax.jacrev])
@pytest.mark.parametrize("inner", [jax.jacfwd, jax.jacrev])
def test_logsumexp_of_nothing_bends_nowhere(inner, outer):
    x = jnp.array([[-jnp.inf] * 3, [0.0, -jnp.inf, 1.0]])
    hessian = outer(inner(cj.logsumexp))(x)
    assert (hessian[0] == 0).all()
    p = csoftmax.softmax(x[1])
    np.testing.assert_allclose(hessian[1, 1, :, 1], np.diag(p) - np.outer(p, p), atol=1e-15)


@pytest.mark.parametrize("lost", [1e300, np.inf, np.nan, -np.inf])
def test_what_is_masked_changes_no_derivative(lost):
    """Neither of first order nor of second, by the logits nor by the temperature; with nothing left too."""
    where = jnp.array([[True, True, False], [False] * 3])
    x = jnp.array([[1.0, 2.0, lost], [lost] * 3])

    def total(x, t):
        return jnp.where(where, cj.log_softmax(x, temperature=t, where=where), 0)[0, 0] + (
            cj.softmax(x, temperature=t, where=where) * jnp.arange(6.0).reshape(2, 3)
        ).sum()

    with jax.debug_nans(not np.isnan(lost)):
        (by_x, by_t), second = jax.grad(total, (0, 1))(x, 0.5), jax.hessian(total, (0, 1))(x, 0.5)
    want = jax.grad(lambda x: jax.nn.log_softmax(2 * x)[0] + jax.nn.softmax(2 * x)[1])(x[0, :2])
    np.testing.assert_allclose(by_x, jnp.zeros((2, 3)).at[0, :2].set(want), atol=1e-15)
    for part in by_t, *jax.tree.leaves(second):
        assert jnp.isfinite(part).all()


# ------------------------------------------------------------------------------------- a traced temperature


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(5,), (4, 5, 3), (300, 500), (3, 90, 2000)])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_bits_with_a_traced_temperature(name, shape, dtype, rng):
    x = jnp.asarray(rng.standard_normal(shape), dtype)
    function, t = getattr(cj, name), np.float32(0.7)
    for axis in {0, len(shape) - 1}:
        want = getattr(csoftmax, name)(np.asarray(x), axis, temperature=float(t))
        assert np.array_equal(function(x, axis, temperature=jnp.asarray(t)), want)
        assert np.array_equal(jax.jit(lambda t, axis=axis: function(x, axis, temperature=t))(t), want)


@pytest.mark.parametrize("inner", [1, 7])
def test_a_temperature_for_each_row(inner, rng):
    """By one vmap and by two, the logits, the temperatures or both mapped; with calls that the pool splits."""
    x, t = rng.standard_normal((3, 4, 60, 90, inner)), rng.uniform(0.3, 3, (3, 4))
    g = rng.standard_normal(x.shape)

    def both(x, t, g):
        y, pull = jax.vjp(lambda x, t: cj.softmax(x, 1, temperature=t), x, t)
        return y, *pull(g)

    got = jax.jit(jax.vmap(jax.vmap(both)))(x, t, g)
    for i, j in (0, 0), (1, 3), (2, 1):
        y = csoftmax.softmax(x[i, j], 1, temperature=t[i, j])
        assert np.array_equal(got[0][i, j], y)
        assert np.array_equal(got[1][i, j], csoftmax.softmax_backward(g[i, j], y, 1, temperature=t[i, j]))
        (by_t,) = jax.vjp(lambda t, i=i, j=j: jax.nn.softmax(x[i, j] / t, 1), t[i, j])[1](jnp.asarray(g[i, j]))
        np.testing.assert_allclose(got[2][i, j], by_t, rtol=1e-9)
    one = jax.vmap(lambda t: cj.log_softmax(x[0, 0], 1, temperature=t))(t[0])
    assert np.array_equal(one[2], csoftmax.log_softmax(x[0, 0], 1, temperature=t[0, 2]))
    mixed = jax.vmap(lambda x: jax.vmap(lambda t: cj.softmax(x, 1, temperature=t))(t[0]))(x[0])
    assert np.array_equal(mixed[3, 1], csoftmax.softmax(x[0, 3], 1, temperature=t[0, 1]))
    mixed = jax.vmap(lambda x, t: jax.vmap(lambda x: cj.softmax(x, 1, temperature=t))(x))(x, t[:, 0])
    assert np.array_equal(mixed[2, 3], csoftmax.softmax(x[2, 3], 1, temperature=t[2, 0]))


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_derivatives_by_logits_and_temperature(name, x):
    function = getattr(cj, name)
    for axis in -1, 0, (0, 1):
        check_grads(
            lambda x, t, axis=axis: function(x, axis, temperature=t), [x[:2, :3], 0.7], order=2, modes=["fwd", "rev"]
        )


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_derivative_by_the_temperature_is_that_of_jax(name, x):
    ours, theirs = getattr(cj, name), getattr(jax.nn, name)
    for outer in jax.jacfwd, jax.jacrev, lambda f: f:
        for inner in jax.jacfwd, jax.jacrev:
            got, want = (
                jax.vmap(outer(inner(f)))(jnp.array([0.5, 1.0, 4.0]))
                for f in (lambda t: ours(x, 1, temperature=t), lambda t: theirs(x / t, 1))
            )
            np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_derivative_by_the_temperature_where_probabilities_are_0(seed):
    """That of the other classes alone; both modes agree and are finite."""
    x = partly_minus_inf(np.random.default_rng(seed), (7,))
    left = np.isfinite(x)
    for name in "softmax", "log_softmax":
        forward, reverse = (
            mode(lambda t, name=name: getattr(cj, name)(x, temperature=t))(1.7) for mode in (jax.jacfwd, jax.jacrev)
        )
        want = jax.jacfwd(lambda t, name=name: getattr(jax.nn, name)(x[left] / t))(1.7)
        np.testing.assert_allclose(forward, reverse, atol=1e-15)
        np.testing.assert_allclose(forward[left], want, atol=1e-14)
        assert jnp.isfinite(forward).all()


def test_derivative_by_the_temperature_keeps_its_digits():
    """Of logits far from 0, where x times the Jacobian cancels."""
    x, shift = np.array([0.0, 1.0, 3.0]), 2.0**40
    for name in "softmax", "log_softmax":
        near, far = (
            jax.grad(lambda t, x=x, name=name: getattr(cj, name)(x, temperature=t)[1])(2.0) for x in (x, x + shift)
        )
        np.testing.assert_allclose(far, near, rtol=1e-14)


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_types_of_temperatures(dtype, kind, x):
    x, t = jnp.asarray(x, dtype), jnp.asarray(2, kind)
    want = cj.softmax(x, temperature=2.0)
    assert want.dtype == dtype
    assert np.array_equal(cj.softmax(x, temperature=t), want)
    assert jax.grad(lambda t: cj.softmax(x, temperature=t)[0, 0, 0].astype("f4"))(t).dtype == kind
    assert jax.jvp(lambda t: cj.log_softmax(x, temperature=t), [t], [t])[1].dtype == dtype


def test_temperatures_that_are_no_floats(x):
    want = cj.softmax(x, temperature=2.0)
    for t in 2, np.float32(2), np.int8(2), np.array(2.0), jnp.int32(2), jnp.uint8(2):
        assert np.array_equal(cj.softmax(x, temperature=t), want)


def test_what_is_not_asked_for_is_not_computed(x):
    """A traced temperature by which nobody differentiates costs no second kernel."""
    text = jax.jit(jax.grad(lambda x, t: cj.softmax(x, temperature=t)[0, 0, 0])).lower(x, 2.0).as_text()
    assert "@csoftmax_softmax_backward(" in text
    assert "@csoftmax_log_softmax(" not in text


def test_a_temperature_is_learned(rng):
    """Calibration: the temperature that minimises the loss, by scanned steps of gradient descent."""
    labels = rng.integers(0, 10, 400)
    x = 3 * (rng.standard_normal((400, 10)) + 1.5 * np.eye(10)[labels])

    def loss(log_t, log_softmax):
        return -log_softmax(jnp.exp(log_t))[jnp.arange(400), labels].mean()

    def learned(log_softmax):
        def step(log_t, _):
            return log_t - 0.5 * jax.grad(loss)(log_t, log_softmax), None

        return jax.lax.scan(step, 0.0, length=100)[0]

    got = learned(lambda t: cj.log_softmax(x, temperature=t))
    np.testing.assert_allclose(got, learned(lambda t: jax.nn.log_softmax(x / t)), rtol=1e-9)
    assert abs(jax.grad(loss)(got, lambda t: cj.log_softmax(x, temperature=t))) < 1e-6


@pytest.mark.parametrize("temperature", [1e-30, 1e-10, 1e10, 1e30])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_temperatures_of_any_size(dtype, temperature, x):
    t = jnp.asarray(temperature, dtype)
    x = jnp.asarray(x * temperature, dtype)
    for name in "softmax", "log_softmax":
        function = getattr(cj, name)
        want = getattr(csoftmax, name)(np.asarray(x), temperature=float(t))
        got = jax.jit(lambda t, f=function: f(x, temperature=t))(t)
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)
        # x / T = z, so that T d/dT is what it is at temperature 1
        by_t = jax.jacfwd(lambda t, f=function: f(x, temperature=t))(t) * t
        reference = jax.jacfwd(lambda t, f=function: f(x / temperature, temperature=t))(jnp.ones((), dtype))
        np.testing.assert_allclose(by_t, reference, rtol=2e-4 if dtype == "float32" else 1e-12, atol=1e-6)


@pytest.mark.parametrize("temperature", [5e-324, 1e-310, 1e-200, 1e-100])
def test_forward_mode_at_temperatures_that_xla_takes_for_0(temperature):
    """In float32: what does not move stays, and what moves moves out of range."""
    y = jnp.float32([[0.0], [-jnp.inf]])
    moved = cj._log_softmax_jvp(jnp.float32([[1.0], [2.0]]), y, (), temperature)
    assert np.array_equal(moved, [[0], [np.inf]])


def test_small_traced_temperatures_are_no_zeros():
    """XLA's threads flush subnormal numbers; a temperature is taken as what it is."""
    t = jnp.asarray(np.float32(1e-40))
    assert np.array_equal(cj.softmax(jnp.float32([0, 1]), temperature=t), [0, 1])


# ------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("value", [0.0, -1.0, np.inf, np.nan])
def test_wrong_temperatures(value):
    x = jnp.zeros((3, 4))
    for t in value, np.float32(value), jnp.float32(value):
        with pytest.raises(ValueError, match="temperature must be positive and finite"):
            cj.softmax(x, temperature=t)
    traced = jax.jit(lambda t: cj.softmax(x, temperature=t))
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"traced temperature .* not .* positive and finite"):
        traced(value).block_until_ready()
    each = jax.jit(jax.vmap(lambda t: cj.log_softmax(x, temperature=t)))
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"traced temperature .* not .* positive and finite"):
        each(jnp.array([1.0, value])).block_until_ready()


@pytest.mark.parametrize(
    ("temperature", "message"),
    [
        (jnp.ones(3, "f4"), r"one real number, not an array of shape \(3,\) .* jax.vmap gives each row one"),
        (jnp.ones((1, 1), "f4"), r"one real number, not an array of shape \(1, 1\)"),
        (jnp.array(True), "one real number, not an array of .* dtype bool"),
        (jnp.array(1j, "c8"), "one real number, not an array of .* dtype complex64"),
        (np.ones(3), "temperature must be a number"),
        ("2", "temperature must be a number"),
        (None, "temperature must be a number"),
        ([2.0], "temperature must be a number"),
    ],
)
def test_what_is_no_temperature(temperature, message):
    with pytest.raises(TypeError, match=message):
        cj.softmax(jnp.zeros(3), temperature=temperature)


@pytest.mark.parametrize(
    ("where", "error", "message"),
    [
        (np.array([0.0, -np.inf, 0.0]), TypeError, "where must be boolean, not float64"),
        (np.array([1, 0, 1]), TypeError, "where must be boolean, not int"),
        (np.ones(2, bool), ValueError, r"where has shape \(2,\), which does not broadcast to x's \(4, 3\)"),
        (np.ones((2, 4, 3), bool), ValueError, r"where has shape \(2, 4, 3\), which does not broadcast"),
        (np.ones((3, 1), bool), ValueError, r"where has shape \(3, 1\), which does not broadcast"),
    ],
)
def test_what_is_no_mask(where, error, message):
    for function in FUNCTIONS:
        with pytest.raises(error, match=message):
            function(jnp.zeros((4, 3)), where=where)


@pytest.mark.parametrize("axis", [[0, 1], [-1], [2, 0], [], (np.int64(1),), np.array([0, 2]), np.int32(-1)])
def test_axes_of_any_kind(axis, x):
    """Lists as tuples, and integers of every type; inside of jit as well."""
    same = tuple(int(a) for a in axis) if np.ndim(axis) else int(axis)
    for function in FUNCTIONS:
        want = function(x, same)
        assert np.array_equal(function(x, axis), want)
        assert np.array_equal(jax.jit(lambda x, f=function: f(x, axis))(x), want)
        assert np.array_equal(want, getattr(csoftmax, function.__name__)(x, same))
    with pytest.raises(ValueError, match="repeated axis"):
        cj.softmax(x, [0, 0])
    with pytest.raises(np.exceptions.AxisError):
        cj.softmax(x, [0, 3])


# ------------------------------------------------------------------------------------------------ jax.export


EXPORT = """
import sys, jax, jax.numpy as jnp
import csoftmax.interop.jax as cj
names = "softmax", "log_softmax", "logsumexp", "softmax_backward", "log_softmax_backward"
checks = [jax.export.DisabledSafetyCheck.custom_call(f"csoftmax_{name}") for name in names]
def f(x, t):
    return cj.softmax(x, temperature=t), cj.log_softmax(x), cj.logsumexp(x)
shapes = [jax.ShapeDtypeStruct(shape, "f4") for shape in (jax.export.symbolic_shape("rows, 3"), ())]
try:
    jax.export.export(jax.jit(f))(*shapes)
except ValueError as error:
    assert "custom calls whose targets have no compatibility guarantees" in str(error)
else:
    raise AssertionError("jax.export asks for nothing: say so in the page")
exported = jax.export.export(jax.jit(f), disabled_checks=checks)(*shapes)
open(sys.argv[1], "wb").write(exported.serialize(vjp_order=2))
"""
CALL = """
import sys, jax, jax.numpy as jnp
{register}
f = jax.export.deserialize(open(sys.argv[1], "rb").read()).call
x = jnp.arange(6.0).reshape(2, 3)
def loss(t):
    p, log_p, total = f(x, t)
    return -(p * log_p).sum() + total.sum()
print(loss(2.0), jax.grad(loss)(2.0), jax.grad(jax.grad(loss))(2.0))
"""


def run(script, *arguments):
    return subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)


def test_export(tmp_path):
    """A program for any number of rows, with its derivatives, called in another process."""
    path = os.fspath(tmp_path / "program")
    done = run(EXPORT, path)
    assert done.returncode == 0, done.stderr
    done = run(CALL.format(register=""), path)
    assert done.returncode
    assert "No FFI handler registered for csoftmax_" in done.stderr
    done = run(CALL.format(register="import csoftmax.interop.jax"), path)
    assert done.returncode == 0, done.stderr

    x = np.arange(6.0).reshape(2, 3)

    def loss(t):
        return (
            -(jax.nn.softmax(x / t) * jax.nn.log_softmax(x)).sum() + jax.scipy.special.logsumexp(x, axis=1).sum()
        )

    want = loss(2.0), jax.grad(loss)(2.0), jax.grad(jax.grad(loss))(2.0)
    np.testing.assert_allclose([float(part) for part in done.stdout.split()], want, rtol=1e-5)


# ------------------------------------------------------------------------------------------ the handlers


IMPORT = "import csoftmax.interop.jax as cj; print(float(cj.softmax([0.0, 0.0])[0]))"
SPLIT = """
import csoftmax, csoftmax.interop.jax as cj, numpy as np
for shape in (3000, 90, 1), (2, 40, 5000), (300, 30, 20), (1, 70_000, 1):
    x = np.random.default_rng(0).standard_normal(shape).astype("f4")
    assert (np.asarray(cj.softmax(x, 1)) == csoftmax.softmax(x, 1)).all()
"""


def import_in(folder, script=IMPORT, **environment):
    kept = {name: value for name, value in os.environ.items() if name != "CC"}
    return subprocess.run(
        [sys.executable, "-c", script],
        env=kept | {"CSOFTMAX_CACHE_DIR": str(folder)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_compiled_once(tmp_path):
    folder = tmp_path / "made" / "here"
    assert import_in(folder).stdout == "0.5\n"
    (handlers,) = folder.iterdir()
    before = handlers.stat().st_mtime_ns
    # what was compiled is used, without a compiler too
    assert import_in(folder, PATH="").stdout == "0.5\n"
    assert handlers.stat().st_mtime_ns == before
    # a compiler of another name may be another compiler
    assert import_in(folder, CC="cc -O1").stdout == "0.5\n"
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize(("threads", "splits"), [(4, 3), (1, 0)])
def test_rows_are_split_over_the_pool(threads, splits, tmp_path):
    """With as many threads as JAX is told of; what a split call allocates is freed once."""
    header = tmp_path / "count.h"
    header.write_text(
        '#include <stdio.h>\n#include <stdlib.h>\n#define free(p) (fputs("freed\\n", stderr), (free)(p))\n'
    )
    done = import_in(tmp_path, SPLIT, CC=f"cc -include {header}", NPROC=str(threads))
    assert (done.returncode, done.stderr) == (0, "freed\n" * splits)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"PATH": ""}, r"needs a C compiler.*there is no cc, gcc or clang"),
        ({"CC": "no-such-compiler"}, "cannot run the C compiler 'no-such-compiler'"),
        ({"CC": "false"}, "false .*_jax_handlers.c .* failed"),
        ({"CSOFTMAX_CACHE_DIR": "/dev/null/x"}, "cannot write to /dev/null/x: .* CSOFTMAX_CACHE_DIR"),
    ],
)
def test_cannot_compile(environment, message, tmp_path):
    done = import_in(tmp_path, **environment)
    assert done.returncode == 1
    assert re.search(f"ImportError: .*{message}", done.stderr), done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_integers_that_a_double_does_not_hold_are_told_apart(dtype):
    near = np.array([[0, 1, 7], [3, 3, 0]], dtype)
    masks = (None, np.array([True, True, False]))
    with jax.enable_x64(True):
        for base, where, axis in itertools.product((2**53, 2**62), masks, (-1, 0, None)):
            x = near + dtype(base)
            for name in ("softmax", "log_softmax", "logsumexp"):
                got = getattr(cj, name)(jax.numpy.asarray(x), axis, where=where)
                want = getattr(csoftmax, name)(x, axis, where=where)
                assert np.allclose(got, want, rtol=1e-15, atol=0), (name, base, axis)
        assert np.array_equal(cj.softmax(jax.numpy.asarray(near)), csoftmax.softmax(near))


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_the_temperature_does_not_move_equal_logits(name):
    for temperature in (1e-3, 1e-10, 1.0):
        slope = jax.jacfwd(lambda t: getattr(cj, name)(jax.numpy.zeros(3), temperature=t))
        assert not np.any(slope(jax.numpy.float32(temperature)))
