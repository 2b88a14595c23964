"""Means and tests of a comparison's runs: one table for each data set and protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from recbole_vae.compare import statistics
from recbole_vae.compare.results import DONE, Comparison, Run
from recbole_vae.compare.statistics import Floats
from recbole_vae.errors import DataError
from recbole_vae.evaluation.holm import holm
from recbole_vae.options.evaluation import COLD, WARM, kind_of

Key = TypeVar("Key", bound=tuple[str, ...])

BEYOND = {
    "itemcoverage": True,
    "tailrecall": True,
    "tailpercentage": None,
    "giniindex": None,
    "averagepopularity": None,
    "novelty": None,
    "shannonentropy": None,
}
"""Metrics beyond accuracy, and whether more is better; None where that depends on the purpose."""


@dataclass
class Row:
    """All runs of one label.

    Attributes:
        runs: by seed, done or not.
        done: the runs that are done; ``foreign``: whether they are of lists that another tool made.
    """

    label: str
    runs: list[Run] = field(default_factory=list)

    @property
    def done(self) -> list[Run]:
        """The runs that are done."""
        return [run for run in self.runs if run.status == DONE]

    @property
    def foreign(self) -> bool:
        """Whether another tool made the lists that are measured."""
        return any(run.lists for run in self.done)

    def over_seeds(self, metric: str) -> tuple[float, float | None] | None:
        """Return mean and standard deviation of a test metric over seeds; None if no run has it."""
        values = [run.test[metric] for run in self.done if metric in run.test]
        return statistics.over_seeds(values) if values else None

    def mean(self, name: str) -> float | None:
        """Return the mean over seeds of a cost (``training_seconds``); None if it is unknown, as that of other tools' lists."""
        values = [getattr(run, name) for run in self.done if getattr(run, name) is not None and not run.lists]
        return float(np.mean(values)) if values else None


@dataclass
class Test:
    """One metric of two rows, compared over users.

    Attributes:
        label: the row; ``against``: the other one.
        users: number of pairs.
        difference: the row's mean minus the other's, and the ends of its interval; ``relative`` and ``standardised`` likewise.
        p: p-value of the randomisation test; ``p_wilcoxon``: of the signed-rank test.
        holm: ``p`` by Holm's correction over its family; ``holm_wilcoxon`` likewise.
    """

    label: str
    against: str
    metric: str
    users: int
    difference: tuple[float, float, float]
    relative: tuple[float, float, float]
    standardised: tuple[float, float, float]
    p: float
    p_wilcoxon: float
    holm: float = 1.0
    holm_wilcoxon: float = 1.0


@dataclass
class Table:
    """The runs on one data set in one protocol.

    Attributes:
        rows: in the order of the plan.
        seeds: seeds of all runs.
        metrics: the columns, with those of warm and cold items, if items are held out; ``tested``: those for which every run
            that is done has a value for each user.
        beyond: names of the metrics beyond accuracy.
        primary: the metric that ranks the rows.
        alpha: level of the tests.
        reference: label of the reference row; None if it is not done (yet).
        best: for each metric, the labels, best first.
        against_reference: tests of all rows in all metrics, one family; by label and metric.
        against_best: tests against the best row of each metric; by label and metric.
        pairs: tests of all pairs of rows in the primary metric; by both labels. They share a family with those against the
            best: all pairs in all metrics.
        compared: number of tests in that family.
        ranks: of the rows in each tested metric, by label and metric: rank, and the ends of its 95 % bootstrap interval.
        samples: number of sign flips drawn for each test.
        users: smallest and largest number of test users in a run.
        untested: why there are no tests, in a sentence; empty if there are.
    """

    dataset: str
    protocol: str
    rows: list[Row]
    seeds: list[int]
    metrics: list[str]
    tested: list[str]
    beyond: list[str]
    primary: str
    alpha: float
    reference: str | None
    best: dict[str, list[str]]
    against_reference: dict[tuple[str, str], Test]
    against_best: dict[tuple[str, str], Test]
    pairs: dict[tuple[str, str], Test]
    samples: int
    compared: int
    users: tuple[int, int]
    untested: str = ""
    ranks: dict[tuple[str, str], tuple[int, int, int]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Data set and protocol."""
        return f"{self.dataset}, {self.protocol}" if self.protocol else self.dataset

    def row(self, label: str) -> Row:
        """Return the row of a label."""
        return next(row for row in self.rows if row.label == label)

    def ties_with_best(self, label: str, metric: str) -> bool:
        """Return whether a row was tested against the best one of a metric and does not differ significantly from it."""
        test = self.against_best.get((label, metric))
        return test is not None and test.holm > self.alpha

    def differs_from_reference(self, label: str, metric: str) -> bool:
        """Return whether a row differs significantly from the reference row in a metric."""
        test = self.against_reference.get((label, metric))
        return test is not None and test.holm <= self.alpha


def base(metric: str) -> str:
    """Return the name of a metric without ``@k``."""
    return metric.partition("@")[0]


def higher_is_better(metric: str) -> bool | None:
    """Return whether more of a metric is better; None where that depends on the purpose."""
    return BEYOND.get(kind_of(base(metric))[1], True)


def tables(comparison: Comparison, add: Callable[[Table, list[Row]], None] | None = None) -> list[Table]:
    """Compute the tables of a comparison from the runs that are there.

    Args:
        comparison: its runs and how they are compared.
        add: adds the tests to a table; :func:`add_tests` unless given.

    Raises:
        DataError: a run lacks a metric of the table, or has one that is not a finite number.
    """
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in comparison.runs:
        groups.setdefault((run.dataset, run.protocol), []).append(run)
    return [_table(comparison, runs, add or add_tests) for runs in groups.values()]


def _table(comparison: Comparison, runs: list[Run], add: Callable[[Table, list[Row]], None]) -> Table:
    rows: dict[str, Row] = {}
    for run in runs:
        rows.setdefault(run.label, Row(run.label)).runs.append(run)
    done = [run for run in runs if run.status == DONE]
    for run in done:
        _check(run, comparison.metrics)
    metrics = list(comparison.metrics)
    apart = [f"{kind}_{name}" for kind in (WARM, COLD) for name in metrics]
    metrics += [name for name in apart if done and all(name in run.test for run in done)]
    tested = [m for m in metrics if done and all(run.users is not None and m in run.users.metrics for run in done)]
    measured = dict.fromkeys(name for run in done for name in run.test if base(name) in BEYOND and name not in metrics)
    at = comparison.primary.partition("@")[2]
    ranked: dict[str, list[str]] = {}
    for metric in [*metrics, *measured]:
        better = higher_is_better(metric)
        means = {label: mean[0] for label, row in rows.items() if (mean := row.over_seeds(metric)) is not None}
        if better is not None:
            ranked[metric] = sorted(means, key=lambda label: -means[label] if better else means[label])
    sizes = [len(run.users.ids) for run in done if run.users is not None]
    table = Table(
        runs[0].dataset,
        runs[0].protocol,
        list(rows.values()),
        sorted({run.seed for run in runs}),
        metrics,
        tested,
        # Those at other ks than the table's would say nothing new.
        [name for name in measured if name.partition("@")[2] in ("", at)] or list(measured),
        comparison.primary,
        comparison.alpha,
        comparison.reference if comparison.reference in rows and rows[comparison.reference].done else None,
        ranked,
        {},
        {},
        {},
        0,
        0,
        (min(sizes, default=0), max(sizes, default=0)),
    )
    add(table, [row for row in rows.values() if row.done])
    return table


def _check(run: Run, metrics: Sequence[str]) -> None:
    where = f"{run.label} on {run.dataset} ({run.protocol}), seed {run.seed}"
    missing = [metric for metric in metrics if metric not in run.test]
    if missing:
        raise DataError(
            f"{where}: the run has no {', '.join(missing)} (it has {', '.join(run.test) or 'no metrics'}); delete its folder "
            "to run it again."
        )
    users = {} if run.users is None else run.users.metrics
    for name in metrics:
        if not np.isfinite(run.test[name]) or (name in users and not np.isfinite(users[name]).all()):
            raise DataError(f"{where}: {name} is not a finite number, so nothing can be compared; look at its log.")


def cubes(rows: Sequence[Row], seeds: Sequence[int], metrics: Sequence[str]) -> Iterable[tuple[str, Floats]]:
    """Yield for each metric (or ``history_length``) the users' values, shape [rows, seeds, users]; NaN where there is none."""
    known: dict[str, int] = {}
    last: dict[int, tuple[NDArray[np.str_], NDArray[np.int64]]] = {}
    places: list[tuple[int, int, NDArray[np.int64], Run]] = []
    for r, row in enumerate(rows):
        for run in row.done:
            assert run.users is not None
            ids = run.users.ids
            # With one seed, all models have the same users, usually in the same order.
            if run.seed not in last or not np.array_equal(last[run.seed][0], ids):
                last[run.seed] = ids, np.array([known.setdefault(user, len(known)) for user in ids.tolist()], np.int64)
            places.append((r, list(seeds).index(run.seed), last[run.seed][1], run))
    for metric in metrics:
        cube = np.full((len(rows), len(seeds), len(known)), np.nan)
        for r, s, columns, run in places:
            assert run.users is not None
            lengths = metric == "history_length"
            cube[r, s, columns] = run.users.history_length if lengths else run.users.metrics[metric]
        yield metric, cube


def add_tests(table: Table, rows: list[Row]) -> None:
    """Add the tests to a table, from its rows that are done."""
    labels = [row.label for row in rows]
    reference = table.reference
    pairs = [(a, b) for i, a in enumerate(labels) for b in labels[i + 1 :]]
    table.compared = len(pairs) * len(table.tested)
    table.untested = _why_not(table, rows)
    if table.untested:
        table.compared = 0
        return
    # Enough for the smallest corrected p to be a tenth of alpha, unless alpha is tiny.
    table.samples = max(10_000, min(1_000_000, int(10 * table.compared / table.alpha)))
    all_pairs: dict[tuple[str, str, str], Test] = {}
    for metric, cube in cubes(rows, table.seeds, table.tested):
        if len(rows) > 1 and higher_is_better(metric):
            for label, *rank in zip(labels, *statistics.ranks(cube), strict=True):
                table.ranks[label, metric] = int(rank[0]), int(rank[1]), int(rank[2])
        against_best = [(a, table.best[metric][0]) for a in labels if a != table.best[metric][0]]
        against_reference = [(a, reference) for a in labels if reference is not None and a != reference]
        wanted = dict.fromkeys([*pairs, *against_reference, *against_best])
        found = _pairs(metric, list(wanted), dict(zip(labels, cube, strict=True)), table.samples)
        table.against_best.update({(a, metric): found[a, b] for a, b in against_best if (a, b) in found})
        table.against_reference.update({(a, metric): found[a, b] for a, b in against_reference if (a, b) in found})
        all_pairs.update({(*each, metric): found[each] for each in pairs if each in found})
    table.against_reference = _corrected(table.against_reference)
    # The best row was chosen on the same users, so only a correction over all pairs holds its level.
    all_pairs = _corrected(all_pairs)
    table.pairs = {(a, b): test for (a, b, metric), test in all_pairs.items() if metric == table.primary}
    for (label, metric), test in table.against_best.items():
        pair = all_pairs.get((label, test.against, metric)) or all_pairs[test.against, label, metric]
        test.holm, test.holm_wilcoxon = pair.holm, pair.holm_wilcoxon


def _why_not(table: Table, rows: Sequence[Row]) -> str:
    """Say why a test of a table would mean nothing, if so.

    Users without a history get the same list from a model. If they are most, the means tell how good these few lists are, and
    users are no sample of anything: their hits depend on each other. And if all flips of the signs of ``n`` users are too few for
    ``2 / 2^n`` to stay below alpha after Holm's correction, no row could ever differ from another.
    """
    people = [run.users for row in rows for run in row.done if run.users is not None]
    new, total = max(
        ((int((users.history_length == 0).sum()), len(users.ids)) for users in people),
        key=lambda pair: pair[0] / max(1, pair[1]),
        default=(0, 0),
    )
    if 2 * new > total:
        return (
            f"Nothing was tested: {new:,} of {total:,} test users have no training history, so that a model ranks the same "
            "items for all of them."
        )
    number = len({user for users in people for user in users.ids.tolist()})
    least = 2.0 ** (1 - number)
    if table.compared and least * table.compared > table.alpha:
        return (
            f"Nothing was tested: {number} test users are too few, for the least p-value that they allow is {least:.2g}, and "
            f"{min(1.0, least * table.compared):.2g} after Holm's correction over {table.compared} tests."
        )
    return ""


def _corrected(family: dict[Key, Test]) -> dict[Key, Test]:
    """Return copies of the tests with Holm's correction over this family; a test may belong to several families."""
    tests = [Test(**vars(test)) for test in family.values()]
    corrected = holm([test.p for test in tests])
    wilcoxon = holm([test.p_wilcoxon for test in tests])
    for test, p, other in zip(tests, corrected, wilcoxon, strict=True):
        test.holm, test.holm_wilcoxon = float(p), float(other)
    return dict(zip(family, tests, strict=True))


def _pairs(
    metric: str, pairs: Sequence[tuple[str, str]], values: dict[str, Floats], samples: int
) -> dict[tuple[str, str], Test]:
    """Test pairs of rows, those with the same users together. A pair without common users is left out."""
    groups: dict[bytes, list[tuple[tuple[str, str], Floats, Floats]]] = {}
    for a, b in pairs:
        difference, other = statistics.pair(values[a], values[b])
        there = ~np.isnan(difference)
        if there.any():
            groups.setdefault(there.tobytes(), []).append(((a, b), difference[there], other[there]))
    found = {}
    for group in groups.values():
        differences = np.stack([each[1] for each in group], axis=1)
        p = statistics.randomisation_test(differences, samples)
        wilcoxon = statistics.wilcoxon(differences)
        sizes = statistics.effects(differences, np.stack([each[2] for each in group], axis=1))
        for i, ((a, b), difference, _) in enumerate(group):
            found[a, b] = Test(
                label=a,
                against=b,
                metric=metric,
                users=len(difference),
                difference=_triple(sizes.difference[:, i]),
                relative=_triple(sizes.relative[:, i]),
                standardised=_triple(sizes.standardised[:, i]),
                p=float(p[i]),
                p_wilcoxon=float(wilcoxon[i]),
            )
    return found


def _triple(values: Floats) -> tuple[float, float, float]:
    value, low, high = map(float, values)
    return value, low, high
