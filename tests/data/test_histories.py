"""Histories, against dictionaries of Python."""

from __future__ import annotations

import copy
from collections import defaultdict
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recbole_vae.data.histories import Histories
from recbole_vae.errors import DataError
from tests.conftest import Builder, write_inter

N_USERS = 6
interactions = st.lists(
    st.tuples(st.integers(0, N_USERS - 1), st.integers(1, 9), st.floats(0.125, 8, width=32)), max_size=60
)


def table(rows: list[tuple[int, int, float]], weighted: bool) -> Histories:
    users, items = (torch.tensor([row[n] for row in rows], dtype=torch.int64) for n in (0, 1))
    values = torch.tensor([row[2] for row in rows]) if weighted else None
    return Histories.from_interactions(users, items, values, N_USERS)


def as_lists(histories: Histories) -> list[dict[int, float]]:
    values = histories.entry_values()
    bounds = histories.indptr.tolist()
    return [dict(zip(histories.indices[a:b].tolist(), values[a:b].tolist(), strict=True)) for a, b in pairwise(bounds)]


@given(rows=interactions, weighted=st.booleans())
def test_from_interactions_equals_a_dictionary(rows: list[tuple[int, int, float]], weighted: bool) -> None:
    expected: list[dict[int, float]] = [defaultdict(float) for _ in range(N_USERS)]
    for user, item, value in rows:
        expected[user][item] = expected[user][item] + value if weighted else 1.0
    result = as_lists(table(rows, weighted))
    assert [list(each) for each in result] == [sorted(each) for each in expected]
    for mine, theirs in zip(result, expected, strict=True):
        assert mine == pytest.approx(dict(theirs))


@given(rows=interactions, users=st.lists(st.integers(0, N_USERS - 1), max_size=9), weighted=st.booleans())
def test_a_batch_has_the_rows_of_its_users(
    rows: list[tuple[int, int, float]], users: list[int], weighted: bool
) -> None:
    histories = table(rows, weighted)
    batch = histories[torch.tensor(users, dtype=torch.int64)]
    whole = as_lists(histories)
    assert as_lists(batch) == [whole[user] for user in users]
    assert batch.lengths().tolist() == [len(whole[user]) for user in users]
    assert batch.totals().tolist() == pytest.approx([sum(whole[user].values()) for user in users])
    for start in range(len(users) + 1):
        assert as_lists(batch.slice(start, len(users))) == [whole[user] for user in users[start:]]


@given(rows=interactions, order=st.randoms(use_true_random=False))
def test_the_order_of_interactions_does_not_matter(rows: list[tuple[int, int, float]], order: object) -> None:
    shuffled = rows[:]
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    assert as_lists(table(rows, weighted=False)) == as_lists(table(shuffled, weighted=False))


@given(lists=st.lists(st.lists(st.integers(1, 9), max_size=6), max_size=5))
def test_from_lists_equals_from_interactions(lists: list[list[int]]) -> None:
    rows = [(user, item, 1.0) for user, items in enumerate(lists) for item in items]
    users, items = (torch.tensor([row[n] for row in rows], dtype=torch.int64) for n in (0, 1))
    assert as_lists(Histories.from_lists(lists)) == as_lists(
        Histories.from_interactions(users, items, None, len(lists))
    )


@given(rows=interactions, weighted=st.booleans(), padded=st.booleans())
def test_tables_and_counts_equal_dense_ones(rows: list[tuple[int, int, float]], weighted: bool, padded: bool) -> None:
    histories = table(rows, weighted)
    dense = np.zeros((N_USERS, 10), dtype=np.float32)
    for user, row in enumerate(as_lists(histories)):
        for item, value in row.items():
            dense[user, item] = value
    found = histories.to_scipy(9, padded=padded)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.toarray(), dense if padded else dense[:, 1:])
    assert histories.counts(9).tolist() == (dense[:, 1:] > 0).sum(0).tolist()


def test_a_copy_shares_the_histories() -> None:
    histories = Histories.from_lists([[1, 2]])
    assert copy.deepcopy({"a": histories})["a"] is histories


VALUED = "user_id:token\titem_id:token\trating:float"
LOAD = {"inter": ["user_id", "item_id", "rating"]}


def valued_rows(bad: float | None = None) -> list[tuple[str, str, float]]:
    rows = [(f"u{u}", f"i{(u + k) % 12}", 1.0 + k) for u in range(8) for k in range(5)]
    if bad is not None:
        rows = [(user, item, bad) if user == "u3" else (user, item, value) for user, item, value in rows]
    return rows


def test_a_value_field_weighs_the_entries(build: Builder) -> None:
    path = write_inter(valued_rows(), columns=VALUED)
    run = build(
        data_path=path, dataset="tiny", load_col=LOAD, value_field="rating", eval_args={"split": {"RS": [1, 0, 0]}}
    )
    expected = {(u, i): v for u, i, v in valued_rows()}
    model, data = run.model, run.dataset
    for user in range(1, data.user_num):
        row = as_lists(model.histories[torch.tensor([user])])[0]
        for item, value in row.items():
            assert value == expected[data.id2token("user_id", user), data.id2token("item_id", item)]
    assert len(model.histories.indices) == len(expected)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("inf"), 3e38, 1.1e12])
def test_values_that_weigh_nothing_are_refused(build: Builder, bad: float) -> None:
    path = write_inter(valued_rows(bad), columns=VALUED)
    with pytest.raises(
        DataError, match=r"values of 'rating'.* are not positive numbers up to 1e\+12, .* user 'u3' and item 'i\d+'"
    ) as error:
        build(data_path=path, dataset="tiny", load_col=LOAD, value_field="rating")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("field", "message"), [("ratng", "no field 'ratng'.*rating"), ("word", "not a column of type float")]
)
def test_fields_that_cannot_weigh_are_refused(build: Builder, field: str, message: str) -> None:
    rows = [(*row, "a") for row in valued_rows()]
    path = write_inter(rows, columns=VALUED + "\tword:token")
    load = {"inter": ["user_id", "item_id", "rating", "word"]}
    with pytest.raises(DataError, match=message):
        build(data_path=path, dataset="tiny", load_col=load, value_field=field)


@pytest.mark.parametrize("history", [["50"], [1.5], [0], [3, -1]])
def test_only_internal_ids_are_histories(history: list[Any]) -> None:
    with pytest.raises(DataError, match="internal item ids, integers from 1 up; dataset.token2id"):
        Histories.from_lists([[1, 2], history])
