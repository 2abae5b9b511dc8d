"""`explain` tells what a call does: as the documentation's table has it, and as the kernels are told."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import ml_dtypes  # noqa: F401 (gives NumPy the name "bfloat16")
import numpy as np
import pytest

import csoftmax
from csoftmax import explain
from csoftmax.plan import strategy as _strategy

ROOT = Path(__file__).parents[2]
KEYS = {"strategy", "isa", "dtype", "threads", "tile", "streams", "staged"}
DERIVATIVES = ["softmax_backward", "softmax_jvp", "log_softmax_backward", "log_softmax_jvp"]
LOSSES = ["cross_entropy", "cross_entropy_with_grad"]
OPERATIONS = ["softmax", "log_softmax", "logsumexp", *DERIVATIVES, *LOSSES]
BUILD = """
from Cython.Build import cythonize
from setuptools import Extension, setup
extension = Extension("strategy_spy", ["strategy_spy.pyx"], extra_compile_args=["-O1"])
setup(name="strategy_spy", ext_modules=cythonize([extension], include_path=[ROOT], language_level=3))
"""


def table(heading):
    """The rows of the table of docs/how.md whose first column has that heading, as lists of cells."""
    lines = (ROOT / "docs" / "how.md").read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    rows = []
    for line in lines[first + 2 :]:
        if not line.startswith("|"):
            return rows
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    raise AssertionError("the table ends the page")


def example(row):
    return row[2].strip("`")


def numbers(row):
    return [int(n) for n in re.findall(r"\d+", row[1])]


STRATEGIES = {row[0]: row for row in table("strategy")}


# ------------------------------------------------------------------------------------------- the documentation's table


def test_the_table_has_every_strategy():
    assert list(STRATEGIES) == list(_strategy.STRATEGIES.values())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_each_example_of_the_table(isa, strategy):
    told = eval(example(STRATEGIES[strategy]), {"explain": explain, "np": np})
    assert told["strategy"] == strategy
    assert told.keys() == KEYS
    assert told["isa"] == isa
    assert told["staged"] is False


@pytest.mark.parametrize("row", table("key"), ids=lambda row: row[0])
def test_each_example_of_what_stands_beside(row):
    script = f"import numpy as np; from csoftmax import explain; print({example(row)}[{row[0]!r}])"
    for size, expected in (("1000000", {"streams": "True", "staged": "integers"}), ("1" + 17 * "0", {})):
        environment = os.environ | {"CSOFTMAX_STREAM_BYTES": size, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == expected.get(row[0], {"streams": "False", "staged": "integers"}[row[0]])


def strategy_of(operation, shape, dtype="f4", **options):
    return explain(operation, np.zeros(shape, dtype), **options)["strategy"]


def test_lengths_of_a_single_row(isa):
    most, wide, derivative = (numbers(STRATEGIES["single row"])[i] for i in (0, 2, 3))
    assert numbers(STRATEGIES["single row"])[1] == 64  # of "float64"
    for operation, dtype, n in (
        ("softmax", "f4", most),
        ("softmax", "f8", wide),
        ("softmax_backward", "f4", derivative),
        ("softmax_jvp", "f8", derivative),
    ):
        assert strategy_of(operation, n, dtype) == "single row", (operation, dtype)
        assert strategy_of(operation, n + 1, dtype) == "row batch", (operation, dtype)
        assert strategy_of(operation, (2, n), dtype) == "row batch", (operation, dtype)


def test_lengths_of_packed_rows(isa):
    [most] = numbers(STRATEGIES["packed rows"])
    for operation in OPERATIONS:
        assert strategy_of(operation, (100, most)) == "packed rows", operation
        assert strategy_of(operation, (100, most + 1)) == "row batch", operation


def test_lengths_of_split_rows(isa):
    always, least = numbers(STRATEGIES["split row"])
    for operation in set(OPERATIONS) - set(LOSSES):
        assert strategy_of(operation, (70_000_000 // always, always)) == "split row", operation
        with csoftmax.threads(1):
            assert strategy_of(operation, always - 1) == "row batch", operation
        assert strategy_of(operation, least - 1) == "row batch", operation


def test_a_row_is_split_where_there_are_fewer_rows_than_threads(isa):
    """How many threads there are depends on what else the machine does."""
    _, least = numbers(STRATEGIES["split row"])
    for rows in range(1, 4):
        with csoftmax.threads(3):
            told = explain("softmax", np.zeros((rows, 2 * least)))
        assert told["strategy"] == "row batch" if told["threads"] == 1 or rows == 3 else "split row"


# --------------------------------------------------------------------------------------- what the kernels are told


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The module that looks at what the kernels are given."""
    folder = tmp_path_factory.mktemp("spy")
    (folder / "strategy_spy.pyx").write_text((Path(__file__).parent / "strategy_spy.pyx").read_text())
    (folder / "setup.py").write_text(BUILD.replace("ROOT", repr(os.fspath(ROOT))))
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module("strategy_spy")
    finally:
        sys.path.remove(str(folder))


@pytest.fixture
def spy(built, isa):
    """Looking at the level in use."""
    built.wrap(*(importlib.import_module(f"csoftmax.kernels.isa.{isa}_f{bits}").TABLE for bits in (32, 64)))
    yield built
    built.unwrap()


def arrays():
    """Arrays and axes, options of all operations: of every strategy, and of every reason to stage."""
    for dtype in ("f4", "f8"):
        for shape in ((10,), (17,), (40,), (3, 10), (8, 10), (300, 64), (5, 65), (70, 1000), (2, 30_000), (2, 300_000)):
            yield np.zeros(shape, dtype), -1
        for shape in ((10, 3), (10, 4), (64, 40), (1000, 70), (3, 50, 20)):
            yield np.zeros(shape, dtype), -2
        yield np.zeros((30, 40, 50), dtype)[:, ::2, ::3], (0, 2)
        yield np.zeros((30, 400), dtype)[:, ::2], -1
        yield np.zeros((30, 400), dtype).astype(np.dtype(dtype).newbyteorder()), -1
        yield np.zeros(30 * 400 * 8 + 1, "u1")[1:].view(dtype).reshape(-1, 400), -1
        yield np.zeros((3, 0), dtype), -1
    for dtype in ("f2", "bfloat16", "i8", "u1"):
        yield np.zeros((100, 10), dtype), -1
        yield np.zeros((100, 100), dtype), -1
        yield np.zeros((100, 100), dtype), 0
        yield np.zeros((1, 300_000), dtype), -1
    yield np.full((20, 30), 2**60), -1


def options_of(operation, x):
    yield {}
    if operation in ("softmax", "log_softmax", *DERIVATIVES):
        yield {"temperature": 2.5}
        yield {"temperature": 1e-300}
    if operation not in LOSSES:
        yield {"where": np.ones(x.shape, bool)}
    if operation in ("softmax", "log_softmax", "logsumexp"):
        yield {"dtype": "f8"}
    if operation in LOSSES:
        yield {"reduction": "none"}
        yield {"label_smoothing": 0.1}
        yield {"weight": np.ones(x.shape[-1])} if x.shape[-1:] == x.shape[-2:-1] else {}
    if operation not in ("logsumexp", "cross_entropy") and x.dtype.kind == "f":
        yield {"out": np.zeros(x.shape, x.dtype.newbyteorder("="))}


def call(operation, x, axis, options):
    second = [x] if operation in DERIVATIVES else []
    if operation in LOSSES:
        second = [np.zeros(np.delete(x.shape, axis), int)]
    return getattr(csoftmax, operation)(x, *second, axis=axis, **options)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_kernels_are_told_what_explain_tells(spy, operation):
    strategies = set()
    for x, axis in arrays():
        if operation in LOSSES and (isinstance(axis, tuple) or (x.size == 0)):
            continue
        for options in options_of(operation, x):
            with csoftmax.threads(1):
                spy.seen()
                told = explain(operation, x, axis, **options)
                assert spy.seen() is None, "explain ran something"
                call(operation, x, axis, options)
            seen = spy.seen()
            case = x.shape, x.dtype, axis, options.keys(), told
            strategies.add(told["strategy"])
            if seen is None:
                assert (told["strategy"], x.size) == (None, 0), case
                continue
            function, problem = seen
            if function == "single":
                assert told["strategy"] == "single row", case
                continue
            strategy, wide, threads, width, stream, staged = problem
            assert (function == "measure") == (told["strategy"] == "split row"), case
            assert _strategy.STRATEGIES[strategy] == told["strategy"], case
            assert ("float64" if wide else "float32") == told["dtype"], case
            assert threads == told["threads"] == 1, case
            assert (width if told["strategy"] == "column tiles" else None) == told["tile"], case
            assert stream == told["streams"], case
            assert _strategy.REASONS[staged] == told["staged"], case
    expected = {"packed rows", "row batch", "column tiles", None}
    if operation in LOSSES:
        expected -= {None}
    else:
        expected |= {"split row"}
    if operation in ("softmax", "softmax_backward", "softmax_jvp"):
        expected |= {"single row"}
    assert strategies == expected


def test_a_single_row_that_needs_more_is_worked_on_as_a_batch(spy):
    """Its exponentials span more than registers take: the kernel finds that out, and nobody else does."""
    x = np.full(10, 3e38, "f4")
    assert csoftmax.softmax(x).sum() == pytest.approx(1)
    assert spy.seen()[0] == "run"


# ------------------------------------------------------------------------------------------------------------- reasons


@pytest.mark.parametrize(
    ("x", "options", "reason"),
    [
        (np.zeros((5, 6), "i4"), {}, "integers"),
        (np.zeros((5, 6), "f2"), {}, "16-bit floats"),
        (np.zeros((5, 600), "f2"), {"dtype": "f4"}, "16-bit floats"),
        (np.zeros((5, 600), "f4"), {"dtype": "f8"}, "dtypes"),
        (np.zeros((5, 600), ">f4"), {}, "byte order"),
        (np.zeros((5, 60), "f4"), {"where": [True] * 60}, "mask"),
        (np.zeros((5, 600), "f4"), {"temperature": 1e-300}, "dtypes"),
        (np.zeros((5, 600), "f8"), {"temperature": 1e-300}, "temperature"),
        (np.zeros(2401, "u1")[1:].view("f4"), {}, "alignment"),
        (np.zeros((5, 600), "f8")[:, ::-1], {}, "strides"),
        (np.zeros((2, 3, 4), "f8"), {"axis": (0, 2)}, "strides"),
        (np.zeros((5, 600), "f8"), {"axis": 0}, False),
        (np.zeros((5, 600), "f8").T, {"axis": 0}, False),
    ],
    ids=str,
)
def test_why_operands_are_staged(isa, x, options, reason):
    assert explain("softmax", x, **options)["staged"] == reason


def test_rows_of_16_bit_floats_are_converted_where_they_lie_if_the_level_can(isa):
    staged = explain("log_softmax", np.zeros((5, 600), "f2"))["staged"]
    assert staged == ("16-bit floats" if isa == "baseline" else False)


def test_masked_rows_are_loaded_where_they_lie(isa):
    where = np.ones(1200, bool)
    for dtype in ("f4", "f8"):
        x = np.zeros((5, 600), dtype)
        assert explain("softmax", x, where=where[:600])["staged"] is False
        assert explain("logsumexp", x, where=where[:1])["staged"] is False
        assert explain("softmax", x, where=where[::2])["staged"] == "mask"
        assert explain("softmax_backward", x, where=where[:600])["staged"] == "mask"
        assert explain("softmax", x, where=where[:600], temperature=1e-300)["staged"] == (
            "dtypes" if dtype == "f4" else "mask"
        )


def test_out_and_inputs_stay_as_they_are(rng):
    for operation in set(OPERATIONS) - {"cross_entropy", "logsumexp"}:
        x, out = rng.random((7, 5)), np.full((7, 5), 3.0)
        before = x.copy()
        assert explain(operation, x, out=out)["strategy"] == "packed rows"
        assert (out == 3).all()
        assert (x == before).all()
    out = np.full(0, 3.0)
    assert explain("logsumexp", np.zeros((0, 0)), out=out)["strategy"] is None
    out = np.full(3, 3.0)
    assert explain("logsumexp", np.zeros((3, 0)), out=out)["threads"] == 0
    assert (out == 3).all()


def test_a_second_array_may_be_given():
    x = np.zeros((50, 5))
    assert explain("softmax_backward", x, output=x.astype("f4"))["staged"] == "dtypes"
    assert explain("cross_entropy", x, target=np.full(x.shape, 0.2))["strategy"] == "packed rows"


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (("softmin", 1.0), {}, ValueError, "operation 'softmin' is none of softmax, log_softmax, logsumexp, softmax_b"),
        (("softmax_jacobian", 1.0), {}, ValueError, "made by NumPy"),
        ((csoftmax.softmax, 1.0), {}, TypeError, "operation must be the name of a function, not <"),
        (("softmax", [1.0, 2.0]), {"target": 3}, TypeError, r"softmax\(\) got an unexpected keyword argument 'target'"),
        (("softmax", [1.0, 2.0]), {"dim": 3}, TypeError, r"softmax\(\) .*'dim', which is called 'axis' here"),
        (("softmax", [1.0, 2.0]), {"temperature": -1}, ValueError, "temperature must be positive and finite, not -1"),
        (("softmax", ["a"]), {}, TypeError, "which is no number"),
        (("softmax", [1.0, 2.0], 1), {}, np.exceptions.AxisError, "axis 1 is out of bounds"),
        (("cross_entropy", [[1.0, 2.0]], 2), {}, np.exceptions.AxisError, "axis 2 is out of bounds"),
        (("cross_entropy", [[1.0, 2.0]], None), {}, TypeError, "axis must be an integer"),
        (("cross_entropy", [[1.0, 2.0]]), {"target": [2]}, IndexError, r"target\[0\] is 2"),
        (("cross_entropy", [[1.0], [2.0, 3.0]]), {}, ValueError, "logits cannot become an array"),
        (("softmax", [1.0, 2.0]), {"out": np.zeros(3)}, ValueError, "out has shape"),
    ],
    ids=str,
)
def test_errors(arguments, options, error, message):
    with pytest.raises(error, match=message):
        explain(*arguments, **options)
