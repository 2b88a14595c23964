"""``recbole.utils.get_model`` finds the registered models, and a Config names the model that is near a misspelt one.

RecBole looks for a model in a module ``recbole.model.<kind>.<lower-case name>``. Several of its modules hold the function under
a name of their own, so it is not replaced: a finder of modules gives it what it looks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from recbole_vae.model.registry import check_model_name, is_history_model, model_names, places
from recbole_vae.options.recbole import recbole_model_names
from recbole_vae.plugin.import_hooks import module_exists, replace

_ALIAS = "recbole.model.general_recommender."
"""RecBole searches here first, whatever the kind of the model."""


_KINDS = ("general", "context_aware", "sequential", "knowledge_aware")


def hook(configurator: ModuleType) -> None:
    """Change ``recbole.config.configurator``."""
    replace(configurator.Config, "_get_model_and_dataset", _get_model_and_dataset)


def _get_model_and_dataset(original: Any) -> Any:
    def get_model_and_dataset(self: Any, model: Any, dataset: Any) -> Any:
        name = self.external_config_dict.get("model") if model is None else model
        if isinstance(name, str) and not _is_added(name):
            check_model_name(name)
        return original(self, model, dataset)

    return get_model_and_dataset


def _is_added(name: str) -> bool:
    """Tell whether somebody has put a model of that name into RecBole's folder."""
    module, known = name.lower(), {each.lower() for each in (*model_names(), *recbole_model_names())}
    return module not in known and any(module_exists(f"recbole.model.{kind}_recommender.{module}") for kind in _KINDS)


class ModelFinder(MetaPathFinder):
    """Finds a module under RecBole's name for each registered model; the module holds the class and nothing else."""

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


def problem_of(model: type) -> str:
    """Return why a class cannot be registered, or "" if it can."""
    from recbole.model.abstract_recommender import AbstractRecommender
    from recbole.utils import ModelType

    from recbole_vae.model.base import HistoryRecommender

    if not isinstance(getattr(model, "type", None), ModelType):
        return "it is no subclass of HistoryRecommender, nor of RecBole's GeneralRecommender or another of its kinds"
    base: Any
    base, needed = AbstractRecommender, [("calculate_loss",), ("full_sort_predict", "predict")]
    if is_history_model(model):
        base, needed = HistoryRecommender, [("loss_terms",), ("score",)]
    for names in needed:
        if all(getattr(model, name) is getattr(base, name) for name in names):
            return f"it has no method '{' or '.join(names)}'"
    if is_history_model(model):
        return _problem_of_options(model)
    return "" if isinstance(getattr(model, "defaults", {}), dict) else "its 'defaults' must be a dictionary"


def _problem_of_options(model: Any) -> str:
    from recbole_vae.options.fields import ModelConfig

    options = model.config_class
    if not (isinstance(options, type) and issubclass(options, ModelConfig)):
        return "its 'config_class' must be a subclass of ModelConfig"
    if hasattr(model, "defaults"):
        return "its 'defaults' would not count; the fields of its 'config_class' have them"
    for option in set(options.names()) - set(options.defaults()) - set(ModelConfig.names()):
        return f"its option '{option}' has no default; give the field one"
    return ""
