"""Which options have an effect: those of a model, and those of RecBole and of this package that all models have."""

from __future__ import annotations

import inspect
import sys
from typing import Any

from recbole_vae.model.registry import BUILT_IN, is_history_model, model_class, model_names, recbole_name
from recbole_vae.options.recbole import RUN_OPTIONS, options_in, options_of_recboles, options_read_in

FOR_ALL = {"data_cache", "exact_ids", "exact_metrics", "exact_time", "fast_evaluation", "repeats"}
"""Options of this package that count for RecBole's models, too."""


def options_of(model: str | type) -> set[str]:
    """Return the names of the options that have an effect on a model.

    Args:
        model: its class; for a model of RecBole's, the name will do.
    """
    found = RUN_OPTIONS | FOR_ALL | options_in("*", "dataset/sample", "dataset/ml-100k", "quick_start_config/*")
    kind = (model_class(model) or model) if isinstance(model, str) else model
    if isinstance(kind, str):
        return found | options_of_recboles(kind)
    if is_history_model(kind):
        fields: Any = kind
        return found | set(fields.config_class.names())
    found |= options_of_recboles(recbole_name(kind)) | set(getattr(kind, "defaults", ()))
    for each in kind.__mro__:
        if each.__module__.partition(".")[0] not in ("recbole", "torch", "builtins"):
            found |= options_read_in(_source(each))
    return found


def all_are_known(model: type) -> bool:
    """Tell whether :func:`options_of` is complete: a class of somebody's own in RecBole's style may read any option."""
    return is_history_model(model) or model.__module__.startswith("recbole.")


def options_of_all() -> set[str]:
    """Return the names of the options of RecBole, of its models and of the registered ones."""
    found = options_in("model/*") | {"shrink"}  # an option of ItemKNN that older versions of RecBole do not list
    return found.union(*map(options_of, model_names()))


def models_with(option: str) -> list[str]:
    """Return the models of this package that have an option."""
    return [name for name in BUILT_IN if option in options_of(name)]


def _source(kind: type) -> str:
    """Return the text of the module that defines a class, or of the class; nothing if there is none, as in a shell."""
    for place in (sys.modules.get(kind.__module__), kind):
        try:
            return inspect.getsource(place)  # type: ignore[arg-type]
        except (OSError, TypeError):
            continue
    return ""
