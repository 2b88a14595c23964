"""How true synthetic users are, against the definitions in NumPy."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.stats import chisquare, ks_2samp

from recbole_vae.analysis import fidelity
from recbole_vae.data.histories import Histories
from recbole_vae.errors import DataError


def clusters(users: int, seed: int, items: int = 40) -> csr_matrix:
    """Users who each have items of one half of the catalogue."""
    rng = np.random.default_rng(seed)
    table = np.zeros((users, items), dtype=np.float32)
    for user in range(users):
        chosen = rng.choice(items // 2, size=rng.integers(5, 12), replace=False)
        table[user, chosen + user % 2 * items // 2] = 1
    return csr_matrix(table)


def test_a_perfect_generator_is_as_true_as_real_users_and_a_caricature_is_not() -> None:
    report = fidelity.truth(clusters(400, 0), clusters(300, 1))
    assert (report.users, report.judges, report.unseen) == (200, 200, False)
    real, synthetic, caricature = report.rows.values()
    assert synthetic.co_occurrence == pytest.approx(real.co_occurrence, abs=0.03)
    assert synthetic.ndcg == pytest.approx(real.ndcg, abs=0.04)
    assert synthetic.length < 0.15
    assert caricature.co_occurrence < 0.3
    assert caricature.ndcg < real.ndcg - 0.1
    assert caricature.length < 0.15
    assert synthetic.copies < 0.02
    other = fidelity.truth(clusters(400, 0), clusters(300, 1), clusters(100, 2))
    assert (other.users, other.judges, other.unseen) == (300, 100, True)
    assert "unseen by the model" in fidelity.text(other)


def skewed(users: int, seed: int, items: int = 510) -> csr_matrix:
    """Users of short and of long histories, with items of all kinds of popularity."""
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(8, items + 8) ** 0.7
    chosen = [rng.choice(items, rng.integers(20, 200), replace=False, p=weights / weights.sum()) for _ in range(users)]
    table = np.zeros((users, items), dtype=np.float32)
    for row, each in zip(table, chosen, strict=True):
        row[each] = 1
    return csr_matrix(table)


Dense = NDArray[np.float64]


def ease_ndcg(side: Dense, given: Dense, wanted: Dense) -> float:
    """NDCG@100 of an EASE, in float64."""
    gram = side.T @ side
    inverse = np.linalg.inv(gram + 3.0 * np.diag(gram).mean() * np.eye(len(gram)))
    weight = -inverse / np.diag(inverse)
    np.fill_diagonal(weight, 0)
    values, discounts = [], 1 / np.log2(np.arange(2, 102))
    for one, two in zip(given, wanted, strict=True):
        scores = np.where(one > 0, -np.inf, one @ weight)
        values.append(two[np.argsort(-scores)[:100]] @ discounts / discounts[: int(two.sum())].sum())
    return float(np.mean(values))


def similarities(side: Dense, others: Dense, itself: NDArray[np.int64] | None = None) -> list[float]:
    """Jaccard similarity of each history to the nearest of the others, without itself among them."""
    sets = [[frozenset(np.flatnonzero(row)) for row in each] for each in (side, others)]
    return [
        max(
            len(one & two) / len(one | two)
            for other, two in enumerate(sets[1])
            if itself is None or other != itself[row]
        )
        for row, one in enumerate(sets[0])
    ]


def plain_truth(side: Dense, judges: Dense, given: Dense, wanted: Dense, similar: list[float]) -> dict[str, Any]:
    """What is said of a side, by its definitions."""
    shares = [each.sum(0) / each.sum() for each in (side, judges)]
    popular = np.argsort(-shares[1], kind="stable")[:500]
    cosines = []
    for each in (side[:, popular], judges[:, popular]):
        normal = each / np.maximum(np.linalg.norm(each, axis=0), 1e-9)
        cosines.append((normal.T @ normal)[np.triu_indices(500, 1)])
    return {
        "popularity": pytest.approx(np.corrcoef(np.array(shares))[0, 1], abs=1e-6),
        "total_variation": pytest.approx(np.abs(shares[0] - shares[1]).sum() / 2, abs=1e-6),
        "length": pytest.approx(ks_2samp(side.sum(1), judges.sum(1)).statistic),
        "co_occurrence": pytest.approx(np.corrcoef(np.array(cosines))[0, 1], abs=1e-6),
        "items": int(side.any(0).sum()),
        "nearest": pytest.approx((np.median(similar), np.quantile(similar, 0.95))),
        "copies": similar.count(1.0) / len(similar),
        "ndcg": pytest.approx(ease_ndcg(side, given, wanted), abs=1e-5),
    }


def watched(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is compared from now on: for each row its histories, the judges, what is given of these, and what is to be found."""
    truth, seen = fidelity._truth, []

    def watching(*given: Any) -> fidelity.Truth:
        seen.append(given)
        return truth(*given)

    monkeypatch.setattr(fidelity, "_truth", watching)
    return seen


@pytest.mark.parametrize("unseen", [False, True])
def test_a_report_is_what_its_definitions_say(unseen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    real, others = skewed(80, 0), skewed(30, 1)
    order = np.random.default_rng(5).permutation(80)
    kinds = {"real": order, "judges": others} if unseen else {"real": order[:40], "judges": real[order[40:]]}
    judges = kinds["judges"].toarray().astype(float)
    made = skewed(60, 2).toarray()
    # An item fewer; and copies of two training users, one of each half.
    made[:, 0], made[:2] = 0, real.toarray()[order[[3, 58]]]
    seen = watched(monkeypatch)
    report = fidelity.truth(real, csr_matrix(made), others if unseen else None, seed=5)

    number = min(len(kinds["real"]), 60)
    assert (report.users, report.judges, report.unseen) == (number, len(judges), unseen)
    assert list(report.rows) == ["real", "synthetic", "popularity"]
    sides = [each[0].toarray().astype(float) for each in seen]
    np.testing.assert_array_equal(sides[0], real.toarray()[kinds["real"][:number]])
    np.testing.assert_array_equal(sides[1], made[:number])
    np.testing.assert_array_equal(sides[2].sum(1), sides[0].sum(1))
    given, wanted = (each.toarray().astype(float) for each in seen[0][2:4])
    np.testing.assert_array_equal(given + wanted, judges)
    np.testing.assert_array_equal(given.sum(1), np.round(0.8 * judges.sum(1)))
    trained_on = real.toarray().astype(float)
    holdout = similarities(judges, trained_on) if unseen else similarities(sides[0], trained_on, order[:number])
    similar = [holdout, similarities(made.astype(float), trained_on), similarities(sides[2], trained_on)]
    for side, arguments, row, nearest in zip(sides, seen, report.rows.values(), similar, strict=True):
        for one, other in zip(arguments[1:4], (judges, given, wanted), strict=True):
            np.testing.assert_array_equal(one.toarray(), other)
        assert asdict(row) == plain_truth(side, judges, given, wanted, nearest)
    assert 0 < report.rows["synthetic"].nearest[1] < 1
    assert report.rows["synthetic"].copies == pytest.approx(2 / 60)
    assert (report.trained_on, report.searched) == (80, 60)


@pytest.mark.parametrize("unseen", [False, True])
@pytest.mark.parametrize("half", [slice(0, 40), slice(40, 80)])
def test_a_generator_that_copies_training_users_is_found_out_whoever_judges(half: slice, unseen: bool) -> None:
    real = skewed(80, 0)
    copied = real[np.random.default_rng(5).permutation(80)[half]]
    rows = fidelity.truth(real, copied, skewed(30, 1) if unseen else None, seed=5).rows
    assert (rows["synthetic"].copies, rows["synthetic"].nearest) == (1.0, (1.0, 1.0))
    assert rows["real"].copies == 0.0
    assert rows["real"].nearest[1] < 0.9


def test_two_real_users_may_have_the_same_history() -> None:
    real = skewed(80, 0).toarray()
    real[40:] = real[:40]
    assert fidelity.truth(csr_matrix(real), skewed(20, 1)).rows["real"].copies == 1.0


def test_the_nearest_are_looked_for_of_the_first_synthetic_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fidelity, "_SEARCHED", 10)
    real, made = skewed(80, 0), skewed(60, 2).toarray()
    made[:5], made[10:] = real.toarray()[:5], real.toarray()[5:55]
    report = fidelity.truth(real, csr_matrix(made))
    assert (report.searched, report.rows["synthetic"].copies) == (10, 0.5)
    monkeypatch.setattr("recbole_vae.nn.chunks.SCORES_PER_CHUNK", 160)
    assert fidelity.truth(real, csr_matrix(made)) == report


def test_a_fifth_of_each_history_is_to_be_found_and_chosen_by_chance() -> None:
    judges = Histories.from_lists([[1], [2, 3], *[[1, 2, 3, 4, 5]] * 3000]).to_scipy(5)
    given, wanted = fidelity._fold(judges, np.random.default_rng(0))
    assert given.shape == wanted.shape == (3001, 5)  # of one item nothing can be found
    assert (given[0].nnz, wanted[0].nnz) == (1, 1)
    np.testing.assert_array_equal((given + wanted).toarray(), judges[1:].toarray())
    np.testing.assert_array_equal(np.diff(wanted.indptr), 1)
    assert chisquare(wanted[1:].toarray().sum(0)).pvalue > 1e-3


def test_the_caricature_is_drawn_by_popularity_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rows = [1 + rng.choice(4, 2, replace=False, p=[0.5, 0.3, 0.15, 0.05]) for _ in range(3000)]
    real = Histories.from_lists(rows).to_scipy(4)
    seen = watched(monkeypatch)
    fidelity.truth(real, real, real[:2])
    p = real.toarray().sum(0, dtype=float) / real.nnz
    pairs = list(combinations(range(4), 2))
    expected = np.array([p[i] * p[j] / (1 - p[i]) + p[j] * p[i] / (1 - p[j]) for i, j in pairs])
    drawn = Counter(tuple(row.indices) for row in seen[2][0])
    assert chisquare([drawn[pair] for pair in pairs], 3000 * expected / expected.sum()).pvalue > 1e-3


def test_the_text_has_the_numbers_of_the_report() -> None:
    rows = {
        name: fidelity.Truth(0.9 - n, 0.1 + n, 0.25 + n, 0.5 + n, 1234 + n, (0.125 + n, 0.75 + n), 0.0123 * n, 0.4321 + n)
        for n, name in enumerate(("real", "synthetic", "popularity"))
    }  # fmt: skip
    report = fidelity.FidelityReport(1500, 20, False, 3000, 2900, rows)
    first, second, head, *lines = fidelity.text(report).splitlines()
    kind = "the other half of the training users, whom the model has seen"
    assert first == f"1,500 users of each kind; judges: 20 real users, {kind}"
    assert second == (
        "Nearest training users and copies: of 2,900 synthetic users, among all 3,000 training users; for comparison, under "
        "real: of each real user, among the other training users"
    )
    assert re.split("  +", head.strip()) == ["real", "synthetic", "by popularity"]
    assert [re.split("  +", line) for line in lines] == [
        ["popularity of the items, correlation with the judges'", "0.9000", "-0.1000", "-1.1000"],
        ["popularity of the items, total variation distance", "0.1000", "1.1000", "2.1000"],
        ["length of the histories, Kolmogorov-Smirnov distance", "0.2500", "1.2500", "2.2500"],
        ["co-occurrence of popular items, correlation", "0.5000", "1.5000", "2.5000"],
        ["items that occur", "1,234", "1,235", "1,236"],
        ["Jaccard similarity to the nearest training user: median, 95 %", "0.125 0.750", "1.125 1.750", "2.125 2.750"],
        ["exact copies of a training user", "0.00%", "1.23%", "2.46%"],
        ["NDCG@100 of an EASE trained on them, on the judges", "0.4321", "1.4321", "2.4321"],
    ]
    assert report.plain() == asdict(report)


def test_too_few_users_are_refused() -> None:
    with pytest.raises(DataError, match="too few users"):
        fidelity.truth(clusters(3, 0), clusters(1, 0))
