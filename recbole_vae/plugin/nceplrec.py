"""``NCEPLRec`` keeps the projection that a new user's vector is made with; RecBole keeps only the training users' vectors."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from recbole_vae.plugin.import_hooks import replace


def hook(module: ModuleType) -> None:
    """Change ``recbole.model.general_recommender.nceplrec``."""

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
            _, sizes, directions = kept[-1]
            self.item_projection = directions.T * sizes**0.5

        return init

    replace(module.NCEPLRec, "__init__", wrap)
