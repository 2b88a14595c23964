"""What an evaluation of uncertainties found, for people: as text, and as a page of HTML with the risk-coverage curves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from html import escape

from recbole_vae.analysis.uncertainty import Lists, Order, Report, per_ndcg

_COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"]
_WIDTH, _HEIGHT, _MARGIN = 640, 360, 56


def as_json(report: Report) -> str:
    """Return the fields of :class:`~recbole_vae.analysis.uncertainty.Report` as JSON."""
    return json.dumps(asdict(report), indent=1) + "\n"


def _tables(report: Report) -> list[tuple[str, list[list[str]]]]:
    """Return tables, each with a caption and, first, its header."""
    at_random = 1 - report.ndcg
    head = ["users by", "Spearman", "p", "partial", "area", f"NDCG@{report.k} of tenths of the users, the surest first"]
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
    "Spearman: of uncertainty and NDCG over users; partial: with the length of the history and the number of relevant items held "
    "fixed. Area: mean of 1 - NDCG under the risk-coverage curve."
)


def as_text(report: Report) -> str:
    """Return the report for a terminal."""
    lines = []
    for caption, rows in _tables(report):
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines += [
            caption,
            *("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows),
        ]
        lines.append("")
    return "\n".join([*lines, _NOTES])


_HEAD = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>Uncertainty of recommendations</title>
<style>
:root { color-scheme: light dark; --line: light-dark(#ddd, #444); --soft: light-dark(#666, #aaa); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } .soft { color: var(--soft); font-size: .9rem; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; display: block; overflow-x: auto; }
caption { text-align: left; font-weight: bold; } th { text-align: left; font-weight: normal; color: var(--soft); }
th, td { padding: .2rem .8rem .2rem 0; border-bottom: 1px solid var(--line); }
table { margin-bottom: 1.5rem; }
svg { width: 100%; max-width: 40rem; height: auto; } svg text { fill: currentColor; font-size: 12px; }
@media print { body { max-width: none; margin: 0; } svg { break-inside: avoid; print-color-adjust: exact; }
  table { font-size: .65rem; overflow: visible; break-inside: avoid; } td:not(:last-child) { white-space: nowrap; } }
</style>
</head>
<body>
"""


def as_html(report: Report) -> str:
    """Return the report as a page that needs no other file and runs no script."""
    (caption, rows), *others = _tables(report)
    return "".join(
        [
            _HEAD,
            f"<h1>{escape(caption)}</h1>\n<p>How much the lists of the surest users lack. The lower, the better.</p>\n",
            _curves(report),
            _table("Orders of the users", rows),
            *(_table(*other) for other in others),
            f"<p class='soft'>{escape(_NOTES)}</p>\n</body>\n</html>\n",
        ]
    )


def _table(caption: str, rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    lines = ["<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>\n"]
    lines += ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in body]
    return f"<table>\n<caption>{escape(caption)}</caption>\n{''.join(lines)}</table>\n"


def _curves(report: Report) -> str:
    """Draw the risk-coverage curves as SVG."""
    low = min(min(order.risks) for order in report.orders)
    high = max(max(order.risks) for order in report.orders)
    span = (high - low) or 1.0

    def at(percent: float, risk: float) -> str:
        x = _MARGIN + (_WIDTH - 2 * _MARGIN) * percent / 100
        return f"{x:.1f},{_HEIGHT - _MARGIN - (_HEIGHT - 2 * _MARGIN) * (risk - low) / span:.1f}"

    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="risk-coverage curves">\n']
    middle = _HEIGHT // 2
    parts.append(
        f'<text x="{_WIDTH // 2}" y="{_HEIGHT - 8}" text-anchor="middle">share of the users, the surest first</text>\n'
        f'<text x="12" y="{middle}" text-anchor="middle" transform="rotate(-90 12 {middle})">risk: mean of 1 - NDCG@{report.k}'
        "</text>\n"
    )
    for tick in range(5):
        risk, percent = low + span * tick / 4, 25 * tick
        (x, y), (below, _) = at(0, risk).split(","), at(percent, low).split(",")
        right = _WIDTH - _MARGIN
        parts.append(
            f'<line x1="{x}" x2="{right}" y1="{y}" y2="{y}" stroke="var(--line)"/>\n'
            f'<text x="{_MARGIN - 4}" y="{y}" text-anchor="end" dominant-baseline="middle">{risk:.3f}</text>\n'
            f'<text x="{below}" y="{_HEIGHT - _MARGIN + 18}" text-anchor="middle">{percent} %</text>\n'
        )
    for place, order in enumerate(report.orders):
        colour = _COLOURS[place % len(_COLOURS)]
        points = " ".join(at(percent, risk) for percent, risk in enumerate(order.risks, start=1))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>\n')
        parts.append(
            f'<text x="{_WIDTH - _MARGIN}" y="{_HEIGHT - _MARGIN - 12 - 16 * (len(report.orders) - 1 - place)}" '
            f'text-anchor="end" style="fill: {colour}">{escape(order.name)}</text>\n'
        )
    return "".join([*parts, "</svg>\n"])
