"""Show what ``csoftmax bench`` measures: progress bar, tables (rich), bar chart (matplotlib), HTML page of both."""

import html
import io
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

import csoftmax
from csoftmax.cli.bench import DIRECTIONS, NUMPY, Results

REFRESH_SECONDS = 0.1
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>csoftmax bench</title>
<style>
body {{ font: 16px system-ui, sans-serif; color: #222; background: #fff }}
body {{ max-width: 75rem; margin: 2rem auto; padding: 0 1rem }}
svg {{ width: 100%; height: auto }}
pre {{ font: 14px/1.35 ui-monospace, monospace; overflow-x: auto }}
</style>
<h1>csoftmax bench</h1>
{plot}
<pre>{tables}</pre>
<h2>Measured on</h2>
<pre>{runtime}</pre>
<script type="application/json" id="results">{figures}</script>
"""
LEVEL_COLOURS = ("#a6c8e4", "#4a90c2", "#0b4f8a")  # no CPU has more levels than three


@contextmanager
def progress_bar(seconds: float) -> Iterator[Callable[[str], None]]:
    """Show on stderr, if that is a terminal, how much of the time is over; yield what moves the bar.

    That call draws it, not a thread of its own, which would disturb the measurements.
    """
    console = Console(stderr=True)
    columns = BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TextColumn("{task.description}")
    with Progress(
        *columns, console=console, auto_refresh=False, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=seconds)
        start = drawn = time.monotonic()

        def move(what: str) -> None:
            nonlocal drawn
            now = time.monotonic()
            if now - drawn >= REFRESH_SECONDS:
                bar.update(task, description=what, completed=now - start, refresh=True)
                drawn = now

        yield move


def print_tables(results: Results, console: Console | None = None) -> None:
    """Print a table for each operation, then the geometric means."""
    console = console or Console(highlight=False)
    info = csoftmax.runtime_info()
    versions = (
        f"csoftmax {info['version']}, NumPy {info['numpy']}, Python {info['python']}, {info['platform']}"
    )
    console.print(versions, markup=False)
    for operation in DIRECTIONS:
        console.print()
        console.print(_table(results, operation))
    console.print()
    for level in results.levels:
        mean = _coloured_ratio(results.mean_ratio(level))
        console.print(f"Geometric mean, forward and backward, at {level}: [bold]{mean}[/]")
    bits = np.finfo(np.longdouble).nmant + 1
    console.print(
        "\n[dim]ratio: NumPy's time / csoftmax's, medians of interleaved rounds; ulp: largest difference "
        f"from a {bits}-bit reference on a sample of rows (backward: in ulp of the terms' size)[/]"
    )


def _table(results: Results, operation: str) -> Table:
    title = f"softmax {DIRECTIONS[operation]}, {_settings(results)}"
    table = Table(box=None, padding=(0, 1, 0, 0), title=title, title_justify="left", title_style="bold")
    table.add_column("\n\nshape", no_wrap=True)
    for contender in (NUMPY, *results.levels):
        table.add_column(f"{contender}\ntime\nns/elem", justify="right", min_width=8, no_wrap=True)
        table.add_column("\nratio\nulp" if contender != NUMPY else "\n\nulp", justify="right", no_wrap=True)
    for cell, contenders in results.of(operation).items():
        columns = []
        for contender, measured in contenders.items():
            ratio = "" if contender == NUMPY else _coloured_ratio(results.ratio(cell, contender))
            each = _three_digits(measured.seconds / cell.size * 1e9)
            columns += [f"{_time(measured.seconds)}\n[dim]{each}[/]", f"{ratio}\n[dim]{measured.ulps:.1f}[/]"]
        table.add_row(f"{cell.name}\n[dim]{cell.layout}[/]", *columns)
    table.add_section()
    means = [("", _coloured_ratio(results.mean_ratio(level, operation))) for level in results.levels]
    table.add_row("geometric mean", "", "", *sum(means, ()), style="bold")
    return table


def _settings(results: Results) -> str:
    return f"{results.dtype}, {results.threads} thread{'s' if results.threads > 1 else ''}"


def _three_digits(value: float) -> str:
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"


def _time(seconds: float) -> str:
    for unit, size in ("ns", 1e-9), ("µs", 1e-6), ("ms", 1e-3):
        if seconds < 1000 * size:
            return f"{_three_digits(seconds / size)} {unit}"
    return f"{_three_digits(seconds)} s"


def _ratio(value: float) -> str:
    return f"{value:.{2 if value < 9.995 else 1}f}x"


def _coloured_ratio(value: float) -> str:
    return f"[{'green' if value >= 1 else 'red'}]{_ratio(value)}[/]"


def plot(results: Results, file_format: str) -> bytes:
    """Draw the ratios of every case and level, one panel an operation, and return the image."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.ticker import LogLocator, NullLocator

    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
    cases = list(results.of("softmax"))
    figure = Figure(figsize=(13, 1.5 + 0.75 * len(cases)), layout=layout)
    panels = figure.subplots(1, len(DIRECTIONS), sharex=True, sharey=True)
    height = 0.8 / len(results.levels)
    for panel, operation in zip(panels, DIRECTIONS, strict=True):
        for i, level in enumerate(results.levels):
            ratios = [results.ratio(cell, level) for cell in results.of(operation)]
            offset = (i - (len(results.levels) - 1) / 2) * height
            bars = panel.barh(
                [y + offset for y in range(len(cases))],
                [ratio - 1 for ratio in ratios],
                height,
                left=1,
                color=LEVEL_COLOURS[i],
            )
            panel.bar_label(bars, map(_ratio, ratios), padding=3, fontsize=8)
        means = (f"{level} {_ratio(results.mean_ratio(level, operation))}" for level in results.levels)
        panel.set_title(f"{DIRECTIONS[operation]}: geometric mean {', '.join(means)}", loc="left", fontsize=10)
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.xaxis.set_major_formatter("{x:g}x")
        panel.axvline(1, color="black", linewidth=1)
        panel.grid(axis="x", alpha=0.25)
        panel.set_axisbelow(True)
        panel.spines[["top", "right", "left"]].set_visible(False)
        panel.tick_params(axis="y", length=0)
        panel.margins(x=0.15, y=0.02)
    panels[0].set_yticks(range(len(cases)), [f"{case.name}\n{case.layout}" for case in cases])
    panels[0].invert_yaxis()
    figure.suptitle(f"Speed of csoftmax as a multiple of NumPy's: {_settings(results)}", fontweight="bold")
    patches = [container.patches[0] for container in panels[0].containers]
    figure.legend(patches, results.levels, loc="outside lower center", ncols=len(patches), frameon=False)
    image = io.BytesIO()
    figure.savefig(image, format=file_format, dpi=120)
    return image.getvalue()


def page(results: Results) -> str:
    """Return one HTML page that needs no other file: plot, tables, run time and every figure as JSON."""
    console = Console(highlight=False, record=True, file=io.StringIO(), force_terminal=True, width=110)
    print_tables(results, console)
    runtime = io.StringIO()
    csoftmax.show_runtime(runtime)
    svg = plot(results, "svg").decode()
    return PAGE.format(
        plot=svg[svg.index("<svg") :],
        tables=console.export_html(inline_styles=True, code_format="{code}"),
        runtime=html.escape(runtime.getvalue()),
        figures=json.dumps(results.as_dict()).replace("</", "<\\/"),
    )
