"""What all pages share: escaping, the footer, and that they work in a browser, whatever its width and colours."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from jinja2 import UndefinedError

import recbole_vae
from recbole_vae.analysis import explain_report, latent_report, uncertainty_report
from recbole_vae.analysis.explain import Influence
from recbole_vae.templates import render, stream
from tests.analysis.test_explain import WHOLE
from tests.analysis.test_latent import FOUND
from tests.analysis.test_uncertainty import REPORT
from tests.browser import needs_browser, opened

HOSTILE = "--x=</script><script>alert(1)</script><!--"


def uncertainty_page() -> str:
    return uncertainty_report.as_html(REPORT)


def explanation_page() -> str:
    explain_report.write([WHOLE], None, "explained.html")
    return Path("explained.html").read_text(encoding="utf-8")


def latent_page() -> str:
    return latent_report.html(FOUND)


PAGES = {"uncertainty": uncertainty_page, "explanation": explanation_page, "latent": latent_page}


def test_a_missing_value_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        render("uncertainty")


def test_the_footer_names_the_command_and_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/recbole-vae", "uncertainty", HOSTILE])
    footer = uncertainty_page().partition("<footer>")[2]
    assert f"recbole_vae {recbole_vae.__version__}" in footer
    assert "by <code>recbole-vae uncertainty --x=&#39;&lt;/script&gt;&lt;script&gt;alert(1)" in footer
    monkeypatch.setattr(sys, "argv", ["/usr/bin/jupyter"])
    assert "<code>" not in uncertainty_page().partition("<footer>")[2]


def test_values_are_read_as_the_page_is_written() -> None:
    seen: list[int] = []

    def sections() -> object:
        for place in range(2):
            seen.append(place)
            yield {"anchor": "a", "of": WHOLE, "history": "h", "items": []}

    pieces = stream("explanation", sections=sections(), greedy="")
    assert not seen
    next(piece for piece in pieces if "<section>" in piece)
    assert seen == [0]


@needs_browser
@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_a_narrow_window_in_both_colours(name: str, tmp_path: Path) -> None:
    page = PAGES[name]()
    probe = "[document.documentElement.scrollWidth - innerWidth, getComputedStyle(document.body).backgroundColor]"
    found = [opened(page, tmp_path / str(dark), 500, probe, dark)[1] for dark in (False, True)]
    assert [wide <= 0 for wide, _ in found] == [True, True]
    assert [colour for _, colour in found] == ["rgb(246, 247, 249)", "rgb(20, 23, 28)"]


@needs_browser
@pytest.mark.parametrize("width", [1200, 500])
def test_the_bars_of_all_recommendations_start_at_one_place(tmp_path: Path, width: int) -> None:
    # In the second table the numbers are longer, and so is a name.
    long = replace(WHOLE.recommendations[1], influences=[Influence("a", "A name of many words" * 3, -12.345, 2)])
    shown = replace(WHOLE, recommendations=[WHOLE.recommendations[0], long])
    page = explain_report.html([shown]).replace("<details>", "<details open>")
    bars = "[...document.querySelectorAll('.bar')].map(bar => Math.round(bar.getBoundingClientRect().left))"
    found = opened(page, tmp_path, width, bars)[1]
    assert len(found) == 7
    assert len(set(found)) == 1
