"""Mult-VAE mixed with two closed-form models: an item-item model and a kernel over users.

References: see :mod:`recbole_vae.model.multvae`, :mod:`recbole_vae.nn.linear` and :mod:`recbole_vae.nn.kernel`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from recbole_vae.data.histories import Histories
from recbole_vae.errors import ConfigError
from recbole_vae.model.multvae import MultVAE, MultVAEConfig
from recbole_vae.nn.kernel import UserKernel
from recbole_vae.nn.linear import ItemItem, LocalItemItem, Ridge, standardise
from recbole_vae.options.fields import ModelConfig, option

_ROUNDING = 1e-9
"""Of sums of shares."""


@dataclass(frozen=True, kw_only=True)
class HybridVAEConfig(MultVAEConfig):
    """Options of :class:`HybridVAE`."""

    linear_share: float = option(float, minimum=0, maximum=1)
    linear_l2: float = option(float, above=0)
    linear_dropout: float = option(float, minimum=0, below=1)
    linear_user_power: float = option(float, minimum=0)
    linear_item_power: float = option(float, minimum=0)
    linear_neighbours: int = option(int, minimum=0)
    kernel_share: float = option(float, minimum=0, maximum=1)
    kernel_l2: float = option(float, above=0)
    kernel_user_power: float = option(float, minimum=0)

    def __post_init__(self) -> None:
        """Raise a ConfigError if the shares are more than the whole."""
        super().__post_init__()
        if self.linear_share + self.kernel_share > 1 + _ROUNDING:
            raise ConfigError(
                f"linear_share: {self.linear_share:g} and kernel_share: {self.kernel_share:g} sum to more than 1; what they "
                "leave of 1 is the VAE's share."
            )


class HybridVAE(MultVAE):
    """Mult-VAE mixed with closed-form paths: ``(1 - v - w) s(logits) + v s(x W) + w s(k(x, X) A)``.

    ``logits`` are the VAE's, ``v`` is ``linear_share`` and ``w`` is ``kernel_share``. ``s`` standardises each user's scores over
    the unseen items; without it the shares would mean something else for each user. The VAE is trained as if it were alone.
    ``W`` and ``A`` are solved from the training histories when the model is made. Checkpoints hold the histories, not ``W``
    and ``A``, which are solved again when one is loaded.
    """

    config_class: ClassVar[type[ModelConfig]] = HybridVAEConfig
    options: HybridVAEConfig
    has_other_paths = True

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        options, items = self.options, self.n_real_items
        self.scores_by_latent = 1 - options.linear_share - options.kernel_share > _ROUNDING
        self.linear = self._linear() if options.linear_share else None
        self.kernel = (
            UserKernel(self.histories, items, options.kernel_l2, options.kernel_user_power)
            if options.kernel_share
            else None
        )

    def _linear(self) -> ItemItem | LocalItemItem:
        options, items = self.options, self.n_real_items
        ridge = Ridge(options.linear_l2, options.linear_dropout, options.linear_user_power, options.linear_item_power)
        if options.linear_neighbours:
            return LocalItemItem(
                self.histories, items, ridge, options.linear_neighbours, progress=options.show_progress
            )
        return ItemItem(self.histories, items, ridge)

    def score_latent(self, histories: Histories, latent: Tensor) -> Tensor:
        """Score all items by the mixture; ``latent`` affects the VAE's part alone; see Autoencoder."""
        options = self.options
        rest = 1 - options.linear_share - options.kernel_share
        paths = (
            (self.decoder, latent, rest if self.scores_by_latent else 0.0),
            (self.linear, histories, options.linear_share),
            (self.kernel, histories, options.kernel_share),
        )
        parts = [(standardise(path(given), histories), share) for path, given, share in paths if path and share]
        scores, share = parts[0]
        scores.mul_(share)
        for part, share in parts[1:]:
            scores.add_(part, alpha=share)
        return self.with_padding(scores)
