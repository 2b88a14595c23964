"""The registered models, by name; those of this package are imported when they are first asked for."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from recbole_vae.errors import ConfigError

if TYPE_CHECKING:
    from recbole_vae.model.base import HistoryRecommender

BUILT_IN = ("MultVAE", "MultDAE", "HybridVAE", "CompositeVAE", "VampVAE", "VASP")
places: dict[str, str | type] = {name.lower(): f"recbole_vae.model.{name.lower()}" for name in BUILT_IN}
"""Lower-case name of each model: the class, or the module that has it (imported when it is first asked for)."""


def model_names() -> list[str]:
    """Return the names of the models that recbole_vae has registered."""
    return [*BUILT_IN, *(place.__name__ for place in places.values() if isinstance(place, type))]


def model_class(name: str) -> type[HistoryRecommender] | None:
    """Return the class of a registered model, or None if there is no such model."""
    place = places.get(name.lower())
    found = getattr(import_module(place), name, None) if isinstance(place, str) else place
    return found if found is not None and found.__name__ == name else None


def import_models(modules: Iterable[str], place: str = "") -> None:
    """Import modules that register models; they may lie in the working directory.

    Args:
        modules: names of modules.
        place: where the user named them, for the message.

    Raises:
        ConfigError: a module cannot be imported.
    """
    for module in modules:
        sys.path.append(str(Path.cwd()))
        try:
            import_module(module)
        except Exception as error:
            raise ConfigError(f"imports{place and f' ({place})'}: cannot import {module} ({error}).") from None
        finally:
            sys.path.pop()
