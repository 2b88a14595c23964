"""What a table measured, in words: the data, the split, the candidates, the metrics, how the epoch was chosen, the settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from recbole_vae.compare.plan_file import plain
from recbole_vae.compare.results import Run
from recbole_vae.compare.settings import of_the_data
from recbole_vae.data import padding
from recbole_vae.evaluation.definitions import definition
from recbole_vae.options.evaluation import ALL, kind_of, of_other_items

FILTERS = (
    "val_interval", "user_inter_num_interval", "item_inter_num_interval", "filter_inter_by_user_or_item", "threshold",
    "repeats", "exact_time", "exact_ids", "benchmark_filename", "value_field",
)  # fmt: skip
"""Options that choose or change interactions; a run keeps those that are set."""


def data(dataset: Any, config: Any) -> dict[str, Any]:
    """Return what a run records of its data: its size after filtering, and the options that made it so.

    Args:
        dataset: RecBole's data set, before it is split.
        config: RecBole's Config.
    """
    users, items = padding.real(dataset.user_num), padding.real(dataset.item_num)
    size = {"users": users, "items": items, "interactions": len(dataset.inter_feat)}
    options = {name: config[name] for name in FILTERS if name in config}
    set_ones = {
        name: value for name, value in options.items() if value not in (None, "auto", "[0,inf)", True, False, [], {})
    }
    off = {name: value for name, value in options.items() if name.startswith("exact_") and value is False}
    repeated = {"repeatable": True} if config["repeatable"] else {}
    return {**size, "filters": {**set_ones, **off}, "eval_args": plain(config["eval_args"]), **repeated}


def facts(runs: Sequence[Run], metrics: Sequence[str], primary: str) -> list[tuple[str, str]]:
    """Say what the runs on one data set in one protocol measured, in facts under a word each; of older runs less.

    Args:
        runs: those that are done.
        metrics: the columns, such as ``ndcg@10``.
        primary: the metric that chose the epoch.
    """
    known = [run.data for run in runs if run.data]
    found = []
    if known:
        what = known[0]
        users, items, interactions = (what[name] for name in ("users", "items", "interactions"))
        density = interactions / max(1, users * items)
        files = what["filters"].get("benchmark_filename")
        filters = "; ".join(
            f"{name}: {value}" for name, value in what["filters"].items() if name != "benchmark_filename"
        )
        size = f"{users:,} users, {items:,} items, {interactions:,} interactions (density {density:.2%})"
        found.append(("Data", f"{size}{f', after {filters}' if filters else ''}."))
        seeds = sorted({run.seed for run in runs})
        which = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))}"
        if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1)):
            which = f"seeds {seeds[0]} to {seeds[-1]}"
        split = f"that of the files {', '.join(files)}" if files else _split(what["eval_args"])
        found.append(("Split", f"{split}; {which}."))
        barred = "fold-in" if "HU" in split_of(what["eval_args"]) else "training"
        candidates = _candidates(what["eval_args"].get("mode", "full"), "nothing" if what.get("repeatable") else barred)
        if "HI" in split_of(what["eval_args"]):
            candidates += "; of the items without training interactions, those that the part has"
        found.append(("Candidates", f"{candidates}."))
    found += [(name, f"{words}.") for name, words in definitions(metrics)]
    if any(kind_of(metric)[0] for metric in metrics):
        words = "items with training interactions, and items without, each ranked apart from the others"
        found.append(("Warm and cold", f"{words}. Users without such an item to be found do not count there."))
    if any(run.best_epoch for run in runs):
        found.append(("Epoch", f"that of the best {primary} on the validation part."))
    return found


def definitions(metrics: Sequence[str]) -> list[tuple[str, str]]:
    """Return the names of metrics without k, and what they are; without those of which that is not known."""
    names = dict.fromkeys(metric.partition("@")[0].lower() for metric in metrics)
    defined = [words.split(": ", 1) for name in names if (words := definition(name))]
    return [(f"{name[0].upper()}{name[1:]}", words) for name, words in defined]


def split_of(eval_args: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the split of ``eval_args``."""
    return eval_args.get("split") or {"RS": None}


def _split(eval_args: Mapping[str, Any]) -> str:
    split = split_of(eval_args)
    if "HI" in split:
        others = of_other_items(split)
        rest = (
            "all those of the others for training"
            if others == ALL
            else f"of the others {_split({**eval_args, 'split': others})}"
        )
        held_out = " and ".join(f"{each:.0%}" if isinstance(each, float) else str(each) for each in split["HI"])
        return f"the interactions of {held_out} of the items for validation and test; {rest}"
    kind, how = next(iter(split.items()))
    by_time = eval_args.get("order") == "TO"
    within = "of each user" if eval_args.get("group_by") == "user" else "of all users together"
    if kind == "HU":
        named = " and ".join(map(str, how)) if isinstance(how, list) else str(how)
        fold_in = eval_args.get("fold_in", 0.8)
        return (
            f"users held out for validation and test ({named}), {fold_in:g} of the interactions of each known to the model, "
            f"{'the earliest' if by_time else 'drawn at random'}"
        )
    if kind == "LS":
        which = {"valid_and_test": "the last interaction of each user for test, the one before for validation"}
        named = which.get(str(how), f"the last interaction of each user ({how})")
        return named if by_time or eval_args.get("order") is None else named.replace("the last", "a random")
    shares = ":".join(f"{10 * share:g}" for share in how) if isinstance(how, list) and sum(how) <= 1.001 else str(how)
    if kind == "TS" and isinstance(how, list):  # RecBole divides what is left by user, whatever group_by says
        total, (train, valid, test) = sum(how), how
        return (
            f"the last {test / total:.0%} of all interactions by time are the test part, from one moment on for all users; the "
            f"rest of each user is divided {10 * train:g}:{10 * valid:g} by time"
        )
    return f"{shares} of the interactions {within}, {'by time' if by_time else 'at random'}"


_ALL = {
    "training": "all items but those that the user has in training, or, in the test, in validation",
    "fold-in": "all items but those of the user's fold-in",
    "nothing": "all items",
}


def _candidates(mode: Any, known: str) -> str:
    modes = dict.fromkeys(mode.values() if isinstance(mode, dict) else [mode])
    words = []
    for each in modes:
        kind, number = each.rstrip("0123456789"), each.lstrip("abcdefghijklmnopqrstuvwxyz")
        drawn = {"uni": "uniformly", "pop": "by popularity"}.get(kind)
        if drawn:
            words.append(f"for each relevant item {number} others, drawn {drawn}")
        else:
            words.append(_ALL[known] if each == "full" else f"those of {each}")
    return " (validation), ".join(words)


def settings(run: Run) -> dict[str, Any]:
    """Return the settings of a run that are the model's: those that it was given, and those that tuning chose."""
    others = of_the_data() | {"model", "dataset", "seed"}
    return {name: value for name, value in run.settings.items() if name not in others}


def in_words(values: Mapping[str, Any]) -> str:
    """Return settings as one line; ``defaults`` for none."""
    return ", ".join(f"{name}: {value}" for name, value in values.items()) or "defaults"
