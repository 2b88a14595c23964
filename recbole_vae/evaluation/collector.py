"""Collects what the metrics need from the scores of each batch."""

from __future__ import annotations

import copy
from typing import Any

import torch
from recbole.evaluator import Collector
from recbole.evaluator.collector import DataStruct
from torch import Tensor
from torch.nn import functional as F

from recbole_vae.data import padding
from recbole_vae.data.held_out_items import Candidates
from recbole_vae.data.padding import PADDING
from recbole_vae.nn.shortlist import Shortlist


def hits(items: Tensor, positive_u: Tensor, positive_i: Tensor, n_items: int) -> tuple[Tensor, Tensor]:
    """Mark the relevant ones among the items of lists.

    Args:
        items: internal ids, int64, shape [batch, places].
        positive_u: row of each relevant item, int64, shape [positives].
        positive_i: the item, int64, shape [positives].
        n_items: number of items with RecBole's padding.

    Returns:
        Whether the item at each place is relevant, bool, shape [batch, places]; and each row's number of relevant items, int64,
        shape [batch].
    """
    device = items.device
    if not len(positive_u):
        return torch.zeros_like(items, dtype=torch.bool), torch.zeros(len(items), dtype=torch.int64, device=device)
    keys = torch.unique(positive_u.to(device) * n_items + positive_i.to(device))
    wanted = items + n_items * torch.arange(len(items), device=device).unsqueeze(1)
    places = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
    return keys[places] == wanted, torch.bincount(keys // n_items, minlength=len(items))


class _Parts(DataStruct):  # type: ignore[misc]
    """RecBole's ``DataStruct``, but it collects a tensor's parts in a list instead of copying the whole for each part."""

    def update_tensor(self, name: str, value: Tensor) -> None:
        """Append to the tensor of this name."""
        self._data_dict.setdefault(name, []).append(value.detach().clone())


class FastCollector(Collector):  # type: ignore[misc]
    """RecBole's ``Collector`` with one top-k search, and without a table of users by items.

    RecBole's own searches twice, marks relevant items in an integer for each user and item, copies everything with each batch
    and at the end, and fails for metrics that need the items' counts. The results are the same, bit for bit; but with
    ``exact_metrics``, places of a list for which there is no candidate have the padding item, and not some item the user knows.

    Attributes:
        candidates: what the lists may have, if items are held out; to be set before each evaluation. Then the items of each
            kind are collected a second time, as if there were no others: what belongs to them has its name before a colon,
            as in ``cold:rec.topk``, and item ``n`` is the n-th of the kind. ``cold:rec.counted`` tells which users have a
            relevant item of the kind, bool, shape [users].
    """

    register: Any
    candidates: Candidates | None = None

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.data_struct = _Parts()
        self._exact = config["exact_metrics"] is True
        self._apart: dict[str, FastCollector] = {}
        self._others = copy.copy(self.register)
        for name in ("rec.items", "rec.topk"):
            self._others.__dict__.pop(name, None)

    @property
    def list_length(self) -> int | None:
        """Length of the lists, if they are all that the metrics need of the scores; else None."""
        others = ("rec.meanrank", "rec.score", "data.label")
        return None if any(self.register.need(name) for name in others) else int(max(self.topk))

    def eval_batch_collect(
        self, scores_tensor: Tensor | Shortlist, interaction: Any, positive_u: Tensor, positive_i: Tensor
    ) -> None:
        """Collect from a batch; see RecBole's.

        Args:
            scores_tensor: shape [batch, n_items]; or a shortlist, if there is a :attr:`list_length`.
            interaction: the users of the batch.
            positive_u: row of each relevant item, int64, shape [positives].
            positive_i: the item, int64, shape [positives].
        """
        if self.register.need("rec.items") or self.register.need("rec.topk"):
            short = scores_tensor if isinstance(scores_tensor, Shortlist) else None
            scores = scores_tensor.scores if isinstance(scores_tensor, Shortlist) else scores_tensor
            ranked = torch.topk(scores, max(self.topk), dim=-1)
            best = padding.ids(short.columns)[ranked.indices] if short else ranked.indices
            width = padding.ids(short.n_columns) if short else scores.shape[1]
            if self.register.need("rec.items"):
                shown = best.where(ranked.values > -torch.inf, PADDING) if self._exact else best
                self.data_struct.update_tensor("rec.items", shown)
            if self.register.need("rec.topk"):
                found, counts = hits(best, positive_u, positive_i, width)
                self.data_struct.update_tensor("rec.topk", torch.cat((found.long(), counts.unsqueeze(1)), dim=1))
        register, self.register = self.register, self._others
        try:
            super().eval_batch_collect(scores_tensor, interaction, positive_u, positive_i)
        finally:
            self.register = register
        if self.candidates is not None:
            assert isinstance(scores_tensor, Tensor)
            for kind, items in self.candidates.kinds.items():
                self._collect_apart(kind, items, scores_tensor, interaction, positive_u, positive_i)

    def collect_lists(self, items: Tensor, positive_u: Tensor, positive_i: Tensor, n_items: int) -> None:
        """Collect from ranked lists in place of scores, where metrics need nothing else of these.

        Args:
            items: internal ids, int64, shape [users, places]; the padding item after the end of a list.
            positive_u: row of each relevant item, int64, shape [positives].
            positive_i: the item, int64, shape [positives].
            n_items: number of items with RecBole's padding.
        """
        found, counts = hits(items, positive_u, positive_i, n_items)
        self.data_struct.update_tensor("rec.items", items)
        self.data_struct.update_tensor("rec.topk", torch.cat((found.long(), counts.unsqueeze(1)), dim=1))

    def _collect_apart(
        self, kind: str, items: Tensor, scores: Tensor, interaction: Any, positive_u: Tensor, positive_i: Tensor
    ) -> None:
        """Collect from the scores of some items alone; see :attr:`candidates`."""
        if kind not in self._apart:
            self._apart[kind] = FastCollector(self.config)
        # The padding item comes first, as always, and fills lists that are longer than there are items.
        columns = F.pad(items, (1, max(0, max(self.topk) - len(items)))).to(scores.device)
        number = torch.zeros(scores.shape[1], dtype=torch.int64)
        number[items] = padding.ids(torch.arange(len(items)))
        of_user, found = positive_u.cpu(), number[positive_i.cpu()]
        of_user, found = of_user[found > 0], found[found > 0]
        self._apart[kind].eval_batch_collect(scores[:, columns], interaction, of_user, found)
        counted = torch.bincount(of_user, minlength=len(scores)) > 0
        self._apart[kind].data_struct.update_tensor("rec.counted", counted)

    def get_data_struct(self) -> DataStruct:
        """Return what was collected, on the CPU, and forget what belongs to this evaluation only."""
        result = DataStruct()
        for name, value in list(self.data_struct._data_dict.items()):
            if isinstance(value, list):
                result.set(name, torch.cat([part.cpu() for part in value]))
                del self.data_struct[name]
            else:  # a number, or the items' counts
                result.set(name, value)
        for kind, collector in self._apart.items():
            assert self.candidates is not None
            items = self.candidates.kinds[kind].tolist()
            part = collector.get_data_struct()._data_dict
            if "data.num_items" in result:
                part["data.num_items"] = padding.ids(len(items))
            if "data.count_items" in result:
                counts = result.get("data.count_items")
                part["data.count_items"] = {number: counts.get(item, 0) for number, item in enumerate(items, 1)}
            for name, value in part.items():
                result.set(f"{kind}:{name}", value)
        self._apart = {}
        return result
