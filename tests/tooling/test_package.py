"""What users of the package meet beside its functions: version, types, import from a clone, install commands."""

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import csoftmax

ROOT = Path(__file__).parents[2]
PACKAGE = Path(csoftmax.__file__).parent
ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MYPYPATH")}
USER = """
from typing import Literal

import numpy as np
from numpy.typing import NDArray

import csoftmax
from csoftmax.interop import scipy
from csoftmax.interop.scipy import log_softmax, logsumexp, softmax


def loss(x: NDArray[np.float32], y: NDArray[np.int64], reduction: Literal["mean", "sum", "none"]) -> float:
    return float(np.sum(csoftmax.cross_entropy(x, y, reduction=reduction)))


def total(x: NDArray[np.float64]) -> float:
    p: NDArray[np.float64] = softmax(x, axis=1)
    s: NDArray[np.float64] = scipy.log_softmax(x, (0, 1))
    return float(p.sum() + s.sum() + logsumexp(x, b=[1.0, 2.0], return_sign=False) + log_softmax(x).sum())


version: str = csoftmax.__version__
"""
MISTAKES = {
    'csoftmax.cross_entropy(x, y, reduction="median")': "No overload variant",
    'softmax(x, axis="rows")': "No overload variant",
    "softmax(x, dim=1)": 'Unexpected keyword argument "dim"',
    "logsumexp(x, keepdims=2.5)": "No overload variant",
    "csoftmax.softmax(x, axis=1.5)": "No overload variant",
    "csoftmax.interop.scipy.softmax()": "require at least one argument",
}


@pytest.fixture(scope="module")
def check(tmp_path_factory):
    """A function that checks a user's file with ``mypy --strict``, csoftmax being installed in site-packages."""
    folder = tmp_path_factory.mktemp("user")
    python = folder / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    [site] = (folder / "venv").rglob("site-packages")
    site.joinpath("csoftmax").symlink_to(PACKAGE)
    site.joinpath("numpy").symlink_to(Path(np.__file__).parent)

    def check(code):
        (folder / "user.py").write_text(code)
        options = ["--strict", "--config-file=", f"--python-executable={python}", f"--cache-dir={folder / 'cache'}"]
        # in another folder, since mypy looks into the current one too
        command = [sys.executable, "-m", "mypy", *options, "user.py"]
        return subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True).stdout

    return check


def test_a_users_file_passes_the_strict_check(check):
    assert check(USER).startswith("Success: no issues found"), check(USER)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_found_in_a_users_file(check, mistake):
    found = check(f"{USER}\n\ndef wrong(x: NDArray[np.float64], y: NDArray[np.int64]) -> None:\n    {mistake}\n")
    # one for each overload that is tried, all of one line
    assert re.search(r"Found \d errors? in 1 file", found)
    assert {line.split(":")[1] for line in found.splitlines() if " error: " in line} == {str(USER.count("\n") + 4)}
    assert MISTAKES[mistake] in found


def test_the_package_is_marked_as_typed():
    assert (PACKAGE / "py.typed").is_file()


def test_version_stands_in_one_place():
    """As a literal that setuptools reads without importing anything."""
    tree = ast.parse((PACKAGE / "_version.py").read_text("utf-8"))
    [value] = [n.value for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == "__version__"]
    assert ast.literal_eval(value) == csoftmax.__version__ == csoftmax.runtime_info()["version"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "csoftmax._version.__version__"}


def test_version_is_that_of_the_metadata_where_there_are_some():
    versions = [d.version for d in importlib.metadata.distributions(name="csoftmax")]
    assert set(versions) <= {csoftmax.__version__}


def test_version_costs_no_import():
    script = "import sys, csoftmax; csoftmax.__version__; print({'importlib.metadata', 'email'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def copy_of_the_sources(folder, *without):
    """The package's folder as a clone has it, without what is built, or some of it."""
    built = [*without] or ["*.so", "*.pyd"]
    shutil.copytree(PACKAGE, folder / "csoftmax", ignore=shutil.ignore_patterns(*built, "__pycache__"))
    return folder


@pytest.mark.parametrize(
    ("without", "named"),
    [
        ([], "csoftmax.api.keywords"),
        (["core.*"], "csoftmax.runtime.core"),
        (["plan.*"], "csoftmax.plan.plan"),
        (["keywords.*"], "csoftmax.api.keywords"),
        (["forward.*"], "csoftmax.api.forward"),
        (["strategy.*"], "csoftmax.plan.strategy"),
    ],
    ids=str,
)
@pytest.mark.parametrize("how", ["import csoftmax", "import csoftmax.interop.scipy", "-m csoftmax"])
def test_sources_that_are_not_built_say_so(tmp_path, without, named, how):
    """In a clone, or after an update that brought a new module."""
    copy_of_the_sources(tmp_path, *without)
    command = how.split() if how.startswith("-m") else ["-c", how]
    # without site, so that what an editable installation hooks into imports does not find the modules elsewhere
    environment = ENVIRONMENT | {"PYTHONPATH": str(Path(np.__file__).parents[1])}
    command = [sys.executable, "-S", *command]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"ImportError: csoftmax is imported from {tmp_path / 'csoftmax'}, where {named} is not ")
    assert "start Python in another folder" in last
    assert "pip install -e ." in last


def test_a_missing_library_is_not_taken_for_a_missing_build(tmp_path):
    copy_of_the_sources(tmp_path)
    script = "import sys; sys.modules['numpy'] = None; import csoftmax"
    done = subprocess.run([sys.executable, "-c", script], cwd=PACKAGE.parent, capture_output=True, text=True)
    assert done.returncode == 1
    assert "not built" not in done.stderr
    assert "numpy" in done.stderr.splitlines()[-1]


def test_nothing_says_to_install_what_is_not_published():
    """The one command that a release changes stands in _extras.py, and for readers in docs/index.md."""
    texts = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.py[xi]")]
    assert len(texts) > 50
    for path in texts:
        if path.name != "CHANGELOG.md":
            assert not re.search(r"pip install +['\"]?csoftmax|csoftmax\[\w", path.read_text("utf-8")), path


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/index.md"])
def test_install_commands_lead_to_a_python_that_works_in_the_clone(page):
    """That is: to a build in place."""
    commands = [line for line in (ROOT / page).read_text("utf-8").splitlines() if line.startswith("pip install")]
    assert commands
    for command in commands:
        assert "pip install -e" in command, command
