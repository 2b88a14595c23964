"""The strengths by which items without interactions are scored, chosen as if some of the others had none."""

from __future__ import annotations

from dataclasses import replace
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

_SHARE = 0.2
"""Share of the items that stand for new ones."""
_MOST_USERS = 2_000
"""Users by whose items the strengths are judged, at most."""
_MOST_ITEMS = 4_000
"""Other items from whose scores those of these are made, at most: all their pairs are in memory."""
_K = 20
_L2 = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
_WEIGHTS = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0)
_ROUNDS = 2

Table = NDArray[Any]


@torch.no_grad()
def choose_strengths(model: HistoryRecommender) -> tuple[Strengths, float, int]:
    """Choose the ridge and the weight of each field by how well they rank items that stand for new ones.

    A fifth of the items is taken out of the histories of up to 2 000 users. The model scores what is left of these, and the
    regression makes the scores of the items taken out from those of the others. NDCG@20 judges their ranking, among
    themselves. Each strength in turn goes up or down as long as that gets better. No validation part is needed. The model was
    trained with these items, so the value is higher than for items that are new.

    Args:
        model: a trained model with features, in evaluation mode.

    Returns:
        The strengths, the NDCG@20 of their ranking, and the number of users. Without any user to judge by: those that training
        began with, 0 and 0.
    """
    features = model.features
    assert features is not None
    best = starting_strengths(features)
    sample = _Sample(model)
    if not sample.users:
        return best, 0.0, 0
    score = sample.measured(best)
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
                    found = sample.measured(other)
                    if found <= score:
                        break
                    best, score = other, found
        if best == before:
            break
    return best, score, sample.users


class _Sample:
    """Users, their items that stand for new ones, and the scores of the other items.

    Attributes:
        users: how many users have such items, and others.
    """

    def __init__(self, model: HistoryRecommender) -> None:
        assert model.features is not None
        rng = np.random.default_rng(0)
        warm = np.flatnonzero(model.histories.counts(model.n_real_items).cpu().numpy())
        taken = rng.permutation(warm)[: int(_SHARE * len(warm))]
        others = np.setdiff1d(warm, taken)
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
        chunk, ids = rows_per_chunk(model.n_items), torch.from_numpy(padding.ids(others)).to(model.device)
        scores = torch.cat([
            model.score(left.slice(start, min(start + chunk, self.users)))[:, ids].double()
            for start in range(0, self.users, chunk)
        ]).cpu()  # fmt: skip
        self._scores = (scores - scores.mean(1, keepdim=True)).numpy()
        self._products = {
            entry: _centred(model.features.table[others][:, columns], model.features.table[taken][:, columns])
            for entry, columns in model.features.space.fields.items()
        }

    def measured(self, strengths: Strengths) -> float:
        """Return the mean NDCG@20 of the items that stand for new ones."""
        within, to_taken = (
            np.sum([factor * self._products[entry][place] for entry, factor in strengths.fields.items()], axis=0)
            for place in (0, 1)
        )
        solved = solve(within + strengths.l2 * np.eye(len(within)), to_taken, assume_a="pos")
        best = np.argsort(-(self._scores @ solved), 1, kind="stable")[:, :_K]
        return float(ndcg(np.take_along_axis(self._relevant, best, 1), self._relevant.sum(1)).mean())


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
