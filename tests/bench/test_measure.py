"""The benchmark: its data, its arithmetic, and a real run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from recbole_vae.bench import run as bench
from recbole_vae.bench.data import generate
from recbole_vae.bench.measure import first_batches
from recbole_vae.bench.memory import limit_memory, peak_memory
from recbole_vae.bench.report import plot, ratios, table
from recbole_vae.bench.run import sides
from recbole_vae.bench.shapes import shapes_of
from recbole_vae.cli.main import main
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


def one(
    load: float, train: dict[str, float] | None, evaluate: dict[str, float], memory: float, error: str = ""
) -> dict[str, Any]:
    """A measurement."""
    return {"load": load, "train": train, "evaluate": evaluate, "memory": [0.1, memory / 2, memory], "error": error}


def report_of(items: int = 2) -> dict[str, Any]:
    broken = one(0, None, {}, 0, "out of memory")
    return {
        "machine": {"processor": "P", "gpu": None, "threads": 2},
        "versions": {"torch": "2"},
        "data": {"users": 1, "items": items, "interactions": 3},
        "measured": {
            "RecBole's MultiVAE": [
                one(2, {"5": 10, "9": 40}, {"1": 4, "9": 8}, 6), one(4, {"5": 20, "9": 10}, {"1": 4, "9": 2}, 6),
            ],
            "A": [one(1, {"5": 30, "9": 20}, {"9": 16}, 3), one(4, {"5": 20, "9": 60}, {"9": 4}, 2)],
            "B": [broken],
            "C": [one(1, None, {"9": 8}, 6), one(1, None, {"9": 8}, 6)],
        },
    }  # fmt: skip


def test_ratios_compare_the_same_repeat() -> None:
    report = report_of()
    assert ratios(report, "A") == {
        "load": [2, 1], "train": [3, 1], "train, each at its best batch": [0.75, 3], "eval, its default": [4, 1],
        "eval, its best": [2, 1], "memory": [2, 3],
    }  # fmt: skip
    assert ratios(report, "B") == {}
    assert "train" not in ratios(report, "C")
    text = table(report)
    assert "train 2.00 (1.00 to 3.00)" in text
    assert "out of memory" in text
    assert "25 by 5, 40 by 9; 10 by 9" in text  # medians of A


def test_a_plot_shows_what_could_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[Any] = []
    original = Figure.savefig

    def savefig(figure: Any, *args: Any, **kwargs: Any) -> None:
        saved.append(figure)
        original(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", savefig)
    plot([report_of(10), report_of(100)], Path("steps.svg"))
    # Seconds of a step of 5 users, by the median rate; and memory. B failed, and C does not train.
    peer, a = {"RecBole's MultiVAE": (5 / 15, 3.0), "A": (5 / 25, 1.25)}.items()
    for part, axis in enumerate(saved[0].axes):
        lines = {line.get_label(): line.get_xydata().tolist() for line in axis.lines}
        assert lines == {name: [[10, values[part]], [100, values[part]]] for name, values in (peer, a)}
        assert (axis.get_xscale(), axis.get_yscale()) == ("log", "log")
    assert [text.get_text() for text in saved[0].axes[0].get_legend().get_texts()] == [peer[0], a[0]]
    assert "<!-- RecBole's MultiVAE -->" in Path("steps.svg").read_text()  # the legend, in the file itself


def test_without_the_module_resource_memory_is_measured_and_not_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    known = peak_memory()
    assert psutil.Process().memory_info().rss / 2 < known < 100e9
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    assert known / 20 < peak_memory() < 2 * known
    assert not limit_memory(1e-3)
    for module in ("bench.measure", "bench.run", "compare.measure"):
        code = f"import sys; sys.modules['resource'] = None; import recbole_vae.{module}"
        subprocess.run([sys.executable, "-c", code], check=True)


def test_the_models_are_measured_with_the_same_architecture() -> None:
    peer, model, sampled, other = sides(["MultVAE", "EASE"], ["MultVAE"], [], 50, 7)
    assert peer.options["latent_dimension"] == 2 * model.options["latent_dimension"] == 100
    assert peer.options["mlp_hidden_size"] == model.options["mlp_hidden_size"] == []
    assert sampled.name == "MultVAE, 7 sampled"
    assert sampled.options["n_negatives"] == 7
    assert "latent_dimension" not in other.options


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
        (["--users=100", "--items=100,5", "--interactions=500"], "--interactions=500 (command line) must be from"),
        (["--train_batch_size=[]"], "train_batch_size: '[]' (command line) is not allowed"),
        (["--mlp_hidden_size=600,x"], "mlp_hidden_size: 'x' (command line) is not allowed"),
        (["--plot=steps.xyz"], "--plot=steps.xyz (command line): the name must end with one of ."),
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
    assert shapes_of({}) == [(6_040, 3_706, 1_000_209)]
    assert shapes_of({"users": "100", "items": "100,200", "interactions": "1000"}) == [
        (100, 100, 1000),
        (100, 200, 1000),
    ]


SMALL = ["--users=60", "--items=80", "--interactions=600", "--seconds=1", "--repeats=1", "--train_batch_size=16"]


def test_a_real_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *SMALL, "--models=MultVAE,ItemKNN", "--n_negatives=9", "--json=out.json"]) == 0
    report = json.loads(Path("out.json").read_text())
    assert list(report["measured"]) == ["RecBole's MultiVAE", "MultVAE", "MultVAE, 9 sampled", "ItemKNN"]
    for name, (measured,) in report["measured"].items():
        assert measured["error"] == ""
        assert measured["load"] > 0
        assert min(measured["evaluate"].values()) > 0
        assert (measured["train"] is None) == (name == "ItemKNN")
        least = 0 if torch.cuda.is_available() else 0.1  # of the GPU, tensors alone; of a CPU, the whole process
        assert least < measured["memory"][0] <= measured["memory"][1] <= measured["memory"][2] < 20
    assert "times better than RecBole's MultiVAE" in capsys.readouterr().out
    assert [path.name for path in Path().iterdir()] == ["out.json"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU there is no such limit")
def test_too_little_memory_is_a_result() -> None:
    limit = 0.2
    report = bench.run(sides(["Pop"], []), (60, 80, 600), repeats=1, seconds=1, batch_sizes=[16], memory_limit=limit)
    assert [repeated[0]["error"] for repeated in report["measured"].values()] == ["out of memory"] * 2
    assert "nothing to compare" in table(report)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_json_is_written_after_the_table_or_in_its_place(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "run", lambda *_, **__: {**report_of(), "interrupted": False})
    assert main(["bench", *SMALL, "--json=/dev/full"]) == 1
    captured = capsys.readouterr()
    assert "RecBole's MultiVAE" in captured.out
    assert captured.err == "error: /dev/full: cannot write this file: No space left on device.\n"
    assert main(["bench", "--users=60", "--items=80,90", "--interactions=600", "--json=-"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 2
