"""The diagram of the documentation: how each strategy goes over an array."""

import matplotlib

matplotlib.use("svg")
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

READ, WRITE, KEEP = "#4a90c2", "#e69f00", "#cfd8e0"


def draw_strategies(path):
    """Write the diagram to `path`."""
    figure = Figure(figsize=(10, 7.4), layout="constrained")
    panels = figure.subplots(2, 2).flat
    for panel, draw, title in zip(
        panels,
        (short_rows, long_rows, one_row, columns),
        (
            "Short rows: one row a lane",
            "Rows: block by block, each with its own maximum",
            "One long row: two passes, blocks shared by threads",
            "Another axis: tiles of neighbouring columns",
        ),
        strict=True,
    ):
        panel.set_title(title, loc="left", fontsize=11, fontweight="bold")
        panel.set(xlim=(0, 16), ylim=(-1.6, 8.2), aspect="equal")
        panel.axis("off")
        draw(panel)
    matplotlib.rcParams["svg.hashsalt"] = "csoftmax"
    figure.savefig(path, metadata={"Date": None})


def cells(panel, x, y, columns, rows, colour=KEEP):
    """Draw a grid of elements."""
    for i in range(columns):
        for j in range(rows):
            panel.add_patch(Rectangle((x + i, y - j), 1, 1, facecolor=colour, edgecolor="white"))


def arrow(panel, start, end, colour):
    """Draw a way that is walked."""
    panel.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=14, color=colour, linewidth=2))


def note(panel, text, x=0, y=-1.4):
    """Write below the drawing."""
    panel.text(x, y, text, fontsize=9.5, color="#333", va="bottom")


def short_rows(panel):
    """Eight rows of four side by side in one register."""
    cells(panel, 0, 7, 4, 8)
    cells(panel, 7, 4.5, 8, 4, "#dfeaf3")
    arrow(panel, (4.4, 3.5), (6.6, 3.5), READ)
    panel.text(4.5, 3.9, "transpose", fontsize=9)
    for lane in range(8):
        arrow(panel, (7.5 + lane, 5.4), (7.5 + lane, 1.6), READ)
    note(panel, "max, exp and sum go down the lanes:\nno lane idles, nothing is added sideways")


def long_rows(panel):
    """A row in four blocks, their maxima and sums, and the scaling."""
    for block in range(4):
        cells(panel, 4 * block, 6.5, 4, 1, (KEEP, "#dfeaf3")[block % 2])
        panel.text(4 * block + 2, 4.6, f"$m_{block + 1},\\ s_{block + 1}$", ha="center", fontsize=11)
        arrow(panel, (4 * block + 2, 6.4), (4 * block + 2, 5.4), READ)
        arrow(panel, (4 * block + 2, 4.3), (8, 3.4), READ)
        arrow(panel, (8, 2.3), (4 * block + 2, 1.2), WRITE)
        cells(panel, 4 * block, 0.1, 4, 1, "#f6e3bf")
    panel.text(8, 2.8, "$m = \\max m_b$,   $s = \\sum s_b\\, e^{m_b - m}$", ha="center", va="center", fontsize=11)
    note(panel, "the row is read once; scaled by $e^{m_b - m} / s$; past the caches if large", y=-1.2)


def one_row(panel):
    """The two passes over a row longer than the caches, with the blocks of two threads."""
    for block in range(8):
        cells(panel, 2 * block, 6.5, 2, 1, (KEEP, "#dfeaf3")[block % 2])
        arrow(panel, (2 * block + 1, 6.4), (2 * block + 1, 4.8), READ)
        arrow(panel, (2 * block + 1, 3.2), (2 * block + 1, 1.4), WRITE)
        cells(panel, 2 * block, 0.3, 2, 1, "#f6e3bf")
    panel.text(8, 4, "first pass: maximum and sum.   second pass: exp, scale, store", ha="center", va="center")
    note(panel, "blocks are fixed by the length alone, so that\nthe bits are the same at every thread count")


def columns(panel):
    """A tile that is walked down the axis, and the next one."""
    cells(panel, 0, 7, 16, 7)
    for tile, colour in ((0, "#dfeaf3"), (5, "#f6e3bf"), (10, "#dfeaf3")):
        cells(panel, tile, 7, 5, 7, colour)
        for column in range(5):
            arrow(panel, (tile + column + 0.5, 7.6), (tile + column + 0.5, 1.3), READ if tile != 5 else WRITE)
    note(panel, "nothing is transposed; a tile's exponentials stay in the cache;\nthreads take whole tiles")
