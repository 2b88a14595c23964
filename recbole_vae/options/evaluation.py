"""How a run is evaluated: checks of the metrics and of ``eval_args``."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, field_validator

from recbole_vae.errors import ConfigError
from recbole_vae.options.fields import Strict
from recbole_vae.options.names import Where, near, refuse

WARM, COLD = "warm", "cold"
"""Items with training interactions, and items without: where items are held out, metrics stand for both apart, as in
``cold_recall@10``."""

OF_PROBABILITIES = ("logloss", "mae", "rmse")
"""Metrics of values that compare a label of 0 or 1 with the probability of 1; AUC compares scores with each other."""


def as_lists(given: dict[str, Any]) -> None:
    """Turn ``metrics``, ``topk`` and ``normalize_field`` into the lists that RecBole needs, also if written ``A,B``."""
    for name in ("metrics", "topk"):
        value: Any = given.get(name)
        if isinstance(value, str) and re.search(r"[,\s]", value.strip()):
            value = [word for word in re.split(r"[,\s]+", value.strip("[]() ")) if word]
            if name == "topk" and all(map(str.isdecimal, value)):
                value = list(map(int, value))
        if hasattr(value, "tolist"):  # NumPy's
            value = value.tolist()
        if isinstance(value, tuple | list):
            value = [each.item() if hasattr(each, "item") else each for each in value]
        if value is not None:
            given[name] = value
    if isinstance(given.get("normalize_field"), str):  # RecBole would take it for a list of letters
        given["normalize_field"] = [given["normalize_field"]]


def check_metrics(
    values: Mapping[str, Any], kinds: Mapping[str, Any], broken: Collection[str], at_k: Collection[str], where: Where
) -> str:
    """Raise a ConfigError if a metric does not exist, or the one that is to choose the best epoch is not measured.

    Args:
        values: has ``metrics``, ``topk``, ``valid_metric``, ``metric_decimal_place``, and perhaps ``tail_ratio``,
            ``popularity_correction`` and ``eval_args``.
        kinds: RecBole's ``metric_types``, by the lower-case names of all metrics.
        broken: metrics that this RecBole has, but cannot compute.
        at_k: metrics that are measured at each of ``topk``.
        where: tells where the value of an option was set.

    Returns:
        The metric that chooses the best epoch: ``valid_metric``, or the first of ``metrics`` if this is left at a default that is
        not measured.
    """
    metrics, topk = (each if isinstance(each, list | tuple) else [each] for each in (values["metrics"], values["topk"]))
    if not topk or not all(isinstance(k, int) and not isinstance(k, bool) and k > 0 for k in topk):
        refuse("topk", values["topk"], where, "an integer >= 1, or a list of some, such as [10, 20]")
    if not metrics:
        refuse("metrics", metrics, where, "a list of metrics, such as [Recall, NDCG]")
    names = [str(metric).lower() for metric in metrics]
    for name in names:
        if name not in kinds or name in broken:
            place = where("metrics")
            meant = None if name in kinds else near(name, kinds)
            what = f"there is no metric {name!r}"
            if name in kinds:
                what = f"RecBole cannot compute {name!r} as it is defined; fast_evaluation: True can"
            raise ConfigError(
                f"metrics{place and f' ({place})'}: {what}{f'; did you mean {meant}?' if meant else '.'} "
                f"There are: {', '.join(sorted(set(kinds) - set(broken)))}."
            )
    if len({kinds[name] for name in names}) > 1:
        refuse("metrics", metrics, where, "either metrics of a ranking or metrics of values (AUC, MAE, RMSE, LogLoss)")
    correction = values.get("popularity_correction")
    if correction and names[0] in ("auc", *OF_PROBABILITIES):
        refuse("popularity_correction", correction, where, "0 for metrics of values")
    decimals = values.get("metric_decimal_place", 4)
    if not isinstance(decimals, int) or isinstance(decimals, bool) or decimals < 1:
        allowed = "an integer >= 1, for the best epoch is chosen by the rounded metric"
        refuse("metric_decimal_place", decimals, where, allowed)
    tail = values.get("tail_ratio")
    if tail is not None and not (isinstance(tail, int | float) and not isinstance(tail, bool) and tail > 0):
        refuse("tail_ratio", tail, where, "a share of the items, > 0 and <= 1, or a number of interactions > 1")
    apart = kinds_apart(values)
    kind, valid = kind_of(str(values["valid_metric"]).lower())
    valid, _, k = valid.partition("@")
    place = where("valid_metric")
    # Where only cold items are to be found, a metric among all items says little of them.
    prefix = f"{COLD}_" if apart == (COLD,) and not kind and not place else ""
    if kind in ("", *apart) and valid in names and k in (list(map(str, topk)) if valid in at_k else [""]):
        return f"{prefix}{values['valid_metric']}"
    if not place:
        return prefix + (f"{metrics[0]}@{topk[0]}" if names[0] in at_k else str(metrics[0]))
    measured = [f"{name}@{each}" for name in names if name in at_k for each in topk]
    measured += [name for name in names if name not in at_k]
    measured += [f"{kind}_{name}" for kind in apart for name in measured]
    raise ConfigError(
        f"valid_metric: {values['valid_metric']!r} ({place}) is not measured; measured are {', '.join(measured)}. Set "
        "valid_metric to one of these (it chooses the best epoch), or change metrics and topk."
    )


def check_values(values: Mapping[str, Any], why_not: str, where: Where) -> None:
    """Raise a ConfigError if a metric of values is of probabilities, which a model's scores are not.

    Args:
        values: has ``metrics``.
        why_not: why they are none, and what to do.
        where: tells where the value of an option was set.
    """
    place = where("metrics")
    for name in map(str.lower, values["metrics"] if isinstance(values["metrics"], list) else [values["metrics"]]):
        if name in OF_PROBABILITIES:
            raise ConfigError(f"metrics{place and f' ({place})'}: {name!r} is of probabilities, and {why_not}.")


def modes_of(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the mode of the phases ``valid`` and ``test``; empty where ``eval_args`` is malformed."""
    args = values["eval_args"]
    mode = args.get("mode", "full") if isinstance(args, dict) else None
    if isinstance(mode, dict):
        return {phase: each for phase, each in mode.items() if isinstance(each, str)}
    return dict.fromkeys(("valid", "test"), mode) if isinstance(mode, str) else {}


class EvalArgs(Strict):
    """RecBole's ``eval_args``."""

    split: Any = None
    group_by: Literal["user", "none"] = Field("user", json_schema_extra={"words": "user or none"})
    order: Literal["RO", "TO"] = Field("RO", json_schema_extra={"words": "RO (random) or TO (by time)"})
    mode: Any = "full"

    @field_validator("group_by", mode="before")
    @classmethod
    def _none(cls, value: Any) -> Any:
        return "none" if str(value).lower() == "none" else value


class HeldOutItemsArgs(EvalArgs):
    """``eval_args`` where items are held out."""

    seed: int | None = Field(None, ge=0, lt=2**32)


class HeldOutArgs(EvalArgs):
    """``eval_args`` where users are held out, perhaps items, too."""

    fold_in: float = Field(
        0.8,
        gt=0,
        lt=1,
        json_schema_extra={
            "words": "a number > 0 and < 1: the share of a held-out user's items that the model is given"
        },
    )
    min_items: int = Field(5, ge=2, lt=2**32)
    seed: int | None = Field(None, ge=0, lt=2**32)


@dataclass(frozen=True)
class HeldOutUsers:
    """The part of ``eval_args`` that says how users are held out.

    Attributes:
        users: of validation and test: numbers, or shares of all users; without meaning where ``benchmark_filename`` or a
            file gives them.
        fold_in: share of a held-out user's items that the model is given.
        min_items: held-out users have at least this many items.
        seed: of the draw; None for the option ``seed``.
        by_time: whether the fold-in is a user's first items; otherwise it is drawn.
        file: where the split is read from; None to make one.
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
        args = HeldOutArgs.read(eval_args)
        users = args.split["HU"]
        return cls(
            users=(0, 0) if isinstance(users, str) else tuple(users),
            fold_in=args.fold_in,
            min_items=args.min_items,
            seed=args.seed,
            by_time=args.order == "TO",
            file=users if isinstance(users, str) and users != "files" else None,
        )


def holds_out_users(values: Any) -> bool:
    """Tell whether the options hold out users."""
    args = values["eval_args"]
    return isinstance(args, dict) and isinstance(args.get("split"), dict) and "HU" in args["split"]


@dataclass(frozen=True)
class HeldOutItems:
    """The part of ``eval_args`` that says how items are held out.

    Attributes:
        items: of validation and test: numbers, or shares of all items.
        seed: of the draw; None for the option ``seed``.
    """

    items: tuple[float, float]
    seed: int | None

    @classmethod
    def read(cls, eval_args: Mapping[str, Any]) -> HeldOutItems:
        """Read checked ``eval_args``."""
        return cls(tuple(eval_args["split"]["HI"]), eval_args.get("seed"))


def holds_out_items(values: Any) -> bool:
    """Tell whether the options hold out items."""
    args = values["eval_args"]
    return isinstance(args, dict) and isinstance(args.get("split"), dict) and "HI" in args["split"]


def args_class(values: Any) -> type[EvalArgs]:
    """Return what ``eval_args`` may have."""
    if holds_out_users(values):
        return HeldOutArgs
    return HeldOutItemsArgs if holds_out_items(values) else EvalArgs


def of_other_items(split: Mapping[str, Any]) -> dict[str, Any]:
    """Return the split of the items that are not held out; without one, all their interactions are for training."""
    return {name: how for name, how in split.items() if name != "HI"} or ALL


def kinds_apart(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the kinds of items, ``warm`` and ``cold``, for which metrics stand apart; none where no items are held out."""
    if not ("eval_args" in values and holds_out_items(values)):
        return ()
    others = {"eval_args": {"split": of_other_items(values["eval_args"]["split"])}}
    return (COLD,) if trains_on_all(others) else (WARM, COLD)


def kind_of(metric: str) -> tuple[str, str]:
    """Divide the name of a metric in its kind, ``warm``, ``cold`` or "" for all items, and the rest."""
    kind, _, rest = metric.partition("_")
    return (kind, rest) if kind in (WARM, COLD) else ("", metric)


ALL: dict[str, list[float]] = {"RS": [1.0, 0.0, 0.0]}
"""The split that leaves all interactions for training, also those of all parts that ``benchmark_filename`` names."""


def trains_on_all(values: Any) -> bool:
    """Tell whether the options leave no interaction for validation and test."""
    args = values["eval_args"]
    split = args.get("split") if isinstance(args, dict) else None
    shares = split.get("RS") if isinstance(split, dict) and "HI" not in split else None
    return isinstance(shares, list | tuple) and len(shares) == 3 and not any(shares[1:])


def trains_on_whole_histories(values: Any) -> bool:
    """Tell whether the options leave the training users all their interactions."""
    return trains_on_all(values) or holds_out_users(values)


def orders_by_time(values: Any) -> bool:
    """Tell whether a split orders interactions by time; the parts of ``benchmark_filename`` have their order already."""
    args = values["eval_args"]
    if not isinstance(args, dict) or (values["benchmark_filename"] is not None and not holds_out_users(values)):
        return False
    return args.get("order") == "TO" or "TS" in (args.get("split") or ())


def check_eval_args(values: Mapping[str, Any], of_values: bool, where: Where) -> None:
    """Raise a ConfigError unless RecBole can use ``eval_args``; with others it would take a default, or crash.

    Args:
        values: has ``eval_args`` and perhaps ``benchmark_filename``, beside which only ``mode`` counts.
        of_values: whether the metrics are of values, not of a ranking.
        where: tells where the value of an option was set.
    """
    value, parts = values["eval_args"], values.get("benchmark_filename")
    if not isinstance(value, dict):
        example = "{split: {RS: [0.8, 0.1, 0.1]}, group_by: user, order: RO, mode: full}"
        refuse("eval_args", value, where, f"a mapping such as {example}")
    held_out, new_items = holds_out_users(values), holds_out_items(values)
    kind = args_class(values)
    for key in value:
        if key not in kind.names():
            place = where("eval_args")
            raise ConfigError(
                f"eval_args: the key {key!r}{place and f' ({place})'} is not allowed; it must be one of "
                f"{', '.join(kind.names())}."
            )
    if held_out:
        _check_held_out(value, parts is not None, where)
    if new_items:
        _check_held_out_items(value, parts, where)
    if held_out or new_items:
        for name, only in (("save_dataset", False), ("save_dataloaders", False), ("fast_evaluation", True)):
            if values.get(name, only) not in (only, None):
                what = "users" if held_out else "items"
                refuse(name, values[name], where, f"{only} where {what} are held out")
    check_mode(value.get("mode", "full"), of_values, where)
    if parts is not None and not (
        isinstance(parts, list | tuple) and len(parts) == 3 and all(isinstance(each, str) for each in parts)
    ):
        allowed = "the three parts of NAME.<part>.inter for training, validation and test, such as [train, valid, test]"
        refuse("benchmark_filename", parts, where, allowed)
    if parts is None:
        _check_split(value.get("split", {"RS": [0.8, 0.1, 0.1]}), where)
    if parts is None or held_out or new_items:
        try:
            kind.read(value, lambda _: where("eval_args"))
        except ConfigError as error:
            raise ConfigError(f"eval_args: {error}") from None


def check_mode(modes: Any, of_values: bool, where: Where) -> None:
    """Raise a ConfigError unless RecBole knows a mode, and it goes with the metrics."""
    for mode in modes.values() if isinstance(modes, dict) and set(modes) <= {"valid", "test"} else [modes]:
        if not isinstance(mode, str) or not re.fullmatch(r"full|labeled|(uni|pop)0*[1-9]\d*", mode):
            allowed = "full, uniN or popN with N sampled items, labeled, or {valid: ..., test: ...} of these"
            refuse("eval_args", modes, where, allowed, "mode")
        if of_values and mode == "full":
            refuse("eval_args", modes, where, "uniN, popN or labeled for metrics of values", "mode")
        if not of_values and mode == "labeled":
            refuse("eval_args", modes, where, "full, uniN or popN for metrics of a ranking", "mode")


def _check_split(split: Any, where: Where) -> None:
    if isinstance(split, dict) and "HI" in split:
        split = of_other_items(split)
    kind, how = next(iter(split.items())) if isinstance(split, dict) and len(split) == 1 else (None, None)
    if kind not in ("RS", "TS", "LS", "HU"):
        allowed = (
            "{RS: [0.8, 0.1, 0.1]} (shares of training, validation and test), {LS: valid_and_test}, {TS: [0.8, 0.1, 0.1]} "
            "or {HU: [0.1, 0.1]} (users held out for validation and test: shares, or numbers, or the file of a split), and HI: "
            "[0.1, 0.1] alone or beside one of these (items held out)"
        )
        refuse("eval_args", split, where, allowed, "split")
    if kind == "LS" and how not in ("valid_and_test", "valid_only", "test_only"):
        refuse("eval_args", how, where, "valid_and_test, valid_only or test_only", "split: LS")
    shares = isinstance(how, list) and len(how) == 3 and all(map(_is_share, how)) and how[0] > 0
    if kind in ("RS", "TS") and not shares:
        allowed = "three numbers >= 0, the first > 0, such as [0.8, 0.1, 0.1]"
        refuse("eval_args", how, where, allowed, f"split: {kind}")


def _check_held_out(value: Mapping[str, Any], in_files: bool, where: Where) -> None:
    how = value["split"]["HU"]
    if in_files != (how == "files"):
        refuse("eval_args", how, where, "files if benchmark_filename is given, and only then", "split: HU")
    if value.get("mode", "full") not in ("full", {"valid": "full", "test": "full"}):
        refuse("eval_args", value["mode"], where, "full where users are held out", "mode")
    if in_files:
        return
    if isinstance(how, str):
        for key in ("fold_in", "min_items", "seed"):
            if key in value:
                refuse("eval_args", value[key], where, f"left out where the split is that of a file, {how}", key)
        if value.get("order", "RO") != "RO":
            refuse("eval_args", value["order"], where, f"RO where the split is that of a file, {how}", "order")
        return
    users = how if isinstance(how, list | tuple) else [how]
    if len(users) == 2 and all(map(_is_share, users)) and min(users) > 0:
        numbers = [isinstance(each, int) for each in users]
        if all(numbers) or (not any(numbers) and sum(users) < 1):
            return
    allowed = (
        "two numbers of users, such as [750, 750], two shares of them that sum to less than 1, such as [0.1, 0.1], or a file "
        "that a run with held-out users wrote"
    )
    refuse("eval_args", users, where, allowed, "split: HU")


def _check_held_out_items(value: Mapping[str, Any], parts: Any, where: Where) -> None:
    how = value["split"]["HI"]
    if parts is not None:
        refuse("benchmark_filename", parts, where, "left out where items are held out: the split is drawn then")
    if value.get("mode", "full") not in ("full", {"valid": "full", "test": "full"}):
        refuse("eval_args", value["mode"], where, "full where items are held out", "mode")
    if isinstance(how, list | tuple) and len(how) == 2 and all(map(_is_share, how)) and min(how) > 0:
        numbers = [isinstance(each, int) for each in how]
        if all(numbers) or (not any(numbers) and sum(how) < 1):
            return
    allowed = (
        "two numbers of items, such as [50, 50], or two shares of them that sum to less than 1, such as [0.1, 0.1]"
    )
    refuse("eval_args", how, where, allowed, "split: HI")


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")
