"""What is changed in RecBole's ``Dataset``: times, for its own models as for those of this package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recbole_vae.errors import DataError
from tests.conftest import Builder, Run, random_rows, write_inter

BOTH = pytest.mark.parametrize("model", ["MultVAE", "BPR", "Pop"])
LAST = {"split": {"LS": "valid_and_test"}, "mode": "full"}
BY_TIME = {"split": {"TS": [0.8, 0.1, 0.1]}, "mode": "full"}
COLUMNS = "user_id:token\titem_id:token\ttimestamp:float"


def events(gap: int = 20, unit: int = 10**9, users: int = 60, items: int = 30, each: int = 9) -> pd.DataFrame:
    """Make events of which a user's lie ``gap`` units apart, in lines without order; times as whole numbers."""
    rng = np.random.default_rng(5)
    rows = []
    for user in range(users):
        start = (1_700_000_000 + int(rng.integers(0, 10**7))) * unit
        rows += [(f"u{user}", f"i{item}", start + gap * n) for n, item in enumerate(rng.permutation(items)[:each])]
    return pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]).sample(frac=1, random_state=1)


def write(frame: pd.DataFrame, columns: str = COLUMNS) -> str:
    return write_inter(frame.itertuples(index=False), columns=columns)


def last_items(frame: pd.DataFrame, place: int = -1) -> dict[str, str]:
    found: dict[str, str] = frame.sort_values("timestamp").groupby("user_id").item_id.nth(place).to_dict()
    owners = frame.user_id.to_dict()
    return {owners[index]: item for index, item in found.items()}


def rows_of(run: Run, loader: Any) -> pd.DataFrame:
    data, feat = run.dataset, loader._dataset.inter_feat
    frame = {name: data.id2token(name, feat[name].numpy()) for name in ("user_id", "item_id")}
    return pd.DataFrame({**frame, **{name: feat[name].numpy() for name in feat.columns if name not in frame}})


def items_of(run: Run, loader: Any) -> dict[str, str]:
    return dict(rows_of(run, loader)[["user_id", "item_id"]].itertuples(index=False))


@BOTH
@pytest.mark.parametrize(("unit", "gap"), [(1, 20), (10**3, 3), (10**6, 1), (10**9, 1)], ids=["s", "ms", "us", "ns"])
def test_the_last_event_is_tested_in_any_unit(
    build: Builder, caplog: pytest.LogCaptureFixture, model: str, unit: int, gap: int
) -> None:
    frame = events(gap, unit)
    caplog.set_level("INFO")
    run = build(model, "tiny", data_path=write(frame), eval_args={**LAST, "order": "TO"})
    assert items_of(run, run.test) == last_items(frame)
    assert items_of(run, run.valid) == last_items(frame, -2)
    assert "Kept timestamps in 64 bits" in caplog.text


@BOTH
@pytest.mark.parametrize("form", ["%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S.%f", "%Y-%m-%dT%H:%M:%S+00:00"])
def test_dates_are_times(build: Builder, model: str, form: str) -> None:
    frame = events(unit=1)
    dates = frame.assign(timestamp=pd.to_datetime(frame.timestamp, unit="s").dt.strftime(form))
    path = write(dates, COLUMNS.replace("timestamp:float", "timestamp:token"))
    run = build(model, "tiny", data_path=path, eval_args=LAST)
    assert items_of(run, run.test) == last_items(frame)


@BOTH
def test_what_is_no_time_is_named(build: Builder, model: str) -> None:
    frame = events(unit=1)
    dates = frame.assign(timestamp=pd.to_datetime(frame.timestamp, unit="s").dt.strftime("%d.%m.%Y"))
    dates.iloc[3, 2] = "soon"
    path = write(dates, COLUMNS.replace("timestamp:float", "timestamp:token"))
    with pytest.raises(
        DataError, match="tiny.inter: '.*' in column 'timestamp' is not a time .*ISO dates such as 2024-05-31"
    ):
        build(model, "tiny", data_path=path, eval_args=LAST)
    build(model, "tiny", data_path=path)  # where nothing is ordered, nothing is read


@BOTH
@pytest.mark.parametrize("order", [None, "RO", "TO"])
@pytest.mark.parametrize("unit", [1, 10**9])
def test_nothing_of_the_test_part_lies_before_the_boundary(
    build: Builder, model: str, order: str | None, unit: int
) -> None:
    frame = events(unit=unit)
    args = BY_TIME if order is None else {**BY_TIME, "order": order}
    run = build(model, "tiny", data_path=write(frame), eval_args=args)
    times = np.sort(frame.timestamp.to_numpy())
    boundary = times[int((len(times) - 1) * 0.9)]
    train, valid, test = (rows_of(run, loader) for loader in (run.train, run.valid, run.test))
    pairs = set(test[["user_id", "item_id"]].itertuples(index=False, name=None))
    late = frame[frame.timestamp > boundary]
    assert pairs == set(late[["user_id", "item_id"]].itertuples(index=False, name=None))
    early = frame[frame.timestamp <= boundary].sort_values("timestamp")
    kept = {user: items[: int(len(items) * (0.8 / (1 - 0.1)))] for user, items in early.groupby("user_id").item_id}
    for user, items in kept.items():
        trained = train[train.user_id == user]
        assert trained.item_id.tolist() == items.tolist()
    assert len(train) + len(valid) + len(test) == len(frame)


@BOTH
def test_missing_times_are_refused_where_they_order(build: Builder, model: str) -> None:
    frame = events(unit=1).astype({"timestamp": object})
    frame.iloc[[3, 50], 2] = ""
    path = write(frame)
    for args in (LAST, BY_TIME, {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "TO"}):
        with pytest.raises(DataError, match="'timestamp' of data set 'tiny' is missing in 2 interactions"):
            build(model, "tiny", data_path=path, eval_args=args)
    run = build(model, "tiny", data_path=path, eval_args=LAST, val_interval={"timestamp": "(0,inf)"})
    assert items_of(run, run.test) == last_items(frame[frame.timestamp != ""])
    frame.timestamp = frame.timestamp.map(lambda time: time and time * 10**9)
    with pytest.raises(DataError, match="'timestamp' of data set 'tiny' is missing in 2 interactions"):
        build(model, "tiny", data_path=write(frame), eval_args=LAST, val_interval={"timestamp": "(0,inf)"})


@BOTH
def test_missing_times_that_order_nothing_are_said(
    build: Builder, caplog: pytest.LogCaptureFixture, model: str
) -> None:
    frame = events(unit=1).astype({"timestamp": object})
    frame.iloc[[3, 50], 2] = ""
    build(model, "tiny", data_path=write(frame), load_col={"inter": ["user_id", "item_id", "timestamp"]})
    assert f"'timestamp' is missing in 2 of {len(frame)} interactions; RecBole puts in the mean" in caplog.text


@BOTH
def test_leaving_one_out_without_times_is_refused_and_a_random_one_is_said(
    build: Builder, caplog: pytest.LogCaptureFixture, model: str
) -> None:
    path = write_inter(random_rows())
    with pytest.raises(DataError, match="timestamp"):
        build(model, "tiny", data_path=path, eval_args=LAST)
    build(model, "tiny", data_path=path, eval_args={**LAST, "order": "RO"})
    assert "LS: valid_and_test with order: RO leaves out random interactions, not the last" in caplog.text


@BOTH
def test_times_are_loaded_where_an_order_needs_them_and_only_there(build: Builder, model: str) -> None:
    frame = events(unit=1)
    given = {"inter": ["user_id", "item_id"]}
    run = build(model, "tiny", data_path=write(frame), eval_args=LAST, load_col=given)
    assert items_of(run, run.test) == last_items(frame)
    assert given == {"inter": ["user_id", "item_id"]}
    rows = random_rows()
    for part, chosen in (("train", rows[:-40]), ("valid", rows[-40:-20]), ("test", rows[-20:])):
        write_inter(chosen, name="bench", part=part)
    parts = ["train", "valid", "test"]
    run = build(model, "bench", data_path="data", benchmark_filename=parts, eval_args={**LAST, "order": "TO"})
    assert run.dataset.inter_feat.columns == ["user_id", "item_id"]


@BOTH
def test_exact_times_can_be_switched_off(build: Builder, model: str) -> None:
    frame = events(unit=1)
    run = build(model, "tiny", data_path=write(frame), eval_args=LAST, exact_time=False, normalize_all=False)
    rounded = frame.assign(timestamp=frame.timestamp.astype(np.float32))
    assert run.dataset.inter_feat["timestamp"].numpy().dtype == np.float32
    expected = rounded.sort_values("timestamp", kind="stable").groupby("user_id").item_id.last().to_dict()
    assert items_of(run, run.test) == expected != last_items(frame)


@pytest.mark.parametrize("dates", [False, True])
def test_held_out_users_fold_in_by_exact_times(build: Builder, dates: bool) -> None:
    frame = events(gap=1 if not dates else 10**9)
    path = write(frame)
    if dates:
        iso = pd.to_datetime(frame.timestamp).dt.strftime("%Y-%m-%d %H:%M:%S")
        path = write(frame.assign(timestamp=iso), COLUMNS.replace("timestamp:float", "timestamp:token"))
    run = build("MultVAE", "tiny", data_path=path, eval_args={"split": {"HU": [8, 8]}, "order": "TO"})
    test = rows_of(run, run.test)
    assert test.groupby("user_id").size().tolist() == [1] * 8
    last = last_items(frame)
    assert all(last[user] == item for user, item in items_of(run, run.test).items())


@BOTH
def test_what_a_split_leaves_empty_is_said(build: Builder, caplog: pytest.LogCaptureFixture, model: str) -> None:
    frame = events(unit=1, users=40)
    frame.timestamp += frame.user_id.str[1:].astype(int) * 10**8  # one user after the other
    caplog.set_level("INFO")
    args = {"split": {"RS": [0.8, 0.1, 0.1]}, "group_by": "none", "order": "TO", "mode": "full"}
    run = build(model, "tiny", data_path=write(frame), eval_args=args)
    ordered = frame.sort_values("timestamp")
    train, test = ordered[:288], ordered[324:]
    users = test.user_id.drop_duplicates()
    new = int((~users.isin(train.user_id)).sum())
    assert new == len(users)
    assert f"{new} of {new} test users have no training history" in caplog.text
    unknown = frame.item_id.nunique() - train.item_id.nunique()
    assert (f"Split: {unknown} of" in caplog.text) == (unknown > 0)
    run.fit()
    assert (
        f"{new} of {new} test users have no training history"
        in run.trainer.evaluate(run.test, load_best_model=False).gaps
    )


@BOTH
def test_items_without_a_training_interaction_are_said(
    build: Builder, caplog: pytest.LogCaptureFixture, model: str
) -> None:
    frame = events(unit=1, users=40)
    last = frame.sort_values("timestamp").index[-30:]
    frame.loc[last, "item_id"] = [f"new{number % 7}" for number in range(30)]
    frame = frame.drop_duplicates(["user_id", "item_id"])
    caplog.set_level("INFO")
    args = {"split": {"RS": [0.8, 0.1, 0.1]}, "group_by": "none", "order": "TO", "mode": "full"}
    run = build(model, "tiny", data_path=write(frame), eval_args=args)
    ordered = frame.sort_values("timestamp").item_id
    tenth = len(frame) // 10
    train, test = set(ordered[: -2 * tenth]), set(ordered[-tenth:])
    said = f"{len(test - train)} of {len(test)} test items have no training interaction"
    assert test - train
    assert said in caplog.text
    run.fit()
    assert said in run.trainer.evaluate(run.test, load_best_model=False).gaps


def test_a_split_by_time_without_an_order_is_the_one_in_order_also_where_times_are_equal(build: Builder) -> None:
    frame = events(unit=1)
    path = write(frame.assign(timestamp=frame.timestamp // 10**6))
    runs = [build("Pop", "tiny", data_path=path, eval_args={**BY_TIME, **order}) for order in ({}, {"order": "TO"})]
    trained = [rows_of(run, run.train).to_dict() for run in runs]
    assert trained[0] == trained[1]


@BOTH
def test_lines_without_a_user_or_an_item_are_left_out_and_no_others(build: Builder, model: str) -> None:
    frame = events(users=20).astype({"timestamp": str})
    gone = {3: "user_id", 7: "item_id", 8: "user_id", 21: "item_id", len(frame) - 1: "item_id"}
    for place, name in gone.items():
        frame.iloc[place, frame.columns.get_loc(name)] = ["", "NA"][place % 2]
    run = build(model, "tiny", data_path=write(frame), eval_args={**LAST, "order": "TO"})
    right = frame.drop(frame.index[list(gone)])
    found = pd.concat([rows_of(run, loader) for loader in (run.valid, run.test)])
    last = right.astype({"timestamp": int}).sort_values("timestamp").groupby("user_id").item_id
    assert dict(rows_of(run, run.test)[["user_id", "item_id"]].to_numpy()) == dict(
        right.loc[last.tail(1).index, ["user_id", "item_id"]].to_numpy()
    )
    assert len(run.dataset) == len(right)
    assert set(zip(found.user_id, found.item_id, strict=True)) <= set(zip(right.user_id, right.item_id, strict=True))


@BOTH
def test_ids_that_are_missing_in_a_fixed_split_are_refused(build: Builder, model: str) -> None:
    for part in ("a", "b", "c"):
        rows = [*random_rows(seed=ord(part)), ("u1", "") if part == "a" else ("u1", "i1")]
        write_inter(rows, part=part)
    with pytest.raises(DataError, match=r"^data set 'tiny': 'item_id' is missing in some interactions of a, b, c"):
        build(model, "tiny", data_path="data", benchmark_filename=["a", "b", "c"])


def test_what_recbole_says_of_the_data_is_a_data_error(build: Builder) -> None:
    rows = [("a", "x"), ("a", "y"), ("b", "x"), ("a", "z"), ("b", "z")]
    with pytest.raises(DataError, match=r"^data set 'tiny': some users have all items"):
        build("BPR", "tiny", data_path=write_inter(rows), topk=[1], valid_metric="MRR@1")
    with pytest.raises(DataError, match=r"^data set 'tiny': no line is left"):
        build("BPR", "tiny", data_path=write_inter([("a", ""), ("b", "")]))


@pytest.mark.parametrize("model", ["MultVAE", "EASE"])
def test_a_file_of_somebody_elses_beside_the_data_is_left_alone(build: Builder, model: str) -> None:
    folder = write_inter(random_rows())
    Path(folder, "tiny", "tiny.yaml").write_bytes("epochs: café".encode("latin-1"))
    assert len(build(model, "tiny", data_path=folder).dataset.inter_feat) == len(random_rows())
