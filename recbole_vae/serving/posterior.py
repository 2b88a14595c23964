"""Samples from the posterior of a history's latent variables: the uncertainty of rankings, and diversified rankings.

A model with a posterior declares ``has_posterior`` and has the methods of :class:`~recbole_vae.model.vae.VAE`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_vae.data.histories import Histories
from recbole_vae.errors import ConfigError
from recbole_vae.model.base import HistoryRecommender
from recbole_vae.nn.chunks import rows_per_chunk
from recbole_vae.options.limits import LARGEST

LEVEL = 0.9
"""Share of the samples within the interval of an item's rank."""


@dataclass(frozen=True)
class Sampling:
    """How the posterior is sampled for a ranking.

    Attributes:
        samples: number of samples from which a ranking's certainty is estimated; 0 for none.
        diversify: above 0, each place but the first is filled from a sample of its own, with the posterior's standard deviation
            multiplied by this (see :func:`thompson`).
        seed: seed of the noise.
    """

    samples: int = 0
    diversify: float = 0.0
    seed: int = 0

    def check(self, model: Any) -> None:
        """Raise a ConfigError if a value is not allowed, or if the model has no posterior to sample from."""
        for name in ("samples", "seed"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 0:
                raise ConfigError(f"{name}: {value!r} is not allowed; it must be an integer >= 0.")
        if not 0 <= self.diversify <= LARGEST:
            raise ConfigError(
                f"diversify: {self.diversify!r} is not allowed; it must be a number >= 0 and <= {LARGEST:.0f}."
            )
        if self.samples and self.diversify:
            raise ConfigError(
                "samples and diversify cannot be given together: intervals and stability describe the plain ranking."
            )
        if self.samples or self.diversify:
            check_posterior(model)


def check_posterior(model: HistoryRecommender) -> None:
    """Raise a ConfigError unless a model has a posterior to sample from."""
    if not model.has_posterior:
        raise ConfigError(
            f"{type(model).__name__} has no posterior: it encodes each history as a single point, so there is nothing to "
            "sample. Set samples: 0 and no diversify, or take a model with a posterior, such as MultVAE."
        )


@torch.no_grad()
def sampled_scores(
    model: Any, histories: Histories, samples: int, *, seed: int = 0, temperature: float = 1.0
) -> Iterator[Tensor]:
    """Score all items at samples ``z = mu + temperature * sigma * noise``, with noise from N(0, I), one after the other.

    ``mu`` and ``sigma`` are those of ``comparable_posterior``, because users are compared by the spread of their samples.
    The noise of a history depends only on its items and the seed, not on the batch or the number of samples.

    Args:
        model: in evaluation mode.
        histories: batch of histories, on the model's device.
        samples: number of samples.
        seed: of the noise.
        temperature: factor of the posterior's standard deviation.

    Yields:
        A new float32 tensor of scores, shape [batch, n_items].

    Raises:
        ConfigError: the model has no posterior.
    """
    check_posterior(model)
    histories = model.in_warm_items(histories)
    mu, logvar = model.comparable_posterior(histories)
    deviation = temperature * (0.5 * logvar).exp()
    generators = [_generator(row.numpy(), seed) for row in histories.indices.cpu().split(histories.lengths().tolist())]
    together = rows_per_chunk(len(histories) * model.n_items)
    for first in range(0, samples, together):
        count = min(together, samples - first)
        drawn = [[each.standard_normal(mu.shape[1], np.float32) for each in generators] for _ in range(count)]
        latent = mu + deviation * torch.from_numpy(np.array(drawn)).to(mu)  # [count, batch, latent_dimension]
        rows = torch.arange(len(histories), device=mu.device).repeat(count)
        scores = model.score_latent(histories if count == 1 else histories[rows], latent.flatten(0, 1)).float()
        yield from scores.unflatten(0, (count, -1))


def _generator(items: np.ndarray[Any, Any], seed: int) -> np.random.Generator:
    digest = hashlib.blake2b(f"{seed} ".encode() + items.astype("<i8").tobytes(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def sampled_ranks(
    model: Any, histories: Histories, items: Tensor, excluded: Tensor, samples: int, *, seed: int = 0
) -> Tensor:
    """Return the rank of some items in each sample: 1 plus the number of items with a higher score.

    Args:
        model: in evaluation mode.
        histories: batch of histories, on the model's device.
        items: internal item ids, int64, shape [batch, k].
        excluded: items that are left out of the rankings, bool, shape [batch, n_items].
        samples: number of samples.
        seed: of the noise.

    Returns:
        int32, shape [batch, samples, k].

    Raises:
        ConfigError: the model has no posterior.
    """
    ranks = torch.empty(len(items), samples, items.shape[1], dtype=torch.int32, device=items.device)
    for sample, scores in enumerate(sampled_scores(model, histories, samples, seed=seed)):
        scores.masked_fill_(excluded, -torch.inf)
        for place, own in enumerate(scores.gather(1, items).unbind(1)):
            ranks[:, sample, place] = (scores > own.unsqueeze(1)).sum(1) + 1
    return ranks


def interval(ranks: Tensor) -> Tensor:
    """Return the 90 % interval of each item's rank: without the lowest and highest 5 % of the samples, rounded down.

    Args:
        ranks: int, shape [batch, samples, k].

    Returns:
        int, shape [batch, k, 2].
    """
    ordered, samples = ranks.sort(dim=1).values, ranks.shape[1]
    left_out = int((1 - LEVEL) / 2 * samples + 1e-9)
    return torch.stack((ordered[:, left_out], ordered[:, samples - 1 - left_out]), dim=2)


def stability(ranks: Tensor) -> Tensor:
    """Return the average overlap of a list with the top k of each sample, as a mean over the samples.

    The overlap at depth ``d`` is the share of common items among the first ``d`` of both lists. Its average over depths 1 to k
    (Fagin, Kumar and Sivakumar: Comparing Top k Lists. SODA 2003) gives the first places the most weight.

    Args:
        ranks: ranks of the list's items in each sample, best item first, int, shape [batch, samples, k].

    Returns:
        In [0, 1]; 1 if all samples have the same list. float32, shape [batch].
    """
    k = ranks.shape[2]
    places = torch.arange(1, k + 1, dtype=ranks.dtype, device=ranks.device)
    # An item at place j of the list and rank r in the sample is in both from depth max(j, r) on, where it adds 1 / depth.
    added = torch.zeros(k + 1, device=ranks.device)
    added[:k] = (1 / places).flip(0).cumsum(0).flip(0)
    depths = torch.maximum(ranks, places).clamp_max(k + 1)
    return added[depths.long() - 1].sum(2).mean(1) / k


def expected_ndcg(scores: Tensor, items: Tensor, lengths: Tensor) -> Tensor:
    """Estimate the NDCG@k of each ranking from the model's own probabilities.

    If the user's next ``n`` items were drawn from the softmax ``p`` of the scores, item ``i`` would be among them with
    probability ``1 - (1 - p_i)^n``. These probabilities replace the hits in NDCG@k, whose ideal is that of ``min(n, k)`` hits.
    ``n`` is :data:`TO_COME` times the length of the history. Use the values to compare users, not to forecast NDCG: the
    softmax is fitted to the training histories, and flatter than the distribution of the next items.

    Args:
        scores: without popularity correction, ``-inf`` for excluded items, shape [batch, n_items].
        items: the rankings, best first, int64, shape [batch, k].
        lengths: lengths of the histories, int, shape [batch].

    Returns:
        In [0, 1], float32, shape [batch].
    """
    number = (lengths.float() * TO_COME).clamp_min(1.0)
    best = scores.softmax(1).gather(1, items)
    # 1 - (1 - p)^n without the cancellation of small p.
    hits = -torch.expm1(number.unsqueeze(1) * torch.log1p(-best.clamp(max=1 - 1e-7)))
    gains = 1 / torch.arange(2, best.shape[1] + 2, device=scores.device).log2()
    ideal = gains.cumsum(0)[number.round().long().clamp_max(len(gains)) - 1]
    return hits @ gains / ideal


TO_COME = 0.125
"""Number of next items relative to the length of the history: that of a test part, if RecBole splits 8:1:1."""


def thompson(model: Any, histories: Histories, scores: Tensor, k: int, *, temperature: float, seed: int = 0) -> Tensor:
    """Fill each place of a list with the best remaining item of its own posterior sample (Thompson, 1933).

    The first place keeps the best item at the posterior mean. If it is sampled, too, the same diversity costs more accuracy.

    Args:
        model: in evaluation mode.
        histories: batch of histories, on the model's device.
        scores: at the posterior mean, ``-inf`` for excluded items, shape [batch, n_items].
        k: length of the lists, at most n_items.
        temperature: factor of the posterior's standard deviation; 0 gives the plain list.
        seed: of the noise.

    Returns:
        Internal item ids, int64, shape [batch, k]. If no item remains, a place gets an excluded one.

    Raises:
        ConfigError: the model has no posterior.
    """
    taken, places = scores.isneginf(), [scores.argmax(1, keepdim=True)]
    for sampled in sampled_scores(model, histories, k - 1, seed=seed, temperature=temperature):
        taken.scatter_(1, places[-1], True)
        places.append(sampled.masked_fill_(taken, -torch.inf).argmax(1, keepdim=True))
    return torch.cat(places, dim=1)
