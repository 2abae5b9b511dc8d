"""Every snippet in the pages and docstrings of the integrations runs and prints what it says."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.interop

PAGES = Path(__file__).parents[2] / "docs" / "interop"
MODULES = ["autograd", "autoray", "boosting", "dask", "jax", "numba", "onnx", "scipy", "sklearn", "thinc", "torch"]
PUBLIC = [
    (module, name)
    for module in MODULES
    for name in importlib.import_module(f"csoftmax.interop.{module}").__all__
    if module != "onnx"  # whose operators are not called by hand
]


def run(test):
    """Run one doctest; its report, or an empty string where all is well."""
    report = []
    doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS).run(test, out=report.append)
    return "".join(report)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # of PyTorch's own forward mode
@pytest.mark.parametrize("module", MODULES)
def test_page(module):
    # A fence would pass for expected output; an empty line in its place keeps the line numbers.
    text = re.sub(r"^```.*$", "", (PAGES / f"{module}.md").read_text(), flags=re.MULTILINE)
    test = doctest.DocTestParser().get_doctest(text, {}, module, f"{module}.md", 0)
    assert len(test.examples) > 3
    report = run(test)
    assert not report, report


@pytest.mark.parametrize(("module", "name"), PUBLIC)
def test_docstring(module, name):
    function = getattr(importlib.import_module(f"csoftmax.interop.{module}"), name)
    tests = doctest.DocTestFinder(recurse=False).find(function, name, module=False, globs={})
    assert [test.name for test in tests] == [name]
    assert tests[0].examples, f"{name} has no example"
    report = run(tests[0])
    assert not report, report
