"""Evaluates checkpoints on what users did afterwards: a newer data set, of which the models know only a part."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from recbole_vae.compare.statistics import effects, randomisation_test
from recbole_vae.data import labels, padding
from recbole_vae.data.files import inter_file
from recbole_vae.data.histories import Histories
from recbole_vae.errors import ConfigError, DataError
from recbole_vae.evaluation.holm import holm
from recbole_vae.evaluation.metrics import FastEvaluator
from recbole_vae.nn.chunks import rows_per_chunk
from recbole_vae.options.evaluation import COLD, WARM, holds_out_items, kind_of
from recbole_vae.serving.recommender import History, Recommender
from recbole_vae.storage import recbole_checkpoint
from recbole_vae.storage.once import read_once
from recbole_vae.training.restore import config_of_checkpoint, load_recboles

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean over users with its 95 % bootstrap interval; the ends are None for a single user."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Difference:
    """The difference of two models in a metric, over users with a history.

    Attributes:
        difference: mean difference, the checkpoint's value minus that of the other one.
        low, high: the ends of its 95 % bootstrap interval.
        p_value: of the two-sided randomisation test, by Holm's correction for all metrics.
        drop: share by which the checkpoint is worse; negative if it is better, None if the other one's value is 0.
    """

    difference: float
    low: float
    high: float
    p_value: float
    drop: float | None


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate` found.

    Attributes:
        dataset: name of the newer data set.
        interactions: pairs of a user and an item in it.
        in_history: of these, how many are in a history already.
        unknown_items: of the others, how many are of items that no model here knows; they cannot be found, and do not count.
        different_unknown_items: number of these items.
        targets: the rest, which is to be found.
        users: users with targets and a history; ``new_users``: those with targets and without a history, who get the most
            popular items.
        metrics: of each checkpoint, by its path: metrics over the users with a history; empty if there are none. Where the
            first model was trained with items held out, those of warm and cold items apart, too, such as ``cold_ndcg@10``:
            items that are in training histories of a model here, and others.
        new_user_metrics: likewise over the others.
        differences: by metric, if there are two checkpoints.
    """

    dataset: str
    interactions: int
    in_history: int
    unknown_items: int
    different_unknown_items: int
    targets: int
    users: int
    new_users: int
    metrics: dict[str, dict[str, Estimate]]
    new_user_metrics: dict[str, dict[str, Estimate]]
    differences: dict[str, Difference] = field(default_factory=dict)


def evaluate(
    checkpoints: Sequence[str | Path],
    dataset: str,
    *,
    data_path: str | Path = "dataset",
    histories: Mapping[str, History] | None = None,
    metrics: Sequence[str] | None = None,
    topk: Sequence[int] | None = None,
    needed: Collection[str] = (),
    show_progress: bool = False,
) -> Evaluation:
    """Measure how well one or two models foresaw a newer data set.

    A user's history is what the checkpoint knows. The targets are the user's items in the data set that are in no history
    here, and that at least one of the models knows. An item that only the other model knows is a miss. What is in a history
    of either model is in no list of both: else the model that was trained on less would lose places to it.

    Args:
        checkpoints: one or two files; with two, both are measured on the same targets.
        dataset: name of the data set.
        data_path: folder that holds its folder.
        histories: histories by user, in the place of those in the checkpoints; None for none.
        metrics: names of metrics that are means over users; None for those that the first model was trained with.
        topk: their cutoffs; likewise.
        needed: metrics, such as ``ndcg@10``, that must be among these.
        show_progress: whether to show a progress bar.

    Raises:
        ConfigError: a metric or cutoff is not allowed, or one that is needed is not measured.
        CheckpointError: a file is not a checkpoint.
        DataError: the data set is missing or wrong, or has only items that no model knows.
    """
    with read_once():
        recommenders = [Recommender.load(checkpoints[0])]
        config = _config(checkpoints[0], metrics, topk)
    measured = [f"{name}@{k}" for name in config["metrics"] for k in config["topk"]]
    apart = (WARM, COLD) if holds_out_items(config) else ()
    measured += [f"{kind}_{name}" for kind in apart for name in measured]
    for name in needed:
        if name not in measured:
            raise ConfigError(f"{name} is not measured; there are {', '.join(measured)}.")
    recommenders += [Recommender.load(path) for path in checkpoints[1:]]
    for recommender in recommenders:
        if max(config["topk"]) > padding.real(len(recommender.items)):
            raise ConfigError(
                f"topk: {max(config['topk'])} is not allowed; the model knows {padding.real(len(recommender.items))} items."
            )
    pairs = _interactions(config, dataset, data_path)
    users, of_user = np.unique(pairs[:, 0], return_inverse=True)
    items, of_item = np.unique(pairs[:, 1], return_inverse=True)
    models = [_Known(recommender, users, items, histories or {}) for recommender in recommenders]
    in_history = np.any([model.has(of_user, of_item) for model in models], axis=0)
    unknown = ~in_history & ~np.any([model.numbers[of_item] > 0 for model in models], axis=0)
    kept = ~in_history & ~unknown
    if not kept.any() and not in_history.any():  # else the ids are the models', and the data are no news
        raise DataError(
            f"dataset: nothing in '{dataset}' is to be found: of {len(pairs):,} interactions, {in_history.sum():,} are in the "
            f"users' histories, and {unknown.sum():,} are of items that the model does not know."
        )
    of_user, of_item = of_user[kept], of_item[kept]
    chosen = np.unique(of_user)
    some = np.all([model.histories.lengths().numpy()[chosen] > 0 for model in models], axis=0)
    warm = {item for model in models for item in model.in_training()}
    of_kind = {kind: np.array([(item in warm) == (kind == WARM) for item in items[of_item]], bool) for kind in apart}
    bar = tqdm(total=len(chosen) * len(models), unit=" users", ncols=100, disable=None if show_progress else True)
    with bar:
        found = [
            _measure(model, model.seen_by(models), config, chosen, of_user, of_item, bar, of_kind, warm)
            for model in models
            if len(chosen)
        ]
    of_models = dict(zip(map(str, checkpoints), found, strict=bool(len(chosen))))
    return Evaluation(
        dataset,
        interactions=len(pairs),
        in_history=int(in_history.sum()),
        unknown_items=int(unknown.sum()),
        different_unknown_items=len(np.unique(pairs[unknown, 1])),
        targets=int(kept.sum()),
        users=int(some.sum()),
        new_users=int((~some).sum()),
        metrics=_estimates(of_models, some),
        new_user_metrics=_estimates(of_models, ~some),
        differences=_differences(found[0], found[1], some) if len(found) > 1 and some.any() else {},
    )


def _estimates(of_models: dict[str, dict[str, Floats]], part: NDArray[np.bool_]) -> dict[str, dict[str, Estimate]]:
    if not part.any():
        return {}
    found: dict[str, dict[str, Estimate]] = {}
    for path, of in of_models.items():
        found[path] = {}
        for names, counted in _groups(of, part):
            found[path].update(estimates({name: of[name][counted] for name in names}))
    return found


def _groups(of: Mapping[str, Floats], part: NDArray[np.bool_]) -> list[tuple[list[str], NDArray[np.bool_]]]:
    """Return the metrics of each kind of items, and which users of a part count in them; no kinds in which nobody does."""
    groups: dict[str, list[str]] = {}
    for name in of:
        groups.setdefault(kind_of(name)[0], []).append(name)
    found = [(names, part & ~np.isnan(of[names[0]])) for names in groups.values()]
    return [(names, counted) for names, counted in found if counted.any()]


def estimates(metrics: dict[str, Floats]) -> dict[str, Estimate]:
    """Estimate the means of metrics from the users' values, each of shape [users]."""
    values = np.column_stack(list(metrics.values()))
    if len(values) < 2:
        return {name: Estimate(float(each[0]), None, None) for name, each in metrics.items()}
    means = effects(values, values).difference
    return {name: Estimate(*map(float, means[:, place])) for place, name in enumerate(metrics)}


def _differences(one: dict[str, Floats], other: dict[str, Floats], some: NDArray[np.bool_]) -> dict[str, Difference]:
    found, p_values = {}, []
    for names, counted in _groups(one, some):
        values = np.column_stack([one[name][counted] - other[name][counted] for name in names])
        base = np.column_stack([other[name][counted] for name in names])
        sizes, means = effects(values, base), base.mean(0)
        p_values.append(randomisation_test(values))
        for place, name in enumerate(names):
            difference, low, high = map(float, sizes.difference[:, place])
            drop = -difference / float(means[place]) if means[place] else None
            found[name] = (difference, low, high, drop)
    corrected = holm(np.concatenate(p_values))
    return {
        name: Difference(difference, low, high, float(p), drop)
        for (name, (difference, low, high, drop)), p in zip(found.items(), corrected, strict=True)
    }


class _Known:
    """What a model knows of the users and items of a data set.

    Attributes:
        numbers: internal id of each item, 0 for unknown ones; int64, shape [items].
        histories: of each user, with internal ids; empty for unknown ones.
    """

    def __init__(
        self, recommender: Recommender, users: NDArray[Any], items: NDArray[Any], given: Mapping[str, History]
    ) -> None:
        self.model, self.items, self.n_items = recommender.model, recommender.items, len(recommender.items)
        self.numbers = self._numbers(items)
        rows = {user: row for row, user in enumerate(recommender.users) if row != padding.PADDING}
        if not given:  # the row of the padding user is empty
            table = recommender.model.histories.to("cpu")
            self.histories = table[torch.tensor([rows.get(user, padding.PADDING) for user in users])]
            return
        found: list[History] = [
            given[user] if user in given else recommender.history(user) if user in rows else [] for user in users
        ]
        histories = Histories.from_lists([recommender.known(history) for history in found])
        self.histories = recommender.with_profiles(histories, users)

    def in_training(self) -> list[str]:
        """Return the ids of the items that training histories have."""
        counts = self.model.histories.counts(padding.real(self.n_items)).tolist()
        return [item for item, count in zip(self.items[padding.REAL], counts, strict=True) if count]

    def _numbers(self, items: Iterable[Any]) -> NDArray[np.int64]:
        ids = {item: number for number, item in enumerate(self.items) if number != padding.PADDING}
        return np.array([ids.get(item, padding.PADDING) for item in items], np.int64)

    def seen_by(self, models: Sequence[_Known]) -> Histories:
        """Return each user's items in a history of any of some models, as far as this model knows them."""
        numbers = [torch.from_numpy(self._numbers(each.items))[each.histories.indices.long()] for each in models]
        rows, items = torch.cat([each.histories.rows() for each in models]), torch.cat(numbers)
        known = items != padding.PADDING
        return Histories.from_interactions(rows[known], items[known], None, len(self.histories))

    def has(self, of_user: NDArray[Any], of_item: NDArray[Any]) -> NDArray[np.bool_]:
        """Tell which pairs of places of users and items are in the histories, shape [pairs]."""
        keys = self.histories.rows() * self.n_items + self.histories.indices
        result: NDArray[np.bool_] = np.isin(of_user * self.n_items + self.numbers[of_item], keys.numpy())
        return result


@torch.inference_mode()
def _measure(
    known: _Known,
    seen: Histories,
    config: Any,
    chosen: NDArray[Any],
    of_user: NDArray[Any],
    of_item: NDArray[Any],
    bar: Any,
    of_kind: Mapping[str, NDArray[np.bool_]],
    warm: Collection[str],
) -> dict[str, Floats]:
    """Return the values of each metric, shape [chosen users]; NaN for users who do not count in it.

    Args:
        known: the model, and its histories of all users.
        seen: the items that are in no list of each user.
        config: RecBole's; it has ``metrics`` and ``topk``.
        chosen: places of users, ascending.
        of_user: the user of each target, one of ``chosen``.
        of_item: its item.
        bar: counts the users.
        of_kind: which targets are of each kind of items that is measured apart, shape [targets].
        warm: ids of the items of the kind ``warm``.
    """
    from recbole.evaluator.collector import DataStruct

    is_warm = torch.tensor([item in warm for item in known.items], device=known.model.device)
    kinds: dict[str, tuple[Tensor | None, Any]] = {"": (None, slice(None))}
    kinds.update({f"{kind}:": (is_warm == (kind == WARM), of) for kind, of in of_kind.items() if of.any()})
    numbers = torch.from_numpy(known.numbers[of_item])
    can = numbers != padding.PADDING  # others are counted, and missed
    keys = (torch.from_numpy(of_user)[can] * known.n_items + numbers[can]).sort().values
    parts: dict[str, list[Tensor]] = {kind: [] for kind in kinds}
    for part in torch.from_numpy(chosen).split(rows_per_chunk(known.n_items)):
        batch = known.histories[part].to(known.model.device)
        scores = known.model.ranking_scores(batch)
        left_out = seen[part].to(known.model.device)
        scores[left_out.rows(), left_out.indices] = -torch.inf
        for kind, (candidates, _) in kinds.items():
            ranked = scores if candidates is None else scores.where(candidates, -torch.inf)
            best = ranked.topk(max(config["topk"]))
            wanted = part[:, None] * known.n_items + best.indices.cpu()
            parts[kind].append(torch.isin(wanted, keys) & (best.values.cpu() > -torch.inf))
        bar.update(len(part))
    lists = DataStruct()
    for kind, (_, of) in kinds.items():
        counts = torch.from_numpy(np.bincount(np.searchsorted(chosen, of_user[of]), minlength=len(chosen)))
        lists.set(f"{kind}rec.topk", torch.cat([torch.cat(parts[kind]).long(), counts[:, None]], dim=1))
        if kind:
            lists.set(f"{kind}rec.counted", counts > 0)
    return dict(FastEvaluator(config).evaluate(lists).per_user)


def _config(path: str | Path, metrics: Sequence[str] | None, topk: Sequence[int] | None) -> Any:
    """Return RecBole's Config of a checkpoint, with metrics that are means over users."""
    from recbole.evaluator.register import metric_information

    config = load_recboles(path)["config"] if recbole_checkpoint.is_recboles(path) else config_of_checkpoint(path)
    allowed = [name for name, needed in metric_information.items() if needed == ["rec.topk"]]
    names = [name.lower() for name in metrics or config["metrics"]]
    wrong = [name for name in names if name not in allowed]
    if wrong and metrics:
        raise ConfigError(f"metrics: '{wrong[0]}' is not allowed; it must be {' or '.join(sorted(allowed))}.")
    names = [name for name in names if name in allowed] or ["recall", "ndcg"]
    config["metrics"], config["topk"] = list(dict.fromkeys(names)), sorted(set(topk or config["topk"]))
    return config


def _interactions(config: Any, name: str, data_path: str | Path) -> NDArray[Any]:
    """Return the different pairs of ids of users and items in a data set, by the filters of values at training.

    Users and items with few interactions stay: a newer part of the data has few of each.
    """
    from recbole.data import create_dataset

    folder = Path(data_path) / name
    if not inter_file(folder, name).is_file():
        raise DataError(
            f"dataset: there is no file {folder / f'{name}.inter'}. Set data_path to the folder that holds {name}/{name}.inter."
        )
    changes: dict[str, Any] = {
        "dataset": name, "data_path": str(folder), "benchmark_filename": None, "save_dataset": False,
        "dataset_save_path": None, "checkpoint_dir": "/nonexistent", "user_inter_num_interval": None,
        "item_inter_num_interval": None,
        "eval_args": {**config["eval_args"], "split": {"RS": [1, 0, 0]}, "order": "RO", "group_by": "user"},
    }  # fmt: skip
    if config["load_col"] is not None:  # the newer data need no times or weights
        fields = [config["USER_ID_FIELD"], config["ITEM_ID_FIELD"]]
        needed = {*fields, config["LABEL_FIELD"], *(config["val_interval"] or ()), *(config["threshold"] or ())}
        loaded = config["load_col"].get("inter")
        changes["load_col"] = {"inter": [*fields, *(each for each in loaded or () if each in needed - {*fields})]}
    for option, value in changes.items():
        config[option] = value
    config.dataset = name
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        data = create_dataset(config)
    liked = labels.liked(data)
    feat = data.inter_feat if liked is None else data.inter_feat[liked]
    pairs = [data.id2token(each, feat[each].to_numpy()) for each in (data.uid_field, data.iid_field)]
    different: NDArray[Any] = pd.DataFrame(np.column_stack(pairs).astype(object)).drop_duplicates().to_numpy(object)
    return different
