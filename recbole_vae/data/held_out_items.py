"""Held-out items as a split of RecBole's data set: none of their interactions is in training, so models find them new.

Some items are held out for validation, others for the test; all their interactions are in that part. The interactions of the
other items are split as usual, or are all for training. A part ranks the items with training interactions, called *warm*, and
its own items without, called *cold*.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from recbole.data.interaction import Interaction
from torch import Tensor
from torch.nn import functional as F

from recbole_vae.data.splits import split_hash
from recbole_vae.errors import DataError
from recbole_vae.options.evaluation import COLD, WARM, HeldOutItems, kind_of, of_other_items


def draw(tokens: NDArray[Any], wanted: HeldOutItems, default_seed: int) -> NDArray[np.int64]:
    """Draw the items of validation and test.

    Args:
        tokens: of the items, each once, in any order: they are sorted before NumPy's ``RandomState`` draws them, which gives
            the same numbers in all versions.
        wanted: how many.
        default_seed: the seed, if ``wanted`` has none.

    Returns:
        0, 1 or 2 for each item, if it is for training, validation or test.

    Raises:
        DataError: too few items are left for one of these.
    """
    numbers = [round(len(tokens) * each) if isinstance(each, float) else each for each in wanted.items]
    if min(numbers) < 1 or sum(numbers) >= len(tokens):
        given = ", ".join(map(str, wanted.items))
        raise DataError(
            f"eval_args: split: HI: [{given}] of {len(tokens)} items are {numbers[0]} for validation and {numbers[1]} for the "
            "test; each needs at least one, and so does training. Set other numbers, or shares such as HI: [0.1, 0.1]."
        )
    drawn = np.argsort(tokens.astype(str))[_random(wanted, default_seed).permutation(len(tokens))]
    parts = np.zeros(len(tokens), dtype=np.int64)
    parts[drawn[: numbers[0]]] = 1
    parts[drawn[numbers[0] : sum(numbers)]] = 2
    return parts


def _random(wanted: HeldOutItems, default_seed: int) -> np.random.RandomState:
    return np.random.RandomState(default_seed if wanted.seed is None else wanted.seed)


def held_out_apart(dataset: Any, split: Callable[[Any], list[Any]]) -> list[Any]:
    """Split a data set so that items are held out, and the interactions of the others as ``split`` does.

    Args:
        dataset: RecBole's data set, not split yet.
        split: splits a data set by its ``eval_args`` into the parts for training, validation and test.

    Returns:
        The three parts.

    Raises:
        DataError: see :func:`draw`.
    """
    config, field, feat = dataset.config, dataset.iid_field, dataset.inter_feat
    ids, places = np.unique(feat[field].to_numpy(), return_inverse=True)
    tokens = np.asarray(dataset.field2id_token[field])[ids]
    part_of = draw(tokens, HeldOutItems.read(config["eval_args"]), config["seed"])[places]
    say(dataset, places, part_of)
    given = config["eval_args"]
    config["eval_args"] = {**given, "split": of_other_items(given["split"])}
    dataset.inter_feat = feat[part_of == 0].reset_index(drop=True)
    try:
        parts = split(dataset)
    finally:
        config["eval_args"] = given
    rest = dataset.inter_feat
    dataset.inter_feat = feat[part_of > 0].reset_index(drop=True)
    apart = dataset._dataframe_to_interaction(dataset.inter_feat)
    of = torch.from_numpy(part_of[part_of > 0])
    for number, part in enumerate(parts):
        if number:
            part.inter_feat = _joined(part.inter_feat, apart[of == number])
    dataset.inter_feat = _joined(rest, apart)
    return parts


def say(dataset: Any, items: NDArray[np.int64], part_of: NDArray[np.int64], left_out: str = "") -> None:
    """Log how many items are held out.

    Args:
        dataset: whose logger says it.
        items: number of the item of each interaction.
        part_of: as in :func:`with_targets`.
        left_out: what else is to be said.
    """
    of_parts = [
        f"{len(np.unique(items[part_of == part])):,} for {name} (interactions: {int((part_of == part).sum()):,})"
        for part, name in ((1, "validation"), (2, "the test"))
    ]
    dataset.logger.info(f"Held-out items, of {len(np.unique(items)):,}: {', '.join(of_parts)}{left_out}.")


def _joined(one: Interaction, other: Interaction) -> Interaction:
    """Join interactions; sequences get the width of the longer ones. Columns that only ``other`` has are dropped."""

    def column(name: str) -> Tensor:
        both = [one[name], other[name]]
        if both[0].ndim == 2:
            width = max(each.shape[1] for each in both)
            both = [F.pad(each, (0, width - each.shape[1])) for each in both]
        return torch.cat(both)

    return Interaction({name: column(name) for name in one.columns})


def with_targets(
    users: NDArray[np.int64], part_of: NDArray[np.int64], rows: NDArray[np.int64], sizes: list[int]
) -> tuple[NDArray[np.int64], list[int]]:
    """Add interactions with held-out items to the targets of held-out users.

    Users of other parts are not evaluated in the part that has the item, so their interactions with it are left out.

    Args:
        users: number of the user of each interaction.
        part_of: 1 or 2 for each interaction, if its item is held out for validation or test; else 0.
        rows: interactions that are used, by the blocks of :class:`~recbole_vae.data.held_out.Split`.
        sizes: of the blocks.

    Returns:
        Rows and sizes with these interactions.
    """
    blocks = np.split(rows, np.cumsum(sizes)[:-1])
    for part in (1, 2):
        own = np.flatnonzero(part_of == part)
        own = own[np.isin(users[own], users[blocks[2 * part]])]
        blocks[2 * part] = np.concatenate([blocks[2 * part], own])
    return np.concatenate(blocks), [len(block) for block in blocks]


@dataclass(frozen=True)
class Candidates:
    """What the lists of a part may have where items are held out.

    Attributes:
        kinds: internal ids of the items of each kind that is measured apart, int64: ``warm`` ones have training interactions,
            ``cold`` ones have none, but some in this part. Cold ones are in random order, for models that score them all
            alike: the places of equal scores in a list then say nothing of the items.
        barred: internal ids of all other items, which do not exist for this part, with RecBole's padding; int64.
    """

    kinds: dict[str, Tensor]
    barred: Tensor


def mark(dataset: Any, parts: list[Any], users: str = "") -> None:
    """Set ``candidates`` of the parts for validation and test, and ``split_hash`` of all, and log them.

    Args:
        dataset: the whole data set.
        parts: for training, validation and test.
        users: SHA-256 of the split by users, if some are held out.

    Raises:
        DataError: lists are to be longer than a part has cold items, or ``valid_metric`` is of a kind of which the validation
            part has no interaction.
    """
    config, field = dataset.config, dataset.iid_field
    in_training, *others = (np.bincount(part.inter_feat[field].numpy(), minlength=dataset.item_num) for part in parts)
    warm = in_training > 0
    there = np.flatnonzero(in_training + sum(others))
    tokens = np.asarray(dataset.field2id_token[field])[there].astype(str)
    wanted = HeldOutItems.read(config["eval_args"])
    in_random_order = there[np.argsort(tokens)][_random(wanted, config["seed"]).permutation(len(there))]
    _, *evaluated = parts
    numbers = []
    for name, part, number in zip(("validation", "the test"), evaluated, others, strict=True):
        cold = in_random_order[(number > 0)[in_random_order] & ~warm[in_random_order]]
        ids = {WARM: np.flatnonzero(warm), COLD: cold}
        found = {kind: int(number[of].sum()) for kind, of in ids.items()}
        if max(config["topk"]) > len(cold):
            raise DataError(
                f"topk: {max(config['topk'])} is more than the {len(cold)} held-out items of {name}, among which the metrics of "
                "cold items rank. Set a smaller topk, or hold out more items (eval_args: split: HI)."
            )
        exists = np.zeros(dataset.item_num, dtype=bool)
        exists[np.concatenate(list(ids.values()))] = True
        part.candidates = Candidates(
            {kind: torch.from_numpy(of) for kind, of in ids.items() if found[kind]},
            torch.from_numpy(np.flatnonzero(~exists)),
        )
        numbers.append(len(cold))
    kind, _ = kind_of(str(config["valid_metric"]).lower())
    if kind and kind not in evaluated[0].candidates.kinds:
        raise DataError(
            f"valid_metric: {config['valid_metric']}: the validation part has no interaction with {kind} items. Choose another "
            "metric, or another split (eval_args)."
        )
    digest = hashlib.sha256((users + split_hash(*parts)).encode()).hexdigest()
    for each in (dataset, *parts):
        each.split_hash = digest
    dataset.logger.info(
        f"Cold items, which have no training interactions, are {numbers[0]:,} in validation and {numbers[1]:,} in the test. "
        f"SHA-256 of the {'whole ' * bool(users)}split: {digest}"
    )
