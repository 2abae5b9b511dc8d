"""Who is measured: csoftmax and the libraries people use today, each as it is best used.

A contender has one method an operation, which turns a problem into a callable without arguments that does the
whole operation and nothing else; conversion of the inputs happens before, and `to_numpy` after, outside the
timing. Where the cell asks for `out=` and a library cannot write into memory it is given, it takes part with
the result it allocates.

    python benchmarks/contenders.py           # check all of them on small arrays
    python benchmarks/contenders.py JAX Numba # or some
"""

import ctypes
import functools
import importlib
import importlib.metadata
import importlib.util
import sys
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes  # noqa: F401 (gives NumPy the name "bfloat16")
import numpy as np

import csoftmax
from csoftmax.cli.bench import FORMATS, Cell, Problem, WrongAnswer, numpy_softmax, numpy_softmax_backward

OPERATIONS = (
    "softmax",
    "log_softmax",
    "logsumexp",
    "softmax_backward",
    "log_softmax_backward",
    "cross_entropy",
    "cross_entropy_with_grad",
)
REDUCTIONS = {"none": lambda losses: losses, "mean": np.mean, "sum": np.sum}


class Contender:
    name = package = None
    needs = ()  # the packages that it takes besides its own
    dtypes = ("float32", "float64", "float16", "bfloat16")

    def __init__(self, threads):
        self.threads = threads
        self.library = importlib.import_module(self.package)

    @classmethod
    def version(cls):
        return importlib.metadata.version(cls.package)

    @classmethod
    def installed(cls):
        return all(importlib.util.find_spec(package) for package in (cls.package, *cls.needs))

    @classmethod
    def has(cls, cell):
        """Whether the library has the cell's operation for its dtype."""
        return hasattr(cls, cell.operation) and cell.dtype in cls.dtypes

    def prepare(self, problem):
        """A callable that does the problem's operation."""
        return getattr(self, problem.cell.operation)(problem)

    def to_numpy(self, result):
        return result


class CSoftmax(Contender):
    name = package = "csoftmax"

    def __init__(self, threads):
        super().__init__(threads)
        self.library.set_num_threads(threads)

    @classmethod
    def version(cls):
        return csoftmax.runtime_info()["version"]

    @classmethod
    def has(cls, cell):
        return cell.operation in OPERATIONS

    def prepare(self, problem):
        cell = problem.cell
        function = getattr(self.library, cell.operation)
        inputs = (problem.x,)
        if cell.operation.endswith("backward"):
            inputs = (problem.grad, problem.output)
        elif cell.operation.startswith("cross_entropy"):
            inputs = (problem.x, problem.target)
        keywords = ({"axis": cell.axis} if cell.axis != -1 else {}) | (
            {"out": problem.out} if cell.out else {}
        )
        if cell.reduction != "mean":
            keywords["reduction"] = cell.reduction
        return functools.partial(function, *inputs, **keywords)


class NumPy(Contender):
    """The formulas as one writes them, in place where NumPy can. (It adds bfloat16 in bfloat16: wrong.)"""

    name, package = "NumPy", "numpy"
    dtypes = ("float32", "float64", "float16")

    def softmax(self, problem):
        out = problem.out if problem.cell.out else None
        return functools.partial(numpy_softmax, problem.x, problem.cell.axis, out)

    def softmax_backward(self, problem):
        out = problem.out if problem.cell.out else None
        return functools.partial(numpy_softmax_backward, problem.grad, problem.output, problem.cell.axis, out)

    def log_softmax(self, problem):
        x, axis, out = problem.x, problem.cell.axis, problem.out if problem.cell.out else None

        def run():
            y = np.subtract(x, x.max(axis=axis, keepdims=True), out=out)
            return np.subtract(y, np.log(np.exp(y).sum(axis=axis, keepdims=True)), out=y)

        return run

    def logsumexp(self, problem):
        x, axis = problem.x, problem.cell.axis

        def run():
            maximum = x.max(axis=axis, keepdims=True)
            y = np.subtract(x, maximum)
            return np.log(np.exp(y, out=y).sum(axis=axis)) + maximum.squeeze(axis)

        return run

    def log_softmax_backward(self, problem):
        g, log_p, axis = problem.grad, problem.output, problem.cell.axis
        out = problem.out if problem.cell.out else None

        def run():
            y = np.exp(log_p, out=out)
            y *= g.sum(axis=axis, keepdims=True)
            return np.subtract(g, y, out=y)

        return run

    def cross_entropy(self, problem):
        x, target = problem.x, problem.target[..., None]
        reduce = REDUCTIONS[problem.cell.reduction]

        def run():
            maximum = x.max(axis=-1, keepdims=True)
            y = np.subtract(x, maximum)
            loss = np.log(np.exp(y, out=y).sum(axis=-1, keepdims=True)) + maximum
            return reduce((loss - np.take_along_axis(x, target, -1))[..., 0])

        return run

    def cross_entropy_with_grad(self, problem):
        x, target, out = problem.x, problem.target[..., None], problem.out if problem.cell.out else None
        reduce, mean = REDUCTIONS[problem.cell.reduction], problem.cell.reduction == "mean"

        def run():
            y = np.subtract(x, x.max(axis=-1, keepdims=True), out=out)
            picked = np.take_along_axis(y, target, -1)
            np.exp(y, out=y)
            total = y.sum(axis=-1, keepdims=True)
            loss = reduce((np.log(total) - picked)[..., 0])
            y /= total
            np.put_along_axis(y, target, np.take_along_axis(y, target, -1) - 1, -1)
            if mean:
                y /= target.size
            return loss, y

        return run


class SciPy(Contender):
    name, package = "SciPy", "scipy"
    dtypes = NumPy.dtypes

    def __init__(self, threads):
        super().__init__(threads)
        self.special = importlib.import_module("scipy.special")

    @classmethod
    def has(cls, cell):
        return cell.operation in ("softmax", "log_softmax", "logsumexp") and cell.dtype in cls.dtypes

    def prepare(self, problem):
        return functools.partial(getattr(self.special, problem.cell.operation), problem.x, axis=problem.cell.axis)


class Torch(Contender):
    name, package = "PyTorch", "torch"

    def __init__(self, threads):
        super().__init__(threads)
        self.library.set_num_threads(threads)
        self.dtype = {name: getattr(self.library, name) for name in self.dtypes}

    def tensor(self, array):
        if array.dtype == "bfloat16":
            return self.library.from_numpy(array.view(np.int16)).view(self.library.bfloat16)
        return self.library.from_numpy(array)

    def to_numpy(self, result):
        if isinstance(result, tuple):
            return tuple(map(self.to_numpy, result))
        if result.dtype == self.library.bfloat16:
            return result.view(self.library.int16).numpy().view("bfloat16")
        return result.numpy()

    def _forward(self, problem, function):
        keywords = {"out": self.tensor(problem.out)} if problem.cell.out else {}
        return functools.partial(function, self.tensor(problem.x), problem.cell.axis, **keywords)

    def softmax(self, problem):
        return self._forward(problem, self.library.softmax)

    def log_softmax(self, problem):
        return self._forward(problem, self.library.log_softmax)

    def logsumexp(self, problem):
        return self._forward(problem, self.library.logsumexp)

    def _backward(self, problem, name):
        operator, keywords = getattr(self.library.ops.aten, name).default, {}
        if problem.cell.out:
            operator = getattr(self.library.ops.aten, name).out
            out = "grad_input" if "grad_input" in str(operator._schema) else "out"
            keywords = {out: self.tensor(problem.out)}
        grad, output = self.tensor(problem.grad), self.tensor(problem.output)
        return functools.partial(operator, grad, output, problem.cell.axis, output.dtype, **keywords)

    def softmax_backward(self, problem):
        return self._backward(problem, "_softmax_backward_data")

    def log_softmax_backward(self, problem):
        return self._backward(problem, "_log_softmax_backward_data")

    def _logits(self, problem):
        x, target = self.tensor(problem.x), self.tensor(problem.target)
        return x.reshape(-1, x.shape[-1]), target.reshape(-1)

    def cross_entropy(self, problem):
        function, reduction = self.library.nn.functional.cross_entropy, problem.cell.reduction
        return functools.partial(function, *self._logits(problem), reduction=reduction)

    def cross_entropy_with_grad(self, problem):
        x, target = self._logits(problem)
        x.requires_grad_()
        loss_of, grad_of = self.library.nn.functional.cross_entropy, self.library.autograd.grad

        def run():
            loss = loss_of(x, target, reduction=problem.cell.reduction)
            return loss.detach(), grad_of(loss, x)[0].view(problem.cell.shape)

        return run


class ONNXRuntime(Contender):
    """A model of one node, made in memory."""

    name, package = "ONNX Runtime", "onnxruntime"
    needs = ("onnx",)
    dtypes = ("float32", "float64", "float16")

    def _session(self, problem, operator, target=False, **attributes):
        from onnx import TensorProto, helper

        kind = helper.np_dtype_to_tensor_dtype(problem.dtype)
        inputs = [helper.make_tensor_value_info("x", kind, problem.cell.shape)]
        if target:
            inputs.append(helper.make_tensor_value_info("target", TensorProto.INT64, problem.target.shape))
        outputs = [helper.make_tensor_value_info("y", kind, None)]
        node = helper.make_node(operator, [i.name for i in inputs], ["y"], **attributes)
        graph = helper.make_graph([node], operator, inputs, outputs)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
        options = self.library.SessionOptions()
        options.intra_op_num_threads = self.threads
        return self.library.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])

    def _forward(self, problem, operator, **attributes):
        session = self._session(problem, operator, **attributes)
        if not problem.cell.out:
            return functools.partial(session.run, ["y"], {"x": problem.x})
        value, binding = self.library.OrtValue.ortvalue_from_numpy, session.io_binding()
        binding.bind_ortvalue_input("x", value(problem.x))
        binding.bind_ortvalue_output("y", value(problem.out))

        def run():
            session.run_with_iobinding(binding)
            return [problem.out]

        return run

    def softmax(self, problem):
        return self._forward(problem, "Softmax", axis=problem.cell.axis)

    def log_softmax(self, problem):
        return self._forward(problem, "LogSoftmax", axis=problem.cell.axis)

    def logsumexp(self, problem):
        return self._forward(problem, "ReduceLogSumExp", axes=[problem.cell.axis], keepdims=0)

    def cross_entropy(self, problem):
        session = self._session(problem, "SoftmaxCrossEntropyLoss", target=True)
        return functools.partial(session.run, ["y"], {"x": problem.x, "target": problem.target})

    def to_numpy(self, result):
        return result[0]


class JAX(Contender):
    name, package = "JAX", "jax"

    def __init__(self, threads):
        super().__init__(threads)
        self.library.config.update("jax_enable_x64", True)
        self.library.config.update("jax_cpu_enable_async_dispatch", False)

    def to_numpy(self, result):
        return tuple(map(np.asarray, result)) if isinstance(result, tuple) else np.asarray(result)

    def _compiled(self, function, *inputs):
        function, ready = self.library.jit(function), self.library.block_until_ready
        return lambda: ready(function(*inputs))

    def _forward(self, problem, function):
        return self._compiled(
            functools.partial(function, axis=problem.cell.axis), self.library.numpy.asarray(problem.x)
        )

    def softmax(self, problem):
        return self._forward(problem, self.library.nn.softmax)

    def log_softmax(self, problem):
        return self._forward(problem, self.library.nn.log_softmax)

    def logsumexp(self, problem):
        return self._forward(problem, self.library.nn.logsumexp)

    def _backward(self, problem, function):
        function = functools.partial(function, axis=problem.cell.axis)
        _, pull = self.library.vjp(function, self.library.numpy.asarray(problem.x))
        return self._compiled(lambda pull, g: pull(g)[0], pull, self.library.numpy.asarray(problem.grad))

    def softmax_backward(self, problem):
        return self._backward(problem, self.library.nn.softmax)

    def log_softmax_backward(self, problem):
        return self._backward(problem, self.library.nn.log_softmax)

    def _loss(self, problem, transform):
        jnp = self.library.numpy
        reduce = {"none": lambda losses: losses, "mean": jnp.mean, "sum": jnp.sum}[problem.cell.reduction]

        def loss(x, target):
            log_p = self.library.nn.log_softmax(x)
            return reduce(-jnp.take_along_axis(log_p, target[:, None], -1)[:, 0])

        return self._compiled(transform(loss), jnp.asarray(problem.x), jnp.asarray(problem.target))

    def cross_entropy(self, problem):
        return self._loss(problem, lambda loss: loss)

    def cross_entropy_with_grad(self, problem):
        return self._loss(problem, self.library.value_and_grad)


class OpenVINO(Contender):
    """A model of one node, made in memory. (It computes float64 in float32, so it is not among its types.)"""

    name, package = "OpenVINO", "openvino"
    dtypes = ("float32", "float16", "bfloat16")

    def __init__(self, threads):
        # It sends usage data from a forked child as it is imported, and does without when this cannot be.
        sys.modules["openvino_telemetry"] = None
        super().__init__(threads)
        self.opset = importlib.import_module("openvino.opset13")
        self.core = self.library.Core()

    def _tensor(self, array):
        if array.dtype == "bfloat16":
            return self.library.Tensor(
                array.view(np.uint16), self.library.Shape(array.shape), self.library.Type.bf16
            )
        return self.library.Tensor(array, shared_memory=True)

    def _forward(self, problem, operator):
        shape, kind = (
            problem.cell.shape,
            {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}[problem.cell.dtype],
        )
        parameter = self.opset.parameter(shape, getattr(self.library.Type, kind))
        model = self.library.Model([operator(parameter, problem.cell.axis % len(shape))], [parameter])
        settings = {
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        request = self.core.compile_model(model, "CPU", settings).create_infer_request()
        request.set_input_tensor(self._tensor(problem.x))
        if problem.cell.out:
            request.set_output_tensor(self._tensor(problem.out))

            def run():
                request.infer()
                return problem.out
        else:

            def run():
                out = np.empty(shape, problem.dtype)
                request.set_output_tensor(self._tensor(out))
                request.infer()
                return out

        return run

    def softmax(self, problem):
        return self._forward(problem, self.opset.softmax)

    def log_softmax(self, problem):
        return self._forward(problem, self.opset.log_softmax)


class Numba(Contender):
    """What one writes oneself: loops over the rows, `fastmath` and `prange`. It has 32 and 64-bit floats."""

    name, package = "Numba", "numba"
    dtypes = ("float32", "float64")

    def __init__(self, threads):
        super().__init__(threads)
        self.library.set_num_threads(threads)
        self.kernels = importlib.import_module("numba_kernels")

    @classmethod
    def has(cls, cell):
        return super().has(cell) and cell.axis == -1

    def _run(self, problem, kernel, *inputs):
        cell, out = problem.cell, problem.out
        kernel, n = getattr(self.kernels, kernel), cell.shape[-1]
        inputs = [array.reshape(-1, n) for array in inputs]

        def run():
            result = out if cell.out else np.empty_like(out)
            kernel(*inputs, result.reshape(len(inputs[0]), -1))
            return result

        return run

    def softmax(self, problem):
        return self._run(problem, "softmax", problem.x)

    def log_softmax(self, problem):
        return self._run(problem, "log_softmax", problem.x)

    def logsumexp(self, problem):
        return self._run(problem, "logsumexp", problem.x)

    def softmax_backward(self, problem):
        return self._run(problem, "softmax_backward", problem.grad, problem.output)

    def log_softmax_backward(self, problem):
        return self._run(problem, "log_softmax_backward", problem.grad, problem.output)

    def cross_entropy(self, problem):
        x, target, kernel = problem.x, problem.target, self.kernels.cross_entropy
        return lambda: problem.dtype.type(kernel(x, target))

    def cross_entropy_with_grad(self, problem):
        x, target, kernel = problem.x, problem.target, self.kernels.cross_entropy_with_grad

        def run():
            gradient = problem.out if problem.cell.out else np.empty_like(x)
            return problem.dtype.type(kernel(x, target, gradient)), gradient

        return run


class Copy(Contender):
    """No contender but a measure: how fast the machine copies the input to the result."""

    package = "numpy"

    @classmethod
    def has(cls, cell):
        return cell.operation == "copy"

    def copy(self, problem):
        parts = list(
            zip(*(np.array_split(a.reshape(-1), self.threads) for a in (problem.out, problem.x)), strict=True)
        )
        if self.threads == 1:
            call = functools.partial(self.move, *parts[0])
        else:
            pool = ThreadPoolExecutor(self.threads)
            call = functools.partial(lambda: list(pool.map(self.move, *zip(*parts, strict=True))))

        def run():
            call()
            return problem.out

        return run


class OrdinaryCopy(Copy):
    name = "copy"
    move = staticmethod(np.copyto)


class StreamingCopy(Copy):
    """glibc's memmove, which stores past the caches when a part is larger than most of the last one."""

    name = "streaming copy"

    @staticmethod
    def move(out, x):
        ctypes.memmove(out.ctypes.data, x.ctypes.data, x.nbytes)


CONTENDERS = {kind.name: kind for kind in (CSoftmax, NumPy, SciPy, Torch, ONNXRuntime, JAX, OpenVINO, Numba)}
COPIES = {kind.name: kind for kind in (OrdinaryCopy, StreamingCopy)}


def check(contender, problem, run):
    """The error in ulp of what `run` returns, on memory that no contender before has filled."""
    problem.out.fill(np.nan)
    error = problem.error(contender.to_numpy(run()))
    if not error <= problem.tolerance:
        raise WrongAnswer(f"{contender.name}: {problem.cell} is wrong by {error:.3g} ulp")
    return error


def small_cells():
    """Every operation on small arrays in every dtype; in float32 also along another axis, 1-D and `out=`."""
    for operation in OPERATIONS:
        for dtype in FORMATS:
            yield Cell(operation, (37, 19), -1, dtype)
        if operation != "cross_entropy":
            yield Cell(operation, (37, 19), out=True)
        if "entropy" not in operation:
            yield Cell(operation, (3, 21, 5, 7), 1)
            yield Cell(operation, (10,))


def main(names):
    """Check contenders on small arrays."""
    for name in names or CONTENDERS:
        contender = CONTENDERS[name](threads=1)
        cells = [cell for cell in small_cells() if contender.has(cell)]
        for cell in cells:
            problem = Problem(cell)
            check(contender, problem, contender.prepare(problem))
        print(f"{name}: {len(cells)} cells right")


if __name__ == "__main__":
    main(sys.argv[1:])
