"""``recbole.data.utils``: batches of users for training, sparse rows for evaluation, held-out users, saved data that fit."""

from __future__ import annotations

import contextlib
import os
from collections import ChainMap
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from recbole_vae.errors import ConfigError, DataError, RecBoleVAEError
from recbole_vae.model.registry import is_history_model, recbole_name
from recbole_vae.options.evaluation import holds_out_items, holds_out_users
from recbole_vae.plugin.import_hooks import replace


def hook(utils: ModuleType) -> None:
    """Change ``recbole.data.utils``."""
    replace(utils, "create_dataset", _create_dataset)
    replace(utils, "create_dataset", _not_unseen)
    replace(utils, "create_samplers", _create_samplers)
    replace(utils, "save_split_dataloaders", _save_split_dataloaders)
    replace(utils, "load_split_dataloaders", _load_split_dataloaders)
    replace(utils, "get_dataloader", lambda original: _get_dataloader(original, utils.FullSortEvalDataLoader))


def _create_dataset(original: Any) -> Any:
    def create_dataset(config: Any) -> Any:
        if not holds_out_users(config):
            with _of_the_data(config):
                return original(config)
        from recbole_vae.data.held_out import HeldOutDataset

        return HeldOutDataset(config)

    return create_dataset


def _not_unseen(original: Any) -> Any:
    """Hide saved data sets from RecBole, which would unpickle one before it looks at its options.

    ``_from_scratch`` in plugin/dataset.py looks for it then.
    """

    def create_dataset(config: Any) -> Any:
        if isinstance(config, dict):
            raise ConfigError(
                "config: this is the dictionary of a checkpoint, and RecBole needs a Config: call load_data_and_model(FILE) of "
                "recbole.quick_start, which makes the data set, too, or Config(model=..., dataset=..., config_dict=...)."
            )
        config.asked_dataset = config["dataset_save_path"]
        config["dataset_save_path"] = os.path.join(os.devnull, "nowhere")  # noqa: PTH118
        try:
            return original(config)
        finally:
            config["dataset_save_path"] = config.asked_dataset
            del config.asked_dataset

    return create_dataset


def _save_split_dataloaders(original: Any) -> Any:
    def save_split_dataloaders(config: Any, dataloaders: Any) -> None:
        from recbole_vae.data import saved

        generators = [loader.generator for loader in dataloaders]
        original(config, dataloaders)
        for loader, generator in zip(dataloaders, generators, strict=True):  # RecBole takes them away
            loader.generator = loader.sampler.generator = generator
        saved.record(_saved_file(config), config, only_data=False)

    return save_split_dataloaders


def _load_split_dataloaders(original: Any) -> Any:
    def load_split_dataloaders(config: Any) -> Any:
        from recbole_vae.data import saved

        asked = config["dataloaders_save_path"]
        path = asked or _saved_file(config)
        replaced = bool(config["save_dataloaders"]) and path == _saved_file(config)
        if (
            holds_out_users(config)
            or holds_out_items(config)
            or not saved.fits(path, config, only_data=False, asked=bool(asked), replaced=replaced)
        ):
            return None
        loaders = original(config)
        for loader in loaders or ():
            loader._dataset.config = config
        return loaders

    return load_split_dataloaders


def _saved_file(config: Any) -> str:
    """Return where RecBole saves dataloaders."""
    return os.path.join(  # noqa: PTH118
        config["checkpoint_dir"], f"{config['dataset']}-for-{config['model']}-dataloader.pth"
    )


def _create_samplers(original: Any) -> Any:
    def create_samplers(config: Any, dataset: Any, built_datasets: list[Any]) -> Any:
        from recbole_vae.data.evaluation import SeenItems

        how = config["train_neg_sample_args"]
        if holds_out_users(config):
            of_training = None
            if how["distribution"] != "none":  # for RecBole's models that are not trained, but whose dataloader samples
                from recbole.sampler import Sampler

                of_training = Sampler(["train"], built_datasets[:1], how["distribution"], how["alpha"])
                of_training = of_training.set_phase("train")
            return of_training, *(SeenItems([], [], phase) for phase in ("valid", "test"))
        samples_nothing = how["distribution"] == "none" and not config["repeatable"]
        ranks_all = set(config["eval_args"]["mode"].values()) == {"full"}
        if samples_nothing and ranks_all and _is_fast(config) and is_general(config.model_class):
            phases = ["train", "valid", "test"]
            return None, *(SeenItems(phases, built_datasets, phase) for phase in phases[1:])
        with _of_the_data(config):
            return original(config, dataset, built_datasets)

    return create_samplers


@contextlib.contextmanager
def _of_the_data(config: Any) -> Iterator[None]:
    """Raise a DataError for what RecBole says of the data in a ValueError; other people's ValueErrors stay."""
    try:
        yield
    except ValueError as error:
        last = error.__traceback__
        while last is not None and last.tb_next is not None:
            last = last.tb_next
        module = str(last.tb_frame.f_globals.get("__name__")) if last else ""
        if isinstance(error, RecBoleVAEError) or not module.startswith("recbole."):
            raise
        text = " ".join(str(error).split())
        if "feat is empty" in text:
            text = "no line is left after filtering in its .inter, .user or .item file."
        if "interacted with all items" in text:
            text = (
                f"some users have all items, so that RecBole can sample no negative items of theirs for {config['model']}. Leave "
                "them out by user_inter_num_interval, or take a model of recbole_vae and eval_args: {mode: full}."
            )
        raise DataError(f"data set '{config['dataset']}': {text}") from None


def _get_dataloader(original: Any, full_sort: Any) -> Any:
    def get_dataloader(config: Any, phase: str) -> Any:
        if phase == "train" and is_history_model(config.model_class):
            from recbole_vae.data.dataloader import UserBatchDataLoader

            return UserBatchDataLoader
        # RecBole has a table of its autoencoders' names.
        loader = original(ChainMap({"model": recbole_name(config.model_class)}, config.final_config_dict), phase)
        fast = _is_fast(config) or holds_out_users(config)
        if loader is full_sort and fast and is_general(config.model_class):
            from recbole_vae.data.evaluation import FullSortDataLoader

            return FullSortDataLoader
        return loader

    return get_dataloader


def _is_fast(config: Any) -> bool:
    return config["fast_evaluation"] is not False


def is_general(model_class: Any) -> bool:
    """Tell whether a model is a general recommender: one that sees a user and an item, and neither sequence nor context."""
    from recbole.utils import ModelType

    return model_class.type in (ModelType.GENERAL, ModelType.TRADITIONAL)
