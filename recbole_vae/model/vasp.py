"""VASP: the product of the probabilities of a deep variational autoencoder and of a linear item-item model.

Reference: Vojtěch Vančura, Pavel Kordík: Deep Variational Autoencoder with Shallow Parallel Path for Top-N Recommendation
(VASP). ICANN 2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor
from typing_extensions import Self

from recbole_vae.data.histories import Histories
from recbole_vae.errors import ConfigError
from recbole_vae.model.base import LossTerms, TrainingConfig
from recbole_vae.model.capabilities import SparseLayer
from recbole_vae.model.vae import VAE
from recbole_vae.nn.decoder import DenseDecoder
from recbole_vae.nn.encoder import DenseEncoder
from recbole_vae.nn.likelihood import focal_log_likelihood, product_logits
from recbole_vae.nn.linear import NeuralEASE
from recbole_vae.nn.prior import kl_standard_normal, reparameterise
from recbole_vae.options.fields import ModelConfig


class VASPConfig(TrainingConfig):
    """Options of VASP.

    The architecture, the focal loss and the KL term's weight are the authors' (Vancura and Kordik, ICANN 2021), with narrower
    layers and a larger learning rate; theirs stand in brackets.
    """

    train_batch_size: PositiveInt = Field(500, description="Users per training step. [1024]")
    learning_rate: PositiveFloat = Field(0.0005, description="Adam's learning rate. [0.00002]")
    weight_decay: NonNegativeFloat = Field(
        0.0, description="L2 penalty of the weight matrices, the linear path's among them (biases have none)."
    )
    hidden_size: PositiveInt = Field(600, description="Width of the hidden layers of encoder and decoder. [4096]")
    latent_dimension: PositiveInt = Field(200, description="Latent variables. [2048]")
    encoder_layers: PositiveInt = Field(7, description="Hidden layers of the encoder.")
    decoder_layers: PositiveInt = Field(5, description="Hidden layers of the decoder.")
    dropout_prob: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="Probability that an item of the history is left out of the input and is to be found instead.",
    )
    focal_gamma: NonNegativeFloat = Field(
        2.0, description="Above 0, items that are certain already count less in the likelihood."
    )
    focal_alpha: PositiveFloat = Field(
        0.3333, description="Weight of an item that is to be found, relative to one that is not. [0.25 / 0.75]"
    )
    beta: NonNegativeFloat = Field(0.0067, description="Weight of the KL term. [1 / 0.75 / latent_dimension]")

    @model_validator(mode="after")
    def _knows_no_weights(self) -> Self:
        """Raise a ConfigError for weights of interactions, which the likelihood does not have."""
        for name, off in (("propensity_weight", "0"), ("value_field", "~")):
            if getattr(self, name):
                raise ConfigError(
                    f"{name}: {getattr(self, name)!r} cannot go with VASP, whose likelihood ignores weights; set "
                    f"{name}: {off}."
                )
        return self


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
    can_be_exported = True
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
        kept = torch.rand(histories.nnz, device=like.device) >= options.dropout_prob
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

    def sparse_layers(self) -> list[SparseLayer]:
        """See Capabilities: the encoder's first layer, and the linear path."""
        return [*super().sparse_layers(), SparseLayer(self.linear.weight)]

    def logits_of_sums(self, sums: Sequence[Tensor], unseen: Tensor) -> Tensor:
        """See Capabilities."""
        return product_logits(super().logits_of_sums(sums, unseen), sums[1])
