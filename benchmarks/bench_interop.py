"""Time inside other libraries, with and without csoftmax, where their users feel it.

    python benchmarks/bench_interop.py              # every case, as a Markdown table
    python benchmarks/bench_interop.py PyTorch dask # those whose name has one of the words
    python benchmarks/bench_interop.py --threads 2

It needs the `interop` extra. Both sides of a case have given the same answer before they are timed, and then
take turns, round by round; a time is the median of its rounds.
"""

import argparse
import os
import statistics
import subprocess
import sys

import measure
import numpy as np

from csoftmax.cli.bench import interleave

CASES = {}


def case(name):
    """Register a function that returns what the library does itself and what it does with csoftmax."""
    return lambda prepare: CASES.setdefault(name, prepare)


def normal(*shape, dtype=np.float32, order="C"):
    values = np.random.default_rng(0).standard_normal(shape, dtype=np.float32) * 3
    return np.asarray(values, dtype, order=order)


# ------------------------------------------------------------------------------------------------ PyTorch


def torch_attention(*shape, backward):
    import torch

    from csoftmax.interop.torch import replace_softmax

    q, k, v = (torch.from_numpy(normal(*shape) / 3).requires_grad_(backward) for _ in range(3))

    def attend():
        y = torch.softmax(q @ k.mT / shape[-1] ** 0.5, -1) @ v
        return torch.autograd.grad(y.sum(), q)[0] if backward else y

    def replaced():
        with replace_softmax():
            return attend()

    return attend, replaced


@case("PyTorch: attention, (1, 12, 512, 64)")
def _():
    return torch_attention(1, 12, 512, 64, backward=False)


@case("PyTorch: attention and its gradient, (1, 12, 512, 64)")
def _():
    return torch_attention(1, 12, 512, 64, backward=True)


def torch_softmax(shape, dim, dtype="float32"):
    import torch

    from csoftmax.interop.torch import softmax

    x = torch.from_numpy(normal(*shape)).to(getattr(torch, dtype))
    return lambda: torch.softmax(x, dim), lambda: softmax(x, dim)


@case("PyTorch: softmax of attention scores, (1, 12, 512, 512)")
def _():
    return torch_softmax((1, 12, 512, 512), -1)


@case("PyTorch: the same in bfloat16")
def _():
    return torch_softmax((1, 12, 512, 512), -1, "bfloat16")


@case("PyTorch: softmax over channels, (2, 21, 256, 256), dim=1")
def _():
    return torch_softmax((2, 21, 256, 256), 1)


@case("PyTorch: softmax of 10 classes, (10000, 10)")
def _():
    return torch_softmax((10000, 10), -1)


@case("PyTorch: a small softmax, (8, 10)")
def _():
    return torch_softmax((8, 10), -1)


@case("PyTorch: cross_entropy and its gradient, (512, 50257)")
def _():
    import torch

    from csoftmax.interop.torch import cross_entropy

    x = torch.from_numpy(normal(512, 50257)).requires_grad_()
    target = torch.from_numpy(np.arange(512) * 97)

    def step(function):
        return torch.autograd.grad(function(x, target), x)[0]

    return lambda: step(torch.nn.functional.cross_entropy), lambda: step(cross_entropy)


# ---------------------------------------------------------------------------------------------------- JAX


def jax_softmax(shape, axis=-1, gradient=False):
    import jax
    import jax.numpy as jnp

    from csoftmax.interop.jax import softmax

    x = jnp.asarray(normal(*shape))

    def compiled(softmax):
        def forward(x):
            return softmax(x, axis=axis)

        function = jax.jit(jax.grad(lambda x: (forward(x) * x).sum()) if gradient else forward)
        return lambda: function(x).block_until_ready()

    return compiled(jax.nn.softmax), compiled(softmax)


@case("JAX: softmax of attention scores, (1, 12, 512, 512)")
def _():
    return jax_softmax((1, 12, 512, 512))


@case("JAX: the same and its gradient")
def _():
    return jax_softmax((1, 12, 512, 512), gradient=True)


@case("JAX: softmax over channels, (2, 21, 256, 256), axis=1")
def _():
    return jax_softmax((2, 21, 256, 256), 1)


@case("JAX: softmax of 10 classes, (10000, 10)")
def _():
    return jax_softmax((10000, 10))


@case("JAX: softmax of a vocabulary, (64, 50257)")
def _():
    return jax_softmax((64, 50257))


@case("JAX: a small softmax, (8, 10)")
def _():
    return jax_softmax((8, 10))


# -------------------------------------------------------------------------------------------------- thinc


def thinc_layer(rows, width, tags):
    from thinc.api import Softmax, use_ops

    from csoftmax.interop.thinc import CSoftmaxOps

    x = normal(rows, width)
    layers = []
    for name in "numpy", CSoftmaxOps.name:
        with use_ops(name):
            layer = Softmax(tags, width, init_W=lambda ops, shape: normal(*shape) / width**0.5)
            layers.append(layer.initialize())
    return [lambda layer=layer: layer.predict(x) for layer in layers]


@case("thinc: a tagger's Softmax layer with its product, (2000, 96) to 50 tags")
def _():
    return thinc_layer(2000, 96, 50)


def thinc_operations():
    from thinc.api import NumpyOps

    from csoftmax.interop.thinc import CSoftmaxOps

    return NumpyOps(), CSoftmaxOps()


@case("thinc: softmax and backprop_softmax, (2000, 50)")
def _():
    x, dy = normal(2000, 50), normal(2000, 50)[::-1].copy()

    def both(ops):
        return ops.backprop_softmax(ops.softmax(x), dy)

    own, ours = thinc_operations()
    return lambda: both(own), lambda: both(ours)


@case("thinc: softmax_sequences of attention, 200 texts of 300 words")
def _():
    x, lengths = normal(60_000, 1), np.full(200, 300, np.int32)
    own, ours = thinc_operations()
    return lambda: own.softmax_sequences(x, lengths), lambda: ours.softmax_sequences(x, lengths)


@case("thinc: softmax_sequences of attention, 2000 texts of 15 words")
def _():
    x, lengths = normal(30_000, 1), np.full(2000, 15, np.int32)
    own, ours = thinc_operations()
    return lambda: own.softmax_sequences(x, lengths), lambda: ours.softmax_sequences(x, lengths)


# ----------------------------------------------------------------------------------------------- boosting


def numpy_objective(scores, labels, factor):
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    hess = factor * p * (1 - p)
    p[np.arange(len(p)), labels] -= 1
    return p, hess


def objective(classes, factor, dtype, order):
    from csoftmax.interop.boosting import lightgbm_sklearn_objective, xgboost_sklearn_objective

    ours = xgboost_sklearn_objective if factor == 2 else lightgbm_sklearn_objective
    scores = normal(1_000_000 // classes, classes, dtype=dtype, order=order)
    labels = np.arange(len(scores)) % classes
    return lambda: numpy_objective(scores, labels, factor), lambda: ours(labels, scores, None)


@case("LightGBM: an objective in NumPy, 10 classes, 100000 samples")
def _():
    return objective(10, 10 / 9, np.float64, "F")


@case("LightGBM: an objective in NumPy, 100 classes, 10000 samples")
def _():
    return objective(100, 100 / 99, np.float64, "F")


@case("XGBoost: an objective in NumPy, 10 classes, 100000 samples")
def _():
    return objective(10, 2, np.float32, "C")


@case("XGBoost: an objective in NumPy, 100 classes, 10000 samples")
def _():
    return objective(100, 2, np.float32, "C")


def lightgbm_training(classes, threads):
    import lightgbm

    from csoftmax.interop.boosting import lightgbm_objective

    X, y = normal(20_000, 10), np.arange(20_000) % classes
    params = {"num_class": classes, "verbose": -1, "boost_from_average": False, "num_threads": threads}

    def train(objective):
        model = lightgbm.train(params | {"objective": objective}, lightgbm.Dataset(X, y), 5)
        return model.predict(X[:100], raw_score=True)

    return lambda: train("multiclass"), lambda: train(lightgbm_objective)


@case("LightGBM: training with its own objective, 10 classes, 20000 samples, 5 rounds")
def _():
    return lightgbm_training(10, int(os.environ["OMP_NUM_THREADS"]))


@case("LightGBM: training with its own objective, 100 classes, 20000 samples, 5 rounds")
def _():
    return lightgbm_training(100, int(os.environ["OMP_NUM_THREADS"]))


# --------------------------------------------------------------------------------------------------- dask


def dask_softmax(shape, chunks):
    import dask
    import dask.array as da

    from csoftmax.interop.dask import softmax

    dask.config.set(scheduler="threads", num_workers=int(os.environ["OMP_NUM_THREADS"]))
    x = da.from_array(normal(*shape), chunks)
    powers = da.exp(x - x.max(axis=-1, keepdims=True))
    formula = powers / powers.sum(axis=-1, keepdims=True)
    return lambda: formula.max(axis=-1).compute(), lambda: softmax(x).max(axis=-1).compute()


@case("dask: largest probability, a chunked vocabulary, (512, 131072) in chunks of (64, 16384)")
def _():
    return dask_softmax((512, 131072), (64, 16384))


@case("dask: largest probability, whole rows, (65536, 1000) in chunks of (4096, 1000)")
def _():
    return dask_softmax((65536, 1000), (4096, 1000))


# ----------------------------------------------------------------------------- scikit-learn, autograd, ONNX


def patched_sklearn(function):
    from sklearn.utils import extmath

    from csoftmax.interop import sklearn

    def switch(on):
        if on != (extmath.softmax is sklearn.softmax):
            (sklearn.patch if on else sklearn.unpatch)()
        return function()

    return lambda: switch(False), lambda: switch(True)


@case("scikit-learn: extmath.softmax, (10000, 10)")
def _():
    from sklearn.utils import extmath

    x = normal(10_000, 10)
    return patched_sklearn(lambda: extmath.softmax(x))


@case("scikit-learn: LogisticRegression.predict_proba, 10000 samples, 64 features, 10 classes")
def _():
    from sklearn.linear_model import LogisticRegression

    x = normal(10_000, 64, dtype=np.float64)
    model = LogisticRegression(max_iter=20, tol=1).fit(x[:500], np.arange(500) % 10)
    return patched_sklearn(lambda: model.predict_proba(x))


@case("autograd: gradient of a log-softmax loss, (1000, 1000)")
def _():
    import autograd
    import autograd.numpy as anp

    from csoftmax.interop.autograd import log_softmax

    def formula(x):
        shifted = x - anp.max(x, axis=-1, keepdims=True)
        return shifted - anp.log(anp.sum(anp.exp(shifted), axis=-1, keepdims=True))

    x, rows = normal(1000, 1000, dtype=np.float64), np.arange(1000)

    def gradient(function):
        return autograd.grad(lambda x: -anp.mean(function(x)[rows, rows]))

    own, ours = gradient(formula), gradient(log_softmax)
    return lambda: own(x), lambda: ours(x)


def onnx_evaluation(operator, inputs, **attributes):
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    from csoftmax.interop.onnx import OPERATORS

    names = [f"x{i}" for i in range(len(inputs))]
    types = [TensorProto.FLOAT, TensorProto.INT64]
    graph = helper.make_graph(
        [helper.make_node(operator, names, ["y"], **attributes)],
        operator,
        [helper.make_tensor_value_info(n, t, x.shape) for n, t, x in zip(names, types, inputs, strict=False)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph)
    evaluators = ReferenceEvaluator(model), ReferenceEvaluator(model, new_ops=OPERATORS)
    feed = dict(zip(names, inputs, strict=True))
    return [lambda evaluator=evaluator: evaluator.run(None, feed)[0] for evaluator in evaluators]


@case("ONNX reference evaluator: Softmax, (1000, 1000)")
def _():
    return onnx_evaluation("Softmax", [normal(1000, 1000)], axis=-1)


@case("ONNX reference evaluator: SoftmaxCrossEntropyLoss, (1000, 1000)")
def _():
    return onnx_evaluation("SoftmaxCrossEntropyLoss", [normal(1000, 1000), np.arange(1000)])


# -------------------------------------------------------------------------------------------------- Numba


def numba_softmax(rows, n, whole=False):
    import numba
    import numba_kernels

    from csoftmax.interop.numba import softmax

    formula = numba.njit(fastmath=True)(numba_kernels.softmax.py_func)

    @numba.njit
    def by_rows(x, out):
        for i in range(len(x)):
            softmax(x[i], out=out[i])

    @numba.njit
    def at_once(x, out):
        softmax(x, out=out)

    def call(function):
        function(x, out)
        return out.copy()

    x, out = normal(rows, n), np.empty((rows, n), np.float32)
    return lambda: call(formula), lambda: call(at_once if whole else by_rows)


@case("Numba: a formula in Numba, row by row, (1000, 10)")
def _():
    return numba_softmax(1000, 10)


@case("Numba: a formula in Numba, row by row, (1000, 100)")
def _():
    return numba_softmax(1000, 100)


@case("Numba: a formula in Numba, the matrix in one call, (1000, 10)")
def _():
    return numba_softmax(1000, 10, whole=True)


# ------------------------------------------------------------------------------------------------- import


@case("Python: import numpy, and csoftmax too")
def _():
    def imported(*modules):
        subprocess.run([sys.executable, "-c", f"import {', '.join(modules)}"], check=True)
        return np.zeros(1)

    return lambda: imported("numpy"), lambda: imported("numpy", "csoftmax")


# ----------------------------------------------------------------------------------------------- the table


def arrays(result):
    """A tensor, array or pair of arrays as a list of arrays; bfloat16 has no way to NumPy but by float32."""
    if hasattr(result, "detach"):
        result = result.detach().float().numpy()
    return list(result) if isinstance(result, tuple) else [result]


def check(name, without, within):
    for want, got in zip(arrays(without()), arrays(within()), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-2, atol=1e-4 * np.abs(want).max(), err_msg=name)


def duration(seconds):
    return f"{seconds * 1e6:.1f} µs" if seconds < 1e-3 else f"{seconds * 1e3:.2f} ms"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="measure the cases whose name has one of these")
    parser.add_argument("--threads", type=int, default=1, help="threads (and CPUs) for both sides")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    measure.pin(options.threads)
    print(f"| {options.threads} thread{'s'[: options.threads > 1]} | without | with csoftmax | ratio |")
    print("|---|---|---|---|")
    for name, prepare in CASES.items():
        if options.words and not any(word.lower() in name.lower() for word in options.words):
            continue
        without, within = prepare()
        check(name, without, within)
        runs = {"without": without, "with": within}
        rounds = interleave(runs, threads=options.threads, rounds=range(options.rounds), dropout=100)
        times = {side: statistics.median(figures) for side, figures in rounds.items()}
        ratio = times["without"] / times["with"]
        print(
            f"| {name} | {duration(times['without'])} | {duration(times['with'])} | {ratio:.2f} |", flush=True
        )


if __name__ == "__main__":
    main()
