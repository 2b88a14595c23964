"""The charts of a board, as SVG in the page itself: they take its colours, and need no script."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

_LETTER = 6.8
"""Mean width of a letter at the size of the labels, in units of the drawings."""
_LONGEST = 32
"""Letters of a label that are shown; the whole one stands in its tooltip."""
_SIZE = 12


@dataclass
class Point:
    """A row of a table in a chart: its cost and its accuracy; ``own`` if its model is of recbole_vae."""

    label: str
    x: float
    y: float
    own: bool
    words: str


Box = tuple[float, float, float, float]


def scatter(points: Sequence[Point], x_title: str, y_title: str, tick: Callable[[float], str]) -> Markup:
    """Draw accuracy against a cost, which has a logarithmic axis, with a line along the rows that no other beats in both.

    Args:
        points: with x > 0; at least one.
        x_title: name of the cost.
        y_title: name of the accuracy.
        tick: writes a cost.
    """
    width, height, left, right, top, bottom = 520.0, 340.0, 50.0, 12.0, 12.0, 48.0
    low, high = math.log10(min(p.x for p in points)), math.log10(max(p.x for p in points))
    room = max(0.06 * (high - low), 0.15)
    low, high = low - room, high + 2 * room
    bottom_y, top_y = min(p.y for p in points), max(p.y for p in points)
    margin = 0.08 * (top_y - bottom_y) or 0.05 * abs(top_y) or 0.01
    bottom_y, top_y = bottom_y - margin, top_y + margin

    def x(value: float) -> float:
        return left + (math.log10(value) - low) / (high - low) * (width - left - right)

    def y(value: float) -> float:
        return top + (top_y - value) / (top_y - bottom_y) * (height - top - bottom)

    parts = []
    for value in _decades(low, high):
        parts.append(f'<line class="grid" x1="{x(value):.1f}" x2="{x(value):.1f}" y1="{top}" y2="{height - bottom}"/>')
        parts.append(_text(x(value), height - bottom + 18, tick(value), "middle", "faint"))
    for value in ticks(bottom_y, top_y):
        parts.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        parts.append(_text(left - 8, y(value) + 4, f"{value:.3g}", "end", "faint"))
    parts.append(_text((left + width - right) / 2, height - 10, x_title, "middle", "faint"))
    best = frontier(points)
    steps = [(x(best[0].x), y(best[0].y))]
    for before, after in itertools.pairwise(best):
        steps += [(x(after.x), y(before.y)), (x(after.x), y(after.y))]
    parts.append(f'<polyline class="frontier" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in steps)}"/>')
    places = [(x(point.x), y(point.y)) for point in points]
    names = [_short(point.label) for point in points]
    lines = [
        (min(a, c) - 1, min(b, d) - 1, max(a, c) + 1, max(b, d) + 1) for (a, b), (c, d) in itertools.pairwise(steps)
    ]
    boxes = _labels(names, places, (left, top, width - right, height - bottom), lines)
    for point, name, (px, py), (bx, by, far) in zip(points, names, places, boxes, strict=True):
        if far:
            parts.append(f'<line class="leader" x1="{px:.1f}" y1="{py:.1f}" x2="{bx:.1f}" y2="{by:.1f}"/>')
        kind = "own" if point.own else "other"
        parts.append(
            f"<g><title>{escape(point.label)}: {escape(point.words)}</title>"
            f'<circle class="{kind}" cx="{px:.1f}" cy="{py:.1f}" r="5"/>{_text(bx, by + 4, name, "middle")}</g>'
        )
    head = f"{y_title} against {x_title[0].lower()}{x_title[1:]}"
    return _svg(width, height, parts, head)


def frontier(points: Sequence[Point]) -> list[Point]:
    """Return the points for which no other is at least as cheap and at least as good, and better in one; the cheapest first."""
    found: list[Point] = []
    for point in sorted(points, key=lambda each: (each.x, -each.y)):
        if not found or point.y > found[-1].y:
            found.append(point)
    return found


def _labels(
    names: Sequence[str], places: Sequence[tuple[float, float]], frame: Box, lines: Sequence[Box]
) -> list[tuple[float, float, bool]]:
    """Place labels beside their points where there is room, else farther away; return their middles, and whether they are far."""
    taken: list[Box] = [*((px - 6, py - 6, px + 6, py + 6) for px, py in places), *lines]
    found: dict[int, tuple[float, float, bool]] = {}
    for number_ in sorted(range(len(names)), key=lambda each: places[each][1]):
        px, py = places[number_]
        half = _LETTER * len(names[number_]) / 2 + 2
        best: tuple[float, float, float, bool, Box] | None = None
        for far in (0, 14, 28, 44, 62):
            for turn in range(16):
                angle = turn * math.pi / 8
                c, s = math.cos(angle), math.sin(angle)
                bx, by = px + c * (9 + far + half), py + s * (8 + far + _SIZE / 2)
                box = bx - half, by - _SIZE / 2 - 1, bx + half, by + _SIZE / 2 + 1
                outside = max(0.0, frame[0] - box[0]) + max(0.0, box[2] - frame[2])
                outside += max(0.0, frame[1] - box[1]) + max(0.0, box[3] - frame[3])
                cost = (
                    10 * sum(_overlap(box, other) for other in taken) + 200 * outside + far + 4 * abs(s) + 2 * (c < 0)
                )
                if best is None or cost < best[0]:
                    best = cost, bx, by, far > 0, box
        assert best is not None
        taken.append(best[4])
        found[number_] = best[1:4]
    return [found[number_] for number_ in range(len(names))]


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def critical_difference(
    labels: Sequence[str],
    mean_ranks: Sequence[float],
    critical: float,
    groups: Sequence[Sequence[int]],
    own: Sequence[bool],
) -> Markup:
    """Draw the diagram of Demsar (2006): mean ranks on a line, the best at the left, and a bar for each group of equals.

    Args:
        labels: of the models.
        mean_ranks: of the models, from 1.
        critical: the critical difference.
        groups: of models, as :func:`~recbole_vae.compare.ranks.groups` finds them.
        own: whether a model is of recbole_vae.
    """
    order = sorted(range(len(labels)), key=lambda model: mean_ranks[model])
    names = [_short(label) for label in labels]
    side = 36 + 1.1 * _LETTER * (max(map(len, names)) + 5)
    width, axis = 720.0, 62.0
    start, end = side, width - side
    last = max(2, len(labels))

    def x(rank: float) -> float:
        return start + (rank - 1) / (last - 1) * (end - start)

    parts = [f'<line class="axis" x1="{x(1):.1f}" x2="{x(last):.1f}" y1="{axis}" y2="{axis}"/>']
    step = max(1, math.ceil(last / 12))
    for rank in range(1, last + 1):
        shown = (rank - 1) % step == 0
        parts.append(
            f'<line class="axis" x1="{x(rank):.1f}" x2="{x(rank):.1f}" y1="{axis - (7 if shown else 4)}" y2="{axis}"/>'
        )
        if shown:
            parts.append(_text(x(rank), axis - 12, str(rank), "middle", "faint"))
    length = min(x(1 + critical), width - 10) - x(1)
    parts.append(f'<path class="axis" d="M{x(1):.1f} 16v8m0-4h{length:.1f}m0-4v8"/>')
    beyond = " (longer than the axis)" if x(1 + critical) > width - 10 else ""
    parts.append(_text(x(1) + length / 2, 12, f"critical difference {critical:.2f}{beyond}", "middle", "faint"))
    below = axis + 12
    for group in groups:
        ends = [x(mean_ranks[model]) for model in group]
        parts.append(
            f'<line class="group" x1="{min(ends) - 4:.1f}" x2="{max(ends) + 4:.1f}" y1="{below}" y2="{below}"/>'
        )
        below += 9
    half = math.ceil(len(order) / 2)
    below += 12
    for place, model in enumerate(order):
        left = place < half
        y = below + 19 * (place if left else len(order) - 1 - place)
        edge = side - 16 if left else width - side + 16
        kind = "own" if own[model] else "other"
        at = f"{x(mean_ranks[model]):.1f}"
        parts.append(f'<polyline class="leader" points="{at},{axis} {at},{y:.1f} {edge:.1f},{y:.1f}"/>')
        parts.append(f'<circle class="{kind}" cx="{at}" cy="{axis}" r="3.5"/>')
        mean = f"{mean_ranks[model]:.2f}"
        words = f"{names[model]} {mean}" if left else f"{mean} {names[model]}"
        text = _text(edge - 6 if left else edge + 6, y + 4, words, "end" if left else "start", kind)
        parts.append(f"<g><title>{escape(labels[model])}</title>{text}</g>")
    return _svg(width, below + 19 * half, parts, "Mean ranks over all cells, and which do not differ")


def _short(label: str) -> str:
    return label if len(label) <= _LONGEST else f"{label[: _LONGEST - 1].rstrip()}…"


def ticks(low: float, high: float) -> list[float]:
    """Return round numbers from ``low`` to ``high``, some five of them."""
    steps = (digit * 10.0**power for power in range(-6, 6) for digit in (1, 2, 5))
    step = next(each for each in steps if (high - low) / each < 7)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(each * step, 9) for each in range(first, last + 1)]


def _decades(low: float, high: float) -> list[float]:
    """Return the powers of ten within the logarithms, with 2 and 5 times these if they are few."""
    found: list[float] = []
    for digits in ((1,), (1, 3), (1, 2, 5)):
        found = [
            digit * 10.0**power
            for power in range(math.floor(low) - 1, math.ceil(high) + 1)
            for digit in digits
            if low <= math.log10(digit * 10.0**power) <= high
        ]
        if len(found) >= 3:
            break
    return found


def _text(x: float, y: float, words: str, anchor: str, kind: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{named}>{escape(words)}</text>'


def _svg(width: float, height: float, parts: Sequence[str], words: str) -> Markup:
    return Markup(
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(words)}">{"".join(parts)}</svg>'
    )
