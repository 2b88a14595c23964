"""Memory that one training step frees and the next one takes."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
"""Parameters of glibc's ``mallopt``; see malloc.h."""


@contextmanager
def memory_kept(device: torch.device) -> Iterator[None]:
    """Keep freed memory in the process during this block, and give it back to the system at its end.

    By default glibc asks the system anew for each large tensor. The system then clears its pages one by one, which takes a CPU
    about a seventh of a training step. Where the C library is another one, nothing changes.

    Args:
        device: the model's; for one that is no CPU nothing changes.
    """
    if device.type != "cpu" or platform.libc_ver()[0] != "glibc":
        yield
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        # mallopt ends glibc's own adaptation of its thresholds; these are the values at which it usually arrives.
        libc.mallopt(_MMAP_MAX, 2**16)
        libc.mallopt(_MMAP_THRESHOLD, 2**25)
        libc.mallopt(_TRIM_THRESHOLD, 2**26)
        libc.malloc_trim(0)
