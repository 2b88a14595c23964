"""Likelihoods of a history under the decoder: computed from logits, or fused with the output layer.

Reference: Dawen Liang, Rahul G. Krishnan, Matthew D. Hoffman, Tony Jebara: Variational Autoencoders for Collaborative
Filtering. WWW 2018.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_vae.data.histories import Histories
from recbole_vae.nn.layers import wide_linear

LogLikelihood = Callable[[Tensor, Histories], Tensor]
"""From logits, shape [batch, n_items], and a batch of histories to the log-likelihood of each history, shape [batch]."""

LOGITS_PER_CHUNK = 2**26
"""Logits that the fused likelihood holds at once: 256 MiB in float32. If there are more, the gradient computes them again.

It is larger than in :mod:`recbole_vae.nn.chunks`, because computing them again takes a quarter of a training step."""


_ROWS = 64
"""Rows that a CPU sums at once, so that they stay in its cache."""


def multinomial_log_likelihood(logits: Tensor, histories: Histories, smoothing: float = 0.0) -> Tensor:
    """Multinomial log-likelihood of each history, without its constant (Liang et al. 2018, equation 2).

    ``sum_i x_i log softmax(logits)_i``, computed from the entries of the history alone as
    ``sum_i x_i logits_i - (sum_i x_i) logsumexp(logits)``: no dense history is made.

    Args:
        logits: shape [batch, n_items].
        histories: batch of histories.
        smoothing: share of each history, in [0, 1), that is spread evenly over all items: ``(1 - smoothing) x_i + smoothing
            (sum_j x_j) / n_items`` replaces ``x_i`` (label smoothing; Szegedy et al.: Rethinking the Inception Architecture for
            Computer Vision. CVPR 2016, section 7).

    Returns:
        Shape [batch]; 0 for an empty history.
    """
    rows, values, own = _entries(logits, histories)
    log_normaliser = torch.logsumexp(logits, dim=1)
    result = _sums((1 - smoothing) * values * (own - log_normaliser[rows]), rows, logits)
    if smoothing:
        result = result + smoothing * _sums(values, rows, logits) * (logits.mean(1) - log_normaliser)
    return result


def bernoulli_log_likelihood(logits: Tensor, histories: Histories) -> Tensor:
    """Log-likelihood of the presence of each item, independently of the others (Liang et al. 2018, equation 4, "logistic").

    ``sum_i x_i log sigmoid(logits)_i + (1 - x_i) log(1 - sigmoid(logits)_i)``, where ``x_i`` is 1 for an item of the history,
    whatever its weight, and else 0; arguments and result: see :data:`LogLikelihood`.
    """
    rows, _, own = _entries(logits, histories)
    return _sums(own, rows, logits) - F.softplus(logits).sum(1)


def gaussian_log_likelihood(logits: Tensor, histories: Histories, confidence: float) -> Tensor:
    """Log-likelihood of the weights with Gaussian noise, without its constant (Liang et al. 2018, equation 3).

    ``-1/2 sum_i c_i (x_i - logits_i)^2``, where ``c_i`` is ``confidence`` for an item of the history and 1 for the others, whose
    ``x_i`` is 0, as in weighted matrix factorisation (Hu, Koren and Volinsky: Collaborative Filtering for Implicit Feedback
    Datasets. ICDM 2008); other arguments and result: see :data:`LogLikelihood`.
    """
    rows, values, own = _entries(logits, histories)
    seen = confidence * (values - own).square() - own.square()
    return -0.5 * (logits.square().sum(1) + _sums(seen, rows, logits))


def poisson_log_likelihood(logits: Tensor, histories: Histories) -> Tensor:
    """Log-likelihood of the weights as Poisson counts with log rates ``logits``, without its constant.

    ``sum_i x_i logits_i - exp(logits_i)``; arguments and result: see :data:`LogLikelihood`. Conditional on the sum of the
    counts, it is the multinomial likelihood.
    """
    rows, values, own = _entries(logits, histories)
    return _sums(values * own, rows, logits) - logits.exp().sum(1)


def focal_log_likelihood(logits: Tensor, histories: Histories, gamma: float, alpha: float) -> Tensor:
    """Bernoulli log-likelihood that gives less weight to items already predicted well.

    ``sum_i alpha x_i (1 - p_i)^gamma log p_i + (1 - x_i) p_i^gamma log(1 - p_i)`` with ``p = sigmoid(logits)`` and ``x`` as in
    :func:`bernoulli_log_likelihood`. ``alpha`` is the weight of present relative to absent items; Lin et al. (Focal Loss for
    Dense Object Detection. ICCV 2017, equation 5) have ``alpha`` and ``1 - alpha``. Other arguments and result: see
    :data:`LogLikelihood`.
    """

    def absent(each: Tensor) -> Tensor:
        return (gamma * F.logsigmoid(each)).exp() * F.logsigmoid(-each)

    rows, _, own = _entries(logits, histories)
    # A present item has the term of an absent one with the opposite logit.
    return absent(logits).sum(1) + _sums(alpha * absent(-own) - absent(own), rows, logits)


def product_logits(one: Tensor, other: Tensor) -> Tensor:
    """Return the logits of ``sigmoid(one) * sigmoid(other)``, of the same shape; finite for finite arguments."""
    # p / (1 - p) of p = 1 / ((1 + e^-a) (1 + e^-b)).
    return -torch.logaddexp(torch.logaddexp(-one, -other), -one - other)


def _entries(logits: Tensor, histories: Histories) -> tuple[Tensor, Tensor, Tensor]:
    """Return row, weight and logit of each entry of the histories, each of shape [nnz]."""
    rows = histories.rows()
    return rows, histories.entry_values().to(logits.dtype), logits[rows, histories.columns()]


def _sums(terms: Tensor, rows: Tensor, logits: Tensor) -> Tensor:
    """Sum the terms of the entries of each history, shape [nnz] to [batch]."""
    return logits.new_zeros(len(logits)).index_add(0, rows, terms)


def linear_multinomial_log_likelihood(
    features: Tensor,
    weight: Tensor,
    bias: Tensor,
    histories: Histories,
    dtype: torch.dtype | None = None,
    logits_per_chunk: int = LOGITS_PER_CHUNK,
    smoothing: float = 0.0,
) -> Tensor:
    """Compute ``multinomial_log_likelihood(features @ weight.T + bias, histories, smoothing)`` in less memory and time.

    The logits are computed for one chunk of the items at a time. If one chunk holds all items, its log-probabilities are kept
    and become the gradient in place. If there are more, the gradient computes each chunk again (as Wijmans et al., "Cut Your
    Losses in Large-Vocabulary Language Models", 2025, do on a GPU). The gradient with respect to the logits is
    ``x - (sum_i x_i) softmax(logits)``, with the smoothed ``x``; the rest is matrix products.

    Args:
        features: output of the last hidden layer, shape [batch, width].
        weight: of the output layer, shape [n_items, width].
        bias: shape [n_items].
        histories: batch of histories.
        dtype: of the matrix products and the logits, by default that of ``features``, in which sums over items and the
            result are.
        logits_per_chunk: how many logits are held at once.
        smoothing: see :func:`multinomial_log_likelihood`.

    Returns:
        Shape [batch]; 0 for an empty history. First derivatives exist with respect to features, weight and bias.
    """
    arguments = (features, weight, bias, histories, dtype or features.dtype, logits_per_chunk, smoothing)
    result: Tensor = _LinearMultinomial.apply(*arguments)  # type: ignore[no-untyped-call]
    return result


class _LinearMultinomial(torch.autograd.Function):
    """See :func:`linear_multinomial_log_likelihood`."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor,
        histories: Histories,
        dtype: torch.dtype,
        per_chunk: int,
        smoothing: float,
    ) -> Tensor:
        rows, columns = histories.rows(), histories.columns()
        values = histories.entry_values().to(features.dtype)
        counts = histories.totals(features.dtype)
        # What smoothing leaves to each entry, and what it gives to each item.
        values, spread = (1 - smoothing) * values, smoothing / len(weight) * counts
        width = max(1, per_chunk // max(1, len(features)))
        if width >= len(weight):
            logs = torch.log_softmax(wide_linear(features, weight, bias, dtype), 1)
            terms = values * logs[rows, columns].to(values.dtype)
            result = _sums(terms, rows, features)
            if smoothing:
                result += spread * logs.sum(1, dtype=spread.dtype)
            ctx.logs, ctx.chunks = logs, None
        else:
            ctx.logs, ctx.chunks = None, _chunks(columns, len(weight), width)
            normaliser = torch.full_like(counts, -torch.inf)
            result = torch.zeros_like(counts)
            for start, stop, entries in ctx.chunks:
                logits = wide_linear(features, weight[start:stop], bias[start:stop], dtype)
                picked = logits[rows[entries], columns[entries] - start].to(values.dtype)
                result.index_add_(0, rows[entries], values[entries] * picked)
                # log_softmax is the fastest way to a log-sum-exp: one pass over the chunk.
                in_full = logits.to(normaliser.dtype)
                if smoothing:
                    result += spread * in_full.sum(1)
                normaliser = torch.logaddexp(normaliser, in_full[:, 0] - torch.log_softmax(in_full, 1)[:, 0])
            # An empty history has 0, whatever its normaliser.
            result -= counts * normaliser
            ctx.normaliser = normaliser
        ctx.dtype, ctx.smoothing = dtype, smoothing
        ctx.save_for_backward(features, weight, bias, rows, columns, values, counts, spread)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        features, weight, bias, rows, columns, values, counts, spread = ctx.saved_tensors
        (gradient,) = gradients
        scale = (-gradient * counts).unsqueeze(1)
        entry_gradient, item_gradient = gradient[rows] * values, (gradient * spread).unsqueeze(1)
        low = features.to(ctx.dtype)
        if ctx.chunks is None:
            logs, ctx.logs = ctx.logs, None
            if logs is None:  # an earlier backward pass made them the gradient
                logs = torch.log_softmax(wide_linear(features, weight, bias, ctx.dtype), 1)
            delta = logs.exp_().mul_(scale.to(ctx.dtype))
            if ctx.smoothing:
                delta += item_gradient.to(ctx.dtype)
            delta[rows, columns] += entry_gradient.to(ctx.dtype)
            return *_products(delta, low, weight, features, ctx.needs_input_grad), None, None, None, None
        in_features, in_weight, in_bias = (
            torch.zeros_like(each) if needed else None
            for each, needed in zip((features, weight, bias), ctx.needs_input_grad[:3], strict=True)
        )
        for start, stop, entries in ctx.chunks:
            part = weight[start:stop]
            logits = wide_linear(features, part, bias[start:stop], ctx.dtype)
            # In the dtype of the features: a normaliser rounded to bfloat16 would scale the gradient of a whole history.
            delta = logits.to(features.dtype).sub_(ctx.normaliser.unsqueeze(1)).exp_().mul_(scale)
            if ctx.smoothing:
                delta += item_gradient
            delta = delta.to(ctx.dtype)
            delta[rows[entries], columns[entries] - start] += entry_gradient[entries].to(ctx.dtype)
            parts = _products(delta, low, part, features, ctx.needs_input_grad)
            places = (slice(None), slice(start, stop), slice(start, stop))
            for whole, place, gradient_part in zip((in_features, in_weight, in_bias), places, parts, strict=True):
                if whole is not None and gradient_part is not None:
                    whole[place] += gradient_part
        return in_features, in_weight, in_bias, None, None, None, None


def _products(
    delta: Tensor, low: Tensor, weight: Tensor, features: Tensor, needed: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients with respect to features, weight and bias, if needed, from that with respect to the logits."""
    in_features = (delta @ weight.to(delta.dtype)).to(features.dtype) if needed[0] else None
    in_weight = (delta.t() @ low).to(weight.dtype) if needed[1] else None
    if not needed[2]:
        return in_features, in_weight, None
    if delta.is_cuda:
        return in_features, in_weight, delta.sum(0, dtype=weight.dtype)
    # Some rows at a time: on a CPU torch's sum with another dtype first converts all of delta, which is slower than the products.
    in_bias = torch.zeros(delta.shape[1], dtype=weight.dtype, device=weight.device)
    for rows in delta.split(_ROWS):
        in_bias += rows.to(weight.dtype).sum(0)
    return in_features, in_weight, in_bias


def _chunks(columns: Tensor, n_items: int, width: int) -> list[tuple[int, int, Tensor]]:
    """Divide the items into chunks; return the bounds of each, and the positions of the entries in it."""
    ordered, order = columns.sort()
    starts = list(range(0, n_items, width))
    bounds = torch.searchsorted(ordered, torch.tensor([*starts, n_items], device=columns.device)).tolist()
    return [
        (start, min(start + width, n_items), order[first:last])
        for start, first, last in zip(starts, bounds[:-1], bounds[1:], strict=True)
    ]
