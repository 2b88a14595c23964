"""RecBole's data set, with a look at the data before anything is built on them."""

from __future__ import annotations

from typing import Any

from recbole.data.dataset import Dataset

from recbole_vae import checkpoint
from recbole_vae.data.histories import Histories
from recbole_vae.errors import DataError


class HistoryDataset(Dataset):  # type: ignore[misc]
    """RecBole's ``Dataset``; refuses data that no autoencoder can learn from, by name, before it is split."""

    def _load_inter_feat(self, token: str, dataset_path: str) -> None:
        super()._load_inter_feat(token, dataset_path)
        loaded = [] if self.inter_feat is None else list(map(str, self.inter_feat.columns))
        for key in ("USER_ID_FIELD", "ITEM_ID_FIELD"):
            field = self.config[key]
            if field not in loaded:
                raise DataError(
                    f"{key}: the .inter file of data set '{self.dataset_name}' in {dataset_path} has no field '{field}', or it "
                    f"is not loaded; loaded are: {', '.join(loaded) or 'none'}. Set {key} and load_col: {{inter: [...]}}."
                )

    def build(self) -> list[Any]:
        """Check and split the data.

        Raises:
            DataError: there are fewer than two users or items, fewer items than ``topk``, or nothing to train on.
            CheckpointError: the data are not those of the checkpoint that is to be loaded or gone on from.
        """
        # RecBole counts its padding as one.
        for kind, number in (("user", self.user_num - 1), ("item", self.item_num - 1)):
            if number < 2:
                raise DataError(
                    f"data set '{self.dataset_name}' has {number} {kind}{'' if number == 1 else 's'} after filtering; at least 2 "
                    f"are needed. Look at the filters: val_interval, user_inter_num_interval, item_inter_num_interval."
                )
        topk = max(self.config["topk"])
        if topk > self.item_num - 1:
            raise DataError(
                f"topk: {topk} is more than the {self.item_num - 1} items of data set '{self.dataset_name}' after filtering."
            )
        parts: list[Any] = super().build()
        if not len(parts[0]):
            raise DataError(
                f"data set '{self.dataset_name}': the split leaves no interaction for training; see eval_args: {{split: ...}}."
            )
        path = self.config["resume"] or self.config["loaded_from"]
        if path:
            state = checkpoint.load(path)
            checkpoint.check_vocabulary(state, path, self)
            checkpoint.check_histories(state, path, Histories.from_dataset(parts[0], self.config["value_field"]))
        return parts
