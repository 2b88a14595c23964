"""Statistics of paired differences over users: tests and effect sizes.

A test set is a sample of users, not of seeds. So a model's values are averaged over seeds for each user before any test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from recbole_vae.errors import DataError

Floats = NDArray[np.float64]

EXACT = 14
"""If at most this many users differ, all sign flips are counted (16,384 of them); else a sample is drawn."""

_BLOCK = 1 << 23
"""Signs or weights held in memory at once."""

DECIMALS = 9
"""Differences that agree to so many decimals are ties; metrics are in [0, 1], or counts of bits."""


def over_seeds(values: Sequence[float]) -> tuple[float, float | None]:
    """Return mean and standard deviation (n - 1 in the denominator); the latter is None for a single value."""
    array = np.asarray(values, float)
    return float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else None


def pair(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """Pair two rows of a table within each seed and user, then average over the seeds in which both have the user.

    Args:
        a: values of one row, shape [seeds, users]; NaN where there is no value for a user with a seed.
        b: values of the other row, likewise.

    Returns:
        The differences ``a - b``, rounded to nine decimals (so that the order of a sum makes no difference), and the values
        of ``b`` that went into them; each of shape [users], NaN for users without a pair.
    """
    both = ~(np.isnan(a) | np.isnan(b))
    count = both.sum(0)
    with np.errstate(invalid="ignore"):
        difference = np.where(both, a - b, 0.0).sum(0) / count
        return np.round(difference, DECIMALS), np.where(both, b, 0.0).sum(0) / count


def _checked(differences: Floats) -> Floats:
    values = np.asarray(differences, float)
    if values.ndim != 2 or not values.size:
        raise DataError(f"a test needs differences of shape [users, tests], not {list(values.shape)}.")
    if not np.isfinite(values).all():
        raise DataError("a test got a difference that is not a finite number.")
    return values


def randomisation_test(differences: Floats, samples: int = 10_000, seed: int = 0) -> Floats:
    """Test by sign flips whether mean differences are zero, two-sided (Fisher; Smucker et al., CIKM 2007).

    If two rows do not differ, each user's difference could as well have the other sign. Users with a difference of 0 do not
    matter, so if at most ``EXACT`` differ, all flips are counted: ``p = count / 2^n``. Else
    ``p = (1 + count) / (1 + samples)``, which is never too small (Phipson and Smyth, 2010). All tests share the signs.
    Written by hand: ``scipy.stats.permutation_test`` takes about eight times as long (10 tests, 943 users).

    Args:
        differences: shape [users, tests].
        samples: number of sign flips drawn.
        seed: seed of the generator.

    Returns:
        p-values, shape [tests]; 1 if no user differs.

    Raises:
        DataError: a difference is NaN or infinite, or there are none.
    """
    values = _checked(differences)
    observed = np.abs(values.sum(0))
    # Sums that are equal in exact arithmetic must count as equal.
    observed -= 1e-9 * np.abs(values).sum(0)
    p = np.empty(values.shape[1])
    few = np.count_nonzero(values, axis=0) <= EXACT
    for test in np.flatnonzero(few):
        column = values[values[:, test] != 0, test]
        flips = np.arange(1 << len(column))[:, None] >> np.arange(len(column)) & 1
        p[test] = np.mean(np.abs((1 - 2 * flips) @ column) >= observed[test])
    many = values[:, ~few]
    if many.size:
        generator = np.random.default_rng(seed)
        total = many.sum(0)
        counts = np.zeros(many.shape[1])
        block = max(1, _BLOCK // len(many))
        for start in range(0, samples, block):
            size = min(block, samples - start)
            bits = np.frombuffer(generator.bytes(size * -(-len(many) // 8)), np.uint8).reshape(size, -1)
            flipped = np.unpackbits(bits, axis=1, count=len(many)).astype(float) @ many
            counts += (np.abs(total - 2 * flipped) >= observed[~few]).sum(0)
        p[~few] = (1 + counts) / (1 + samples)
    return p


def wilcoxon(differences: Floats) -> Floats:
    """Wilcoxon's signed-rank test, two-sided, without the users who do not differ.

    If at most ``EXACT`` users differ, the test is exact even with ties: it is the randomisation test of the signed ranks.

    Args:
        differences: shape [users, tests].

    Returns:
        p-values, shape [tests]; 1 where no user differs.

    Raises:
        DataError: a difference is NaN or infinite, or there are none.
    """
    p = []
    for column in _checked(differences).T:
        changed = column[column != 0]
        if len(changed) > EXACT:
            p.append(stats.wilcoxon(changed).pvalue)
        else:
            ranks = np.sign(changed) * stats.rankdata(np.abs(changed))
            p.append(randomisation_test(ranks[:, None])[0] if len(changed) else 1.0)
    return np.array(p)


@dataclass
class Effects:
    """Effect sizes, each of shape [3, tests]: the value and the two ends of its bootstrap interval.

    Attributes:
        difference: mean difference over users.
        relative: mean difference divided by the mean of the other row; NaN if that mean is 0.
        standardised: mean difference divided by the standard deviation of the differences: Cohen's d_z (1988, section 2.3.5).
            0 if no user differs; NaN if all differ by the same amount, or for a single user.
    """

    difference: Floats
    relative: Floats
    standardised: Floats


def effects(
    differences: Floats, reference: Floats, samples: int = 2_000, level: float = 0.95, seed: int = 0
) -> Effects:
    """Compute effect sizes with percentile bootstrap intervals over users (Efron and Tibshirani, 1993, chapter 13).

    Args:
        differences: shape [users, tests].
        reference: values of the other row, shape [users, tests].
        samples: number of bootstrap samples.
        level: level of the intervals.
        seed: seed of the generator.

    Raises:
        DataError: a value is NaN or infinite, or there are none.
    """
    values, reference = _checked(differences), _checked(reference)
    users, tests = values.shape
    # Subtract one of them, so that equal differences have a deviation of exactly 0.
    offset = values[0]
    columns = np.hstack([values - offset, (values - offset) ** 2, reference])

    def sizes(means: Floats) -> Floats:
        centred, square, base = means[:, :tests], means[:, tests : 2 * tests], means[:, 2 * tests :]
        difference = centred + offset
        variance = np.maximum(square - centred**2, 0.0) * users / max(users - 1, 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            standardised = np.where(difference == 0, 0.0, difference / np.sqrt(variance))
            relative = difference / base
        relative[base == 0] = np.nan
        standardised[~np.isfinite(standardised)] = np.nan
        return np.stack([difference, relative, standardised])

    generator = np.random.default_rng(seed)
    drawn = []
    block = max(1, _BLOCK // users)
    for start in range(0, samples, block):
        size = min(block, samples - start)
        picks = generator.integers(users, size=(size, users)) + users * np.arange(size)[:, None]
        weights = np.bincount(picks.ravel(), minlength=size * users).reshape(size, users) / users
        drawn.append(sizes(weights @ columns))
    tail = 50 * (1 - level)
    ends = np.percentile(np.concatenate(drawn, axis=1), [tail, 100 - tail], axis=1)
    value = sizes(columns.mean(0)[None])[:, 0]
    return Effects(*(np.stack([value[each], ends[0, each], ends[1, each]]) for each in range(3)))


def bootstrap_means(values: Floats, samples: int = 2_000, seed: int = 0) -> Floats:
    """Return the means of rows over users that are drawn with replacement, the same for all rows and seeds.

    Args:
        values: shape [rows, seeds, users]; NaN where there is no value.
        samples: number of samples.
        seed: of the generator.

    Returns:
        Of each row the mean over seeds of the means over users, shape [samples + 1, rows]; NaN without a value. The first has
        each user once.
    """
    rows, seeds, users = values.shape
    there = ~np.isnan(values)
    columns = np.where(there, values, 0.0).reshape(-1, users).T
    counted = None if there.all() else there.reshape(-1, users).T.astype(float)
    generator = np.random.default_rng(seed)

    def means(weights: Floats) -> Floats:
        counts = users if counted is None else weights @ counted
        with np.errstate(invalid="ignore"):
            of_seeds = ((weights @ columns) / counts).reshape(-1, rows, seeds)
            some = ~np.isnan(of_seeds)  # a seed without a drawn user does not count
            found: Floats = np.where(some, of_seeds, 0.0).sum(2) / some.sum(2)
        return np.round(found, DECIMALS)

    drawn = [means(np.ones((1, users)))]
    block = max(1, _BLOCK // users)
    for start in range(0, samples, block):
        size = min(block, samples - start)
        picks = generator.integers(users, size=(size, users)) + users * np.arange(size)[:, None]
        drawn.append(means(np.bincount(picks.ravel(), minlength=size * users).reshape(size, users).astype(float)))
    return np.concatenate(drawn)


def ranks(values: Floats, samples: int = 2_000, level: float = 0.95, seed: int = 0) -> tuple[Floats, Floats, Floats]:
    """Rank rows by their means, with percentile bootstrap intervals over users (Efron and Tibshirani, 1993, chapter 13).

    A sample draws users with replacement, the same for all rows and seeds; a row's mean is that over seeds of the means over
    users. A row's rank is one more than the number of rows with a larger mean. The trained models stay the same.

    Args:
        values: shape [rows, seeds, users]; NaN where there is no value.
        samples: number of bootstrap samples.
        level: level of the intervals.
        seed: seed of the generator.

    Returns:
        Ranks, and lower and upper ends of their intervals, each of shape [rows].

    Raises:
        DataError: a row has no value.
    """
    if np.isnan(values).all((1, 2)).any():
        raise DataError("a row without a value has no rank.")
    means = np.nan_to_num(bootstrap_means(values, samples, seed), nan=-np.inf)  # of a row nobody was drawn
    found = (means[:, None, :] > means[:, :, None]).sum(2) + 1.0
    tail = 50 * (1 - level)
    low, high = np.percentile(found[1:], [tail, 100 - tail], axis=0, method="inverted_cdf")
    return found[0], low, high
