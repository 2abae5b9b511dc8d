"""csoftmax inside other libraries: one module a library, which only that module imports."""

import importlib
from types import ModuleType

_MODULES = (
    *("autograd", "autoray", "boosting", "dask", "jax", "numba"),
    *("onnx", "scipy", "sklearn", "thinc", "torch"),
)


def __getattr__(name: str) -> ModuleType:
    """Import one of the modules when it is first asked for."""
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(_MODULES)}")
