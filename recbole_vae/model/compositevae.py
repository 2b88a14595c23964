"""RecVAE's model: a composite prior, a deep encoder, a linear decoder, and alternating training of the two.

Reference: Ilya Shenbin, Anton Alekseev, Elena Tutubalina, Valentin Malykh, Sergey I. Nikolenko: RecVAE: A New Variational
Autoencoder for Top-N Recommendations with Implicit Feedback. WSDM 2020. RecBole has a model RecVAE, whose noise has a standard
deviation of 0.01 instead of 1.
"""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from recbole_vae.data.histories import Histories
from recbole_vae.model.base import LossTerms, TrainingConfig
from recbole_vae.model.vae import VAE
from recbole_vae.nn.decoder import MLPDecoder
from recbole_vae.nn.encoder import DenseEncoder, dropout_mask
from recbole_vae.nn.precision import training_dtype
from recbole_vae.nn.prior import log_composite, log_normal, reparameterise
from recbole_vae.options.fields import ModelConfig


class CompositeVAEConfig(TrainingConfig):
    """Options of CompositeVAE. The defaults are those of the authors' code (Shenbin et al., WSDM 2020)."""

    learning_rate: PositiveFloat = Field(0.0005, description="Adam's learning rate, of encoder and decoder.")
    stopping_step: NonNegativeInt = Field(
        20,
        description="Evaluations without a better one before training stops. "
        "An epoch is 3 passes for the encoder and 1 for the decoder.",
    )
    hidden_size: PositiveInt = Field(600, description="Width of the encoder's five layers.")
    latent_dimension: PositiveInt = Field(200, description="Latent variables.")
    dropout_prob: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="Probability of dropping an item of the input history while the encoder is trained.",
    )
    gamma: NonNegativeFloat = Field(0.005, description="Weight of a user's KL term for each interaction.")


class CompositeVAE(VAE):
    """RecVAE of Shenbin et al. (2020).

    Maximises ``E_q[log p(x | z)] - gamma |x| KL(q || p(z | old, x))`` with the composite prior of
    :func:`~recbole_vae.nn.prior.log_composite` and ``|x|`` the user's number of interactions. The sample of ``z`` estimates the
    divergence. An epoch has three passes that train the encoder on histories with dropout, then one that trains the decoder
    on whole histories. Before the last, the prior's earlier encoder becomes a copy of the current one, as in the authors' code.
    """

    config_class: ClassVar[type[ModelConfig]] = CompositeVAEConfig
    options: CompositeVAEConfig
    by_softmax = True
    passes = ("encoder", "encoder", "encoder", "decoder")
    standard_prior = False

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        options, items = self.options, self.n_real_items
        self.encoder = DenseEncoder(items, options.hidden_size, 2 * options.latent_dimension)
        self.decoder = MLPDecoder(
            options.latent_dimension, [], items, "tanh", training_dtype(options.precision, self.device)
        )
        self.earlier = copy.deepcopy(self.encoder).requires_grad_(False)
        self._denoising = True
        self._mean_total = float(self.histories.totals()[self.histories.lengths() > 0].double().mean())

    def relative_beta(self, histories: Histories) -> Tensor:
        """See :class:`VAE`: proportional to the length of the history."""
        return histories.totals() / self._mean_total

    def begin_pass(self, name: str) -> None:
        """Train the encoder or the decoder; before the decoder's pass, copy the encoder into the prior."""
        self._denoising = name == "encoder"
        self.encoder.requires_grad_(self._denoising)
        self.decoder.requires_grad_(not self._denoising)
        if not self._denoising:
            self.earlier.load_state_dict(self.encoder.state_dict())

    def loss_terms(self, histories: Histories, start: int, stop: int) -> LossTerms:
        """Compute the terms with one sample of ``z`` per user; in the decoder's pass no KL term; see the base class."""
        like = self.encoder.input.weight
        mask = dropout_mask(histories.nnz, self.options.dropout_prob, like) if self._denoising else None
        noise = torch.randn(len(histories), self.options.latent_dimension, dtype=like.dtype, device=like.device)
        first, last = histories.span(start, stop)
        share = histories.slice(start, stop)
        mu, logvar = self.posterior(share, None if mask is None else mask[first:last])
        latent = reparameterise(mu, logvar, noise[start:stop])
        targets = self.targets(share)
        reconstruction = -self.decoder.log_likelihood(latent, targets).mean()
        if not self._denoising:  # the divergence does not depend on the decoder
            return LossTerms(reconstruction)
        earlier = self.earlier(share).chunk(2, dim=1)
        divergence = (log_normal(latent, mu, logvar) - log_composite(latent, *earlier)).sum(1)
        beta, relative = self.options.gamma * self._mean_total, self.relative_beta(targets).to(divergence)
        return LossTerms(reconstruction, divergence.mean(), beta, beta * (relative * divergence).mean())
