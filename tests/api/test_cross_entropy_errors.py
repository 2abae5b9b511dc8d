"""What cross_entropy refuses, with which words, and that nothing is written then."""

import itertools
import re

import numpy as np
import pytest

import csoftmax

LOGITS = np.linspace(-1, 1, 12).reshape(4, 3)
TARGET = np.array([0, 1, 2, 0])


def refused(error, match, *arguments, **options):
    """Both functions raise `error` with a message of `match`; neither logits nor `out` change."""
    logits = arguments[0]
    before = np.array(logits)
    out = np.full_like(before, 7, dtype=np.float64)
    with pytest.raises(error, match=match):
        csoftmax.cross_entropy(*arguments, **options)
    with pytest.raises(error, match=match):
        csoftmax.cross_entropy_with_grad(*arguments, out=out, **options)
    assert (out == 7).all()
    if before.dtype == np.float64:
        with pytest.raises(error, match=match):
            csoftmax.cross_entropy_with_grad(*arguments, out=logits, **options)
    assert np.array_equal(logits, before)


def naming(*words):
    """A pattern for a message that has all the words, in any order, each on its own."""
    return "".join(rf"(?=.*(?<![\w-]){re.escape(word)}(?!\w))" for word in words)


@pytest.mark.parametrize("bad", [3, -1, -99, 100, -(2**40), 2**40])
def test_index_out_of_range_names_the_first_one_and_where_it_stands(bad):
    target = TARGET.copy()
    target[[1, 3]] = bad, bad - 1
    refused(IndexError, naming(str(bad), "1"), LOGITS, target)


def test_logits_of_no_dimension_have_no_classes():
    refused(ValueError, "0-d", np.array(1.0), 0, 0)


def test_index_out_of_range_in_many_dimensions():
    logits = np.zeros((2, 5, 4, 3))
    target = np.zeros((2, 4, 3), int)
    target[1, 2, 0] = 17
    target[1, 3, 1] = 18
    refused(IndexError, naming("17", "1, 2, 0"), logits, target, 1)
    refused(IndexError, naming("17", "0, 2, 1"), logits.transpose(3, 1, 2, 0), target.T, 1)


VIEWS = {
    "C": np.array,
    "F": lambda a: np.array(a, order="F"),
    "reversed": lambda a: a[::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1],
    "first axes merge": lambda a: np.repeat(a, 2, axis=2)[..., ::2],
    "last axes merge": lambda a: np.repeat(a, 2, axis=0)[::2],
    "none merge": lambda a: np.repeat(np.repeat(a, 2, axis=1), 3, axis=2)[:, ::2, ::3],
    "one for all": lambda a: np.broadcast_to(a[:, :1], a.shape),
}


@pytest.mark.parametrize("view", VIEWS)
def test_targets_of_any_strides_are_checked_and_weighed_as_a_contiguous_copy(view, rng):
    """Sums of weights too, whose last bits depend on the order of the targets."""
    weight = rng.random(5) * 10.0 ** rng.integers(-8, 8, 5)
    logits = rng.standard_normal((3, 4, 1, 5))
    target = VIEWS[view](rng.integers(-1, 5, (3, 4, 1)))
    options = {"weight": weight, "ignore_index": -1}
    want = csoftmax.cross_entropy(logits, target.copy(), **options)
    assert csoftmax.cross_entropy(logits, target, **options) == want
    for place in np.ndindex(target.shape):
        if view != "one for all":
            bad = VIEWS[view](np.array(target))
            bad[place] = 5
            refused(IndexError, rf"target\[{place[0]}, {place[1]}, 0\] is 5", logits, bad, **options)


def test_index_out_of_range_far_into_a_large_batch():
    logits = np.zeros((50000, 3))
    target = np.zeros(50000, int)
    target[40001] = 3
    target[49999] = 5
    for count in (1, 3):
        with csoftmax.threads(count):
            refused(IndexError, naming("3", "40001"), logits, target)


@pytest.mark.parametrize("integer", ["i1", "u1", "i2", "i4", ">i4", "i8", ">i8"])
@pytest.mark.parametrize("place", [0, 1, 255, 256, 600])
def test_one_bad_index_among_many_is_found_wherever_it_stands(integer, place):
    logits = np.zeros((601, 3))
    for bad, strided, ignored in itertools.product((3, -2), (False, True), (-1, 2**70)):
        if bad < 0 and "u" in integer:
            continue
        memory = np.zeros(1202, integer)
        target = memory[::2] if strided else memory[:601]
        if ignored == -1 and "u" not in integer:
            target[::7] = -1
        target[place] = bad
        refused(IndexError, naming(str(bad), str(place)), logits, target, ignore_index=ignored)


def test_unsigned_index_that_wraps_is_still_out_of_range():
    refused(IndexError, str(2**64 - 1), LOGITS, np.array([0, 2**64 - 1, 1, 2], "u8"))
    refused(IndexError, str(2**64 - 100), LOGITS, np.array([0, 2**64 - 100, 1, 2], "u8"))
    refused(IndexError, "156", LOGITS, np.array([0, 156, 1, 2], "u1"))


def test_ignored_index_is_no_error_anywhere():
    target = np.array([0, -100, 2, -100])
    assert np.isfinite(csoftmax.cross_entropy(LOGITS, target))
    target[1] = -7
    refused(IndexError, "-7", LOGITS, target)
    refused(IndexError, "-100", LOGITS, np.array([0, -100, 2, 1]), ignore_index=-7)


@pytest.mark.parametrize("shape", [(3,), (5,), (4, 1), (1, 4), (4, 3), (), (0,)], ids=str)
def test_index_target_of_the_wrong_shape(shape):
    refused(ValueError, r"\(4,\)", LOGITS, np.zeros(shape, int))


@pytest.mark.parametrize("shape", [(4,), (3, 4), (4, 1), (1, 4, 3), ()], ids=str)
def test_probability_target_of_the_wrong_shape(shape):
    refused(ValueError, r"\(4, 3\)", LOGITS, np.zeros(shape))


@pytest.mark.parametrize("dtype", [complex, object, "U1", "M8[s]"], ids=str)
def test_target_type_that_is_neither(dtype):
    refused(TypeError, "target", LOGITS, np.zeros(4, dtype))


@pytest.mark.parametrize("weight", [[1.0], [1.0, 2.0], [1.0] * 4, [[1.0, 2.0, 3.0]], 2.0], ids=str)
def test_weight_of_the_wrong_shape(weight):
    refused(ValueError, r"weight.*\b3\b", LOGITS, TARGET, weight=weight)


@pytest.mark.parametrize(
    "reduction", ["average", "MEAN", "", None, ["mean"], np.array(["mean", "sum"]), np.array("mean")], ids=repr
)
def test_unknown_reduction(reduction):
    refused(
        ValueError, "mean.*sum.*none|none.*mean.*sum|mean.*none.*sum", LOGITS, TARGET, reduction=reduction
    )


@pytest.mark.parametrize("smoothing", [-0.1, 1.1, np.nan, np.inf])
def test_label_smoothing_out_of_range(smoothing):
    refused(ValueError, "label_smoothing", LOGITS, TARGET, label_smoothing=smoothing)


@pytest.mark.parametrize("smoothing", ["a", "0.1", b"0", None, [0.1], np.ones(1), 1j, np.complex64(0)], ids=repr)
def test_label_smoothing_that_is_no_number(smoothing):
    refused(TypeError, "label_smoothing must be a number", LOGITS, TARGET, label_smoothing=smoothing)


@pytest.mark.parametrize("index", [1.5, "a", None, np.array([1]), np.float64(1)], ids=repr)
def test_ignore_index_that_is_no_integer(index):
    words = f"ignore_index must be an integer, not {re.escape(repr(index))}"
    refused(TypeError, words, LOGITS, TARGET, ignore_index=index)


@pytest.mark.parametrize("axis", [None, (0,), (0, 1), [1], 1.0, "a", True, np.array([1])], ids=repr)
def test_axis_that_is_no_integer(axis):
    refused(TypeError, "axis must be an integer: the class axis", LOGITS, TARGET, axis)


def test_index_where_there_are_no_classes():
    refused(IndexError, r"target\[0\] is 0, but the logits have no classes", np.zeros((2, 0)), [0, 0])
    assert np.isnan(csoftmax.cross_entropy(np.zeros((2, 0)), [-100, -100]))


def test_a_target_of_the_other_kind_is_told_so():
    refused(ValueError, "class indices must be integers", LOGITS, TARGET.astype(float))
    refused(ValueError, "class probabilities must be floats", LOGITS, np.zeros((4, 3), int))


@pytest.mark.parametrize("dtype", ["i1", "u1", "i4", ">i4", "u4", "i8", ">i8", "u8"])
def test_ignore_index_that_no_target_can_be_ignores_nothing(dtype):
    """Nor does one that the target's dtype holds ignore anything but itself."""
    limits = np.iinfo(dtype)
    for index in (limits.min - 1, limits.max + 1, -(2**70), 2**63, 2**64, 2**70):
        for bad in {limits.min, limits.max} - {0, index}:
            target = TARGET.astype(dtype)
            target[2] = bad
            refused(IndexError, naming(str(bad), "2"), LOGITS, target, ignore_index=index)
            assert csoftmax.cross_entropy(LOGITS, TARGET.astype(dtype), ignore_index=index) == csoftmax.cross_entropy(
                LOGITS, TARGET
            )


@pytest.mark.parametrize("dtype", ["i1", "u1", "i8", ">i8", "u8", ">u8"])
def test_the_extremes_of_a_dtype_can_be_ignored(dtype):
    limits = np.iinfo(dtype)
    want, grad = csoftmax.cross_entropy_with_grad(LOGITS, [0, 1, -100, 0])
    for index in {limits.min, limits.max} - {0}:
        target = TARGET.astype(dtype)
        target[2] = index
        got = csoftmax.cross_entropy_with_grad(LOGITS, target, ignore_index=index)
        assert got[0] == want
        assert np.array_equal(got[1], grad)
    if limits.max == 2**64 - 1:
        target[2] = 2**64 - 1
        for near in (2**63 - 1, 2**63, 2**64 - 2):
            refused(IndexError, str(2**64 - 1), LOGITS, target, ignore_index=near)


def test_as_many_dimensions_as_there_may_be():
    logits, target = np.zeros((1,) * 62 + (2, 3)), np.zeros((1,) * 62 + (2,), int)
    assert csoftmax.cross_entropy(logits, target) == csoftmax.cross_entropy(np.zeros(3), 0)
    target[(0,) * 62 + (1,)] = 3
    refused(IndexError, r"target\[(0, ){62}1\] is 3,", logits, target)


def test_weight_in_the_memory_of_out():
    """In place, with the weights in one of the rows that the gradient is written to."""
    memory = np.array([[1.0, 2.0, 3.0], [0.5, 0.1, 0.2], [2.0, 1.0, 0.0]])
    want = csoftmax.cross_entropy_with_grad(memory.copy(), [0, 1, 2], weight=memory[0].copy(), label_smoothing=0.1)
    got = csoftmax.cross_entropy_with_grad(memory, [0, 1, 2], weight=memory[0], label_smoothing=0.1, out=memory)
    assert got[0] == want[0]
    assert np.array_equal(got[1], want[1])


def test_axis_out_of_range():
    refused(np.exceptions.AxisError, "dimension 2", LOGITS, TARGET, 2)
    refused(np.exceptions.AxisError, "dimension 2", LOGITS, TARGET, -3)


@pytest.mark.parametrize("dtype", [np.longdouble, complex, object, "U9"], ids=str)
def test_refused_types_of_logits(dtype):
    refused(TypeError, str(np.dtype(dtype)), LOGITS.astype(dtype), TARGET)


def test_target_of_booleans_is_neither_classes_nor_probabilities():
    refused(TypeError, "target.*bool", LOGITS, TARGET > 0)
    refused(TypeError, "target.*bool", LOGITS, LOGITS > 0)


def test_grad_output_of_the_wrong_shape():
    for reduction, shape in (("none", (3,)), ("none", (4, 1)), ("mean", (4,)), ("sum", (4, 3))):
        out = np.full_like(LOGITS, 7)
        with pytest.raises(ValueError, match="grad_output"):
            csoftmax.cross_entropy_with_grad(
                LOGITS, TARGET, reduction=reduction, grad_output=np.ones(shape), out=out
            )
        assert (out == 7).all()


@pytest.mark.parametrize(
    ("out", "error"),
    [(np.full((3, 4), 7.0), ValueError), (np.full((4, 3), 7, "float32"), TypeError), ([7.0], TypeError)],
    ids=["shape", "type", "list"],
)
def test_wrong_out(out, error):
    with pytest.raises(error, match="out"):
        csoftmax.cross_entropy_with_grad(LOGITS, TARGET, out=out)
    assert (np.asarray(out) == 7).all()
