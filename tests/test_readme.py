"""Every command and every Python block of the README runs: with few epochs, and small data in the place of large ones."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from recbole_vae.cli.main import main
from tests.conftest import random_rows, write_inter

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```(bash|python|yaml)\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]
SHELL = [code for language, code in BLOCKS if language == "bash" and not re.match(r"pip install\b[^&\n]*&&", code)]
"""The blocks that begin with an installation are CI's."""

SMALLER = {
    "run": ["--epochs=1", "--show_progress=False"],
    "compare": ["--epochs=1", "--seeds=1", "--jobs=2"],
    "bench": ["--users=60", "--interactions=800", "--seconds=1", "--repeats=1", "--train_batch_size=20", "--threads=1"],
    "uncertainty": ["--samples=3"],
    "generate": ["--users=50"],
}
"""Options of each command that stand in the place of the README's."""

REPLACED = {
    r"--models=MultVAE,MultDAE,EASE\S*": "--models=MultVAE,EASE,Pop",
    r"--config=plan.yaml --out=table": "--config=plan.yaml --out=planned --tune=1",
    r"\[100, 100\]": "[10, 10]",
    r"--preset=\S+": "--items=80",
    r"--items=\S*000": "--items=80,100",
    r"--n_negatives=1000": "--n_negatives=9",
    r"range\(3000\)": "range(50)",
    r"20_000": "200",
}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with the data sets, files and checkpoints that the README speaks of."""
    folder = tmp_path_factory.mktemp("readme")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["recbole-vae"])
        write_inter(random_rows(), "mydata", folder="dataset")
        rated = [
            (user, item, 4 + place % 2)
            for place, (user, item) in enumerate(itertools.product(range(60), range(120)))
            if place % 7 < 3
        ]
        write_inter(rated, "ml-1m", "user_id:token\titem_id:token\trating:float", "dataset")
        orders = [
            f"{user},{item},{place},title {item}"
            for place, (user, item) in enumerate(itertools.product(range(30), range(20)))
        ]
        Path("orders.csv").write_text("\n".join(["customer,sku,bought_at,title", *orders]), encoding="utf-8")
        Path("new.csv").write_text("user_id,item_id\na,50\na,181\nb,172\n", encoding="utf-8")
        (plan,) = (text for language, text in BLOCKS if language == "yaml")
        Path("plan.yaml").write_text(plan.replace("[750, 750]", "[20, 20]"), encoding="utf-8")
        Path("fixed.yaml").write_text("{model: MultVAE, dataset: ml-100k, epochs: 1}", encoding="utf-8")
        with zipfile.ZipFile("ml-20m.zip", "w") as archive:
            rows = [f"{user},{item},5.0,{user}" for user, item in itertools.product(range(40), range(130))]
            archive.writestr("ml-20m/ratings.csv", "\n".join(["userId,movieId,rating,timestamp", *rows]))
        for model in ("MultVAE", "MultDAE"):
            assert main(["run", f"--model={model}", *SMALLER["run"]]) == 0
    return folder


@pytest.fixture
def place(workshop: Path, tmp_path: Path) -> Path:
    """Give a copy of the workshop that a test may write to; it is the working directory."""
    shutil.copytree(workshop, tmp_path, dirs_exist_ok=True)
    (tmp_path / "run_recbole_vae.py").symlink_to(ROOT / "run_recbole_vae.py")
    return tmp_path


def with_checkpoints(text: str) -> str:
    """Put real checkpoints in the place of those that the README names."""
    for model in ("MultVAE", "MultDAE"):
        (path,) = Path("saved").glob(f"{model}-*.pth")
        text = re.sub(rf"saved/{model}-[^\s\"'`]*\.pth", str(path), text)
    return text


def run(command: str) -> int:
    """Run a command in this process, with its smaller options, and return its exit status."""
    words = shlex.split(command)
    words = ["run", *words[2:]] if words[0] == "python" else words[1:]
    name, *rest = words
    smaller = SMALLER.get(name, [])
    names = {word.partition("=")[0] for word in smaller}
    return main([name, *(word for word in rest if word.partition("=")[0] not in names), *smaller])


@pytest.mark.parametrize("code", SHELL)
def test_the_commands_run(code: str, place: Path) -> None:
    for pattern, smaller in REPLACED.items():
        code = re.sub(pattern, smaller, code)
    if "--dataset=ml-20m" in code:  # `prepare` makes it, for a protocol that holds out 20 000 users
        code = code.replace("--dataset=ml-20m", "--dataset=ml-20m --eval_args=\"{'split': {'HU': [5, 5]}}\"")
    code = with_checkpoints(code)
    if "<<'END'" in code or "timeit" in code:  # for a shell
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
        done = subprocess.run(
            ["bash", "-euc", code], env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return
    for line in code.replace("\\\n", " ").splitlines():
        if not line.startswith(("pip ", "#")):
            assert run(line) == 0, line


@pytest.mark.parametrize("code", PYTHON)
def test_the_python_blocks_run(code: str, place: Path) -> None:
    if "load_data_and_model" not in code and "dataset.token2id" in code:  # goes on from the first block
        code = PYTHON[0] + code
    code = re.sub(r"\"epochs\": \d+", '"epochs": 1, "show_progress": False', code).replace(
        "max_evals=10", "max_evals=2"
    )
    Path("block.py").write_text(with_checkpoints(code), encoding="utf-8")
    done = subprocess.run([sys.executable, "block.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout
