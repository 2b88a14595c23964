"""Ranks over cells: by the numbers that Demsar (2006) published, by SciPy and statsmodels, and by loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from recbole_vae.compare import ranks, statistics

AUC = np.array([
    [0.763, 0.768, 0.771, 0.798], [0.599, 0.591, 0.590, 0.569], [0.954, 0.971, 0.968, 0.967], [0.628, 0.661, 0.654, 0.657],
    [0.882, 0.888, 0.886, 0.898], [0.936, 0.931, 0.916, 0.931], [0.661, 0.668, 0.609, 0.685], [0.583, 0.583, 0.563, 0.625],
    [0.775, 0.838, 0.866, 0.875], [1.000, 1.000, 1.000, 1.000], [0.940, 0.962, 0.965, 0.962], [0.619, 0.666, 0.614, 0.669],
    [0.972, 0.981, 0.975, 0.973], [0.957, 0.978, 0.946, 0.970],
])  # fmt: skip
"""Demsar's table 6: four classifiers (C4.5, C4.5+m, C4.5+cf, C4.5+m+cf) on fourteen data sets."""

Q = [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]
"""Demsar's table 5 (a): q at 0.05 for 2 to 10 classifiers."""


def test_the_published_example() -> None:
    found = ranks.friedman(AUC)
    assert found.mean_ranks.round(3).tolist() == [3.143, 2.0, 2.893, 1.964]
    # The paper's statistic has no correction for ties: three pairs of equals, and four of them once.
    ties = 1 - (3 * (2**3 - 2) + 4**3 - 4) / (14 * 4 * (4**2 - 1))
    assert found.chi2 * ties == pytest.approx(9.28, abs=0.005)
    assert pytest.approx(3.69, abs=0.005) == 13 * 9.28 / (14 * 3 - 9.28)
    assert found.f == pytest.approx(13 * found.chi2 / (14 * 3 - found.chi2))
    assert found.p_f == pytest.approx(1 - stats.f.cdf(found.f, 3, 39))
    assert found.p == pytest.approx(stats.friedmanchisquare(*AUC.T).pvalue)
    assert found.critical == pytest.approx(1.25, abs=0.005)
    assert ranks.nemenyi(4, 14, 0.10) == pytest.approx(1.12, abs=0.005)
    assert found.rough  # four models


@pytest.mark.parametrize(("models", "q"), list(enumerate(Q, start=2)))
def test_the_critical_values_are_the_published_ones(models: int, q: float) -> None:
    assert ranks.nemenyi(models, 10, 0.05) == pytest.approx(q * (models * (models + 1) / 60) ** 0.5, abs=0.001)


def test_equal_models_and_cells_that_agree() -> None:
    same = ranks.friedman(np.ones((4, 3)))
    assert (same.chi2, same.p, same.mean_ranks.tolist()) == (0.0, 1.0, [2.0, 2.0, 2.0])
    agree = ranks.friedman(np.tile([0.3, 0.2, 0.1], (5, 1)))
    assert agree.chi2 == pytest.approx(10.0)
    assert np.isnan(agree.f)


def test_groups_are_the_largest_without_a_difference() -> None:
    assert ranks.groups([3.143, 2.0, 2.893, 1.964], 1.25) == [[3, 1, 2, 0]]
    assert ranks.groups([1.0, 1.9, 2.8, 6.0, 6.5], 1.0) == [[0, 1], [1, 2], [3, 4]]
    assert ranks.groups([1.0, 1.5, 1.9, 2.2], 1.0) == [[0, 1, 2], [1, 2, 3]]
    assert ranks.groups([1.0, 3.0], 1.0) == []


def test_pairs_by_wilcoxon_and_holm() -> None:
    multipletests = pytest.importorskip("statsmodels.stats.multitest").multipletests
    values = np.random.default_rng(3).normal([0, 0, 1, 2], size=(9, 4))
    found = ranks.pairs(values)
    expected = [stats.wilcoxon(values[:, a], values[:, b]).pvalue for a, b in itertools.combinations(range(4), 2)]
    assert [each[2] for each in found] == pytest.approx(expected)
    assert [each[3] for each in found] == pytest.approx(multipletests(expected, method="holm")[1])


@pytest.mark.parametrize("seed", range(20))
def test_rows_share_a_letter_if_and_only_if_they_do_not_differ(seed: int) -> None:
    rng = np.random.default_rng(seed)
    order = [f"row {number}" for number in range(rng.integers(1, 9))]
    differ = {frozenset(pair) for pair in itertools.combinations(order, 2) if rng.random() < rng.random()}
    found = ranks.letters(order, differ)
    assert list(found) == order
    for a, b in itertools.combinations(order, 2):
        assert bool(set(found[a].split()) & set(found[b].split())) == (frozenset((a, b)) not in differ)
    # No letter without which the same would be said.
    columns = {
        letter: {label for label in order if letter in found[label].split()} for letter in "".join(found.values())
    }
    columns.pop(" ", None)
    assert not any(a < b for a, b in itertools.permutations(columns.values(), 2))
    assert found[order[0]].startswith("a")


def test_letters_of_a_chain() -> None:
    chain = {frozenset(pair) for pair in (("A", "C"), ("A", "D"), ("B", "D"))}
    assert ranks.letters(["A", "B", "C", "D"], chain) == {"A": "a", "B": "a b", "C": "b c", "D": "c"}


def test_what_is_complete_is_chosen_and_cells_go_first() -> None:
    nan = np.nan
    assert ranks.complete(np.ones((2, 3))) == ([0, 1], [0, 1, 2])
    # A cell that has not begun is no reason to leave out a model.
    assert ranks.complete(np.array([[1, 2, 3], [nan, nan, nan], [1, 2, 3]])) == ([0, 2], [0, 1, 2])
    # A model that ran nowhere is none to leave out a cell.
    assert ranks.complete(np.array([[1, 2, nan], [1, 2, nan]])) == ([0, 1], [0, 1])
    assert ranks.complete(np.array([[1, 2, nan, 4], [1, 2, 3, 4], [1, 2, 3, 4]])) == ([0, 1, 2], [0, 1, 3])
    assert ranks.complete(np.array([[1, nan], [1, 2]])) == ([1], [0, 1])
    assert ranks.complete(np.full((2, 2), nan)) == ([], [])
    assert ranks.complete(np.empty((0, 0))) == ([], [])


def test_bootstrapped_means_are_those_of_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    cube = rng.random((3, 2, 11))
    cube[:, 1, :3] = np.nan  # users who are held out with one seed only
    cube[0, 1] = np.nan  # a seed that failed
    cube[2, :, 5] = np.nan
    found = statistics.bootstrap_means(cube, samples=7, seed=4)
    picks = np.random.default_rng(4).integers(11, size=(7, 11))
    for sample, users in enumerate([np.arange(11), *picks]):
        of_seeds = [[seed[users][~np.isnan(seed[users])] for seed in row] for row in cube]
        expected = [np.mean([seed.mean() for seed in row if len(seed)]) for row in of_seeds]
        assert found[sample] == pytest.approx(expected, abs=1e-9)
    monkeypatch.setattr(statistics, "_BLOCK", 22)  # two samples at a time
    again = statistics.bootstrap_means(cube, samples=7, seed=4)
    np.testing.assert_array_equal(again, found)


def test_values_that_differ_by_rounding_are_equal() -> None:
    values = np.tile([(0.1 + 0.2 + 0.3) / 3, (0.3 + 0.2 + 0.1) / 3, 0.1], (6, 1))
    assert values[0, 0] != values[0, 1]
    assert ranks.ranks(values)[0].tolist() == [1.5, 1.5, 3]
    assert ranks.pairs(values)[0][2] == 1


def test_intervals_of_mean_ranks() -> None:
    first, second = np.tile([1.0, 2.0, 3.0], (1000, 1)), np.tile([2.0, 1.0, 3.0], (1000, 1))
    low, high = ranks.interval(np.mean([first, second], axis=0))
    assert (low.tolist(), high.tolist()) == ([1.5, 1.5, 3.0], [1.5, 1.5, 3.0])
    # Where cells are drawn, too, both may be of one kind.
    drawn = ranks.over_cells([first, second])
    low, high = ranks.interval(drawn)
    assert (low.tolist(), high.tolist()) == ([1.0, 1.0, 3.0], [2.0, 2.0, 3.0])
    assert drawn.mean(0) == pytest.approx([1.5, 1.5, 3.0], abs=0.05)
