"""What is known about items, and how a model scores those without interactions by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from recbole_vae.data import padding
from recbole_vae.data.histories import Histories
from recbole_vae.errors import ConfigError

if TYPE_CHECKING:  # at run time where features are used: pandas and SciPy make every import slow
    from scipy.sparse import csr_matrix

    from recbole_vae.data.features import Features
    from recbole_vae.nn.cold import Made, ScoreRegression, Strengths

ALIKE = 20
"""Warm items that a cold one is said to be like, at most, and as which it stands in a history."""


def starting_strengths(features: Features) -> Strengths:
    """Return the strengths of the regression on features before any are chosen: text counts for less than other fields."""
    from recbole_vae.nn.cold import Strengths

    return Strengths(3.0, {name: 0.1 if name.endswith(":text") else 1.0 for name in features.space.fields})


class NewItems:
    """The part of a recommender that scores *cold* items, those without interactions in training, from the scores of others.

    Attributes:
        features: what is known about the items, by ``item_features``; None without. Then cold items are scored by a
            :class:`~recbole_vae.nn.cold.ScoreRegression`, and have no other score.
        feature_strengths: how much the features count in it; None until they are chosen, after training.
        n_new: number of items that :meth:`add_items` added; they are the last ones of scores.
    """

    device: Any
    histories: Histories
    features: Features | None
    feature_strengths: Strengths | None
    n_new: int
    regression: ScoreRegression | None
    begins_with_linear_layer: bool
    if TYPE_CHECKING:

        @property
        def n_real_items(self) -> int:
            """See HistoryRecommender."""

    def _begin_features(self, dataset: Any, entries: Sequence[str]) -> None:
        self.features = self.feature_strengths = None
        self._cold: Made | None = None
        self._forget_new()
        self.regression = None
        if entries:
            from recbole_vae.data.features import features_of

            self.begins_with_linear_layer = False  # explanations would miss what the regression adds
            self._take_features(features_of(dataset, entries))

    def _take_features(self, features: Features | None) -> None:
        """Take what is known about the items, and score cold ones by it with the strengths so far."""
        self.features = features
        if features is not None:
            self.regress(self.feature_strengths)

    def regress(self, strengths: Strengths | None) -> None:
        """Score cold items by a regression of these strengths; None for those before any are chosen."""
        from recbole_vae.nn.cold import ScoreRegression

        assert self.features is not None
        self.feature_strengths, strengths = strengths, strengths or starting_strengths(self.features)
        warm = self.histories.counts(self.n_real_items).cpu().numpy() > 0
        self._used, self._is_cold = strengths, torch.from_numpy(~warm).to(self.device)
        table = self.weighted(self.features.table)
        self.regression = ScoreRegression(table, warm, strengths.l2, strengths.spread)
        cold = (~warm).nonzero()[0]
        self._cold = self.regression.of(table[cold], strengths.reach).to(self.device) if len(cold) else None
        order = torch.arange(self.n_real_items)
        order[cold] = self.n_real_items + torch.arange(len(cold))
        self._order = order.to(self.device)
        self._forget_new()

    def _forget_new(self) -> None:
        self._new: Made | None = None
        self.n_new, self._bonus = 0, 0.0
        self._stand_ins: dict[int, list[tuple[int, float]]] = {}

    @property
    def scores_cold_items(self) -> bool:
        """Whether the data set has items without interactions, which are scored from their features."""
        return self._cold is not None

    def with_cold(self, logits: Tensor) -> Tensor:
        """Replace the logits of cold items by those that their features make; shape [batch, n_real_items], as before.

        Logits of cold items have no effect on the result. Only operations that :mod:`torch.fx` traces are called.
        """
        if self._cold is None:
            return logits
        made = self._cold(logits)
        return torch.cat([logits, made], 1).index_select(1, self._order)

    def with_new(self, logits: Tensor, bonus: float | None = None) -> Tensor:
        """Append the logits of the items that :meth:`add_items` added, shape [batch, n_real_items + n_new].

        Args:
            logits: of :meth:`with_cold`.
            bonus: in place of that of :meth:`add_items`.
        """
        if self._new is None:
            return logits
        made = self._new(logits)
        bonus = self._bonus if bonus is None else bonus
        if bonus:
            made = made + bonus * logits.std(1, keepdim=True)
        return torch.cat([logits, made], 1)

    def add_items(self, features: csr_matrix, bonus: float = 0.0) -> None:
        """Score further items, which nobody has, from their features. They have the ids after those of all others.

        Args:
            features: of the items, by the model's ``features.space``, shape [items, n_features]. They replace those of an
                earlier call.
            bonus: added to their scores, in standard deviations of the user's scores.

        Raises:
            ConfigError: the model has no ``item_features``.
        """
        if self.features is None or self.regression is None:
            raise ConfigError(
                f"new items are scored from their features, and this {type(self).__name__} was trained without: train it with "
                "item_features, such as --item_features=genre,release_year."
            )
        made = self.regression.of(self.weighted(features)).to(self.device)  # which may fail for lack of memory
        self._forget_new()
        self._new, self.n_new, self._bonus = made, features.shape[0], bonus

    def weighted(self, features: csr_matrix) -> csr_matrix:
        """Return features as they count: an item whose fields all count for nothing has none."""
        assert self.features is not None
        return self.features.space.weighted(features, self._used.fields)

    def alike(self, item: int, k: int) -> list[tuple[int, float]]:
        """Return the warm items of which a cold or new item's scores are made: those of the largest positive weight.

        Args:
            item: internal id of an item without interactions.
            k: how many at most, up to :data:`ALIKE`.

        Returns:
            Internal ids, and shares of the sum of the :data:`ALIKE` largest weights, in descending order; empty for an item that
            is not cold, and for one of which nothing is known.
        """
        column = padding.columns(item)
        place = column - self.n_real_items
        if self.regression is None or (place < 0 and not self._is_cold[column]):
            return []
        made, place = (self._cold, int(self._order[column]) - self.n_real_items) if place < 0 else (self._new, place)
        if made is None:
            return []
        of = made.weights(place)
        there = of[~self._is_cold]
        if there.max() - there.min() <= 1e-6 * there.max():  # nothing is known about it: it has the mean score
            return []
        weights, items = of.clamp_min(0).topk(min(ALIKE, self.n_real_items))
        pairs = zip(items.tolist(), (weights / weights.sum()).tolist(), strict=True)
        return [(padding.ids(item), share) for item, share in pairs if share > 0][:k]

    def stands_for(self, item: int) -> list[tuple[int, float]]:
        """Return the warm items, and their weights, as which a cold or new one stands in a history; see :meth:`alike`."""
        if item not in self._stand_ins:
            self._stand_ins[item] = self.alike(item, ALIKE)
        return self._stand_ins[item]

    def is_cold(self, item: int) -> bool:
        """Return whether an item, by its internal id, has no interactions, and is scored from its features."""
        column = padding.columns(item)
        return self.regression is not None and (column >= self.n_real_items or bool(self._is_cold[column]))

    def in_warm_items(self, histories: Histories) -> Histories:
        """Return histories in which each cold or new item stands as the items that it is like, in proportion; others stay."""
        if self.regression is None:
            return histories
        cold = torch.cat([self._is_cold, torch.ones_like(self._is_cold[:1]).expand(self.n_new)])
        there = cold[histories.columns().long()]
        if not there.any():
            return histories
        rows, items, values = (
            each.tolist() for each in (histories.rows(), histories.indices, histories.entry_values())
        )
        found: list[dict[int, float]] = [{} for _ in range(len(histories))]
        for row, item, value, is_cold in zip(rows, items, values, there.tolist(), strict=True):
            for other, weight in self.stands_for(item) if is_cold else [(item, 1.0)]:
                found[row][other] = found[row].get(other, 0.0) + weight * value
        stood = Histories.from_lists(found).to(self.device)
        profiles = histories.profiles
        if profiles is not None:  # which count as one more item of the history as it was
            profiles = profiles.scaled(((stood.lengths() + 1) / (histories.lengths() + 1)).sqrt())
        return replace(stood, profiles=profiles)

    def _features_state(self) -> dict[str, Any]:
        """Return what a checkpoint holds of these; empty without features."""
        if self.features is None:
            return {}
        chosen = self.feature_strengths
        strengths = None if chosen is None else {**vars(chosen), "fields": dict(chosen.fields)}
        return {"features": self.features.state(), "strengths": strengths}

    def _restore_features(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`_features_state` returned."""
        if "features" in state:
            from recbole_vae.data.features import Features
            from recbole_vae.nn.cold import Strengths

            self.feature_strengths = Strengths(**state["strengths"]) if state["strengths"] else None
            self._take_features(Features.from_state(state["features"]))
