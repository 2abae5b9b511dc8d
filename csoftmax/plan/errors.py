"""The words of errors: what was given, what was wanted, and what to do, which is tried before it is advised.

Nothing here runs unless something has gone wrong.
"""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# What other libraries call an argument, and what it is called here; None: the first argument.
OTHER_KEYWORDS: dict[str, str | None] = {
    **dict.fromkeys(("dim", "dims", "axes"), "axis"),
    **dict.fromkeys(("keepdim", "keep_dims"), "keepdims"),
    **dict.fromkeys(("input", "inputs", "a", "logits", "x"), None),
    **dict.fromkeys(("targets", "label", "labels"), "target"),
    **dict.fromkeys(("size_average", "reduce"), "reduction"),
    "mask": "where",
    "weights": "weight",
}
# Libraries whose arrays NumPy cannot always take, by the first part of their modules' names.
INTEROP = {"torch": "torch", "jax": "jax", "jaxlib": "jax", "autograd": "autograd"}
NOT_CONVERTED = (TypeError, ValueError, OverflowError)


def shown(value: object) -> str:
    """`repr` of an argument, on one line and short enough for a message."""
    try:
        text = " ".join(repr(value).split())
    except Exception:
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 60 else text[:57] + "..."


# ------------------------------------------------------------------------------------- what is no array of numbers


def no_array(name: str, given: object, error: Exception) -> Exception | None:
    """Return what to raise where NumPy made no array of an argument; None where NumPy's own `error` says it best."""
    module = _interop_module(given)
    if module is not None:
        problem = f"NumPy cannot take {name}, {_article(given)}: {_first_line(error)}"
        return TypeError(f"{problem}. {_array_of(name, given, module)}")
    if isinstance(error, ValueError):
        return ValueError(f"{name} cannot become an array: {error}")
    return None


def _interop_module(given: object) -> str | None:
    """Return the name in csoftmax.interop of the library that `given`, or its first element, belongs to."""
    while isinstance(given, list | tuple) and given:
        given = given[0]
    roots = [base.__module__.partition(".")[0] for base in type(given).__mro__]
    return next((INTEROP[root] for root in roots if root in INTEROP), None)


def _article(given: object) -> str:
    kind = type(given).__name__
    return f"{'an' if kind[0] in 'AEIOUaeiou' else 'a'} {kind}"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _array_of(name: str, given: Any, module: str) -> str:
    """Return who takes what NumPy does not: a module of csoftmax.interop, or csoftmax once it is an array."""
    if isinstance(given, list | tuple):
        stack = {"torch": "torch.stack", "jax": "jax.numpy.stack", "autograd": "autograd.numpy.stack"}[module]
        return f"Use csoftmax.interop.{module} on {stack}({name})"
    use = f"Use csoftmax.interop.{module}"
    if not hasattr(given, "detach"):
        return use
    if given.device.type == "meta":
        return f"{name} is on the device meta: it has no numbers"
    steps = [".detach()"] if given.requires_grad else []
    if given.device.type != "cpu":
        steps.append(".cpu()")
    if str(given.layout) != "torch.strided":
        return f"Give {name}{''.join(steps)}.to_dense().numpy()"
    if given.is_neg():
        steps.append(".resolve_neg()")
    if str(given.dtype) == "torch.bfloat16":
        steps.append(".float()")
    return f"{use}, or give {name}{''.join(steps)}.numpy()"


def masked(name: str) -> TypeError:
    """Return the error for a masked array: what each argument of it is to become."""
    cure = {
        "x": "pass x.data, and where=~np.ma.getmaskarray(x)",
        "where": "pass where.filled(False)",
        "logits": "pass logits.astype(np.float64).filled(-np.inf)",
        "target": "pass target.filled(k) and ignore_index=k, where k is no class, of class indices; "
        "target.filled(0) of probabilities",
    }.get(name, f"pass {name}.filled(0)")
    return TypeError(f"{name} is a masked array, which csoftmax does not take; {cure}")


def refuse(name: str, given: object, array: Array) -> TypeError:
    """Return the error for an argument that is, or became, an `array` of a dtype that is not taken."""
    if hasattr(given, "toarray") and array.ndim == 0:
        floats = ".astype(np.float64)" if name == "target" else ""
        problem = f"{name} is sparse, {_article(given)}, but zeros count as all numbers do"
        return TypeError(f"{problem}; pass {name}.toarray(){floats}")
    module = _interop_module(given)
    if module is not None and array.dtype.kind != "c":
        return TypeError(f"NumPy cannot take {name}, {_article(given)}. {_array_of(name, given, module)}")
    if hasattr(given, "dtype"):
        problem = f"{name} has dtype {array.dtype}"
    elif array.ndim == 0 and array.dtype.kind in "OSUT":
        return TypeError(f"{name} must be an array of numbers, not {shown(given)}")
    else:
        problem = f"{name} becomes an array of dtype {array.dtype}"
    return TypeError(f"{problem}, which csoftmax does not take; {_cure(name, given, array)}")


def _converted(name: str, given: object, dtype: str) -> str:
    """Return the expression that makes an argument an array of another dtype."""
    return f"{name}.astype(np.{dtype})" if hasattr(given, "astype") else f"np.array({name}, dtype=np.{dtype})"


def _cure(name: str, given: object, array: Array) -> str:
    """Return what can be done with an array of a dtype that is not taken."""
    dtype = array.dtype
    if dtype.kind == "c":
        return f"complex numbers have no order: take np.real({name}) or np.abs({name}) first"
    if dtype.kind in "mM":
        whole = name if hasattr(given, "astype") else f"np.array({name})"
        return f"convert it to numbers first: {whole}.astype(np.int64)"
    if dtype.names:
        fields = [f for f in dtype.names if dtype[f].kind in "biuf"] or list(dtype.names)
        return f"take one of its fields: {name}[{fields[0]!r}]"
    if dtype.type is np.void:
        if dtype.itemsize == 2:
            return f"if these are the bytes of bfloat16, as np.load returns it: {name}.view(ml_dtypes.bfloat16)"
        return f"its elements are bytes of a type that NumPy does not know: view it as that, {name}.view(dtype)"
    if dtype.kind in "OSUT":
        return _numbers_of(name, given, array)
    return f"convert it to a float dtype first: {_converted(name, given, 'float64')}"


def _numbers_of(name: str, given: object, array: Array) -> str:
    """Return how the objects or strings of an array become numbers, if they do."""
    if name == "target" and _are_integers(array):
        return f"class indices must be integers: {_converted(name, given, 'int64')}"
    if _works(lambda: array.astype(np.float64)):
        floats = _converted(name, given, "float64")
        if name == "target":
            return f"class indices must be integers, and class probabilities, of the logits' shape, floats: {floats}"
        return f"convert it to a float dtype first: {floats}"
    if name == "target" and _works(lambda: np.unique(array)):
        return (
            "class indices must be integers: classes, target = np.unique(target, return_inverse=True), "
            "where class i of the logits must be classes[i]"
        )
    if hasattr(given, "tolist") and _works(lambda: np.array(array.tolist(), np.float64)):
        return f"its elements are sequences: np.array({name}.tolist(), dtype=np.float64)"
    place, value = _first_without_number(array)
    if isinstance(value, list | tuple | np.ndarray):
        return (
            f"its elements are sequences of unlike lengths: make them rows of one array, padded, and leave the "
            f"padding out with where or {'ignore_index' if name == 'target' else '-np.inf'}"
        )
    return f"{name}[{', '.join(map(str, place))}] is {shown(value)}, which is no number"


def _first_without_number(array: Array) -> tuple[tuple[int, ...], Any]:
    """Return the place of the first element that is no number, and the element."""
    for place, value in np.ndenumerate(array):
        try:
            float(value)
        except NOT_CONVERTED:
            return place, value.item() if isinstance(value, np.generic) else value
    raise AssertionError("every element is a number")


def _works(conversion: Callable[[], object]) -> bool:
    try:
        conversion()
    except NOT_CONVERTED:
        return False
    return True


def _are_integers(array: Array) -> bool:
    """Do all elements convert to int64 without a loss?"""
    try:
        with np.errstate(all="ignore"):
            return bool(np.all(array.astype(np.int64) == array.astype(np.float64)))
    except NOT_CONVERTED:
        return False


# -------------------------------------------------------------------------------------------------------- targets


def wrong_target(given: object, target: Array, shape: tuple[int, ...], axis: int) -> Exception:
    """Return the error for a target that is neither class indices nor probabilities for logits of `shape`."""
    without = shape[:axis] + shape[axis + 1 :]
    floats = target.dtype.kind not in "biu"
    if target.dtype == bool:
        problem = "target must be integer class indices or float probabilities, not bool"
    elif floats:
        problem = (
            f"target has shape {target.shape} and dtype {target.dtype}, but class probabilities need the logits' "
            f"shape, {shape}"
        )
    else:
        problem = (
            f"target has shape {target.shape}, but class indices need the logits' shape without the class axis, "
            f"{without}"
        )
    cure = _target_cure(given, target, shape, axis, without)
    return (TypeError if target.dtype == bool else ValueError)(f"{problem}; {cure}" if cure else problem)


def _target_cure(given: object, target: Array, shape: tuple[int, ...], axis: int, without: tuple[int, ...]) -> str:
    """Return what makes a target of it, or an empty string."""
    floats = target.dtype.kind not in "biu"
    to_integers = _converted("target", given, "int64")
    if target.shape == shape and not floats:
        probabilities = f"class probabilities must be floats: {_converted('target', given, 'float64')}"
        one_hot = target.size > 0 and bool(np.all((target == 0) | (target == 1)) and np.all(target.sum(axis) == 1))
        return probabilities + (f", or one-hot classes as indices: np.argmax(target, axis={axis})" if one_hot else "")
    if target.shape == without:
        # of floats or bools
        return "class indices must be integers" + (f": {to_integers}" if _are_integers(target) else "")
    if target.ndim == len(shape) and target.shape[axis] == 1 and target.squeeze(axis).shape == without:
        squeezed = f"np.squeeze(target, axis={axis})"
        return f"drop its class axis: {squeezed}" + (".astype(np.int64)" if target.dtype.kind not in "iu" else "")
    fits = [
        d
        for d in range(len(shape))
        if not floats and target.shape == shape[:d] + shape[d + 1 :] and bool(np.all(target < shape[d]))
    ]
    return f"it fits axis={fits[0]}" if fits else ""


def no_class(target: Array, classes: int, ignored: int) -> IndexError | None:
    """Return the error for the first index that is neither a class nor ignored; None where every one is either."""
    valid = ((target >= 0) & (target < classes)) | (target == ignored)
    if valid.all():
        return None
    at, place = int(np.argmin(valid)), list(target.shape)
    for d in reversed(range(target.ndim)):
        at, place[d] = divmod(at, target.shape[d])
    problem = f"target{place or ''} is {target[tuple(place)]}"
    if classes == 0:
        return IndexError(f"{problem}, but the logits have no classes: their class axis has length 0")
    return IndexError(
        f"{problem}, which is neither a class index from 0 to {classes - 1} nor ignore_index ({shown(ignored)})"
    )


# ------------------------------------------------------------------------------------------------------- keywords


def other_keywords(function: Callable[..., object], names: tuple[str, ...]) -> str | None:
    """Return the message for a call with keywords of other libraries; None where none of `names` is one."""
    parameters = list(inspect.signature(function).parameters)
    told = []
    for name in names:
        if name in parameters:
            continue
        here = OTHER_KEYWORDS.get(name, "") or parameters[0] if name in OTHER_KEYWORDS else ""
        if here in parameters:
            told.append(f"{name!r}, which is called {here!r} here")
        elif name in ("b", "return_sign") and function.__name__ == "logsumexp":
            told.append(f"{name!r}, which csoftmax.interop.scipy.logsumexp has")
    if not told:
        return None
    return f"{function.__name__}() got an unexpected keyword argument {'; and '.join(told)}"
