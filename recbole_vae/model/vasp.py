"""VASP: the product of the probabilities of a deep variational autoencoder and of a linear item-item model.

Reference: Vojtěch Vančura, Pavel Kordík: Deep Variational Autoencoder with Shallow Parallel Path for Top-N Recommendation
(VASP). ICANN 2021.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from recbole_vae.data.histories import Histories
from recbole_vae.errors import ConfigError
from recbole_vae.model.base import LossTerms
from recbole_vae.model.vae import VAE
from recbole_vae.nn.decoder import DenseDecoder
from recbole_vae.nn.encoder import DenseEncoder
from recbole_vae.nn.likelihood import focal_log_likelihood, product_logits
from recbole_vae.nn.linear import NeuralEASE
from recbole_vae.nn.prior import kl_standard_normal, reparameterise
from recbole_vae.options.fields import ModelConfig, option


@dataclass(frozen=True, kw_only=True)
class VASPConfig(ModelConfig):
    """Options of :class:`VASP`."""

    hidden_size: int = option(int, minimum=1)
    latent_dimension: int = option(int, minimum=1)
    encoder_layers: int = option(int, minimum=1)
    decoder_layers: int = option(int, minimum=1)
    dropout_prob: float = option(float, above=0, below=1)
    focal_gamma: float = option(float, minimum=0)
    focal_alpha: float = option(float, above=0)
    beta: float = option(float, minimum=0)

    def __post_init__(self) -> None:
        """Raise a ConfigError for weights of interactions, which the likelihood does not know."""
        super().__post_init__()
        for name, off in (("propensity_weight", "0"), ("value_field", "~")):
            if getattr(self, name):
                raise ConfigError(
                    f"{name}: {getattr(self, name)!r} cannot go with VASP, whose likelihood is of which items there are; set "
                    f"{name}: {off}."
                )


class VASP(VAE):
    """VASP of Vančura and Kordík (2021): ``p = sigmoid(f(z)) * sigmoid(x W)``, both paths trained as one.

    ``q(z | x)`` and ``f`` are dense residual networks; the diagonal of ``W`` is 0. Each step splits the history at random: the
    kept items are the input ``x``, and the focal likelihood is that of the dropped ones. So nothing can be learned by copying.
    Scores are the logits of ``p``.

    The authors' code differs: it has a third factor, linear in ``z``; its encoder's input is not normalised; the epsilon of its
    layer normalisation is 0.001 (here PyTorch's default); it uses NAdam (here Adam); and it keeps exactly half of each history
    (here each item with a fixed probability).
    """

    config_class: ClassVar[type[ModelConfig]] = VASPConfig
    options: VASPConfig
    has_other_paths = True
    by_softmax = False

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        options, items = self.options, self.n_real_items
        self.linear = NeuralEASE(items)
        self.encoder = DenseEncoder(items, options.hidden_size, 2 * options.latent_dimension, options.encoder_layers)
        self.decoder = DenseDecoder(options.latent_dimension, options.hidden_size, items, options.decoder_layers)

    def loss_terms(self, histories: Histories, start: int, stop: int) -> LossTerms:
        """Compute the terms with one random split and one sample of ``z`` per user; arguments: see the base class."""
        like, options = self.encoder.input.weight, self.options
        kept = torch.rand(len(histories.indices), device=like.device) >= options.dropout_prob
        noise = torch.randn(len(histories), options.latent_dimension, dtype=like.dtype, device=like.device)
        first, last = histories.span(start, stop)
        share, kept = histories.slice(start, stop), kept[first:last]
        given, wanted = share.where(kept), share.where(~kept)
        mu, logvar = self.posterior(given)
        logits = self.logits(given, reparameterise(mu, logvar, noise[start:stop]))
        return LossTerms(
            reconstruction=-focal_log_likelihood(logits, wanted, options.focal_gamma, options.focal_alpha).mean(),
            kl=kl_standard_normal(mu, logvar).mean(),
            beta=options.beta,
        )

    def logits(self, histories: Histories, latent: Tensor) -> Tensor:
        """Return the logits of the product of both paths' probabilities, shape [batch, n_real_items]."""
        return product_logits(self.decoder(latent), self.linear(histories))

    def score_latent(self, histories: Histories, latent: Tensor) -> Tensor:
        """Score all items; ``latent`` affects the decoder's path alone; see Autoencoder."""
        return self.with_padding(self.logits(histories, latent))
