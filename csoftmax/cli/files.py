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
        with TemporaryFile(dir=_target(path).parent):
            pass
    except OSError as error:
        raise Failure(f"cannot write {path}: {error.strerror}") from error


def _target(path: Path) -> Path:
    """Return the file that `path` names, behind all symbolic links."""
    try:
        target = path.resolve()
    except RuntimeError as error:
        raise Failure(f"cannot write {path}: {error}") from error
    if target.is_symlink():
        # from Python 3.13 on, links that lead to each other are left as they are
        raise Failure(f"cannot write {path}: its links lead to each other")
    return target


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a name to write to, which becomes `path` if all goes well and is removed if not.

    A symbolic link stays: it is its target that is written.
    """
    target = _target(path)
    # a name of its own: with more added, one of the longest that there may be would be too long
    part = target.with_name(f".csoftmax-{os.getpid()}")
    try:
        yield part
        part.replace(target)
    except OSError as error:
        raise Failure(f"cannot write {path}: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
