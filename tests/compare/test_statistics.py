"""Tests against scipy, statsmodels and hand-written oracles; and that they hold their level and have power."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from recbole_vae.compare.statistics import effects, over_seeds, pair, randomisation_test, ranks, wilcoxon
from recbole_vae.errors import DataError
from recbole_vae.evaluation.holm import holm


def test_over_seeds() -> None:
    assert over_seeds([1.0, 3.0]) == (2.0, 2**0.5)
    assert over_seeds([0.5]) == (0.5, None)


def test_pair_averages_the_seeds_that_both_have() -> None:
    nan = np.nan
    a = np.array([[1.0, 2.0, nan, nan], [3.0, nan, nan, 5.0]])
    b = np.array([[0.5, 1.0, 7.0, nan], [0.0, 9.0, nan, 1.0]])
    difference, reference = pair(a, b)
    np.testing.assert_allclose(difference, [(0.5 + 3.0) / 2, 1.0, nan, 4.0])
    np.testing.assert_allclose(reference, [0.25, 1.0, nan, 1.0])


def test_pair_knows_equal_sums_of_seeds() -> None:
    a = np.array([[0.1], [0.2], [0.7]])
    b = a[[2, 0, 1]]  # the same values with other seeds
    assert (a - b).sum() != 0
    assert pair(a, b)[0].tolist() == [0.0]


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=9))
def test_randomisation_of_few_users_counts_all_flips(values: list[int]) -> None:
    column = np.array(values) / 10
    sums = [
        abs(sum(s * v for s, v in zip(signs, values, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(values))
    ]
    expected = np.mean([each >= abs(sum(values)) for each in sums])
    assert randomisation_test(column[:, None])[0] == pytest.approx(expected)


def test_randomisation_agrees_with_scipy() -> None:
    rng = np.random.default_rng(0)
    few = rng.normal(0.5, 1, 10)
    oracle = stats.permutation_test((few,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert randomisation_test(few[:, None])[0] == pytest.approx(oracle.pvalue)
    many = rng.normal(0.15, 1, (200, 3))
    p = randomisation_test(many, samples=20_000)
    for column, value in zip(many.T, p, strict=True):
        oracle = stats.permutation_test((column,), np.mean, permutation_type="samples", n_resamples=20_000, rng=1)
        assert value == pytest.approx(oracle.pvalue, abs=4 * (0.25 / 10_000) ** 0.5)


def test_a_sampled_p_is_never_zero_and_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).normal(1, 0.1, (50, 2))
    values[:, 1] = np.random.default_rng(2).normal(0.2, 1, 50)
    p = randomisation_test(values, samples=999)
    assert p[0] == 1 / 1000
    monkeypatch.setattr("recbole_vae.compare.statistics._BLOCK", 50 * 100)
    # Other signs, perhaps, of the same distribution.
    assert randomisation_test(values, samples=999)[1] == pytest.approx(p[1], abs=0.06)


@pytest.mark.parametrize("test", [lambda d: randomisation_test(d, samples=500), wilcoxon])
def test_level_and_power(test) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(3)
    tests, users, alpha = 1500, 40, 0.05
    # Of skewed values with many ties, as metrics are; exchanging two rows changes nothing.
    a, b = (np.round(rng.beta(0.5, 2, (users, tests)), 1) for _ in range(2))
    rejected = int((test(a - b) <= alpha).sum())
    low, high = stats.binom.interval(0.9999, tests, alpha)
    assert low <= rejected <= high
    assert (test(a - b + rng.normal(0.3, 0.1, (users, tests))) <= alpha).mean() > 0.95


def test_wilcoxon_drops_users_who_do_not_differ() -> None:
    values = np.random.default_rng(4).normal(0.3, 1, (60, 2))
    padded = np.vstack([values, np.zeros((5, 2))])
    np.testing.assert_allclose(wilcoxon(padded), [stats.wilcoxon(column).pvalue for column in values.T])


def test_wilcoxon_of_few_users_is_exact_with_ties() -> None:
    values = np.array([0.1, 0.2, 0.2, -0.1, 0.3, 0.3, 0.4, -0.2])
    assert wilcoxon(values[:, None])[0] == pytest.approx(
        stats.wilcoxon(values, method=stats.PermutationMethod()).pvalue
    )
    without = np.array([0.1, -0.2, 0.35, 0.41, 0.5, 0.63])
    assert wilcoxon(without[:, None])[0] == pytest.approx(stats.wilcoxon(without, method="exact").pvalue)


def test_nothing_differs() -> None:
    zero = np.zeros((20, 1))
    assert randomisation_test(zero)[0] == wilcoxon(zero)[0] == 1.0
    sizes = effects(zero, zero + 0.5)
    assert not np.stack([sizes.difference, sizes.relative, sizes.standardised]).any()
    assert np.isnan(effects(zero, zero).relative).all()


def test_all_differ_by_the_same() -> None:
    constant = np.full((20, 1), 0.1)
    assert randomisation_test(constant, samples=999)[0] == 1 / 1000
    assert wilcoxon(constant)[0] < 0.001
    sizes = effects(constant, constant * 2)
    np.testing.assert_allclose(sizes.difference[:, 0], 0.1)
    np.testing.assert_allclose(sizes.relative[:, 0], 0.5)
    assert np.isnan(sizes.standardised).all()


def test_one_user() -> None:
    one = np.array([[0.25]])
    assert randomisation_test(one)[0] == wilcoxon(one)[0] == 1.0
    sizes = effects(one, one)
    assert sizes.difference[:, 0].tolist() == [0.25] * 3
    assert np.isnan(sizes.standardised).all()


@pytest.mark.parametrize("bad", [np.array([[np.nan], [1.0]]), np.array([[np.inf]]), np.zeros((0, 2)), np.zeros(3)])
def test_what_is_no_number_is_refused(bad: np.ndarray) -> None:
    for test in (randomisation_test, wilcoxon, lambda values: effects(values, values)):
        with pytest.raises(DataError, match="not a finite number|of shape"):
            test(bad)


def test_holm_agrees_with_statsmodels() -> None:
    multipletests = pytest.importorskip("statsmodels.stats.multitest").multipletests
    rng = np.random.default_rng(9)
    for size in (1, 2, 3, 7, 30):
        p = np.round(rng.beta(0.3, 2, size), 2)  # with ties, zeros and ones
        np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1], atol=1e-12)


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(holm(np.array([0.04, 0.01, 0.03])), [0.06, 0.03, 0.06])


def test_effects_agree_with_numpy_and_scipy() -> None:
    rng = np.random.default_rng(5)
    b = rng.beta(2, 5, (300, 2))
    d = rng.normal([0.02, -0.01], 0.1, (300, 2))
    sizes = effects(d, b, samples=4000)
    np.testing.assert_allclose(sizes.difference[0], d.mean(0))
    np.testing.assert_allclose(sizes.relative[0], d.mean(0) / b.mean(0))
    np.testing.assert_allclose(sizes.standardised[0], d.mean(0) / d.std(0, ddof=1))
    for test in range(2):
        for mine, statistic in (
            (sizes.difference, lambda x, _, axis: x.mean(axis)),
            (sizes.relative, lambda x, y, axis: x.mean(axis) / y.mean(axis)),
            (sizes.standardised, lambda x, _, axis: x.mean(axis) / x.std(axis, ddof=1)),
        ):
            oracle = stats.bootstrap(
                (d[:, test], b[:, test]),
                statistic,
                paired=True,
                vectorized=True,
                n_resamples=4000,
                method="percentile",
                rng=2,
            ).confidence_interval
            width = oracle.high - oracle.low
            np.testing.assert_allclose(mine[1:, test], [oracle.low, oracle.high], atol=0.06 * width)


def test_intervals_cover_the_truth() -> None:
    d = np.random.default_rng(6).normal(0.1, 1, (100, 1000))
    ends = effects(d, d + 2, samples=400).difference[1:]
    covered = int(((ends[0] <= 0.1) & (ends[1] >= 0.1)).sum())
    assert 0.91 * 1000 <= covered <= 0.98 * 1000


def test_ranks_agree_with_a_bootstrap_written_out() -> None:
    rng = np.random.default_rng(5)
    values = rng.random((4, 2, 30)) + np.array([0.0, 0.02, 0.3, 0.04])[:, None, None]
    values[:, 1, 20:] = np.nan  # with the second seed, fewer users
    values[3, 1] = np.nan  # a row that has one seed only
    found = ranks(values, samples=300, seed=1)
    drawn = np.random.default_rng(1).integers(30, size=(300, 30))

    def of(users: np.ndarray) -> list[int]:
        means = [
            np.mean([np.nanmean(seed[users]) for seed in row if not np.isnan(seed[users]).all()]) for row in values
        ]
        return [1 + sum(other > mean for other in means) for mean in means]

    expected = np.array([of(users) for users in drawn])
    assert found[0].tolist() == of(np.arange(30))
    assert found[1].tolist() == [sorted(row)[round(0.025 * 300 + 0.4999) - 1] for row in expected.T]
    assert found[2].tolist() == [sorted(row)[round(0.975 * 300 + 0.4999) - 1] for row in expected.T]
    assert (found[1][2], found[2][2]) == (1, 1)
    assert found[1][0] < found[2][0]


def test_equal_rows_share_their_rank_and_a_row_without_values_has_none() -> None:
    one = np.random.default_rng(0).random((1, 2, 20))
    found = ranks(np.concatenate([one, one[:, ::-1], one - 1]))  # the same values with other seeds
    assert [each.tolist() for each in found] == [[1, 1, 3]] * 3
    with pytest.raises(DataError, match="a row without a value"):
        ranks(np.concatenate([one, one * np.nan]))
