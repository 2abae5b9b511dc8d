"""Writes docs/accuracy.md: the error of every operation, type and ISA level, beside other libraries.

    python tools/accuracy.py [--long] [--check]

Needs the extras `test` and `peers`. --long adds rows of 2**24 numbers; --check fails where csoftmax is worse
than every peer.
"""

import argparse
import sys
from importlib.metadata import version
from pathlib import Path

import ml_dtypes  # noqa: F401 (gives NumPy the name "bfloat16")
import numpy as np

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import jax  # noqa: E402
import oracle  # noqa: E402
import scipy.special  # noqa: E402
import torch  # noqa: E402

import csoftmax  # noqa: E402

jax.config.update("jax_enable_x64", True)

DTYPES = ("float32", "float64", "float16", "bfloat16")
BITS = np.finfo(np.longdouble).nmant + 1
LEVELS = csoftmax.runtime_info()["isa"]["supported"]
SMALLEST = {"float32": -87, "float64": -708, "float16": -9.7, "bfloat16": -87}  # log of the smallest normal
CLASSES = {
    "normal": lambda rng, shape, dtype: rng.standard_normal(shape) * 3,
    "wide range": lambda rng, shape, dtype: rng.standard_normal(shape) * 30,
    "large offset": lambda rng, shape, dtype: rng.standard_normal(shape) * 3 + 1000,
    "ties": lambda rng, shape, dtype: rng.integers(-2, 3, shape),
    "one-hot-like": lambda rng, shape, dtype: np.where(
        np.arange(shape[1]) == 5, 20, rng.standard_normal(shape)
    ),
    "subnormal results": lambda rng, shape, dtype: np.where(
        np.arange(shape[1]) == 0, 0, SMALLEST[dtype] + 4 * rng.uniform(-1, 1, shape)
    ),
}


class Data:
    """One input of a class: logits, an incoming gradient, class indices, and softmax's output."""

    def __init__(self, name, dtype, shape):
        rng = np.random.default_rng(7)
        self.x = np.asarray(CLASSES[name](rng, shape, dtype)).astype(dtype)
        self.g = rng.standard_normal(shape).astype(dtype)
        self.target = rng.integers(0, shape[1], shape[0])
        self.p, self.logs = (f(self.x).astype(dtype) for f in (oracle.softmax, oracle.log_softmax))

    def right(self, operation):
        """The right answer, and the size of the terms that cancel in it where any do."""
        if operation == "softmax_backward":
            size, p = np.abs(oracle.wide(self.g)), oracle.wide(self.p)
            return oracle.softmax_vjp(self.g, self.p), p * (size + (size * p).sum(-1, keepdims=True))
        if operation == "log_softmax_backward":
            size, p = np.abs(oracle.wide(self.g)), np.exp(oracle.wide(self.logs))
            return oracle.log_softmax_vjp(self.g, self.logs), size + p * size.sum(-1, keepdims=True)
        if operation == "cross_entropy":
            return oracle.cross_entropy(self.x, self.target, reduction="none")[0], None
        if operation == "cross_entropy gradient":
            return oracle.cross_entropy(self.x, self.target, reduction="sum")[1:]
        return getattr(oracle, operation)(self.x), None


OURS = {
    "softmax": lambda d: csoftmax.softmax(d.x),
    "log_softmax": lambda d: csoftmax.log_softmax(d.x),
    "logsumexp": lambda d: csoftmax.logsumexp(d.x),
    "softmax_backward": lambda d: csoftmax.softmax_backward(d.g, d.p),
    "log_softmax_backward": lambda d: csoftmax.log_softmax_backward(d.g, d.logs),
    "cross_entropy": lambda d: csoftmax.cross_entropy(d.x, d.target, reduction="none"),
    "cross_entropy gradient": lambda d: csoftmax.cross_entropy_with_grad(d.x, d.target, reduction="sum")[1],
}


def numpy_logs(x):
    shifted = x - x.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def numpy_total(x):
    top = x.max(-1, keepdims=True)
    return (top + np.log(np.exp(x - top).sum(-1, keepdims=True)))[:, 0]


def numpy_loss(x, target):
    return -np.take_along_axis(numpy_logs(x), target[:, None], -1)[:, 0]


def numpy_loss_gradient(x, target):
    grad = oracle.numpy_formula(x)
    grad[np.arange(len(x)), target] -= np.asarray(1, x.dtype)
    return grad


NUMPY = {
    "softmax": lambda d: oracle.numpy_formula(d.x),
    "log_softmax": lambda d: numpy_logs(d.x),
    "logsumexp": lambda d: numpy_total(d.x),
    "softmax_backward": lambda d: d.p * (d.g - (d.g * d.p).sum(-1, keepdims=True)),
    "log_softmax_backward": lambda d: d.g - np.exp(d.logs) * d.g.sum(-1, keepdims=True),
    "cross_entropy": lambda d: numpy_loss(d.x, d.target),
    "cross_entropy gradient": lambda d: numpy_loss_gradient(d.x, d.target),
}
SCIPY = {
    "softmax": lambda d: scipy.special.softmax(d.x, -1),
    "log_softmax": lambda d: scipy.special.log_softmax(d.x, -1),
    "logsumexp": lambda d: scipy.special.logsumexp(d.x, -1),
}


def to_torch(a):
    if a.dtype.name == "bfloat16":
        return torch.from_numpy(a.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(a)


def torch_gradient(function, d):
    x = to_torch(d.x.copy()).requires_grad_()
    function(x).backward()
    return x.grad


functional = torch.nn.functional
TORCH = {
    "softmax": lambda d: torch.softmax(to_torch(d.x), -1),
    "log_softmax": lambda d: torch.log_softmax(to_torch(d.x), -1),
    "logsumexp": lambda d: torch.logsumexp(to_torch(d.x), -1),
    "softmax_backward": lambda d: torch._softmax_backward_data(
        to_torch(d.g), to_torch(d.p), -1, to_torch(d.x).dtype
    ),
    "log_softmax_backward": lambda d: torch._log_softmax_backward_data(
        to_torch(d.g), to_torch(d.logs), -1, to_torch(d.x).dtype
    ),
    "cross_entropy": lambda d: functional.cross_entropy(
        to_torch(d.x), torch.from_numpy(d.target), reduction="none"
    ),
    "cross_entropy gradient": lambda d: torch_gradient(
        lambda x: functional.cross_entropy(x, torch.from_numpy(d.target), reduction="sum"), d
    ),
}


def jax_loss(x, target):
    return -jax.numpy.take_along_axis(jax.nn.log_softmax(x), target[:, None], -1)[:, 0]


JAX = {
    "softmax": lambda d: jax.nn.softmax(d.x),
    "log_softmax": lambda d: jax.nn.log_softmax(d.x),
    "logsumexp": lambda d: jax.nn.logsumexp(d.x, axis=-1),
    "cross_entropy": lambda d: jax_loss(d.x, d.target),
    "cross_entropy gradient": lambda d: jax.grad(lambda x: jax_loss(x, d.target).sum())(d.x),
}
PEERS = {"NumPy": NUMPY, "SciPy": SCIPY, "PyTorch": TORCH, "JAX": JAX}


def to_numpy(result):
    if isinstance(result, torch.Tensor):
        result = result.detach()
        return (
            result.view(torch.int16).numpy().view("bfloat16")
            if result.dtype == torch.bfloat16
            else result.numpy()
        )
    return np.asarray(result)


@np.errstate(all="ignore")
def error(result, want, scale, dtype):
    """Worst and mean error in ulp of `dtype`, at which a narrower or wider result counts too."""
    result = to_numpy(result)
    if result.dtype.itemsize > np.dtype(dtype).itemsize == 2:
        dtype = result.dtype.name  # a loss in float32 for 16-bit logits
    errors = oracle.ulp_error(result.astype(dtype), want, scale)
    return float(errors.max()), float(errors.mean())


def measure(shapes):
    """Rows of the table: operation, dtype, class, shape, error of each level, error of each peer, and the error
    that correct rounding has where it is in units of the result.
    """
    for dtype in DTYPES:
        for name in CLASSES:
            for shape in shapes:
                data = Data(name, dtype, shape)
                for operation in OURS:
                    want, scale = data.right(operation)
                    ours, peers = {}, {}
                    for level in LEVELS:
                        with csoftmax.use_isa(level):
                            ours[level] = error(OURS[operation](data), want, scale, dtype)
                    for peer, functions in PEERS.items():
                        if operation in functions:
                            peers[peer] = error(functions[operation](data), want, scale, dtype)
                    yield operation, dtype, name, shape, ours, peers, 0.5 if scale is None else 0


def is_above(worst, others, floor):
    """Whether a worst error is above another, as the table shows them, and above the floor."""
    return float(f"{worst:.3g}") > max(floor, float(f"{others:.3g}"))


def show(figures):
    worst, mean = figures
    return f"{worst:.3g} ({mean:.2g})" if np.isfinite(worst) else "wrong"


def report(rows, write):
    """Write the page; in how many rows csoftmax is behind the best peer, and in how many behind all."""
    rows = sorted(rows, key=lambda row: (list(OURS).index(row[0]), DTYPES.index(row[1])))
    behind = worst = 0
    heading = None
    body = []
    for operation, dtype, name, shape, ours, peers, floor in rows:
        if heading != (operation, dtype):
            heading = operation, dtype
            body.append(f"\n## {operation}, {dtype}\n")
            columns = [*(f"csoftmax {level}" for level in ours), *PEERS]
            body.append("| input | " + " | ".join(columns) + " |\n|---" + "|---" * len(columns) + "|")
        top = max(figures[0] for figures in ours.values())
        is_behind = is_above(top, min(figures[0] for figures in peers.values()), floor)
        is_worst = is_above(top, max(figures[0] for figures in peers.values()), floor)
        behind, worst = behind + is_behind, worst + is_worst
        cells = [show(f) for f in ours.values()] + [show(peers[p]) if p in peers else "" for p in PEERS]
        mark = " (worst)" if is_worst else " *" if is_behind else ""
        body.append(f"| {name} {shape[0]} x {shape[1]}{mark} | " + " | ".join(cells) + " |")
    versions = ", ".join(f"{p} {version(p.lower() if p != 'PyTorch' else 'torch')}" for p in PEERS)
    write(
        f"""# Accuracy

Generated by `python tools/accuracy.py`. Worst error, and in brackets the mean, in units in the last place of
the result, against a reference in long double ({BITS} bits) from the same inputs. Where a gradient cancels,
the unit is that of the terms that cancel. NumPy is the formula that its users write, in the input's type.
"wrong" is NaN or an infinity where there is a number. {versions}.

An asterisk marks the rows in which a peer's worst error is below csoftmax's worst at any level, unless that is
the 0.5 of correct rounding: {behind} of {len(rows)}. csoftmax is worse than every peer in {worst}.
"""
        + "\n".join(body)
        + "\n"
    )
    return behind, worst


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--long", action="store_true", help="rows of 2**24 numbers too")
    parser.add_argument("--check", action="store_true", help="fail where csoftmax is worse than every peer")
    options = parser.parse_args()
    rows = list(measure([(500, 33), (200, 1000), *([(1, 2**24)] if options.long else [])]))
    behind, worst = report(rows, (ROOT / "docs" / "accuracy.md").write_text)
    print(f"rows={len(rows)} behind_the_best={behind} worse_than_all={worst}")
    return int(options.check and worst > 0)


if __name__ == "__main__":
    sys.exit(main())
