"""Held-out users: the split, and what reaches the models, against a plain implementation of the protocol."""

from __future__ import annotations

import gzip
import itertools
import math
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recbole.data.interaction import cat_interactions

from recbole_vae.data.held_out import HeldOutDataset, split_users
from recbole_vae.errors import CheckpointError, ConfigError, DataError
from recbole_vae.options.evaluation import HeldOutUsers
from tests.conftest import Builder, Run, random_rows, write_inter

HELD_OUT = {"split": {"HU": [8, 8]}, "mode": "full"}
Rows = list[tuple[str, str]]


def tokens(run: Run, feat: Any) -> list[tuple[str, str]]:
    data = run.dataset
    users, items = (data.id2token(field, feat[field].numpy()).tolist() for field in (data.uid_field, data.iid_field))
    return list(zip(users, items, strict=True))


def fold_in(run: Run, loader: Any) -> list[tuple[str, str]]:
    rows = loader.fold_in
    return tokens(run, {"user_id": rows.rows(), "item_id": rows.indices.long()})


def protocol(rows: Rows, n_valid: int, n_test: int, share: float, least: int, seed: int) -> list[Rows]:
    """The protocol as the README describes it, without arrays: five lists of (user, item)."""
    rng = np.random.RandomState(seed)
    owned = defaultdict(set)
    for user, item in rows:
        owned[user].add(item)
    names = sorted(owned)
    enough = [name for name in names if len(owned[name]) >= least]
    drawn = [enough[place] for place in rng.permutation(len(enough))]
    apart = [set(drawn[:n_valid]), set(drawn[n_valid : n_valid + n_test])]
    training = [(user, item) for user in names if user not in apart[0] | apart[1] for item in sorted(owned[user])]
    known = {item for _, item in training}
    parts: list[Rows] = [training, [], [], [], []]
    kept = {name: sorted(owned[name] & known) for name in names if name in apart[0] | apart[1]}
    keys = {name: rng.random_sample(len(items)) for name, items in kept.items()}
    for name, items in kept.items():
        place = 1 if name in apart[0] else 3
        wanted = math.floor(round((1 - share) * len(items), 9))
        if len(items) < least or not 0 < wanted < len(items):
            continue
        order = sorted(range(len(items)), key=lambda index: keys[name][index])
        targets = set(order[len(items) - wanted :])
        parts[place] += [(name, item) for index, item in enumerate(items) if index not in targets]
        parts[place + 1] += [(name, item) for index, item in enumerate(items) if index in targets]
    return parts


@settings(max_examples=25, deadline=None)
@given(
    data=st.integers(0, 10_000), seed=st.integers(0, 2**32 - 1), share=st.sampled_from([0.5, 0.8, 0.9]),
    least=st.integers(2, 7), held_out=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)  # fmt: skip
def test_the_split_is_the_protocols(data: int, seed: int, share: float, least: int, held_out: tuple[int, int]) -> None:
    rows = random_rows(40, 30, data)
    rows += rows[:20]  # some more than once
    expected = protocol(rows, *held_out, share, least, seed)
    shuffled = random.Random(data).sample(rows, len(rows))
    digests = set()
    for given_rows in (rows, shuffled):
        users, items = (np.array(column, dtype=object) for column in zip(*given_rows, strict=True))
        wanted = HeldOutUsers(held_out, share, least, seed, by_time=False)
        try:
            split = split_users(users, items, None, None, wanted, 0)
        except DataError:
            assert not all(expected)
            return
        bounds = np.cumsum([0, *split.sizes])
        for block, (start, stop) in enumerate(itertools.pairwise(bounds)):
            chosen = [given_rows[place] for place in split.order[start:stop]]
            assert chosen == sorted(chosen)
            assert sorted(set(chosen)) == sorted(expected[block])
            if block:
                continue
            assert sorted(chosen) == sorted(row for row in rows if row in set(expected[0]))
        digests.add(split.digest)
    assert len(digests) == 1


def test_the_digest_tells_splits_apart() -> None:
    rows = random_rows(40, 30)
    users, items = (np.array(column, dtype=object) for column in zip(*rows, strict=True))
    digests = {
        split_users(users, items, None, None, HeldOutUsers((8, 8), share, 5, seed, by_time=False), 0).digest
        for share, seed in ((0.8, 0), (0.8, 1), (0.5, 0))
    }
    assert len(digests) == 3


def test_the_split_is_the_same_on_all_machines() -> None:
    """Written down once: what a seed means must never change."""
    rows = [(f"u{user}", f"i{(user * 7 + 3 * k * k) % 30}") for user in range(40) for k in range(8)]
    users, items = (np.array(column, dtype=object) for column in zip(*rows, strict=True))
    split = split_users(users, items, None, None, HeldOutUsers((8, 8), 0.8, 5, 2020, by_time=False), 0)
    assert split.digest == "fe0c1b320ced48eff5d021be65e43a5adb03d3223081f73f5f1ba0555b246c54"


def check_training(run: Run, rows: Rows) -> None:
    """Look at all that the model receives: its table, its batches, its vocabulary."""
    apart = {user for loader in (run.valid, run.test) for user, _ in tokens(run, loader._dataset.inter_feat)}
    assert len(apart) == 16
    allowed = {(user, item) for user, item in rows if user not in apart}
    table = run.model.histories
    received = tokens(run, {"user_id": table.rows(), "item_id": table.indices.long()})
    assert sorted(received) == sorted(allowed)
    batches = torch.cat([batch["user_id"] for batch in run.train])
    assert set(run.dataset.id2token("user_id", batches.numpy())) == {user for user, _ in allowed}
    assert run.model.n_users == run.train._dataset.user_num == 60 - 16 + 1
    assert set(run.dataset.field2id_token["item_id"][1:]) == {item for _, item in allowed}
    for loader in (run.valid, run.test):
        given_items, targets = fold_in(run, loader), tokens(run, loader._dataset.inter_feat)
        assert not set(given_items) & set(targets)
        owners, items = {user for user, _ in targets}, {item for _, item in allowed}
        expected = [(user, item) for user, item in rows if user in owners and item in items]
        assert sorted(given_items + targets) == sorted(expected)


def test_no_interaction_of_a_held_out_user_reaches_training(build: Builder, model_name: str) -> None:
    rows = random_rows(60, 30)
    run = build(model_name, dataset="tiny", data_path=write_inter(rows), eval_args=HELD_OUT)
    check_training(run, rows)
    with pytest.raises(IndexError):  # of those who are held out the model knows not even that they exist
        run.model.histories[run.test.uid_list]


def test_a_leak_planted_on_purpose_is_caught(build: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = random_rows(60, 30)
    original = HeldOutDataset._parts

    def leak(self: HeldOutDataset) -> list[Any]:
        parts = original(self)
        target = parts[2].inter_feat[:1]
        target["user_id"] = torch.ones(1, dtype=torch.int64)
        parts[0] = parts[0].copy(cat_interactions([parts[0].inter_feat, target]))
        return parts

    monkeypatch.setattr(HeldOutDataset, "_parts", leak)
    run = build(dataset="tiny", data_path=write_inter(rows), eval_args=HELD_OUT)
    with pytest.raises(AssertionError):
        check_training(run, rows)


def test_metrics_and_rankings_equal_a_plain_implementation(build: Builder) -> None:
    run = build(
        "MultDAE", dataset="ml-100k", epochs=2, train_batch_size=200, metrics=["TruncatedRecall", "NDCG", "Recall"],
        topk=[5, 20, 100], valid_metric="NDCG@100", metric_decimal_place=17,
        eval_args={"split": {"HU": [100, 150]}, "seed": 7}, weight_decay=0.0,
    )  # fmt: skip
    run.fit()
    result = run.trainer.evaluate(run.test, load_best_model=True)
    model = run.model.eval()
    targets: dict[str, set[int]] = defaultdict(set)
    given_items: dict[str, set[int]] = defaultdict(set)
    for rows, table in ((tokens(run, run.test._dataset.inter_feat), targets), (fold_in(run, run.test), given_items)):
        for user, item in rows:
            table[user].add(run.dataset.token2id("item_id", item))
    weights = {name: value.double().numpy() for name, value in model.state_dict().items() if name != "_extra_state"}
    expected = defaultdict(list)
    for number in run.test.uid_list.tolist():
        user = run.dataset.id2token("user_id", number)
        x = np.zeros(model.n_items - 1)
        x[[item - 1 for item in given_items[user]]] = 1
        code = np.tanh(x / np.linalg.norm(x) @ weights["encoder.input.weight"] + weights["encoder.input.bias"])
        code = (
            code
            if not [key for key in weights if key.startswith("encoder.layers")]
            else np.tanh(code @ weights["encoder.layers.0.weight"].T + weights["encoder.layers.0.bias"])
        )
        hidden = code
        layers = sorted({key.rsplit(".", 1)[0] for key in weights if key.startswith("decoder")})
        for position, layer in enumerate(layers):
            hidden = hidden @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"]
            hidden = np.tanh(hidden) if position < len(layers) - 1 else hidden
        hidden[[item - 1 for item in given_items[user]]] = -np.inf
        ranked = [int(item) + 1 for item in np.argsort(-hidden, kind="stable")[:100]]
        gains: list[float] = [(item in targets[user]) / math.log2(rank + 2) for rank, item in enumerate(ranked)]
        ideal = [1 / math.log2(rank + 2) for rank in range(100)]
        for k in (5, 20, 100):
            hits = sum(item in targets[user] for item in ranked[:k])
            expected[f"truncatedrecall@{k}"].append(hits / min(k, len(targets[user])))
            expected[f"recall@{k}"].append(hits / len(targets[user]))
            expected[f"ndcg@{k}"].append(sum(gains[:k]) / sum(ideal[: min(k, len(targets[user]))]))
    assert set(result) == set(expected)
    for name, values in expected.items():
        assert len(values) == 150
        assert result[name] == pytest.approx(np.mean(values), abs=1e-9), name
        np.testing.assert_allclose(result.per_user[name], values, rtol=0, atol=1e-9)
        error = math.sqrt(sum((value - np.mean(values)) ** 2 for value in values) / 149 / 150)
        assert result.standard_errors()[name] == pytest.approx(error)


@pytest.mark.parametrize("model", ["MultVAE", "EASE"])
def test_the_order_of_the_file_changes_nothing(build: Builder, model: str) -> None:
    rows = random_rows(60, 30)
    results, hashes = [], set()
    for seed in (0, 1):
        path = write_inter(random.Random(seed).sample(rows, len(rows)), folder=f"data{seed}")
        run = build(model, dataset="tiny", data_path=path, eval_args=HELD_OUT)
        run.fit()
        results.append(run.trainer.evaluate(run.test, load_best_model=False))
        hashes.add(run.dataset.split_hash)
    assert results[0] == results[1]
    assert len(hashes) == 1


def test_by_time_the_fold_in_is_what_came_first(build: Builder) -> None:
    rows = [(user, item, place * 7 % 100) for place, (user, item) in enumerate(random_rows(60, 30))]
    path = write_inter(rows, columns="user_id:token\titem_id:token\ttimestamp:float")
    run = build(dataset="tiny", data_path=path, eval_args={**HELD_OUT, "order": "TO"})
    times = {(user, item): time for user, item, time in rows}
    for loader in (run.valid, run.test):
        first, last = defaultdict(list), defaultdict(list)
        for pair in fold_in(run, loader):
            first[pair[0]].append(times[pair])
        for pair in tokens(run, loader._dataset.inter_feat):
            last[pair[0]].append(times[pair])
        assert set(first) == set(last)
        assert len(first) == 8
        assert all(max(first[user]) <= min(last[user]) for user in first)


def test_users_may_be_given_by_files(build: Builder) -> None:
    rows = random_rows(60, 30)
    parts = {"train": range(40), "valid": range(40, 50), "test": range(50, 60)}
    for part, numbers in parts.items():
        write_inter([row for row in rows if int(row[0][1:]) in numbers], part=part)
    options = {"benchmark_filename": list(parts), "data_path": "data", "dataset": "tiny"}
    run = build(**options, eval_args={"split": {"HU": "files"}})
    for part, loader in (("valid", run.valid), ("test", run.test)):
        users = {int(user[1:]) for user, _ in tokens(run, loader._dataset.inter_feat)}
        assert users <= set(parts[part])
        assert len(users) > 5
    assert {int(user[1:]) for user in run.train._dataset.field2id_token["user_id"][1:]} == set(parts["train"])

    write_inter([*rows[-5:], rows[0]], part="test")
    with pytest.raises(DataError, match=r"^user 'u0' is in more than one of the files .* \(1 users are\)"):
        build(**options, eval_args={"split": {"HU": "files"}})


def test_filters_come_first(build: Builder) -> None:
    rows = [(*row, place % 5 + 1) for place, row in enumerate(random_rows(80, 30))]
    path = write_inter(rows, columns="user_id:token\titem_id:token\trating:float")
    run = build(
        dataset="tiny", data_path=path, eval_args={**HELD_OUT, "min_items": 4}, val_interval={"rating": "[3,inf)"},
        user_inter_num_interval="[4,inf)",
    )  # fmt: skip
    ratings = {(user, item): rating for user, item, rating in rows}
    for feat in (loader._dataset.inter_feat for loader in (run.train, run.valid, run.test)):
        assert all(ratings[pair] >= 3 for pair in tokens(run, feat))


def test_weights_go_with_the_fold_in(build: Builder) -> None:
    rows = [(*row, place % 5 + 1) for place, row in enumerate(random_rows(60, 30))]
    path = write_inter(rows, columns="user_id:token\titem_id:token\trating:float")
    run = build(dataset="tiny", data_path=path, eval_args=HELD_OUT, value_field="rating")
    ratings = {(user, item): float(rating) for user, item, rating in rows}
    table = run.valid.fold_in
    assert table.values.tolist() == [ratings[pair] for pair in fold_in(run, run.valid)]
    run.fit()


BAD = [
    ({"HU": [8]}, "split: HU: [8]"),
    ({"HU": [0.6, 0.6]}, "split: HU: [0.6, 0.6]"),
    ({"HU": [0, 5]}, "split: HU: [0, 5]"),
    ({"HU": [0.1, 5]}, "split: HU: [0.1, 5]"),
    ({"HU": "files"}, "split: HU: 'files'"),
    ({"HU": None}, "split: HU: [None]"),
]


@pytest.mark.parametrize(("split", "message"), BAD)
@pytest.mark.parametrize("model", ["MultVAE", "EASE"])
def test_a_bad_split_is_refused(build: Builder, model: str, split: Any, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        build(model, dataset="not-there", eval_args={"split": split})
    assert str(error.value).startswith(f"eval_args: {message} (config_dict) is not allowed")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fold_in": 1.0}, "eval_args: fold_in: 1.0"),
        ({"min_items": 1}, "eval_args: min_items: 1"),
        ({"seed": -1}, "eval_args: seed: -1"),
        ({"mode": "uni100"}, "eval_args: mode: 'uni100'"),
        ({"foldin": 0.5}, "eval_args: the key 'foldin'"),
    ],
)
def test_bad_details_are_refused(build: Builder, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        build(dataset="not-there", eval_args={**HELD_OUT, **change})
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("numbers", [[30, 30], [0.5, 0.49]])
def test_too_many_held_out_users_are_refused(build: Builder, numbers: list[float]) -> None:
    with pytest.raises(DataError, match="cannot be kept apart|leaves none"):
        build(eval_args={"split": {"HU": numbers}})


@pytest.mark.parametrize("model", ["BPR", "LightGCN", "CDAE", "NeuMF"])
def test_a_model_that_cannot_score_a_history_is_refused_by_name(build: Builder, model: str) -> None:
    with pytest.raises(ConfigError, match=f"^model: {model} cannot score users who were not in the training data"):
        build(model, dataset="not-there", eval_args=HELD_OUT)
    with pytest.raises(ConfigError, match="knn_method: user compares"):
        build("ItemKNN", dataset="not-there", eval_args=HELD_OUT, knn_method="user")


def test_a_run_is_resumed_and_loaded_on_the_same_split(build: Builder) -> None:
    from recbole.quick_start import load_data_and_model
    from recbole.utils import get_trainer

    path = write_inter(random_rows(60, 30))
    options = {"dataset": "tiny", "data_path": path, "eval_args": {**HELD_OUT, "seed": 3}, "epochs": 4}
    run = build(**options)
    run.fit()
    expected = run.trainer.evaluate(run.test)
    config, model, _, _, _, test = load_data_and_model(run.trainer.saved_model_file)
    trainer = get_trainer(config["MODEL_TYPE"], "MultVAE")(config, model)
    trainer.eval_collector.data_collect(test)
    assert trainer.evaluate(test, load_best_model=False) == expected
    resumed = build(**{**options, "epochs": 6})
    resumed.trainer.resume_checkpoint(run.trainer.saved_model_file)
    resumed.fit()
    assert isinstance(resumed.dataset, HeldOutDataset)
    state = torch.load(run.trainer.saved_model_file, weights_only=True)
    assert state["split_hash"] == run.dataset.split_hash
    torch.save({**state, "split_hash": "0"}, "other.pth")
    with pytest.raises(CheckpointError, match=r"^other\.pth: was trained with other users or items held out"):
        run.trainer.evaluate(run.test, model_file="other.pth")


def test_missing_times_are_refused(build: Builder) -> None:
    rows = [(*pair, "" if place == 7 else place) for place, pair in enumerate(random_rows(60, 30))]
    path = write_inter(rows, columns="user_id:token\titem_id:token\ttimestamp:float")
    with pytest.raises(DataError, match="^eval_args: order: TO: 'timestamp' of data set 'tiny' is missing in 1 inter"):
        build(dataset="tiny", data_path=path, eval_args={**HELD_OUT, "order": "TO"})


def test_a_saved_split_is_read_back(build: Builder) -> None:
    rows = random_rows(40, 30)
    folder = write_inter([*rows, *rows[::3]])
    first = build("MultDAE", "tiny", data_path=folder, eval_args=HELD_OUT)
    (path,) = Path("saved").glob("tiny-*.split.csv.gz")
    assert path.name == f"tiny-{first.dataset.split_hash[:16]}.split.csv.gz"
    before = path.read_bytes()
    shuffled = random.Random(0).sample(rows, len(rows))
    again = build(
        "MultDAE", "tiny", data_path=write_inter([*shuffled, *rows[::3]], folder="other"), seed=7,
        eval_args={"split": {"HU": str(path)}, "mode": "full"},
    )  # fmt: skip
    assert again.dataset.split_hash == first.dataset.split_hash
    for one, other in ((first.valid, again.valid), (first.test, again.test)):
        assert fold_in(first, one) == fold_in(again, other)
        assert tokens(first, one._dataset.inter_feat) == tokens(again, other._dataset.inter_feat)
    assert list(Path("saved").glob("*split*")) == [path]
    assert path.read_bytes() == before
    path.write_bytes(before[:-9])
    build("MultDAE", "tiny", data_path=folder, eval_args=HELD_OUT)
    assert path.read_bytes() == before


@pytest.mark.parametrize("held_out", [True, False])
def test_a_saved_split_of_other_data_is_refused(build: Builder, held_out: bool) -> None:
    rows = random_rows(40, 30)
    split = build("MultDAE", "tiny", data_path=write_inter(rows), eval_args=HELD_OUT)
    (path,) = Path("saved").glob("*.split.csv.gz")
    feat = (split.test if held_out else split.train)._dataset.inter_feat
    missing = tokens(split, feat)[0]
    message = (
        f"has no interaction of user '{missing[0]}' with item '{missing[1]}' .missing pairs of the split: 1"
        if held_out
        else "in this file has SHA-256"
    )
    with pytest.raises(DataError, match=message):
        build(
            "MultDAE", "tiny", data_path=write_inter([row for row in rows if row != missing]),
            eval_args={"split": {"HU": str(path)}, "mode": "full"},
        )  # fmt: skip


@pytest.mark.parametrize(
    "content", [b"", b"user_id,item_id\n", gzip.compress(b"part,user_id,item_id\n", mtime=0), None]
)
def test_what_is_no_saved_split_is_refused(build: Builder, content: bytes | None) -> None:
    if content is not None:
        Path("x.split.csv.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.split\.csv\.gz: (cannot read this split|not a split of recbole_vae)"):
        build(
            "MultDAE", "tiny", data_path=write_inter(random_rows()),
            eval_args={"split": {"HU": "x.split.csv.gz"}, "mode": "full"},
        )  # fmt: skip


@pytest.mark.parametrize("other", [{"seed": 3}, {"fold_in": 0.5}, {"min_items": 3}, {"order": "TO"}])
def test_a_saved_split_leaves_nothing_to_choose(build: Builder, other: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(other))):
        build(
            "MultDAE", "tiny", data_path=write_inter(random_rows()),
            eval_args={"split": {"HU": "x.split.csv.gz"}, "mode": "full", **other},
        )  # fmt: skip


def test_items_that_only_held_out_users_have_are_unknown() -> None:
    rows = random_rows(40, 30)
    rows += [(user, f"own of {user}") for user in sorted({user for user, _ in rows})]
    users, items = (np.array(column, dtype=object) for column in zip(*rows, strict=True))
    split = split_users(users, items, None, None, HeldOutUsers((8, 8), 0.8, 5, 0, by_time=False), 0)
    apart = [rows[place] for place in split.order[split.sizes[0] :]]
    assert apart
    assert not [item for _, item in apart if item.startswith("own")]
    known = {rows[place][1] for place in split.order[: split.sizes[0]]}
    assert split.unknown == sum(item not in known for _, item in rows) >= 16
