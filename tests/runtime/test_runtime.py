"""Run-time switches: ISA levels, environment variables; what an import leaves alone. Threads: test_threads.py."""

import importlib.metadata
import json
import pathlib
import platform
import sys
import threading

import numpy as np
import pytest
from conftest import ALL_LEVELS, LEVELS
from interpreter import output, python

import csoftmax
from csoftmax.runtime import levels as table

# what the table must ask for, at least
CPU_FLAGS = {"avx2": {"avx2", "fma", "bmi2"}, "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"}}


@pytest.mark.parametrize("level", table.LEVELS, ids=lambda level: level.name)
def test_levels_ask_for_what_their_instructions_need(level):
    assert CPU_FLAGS.get(level.name, set()) <= set(level.features)


@pytest.mark.linux("the CPU's flags are read in /proc/cpuinfo")
def test_every_level_the_cpu_has_is_supported():
    if platform.machine() == "x86_64":
        flags = set(pathlib.Path("/proc/cpuinfo").read_text().split("flags", 1)[1].split("\n", 1)[0].split())
        levels = table.levels_of_this_machine()
        assert set(LEVELS) == {level.name for level in levels if flags.issuperset(level.features)}


def test_levels_that_are_supported_are_of_this_machine():
    """Each of x86 needs those before it; every CPU of arm64 has neon."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        assert set(LEVELS) - {"baseline"} == {"neon"}
    else:
        built = csoftmax.runtime_info()["isa"]["built"]
        there = [level for level in ("baseline", "avx2", "avx512") if level in built]
        assert list(LEVELS) == there[: len(LEVELS)]


def test_the_best_level_is_chosen():
    best = max(LEVELS, key=ALL_LEVELS.index)
    assert output("print(csoftmax.get_isa())") == best


@pytest.mark.parametrize("level", LEVELS)
def test_isa_is_chosen_by_the_environment(level):
    assert output("print(csoftmax.get_isa())", CSOFTMAX_ISA=level) == level


@pytest.mark.parametrize("level", ["sse9", "avx", *sorted(set(ALL_LEVELS) - set(LEVELS))])
def test_isa_that_is_unknown_or_absent_is_an_error_at_import_that_lists_those_there_are(level):
    run = python("print('imported')", CSOFTMAX_ISA=level)
    assert run.returncode != 0
    assert run.stdout == ""
    message = run.stderr.strip().splitlines()[-1]
    assert "CSOFTMAX_ISA" in message
    assert all(name in message for name in LEVELS)


def test_use_isa_switches_and_restores_even_after_an_error():
    before = csoftmax.get_isa()
    for level in LEVELS:
        with csoftmax.use_isa(level):
            assert csoftmax.get_isa() == level
            assert csoftmax.softmax([0.0, 0.0])[0] == 0.5
        assert csoftmax.get_isa() == before
        with pytest.raises(KeyError), csoftmax.use_isa(level):
            raise KeyError
        assert csoftmax.get_isa() == before


@pytest.mark.parametrize("level", ["sse9", *sorted(set(ALL_LEVELS) - set(LEVELS))])
def test_use_isa_of_an_absent_level_lists_those_there_are(level):
    before = csoftmax.get_isa()
    with pytest.raises(ValueError, match=".*".join(LEVELS)), csoftmax.use_isa(level):
        pass
    assert csoftmax.get_isa() == before


@pytest.mark.parametrize("name", [3, None, b"baseline", ["baseline"], np.array(["a", "b"])], ids=repr)
def test_isa_that_is_no_name_is_refused(name):
    with pytest.raises(TypeError, match=f"must be a string, not {type(name).__name__}"), csoftmax.use_isa(name):
        pass


def test_runtime_info_tells_what_is_in_force():
    for level in LEVELS:
        with csoftmax.threads(7), csoftmax.use_isa(level):
            info = csoftmax.runtime_info()
            assert (info["isa"]["active"], info["threads"]["active"]) == (level, 7)
    assert info["version"] == importlib.metadata.version("csoftmax")
    assert set(info["isa"]["supported"]) <= set(info["isa"]["built"])
    assert info["compiler"]
    assert json.loads(json.dumps(info)) == info
    told = output("print(csoftmax.runtime_info()['environment'])", CSOFTMAX_NUM_THREADS="3")
    assert told == "{'CSOFTMAX_NUM_THREADS': '3'}"


def test_show_runtime_prints_it_for_people(capsys):
    csoftmax.show_runtime()
    shown = capsys.readouterr().out
    info = csoftmax.runtime_info()
    for word in (info["version"], info["compiler"], info["numpy"], csoftmax.get_isa()):
        assert word in shown


@pytest.mark.parametrize("level", LEVELS)
def test_subnormals_and_rounding_are_alive_after_import_and_use(level):
    output(
        "import numpy as np\n"
        "csoftmax.softmax(np.zeros((300, 300)))\n"
        "csoftmax.softmax(np.zeros((300, 300), 'f'), axis=0)\n"
        "assert 5e-324 * 1.0 != 0 and np.float32(1e-45) * np.float32(1) != 0\n"
        "assert (np.full(99, 5e-324) * 1.0).all() and (np.full(99, 1e-45, 'f') * np.float32(1)).all()\n"
        "assert 1 + 2.0**-53 == 1 and -1 - 2.0**-53 == -1 and 1 + 3 * 2.0**-53 == 1 + 2.0**-51",
        CSOFTMAX_ISA=level,
    )


@pytest.mark.usefixtures("isa")
def test_no_floating_point_error_is_ever_raised():
    x = np.array([[np.nan, 1, 2], [np.inf, -np.inf, 0], [3e38, -3e38, 0], [-200, 0, 0], [-np.inf] * 3])
    with np.errstate(all="raise"):
        for dtype in ("float32", "float64"):
            logits = x.astype(dtype)
            p, logs = csoftmax.softmax(logits), csoftmax.log_softmax(logits)
            csoftmax.logsumexp(logits)
            csoftmax.softmax_backward(logits, p)
            csoftmax.log_softmax_backward(logits, logs)
            csoftmax.softmax(logits, dtype="float16")
            csoftmax.cross_entropy_with_grad(logits, [0, 1, 2, 0, 1])
            for reduction in ("sum", "mean", "none"):
                csoftmax.cross_entropy(np.repeat(logits[2:3], 9, axis=0), [1] * 9, reduction=reduction)
            for output in (p, logits, np.array([1e-38, 1e-30], dtype), np.array([1e38, 1e38], dtype)):
                csoftmax.softmax_jacobian(output)
            np.add(np.ones(3), 1)
        signalling = np.array([0x7FA00000] * 3, "u4").view("f4")
        csoftmax.cross_entropy_with_grad(np.zeros((1, 3)), [0], weight=signalling, grad_output=signalling[0])
        csoftmax.softmax_jacobian(csoftmax.softmax(np.array([1, 9]), dtype="float16"))


def test_import_brings_in_nothing_but_numpy():
    others = ("scipy", "torch", "jax", "numba", "rich", "matplotlib", "ml_dtypes", "dask", "onnx")
    assert output(f"import sys; print([m for m in {others} if m in sys.modules])") == "[]"


def test_the_gil_is_released_during_the_work():
    """With forced switches off, another thread runs before the call returns only if the call lets it."""
    x = np.zeros(1 << 23, "float32")
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        for _ in range(20):
            entered, returned = threading.Event(), []

            def work(entered=entered, returned=returned):
                entered.set()
                csoftmax.softmax(x, out=x)
                returned.append(True)

            worker = threading.Thread(target=work)
            worker.start()
            entered.wait()
            released = not returned
            worker.join()
            if released:
                break
    finally:
        sys.setswitchinterval(interval)
    assert released
