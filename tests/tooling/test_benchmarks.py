"""The benchmark: contenders compute what they are timed for, take turns, and are reported as they were."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import instructions  # noqa: E402
import report  # noqa: E402
from contenders import NumPy, check  # noqa: E402

from csoftmax.cli.bench import CASES, Cell, Problem, WrongAnswer, interleave  # noqa: E402


def check_contender(name):
    """In a process of its own, because the peers' threads would outlive the test."""
    command = [sys.executable, BENCHMARKS / "contenders.py", name]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{name}: " in done.stdout
    assert f"{name}: 0 cells" not in done.stdout


@pytest.mark.parametrize("name", ["csoftmax", "NumPy", "SciPy"])
def test_contender_gives_right_answers(name):
    check_contender(name)


@pytest.mark.peers
@pytest.mark.parametrize("name", ["PyTorch", "ONNX Runtime", "JAX", "OpenVINO", "Numba"])
def test_peer_gives_right_answers(name):
    check_contender(name)


@pytest.mark.parametrize(
    "operation", ["softmax", "log_softmax", "logsumexp", "softmax_backward", "cross_entropy"]
)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_wrong_answer_is_refused(operation, dtype):
    problem = Problem(Cell(operation, (20, 30), -1, dtype))
    numpy = NumPy(threads=1)
    run = numpy.prepare(problem)
    check(numpy, problem, run)
    with pytest.raises(WrongAnswer, match=f"NumPy: {operation} .* is wrong by"):
        check(numpy, problem, lambda: run() * problem.dtype.type(1.5))


def test_result_left_over_from_another_contender_is_refused():
    problem = Problem(Cell("softmax", (20, 30), out=True))
    numpy = NumPy(threads=1)
    numpy.prepare(problem)()
    with pytest.raises(WrongAnswer):
        check(numpy, problem, lambda: problem.out)


def test_contenders_take_turns():
    order = []
    runs = {name: lambda name=name: order.append(name) for name in "abc"}
    times = interleave(runs, rounds=range(4), block=0, budget=1e9, dropout=1e9)
    assert order[-24:] == list("aabbcc") * 4  # a call to warm up, a timed one, the next contender
    assert {name: len(rounds) for name, rounds in times.items()} == {"a": 4, "b": 4, "c": 4}


def pytest_benchmarks(*arguments, hidden=()):
    """Run `pytest benchmarks/` in a process in which the hidden packages are not installed."""
    code = f"""
import importlib.util, sys, pytest
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in {hidden!r} else find(name, *rest)
sys.exit(pytest.main(sys.argv[1:]))"""
    return subprocess.run(
        [sys.executable, "-c", code, BENCHMARKS, "-p", "no:cacheprovider", "--benchmark-max-time=0.001", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


PEERS = ("scipy", "torch", "onnxruntime", "jax", "openvino", "numba")


def test_pytest_benchmarks_shows_csoftmax_beside_numpy_where_there_is_no_peer(tmp_path):
    path = tmp_path / "speed.json"
    done = pytest_benchmarks("-k", "softmax and small", f"--benchmark-json={path}", hidden=PEERS)
    assert done.returncode == 0, done.stdout + done.stderr
    groups = "softmax, one small call: 10 float32", "softmax_backward, one small call: 10 float32"
    assert all(f"benchmark '{group}': 2 tests" in done.stdout for group in groups)
    content = json.loads(path.read_text())
    contenders = [benchmark["extra_info"]["contender"] for benchmark in content["benchmarks"]]
    assert contenders == ["csoftmax", "NumPy"] * 2
    assert all(benchmark["stats"]["min"] > 0 for benchmark in content["benchmarks"])
    assert content["machine_info"]["csoftmax"]["isa"]
    again = pytest_benchmarks("-k", "softmax and small", f"--benchmark-compare={path}", hidden=PEERS)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "benchmark 'softmax, one small call: 10 float32': 4 tests" in again.stdout


def test_pytest_benchmarks_has_the_arrays_of_csoftmax_bench():
    done = pytest_benchmarks("--collect-only", "-q", hidden=PEERS)
    for case in CASES:
        for operation in "softmax", "softmax_backward":
            for contender in "csoftmax", "NumPy":
                assert f"[{operation}, {case.name}, {contender}]" in done.stdout
    assert f"{4 * len(CASES)} tests collected" in done.stdout


@pytest.mark.peers
def test_pytest_benchmarks_shows_every_peer():
    done = pytest_benchmarks("-k", "small")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("JAX") >= 2
    assert "benchmark 'softmax, one small call: 10 float32': 8 tests" in done.stdout


def test_run_measures_in_turn_and_writes_its_own_json(tmp_path):
    path = tmp_path / "1.json"
    code = "import contenders; [contenders.CONTENDERS.pop(name) for name in list(contenders.CONTENDERS)[2:]]"
    code += "; import run, sys; sys.exit(run.main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "--threads=1", f"--json={path}", "--suite=cells", "softmax (10,)", "fresh"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(BENCHMARKS), *sys.path])},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "softmax (10,) axis=-1 float32 fresh" in done.stdout
    results = report.Results([path])
    assert all(times.keys() == {"csoftmax", "NumPy"} for times in results.seconds.values())
    assert results.suite("cells")


@pytest.mark.parametrize(("now", "fine"), [(900, True), (1019, True), (1021, False)])
def test_more_instructions_than_the_tolerance_fail(now, fine, capsys):
    before = {"softmax": 1000, "other": 7}
    assert instructions.compare(before, {"softmax": now, "other": 7}) is fine
    assert ("SLOWER" in capsys.readouterr().out) is not fine


def test_every_case_has_its_count():
    assert json.loads(instructions.SNAPSHOT.read_text())["instructions"].keys() == instructions.CASES.keys()


def figure(shape, contender, median, suite="cells", operation="softmax"):
    cell = dataclasses.asdict(Cell(operation, shape, out=True))
    return cell | {"suite": suite, "contender": contender, "ulp": 1.5, "times": [median / 2, median, 2 * median]}


def write_json(path, threads):
    """csoftmax twice as fast as the best peer on one shape and half as fast on another."""
    results = [
        figure([1000, 1000], "csoftmax", 1e-3),
        figure([1000, 1000], "PyTorch", 2e-3),
        figure([1000, 1000], "NumPy", 4e-3),
        figure([20, 50], "csoftmax", 2e-6),
        figure([20, 50], "PyTorch", 1e-6),
        figure([20, 50], "NumPy", 4e-6),
    ]
    for rows in 10, 1000:
        for name, median in ("csoftmax", 1e-6), ("PyTorch", 3e-6):
            results.append(figure([rows, 1000], name, median * rows / threads, "batches"))
            results.append(figure([1, rows], name, median * rows, "row_lengths"))
        for name in "copy", "streaming copy":
            results.append(figure([rows, 1000], name, 5e-7 * rows, "batches", "copy"))
    machine = {
        "cpu": {"brand_raw": "Imaginary 9000", "count": 2},
        "caches": {"L1 data": "32K"},
        "memory": 2**34,
        "system": "Linux",
        "release": "6.1",
        "libc": "glibc 2.36",
        "python_version": "3.11.7",
        "csoftmax": {"compiler": "GCC 12"},
        "versions": {"csoftmax": "0.1", "NumPy": "2.0", "PyTorch": "2.1"},
    }
    path.write_text(json.dumps({"machine_info": machine, "threads": threads, "isa": "avx2", "results": results}))
    return path


@pytest.fixture
def written(tmp_path):
    report.write([write_json(tmp_path / f"{threads}.json", threads) for threads in (1, 2)], tmp_path)
    return tmp_path


def test_report_states_gains_losses_and_the_machine(written):
    text = (written / "benchmarks.md").read_text()
    assert "Imaginary 9000" in text
    assert "| all cells | 4 | 2 | 1.00 | 0.50 | 2.00 | 2.83 |" in text
    assert "| (1000, 1000) axis -1, float32, `out=` | 2.00 | 1.000 | 2.000 | 4.000 |" in text
    assert "| (20, 50) axis -1, float32, `out=` | **0.50** | 2.000 | 1.000 | 4.000 |" in text
    assert "| `softmax` (20, 50) axis -1, float32, `out=` | 2 | **0.50** | PyTorch |" in text


def test_report_compares_with_the_streaming_copy(written):
    text = (written / "benchmarks.md").read_text()
    assert "| (1000, 1000) axis -1, float32, `out=` | 1 | 8.00 | 16.00 | 16.00 | 50% |" in text
    assert "| (1000, 1000) axis -1, float32, `out=` | 2 | 16.00 | 16.00 | 16.00 | 100% |" in text


def test_report_shows_its_plots_and_they_are_small(written):
    text = (written / "benchmarks.md").read_text()
    images = sorted((written / "images").iterdir())
    names = ["batch_size.svg", "roofline.svg", "row_length_float32.svg", "threads.svg"]
    assert [image.name for image in images] == names
    assert all(f"](images/{name})" in text for name in names)
    assert all(1000 < image.stat().st_size < 200_000 for image in images)
