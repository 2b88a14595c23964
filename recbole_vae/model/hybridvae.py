"""Mult-VAE mixed with two closed-form models: an item-item model and a kernel over users.

References: see :mod:`recbole_vae.model.multvae`, :mod:`recbole_vae.nn.linear` and :mod:`recbole_vae.nn.kernel`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, model_validator
from torch import Tensor
from typing_extensions import Self

from recbole_vae.data.histories import Histories
from recbole_vae.errors import ConfigError
from recbole_vae.model.capabilities import SparseLayer
from recbole_vae.model.multvae import MultVAE, MultVAEConfig
from recbole_vae.nn.kernel import UserKernel
from recbole_vae.nn.linear import ItemItem, LocalItemItem, Ridge, standardise, standardised
from recbole_vae.options.fields import ModelConfig

_ROUNDING = 1e-9
"""Of sums of shares."""


class HybridVAEConfig(MultVAEConfig):
    """Options of HybridVAE: those of MultVAE, with its defaults (the paper's in brackets), and of the paths beside it."""

    linear_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of the linear path in the scores; 0: without it, 1: the linear path alone (then --epochs=1).",
    )
    linear_l2: PositiveFloat = Field(3.0, description="Its ridge, in units of the mean of the Gram matrix's diagonal.")
    linear_dropout: float = Field(
        0.5, ge=0, lt=1, description="Its ridge, as if this share of the input's items were dropped."
    )
    linear_user_power: NonNegativeFloat = Field(
        0.25, description="A user of n items counts n ** -(2 * linear_user_power) times in each item pair."
    )
    linear_item_power: NonNegativeFloat = Field(
        0.15,
        description="An item of n users is scaled by n ** -linear_item_power. 0 (and 0 for the two above): EASE.",
    )
    linear_neighbours: NonNegativeInt = Field(
        0,
        description="The linear path predicts each item from this many most similar ones, for large or sparse catalogues; "
        "0: from all.",
    )
    kernel_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of the path through similar users, for some 20 000 users at most; "
        "what both shares leave of 1 is the VAE's.",
    )
    kernel_l2: PositiveFloat = Field(20.0, description="Its ridge.")
    kernel_user_power: NonNegativeFloat = Field(
        0.0,
        description="A user of n items (with value_field: of weights of sum n) counts n ** -kernel_user_power times there.",
    )

    @property
    def by_sigmoid(self) -> bool:
        """See :class:`HistoryRecommender`; mixed scores are no logits."""
        return False

    @model_validator(mode="after")
    def _shares_of_a_whole(self) -> Self:
        """Raise a ConfigError if the shares sum to more than 1."""
        if self.linear_share + self.kernel_share > 1 + _ROUNDING:
            raise ConfigError(
                f"linear_share: {self.linear_share:g} and kernel_share: {self.kernel_share:g} sum to more than 1; what they "
                "leave of 1 is the VAE's share."
            )
        return self


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
    can_be_exported = True

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

    def sparse_layers(self) -> list[SparseLayer]:
        """See Capabilities: the encoder's first layer, and the linear path."""
        if self.kernel is not None:
            raise ConfigError(
                f"kernel_share: {self.options.kernel_share:g} has no form in a graph, for it compares a history with those "
                "of all users; train with kernel_share: 0 to export."
            )
        layers = super().sparse_layers() if self.scores_by_latent else []
        return layers if self.linear is None else [*layers, SparseLayer(self.linear.weight)]

    def logits_of_sums(self, sums: Sequence[Tensor], unseen: Tensor) -> Tensor:
        """See Capabilities: :meth:`score_latent` by operations on whole tables."""
        share = self.options.linear_share
        parts = [] if self.linear is None else [standardised(sums[-1], unseen) * share]
        if self.scores_by_latent:
            parts.append(standardised(super().logits_of_sums(sums, unseen), unseen) * (1 - share))
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]
