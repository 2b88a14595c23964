"""Files that are written whole or not at all: to a temporary file in the same folder, which is then renamed."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

from recbole_vae.errors import DataError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Error numbers that only writing can cause. Such an error does not name the file."""


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, or leave the old one as it was. Several processes may write the same file.

    Raises:
        DataError: it cannot be written.
    """
    with written_whole(path, binary=True) as file:
        file.write(content)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
        DataError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    except OSError as error:
        raise DataError(f"{path}: cannot read this file: {error.strerror}.") from None
    return digest.hexdigest()


def opened(path: Path | None) -> AbstractContextManager[IO[str]]:
    """Open a file by :func:`written_whole`, or :func:`standard_output` if the path is None. It raises what they raise."""
    return standard_output() if path is None else written_whole(path)


@contextlib.contextmanager
def standard_output() -> Iterator[IO[str]]:
    """Give standard output to write to, and flush it when the block ends.

    Raises:
        DataError: it cannot be written, for example because it is a file on a full disk.
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
    """Discard what standard output holds and could not write; otherwise Python tries again when it exits."""
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


@contextlib.contextmanager
def written_whole(path: Path, *, binary: bool = False) -> Iterator[IO[Any]]:
    """Open a file to write. It replaces the old one when the block ends, and only then.

    After Ctrl-C, NAME.partial holds the text written so far. Half of a binary file is useless and is removed.

    Args:
        path: the file. A link stays a link; a device or a pipe is written directly.
        binary: whether to write bytes; otherwise text in UTF-8.

    Raises:
        DataError: the file cannot be written: the folder is missing, permission is denied, the disk is full, ...
    """
    target = path.resolve()  # what a link points to, not the link
    if target.is_dir():
        raise DataError(f"{path}: cannot write this file: it is a folder.")
    directly = target.exists() and not target.is_file()
    temporary = target if directly else temporary_beside(target)
    for left in [] if directly else leftovers(target):  # each may take gigabytes
        with contextlib.suppress(OSError):
            left.unlink()
    try:
        with explained(path):
            file = temporary.open("wb") if binary else temporary.open("w", encoding="utf-8")
        with explained(path, _FULL), file:  # the block may read other files: their errors are not ours
            yield file
        if not directly:
            with explained(path):
                temporary.replace(target)
    except KeyboardInterrupt:
        if not directly and not binary and temporary.exists():
            partial = temporary.replace(target.with_name(f"{target.name}.partial"))
            print(f"{partial}: what was written until then", file=sys.stderr)
        raise
    finally:
        if not directly:
            with contextlib.suppress(OSError):  # of the folder, which has been explained already
                temporary.unlink()


def temporary_beside(path: Path) -> Path:
    """Return the temporary name under which this process writes a file: hidden, in the same folder."""
    return path.with_name(f".{path.name}.{_machine()}.{os.getpid()}.tmp")


def _machine() -> str:
    """Return this machine's name: several machines may share a folder, and each has processes of its own numbers."""
    import socket  # here, because the command line imports this module at every start

    return re.sub(r"\W", "_", socket.gethostname())


def leftovers(path: Path) -> list[Path]:
    """Return the temporary files (:func:`temporary_beside`) that killed processes of this machine left behind.

    Those with this process's id count, too: an earlier process with the same id left them.
    """
    found = [
        (each, each.name.split(".")[-2]) for each in path.parent.glob(f".{glob.escape(path.name)}.{_machine()}.*.tmp")
    ]
    numbered = [(each, int(process)) for each, process in found if process.isdecimal()]
    if not numbered:
        return []
    import psutil  # here, because the command line imports this module at every start

    return [each for each, process in numbered if process == os.getpid() or not psutil.pid_exists(process)]


@contextlib.contextmanager
def explained(path: Path, only: set[int] | None = None) -> Iterator[None]:
    """Turn an OSError, or only one with certain numbers, into a DataError that says why a file cannot be written."""
    try:
        yield
    except OSError as error:
        if only is not None and error.errno not in only:
            raise
        missing = error.errno == errno.ENOENT and not path.parent.exists()
        reason = f"there is no folder {path.parent}" if missing else error.strerror
        raise DataError(f"{path}: cannot write this file: {reason}.") from None
