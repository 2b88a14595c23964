"""Variational-autoencoder recommenders as RecBole models.

Importing this package registers its models, so that RecBole knows them by name, and mends what RecBole needs on today's
libraries. It imports neither RecBole nor torch by itself; the changes are made when RecBole is imported.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from recbole_vae.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    RecBoleVAEError,
    RecBoleVersionError,
    TrainingError,
)
from recbole_vae.model.registry import model_names
from recbole_vae.plugin import compat
from recbole_vae.plugin.register import register
from recbole_vae.version import __version__

compat.mend()
register()

if TYPE_CHECKING:
    from recbole_vae.serving.recommender import Recommender

_MODELS = tuple(model_names())


def __getattr__(name: str) -> Any:
    """Import a model or the Recommender when it is first asked for."""
    if name == "Recommender":
        return import_module("recbole_vae.serving.recommender").Recommender
    if name in _MODELS:
        return getattr(import_module(f"recbole_vae.model.{name.lower()}"), name)
    raise AttributeError(f"module 'recbole_vae' has no attribute '{name}'")


__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "RecBoleVAEError",
    "RecBoleVersionError",
    "Recommender",
    "TrainingError",
    "__version__",
    "register",
    *_MODELS,
]
