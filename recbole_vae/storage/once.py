"""Reads a checkpoint once for all parts of a run that need it (options, data set, trainer, summary): it may take gigabytes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

kept: ContextVar[dict[tuple[Any, ...], dict[str, Any]] | None] = ContextVar("kept", default=None)
"""Inside :func:`read_once` the last checkpoint that was read, by its file's path, inode, time and size; otherwise None."""


@contextlib.contextmanager
def read_once() -> Iterator[None]:
    """Let all calls of :func:`recbole_vae.storage.checkpoint.load` in this block share what was read last.

    It stays in memory until the block ends, another file is read, or ``take`` takes it. A file that was replaced meanwhile is
    read again.
    """
    if kept.get() is not None:
        yield
        return
    token = kept.set({})
    try:
        yield
    finally:
        kept.reset(token)
