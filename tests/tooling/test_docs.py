"""Every snippet in the documentation runs and prints what it says, at every ISA level."""

import doctest
import re
from pathlib import Path

import pytest

import csoftmax
from csoftmax.interop import scipy as interop_scipy

pytestmark = pytest.mark.usefixtures("isa")

ROOT = Path(__file__).parents[2]
GENERATED = {"benchmarks.md", "accuracy.md", "reliability.md"}  # figures, by programs with tests of their own
PAGES = ["README.md", *(f"docs/{p.name}" for p in sorted(ROOT.glob("docs/*.md")) if p.name not in GENERATED)]
PUBLIC = [(m, name) for m in (csoftmax, interop_scipy) for name in m.__all__]


def run(test):
    """Run one doctest; its report, or an empty string where all is well."""
    report = []
    doctest.DocTestRunner(verbose=False).run(test, out=report.append)
    return "".join(report)


@pytest.mark.parametrize("page", PAGES)
def test_page(page, monkeypatch):
    monkeypatch.chdir(ROOT)  # snippets read files as from a clone
    # A fence would pass for expected output; an empty line in its place keeps the line numbers.
    text = re.sub(r"^```.*$", "", (ROOT / page).read_text("utf-8"), flags=re.MULTILINE)
    report = run(doctest.DocTestParser().get_doctest(text, {}, page, page, 0))
    assert not report, report


@pytest.mark.parametrize("page", PAGES[1:])
def test_python_stands_in_fences_as_a_session(page):
    """Otherwise nothing would run it."""
    text = (ROOT / page).read_text("utf-8")
    fences = re.findall(r"^```(\S*)[^\n]*\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    for language, code in fences:
        assert language == "python" or language == "sh" or language.startswith("{"), language
        assert code.startswith(">>> ") == (language == "python"), code


@pytest.mark.parametrize(("module", "name"), PUBLIC, ids=lambda v: getattr(v, "__name__", v))
def test_docstring(module, name):
    tests = doctest.DocTestFinder(recurse=False).find(getattr(module, name), name, module=False, globs={})
    assert [test.name for test in tests] == [name]
    assert tests[0].examples, f"{name} has no example"
    report = run(tests[0])
    assert not report, report
