"""The memory of this process: its peak, and a limit."""

from __future__ import annotations

import sys
from importlib import import_module
from pkgutil import iter_modules

from recbole_vae import data


def peak_memory(on_gpu: bool = False) -> int:
    """Return the peak memory of this process in bytes: its resident set, or what torch allocated on the GPU."""
    if on_gpu:
        import torch

        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:  # on Windows
        import psutil

        memory = psutil.Process().memory_info()
        return int(getattr(memory, "peak_wset", memory.rss))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def limit_memory(gigabytes: float) -> bool:
    """Limit the memory of this process and return True; return False on Windows, which has no such limit.

    The libraries are imported first, because some of them hang or crash without memory.
    """
    try:
        import resource
    except ImportError:
        return False
    ours = [f"{data.__name__}.{module.name}" for module in iter_modules(data.__path__)]  # most are imported when needed
    for module in (
        "recbole.data.dataset",
        "recbole.model.general_recommender",
        "recbole.quick_start",
        "recbole.trainer",
        "recbole_vae.training.trainer",
        *ours,
    ):
        import_module(module)
    limit = int(gigabytes * 1e9)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    return True
