"""The command line: ``csoftmax info``, ``bench`` and ``apply``, also as ``python -m csoftmax``.

One function per subcommand. It gets the parsed arguments and returns the exit status: 0, 1 where the work
failed, 2 where it was asked for in the wrong way.
"""

import argparse
import contextlib
import json
import math
import os
import signal
import sys
from pathlib import Path
from types import FrameType

import csoftmax
from csoftmax._extras import how_to_install
from csoftmax.cli import apply as _apply
from csoftmax.cli.arrays import bfloat16
from csoftmax.cli.files import Failure, check_writable, replacing

MOST_THREADS = 65536  # that set_num_threads takes
PLOT_FORMATS = (".png", ".svg", ".pdf")


def info(args: argparse.Namespace) -> int:
    """Print what this installation of csoftmax runs on."""
    if args.json:
        print(json.dumps(csoftmax.runtime_info(), indent=2))
    else:
        csoftmax.show_runtime()
    return 0


def bench(args: argparse.Namespace) -> int:
    """Compare softmax, forward and backward, with NumPy's formula at every ISA level of this CPU."""
    try:
        from csoftmax.cli import bench as _bench
        from csoftmax.cli import bench_report as _bench_report

        if args.plot or args.html:
            # whatever a notebook has set for its own figures, which may be a backend that this Python does not have
            os.environ["MPLBACKEND"] = "agg"
            import matplotlib  # noqa: F401 (only these need it, and its absence must show before the work)
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        if missing not in ("rich", "matplotlib"):
            raise
        print(f"csoftmax bench needs {missing}: {how_to_install('bench')}", file=sys.stderr)
        return 2

    for path in filter(None, (args.json, args.plot, args.html)):
        check_writable(path)
    with _bench_report.progress_bar(args.seconds) as progress:
        try:
            results = _bench.run(args.dtype, args.threads, args.seconds, progress)
        except _bench.WrongAnswer as error:
            raise Failure(f"wrong answer: {error}") from error
    _bench_report.print_tables(results)
    if args.json:
        _save(args.json, json.dumps(results.as_dict(), indent=1).encode())
    if args.plot:
        _save(args.plot, _bench_report.plot(results, args.plot.suffix[1:]))
    if args.html:
        _save(args.html, _bench_report.page(results).encode())
    return 0


def apply(args: argparse.Namespace) -> int:
    """Apply softmax, log_softmax or logsumexp to the array in a file, which may be larger than memory."""
    options = {} if args.dtype is None else {"dtype": args.dtype}
    if args.dtype == "bfloat16":
        options["dtype"] = bfloat16("--dtype bfloat16")
    if args.op != "logsumexp":
        options["temperature"] = args.temperature
    elif args.temperature != 1:
        print("csoftmax apply: logsumexp has no temperature", file=sys.stderr)
        return 2
    # like Ctrl-C, so that no unfinished file stays behind
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _terminate)
    _apply.apply(args.source, args.target, args.op, args.axis, **options)
    return 0


def _terminate(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _save(path: Path, content: bytes) -> None:
    with replacing(path) as part:
        part.write_bytes(content)


def _thread_count(text: str) -> int:
    count = int(text)
    if not 1 <= count <= MOST_THREADS:
        raise ValueError
    return count


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < math.inf:
        raise ValueError
    return seconds


def _axis(text: str) -> int | tuple[int, ...] | None:
    if text == "all":
        return None
    axes = tuple(map(int, text.split(",")))
    return axes if len(axes) > 1 else axes[0]


def _temperature(text: str) -> float:
    temperature = float(text)
    if not 0 < temperature < math.inf:
        raise ValueError
    return temperature


def _npy_path(text: str) -> Path:
    path = Path(text)
    if path.suffix != ".npy":
        raise argparse.ArgumentTypeError(f"{text!r} does not end in .npy")
    return path


def _plot_path(text: str) -> Path:
    path = Path(text)
    if path.suffix not in PLOT_FORMATS:
        raise argparse.ArgumentTypeError(f"{text!r} does not end in {' or '.join(PLOT_FORMATS)}")
    return path


def _discard_output() -> None:
    """Let Python's last flush go nowhere: it would fail again, and say so."""
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


# argparse names a type by its __name__ when it refuses a value
_thread_count.__name__ = "thread count"
_seconds.__name__ = "number of seconds"
_axis.__name__ = "axis"
_temperature.__name__ = "temperature (positive, finite)"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="csoftmax", description="A compiled softmax for NumPy arrays.")
    parser.add_argument("--version", action="version", version=f"csoftmax {csoftmax.__version__}")
    include = csoftmax.get_include()
    parser.add_argument(
        "--include", action="version", version=include, help="print the folder of the C header, for a compiler's -I"
    )
    command = parser.add_subparsers(title="commands", metavar="COMMAND", required=True).add_parser
    _add_info(command("info", help="print version, compiler, ISA levels and threads", description=info.__doc__))
    _add_bench(command("bench", help="compare speed and accuracy with NumPy's", description=bench.__doc__))
    _add_apply(command("apply", help="apply a function to an array in a file", description=apply.__doc__))
    return parser


def _add_info(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=info)
    command.add_argument("--json", action="store_true", help="print them as JSON")


def _add_bench(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=bench)
    command.add_argument(
        "--dtype", choices=("float32", "float64"), default="float32", help="default: %(default)s"
    )
    command.add_argument(
        "--threads",
        type=_thread_count,
        default=1,
        metavar="N",
        help="threads of csoftmax (NumPy uses 1); default: 1",
    )
    command.add_argument(
        "--seconds",
        type=_seconds,
        default=20.0,
        metavar="S",
        help="time for the whole run; default: %(default)g",
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="write every measured time to FILE")
    command.add_argument(
        "--plot", type=_plot_path, metavar="FILE", help="draw the ratios to FILE (.png, .svg or .pdf)"
    )
    command.add_argument("--html", type=Path, metavar="FILE", help="write tables and plot to FILE, one page")


def _add_apply(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=apply)
    command.add_argument(
        "source", metavar="IN", help="a .npy file, a zarr array's folder, or FILE.npz:NAME for one array of a .npz file"
    )
    command.add_argument("target", type=_npy_path, metavar="OUT.npy", help="may be IN")
    command.add_argument(
        "--op", choices=tuple(_apply.OPERATIONS), default="softmax", help="default: %(default)s"
    )
    command.add_argument(
        "--axis", type=_axis, default=-1, metavar="N", help="axis, axes as 0,1 (--axis=-2,-1) or all; default: -1"
    )
    command.add_argument(
        "--temperature", type=_temperature, default=1.0, metavar="T", help="divides the logits; default: 1"
    )
    command.add_argument(
        "--dtype",
        choices=("float16", "bfloat16", "float32", "float64"),
        help="dtype of the result; default: that of IN, float64 for integers",
    )


def main(argv: list[str] | None = None) -> int:
    """Run the command line `argv` (by default the process's own) and return the exit status."""
    args = _parser().parse_args(argv)
    try:
        status: int = args.run(args)
        sys.stdout.flush()
        return status
    except Failure as error:
        print("csoftmax:", " ".join(str(error).split()), file=sys.stderr)
        return 1
    except MemoryError as error:
        print("csoftmax: not enough memory:", " ".join(str(error).split()) or "no more is known", file=sys.stderr)
        return 1
    except OSError as error:
        # most likely of the standard output, since those of files are Failures; whoever closed it, as head does, knows
        if not isinstance(error, BrokenPipeError):
            print(f"csoftmax: {error}", file=sys.stderr)
        _discard_output()
        return 1
    except KeyboardInterrupt:
        print("csoftmax: interrupted", file=sys.stderr)
        return 130
