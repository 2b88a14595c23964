"""H+Vamp: a variational autoencoder with a VampPrior, two levels of latent variables, and gated layers.

References: Daeryong Kim, Bongwon Suh: Enhancing VAEs for Collaborative Filtering: Flexible Priors & Gating Mechanisms. RecSys
2019 ("EVCF"). Jakub M. Tomczak, Max Welling: VAE with a VampPrior. AISTATS 2018.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_vae.data.histories import Histories
from recbole_vae.errors import ConfigError
from recbole_vae.model.base import LossTerms, TrainingConfig
from recbole_vae.model.vae import VAE
from recbole_vae.nn.decoder import GatedDecoder
from recbole_vae.nn.encoder import GatedEncoder, dropout_mask
from recbole_vae.nn.layers import GatedLinear, linear
from recbole_vae.nn.precision import training_dtype
from recbole_vae.nn.prior import log_normal, log_vamp, reparameterise
from recbole_vae.options.fields import ModelConfig


class VampVAEConfig(TrainingConfig):
    """Options of VampVAE. Hidden layers, latent variables and hierarchy are as in Kim and Suh (RecSys 2019)."""

    hidden_size: PositiveInt = Field(600, description="Width of the gated layers.")
    latent_dimension: PositiveInt = Field(
        200, description="Latent variables, of each of two levels where hierarchical."
    )
    hierarchical: bool = Field(True, description="Whether a second level of latent variables lies above the first.")
    n_pseudo_inputs: PositiveInt = Field(
        200,
        description="Pseudo-users whose mean posterior is the prior; each has a weight for each item, "
        "and begins as a random user.",
    )
    dropout_prob: float = Field(0.5, ge=0, lt=1, description="Probability of dropping an item of the input history.")
    anneal_cap: NonNegativeFloat = Field(0.2, description="Largest weight beta of the KL term.")
    anneal_epochs: NonNegativeFloat = Field(
        20.0, description="Epochs in which beta rises from 0 to anneal_cap; 0: it is there from the first step."
    )


class VampVAE(VAE):
    """H+Vamp (gated) of Kim and Suh (2019); without ``hierarchical``, their Vamp (gated).

    Maximises ``E_q[log p(x | z1, z2)] - beta E_q[log q(z2 | x) + log q(z1 | x, z2) - log p(z1 | z2) - log p(z2)]`` with one
    sample of ``z1`` and ``z2``. ``p(z2)`` is the VampPrior. Its pseudo-inputs are rows of weights in [0, 1], one for each item;
    they start as the histories of random users and are learned. Items are ranked at the posterior means. ``posterior`` gives
    ``z2`` and ``z1`` side by side, ``z1`` at the mean of ``z2``.

    In the authors' code the pseudo-inputs start as draws from N(0.05, 0.01^2), are not normalised, and go through dropout; the
    encoders of ``z1`` and ``z2`` drop different items of a history; and the log-variance of ``p(z1 | z2)`` is clipped.

    Raises:
        ConfigError: there are more pseudo-inputs than users with a history.
    """

    config_class: ClassVar[type[ModelConfig]] = VampVAEConfig
    options: VampVAEConfig
    by_softmax = True
    encoder: GatedEncoder
    standard_prior = False
    item_dims: ClassVar[dict[str, tuple[int, ...]]] = {"pseudo_inputs": (1,)}

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        options, items = self.options, self.n_real_items
        width, latents = options.hidden_size, options.latent_dimension
        self.encoder = GatedEncoder(items, width, latents, hierarchical=options.hierarchical)
        self.decoder = GatedDecoder(
            latents, 1 + options.hierarchical, width, items, training_dtype(options.precision, self.device)
        )
        if options.hierarchical:
            self.prior = nn.Sequential(GatedLinear(latents, width), linear(width, 2 * latents))
        self.pseudo_inputs = nn.Parameter(self._some_users(options.n_pseudo_inputs))

    def _some_users(self, number: int) -> Tensor:
        """Return the histories of random users as dense rows of 0.01 and 0.99, shape [number, n_real_items].

        Not 0 and 1, the bounds of the weights: a weight beyond them has no gradient.
        """
        users = (self.histories.lengths() > 0).nonzero().squeeze(1)
        if number > len(users):
            raise ConfigError(
                f"n_pseudo_inputs: {number} is more than the {len(users)} users with a training history that they are begun "
                f"from; set n_pseudo_inputs to {len(users)} or less."
            )
        chosen = self.histories[users[torch.randperm(len(users))[:number].to(users.device)]]
        rows = torch.full((number, self.n_real_items), 0.01, device=self.device)
        rows[chosen.rows(), chosen.columns().long()] = 0.99
        return rows

    def pseudo_posterior(self) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of ``q(z2 | u)`` of the pseudo-inputs, each of shape [K, latent_dimension]."""
        layer, used = self.encoder.input, slice(2 * self.options.hidden_size)
        rows = F.normalize(self.pseudo_inputs.clamp(0, 1), dim=1)
        return self.encoder.upper(rows @ layer.weight[:, used] + layer.bias[used])

    def loss_terms(self, histories: Histories, start: int, stop: int) -> LossTerms:
        """Compute the terms with one sample of the latent variables for each user; arguments: see the base class."""
        options, like = self.options, self.encoder.input.weight
        mask = dropout_mask(histories.nnz, options.dropout_prob, like)
        shape = (1 + options.hierarchical, len(histories), options.latent_dimension)
        noise = torch.randn(shape, dtype=like.dtype, device=like.device)[:, start:stop]
        first, last = histories.span(start, stop)
        share = histories.slice(start, stop)
        sums = self.encoder.sums(share, mask[first:last])
        mu, logvar = self.encoder.upper(sums)
        latent = upper = reparameterise(mu, logvar, noise[0])
        divergence = log_normal(upper, mu, logvar).sum(1) - log_vamp(upper, *self.pseudo_posterior())
        if options.hierarchical:
            mu, logvar = self.encoder.lower(sums, upper)
            lower = reparameterise(mu, logvar, noise[1])
            expected = self.prior(upper).chunk(2, dim=1)
            divergence = divergence + (log_normal(lower, mu, logvar) - log_normal(lower, *expected)).sum(1)
            latent = torch.cat([upper, lower], 1)
        return LossTerms(
            reconstruction=-self.decoder.log_likelihood(latent, self.targets(share)).mean(),
            kl=divergence.mean(),
            beta=self.annealed(options.anneal_cap, options.anneal_epochs),
        )
