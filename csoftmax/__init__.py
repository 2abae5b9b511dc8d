"""Fast, accurate softmax and its family for NumPy arrays on the CPU."""

from csoftmax._version import __version__ as __version__

try:
    from csoftmax.api.derivative import (
        log_softmax_backward,
        log_softmax_jvp,
        softmax_backward,
        softmax_jacobian,
        softmax_jvp,
    )
    from csoftmax.api.explain import explain
    from csoftmax.api.forward import log_softmax, logsumexp, softmax
    from csoftmax.api.loss import cross_entropy, cross_entropy_with_grad
    from csoftmax.runtime import threadpoolctl as _threadpoolctl
    from csoftmax.runtime.core import get_num_threads, set_num_threads, threads
    from csoftmax.runtime.dispatch import get_isa, use_isa
    from csoftmax.runtime.info import get_include, runtime_info, show_runtime
except ModuleNotFoundError as error:
    if not str(error.name).startswith("csoftmax."):
        raise
    raise ImportError(
        f"csoftmax is imported from {__path__[0]}, where {error.name} is not built for this Python. If that is the "
        "source folder, start Python in another folder, so that the installed csoftmax is found; or build it there: "
        "pip install -e ."
    ) from error

_threadpoolctl.watch()

__all__ = [
    "cross_entropy",
    "cross_entropy_with_grad",
    "explain",
    "get_include",
    "get_isa",
    "get_num_threads",
    "log_softmax",
    "log_softmax_backward",
    "log_softmax_jvp",
    "logsumexp",
    "runtime_info",
    "set_num_threads",
    "show_runtime",
    "softmax",
    "softmax_backward",
    "softmax_jacobian",
    "softmax_jvp",
    "threads",
    "use_isa",
]
