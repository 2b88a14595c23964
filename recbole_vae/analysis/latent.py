"""What the latent variables of a model stand for: the items that each raises and lowers, and their genres.

The effect of a latent variable on an item is the growth of the item's log-probability ``log softmax(f(z))`` when the variable
grows by one standard deviation over the users and the others stay. It is half the difference between one deviation above and
one below, averaged over a sample of users. If the decoder is linear, only the normaliser depends on the user. If the likelihood
has no softmax, ``f(z)`` itself takes its place: log-odds (Bernoulli) or means (Gaussian).

A model may spread one trait over many latent variables. So there are also principal directions, along which the effects are
largest: the left singular vectors of the table of all effects, in units of the variables' deviations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu
from torch import Tensor, nn
from tqdm import tqdm

from recbole_vae.analysis.explain import ItemText
from recbole_vae.data import padding
from recbole_vae.data.histories import Histories
from recbole_vae.errors import ConfigError, DataError
from recbole_vae.evaluation.holm import holm
from recbole_vae.nn.prior import active, kl_standard_normal
from recbole_vae.serving.recommender import Recommender

AXES = ("principal", "latents")
NAMES = {"principal": "Direction", "latents": "Latent"}
STEPS = (-3, -2, -1, 0, 1, 2, 3)
"""The stops of a traversal, in standard deviations from the user's own code."""

_MOST = 100_000
"""At most this many users are used; if there are more, they are drawn at random."""
_USERS = 32
"""Number of users over whom effects are averaged."""
_LEAST = 10
"""Only items with at least this many users are named; what a model says of rarer ones is noise."""
_OF_GENRE = 5
"""Only genres with at least this many items are tested."""
_ALPHA = 0.01
_DRAWN = 500
"""At most this many items, and as many users, are on the map."""


@dataclass
class Genre:
    """A genre that a latent variable raises or lowers.

    Attributes:
        name: name of the genre; ``items``: number of items that have it.
        auc: probability that an item of the genre is raised more than an item without it; .5 is no difference.
        p: two-sided p-value of Mann and Whitney's test, by Holm's correction over all latent variables and genres tested.
    """

    name: str
    items: int
    auc: float
    p: float


@dataclass
class Latent:
    """A latent variable, or a principal direction.

    Attributes:
        number: of a latent variable its index from 0; of a direction its rank from 1, the strongest.
        strength: root mean square of its effects.
        deviation: standard deviation of a latent variable over the users; of a direction, in units of its variables' deviations.
        kl: mean divergence of a latent variable from its prior N(0, 1), in nats; None for a direction, without a posterior, or
            with another prior.
        raised: items with the largest effects, as (id, name, details, effect); ``lowered``: items with the smallest.
        genres: genres that differ significantly, most different first.
    """

    number: int
    strength: float
    deviation: float
    kl: float | None
    raised: list[tuple[str, str, str, float]]
    lowered: list[tuple[str, str, str, float]]
    genres: list[Genre]


@dataclass
class Point:
    """A place on the map: an item with its name and genres, or a user."""

    x: float
    y: float
    name: str
    genres: list[str]


@dataclass
class Traversal:
    """Recommendations to one user while one latent variable moves: for each of :data:`STEPS` a list of names, best first."""

    latent: int
    lists: list[list[str]]


@dataclass
class Described:
    """A description of a model's latent space.

    Attributes:
        model, dataset: names; ``users``: number of users it is based on.
        dimension: number of latent variables; ``active``: number of active ones.
        axes: one of :data:`AXES`: what ``latents`` are.
        latents: the strongest latent variables or directions, strongest first.
        items, map_users: points on the map, whose axes are the first two principal components of the output layer's rows.
        user: the user whose recommendations are traversed, or None; ``traversals``: one for each of ``latents``;
            ``user_place``: the user's point on the map.
        effect: what an effect changes: an item's log-probability or, without a softmax, its logit.
        alone: whether the decoder alone makes the model's scores, without another path.
    """

    model: str
    dataset: str
    users: int
    dimension: int
    active: int
    axes: str
    latents: list[Latent]
    items: list[Point]
    map_users: list[Point]
    user: str | None
    user_place: Point | None
    traversals: list[Traversal]
    effect: str
    alone: bool


def check_has_latents(model: Any) -> None:
    """Raise a ConfigError if a model has no code between an encoder and a decoder."""
    if not model.has_code:
        raise ConfigError(
            f"{type(model).__name__} has no latent variables between an encoder and a Decoder; take a checkpoint of a "
            "model of recbole_vae that has, such as MultVAE."
        )


def describe(
    recommender: Recommender,
    texts: Mapping[str, ItemText] | None = None,
    *,
    axes: str = AXES[0],
    latents: int = 10,
    k: int = 10,
    user: str | None = None,
    seed: int = 0,
    show_progress: bool = False,
) -> Described:
    """Describe the latent space of a model. Of a HybridVAE or VASP, only the VAE is described; traversals use the whole model.

    Args:
        recommender: the model.
        texts: names and genres of items by their ids.
        axes: ``principal`` for directions, or ``latents`` for latent variables.
        latents: number of the strongest ones to describe.
        k: number of items named for each, and length of a traversal's lists.
        user: a training user whose recommendations are traversed.
        seed: seed of the sample of users.
        show_progress: whether to show a progress bar.

    Raises:
        ConfigError: the model has no latent variables, or ``axes`` is unknown.
        DataError: the user is unknown.
    """
    model = recommender.model
    check_has_latents(model)
    if axes not in AXES:
        raise ConfigError(f"axes: {axes!r} is not allowed; it must be {' or '.join(AXES)}.")
    history = None
    if user is not None:
        history = Histories.from_lists([recommender.known(recommender.history(user))])
        history = recommender.with_profiles(history, [user]).to(model.device)
    with torch.no_grad():
        filled = (model.histories.lengths().cpu() > 0).nonzero().squeeze(1)
        if not len(filled):
            raise DataError("there are no training users to look at.")
        users = torch.from_numpy(np.random.default_rng(seed).permutation(filled.numpy())[:_MOST])
        codes, kl = _codes(model, users)
        deviations = codes.std(0, correction=0)
        steps, first = deviations.diag(), 0
        effects = _effects(model, codes[:_USERS], steps, show_progress)
        if axes == "principal":
            left = torch.linalg.svd(effects - effects.mean(1, keepdim=True), full_matrices=False).U[:, :latents]
            steps, first, kl = left.T @ steps, 1, None
            effects = _effects(model, codes[:_USERS], steps, show_progress)
            deviations = ((codes / deviations.clamp_min(1e-12)) @ left).std(0, correction=0)
    strengths = effects.square().mean(1).sqrt()
    if axes == "principal":  # numbered by strength; the singular values order centred effects
        order = strengths.argsort(descending=True, stable=True)
        strengths, effects, steps, deviations = (each[order] for each in (strengths, effects, steps, deviations))
    strongest = strengths.argsort(descending=True, stable=True)[:latents].tolist()
    counts = model.histories.counts(padding.real(model.n_items)).cpu()
    known = (counts >= min(_LEAST, int(counts.max()))).nonzero().squeeze(1).numpy()
    texts = texts or {}
    labels = [texts.get(item, ItemText(item, "")) for item in recommender.items[padding.REAL]]
    genres = _genres(labels, known, effects[strongest].numpy())

    def named(number: int, direction: int) -> list[tuple[str, str, str, float]]:
        values = effects[number].numpy()
        best = known[np.argsort(-direction * values[known], kind="stable")[:k]]
        return [
            (recommender.items[padding.ids(item)], labels[item].name, labels[item].details, float(values[item]))
            for item in best
        ]

    found = [
        Latent(
            number + first, float(strengths[number]), float(deviations[number]), None if kl is None else float(kl[number]),
            named(number, 1), named(number, -1), each,
        )
        for number, each in zip(strongest, genres, strict=True)
    ]  # fmt: skip
    popular = counts.argsort(descending=True, stable=True)[: min(_DRAWN, int((counts > 0).sum()))].numpy()
    traversals, codes_on_map, own = [], codes[:_DRAWN], codes[:0]
    if history is not None:
        own = _code(model, history).cpu()
        names = [text.name for text in labels]
        traversals = [Traversal(each + first, _traverse(model, history, steps[each], k, names)) for each in strongest]
    items, drawn = _map(model, codes_on_map, own, popular)
    map_users = [Point(float(x), float(y), "", []) for x, y in drawn]
    return Described(
        type(model).__name__, recommender.dataset, len(codes), codes.shape[1], int(active(codes).sum()), axes, found,
        [
            Point(float(x), float(y), labels[item].name, words(labels[item]))
            for (x, y), item in zip(items, popular, strict=True)
        ],
        map_users[: len(codes_on_map)], user, map_users[-1] if len(own) else None, traversals,
        "log-probability" if model.by_softmax else "logit",
        not model.has_other_paths,
    )  # fmt: skip


def words(text: ItemText) -> list[str]:
    """Return the genres of an item: the words of its details."""
    return text.details.replace(",", " ").split()


def _codes(model: Any, users: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the codes of users, shape [users, latent_dimension], and each variable's mean divergence from N(0, 1).

    The divergences are None if that is not the prior.
    """
    codes, divergences = [], []
    for rows in users.split(4096):
        histories = model.histories[rows.to(model.histories.indices.device)]
        if model.has_posterior and model.standard_prior:
            mu, logvar = model.posterior(histories)
            codes.append(mu.cpu())
            each = [kl_standard_normal(m[:, None], v[:, None]) for m, v in zip(mu.T, logvar.T, strict=True)]
            divergences.append(torch.stack(each).sum(1).double().cpu())
        else:
            codes.append(model.code(model.encoder(histories)).cpu())
    return torch.cat(codes), torch.stack(divergences).sum(0) / len(users) if divergences else None


def _effects(model: Any, codes: Tensor, steps: Tensor, show_progress: bool) -> Tensor:
    """Return the effect of each step, shape [steps, latent_dimension], on each item, shape [steps, items]."""
    device, by_softmax = model.histories.indices.device, model.by_softmax
    result = torch.empty(len(steps), padding.real(model.n_items))
    bar = tqdm(steps, desc="Effects", ncols=100, leave=False, disable=None if show_progress else True)
    for number, step in enumerate(bar):
        sides = [model.decoder((codes + sign * step).to(device)) for sign in (1, -1)]
        above, below = (each.log_softmax(1) if by_softmax else each for each in sides)
        result[number] = (above.mean(0) - below.mean(0)).cpu() / 2
    return result


def _genres(labels: Sequence[ItemText], known: NDArray[Any], effects: NDArray[Any]) -> list[list[Genre]]:
    """Test each genre in each row of effects."""
    of_items = [set(words(labels[item])) for item in known]
    counts: dict[str, int] = {}
    for each in of_items:
        for genre in each:
            counts[genre] = counts.get(genre, 0) + 1
    tested = sorted(g for g, n in counts.items() if _OF_GENRE <= n <= len(known) - _OF_GENRE)
    found = []
    for row in effects:
        for genre in tested:
            inside = np.array([genre in each for each in of_items])
            result = mannwhitneyu(row[known][inside], row[known][~inside])
            auc = float(result.statistic) / (inside.sum() * (~inside).sum())
            found.append(Genre(genre, counts[genre], auc, float(result.pvalue)))
    for test, corrected in zip(found, holm([each.p for each in found]).tolist(), strict=True):
        test.p = corrected
    per_row = [found[start : start + len(tested)] for start in range(0, len(found), len(tested) or 1)] or [[]] * len(
        effects
    )
    return [sorted((g for g in row if g.p < _ALPHA), key=lambda g: -abs(g.auc - 0.5)) for row in per_row]


def _map(model: Any, codes: Tensor, own: Tensor, popular: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return points of items and users in the plane of the first two principal components of the output layer's rows.

    The users are those of ``codes``, which set the scale, then those of ``own``.
    """
    layers = model.decoder.layers
    output = layers[-1]
    assert isinstance(output, nn.Linear)
    rows = output.weight.detach().double().cpu()
    with torch.no_grad():
        features = layers[:-1](torch.cat((codes, own)).to(output.weight.device)).double().cpu()
    rows = rows[torch.from_numpy(popular)]
    rows, features = rows - rows.mean(0), features - features[: len(codes)].mean(0)
    axes = torch.linalg.svd(rows, full_matrices=False).Vh[:2]
    # The sign of an axis is arbitrary: make its largest entry positive.
    axes = axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    places = []
    for each, number in ((rows @ axes.T, len(rows)), (features @ axes.T, len(codes))):
        places.append((each / each[:number].square().mean().sqrt().clamp_min(1e-12)).numpy())
    return places[0], places[1]


@torch.no_grad()
def _code(model: Any, history: Histories) -> Tensor:
    code: Tensor = model.code(model.encoder(history.to(model.histories.indices.device)))
    return code


def _traverse(model: Any, history: Histories, step: Tensor, k: int, names: Sequence[str]) -> list[list[str]]:
    code = _code(model, history)
    with torch.no_grad():
        codes = code + torch.tensor(STEPS)[:, None].to(code) * step.to(code)
        rows = torch.zeros(len(codes), dtype=torch.int64, device=codes.device)
        # With the paths beside the decoder, as in recommendations.
        scores = model.score_latent(history[rows], codes)[:, padding.REAL]
    scores[:, history.columns().long().to(scores.device)] = -torch.inf
    k = min(k, scores.shape[1] - len(history.indices))
    return [[names[item] for item in row] for row in scores.topk(k).indices.tolist()]


ALONE = "This describes only the variational autoencoder in {}; its other paths do not depend on the latent variables."


def label(latent: Latent, most: int = 3) -> str:
    """Return the genres that a latent variable raises and lowers, as a short label; empty if none is significant."""
    raised = [each.name for each in latent.genres if each.auc > 0.5][:most]
    lowered = [each.name for each in latent.genres if each.auc < 0.5][:most]
    return " ".join([*(f"+{name}" for name in raised), *(f"-{name}" for name in lowered)])


def lines(found: Described, latents: int = 5, k: int = 5) -> Iterator[str]:
    """Yield the description as lines of text for a terminal."""
    yield (
        f"{found.model} on {found.dataset}: {found.active} of {found.dimension} latent variables are in use (variance over "
        f"{found.users:,} users above 0.01)"
    )
    if not found.alone:
        yield ALONE.format(found.model)
    for each in found.latents[:latents]:
        kl = "" if each.kl is None else f", KL {each.kl:.2f}"
        yield f"{NAMES[found.axes]} {each.number}, effect {each.strength:.2f}{kl}{'  ' * bool(each.genres)}{label(each)}"
        yield f"  raises {'; '.join(name for _, name, *_ in each.raised[:k])}"
        yield f"  lowers {'; '.join(name for _, name, *_ in each.lowered[:k])}"
