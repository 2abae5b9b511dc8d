"""softmax, log_softmax and logsumexp."""

from csoftmax.api.keywords import explained
from csoftmax.plan import operations

_SOFTMAX = operations.OPERATIONS["softmax"]
_LOG_SOFTMAX = operations.OPERATIONS["log_softmax"]


def softmax(x, axis=-1, *, temperature=1.0, where=None, out=None, dtype=None):
    r"""Softmax: exponentials, normalised to sum to 1 along `axis`.

    .. math:: p_i = \frac{e^{(x_i - m) / T}}{\sum_j e^{(x_j - m) / T}}, \qquad m = \max_j x_j

    Parameters
    ----------
    x : array_like
        Logits of any shape and memory layout. float16, bfloat16, float32 and float64 are taken as they are;
        integers and bool as float64.
    axis : int, tuple of ints or None, optional
        The axis, or axes taken together, along which the result sums to 1; None for all of them.
    temperature : float, optional
        Any positive finite float: the logits are divided by it, as in exact arithmetic. Towards 0 the result
        becomes one-hot, towards infinity uniform.
    where : array_like of bool, optional
        Broadcast against `x`. False leaves an element out: its probability is 0, and so are all those of a row
        in which nothing is left.
    out : ndarray, optional
        Where to write the result: of its shape and dtype. It may be `x` itself, and any other overlap is right
        too. Spares large results the page faults of new memory.
    dtype : dtype, optional
        float16, bfloat16, float32 or float64: the dtype of the result, by default that of `x` (float64 for
        integers and bool). The arithmetic is never narrower than `x`.

    Returns
    -------
    ndarray
        Probabilities, of the shape and memory order of `x`; `out` if it was given. Rows with NaN or +inf, and
        rows of -inf only, are NaN.

    Raises
    ------
    TypeError
        For dtypes other than the above and for masked arrays; for an `out` of the wrong dtype.
    ValueError
        For a temperature that is not positive and finite, a `where` that does not broadcast, or an `out` that
        is read-only or of the wrong shape.
    numpy.exceptions.AxisError
        If `axis` is out of range.

    See Also
    --------
    log_softmax : its logarithm, without the loss of digits.
    softmax_backward : its derivative.

    Notes
    -----
    The shift by the maximum changes nothing but keeps every exponential at most 1. Blocks of a row have a
    maximum and a sum each, joined at the end [1]_, so that the row is read once. The bits of a row depend on its
    values, length, dtype and the ISA level only: not on the batch, the layout or the number of threads.

    References
    ----------
    .. [1] M. Milakov and N. Gimelshein, "Online normalizer calculation for softmax", arXiv:1805.02867.

    Examples
    --------
    >>> import numpy as np
    >>> from csoftmax import softmax
    >>> softmax([1.0, 2.0, 3.0])
    array([0.09003057, 0.24472847, 0.66524096])
    >>> softmax([[1.0, 2.0], [3.0, 5.0]], axis=0).sum(axis=0)
    array([1., 1.])
    >>> softmax([1.0, 2.0, 3.0], temperature=0.1).round(3)
    array([0., 0., 1.])
    >>> softmax([1.0, 2.0, 9.0], where=[True, True, False])
    array([0.26894142, 0.73105858, 0.        ])
    """
    return operations.forward(_SOFTMAX, x, axis, temperature, where, out, dtype)


def log_softmax(x, axis=-1, *, temperature=1.0, where=None, out=None, dtype=None):
    r"""Logarithm of the softmax.

    .. math:: \log p_i = (x_i - m) / T - \log \sum_j e^{(x_j - m) / T}, \qquad m = \max_j x_j

    Parameters
    ----------
    x : array_like
        Logits, as for `softmax`.
    axis : int, tuple of ints or None, optional
        The axis, or axes taken together, along which the probabilities sum to 1.
    temperature : float, optional
        Any positive finite float: the logits are divided by it, as in exact arithmetic.
    where : array_like of bool, optional
        Broadcast against `x`. False leaves an element out: its log-probability is -inf, and so are all those of
        a row in which nothing is left.
    out : ndarray, optional
        Where to write the result, as for `softmax`.
    dtype : dtype, optional
        The dtype of the result, as for `softmax`.

    Returns
    -------
    ndarray
        Log-probabilities in natural units (nats), of the shape and memory order of `x`. Rows with NaN or +inf,
        and rows of -inf only, are NaN.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As for `softmax`.

    See Also
    --------
    softmax, logsumexp, cross_entropy

    Notes
    -----
    The sum leaves out the maximum itself, whose exponential is 1, and its logarithm is ``log1p``: a
    log-probability close to 0 keeps its digits [1]_.

    References
    ----------
    .. [1] P. Blanchard, D. J. Higham and N. J. Higham, "Accurately computing the log-sum-exp and softmax
       functions", IMA J. Numer. Anal. 41 (2021), doi:10.1093/imanum/draa038.

    Examples
    --------
    >>> from csoftmax import log_softmax
    >>> log_softmax([1.0, 2.0, 3.0])
    array([-2.40760596, -1.40760596, -0.40760596])
    >>> log_softmax([0.0, -50.0])
    array([-1.92874985e-22, -5.00000000e+01])
    """
    return operations.forward(_LOG_SOFTMAX, x, axis, temperature, where, out, dtype)


def logsumexp(x, axis=-1, *, where=None, keepdims=False, out=None, dtype=None):
    r"""Logarithm of the sum of exponentials along `axis`, without overflow.

    .. math:: \operatorname{lse}(x) = m + \log \sum_j e^{x_j - m}, \qquad m = \max_j x_j

    Parameters
    ----------
    x : array_like
        Numbers, as for `softmax`.
    axis : int, tuple of ints or None, optional
        The axis or axes to sum over; None for all of them.
    where : array_like of bool, optional
        Broadcast against `x`. False leaves an element out of the sum.
    keepdims : bool, optional
        Leave the reduced axes in the result, with length 1.
    out : ndarray, optional
        Where to write the result: of its shape and dtype.
    dtype : dtype, optional
        The dtype of the result, as for `softmax`.

    Returns
    -------
    ndarray or scalar
        A NumPy scalar where no axis is left and `out` was not given. -inf for an empty sum; NaN where `x` has
        NaN, else +inf where it has +inf.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As for `softmax`.

    See Also
    --------
    log_softmax, numpy.logaddexp

    Notes
    -----
    `x` is read once, and nothing of its size is allocated. The sum leaves out the maximum itself [1]_.

    References
    ----------
    .. [1] P. Blanchard, D. J. Higham and N. J. Higham, "Accurately computing the log-sum-exp and softmax
       functions", IMA J. Numer. Anal. 41 (2021), doi:10.1093/imanum/draa038.

    Examples
    --------
    >>> import numpy as np
    >>> from csoftmax import logsumexp
    >>> float(logsumexp([1000.0, 1000.0]))
    1000.6931471805599
    >>> logsumexp(np.zeros((2, 3)), axis=1, keepdims=True)
    array([[1.09861229],
           [1.09861229]])
    """
    return operations.logsumexp(x, axis, where, keepdims, out, dtype)

# a call with a keyword of another library is told what it is called here
softmax, log_softmax, logsumexp = explained(softmax, log_softmax, logsumexp)
