"""Splits written for other tools, and the lists that these made."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import recbole
import scipy.sparse as sp
import torch
import yaml
from recbole.data.interaction import Interaction

from recbole_vae.cli.main import main
from recbole_vae.compare import process
from recbole_vae.compare.foreign import KNOWN
from recbole_vae.compare.measure import measure
from recbole_vae.compare.plan import read
from recbole_vae.compare.results import DONE, LISTS, REFUSED, Run
from recbole_vae.errors import DataError
from recbole_vae.evaluation.fold_in import score_histories
from recbole_vae.storage.files import sha256
from tests.compare.test_measure import HELD_OUT, job
from tests.conftest import Builder, random_rows, write_inter

SMALL = ["--dataset=tiny", "--data_path=data", "--topk=5", "--max_k=8"]
METRICS = ["Recall", "NDCG", "MRR", "ItemCoverage", "AveragePopularity", "TailPercentage", "ShannonEntropy"]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do the runs in this process."""

    def execute(specification: dict[str, Any], folder: str | None = None) -> dict[str, bytes]:
        given = specification["job"]
        try:
            run = measure(given)
        except DataError as error:
            run = Run(given["dataset"], "", given["model"], given["model"], given["seed"], "failed", str(error))
        assert folder is not None
        run.save(Path(folder))
        return {}

    monkeypatch.setattr(process, "execute", execute)
    write_inter(random_rows())


def lists_job(file: Path, **more: Any) -> dict[str, Any]:
    return job(LISTS, lists={"label": "X", "file": str(file), "path": str(file), "sha256": sha256(file)}, **more)


def write(frame: pd.DataFrame, name: str = "lists.csv", shuffled: bool = True) -> Path:
    frame = frame.sample(frac=1, random_state=0) if shuffled else frame
    frame.to_parquet(name) if name.endswith(".parquet") else frame.to_csv(name, index=False)
    return Path(name)


def best_of(made: Any, k: int = 8) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the lists of a model for the test users, and the items that these know."""
    loader, field = made.test, made.dataset.uid_field
    users = loader.uid_list
    if loader.fold_in is None:
        scores = made.model.full_sort_predict(Interaction({field: users})).view(len(users), -1).clone()
    else:
        scores = score_histories(made.model, loader.fold_in[users]).clone()
    seen = loader.seen[users]
    scores[seen.rows(), seen.indices.long()] = -torch.inf
    scores[:, 0] = -torch.inf
    items = torch.topk(scores, k).indices.numpy()
    names, of_user = (np.asarray(made.dataset.field2id_token[name]) for name in ("item_id", "user_id"))
    found = pd.DataFrame(
        {
            "user_id": np.repeat(of_user[users.numpy()], k),
            "item_id": names[items.ravel()],
            "rank": np.tile(np.arange(1, k + 1), len(users)),
        }
    )
    known = pd.DataFrame(
        {"user_id": of_user[users.numpy()][seen.rows().numpy()], "item_id": names[seen.indices.numpy()]}
    )
    return found, known


@pytest.mark.parametrize("settings", [{}, HELD_OUT], ids=["random", "held out"])
@pytest.mark.parametrize("name", ["lists.csv", "lists.csv.gz", "lists.parquet"])
def test_lists_of_our_own_model_have_its_numbers(build: Builder, settings: dict[str, Any], name: str) -> None:
    metrics: dict[str, Any] = {"metrics": METRICS}
    own = measure(job("EASE", settings=settings, **metrics))
    lists, known = best_of(build("EASE", seed=1, topk=[5], valid_metric="MRR@5", **settings))
    run = measure(lists_job(write(lists, name), settings=settings, **metrics))
    assert (run.status, run.split_hash) == (DONE, own.split_hash)
    assert run.test == own.test
    assert (run.over_k, run.by_popularity) == (own.over_k, own.by_popularity)
    assert run.users is not None
    assert own.users is not None
    assert run.users.ids.tolist() == own.users.ids.tolist()
    assert run.users.history_length.tolist() == own.users.history_length.tolist()
    for metric, values in own.users.metrics.items():
        assert np.array_equal(run.users.metrics[metric], values), metric
    assert run.notes[-1].startswith("X: ranked lists from lists.")
    # Known items between them, which no model's list can have, change nothing.
    mixed = pd.concat([lists.assign(score=-lists["rank"].astype(float)), known.assign(score=-2.5)])
    again = measure(lists_job(write(mixed.drop(columns="rank"), name), settings=settings, **metrics))
    assert (again.test, again.over_k) == (own.test, own.over_k)
    places = f"{len(known)} of {len(mixed)} places had items of the user's history"
    assert any(places in note for note in again.notes)
    assert any("or the lists are of another split" in note for note in again.notes)
    assert len(known) > KNOWN * len(mixed)


@pytest.mark.parametrize("how", ["rank", "score", "order"])
def test_random_lists_agree_with_numpy(build: Builder, how: str) -> None:
    made = build("EASE", seed=1, topk=[5], valid_metric="MRR@5")
    names, of_user = (np.asarray(made.dataset.field2id_token[name]) for name in ("item_id", "user_id"))
    seen = {user: {*made.test.seen[torch.tensor([user])].indices.tolist()} for user in made.test.uid_list.tolist()}
    relevant = {u: {*made.test.relevant[torch.tensor([u])].indices.tolist()} for u in made.test.uid_list.tolist()}
    counts = np.bincount(made.train._dataset.inter_feat["item_id"].numpy(), minlength=len(names))
    rng = np.random.default_rng(3)
    lists: dict[int, list[int]] = {}
    rows = []
    for user in made.test.uid_list.tolist():
        length = int(rng.integers(0, 12))  # some have no list, some a short one, some more than is measured
        items = (rng.permutation(len(names) - 1) + 1)[:length].tolist()
        lists[user] = [item for item in items if item not in seen[user]]
        rows += [(of_user[user], names[item], rank, 100 - rank) for rank, item in enumerate(items, start=1)]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "rank", "score"])
    frame = frame[["user_id", "item_id", *([how] if how != "order" else [])]]
    run = measure(lists_job(write(frame, shuffled=how != "order"), metrics=METRICS))
    assert run.users is not None
    with_list = [user for user, items in lists.items() if items]
    assert 5 < len(with_list) < len(lists)
    for k in (3, 5):
        recall, ndcg, mrr, popularity, novelty = [], [], [], [], []
        for user, items in lists.items():
            hit = [item in relevant[user] for item in items[:k]]
            ideal = sum(1 / np.log2(r + 2) for r in range(min(k, len(relevant[user]))))
            recall.append(sum(hit) / len(relevant[user]))
            ndcg.append(sum(h / np.log2(r + 2) for r, h in enumerate(hit)) / ideal)
            mrr.append(next((1 / (r + 1) for r, h in enumerate(hit) if h), 0.0))
            if items:
                popularity.append(np.mean(counts[items[:k]]))
                novelty.append(np.mean(-np.log2(np.maximum(counts[items[:k]], 1) / counts.sum())))
        assert run.users.metrics[f"recall@{k}"] == pytest.approx(recall)
        assert run.users.metrics[f"ndcg@{k}"] == pytest.approx(ndcg)
        assert run.users.metrics[f"mrr@{k}"] == pytest.approx(mrr)
        assert run.test[f"ndcg@{k}"] == pytest.approx(np.mean(ndcg))
        # Of lists without an item there is no mean, and they are left out of it.
        assert run.test[f"averagepopularity@{k}"] == pytest.approx(np.mean(popularity))
        assert run.test[f"novelty@{k}"] == pytest.approx(np.mean(novelty))
        shown = np.concatenate([items[:k] for items in lists.values() if items])
        share = np.bincount(shown) / len(shown)
        assert run.test[f"itemcoverage@{k}"] == pytest.approx(len(set(shown)) / (len(names) - 1))
        entropy = -(share[share > 0] * np.log(share[share > 0])).sum()
        assert run.test[f"shannonentropy@{k}"] == pytest.approx(entropy)
        rare = np.argsort(np.where(np.arange(len(names)) > 0, counts, 10**6), kind="stable")[: (len(names) - 1) // 10]
        shares = [np.mean(np.isin(lists[user][:k], rare)) for user in with_list]
        assert run.test[f"tailpercentage@{k}"] == pytest.approx(np.mean(shares))
    without = sum(1 for user in lists if of_user[user] not in set(frame["user_id"]))
    note = f"X: {without} of {len(lists)} test users have no list, which counts as a list without a hit."
    assert note in run.notes
    lengths = [len(items) for user, items in lists.items() if of_user[user] in set(frame["user_id"])]
    short = [length for length in lengths if length < 5]
    few = f"X: {len(short)} lists have fewer than 5 items that count (the shortest {min(short)}). "
    assert f"{few}Their missing places count as misses." in run.notes
    assert len(run.over_k["ndcg"]) == min(8, max(lengths))


def test_exact_metrics_false_cannot_count_empty_places(build: Builder) -> None:
    lists, _ = best_of(build("EASE", seed=1, topk=[5], valid_metric="MRR@5", exact_metrics=False))
    settings = {"exact_metrics": False}
    assert measure(lists_job(write(lists), settings=settings)).test == measure(job("EASE", settings=settings)).test
    with pytest.raises(DataError, match="fewer than 8 items, and exact_metrics: False would count empty places"):
        measure(lists_job(write(lists.drop(columns="rank").iloc[:-1], shuffled=False), settings=settings))


def test_where_items_are_held_out_lists_cannot_take_part(build: Builder) -> None:
    settings = {"eval_args": {"split": {"HI": [6, 6]}, "mode": "full"}}
    lists, _ = best_of(build("EASE", seed=1, topk=[5], valid_metric="MRR@5"))
    run = measure(lists_job(write(lists), settings=settings))
    assert run.status == REFUSED
    assert "each kind of items is ranked apart" in run.reason


Change = Callable[[pd.DataFrame], pd.DataFrame]


def cell(row: int, column: str, value: Any) -> Change:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame = frame.astype(object)
        frame.loc[row, column] = value
        return frame

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (cell(4, "item_id", "i999"), "row 5: there is no item 'i999' in this data set (1 row has one that is not there)"),
        (cell(2, "user_id", "nobody"), "row 3: there is no user 'nobody' in this data set (1 row has one that is not there)"),
        (cell(2, "item_id", "[PAD]"), "row 3: there is no item '[PAD]'"),
        (lambda f: f.assign(item_id="0" + f["item_id"]), "320 rows have one that is not there"),
        (lambda f: f.assign(item_id=f["item_id"].iloc[0]), "twice; a file must have one list of each user"),
        (cell(3, "rank", 1), "has the rank '1' twice"),
        (cell(3, "rank", 0), "row 4: rank is '0', but must be an integer from 1 up"),
        (cell(3, "rank", 99), "has 8 items, the last of them with rank 99, so a rank is missing (users with a gap: 1)"),
        (cell(3, "user_id", ""), "row 4: user_id is '', but must be an id"),
        (lambda f: cell(5, "score", "nan")(f.assign(score=1.0).drop(columns="rank")), "row 6: score is 'nan', but must be a fin"),
        (lambda f: cell(5, "score", "-inf")(f.assign(score=1.0).drop(columns="rank")), "row 6: score is '-inf', but must be"),
        (lambda f: f.drop(columns="item_id"), "there is no column 'item_id'"),
        (lambda f: f.iloc[:0], "contains no lists"),
    ],
)  # fmt: skip
def test_bad_files_are_named(build: Builder, change: Change, message: str) -> None:
    lists, _ = best_of(build("EASE", seed=1, topk=[5], valid_metric="MRR@5"))
    with pytest.raises(DataError) as error:
        measure(lists_job(write(change(lists.reset_index(drop=True)), shuffled=False)))
    assert message in str(error.value)
    assert "lists.csv" in str(error.value)


def test_lists_of_nothing_but_the_history_are_named(build: Builder) -> None:
    run = build("EASE", seed=1, topk=[5], valid_metric="MRR@5")
    lists, _ = best_of(run)
    dataset = run.train._dataset
    ids = dataset.id2token("item_id", dataset.inter_feat["item_id"].numpy())
    owners = dataset.id2token("user_id", dataset.inter_feat["user_id"].numpy())
    seen = pd.DataFrame({"user_id": owners, "item_id": ids})
    with pytest.raises(DataError, match=r"lists.csv: all items are in the histories of their users"):
        measure(lists_job(write(seen[seen["user_id"].isin(lists["user_id"])], shuffled=False)))


def test_damaged_and_foreign_files(build: Builder) -> None:
    lists, _ = best_of(build("EASE", seed=1, topk=[5], valid_metric="MRR@5"))
    file = write(lists, "lists.csv.gz")
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DataError, match="lists.csv.gz: damaged, or not compressed by gzip"):
        measure(lists_job(file))
    made = build("EASE", seed=1, topk=[5], valid_metric="MRR@5", **HELD_OUT)
    trained = [user for user in made.train._dataset.field2id_token["user_id"] if user != "[PAD]"]
    given = lists_job(write(lists[lists["user_id"].isin(trained)].drop(columns="rank")), settings=HELD_OUT)
    with pytest.raises(DataError, match="lists.csv: none of the 6 test users of this split has a list"):
        measure(given)
    write(lists)
    with pytest.raises(DataError, match="the file has changed since this command started"):
        measure(given)


def split_of(folder: Path) -> dict[str, pd.DataFrame]:
    return {path.stem: pd.read_csv(path, dtype=str) for path in folder.glob("*.csv")}


def pairs(frame: pd.DataFrame) -> set[tuple[str, str]]:
    return set(zip(frame["user_id"], frame["item_id"], strict=True))


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("settings", [{}, HELD_OUT], ids=["random", "held out"])
def test_the_split_that_is_written_is_that_of_the_models(
    build: Builder, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    plan = {"models": ["EASE"], "settings": settings, "lists": {"X": "not-yet-{seed}.csv"}, "seeds": [1]}
    Path("plan.yaml").write_text(yaml.safe_dump(plan))
    assert main(["compare", "--config=plan.yaml", *SMALL, "--export-split=splits"]) == 0
    assert capsys.readouterr().out == f"{Path('splits/tiny-default-1')}: a split; split.json describes it\n"
    found = split_of(Path("splits/tiny-default-1"))
    about = json.loads(Path("splits/tiny-default-1/split.json").read_text())
    assert about["split_sha256"] == measure(job("EASE", settings=settings)).split_hash
    assert about["rows"] == {name: len(frame) for name, frame in found.items()}
    made = build("EASE", seed=1, topk=[5], valid_metric="MRR@5", **settings)
    tokens = made.test._dataset.field2id_token
    for name, loader in (("train", made.train), ("valid", made.valid), ("test", made.test)):
        feat = loader._dataset.inter_feat
        there = {
            (tokens["user_id"][u], tokens["item_id"][i]) for u, i in zip(feat["user_id"], feat["item_id"], strict=True)
        }
        assert pairs(found[name]) == there
        assert len(found[name]) == len(feat)
    assert set(found["items"]["item_id"]) == set(tokens["item_id"][1:])
    everything = pd.DataFrame(random_rows(), columns=["user_id", "item_id"])
    if settings:
        names = ("train", "valid_fold_in", "valid", "test_fold_in", "test")
        assert sorted(p for n in names for p in pairs(found[n])) == sorted(
            set().union(*(pairs(found[n]) for n in names))
        )
        assert set(found["test_fold_in"]["user_id"]) == set(found["test"]["user_id"])
        assert not set(found["train"]["user_id"]) & set(found["test"]["user_id"])
        known = found["test_fold_in"]
        assert "test_fold_in.csv" in about["candidates"]
    else:
        assert sorted(p for n in ("train", "valid", "test") for p in pairs(found[n])) == sorted(pairs(everything))
        known = pd.concat([found["train"], found["valid"]])
        assert "train.csv or valid.csv" in about["candidates"]
    seen = made.test.seen[made.test.uid_list]
    owners = made.test.uid_list[seen.rows()]
    of_test = {(tokens["user_id"][u], tokens["item_id"][i]) for u, i in zip(owners, seen.indices, strict=True)}
    users = set(found["test"]["user_id"])
    assert of_test == {pair for pair in pairs(known) - pairs(found["test"]) if pair[0] in users}


@pytest.mark.usefixtures("here")
def test_a_folder_with_another_split_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", "--models=EASE", *SMALL, "--export-split=splits"]
    assert main(words) == main(words) == 0  # the same split may be written again
    write_inter(random_rows(seed=1))
    before = Path("splits/tiny-default-2020/train.csv").read_bytes()
    assert main(words) == 1
    assert "another split is in the folder" in capsys.readouterr().err
    assert Path("splits/tiny-default-2020/train.csv").read_bytes() == before


@pytest.mark.usefixtures("here")
def test_ratings_and_times_are_written_as_they_are() -> None:
    assert main(["compare", "--models=Pop", "--dataset=ml-100k", "--export_split=splits"]) == 0
    found = split_of(Path("splits/ml-100k-default-2020"))
    written = pd.concat([found[name] for name in ("train", "valid", "test")])
    file = Path(recbole.__file__).parent / "dataset_example/ml-100k/ml-100k.inter"
    given = pd.read_csv(file, sep="\t", dtype=str).set_axis([*written], axis=1)
    columns = [*written]
    assert columns == ["user_id", "item_id", "rating", "timestamp"]
    assert written.sort_values(columns).to_numpy().tolist() == given.sort_values(columns).to_numpy().tolist()


@pytest.mark.usefixtures("here")
def test_lists_of_implicit_stand_in_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    from implicit.nearest_neighbours import CosineRecommender

    common = [*SMALL, "--models=EASE,Pop", "--seeds=2"]
    assert main(["compare", *common, "--export-split=splits"]) == 0
    expected: dict[int, float] = {}
    for seed in (2020, 2021):
        found = split_of(Path(f"splits/tiny-default-{seed}"))
        users, items = (pd.Index(sorted(set(random_rows_of(name)))) for name in (0, 1))

        def matrix(*names: str, parts: dict[str, pd.DataFrame] = found) -> sp.csr_matrix:
            frame = pd.concat([parts[name] for name in names])
            at = users.get_indexer(frame["user_id"]), items.get_indexer(frame["item_id"])  # noqa: B023
            return sp.csr_matrix((np.ones(len(frame), np.float32), at), shape=(len(users), len(items)))  # noqa: B023

        model = CosineRecommender(K=10)
        model.fit(matrix("train"), show_progress=False)
        testers = users.get_indexer(sorted(set(found["test"]["user_id"])))
        known = matrix("train", "valid")
        best, scores = model.recommend(testers, known[testers], N=8)
        frame = pd.DataFrame(
            {"user_id": np.repeat(users[testers], 8), "item_id": items[best.ravel()], "score": scores.ravel()}
        )
        frame.to_csv(f"implicit-tiny-{seed}.csv", index=False)
        wanted = found["test"].groupby("user_id")["item_id"].agg(set)
        hits = [
            len(wanted[user] & set(items[row[:5]])) / len(wanted[user])
            for user, row in zip(users[testers], best, strict=True)
        ]
        expected[seed] = float(np.mean(hits))
    capsys.readouterr()
    given = "--lists=implicit cosine=implicit-{dataset}-{seed}.csv"
    assert main(["compare", *common, given, "--reference=implicit cosine (lists)", "--out=o"]) == 0
    text = capsys.readouterr().out
    label = "implicit cosine (lists)"
    row = next(line for line in text.splitlines() if line.startswith(label))
    assert f"{np.mean(list(expected.values())):.4f}" in row
    costs = next(line for line in text[text.index("Costs") :].splitlines() if line.startswith(label))
    assert costs.split()[-4:] == ["–"] * 4
    assert f"Other tools: lists that were made elsewhere for these splits are in the rows {label}, and" in " ".join(
        text.split()
    )
    for name in ("table.md", "report.html"):
        page = Path("o", name).read_text().replace("\\", "")
        assert (
            f"{label}: ranked lists from implicit-tiny-2020.csv (SHA-256 {sha256(Path('implicit-tiny-2020.csv'))[:12]})"
            in page
        )
    table = pd.read_csv("o/table.csv").query("label == @label").set_index("metric")
    assert table.loc["recall@5", "mean"] == pytest.approx(np.mean(list(expected.values())))
    assert table.loc[["training_seconds", "peak_memory", "parameters", "epochs"], "mean"].isna().all()
    assert set(table["model"]) == {"lists"}
    tests = pd.read_csv("o/tests.csv").query("family == 'reference'")
    assert set(tests["against"]) == {label}
    plan = yaml.safe_load(Path("o/settings.yaml").read_text())
    assert plan["plan"]["lists"] == {"implicit cosine": "implicit-{dataset}-{seed}.csv"}
    own = [run for run in plan["runs"] if run["label"] == label]
    assert own[0]["lists"] == {
        "file": "implicit-tiny-2020.csv",
        "sha256": hashlib.sha256(Path("implicit-tiny-2020.csv").read_bytes()).hexdigest(),
    }
    assert own[0]["command"] == plan["command"]


def random_rows_of(column: int) -> list[str]:
    return [row[column] for row in random_rows()]


@pytest.mark.usefixtures("here")
def test_lists_are_measured_again_only_if_they_change(build: Builder, capsys: pytest.CaptureFixture[str]) -> None:
    lists, _ = best_of(build("EASE", seed=2020, topk=[5], valid_metric="MRR@5"))
    file = write(lists)
    words = ["compare", *SMALL, "--models=EASE", "--lists", "A=lists.csv", "B=other.csv", "--out=o"]
    write(lists, "other.csv", shuffled=False)
    assert main(words) == 0
    assert len(list(Path("o/runs").glob("lists-*"))) == 2
    assert main(words) == 0
    assert "3 runs are there and kept" in capsys.readouterr().err
    write(lists[lists["rank"] < 8])
    assert main(words) == 0
    assert "2 runs are there and kept" in capsys.readouterr().err
    assert len(list(Path("o/runs").glob("lists-*"))) == 3
    # Seeds have splits of their own, unless the split has a seed.
    assert main([*words, "--seeds=2"]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert (
        "B (lists): failed: other.csv stands for runs with different splits, and lists are of one; write {seed}" in out
    )
    del words[-1]
    assert main([*words, "--seeds=2", "--split_seed=2020", "--out=p"]) == 0
    assert file.is_file()


@pytest.mark.usefixtures("here")
def test_two_splits_for_one_folder_are_refused_before_any_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    Path("data", "tiny-x").mkdir()
    Path("data", "tiny-x", "tiny-x.inter").write_bytes(Path("data", "tiny", "tiny.inter").read_bytes())
    Path("plan.yaml").write_text("datasets: {tiny: {}, tiny-x: {}}\nprotocols: {x-y: {}, y: {}}\nrows: [EASE]\n")
    data = f"--data_path={Path('data').resolve()}"
    assert main(["compare", "--config=plan.yaml", data, "--export-split=s"]) == 2
    assert "s/tiny-x-y-2020 would be the folder of two splits" in capsys.readouterr().err
    assert not Path("s").exists()


EARLY: dict[str, tuple[bytes, str]] = {
    "names": (b"user,item\na,b\n", "there is no column 'user_id'"),
    "item": (b"user_id,item,rank\na,b,1\n", "there is no column 'item_id'"),
    "header": (b"user_id,item_id\n", "contains no lists, only the header."),
    "nothing": (b"", "the file is empty."),
    "rank": (b"user_id,item_id,rank\na,b,first\n", "row 1: rank is 'first', but must be an integer from 1 up"),
    "cells": (b"user_id,item_id\na,b\na,b,c\n", "line 3: 3 cells instead of 2"),
    "no text": (b"user_id,item_id\n\xff\xfe,b\n", "cannot read this file"),
    "no gzip": (b"user_id,item_id\na,b\n", "damaged, or not compressed by gzip"),
}


@pytest.mark.parametrize("mistake", EARLY)
def test_mistakes_in_a_file_are_found_before_the_first_run(
    mistake: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ran(*_: Any) -> None:
        raise AssertionError("a run began")

    monkeypatch.setattr(process, "execute", ran)
    write_inter(random_rows())
    content, message = EARLY[mistake]
    good, bad = Path("l-2020.csv"), "l-2021.csv"
    good.write_text("user_id,item_id,rank\nu1,i1,1\n")
    template = "l-{seed}.csv"
    if mistake == "no gzip":
        good, bad, template = good.rename("l-2020.csv.gz"), f"{bad}.gz", f"{template}.gz"
        good.write_bytes(gzip.compress(b"user_id,item_id\nu1,i1\n"))
    Path(bad).write_bytes(content)
    assert main(["compare", *SMALL, "--models=EASE", "--seeds=2", "--out=o", "--lists", f"X={template}"]) == 2
    said = capsys.readouterr().err
    assert f"lists: X: {template} (command line): {bad}" in said
    assert message in said
    assert not Path("o").exists()


@pytest.mark.usefixtures("here")
def test_lists_are_measured_before_models_are_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    execute = process.execute

    def noted(specification: dict[str, Any], folder: str | None = None) -> dict[str, bytes]:
        ran.append(specification["job"]["model"])
        return execute(specification, folder)

    monkeypatch.setattr(process, "execute", noted)
    write(pd.DataFrame(random_rows(), columns=["user_id", "item_id"]))
    assert main(["compare", *SMALL, "--models=Pop,EASE", "--lists=X=lists.csv", "--out=o"]) == 0
    assert ran == [LISTS, "Pop", "EASE"]
    assert read_labels(Path("o/table.csv")) == ["Pop", "EASE", "X (lists)"]


def read_labels(table: Path) -> list[str]:
    return list(dict.fromkeys(pd.read_csv(table)["label"]))


@pytest.mark.usefixtures("here")
def test_what_a_plan_may_say_of_lists(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", *SMALL, "--models=EASE", "--out=o"]
    Path("there.csv").write_text("user_id,item_id\nu1,i1\n")

    def refused(*more: str) -> str:
        assert main([*words, *more]) == 2
        return capsys.readouterr().err

    assert "lists: 'X' (command line) is not allowed; it must be LABEL=FILE" in refused("--lists=X")
    assert "with another label for each" in refused("--lists", "X=a", "X=b")
    assert "X: gone.csv (command line): there is no file gone.csv, for tiny, default, seed 2020" in refused(
        "--lists=X=gone.csv"
    )
    assert "{model} stands for nothing; there are {dataset}, {protocol} and {seed}" in refused("--lists=X={model}.csv")
    two = "--lists=X=there.csv", "--dataset=tiny,ml-100k"
    del words[1:3]
    assert "the plan has several datasets (tiny, ml-100k), and lists are of one; write {dataset}" in refused(*two)
    Path("plan.yaml").write_text("lists: [there.csv]\n")
    assert "lists: ['there.csv'] (plan.yaml, line 1) is not allowed" in refused("--config=plan.yaml")
    rows = "rows: [{model: Pop, label: X (lists)}]\ndataset: tiny\nlists: {X: there.csv}\n"
    Path("plan.yaml").write_text(rows)
    words.remove("--models=EASE")
    assert "lists (plan.yaml, line 3): a row is called 'X (lists)' already" in refused("--config=plan.yaml")
    assert "--out and --export-split (command line) cannot be given together" in refused("--export-split=s")
    words.remove("--out=o")
    assert "--out (command line) is missing: the folder for the results." in refused()
    assert "there is no split" not in refused("--export-split=s", "--dataset=none")
    assert not Path("s").exists()
    # Neither the lists nor what is compared with them are needed to write the splits they are made from.
    plan = "rows: [EASE]\ndataset: tiny\nlists: {X: gone.csv}\nreference: X (lists)\n"
    Path("plan.yaml").write_text(plan)
    assert main(["compare", "--config=plan.yaml", f"--data_path={Path('data').resolve()}", "--export-split=s"]) == 0
    assert [folder.name for folder in Path("s").iterdir()] == ["tiny-default-2020"]
    Path("plan.yaml").write_text(f"{plan}not_run: {{X (lists): the tool is not free}}\n")
    assert read("plan.yaml", {"data_path": str(Path("data").resolve())}).not_run == {
        "X (lists)": "the tool is not free"
    }
