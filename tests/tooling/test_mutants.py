"""tools/mutants.py: what its rules find, and a run of it on a small project whose survivors are known."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
sys.path.insert(0, str(TOOLS))

import mutant_rules  # noqa: E402

CYTHON = '''"""Sums."""
cdef enum:
    SIZE = 4 * 2                  # no function: left alone

cdef struct Row:
    double values[SIZE + 1]

cdef inline double dot(const double *x, const double *y, Py_ssize_t n, double low) noexcept nogil:
    """A docstring - no code."""
    cdef double total = x[0] * y[0], seen[SIZE]
    cdef Py_ssize_t i
    for i in range(1, n):
        total += fma(x[i], y[i * y_stride], <double> low)
    if n > 3 and total < 0:       # a comment - no code
        finish(&total, "a - b", n)
    return total + low
'''

C = """/* sums - in C */
#define SIZE (4 * 2)
#define TWICE(x) add_f32(x, (x) * 2)
static const int table[2] = {1 + 1, 2};
struct row { int values[SIZE + 1]; };
static double dot(const double *x, const double *y, int n) {
    const double *p = x;
    double total = 0;
    for (int i = 0; i < n; i++) total += p[i] * y[i];
    if (n > 3) total = (double)n - total;
    finish(&total, n);
    return total;
}
"""

TINY = {
    "setup.py": '''
import os
from Cython.Build import cythonize
from setuptools import Extension, setup
flags = os.environ["CSOFTMAX_CFLAGS"].split()
setup(ext_modules=cythonize([
    Extension("tiny.sums", ["tiny/sums.pyx"], include_dirs=["tiny/include"], extra_compile_args=flags)
]))
''',
    "tiny/__init__.py": "",
    "tiny/include/tiny/power.h": """
static int square(int n) {
    return n * n;
}
#ifdef ELSEWHERE
static int cube(int n) { return n * n * n; }
#endif
""",
    "tiny/sums.pyx": '''"""Sums of squares."""
cdef extern from "tiny/power.h":
    int square(int)


def total(int n):
    cdef int i, s = 0
    for i in range(n):
        s += square(i)
    return s


def clamped(int n):
    if n > 9:
        n = 9
    return n


def until(int n):
    while n != 8:
        n += 2
    return n


def never(int n):
    return n - 1
''',
    "tests/test_sums.py": """
from tiny import sums
def test_total(): assert sums.total(4) == 14
def test_clamped(): assert sums.clamped(9) == 9
def test_until(): assert sums.until(4) == 8
def test_that_fails_anyway(): assert sums.total(1) == 1
""",
    "mutants.toml": """
[[verdict]]
file = "tiny/*"
line = "n = 9"
wrong = "9 + 1"
reason = "nothing is above it"
""",
}  # fmt: skip
ELF = pytest.mark.linux("the tool reads ELF")


def found(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    return list(mutant_rules.changes_of(tmp_path, name))


def told(changes):
    return {(c.rule, c.right, c.wrong) for c in changes}


def test_what_is_found_in_cython(tmp_path):
    changes = found(tmp_path, "sums.pyx", CYTHON)
    assert {c.function for c in changes} == {"dot"}
    assert {c.rule for c in changes} == set(mutant_rules.RULES) - {"swap"}
    assert told(changes) >= {
        ("operator", "x[0] * y[0]", "x[0] + y[0]"),
        ("operator", "total + low", "total - low"),
        ("comparison", "n > 3", "n >= 3"),
        ("bound", "n", "n - 1"),
        ("constant", "3", "3 + 1"),
        ("index", "i", "i + 1"),
        ("compensation", "fma(x[i], y[i * y_stride], <double> low)", "(x[i]) * (y[i * y_stride])"),
        ("compensation", "total + low", "total"),
        ("branch", "n > 3 and total < 0", "0"),
        ("stride", "y_stride", "y_stride + 1"),
        ("statement", 'finish(&total, "a - b", n)', ""),
    }
    assert not any(word in c.right for c in changes for word in ("SIZE", "docstring", "comment", "double low -"))


def test_what_is_found_in_c(tmp_path):
    changes = found(tmp_path, "sums.h", C)
    assert {c.function for c in changes} == {"dot", "TWICE"}
    assert told(changes) >= {
        ("operator", "(x) * 2", "(x) + 2"),
        ("compensation", "add_f32(x, (x) * 2)", "x"),
        ("operator", "p[i] * y[i]", "p[i] + y[i]"),
        ("swap", "(double)n - total", "total - (double)n"),
        ("comparison", "i < n", "i <= n"),
        ("branch", "n > 3", "1"),
        ("statement", "finish(&total, n)", ""),
    }
    assert not any("const double" in c.right or "1 + 1" in c.right or "SIZE" in c.right for c in changes)


@pytest.mark.parametrize(("name", "text"), [("sums.pyx", CYTHON), ("sums.h", C)])
def test_each_change_is_a_choice_in_the_place_of_what_was_there(tmp_path, name, text):
    language = "c" if name.endswith("h") else "cython"
    for change in found(tmp_path, name, text):
        part = text[change.start : change.end]
        assert "".join(part.split()) == "".join(change.right.split())
        written = mutant_rules.switched(change, language, part)
        assert "csm_mutant_is(0)" in written
        assert text.count("\n", 0, change.start) + 1 == change.line


def run(root, *options):
    return subprocess.run(
        [sys.executable, TOOLS / "mutants.py", f"--root={root}", "--package=tiny", *options],
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The small project, and what a run on all of its changes printed."""
    root = tmp_path_factory.mktemp("tiny")
    for name, text in TINY.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / ".gitignore").write_text("build\n*.so\n")
    subprocess.run(["git", "init", "-q", root], check=True)
    options = ["--count=99", "--patience=1", f"--verdicts={root / 'mutants.toml'}", "--at-least=99"]
    return root, options, run(root, *options)


@ELF
def test_survivors_are_told_with_their_place(tiny):
    _, _, done = tiny
    assert done.returncode == 1, done.stderr  # less than 99 percent
    [survivor] = re.findall(r"^survived \(1 tests\), seed 1: (.*)", done.stdout, re.M)
    assert survivor.startswith("tiny/sums.pyx:14 (clamped) ")
    [unreached] = re.findall(r"^not reached \(\), seed 1: (.*)", done.stdout, re.M)
    assert unreached.startswith("tiny/sums.pyx:26 (never) ")
    assert "changes nothing: tiny/sums.pyx:15 (clamped) constant: 9 -> 9 + 1: nothing is above it" in done.stdout
    assert "4 tests, 1 of which fail without a change" in done.stdout
    assert "left out: tests/test_sums.py::test_that_fails_anyway" in done.stdout


@ELF
def test_what_the_tests_see_is_noticed(tiny):
    root, _, done = tiny
    noticed = re.findall(r"^noticed: (\S+ \(\w+\))", done.stdout, re.M)
    assert set(noticed) == {
        "tiny/include/tiny/power.h:3 (square)",
        *(f"tiny/sums.pyx:{line} (total)" for line in (7, 8, 9)),
        *(f"tiny/sums.pyx:{line} (until)" for line in (20, 21)),
    }
    assert done.stdout.splitlines()[-1] == "changes=9 without_effect=1 noticed=6 share=75.0"
    assert not any("cube" in line for line in done.stdout.splitlines())
    results = [json.loads(line) for line in (root / "build" / "mutants" / "results.jsonl").read_text().splitlines()]
    hung = [r for r in results if r["how"] == "hangs"]
    assert hung
    assert all(r["test"] == "tests/test_sums.py::test_until" for r in hung)


@ELF
def test_a_run_that_was_broken_off_goes_on(tiny):
    root, options, done = tiny
    store = root / "build" / "mutants" / "results.jsonl"
    lines = store.read_text().splitlines()
    store.write_text("".join(line + "\n" for line in lines[:-1]))
    again = run(root, *options)
    assert again.stdout.splitlines()[-1] == done.stdout.splitlines()[-1]
    assert len(re.findall(r"^(?:noticed|survived|not reached): ", again.stdout, re.M)) == 1
    assert "building" not in again.stdout
    assert sorted(store.read_text().splitlines()) == sorted(lines)
