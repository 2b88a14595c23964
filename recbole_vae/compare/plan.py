"""What a comparison is to do: read from a YAML file and the command line, checked before anything runs.

RecBole is not imported here, but for the names of its metrics.
"""

from __future__ import annotations

import ast
import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml

from recbole_vae.errors import ConfigError
from recbole_vae.model.registry import import_models, is_history_model, model_class, model_names
from recbole_vae.options.data import check_data_options
from recbole_vae.options.evaluation import check_eval_args, check_metrics
from recbole_vae.options.names import Where, near
from recbole_vae.options.recbole import RUN_OPTIONS, options_in, recbole_defaults, recbole_model_names

TRAINING = {"epochs": 300, "stopping_step": 50, "eval_step": 1}
"""The stopping rule of all rows, unless the plan has another: 50 evaluations without a better one."""

FIRST_SEED = 2020
_OWN = (
    "models", "rows", "datasets", "dataset", "protocols", "settings", "seeds", "split_seed", "metrics", "topk", "primary",
    "max_k", "reference", "alpha", "trials", "spaces", "imports", "jobs", "time_limit", "memory_limit", "scheduler",
)  # fmt: skip
_NO_DIRECTION = ("giniindex", "averagepopularity", "tailpercentage", "shannonentropy")
_SET_BY_COMPARE = {
    "model": "rows", "seed": "seeds", "checkpoint_dir": None, "show_progress": None, "fast_evaluation": None, "resume": None,
    "config_files": None, "nproc": "jobs", "metric_decimal_place": None,
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A row of the table: a model with settings of its own, above those of the plan."""

    model: str
    label: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    space: Mapping[str, Any] | None = None


@dataclass
class Plan:
    """A comparison, checked.

    Attributes:
        rows: what is compared, in the order of the table.
        datasets: settings of each data set, by its name; ``protocols``: of each protocol.
        settings: for all. A protocol's come above a data set's, a row's above both, and all above these.
        options: of the command line; above all of those.
        seeds: of the models; of the split, too, unless ``split_seed`` is given.
        metrics: RecBole's names, without k; ``topk``: the k of the table.
        primary: chooses the best epoch and the tuned settings (on the validation part), and ranks the rows.
        max_k: the curves over k end here.
        trials: of tuning, for each row; 0 for none.
        spaces: search spaces by model, instead of those of ``properties/hyper``.
        imports: modules that register models.
        jobs: runs at a time; ``time_limit`` of each in seconds, ``memory_limit`` in GB, ``scheduler``: address of Dask's.
    """

    rows: list[Row]
    datasets: dict[str, dict[str, Any]]
    protocols: dict[str, dict[str, Any]]
    settings: dict[str, Any]
    options: dict[str, Any]
    seeds: list[int]
    split_seed: int | None
    metrics: list[str]
    topk: list[int]
    primary: str
    max_k: int
    reference: str | None
    alpha: float
    trials: int
    spaces: dict[str, Any]
    imports: list[str]
    jobs: int
    time_limit: float | None
    memory_limit: float | None
    scheduler: str | None

    @property
    def columns(self) -> list[str]:
        """The columns of the table: the plan's metrics at each k."""
        return [f"{name.lower()}@{k}" for name in self.metrics for k in self.topk]

    def identity(self) -> dict[str, Any]:
        """Return what must not change when a comparison goes on; rows, seeds, data sets and protocols may be added."""
        names = (
            "datasets",
            "protocols",
            "settings",
            "options",
            "split_seed",
            "metrics",
            "topk",
            "primary",
            "max_k",
            "trials",
        )
        return {name: getattr(self, name) for name in names}

    def plain(self) -> dict[str, Any]:
        """Return the plan as plain values, as a plan's YAML file could have them, with the command line's options in it."""

        def left(settings: Mapping[str, Any]) -> dict[str, Any]:
            return {name: value for name, value in settings.items() if name not in self.options}

        rows = [
            {"model": row.model, "label": row.label, "settings": left(row.settings)}
            | ({} if row.space is None else {"space": dict(row.space)})
            for row in self.rows
        ]
        others = {name: value for name in _OWN if (value := getattr(self, name, None)) not in (None, {}, [])}
        named = {
            name: {key: left(each) for key, each in getattr(self, name).items()} for name in ("datasets", "protocols")
        }
        return {**others, **named, "rows": rows, "settings": {**self.settings, **self.options}}

    def cells(self) -> list[tuple[str, str, Row]]:
        """Return all of (data set, protocol, row), in the order of the tables."""
        return list(itertools.product(self.datasets, self.protocols, self.rows))

    def job(
        self, dataset: str, protocol: str, row: Row, seed: int, tuned: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return all that determines a run, and nothing else, as plain values."""
        settings = {
            **self.settings, **self.datasets[dataset], **self.protocols[protocol], **row.settings, **(tuned or {}),
            **self.options,
        }  # fmt: skip
        return {
            "dataset": dataset, "model": row.model, "seed": seed, "split_seed": self.split_seed, "settings": settings,
            "metrics": self.metrics, "topk": self.topk, "primary": self.primary, "max_k": self.max_k,
        }  # fmt: skip


def digest(value: Any) -> str:
    """Return a SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def convert(text: str) -> Any:
    """Read a value of the command line: a Python literal, YAML, or a word."""
    try:
        return _plain(ast.literal_eval(text))
    except (ValueError, SyntaxError):
        pass
    try:
        return yaml.load(text, Loader=YAML)
    except yaml.YAMLError:
        return text


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return {str(key): _plain(each) for key, each in value.items()} if isinstance(value, dict) else value


class YAML(yaml.SafeLoader):
    """YAML with 1e-3 as a number, as RecBole has it, and no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for number, key in enumerate(keys):
            if key in keys[:number]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"'{key}' stands twice", node.value[number][0].start_mark
                )
        return super().construct_mapping(node, deep)


YAML.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _lines_of_keys(document: yaml.Node | None) -> dict[str, list[int]]:
    """Return the lines, from 1, in which each key of a document stands, at whatever depth."""
    lines: dict[str, list[int]] = {}
    left, seen = [document], set[int]()
    while left:
        node = left.pop()
        if id(node) in seen:  # an alias is the node that it stands for
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            left += node.value
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                lines.setdefault(str(key.value), []).append(key.start_mark.line + 1)
                left.append(value)
    return lines


def read(file: str | None, options: Mapping[str, str]) -> Plan:
    """Read and check a plan.

    Args:
        file: YAML, or None.
        options: of the command line, above the file: the plan's own keys, and RecBole's, which are settings.

    Raises:
        ConfigError: something is missing, unknown or not allowed; the message says where.
    """
    text, content = "", dict[str, Any]()
    if file is not None:
        text, content = _load(file)
    lines = _lines_of_keys(yaml.compose(text, Loader=YAML))

    def where(key: str) -> str:
        if key in given:
            return "command line"
        found = sorted(set(lines.get(key, ())))
        return f"{file}, line {' or '.join(map(str, found))}" if found else file or ""

    given = {name: convert(value) for name, value in options.items()}
    for name in content:
        if name not in _OWN:
            meant = near(str(name), _OWN)
            hint = f" Did you mean {meant}?" if meant else " Options of RecBole stand under settings:."
            raise ConfigError(f"{name} ({where(str(name))}): a plan has no such key.{hint} It has {', '.join(_OWN)}.")
    own = {name: given[name] for name in given if name in _OWN}
    values: dict[str, Any] = {**content, **own}
    if "models" in own:
        values.pop("rows", None)
    if {"dataset", "datasets"} & set(own):
        kept = _named_settings(content, where)
        chosen = _words(own.get("dataset", own.get("datasets")), "dataset", where)
        values["datasets"] = {name: kept.get(name, {}) for name in chosen}
        values.pop("dataset", None)
    reader = _Reader(values, where)
    imports = reader.words("imports", [])
    import_models(imports, where("imports"))
    settings = _settings({**TRAINING, **reader.mapping("settings")}, "settings", where)
    of_command = _settings({name: value for name, value in given.items() if name not in _OWN}, "command line", where)
    datasets = {name: _settings(each, name, where) for name, each in _named_settings(values, where).items()}
    protocols = {
        name: _settings(each, name, where) for name, each in (reader.mapping("protocols") or {"default": {}}).items()
    }
    rows = _rows(values, where)
    spaces = reader.mapping("spaces")
    metrics, topk = reader.words("metrics", ["Recall", "NDCG"]), reader.numbers("topk", [10])
    primary = str(
        values.get("primary") or (f"NDCG@{topk[0]}" if "ndcg" in map(str.lower, metrics) else f"{metrics[0]}@{topk[0]}")
    )
    _check_metrics(metrics, topk, primary, where)
    metrics, topk = list({each.lower(): each for each in metrics}.values()), list(dict.fromkeys(topk))
    seeds = values.get("seeds", 1)
    if isinstance(seeds, int) and not isinstance(seeds, bool) and 0 < seeds <= 1000:
        seeds = list(range(FIRST_SEED, FIRST_SEED + seeds))
    if (
        not isinstance(seeds, list)
        or not seeds
        or not all(_is_seed(each) for each in seeds)
        or len(set(seeds)) < len(seeds)
    ):
        _refuse(
            "seeds", seeds, where, "a number of seeds >= 1, or a list of different integers >= 0, such as [1, 2, 3]"
        )
    split_seed = values.get("split_seed")
    if split_seed is not None and not _is_seed(split_seed):
        _refuse("split_seed", split_seed, where, "an integer >= 0")
    plan = Plan(
        rows=rows, datasets=datasets, protocols=protocols, settings=settings, options=of_command, seeds=seeds,
        split_seed=split_seed,
        metrics=metrics, topk=topk, primary=primary, max_k=reader.integer("max_k", max(50, *topk), max(topk)),
        reference=values.get("reference"), alpha=reader.number("alpha", 0.05, 1) or 0.05, trials=reader.integer("trials", 0, 0),
        spaces=spaces, imports=imports, jobs=reader.integer("jobs", 1, 1), time_limit=reader.number("time_limit"),
        memory_limit=reader.number("memory_limit"), scheduler=values.get("scheduler"),
    )  # fmt: skip
    if plan.scheduler is not None and not isinstance(plan.scheduler, str):
        _refuse("scheduler", plan.scheduler, where, "the address of a Dask scheduler, such as tcp://host:8786")
    labels = [row.label for row in rows]
    if plan.reference is not None and plan.reference not in labels:
        _refuse("reference", plan.reference, where, f"the label of a row: {', '.join(labels)}")
    _check_splits(plan, where)
    for name, own_settings in datasets.items():
        _check_data({**settings, **own_settings, **of_command}, name, where)
    return plan


def _load(file: str) -> tuple[str, dict[str, Any]]:
    try:
        text = Path(file).read_text(encoding="utf-8")
        content = yaml.load(text, Loader=YAML)
    except OSError as error:
        raise ConfigError(f"{file}: cannot read this plan: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{file}{place}: not valid YAML ({getattr(error, 'problem', None) or error}).") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: a plan must consist of lines 'key: value', and this one does not.")
    return text, content


def _refuse(key: str, value: Any, where: Where, allowed: str) -> NoReturn:
    place = where(key)
    raise ConfigError(f"{key}: {value!r}{place and f' ({place})'} is not allowed; it must be {allowed}.")


def _is_seed(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**32


def _words(value: Any, key: str, where: Where) -> list[str]:
    words = [each.strip() for each in value.split(",")] if isinstance(value, str) else value
    if not isinstance(words, list) or not words or not all(isinstance(each, str) and each for each in words):
        _refuse(key, value, where, "a list of names, such as [A, B]")
    return words


@dataclass
class _Reader:
    values: Mapping[str, Any]
    where: Where

    def words(self, key: str, default: list[str]) -> list[str]:
        value = self.values.get(key)
        return default if value is None else _words(value, key, self.where)

    def mapping(self, key: str) -> dict[str, Any]:
        value = self.values.get(key)
        if not isinstance(value or {}, dict):
            _refuse(key, value, self.where, "a mapping, lines 'name: value'")
        return {str(name): each for name, each in (value or {}).items()}

    def numbers(self, key: str, default: list[int]) -> list[int]:
        value = self.values.get(key, default)
        value = value if isinstance(value, list) else [value]
        if not value or not all(isinstance(each, int) and not isinstance(each, bool) and each > 0 for each in value):
            _refuse(key, self.values[key], self.where, "an integer >= 1, or a list of some, such as [10, 20]")
        return value

    def integer(self, key: str, default: int, least: int) -> int:
        value = self.values.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            _refuse(key, value, self.where, f"an integer >= {least}")
        return value

    def number(self, key: str, default: float | None = None, below: float = float("inf")) -> float | None:
        value = self.values.get(key, default)
        if value is None:
            return None
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < below:
            _refuse(key, value, self.where, f"a number > 0{f' and < {below}' if below < float('inf') else ''}")
        return value


def _named_settings(values: Mapping[str, Any], where: Where) -> dict[str, Any]:
    if values.get("dataset") is not None and values.get("datasets") is not None:
        raise ConfigError(f"dataset ({where('dataset')}) and datasets ({where('datasets')}) cannot be given together.")
    value = values.get("datasets", values.get("dataset", "ml-100k"))
    if isinstance(value, dict):
        return {str(name): each or {} for name, each in value.items()}
    return {name: {} for name in _words(value, "datasets", where)}


def _rows(values: Mapping[str, Any], where: Where) -> list[Row]:
    if values.get("models") is not None and values.get("rows") is not None:
        raise ConfigError(f"models ({where('models')}) and rows ({where('rows')}) cannot be given together.")
    given = values.get("rows")
    if given is None:
        given = _words(values.get("models", "MultVAE,MultDAE"), "models", where)
    rows: list[Row] = []
    keys = ("model", "settings", "label", "space")
    if not isinstance(given, list) or not given:
        _refuse("rows", given, where, "a list of models, or of {model: ..., label: ..., settings: {...}}")
    for each in given:
        row = {"model": each} if isinstance(each, str) else each
        if not isinstance(row, dict) or not isinstance(row.get("model"), str):
            _refuse("rows", each, where, "the name of a model, or {model: ..., label: ..., settings: {...}}")
        for key in row:
            if key not in keys:
                meant = near(str(key), keys)
                raise ConfigError(
                    f"rows: {key} ({where(str(key))}): a row has no such key{f'; did you mean {meant}?' if meant else '.'} "
                    f"It has {', '.join(keys)}."
                )
        model = row["model"]
        known = [*model_names(), *recbole_model_names()]
        if model not in known:
            meant = near(model, known)
            place = where("models" if "models" in values else "rows")
            raise ConfigError(
                f"models{place and f' ({place})'}: there is no model '{model}'{f'; did you mean {meant}?' if meant else '.'} Of "
                f"recbole_vae: {', '.join(model_names())}; or any of RecBole's."
            )
        settings = _settings(row.get("settings") or {}, model, where)
        label = str(row.get("label") or model)
        for other in rows:
            same = other.model == model and other.settings == settings and other.space == row.get("space")
            if other.label == label or same:
                raise ConfigError(
                    f"rows: two rows are {'the same' if same else 'called'} '{label}'; give each settings and a label of its own."
                )
        rows.append(Row(model, label, settings, row.get("space")))
    return rows


def of_the_data() -> set[str]:
    """Return the options that make data set, split and candidates, which must be the same for all rows."""
    return options_in("dataset/*") | {"data_path", "eval_args", "repeatable"}


def known_options() -> set[str]:
    """Return the names of all options of RecBole and of the registered models."""
    known = options_in("*", "model/*", "dataset/*", "quick_start_config/*") | RUN_OPTIONS
    for name in model_names():
        found = model_class(name)
        known |= set(getattr(found, "defaults", {}))
        if is_history_model(found):
            known |= set(found.config_class.names())
    return known | {"shrink"}  # of ItemKNN; in none of RecBole's files of older versions


def check_option(name: Any, place: str) -> None:
    """Refuse what is no option, or is not for a plan to set.

    Raises:
        ConfigError: as said; ``place`` begins the message after the name.
    """
    if name in _SET_BY_COMPARE or name in ("metrics", "topk"):
        instead = _SET_BY_COMPARE.get(name, f"the plan's {name}")
        raise ConfigError(
            f"{name} ({place}): compare sets this option{f'; use {instead}.' if instead else ', the same for all rows.'}"
        )
    known = known_options()
    if name not in known:
        meant = near(str(name), known | set(_OWN))
        raise ConfigError(
            f"{name} ({place}): neither compare nor RecBole nor a model has this option"
            f"{f'; did you mean {meant}?' if meant else '.'}"
        )


def _settings(given: Any, owner: str, where: Where) -> dict[str, Any]:
    """Check the names of options."""
    if not isinstance(given or {}, dict):
        _refuse(owner, given, where, "a mapping of options, lines 'option: value'")
    for name in given or {}:
        check_option(name, where(str(name)))
        _check_kind(name, given[name], where)
    return _plain(dict(given or {}))  # type: ignore[no-any-return]


def _check_kind(name: str, value: Any, where: Where) -> None:
    """Refuse a word where RecBole has a number, which would end each run apart, and late."""
    default = recbole_defaults().get(name)
    if value is None or (isinstance(default, bool) and isinstance(value, bool)):
        return
    whole = isinstance(value, int) and not isinstance(value, bool)
    if isinstance(default, bool):
        _refuse(name, value, where, "True or False")
    if isinstance(default, int) and not whole:
        _refuse(name, value, where, "an integer")
    if isinstance(default, float) and not whole and not isinstance(value, float):
        _refuse(name, value, where, "a number")


def _check_values(model: str, settings: Mapping[str, Any], where: Where) -> None:
    """Refuse, before the first run is started, each value that a model of recbole_vae would refuse by itself."""
    found = model_class(model)
    for name, allowed in found.config_class.allowed().items() if is_history_model(found) else ():
        if name in settings:
            try:
                allowed.convert(_as_recbole_reads(settings[name]))
            except (TypeError, ValueError):
                _refuse(name, settings[name], where, str(allowed))


def _as_recbole_reads(value: Any) -> Any:
    """Return the value that RecBole makes of a string: of a literal of Python, or true or false in any case."""
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (SyntaxError, TypeError, ValueError):
        return {"true": True, "false": False}.get(value.lower(), value)


def _check_metrics(metrics: Sequence[str], topk: Sequence[int], primary: str, where: Where) -> None:
    from recbole.evaluator.register import metric_information, metric_types
    from recbole.utils import EvaluatorType

    ranking = {name: kind for name, kind in metric_types.items() if kind == EvaluatorType.RANKING}
    at_k = {name for name, needs in metric_information.items() if {"rec.items", "rec.topk"} & set(needs)} & set(ranking)
    values = {"metrics": list(metrics), "topk": list(topk), "valid_metric": primary}
    kinds = {name: ranking[name] for name in at_k}  # the others need scores of all pairs, or have no k
    try:
        check_metrics(values, kinds, (), at_k, lambda key: where("primary" if key == "valid_metric" else key))
    except ConfigError as error:
        raise ConfigError(str(error).replace("valid_metric", "primary")) from None
    if primary.partition("@")[0].lower() in _NO_DIRECTION:
        raise ConfigError(
            f"primary: {primary!r} ({where('primary')}) is not allowed: whether more of it is better is no matter of course. "
            "Choose one of accuracy, such as NDCG@10."
        )


def _check_splits(plan: Plan, where: Where) -> None:
    shared = of_the_data()
    for dataset, protocol in itertools.product(plan.datasets, plan.protocols):
        for row in plan.rows:
            settings = plan.job(dataset, protocol, row, 0)["settings"]
            own = sorted(set(row.settings) & shared)
            if own:
                raise ConfigError(
                    f"rows: {row.label}: {own[0]} ({where(own[0])}) must be the same for all rows; "
                    "set it for the data set, the protocol, or all."
                )
            _check_values(row.model, settings, where)
            if str(settings.get("valid_metric", plan.primary)).lower() != plan.primary.lower():
                _refuse("valid_metric", settings["valid_metric"], where, f"the primary metric, {plan.primary}")
        if "eval_args" in settings:
            check_eval_args(settings, False, where)
            mode = settings["eval_args"].get("mode", "full")
            if mode not in ("full", {"valid": "full", "test": "full"}):
                _refuse("eval_args", mode, where, "mode: full; a ranking among sampled items may order models wrongly")
        check_data_options(settings, where)


def _check_data(settings: dict[str, Any], name: str, where: Where) -> None:
    """Look for the files of a data set; RecBole would try to download them."""
    if name == "ml-100k":  # RecBole takes its own
        return
    folder = Path(str(settings.get("data_path", "dataset"))) / name
    parts = settings.get("benchmark_filename")
    for part in [""] if parts is None else [f".{part}" for part in parts]:
        file = folder / f"{name}{part}.inter"
        if not file.is_file():
            place = where("datasets") or where("dataset")
            raise ConfigError(
                f"dataset: {name}{place and f' ({place})'}: there is no file {file}. Set data_path to the folder that holds "
                f"{name}/{file.name}, or make it with recbole-vae prepare."
            )
