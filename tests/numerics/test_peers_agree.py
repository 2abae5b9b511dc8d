"""csoftmax and its peers say the same: PyTorch's autograd and cross_entropy, ONNX's loss, SciPy's sigmoid.

The peers compute in float64, or in float32 for 16-bit results: what is measured is csoftmax's own error.
PyTorch and ONNX come with the `peers` extra. Fixtures import them, so that a missing one is a failure.
"""

import itertools

import numpy as np
import oracle
import pytest
from arrays import exact_differences
from scipy.special import expit

import csoftmax

pytestmark = pytest.mark.usefixtures("isa")

REDUCTIONS = ["none", "sum", "mean"]
TOLERANCE = {"float32": 4e-6, "float64": 1e-14}
CASES = [
    ((7,), 0),
    ((6, 5), 1),
    ((6, 5), 0),
    ((2, 9, 4), 1),
    ((33, 130), -1),
    ((3, 40, 17), 1),
    ((2, 3, 4, 5), 2),
]
# (N, C), (N, C, d1) and (N, C, d1, d2); the last four are empty
LOGITS = [(7, 5), (4, 3, 6), (3, 4, 5, 2), (3, 20), (1, 1), (0, 5), (0, 5, 3), (4, 5, 0), (0, 3, 2, 2)]


@pytest.fixture(scope="module")
def torch():
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # arrays this small would only wait for the other threads
    yield torch
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def onnx():
    import onnx.reference

    return onnx


def close(got, want, dtype):
    """`got` is `want` to the tolerance of `dtype`, relative to the larger of 1 and its size; NaN is NaN."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    assert got.dtype == dtype
    np.testing.assert_allclose(got, want, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.peers
@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_products_with_the_jacobian_are_autograds(dtype, name, temperature, torch, rng):
    for shape, axis in CASES:
        x, v = rng.standard_normal((2, *shape)).astype(dtype)
        y = getattr(csoftmax, name)(x, axis, temperature=temperature)

        def function(t, axis=axis):
            return getattr(torch, name)(t / temperature, axis)

        point, vector = torch.from_numpy(x).double(), torch.from_numpy(v).double()
        want, vjp = torch.autograd.functional.vjp(function, point, vector)
        _, jvp = torch.autograd.functional.jvp(function, point, vector)
        close(y, want, dtype)
        close(getattr(csoftmax, f"{name}_backward")(v, y, axis, temperature=temperature), vjp, dtype)
        close(getattr(csoftmax, f"{name}_jvp")(v, y, axis, temperature=temperature), jvp, dtype)


@pytest.mark.peers
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_jacobian_is_autograds(dtype, torch, rng):
    for n in (1, 2, 7, 40):
        x = rng.standard_normal(n).astype(dtype)
        point = torch.from_numpy(x).double()
        want = torch.autograd.functional.jacobian(lambda t: torch.softmax(t, -1), point)
        close(csoftmax.softmax_jacobian(csoftmax.softmax(x)), want, dtype)


@pytest.mark.peers
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_gradient_of_logsumexp_is_softmax(dtype, torch, rng):
    for shape, axis in CASES:
        x = rng.standard_normal(shape).astype(dtype)
        point = torch.from_numpy(x).double().requires_grad_()
        value = torch.logsumexp(point, axis)
        value.sum().backward()
        close(csoftmax.logsumexp(x, axis), value.detach(), dtype)
        close(csoftmax.softmax(x, axis), point.grad, dtype)


def rows_of(shape):
    """The shape of the targets: logits' without the class axis."""
    return (shape[0], *shape[2:])


def random_factors(rng, shape, dtype, reduction, weighted):
    """A weight for each class if `weighted`, and an upstream gradient of the loss."""
    return {
        "weight": rng.uniform(0.5, 2, shape[1]).astype(dtype) if weighted else None,
        "grad_output": np.asarray(rng.standard_normal(rows_of(shape) if reduction == "none" else ()), dtype),
    }


def check_against_torch(torch, logits, target, dtype, *, weight, grad_output, **options):
    """Loss and gradient are those of torch.nn.functional.cross_entropy, computed in float64."""
    loss = csoftmax.cross_entropy(logits, target, 1, weight=weight, **options)
    paired, grad = csoftmax.cross_entropy_with_grad(
        logits, target, 1, weight=weight, grad_output=grad_output, **options
    )
    point = torch.from_numpy(logits).double().requires_grad_()
    target = torch.from_numpy(target)
    want = torch.nn.functional.cross_entropy(
        point,
        target.double() if target.is_floating_point() else target,
        weight=None if weight is None else torch.from_numpy(weight).double(),
        **options,
    )
    want.backward(torch.from_numpy(grad_output).double())
    close(loss, want.detach(), dtype)
    close(paired, want.detach(), dtype)
    close(grad, point.grad, dtype)


@pytest.mark.peers
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_cross_entropy_of_indices_is_torchs(dtype, reduction, torch, rng):
    for shape, smoothing, weighted, ignore_index, share in itertools.product(
        LOGITS, (0.0, 0.1, 1.0), (False, True), (-100, 0, 255), (0.0, 0.4, 1.0)
    ):
        rows = rows_of(shape)
        ignored = rng.random(rows) < share
        check_against_torch(
            torch,
            exact_differences(rng, shape, dtype),
            np.where(ignored, ignore_index, rng.integers(0, shape[1], rows)),
            dtype,
            **random_factors(rng, shape, dtype, reduction, weighted),
            ignore_index=ignore_index,
            label_smoothing=smoothing,
            reduction=reduction,
        )


@pytest.mark.peers
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_cross_entropy_of_probabilities_is_torchs(dtype, reduction, torch, rng):
    for shape, smoothing, weighted in itertools.product(LOGITS, (0.0, 0.1, 1.0), (False, True)):
        check_against_torch(
            torch,
            exact_differences(rng, shape, dtype),
            oracle.narrow(oracle.softmax(rng.standard_normal(shape), 1), dtype),
            dtype,
            **random_factors(rng, shape, dtype, reduction, weighted),
            label_smoothing=smoothing,
            reduction=reduction,
        )


def onnx_loss(onnx, logits, target, weight, **attributes):
    """SoftmaxCrossEntropyLoss as ONNX's reference implementation evaluates it: loss and log-probabilities."""
    inputs = {"scores": logits, "labels": target} | ({} if weight is None else {"weights": weight})
    node = onnx.helper.make_node("SoftmaxCrossEntropyLoss", list(inputs), ["loss", "log_prob"], **attributes)
    with np.errstate(invalid="ignore"):
        return onnx.reference.ReferenceEvaluator(node).run(None, inputs)


@pytest.mark.peers
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_cross_entropy_is_onnxs(dtype, reduction, onnx, rng):
    for shape, weighted, ignore_index in itertools.product(
        [s for s in LOGITS if 0 not in s], (False, True), (None, 0, -1)
    ):
        logits = exact_differences(rng, shape, dtype)
        target = rng.integers(0, shape[1], rows_of(shape))
        weight = rng.uniform(0.5, 2, shape[1]).astype(dtype) if weighted else None
        options = {"reduction": reduction}
        if ignore_index is not None:
            target.flat[::3] = ignore_index
            target.flat[-1] = shape[1] - 1
            options["ignore_index"] = ignore_index
        wide = None if weight is None else weight.astype(float)
        loss, log_prob = onnx_loss(onnx, logits.astype(float), target, wide, **options)
        close(csoftmax.cross_entropy(logits, target, 1, weight=weight, **options), loss, dtype)
        close(csoftmax.log_softmax(logits, 1), log_prob, dtype)


@pytest.mark.peers
@pytest.mark.parametrize("axis", [0, 1])
def test_gradients_at_any_minus_infinities_are_those_of_torchs_autograd(axis, torch, rng):
    for width in (*range(2, 20), 33, 64, 65, 130, 1030):
        for _ in range(5):
            x, g = rng.standard_normal((2, 7, width))
            x[rng.random(x.shape) < rng.random()] = -np.inf
            x[:, rng.integers(width)] = 1.0
            x, g = (x, g) if axis else (x.T.copy(), g.T.copy())
            logits = torch.tensor(x, requires_grad=True)
            logs = torch.log_softmax(logits, axis)
            logs.backward(torch.tensor(g))
            got = csoftmax.log_softmax_backward(g, csoftmax.log_softmax(x, axis), axis)
            assert np.allclose(got, logits.grad.numpy(), rtol=0, atol=1e-13)
            logits.grad = None
            torch.softmax(logits, axis).backward(torch.tensor(g))
            got = csoftmax.softmax_backward(g, csoftmax.softmax(x, axis), axis)
            assert np.allclose(got, logits.grad.numpy(), rtol=0, atol=1e-14)


@pytest.mark.peers
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bit_results_are_torchs_float32_rounded(dtype, name, torch, rng):
    for shape, axis in [*CASES, ((200, 1000), 1), ((1000, 200), 0)]:
        x = (rng.standard_normal(shape) * 3).astype(dtype)
        exact = getattr(torch, name)(torch.from_numpy(x.astype("f")), axis)
        want = exact.to(getattr(torch, dtype)).view(torch.int16).numpy().view(dtype)
        got = getattr(csoftmax, name)(x, axis)
        # Where float32 stands at a tie, its own last bit decides which neighbour it becomes.
        other = got != want
        assert oracle.max_ulp(got, want) <= 1
        assert np.count_nonzero(other) <= 0.002 * other.size + 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_softmax_of_two_classes_is_scipys_sigmoid(dtype, rng):
    top, tiny = np.finfo(dtype).max, np.finfo(dtype).smallest_subnormal
    sizes = [0, tiny, 1e-30, 1e-4, 0.5, 1, 17, 40, 80, 88, 100, 103, 700, 709, 740, 745, 1e4, 1e30, top]
    logits = np.array([*sizes, *np.negative(sizes), *rng.standard_normal(1000) * 10], dtype)
    first, second = (a.ravel() for a in np.meshgrid(logits, logits[:38]))
    with np.errstate(over="ignore", invalid="ignore"):
        exact = first.astype(np.longdouble) - second
        rounded = first - second
    # A difference that rounds moves the sigmoid by more than its own error: it is not of this test.
    kept = (rounded == exact) | (np.abs(exact) > 1e4)
    first, second, exact = first[kept], second[kept], exact[kept]
    for pairs in (np.stack([first, second], -1), np.stack([first, second])):
        p = csoftmax.softmax(pairs, pairs.shape.index(2))
        p = np.moveaxis(p, pairs.shape.index(2), 0)
        assert oracle.max_ulp(p[0], expit(exact)) <= 2
        assert oracle.max_ulp(p[1], expit(-exact)) <= 2
