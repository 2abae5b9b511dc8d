"""The command line, run as a user runs it: in a process of its own."""

import io
import json
import math
import os
import re
import statistics
import subprocess
import sys
import sysconfig
import warnings
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from matplotlib.image import imread

import csoftmax
from csoftmax._extras import how_to_install
from csoftmax.cli import apply, bench
from csoftmax.cli.main import _save

MODULE = [sys.executable, "-m", "csoftmax"]
SCRIPT = [str(Path(sysconfig.get_path("scripts"), "csoftmax"))]
CASES = {
    "10 classes": ([10_000, 10], -1),
    "ImageNet head": ([1000, 1000], -1),
    "attention block": ([8, 12, 256, 256], -1),
    "vocabulary": ([32, 50_257], -1),
    "long row": ([1, 4_194_304], -1),
    "columns": ([1000, 1000], 0),
    "segmentation map": ([4, 21, 256, 256], 1),
    "one small call": ([10], -1),
}
TERMINAL = "a terminal is made with pty"
TINY = ["bench", "--seconds", "0.001"]
ENVIRONMENT = {key: value for key, value in os.environ.items() if key not in ("FORCE_COLOR", "NO_COLOR")}
ENVIRONMENT |= {"TERM": "xterm", "COLUMNS": "80", "PYTHONIOENCODING": "utf-8"}


def run(*args, command=MODULE):
    command = [*command, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=ENVIRONMENT)


def run_after(preparation, *args):
    """Run the command line in a process in which `preparation` went first."""
    code = (
        f"import sys\n{preparation}\nfrom csoftmax.cli.main import main\nsys.exit(main({[*map(str, args)]}))"
    )
    return run("-c", code, command=[sys.executable])


@pytest.mark.parametrize("command", [MODULE, SCRIPT], ids=["python -m", "script"])
def test_version(command):
    done = run("--version", command=command)
    assert (done.returncode, done.stdout) == (0, f"csoftmax {csoftmax.runtime_info()['version']}\n")


def test_info_prints_the_run_time_information(capsys):
    csoftmax.show_runtime()
    shown = capsys.readouterr().out
    assert csoftmax.get_isa() in shown
    done = run("info")
    assert (done.returncode, done.stdout, done.stderr) == (0, shown, "")


@pytest.mark.linux("/dev/full is the disk without room")
@pytest.mark.parametrize("output", ["/dev/full", "a closed pipe"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_nobody_takes(output, unbuffered):
    if output == "/dev/full":
        with open(output, "wb") as full:
            stdout, words = full.fileno(), "csoftmax: [Errno 28] No space left on device\n"
            done = print_to(stdout, unbuffered)
    else:
        end, stdout = os.pipe()
        os.close(end)
        words = ""
        done = print_to(stdout, unbuffered)
        os.close(stdout)
    assert (done.returncode, done.stderr) == (1, words)


def print_to(stdout, unbuffered):
    environment = ENVIRONMENT | {"PYTHONUNBUFFERED": unbuffered}
    return subprocess.run([*MODULE, "info"], stdout=stdout, stderr=subprocess.PIPE, text=True, env=environment)


def test_info_json_is_runtime_info():
    done = run("info", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    told, here = json.loads(done.stdout), csoftmax.runtime_info()
    # how many there are depends on what each process has done
    assert told["threads"].pop("workers") == 0
    here["threads"].pop("workers")
    assert told == here


@dataclass
class Run:
    """What a short benchmark printed and wrote."""

    dtype: str
    threads: int
    cases: list[str]
    stdout: str
    stderr: str
    figures: dict
    plot: np.ndarray | None = None

    def by_cell(self, value):
        keys = "operation", "case", "contender"
        return {tuple(result[key] for key in keys): result[value] for result in self.figures["results"]}


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """Run every case, standard error being a terminal."""
    import pty

    folder = tmp_path_factory.mktemp("whole")
    json_file, plot_file, output = folder / "bench.json", folder / "bench.png", folder / "stdout"
    terminal, terminal_end = pty.openpty()
    with output.open("wb") as stdout:
        process = subprocess.Popen(
            [*MODULE, *TINY, "--json", json_file, "--plot", plot_file],
            stdout=stdout,
            stderr=terminal_end,
            env=ENVIRONMENT,
        )
    os.close(terminal_end)
    shown = b""
    try:
        while block := os.read(terminal, 4096):
            shown += block
    except OSError:  # Linux's end of file on a terminal
        os.close(terminal)
    assert process.wait() == 0, shown.decode()
    assert sorted(folder.iterdir()) == [json_file, plot_file, output]
    figures = json.loads(json_file.read_text())
    return Run(
        "float32", 1, list(CASES), output.read_text("utf-8"), shown.decode(), figures, imread(plot_file)
    )


@pytest.fixture(scope="module")
def reduced_run(tmp_path_factory):
    """Run the first and the last case with other options, standard error not being a terminal."""
    json_file = tmp_path_factory.mktemp("reduced") / "bench.json"
    preparation = "from csoftmax.cli import bench; bench.CASES = bench.CASES[::7]"
    done = run_after(preparation, *TINY, "--dtype", "float64", "--threads", 2, "--json", json_file)
    assert done.returncode == 0, done.stderr
    figures = json.loads(json_file.read_text())
    return Run("float64", 2, list(CASES)[::7], done.stdout, done.stderr, figures)


@pytest.fixture(params=[pytest.param("whole_run", marks=pytest.mark.posix(TERMINAL)), "reduced_run"])
def bench_run(request):
    return request.getfixturevalue(request.param)


def test_bench_measures_every_case_at_every_level(bench_run):
    isa = csoftmax.runtime_info()["isa"]
    levels = [level for level in isa["built"] if level in isa["supported"]]
    assert csoftmax.get_isa() in levels
    cells = [
        (operation, case, contender)
        for case in bench_run.cases
        for operation in ("forward", "backward")
        for contender in ("NumPy", *levels)
    ]
    assert list(bench_run.by_cell("times")) == cells
    assert all(len(times) >= 3 and min(times) > 0 for times in bench_run.by_cell("times").values())
    for result in bench_run.figures["results"]:
        assert (result["shape"], result["axis"]) == CASES[result["case"]]


def test_bench_derives_its_ratios_from_the_times(bench_run):
    seconds = {cell: statistics.median(times) for cell, times in bench_run.by_cell("times").items()}
    ratios = {cell: seconds[*cell[:2], "NumPy"] / seconds[cell] for cell in seconds}
    assert bench_run.by_cell("seconds") == seconds
    assert bench_run.by_cell("ratio") == pytest.approx(ratios)
    for level, means in bench_run.figures["geometric_means"].items():
        assert list(means) == ["forward", "backward", "all"]
        for operation, mean in means.items():
            logs = [
                math.log(ratio)
                for cell, ratio in ratios.items()
                if cell[2] == level and operation in (cell[0], "all")
            ]
            assert len(logs) == len(bench_run.cases) * (2 if operation == "all" else 1)
            assert mean == pytest.approx(math.exp(sum(logs) / len(logs)))


def test_bench_states_the_error_of_every_contender(bench_run):
    for cell, ulps in bench_run.by_cell("ulps").items():
        assert 0.1 < ulps < 100, cell


def test_bench_json_states_the_settings(bench_run):
    figures = bench_run.figures
    assert (figures["dtype"], figures["threads"]) == (bench_run.dtype, bench_run.threads)
    assert figures["runtime"].keys() == csoftmax.runtime_info().keys()
    assert figures["reference_bits"] == np.finfo(np.longdouble).nmant + 1


def test_bench_prints_the_tables(bench_run):
    assert "\x1b" not in bench_run.stdout
    assert max(map(len, bench_run.stdout.splitlines())) <= 80
    _, forward, backward = re.split("softmax (?:forward|backward), ", bench_run.stdout)
    for table in forward, backward:
        assert table.splitlines()[0].strip() == (
            "float32, 1 thread" if bench_run.dtype == "float32" else "float64, 2 threads"
        )
        assert [case for case in CASES if case in table] == bench_run.cases
    for level, means in bench_run.figures["geometric_means"].items():
        assert f"at {level}: {means['all']:.{2 if means['all'] < 9.995 else 1}f}x" in backward


@pytest.mark.posix(TERMINAL)
def test_bench_shows_its_progress_on_a_terminal_only(whole_run, reduced_run):
    assert "segmentation map, backward" in whole_run.stderr
    assert reduced_run.stderr == ""


@pytest.mark.posix(TERMINAL)
def test_bench_draws_the_ratios(whole_run):
    image = whole_run.plot[..., :3]
    height, width, _ = image.shape
    assert width > height > 500
    assert np.all(image[0] == 1), "the margin is white"
    first_level = np.array([0xA6, 0xC8, 0xE4]) / 255
    for panel in image[:, : width // 2], image[:, width // 2 :]:
        assert np.isclose(panel, first_level, atol=1e-3).all(axis=-1).any(), "it has bars"


@pytest.mark.parametrize(
    "change",
    [
        "y * np.asarray(1.001, y.dtype)",
        "y * np.asarray(np.nan, y.dtype)",
        "y.astype(np.float16)",
        "y[..., :-1]",
        "np.where(np.arange(y.size).reshape(y.shape) == y.size - 1, 0, y)",
    ],
    ids=["imprecise", "NaN", "dtype", "shape", "last element"],
)
def test_bench_fails_when_an_answer_is_wrong(tmp_path, change):
    json_file = tmp_path / "bench.json"
    json_file.write_text("as it was")
    wrong = f"""
import numpy as np, csoftmax
right = csoftmax.softmax
def wrong(x, axis):
    y = right(x, axis)
    return {change} if y.shape == (1000, 1000) else y
csoftmax.softmax = wrong"""
    done = run_after(wrong, *TINY, "--json", json_file)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(
        f"csoftmax: wrong answer: forward at {csoftmax.runtime_info()['isa']['built'][0]}"
    )
    assert "1000x1000" in done.stderr
    assert done.stderr.count("\n") == 1
    assert [json_file] == list(tmp_path.iterdir())
    assert json_file.read_text() == "as it was"


@pytest.mark.parametrize(("missing", "args"), [("rich", []), ("matplotlib", ["--plot", "plot.png"])])
def test_bench_says_what_to_install(missing, args):
    done = run_after(f"sys.modules[{missing!r}] = None", *TINY, *args)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"csoftmax bench needs {missing}: {how_to_install('bench')}\n"


def test_info_and_import_need_neither_rich_nor_matplotlib():
    done = run_after("sys.modules['rich'] = sys.modules['matplotlib'] = None", "info")
    assert (done.returncode, done.stderr) == (0, "")
    code = "import sys, csoftmax, csoftmax.__main__; print({'rich', 'matplotlib'} & sys.modules.keys())"
    assert run("-c", code, command=[sys.executable]).stdout == "set()\n"


@pytest.mark.parametrize("option", ["--json", "--plot"])
@pytest.mark.parametrize("target", ["missing/bench.png", "folder.png", os.devnull])
def test_bench_refuses_a_file_it_cannot_write_before_the_work(tmp_path, option, target):
    (tmp_path / "folder.png").mkdir()
    path = tmp_path / target
    if option == "--plot" and target == os.devnull:
        path = tmp_path / "null.png"
        path.symlink_to(os.devnull)
    done = run_after("import csoftmax; csoftmax.softmax = None", "bench", option, path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"csoftmax: cannot write {path}: ")
    assert done.stderr.count("\n") == 1


def test_bench_replaces_what_a_symbolic_link_names(tmp_path):
    target, link = tmp_path / "target.json", tmp_path / "link.json"
    target.write_text("old")
    link.symlink_to(target)
    _save(link, b"new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert sorted(tmp_path.iterdir()) == [link, target]


@pytest.mark.parametrize(
    ("args", "named"),
    [
        ([], "COMMAND"),
        (["fly"], "fly"),
        (["info", "--wrong"], "--wrong"),
        (["bench", "--dtype", "float16"], "--dtype"),
        (["bench", "--threads", "0"], "--threads: invalid thread count"),
        (["bench", "--threads", "two"], "--threads: invalid thread count"),
        (["bench", "--threads", "65537"], "--threads: invalid thread count"),
        (["bench", "--seconds", "nan"], "--seconds: invalid number of seconds"),
        (["bench", "--seconds", "-1"], "--seconds: invalid number of seconds"),
        (["bench", "--plot", "plot.txt"], "--plot: 'plot.txt' does not end in .png"),
    ],
    ids=" ".join,
)
def test_a_wrong_option_exits_with_2(args, named):
    done = run(*args)
    assert (done.returncode, done.stdout) == (2, "")
    assert named in done.stderr


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_error_counts_in_units_of_the_last_place(dtype):
    want = np.array([1.0, 1.5, 0.25, 0.0, np.finfo(dtype).smallest_subnormal], dtype)
    unit = bench.ulp(want, dtype)
    exponents = np.array([0, 0, -2], dtype)
    np.testing.assert_array_equal(unit[:3], np.finfo(dtype).eps * 2**exponents)
    np.testing.assert_array_equal(unit[3:], np.finfo(dtype).smallest_subnormal)
    for i in range(want.size):
        got = want.copy()
        got[i] += 3 * unit[i]
        assert bench.errors_in_ulp(got, want, unit).max() == 3
        got[i] = np.nan
        assert bench.errors_in_ulp(got, want, unit).max() == np.inf


@pytest.fixture
def array_file(tmp_path, rng):
    """A function that saves logits and returns their path."""

    def save(shape=(6, 5), dtype="float32", order="C"):
        path = tmp_path / "in.npy"
        np.save(path, (rng.standard_normal(shape) * 5).astype(dtype, order))
        return path

    return save


@pytest.mark.parametrize("op", ["softmax", "log_softmax", "logsumexp"])
@pytest.mark.parametrize("axis", [-1, 0, (0, 2), None])
@pytest.mark.parametrize(
    ("shape", "dtype", "order"),
    [((7, 5, 6), "float32", "C"), ((7, 5, 6), "float64", "F"), ((7, 5, 6), "int8", "C"), ((4, 0, 3), "float16", "C")],
)
def test_apply_gives_what_the_function_gives(tmp_path, array_file, monkeypatch, op, axis, shape, dtype, order):
    monkeypatch.setattr(apply, "BLOCK_BYTES", 100)
    path, result = array_file(shape, dtype, order), tmp_path / "out.npy"
    apply.apply(str(path), result, op, axis)
    want = np.asarray(getattr(csoftmax, op)(np.load(path), axis))
    got = np.load(result)
    assert (got.dtype, got.flags.f_contiguous) == (want.dtype, want.flags.f_contiguous)
    np.testing.assert_array_equal(got, want, strict=True)


def test_apply_passes_its_options_on(tmp_path, array_file):
    path, result = array_file(), tmp_path / "out.npy"
    done = run("apply", path, result, "--axis", "0,1", "--temperature", 3, "--dtype", "float64")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    want = csoftmax.softmax(np.load(path), (0, 1), temperature=3, dtype="float64")
    np.testing.assert_array_equal(np.load(result), want, strict=True)


def test_apply_reads_zarr(tmp_path, rng, monkeypatch):
    import zarr

    monkeypatch.setattr(apply, "BLOCK_BYTES", 500)
    logits = rng.standard_normal((20, 30))
    zarr.create_array(tmp_path / "in.zarr", data=logits, chunks=(3, 7))
    apply.apply(str(tmp_path / "in.zarr"), tmp_path / "out.npy", "softmax", 0)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), csoftmax.softmax(logits, 0), strict=True)


def test_apply_works_in_blocks(array_file, monkeypatch):
    monkeypatch.setattr(apply, "BLOCK_BYTES", 200)
    x = np.load(array_file((30, 10)), mmap_mode="r")
    blocks = [x[block] for block in apply._blocks(x, (1,))]
    assert [block.shape for block in blocks] == [(5, 10)] * 6
    np.testing.assert_array_equal(np.concatenate(blocks), x)


def test_apply_may_replace_its_input(array_file):
    path = array_file()
    want = csoftmax.softmax(np.load(path))
    assert run("apply", path, path).returncode == 0
    np.testing.assert_array_equal(np.load(path), want)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.posix("Windows ends a process that is sent a signal")
@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_an_interrupted_apply_leaves_the_folder_as_it_was(tmp_path, array_file, name, status):
    path, result = array_file((100, 5)), tmp_path / "out.npy"
    result.write_text("old")
    strike = f"os.kill(os.getpid(), signal.{name})"
    preparation = (
        "import os, signal, numpy as np; from csoftmax.cli import apply; apply.BLOCK_BYTES = 100; real = np.asarray\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
        f"def asarray(a):\n    if list(os.scandir({str(tmp_path)!r}))[2:]: {strike}\n    return real(a)\n"
        "apply.np.asarray = asarray"
    )
    done = run_after(preparation, "apply", path, result)
    assert done.returncode == status, done.stderr
    assert sorted(tmp_path.iterdir()) == [path, result]
    assert result.read_text() == "old"


@pytest.mark.posix(TERMINAL)
def test_apply_shows_rate_and_time_left_on_a_terminal(tmp_path, array_file):
    import pty

    terminal, terminal_end = pty.openpty()
    command = [*MODULE, "apply", str(array_file()), str(tmp_path / "out.npy")]
    process = subprocess.Popen(command, stderr=terminal_end, env=ENVIRONMENT)
    assert process.wait() == 0
    os.close(terminal_end)
    shown = os.read(terminal, 65536).decode()
    os.close(terminal)
    assert "in.npy" in shown
    assert re.search(r"\d+/\d+ bytes", shown)
    assert re.search(r"\d:\d\d:\d\d", shown)


def test_apply_works_without_rich(tmp_path, array_file):
    done = run_after("sys.modules['rich'] = None", "apply", array_file(), tmp_path / "out.npy")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out.npy").exists()


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (["missing.npy", "out.npy"], 1, "cannot read missing.npy: No such file"),
        (["text.npy", "out.npy"], 1, "cannot read text.npy: no .npy file, .npz file or zarr array"),
        (["folder", "out.npy"], 1, "cannot read folder: a folder, but neither a zarr array nor a group"),
        (["strings.npy", "out.npy"], 1, "strings.npy: x has dtype <U1"),
        (["in.npy", "out.npy", "--axis", "2"], 1, "in.npy: axis 2 is out of bounds"),
        (["in.npy", "missing/out.npy"], 1, "cannot write missing/out.npy: No such file"),
        (["in.npy", "out.npy", "--axis", "last"], 2, "invalid axis value: 'last'"),
        (["in.npy", "out.npy", "--temperature", "0"], 2, "invalid temperature (positive, finite) value: '0'"),
        (["in.npy", "out.npy", "--op", "logsumexp", "--temperature", "2"], 2, "logsumexp has no temperature"),
        (["in.npy", "out.npy", "--dtype", "int8"], 2, "invalid choice: 'int8'"),
        (["in.npy", "out.npz"], 2, "'out.npz' does not end in .npy"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_apply_says_what_is_wrong(tmp_path, array_file, args, status, message):
    array_file()
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "folder").mkdir()
    np.save(tmp_path / "strings.npy", np.array(["a"]))
    before = sorted(tmp_path.iterdir())
    done = run("apply", *[tmp_path / arg if arg.endswith((".npy", ".npz", "folder")) else arg for arg in args])
    assert (done.returncode, done.stdout) == (status, "")
    assert message in done.stderr.replace(f"{tmp_path}{os.sep}", "")
    assert sorted(tmp_path.iterdir()) == before


def test_apply_to_a_link_that_leads_nowhere(tmp_path, array_file):
    loop = tmp_path / "loop.npy"
    loop.symlink_to(loop)
    done = run("apply", array_file(), loop)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("csoftmax: cannot write")
    assert done.stderr.count("\n") == 1


@pytest.mark.posix("os.pathconf tells it")
def test_apply_to_the_longest_name_there_may_be(tmp_path, array_file):
    target = tmp_path / ("a" * (os.pathconf(tmp_path, "PC_NAME_MAX") - 4) + ".npy")
    done = run("apply", array_file(), target)
    assert (done.returncode, done.stderr) == (0, "")
    assert target.exists()


def test_bench_writes_one_page_that_needs_no_other_file(tmp_path):
    path = tmp_path / "bench.html"
    done = run_after("from csoftmax.cli import bench; bench.CASES = bench.CASES[::7]", *TINY, "--html", path)
    assert done.returncode == 0, done.stderr
    text = path.read_text("utf-8")
    assert not re.findall(r"(?:src|href)=[\"'](?!#)", text)
    assert not re.findall(r"url\((?!#)", text)
    figures = json.loads(re.search(r'<script type="application/json" id="results">(.*)</script>', text, re.DOTALL)[1])
    assert {result["case"] for result in figures["results"]} == {"10 classes", "one small call"}
    assert text.count("<svg") == 1
    for shown in ("geometric mean", csoftmax.runtime_info()["compiler"], "softmax backward"):
        assert shown in text


# ------------------------------------------------------------------------------ files that cannot be read, and more


def zarr_of(path, data, **options):
    import zarr

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # raw bytes have no specification in zarr's third version
        zarr.create_array(path, data=data, **options)


def damaged(path, how):
    """A zarr array one of whose chunks is garbage, cut short or empty, or whose metadata are."""
    zarr_of(path, np.ones((50, 70), np.float32), chunks=(7, 11), zarr_format=2 if how == "second format" else 3)
    if how == "metadata":
        (path / "zarr.json").write_text("{")
        return
    chunk = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith((".z", "zarr")))[5]
    chunk.write_bytes({"cut": chunk.read_bytes()[:9], "empty": b""}.get(how, b"garbage"))


BAD_FILES = {
    "a damaged chunk": (lambda p: damaged(p, "garbage"), "a damaged chunk? "),
    "a chunk cut short": (lambda p: damaged(p, "cut"), "a damaged chunk? "),
    "an empty chunk": (lambda p: damaged(p, "empty"), "a damaged chunk? "),
    "a damaged chunk of the second format": (lambda p: damaged(p, "second format"), "a damaged chunk? "),
    "damaged metadata": (lambda p: damaged(p, "metadata"), "Expecting property name"),
    "a truncated file": (lambda p: p.write_bytes(npy(np.zeros(99))[:300]), "the file is truncated"),
    "a truncated header": (lambda p: p.write_bytes(npy(np.zeros(99))[:60]), "the file is truncated"),
    "an empty file": (lambda p: p.write_bytes(b""), "the file is truncated"),
    "text": (lambda p: p.write_text("1.0, 2.0\n" * 9), "no .npy file, .npz file or zarr array"),
    "a header of nonsense": (lambda p: p.write_bytes(npy(np.zeros(9)).replace(b"{'descr'", b"{'descr?")), ""),
    "a shape beyond memory": (
        lambda p: p.write_bytes(npy(np.zeros(9)).replace(b"(9,), ", b"(9" + b"9" * 25 + b",)")), "",
    ),
    "objects": (lambda p: p.write_bytes(npy(np.array([1, None]))), "pickled Python objects"),
    "a folder": (lambda p: p.mkdir(), "a folder, but neither a zarr array nor a group"),
    "a pipe": (lambda p: os.mkfifo(p), "neither a file nor a folder"),
    "float8_e5m2, which NumPy cannot read back": (
        lambda p: p.write_bytes(npy(np.zeros(9, ml_dtypes.float8_e5m2))), "not a valid dtype descriptor",
    ),
    "a damaged .npz": (lambda p: p.write_bytes(npz(a=np.zeros(999))[:700]), ""),
    "damaged data in a .npz": (lambda p: p.write_bytes(npz(a=np.ones(999)).replace(b"\xf0?", b"\xf0!")), "Bad CRC"),
    "objects in a .npz": (lambda p: p.write_bytes(npz(a=np.array([None]))), "pickle"),
    "a .npz of nothing": (lambda p: p.write_bytes(npz()), "which of its arrays? It has none"),
}


def npy(array):
    memory = io.BytesIO()
    np.save(memory, array)
    return memory.getvalue()


def npz(**arrays):
    memory = io.BytesIO()
    np.savez(memory, **arrays)
    return memory.getvalue()


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.posix("os.mkfifo")] * (kind == "a pipe")) for kind in BAD_FILES]
)
@pytest.mark.parametrize("there", [True, False], ids=["over an old OUT", "new OUT"])
def test_apply_to_what_it_cannot_read(tmp_path, kind, there):
    """One line, exit status 1, and OUT as it was."""
    make, words = BAD_FILES[kind]
    path, result = tmp_path / "in", tmp_path / "out.npy"
    make(path)
    if there:
        result.write_text("old")
    done = run("apply", path, result)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"csoftmax: cannot read {path}: ")
    assert words in done.stderr
    assert sorted(tmp_path.iterdir()) == [path, result][: 1 + there]
    assert not there or result.read_text() == "old"


def test_apply_without_permission(tmp_path, array_file):
    path = array_file()
    refuse = (
        "import builtins, errno; there = builtins.open\n"
        "def refuse(name, *a, **k):\n"
        f"    if str(name) == {str(path)!r}: raise PermissionError(errno.EACCES, 'Permission denied', name)\n"
        "    return there(name, *a, **k)\n"
        "builtins.open = refuse"
    )
    done = run_after(refuse, "apply", path, tmp_path / "out.npy")
    assert (done.returncode, done.stderr) == (1, f"csoftmax: cannot read {path}: Permission denied\n")
    assert list(tmp_path.iterdir()) == [path]


def test_apply_without_the_memory_for_it(tmp_path, array_file):
    preparation = "from csoftmax.cli import apply\ndef none(*_): raise MemoryError\napply._create = none"
    done = run_after(preparation, "apply", array_file(), tmp_path / "out.npy")
    assert done.returncode == 1
    assert done.stderr.startswith("csoftmax: not enough memory")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out.npy").exists()


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_apply_to_a_zarr_group_names_its_arrays(tmp_path, rng, zarr_format):
    """And takes each of them by that name."""
    import zarr

    group = zarr.create_group(tmp_path / "g", zarr_format=zarr_format)
    x = rng.standard_normal((4, 5))
    group.create_array("x", data=x)
    group.create_group("more").create_array("y", data=-x)
    done = run("apply", tmp_path / "g", tmp_path / "out.npy")
    names = [tmp_path / "g" / "more" / "y", tmp_path / "g" / "x"]
    words = f"a zarr group, give one of its arrays: {names[0]}, {names[1]}\n"
    assert (done.returncode, done.stderr) == (1, f"csoftmax: cannot read {tmp_path / 'g'}: {words}")
    for name, data in zip(names, (-x, x), strict=True):
        assert run("apply", name, tmp_path / "out.npy").returncode == 0
        np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), csoftmax.softmax(data))
    done = run("apply", tmp_path / "g" / "more" / "y" / "z", tmp_path / "out.npy")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


def test_apply_to_a_zarr_group_of_nothing(tmp_path):
    import zarr

    zarr.create_group(tmp_path / "g")
    done = run("apply", tmp_path / "g", tmp_path / "out.npy")
    words = "a zarr group, without arrays\n"
    assert (done.returncode, done.stderr) == (1, f"csoftmax: cannot read {tmp_path / 'g'}: {words}")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_apply_reads_npz(tmp_path, rng, save):
    path, result = tmp_path / "in.npz", tmp_path / "out.npy"
    a, b = rng.standard_normal((3, 4)), rng.standard_normal((2, 5)).astype(np.float32)
    save(path, a=a, b=b)
    for name, array in (("a", a), ("b", b)):
        done = run("apply", f"{path}:{name}", result)
        assert (done.returncode, done.stderr) == (0, "")
        np.testing.assert_array_equal(np.load(result), csoftmax.softmax(array), strict=True)
    for source, problem in ((path, "which of its arrays?"), (f"{path}:c", "it has no array 'c'.")):
        done = run("apply", source, result)
        assert (done.returncode, done.stderr) == (
            1, f"csoftmax: cannot read {path}: {problem} There are {path}:a, {path}:b\n",
        )
    save(path, a=a)
    assert run("apply", path, result, "--axis", "0").returncode == 0
    np.testing.assert_array_equal(np.load(result), csoftmax.softmax(a, 0), strict=True)


def test_apply_takes_a_name_with_a_colon_as_it_is(tmp_path, array_file):
    path = array_file().rename(tmp_path / "in.npz:a")
    assert run("apply", path, tmp_path / "out.npy").returncode == 0
    done = run("apply", f"{tmp_path / 'none.npz'}:a", tmp_path / "out.npy")
    assert done.stderr == f"csoftmax: cannot read {tmp_path / 'none.npz'}: No such file or directory\n"


@pytest.mark.parametrize("kind", ["npy", "F", "npz", "zarr 2", "zarr 3"])
def test_apply_reads_and_writes_bfloat16(tmp_path, rng, kind):
    """Which files hold as two bytes without a type."""
    x = rng.standard_normal((20, 6)).astype(ml_dtypes.bfloat16)
    path, result = tmp_path / "in.npy", tmp_path / "out.npy"
    if kind.startswith("zarr"):
        zarr_of(path, x.view("V2"), chunks=(3, 6), zarr_format=int(kind[-1]))
    elif kind == "npz":
        path.write_bytes(npz(x=x))
    else:
        path.write_bytes(npy(np.asarray(x, order="F" if kind == "F" else "C")))
    done = run("apply", path, result)
    assert (done.returncode, done.stderr) == (0, "")
    got = np.load(result)
    assert got.dtype == "V2"
    np.testing.assert_array_equal(got.view(ml_dtypes.bfloat16), csoftmax.softmax(x), strict=True)
    assert run("apply", path, result, "--dtype", "float32").returncode == 0
    np.testing.assert_array_equal(np.load(result), csoftmax.softmax(x, dtype="float32"), strict=True)
    assert run("apply", result, result, "--dtype", "bfloat16", "--op", "logsumexp").returncode == 0
    assert np.load(result).view(ml_dtypes.bfloat16).shape == (20,)


def test_apply_says_what_bfloat16_needs(tmp_path, array_file):
    path = array_file()
    missing = "sys.modules['ml_dtypes'] = None"
    done = run_after(missing, "apply", path, tmp_path / "out.npy", "--dtype", "bfloat16")
    needs = "which needs ml_dtypes: pip install ml_dtypes\n"
    assert (done.returncode, done.stderr) == (1, f"csoftmax: --dtype bfloat16, {needs}")
    path.write_bytes(npy(np.zeros(3, "V2")))
    done = run_after(missing, "apply", path, tmp_path / "out.npy")
    assert (done.returncode, done.stderr) == (1, f"csoftmax: {path} holds bfloat16, {needs}")


@pytest.mark.parametrize("command", ["apply", "bench", "info"])
def test_help_names_every_option_and_file(command):
    text = " ".join(run(command, "--help").stdout.split())
    assert text.startswith(f"usage: csoftmax {command}")
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    section = page[page.index(f"## csoftmax {command}") :].split("\n## ")[0]
    for option in set(re.findall(r"--[a-z]+", text)) - {"--help"}:
        assert option in section, option
    if command == "apply":
        for words in (".npy file", "zarr array", "FILE.npz:NAME", "bfloat16", *apply.OPERATIONS):
            assert words in text


def test_the_folder_of_the_header_is_printed():
    done = run("--include")
    assert (done.returncode, done.stdout) == (0, f"{csoftmax.get_include()}\n")
    assert Path(done.stdout.strip(), "csoftmax", "csoftmax.h").is_file()


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "TkAgg", "nonsense", "svg"])
def test_bench_draws_whatever_the_backend_of_others(tmp_path, backend):
    preparation = (
        f"import os; os.environ['MPLBACKEND'] = {backend!r}\n"
        "from csoftmax.cli import bench; bench.CASES = bench.CASES[::7]"
    )
    done = run_after(preparation, *TINY, "--html", tmp_path / "bench.html", "--plot", tmp_path / "bench.png")
    assert (done.returncode, done.stderr) == (0, "")
    assert imread(tmp_path / "bench.png").size
