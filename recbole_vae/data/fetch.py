"""Fetches published archives from their owners: whole and checked, or not at all."""

from __future__ import annotations

import contextlib
import http.client
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
from tqdm import tqdm

from recbole_vae.errors import DataError
from recbole_vae.options.shell import quoted
from recbole_vae.storage.files import explained, sha256

TIMEOUT = 30.0
"""Seconds without a byte after which a connection is given up."""

_BLOCK = 2**18
"""Bytes that are read at most at once."""


@dataclass(frozen=True)
class Archive:
    """A file that its owner lets everyone download.

    Attributes:
        address: where the owner has it. The file is kept under the last part of this address.
        size: number of its bytes.
        sha256: its SHA-256.
        terms: the terms of use in a sentence, with the address of all of them.
    """

    address: str
    size: int
    sha256: str
    terms: str


class _NetworkError(Exception):
    """A download failed; the argument says why."""


def fetch(name: str, archive: Archive, folder: Path, show_progress: bool = False) -> Path:
    """Return an archive's file in a folder; it is downloaded unless it is there.

    An incomplete file is named ``<file>.partial``, and a later call goes on from it. The proxies are those of the environment.

    Args:
        name: the data set's name, for messages.
        archive: what to fetch.
        folder: where the file is kept.
        show_progress: whether a progress bar is shown.

    Raises:
        DataError: it cannot be fetched or written, or is not the owner's file; a download that is not is removed.
    """
    path = folder / archive.address.rpartition("/")[2]
    partial = path.with_name(f"{path.name}.partial")
    if path.exists():
        if (found := sha256(path)) != archive.sha256:
            raise DataError(
                f"{path}: is not the archive of {name} that its owner publishes: its SHA-256 is {found}, and {archive.sha256} "
                "is expected. Remove it, and the same command fetches it; or use it nevertheless: "
                f"recbole-vae prepare {name} {quoted(str(path))}."
            )
        return path
    lock, made = path.with_name(f".{path.name}.lock"), not folder.exists()
    with explained(path):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            alone = filelock.FileLock(lock).acquire(timeout=0)
        except filelock.Timeout:
            raise DataError(
                f"{path}: another command fetches it now; give this one again when that has ended."
            ) from None
    with alone:
        try:
            _fetch(name, archive, path, partial, show_progress)
        finally:
            lock.unlink(missing_ok=True)
            if made:
                with contextlib.suppress(OSError):  # something was fetched into it
                    folder.rmdir()
    return path


def _fetch(name: str, archive: Archive, path: Path, partial: Path, show_progress: bool) -> None:
    try:
        _download(archive, partial, show_progress)
    except _NetworkError as error:
        raise DataError(
            f"{archive.address}: cannot be fetched: {error}.{_so_far(archive, partial)} Check the network, and the proxy in "
            f"HTTPS_PROXY if there must be one. Or save the file as {path} by other means: the same command then reads it."
        ) from None
    except KeyboardInterrupt:
        print(f"{archive.address}: interrupted.{_so_far(archive, partial)}", file=sys.stderr)
        raise
    if (found := sha256(partial)) != archive.sha256:
        partial.unlink()
        raise DataError(
            f"{archive.address}: what was fetched is not the archive of {name} that its owner publishes: its SHA-256 is {found}, "
            f"and {archive.sha256} is expected. It was removed. Try again; if this stays so, a proxy or the owner sends "
            "another file."
        )
    with explained(path):
        partial.replace(path)


def _so_far(archive: Archive, partial: Path) -> str:
    """Return a sentence that says what is there of an incomplete file, or ""."""
    if not (length := _length(partial)):
        return ""
    return f" {partial} has {length:,} of {archive.size:,} bytes; the same command goes on from there."


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _download(archive: Archive, partial: Path, show_progress: bool) -> None:
    """Download what is missing of an incomplete file.

    Raises:
        DataError: it cannot be written.
        _NetworkError: it is incomplete still.
    """
    start = _length(partial)
    if start == archive.size:
        return
    if start > archive.size:
        start = 0
    request = urllib.request.Request(archive.address, headers={"Range": f"bytes={start}-"} if start else {})
    with _network():
        response = urllib.request.build_opener().open(request, timeout=TIMEOUT)
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:  # some servers send the whole file
            start = 0
        missing = archive.size - start
        if response.length not in (None, missing):
            kind = response.headers["Content-Type"]
            raise _NetworkError(
                f"{response.length:,} bytes ({kind}) are sent, and {missing:,} are expected; is it the page of a login?"
            )
        progress: dict[str, Any] = {
            "desc": "Fetching", "total": archive.size, "initial": start, "unit": "B", "unit_scale": True, "ncols": 100,
            "leave": False, "disable": not show_progress,
        }  # fmt: skip
        with explained(partial):
            _check_space(partial, missing)
            partial.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("ab" if start else "wb") as file, tqdm(**progress) as bar:
                while missing >= 0 and (block := _read(response)):  # one byte too many will do: the checksum is another
                    missing -= file.write(block)
                    bar.update(len(block))
    if _length(partial) < archive.size:
        raise _NetworkError("the connection ended early")


def _read(response: Any) -> bytes:
    with _network():
        return bytes(response.read1(_BLOCK))  # what has arrived: a connection that breaks takes none of it away


@contextlib.contextmanager
def _network() -> Iterator[None]:
    """Turn errors of the network into a :class:`_NetworkError` that says in words what it was."""
    try:
        yield
    except urllib.error.HTTPError as error:
        raise _NetworkError(f"the server answers {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, TimeoutError):
            raise _NetworkError(f"no answer in {TIMEOUT:g} seconds") from None
        raise _NetworkError(getattr(reason, "strerror", None) or str(reason) or type(reason).__name__) from None


def _check_space(partial: Path, missing: int) -> None:
    free = shutil.disk_usage(next(folder for folder in partial.parents if folder.exists())).free
    if free < missing:
        raise DataError(f"{partial}: {missing:,} bytes are missing, and {free:,} are free; choose another --out.")
