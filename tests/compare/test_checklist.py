"""The reviewer's checklist, and what runs count for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recbole_vae.compare import outputs, report, tables
from recbole_vae.compare.analysis import tables as analyse
from recbole_vae.compare.checklist import NOT_MEASURED, answers
from recbole_vae.compare.measure import measure
from recbole_vae.compare.results import Comparison, Run
from tests.compare.synthetic import make_comparison
from tests.compare.test_measure import HELD_OUT, job
from tests.conftest import Builder, random_rows, write_inter

CHECKS = {
    "test_pairs": 1200, "in_training": 0, "in_validation": 3, "in_fold_in": None, "test_users": 40, "in_training_users": 39,
    "new_users": 1, "test_items": 200, "new_items": 4, "training": 9000, "late_users": 7, "late": 12,
}  # fmt: skip


def timed_rows() -> list[tuple[str, str, int]]:
    return [(*row, (place // 2 * 37) % 101) for place, row in enumerate(random_rows())]


@pytest.mark.parametrize(
    ("settings", "timed"),
    [
        ({}, False),
        ({}, True),
        ({"eval_args": {"split": {"TS": [0.8, 0.1, 0.1]}, "order": "TO"}}, True),
        (HELD_OUT, False),
    ],
)
def test_a_run_counts_what_may_be_a_leak(build: Builder, settings: dict[str, Any], timed: bool) -> None:
    columns = "user_id:token\titem_id:token" + "\ttimestamp:float" * timed
    rows = timed_rows() if timed else random_rows()
    given = {**settings, "load_col": {"inter": ["user_id", "item_id", "timestamp"]}} if timed else settings
    wanted = job("EASE", settings=given)
    write_inter(rows, columns=columns)
    found = measure(wanted).data["checks"]
    made = build("EASE", seed=1, topk=[5], valid_metric="MRR@5", dataset="tiny", data_path="data", **given)
    parts: list[list[tuple[int, int, float]]] = []
    for loader in (made.train, made.valid, made.test):
        feat = loader._dataset.inter_feat
        times = feat["timestamp"].tolist() if timed else [0] * len(feat)
        parts.append(list(zip(feat["user_id"].tolist(), feat["item_id"].tolist(), times, strict=True)))
    pairs = [{(user, item) for user, item, _ in part} for part in parts]
    users, items = ([{row[place] for row in part} for part in parts] for place in (0, 1))
    known = users[0]
    assert (found["in_training"], found["in_validation"]) == (len(pairs[0] & pairs[2]), len(pairs[1] & pairs[2]))
    if settings == HELD_OUT:
        fold_in = made.test.fold_in
        of_fold_in = set(zip(fold_in.rows().tolist(), fold_in.indices.tolist(), strict=True))
        assert found["in_fold_in"] == len(of_fold_in & pairs[2]) == 0
        assert found["in_training_users"] == 0
        known = {user for user, _ in of_fold_in}
    else:
        assert found["in_fold_in"] is None
        assert found["in_training_users"] == len(users[0] & users[2])
    assert (found["test_pairs"], found["test_users"], found["test_items"]) == (
        len(pairs[2]),
        len(users[2]),
        len(items[2]),
    )
    assert (found["new_users"], found["new_items"]) == (len(users[2] - known), len(items[2] - items[0]))
    assert found["training"] == len(parts[0])
    if not timed:
        assert found["late_users"] is found["late"] is None
        return
    first = min(time for *_, time in parts[2])
    assert found["late"] == sum(time > first for *_, time in parts[0])
    late = [
        user
        for user in users[2]
        if any(u == user and t > min(s for v, _, s in parts[2] if v == user) for u, _, t in parts[0])
    ]
    assert found["late_users"] == len(late)
    assert (found["late"] == 0) == bool(settings)  # a split by time has none


def test_pairs_that_files_have_in_two_parts_are_counted() -> None:
    rows = random_rows()
    wanted = job("Pop", settings={"benchmark_filename": ["train", "valid", "test"], "data_path": "files"})
    for part, own in (("train", rows[:200]), ("valid", rows[200:240]), ("test", [*rows[240:], *rows[:5], rows[200]])):
        write_inter(own, folder="files", part=part)
    checks = measure(wanted).data["checks"]
    assert (checks["in_training"], checks["in_validation"]) == (5, 1)


def checklist(comparison: Comparison) -> dict[str, str]:
    return dict(answers(analyse(comparison)[0], comparison))


def comparison(**more: Any) -> Comparison:
    made = make_comparison(**{"models": 12, "seeds": 2, "protocols": 1, "users": 40, **more})
    what = {
        "users": 943, "items": 1682, "interactions": 80000, "filters": {}, "checks": CHECKS,
        "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "group_by": "user", "order": "RO", "mode": "full"},
    }  # fmt: skip
    return replace(made, runs=[replace(run, data=what) for run in made.runs])


def test_the_answers_are_those_of_the_runs() -> None:
    made = comparison(trials=3)
    found = checklist(made)
    assert found["Split"] == "8:1:1 of the interactions of each user, at random; seeds 1, 2"
    assert found["SHA-256 of the split"] == f"seed 1: {'0' * 16}; seed 2: {'0' * 16} (the same for all rows)"
    assert found["Test pairs in other parts"] == "in training 0 of 1,200, in validation 3 of 1,200"
    assert found["Test users in training"] == "39 of 40"
    assert found["Test users without a history"] == "1 of 40"
    assert found["Test items without training"] == "4 of 200"
    assert found["Time"] == (
        "test users with a training interaction later than their first of the test: 7 of 40; training interactions later than "
        "the first test interaction of anybody: 12 of 9,000"
    )
    assert found["Candidates"].startswith("all items but those that the user has in training")
    assert "NDCG: gain 1 / log2(rank + 1)" in found["Metrics"]
    assert found["Tuning"].startswith("3 trials for each row with a search space. MultVAE: 3 trials (3 done), 9.0 s; ")
    assert "NGCF: none" in found["Tuning"]
    assert found["Seeds"] == "1, 2 (of the model and the split)"
    same = [replace(run, split_hash="a" * 64) for run in made.runs]
    assert checklist(replace(made, runs=same))["Seeds"] == "1, 2 (of the model; the split is the same for all)"
    assert (
        "NGCF: out of memory: needs more than 8 GB. NeuMF: failed (seed 2)"
        in found["Rows that failed or were left out"]
    )
    assert found["Hardware"] == "CPU (2 threads)"
    assert "torch 2.6.0" in found["Versions"]
    assert "Holm's correction" in found["Tests"]
    assert found["Command"] == "recbole-vae compare plan.yaml"
    assert "Lists of other tools" not in found
    assert NOT_MEASURED not in found.values()


def test_runs_that_had_all_their_epochs_are_counted() -> None:
    made = comparison()
    epochs = {("MultVAE", 1): 9, ("MultVAE", 2): 8, ("MultDAE", 1): 9, ("MultDAE", 2): 9}

    def limited(limit: int) -> str:
        runs = [
            replace(run, epochs=epochs.get((run.label, run.seed)), settings={**run.settings, "epochs": limit})
            for run in made.runs
        ]
        return checklist(replace(made, runs=runs))["Still training at the limit of epochs"]

    assert limited(9) == "MultVAE: 1 of 2 runs; MultDAE: 2 of 2 runs"
    assert limited(10) == "none"
    epochs.clear()
    assert limited(9) == "no row was trained by epochs"


def test_splits_that_differ_are_listed() -> None:
    made = comparison()
    runs = [replace(run, data={**run.data, "checks": {**CHECKS, "in_training": 9 * run.seed}}) for run in made.runs]
    runs[0] = replace(runs[0], split_hash="f" * 64)
    settings = {**made.settings, "split_seed": 5}
    found = checklist(replace(made, runs=runs, settings=settings))
    assert "ffffffffffffffff and 0000000000000000; seed 2" in found["SHA-256 of the split"]
    assert found["SHA-256 of the split"].endswith("(not the same for all rows, which are not comparable)")
    assert "in training 9 of 1,200 and 18 of 1,200" in found["Test pairs in other parts"]
    assert found["Seeds"] == "1, 2 (of the model; the split has seed 5)"
    lists: Run = replace(runs[2], lists={"file": "x.csv", "sha256": "ab" * 32})
    found = checklist(replace(made, runs=[runs[0], lists], trials=1))
    assert found["Lists of other tools"] == f"{lists.label}: x.csv (SHA-256 {'ab' * 8})"
    assert f"{lists.label}: not known" in found["Tuning"]


def test_what_was_not_measured_says_so() -> None:
    made = comparison(models=1, seeds=1)
    old = checklist(replace(made, runs=[replace(run, data={}, versions={}) for run in made.runs]))
    for item in (
        "Data",
        "Split",
        "Test pairs in other parts",
        "Test items without training",
        "Time",
        "Candidates",
        "Versions",
    ):
        assert old[item] == NOT_MEASURED, item
    assert old["Tests"].startswith("none")
    assert old["Tuning"].startswith("no trials in this comparison")
    assert old["Rows that failed or were left out"] == "none"
    without = {**CHECKS, "late": None, "late_users": None}
    for checks, why in (
        (without, "the times of interactions were not loaded"),
        ({**without, "in_fold_in": 0}, "users are held out"),
    ):
        runs = [replace(run, data={**run.data, "checks": checks}) for run in made.runs]
        assert checklist(replace(made, runs=runs))["Time"] == f"{NOT_MEASURED}: {why}"


def test_it_is_in_the_folder_and_in_the_report() -> None:
    made = comparison(models=2)
    outputs.write(made, Path("o"))
    for text in (Path("o/checklist.md").read_text(), Path("o/report.html").read_text()):
        assert "Test pairs in other parts" in text
        assert "in training 0 of 1,200, in validation 3 of 1,200" in text
    assert Path("o/checklist.md").read_text().count("| Item | Answer |") == 1
    empty = replace(made, runs=[])
    assert tables.checklist_md(analyse(empty), empty) == "# Reviewer's checklist\n"
    assert "Test pairs" not in report.html(analyse(empty), empty)
