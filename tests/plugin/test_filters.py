"""Filters by value do what they say or are refused, for RecBole's own models as for those of this package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recbole_vae.errors import ConfigError, DataError
from tests.conftest import Builder, write_inter
from tests.plugin.test_dataset import BOTH, events, rows_of

KEYS = ["user_id", "item_id"]


def rated() -> pd.DataFrame:
    frame = events(unit=1)[KEYS]
    return frame.assign(
        rating=np.random.default_rng(0).integers(1, 6, len(frame)), kind=[f"k{n % 3}" for n in range(len(frame))]
    )


def write(frame: pd.DataFrame) -> str:
    columns = "\t".join(f"{name}:{'float' if name == 'rating' else 'token'}" for name in frame)
    return write_inter(frame.itertuples(index=False), columns=columns)


def pairs(run: Any) -> set[tuple[str, str]]:
    parts = [rows_of(run, loader) for loader in (run.train, run.valid, run.test)]
    return set(pd.concat(parts)[KEYS].itertuples(index=False, name=None))


@BOTH
@pytest.mark.parametrize(
    ("interval", "advice"),
    [(4, "[4,inf)"), (4.5, "[4.5,inf)"), ([4], "[4,inf)"), (True, "[3,inf)"), ("4", "[3,inf)"), (None, "[3,inf)")],
)
def test_what_is_no_interval_is_refused_with_one(build: Builder, model: str, interval: Any, advice: str) -> None:
    with pytest.raises(ConfigError, match="val_interval: rating: .* is not allowed") as error:
        build(model, "tiny", data_path=write(rated()), val_interval={"rating": interval})
    assert f'an interval such as "{advice}"' in str(error.value)


@BOTH
def test_intervals_and_tokens_filter(build: Builder, caplog: pytest.LogCaptureFixture, model: str) -> None:
    caplog.set_level("INFO")
    frame = rated()
    run = build(model, "tiny", data_path=write(frame), val_interval={"rating": "[4,inf)", "kind": ["k0", "k2"]})
    right = frame[(frame.rating >= 4) & (frame.kind != "k1")]
    assert pairs(run) == set(right[KEYS].itertuples(index=False, name=None))
    assert f"val_interval: {len(frame) - len(right)} of {len(frame)} interactions are left out" in caplog.text


@BOTH
def test_a_filter_must_fit_the_type_of_its_column(build: Builder, model: str) -> None:
    path = write(rated())
    for filters, message in (
        ({"rating": ["4", "5"]}, "'rating' is of type float, and .*an interval such as"),
        ({"kind": "[0,2]"}, "'kind' is of type token, and .*a list of tokens such as"),
        ({"year": "[0,2]"}, "no (field|column) 'year'"),
    ):
        with pytest.raises(DataError, match=message):
            build(model, "tiny", data_path=path, val_interval=filters)


@BOTH
def test_users_and_items_are_filtered_by_their_own_files(build: Builder, model: str) -> None:
    frame = rated()
    path = write(frame)
    year = {item: 1980 + 5 * n for n, item in enumerate(sorted(frame.item_id.unique()))}
    sex = {user: "fm"[n % 2] for n, user in enumerate(sorted(frame.user_id.unique()))}
    for file, column, values in (("item", "year:float", {**year, "never bought": 2020}), ("user", "sex:token", sex)):
        lines = [f"{file}_id:token\t{column}", *(f"{name}\t{value}" for name, value in values.items())]
        Path(f"data/tiny/tiny.{file}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    filters = {"year": "[2000,inf)", "sex": ["f"]}
    run = build(model, "tiny", data_path=path, val_interval=filters)
    right = frame[(frame.item_id.map(year) >= 2000) & (frame.user_id.map(sex) == "f")]
    assert pairs(run) == set(right[KEYS].itertuples(index=False, name=None))
    assert run.dataset.item_num == right.item_id.nunique() + 1
    assert run.dataset.user_num == right.user_id.nunique() + 1
    with pytest.raises(DataError, match="'year' is a column of the .item file, and filters no interaction"):
        build(model, "tiny", data_path=path, val_interval=filters, filter_inter_by_user_or_item=False)


@BOTH
@pytest.mark.parametrize("threshold", [{"rating": 4}, 4])
def test_a_threshold_is_refused_where_all_would_be_trained_on(build: Builder, model: str, threshold: Any) -> None:
    with pytest.raises(ConfigError, match=r"^threshold: .* (?s:.)*val_interval: \{rating: \"\[4,inf\)\"\}"):
        build(model, "tiny", data_path=write(rated()), threshold=threshold)


def test_a_threshold_makes_labels_for_models_of_labels(build: Builder) -> None:
    frame = rated()
    run = build("FM", "tiny", data_path=write(frame), threshold={"rating": 4})
    assert run.dataset.inter_feat["label"].sum().item() == (frame.rating >= 4).sum()


@BOTH
def test_missing_zero_and_negative_ratings_are_said(
    build: Builder, caplog: pytest.LogCaptureFixture, model: str
) -> None:
    frame = rated().astype({"rating": object})
    frame.iloc[[1, 2, 3], 2] = ""
    frame.iloc[[4, 5], 2] = 0
    frame.iloc[6, 2] = -1
    build(model, "tiny", data_path=write(frame), load_col={"inter": [*KEYS, "rating"]})
    assert f"'rating': 3 missing, 2 zero, 1 negative of {len(frame)} interactions" in caplog.text
