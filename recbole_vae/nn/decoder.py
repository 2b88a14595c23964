"""Decoders: from latent variables to a score for each item."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from recbole_vae.nn.layers import mlp


class MLPDecoder(nn.Module):
    """The decoder of Mult-VAE and Mult-DAE: a multilayer perceptron without activation after the last layer.

    Args:
        latent_dimension: width of the input.
        hidden_sizes: widths of the hidden layers in the order in which they are applied, possibly none.
        n_items: number of items (without RecBole's padding item).
        activation: a name in :data:`~recbole_vae.nn.layers.ACTIVATIONS`, after each hidden layer.
    """

    def __init__(self, latent_dimension: int, hidden_sizes: Sequence[int], n_items: int, activation: str) -> None:
        super().__init__()
        self.layers = mlp([latent_dimension, *hidden_sizes, n_items], activation, activate_last=False)

    def forward(self, latent: Tensor) -> Tensor:
        """Return logits, shape [batch, n_items], of latent variables, shape [batch, latent_dimension]."""
        logits: Tensor = self.layers(latent)
        return logits
