"""The family for dask arrays: lazy, of any chunking, for arrays larger than one machine's memory.

Where no chunk border crosses the axis, each block is csoftmax's own. Where one does, each block is at first
a softmax by itself, with the maximum and the sum of exponentials of its part of each row. A tree joins these
pairs, the only thing that leaves a worker, and the joined pair corrects the block.
"""

import functools

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

import csoftmax

try:
    import dask.array as da
except ModuleNotFoundError as error:
    raise ImportError("csoftmax.interop.dask needs dask: pip install 'csoftmax[dask]'") from error

__all__ = ["cross_entropy", "log_softmax", "logsumexp", "softmax"]

_PAIR = np.dtype([("top", np.float64), ("sum", np.float64)])


def _result_dtype(x):
    return csoftmax.softmax(np.empty(0, x.dtype)).dtype


def _arithmetic_dtype(x):
    return np.result_type(_result_dtype(x), np.float32)


def _axes(x, axis):
    return tuple(range(x.ndim)) if axis is None else normalize_axis_tuple(axis, x.ndim)


def _is_whole(x, axes):
    return all(x.numblocks[a] == 1 for a in axes)


def _pair(top, total):
    pair = np.empty(top.shape, _PAIR)
    pair["top"], pair["sum"] = top, np.where(np.isneginf(top), 0, total)
    return pair


@np.errstate(all="ignore")
def _own_pair(x, y, axes, log):
    """Pairs of a block's rows; the largest probability is that of the maximum, 1 / sum."""
    peak = y.max(axes, keepdims=True, initial=-np.inf)
    return _pair(x.max(axes, keepdims=True, initial=-np.inf), np.exp(-peak) if log else 1 / peak)


@np.errstate(all="ignore")
def _join(pairs, axis, keepdims):
    top = pairs["top"].max(axis, keepdims=True)
    return _pair(top, (pairs["sum"] * np.exp(pairs["top"] - top)).sum(axis, keepdims=True))


@np.errstate(all="ignore")
def _correct(y, own, whole, log):
    """softmax or log_softmax of whole rows in a block, from that of the block."""
    difference, ratio = own["top"] - whole["top"], own["sum"] / whole["sum"]
    if log:
        y = y + (difference + np.log(ratio)).astype(y.dtype)
    else:
        y = y * (np.exp(difference) * ratio).astype(y.dtype)
    empty = np.isneginf(own["top"]) & np.isfinite(whole["top"])
    if empty.any():
        # a part of nothing but -inf has no softmax by itself
        np.copyto(y, -np.inf if log else 0, where=empty)
    return y


def _forward(function, x, axis):
    axes, dtype, work = _axes(x, axis), _result_dtype(x), _arithmetic_dtype(x)
    every = tuple(range(x.ndim))
    log = function is csoftmax.log_softmax

    def empty(dtype):
        return np.empty((0,) * x.ndim, dtype)

    if _is_whole(x, axes):
        return x.map_blocks(function, axes, meta=empty(dtype))
    x = x.astype(work)
    y = x.map_blocks(function, axes, meta=empty(work))
    own_pair = functools.partial(_own_pair, axes=axes, log=log)
    ones = dict.fromkeys(axes, 1)
    own = da.blockwise(own_pair, every, x, every, y, every, adjust_chunks=ones, meta=empty(_PAIR))
    whole = da.reduction(own, _join, _join, axis=axes, keepdims=True, dtype=_PAIR, meta=empty(_PAIR))
    operands = (y, every, own, every, whole, every)
    return da.blockwise(_correct, every, *operands, log=log, align_arrays=False, meta=empty(work)).astype(
        dtype
    )


def softmax(x, axis=-1):
    """Softmax of a dask array.

    Parameters
    ----------
    x : dask.array.Array
        Logits, of the dtypes that `csoftmax.softmax` takes.
    axis : int, tuple of ints or None, optional
        The axis, or axes taken together, along which the result sums to 1.

    Returns
    -------
    dask.array.Array
        Probabilities, lazily, in the chunks of `x`.

    Raises
    ------
    TypeError, numpy.exceptions.AxisError
        As `csoftmax.softmax`, and at once.

    Examples
    --------
    >>> import dask.array as da
    >>> from csoftmax.interop.dask import softmax
    >>> softmax(da.arange(3.0, chunks=2)).compute()
    array([0.09003057, 0.24472847, 0.66524096])
    """
    return _forward(csoftmax.softmax, x, axis)


def log_softmax(x, axis=-1):
    """Logarithm of the softmax of a dask array.

    Parameters
    ----------
    x, axis
        As for `softmax`.

    Returns
    -------
    dask.array.Array
        Log-probabilities, lazily, in the chunks of `x`.

    Examples
    --------
    >>> import dask.array as da
    >>> from csoftmax.interop.dask import log_softmax
    >>> log_softmax(da.arange(3.0, chunks=2)).compute()
    array([-2.40760596, -1.40760596, -0.40760596])
    """
    return _forward(csoftmax.log_softmax, x, axis)


def logsumexp(x, axis=-1, *, keepdims=False):
    """Logarithm of the sum of exponentials of a dask array.

    Parameters
    ----------
    x : dask.array.Array
        Numbers, as for `softmax`.
    axis : int, tuple of ints or None, optional
        The axis or axes to sum over.
    keepdims : bool, optional
        Leave the reduced axes in the result, with length 1.

    Returns
    -------
    dask.array.Array
        Lazily, in the chunks of `x` along the axes that are left.

    Examples
    --------
    >>> import dask.array as da
    >>> from csoftmax.interop.dask import logsumexp
    >>> float(logsumexp(da.full(2, 1000.0, chunks=1)).compute())
    1000.6931471805599
    """
    dtype = _result_dtype(x)
    of_block = functools.partial(csoftmax.logsumexp, dtype=_arithmetic_dtype(x))
    of_blocks = functools.partial(csoftmax.logsumexp, dtype=dtype)
    return da.reduction(
        x,
        of_block,
        of_blocks,
        combine=of_block,
        axis=_axes(x, axis),
        keepdims=keepdims,
        dtype=dtype,
        meta=np.empty((0,) * x.ndim, dtype),
    )


def cross_entropy(
    logits, target, axis=-1, *, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"
):
    """Cross-entropy between dask arrays of logits and of targets.

    Parameters
    ----------
    logits : dask.array.Array
        As for `softmax`.
    target : dask.array.Array
        Integer class indices, of the shape of `logits` without the class axis; or float probabilities of the
        shape of `logits`. Chunks are aligned where they differ.
    axis : int, optional
        The class axis of `logits`.
    weight : array_like, optional
        One weight a class, in memory.
    ignore_index : int, optional
        A target that is left out.
    label_smoothing : float, optional
        From 0 to 1: how much of each target is spread evenly over the classes.
    reduction : {"mean", "sum", "none"}, optional
        As for `csoftmax.cross_entropy`.

    Returns
    -------
    dask.array.Array
        The loss, lazily: of no dimensions, or for "none" of the shape of `logits` without the class axis.

    Raises
    ------
    ValueError
        For a reduction of another name.
    IndexError
        For a target that is no class and not ignored, when the result is computed.

    Examples
    --------
    >>> import dask.array as da
    >>> from csoftmax.interop.dask import cross_entropy
    >>> logits = da.from_array([[1.0, 2.0, 3.0]], chunks=(1, 2))
    >>> float(cross_entropy(logits, da.from_array([2])).compute().round(6))
    0.407606
    """
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f'reduction must be "mean", "sum" or "none", not {reduction!r}')
    (axis,) = _axes(logits, axis)
    weight = None if weight is None else np.asarray(weight)
    rows = _row_losses(logits, target, axis, weight, ignore_index, label_smoothing)
    if reduction == "none":
        return rows
    loss = rows.sum(dtype=np.float64)
    if reduction == "mean":
        if target.ndim == logits.ndim:
            loss /= rows.size
        else:
            counts = target.map_blocks(_counts, weight=weight, ignore_index=ignore_index, dtype=np.float64)
            loss /= counts.sum()
    return loss.astype(rows.dtype)


def _row_losses(logits, target, axis, weight, ignore_index, label_smoothing):
    dtype = _arithmetic_dtype(logits)
    every = tuple(range(logits.ndim))
    rows = every[:axis] + every[axis + 1 :]
    of_target = every if target.ndim == logits.ndim else rows
    options = {"weight": weight, "ignore_index": ignore_index, "label_smoothing": label_smoothing}
    if _is_whole(logits, (axis,)):
        loss = functools.partial(csoftmax.cross_entropy, axis=axis, reduction="none", **options)
        return da.blockwise(
            loss,
            rows,
            logits,
            every,
            target,
            of_target,
            concatenate=True,
            meta=np.empty((0,) * len(rows), dtype),
        )
    log_p = log_softmax(logits.astype(dtype), axis)
    classes = da.arange(logits.shape[axis], chunks=(logits.chunks[axis],))
    parts = da.blockwise(
        functools.partial(_partial_losses, axis=axis, count=len(classes), **options),
        every,
        *(log_p, every, target, of_target, classes, (axis,)),
        adjust_chunks={axis: 1},
        meta=np.empty((0,) * logits.ndim),
    )
    return parts.sum(axis).astype(dtype)


@np.errstate(all="ignore")
def _partial_losses(log_p, target, classes, axis, count, weight, ignore_index, label_smoothing):
    """What the block's classes add to the losses of its rows."""
    along = [-1 if d == axis else 1 for d in range(log_p.ndim)]
    counted = True
    if target.ndim < log_p.ndim:
        target = np.expand_dims(target, axis)
        counted = target != ignore_index
        wrong = target[counted & ((target < 0) | (target >= count))]
        if wrong.size:
            raise IndexError(f"target {wrong[0]} is no class index from 0 to {count - 1} nor {ignore_index=}")
        target = target == classes.reshape(along)
    share = counted * (target * (1 - label_smoothing) + label_smoothing / count)
    if weight is not None:
        share *= weight[classes].reshape(along)
    return -np.where(share == 0, 0, share * log_p).sum(axis, keepdims=True)


def _counts(target, weight, ignore_index):
    """By how much each target counts in the mean."""
    counted = target != ignore_index
    if weight is None:
        return counted.astype(np.float64)
    return np.where(counted, weight[np.where(counted, target, 0)], 0.0)
