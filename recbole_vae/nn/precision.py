"""The precision of the output layer's matrix products, which are nearly all of the work of training."""

from __future__ import annotations

import platform
from pathlib import Path

import torch


def training_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the dtype of the output layer's products in training, or None for that of its weights.

    Weights, optimiser, sums over items and all that is smaller stay in float32, whatever this is.

    Args:
        precision: ``float32``, ``bfloat16`` or ``auto``, which is bfloat16 where the device multiplies it faster than float32.
        device: where the model lies.
    """
    if precision == "auto":
        precision = "bfloat16" if has_fast_bfloat16(device) else "float32"
    return torch.bfloat16 if precision == "bfloat16" else None


def has_fast_bfloat16(device: torch.device) -> bool:
    """Return whether a device has instructions for products of bfloat16: NVIDIA's since Ampere, x86 with AMX or AVX512-BF16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu" or platform.machine() not in ("x86_64", "AMD64"):
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore")
    except OSError:  # not Linux
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags
