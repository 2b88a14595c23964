"""The dataloader of training: batches of users, shuffled."""

from __future__ import annotations

from typing import Any

import torch
from recbole.data.dataloader.abstract_dataloader import AbstractDataLoader
from recbole.data.interaction import Interaction
from torch.utils.data import DataLoader


class UserBatchDataLoader(AbstractDataLoader):  # type: ignore[misc]
    """Gives each user who has a training history once per epoch, in batches of ``train_batch_size``.

    RecBole's own ``UserDataLoader`` also gives the padding user and users with an empty history. If several processes train,
    this one gives each of them the same whole batches, of which the model takes its share (see
    :meth:`~recbole_vae.model.base.HistoryRecommender.batch_terms`). So the number of processes changes nothing.

    Each item is an ``Interaction`` with the user ids, int64, shape [batch].
    """

    def __init__(self, config: Any, dataset: Any, sampler: Any, shuffle: bool = True) -> None:
        self.config = config
        self._dataset = dataset
        self._sampler = sampler
        self.shuffle = shuffle
        self.is_sequential = False
        self.uid_field = dataset.uid_field
        self.users = torch.bincount(dataset.inter_feat[dataset.uid_field]).nonzero().squeeze(1)
        self.sample_size = len(self.users)
        self.generator = torch.Generator()
        self.generator.manual_seed(config["seed"])
        self._init_batch_size_and_step()
        # Not AbstractDataLoader's __init__, which divides the users among the processes.
        DataLoader.__init__(
            self,
            dataset=range(self.sample_size),  # type: ignore[arg-type]
            batch_size=self.step,
            shuffle=shuffle,
            collate_fn=self.collate_fn,
            num_workers=config["worker"],
            generator=self.generator,
        )

    def _init_batch_size_and_step(self) -> None:
        self.step = self.config["train_batch_size"]
        self.set_batch_size(self.step)

    def collate_fn(self, index: list[int]) -> Interaction:
        """Make the batch of the users at the given positions."""
        return Interaction({self.uid_field: self.users[index]})
