"""The evaluation of uncertainties as text, JSON, or an HTML page with the risk-coverage curves."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

from tabulate import tabulate

from recbole_vae.analysis.uncertainty import TENTHS, Lists, Order, UncertaintyReport, per_ndcg
from recbole_vae.templates import Page, render

_COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"]
_WIDTH, _HEIGHT, _MARGIN = 640, 340, 56
_TOP = _RIGHT = 24
"""The margins without words; ``_MARGIN``: those with them, all in the units of the drawing."""


def as_json(report: UncertaintyReport) -> str:
    """Return the fields of :class:`~recbole_vae.analysis.uncertainty.UncertaintyReport` as JSON."""
    return json.dumps(asdict(report), indent=1) + "\n"


def _tables(report: UncertaintyReport) -> list[tuple[str, list[list[str]]]]:
    """Return tables, each with a caption and, first, its header."""
    rows = [["users sorted by", "Spearman", "p", "partial", "area"], *(_order(order) for order in report.orders)]
    rows += [
        ["chance (a random order)", "", "", "", f"{1 - report.ndcg:.4f}"],
        ["their true NDCG (the best order)", "", "", "", f"{report.best_area:.4f}"],
    ]
    sampled = f", {report.samples} samples of the posterior" if report.samples else ""
    caption = (
        f"{report.model} on {report.dataset}, {report.part} part: {report.users} users, NDCG@{report.k} "
        f"{report.ndcg:.4f}{sampled}"
    )
    deciles = [["users sorted by", *(f"{place}" for place in range(1, TENTHS + 1))]]
    deciles += [[order.name, *(f"{each:.3f}" for each in order.tenths)] for order in report.orders]
    tables = [(caption, rows), (f"NDCG@{report.k} by decile of the users, the most certain first", deciles)]
    if report.lists:
        head = ["diversify", f"NDCG@{report.k}", "lost", "diversity", "gained", "gained / lost", "items covered"]
        tables.append(
            ("Lists drawn from the posterior", [head, *(_lists(report.lists[0], each) for each in report.lists)])
        )
    return tables


def _order(order: Order) -> list[str]:
    p = "" if order.p_value is None else f"{order.p_value:.0e}" if order.p_value > 1e-99 else "<1e-99"
    spearman, partial = ("" if each is None else f"{each:+.3f}" for each in (order.spearman, order.partial))
    return [order.name, spearman, p, partial, f"{order.area:.4f}"]


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
    "Spearman: rank correlation of uncertainty and NDCG over users. Partial: the same, controlling for the length of the "
    "history and the number of relevant items. Area: mean of 1 - NDCG under the risk-coverage curve; lower is better."
)


def _takeaway(report: UncertaintyReport) -> str:
    """Say in a sentence how far the best order tells users apart."""
    best = report.orders[0]
    share = (1 - report.ndcg - best.area) / ((1 - report.ndcg - report.best_area) or 1.0)
    return (
        f"Sorted by {best.name}, the most certain decile of the users has an NDCG@{report.k} of {best.tenths[0]:.3f}, and the "
        f"least certain decile {best.tenths[-1]:.3f}. Its curve lies {max(share, 0.0):.0%} of the way from chance to the best "
        "order."
    )


def as_text(report: UncertaintyReport) -> str:
    """Return the report for a terminal."""
    lines = []
    for caption, rows in _tables(report):
        lines += [caption, tabulate(rows, tablefmt="plain", disable_numparse=True), ""]
    return "\n".join([*lines, _NOTES])


def as_html(report: UncertaintyReport) -> Page:
    """Return the report as a page that needs no other file and runs no script."""
    (caption, orders), *others = _tables(report)
    anchors = ("deciles", "lists")
    tables = [
        ("orders", "Orders of the users", orders),
        *((a, *other) for a, other in zip(anchors, others, strict=False)),
    ]
    links = [(2, "curves", "Risk-coverage curves"), *((2, anchor, words) for anchor, words, _ in tables)]
    return render(
        "uncertainty", caption=caption, tables=tables, links=links, notes=_NOTES, k=report.k, takeaway=_takeaway(report),
        **_curves(report),
    )  # fmt: skip


def _curves(report: UncertaintyReport) -> dict[str, Any]:
    """Return where the drawing of the risk-coverage curves has its ticks, lines and names."""
    chance = 1 - report.ndcg
    risks = [chance, *(risk for order in report.orders for risk in order.risks)]
    step = next(each for each in (0.01, 0.02, 0.05, 0.1, 0.2) if max(risks) - min(risks) <= 5 * each or each == 0.2)
    first, last = math.floor(min(risks) / step), math.floor(max(risks) / step) + 1
    low, span = first * step, (last - first) * step
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _MARGIN

    def x(percent: float) -> float:
        return _MARGIN + (right - _MARGIN) * percent / 100

    def y(risk: float) -> float:
        return bottom - (bottom - _TOP) * (risk - low) / span

    lines: list[dict[str, Any]] = [
        {
            "name": order.name,
            "colour": _COLOURS[place % len(_COLOURS)],
            "points": " ".join(f"{x(percent):.1f},{y(risk):.1f}" for percent, risk in enumerate(order.risks, start=1)),
            "dash": "",
        }
        for place, order in enumerate(report.orders)
    ]
    points = f"{x(0):.1f},{y(chance):.1f} {x(100):.1f},{y(chance):.1f}"
    lines.append({"name": "chance (a random order)", "colour": "var(--quiet)", "points": points, "dash": "4 3"})
    return {
        "width": _WIDTH,
        "height": _HEIGHT,
        "margin": _MARGIN,
        "right": _RIGHT,
        "rows": [(y(tick * step), f"{tick * step:.2f}") for tick in range(first, last + 1)],
        "columns": [(x(percent), percent) for percent in range(0, 101, 25)],
        "lines": lines,
    }
