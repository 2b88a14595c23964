"""The registered models, by name. Those of this package are imported when they are first asked for."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from recbole_vae.errors import ConfigError
from recbole_vae.options.names import near
from recbole_vae.options.recbole import recbole_model_names

BUILT_IN = ("MultVAE", "MultDAE", "HybridVAE", "CompositeVAE", "VampVAE", "VASP")
places: dict[str, str | type] = {name.lower(): f"recbole_vae.model.{name.lower()}" for name in BUILT_IN}
"""Lower-case name of each model: its class, or the module of this package that defines it."""


def registered_classes() -> list[type]:
    """Return the registered classes that are not this package's own."""
    return [place for place in places.values() if isinstance(place, type)]


def model_names() -> list[str]:
    """Return the names of all registered models."""
    return [*BUILT_IN, *(model.__name__ for model in registered_classes())]


def model_class(name: str) -> Any:
    """Return the class of a registered model, or None if there is no such model."""
    place = places.get(name.lower())
    found = getattr(import_module(place), name, None) if isinstance(place, str) else place
    return found if found is not None and found.__name__ == name else None


def check_model_name(name: str) -> None:
    """Raise a ConfigError if neither recbole_vae nor RecBole has a model of that name."""
    known = [*model_names(), *recbole_model_names()]
    if name not in known:
        meant = near(name, known)
        raise ConfigError(
            f"model: there is no model '{name}'{f'; did you mean {meant}?' if meant else '.'} "
            f"Of recbole_vae: {', '.join(model_names())}; or any of RecBole's."
        )


def is_history_model(model: type | None) -> bool:
    """Tell whether a class is a HistoryRecommender, with options, data set, trainer and checkpoints of this package."""
    from recbole_vae.model.base import HistoryRecommender

    return model is not None and issubclass(model, HistoryRecommender)


def recboles_class(model: type) -> type:
    """Return the RecBole model that a class is or is derived from: the nearest one; else the class itself."""
    own = (
        each
        for each in model.__mro__
        if each.__module__.startswith("recbole.model.") and not each.__module__.endswith(".abstract_recommender")
    )
    return next(own, model)


def recbole_name(model: type) -> str:
    """Return the name by which RecBole chooses defaults, trainer and dataloader for a model.

    RecBole goes by the name of its own model, and a subclass of one is to get what that one gets.
    """
    return recboles_class(model).__name__


def import_models(modules: Iterable[str], place: str = "") -> None:
    """Import modules that register models; they may lie in the working directory.

    Args:
        modules: names of modules.
        place: where the user named them, for the message.

    Raises:
        ConfigError: a module cannot be imported.
    """
    for module in modules:
        if not all(part.isidentifier() for part in module.split(".")):
            raise ConfigError(
                f"imports{place and f' ({place})'}: '{module}' is not the name of a module; for a file my_models.py write "
                "my_models, and start in its folder or name the folder in PYTHONPATH."
            )
        here = str(Path.cwd())
        sys.path.append(here)
        try:
            import_module(module)
        except (Exception, SystemExit) as error:
            raise ConfigError(f"imports{place and f' ({place})'}: cannot import {module} ({error}).") from None
        finally:
            sys.path.reverse()  # so that the last one goes: the module may have added others
            sys.path.remove(here)
            sys.path.reverse()
