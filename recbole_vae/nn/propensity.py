"""The propensity of an item: how likely it is to be observed, estimated from its number of interactions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def log_propensity(counts: Tensor) -> Tensor:
    """Return ``log sigmoid((log(1 + count) - mean) / standard deviation)``, with mean and deviation over all items.

    A sigmoid of the log frequency (Onishi, Hayashi and Kamigaito: Accurate and Diverse Recommendations via
    Propensity-Weighted Linear Autoencoders, SIGIR-AP 2025) levels off for popular items, where a power of the frequency
    keeps rising. Since it is standardised, it has no parameter to tune.

    Args:
        counts: number of training interactions of each item, shape [items].

    Returns:
        Negative numbers, float32, shape [items]; the same for all where all counts are equal.
    """
    logs = counts.double().log1p()
    deviation = logs.std(correction=0)
    standardised = (logs - logs.mean()) / torch.where(deviation > 0, deviation, 1.0)
    return F.logsigmoid(standardised).float()
