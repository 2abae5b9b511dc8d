"""thinc: a backend registered by name, thinc's own softmax tests, and sequences of any length."""

import numpy as np
import oracle
import pytest
import torch
from arrays import exact_differences
from hypothesis import given
from hypothesis import strategies as st
from thinc.api import ParametricAttention, Ragged, Softmax, get_ops, registry, use_ops
from thinc.backends import NumpyOps
from thinc.tests.backends import test_ops as thinc_tests
from thinc.tests.layers import test_softmax as thinc_layer_tests

import csoftmax
from csoftmax.interop.thinc import CSoftmaxOps

pytestmark = pytest.mark.interop

OPS = CSoftmaxOps()


def test_registered_by_name():
    assert registry.ops.get("csoftmax") is CSoftmaxOps
    assert type(get_ops("csoftmax")) is CSoftmaxOps
    assert type(get_ops("numpy")) is NumpyOps
    with use_ops("csoftmax"):
        assert type(Softmax().ops) is CSoftmaxOps


# --------------------------------------------------------------------------------------- thinc's own tests


def test_own_sums_to_one():
    thinc_tests.test_softmax_sums_to_one(ops=OPS)


def test_own_works_inplace():
    thinc_tests.test_softmax_works_inplace(ops=OPS)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_own_temperature(temperature):
    thinc_tests.test_softmax_temperature(OPS, temperature)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_own_backprop_rejects_incorrect_shapes(dtype):
    thinc_tests.test_eltwise_backprop_rejects_incorrect_shapes(OPS, dtype, "backprop_softmax")


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0, 2.0])
def test_own_layer_with_temperature(temperature):
    with use_ops("csoftmax"):
        thinc_layer_tests.test_softmax_temperature(temperature)


@pytest.mark.parametrize(
    "name",
    [name for name in dir(thinc_layer_tests) if name.startswith("test_") and "temperature" not in name],
)
def test_own_layer(name):
    with use_ops("csoftmax"):
        getattr(thinc_layer_tests, name)()


# --------------------------------------------------------------------------------------------- the values


@pytest.mark.parametrize("axis", [-1, 0])
@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_softmax_and_its_derivative(axis, temperature, rng):
    x, dy = exact_differences(rng, (2, 30, 7), "float32")
    y = OPS.softmax(x, axis=axis, temperature=temperature)
    assert oracle.max_ulp(y, oracle.softmax(x, axis, temperature)) < 8
    dx = OPS.backprop_softmax(y, dy, axis=axis, temperature=temperature)
    np.testing.assert_allclose(dx, oracle.softmax_vjp(dy, y, axis, temperature).astype("f4"), atol=2e-6)


def test_inplace(rng):
    x = rng.standard_normal((3, 4)).astype("f4")
    y = OPS.softmax(x)
    assert OPS.softmax(x, inplace=True) is x
    assert (x == y).all()


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("lengths", [[4, 1, 7], [0, 5, 0, 2, 0], [12], []])
def test_sequences(lengths, columns, rng):
    x, dy = rng.standard_normal((2, sum(lengths), columns)).astype("f4") * 30
    before, dy_before = x.copy(), dy.copy()
    lengths = np.array(lengths, "i4")
    y = OPS.softmax_sequences(x, lengths)
    dx = OPS.backprop_softmax_sequences(dy, y, lengths)
    assert (x == before).all()
    assert (dy == dy_before).all()
    starts = np.cumsum(lengths)[:-1]
    for xs, ys, gs, dxs in zip(*(np.split(a, starts) for a in (x, y, dy, dx)), strict=True):
        assert (ys == csoftmax.softmax(xs, 0)).all()
        np.testing.assert_allclose(dxs, oracle.softmax_vjp(gs, ys, 0).astype("f4"), atol=2e-5)
    assert OPS.softmax_sequences(x, lengths, inplace=True) is x
    assert (x == y).all()


def test_sequences_agree_with_thinc_where_it_does_not_clip(rng):
    x, dy = rng.uniform(-5, 5, (2, 20, 2)).astype("f4")
    lengths = np.array([3, 10, 7], "i4")
    y = OPS.softmax_sequences(x, lengths)
    np.testing.assert_allclose(y, NumpyOps().softmax_sequences(x, lengths), rtol=1e-5)
    dx = NumpyOps().backprop_softmax_sequences(dy, y, lengths)
    np.testing.assert_allclose(OPS.backprop_softmax_sequences(dy, y, lengths), dx, atol=1e-6)


def test_sequences_refuse_what_does_not_fit():
    with pytest.raises(IndexError, match="add up to 3, but there are 5 rows"):
        OPS.softmax_sequences(np.zeros((5, 1), "f4"), np.array([1, 2], "i4"))
    with pytest.raises(NotImplementedError, match="2 dimensions, not of 3"):
        OPS.softmax_sequences(np.zeros((5, 1, 1), "f4"), np.array([5], "i4"))


BAD_LENGTHS = {
    "negative": ([8, -4, 2], ValueError, "that of sequence 1 is -4"),
    "negative last": ([7, -1], ValueError, "that of sequence 1 is -1"),
    "negative, by wrapping": (np.array([5, 1, -1, 1], "i1"), ValueError, "that of sequence 2 is -1"),
    "short": ([2, 3], IndexError, "add up to 5, but there are 6 rows"),
    "long": ([4, 3], IndexError, "add up to 7, but there are 6 rows"),
    "none": ([], IndexError, "add up to 0"),
    "wrapping around": (np.array([2**63, 2**63, 6], "u8"), IndexError, f"add up to {2**64 + 6}"),
    "wrapping around, signed": ([2**62, 2**62, 2**62, 2**62, 6], IndexError, f"add up to {2**64 + 6}"),
    "floats": ([2.0, 4.0], TypeError, "vector of integers, not float64"),
    "fractions": ([2.5, 3.5], TypeError, "vector of integers, not float64"),
    "NaN": ([6, np.nan], TypeError, "vector of integers, not float64"),
    "bool": ([True] * 6, TypeError, "vector of integers, not bool"),
    "strings": (["6"], TypeError, "vector of integers"),
    "two dimensions": ([[2, 4]], TypeError, r"of shape \(1, 2\)"),
    "a number": (6, TypeError, r"of shape \(\)"),
}


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("name", BAD_LENGTHS)
def test_lengths_that_are_none_are_refused(name, columns, rng):
    lengths, error, message = BAD_LENGTHS[name]
    x = rng.standard_normal((6, columns)).astype("f4")
    before = x.copy()
    with pytest.raises(error, match=message):
        OPS.softmax_sequences(x, lengths)
    with pytest.raises(error, match=message):
        OPS.softmax_sequences(x, lengths, inplace=True)
    with pytest.raises(error, match=message):
        OPS.backprop_softmax_sequences(x, x, lengths)
    assert (x == before).all()


@given(lengths=st.lists(st.integers(-3, 9), max_size=6), rows=st.integers(0, 12))
def test_lengths_are_taken_if_and_only_if_they_split_the_rows(lengths, rows):
    x = np.zeros((rows, 1), "f4")
    if min(lengths, default=0) >= 0 and sum(lengths) == rows:
        y = OPS.softmax_sequences(x, lengths)
        assert (y[:, 0] == np.repeat(1 / np.array(lengths, "f4").clip(1), lengths)).all()
    else:
        with pytest.raises((ValueError, IndexError), match="lengths"):
            OPS.softmax_sequences(x, lengths)


# ------------------------------------------------------------------------------------- logits of -inf


def pytorch_gradient(x, dy, temperature=1.0):
    t = torch.tensor(x, requires_grad=True)
    (gradient,) = torch.autograd.grad(torch.softmax(t / temperature, -1), t, torch.tensor(dy))
    return gradient.numpy()


@given(data=st.data())
def test_gradients_at_any_pattern_of_minus_infinity_are_pytorchs(data):
    rows, n = data.draw(st.integers(1, 4)), data.draw(st.integers(2, 6))
    temperature = data.draw(st.sampled_from([1.0, 0.5, 3.0]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    x = np.where(rng.random((rows, n)) < 0.5, -np.inf, rng.normal(0, 3, (rows, n)))
    x[:, data.draw(st.integers(0, n - 1))] = 0  # no row without a finite logit
    dy = rng.standard_normal(x.shape)
    y = OPS.softmax(x, temperature=temperature)
    dx = OPS.backprop_softmax(y, dy, temperature=temperature)
    np.testing.assert_allclose(dx, pytorch_gradient(x, dy, temperature), rtol=1e-11, atol=1e-14)
    assert (dx[y == 0] == 0).all()
    columns, tall = np.full(rows, n), x.reshape(-1, 1)
    y = OPS.softmax_sequences(tall, columns)
    assert (y.reshape(x.shape) == csoftmax.softmax(x)).all()
    dx = OPS.backprop_softmax_sequences(dy.reshape(-1, 1), y, columns)
    np.testing.assert_allclose(dx.reshape(x.shape), pytorch_gradient(x, dy), rtol=1e-11, atol=1e-14)


def test_layers_agree_with_thinc(rng):
    x = rng.standard_normal((9, 4)).astype("f4")
    lengths = np.array([2, 4, 3], "i4")
    results = []
    for name in "numpy", "csoftmax":
        with use_ops(name):
            softmax = Softmax(3, 4, init_W=lambda ops, shape: ops.xp.ones(shape, "f4")).initialize()
            attention = ParametricAttention(4).initialize()
            attention.set_param("Q", np.ones(4, "f4"))
        Y, backprop = softmax(x, is_train=True)
        attended, _ = attention(Ragged(x, lengths), is_train=True)
        results.append((Y, backprop(Y), attended.dataXd))
    for own, ours in zip(*results, strict=True):
        np.testing.assert_allclose(ours, own, rtol=1e-5, atol=1e-6)
