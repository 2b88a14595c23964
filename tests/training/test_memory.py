"""Memory that is kept during training."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch

from recbole_vae.training.memory import memory_kept

MEBIBYTE = 2**20


def resident() -> int:
    """Return the bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_freed_memory_stays_until_the_block_ends() -> None:
    before = resident()
    with memory_kept(torch.device("cpu")):
        table = torch.ones(64 * MEBIBYTE, dtype=torch.uint8)
        del table
        assert resident() > before + 60 * MEBIBYTE
    assert resident() < before + 8 * MEBIBYTE
    table = torch.ones(64 * MEBIBYTE, dtype=torch.uint8)  # as before the block: a large tensor is given back at once
    del table
    assert resident() < before + 8 * MEBIBYTE


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_an_error_ends_the_block_as_well() -> None:
    before = resident()
    with pytest.raises(RuntimeError), memory_kept(torch.device("cpu")):
        table = torch.ones(64 * MEBIBYTE, dtype=torch.uint8)
        del table
        raise RuntimeError
    assert resident() < before + 8 * MEBIBYTE
