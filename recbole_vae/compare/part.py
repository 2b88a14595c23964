"""What is measured on one part of the data, computed from the ranked lists of its users."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recbole_vae.compare.results import Users
from recbole_vae.data import padding
from recbole_vae.evaluation.metrics import FastEvaluator
from recbole_vae.options.evaluation import COLD, WARM

SHARE = 0.2
"""Share of the training interactions in each popularity bin of the items; the first bin is the tail."""


@dataclass
class PartResults:
    """The results on one part of the data; the attributes are those of :class:`Run`."""

    metrics: dict[str, float] = field(default_factory=dict)
    over_k: dict[str, list[float]] = field(default_factory=dict)
    by_popularity: list[dict[str, float]] = field(default_factory=list)
    users: Users | None = None


def with_options(config: Any, **values: Any) -> Any:
    """Return a copy of RecBole's Config with other values."""
    other = copy.copy(config)
    other.final_config_dict = {**config.final_config_dict, **values}
    return other


def options(config: Any, job: dict[str, Any], max_k: int) -> Any:
    """Return RecBole's Config with the metrics that are computed from lists of ``max_k`` items, and from shorter ones."""
    names = list(dict.fromkeys([*map(str.lower, job["metrics"]), "itemcoverage", "giniindex", "averagepopularity"]))
    return with_options(config, metrics=names, topk=sorted({*job["topk"], max_k}), metric_decimal_place=10)


def results(measured: Any, lists: Any, train: Any, loader: Any, job: dict[str, Any], *, whole: bool) -> PartResults:
    """Compute everything from the lists of a part.

    Args:
        measured: of :func:`options`.
        lists: RecBole's ``DataStruct``, as the collector returns it.
        train: dataloader of the training part.
        loader: dataloader of the part.
        job: names the metrics and k.
        whole: whether to compute curves, popularity bins and the users' values as well.
    """
    n_items, max_k, names = loader._dataset.item_num, max(measured["topk"]), measured["metrics"]
    result = FastEvaluator(measured).evaluate(lists)
    found = PartResults()
    table = [f"{name}@{k}" for name in names for k in job["topk"]]
    table += [name for kind in (WARM, COLD) for each in table if (name := f"{kind}_{each}") in result]
    found.metrics = {name: float(result[name]) for name in table}
    per_user = {name: values for name, values in result.per_user.items() if name in table}
    means = {name: float(values[~np.isnan(values)].mean()) for name, values in per_user.items()}  # not rounded
    found.metrics.update(means)

    items, marks = lists.get("rec.items").numpy(), lists.get("rec.topk").numpy()
    hits = marks[:, :max_k].astype(bool)
    users = loader.uid_list
    counts = torch.bincount(train._dataset.inter_feat[train._dataset.iid_field], minlength=n_items).numpy()
    bin_of = popularity_bins(counts)
    relevant = loader.relevant[users]
    owners, wanted = relevant.rows().numpy(), relevant.indices.numpy()
    in_tail = bin_of == 0
    tail_relevant = np.bincount(owners[in_tail[wanted]], minlength=len(users))
    bits = -np.log2(np.maximum(counts, 1) / max(1, counts.sum()))
    for k in job["topk"]:
        tail_hits = (hits[:, :k] & in_tail[items[:, :k]]).sum(axis=1)
        has = tail_relevant > 0  # a mean over the users who have some
        found.metrics[f"tailrecall@{k}"] = float((tail_hits[has] / tail_relevant[has]).mean()) if has.any() else 0.0
        shown = items[:, :k] != padding.PADDING
        number = np.where(shown.any(axis=1), shown.sum(axis=1), np.nan)  # a mean over the users who have a list
        per_user[f"novelty@{k}"] = (bits[items[:, :k]] * shown).sum(axis=1) / number
        found.metrics[f"novelty@{k}"] = float(np.nanmean(per_user[f"novelty@{k}"]))
    if not whole:
        return found
    curves = FastEvaluator(with_options(measured, metrics=["recall", "ndcg"], topk=list(range(1, max_k + 1)))).evaluate(
        lists
    )
    found.over_k = {
        name: [float(curves.per_user[f"{name}@{k}"].mean()) for k in range(1, max_k + 1)] for name in ("recall", "ndcg")
    }
    k = max(job["topk"])
    hit_items = np.bincount(items[:, :k][hits[:, :k]], minlength=n_items)
    relevant_items = np.bincount(wanted, minlength=n_items)
    for place in range(bin_of.max() + 1):
        inside = bin_of == place
        total = int(relevant_items[inside].sum())
        found.by_popularity.append(
            {
                "items": int(inside.sum()),
                "popularity": float(counts[inside].mean()),
                "relevant": total,
                "recall": float(hit_items[inside].sum() / total) if total else 0.0,
            }
        )
    part = loader._dataset
    if loader.fold_in is None:
        histories = torch.bincount(train._dataset.inter_feat[part.uid_field], minlength=part.user_num)
    else:
        histories = loader.fold_in.lengths()
    tokens = np.asarray(part.field2id_token[part.uid_field]).astype(str)
    found.users = Users(
        tokens[users.numpy()],
        histories[users].numpy().astype(np.int64),
        {name: values.astype(np.float64) for name, values in per_user.items()},
    )
    return found


def popularity_bins(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Divide items by popularity into bins that each hold a fifth of the training interactions.

    The first bin is the tail: the least popular items, which together have at most 20 % of the interactions (at least one item).

    Args:
        counts: training interactions of each item, shape [n_items]; the first item is RecBole's padding.

    Returns:
        The bin of each item, int64, shape [n_items], from 0 without gaps; -1 for the padding.
    """
    order = padding.ids(np.argsort(counts[padding.REAL], kind="stable"))
    shares = np.cumsum(counts[order]) / max(1, counts.sum())
    raw = np.minimum(np.ceil(np.round(shares / SHARE, 9)).astype(np.int64) - 1, round(1 / SHARE) - 1)
    _, raw = np.unique(np.maximum(raw, 0), return_inverse=True)
    bins = np.full(len(counts), -1, dtype=np.int64)
    bins[order] = raw
    return bins
