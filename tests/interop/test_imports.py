"""Other libraries are imported only on request, and a missing one is named together with its extra."""

import importlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.interop

NEEDS = [
    ("torch", "torch", "torch"),
    ("torch", "ml_dtypes", "torch"),
    ("thinc", "thinc.backends.numpy_ops", "thinc"),
    ("dask", "dask.array", "dask"),
    ("sklearn", "sklearn.utils", "sklearn"),
    ("onnx", "onnx.reference.op_run", "onnx"),
    ("scipy", "scipy.special", "scipy"),
    ("autograd", "autograd.numpy", "autograd"),
    ("numba", "numba", "numba"),
    ("jax", "jax", "jax"),
    ("autoray", "autoray", "autoray"),
]


@pytest.mark.parametrize(("module", "missing", "extra"), NEEDS)
def test_missing_library(module, missing, extra, monkeypatch):
    name = f"csoftmax.interop.{module}"
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=rf"{name} needs .*: pip install 'csoftmax\[{extra}\]'"):
        importlib.import_module(name)


def modules_after(statement):
    script = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_csoftmax_imports_none():
    libraries = {
        "scipy",
        "torch",
        "jax",
        "numba",
        "ml_dtypes",
        "lightgbm",
        "xgboost",
        *(missing.split(".")[0] for _, missing, _ in NEEDS),
    }
    loaded = modules_after("import csoftmax, csoftmax.interop")
    assert "csoftmax.interop" in loaded
    assert not {name for name in loaded if name.startswith("csoftmax.interop.")}
    assert not loaded & libraries


def test_import_is_quick():
    """What would take longer than all else in it, and is needed only when asked for the version."""
    assert not modules_after("import csoftmax") & {"importlib.metadata", "email"}


def test_boosting_needs_neither_library():
    assert not modules_after("import csoftmax.interop.boosting") & {"lightgbm", "xgboost", "sklearn"}
