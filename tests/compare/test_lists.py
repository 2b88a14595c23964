"""Two files of recommendations, compared."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from recbole_vae.cli.main import main
from recbole_vae.compare.lists import PERSISTENCE, agreement, compare_lists
from recbole_vae.data.histories import Histories
from recbole_vae.errors import DataError

Given = dict[str, list[str]]


def write(path: str, lists: Given, order: int | None = None) -> Path:
    rows = [(user, rank, item, 1 / rank) for user, items in lists.items() for rank, item in enumerate(items, start=1)]
    if order is not None:
        rows = [rows[place] for place in np.random.default_rng(order).permutation(len(rows))]
    frame = pd.DataFrame(rows, columns=["user_id", "rank", "item_id", "score"])
    if path.endswith(".parquet"):
        frame.to_parquet(path, row_group_size=7)
    else:
        frame.to_csv(path, index=False)
    return Path(path)


def random_lists(seed: int, users: int = 60, items: int = 15, shortest: int = 1) -> Given:
    rng = np.random.default_rng(seed)
    names = rng.permutation(users + 10)[:users]
    return {
        f"u{name}": [f"i{item}" for item in rng.choice(items, rng.integers(shortest, 9), replace=False)]
        for name in names
    }


def rbo(one: list[str], other: list[str], p: float) -> float:
    """Equation 32 of Webber et al. (2010), term by term."""
    short, long = sorted((one, other), key=len)
    s, longest = len(short), len(long)

    def x(d: int) -> int:
        return len(set(short[:d]) & set(long[:d]))

    total = sum(x(d) / d * p**d for d in range(1, longest + 1))
    total += sum(x(s) * (d - s) / (s * d) * p**d for d in range(s + 1, longest + 1))
    return (1 - p) / p * total + ((x(longest) - x(s)) / longest + x(s) / s) * p**longest


def test_all_numbers_are_those_of_a_plain_computation() -> None:
    old, new = random_lists(1), random_lists(2)
    same = next(user for user in old if user in new)
    new[same] = old[same]
    found = compare_lists(write("old.csv", old, 3), write("new.parquet", new, 4), 6)
    old, new = ({user: items[:6] for user, items in each.items()} for each in (old, new))
    both = old.keys() & new.keys()
    assert (found.old.users, found.new.users, found.both) == (60, 60, len(both))
    assert found.lost_users == pytest.approx(1 - len(both) / 60)
    overlaps = [len({*old[u]} & {*new[u]}) / max(len(old[u]), len(new[u])) for u in both]
    assert found.overlap == pytest.approx(np.mean(overlaps))
    assert found.rbo == pytest.approx(np.mean([rbo(old[u], new[u], PERSISTENCE) for u in both]))
    correlations = []
    for user in both:
        shared = [item for item in old[user] if item in new[user]]
        if len(shared) > 1:
            places = [[each.index(item) for item in shared] for each in (old[user], new[user])]
            correlations.append(stats.spearmanr(*places).statistic)
    assert len(correlations) > 10
    assert found.spearman == pytest.approx(np.mean(correlations))
    assert found.same_list == pytest.approx(np.mean([old[u] == new[u] for u in both]))
    assert found.same_list
    assert found.same_first == pytest.approx(np.mean([old[u][0] == new[u][0] for u in both]))
    counts = [Counter(item for items in each.values() for item in items) for each in (old, new)]
    names = counts[0].keys() | counts[1].keys()
    shares = [np.array([count[name] for name in sorted(names)]) / count.total() for count in counts]
    assert found.exposure_shift == pytest.approx(np.abs(shares[0] - shares[1]).sum() / 2)
    for side, share in zip((found.old, found.new), shares, strict=True):
        differences = np.abs(share[:, None] - share[None]).sum()
        assert side.gini == pytest.approx(differences / (2 * len(share)))
        assert (side.coverage, side.popularity, side.unknown) == (None, None, None)
    assert found.coverage_drop == pytest.approx(1 - len(counts[1]) / len(counts[0]))


def test_many_users_are_compared_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write("old.csv", random_lists(5)), write("new.csv", random_lists(6))
    whole = compare_lists(*paths)
    monkeypatch.setattr("recbole_vae.compare.lists._BLOCK", 20)
    monkeypatch.setattr("recbole_vae.compare.list_file._CHUNK", 7)
    blocks = compare_lists(*paths)
    for name in ("overlap", "rbo", "spearman", "same_first", "same_list"):
        assert getattr(blocks, name) == pytest.approx(getattr(whole, name))
    assert (blocks.old, blocks.new) == (whole.old, whole.new)


def test_extremes() -> None:
    one = np.array([[0, 1, 2], [0, 1, 2], [0, 1, 2], [3, -1, -1]], np.int32)
    other = np.array([[0, 1, 2], [2, 1, 0], [3, 4, 5], [3, 4, 5]], np.int32)
    found = agreement(one, other, 6)
    assert found["overlap"].tolist() == [1, 1, 0, pytest.approx(1 / 3)]
    assert found["rbo"][[0, 2]] == pytest.approx([1, 0])
    assert found["spearman"][:2].tolist() == [1, -1]
    assert np.isnan(found["spearman"][2:]).all()
    assert found["same_list"].tolist() == [1, 0, 0, 0]
    assert found["same_first"].tolist() == [1, 0, 0, 1]


def test_by_default_as_many_places_count_as_both_files_have() -> None:
    old = {"a": ["1", "2", "3", "4"]}
    new = {"a": ["2", "1"]}
    found = compare_lists(write("old.csv", old), write("new.csv", new))
    assert (found.k, found.overlap, found.spearman) == (2, 1.0, -1.0)


def test_more_places_than_the_lists_have_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    write("old.csv", {"a": ["1", "2", "3"], "b": ["1"]})
    write("new.csv", {"a": ["1", "2"], "b": ["1", "2"]})
    assert main(["compare-lists", "old.csv", "new.csv", "-k", "3"]) == 2
    assert "error: k: 3 is not allowed; the lists in new.csv have 2 places at most." in capsys.readouterr().err
    assert main(["compare-lists", "old.csv", "new.csv", "-k", "2"]) == 0
    assert "overlap@2" in capsys.readouterr().out


def test_parquet_without_its_library_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    Path("old.parquet").touch()
    assert main(["compare-lists", "old.parquet", "old.parquet"]) == 2
    assert capsys.readouterr().err == (
        "error: to read or write Parquet, pip install 'recbole_vae[parquet]' first, or name a .csv file.\n"
    )


class _Model:
    def __init__(self) -> None:
        self.histories = Histories.from_lists([[], [1, 2], [1], [1, 3]])


class _Recommender:
    users, items, model = ["[PAD]", "a", "b", "c"], ["[PAD]", "x", "y", "z"], _Model()


@pytest.fixture
def checkpoint(monkeypatch: pytest.MonkeyPatch) -> str:
    """Stand in for a checkpoint, in which 3 users have x, 1 has y, 1 has z."""
    monkeypatch.setattr("recbole_vae.compare.lists.Recommender.load", lambda path: _Recommender)
    return "--checkpoint=m.pth"


def test_a_checkpoint_says_what_is_popular(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    write("old.csv", {"a": ["y", "z"], "b": ["z", "gone"]})
    write("new.csv", {"a": ["x", "y"], "b": ["x", "y"]})
    assert torch.equal(_Model().histories.counts(3), torch.tensor([3, 1, 1]))
    words = ["compare-lists", "old.csv", "new.csv", checkpoint, "--json=r.json"]
    assert main(words) == 0
    found = json.loads(Path("r.json").read_text())
    assert (found["old"]["coverage"], found["new"]["coverage"]) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert (found["old"]["popularity"], found["new"]["popularity"]) == (0.75, 2.0)
    assert (found["old"]["unknown"], found["new"]["unknown"]) == (0.25, 0.0)
    assert found["popularity_rise"] == pytest.approx(2 / 0.75 - 1)
    out = capsys.readouterr().out
    assert "coverage of the catalogue" in out
    assert re.search("places of unknown items +25.00% +0.00%\n", out)
    assert main([*words, "--max_popularity_rise=1.6"]) == 3
    assert "limit exceeded: popularity_rise is 1.667, above --max_popularity_rise=1.6" in capsys.readouterr().err
    assert main([*words, "--max_popularity_rise=1.7"]) == 0


def test_a_limit_that_is_exceeded_ends_with_3_and_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    write("old.csv", {"a": ["1", "2"], "b": ["3", "4"], "c": ["5", "6"]})
    write("new.csv", {"a": ["1", "3"], "b": ["3", "1"], "d": ["5", "6"]})
    met = ["--min_overlap=0.5", "--max_lost_users=0.34", "--max_coverage_drop=0.34"]
    assert main(["compare-lists", "old.csv", "new.csv", *met]) == 0
    assert capsys.readouterr().err == ""
    broken = ["--min_overlap=0.51", "--max_lost_users=0.33", "--max_coverage_drop=0.33", "--json=-"]
    assert main(["compare-lists", "old.csv", "new.csv", *broken]) == 3
    captured = capsys.readouterr()
    lines = ["overlap is 0.5, below --min_overlap=0.51", "lost_users is 0.3333, above --max_lost_users=0.33"]
    lines.append("coverage_drop is 0.3333, above --max_coverage_drop=0.33")
    assert json.loads(captured.out)["exceeded"] == lines
    assert captured.err.splitlines() == [f"limit exceeded: {line}" for line in lines]


def test_without_a_common_user_a_limit_is_not_met(capsys: pytest.CaptureFixture[str]) -> None:
    write("old.csv", {"a": ["1"]})
    write("new.csv", {"b": ["1"]})
    assert main(["compare-lists", "old.csv", "new.csv"]) == 0
    assert main(["compare-lists", "old.csv", "new.csv", "--min_overlap=0"]) == 3
    assert "limit exceeded: overlap is not defined, so --min_overlap=0 is not met" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "new.csv: the file is empty."),
        ("user_id,rank,item_id,score\n", "new.csv: contains no lists, only the header."),
        ("user,rank,item_id\na,1,x\n", "new.csv: there is no column 'user_id'"),
        ("user_id,rank,item_id\na,1,x\na,two,y\n", "new.csv, row 2: rank is 'two', but must be an integer from 1 up."),
        ("user_id,rank,item_id\na,1.5,x\n", "new.csv, row 1: rank is '1.5'"),
        ("user_id,rank,item_id\na,1,x\na,2\n", "new.csv, row 2: item_id is '', but must be an id."),
        ("user_id,rank,item_id\na,1,x\n,2,y\n", "new.csv, row 2: user_id is ''"),
        ("user_id,rank,item_id\na,1,x\na,1,y\n", "new.csv: user 'a' has the rank '1' twice"),
        ("user_id,rank,item_id\na,1,x\na,2,x\n", "new.csv: user 'a' has the item 'x' twice"),
        ('user_id,rank,item_id\na,1,"x\n', "new.csv: cannot read this file:"),
        ("user_id,rank,item_id\na,1,x\na,2,y,z,z\n", "new.csv, line 3: 5 cells instead of 3; an id with a comma must"),
        ("user_id,rank,item_id,score\na,1,x,y,0.5\na,2,z,0.4\n", "new.csv, line 2: 5 cells instead of 4; an id with"),
        ("user_id,rank,item_id\na,1,x,y,z\na,2,z\n", "new.csv, line 2: 5 cells instead of 3; an id with a comma must"),
    ],
)
def test_a_file_that_is_not_whole_is_named(text: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    write("old.csv", {"a": ["1"]})
    Path("new.csv").write_text(text)
    assert main(["compare-lists", "old.csv", "new.csv"]) == 1
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_other_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    old = write("old.csv", {"a": ["1"]})
    Path("b.parquet").write_bytes(b"PAR1 no")
    Path("c.csv").write_bytes(b"user_id,rank,item_id\na,1,\xff\n")
    for name in ("b.parquet", "c.csv", "gone.csv"):
        with pytest.raises(DataError, match=rf"^{name}: cannot read this file"):
            compare_lists(old, Path(name))
    assert main(["compare-lists", "old.csv"]) == 2
    assert main(["compare-lists", "old.csv", "old.csv", "--max_popularity_rise=1"]) == 2
    assert "--max_popularity_rise (command line) needs --checkpoint" in capsys.readouterr().err
    assert main(["compare-lists", "old.csv", "old.csv", "--json=old.csv"]) == 2
    assert list(csv.reader(old.read_text().splitlines()))[1][:3] == ["a", "1", "1"]


def test_ids_stay_as_they_are_written() -> None:
    old = write("old.csv", {"01": ["007", "7", "NA"], "1": ["nan", "x,y"]})
    new = write("new.parquet", {"01": ["007", "7", "NA"], "1": ["nan", "x,y"]})
    found = compare_lists(old, new)
    assert (found.both, found.overlap, found.old.items) == (2, 1.0, 5)
