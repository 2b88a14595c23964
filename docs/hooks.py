"""What the build of the documentation adds to the pages: generated parts, and equations as MathML.

``<!-- generated: NAME ARGUMENT -->`` in a page stands for what the function NAME of ``GENERATED`` returns as Markdown.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from typing import Any

from latex2mathml.converter import convert

GENERATED: dict[str, Callable[[str], str]] = {}
"""The functions that write parts of pages, by the names that stand in the pages."""


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Write the generated parts of a page."""
    return re.sub(r"<!-- generated: (\w+) ?(.*?) -->", lambda found: GENERATED[found[1]](found[2]), markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Turn the equations of a page into MathML, which browsers draw without a library."""
    return re.sub(
        r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>',
        lambda found: convert(unescape(found[3]), "inline" if found[2] == "(" else "block"),
        html,
        flags=re.DOTALL,
    )
