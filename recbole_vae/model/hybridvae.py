"""A Mult-VAE and, beside it, a linear path from items to items in closed form; each user's scores are a mixture of both.

References: see :mod:`recbole_vae.model.multvae` and :mod:`recbole_vae.nn.linear`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from recbole_vae.config import ModelConfig, option
from recbole_vae.data.histories import Histories
from recbole_vae.model.multvae import MultVAE, MultVAEConfig
from recbole_vae.nn.linear import ItemItem, standardise


@dataclass(frozen=True, kw_only=True)
class HybridVAEConfig(MultVAEConfig):
    """Options of :class:`HybridVAE`."""

    linear_share: float = option(float, minimum=0, maximum=1)
    linear_l2: float = option(float, above=0)
    linear_dropout: float = option(float, minimum=0, below=1)
    linear_user_power: float = option(float, minimum=0)
    linear_item_power: float = option(float, minimum=0)


class HybridVAE(MultVAE):
    """Mult-VAE with a linear path: ``(1 - w) s(VAE's logits) + w s(x W)``, where ``w`` is ``linear_share``.

    ``s`` makes each user's scores of unseen items mean 0 and deviation 1, without which the mixture would be of different
    strength for each user. The VAE is trained as if it were alone: trained together, its loss makes the logits of the linear
    path, which knows the training items too well, too strong. ``W`` follows from the training histories and is solved when the
    model is made, also when a checkpoint is loaded, which has those histories.
    """

    config_class: ClassVar[type[ModelConfig]] = HybridVAEConfig
    options: HybridVAEConfig

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        options = self.options
        self.linear = ItemItem(
            self.histories, self.n_items - 1, options.linear_l2, options.linear_dropout,
            options.linear_user_power, options.linear_item_power,
        )  # fmt: skip

    def score(self, histories: Histories) -> Tensor:
        """Score all items by the mixture; arguments and result: see the base class."""
        mu, _ = self.posterior(histories)
        share = self.options.linear_share
        scores = standardise(self.linear(histories), histories).mul_(share)
        return self.with_padding(scores.add_(standardise(self.decoder(mu), histories), alpha=1 - share))
