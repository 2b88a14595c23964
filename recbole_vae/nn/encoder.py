"""Encoders: from a batch of sparse histories to the features of the posterior."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_vae.data.histories import Histories
from recbole_vae.nn.layers import (
    ACTIVATIONS,
    GatedLinear,
    SparseLinear,
    SparseProduct,
    dense_residual,
    linear,
    mlp,
)

_FEW, _POWER, _EMPTY, _GRAIN = 5.0, 1.5, 0.4, 0.001
"""See :func:`dropout_for`."""


def normalise(histories: Histories, dtype: torch.dtype) -> Tensor:
    """Scale each history to unit Euclidean length (Liang et al. 2018, section 3.3).

    Returns:
        The value of each entry, shape [nnz]. An empty history has no entries, so nothing is divided by 0.
    """
    rows = histories.rows()
    if histories.values is None:
        return histories.lengths().double().rsqrt()[rows].to(dtype)
    values = histories.values.double()  # squares of float32 numbers neither underflow nor overflow in float64
    return (values * histories.sums(values * values).rsqrt()[rows]).to(dtype)


def dropout_mask(entries: int, probability: float, like: Tensor) -> Tensor:
    """Draw the factor of each input entry: 0 with ``probability``, else ``1 / (1 - probability)``; shape [entries]."""
    keep = 1.0 - probability
    return torch.empty(entries, dtype=like.dtype, device=like.device).bernoulli_(keep).div_(keep)


def dropout_for(histories: Histories, n_items: int) -> float:
    """Return the probability of dropout that suits a table of training histories: the lower of two.

    The first has ``p / (1 - p) = 1 + (5 / n) ** 1.5``, where ``n`` is the mean number of users of the items that occur. On the
    input of a linear model, dropout is a ridge of ``p / (1 - p)`` times the diagonal of the Gram matrix, whose mean is ``n``
    (Steck, NeurIPS 2020). An item's weights that are learned from few users need a larger ridge than that.

    The second leaves 40 % of the inputs empty: the mean of ``p ** length`` over the histories is 0.4. From an empty input a model
    learns what is popular, and nothing else.

    Args:
        histories: the training histories.
        n_items: number of items (without RecBole's padding item).

    Returns:
        Between 0.4 and 0.93. It is 0.5 and little more for dense data.
    """
    users = histories.counts(n_items).double()
    odds = 1 + (_FEW / float(users[users > 0].mean())) ** _POWER
    lengths = histories.lengths().double()
    lengths = lengths[lengths > 0]
    probability: float = odds / (1 + odds)
    while float((probability**lengths).mean()) > _EMPTY:
        probability -= _GRAIN
    return round(probability, 3)


class ProfileLinear(nn.Module):
    """A linear layer on profiles, without a bias. Its weights begin at 0, so that no other random numbers are drawn with it.

    Args:
        n_features: number of columns of the profiles.
        width: of the output.
    """

    feature_dims: ClassVar[dict[str, tuple[int, ...]]] = {"weight": (0,)}

    def __init__(self, n_features: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_features, width))

    def forward(self, profiles: Histories) -> Tensor:
        """Apply the layer to a batch of profiles; shape [batch, width]. An empty profile gives 0."""
        values = profiles.entry_values().to(self.weight.dtype)
        product: Tensor = SparseProduct.apply(  # type: ignore[no-untyped-call]
            profiles.columns(), values, profiles.indptr, self.weight, False
        )
        return product


class HistoryEncoder(nn.Module):
    """An encoder that begins with a linear layer on the normalised history, and one on the profile where there are profiles.

    Args:
        n_items: number of items (without RecBole's padding item).
        width: outputs of the first layer.
        sparse: whether the gradient of the first layer's weights is sparse.
        n_profile: number of columns of the profiles; 0 for none.

    Attributes:
        profile: the layer on the profiles; None without.
    """

    def __init__(self, n_items: int, width: int, *, sparse: bool = False, n_profile: int = 0) -> None:
        super().__init__()
        self.input = SparseLinear(n_items, width, sparse=sparse)
        self.profile = ProfileLinear(n_profile, width) if n_profile else None

    def forward(self, histories: Histories, mask: Tensor | None = None) -> Tensor:
        """Encode histories.

        Args:
            histories: batch of histories.
            mask: factor of each entry of the normalised histories (see :func:`dropout_mask`), shape [nnz].

        Returns:
            Features, shape [batch, n_features].
        """
        return self.features(self.sums(histories, mask))

    def sums(self, histories: Histories, mask: Tensor | None = None) -> Tensor:
        """Return the output of the first layer, shape [batch, width]; arguments: those of :meth:`forward`.

        What :meth:`of_profiles` returns is added to that of the histories.
        """
        values = normalise(histories, self.input.weight.dtype)
        if mask is not None:
            values = values * mask
        sums: Tensor = self.input(histories.columns(), values, histories.indptr)
        if histories.profiles is None:
            return sums
        return sums + self.of_profiles(histories.profiles, histories.lengths())

    def of_profiles(self, profiles: Histories, lengths: Tensor) -> Tensor:
        """Return what profiles add to the output of the first layer, shape [batch, width].

        A profile counts as one more item of the history: of ``n`` normalised items each has the weight ``1 / sqrt(n)``, and the
        profile ``1 / sqrt(n + 1)``. So it matters less, the more is known.

        Args:
            profiles: batch of profiles.
            lengths: number of items of each history, shape [batch] or, for a single profile, of any length.
        """
        if self.profile is None:
            return self.input.weight.new_zeros(len(lengths), self.input.weight.shape[1])
        found: Tensor = self.profile(profiles)
        return found * (lengths + 1).to(found.dtype).rsqrt().unsqueeze(1)

    @abstractmethod
    def features(self, sums: Tensor) -> Tensor:
        """Return the features, shape [batch, n_features], from the output of the first layer, shape [batch, width]."""


class MLPEncoder(HistoryEncoder):
    """The encoder of Mult-VAE and Mult-DAE: a multilayer perceptron on the normalised history.

    Args:
        n_items: number of items (without RecBole's padding item).
        hidden_sizes: widths of the hidden layers, possibly none.
        n_features: width of the output.
        activation: a name in :data:`~recbole_vae.nn.layers.ACTIVATIONS`, after each hidden layer.
        activate_last: whether the activation follows the output, too (the code of Mult-DAE).
        sparse: whether the gradient of the first layer's weights is sparse.
        n_profile: number of columns of the profiles; 0 for none.
    """

    def __init__(
        self,
        n_items: int,
        hidden_sizes: Sequence[int],
        n_features: int,
        activation: str,
        *,
        activate_last: bool,
        sparse: bool = False,
        n_profile: int = 0,
    ) -> None:
        first, *rest = [*hidden_sizes, n_features]
        super().__init__(n_items, first, sparse=sparse, n_profile=n_profile)
        activated = bool(rest) or activate_last
        self.activation: nn.Module = ACTIVATIONS[activation]() if activated else nn.Identity()
        self.layers = mlp([first, *rest], activation, activate_last=activate_last)

    def features(self, sums: Tensor) -> Tensor:
        """Return the features, shape [batch, n_features], from the output of the first layer, shape [batch, width]."""
        features: Tensor = self.layers(self.activation(sums))
        return features


class DenseEncoder(HistoryEncoder):
    """RecVAE's encoder: five layers, each with the sum of all earlier ones as input (Shenbin et al. 2020).

    The features are a linear function of the last hidden layer of :func:`~recbole_vae.nn.layers.dense_residual`.

    Args:
        n_items: number of items (without RecBole's padding item).
        width: of all hidden layers.
        n_features: width of the output.
        layers: number of hidden layers.
    """

    def __init__(self, n_items: int, width: int, n_features: int, layers: int = 5) -> None:
        super().__init__(n_items, width)
        self.hidden = nn.ModuleList(linear(width, width) for _ in range(layers - 1))
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=0.1) for _ in range(layers))  # the authors' eps
        self.output = linear(width, n_features)

    def features(self, sums: Tensor) -> Tensor:
        """Return the features, shape [batch, n_features], from the output of the first layer, shape [batch, width]."""
        features: Tensor = self.output(dense_residual(sums, self.hidden, self.norms))
        return features


class GatedEncoder(HistoryEncoder):
    """The encoder of H+Vamp: gated layers to one latent variable, or to two, where the lower depends on the upper.

    With ``g`` a gated layer (:class:`~recbole_vae.nn.layers.GatedLinear`), ``q(z2 | x)`` has parameters linear in ``g(x)``, and
    ``q(z1 | x, z2)`` linear in ``g([g(x), g(z2)])`` (Kim and Suh, RecSys 2019, sections 3.2 and 3.3). The features
    are ``[mu2, mu1, logvar2, logvar1]`` with ``z2 = mu2`` for the last; without hierarchy ``[mu2, logvar2]``.

    Args:
        n_items: number of items (without RecBole's padding item).
        width: of all hidden layers.
        latent_dimension: of each latent variable.
        hierarchical: whether there are two.
    """

    def __init__(self, n_items: int, width: int, latent_dimension: int, *, hierarchical: bool) -> None:
        super().__init__(n_items, (4 if hierarchical else 2) * width)
        self.hierarchical, self.width = hierarchical, width
        self.of_upper = linear(width, 2 * latent_dimension)
        if hierarchical:
            self.from_upper = GatedLinear(latent_dimension, width)
            self.joint = GatedLinear(2 * width, width)
            self.of_lower = linear(width, 2 * latent_dimension)

    def upper(self, sums: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of ``q(z2 | x)`` from the first half of the first layer's output."""
        return _gaussian(self.of_upper(F.glu(sums[:, : 2 * self.width], dim=1)))

    def lower(self, sums: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of ``q(z1 | x, z2)`` from the second half and ``z2``, shape [batch, latent_dimension]."""
        of_history = F.glu(sums[:, 2 * self.width :], dim=1)
        return _gaussian(self.of_lower(self.joint(torch.cat([of_history, self.from_upper(upper)], 1))))

    def features(self, sums: Tensor) -> Tensor:
        """Return the features, shape [batch, n_features], from the output of the first layer, shape [batch, width]."""
        mu, logvar = self.upper(sums)
        if not self.hierarchical:
            return torch.cat([mu, logvar], 1)
        mu_lower, logvar_lower = self.lower(sums, mu)
        return torch.cat([mu, mu_lower, logvar, logvar_lower], 1)


def _gaussian(features: Tensor) -> tuple[Tensor, Tensor]:
    mu, logvar = features.chunk(2, dim=1)
    return mu, logvar.clamp(-12, 4)  # the bounds of the authors' code
