"""The script of all GPU checks: what it does without a GPU, and that its commands can be given."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / ".ci/gpu"

pytestmark = pytest.mark.skipif(os.name == "nt", reason="a script of bash")


def script(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([SCRIPT, *words], capture_output=True, text=True, check=False, env=environment)


def test_without_a_gpu_it_says_so_in_one_line(tmp_path: Path) -> None:
    done = script(str(tmp_path / "out"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"there is no GPU that torch of {sys.executable} can use, and all of these checks need one\n"
    assert not (tmp_path / "out").exists()


def test_its_commands_can_be_given() -> None:
    done = script("-n")
    assert done.returncode == 0, done.stderr
    heard = set()
    for python, *words in map(shlex.split, done.stdout.splitlines()):
        assert python == sys.executable
        if words[0] == "-c":
            compile(words[1], "-c", "exec")
        elif words[1] == "pytest":
            assert all((ROOT / word).is_file() for word in words if word.endswith(".py"))
        else:
            import_module(f"recbole_vae.cli.{words[2]}").parser().read(words[3:])  # or it raises
        heard.add(words[0] if words[0] == "-c" else words[1])
    assert heard == {"-c", "pytest", "recbole_vae"}
