"""Why an item is recommended: the influence of each item of the history, and the items without which it would not be.

The influence of a history's item on a recommendation is the drop of the recommendation's score when the history lacks that
item. It is exact: the model scores each history that lacks one item. If the model begins with a linear layer on the
normalised history (:class:`~recbole_vae.model.capabilities.Capabilities`), all of these share that layer's sum, and only the
logits of the recommended items are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from recbole_vae.data import padding
from recbole_vae.data.histories import Histories
from recbole_vae.errors import ConfigError
from recbole_vae.model.base import HistoryRecommender
from recbole_vae.nn.chunks import rows_per_chunk
from recbole_vae.nn.encoder import HistoryEncoder
from recbole_vae.serving.recommender import History, Recommender

if TYPE_CHECKING:
    from recbole_vae.serving.profiles import Profile

METHODS = ("exact", "gradient")
"""How influences are computed: by leaving out each item, or by the first-order change of the score."""

REMOVALS = 20
"""A counterfactual removes at most this many items from a history."""

_ALIKE = 3
"""Items named of those that one without interactions is like, at most."""

_RIVALS = 100
"""The greedy search compares a recommendation with this many items below the first k; its result is checked against all."""


def influences(model: HistoryRecommender, history: Histories, items: Tensor, method: str = "exact") -> Tensor:
    """Compute the influence of each item of a history on the scores of some items.

    Args:
        model: in evaluation mode.
        history: a single history, on the model's device.
        items: internal item ids, int64, shape [items].
        method: ``exact``: the score of the history less that of the history without the item; ``gradient``: the first-order
            approximation of that, in less time, for models that declare ``begins_with_linear_layer``.

    Returns:
        Shape [nnz, items]: row = entry of the history.

    Raises:
        ConfigError: ``method`` is unknown, or the model does not begin with a linear layer.
    """
    if method not in METHODS:
        raise ConfigError(f"method: {method!r} is not allowed; it must be {' or '.join(METHODS)}.")
    if method == "gradient":
        if not model.begins_with_linear_layer:
            raise ConfigError(
                "method: gradient is for models that decode a code which begins with a linear layer of the history, such as "
                f"MultVAE without item_features; this {type(model).__name__} does not declare that (begins_with_linear_layer). "
                "Use method: exact."
            )
        return _gradients(model, history, items)
    with torch.no_grad():
        whole, without = _scores_without(model, history, items)
    return whole - without


def _scores_without(model: Any, history: Histories, items: Tensor) -> tuple[Tensor, Tensor]:
    """Score items for a history, shape [items], and for it without each of its entries, shape [nnz, items]."""
    if model.begins_with_linear_layer:
        sums, columns = _first_sums(model.encoder, history), padding.columns(items)
        logits = model.decoder.logits_of(model.code(model.encoder.features(sums)), columns)
        scores = model.corrected(logits, columns)
        return scores[-1], scores[:-1]
    return scores_without(model, history, items)


def scores_without(model: HistoryRecommender, history: Histories, items: Tensor) -> tuple[Tensor, Tensor]:
    """Score items for a history, shape [items], and for it without each of its entries, shape [nnz, items]; for any model."""
    length = len(history.indices)
    removed = torch.eye(length + 1, dtype=torch.bool, device=items.device)[:, :length]  # the last row: nothing
    scores = torch.cat([part[:, items] for part in score_copies(model, history, removed)])
    return scores[-1], scores[:-1]


def score_copies(model: HistoryRecommender, history: Histories, removed: Tensor) -> Iterable[Tensor]:
    """Score all items for copies of a history that lack some entries (see Histories.without), some copies at a time."""
    for part in _in_parts(model, removed):
        yield model.score(model.in_warm_items(history.without(part))).float()


def _in_parts(model: HistoryRecommender, removed: Tensor) -> Sequence[Tensor]:
    parts: Sequence[Tensor] = removed.split(rows_per_chunk(model.n_items))
    return parts


def _first_sums(encoder: HistoryEncoder, history: Histories) -> Tensor:
    """Return the output of the encoder's first layer without each entry and, last, for all; shape [nnz + 1, width].

    Without entry j, both the sum and the norm that divides it lack a term: ``(s - x_j W_j) / sqrt(||x||^2 - x_j^2)``. Both
    are computed as sums over the entries before and after j, because a subtraction would lose digits.
    """
    values = history.entry_values().double()
    terms = values.to(encoder.input.weight.dtype).unsqueeze(1) * encoder.input.weight[history.columns()]
    squares = _sums_of_others((values * values).unsqueeze(1))
    # For an empty history the sum is 0, and so is the quotient.
    lengths = squares.clamp_min(torch.finfo(squares.dtype).tiny).sqrt()
    sums = (_sums_of_others(terms) / lengths).to(terms.dtype) + encoder.input.bias
    if history.profiles is None:
        return sums
    items = torch.full((history.nnz + 1,), history.nnz - 1, device=sums.device)
    items[-1] = history.nnz
    return sums + encoder.of_profiles(history.profiles, items)


def _sums_of_others(terms: Tensor) -> Tensor:
    """Return for each row the sum of the other rows and, last, the sum of all; shape [rows + 1, width]."""
    nothing = terms.new_zeros(1, terms.shape[1])
    before = torch.cat((nothing, terms.cumsum(0)))  # row j: the sum of rows 0 to j - 1
    after = torch.cat((terms.flip(0).cumsum(0).flip(0)[1:], nothing, nothing))  # row j: of rows j + 1 to the last
    return before + after


def _gradients(model: Any, history: Histories, items: Tensor) -> Tensor:
    """Return ``x_j`` times the derivative of the scores with respect to ``x_j``, shape [nnz, items]."""
    weight = model.encoder.input.weight.detach()
    values = history.entry_values().to(weight.dtype)
    length = values.double().norm().to(weight.dtype)
    parts = (values / length).unsqueeze(1) * weight[history.columns()]
    mean = parts.sum(0)
    with torch.enable_grad():
        fixed = model.encoder.input.bias
        if history.profiles is not None:
            fixed = fixed + model.encoder.of_profiles(history.profiles, history.lengths())[0]
        sums = (mean + fixed.detach()).repeat(len(items), 1).requires_grad_()
        logits = model.decoder.logits_of(model.code(model.encoder.features(sums)), padding.columns(items))
        own = logits.diagonal().sum()
        slopes: Tensor = torch.autograd.grad(own, sums)[0]
    # The derivative of x W / ||x|| has two parts, because x_j is also in the norm.
    changes: Tensor = parts - (values / length).square().unsqueeze(1) * mean
    return changes @ slopes.t()


def ranks(
    model: HistoryRecommender, history: Histories, removed: Tensor, items: Tensor, barred: Tensor | None = None
) -> Tensor:
    """Rank items, from 1, for copies of a history that lack some entries. Items of the whole history are not ranked.

    A copy that lacks all entries has the ranking of an empty history: by the profile, or else by popularity.

    Args:
        model: in evaluation mode.
        history: a single history, on the model's device.
        removed: which entries each copy lacks, bool, shape [copies, nnz].
        items: internal ids of items that are not in the history, shape [items].
        barred: which items are not ranked either, bool, shape [n_items], on the model's device; None for none.

    Returns:
        One more than the number of items that score higher, int64, shape [copies, items].
    """
    parts = []
    with torch.no_grad():
        for part in _in_parts(model, removed):
            scores = model.ranking_scores(history.without(part))
            scores[:, history.indices.long()] = -torch.inf
            if barred is not None:
                scores[:, barred] = -torch.inf
            parts.append(torch.stack([(scores > scores[:, [item]]).sum(1) + 1 for item in items.tolist()], dim=1))
    return torch.cat(parts)


def counterfactual(
    model: HistoryRecommender,
    history: Histories,
    item: int,
    k: int,
    most: int = REMOVALS,
    barred: Tensor | None = None,
) -> Tensor | None:
    """Look for a small set of entries without which an item is not among the first k recommendations.

    The search is greedy: it removes the entry without which the item scores lowest against the k-th best of its rivals, again
    and again, until the item is out of the first k. Then it puts back every entry that need not be missing. So each entry of
    the result is needed, and a full ranking has shown that they suffice. A smaller set may exist.

    Args:
        model: in evaluation mode.
        history: a single history, on the model's device.
        item: internal id, not in the history.
        k: length of the ranking.
        most: largest number of entries that may be removed.
        barred: see :func:`ranks`; without ``item``.

    Returns:
        Positions in the history, int64, ascending; None if none was found.
    """
    removed = torch.zeros(1, len(history.indices), dtype=torch.bool, device=history.indices.device)
    wanted = torch.tensor([item], device=removed.device)
    with torch.no_grad():
        (scores,) = score_copies(model, history, removed)
        scores[0, history.indices.long()] = -torch.inf
        scores[0, item] = -torch.inf
        if barred is not None:
            scores[0, barred] = -torch.inf
        rivals = scores[0].topk(min(k + _RIVALS, int(scores.isfinite().sum()))).indices
        if len(rivals) < k:
            return None
        while True:
            rest = (~removed[0]).nonzero()[:, 0]
            if not len(rest) or len(removed[0]) - len(rest) >= most:
                return None
            _, left = _scores_without(model, history.without(removed), torch.cat((wanted, rivals)))
            margins = left[:, 0] - left[:, 1:].topk(k).values[:, -1]
            removed[0, rest[margins.argmin()]] = True
            # Without its last entry the history may be ranked by popularity, which the margins do not see.
            if (margins.min() < 0 or len(rest) == 1) and ranks(model, history, removed, wanted, barred)[0, 0] > k:
                break
        while int(removed.sum()) > 1:
            positions = removed[0].nonzero()[:, 0]
            fewer = removed.repeat(len(positions), 1)
            fewer[torch.arange(len(positions)), positions] = False
            suffices = ranks(model, history, fewer, wanted, barred)[:, 0] > k
            if not suffices.any():
                break
            removed = fewer[suffices][:1]
    return removed[0].nonzero()[:, 0]


@dataclass(frozen=True)
class ItemText:
    """The name of an item, and details such as genres."""

    name: str
    details: str = ""


@dataclass(frozen=True)
class Influence:
    """The influence of an item of the history on a recommendation.

    Attributes:
        item_id: the data set's own id; ``name``: the item's name, or the id.
        influence: the recommendation's score minus its score without this item.
        rank_without: rank of the recommendation without this item (by the profile, or else by popularity, if no item is left);
            None if not computed.
    """

    item_id: str
    name: str
    influence: float
    rank_without: int | None = None


@dataclass(frozen=True)
class Alike:
    """An item that is like one without interactions.

    Attributes:
        item_id, name: as of :class:`Influence`.
        weight: its part of that item's score, as a share of the parts of the 20 items of the largest.
    """

    item_id: str
    name: str
    weight: float


@dataclass(frozen=True)
class Explained:
    """A recommendation and its reasons.

    Attributes:
        rank: from 1; ``item_id``, ``name``: as of :class:`Influence`; ``details``: such as genres; ``score``: the model's.
        influences: influences of all items of the history, the most supporting first.
        counterfactual: ids of items without which this is no longer among the first k, in the order of their influence; found
            greedily and checked. None if none was found or looked for.
        alike: for an item without interactions, the items that it is most like by features; empty for others.
    """

    rank: int
    item_id: str
    name: str
    details: str
    score: float
    influences: list[Influence]
    counterfactual: list[str] | None
    alike: list[Alike] = field(default_factory=list)


@dataclass(frozen=True)
class Explanation:
    """The recommendations for one history, explained.

    Attributes:
        user: the id that was given; ``model``, ``dataset``: names; ``method``: one of :data:`METHODS`.
        k: length of the ranking; ``searched``: whether counterfactuals were looked for.
        history: ids of the items that the model knows.
        recommendations: best first; without influences if the history is empty.
        by_profile: whether the recommendations rest on a profile, too. It is taken as given: influences are of items alone. If
            the history is empty, they rest on the profile alone, and else they are the most popular items.
    """

    user: str
    model: str
    dataset: str
    method: str
    k: int
    searched: bool
    history: list[str]
    recommendations: list[Explained]
    by_profile: bool = False


class Explainer:
    """Explains the recommendations of a :class:`~recbole_vae.serving.recommender.Recommender`.

    Args:
        recommender: the model, from a checkpoint.
        texts: names of the items by id; a missing item is called by its id.
    """

    def __init__(self, recommender: Recommender, texts: Mapping[str, ItemText] | None = None) -> None:
        self.recommender, self.texts = recommender, texts or {}

    def explain(
        self,
        user: str,
        history: History,
        k: int = 10,
        *,
        method: str = "exact",
        reasons: int = 3,
        search: bool = True,
        check: Callable[[], object] | None = None,
        barred: Tensor | None = None,
        profile: Profile | None = None,
    ) -> Explanation:
        """Explain the first k recommendations for a history.

        Args:
            user: name of the history's owner in the result.
            history: item ids, or a mapping of them to weights; unknown items are skipped (and counted by the recommender).
            k: number of recommendations.
            method: see :func:`influences`.
            reasons: number of the most supporting items for which to compute the rank without them.
            search: whether to look for counterfactuals.
            check: called before each of them; what it raises ends the work.
            barred: which items are never recommended, bool, shape [n_items], as of
                :meth:`~recbole_vae.serving.recommender.Recommender.selection`. All ranks are among the others.
            profile: of the user, as :meth:`~recbole_vae.serving.recommender.Recommender.profile` and
                :meth:`~recbole_vae.serving.recommender.Recommender.encoded` have them; None if nothing is known.

        Raises:
            ConfigError: see :func:`influences`.
            DataError: see :meth:`~recbole_vae.serving.recommender.Recommender.recommend`.
        """
        recommender, model = self.recommender, self.recommender.model
        selection = replace(recommender.selection(k), barred=barred)
        barred = None if barred is None else barred.to(model.device)
        known = recommender.known(history)
        row, by_profile = Histories.from_lists([known]), bool(profile) and model.user_space is not None
        if by_profile and profile:
            row = replace(row, profiles=Histories.from_profiles([profile]))
        row = row.to(model.device)
        names = [recommender.items[item] for item in row.indices.tolist()]
        (ranking,) = recommender.rank([known], [selection], [profile or {}])
        items = torch.tensor(list(recommender.known(item for item, _ in ranking)), device=model.device)
        found: list[list[Influence]] = [[] for _ in ranking]
        sets: list[list[str] | None] = [None for _ in ranking]
        if names and ranking:
            found = self._reasons(row, names, items, method, reasons, barred)
            if search:
                for place, item in enumerate(items.tolist()):
                    if check is not None:
                        check()
                    positions = counterfactual(model, row, item, k, barred=barred)
                    missing = set() if positions is None else {names[each] for each in positions.tolist()}
                    sets[place] = [each.item_id for each in found[place] if each.item_id in missing] or None
        return Explanation(
            user, type(model).__name__, recommender.dataset, method, k, search, names,
            [
                Explained(
                    rank, item, self.text(item).name, self.text(item).details, score, influence, lost, self._alike(number)
                )
                for rank, ((item, score), number, influence, lost) in enumerate(
                    zip(ranking, items.tolist(), found, sets, strict=True), start=1
                )
            ],
            by_profile and model.scores_by_latent,
        )  # fmt: skip

    def text(self, item: str) -> ItemText:
        """Return the name and details of an item."""
        return self.texts.get(item) or ItemText(item)

    def _alike(self, item: int) -> list[Alike]:
        found = self.recommender.model.alike(item, _ALIKE)
        names = [(self.recommender.items[other], weight) for other, weight in found]
        return [Alike(name, self.text(name).name, weight) for name, weight in names]

    def _reasons(
        self, row: Histories, names: list[str], items: Tensor, method: str, reasons: int, barred: Tensor | None
    ) -> list[list[Influence]]:
        model = self.recommender.model
        table = influences(model, row, items, method).t()
        orders = table.argsort(dim=1, descending=True, stable=True)
        shown = torch.unique(orders[:, :reasons])
        removed = torch.zeros(len(shown), len(names), dtype=torch.bool, device=row.indices.device)
        removed[torch.arange(len(shown)), shown] = True
        places = ranks(model, row, removed, items, barred).tolist() if len(shown) else []
        lower = dict(zip(shown.tolist(), places, strict=True))
        return [
            [
                Influence(
                    names[entry], self.text(names[entry]).name, values[entry],
                    lower[entry][place] if position < reasons else None,
                )
                for position, entry in enumerate(order)
            ]
            for place, (order, values) in enumerate(zip(orders.tolist(), table.tolist(), strict=True))
        ]  # fmt: skip
