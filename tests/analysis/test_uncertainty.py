"""Samples of the posterior: how sure a ranking is, diversified rankings, and the evaluation of both."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
import re
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from recbole_vae.analysis import uncertainty, uncertainty_report
from recbole_vae.analysis.uncertainty import Floats
from recbole_vae.cli.main import main
from recbole_vae.data.dataset import HistoryDataset
from recbole_vae.data.histories import Histories
from recbole_vae.errors import CheckpointError, ConfigError, DataError
from recbole_vae.model.capabilities import Capabilities
from recbole_vae.serving import posterior
from recbole_vae.serving.recommender import Recommender
from tests.conftest import Builder, Run, random_rows, write_inter

NORMAL = stats.norm


@pytest.fixture(params=["MultVAE", "HybridVAE"])
def run(request: pytest.FixtureRequest, build: Builder) -> Run:
    result = build(request.param, learning_rate=0.01)
    result.fit()
    return result


def load(run: Run, **options: Any) -> Recommender:
    return Recommender.load(run.trainer.saved_model_file, **options)


def without_noise(recommender: Recommender) -> Recommender:
    """Make the posterior a point."""
    width = recommender.model.options.latent_dimension
    last = recommender.model.encoder.layers[-1]
    with torch.no_grad():
        last.weight[width:], last.bias[width:] = 0.0, -200.0
    return recommender


class TwoLatents(Capabilities):
    """Item 1 has score 0, item 2 the first latent variable, item 3 the second; independent, of deviation 1."""

    n_items, mu = 4, (0.4, -0.7)
    has_posterior = True

    def comparable_posterior(self, histories: Histories) -> tuple[Tensor, Tensor]:
        mu = torch.tensor(self.mu).repeat(len(histories), 1)
        return mu, torch.zeros_like(mu)

    def score_latent(self, histories: Histories, latent: Tensor) -> Tensor:
        padding, zero = torch.full((len(latent), 1), -torch.inf), torch.zeros(len(latent), 1)
        return torch.cat((padding, zero, latent), dim=1)


def different_histories(number: int) -> Histories:
    return Histories.from_lists([[user + 1] for user in range(number)])


def test_ranks_of_two_latent_variables_are_those_of_the_normal_distribution() -> None:
    samples, model = 4000, TwoLatents()
    nothing = torch.tensor([[True, False, False, False]])
    ranks = posterior.sampled_ranks(model, different_histories(1), torch.tensor([[2, 1]]), nothing, samples)
    above = NORMAL.cdf(model.mu)  # how often item 2, and item 3, score above item 1
    expected = [(1 - above).prod(), 1 - (1 - above).prod() - above.prod(), above.prod()]
    shares = np.bincount(ranks[0, :, 1].numpy() - 1, minlength=3) / samples
    assert shares == pytest.approx(expected, abs=4 * 0.5 / samples**0.5)
    assert min(expected) > 0.05  # so that the interval has all of them
    assert posterior.interval(ranks).tolist()[0][1] == [1, 3]
    # Item 2 is first, or last, where it is above, or below, 0 and item 3: the differences are normal.
    mean = np.array([model.mu[0], model.mu[0] - model.mu[1]])
    first, last = (stats.multivariate_normal(sign * mean, [[1, 1], [1, 2]]).cdf([0, 0]) for sign in (-1, 1))
    overlaps = [first, (1 - last + 1 - above.prod()) / 2]  # at depth 1, and 2
    assert float(posterior.stability(ranks)[0]) == pytest.approx(np.mean(overlaps), abs=0.02)


def test_each_user_has_noise_of_its_own_and_each_place_a_sample() -> None:
    users, model = 4000, TwoLatents()
    histories = different_histories(users)
    mean = model.score_latent(histories, model.comparable_posterior(histories)[0])
    items = posterior.thompson(model, histories, mean, 3, temperature=1.0)
    assert set(items[:, 0].tolist()) == {2}
    second = (items[:, 1] == 1).float().mean()  # item 1 where item 3 is below it
    assert float(second) == pytest.approx(NORMAL.cdf(-model.mu[1]), abs=4 * 0.5 / users**0.5)
    half = posterior.thompson(model, histories, mean, 2, temperature=0.5)
    assert float((half[:, 1] == 1).float().mean()) == pytest.approx(NORMAL.cdf(-model.mu[1] / 0.5), abs=0.035)
    assert (posterior.thompson(model, histories, mean, 3, temperature=0.0) == torch.tensor([2, 1, 3])).all()


@pytest.mark.parametrize(("name", "option"), [("MultVAE", {"kl_length_power": 1.5}), ("CompositeVAE", {})])
def test_users_are_compared_as_if_all_had_the_same_beta(build: Builder, name: str, option: dict[str, float]) -> None:
    model = build(name, **option).model.eval()
    histories = model.histories[torch.tensor([1, 2, 3, 4])]
    lengths = model.histories.lengths()[1:].double().numpy() ** option.get("kl_length_power", 1.0)
    relative = lengths[:4, None] / lengths.mean()
    assert np.ptp(relative) > 0.1
    with torch.no_grad():
        mu, logvar = model.posterior(histories)
        last = logvar - 1.0  # of an encoder that has learned something: variances are below the prior's
        model.posterior = lambda histories: (mu, last)
        found_mu, found = model.comparable_posterior(histories)
    assert torch.equal(found_mu, mu)
    added = np.maximum(np.exp(-last.double().numpy()) - 1, 0)  # precision beyond the prior's
    np.testing.assert_allclose((-found).exp().double().numpy(), 1 + relative * added, rtol=1e-5)


def test_without_noise_all_is_as_at_the_mean(run: Run) -> None:
    recommender = without_noise(load(run, popularity_correction=0.5))
    histories = [recommender.history(user) for user in recommender.users[1:]]
    plain = recommender.recommend(histories, k=6)
    for one, other in zip(plain, recommender.recommend(histories, k=6, samples=7), strict=True):
        assert one == other
        assert other.intervals == [(rank, rank) for rank in range(1, 7)]
        assert other.stability == 1.0
        assert 0 < (other.expected_ndcg or 0.0) < 1
        assert (one.intervals, one.stability, one.expected_ndcg) == (None, None, None)
    assert recommender.recommend(histories, k=6, diversify=3.0) == plain


def test_stability_is_the_overlap_with_sampled_lists_and_intervals_are_quantiles(run: Run) -> None:
    recommender = load(run)
    history, samples, k = ["i0", "i3", "i4"], 30, 5
    (ranking,) = recommender.recommend([history], k=k, samples=samples, seed=3)
    one = Histories.from_lists([recommender.known(history)])
    lists, ranks = [], []
    for scores in posterior.sampled_scores(recommender.model, one, samples, seed=3):
        scores[0, one.indices] = -torch.inf
        order = scores[0].argsort(descending=True).tolist()
        lists.append([recommender.items[item] for item in order[:k]])
        ranks.append([order.index(next(iter(recommender.known([item])))) + 1 for item, _ in ranking])
    overlaps = [
        len({*items_of(ranking)[:depth]} & {*each[:depth]}) / depth for each in lists for depth in range(1, k + 1)
    ]
    assert 0 < np.mean(overlaps) < 1
    assert ranking.stability == pytest.approx(np.mean(overlaps))
    low = np.quantile(np.array(ranks), 0.05, axis=0, method="lower").tolist()
    high = np.quantile(np.array(ranks), 0.95, axis=0, method="higher").tolist()
    assert ranking.intervals == list(zip(low, high, strict=True))


def test_the_noise_is_of_the_user_and_the_seed_alone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    recommender = load(run)
    users = recommender.users[1:]
    found = recommender.recommend_users(users, k=6, samples=9, seed=5)
    lists = recommender.recommend_users(users, k=6, diversify=1.5, seed=5)
    assert [each.intervals for each in found] != [
        each.intervals for each in recommender.recommend_users(users, k=6, samples=9, seed=6)
    ]
    assert [items_of(each) for each in lists] != [
        items_of(each) for each in recommender.recommend_users(users, k=6, diversify=1.5, seed=6)
    ]
    for chunk in (1, 200):
        monkeypatch.setattr("recbole_vae.nn.chunks.SCORES_PER_CHUNK", chunk)
        again = recommender.recommend_users(users[::-1], k=6, samples=9, seed=5)[::-1]
        for one, other in zip(found, again, strict=True):
            assert (one.intervals, one.stability) == (other.intervals, other.stability)
            assert one.expected_ndcg == pytest.approx(other.expected_ndcg)
        again = recommender.recommend_users(users[::-1], k=6, diversify=1.5, seed=5)[::-1]
        assert [items_of(each) for each in lists] == [items_of(each) for each in again]


def items_of(ranking: Any) -> list[str]:
    return [item for item, _ in ranking]


def test_a_diversified_list_has_nothing_twice_and_nothing_barred(run: Run) -> None:
    recommender = load(run)
    for user in recommender.users[1:]:
        history = recommender.history(user)
        (ranking,) = recommender.recommend([history], k=1000, diversify=2.0)
        plain = dict(recommender.recommend([history], k=1000)[0])
        assert len(ranking) == len(set(items_of(ranking))) == len(recommender.items) - 1 - len(history)
        assert dict(ranking) == pytest.approx(plain)  # scores are those at the mean
        assert ranking[0][0] == max(plain, key=lambda item: plain[item])
    few = recommender.recommend([["i0"]], k=5, candidates=["i1", "i2", "i0"], diversify=2.0)[0]
    assert set(items_of(few)) == {"i1", "i2"}
    few = recommender.recommend([["i0"]], k=5, candidates=["i1", "i2", "i0"], samples=5)[0]
    assert 0.8 <= (few.stability or 0.0) <= 1.0  # only the first place may differ
    assert len(few.intervals or ()) == 2


def test_a_history_of_nothing_gets_the_popular_items_without_intervals(run: Run) -> None:
    recommender = load(run)
    for options in ({"samples": 4}, {"diversify": 1.0}):
        empty, some = recommender.recommend([[], ["i1"]], k=3, **options)
        assert empty == recommender.recommend([[]], k=3)[0]
        assert (empty.intervals, empty.stability, empty.expected_ndcg) == (None, None, None)
        assert (some.intervals is None) == ("samples" not in options)
        assert recommender.recommend([[]], k=3, **options) == [empty]


def test_expected_ndcg_is_the_mean_over_all_draws() -> None:
    scores = torch.tensor([[-torch.inf, 1.0, 0.3, -0.5, 0.0], [-torch.inf, 5.0, -torch.inf, -5.0, 1.0]])
    lengths, k = torch.tensor([16, 24]), 3
    expected = []
    for row, length in zip(scores, lengths.tolist(), strict=True):
        p, draws = row.softmax(0).double().numpy(), round(length * posterior.TO_COME)
        best, gains = row.argsort(descending=True)[:k].tolist(), 1 / np.log2(np.arange(2, k + 2))
        total = 0.0
        for drawn in itertools.product(range(5), repeat=draws):
            total += p[list(drawn)].prod() * sum(gain for item, gain in zip(best, gains, strict=True) if item in drawn)
        expected.append(total / gains[: min(draws, k)].sum())
    items = scores.topk(k).indices
    assert posterior.expected_ndcg(scores, items, lengths).tolist() == pytest.approx(expected, rel=1e-5)
    certain = torch.tensor([[-torch.inf, 0.0, -torch.inf]])
    assert posterior.expected_ndcg(certain, torch.tensor([[1]]), torch.tensor([1])).tolist() == pytest.approx([1.0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": -1}, "samples: -1 is not allowed; it must be an integer >= 0"),
        ({"samples": 2.5}, "samples: 2.5 is not allowed"),
        ({"samples": 2, "seed": -1}, "seed: -1 is not allowed"),
        ({"diversify": -0.5}, "diversify: -0.5 is not allowed; it must be a number >= 0"),
        ({"diversify": float("nan")}, "diversify: nan is not allowed"),
        ({"diversify": 1e39}, "diversify: 1e\\+39 is not allowed; it must be a number >= 0 and <= 1000"),
        ({"samples": 2, "diversify": 1.0}, "samples and diversify cannot be given together"),
    ],
)
def test_values_that_are_not_allowed(build: Builder, options: dict[str, Any], message: str) -> None:
    run = build()
    run.fit()
    with pytest.raises(ConfigError, match=f"^{message}"):
        load(run).recommend([["i1"]], **options)


def test_a_model_without_a_posterior_is_refused_by_name(build: Builder) -> None:
    run = build("MultDAE")
    run.fit()
    for options in ({"samples": 3}, {"diversify": 1.0}):
        with pytest.raises(ConfigError, match="^MultDAE has no posterior: it encodes each history as a single point"):
            load(run).recommend([["i1"]], **options)
    with pytest.raises(ConfigError, match="^MultDAE has no posterior"):
        uncertainty.evaluate(run.trainer.saved_model_file)
    report = uncertainty.evaluate(run.trainer.saved_model_file, samples=0)
    assert "stability" not in {order.name for order in report.orders}


values = st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1)), min_size=1, max_size=5)


@settings(deadline=None, max_examples=50)
@given(values)
def test_risk_and_coverage_are_the_mean_over_all_ways_to_break_ties(pairs: list[tuple[int, float]]) -> None:
    uncertain, quality = (np.array(each, float) for each in zip(*pairs, strict=True))
    curves = []
    for order in itertools.permutations(range(len(pairs))):
        if list(uncertain[list(order)]) == sorted(uncertain):
            curves.append(1 - np.cumsum(quality[list(order)]) / np.arange(1, len(pairs) + 1))
    expected = np.mean(curves, axis=0)
    assert uncertainty.risk_coverage(uncertain, quality) == pytest.approx(expected, abs=1e-12)
    order_of = uncertainty.order_by("x", uncertain, quality)
    assert order_of.area == pytest.approx(expected.mean())
    assert order_of.risks[-1] == pytest.approx(1 - quality.mean())


def test_an_order_against_other_computations() -> None:
    rng = np.random.default_rng(0)
    length = rng.integers(5, 40, 300).astype(float)
    uncertain, quality = rng.normal(size=300) - length / 20, rng.random(300) + length / 40
    order = uncertainty.order_by("x", uncertain, quality, (length,))
    assert (order.spearman, order.p_value) == pytest.approx(tuple(stats.spearmanr(uncertain, quality)))
    table = stats.spearmanr(np.column_stack([uncertain, quality, length])).statistic
    first = (table[0, 1] - table[0, 2] * table[1, 2]) / np.sqrt((1 - table[0, 2] ** 2) * (1 - table[1, 2] ** 2))
    assert order.partial == pytest.approx(first)
    best = quality[np.argsort(uncertain)]
    assert order.tenths == pytest.approx(best.reshape(10, 30).mean(1))
    assert order.risks == pytest.approx([1 - best[: 3 * percent].mean() for percent in range(1, 101)])
    itself = uncertainty.order_by("x", -length, quality, (length,))
    assert itself.partial is None
    assert uncertainty.order_by("x", np.ones(4), np.arange(4.0)).spearman is None


def test_diversity_is_that_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    table = rng.random((12, 7)) < 0.4
    table[:, 0] = table[:, 6] = False  # the padding, and an item that nobody has
    histories = Histories.from_lists([np.flatnonzero(row).tolist() for row in table])
    lists = torch.tensor([[1, 2, 3], [4, 6, 1], [5, 2, 4]])
    expected = []
    for each in lists.tolist():
        cosines = [
            (table[:, a] & table[:, b]).sum() / max(1e-9, np.sqrt(table[:, a].sum() * table[:, b].sum()))
            for a, b in itertools.combinations(each, 2)
        ]
        expected.append(1 - np.mean(cosines))
    assert uncertainty.intra_list_diversity(lists, histories, 7) == pytest.approx(expected)
    monkeypatch.setattr("recbole_vae.nn.chunks.SCORES_PER_CHUNK", 1)
    assert uncertainty.intra_list_diversity(lists, histories, 7) == pytest.approx(expected)


class Reader:
    """What is asked of a user, and the answers, one user after the other and in float64."""

    def __init__(self, model: Any, history: list[int], seen: list[int], relevant: list[int], k: int) -> None:
        self.model, self.seen, self.relevant, self.k = model, seen, set(relevant), k
        self.history, self.one = history, Histories.from_lists([history])
        with torch.no_grad():
            self.scores = self.open(model.score(self.one)[0])
        self.plain: list[int] = np.argsort(-self.scores)[:k].tolist()
        gains = 1 / np.log2(np.arange(2, k + 2))
        self.gain = dict(enumerate(gains))
        self.ideal = {number: gains[:number].sum() for number in range(1, k + 1)}

    def open(self, scores: Tensor) -> Floats:
        """Bar what was seen."""
        values = scores.double().numpy().copy()
        values[self.seen] = -np.inf
        return values

    def samples(self, number: int, seed: int, temperature: float = 1.0) -> list[Floats]:
        drawn = posterior.sampled_scores(self.model, self.one, number, seed=seed, temperature=temperature)
        return [self.open(each[0]) for each in drawn]

    def ndcg(self, items: list[int]) -> float:
        found = sum(self.gain[place] for place, item in enumerate(items) if item in self.relevant)
        return float(found / self.ideal[min(self.k, len(self.relevant))])

    def drawn(self, spread: float, seed: int) -> list[int]:
        """The first item is the plain list's, each other the best of a sample of its own."""
        if not spread:
            return self.plain
        items = self.plain[:1]
        for scores in self.samples(self.k - 1, seed, spread):
            items.append(next(item for item in np.argsort(-scores).tolist() if item not in items))
        return items

    def uncertainties(self, samples: int, seed: int) -> dict[str, float]:
        p = np.exp(self.scores - self.scores.max())
        p /= p.sum()
        to_come = max(1.0, len(self.history) / 8)
        hits = sum(self.gain[place] * (1 - (1 - p[item]) ** to_come) for place, item in enumerate(self.plain))
        found = {
            "length of the history": -len(self.history),
            "expected NDCG": -hits / self.ideal[min(self.k, round(to_come))],
            "entropy of the softmax": -(p[p > 0] * np.log(p[p > 0])).sum(),
            "largest probability": -np.log(p.max()),
        }
        lists = [np.argsort(-scores)[: self.k].tolist() for scores in self.samples(samples, seed)]
        depths = range(1, self.k + 1)
        overlaps = [len({*self.plain[:depth]} & {*each[:depth]}) / depth for each in lists for depth in depths]
        return found | ({"stability": -np.mean(overlaps)} if samples else {})


def plain_order(uncertain: Floats, quality: Floats, given: list[Floats]) -> dict[str, Any]:
    """What is said of an order, by its definitions; ties are broken in all ways at once."""
    ordered = np.concatenate(
        [[quality[uncertain == each].mean()] * (uncertain == each).sum() for each in sorted({*uncertain})]
    )
    number = len(ordered)
    risks = [1 - ordered[:count].mean() for count in range(1, number + 1)]
    sizes = [number // 10 + (tenth < number % 10) for tenth in range(10)]
    tenths = [part.mean() for part in np.split(ordered, np.cumsum(sizes)[:-1])]
    spearman = stats.spearmanr(uncertain, quality)
    # The partial correlation is of the inverse of the table of correlations.
    table = stats.spearmanr(np.column_stack([uncertain, quality, *given])).statistic
    partial = None
    if abs(np.linalg.det(table)) > 1e-9:
        inverse = np.linalg.inv(table)
        partial = -inverse[0, 1] / np.sqrt(inverse[0, 0] * inverse[1, 1])
    return {
        "spearman": spearman.statistic, "p_value": spearman.pvalue, "partial": partial, "area": np.mean(risks),
        "tenths": tenths, "risks": [risks[-(-percent * number // 100) - 1] for percent in range(1, 101)],
    }  # fmt: skip


def mean_diversity(lists: list[list[int]], has: Floats) -> float:
    """Mean of 1 - cosine over the pairs of each list; ``has``: users x items."""
    lengths = np.maximum(np.sqrt(has.sum(0)), 1e-9)
    pairs = [[has[:, a] @ has[:, b] / lengths[a] / lengths[b] for a, b in itertools.combinations(e, 2)] for e in lists]
    return float(1 - np.mean(pairs))


@pytest.mark.parametrize("held_out", [False, True])
# With 8 samples and lists of 2, stabilities are sums of powers of 2: those that tie do so exactly.
@pytest.mark.parametrize(("part", "k", "samples"), [("valid", 2, 8), ("test", 5, 0)])
def test_a_report_is_what_its_definitions_say(
    build: Builder, held_out: bool, part: str, k: int, samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(1)
    rows = [(f"u{u}", f"i{i}") for u in range(60) for i in rng.choice(30, rng.integers(8, 26), replace=False)]
    options: dict[str, Any] = {"metrics": ["NDCG"], "topk": [k], "valid_metric": f"NDCG@{k}", "metric_decimal_place": 9}
    split = {"HU": [25, 25]} if held_out else {"RS": [0.6, 0.2, 0.2]}
    options["eval_args"] = {"split": split, "order": "RO", "mode": "full"}
    if held_out:
        options["eval_args"] |= {"fold_in": 0.7, "min_items": 5}
    run = build(dataset="uneven", data_path=write_inter(rows, "uneven"), **options)
    for parameter in run.model.parameters():  # scores that are far apart
        torch.nn.init.normal_(parameter, std=0.7)
    run.fit()
    path, loader = run.trainer.saved_model_file, getattr(run, part)
    monkeypatch.setattr("recbole_vae.nn.chunks.SCORES_PER_CHUNK", 250)  # batches of 8 users
    there = sorted(Path().rglob("*"))
    for file in Path("saved").glob("*.split.csv.gz"):
        file.unlink()
        there.remove(file)
    report = uncertainty.evaluate(path, k=k, samples=samples, part=part, diversify=[0.5, 2.0], seed=3)
    assert sorted(Path().rglob("*")) == there  # nothing was written
    expected = run.trainer.evaluate(loader, model_file=path)[f"ndcg@{k}"]

    model = load(run).model
    table = model.histories if loader.fold_in is None else loader.fold_in
    readers = []
    for user in loader.uid_list.tolist():
        history = table.slice(user, user + 1).indices.tolist()
        seen, relevant = (rows[user].tolist() for rows in (loader.uid2history_item, loader.uid2positive_item))
        readers.append(Reader(model, history, seen, relevant, k))
    quality = np.array([each.ndcg(each.plain) for each in readers])
    given = [np.array([len(each.history) for each in readers]), np.array([len(each.relevant) for each in readers])]
    assert quality.mean() == pytest.approx(expected, abs=1e-8)
    columns = [each.uncertainties(samples, 3) for each in readers]
    orders = {
        name: plain_order(np.array([each[name] for each in columns]), quality, given) for name in columns[0]
    }  # fmt: skip
    assert {order.name: asdict(order) for order in report.orders} == {
        name: {"name": name} | {key: value if value is None else pytest.approx(value, abs=1e-6) for key, value in each.items()}
        for name, each in orders.items()
    }  # fmt: skip
    assert [order.name for order in report.orders] == sorted(orders, key=lambda name: orders[name]["area"])
    has = np.zeros((len(model.histories), model.n_items))
    has[model.histories.rows(), model.histories.indices.long()] = 1
    lists = {spread: [each.drawn(spread, 3) for each in readers] for spread in (0.0, 0.5, 2.0)}
    assert [asdict(each) for each in report.lists] == [
        {
            "diversify": spread,
            "ndcg": pytest.approx(np.mean([one.ndcg(items) for one, items in zip(readers, each, strict=True)])),
            "diversity": pytest.approx(mean_diversity(each, has)),
            "coverage": len(set().union(*each)) / 30,
        }
        for spread, each in lists.items()
    ]
    best = plain_order(-quality, quality, given)["area"]
    assert asdict(dataclasses.replace(report, orders=[], lists=[])) == {
        "model": "MultVAE", "dataset": "uneven", "part": part, "k": k, "samples": samples, "seed": 3,
        "users": len(readers), "ndcg": pytest.approx(quality.mean()), "best_area": pytest.approx(best),
        "orders": [], "lists": [],
    }  # fmt: skip


def test_other_data_and_none_are_named(build: Builder) -> None:
    run = build()
    run.fit()
    path = run.trainer.saved_model_file
    moved = shutil.move("data", "elsewhere")
    with pytest.raises(
        DataError, match="^dataset: there is no folder data/tiny, where the data set of .* is looked for"
    ):
        uncertainty.evaluate(path, samples=0)
    report = uncertainty.evaluate(path, samples=0, data_path=moved)
    assert report.users
    with pytest.raises(CheckpointError, match="other interactions|have other"):
        uncertainty.evaluate(path, samples=0, data_path=write_inter(random_rows(seed=1), folder="other"))
    with pytest.raises(ConfigError, match="^k: 26 is not allowed; the data set has 25 items"):
        uncertainty.evaluate(path, k=26, samples=0, data_path=moved)
    with pytest.raises(ConfigError, match="^part: 'train' is not allowed; it must be valid or test"):
        uncertainty.evaluate(path, part="train")
    with pytest.raises(ConfigError, match="^diversify: -1.0 is not allowed"):
        uncertainty.evaluate(path, data_path=moved, diversify=[-1.0])


def test_nothing_is_downloaded_in_place_of_the_data(build: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    run = build(dataset="ml-1m", data_path=write_inter(random_rows(), name="ml-1m"))
    run.fit()
    monkeypatch.setattr(HistoryDataset, "_download", lambda self: pytest.fail("RecBole knows ml-1m"))
    with pytest.raises(DataError, match=r"^dataset: there is no folder gone/ml-1m, .* holds ml-1m/ml-1m\.inter\.$"):
        uncertainty.evaluate(run.trainer.saved_model_file, samples=0, data_path="gone")


def test_per_ndcg() -> None:
    plain = uncertainty.Lists(0.0, 0.5, 0.6, 0.1)
    assert uncertainty.per_ndcg(plain, uncertainty.Lists(1.0, 0.4, 0.8, 0.1)) == pytest.approx(2.0)
    assert uncertainty.per_ndcg(plain, plain) is None


RISKS = [[0.2 + 0.003 * percent for percent in range(1, 101)], [0.58 - 8e-6 * percent**2 for percent in range(1, 101)]]
REPORT = uncertainty.UncertaintyReport(
    "M&M", "shop", "test", 7, 12, 3, 345, 0.5625, 0.1234,
    [
        uncertainty.Order("a < b", -0.25, 3e-12, -0.125, 0.35, [0.9, *[0.85] * 8, 0.1 + 0.7], RISKS[0]),
        uncertainty.Order("luck", None, None, None, 0.275, [0.6, *[0.55] * 8, 0.5], RISKS[1]),
        uncertainty.Order("sure", 0.5, 1e-120, 0.0625, 0.4, [0.45, *[0.5] * 8, 0.55], RISKS[0]),
    ],
    [
        uncertainty.Lists(0.0, 0.5, 0.61, 0.2),
        uncertainty.Lists(0.5, 0.4, 0.86, 0.375),
        uncertainty.Lists(2.0, 0.55, 0.9, 1.0),
    ],
)  # fmt: skip
CAPTION = "M&M on shop, test part: 345 users, NDCG@7 0.5625, 12 samples of the posterior"
ORDERS = [
    ["users sorted by", "Spearman", "p", "partial", "area"],
    ["a < b", "-0.250", "3e-12", "-0.125", "0.3500"],
    ["luck", "", "", "", "0.2750"],
    ["sure", "+0.500", "<1e-99", "+0.062", "0.4000"],
    ["chance (a random order)", "", "", "", "0.4375"],
    ["their true NDCG (the best order)", "", "", "", "0.1234"],
]
DECILES = [
    ["users sorted by", *map(str, range(1, 11))],
    ["a < b", "0.900", *["0.850"] * 8, "0.800"],
    ["luck", "0.600", *["0.550"] * 8, "0.500"],
    ["sure", "0.450", *["0.500"] * 8, "0.550"],
]
BY_DECILE = "NDCG@7 by decile of the users, the most certain first"
LISTS = [
    ["diversify", "NDCG@7", "lost", "diversity", "gained", "gained / lost", "items covered"],
    ["0", "0.5000", "0.0000", "0.6100", "0.0000", "", "0.200"],
    ["0.5", "0.4000", "0.1000", "0.8600", "0.2500", "2.5", "0.375"],
    ["2", "0.5500", "-0.0500", "0.9000", "0.2900", "", "1.000"],
]


def test_the_page_and_the_text_have_the_numbers_of_the_report() -> None:
    page = uncertainty_report.as_html(REPORT)
    body = ElementTree.fromstring(page[page.index("<body>") :].replace("</html>", ""))
    first, second = (body.findall("div/main/p")[place].text for place in (0, 1))
    assert first == (
        "Sorted by a < b, the most certain decile of the users has an NDCG@7 of 0.900, and the least certain decile 0.800. "
        "Its curve lies 28% of the way from chance to the best order."
    )
    assert second == f"{CAPTION}."
    grids = [
        [[(cell.text or "").replace("−", "-") for cell in row] for row in table.iter("tr")]
        for table in body.iter("table")
    ]
    tables = dict(zip([each.text for each in body.iter("h2")][1:], grids, strict=True))
    assert tables == {"Orders of the users": ORDERS, BY_DECILE: DECILES, "Lists drawn from the posterior": LISTS}
    assert "<script" not in page
    assert "default-src 'none'" in page
    blocks = uncertainty_report.as_text(REPORT).split("\n\n")
    assert [block.splitlines()[0] for block in blocks[:3]] == [CAPTION, BY_DECILE, "Lists drawn from the posterior"]
    for block, rows in zip(blocks, (ORDERS, DECILES, LISTS), strict=False):
        assert [line.split() for line in block.splitlines()[1:]] == [" ".join(row).split() for row in rows]
    plain = dataclasses.replace(REPORT, samples=0, lists=[])
    assert "samples" not in uncertainty_report.as_text(plain)
    assert uncertainty_report.as_html(plain).count("<table>") == 2
    assert json.loads(uncertainty_report.as_json(REPORT)) == asdict(REPORT)


def test_the_curves_are_the_risks() -> None:
    page = uncertainty_report.as_html(REPORT)
    drawing = ElementTree.fromstring(re.search('(<svg[^>]*role="img".*?</svg>)', page, re.DOTALL)[1])  # type: ignore[index]
    keys = [ElementTree.fromstring(each) for each in re.findall('<span class="key">.*?</span>', page)]
    low, high = 0.2, 0.6
    # The area of the curves, in the units of the drawing: from 0 to 100 %, and from tick to tick around the risks.
    left, right, bottom, top = 56, 640 - 24, 340 - 56, 24
    curves, texts = drawing.findall("polyline"), drawing.findall("text")
    for curve, order, key in zip(curves, REPORT.orders, keys, strict=False):
        points = np.array([list(map(float, point.split(","))) for point in curve.attrib["points"].split()])
        expected = [
            (left + (right - left) * percent / 100, bottom + (top - bottom) * (risk - low) / (high - low))
            for percent, risk in enumerate(order.risks, start=1)
        ]
        np.testing.assert_allclose(points, expected, atol=0.051)
        (swatch,) = key.iter("line")
        assert (swatch.tail or next(key.iter("svg")).tail) == order.name
        assert swatch.attrib["stroke"] == curve.attrib["stroke"]
    assert len({curve.attrib["stroke"] for curve in curves}) == len(curves) == len(keys) == 4
    height = bottom + (top - bottom) * (1 - REPORT.ndcg - low) / (high - low)
    assert curves[3].attrib["points"] == f"{left:.1f},{height:.1f} {right:.1f},{height:.1f}"
    assert next(keys[3].iter("svg")).tail == "chance (a random order)"
    assert [text.text for text in texts[:2]] == [
        "share of the users, the most certain first",
        "risk: mean of 1 - NDCG@7",
    ]
    ticks = {text.text: (float(text.attrib["x"]), float(text.attrib["y"])) for text in texts[2:12]}
    for place, risk in enumerate(("0.20", "0.30", "0.40", "0.50", "0.60")):
        assert ticks[risk][1] == pytest.approx(bottom + (top - bottom) * place / 4, abs=0.06)
        assert ticks[f"{25 * place} %"][0] == pytest.approx(left + (right - left) * place / 4)


def test_pages_show_in_a_notebook() -> None:
    shown = uncertainty_report.as_html(REPORT)._repr_html_()
    frame = ElementTree.fromstring(shown)
    assert frame.tag == "iframe"
    assert frame.attrib["srcdoc"] == " ".join(uncertainty_report.as_html(REPORT).split("\n"))


def test_the_command_line(build: Builder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    run = build(learning_rate=0.01)
    run.fit()
    path = run.trainer.saved_model_file
    file = f"--checkpoint={path}"
    capsys.readouterr()
    monkeypatch.setattr(sys, "stdin", io.StringIO("user_id,item_id\na,i1\na,i2\nnone,zz\n"))
    assert main(["recommend", file, "--histories=-", "-k=2", "--samples=5"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert list(rows[0])[:4] == ["user_id", "rank", "item_id", "score"]
    (ranking,) = load(run).recommend([["i1", "i2"]], k=2, samples=5)
    assert [(int(row["rank_low"]), int(row["rank_high"])) for row in rows[:2]] == ranking.intervals
    for row in rows[:2]:
        assert float(row["stability"]) == pytest.approx(ranking.stability, rel=1e-3)
        assert float(row["expected_ndcg"]) == pytest.approx(ranking.expected_ndcg, rel=1e-3)
    assert {tuple(list(row.values())[4:]) for row in rows[2:]} == {("",) * 4}

    assert main(["recommend", file, "--users=u3", "-k=5", "--diversify=2", "--seed=4", "--out=o.csv"]) == 0
    rows = list(csv.DictReader(Path("o.csv").read_text().splitlines()))
    (ranking,) = load(run).recommend_users(["u3"], k=5, diversify=2.0, seed=4)
    assert [row["item_id"] for row in rows] == items_of(ranking)
    assert list(rows[0]) == ["user_id", "rank", "item_id", "score"]

    capsys.readouterr()
    options = ["--samples=5", "-k=4", "--diversify=0.5,1", "--part=valid", "--seed=2"]
    assert main(["uncertainty", file, *options, "--json=u.json", "--html=u.html"]) == 0
    report = uncertainty.evaluate(path, k=4, samples=5, seed=2, part="valid", diversify=[0.5, 1.0])
    assert capsys.readouterr().out == uncertainty_report.as_text(report) + "\n"
    assert Path("u.json").read_text() == uncertainty_report.as_json(report)
    assert Path("u.html").read_text() == uncertainty_report.as_html(report)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["recommend", "--checkpoint=no.pth", "--samples=many"], "samples: 'many' (command line) is not allowed; it must"),
        (["recommend", "--checkpoint=no.pth", "--diversify=much"], "diversify: 'much' (command line) is not allowed"),
        (["recommend", "--checkpoint=no.pth", "--diversify=1e39"], "diversify: '1e39' (command line) is not allowed; it must be"),
        (["recommend", "--checkpoint=no.pth", "--seed=-1"], "seed: '-1' (command line) is not allowed"),
        (["uncertainty"], "--checkpoint (command line) is missing"),
        (["uncertainty", "--checkpoint=no.pth"], "no.pth: there is no such checkpoint."),
        (["uncertainty", "--checkpoint=no.pth", "-k=1"], "k: '1' (command line) is not allowed; it must be an integer >= 2"),
        (["uncertainty", "--checkpoint=no.pth", "--diversify=1,b"], "diversify: 'b' (command line) is not allowed"),
        (["uncertainty", "--checkpoint=no.pth", "--part=train"], "part: 'train' (command line) is not allowed; it must be"),
        (["uncertainty", "--checkpoint=no.pth", "--html=gone/u.html"], "--html=gone/u.html (command line): there is no"),
        (["uncertainty", "--checkpoint=no.pth", "--json=a", "--html=./a"], "--json and --html (command line) cannot be the same"),
        (["uncertainty", "--checkpoint=no.pth", "--sample=3"], "--sample (command line): uncertainty has no such option; did"),
    ],
)  # fmt: skip
def test_mistakes_are_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) in (1, 2)
    assert capsys.readouterr().err.startswith(f"error: {message}")
