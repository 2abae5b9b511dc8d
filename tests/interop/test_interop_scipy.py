"""csoftmax.interop.scipy answers as SciPy does: SciPy's own tests pass, and both agree side by side."""

import array
import os
import subprocess
import sys
import warnings

import ml_dtypes
import numpy as np
import oracle
import pytest
import scipy.special
from arrays import LAYOUTS, exact_differences
from hypothesis import given
from hypothesis import strategies as st

import csoftmax
from csoftmax._extras import how_to_install
from csoftmax.interop import scipy as interop

NAMES = ["softmax", "log_softmax", "logsumexp"]
AXES = [None, 0, 1, -1, (0,), (0, 1), (-1, 0), (), (0, 0), 2, (0, 5), np.int64(0), [0], True, 1.0, "0"]
AXES += [(np.int8(0), -1), (np.uint64(1), np.int32(1)), np.int16(7), np.array(0), np.array([0]), (True,), (0, True)]
AXES += [np.True_, {0}, (0.0,), ("0",)]

# Collected first and put in SciPy's place then, since SciPy looks its own functions up while it collects.
PLUGIN = """
from csoftmax.interop import scipy as interop


def pytest_collection_modifyitems(items):
    for module in {item.module for item in items}:
        for name in interop.__all__:
            assert callable(getattr(module, name))
            setattr(module, name, getattr(interop, name))
"""


class OwnArray:
    """What `numpy.asarray` takes by ``__array__``, as it does a DataFrame."""

    def __init__(self, values=(1.0, 2.0), dtype=float):
        self.values = np.array(values, dtype)

    def __array__(self, dtype=None, copy=None):
        return self.values


class Index:
    """An integer by its ``__index__`` alone."""

    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


def run_scipys_tests(folder, isa, **environment):
    (folder / "in_place_of_scipy.py").write_text(PLUGIN)
    (folder / "pytest.ini").write_text("[pytest]\n")
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTEST_ADDOPTS", "SCIPY_ARRAY_API")}
    options = ["-q", "-c", "pytest.ini", "-p", "in_place_of_scipy", "-p", "no:cacheprovider"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "--pyargs", "scipy.special.tests.test_logsumexp"],
        cwd=folder,
        env=kept | {"PYTHONPATH": path, "CSOFTMAX_ISA": isa} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_scipys_own_tests_pass(tmp_path, isa):
    run_scipys_tests(tmp_path, isa)


@pytest.mark.peers
def test_scipys_own_tests_pass_with_arrays_of_other_libraries(tmp_path):
    run_scipys_tests(tmp_path, csoftmax.get_isa(), SCIPY_ARRAY_API='["numpy", "torch"]')


def answer(function, *args, **kwargs):
    """What a call gives: its result, or the type of its error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return function(*args, **kwargs)
        except Exception as error:
            return type(error)


def assert_same_answer(name, x, *args, values_of=None, **kwargs):
    """Type, dtype, shape and memory order are SciPy's; so are the values, of `values_of` if it is given."""
    got = answer(getattr(interop, name), x, *args, **kwargs)
    want = answer(getattr(scipy.special, name), x, *args, **kwargs)
    if isinstance(want, type):
        assert got is want
        return
    assert type(got) is type(want)
    assert got.dtype == want.dtype
    assert np.shape(got) == np.shape(want)
    assert np.asarray(got).strides == np.asarray(want).strides
    if values_of is not None:
        want = getattr(scipy.special, name)(values_of, *args, **kwargs)
    tolerance = 4 * float(ml_dtypes.finfo(got.dtype).eps)
    assert np.allclose(np.asarray(got, want.dtype), want, rtol=tolerance, atol=tolerance, equal_nan=True)


def test_signatures_are_scipys():
    for name in NAMES:
        code, scipys = (getattr(m, name).__code__ for m in (interop, scipy.special))
        assert code.co_varnames[: code.co_argcount] == scipys.co_varnames[: scipys.co_argcount]
        assert getattr(interop, name).__defaults__ == getattr(scipy.special, name).__defaults__


@pytest.mark.parametrize("axis", AXES, ids=repr)
@pytest.mark.parametrize("name", NAMES)
def test_every_axis(name, axis, rng):
    for x in (rng.standard_normal((3, 4, 5)), rng.standard_normal((3, 4)), rng.standard_normal(4), 1.5):
        assert_same_answer(name, x, axis)
        assert_same_answer(name, x, axis=axis)
        if name == "logsumexp":
            assert_same_answer(name, x, axis=axis, keepdims=True)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
def test_every_layout(name, layout, rng):
    x = LAYOUTS[layout](rng.standard_normal((3, 4, 5)))
    for axis in (None, 0, 1, 2, (0, 2)):
        assert_same_answer(name, x, axis)


@pytest.mark.parametrize(
    "dtype", ["e", "f", "d", "g", "F", "D", "G", "bfloat16", "float8_e4m3fn", ">f4", ">f2"]
)
@pytest.mark.parametrize("name", NAMES)
def test_every_inexact_type(name, dtype, rng):
    # SciPy rounds every step to 16 bits, so its float64 values are the better measure.
    x = exact_differences(rng, (6, 7), dtype, spread=1)
    narrow = None if x.dtype.kind in "gc" or x.dtype.itemsize != 2 else x.astype("d")
    for axis in (None, 0, 1):
        assert_same_answer(name, x, axis, values_of=narrow)


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", ">i2", ">u4"])
@pytest.mark.parametrize("name", NAMES)
def test_integers_have_scipys_dtype_and_do_not_wrap_around(name, dtype):
    info = np.iinfo(dtype)
    for x in (np.array([[3, 1], [2, 2]], dtype), np.array([[info.min, info.max], [0, 1]], dtype)):
        assert_same_answer(name, x, 1, values_of=x.astype("d"))


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("name", NAMES)
def test_scalars_empty_arrays_and_other_objects(name):
    masked = np.ma.array([1.0, 2.0, 9.0], mask=[0, 0, 1])
    scalars = [3, 3.0, 1j, True, np.float32(3), np.int8(3), np.array(3.0), np.array(3, "i2")]
    sequences = [
        [1, 2],
        (1.0, 2.0),
        [[1], [2]],
        range(3),
        [1, 1j],
        [True, False],
        [2**70, 1],
        [[1], [1, 2]],
        [],
    ]
    empty = [np.zeros(0), np.zeros((0, 3)), np.zeros((3, 0)), np.zeros((2, 0, 3))]
    refused = ["text", ["text"], None, [None], np.array([1.0, 2.0], object), np.zeros(3, [("a", "f4")]), {}]
    others = [np.matrix([[1.0, 2.0]]), masked]
    if name != "logsumexp":  # where SciPy refuses it
        others.append(OwnArray())
    for x in [*scalars, *sequences, *empty, *refused, *others]:
        for axis in (None, 0, 1):
            assert_same_answer(name, x, axis)


@pytest.mark.parametrize("dtype", ["f", "d"])
@pytest.mark.parametrize("name", NAMES)
def test_odd_values(name, dtype):
    inf, nan, top = np.inf, np.nan, np.finfo(dtype).max
    odd = [0.0, 1.0, inf, -inf, nan, top, -top]
    x = np.array(np.meshgrid(odd, odd, odd), dtype)
    for axis in (0, -1, (0, 1), None):
        assert_same_answer(name, x, axis)


def test_logsumexp_with_factors_and_signs(rng):
    a, b = rng.standard_normal((2, 3, 4))
    for axis in (None, 0, 1, (0, 1)):
        for factors in (None, b, 2.0, [1, -1, 0, 2]):
            for keepdims in (False, True):
                assert_same_answer("logsumexp", a, axis, factors, keepdims)
                got = interop.logsumexp(a, axis, factors, keepdims, True)
                want = scipy.special.logsumexp(a, axis, factors, keepdims, True)
                assert np.array_equal(got, want)


@pytest.mark.parametrize("name", NAMES)
def test_floats_and_integers_are_computed_here(name, monkeypatch, rng):
    # SciPy is not to be asked, and the bits are those of csoftmax.
    monkeypatch.delattr(interop, f"_scipy_{name}")
    x = rng.standard_normal((5, 9)).astype("f")
    for axis in (None, 0, 1, (0, 1)):
        want = getattr(csoftmax, name)(x, axis)
        assert np.array_equal(getattr(interop, name)(x, axis), want)
        assert np.array_equal(
            getattr(interop, name)(x.tolist(), axis), getattr(csoftmax, name)(x.tolist(), axis)
        )
    for dtype in ("e", "bfloat16", "d", "i1", "u8"):
        getattr(interop, name)(x.astype(dtype))


@pytest.fixture
def scipy_is_not_asked(monkeypatch):
    for name in NAMES:
        monkeypatch.delattr(interop, f"_scipy_{name}")


INTEGERS = [int, Index, np.array, *(np.dtype(c).type for c in "bBhHiIlLqQ")]


@pytest.mark.usefixtures("scipy_is_not_asked")
@pytest.mark.parametrize("integer", INTEGERS, ids=lambda v: v.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_axes_of_every_integer_type_stay_here(name, integer, rng):
    x = rng.standard_normal((3, 4, 5))
    ours, core = getattr(interop, name), getattr(csoftmax, name)
    for axis in range(3):
        assert np.array_equal(ours(x, integer(axis)), core(x, axis))
    for axes in [(0,), (1, 2), (2, 0), ()]:
        assert np.array_equal(ours(x, tuple(map(integer, axes))), core(x, axes))
    wide = np.array([[1, 3], [200, 4]], np.uint8)
    assert np.allclose(ours(wide, integer(1)), core(wide, 1), rtol=2e-3)


@pytest.mark.usefixtures("scipy_is_not_asked")
@pytest.mark.parametrize("axis", [2**70, (2**70,), np.uint64(2**63), Index(-3), (0, np.int8(2))], ids=repr)
@pytest.mark.parametrize("name", NAMES)
def test_axes_out_of_bounds_are_axis_errors(name, axis):
    with pytest.raises(np.exceptions.AxisError, match="out of bounds for array of dimension 2"):
        getattr(interop, name)(np.zeros((2, 2)), axis)


@given(data=st.data())
@pytest.mark.parametrize("name", NAMES)
def test_any_axes_of_any_types_give_what_the_core_gives(name, data):
    shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    x = np.random.default_rng(0).standard_normal(shape)
    d = len(shape)
    plain = tuple(data.draw(st.permutations(range(d)))[: data.draw(st.integers(0, d))])
    typed = tuple(
        kind(a - d * data.draw(st.booleans()) if kind in (int, Index, np.int8) else a)
        for a in plain
        for kind in [data.draw(st.sampled_from(INTEGERS))]
    )
    if len(plain) == 1 and data.draw(st.booleans()):
        plain, typed = plain[0], typed[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(interop, f"_scipy_{name}")
        got = getattr(interop, name)(x, typed)
    assert np.array_equal(got, getattr(csoftmax, name)(x, plain))


@pytest.mark.usefixtures("scipy_is_not_asked")
@pytest.mark.parametrize("name", NAMES)
def test_array_likes_stay_here(name):
    class Interface:
        values = np.array([1.0, 3.0, 2.0])
        __array_interface__ = values.__array_interface__

    class Row(np.ndarray):
        """A subclass like any other."""

    likes = [
        OwnArray([1.0, 3.0, 2.0]),
        Interface(),
        array.array("d", [1.0, 3.0, 2.0]),
        memoryview(np.array([1.0, 3.0, 2.0])),
        np.array([1.0, 3.0, 2.0]).view(Row),
        [np.float64(1.0), 3, 2],
        range(1, 4),
    ]
    for x in likes:
        a = np.asarray(x)
        assert np.array_equal(getattr(interop, name)(x, np.int64(0)), getattr(csoftmax, name)(a, 0))


@pytest.mark.usefixtures("scipy_is_not_asked")
@pytest.mark.parametrize("name", NAMES)
def test_integers_of_array_likes_do_not_wrap_around(name):
    values = [[1, 3], [200, 4]]
    got = getattr(interop, name)(OwnArray(values, np.uint8), axis=1)
    assert np.allclose(got, getattr(scipy.special, name)(np.array(values, float), 1), rtol=2e-3)


@pytest.mark.interop
@pytest.mark.usefixtures("scipy_is_not_asked")
@pytest.mark.parametrize("name", NAMES)
def test_pandas_and_xarray_stay_here(name):
    import pandas as pd
    import xarray as xr

    values = np.array([[1, 3], [200, 4]], np.uint8)
    want = getattr(interop, name)(values, 1)
    frame = pd.DataFrame(values, columns=["a", "b"])
    for x in frame, frame.astype("category").astype("uint8"), xr.DataArray(values):
        got = getattr(interop, name)(x, axis=np.int64(1))
        assert type(got) is np.ndarray
        assert np.array_equal(got, want)
    assert np.array_equal(getattr(interop, name)(frame["b"]), getattr(interop, name)(values[:, 1]))


@pytest.mark.usefixtures("scipy_is_not_asked")
def test_logsumexp_of_16_bits_is_summed_in_32():
    h = np.zeros(70000, np.float16)
    for axis in (None, 0, np.int64(0), (np.int8(0),), Index(-1)):
        assert interop.logsumexp(h, axis=axis) == np.float16(np.log(70000))
    assert interop.logsumexp(OwnArray(h, np.float16)) == np.float16(np.log(70000))


@pytest.mark.usefixtures("scipy_is_not_asked")
@pytest.mark.parametrize("name", NAMES)
def test_scalars_stay_here_and_print_no_warning(name):
    for x in (3, 3.0, np.inf, -np.inf, np.nan, np.float16(7), np.int8(-3), np.array(2.0)):
        for axis in (None, 0, np.int64(-1), ()):
            assert np.shape(getattr(interop, name)(x, axis)) in [(), (1,)]
    assert interop.logsumexp(True) == 1
    assert interop.logsumexp([True, False], axis=np.int8(0)) == np.log1p(np.e)


class OtherLibrary(OwnArray):
    def __array_namespace__(self, api_version=None):
        raise NotImplementedError


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("name", NAMES)
def test_what_is_handed_on_is_what_the_page_names(name, monkeypatch):
    asked = []
    monkeypatch.setattr(interop, f"_scipy_{name}", lambda *args: asked.append(args) or "SciPy's")
    two = np.array([1.0, 2.0])
    others = [two + 1j, two.astype("g"), two.astype(object), two.astype(ml_dtypes.float8_e4m3fn), np.zeros(0)]
    others += [np.ma.array(two), np.matrix(two), OtherLibrary(), ["text"], None, {}]
    calls = [(x, None) for x in others] + [(two, True), (two, np.True_), (two, 1.0), (two, [0]), (two, (0, True))]
    if name != "logsumexp":
        calls += [(two > 1, None), (2.0, 1), (2.0, (0,))]
    for x, axis in calls:
        assert getattr(interop, name)(x, axis) == "SciPy's"
    if name == "logsumexp":
        assert interop.logsumexp(two, 0, two) == interop.logsumexp(two, return_sign=True) == "SciPy's"
        calls += [two, two]
    assert len(asked) == len(calls)


@pytest.mark.peers
@pytest.mark.parametrize("name", NAMES)
def test_tensors_are_scipys(name, monkeypatch):
    import torch

    class Own(torch.Tensor):
        pass

    monkeypatch.setattr(interop, f"_scipy_{name}", lambda x, *args: type(x))
    for x in (torch.zeros(2), torch.zeros(2).as_subclass(Own), torch.nn.Parameter(torch.zeros(2))):
        assert getattr(interop, name)(x) is type(x)


@pytest.mark.parametrize("name", NAMES)
def test_errors_are_no_larger_than_scipys(name, isa, rng):
    for dtype in ("e", "f", "d"):
        x = exact_differences(rng, (1000, 300), dtype, spread=2)
        want = getattr(oracle, name)(x, 1)
        ours = oracle.max_ulp(getattr(interop, name)(x, 1), want)
        # known limit: in double precision both are within one ulp, and either may be ahead by a few hundredths
        slack = 0.1 if dtype == "d" else 0
        assert ours <= oracle.max_ulp(getattr(scipy.special, name)(x, 1), want) + slack, dtype


def test_log_softmax_keeps_the_bits_of_the_rows_beside_an_infinity(rng):
    x = rng.standard_normal((4, 6))
    want = interop.log_softmax(x, 1)
    x[2, 3] = np.inf
    got = interop.log_softmax(x, 1)
    assert np.array_equal(got[[0, 1, 3]], want[[0, 1, 3]])
    assert np.isnan(got[2, 3])
    assert (np.delete(got[2], 3) == -np.inf).all()


def test_may_be_put_in_scipys_place(monkeypatch):
    for name in NAMES:
        monkeypatch.setattr(scipy.special, name, getattr(interop, name))
        assert getattr(scipy.special, name)(np.array([1.0 + 1.0j, 2.0])).dtype == complex


def test_without_scipy_the_error_says_what_to_install():
    code = "import sys; sys.modules['scipy'] = None; import csoftmax.interop; import csoftmax.interop.scipy"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].startswith("ImportError: ")
    assert how_to_install("scipy") in run.stderr
