"""What a split leaves empty: parts, users without a training history, items without a training interaction."""

from __future__ import annotations

from typing import Any

import numpy as np

from recbole_vae.data import padding


def users_without_history(parts: list[Any]) -> list[str]:
    """Say how many validation and test users have no training history, for each part of a split that has such users."""
    train, *others = (np.unique(part.inter_feat[part.uid_field].numpy()) for part in parts)
    found = []
    for name, users in zip(("validation", "test"), others, strict=False):
        new = len(np.setdiff1d(users, train))
        if new:
            found.append(f"{new} of {len(users)} {name} users have no training history")
    return found


def say(dataset: Any, parts: list[Any]) -> None:
    """Log what a split leaves empty."""
    found = [
        f"the {name} part is empty"
        for name, part in zip(("training", "validation", "test"), parts, strict=False)
        if not len(part)
    ]
    found += users_without_history(parts)
    items = padding.real(dataset.item_num)
    unknown = items - len(np.unique(parts[0].inter_feat[dataset.iid_field].numpy()))
    if found:
        dataset.logger.warning(f"Split: {'; '.join(found)}.")
    if unknown:
        dataset.logger.info(f"Split: {unknown} of {items} items have no training interaction.")
