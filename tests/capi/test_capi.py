"""The C API: its bits are the Python functions', its table only grows, and C, C++ and Cython consumers compile.

A missing compiler fails these tests: nothing else shows that the headers are right.
"""

import ctypes
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import numpy as np
import oracle
import pytest
from arrays import DTYPES, FLOATS, MAX_ULP, SOFTMAX_ULP, Guarded, exact_differences
from setuptools._distutils import ccompiler, sysconfig

import csoftmax
from csoftmax import _capi

SOURCES = Path(__file__).parent / "consumers"
ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "interop" / "c.md"
SUFFIX = {"float32": "f32", "float64": "f64", "float16": "f16", "bfloat16": "bf16"}
OK, BAD_SHAPE, BAD_TEMPERATURE, BAD_TARGET, NO_MEMORY = range(5)

# ------------------------------------------------------------------------------- calls by the exported signature

_name_of = ctypes.pythonapi.PyCapsule_GetName
_name_of.restype, _name_of.argtypes = ctypes.c_char_p, [ctypes.py_object]
_address_of = ctypes.pythonapi.PyCapsule_GetPointer
_address_of.restype, _address_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]

C_TYPES = {"ptrdiff_t": ctypes.c_ssize_t, "int64_t": ctypes.c_int64, "double": ctypes.c_double}


def exported():
    """Signature and address of every function, by name."""
    names = {name: _name_of(capsule) for name, capsule in _capi.__pyx_capi__.items()}
    return {
        name: (signature.decode(), _address_of(_capi.__pyx_capi__[name], signature))
        for name, signature in names.items()
    }


EXPORTED = exported()


def function(name):
    signature, address = EXPORTED[name]
    arguments = re.fullmatch(r"int \((.*)\)", signature)[1].split(", ")
    types = [ctypes.c_void_p if a.endswith("*") else C_TYPES[a] for a in arguments]
    return ctypes.CFUNCTYPE(ctypes.c_int, *types)(address)


def operand(a):
    """Pointer and strides in elements, as they stand in the signatures."""
    assert all(stride % a.itemsize == 0 for stride in a.strides)
    return a.ctypes.data, *(stride // a.itemsize for stride in a.strides)


def call(operation, dtype, rows, n, *arguments):
    flat = [part for a in arguments for part in (operand(a) if isinstance(a, np.ndarray) else [a])]
    return function(f"{operation}_{SUFFIX[str(dtype)]}")(rows, n, *flat)


# ------------------------------------------------------------------------------------------------------- bits


def misaligned(a):
    memory = np.empty(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    memory[...] = a
    return memory


def packed(a):
    """As a field of packed records: strides that are no whole elements."""
    records = np.zeros(a.shape, [("tag", "u1"), ("value", a.dtype)])
    records["value"] = a
    return records["value"]


LAYOUTS = {
    "rows": np.array,
    "columns": lambda a: np.array(a, order="F"),
    "every third": lambda a: np.repeat(np.repeat(a, 3, 1), 2, 0)[::2, ::3],
    "backwards": lambda a: a[::-1, ::-1].copy()[::-1, ::-1],
    "misaligned": misaligned,
}
SHAPES = [(1, 1), (1, 10), (7, 3), (70, 1), (40, 10), (3, 33), (2, 70), (9, 1000), (2, 5000), (1, 30001)]
EVERY_DTYPE = pytest.mark.parametrize("dtype", FLOATS)
EVERY_LAYOUT = pytest.mark.parametrize("layout", LAYOUTS)
pytestmark = pytest.mark.usefixtures("isa")


def same_bits(got, want):
    return got.dtype == want.dtype and got.shape == want.shape and got.tobytes() == np.asarray(want).tobytes()


def logits(rng, shape, dtype):
    return (rng.standard_normal(shape) * 3).astype(dtype)


@EVERY_LAYOUT
@EVERY_DTYPE
def test_softmax_and_log_softmax(dtype, layout, rng):
    for shape in SHAPES:
        x = LAYOUTS[layout](logits(rng, shape, dtype))
        for name in ("softmax", "log_softmax"):
            for temperature in (1.0, 0.7, 1e-31, 3e35):
                y = LAYOUTS[layout](np.zeros_like(x))
                assert call(name, dtype, *shape, x, y, temperature) == OK
                want = getattr(csoftmax, name)(x, temperature=temperature)
                assert same_bits(y, want), (name, shape, temperature)


@EVERY_LAYOUT
@EVERY_DTYPE
def test_logsumexp(dtype, layout, rng):
    for rows, n in SHAPES:
        x = LAYOUTS[layout](logits(rng, (rows, n), dtype))
        y = np.zeros(2 * rows, dtype)[::-2]
        assert call("logsumexp", dtype, rows, n, x, y) == OK
        assert same_bits(y, csoftmax.logsumexp(x)), (rows, n)


@EVERY_LAYOUT
@EVERY_DTYPE
def test_backward(dtype, layout, rng):
    for shape in SHAPES:
        g, x = LAYOUTS[layout](logits(rng, shape, dtype)), logits(rng, shape, dtype)
        for name, forward in (("softmax", csoftmax.softmax), ("log_softmax", csoftmax.log_softmax)):
            p = LAYOUTS[layout](forward(x, temperature=0.7))
            dx = LAYOUTS[layout](np.zeros_like(x))
            for product in [f"{name}_backward"] + ["log_softmax_jvp"] * (name == "log_softmax"):
                assert call(product, dtype, *shape, g, p, dx, 0.7) == OK
                want = getattr(csoftmax, product)(g, p, temperature=0.7)
                assert same_bits(dx, want), (product, shape)


@pytest.mark.parametrize("layout", ["rows", "columns", "misaligned"])
@EVERY_DTYPE
def test_temperatures_of_any_size(dtype, layout, rng):
    for temperature in (5e-324, 1e-310, 1e-290, 1e-7, 1e301, 1.7976931348623157e308):
        for shape in ((1, 2), (7, 3), (40, 10), (9, 1000), (2, 5000)):
            x = LAYOUTS[layout](logits(rng, shape, dtype))
            for name in ("softmax", "log_softmax"):
                y, dx = LAYOUTS[layout](np.zeros_like(x)), LAYOUTS[layout](np.zeros_like(x))
                forward, backward = getattr(csoftmax, name), getattr(csoftmax, f"{name}_backward")
                assert call(name, dtype, *shape, x, y, temperature) == OK
                assert same_bits(y, forward(x, temperature=temperature)), (name, shape, temperature)
                p = LAYOUTS[layout](forward(x))
                assert call(f"{name}_backward", dtype, *shape, x, p, dx, temperature) == OK
                assert same_bits(dx, backward(x, p, temperature=temperature)), (name, shape, temperature)
    x, y = np.array([[0.0, -1.0]], "float64"), np.zeros((1, 2))
    assert call("log_softmax", "float64", 1, 2, x, y, 1e-308) == OK
    assert y[0, 1] == -1 / 1e-308


@EVERY_DTYPE
def test_a_scale_of_any_size(dtype, rng):
    for scale in (1e300, -1e293, 1.7976931348623157e308, 1e-310, 5e-324, np.inf):
        for rows, n in ((1, 2), (40, 10), (9, 1000)):
            x, target = logits(rng, (rows, n), dtype), rng.integers(0, n, rows)
            loss = np.zeros(rows, "float64" if dtype == "float64" else "float32")
            dx = np.zeros_like(x)
            assert call("cross_entropy_with_grad", dtype, rows, n, x, target, -1, loss, dx, scale) == OK
            want = csoftmax.cross_entropy_with_grad(x, target, reduction="none", grad_output=np.full(rows, scale))
            assert same_bits(loss, want[0]), (rows, n, scale)
            assert same_bits(dx, want[1]), (rows, n, scale)
    x, dx, loss = np.array([[0.0, 1.0]]), np.zeros((1, 2)), np.zeros(1)
    target = np.zeros(1, np.int64)
    assert call("cross_entropy_with_grad", "float64", 1, 2, x, target, -1, loss, dx, 1e300) == OK
    np.testing.assert_allclose(dx, [[-7.310585786300049e299, 7.310585786300049e299]], rtol=1e-15)


@EVERY_LAYOUT
@EVERY_DTYPE
def test_cross_entropy(dtype, layout, rng):
    for rows, n in SHAPES:
        x = LAYOUTS[layout](logits(rng, (rows, n), dtype))
        target = np.repeat(rng.integers(0, n, rows), 2)[::2]
        target[::5] = -7
        options = {"ignore_index": -7, "reduction": "none"}
        loss = np.full(2 * rows, np.nan, "float64" if dtype == "float64" else "float32")[::-2]
        assert call("cross_entropy", dtype, rows, n, x, target, -7, loss) == OK
        assert same_bits(loss, csoftmax.cross_entropy(x, target, **options)), (rows, n)
        loss[...] = np.nan
        dx = LAYOUTS[layout](np.zeros_like(x))
        assert call("cross_entropy_with_grad", dtype, rows, n, x, target, -7, loss, dx, 0.3) == OK
        want = csoftmax.cross_entropy_with_grad(x, target, grad_output=np.full(rows, 0.3), **options)
        assert same_bits(loss, want[0]), (rows, n)
        assert same_bits(dx, want[1]), (rows, n)


@pytest.mark.parametrize("layout", ["rows", "columns", "every third"])
@pytest.mark.parametrize("dtype", [*DTYPES, "float16"])
def test_rows_that_outgrow_the_stack(dtype, layout, rng):
    shapes = ((4, 2500), (2, 50001), (5, 50001)) + (((1, 2_100_001),) if layout == "rows" else ())
    for rows, n in shapes:
        x = LAYOUTS[layout](logits(rng, (rows, n), dtype))
        y, dx, total = np.zeros_like(x), np.zeros_like(x), np.zeros(rows, dtype)
        assert call("softmax", dtype, rows, n, x, y, 1.0) == OK
        assert same_bits(y, csoftmax.softmax(x)), (rows, n)
        assert call("softmax_backward", dtype, rows, n, x, y, dx, 1.0) == OK
        assert same_bits(dx, csoftmax.softmax_backward(x, y)), (rows, n)
        assert call("log_softmax", dtype, rows, n, x, dx, 1.0) == OK
        assert same_bits(dx, csoftmax.log_softmax(x)), (rows, n)
        assert call("logsumexp", dtype, rows, n, x, total) == OK
        assert same_bits(total, csoftmax.logsumexp(x)), (rows, n)
        target = rng.integers(0, n, rows)
        loss = np.zeros(rows, "float64" if dtype == "float64" else "float32")
        assert call("cross_entropy_with_grad", dtype, rows, n, x, target, -1, loss, dx, 1.0) == OK
        want = csoftmax.cross_entropy_with_grad(x, target, reduction="none")
        assert same_bits(loss, want[0]), (rows, n)
        assert same_bits(dx, want[1]), (rows, n)


@EVERY_DTYPE
def test_what_the_oracle_says(dtype, rng):
    """Guards the tests above against a library that is wrong in both ways of calling it."""
    for shape in ((40, 10), (9, 1000)):
        x = exact_differences(rng, shape, dtype)
        y, total = np.zeros_like(x), np.zeros(shape[0], dtype)
        assert call("softmax", dtype, *shape, x, y, 0.5) == OK
        assert oracle.max_ulp(y, oracle.softmax(x, temperature=0.5)) <= SOFTMAX_ULP[dtype]
        assert call("log_softmax", dtype, *shape, x, y, 0.5) == OK
        assert oracle.max_ulp(y, oracle.log_softmax(x, temperature=0.5)) <= MAX_ULP[dtype]
        assert call("logsumexp", dtype, *shape, x, total) == OK
        assert oracle.max_ulp(total, oracle.logsumexp(x)) <= MAX_ULP[dtype]


@EVERY_LAYOUT
@EVERY_DTYPE
def test_in_place_and_nothing_but_the_result_is_written(dtype, layout, rng):
    for shape in SHAPES:
        x = logits(rng, shape, dtype)
        target = np.zeros(shape[0], np.int64)
        loss = np.zeros(shape[0], "float64" if dtype == "float64" else "float32")
        memory = Guarded(shape, dtype, 16, fill=-9, values=x)
        assert call("softmax", dtype, *shape, memory.array, memory.array, 1.0) == OK
        assert same_bits(memory.array, csoftmax.softmax(x))
        assert memory.intact(), shape
        memory = LAYOUTS[layout](x)
        assert call("cross_entropy_with_grad", dtype, *shape, memory, target, -1, loss, memory, 1.0) == OK
        assert same_bits(memory, csoftmax.cross_entropy_with_grad(x, target, reduction="none")[1]), shape


@EVERY_DTYPE
def test_values_without_a_finite_sum(dtype):
    inf, nan = np.inf, np.nan
    x = np.array([[0, nan, 1], [0, inf, 1], [-inf, -inf, -inf], [-inf, 0, 0]], dtype)
    for name in ("softmax", "log_softmax"):
        y = np.zeros_like(x)
        assert call(name, dtype, 4, 3, x, y, 1.0) == OK
        assert same_bits(y, getattr(csoftmax, name)(x))


def test_small_stacks(rng):
    """The largest frames fit a thread of 512 KiB, the least that systems give."""
    x = logits(rng, (2, 40_001), "float32")
    y = np.zeros_like(x)
    status = []
    before = threading.stack_size(512 * 1024)
    try:
        thread = threading.Thread(target=lambda: status.append(call("softmax", "float32", 2, 40_001, x, y, 1.0)))
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    assert status == [OK]
    assert same_bits(y, csoftmax.softmax(x))


WITHOUT_MEMORY = """
import ctypes, resource, threading
import numpy as np
from test_capi import call, SUFFIX

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

def attempt(dtype, rows, n, columns=False):
    x = np.zeros((n, rows), dtype).T if columns else np.zeros((rows, n), dtype)
    y, total, target = np.zeros_like(x), np.zeros(rows, dtype), np.zeros(rows, np.int64)
    loss = np.zeros(rows, "float64" if dtype == "float64" else "float32")
    resource.setrlimit(resource.RLIMIT_AS, (4096, resource.RLIM_INFINITY))
    free_chunks = [*iter(lambda: libc.malloc(16384), None)]  # would serve in place of new memory
    status = (
        call("softmax", dtype, rows, n, x, y, 1.0),
        call("logsumexp", dtype, rows, n, x, total),
        call("log_softmax_backward", dtype, rows, n, x, x, y, 1.0),
        call("cross_entropy_with_grad", dtype, rows, n, x, target, -1, loss, y, 1.0),
    )
    for chunk in free_chunks:
        libc.free(chunk)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return status

def attempts():
    for dtype in SUFFIX:
        attempt(dtype, 2, 10)
        columns = [(8, 500), (600, 500), (600, 100), (128, 64), (600, 16), (5000, 3)]
        few = [status for shape in columns for status in attempt(dtype, *shape, columns=True)]
        print(*attempt(dtype, 1, 10_000 if dtype == "float32" else 3_000), *few)
        print(*attempt(dtype, 1, 1_000_000))
        print(*attempt(dtype, 1, 4_000_000))

thread = threading.Thread(target=attempts)  # its stack does not have to grow
thread.start()
thread.join()
"""


@pytest.mark.linux("only it holds a process to RLIMIT_AS")
def test_which_rows_need_the_heap():
    """As csoftmax.h says it; without memory to be had, the status says so."""
    folders = [ROOT, ROOT / "tests", Path(__file__).parent, os.environ.get("PYTHONPATH")]
    path = os.pathsep.join(os.fspath(folder) for folder in folders if folder)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_MEMORY],
        env=os.environ | {"PYTHONPATH": path, "CSOFTMAX_ISA": csoftmax.get_isa(), "MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    for dtype, enough, most, too_long in zip(SUFFIX, *[iter(done.stdout.splitlines())] * 3, strict=True):
        staged = csoftmax.explain("softmax_backward", np.zeros((2, 100), dtype))["staged"]
        assert enough == " ".join(28 * ["0"])
        assert most == f"0 0 0 {NO_MEMORY}"
        assert too_long == f"{NO_MEMORY} {NO_MEMORY} {NO_MEMORY if staged else 0} {NO_MEMORY}"


# ----------------------------------------------------------------------------------------- refused and empty


@EVERY_DTYPE
def test_refused(dtype):
    x = np.zeros((2, 3), dtype)
    y = np.full((2, 3), 9, dtype)
    loss = np.full(2, 9, "float64" if dtype == "float64" else "float32")
    for rows, n in ((-1, 3), (2, -3)):
        assert call("softmax", dtype, rows, n, x, y, 1.0) == BAD_SHAPE
        assert call("log_softmax", dtype, rows, n, x, y, 1.0) == BAD_SHAPE
        assert call("logsumexp", dtype, rows, n, x, y[:, 0]) == BAD_SHAPE
        assert call("softmax_backward", dtype, rows, n, x, x, y, 1.0) == BAD_SHAPE
        assert call("log_softmax_backward", dtype, rows, n, x, x, y, 1.0) == BAD_SHAPE
        assert call("log_softmax_jvp", dtype, rows, n, x, x, y, 1.0) == BAD_SHAPE
        assert call("cross_entropy", dtype, rows, n, x, np.array([0, 0]), -100, loss) == BAD_SHAPE
    for temperature in (0.0, -1.0, np.inf, np.nan):
        assert call("softmax", dtype, 2, 3, x, y, temperature) == BAD_TEMPERATURE
        assert call("softmax_backward", dtype, 2, 3, x, x, y, temperature) == BAD_TEMPERATURE
    for target in ([0, 3], [-1, 0], [-100, -101], [2**62, 0], [-(2**63), 0]):
        target = np.array(target)
        assert call("cross_entropy", dtype, 2, 3, x, target, -100, loss) == BAD_TARGET
        assert call("cross_entropy_with_grad", dtype, 2, 3, x, target, -100, loss, y, 1.0) == BAD_TARGET
    assert (y == 9).all()
    assert (loss == 9).all()


@EVERY_DTYPE
def test_empty(dtype):
    x, y = np.zeros((2, 3), dtype), np.full((2, 3), 9, dtype)
    for rows, n in ((0, 3), (2, 0), (0, 0)):
        assert call("softmax", dtype, rows, n, x, y, 1.0) == OK
        assert call("log_softmax_backward", dtype, rows, n, x, x, y, 1.0) == OK
    assert call("logsumexp", dtype, 0, 3, x, y[:, 1]) == OK
    assert (y == 9).all()
    assert call("logsumexp", dtype, 2, 0, x, y[:, 1]) == OK
    assert (y[:, 1] == -np.inf).all()
    assert (y[:, ::2] == 9).all()
    loss = np.full(2, 9, "float64" if dtype == "float64" else "float32")
    assert call("cross_entropy", dtype, 2, 0, x, np.array([-100, -100]), -100, loss) == OK
    assert (loss == 0).all()
    assert call("cross_entropy", dtype, 2, 0, x, np.array([-100, 0]), -100, loss) == BAD_TARGET


# --------------------------------------------------------------------------------------------------- consumers


def load(folder, name):
    [path] = [*folder.glob(f"{name}.*.so"), *folder.glob(f"{name}.*.pyd")]
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def as_installed(folder):
    """The package with those of its files that a wheel has: modules, built or not, and what pyproject.toml adds."""
    package = Path(csoftmax.__file__).parent
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    added = [f"{name.replace('.', '/')}/{pattern}" for name, patterns in data.items() for pattern in patterns]
    for pattern in ("csoftmax/**/*.py", "csoftmax/**/*.so", *added):
        for path in package.parent.glob(pattern):
            there = folder / path.relative_to(package.parent)
            there.parent.mkdir(parents=True, exist_ok=True)
            there.symlink_to(path)
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder in which the consumers were built, by the compiler that this Python names."""
    folder = tmp_path_factory.mktemp("capi") / "consumers"
    shutil.copytree(SOURCES, folder)
    package = as_installed(folder.parent / "site")
    # without the clone, whose files are not all in a wheel
    others = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    path = os.pathsep.join([os.fspath(package), *(p for p in others if not (Path(p) / "csoftmax").exists())])
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def consumer(built):
    return load(built, "consumer")


@pytest.fixture(params=["consumer_c", "consumer_cpp"])
def consumer_c(request, built):
    return load(built, request.param)


def recorded():
    """Name and signature of every function that was ever published, in the order of the table."""
    lines = (Path(__file__).parent / "signatures.txt").read_text().splitlines()
    return dict(line.split(": ") for line in lines if not line.startswith("#"))


def test_signatures():
    """Published signatures do not change: other packages have been compiled against them."""
    assert {name: signature for name, (signature, _) in EXPORTED.items()} == recorded()


def test_the_table_only_grows(consumer_c):
    """version, size and the functions in the order in which they were published, as the header lays them out."""
    version, size, functions = consumer_c.table()
    word = ctypes.sizeof(ctypes.c_void_p)
    # what memview.pxd calls is not in the table
    published = [name for name in recorded() if not name.startswith("memview_")]
    assert version == 2
    assert size == (2 + len(published)) * word
    assert functions == {name: ((2 + i) * word, EXPORTED[name][1]) for i, name in enumerate(published)}


@pytest.fixture
def capi_tool(monkeypatch, tmp_path):
    """tools/capi.py, made to work on copies of the files that it writes."""
    spec = importlib.util.spec_from_file_location("capi_tool", ROOT / "tools" / "capi.py")
    tool = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "capi_tool", tool)  # its dataclasses look for their module
    spec.loader.exec_module(tool)
    package = Path(csoftmax.__file__).parents[1]
    # test_signatures compares the source of the functions, which no wheel has
    installed = [name for name in tool.SECTIONS if (package / name).exists() or name != "csoftmax/_capi.pyx"]
    monkeypatch.setattr(tool, "SECTIONS", {name: tool.SECTIONS[name] for name in installed})
    for name in (*tool.SECTIONS, tool.RECORD):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy((package if name.startswith("csoftmax") else ROOT) / name, tmp_path / name)
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    return tool


def run_tool(monkeypatch, tool, *arguments):
    monkeypatch.setattr(sys, "argv", ["capi.py", *arguments])
    tool.main()


def test_signatures_stand_as_the_tool_writes_them(capi_tool, monkeypatch):
    run_tool(monkeypatch, capi_tool, "--check")


def test_a_line_that_is_missing_is_found_and_written(capi_tool, monkeypatch):
    for name in (*capi_tool.SECTIONS, capi_tool.RECORD):
        path = capi_tool.ROOT / name
        text = path.read_text()
        lines = text.splitlines(keepends=True)
        at = next((i + 2 for i, line in enumerate(lines) if capi_tool.BEGIN in line), -1)
        path.write_text("".join(lines[:at] + lines[at:][1:]))
        with pytest.raises(SystemExit, match=f"not as tools/capi.py writes them: {name}; run"):
            run_tool(monkeypatch, capi_tool, "--check")
        run_tool(monkeypatch, capi_tool)
        assert path.read_text() == text


def test_a_published_signature_may_not_change(capi_tool, monkeypatch):
    record = capi_tool.ROOT / capi_tool.RECORD
    record.write_text(record.read_text().replace("logsumexp_f64: int (ptrdiff_t, ", "logsumexp_f64: int (int, "))
    with pytest.raises(SystemExit, match=r"has logsumexp_f64: int \(int, .*, which may not change"):
        run_tool(monkeypatch, capi_tool)


def test_c_and_cpp(consumer_c, rng):
    x = logits(rng, (5, 10), "float32")
    y = np.zeros_like(x)
    assert consumer_c.log_softmax(x, y, 10) == OK
    assert same_bits(y, csoftmax.log_softmax(x))


def test_import_refuses_an_older_csoftmax(consumer_c, monkeypatch):
    assert consumer_c.reimport()
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    name = b"csoftmax._capi._C_API"
    for words in ([1, 1000], [2, 32]):
        older = (ctypes.c_size_t * 2)(*words)
        monkeypatch.setattr(_capi, "_C_API", new(ctypes.addressof(older), name, None))
        with pytest.raises(ImportError, match=f"version {words[0]} of its C API, but 2 is needed"):
            consumer_c.reimport()


def test_cython(consumer, rng):
    assert consumer.addresses() == {n: address for n, (_, address) in EXPORTED.items() if not n.startswith("memview_")}
    x = logits(rng, (10, 5), "float64").T
    y = np.zeros((5, 20))[:, ::2]
    consumer.log_softmax(x, y)
    assert same_bits(y, csoftmax.log_softmax(x))
    for run, dtype in ((consumer.softmax_half, "float16"), (consumer.softmax_brain, "bfloat16")):
        x = logits(rng, (3, 7), dtype)
        y = np.zeros_like(x)
        assert run(x.view(np.uint16), y.view(np.uint16)) == OK
        assert same_bits(y, csoftmax.softmax(x))


# ----------------------------------------------------------------------------------------- Cython's memoryviews

# Inputs of memview's functions; the last ones cannot be written to, or repeat their elements.
VIEWS = LAYOUTS | {
    "packed": packed,
    "read-only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
    "one row": lambda a: np.broadcast_to(a[:1], a.shape),
    "one element a row": lambda a: np.broadcast_to(a[:, :1], a.shape),
}
WRITABLE = [*LAYOUTS, "packed"]


@pytest.mark.parametrize("layout", VIEWS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_memoryviews(consumer, dtype, layout, rng):
    lay, lay_out = VIEWS[layout], VIEWS[layout if layout in WRITABLE else "rows"]
    for shape in SHAPES:
        x, g = lay(logits(rng, shape, dtype)), lay(logits(rng, shape, dtype))
        y, total = lay_out(np.zeros(shape, dtype)), packed(np.zeros(shape[0], dtype))[::-1]
        assert consumer.view_logsumexp(x, total) == OK
        assert same_bits(total, csoftmax.logsumexp(x)), shape
        for name in ("softmax", "log_softmax"):
            assert getattr(consumer, f"view_{name}")(x, y, 0.7) == OK
            p = lay(getattr(csoftmax, name)(x, temperature=0.7))
            assert same_bits(y, getattr(csoftmax, name)(x, temperature=0.7)), (name, shape)
            for product in (f"{name}_backward", f"{name}_jvp"):
                assert getattr(consumer, f"view_{product}")(g, p, y, 0.7) == OK
                assert same_bits(y, getattr(csoftmax, product)(g, p, temperature=0.7)), (product, shape)


@pytest.mark.parametrize("layout", VIEWS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_losses_of_memoryviews(consumer, dtype, layout, rng):
    lay, lay_out = VIEWS[layout], VIEWS[layout if layout in WRITABLE else "rows"]
    for rows, n in SHAPES:
        x, target = lay(logits(rng, (rows, n), dtype)), packed(rng.integers(0, n, rows))[::-1]
        target[::5] = -7
        loss, grad = packed(np.full(rows, np.nan, dtype))[::-1], lay_out(np.zeros((rows, n), dtype))
        options = {"ignore_index": -7, "reduction": "none"}
        assert consumer.view_cross_entropy(x, target, loss, -7) == OK
        assert same_bits(loss, csoftmax.cross_entropy(x, target, **options)), (rows, n)
        loss[...] = np.nan
        assert consumer.view_cross_entropy_with_grad(x, target, loss, grad, -7, 0.3) == OK
        want = csoftmax.cross_entropy_with_grad(x, target, grad_output=np.full(rows, 0.3), **options)
        assert same_bits(loss, want[0]), (rows, n)
        assert same_bits(grad, want[1]), (rows, n)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_the_oracle_says_of_memoryviews(consumer, dtype, rng):
    """Each result beside a wide one; errors of derivatives in ulps of the largest element."""
    for shape in ((40, 10), (9, 1000)):
        x, g = exact_differences(rng, shape, dtype), logits(rng, shape, dtype)
        y, each, target = np.zeros_like(x), np.zeros(shape[0], dtype), rng.integers(0, shape[1], shape[0])
        p, log_p = csoftmax.softmax(x), csoftmax.log_softmax(x)
        consumer.view_softmax(x, y, 0.5)
        assert oracle.max_ulp(y, oracle.softmax(x, temperature=0.5)) <= SOFTMAX_ULP[dtype]
        consumer.view_log_softmax(x, y, 0.5)
        assert oracle.max_ulp(y, oracle.log_softmax(x, temperature=0.5)) <= MAX_ULP[dtype]
        consumer.view_logsumexp(x, each)
        assert oracle.max_ulp(each, oracle.logsumexp(x)) <= MAX_ULP[dtype]
        for name, output, want in (
            ("softmax_backward", p, oracle.softmax_vjp(g, p)),
            ("softmax_jvp", p, oracle.softmax_vjp(g, p)),
            ("log_softmax_backward", log_p, oracle.log_softmax_vjp(g, log_p)),
            ("log_softmax_jvp", log_p, oracle.log_softmax_jvp(g, log_p)),
        ):
            getattr(consumer, f"view_{name}")(g, output, y, 1.0)
            assert oracle.max_ulp(y, want, np.abs(want).max()) <= MAX_ULP[dtype], name
        consumer.view_cross_entropy_with_grad(x, target, each, y, -100, 1.0)
        loss, grad, _ = oracle.cross_entropy(x, target, reduction="none")
        assert oracle.max_ulp(each, loss) <= MAX_ULP[dtype]
        assert oracle.max_ulp(y, grad, np.abs(grad).max()) <= MAX_ULP[dtype]


def arguments_of_views(dtype, rows, n):
    """By name, what a call of each function takes: arrays of 9, each of memory of its own, and numbers."""
    matrices = iter([np.full((rows, n), 9, dtype) for _ in range(30)])
    each = iter([np.full(rows, 9, dtype) for _ in range(9)])
    target = np.zeros(rows, np.int64)
    return {
        "softmax": [next(matrices), next(matrices), 1.0],
        "log_softmax": [next(matrices), next(matrices), 1.0],
        "logsumexp": [next(matrices), next(each)],
        "softmax_backward": [next(matrices), next(matrices), next(matrices), 1.0],
        "log_softmax_backward": [next(matrices), next(matrices), next(matrices), 1.0],
        "softmax_jvp": [next(matrices), next(matrices), next(matrices), 1.0],
        "log_softmax_jvp": [next(matrices), next(matrices), next(matrices), 1.0],
        "cross_entropy": [next(matrices), target, next(each), -100],
        "cross_entropy_with_grad": [next(matrices), target, next(each), next(matrices), -100, 1.0],
    }


def view_function(consumer, name, dtype):
    """A function of the consumer for one type: None does not tell it which."""
    return getattr(consumer, f"view_{name}")[{"float32": "float", "float64": "double"}[dtype]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_memoryviews_that_do_not_fit(consumer, dtype, capfd):
    """Each array in turn is longer or shorter than the others along each axis, and none at all."""
    for name, arguments in arguments_of_views(dtype, 3, 4).items():
        function = view_function(consumer, name, dtype)
        arrays = [a for a in arguments if isinstance(a, np.ndarray)]
        for i, a in enumerate(arrays):
            misfits = [a[:2], np.concatenate([a, a]), None]
            if sum(b.ndim == 2 for b in arrays) > 1 and a.ndim == 2:
                misfits += [a[:, :3], np.hstack([a, a]), a[:, :0]]
            for misfit in misfits:
                given = [misfit if b is a else b for b in arguments]
                assert function(*given) == BAD_SHAPE, (name, i, None if misfit is None else misfit.shape)
        assert all((a == 9).all() for a in arrays if a.dtype == dtype), name
        assert function(*arguments) == OK
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("dtype", DTYPES)
def test_memoryviews_that_are_refused(consumer, dtype, capfd):
    for name, arguments in arguments_of_views(dtype, 3, 4).items():
        function = view_function(consumer, name, dtype)
        for i, wrong in enumerate(arguments):
            if name.startswith("cross_entropy") and i == 1:
                given, status = [*arguments[:1], np.array([0, 4, 0]), *arguments[2:]], BAD_TARGET
            elif isinstance(wrong, float) and not name.startswith("cross_entropy"):
                given, status = [*arguments[:-1], -1.0], BAD_TEMPERATURE
            else:
                continue
            assert function(*given) == status, name
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("dtype", DTYPES)
def test_memoryviews_of_nothing(consumer, dtype, capfd):
    for rows, n in ((0, 4), (3, 0), (0, 0)):
        for name, arguments in arguments_of_views(dtype, rows, n).items():
            if name.startswith("cross_entropy"):
                arguments[1][...] = -100
            assert view_function(consumer, name, dtype)(*arguments) == OK, (name, rows, n)
            if name == "logsumexp":
                assert (arguments[1] == -np.inf).all()
            elif name.startswith("cross_entropy"):
                assert (arguments[2] == 0).all()
    assert capfd.readouterr().err == ""


def test_defaults_of_memoryviews(consumer):
    """A temperature and a scale of 1, and -100 for targets that are ignored."""
    x, target, loss, out = np.array([[0.0, 1.0]] * 2), np.array([-100, 1]), np.zeros(2), np.ones((2, 2))
    results = [np.full_like(x, np.nan) for _ in range(5)]
    assert consumer.view_defaults(x, target, loss, out, *results) == 7 * (OK,)
    want = csoftmax.cross_entropy_with_grad(x, target, reduction="none")
    assert same_bits(loss, want[0])
    assert same_bits(out, want[1])
    names = ["softmax", "log_softmax", "softmax_backward", "log_softmax_backward", "log_softmax_jvp"]
    for name, result in zip(names, results, strict=True):
        arguments = [x] if name.endswith("softmax") else [x, x]
        assert same_bits(result, getattr(csoftmax, name)(*arguments)), name


def test_the_page_names_every_function(capi_tool):
    text = PAGE.read_text()
    for function in capi_tool.TABLE:
        assert f"`{function.name}`" in text, function.name


# ------------------------------------------------------------------------------------------------ header and page


def test_the_header_stands_alone():
    """What consumers get is one header that includes none of the private ones."""
    header = (Path(csoftmax.get_include()) / "csoftmax" / "csoftmax.h").read_text()
    assert re.findall(r"#include\s+(\S+)", header.split("#ifndef CSOFTMAX_H")[1]) == [
        "<stddef.h>",
        "<stdint.h>",
        "<Python.h>",
    ]


def blocks_of_the_page(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def test_the_page_shows_what_is_compiled_here():
    [block] = blocks_of_the_page("cython")
    assert block in (SOURCES / "consumer.pyx").read_text()


def test_the_package_on_the_page_is_built_as_the_page_says(tmp_path, rng):
    for name, language in (("odds.c", "c"), ("setup.py", "python"), ("pyproject.toml", "toml")):
        [block] = blocks_of_the_page(language)
        (tmp_path / name).write_text(block)
    assert "pip install --no-build-isolation ." in PAGE.read_text("utf-8")
    options = ["-q", "--no-build-isolation", "--no-deps", "--no-index", "--disable-pip-version-check"]
    where = Path(csoftmax.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "--target", tmp_path / "site", "."],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(where), "CFLAGS": "-Wall -Wextra -Werror"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    odds = load(tmp_path / "site", "odds")
    x = logits(rng, (7, 10), "float32")
    y = np.zeros_like(x)
    odds.log_softmax(x, y, 10)
    assert same_bits(y, csoftmax.log_softmax(x))
    with pytest.raises(ValueError, match="csoftmax returned 1"):
        odds.log_softmax(x, y, 0)


def test_the_printed_folder_is_enough_for_a_compiler(tmp_path):
    shown = subprocess.run([sys.executable, "-m", "csoftmax", "--include"], capture_output=True, text=True, check=True)
    source = tmp_path / "size.c"
    source.write_text("#include <csoftmax/csoftmax.h>\nint size(void) { return (int)sizeof(csm_api); }\n")
    compiler = ccompiler.new_compiler()
    sysconfig.customize_compiler(compiler)
    assert compiler.compile([os.fspath(source)], output_dir=os.fspath(tmp_path), include_dirs=[shown.stdout.strip()])
