"""Sampled softmax: the multinomial likelihood where the items are too many to score them all in each step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recbole_vae.data.histories import Histories
from recbole_vae.nn.layers import bag, by_column, row_gradient

_ENTRY_FEATURES = 2**24
"""Features of entries that are gathered at once: 64 MiB in float32."""


@dataclass(frozen=True)
class Negatives:
    """Items that stand for all that a user does not have.

    Attributes:
        items: from 0 up, ascending, none twice; int64, shape [n].
        log_weights: logarithm of how many items each stands for, shape [n]; added to its logit ("logQ correction").
    """

    items: Tensor
    log_weights: Tensor


class NegativeSampler:
    """Draws items in proportion to how often they occur, plus 1.

    Args:
        histories: the training histories; item ids from 1 up.
        n_items: number of items (without RecBole's padding item).
        n_negatives: how many are drawn, with replacement.
    """

    def __init__(self, histories: Histories, n_items: int, n_negatives: int) -> None:
        counts = torch.bincount(histories.indices.long() - 1, minlength=n_items).double() + 1
        self.probabilities = counts / counts.sum()
        # A draw looks up a random number here, at a cost that hardly grows with the number of items.
        self.cumulated = self.probabilities.cumsum(0)
        self.n_negatives = n_negatives

    def draw(self) -> Negatives:
        """Draw; an item drawn ``c`` times with probability ``q`` each stands for ``c / (n_negatives * q)`` items."""
        numbers = torch.rand(self.n_negatives, dtype=torch.float64, device=self.cumulated.device)
        drawn = torch.searchsorted(self.cumulated, numbers * self.cumulated[-1], right=True)
        items, times = torch.unique(drawn.clamp_(max=len(self.cumulated) - 1), return_counts=True)
        return Negatives(items, (times / (self.n_negatives * self.probabilities[items])).log())


def sampled_multinomial_log_likelihood(
    features: Tensor, weight: Tensor, bias: Tensor, histories: Histories, negatives: Negatives
) -> Tensor:
    """Estimate the multinomial log-likelihood under a linear output layer from the items of the histories and a sample.

    The normaliser of a history is the sum of ``exp(logit)`` over its own items, all of them, and over the negatives that are
    not among them, each times its weight (Bengio and Senecal, "Adaptive Importance Sampling to Accelerate Training of a
    Neural Probabilistic Language Model", 2008): an unbiased estimate of the whole sum. Where every item is a negative of
    weight 1 the result is :func:`~recbole_vae.nn.likelihood.multinomial_log_likelihood`.

    Args:
        features: output of the last hidden layer, shape [batch, width].
        weight: of the output layer, shape [n_items, width].
        bias: shape [n_items].
        histories: batch of histories; item ids from 1 up.
        negatives: a sample of the items, the same for all histories.

    Returns:
        Shape [batch]; 0 for a history of no items. Its gradients with respect to ``weight`` and ``bias`` are sparse, with the
        rows of the items that occur.
    """
    arguments = (features, weight, bias, histories, negatives)
    result: Tensor = _SampledMultinomial.apply(*arguments)  # type: ignore[no-untyped-call]
    return result


class _SampledMultinomial(torch.autograd.Function):
    """See :func:`sampled_multinomial_log_likelihood`."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, bias: Tensor, histories: Histories, negatives: Negatives
    ) -> Tensor:
        rows, columns = histories.rows(), histories.indices.long() - 1
        values = histories.entry_values().to(features.dtype)
        own = bias[columns]
        for part in torch.arange(len(columns), device=rows.device).split(max(1, _ENTRY_FEATURES // weight.shape[1])):
            own[part] += (weight[columns[part]] * features[rows[part]]).sum(1)
        offsets = bias[negatives.items] + negatives.log_weights.to(bias.dtype)
        others = torch.addmm(offsets, features, weight[negatives.items].t())
        places = torch.searchsorted(negatives.items, columns).clamp_(max=len(negatives.items) - 1)
        counted = negatives.items[places] == columns  # in ``own``
        others[rows[counted], places[counted]] = -torch.inf
        largest = others.amax(1).scatter_reduce(0, rows, own, "amax")
        # From here on the terms of the normaliser.
        own_terms = (own - largest[rows]).exp_()
        other_terms = others.sub_(largest.unsqueeze(1)).exp_()
        total = other_terms.sum(1).index_add(0, rows, own_terms)
        counts = torch.zeros_like(total).index_add(0, rows, values)
        ctx.save_for_backward(
            features, weight, histories.indptr, rows, columns, values, counts / total, own_terms, other_terms,
            negatives.items,
        )  # fmt: skip
        result = torch.zeros_like(total).index_add(0, rows, values * own)
        return result - counts * (largest + total.log())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        features, weight, indptr, rows, columns, values, scale, own_terms, other_terms, items = ctx.saved_tensors
        (gradient,) = gradients
        of_own = gradient[rows] * (values - scale[rows] * own_terms)
        of_others = other_terms * (-gradient * scale).unsqueeze(1)
        in_features = bag(columns, of_own, indptr, weight) + of_others @ weight[items]
        own_items, own_rows, own_values, own_offsets = by_column(columns, rows, of_own)
        touched = torch.unique(torch.cat((own_items, items)))
        in_weight = features.new_zeros(len(touched), features.shape[1])
        in_weight[torch.searchsorted(touched, own_items)] = bag(own_rows, own_values, own_offsets, features)
        in_weight[torch.searchsorted(touched, items)] += of_others.t() @ features
        in_bias = features.new_zeros(len(touched))
        in_bias.index_add_(0, torch.searchsorted(touched, columns), of_own)
        in_bias[torch.searchsorted(touched, items)] += of_others.sum(0)
        in_full = (row_gradient(touched, each, len(weight)) for each in (in_weight, in_bias))
        return in_features, *in_full, None, None
