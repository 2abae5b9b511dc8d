"""How a call would be worked on: `explain`."""

import inspect
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

import csoftmax.api.derivative as derivative
import csoftmax.api.forward as forward
import csoftmax.api.loss as loss
import csoftmax.plan.losses as _losses
import csoftmax.plan.operations as _operations
import csoftmax.plan.strategy as _strategy
from csoftmax.plan import errors as _advice

_FORWARD = ("softmax", "log_softmax", "logsumexp")
# Of the derivatives: the plan's operation, and what it calls the first array.
_BACKWARD = {
    "softmax_backward": ("softmax_grad", "grad_output"),
    "softmax_jvp": ("softmax_grad", "tangent"),
    "log_softmax_backward": ("log_softmax_vjp", "grad_output"),
    "log_softmax_jvp": ("log_softmax_jvp", "tangent"),
}
_WITH_GRADIENT = {"cross_entropy": False, "cross_entropy_with_grad": True}
_OPERATIONS = [*_FORWARD, *_BACKWARD, *_WITH_GRADIENT]


def explain(operation: str, x: ArrayLike, axis: Any = -1, **options: Any) -> dict[str, Any]:
    """Tell how a call of a function would be worked on, without doing it.

    What is told is what the call itself would choose, at the ISA level and with the threads in force. It changes none
    of the result's bits but through the dtype and the ISA level.

    Parameters
    ----------
    operation : str
        The name of a function: ``"softmax"``, ``"log_softmax"``, ``"logsumexp"``, ``"softmax_backward"``,
        ``"softmax_jvp"``, ``"log_softmax_backward"``, ``"log_softmax_jvp"``, ``"cross_entropy"`` or
        ``"cross_entropy_with_grad"``.
    x : array_like
        Its first argument. The second one of the derivatives, `output`, is taken to be like it, and `target` of the
        losses to be one class index a row, unless they are among the `options`.
    axis : int, tuple of ints or None, optional
        The function's `axis`.
    **options
        The function's other arguments, by keyword.

    Returns
    -------
    dict
        ``strategy``: ``"single row"``, ``"packed rows"``, ``"row batch"``, ``"split row"`` or ``"column tiles"``, as
        the page "How it works" describes them, or None where there is nothing to do; ``isa``: the level;
        ``dtype``: that of the arithmetic; ``threads``: how many would work on it now; ``tile``: columns of a tile, or
        None where there are no tiles; ``streams``: whether results are stored past the caches; ``staged``: False, or
        why operands are copied to scratch before the kernels see them, a few rows or columns at a time:
        ``"integers"``, ``"16-bit floats"``, ``"dtypes"`` (an operand is of another precision than the arithmetic),
        ``"byte order"``, ``"mask"``, ``"temperature"`` (an extreme one), ``"alignment"`` or ``"strides"``.

    Raises
    ------
    ValueError
        For an operation that is none of the above; and as the function itself.
    TypeError
        For an option that the function does not have; and as the function itself.

    Notes
    -----
    `out` is not written to. Integers of 64 bits are read, as their largest decides how they are subtracted. How many
    threads work also depends on whether other threads of the machine are busy.

    Examples
    --------
    >>> import csoftmax
    >>> import numpy as np
    >>> csoftmax.explain("softmax", np.zeros((1000, 10)))["strategy"]
    'packed rows'
    >>> csoftmax.explain("softmax", np.zeros((1000, 100), "float32"), axis=0)["strategy"]
    'column tiles'
    >>> csoftmax.explain("logsumexp", np.zeros((2, 3)), where=[True, False, True])["staged"]
    'mask'
    """
    if not isinstance(operation, str):
        raise TypeError(f"operation must be the name of a function, not {_advice.shown(operation)}")
    if operation not in _OPERATIONS:
        cause = " (softmax_jacobian is made by NumPy)" if operation == "softmax_jacobian" else ""
        raise ValueError(f"operation {operation!r} is none of {', '.join(_OPERATIONS)}{cause}")
    told: dict[str, Any] = _strategy.nothing_chosen()
    _ask(operation, _arguments(operation, x, axis, options), told)
    return told


def _arguments(operation: str, x: ArrayLike, axis: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Return all of the function's arguments by name, with its defaults and a second array where it takes one."""
    function = getattr(forward if operation in _FORWARD else derivative if operation in _BACKWARD else loss, operation)
    signature = inspect.signature(function)
    given = {"axis": axis} | options
    if operation in _BACKWARD:
        given = {"output": x} | given
    if operation in _WITH_GRADIENT and "target" not in given:
        given["target"] = _targets(x, axis)
    try:
        bound = signature.bind(x, **given)
    except TypeError as error:
        message = _advice.other_keywords(function, tuple(options)) or f"{operation}() {error}"
        raise TypeError(message) from None
    bound.apply_defaults()
    return bound.arguments


def _targets(logits: ArrayLike, axis: Any) -> Any:
    """Return class 0 for each row; what is no array, or no axis of it, is for the function to refuse."""
    try:
        return np.zeros(np.delete(np.shape(logits), axis), np.int64)
    except Exception:
        return np.zeros(0, np.int64)


def _ask(operation: str, arguments: dict[str, Any], told: dict[str, Any]) -> None:
    """Have the plan fill `told`; it fills nothing where there is nothing to do."""
    values = list(arguments.values())
    if operation == "logsumexp":
        _operations.logsumexp(*values, told)
    elif operation in _FORWARD:
        _operations.forward(_operations.OPERATIONS[operation], *values, told)
    elif operation in _BACKWARD:
        name, first = _BACKWARD[operation]
        _operations.backward(_operations.OPERATIONS[name], *values, first, told)
    else:
        order = ["logits", "target", "axis", "weight", "ignore_index", "label_smoothing", "reduction"]
        gradient = (arguments["grad_output"], arguments["out"]) if _WITH_GRADIENT[operation] else None
        _losses.cross_entropy(*(arguments[name] for name in order), gradient, told)
