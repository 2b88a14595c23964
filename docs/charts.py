"""Charts of the tables on the pages, as SVG in the page itself: they take its colours, also in the dark.

``<!-- chart: dots COLUMN -->`` before a table draws a column of numbers, one line for each row. ``<!-- chart: lines -->`` draws
each row over the columns that have numbers as names; ``relative lines`` as percentages below the best of the row.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

WIDTH, LABELS, ROW = 760, 370, 24
COLOURS = ("#5b7cfa", "#d9730d", "#2b9348", "#d63fb8", "#0e8a95")
"""Of the lines. Each has at least three times the contrast with white, and with the dark page."""


def with_charts(markdown: str) -> str:
    """Draw the charts of a page."""
    return re.sub(
        r"<!-- chart: (relative )?(dots|lines) ?(.*?) -->\n\n((?:\|.*\n)+)",
        lambda found: (
            (_dots(_cells(found[4]), found[3]) if found[2] == "dots" else _lines(_cells(found[4]), bool(found[1])))
            + f"\n\n{found[4]}"
        ),
        markdown,
    )


def _cells(table: str) -> list[list[str]]:
    lines = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in table.splitlines()]
    return [lines[0], *lines[2:]]


def _numbers(cell: str) -> list[float]:
    """Return the numbers of a cell; the one in brackets after another is its deviation."""
    return [float(each) for each in re.findall(r"(?<![\w.])\d*\.\d+", cell)]


def _plain(text: str) -> str:
    """Return a text without the marks of Markdown."""
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text).replace("`", "").replace("**", "").replace(" *", "")


def _ticks(low: float, high: float) -> list[float]:
    """Return round numbers from ``low`` to ``high``, some five of them."""
    steps = (digit * 10.0**power for power in range(-4, 3) for digit in (1, 2, 5))
    step = next(each for each in steps if (high - low) / each < 7)
    numbers = range(round(low / step), round(high / step) + 1)
    return [round(number * step, 6) for number in numbers if low <= number * step <= high]


def _text(x: float, y: float, text: str, anchor: str = "start", more: str = 'class="faint"') -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{escape(text)}</text>'


def _dots(cells: Sequence[Sequence[str]], column: str) -> str:
    place = cells[0].index(column)
    rows = []
    for row in cells[1:]:
        values = _numbers(row[place])
        if values:
            deviated = "(" in row[place]
            rows.append(
                (_plain(row[0]), values[0] if deviated else sum(values) / len(values), values[1] if deviated else 0.0)
            )
    low, high = min(value - more for _, value, more in rows), max(value + more for _, value, more in rows)
    low, high = low - 0.05 * (high - low), high + 0.05 * (high - low)

    def x(value: float) -> float:
        return LABELS + (value - low) / (high - low) * (WIDTH - LABELS - 70)

    height = ROW * len(rows) + 34
    parts = []
    for tick in _ticks(low, high):
        parts.append(f'<line x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="4" y2="{height - 28}" class="grid"/>')
        parts.append(_text(x(tick), height - 12, _short(tick), "middle"))
    for number, (label, value, more) in enumerate(rows):
        y, kind = ROW * number + 16, "other" if "RecBole's" in label or "published" in label else "own"
        shown = label if len(label) <= 54 else f"{label[:52].rstrip()}…"
        parts.append(f"<g><title>{escape(label)}</title>{_text(LABELS - 12, y + 4, shown, 'end', '')}</g>")
        if more:
            parts.append(
                f'<line x1="{x(value - more):.1f}" x2="{x(value + more):.1f}" y1="{y}" y2="{y}" class="{kind}"/>'
            )
        parts.append(f'<circle cx="{x(value):.1f}" cy="{y}" r="4.5" class="{kind}"/>')
        parts.append(_text(x(value + more) + 9, y + 4, _short(value)))
    note = "; the lines are standard deviations" if any(more for *_, more in rows) else ""
    return _svg(height, parts, f"{column}; the axis does not begin at 0{note}")


def _short(value: float) -> str:
    return f"{value:.4g}".replace("0.", ".", 1) if 0 < value < 1 else f"{value:.4g}"


def _lines(cells: Sequence[Sequence[str]], relative: bool) -> str:
    places = [place for place, name in enumerate(cells[0]) if place and re.fullmatch(r"[\d.]+", name)]
    series = []
    for row in cells[1:]:
        values = [_numbers(row[place])[0] for place in places]
        best = max(values)
        series.append((_plain(row[0]), [100 * (value / best - 1) for value in values] if relative else values))
    low = max(-8.0, min(min(values) for _, values in series)) if relative else min(min(values) for _, values in series)
    high = max(max(values) for _, values in series)
    margin, right, height = 52, WIDTH - 190, 300
    bottom = height - 46

    def x(number: int) -> float:
        return margin + number / (len(places) - 1) * (right - margin)

    def y(value: float) -> float:
        return 14 + (high - max(value, low)) / (high - low) * (bottom - 14)

    parts = []
    for tick in _ticks(low, high):
        label = f"{tick:.3g} %".replace("-", "−") if relative else _short(tick)
        parts.append(f'<line x1="{margin}" x2="{right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" class="grid"/>')
        parts.append(_text(margin - 8, y(tick) + 4, label, "end"))
    for number, place in enumerate(places):
        parts.append(_text(x(number), bottom + 20, cells[0][place], "middle"))
    name = _plain(cells[0][0])
    parts.append(_text((margin + right) / 2, height - 6, name, "middle"))
    ends = sorted((y(values[-1]), number) for number, (_, values) in enumerate(series))
    at: dict[int, float] = {}
    for end, number in ends:  # labels keep their distance
        at[number] = max(end, max(at.values(), default=-99.0) + 17)
    over = max(0.0, max(at.values()) - bottom)
    for number, (label, values) in enumerate(series):
        colour = COLOURS[number % len(COLOURS)]
        points = " ".join(f"{x(place):.1f},{y(value):.1f}" for place, value in enumerate(values))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{x(place):.1f}" cy="{y(value):.1f}" r="3" fill="{colour}"/>'
            for place, value in enumerate(values)
        ]
        parts.append(_text(right + 12, at[number] - over + 4, label, more=f'fill="{colour}" font-weight="600"'))
    title = "Below the best of each row, in per cent; what lies deeper than 8 % is cut off" if relative else ""
    return _svg(height, parts, title)


def _svg(height: int, parts: Sequence[str], title: str) -> str:
    caption = f"<figcaption>{escape(title)}</figcaption>" if title else ""
    return (
        f'<figure class="chart"><svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="Chart of the table below">'
        f"{''.join(parts)}</svg>{caption}</figure>"
    )
