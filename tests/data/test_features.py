"""Features of items: each kind against NumPy, state, and files that are wrong."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_vae.data.feature_file import FeatureTable, FileForm, read_feature_file
from recbole_vae.data.features import Features, FeatureSpace, features_of
from recbole_vae.errors import ConfigError, DataError
from recbole_vae.storage import checkpoint

FORM = FileForm("item_id", "\t", " ", "utf-8")
KINDS = {"genre": "token_seq", "maker": "token", "year": "float", "vector": "float_seq", "title": "token"}


def table(**cells: list[Any]) -> FeatureTable:
    count = len(next(iter(cells.values())))
    return FeatureTable([f"i{row}" for row in range(count)], cells, KINDS)


def space(items: FeatureTable, *entries: str) -> FeatureSpace:
    return FeatureSpace.fit(items, entries or list(items.cells), FORM)


def write(text: str, name: str = "tiny.item") -> Path:
    path = Path(name)
    path.write_text(text, encoding="utf-8")
    return path


def test_values_are_weighted_by_how_rare_they_are() -> None:
    items = table(genre=["a b", "a c", "b", "a x", ""])
    fitted = space(items)
    assert fitted.names == ["genre=a", "genre=b"]  # c and x are of one item each
    weights = [math.sqrt(math.log(5 / 3)), math.sqrt(math.log(5 / 2))]
    length = math.hypot(*weights)
    expected = np.array([[weights[0] / length, weights[1] / length], [1, 0], [0, 1], [1, 0], [0, 0]])
    np.testing.assert_allclose(fitted.encode(items).toarray(), expected, rtol=1e-6)


def test_a_token_with_spaces_is_one_value_and_a_sequence_may_be_a_list() -> None:
    assert space(table(maker=["A B", "A B", "B"])).names == ["maker=A B"]
    items = table(genre=[["a", "b c"], ["b c"], ["a"], ["d"]])
    assert space(items).names == ["genre=a", "genre=b c"]


def test_numbers_are_hats_at_quantiles() -> None:
    values = np.random.default_rng(0).normal(size=40)
    items = table(year=[*map(str, values), ""])
    fitted = space(items)
    knots = np.quantile(values, np.linspace(0, 1, 8))
    found = fitted.encode(items).toarray()
    for value, row in zip(values, found[:-1], strict=True):
        hats = np.interp(value, knots, np.arange(8))  # between two knots the hats are the shares of both
        expected = np.maximum(0, 1 - np.abs(np.arange(8) - hats))
        np.testing.assert_allclose(row, expected / np.linalg.norm(expected), atol=1e-6)
    assert not found[-1].any()
    beyond = fitted.encode(table(year=["-1000", "1000"])).toarray()
    np.testing.assert_allclose(beyond, np.eye(8)[[0, 7]], atol=1e-7)


def test_vectors_are_standardised() -> None:
    vectors = np.random.default_rng(0).normal(size=(30, 3)) * [1, 5, 0] + [3, 0, 7]
    items = table(vector=[" ".join(map(str, row)) for row in vectors])
    expected = (vectors - vectors.mean(0))[:, :2] / vectors[:, :2].std(0)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = space(items).encode(items).toarray()
    np.testing.assert_allclose(found[:, :2], expected, rtol=1e-5)
    assert not found[:, 2].any()  # a constant


def test_texts_that_share_words_are_near() -> None:
    items = table(title=["The Matrix", "Matrix Reloaded", "Toy Story", "Toy Story 2"])
    found = space(items, "title:text").encode(items)
    near = (found @ found.T).toarray()
    np.testing.assert_allclose(np.diag(near), 1, rtol=1e-5)
    assert near[0, 1] > 0.3
    assert near[2, 3] > 0.8
    assert abs(near[0, 2]) < 0.2


def test_each_field_counts_the_same_and_can_be_weighted() -> None:
    items = table(genre=["a b", "a", "b", "c"], year=["1", "2", "3", ""])
    fitted = space(items)
    found = fitted.encode(items)
    of = {name: found[:, columns].multiply(found[:, columns]).sum(1) for name, columns in fitted.fields.items()}
    np.testing.assert_allclose(of["genre"].ravel(), [[0.5, 0.5, 0.5, 0]], rtol=1e-6)
    np.testing.assert_allclose(of["year"].ravel(), [[0.5, 0.5, 0.5, 0]], rtol=1e-6)
    weighted = fitted.weighted(found, {"genre": 0.0, "year": 4.0})
    expected = 4 * (found[:, fitted.fields["year"]] @ found[:, fitted.fields["year"]].T)
    np.testing.assert_allclose((weighted @ weighted.T).toarray(), expected.toarray(), rtol=1e-5)


@settings(deadline=None, max_examples=30)
@given(
    genres=st.lists(st.lists(st.sampled_from("abcd"), max_size=3), min_size=4, max_size=8),
    years=st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), min_size=8, max_size=8),
)
def test_rows_have_a_length_of_at_most_one_and_what_is_saved_is_the_same(genres: Any, years: Any) -> None:
    count = len(genres)
    items = table(
        genre=[" ".join(each) for each in genres] + ["a", "a", "b"],
        year=["" if year is None else str(year) for year in years[:count]] + ["1", "2", "3"],
    )
    fitted = space(items)
    found = fitted.encode(items)
    assert np.sqrt(found.multiply(found).sum(1)).max() <= 1 + 1e-6
    again = Features.from_state(Features(fitted, found).state())
    assert again.space == fitted
    assert (again.table != found).nnz == 0


def test_the_state_is_that_of_a_safe_file(tmp_path: Path) -> None:
    items = table(genre=["a b", "a", "b"], title=["one two", "two", "one"])
    fitted = space(items, "genre", "title:text")
    torch.save(Features(fitted, fitted.encode(items)).state(), tmp_path / "a.pth")
    again = Features.from_state(torch.load(tmp_path / "a.pth", weights_only=True))
    assert again.space == fitted
    assert checkpoint.plain(again.state()["blocks"]) == again.state()["blocks"]


def test_a_field_is_missing_for_items_of_the_file_alone(caplog: pytest.LogCaptureFixture) -> None:
    path = write("item_id:token\tgenre:token\n" + "".join(f"i{row}\t{'ab-'[row % 3]}\n" for row in range(9)))
    items = read_feature_file(path, ["genre"], FORM)
    items.cells["genre"] = ["" if cell == "-" else cell for cell in items.cells["genre"]]
    space(items.taken([f"i{row}" for row in range(30)], [*range(9), *[-1] * 21]), "genre")
    assert "missing" not in caplog.text
    items.cells["genre"][:4] = ["", "", "", ""]
    space(items.taken([f"i{row}" for row in range(30)], [*range(9), *[-1] * 21]), "genre")
    assert "item_features: 'genre' is missing for 6 of 9 items of the file." in caplog.text


def test_columns_take_over_those_of_an_earlier_space() -> None:
    """A linear layer on the features says nearly the same with the rows that are taken over, whatever the columns are."""
    rng = np.random.default_rng(0)
    ages = rng.integers(20, 60, size=(2, 200))
    many = [
        table(
            genre=[" ".join(rng.choice(list(letters), 2, replace=False)) for _ in range(200)],
            year=[str(age) for age in age_of],
            vector=[" ".join(map(str, row)) for row in rng.normal(size=(200, 3))],
            title=[f"{word} red" for word in rng.choice(["one", "two", "three"], 200)],
        )
        for letters, age_of in zip(("abcd", "bcde"), ages + np.array([[0], [3]]), strict=True)
    ]
    entries = [["genre", "year", "vector", "title:text"], ["title:text", "year:float", "genre", "vector"]]
    before, now = (space(items, *names) for items, names in zip(many, entries, strict=True))
    weights = rng.normal(size=before.width)
    taken = now.taken_over(before) @ weights
    assert taken.shape == (now.width,)
    by_name = dict(zip(before.names, weights, strict=True))
    for name, weight in zip(now.names, taken, strict=True):
        if name.startswith("genre="):
            assert weight == by_name.get(name, 0.0)
    assert taken[now.names.index("genre=e")] == 0
    for field in ("vector", "title:text"):
        np.testing.assert_array_equal(taken[now.fields[field]], weights[before.fields[field]])
    knots = [next(block.numbers for block in each.blocks if block.name == "year") for each in (before, now)]
    assert knots[0] != knots[1]
    expected = np.interp(knots[1], knots[0], weights[before.fields["year"]])
    np.testing.assert_allclose(taken[now.fields["year:float"]], expected)
    np.testing.assert_array_equal(before.taken_over(before).toarray(), np.eye(before.width))
    twice = space(many[1], "genre", "genre:token_seq")
    shares = twice.taken_over(before).toarray()
    assert set(np.unique(shares).round(9)) == {0.0, round(math.sqrt(2 / 4), 9)}  # of two fields, and of four before
    assert (np.count_nonzero(twice.taken_over(twice).toarray(), axis=1) == 1).all()
    other = space(table(year=["1", "2"] * 5, vector=["1 2", "2 1"] * 5), "year:token", "vector")
    assert not other.taken_over(before).count_nonzero()  # another kind, and another length
    assert other.taken_over(before).shape == (other.width, before.width)


def test_what_says_nothing_is_left_out_by_name(caplog: pytest.LogCaptureFixture) -> None:
    items = table(maker=["a", "a", "a"], title=["x", "y", "z"], year=["1", "1", "1"], genre=["a", "a", "b"])
    fitted = space(items)
    assert list(fitted.fields) == ["genre"]
    for name in ("maker", "title", "year"):
        assert f"'{name}' is left out" in caplog.text
    assert "'maker' is left out, for it says nothing about another item: it is 'a' for all." in caplog.text
    assert "'title' is left out, for it says nothing about another item: no two items share a value" in caplog.text
    assert "title:text would read its text" in caplog.text
    with pytest.raises(ConfigError, match="no field of maker, title in the table says anything"):
        space(items, "maker", "title")


def test_the_most_frequent_values_count(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("recbole_vae.data.features._MOST_VALUES", 2)
    assert space(table(genre=["a b c", "a b c", "a b", "a", ""])).names == ["genre=a", "genre=b"]
    assert "3 values that several items have; the 2 most frequent count" in caplog.text


def test_a_field_that_most_items_lack_is_told(caplog: pytest.LogCaptureFixture) -> None:
    space(table(genre=["a", "a", "", "", "", "b"]))
    assert "'genre' is missing for 3 of 6" not in caplog.text
    space(table(genre=["a", "a", "", "", "", ""]))
    assert "'genre' is missing for 4 of 6 items" in caplog.text


def test_a_file_is_read_each_item_once() -> None:
    path = write("item_id:token\tgenre:token_seq\tyear:float\nA\ta b\t1\nB\t\t2\nA\ta b\t1\n")
    found = read_feature_file(path, ["year", "genre"], FORM)
    assert found.ids == ["A", "B"]
    assert found.cells == {"year": ["1", "2"], "genre": ["a b", ""]}
    assert found.kinds == {"year": "float", "genre": "token_seq"}


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("item_id:token\tgenre:token_seq\nA\ta\n", ConfigError, "has no field 'genr'; did you mean genre?"),
        ("item_id:token\tgenr:token\nA\ta\nB\tb\nA\tc\n", DataError, r"line 4: item 'A' has genr 'c', and 'a' in .* \(2\)"),
        ("item_id:token\tgenr:token\nA\ta\tb\n", DataError, "line 2: 3 columns instead of 2"),
        ("item_id:token\tgenr:token\n", DataError, "there is no item below the first line"),
        ("item_id\tgenr\nA\ta\n", DataError, "line 1"),
    ],
    ids=["no such field", "twice", "cells", "empty", "no types"],
)  # fmt: skip
def test_files_that_are_wrong(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read_feature_file(write(text), ["genr"], FORM)


@pytest.mark.parametrize(
    ("kind", "cell", "message"),
    [
        ("float", "12,5", "line 3: '12,5' in 'x' is not a number"),
        ("float", "inf", "line 3: 'inf' in 'x' is not a number"),
        ("float_seq", "1 two", "line 3: '1 two' in 'x' is not a list of numbers with ' ' between them"),
        ("float_seq", "1 2 3", "line 3: 'x' has 3 numbers instead of 2"),
    ],
)
def test_numbers_that_are_none(kind: str, cell: str, message: str) -> None:
    good = {"float": ["1", "2", "3"], "float_seq": ["1 2", "3 5", "4 4"]}[kind]
    path = write(f"item_id:token\tx:{kind}\nA\t{good[0]}\nB\t{cell}\nC\t{good[1]}\nD\t{good[2]}\n")
    items = read_feature_file(path, ["x"], FORM)
    with pytest.raises(DataError, match=message):
        space(items).encode(items)


def test_a_kind_that_does_not_exist() -> None:
    path = write("item_id:token\tprice:float\nA\t1\n")
    with pytest.raises(ConfigError, match=r"FIELD:KIND reads .*: token, token_seq, float, float_seq, text\."):
        read_feature_file(path, ["price:flot"], FORM)


def test_a_constant_is_one_up_to_rounding() -> None:
    vectors = np.random.default_rng(0).normal(size=(1682, 2))
    items = table(vector=[f"{one} 0.1 {other}" for one, other in vectors])
    found = space(items).encode(items).toarray()
    assert not found[:, 1].any()
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)


def data_set(ids: list[str], warm: list[int]) -> Any:
    config = {"field_separator": "\t", "seq_separator": " ", "encoding": None}
    return SimpleNamespace(
        dataset_path=".", dataset_name="tiny", config=config, iid_field="item_id",
        field2id_token={"item_id": ["[PAD]", *ids]}, inter_feat={"item_id": torch.tensor(warm)},
    )  # fmt: skip


def test_items_with_interactions_decide_and_rows_follow_the_internal_ids(caplog: pytest.LogCaptureFixture) -> None:
    write("item_id:token\tgenre:token_seq\nA\ta\nB\ta\nC\tb\nD\tb\nE\tb\n")
    with caplog.at_level(logging.WARNING):
        found = features_of(data_set(["C", "B", "A", "X", "D"], [2, 3, 1]), ["genre"])
    assert found is not None
    assert found.space.names == ["genre=a"]  # of the items with interactions, one alone has b
    np.testing.assert_allclose(found.table.toarray().ravel(), [0, 1, 1, 0, 0])
    assert "1 of 5 items are not in tiny.item" in caplog.text


def test_a_data_set_without_the_file_or_with_another() -> None:
    with pytest.raises(DataError, match=r"there is no file tiny\.item"):
        features_of(data_set(["A"], [1]), ["genre"])
    write("item_id:token\tgenre:token_seq\nX\ta\n")
    with pytest.raises(DataError, match="has none of the data set's items, such as 'A'"):
        features_of(data_set(["A"], [1]), ["genre"])
