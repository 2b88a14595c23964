"""Mult-DAE: a denoising autoencoder with a multinomial likelihood.

Reference: Dawen Liang, Rahul G. Krishnan, Matthew D. Hoffman, Tony Jebara: Variational Autoencoders for Collaborative
Filtering. WWW 2018.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor

from recbole_vae.data.histories import Histories
from recbole_vae.model.autoencoder import Autoencoder
from recbole_vae.model.base import LossTerms, MLPConfig
from recbole_vae.nn.decoder import MLPDecoder
from recbole_vae.nn.encoder import MLPEncoder, dropout_mask
from recbole_vae.nn.precision import training_dtype
from recbole_vae.nn.sampling import NegativeSampler
from recbole_vae.options.fields import ModelConfig


class MultDAEConfig(MLPConfig):
    """Options of MultDAE. The defaults are the paper's (Liang et al., WWW 2018)."""

    weight_decay: NonNegativeFloat = Field(
        0.00004,
        description="L2 penalty of the weight matrices: the paper's 0.01/500 * ||W||^2 has the gradient 0.00004 * W.",
    )
    stopping_step: NonNegativeInt = Field(
        50,
        description="Evaluations without a better one before training stops. "
        "RecBole's 10 ends on the plateau after the first epochs.",
    )
    latent_dimension: PositiveInt = Field(200, description="Width of the code.")
    activation: Literal["tanh", "relu", "gelu", "silu", "sigmoid", "elu"] = Field(
        "tanh", description="Activation of the hidden layers and the code."
    )


class MultDAE(Autoencoder):
    """Mult-DAE of Liang et al. (2018): an L2 penalty (``weight_decay``) in place of latent noise and a prior.

    The code ``z`` is an MLP of the normalised, dropped-out history, with an activation at the end. Training maximises
    ``log p(x | z)``, multinomial with the softmax of an MLP (section 2.1.1). The option ``likelihood`` replaces it by another.
    """

    config_class: ClassVar[type[ModelConfig]] = MultDAEConfig
    options: MultDAEConfig
    begins_with_linear_layer = True
    can_be_exported = True

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        options, items = self.options, self.n_real_items
        sampler = NegativeSampler(self.histories, items, options.n_negatives) if options.n_negatives else None
        self.encoder = MLPEncoder(
            items, options.mlp_hidden_size, options.latent_dimension, options.activation,
            activate_last=True, sparse=sampler is not None,
        )  # fmt: skip
        self.decoder = MLPDecoder(
            options.latent_dimension, options.mlp_hidden_size[::-1], items, options.activation,
            training_dtype(options.precision, self.device), sampler, options.log_likelihood(), options.label_smoothing,
        )  # fmt: skip
        if options.tied_weights:
            self.decoder.tie(self.encoder)
        self.by_softmax, self.by_sigmoid = options.by_softmax, options.by_sigmoid

    def loss_terms(self, histories: Histories, start: int, stop: int) -> LossTerms:
        """Compute the negative log-likelihood; arguments: see the base class."""
        mask = dropout_mask(histories.nnz, self.options.dropout_prob, self.encoder.input.weight)
        first, last = histories.span(start, stop)
        share = histories.slice(start, stop)
        code = self.encoder(share, mask[first:last])
        return LossTerms(reconstruction=-self.decoder.log_likelihood(code, self.targets(share)).mean())

    def code(self, features: Tensor) -> Tensor:
        """Return the code from the encoder's features, which are the code."""
        return features
