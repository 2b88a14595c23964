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


def given_back() -> int:
    """Return how many of 64 MiB go back to the system when a tensor of that size ends."""
    table = torch.ones(64 * MEBIBYTE, dtype=torch.uint8)
    held = resident()
    del table
    return held - resident()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_freed_memory_stays_until_the_block_ends() -> None:
    with memory_kept(torch.device("cpu")):
        assert given_back() < 4 * MEBIBYTE
        kept = resident()
    assert resident() < kept - 60 * MEBIBYTE
    assert given_back() > 60 * MEBIBYTE  # as before the block


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_an_error_ends_the_block_as_well() -> None:
    with pytest.raises(RuntimeError), memory_kept(torch.device("cpu")):
        raise RuntimeError
    assert given_back() > 60 * MEBIBYTE
