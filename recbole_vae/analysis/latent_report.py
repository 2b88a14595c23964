"""The latent space of a model as a page of HTML that needs nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from recbole_vae.analysis.latent import ALONE, NAMES, STEPS, Described, label
from recbole_vae.templates import Page, render

_COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
"""Okabe and Ito (2008), which colour-blind people can tell apart."""
_WIDE = 900
_LINE = 15.0
"""The height that a name needs on the map."""
_GAP = 9.0
"""Between the middle of an item and its name: a name that touches its dot reads as another one."""
_KINDS = {"principal": "principal directions", "latents": "latent variables"}


def html(found: Described) -> Page:
    """Return the page; whatever comes from data is escaped."""
    walks = found.traversals if found.user is not None else []
    name = NAMES[found.axes]
    links = [(2, "map", "Map of items and users"), *([(2, "user", f"User {found.user}")] if walks else [])]
    links += [(2, "strongest", f"Strongest {_KINDS[found.axes]}")]
    links += [(3, f"latent{each.number}", f"{name} {each.number}") for each in found.latents]
    return render(
        "latent",
        found=found,
        name=name,
        kinds=_KINDS[found.axes],
        alone="" if found.alone else ALONE.format(found.model),
        words={each.number: label(each) for each in found.latents},
        traversals=walks,
        steps=STEPS,
        links=links,
        takeaway=_takeaway(found),
        **_map(found),
    )


def _takeaway(found: Described) -> str:
    """Say in a sentence what the strongest latent variable or direction stands for."""
    if not found.latents:
        return "No latent variable is in use."
    first = found.latents[0]
    sides = []
    for verb, genres, items in (
        ("raises", [each.name for each in first.genres if each.auc > 0.5][:3], first.raised),
        ("lowers", [each.name for each in first.genres if each.auc < 0.5][:3], first.lowered),
    ):
        if genres:
            listed = f"{', '.join(genres[:-1])} and {genres[-1]}" if len(genres) > 1 else genres[0]
            sides.append(f"{verb} items of {listed}")
        elif items:
            sides.append(f"{verb} {items[0][1]} most")
    return f"The strongest {_KINDS[found.axes][:-1]} {' and '.join(sides)}." if sides else ""


def _map(found: Described) -> dict[str, Any]:
    """Return the places of the map's marks and names, and the meaning of its colours."""
    count = Counter(genre for item in found.items for genre in item.genres)
    top = [genre for genre, _ in count.most_common(len(_COLOURS))]
    # The rarer of an item's genres says more about it.
    colour_of = dict(zip(top, _COLOURS, strict=False))
    points = [*found.items, *found.map_users, *([found.user_place] if found.user_place else [])]
    scale = _WIDE / 2.1 / (max((abs(point.x) for point in points), default=1.0) or 1.0)
    high = max(200.0, 2.1 * scale * max((abs(point.y) for point in points), default=0.0))

    def place(x: float, y: float) -> tuple[float, float]:
        return _WIDE / 2 + x * scale, high / 2 - y * scale

    dots = []
    for item in found.items:
        own = sorted((genre for genre in item.genres if genre in colour_of), key=lambda genre: count[genre])
        colour = colour_of[own[0]] if own else "var(--other)"
        words = f"{item.name}{' · ' if item.genres else ''}{' '.join(item.genres)}"
        dots.append((*place(item.x, item.y), colour, words))
    return {
        "wide": _WIDE,
        "high": high,
        "users": [place(point.x, point.y) for point in found.map_users],
        "dots": dots,
        "own": place(found.user_place.x, found.user_place.y) if found.user_place else None,
        "names": _names(found, place),
        "key": [*colour_of.items(), ("other" if top else "item", "var(--other)"), ("user", "var(--user)")],
    }


def _names(
    found: Described, place: Callable[[float, float], tuple[float, float]]
) -> list[tuple[float, float, str, str]]:
    """Name the items farthest from the middle, as long as their names lie neither on each other nor on items."""
    dots = [place(item.x, item.y) for item in found.items]
    taken = [(x - _GAP + 0.5, x + _GAP - 0.5, y) for x, y in dots]
    if found.user_place:
        x, y = place(found.user_place.x, found.user_place.y)
        width = 19.0 + 7 * len(f"user {found.user}")
        taken.append((x - width, x + 7, y) if x > _WIDE / 2 else (x - 7, x + width, y))
    marks: list[tuple[float, float, str, str]] = []
    for item in sorted(found.items, key=lambda each: -(each.x**2 + each.y**2)):
        x, y = place(item.x, item.y)
        name = item.name if len(item.name) <= 28 else f"{item.name[:27]}…"
        width = 6.2 * len(name)
        for left, edge, anchor in ((x + _GAP, x + _GAP, "start"), (x - _GAP - width, x - _GAP, "end")):
            free = all(abs(y - other) >= _LINE or left >= end or start >= left + width for start, end, other in taken)
            if free and left >= 0 and left + width <= _WIDE:
                taken.append((left, left + width, y))
                marks.append((edge, y + 4, anchor, name))
                break
        if len(marks) == 24:
            break
    return marks
