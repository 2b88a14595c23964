"""RecBole's data set, with checks of the data before anything is built on them."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from recbole.data.dataset import Dataset

from recbole_vae.data import padding
from recbole_vae.data.evaluation import check_topk
from recbole_vae.data.histories import Histories
from recbole_vae.errors import DataError
from recbole_vae.storage import checkpoint, recbole_checkpoint


class HistoryDataset(Dataset):  # type: ignore[misc]
    """RecBole's ``Dataset``, with errors that name file and line. It refuses data that no autoencoder can learn from.

    Attributes:
        n_training_users: number of training users if others are held out, else None.
        split_hash: SHA-256 of the split if users or items are held out, else None.
    """

    inter_feat: Any
    n_training_users: int | None = None
    split_hash: str | None = None

    def _download(self) -> None:
        try:
            super()._download()
        except OSError as error:  # URLError is one
            with contextlib.suppress(OSError):
                Path(self.dataset_path).rmdir()
            raise DataError(
                f"dataset: there is no folder {self.dataset_path}, and '{self.dataset_name}' could not be downloaded: {error}. "
                f"Set data_path to the folder that holds {self.dataset_name}/{self.dataset_name}.inter."
            ) from None

    def _get_download_url(self, url_file: str, allow_none: bool = False) -> Any:
        try:
            return super()._get_download_url(url_file, allow_none)
        except ValueError:
            file = Path(self.dataset_path) / f"{self.dataset_name}.inter"
            raise DataError(
                f"dataset: there is no folder {self.dataset_path}, and RecBole knows no data set '{self.dataset_name}' to "
                f"download. Put the interactions into {file}, or set data_path to the folder that holds "
                f"{self.dataset_name}/{self.dataset_name}.inter."
            ) from None

    def _load_inter_feat(self, token: str, dataset_path: str) -> None:
        where = f"data set '{self.dataset_name}' in {dataset_path}"
        super()._load_inter_feat(token, dataset_path)
        loaded = [] if self.inter_feat is None else list(map(str, self.inter_feat.columns))
        needed = {"USER_ID_FIELD": self.uid_field, "ITEM_ID_FIELD": self.iid_field}
        for key, field in needed.items():
            if field not in loaded:
                raise DataError(
                    f"{key}: {where} has no field '{field}' for the interactions, or it is not loaded; loaded are: "
                    f"{', '.join(loaded) or 'none'}. Set {key}, and load_col: {{inter: [...]}}."
                )
        if not len(self.inter_feat):
            raise DataError(f"{where}: its file has no interactions, only a first line.")

    def _data_filtering(self) -> None:
        try:
            super()._data_filtering()
        except ValueError as error:
            if "feat is empty" not in str(error):
                raise
            names = ("val_interval", "user_inter_num_interval", "item_inter_num_interval")
            filters = ", ".join(f"{name}: {self.config[name]}" for name in names if self.config[name])
            raise DataError(
                f"data set '{self.dataset_name}': no interaction is left after filtering ({filters})."
            ) from None

    def _fill_nan(self) -> None:
        # RecBole replaces missing values by the mean; check_value_field needs to know of them.
        self.missing_values = {name: int(number) for name, number in self.inter_feat.isna().sum().items() if number}
        super()._fill_nan()

    def _parts(self) -> list[Any]:
        """Return the parts for training, validation and test."""
        return list(super().build())

    def build(self) -> list[Any]:
        """Check and split the data.

        Raises:
            DataError: there are fewer than two users or items, fewer items than ``topk``, or nothing to train on.
            CheckpointError: the data are not those of the checkpoint that is to be loaded or resumed.
        """
        users, items = padding.real(self.user_num), padding.real(self.item_num)
        for kind, number in (("user", users), ("item", items)):
            if number < 2:
                raise DataError(
                    f"data set '{self.dataset_name}' has {number} {kind}{'' if number == 1 else 's'} after filtering; at least 2 "
                    f"are needed. Check the filters: val_interval, user_inter_num_interval, item_inter_num_interval."
                )
        check_topk(self)
        parts = self._parts()
        if not len(parts[0]):
            raise DataError(
                f"data set '{self.dataset_name}': the split leaves no interaction for training; see eval_args: {{split: ...}}."
            )
        path = self.config["resume"] or self.config["loaded_from"]
        if path and recbole_checkpoint.is_ours(path):  # RecBole's checkpoints hold nothing to compare with
            state = checkpoint.load(path)
            checkpoint.check_vocabulary(state, path, self)
            checkpoint.check_histories(state, path, Histories.from_dataset(parts[0], self.config["value_field"]))
        return parts
