"""The dataloader of evaluations that rank all items: users with their seen and relevant items, as sparse rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.data.dataloader.abstract_dataloader import AbstractDataLoader
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_vae.data import padding
from recbole_vae.data.held_out_items import Candidates
from recbole_vae.data.histories import Histories
from recbole_vae.errors import DataError


def check_topk(dataset: Any) -> None:
    """Raise a DataError if lists are to be longer than there are items."""
    topk, items = max(dataset.config["topk"]), padding.real(dataset.item_num)
    if topk > items:
        raise DataError(
            f"topk: {topk} is more than the {items} items of data set '{dataset.dataset_name}' after filtering."
        )


@dataclass
class SeenItems:
    """Replaces RecBole's ``Sampler``, which builds a Python set for each user and phase, where nothing is sampled.

    Attributes:
        phases: ``train``, ``valid``, ``test``.
        datasets: the parts of the split, in that order.
        phase: the phase that is evaluated; items of earlier phases are seen.
    """

    phases: list[str]
    datasets: list[Any]
    phase: str


class FullSortDataLoader(FullSortEvalDataLoader):  # type: ignore[misc]
    """RecBole's ``FullSortEvalDataLoader`` with sparse rows, and without Python loops over interactions.

    Each batch has RecBole's form: the users; row and item of each seen item, as a pair; row of each relevant item; and the item.

    Attributes:
        candidates: what lists may have, if items are held out; else None.
        fold_in: if users are held out, histories to score them by, rows by internal id; else None.
        seen: items that are not to be recommended, rows by internal id.
        relevant: items that are to be found, rows by internal id.
        uid_list: the users, internal ids, in the order of evaluation.
    """

    def __init__(self, config: Any, dataset: Any, sampler: Any, shuffle: bool = False) -> None:
        self.uid_field, self.iid_field = dataset.uid_field, dataset.iid_field
        self.is_sequential = False
        dataset.sort(by=self.uid_field, ascending=True)
        n_users, n_items = dataset.user_num, dataset.item_num

        def histories(parts: Iterable[Any]) -> Histories:
            users, items = (
                torch.cat([torch.empty(0, dtype=torch.int64), *(part.inter_feat[field] for part in parts)])
                for field in (self.uid_field, self.iid_field)
            )
            return Histories.from_interactions(users, items, None, n_users)

        self.relevant = histories([dataset])
        self.candidates: Candidates | None = getattr(dataset, "candidates", None)
        self.fold_in: Histories | None = getattr(dataset, "fold_in", None)
        if self.fold_in is not None:
            self.seen = Histories(self.fold_in.indptr, self.fold_in.indices)
        else:
            # A RepeatableSampler has no parts: nothing counts as seen, because items may be recommended again.
            parts = getattr(sampler, "datasets", [])
            seen = histories(parts[: sampler.phases.index(sampler.phase)] if parts else [])
            keys, found = (each.rows() * n_items + each.indices for each in (seen, self.relevant))
            places = torch.searchsorted(keys, found).clamp_(max=len(keys) - 1)
            unseen = torch.ones(len(keys), dtype=torch.bool)
            if len(keys):
                unseen[places[keys[places] == found]] = False
            self.seen = seen.where(unseen)
        self.uid_list = self.relevant.lengths().nonzero().squeeze(1)
        self.user_df = dataset.join(Interaction({self.uid_field: self.uid_list}))
        self.sample_size = len(self.uid_list)
        AbstractDataLoader.__init__(self, config, dataset, sampler, shuffle=False)

    def collate_fn(self, index: list[int]) -> tuple[Any, tuple[Tensor, Tensor], Tensor, Tensor]:
        """Make the batch of the users at the given positions."""
        users = self.uid_list[index]
        seen, relevant = self.seen[users], self.relevant[users]
        return self.user_df[np.array(index)], (seen.rows(), seen.indices), relevant.rows(), relevant.indices

    # What RecBole's dataloader has and its case studies use.

    @property
    def uid2history_item(self) -> _Rows:
        """The seen items of users."""
        return _Rows(self.seen)

    @property
    def uid2positive_item(self) -> _Rows:
        """The relevant items of users."""
        return _Rows(self.relevant)

    @property
    def uid2items_num(self) -> Any:
        """The number of relevant items of each user."""
        return self.relevant.lengths().numpy()


class _Rows:
    """Rows of histories, as a list of tensors."""

    def __init__(self, histories: Histories) -> None:
        self.histories = histories

    def __getitem__(self, users: Any) -> list[Tensor] | Tensor:
        chosen = torch.as_tensor(users)
        rows = self.histories[chosen.reshape(-1)]
        parts = list(rows.indices.split(rows.lengths().tolist()))
        return parts if chosen.ndim else parts[0]
