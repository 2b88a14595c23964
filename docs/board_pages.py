"""The board on the site: the page ``results/board/index.md``, and a page for each plan beside it, which is made here.

The tables and drawings take the place of comments after Markdown is done, because Markdown must not touch them.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from recbole_vae.compare import board
from recbole_vae.compare.board_report import BoardPage, pages
from recbole_vae.templates import render

FRONT = board.FRONT
FOLDER = Path(__file__).parent / "pages/results/board"
PLACE = "results/board"


@functools.cache
def made() -> dict[str, BoardPage]:
    """Return the pages of the board by name; nothing is run, and nothing is written."""
    entries = board.read(FOLDER)
    for entry in entries:
        entry.analyse()
    return {page.name: page for page in pages(entries)}


def front(_: str = "") -> str:
    """Return the parts of the front page, for the page that people wrote."""
    return _markdown(made()[FRONT])


def of_plan(name: str) -> str:
    """Return the page of a plan as Markdown."""
    page = made()[name]
    files = [file.name for suffix in ("yaml", "json", "parquet") if (file := FOLDER / f"{name}.{suffix}").is_file()]
    links = ", ".join(f"[`{file}`]({file})" for file in files)
    return f"# {page.heading}\n\n[All cells of the board](index.md). The files: {links}.\n\n{_markdown(page)}"


def _markdown(page: BoardPage) -> str:
    lines = [page.lead, f"<!-- board: {page.name} filter -->"]
    for number, section in enumerate(page.sections):
        heading = section.words.replace("_", r"\_").replace("*", r"\*").replace("<", "&lt;")
        lines += [f"{'#' * section.level} {heading} {{ #{section.anchor} }}", f"<!-- board: {page.name} {number} -->"]
    return "\n\n".join([*lines, f"<!-- board: {page.name} end -->"])


def part(name: str, which: str) -> str:
    """Return what takes the place of a comment: the filter, a section by its number, or what a page needs at its end."""
    if which == "end":
        return str(render("board_site"))
    inner = render("board_filter") if which == "filter" else made()[name].sections[int(which)].html
    return f'<div class="board">{inner}</div>'


def add_to(nav: list[Any]) -> None:
    """Add the pages of the plans to the navigation, below the front page."""
    for entry in nav:
        for inner in entry.values() if isinstance(entry, dict) else ():
            if isinstance(inner, list) and f"{PLACE}/index.md" in inner:
                inner += [{name: f"{PLACE}/{name}.md"} for name in made() if name != FRONT]
            elif isinstance(inner, list):
                add_to(inner)
