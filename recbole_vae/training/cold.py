"""The strengths by which items without interactions are scored, chosen as if some of the others had none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import solve
from scipy.sparse import csr_matrix

from recbole_vae.data import padding
from recbole_vae.model.base import HistoryRecommender
from recbole_vae.model.new_items import starting_strengths
from recbole_vae.nn.chunks import rows_per_chunk
from recbole_vae.nn.cold import Strengths

_FOLDS = 5
"""Parts of the items that stand for new ones in turn."""
_MOST_USERS = 2_000
"""Users by whose items the strengths are judged, at most."""
_MOST_ITEMS, _MOST_TAKEN = 2_000, 1_000
"""Items from whose scores others are made, and these others, at most; the time of a step is cubic in the first."""
_K = 20
_L2 = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
_WEIGHTS = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0)
_ROUNDS = 2
REACHES = (1.0, 0.7, 0.5, 0.25)
"""Values of ``Strengths.reach`` to choose from, in descending order."""

Table = NDArray[Any]


@dataclass(frozen=True)
class Judged:
    """How well items that stand for new ones are ranked.

    Attributes:
        users: how many judged; 0 if nobody could.
        score: mean NDCG@20 of the folds.
        chance: the same of a random order, on average.
        helps: whether the score is above chance by more than two standard errors over the folds.
    """

    users: int = 0
    score: float = 0.0
    chance: float = 0.0
    helps: bool = False


@torch.no_grad()
def choose_strengths(model: HistoryRecommender) -> tuple[Strengths, Judged]:
    """Choose the ridge and the weight of each field by how well they rank items that stand for new ones.

    A fifth of the items is taken out of the histories of up to 2 000 users. The model scores what is left of these, and the
    regression makes the scores of the items taken out from those of the others. NDCG@20 judges their ranking, among
    themselves. Each fifth has its turn. Each strength goes up or down as long as that makes the mean of the five better, by more
    than its standard error: users share the items, so what fits a fifth need not fit others. Then the spread is chosen so that
    the scores that are made vary as much between items as the model's own scores of these. Strengths that rank no better than
    chance get no spread. No validation part is needed. The model was trained with these items, so the value is higher than for
    items that are new.

    Args:
        model: a trained model with features, in evaluation mode.

    Returns:
        The strengths, and how well they rank. Without any user to judge by: the strengths that training began with.
    """
    assert model.features is not None
    best = starting_strengths(model.features)
    samples = [sample for sample in map(_Sample, repeat(model), range(_FOLDS)) if sample.users]
    if not samples:
        return best, Judged()
    scores = _measured(samples, best)
    for _ in range(_ROUNDS):
        before = best
        for name in (None, *best.fields):
            values, now = (_L2, best.l2) if name is None else (_WEIGHTS, best.fields[name])
            start = values.index(now)
            for ladder in (values[start + 1 :], values[:start][::-1]):
                for value in ladder:
                    other = (
                        replace(best, l2=value) if name is None else replace(best, fields={**best.fields, name: value})
                    )
                    found = _measured(samples, other)
                    if not _is_above(found, scores):
                        break
                    best, scores = other, found
        if best == before:
            break
    chance = np.array([sample.chance() for sample in samples])
    judged = Judged(
        max(sample.users for sample in samples),
        float(scores.mean()),
        float(chance.mean()),
        _is_above(scores, chance, 2),
    )
    if not judged.helps:  # scores that say nothing must not stand out
        return best, judged
    variances = np.array([sample.variances(best) for sample in samples]).mean(0)
    spread = float((variances[0] / variances[1]) ** 0.5) if variances.all() else 1.0
    return replace(best, spread=max(1.0, spread)), judged


def _is_above(scores: Table, others: Table, errors: float = 1) -> bool:
    """Return whether scores of the folds are above others by more than so many standard errors of the difference."""
    gain = scores - others
    error = gain.std(ddof=1) / len(gain) ** 0.5 if len(gain) > 1 else 0.0
    return bool(gain.mean() > errors * error)


def _measured(samples: Sequence[_Sample], strengths: Strengths) -> Table:
    return np.array([sample.measured(strengths) for sample in samples])


class _Sample:
    """Users, their items of a fold, which stand for new ones, and the scores of the other items.

    Attributes:
        users: how many users have such items, and others.
    """

    def __init__(self, model: HistoryRecommender, fold: int) -> None:
        assert model.features is not None
        rng = np.random.default_rng(0)
        warm = np.flatnonzero(model.histories.counts(model.n_real_items).cpu().numpy())
        taken = np.array_split(rng.permutation(warm), _FOLDS)[fold]
        others, taken = np.setdiff1d(warm, taken), taken[:_MOST_TAKEN]
        if len(others) > _MOST_ITEMS:
            others = np.sort(rng.permutation(others)[:_MOST_ITEMS])
        is_taken = torch.zeros(model.n_real_items, dtype=torch.bool, device=model.device)
        is_taken[torch.from_numpy(taken)] = True
        lengths = model.histories.lengths()
        users = lengths.nonzero()[:, 0]
        if len(users) > _MOST_USERS:
            users = users[torch.from_numpy(np.sort(rng.permutation(len(users))[:_MOST_USERS])).to(users.device)]
        whole = model.histories[users]
        of_taken = is_taken[whole.columns().long()]
        left, wanted = whole.where(~of_taken), whole.where(of_taken)
        both = ((left.lengths() > 0) & (wanted.lengths() > 0)).nonzero()[:, 0]
        self.users = len(both)
        if not self.users:
            return
        left, wanted = left[both], wanted[both]
        self._relevant = wanted.to_scipy(model.n_real_items).toarray()[:, taken] > 0
        looked_at = np.concatenate([others, taken])
        chunk, ids = rows_per_chunk(model.n_items), torch.from_numpy(padding.ids(looked_at)).to(model.device)
        scores = torch.cat([
            model.score(left.slice(start, min(start + chunk, self.users)))[:, ids].double()
            for start in range(0, self.users, chunk)
        ]).cpu()  # fmt: skip
        known, unknown = scores.numpy()[:, : len(others)], scores.numpy()[:, len(others) :]
        self._scores = known - known.mean(1, keepdims=True)
        self._variance = unknown.var(1).mean()
        self._products = {
            entry: _centred(model.features.table[others][:, columns], model.features.table[taken][:, columns])
            for entry, columns in model.features.space.fields.items()
        }

    def measured(self, strengths: Strengths) -> float:
        """Return the mean NDCG@20 of the items that stand for new ones."""
        made = self._made(strengths)
        best = np.argpartition(-made, min(_K, made.shape[1]) - 1, axis=1)[:, :_K]
        best = np.take_along_axis(best, np.argsort(-np.take_along_axis(made, best, 1), 1, kind="stable"), 1)
        return float(ndcg(np.take_along_axis(self._relevant, best, 1), self._relevant.sum(1)).mean())

    def chance(self) -> float:
        """Return the mean NDCG@20 of a random order of these items: its expectation."""
        n_items, relevant = self._relevant.shape[1], self._relevant.sum(1)
        gains = np.cumsum(1 / np.log2(np.arange(2, min(_K, n_items) + 2)))
        return float((relevant / n_items * gains[-1] / gains[np.minimum(relevant, len(gains)) - 1]).mean())

    def variances(self, strengths: Strengths) -> tuple[float, float]:
        """Return the mean over users of the variance over these items, of the model's scores and of those that are made."""
        return float(self._variance), float(self._made(strengths).var(1).mean())

    def _made(self, strengths: Strengths) -> Table:
        within, to_taken = (
            np.sum([factor * self._products[entry][place] for entry, factor in strengths.fields.items()], axis=0)
            for place in (0, 1)
        )
        solved = solve(within + strengths.l2 * np.eye(len(within)), to_taken, assume_a="pos")
        made: Table = self._scores @ solved
        return made


def _centred(others: csr_matrix, taken: csr_matrix) -> tuple[Table, Table]:
    """Return the inner products of items with the others, less the mean features of these: of the others, and of those taken."""
    within, across = (others @ others.T).toarray(), (others @ taken.T).toarray()
    mean, whole = within.mean(1, keepdims=True), within.mean()
    return within - mean - mean.T + whole, across - mean - across.mean(0) + whole


def ndcg(found: Table, relevant: Table) -> Table:
    """Return the NDCG of lists, float64, shape [users].

    Args:
        found: whether the item at each place is relevant, bool, shape [users, k].
        relevant: number of relevant items of each user, > 0, shape [users].
    """
    gains = 1 / np.log2(np.arange(2, found.shape[1] + 2))
    ideal = np.cumsum(gains)[np.minimum(relevant, found.shape[1]) - 1]
    result: Table = (found * gains).sum(1) / ideal
    return result
