"""The family for dask arrays: lazy, of any chunking, for arrays larger than one machine's memory.

Where no chunk border crosses the axis, each block is csoftmax's own. Where one does, each block is at first
a softmax by itself, with the maximum and the sum of exponentials of its part of each row. A tree joins these
pairs, the only thing that leaves a worker, and the joined pair corrects the block.

Arguments are checked at once, by csoftmax itself: on arrays of no elements, of the same types.
"""

import functools
from typing import Literal, SupportsIndex, TypeAlias

import numpy as np
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple
from numpy.typing import ArrayLike, DTypeLike

import csoftmax
from csoftmax._extras import how_to_install

try:
    import dask.array as da
except ModuleNotFoundError as error:
    raise ImportError(f"csoftmax.interop.dask needs dask: {how_to_install('dask')}") from error

__all__ = ["cross_entropy", "log_softmax", "logsumexp", "softmax"]

_Numbers: TypeAlias = da.Array | ArrayLike
_Axis: TypeAlias = SupportsIndex | tuple[SupportsIndex, ...] | list[SupportsIndex] | None

_quiet = np.errstate(all="ignore")  # csoftmax prints no warnings, and neither does what joins its results


# ----------------------------------------------------------------------------------------- what is accepted


def _arithmetic_dtype(x):
    return np.result_type(csoftmax.softmax(np.empty(0, x.dtype)).dtype, np.float32)


def _axes(x, axis):
    if axis is None or (x.ndim == 0 and axis in (0, -1)):
        return tuple(range(x.ndim))
    return normalize_axis_tuple(axis, x.ndim)


def _is_whole(x, axes):
    return all(x.numblocks[a] == 1 for a in axes)


def _mask(where, x):
    """`where` with as many dimensions as `x`, in its chunks where it is not of length 1; or None."""
    if where is None:
        return None
    where = da.asarray(where)
    csoftmax.softmax(np.empty(0), where=np.empty(0, where.dtype))
    missing = x.ndim - where.ndim
    if missing < 0 or any(not _fits(n, x.shape[missing + d]) for d, n in enumerate(where.shape)):
        raise ValueError(f"where has shape {where.shape}, which does not broadcast to x's {x.shape}")
    where = where[(None,) * missing]
    return _rechunked(where, [(1,) if n == 1 else c for n, c in zip(where.shape, x.chunks, strict=True)])


def _fits(n, length):
    """Whether an axis of length n broadcasts to the other; an unknown length, NaN, may."""
    return n in (1, length) or np.isnan(n) or np.isnan(length)


def _rechunked(x, chunks):
    """`x` in these chunks. Those of unknown sizes cannot be moved, and must be as many."""
    known = {}
    for d, (own, wanted) in enumerate(zip(x.chunks, chunks, strict=True)):
        if not np.isnan([*own, *wanted]).any():
            known[d] = wanted
        elif len(own) != len(wanted):
            raise ValueError(
                f"chunks of unknown sizes cannot be aligned, {len(own)} of them with {len(wanted)}: "
                "call compute_chunk_sizes() on the arrays first"
            )
    return x.rechunk(known)


def _blocks(function, x, mask, **options):
    """`function` of each block of `x`, and of the mask's if there is one."""
    every = tuple(range(x.ndim))
    operands = (x, every) if mask is None else (x, every, mask, every)
    call = functools.partial(_of_block, function)
    return da.blockwise(call, every, *operands, align_arrays=False, **options)


def _of_block(function, x, where=None):
    return np.asarray(function(x, where=where))


# -------------------------------------------------------------------------------------------------- forward


def _pair(top, total):
    """The largest number of a row's part, and the sum of exponentials of differences to it: 0 if it is empty."""
    pair = np.empty(top.shape, [("top", top.dtype), ("sum", np.float64)])
    pair["top"], pair["sum"] = top, total
    return pair


def _top_dtype(x):
    """What holds every number of x: integers themselves where float64 does not."""
    return x.dtype if x.dtype in (np.int64, np.uint64) else np.dtype(np.float64)


def _least(dtype):
    """What is the maximum of nothing."""
    if dtype.kind == "b":
        return False
    return np.iinfo(dtype).min if dtype.kind in "iu" else -np.inf


@_quiet
def _own_pair(x, y, where=None, *, axes, log):
    """Pairs of a block's rows; the largest probability is that of the maximum, 1 / sum."""
    peak = y.max(axes, keepdims=True, initial=-np.inf if log else 0).astype(np.float64)
    mask = {} if where is None else {"where": where}
    top = x.max(axes, keepdims=True, initial=_least(x.dtype), **mask)
    if x.dtype.kind in "biu":
        empty = ~np.broadcast_to(True if where is None else where, x.shape).any(axes, keepdims=True)
    else:
        empty = np.isneginf(top)
    return _pair(top.astype(_top_dtype(x)), np.where(empty, 0, np.exp(-peak) if log else 1 / peak))


def _distance(top, other, temperature):
    """(top - other) / temperature, of no positive number, in float64: rounded once, out of range at the end only."""
    if top.dtype.kind in "iu":
        # what two integers differ by always fits where nothing has a sign
        difference = -(other.astype(np.uint64) - top.astype(np.uint64)).astype(np.float64)
    else:
        difference = top - other
    if temperature == 1:
        return difference
    halved = (top * 0.5 - other * 0.5) / temperature * 2
    return np.where(np.isfinite(difference), difference / temperature, halved)


@_quiet
def _join(pairs, axis, keepdims, *, temperature):
    top = pairs["top"].max(axis, keepdims=True, initial=_least(pairs["top"].dtype))
    share = np.exp(_distance(pairs["top"], top, temperature))
    return _pair(top, np.where(pairs["sum"] == 0, 0, pairs["sum"] * share).sum(axis, keepdims=True))


@_quiet
def _correct(y, own, whole, where=None, *, temperature, log, dtype):
    """softmax or log_softmax of whole rows in a block, from that of the block."""
    nothing = -np.inf if log else 0
    difference, ratio = _distance(own["top"], whole["top"], temperature), own["sum"] / whole["sum"]
    if log:
        right = y + (difference + np.log(ratio)).astype(y.dtype)
    else:
        right = y * (np.exp(difference) * ratio).astype(y.dtype)
    part_is_empty, row_is_empty = (own["sum"] == 0) & (whole["sum"] > 0), whole["sum"] == 0
    if part_is_empty.any():
        # a part of nothing but -inf has no softmax by itself
        np.copyto(right, nothing, where=part_is_empty)
    if row_is_empty.any():
        np.copyto(right, y, where=row_is_empty)
    if where is not None:
        np.copyto(right, nothing, where=~where)
    return right.astype(dtype, copy=False)


def _forward(function, x, axis, temperature, where, dtype):
    x = da.asarray(x)
    axes, mask = _axes(x, axis), _mask(where, x)
    checked = function(np.empty(0, x.dtype), temperature=temperature, dtype=dtype)
    temperature, meta = float(temperature), np.empty((0,) * x.ndim, checked.dtype)
    if _is_whole(x, axes):
        of_block = functools.partial(function, axis=axes if x.ndim else None, temperature=temperature, dtype=dtype)
        return _blocks(of_block, x, mask, meta=meta)
    work = np.result_type(_arithmetic_dtype(x), meta)
    every, log = tuple(range(x.ndim)), function is csoftmax.log_softmax
    masks = () if mask is None else (mask, every)
    of_block = functools.partial(function, axis=axes, temperature=temperature, dtype=work)
    y = _blocks(of_block, x, mask, meta=meta.astype(work))
    pair = np.empty(meta.shape, [("top", _top_dtype(x)), ("sum", np.float64)])
    own_pair = functools.partial(_own_pair, axes=axes, log=log)
    ones = dict.fromkeys(axes, 1)
    own = da.blockwise(
        own_pair, every, x, every, y, every, *masks, adjust_chunks=ones, align_arrays=False, meta=pair
    )
    join = functools.partial(_join, temperature=temperature)
    whole = da.reduction(own, join, join, axis=axes, keepdims=True, dtype=pair.dtype, meta=pair)
    correct = functools.partial(_correct, temperature=temperature, log=log, dtype=meta.dtype)
    operands = (y, every, own, every, whole, every, *masks)
    return da.blockwise(correct, every, *operands, align_arrays=False, meta=meta)


def softmax(
    x: _Numbers,
    axis: _Axis = -1,
    *,
    temperature: float = 1.0,
    where: _Numbers | None = None,
    dtype: DTypeLike | None = None,
) -> da.Array:
    """Softmax of a dask array.

    Parameters
    ----------
    x : dask.array.Array or array_like
        Logits, of the dtypes that `csoftmax.softmax` takes.
    axis : int, tuple of ints or None, optional
        The axis, or axes taken together, along which the result sums to 1.
    temperature : float, optional
        The logits are divided by it.
    where : dask.array.Array or array_like of bool, optional
        False leaves an element out, with probability 0; broadcast against `x`, in chunks of any size.
    dtype : dtype, optional
        That of the result.

    Returns
    -------
    dask.array.Array
        Probabilities, lazily, in the chunks of `x`.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As `csoftmax.softmax`, and at once.

    Examples
    --------
    >>> import dask.array as da
    >>> from csoftmax.interop.dask import softmax
    >>> softmax(da.arange(3.0, chunks=2)).compute()
    array([0.09003057, 0.24472847, 0.66524096])
    >>> softmax(da.arange(3.0, chunks=2), temperature=2.0, where=[True, True, False]).compute()
    array([0.37754067, 0.62245933, 0.        ])
    """
    return _forward(csoftmax.softmax, x, axis, temperature, where, dtype)


def log_softmax(
    x: _Numbers,
    axis: _Axis = -1,
    *,
    temperature: float = 1.0,
    where: _Numbers | None = None,
    dtype: DTypeLike | None = None,
) -> da.Array:
    """Logarithm of the softmax of a dask array.

    Parameters
    ----------
    x, axis, temperature, dtype
        As for `softmax`.
    where : dask.array.Array or array_like of bool, optional
        False leaves an element out, with log-probability -inf; broadcast against `x`, in chunks of any size.

    Returns
    -------
    dask.array.Array
        Log-probabilities, lazily, in the chunks of `x`.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As `csoftmax.log_softmax`, and at once.

    Examples
    --------
    >>> import dask.array as da
    >>> from csoftmax.interop.dask import log_softmax
    >>> log_softmax(da.arange(3.0, chunks=2)).compute()
    array([-2.40760596, -1.40760596, -0.40760596])
    """
    return _forward(csoftmax.log_softmax, x, axis, temperature, where, dtype)


def logsumexp(
    x: _Numbers,
    axis: _Axis = -1,
    *,
    where: _Numbers | None = None,
    keepdims: bool = False,
    dtype: DTypeLike | None = None,
) -> da.Array:
    """Logarithm of the sum of exponentials of a dask array.

    Parameters
    ----------
    x : dask.array.Array or array_like
        Numbers, as for `softmax`.
    axis : int, tuple of ints or None, optional
        The axis or axes to sum over.
    where : dask.array.Array or array_like of bool, optional
        False leaves an element out; broadcast against `x`, in chunks of any size.
    keepdims : bool, optional
        Leave the reduced axes in the result, with length 1.
    dtype : dtype, optional
        That of the result.

    Returns
    -------
    dask.array.Array
        Lazily, in the chunks of `x` along the axes that are left.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As `csoftmax.logsumexp`, and at once.

    Examples
    --------
    >>> import dask.array as da
    >>> from csoftmax.interop.dask import logsumexp
    >>> float(logsumexp(da.full(2, 1000.0, chunks=1)).compute())
    1000.6931471805599
    """
    x = da.asarray(x)
    axes, mask = _axes(x, axis), _mask(where, x)
    result = np.asarray(csoftmax.logsumexp(np.empty(0, x.dtype), dtype=dtype)).dtype
    meta = np.empty((0,) * x.ndim, result)
    if _is_whole(x, axes):
        of_block = functools.partial(
            csoftmax.logsumexp, axis=axes if x.ndim else None, keepdims=True, dtype=dtype
        )
        rows = _blocks(of_block, x, mask, adjust_chunks=dict.fromkeys(axes, 1), meta=meta)
    else:
        work = np.result_type(_arithmetic_dtype(x), result)
        of_block = functools.partial(csoftmax.logsumexp, axis=axes, keepdims=True, dtype=work)
        parts = _blocks(of_block, x, mask, adjust_chunks=dict.fromkeys(axes, 1), meta=meta.astype(work))
        join, last = (functools.partial(csoftmax.logsumexp, dtype=d) for d in (work, result))
        rows = da.reduction(
            parts, join, last, combine=join, axis=axes, keepdims=True, dtype=result, meta=meta
        )
    return rows if keepdims or not axes else rows.squeeze(axes)


# -------------------------------------------------------------------------------------------- cross-entropy


def cross_entropy(
    logits: _Numbers,
    target: _Numbers,
    axis: SupportsIndex = -1,
    *,
    temperature: float = 1.0,
    weight: ArrayLike | None = None,
    ignore_index: SupportsIndex = -100,
    label_smoothing: float = 0.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
) -> da.Array:
    """Cross-entropy between dask arrays of logits and of targets.

    Parameters
    ----------
    logits : dask.array.Array or array_like
        As for `softmax`. The length of the class axis has to be known.
    target : dask.array.Array or array_like
        Integer class indices, of the shape of `logits` without the class axis; or float probabilities of the
        shape of `logits`. It is worked on in the chunks of the logits.
    axis : int, optional
        The class axis of `logits`.
    temperature : float, optional
        The logits are divided by it.
    weight : array_like, optional
        One weight a class, in memory.
    ignore_index : int, optional
        A target that is left out. Probabilities know none.
    label_smoothing : float, optional
        From 0 to 1: how much of each target is spread evenly over the classes.
    reduction : {"mean", "sum", "none"}, optional
        As for `csoftmax.cross_entropy`.

    Returns
    -------
    dask.array.Array
        The loss, lazily: of no dimensions, or for "none" of the shape of `logits` without the class axis. What
        has probability 0 in the target, or weight 0, counts for nothing, be its logit -inf.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As `csoftmax.cross_entropy`, and at once.
    IndexError
        For a target that is no class and not ignored, when the result is computed.

    Examples
    --------
    >>> import dask.array as da
    >>> from csoftmax.interop.dask import cross_entropy
    >>> logits = da.from_array([[1.0, 2.0, 3.0]], chunks=(1, 2))
    >>> float(cross_entropy(logits, [2]).compute().round(6))
    0.407606
    """
    logits, target = da.asarray(logits), da.asarray(target)
    options = {"weight": weight, "ignore_index": ignore_index, "label_smoothing": label_smoothing}
    axis = _class_axis(logits, axis)
    dtype = _check_loss(logits, target, axis, reduction, options)
    csoftmax.softmax(np.empty(0), temperature=temperature)
    target = _rechunked(target, logits.chunks if target.ndim == logits.ndim else _without(logits.chunks, axis))
    groups = _groups(weight)
    rows = [_row_losses(logits, target, axis, float(temperature), options | {"weight": w}) for w, _ in groups]
    exponents = [exponent for _, exponent in groups]
    if reduction == "none":
        return da.map_blocks(_together, *rows, exponents=exponents, meta=np.empty((0,) * rows[0].ndim, dtype))
    totals = [
        _total(row_losses, functools.partial(_scaled, exponent=exponent))
        for row_losses, exponent in zip(rows, exponents, strict=True)
    ]
    if reduction == "mean" and target.ndim == logits.ndim:
        totals.append(_total(rows[0], functools.partial(_ones, one=logits.shape[axis] > 0)))
    elif reduction == "mean":
        totals.append(_total(target, functools.partial(_counts, weight=weight, ignore_index=ignore_index)))
    loss = functools.partial(_loss, mean=reduction == "mean", dtype=dtype)
    return da.map_blocks(loss, *totals, meta=np.empty((), dtype))


def _without(lengths, axis):
    return (*lengths[:axis], *lengths[axis + 1 :])


def _class_axis(logits, axis):
    """The class axis, counted from the first."""
    shape = (0,) * logits.ndim
    csoftmax.cross_entropy(np.empty(shape), np.full(shape[1:], -100), axis)
    return normalize_axis_index(axis, logits.ndim)


def _check_loss(logits, target, axis, reduction, options):
    """The loss's dtype, from csoftmax, which checks arrays of as many classes but of no rows."""
    if np.isnan(logits.shape[axis]):
        raise ValueError("the length of the class axis is unknown: call compute_chunk_sizes() on the logits first")
    of_target = _without(logits.shape, axis) if target.dtype.kind in "iu" else logits.shape
    fits = target.ndim == len(of_target) and all(
        n == length or np.isnan(n) or np.isnan(length) for n, length in zip(target.shape, of_target, strict=True)
    )
    shape, of_target = (
        # where they do not fit, their own shapes are what csoftmax's error names
        [n if not np.isnan(n) and (not fits or d == of_class) else 0 for d, n in enumerate(lengths)]
        for lengths, of_class in ((logits.shape, axis), (target.shape, axis if target.ndim == logits.ndim else -1))
    )
    like_logits, like_target = (
        np.broadcast_to(np.zeros((), dtype), lengths)
        for dtype, lengths in ((logits.dtype, shape), (target.dtype, of_target))
    )
    csoftmax.cross_entropy(like_logits, like_target, axis, reduction=reduction, **options)
    return np.asarray(csoftmax.cross_entropy(like_logits, like_target, axis, reduction="none", **options)).dtype


# Losses and weights are summed as numbers of any size: part * 2**exponent.

_SCALED = np.dtype([("part", np.float64), ("exponent", np.int32)])
_NO_EXPONENT = -100_000  # that of 0, below all others


@_quiet
def _scaled(values, exponent=0):
    """The scaled numbers values * 2**exponent."""
    part, own = np.frexp(values)
    scaled = np.empty(part.shape, _SCALED)
    scaled["part"], scaled["exponent"] = part, np.where(part == 0, _NO_EXPONENT, own + exponent)
    return scaled


@_quiet
def _scaled_sum(scaled, axis, keepdims):
    largest = scaled["exponent"].max(axis, keepdims=True, initial=_NO_EXPONENT)
    parts = np.ldexp(scaled["part"], scaled["exponent"] - largest)
    total = _scaled(parts.sum(axis, keepdims=True), largest)
    return total if keepdims else total.squeeze(axis)


def _total(x, function):
    """The sum of what `function` makes of the elements of `x`, as one scaled number."""
    x = x if x.ndim else x[None]
    of_block = functools.partial(_total_of_block, function=function)
    return da.reduction(x, of_block, _scaled_sum, combine=_scaled_sum, dtype=_SCALED, meta=np.empty((), _SCALED))


def _total_of_block(x, axis, keepdims, function):
    return _scaled_sum(function(x), axis, keepdims)


def _groups(weight):
    """Weights as arrays of their parts of like size, and the powers of two that these were divided by.

    Ordinary weights are one array as they are. Others would over- or underflow in the losses of rows.
    """
    if weight is None:
        return [(None, 0)]
    weight, width = np.asarray(weight, np.float64), 60
    exponents = np.where(np.isfinite(weight) & (weight != 0), np.frexp(weight)[1], 0)
    if np.abs(exponents).max(initial=0) <= width:
        return [(weight, 0)]
    group = exponents // width
    return [
        (np.ldexp(np.where(group == g, weight, 0), -width * (g + 1)), width * (g + 1)) for g in np.unique(group)
    ]


def _row_losses(logits, target, axis, temperature, options):
    """The loss of each row."""
    dtype = _arithmetic_dtype(logits)
    every = tuple(range(logits.ndim))
    rows = _without(every, axis)
    of_target = every if target.ndim == logits.ndim else rows
    if temperature == 1 and _is_whole(logits, (axis,)):
        loss = functools.partial(csoftmax.cross_entropy, axis=axis, reduction="none", **options)
        operands = (logits, every, target, of_target)
        meta = np.empty((0,) * len(rows), dtype)
        return da.blockwise(loss, rows, *operands, concatenate=True, align_arrays=False, meta=meta)
    log_p = log_softmax(logits, axis, temperature=temperature, dtype=dtype)
    classes = da.arange(logits.shape[axis], chunks=(logits.chunks[axis],))
    parts = da.blockwise(
        functools.partial(_partial_losses, axis=axis, count=len(classes), **options),
        every,
        *(log_p, every, target, of_target, classes, (axis,)),
        adjust_chunks={axis: 1},
        align_arrays=False,
        meta=np.empty((0,) * logits.ndim),
    )
    last = functools.partial(_sum, dtype=dtype)
    return da.reduction(parts, _sum, last, combine=_sum, axis=axis, dtype=dtype, meta=np.empty((0,) * len(rows), dtype))


@_quiet
def _sum(x, axis, keepdims, dtype=np.float64):
    return np.asarray(x.sum(axis, keepdims=keepdims)).astype(dtype)


@_quiet
def _partial_losses(log_p, target, classes, axis, count, weight, ignore_index, label_smoothing):
    """What the block's classes add to the losses of its rows."""
    along = [-1 if d == axis else 1 for d in range(log_p.ndim)]
    ignored = False
    if target.ndim < log_p.ndim:
        target = np.expand_dims(target, axis)
        ignored = target == ignore_index
        wrong = target[~ignored & ((target < 0) | (target >= count))]
        if wrong.size:
            raise IndexError(
                f"target {wrong[0]} is neither a class index from 0 to {count - 1} nor ignore_index ({ignore_index})"
            )
        target = target == classes.reshape(along)
    share = target.astype(np.float64) * (1 - label_smoothing) + label_smoothing / count
    if weight is not None:
        share *= weight[classes].reshape(along)
    nothing = ignored | ((share == 0) & np.isneginf(log_p))
    return -np.where(nothing, 0, share * log_p).sum(axis, keepdims=True)


def _ones(rows, one):
    """What probabilities count in the mean, as scaled numbers: each row alike, unless there are no classes."""
    return _scaled(np.full(rows.shape, float(one)))


def _counts(target, weight, ignore_index):
    """What indices count in the mean, as scaled numbers: nothing where they are wrong, which their losses tell."""
    counted = target != ignore_index
    if weight is None:
        return _scaled(counted.astype(np.float64))
    weight = np.append(np.asarray(weight, np.float64), 0)
    nothing = len(weight) - 1
    return _scaled(weight[np.where(counted & (target >= 0) & (target < nothing), target, nothing).astype(np.intp)])


@_quiet
def _together(*rows, exponents):
    """The losses of rows from those of the groups of weights."""
    total = sum(np.ldexp(losses.astype(np.float64), e) for losses, e in zip(rows, exponents, strict=True))
    return np.asarray(total).astype(rows[0].dtype)


@_quiet
def _loss(*totals, mean, dtype):
    """The sum of the totals, or where the last one is a count the mean; NaN if that is of nothing."""
    *totals, count = totals if mean else (*totals, _scaled(1.0))
    total = _scaled_sum(np.stack(totals), 0, False)
    part = np.where(count["part"] == 0, np.nan, total["part"] / count["part"])
    return np.ldexp(part, total["exponent"] - count["exponent"]).astype(dtype)
