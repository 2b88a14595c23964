"""Decoders: from latent variables to a score for each item."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_vae.data.histories import Histories
from recbole_vae.nn.encoder import HistoryEncoder
from recbole_vae.nn.layers import GatedLinear, dense_residual, linear, mlp, wide_linear
from recbole_vae.nn.likelihood import LogLikelihood, linear_multinomial_log_likelihood
from recbole_vae.nn.sampling import NegativeSampler, sampled_multinomial_log_likelihood


class Decoder(nn.Module):
    """A decoder whose last layer is linear.

    Args:
        layers: from latent variables to logits, shape [batch, n_items]; the last is an ``nn.Linear``.
        dtype: of the output layer's products in training; see :func:`~recbole_vae.nn.precision.training_dtype`.
        sampler: draws the items from which the likelihood is estimated in training; None for the exact likelihood.
        likelihood: a function of logits and histories; None for the multinomial one. ``dtype``, ``sampler`` and ``smoothing``
            apply to the multinomial one alone, which is fused with the output layer.
        smoothing: label smoothing; see :func:`~recbole_vae.nn.likelihood.multinomial_log_likelihood`.
    """

    def __init__(
        self,
        layers: nn.Sequential,
        dtype: torch.dtype | None = None,
        sampler: NegativeSampler | None = None,
        likelihood: LogLikelihood | None = None,
        smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.layers = layers
        self.tied = False
        self.dtype, self.sampler, self.likelihood, self.smoothing = dtype, sampler, likelihood, smoothing

    @property
    def item_dims(self) -> dict[str, tuple[int, ...]]:
        last = len(self.layers) - 1
        return {f"layers.{last}.weight": (0,), f"layers.{last}.bias": (0,)}

    def tie(self, encoder: HistoryEncoder) -> None:
        """Share the output layer's weights, but not its bias, with the encoder's first layer, of the same shape.

        The weights are then one parameter with the sum of both gradients, which halves its memory and the optimiser's.
        Reference: Pascal Vincent et al.: Stacked Denoising Autoencoders. JMLR 2010 (section 2.2, "tied weights").

        Raises:
            ValueError: the shapes differ.
        """
        output = cast(nn.Linear, self.layers[-1])
        if output.weight.shape != encoder.input.weight.shape:
            raise ValueError(f"{tuple(output.weight.shape)} cannot be tied to {tuple(encoder.input.weight.shape)}")
        output.weight = encoder.input.weight
        self.tied = True

    def lay_out_for_few(self) -> None:
        """Store the output layer's weights column by column, by which a CPU scores one history in half the time.

        The weights and their shape stay the same. Weights that the encoder shares stay as they are: it reads them by rows.
        """
        output = cast(nn.Linear, self.layers[-1])
        if not self.tied:
            output.weight.data = output.weight.data.t().contiguous().t()

    def log_likelihood(self, latent: Tensor, histories: Histories) -> Tensor:
        """Return the log-likelihood of histories, shape [batch]; the multinomial one never holds all logits at once.

        With a sampler, in training mode, it is an estimate.
        """
        if self.likelihood is not None:
            return self.likelihood(self(latent), histories)
        output = cast(nn.Linear, self.layers[-1])
        features = self.layers[:-1](latent)
        if self.sampler is not None and self.training:
            negatives = self.sampler.draw()
            return sampled_multinomial_log_likelihood(features, output.weight, output.bias, histories, negatives)
        dtype = self.dtype if features.dtype == torch.float32 else None  # a float64 model is float64 throughout
        return linear_multinomial_log_likelihood(
            features, output.weight, output.bias, histories, dtype, smoothing=self.smoothing
        )

    def forward(self, latent: Tensor) -> Tensor:
        """Return logits, shape [batch, n_items], of latent variables, shape [batch, latent_dimension]."""
        output = cast(nn.Linear, self.layers[-1])
        features: Tensor = self.layers[:-1](latent)
        # wide_linear is faster, but has no gradient and calls no hooks, by which RecBole counts operations.
        plain = torch.is_grad_enabled() or output._forward_hooks
        logits: Tensor = output(features) if plain else wide_linear(features, output.weight, output.bias)
        return logits

    def logits_of(self, latent: Tensor, items: Tensor) -> Tensor:
        """Return the logits of some items, given by their columns, int64, shape [items]; shape [batch, items]."""
        output = cast(nn.Linear, self.layers[-1])
        return F.linear(self.layers[:-1](latent), output.weight[items], output.bias[items])


class MLPDecoder(Decoder):
    """The decoder of Mult-VAE and Mult-DAE: a multilayer perceptron without activation after the last layer.

    Args:
        latent_dimension: width of the input.
        hidden_sizes: widths of the hidden layers in the order in which they are applied, possibly none.
        n_items: number of items (without RecBole's padding item).
        activation: a name in :data:`~recbole_vae.nn.layers.ACTIVATIONS`, after each hidden layer.
        dtype: see :class:`Decoder`.
        sampler: see :class:`Decoder`.
        likelihood: see :class:`Decoder`.
        smoothing: see :class:`Decoder`.
    """

    def __init__(
        self,
        latent_dimension: int,
        hidden_sizes: Sequence[int],
        n_items: int,
        activation: str,
        dtype: torch.dtype | None = None,
        sampler: NegativeSampler | None = None,
        likelihood: LogLikelihood | None = None,
        smoothing: float = 0.0,
    ) -> None:
        layers = mlp([latent_dimension, *hidden_sizes, n_items], activation, activate_last=False)
        super().__init__(layers, dtype, sampler, likelihood, smoothing)


class GatedDecoder(Decoder):
    """The decoder of H+Vamp: a gated layer for each latent variable, a joint one if there are several, then a linear layer.

    Reference: Kim and Suh, RecSys 2019, section 3.3.

    Args:
        latent_dimension: width of each latent variable; the input has them side by side.
        variables: number of latent variables.
        width: of the hidden layers.
        n_items: number of items (without RecBole's padding item).
        dtype: see :class:`Decoder`.
    """

    def __init__(
        self, latent_dimension: int, variables: int, width: int, n_items: int, dtype: torch.dtype | None = None
    ) -> None:
        joint = [GatedLinear(variables * width, width)] if variables > 1 else []
        first = _SideBySide(latent_dimension, variables, width)
        super().__init__(nn.Sequential(first, *joint, linear(width, n_items)), dtype)


class _SideBySide(nn.Module):
    """A gated layer for each of several inputs of equal width; inputs and results lie side by side."""

    def __init__(self, in_features: int, inputs: int, width: int) -> None:
        super().__init__()
        self.each = nn.ModuleList(GatedLinear(in_features, width) for _ in range(inputs))

    def forward(self, x: Tensor) -> Tensor:
        parts = x.chunk(len(self.each), dim=1)
        # By their places: torch.fx, by which a model is exported, cannot go through parts in a loop.
        return torch.cat([layer(parts[place]) for place, layer in enumerate(self.each)], 1)


class DenseDecoder(Decoder):
    """A decoder with the hidden layers of :class:`~recbole_vae.nn.encoder.DenseEncoder`, then a linear layer.

    Args:
        latent_dimension: width of the input.
        width: of all hidden layers.
        n_items: number of items (without RecBole's padding item).
        layers: number of hidden layers.
    """

    def __init__(self, latent_dimension: int, width: int, n_items: int, layers: int) -> None:
        super().__init__(nn.Sequential(_DenseLayers(latent_dimension, width, layers), linear(width, n_items)))


class _DenseLayers(nn.Module):
    def __init__(self, in_features: int, width: int, layers: int) -> None:
        super().__init__()
        self.input = linear(in_features, width)
        self.hidden = nn.ModuleList(linear(width, width) for _ in range(layers - 1))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers))

    def forward(self, latent: Tensor) -> Tensor:
        return dense_residual(self.input(latent), self.hidden, self.norms)
