"""The plan of a comparison, read from a YAML file and the command line, and checked before anything runs.

RecBole is imported here only for the names of its metrics.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, PrivateAttr, ValidationInfo, field_validator

from recbole_vae.compare import FIRST_SEED
from recbole_vae.compare.list_file import check_foreign_lists
from recbole_vae.compare.plan_file import convert, load
from recbole_vae.compare.results import LISTS, Run
from recbole_vae.compare.settings import check_space, check_values, of_the_data, read_settings
from recbole_vae.data.files import inter_file
from recbole_vae.errors import ConfigError, DataError
from recbole_vae.evaluation.definitions import SHARES
from recbole_vae.model.known_options import options_of
from recbole_vae.model.registry import import_models, model_names
from recbole_vae.options.data import check_data_options
from recbole_vae.options.evaluation import check_eval_args, check_metrics, kind_of, kinds_apart
from recbole_vae.options.fields import Strict
from recbole_vae.options.names import Where, near, refuse
from recbole_vae.options.recbole import recbole_model_names
from recbole_vae.storage.files import sha256

TRAINING = {"epochs": 300, "stopping_step": 50, "eval_step": 1}
"""The stopping rule of all rows, unless the plan has another: 50 evaluations without a better one."""

_NO_DIRECTION = ("giniindex", "averagepopularity", "tailpercentage", "shannonentropy")
_ROW = ("model", "settings", "label", "space")
SAID = ("source", "note")
"""The keys of a published row that are not metrics: where its numbers stand, and why they differ from ours."""

Seed = Annotated[int, Field(ge=0, lt=2**32)]


@dataclass(frozen=True)
class PlanRow:
    """A row of the table: a model, whose own settings override those of the plan; or lists that another tool made.

    Attributes:
        model: its name, or ``lists``.
        lists: name of the files of lists, with ``{dataset}``, ``{protocol}`` and ``{seed}`` where they differ; None for a model.
    """

    model: str
    label: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    space: Mapping[str, Any] | None = None
    lists: str | None = None

    def file(self, dataset: str, protocol: str, seed: int) -> str:
        """Return the name of the file of lists for a run."""
        assert self.lists is not None
        values = {"dataset": dataset, "protocol": protocol, "seed": str(seed)}
        return _PLACEHOLDER.sub(lambda found: values[found[1]], self.lists)


class Plan(Strict):
    """A comparison, checked."""

    rows: list[PlanRow] = Field(description="What is compared, in the order of the table.")
    datasets: dict[str, dict[str, Any]] = Field(description="Settings of each data set, by its name.")
    protocols: dict[str, dict[str, Any]] = Field(description="Settings of each protocol, by its name.")
    settings: dict[str, Any] = Field(
        description="Settings of all runs. Those of a data set override them, those of a protocol both, those of a row all three."
    )
    options: dict[str, Any] = Field(description="Settings of the command line, which override all others.")
    lists: dict[str, str] = Field(
        {},
        description="Ranked lists of other tools, by their labels: files with `{dataset}`, `{protocol}` and `{seed}` in the name "
        "where they differ.",
    )
    seeds: list[Seed] = Field(
        [FIRST_SEED],
        min_length=1,
        description="Seeds of the models, and of the split, too, unless split_seed is given.",
        json_schema_extra={"words": "a number of seeds >= 1, or a list of different integers >= 0, such as [1, 2, 3]"},
    )
    split_seed: Seed | None = None
    metrics: list[str] = Field(["Recall", "NDCG"], description="RecBole's names, without k.")
    topk: list[PositiveInt] = Field(
        [10],
        min_length=1,
        description="The k of the table.",
        json_schema_extra={"words": "an integer >= 1, or a list of some, such as [10, 20]"},
    )
    primary: str = Field(
        default_factory=lambda data: _primary(data["metrics"], data["topk"]),
        description="Chooses the best epoch and the tuned settings (on the validation part), and ranks the rows.",
    )
    max_k: PositiveInt = Field(
        default_factory=lambda data: max(50, *data["topk"]), description="The curves over k end here."
    )
    reference: str | None = Field(None, description="Label of the row that the others are compared with.")
    alpha: float = Field(0.05, gt=0, lt=1)
    trials: NonNegativeInt = Field(0, description="Trials of tuning for each row; 0: no tuning.")
    tuning_time: PositiveFloat | None = Field(
        None,
        description="Seconds of tuning for each row on each data set in each protocol, instead of trials.",
    )
    spaces: dict[str, Any] = Field({}, description="Search spaces by model, instead of those of properties/hyper.")
    not_run: dict[str, str] = Field(
        {},
        description="Rows that are in the table, but not run: the reason, by label.",
        json_schema_extra={"words": "a mapping of labels to reasons, lines 'label: reason'"},
    )
    published: dict[str, dict[str, dict[str, Any]]] = Field(
        {},
        description="Numbers that others published, by protocol and label: `{NDCG@10: 0.29, source: where, note: why it "
        "differs}`. `recbole-vae board` shows them beside those of the runs.",
        json_schema_extra={
            "words": "a mapping of protocols to lines 'label: {NDCG@10: 0.29, source: where it stands}'"
        },
    )
    imports: list[str] = Field([], description="Modules that register models.")
    jobs: PositiveInt = Field(1, description="Runs at a time.")
    time_limit: PositiveFloat | None = Field(None, description="Seconds that a run may take.")
    memory_limit: PositiveFloat | None = Field(None, description="Memory that a run may take, in GB.")
    energy: bool = Field(
        False, description="Whether to measure the energy of each run (codecarbon); one run at a time, here."
    )
    scheduler: str | None = Field(
        None,
        description="Address of Dask's scheduler.",
        json_schema_extra={"words": "the address of a Dask scheduler, such as tcp://host:8786"},
    )

    @field_validator("seeds", mode="before")
    @classmethod
    def _that_many(cls, seeds: Any) -> Any:
        one = isinstance(seeds, int) and not isinstance(seeds, bool) and 0 < seeds <= 1000
        return list(range(FIRST_SEED, FIRST_SEED + seeds)) if one else seeds

    @field_validator("seeds")
    @classmethod
    def _differ(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("it must be a list of different integers, such as [1, 2, 3].")
        return seeds

    @field_validator("topk", mode="before")
    @classmethod
    def _listed(cls, topk: Any) -> Any:
        return topk if isinstance(topk, list) else [topk]

    @field_validator("topk")
    @classmethod
    def _once(cls, topk: list[int]) -> list[int]:
        return list(dict.fromkeys(topk))

    @field_validator("max_k")
    @classmethod
    def _beyond_topk(cls, max_k: int, info: ValidationInfo) -> int:
        least = max(info.data.get("topk", [1]))
        if max_k < least:
            raise ValueError(f"it must be an integer >= {least}.")
        return max_k

    @field_validator("reference")
    @classmethod
    def _is_a_row(cls, reference: str | None, info: ValidationInfo) -> str | None:
        labels = [row.label for row in info.data["rows"]]
        if reference is not None and reference not in labels:
            raise ValueError(f"it must be the label of a row: {', '.join(labels)}.")
        return reference

    @field_validator("not_run")
    @classmethod
    def _are_rows(cls, not_run: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        labels = [row.label for row in info.data["rows"]]
        for label, reason in not_run.items():
            if label not in labels:
                raise ValueError(f"{label} is not the label of a row; the rows are {', '.join(labels)}.")
            if not reason.strip():
                raise ValueError(f"{label} needs a reason.")
        return not_run

    _where: Where | None = PrivateAttr(None)
    """Tells where the value of a key was set."""

    def check_to_run(self) -> None:
        """Refuse a plan that cannot be run here, though it can be shown.

        Raises:
            ConfigError: a file of a data set is missing; one of lists is, or has a mistake at its beginning; or options of how
                the runs are done do not go together.
        """
        where = self._where or (lambda key: "")
        _check_files_of_lists(self, where)
        if self.energy and (self.jobs > 1 or self.scheduler):
            other = "jobs" if self.jobs > 1 else "scheduler"
            raise ConfigError(
                f"energy ({where('energy')}) and {other} ({where(other)}) cannot be given together: what is measured is the "
                f"energy of the whole machine, so one run must have it for itself. Leave out {other}."
            )
        for (name, settings), protocol in itertools.product(self.datasets.items(), self.protocols.values()):
            _check_files({**self.settings, **settings, **protocol, **self.options}, name, where)

    def without(self, labels: Collection[str]) -> Plan:
        """Return the plan without some rows."""
        rows = [row for row in self.rows if row.label not in labels]
        return self.model_copy(update={"rows": rows, "reference": None if self.reference in labels else self.reference})

    @property
    def columns(self) -> list[str]:
        """The columns of the table: the plan's metrics at each k."""
        return [f"{name.lower()}@{k}" for name in self.metrics for k in self.topk]

    @property
    def tuned(self) -> bool:
        """Whether rows with a search space are tuned."""
        return bool(self.trials or self.tuning_time)

    def identity(self) -> dict[str, Any]:
        """Return what must not change when a comparison goes on; rows, seeds, data sets and protocols may be added."""
        names = (
            "datasets", "protocols", "settings", "options", "split_seed", "metrics", "topk", "primary", "max_k", "trials",
            "tuning_time",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}

    def plain(self) -> dict[str, Any]:
        """Return the plan as plain values, as a YAML file could hold it, with the options of the command line included."""

        def left(settings: Mapping[str, Any]) -> dict[str, Any]:
            return {name: value for name, value in settings.items() if name not in self.options}

        rows = [
            {"model": row.model, "label": row.label, "settings": left(row.settings)}
            | ({} if row.space is None else {"space": dict(row.space)})
            for row in self.rows
            if row.lists is None
        ]
        others = {name: value for name in KEYS if (value := getattr(self, name, None)) not in (None, {}, [])}
        named = {
            name: {key: left(each) for key, each in getattr(self, name).items()} for name in ("datasets", "protocols")
        }
        return {**others, **named, "rows": rows, "settings": {**self.settings, **self.options}}

    def space(self, row: PlanRow) -> tuple[Any, str] | None:
        """Return the search space that the plan has for a row, and the key under which it stands; None without one."""
        if row.space is not None:
            return row.space, f"rows: {row.label}: space"
        return (self.spaces[row.model], f"spaces: {row.model}") if row.model in self.spaces else None

    def to_run(self) -> list[tuple[str, str, PlanRow]]:
        """Return those of :meth:`cells` that are to be run."""
        return [cell for cell in self.cells() if cell[2].label not in self.not_run]

    def cells(self) -> list[tuple[str, str, PlanRow]]:
        """Return all of (data set, protocol, row), in the order of the tables."""
        return list(itertools.product(self.datasets, self.protocols, self.rows))

    def _shared(self, dataset: str, protocol: str) -> dict[str, Any]:
        return {**self.settings, **self.datasets[dataset], **self.protocols[protocol]}

    def lacking(self, dataset: str, protocol: str, row: PlanRow) -> list[str]:
        """Return the settings of all rows that the model of this one has not, sorted; nothing for lists, which have no model."""
        if row.model == LISTS:
            return []
        return sorted(({*self._shared(dataset, protocol), *self.options}) - options_of(row.model))

    def job(
        self, dataset: str, protocol: str, row: PlanRow, seed: int, tuned: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return all that determines a run, and nothing else, as plain values."""
        settings = {**self._shared(dataset, protocol), **row.settings, **(tuned or {}), **self.options}
        for name in self.lacking(dataset, protocol, row):
            del settings[name]
        if row.model == LISTS:
            settings = {name: settings[name] for name in sorted(of_the_data() & settings.keys())}
        job = {
            "dataset": dataset, "model": row.model, "seed": seed, "split_seed": self.split_seed, "settings": settings,
            "metrics": self.metrics, "topk": self.topk, "primary": self.primary, "max_k": self.max_k,
        }  # fmt: skip
        if row.lists is not None:
            file = row.file(dataset, protocol, seed)
            job["lists"] = {"label": row.label, "file": file, "sha256": sha256(Path(file))}
        return job

    def folder_of(self, run: Run) -> str:
        """Return the name of a run's folder, from its settings, which are all those that it was given."""
        job = self.job(next(iter(self.datasets)), next(iter(self.protocols)), PlanRow(LISTS, LISTS), run.seed)
        job |= {"dataset": run.dataset, "model": run.model, "settings": run.settings}
        if run.lists:
            job["lists"] = {"label": run.label, **run.lists}
        return run_name(run.protocol, run.label, job)


OF_OLDER_VERSIONS: dict[str, Any] = {"tuning_time": None}
"""What the :meth:`~Plan.identity` of older versions lacks, and what it would be."""

_PLACEHOLDER = re.compile(r"\{(dataset|protocol|seed)\}")

KEYS = ["models", "dataset", *(name for name in Plan.names() if name != "options")]
"""The keys of a plan's file."""


def _primary(metrics: Sequence[str], topk: Sequence[int]) -> str:
    return f"{'NDCG' if 'ndcg' in map(str.lower, metrics) else metrics[0]}@{topk[0]}"


def digest(value: Any) -> str:
    """Return a SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def run_key(protocol: str, label: str, job: Mapping[str, Any]) -> str:
    """Return what identifies a run. Two rows may have the same settings, but must not share a folder."""
    return digest([protocol, label, job])


def run_name(protocol: str, label: str, job: Mapping[str, Any]) -> str:
    """Return the name of a run's folder."""
    return f"{job['model']}-{job['seed']}-{run_key(protocol, label, job)[:16]}"


def read(file: str | None, options: Mapping[str, str], data: bool = True) -> Plan:
    """Read and check a plan.

    Args:
        file: YAML, or None.
        options: of the command line, which override the file: keys of the plan, and RecBole's options, which are settings.
        data: whether all that a run needs must be there, see :meth:`Plan.check_to_run`.

    Raises:
        ConfigError: something is missing, unknown or not allowed; the message says where.
    """
    content, lines = ({}, {}) if file is None else load(file)
    given = {name: convert(value) for name, value in options.items()}

    def where(key: str) -> str:
        if key.partition(": ")[0] in given:
            return "command line"
        found = sorted(set(lines.get(key, lines.get(key.rpartition(": ")[2], []))))
        return f"{file}, line {' or '.join(map(str, found))}" if found else file or ""

    for name in content:
        if name not in KEYS:
            meant = near(str(name), KEYS)
            hint = f" Did you mean {meant}?" if meant else " Options of RecBole go under settings:."
            raise ConfigError(f"{name} ({where(str(name))}): a plan has no such key.{hint} It has {', '.join(KEYS)}.")
    values = _above(content, {name: given[name] for name in given if name in KEYS}, where)
    if "imports" in values:
        values["imports"] = _words(values["imports"], "imports", where)
        import_models(values["imports"], where("imports"))
    for key in ("settings", "protocols", "spaces"):
        if not isinstance(values.get(key, {}), dict):
            refuse(key, values[key], where, "a mapping, lines 'name: value'")
        values[key] = {str(name): each for name, each in values.get(key, {}).items()}
    rows = _rows(values, where)
    models = list(dict.fromkeys(row.model for row in rows))
    own_settings = {
        key: {name: read_settings(each, name, where, models, KEYS) for name, each in named.items()}
        for key, named in (
            ("datasets", _named_settings(values, where)), ("protocols", values["protocols"] or {"default": {}}),
        )
    }  # fmt: skip
    rows += _foreign(values, rows, where)
    of_command = {name: value for name, value in given.items() if name not in KEYS}
    values |= own_settings | {
        "rows": rows,
        "settings": read_settings({**TRAINING, **values["settings"]}, "settings", where, models, KEYS),
        "options": read_settings(of_command, "command line", where, models, KEYS),
    }
    if "metrics" in values:
        metrics = _words(values["metrics"], "metrics", where)
        values["metrics"] = list({each.lower(): each for each in metrics}.values())
    if values.get("trials") and values.get("tuning_time") is not None:
        raise ConfigError(
            f"trials ({where('trials')}) and tuning_time ({where('tuning_time')}) cannot be given together, because each is the "
            "whole budget of tuning. Leave out one of them."
        )
    plan = Plan.read(values, where)
    _check_metrics(plan, where)
    _check_splits(plan, where)
    _check_spaces(plan, where)
    _check_published(plan, where)
    _check_lists(plan, where)
    plan._where = where
    if data:
        plan.check_to_run()
    return plan


def _above(content: Mapping[str, Any], own: Mapping[str, Any], where: Where) -> dict[str, Any]:
    """Return the keys of a plan's file, overridden by the command line; ~ in the file stands for the default."""
    values: dict[str, Any] = {name: value for name, value in content.items() if value is not None}
    for name, other in (("trials", "tuning_time"), ("tuning_time", "trials")):
        if name in own:
            values.pop(other, None)  # each is the whole budget of tuning
    values |= own
    if "models" in own:
        values.pop("rows", None)
        values.pop("not_run", None)  # it is of those rows
    if {"dataset", "datasets"} & set(own):
        kept = _named_settings(content, where)
        chosen = _words(own.get("dataset", own.get("datasets")), "dataset", where)
        values["datasets"] = {name: kept.get(name, {}) for name in chosen}
        values.pop("dataset", None)
    return values


def _words(value: Any, key: str, where: Where) -> list[str]:
    words = [each.strip() for each in value.split(",")] if isinstance(value, str) else value
    if not isinstance(words, list) or not words or not all(isinstance(each, str) and each for each in words):
        refuse(key, value, where, "a list of names, such as [A, B]")
    return words


def _named_settings(values: Mapping[str, Any], where: Where) -> dict[str, Any]:
    if values.get("dataset") is not None and values.get("datasets") is not None:
        raise ConfigError(f"dataset ({where('dataset')}) and datasets ({where('datasets')}) cannot be given together.")
    value = values.get("datasets", values.get("dataset", "ml-100k"))
    if isinstance(value, dict):
        return {str(name): each or {} for name, each in value.items()}
    return {name: {} for name in _words(value, "datasets", where)}


def _rows(values: Mapping[str, Any], where: Where) -> list[PlanRow]:
    if "models" in values and "rows" in values:
        raise ConfigError(f"models ({where('models')}) and rows ({where('rows')}) cannot be given together.")
    given = values["rows"] if "rows" in values else _words(values.get("models", "MultVAE,MultDAE"), "models", where)
    if not isinstance(given, list) or not given:
        refuse("rows", given, where, "a list of models, or of {model: ..., label: ..., settings: {...}}")
    rows: list[PlanRow] = []
    key = "models" if "models" in values else "rows"
    for each in given:
        row = _row(each, key, where)
        for other in rows:
            same = (other.model, other.settings, other.space) == (row.model, row.settings, row.space)
            if other.label == row.label or same:
                raise ConfigError(
                    f"{key} ({where(key)}): two rows are {'the same' if same else 'called'} '{row.label}'; "
                    "give each settings and a label of its own."
                )
        rows.append(row)
    return rows


def _row(given: Any, key: str, where: Where) -> PlanRow:
    row = {"model": given} if isinstance(given, str) else given
    if not isinstance(row, dict) or not isinstance(row.get("model"), str):
        refuse("rows", given, where, "the name of a model, or {model: ..., label: ..., settings: {...}}")
    for name in row:
        if name not in _ROW:
            meant = near(str(name), _ROW)
            raise ConfigError(
                f"rows: {name} ({where(str(name))}): a row has no such key{f'; did you mean {meant}?' if meant else '.'} "
                f"It has {', '.join(_ROW)}."
            )
    model, known = row["model"], [*model_names(), *recbole_model_names()]
    if model not in known:
        meant, place = near(model, known), where(key)
        raise ConfigError(
            f"models{place and f' ({place})'}: there is no model '{model}'{f'; did you mean {meant}?' if meant else '.'} Of "
            f"recbole_vae: {', '.join(model_names())}; or any of RecBole's."
        )
    if isinstance(row.get("label"), bool):  # what YAML makes of on, off, yes and no
        refuse("label", row["label"], where, "text; put it in quotes")
    settings = read_settings(row.get("settings"), model, where, [model])
    return PlanRow(model, str(row.get("label") or model), settings, row.get("space"))


def _foreign(values: Mapping[str, Any], rows: Sequence[PlanRow], where: Where) -> list[PlanRow]:
    """Return the rows of lists, whose labels say what they are."""
    given = values.get("lists", {})
    if not isinstance(given, dict) or not all(isinstance(each, str) and each for each in given.values()):
        refuse("lists", given, where, "a mapping, lines 'LABEL: FILE'")
    found = [PlanRow(LISTS, f"{label} (lists)", lists=file) for label, file in given.items()]
    for row in found:
        if row.label in [each.label for each in rows]:
            raise ConfigError(f"lists ({where('lists')}): a row is called '{row.label}' already; choose another label.")
    return found


def _lists_to_run(plan: Plan, where: Where) -> list[tuple[PlanRow, str, str]]:
    """Return the rows of lists that are to be run, each with the name of its files and the place of that."""
    found = [(row, row.lists) for row in plan.rows if row.lists is not None and row.label not in plan.not_run]
    return [
        (row, lists, f"lists: {row.label.removesuffix(' (lists)')}: {lists} ({where('lists')})") for row, lists in found
    ]


def _check_lists(plan: Plan, where: Where) -> None:
    """Refuse files of lists that would stand for several data sets or protocols."""
    for _, lists, place in _lists_to_run(plan, where):
        left = re.search(r"\{[^{}]*\}", _PLACEHOLDER.sub("", lists))
        if left:
            raise ConfigError(
                f"{place}: {left[0]} stands for nothing; there are {{dataset}}, {{protocol}} and {{seed}}."
            )
        for name, there in (("dataset", plan.datasets), ("protocol", plan.protocols)):
            if len(there) > 1 and f"{{{name}}}" not in lists:
                raise ConfigError(
                    f"{place}: the plan has several {name}s ({', '.join(there)}), and lists are of one; write {{{name}}} "
                    "where the names of the files differ."
                )


def _check_files_of_lists(plan: Plan, where: Where) -> None:
    """Refuse files of lists that are not there, and those whose beginning has a mistake, before anything runs."""
    read = set()
    for row, _, place in _lists_to_run(plan, where):
        for dataset, protocol, seed in itertools.product(plan.datasets, plan.protocols, plan.seeds):
            file = row.file(dataset, protocol, seed)
            if not Path(file).is_file():
                raise ConfigError(
                    f"{place}: there is no file {file}, for {dataset}, {protocol}, seed {seed}. Lists are made from what "
                    "compare --export-split=DIR writes."
                )
            if file not in read:
                read.add(file)
                try:
                    check_foreign_lists(Path(file))
                except DataError as error:
                    raise ConfigError(f"{place}: {error}") from None


def _check_metrics(plan: Plan, where: Where) -> None:
    from recbole.evaluator.register import metric_information, metric_types, metrics_dict
    from recbole.utils import EvaluatorType

    ranking = {name: kind for name, kind in metric_types.items() if kind == EvaluatorType.RANKING}
    at_k = {name for name, needs in metric_information.items() if {"rec.items", "rec.topk"} & set(needs)} & set(ranking)
    values: dict[str, Any] = {"metrics": plan.metrics, "topk": plan.topk, "valid_metric": plan.primary}
    args = [plan.job(*cell, 0)["settings"].get("eval_args") for cell in plan.cells() if cell[2].lists is None]
    kind = kind_of(plan.primary.lower())[0]
    if kind and all(kind in kinds_apart({"eval_args": each}) for each in args):
        values["eval_args"] = args[0]
    kinds = {name: ranking[name] for name in at_k}  # the others need scores of all pairs, or have no k
    try:
        check_metrics(values, kinds, (), at_k, lambda key: where("primary" if key == "valid_metric" else key))
    except ConfigError as error:
        raise ConfigError(str(error).replace("valid_metric", "primary")) from None
    for name in plan.metrics:
        if getattr(metrics_dict[name.lower()], "smaller", False):
            place = where("metrics")
            raise ConfigError(
                f"metrics{place and f' ({place})'}: less of {name} is better, and the tables mark the most as the best. "
                "Register a metric that is turned round, such as 1 - x."
            )
    if kind_of(plan.primary.partition("@")[0].lower())[1] in _NO_DIRECTION:
        raise ConfigError(
            f"primary: {plan.primary!r} ({where('primary')}) is not allowed: more of it is neither better nor worse. "
            "Choose a metric of accuracy, such as NDCG@10."
        )


def _check_splits(plan: Plan, where: Where) -> None:
    shared = of_the_data()
    for dataset, protocol in itertools.product(plan.datasets, plan.protocols):
        for row in plan.rows:
            if row.lists is not None:
                continue
            settings = plan.job(dataset, protocol, row, 0)["settings"]
            own = sorted(set(row.settings) & shared)
            if own:
                raise ConfigError(
                    f"rows: {row.label}: {own[0]} ({where(own[0])}) must be the same for all rows; "
                    "set it for the data set, the protocol, or all."
                )
            check_values(row.model, settings, where)
            if str(settings.get("valid_metric", plan.primary)).lower() != plan.primary.lower():
                refuse("valid_metric", settings["valid_metric"], where, f"the primary metric, {plan.primary}")
        if "eval_args" in settings:
            check_eval_args(settings, False, where)
            mode = settings["eval_args"].get("mode", "full")
            if mode not in ("full", {"valid": "full", "test": "full"}):
                refuse("eval_args", mode, where, "mode: full; a ranking among sampled items may order models wrongly")
        check_data_options(settings, where)


def _check_spaces(plan: Plan, where: Where) -> None:
    models = sorted({row.model for row in plan.rows if row.lists is None})
    for name in plan.spaces:
        if name not in models:
            place = where("spaces" if where("spaces") == "command line" else name)
            raise ConfigError(f"spaces: {name} ({place}) is the model of no row; there are: {', '.join(models)}.")
    for row in plan.rows:
        found = plan.space(row)
        if found is not None:
            check_space(*found, row.model, {"the command line": plan.options, "the row": row.settings}, where)


def _check_published(plan: Plan, where: Where) -> None:
    if plan.published and len(plan.datasets) > 1:
        raise ConfigError(
            f"published ({where('published')}): this plan has several data sets, so nobody knows whose numbers these are; "
            "write a plan for each data set."
        )
    metrics = {name.lower(): name for name in (f"{each}@{k}" for each in plan.metrics for k in plan.topk)}
    for protocol, rows in plan.published.items():
        if protocol not in plan.protocols:
            raise ConfigError(
                f"published: {protocol} ({where(f'published: {protocol}')}): there is no such protocol; there are "
                f"{', '.join(plan.protocols)}."
            )
        for label, said in rows.items():
            above = f"published: {protocol}: {label}"
            for name, value in said.items():
                line = where(f"{above}: {name}")
                place = f"published: {label}: {name}: {value!r} ({line}) is not allowed"
                if name in SAID:
                    if not isinstance(value, str) or not value.strip():
                        raise ConfigError(f"{place}; it must be a text.")
                elif name.lower() not in metrics:
                    raise ConfigError(
                        f"published: {label}: {name} ({line}): the table has no such metric; it has "
                        f"{', '.join(metrics.values())}."
                    )
                elif (
                    isinstance(value, bool)
                    or not isinstance(value, int | float)
                    or not abs(value) <= sys.float_info.max
                ):
                    raise ConfigError(f"{place}; it must be a number.")
                elif name.lower().partition("@")[0] in SHARES and not 0 <= value <= 1:
                    percent = f" Is it in percent? Then write {value / 100:.10g}." if 1 < value <= 100 else ""
                    raise ConfigError(f"{place}; it must be a number from 0 to 1.{percent}")
            if "source" not in said or not set(said) - set(SAID):
                raise ConfigError(
                    f"published: {label} ({where(above)}): it must have a metric and its source, such as "
                    f"{{{next(iter(metrics.values()))}: 0.29, source: where it stands}}."
                )


def _check_files(settings: Mapping[str, Any], name: str, where: Where) -> None:
    """Look for the files of a data set; RecBole would try to download them."""
    if name == "ml-100k":  # RecBole takes its own
        return
    folder = Path(str(settings.get("data_path", "dataset"))) / name
    parts = settings.get("benchmark_filename")
    for part in [""] if parts is None else [f".{part}" for part in parts]:
        file = inter_file(folder, f"{name}{part}")
        if not file.is_file():
            place = where("datasets") or where("dataset")
            raise ConfigError(
                f"dataset: {name}{place and f' ({place})'}: there is no file {file}. Set data_path to the folder that holds "
                f"{name}/{file.name}, or make it with recbole-vae prepare."
            )
