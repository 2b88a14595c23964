"""The report in a real browser: every chart is drawn, nothing is requested, nothing is complained about."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from recbole_vae.compare import charts, report
from recbole_vae.compare.analysis import Row
from recbole_vae.compare.analysis import tables as analyse
from recbole_vae.compare.cells import of_costs, parts
from recbole_vae.compare.results import Comparison, Run
from tests.browser import needs_browser, opened

from .synthetic import make_comparison, make_run
from .test_outputs import HOSTILE


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    made = make_comparison(models=8, seeds=2, users=60, trials=3, epochs=4)
    runs = [replace(run, label=HOSTILE, notes=[HOSTILE]) if run.label == "MultDAE" else run for run in made.runs]
    return replace(made, runs=runs, command=f"recbole-vae compare {HOSTILE}")


@pytest.fixture(scope="module")
def page(comparison: Comparison) -> str:
    return report.html(analyse(comparison), comparison)


class Reader(HTMLParser):
    """Collect the tags, and what they would load."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [
            value or "" for name, value in attrs if name in ("src", "srcset") or (name == "href" and tag != "a")
        ]
        if tag not in ("meta", "link", "path", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag != "path":
            assert self.open.pop() == tag


def test_page_is_whole_and_loads_nothing(page: str) -> None:
    reader = Reader()
    reader.feed(page)
    assert not reader.open
    assert reader.loads == ["data:,"]
    # Plotly, the values of the charts, and what draws them.
    assert reader.tags.count("script") == 3
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'unsafe-inline'" in page
    assert page.count("plotly.js v") == 1
    assert "<script>alert" not in page


def test_sections_and_links(page: str) -> None:
    for words in (
        "Accuracy against costs",
        "Accuracy over k",
        "Learning curves",
        "NDCG@10 by length of history",
        "Recall by popularity of the items",
        "Coverage and popularity",
        "All pairs",
        "Tuning",
        "Each row by itself",
        "Versions and devices",
    ):
        assert words in page
    targets = re.findall(r'href="#(s\d+)"', page)
    assert targets
    assert all(f'id="{target}"' in page for target in targets)


def test_the_frontier_has_a_line_for_those_with_the_dial_and_a_mark_for_others(page: str) -> None:
    charts = json.loads(re.search(r'id="charts">(.*?)</script>', page)[1])  # type: ignore[index]
    assert "NDCG@10 against Tail recall@10" in page
    found = [c for c in charts if c["layout"].get("xaxis", {}).get("title") == "Popularity@10"]
    traces = {trace["name"]: trace for trace in found[0]["traces"]}
    assert {name: len(trace["x"]) for name, trace in traces.items()} == {
        name: 3 if "VAE" in name else 1 for name in traces
    }
    line = traces["MultVAE"]
    assert line["x"] == pytest.approx([line["x"][0] - step for step in (0, 25, 50)])
    assert line["y"] == pytest.approx([0.31, 0.305, 0.29])
    assert "popularity_correction 0.5" in line["hovertext"][1]


def test_tables_are_rectangular(page: str) -> None:
    found = re.findall(r'<table class="sorted"><thead><tr>(.*?)</tr></thead><tbody>(.*?)</tbody>', page, re.DOTALL)
    assert len(found) == 12
    for head, body in found:
        for line in body.split("</tr>")[:-1]:
            assert line.count("<td") + line.count("<th") == head.count("<th ")


def curve_charts(run: Run) -> dict[str, charts.Chart]:
    row = Row(run.label, [run])
    (table,) = analyse(make_comparison(models=1, seeds=1, users=30, protocols=1))
    return {chart.heading: chart for chart in charts.curves({run.label: charts.Style.of(0)}, table, [row])}


def test_a_loss_without_a_kl_term_is_drawn_once() -> None:
    run = make_run("MultVAE", "p", 1, 30, 0.3, False, epochs=3)
    shown = curve_charts(run)
    assert {"Training loss", "Reconstruction loss"} <= shown.keys()
    for point in run.curve:
        point["reconstruction"] = point["loss"]
    assert "Training loss" in curve_charts(run)
    assert "Reconstruction loss" not in curve_charts(run)


@pytest.mark.parametrize(("epochs", "axis"), [(1, [0.8, 1.2]), (2, [0.8, 2.2]), (12, None)])
def test_a_few_epochs_fill_the_axis(epochs: int, axis: list[float] | None) -> None:
    drawn = curve_charts(make_run("MultVAE", "p", 1, 30, 0.3, False, epochs))["Training loss"].layout["xaxis"]
    assert drawn.get("range") == (axis and pytest.approx(axis))


def test_a_training_time_too_short_to_measure_is_said_to_be_short() -> None:
    made = make_comparison(models=2, seeds=1, users=30, protocols=1)
    (table,) = analyse(replace(made, runs=[made.runs[0], replace(made.runs[1], training_seconds=0.0004)]))
    styles = {row.label: charts.Style.of(0) for row in table.rows}
    (chart,) = charts.cost(styles, table, table.rows, "training_seconds", "training time")
    assert chart.traces[1]["x"] == [0.1]
    assert chart.traces[1]["hovertext"].endswith("training time: < 0.1 s")
    assert chart.note == "less than 0.1 s is drawn at 0.1 s"


def test_a_spread_is_named_where_one_is_shown(page: str) -> None:
    below = dict(re.findall(r"<h3[^>]*>(Beyond accuracy|Costs).*?</table></div>\s*(.*?)\s*(?=<h3)", page, re.DOTALL))
    assert "Means over the seeds ± their standard deviation." in below["Beyond accuracy"]
    assert "Means over the seeds." in below["Costs"]
    assert "deviation" not in below["Costs"]
    assert "construction: EASE" in below["Costs"]
    assert "Training is wall time, which other work on the machine lengthens; CPU is the" in below["Costs"]


def test_results_without_the_processor_time_have_none() -> None:
    made = make_comparison(models=4, seeds=2, users=30, protocols=1)
    (table,) = analyse(made)
    part = parts(table)[-1]
    cells = {label: dict(zip(part.headers, row, strict=True)) for label, row in part.rows}
    assert cells["EASE"]["CPU"].text == "–"
    run = made.runs[0]
    assert run.cpu_seconds is not None
    assert cells[run.label]["CPU"].value == np.mean([each.cpu_seconds for each in made.runs[:2]])
    (old,) = analyse(replace(made, runs=[replace(run, cpu_seconds=None) for run in made.runs]))
    assert "CPU" not in parts(old)[-1].headers
    assert of_costs(old)[0] == "Training is wall time, which other work on the machine lengthens."


def test_who_is_best_is_said_with_what_was_tested() -> None:
    made = make_comparison(seeds=2, users=200, protocols=1)
    made = replace(made, runs=[run for run in made.runs if run.label in ("EASE", "Pop")])
    (table,) = analyse(made)
    assert "All others differ significantly from it." in report.finding(table)
    without = replace(made, metrics=[*made.metrics, "itemcoverage@10"], primary="itemcoverage@10")
    (table,) = analyse(without)
    assert table.best["itemcoverage@10"]
    assert "differ" not in report.finding(table)


def test_no_empty_sections() -> None:
    made = make_comparison(models=2, seeds=1, users=30, protocols=1)
    bare = [replace(run, curve=[], over_k={}, by_popularity=[], frontier=[]) for run in made.runs]
    page = report.html(analyse(replace(made, runs=bare)), replace(made, runs=bare))
    shown = re.findall("<h3[^>]*>(.*?)</h3>|<figcaption>(.*?)<", page)
    headings = "; ".join(a or b for a, b in shown)
    for words in ("Learning curves", "Accuracy over k", "by popularity", "Accuracy against popularity", "Tuning"):
        assert words not in headings
    assert "by length of history" in headings


def test_rows_look_different() -> None:
    styles = [charts.Style.of(place) for place in range(28)]
    assert len({(style.colour, style.symbol) for style in styles}) == 28
    assert len({(style.colour, style.dash) for style in styles}) == 28


PROBE = """[...document.querySelectorAll(".chart")].flatMap(chart => {
    const { margin, xaxis, yaxis } = chart._fullLayout, box = chart.querySelector(".main-svg").getBoundingClientRect();
    const outside = [...chart.querySelectorAll(".xtick text, .ytick text, .xtitle, .ytitle")].filter(text => {
        const own = text.getBoundingClientRect();
        return own.left < box.left - 1 || own.right > box.right + 1 || own.top < box.top - 1 || own.bottom > box.bottom + 1;
    });
    return [...outside.map(text => chart.id + " cuts off " + text.textContent),
            ...(margin.autoexpand || xaxis.automargin || yaxis.automargin ? [chart.id + " lets plotly move its margins"] : [])];
})"""


@needs_browser
@pytest.mark.parametrize("width", [1280, 500])
def test_browser_draws_every_chart(page: str, tmp_path: Path, width: int) -> None:
    shown, problems = opened(page, tmp_path, width, PROBE)
    # Plotly's automatic margins may never settle in a narrow window; whether they do depends on its version and the fonts.
    assert problems == []
    charts = json.loads(re.search(r'id="charts">(.*?)</script>', page)[1])  # type: ignore[index]
    assert re.search(r'<html[^>]*data-drawn="(\d+)"', shown)[1] == str(len(charts))  # type: ignore[index]
    # Each chart has its drawing, and marks in it.
    drawn = re.split(r'<div id="c\d+" class="chart', shown)[1:]
    assert len(drawn) == len(charts)
    for chart, element in zip(charts, drawn, strict=True):
        assert 'class="main-svg"' in element
        kind = "heatmaplayer" if chart["traces"][0]["type"] == "heatmap" else "scatterlayer"
        assert kind in element
        assert ("<image" if kind == "heatmaplayer" else 'class="point"') in element
    # Labels are text, never markup.
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown


PRINTED = """(() => {
    dispatchEvent(new Event("beforeprint"));
    const colour = getComputedStyle(document.querySelector(".chart .xtick text")).fill;
    const opened = [...document.querySelectorAll("details")].every(each => each.open);
    dispatchEvent(new Event("afterprint"));
    return [colour, opened, document.documentElement.dataset.theme];
})()"""


@needs_browser
def test_paper_is_light_and_has_the_commands(page: str, tmp_path: Path) -> None:
    assert opened(page, tmp_path, 900, PRINTED, dark=True)[1] == ["rgb(29, 36, 48)", True, "dark"]


@needs_browser
def test_tables_of_a_window_of_medium_width_need_no_scrolling(tmp_path: Path) -> None:
    made = make_comparison(seeds=2, users=60, epochs=2, protocols=1)
    wide = "[...document.querySelectorAll('.scroll')].map(each => each.scrollWidth - each.clientWidth)"
    found = opened(report.html(analyse(made), made), tmp_path, 1100, wide)[1]
    assert len(found) > 5
    assert set(found) == {0}


@needs_browser
def test_charts_follow_the_colours_of_the_page(page: str, tmp_path: Path) -> None:
    colour = "getComputedStyle(document.querySelector('.chart .xtick text')).fill"
    assert [opened(page, tmp_path / name, 900, colour, name == "dark")[1] for name in ("light", "dark")] == [
        "rgb(29, 36, 48)",
        "rgb(228, 232, 238)",
    ]
