"""What the tests need of a system is told by their marks, `linux` and `posix`, and by nothing else."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
# what code reads like that only one system runs, or only those like it
WORDS = {
    "linux": (
        *("/proc/", "/sys/", "/dev/full", "sched_getaffinity", "sched_setaffinity", "setrlimit", "LD_PRELOAD"),
        *("libm.so", "readelf", "objcopy"),
    ),
    "posix": (
        *("os.fork", '"fork"', "openpty", "mkfifo", "getuid", "pathconf", "signal.SIGKILL", "signal.SIGSEGV", "SIGHUP"),
        *("setitimer", "import resource", "import fcntl", "import pwd", "import termios", "waitpid", "CDLL(None"),
    ),
}
MODULES = {"fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty"}
# run before the tests are collected: from then on this Python looks like another system's
ELSEWHERE = """
import asyncio, importlib.abc, multiprocessing.pool, os, pathlib, platform, signal, subprocess, sys, urllib.request
import hypothesis, matplotlib.image, mpmath, mypy.api, numpy, pytest, rich.progress, scipy.special, setuptools
import sklearn.cluster, sklearn.datasets, threadpoolctl, zarr
import csoftmax, csoftmax.runtime.cpus
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
for name in ABSENT:
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Absent())
for name in ("fork", "forkpty", "getuid", "mkfifo", "pathconf", "sched_getaffinity", "sched_setaffinity", "sysconf"):
    delattr(os, name)
for name in ("SIGHUP", "SIGKILL", "SIGPROF", "SIGALRM", "setitimer"):
    delattr(signal, name)
sys.platform = "darwin"
class Elsewhere:
    def pytest_collection(self):
        sys.modules["conftest"].SYSTEMS.update(SYSTEMS)
sys.exit(pytest.main(sys.argv[1:], plugins=[Elsewhere()]))
"""
# what comes first cannot be rewritten
WARNING = "ignore::pytest.PytestAssertRewriteWarning"


def marks_of(decorators):
    """Names of the marks among decorators, in `pytest.param` too."""
    nodes = [node for d in decorators for node in ast.walk(d) if isinstance(node, ast.Attribute)]
    return {node.attr for node in nodes if isinstance(node.value, ast.Attribute) and node.value.attr == "mark"}


def needs_of(text, tree):
    """{name: systems} of the functions and constants of a module, by what they say and the names that they use."""
    parts = {}
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [node]
        names = [getattr(target, "name", getattr(target, "id", None)) for target in targets]
        parts.update({name: node for name in names if name})
    said = {name: ast.get_source_segment(text, node) for name, node in parts.items()}
    used = {name: {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} for name, node in parts.items()}
    for name, node in parts.items():
        if isinstance(node, ast.FunctionDef):
            used[name] |= {argument.arg for argument in node.args.args}  # fixtures
    needs = {name: {s for s, words in WORDS.items() if any(word in said[name] for word in words)} for name in parts}
    for _ in parts:
        for name in parts:
            for other in used[name] & parts.keys():
                needs[name] = needs[name] | needs[other]
    return {name: needs[name] for name, node in parts.items() if isinstance(node, ast.FunctionDef)}, parts


def faults_of(text):
    """Tests of a module that need a system and are not marked so."""
    tree = ast.parse(text)
    needs, parts = needs_of(text, tree)
    module = marks_of([parts["pytestmark"]]) if "pytestmark" in parts else set()
    named = {name: marks_of([node]) for name, node in parts.items() if isinstance(node, ast.Assign)}
    faults = []
    for name, systems in needs.items():
        decorators = parts[name].decorator_list
        used = {n.id for d in decorators for n in ast.walk(d) if isinstance(n, ast.Name)}
        marks = module | marks_of(decorators) | {mark for other in used for mark in named.get(other, ())}
        if name.startswith("test_") and systems and not marks & ({"linux"} | systems):
            faults.append(f"{name} needs {', '.join(sorted(systems))}")
    imports = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    for node in imports:
        names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
        faults += [f"line {node.lineno} imports {name}" for name in names if name.split(".")[0] in MODULES]
    return faults


FILES = sorted(path for path in TESTS.rglob("test_*.py") if path.name != Path(__file__).name)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_tests_that_need_a_system_are_marked(path):
    assert faults_of(path.read_text("utf-8")) == []


def test_the_mark_is_the_only_way_to_skip_for_a_systems_sake():
    for path in FILES:
        text = path.read_text("utf-8")
        assert "sys.platform" not in text, path.name
        assert "skipif" not in text, path.name


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("import resource\n", ["line 1 imports resource"]),
        ("def test_a():\n    os.fork()\n", ["test_a needs posix"]),
        ("@pytest.mark.posix('w')\ndef test_a():\n    os.fork()\n", []),
        ("@pytest.mark.linux('w')\ndef test_a():\n    os.fork()\n", []),
        ("@pytest.mark.posix('w')\ndef test_a():\n    open('/proc/stat')\n", ["test_a needs linux"]),
        ("pytestmark = pytest.mark.linux('w')\ndef test_a():\n    open('/proc/stat')\n", []),
        ("CODE = 'os.fork()'\ndef run():\n    output(CODE)\ndef test_a():\n    run()\n", ["test_a needs posix"]),
        ("@pytest.fixture\ndef child():\n    os.fork()\ndef test_a(child):\n    pass\n", ["test_a needs posix"]),
        ("L = pytest.mark.linux('w')\n@L\ndef test_a():\n    open('/proc/stat')\n", []),
    ],
)
def test_the_lint_itself(text, faults):
    assert faults_of(text) == faults


def elsewhere(*options, **systems):
    """A run of pytest where only those systems' tests can run that are True."""
    code = ELSEWHERE.replace("ABSENT", repr(MODULES)).replace("(SYSTEMS)", f"({systems})")
    return subprocess.run(
        [sys.executable, "-c", code, "-q", "-p", "no:cacheprovider", "-W", WARNING, *options, str(TESTS)],
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_everything_is_collected_where_linux_modules_are_absent():
    done = elsewhere("--collect-only", linux=False, posix=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert re.match(r"\d+(/\d+)? tests collected", done.stdout.splitlines()[-1])


def test_what_is_marked_is_skipped_elsewhere():
    done = elsewhere("-m", "linux or posix", linux=False, posix=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert "passed" not in done.stdout.splitlines()[-1]
    assert "on linux alone: cgroups are its own" in done.stdout
    assert "on posix alone: os.fork" in done.stdout
