"""Explanations as text, JSON or an HTML page, and the names of items from an ``.item`` file."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from recbole_vae.analysis.explain import Explained, Explanation, ItemText
from recbole_vae.data.atomic import read_header
from recbole_vae.errors import DataError
from recbole_vae.storage.files import standard_output, written_whole
from recbole_vae.templates import Page, stream

_NAMED = 5
"""A sentence names at most this many items of a counterfactual."""


def item_texts(recommender: Any, items: str | None, new_items: str | None = None) -> dict[str, ItemText]:
    """Read names and details of a recommender's items; empty if there is no file.

    Args:
        recommender: it says which file is beside its data.
        items: file to read in place of that one; None for that one, if it is there.
        new_items: file of the items that were added; None for none.

    Raises:
        DataError: see :func:`read_item_texts`.
    """
    beside, key = recommender.item_file, recommender.model.ITEM_ID
    name = items or (beside if beside and beside.is_file() else None)
    found = read_item_texts(name, key) if name else {}
    if new_items is not None:
        form = recommender.model.features.space.form
        found = {**read_item_texts(new_items, key, form.separator, form.encoding), **found}
    return found


def read_item_texts(
    path: str | Path, item_field: str = "item_id", separator: str = "\t", encoding: str = "utf-8"
) -> dict[str, ItemText]:
    """Read the names and details of items from an ``.item`` file of RecBole.

    The item's name is in the first column whose own name contains "title" or "name", else in the first column beside the id;
    where several items have the same there, the id is added. The year of a column with "year" is added to it. The details are
    the columns with "genre", "class" or "categor".

    Args:
        path: the file.
        item_field: name of the column with the items' ids.
        separator: between columns.
        encoding: of the file.

    Raises:
        DataError: the file cannot be read, has no such column or no other, or a line has more or fewer columns than the first.
    """
    columns = list(read_header(path, separator, encoding))
    if item_field not in columns or len(columns) < 2:
        raise DataError(
            f"{path}, line 1: there must be a column '{item_field}' and one with names; there are: {', '.join(columns)}."
        )
    others = [name for name in columns if name != item_field]

    def with_word(*words: str) -> list[int]:
        return [columns.index(name) for name in others if any(word in name.lower() for word in words)]

    named = with_word("title", "name")
    key, name = columns.index(item_field), (named or [columns.index(others[0])])[0]
    years, details = with_word("year")[:1], with_word("genre", "class", "categor")
    texts = {}
    try:
        with Path(path).open(encoding=encoding) as file:
            next(file)
            for number, line in enumerate(file, start=2):
                cells = line.rstrip("\r\n").split(separator)
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
        raise DataError(
            f"{path}: not text in {encoding.upper()} ({error.reason}); save the file as {encoding.upper()}."
        ) from None
    if named:
        return texts
    names = Counter(text.name for text in texts.values())
    return {
        item: replace(text, name=f"{text.name} ({item})") if names[text.name] > 1 else text
        for item, text in texts.items()
    }


def _join(parts: Sequence[str]) -> str:
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else "".join(parts)


def _movement(now: int, without: int) -> str:
    if without == now:
        return f"stay at rank {now}"
    return f"fall to rank {without}" if without > now else f"rise to rank {without}, because others lose more"


def because(each: Explained, by_profile: bool = False) -> str:
    """Say in a sentence what supports a recommendation most: the items whose rank without them is known.

    Args:
        each: the recommendation.
        by_profile: see :class:`~recbole_vae.analysis.explain.Explanation`.
    """
    best = [one for one in each.influences if one.rank_without is not None and one.influence > 0]
    if not best:
        if each.influences:
            return "no single item of the history raises its score"
        return "because of the profile alone" if by_profile else "it is among the most popular"
    first = best[0]
    assert first.rank_without is not None
    return (
        f"because of {_join([f'{one.name} ({one.influence:+.3f})' for one in best])}; without {first.name} it would "
        f"{_movement(each.rank, first.rank_without)}"
    )


def lost_without(each: Explained, explanation: Explanation) -> str:
    """Say in a sentence without which items it would not be recommended; "" if they were not looked for."""
    if not explanation.searched or not each.influences:
        return ""
    if each.counterfactual is None:
        return f"no items were found without which it would drop out of the first {explanation.k}"
    names = {one.item_id: one.name for one in each.influences}
    shown = [names[item] for item in each.counterfactual[:_NAMED]]
    more = len(each.counterfactual) - len(shown)
    return f"not among the first {explanation.k} without {_join([*shown, *([f'{more} more'] if more else [])])}"


def _said(each: Explained, reason: str, explanation: Explanation) -> tuple[str, ...]:
    return made_of(each), reason, lost_without(each, explanation)


GREEDY = "The sets of items to leave out were found greedily and checked by a full ranking; smaller ones may exist."


def made_of(each: Explained) -> str:
    """Say in words which items one without interactions is most like; "" for other items."""
    if not each.alike:
        return ""
    return f"new, and most like {_join([f'{one.name} ({one.weight:.0%})' for one in each.alike])}"


def as_text(explanation: Explanation) -> str:
    """Return an explanation for a terminal."""
    count = len(explanation.history)
    lines = [
        f"User {explanation.user}, {count} item{'s' * (count != 1)} in the history"
        f"{' and a profile, taken as given' * explanation.by_profile}; {explanation.model} on "
        f"{explanation.dataset}, {explanation.method} influences"
    ]
    for each in explanation.recommendations:
        details = f" [{each.details}]" if each.details else ""
        lines.append(f"{each.rank:>3}. {each.name}{details}, score {each.score:.3f}")
        lines += [
            f"     {sentence}"
            for sentence in _said(each, because(each, explanation.by_profile), explanation)
            if sentence
        ]
    if any(each.counterfactual for each in explanation.recommendations):
        lines.append(GREEDY)
    return "\n".join(lines) + "\n"


def as_json(explanation: Explanation) -> str:
    """Return an explanation as one line of JSON: the fields of :class:`~recbole_vae.analysis.explain.Explanation`."""
    return json.dumps(asdict(explanation), ensure_ascii=False) + "\n"


def write(explanations: Iterable[Explanation], json_file: str | None = None, html_file: str | None = None) -> None:
    """Write explanations as they come: to standard output as text, and to the files that are given.

    Args:
        explanations: one for each user.
        json_file: gets a line for each user; ``-``: standard output, instead of the text.
        html_file: gets a page that needs no other file and runs no script.

    Raises:
        DataError: a file or standard output cannot be written. If it is standard output, the files are written.
        BrokenPipeError: the reader of standard output is gone; the files are written.
    """
    lost: Exception | None = None
    with contextlib.ExitStack() as stack:
        to_json = to_html = None
        if json_file is not None and json_file != "-":
            to_json = stack.enter_context(written_whole(Path(json_file)))
        if html_file is not None:
            to_html = stack.enter_context(written_whole(Path(html_file)))

        def shown() -> Iterator[Explanation]:
            nonlocal lost
            for explanation in explanations:
                try:
                    if lost is None:
                        with standard_output() as out:
                            out.write(as_json(explanation) if json_file == "-" else f"{as_text(explanation)}\n")
                except (BrokenPipeError, DataError) as error:
                    if to_json is None and to_html is None:
                        raise
                    lost = error
                if to_json is not None:
                    to_json.write(as_json(explanation))
                yield explanation

        if to_html is not None:
            to_html.writelines(_page(shown()))
        else:
            for _ in shown():
                pass
    if lost:
        raise lost


def html(explanations: Iterable[Explanation]) -> Page:
    """Return a page that needs no other file and runs no script."""
    return Page("".join(_page(explanations)))


def _page(explanations: Iterable[Explanation]) -> Iterator[str]:
    """Yield the page piece by piece; a section for each user as it comes."""
    links: list[tuple[int, str, str]] = []

    def sections() -> Iterator[dict[str, Any]]:
        for place, explanation in enumerate(explanations):
            links.append((2, f"u{place}", f"User {explanation.user}"))
            texts = {each.item_id: each.name for one in explanation.recommendations[:1] for each in one.influences}
            yield {
                "anchor": f"u{place}",
                "of": explanation,
                "history": "; ".join(texts.get(item, item) for item in explanation.history),
                "items": [_recommendation(each, explanation) for each in explanation.recommendations],
                "widest": max(
                    (abs(one.influence) for each in explanation.recommendations for one in each.influences), default=0.0
                ),
            }

    return stream("explanation", sections=sections(), links=links, greedy=GREEDY)


def _recommendation(each: Explained, explanation: Explanation) -> dict[str, Any]:
    # The table says what supports a recommendation; in words, only that nothing does.
    supported = any(one.influence > 0 for one in each.influences)
    reason = "" if supported else because(each, explanation.by_profile)
    sentences = _said(each, reason, explanation) if explanation.history else ()
    names = {one.item_id: one.name for one in each.influences}
    removed = [names[item] for item in each.counterfactual or ()]
    return {
        "of": each,
        "removed": removed if len(removed) > _NAMED else [],
        "sentences": [f"{sentence[:1].upper()}{sentence[1:]}." for sentence in sentences if sentence],
        "first": [one for one in each.influences if one.rank_without is not None],
    }
