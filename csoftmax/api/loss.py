"""Cross-entropy of logits, and its gradient."""

from csoftmax.api.keywords import explained
from csoftmax.plan import losses


def cross_entropy(
    logits, target, axis=-1, *, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"
):
    r"""Cross-entropy between logits and class indices or class probabilities.

    With :math:`q` the target distribution of a row, smoothed by :math:`\varepsilon` and weighted by class,

    .. math:: \ell = -\sum_c q_c \log p_c, \qquad
              q_c = w_c \left((1 - \varepsilon)\, t_c + \varepsilon / C\right), \qquad p = \operatorname{softmax}(x)

    where :math:`t` is one-hot for an index. For an index, the part :math:`(1 - \varepsilon)` has the weight of the
    target, as in PyTorch.

    Parameters
    ----------
    logits : array_like
        Any shape and layout; dtypes as for `softmax`.
    target : array_like
        Integer class indices, of the shape of `logits` without the class axis; or float probabilities of the
        shape of `logits`.
    axis : int, optional
        The class axis of `logits`, of length C.
    weight : array_like, optional
        One weight a class, of any size: the loss and the gradient are those of exact arithmetic.
    ignore_index : int, optional
        A class index as target that is left out: its loss and its gradient are 0. With probabilities only the
        default can be given.
    label_smoothing : float, optional
        From 0 to 1: how much of each target is spread evenly over the classes.
    reduction : {"mean", "sum", "none"}, optional
        "mean" divides by the summed weight of the targets that count (for probabilities: by their number).

    Returns
    -------
    scalar or ndarray
        A NumPy scalar for "mean" and "sum"; for "none" the loss of each target. In nats; of the dtype of
        `logits`, float32 for 16-bit ones, float64 for integers. Sums are taken in float64. NaN for the mean of
        nothing.

    Raises
    ------
    IndexError
        For a target outside [0, C) other than `ignore_index`: it names the first and where it stands.
    TypeError
        For dtypes that are not taken.
    ValueError
        For shapes that do not fit, an unknown reduction or smoothing, or `ignore_index` with probabilities.
    numpy.exceptions.AxisError
        If `axis` is out of range.

    See Also
    --------
    cross_entropy_with_grad : the gradient too, at the cost of one more pass.
    log_softmax

    Notes
    -----
    The logits are read once and nothing of their size is allocated. Label smoothing: [1]_.

    References
    ----------
    .. [1] C. Szegedy et al., "Rethinking the Inception architecture for computer vision", 2016,
       doi:10.1109/CVPR.2016.308.

    Examples
    --------
    >>> from csoftmax import cross_entropy
    >>> logits = [[2.0, 1.0, 0.0], [0.0, 0.0, 3.0]]
    >>> float(cross_entropy(logits, [0, 2]))
    0.2512644604326706
    >>> cross_entropy(logits, [0, 2], reduction="none")
    array([0.40760596, 0.09492296])
    """
    return losses.cross_entropy(logits, target, axis, weight, ignore_index, label_smoothing, reduction, None)


def cross_entropy_with_grad(
    logits,
    target,
    axis=-1,
    *,
    weight=None,
    ignore_index=-100,
    label_smoothing=0.0,
    reduction="mean",
    grad_output=None,
    out=None,
):
    r"""Cross-entropy and its gradient with respect to the logits, together.

    .. math:: \frac{\partial \ell}{\partial x_c} = Q\, p_c - q_c, \qquad Q = \sum_c q_c

    which for an unweighted index is :math:`p - y`, with :math:`y` one-hot.

    Parameters
    ----------
    logits, target, axis, weight, ignore_index, label_smoothing, reduction
        As for `cross_entropy`.
    grad_output : array_like, optional
        Gradient with respect to the loss, of its shape and of any size; 1 by default.
    out : ndarray, optional
        Where to write the gradient: of the shape and dtype of `logits`, which it may be itself.

    Returns
    -------
    loss : scalar or ndarray
        As `cross_entropy` returns it.
    grad : ndarray
        Gradient with respect to the logits, of their shape, memory order and dtype.

    Raises
    ------
    IndexError, TypeError, ValueError, numpy.exceptions.AxisError
        As for `cross_entropy`; nothing is written then.

    See Also
    --------
    cross_entropy

    Examples
    --------
    >>> from csoftmax import cross_entropy_with_grad
    >>> loss, grad = cross_entropy_with_grad([[2.0, 1.0, 0.0]], [0])
    >>> float(loss)
    0.4076059644443803
    >>> grad
    array([[-0.33475904,  0.24472847,  0.09003057]])
    """
    gradient = grad_output, out
    return losses.cross_entropy(logits, target, axis, weight, ignore_index, label_smoothing, reduction, gradient)

# a call with a keyword of another library is told what it is called here
cross_entropy, cross_entropy_with_grad = explained(cross_entropy, cross_entropy_with_grad)
