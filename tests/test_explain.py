"""Explanations: exact influences, counterfactuals, their measures, and what the command line makes of them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import recbole_vae
from recbole_vae import explain
from recbole_vae.cli import main
from recbole_vae.data.histories import Histories
from recbole_vae.errors import ConfigError, DataError
from recbole_vae.explain import Explainer, ItemText, counterfactual, influences, perturbation, ranks, scores_without
from recbole_vae.explain_report import because, lost_without, read_item_texts
from tests.conftest import Builder, Run, write_inter


@pytest.fixture
def run(build: Builder, model_name: str) -> Run:
    result = build(model_name, learning_rate=0.01)
    result.fit()
    result.model.eval()
    return result


def history_of(items: Iterable[int], values: list[float] | None = None) -> Histories:
    one = Histories.from_lists([list(items)])
    return one if values is None else Histories(one.indptr, one.indices, torch.tensor(values))


class OnlyScores(torch.nn.Module):
    """A model of which nothing is known but its scores."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        for name in ("score", "ranking_scores", "uncorrected", "n_items", "histories", "device"):
            setattr(self, name, getattr(model, name))
        self.USER_ID, self.ITEM_ID = model.USER_ID, model.ITEM_ID


@pytest.mark.parametrize("hidden", [[], [12]])
@pytest.mark.parametrize("items", [[4], [4, 9], range(1, 20)])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_fast_influences_are_those_of_scoring_each_shortened_history(
    build: Builder, model_name: str, hidden: list[int], items: Iterable[int], weighted: bool
) -> None:
    model = build(model_name, mlp_hidden_size=hidden).model.eval()
    torch.nn.init.normal_(model.encoder.input.bias)  # so that an empty history gives something of its own
    values = [0.5 + number % 3 for number in range(len(list(items)))] if weighted else None
    history, wanted = history_of(items, values), torch.tensor([21, 20, 25, 4])
    found = influences(model, history, wanted)
    with torch.no_grad():
        for entry, item in enumerate(items):
            rest = [place for place, other in enumerate(items) if other != item]
            short = history_of([list(items)[place] for place in rest], values and [values[place] for place in rest])
            expected = (model.score(history) - model.score(short))[0, wanted]
            torch.testing.assert_close(found[entry], expected, rtol=1e-4, atol=1e-6)
        whole, without = scores_without(model, history, wanted)
    torch.testing.assert_close(found, whole - without, rtol=1e-4, atol=1e-6)


def test_weights_of_very_different_size_lose_nothing(build: Builder) -> None:
    model = build("MultVAE").model.eval()
    history = history_of([1, 2, 3], [1e6, 1.0, 1e-3])
    found = influences(model, history, torch.tensor([7]))
    with torch.no_grad():
        expected = (model.score(history) - model.score(history_of([2, 3], [1.0, 1e-3])))[0, 7]
    torch.testing.assert_close(found[0, 0], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("model_name", ["MultVAE", "MultDAE"])
def test_gradients_are_the_derivatives_of_the_scores(run: Run) -> None:
    model = run.model.double()
    items, values = [2, 3, 5, 8], torch.tensor([1.0, 2.0, 0.5, 1.0], dtype=torch.float64)
    history = Histories(torch.tensor([0, 4]), torch.tensor(items), values)
    wanted, step = torch.tensor([1, 9, 20]), 1e-5
    found = influences(model, history, wanted, "gradient")
    for entry in range(4):
        ends = []
        for sign in (1, -1):
            moved = values.clone()
            moved[entry] += sign * step
            with torch.no_grad():
                ends.append(model.score(Histories(history.indptr, history.indices, moved))[0, wanted])
        torch.testing.assert_close(found[entry], values[entry] * (ends[0] - ends[1]) / (2 * step), rtol=1e-5, atol=1e-8)


def test_of_a_long_history_both_methods_say_nearly_the_same(build: Builder) -> None:
    rows = [(f"u{user}", f"i{item}") for user in range(30) for item in range(80) if (user + item) % 3]
    model = build("MultDAE", dataset="long", data_path=write_inter(rows, "long")).model.eval()
    history, wanted = history_of(range(1, 70)), torch.tensor([71, 74])
    exact, gradient = (influences(model, history, wanted, method).flatten() for method in explain.METHODS)
    assert float(torch.corrcoef(torch.stack((exact, gradient)))[0, 1]) > 0.99


def test_a_method_that_is_not_there(run: Run) -> None:
    with pytest.raises(ConfigError, match="^method: 'exakt' is not allowed; it must be exact or gradient"):
        influences(run.model, history_of([1, 2]), torch.tensor([3]), "exakt")
    with pytest.raises(
        ConfigError, match="gradient is for models with a HistoryEncoder.* OnlyScores is none; use method"
    ):
        influences(OnlyScores(run.model), history_of([1, 2]), torch.tensor([3]), "gradient")  # type: ignore[arg-type]


def position(model: Any, history: list[int], item: int, barred: list[int]) -> int:
    """Rank by comparing all scores, or, of an empty history, how many training users have each item."""
    with torch.no_grad():
        scores = model.score(history_of(history))[0]
    if not history:
        scores = torch.bincount(model.histories.indices.long(), minlength=model.n_items).float()
    scores[[0, *barred]] = -torch.inf
    return int((scores > scores[item]).sum()) + 1


def test_ranks(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    items, wanted = [1, 3, 4, 7], [2, 9, 20]
    removed = torch.tensor([[0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 1, 0], [1, 1, 1, 1]], dtype=torch.bool)
    expected = [
        [
            position(run.model, [i for i, gone in zip(items, row, strict=True) if not gone], each, items)
            for each in wanted
        ]
        for row in removed.tolist()
    ]
    assert ranks(run.model, history_of(items), removed, torch.tensor(wanted)).tolist() == expected
    monkeypatch.setattr(explain, "SCORES_PER_CHUNK", 1)
    assert ranks(run.model, history_of(items), removed, torch.tensor(wanted)).tolist() == expected


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_a_counterfactual_suffices_and_each_part_of_it_is_needed(trained: Any, data: st.DataObject) -> None:
    items = sorted(data.draw(st.sets(st.integers(1, 25), min_size=1, max_size=12)))
    k = data.draw(st.integers(1, 5))
    with torch.no_grad():
        scores = trained.score(history_of(items))[0]
    scores[items] = -torch.inf
    for item in scores.topk(k).indices.tolist():
        found = counterfactual(trained, history_of(items), item, k)
        single = [gone for gone in items if position(trained, [i for i in items if i != gone], item, items) > k]
        if found is None:
            assert not single
            continue
        missing = [items[place] for place in found.tolist()]
        assert position(trained, [i for i in items if i not in missing], item, items) > k
        for back in missing:
            rest = [i for i in items if i not in missing or i == back]
            assert len(missing) == 1 or position(trained, rest, item, items) <= k
        if single:
            assert missing[0] in single
            assert len(missing) == 1


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a model whose recommendations depend on the history: half of the users like odd items, half even ones."""
    from recbole.config import Config

    from recbole_vae.model.multdae import MultDAE
    from tests.conftest import OPTIONS

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("trained"))
        patch.setattr(sys, "argv", ["pytest"])
        rows = [(f"u{u}", f"i{i}") for u in range(60) for i in range(25) if i % 2 == u % 2 and (u * 7 + i * 3) % 5]
        options = {**OPTIONS, "data_path": write_inter(rows), "latent_dimension": 8, "mlp_hidden_size": []}
        config = Config(model="MultDAE", dataset="tiny", config_dict=options)
        from recbole.data import create_dataset

        torch.manual_seed(1)
        data = create_dataset(config).build()[0]
        model = MultDAE(config, data)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(100):
            optimizer.zero_grad()
            model.loss_terms(model.histories[torch.arange(1, 61)], 0, 60).loss().backward()
            optimizer.step()
    return model.eval()


def test_there_is_none_where_there_are_too_few_rivals_or_too_few_may_go(trained: Any) -> None:
    history = history_of(range(1, 24))
    assert counterfactual(trained, history, 24, k=2) is None  # two items are left
    short = history_of([1, 3, 5, 7, 9, 11])
    with torch.no_grad():
        scores = trained.score(short)[0]
    scores[[1, 3, 5, 7, 9, 11]] = -torch.inf
    best = int(scores.argmax())
    found = counterfactual(trained, short, best, k=3)
    assert found is not None
    assert len(found) > 1
    assert counterfactual(trained, short, best, k=3, most=len(found) - 1) is None


def test_an_explanation_is_of_what_recommend_recommends(run: Run) -> None:
    recommender = recbole_vae.Recommender.load(run.trainer.saved_model_file)
    explainer = Explainer(recommender, {"i1": ItemText("One", "Drama")})
    history = ["i1", "i5", "never heard of", "i8", "i5"]
    result = explainer.explain("me", history, k=4, reasons=2)
    assert recommender.unknown == {"never heard of": 1}
    (ranking,) = recommender.recommend([["i1", "i5", "i8"]], k=4)
    assert [(each.item_id, each.score) for each in result.recommendations] == ranking
    assert sorted(result.history) == ["i1", "i5", "i8"]
    for each in result.recommendations:
        assert sorted(one.item_id for one in each.influences) == ["i1", "i5", "i8"]
        values = [one.influence for one in each.influences]
        assert values == sorted(values, reverse=True)
        assert {one.name for one in each.influences} == {"One", "i5", "i8"}
        assert [one.rank_without is None for one in each.influences] == [False, False, True]
        first = each.influences[0]
        rest = [item for item in ("i1", "i5", "i8") if item != first.item_id]
        candidates = [item for item in recommender.items[1:] if item not in result.history]
        (lower,) = recommender.recommend([rest], k=25, candidates=candidates)
        assert [item for item, _ in lower].index(each.item_id) + 1 == first.rank_without
        score = dict(lower)[each.item_id]
        assert first.influence == pytest.approx(each.score - score, rel=1e-3, abs=1e-5)
    empty = explainer.explain("nobody", [], k=3)
    assert [each.item_id for each in empty.recommendations] == [item for item, _ in recommender.recommend([[]], k=3)[0]]
    assert all(each.influences == [] and each.counterfactual is None for each in empty.recommendations)
    assert because(empty.recommendations[0]) == "it is among the most popular"
    with pytest.raises(DataError, match="'i1' is a string"):
        explainer.explain("me", "i1")


def test_any_model_that_scores_can_be_explained(run: Run) -> None:
    recommender = recbole_vae.Recommender.load(run.trainer.saved_model_file)
    fast = Explainer(recommender).explain("me", ["i1", "i5", "i8"], k=3)
    recommender.model = OnlyScores(recommender.model)
    slow = Explainer(recommender).explain("me", ["i1", "i5", "i8"], k=3)
    for one, other in zip(fast.recommendations, slow.recommendations, strict=True):
        assert (one.item_id, one.counterfactual) == (other.item_id, other.counterfactual)
        there = {each.item_id: each.influence for each in other.influences}
        assert {each.item_id: each.influence for each in one.influences} == pytest.approx(there, rel=1e-3, abs=1e-5)


def test_without_its_last_item_a_history_has_the_ranking_that_is_recommended_then(run: Run) -> None:
    recommender = recbole_vae.Recommender.load(run.trainer.saved_model_file, popularity_correction=0.5)
    (popular,) = recommender.recommend([[]], k=30)
    own = popular[3][0]
    result = Explainer(recommender).explain("me", [own], k=12)
    left = [item for item, _ in popular if item != own]
    shares = dict(popular)
    for each in result.recommendations:
        rank = 1 + sum(shares[item] > shares[each.item_id] for item in left)
        assert each.influences[0].rank_without == rank
        assert each.counterfactual == ([own] if rank > 12 else None)
    assert {each.counterfactual is None for each in result.recommendations} == {True, False}


def test_influences_explain_better_than_chance_popularity_and_cosine(build: Builder) -> None:
    """On MovieLens-100K, by all four measures."""
    run = build(
        "MultDAE", "ml-100k", epochs=20, train_batch_size=100, mlp_hidden_size=[], latent_dimension=100,
        learning_rate=0.005, eval_step=0,
    )  # fmt: skip
    run.fit()
    model = run.model.eval()
    histories = model.histories[torch.arange(1, 101)]
    orders = {
        "exact": explain.by_influence(), "gradient": explain.by_influence("gradient"), "random": explain.at_random(0),
        "popularity": explain.by_popularity, "cosine": explain.by_cosine,
    }  # fmt: skip
    measured = {name: perturbation(model, histories, order) for name, order in orders.items()}
    for other in ("random", "popularity", "cosine"):
        for method in explain.METHODS:
            assert measured[method]["POS@10"] < measured[other]["POS@10"]
            assert measured[method]["NEG@10"] > measured[other]["NEG@10"]
            assert measured[method]["DEL"] < measured[other]["DEL"]
            assert measured[method]["INS"] > measured[other]["INS"]


@pytest.mark.parametrize(("steps", "correction"), [(4, 0.0), (20, 0.0), (4, 0.7)])
def test_the_measures(trained: Any, steps: int, correction: float) -> None:
    """Ranks are by corrected scores, probabilities are the softmax of those without correction."""
    trained.correct_popularity(correction)
    histories = Histories.from_lists([[1, 3, 5, 7], [9], [2, 4, 6, 8, 10]])

    def order(model: Any, history: Histories, item: int) -> Tensor:
        return torch.cos(history.indices.float())

    def reverse(model: Any, history: Histories, item: int) -> Tensor:
        return -order(model, history, item)

    one, other = (perturbation(trained, histories, each, k=3, steps=steps) for each in (order, reverse))
    assert one["POS@3"] == pytest.approx(other["NEG@3"])
    assert one["NEG@3"] == pytest.approx(other["POS@3"])
    # By hand: the history of one item does not count; shares are rounded up, but an item always stays.
    expected = {"POS@3": [], "DEL": [], "INS": []}  # type: dict[str, list[float]]
    for items in ([1, 3, 5, 7], [2, 4, 6, 8, 10]):
        counts = [min(-(-step * len(items) // steps), len(items) - 1) for step in range(1, steps)]
        with torch.no_grad():
            scores = trained.score(history_of(items))[0]
            trained.correct_popularity(0.0)
            probabilities = trained.score(history_of(items))[0].softmax(0)
        scores[items] = -torch.inf
        item = int(scores.argmax())
        best = sorted(items, key=lambda each: -float(torch.cos(torch.tensor(float(each)))))
        for count in counts:
            for name, rest in (("DEL", best[count:]), ("INS", best[:count])):
                with torch.no_grad():
                    probability = trained.score(history_of(rest))[0].softmax(0)[item]
                expected[name].append(float(probability / probabilities[item]))
        trained.correct_popularity(correction)
        for count in counts:
            expected["POS@3"].append(float(position(trained, best[count:], item, items) <= 3))
    with pytest.raises(ConfigError, match="steps: 1 is not allowed; it must be an integer >= 2"):
        perturbation(trained, histories, order, steps=1)
    for name, values in expected.items():
        assert one[name] == pytest.approx(sum(values) / len(values), rel=1e-4)
    with pytest.raises(DataError, match="none has two items"):
        perturbation(trained, Histories.from_lists([[9], []]), order)


def test_names_are_read_from_an_item_file() -> None:
    file = Path("films.item")
    file.write_text(
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "1\tToy Story\t1995\tAnimation\n2\tHeat (1995)\t1995\t\n3\t\t\t\n\n",
        encoding="utf-8",
    )
    assert read_item_texts(file) == {
        "1": ItemText("Toy Story (1995)", "Animation"), "2": ItemText("Heat (1995)", ""), "3": ItemText("3", ""),
    }  # fmt: skip
    file.write_text("what:token\tbrand:token\n1\tA\n")
    assert read_item_texts(file, "what") == {"1": ItemText("A")}
    with pytest.raises(DataError, match=r"^films\.item, line 1: there must be a column 'item_id' and one with names"):
        read_item_texts(file)
    file.write_text("item_id:token\tname:token\n1\tA\n2\n")
    with pytest.raises(DataError, match=r"^films\.item, line 3: 1 columns instead of 2"):
        read_item_texts(file)
    file.write_bytes(b"item_id:token\tname:token\n1\t\xff\n")
    with pytest.raises(DataError, match=r"^films\.item: not text in UTF-8"):
        read_item_texts(file)


def test_sentences() -> None:
    influence = [
        explain.Influence("a", "A", 0.414, 37),
        explain.Influence("b", "B", 0.22, 1),
        explain.Influence("c", "C", -1.0),
    ]
    each = explain.Explained(2, "x", "X", "", 1.0, influence, ["a", "b"])
    assert because(each) == "because of A (+0.41) and B (+0.22); without A it would fall to rank 37"
    whole = explain.Explanation("u", "M", "d", "exact", 10, True, ["a", "b", "c"], [each])
    assert lost_without(each, whole) == "not among the first 10 without A and B"
    many = explain.Explained(2, "x", "X", "", 1.0, influence, list("abcabcabc"))
    assert lost_without(many, whole) == "not among the first 10 without A, B, C, A, B and 4 more"
    none = explain.Explained(2, "x", "X", "", 1.0, influence[2:], None)
    assert because(none) == "no single item of the history raises its score"
    assert lost_without(none, whole) == "no set was found without which it is not among the first 10"


class Page(HTMLParser):
    """Collects what a page shows, and whatever could load something."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.tags, self.open = "", set[str](), list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert not {name for name, _ in attrs} & {"src", "href", "onclick", "srcset"}
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_command_line(build: Builder) -> None:
    run = build("MultDAE", learning_rate=0.01)
    run.fit()
    file = f"--checkpoint={run.trainer.saved_model_file}"
    names = {f"i{number}": f'<b>Item & "{number}"</b>' for number in range(25)}
    lines = ["item_id:token\ttitle:token_seq", *(f"{item}\t{name}" for item, name in names.items())]
    Path("data/tiny/tiny.item").write_text("\n".join(lines))
    command = [sys.executable, "-m", "recbole_vae", "explain", file, "--user=u3", "-k", "3", "--html=e.html"]
    done = subprocess.run([*command, "--json=e.json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    recommender = recbole_vae.Recommender.load(run.trainer.saved_model_file)
    assert done.stdout.startswith(
        f"User u3, {len(recommender.history('u3'))} items in the history; MultDAE on tiny, exact"
    )
    (ranking,) = recommender.recommend_users(["u3"], k=3)
    shown = re.findall(r"^ +\d\. (.*), score", done.stdout, re.MULTILINE)
    assert shown == [names[item] for item, _ in ranking]
    (line,) = Path("e.json").read_text().splitlines()
    content = json.loads(line)
    assert content["user"] == "u3"
    assert [each["item_id"] for each in content["recommendations"]] == [item for item, _ in ranking]
    assert content["recommendations"][0]["name"] == names[ranking[0][0]]
    page = Page()
    page.feed(Path("e.html").read_text(encoding="utf-8"))
    page.close()
    assert page.open == []
    assert not page.tags & {"b", "script", "img", "link", "iframe"}
    assert names[ranking[0][0]] in page.text

    assert main(["explain", file, "--users=u3, u1", "-k3", "--json=two.json"]) == 0
    first, second = (json.loads(line) for line in Path("two.json").read_text().splitlines())
    assert first == content
    assert (second["user"], len(second["recommendations"])) == ("u1", 3)

    Path("h.csv").write_text("user_id,item_id\na,i1\na,i2\n<i>,i4\n<i>,zz\nnone,zz\n")
    done = subprocess.run(
        [*command[:5], "--histories=h.csv", "-k=2", "--json=-", "--method=gradient", "--counterfactual=False", "--html=h.html"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["user"], row["method"], len(row["history"])) for row in rows] == [
        ("a", "gradient", 2), ("<i>", "gradient", 1), ("none", "gradient", 0),
    ]  # fmt: skip
    page = Page()
    page.feed(Path("h.html").read_text(encoding="utf-8"))
    assert page.open == []
    assert page.text.count("The history has no item of the training data. So these are the most popular items") == 1
    assert "User none" in page.text
    assert "It is among the most popular" not in page.text
    assert "History: 1 item" in page.text
    assert "found greedily" not in page.text  # nothing was looked for
    assert {each["counterfactual"] for row in rows for each in row["recommendations"]} == {None}
    assert "2 times an item that is not in the training data" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--user=u1"], "--checkpoint (command line) is missing"),
        (["--checkpoint=no.pth"], "explain needs one of --user=ID, --users=A,B and --histories=FILE"),
        (["--checkpoint=no.pth", "--user=a", "--histories=b"], "explain needs one of --user=ID, --users=A,B and"),
        (["--checkpoint=no.pth", "--user=a", "--users=b"], "explain needs one of --user=ID, --users=A,B and"),
        (["--checkpoint=no.pth", "--user=a"], "no.pth: there is no such checkpoint."),
        (["--checkpoint=no.pth", "--user=a", "--method=exakt"], "method: 'exakt' (command line) is not allowed"),
        (["--checkpoint=no.pth", "--user=a", "--counterfactual=no"], "counterfactual: 'no' (command line) is not allowed"),
        (["--checkpoint=no.pth", "--user=a", "-k=0"], "k: '0' (command line) is not allowed"),
        (["--checkpoint=no.pth", "--user=a", "--html=gone/e.html"], "--html=gone/e.html (command line): there is no folder"),
        (["--checkpoint=no.pth", "--usre=a"], "--usre (command line): explain has no such option; did you mean --user?"),
    ],
)  # fmt: skip
def test_mistakes_are_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", *arguments]) in (1, 2)
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_a_failure_leaves_no_half_written_file(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    Path("h.csv").write_text("user_id,item_id\na,i1\nb,i1\na,i2\n")
    file = f"--checkpoint={run.trainer.saved_model_file}"
    assert main(["explain", file, "--histories=h.csv", "--html=e.html", "--json=e.json"]) == 1
    assert "h.csv, line 4: user 'a' again" in capsys.readouterr().err
    assert not list(Path().glob("*e.html*")) + list(Path().glob("*e.json*"))
    assert main(["explain", file, "--user=u1", "--items=none.item"]) == 1
    assert capsys.readouterr().err.startswith("error: none.item: cannot read this file")


def test_scores_without_each_item_are_those_of_the_model_under_a_correction(build: Builder, model_name: str) -> None:
    model = build(model_name, popularity_correction=0.7).model.eval()
    history, items = model.histories[torch.tensor([3])], torch.arange(1, 9)
    with torch.no_grad():
        fast, slow = (each(model, history, items) for each in (explain._scores_without, scores_without))
    for one, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(one.float(), other, rtol=0, atol=1e-5)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_standard_output_that_is_full_is_named_and_no_file(build: Builder) -> None:
    run = build()
    run.fit()
    arguments = ["explain", f"--checkpoint={run.trainer.saved_model_file}", "--user=u1", "--json=e.json"]
    with Path("/dev/full").open("w") as full:
        whole = [sys.executable, "-m", "recbole_vae", *arguments]
        done = subprocess.run(whole, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "error: standard output: cannot write: No space left on device.\n")
