"""The only file that changes RecBole: what it hooks into, in the order in which a run meets it.

=========================================================  ====================================================================
RecBole's place                                            what is changed
=========================================================  ====================================================================
``utils.get_model``                                        finds the models: a module ``recbole.model.general_recommender.<name>``
                                                           for each, in ``sys.modules`` only
``utils.ensure_dir``                                       several processes may make a folder together
``Config._load_config_files``                              errors in a file name it and the line
``Config._load_internal_config_dict``                      for these models: their defaults from ``properties/``, above RecBole's
                                                           and below the user's; names and values of options are checked;
                                                           for all models: the columns that options name are loaded
                                                           settings that ``prepare`` put beside a data set count
``Config._init_device``                                    ``use_gpu: False`` means the CPU; several processes without a GPU talk
                                                           through gloo
``quick_start.init_logger``                                the first line of a log says whose class runs
``quick_start.run_recboles``                               a child process imports recbole_vae before it does anything
``data.utils.get_dataloader``                              for these models: batches of users for training; for all models:
                                                           rankings of all items evaluated from sparse rows
``data.utils.create_samplers``                             none where nothing is sampled
``data.utils.create_dataset``                              users that are held out, where ``eval_args`` says so
``trainer.trainer.Trainer.evaluate``                       held-out users are scored by their fold-in
``NCEPLRec.__init__``                                      keeps what a new user's vector is made by
``evaluator.register``                                     has the metric TruncatedRecall, too
``trainer.trainer.Collector``, ``Evaluator``               faster ones with the same results, unless ``fast_evaluation`` is False
``data.dataset.<Name>Dataset``, ``trainer.<Name>Trainer``  for these models: their data set and trainer
``trainer.trainer.DistributedDataParallel``                no GPU ids where there is no GPU
=========================================================  ====================================================================

Nothing is written into RecBole's folder, and a name that RecBole has is refused. RecBole's own models stay as they are; their
evaluation is faster, and gives the same numbers.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from recbole_vae.errors import CheckpointError, ConfigError, RecBoleVersionError
from recbole_vae.model.registry import BUILT_IN, places
from recbole_vae.options.recbole import INSTALL, RUN_OPTIONS, options_in, recbole_folder
from recbole_vae.plugin.import_hooks import after_import
from recbole_vae.version import __version__

if TYPE_CHECKING:
    from recbole_vae.model.base import HistoryRecommender

_ALIAS = "recbole.model.general_recommender."


def register(*model_classes: type[HistoryRecommender]) -> None:
    """Make models known to RecBole by the names of their classes; done for this package's own when it is imported.

    Args:
        model_classes: subclasses of :class:`recbole_vae.model.base.HistoryRecommender`, in any module. Their defaults may
            stand in a class attribute ``defaults`` (a dictionary); the options of their ``config_class`` need one.

    Raises:
        ValueError: RecBole or this package has a model of that name.
        TypeError: a class is no HistoryRecommender.
        RecBoleVersionError: RecBole is not one that the hooks fit; raised when RecBole is imported, or here if it already is.
    """
    _hook_recbole()
    for model_class in model_classes:
        name = model_class.__name__
        if not _is_ours(model_class):
            raise TypeError(
                f"cannot register {model_class.__module__}.{name}: it is no subclass of HistoryRecommender."
            )
        if places.get(name.lower(), model_class) is not model_class:
            raise ValueError(
                f"cannot register {model_class.__module__}.{name}: recbole_vae has a model of that name already."
            )
        _refuse_recboles(name, model_class.__module__)
        _check_methods(model_class)
        if not isinstance(getattr(model_class, "defaults", {}), dict):
            raise TypeError(f"cannot register {model_class.__module__}.{name}: its 'defaults' must be a dictionary.")
        places[name.lower()] = model_class


def _refuse_recboles(name: str, module: str) -> None:
    taken = next((recbole_folder() / "model").glob(f"*/{name.lower()}.py"), None)
    if taken is not None:
        raise ValueError(
            f"cannot register {module}.{name}: RecBole has a model of that name, in {taken}. Choose another name."
        )


@functools.cache
def _hook_recbole() -> None:
    """Hook into RecBole, once."""
    sys.meta_path.insert(0, _ModelFinder())
    after_import("recbole", _check_recbole)
    after_import("recbole.utils.utils", _hook_ensure_dir)
    after_import("recbole.config.configurator", _hook_config)
    after_import("recbole.quick_start.quick_start", _hook_quick_start)
    after_import("recbole.data.utils", _hook_dataloader)
    after_import("recbole.trainer.trainer", _hook_trainer)
    after_import("recbole.evaluator.register", _hook_metrics)
    after_import("recbole.model.general_recommender.nceplrec", _hook_nceplrec)


def _check_recbole(recbole: ModuleType) -> None:
    found = str(getattr(recbole, "__version__", "unknown"))
    numbers = tuple(int(number) for number in re.findall(r"\d+", found)[:3])
    if not (1, 2, 1) <= numbers < (1, 3):
        raise RecBoleVersionError(
            f"recbole_vae {__version__} fits RecBole 1.2.1 and later 1.2s, not {found}: {INSTALL}."
        )
    for name in BUILT_IN:
        _refuse_recboles(name, "recbole_vae")


def _replace(owner: Any, name: str, wrap: Any) -> None:
    """Replace an attribute by ``wrap(original)``."""
    original = getattr(owner, name, None)
    if original is None:
        raise RecBoleVersionError(
            f"recbole_vae {__version__} does not fit RecBole {import_module('recbole').__version__}: {owner} has no '{name}'."
        )
    setattr(owner, name, functools.wraps(original)(wrap(original)))


# --- models -----------------------------------------------------------------------------------------------------------


class _ModelFinder(MetaPathFinder):
    """Finds a module under RecBole's name for each registered model; it holds the class and nothing else."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        name = fullname.removeprefix(_ALIAS)
        return ModuleSpec(fullname, _ModelLoader(name)) if name != fullname and name in places else None


class _ModelLoader(Loader):
    def __init__(self, name: str) -> None:
        self.name = name

    def exec_module(self, module: ModuleType) -> None:
        place = places[self.name]
        classes = vars(import_module(place)).values() if isinstance(place, str) else [place]
        for each in classes:
            if isinstance(each, type) and each.__name__.lower() == self.name:
                setattr(module, each.__name__, each)


def _is_ours(model_class: type) -> bool:
    from recbole_vae.model.base import HistoryRecommender

    return issubclass(model_class, HistoryRecommender)


def _check_methods(model_class: type[HistoryRecommender]) -> None:
    from recbole_vae.model.base import HistoryRecommender

    for name in ("loss_terms", "score"):
        if getattr(model_class, name) is getattr(HistoryRecommender, name):
            raise TypeError(
                f"cannot register {model_class.__module__}.{model_class.__name__}: it has no method '{name}'."
            )


def _hook_ensure_dir(utils: ModuleType) -> None:
    # RecBole looks whether a folder is there and then makes it, and several processes do so together.
    _replace(utils, "ensure_dir", lambda original: lambda dir_path: Path(dir_path).mkdir(parents=True, exist_ok=True))


# --- configuration ----------------------------------------------------------------------------------------------------


def _hook_config(configurator: ModuleType) -> None:
    config_class = configurator.Config
    _replace(config_class, "_load_config_files", _load_config_files)
    _replace(config_class, "_load_internal_config_dict", _load_internal_config_dict)
    _replace(config_class, "_init_device", _init_device)


def _load_config_files(original: Any) -> Any:
    def load_config_files(self: Any, file_list: Any) -> Any:
        import yaml

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
        return original(self, file_list)

    return load_config_files


def _load_internal_config_dict(original: Any) -> Any:
    def load_internal_config_dict(self: Any, model: str, model_class: Any, dataset: str) -> None:
        original(self, model, model_class, dataset)
        beside_the_data = _settings_of_data(self, dataset)
        if not _is_ours(model_class):
            given, internal = self.external_config_dict, self.internal_config_dict
            if (
                given.get("fast_evaluation") is not False
                and internal["eval_batch_size"] == 4096
                and _ranks_all(model_class)
            ):
                internal.update(eval_batch_size=_read_properties(self, "overall.yaml")["eval_batch_size"])
            internal.update(beside_the_data)
            _load_what_is_used(self)
            _check_held_out(self, model)
        else:
            from recbole_vae.storage import checkpoint

            _expose(model_class)
            self.internal_config_dict.update(_read_properties(self, "overall.yaml"))
            defaults = getattr(model_class, "defaults", None)
            self.internal_config_dict.update(defaults or _read_properties(self, f"model/{model}.yaml"))
            self.internal_config_dict.update(beside_the_data)
            resumed = _resumed_options(self, model, dataset)
            self.internal_config_dict.update(resumed)
            _check_options(self, model, model_class)
            _load_what_is_used(self)
            if resumed:  # what is known already; the trainer checks the rest
                given = self.external_config_dict
                now = {name: given[name] for name in model_class.config_class.names() if name in given}
                checkpoint.check_options(resumed, {**resumed, **now}, given["resume"], now)

    return load_internal_config_dict


def _read_properties(config: Any, name: str) -> dict[str, Any]:
    import yaml

    path = files("recbole_vae.properties").joinpath(name)
    return yaml.load(path.read_text(encoding="utf-8"), Loader=config.yaml_loader) or {} if path.is_file() else {}


def _settings_of_data(config: Any, dataset: str) -> dict[str, Any]:
    """Return the settings that ``recbole-vae prepare`` put beside a data set; no other file of that name counts."""
    import yaml

    from recbole_vae.data.prepare import MARK

    folder = config.external_config_dict.get("data_path", config.internal_config_dict.get("data_path"))
    path = Path(str(folder)) / dataset / f"{dataset}.yaml"
    if dataset == "ml-100k" or not path.is_file():  # RecBole takes its own ml-100k, whatever data_path is
        return {}
    text = path.read_text(encoding="utf-8")
    if not text.startswith(MARK):
        return {}
    config.settings_of_data = str(path)
    return yaml.load(text, Loader=config.yaml_loader) or {}


def _resumed_options(config: Any, model: str, dataset: str) -> dict[str, Any]:
    """Return the options of the checkpoint to go on from: they count as defaults."""
    from recbole_vae.storage import checkpoint

    path = config.external_config_dict.get("resume")
    if not isinstance(path, str):  # if it is not None, _check_options refuses it
        return {}
    state = checkpoint.load(path)
    checkpoint.check_model(state, path, model)
    if state["dataset"] != dataset:
        raise CheckpointError(
            f"{path}: a checkpoint of data set {state['dataset']}, not of {dataset}; pass --dataset={state['dataset']}."
        )
    return dict(state["config"])


def _check_options(config: Any, model: str, model_class: Any) -> None:
    """Check the names of all options that the user gave, and the values of those that the model has."""
    from recbole.evaluator import metric_types
    from recbole.evaluator.register import metric_information
    from recbole.utils import EvaluatorType

    from recbole_vae.options.data import check_data_options
    from recbole_vae.options.evaluation import check_eval_args, check_metrics
    from recbole_vae.options.names import check_names, place_of

    given = config.external_config_dict
    where = place_of(config, config.config_file_list)
    own = set(model_class.config_class.names()) | set(config.internal_config_dict)
    # A config file may serve several models; what stands on the command line is meant for this one.
    others = {name for name in given if name not in config.cmd_config_dict} & options_in("model/*")
    known = own | RUN_OPTIONS | options_in("dataset/sample", "dataset/ml-100k", "quick_start_config/*", "*")
    config.ignored_options = check_names(set(given) - others, known, model, where)
    options = model_class.config_class.read({**config.internal_config_dict, **given}, where)
    for name in model_class.config_class.names():  # as the types that they are: RecBole would take 2e5 for a float
        (given if name in given else config.internal_config_dict)[name] = getattr(options, name)
    # RecBole moves what these need to the CPU, and it is no tensor.
    counted = {
        name for name, needs in metric_information.items() if {"data.num_items", "data.count_items"} & set(needs)
    }
    broken = set() if options.fast_evaluation else counted
    at_k = {name for name, needs in metric_information.items() if {"rec.items", "rec.topk"} & set(needs)}
    values = {**config.internal_config_dict, **given}
    check_metrics(values, metric_types, broken, at_k, where)
    first = values["metrics"] if isinstance(values["metrics"], str) else values["metrics"][0]
    check_eval_args(values, metric_types[first.lower()] == EvaluatorType.VALUE, where)
    check_data_options(values, where)
    if isinstance(values["topk"], tuple):  # --topk=5,10
        given["topk"] = list(values["topk"])


def _check_held_out(config: Any, model: str) -> None:
    """Check the options of one of RecBole's models where users are held out."""
    from recbole_vae.options.evaluation import check_eval_args, holds_out_users
    from recbole_vae.options.names import place_of

    values = {**config.internal_config_dict, **config.external_config_dict}
    if not holds_out_users(values):
        return
    from recbole_vae.evaluation.fold_in import why_not

    reason = why_not(model, values.get("knn_method"))
    if reason:
        raise ConfigError(f"model: {reason}")
    where = place_of(config, config.config_file_list)
    check_eval_args(values, False, where)


def _load_what_is_used(config: Any) -> None:
    """Load the columns that the options name where ``load_col`` is not given: RecBole's default is always the same two."""
    values = {**config.internal_config_dict, **config.external_config_dict}
    if values.get("load_col") != {"inter": ["user_id", "item_id"]} or "load_col" in config.external_config_dict:
        return
    needed = [
        values["USER_ID_FIELD"],
        values["ITEM_ID_FIELD"],
        values.get("value_field"),
        *(values.get("val_interval") or ()),
    ]
    args = values["eval_args"]
    if isinstance(args, dict) and (args.get("order") == "TO" or "TS" in (args.get("split") or ())):
        needed.append(values["TIME_FIELD"])
    config.internal_config_dict["load_col"] = {"inter": [name for name in dict.fromkeys(needed) if name]}


def _init_device(original: Any) -> Any:
    def init_device(self: Any) -> None:
        import torch

        options = self.final_config_dict
        if "local_rank" not in options or (options["use_gpu"] and torch.cuda.is_available()):
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            if not options["use_gpu"]:  # at which RecBole does not look
                options["gpu_id"] = ""
            original(self)
            if not options["use_gpu"]:  # RecBole has hidden the GPUs, from later runs of the process, too
                os.environ.pop("CUDA_VISIBLE_DEVICES")
                if visible is not None:
                    os.environ["CUDA_VISIBLE_DEVICES"] = visible
            return
        # What RecBole does for several processes, for a machine without a GPU.
        torch.distributed.init_process_group(
            backend="gloo",
            rank=options["local_rank"] + options["offset"],
            world_size=options["world_size"],
            init_method=f"tcp://{options['ip']}:{options['port']}",
        )
        options.update(gpu_id="", device=torch.device("cpu"), single_spec=False)
        if options["local_rank"] != 0:
            options.update(state="error", show_progress=False, verbose=False)

    return init_device


# --- quick start ------------------------------------------------------------------------------------------------------


def _hook_quick_start(quick_start: ModuleType) -> None:
    _replace(quick_start, "init_logger", _init_logger)
    from recbole_vae.plugin import child

    quick_start.run_recboles = child.replace(quick_start.run_recboles)  # type: ignore[attr-defined]


def _init_logger(original: Any) -> Any:
    def init_logger(config: Any) -> None:
        original(config)
        cls = config.model_class
        for name in getattr(config, "ignored_options", ()):
            logging.getLogger().warning(f"{cls.__name__} has no option {name}; it is ignored.")
        if getattr(config, "settings_of_data", None):
            logging.getLogger().info(f"Settings of the data set are those of {config.settings_of_data}")
        whose = f"recbole_vae {__version__}" if _is_ours(cls) else f"RecBole {import_module('recbole').__version__}"
        logging.getLogger().info(f"{cls.__name__} is {cls.__module__}.{cls.__qualname__}, of {whose}")

    return init_logger


# --- data and training ------------------------------------------------------------------------------------------------


def _hook_dataloader(utils: ModuleType) -> None:
    from recbole_vae.options.evaluation import holds_out_users

    def wrap(original: Any) -> Any:
        def get_dataloader(config: Any, phase: str) -> Any:
            if phase == "train" and _is_ours(config.model_class):
                from recbole_vae.data.dataloader import UserBatchDataLoader

                return UserBatchDataLoader
            loader = original(config, phase)
            fast = _is_fast(config) or holds_out_users(config)
            if loader is utils.FullSortEvalDataLoader and fast and _is_general(config.model_class):
                from recbole_vae.data.evaluation import FullSortDataLoader

                return FullSortDataLoader
            return loader

        return get_dataloader

    def wrap_dataset(original: Any) -> Any:
        def create_dataset(config: Any) -> Any:
            if not holds_out_users(config):
                return original(config)
            from recbole_vae.data.held_out import HeldOutDataset

            return HeldOutDataset(config)

        return create_dataset

    def wrap_samplers(original: Any) -> Any:
        def create_samplers(config: Any, dataset: Any, built_datasets: list[Any]) -> Any:
            if holds_out_users(config):
                from recbole.sampler import Sampler

                from recbole_vae.data.evaluation import SeenItems

                how = config["train_neg_sample_args"]
                of_training = None
                if (
                    how["distribution"] != "none"
                ):  # for RecBole's models that are not trained, but whose dataloader samples
                    of_training = Sampler(["train"], built_datasets[:1], how["distribution"], how["alpha"])
                    of_training = of_training.set_phase("train")
                return of_training, *(SeenItems([], [], phase) for phase in ("valid", "test"))
            nothing = config["train_neg_sample_args"]["distribution"] == "none" and not config["repeatable"]
            ranks_all = set(config["eval_args"]["mode"].values()) == {"full"}
            if nothing and ranks_all and _is_fast(config) and _is_general(config.model_class):
                from recbole_vae.data.evaluation import SeenItems

                phases = ["train", "valid", "test"]
                return None, *(SeenItems(phases, built_datasets, phase) for phase in phases[1:])
            return original(config, dataset, built_datasets)

        return create_samplers

    _replace(utils, "create_dataset", wrap_dataset)
    _replace(utils, "get_dataloader", wrap)
    _replace(utils, "create_samplers", wrap_samplers)


def _is_fast(config: Any) -> bool:
    return config["fast_evaluation"] is not False


def _is_general(model_class: Any) -> bool:
    from recbole.utils import ModelType

    return model_class.type in (ModelType.GENERAL, ModelType.TRADITIONAL)


def _ranks_all(model_class: Any) -> bool:
    from recbole.model.abstract_recommender import AbstractRecommender

    return _is_general(model_class) and model_class.full_sort_predict is not AbstractRecommender.full_sort_predict


def _expose(model_class: type) -> None:
    """Set the attributes by which RecBole finds the data set and the trainer of a model."""
    import recbole.data.dataset
    import recbole.trainer

    from recbole_vae.data.dataset import HistoryDataset
    from recbole_vae.training.trainer import HistoryTrainer

    setattr(recbole.data.dataset, f"{model_class.__name__}Dataset", HistoryDataset)
    setattr(recbole.trainer, f"{model_class.__name__}Trainer", HistoryTrainer)


def _hook_trainer(trainer: ModuleType) -> None:
    def faster(module: str, name: str) -> Any:
        def wrap(original: Any) -> Any:
            def choose(config: Any) -> Any:
                return (getattr(import_module(module), name) if _is_fast(config) else original)(config)

            return choose

        return wrap

    _replace(trainer, "Collector", faster("recbole_vae.evaluation.collector", "FastCollector"))
    _replace(trainer, "Evaluator", faster("recbole_vae.evaluation.metrics", "FastEvaluator"))

    def wrap_evaluate(original: Any) -> Any:
        def evaluate(self: Any, eval_data: Any, *args: Any, **kwargs: Any) -> Any:
            from recbole_vae.evaluation.fold_in import evaluated_on

            with evaluated_on(self.model, getattr(eval_data, "fold_in", None)):
                result = original(self, eval_data, *args, **kwargs)
            if result is not None and hasattr(eval_data, "fold_in"):
                result.split_hash = getattr(eval_data._dataset, "split_hash", None)
            return result

        return evaluate

    _replace(trainer.Trainer, "evaluate", wrap_evaluate)

    def wrap(original: Any) -> Any:
        def data_parallel(module: Any, device_ids: Any = None, **kwargs: Any) -> Any:
            on_gpu = next(module.parameters()).is_cuda
            return original(module, device_ids=device_ids if on_gpu else None, **kwargs)

        return data_parallel

    _replace(trainer, "DistributedDataParallel", wrap)


def _hook_metrics(register: ModuleType) -> None:
    from recbole_vae.evaluation.truncated import TruncatedRecall

    name = TruncatedRecall.__name__.lower()
    register.metrics_dict[name] = TruncatedRecall
    register.metric_types[name] = TruncatedRecall.metric_type
    register.metric_information[name] = TruncatedRecall.metric_need


def _hook_nceplrec(module: ModuleType) -> None:
    def wrap(original: Any) -> Any:
        def init(self: Any, config: Any, dataset: Any) -> None:
            decompose, kept = module.randomized_svd, []

            def randomized_svd(*args: Any, **kwargs: Any) -> Any:
                kept.append(decompose(*args, **kwargs))
                return kept[-1]

            module.randomized_svd = randomized_svd  # type: ignore[attr-defined]
            try:
                original(self, config, dataset)
            finally:
                module.randomized_svd = decompose  # type: ignore[attr-defined]
            # By which it makes the vectors of its users; it keeps only those.
            _, sizes, directions = kept[-1]
            self.item_projection = directions.T * sizes**0.5

        return init

    _replace(module.NCEPLRec, "__init__", wrap)
