"""How likely an item is to be observed at all, judged by how often it was; and the correction of scores for it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def log_propensity(counts: Tensor) -> Tensor:
    """Return ``log sigmoid((log(1 + count) - mean) / standard deviation)`` of items, each over all items.

    A sigmoid of the log frequency (Onishi, Hayashi and Kamigaito: Accurate and Diverse Recommendations via
    Propensity-Weighted Linear Autoencoders, SIGIR-AP 2025) is nearly the same for all popular items, where a power of the
    frequency goes on rising. Standardising leaves nothing to be set.

    Args:
        counts: number of training interactions of each item, shape [items].

    Returns:
        Negative numbers, float32, shape [items]; the same for all where all counts are equal.
    """
    logs = counts.double().log1p()
    deviation = logs.std(correction=0)
    standardised = (logs - logs.mean()) / torch.where(deviation > 0, deviation, 1.0)
    return F.logsigmoid(standardised).float()
