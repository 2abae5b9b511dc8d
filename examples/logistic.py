"""Multinomial logistic regression by full-batch gradient descent: what iris.py and digits.py share.

The model is ``softmax(x @ weights)``; ``x`` ends in a column of ones, so that ``weights`` ends in the biases.
"""

import argparse

import numpy as np

import csoftmax


class SoftmaxRegression:
    """The objective of scikit-learn's ``LogisticRegression(C=c)``, as a mean over the rows.

    It is the mean negative log-likelihood plus ``alpha / 2`` times the sum of the squared weights, where
    ``alpha = 1 / (c * rows)``; the biases are free.
    """

    def __init__(self, x, labels, c=1.0):
        self.x, self.labels = x, labels
        self.alpha = 1 / (c * len(x))
        self.shape = x.shape[1], labels.max() + 1

    def loss_and_gradient(self, weights):
        """Return the loss at ``weights`` and its derivative by them."""
        rows = np.arange(len(self.x))
        p = csoftmax.softmax(self.x @ weights)
        likelihood = p[rows, self.labels]
        loss = -np.log(likelihood).mean() + self.alpha / 2 * np.sum(weights[:-1] ** 2)

        # The chain rule, backwards: from the loss to p, by softmax to the logits, by x to the weights.
        grad_p = np.zeros_like(p)
        grad_p[rows, self.labels] = -1 / (len(rows) * likelihood)
        grad_logits = csoftmax.softmax_backward(grad_p, p)
        gradient = self.x.T @ grad_logits
        gradient[:-1] += self.alpha * weights[:-1]
        return loss, gradient

    def loss(self, weights):
        """Return the loss alone."""
        return self.loss_and_gradient(weights)[0]

    def error_rate(self, weights):
        """Return the 0/1 loss: the share of rows for which argmax does not give the label."""
        return np.mean(predict(self.x, weights) != self.labels)

    def fit(self, steps):
        """Descend from zero weights; return the weights, and the loss before each step and after the last."""
        # No eigenvalue of softmax's Jacobian is above 1/2, so the loss curves nowhere by more than 1 / rate,
        # and every step lowers it.
        rate = 1 / (np.linalg.norm(self.x, 2) ** 2 / (2 * len(self.x)) + self.alpha)
        weights, losses = np.zeros(self.shape), []
        for _ in progress(range(steps), "gradient descent"):
            loss, gradient = self.loss_and_gradient(weights)
            losses.append(loss)
            weights -= rate * gradient
        return weights, [*losses, self.loss(weights)]


def predict(x, weights):
    """Return the most probable class of every row."""
    return np.argmax(x @ weights, axis=-1)


def standardiser(train):
    """Return a function that scales so as to give ``train`` mean 0 and deviation 1, and appends the ones."""
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    deviation[deviation == 0] = 1  # a pixel that is the same in every image

    def standardise(features):
        scaled = (features - mean) / deviation
        return np.concatenate([scaled, np.ones_like(scaled[..., :1])], axis=-1)

    return standardise


def finite_differences(function, weights, step=1e-5):
    """Return the gradient of ``function`` at ``weights`` by central differences."""
    gradient = np.empty_like(weights)
    for index in np.ndindex(weights.shape):
        shift = np.zeros_like(weights)
        shift[index] = step
        gradient[index] = (function(weights + shift) - function(weights - shift)) / (2 * step)
    return gradient


def report_gradients(model):
    """Print how well the gradient agrees with finite differences, and what they give through argmax."""
    # At random weights: at zero weights all logits tie, and after the descent all gradients are near 0.
    weights = np.random.default_rng(0).normal(scale=0.1, size=model.shape)
    gradient = model.loss_and_gradient(weights)[1]
    difference = np.abs(gradient - finite_differences(model.loss, weights)).max()
    through_argmax = np.abs(finite_differences(model.error_rate, weights)).max()
    report("gradient check", f"{difference:.1e} is the largest difference from central finite differences")
    report("through softmax", f"{np.abs(gradient).max():.2g} is the largest slope of the loss")
    report("through argmax", f"{through_argmax:g} is the largest slope of the 0/1 loss: no way leads down")


def report(name, value):
    """Print one line of the table that a script ends in."""
    print(f"{name:17}{value}")


def command_line(argv, description, steps, plot):
    """Parse the options of both scripts; ``steps`` and ``plot`` are the defaults."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=steps, help="steps of gradient descent")
    parser.add_argument("--plot", metavar="FILE", default=plot, help="where the picture goes")
    args = parser.parse_args(argv)
    if args.steps < 1:
        parser.error(f"--steps must be at least 1, not {args.steps}")
    return args


def progress(steps, description):
    """Iterate over ``steps``, behind a progress bar if rich is installed and a terminal shows it."""
    try:
        from rich.console import Console
        from rich.progress import track
    except ImportError:
        return steps
    console = Console(stderr=True)
    return track(steps, description, console=console, transient=True, disable=not console.is_terminal)


def save_figure(draw, path):
    """Save what ``draw(left axes, right axes)`` draws, or say what is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        report("picture", "none without matplotlib: pip install matplotlib")
        return
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    draw(*figure.subplots(1, 2))
    figure.savefig(path, dpi=150)
    report("picture", path)


def draw_losses(axes, losses, classes):
    """Draw the loss curve, and what guessing one of ``classes`` would cost."""
    axes.axhline(np.log(classes), color="0.4", linestyle=":", label=f"guessing: ln {classes}")
    axes.plot(losses, color="#0072B2", linewidth=2, label="training loss")
    axes.set_xscale("symlog", linthresh=1, linscale=0.3)  # logarithmic, with room for step 0
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(xlim=(0, len(losses) - 1), ylim=(0, None), xlabel="step", ylabel="loss")
    axes.set_title("Gradient descent through softmax")
    axes.grid(alpha=0.3)
    axes.legend()
