"""``recbole.data.dataset.Dataset``: exact times, no repeated pairs, and no saved data set that was made from something else.

For all data sets, RecBole's and those of this package.
"""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from types import ModuleType
from typing import Any

from recbole_vae.errors import DataError
from recbole_vae.model.registry import is_history_model
from recbole_vae.options.evaluation import holds_out_items, holds_out_users, orders_by_time, trains_on_all
from recbole_vae.plugin.import_hooks import replace


def hook(dataset: ModuleType) -> None:
    """Change ``recbole.data.dataset.dataset``."""
    for wrap in (
        _from_scratch, _save, _load_feat, _load_inter_feat, _filter_nan_user_or_item, _filter_by_field_value,
        _filter_by_inter_num, _data_filtering, _remap, _fill_nan, _normalize,
        _dataframe_to_interaction, _split_by_ratio, _leave_one_out, _time_based_split, _build,
    ):  # fmt: skip
        name = wrap.__name__
        replace(dataset.Dataset, name if hasattr(dataset.Dataset, name) else name.removeprefix("_"), wrap)
    replace(dataset.Interaction, "__getitem__", _rows)
    replace(dataset.Interaction, "_reindex", _reindex)


def _from_scratch(original: Any) -> Any:
    def from_scratch(self: Any) -> None:
        from recbole_vae.data import saved

        config = self.config
        asked = getattr(config, "asked_dataset", config["dataset_save_path"])
        path = asked or _saved_file(self)
        replaced = bool(config["save_dataset"]) and path == _saved_file(self)
        if (
            holds_out_users(config)
            or holds_out_items(config)
            or not saved.fits(path, config, only_data=_only_data(self), asked=bool(asked), replaced=replaced)
        ):
            original(self)
            return
        with Path(path).open("rb") as file:
            self.__dict__.update(pickle.load(file).__dict__)
        self.config, self.loaded_from = config, path
        self.logger.info(f"Load filtered dataset from: [{path}]")

    return from_scratch


def _save(original: Any) -> Any:
    def save(self: Any) -> None:
        from recbole_vae.data import saved

        path = _saved_file(self)
        if vars(self).pop("loaded_from", None) != path:
            original(self)
            saved.record(path, self.config, only_data=_only_data(self))

    return save


def _saved_file(dataset: Any) -> str:
    """Return where RecBole saves a data set."""
    config = dataset.config
    return os.path.join(config["checkpoint_dir"], f"{config['dataset']}-{type(dataset).__name__}.pth")  # noqa: PTH118


def _only_data(dataset: Any) -> bool:
    """Tell whether a data set depends on the options of the data alone, and not on those of a model whose own it is."""
    kind = type(dataset)
    of_a_model = kind.__name__ == f"{dataset.config['model']}Dataset"
    return kind.__module__.startswith(("recbole.", "recbole_vae.")) and not of_a_model


def _load_feat(original: Any) -> Any:
    def load_feat(self: Any, filepath: str, source: Any) -> Any:
        from recbole_vae.data.times import read_exactly

        feat = original(self, filepath, source)
        if getattr(source, "value", None) == "inter":
            read_exactly(self, feat, filepath)
        return feat

    return load_feat


def _load_inter_feat(original: Any) -> Any:
    def load_inter_feat(self: Any, token: str, dataset_path: str) -> None:
        _read_interactions(self, token, dataset_path)
        loaded = [] if self.inter_feat is None else list(map(str, self.inter_feat.columns))
        if orders_by_time(self.config) and self.time_field not in loaded:
            raise DataError(
                f"TIME_FIELD: data set '{self.dataset_name}' in {Path(dataset_path)} has no field '{self.time_field}' for the "
                f"interactions, and eval_args orders by it; loaded are: {', '.join(loaded) or 'none'}. Set TIME_FIELD, or "
                "eval_args: {order: RO} and another split than TS."
            )
        if self.benchmark_filename_list is not None and self.inter_feat is not None:
            _refuse_missing_ids(self)
            from recbole_vae.data.repeats import drop_repeats

            drop_repeats(self)

    return load_inter_feat


def _read_interactions(dataset: Any, token: str, folder: str) -> None:
    """Read the interactions as RecBole does, but from Parquet, too, and without objects where parts are joined."""
    from recbole.utils import FeatureSource

    from recbole_vae.data.files import inter_file
    from recbole_vae.data.tokens import joined

    names = dataset.benchmark_filename_list
    parts, lengths = [], dict[str, int]()
    for part in [""] if names is None else [f".{name}" for name in names]:
        file = inter_file(Path(folder), f"{token}{part}")
        if not file.is_file():
            whole = f" If all interactions are in one file, {token}.inter, add --benchmark_filename=None."
            parts_of = "" if names is None else whole
            raise DataError(
                f"dataset: there is no file {file}, which data_path, dataset and benchmark_filename point to.{parts_of}"
            )
        parts.append(dataset._load_feat(str(file), FeatureSource.INTERACTION))
        for field, length in dataset.field2seqlen.items():
            lengths[field] = max(lengths.get(field, 0), length)
    if names is None:
        dataset.inter_feat = parts[0]
        return
    dataset.file_size_list = [len(part) for part in parts]
    dataset.inter_feat, dataset.field2seqlen = joined(parts), lengths


def _refuse_missing_ids(dataset: Any) -> None:
    """Raise a DataError if ids are missing in the parts of a fixed split, of which RecBole leaves out nothing."""
    for field in (dataset.uid_field, dataset.iid_field):
        if field in dataset.inter_feat and dataset.inter_feat[field].isna().any():
            raise DataError(
                f"data set '{dataset.dataset_name}': '{field}' is missing in some interactions of "
                f"{', '.join(dataset.benchmark_filename_list)}; remove these lines."
            )


def _filter_nan_user_or_item(original: Any) -> Any:
    """Leave out interactions without a user or an item. If both occur, RecBole alone would drop the wrong rows."""

    def filter_nan_user_or_item(self: Any) -> None:
        fields = [field for field in (self.uid_field, self.iid_field) if field in self.inter_feat]
        if self.config["exact_ids"] is not False or is_history_model(self.config.model_class):
            missing = self.inter_feat[fields].isna()
            for field in missing.columns[missing.any()]:
                rows = missing[field].to_numpy().nonzero()[0] + 1
                self.logger.warning(
                    f"'{field}' is missing in {len(rows)} interactions, which are left out; the first are number "
                    f"{', '.join(map(str, rows[:5]))}. Missing values are empty cells, NA, NaN, null and the like."
                )
            if missing.to_numpy().any():
                self.inter_feat = self.inter_feat[~missing.any(axis=1)].reset_index(drop=True)
        original(self)

    return filter_nan_user_or_item


def _filter_by_field_value(original: Any) -> Any:
    def filter_by_field_value(self: Any) -> None:
        from recbole_vae.data import filters
        from recbole_vae.data.repeats import drop_repeats

        filters.check(self)
        before = len(self.inter_feat)
        original(self)
        filters.by_users_and_items(self)
        filters.say(self, before)
        drop_repeats(self)

    return filter_by_field_value


def _filter_by_inter_num(original: Any) -> Any:
    def filter_by_inter_num(self: Any) -> None:
        from recbole_vae.data.tokens import filter_by_number

        filter_by_number(self)

    return filter_by_inter_num


def _remap(original: Any) -> Any:
    def remap(self: Any, remap_list: Any) -> None:
        from recbole_vae.data import tokens

        if not tokens.remap(self, remap_list):
            original(self, remap_list)

    return remap


def _rows(original: Any) -> Any:
    """Take rows of an ``Interaction`` by arrays as they are; RecBole makes lists of them first, of some 40 bytes a row."""

    def getitem(self: Any, index: Any) -> Any:
        from recbole_vae.data.splits import rows

        found = rows(self.interaction, index)
        return original(self, index) if found is None else type(self)(found)

    return getitem


def _reindex(original: Any) -> Any:
    def reindex(self: Any, index: Any) -> None:
        from recbole_vae.data.splits import rows

        found = rows(self.interaction, index)
        if found is None:
            original(self, index)
        else:
            self.interaction.update(found)

    return reindex


def _data_filtering(original: Any) -> Any:
    def data_filtering(self: Any) -> None:
        from recbole_vae.data.times import check_times

        original(self)
        if self.config["exact_time"] is not False:
            check_times(self, self.inter_feat)

    return data_filtering


def _fill_nan(original: Any) -> Any:
    def fill_nan(self: Any) -> None:
        feat = self.inter_feat
        for field in feat:
            missing = int(feat[field].isna().sum()) if self.field2type[field].value == "float" else 0
            if missing:
                self.logger.warning(
                    f"'{field}' is missing in {missing} of {len(feat)} interactions; RecBole puts in the mean of the others."
                )
        original(self)

    return fill_nan


def _normalize(original: Any) -> Any:
    def normalize(self: Any) -> None:
        from recbole_vae.data.times import is_exact

        for name in self.config["normalize_field"] or ():
            if name not in self.field2type:
                raise DataError(
                    f"normalize_field: data set '{self.dataset_name}' has no field '{name}', or it is not loaded; loaded are: "
                    f"{', '.join(self.field2type)}."
                )
        field, feat = self.time_field, self.inter_feat
        times = feat[field].copy() if field in feat and is_exact(self) else None
        original(self)
        if times is not None:
            feat[field] = times

    return normalize


def _dataframe_to_interaction(original: Any) -> Any:
    def dataframe_to_interaction(self: Any, data: Any) -> Any:
        import torch

        from recbole_vae.data.times import differ_in_float32, is_exact

        interaction = original(self, data)
        field = self.time_field
        if data is self.inter_feat and field in data and is_exact(self) and self.field2type[field].value == "float":
            times = data[field].to_numpy(copy=True)
            interaction.interaction[field] = torch.from_numpy(times)
            if orders_by_time(self.config) and differ_in_float32(times):
                self.logger.info("Kept timestamps in 64 bits (exact_time: False keeps RecBole's 32).")
        return interaction

    return dataframe_to_interaction


def _split_by_ratio(original: Any) -> Any:
    def split_by_ratio(self: Any, ratios: list[float], group_by: Any = None) -> Any:
        from recbole_vae.data.splits import by_ratio

        if group_by is None:
            return original(self, ratios, group_by)
        ratios = [ratio / sum(ratios) for ratio in ratios]
        return _split(self, group_by, by_ratio(self._calcu_split_ids, ratios))

    return split_by_ratio


def _split(dataset: Any, group_by: str, divide: Any) -> list[Any]:
    from recbole_vae.data.splits import split_groups

    parts = split_groups(dataset.inter_feat[group_by].numpy(), divide)
    dataset._drop_unused_col()
    return [dataset.copy(dataset.inter_feat[part]) for part in parts]


def _leave_one_out(original: Any) -> Any:
    def leave_one_out(self: Any, group_by: Any, leave_one_mode: str) -> Any:
        from recbole_vae.data.splits import leaving_out

        if self.config["eval_args"]["order"] == "RO":
            self.logger.warning(
                f"eval_args: split: LS: {leave_one_mode} with order: RO leaves out random interactions, not the last; "
                "for these set order: TO."
            )
        if group_by is None or leave_one_mode not in ("valid_and_test", "valid_only", "test_only"):
            return original(self, group_by, leave_one_mode)
        return _split(self, group_by, leaving_out(leave_one_mode))

    return leave_one_out


def _time_based_split(original: Any) -> Any:
    def time_based_split(self: Any, ratios: list[float], group_by: Any) -> Any:
        from recbole_vae.data.times import is_exact, time_split

        if not is_exact(self) or group_by is None or self.time_field not in self.inter_feat:
            return original(self, ratios, group_by)
        times, groups = (self.inter_feat[field].numpy() for field in (self.time_field, group_by))
        parts = time_split(times, groups, ratios)
        self._drop_unused_col()
        return [self.copy(self.inter_feat[part]) for part in parts]

    return time_based_split


def _build(original: Any) -> Any:
    def build(self: Any) -> Any:
        from recbole_vae.data import gaps, held_out_items, labels
        from recbole_vae.data.evaluation import check_topk
        from recbole_vae.plugin.data_utils import is_general

        general = is_general(self.config.model_class)
        if general:
            _check_labels(self)
            check_topk(self)
        apart = holds_out_items(self.config)
        parts = held_out_items.held_out_apart(self, original) if apart else original(self)
        if general:
            whole = trains_on_all(self.config)
            if whole and self.benchmark_filename_list is not None:  # RecBole looks at no split then
                parts = [self.copy(self.inter_feat), *(self.copy(self.inter_feat[:0]) for _ in parts[1:])]
                self.logger.info(f"All are for training: {', '.join(self.benchmark_filename_list)}.")
            labels.apply(self, parts)
            parts[-1].gaps = [] if whole else [*gaps.find(self, parts), *_without_effect(self)]
            if apart:
                held_out_items.mark(self, parts)
        return parts

    return build


def _without_effect(dataset: Any) -> list[str]:
    """Say which keys of the user's ``eval_args`` have no effect, because files are the parts of the split."""
    given = dataset.config.external_config_dict.get("eval_args")
    if dataset.benchmark_filename_list is None or not isinstance(given, dict) or holds_out_users(dataset.config):
        return []
    keys = [key for key in given if key != "mode"]
    if not keys:
        return []
    note = (
        f"eval_args: {', '.join(keys)} {'have' if len(keys) > 1 else 'has'} no effect, for benchmark_filename names files that "
        "are the split; benchmark_filename: ~ with a split in eval_args draws another"
    )
    dataset.logger.warning(f"{note}.")
    return [note]


def _check_labels(dataset: Any) -> None:
    """Raise a DataError if a model learns from labels, and neither the data nor sampled items give it some."""
    from recbole_vae.plugin.config import learns_from_labels

    config, field = dataset.config, dataset.label_field
    if learns_from_labels(config.model_class, config) and field not in dataset.inter_feat:
        raise DataError(
            f"LABEL_FIELD: data set '{dataset.dataset_name}' has no column '{field}', from which {config['model']} learns where "
            "train_neg_sample_args is None. Name the column of labels, make it by threshold: {rating: 4}, or leave "
            "train_neg_sample_args out."
        )
