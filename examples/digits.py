"""Train a softmax classifier on scikit-learn's handwritten digits, and check its gradient."""

import logistic
import numpy as np

try:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
except ImportError:
    raise SystemExit("The digits come with scikit-learn: pip install scikit-learn") from None


def load():
    """Return the images to train on, those held out (8 x 8 pixels a row), and the labels of each."""
    pixels, labels = load_digits(return_X_y=True)
    return train_test_split(pixels, labels, test_size=0.25, stratify=labels, random_state=0)


def draw_confusion(axes, labels, predicted):
    """Draw how often each digit is read as each."""
    counts = np.zeros((10, 10), dtype=int)
    np.add.at(counts, (labels, predicted), 1)
    axes.imshow(np.sqrt(counts), cmap="Blues")  # of the root, so that a single mistake is seen
    for digit, reading in np.argwhere(counts):
        count = counts[digit, reading]
        colour = "white" if count > counts.max() / 3 else "black"
        axes.text(reading, digit, count, color=colour, ha="center", va="center")
    axes.set(xlabel="read as", ylabel="digit", xticks=range(10), yticks=range(10))
    axes.set_title(f"{len(labels)} held-out digits, {np.sum(predicted != labels)} misread")


def main(argv=None):
    """Run the script."""
    args = logistic.command_line(argv, __doc__, steps=1000, plot="digits.png")
    train, test, labels, test_labels = load()
    standardise = logistic.standardiser(train)
    model = logistic.SoftmaxRegression(standardise(train), labels)
    weights, losses = model.fit(args.steps)
    predicted = logistic.predict(standardise(test), weights)
    logistic.report("Digits", f"{len(labels)} to train on, {len(test_labels)} held out")
    logistic.report("loss", f"{losses[0]:.4f} before, {losses[-1]:.4f} after {args.steps} steps")
    logistic.report("accuracy", f"{np.mean(predicted == test_labels):.2%} on those held out")
    logistic.report_gradients(model)

    def draw(left, right):
        logistic.draw_losses(left, losses, classes=10)
        draw_confusion(right, test_labels, predicted)

    logistic.save_figure(draw, args.plot)


if __name__ == "__main__":
    main()
