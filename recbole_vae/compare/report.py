"""The report of a comparison: one HTML page that needs nothing else, with tables, charts, and what makes each row again."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from typing import Any

import numpy as np

from recbole_vae.compare.analysis import Row, Table, Test, base, cubes
from recbole_vae.compare.results import DONE, Comparison, Run
from recbole_vae.compare.tables import (
    Cell,
    caption,
    command,
    count,
    duration,
    number,
    parts,
    remarks,
    title,
    versions,
)

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "var(--ink)"]
"""Okabe and Ito (2008), which colour-blind people can tell apart, without the yellow that white swallows."""

_SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "x", "triangle-down"]
_DASHES = ["solid", "dash", "dot", "dashdot"]
_SHAPES = {
    "circle": "M11 6a4 4 0 1 0 8 0a4 4 0 1 0 -8 0",
    "square": "M11.5 2.5h7v7h-7z",
    "diamond": "M15 1l5 5-5 5-5-5z",
    "triangle-up": "M15 1.5l4.5 8h-9z",
    "cross": "M13.5 1.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z",
    "x": "M12 1.5l3 3 3-3 1.5 1.5-3 3 3 3-1.5 1.5-3-3-3 3-1.5-1.5 3-3-3-3z",
    "triangle-down": "M15 10.5l4.5-8h-9z",
}
_STROKES = {"solid": "", "dash": "7 4", "dot": "2 3", "dashdot": "7 3 2 3"}
_CURVES = {
    "loss": "Training loss",
    "reconstruction": "Reconstruction loss",
    "kl": "KL divergence",
    "beta": "Weight of the KL term (beta)",
}
_FRONTIER = ("itemcoverage", "tailrecall", "averagepopularity")
_BINS = 5
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
"""What the browser may load: nothing that is not in the file."""


@dataclass
class _Style:
    """How a row of the table looks in all charts."""

    colour: str
    symbol: str
    dash: str

    @classmethod
    def of(cls, place: int) -> _Style:
        turn = place // len(COLOURS)
        symbol = _SYMBOLS[(place + turn) % len(_SYMBOLS)]
        return cls(COLOURS[place % len(COLOURS)], symbol, _DASHES[turn % len(_DASHES)])

    @property
    def marker(self) -> dict[str, Any]:
        return {"color": self.colour, "symbol": self.symbol, "size": 8}

    @property
    def line(self) -> dict[str, Any]:
        return {"color": self.colour, "dash": self.dash, "width": 2}


@dataclass
class _Chart:
    """A chart of plotly as plain values; colours may be ``var(--name)`` of the style sheet."""

    heading: str
    traces: list[dict[str, Any]]
    layout: dict[str, Any]
    note: str = ""
    labelled: bool = False
    wide: bool = False


@dataclass
class _Page:
    """The page while it is written."""

    styles: dict[str, _Style]
    body: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    charts: list[dict[str, Any]] = field(default_factory=list)
    anchors: int = 0

    def heading(self, level: int, words: str) -> None:
        """Write a heading, which the navigation lists."""
        self.anchors += 1
        self.body.append(f'<h{level} id="s{self.anchors}">{escape(words)}</h{level}>')
        top = ' class="top"' if level == 2 else ""
        self.links.append(f'<a{top} href="#s{self.anchors}">{escape(words)}</a>')

    def section(self, words: str, intro: str, charts: Sequence[_Chart], legend: bool = True) -> None:
        """Write a section of charts; nothing where there are none."""
        if not charts:
            return
        self.body.append("<section>")
        self.heading(3, words)
        self.body.append(f"<p>{escape(intro)}</p>")
        if legend:
            names = {trace["name"] for chart in charts for trace in chart.traces}
            self.body.append(_legend({label: style for label, style in self.styles.items() if label in names}))
        self.body.append('<div class="charts">')
        for chart in charts:
            place = f"c{len(self.charts)}"
            note = f" <span>{escape(chart.note)}</span>" if chart.note else ""
            self.body.append(
                f"<figure{' class=wide' if chart.wide else ''}><figcaption>{escape(chart.heading)}{note}</figcaption>"
                f'<div class="pan"><div id="{place}" class="chart"'
                f"{' style=min-width:' + str(chart.layout['width_least']) + 'px' if 'width_least' in chart.layout else ''}"
                "></div></div></figure>"
            )
            self.charts.append(
                {"id": place, "traces": chart.traces, "layout": chart.layout, "labelled": chart.labelled}
            )
        self.body.append("</div></section>")


def html(tables: Sequence[Table], comparison: Comparison) -> str:
    """Return the report as one page of HTML, which loads nothing from anywhere.

    Args:
        tables: of the comparison.
        comparison: the same.
    """
    from plotly.offline import get_plotlyjs

    labels = dict.fromkeys(row.label for table in tables for row in table.rows)
    page = _Page({label: _Style.of(place) for place, label in enumerate(labels)})
    for table in tables:
        _table(page, table, comparison)
    _settings(page, comparison)
    here = resources.files("recbole_vae.compare")
    datasets = ", ".join(dict.fromkeys(table.dataset for table in tables)) or "no runs yet"
    # Else a label could end the script.
    charts = json.dumps(_plain(page.charts)).replace("<", "\\u003c")
    done = sum(run.status == DONE for run in comparison.runs)
    return f"""<!DOCTYPE html>
<html lang="en" data-theme="light">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>Comparison: {escape(datasets)}</title>
<link rel="icon" href="data:,">
<style>
{here.joinpath("report.css").read_text(encoding="utf-8")}</style>
<script>{get_plotlyjs()}</script>
</head>
<body>
<div class="layout">
<nav aria-label="Contents"><div>{"".join(page.links)}<button id="theme" type="button">Dark colours</button></div></nav>
<main>
<h1>Comparison on {escape(datasets)}</h1>
<p class="quiet">{len(labels)} rows, {done} of {len(comparison.runs)} runs done.
Made by <code>{escape(comparison.command)}</code></p>
{"".join(page.body)}
</main>
</div>
<script type="application/json" id="charts">{charts}</script>
<script>
{here.joinpath("report.js").read_text(encoding="utf-8")}</script>
</body>
</html>
"""


def _plain(value: Any) -> Any:
    """Replace what JSON does not have: NumPy's numbers, and NaN."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def _legend(styles: dict[str, _Style]) -> str:
    buttons = []
    for label, style in styles.items():
        name = escape(label)
        buttons.append(
            f'<button type="button" aria-pressed="true" data-label="{name}"><svg viewBox="0 0 30 12" aria-hidden="true">'
            f'<path d="M0 6H30" style="stroke:{style.colour}" stroke-width="2" stroke-dasharray="{_STROKES[style.dash]}"/>'
            f'<path d="{_SHAPES[style.symbol]}" style="fill:{style.colour}"/></svg>{name}</button>'
        )
    return f'<div class="legend">{"".join(buttons)}</div>'


def _table(page: _Page, table: Table, comparison: Comparison) -> None:
    page.heading(2, table.name)
    rows = [row for row in table.rows if row.done]
    page.body += [f"<p>{escape(sentence)}</p>" for sentence in _finding(table)]
    for part in parts(table):
        page.heading(3, part.title)
        head = "".join(
            f'<th scope="col"><button type="button">{escape(each)}</button></th>' for each in ["", *part.headers]
        )
        head = head.replace('<button type="button"></button>', '<button type="button" aria-label="Row">Row</button>', 1)
        lines = "".join(
            f'<tr><th scope="row" data-value="{escape(label)}">{escape(label)}</th>{"".join(map(_cell, cells))}</tr>'
            for label, cells in part.rows
        )
        page.body.append(
            f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'
        )
        if part.title == "Accuracy":
            page.body.append(f'<p class="quiet">{escape(" ".join(caption(table, comparison)))}</p>')
            found = "".join(f"<li>{escape(each)}</li>" for each in remarks(table, comparison))
            page.body.append(f'<ul class="remarks">{found}</ul>' if found else "")
        else:
            page.body.append('<p class="quiet">Means over the seeds ± their standard deviation.</p>')
    if not rows:
        return
    _differences(page, table)
    primary = title(table.primary)
    page.section(
        "Accuracy against costs",
        f"Up and to the left is better. Bars: standard deviation of {primary} over seeds.",
        [
            *_cost(page, table, rows, "training_seconds", "training time"),
            *_cost(page, table, rows, "peak_memory", "peak memory"),
        ],
        legend=False,
    )
    page.section(
        "Accuracy over k",
        "The metrics at each length of the list. Click a name to hide it in this section.",
        _over_k(page, rows),
    )
    page.section(
        "Learning curves",
        "Of the first seed that is done. Losses of different models are not comparable with each other.",
        _curves(page, table, rows),
    )
    page.section(
        "Who is served, and with what",
        "Accuracy by the length of the users' histories and by the popularity of the items. Bars: standard error over users.",
        [*_by_history(page, table, rows), *_by_popularity(page, rows)],
    )
    page.section(
        "Coverage and popularity",
        "Beyond accuracy, mean over seeds; bars: standard deviation over seeds.",
        _beyond(page, table, rows),
        legend=False,
    )
    page.section(
        "Accuracy against popularity",
        "What rare items cost. A line: one model, trained once, whose scores are corrected by popularity_correction from 0 (the "
        "large mark) to 1; a mark alone: a model without that option. Means over seeds.",
        _frontier(page, table, rows),
    )
    page.section(
        "All pairs",
        f"Difference in {primary}, the row minus the column, in order of rank. * differs significantly: paired "
        f"randomisation test over users, Holm's correction over all pairs in all metrics "
        f"({table.compared} tests), alpha = {table.alpha:g}.",
        _matrix(table),
        legend=False,
    )
    page.section(
        "Tuning",
        f"{primary} on the validation part for each trial; lines: the best so far.",
        _trials(page, table, rows),
    )


def _finding(table: Table) -> list[str]:
    """Say in a sentence who is best, and who might be."""
    order = table.best.get(table.primary, [])
    if not order:
        return ["No run is done yet."]
    mean, deviation = table.row(order[0]).over_seeds(table.primary) or (0.0, None)
    spread = "" if deviation is None else f" ± {number(deviation, mean)}"
    sentence = f"Best by {title(table.primary)}: {order[0]} ({number(mean)}{spread})."
    tested = [label for label in order[1:] if (label, table.primary) in table.against_best]
    ties = [label for label in tested if table.ties_with_best(label, table.primary)]
    if ties:
        sentence += f" Not significantly different from it: {', '.join(ties)}."
    elif tested and tested == order[1:]:
        sentence += " All others differ significantly from it."
    return [sentence]


def _cell(cell: Cell) -> str:
    tag = {1: "b", 2: "u"}.get(cell.rank)
    words = f"<{tag}>{escape(cell.text)}</{tag}>" if tag else escape(cell.text)
    deviation = f" <small>± {cell.deviation}</small>" if cell.deviation else ""
    value = "" if cell.value is None else f' data-value="{cell.value!r}"'
    return f"<td{value}>{words}{deviation}<sup>{cell.marks}</sup></td>"


def _differences(page: _Page, table: Table) -> None:
    """Write the effect sizes in the primary metric, against the best row and the reference."""
    families: dict[str, list[Test]] = {}
    for family in (table.against_reference, table.against_best):
        for test in family.values():
            if test.metric == table.primary and test not in families.setdefault(test.against, []):
                families[test.against].append(test)
    for against, tests in families.items():
        # The best row may be the reference: then both families have the same tests.
        tests = list({test.label: test for test in tests}.values())
        page.heading(3, f"Differences from {against}")
        # Where the reference is the best row, its tests are those of the larger family.
        best = against == table.best[table.primary][0]
        corrected = "all pairs of rows in all metrics" if best else "all rows in all metrics"
        heads = ["", "Difference", "Relative", "d_z", "p", "Wilcoxon"]
        lines = []
        for test in tests:
            name = escape(test.label)
            values = _effect(test.difference, "{:+.4f}") + _effect(test.relative, "{:+.1%}")
            values += _effect(test.standardised, "{:+.2f}")
            values += "".join(_cell(Cell(_p(p), value=p)) for p in (test.holm, test.holm_wilcoxon))
            lines.append(f'<tr><th scope="row" data-value="{name}">{name}</th>{values}</tr>')
        head = "".join(f'<th scope="col"><button type="button">{each or "Row"}</button></th>' for each in heads)
        page.body.append(
            f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
            f'<p class="quiet">In {escape(title(table.primary))}, over users. d_z: mean difference divided by the standard '
            "deviation of the differences (Cohen). In brackets: 95 % intervals, percentile bootstrap over users, each by "
            "itself. p: of the randomisation test and of Wilcoxon's signed-rank test, after Holm's correction over "
            f"{corrected}.</p>"
        )


def _bar(deviation: float | None, colour: str) -> dict[str, Any]:
    return {"type": "data", "array": [deviation or 0.0], "color": colour, "thickness": 1.2, "width": 3}


def _signed(value: float, form: str) -> str:
    return form.format(value).replace("-", "−") if math.isfinite(value) else "–"


def _interval(low: float, high: float, form: str) -> str:
    return f"[{_signed(low, form)}, {_signed(high, form)}]"


def _effect(effect: tuple[float, float, float], form: str) -> str:
    value, low, high = effect
    interval = f" <small>{_interval(low, high, form)}</small>" if math.isfinite(low) else ""
    key = f' data-value="{value!r}"' if math.isfinite(value) else ""
    return f"<td{key}>{_signed(value, form)}{interval}</td>"


def _p(value: float) -> str:
    return f"{value:.4f}" if value >= 0.0001 else "< 0.0001"


def _range(values: Sequence[float]) -> dict[str, Any]:
    """Return an axis; logarithmic, with few ticks, where the values span more than a decade and a half."""
    positive = [value for value in values if value > 0]
    if len(positive) == len(values) and max(positive) > 30 * min(positive):
        return {"type": "log", "dtick": 1, "tickformat": "~g"}
    return {}


def _cost(page: _Page, table: Table, rows: Sequence[Row], attribute: str, words: str) -> list[_Chart]:
    unit = 1e9 if attribute == "peak_memory" else 1.0
    traces: list[dict[str, Any]] = []
    for row in rows:
        cost, accuracy, name = row.mean(attribute), row.over_seeds(table.primary), escape(row.label)
        if not cost or accuracy is None:
            continue
        mean, deviation = accuracy
        spread = "" if deviation is None else f" ± {number(deviation, mean)}"
        shown = duration(cost) if unit == 1 else count(cost, "B")
        style = page.styles[row.label]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": row.label,
                "meta": name,
                "x": [cost / unit],
                "y": [mean],
                "marker": {**style.marker, "size": 10},
                "error_y": _bar(deviation, style.colour),
                "hoverinfo": "text",
                "hovertext": f"<b>{name}</b><br>{escape(title(table.primary))} {number(mean)}{spread}<br>{words}: {shown}",
            }
        )
    if not traces:
        return []
    scale = _range([trace["x"][0] for trace in traces])
    label = f"{words.capitalize()} ({'s' if unit == 1 else 'GB'}{', logarithmic' if scale else ''})"
    xaxis: dict[str, Any] = {"title": label, **scale}
    values = [trace["x"][0] for trace in traces]
    if not scale:
        xaxis |= {"range": [0, max(values) * 1.08]}
    layout = {"xaxis": xaxis, "yaxis": {"title": title(table.primary)}, "height": 400}
    return [_Chart(f"{title(table.primary)} against {words}", traces, layout, labelled=True)]


def _line(
    page: _Page,
    label: str,
    x: Sequence[Any],
    y: Sequence[float],
    hover: Sequence[str],
    errors: Sequence[float] | None = None,
) -> dict[str, Any]:
    style = page.styles[label]
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": label,
        "x": list(x),
        "y": list(y),
        "line": style.line,
        "marker": {**style.marker, "size": 7, "maxdisplayed": 8},
        "hoverinfo": "text",
        "hovertext": [f"<b>{escape(label)}</b><br>{each}" for each in hover],
    }
    if errors is not None:
        trace["error_y"] = {"type": "data", "array": list(errors), "color": style.colour, "thickness": 1, "width": 2}
    return trace


def _over_k(page: _Page, rows: Sequence[Row]) -> list[_Chart]:
    charts = []
    for metric in dict.fromkeys(name for row in rows for run in row.done for name in run.over_k):
        traces = []
        for row in rows:
            curves = [run.over_k[metric] for run in row.done if run.over_k.get(metric)]
            if curves:
                values = np.mean([curve[: min(map(len, curves))] for curve in curves], axis=0)
                ks = range(1, len(values) + 1)
                hover = [f"{escape(title(metric))}@{k}: {number(v)}" for k, v in zip(ks, values, strict=True)]
                traces.append(_line(page, row.label, ks, values, hover))
        layout = {
            "xaxis": {"title": "k"},
            "yaxis": {"title": f"{title(metric)}@k", "rangemode": "tozero"},
            "height": 380,
        }
        charts.append(_Chart(f"{title(metric)} over k", traces, layout))
    return [chart for chart in charts if chart.traces]


def _curves(page: _Page, table: Table, rows: Sequence[Row]) -> list[_Chart]:
    runs = {row.label: next((run for run in row.done if run.curve), None) for row in rows}
    measured = dict.fromkeys(name for run in runs.values() if run is not None for point in run.curve for name in point)
    metric = table.primary if table.primary in measured else next((name for name in measured if "@" in name), None)
    headings = {} if metric is None else {metric: f"{title(metric)} on the validation part"}
    headings |= {name: words for name, words in _CURVES.items() if name in measured}
    charts = []
    for name, words in headings.items():
        traces = []
        for label, run in runs.items():
            points = [] if run is None else [(p["epoch"], p[name]) for p in run.curve if p.get(name) is not None]
            if points:
                epochs, values = zip(*points, strict=True)
                hover = [f"epoch {epoch:g}: {value:.5g}" for epoch, value in points]
                traces.append(_line(page, label, epochs, values, hover))
        scale = _range([y for trace in traces for y in trace["y"]]) if name in ("loss", "reconstruction") else {}
        note = "logarithmic" if scale else ""
        layout = {"xaxis": {"title": "epoch"}, "yaxis": {"title": "", **scale}}
        charts.append(_Chart(words, traces, layout, note, wide=name == metric))
    return [chart for chart in charts if chart.traces]


def _by_history(page: _Page, table: Table, rows: Sequence[Row]) -> list[_Chart]:
    if table.primary not in table.tested:
        return []
    found = dict(cubes(rows, table.seeds, ["history_length", table.primary]))
    there = ~np.isnan(found["history_length"])
    lengths = np.where(there, found["history_length"], 0).sum((0, 1)) / there.sum((0, 1))
    # As many users in each bin as ties allow.
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, _BINS + 1)))
    bins = np.clip(np.searchsorted(edges, lengths, side="left") - 1, 0, max(len(edges) - 2, 0))
    names = []
    for place in range(bins.max() + 1):
        inside = lengths[bins == place]
        low, high = (f"{each:.4g}" for each in (inside.min(), inside.max()))
        names.append(low if low == high else f"{low}–{high}")
    traces = []
    for row, values in zip(rows, found[table.primary], strict=True):
        seen = ~np.isnan(values)
        users = np.where(seen, values, 0).sum(0) / np.maximum(seen.sum(0), 1)
        means, errors, hover = [], [], []
        for place, name in enumerate(names):
            inside = users[(bins == place) & seen.any(0)]
            mean = float(inside.mean()) if len(inside) else math.nan
            error = float(inside.std(ddof=1) / len(inside) ** 0.5) if len(inside) > 1 else 0.0
            means.append(mean)
            errors.append(error)
            hover.append(f"histories of {name} items ({len(inside):,} users)<br>{number(mean)} ± {number(error, mean)}")
        traces.append(_line(page, row.label, names, means, hover, errors))
    layout = {
        "xaxis": {"title": "items in the history", "type": "category"},
        "yaxis": {"title": title(table.primary)},
        "height": 400,
    }
    return [_Chart(f"{title(table.primary)} by length of history", traces, layout)]


def _by_popularity(page: _Page, rows: Sequence[Row]) -> list[_Chart]:
    traces = []
    for row in rows:
        runs = [run.by_popularity for run in row.done if run.by_popularity]
        if not runs:
            continue
        bins = list(zip(*runs, strict=False))
        popularity = [float(np.mean([each["popularity"] for each in same])) for same in bins]
        recall = [float(np.mean([each["recall"] for each in same])) for same in bins]
        items = [float(np.mean([each["items"] for each in same])) for same in bins]
        hover = [
            f"{n:,.0f} items with {p:,.1f} interactions each<br>recall {number(r)}"
            for n, p, r in zip(items, popularity, recall, strict=True)
        ]
        traces.append(_line(page, row.label, popularity, recall, hover))
    if not traces:
        return []
    scale = _range([x for trace in traces for x in trace["x"]])
    words = "mean number of training interactions" + (" (logarithmic)" if scale else "")
    layout = {"xaxis": {"title": words, **scale}, "yaxis": {"title": "recall", "rangemode": "tozero"}, "height": 400}
    return [_Chart("Recall by popularity of the items", traces, layout, "bins of items, from rare to popular")]


def _beyond(page: _Page, table: Table, rows: Sequence[Row]) -> list[_Chart]:
    charts = []
    for metric in [*(m for m in table.metrics if base(m) == "itemcoverage"), *table.beyond]:
        traces: list[dict[str, Any]] = []
        for row in reversed(rows):
            found = row.over_seeds(metric)
            if found is None:
                continue
            mean, deviation = found
            style = page.styles[row.label]
            spread = "" if deviation is None else f" ± {number(deviation, mean)}"
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": row.label,
                    "x": [mean],
                    "y": [escape(row.label)],
                    "marker": {**style.marker, "size": 10},
                    "error_x": _bar(deviation, style.colour),
                    "hoverinfo": "text",
                    "hovertext": f"<b>{escape(row.label)}</b><br>{escape(title(metric))} {number(mean)}{spread}",
                }
            )
        layout = {
            "xaxis": {"title": "", "nticks": 5, "tickangle": 0},
            "yaxis": {"title": "", "type": "category", "ticks": ""},
            "height": 60 + 22 * len(traces),
            "margin": {"l": 48, "r": 14, "t": 6, "b": 28},
        }
        if traces:
            charts.append(_Chart(title(metric), traces, layout))
    return charts


def _frontier(page: _Page, table: Table, rows: Sequence[Row]) -> list[_Chart]:
    """Draw accuracy against what a list has of rare items, along the dial of the models that have one."""
    if not any(run.frontier for row in rows for run in row.done):
        return []
    charts = []
    for metric in (name for name in table.beyond if base(name) in _FRONTIER):
        traces = []
        for row in rows:
            points = [run.frontier or [run.test] for run in row.done]
            points = [[each for each in run if {metric, table.primary} <= each.keys()] for run in points]
            if not points or not all(len(run) == len(points[0]) > 0 for run in points):
                continue
            same = list(zip(*points, strict=True))
            x, y = (
                [float(np.mean([each[name] for each in runs])) for runs in same] for name in (metric, table.primary)
            )
            dial = [runs[0].get("popularity_correction") for runs in same]
            hover = [
                f"{escape(title(table.primary))} {number(b)}<br>{escape(title(metric))} {number(a)}"
                + ("" if value is None else f"<br>popularity_correction {value:g}")
                for a, b, value in zip(x, y, dial, strict=True)
            ]
            trace = _line(page, row.label, x, y, hover)
            marks = {"size": [11] + [7] * (len(x) - 1), "maxdisplayed": 0, "opacity": 1, "line": {"width": 0}}
            trace["marker"] = {**trace["marker"], **marks}
            traces.append(trace)
        scale = _range([x for trace in traces for x in trace["x"]])
        layout = {
            "xaxis": {"title": title(metric) + (" (logarithmic)" if scale else ""), **scale},
            "yaxis": {"title": title(table.primary)},
            "height": 400,
        }
        if traces:
            charts.append(_Chart(f"{title(table.primary)} against {title(metric)}", traces, layout))
    return charts


def _matrix(table: Table) -> list[_Chart]:
    if not table.pairs:
        return []
    order = table.best[table.primary]
    values: list[list[float | None]] = []
    marks: list[list[str]] = []
    hover: list[list[str]] = []
    for a in order:
        values.append([])
        marks.append([])
        hover.append([])
        for b in order:
            test = table.pairs.get((a, b)) or table.pairs.get((b, a))
            if test is None:
                values[-1].append(None)
                marks[-1].append("")
                hover[-1].append("")
                continue
            sign = 1 if test.label == a else -1
            difference = sign * test.difference[0]
            low, high = sorted(sign * each for each in test.difference[1:])
            values[-1].append(difference)
            marks[-1].append(_signed(difference, "{:+.3f}") + "*" * (test.holm <= table.alpha))
            hover[-1].append(
                f"<b>{escape(a)}</b> minus <b>{escape(b)}</b><br>"
                f"{_signed(difference, '{:+.4f}')} {_interval(low, high, '{:+.4f}')}<br>"
                f"d_z {_signed(sign * test.standardised[0], '{:+.2f}')}<br>p {_p(test.p)}, Holm {_p(test.holm)}<br>"
                f"{test.users:,} users"
            )
    names = [escape(label) for label in order]
    largest = max(abs(each) for row in values for each in row if each is not None) or 1.0
    trace = {
        "type": "heatmap",
        "name": "pairs",
        "x": names,
        "y": names,
        "z": values,
        "text": marks,
        "texttemplate": "%{text}",
        "textfont": {"size": 11},
        "hovertext": hover,
        "hoverinfo": "text",
        "colorscale": [[0, "#D55E00"], [0.5, "var(--panel)"], [1, "#0072B2"]],
        "zmin": -largest,
        "zmax": largest,
        "xgap": 1,
        "ygap": 1,
        "hoverongaps": False,
        "colorbar": {"thickness": 10, "outlinewidth": 0, "tickformat": "+.2~f", "nticks": 5},
    }
    layout = {
        "xaxis": {"title": "", "type": "category", "side": "top", "showgrid": False, "tickangle": -40},
        "yaxis": {"title": "", "type": "category", "autorange": "reversed", "showgrid": False},
        "height": 170 + 30 * len(order),
        "margin": {"l": 48, "r": 14, "t": 10, "b": 12},
        "width_least": 260 + 52 * len(order),
    }
    return [_Chart(f"Differences in {title(table.primary)}", [trace], layout, "row minus column", wide=True)]


def _trials(page: _Page, table: Table, rows: Sequence[Row]) -> list[_Chart]:
    traces = []
    for row in rows:
        run = next((run for run in row.done if run.trials), None)
        points = [] if run is None else [(n, t, _valid(t, table.primary)) for n, t in enumerate(run.trials, 1)]
        known = [(n, trial, value) for n, trial, value in points if value is not None]
        if not known:
            continue
        hover = []
        for n, trial, value in known:
            settings = "<br>".join(f"{escape(str(k))} = {escape(str(v))}" for k, v in trial.get("settings", {}).items())
            hover.append(f"trial {n}: {number(value)}<br>{settings}")
        numbers, values = [n for n, *_ in known], [value for *_, value in known]
        best = _line(page, row.label, numbers, list(np.maximum.accumulate(values)), hover)
        trials = _line(page, row.label, numbers, values, hover)
        traces += [
            best | {"mode": "lines", "line": {**best["line"], "shape": "hv"}, "hoverinfo": "skip"},
            trials | {"mode": "markers"},
        ]
        traces[-1]["marker"] = {**page.styles[row.label].marker, "size": 7}
    if not traces:
        return []
    layout = {"xaxis": {"title": "trial", "tickformat": "d"}, "yaxis": {"title": title(table.primary)}, "height": 400}
    return [_Chart(f"{title(table.primary)} of the tuning trials", traces, layout, wide=True)]


def _valid(trial: dict[str, Any], primary: str) -> float | None:
    value = trial.get("valid")
    if isinstance(value, dict):
        value = value.get(primary)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _settings(page: _Page, comparison: Comparison) -> None:
    """Write what makes each row again, and on what it ran."""
    if not comparison.runs:
        return
    page.heading(2, "How this was made")
    page.body.append(f"<p>All of it:</p><pre><code>{escape(comparison.command)}</code></pre>")
    page.heading(3, "Each row by itself")
    rows: dict[tuple[str, str, str], list[Run]] = {}
    for run in comparison.runs:
        rows.setdefault((run.dataset, run.protocol, run.label), []).append(run)
    page.body.append(
        "<p>With the first seed; of the others only <code>--seed</code> differs"
        f"{', and what was tuned' if comparison.trials else ''}.</p>"
    )
    for name in dict.fromkeys((dataset, protocol) for dataset, protocol, _ in rows):
        own = {label: runs for (*place, label), runs in rows.items() if tuple(place) == name}
        page.body.append(
            f"<details><summary>{escape(', '.join(name))} <span class=quiet>({len(own)} rows)</span></summary>"
        )
        for label, runs in own.items():
            page.body.append(f"<p>{escape(label)}</p><pre><code>{escape(command(runs[0], comparison))}</code></pre>")
        splits = dict.fromkeys(
            (run.seed, run.split_hash[:16]) for runs in own.values() for run in runs if run.split_hash
        )
        facts = "".join(f"<li>Seed {seed}: split <code>{escape(split)}</code></li>" for seed, split in splits)
        page.body.append(f"<ul class=remarks>{facts}</ul></details>")
    page.heading(3, "Versions and devices")
    devices = ", ".join(dict.fromkeys(run.device for run in comparison.runs if run.device)) or "not known"
    packages = "".join(
        f"<tr><th>{escape(name)}</th><td class=words>{escape(version)}</td></tr>"
        for name, version in versions(comparison.runs).items()
    )
    page.body.append(f"<p>Devices: {escape(devices)}</p>")
    page.body.append(f'<div class="scroll"><table><tbody>{packages}</tbody></table></div>' if packages else "")
    page.heading(3, "Plan")
    plan = json.dumps(comparison.settings, indent=2, default=str, ensure_ascii=False)
    page.body.append(f"<pre><code>{escape(plan)}</code></pre>")
