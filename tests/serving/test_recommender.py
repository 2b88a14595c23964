"""Recommendations from a checkpoint: from Python and from the command line."""

from __future__ import annotations

import csv
import io
import math
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import recbole_vae
from recbole_vae.analysis.explain import Explainer
from recbole_vae.cli.main import main
from recbole_vae.data.histories import Histories
from recbole_vae.errors import CheckpointError, ConfigError, DataError
from recbole_vae.options.limits import LARGEST
from recbole_vae.serving.history_file import read_histories
from recbole_vae.serving.ranking import Ranking, write_rankings
from recbole_vae.serving.recommender import Recommender
from recbole_vae.serving.unknown import Unknown
from tests.conftest import Builder, Run, random_rows, write_inter
from tests.serving.interrupted import interrupted


@pytest.fixture
def run(build: Builder, model_name: str) -> Run:
    result = build(model_name, learning_rate=0.01)
    result.fit()
    return result


def expected(run: Run, items: list[str], k: int) -> list[tuple[str, float]]:
    """Rank by the model of the run itself."""
    numbers = [run.dataset.token2id("item_id", item) for item in items]
    state = torch.load(run.trainer.saved_model_file, weights_only=True)["state_dict"]
    run.model.load_state_dict(state)
    with torch.no_grad():
        scores = run.model.eval().score(Histories.from_lists([numbers]))[0]
    scores[numbers] = -torch.inf
    best = scores.topk(k)
    names = run.dataset.id2token("item_id", best.indices.numpy())
    return list(zip(names.tolist(), best.values.tolist(), strict=True))


def close(one: list[tuple[str, float]], other: list[tuple[str, float]]) -> bool:
    return [item for item, _ in one] == [item for item, _ in other] and [score for _, score in one] == pytest.approx(
        [score for _, score in other], rel=1e-5, abs=1e-6
    )


def test_a_checkpoint_alone_ranks_as_the_model_does(run: Run) -> None:
    checkpoint = Path(run.trainer.saved_model_file).rename("moved.pth")
    for path in Path("data").rglob("*.inter"):
        path.unlink()
    run.trainer.saved_model_file = str(checkpoint)
    recommender = recbole_vae.Recommender.load(checkpoint)
    histories = [["i0", "i3", "i4"], ["i7"], ["i3", "i0", "i4", "i3"]]
    rankings = recommender.recommend(iter(histories), k=5)
    assert len(rankings) == 3
    for history, ranking in zip(histories, rankings, strict=True):
        assert close(ranking, expected(run, history, 5))
    assert close(rankings[0], rankings[2])


def test_a_known_user_is_ranked_as_the_history_is(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    recommender = recbole_vae.Recommender.load(run.trainer.saved_model_file)
    users = recommender.users[1:]
    by_id = recommender.recommend_users(users, k=7)
    monkeypatch.setattr("recbole_vae.nn.chunks.SCORES_PER_CHUNK", 1)  # one by one
    for user, ranking in zip(users, by_id, strict=True):
        assert close(ranking, recommender.recommend([recommender.history(user)], k=7)[0])
        assert not {item for item, _ in ranking} & set(recommender.history(user))
    trained_on = {
        (run.dataset.id2token("user_id", user), run.dataset.id2token("item_id", item))
        for user, item in zip(
            *(run.train._dataset.inter_feat[name].tolist() for name in ("user_id", "item_id")), strict=True
        )
    }
    assert {(user, item) for user in users for item in recommender.history(user)} == trained_on
    with pytest.raises(
        DataError, match="^user 'nobody' is not among the 40 users of the training data; give a history"
    ):
        recommender.recommend_users(["nobody"])


def test_what_may_be_recommended(run: Run) -> None:
    recommender = recbole_vae.Recommender.load(run.trainer.saved_model_file)
    history = ["i0", "i1", "i2"]
    every = recommender.recommend([history], k=1000)[0]
    n_items = len(recommender.items) - 1
    assert len(every) == n_items - 3
    assert not {item for item, _ in every} & {*history, "[PAD]"}
    seen_too = recommender.recommend([history], k=1000, exclude_seen=False)[0]
    assert len(seen_too) == n_items
    assert close([pair for pair in seen_too if pair[0] not in history], every)
    few = recommender.recommend([history], k=5, candidates=["i1", "i9", "i4", "never heard of"])[0]
    assert close(few, [pair for pair in every if pair[0] in ("i9", "i4")])
    with pytest.raises(DataError, match="^candidates: the model knows none of the 1 items"):
        recommender.recommend([history], candidates=["never heard of"])
    with pytest.raises(DataError, match="^k: 0 is not allowed"):
        recommender.recommend([history], k=0)
    with pytest.raises(DataError, match="^k: '5' is not allowed"):
        recommender.recommend([history], k="5")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="'i1' is a string"):
        recommender.recommend(["i1"])
    with pytest.raises(DataError, match="^users must be a collection of ids; 'u1' is a string"):
        recommender.recommend_users("u1")


def test_a_history_of_nothing_known_gets_the_popular_and_unknown_items_are_counted(run: Run) -> None:
    recommender = recbole_vae.Recommender.load(run.trainer.saved_model_file)
    counts = torch.bincount(run.model.histories.indices.long(), minlength=run.dataset.item_num)
    empty, unknown, some = recommender.recommend([[], ["x", "y", "x"], ["x", "i0"]], k=4)
    assert empty == unknown
    shares = (counts / 40).sort(descending=True).values[:4].tolist()
    assert [score for _, score in empty] == pytest.approx(shares)
    assert close(some, expected(run, ["i0"], 4))
    assert recommender.unknown == Unknown(4, Counter(x=3, y=1))
    assert recommender.without_known == 2
    (everything,) = recommender.recommend([[]], k=10_000)
    assert sorted(item for item, _ in everything) == sorted(run.dataset.field2id_token["item_id"][1:])


def test_of_weights_and_other_field_names(build: Builder) -> None:
    rows = [(*row, place % 5 + 1) for place, row in enumerate(random_rows())]
    path = write_inter(rows, columns="who:token\twhat:token\trating:float")
    run = build(dataset="tiny", data_path=path, value_field="rating", USER_ID_FIELD="who", ITEM_ID_FIELD="what")
    run.fit()
    recommender = recbole_vae.Recommender.load(run.trainer.saved_model_file)
    assert torch.equal(recommender.model.histories.values, run.model.histories.values)
    Path("h.csv").write_text("what,who\ni1,a\n")
    assert main(["recommend", f"--checkpoint={run.trainer.saved_model_file}", "--histories=h.csv", "--out=o.csv"]) == 0


def test_a_model_with_negatives_loads_without_them(build: Builder) -> None:
    run = build(n_negatives=5)
    run.fit()
    assert recbole_vae.Recommender.load(run.trainer.saved_model_file).model.decoder.sampler is None


def test_a_model_that_is_not_registered_is_named(run: Run) -> None:
    state = torch.load(run.trainer.saved_model_file, weights_only=True)
    torch.save({**state, "model": "HisVAE"}, "other.pth")
    with pytest.raises(CheckpointError, match=r"^other\.pth: a checkpoint of HisVAE, which is not registered"):
        recbole_vae.Recommender.load("other.pth")


def read(
    text: str, name: str = "h.csv", user: str = "user_id", item: str = "item_id", value: str | None = None
) -> list[tuple[str, list[str] | dict[str, float]]]:
    return list(read_histories(io.StringIO(text), name, user, item, value))


def test_histories_are_read_from_csv_and_atomic_files() -> None:
    histories = [("a", ["1", "2"]), ("b", []), ("c", ["x,y"])]
    assert read('user_id,item_id\na,1\na,2\nb,\nc,"x,y"\n') == histories
    assert read('\ufeffitem_id,rating,user_id\n1,5,a\n2,5,a\n\n,1,b\n"x,y",2,c') == histories
    assert read("user_id:token\titem_id:token\na\t1\na\t2\nb\t\nc\tx,y\n") == histories
    assert read("who,what\na,1\n", user="who", item="what") == [("a", ["1"])]
    assert read('user_id, item_id\na , 1\na, 2 \nb, \nc, "x,y"\n') == histories
    assert read("user_id,item_id\na,\na,1\n") == [("a", ["", "1"])]  # the empty one is counted as unknown
    assert read("user_id,item_id\n") == []


def test_a_column_of_weights_is_read_where_the_model_knows_it() -> None:
    text = "user_id,rating,item_id\na,2,1\na, 0.5 ,2\na,1,1\nb,,\n"
    assert read(text, value="rating") == [("a", {"1": 3.0, "2": 0.5}), ("b", [])]
    assert read(text) == read(text, value="other") == [("a", ["1", "2", "1"]), ("b", [])]
    for bad in ("", "x", "0", "-1", "nan", "inf", "1_0", "1e300", "1e-300"):
        with pytest.raises(DataError, match=r"line 2: the weight '.*' is not allowed; it must be a positive number"):
            read(f"user_id,rating,item_id\na,{bad},1\n", value="rating")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,1\n", "line 1: there is no column 'user_id'"),
        ("user_id,item\na,1\n", "line 1: there is no column 'item_id'"),
        ("user_id,item_id\na,1\nb\n", "line 3: 1 cells instead of 2 (user_id,item_id)."),
        (
            "user_id,item_id\na,1\nb,1\na,2\n",
            "line 4: user 'a' appears again; all lines of a user must be consecutive.",
        ),
    ],
)
def test_a_bad_file_of_histories_is_named_with_its_line(text: str, message: str) -> None:
    with pytest.raises(DataError) as error:
        read(text)
    assert str(error.value).startswith(f"h.csv, {message}")


def test_a_file_that_is_no_text_or_empty_is_named() -> None:
    with pytest.raises(DataError, match=r"^h\.csv: is empty; the first line must name the columns"):
        read("")
    for content in (b"user_id,item_id\xff\n", b"user_id,item_id\na,1\nb,\xff\n"):
        Path("h.csv").write_bytes(content)
        with (
            Path("h.csv").open(encoding="utf-8", newline="") as file,
            pytest.raises(
                DataError, match=r"^h\.csv, line \d or later: not text in UTF-8 \(invalid start byte\); save"
            ),
        ):
            list(read_histories(file, "h.csv", "user_id", "item_id"))


def test_rankings_are_written_as_csv() -> None:
    file = io.StringIO()
    assert write_rankings([("a", Ranking([("i,1", 0.5), ("i2", -1e-9)])), ("b", Ranking())], file) == 2
    rows = list(csv.reader(io.StringIO(file.getvalue())))
    assert rows == [["user_id", "rank", "item_id", "score"], ["a", "1", "i,1", "0.5"], ["a", "2", "i2", "-1e-09"]]


def command(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    whole = [sys.executable, "-m", "recbole_vae", "recommend", *arguments]
    return subprocess.run(whole, capture_output=True, text=True, check=False, **options)


def test_the_command_line(run: Run) -> None:
    file = f"--checkpoint={run.trainer.saved_model_file}"
    recommender = recbole_vae.Recommender.load(run.trainer.saved_model_file)
    done = command(file, "--users=u3, u1,u3", "-k", "3")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [(row["user_id"], row["rank"]) for row in rows] == [
        (user, str(rank)) for user in ("u3", "u1") for rank in (1, 2, 3)
    ]
    ranking = [(row["item_id"], float(row["score"])) for row in rows[:3]]
    assert close(ranking, recommender.recommend_users(["u3"], k=3)[0])

    assert command(file, "--users=u3, u1", "-k", "3", "--out=-").stdout == done.stdout

    Path("c.txt").write_text("i3\ni5\n\nnone\n")
    done = command(
        file,
        "--histories=-",
        "-k=2",
        "--candidates=c.txt",
        "--keep_seen=True",
        input="user_id,item_id\nq,i3\nq,zz\nr,\n",
    )
    assert done.returncode == 0, done.stderr
    assert {row["item_id"] for row in csv.DictReader(io.StringIO(done.stdout))} == {"i3", "i5"}
    left_out = "1 times an item that is not in the training data (1 different, such as"
    assert f"Left out of histories: {left_out} 'zz')" in done.stderr
    assert "Users with no item in the training data: 1; they got the most popular items.\n" in done.stderr
    assert f"Left out of the candidates: {left_out} 'none')" in done.stderr

    assert main(["recommend", file, "--out=all.csv"]) == 0
    rows = list(csv.DictReader(Path("all.csv").read_text().splitlines()))
    assert [row["user_id"] for row in rows[::10]] == recommender.users[1:]
    assert not list(Path().glob(".all*"))


def test_a_failure_leaves_no_half_written_file(build: Builder, capsys: pytest.CaptureFixture[str]) -> None:
    run = build()
    run.fit()
    Path("h.csv").write_text("user_id,item_id\na,i1\nb,i1\na,i2\nc\n")
    file = f"--checkpoint={run.trainer.saved_model_file}"
    for wrong in ("--histories=h.csv", "--users=u1,nobody,u2,x"):
        assert main(["recommend", file, wrong, "--out=o.csv"]) == 1
        assert main(["recommend", file, wrong, "--out=o.csv.parquet"]) == 1
        assert main(["recommend", file, wrong]) == 1
        captured = capsys.readouterr()
        assert captured.out == ""  # not even the header
        reason = "h.csv, line 5: 1 cells" if "h.csv" in wrong else "users 'nobody', 'x' are not among the 40 users of"
        assert captured.err.count(f"error: {reason}") == 3
    assert not list(Path().glob("*o.csv*"))
    assert not list(Path().glob(".*o.csv*"))


def test_ctrl_c_keeps_what_there_was(build: Builder) -> None:
    run = build()
    run.fit()
    script = interrupted(f"--checkpoint={run.trainer.saved_model_file}", "o.csv")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 128 + signal.SIGINT
    assert "o.csv.partial: what was written until then" in done.stderr
    assert len(Path("o.csv.partial").read_text().splitlines()) == 51
    assert not Path("o.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--checkpoint (command line) is missing"),
        (["--checkpoint=no.pth"], "no.pth: there is no such checkpoint."),
        (["--checkpoint=no.pth", "--users=a", "--histories=h.csv"], "--users and --histories (command line) cannot be"),
        (["--checkpoint=no.pth", "-k=0"], "k: '0' (command line) is not allowed; it must be an integer >= 1."),
        (
            ["--checkpoint=no.pth", "--user=a"],
            "--user (command line): recommend has no such option; did you mean --users?",
        ),
        (
            ["--checkpoint=no.pth", "--histories=-", "--candidates=-"],
            "--histories and --candidates (command line) cannot",
        ),
        (["--checkpoint=no.pth", "--keep_seen=yes"], "keep_seen: 'yes' (command line) is not allowed"),
        (["--checkpoint=no.pth", "--out=gone/o.csv"], "--out=gone/o.csv (command line): there is no folder gone."),
    ],
)
def test_mistakes_are_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", *arguments]) in (1, 2)
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_a_stray_quotation_mark_does_not_swallow_the_rest() -> None:
    text = 'user_id,item_id\n\na,"one\nname"\na,"50\na,181\nb,172\n'
    with pytest.raises(DataError, match=r"h\.csv, line 5: not valid CSV"):
        list(read_histories(io.StringIO(text), "h.csv", "user_id", "item_id"))


def test_unknown_candidates_are_counted(build: Builder) -> None:
    run = build()
    run.fit()
    recommender = Recommender.load(run.trainer.saved_model_file)
    (ranking,) = recommender.recommend([["i1"]], 5, candidates=["i2", "nobody", "i3"])
    assert {item for item, _ in ranking} == {"i2", "i3"}
    assert (recommender.unknown, recommender.unknown_candidates) == (Unknown(), Unknown(1, Counter(nobody=1)))


def test_what_is_kept_of_unknown_ids_is_bounded(build: Builder) -> None:
    run = build()
    run.fit()
    recommender = Recommender.load(run.trainer.saved_model_file)
    sent = [f"{number:06d}{'x' * 1000}" for number in range(3000)] * 2
    for start in range(0, len(sent), 500):
        recommender.recommend([["i1", *sent[start : start + 500]]], k=1, candidates=["i2", *sent[start : start + 500]])
    for unknown in (recommender.unknown, recommender.unknown_candidates):
        assert unknown.times == 6000
        assert unknown.examples == {each[:100]: 2 for each in sent[:1000]}


@pytest.mark.parametrize(
    "model_name", ["MultVAE", "MultDAE", "HybridVAE", "CompositeVAE", "VampVAE"]
)  # VASP has no weights
def test_weights_of_histories_count_for_known_users_and_new_ones(build: Builder, model_name: str) -> None:
    rows = [(user, f"{item}\t{1 + place % 5}") for place, (user, item) in enumerate(random_rows())]
    path = write_inter(rows, columns="user_id:token\titem_id:token\trating:float")
    run = build(model_name, "tiny", data_path=path, value_field="rating", learning_rate=0.01)
    run.fit()
    recommender = Recommender.load(run.trainer.saved_model_file)
    user = recommender.users[3]
    history, row = recommender.history(user), recommender.model.histories[torch.tensor([3])]
    assert isinstance(history, dict)
    assert list(history.values()) == row.entry_values().tolist()
    with torch.no_grad():
        scores = recommender.model.score(row)[0]
    scores[row.indices] = -torch.inf
    best = [recommender.items[item] for item in scores.topk(5).indices.tolist()]
    for ranking in (*recommender.recommend([history], k=5), *recommender.recommend_users([user], k=5)):
        assert [item for item, _ in ranking] == best
    explained = Explainer(recommender).explain(user, history, k=5, search=False).recommendations
    assert [each.item_id for each in explained] == best
    (plain,) = recommender.recommend([list(history)], k=25)
    assert dict(plain)[best[0]] != pytest.approx(float(scores.max()), rel=1e-6)
    (same,) = recommender.recommend([{item: np.float32(weight) for item, weight in history.items()}], k=5)
    assert [item for item, _ in same] == best
    for bad in (0.0, -1.0, float("nan"), "4", [1], 3e38, 1e39, 1e-50, 10**400):
        with pytest.raises(DataError, match="weights of a history's items must be positive numbers"):
            recommender.recommend([{"i1": bad}])


def test_weights_are_refused_by_a_model_that_knows_none(build: Builder) -> None:
    run = build()
    run.fit()
    with pytest.raises(DataError, match="has weights, but the model was trained without value_field"):
        Recommender.load(run.trainer.saved_model_file).recommend([{"i1": 2.0}])


def test_the_limit_of_the_correction_is_the_one_that_is_documented() -> None:
    assert f"from -{LARGEST:.0f} to {LARGEST:.0f}" in (Recommender.load.__doc__ or "")


def test_a_popularity_correction_changes_the_ranking_and_no_probability(build: Builder) -> None:
    run = build("MultVAE", learning_rate=0.01, popularity_correction=0.8)
    run.fit()
    plain = Recommender.load(run.trainer.saved_model_file, popularity_correction=0.0)
    corrected = Recommender.load(run.trainer.saved_model_file)
    history, k = ["i0", "i3", "i4"], 6
    (ranking,) = corrected.recommend([history], k=k, samples=5)
    assert [item for item, _ in ranking] != [item for item, _ in plain.recommend([history], k=k)[0]]
    scores = dict(plain.recommend([history], k=len(plain.items))[0])
    weights = {item: math.exp(score) for item, score in scores.items()}
    gains = [1 / math.log2(place + 2) for place in range(k)]
    # As many as an eighth of the history is, but at least one.
    hits = [weights[item] / sum(weights.values()) for item, _ in ranking]
    expected = sum(gain * hit for gain, hit in zip(gains, hits, strict=True))
    assert ranking.expected_ndcg == pytest.approx(expected, rel=1e-4)
    model = corrected.model
    with torch.no_grad():
        one = model.uncorrected(model.score(model.histories))
        torch.testing.assert_close(one, plain.model.score(model.histories))


def test_what_is_missing_from_the_output_is_told(build: Builder, capsys: pytest.CaptureFixture[str]) -> None:
    run = build()
    run.fit()
    file = f"--checkpoint={run.trainer.saved_model_file}"
    Path("h.csv").write_text("user_id,item_id\na,i1\na,\nb,i2\n")
    Path("c.txt").write_text("i1\n")
    assert main(["recommend", file, "--histories=h.csv", "--candidates=c.txt"]) == 0
    captured = capsys.readouterr()
    assert [line.split(",")[0] for line in captured.out.splitlines()] == ["user_id", "b"]
    assert "Users without a recommendation: 1; their histories have all items that could be recommended" in captured.err
    assert "1 times an item that is not in the training data (1 different, such as an empty cell)." in captured.err
    Path("none.csv").write_text("user_id,item_id\n")
    for name in ("recommend", "explain"):
        assert main([name, file, "--histories=none.csv"]) == 0
        assert capsys.readouterr().err == "none.csv: contains no histories, only the header.\n"


def test_users_whose_ids_have_a_comma_can_be_named(build: Builder, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(f"{user},x" if user == "u1" else user, item) for user, item in random_rows()]
    path = write_inter(rows)
    run = build(dataset="tiny", data_path=path)
    run.fit()
    file = f"--checkpoint={run.trainer.saved_model_file}"
    assert main(["recommend", file, '--users=u2, "u1,x",u2', "-k=1"]) == 0
    shown = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert [row["user_id"] for row in shown] == ["u2", "u1,x"]


@pytest.mark.parametrize("separator", [",", ";", "|"])
def test_histories_have_the_separators_of_atomic_files(separator: str) -> None:
    lines = [
        ("user_id:token", "rating:float", "item_id:token"),
        ("a", "5", '"x"'),
        ("a", "4", '"y ""z"""'),
        ("b", "3", "x"),
    ]
    text = "".join(separator.join(line) + "\n" for line in lines)
    assert read(text) == [("a", ["x", 'y "z"']), ("b", ["x"])]


def test_what_is_excluded_is_never_recommended(run: Run) -> None:
    recommender = recbole_vae.Recommender.load(run.trainer.saved_model_file)
    history = ["i0", "i1", "i2"]
    every = recommender.recommend([history], k=1000)[0]
    out = [item for item, _ in every[:3]]
    (rest,) = recommender.recommend([history], k=5, exclude=[*out, "never heard of"])
    assert close(rest, every[3:8])
    assert recommender.unknown_excluded == Unknown(1, Counter({"never heard of": 1}))
    (few,) = recommender.recommend([history], candidates=[*out, "i0"], exclude=out[:1])
    assert close(few, every[1:3])
    assert recommender.recommend([history], candidates=out, exclude=out) == [[]]
    assert recommender.recommend([history], k=5, exclude=[]) == [every[:5]]
    ((_, streamed),) = recommender.stream([("a", history)], 5, exclude=out)
    assert streamed == rest
    with pytest.raises(DataError, match="^exclude must be a collection of item ids; 'i1' is a string"):
        recommender.recommend([history], exclude="i1")


@pytest.mark.parametrize("loaded_with", [None, 0.5])
def test_a_correction_of_one_call_is_that_of_loading_with_it(run: Run, loaded_with: float | None) -> None:
    file, histories = run.trainer.saved_model_file, [["i0", "i3"], [], ["i7"]]
    recommender = recbole_vae.Recommender.load(file, popularity_correction=loaded_with)
    before = recommender.recommend(histories)
    for strength in (0.0, 2.0, -1.5):
        expected = recbole_vae.Recommender.load(file, popularity_correction=strength).recommend(histories)
        for found, other in zip(
            recommender.recommend(histories, popularity_correction=strength), expected, strict=True
        ):
            assert close(found, other)
    assert recommender.recommend(histories) == before
    with pytest.raises(ConfigError, match="^popularity_correction: nan is not allowed"):
        recommender.recommend(histories, popularity_correction=math.nan)


def test_rows_of_several_selections_are_ranked_as_alone(build: Builder) -> None:
    run = build(learning_rate=0.01)
    run.fit()
    recommender = recbole_vae.Recommender.load(run.trainer.saved_model_file)
    options: list[dict[str, Any]] = [
        {"k": 3}, {"exclude": ["i0", "i1"]}, {"popularity_correction": 1.0}, {"candidates": ["i4", "i5"]},
        {"exclude_seen": False, "popularity_correction": 1.0},
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    histories = [[f"i{item}" for item in rng.choice(25, rng.integers(0, 6))] for _ in range(40)]
    chosen = rng.integers(0, len(options), 40)
    selections = [recommender.selection(**each) for each in options]
    together = recommender.rank(
        [recommender.known(history) for history in histories], [selections[each] for each in chosen]
    )
    for history, choice, ranking in zip(histories, chosen, together, strict=True):
        assert close(ranking, recommender.recommend([history], **options[choice])[0])


def test_several_threads(build: Builder) -> None:
    run = build()
    run.fit()
    recommender = recbole_vae.Recommender.load(run.trainer.saved_model_file)
    asked: list[tuple[list[str], dict[str, Any]]] = [
        (["i0", "x"], {}), (["i3"], {"popularity_correction": 3.0}), ([], {"k": 4}), (["i5", "i6"], {"diversify": 2.0}),
    ]  # fmt: skip
    expected = [recommender.recommend([history], **options)[0] for history, options in asked]
    unknown, empty = recommender.unknown.times, recommender.without_known
    wrong = []

    def work() -> None:
        for _ in range(50):
            for (history, options), ranking in zip(asked, expected, strict=True):
                if not close(recommender.recommend([history], **options)[0], ranking):
                    wrong.append(history)

    threads = [threading.Thread(target=work) for _ in range(4)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert not wrong
    assert (recommender.unknown.times - unknown, recommender.without_known - empty) == (200, 200)


def test_torch_is_left_as_it_was(run: Run) -> None:
    before = torch.get_rng_state(), torch.get_num_threads(), torch.is_grad_enabled()
    recommender = recbole_vae.Recommender.load(run.trainer.saved_model_file)
    recommender.recommend([["i0"]])
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (torch.get_num_threads(), torch.is_grad_enabled()) == before[1:]


def test_the_import_is_light() -> None:
    code = (
        "import sys\nfrom recbole_vae import Recommender\n"
        "print([name for name in ('pandas', 'scipy', 'tensorboard', 'matplotlib', 'ray') if name in sys.modules])\n"
        "from recbole.utils import utils\nprint(utils.list_to_latex, utils.pd.DataFrame, 'pandas' in sys.modules)\n"
        "import pandas\nprint(utils.pd is not pandas, sys.modules['pandas'].__file__)\n"
        "from scipy.sparse import dok_matrix\ndok_matrix((2, 2))._update({(0, 1): 1.0})\n"
        "print(type(utils.SummaryWriter('log')).__module__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    light, used, real, writer = done.stdout.splitlines()
    assert light == "[]"
    assert used.endswith("True")
    assert real.startswith("True")
    assert writer == "torch.utils.tensorboard.writer"
