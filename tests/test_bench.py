"""The benchmark: its data, its arithmetic, and a real run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_vae.bench import first_batches, generate, ratios, shape_of, table
from recbole_vae.cli import main
from tests.conftest import Builder


@settings(max_examples=20, deadline=None)
@given(users=st.integers(2, 300), items=st.integers(20, 400), seed=st.integers(0, 99), share=st.floats(0, 1))
def test_generated_data_have_each_pair_once_and_nearly_as_many_as_asked(
    users: int, items: int, seed: int, share: float
) -> None:
    low, high = 5 * users, users * items // 4
    wanted = int(low + share * max(0, high - low))
    owners, chosen = generate(users, items, wanted, seed)
    assert len(owners) == len(set(zip(owners.tolist(), chosen.tolist(), strict=True))) <= wanted
    assert owners.min() >= 0
    assert owners.max() < users
    assert chosen.min() >= 0
    assert chosen.max() < items


def test_generated_data_are_spread_as_in_movielens() -> None:
    users, items = generate(3000, 2000, 200_000)
    assert len(users) > 180_000
    popularity = np.sort(np.bincount(items, minlength=2000))[::-1]
    assert 0.05 < popularity[:20].sum() / len(items) < 0.3  # the most popular hundredth
    lengths = np.bincount(users, minlength=3000)
    assert lengths.min() >= 4
    assert np.median(lengths) < 0.8 * lengths.mean()


def test_ratios_compare_the_same_repeat() -> None:
    def one(
        load: float, train: float | None, evaluate: dict[str, float], memory: float, error: str = ""
    ) -> dict[str, Any]:
        return {"load": load, "train": train, "evaluate": evaluate, "memory": memory, "error": error}

    broken = one(0, None, {}, 0, "out of memory")
    report = {
        "machine": {"processor": "P", "gpu": None, "threads": 2},
        "versions": {"torch": "2"},
        "data": {"users": 1, "items": 2, "interactions": 3},
        "train_batch_size": 5,
        "measured": {
            "RecBole's MultiVAE": [one(2, 10, {"1": 4, "9": 8}, 6), one(4, 20, {"1": 4, "9": 2}, 6)],
            "A": [one(1, 30, {"9": 16}, 3), one(4, 20, {"9": 4}, 2)],
            "B": [broken],
            "C": [one(1, None, {"9": 8}, 6), one(1, None, {"9": 8}, 6)],
        },
    }
    assert ratios(report, "A") == {
        "load": [2, 1], "train": [3, 1], "eval, its default": [4, 1], "eval, its best": [2, 1], "memory": [2, 3],
    }  # fmt: skip
    assert ratios(report, "B") == {}
    assert "train" not in ratios(report, "C")
    text = table(report)
    assert "train 2.00 (1.00 to 3.00)" in text
    assert "out of memory" in text


def test_a_part_of_a_dataloader_gives_its_first_batches(build: Builder) -> None:
    run = build(eval_batch_size=100)
    for loader in (run.train, run.valid):
        part = first_batches(loader, 2)
        assert len(part) == 2
        assert len(list(part)) == 2
        assert len(list(loader)) == len(loader) > 2
        assert type(part).__mro__[1] is type(loader)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset=ml-2m"], "--preset=ml-2m (command line) is unknown; there are ml-100k, ml-1m"),
        (["--users=5"], "--users, --items and --interactions (command line) must be given together"),
        (["--users=9", "--items=9", "--interactions=9"], "--interactions=9 (command line) must be from 5 times"),
        (["--models=MultVEA"], "model: there is no model 'MultVEA'; did you mean MultVAE?"),
        (["--repeat=3"], "--repeat (command line): bench has no such option; did you mean --repeats?"),
        (["--repeats=0"], "repeats: '0' (command line) is not allowed"),
        (["--json=gone/a.json"], "--json=gone/a.json (command line): there is no folder gone."),
    ],
)
def test_mistakes_are_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_shapes() -> None:
    assert shape_of({}) == (6_040, 3_706, 1_000_209)
    assert shape_of({"users": "100", "items": "100", "interactions": "1000"}) == (100, 100, 1000)


SMALL = ["--users=60", "--items=80", "--interactions=600", "--seconds=1", "--repeats=1", "--train_batch_size=16"]


def test_a_real_run() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "recbole_vae", "bench", *SMALL, "--models=MultVAE,ItemKNN", "--json=out.json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(Path("out.json").read_text())
    assert list(report["measured"]) == ["RecBole's MultiVAE", "MultVAE", "ItemKNN"]
    for name, (measured,) in report["measured"].items():
        assert measured["error"] == ""
        assert measured["load"] > 0
        assert min(measured["evaluate"].values()) > 0
        assert (measured["train"] is None) == (name == "ItemKNN")
        assert 0.1 < measured["memory"] < 20
    assert "times better than RecBole's MultiVAE" in done.stdout
    assert [path.name for path in Path().iterdir()] == ["out.json"]


def test_too_little_memory_is_a_result() -> None:
    from recbole_vae import bench

    limit = 0.2
    report = bench.run(["Pop"], [], (60, 80, 600), repeats=1, seconds=1, batch_size=16, memory_limit=limit)
    assert [repeated[0]["error"] for repeated in report["measured"].values()] == ["out of memory"] * 2
    assert "nothing to compare" in bench.table(report)
