"""Random calls of the whole family, half of them wrong in a known way: what `test_fuzz` tries.

A case is drawn from a `random.Random`: function, shapes, types, memory layouts, options, and faults, each
with the exceptions that are documented for it. Python's own makes a case of a seed within a millisecond;
Hypothesis's makes cases that shrink.
"""

from dataclasses import dataclass, field
from typing import Any

import ml_dtypes  # noqa: F401 (gives NumPy the name "bfloat16")
import numpy as np
import oracle

import csoftmax

FLOATS = ["<f4", "<f8", "<f2", "bfloat16", ">f4", ">f8", ">f2"]
INTEGERS = ["?", "i1", "u1", "<i2", ">u2", "<i4", ">i8", "<u8"]
FORWARD = ("softmax", "log_softmax", "logsumexp")
BACKWARD = ("softmax_backward", "softmax_jvp", "log_softmax_backward", "log_softmax_jvp")
LOSS = ("cross_entropy", "cross_entropy_with_grad")
FUNCTIONS = (*FORWARD, *BACKWARD, "softmax_jacobian", *LOSS)
FINITE = ("normal", "wide", "ties", "offset", "tiny")
KINDS = (*FINITE, "special")
REFUSED = (
    np.ones((2, 3), np.longdouble),
    np.ones((2, 3), complex),
    np.array([[1, None]], object),
    np.array([["a", "b"]]),
    np.array([["2024-02-29"]], "M8[D]"),
    np.array([[1, 2]], "m8[s]"),
    np.zeros((2, 3), [("a", "f4")]),
    np.ma.masked_array([[1.0, 2.0]], [[True, False]]),
)


def generator(r):
    """NumPy's numbers, from a seed that is part of the case."""
    return np.random.default_rng(r.getrandbits(32))


@dataclass
class Case:
    """One call, what it must raise (nothing: it must succeed), and all memory that it may not touch."""

    function: str
    arguments: list
    options: dict[str, Any]
    isa: str
    threads: int
    faults: dict[str, tuple[type, ...]] = field(default_factory=dict)
    memories: list = field(default_factory=list, repr=False)

    def call(self):
        with csoftmax.use_isa(self.isa), csoftmax.threads(self.threads):
            return getattr(csoftmax, self.function)(*self.arguments, **self.options)


# ------------------------------------------------------------------------------------------------- arrays


def numbers(rng, shape, kind):
    """Numbers of a kind; those of "wide" reach where exponentials underflow."""
    x = rng.standard_normal(shape) * 3
    if kind == "wide":
        x *= 40
    elif kind == "ties":
        x = np.round(x / 2)
    elif kind == "offset":
        x += 300
    elif kind == "tiny":
        x *= 1e-30
    elif kind == "special":
        rare = rng.integers(0, 12, shape)
        x = np.where(rare < 3, np.choose(rare % 3, [-np.inf, np.inf, np.nan]), x)
        x = np.where(rng.integers(0, 2) & (rare > 8), -np.inf, x)
    return np.asarray(x)


def cast(x, dtype):
    """`x` in `dtype`, with integers within their range."""
    dtype = np.dtype(dtype)
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        x = np.clip(np.nan_to_num(x), max(info.min, -120), min(info.max, 120)).round()
    with np.errstate(all="ignore"):
        return np.asarray(x).astype(dtype)


def laid_out(r, a, memories):
    """A view equal to `a`: permuted, in steps of either sign, perhaps misaligned, in patterned memory."""
    order = r.sample(range(a.ndim), a.ndim)
    steps = [r.choice([1, 1, 1, -1, 2, -2, 3]) for _ in range(a.ndim)]
    shape = [a.shape[d] * abs(steps[d]) for d in order]
    size = int(np.prod(shape)) * a.itemsize
    odd = r.choice([0, 0, 1])
    memory = np.full(size + 64 + odd, 0xA5, np.uint8)
    memories.append(memory)
    view = memory[32 + odd : 32 + odd + size].view(a.dtype).reshape(shape)
    view = view.transpose(np.argsort(order, kind="stable").astype(int).tolist() if a.ndim else ())
    view = view[(*(slice(None, None, step) for step in steps), ...)]
    view[...] = a
    return view


def shapes(r, ndim):
    """Small ones; now and then a long axis, which takes other kernels and more threads."""
    shape = [r.choice([r.randint(0, 7), r.randint(1, 7), r.randint(1, 40)]) for _ in range(ndim)]
    if shape and r.randint(0, 9) == 0:
        shape = [min(n, 3) for n in shape]
        shape[r.randint(0, ndim - 1)] = r.choice(
            [r.randint(41, 300), r.randint(41, 300), 1023, 4097, r.choice([4096, 70001])]
        )
    while np.prod(shape, dtype=float) > 3e5:
        shape[int(np.argmax(shape))] //= 7
    return tuple(shape)


def inputs(r, memories, shape, dtypes, kinds=KINDS):
    """An array-like of any layout."""
    rng = generator(r)
    a = cast(numbers(rng, shape, r.choice(kinds)), r.choice(dtypes))
    if a.dtype.kind in "iu" and a.dtype.itemsize == 8 and r.random() < 0.5:
        # beyond 2^53, where a double does not hold every integer
        a += a.dtype.type(2**62)
    how = r.choice(["plain", "laid out", "laid out", "broadcast", "read-only", "list"])
    if how == "laid out":
        return laid_out(r, a, memories)
    if how == "broadcast" and a.ndim and a.size:
        return np.broadcast_to(a[:1], a.shape)
    if how == "read-only":
        a.flags.writeable = False
    if how == "list" and a.dtype == np.float64 and a.size:
        return a.tolist()
    return a


# -------------------------------------------------------------------------------------------------- calls


def axes(r, ndim, several=True):
    if ndim == 0:
        return r.choice([-1, 0, None])
    how = r.choice(["one", "one", "all", "some"]) if several else "one"
    if how == "some":
        return tuple(d - r.choice([0, ndim]) for d in r.sample(range(ndim), r.randint(0, ndim)))
    return r.randint(-ndim, ndim - 1) if how == "one" else None


def result_of(function, x, axis, keepdims=False):
    """Shape of the result that `out` stands for."""
    reduced = oracle.axes_of(x.ndim, axis)
    rest = tuple(n for d, n in enumerate(x.shape) if d not in reduced)
    if function == "logsumexp":
        return tuple(1 if d in reduced else n for d, n in enumerate(x.shape)) if keepdims else rest
    if function == "softmax_jacobian":
        n = int(np.prod([n for d, n in enumerate(x.shape) if d in reduced], initial=1))
        return (*rest, n, n)
    return x.shape


def native_float(dtype):
    """The result's dtype for arrays of `dtype`."""
    dtype = np.dtype(dtype)
    floating = dtype.kind == "f" or dtype.name == "bfloat16"
    return dtype.newbyteorder("=") if floating else np.dtype(float)


def add_out(r, case, x, dtype):
    """Perhaps an `out`: fresh memory of any layout, an input itself, or memory that overlaps an input."""
    options, first = case.options, case.arguments[0]
    shape = result_of(case.function, x, case.options["axis"], options.get("keepdims", False))
    how = r.choice(["none", "none", "fresh", "fresh", "same", "overlap"])
    if how == "fresh":
        swapped = dtype.kind == "f" and r.random() < 0.5
        a = np.full(shape, 7, dtype.newbyteorder() if swapped else dtype)
        options["out"] = laid_out(r, a, case.memories)
    elif how == "same" and isinstance(first, np.ndarray) and first.shape == shape:
        if native_float(first.dtype) == dtype and first.dtype.kind == dtype.kind and first.flags.writeable:
            options["out"] = first
    elif how == "overlap" and shape == x.shape and np.asarray(first).dtype == dtype and x.size:
        memory = np.resize(np.asarray(first), 3 * x.size)
        starts = (r.randint(0, 2 * x.size) for _ in range(2))
        source, out = (memory[start : start + x.size].reshape(shape) for start in starts)
        out.flags.writeable = source.flags.writeable = True
        case.arguments[0], options["out"] = source, out


def forward_call(r, case):
    name, options = case.function, case.options
    x = inputs(r, case.memories, shapes(r, r.randint(0, 4)), FLOATS * 2 + INTEGERS)
    case.arguments = [x]
    a = np.asarray(x)
    options["axis"] = axes(r, a.ndim)
    dtype = r.choice([None, None, None, "float16", "bfloat16", "float32", "float64"])
    if dtype is not None:
        options["dtype"] = dtype
    if name == "logsumexp":
        options["keepdims"] = r.random() < 0.5
    else:
        options["temperature"] = r.choice([1.0, 1, 0.5, 3.0, np.float32(7)])
    if r.randint(0, 2) == 0:
        add_mask(r, case, a.shape)
    add_out(r, case, a, native_float(a.dtype) if dtype is None else np.dtype(dtype))


def add_mask(r, case, shape):
    """A mask that broadcasts against `shape`."""
    shape = [r.choice([n, n, 1]) for n in shape][r.randint(0, len(shape)) :]
    case.options["where"] = laid_out(r, generator(r).integers(0, 4, shape) > 0, case.memories)


def backward_call(r, case):
    dtype = r.choice(FLOATS)
    shape = shapes(r, r.randint(0, 4))
    if case.function == "softmax_jacobian":
        shape = tuple(min(n, 6) for n in shape)
    g = inputs(r, case.memories, shape, [dtype], FINITE[:1])
    rng = generator(r)
    p = rng.uniform(0, 1, shape)
    if case.function.startswith("log"):
        p = np.where(rng.integers(0, 9, shape) == 0, -np.inf, -4 * p)
    p = laid_out(r, cast(p, dtype), case.memories)
    axis = case.options["axis"] = axes(r, p.ndim)
    if case.function == "softmax_jacobian":
        case.arguments = [p]
        if isinstance(axis, tuple):  # taken together in the array's order, as the oracle's single axis is not
            case.options["axis"] = axis[0] if axis else -1
        if p.ndim == 0 or case.options["axis"] is None:
            case.arguments, case.options["axis"] = [p.ravel()], 0
        p = case.arguments[0]
    else:
        case.arguments = [g, p]
        case.options["temperature"] = r.choice([1.0, 2, 0.25])
        if r.random() < 0.3:
            add_mask(r, case, p.shape)
    add_out(r, case, p, native_float(p.dtype))


def loss_call(r, case):
    shape = shapes(r, r.randint(1, 4))
    axis = axes(r, len(shape), several=False)
    classes = max(1, shape[axis])
    shape = tuple(np.where(np.arange(len(shape)) == axis % len(shape), classes, shape).tolist())
    rest = tuple(np.delete(shape, axis).tolist())
    rng = generator(r)
    x = inputs(r, case.memories, shape, [*FLOATS, "<i4"], FINITE)
    case.options = {"axis": axis, "reduction": r.choice(["mean", "sum", "none"])}
    if r.randint(0, 3):
        ignored = case.options["ignore_index"] = r.choice([-100, -1, 0])
        dtypes = ["<i4", ">i8", "i1", "<i2"] + (["<u8", "u1"] if ignored == 0 else [])
        dtype = np.dtype(r.choice(dtypes))
        target = rng.integers(0, min(classes, 127), rest)
        target = np.where(rng.integers(0, 5, rest) == 0, ignored, target)
        target = laid_out(r, target.astype(dtype), case.memories)
    else:
        target = laid_out(r, cast(rng.uniform(0, 1, shape), r.choice(FLOATS)), case.memories)
    case.arguments = [x, target]
    if r.random() < 0.5:
        case.options["weight"] = rng.uniform(0.5, 2, classes).astype(r.choice(["f4", "f8"]))
    case.options["label_smoothing"] = r.choice([0.0, 0.0, 0.1, 1])
    if case.function == "cross_entropy_with_grad":
        if r.random() < 0.5:
            grad_shape = rest if case.options["reduction"] == "none" else ()
            case.options["grad_output"] = rng.standard_normal(grad_shape)
        a = np.asarray(x)
        add_out(r, case, a, native_float(a.dtype))


# ------------------------------------------------------------------------------------------------- faults
# Each spoils one argument of a sound call and returns the exceptions that may come, or nothing where it does
# not apply to the call.


def bad_axis(r, case):
    ndim = np.ndim(case.arguments[0])
    outside, kind = (np.exceptions.AxisError,), (TypeError,)
    choices = [
        (ndim + 1, outside),
        (-ndim - 2, outside),
        (10**6, outside),
        ("0", kind),
        (0.5, kind),
        ([0.5], kind),
    ]
    if case.function in LOSS:
        choices += [(None, kind), ((0,), kind)]
    elif ndim:
        choices += [((0, -ndim), (ValueError,)), ((0, ndim), outside)]
    case.options["axis"], errors = r.choice(choices)
    return errors


def bad_input(r, case):
    which = r.randint(0, len(case.arguments) - 1)
    case.arguments[which] = r.choice([*REFUSED, [[1.0, 2.0], [3.0]], "text", None, {}])
    return TypeError, ValueError, np.exceptions.AxisError  # its shape may not fit either


def bad_out(r, case):
    if case.function == "cross_entropy":
        return None
    x = np.asarray(case.arguments[0])
    if x.dtype.hasobject or (x.dtype.kind not in "fiub" and x.dtype.name != "bfloat16"):
        return None
    case.options["out"], errors = r.choice(
        [
            (np.full((2, 3, 5, 7, 1), 7.0), (ValueError,)),
            ([7.0], (TypeError,)),
            ("out", (TypeError,)),
            (np.ma.zeros(3), (TypeError,)),
            (np.full(x.shape, 7, np.int32), (TypeError, ValueError)),
            (np.full(x.shape, 7, object), (TypeError, ValueError)),
            (np.full(x.shape, 7, complex), (TypeError, ValueError)),
            (np.broadcast_to(np.float64(7), (4, 4, 4, 4, 4, 4)), (ValueError,)),
        ]
    )
    return errors


def read_only_out(r, case):
    out = case.options.get("out")
    if not isinstance(out, np.ndarray):
        return None
    case.options["out"] = out.view()
    case.options["out"].flags.writeable = False
    return (ValueError,)


def bad_temperature(r, case):
    if case.function not in FORWARD[:2] + BACKWARD:
        return None
    number, kind = (ValueError,), (TypeError,)
    choices = [(v, number) for v in (0, -1.0, np.nan, np.inf, -np.inf, -0.0)]
    choices += [(v, kind) for v in ("warm", None, [1.0, 2.0], 1j)]
    case.options["temperature"], errors = r.choice(choices)
    return errors


def bad_where(r, case):
    if case.function not in FORWARD + BACKWARD:
        return None
    choices = [(np.ones(3), (TypeError,)), (1, (TypeError,)), ("mask", (TypeError,))]
    choices += [(np.ones((2, 9, 9, 9, 9, 9), bool), (ValueError,))]
    case.options["where"], errors = r.choice(choices)
    return errors


def bad_dtype(r, case):
    if case.function not in FORWARD:
        return None
    case.options["dtype"] = r.choice([int, bool, complex, np.longdouble, object, "U3", "M8[s]", "no"])
    return (TypeError,)


def bad_shape(r, case):
    if case.function not in BACKWARD:
        return None
    case.arguments[1] = np.zeros((*np.shape(case.arguments[0]), 2))
    return ValueError, np.exceptions.AxisError


def bad_target(r, case):
    if case.function not in LOSS:
        return None
    target = np.array(case.arguments[1])
    classes = np.shape(case.arguments[0])[case.options["axis"]]
    how = r.choice(["index", "shape", "type"])
    if how == "shape":
        case.arguments[1] = np.zeros((*target.shape, 2), target.dtype)
        return (ValueError,)
    if how == "type":
        case.arguments[1] = np.zeros(target.shape, r.choice([complex, object, "U9", bool]))
        return TypeError, ValueError
    if target.dtype.kind not in "iu" or not target.size:
        return None
    target = target.astype("i8")
    target.flat[r.randint(0, target.size - 1)] = r.choice([classes, -2, 2**40, -(2**63)])
    case.arguments[1] = target
    return (IndexError,)


def bad_loss_option(r, case):
    if case.function not in LOSS:
        return None
    number, kind = (ValueError,), (TypeError,)
    choices = [("reduction", v, number) for v in ("average", "", None, 3, [])]
    choices += [("label_smoothing", v, number) for v in (-0.1, 1.5, np.nan)]
    choices += [("label_smoothing", v, kind) for v in (None, [0.1, 0.2], 1j)]
    choices += [("ignore_index", v, kind) for v in (1.5, "0", None)]
    choices += [("weight", np.ones((2, 2)), number), ("weight", np.ones(400), number)]
    choices += [("weight", np.ones(3, complex), (TypeError, ValueError))]
    if case.function == "cross_entropy_with_grad":
        choices += [
            ("grad_output", np.ones((9, 9, 9, 9, 9)), number),
            ("grad_output", 1j, (TypeError, ValueError)),
        ]
    name, case.options[name], errors = r.choice(choices)
    return errors


FAULTS = {
    f.__name__: f
    for f in (
        bad_axis,
        bad_input,
        bad_out,
        read_only_out,
        bad_temperature,
        bad_where,
        bad_dtype,
        bad_shape,
        bad_target,
        bad_loss_option,
    )
}


def draw(r, levels):
    """A call: sound, or with one fault, or two."""
    function = r.choice(FUNCTIONS)
    case = Case(function, [], {}, r.choice(levels), r.choice([1, 2]))
    build = forward_call if function in FORWARD else loss_call if function in LOSS else backward_call
    build(r, case)
    wanted = r.choice([0, 0, 1, 1, 1, 2])
    # the others look at the axis and the shapes that these two spoil
    last = {"bad_axis": 1, "bad_input": 2}
    for name in sorted(r.sample(sorted(FAULTS), 3 * wanted), key=lambda name: last.get(name, 0)):
        if len(case.faults) < wanted and (errors := FAULTS[name](r, case)):
            case.faults[name] = errors
    return case


# ------------------------------------------------------------------------------------------------- judging


def bits(a):
    """What an array-like holds, to tell later whether it was touched."""
    return a.tobytes() if isinstance(a, np.ndarray) and not a.dtype.hasobject else repr(a)


def judge(case):
    """Make the call; True if it raised what a fault asks for. Anything not documented fails an assertion."""
    out = case.options.get("out")
    given = [*case.arguments, *(v for k, v in case.options.items() if k != "out")]
    shared = [isinstance(out, np.ndarray) and np.may_share_memory(out, a) for a in map(np_or_none, given)]
    before = [bits(a) for a in given]
    memories = [bits(m) for m in case.memories]
    out_before = bits(out)
    expected = None if case.faults else expectation(case)
    try:
        result, error = case.call(), None
    except Exception as raised:
        result, error = None, raised
    if error is not None:
        allowed = tuple(e for errors in case.faults.values() for e in errors)
        assert isinstance(error, allowed), f"{type(error).__name__}: {error}"
        assert str(error), "an error without a message"
        assert bits(out) == out_before, "out was touched"
        assert [bits(a) for a in given] == before, "an input was touched"
        assert [bits(m) for m in case.memories] == memories
        return True
    assert not case.faults, f"accepted {case.faults}"
    for old, a, is_out in zip(before, given, shared, strict=True):
        assert is_out or bits(a) == old, "an input was touched"
    check(case, result, expected)
    untouched_around(case, out, out_before, memories)
    return False


def np_or_none(a):
    return a if isinstance(a, np.ndarray) else None


def untouched_around(case, out, out_before, memories):
    """Put the old result back: all memory must be as it was, between and around the elements."""
    if isinstance(out, np.ndarray):
        out[...] = np.frombuffer(out_before, out.dtype).reshape(out.shape)
    assert [bits(m) for m in case.memories] == memories, "memory around an array was touched"


def expectation(case):
    """What the oracle says, each part with the scale of its error, and the error allowed in ulp."""
    name, options = case.function, case.options
    axis = options["axis"]
    a = np.asarray(case.arguments[0])
    size = np.abs(oracle.wide(a))
    top = float(np.max(size, where=np.isfinite(size), initial=0) / options.get("temperature", 1))
    if a.dtype.kind in "iu":
        top = 0.0  # their differences are exact
    temperature = options.get("temperature", 1.0)
    where = options.get("where")
    if name == "softmax":
        return [(oracle.softmax(a, axis, temperature, where), None, 16 + 4 * top)]
    if name == "log_softmax":
        want = oracle.log_softmax(a, axis, temperature, where)
        return [(want, np.maximum(np.abs(want), 64 + top), 8)]
    if name == "logsumexp":
        want = oracle.logsumexp(a, axis, where, options["keepdims"])
        return [(want, np.maximum(np.abs(want), 64 + top), 8)]
    if name == "softmax_jacobian":
        want = oracle.softmax_jacobian(a, axis)
        return [(want, np.maximum(np.abs(want), 0.25), 8)]
    if name in LOSS:
        chosen = {k: v for k, v in options.items() if k not in ("axis", "reduction", "out", "grad_output")}
        with_grad = {"grad_output": options.get("grad_output"), "reduction": options["reduction"]}
        loss, grad, grad_scale = oracle.cross_entropy(
            a, np.array(case.arguments[1]), axis, **chosen, **with_grad
        )
        terms = max(1, a.size if options["reduction"] != "none" else a.shape[axis])
        loss = (loss, np.maximum(np.abs(loss), (64 + top) * terms), 8)
        return [loss] if name == "cross_entropy" else [loss, (grad, grad_scale, 16 + 4 * top)]
    p = np.asarray(case.arguments[1])
    reduced = oracle.axes_of(p.ndim, axis)
    if name.startswith("softmax"):
        want, wide = oracle.softmax_vjp(a, p, axis, temperature, where), oracle.wide(p)
        scale = wide * (size + oracle.total(size * wide, reduced, keepdims=True))
    elif name == "log_softmax_backward":
        want = oracle.log_softmax_vjp(a, p, axis, temperature, where)
        scale = size + np.exp(oracle.wide(p)) * oracle.total(size, reduced, keepdims=True)
    else:
        want = oracle.log_softmax_jvp(a, p, axis, temperature, where)
        scale = size + oracle.total(size * np.exp(oracle.wide(p)), reduced, keepdims=True)
    return [(want, scale / temperature, 16)]


def check(case, result, expected):
    """Types, shapes, identity with `out`, and the numbers."""
    name, options = case.function, case.options
    results = list(result) if name == "cross_entropy_with_grad" else [result]
    out = options.get("out")
    if out is not None:
        assert results[-1] is out
    dtype = np.dtype(options.get("dtype") or native_float(np.asarray(case.arguments[0]).dtype))
    for k, (got, (want, scale, limit)) in enumerate(zip(results, expected, strict=True)):
        got = np.asarray(got)
        wanted = np.dtype("f4") if name in LOSS and k == 0 and dtype.itemsize == 2 else dtype
        assert got.dtype.newbyteorder("=") == wanted, f"dtype {got.dtype}, wanted {wanted}"
        got = got.astype(got.dtype.newbyteorder("="))
        error = oracle.max_ulp(got, want, scale)
        assert error <= limit, f"part {k}: {error} ulp, allowed {limit}"
