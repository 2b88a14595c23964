"""Several arrays in one file, which is mapped into memory, so that processes share it.

The file is a sequence of NumPy's ``.npy`` files, each at a multiple of 64 bytes: a description in JSON, as bytes, then the
arrays. The last 32 bytes are the SHA-256 of all others. Nothing in it is pickled, so reading one runs no code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from recbole_vae.errors import DataError
from recbole_vae.storage.files import written_whole

_BLOCK = 2**22
_DIGEST = hashlib.sha256().digest_size


class _Hashed:
    """A file that is written, and hashed on the way."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.hash, self.length = file, hashlib.sha256(), 0

    def write(self, content: Any) -> int:
        self.file.write(content)
        self.hash.update(content)
        self.length += len(content)
        return len(content)


def write_arrays(path: Path, about: dict[str, Any], arrays: Sequence[NDArray[Any]]) -> None:
    """Write arrays and their description, or leave the old file as it was.

    Args:
        path: the file.
        about: what JSON can hold.
        arrays: of numbers.

    Raises:
        DataError: it cannot be written.
    """
    with written_whole(path, binary=True) as raw:
        file = _Hashed(raw)
        for array in (np.frombuffer(json.dumps(about).encode(), np.uint8), *arrays):
            np.save(file, array, allow_pickle=False)
            file.write(bytes(-file.length % 64))
        raw.write(file.hash.digest())


def read_arrays(path: Path) -> tuple[dict[str, Any], list[NDArray[Any]]]:
    """Return the description and the arrays of a file, after its hash was checked.

    The arrays are mapped from the file: they take memory that the system can take back. They may be written to; that
    changes neither the file nor what other processes see.

    Raises:
        DataError: the file is damaged, was not written by :func:`write_arrays`, or cannot be read.
        FileNotFoundError: there is none.
    """
    try:
        with path.open("rb") as file:
            length = path.stat().st_size - _DIGEST
            if length <= 0 or sha256(file, length) != file.read():
                raise DataError(f"{path}: damaged, or not written whole.")
            file.seek(0)
            found = []
            while file.tell() < length:
                npy.read_magic(file)
                shape, _, kind = npy.read_array_header_1_0(file)
                start, size = file.tell(), int(np.prod(shape)) * kind.itemsize
                # By the open file: a file of this name may be another one by now. An empty array cannot be mapped.
                found.append(np.memmap(file, kind, "c", start, shape) if size else np.empty(shape, kind))
                file.seek(start + size + -(start + size) % 64)
            about: dict[str, Any] = json.loads(bytes(found[0]))
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: cannot read this file: {error}.") from None
    return about, found[1:]


def sha256(file: IO[bytes], length: int | None = None) -> bytes:
    """Return the SHA-256 of the next bytes of a file: of as many, or of all."""
    digest, left = hashlib.sha256(), float("inf") if length is None else length
    while left and (block := file.read(int(min(_BLOCK, left)))):
        digest.update(block)
        left -= len(block)
    return digest.digest()
