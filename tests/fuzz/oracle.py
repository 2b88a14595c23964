"""What is right, by NumPy and pandas alone; and what a run wrote."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

TIES = 1e-5
"""Scores that are nearer than this may be in any order."""


def printed(out: str) -> tuple[str, dict[str, float]]:
    """Return the checkpoint and the metrics that ``run`` prints."""
    file = re.search(r"^Checkpoint  (.*)$", out, re.MULTILINE)
    metrics = re.findall(r"^  ([a-z]+@\d+) +([-\d.]+)", out, re.MULTILINE)
    return file[1] if file else "", {name: float(value) for name, value in metrics}


def scores_of_run(out: str) -> dict[str, Any]:
    """Return the scores that the checkpoint of a run gives to all items that a user does not have in training."""
    from recbole_vae import Recommender

    file, _ = printed(out)
    if not Path(file).is_file():
        return {}
    try:
        model = Recommender.load(file)
    except Exception as error:  # of a model that cannot score a history
        return {"unscored": str(error)}
    users = model.users[1:]
    rankings = model.recommend_users(users, k=len(model.items))
    return {"scores": {user: list(map(list, ranking)) for user, ranking in zip(users, rankings, strict=True)}}


def leave_one_out(rows: pd.DataFrame) -> tuple[dict[str, list[str]], dict[str, list[str]], dict[str, list[str]]]:
    """Split by time: the last item of each user is for the test, the one before for validation, if two are left."""
    rows = rows.sort_values("time", kind="stable").drop_duplicates(["user", "item"], keep="last")
    parts: tuple[dict[str, list[str]], ...] = ({}, {}, {})
    for user, group in rows.groupby("user", sort=False):
        items = list(group.item)
        held = min(2, len(items) - 1)
        sizes = [len(items) - held, held == 2, held > 0]
        start = 0
        for part, size in zip(parts, sizes, strict=True):
            if size:
                part[user] = items[start : start + size]
            start += size
    return parts  # type: ignore[return-value]


def metrics(
    scores: Mapping[str, Sequence[tuple[str, float]]],
    valid: Mapping[str, list[str]],
    test: Mapping[str, list[str]],
    k: int,
) -> dict[str, tuple[float, float]]:
    """Return the least and the largest value that each metric can have; they differ where scores are equal."""
    bounds: dict[str, list[tuple[float, float]]] = {f"ndcg@{k}": [], f"recall@{k}": [], f"hit@{k}": [], f"mrr@{k}": []}
    for user, relevant in test.items():
        left = [(item, score) for item, score in scores[user] if item not in set(valid.get(user, []))]
        values = np.array([score for _, score in left])
        good = np.array([item in set(relevant) for item, _ in left], bool)
        found: dict[str, list[float]] = {name: [] for name in bounds}
        for sign in (-1, 1):
            order = np.argsort(-(values + sign * TIES * np.maximum(1, np.abs(values)) * good), kind="stable")
            hits = good[order][:k]
            gain = 1 / np.log2(np.arange(2, len(hits) + 2))
            ideal = (1 / np.log2(np.arange(2, min(k, len(relevant)) + 2))).sum()
            found[f"ndcg@{k}"].append(float((gain * hits).sum() / ideal))
            found[f"recall@{k}"].append(hits.sum() / len(relevant))
            found[f"hit@{k}"].append(float(hits.any()))
            found[f"mrr@{k}"].append(1 / (1 + int(hits.argmax())) if hits.any() else 0.0)
        for name, (low, high) in found.items():
            bounds[name].append((low, high))
    return {name: tuple(np.mean(each, axis=0)) for name, each in bounds.items() if each}


def multvae(state: Mapping[str, Any], history: Sequence[str]) -> dict[str, float]:
    """Return the scores of all items, by equations of Liang et al. (2018) and the parameters of a checkpoint."""
    parameters = {
        name: value.double().numpy() for name, value in state["state_dict"].items() if hasattr(value, "numpy")
    }
    items = state["items"][1:]
    x = np.zeros(len(items))
    x[[items.index(each) for each in history]] = 1
    hidden = x / np.linalg.norm(x) @ parameters["encoder.input.weight"] + parameters["encoder.input.bias"]
    mean = hidden[: len(hidden) // 2]
    logits = parameters["decoder.layers.0.weight"] @ mean + parameters["decoder.layers.0.bias"]
    return dict(zip(items, logits.tolist(), strict=True))
