"""What the build of the documentation adds to the pages: generated parts, and equations as MathML.

``<!-- generated: NAME ARGUMENT -->`` in a page stands for what the function NAME of ``GENERATED`` returns as Markdown. It takes
the place of the line that follows, too, if that begins with ``_On the site,``: it is for readers of the source.
``<!-- chart: KIND -->`` stands for a chart of the table that follows, ``<!-- board: PAGE PART -->`` for a part of the board.
"""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import board_pages
from charts import with_charts
from generated import GENERATED, with_links
from latex2mathml.converter import convert
from mkdocs.structure.files import File


def on_config(config: Any, **_: Any) -> Any:
    """Add the pages of the board's plans to the navigation."""
    board_pages.made.cache_clear()  # mkdocs serve builds again
    board_pages.add_to(config.nav)
    return config


def on_files(files: Any, config: Any, **_: Any) -> Any:
    """Add the pages of the board's plans."""
    for name in board_pages.made():
        if name != board_pages.FRONT:
            place = f"{board_pages.PLACE}/{name}.md"
            files.append(File.generated(config, place, content=board_pages.of_plan(name)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Write the generated parts and the charts of a page."""
    return with_charts(
        re.sub(
            r"<!-- generated: (\w+) ?(.*?) -->(?:\n_On the site,.*)?",
            lambda found: {**GENERATED, "board": board_pages.front}[found[1]](found[2]),
            markdown,
        )
    )


def on_page_content(html: str, **_: Any) -> str:
    """Turn the equations of a page into MathML, which browsers draw without a library, and names in docstrings into links."""
    html = re.sub(
        r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>',
        lambda found: _mathml(unescape(found[3]), "inline" if found[2] == "(" else "block"),
        html,
        flags=re.DOTALL,
    )
    html = re.sub(r"<!-- board: ([\w.-]+) (\w+) -->", lambda found: board_pages.part(found[1], found[2]), html)
    return with_links(html)


def _mathml(latex: str, display: str) -> str:
    """Convert an equation; names of functions get the spaces that TeX gives them."""
    found = convert(latex, display=display).replace("<mi>&#x0007E;</mi>", "<mo>&#x0223C;</mo>")
    found = re.sub(r"<mo>([A-Za-z@]{2,})</mo>", r"<mi>\1</mi>", found)
    found = found.replace("<mo>&#x02016;</mo>", '<mo stretchy="false">&#x02016;</mo>')
    # Not in front of a bracket, and not inside of an index, whose base is a single element.
    found = re.sub(r"(?<!<msub>)(<mi>(?:log|ln|arccos|diag|mean)</mi>)(?!<mo)", r'\1<mspace width="0.17em"/>', found)
    return f'<div class="equation">{found}</div>' if display == "block" else found
