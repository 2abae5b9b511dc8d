"""PyTorch: operators that autograd and torch.compile know, no copies, and PyTorch's functions on csoftmax."""

import threading

import ml_dtypes
import numpy as np
import oracle
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

import csoftmax
import csoftmax.interop.torch as ct

pytestmark = [
    pytest.mark.interop,
]

FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
NUMPY_DTYPES = {torch.bfloat16: np.dtype(ml_dtypes.bfloat16)}
LAYOUTS = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.transpose(0, 2).contiguous().transpose(0, 2),
    "channels last": lambda x: x[None].contiguous(memory_format=torch.channels_last)[0],
    "sliced": lambda x: torch.repeat_interleave(x, 2, dim=-1)[..., ::2],
    "expanded": lambda x: x[:1].expand(x.shape),
    "negated": lambda x: torch._neg_view(-x),
}


def random(*shape, dtype=torch.float64, requires_grad=False):
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * 3
    return x.to(dtype).requires_grad_(requires_grad)


def as_array(tensor):
    """A NumPy copy, by way of Python numbers, so that the module's own conversion is not used."""
    dtype = NUMPY_DTYPES.get(tensor.dtype) or str(tensor.dtype).removeprefix("torch.")
    return np.array(tensor.tolist(), dtype)


# ---------------------------------------------------------------------------------------------- the values


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("dim", [-1, 0, 1, (0, 2)])
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
def test_values_and_layout(name, dim, dtype, layout):
    x = LAYOUTS[layout](random(5, 4, 6, dtype=dtype))
    y = getattr(ct, name)(x, dim)
    assert y.dtype == dtype
    want = getattr(oracle, name)(as_array(x), dim)
    assert y.shape == want.shape
    scale = np.maximum(np.abs(want), 1) if name != "softmax" else None
    assert oracle.max_ulp(as_array(y), want, scale) < 4
    if name != "logsumexp":
        assert y.stride() == torch.empty_like(x).stride()


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (0, 3), (1,)])
def test_odd_shapes(shape):
    x = random(*shape)
    assert ct.softmax(x, -1).equal(torch.softmax(x, -1))
    torch.testing.assert_close(ct.log_softmax(x, -1), torch.log_softmax(x, -1))


@pytest.mark.parametrize("dtype", FLOATS)
def test_no_copies(dtype, monkeypatch):
    seen = []

    def spy(x, axis, *, out):
        seen.append((x.ctypes.data, x.dtype, x.strides, out.ctypes.data))
        return softmax(x, axis, out=out)

    softmax = csoftmax.softmax
    monkeypatch.setattr(csoftmax, "softmax", spy)
    x = random(6, 8, dtype=dtype)[::2, 1:]
    y = ct.softmax(x)
    ((address, seen_dtype, strides, out_address),) = seen
    assert (address, out_address) == (x.data_ptr(), y.data_ptr())
    assert strides == tuple(s * x.element_size() for s in x.stride())
    assert seen_dtype == as_array(x).dtype


def test_dtype_casts_first():
    x = torch.tensor([[1, 2, 3]])
    assert ct.softmax(x, dtype=torch.float32).dtype == torch.float32
    torch.testing.assert_close(ct.log_softmax(x, dtype=torch.float64), x.double().log_softmax(-1))


def test_integers_are_refused():
    with pytest.raises(TypeError, match=r"torch.int64 has no softmax.*dtype=torch.float32"):
        ct.softmax(torch.tensor([1, 2]))


def test_dim_out_of_range():
    with pytest.raises(IndexError):
        ct.softmax(torch.zeros(2, 3), 2)


# ----------------------------------------------------------------------------------------- the derivatives


@pytest.mark.parametrize("dim", [-1, 0, (0, 2)])
@pytest.mark.parametrize("function", [ct.softmax, ct.log_softmax, ct.logsumexp])
def test_derivatives(function, dim):
    x = random(2, 3, 2, requires_grad=True)
    assert gradcheck(function, (x, dim))
    assert gradgradcheck(function, (x, dim))


def losses():
    generator = torch.Generator().manual_seed(11)
    indices = torch.randint(0, 3, (2, 4), generator=generator)
    ignored = torch.where(torch.arange(8).reshape(2, 4) % 3 == 0, -100, indices)
    shares = random(2, 3, 4).softmax(1)
    for reduction in "mean", "sum", "none":
        for weight in None, torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64):
            for smoothing in 0.0, 0.25:
                for target in indices, ignored, shares:
                    yield target, {"weight": weight, "reduction": reduction, "label_smoothing": smoothing}


@pytest.mark.parametrize(("target", "options"), list(losses()))
def test_cross_entropy(target, options):
    x = random(2, 3, 4, requires_grad=True)

    def loss(x):
        return ct.cross_entropy(x, target, **options)

    torch.testing.assert_close(loss(x), F.cross_entropy(x, target, **options))
    assert gradcheck(loss, x)
    assert gradgradcheck(loss, x)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy_by_its_target(reduction):
    x, target = random(2, 3, requires_grad=True), random(2, 3).softmax(1).requires_grad_()
    weight = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)

    def loss(x, target):
        return ct.cross_entropy(x, target, weight, reduction=reduction, label_smoothing=0.1)

    want = F.cross_entropy(x, target, weight, reduction=reduction, label_smoothing=0.1)
    torch.testing.assert_close(loss(x, target), want)
    assert gradcheck(loss, (x, target))
    assert gradgradcheck(loss, (x, target))


@pytest.mark.parametrize("dtype", FLOATS)
def test_cross_entropy_keeps_the_type(dtype):
    x, target = random(5, 7, dtype=dtype, requires_grad=True), torch.arange(5)
    wide = x.detach().double().requires_grad_()
    loss, want = ct.cross_entropy(x, target), F.cross_entropy(wide, target)
    (grad,), (want_grad,) = torch.autograd.grad(loss, x), torch.autograd.grad(want, wide)
    tolerance = {"rtol": 4 * torch.finfo(dtype).eps, "atol": 1e-8}
    torch.testing.assert_close(loss, want.to(dtype), **tolerance)
    torch.testing.assert_close(grad, want_grad.to(dtype), **tolerance)


def test_logsumexp_gradient_of_nothing_is_zero():
    x = torch.full((2, 3), -torch.inf, requires_grad=True)
    ct.logsumexp(x).sum().backward()
    assert x.grad.equal(torch.zeros(2, 3))


# --------------------------------------------------------------------------- PyTorch's checks of operators


def operator_calls():
    x = random(2, 3, 4, requires_grad=True)
    strided = x.detach().transpose(0, 2).requires_grad_()
    p, strided_p = x.detach().softmax(1).requires_grad_(), strided.detach().softmax(0).requires_grad_()
    target = torch.tensor([[0, 1, 2, 0], [2, 2, 1, 0]])
    weight = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)
    for operator in ct._softmax, ct._log_softmax, ct._logsumexp:
        yield operator, (x, [1])
        yield operator, (strided, [0, 2])
    for operator in ct._softmax_backward, ct._log_softmax_backward:
        yield operator, (x, p, [1])
        yield operator, (strided, strided_p, [0])
    for reduction, grad in ("mean", random()), ("none", random(2, 4)):
        options = weight, 1, reduction, 0.1
        yield ct._cross_entropy, (x, target, *options)
        yield ct._cross_entropy_backward, (grad, x, target, *options)


@pytest.mark.parametrize(("operator", "arguments"), list(operator_calls()))
def test_opcheck(operator, arguments):
    results = torch.library.opcheck(operator, arguments)
    assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize(
    "function",
    [
        lambda x: ct.softmax(x * 2).sum(0),
        lambda x: ct.log_softmax(x, 0),
        lambda x: ct.logsumexp(x, (0, 1)),
        lambda x: ct.cross_entropy(x, torch.arange(4)),
    ],
)
def test_compile(function):
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    x = random(4, 5, requires_grad=True)
    y, want = compiled(x), function(x)
    assert y.equal(want)
    (grad,) = torch.autograd.grad(y.sum(), x)
    (want,) = torch.autograd.grad(want.sum(), x)
    assert grad.equal(want)


OPINFO = {
    "softmax": ct.softmax,
    "log_softmax": ct.log_softmax,
    "logsumexp": ct.logsumexp,
    "nn.functional.cross_entropy": ct.cross_entropy,
}


@pytest.fixture(scope="module")
def samples():
    """PyTorch's own samples of arguments, with its function: name -> dtype -> list."""
    from torch.testing._internal.common_methods_invocations import op_db

    found = {name: {} for name in OPINFO}
    for info in op_db:
        if info.name in OPINFO:
            # Complex numbers have no softmax here, and integers only where the type of the result is named.
            named = info.variant_test_name == "with_dtype"
            for dtype in info.supported_dtypes("cpu"):
                if dtype in FLOATS or (named and not dtype.is_complex):
                    inputs = info.sample_inputs("cpu", dtype, requires_grad=dtype.is_floating_point)
                    found[info.name].setdefault(dtype, []).extend((info.op, sample) for sample in inputs)
    return found


@pytest.mark.parametrize("name", OPINFO)
def test_opinfo_samples(name, samples):
    assert set(samples[name]) >= set(FLOATS)
    for dtype, calls in samples[name].items():
        assert len(calls) >= 5
        tolerance = {}
        if dtype in (torch.float16, torch.bfloat16):
            # PyTorch's own sums and products are rounded to 16 bits
            tolerance = dict.fromkeys(("rtol", "atol"), 4 * torch.finfo(dtype).eps)
        for function, sample in calls:
            arguments = sample.input, *sample.args
            y, want = OPINFO[name](*arguments, **sample.kwargs), function(*arguments, **sample.kwargs)
            torch.testing.assert_close(y, want, **tolerance)
            if want.requires_grad:
                tensors = [a for a in arguments if isinstance(a, torch.Tensor) and a.requires_grad]
                grads = [torch.autograd.grad(r, tensors, torch.ones_like(want)) for r in (y, want)]
                torch.testing.assert_close(*grads, **tolerance)


# ---------------------------------------------------------------------------------------- replace_softmax


@pytest.fixture
def calls(monkeypatch):
    """Names of csoftmax's functions, in the order in which they are called."""
    made = []

    def spy(name, function):
        def called(*args, **kwargs):
            made.append(name)
            return function(*args, **kwargs)

        return called

    for name in "softmax", "log_softmax", "softmax_backward", "log_softmax_backward":
        monkeypatch.setattr(csoftmax, name, spy(name, getattr(csoftmax, name)))
    return made


def attention(x):
    layer = torch.nn.MultiheadAttention(4, 2, dtype=x.dtype)
    layer.load_state_dict({name: torch.ones_like(p) for name, p in layer.state_dict().items()})
    return layer(x, x, x)[0]


@pytest.mark.parametrize(
    ("function", "forward"),
    [
        (lambda x: torch.softmax(x, -1), "softmax"),
        (lambda x: x.softmax(0), "softmax"),
        (lambda x: F.softmax(x, dim=1), "softmax"),
        (lambda x: torch.nn.Softmax(dim=-1)(x), "softmax"),
        (lambda x: torch.softmax(x.transpose(0, 1), -1).view(-1), "softmax"),
        (lambda x: torch.softmax(x, -1, dtype=torch.float32), "softmax"),
        (attention, "softmax"),
        (lambda x: torch.log_softmax(x, -1), "log_softmax"),
        (lambda x: torch.nn.LogSoftmax(dim=0)(x), "log_softmax"),
        (lambda x: F.cross_entropy(x, torch.tensor([0, 1, 2])), "log_softmax"),
    ],
)
def test_replaced(function, forward, calls):
    x = random(3, 4, requires_grad=True)
    want = function(x)
    (want_grad,) = torch.autograd.grad(want.square().sum(), x)
    assert calls == []
    with ct.replace_softmax():
        y = function(x)
        assert calls == [forward]
        (grad,) = torch.autograd.grad(y.square().sum(), x)
        assert calls == [forward, f"{forward}_backward"]
    torch.testing.assert_close(y, want)
    torch.testing.assert_close(grad, want_grad)
    function(x)
    assert len(calls) == 2


@pytest.mark.parametrize("dtype", FLOATS)
def test_replaced_gives_csoftmax_bits(dtype):
    x = random(50, 70, dtype=dtype)
    want = csoftmax.softmax(as_array(x))
    with ct.replace_softmax():
        y = torch.softmax(x, -1)
    assert y.dtype == dtype
    assert (as_array(y) == want).all()


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # vmap's own
@pytest.mark.parametrize("function", [torch.softmax, torch.log_softmax])
def test_replaced_derivatives(function):
    x = random(3, 4, requires_grad=True)
    with ct.replace_softmax():
        assert gradcheck(function, (x, 0), check_forward_ad=True)
        assert gradgradcheck(function, (x, 0), check_fwd_over_rev=True)
        torch.testing.assert_close(torch.vmap(lambda row: function(row, 0))(x), function(x.detach(), 1))


def test_replaced_in_every_thread(calls):
    with ct.replace_softmax():
        thread = threading.Thread(target=lambda: torch.softmax(torch.zeros(3), 0))
        thread.start()
        thread.join()
    assert calls == ["softmax"]


def test_replacements_nest(calls):
    x = torch.zeros(3)
    with ct.replace_softmax():
        with ct.replace_softmax():
            torch.softmax(x, 0)
        torch.softmax(x, 0)
    assert calls == ["softmax"] * 2
    torch.softmax(x, 0)
    assert calls == ["softmax"] * 2


def test_replacement_ends_with_an_exception(calls):
    with pytest.raises(TypeError, match="has no softmax"), ct.replace_softmax():
        torch.softmax(torch.tensor([1, 2]), 0)
    torch.softmax(torch.zeros(3), 0)
    assert calls == []
