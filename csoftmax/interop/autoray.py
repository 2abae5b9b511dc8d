"""autoray: ``do("softmax", x)``, "log_softmax" and "logsumexp" by csoftmax, for NumPy's arrays and others'.

autoray looks a function up by name in the library of its argument. NumPy, JAX and dask have none of the three
where autoray looks; PyTorch has, but with `dim` where code for every library says `axis`.
"""

import functools
import importlib
from typing import Literal

import csoftmax
from csoftmax._extras import how_to_install

try:
    from autoray import register_function
except ModuleNotFoundError as error:
    raise ImportError(f"csoftmax.interop.autoray needs autoray: {how_to_install('autoray')}") from error

__all__ = ["register"]

_TORCH_OPTIONS = {"axis": "dim", "keepdims": "keepdim"}


def _with_numpys_options(function):
    """A function of PyTorch that knows `axis` and `keepdims` too."""

    @functools.wraps(function)
    def call(x, *args, **options):
        return function(
            x, *args, **{_TORCH_OPTIONS.get(name, name): value for name, value in options.items()}
        )

    return call


def register(backend: Literal["numpy", "torch", "jax", "dask"] = "numpy") -> None:
    """Let autoray compute softmax, log_softmax and logsumexp with csoftmax.

    Parameters
    ----------
    backend : {"numpy", "torch", "jax", "dask"}, optional
        The library whose arrays are meant, by autoray's name for it.

    Raises
    ------
    ValueError
        For a library that csoftmax has no functions for.
    ImportError
        If the library is not installed; the message names the extra.

    Examples
    --------
    >>> import numpy as np
    >>> from autoray import do
    >>> from csoftmax.interop.autoray import register
    >>> register()
    >>> do("softmax", np.array([1.0, 2.0, 3.0]), axis=0)
    array([0.09003057, 0.24472847, 0.66524096])
    """
    if backend not in ("numpy", "torch", "jax", "dask"):
        raise ValueError(f'backend must be "numpy", "torch", "jax" or "dask", not {backend!r}')
    module = csoftmax if backend == "numpy" else importlib.import_module(f"csoftmax.interop.{backend}")
    for name in "softmax", "log_softmax", "logsumexp":
        function = getattr(module, name)
        register_function(backend, name, _with_numpys_options(function) if backend == "torch" else function)
