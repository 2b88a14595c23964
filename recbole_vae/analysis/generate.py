"""Synthetic users: histories drawn from a variational autoencoder.

A history of ``n`` items is drawn as the model assumes that real ones arise (Liang et al. 2018, section 2.1): first latent
variables ``z``, then items from ``softmax(f(z))``, without replacement.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recbole_vae.data import padding
from recbole_vae.data.histories import Histories
from recbole_vae.errors import ConfigError, DataError
from recbole_vae.nn.chunks import rows_per_chunk
from recbole_vae.nn.prior import reparameterise
from recbole_vae.serving.recommender import Recommender

Items = NDArray[np.int64]
"""Internal ids of the items of one history, ascending, from 1 up."""

SOURCES = ("posterior", "prior")


def check_generates(model: Any, source: str = SOURCES[0]) -> None:
    """Raise a ConfigError if a source is unknown, or if the model lacks a posterior, a softmax or (for ``prior``) an N(0, I)."""
    if source not in SOURCES:
        raise ConfigError(f"source: {source!r} is not allowed; it must be {' or '.join(SOURCES)}.")
    if not model.has_posterior:
        raise ConfigError(
            f"{type(model).__name__} has no latent variables with a distribution, so nothing can be drawn from it; take a "
            "checkpoint of a variational autoencoder, such as MultVAE."
        )
    if not model.by_softmax:
        raise ConfigError(
            f"this {type(model).__name__} was not trained to draw a history's items from the softmax of its scores, so nothing "
            "can be drawn from it; take a checkpoint of likelihood: multinomial or poisson."
        )
    if source == "prior" and not model.standard_prior:
        raise ConfigError(
            f"source: prior draws from N(0, I), which is not the prior of {type(model).__name__}; take source: posterior."
        )


def synthesise(
    model: Any, around: Histories | None, users: int | None, *, source: str = "posterior", seed: int = 0
) -> Iterator[Items]:
    """Draw histories.

    Each synthetic user takes latent variables and length from one history: from those of ``around`` in turn, or else from a
    random training user. The latent variables are a sample of that history's posterior ``q(z | x)``. Over all users they
    follow the aggregated posterior, which is the prior that explains the data best (Tomczak and Welling, VAE with a
    VampPrior, AISTATS 2018, equation 5). With source ``prior`` they are a sample of N(0, I), and only the length is the
    history's. Items are drawn without replacement: those with the largest logits plus Gumbel noise.

    Args:
        model: a trained model with ``posterior`` and ``decoder``, on its device. Of a HybridVAE only the VAE is used.
        around: histories, none of them empty; None for the training users' histories.
        users: number of synthetic users; None for one for each history.
        source: one of :data:`SOURCES`.
        seed: seed of everything drawn. A user does not depend on how many are drawn afterwards.

    Yields:
        The items of one synthetic user.

    Raises:
        ConfigError: see :func:`check_generates`; raised when the first user is drawn.
    """
    check_generates(model, source)
    table = model.histories.to("cpu") if around is None else around.to("cpu")
    filled = (table.lengths() > 0).nonzero().squeeze(1)
    # NumPy draws the same numbers whatever the size of the batch; torch does not.
    choice, noise, gumbel = (np.random.default_rng(each) for each in np.random.SeedSequence(seed).spawn(3))
    device, items = model.histories.indices.device, padding.real(model.n_items)
    size, left = rows_per_chunk(items), len(filled) if users is None else users
    done = 0
    while left:
        batch = min(size, left)
        if around is None:
            rows = filled[choice.integers(len(filled), size=batch)]
        else:
            rows = filled[torch.arange(done, done + batch) % len(filled)]
        histories = table[rows]
        with torch.no_grad():
            mu, logvar = model.posterior(histories.to(device))
            drawn = torch.from_numpy(noise.standard_normal(tuple(mu.shape), dtype=np.float32)).to(mu)
            latent = drawn if source == "prior" else reparameterise(mu, logvar, drawn)
            logits = model.decoder(latent).float().cpu()
        logits -= torch.from_numpy(gumbel.standard_exponential((batch, items), dtype=np.float32)).log_()
        lengths = histories.lengths().clamp(max=items).tolist()
        best = logits.topk(max(lengths), dim=1).indices.numpy()
        for row, length in zip(best, lengths, strict=True):
            yield padding.ids(np.sort(row[:length]).astype(np.int64))
        left, done = left - batch, done + batch


def known_histories(recommender: Recommender, histories: Iterable[tuple[str, Iterable[str]]]) -> Histories:
    """Translate histories of item ids, given as pairs with their users, into internal ids.

    Raises:
        DataError: a history has no item that the model knows, or there are no histories.
    """
    found = []
    for key, history in histories:
        found.append(recommender.known(history))
        if not len(found[-1]):
            raise DataError(
                f"the history of '{key}' has no item that the model knows, so nothing can be drawn around it."
            )
    if not found:
        raise DataError("there are no histories to draw around.")
    return Histories.from_lists(found)
