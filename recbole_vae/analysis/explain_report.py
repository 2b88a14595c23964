"""Explanations for people: as text, as JSON, as a page of HTML; and the names of items, from an ``.item`` file."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path

from recbole_vae.analysis.explain import Explained, Explanation, Influence, ItemText
from recbole_vae.data.atomic import read_header
from recbole_vae.errors import DataError
from recbole_vae.storage.files import standard_output, written_whole

_NAMED = 5
"""The most items of a counterfactual that a sentence names."""


def read_item_texts(path: str | Path, item_field: str = "item_id") -> dict[str, ItemText]:
    """Read what people call the items from an ``.item`` file of RecBole, in UTF-8.

    The name is the column whose name contains "title" or "name", or else the first one after the item's id, with the column
    that contains "year" behind it; the details are those that contain "genre", "class" or "categor".

    Args:
        path: the file.
        item_field: name of the column with the items' ids.

    Raises:
        DataError: the file cannot be read, has no such column or no other, or a line has another number of columns than the
            first.
    """
    columns = list(read_header(path, "\t", "utf-8"))
    if item_field not in columns or len(columns) < 2:
        raise DataError(
            f"{path}, line 1: there must be a column '{item_field}' and one with names; there are: {', '.join(columns)}."
        )
    others = [name for name in columns if name != item_field]

    def with_word(*words: str) -> list[int]:
        return [columns.index(name) for name in others if any(word in name.lower() for word in words)]

    key, name = columns.index(item_field), (with_word("title", "name") or [columns.index(others[0])])[0]
    years, details = with_word("year")[:1], with_word("genre", "class", "categor")
    texts = {}
    try:
        with Path(path).open(encoding="utf-8-sig") as file:
            next(file)
            for number, line in enumerate(file, start=2):
                cells = line.rstrip("\r\n").split("\t")
                if cells == [""]:
                    continue
                if len(cells) != len(columns):
                    raise DataError(f"{path}, line {number}: {len(cells)} columns instead of {len(columns)}.")
                year = "".join(
                    f" ({cells[place]})" for place in years if cells[place] and cells[place] not in cells[name]
                )
                detail = ", ".join(cells[place] for place in details if cells[place])
                texts[cells[key]] = ItemText((cells[name] or cells[key]) + year, detail)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not text in UTF-8 ({error.reason}); save the file as UTF-8.") from None
    return texts


def _join(parts: Sequence[str]) -> str:
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else "".join(parts)


def _movement(now: int, without: int) -> str:
    if without == now:
        return f"stay at rank {now}"
    return f"fall to rank {without}" if without > now else f"rise to rank {without}, for others lose more"


def because(each: Explained) -> str:
    """Say in a sentence what supports a recommendation most: the items whose rank without them is known."""
    best = [one for one in each.influences if one.rank_without is not None and one.influence > 0]
    if not best:
        return "no single item of the history raises its score" if each.influences else "it is among the most popular"
    first = best[0]
    assert first.rank_without is not None
    return (
        f"because of {_join([f'{one.name} ({one.influence:+.2f})' for one in best])}; without {first.name} it would "
        f"{_movement(each.rank, first.rank_without)}"
    )


def lost_without(each: Explained, explanation: Explanation) -> str:
    """Say in a sentence what would have to be missing; empty where nothing was looked for."""
    if not explanation.searched or not each.influences:
        return ""
    if each.counterfactual is None:
        return f"no set was found without which it is not among the first {explanation.k}"
    names = {one.item_id: one.name for one in each.influences}
    shown = [names[item] for item in each.counterfactual[:_NAMED]]
    more = len(each.counterfactual) - len(shown)
    return f"not among the first {explanation.k} without {_join([*shown, *([f'{more} more'] if more else [])])}"


GREEDY = "What would have to be missing was found greedily and checked by a full ranking; smaller sets may exist."


def as_text(explanation: Explanation) -> str:
    """Return an explanation for a terminal."""
    count = len(explanation.history)
    lines = [
        f"User {explanation.user}, {count} item{'s' * (count != 1)} in the history; {explanation.model} on "
        f"{explanation.dataset}, {explanation.method} influences"
    ]
    for each in explanation.recommendations:
        details = f" [{each.details}]" if each.details else ""
        lines.append(f"{each.rank:>3}. {each.name}{details}, score {each.score:.2f}")
        lines += [f"     {sentence}" for sentence in (because(each), lost_without(each, explanation)) if sentence]
    if any(each.counterfactual for each in explanation.recommendations):
        lines.append(GREEDY)
    return "\n".join(lines) + "\n"


def as_json(explanation: Explanation) -> str:
    """Return an explanation as one line of JSON: the fields of :class:`~recbole_vae.analysis.explain.Explanation`."""
    return json.dumps(asdict(explanation), ensure_ascii=False) + "\n"


_HEAD = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>Recommendations explained</title>
<style>
:root { color-scheme: light dark; --for: light-dark(#2a7de1, #5ca2f5); --against: light-dark(#c2571a, #e98a4e);
  --line: light-dark(#ddd, #444); --soft: light-dark(#666, #aaa); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin: 0; }
article { border-top: 1px solid var(--line); padding: 1rem 0; }
p { margin: .3rem 0; } .soft { color: var(--soft); font-weight: normal; font-size: .9rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th { text-align: left; font-weight: normal; width: 45%; } td { font-variant-numeric: tabular-nums; }
.bar { display: inline-block; height: .7em; background: var(--for); margin-right: .5em; }
.against { background: var(--against); }
summary { cursor: pointer; color: var(--soft); font-size: .9rem; }
@media print { body { max-width: none; margin: 0; } article { break-inside: avoid; } .bar { print-color-adjust: exact; } }
</style>
</head>
<body>
"""


_TAIL = "</body>\n</html>\n"


_NO_HISTORY = (
    "<p>The history has no item of the training data. So these are the most popular items, and a score is the share of the "
    "training users who have the item.</p>\n"
)


def write(explanations: Iterable[Explanation], json_file: str | None = None, html_file: str | None = None) -> None:
    """Write explanations as they come: to standard output as text, and to the files that are given.

    Args:
        explanations: of one user after the other.
        json_file: a line for each user; ``-``: to standard output, in the place of the text.
        html_file: a page that needs no other file and runs no script.

    Raises:
        DataError: a file or standard output cannot be written; in the latter case the files are.
        BrokenPipeError: whoever read standard output has gone; the files are written.
    """
    lost: Exception | None = None
    with contextlib.ExitStack() as stack:
        to_json = to_html = None
        if json_file is not None and json_file != "-":
            to_json = stack.enter_context(written_whole(Path(json_file)))
        if html_file is not None:
            to_html = stack.enter_context(written_whole(Path(html_file)))
            to_html.write(_HEAD)
        greedy = False
        for explanation in explanations:
            greedy = greedy or any(each.counterfactual for each in explanation.recommendations)
            try:
                if lost is None:
                    with standard_output() as shown:
                        shown.write(as_json(explanation) if json_file == "-" else f"{as_text(explanation)}\n")
            except (BrokenPipeError, DataError) as error:
                if to_json is None and to_html is None:
                    raise
                lost = error
            if to_json is not None:
                to_json.write(as_json(explanation))
            if to_html is not None:
                to_html.write(as_html(explanation))
        if to_html is not None:
            to_html.write(f"<p class='soft'>{GREEDY}</p>\n{_TAIL}" if greedy else _TAIL)
    if lost:
        raise lost


def as_html(explanation: Explanation) -> str:
    """Return an explanation as a section of HTML; whatever comes from data is escaped."""
    texts = {each.item_id: each.name for one in explanation.recommendations[:1] for each in one.influences}
    history, count = "; ".join(texts.get(item, item) for item in explanation.history), len(explanation.history)
    parts = [
        f"<section>\n<h1>User {escape(explanation.user)}</h1>\n<p class='soft'>{escape(explanation.model)} on "
        f"{escape(explanation.dataset)}, {escape(explanation.method)} influences</p>\n"
    ]
    shown = f"<details><summary>History: {count} item{'s' * (count != 1)}</summary><p>{escape(history)}</p></details>\n"
    parts.append(shown if count else _NO_HISTORY)
    for each in explanation.recommendations:
        parts.append(
            f"<article>\n<h2>{each.rank}. {escape(each.name)} <span class='soft'>{escape(each.details)} · score "
            f"{each.score:.2f}</span></h2>\n"
        )
        for sentence in (because(each), lost_without(each, explanation)) if count else ():
            parts.append(f"<p>{escape(sentence[:1].upper() + sentence[1:])}.</p>\n" if sentence else "")
        widest = max((abs(one.influence) for one in each.influences), default=0.0)
        first = [one for one in each.influences if one.rank_without is not None]
        parts.append(_table(first, widest))
        if len(each.influences) > len(first):
            parts.append(f"<details><summary>All {len(each.influences)} items of the history</summary>\n")
            parts.append(f"{_table(each.influences, widest)}</details>\n")
        parts.append("</article>\n")
    return "".join([*parts, "</section>\n"])


def _table(influences: Sequence[Influence], widest: float) -> str:
    rows = []
    for one in influences:
        width = 12 * abs(one.influence) / widest if widest else 0.0
        rank = "" if one.rank_without is None else f", rank {one.rank_without} without it"
        rows.append(
            f"<tr><th>{escape(one.name)}</th><td><span class='bar{' against' * (one.influence < 0)}' style='width: "
            f"{width:.2f}em'></span>{one.influence:+.3f}{rank}</td></tr>\n"
        )
    return f"<table>\n{''.join(rows)}</table>\n" if rows else ""
