"""The advice in errors, each followed: what the message tells to do is done, and gives what was wanted."""

import datetime
import functools
import inspect
import re
from decimal import Decimal
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
import scipy.sparse

import csoftmax
from csoftmax.api import keywords

VALUES = np.array([[0.0, 1.0, 2.0], [3.0, 1.0, 0.0]])
CLASSES = np.array([2, 0])
BYTES = VALUES.astype(ml_dtypes.bfloat16).view("V2")
RECORDS = np.zeros((2, 3), [("label", "U3"), ("value", "f4")])
SPARSE = [
    getattr(scipy.sparse, f"{kind}_{of}") for kind in ("csr", "csc", "coo", "lil", "dok") for of in ("matrix", "array")
]


def follow(function, advice, wanted, **arguments):
    """The call fails with a message that ends with `advice`; the result of the call in which it is followed.

    `wanted` names the argument that the advice is on.
    """
    with pytest.raises((TypeError, ValueError)) as raised:
        function(**arguments)
    message = str(raised.value)
    assert advice in message, message
    assert "\n" not in message
    names = {"np": np, "ml_dtypes": ml_dtypes, "dtype": np.float32, **arguments}
    if advice.startswith("classes, target = "):
        exec(advice, names)
        followed = names["target"]
    else:
        followed = eval(advice, names)
    return function(**(arguments | {wanted: followed}))


LOGITS = {
    "integers in objects": (VALUES.astype(int).astype(object), "x.astype(np.float64)"),
    "objects with None": (np.where(VALUES == 1, None, VALUES), "x.astype(np.float64)"),
    "Decimal": (np.array([[Decimal(1), Decimal("0.5")]]), "x.astype(np.float64)"),
    "Fraction": (np.array([[Fraction(1, 3), Fraction(2)]]), "x.astype(np.float64)"),
    "strings of numbers": (np.array([["1", "2.5"]]), "x.astype(np.float64)"),
    "bytes of numbers": (np.array([[b"1", b"2.5"]]), "x.astype(np.float64)"),
    "a list of strings": ([["1", "2.5"]], "np.array(x, dtype=np.float64)"),
    "integers of any size": ([[2**70, 2**70]], "np.array(x, dtype=np.float64)"),
    "arrays in an object array": ("rows", "np.array(x.tolist(), dtype=np.float64)"),
    "bfloat16 from np.load": (BYTES, "x.view(ml_dtypes.bfloat16)"),
    "bfloat16 in every second place": (np.repeat(BYTES, 2, axis=1)[:, ::2], "x.view(ml_dtypes.bfloat16)"),
    "bytes of another type": (VALUES.astype("float32").view("V4"), "x.view(dtype)"),
    "longdouble": (VALUES.astype(np.longdouble), "x.astype(np.float64)"),
    "float8": (VALUES.astype(ml_dtypes.float8_e4m3fn), "x.astype(np.float64)"),
    "int4": (VALUES.astype(ml_dtypes.int4), "x.astype(np.float64)"),
    "complex": (VALUES + 1j, "np.abs(x)"),
    "complex64": (VALUES.astype(np.complex64), "np.real(x)"),
    "complex in a list": ([1j, 2.0], "np.real(x)"),
    "datetime": (np.array(["2024-02-29", "2024-03-01"], "M8[D]"), "x.astype(np.int64)"),
    "byte-swapped timedelta": (np.array([1, 2], ">m8[s]"), "x.astype(np.int64)"),
    "datetimes in a list": ([np.datetime64("2024-02-29")], "np.array(x).astype(np.int64)"),
    "records": (RECORDS, "x['value']"),
    "masked": (np.ma.masked_equal(VALUES, 1), "x.data"),
} | {f"sparse {kind.__name__}": (kind(VALUES), "x.toarray()") for kind in SPARSE}


@pytest.mark.parametrize("function", [csoftmax.softmax, csoftmax.log_softmax, csoftmax.logsumexp])
@pytest.mark.parametrize("kind", LOGITS)
def test_logits(function, kind):
    x, advice = LOGITS[kind]
    if kind == "arrays in an object array":
        x = np.empty(2, object)
        x[:] = [np.array([1.0, 2.0]), np.array([3.0, 4.0])]
    got = follow(function, advice, "x", x=x)
    if np.shape(x) == VALUES.shape and "complex" not in kind and kind not in ("records", "objects with None"):
        np.testing.assert_allclose(np.asarray(got, float), function(VALUES), rtol=1e-2)


def test_where_of_a_masked_array():
    for x in (np.ma.masked_equal(VALUES, 1), np.ma.masked_array(VALUES)):
        with pytest.raises(TypeError, match=re.escape("pass x.data, and where=~np.ma.getmaskarray(x)")):
            csoftmax.softmax(x)
        p = csoftmax.softmax(x.data, where=~np.ma.getmaskarray(x))
        assert np.array_equal(p, csoftmax.softmax(VALUES, where=True if x.mask is np.ma.nomask else VALUES != 1))


@pytest.mark.parametrize(
    ("x", "words"),
    [
        ([[1.0, "a"]], "x[0, 1] is 'a', which is no number"),
        (np.array([1.0, object], object), "x[1] is <class 'object'>, which is no number"),
        (np.array([[1.0, {}]], object), "x[0, 1] is {}, which is no number"),
        (np.array([1j, 2], object), "x[0] is 1j, which is no number"),
        ([datetime.datetime(2024, 2, 29)], "x[0] is datetime.datetime(2024, 2, 29, 0, 0), which is no number"),
        (np.array([[1.0], [1.0, 2.0]], object), "its elements are sequences of unlike lengths: make them rows"),
    ],
    ids=str,
)
def test_what_cannot_become_numbers_is_pointed_at(x, words):
    with pytest.raises(TypeError, match=re.escape(words)):
        csoftmax.softmax(x)


def column(values):
    return np.array(values)[:, None]


ONE_HOT = np.eye(3, dtype=int)[CLASSES]
TARGETS = {
    "integers in objects": (CLASSES.astype(object), "target.astype(np.int64)"),
    "whole floats in objects": (CLASSES.astype(float).astype(object), "target.astype(np.int64)"),
    "strings of integers": (CLASSES.astype(str), "target.astype(np.int64)"),
    "int4": (CLASSES.astype(ml_dtypes.int4), "target.astype(np.float64)"),
    "floats": (CLASSES.astype(float), "target.astype(np.int64)"),
    "float32": (CLASSES.astype(np.float32), "target.astype(np.int64)"),
    "a list of floats": ([2.0, 0.0], "np.array(target, dtype=np.int64)"),
    "one-hot integers, by their places": (ONE_HOT, "np.argmax(target, axis=1)"),
    "one-hot integers, as probabilities": (ONE_HOT, "target.astype(np.float64)"),
    "one-hot uint8": (ONE_HOT.astype(np.uint8), "np.argmax(target, axis=1)"),
    "a one-hot list": (ONE_HOT.tolist(), "np.argmax(target, axis=1)"),
    "a one-hot list, as probabilities": (ONE_HOT.tolist(), "np.array(target, dtype=np.float64)"),
    "one-hot bools": (ONE_HOT.astype(bool), "np.argmax(target, axis=1)"),
    "one-hot bools, as probabilities": (ONE_HOT.astype(bool), "target.astype(np.float64)"),
    "one-hot objects": (ONE_HOT.astype(float).astype(object) * 1.0, "target.astype(np.int64)"),
    "probabilities in objects": ((ONE_HOT * 0.5 + 1 / 6).astype(object), "target.astype(np.float64)"),
    "a column": (column(CLASSES), "np.squeeze(target, axis=1)"),
    "a column of floats": (column(CLASSES * 1.0), "np.squeeze(target, axis=1).astype(np.int64)"),
    "bfloat16 from np.load": (ONE_HOT.astype(ml_dtypes.bfloat16).view("V2"), "target.view(ml_dtypes.bfloat16)"),
} | {f"sparse one-hot {kind.__name__}": (kind(ONE_HOT), "target.toarray().astype(np.float64)") for kind in SPARSE}


@pytest.mark.parametrize("kind", TARGETS)
def test_targets(kind):
    target, advice = TARGETS[kind]
    logits = VALUES * 2
    if kind in ("int4", "one-hot objects"):
        # an error whose advice leads to the next one, and that to the end
        with pytest.raises(TypeError, match=re.escape(advice)):
            csoftmax.cross_entropy(logits, target)
        step = eval(advice, {"np": np, "target": target})
        last = "target.astype(np.int64)" if kind == "int4" else "np.argmax(target, axis=1)"
        got = follow(csoftmax.cross_entropy, last, "target", logits=logits, target=step)
    else:
        got = follow(csoftmax.cross_entropy, advice, "target", logits=logits, target=target)
    want = CLASSES
    if kind == "probabilities in objects":
        want = ONE_HOT * 0.5 + 1 / 6
    assert got == pytest.approx(csoftmax.cross_entropy(logits, want), rel=1e-12)


@pytest.mark.parametrize(
    "labels",
    [
        np.array(["cat", "dog", "ant", "cat"]),
        np.array(["cat", "dog", "ant", "cat"], object),
        np.array([b"cat", b"dog", b"ant", b"cat"]),
        np.array(["cat", "dog", "ant", "cat"], np.dtypes.StringDType()),
        ["cat", "dog", "ant", "cat"],
    ],
    ids=["str", "object", "bytes", "StringDType", "list"],
)
def test_string_labels(labels):
    logits = np.eye(4, 3)
    advice = "classes, target = np.unique(target, return_inverse=True)"
    got = follow(csoftmax.cross_entropy, advice, "target", logits=logits, target=labels)
    assert got == csoftmax.cross_entropy(logits, [1, 2, 0, 1])


@pytest.mark.parametrize("dtype", [np.int64, np.uint8])
def test_a_masked_target(dtype):
    """Of indices with what stands for an ignored one; of probabilities with 0."""
    indices = np.ma.masked_equal(CLASSES, 0).astype(dtype)
    shares = np.ma.masked_array(ONE_HOT * 0.5, ONE_HOT == 0)
    for target in (indices, shares):
        with pytest.raises(TypeError, match=r"target\.filled\(k\) and ignore_index=k.*target\.filled\(0\)"):
            csoftmax.cross_entropy(VALUES, target)
    k = np.iinfo(dtype).max
    got = csoftmax.cross_entropy(VALUES, indices.filled(k), ignore_index=int(k))
    assert got == csoftmax.cross_entropy(VALUES, np.where(CLASSES == 0, -100, CLASSES))
    assert csoftmax.cross_entropy(VALUES, shares.filled(0)) == csoftmax.cross_entropy(VALUES, ONE_HOT * 0.5)


@pytest.mark.parametrize("target", [np.array([0, None], object), np.array(["0.5", "1"])], ids=str)
def test_numbers_that_are_no_classes(target):
    with pytest.raises(TypeError, match="indices must be integers, and class probabilities, of the logits' shape"):
        csoftmax.cross_entropy(VALUES, target)


def test_an_axis_that_has_too_few_classes_is_not_advised():
    with pytest.raises(ValueError, match=r"class axis, \(2,\)$"):
        csoftmax.cross_entropy(np.zeros((2, 3)), [0, 1, 2])


def test_integers_that_are_neither_one_hot_nor_classes():
    with pytest.raises(ValueError, match=r"must be floats: target\.astype\(np\.float64\)$"):
        csoftmax.cross_entropy(VALUES, ONE_HOT + 1)


@pytest.mark.parametrize("axis", [1, 2])
def test_targets_that_fit_another_class_axis(axis):
    """PyTorch's class axis is the second."""
    logits = np.zeros((2, 3, 4, 5))
    target = np.zeros(logits.shape[:axis] + logits.shape[axis + 1 :], int)
    with pytest.raises(ValueError, match=rf"it fits axis={axis}$"):
        csoftmax.cross_entropy(logits, target)
    assert csoftmax.cross_entropy(logits, target, axis=axis) == pytest.approx(np.log(logits.shape[axis]))


@pytest.mark.parametrize("argument", ["weight", "grad_output", "logits"])
@pytest.mark.parametrize("kind", ["masked", "objects", "bfloat16", "strings"])
def test_other_arguments(argument, kind):
    values = {"weight": np.array([1.0, 2.0, 3.0]), "grad_output": np.array([1.0, 2.0]), "logits": VALUES}[argument]
    given, advice = {
        "masked": (np.ma.masked_equal(values, 99), f"{argument}.filled(0)"),
        "objects": (values.astype(object), f"{argument}.astype(np.float64)"),
        "bfloat16": (values.astype(ml_dtypes.bfloat16).view("V2"), f"{argument}.view(ml_dtypes.bfloat16)"),
        "strings": (values.astype(str), f"{argument}.astype(np.float64)"),
    }[kind]
    if argument == "logits" and kind == "masked":
        advice = "logits.astype(np.float64).filled(-np.inf)"
    arguments = {"logits": VALUES, "target": CLASSES, "reduction": "none"}
    got = follow(csoftmax.cross_entropy_with_grad, advice, argument, **(arguments | {argument: given}))
    want = csoftmax.cross_entropy_with_grad(**(arguments | {argument: values}))
    np.testing.assert_allclose(got[1].astype(float), want[1], rtol=2e-2)


@pytest.mark.parametrize("index", [0, 1, -1, 255, np.int64(-99), 2**70])
def test_ignore_index_with_probabilities_is_an_error(index):
    words = re.escape(f"ignore_index ({int(index)}) is for class indices, but target is probabilities")
    for function in (csoftmax.cross_entropy, csoftmax.cross_entropy_with_grad):
        for target in (ONE_HOT * 1.0, ONE_HOT.astype(np.float16), (ONE_HOT * 1.0).tolist()):
            with pytest.raises(ValueError, match=words):
                function(VALUES, target, ignore_index=index)
            assert function(VALUES, target, ignore_index=-100) is not None


# ------------------------------------------------------------------------------------------------------- keywords

FAMILY = [
    function
    for function in (getattr(csoftmax, name) for name in csoftmax.__all__ if name != "explain")
    if "axis" in inspect.signature(function).parameters
]


@pytest.mark.parametrize("function", FAMILY, ids=lambda f: f.__name__)
@pytest.mark.parametrize("keyword", ["dim", "dims", "axes", "input", "inputs", "keepdim", "mask", "labels", "nonsense"])
def test_keywords_of_other_libraries(function, keyword):
    parameters = list(inspect.signature(function).parameters)
    here = {
        **dict.fromkeys(("dim", "dims", "axes"), "axis"),
        **dict.fromkeys(("input", "inputs"), parameters[0]),
        "keepdim": "keepdims",
        "mask": "where",
        "labels": "target",
    }.get(keyword)
    words = f"{function.__name__}() got an unexpected keyword argument '{keyword}'"
    if here in parameters:
        words += f", which is called '{here}' here"
    needed = [p.name for p in inspect.signature(function).parameters.values() if p.default is p.empty]
    arguments = dict.fromkeys(needed, VALUES) | {keyword: 1}
    for call in (function, functools.partial(function, **{keyword: 1})):
        with pytest.raises(TypeError, match=f"^{re.escape(words)}$"):
            call(**arguments)
    with pytest.raises(TypeError, match=re.escape(f"'{keyword}'")):
        function(*[VALUES] * len(needed), **{keyword: 1})


def test_several_keywords_of_other_libraries():
    words = "argument 'input', which is called 'x' here; and 'dim', which is called 'axis' here; and 'keepdim', which"
    with pytest.raises(TypeError, match=re.escape(words)):
        csoftmax.logsumexp(input=VALUES, dim=0, keepdim=True)


def test_other_type_errors_stay_as_they_are():
    with pytest.raises(TypeError, match=r"^axis must be an integer"):
        csoftmax.softmax(x=VALUES, axis="0")
    with pytest.raises(TypeError, match=r"positional argument"):
        csoftmax.softmax(axis=0)
    with pytest.raises(TypeError, match=r"unhashable|dtype must be"):
        csoftmax.softmax(x=VALUES, dtype=[])


def test_functions_stay_what_they_were():
    """Their own slot for calls is replaced, and nothing else."""
    for function in FAMILY:
        assert function.__module__.startswith("csoftmax.")
        assert function.__doc__
        assert callable(function)
    assert csoftmax.softmax(VALUES, -1)[0, 0] == csoftmax.softmax(*(VALUES,), **{"axis": -1})[0, 0]


def test_functions_of_python_are_told_too():
    """As they are in a build that counts lines."""

    def f(x, axis=0):
        """A docstring."""
        return axis

    [told] = keywords.explained(f)
    assert (told(1, axis=2), told.__doc__, str(inspect.signature(told))) == (2, f.__doc__, "(x, axis=0)")
    with pytest.raises(TypeError, match=r"f\(\) got an unexpected keyword argument 'dim', which is called 'axis' here"):
        told(1, dim=0)
    with pytest.raises(TypeError, match=r"'fim'$"):
        told(1, fim=0)


def test_out_of_another_library():
    class Tensor:
        def numpy(self):
            return OUT

    OUT = np.zeros(3)
    with pytest.raises(TypeError, match=r"out must be an ndarray, not Tensor; out\.numpy\(\) shares its memory"):
        csoftmax.softmax(VALUES[0], out=Tensor())
    assert csoftmax.softmax(VALUES[0], out=Tensor().numpy()) is OUT
