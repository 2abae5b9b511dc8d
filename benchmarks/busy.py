"""What threads cost where the CPUs are wanted by others: one thread and the default number take turns.

    python benchmarks/busy.py [--loops N] [--seconds S] [--beside torch|onnxruntime]

`--loops` starts that many processes that never rest; `--beside` calls another library on two threads before each call.
The ratios of means and of 99th percentiles are of one run, so that what else the machine does disturbs both alike.
"""

import argparse
import subprocess
import sys
import time

import numpy as np

import csoftmax

SHAPES = [(8, 50257), (1000, 1000), (128, 1000)]
TURN = 0.1  # seconds that a setting is measured before the other has its turn


def no_neighbour():
    return lambda: None


def torch_neighbour():
    import torch

    torch.set_num_threads(2)
    a = torch.randn(256, 256)
    return lambda: a @ a


def onnxruntime_neighbour():
    import onnx
    import onnxruntime

    helper = onnx.helper
    value = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [256, 256]) for name in ("a", "b")]
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "a"], ["b"])], "product", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    feed = {"a": np.ones((256, 256), np.float32)}
    return lambda: session.run(None, feed)


NEIGHBOURS = {"nobody": no_neighbour, "torch": torch_neighbour, "onnxruntime": onnxruntime_neighbour}


def turn(x, out, neighbour, times):
    """Call for a while, and add how long each call took, in seconds."""
    end = time.perf_counter() + TURN
    while time.perf_counter() < end:
        neighbour()
        start = time.perf_counter()
        csoftmax.softmax(x, out=out)
        times.append(time.perf_counter() - start)


def measure(shape, seconds, neighbour):
    """Times of calls on one thread and on the default number, taken in turns."""
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    out = np.empty_like(x)
    alone, default = [], []
    for _ in range(max(1, round(seconds / (2 * TURN)))):
        with csoftmax.threads(1):
            turn(x, out, neighbour, alone)
        turn(x, out, neighbour, default)
    return np.array(alone), np.array(default)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loops", type=int, default=0, help="busy processes beside this one")
    parser.add_argument("--seconds", type=float, default=10, help="a shape")
    parser.add_argument("--beside", choices=NEIGHBOURS, default="nobody", help="a library that is called in turns")
    options = parser.parse_args()
    neighbour = NEIGHBOURS[options.beside]()
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(options.loops)]
    print(f"{csoftmax.get_num_threads()} threads, {options.loops} busy loops, beside {options.beside}; microseconds")
    columns = ("mean 1", "mean", "ratio", "p50 1", "p50", "p99 1", "p99", "ratio")
    print(f"{'shape':>14} " + " ".join(f"{column:>{6 if column == 'ratio' else 9}}" for column in columns))
    try:
        for shape in SHAPES:
            one, all_ = (1e6 * times for times in measure(shape, options.seconds, neighbour))
            p = [np.percentile(times, q) for q in (50, 99) for times in (one, all_)]
            print(f"{shape!s:>14} {one.mean():9.1f} {all_.mean():9.1f} {all_.mean() / one.mean():6.2f} {p[0]:9.1f} "
                  f"{p[1]:9.1f} {p[2]:9.1f} {p[3]:9.1f} {p[3] / p[2]:6.2f}", flush=True)
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


if __name__ == "__main__":
    main()
