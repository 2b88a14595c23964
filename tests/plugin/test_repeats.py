"""Repeated pairs of user and item: none is on both sides of a split, for RecBole's own models as for those of this package."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from recbole_vae.errors import ConfigError, DataError
from tests.conftest import Builder, random_rows, write_inter
from tests.plugin.test_dataset import BOTH, BY_TIME, COLUMNS, LAST, events, rows_of, write

KEYS = ["user_id", "item_id"]


def shop() -> pd.DataFrame:
    """Make purchases of which each third is bought again later, some of them twice."""
    frame = events(unit=1)
    again = frame.iloc[::3]
    more = [
        again.assign(timestamp=again.timestamp + 86_400),
        again[:40].assign(timestamp=again.timestamp[:40] + 90_000),
    ]
    return pd.concat([frame, *more]).sample(frac=1, random_state=3).reset_index(drop=True)


@BOTH
@pytest.mark.parametrize("args", [None, {"order": "TO"}, LAST, BY_TIME, {**BY_TIME, "order": "RO"}])
@pytest.mark.parametrize("how", [None, "first", "last"])
def test_no_pair_is_on_both_sides_and_the_right_one_stays(
    build: Builder, caplog: pytest.LogCaptureFixture, model: str, args: Any, how: str | None
) -> None:
    frame = shop()
    options: dict[str, Any] = {} if how is None else {"repeats": how}
    options |= {"load_col": {"inter": [*KEYS, "timestamp"]}, "normalize_all": False}
    if args is not None:
        options["eval_args"] = args
    run = build(model, "tiny", data_path=write(frame), **options)
    parts = [rows_of(run, loader) for loader in (run.train, run.valid, run.test)]
    together = pd.concat(parts)
    assert not together.duplicated(KEYS).any()
    ordered = args is not None  # LS is by time, too
    by_time = frame.sort_values("timestamp") if ordered else frame
    keep = how or ("last" if ordered and args.get("order") != "RO" else "first")
    expected = by_time.drop_duplicates(KEYS, keep=keep)
    times = together.set_index(KEYS).timestamp.sort_index()
    if ordered:
        assert times.astype("int64").equals(expected.set_index(KEYS).timestamp.sort_index())
    assert len(together) == len(expected)
    gone = len(frame) - len(expected)
    assert f"Repeats: {gone} of {len(frame)} interactions repeat a pair of user and item; the {keep} of" in caplog.text


@BOTH
@pytest.mark.parametrize("options", [{"repeats": "keep"}, {"repeatable": True}])
def test_all_are_kept_and_counted_where_that_is_asked_for(
    build: Builder, caplog: pytest.LogCaptureFixture, model: str, options: dict[str, Any]
) -> None:
    frame = shop()
    run = build(model, "tiny", data_path=write(frame), **options)
    assert run.dataset.inter_num == len(frame)
    assert "All are kept, so pairs of the test part may be in the training part" in caplog.text


@BOTH
def test_recboles_own_option_keeps_its_meaning(build: Builder, model: str) -> None:
    frame = shop()
    run = build(
        model, "tiny", data_path=write(frame), rm_dup_inter="last", load_col={"inter": [*KEYS, "timestamp"]},
        normalize_all=False, repeats="first",
    )  # fmt: skip
    times = pd.concat([rows_of(run, loader) for loader in (run.train, run.valid, run.test)]).set_index(KEYS).timestamp
    expected = frame.groupby(KEYS).timestamp.max()
    assert times.sort_index().astype("int64").equals(expected.sort_index())


def test_the_number_of_repeats_can_be_the_weight(build: Builder) -> None:
    frame = shop()
    run = build("MultVAE", "tiny", data_path=write(frame), repeats="count", value_field="count")
    expected = frame.groupby(KEYS).size()
    histories = run.model.histories
    users, items = (
        run.dataset.id2token(name, ids.long().numpy())
        for name, ids in zip(KEYS, (histories.rows(), histories.indices), strict=True)
    )
    found = pd.Series(histories.values.numpy(), index=[users, items])
    assert found.max() == 3
    assert found.astype("int64").tolist() == expected.reindex(found.index).tolist()
    path = write(frame.assign(count=1), f"{COLUMNS}\tcount:float")
    with pytest.raises(DataError, match="repeats: count: data set 'tiny' has a field 'count' already"):
        build("MultVAE", "tiny", data_path=path, repeats="count", load_col=None)


@BOTH
def test_parts_that_share_pairs_are_said_and_cleaned_if_asked(
    build: Builder, caplog: pytest.LogCaptureFixture, model: str
) -> None:
    rows = list(events(unit=1)[KEYS].itertuples(index=False))
    parts = {"train": rows[:400], "valid": [*rows[395:450], rows[440]], "test": [*rows[450:], *rows[:7], rows[445]]}
    for part, chosen in parts.items():
        write_inter(chosen, name="bench", part=part)
    options: dict[str, Any] = {"data_path": "data", "benchmark_filename": list(parts)}
    run = build(model, "bench", **options)
    assert [len(loader._dataset) for loader in (run.train, run.valid, run.test)] == [
        len(part) for part in parts.values()
    ]
    assert "Repeats: 14 of " in caplog.text
    for said in (
        "5 of 56 in 'valid' have a pair of 'train'",
        "7 of 98 in 'test'",
        "1 of 98 in 'test' have a pair of 'valid'",
    ):
        assert said in caplog.text
    run = build(model, "bench", repeats="first", **options)
    assert [len(loader._dataset) for loader in (run.train, run.valid, run.test)] == [400, 50, 90]


@BOTH
def test_another_value_is_refused(build: Builder, model: str) -> None:
    with pytest.raises(ConfigError, match="repeats: 'none' .* must be one of auto, first, last, count, keep"):
        build(model, "tiny", data_path=write(shop()), repeats="none")


def test_data_without_repeats_stay_as_they_are(build: Builder, caplog: pytest.LogCaptureFixture) -> None:
    run = build("MultVAE")
    assert run.dataset.inter_num > 0
    assert "Repeats" not in caplog.text


@pytest.mark.parametrize("repeats", ["first", "last"])
@pytest.mark.parametrize("labels", [(0, 1), (1, 0)])
def test_of_a_pair_with_both_labels_label_1_is_kept(build: Builder, repeats: str, labels: tuple[int, int]) -> None:
    rows = [(user, item, label) for label in labels for user, item in random_rows()]
    folder = write_inter(rows, columns="user_id:token\titem_id:token\tlabel:float")
    run = build(
        "MultVAE", "tiny", data_path=folder, repeats=repeats, load_col={"inter": ["user_id", "item_id", "label"]}
    )
    assert run.dataset.inter_feat["label"].tolist() == [1.0] * len(random_rows())
