"""A table says what it measured: data, split, candidates, metrics, the choice of the epoch, settings."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from recbole_vae.cli.main import main
from recbole_vae.compare import cells, description, report, tables
from recbole_vae.compare.analysis import tables as analyse
from tests.compare.synthetic import make_comparison
from tests.conftest import write_inter


@pytest.mark.parametrize(
    ("eval_args", "words"),
    [
        (
            {"split": {"RS": [0.8, 0.1, 0.1]}, "group_by": "user", "order": "RO"},
            "8:1:1 of the interactions of each user, at random",
        ),
        (
            {"split": {"RS": [0.7, 0.15, 0.15]}, "group_by": "none", "order": "TO"},
            "7:1.5:1.5 of the interactions of all users together, by time",
        ),
        (
            {"split": {"TS": [0.8, 0.1, 0.1]}, "group_by": "none"},
            "the last 10% of all interactions by time are the test part, from one moment on for all users; the rest of each "
            "user is divided 8:1 by time",
        ),
        (
            {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user"},
            "the last interaction of each user for test, the one before for validation",
        ),
        (
            {"split": {"LS": "valid_and_test"}, "order": "RO", "group_by": "user"},
            "a random interaction of each user for test, the one before for validation",
        ),
        (
            {"split": {"HU": [750, 750]}, "fold_in": 0.8, "order": "RO"},
            "users held out for validation and test (750 and 750), 0.8 of the interactions of each known to the model, "
            "drawn at random",
        ),
    ],
)  # fmt: skip
def test_a_split_in_words(eval_args: dict[str, Any], words: str) -> None:
    assert description._split(eval_args) == words


def test_candidates_in_words() -> None:
    known = "all items but those that the user has in training, or, in the test, in validation"
    assert description._candidates("full", "training") == known
    assert description._candidates({"valid": "full", "test": "full"}, "training") == known
    assert description._candidates({"valid": "full", "test": "uni100"}, "fold-in") == (
        "all items but those of the user's fold-in (validation), for each relevant item 100 others, drawn uniformly"
    )


def test_every_output_says_it(tmp_path: Path) -> None:
    made = make_comparison(models=4, seeds=3, users=40, protocols=1)
    what = {
        "users": 943, "items": 1682, "interactions": 80000, "filters": {"val_interval": {"rating": "[3,inf)"}},
        "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "group_by": "user", "order": "RO", "mode": "full"},
    }  # fmt: skip
    made = dataclasses.replace(made, runs=[dataclasses.replace(run, data=what) for run in made.runs])
    found = analyse(made)
    expected = (
        "Data: 943 users, 1,682 items, 80,000 interactions (density 5.04%), after val_interval: {'rating': '[3,inf)'}. "
        "Split: 8:1:1 of the interactions of each user, at random; seeds 1 to 3. "
        "Candidates: all items but those that the user has in training, or, in the test, in validation."
    )
    words = cells.caption(found[0], made)
    assert expected in words
    assert "NDCG: gain 1 / log2(rank + 1)" in words
    assert "Epoch: that of the best NDCG@10 on the validation part." in words
    settings = "learning_rate: 0.001, mlp_hidden_size: [600]"
    for text in (tables.markdown(found, made), tables.latex(found, made), report.html(found, made)):
        plain = text.replace("\\", "").replace("{[}", "[").replace("{]}", "]")
        assert "8:1:1 of the interactions of each user, at random; seeds 1 to 3" in plain
        assert settings in plain


def test_a_split_that_is_in_files_is_no_random_one() -> None:
    made = make_comparison(models=1, seeds=1, users=40, protocols=1)
    what = {
        "users": 9, "items": 9, "interactions": 27, "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}},
        "filters": {"threshold": {"rating": 3}, "benchmark_filename": ["train", "valid", "test"]},
    }  # fmt: skip
    said = dict(description.facts([dataclasses.replace(made.runs[0], data=what)], ["ndcg@10"], "NDCG@10"))
    assert said["Split"].startswith("that of the files train, valid, test; seed ")
    assert said["Data"].endswith("after threshold: {'rating': 3}.")


def test_a_real_comparison_records_it(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(user, item, 1 + (user + item) % 5) for user in range(30) for item in range(20) if (user + 3 * item) % 4]
    write_inter(rows, "rated", "user_id:token\titem_id:token\trating:float", "dataset")
    kept = [row for row in rows if row[2] >= 3]
    words = [
        "compare", "--models=Pop", "--dataset=rated", "--seeds=1", "--metrics=NDCG", "--topk=5", "--out=t",
        "--load_col={'inter': ['user_id', 'item_id', 'rating']}", "--val_interval={'rating': '[3,inf)'}",
    ]  # fmt: skip
    assert main(words) == 0, capsys.readouterr().err
    (run,) = yaml.safe_load(Path("t/settings.yaml").read_text())["runs"]
    users, items = ({row[place] for row in kept} for place in (0, 1))
    assert run["data"]["users"] == len(users)
    assert run["data"]["items"] == len(items)
    assert run["data"]["interactions"] == len(kept)
    assert run["data"]["filters"] == {"val_interval": {"rating": "[3,inf)"}}
