"""autoray: csoftmax by name, for every library it has functions for, with NumPy's names of options."""

import autoray
import dask.array as da
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from autoray import do

import csoftmax
from csoftmax.interop.autoray import register

pytestmark = pytest.mark.interop

ARRAYS = {"numpy": np.array, "torch": torch.tensor, "jax": jnp.array, "dask": da.from_array}
NAMES = ["softmax", "log_softmax", "logsumexp"]


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch):
    """Registrations end with the test."""
    functions = autoray.autoray._FUNCS
    for backend in ARRAYS:
        for name in NAMES:
            monkeypatch.delitem(functions, (backend, name), raising=False)


@pytest.mark.parametrize("backend", ARRAYS)
def test_each_library(backend, rng):
    values = rng.standard_normal((3, 4)).astype("f4")
    x = ARRAYS[backend](values)
    register(backend)
    for name in NAMES:
        for options in {}, {"axis": 0}, *([{"axis": 1, "keepdims": True}] * (name == "logsumexp")):
            got = do(name, x, **options)
            assert type(got) is type(x)
            assert (np.asarray(got) == getattr(csoftmax, name)(values, **options)).all()


@pytest.mark.parametrize("backend", ["numpy", "jax", "dask"])
@pytest.mark.parametrize("axis", [[0, 1], (1,), None, np.int64(0)])
def test_options_of_the_functions(axis, backend, rng):
    """Masks, temperatures and lists of axes, as each library's function takes them."""
    values, where = rng.standard_normal((3, 4)).astype("f4"), np.array([True, False, True, True])
    x = ARRAYS[backend](values)
    register(backend)
    for name in "softmax", "log_softmax":
        got = do(name, x, axis=axis, where=where, temperature=0.5)
        assert (np.asarray(got) == getattr(csoftmax, name)(values, axis, where=where, temperature=0.5)).all()
    want = csoftmax.logsumexp(values, axis, where=where)
    assert (np.asarray(do("logsumexp", x, axis=axis, where=where)) == want).all()


def test_options_of_torch():
    register("torch")
    x = torch.ones(2, 3)
    assert do("logsumexp", x, dim=1, keepdim=True).shape == (2, 1)


def test_registers_what_is_named_only():
    register()
    with pytest.raises(ImportError, match="couldn't find function 'softmax' for backend 'dask'"):
        do("softmax", da.ones(3))


def test_other_libraries():
    with pytest.raises(ValueError, match=r'must be "numpy", "torch", "jax" or "dask", not \'cupy\''):
        register("cupy")
