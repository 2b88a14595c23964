"""Likelihoods of a history under the decoder's logits."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_vae.data.histories import Histories


def multinomial_log_likelihood(logits: Tensor, histories: Histories) -> Tensor:
    """Multinomial log-likelihood of each history, without its constant (Liang et al. 2018, equation 2).

    ``sum_i x_i log softmax(logits)_i``, computed from the entries of the history alone as
    ``sum_i x_i logits_i - (sum_i x_i) logsumexp(logits)``: no dense history is made.

    Args:
        logits: shape [batch, n_items].
        histories: batch of histories; item ids from 1 up, item ``i`` belongs to ``logits[:, i - 1]``.

    Returns:
        Shape [batch]; 0 for a history of no items.
    """
    rows = histories.rows()
    values = histories.entry_values().to(logits.dtype)
    log_normaliser = torch.logsumexp(logits, dim=1)
    terms = values * (logits[rows, histories.indices - 1] - log_normaliser[rows])
    return torch.zeros_like(log_normaliser).index_add(0, rows, terms)
