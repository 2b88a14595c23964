"""The machine, in words."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any


def machine(threads: int | None = None) -> dict[str, Any]:
    """Describe this machine; ``threads`` are torch's own choice unless given."""
    import torch

    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": threads or torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="ignore").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
