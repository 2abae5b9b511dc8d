"""Runs what docs/reliability.md tells of, and writes it.

    python tools/trust.py [--scale short|nightly] [STEP ...]

Without steps, all of them. "short" is the size for continuous integration, "nightly" the whole. Builds go to
build/trust. A step that needs a tool which this machine lacks is reported as not run. Figures are kept in
build/trust/figures.json, so that steps can be run one at a time.
"""

import argparse
import collections
import json
import os
import platform
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).parents[1]
WORK = ROOT / "build" / "trust"
STEPS = {}
SANITIZE = "-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined"
QUIET = ["-p", "no:cacheprovider", "-o", "junit_family=xunit1"]
CORE_TESTS = ["softmax", "log_softmax", "logsumexp", "cross_entropy", "cross_entropy_errors", "errors"]
CORE_TESTS += ["edge_cases", "layouts", "where", "dtypes", "half_rows"]


class NotRun(Exception):
    """What this machine lacks."""


def step(title):
    def register(function):
        STEPS[function.__name__] = (title, function)
        return function

    return register


def need(*tools):
    for tool in tools:
        if not shutil.which(tool):
            raise NotRun(f"no {tool} on this machine")


def run(command, cwd=ROOT, **environment):
    """Run a command; what it prints. A failure ends the step."""
    result = subprocess.run(
        list(map(str, command)), cwd=cwd, env=os.environ | environment, capture_output=True, text=True
    )
    if result.returncode:
        raise RuntimeError(
            f"{' '.join(map(str, command))}: exit {result.returncode}\n"
            f"{result.stdout[-3000:]}{result.stderr[-3000:]}"
        )
    return result.stdout


def pytest(*arguments, cwd=ROOT, python=(sys.executable,), **environment):
    """Run tests; their number, and the figures that they tally."""
    report = WORK / f"report-{os.getpid()}.xml"
    run(
        [*python, "-m", "pytest", "-q", *QUIET, f"--junitxml={report}", *arguments],
        cwd,
        PYTHONPATH=os.pathsep.join(filter(None, [str(cwd), environment.pop("PYTHONPATH", "")])),
        **environment,
    )
    figures = collections.Counter()
    for case in ElementTree.parse(report).iter("testcase"):
        skipped = case.find("skipped")
        xfailed = skipped is not None and skipped.get("type") == "pytest.xfail"
        figures[
            "known shortfalls" if xfailed else "tests skipped" if skipped is not None else "tests passed"
        ] += 1
        for figure in case.iter("property"):
            figures[figure.get("name")] += int(figure.get("value"))
    return figures


def build(name, python=(sys.executable,), **environment):
    """Build the tracked sources in a directory of their own."""
    folder = WORK / name
    shutil.rmtree(folder, ignore_errors=True)
    for path in run(["git", "ls-files"]).splitlines():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, folder / path)
    run([*python, "setup.py", "build_ext", "-i", f"-j{os.cpu_count()}"], folder, **environment)
    return folder


def one_level(scale):
    """What makes a short run build one level where the whole builds all."""
    return {"CSOFTMAX_BUILD_ISA": "avx2"} if scale == "short" and platform.machine() == "x86_64" else {}


def core_tests(folder):
    return [next((folder / "tests").glob(f"*/test_{name}.py")) for name in CORE_TESTS]


# -------------------------------------------------------------------------------------------------- steps


@step("Accuracy beside NumPy, SciPy, PyTorch and JAX (docs/accuracy.md)")
def accuracy(scale):
    printed = run([sys.executable, "tools/accuracy.py", *(["--long"] if scale == "nightly" else [])])
    return {name.replace("_", " "): int(value) for name, value in (p.split("=") for p in printed.split())}


@step("Batch invariance: a row's bits wherever, with whomever and by how many threads it is worked on")
def batch(scale):
    return pytest("tests/trust/test_batch.py", f"--scale={scale}")


@step("Forks, 64 threads, arrays that change during the call, cgroups, beside OpenMP run times")
def concurrency(scale):
    return pytest("tests/trust/test_concurrency.py", f"--scale={scale}", "-m", "peers or not peers")


@step("The pool of threads under ThreadSanitizer and helgrind, with its own waiting and with the portable one")
def threads(scale):
    need("gcc", "valgrind")
    calls = 20000 if scale == "nightly" else 2000
    locked = '-DCSM_POOL_ATOMICS="../../tests/trust/locked_atomics.h"'
    races = {"TSAN_OPTIONS": "halt_on_error=1 die_after_fork=0"}
    figures = collections.Counter()
    for tool, flags, before, callers, count, each, environment in (
        ("ThreadSanitizer", ["-fsanitize=thread"], [], 8, calls, 20, races),
        ("ThreadSanitizer", ["-fsanitize=thread", locked], [], 8, calls, 20, races),
        ("helgrind", [locked], ["valgrind", "-q", "--tool=helgrind", "--error-exitcode=3"], 4, calls // 4, 0, {}),
    ):
        program = WORK / "pool_stress"
        sources = ["tests/trust/pool_stress.c", "csoftmax/runtime/pool.c"]
        run(["gcc", "-O1", "-g", "-Wall", "-Wextra", "-Icsoftmax", *flags, *sources, "-o", program, "-pthread"])
        figures[f"calls under {tool}"] += int(run([*before, program, callers, count, each], **environment))
    return figures


@step("Guard pages directly before and behind every argument, widths 1 to 300")
def guard(scale):
    return pytest("tests/trust/test_guard_pages.py", "tests/trust/test_scratch.py", f"--scale={scale}")


@step("Leaks, and allocations that fail")
def allocation(scale):
    return pytest("tests/trust/test_allocation.py", f"--scale={scale}")


@step("AddressSanitizer and UndefinedBehaviorSanitizer")
def sanitize(scale):
    need("gcc")
    folder = build("sanitize", CSOFTMAX_CFLAGS=SANITIZE, **one_level(scale))
    environment = {
        "LD_PRELOAD": run(["gcc", "-print-file-name=libasan.so"]).strip(),
        # Python's own leaks at exit are not ours; a fault at a guard page is to end the process as it does elsewhere
        "ASAN_OPTIONS": "detect_leaks=0,allocator_may_return_null=1,handle_segv=0",
    }
    # the step "baseline" runs that level
    suite = [folder / "tests"] if scale == "nightly" else [*core_tests(folder), "-k", "not baseline"]
    figures = pytest(
        *suite,
        f"--ignore={folder}/tests/runtime/test_memory.py",
        f"--ignore={folder}/tests/trust",
        cwd=folder,
        **environment,
    )
    figures += pytest(
        "tests/trust/test_guard_pages.py", "tests/trust/test_fuzz.py", cwd=folder, **environment
    )
    return figures


@step("Valgrind memcheck at avx2")
def valgrind(scale):
    need("valgrind")
    log = WORK / "valgrind.log"
    calls = run(
        [
            "valgrind",
            f"--log-file={log}",
            sys.executable,
            "tests/trust/guard.py",
            "avx2",
            "float32",
            50 if scale == "nightly" else 130,
        ],
        PYTHONPATH=f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
        PYTHONMALLOC="malloc",
        CSOFTMAX_NUM_THREADS="1",
    )
    errors = [block for block in log.read_text().split("\n==") if "/csoftmax/" in block and " at 0x" in block]
    if errors:
        raise RuntimeError("\n".join(errors[:5]))
    return {"calls": int(calls), "errors in csoftmax": 0}


@step("Billions of elements, and Ctrl-C during long calls")
def big(scale):
    return pytest("tests/trust/test_big.py", f"--scale={scale}")


@step("Fuzzer: random calls, half of them wrong")
def fuzz(scale):
    return pytest("tests/trust/test_fuzz.py", f"--scale={scale}")


@step("The baseline level alone")
def baseline(scale):
    folder = build("baseline", CSOFTMAX_BUILD_ISA="baseline")
    return pytest(*core_tests(folder), cwd=folder)


@step("The reference of the numeric tests in quadruple precision, as where a long double is a double")
def quad(scale):
    folder = WORK / "quad"
    run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--upgrade", "--target", folder, "numpy-quaddtype"])
    suite = ["tests"] if scale == "nightly" else [*core_tests(ROOT), "-k", "not baseline"]
    return pytest(*suite, ORACLE="quad", PYTHONPATH=str(folder))


@step("Wrong changes of the kernels, the plan and the threads: the share that the tests notice (tools/mutants.py)")
def mutants(scale):
    need("gcc", "git", "objcopy")
    size = ["--seeds", 1, 2, 3, "--count", 50] if scale == "nightly" else ["--seeds", 1, "--count", 10]
    # at the highest level; the others have the same kernels
    level = ["--level", run([sys.executable, "-c", "import csoftmax; print(csoftmax.get_isa())"]).strip()]
    tests = ["tests"] if scale == "nightly" else core_tests(Path())
    printed = run([sys.executable, "tools/mutants.py", *size, *level, "--at-least", 95, "--", *tests])
    figures = dict(part.split("=") for part in printed.splitlines()[-1].split())
    return {
        "changes": int(figures["changes"]),
        "of them without effect": int(figures["without_effect"]),
        "noticed": int(figures["noticed"]),
    }


@step("Clang")
def clang(scale):
    need("clang")
    clang = {"CC": "clang", "CFLAGS": "-Wno-unused-command-line-argument", "LDSHARED": "clang -shared"}
    folder = build("clang", **clang, **one_level(scale))
    return pytest(*core_tests(folder), cwd=folder)


@step("Python 3.12 with the oldest NumPy and 3.13 with the newest")
def pythons(scale):
    figures = collections.Counter()
    for name, numpy in ("python3.12", "numpy==2.0.*"), ("python3.13", "numpy"):
        need(name)
        if subprocess.run([name, "-c", ""], capture_output=True).returncode:
            raise NotRun(f"no {name} on this machine")
        run([name, "-m", "venv", WORK / f"venv-{name}"])
        python = [WORK / f"venv-{name}" / "bin" / "python"]
        tools = ["cython>=3.3", "setuptools>=77", "pytest", "pytest-benchmark", "hypothesis", "mpmath"]
        run([*python, "-m", "pip", "install", "-q", numpy, "ml_dtypes", *tools])
        levels = {"CSOFTMAX_BUILD_ISA": "baseline"} if scale == "short" else {}
        figures += pytest(*core_tests(folder := build(name, python, **levels)), cwd=folder, python=python)
    return figures


@step("The neon level, cross-built for arm64 and run under qemu")
def neon(scale):
    need("qemu-aarch64", "aarch64-linux-gnu-gcc", "dpkg-deb")
    if not os.environ.get("TRUST_ARM64"):
        raise NotRun("TRUST_ARM64 names no root with an arm64 Python (tools/arm64.sh)")
    root = Path(os.environ["TRUST_ARM64"])
    python = ["qemu-aarch64", "-L", root, root / "usr/bin/python3.11"]
    headers = f"-I{root}/usr/include -I{root}/usr/include/python3.11"
    folder = build(
        "neon",
        python,
        PYTHONPATH=str(root / "site"),
        CC=f"aarch64-linux-gnu-gcc {headers}",
        LDSHARED="aarch64-linux-gnu-gcc -shared",
    )
    # on arm64 the baseline is the same code, and long double is emulated twice over
    suite = ["-k", "not baseline", *core_tests(folder)[:4]]
    return pytest(*suite, cwd=folder, python=python, PYTHONPATH=str(root / "site"))


@step("What is built and shipped: exported symbols, needed libraries, tracing, flags")
def supply(scale):
    return pytest("tests/trust/test_supply_chain.py")


# ------------------------------------------------------------------------------------------------- report


def write_report(figures):
    """docs/reliability.md, from the figures of every step's last run."""
    lines = [
        "# Reliability",
        "",
        "Generated by `python tools/trust.py`: what was tried, how often, and what came of it.",
        "`--scale=nightly` is the whole; `--scale=short` is what continuous integration runs. Each row is",
        "the step's last run.",
        "",
        f"{platform.system()} {platform.machine()}, Python {platform.python_version()}.",
        "",
        "| step | what | size | result | figures |",
        "|---|---|---|---|---|",
    ]
    for name, (title, _) in STEPS.items():
        entry = figures.get(name, {"scale": "", "result": "not run", "figures": {}})
        told = "; ".join(f"{n:,} {what}" for what, n in entry["figures"].items())
        lines.append(f"| {name} | {title} | {entry['scale']} | {entry['result']} | {told} |")
    lines += [
        "",
        "Known shortfalls are tests that fail as they should until the fault they name is mended.",
        "",
    ]
    (ROOT / "docs" / "reliability.md").write_text("\n".join(lines))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", choices=["short", "nightly"], default="short")
    parser.add_argument("steps", nargs="*", metavar="STEP", help=", ".join(STEPS))
    options = parser.parse_args()
    unknown = set(options.steps) - set(STEPS)
    if unknown:
        parser.error(f"no step {', '.join(sorted(unknown))}; there are: {', '.join(STEPS)}")
    WORK.mkdir(parents=True, exist_ok=True)
    store = WORK / "figures.json"
    failed = False
    for name in options.steps or STEPS:
        start = time.monotonic()
        try:
            found, result = STEPS[name][1](options.scale), "passed"
        except NotRun as reason:
            found, result = {}, f"not run: {reason}"
        except (RuntimeError, ValueError) as error:
            found, result, failed = {}, "FAILED", True
            print(error, file=sys.stderr)
        figures = json.loads(store.read_text()) if store.exists() else {}  # another run may have added to it
        figures[name] = {"scale": options.scale, "result": result, "figures": dict(found)}
        print(f"{name}: {result} in {time.monotonic() - start:.0f} s", flush=True)
        store.write_text(json.dumps(figures, indent=1))
        write_report(figures)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
