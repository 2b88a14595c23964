"""How good explanations are, by perturbation of the history.

Barkan et al.: A Counterfactual Framework for Learning and Evaluating Explanations for Recommender Systems. WWW 2024.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from recbole_vae.analysis.explain import influences, ranks, score_copies
from recbole_vae.data.histories import Histories
from recbole_vae.errors import ConfigError, DataError
from recbole_vae.model.base import HistoryRecommender

EntryValues = Callable[[HistoryRecommender, Histories, int], Tensor]
"""Values the entries of a history, shape [nnz], by how much they explain a recommended item."""


def by_influence(method: str = "exact") -> EntryValues:
    """Value entries by their influence; for ``method`` see :func:`~recbole_vae.analysis.explain.influences`."""
    return lambda model, history, item: influences(
        model, history, torch.tensor([item], device=history.indices.device), method
    )[:, 0]


def by_popularity(model: HistoryRecommender, history: Histories, item: int) -> Tensor:
    """Value entries by the share of the training users who have them."""
    return model.popularity[history.indices]


def by_cosine(model: HistoryRecommender, history: Histories, item: int) -> Tensor:
    """Value entries by the cosine between their training users and the recommended item's."""
    table = model.histories
    rows, indices = table.rows(), table.indices.long()
    theirs = torch.zeros(len(table), device=indices.device).index_fill_(0, rows[indices == item], 1.0)
    together = torch.zeros(model.n_items, device=indices.device).index_add_(0, indices, theirs[rows])
    counts = torch.bincount(indices, minlength=model.n_items)
    return (together / (counts * counts[item]).clamp_min(1).sqrt())[history.indices]


def at_random(seed: int) -> EntryValues:
    """Value entries at random."""
    generator = torch.Generator().manual_seed(seed)
    return lambda model, history, item: torch.rand(len(history.indices), generator=generator).to(history.indices.device)


@torch.no_grad()
def perturbation(
    model: HistoryRecommender, histories: Histories, order: EntryValues, k: int = 10, steps: int = 10
) -> dict[str, float]:
    """Measure how well an order of the history's items explains each history's first recommendation (Barkan et al. 2024).

    Items are removed from the history, or added to an empty one, in ``steps`` equal shares, rounded up. The last share, which
    is the whole history, is not counted, and at least one item always stays. Values are means over shares and histories.

    Args:
        model: in evaluation mode.
        histories: on the model's device; those with fewer than two items are skipped.
        order: values the entries; the highest value explains most.
        k: length of the ranking.
        steps: number of shares, at least 2.

    Returns:
        ``POS@k``: how often the item stays among the first k without the items that explain most (lower is better);
        ``NEG@k``: the same without the items that explain least (higher is better); ``DEL``: the item's softmax probability
        without the items that explain most, relative to the whole history's (lower is better); ``INS``: the same with only
        the items that explain most (higher is better).

    Raises:
        ConfigError: the model's likelihood has no softmax, or ``steps`` is less than 2.
        DataError: no history has two items.
    """
    if steps < 2:
        raise ConfigError(f"steps: {steps!r} is not allowed; it must be an integer >= 2.")
    if not model.by_softmax:
        raise ConfigError(
            f"perturbation: DEL and INS need the softmax of the scores, but this {type(model).__name__} was trained with a "
            "likelihood that has none; take a checkpoint of likelihood: multinomial or poisson."
        )
    values = []
    for place in range(len(histories)):
        history = histories.slice(place, place + 1)
        length = len(history.indices)
        if length < 2:
            continue
        nothing = torch.zeros(1, length, dtype=torch.bool, device=history.indices.device)
        (scores,) = score_copies(model, history, nothing)
        probability = model.uncorrected(scores)[0].softmax(0)
        scores[0, history.indices.long()] = -torch.inf
        item = int(scores[0].argmax())
        best_first = order(model, history, item).argsort(descending=True, stable=True)
        position = torch.empty_like(best_first)
        position[best_first] = torch.arange(length, device=position.device)
        counts = (
            (torch.arange(1, steps, device=position.device) * length / steps).ceil().clamp_max(length - 1).unsqueeze(1)
        )
        most, least = position < counts, position >= length - counts
        wanted = torch.tensor([item], device=position.device)
        curves = [
            torch.cat([model.uncorrected(part).softmax(1)[:, item] for part in score_copies(model, history, removed)])
            / probability[item]
            for removed in (most, ~most)
        ]
        stays = [(ranks(model, history, removed, wanted)[:, 0] <= k).float() for removed in (most, least)]
        values.append(torch.stack([each.mean() for each in (*stays, *curves)]))
    if not values:
        raise DataError("histories: none has two items; with fewer there is nothing to explain.")
    means = torch.stack(values).mean(0).tolist()
    return dict(zip((f"POS@{k}", f"NEG@{k}", "DEL", "INS"), means, strict=True))
