"""A warm start: training begins with the parameters of an earlier model, whose data had partly other items.

What belongs to an item is taken over by the item's id: rows of the encoder and the decoder, biases, pseudo-inputs, and the
optimiser's state of each. What belongs to a column of the profiles is taken over by its field and value
(:meth:`recbole_vae.data.features.FeatureSpace.taken_over`), and is 0 for a new one. Users have no parameters; their histories
are data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn

from recbole_vae.data import padding
from recbole_vae.data.histories import Histories
from recbole_vae.errors import CheckpointError
from recbole_vae.model.base import HistoryRecommender
from recbole_vae.storage import checkpoint

_ALIKE = 50
"""A new item begins as the mean of so many others that about as many users have."""
_OF_DATA = ("chosen", "dropout", "features", "strengths", "profiles")
"""What models keep beside their parameters that follows from the data of a run, and is not taken over."""


@dataclass(frozen=True)
class Items:
    """Which items of an earlier model are still there; all numbers are columns, which have no padding.

    Attributes:
        before: column in the earlier model of each item that stays, int64, shape [kept].
        now: its column now, int64, shape [kept].
        new: columns of the items that the earlier model did not have, int64, shape [new].
        alike: for each new item, places in ``now`` of items with about as many users, int64, shape [new, some].
        n_before: number of items of the earlier model.
        n_now: number of items now.
    """

    before: Tensor
    now: Tensor
    new: Tensor
    alike: Tensor
    n_before: int
    n_now: int

    @property
    def same(self) -> bool:
        """Whether the items are the same, in the same order."""
        return self.n_before == self.n_now == int((self.before == self.now).sum())

    @classmethod
    def match(cls, before: Sequence[str], now: Sequence[str], counts: Tensor) -> Items:
        """Match items by their ids.

        Args:
            before: ids of the earlier model's items, without padding.
            now: ids of today's items, without padding.
            counts: how many users have each of today's items, shape [items].
        """
        places = {item: place for place, item in enumerate(before)}
        found = torch.tensor([places.get(item, -1) for item in now], dtype=torch.int64)
        kept, new = (found >= 0).nonzero()[:, 0], (found < 0).nonzero()[:, 0]
        counts = counts.cpu()
        by_count = counts[kept].argsort(stable=True)
        some = min(_ALIKE, len(kept))
        middle = torch.searchsorted(counts[kept][by_count], counts[new])
        first = (middle - some // 2).clamp(0, len(kept) - some)
        alike = by_count[first[:, None] + torch.arange(some)]
        return cls(found[kept], kept, new, alike, len(before), len(now))

    def moved(self, old: Tensor, dims: Sequence[int], new: Tensor | None = None) -> Tensor:
        """Return a tensor of the earlier model for today's items.

        Args:
            old: of the earlier model.
            dims: its dimensions that are over items.
            new: what entries of new items are, in the shape of the result; None for the means of items as popular.
        """
        for dim in dims:
            kept = old.index_select(dim, self.before)
            shape = [*kept.shape]
            shape[dim] = self.n_now
            moved = kept.new_empty(shape).index_copy_(dim, self.now, kept)
            if new is None and len(self.new):
                means = torch.stack([kept.index_select(dim, each).mean(dim) for each in self.alike], dim)
                moved.index_copy_(dim, self.new, means)
            old = moved
        if new is not None:
            for dim in dims:
                old.index_copy_(dim, self.new, new.index_select(dim, self.new).to(old))
        return old


class Columns:
    """What columns of the profiles, for which a layer has rows, take over from those of an earlier model.

    Args:
        shares: how much of each earlier column each one takes, float64, sparse, shape [columns, columns before].
    """

    same = False
    """See :class:`Items`: the columns are asked for where a parameter says that it has rows for them."""

    def __init__(self, shares: csr_matrix) -> None:
        self._shares = shares
        self.n_now, self.n_before = shares.shape
        self.kept = int((np.diff(shares.indptr) > 0).sum())
        self.gone = self.n_before - len(np.unique(shares.indices))

    def moved(self, old: Tensor, dims: Sequence[int], new: Tensor | None = None) -> Tensor:
        """Return a tensor of the earlier model for today's columns; arguments: see :meth:`Items.moved`. New ones are 0."""
        for dim in dims:
            rows = old.movedim(dim, 0)
            found = torch.from_numpy(self._shares @ rows.reshape(self.n_before, -1).double().cpu().numpy())
            old = found.to(old).reshape(self.n_now, *rows.shape[1:]).movedim(0, dim)
        return old


def steps_per_epoch(state: Mapping[str, Any]) -> int:
    """Return in how many batches the model of a checkpoint saw all its users."""
    users = int((state["histories"]["indptr"].diff() > 0).sum())
    return -(-users // int(state["config"]["train_batch_size"]))


def load(path: str | Path, model: str) -> dict[str, Any]:
    """Read the checkpoint with which a model is to begin.

    Raises:
        CheckpointError: the file cannot be read, or is of another model.
    """
    state = checkpoint.load(path)
    if state["model"] != model:
        raise CheckpointError(
            f"{path}: a checkpoint of {state['model']}, and warm_start needs one of {model} with the same layers."
        )
    return state


@torch.no_grad()
def begin(
    model: HistoryRecommender,
    optimizer: Any,
    ids: Sequence[str],
    state: Mapping[str, Any],
    path: str | Path,
    config: Any,
) -> str:
    """Put the parameters of an earlier model into a model, and its optimiser's state into the optimiser.

    Parameters that are not of items, such as hidden layers, are taken over as they are. The weight of the KL term goes on from
    where it was. A new item begins as the mean of old ones that about as many users have; its moments begin at 0.

    Args:
        model: the model, whose training has not begun.
        optimizer: its optimiser.
        ids: ids of the items, the first being RecBole's padding.
        state: of the earlier model, as :func:`load` returns it.
        path: where it was read, for messages.
        config: RecBole's Config of this run.

    Returns:
        What was taken over, in words for the log.

    Raises:
        CheckpointError: the earlier model has other layers or none of the items, or one of the two alone has user_features.
    """
    items = Items.match(state["items"][padding.REAL], ids[padding.REAL], model.histories.counts(model.n_real_items))
    if not len(items.now):
        raise CheckpointError(
            f"{path}: has none of the data set's items ('{ids[padding.REAL][0]}', ...), but others "
            f"('{state['items'][padding.REAL][0]}', ...), so there is nothing to begin with. Leave out warm_start."
        )
    dims, columns = _dims(model, "item_dims"), _dims(model, "feature_dims")
    features = _columns_of_profiles(model, state, path)
    before, own = (
        {name: each for name, each in some.items() if isinstance(each, Tensor)}
        for some in (state["state_dict"], model.state_dict())
    )
    for name in sorted(own.keys() | before.keys()):
        if name in columns:
            _check(name, own.get(name), before.get(name), columns[name], features, path)
        else:
            _check(name, own.get(name), before.get(name), dims.get(name, ()), items, path)
    for name, tensor in own.items():
        if name in columns:
            tensor.copy_(features.moved(before[name], columns[name]))
            continue
        of_items = dims.get(name, ())
        # A weight for a pair of items is learned from 0; it has no like.
        tensor.copy_(items.moved(before[name], of_items, tensor.cpu() if len(of_items) > 1 else None))
    extra = state["state_dict"]["_extra_state"]
    step = round(extra["step"] * model.steps_per_epoch / steps_per_epoch(state))
    taken = {name: value for name, value in extra.items() if name not in _OF_DATA}
    of_data = {name: value for name, value in model.get_extra_state().items() if name in _OF_DATA}
    model.set_extra_state({**taken, **of_data, "step": step})
    alike = state["config"]["learner"] == config["learner"]
    if alike:
        _take_moments(
            optimizer, state["optimizer"], model,
            {**dict.fromkeys(dims, items), **dict.fromkeys(columns, features)}, {**dims, **columns},
        )  # fmt: skip
    of_profiles = ""
    if features.n_now:
        new = features.n_now - features.kept
        of_profiles = f" Of the profiles' columns {features.kept} stay, {new} are new, {features.gone} are gone."
        if not features.kept:
            of_profiles += " So what it learned of profiles is lost: its user_features were others."
    return (
        f"Warm start from {path}: {len(items.now)} items stay, {len(items.new)} are new, "
        f"{items.n_before - len(items.now)} are gone; the optimiser {'goes on' if alike else 'is another, and begins anew'}."
        f"{of_profiles}"
    )


def seen(state: Mapping[str, Any], part: Any) -> int:
    """Return how many interactions of a part of a data set a checkpoint's model was trained with.

    Args:
        state: of the checkpoint.
        part: a part of a built RecBole data set.
    """
    histories = Histories(*(state["histories"][name] for name in ("indptr", "indices")))
    pairs = []
    for field, tokens in ((part.uid_field, state["users"]), (part.iid_field, state["items"])):
        places = {token: place for place, token in enumerate(tokens)}
        ids = np.asarray(part.inter_feat[field])
        pairs.append(np.array([places.get(str(token), -1) for token in part.field2id_token[field]])[ids])
    users, items = pairs
    there, width = (users > 0) & (items > 0), len(state["items"])
    known = (histories.rows() * width + histories.indices).numpy()
    return int(np.isin(users[there] * width + items[there], known).sum())


def _dims(model: nn.Module, declared: str) -> dict[str, tuple[int, ...]]:
    """Return which dimensions of the parameters are over items, or columns of profiles, as the modules declare.

    Args:
        model: the model.
        declared: ``item_dims`` or ``feature_dims``.
    """
    return {
        f"{prefix}.{name}".lstrip("."): dims
        for prefix, module in model.named_modules()
        for name, dims in getattr(module, declared, {}).items()
    }


def _columns_of_profiles(model: HistoryRecommender, state: Mapping[str, Any], path: str | Path) -> Columns:
    """Match the columns of the profiles, or raise a CheckpointError if one model alone has some."""
    before, now = state["state_dict"]["_extra_state"].get("profiles"), model.user_space
    if (before is None) != (now is None):
        has, lacks = ("this run", path) if before is None else (path, "this run")
        raise CheckpointError(
            f"user_features: {has} has some, and {lacks} has none. A warm start needs them in both or in neither; train anew to "
            "begin with profiles, or to leave them out."
        )
    if before is None or now is None:
        return Columns(csr_matrix((0, 0)))
    from recbole_vae.data.features import FeatureSpace  # here: pandas makes every import slow

    return Columns(now.taken_over(FeatureSpace.from_state(before)))


def _check(
    name: str, own: Tensor | None, before: Tensor | None, dims: Sequence[int], items: Items | Columns, path: str | Path
) -> None:
    """Raise a CheckpointError unless a parameter fits, and is of no items where it does not declare to be."""
    if own is not None and before is not None:
        expected = [items.n_before if dim in dims else size for dim, size in enumerate(own.shape)]
        # Another number of items shows in the shape; with the same number, the order may differ.
        of_items = not dims and items.n_now == items.n_before in own.shape and not items.same
        if list(before.shape) == expected and not of_items:
            return
    shapes = ["none" if each is None else list(each.shape) for each in (before, own)]
    raise CheckpointError(
        f"{path}: parameter '{name}' has shape {shapes[0]} there and {shapes[1]} here, which does not fit. A warm start needs "
        "the same layers (mlp_hidden_size, latent_dimension, ...), and modules that say which of their "
        "parameters are of items (item_dims) or of columns of profiles (feature_dims)."
    )


def _take_moments(
    optimizer: Any,
    saved: Mapping[str, Any],
    model: nn.Module,
    matched: Mapping[str, Items | Columns],
    dims: Mapping[str, Sequence[int]],
) -> None:
    """Put an optimiser's state of each parameter, such as Adam's moments, into another; that of new items is 0.

    Args:
        optimizer: of the model.
        saved: state of the earlier one.
        model: the model.
        matched: items, or columns of profiles, of each parameter that has a row for each.
        dims: its dimensions that are over these.
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    places = chain.from_iterable(group["params"] for group in saved["param_groups"])
    parameters = chain.from_iterable(group["params"] for group in optimizer.param_groups)
    state = optimizer.state_dict()
    for place, (number, parameter) in enumerate(zip(places, parameters, strict=True)):
        name, none = names[parameter], torch.zeros(parameter.shape)
        if number in saved["state"]:
            state["state"][place] = {
                key: matched[name].moved(value, dims[name], none)
                if name in matched and isinstance(value, Tensor) and value.ndim
                else deepcopy(value)
                for key, value in saved["state"][number].items()
            }
    optimizer.load_state_dict(state)
