"""The latent space of a model as a page of HTML that needs nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from html import escape

from recbole_vae.analysis.latent import ALONE, NAMES, STEPS, Described, Latent, label

_COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
"""Okabe and Ito (2008), which colour-blind people can tell apart."""
_WIDE = 900
_KINDS = {"principal": "principal directions", "latents": "latent variables"}

_HEAD = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>Latent space</title>
<style>
:root { color-scheme: light dark; --line: light-dark(#ddd, #444); --soft: light-dark(#666, #aaa); --user: light-dark(#bbb, #555);
  --other: light-dark(#777, #999); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; } h3 { font-size: 1rem; margin: 0; }
.soft { color: var(--soft); font-size: .9rem; font-weight: normal; }
article { border-top: 1px solid var(--line); padding: 1rem 0; }
.sides { display: grid; grid-template-columns: 1fr 1fr; gap: 1.5rem; }
ol { margin: .3rem 0; padding-left: 1.5rem; font-size: .9rem; } li span { color: var(--soft); }
svg { width: 100%; height: auto; border: 1px solid var(--line); border-radius: 6px; }
svg circle { stroke: light-dark(#fff, #222); stroke-width: .5; } svg .user { fill: var(--user); stroke: none; }
svg text { font: 11px system-ui, sans-serif; fill: currentColor; pointer-events: none; paint-order: stroke;
  stroke: light-dark(#fffc, #121212cc); stroke-width: 3px; }
svg .own { fill: none; stroke: currentColor; stroke-width: 2.5; } svg text.own { fill: currentColor; font-weight: bold;
  stroke: light-dark(#fffc, #121212cc); stroke-width: 3px; }
.key { display: inline-flex; align-items: center; gap: .35em; margin-right: 1em; font-size: .9rem; }
.key i { width: .8em; height: .8em; border-radius: 50%; }
input[type=range] { width: 16rem; vertical-align: middle; } .list { display: none; } .list.on { display: block; }
select { font: inherit; max-width: 100%; } label { white-space: nowrap; } #shown { display: inline-block; }
@media print { body { max-width: none; margin: 0; } article, .list, svg { break-inside: avoid; } h2 { break-after: avoid; }
  svg, .key i { print-color-adjust: exact; } }
</style>
</head>
<body>
"""

_SCRIPT = """\
<script>
const which = document.getElementById('which'), step = document.getElementById('step'), shown = document.getElementById('shown');
function show() {
  for (const each of document.querySelectorAll('.list')) each.classList.toggle('on', each.id === `t${which.value}-${step.value}`);
  const value = Number(step.value);
  const size = `${Math.abs(value)} deviation${Math.abs(value) === 1 ? '' : 's'}`;
  shown.textContent = value === 0 ? 'where the user is' : `${value > 0 ? '+' : '\\u2212'}${size}`;
}
which.addEventListener('change', show); step.addEventListener('input', show); show();
</script>
"""


def html(found: Described) -> str:
    """Return the page; whatever comes from data is escaped."""
    parts = [
        _HEAD,
        f"<h1>What the latent variables of {escape(found.model)} stand for</h1>\n<p>{escape(found.dataset)}, {found.users:,} "
        f"users. {found.active} of {found.dimension} latent variables are in use: the variance of their means over the users is "
        f"above 0.01.{'' if found.alone else f' {ALONE.format(escape(found.model))}'}</p>\n",
        f"<h2>The strongest {_KINDS[found.axes]}</h2>\n<p class='soft'>By how much the {found.effect} of an item grows with a "
        "step of one standard deviation, and in the headings the root mean square of that over all items. Genres: + are raised "
        "and − lowered more than items without them (Mann and Whitney's test, Holm's correction, p &lt; .01); "
        "the number is the chance that an item of the genre is raised more "
        "than one without it. Only items of 10 and more users are named.</p>\n",
        *(_latent(latent, NAMES[found.axes]) for latent in found.latents),
    ]
    if found.traversals and found.user is not None:
        parts += _traversals(found)
    parts += _map(found)
    return "".join([*parts, "</body>\n</html>\n"])


def _latent(latent: Latent, name: str) -> str:
    kl = "" if latent.kl is None else f" · KL {latent.kl:.2f} nats"
    genres = ", ".join(f"{'+' if g.auc > 0.5 else '−'} {escape(g.name)} ({g.auc:.2f})" for g in latent.genres[:6])
    sides = []
    for title, items in (("Raises", latent.raised), ("Lowers", latent.lowered)):
        rows = "".join(
            f"<li>{escape(name)} <span>{escape(details)} {effect:+.2f}</span></li>"
            for _, name, details, effect in items
        )
        sides.append(f"<div><b class='soft'>{title}</b><ol>{rows}</ol></div>")
    return (
        f"<article><h3>{name} {latent.number} <span class='soft'>effect {latent.strength:.2f} · deviation "
        f"{latent.deviation:.2f}{kl}</span></h3>\n<p class='soft'>{genres}</p>\n"
        f"<div class='sides'>{''.join(sides)}</div></article>\n"
    )


def _traversals(found: Described) -> list[str]:
    names = {each.number: label(each) for each in found.latents}
    choices = "".join(
        f"<option value='{each.latent}'>{NAMES[found.axes].lower()} {each.latent} {escape(names[each.latent])}</option>"
        for each in found.traversals
    )
    lists = []
    for each in found.traversals:
        for step, items in zip(STEPS, each.lists, strict=True):
            rows = "".join(f"<li>{escape(name)}</li>" for name in items)
            lists.append(f"<ol class='list' id='t{each.latent}-{step}'>{rows}</ol>\n")
    return [
        f"<h2>What user {escape(str(found.user))} would be recommended</h2>\n"
        f"<p><label>as <select id='which'>{choices}</select></label> "
        f"<label>moves <span class='soft'>−{-STEPS[0]}</span> <input type='range' id='step' min='{STEPS[0]}' "
        f"max='{STEPS[-1]}' step='1' value='0'> <span class='soft'>+{STEPS[-1]} deviations</span></label> "
        "<span id='shown'></span></p>\n",
        *lists,
        _SCRIPT,
    ]


def _map(found: Described) -> list[str]:
    count = Counter(genre for item in found.items for genre in item.genres)
    top = [genre for genre, _ in count.most_common(len(_COLOURS))]
    # The rarer of an item's genres says more of it.
    colour_of = dict(zip(top, _COLOURS, strict=False))
    points = [*found.items, *found.map_users, *([found.user_place] if found.user_place else [])]
    scale = _WIDE / 2.1 / (max((abs(point.x) for point in points), default=1.0) or 1.0)
    high = max(200.0, 2.1 * scale * max((abs(point.y) for point in points), default=0.0))

    def place(x: float, y: float) -> tuple[float, float]:
        return _WIDE / 2 + x * scale, high / 2 - y * scale

    marks = []
    for point in found.map_users:
        x, y = place(point.x, point.y)
        marks.append(f"<circle class='user' cx='{x:.1f}' cy='{y:.1f}' r='2'/>")
    for item in found.items:
        x, y = place(item.x, item.y)
        own = sorted((genre for genre in item.genres if genre in colour_of), key=lambda genre: count[genre])
        colour = colour_of[own[0]] if own else "var(--other)"
        words = f"{item.name}{' · ' if item.genres else ''}{' '.join(item.genres)}"
        marks.append(
            f"<circle cx='{x:.1f}' cy='{y:.1f}' r='4.5' fill='{colour}'><title>{escape(words)}</title></circle>"
        )
    if found.user_place:
        x, y = place(found.user_place.x, found.user_place.y)
        name = escape(f"user {found.user}")
        side = "text-anchor='end' x='-12'" if x > _WIDE / 2 else "x='12'"
        marks.append(
            f"<g transform='translate({x:.1f} {y:.1f})'><circle class='own' r='7'><title>{name}</title></circle>"
            f"<text class='own' {side} y='4'>{name}</text></g>"
        )
    marks += _names(found, place)
    key = [*colour_of.items(), ("other", "var(--other)")] if top else []
    key = [*key, ("user", "var(--user)")]
    legend = "".join(
        f"<span class='key'><i style='background: {colour}'></i>{escape(name)}</span>" for name, colour in key
    )
    return [
        "<h2>Map of items and users</h2>\n<p class='soft'>The most popular items by their rows of the output layer, and users by "
        "what that layer is given, in the plane of the items' first two principal components, each scaled to the same spread. An "
        "item is recommended to users who lie in its direction. Point at an item for its name.</p>\n",
        f"<p>{legend}</p>\n<svg viewBox='0 0 {_WIDE} {high:.0f}' role='img' aria-label='map of items and users'>",
        *marks,
        "</svg>\n",
    ]


def _names(found: Described, place: Callable[[float, float], tuple[float, float]]) -> list[str]:
    """Name the items farthest from the middle, as long as their names lie neither on each other nor on items."""
    dots = [place(item.x, item.y) for item in found.items]
    taken = [(x - 4.5, x + 4.5, y) for x, y in dots]
    if found.user_place:
        x, y = place(found.user_place.x, found.user_place.y)
        width = 19.0 + 7 * len(f"user {found.user}")
        taken.append((x - width, x + 7, y) if x > _WIDE / 2 else (x - 7, x + width, y))
    marks = []
    for item in sorted(found.items, key=lambda each: -(each.x**2 + each.y**2)):
        x, y = place(item.x, item.y)
        name = item.name if len(item.name) <= 28 else f"{item.name[:27]}…"
        width = 6.2 * len(name)
        for left in (x + 7, x - 7 - width):
            free = all(abs(y - other) >= 10 or left >= end or start >= left + width for start, end, other in taken)
            if free and left >= 0 and left + width <= _WIDE:
                taken.append((left, left + width, y))
                marks.append(f"<text x='{left:.1f}' y='{y + 4:.1f}'>{escape(name)}</text>")
                break
        if len(marks) == 24:
            break
    return marks
