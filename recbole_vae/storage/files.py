"""Files that are written whole or not at all, and never replaced by half of one."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

from recbole_vae.errors import DataError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""What only writing can fail with; the error of a write does not name the file."""


def write_whole(path: Path, content: bytes) -> None:
    """Write a file into a temporary one beside it, then rename it; several processes may write the same one.

    Raises:
        DataError: it cannot be written; the old one, if any, is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)  # noqa: PTH105 - atomic, also onto a file that exists
    except OSError as error:
        raise DataError(f"{path}: cannot write this file ({error.strerror}). Is the disk full?") from None
    finally:
        temporary.unlink(missing_ok=True)


def opened(path: Path | None) -> AbstractContextManager[IO[str]]:
    """Open a file as :func:`written_whole` does, or standard output for None; errors: as there."""
    return standard_output() if path is None else written_whole(path)


@contextlib.contextmanager
def standard_output() -> Iterator[IO[str]]:
    """Give standard output to write to, all of which is out in the end.

    Raises:
        DataError: it cannot be written, as where it is a file on a full disk.
    """
    if sys.stdout is None:  # closed from the start: Python prints nothing then
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
            yield nowhere
        return
    try:
        yield sys.stdout
        sys.stdout.flush()
    except OSError as error:
        if error.errno not in _FULL:
            raise
        silence()
        raise DataError(f"standard output: cannot write: {error.strerror}.") from None


def silence() -> None:
    """Drop what standard output still has to write, and could not: Python would try again at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[IO[str]]:
    """Open a file to write text, which is there only when all was written; after Ctrl-C NAME.partial has what there was.

    Raises:
        DataError: it cannot be written.
    """
    path = path.resolve()  # what a link points to, not the link
    if path.is_dir():
        raise DataError(f"{path}: cannot write this file: it is a folder.")
    try:
        with _written(path) as file:
            yield file
    except OSError as error:
        if error.errno not in _FULL:  # it may be of something else that is read at the same time
            raise
        raise DataError(f"{path}: cannot write this file: {error.strerror}.") from None


@contextlib.contextmanager
def _written(path: Path) -> Iterator[IO[str]]:
    if path.exists() and not path.is_file():  # a device or a pipe
        with path.open("w", encoding="utf-8") as file:
            yield file
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            file = temporary.open("w", encoding="utf-8")
        except OSError as error:
            raise DataError(f"{path}: cannot write this file: {error.strerror}.") from None
        with file:
            yield file
        temporary.replace(path)
    except KeyboardInterrupt:
        partial = temporary.replace(path.with_name(f"{path.name}.partial"))
        print(f"{partial}: what there was until then", file=sys.stderr)
        raise
    finally:
        temporary.unlink(missing_ok=True)
