"""The processor time of this process."""

from __future__ import annotations

import os
import time


def cpu_seconds() -> float:
    """Return the processor time of this process, over all threads, and of its children that have ended, in seconds."""
    return time.process_time() + sum(os.times()[2:4])
