"""How a run is evaluated: checks of the metrics and of ``eval_args``."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from recbole_vae.errors import ConfigError
from recbole_vae.options.names import Where, near, refuse

if TYPE_CHECKING:
    pass


def check_metrics(
    values: Mapping[str, Any], kinds: Mapping[str, Any], broken: Collection[str], at_k: Collection[str], where: Where
) -> None:
    """Raise a ConfigError if a metric does not exist, or the one that chooses the best epoch is not measured.

    Args:
        values: has ``metrics``, ``topk`` and ``valid_metric``.
        kinds: RecBole's ``metric_types``, by the lower-case names of all metrics.
        broken: those that this RecBole has, but cannot compute.
        at_k: those that are measured at each of ``topk``.
        where: tells where the value of an option was set.
    """
    metrics, topk = (each if isinstance(each, list | tuple) else [each] for each in (values["metrics"], values["topk"]))
    if not topk or not all(isinstance(k, int) and not isinstance(k, bool) and k > 0 for k in topk):
        refuse("topk", "", values["topk"], where, "an integer >= 1, or a list of some, such as [10, 20]")
    if not metrics:
        refuse("metrics", "", metrics, where, "a list of metrics, such as [Recall, NDCG]")
    names = [str(metric).lower() for metric in metrics]
    for name in names:
        if name not in kinds or name in broken:
            place = where("metrics")
            meant = None if name in kinds else near(name, kinds)
            raise ConfigError(
                f"metrics{place and f' ({place})'}: "
                f"{f'RecBole cannot compute {name!r}' if name in kinds else f'there is no metric {name!r}'}"
                f"{f'; did you mean {meant}?' if meant else '.'} There are: {', '.join(sorted(set(kinds) - set(broken)))}."
            )
    if len({kinds[name] for name in names}) > 1:
        refuse(
            "metrics", "", metrics, where, "either metrics of a ranking or metrics of values (AUC, MAE, RMSE, LogLoss)"
        )
    valid, _, k = str(values["valid_metric"]).lower().partition("@")
    if valid not in names or k not in (list(map(str, topk)) if valid in at_k else [""]):
        measured = [f"{name}@{each}" for name in names if name in at_k for each in topk]
        measured += [name for name in names if name not in at_k]
        place = where("valid_metric") or "the default"
        raise ConfigError(
            f"valid_metric: {values['valid_metric']!r} ({place}) is not measured; measured are {', '.join(measured)}. Set "
            "valid_metric to one of these (it chooses the best epoch), or change metrics and topk."
        )


_SPLIT = (
    "{RS: [0.8, 0.1, 0.1]} (shares of training, validation and test), {LS: valid_and_test}, {TS: [0.8, 0.1, 0.1]} or "
    "{HU: [0.1, 0.1]} (users held out for validation and test: shares, or numbers, or the file of a split)"
)


@dataclass(frozen=True)
class HeldOutUsers:
    """The part of ``eval_args`` that says how users are held out.

    Attributes:
        users: of validation and test: numbers, or shares of all; of no meaning where ``benchmark_filename`` or a file
            gives them.
        fold_in: share of a held-out user's items that is given to the model.
        min_items: held-out users have at least so many.
        seed: of the draw; None for the option ``seed``.
        by_time: whether the fold-in is what a user had first, or else drawn.
        file: where the split is to be read from; None to make one.
    """

    users: tuple[float, float]
    fold_in: float
    min_items: int
    seed: int | None
    by_time: bool
    file: str | None = None

    @classmethod
    def read(cls, eval_args: Mapping[str, Any]) -> HeldOutUsers:
        """Read checked ``eval_args``."""
        users = eval_args["split"]["HU"]
        return cls(
            users=(0, 0) if isinstance(users, str) else tuple(users),
            fold_in=eval_args.get("fold_in", 0.8),
            min_items=eval_args.get("min_items", 5),
            seed=eval_args.get("seed"),
            by_time=eval_args.get("order") == "TO",
            file=users if isinstance(users, str) and users != "files" else None,
        )


def holds_out_users(values: Any) -> bool:
    """Tell whether options ask for users that are held out."""
    args = values["eval_args"]
    return isinstance(args, dict) and isinstance(args.get("split"), dict) and "HU" in args["split"]


def _check_held_out(value: Mapping[str, Any], in_files: bool, where: Where) -> None:
    how = value["split"]["HU"]
    if in_files or how == "files":
        if not (in_files and how == "files"):
            refuse("eval_args", "split: HU: ", how, where, "files if benchmark_filename is given, and only then")
        how = [1, 1]
    if isinstance(how, str):
        for key in ("fold_in", "min_items", "seed"):
            if key in value:
                refuse("eval_args", f"{key}: ", value[key], where, f"left out where the split is that of a file, {how}")
        if value.get("order", "RO") != "RO":
            refuse("eval_args", "order: ", value["order"], where, f"RO where the split is that of a file, {how}")
        how = [1, 1]
    if not isinstance(how, list | tuple):
        how = [how]
    a_number = [isinstance(each, int) and not isinstance(each, bool) and each > 0 for each in how if _is_share(each)]
    if not (
        len(how) == 2
        and all(map(_is_share, how))
        and (all(a_number) or (not any(a_number) and min(how) > 0 and sum(how) < 1))
    ):
        refuse(
            "eval_args", "split: HU: ", how, where,
            "two numbers of users, such as [750, 750], two shares of them that sum to less than 1, such as [0.1, 0.1], or a file "
            "that a run with held-out users wrote",
        )  # fmt: skip
    fold_in, least, seed = value.get("fold_in", 0.8), value.get("min_items", 5), value.get("seed", 0)
    if not (_is_share(fold_in) and 0 < fold_in < 1):
        refuse(
            "eval_args", "fold_in: ", fold_in, where, "a number > 0 and < 1: the share of a user's items that is given"
        )
    for name, number, minimum in (("min_items", least, 2), ("seed", seed, 0)):
        if not isinstance(number, int) or isinstance(number, bool) or not minimum <= number < 2**32:
            refuse("eval_args", f"{name}: ", number, where, f"an integer >= {minimum}")
    if value.get("mode", "full") not in ("full", {"valid": "full", "test": "full"}):
        refuse("eval_args", "mode: ", value["mode"], where, "full where users are held out")


def check_eval_args(values: Mapping[str, Any], of_values: bool, where: Where) -> None:
    """Raise a ConfigError unless RecBole's ``eval_args`` is what RecBole can use; it would go on with a default, or crash.

    Args:
        values: has ``eval_args`` and perhaps ``benchmark_filename``, beside which only ``mode`` is read.
        of_values: whether the metrics are of values, not of a ranking.
        where: tells where the value of an option was set.
    """
    value, parts = values["eval_args"], values.get("benchmark_filename")
    if not isinstance(value, dict):
        example = "{split: {RS: [0.8, 0.1, 0.1]}, group_by: user, order: RO, mode: full}"
        refuse("eval_args", "", value, where, f"a mapping such as {example}")
    known = ["split", "group_by", "order", "mode"]
    held_out = holds_out_users(values)
    if held_out:
        known += ["fold_in", "min_items", "seed"]
    for key in value:
        if key not in known:
            refuse("eval_args", "the key ", key, where, f"one of {', '.join(known)}")
    if held_out:
        _check_held_out(value, parts is not None, where)
        for name, only in (("save_dataset", False), ("save_dataloaders", False), ("fast_evaluation", True)):
            if values.get(name, only) not in (only, None):
                refuse(name, "", values[name], where, f"{only} where users are held out")
    modes = value.get("mode", "full")
    for mode in modes.values() if isinstance(modes, dict) and set(modes) <= {"valid", "test"} else [modes]:
        if not isinstance(mode, str) or not re.fullmatch(r"full|labeled|(uni|pop)\d+", mode):
            allowed = "full, uniN or popN with N sampled items, labeled, or {valid: ..., test: ...} of these"
            refuse("eval_args", "mode: ", modes, where, allowed)
        if of_values and mode == "full":
            refuse("eval_args", "mode: ", modes, where, "uniN, popN or labeled for metrics of values")
        if not of_values and mode == "labeled":
            refuse("eval_args", "mode: ", modes, where, "full, uniN or popN for metrics of a ranking")
    if parts is not None:
        if not (isinstance(parts, list | tuple) and len(parts) == 3 and all(isinstance(each, str) for each in parts)):
            allowed = (
                "the three parts of NAME.<part>.inter for training, validation and test, such as [train, valid, test]"
            )
            refuse("benchmark_filename", "", parts, where, allowed)
        return
    split = value.get("split", {"RS": [0.8, 0.1, 0.1]})
    if not isinstance(split, dict) or len(split) != 1:
        refuse("eval_args", "split: ", split, where, _SPLIT)
    (kind, how), *_ = split.items()
    if kind == "LS":
        if how not in ("valid_and_test", "valid_only", "test_only"):
            refuse("eval_args", "split: LS: ", how, where, "valid_and_test, valid_only or test_only")
    elif kind not in ("RS", "TS", "HU"):
        refuse("eval_args", "split: ", split, where, _SPLIT)
    elif kind != "HU" and not (isinstance(how, list) and len(how) == 3 and all(map(_is_share, how)) and how[0] > 0):
        refuse(
            "eval_args", f"split: {kind}: ", how, where, "three numbers >= 0, the first > 0, such as [0.8, 0.1, 0.1]"
        )
    if value.get("group_by", "user") != "user" and str(value["group_by"]).lower() != "none":
        refuse("eval_args", "group_by: ", value["group_by"], where, "user or none")
    if value.get("order", "RO") not in ("RO", "TO"):
        refuse("eval_args", "order: ", value["order"], where, "RO (random) or TO (by time)")


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")
