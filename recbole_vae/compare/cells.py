"""What the tables of a comparison show, apart from their format: cells, captions and remarks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from recbole_vae.compare import description
from recbole_vae.compare.analysis import Row, Table, higher_is_better
from recbole_vae.compare.energy import NOTHING
from recbole_vae.compare.results import DONE, NOT_RUN, REFUSED, Comparison, Run
from recbole_vae.options.evaluation import COLD, WARM, kind_of

_TITLES = {
    "truncatedrecall": "TruncatedRecall",
    "ndcg": "NDCG",
    "mrr": "MRR",
    "map": "MAP",
    "itemcoverage": "Coverage",
    "giniindex": "Gini index",
    "averagepopularity": "Popularity",
    "tailpercentage": "Tail share",
    "tailrecall": "Tail recall",
    "shannonentropy": "Entropy",
}
_ACCURACY = {"": "Accuracy", WARM: "Warm items", COLD: "Cold items"}
_COSTS = {
    "training_seconds": "Training", "cpu_seconds": "CPU", "peak_memory": "Peak memory", "energy": "Energy",
    "parameters": "Parameters", "epochs": "Epochs",
}  # fmt: skip
SHORTEST = 0.1
"""Seconds of training below this are noise, and shown as less than it."""

_NOTHING = "–"


@dataclass
class Cell:
    """One cell of a table.

    Attributes:
        text: the mean, or what stands for it; ``deviation``: over seeds, or "".
        value: what to sort by; None for nothing.
        rank: 1 for the best of the column, 2 for the second, else 0.
        ties: whether it does not differ significantly from the best; ``differs``: whether it does from the reference row.
        interval: of an effect size, in brackets; or "".
    """

    text: str
    deviation: str = ""
    value: float | None = None
    rank: int = 0
    ties: bool = False
    differs: bool = False
    interval: str = ""

    @property
    def marks(self) -> str:
        """The marks of the tests."""
        return "=" * self.ties + "*" * self.differs


@dataclass
class Part:
    """A grid of cells that fits the width of a page: accuracy, other metrics, or costs.

    Attributes:
        kind: of accuracy, the items that are measured: "" for all, ``warm`` or ``cold``; else None.
    """

    title: str
    headers: list[str]
    rows: list[tuple[str, list[Cell]]]
    kind: str | None = None

    @property
    def marked(self) -> bool:
        """Whether a cell has marks of the tests."""
        return any(cell.marks for _, cells in self.rows for cell in cells)


def title(metric: str) -> str:
    """Return the name of a metric as tables print it."""
    kind, name = kind_of(metric)
    if kind:
        return f"{kind} {title(name)}"
    name, at, k = metric.partition("@")
    return _TITLES.get(name, name.capitalize()) + at + k


def number(value: float, like: float | None = None) -> str:
    """Format a metric: four decimals for shares, fewer for larger numbers; if ``like`` is given, with its decimals."""
    size = abs(value if like is None else like)
    return (
        f"{value:.4f}"
        if size <= 1
        else f"{value:.2f}"
        if size < 100
        else f"{value:.1f}"
        if size < 1000
        else f"{value:,.0f}"
    )


def duration(seconds: float) -> str:
    """Format seconds."""
    if seconds < SHORTEST:
        return f"< {SHORTEST:g} s"
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def count(value: float, unit: str = "") -> str:
    """Format a large number (of parameters, of bytes) with a decimal prefix."""
    for prefix, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return (
                f"{value / size:.3g} {prefix}{unit}" if value / size < 1000 else f"{value / size:,.0f} {prefix}{unit}"
            )
    return f"{value:,.0f} {unit}".strip()


def parts(table: Table) -> list[Part]:
    """Lay out a table, without the parts of which nothing was measured."""
    result = []
    for kind, heading in _ACCURACY.items():
        metrics = [metric for metric in table.metrics if kind_of(metric)[0] == kind]
        headers = [title(kind_of(metric)[1]) for metric in metrics]
        if metrics:
            result.append(Part(heading, headers, _cells(table, metrics, everyone=not kind), kind))
    if table.beyond:
        ks = {metric.partition("@")[2] for metric in table.beyond}
        # One k for all is said once: these names are long.
        heading, headers = "Beyond accuracy", [title(metric) for metric in table.beyond]
        if len(ks) == 1 and "" not in ks:
            heading, headers = f"Beyond accuracy, k = {ks.pop()}", [each.partition("@")[0] for each in headers]
        result.append(Part(heading, headers, _cells(table, table.beyond)))
    found = costs(table)
    result.append(
        Part("Costs", list(found.values()), [(row.label, _costs(row, found)) for row in table.rows if row.done])
    )
    return [part for part in result if part.rows]


def _cells(table: Table, metrics: Sequence[str], everyone: bool = False) -> list[tuple[str, list[Cell]]]:
    means: dict[str, dict[str, tuple[float, float | None]]] = {metric: {} for metric in metrics}
    for row in table.rows:
        for metric in metrics:
            over_seeds = row.over_seeds(metric)
            if over_seeds is not None:
                means[metric][row.label] = over_seeds
    # Equal means share their rank; metrics without a better direction have none. Several that share
    # the last place are no second, as where all but one have no hit.
    ranks = {m: sorted({mean for mean, _ in means[m].values()}, reverse=higher_is_better(m) is True) for m in metrics}
    shared = {m: [mean for mean, _ in means[m].values()].count(ranks[m][-1]) > 1 for m in metrics if ranks[m]}
    # One number of decimals for a column, that of its largest number.
    largest = {m: max((abs(mean) for mean, _ in means[m].values()), default=0.0) for m in metrics}
    rows = []
    for row in table.rows:
        cells: list[Cell] = []
        for metric in metrics:
            if row.label not in means[metric]:
                cells.append(Cell(row.runs[-1].status if not row.done and not cells else _NOTHING))
                continue
            mean, deviation = means[metric][row.label]
            ranked = higher_is_better(metric) is not None and len(ranks[metric]) > 1
            place = ranks[metric].index(mean) + 1 if ranked else 0
            if place == len(ranks[metric]) and shared[metric]:
                place = 0
            cells.append(
                Cell(
                    number(mean, largest[metric]),
                    "" if deviation is None else number(deviation, largest[metric]),
                    mean,
                    place if place <= 2 else 0,
                    table.ties_with_best(row.label, metric),
                    table.differs_from_reference(row.label, metric),
                )
            )
        if row.done or everyone:
            rows.append((row.label, cells))
    return rows


def costs(table: Table) -> dict[str, str]:
    """Return the costs that are shown, by attributes of the runs, with their titles; energy and CPU where they are known."""
    how = {run.energy_by for row in table.rows for run in row.done if run.energy is not None}
    unknown = {name for name in ("cpu_seconds", "energy") if all(row.mean(name) is None for row in table.rows)}
    found = {name: words for name, words in _COSTS.items() if name not in unknown}
    if any(f"measured: {NOTHING}" in each for each in how):
        found["energy"] += " (estimate)"
    return found


def _costs(row: Row, names: Iterable[str]) -> list[Cell]:
    formats: dict[str, Callable[[float], str]] = {
        "training_seconds": duration,
        "cpu_seconds": duration,
        "peak_memory": lambda value: count(value, "B"),
        "energy": lambda value: f"{1000 * value:.3g} Wh" if value < 1 else f"{value:.3g} kWh",
        "parameters": lambda value: count(value) if value else _NOTHING,
        "epochs": lambda value: f"{value:.4g}",
    }
    values = {name: row.mean(name) for name in names}
    return [Cell(_NOTHING if value is None else formats[name](value), value=value) for name, value in values.items()]


def _plural(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def facts(table: Table, comparison: Comparison) -> list[tuple[str, str]]:
    """Return what a table shows and how it was tested: each fact a word and what it says, as a sentence without that word."""
    low, high = table.users
    found = [("Test users", f"{low:,} in every run." if low == high else f"{low:,} to {high:,}, depending on the run.")]
    found += description.facts([run for row in table.rows for run in row.done], table.metrics, title(table.primary))
    if len(table.seeds) > 1:
        differ = any(test.users > high for test in table.against_best.values())
        words = (
            f", which have different test users (the tests are over all of them: up to {_most(table):,})"
            if differ
            else ""
        )
        found.append(("Values", f"mean and standard deviation over {len(table.seeds)} seeds{words}."))
    else:
        tests = (
            " The tests compare these trained models: another training may end otherwise." if table.against_best else ""
        )
        found.append(("Values", f"of one seed, so there is no deviation over seeds.{tests}"))
    foreign = [row.label for row in table.rows if row.foreign]
    if foreign:
        words = f"lists that were made elsewhere for these splits are in the rows {', '.join(foreign)}, and only evaluated here"
        found.append(("Other tools", f"{words}. Their costs, settings and tuning are not known."))
    found.append(("Tuning", f"{budget(comparison)}{_trials(table, comparison)}."))
    if sum(bool(row.done) for row in table.rows) > 1:
        marks = "the best of each column is bold, the second underlined"
        if table.against_best:
            marks += "; = marks what does not differ significantly from the best of its column"
        if table.against_best and table.against_reference:
            marks += f", * what differs significantly from {table.reference}"
        found.append(("Marks", f"{marks}."))
    if table.untested:
        head, _, reason = table.untested.partition(": ")
        found.append((head, reason))
    if table.against_best:
        family = f"all pairs of rows in all metrics of this table ({_plural(table.compared, 'test')})"
        if table.against_reference:
            family += f"; for *, over all rows and metrics ({_plural(len(table.against_reference), 'test')})"
        words = (
            "two-sided paired randomisation test over users, whose values are averaged over seeds "
            f"({table.samples:,} sign flips, or all where few users differ; alpha = {table.alpha:g}). "
            f"Holm's correction is over {family}."
        )
        found.append(("Tests", words))
        untested = [title(metric) for metric in table.metrics if metric not in table.tested]
        if untested:
            found.append(("Not tested", f"{', '.join(untested)}, not known for each user."))
    return found


def progress(runs: Iterable[Run]) -> str:
    """Say how many runs are done, of those that are to be done; and how many others there are."""
    counts = Counter(run.status for run in runs)
    left_out, refused = counts.pop(NOT_RUN, 0), counts[REFUSED]
    said = f"{counts[DONE]:,} of {counts.total():,} runs done"
    said += f", {refused:,} cannot take part" if refused else ""
    return said + (f"; {left_out:,} are not to be run" if left_out else "")


def budget(comparison: Comparison) -> str:
    """Return the budget of tuning in words."""
    if comparison.tuning_time is not None:
        return (
            f"{comparison.tuning_time:,.10g} s for each row with a search space; the first trial has the defaults, and the last "
            "may end later"
        )
    if comparison.trials:
        return f"{_plural(comparison.trials, 'trial')} for each row with a search space"
    return "none; settings are the defaults and the plan's"


def trials_of(row: Row) -> list[dict[str, Any]]:
    """Return the trials of a row's tuning; its seeds share them."""
    return next((run.trials for run in row.runs if run.trials), [])


def _trials(table: Table, comparison: Comparison) -> str:
    """Say how many trials each row had in the same time."""
    found = [f"{row.label} {len(trials)}" for row in table.rows if (trials := trials_of(row))]
    return f". Trials: {', '.join(found)}" if found and comparison.tuning_time is not None else ""


def caption(table: Table, comparison: Comparison) -> str:
    """Return the facts of a table as one paragraph."""
    return f"{table.name}. " + " ".join(f"{head}: {words}" for head, words in facts(table, comparison))


def _most(table: Table) -> int:
    return max(test.users for test in table.against_best.values())


def settings(table: Table) -> list[tuple[str, str]]:
    """Return the settings that were given or tuned, in words: those that all rows share, then each row's own."""
    found = {row.label: description.settings(row.done[0]) for row in table.rows if row.done and not row.foreign}
    several = list(found.values()) if len(found) > 1 else [{}]
    shared = {n: v for n, v in several[0].items() if all(n in each and each[n] == v for each in several)}
    rows = [(label, {n: v for n, v in own.items() if n not in shared}) for label, own in found.items()]
    words = [(label, description.in_words(own)) for label, own in ([("all rows", shared)] if shared else []) + rows]
    return words + [(row.label, f"made elsewhere: {row.done[0].lists['file']}") for row in table.rows if row.foreign]


def remarks(table: Table, comparison: Comparison) -> list[str]:
    """Return what went wrong or was corrected: other splits, runs that are not done, and the notes of runs, once each."""
    found: list[str] = []
    if comparison.reference is not None and table.reference is None:
        found.append(
            f"{comparison.reference}, the row to compare with, is not done here, so nothing is compared with it."
        )
    splits: dict[int, str] = {}
    for row in table.rows:
        for run in row.done:
            if run.split_hash and splits.setdefault(run.seed, run.split_hash) != run.split_hash:
                found.append(
                    f"{row.label} (seed {run.seed}) ran on another split than the rows above, so it is not comparable."
                )
    return [*found, *not_done(table), *of_costs(table), *_notes(table)]


def not_done(table: Table) -> list[str]:
    """Say which rows are not done, or not with all seeds, and why; those left out by the plan for one reason together."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in table.rows:
        reasons: dict[tuple[str, str], list[int]] = {}
        for run in row.runs:
            if run.status != DONE:
                reasons.setdefault((run.status, run.reason), []).append(run.seed)
        for (status, reason), seeds in reasons.items():
            which = "" if len(seeds) == len(table.seeds) else f" ({_seeds(seeds)})"
            said = f"{status}{which}{reason and ': '}{reason.rstrip('.')}."
            found.setdefault((said, "" if status == NOT_RUN else row.label), []).append(row.label)
        if row.done and len(row.done) < len(table.seeds):
            said = f"its means are of {len(row.done)} of {len(table.seeds)} seeds."
            found[said, row.label] = [row.label]
    return [f"{', '.join(labels)}: {said}" for (said, _), labels in found.items()]


def of_costs(table: Table) -> list[str]:
    """Say what the times are, which rows have a training time of another kind, and what the energy is, if it is known."""
    rows = [row for row in table.rows if row.done and not row.foreign]
    labels = [row.label for row in rows if all(run.epochs is None for run in row.done)]
    said = f"Not trained by epochs, so their training time is that of construction: {', '.join(labels)}."
    energy = dict.fromkeys(run.energy_by for row in table.rows for run in row.done if run.energy_by)
    return [*([_times(rows)] if rows else []), *([said] if labels else []), *energy]


def _times(rows: Iterable[Row]) -> str:
    words = "Training is wall time, which other work on the machine lengthens"
    if all(row.mean("cpu_seconds") is None for row in rows):
        return f"{words}."
    return f"{words}; CPU is the processor time of the same steps, added up over all threads and ended child processes."


def _notes(table: Table) -> list[str]:
    """Return the notes of the runs, once each: those that all seeds have, then the others with their seeds."""
    seeds: dict[str, set[int]] = {}
    for run in sorted((run for row in table.rows for run in row.runs), key=lambda run: run.seed):
        for note in run.notes:
            seeds.setdefault(note.rstrip("."), set()).add(run.seed)
    shared = [f"{note}." for note, own in seeds.items() if own == set(table.seeds)]
    return shared + [f"{note} ({_seeds(sorted(own))})." for note, own in seeds.items() if own != set(table.seeds)]


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
