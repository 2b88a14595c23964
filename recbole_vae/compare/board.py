"""A board: a folder with plans of comparisons, what is kept of their runs, and the pages that show them.

``NAME.yaml`` is a plan, ``NAME.json`` and ``NAME.parquet`` are its :mod:`~recbole_vae.compare.archive`, ``.work/NAME`` is the
folder of its comparison, which git ignores, and which is made again from the archive where it is missing.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import filelock

from recbole_vae.compare import archive, plan, runner
from recbole_vae.compare.analysis import Table
from recbole_vae.compare.analysis import tables as analyse
from recbole_vae.compare.archive import Archive
from recbole_vae.compare.folder import InUseError, differing
from recbole_vae.compare.plan import Plan
from recbole_vae.compare.results import DONE, SETTLED, Comparison, Run
from recbole_vae.errors import ConfigError
from recbole_vae.options.names import near
from recbole_vae.options.shell import joined
from recbole_vae.storage.files import write_whole

FRONT = "index"
"""Name of the page that shows all plans."""

WORK = ".work"
PATIENCE = 1.0
"""Seconds after which it is said that another command is waited for."""

_IGNORED = f"# made by recbole-vae board\n{WORK}/\n*.html\n"


@dataclass
class Entry:
    """A plan of a board, and what is known of it.

    Attributes:
        name: of its files.
        plan: as it stands in its file.
        archive: what is kept of its runs.
        comparison: those that are shown; ``tables``: made of them. Both are made by :meth:`analyse`.
    """

    file: Path
    plan: Plan
    archive: Archive
    comparison: Comparison = field(init=False)
    tables: list[Table] = field(init=False)

    def __post_init__(self) -> None:
        self.comparison = self.archive.comparison(self.plan, self.command)

    @property
    def name(self) -> str:
        """The name of the plan's file, without its ending."""
        return self.file.stem

    @property
    def command(self) -> str:
        """The command that makes this comparison by itself, from nothing."""
        return joined(
            ["recbole-vae", "compare", f"--config={self.file.parent.name}/{self.file.name}", f"--out={self.name}"]
        )

    @property
    def left(self) -> int:
        """Number of runs that are to be done."""
        return sum(run.status not in SETTLED for run in self.comparison.runs)

    @property
    def hidden(self) -> int:
        """Number of runs that are kept and not shown, because they are of other rows, seeds or settings."""
        return len(self.archive.runs) - len(self.archive.shown(self.plan))

    @property
    def hidden_words(self) -> str:
        """The number of :attr:`hidden` runs, as the beginning of a sentence."""
        one = self.hidden == 1
        return f"{self.hidden} run{'s' * (not one)} of other rows, seeds or settings {'is' if one else 'are'} kept"

    def analyse(self) -> None:
        """Make the tables; tests that are not kept are made, which may take minutes, and kept in the archive."""
        self.comparison = self.archive.comparison(self.plan, self.command)
        self.tables = analyse(self.comparison, self.archive.add_tests)

    def lists_elsewhere(self) -> list[str]:
        """Return the rows of other tools' lists that are done, but whose files are not all here, as in a clone."""
        left = {run.label for run in self.comparison.runs if run.status not in SETTLED}
        cells = [cell for cell in self.plan.to_run() if cell[2].lists is not None and cell[2].label not in left]
        missing = [
            row.label
            for dataset, protocol, row in cells
            for seed in self.plan.seeds
            if not Path(row.file(dataset, protocol, seed)).is_file()
        ]
        return list(dict.fromkeys(missing))

    def keep(self, planned: Plan, runs: Sequence[Run]) -> None:
        """Take new runs into the archive, and write it.

        Args:
            planned: the plan by which they were done; that in the file may have changed since.
            runs: of :func:`~recbole_vae.compare.runner.compare`.

        Raises:
            ConfigError: the archive is of another plan by now.
            DataError: it is damaged, or cannot be written.
        """
        with self._alone():
            self.archive = archive.load(self.file.parent, self.name)  # git or another command may have changed it
            _check_kept(self, planned)
            self.archive.take(planned, runs, self.work)
            self.archive.write(self.file.parent, self.name)

    def keep_tests(self) -> None:
        """Write the tests that :meth:`analyse` made into the archive, which git or another command may have changed."""
        with self._alone():
            now = archive.load(self.file.parent, self.name)
            if now.runs and now.tests != self.archive.tests:
                now.tests = self.archive.tests
                now.write(self.file.parent, self.name)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Let no other command read and write the archive in this block; wait for one that does."""
        folder = self.file.parent / WORK
        folder.mkdir(exist_ok=True)
        lock = filelock.FileLock(folder / f".{self.name}.lock")  # no plan has such a name
        try:
            lock.acquire(PATIENCE)
        except filelock.Timeout:
            print(f"{self.file}: waiting for another command, which writes {self.name}.json", file=sys.stderr)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    @property
    def work(self) -> Path:
        """The folder of the comparison."""
        return self.file.parent / WORK / self.name


def read(folder: Path, options: Mapping[str, str] | None = None) -> list[Entry]:
    """Read the plans of a board and what is kept of their runs, in the order of their names.

    Args:
        folder: of the board.
        options: of the command line: how the runs are done.

    Raises:
        ConfigError: there is no plan, one has a mistake or a name that cannot be that of a page, or two have a data set and
            protocol in common.
        DataError: an archive is damaged.
    """
    if not folder.is_dir():
        raise ConfigError(f"--out={folder} (command line): there is no such folder. A board is a folder with plans.")
    files = sorted(file for file in folder.iterdir() if file.suffix in (".yaml", ".yml") and file.is_file())
    if not files:
        raise ConfigError(
            f"--out={folder} (command line): there is no plan in this folder. Write one for each data set, such as "
            f"{folder / 'ml-100k.yaml'}; see recbole-vae compare --help."
        )
    for file in files:
        _check_name(file)
    entries = [read_entry(file, options) for file in files]
    _check_cells(entries)
    return entries


def read_entry(file: Path, options: Mapping[str, str] | None = None) -> Entry:
    """Read a plan and what is kept of its runs.

    Args:
        file: the plan.
        options: of the command line: how the runs are done.

    Raises:
        ConfigError: the plan has a mistake.
        DataError: the archive is damaged.
    """
    return Entry(file, plan.read(str(file), options or {}, data=False), archive.load(file.parent, file.stem))


def _check_name(file: Path) -> None:
    if file.suffix == ".yml":
        raise ConfigError(f"{file}: the name of a plan must end in .yaml; rename it to {file.stem}.yaml.")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", file.stem):
        raise ConfigError(
            f"{file}: the name of a plan is that of its page, too. It must be made of the letters A to Z, digits, '.', '_' and "
            "'-', and begin with a letter or digit."
        )
    if file.stem.lower() == FRONT:
        raise ConfigError(f"{file}: {FRONT}.html is the page of all plans; give this plan another name.")


def _check_cells(entries: Sequence[Entry]) -> None:
    """Refuse two plans that have a data set and protocol in common."""
    owners: dict[tuple[str, str], Path] = {}
    for entry in entries:
        for dataset, protocol, _ in entry.plan.cells():
            other = owners.setdefault((dataset, protocol), entry.file)
            if other != entry.file:
                raise ConfigError(
                    f"{entry.file}: {other} has the data set {dataset} with the protocol '{protocol}', too. Put their rows into "
                    "one plan, or give one of the protocols another name."
                )


def chosen(entries: Sequence[Entry], names: Sequence[str]) -> list[Entry]:
    """Return the plans with certain names.

    Raises:
        ConfigError: there is no such plan.
    """
    known = {entry.name: entry for entry in entries}
    for name in names:
        if name not in known:
            meant = near(name, known)
            raise ConfigError(
                f"only: {name} (command line): there is no plan of this name{f'; did you mean {meant}?' if meant else '.'} "
                f"The plans are {', '.join(known)}."
            )
    return [known[name] for name in dict.fromkeys(names)]


def check(entry: Entry) -> Plan:
    """Refuse a plan that the runs which are kept are not of, or whose data are missing though there are runs to do.

    Args:
        entry: its plan and archive.

    Returns:
        The plan, for its runs.

    Raises:
        ConfigError: it differs in what must be the same for all runs, a file is missing, or an option does not fit.
    """
    planned = entry.plan
    if entry.left:
        planned = planned.without(entry.lists_elsewhere())
        planned.check_to_run()
    _check_kept(entry, planned)
    return planned


def _check_kept(entry: Entry, planned: Plan) -> None:
    """Refuse a plan that the runs which are kept are not of. Until one is done, mistakes in the plan can be corrected."""
    if not entry.archive.journals and all(run.status != DONE for run in entry.archive.runs.values()):
        return
    now = planned.identity()
    differences = differing({**now, **entry.archive.identity}, now)
    if differences:
        kept = entry.file.with_suffix(".json")
        raise ConfigError(
            f"{entry.file}: the runs in {kept.name} are of another plan: {'; '.join(differences)}. Undo this, or give the new "
            f"plan a file of its own. To begin anew, remove {kept.name}, {entry.name}.parquet and {WORK}/{entry.name}."
        )


def advance(entry: Entry) -> None:
    """Do the runs of a plan that are missing, and keep them. After Ctrl-C, those are kept that are done.

    Args:
        entry: its plan and archive.

    Raises:
        ConfigError: as :func:`check`; or the folder of the comparison is in use, or is of another plan.
        Interrupted: Ctrl-C.
    """
    planned = check(entry)
    try:
        comparison = runner.compare(planned, entry.work, entry.command, lambda: entry.archive.restore(entry.work))
    except runner.Interrupted as interrupted:
        entry.keep(planned, interrupted.comparison.runs)
        raise
    except InUseError:
        raise ConfigError(
            f"{entry.file}: another command is doing the runs of this plan. Wait for it, or do those of other plans by --only."
        ) from None
    except ConfigError as error:
        said = str(error).replace(f"--out={entry.work} (command line)", str(entry.work))
        instead = f". Remove {entry.work}, and give the same command again; what {entry.name}.json has is kept."
        raise ConfigError(re.sub(r"[.;] [Cc]hoose another folder\.$", lambda _: instead, said)) from None
    entry.keep(planned, comparison.runs)


def renamed(entry: Entry) -> str:
    """Say which results without a plan are of this one, which has none, as after its file was renamed; empty for none."""
    now = entry.plan.identity()
    for file in sorted(entry.file.parent.glob("*.json")) if not entry.archive.runs else ():
        kept = archive.identity_in(file)
        shared = all(set(kept.get(name, ())) & set(now[name]) for name in ("datasets", "protocols"))
        if file.with_suffix(".yaml").exists() or not shared or differing({**now, **kept}, now):
            continue
        old, new = file.stem, entry.name
        return (
            f"{entry.file}: {file.name} has the runs of such a plan. If you renamed it, stop, and rename {old}.json to "
            f"{new}.json and {old}.parquet to {new}.parquet, too; else all its runs are done anew."
        )
    return ""


def ignore_work(folder: Path) -> None:
    """Let git ignore what can be made again. A ``.gitignore`` that is there may not know the work folder, which has its own.

    Raises:
        ConfigError: the work folder cannot be made, or nothing can be written into it or the board's.
    """
    try:
        (folder / WORK).mkdir(exist_ok=True)
        for file, content in ((folder / ".gitignore", _IGNORED), (folder / WORK / ".gitignore", "*\n")):
            if not file.exists():
                write_whole(file, content.encode())
    except OSError as error:
        raise ConfigError(
            f"{error.filename or folder / WORK}: {error.strerror or error}; its runs are kept in the folder {folder / WORK}, "
            "so remove or rename what stands there, or let yourself write into it."
        ) from None
