"""Pages in a real headless browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

BROWSER = shutil.which("chromium")
needs_browser = pytest.mark.skipif(BROWSER is None, reason="needs chromium")


def opened(page: str, folder: Path, width: int, probe: str = "null", dark: bool = False) -> tuple[str, Any]:
    """Open a page, which must neither complain nor ask for anything.

    Args:
        page: its HTML.
        folder: for temporary files.
        width: of the window, in pixels.
        probe: JavaScript that is evaluated once the page is drawn.
        dark: whether the user prefers dark colours.

    Returns:
        The page as the browser has it in the end, and the value of ``probe``.
    """
    script = f"""<script>addEventListener("load", async () => {{
        const all = document.getElementById("charts") ? JSON.parse(document.getElementById("charts").textContent).length : 0;
        while (all && document.documentElement.dataset.drawn !== String(all)) await new Promise(go => setTimeout(go, 20));
        document.documentElement.dataset.probe = JSON.stringify({probe});
    }});</script>"""
    # The probe may run where the page itself has no scripts.
    page = page.replace('img-src data:"', "img-src data:; script-src 'unsafe-inline'\"")
    folder.mkdir(exist_ok=True)
    (folder / "page.html").write_text(page.replace("</body>", f"{script}</body>"), encoding="utf-8")
    log = folder / "net.json"
    flags = ["headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"]
    flags += ["disable-component-update", "disable-sync", "enable-logging=stderr", "v=0", "dump-dom", "hide-scrollbars"]
    flags += ["virtual-time-budget=20000", f"user-data-dir={folder / 'profile'}", f"log-net-log={log}"]
    flags += ["host-resolver-rules=MAP * ~NOTFOUND", f"window-size={width},900"]
    flags += [f"blink-settings=preferredColorScheme={0 if dark else 1}"]
    words = [str(BROWSER), *(f"--{flag}" for flag in flags), (folder / "page.html").as_uri()]
    run = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert "CONSOLE" not in run.stderr, run.stderr
    # Chromium asks its makers for this and that, and says so; what a page asks for has an origin.
    assert set(re.findall(r'"initiator":"([^"]*)"', log.read_text(errors="replace"))) <= {"not an origin"}
    found = re.search(r'<html[^>]*data-probe="([^"]*)"', run.stdout)
    assert found, run.stdout[:500]
    return run.stdout, json.loads(unescape(found[1]))
