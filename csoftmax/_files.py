"""Files of the command line: results appear whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile


class Failure(Exception):
    """What went wrong, in words for the user."""


def check_writable(path: Path) -> None:
    """Fail, before the work, where `replacing` would fail after it."""
    try:
        if path.exists() and not (path.is_file() and os.access(path, os.W_OK)):
            raise Failure(f"cannot write {path}: not a writable file")
        with TemporaryFile(dir=path.resolve().parent):
            pass
    except OSError as error:
        raise Failure(f"cannot write {path}: {error.strerror}") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a name to write to, which becomes `path` if all goes well and is removed if not.

    A symbolic link stays: it is its target that is written.
    """
    target = path.resolve()
    part = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        yield part
        part.replace(target)
    except OSError as error:
        raise Failure(f"cannot write {path}: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
