"""PyTorch: operators that autograd and torch.compile know, no copies, and PyTorch's functions on csoftmax."""

import gc
import threading

import ml_dtypes
import numpy as np
import oracle
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.attention import SDPBackend, sdpa_kernel

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


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
@pytest.mark.parametrize("dim", [2, -3, (0, 2)])
def test_dim_out_of_range(name, dim):
    with pytest.raises(IndexError, match=r"expected to be in range of \[-2, 1\], but got"):
        getattr(ct, name)(torch.zeros(2, 3), dim)


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
@pytest.mark.parametrize("dim", [None, True, False, 1.0, "0", (0, True), torch.tensor(0.5)])
def test_what_is_no_dim(name, dim):
    """PyTorch refuses all of them with this type."""
    with pytest.raises(TypeError, match=rf"{name}\(\): argument 'dim' must be int or tuple of ints"):
        getattr(ct, name)(torch.zeros(2, 3), dim)


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
@pytest.mark.parametrize("dim", [np.int64(1), np.uint8(1), torch.tensor(1), [1], (-1,), (np.int32(1),)])
def test_integers_of_any_kind_are_a_dim(name, dim):
    x = random(2, 3)
    assert getattr(ct, name)(x, dim).equal(getattr(ct, name)(x, 1))


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_dims_that_name_none_or_one_twice(name):
    for dim in (), (0, 0), (1, -1):
        with pytest.raises(ValueError, match=r"dim|axis"):
            getattr(ct, name)(torch.zeros(2, 3), dim)


def test_logsumexp_over_all():
    x = random(2, 3)
    for keepdim in False, True:
        want = torch.logsumexp(x, (0, 1), keepdim)
        torch.testing.assert_close(ct.logsumexp(x, (), keepdim), want)
    assert ct.logsumexp(torch.tensor(3.0), ()) == 3


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool])
@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_logsumexp_of_integers(dtype, default):
    x = torch.tensor([[0, 1, 2], [3, 0, 1]]).to(dtype)
    torch.set_default_dtype(default)
    try:
        y, want = ct.logsumexp(x, 1), torch.logsumexp(x, 1)
    finally:
        torch.set_default_dtype(torch.float32)
    assert y.dtype == want.dtype == default
    torch.testing.assert_close(y, want)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_dtype_by_position(name, dtype):
    for x in torch.arange(6).reshape(2, 3), random(2, 3), torch.tensor([[True, False]]):
        want = getattr(torch, name)(x, 0, dtype)
        y = getattr(ct, name)(x, 0, dtype)
        assert y.dtype == dtype
        eps = 4 * torch.finfo(dtype).eps
        torch.testing.assert_close(y, want, rtol=eps, atol=eps)


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp", "cross_entropy"])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e4m3fn])
def test_types_without_softmax(name, dtype):
    arguments = (torch.tensor([0, 1]),) if name == "cross_entropy" else ()
    with pytest.raises(TypeError, match=rf"{dtype} has no softmax: convert the tensor to float16"):
        getattr(ct, name)(torch.zeros(2, 2).to(dtype), *arguments)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_cross_entropy_of_integers_is_refused(dtype):
    """A loss of an integer type would be rounded in silence."""
    with pytest.raises(TypeError, match=rf"{dtype} has no softmax"):
        ct.cross_entropy(torch.zeros(2, 2).to(dtype), torch.tensor([0, 1]))


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
def test_arrays_are_no_tensors(name):
    with pytest.raises(TypeError, match=rf"must be Tensor, not ndarray; for arrays there is csoftmax.{name}"):
        getattr(ct, name)(np.zeros(3), 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_as_pytorch(dtype):
    x, target = random(5, 7, dtype=dtype, requires_grad=True), torch.arange(5)
    with torch.autocast("cpu", dtype):
        pairs = [
            (ct.cross_entropy(x, target), F.cross_entropy(x, target)),
            (ct.softmax(x, 1), torch.softmax(x, 1)),
            (ct.logsumexp(x, 1), torch.logsumexp(x, 1)),
        ]
    for y, want in pairs:
        eps = 4 * torch.finfo(y.dtype).eps
        torch.testing.assert_close(y, want, rtol=eps, atol=eps)  # the type too
    assert torch.autograd.grad(pairs[0][0], x)[0].dtype == dtype


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_modes_without_grad(mode):
    x = random(3, 4, requires_grad=True)
    with mode():
        for y in ct.softmax(x), ct.log_softmax(x), ct.logsumexp(x), ct.cross_entropy(x, torch.tensor([0, 1, 2])):
            assert not y.requires_grad


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
    yield ct._shares, (x, x.detach().logsumexp(1, keepdim=True), [1])
    for operator in ct._softmax_backward, ct._log_softmax_backward, ct._log_softmax_jvp:
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
            # Complex numbers have no softmax here, and integers only where the type of the result is named; logsumexp
            # takes them as they are.
            named = info.variant_test_name == "with_dtype" or info.name == "logsumexp"
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


def is_replaced(calls):
    calls.clear()
    torch.softmax(torch.zeros(3), 0)
    return calls == ["softmax"]


def test_patch_and_unpatch(calls):
    for _ in range(2):  # to do either twice changes nothing
        ct.patch()
        assert is_replaced(calls)
    for _ in range(2):
        ct.unpatch()
        assert not is_replaced(calls)


def test_patch_within_contexts_and_contexts_within_patch(calls):
    ct.patch()
    with ct.replace_softmax():
        pass
    assert is_replaced(calls)
    with ct.replace_softmax():
        ct.unpatch()
        assert is_replaced(calls)
    assert not is_replaced(calls)
    with ct.replace_softmax():
        ct.patch()
    assert is_replaced(calls)
    ct.unpatch()
    assert not is_replaced(calls)


def test_a_context_entered_by_hand_lasts(calls):
    ct.replace_softmax().__enter__()
    gc.collect()
    assert is_replaced(calls)
    with ct.replace_softmax():
        pass
    assert is_replaced(calls)
    ct._switch.change(contexts=-1)
    assert not is_replaced(calls)


def test_a_context_is_left_as_often_as_entered(calls):
    context = ct.replace_softmax()
    with context, context:
        assert is_replaced(calls)
    assert not is_replaced(calls)
    with pytest.raises(RuntimeError, match="left more often than it was entered"):
        context.__exit__(None, None, None)
    assert not is_replaced(calls)


def test_contexts_overlap_between_threads(calls):
    entered, leave = threading.Event(), threading.Event()

    def run():
        with ct.replace_softmax():
            entered.set()
            leave.wait()

    thread = threading.Thread(target=run)
    with ct.replace_softmax():
        thread.start()
        entered.wait()
    assert is_replaced(calls)
    leave.set()
    thread.join()
    assert not is_replaced(calls)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_replaced_in_every_mode(mode, calls):
    with mode(), ct.replace_softmax(), ct.replace_softmax():
        assert is_replaced(calls)
    with ct.replace_softmax(), mode():
        assert is_replaced(calls)


def test_replaced_as_a_decorator(calls):
    @ct.replace_softmax()
    def function():
        return is_replaced(calls)

    assert function()
    assert function()
    assert not is_replaced(calls)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("shape", [(0,), (3, 4)])
def test_replaced_out(name, shape, calls):
    x, out = random(3, 4), torch.empty(shape, dtype=torch.float64)
    want = getattr(torch, name)(x, 1)
    with ct.replace_softmax():
        assert getattr(torch, name)(x, 1, out=out) is out
    assert calls == [name]
    torch.testing.assert_close(out, want)


def test_replaced_half_to_float_is_refused_as_by_pytorch():
    with ct.replace_softmax(), pytest.raises(RuntimeError, match="half to float conversion is not supported on CPU"):
        torch._softmax(torch.zeros(3).half(), 0, True)


def transformer_calls():
    """What the page says of PyTorch's layers: does softmax of the call pass through csoftmax as it stands?"""
    x, mask = torch.zeros(1, 5, 8), torch.tensor([[False, False, False, True, True]])
    attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, dropout=0, batch_first=True)
    heads = torch.zeros(1, 2, 5, 4)
    yield attention, lambda: F.scaled_dot_product_attention(heads, heads, heads), "train", False
    yield attention, lambda: attention(x, x, x), "train", True
    yield attention, lambda: attention(x, x, x, need_weights=False), "train", False
    yield attention, lambda: attention(x, x, x), "no_grad", True
    yield attention, lambda: attention(x, x, x, key_padding_mask=mask), "no_grad", False
    yield layer, lambda: layer(x), "train", False
    yield layer, lambda: layer(x), "no_grad", True
    yield layer, lambda: layer(x, src_key_padding_mask=mask), "train", False


@pytest.mark.parametrize(("module", "call", "mode", "passes"), list(transformer_calls()))
def test_attention_of_transformer_layers(module, call, mode, passes, calls):
    module.train(mode == "train")
    with torch.set_grad_enabled(mode == "train"), ct.replace_softmax():
        call()
        assert (calls == ["softmax"]) == passes
        calls.clear()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with sdpa_kernel(SDPBackend.MATH):
                call()
        finally:
            torch.backends.mha.set_fastpath_enabled(True)
        assert calls == ["softmax"]


def test_replacement_ends_with_an_exception(calls):
    with pytest.raises(TypeError, match="has no softmax"), ct.replace_softmax():
        torch.softmax(torch.tensor([1, 2]), 0)
    torch.softmax(torch.zeros(3), 0)
    assert calls == []
