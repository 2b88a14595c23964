"""The pages of a board: all plans on one, and one for each plan. The documentation shows the same parts in pages of its own."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from recbole_vae.compare import board_charts, ranks, statistics
from recbole_vae.compare import cells as texts
from recbole_vae.compare.analysis import Row, Table, cubes
from recbole_vae.compare.board import FRONT, Entry
from recbole_vae.compare.board_charts import Point
from recbole_vae.compare.cells import SHORTEST, Cell, Part, count, duration, number, parts, title
from recbole_vae.compare.charts import p_value, signed
from recbole_vae.compare.checklist import answers
from recbole_vae.compare.plan import SAID, Plan
from recbole_vae.compare.provenance import command, versions
from recbole_vae.compare.report import CHECKLIST, finding
from recbole_vae.compare.results import DONE, REFUSED
from recbole_vae.compare.statistics import Floats
from recbole_vae.model.registry import model_names
from recbole_vae.storage.files import write_whole
from recbole_vae.templates import Page, render

EXPLAINED = 0.005
"""A larger difference from a published number needs a note that explains it."""


@dataclass
class Section:
    """A part of a page: a heading with its level and anchor, and what stands below it, in HTML."""

    level: int
    anchor: str
    words: str
    html: Markup


@dataclass
class BoardPage:
    """A page of a board: its file's name without ending, its heading, the sentences below it, and its sections."""

    name: str
    heading: str
    lead: str
    sections: list[Section] = field(default_factory=list)

    def add(self, level: int, words: str, template: str, **values: Any) -> None:
        """Add a section that a template makes."""
        anchor = "-".join(re.findall("[a-z0-9]+", words.lower())) or "part"
        known = {section.anchor for section in self.sections}
        unique = next(
            each for n in range(len(known) + 1) if (each := f"{anchor}-{n + 1}" if n else anchor) not in known
        )
        self.sections.append(Section(level, unique, words, Markup(render(template, **values).strip())))


def pages(entries: Sequence[Entry]) -> list[BoardPage]:
    """Return the pages of a board: the front page, then one for each plan.

    Args:
        entries: analysed.
    """
    return [_front(entries), *map(_plan_page, entries)]


def write(entries: Sequence[Entry], folder: Path) -> None:
    """Write the pages as files that open offline.

    Raises:
        DataError: a file cannot be written.
    """
    for page in pages(entries):
        write_whole(folder / f"{page.name}.html", html(page).encode())


def html(page: BoardPage) -> Page:
    """Return a page by itself, which loads nothing from anywhere."""
    links = [(section.level, section.anchor, section.words) for section in page.sections]
    return render("board", page=page, links=links, front=f"{FRONT}.html")


def text(entries: Sequence[Entry]) -> str:
    """Return what the tables find, for a terminal."""
    found = [f"{table.name}: {finding(table)}" for entry in entries for table in entry.tables]
    return "\n".join(textwrap.fill(each, 100, subsequent_indent="  ") for each in found)


# The front page


def _front(entries: Sequence[Entry]) -> BoardPage:
    tables = [(entry, table) for entry in entries for table in entry.tables]
    sets = len({table.dataset for _, table in tables})
    runs = [run for entry in entries for run in entry.comparison.runs]
    rows = len({run.label for run in runs})
    lead = (
        f"{sets} data set{'s' * (sets != 1)}, {len(tables)} cell{'s' * (len(tables) != 1)} (a data set in a protocol), {rows} "
        f"models; {texts.progress(runs)}."
    )
    page = BoardPage(FRONT, "Board", lead)
    page.add(2, "The best of each cell", "board_cells", cells=[_cell_of_front(*each) for each in tables])
    labels = list(dict.fromkeys(row.label for _, table in tables for row in table.rows))
    values = np.full((len(tables), len(labels)), math.nan)
    for place, (_, table) in enumerate(tables):
        for row in table.rows:
            mean = row.over_seeds(table.primary)
            if mean is not None and len(row.done) == len(row.runs):
                values[place, labels.index(row.label)] = mean[0]
    cells, models = ranks.complete(values)
    chosen, names = [tables[cell][1] for cell in cells], [labels[model] for model in models]
    left_out = [f"the cell {tables[n][1].name}" for n in range(len(tables)) if n not in cells]
    left_out += [labels[n] for n in range(len(labels)) if n not in models]
    page.add(2, "Ranks over all cells", "board_ranks", **_ranks(values[np.ix_(cells, models)], chosen, names, left_out))
    return page


def _cell_of_front(entry: Entry, table: Table) -> dict[str, Any]:
    order = table.best.get(table.primary, [])
    best = table.row(order[0]) if order else None
    mean = best.over_seeds(table.primary) if best else None
    ties = [label for label in order[1:] if table.ties_with_best(label, table.primary)]
    settled = sum(all(run.status in (DONE, REFUSED) for run in row.runs) for row in table.rows)
    return {
        "page": f"{entry.name}.html", "name": table.name, "metric": title(table.primary), "best": order[0] if order else "–",
        "value": Cell("–") if mean is None else _mean(mean),
        "ties": ", ".join(ties) or ("–" if not table.untested else "not tested"), "done": settled, "rows": len(table.rows),
    }  # fmt: skip


def _ranks(values: Floats, tables: Sequence[Table], labels: Sequence[str], left_out: Sequence[str]) -> dict[str, Any]:
    """Return what the template of the ranks shows."""
    shown: dict[str, Any] = {"why_not": "", "left_out": ", ".join(left_out), "cells": [table.name for table in tables]}
    cells, models = values.shape
    if cells < 2 or models < 3:
        shown["why_not"] = (
            "Ranks over cells need at least 3 models that are done in at least 2 cells in common; there are "
            f"{models} models in {cells} cells."
        )
        return shown
    alphas = sorted({table.alpha for table in tables})
    alpha = alphas[0]
    differ = len({table.primary for table in tables}) > 1
    primaries = [f"{title(table.primary)} in {table.name}" for table in tables] if differ else []
    found = ranks.friedman(values, alpha)
    groups = ranks.groups(found.mean_ranks.tolist(), found.critical)
    own = [_own(table.row(label)) for table in tables[:1] for label in labels]
    diagram = board_charts.critical_difference(labels, found.mean_ranks.tolist(), found.critical, groups, own)
    drawn = [_ranks_of(table, labels) for table in tables]
    known = [each for each in drawn if each is not None]
    fixed = ranks.interval(np.mean(known, axis=0)) if len(known) == cells else None
    both = ranks.interval(ranks.over_cells(known)) if len(known) == cells else None
    order = sorted(range(models), key=lambda model: found.mean_ranks[model])
    rows = []
    own_ranks = ranks.ranks(values)
    for model in order:
        cells_of_row = [Cell(f"{found.mean_ranks[model]:.2f}", value=float(found.mean_ranks[model]))]
        for ends in (fixed, both):
            if ends is not None:
                low, high = float(ends[0][model]), float(ends[1][model])
                cells_of_row.append(Cell(f"{low:.2f} – {high:.2f}", value=low))
        cells_of_row += [Cell(f"{rank:g}", value=float(rank)) for rank in own_ranks[:, model]]
        rows.append((labels[model], cells_of_row))
    headers = ["Mean rank", *(["95 %, users", "95 %, users and cells"] if fixed is not None else [])]
    tested = ranks.pairs(values)
    least = 2.0 ** (1 - cells)
    return shown | {
        "diagram": diagram, "part": Part("Ranks", [*headers, *(table.name for table in tables)], rows), "test": found,
        "alpha": alpha, "alphas": alphas, "primaries": primaries, "p": _p(found.p), "p_f": _p(found.p_f), "models": models,
        "f": "" if math.isnan(found.f) else f"{found.f:.2f}", "intervals": fixed is not None,
        "shared": len(tables) > len({table.dataset for table in tables}),
        "differ": [
            (labels[a], labels[b], _p(p), _p(corrected)) for a, b, p, corrected in tested if corrected <= alpha
        ],
        "pairs": len(tested), "too_few": least * len(tested) > alpha, "least": f"{least:.2g}",
        "least_corrected": f"{min(1.0, least * len(tested)):.2g}",
    }  # fmt: skip


def _ranks_of(table: Table, labels: Sequence[str]) -> Floats | None:
    """Return bootstrapped ranks of some rows of a table, shape [samples, rows]; None where users have no values."""
    if table.primary not in table.tested:
        return None
    _, cube = next(iter(cubes([table.row(label) for label in labels], table.seeds, [table.primary])))
    return ranks.ranks(statistics.bootstrap_means(cube, ranks.SAMPLES)[1:])


def _p(value: float) -> str:
    """Write a p-value with its sign."""
    words = p_value(value)
    return words if words.startswith("<") else f"= {words}"


def _own(row: Row) -> bool:
    return row.runs[0].model in model_names()


# The page of a plan


def _rank_cells(table: Table) -> dict[str, Cell]:
    """Return the interval of the rank of each row in the primary metric, by label; empty where there is none."""
    found = {}
    for row in table.rows:
        if (row.label, table.primary) in table.ranks:
            _, low, high = table.ranks[row.label, table.primary]
            found[row.label] = Cell(f"{low}" if low == high else f"{low}–{high}", value=low + high / 1000)
    return found


def _plan_page(entry: Entry) -> BoardPage:
    plan, runs = entry.plan, entry.comparison.runs
    datasets = ", ".join(plan.datasets)
    lead = f"{len(plan.rows)} rows, {texts.progress(runs)}."
    if entry.hidden:
        lead += f" {entry.hidden_words}, and not shown."
    page = BoardPage(entry.name, datasets, lead)
    for table in entry.tables:
        _protocol(page, entry, table)
    page.add(
        2, "Each row by itself", "board_commands", whole=entry.command, file=entry.file.name,
        protocols=[(table.name, _commands(entry, table), _splits(table)) for table in entry.tables],
        settings=[(table.name, found) for table in entry.tables if (found := texts.settings(table))],
        devices=", ".join(dict.fromkeys(run.device for run in runs if run.device)) or "not known",
        versions=versions(runs), tuned=plan.tuned,
    )  # fmt: skip
    return page


def _commands(entry: Entry, table: Table) -> list[tuple[str, str]]:
    return [(row.label, command((row.done or row.runs)[0], entry.comparison)) for row in table.rows]


def _splits(table: Table) -> dict[tuple[int, str], None]:
    found = sorted((run.seed, run.split_hash[:16]) for row in table.rows for run in row.done if run.split_hash)
    return dict.fromkeys(found)


def _protocol(page: BoardPage, entry: Entry, table: Table) -> None:
    plan, drawn = entry.plan, _rank_cells(table)
    name = table.protocol if len(plan.datasets) == 1 else table.name
    page.add(2, name, "board_text", paragraphs=[finding(table)])
    of_costs = texts.of_costs(table)
    order = {label: place for place, label in enumerate(table.best.get(table.primary, []))}
    for part in parts(table):
        part.rows.sort(key=lambda row: order.get(row[0], len(order)))
        said: list[tuple[str, str]] = []
        if part.kind == "":
            part = _with_groups(part, table, drawn)
            said = texts.facts(table, entry.comparison)
            if "Groups" in part.headers:
                said.append(("Groups", _GROUPS.format(metric=title(table.primary), alpha=table.alpha)))
            if drawn:
                said.append(("Rank", f"95 % interval of the rank in {title(table.primary)}, bootstrap over users."))
            notes = [note for note in texts.remarks(table, entry.comparison) if note not in of_costs]
        else:
            notes = of_costs if part.title == "Costs" else []
        page.add(3, part.title, "board_table", part=part, facts=said, remarks=notes)
    charts = [
        _cost_chart(table, "training_seconds", "Training time", duration, SHORTEST),
        _cost_chart(table, "peak_memory", "Peak memory", lambda value: count(value, "B"), 0.0),
    ]
    if any(charts):
        page.add(3, "Accuracy against cost", "board_costs", charts=[chart for chart in charts if chart])
    published = _published(plan, table)
    if published:
        page.add(3, "Published numbers", "board_published", rows=published, limit=EXPLAINED)
    page.add(3, CHECKLIST, "board_checklist", answers=answers(table, entry.comparison))


_GROUPS = (
    "rows that share a letter do not differ significantly in {metric}: all pairs of rows, with the correction of the tests, "
    "alpha = {alpha:g}."
)


def _with_groups(part: Part, table: Table, drawn: dict[str, Cell]) -> Part:
    """Add columns with the groups of significance and the intervals of the ranks."""
    order = [label for label in table.best.get(table.primary, []) if table.row(label).done]
    headers, columns = list(part.headers), []
    if table.pairs:
        differ = {frozenset(pair) for pair, test in table.pairs.items() if test.holm <= table.alpha}
        of_rows = ranks.letters(order, differ)
        places = {label: float(place) for place, label in enumerate(order)}
        columns.append({label: Cell(words, value=places[label]) for label, words in of_rows.items()})
        headers.append("Groups")
    if drawn:
        columns.append(drawn)
        headers.append("Rank")
    nothing = Cell("–")
    rows = [
        (
            label,
            [
                *cells,
                *([nothing] * (len(part.headers) - len(cells))),
                *(column.get(label, nothing) for column in columns),
            ],
        )
        for label, cells in part.rows
    ]
    return Part(part.title, headers, rows, part.kind)


def _cost_chart(
    table: Table, attribute: str, words: str, tick: Callable[[float], str], least: float
) -> tuple[str, Markup] | None:
    """Return a chart and its heading; None where nothing is known."""
    points = []
    for row in table.rows:
        cost, mean = row.mean(attribute), row.over_seeds(table.primary)
        if cost and mean is not None:
            said = f"{title(table.primary)} {number(mean[0])}, {words.lower()} {tick(cost)}"
            points.append(Point(row.label, max(cost, least), mean[0], _own(row), said))
    if not points:
        return None
    metric = title(table.primary)
    return f"{metric} against {words.lower()}", board_charts.scatter(points, words, metric, tick)


def _published(plan: Plan, table: Table) -> list[dict[str, Any]]:
    """Return a line for each published number in the protocol of a table."""
    found = []
    rows = {row.label: row for row in table.rows}
    for label, said in plan.published.get(table.protocol, {}).items():
        for name, value in ((name, value) for name, value in said.items() if name not in SAID):
            mean = rows[label].over_seeds(name.lower()) if label in rows else None
            line: dict[str, Any] = {
                "label": label, "metric": title(name.lower()), "published": Cell(number(value), value=float(value)),
                "source": said["source"], "note": said.get("note", ""), "unexplained": False,
            }  # fmt: skip
            if mean is None:
                here = rows[label].runs[0].status if label in rows else "no such row"
                found.append(line | {"here": Cell(here), "difference": Cell("–")})
                continue
            difference = mean[0] - value
            line["here"] = _mean(mean)
            line["difference"] = Cell(signed(difference, "{:+.4f}"), value=difference)
            line["unexplained"] = abs(difference) > EXPLAINED and not line["note"]
            found.append(line)
    return found


def _mean(mean: tuple[float, float | None]) -> Cell:
    """Return a mean and its deviation over seeds as a cell."""
    return Cell(number(mean[0]), "" if mean[1] is None else number(mean[1], mean[0]), mean[0])
