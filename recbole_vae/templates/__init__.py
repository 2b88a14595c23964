"""The pages of HTML: one base page and a template for each report. A page is a single file that opens offline."""

from __future__ import annotations

import functools
import platform
import re
import sys
from collections.abc import Iterator
from html import escape
from importlib import metadata
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from recbole_vae.options.shell import joined
from recbole_vae.version import __version__

_PAGES = Environment(
    loader=PackageLoader("recbole_vae.templates", ""),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_PAGES.policies["json.dumps_kwargs"] = {"allow_nan": False}
_PAGES.filters["words"] = lambda command: re.findall(r"""(?:[^\s'"]|'[^']*'|"[^"]*")+|['"]""", command)
_PAGES.filters["signed"] = lambda value, digits: f"{value:+.{digits}f}".replace("-", "−")


class Page(str):
    """A page of HTML. A notebook shows it in a frame where it is the last expression of a cell."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        return f'<iframe srcdoc="{escape(self)}" style="width: 100%; height: 40rem; border: 0"></iframe>'


def render(name: str, /, **values: Any) -> Page:
    """Return a page; all values are escaped.

    Args:
        name: of the template, without ``.html``.
        values: what the template shows. ``command`` replaces this process's own command in the footer. ``links`` lists
            the sections as (level, anchor, words).
    """
    return Page("".join(stream(name, **values)))


def stream(name: str, /, **values: Any) -> Iterator[str]:
    """Yield the pieces of a page as its values come, so that an iterator among them is never held whole; as :func:`render`."""
    values = {"command": _command(), "versions": _versions(), "links": [], **values}
    return _PAGES.get_template(f"{name}.html").generate(values)


def _command() -> str:
    """Return the command of this process; empty where it is not ``recbole-vae``."""
    program = Path(sys.argv[0]) if sys.argv else Path()
    ours = program.stem == "recbole-vae" or program.parts[-2:] == ("recbole_vae", "__main__.py")
    return joined(["recbole-vae", *sys.argv[1:]]) if ours else ""


@functools.cache
def _versions() -> dict[str, str]:
    found = {"Python": platform.python_version(), "recbole_vae": __version__}
    for package in ("recbole", "torch"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # run from its source, without being installed
            continue
    return found
