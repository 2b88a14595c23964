"""Held-out items: the split against a plain implementation, and what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from recbole_vae.data.held_out_items import draw
from recbole_vae.errors import CheckpointError, ConfigError, DataError
from recbole_vae.options.evaluation import HeldOutItems, kinds_apart, trains_on_all
from tests.conftest import Builder, Run, random_rows, write_inter

TIMED = "user_id:token\titem_id:token\ttimestamp:float"
ROWS = [(*pair, place * 7919 % 1000) for place, pair in enumerate(random_rows(60, 60, 3))]
NEW = {"HI": [10, 12]}
Pairs = set[tuple[str, str]]


def pairs(run: Run, feat: Any) -> Pairs:
    data = run.dataset
    users, items = (data.id2token(field, feat[field].numpy()).tolist() for field in (data.uid_field, data.iid_field))
    return set(zip(users, items, strict=True))


def parts(run: Run) -> list[Pairs]:
    return [pairs(run, loader._dataset.inter_feat) for loader in (run.train, run.valid, run.test)]


def drawn(rows: Any = ROWS, numbers: tuple[int, int] = (10, 12), seed: int = 5) -> tuple[set[str], set[str]]:
    """Draw as the page says: the items sorted by id, by NumPy's RandomState."""
    items = sorted({row[1] for row in rows})
    order = [items[place] for place in np.random.RandomState(seed).permutation(len(items))]
    return set(order[: numbers[0]]), set(order[numbers[0] : sum(numbers)])


def make(build: Builder, split: dict[str, Any], rows: Any = ROWS, model: str = "Pop", **options: Any) -> Run:
    args = {"split": {**split, **NEW}, "seed": 5, **options.pop("args", {})}
    path = write_inter(rows, columns=TIMED, folder=options.pop("folder", "data"))
    return build(model, "tiny", data_path=path, eval_args=args, **{"topk": [3, 5], "valid_metric": "MRR@3", **options})


@pytest.mark.parametrize(
    ("split", "order"),
    [
        ({"RS": [0.6, 0.2, 0.2]}, "RO"), ({"RS": [0.6, 0.2, 0.2]}, "TO"), ({"LS": "valid_and_test"}, "TO"),
        ({"LS": "test_only"}, "TO"), ({"TS": [0.7, 0.1, 0.2]}, "TO"), ({}, "RO"),
    ],
    ids=str,
)  # fmt: skip
def test_held_out_items_are_in_their_part_alone_and_the_others_are_split_as_without(
    build: Builder, split: dict[str, Any], order: str
) -> None:
    valid, test = drawn()
    run = make(build, split, args={"order": order})
    found = parts(run)
    rest = [row for row in ROWS if row[1] not in valid | test]
    if split:
        plain = build(
            "Pop", "tiny", data_path=write_inter(rest, columns=TIMED, folder="rest"), topk=3, valid_metric="MRR@3",
            eval_args={"split": split, "order": order},
        )  # fmt: skip
        expected = parts(plain)
    else:
        expected = [{row[:2] for row in rest}, set(), set()]
    of_valid, of_test = ({row[:2] for row in ROWS if row[1] in own} for own in (valid, test))
    assert of_valid
    assert of_test
    assert found == [expected[0], expected[1] | of_valid, expected[2] | of_test]
    assert sum(map(len, found)) == len({row[:2] for row in ROWS})


@pytest.mark.parametrize("order", ["RO", "TO"])
def test_with_held_out_users_new_items_are_targets_of_the_users_of_their_part(build: Builder, order: str) -> None:
    valid, test = drawn()
    split = {"HU": [15, 20]}
    run = make(build, split, args={"order": order})
    rest = [row for row in ROWS if row[1] not in valid | test]
    plain = build(
        "Pop", "tiny", data_path=write_inter(rest, columns=TIMED, folder="rest"), topk=3, valid_metric="MRR@3",
        eval_args={"split": split, "order": order, "seed": 5},
    )  # fmt: skip
    for which, own in (("valid", valid), ("test", test)):
        here, there = getattr(run, which), getattr(plain, which)
        users = {user for user, _ in pairs(plain, there._dataset.inter_feat)}
        new = {row[:2] for row in ROWS if row[1] in own and row[0] in users}
        assert new
        assert pairs(run, here._dataset.inter_feat) == pairs(plain, there._dataset.inter_feat) | new
        given = [
            {(made.dataset.id2token("user_id", int(row)), made.dataset.id2token("item_id", int(item)))
             for row, item in zip(loader.fold_in.rows(), loader.fold_in.indices, strict=True)}
            for made, loader in ((run, here), (plain, there))
        ]  # fmt: skip
        assert given[0] == given[1]
    assert pairs(run, run.train._dataset.inter_feat) == pairs(plain, plain.train._dataset.inter_feat)
    assert run.dataset.split_hash != plain.dataset.split_hash


def test_candidates_are_warm_items_and_the_parts_own(build: Builder) -> None:
    run = make(build, {"RS": [0.6, 0.2, 0.2]})
    train, *others = ({item for _, item in part} for part in parts(run))
    for loader, own in zip((run.valid, run.test), others, strict=True):
        kinds = {k: run.dataset.id2token("item_id", v.numpy()).tolist() for k, v in loader.candidates.kinds.items()}
        assert set(kinds["warm"]) == train
        assert sorted(kinds["cold"]) == sorted(own - train)
        ids = loader.candidates.kinds["cold"].tolist()
        assert ids != sorted(ids)  # at random, so that equal scores say nothing
        assert kinds["cold"] != sorted(kinds["cold"])
        barred = set(run.dataset.id2token("item_id", loader.candidates.barred.numpy())) - {"[PAD]"}
        assert barred == {row[1] for row in ROWS} - train - own


def test_the_split_depends_on_nothing_but_the_interactions_and_the_seed(build: Builder) -> None:
    shuffled = [ROWS[place] for place in np.random.default_rng(0).permutation(len(ROWS))]
    split = {"LS": "valid_and_test"}
    runs = [
        make(build, split, args={"order": "TO"}),
        make(build, split, shuffled, folder="shuffled", seed=9, args={"order": "TO"}),
    ]
    hashes = [{part._dataset.split_hash for part in (run.train, run.valid, run.test)} for run in runs]
    assert hashes[0] == {runs[0].dataset.split_hash}
    times = Counter((row[0], row[2]) for row in ROWS)
    assert max(times.values()) == 1  # no two at a time, whose order would be that of the file
    assert parts(runs[0]) == parts(runs[1])
    assert hashes[0] == hashes[1]
    other = make(build, split, args={"order": "TO", "seed": 6})
    assert parts(other) != parts(runs[0])
    assert other.dataset.split_hash != runs[0].dataset.split_hash


def test_a_loaded_item_file_makes_no_difference(build: Builder) -> None:
    items = sorted({row[1] for row in ROWS})
    split = {"LS": "valid_and_test"}
    without = make(build, split, args={"order": "TO"})
    Path("data/tiny/tiny.item").write_text(
        "item_id:token\tsize:float\n" + "".join(f"{item}\t1\n" for item in ["a", *items, "zz"])
    )
    loaded = make(
        build, split, args={"order": "TO"},
        load_col={"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "size"]},
    )  # fmt: skip
    assert loaded.dataset.item_num == without.dataset.item_num + 2
    assert parts(loaded) == parts(without)
    assert loaded.dataset.split_hash == without.dataset.split_hash
    unknown = {loaded.dataset.token2id("item_id", item) for item in ("a", "zz")}
    assert unknown < set(loaded.test.candidates.barred.tolist())


def test_interactions_of_label_0_are_left_out(build: Builder) -> None:
    rows = [(*row, place % 4 > 0) for place, row in enumerate(ROWS)]
    path = write_inter([(*row[:3], int(row[3])) for row in rows], columns=f"{TIMED}\tlabel:float")
    run = build(
        "Pop", "tiny", data_path=path, topk=3, valid_metric="MRR@3", eval_args={"split": NEW, "seed": 5},
        load_col={"inter": ["user_id", "item_id", "timestamp", "label"]},
    )  # fmt: skip
    _, test = drawn()
    assert pairs(run, run.test._dataset.inter_feat) == {row[:2] for row in rows if row[1] in test and row[3]}


def test_all_of_the_others_for_training_is_as_without_a_split_of_them(build: Builder) -> None:
    args = {"split": {"RS": [1, 0, 0], "HI": [10, 12]}}
    assert kinds_apart({"eval_args": args}) == ("cold",)
    assert not trains_on_all({"eval_args": args})
    assert parts(make(build, {"RS": [1, 0, 0]})) == parts(make(build, {}))


def test_the_log_says_how_much_is_held_out(build: Builder, caplog: pytest.LogCaptureFixture) -> None:
    valid, test = drawn()
    counts = [len({row[:2] for row in ROWS if row[1] in own}) for own in (valid, test)]
    with caplog.at_level("INFO"):
        run = make(build, {"LS": "valid_and_test"}, args={"order": "TO"})
    total = len({row[1] for row in ROWS})
    assert (
        f"Held-out items, of {total}: 10 for validation (interactions: {counts[0]}), 12 for the test (interactions: "
        f"{counts[1]})." in caplog.text
    )
    cold = [len(loader.candidates.kinds["cold"]) for loader in (run.valid, run.test)]
    assert (
        f"Cold items, which have no training interactions, are {cold[0]} in validation and {cold[1]} in the test. SHA-256 of "
        f"the split: {run.dataset.split_hash}" in caplog.text
    )
    assert "items have no training interaction" not in caplog.text


def test_columns_that_are_sequences_are_joined(build: Builder) -> None:
    rows = [(*row, " ".join("abc"[: 1 + place % 3])) for place, row in enumerate(ROWS)]
    path = write_inter(rows, columns=f"{TIMED}\twords:token_seq")
    run = build(
        "Pop", "tiny", data_path=path, topk=3, valid_metric="MRR@3", eval_args={"split": NEW, "seed": 5},
        load_col={"inter": ["user_id", "item_id", "timestamp", "words"]},
    )  # fmt: skip
    whole = run.test._dataset.inter_feat
    given = {(row[0], row[1]): set(row[3].split()) for row in rows}
    assert len(whole)
    for user, item, words in zip(whole["user_id"], whole["item_id"], whole["words"], strict=True):
        key = run.dataset.id2token("user_id", int(user)), run.dataset.id2token("item_id", int(item))
        assert set(run.dataset.id2token("words", words.numpy())) - {"[PAD]"} == given[key]


@pytest.mark.parametrize(
    ("wanted", "numbers"), [((0.1, 0.2), (10, 20)), ((0.05, 0.1), (5, 10)), ((3, 4), (3, 4)), ((50, 49), (50, 49))]
)
def test_shares_and_numbers(wanted: tuple[float, float], numbers: tuple[int, int]) -> None:
    tokens = np.array([f"i{n}" for n in np.random.default_rng(1).permutation(100)], dtype=object)
    found = draw(tokens, HeldOutItems(wanted, None), 5)
    assert tuple(np.bincount(found, minlength=3)[1:]) == numbers
    expected = drawn([("u", token) for token in tokens], numbers)
    assert (set(tokens[found == 1]), set(tokens[found == 2])) == expected


@pytest.mark.parametrize("wanted", [(0.001, 0.1), (0.1, 0.004), (50, 50), (200, 1)])
def test_a_part_without_items_is_refused(wanted: tuple[float, float]) -> None:
    tokens = np.array([f"i{n}" for n in range(100)], dtype=object)
    with pytest.raises(DataError, match=r"^eval_args: split: HI: \[.*\] of 100 items are .* each needs at least one"):
        draw(tokens, HeldOutItems(wanted, None), 5)


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        ({"split": {"HI": [0.5, 0.5]}}, {}, "eval_args: split: HI: [0.5, 0.5]"),
        ({"split": {"HI": [0, 0.1]}}, {}, "eval_args: split: HI: [0, 0.1]"),
        ({"split": {"HI": [3, 0.1]}}, {}, "eval_args: split: HI: [3, 0.1]"),
        ({"split": {"HI": 0.1}}, {}, "eval_args: split: HI: 0.1"),
        ({"split": {"HI": [0.1, 0.1, 0.1]}}, {}, "eval_args: split: HI: [0.1"),
        ({"split": {"HI": "files"}}, {}, "eval_args: split: HI: 'files'"),
        ({"split": {"HI": [True, True]}}, {}, "eval_args: split: HI: [True"),
        ({"split": {"RS": [0.8, 0.1], "HI": [0.1, 0.1]}}, {}, "eval_args: split: RS: [0.8, 0.1]"),
        ({"split": {"RS": [8, 1, 1], "LS": "test_only", "HI": [0.1, 0.1]}}, {}, "eval_args: split: {'RS'"),
        ({"split": NEW, "mode": "uni100"}, {}, "eval_args: mode: 'uni100'"),
        ({"split": NEW, "mode": {"valid": "full", "test": "pop50"}}, {}, "eval_args: mode: {'valid'"),
        ({"split": NEW, "seed": -1}, {}, "eval_args: seed: -1"),
        ({"split": NEW, "fold_in": 0.5}, {}, "eval_args: the key 'fold_in'"),
        ({"split": NEW}, {"benchmark_filename": ["a", "b", "c"]}, "benchmark_filename: ['a', 'b', 'c']"),
        ({"split": NEW}, {"metrics": ["AUC"], "valid_metric": "AUC"}, "metrics: ['AUC']"),
        ({"split": NEW}, {"save_dataset": True}, "save_dataset: True"),
        ({"split": NEW}, {"save_dataloaders": True}, "save_dataloaders: True"),
        ({"split": NEW}, {"fast_evaluation": False}, "fast_evaluation: False"),
        ({"split": NEW}, {"valid_metric": "warm_MRR@10"}, "valid_metric: 'warm_MRR@10'"),
        ({"split": {"RS": [8, 1, 1], **NEW}}, {"valid_metric": "cold_Hits@10"}, "valid_metric: 'cold_Hits@10'"),
        ({"split": {"RS": [8, 1, 1]}}, {"valid_metric": "cold_MRR@10"}, "valid_metric: 'cold_MRR@10'"),
        ({"split": NEW}, {"world_size": 2}, "model: Pop needs one process (nproc: 1)"),
    ],
    ids=str,
)
def test_what_is_not_allowed_is_refused(
    build: Builder, args: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        build("Pop", dataset="not-there", eval_args=args, **options)
    assert message.split(":")[0] == str(error.value).split(" (")[0].split(":")[0]
    assert str(error.value).replace(" (config_dict)", "").startswith(message)


@pytest.mark.parametrize("model", ["EASE", "ItemKNN", "BPR", "LightGCN", "MultiVAE", "NeuMF"])
def test_recboles_models_are_refused_by_name(build: Builder, model: str) -> None:
    with pytest.raises(ConfigError, match=f"^model: {model} has no scores for items without training interactions"):
        build(model, dataset="not-there", eval_args={"split": NEW})


def test_a_model_of_this_package_without_features_is_refused_by_name(build: Builder, model_name: str) -> None:
    with pytest.raises(ConfigError, match=f"^model: {model_name} knows items by their interactions alone"):
        build(model_name, dataset="not-there", eval_args={"split": NEW})


def test_lists_longer_than_there_are_cold_items_are_refused(build: Builder) -> None:
    with pytest.raises(DataError, match=r"^topk: 20 is more than the 10 held-out items of validation"):
        make(build, {}, topk=[3, 20])


def test_nothing_left_of_a_kind_is_refused_where_it_was_to_choose_the_epoch(build: Builder) -> None:
    rows = [(f"u{n}", f"i{n % 30}", n) for n in range(90)]  # one interaction each: nothing to leave out
    options: dict[str, Any] = {"dataset": "tiny", "data_path": write_inter(rows, columns=TIMED), "topk": 2}
    args = {"split": {"LS": "valid_and_test", "HI": [5, 5]}, "order": "TO"}
    with pytest.raises(DataError, match="^valid_metric: warm_MRR@2: the validation part has no interaction with warm"):
        build("Pop", eval_args=args, valid_metric="warm_MRR@2", **options)
    run = build("Pop", eval_args=args, valid_metric="cold_MRR@2", **options)
    assert list(run.test.candidates.kinds) == ["cold"]
    run.fit()
    assert {name.partition("_")[0] for name in run.trainer.evaluate(run.test)} == {
        "cold", "recall@2", "mrr@2", "ndcg@2", "hit@2", "precision@2",
    }  # fmt: skip


def test_pandas_agrees_on_the_last_of_each_user(build: Builder) -> None:
    valid, test = drawn()
    frame = pd.DataFrame(ROWS, columns=["user", "item", "time"])
    rest = frame[~frame["item"].isin(valid | test)].sort_values("time")
    rest["left"] = rest.groupby("user").cumcount(ascending=False)
    rest["size"] = rest.groupby("user")["item"].transform("size")
    last = rest[(rest["left"] == 0) & (rest["size"] > 1)]
    found = parts(make(build, {"LS": "valid_and_test"}, args={"order": "TO"}))[2]
    expected = {*zip(last["user"], last["item"], strict=True)}
    assert found == expected | {row[:2] for row in ROWS if row[1] in test}


def test_a_checkpoint_restores_the_split(build: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole.quick_start import load_data_and_model
    from recbole.utils import get_trainer

    from recbole_vae.model.multdae import MultDAE

    monkeypatch.setattr(MultDAE, "scores_new_items", True)
    run = make(build, {"RS": [0.6, 0.2, 0.2]}, model="MultDAE", valid_metric="cold_NDCG@5", metrics=["NDCG"])
    run.fit()
    assert run.trainer.best_valid_score == run.trainer.best_valid_result["cold_ndcg@5"]
    expected = run.trainer.evaluate(run.test)
    config, model, _, _, _, test = load_data_and_model(run.trainer.saved_model_file)
    trainer = get_trainer(config["MODEL_TYPE"], "MultDAE")(config, model)
    again = trainer.evaluate(test, load_best_model=False)
    assert again == expected
    assert again.split_hash == expected.split_hash == run.dataset.split_hash
    assert {f"{kind}ndcg@{k}" for kind in ("", "warm_", "cold_") for k in (3, 5)} == set(again)
    state = torch.load(run.trainer.saved_model_file, weights_only=True)
    assert state["split_hash"] == run.dataset.split_hash
    torch.save({**state, "split_hash": "0"}, "other.pth")
    with pytest.raises(CheckpointError, match=r"^other\.pth: was trained with other users or items held out"):
        run.trainer.evaluate(run.test, model_file="other.pth")
