"""What is kept of the runs of a plan, small enough for git: ``NAME.json`` and ``NAME.parquet`` beside ``NAME.yaml``.

The first has all of each run but its users and its curve over the epochs, the journals of tuning, and the tests of the tables.
The second has the values of each user in the metrics of the table, as float64: tables that are made from them are those of the
runs, bit for bit. From both, the folder of the comparison can be made again, so that it goes on elsewhere.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from recbole_vae.compare.analysis import Row, Table, add_tests
from recbole_vae.compare.analysis import Test as Tested
from recbole_vae.compare.plan import OF_OLDER_VERSIONS, Plan, PlanRow, digest, run_name
from recbole_vae.compare.results import DONE, NOT_RUN, REFUSED, SETTLED, WAITING, Comparison, Run, Users
from recbole_vae.compare.runner import comparison_of
from recbole_vae.compare.tables import parquet, users_parquet
from recbole_vae.compare.tuning import study_name
from recbole_vae.errors import DataError
from recbole_vae.options.evaluation import COLD, WARM
from recbole_vae.storage.files import write_whole

FORMAT = 1
TESTS = 1
"""Version of the tests of a table; a change of the statistics that changes a number raises it, so that they are made again."""
_ROUNDING = 1e-9
_TEST = [each.name for each in fields(Tested)]


@dataclass
class Archive:
    """The runs of a plan, as they are kept.

    Attributes:
        identity: of the plan that made them, see :meth:`~.plan.Plan.identity`; empty if there are none.
        runs: by the name of their folder; those of rows that the plan has no longer, too.
        studies: the journal of the trials that chose a run's settings, by the name of its folder; without those that have none.
        journals: content of the journals, by file name.
        tests: of tables, by what they were made from, as :func:`_plain` makes them.
    """

    identity: dict[str, Any] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    studies: dict[str, str] = field(default_factory=dict)
    journals: dict[str, str] = field(default_factory=dict)
    tests: dict[str, dict[str, Any]] = field(default_factory=dict)

    def take(self, plan: Plan, runs: Iterable[Run], work: Path) -> None:
        """Add the runs of a comparison, and the journals of its folder.

        Args:
            plan: whose runs they are.
            runs: of :func:`~recbole_vae.compare.runner.compare`.
            work: its folder.
        """
        before = self.identity
        self.identity = plan.identity()
        for name in ("datasets", "protocols"):
            self.identity[name] = {**before.get(name, {}), **self.identity[name]}
        rows = {row.label: row for row in plan.rows}
        for run in runs:
            if run.status in (WAITING, NOT_RUN):
                continue
            row = rows[run.label]
            study = study_name(plan, run.dataset, run.protocol, row)
            name = plan.folder_of(run)
            if row.lists is not None:  # of a run that failed, they are not known
                name = run_name(run.protocol, run.label, plan.job(run.dataset, run.protocol, row, run.seed))
            if study:
                self.studies[name] = study
            kept = replace(run, curve=[], users=_without(run.users, plan.columns))
            if kept.users is not None:  # what is wrong with it was found beside the others, and is found again
                kept.status, kept.reason = DONE, ""
            if kept.status == DONE and kept.lists:  # else a clone would not know which file of this name is meant
                self.runs = {
                    other: each for other, each in self.runs.items() if _cell_of_lists(each) != _cell_of_lists(kept)
                }
            if kept.status == DONE or name not in self.runs or self.runs[name].status != DONE:
                self.runs[name] = kept
        for file in sorted((work / "tuning").glob("*.journal")):
            self.journals[file.name] = file.read_text(encoding="utf-8")

    def shown(self, plan: Plan) -> list[Run]:
        """Return copies of the runs that are those of a plan: of its rows and seeds, with its settings."""
        tuned = {(study, self.runs[name].seed): self.runs[name] for name, study in self.studies.items()}
        if any(self.identity.get(name) != getattr(plan, name) for name in ("trials", "tuning_time")):
            tuned = {}
        found = []
        for dataset, protocol, row in plan.to_run():
            study = study_name(plan, dataset, protocol, row)
            for seed in plan.seeds:
                if row.lists is not None:
                    run = self._of_lists(plan, dataset, protocol, row, seed)
                elif study:
                    run = tuned.get((study, seed))
                else:
                    run = self.runs.get(run_name(protocol, row.label, plan.job(dataset, protocol, row, seed)))
                if run is not None:
                    found.append(replace(run))
        return found

    def _of_lists(self, plan: Plan, dataset: str, protocol: str, row: PlanRow, seed: int) -> Run | None:
        """Return the run of another tool's lists; a clone may not have the file, and has what was measured of it."""
        file = row.file(dataset, protocol, seed)
        if Path(file).is_file():
            return self.runs.get(run_name(protocol, row.label, plan.job(dataset, protocol, row, seed)))
        key = dataset, protocol, row.label, seed, file
        found = [run for name, run in self.runs.items() if _cell_of_lists(run) == key and name == plan.folder_of(run)]
        return found[0] if len(found) == 1 else None  # of several files that had this name, any may be meant

    def comparison(self, plan: Plan, command: str) -> Comparison:
        """Return the comparison of the runs of a plan."""
        return comparison_of(plan, self.shown(plan), command)

    def add_tests(self, table: Table, rows: list[Row]) -> None:
        """Add the tests to a table: those that are kept, if they are of the same runs, or new ones, which are kept."""
        made_from = {
            "tests": TESTS,
            "rows": [
                (row.label, run.seed, [run.test[name] for name in table.metrics], run.users and _digest(run.users))
                for row in rows
                for run in row.done
            ],
            "metrics": [table.metrics, table.tested, table.primary],
            "reference": table.reference, "alpha": table.alpha, "seeds": table.seeds, "users": table.users,
        }  # fmt: skip
        key = f"{table.name}: {digest(made_from)[:16]}"
        if key in self.tests:
            _restore(table, self.tests[key])
            return
        add_tests(table, rows)
        self.tests = {other: kept for other, kept in self.tests.items() if other.rpartition(": ")[0] != table.name}
        self.tests[key] = _plain(table)

    def restore(self, work: Path) -> None:
        """Make what the folder of the comparison lacks, or has damaged, failed or only begun; all else that is there stays."""
        for name, run in self.runs.items():
            folder = work / "runs" / name
            if run.status in (DONE, REFUSED) and not _settled(folder):
                run.save(folder)
        for name, content in self.journals.items():
            file = work / "tuning" / name
            if not file.is_file() or content.encode().startswith(file.read_bytes()):
                file.parent.mkdir(parents=True, exist_ok=True)
                write_whole(file, content.encode())
        file = work / "comparison.json"
        if self.identity and not file.is_file():
            work.mkdir(parents=True, exist_ok=True)
            write_whole(file, json.dumps(self.identity, indent=1).encode())

    def write(self, folder: Path, name: str) -> None:
        """Write ``NAME.parquet``, then ``NAME.json``, unless they are there with the same content.

        Whatever interrupts it: the Parquet file has at least the runs that the JSON file has.

        Raises:
            DataError: a file cannot be written.
            RecBoleVAEError: pyarrow is missing.
        """
        runs = dict(sorted(self.runs.items()))
        people = [({"run": name}, run.users) for name, run in runs.items() if run.users is not None]
        names = list(dict.fromkeys(metric for _, users in people for metric in users.metrics))
        contents = {".json": self._json(runs).encode()}
        if people:
            contents = {".parquet": users_parquet(people, {"run": str}, names), **contents}
        for suffix, content in contents.items():
            file = folder / f"{name}{suffix}"
            if not file.is_file() or file.read_bytes() != content:
                write_whole(file, content)

    def _json(self, runs: Mapping[str, Run]) -> str:
        """Return one line for each run and table, so that git shows what changed."""
        plain = {
            name: {each.name: getattr(run, each.name) for each in fields(run) if each.name not in ("users", "curve")}
            | ({"study": self.studies[name]} if name in self.studies else {})
            | ({} if run.users is None else {"users": _digest(run.users)})
            for name, run in runs.items()
        }
        whole = {"format": FORMAT, "identity": self.identity}
        parts: dict[str, Mapping[str, Any]] = {"journals": self.journals, "tests": self.tests, "runs": plain}
        lines = [f'"{name}": {json.dumps(value)}' for name, value in whole.items()]
        for name, part in parts.items():
            inner = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in sorted(part.items()))
            lines.append(f'"{name}": {{\n{inner}\n}}')
        return "{" + ",\n".join(lines) + "}\n"


def load(folder: Path, name: str) -> Archive:
    """Read what is kept of a plan's runs; an empty archive if there is nothing.

    Raises:
        DataError: a file is damaged, is none of ours, or does not belong to the other one.
        RecBoleVAEError: pyarrow is missing.
    """
    file = folder / f"{name}.json"
    if not file.is_file():
        return Archive()
    people: dict[str, str] = {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise DataError(
                f"{file}: its format is {content['format']!r}, and this version of recbole_vae reads {FORMAT}."
            )
        studies = {name: run.pop("study") for name, run in content["runs"].items() if "study" in run}
        people = {name: run.pop("users") for name, run in content["runs"].items() if "users" in run}
        runs = {name: Run(**run) for name, run in content["runs"].items()}
        archive = Archive(content["identity"], runs, studies, content["journals"], content["tests"])
        _check(archive)
        for added, value in OF_OLDER_VERSIONS.items() if archive.identity else ():
            archive.identity.setdefault(added, value)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"{file}: damaged, or not the results of a board ({' '.join(str(error).split())[:200]}). Take it from git or a "
            "backup; if there is none, remove it to run all again."
        ) from None
    _read_users(archive, people, file, folder / f"{name}.parquet")
    return archive


def identity_in(file: Path) -> dict[str, Any]:
    """Return the identity of the plan whose archive a JSON file is; empty if it is none."""
    try:
        found = {**OF_OLDER_VERSIONS, **json.loads(file.read_text(encoding="utf-8"))["identity"]}
        return found if all(isinstance(found[name], dict) for name in ("datasets", "protocols")) else {}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def _check(archive: Archive) -> None:
    """Raise a KeyError, ValueError or TypeError if a part of the content is not what it must be."""
    parts = (archive.identity, archive.studies, archive.journals, archive.tests)
    inner = (archive.identity.get("datasets", {}), archive.identity.get("protocols", {}))
    if not all(isinstance(part, dict) for part in (*parts, *inner)):
        raise ValueError("a part of it is no mapping")
    for name, run in archive.runs.items():
        if not all(isinstance(value, int | float) for value in run.test.values()):
            raise ValueError(f"{name}: a metric is no number")
    for kept in archive.tests.values():
        for family in ("against_best", "against_reference", "pairs"):
            for test in kept[family]:
                Tested(**dict(zip(_TEST, test, strict=True)))
        if any(len(ranks) != 5 for ranks in kept["ranks"]):
            raise ValueError("a rank has not its interval")


def _read_users(archive: Archive, people: Mapping[str, str], json_file: Path, file: Path) -> None:
    """Give each run its users.

    Args:
        archive: what the JSON file has.
        people: the digest of the users of each run that has some.
        json_file: the one file.
        file: the other one.
    """
    if not people:
        return
    pa, reader = parquet()
    try:
        table = reader.read_table(io.BytesIO(file.read_bytes()), use_threads=False).unify_dictionaries()
        of_run, of_user = table["run"].combine_chunks(), table["user_id"].combine_chunks()
        ids = np.asarray(of_user.dictionary.to_pylist()).astype(str)[of_user.indices.to_numpy()]
        lengths = table["history_length"].to_numpy()
        metrics = {
            name: table[name].to_numpy()
            for name in table.column_names
            if name not in ("run", "user_id", "history_length")
        }
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())[:200]
        raise DataError(
            f"{file}: cannot be read, or is damaged ({reason}). It has the users of {json_file.name}."
        ) from None
    except (LookupError, ValueError, AttributeError, pa.ArrowException) as error:
        raise DataError(
            f"{file}: damaged, or not the users of a board ({' '.join(str(error).split())[:200]}). Take it from git or a backup."
        ) from None
    runs = of_run.dictionary.to_pylist()
    starts = {runs[code]: (start, end) for code, start, end in _stretches(of_run.indices.to_numpy())}
    for name, digest_ in people.items():
        start, end = starts.get(name, (0, 0))
        own = {metric: values[start:end] for metric, values in metrics.items() if not np.isnan(values[start:end]).all()}
        users = Users(ids[start:end], lengths[start:end].astype(np.int64), own)
        run = archive.runs[name]
        wrong = [m for m, values in own.items() if m in run.test and abs(np.nanmean(values) - run.test[m]) > _ROUNDING]
        if _digest(users) != digest_ or wrong:
            raise DataError(
                f"{file}: damaged, or does not belong to {json_file}: the users of {name} are not there, or have other values. "
                "Take both from git or a backup."
            )
        run.users = users


def _digest(users: Users) -> str:
    """Return a SHA-256 of the users of a run and their values."""
    found = hashlib.sha256("\n".join(users.ids.tolist()).encode())
    found.update(users.history_length.astype("<i8").tobytes())
    for name, values in sorted(users.metrics.items()):
        # There are many NaN, which are one here.
        found.update(name.encode() + np.where(np.isnan(values), np.nan, values).astype("<f8").tobytes())
    return found.hexdigest()


def _stretches(codes: np.ndarray[Any, np.dtype[Any]]) -> list[tuple[int, int, int]]:
    """Return (code, start, end) of each stretch of equal codes."""
    if not len(codes):
        return []
    cuts = [0, *(np.flatnonzero(np.diff(codes)) + 1).tolist(), len(codes)]
    return [(int(codes[start]), start, end) for start, end in itertools.pairwise(cuts)]


def _settled(folder: Path) -> bool:
    """Return whether a folder has a run that is not to be done again."""
    try:
        return Run.load(folder).status in SETTLED
    except DataError:
        return False


def _cell_of_lists(run: Run) -> tuple[Any, ...]:
    """Return what a run is of that measured lists, but for the content of their file; empty for other runs."""
    return (run.dataset, run.protocol, run.label, run.seed, run.lists["file"]) if run.lists else ()


def _without(users: Users | None, columns: Sequence[str]) -> Users | None:
    """Leave out the values of metrics that no table has."""
    if users is None:
        return None
    names = {f"{kind}{name}" for kind in ("", f"{WARM}_", f"{COLD}_") for name in columns}
    kept = {name: each for name, each in users.metrics.items() if name in names and not np.isnan(each).all()}
    return Users(users.ids, users.history_length, kept)


def _plain(table: Table) -> dict[str, Any]:
    """Return the tests of a table as plain values."""

    def values(tests: Iterable[Tested]) -> list[list[Any]]:
        return [[_finite(getattr(test, name)) for name in _TEST] for test in tests]

    return {
        "untested": table.untested, "samples": table.samples, "compared": table.compared,
        "against_best": values(table.against_best.values()), "against_reference": values(table.against_reference.values()),
        "pairs": values(table.pairs.values()), "ranks": [[*key, *ranks] for key, ranks in table.ranks.items()],
    }  # fmt: skip


def _restore(table: Table, kept: Mapping[str, Any]) -> None:
    """Give a table the tests that :func:`_plain` made of it."""

    def tests(family: str) -> list[Tested]:
        found = [dict(zip(_TEST, test, strict=True)) for test in kept[family]]
        return [Tested(**{name: _finite(value, back=True) for name, value in each.items()}) for each in found]

    table.untested, table.samples, table.compared = kept["untested"], kept["samples"], kept["compared"]
    table.against_best = {(test.label, test.metric): test for test in tests("against_best")}
    table.against_reference = {(test.label, test.metric): test for test in tests("against_reference")}
    table.pairs = {(test.label, test.against): test for test in tests("pairs")}
    table.ranks = {(label, metric): (rank, low, high) for label, metric, rank, low, high in kept["ranks"]}


def _finite(value: Any, back: bool = False) -> Any:
    """Replace NaN, which JSON has not, by None in a value of a test; or, if ``back``, the other way round."""
    if isinstance(value, list | tuple):
        return tuple(_finite(each, back) for each in value)
    if back:
        return math.nan if value is None else value
    return None if isinstance(value, float) and math.isnan(value) else value
