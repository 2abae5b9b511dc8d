"""The examples run as a user runs them, reach scikit-learn's accuracy, and draw their pictures."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

import csoftmax

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(autouse=True)
def import_path(monkeypatch):
    """What ``python examples/iris.py`` finds beside itself."""
    monkeypatch.syspath_prepend(EXAMPLES)


@pytest.fixture(scope="module", params=["iris", "digits"])
def ran(request, tmp_path_factory):
    """One run of each script with its defaults from an empty directory: name, directory, output."""
    directory = tmp_path_factory.mktemp(request.param)
    command = [sys.executable, EXAMPLES / f"{request.param}.py"]
    run = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    return request.param, directory, run.stdout


def printed(output, pattern):
    """Return the numbers that ``pattern`` finds in the output, at the start of a line."""
    match = re.search(f"^{pattern}", output, re.MULTILINE)
    assert match, f"no {pattern!r} in:\n{output}"
    return [float(number) for number in match.groups()]


def data(name):
    """Return standardised training features, their labels, and the features and labels that are scored."""
    example, logistic = importlib.import_module(name), importlib.import_module("logistic")
    if name == "iris":
        measurements, labels, _ = example.load()
        x = logistic.standardiser(measurements)(measurements)
        return x, labels, x, labels
    train, test, labels, test_labels = example.load()
    standardise = logistic.standardiser(train)
    return standardise(train), labels, standardise(test), test_labels


@pytest.fixture
def iris_model(import_path):
    x, labels, _, _ = data("iris")
    return importlib.import_module("logistic").SoftmaxRegression(x, labels)


def test_iris_csv_is_fishers_table():
    measurements, labels, species = importlib.import_module("iris").load()
    assert list(species) == ["Setosa", "Versicolor", "Virginica"]
    assert np.array_equal(np.bincount(labels), [50, 50, 50])
    assert np.array_equal(measurements, load_iris().data)
    assert np.array_equal(labels, load_iris().target)


def test_reaches_scikit_learn(ran):
    name, _, output = ran
    x, labels, test, test_labels = data(name)
    reference = LogisticRegression(C=1.0, tol=1e-8, max_iter=5000).fit(x[:, :-1], labels)
    (accuracy,) = printed(output, r"accuracy +([\d.]+)%")
    assert accuracy / 100 == pytest.approx(reference.score(test[:, :-1], test_labels), abs=0.01)
    assert accuracy > 95


def test_descends_to_scikit_learns_minimum(iris_model):
    reference = LogisticRegression(C=1.0, tol=1e-8, max_iter=5000)
    reference.fit(iris_model.x[:, :-1], iris_model.labels)
    minimum = iris_model.loss(np.vstack([reference.coef_.T, reference.intercept_]))
    _, losses = iris_model.fit(1000)
    assert losses[-1] == pytest.approx(minimum, rel=1e-5)


@pytest.mark.parametrize("name", ["iris", "digits"])
def test_every_step_lowers_the_loss(name):
    x, labels, _, _ = data(name)
    _, losses = importlib.import_module("logistic").SoftmaxRegression(x, labels).fit(100)
    assert len(losses) == 101
    assert losses[0] == pytest.approx(np.log(labels.max() + 1))
    assert np.all(np.diff(losses) < 0)


def test_prints_loss_and_gradients(ran):
    _, _, output = ran
    before, after = printed(output, r"loss +(\S+) before, (\S+) after")
    (difference,) = printed(output, r"gradient check +(\S+)")
    (through_softmax,) = printed(output, r"through softmax +(\S+)")
    (through_argmax,) = printed(output, r"through argmax +(\S+)")
    assert after < before / 4
    assert difference < 1e-6
    assert through_softmax > 0.1
    assert through_argmax == 0


def test_gradient_check_sees_a_wrong_backward(iris_model, monkeypatch, capsys):
    """Without its second term, -p (p . g), softmax's backward must not pass."""
    monkeypatch.setattr(csoftmax, "softmax_backward", lambda grad_output, output: grad_output * output)
    importlib.import_module("logistic").report_gradients(iris_model)
    (difference,) = printed(capsys.readouterr().out, r"gradient check +(\S+)")
    assert difference > 1e-2


def test_draws_a_picture(ran):
    name, directory, _ = ran
    assert [path.name for path in directory.iterdir()] == [f"{name}.png"]
    picture = imread(directory / f"{name}.png")[..., :3]
    assert min(picture.shape[:2]) >= 600
    for half in np.array_split(picture, 2, axis=1):
        inside = half[100:-100, 200:-200]
        colours = np.unique((255 * inside).astype(int) @ [1 << 16, 1 << 8, 1])
        assert inside.std() > 0.05
        assert len(colours) > 20


def test_options(tmp_path, capsys):
    picture = tmp_path / "some.png"
    importlib.import_module("iris").main(["--steps", "3", "--plot", str(picture)])
    assert "after 3 steps" in capsys.readouterr().out
    assert picture.stat().st_size > 10_000


def test_refuses_to_take_no_step(capsys):
    with pytest.raises(SystemExit, match="2"):
        importlib.import_module("iris").main(["--steps", "0"])
    assert "--steps must be at least 1, not 0" in capsys.readouterr().err


def test_runs_without_matplotlib_and_rich(tmp_path, monkeypatch, capsys):
    for package in ("matplotlib", "matplotlib.figure", "rich", "rich.console", "rich.progress"):
        monkeypatch.setitem(sys.modules, package, None)
    picture = tmp_path / "none.png"
    importlib.import_module("iris").main(["--steps", "3", "--plot", str(picture)])
    assert "pip install matplotlib" in capsys.readouterr().out
    assert not picture.exists()


def test_digits_say_what_they_need(monkeypatch):
    monkeypatch.delitem(sys.modules, "digits", raising=False)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(SystemExit, match="pip install scikit-learn"):
        importlib.import_module("digits")
