"""Typed hyper-parameters: read from RecBole's Config, checked, with errors that say what is allowed.

The defaults and the meaning of each option stand in ``properties/``; here stand their types and limits.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from recbole_vae.errors import ConfigError

if TYPE_CHECKING:
    from recbole.config import Config

Self = TypeVar("Self", bound="ModelConfig")


LARGEST = 1e3
"""Of what scores are corrected or scattered by: far above what is of use, and all scores stay finite in float32."""


@dataclass(frozen=True)
class Allowed:
    """What values an option may have.

    Attributes:
        kind: ``int``, ``float``, ``str``, ``bool`` or ``dict``.
        minimum: the smallest value; ``maximum``: the greatest; ``above``: all values are greater; ``below``: all are smaller.
        choices: the only values.
        optional: None is a value.
        many: the value is a list, possibly empty, of such values.
        word: the only string that may stand for a number.
    """

    kind: type
    minimum: float | None = None
    above: float | None = None
    below: float | None = None
    maximum: float | None = None
    choices: tuple[Any, ...] = ()
    optional: bool = False
    many: bool = False
    word: str | None = None

    def __str__(self) -> str:
        """Describe the values in words."""
        if self.choices:
            one = f"{'one of ' * (len(self.choices) > 1)}{', '.join(map(str, self.choices))}"
        else:
            one = {int: "an integer", float: "a number", str: "a string", bool: "True or False", dict: "a mapping"}[
                self.kind
            ]
            limits = [
                f"{sign} {limit:g}"
                for sign, limit in ((">=", self.minimum), (">", self.above), ("<=", self.maximum), ("<", self.below))
                if limit is not None
            ]
            one += " " * bool(limits) + " and ".join(limits)
        text = f"a list (which may be empty) of values, each {one}" if self.many else one
        return text + f", or {self.word}" * bool(self.word) + ", or ~ (none)" * self.optional

    def convert(self, value: Any) -> Any:
        """Return the value in its own type.

        Raises:
            ValueError: the value is not allowed.
        """
        if (value is None and self.optional) or (value == self.word and self.word):
            return value
        if self.many:
            if not isinstance(value, list | tuple):
                raise ValueError
            return [self._convert_one(each) for each in value]
        return self._convert_one(value)

    def _convert_one(self, value: Any) -> Any:
        if self.kind in (int, float):
            # bool is an int to Python, but an option that is True instead of 1 is a mistake.
            if isinstance(value, bool) or not isinstance(value, Real):
                raise ValueError
            if self.kind is float:
                value = float(value)
            elif isinstance(value, Integral):
                value = int(value)
            elif float(value).is_integer():  # 2e5 from a YAML file
                value = int(float(value))
            else:
                raise ValueError
            within = (
                (self.minimum is None or value >= self.minimum)
                and (self.above is None or value > self.above)
                and (self.below is None or value < self.below)
                and (self.maximum is None or value <= self.maximum)
                and abs(value) != float("inf")
            )
            if not within or value != value:
                raise ValueError
        elif not isinstance(value, self.kind) or (self.choices and value not in self.choices):
            raise ValueError
        return value


def option(kind: type, **limits: Any) -> Any:
    """Declare a field of a :class:`ModelConfig`; the arguments are those of :class:`Allowed`."""
    return field(metadata={"allowed": Allowed(kind, **limits)})


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The options that every model of recbole_vae has: RecBole's of training that it does not check itself, and ours."""

    epochs: int = option(int, minimum=1)
    train_batch_size: int = option(int, minimum=1)
    eval_batch_size: int = option(int, minimum=1)
    eval_step: int = option(int)
    stopping_step: int = option(int, minimum=0)
    # Adam's relatives for sparse gradients are not among these: all gradients here are dense.
    learner: str = option(str, choices=("adam", "adamw", "sgd", "adagrad", "rmsprop"))
    learning_rate: float = option(float, above=0)
    weight_decay: float = option(float, minimum=0)
    clip_grad_norm: dict[str, float] | None = option(dict, optional=True)
    use_gpu: bool = option(bool)
    show_progress: bool = option(bool)
    reproducibility: bool = option(bool)
    # RecBole's mixed precision is for its own training loop.
    enable_amp: bool = option(bool, choices=(False,))
    enable_scaler: bool = option(bool, choices=(False,))
    seed: int = option(int, minimum=0, below=2**32)
    precision: str = option(str, choices=("auto", "float32", "bfloat16"))
    fast_evaluation: bool = option(bool)
    popularity_correction: float = option(float, minimum=-LARGEST, maximum=LARGEST)
    propensity_weight: float = option(float, minimum=0)
    weight_averaging: int = option(int, minimum=0)
    value_field: str | None = option(str, optional=True)
    resume: str | None = option(str, optional=True)

    @classmethod
    def read(cls: type[Self], values: Config | Mapping[str, Any], where: Callable[[str], str] = lambda key: "") -> Self:
        """Read the options from RecBole's Config or another mapping.

        Args:
            values: gives the value of each option; one that it lacks counts as None.
            where: tells where the value of an option was set, for the message.

        Raises:
            ConfigError: a value is of the wrong type or out of range.
        """
        checked = {}
        for name, allowed in cls.allowed().items():
            if name not in values and not allowed.optional:
                raise ConfigError(
                    f"{name}: this option has no default; a model's defaults must have one for each option."
                )
            value = values[name] if name in values else None  # noqa: SIM401 - RecBole's Config has no get
            try:
                checked[name] = allowed.convert(value)
            except ValueError:
                place = where(name)
                raise ConfigError(
                    f"{name}: {value!r}{place and f' ({place})'} is not allowed; it must be {allowed}."
                ) from None
        return cls(**checked)

    def __post_init__(self) -> None:
        """Raise a ConfigError unless ``clip_grad_norm`` has what PyTorch's function takes."""
        clip = self.clip_grad_norm
        if clip is not None and not ("max_norm" in clip and set(clip) <= {"max_norm", "norm_type"}):
            raise ConfigError(
                f"clip_grad_norm: {clip!r} is not allowed; it must have max_norm, and perhaps norm_type, such as "
                "{max_norm: 1.0}."
            )

    @classmethod
    def allowed(cls) -> dict[str, Allowed]:
        """Return of each option by its name which values it may have."""
        return {each.name: each.metadata["allowed"] for each in fields(cls)}

    @classmethod
    def names(cls) -> list[str]:
        """Return the names of the options."""
        return list(cls.allowed())


def near(name: str, names: Iterable[str]) -> str | None:
    """Return the name that a misspelt one was probably meant to be, or None."""
    by_lower = {each.lower(): each for each in names}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.75)
    if not found:
        # `dropout` for `dropout_prob`, `hidden_size` for `mlp_hidden_size`
        found = [each for each in sorted(by_lower, key=len) if len(name) >= 5 and name.lower() in each][:1]
    return by_lower[found[0]] if found else None


def check_names(
    given: Iterable[str], known: Collection[str], model_name: str, where: Callable[[str], str]
) -> list[str]:
    """Look for options that are unknown: RecBole ignores them, so that a misspelt one silently keeps its default.

    Returns:
        Those that look like no other and stand in a file or in the call: they may be meant for something else.

    Raises:
        ConfigError: one looks like a known one, or stands on the command line.
    """
    ignored = []
    for name in sorted(set(given) - set(known)):
        meant, place = near(name, known), where(name)
        if meant is None and place != "command line":
            ignored.append(name)
            continue
        raise ConfigError(
            f"{name}{place and f' ({place})'}: neither {model_name} nor RecBole has this option."
            f"{f' Did you mean {meant}?' if meant else f' See properties/model/{model_name}.yaml for those that there are.'}"
        )
    return ignored


Where = Callable[[str], str]


def _refuse(key: str, what: str, value: Any, where: Where, allowed: str) -> NoReturn:
    place = where(key)
    raise ConfigError(f"{key}: {what}{value!r}{place and f' ({place})'} is not allowed; it must be {allowed}.")


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
        _refuse("topk", "", values["topk"], where, "an integer >= 1, or a list of some, such as [10, 20]")
    if not metrics:
        _refuse("metrics", "", metrics, where, "a list of metrics, such as [Recall, NDCG]")
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
        _refuse(
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
            _refuse("eval_args", "split: HU: ", how, where, "files if benchmark_filename is given, and only then")
        how = [1, 1]
    if isinstance(how, str):
        for key in ("fold_in", "min_items", "seed"):
            if key in value:
                _refuse(
                    "eval_args", f"{key}: ", value[key], where, f"left out where the split is that of a file, {how}"
                )
        if value.get("order", "RO") != "RO":
            _refuse("eval_args", "order: ", value["order"], where, f"RO where the split is that of a file, {how}")
        how = [1, 1]
    if not isinstance(how, list | tuple):
        how = [how]
    a_number = [isinstance(each, int) and not isinstance(each, bool) and each > 0 for each in how if _is_share(each)]
    if not (
        len(how) == 2
        and all(map(_is_share, how))
        and (all(a_number) or (not any(a_number) and min(how) > 0 and sum(how) < 1))
    ):
        _refuse(
            "eval_args", "split: HU: ", how, where,
            "two numbers of users, such as [750, 750], two shares of them that sum to less than 1, such as [0.1, 0.1], or a file "
            "that a run with held-out users wrote",
        )  # fmt: skip
    fold_in, least, seed = value.get("fold_in", 0.8), value.get("min_items", 5), value.get("seed", 0)
    if not (_is_share(fold_in) and 0 < fold_in < 1):
        _refuse(
            "eval_args", "fold_in: ", fold_in, where, "a number > 0 and < 1: the share of a user's items that is given"
        )
    for name, number, minimum in (("min_items", least, 2), ("seed", seed, 0)):
        if not isinstance(number, int) or isinstance(number, bool) or not minimum <= number < 2**32:
            _refuse("eval_args", f"{name}: ", number, where, f"an integer >= {minimum}")
    if value.get("mode", "full") not in ("full", {"valid": "full", "test": "full"}):
        _refuse("eval_args", "mode: ", value["mode"], where, "full where users are held out")


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
        _refuse("eval_args", "", value, where, f"a mapping such as {example}")
    known = ["split", "group_by", "order", "mode"]
    held_out = holds_out_users(values)
    if held_out:
        known += ["fold_in", "min_items", "seed"]
    for key in value:
        if key not in known:
            _refuse("eval_args", "the key ", key, where, f"one of {', '.join(known)}")
    if held_out:
        _check_held_out(value, parts is not None, where)
        for name, only in (("save_dataset", False), ("save_dataloaders", False), ("fast_evaluation", True)):
            if values.get(name, only) not in (only, None):
                _refuse(name, "", values[name], where, f"{only} where users are held out")
    modes = value.get("mode", "full")
    for mode in modes.values() if isinstance(modes, dict) and set(modes) <= {"valid", "test"} else [modes]:
        if not isinstance(mode, str) or not re.fullmatch(r"full|labeled|(uni|pop)\d+", mode):
            allowed = "full, uniN or popN with N sampled items, labeled, or {valid: ..., test: ...} of these"
            _refuse("eval_args", "mode: ", modes, where, allowed)
        if of_values and mode == "full":
            _refuse("eval_args", "mode: ", modes, where, "uniN, popN or labeled for metrics of values")
        if not of_values and mode == "labeled":
            _refuse("eval_args", "mode: ", modes, where, "full, uniN or popN for metrics of a ranking")
    if parts is not None:
        if not (isinstance(parts, list | tuple) and len(parts) == 3 and all(isinstance(each, str) for each in parts)):
            allowed = (
                "the three parts of NAME.<part>.inter for training, validation and test, such as [train, valid, test]"
            )
            _refuse("benchmark_filename", "", parts, where, allowed)
        return
    split = value.get("split", {"RS": [0.8, 0.1, 0.1]})
    if not isinstance(split, dict) or len(split) != 1:
        _refuse("eval_args", "split: ", split, where, _SPLIT)
    (kind, how), *_ = split.items()
    if kind == "LS":
        if how not in ("valid_and_test", "valid_only", "test_only"):
            _refuse("eval_args", "split: LS: ", how, where, "valid_and_test, valid_only or test_only")
    elif kind not in ("RS", "TS", "HU"):
        _refuse("eval_args", "split: ", split, where, _SPLIT)
    elif kind != "HU" and not (isinstance(how, list) and len(how) == 3 and all(map(_is_share, how)) and how[0] > 0):
        _refuse(
            "eval_args", f"split: {kind}: ", how, where, "three numbers >= 0, the first > 0, such as [0.8, 0.1, 0.1]"
        )
    if value.get("group_by", "user") != "user" and str(value["group_by"]).lower() != "none":
        _refuse("eval_args", "group_by: ", value["group_by"], where, "user or none")
    if value.get("order", "RO") not in ("RO", "TO"):
        _refuse("eval_args", "order: ", value["order"], where, "RO (random) or TO (by time)")


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")


_INTERVAL = r"\s*[\[(]\s*[^,;]+,\s*[^,;]+[\])]\s*"


def check_data_options(values: Mapping[str, Any], where: Where) -> None:
    """Raise a ConfigError unless ``load_col`` and the filters have a form that RecBole understands; it ignores others."""
    load = values.get("load_col")
    if load is not None and not (
        isinstance(load, dict)
        and set(load) <= {"inter", "user", "item", "net", "link", "kg", *(values.get("additional_feat_suffix") or ())}
        and all(
            columns == "*" or (isinstance(columns, list | tuple) and all(isinstance(each, str) for each in columns))
            for columns in load.values()
        )
    ):
        _refuse(
            "load_col",
            "",
            load,
            where,
            "the columns of each file, such as {inter: [user_id, item_id, rating]}, or ~ for all",
        )
    intervals = {name: values.get(name) for name in ("user_inter_num_interval", "item_inter_num_interval")}
    for name, interval in intervals.items():
        if interval is not None and not _is_interval(interval):
            _refuse(name, "", interval, where, 'an interval such as "[5,inf)"')
    by_value = values.get("val_interval")
    if by_value is not None and not isinstance(by_value, dict):
        _refuse("val_interval", "", by_value, where, 'a mapping such as {rating: "[3,inf)"}')
    for name, interval in (by_value or {}).items():
        if isinstance(interval, str) and not _is_interval(interval):
            _refuse("val_interval", f"{name}: ", interval, where, 'an interval such as "[3,inf)", or a list of tokens')
    if values.get("benchmark_filename") is not None:
        given = [name for name in ("val_interval", *intervals) if where(name) and values.get(name)]
        if given:
            place = where(given[0])
            raise ConfigError(
                f"{given[0]} ({place}): RecBole filters nothing where benchmark_filename is given; filter the files."
            )


def _is_interval(text: Any) -> bool:
    if not re.fullmatch(f"{_INTERVAL}(;{_INTERVAL})*", str(text)):
        return False
    try:
        ends = [tuple(map(float, each.strip()[1:-1].split(","))) for each in str(text).split(";")]
    except ValueError:
        return False
    return all(low <= high for low, high in ends)


def place_of(config: Config, config_files: Iterable[str]) -> Callable[[str], str]:
    """Return a function that tells where the value of an option was set: a file and line, the command line, or the call."""

    def where(key: str) -> str:
        if key in config.cmd_config_dict:
            return "command line"
        if key in config.variable_config_dict:
            return "config_dict"
        if key in config.file_config_dict:
            for file in reversed(list(config_files)):
                lines = Path(file).read_text(encoding="utf-8").splitlines()
                for number, line in reversed(list(enumerate(lines, start=1))):
                    if re.match(rf"""\s*["']?{re.escape(key)}["']?\s*:""", line):
                        return f"{file}, line {number}"
        return ""

    return where
