"""The charts of a comparison, as plain values for plotly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape  # of plotly's own texts, which know some tags
from typing import Any

import numpy as np

from recbole_vae.compare import groups
from recbole_vae.compare.analysis import Row, Table, base
from recbole_vae.compare.cells import SHORTEST, count, duration, number, title

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "var(--ink)"]
"""Okabe and Ito (2008), which colour-blind people can tell apart, without the yellow, which is invisible on white."""

_SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "x", "triangle-down"]
_DASHES = ["solid", "dash", "dot", "dashdot"]
SHAPES = {
    "circle": "M11 6a4 4 0 1 0 8 0a4 4 0 1 0 -8 0",
    "square": "M11.5 2.5h7v7h-7z",
    "diamond": "M15 1l5 5-5 5-5-5z",
    "triangle-up": "M15 1.5l4.5 8h-9z",
    "cross": "M13.5 1.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z",
    "x": "M12 1.5l3 3 3-3 1.5 1.5-3 3 3 3-1.5 1.5-3-3-3 3-1.5-1.5 3-3-3-3z",
    "triangle-down": "M15 10.5l4.5-8h-9z",
}
STROKES = {"solid": "", "dash": "7 4", "dot": "2 3", "dashdot": "7 3 2 3"}
_CURVES = {
    "loss": "Training loss",
    "reconstruction": "Reconstruction loss",
    "kl": "KL divergence",
    "beta": "Weight of the KL term (beta)",
}
_FRONTIER = ("itemcoverage", "tailrecall", "averagepopularity")


@dataclass
class Style:
    """How a row of the table looks in all charts."""

    colour: str
    symbol: str
    dash: str

    @classmethod
    def of(cls, place: int) -> Style:
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
class Chart:
    """A chart of plotly as plain values; colours may be ``var(--name)`` of the style sheet."""

    heading: str
    traces: list[dict[str, Any]]
    layout: dict[str, Any]
    note: str = ""
    labelled: bool = False
    wide: bool = False


def _bar(deviation: float | None, colour: str) -> dict[str, Any]:
    return {"type": "data", "array": [deviation or 0.0], "color": colour, "thickness": 1.2, "width": 3}


Styles = dict[str, Style]
"""By the label of a row."""


def signed(value: float, form: str) -> str:
    return form.format(value).replace("-", "−") if math.isfinite(value) else "–"


def interval(low: float, high: float, form: str) -> str:
    return f"[{signed(low, form)}, {signed(high, form)}]"


def p_value(value: float) -> str:
    return f"{value:.4f}" if value >= 0.0001 else "< 0.0001"


def _range(values: Sequence[float]) -> dict[str, Any]:
    """Return an axis; logarithmic, with few ticks, where the values span more than a decade and a half."""
    positive = [value for value in values if value > 0]
    if len(positive) == len(values) and max(positive) > 30 * min(positive):
        return {"type": "log", "dtick": 1, "tickformat": "~g"}
    return {}


def cost(styles: Styles, table: Table, rows: Sequence[Row], attribute: str, words: str) -> list[Chart]:
    unit, least = (1e9, 0.0) if attribute == "peak_memory" else (1.0, SHORTEST)
    traces: list[dict[str, Any]] = []
    for row in rows:
        cost, accuracy, name = row.mean(attribute), row.over_seeds(table.primary), escape(row.label)
        if not cost or accuracy is None:
            continue
        mean, deviation = accuracy
        spread = "" if deviation is None else f" ± {number(deviation, mean)}"
        shown = duration(cost) if unit == 1 else count(cost, "B")
        style = styles[row.label]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": row.label,
                "meta": name,
                "x": [max(cost, least) / unit],
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
        # From 0, unless this would crowd the marks at the far end.
        low, high = min(values), max(values)
        room = 0.15 * (high - low) or 0.1 * high
        xaxis |= {"range": [0 if low < 0.4 * high else low - room, high + room]}
    layout = {"xaxis": xaxis, "yaxis": {"title": title(table.primary)}, "height": 400}
    short = any((row.mean(attribute) or least) < least for row in rows)
    note = f"less than {least:g} s is drawn at {least:g} s" if short else ""
    return [Chart(f"{title(table.primary)} against {words}", traces, layout, note, labelled=True)]


def _line(
    styles: Styles,
    label: str,
    x: Sequence[Any],
    y: Sequence[float],
    hover: Sequence[str],
    errors: Sequence[float] | None = None,
) -> dict[str, Any]:
    style = styles[label]
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


def over_k(styles: Styles, rows: Sequence[Row]) -> list[Chart]:
    charts = []
    for metric in dict.fromkeys(name for row in rows for run in row.done for name in run.over_k):
        traces = []
        for row in rows:
            curves = [run.over_k[metric] for run in row.done if run.over_k.get(metric)]
            if curves:
                values = np.mean([curve[: min(map(len, curves))] for curve in curves], axis=0)
                ks = range(1, len(values) + 1)
                hover = [f"{escape(title(metric))}@{k}: {number(v)}" for k, v in zip(ks, values, strict=True)]
                traces.append(_line(styles, row.label, ks, values, hover))
        layout = {
            "xaxis": {"title": "k"},
            "yaxis": {"title": f"{title(metric)}@k", "rangemode": "tozero"},
            "height": 380,
        }
        charts.append(Chart(f"{title(metric)} over k", traces, layout, "; ".join(_hidden(traces))))
    return [chart for chart in charts if chart.traces]


def curves(styles: Styles, table: Table, rows: Sequence[Row]) -> list[Chart]:
    runs = {row.label: next((run for run in row.done if run.curve), None) for row in rows}
    measured = dict.fromkeys(name for run in runs.values() if run is not None for point in run.curve for name in point)
    metric = table.primary if table.primary in measured else next((name for name in measured if "@" in name), None)
    headings = {} if metric is None else {metric: f"{title(metric)} on the validation part"}
    headings |= {name: words for name, words in _CURVES.items() if name in measured}
    charts = []
    for name, words in headings.items():
        traces = []
        same = []
        for label, run in runs.items():
            points = [] if run is None else [(p["epoch"], p[name]) for p in run.curve if p.get(name) is not None]
            if run is not None and name == "reconstruction" and all(p.get(name) == p.get("loss") for p in run.curve):
                same += [label] if points else []
            elif points:
                epochs, values = zip(*points, strict=True)
                hover = [f"epoch {epoch:g}: {value:.5g}" for epoch, value in points]
                traces.append(_line(styles, label, epochs, values, hover))
        notes = [f"{', '.join(same)}: the training loss"] if same else []
        if name in ("loss", "reconstruction") and all(trace["y"][0] > 0 for trace in traces):
            notes.insert(0, "divided by its first value")
            for trace in traces:
                trace["y"] = [value / trace["y"][0] for value in trace["y"]]
        first, last = min((t["x"][0] for t in traces), default=0), max((t["x"][-1] for t in traces), default=0)
        few = {"range": [first - 0.2, last + 0.2], "dtick": 1} if last <= 5 else {}
        layout = {"xaxis": {"title": "epoch", "tickformat": "d", **few}, "yaxis": {"title": ""}}
        charts.append(Chart(words, traces, layout, "; ".join([*notes, *_hidden(traces)]), wide=name == metric))
    return [chart for chart in charts if chart.traces]


def _hidden(traces: Sequence[dict[str, Any]]) -> list[str]:
    """Name the rows whose curves lie on each other, so that one hides the others."""
    same: dict[tuple[Any, ...], list[str]] = {}
    for trace in traces:
        same.setdefault((tuple(trace["x"]), tuple(trace["y"])), []).append(trace["name"])
    return [f"{', '.join(names)}: one curve" for names in same.values() if len(names) > 1]


def by_history(styles: Styles, table: Table, rows: Sequence[Row]) -> list[Chart]:
    if table.primary not in table.tested:
        return []
    traces = []
    found = groups.by_history(rows, table.seeds, [table.primary])
    for row in rows:
        own = [each for each in found if each.label == row.label]
        ends = [(f"{each.low:.4g}", f"{each.high:.4g}") for each in own]
        names = [low if low == high else f"{low}–{high}" for low, high in ends]
        hover = [
            f"histories of {name} items ({each.users:,} users)<br>{number(each.mean)} ± {number(each.error, each.mean)}"
            for name, each in zip(names, own, strict=True)
        ]
        errors = [each.error for each in own]
        traces.append(_line(styles, row.label, names, [each.mean for each in own], hover, errors))
    layout = {
        "xaxis": {"title": "items in the history", "type": "category"},
        "yaxis": {"title": title(table.primary)},
        "height": 400,
    }
    return [Chart(f"{title(table.primary)} by length of history", traces, layout)]


def by_popularity(styles: Styles, rows: Sequence[Row]) -> list[Chart]:
    traces = []
    found = groups.by_popularity(rows)
    for row in rows:
        own = [each for each in found if each.label == row.label]
        if not own:
            continue
        hover = [
            f"{each.items:,.0f} items with {each.popularity:,.1f} interactions each<br>recall {number(each.recall)}"
            for each in own
        ]
        values = [each.popularity for each in own], [each.recall for each in own]
        traces.append(_line(styles, row.label, *values, hover))
    if not traces:
        return []
    scale = _range([x for trace in traces for x in trace["x"]])
    words = "mean number of training interactions" + (" (logarithmic)" if scale else "")
    layout = {"xaxis": {"title": words, **scale}, "yaxis": {"title": "recall", "rangemode": "tozero"}, "height": 400}
    return [Chart("Recall by popularity of the items", traces, layout, "bins of items, from rare to popular")]


def beyond(styles: Styles, table: Table, rows: Sequence[Row]) -> list[Chart]:
    charts = []
    for metric in [*(m for m in table.metrics if base(m) == "itemcoverage"), *table.beyond]:
        traces: list[dict[str, Any]] = []
        for row in reversed(rows):
            found = row.over_seeds(metric)
            if found is None:
                continue
            mean, deviation = found
            style = styles[row.label]
            spread = "" if deviation is None else f" ± {number(deviation, mean)}"
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": row.label,
                    "x": [mean],
                    "y": [row.label],
                    "marker": {**style.marker, "size": 10},
                    "error_x": _bar(deviation, style.colour),
                    "hoverinfo": "text",
                    "hovertext": f"<b>{escape(row.label)}</b><br>{escape(title(metric))} {number(mean)}{spread}",
                }
            )
        layout = {
            "xaxis": {"title": "", "nticks": 5},
            "yaxis": {"title": "", "type": "category", "ticks": "", "names": [trace["name"] for trace in traces]},
            "height": 60 + 22 * len(traces),
        }
        if traces:
            charts.append(Chart(title(metric), traces, layout))
    return charts


def frontier(styles: Styles, table: Table, rows: Sequence[Row]) -> list[Chart]:
    """Draw accuracy against metrics of rare items, along ``popularity_correction`` for the models that have it."""
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
            trace = _line(styles, row.label, x, y, hover)
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
            charts.append(Chart(f"{title(table.primary)} against {title(metric)}", traces, layout))
    return charts


def matrix(table: Table) -> list[Chart]:
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
            marks[-1].append(signed(difference, "{:+.3f}") + "*" * (test.holm <= table.alpha))
            hover[-1].append(
                f"<b>{escape(a)}</b> minus <b>{escape(b)}</b><br>"
                f"{signed(difference, '{:+.4f}')} {interval(low, high, '{:+.4f}')}<br>"
                f"d_z {signed(sign * test.standardised[0], '{:+.2f}')}<br>p {p_value(test.p)}, Holm {p_value(test.holm)}<br>"
                f"{test.users:,} users"
            )
    largest = max(abs(each) for row in values for each in row if each is not None) or 1.0
    trace = {
        "type": "heatmap",
        "name": "pairs",
        "x": order,
        "y": order,
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
        "showscale": False,  # the cells have their numbers
    }
    layout = {
        "xaxis": {"title": "", "type": "category", "side": "top", "showgrid": False, "tickangle": -40, "names": order},
        "yaxis": {"title": "", "type": "category", "autorange": "reversed", "showgrid": False, "names": order},
        "height": 170 + 30 * len(order),
        "width_least": 260 + 52 * len(order),
    }
    return [Chart(f"Differences in {title(table.primary)}", [trace], layout, "row minus column", wide=True)]


def trials(styles: Styles, table: Table, rows: Sequence[Row]) -> list[Chart]:
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
            hover.append(f"trial {n}: {number(value)}<br>{settings or 'defaults'}")
        numbers, values = [n for n, *_ in known], [value for *_, value in known]
        best = _line(styles, row.label, numbers, list(np.maximum.accumulate(values)), hover)
        trials = _line(styles, row.label, numbers, values, hover)
        traces += [
            best | {"mode": "lines", "line": {**best["line"], "shape": "hv"}, "hoverinfo": "skip"},
            trials | {"mode": "markers"},
        ]
        traces[-1]["marker"] = {**styles[row.label].marker, "size": 7}
    if not traces:
        return []
    layout = {"xaxis": {"title": "trial", "tickformat": "d"}, "yaxis": {"title": title(table.primary)}, "height": 400}
    return [Chart(f"{title(table.primary)} of the tuning trials", traces, layout, wide=True)]


def _valid(trial: dict[str, Any], primary: str) -> float | None:
    value = trial.get("valid")
    if isinstance(value, dict):
        value = value.get(primary)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
