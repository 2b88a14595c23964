"""The registered models, by name; those of this package are imported when they are first asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

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
