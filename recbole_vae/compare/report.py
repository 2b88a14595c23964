"""The report of a comparison: one HTML page that needs nothing else, with tables, charts, and how to reproduce each row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import yaml

from recbole_vae.compare import charts
from recbole_vae.compare.analysis import Row, Table, Test
from recbole_vae.compare.cells import Cell, Part, facts, number, of_costs, parts, progress, remarks, settings, title
from recbole_vae.compare.charts import Chart, Style, Styles
from recbole_vae.compare.checklist import answers
from recbole_vae.compare.provenance import command, versions
from recbole_vae.compare.results import Comparison, Run
from recbole_vae.templates import Page, render

CHECKLIST = "Reviewer's checklist"


@dataclass
class _Section:
    """A heading with charts below it."""

    anchor: str
    words: str
    intro: str
    charts: list[tuple[str, Chart]]
    legend: Styles


@dataclass
class _Grid:
    """A grid of cells with what is said below it: facts, each with its word, and remarks."""

    anchor: str
    part: Part
    facts: list[tuple[str, str]]
    remarks: list[str]


@dataclass
class _Shown:
    """A table of the comparison as the page shows it: grids, sections of charts, and the checklist with its anchor."""

    anchor: str
    name: str
    finding: str
    grids: list[_Grid] = field(default_factory=list)
    sections: list[_Section] = field(default_factory=list)
    checklist: tuple[str, list[tuple[str, str]]] | None = None


@dataclass
class _Page:
    """What the page has, as it is put together: its headings, for the navigation, and all its charts."""

    styles: Styles
    links: list[tuple[int, str, str]] = field(default_factory=list)
    charts: list[dict[str, Any]] = field(default_factory=list)

    def heading(self, level: int, words: str) -> str:
        """Return the anchor of a heading, which the navigation lists."""
        anchor = f"s{len(self.links) + 1}"
        self.links.append((level, anchor, words))
        return anchor

    def section(self, words: str, intro: str, found: Sequence[Chart], legend: bool = True) -> list[_Section]:
        """Return a section of charts; none where there are no charts."""
        if not found:
            return []
        names = {trace["name"] for chart in found for trace in chart.traces} if legend else set()
        section = _Section(
            self.heading(3, words), words, intro, [], {k: v for k, v in self.styles.items() if k in names}
        )
        for chart in found:
            place = f"c{len(self.charts)}"
            section.charts.append((place, chart))
            self.charts.append(
                {"id": place, "traces": chart.traces, "layout": chart.layout, "labelled": chart.labelled}
            )
        return [section]


def html(tables: Sequence[Table], comparison: Comparison) -> Page:
    """Return the report as one page of HTML, which loads nothing from anywhere.

    Args:
        tables: of the comparison.
        comparison: the same.
    """
    from plotly.offline import get_plotlyjs

    labels = dict.fromkeys(row.label for table in tables for row in table.rows)
    page = _Page({label: Style.of(place) for place, label in enumerate(labels)})
    shown = [_table(page, table, comparison) for table in tables]
    how = {}
    if comparison.runs:
        headings = (
            (2, "How this was made"),
            (3, "Each row by itself"),
            (3, "Settings of the rows"),
            (3, "Versions and devices"),
            (3, "Plan"),
        )
        how = {words: page.heading(level, words) for level, words in headings}
    return render(
        "comparison",
        command=comparison.command,
        links=page.links,
        datasets=", ".join(dict.fromkeys(table.dataset for table in tables)) or "no runs yet",
        rows=len(labels),
        progress=progress(comparison.runs),
        tables=shown,
        how=how,
        protocols=_protocols(comparison),
        comparison=comparison,
        settings=[(table.name, found) for table in tables if (found := settings(table))],
        devices=", ".join(dict.fromkeys(run.device for run in comparison.runs if run.device)) or "not known",
        packages=versions(comparison.runs),
        plan=yaml.safe_dump(_plain(comparison.settings), sort_keys=False, allow_unicode=True, width=100),
        plotly=get_plotlyjs(),
        charts=_plain(page.charts),
        checklist=CHECKLIST,
        shapes=charts.SHAPES,
        strokes=charts.STROKES,
    )


def _plain(value: Any) -> Any:
    """Replace what JSON does not have: NumPy's numbers, and NaN."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def _table(page: _Page, table: Table, comparison: Comparison) -> _Shown:
    shown = _Shown(page.heading(2, table.name), table.name, finding(table))
    costs = of_costs(table)
    for part in parts(table):
        said: list[tuple[str, str]] = []
        if part.title == "Accuracy":
            said, notes = facts(table, comparison), [n for n in remarks(table, comparison) if n not in costs]
        else:
            spread = any(cell.deviation for _, cells in part.rows for cell in cells)
            means = f"Means over the seeds{' ± their standard deviation' if spread else ''}."
            notes = [means if len(table.seeds) > 1 else "One seed.", *(costs if part.title == "Costs" else [])]
        shown.grids.append(_Grid(page.heading(3, part.title), part, said, notes))
    rows = [row for row in table.rows if row.done]
    if rows:
        _sections(page, table, rows, shown)
    shown.checklist = page.heading(3, CHECKLIST), answers(table, comparison)
    return shown


def _sections(page: _Page, table: Table, rows: Sequence[Row], shown: _Shown) -> None:
    more = [*_ranks(table), *_differences(table)]
    shown.grids += [_Grid(page.heading(3, part.title), part, said, []) for part, said in more]
    primary, styles = title(table.primary), page.styles
    bars = " Bars: {}." if len(table.seeds) > 1 else ""
    shown.sections += page.section(
        "Accuracy against costs",
        f"Up and to the left is better.{bars.format(f'standard deviation of {primary} over seeds')}",
        [
            *charts.cost(styles, table, rows, "training_seconds", "training time"),
            *charts.cost(styles, table, rows, "peak_memory", "peak memory"),
        ],
        legend=False,
    )
    shown.sections += page.section(
        "Accuracy over k",
        "The metrics at each length of the list. Click a name to hide it in this section.",
        charts.over_k(styles, rows),
    )
    shown.sections += page.section(
        "Learning curves",
        "The first seed that is done. Losses of different models are not comparable, so each is divided by its first value.",
        charts.curves(styles, table, rows),
    )
    shown.sections += page.section(
        "Who is served, and with what",
        "Accuracy by the length of the users' histories and by the popularity of the items. "
        "Bars: standard error over users.",
        [*charts.by_history(styles, table, rows), *charts.by_popularity(styles, rows)],
    )
    shown.sections += page.section(
        "Coverage and popularity",
        f"Metrics beyond accuracy, mean over seeds.{bars.format('standard deviation over seeds')}",
        charts.beyond(styles, table, rows),
        legend=False,
    )
    shown.sections += page.section(
        "Accuracy against popularity",
        "What rare items cost. A line is one model, trained once, with popularity_correction from 0 (the large mark) to 1. "
        "A single mark is a model without that option. Means over seeds.",
        charts.frontier(styles, table, rows),
    )
    shown.sections += page.section(
        "All pairs",
        f"Difference in {primary}, the row minus the column, in order of rank. * marks a significant difference: paired "
        f"randomisation test over users, Holm's correction over all pairs in all metrics "
        f"({table.compared} tests), alpha = {table.alpha:g}.",
        charts.matrix(table),
        legend=False,
    )
    shown.sections += page.section(
        "Tuning",
        f"{primary} of each trial on the validation part. The line is the best so far.",
        charts.trials(styles, table, rows),
    )


def finding(table: Table) -> str:
    """Say in a sentence who is best, and who might be."""
    order = table.best.get(table.primary, [])
    if not order:
        return "No run is done yet."
    mean, deviation = table.row(order[0]).over_seeds(table.primary) or (0.0, None)
    spread = "" if deviation is None else f" ± {number(deviation, mean)}"
    sentence = f"Best by {title(table.primary)}: {order[0]} ({number(mean)}{spread})."
    if table.untested:
        sentence += f" {table.untested}"
    tested = [label for label in order[1:] if (label, table.primary) in table.against_best]
    ties = [label for label in tested if table.ties_with_best(label, table.primary)]
    if ties:
        sentence += f" Not significantly different from it: {', '.join(ties)}."
    elif tested and tested == order[1:]:
        sentence += " All others differ significantly from it."
    return sentence


def _ranks(table: Table) -> list[tuple[Part, list[tuple[str, str]]]]:
    """Return the rank of each row in each metric with its interval, and what it is; nothing where there are no ranks."""
    metrics = [metric for metric in table.metrics if any(name == metric for _, name in table.ranks)]
    rows = []
    for label in dict.fromkeys(label for label, _ in table.ranks):
        found = [table.ranks[label, metric] for metric in metrics]
        rows.append((label, [Cell(str(rank), value=rank, interval=f"[{low}, {high}]") for rank, low, high in found]))
    words = (
        "95 % interval of the rank, percentile bootstrap over users (2,000 samples). The trained models stay the same."
    )
    return [(Part("Ranks", [title(metric) for metric in metrics], rows), [("In brackets", words)])] if rows else []


def _differences(table: Table) -> list[tuple[Part, list[tuple[str, str]]]]:
    """Return the effect sizes in the primary metric, against the best row and the reference, and facts for each."""
    families: dict[str, list[Test]] = {}
    for family in (table.against_reference, table.against_best):
        for test in family.values():
            if test.metric == table.primary and test not in families.setdefault(test.against, []):
                families[test.against].append(test)
    found = []
    for against, tests in families.items():
        # The best row may be the reference: then both families have the same tests, and they are those of the larger family.
        rows = [(test.label, _effects(test)) for test in {test.label: test for test in tests}.values()]
        corrected = "all pairs of rows" if against == table.best[table.primary][0] else "all rows"
        said = [
            ("Difference", f"in {title(table.primary)}, mean over users."),
            ("d_z", "the mean difference divided by the standard deviation of the differences (Cohen)."),
            ("In brackets", "95 % intervals, percentile bootstrap over users, each by itself."),
            (
                "p",
                "of the randomisation test and of Wilcoxon's signed-rank test, after Holm's correction over "
                f"{corrected} in all metrics.",
            ),
        ]
        headers = ["Difference", "Relative", "d_z", "p", "p (Wilcoxon)"]
        found.append((Part(f"Differences from {against}", headers, rows), said))
    return found


def _effects(test: Test) -> list[Cell]:
    cells = []
    for (value, low, high), form in (
        (test.difference, "{:+.4f}"),
        (test.relative, "{:+.1%}"),
        (test.standardised, "{:+.2f}"),
    ):
        interval = charts.interval(low, high, form) if math.isfinite(low) else ""
        cells.append(Cell(charts.signed(value, form), value=value if math.isfinite(value) else None, interval=interval))
    return cells + [Cell(charts.p_value(p), value=p) for p in (test.holm, test.holm_wilcoxon)]


def _protocols(comparison: Comparison) -> list[tuple[str, list[tuple[str, str]], dict[tuple[int, str], None]]]:
    """Return for each data set and protocol its name, each row with the command for it, and the splits by seed."""
    found: dict[tuple[str, str], dict[str, list[Run]]] = {}
    for run in comparison.runs:
        found.setdefault((run.dataset, run.protocol), {}).setdefault(run.label, []).append(run)
    return [
        (
            ", ".join(name),
            [(label, command(runs[0], comparison)) for label, runs in rows.items()],
            dict.fromkeys((r.seed, r.split_hash[:16]) for runs in rows.values() for r in runs if r.split_hash),
        )
        for name, rows in found.items()
    ]
