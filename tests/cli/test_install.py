"""RecBole is missing: what the command line says and offers. And a folder called like the package hides nothing."""

from __future__ import annotations

import importlib.util
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from recbole_vae.cli import install
from recbole_vae.cli.main import main


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Hide RecBole until an installation is run; the list gets the words of the command."""
    ran: list[str] = []
    real = importlib.util.find_spec

    def find_spec(name: str, *rest: Any) -> Any:
        return None if name == "recbole" and not ran else real(name, *rest)

    def run(command: list[str], check: bool) -> Any:
        ran.extend(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr("importlib.util.find_spec", find_spec)
    monkeypatch.setattr("subprocess.run", run)
    return ran


def test_without_a_terminal_it_says_so_in_three_lines(missing: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--epochs=1"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert "RecBole is not installed" in lines[0]
    assert lines[2].endswith('install --no-deps "recbole>=1.2.1,<1.3"')
    assert missing == []


def test_help_needs_no_recbole(missing: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", "--help"]) == 0
    assert main(["--help"]) == 0


@pytest.mark.parametrize(("answer", "installs"), [("\n", True), ("y\n", True), ("n\n", False), ("", False)])
def test_on_a_terminal_it_offers_to_install(
    answer: str, installs: bool, missing: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", _Terminal(answer))
    monkeypatch.setattr(sys, "stderr", _Terminal())
    status = main(["exec", "nothing.py"])
    assert bool(missing) is installs
    assert status != 0  # there is no such script
    if installs:
        assert missing[1:] == ["-m", "pip", "install", "--no-deps", "recbole>=1.2.1,<1.3"]


def test_without_pip_it_is_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: "/bin/uv")
    assert install.install_command()[:3] == ["uv", "pip", "install"]


def test_a_folder_called_like_the_package_does_not_hide_it(tmp_path: Path) -> None:
    (tmp_path / "recbole_vae" / "docs").mkdir(parents=True)  # as the folder that holds the clone has
    code = "import recbole_vae; print(recbole_vae.__version__, recbole_vae.register)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
