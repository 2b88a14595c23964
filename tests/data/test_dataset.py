"""The data set, its splits, and the batches of training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from recbole.data.dataset import Dataset
from recbole.utils import FeatureSource

from recbole_vae.data.dataloader import UserBatchDataLoader
from recbole_vae.errors import DataError
from tests.conftest import Builder, random_rows, write_inter


def pairs(dataset: object) -> list[tuple[int, int]]:
    feat = dataset.inter_feat  # type: ignore[attr-defined]
    return list(zip(feat["user_id"].tolist(), feat["item_id"].tolist(), strict=True))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 1000), users=st.integers(5, 30), items=st.integers(14, 40), ratio=st.sampled_from([0.1, 0.25])
)
def test_a_split_loses_nothing_and_only_its_training_part_is_seen(
    build: Builder, seed: int, users: int, items: int, ratio: float
) -> None:
    rows = random_rows(users, items, seed)
    assume(len({item for _, item in rows}) > 12)  # RecBole refuses users who have every item
    path = write_inter(rows, folder=f"data{seed}-{users}-{items}")
    run = build(
        data_path=path,
        dataset="tiny",
        seed=seed,
        topk=[3],
        valid_metric="MRR@3",
        eval_args={"split": {"RS": [1 - 2 * ratio, ratio, ratio]}, "mode": "full"},
    )
    parts = [pairs(loader._dataset) for loader in (run.train, run.valid, run.test)]
    assert sorted(sum(parts, [])) == sorted(pairs(run.dataset))
    assert len(set(sum(parts, []))) == sum(map(len, parts))
    owners = run.model.histories.rows().tolist()
    assert sorted(zip(owners, run.model.histories.indices.tolist(), strict=True)) == sorted(parts[0])


def test_batches_have_each_user_with_a_history_once_and_never_the_padding_user(build: Builder) -> None:
    run = build(train_batch_size=16)
    assert isinstance(run.train, UserBatchDataLoader)
    orders = []
    for _ in range(2):
        batches = [batch["user_id"] for batch in run.train]
        assert [len(batch) for batch in batches] == [16, 16, 8]
        orders.append(torch.cat(batches).tolist())
        assert sorted(orders[-1]) == list(range(1, 41))
    assert orders[0] != orders[1]


def test_users_without_a_training_history_are_not_trained_on_but_scored(build: Builder) -> None:
    rows = random_rows(10)
    for part, chosen in (("train", rows[:-20]), ("valid", rows[-20:]), ("test", rows[-20:])):
        write_inter(chosen, name="bench", part=part)
    run = build(data_path="data", dataset="bench", benchmark_filename=["train", "valid", "test"])
    trained = set(torch.cat([batch["user_id"] for batch in run.train]).tolist())
    lengths = run.model.histories.lengths()
    without = [user for user in range(1, run.dataset.user_num) if lengths[user] == 0]
    assert without
    assert trained == set(range(1, run.dataset.user_num)) - set(without)
    run.fit()
    scores = run.model.eval().score(run.model.histories[torch.tensor(without)])
    assert scores[:, 1:].isfinite().all()
    assert run.trainer.evaluate(run.test, load_best_model=False)["recall@10"] >= 0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("u1", f"i{n}") for n in range(9)], "has 1 user after filtering"),
        ([(f"u{n}", "i1") for n in range(9)], "has 1 item after filtering"),
    ],
)
def test_too_few_users_or_items_are_refused(build: Builder, rows: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        build(data_path=write_inter(rows), dataset="tiny")


def test_a_longer_ranking_than_there_are_items_is_refused(build: Builder) -> None:
    rows = [(f"u{n}", f"i{m}") for n in range(9) for m in range(8) if m != n]
    with pytest.raises(DataError, match="topk: 10 is more than the 8 items of data set 'tiny'"):
        build(data_path=write_inter(rows), dataset="tiny")


def test_a_missing_id_field_is_named(build: Builder) -> None:
    path = write_inter(random_rows(), columns="person:token\titem_id:token")
    with pytest.raises(DataError, match="there is no column 'user_id', .*USER_ID_FIELD.*; there are: person, item_id"):
        build(data_path=path, dataset="tiny")


COLUMNS = "user_id:token\titem_id:token\trating:float"


def write(text: str, encoding: str = "utf-8") -> Path:
    path = Path("bad/bad.inter")
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "bad.inter, line 1: the file is empty or begins with an empty line; there must be columns 'name:type'"),
        (
            "user_id,item_id\nu,i\n",
            r"bad.inter, line 1: 'user_id,item_id' is not a column; .* separated by '\\t', such as",
        ),
        ("user_id:token,item_id:token\nu,i\n", "bad.inter, line 1: 'user_id:token,item_id:token' is not a column"),
        (
            "user_id:token\titem_id:int\n",
            "line 1: 'item_id:int' is not a column; .* the types are token, float, token_seq",
        ),
        ("user_id:token\tuser_id:token\n", "line 1: there are two columns 'user_id'"),
        (f"{COLUMNS}\n", "its file has no interactions, only a first line"),
        (
            f"{COLUMNS}\nu1\ti1\t4\nu2\ti2\t#NA\n  \nu3\ti3\tx\n",
            "bad.inter, line 5: 'x' in column 'rating:float' is not a number",
        ),
        (f'{COLUMNS}\nu1\ti1\t"4"\n', "bad.inter, line 2: '\"4\"' in column 'rating:float' is not a number"),
        (
            f"{COLUMNS}\nu1\ti1\t4\n{COLUMNS}\n",
            "bad.inter, line 3: the names of the columns are repeated",
        ),
        (
            '"user_id:token"\t"item_id:token"\nu\ti\n',
            'bad.inter, line 1: "user_id:token" is in quotation marks, which RecBole does not remove',
        ),
        (f'{COLUMNS}\nu1\ti1\t4\na"b\n', "bad.inter, line 3: 1 column instead of 3"),
        (
            f"{COLUMNS}\nu1\ti1\t4\n\nu1\ti2\tfour\n",
            "bad.inter, line 4: 'four' in column 'rating:float' is not a number",
        ),
        (f"{COLUMNS}\nu1\ti1\t4\nu1\n", "bad.inter, line 3: 1 column instead of 3"),
        (f"{COLUMNS}\nu1\ti1\t4\nu1\ti2\t1\t7\n", "bad.inter, line 3: 4 columns instead of 3"),
        (f"{COLUMNS}\nu1,i1,4\n", "bad.inter, line 2: 1 column instead of 3"),
    ],
)
def test_a_bad_line_of_an_atomic_file_is_named(build: Builder, text: str, message: str) -> None:
    write(text)
    for load_col in (None, {"inter": ["user_id", "item_id"]}):
        if "is not a number" in message and load_col:
            continue  # a column that is not loaded may hold anything
        with pytest.raises(DataError, match=message):
            build(data_path=".", dataset="bad", load_col=load_col)


def test_tokens_stay_as_they_are_written_also_where_all_are_numbers(build: Builder) -> None:
    rows = [(f"{user:02}", f"{item}.0") for user in range(9) for item in range(12) if user != item]
    rows += [(f"{user}", f"{item}.0") for user, item in [(1, 2), (1, 3), (2, 5)]]
    data = build(data_path=write_inter(rows), dataset="tiny").dataset
    assert set(data.field2id_token["user_id"]) == {"[PAD]", *(user for user, _ in rows)}
    assert set(data.field2id_token["item_id"]) == {"[PAD]", *(item for _, item in rows)}
    assert data.inter_num == len(rows)


def test_interactions_without_a_user_or_an_item_are_left_out_and_no_others(
    build: Builder, caplog: pytest.LogCaptureFixture
) -> None:
    rows = random_rows()
    bad = [("NA", rows[0][1]), (rows[1][0], ""), ("null", "nan")]
    caplog.set_level("WARNING")
    path = write_inter([*rows[:3], bad[0], *rows[3:9], bad[1], bad[2], *rows[9:]])
    data = build(data_path=path, dataset="tiny").dataset
    names = [data.id2token(field, data.inter_feat[field].numpy()).tolist() for field in ("user_id", "item_id")]
    assert sorted(zip(*names, strict=True)) == sorted(rows)
    for field, numbers in (("user_id", "4, 12"), ("item_id", "11, 12")):
        said = f"'{field}' is missing in 2 interactions, which are left out; the first are number {numbers}."
        assert said in caplog.text


def test_quoted_cells_may_hold_the_separator(build: Builder) -> None:
    rows = random_rows()
    lines = [f'"Doe, {user}",{item},3' for user, item in rows]
    write("\n".join([COLUMNS.replace("\t", ","), *lines, ""]))
    data = build(data_path=".", dataset="bad", field_separator=",", load_col=None).dataset
    assert data.inter_num == len(rows)
    assert "Doe, u0" in data.field2token_id["user_id"]


def test_other_separators_and_byte_order_marks_are_read(build: Builder) -> None:
    rows = random_rows()
    write("\n".join(["user_id:token|item_id:token", *("|".join(row) for row in rows), ""]))
    assert build(data_path=".", dataset="bad", field_separator="|").dataset.inter_num == len(rows)
    write("\n".join(["user_id:token::item_id:token", *("::".join(row) for row in rows), ""]))
    assert build(data_path=".", dataset="bad", field_separator="::").dataset.inter_num == len(rows)
    write("\ufeff" + "\n".join(["user_id:token\titem_id:token", *("\t".join(row) for row in rows), ""]))
    assert build(data_path=".", dataset="bad").dataset.inter_num == len(rows)


def test_a_column_that_is_not_there_is_named(build: Builder) -> None:
    write_inter(random_rows())
    with pytest.raises(DataError, match="there is no column 'ratin', .*; there are: user_id, item_id"):
        build(data_path="data", dataset="tiny", load_col={"inter": ["user_id", "item_id", "ratin"]})
    with pytest.raises(
        DataError, match="no column 'timestamp', by which the split is ordered; there are: user_id, item_id"
    ):
        build(data_path="data", dataset="tiny", eval_args={"order": "TO"})
    with pytest.raises(DataError, match="there is no column 'timestamp', which load_col, USER_ID_FIELD"):
        build(data_path="data", dataset="tiny", load_col={"inter": ["user_id", "item_id", "timestamp"]})
    with pytest.raises(DataError, match="TIME_FIELD: .* has no field 'timestamp' .*loaded are: user_id, item_id"):
        build(data_path="data", dataset="tiny", eval_args={"order": "TO"}, load_col=None)


def test_filters_that_leave_nothing_are_named(build: Builder) -> None:
    write_inter(random_rows())
    with pytest.raises(
        DataError, match=r"no interaction is left after filtering \(user_inter_num_interval: \[99,inf\)"
    ):
        build(data_path="data", dataset="tiny", user_inter_num_interval="[99,inf)")


def test_missing_ids_in_a_fixed_split_are_refused(build: Builder) -> None:
    rows = random_rows()
    for part, chosen in (("train", [*rows[:-40], ("u1", "")]), ("valid", rows[-40:-20]), ("test", rows[-20:])):
        write_inter(chosen, name="bench", part=part)
    with pytest.raises(DataError, match="'item_id' is missing in some interactions of train, valid, test"):
        build(data_path="data", dataset="bench", benchmark_filename=["train", "valid", "test"])


def test_a_file_of_another_encoding_is_named(build: Builder) -> None:
    write(f"{COLUMNS}\nu1\ti1\t4\nu1\tcaf\u00e9\t1\n", "latin-1")
    with pytest.raises(DataError, match="bad.inter, line 3: not text of encoding utf-8"):
        build(data_path=".", dataset="bad")
    with pytest.raises(DataError, match="encoding: Python knows no encoding 'utf-9'"):
        build(data_path=".", dataset="bad", encoding="utf-9")


def test_a_missing_data_set_is_named_with_the_file_that_it_needs(build: Builder) -> None:
    with pytest.raises(DataError, match="dataset: there is no folder here/nowhere, .*into here/nowhere/nowhere.inter"):
        build(data_path="here", dataset="nowhere")
    Path("here/empty").mkdir(parents=True)
    with pytest.raises(DataError, match="dataset: there is no file here/empty/empty.inter"):
        build(data_path="here", dataset="empty")
    write_inter(random_rows(), name="bench", part="train")
    with pytest.raises(DataError, match="dataset: there is no file data/bench/bench.valid.inter"):
        build(data_path="data", dataset="bench", benchmark_filename=["train", "valid", "test"])


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_columns_are_read_as_recbole_reads_them(build: Builder, ending: str) -> None:
    rng = np.random.default_rng(0)
    lines = [f"{user}\t{item}\t{rng.lognormal():.17g}" for user, item in random_rows()]
    lines[3] = lines[3].rpartition("\t")[0] + "\t"  # a value is missing
    lines[5] = "a user\tNA\t7"
    write(ending.join([COLUMNS, *lines]) + ending)
    data = build(data_path=".", dataset="bad", load_col=None).dataset
    ours = data._load_feat("bad/bad.inter", FeatureSource.INTERACTION)
    theirs = Dataset._load_feat.__wrapped__(data, "bad/bad.inter", FeatureSource.INTERACTION)
    assert list(ours) == list(theirs) == ["user_id", "item_id", "rating"]
    for name in ours:
        assert ours[name].isna().tolist() == theirs[name].isna().tolist()
        if name == "rating":  # the parser that RecBole uses is off by some last bits with older pandas
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-14)
            cells = [line.rpartition("\t")[2] for line in lines]
            assert ours[name].dropna().tolist() == [float(cell) for cell in cells if cell]
        else:
            assert ours[name].dropna().tolist() == theirs[name].dropna().tolist()


def test_a_missing_weight_is_refused_not_filled(build: Builder) -> None:
    rows = [(*row, "" if number == 7 else "2") for number, row in enumerate(random_rows())]
    path = write_inter(rows, columns=COLUMNS)
    load = {"inter": ["user_id", "item_id", "rating"]}
    with pytest.raises(DataError, match="value_field: 'rating' of data set 'tiny' is missing in 1 interactions"):
        build(data_path=path, dataset="tiny", value_field="rating", load_col=load)
    build(data_path=path, dataset="tiny", load_col=load)
    build(data_path=path, dataset="tiny", value_field="rating", load_col=load, val_interval={"rating": "(0,inf)"})


@pytest.mark.parametrize("ratios", [[0.8, 0.1, 0.1], [8, 1, 1], [0.5, 0.5, 0], [1, 2, 3], [0.98, 0.01, 0.01]])
def test_a_split_by_user_is_recboles(build: Builder, ratios: list[float]) -> None:
    parts = []
    for split in (Dataset.split_by_ratio, Dataset.split_by_ratio.__wrapped__):
        data = build(data_path=write_inter([*random_rows(), ("once", "i3"), ("twice", "i3"), ("twice", "i4")])).dataset
        data.inter_feat = data.inter_feat[np.random.default_rng(0).permutation(len(data.inter_feat))]
        parts.append([pairs(part) for part in split(data, ratios, "user_id")])
    assert parts[0] == parts[1]
