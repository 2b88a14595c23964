"""Sampled softmax: the multinomial likelihood for catalogues too large to score all items in each step."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recbole_vae.data.histories import Histories
from recbole_vae.nn.layers import bag, by_column, row_gradient

# The tests compare the functions that are used below with dense tables.
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")


@dataclass(frozen=True)
class Negatives:
    """A sample of items that stands for all items that a user does not have.

    Attributes:
        items: from 0 up, ascending, none twice; int64, shape [n].
        log_weights: logarithm of the number of items that each stands for, shape [n]; added to its logit ("logQ correction").
    """

    items: Tensor
    log_weights: Tensor


class NegativeSampler:
    """Draws distinct items, each with a probability proportional to its number of interactions plus 1, capped at 1.

    So the most frequent items are always drawn and add no noise. The draw is systematic (Madow, "On the Theory of Systematic
    Sampling", 1949): the probabilities lie side by side on a line, and points at unit distance, with a random start, pick items.

    Args:
        histories: the training histories.
        n_items: number of items (without RecBole's padding item).
        n_negatives: how many items are drawn; at least 1.
    """

    def __init__(self, histories: Histories, n_items: int, n_negatives: int) -> None:
        sizes = histories.counts(n_items).double() + 1
        self.n_negatives = min(n_negatives, n_items)
        self.probabilities = _inclusion_probabilities(sizes, self.n_negatives)
        # A draw searches here, so its cost hardly grows with the number of items.
        self.cumulated = self.probabilities.cumsum(0)

    def draw(self) -> Negatives:
        """Draw ``n_negatives`` items; one that is drawn with probability ``p`` stands for ``1 / p`` items."""
        comb = torch.arange(self.n_negatives, device=self.cumulated.device)
        comb = comb + torch.rand((), dtype=torch.float64, device=comb.device)
        # Rounding of the sum may put the last point beyond the end.
        items = torch.searchsorted(self.cumulated, comb, right=True).clamp_(max=len(self.cumulated) - 1)
        items = torch.unique_consecutive(items)
        return Negatives(items, -self.probabilities[items].log())


def _inclusion_probabilities(sizes: Tensor, number: int) -> Tensor:
    """Return probabilities proportional to ``sizes``, capped at 1, that sum to ``number``; float64, shape [n]."""
    ordered, order = sizes.sort(descending=True)
    # If the k largest have probability 1, the next has (number - k) * size / (sum of the sizes from it on). Take the smallest k
    # for which that is at most 1.
    rest = ordered.flip(0).cumsum(0).flip(0)
    certain = int((torch.arange(number, 0, -1, device=sizes.device) * ordered[:number] > rest[:number]).sum())
    probabilities = torch.ones_like(sizes)
    share = (number - certain) / rest[certain] if certain < len(sizes) else 1.0
    probabilities[order[certain:]] = ordered[certain:] * share
    return probabilities


def sampled_multinomial_log_likelihood(
    features: Tensor, weight: Tensor, bias: Tensor, histories: Histories, negatives: Negatives
) -> Tensor:
    """Estimate the multinomial log-likelihood under a linear output layer from the histories' own items and a sample.

    The normaliser of a history is the sum of ``exp(logit)`` over all its own items, plus that over the negatives that are not
    among them, each multiplied by its weight (Bengio and Senecal, "Adaptive Importance Sampling to Accelerate Training of a
    Neural Probabilistic Language Model", 2008). It is an unbiased estimate of the sum over all items. If every item is a
    negative of weight 1, the result is :func:`~recbole_vae.nn.likelihood.multinomial_log_likelihood`.

    Args:
        features: output of the last hidden layer, shape [batch, width].
        weight: of the output layer, shape [n_items, width].
        bias: of the output layer, shape [n_items].
        histories: batch of histories.
        negatives: a sample of the items, the same for all histories.

    Returns:
        Shape [batch]; 0 for an empty history. The gradients with respect to ``weight`` and ``bias`` are sparse: they have the
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
        rows, columns = histories.rows(), histories.columns().long()
        values = histories.entry_values().to(features.dtype)
        # The logits of the entries alone.
        places = torch.sparse_csr_tensor(
            histories.indptr, columns, torch.zeros_like(values), (len(features), len(weight)), check_invariants=False
        )
        own = torch.sparse.sampled_addmm(places, features, weight.t(), beta=0.0).values() + bias[columns]
        offsets = bias[negatives.items] + negatives.log_weights.to(bias.dtype)
        others = torch.addmm(offsets, features, weight[negatives.items].t())
        places = torch.searchsorted(negatives.items, columns).clamp_(max=len(negatives.items) - 1)
        counted = negatives.items[places] == columns  # in ``own``
        others[rows[counted], places[counted]] = -torch.inf
        largest = others.amax(1).scatter_reduce(0, rows, own, "amax")
        # From here on, ``own_terms`` and ``other_terms`` are the terms of the normaliser.
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
