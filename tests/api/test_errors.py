"""Refused arguments: the type of the error, what its message names, and that `out` stays untouched."""

import inspect
import re
from decimal import Decimal
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

import csoftmax

X = np.arange(12.0).reshape(3, 4)
CALLS = {
    "softmax": lambda **kw: csoftmax.softmax(X, **kw),
    "log_softmax": lambda **kw: csoftmax.log_softmax(X, **kw),
    "softmax_backward": lambda **kw: csoftmax.softmax_backward(X, X, **kw),
    "softmax_jvp": lambda **kw: csoftmax.softmax_jvp(X, X, **kw),
    "log_softmax_backward": lambda **kw: csoftmax.log_softmax_backward(X, X, **kw),
    "log_softmax_jvp": lambda **kw: csoftmax.log_softmax_jvp(X, X, **kw),
}
EVERY_CALL = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def read_only(shape):
    a = np.full(shape, 7.0)
    a.flags.writeable = False
    return a


@EVERY_CALL
@pytest.mark.parametrize(
    ("out", "error", "words"),
    [
        (np.full((4, 3), 7.0), ValueError, [r"\(4, 3\)", r"\(3, 4\)"]),
        (np.full((1, 3, 4), 7.0), ValueError, [r"\(1, 3, 4\)", r"\(3, 4\)"]),
        (np.full((3, 4), 7, "float32"), TypeError, ["float32", "float64"]),
        (np.full((3, 4), 7), TypeError, ["int64", "float64"]),
        (np.full((3, 4), 7, object), TypeError, ["object", "float64"]),
        (read_only((3, 4)), ValueError, ["read-only"]),
    ],
    ids=["transposed", "extra axis", "narrower", "integers", "objects", "read-only"],
)
def test_wrong_out_is_refused_and_left_alone(call, out, error, words):
    for word in words:
        with pytest.raises(error, match=word):
            call(out=out)
    assert (out == 7).all()


@EVERY_CALL
@pytest.mark.parametrize(("strides", "axis"), [((8, 0), 1), ((0, 8), 0), ((0, 0), 0)], ids=str)
def test_out_that_repeats_its_elements_is_refused(call, strides, axis):
    memory = np.full(4, 7.0)
    out = np.lib.stride_tricks.as_strided(memory, X.shape, strides)
    with pytest.raises(ValueError, match=f"out repeats one element along axis {axis}"):
        call(out=out)
    assert (memory == 7).all()


@pytest.mark.parametrize("shape", [(3, 0), (0, 3), (0,), (2, 0, 3), (1, 0)], ids=str)
def test_empty_out_repeats_nothing(shape):
    out = np.zeros(shape)
    assert csoftmax.softmax(out, out=out) is out


@EVERY_CALL
@pytest.mark.parametrize(
    "out", [[0.0] * 12, "out", (np.zeros((3, 4)),), memoryview(np.zeros((3, 4)))], ids=type
)
def test_out_that_is_no_array_is_refused(call, out):
    with pytest.raises(TypeError, match=type(out).__name__):
        call(out=out)


@EVERY_CALL
@pytest.mark.parametrize("axis", [2, -3, (0, 2), (-3,), 100])
def test_axis_out_of_range(call, axis):
    with pytest.raises(np.exceptions.AxisError, match="out of bounds for array of dimension 2"):
        call(axis=axis)


@EVERY_CALL
@pytest.mark.parametrize("axis", [(0, 0), (1, -1), (0, 1, 0)], ids=str)
def test_repeated_axis(call, axis):
    with pytest.raises(ValueError, match=r"repeated|duplicate"):
        call(axis=axis)


@EVERY_CALL
@pytest.mark.parametrize(
    "axis", [0.0, "0", b"0", (0.5,), [0.5], True, (True,), {0}, np.array([0]), np.float64(1)], ids=repr
)
def test_axis_that_is_no_integer(call, axis):
    with pytest.raises(TypeError, match=rf"axis must be an integer.*{re.escape(repr(axis))}"):
        call(axis=axis)


@EVERY_CALL
@pytest.mark.parametrize("axis", [2**70, -(2**70), 2**31, 10**5000], ids=["2**70", "-2**70", "2**31", "10**5000"])
def test_axis_beyond_any_machine_integer(call, axis):
    with pytest.raises(np.exceptions.AxisError):
        call(axis=axis)


def test_integers_of_every_kind_are_axes():
    want = csoftmax.softmax(X, axis=0)
    for axis in (np.int8(0), np.uint64(0), np.array(0), -2, (0,), [0], (np.int64(-2),)):
        assert np.array_equal(csoftmax.softmax(X, axis=axis), want)


def test_axis_of_a_scalar():
    for axis in (1, -2, (1,), (0, 1)):
        with pytest.raises(np.exceptions.AxisError, match="dimension 0"):
            csoftmax.softmax(np.float64(3), axis=axis)
    with pytest.raises(ValueError, match="repeated"):
        csoftmax.softmax(np.float64(3), axis=(0, -1))


@EVERY_CALL
@pytest.mark.parametrize("temperature", [0, 0.0, -0.0, -1.0, np.inf, -np.inf, np.nan])
def test_temperature_not_positive_or_not_finite(call, temperature):
    out = np.full_like(X, 7)
    with pytest.raises(ValueError, match="temperature"):
        call(temperature=temperature, out=out)
    with pytest.raises(ValueError, match=f" {re.escape(str(temperature))}"):
        call(temperature=temperature)
    assert (out == 7).all()


@EVERY_CALL
@pytest.mark.parametrize(
    "temperature",
    [
        *("warm", "2", b"2", None, [1.0], np.ones(2), np.ones(1), 1j, np.complex128(1), np.array("2")),
        np.timedelta64(1, "s"),
    ],
    ids=repr,
)
def test_temperature_that_is_no_number(call, temperature):
    with pytest.raises(TypeError, match=rf"temperature must be a number, not {re.escape(repr(temperature))}"):
        call(temperature=temperature)


class Scalar:
    """As other libraries' numbers are, with a dtype of their own."""

    dtype = object()

    def __float__(self):
        return 2.0


@EVERY_CALL
def test_whatever_is_a_number_is_a_temperature(call):
    want = call(temperature=2.0)
    for temperature in (2, np.float16(2), np.array(2), np.int8(2), Fraction(2), Decimal(2), Scalar()):
        assert np.array_equal(call(temperature=temperature), want)


@EVERY_CALL
def test_temperature_beyond_any_float(call):
    for temperature in (10**400, -(10**400), 10**5000):
        with pytest.raises(ValueError, match="temperature must be positive and finite"):
            call(temperature=temperature)


REFUSED = {
    "longdouble": np.ones(3, np.longdouble),
    "complex64": np.ones(3, np.complex64),
    "complex128": np.ones(3, complex),
    "object": np.array([1, 2.0, None]),
    "datetime64": np.array(["2024-02-29"], "M8[D]"),
    "timedelta64": np.array([1, 2], "m8[s]"),
    "structured": np.zeros(3, [("a", "f4")]),
    "masked": np.ma.masked_array([1.0, 2.0], [False, True]),
    "str": np.array(["1", "2"]),
    "bytes": np.array([b"1", b"2"]),
}
NAMES = {
    "longdouble": str(np.dtype(np.longdouble)),
    "structured": r"\('a'",
    "masked": "(?i)masked",
    "str": "<U1",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_type_names_the_type(kind):
    x = REFUSED[kind]
    words = NAMES.get(kind, {"bytes": r"\|?S1"}.get(kind, kind))
    for function in (csoftmax.softmax, csoftmax.log_softmax, csoftmax.logsumexp, csoftmax.softmax_jacobian):
        with pytest.raises(TypeError, match=words):
            function(x)
    for operator in (csoftmax.softmax_backward, csoftmax.log_softmax_backward, csoftmax.log_softmax_jvp):
        good = np.ones(x.shape)
        for pair in ((x, good), (good, x)):
            with pytest.raises(TypeError, match=words):
                operator(*pair)


@pytest.mark.parametrize("x", [None, "abc", b"abc", object(), {}, {1, 2}, iter([1.0]), 2**70], ids=type)
def test_what_is_no_array_is_named(x):
    for function in (csoftmax.softmax, csoftmax.log_softmax, csoftmax.logsumexp):
        with pytest.raises(TypeError, match=rf"x must be an array of numbers, not {re.escape(repr(x))}"):
            function(x)
    with pytest.raises(TypeError, match="output must be an array of numbers"):
        csoftmax.softmax_jvp(X, x)


@pytest.mark.parametrize("x", [[None], [2**64], ["1"]], ids=str)
def test_advice_for_a_list_can_be_followed(x):
    with pytest.raises(TypeError, match=r"np\.array\(x, dtype=np\.float64\)"):
        csoftmax.softmax(x)
    assert csoftmax.softmax(np.array(x, dtype=np.float64)).shape == (1,)


def test_advice_for_fields_is_for_dtypes_that_have_some():
    with pytest.raises(TypeError, match=r"x\['a'\]"):
        csoftmax.softmax(REFUSED["structured"])
    with pytest.raises(TypeError, match=r"x\.astype\(np\.float64\)"):
        csoftmax.softmax(np.ones(3, ml_dtypes.float8_e4m3fn))


def test_masked_arrays_are_told_of_where():
    with pytest.raises(TypeError, match="where"):
        csoftmax.softmax(REFUSED["masked"])


@pytest.mark.parametrize("dtype", [int, bool, complex, np.longdouble, object, "U3", "M8[s]"], ids=str)
def test_dtype_that_no_result_can_have(dtype):
    for function in (csoftmax.softmax, csoftmax.log_softmax, csoftmax.logsumexp):
        with pytest.raises(TypeError, match="dtype"):
            function(X, dtype=dtype)


@pytest.mark.parametrize("dtype", ["foo", 1, "f4,,", b"f4\xff", [("a", "f4")], X], ids=str)
def test_dtype_that_is_none_or_no_number(dtype):
    for function in (csoftmax.softmax, csoftmax.log_softmax, csoftmax.logsumexp):
        with pytest.raises(TypeError, match=r"dtype must be float16.* not "):
            function(X, dtype=dtype)


@pytest.mark.parametrize("keepdims", ["a", None, [], 1.0, np.ones(2)], ids=repr)
def test_keepdims_that_is_no_truth_value(keepdims):
    with pytest.raises(TypeError, match="keepdims must be True or False"):
        csoftmax.logsumexp(X, keepdims=keepdims)


@pytest.mark.parametrize("where", [np.ma.ones((3, 4), bool), [[True], [True, False]]], ids=type)
def test_where_that_is_no_mask(where):
    with pytest.raises((TypeError, ValueError), match=r"where is a masked|where cannot become an array"):
        csoftmax.softmax(X, where=where)


def test_out_of_another_type_than_dtype():
    out = np.full_like(X, 7)
    with pytest.raises(TypeError, match="float32"):
        csoftmax.softmax(X, out=out, dtype="float32")
    assert (out == 7).all()


def test_ragged_lists_are_refused():
    with pytest.raises(ValueError, match=r"x cannot.*inhomogeneous"):
        csoftmax.softmax([[1.0, 2.0], [3.0]])
    with pytest.raises(ValueError, match=r"output cannot.*inhomogeneous"):
        csoftmax.softmax_backward(X, [[1.0, 2.0], [3.0]])


@pytest.mark.parametrize("operator", [csoftmax.softmax_backward, csoftmax.log_softmax_jvp])
def test_gradient_and_output_of_different_shapes(operator):
    for shape in ((4, 3), (3, 1), (4,), ()):
        with pytest.raises(ValueError, match=r"\(3, 4\)"):
            operator(np.ones(shape), X)


def test_jacobian_out_of_the_wrong_shape():
    with pytest.raises(ValueError, match=r"\(3, 4, 4\)"):
        csoftmax.softmax_jacobian(X, out=np.zeros((3, 4)))


def test_signatures_and_keywords():
    for function, signature in (
        (csoftmax.softmax, "(x, axis=-1, *, temperature=1.0, where=None, out=None, dtype=None)"),
        (csoftmax.softmax_backward, "(grad_output, output, axis=-1, *, temperature=1.0, where=None, out=None)"),
    ):
        assert str(inspect.signature(function)) == signature
    p = csoftmax.softmax(x=X, axis=-1, temperature=1.0, where=None, out=None, dtype=None)
    np.testing.assert_array_equal(p, csoftmax.softmax(X))
    np.testing.assert_array_equal(
        csoftmax.softmax_backward(grad_output=X, output=p, axis=-1, temperature=1.0, where=None, out=None),
        csoftmax.softmax_backward(X, p),
    )


def test_options_are_keywords_only():
    for function, arguments in (
        (csoftmax.softmax, (X, -1, 2.0)),
        (csoftmax.log_softmax, (X, -1, 2.0)),
        (csoftmax.logsumexp, (X, -1, None)),
        (csoftmax.softmax_backward, (X, X, -1, 2.0)),
        (csoftmax.softmax_jvp, (X, X, -1, 2.0)),
        (csoftmax.log_softmax_backward, (X, X, -1, 2.0)),
        (csoftmax.log_softmax_jvp, (X, X, -1, 2.0)),
        (csoftmax.softmax_jacobian, (X, -1, X)),
        (csoftmax.cross_entropy, (X, [0, 1, 2], -1, None)),
        (csoftmax.cross_entropy_with_grad, (X, [0, 1, 2], -1, None)),
    ):
        with pytest.raises(TypeError, match="positional"):
            function(*arguments)
