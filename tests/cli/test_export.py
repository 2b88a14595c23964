"""``recbole-vae export``: its three files, and the program of the documentation that reads them."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_vae.cli.main import main
from recbole_vae.serving.recommender import Recommender
from tests.conftest import Builder, random_rows, write_inter
from tests.test_docs import blocks

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

FILES = {"model.onnx", "items.txt", "model.json"}


@pytest.fixture
def checkpoint(build: Builder) -> str:
    run = build("MultVAE", epochs=1)
    run.fit()
    return str(Path(run.trainer.saved_model_file).rename("c.pth"))


def about(folder: str = "out") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(folder, "model.json").read_text(encoding="utf-8"))
    return found


def names(folder: str = "out") -> set[str]:
    return {path.name for path in Path(folder).iterdir()}


def test_three_files_are_written(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("new/out").mkdir(parents=True)
    Path("new/out/mine.txt").write_text("stays")
    words = ["export", f"--checkpoint={checkpoint}", "--out=new/out"]
    assert main(words) == 0
    assert capsys.readouterr().out.startswith(
        "new/out: model.onnx, items.txt, model.json (0.0 MB), MultVAE on tiny, 25 "
    )
    assert names("new/out") == {*FILES, "mine.txt"}
    recommender, found = Recommender.load(checkpoint), about("new/out")
    assert Path("new/out/items.txt").read_bytes().decode().split("\n") == [*recommender.items[1:], ""]
    for name in ("model.onnx", "items.txt"):
        assert found["sha256"][name] == hashlib.sha256(Path("new/out", name).read_bytes()).hexdigest()
    assert found["checkpoint"]["sha256"] == hashlib.sha256(Path(checkpoint).read_bytes()).hexdigest()
    assert found["checkpoint"]["versions"]["torch"] == torch.__version__
    assert found["checkpoint"]["epoch"] == 0
    expected = {
        "format": "recbole_vae export", "format_version": 1, "model": "MultVAE", "dataset": "tiny", "items": 25, "users": 40,
        "weights": None, "precision": "float32",
    }  # fmt: skip
    assert {key: found[key] for key in expected} == expected
    assert found["options"]["latent_dimension"] == 6
    assert found["options"]["popularity_correction"] == 0
    counts = recommender.model.histories.counts(25).numpy()
    assert [each["share"] for each in found["popular"]] == pytest.approx(np.sort(counts)[::-1] / 40, abs=1e-6)
    assert {each["item"] for each in found["popular"]} == set(recommender.items[1:])
    first = {name: Path("new/out", name).read_bytes() for name in FILES}
    assert main(words) == 0
    assert {name: Path("new/out", name).read_bytes() for name in FILES} == first
    assert names("new/out") == {*FILES, "mine.txt"}


def test_options_change_the_graph(checkpoint: str) -> None:
    ranked = {}
    for name, words in (
        ("plain", []), ("rare", ["--popularity_correction=3"]), ("small", ["--precision=int8"]),
    ):  # fmt: skip
        assert main(["export", f"--checkpoint={checkpoint}", f"--out={name}", *words]) == 0
        session = onnxruntime.InferenceSession(f"{name}/model.onnx", providers=["CPUExecutionProvider"])
        inputs = {"history": [0, 1], "offsets": [0, 2], "k": 5}
        fed = {key: np.array(value, dtype=np.int64) for key, value in inputs.items()}
        ranked[name] = session.run(["items"], {**fed, "weights": np.ones(2, np.float32)})[0][0].tolist()
    recommender = Recommender.load(checkpoint, popularity_correction=3)
    (rare,) = recommender.recommend([recommender.items[1:3]], 5)
    assert ranked["rare"] == [recommender.items.index(item) - 1 for item, _ in rare]
    assert ranked["rare"] != ranked["plain"]
    assert about("rare")["options"]["popularity_correction"] == 3
    assert about("small")["precision"] == "int8"
    assert Path("small/model.onnx").read_bytes() != Path("plain/model.onnx").read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out=-"], "--out=- (command line): an export is a folder"),
        (["--out=c.pth"], "--out=c.pth (command line): this is a file; name a folder."),
        ([], "--out (command line) is missing: the folder to write into."),
        (
            ["--out=o", "--precision=int4"],
            "precision: 'int4' (command line) is not allowed; it must be float32 or int8.",
        ),
    ],
)
def test_bad_usage(checkpoint: str, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", f"--checkpoint={checkpoint}", *words]) == 2
    assert f"error: {message}" in capsys.readouterr().err
    assert not Path("o").exists()


def test_a_missing_package_is_named(
    checkpoint: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnx" else found(name))
    assert main(["export", f"--checkpoint={checkpoint}", "--out=out"]) == 2
    assert "pip install 'recbole_vae[export]' first." in capsys.readouterr().err
    assert not Path("out").exists()


def test_a_model_that_cannot_be_exported_leaves_no_folder(build: Builder, capsys: pytest.CaptureFixture[str]) -> None:
    run = build("HybridVAE", epochs=1, kernel_share=0.1)
    run.fit()
    assert main(["export", f"--checkpoint={run.trainer.saved_model_file}", "--out=out"]) == 2
    assert "error: kernel_share: 0.1 has no form in a graph" in capsys.readouterr().err
    assert not Path("out").exists()


def test_the_old_export_stays_where_the_new_one_fails(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", f"--checkpoint={checkpoint}", "--out=out"]) == 0
    before = {name: Path("out", name).read_bytes() for name in FILES}
    Path("out/model.json").unlink()
    Path("out/model.json").mkdir()
    assert main(["export", f"--checkpoint={checkpoint}", "--out=out", "--precision=int8"]) == 1
    assert "model.json: cannot write this file: it is a folder" in capsys.readouterr().err
    assert names() == FILES
    assert Path("out/model.onnx").read_bytes() == before["model.onnx"]


@pytest.mark.parametrize("item", ["two\nlines", "two\rlines", "lone \ud800"])
def test_ids_that_items_txt_cannot_hold_are_refused(
    checkpoint: str, item: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = torch.load(checkpoint, weights_only=True)
    state["items"][3] = item
    monkeypatch.setattr("recbole_vae.storage.checkpoint._load", lambda path: state)
    assert main(["export", f"--checkpoint={checkpoint}", "--out=out"]) == 1
    assert "rename it in the data set" in capsys.readouterr().err
    assert not Path("out").exists()


def test_the_program_of_the_documentation_needs_onnxruntime_and_numpy_alone(build: Builder) -> None:
    rows = [(user, f" {item}é" if item == "i0" else item) for user, item in random_rows()]  # spaces stay
    run = build("MultVAE", "odd", data_path=write_inter(rows, "odd"), epochs=1)
    run.fit()
    assert main(["export", f"--checkpoint={run.trainer.saved_model_file}", "--out=exported"]) == 0
    (program,) = (block for block in blocks("docs/pages/how-to/export.md") if block.title == "rank.py")
    Path("rank.py").write_text(program.code, encoding="utf-8")
    histories = [[" i0é", "i3", "nobody's"], [], ["i7", "i7", "i2"]]
    script = (
        "import json, sys\n"
        "absent = ('torch', 'recbole', 'recbole_vae', 'onnx', 'scipy', 'pandas')\n"
        "sys.modules.update(dict.fromkeys(absent))\n"  # to import one is an ImportError
        "from rank import Ranker\n"
        f"print(json.dumps(Ranker('exported').recommend({histories!r}, k=5)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = Recommender.load(run.trainer.saved_model_file).recommend(histories, 5)
    for ranking, theirs, history in zip(json.loads(done.stdout), expected, histories, strict=True):
        assert [score for _, score in ranking] == pytest.approx([score for _, score in theirs], rel=1e-5, abs=1e-6)
        if history:  # the popular have the same counts now and then
            assert [item for item, _ in ranking] == [item for item, _ in theirs]
