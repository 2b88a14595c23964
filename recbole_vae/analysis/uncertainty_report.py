"""The evaluation of uncertainties as text, JSON, or an HTML page with the risk-coverage curves."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from tabulate import tabulate

from recbole_vae.analysis.uncertainty import Lists, Order, UncertaintyReport, per_ndcg
from recbole_vae.templates import render

_COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"]
_WIDTH, _HEIGHT, _MARGIN = 640, 360, 56


def as_json(report: UncertaintyReport) -> str:
    """Return the fields of :class:`~recbole_vae.analysis.uncertainty.UncertaintyReport` as JSON."""
    return json.dumps(asdict(report), indent=1) + "\n"


def _tables(report: UncertaintyReport) -> list[tuple[str, list[list[str]]]]:
    """Return tables, each with a caption and, first, its header."""
    at_random = 1 - report.ndcg
    head = [
        "users by",
        "Spearman",
        "p",
        "partial",
        "area",
        f"NDCG@{report.k} by decile of the users, the most certain first",
    ]
    rows = [head, *(_order(order) for order in report.orders)]
    rows += [
        ["nothing", "", "", "", f"{at_random:.4f}", ""],
        ["NDCG itself", "", "", "", f"{report.best_area:.4f}", ""],
    ]
    sampled = f", {report.samples} samples of the posterior" if report.samples else ""
    caption = (
        f"{report.model} on {report.dataset}, {report.part} part: {report.users} users, NDCG@{report.k} "
        f"{report.ndcg:.4f}{sampled}"
    )
    tables = [(caption, rows)]
    if report.lists:
        head = ["diversify", f"NDCG@{report.k}", "lost", "diversity", "gained", "gained / lost", "items covered"]
        tables.append(
            ("Lists drawn from the posterior", [head, *(_lists(report.lists[0], each) for each in report.lists)])
        )
    return tables


def _order(order: Order) -> list[str]:
    p = "" if order.p_value is None else f"{order.p_value:.0e}" if order.p_value > 1e-99 else "<1e-99"
    spearman, partial = ("" if each is None else f"{each:+.3f}" for each in (order.spearman, order.partial))
    return [order.name, spearman, p, partial, f"{order.area:.4f}", " ".join(f"{each:.3f}" for each in order.tenths)]


def _lists(plain: Lists, each: Lists) -> list[str]:
    ratio = per_ndcg(plain, each)
    differences = [f"{plain.ndcg - each.ndcg:.4f}", f"{each.diversity:.4f}", f"{each.diversity - plain.diversity:.4f}"]
    return [
        f"{each.diversify:g}",
        f"{each.ndcg:.4f}",
        *differences,
        "" if ratio is None else f"{ratio:.1f}",
        f"{each.coverage:.3f}",
    ]


_NOTES = (
    "Spearman: correlation of uncertainty and NDCG over users; partial: controlling for the length of the history and the number "
    "of relevant items. Area: mean of 1 - NDCG under the risk-coverage curve."
)


def as_text(report: UncertaintyReport) -> str:
    """Return the report for a terminal."""
    lines = []
    for caption, rows in _tables(report):
        lines += [caption, tabulate(rows, tablefmt="plain", disable_numparse=True), ""]
    return "\n".join([*lines, _NOTES])


def as_html(report: UncertaintyReport) -> str:
    """Return the report as a page that needs no other file and runs no script."""
    (caption, orders), *others = _tables(report)
    tables = [("orders", "Orders of the users", orders), *(("lists", *other) for other in others)]
    links = [(2, "curves", "Risk-coverage curves"), *((2, anchor, words) for anchor, words, _ in tables)]
    return render(
        "uncertainty", caption=caption, tables=tables, links=links, notes=_NOTES, k=report.k, **_curves(report)
    )


def _curves(report: UncertaintyReport) -> dict[str, Any]:
    """Return the places of the ticks, lines and names in the drawing of the risk-coverage curves."""
    low = min(min(order.risks) for order in report.orders)
    high = max(max(order.risks) for order in report.orders)
    span = (high - low) or 1.0
    right, bottom = _WIDTH - _MARGIN, _HEIGHT - _MARGIN

    def x(percent: float) -> float:
        return _MARGIN + (right - _MARGIN) * percent / 100

    def y(risk: float) -> float:
        return bottom - (bottom - _MARGIN) * (risk - low) / span

    risks = [low + span * tick / 4 for tick in range(5)]
    lines = [
        {
            "name": order.name,
            "colour": _COLOURS[place % len(_COLOURS)],
            "points": " ".join(f"{x(percent):.1f},{y(risk):.1f}" for percent, risk in enumerate(order.risks, start=1)),
            "y": bottom - 12 - 16 * (len(report.orders) - 1 - place),
        }
        for place, order in enumerate(report.orders)
    ]
    return {
        "width": _WIDTH,
        "height": _HEIGHT,
        "margin": _MARGIN,
        "ticks": [(y(risk), f"{risk:.3f}", x(25 * tick), 25 * tick) for tick, risk in enumerate(risks)],
        "lines": lines,
    }
