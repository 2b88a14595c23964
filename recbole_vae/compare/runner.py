"""Does the runs of a plan, each in a process of its own, keeps their results, and continues where it was stopped."""

from __future__ import annotations

import contextlib
import errno
import itertools
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from recbole_vae.compare import energy, process
from recbole_vae.compare.folder import held
from recbole_vae.compare.plan import Plan, PlanRow, run_key, run_name
from recbole_vae.compare.results import DONE, FAILED, LISTS, NOT_RUN, REFUSED, SETTLED, WAITING, Comparison, Run
from recbole_vae.compare.tuning import Study, another, optuna, space_of, study_name
from recbole_vae.errors import ConfigError, DataError
from recbole_vae.options.evaluation import kind_of
from recbole_vae.serving.batch import cores
from recbole_vae.serving.dask_client import dask_client
from recbole_vae.storage.files import leftovers, write_whole


@dataclass
class _PlanCell:
    """One row on one data set in one protocol; ``shown``: how many of its trials the progress bar has counted."""

    dataset: str
    protocol: str
    row: PlanRow
    study: Study | None = None
    shown: int = 0
    runs: list[Run] = field(default_factory=list)

    def key(self, job: Mapping[str, Any]) -> str:
        """Return what identifies a run."""
        return run_key(self.protocol, self.row.label, job)

    def refused(self) -> str:
        """Return why the row cannot take part, if a trial found that; else ""."""
        trials = self.study.trials() if self.study else []
        return next((each["reason"] for each in trials if each["status"] == REFUSED), "")


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with what was done until then."""

    def __init__(self, comparison: Comparison) -> None:
        super().__init__()
        self.comparison = comparison


def compare(plan: Plan, out: Path, command: str, restore: Callable[[], None] = lambda: None) -> Comparison:
    """Do all runs of a plan that are not done yet.

    Args:
        plan: see :mod:`recbole_vae.compare.plan`.
        out: folder of the comparison, new or of an earlier command.
        command: what the user typed.
        restore: see :func:`~recbole_vae.compare.folder.held`.

    Raises:
        ConfigError: ``out`` is not a folder, belongs to another comparison, or is in use; or a package or scheduler is missing.
        DataError: a result cannot be written.
    """
    if any(study_name(plan, *cell) for cell in plan.to_run()):
        optuna()
    if plan.energy:
        energy.check()
    with held(plan, out, restore), _executor(plan) as executor:
        return _Comparing(plan, out, executor).run(command)


def comparison_of(plan: Plan, runs: Sequence[Run], command: str) -> Comparison:
    """Return the comparison of the runs that are there; the others are still to be run, or not at all.

    Args:
        plan: see :mod:`recbole_vae.compare.plan`.
        runs: of this plan, in any order, with its labels.
        command: as in :func:`compare`.
    """
    there = {(run.dataset, run.protocol, run.label, run.seed): run for run in runs}
    found = []
    for dataset, protocol, row in plan.cells():
        reason = plan.not_run.get(row.label, "")
        status = NOT_RUN if reason else WAITING
        for seed in plan.seeds:
            run = None if reason else there.get((dataset, protocol, row.label, seed))
            if run is None:
                # The lists of a row may not be there (yet).
                settings = {} if row.lists is not None else plan.job(dataset, protocol, row, seed)["settings"]
                run = Run(dataset, protocol, row.label, row.model, seed, status, reason, settings=settings)
            found.append(run)
    _compare_splits(found)
    return Comparison(
        found, plan.columns, plan.primary.lower(), plan.reference, plan.alpha, plan.trials, plan.plain(), command,
        plan.tuning_time,
    )  # fmt: skip


def export(plan: Plan, out: Path) -> list[Path]:
    """Write the split of each data set, protocol and seed of a plan into a folder of its own, and return these.

    Raises:
        ConfigError: two splits would have the same folder.
        DataError: a split cannot be made or written.
    """
    cells = list(itertools.product(plan.datasets, plan.protocols, plan.seeds))
    folders = [out / f"{dataset}-{protocol}-{seed}" for dataset, protocol, seed in cells]
    if len(set(folders)) < len(folders):
        twice = next(folder for folder in folders if folders.count(folder) > 1)
        raise ConfigError(f"{twice} would be the folder of two splits; give one of the protocols another name.")
    with process.children_end():
        for (dataset, protocol, seed), folder in zip(
            tqdm(cells, "Export", unit=" splits", ncols=100), folders, strict=True
        ):
            job = plan.job(dataset, protocol, PlanRow(LISTS, LISTS), seed)
            job |= {"protocol": protocol, "export": str(folder.resolve())}
            with tempfile.TemporaryDirectory(prefix="recbole-vae-", ignore_cleanup_errors=True) as work:
                process.execute(_specification(plan, job), work)
                run = Run.load(Path(work))
            if run.status != DONE:
                raise DataError(f"{dataset}, {protocol}, seed {seed}: the split cannot be written: {run.reason}")
    return folders


class _Comparing:
    def __init__(self, plan: Plan, out: Path, executor: Executor) -> None:
        self.plan, self.out, self.executor = plan, out, executor
        self.pending: dict[Future[dict[str, bytes]], tuple[Any, ...]] = {}
        self.submitted: dict[Path, float] = {}
        # Lists come first: they take seconds, so whatever is wrong with a file is said before the long runs.
        self.cells = [_PlanCell(*each) for each in sorted(plan.to_run(), key=lambda cell: cell[2].lists is None)]
        self.folders: set[Path] = set()
        self.bar: Any = None

    def run(self, command: str) -> Comparison:
        plan = self.plan
        for cell in self.cells:
            name = study_name(plan, cell.dataset, cell.protocol, cell.row)
            if name:
                space = space_of(plan, cell.dataset, cell.protocol, cell.row)
                file = self.out / "tuning" / name
                how = file, space, plan.seeds[0], _bigger(plan), plan.tuning_time is not None
                cell.study = Study(*how)
                if not another(plan, cell.study.trials()) and cell.study.best() is None and not cell.refused():
                    file.unlink()  # all failed: try again
                    cell.study = Study(*how)
        total = len(self.cells) * len(plan.seeds) + sum(plan.trials for cell in self.cells if cell.study)
        self.bar = tqdm(total=total, desc="Compare", unit=" runs", ncols=100)
        try:
            counts = Counter(each for cell in self.cells for each in self._next(cell))
            if counts["kept"] or counts["again"]:
                again = f"; {counts['again']} that failed are tried again" if counts["again"] else ""
                self.bar.write(f"{self.out}: {counts['kept']} runs are there and kept{again}", file=sys.stderr)
            while self.pending:
                done, _ = wait(self.pending, timeout=1.0, return_when=FIRST_COMPLETED)
                for future in done:
                    self._take(future, *self.pending.pop(future))
        except BaseException as error:
            for future in self.pending:
                future.cancel()
            if isinstance(error, KeyboardInterrupt):
                raise Interrupted(self._comparison(command)) from None
            raise
        finally:
            self.bar.close()
        # The folders of all runs are known only now, because tuning chooses their settings.
        others = sum(file.parent not in self.folders for file in (self.out / "runs").glob("*/result.json"))
        if others:
            tqdm.write(
                f"{self.out}: {others} runs of other rows, seeds or settings are kept, but are not of this command and "
                "not in its report",
                file=sys.stderr,
            )
        return self._comparison(command)

    def _comparison(self, command: str) -> Comparison:
        return comparison_of(self.plan, [run for cell in self.cells for run in cell.runs], command)

    def _next(self, cell: _PlanCell) -> Iterator[str]:
        """Start the next tuning trial, or the runs of all seeds. Yield ``kept`` or ``again`` for each that was made before."""
        plan = self.plan
        trials = cell.study.trials() if cell.study else []
        if cell.study is not None:
            if another(plan, trials) and not cell.refused():
                yield from ["kept"] * self._shown(cell, len(trials))
                trial, settings = cell.study.ask()
                job = plan.job(cell.dataset, cell.protocol, cell.row, plan.seeds[0], settings)
                others = [each["scores"] for each in trials if each["status"] == "done" and each["scores"]]
                specification = {**_specification(plan, job), "others": others, "bigger": cell.study.bigger}
                specification["job"]["trial"] = True
                folder = self.out / "tuning" / f"{cell.row.model}-{cell.key(job)[:16]}"
                self._submit(specification, folder, "trial", cell, (trial, settings))
                return
            yield from ["kept"] * self._shown(cell, plan.trials or len(trials))
        best = cell.study.best() if cell.study else None
        for seed in plan.seeds:
            job = plan.job(cell.dataset, cell.protocol, cell.row, seed, best["settings"] if best else None)
            if cell.refused():
                run = Run(cell.dataset, "", "", cell.row.model, seed, REFUSED, cell.refused())
                cell.runs.append(self._finish(run, cell, job))
                continue
            if cell.study and best is None:
                reasons = {each["reason"] for each in trials}
                reason = f"all {len(trials)} trials of its tuning failed: {'; '.join(sorted(reasons))[:300]}"
                cell.runs.append(
                    self._finish(Run(cell.dataset, "", "", cell.row.model, seed, FAILED, reason), cell, job)
                )
                continue
            folder = self.out / "runs" / run_name(cell.protocol, cell.row.label, job)
            self.folders.add(folder)
            for left in leftovers(folder / "result.json"):
                left.unlink(missing_ok=True)
            if (folder / "result.json").is_file():
                try:
                    run = Run.load(folder)
                except DataError:
                    run = Run(cell.dataset, "", "", cell.row.model, seed, FAILED, "damaged")
                if run.status in SETTLED:
                    cell.runs.append(self._finish(run, cell, job))
                    yield "kept"
                    continue
                yield "again"
            self._submit(_specification(plan, job), folder, "run", cell, job)

    def _shown(self, cell: _PlanCell, number: int) -> int:
        """Count trials in the progress bar, once; how many a budget by time has is not known, so there it says its time."""
        before, cell.shown = cell.shown, number
        if self.plan.tuning_time is None:
            self.bar.update(number - before)
        elif cell.study is not None:
            spent = sum(each["seconds"] for each in cell.study.trials())
            self.bar.set_postfix_str(f"tuning {cell.row.label}: {spent:.0f} of {self.plan.tuning_time:g} s")
        return number - before

    def _submit(self, specification: dict[str, Any], folder: Path, *what: Any) -> None:
        folder = folder.resolve()
        place = None if self.plan.scheduler else str(folder)
        self.pending[self.executor.submit(process.execute, specification, place)] = (*what, folder)
        self.submitted[folder] = time.monotonic()

    def _take(self, future: Future[dict[str, bytes]], kind: str, cell: _PlanCell, what: Any, folder: Path) -> None:
        """Keep the result of a run."""
        run = self._result(future, cell, folder)
        if kind == "trial":
            trial, settings = what
            scores = run.trials[0]["scores"] if run.trials else []
            primary = run.valid.get(self.plan.primary.lower())
            assert cell.study is not None
            cell.study.tell(
                trial,
                {
                    "settings": settings, "valid": primary, "status": run.status, "reason": run.reason, "seconds": run.seconds,
                    "scores": scores,
                },
            )  # fmt: skip
            shutil.rmtree(folder, ignore_errors=True)
            self._shown(cell, len(cell.study.trials()))
        else:
            run = self._finish(run, cell, what)
            run.save(folder)
            cell.runs.append(run)
            if run.status not in SETTLED:
                self.bar.write(
                    f"{run.label}, seed {run.seed}, {run.dataset}: {run.status}: {run.reason}; log: {folder / 'log.txt'}",
                    file=sys.stderr,
                )
            return
        list(self._next(cell))

    def _result(self, future: Future[dict[str, bytes]], cell: _PlanCell, folder: Path) -> Run:
        try:
            content = future.result()
            if content:
                folder.mkdir(parents=True, exist_ok=True)
                for name in sorted(content, reverse=True, key=lambda each: each != "result.json"):  # that one last
                    write_whole(folder / name, content[name])
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DataError(f"{self.out}: the disk is full; make room, and the same command goes on.") from None
            reason = f"{error} ({type(error).__name__})"
        except DataError:  # a result could not be written
            raise
        except Exception as error:  # Dask's, if a worker died repeatedly
            reason = f"{' '.join(str(error).split())[:300]} ({type(error).__name__})"
        else:
            try:
                return Run.load(folder)
            except DataError as error:
                reason = str(error)
        run = Run(cell.dataset, "", "", cell.row.model, self.plan.seeds[0], FAILED, reason)
        run.seconds = time.monotonic() - self.submitted[folder]  # which a budget of time counts
        return run

    def _finish(self, run: Run, cell: _PlanCell, job: Mapping[str, Any]) -> Run:
        """Label a run as in this plan."""
        self.bar.update()
        run.dataset, run.protocol, run.label, run.seed = cell.dataset, cell.protocol, cell.row.label, job["seed"]
        run.settings = dict(job["settings"])
        if cell.study:
            shown = ("settings", "valid", "status", "seconds")
            run.trials = [{name: each[name] for name in shown} for each in cell.study.trials()]
        own = sorted({"epochs", "stopping_step", "eval_step"} & set(cell.row.settings))
        notes = [f"{run.label} has its own {', '.join(own)}."] if own else []
        lacking = self.plan.lacking(cell.dataset, cell.protocol, cell.row)
        if lacking:
            notes.append(f"{run.model} has no option {', '.join(lacking)}, which the plan sets for other rows.")
        if not self.plan.tuned and self.plan.space(cell.row):
            notes.append(
                f"{run.label} has a search space, and was not tuned, for the plan has neither trials nor tuning_time."
            )
        if self.plan.tuned and not cell.study and cell.row.lists is None:
            notes.append(f"{run.label} has nothing to tune: defaults.")
        run.notes += [note for note in notes if note not in run.notes]
        return run


def _specification(plan: Plan, job: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the process of a run gets."""
    settings = dict(job["settings"])
    settings["data_path"] = str(Path(str(settings.get("data_path", "dataset"))).resolve())
    if "lists" in job:
        job = {**job, "lists": {**job["lists"], "path": str(Path(job["lists"]["file"]).resolve())}}
    threads = None if plan.scheduler else max(1, cores() // plan.jobs)  # Dask's workers have OMP_NUM_THREADS
    return {
        "job": {**job, "settings": settings}, "imports": plan.imports, "path": [str(Path.cwd())],
        "threads": threads, "energy": plan.energy, "memory_limit": plan.memory_limit, "time_limit": plan.time_limit,
    }  # fmt: skip


def _compare_splits(runs: list[Run]) -> None:
    """Mark the runs whose split differs from that of the others with the same data set, protocol and seed.

    Lists are of one split, so a file that stands for several is an error of all its runs.
    """
    first: dict[tuple[str, str, int], Run] = {}
    splits: dict[str, set[str]] = {}
    for run in runs:
        if run.status == DONE and run.lists:
            splits.setdefault(run.lists["sha256"], set()).add(run.split_hash)
    for run in runs:
        if run.lists and len(splits.get(run.lists["sha256"], ())) > 1:
            run.status = FAILED
            run.reason = (
                f"{run.lists['file']} stands for runs with different splits, and lists are of one; write {{seed}} where the "
                "names of the files differ"
            )
        if run.status == DONE:
            other = first.setdefault((run.dataset, run.protocol, run.seed), run)
            if other.split_hash != run.split_hash:
                run.status = FAILED
                run.reason = (
                    f"its split is not that of {other.label}: SHA-256 {run.split_hash[:12]} and {other.split_hash[:12]}"
                )


def _bigger(plan: Plan) -> bool:
    from recbole.evaluator.register import metrics_dict

    return not getattr(metrics_dict[kind_of(plan.primary.partition("@")[0].lower())[1]], "smaller", False)


@contextlib.contextmanager
def _executor(plan: Plan) -> Iterator[Executor]:
    """Give the executor of :func:`~recbole_vae.compare.process.execute`: threads here, or Dask's workers."""
    if plan.scheduler is None:
        threads = ThreadPoolExecutor(plan.jobs)
        try:
            with process.children_end():
                yield threads
        finally:
            threads.shutdown(cancel_futures=True)
        return
    with dask_client(plan.scheduler) as client, client.get_executor(pure=False) as executor:
        yield executor
