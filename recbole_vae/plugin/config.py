"""``recbole.config.Config``: errors that name file and line, defaults of the registered models, checked options, the device.

Later ones come above earlier ones: RecBole's defaults, those of the fields of our models, the settings that
``recbole-vae prepare`` put beside a data set, those of a checkpoint to resume from, the user's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from recbole_vae.errors import ConfigError
from recbole_vae.model.known_options import FOR_ALL, all_are_known, models_with, options_of, options_of_all
from recbole_vae.model.registry import is_history_model, model_class, recbole_name
from recbole_vae.options import command_line
from recbole_vae.options.data import check_data_options, check_dataset_name, check_filters, check_unload_col
from recbole_vae.options.evaluation import (
    args_class,
    as_lists,
    check_eval_args,
    check_metrics,
    check_mode,
    check_values,
    holds_out_items,
    holds_out_users,
    modes_of,
    orders_by_time,
)
from recbole_vae.options.kinds import check_kinds
from recbole_vae.options.names import Where, check_keys, check_names, place_of, refuse
from recbole_vae.options.recbole import recbole_folder
from recbole_vae.plugin.cmd_line import arguments_of_the_program
from recbole_vae.plugin.data_utils import is_general
from recbole_vae.plugin.device import init_device
from recbole_vae.plugin.import_hooks import replace


def hook(configurator: ModuleType) -> None:
    """Change ``recbole.config.configurator``."""
    replace(configurator.Config, "_load_config_files", _load_config_files)
    replace(configurator.Config, "_load_internal_config_dict", _load_internal_config_dict)
    replace(configurator.Config, "_init_device", init_device)


def _load_config_files(original: Any) -> Any:
    def load_config_files(self: Any, file_list: Any) -> Any:
        import yaml

        if isinstance(file_list, str | os.PathLike):  # RecBole would take a word for a list of letters
            file_list = [file_list] if Path(file_list).is_file() else str(file_list).split()
        self.config_file_list = list(file_list or [])
        for file in self.config_file_list:
            try:
                content = yaml.load(Path(file).read_text(encoding="utf-8"), Loader=self.yaml_loader)
            except OSError as error:
                raise ConfigError(f"{file}: cannot read this config file: {error.strerror}.") from None
            except (yaml.YAMLError, UnicodeDecodeError) as error:
                mark = getattr(error, "problem_mark", None)
                place = f", line {mark.line + 1}" if mark else ""
                raise ConfigError(
                    f"{file}{place}: not valid YAML ({getattr(error, 'problem', None) or error})."
                ) from None
            if not isinstance(content, dict):
                raise ConfigError(
                    f"{file}: a config file must consist of lines 'option: value', and this one does not."
                )
        # YAML writes none as ~; RecBole takes None for it in its other sources.
        return {name: None if value == "None" else value for name, value in original(self, file_list).items()}

    return load_config_files


def _load_internal_config_dict(original: Any) -> Any:
    def load_internal_config_dict(self: Any, model: str, kind: Any, dataset: str) -> None:
        original(self, model, kind, dataset)
        _as_plain(self.external_config_dict)
        _check_place_of_data(self, dataset)
        _check_names(self, model, kind)
        _order_by_time(self)
        as_lists(self.external_config_dict)
        if is_history_model(kind) or model_class(model) is kind:
            _expose(kind)
        if is_history_model(kind):
            _load_defaults(self, model, kind, dataset)
        else:
            _load_defaults_of_recbole(self, model, kind, dataset)
        check_kinds(self.external_config_dict, place_of(self, self.config_file_list))
        _check_out(self)
        _load_columns(self, kind)

    return load_internal_config_dict


def _as_plain(given: dict[str, Any]) -> None:
    """Turn paths and NumPy's numbers, which people give in Python, into the texts and numbers that options are."""
    import numpy as np

    for name, value in given.items():
        if isinstance(value, os.PathLike):
            given[name] = os.fspath(value)
        elif isinstance(value, np.generic):
            given[name] = value.item()


def _check_place_of_data(config: Any, dataset: str) -> None:
    """Refuse a path as the data set's name, and take a separator of a backslash and a t for a tab."""
    given = config.external_config_dict
    values = {**config.internal_config_dict, **given}
    check_dataset_name(dataset, str(values.get("data_path")))
    for name in ("field_separator", "seq_separator"):
        if isinstance(given.get(name), str):
            given[name] = given[name].replace("\\t", "\t")


def _check_out(config: Any) -> None:
    """Refuse a place for the checkpoint where it cannot be written: that would show only after the training."""
    out = config.external_config_dict.get("out")
    if config.external_config_dict.get("warm_start") and config.external_config_dict.get("resume"):
        raise ConfigError("warm_start: resume goes on from a checkpoint of its own; leave out one of the two.")
    if "refit" in config.cmd_config_dict:
        raise ConfigError("refit (command line): this is a command: recbole-vae refit --checkpoint=FILE --out=FILE.")
    if out:
        path = Path(out).resolve()  # of a link, what it points to
        problem = "this is a folder; name a file" if path.is_dir() else f"there is no folder {path.parent}"
        if out == "-":
            problem = "this cannot be standard output; name a file"
        elif path.parent.is_dir() and not path.is_dir():
            if os.access(path.parent, os.W_OK):
                return
            problem = f"no permission to write into {path.parent}"
        place = place_of(config, config.config_file_list)("out")
        raise ConfigError(f"out: {out}{place and f' ({place})'}: {problem}.")


def _check_names(config: Any, model: str, kind: Any) -> None:
    """Refuse options, and keys in them, that have no effect on a model; keep the names of those that are let through."""
    given, where = config.external_config_dict, place_of(config, config.config_file_list)
    known = options_of(kind) | set(config.internal_config_dict)
    of_others = options_of_all() if set(given) - known else set()
    # Arguments of a program in which RecBole runs; a class that may read any option may read these, too.
    left = arguments_of_the_program(config, known) if all_are_known(kind) else set(config.cmd_config_dict) - known
    names = set(given) - (set() if command_line.is_ours() else left)
    config.ignored_options = check_names(names, known, of_others, model, where, all_are_known(kind), models_with)
    check_keys("train_neg_sample_args", given.get("train_neg_sample_args"), _OF_SAMPLING, where)
    _check_negatives(given, model, kind, where)
    if "eval_args" in given and not is_history_model(kind):  # of which all is checked
        check_keys("eval_args", given["eval_args"], args_class(given).names(), where)


def _check_negatives(given: Mapping[str, Any], model: str, kind: Any, where: Where) -> None:
    """Refuse to sample no negative items for a model whose loss reads them."""
    if given.get("train_neg_sample_args", "uniform") is not None:
        return
    if loss_reads("NEG_ITEM_ID", kind):
        refuse(
            "train_neg_sample_args", None, where,
            f"a mapping such as {{distribution: uniform, sample_num: 1}}, for {model} learns from negative items",
        )  # fmt: skip


def loss_reads(name: str, kind: type) -> bool:
    """Tell whether the loss of a model in RecBole's style reads a field of the batch, such as ``NEG_ITEM_ID``."""
    losses = [vars(base)["calculate_loss"] for base in kind.__mro__ if "calculate_loss" in vars(base)]
    return any(name in getattr(getattr(loss, "__code__", None), "co_names", ()) for loss in losses)


_OF_SAMPLING = ("distribution", "sample_num", "alpha", "dynamic", "candidate_num")


def _load_defaults(config: Any, model: str, kind: Any, dataset: str) -> None:
    """Put the defaults of a HistoryRecommender above RecBole's, and check what the user gave."""
    from recbole_vae.storage import checkpoint

    internal, given = config.internal_config_dict, config.external_config_dict
    internal.update(kind.config_class.defaults())
    internal.update(_settings_of_data(config, dataset))
    _follow(config)
    resumed = _resumed_options(config, model, dataset)
    internal.update(resumed)
    _check_options(config, model, kind)
    if given.get("warm_start"):  # here, and not after the data are read
        from recbole_vae.training import warm_start

        warm_start.load(given["warm_start"], model)
    if resumed:  # what is known already; the trainer checks the rest
        now = {name: given[name] for name in kind.config_class.names() if name in given}
        checkpoint.check_options(resumed, {**resumed, **now}, given["resume"], now)


def _load_defaults_of_recbole(config: Any, model: str, kind: Any, dataset: str) -> None:
    """Do what RecBole's own models, and others in its style, need: their options' values are not checked."""
    internal, given = config.internal_config_dict, config.external_config_dict
    if model_class(model) is kind:
        parent = recbole_folder() / "properties" / "model" / f"{recbole_name(kind)}.yaml"
        if parent.is_file():
            config._update_internal_config_dict(parent)
        internal.update(getattr(kind, "defaults", {}))
    if given.get("fast_evaluation") is not False and internal["eval_batch_size"] == 4096 and _ranks_all(kind):
        from recbole_vae.options.fields import ModelConfig

        internal.update(eval_batch_size=ModelConfig.defaults()["eval_batch_size"])
    internal.update(_settings_of_data(config, dataset))
    _follow(config)
    _check_options_of_data(config, kind)
    _check_held_out(config, kind)
    if is_general(kind):
        values = {**internal, **given}
        where = place_of(config, config.config_file_list)
        of_values = _check_evaluation(config, values, values.get("fast_evaluation") is not False, where)
        if isinstance(values["eval_args"], dict):
            check_mode(values["eval_args"].get("mode", "full"), of_values, where)
        if of_values and not getattr(kind, "scores_are_probabilities", recbole_name(kind) in _PROBABILITIES):
            check_values(values, f"the scores of {model} are none; {_OTHERS}", where)


_PROBABILITIES = ("DMF", "FISM", "NAIS", "NNCF", "NeuMF")
"""RecBole's general models whose ``predict`` ends in a sigmoid that binary cross-entropy has trained."""

_OTHERS = (
    f"choose AUC, metrics of a ranking, or a model that has them: {', '.join(_PROBABILITIES)}, or MultVAE or MultDAE with "
    "likelihood: bernoulli"
)


def _check_evaluation(config: Any, values: Mapping[str, Any], fast: bool, where: Where) -> bool:
    """Check the metrics of any general model; tell whether they are metrics of values."""
    from recbole.evaluator import metric_types
    from recbole.evaluator.register import metric_information
    from recbole.utils import EvaluatorType

    # RecBole moves what the first two need to the CPU, and it is no tensor. Its entropy is divided by the number of items.
    counted = {
        name for name, needs in metric_information.items() if {"data.num_items", "data.count_items"} & set(needs)
    }
    if values.get("exact_metrics") is not False:
        counted.add("shannonentropy")
    at_k = {name for name, needs in metric_information.items() if {"rec.items", "rec.topk"} & set(needs)}
    valid_metric = check_metrics(values, metric_types, set() if fast else counted, at_k, where)
    if valid_metric != values["valid_metric"]:
        config.internal_config_dict["valid_metric"] = config.chosen_metric = valid_metric
    first = values["metrics"] if isinstance(values["metrics"], str) else values["metrics"][0]
    of_values = bool(metric_types[first.lower()] == EvaluatorType.VALUE)
    if of_values and holds_out_items(values):
        refuse("metrics", values["metrics"], where, "metrics of a ranking where items are held out")
    return of_values


def _expose(kind: type) -> None:
    """Set the attributes by which RecBole finds the data set and the trainer of a model that it does not have."""
    import recbole.data.dataset
    import recbole.trainer

    found: list[tuple[ModuleType, str, type | None]]
    if is_history_model(kind):
        from recbole_vae.data.dataset import HistoryDataset
        from recbole_vae.training.trainer import HistoryTrainer

        found = [(recbole.data.dataset, "Dataset", HistoryDataset), (recbole.trainer, "Trainer", HistoryTrainer)]
    else:
        name, modules = recbole_name(kind), {"Dataset": recbole.data.dataset, "Trainer": recbole.trainer}
        found = [(module, what, getattr(module, f"{name}{what}", None)) for what, module in modules.items()]
    for module, what, value in found:
        if value is not None:
            setattr(module, f"{kind.__name__}{what}", value)


def _ranks_all(kind: Any) -> bool:
    from recbole.model.abstract_recommender import AbstractRecommender

    return is_general(kind) and kind.full_sort_predict is not AbstractRecommender.full_sort_predict


def _settings_of_data(config: Any, dataset: str) -> dict[str, Any]:
    """Return the settings that ``recbole-vae prepare`` put beside a data set; no other file of that name counts.

    A split in the user's ``eval_args`` takes the place of the published parts: RecBole alone would not look at it beside them.
    """
    import yaml

    from recbole_vae.data.prepare import MARK

    folder = config.external_config_dict.get("data_path", config.internal_config_dict.get("data_path"))
    path = Path(str(folder)) / dataset / f"{dataset}.yaml"
    if dataset == "ml-100k" or not path.is_file():  # RecBole takes its own ml-100k, whatever data_path is
        return {}
    content = path.read_bytes()
    if not content.startswith(MARK.encode()):
        return {}
    config.settings_of_data = str(path)
    settings: dict[str, Any] = yaml.load(content, Loader=config.yaml_loader) or {}
    args = config.external_config_dict.get("eval_args")
    if isinstance(args, dict) and "split" in args:
        settings.pop("benchmark_filename", None)
    return settings


def _follow(config: Any) -> None:
    """Take the options of the run that is to be repeated on all interactions: they count as defaults."""
    path = config.external_config_dict.get("refit")
    if path is not None:
        from recbole_vae.training.refit import recipe

        options = recipe(path).options
        check_kinds(options, lambda key: str(path))
        config.internal_config_dict.update(options)


def _resumed_options(config: Any, model: str, dataset: str) -> dict[str, Any]:
    """Return the options of the checkpoint to resume from: they count as defaults."""
    from recbole_vae.storage import checkpoint

    path = config.external_config_dict.get("resume")
    if not isinstance(path, str):  # if it is not None, _check_options refuses it
        return {}
    state = checkpoint.load(path)
    for name, now in (("model", model), ("dataset", dataset)):
        if state[name] != now:
            of = "data set " if name == "dataset" else ""
            raise ConfigError(f"{path}: a checkpoint of {of}{state[name]}, not of {now}; pass --{name}={state[name]}.")
    check_kinds(state["config"], lambda key: path)
    return dict(state["config"])


def _check_options(config: Any, model: str, kind: Any) -> None:
    """Check the values of the options that the model has."""
    given, internal = config.external_config_dict, config.internal_config_dict
    where = place_of(config, config.config_file_list)
    options = kind.config_class.read({**internal, **given}, where)
    for name in kind.config_class.names():  # as the types that they are: RecBole would take 2e5 for a float
        (given if name in given else internal)[name] = getattr(options, name)
    values = {**internal, **given}
    of_values = _check_evaluation(config, values, options.fast_evaluation, where)
    check_eval_args(values, of_values, where)
    _check_new_items(values, kind)
    if of_values and not getattr(options, "by_sigmoid", False):
        check_values(values, f"the scores of {model} with these options are none; {_OTHERS}", where)
    check_data_options(values, where)


def _check_options_of_data(config: Any, kind: Any) -> None:
    """Give a model in RecBole's style the options that make data and metrics the same for all models, and check them."""
    from recbole_vae.options.fields import ModelConfig

    internal, given = config.internal_config_dict, config.external_config_dict
    internal.update({name: ModelConfig.defaults()[name] for name in FOR_ALL} | internal)
    own = {name: given[name] for name in FOR_ALL if name in given}
    where = place_of(config, config.config_file_list)
    ModelConfig.check_each(own, where)
    if is_general(kind):
        check_filters({**internal, **given}, where)


def _check_held_out(config: Any, kind: type) -> None:
    """Check the options of a model in RecBole's style where users or items are held out."""
    values = {**config.internal_config_dict, **config.external_config_dict}
    if holds_out_users(values):
        from recbole_vae.evaluation.fold_in import why_not

        reason = why_not(kind, values)
        if reason:
            raise ConfigError(f"model: {reason}")
    _check_new_items(values, kind)
    if holds_out_users(values) or holds_out_items(values):
        check_eval_args(values, False, place_of(config, config.config_file_list))


def _check_new_items(values: Mapping[str, Any], kind: type) -> None:
    """Refuse a model that cannot score items without interactions where items are held out."""
    if not holds_out_items(values):
        return
    from recbole_vae.evaluation.new_items import refusal

    reason = refusal(kind, values)
    if reason:
        raise ConfigError(f"model: {reason}")


def _order_by_time(config: Any) -> None:
    """Order by time for LS and TS where no order is given: RecBole's default would leave out a random interaction."""
    given = config.external_config_dict
    args = given.get("eval_args")
    if isinstance(args, dict) and {"LS", "TS"} & set(args.get("split") or ()) and "order" not in args:
        given["eval_args"] = {**args, "order": "TO"}


def _load_columns(config: Any, kind: Any) -> None:
    """Load the columns that the options name where ``load_col`` is not given; RecBole's default is always the same two.

    The times that an order needs, and the labels that ``mode: labeled`` or a loss needs, are loaded in any case.
    ``unload_col`` alone loads all columns but those that it names.
    """
    values = {"benchmark_filename": None, **config.internal_config_dict, **config.external_config_dict}
    if values.get("unload_col"):
        check_unload_col(config.external_config_dict, place_of(config, config.config_file_list))
        if "load_col" not in config.external_config_dict:  # all columns but those
            config.internal_config_dict["load_col"] = None
            return
    needed = [values["TIME_FIELD"]] if orders_by_time(values) else []
    label = values["LABEL_FIELD"]
    evaluated = "labeled" in modes_of(values).values() and not values.get("threshold")  # which makes the labels
    if evaluated or (learns_from_labels(kind, values) and _has(label, "inter", values, config.dataset)):
        needed.append(label)
    given = config.external_config_dict.get("load_col")
    if needed and isinstance(given, dict) and isinstance(given.get("inter"), list | tuple):
        columns = dict.fromkeys([*given["inter"], *needed])
        config.external_config_dict["load_col"] = {**given, "inter": list(columns)}
    base = values.get("load_col")
    if (
        "load_col" in config.external_config_dict
        or not isinstance(base, dict)
        or not isinstance(base.get("inter"), list)
    ):
        return
    load = {file: list(columns) for file, columns in base.items()}
    if base == {"inter": ["user_id", "item_id"]}:
        load = {"inter": [values["USER_ID_FIELD"], values["ITEM_ID_FIELD"]]}
    weight = values.get("value_field")
    if weight and not weight == "count" == values.get("repeats"):  # which is made
        load["inter"].append(weight)
    load["inter"] += needed
    filters, labels = (values.get(name) or {} for name in ("val_interval", "threshold"))
    load["inter"] += labels if isinstance(labels, dict) else ()
    scaled = values.get("normalize_field") or []
    load["inter"] += [name for name in scaled if _file_of(name, values, config.dataset) == "inter"]
    for name in filters if isinstance(filters, dict) else ():
        file = _file_of(name, values, config.dataset)
        load.setdefault(file, [values[f"{file.upper()}_ID_FIELD"]] if file != "inter" else []).append(name)
    config.only_for_filters = set(load) - set(base)
    config.internal_config_dict["load_col"] = {file: list(dict.fromkeys(names)) for file, names in load.items()}


def learns_from_labels(kind: type, values: Any) -> bool:
    """Tell whether a model in RecBole's style learns from the labels in the data: those that RecBole makes need samples."""
    samples = values["train_neg_sample_args"]
    sampled = samples is not None and samples.get("distribution") != "none"
    return not sampled and not values["threshold"] and loss_reads("LABEL", kind)


def _file_of(column: str, values: Mapping[str, Any], dataset: str) -> str:
    """Return which file of a data set has a column that is to be filtered by: user or item; else inter."""
    return next((file for file in ("inter", "user", "item") if _has(column, file, values, dataset)), "inter")


def _has(column: str, file: str, values: Mapping[str, Any], dataset: str) -> bool:
    from recbole_vae.data.atomic import read_header
    from recbole_vae.data.files import inter_file
    from recbole_vae.data.parquet import ParquetTable

    folder = recbole_folder() / "dataset_example" if dataset == "ml-100k" else Path(str(values["data_path"]))
    path = inter_file(folder / dataset, dataset) if file == "inter" else folder / dataset / f"{dataset}.{file}"
    if path.suffix == ".parquet":
        return column in ParquetTable(path, set()).columns
    return path.is_file() and column in read_header(path, values["field_separator"], values.get("encoding") or "utf-8")
