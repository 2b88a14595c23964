"""How well a model knows for which users its recommendations are good, and what diversified recommendations gain and cost.

Users are sorted by an uncertainty, the most certain first. A risk-coverage curve (El-Yaniv and Wiener: On the Foundations of
Noise-free Selective Classification. JMLR 2010) shows the mean of 1 - NDCG over the first 1 %, 2 %, ... of the users.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from scipy.sparse import diags
from torch import Tensor
from tqdm import tqdm

from recbole_vae.data import padding
from recbole_vae.data.histories import Histories
from recbole_vae.errors import ConfigError, DataError
from recbole_vae.evaluation.fold_in import fold_in_of
from recbole_vae.evaluation.metrics import ndcg
from recbole_vae.model.base import HistoryRecommender
from recbole_vae.nn.chunks import rows_per_chunk
from recbole_vae.serving import posterior
from recbole_vae.serving.posterior import Sampling
from recbole_vae.serving.recommender import Recommender
from recbole_vae.storage.once import read_once

Floats = NDArray[np.float64]

PARTS = ("valid", "test")
TENTHS = 10


@dataclass(frozen=True)
class Order:
    """How well an uncertainty sorts the users.

    Attributes:
        name: name of the uncertainty.
        spearman: rank correlation of uncertainty and NDCG over users; lower is better. None if one of them is constant.
        p_value: two-sided p-value of ``spearman``.
        partial: the partial rank correlation, controlling for the history's length and the number of relevant items.
        area: area under the risk-coverage curve, as its mean; lower is better.
        tenths: mean NDCG of each decile of the users, the most certain first.
        risks: mean of 1 - NDCG over the most certain 1 %, 2 %, ... 100 % of the users.
    """

    name: str
    spearman: float | None
    p_value: float | None
    partial: float | None
    area: float
    tenths: list[float]
    risks: list[float]


@dataclass(frozen=True)
class Lists:
    """The value of lists that are drawn with some spread of the posterior.

    Attributes:
        diversify: factor of the posterior's standard deviation; 0: the plain lists.
        ndcg: mean over users.
        diversity: 1 - cosine of two items of a list, by the users who have them; mean over pairs and users.
        coverage: share of the items that are in somebody's list.
    """

    diversify: float
    ndcg: float
    diversity: float
    coverage: float


@dataclass(frozen=True)
class UncertaintyReport:
    """What :func:`evaluate` found.

    Attributes:
        model, dataset, part: names; ``k``, ``samples``, ``seed``: as given.
        users: number of users who have relevant items.
        ndcg: NDCG@k, mean over users.
        best_area: area under the curve of the order by NDCG itself; a random order has 1 - NDCG.
        orders: the orders, by :attr:`Order.area`, best first.
        lists: by the spread, the plain ones first; empty unless asked for.
    """

    model: str
    dataset: str
    part: str
    k: int
    samples: int
    seed: int
    users: int
    ndcg: float
    best_area: float
    orders: list[Order]
    lists: list[Lists] = field(default_factory=list)


def surest_first(uncertainty: Floats, quality: Floats) -> Floats:
    """Return the users' quality, the most certain first; users with equal uncertainty share their mean quality.

    Args:
        uncertainty: shape [users].
        quality: shape [users].
    """
    _, place, counts = np.unique(uncertainty, return_inverse=True, return_counts=True)
    means: Floats = np.bincount(place, quality) / counts
    return np.repeat(means, counts)


def risk_coverage(uncertainty: Floats, quality: Floats) -> Floats:
    """Return 1 - mean quality of the most certain user, the most certain two, ... and all, shape [users]."""
    ordered = surest_first(uncertainty, quality)
    risks: Floats = 1 - ordered.cumsum() / np.arange(1, len(ordered) + 1)
    return risks


def partial_spearman(a: Floats, b: Floats, given: Sequence[Floats]) -> float | None:
    """Return the partial rank correlation of ``a`` and ``b``, controlling for ``given``.

    It is the correlation of the residuals of a linear fit of their ranks by the ranks of ``given``.

    Returns:
        In [-1, 1]; None if the fit leaves no residual of ``a`` or ``b``.
    """
    known = np.column_stack([np.ones(len(a)), *map(stats.rankdata, given)])
    ranks = np.column_stack([stats.rankdata(a), stats.rankdata(b)])
    rest = ranks - known @ np.linalg.lstsq(known, ranks, rcond=None)[0]
    lengths = np.linalg.norm(rest, axis=0)
    if (lengths < 1e-9 * np.linalg.norm(ranks, axis=0)).any():
        return None
    return float(rest[:, 0] @ rest[:, 1] / lengths.prod())


def order_by(name: str, values: Floats, quality: Floats, given: Sequence[Floats] = ()) -> Order:
    """Measure how well an uncertainty sorts the users.

    Args:
        name: name of the uncertainty.
        values: the users' uncertainties, shape [users].
        quality: the users' NDCG, shape [users].
        given: variables to control for in the partial correlation, each of shape [users].
    """
    constant = any(np.ptp(each) == 0 for each in (values, quality))
    found = None if constant else stats.spearmanr(values, quality)
    risks = risk_coverage(values, quality)
    places = np.ceil(np.arange(1, 101) * len(quality) / 100).astype(int) - 1
    tenths = [float(part.mean()) for part in np.array_split(surest_first(values, quality), TENTHS) if len(part)]
    return Order(
        name,
        None if found is None else float(found.statistic),
        None if found is None else float(found.pvalue),
        None if constant else partial_spearman(values, quality, given),
        float(risks.mean()),
        tenths,
        risks[places].tolist(),
    )


def intra_list_diversity(items: Tensor, histories: Histories, n_items: int) -> Floats:
    """Return 1 - mean cosine over the pairs of items in each list; an item's vector marks the users who have it.

    Args:
        items: internal item ids, int64, shape [lists, k]; k is at least 2.
        histories: rows are the users.
        n_items: number of items, with RecBole's padding item.

    Returns:
        In [0, 1], shape [lists]. An item that nobody has is unlike all others.
    """
    k = items.shape[1]
    table = Histories(histories.indptr, histories.indices).to_scipy(padding.real(n_items), padded=True)
    counts = table.getnnz(0)
    vectors = (table @ diags(1 / np.sqrt(counts.clip(1)))).T.tocsr()
    found = []
    for part in items.cpu().split(rows_per_chunk(len(histories))):
        lists = Histories(torch.arange(0, part.numel() + 1, k), part.flatten())
        # Its squared length is k + twice the sum of the cosines.
        total = lists.to_scipy(padding.real(n_items), padded=True) @ vectors
        own = (counts[part.numpy()] > 0).sum(1)
        found.append(1 - (np.asarray(total.multiply(total).sum(1)).ravel() - own) / (k * (k - 1)))
    return np.concatenate(found)


def _ndcg(items: Tensor, relevant: Histories, n_items: int) -> Tensor:
    """Return the NDCG@k of lists, float64, shape [lists].

    Args:
        items: internal item ids, int64, shape [lists, k].
        relevant: the relevant items, a row of at least one item for each list.
        n_items: number of items, with RecBole's padding item.
    """
    wanted = torch.zeros(len(items), n_items, dtype=torch.bool, device=items.device)
    wanted[relevant.rows(), relevant.indices.long()] = True
    return torch.from_numpy(ndcg(wanted.gather(1, items).numpy(), relevant.lengths().numpy())[:, -1])


@dataclass
class _Batch:
    """A batch of users of the evaluated part.

    Attributes:
        histories: what the model is given; ``relevant``: the items to be found.
        scores: scores at the posterior mean, ``-inf`` for seen items, shape [users, n_items].
    """

    histories: Histories
    relevant: Histories
    scores: Tensor


def evaluate(
    path: str | Path,
    *,
    k: int = 10,
    samples: int = 100,
    seed: int = 0,
    part: str = "test",
    diversify: Sequence[float] = (),
    data_path: str | Path | None = None,
    popularity_correction: float | None = None,
    show_progress: bool = False,
) -> UncertaintyReport:
    """Load the data set of a checkpoint, split it as training did, and evaluate uncertainties on a part of it.

    Args:
        path: the checkpoint.
        k: length of the lists.
        samples: number of posterior samples for the stability; 0 for none, as for a model without a posterior.
        seed: seed of the samples.
        part: ``valid`` or ``test``.
        diversify: temperatures of the posterior at which lists are drawn by :func:`~recbole_vae.serving.posterior.thompson`.
        data_path: folder that holds the data set's folder; None for the one used in training.
        popularity_correction: see :meth:`~recbole_vae.serving.recommender.Recommender.load`.
        show_progress: whether to show a progress bar.

    Raises:
        ConfigError: a value is not allowed, or samples are asked for and the model has no posterior.
        CheckpointError: the file is not a checkpoint, or the data are not those it was trained on.
        DataError: the data are missing, or the part has no relevant items.
    """
    if part not in PARTS:
        raise ConfigError(f"part: {part!r} is not allowed; it must be {' or '.join(PARTS)}.")
    if k < 2:
        raise ConfigError(f"k: {k!r} is not allowed; it must be an integer >= 2.")
    with read_once():
        recommender = Recommender.load(path, popularity_correction=popularity_correction)
        model = recommender.model
        for spread in (0.0, *diversify):
            Sampling(0 if spread else samples, spread, seed).check(model)
        loader = _load(path, part, data_path)
    if k >= model.n_items:
        raise ConfigError(f"k: {k} is not allowed; the data set has {padding.real(model.n_items)} items.")
    fold_in = fold_in_of(model, loader)
    table = model.histories if fold_in is None else fold_in
    size = rows_per_chunk(max(model.n_items, samples * k))
    columns: dict[str, list[Tensor]] = {}
    lists: dict[float, list[Tensor]] = {spread: [] for spread in dict.fromkeys((0.0, *diversify)) if diversify}
    qualities: dict[float, list[Tensor]] = {spread: [] for spread in lists}
    bar = tqdm(total=len(loader.uid_list), unit=" users", ncols=100, disable=None if show_progress else True)
    with torch.inference_mode(), bar:
        for users in loader.uid_list.split(size):
            batch = _batch(model, table[users], loader.seen[users], loader.relevant[users])
            for name, column in _columns(model, batch, k, samples, seed).items():
                columns.setdefault(name, []).append(column.double())
            for spread in lists:
                items = batch.scores.topk(k).indices
                if spread:
                    items = posterior.thompson(model, batch.histories, batch.scores, k, temperature=spread, seed=seed)
                lists[spread].append(items)
                qualities[spread].append(_ndcg(items, batch.relevant, model.n_items))
            bar.update(len(users))
    values: dict[str, Floats] = {name: torch.cat(each).numpy() for name, each in columns.items()}
    quality, given = values.pop(_NDCG), (-values[_LENGTH], values.pop(_RELEVANT))
    orders = [order_by(name, each, quality, given) for name, each in values.items()]
    return UncertaintyReport(
        type(model).__name__, recommender.dataset, part, k, samples, seed, len(quality), float(quality.mean()),
        float(risk_coverage(-quality, quality).mean()), sorted(orders, key=lambda order: order.area),
        [
            _worth(spread, torch.cat(each), torch.cat(qualities[spread]), model) for spread, each in lists.items()
        ],
    )  # fmt: skip


def _load(path: str | Path, part: str, data_path: str | Path | None) -> Any:
    """Return the dataloader of a part of a checkpoint's data set."""
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import init_seed

    from recbole_vae.data.evaluation import FullSortDataLoader
    from recbole_vae.training.restore import config_of_checkpoint

    config = config_of_checkpoint(path)
    config["fast_evaluation"] = True
    if data_path is not None:
        config["data_path"] = str(Path(data_path) / config["dataset"])
    folder, file = Path(config["data_path"]), f"{config['dataset']}/{config['dataset']}.inter"
    if not folder.is_dir():  # RecBole would download a data set of that name, which need not be the one trained on
        raise DataError(
            f"dataset: there is no folder {folder}, where the data set of {path} is looked for. Set data_path to the folder "
            f"that holds {file}."
        )
    init_seed(config["seed"], config["reproducibility"])
    with warnings.catch_warnings():
        # RecBole makes tensors of pandas' arrays, which are read-only now; it does not write to them.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        loader = data_preparation(config, create_dataset(config))[1 + PARTS.index(part)]
    if not isinstance(loader, FullSortDataLoader):
        raise ConfigError(f"{path}: was evaluated on sampled items (eval_args: mode), but here all items are ranked.")
    if not len(loader.uid_list):
        raise DataError(
            f"{path}: the split leaves nothing to be found in the {part} part; see eval_args: {{split: ...}}."
        )
    return loader


def _batch(model: HistoryRecommender, histories: Histories, seen: Histories, relevant: Histories) -> _Batch:
    scores = model.score(histories).float()
    scores[seen.rows(), seen.indices.long()] = -torch.inf
    return _Batch(histories, relevant, scores)


_NDCG, _LENGTH, _RELEVANT = "NDCG", "length of the history", "relevant"


def _columns(model: HistoryRecommender, batch: _Batch, k: int, samples: int, seed: int) -> dict[str, Tensor]:
    """Return NDCG@k, the number of relevant items and each uncertainty for the users of a batch; each of shape [users].

    If the likelihood has no softmax, the uncertainties that need its probabilities are missing.
    """
    items, lengths = batch.scores.topk(k).indices, batch.histories.lengths()
    found = {
        _NDCG: _ndcg(items, batch.relevant, model.n_items),
        _RELEVANT: batch.relevant.lengths(),
        _LENGTH: -lengths,
    }
    if model.by_softmax:
        plain = model.uncorrected(batch.scores)
        logs = plain.log_softmax(1)
        found |= {
            "expected NDCG": -posterior.expected_ndcg(plain, items, lengths),
            "entropy of the softmax": -(logs.exp() * logs.clamp_min(-1e9)).sum(1),
            "largest probability": -logs.amax(1),
        }
    if samples:
        excluded = batch.scores.isneginf()
        ranks = posterior.sampled_ranks(model, batch.histories, items, excluded, samples, seed=seed)
        found["stability"] = -posterior.stability(ranks)
    return found


def _worth(spread: float, items: Tensor, quality: Tensor, model: HistoryRecommender) -> Lists:
    diversity = intra_list_diversity(items, model.histories, model.n_items)
    covered = len(torch.unique(items)) / padding.real(model.n_items)
    return Lists(spread, float(quality.mean()), float(diversity.mean()), covered)


def per_ndcg(plain: Lists, other: Lists) -> float | None:
    """Return the diversity gained per NDCG lost; None if none was lost."""
    lost = plain.ndcg - other.ndcg
    return (other.diversity - plain.diversity) / lost if lost > 0 and not math.isclose(lost, 0.0) else None
