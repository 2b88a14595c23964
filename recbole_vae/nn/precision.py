"""The precision of the output layer's matrix products, which take most of the time of training."""

from __future__ import annotations

import platform
from pathlib import Path

import torch


def training_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the dtype of the output layer's products in training, or None for that of its weights.

    Weights, optimiser, sums over items and the other layers stay in float32.

    Args:
        precision: ``float32``, ``bfloat16``, or ``auto``: bfloat16 if the device multiplies it faster than float32.
        device: the model's device.
    """
    if precision == "auto":
        precision = "bfloat16" if has_fast_bfloat16(device) else "float32"
    return torch.bfloat16 if precision == "bfloat16" else None


def has_fast_bfloat16(device: torch.device) -> bool:
    """Return whether a device multiplies bfloat16 in hardware: NVIDIA since Ampere, x86 with AMX or AVX512-BF16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu" or platform.machine() not in ("x86_64", "AMD64"):
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore")
    except OSError:  # not Linux
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags
