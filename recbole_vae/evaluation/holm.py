"""Holm's correction for several tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """Holm's step-down correction (1979) of one family of tests, valid however the tests depend on each other.

    Written by hand, because SciPy has none, and statsmodels would be a dependency for these five lines.

    Args:
        p: p-values, shape [tests].

    Returns:
        Corrected p-values, to be compared with the level, float64, shape [tests].
    """
    p = np.asarray(p, float)
    order = np.argsort(p, kind="stable")
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return corrected
