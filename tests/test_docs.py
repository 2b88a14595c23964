"""Every command and every Python block of README and documentation runs, with few epochs and small data.

The blocks of a page run one after the other in one folder. A YAML, Python or text block with a title is a file of that name.
``<!-- not run: REASON -->`` before a block exempts it, ``<!-- fails -->`` says that its last command ends in an error.
"""

from __future__ import annotations

import functools
import itertools
import os
import re
import shlex
import subprocess
import sys
import textwrap
import zipfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml

from recbole_vae.cli.main import main
from recbole_vae.compare import process
from recbole_vae.compare.measure import measure
from tests.conftest import random_rows, write_inter

ROOT = Path(__file__).parents[1]
PAGES = sorted(str(path.relative_to(ROOT)) for path in [ROOT / "README.md", *(ROOT / "docs/pages").rglob("*.md")])
FENCE = re.compile(
    r"(?:<!-- (?P<mark>[^>]*?) -->\s*)?^(?P<indent> *)```(?P<language>\w*)(?P<head>[^\n]*)\n(?P<code>.*?)^(?P=indent)```",
    re.DOTALL | re.MULTILINE,
)
SHOWN = {"", "text", "csv", "html", "tex", "bibtex"}
"""Languages of blocks that are only looked at."""

SMALLER = {
    "run": ["--epochs=1", "--show_progress=False"],
    "board": ["--jobs=1"],
    "compare": ["--epochs=1", "--seeds=1", "--jobs=1"],
    "bench": ["--users=60", "--interactions=800", "--seconds=1", "--repeats=1", "--train_batch_size=20", "--threads=1"],
    "generate": ["--users=50"],
}
"""Options of each command that stand in the place of the page's."""

REPLACED = {
    r"(--models=\w+,\w+),\S*": r"\1",
    r"--tune=\d+": "--tune=1",
    r"--samples=100": "--samples=3",
    r"trials: \d+": "trials: 1",
    r"seeds: \d+": "seeds: 1",
    r"\[100, 100\]": "[10, 10]",
    r"\[750, 750\]": "[20, 20]",
    r"--preset=\S+": "--items=80",
    r"--items=\S*000": "--items=80",
    r"--n_negatives=\d+": "--n_negatives=9",
    r"range\(3000\)": "range(50)",
    r"20_000": "200",
    r"max_evals=\d+": "max_evals=2",
    r"--dataset=ml-20m": "--dataset=ml-20m --eval_args=\"{'split': {'HU': [5, 5]}}\"",
}


@dataclass
class Block:
    """A block of code: its language, the name of the file that it is or "", and the comment before it or ""."""

    language: str
    title: str
    code: str
    mark: str


def blocks(page: str) -> list[Block]:
    found = []
    for fence in FENCE.finditer((ROOT / page).read_text(encoding="utf-8")):
        title = re.search(r'title="([^"]*)"', fence["head"])
        code = textwrap.dedent(fence["code"])
        found.append(Block(fence["language"], title[1] if title else "", code, fence["mark"] or ""))
    return found


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with the data sets, files and checkpoints that the pages speak of."""
    folder = tmp_path_factory.mktemp("docs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["recbole-vae"])
        rows = [(*row, place) for place, row in enumerate(random_rows())]
        write_inter(rows, "mydata", "user_id:token\titem_id:token\ttimestamp:float", "dataset")
        rated = [
            (user, item, 4 + place % 2)
            for place, (user, item) in enumerate(itertools.product(range(60), range(120)))
            if place % 7 < 3
        ]
        write_inter(rated, "ml-1m", "user_id:token\titem_id:token\trating:float", "dataset")
        for part in ("train", "valid", "test"):
            write_inter(random_rows(seed=len(part)), "gowalla-lightgcn", folder="dataset", part=part)
            write_inter(random_rows(seed=len(part)), "lastfm", folder="dataset", part=part)
        rng = np.random.default_rng(0)
        orders = [
            f"C{user},SKU-{item},2024-03-{1 + item % 28:02d} 12:{user:02d}:00,Title {item}"
            for user in range(40)
            for item in rng.choice(24, 12, replace=False)
        ]
        Path("orders.csv").write_text("\n".join(["customer,sku,bought_at,title", *orders]), encoding="utf-8")
        Path("in_stock.txt").write_text("".join(f"SKU-{item}\n" for item in range(12)), encoding="utf-8")
        Path("new.csv").write_text("user_id,item_id\na,50\na,181\nb,172\n", encoding="utf-8")
        with zipfile.ZipFile("ml-20m.zip", "w") as archive:
            lines = [f"{user},{item},5.0,{user}" for user, item in itertools.product(range(40), range(130))]
            archive.writestr("ml-20m/ratings.csv", "\n".join(["userId,movieId,rating,timestamp", *lines]))
        for model in ("MultVAE", "MultDAE"):
            assert main(["run", f"--model={model}", *SMALLER["run"]]) == 0
    return folder


@pytest.fixture
def place(workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: None) -> Path:
    """Give a copy of the workshop that a page may write to, as the working directory; take away what it registers."""
    for path in workshop.rglob("*"):
        if path.is_file():
            target = tmp_path / path.relative_to(workshop)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, target)  # files are replaced here, never changed
    (tmp_path / "run_recbole_vae.py").symlink_to(ROOT / "run_recbole_vae.py")
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv/bin").symlink_to(Path(sys.executable).parent)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(process, "execute", in_this_process)
    return tmp_path


def in_this_process(specification: dict[str, Any], folder: str) -> dict[str, bytes]:
    """Do a run of a comparison here: a process of its own takes seconds to start, and these pages are about what follows."""
    job, scores = specification["job"], list[float]()

    def report(step: int, score: float) -> bool:
        scores.append(score)
        return False

    before = set(Path("saved").iterdir())
    run = measure(job, report if job.get("trial") else None)
    for file in set(Path("saved").iterdir()) - before:  # a page's own checkpoints stay the newest
        file.unlink()
    run.trials = [{"scores": scores}] if scores else []
    Path(folder).mkdir(parents=True, exist_ok=True)
    run.save(Path(folder))
    return {}


def smaller(text: str) -> str:
    """Make a block fit for the test."""
    for pattern, replacement in REPLACED.items():
        text = re.sub(pattern, replacement, text)
    return text


def with_checkpoints(text: str) -> str:
    """Put the newest checkpoints in the place of those that a command or Python block names."""
    for model in re.findall(r"saved/(\w+)-…\.pth", text):
        newest = max(Path("saved").glob(f"{model}-*.pth"), key=lambda path: path.stat().st_mtime_ns)
        text = text.replace(f"saved/{model}-….pth", str(newest))
    return text


def smaller_plan(text: str) -> str:
    """Leave two rows and one protocol of a plan, for one epoch; other YAML stays as it is."""
    plan = yaml.safe_load(text)
    if not isinstance(plan, dict) or "rows" not in plan:
        return text
    plan["rows"] = plan["rows"][:2]
    if "protocols" in plan:
        plan["protocols"] = dict([*plan["protocols"].items()][:1])
    for each in [plan, *plan["rows"]]:
        if isinstance(each, dict) and "epochs" in each.get("settings", {}):
            each["settings"]["epochs"] = 1
    return yaml.safe_dump(plan)


def run(command: str) -> int:
    """Run a command with its smaller options, in this process if it is one of recbole-vae, and return its exit status."""
    ours = re.fullmatch(r"(?:recbole-vae|python -m recbole_vae|python (run)_recbole_vae\.py)\b([^|<>]*)", command)
    if not ours:
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
        done = subprocess.run(
            ["bash", "-euc", command], env={**os.environ, "PATH": path}, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr.decode()
        return 0
    words = shlex.split(f"{ours[1] or ''}{ours[2]}")
    name, rest = words[0], words[1:]
    options = SMALLER.get(name, []) if not any(word.startswith("--resume") for word in rest) else []
    names = {word.partition("=")[0] for word in options}
    words = [name, *(word for word in rest if word.partition("=")[0] not in names), *options]
    return bench(tuple(words)) if name == "bench" else main(words)


@functools.cache
def bench(words: tuple[str, ...]) -> int:
    """Run ``bench``; what differs only in the size of its data is the same here, and runs once."""
    return main(words)


def commands(code: str) -> list[str]:
    """Divide a block into its commands; what installs is left to CI."""
    if "<<'END'" in code or "timeit" in code:
        return [code]
    lines = code.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith(("#", "pip ", "uv ", "git ", "cd "))]


def python_block(code: str, namespace: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a block in the namespace of its page. RecBole reads the number of epochs from the command line."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["page", *SMALLER["run"]])
        exec(compile(code, namespace.__name__, "exec", dont_inherit=True), namespace.__dict__)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)])
def test_the_blocks_of_a_page_run(page: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    namespace = ModuleType("page_of_docs")
    monkeypatch.setitem(sys.modules, namespace.__name__, namespace)
    for block in blocks(page):
        assert not block.mark or re.fullmatch(r"not run: .{10,}|fails", block.mark), block.mark
        if block.mark.startswith("not run") or (
            block.language in SHOWN and not (block.language == "text" and block.title)
        ):
            continue
        code = smaller(block.code)
        if block.title:
            Path(block.title).write_text(smaller_plan(code) if block.language == "yaml" else code, encoding="utf-8")
        elif block.language == "python":
            python_block(with_checkpoints(code), namespace, monkeypatch)
        elif block.language == "bash":
            status: Any = [run(with_checkpoints(command)) for command in commands(code)]
            assert status[-1] != 0 if block.mark == "fails" else not any(status), (status, code)
        else:
            assert block.language == "yaml", f"{page}: no test knows what to do with a block in '{block.language}'"


STUB = """#!/bin/sh
echo "$1" >> calls
for word; do case $word in --out=*) echo "$1" > "${word#--out=}";; esac; done
[ "$1" != evaluate ] || exit $(cat status)
"""


@pytest.mark.parametrize(
    ("orders", "status", "ends", "steps"),
    [
        ("", 0, 0, ["prepare", "refit", "recommend", "compare-lists"]),
        ("C1,SKU-4", 0, 0, ["prepare", "evaluate", "prepare", "refit", "recommend", "compare-lists"]),
        ("C1,SKU-4\n", 3, 0, ["prepare", "evaluate", "prepare", "refit", "recommend", "compare-lists"]),
        ("C1,SKU-4\n", 1, 1, ["prepare", "evaluate"]),
    ],
)
def test_the_nightly_script_goes_on_where_it_should(
    orders: str, status: int, ends: int, steps: list[str], tmp_path: Path
) -> None:
    (script,) = (block for block in blocks("docs/pages/how-to/production.md") if block.title == "nightly.sh")
    for folder in ("venv/bin", "log", "log_tensorboard"):
        (tmp_path / folder).mkdir(parents=True)
    for name, text in (
        ("nightly.sh", script.code), ("venv/bin/recbole-vae", STUB), ("today.csv", f"customer,sku\n{orders}"),
        ("status", str(status)), ("live.pth", "old"), ("log/old", ""), ("log/new", ""),
    ):  # fmt: skip
        (tmp_path / name).write_text(text, encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    os.utime(tmp_path / "log/old", (0, 0))
    done = subprocess.run([tmp_path / "nightly.sh"], env={"PATH": "/usr/bin:/bin"}, check=False)
    assert done.returncode == ends
    assert (tmp_path / "calls").read_text().split() == steps
    assert (tmp_path / "live.pth").read_text() == ("old" if ends else "refit\n")
    assert (tmp_path / "log/old").exists() == bool(ends)
    assert (tmp_path / "log/new").exists()


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    words = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "-f",
        str(ROOT / "docs/mkdocs.yml"),
        "-d",
        str(tmp_path),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = "".join(path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.html"))
    assert not re.findall(
        r'<(?:script|img|iframe)[^>]* src="https?:|<link[^>]* rel="stylesheet"[^>]* href="https?:', loaded
    )


def test_the_readme_is_short_and_its_links_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count("\n") <= 180
    paths = [path for path in re.findall(r"\]\(([^)#]+)", text) if not path.startswith("http")]
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []
