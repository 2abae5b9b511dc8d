"""Other libraries are imported only on request, and a missing one is named together with its extra."""

import importlib
import re
import subprocess
import sys

import pytest

from csoftmax._extras import how_to_install

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
    with pytest.raises(ImportError, match=rf"{name} needs .*: {re.escape(how_to_install(extra))}"):
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
    """What would take longer than all else in it."""
    assert not modules_after("import csoftmax") & {"importlib.metadata", "email"}


def test_boosting_needs_neither_library():
    assert not modules_after("import csoftmax.interop.boosting") & {"lightgbm", "xgboost", "sklearn"}


TORCH = """
import numpy as np, torch, csoftmax
from csoftmax import interop
x = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
"""
TENSORS = {
    "bfloat16": ("x.bfloat16()", "a Tensor", "x.float().numpy()"),
    "requires grad": ("x.clone().requires_grad_()", "a Tensor", "x.detach().numpy()"),
    "both": ("x.bfloat16().requires_grad_()", "a Tensor", "x.detach().float().numpy()"),
    "parameter": ("torch.nn.Parameter(x)", "a Parameter", "x.detach().numpy()"),
    "negative bit": ("torch.complex(x, -x).conj().imag", "a Tensor", "x.resolve_neg().numpy()"),
}
# those that the module for tensors does not take either, with what to do
OTHER_TENSORS = {
    "sparse": ("x.to_sparse()", "Give x.to_dense().numpy()", "x.to_dense().numpy()"),
    "in a list": ("[x[0].clone().requires_grad_()]", "Use csoftmax.interop.torch on torch.stack(x)", None),
    "complex": ("torch.complex(x, x)", "take np.real(x) or np.abs(x) first", "np.real(x)"),
    "meta": ("x.to('meta')", "x is on the device meta: it has no numbers", None),
}


@pytest.mark.parametrize("kind", TENSORS)
@pytest.mark.parametrize("function", ["softmax", "log_softmax", "logsumexp"])
def test_tensors_that_numpy_cannot_take(kind, function):
    """The error names the module for tensors, and the array that can be had of it; both work."""
    tensor, named, advice = TENSORS[kind]
    names = {}
    exec(TORCH + f"x = {tensor}", names)
    core, x = getattr(names["csoftmax"], function), names["x"]
    with pytest.raises(TypeError, match=rf"NumPy cannot take x, {named}: .*Use csoftmax\.interop\.torch") as raised:
        core(x)
    assert "\n" not in str(raised.value)
    want = core([[1.0, 2.0, 3.0]])
    assert str(raised.value).endswith(f", or give {advice}")
    assert core(eval(advice, names)) == pytest.approx(want, rel=1e-2)
    got = getattr(names["interop"].torch, function)(x, -1)
    assert got.detach().double().numpy() == pytest.approx(want, rel=1e-2)


@pytest.mark.parametrize("kind", OTHER_TENSORS)
def test_tensors_that_need_something_else(kind):
    tensor, words, advice = OTHER_TENSORS[kind]
    names = {}
    exec(TORCH + f"x = {tensor}", names)
    core, want = names["csoftmax"].softmax, names["csoftmax"].softmax([[1.0, 2.0, 3.0]])
    with pytest.raises(TypeError, match=re.escape(words)):
        core(names["x"])
    if advice:
        assert core(eval(advice, names)) == pytest.approx(want, rel=1e-12)
    if kind == "in a list":
        stacked = names["torch"].stack(names["x"])
        assert names["interop"].torch.softmax(stacked, -1).detach().numpy() == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("argument", ["target", "weight", "grad_output", "logits"])
def test_tensors_as_other_arguments(argument):
    names = {}
    exec(TORCH, names)
    torch, core = names["torch"], names["csoftmax"]
    arguments = {"logits": [[1.0, 2.0, 3.0]], "target": [[0.0, 0.5, 0.5]], "weight": [1.0, 1.0, 2.0]}
    arguments["grad_output"] = 1.0
    tensor = torch.tensor(arguments[argument]).requires_grad_()
    with pytest.raises(TypeError, match=rf"NumPy cannot take {argument}.*or give {argument}\.detach\(\)\.numpy\(\)$"):
        core.cross_entropy_with_grad(**(arguments | {argument: tensor}))
    assert core.cross_entropy_with_grad(**(arguments | {argument: tensor.detach().numpy()}))[0] > 0


def test_what_is_traced_by_jax_and_autograd():
    import autograd
    import autograd.numpy
    import jax

    import csoftmax

    for trace, shape in ((jax.jit, (2, 3)), (jax.vmap, (2, 3)), (jax.grad, (3,))):
        with pytest.raises(TypeError, match=r"NumPy cannot take x.*Use csoftmax\.interop\.jax\b") as raised:
            trace(lambda x: csoftmax.softmax(x)[..., 0])(jax.numpy.zeros(shape))
        assert "\n" not in str(raised.value)
    with pytest.raises(TypeError, match=r"Use csoftmax\.interop\.autograd$"):
        autograd.grad(lambda x: csoftmax.softmax(x)[0])(autograd.numpy.zeros(3))


def test_out_may_lie_in_a_tensor():
    names = {}
    exec(TORCH, names)
    out = names["torch"].zeros(1, 3, dtype=names["torch"].float64)
    with pytest.raises(TypeError, match=r"out must be an ndarray, not Tensor; out\.numpy\(\) shares its memory"):
        names["csoftmax"].softmax(names["x"], out=out)
    names["csoftmax"].softmax(names["x"], out=out.numpy())
    assert out.sum() == pytest.approx(1)


def test_modules_are_imported_when_they_are_asked_for():
    loaded = modules_after("from csoftmax import interop; interop.scipy.softmax([1.0]); interop.boosting")
    assert {"csoftmax.interop.scipy", "csoftmax.interop.boosting"} <= loaded
    assert "csoftmax.interop.torch" not in loaded
    with pytest.raises(AttributeError, match=r"'csoftmax\.interop' has no attribute 'keras'; it has autograd, autoray"):
        importlib.import_module("csoftmax.interop").keras  # noqa: B018
