"""Train a softmax classifier on Fisher's Iris, check its gradient, and see why argmax cannot be trained."""

from pathlib import Path

import logistic
import numpy as np

import csoftmax

COLOURS = np.array([[0, 114, 178], [230, 159, 0], [0, 158, 115]]) / 255  # Okabe and Ito's, for every eye
MARKERS = "os^"


def load():
    """Return the measurements in cm (150, 4), the labels (150,) and the names of the species."""
    path = Path(__file__).with_name("iris.csv")
    measurements = np.loadtxt(path, delimiter=",", skiprows=1, usecols=range(4))
    names = np.loadtxt(path, delimiter=",", skiprows=1, usecols=4, dtype=str)
    species, labels = np.unique(names, return_inverse=True)
    return measurements, labels, species


def draw_regions(axes, petals, labels, species, steps):
    """Draw what a classifier makes of the petals alone, since two features fit into a plane."""
    standardise = logistic.standardiser(petals)
    x = standardise(petals)
    weights, _ = logistic.SoftmaxRegression(x, labels).fit(steps)

    length, width = np.meshgrid(np.linspace(0.5, 7.5, 400), np.linspace(-0.1, 2.8, 400))
    p = csoftmax.softmax(standardise(np.stack([length, width], axis=-1)) @ weights)
    extent = length.min(), length.max(), width.min(), width.max()
    axes.imshow(0.45 * p @ COLOURS + 0.55, extent=extent, origin="lower", aspect="auto")
    for k, name in enumerate(species):
        lead = p[..., k] - np.delete(p, k, axis=-1).max(axis=-1)
        axes.contour(length, width, lead, levels=[0], colors="0.3", linewidths=1)
        points = petals[labels == k].T
        axes.scatter(*points, color=COLOURS[k], marker=MARKERS[k], edgecolor="white", label=name)
    wrong = petals[logistic.predict(x, weights) != labels]
    axes.scatter(*wrong.T, s=110, color="none", edgecolor="black", label=f"misclassified ({len(wrong)})")
    axes.set(xlabel="petal length (cm)", ylabel="petal width (cm)")
    axes.set_title("Petals alone: probabilities (tint), decisions (lines)")
    axes.legend(loc="upper left")


def main(argv=None):
    """Run the script."""
    args = logistic.command_line(argv, __doc__, steps=1000, plot="iris.png")
    measurements, labels, species = load()
    x = logistic.standardiser(measurements)(measurements)
    model = logistic.SoftmaxRegression(x, labels)
    weights, losses = model.fit(args.steps)
    logistic.report("Iris", f"{len(labels)} flowers, {len(species)} species")
    logistic.report("loss", f"{losses[0]:.4f} before, {losses[-1]:.4f} after {args.steps} steps")
    logistic.report("accuracy", f"{1 - model.error_rate(weights):.2%}")
    logistic.report_gradients(model)

    def draw(left, right):
        logistic.draw_losses(left, losses, len(species))
        draw_regions(right, measurements[:, 2:], labels, species, args.steps)

    logistic.save_figure(draw, args.plot)


if __name__ == "__main__":
    main()
