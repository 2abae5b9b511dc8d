"""The command line: ``csoftmax info`` and ``csoftmax bench``, also as ``python -m csoftmax``.

One function per subcommand. It gets the parsed arguments and returns the exit status: 0, 1 where the work
failed, 2 where it was asked for in the wrong way.
"""

import argparse
import json
import math
import os
import sys
from pathlib import Path
from tempfile import TemporaryFile

import csoftmax

PLOT_FORMATS = (".png", ".svg", ".pdf")


class Failure(Exception):
    """What went wrong, in words for the user."""


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
        from csoftmax import _bench, _bench_report

        if args.plot:
            import matplotlib  # noqa: F401 (only --plot needs it, and its absence must show before the work)
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        if missing not in ("rich", "matplotlib"):
            raise
        print(f"csoftmax bench needs {missing}: pip install 'csoftmax[bench]'", file=sys.stderr)
        return 2

    for path in filter(None, (args.json, args.plot)):
        _check_writable(path)
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
    return 0


def _check_writable(path: Path) -> None:
    try:
        if path.exists() and not (path.is_file() and os.access(path, os.W_OK)):
            raise Failure(f"cannot write {path}: not a writable file")
        with TemporaryFile(dir=path.resolve().parent):
            pass
    except OSError as error:
        raise Failure(f"cannot write {path}: {error.strerror}") from error


def _save(path: Path, content: bytes) -> None:
    """Write the file whole or not at all. A symbolic link stays: it is its target that is written."""
    target = path.resolve()
    part = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        part.write_bytes(content)
        part.replace(target)
    except OSError as error:
        raise Failure(f"cannot write {path}: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)


def _thread_count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise ValueError
    return count


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < math.inf:
        raise ValueError
    return seconds


def _plot_path(text: str) -> Path:
    path = Path(text)
    if path.suffix not in PLOT_FORMATS:
        raise argparse.ArgumentTypeError(f"{text!r} does not end in {' or '.join(PLOT_FORMATS)}")
    return path


# argparse names a type by its __name__ when it refuses a value
_thread_count.__name__ = "thread count"
_seconds.__name__ = "number of seconds"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="csoftmax", description="A compiled softmax for NumPy arrays.")
    version = f"csoftmax {csoftmax.runtime_info()['version']}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    command = commands.add_parser(
        "info", help="print version, compiler, ISA levels and threads", description=info.__doc__
    )
    command.set_defaults(run=info)
    command.add_argument("--json", action="store_true", help="print them as JSON")

    command = commands.add_parser(
        "bench", help="compare speed and accuracy with NumPy's", description=bench.__doc__
    )
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
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line `argv` (by default the process's own) and return the exit status."""
    args = _parser().parse_args(argv)
    try:
        status: int = args.run(args)
        return status
    except Failure as error:
        print(f"csoftmax: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("csoftmax: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
