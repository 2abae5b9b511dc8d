"""The memory order of results: that which NumPy's ufuncs and reductions give, for views of every kind."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import csoftmax


@st.composite
def views(draw):
    """An array of zeros of up to five dimensions, turned, reversed, sliced, broadcast and with axes of length 1."""
    sides = st.integers(1, 3)
    x = np.zeros(draw(st.lists(sides, min_size=1, max_size=4)), draw(st.sampled_from(["f4", "f8", "f2", ">f4"])))
    for step in draw(st.lists(st.sampled_from(["turn", "slice", "repeat", "lead", "insert"]), max_size=4)):
        axis = draw(st.integers(0, x.ndim - 1))
        if step == "turn":
            x = x.transpose(draw(st.permutations(range(x.ndim))))
        elif step == "slice":
            x = x[(slice(None),) * axis + (slice(None, None, draw(st.sampled_from([-2, -1, 2]))),)]
        elif step == "repeat" and x.shape[axis] == 1:
            x = np.broadcast_to(x, (*x.shape[:axis], 3, *x.shape[axis + 1 :]))
        elif step == "lead" and x.ndim < 5:
            x = np.broadcast_to(x, (draw(sides), *x.shape))
        elif step == "insert" and x.ndim < 5:
            x = np.expand_dims(x, axis)
    return x


def walked(a):
    """The strides that matter: an axis of length 1 is never walked along."""
    return [stride for stride, length in zip(a.strides, a.shape, strict=True) if length > 1]


@given(views())
def test_elementwise(x):
    want = walked(np.exp(x))
    for function in (csoftmax.softmax, csoftmax.log_softmax):
        for axis in (-1, 0, None):
            assert walked(function(x, axis)) == want, (x.shape, x.strides)
    assert walked(csoftmax.softmax(x, dtype="f8")) == walked(np.exp(x, dtype="f8"))
    assert walked(csoftmax.softmax_backward(x, x)) == want
    assert walked(csoftmax.cross_entropy_with_grad(x, np.zeros(x.shape[:-1], int))[1]) == want


@given(views(), st.data())
def test_with_a_mask(x, data):
    """The mask's order decides where that of `x` says nothing, and nowhere else."""
    scalar, same = np.ones((), bool), np.ones_like(x, bool, order="K")
    last = np.ones(x.shape[-1], bool)
    for mask in (scalar, last, np.broadcast_to(last, x.shape)):
        assert walked(csoftmax.softmax(x, where=mask)) == walked(np.exp(x, where=mask, out=None)), (x.shape, x.strides)
    assert walked(csoftmax.softmax(x, where=same)) == walked(np.exp(x, where=same, out=None)), (x.shape, x.strides)
    turned = np.ones(x.shape, bool).transpose(data.draw(st.permutations(range(x.ndim))))
    one = np.broadcast_to(np.zeros((), x.dtype), turned.shape)
    assert walked(csoftmax.softmax(one, where=turned)) == walked(np.exp(one, where=turned, out=None))


@given(views(), st.booleans(), st.data())
def test_reduced(x, keepdims, data):
    axis = data.draw(st.sampled_from([-1, 0, tuple(range(0, x.ndim, 2)), tuple(range(1, x.ndim))]))
    got, want = csoftmax.logsumexp(x, axis, keepdims=keepdims), np.sum(x, axis, keepdims=keepdims)
    assert got.shape == want.shape
    assert walked(got) == walked(want), (x.shape, x.strides, axis)


@given(views())
def test_out_keeps_its_own_order(x):
    for order in "CF":
        out = np.empty(x.shape, x.dtype.newbyteorder("="), order)
        strides = out.strides
        assert csoftmax.softmax(x, out=out) is out
        assert (out.strides, np.exp(x, out=out).strides) == (strides, strides)
        assert csoftmax.softmax(out, where=np.ones(x.shape, bool), out=out).strides == strides


@pytest.mark.parametrize(
    "x",
    [
        np.broadcast_to(np.float32([1, 2, 3]), (4, 3)),
        np.broadcast_to(np.float32([[1], [2]]), (2, 4)),
        np.broadcast_to(np.float64(1), (2, 3, 4)),
        np.broadcast_to(np.arange(6.0).reshape(2, 3), (5, 2, 3)).transpose(2, 0, 1),
        np.broadcast_to(np.arange(6.0).reshape(2, 1, 3), (2, 4, 3))[::-1, :, ::-1],
        np.broadcast_to(np.arange(6.0).reshape(3, 2).T[:, None], (2, 4, 3)),
    ],
    ids=lambda x: f"{x.shape} {x.strides}",
)
def test_broadcast_views(x):
    p = csoftmax.softmax(x)
    assert p.strides == np.exp(x).strides
    assert np.array_equal(p, csoftmax.softmax(np.array(x, order="C")))
