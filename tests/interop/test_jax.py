"""JAX: values, transformations, derivatives of both modes and orders, and how the handlers are compiled."""

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
