"""Variational-autoencoder recommenders as RecBole models.

Importing this package registers its models, so that RecBole finds them by name, and mends RecBole for today's libraries:
:mod:`recbole_vae.plugin.register` lists all that changes. The import loads neither RecBole nor torch; each change is made when
the module that it is for is imported.
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
from recbole_vae.plugin.evaluator import register_metric
from recbole_vae.plugin.register import register
from recbole_vae.version import __version__

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
    "register_metric",
    *_MODELS,
]
