"""Products with the Jacobians of softmax and log_softmax, and softmax's Jacobian itself."""

from csoftmax.api.keywords import explained
from csoftmax.plan import operations
from csoftmax.plan.jacobian import jacobian

_SOFTMAX_GRAD = operations.OPERATIONS["softmax_grad"]
_LOG_SOFTMAX_VJP = operations.OPERATIONS["log_softmax_vjp"]
_LOG_SOFTMAX_JVP = operations.OPERATIONS["log_softmax_jvp"]


def softmax_backward(grad_output, output, axis=-1, *, temperature=1.0, where=None, out=None):
    r"""Vector-Jacobian product of `softmax`: the gradient with respect to the logits.

    With :math:`J = \operatorname{diag}(p) - p p^T`,

    .. math:: J^T g / T = p \odot (g - \langle g, p \rangle) / T

    Parameters
    ----------
    grad_output : array_like
        Gradient with respect to the probabilities, of the shape of `output`.
    output : array_like
        The probabilities that `softmax` returned.
    axis : int, tuple of ints or None, optional
        The `axis` given to `softmax`.
    temperature : float, optional
        The `temperature` given to `softmax`: any positive finite float.
    where : array_like of bool, optional
        The mask given to `softmax`, broadcast against `output`: a class that it leaves out counts for nothing,
        whatever its gradient and its probability are, and has the gradient 0.
    out : ndarray, optional
        Where to write the result; it may be either input.

    Returns
    -------
    ndarray
        Gradient with respect to the logits, of the shape and memory order of `output`; float32 or float64 where
        the inputs' dtypes differ. It is 0 where the probability is 0 and the row's gradients are finite; an
        infinite gradient at a probability of 0 makes its row NaN, as 0 times infinity is NaN, unless `where` leaves
        that class out.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As for `softmax`; `ValueError` also where the shapes differ.

    See Also
    --------
    softmax_jvp : the same operator, since J is symmetric.
    softmax_jacobian : J itself.

    Examples
    --------
    >>> from csoftmax import softmax, softmax_backward
    >>> p = softmax([1.0, 2.0, 3.0])
    >>> softmax_backward([1.0, 0.0, 0.0], p)
    array([ 0.08192507, -0.02203304, -0.05989202])
    """
    return operations.backward(_SOFTMAX_GRAD, grad_output, output, axis, temperature, where, out, "grad_output")


def softmax_jvp(tangent, output, axis=-1, *, temperature=1.0, where=None, out=None):
    r"""Jacobian-vector product of `softmax`: how the probabilities move with the logits.

    .. math:: J v / T = p \odot (v - \langle v, p \rangle) / T

    Parameters
    ----------
    tangent : array_like
        Direction in which the logits move, of the shape of `output`.
    output, axis, temperature, where, out
        As for `softmax_backward`.

    Returns
    -------
    ndarray
        Directional derivative of the probabilities; of an infinite or NaN `tangent` as `softmax_backward` has it.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As for `softmax_backward`.

    See Also
    --------
    softmax_backward : the same operator, since J is symmetric.

    Examples
    --------
    >>> from csoftmax import softmax, softmax_jvp
    >>> softmax_jvp([1.0, 1.0, 1.0], softmax([1.0, 2.0, 3.0])).round(12) + 0.0
    array([0., 0., 0.])
    """
    return operations.backward(_SOFTMAX_GRAD, tangent, output, axis, temperature, where, out, "tangent")


def log_softmax_backward(grad_output, output, axis=-1, *, temperature=1.0, where=None, out=None):
    r"""Vector-Jacobian product of `log_softmax`: the gradient with respect to the logits.

    .. math:: \left(g - p \sum_j g_j\right) / T, \qquad p = e^{\mathtt{output}}

    Every element counts, one of log-probability -inf too: its own gradient is g, and g is part of the sum.

    Parameters
    ----------
    grad_output : array_like
        Gradient with respect to the log-probabilities, of the shape of `output`.
    output : array_like
        The log-probabilities that `log_softmax` returned.
    axis, temperature, where, out
        As for `softmax_backward`.

    Returns
    -------
    ndarray
        Gradient with respect to the logits.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As for `softmax_backward`.

    Examples
    --------
    >>> from csoftmax import log_softmax, log_softmax_backward
    >>> log_softmax_backward([1.0, 0.0, 0.0], log_softmax([1.0, 2.0, 3.0]))
    array([ 0.90996943, -0.24472847, -0.66524096])
    """
    return operations.backward(_LOG_SOFTMAX_VJP, grad_output, output, axis, temperature, where, out, "grad_output")


def log_softmax_jvp(tangent, output, axis=-1, *, temperature=1.0, where=None, out=None):
    r"""Jacobian-vector product of `log_softmax`: how the log-probabilities move with the logits.

    .. math:: (v - \langle v, p \rangle) / T, \qquad p = e^{\mathtt{output}}

    Every element has a derivative, one of log-probability -inf too, as if its logit were the limit of finite ones.

    Parameters
    ----------
    tangent : array_like
        Direction in which the logits move, of the shape of `output`.
    output : array_like
        The log-probabilities that `log_softmax` returned.
    axis, temperature, where, out
        As for `softmax_backward`.

    Returns
    -------
    ndarray
        Directional derivative of the log-probabilities. A `tangent` that is infinite or NaN where the probability
        is 0 leaves NaN in the row, since the sum has 0 times it.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As for `softmax_backward`.

    Examples
    --------
    >>> from csoftmax import log_softmax, log_softmax_jvp
    >>> log_softmax_jvp([1.0, 0.0, 0.0], log_softmax([1.0, 2.0, 3.0]))
    array([ 0.90996943, -0.09003057, -0.09003057])
    """
    return operations.backward(_LOG_SOFTMAX_JVP, tangent, output, axis, temperature, where, out, "tangent")


def softmax_jacobian(output, axis=-1, *, out=None):
    r"""The Jacobian of `softmax` as matrices: :math:`J_{ij} = p_i (\delta_{ij} - p_j)`.

    Parameters
    ----------
    output : array_like
        The probabilities that `softmax` returned.
    axis : int, tuple of ints or None, optional
        The `axis` given to `softmax`; several are taken together, in the order of the array's axes.
    out : ndarray, optional
        Where to write the result: of its shape and dtype.

    Returns
    -------
    ndarray
        Of the shape of `output` without `axis`, and then ``(n, n)`` for an axis of length n.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As for `softmax`.

    See Also
    --------
    softmax_backward : its product with a vector, without the n by n numbers.

    Examples
    --------
    >>> from csoftmax import softmax, softmax_jacobian
    >>> softmax_jacobian(softmax([0.0, 0.0]))
    array([[ 0.25, -0.25],
           [-0.25,  0.25]])
    """
    return jacobian(output, axis, out)

# a call with a keyword of another library is told what it is called here
softmax_backward, softmax_jvp, log_softmax_backward, log_softmax_jvp, softmax_jacobian = explained(
    softmax_backward, softmax_jvp, log_softmax_backward, log_softmax_jvp, softmax_jacobian
)
