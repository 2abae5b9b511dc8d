"""PyTorch: forward mode, torch.func, vmap, and derivatives where probabilities are 0, as of PyTorch's own functions."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import functionalize, grad, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap

import csoftmax.interop.torch as ct

pytestmark = [
    pytest.mark.interop,
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),  # vmap's own
]

INF = torch.inf
FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
WEIGHT = torch.tensor([0.5, 2.0, 1.0, 0.25], dtype=torch.float64)
INDICES, IGNORED = torch.tensor([0, 3, 2]), torch.tensor([-100, 3, -100])
SHARES = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.0, 1.0, 0.0, 0.0], [0.5, 0.0, 0.5, 0.0]], dtype=torch.float64)


def random(*shape, dtype=torch.float64, seed=7):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * 2).to(dtype)


def tangent(x):
    return random(*x.shape, dtype=x.dtype, seed=8)


def along(name, dim):
    ours, theirs = getattr(ct, name), getattr(torch, name)
    return lambda x: ours(x, dim), lambda x: theirs(x, dim)


def loss(target, **options):
    return lambda x: ct.cross_entropy(x, target, **options), lambda x: F.cross_entropy(x, target, **options)


# A name to the same function of a matrix (3, 4), by csoftmax and by PyTorch.
FUNCTIONS = {
    "softmax": along("softmax", -1),
    "softmax, dim=0": along("softmax", 0),
    "log_softmax": along("log_softmax", 1),
    "log_softmax, dim=-2": along("log_softmax", -2),
    "logsumexp": along("logsumexp", -1),
    "logsumexp, dim=(0, 1)": along("logsumexp", (0, 1)),
    "cross_entropy": loss(INDICES),
    "cross_entropy, weights": loss(INDICES, weight=WEIGHT, label_smoothing=0.2),
    "cross_entropy, ignored": loss(IGNORED, weight=WEIGHT),
    "cross_entropy, sum": loss(INDICES, reduction="sum", label_smoothing=0.1),
    "cross_entropy, none": loss(INDICES, reduction="none"),
    "cross_entropy, probabilities": loss(SHARES, weight=WEIGHT, label_smoothing=0.2),
    "cross_entropy, probabilities, none": loss(SHARES, reduction="none"),
}


def dual(f):
    def derivative(x):
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(f(forward_ad.make_dual(x, tangent(x)))).tangent

    return derivative


def without_grad(transform):
    def transformed(f):
        def derivative(x):
            with torch.no_grad():
                return transform(f)(x)

        return derivative

    return transformed


def batched_gradients(f):
    def derivative(x):
        x = x.clone().requires_grad_()
        y = f(x)
        return torch.autograd.grad(y, x, random(2, *y.shape), is_grads_batched=True)[0]

    return derivative


def scalar(f):
    """A function to a scalar, whose derivatives are of any order."""

    def value(x):
        y = f(x)
        return (y * torch.arange(1.0, y.numel() + 1, dtype=y.dtype).reshape(y.shape)).sin().sum()

    return value


TRANSFORMS = {
    "jvp": lambda f: lambda x: jvp(f, (x,), (tangent(x),)),
    "jvp of jvp": lambda f: lambda x: jvp(lambda x: jvp(f, (x,), (tangent(x),))[1], (x,), (x,)),
    "dual numbers": dual,
    "dual numbers, no_grad": without_grad(dual),
    "dual numbers, requires_grad": lambda f: lambda x: dual(f)(x.clone().requires_grad_()),
    "jacfwd": jacfwd,
    "jacrev": jacrev,
    "jacrev, chunked": lambda f: jacrev(f, chunk_size=1),
    "hessian": hessian,
    "jacrev of jacrev": lambda f: jacrev(jacrev(f)),
    "jacrev of jacfwd": lambda f: jacrev(jacfwd(f)),
    "jacfwd of jacfwd": lambda f: jacfwd(jacfwd(f)),
    "third derivative": lambda f: lambda x: jvp(hessian(f), (x,), (tangent(x),)),
    "grad": lambda f: grad(scalar(f)),
    "grad of grad": lambda f: grad(lambda x: grad(scalar(f))(x).square().sum()),
    "vjp": lambda f: lambda x: (lambda y, pull: pull(torch.ones_like(y)))(*vjp(f, x)),
    "functionalize": functionalize,
    "functionalize in grad": lambda f: grad(scalar(functionalize(f))),
    "is_grads_batched": batched_gradients,
    "autograd.functional, forward": lambda f: lambda x: torch.autograd.functional.jacobian(
        f, x, vectorize=True, strategy="forward-mode"
    ),
    "autograd.functional.hessian": lambda f: lambda x: torch.autograd.functional.hessian(scalar(f), x),
    "vmap": lambda f: lambda x: vmap(f)(torch.stack([x, 2 * x])),
    "vmap, in_dims, out_dims": lambda f: lambda x: vmap(lambda x: f(x)[None], -1, 1)(torch.stack([x, 2 * x], -1)),
    "vmap, chunked": lambda f: lambda x: vmap(f, chunk_size=2)(torch.stack([x, 2 * x, 3 * x])),
    "vmap of vmap": lambda f: lambda x: vmap(vmap(f), 1)(torch.stack([x, 2 * x, -x, -2 * x]).reshape(2, 2, 3, 4)),
    "vmap of jacfwd": lambda f: lambda x: vmap(jacfwd(f), 1)(torch.stack([x, 2 * x], 1)),
    "vmap of grad": lambda f: lambda x: vmap(grad(scalar(f)), 2)(torch.stack([x, 2 * x], 2)),
    "vmap of hessian": lambda f: lambda x: vmap(hessian(f))(torch.stack([x, 2 * x])),
    "jacrev of vmap": lambda f: lambda x: jacrev(vmap(f))(torch.stack([x, 2 * x])),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_transforms(function, transform):
    ours, theirs = (TRANSFORMS[transform](f) for f in FUNCTIONS[function])
    torch.testing.assert_close(ours(random(3, 4)), theirs(random(3, 4)))


@pytest.mark.parametrize("name", ["softmax", "cross_entropy"])
@pytest.mark.parametrize("transform", ["jvp", "grad"])
def test_what_functionalize_lacks_is_an_error(transform, name):
    derivative = TRANSFORMS[transform](scalar(FUNCTIONS[name][0]))
    with pytest.raises(RuntimeError, match="Functionalize rule"):
        functionalize(derivative)(random(3, 4))


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # of linearize itself
@pytest.mark.parametrize("function", FUNCTIONS)
def test_linearize(function):
    x = random(3, 4)
    (y, push), (want, want_push) = (linearize(f, x) for f in FUNCTIONS[function])
    torch.testing.assert_close((y, push(tangent(x))), (want, want_push(tangent(x))))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("transform", ["jvp", "dual numbers", "jacfwd", "jacrev", "vmap", "hessian"])
@pytest.mark.parametrize("function", ["softmax", "log_softmax", "logsumexp", "cross_entropy"])
def test_transforms_of_every_type(function, transform, dtype):
    ours, theirs = (TRANSFORMS[transform](f) for f in FUNCTIONS[function])
    x = random(3, 4, dtype=dtype)
    results, wanted = ours(x), theirs(x.double())
    for y, want in zip(*(r if isinstance(r, tuple) else (r,) for r in (results, wanted)), strict=True):
        assert y.dtype == dtype
        # second derivatives take several steps in 16 bits
        eps = (16 if transform == "hessian" else 4) * torch.finfo(dtype).eps
        torch.testing.assert_close(y.double(), want, rtol=eps, atol=eps)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0), (0, 3)])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_transforms_of_odd_shapes(name, shape):
    ours, theirs = along(name, -1)
    x = random(*shape)
    for transform in jacfwd, jacrev, TRANSFORMS["jvp"], TRANSFORMS["vmap"]:
        torch.testing.assert_close(transform(ours)(x), transform(theirs)(x))


@pytest.mark.parametrize("layout", ["transposed", "sliced", "expanded", "channels last"])
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
def test_transforms_of_layouts(name, layout):
    x = {
        "transposed": random(3, 5, 4, 2).transpose(0, 2),
        "sliced": random(2, 3, 4, 10)[..., ::2],
        "expanded": random(1, 3, 1, 5).expand(2, 3, 4, 5),
        "channels last": random(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    }[layout]
    ours, theirs = along(name, 1)
    for transform in (
        lambda f: jvp(f, (x,), (x,)),
        lambda f: vmap(f)(x),
        lambda f: vmap(vmap(lambda x: f(x[None]), 2), -1)(x),
        lambda f: grad(lambda x: f(x).sin().sum())(x),
        lambda f: vmap(jacrev(f), -1)(x[:, :, :2]),
    ):
        torch.testing.assert_close(transform(ours), transform(theirs))


@pytest.mark.parametrize("dim", [-1, 0, (0, 2)])
@pytest.mark.parametrize("function", [ct.softmax, ct.log_softmax, ct.logsumexp])
def test_numerical_derivatives(function, dim):
    x = random(2, 3, 2).requires_grad_()
    batched = {"check_batched_grad": True}
    assert gradcheck(function, (x, dim), check_forward_ad=True, check_batched_forward_grad=True, **batched)
    assert gradgradcheck(function, (x, dim), check_fwd_over_rev=True, check_rev_over_rev=True, **batched)


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 4, 3)])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_numerical_derivatives_of_losses(reduction, shape):
    """By the logits, by probabilities as target and by weights, twice, and mixed."""
    x, weight = random(*shape).requires_grad_(), WEIGHT.clone().requires_grad_()
    target = random(*shape, seed=9).softmax(min(1, len(shape) - 1)).requires_grad_()

    def loss(x, target, weight):
        return ct.cross_entropy(x, target, weight, reduction=reduction, label_smoothing=0.1)

    assert gradcheck(loss, (x, target, weight), check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(loss, (x, target, weight), check_fwd_over_rev=True, check_batched_grad=True)
    want = F.cross_entropy(x, target, weight, reduction=reduction, label_smoothing=0.1)
    torch.testing.assert_close(loss(x, target, weight), want)


@pytest.mark.parametrize("transform", [jacfwd, jacrev, hessian])
@pytest.mark.parametrize("by", [0, 1, 2])
def test_losses_by_each_argument(by, transform):
    arguments = random(3, 4), SHARES, WEIGHT
    options = {"label_smoothing": 0.2}
    losses = (lambda *a, f=f: f(*a, **options) for f in (ct.cross_entropy, F.cross_entropy))
    ours, theirs = (transform(f, argnums=by) for f in losses)
    torch.testing.assert_close(ours(*arguments), theirs(*arguments))


@pytest.mark.parametrize(
    "derive",
    [
        lambda f, w: f(w.requires_grad_()).backward(),
        lambda f, w: grad(f)(w),
        lambda f, w: jvp(f, (w,), (w,)),
        lambda f, w: dual(f)(w),
    ],
)
@pytest.mark.parametrize("of", [lambda y: y, lambda y: y.square()])
def test_weights_of_indices_have_no_derivative(of, derive):
    """PyTorch refuses it too; zeros in silence would be wrong."""
    x = random(3, 4)
    with pytest.raises(NotImplementedError, match=r"'weight' is not implemented.*weight.detach\(\)"):
        derive(lambda w: of(ct.cross_entropy(x, INDICES, w)), WEIGHT.clone())


# ---------------------------------------------------------------------------------------- vmap of losses


def batches():
    """Arguments of a loss, those with a batch having 3 members."""
    generator = torch.Generator().manual_seed(3)
    for shape in (4,), (5, 4), (2, 4, 3), (0, 4):
        rows = shape[:-1] if len(shape) < 3 else (shape[0], *shape[2:])
        indices = torch.randint(-1, 4, (3, *rows), generator=generator)
        for target in indices, random(3, *shape, seed=5).softmax(-1), torch.full_like(indices, -1):
            yield random(3, *shape), target


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(("logits", "target"), list(batches()))
@pytest.mark.parametrize("batched", [(1, 1, 0), (1, 0, 0), (0, 1, 0), (1, 1, 1)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("of", ["loss", "gradient"])
def test_vmap_of_losses(of, smoothing, batched, logits, target, reduction):
    options = {"reduction": reduction, "label_smoothing": smoothing}
    if not target.is_floating_point():
        options["ignore_index"] = -1
    weight = torch.stack([WEIGHT, WEIGHT + 1, WEIGHT * 2])

    def loss(x, target, weight):
        return ct.cross_entropy(x, target, weight, **options)

    def function(x, target, weight):
        return loss(x, target, weight) if of == "loss" else vjp(lambda x: loss(x, target, weight), x)[1](grads)[0]

    arguments = [a if b else a[0] for a, b in zip((logits, target, weight), batched, strict=True)]
    grads = random(*loss(logits[0], target[0], weight[0]).shape, seed=4)
    want = [
        function(*(a[i] if b else a for a, b in zip(arguments, batched, strict=True))) for i in range(3)
    ]
    dims = tuple(0 if b else None for b in batched)
    torch.testing.assert_close(vmap(function, dims)(*arguments), torch.stack(want), equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_vmap_of_losses_in_16_bits_rounds_once(dtype):
    x, target = random(3, 500, 7, dtype=dtype), torch.arange(500) % 7
    y = vmap(lambda x: ct.cross_entropy(x, target))(x)
    want = vmap(lambda x: F.cross_entropy(x, target))(x.double())
    torch.testing.assert_close(y, want.to(dtype), rtol=torch.finfo(dtype).eps, atol=0)


def test_vmap_out_of_range():
    """A dimension that only the batch would provide."""
    with pytest.raises(IndexError, match=r"range of \[-1, 0\], but got -2"):
        vmap(lambda x: ct._softmax(x, [-2]))(random(3, 4))


def test_per_sample_gradients():
    """The use of vmap that PyTorch's manual shows."""
    weight, x, target = random(4, 5), random(6, 5), torch.arange(6) % 4

    def by(cross_entropy):
        def loss(weight, x, target):
            return cross_entropy((x @ weight.mT)[None], target[None])

        return vmap(grad(loss), (None, 0, 0))(weight, x, target)

    torch.testing.assert_close(by(ct.cross_entropy), by(F.cross_entropy))


# ------------------------------------------------------------------------------------------ torch.compile


@pytest.fixture
def compiled():
    torch._dynamo.reset()
    yield lambda f: torch.compile(f, fullgraph=True, backend="aot_eager")
    torch._dynamo.reset()


COMPILED = ["jvp", "jacfwd", "jacrev", "hessian", "grad", "vmap", "vmap of vmap", "vmap of grad"]


@pytest.mark.parametrize("transform", COMPILED)
@pytest.mark.parametrize("function", ["softmax", "log_softmax", "logsumexp", "cross_entropy, weights"])
def test_compiled_transforms(function, transform, compiled):
    ours, theirs = (TRANSFORMS[transform](f) for f in FUNCTIONS[function])
    # tangents come from a generator, which a whole graph cannot hold
    x, v = random(3, 4), tangent(random(3, 4))
    if transform == "jvp":
        ours, theirs = (lambda x, f=f: jvp(f, (x,), (v,)) for f in FUNCTIONS[function])
    torch.testing.assert_close(compiled(ours)(x), theirs(x))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_dual_numbers_through_compiled_functions(function, compiled):
    ours, theirs = FUNCTIONS[function]
    torch.testing.assert_close(dual(compiled(ours))(random(3, 4)), dual(theirs)(random(3, 4)))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_compiled_gradients(function, compiled):
    ours, theirs = FUNCTIONS[function]
    x = random(3, 4).requires_grad_()
    results = [torch.autograd.grad(scalar(f)(x), x)[0] for f in (compiled(ours), theirs)]
    torch.testing.assert_close(*results)


def test_export():
    class Module(torch.nn.Module):
        def forward(self, x):
            return ct.logsumexp(ct.log_softmax(x) + ct.softmax(x, 0), 1)

    x = random(3, 4)
    program = torch.export.export(Module(), (x,))
    names = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert sum(name.startswith("csoftmax.") for name in names) == 3
    torch.testing.assert_close(program.module()(x), Module()(x))


# ----------------------------------------------------------------------------------- probabilities of zero


def masked(seed, shape=(4, 6)):
    """Logits with -inf at random places, but for one class of each row."""
    generator = torch.Generator().manual_seed(seed)
    x = random(*shape, seed=seed)
    holes = torch.rand(shape, generator=generator) < 0.4
    holes[..., int(torch.randint(shape[-1], (), generator=generator))] = False
    return x.masked_fill(holes, -INF)


def derivatives(function, x, v):
    """The gradient and the directional derivative, forward and by jvp of vjp, for random directions."""
    y, pull = vjp(function, x)
    g = random(*y.shape, seed=12)
    return pull(g)[0], jvp(function, (x,), (v,))[1], jvp(lambda x: vjp(function, x)[1](g)[0], (x,), (v,))[1]


MASKED = {
    "softmax": along("softmax", -1),
    "log_softmax": along("log_softmax", -1),
    "logsumexp": along("logsumexp", -1),
    "log_softmax, dim=0": along("log_softmax", 0),
    "cross_entropy": loss(torch.tensor([0, 1, 5, 2])),
    "smoothed": loss(torch.tensor([0, 1, 5, 2]), label_smoothing=0.3, reduction="none"),
}


def check_masked(name, seed, v):
    ours, theirs = MASKED[name]
    x = masked(seed)
    if name == "log_softmax, dim=0":
        x[int(seed) % 4] = random(6, seed=seed)  # no column is empty
    torch.testing.assert_close(derivatives(ours, x, v), derivatives(theirs, x, v))


@pytest.mark.parametrize("name", MASKED)
@given(seed=st.integers(0, 2**32 - 1))
def test_masked_derivatives(name, seed):
    check_masked(name, seed, tangent(masked(seed)))


@given(seed=st.integers(0, 2**32 - 1), smoothing=st.sampled_from([0.1, 1.0]))
def test_masked_derivatives_of_probabilities(seed, smoothing):
    """PyTorch's loss may be infinite, but its gradient is right wherever the target is not 0."""
    x, target = masked(seed), random(4, 6, seed=seed + 1).softmax(-1)
    results = [
        grad(lambda x, f=f: f(x, target, label_smoothing=smoothing, reduction="sum"))(x)
        for f in (ct.cross_entropy, F.cross_entropy)
    ]
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("function", [F.cross_entropy, ct.cross_entropy])
@pytest.mark.parametrize("replaced", [False, True])
@given(seed=st.integers(0, 2**32 - 1))
def test_masked_label_smoothing(function, replaced, seed):
    """The share that smoothing gives a masked class is in the gradient, in PyTorch's function on csoftmax too."""
    target = torch.tensor([0, 1, 5, 2])

    def gradient(function):
        x = masked(seed).requires_grad_()
        return torch.autograd.grad(function(x, target, label_smoothing=0.3, reduction="sum"), x)[0]

    want = gradient(F.cross_entropy)
    if replaced:
        with ct.replace_softmax():
            result = gradient(function)
    else:
        result = gradient(function)
    torch.testing.assert_close(result, want)


@pytest.mark.parametrize("dtype", FLOATS)
def test_masked_jacobians_agree(dtype):
    x = torch.tensor([-INF, 1.0, 2.0, -INF], dtype=dtype)
    want = jacrev(lambda x: torch.log_softmax(x, 0))(x.double()).to(dtype)
    for transform in jacfwd, jacrev:
        eps = 4 * torch.finfo(dtype).eps
        torch.testing.assert_close(transform(lambda x: ct.log_softmax(x, 0))(x), want, rtol=eps, atol=eps)


def test_logsumexp_of_nothing_has_derivatives_of_zero():
    x = torch.full((2, 3), -INF, dtype=torch.float64)
    for transform in grad, jacfwd, hessian, lambda f: jacrev(jacrev(f)):
        result = transform(lambda x: ct.logsumexp(x).sum())(x)
        assert result.eq(0).all()


# --------------------------------------------------------------------------------------------- 0 log 0 = 0

HOLE = torch.tensor([[-INF, 0.0, 1.0, 2.0]], dtype=torch.float64)
HALF = torch.tensor([[0.0, 0.5, 0.3, 0.2]], dtype=torch.float64)
LOSS = 1.7076059644443804


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_nothing_of_a_masked_class(dtype, reduction):
    x, target = HOLE.to(dtype, copy=True).requires_grad_(), HALF.to(dtype)
    loss = ct.cross_entropy(x, target, reduction=reduction)
    eps = 4 * torch.finfo(dtype).eps
    assert loss.item() == pytest.approx(LOSS, rel=eps)
    want = HOLE.softmax(1) - HALF
    torch.testing.assert_close(torch.autograd.grad(loss.sum(), x)[0].double(), want, rtol=eps, atol=eps)
    assert F.cross_entropy(HOLE, HALF).isnan()  # as the page says


@pytest.mark.parametrize("target", [torch.tensor([1]), torch.tensor([[0.1, 0.7, 0.1, 0.1]], dtype=torch.float64)])
def test_a_masked_class_without_weight(target):
    weight = torch.tensor([0.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    loss = ct.cross_entropy(HOLE, target, weight, label_smoothing=0.1)
    want = ct.cross_entropy(HOLE.masked_fill(HOLE == -INF, -1e30), target, weight, label_smoothing=0.1)
    torch.testing.assert_close(loss, want)
    if not target.is_floating_point():
        assert loss.item() == pytest.approx(2.272415815333271)


@pytest.mark.parametrize("layout", ["batch", "vmap", "compiled", "transposed", "one row"])
def test_nothing_of_a_masked_class_in(layout, compiled):
    x, target = HOLE.expand(3, 4), HALF.expand(3, 4)
    losses = {
        "batch": lambda: ct.cross_entropy(x, target, reduction="none"),
        "vmap": lambda: vmap(ct.cross_entropy)(x, target),
        "compiled": lambda: compiled(ct.cross_entropy)(x, target),
        "transposed": lambda: ct.cross_entropy(x.mT.contiguous().mT, target),
        "one row": lambda: ct.cross_entropy(x[0], target[0]),
    }
    assert losses[layout]().tolist() == pytest.approx(LOSS if layout not in ("batch", "vmap") else [LOSS] * 3)


def test_derivatives_of_a_masked_class_by_target_and_weight():
    """By its own share the loss is infinitely steep; by what counts for nothing it is not NaN."""
    weight = torch.tensor([0.0, 1.0, 2.0, 1.0], dtype=torch.float64)
    by_target, by_weight = grad(lambda *a: ct.cross_entropy(HOLE, *a), (0, 1))(HALF, weight)
    log_p = HOLE.log_softmax(1)
    torch.testing.assert_close(by_target[:, 1:], (-weight * log_p)[:, 1:])
    assert by_target[0, 0] == 0
    torch.testing.assert_close(by_weight, -(HALF * log_p)[0].nan_to_num(0))
    tangents = HALF.flip(1).masked_fill(HOLE == -INF, 0), weight
    pushed = jvp(lambda *a: ct.cross_entropy(HOLE, *a), (HALF, weight), tangents)[1]
    assert pushed.isfinite()


def test_all_combinations_are_of_one_mind():
    """Forward over reverse, reverse over forward and reverse over reverse give one Hessian."""
    x = masked(5, (2, 4))
    target = torch.tensor([0, 3])
    x[torch.arange(2), target] = 1.0
    hessians = [
        outer(inner(lambda x: ct.cross_entropy(x, target, label_smoothing=0.0)))(x)
        for outer, inner in itertools.product((jacfwd, jacrev), repeat=2)
    ]
    for other in hessians[1:]:
        torch.testing.assert_close(other, hessians[0])
