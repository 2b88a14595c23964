"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from recbole_vae.errors import DataError


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
