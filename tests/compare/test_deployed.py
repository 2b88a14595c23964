"""Checkpoints are evaluated on what came afterwards."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from recbole_vae import Recommender
from recbole_vae.cli.main import main
from recbole_vae.compare.deployed import Estimate, estimates, evaluate
from recbole_vae.compare.statistics import randomisation_test
from recbole_vae.errors import ConfigError, DataError
from recbole_vae.evaluation.holm import holm
from tests.conftest import OPTIONS, random_rows, write_inter

Pairs = list[tuple[str, str]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train two models: the second knows more users and items."""
    folder = tmp_path_factory.mktemp("deployed")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        words = [f"--{name}={value}" for name, value in OPTIONS.items() if name not in ("use_gpu", "epochs")]
        words += ["--data_path=data", "--epochs=5", "--learning_rate=0.02", "--metrics=[NDCG,Recall,GiniIndex]"]
        words += ["--topk=[3,5]", "--valid_metric=NDCG@5", "--min_x=0"][:2]
        write_inter(random_rows(), "old")
        write_inter(
            [*random_rows(), *((f"u{n}", "i99") for n in range(0, 44, 2)), ("u41", "i1"), ("u41", "i2")], "newer"
        )
        for name in ("old", "newer"):
            assert main(["run", f"--dataset={name}", *words]) == 0
            next(Path("saved").glob("*.pth")).rename(f"{name}.pth")
    return folder


@pytest.fixture
def later(made: Path) -> Pairs:
    """Write what came afterwards: old pairs again, new ones, unknown users and unknown items."""
    for name in ("old", "newer"):
        Path(f"{name}.pth").symlink_to(made / f"{name}.pth")
    rng = np.random.default_rng(5)
    rows = random_rows()[::3] + [
        (f"u{user}", f"i{item}") for user in range(0, 46) for item in rng.choice(25, 4, replace=False)
    ]
    rows += [("u1", "unknown"), ("u2", "unknown"), ("u3", "other"), ("u4", "i99"), ("u5", "i99"), ("u41", "i99")]
    rows = [rows[place] for place in rng.permutation(len(rows))]
    write_inter(dict.fromkeys(rows), "later")
    return list(dict.fromkeys(rows))


def ndcg(ranked: list[str], wanted: set[str]) -> float:
    gains = [1 / math.log2(place + 2) for place in range(len(ranked))]
    hits = sum(gain for gain, item in zip(gains, ranked, strict=True) if item in wanted)
    return hits / sum(gains[: len(wanted)])


def test_the_numbers_of_one_model_are_those_of_a_plain_computation(later: Pairs) -> None:
    found = evaluate(["old.pth"], "later", data_path="data", topk=[5])
    recommender = Recommender.load("old.pth")
    users, items = set(recommender.users[1:]), set(recommender.items[1:])
    history = {user: set(recommender.history(user)) if user in users else set() for user, _ in later}
    targets: dict[str, set[str]] = {}
    for user, item in later:
        if item in items and item not in history[user]:
            targets.setdefault(user, set()).add(item)
    known = [user for user in sorted(targets) if user in users]
    others = [user for user in sorted(targets) if user not in users]
    assert others
    assert (found.users, found.new_users) == (len(known), len(others))
    assert found.interactions == len(later)
    assert found.in_history == sum(item in history[user] for user, item in later) > 50
    outside = [item for _, item in later if item not in items]
    assert (found.unknown_items, found.different_unknown_items) == (len(outside), 3)
    assert found.targets == sum(map(len, targets.values()))
    for group, measured in ((known, found.metrics), (others, found.new_user_metrics)):
        lists = recommender.recommend([list(history[user]) for user in group], k=5)
        values = [ndcg([item for item, _ in ranked], targets[user]) for user, ranked in zip(group, lists, strict=True)]
        estimate = measured["old.pth"]["ndcg@5"]
        assert estimate.mean == pytest.approx(np.mean(values))
        ends = stats.bootstrap((values,), np.mean, method="percentile", rng=0).confidence_interval
        assert (estimate.low, estimate.high) == pytest.approx((ends.low, ends.high), abs=0.02)
    assert set(found.metrics["old.pth"]) == {"ndcg@5", "recall@5"}  # the Gini index is no mean over users


def test_two_models_have_the_same_targets_and_candidates_and_a_paired_test(later: Pairs) -> None:
    found = evaluate(["newer.pth", "old.pth"], "later", data_path="data", metrics=["NDCG"], topk=[3, 5])
    models = [Recommender.load(f"{name}.pth") for name in ("newer", "old")]
    items = {item for model in models for item in model.items[1:]}
    assert "i99" in items - set(models[1].items)
    values: list[list[float]] = [[], []]
    apart: list[list[float]] = [[], []]  # where each leaves out its own history only
    for user in sorted({user for user, _ in later}):
        histories = [set(model.history(user)) if user in model.users[1:] else set() for model in models]
        wanted = {i for u, i in later if u == user and i in items and not any(i in each for each in histories)}
        if wanted and all(histories):
            for model, history, of_model, alone in zip(models, histories, values, apart, strict=True):
                (ranked,) = model.recommend([list(history)], k=5, exclude=set.union(*histories))
                of_model.append(ndcg([item for item, _ in ranked], wanted))
                (ranked,) = model.recommend([list(history)], k=5)
                alone.append(ndcg([item for item, _ in ranked], wanted))
    assert found.users == len(values[0])
    assert all(np.mean(together) > np.mean(alone) for together, alone in zip(values, apart, strict=True))
    assert "u41" in {user for user, _ in later}
    assert found.metrics["newer.pth"]["ndcg@5"].mean == pytest.approx(np.mean(values[0]))
    assert found.metrics["old.pth"]["ndcg@5"].mean == pytest.approx(np.mean(values[1]))
    difference = found.differences["ndcg@5"]
    pairs = np.subtract(values[0], values[1])
    assert difference.difference == pytest.approx(pairs.mean())
    assert difference.low < difference.difference < difference.high
    assert difference.drop == pytest.approx(1 - np.mean(values[0]) / np.mean(values[1]))
    single = evaluate(["newer.pth", "old.pth"], "later", data_path="data", metrics=["NDCG"], topk=[5]).differences[
        "ndcg@5"
    ]
    assert single.p_value == pytest.approx(randomisation_test(pairs[:, None])[0], abs=0.02)
    three = evaluate(["newer.pth", "old.pth"], "later", data_path="data", metrics=["NDCG"], topk=[3]).differences[
        "ndcg@3"
    ]
    corrected = [found.differences[name].p_value for name in ("ndcg@3", "ndcg@5")]
    assert corrected == pytest.approx(holm([three.p_value, single.p_value]), abs=0.02)
    same = evaluate(["old.pth", "old.pth"], "later", data_path="data").differences
    assert all((each.difference, each.p_value, each.drop) == (0, 1, 0) for each in same.values())


def test_given_histories_stand_in_the_place_of_those_in_the_checkpoint(later: Pairs) -> None:
    wanted = {item for user, item in later if user == "u45"}
    left, *rest = sorted(wanted)
    Path("h.csv").write_text("user_id,item_id\nu45," + f"{left}\nu1,i0\nu45,i0\n")
    words = ["evaluate", "--checkpoint=old.pth", "--dataset=later", "--data_path=data", "--json=r.json"]
    assert main(words) == 0
    before = json.loads(Path("r.json").read_text())
    assert main([*words, "--histories=h.csv"]) == 0
    after = json.loads(Path("r.json").read_text())
    assert (after["users"], after["new_users"]) == (before["users"] + 1, before["new_users"] - 1)
    assert rest
    recommender = Recommender.load("old.pth")
    old_history, new = set(recommender.history("u1")), {item for user, item in later if user == "u1"}
    change = len({"i0"} & new) - len(old_history & new) + len({left, "i0"} & wanted)
    assert after["in_history"] == before["in_history"] + change


def test_limits(later: Pairs, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "--checkpoint=old.pth", "--dataset=later", "--data_path=data"]
    assert main([*words, "--min=NDCG@5:0,recall@3:0"]) == 0
    captured = capsys.readouterr()
    assert "95 %" not in captured.err
    assert "Users without a history, who get the most popular items: 6" in captured.out
    assert main([*words, "--min", "NDCG@5:0.99", "recall@3:0"]) == 3
    assert "below --min=ndcg@5:0.99" in (last := capsys.readouterr().err.splitlines()[-1])
    assert last.startswith("limit exceeded: ndcg@5 is 0.")
    both = [*words, "--against=newer.pth"]
    drop = evaluate(["old.pth", "newer.pth"], "later", data_path="data").differences["ndcg@5"].drop
    assert drop is not None
    assert main([*both, f"--max_drop=NDCG@5:{drop + 0.01}"]) == 0
    assert main([*both, f"--max_drop=NDCG@5:{drop - 0.01}"]) == 3
    assert f"ndcg@5 is {drop:.2%} lower than that of newer.pth" in capsys.readouterr().err


def test_a_limit_without_its_metric_is_refused_before_the_work(
    later: Pairs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("recbole_vae.compare.deployed._measure", None)
    words = ["evaluate", "--checkpoint=old.pth", "--dataset=later", "--data_path=data", "--against=newer.pth"]
    for limit in ("--min=NDCG@7:0.1", "--max_drop=NDCG@7:0.1"):
        assert main([*words, limit]) == 2
        assert "error: ndcg@7 is not measured; there are ndcg@3, ndcg@5, recall@3" in capsys.readouterr().err


def test_mistakes_are_named(later: Pairs, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "--checkpoint=old.pth", "--data_path=data"]
    for more, status, message in (
        ([], 2, "--dataset (command line) is missing"),
        (["--dataset=none"], 1, "dataset: there is no file data/none/none.inter. Set data_path"),
        (["--dataset=later", "--metrics=GiniIndex"], 2, "metrics: 'giniindex' is not allowed; it must be hit or map"),
        (["--dataset=later", "--topk=26"], 2, "topk: 26 is not allowed; the model knows 25 items."),
        (["--dataset=later", "--min=NDCG@7:0.1"], 2, "ndcg@7 is not measured; there are ndcg@3"),
        (["--dataset=later", "--min=0.1"], 2, "min: '0.1' (command line) is not allowed; it must be a metric and"),
        (["--dataset=later", "--min=NDCG@5:x"], 2, "min: 'NDCG@5:x' (command line) is not allowed"),
        (["--dataset=later", "--max_drop=NDCG@5:1"], 2, "--max_drop (command line) needs --against"),
        (["--dataset=later", "--json=old.pth"], 2, "--json=old.pth (command line): this is the file of --checkpoint"),
    ):
        assert main([*words, *more]) == status, more
        assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {message}"), more
    write_inter([("u1", "x"), ("u2", "y")], "strange")
    with pytest.raises(
        DataError, match="nothing in 'strange' is to be found: of 2 interactions, 0 are in the users' his"
    ):
        evaluate(["old.pth"], "strange", data_path="data")
    with pytest.raises(ConfigError, match="topk: 26 is not allowed"):
        evaluate(["newer.pth", "old.pth"], "later", data_path="data", topk=[26])


def test_a_day_without_news_is_no_failure(later: Pairs, capsys: pytest.CaptureFixture[str]) -> None:
    known = next((user, item) for user in Recommender.load("old.pth").users[1:] for item in _items("old.pth", user))
    write_inter([known, ("u1", "unknown")], "quiet")
    words = ["evaluate", "--checkpoint=old.pth", "--dataset=quiet", "--data_path=data"]
    assert main([*words, "--min=NDCG@5:0.99", "--json=quiet.json"]) == 0
    captured = capsys.readouterr()
    assert "in a history already               1\n" in captured.out
    assert "Users with a history: 0\n" in captured.out
    said = "nothing to measure: quiet has nothing that is to be found; --min could not be checked\n"
    assert captured.err.endswith(said)
    content = json.loads(Path("quiet.json").read_text())
    assert (content["interactions"], content["unknown_items"], content["targets"]) == (2, 1, 0)
    assert content["exceeded"] == []
    assert main([*words, "--against=newer.pth"]) == 0
    assert capsys.readouterr().err.endswith("quiet has nothing that is to be found\n")


def _items(path: str, user: str) -> list[str]:
    return list(Recommender.load(path).history(user))


def test_only_new_users_do_not_meet_a_limit(later: Pairs, capsys: pytest.CaptureFixture[str]) -> None:
    write_inter([("stranger", "i1"), ("other", "i2")], "strangers")
    words = ["evaluate", "--checkpoint=old.pth", "--dataset=strangers", "--data_path=data"]
    assert main(words) == 0
    assert "Users with a history: 0\n" in capsys.readouterr().out
    assert main([*words, "--min=NDCG@5:0", "--against=newer.pth"]) == 3
    assert "no user with a history has something to be found, so --min=ndcg@5:0 is not met" in capsys.readouterr().err


def test_the_filters_of_values_hold_and_those_of_numbers_do_not(made: Path) -> None:
    rows = [(user, item, 1 + place % 5, place) for place, (user, item) in enumerate(random_rows())]
    columns = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    path = write_inter(rows, "rated", columns)
    words = [f"--{name}={value}" for name, value in OPTIONS.items() if name not in ("use_gpu", "epochs")]
    filters = ['--val_interval={"rating": "[4,inf)"}', "--user_inter_num_interval=[2,inf)", "--epochs=1"]
    filters += ["--load_col={inter: [user_id, item_id, rating, timestamp]}"]
    order = "--eval_args={'split':{'RS':[0.8,0.1,0.1]},'group_by':'user','order':'TO'}"
    assert main(["run", "--dataset=rated", f"--data_path={path}", *words, *filters, order]) == 0
    checkpoint = next(Path("saved").glob("*.pth"))
    recommender = Recommender.load(checkpoint)
    user = recommender.users[1]
    new = [item for item in recommender.items[1:] if item not in recommender.history(user)][:2]
    write_inter([(user, new[0], 5, 1), (user, new[1], 3, 1)], "one", columns)
    found = evaluate([checkpoint], "one", data_path=path)
    assert (found.interactions, found.targets, found.users) == (1, 1, 1)
    write_inter([(user, new[0], 5)], "untimed", "user_id:token\titem_id:token\trating:float")
    assert evaluate([checkpoint], "untimed", data_path=path).targets == 1
    write_inter([(user, new[0])], "unrated")
    with pytest.raises(DataError, match="'rating'"):
        evaluate([checkpoint], "unrated", data_path=path)


def test_a_single_user_has_no_interval() -> None:
    assert estimates({"ndcg@5": np.array([0.5])}) == {"ndcg@5": Estimate(0.5, None, None)}
