"""Explanations: exact influences, counterfactuals, their measures, and what the command line makes of them."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

import recbole_vae
from recbole_vae.analysis import explain
from recbole_vae.analysis.explain import (
    Explainer,
    ItemText,
    counterfactual,
    influences,
    ranks,
    scores_without,
)
from recbole_vae.analysis.explain_report import because, lost_without, read_item_texts, write
from recbole_vae.analysis.perturbation import at_random, by_cosine, by_influence, by_popularity, perturbation
from recbole_vae.cli.main import main
from recbole_vae.data.histories import Histories
from recbole_vae.errors import ConfigError, DataError
from recbole_vae.model.capabilities import Capabilities
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


class OnlyScores(Capabilities, torch.nn.Module):
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
        ConfigError, match="a linear layer of the history, .*OnlyScores does not declare that .*Use method: exact"
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
    monkeypatch.setattr("recbole_vae.nn.chunks.SCORES_PER_CHUNK", 1)
    assert ranks(run.model, history_of(items), removed, torch.tensor(wanted)).tolist() == expected
    barred = torch.zeros(run.model.n_items, dtype=torch.bool)
    barred[[5, 6, 8, 12, 21]] = True
    few = [
        [
            position(
                run.model, [i for i, gone in zip(items, row, strict=True) if not gone], each, [*items, 5, 6, 8, 12, 21]
            )
            for each in wanted
        ]
        for row in removed.tolist()
    ]
    assert ranks(run.model, history_of(items), removed, torch.tensor(wanted), barred).tolist() == few
    assert few != expected


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_a_counterfactual_suffices_and_each_part_of_it_is_needed(trained: Any, data: st.DataObject) -> None:
    items = sorted(data.draw(st.sets(st.integers(1, 25), min_size=1, max_size=12)))
    k = data.draw(st.integers(1, 5))
    out = sorted(data.draw(st.sets(st.integers(1, 25), max_size=5)))
    barred = torch.zeros(trained.n_items, dtype=torch.bool)
    barred[out] = True
    never = sorted({*items, *out})
    with torch.no_grad():
        scores = trained.score(history_of(items))[0]
    scores[never] = -torch.inf
    for item in scores.topk(k).indices.tolist():
        found = counterfactual(trained, history_of(items), item, k, barred=barred)
        single = [gone for gone in items if position(trained, [i for i in items if i != gone], item, never) > k]
        if found is None:
            assert not single
            continue
        missing = [items[place] for place in found.tolist()]
        assert position(trained, [i for i in items if i not in missing], item, never) > k
        for back in missing:
            rest = [i for i in items if i not in missing or i == back]
            assert len(missing) == 1 or position(trained, rest, item, never) <= k
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
    assert recommender.unknown.examples == {"never heard of": 1}
    (ranking,) = recommender.recommend([["i1", "i5", "i8"]], k=4)
    assert [(each.item_id, each.score) for each in result.recommendations] == ranking
    model, ids = recommender.model, {item: number for number, item in enumerate(recommender.items)}
    items = sorted(ids[item] for item in ("i1", "i5", "i8"))
    for rank, each in enumerate(result.recommendations, start=1):
        item, scores = ids[each.item_id], scores_of(model, items)
        assert (each.rank, each.name, each.details) == (rank, each.item_id, "")
        expected = []
        for gone in items:
            rest = [one for one in items if one != gone]
            influence = scores[item] - scores_of(model, rest)[item]
            expected.append((influence, recommender.items[gone], position(model, rest, item, items)))
        expected.sort(reverse=True)
        assert [asdict(one) for one in each.influences] == [
            {
                "item_id": name, "name": {"i1": "One"}.get(name, name), "influence": pytest.approx(influence, rel=1e-3, abs=1e-5),
                "rank_without": lower if place < 2 else None,
            }
            for place, (influence, name, lower) in enumerate(expected)
        ]  # fmt: skip
    assert asdict(dataclasses.replace(result, recommendations=[])) == {
        "user": "me", "model": type(model).__name__, "dataset": "tiny", "method": "exact", "k": 4, "searched": True,
        "history": [recommender.items[item] for item in items], "recommendations": [], "by_profile": False,
    }  # fmt: skip
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
    if run.config["model"] != "VampVAE":  # which has nearly the same list for all histories
        assert {each.counterfactual is None for each in result.recommendations} == {True, False}


def test_influences_explain_better_than_chance_popularity_and_cosine(build: Builder) -> None:
    """On MovieLens-100K, by all four measures."""
    run = build(
        "MultDAE", "ml-100k", epochs=20, train_batch_size=100, mlp_hidden_size=[], latent_dimension=100,
        learning_rate=0.005, eval_step=0,
    )  # fmt: skip
    run.trainer.fit(run.train, saved=False, verbose=False)
    model = run.model.eval()
    histories = model.histories[torch.arange(1, 61)]
    orders = {
        "exact": by_influence(), "gradient": by_influence("gradient"), "random": at_random(0),
        "popularity": by_popularity, "cosine": by_cosine,
    }  # fmt: skip
    measured = {name: perturbation(model, histories, order) for name, order in orders.items()}
    for other in ("random", "popularity", "cosine"):
        for method in explain.METHODS:
            assert measured[method]["POS@10"] < measured[other]["POS@10"]
            assert measured[method]["NEG@10"] > measured[other]["NEG@10"]
            assert measured[method]["DEL"] < measured[other]["DEL"]
            assert measured[method]["INS"] > measured[other]["INS"]


def plain_measures(
    model: Any, lists: list[list[int]], order: Any, k: int, steps: int, correction: float = 0.0
) -> dict[str, Any]:
    """The measures by their definitions; ``order`` gives each item of a history its value, for the item that is explained.

    Ranks are by corrected scores, probabilities are the softmax of those without correction; an item always stays.
    """

    def share(rest: list[int]) -> float:
        model.correct_popularity(0.0)
        found = softmax(scores_of(model, rest))[item] / softmax(scores_of(model, items))[item]
        model.correct_popularity(correction)
        return float(found)

    model.correct_popularity(correction)
    found = []
    for items in lists:
        scores = scores_of(model, items)
        item = max({*range(1, 26)} - {*items}, key=lambda each: scores[each])
        best = sorted(items, key=lambda each: -order(each, item))
        shares = []
        for step in range(1, steps):
            count = min(-(-len(items) * step // steps), len(items) - 1)
            most, least, alone = best[count:], best[: len(items) - count], best[:count]
            shares.append([
                position(model, most, item, items) <= k, position(model, least, item, items) <= k,
                share(most), share(alone),
            ])  # fmt: skip
        found.append(np.mean(shares, 0))
    means = np.mean(found, 0)
    return {
        name: pytest.approx(m, rel=1e-5) for name, m in zip((f"POS@{k}", f"NEG@{k}", "DEL", "INS"), means, strict=True)
    }


def scores_of(model: Any, items: list[int]) -> NDArray[np.float64]:
    with torch.no_grad():
        scores: NDArray[np.float64] = model.score(history_of(items))[0].double().numpy()
    return scores


def softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    p: NDArray[np.float64] = np.exp(scores - scores[1:].max())
    p /= p.sum()
    return p


LISTS = [[1, 3, 5, 7, 9, 11], [2, 3, 4, 8], [2, 4, 6, 8, 10], [1, 2, 13, 14, 15]]


def test_the_measures(trained: Any) -> None:
    histories = Histories.from_lists([*LISTS[:2], [9], *LISTS[2:], []])  # those of fewer than two items do not count

    def order(model: Any, history: Histories, item: int) -> Tensor:
        return torch.cos(history.indices.double() + item)

    for k, steps, correction in ((2, 3, 0.0), (2, 4, -0.5), (3, 20, 0.3)):
        trained.correct_popularity(correction)
        measured = perturbation(trained, histories, order, k=k, steps=steps)
        assert measured == plain_measures(trained, LISTS, lambda each, item: np.cos(each + item), k, steps, correction)
        assert len({0.0, 1.0, *measured.values()}) == 6
    with pytest.raises(ConfigError, match="steps: 1 is not allowed; it must be an integer >= 2"):
        perturbation(trained, histories, order, steps=1)
    with pytest.raises(DataError, match="none has two items"):
        perturbation(trained, Histories.from_lists([[9], []]), order)


def test_the_orders(trained: Any) -> None:
    has = np.zeros((61, 26))
    has[trained.histories.rows(), trained.histories.indices.long()] = 1
    cosines = (has.T @ has) / np.maximum(np.linalg.norm(has, axis=0) * np.linalg.norm(has, axis=0)[:, None], 1e-9)
    assert len({*has.sum(0)}) > 2
    for items in LISTS:
        history = history_of(items)
        scores = scores_of(trained, items)
        for item in (12, 21):
            without = [scores[item] - scores_of(trained, [i for i in items if i != each])[item] for each in items]
            for order, expected in (
                (by_popularity, has.sum(0)[items] / 60), (by_cosine, cosines[item, items]),
                (by_influence(), without),
            ):  # fmt: skip
                assert order(trained, history, item).tolist() == pytest.approx(list(expected), abs=1e-5)
    drawn = [order(trained, history_of(range(1, 21)), 21).tolist() for order in map(at_random, (0, 0, 1))]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len({*drawn[0]}) == 20


def test_names_that_several_items_share_have_the_id() -> None:
    file = Path("films.item")
    file.write_text("item_id:token\tbrand:token\n1\tA\n2\tB\n3\tA\n")
    assert read_item_texts(file) == {"1": ItemText("A (1)"), "2": ItemText("B"), "3": ItemText("A (3)")}
    file.write_text("item_id:token\ttitle:token\n1\tA\n3\tA\n")
    assert read_item_texts(file) == {"1": ItemText("A"), "3": ItemText("A")}


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


WHOLE = explain.Explanation(
    "<u>", "M&M", "shop", "exact", 10, True, ["a", "b", "c", "d"],
    [
        explain.Explained(
            1, "x", "<X>", "War & Peace", 1.236,
            [
                explain.Influence("b", "B", 0.5, 37), explain.Influence("a", "<A>", 0.125, 1), explain.Influence("d", "D", 0.1),
                explain.Influence("c", "C", -1.0),
            ],
            ["b", "d"],
        ),
        explain.Explained(
            2, "y", "Y", "", -0.5, [explain.Influence("c", "C", -0.25, 2), explain.Influence("a", "<A>", -0.5)], None,
        ),
    ],
)  # fmt: skip
SENTENCES = [
    [
        "because of B (+0.500) and <A> (+0.125); without B it would fall to rank 37",
        "not among the first 10 without B and D",
    ],
    [
        "no single item of the history raises its score",
        "no items were found without which it would drop out of the first 10",
    ],
]


def test_sentences() -> None:
    assert [[because(each), lost_without(each, WHOLE)] for each in WHOLE.recommendations] == SENTENCES
    first = WHOLE.recommendations[0]
    many = dataclasses.replace(first, counterfactual=list("abcabcabc"))
    assert lost_without(many, WHOLE) == "not among the first 10 without <A>, B, C, <A>, B and 4 more"
    assert lost_without(many, dataclasses.replace(WHOLE, searched=False)) == ""
    for rank, now in ((37, "stay at rank 37"), (40, "rise to rank 37, because others lose more")):
        assert because(dataclasses.replace(first, rank=rank)).endswith(f"; without B it would {now}")


def test_the_text_and_the_page_have_the_numbers_of_the_explanation(capsys: pytest.CaptureFixture[str]) -> None:
    (one, other), (three, four) = SENTENCES
    text = [
        "User <u>, 4 items in the history; M&M on shop, exact influences",
        "  1. <X> [War & Peace], score 1.236", f"     {one}", f"     {other}",
        "  2. Y, score -0.500", f"     {three}", f"     {four}",
        "The sets of items to leave out were found greedily and checked by a full ranking; smaller ones may exist.",
    ]  # fmt: skip
    alone = dataclasses.replace(WHOLE, user="other", history=["zz"], recommendations=[WHOLE.recommendations[1]])
    write([WHOLE, alone], "e.json", "e.html")
    shown = capsys.readouterr().out.splitlines()
    assert shown[: len(text)] == text
    assert [json.loads(line) for line in Path("e.json").read_text().splitlines()] == [asdict(WHOLE), asdict(alone)]

    page = Path("e.html").read_text()
    body = ElementTree.fromstring(page[page.index("<body>") :].replace("</html>", ""))
    section, second = body.iter("section")
    assert section.findtext("h2") == "User <u>"
    assert "M&M, trained on shop, recommends" in body.findtext("div/main/p")  # type: ignore[operator]
    history = section.find("details")
    assert history is not None
    assert list(history.itertext()) == ["History: 4 items", "<A>; B; C; D"]
    found = []
    for article in section.findall("article"):
        sentences = ["".join(each.itertext()) for each in article.findall("p")]
        tables = [[drawn(row) for row in table.findall("tbody/tr")] for table in article.iter("table")]
        found.append(("".join(article.find("h3").itertext()), sentences, tables, article.findtext("details/summary")))  # type: ignore[union-attr]
    # A bar is as wide as its column where the influence is the largest, by size, of the user's recommendations.
    bars = [
        ("B", "+0.500", "37", "bar", 50.0), ("<A>", "+0.125", "1", "bar", 12.5),
        ("D", "+0.100", "", "bar", 10.0), ("C", "−1.000", "", "bar against", 100.0),
    ]  # fmt: skip
    others = [("C", "−0.250", "2", "bar against", 25.0), ("<A>", "−0.500", "", "bar against", 50.0)]
    assert found == [
        (
            "1. <X> War & Peace · score 1.236",
            [f"{other[:1].upper()}{other[1:]}."],
            [bars[:2], bars],
            "All 4 items of the history",
        ),
        (
            "2. Y  · score -0.500",
            [f"{each[:1].upper()}{each[1:]}." for each in (three, four)],
            [others[:1], others],
            "All 2 items of the history",
        ),
    ]
    assert list(second.find("details").itertext()) == ["History: 1 item", "zz"]  # type: ignore[union-attr]
    assert [each.text for each in body.findall("div/main/p")][1:] == text[-1:]
    # A set that a sentence does not name whole can be opened.
    many = dataclasses.replace(WHOLE.recommendations[0], counterfactual=list("abcabcabc"))
    write([dataclasses.replace(WHOLE, recommendations=[many])], None, "many.html")
    page = Path("many.html").read_text()
    opened = ElementTree.fromstring(re.search('<details class="set">.*?</details>', page, re.DOTALL)[0])  # type: ignore[index]
    assert opened.findtext("summary") == "Not among the first 10 without <A>, B, C, <A>, B and 4 more."
    assert [each.text for each in opened.iter("li")] == ["<A>", "B", "C"] * 3
    write([alone], None, "none.html")
    assert "greedily" not in Path("none.html").read_text()


def drawn(row: ElementTree.Element) -> tuple[str | None, str | None, str, str, float]:
    """A row of a table of influences: name, influence, rank without the item, kind and width of the bar."""
    bar, (number,) = row.findall("td/div/i/i")[0], row.iter("span")
    rank = row.findall("td")[1].text or ""
    return (
        row.findtext("th"),
        number.text,
        rank,
        bar.attrib["class"],
        float(bar.attrib["style"].split()[1].removesuffix("%")),
    )


class Page(HTMLParser):
    """Collects what a page shows, and whatever could load something."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.tags, self.open = "", set[str](), list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert not {name for name, _ in attrs} & {"src", "onclick", "srcset"}
        assert all(str(value).startswith(("#", "data:,")) for name, value in attrs if name == "href")
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_command_line(build: Builder, capsys: pytest.CaptureFixture[str]) -> None:
    run = build("MultDAE", learning_rate=0.01)
    run.fit()
    file = f"--checkpoint={run.trainer.saved_model_file}"
    names = {f"i{number}": f'<b>Item & "{number}"</b>' for number in range(25)}
    lines = ["item_id:token\ttitle:token_seq", *(f"{item}\t{name}" for item, name in names.items())]
    Path("data/tiny/tiny.item").write_text("\n".join(lines))
    capsys.readouterr()
    assert main(["explain", file, "--user=u3", "-k", "3", "--html=e.html", "--json=e.json"]) == 0
    shown, said = capsys.readouterr()
    assert said.splitlines()[-2:] == ["e.json: the results as JSON", "e.html: the report, to open in a browser"]
    recommender = recbole_vae.Recommender.load(run.trainer.saved_model_file)
    assert shown.startswith(f"User u3, {len(recommender.history('u3'))} items in the history; MultDAE on tiny, exact")
    (ranking,) = recommender.recommend_users(["u3"], k=3)
    assert re.findall(r"^ +\d\. (.*), score", shown, re.MULTILINE) == [names[item] for item, _ in ranking]
    (line,) = Path("e.json").read_text().splitlines()
    content = json.loads(line)
    assert content["user"] == "u3"
    assert [each["item_id"] for each in content["recommendations"]] == [item for item, _ in ranking]
    assert content["recommendations"][0]["name"] == names[ranking[0][0]]
    page = Page()
    page.feed(Path("e.html").read_text(encoding="utf-8"))
    page.close()
    assert page.open == []
    assert not page.tags & {"b", "script", "img", "iframe"}
    assert names[ranking[0][0]] in page.text

    assert main(["explain", file, "--users=u3, u1", "-k3", "--json=two.json"]) == 0
    first, second = (json.loads(line) for line in Path("two.json").read_text().splitlines())
    assert first == content
    assert (second["user"], len(second["recommendations"])) == ("u1", 3)

    Path("h.csv").write_text("user_id,item_id\na,i1\na,i2\n<i>,i4\n<i>,zz\nnone,zz\n")
    capsys.readouterr()
    options = ["-k=2", "--json=-", "--method=gradient", "--counterfactual=False", "--html=h.html"]
    assert main(["explain", file, "--histories=h.csv", *options]) == 0
    done = capsys.readouterr()
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert [(row["user"], row["method"], len(row["history"])) for row in rows] == [
        ("a", "gradient", 2), ("<i>", "gradient", 1), ("none", "gradient", 0),
    ]  # fmt: skip
    page = Page()
    page.feed(Path("h.html").read_text(encoding="utf-8"))
    assert page.open == []
    assert page.text.count("The history has no item of the training data, so these are the most popular items") == 1
    assert "User none" in page.text
    assert "It is among the most popular" not in page.text
    assert "History: 1 item" in page.text
    assert "found greedily" not in page.text  # nothing was looked for
    assert {each["counterfactual"] for row in rows for each in row["recommendations"]} == {None}
    assert "2 times an item that is not in the training data" in done.err


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
    Path("h.csv").write_text("user_id,item_id\na,i1\nb,i1\na\n")
    file = f"--checkpoint={run.trainer.saved_model_file}"
    assert main(["explain", file, "--histories=h.csv", "--html=e.html", "--json=e.json"]) == 1
    assert "h.csv, line 4" in capsys.readouterr().err
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
@pytest.mark.parametrize("command", ["explain", "latent"])
def test_files_are_written_where_standard_output_cannot_be(build: Builder, command: str) -> None:
    run = build()
    run.fit()
    arguments = [command, f"--checkpoint={run.trainer.saved_model_file}", "--user=u1", "--json=e.json", "--html=e.html"]
    whole = [sys.executable, "-m", "recbole_vae", *arguments]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(whole, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "error: standard output: cannot write: No space left on device.\n")
    there = [Path(name).read_text() for name in ("e.json", "e.html")]
    assert json.loads(there[0])
    assert there[1].endswith("</html>\n")
    for name in ("e.json", "e.html"):
        Path(name).unlink()
    read, written = os.pipe()
    os.close(read)  # nobody reads
    with os.fdopen(written, "w") as pipe:
        done = subprocess.run(whole, stdout=pipe, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0
    assert set(done.stderr.splitlines()) <= {"e.json: the results as JSON", "e.html: the report, to open in a browser"}
    assert [Path(name).read_text() for name in ("e.json", "e.html")] == there
