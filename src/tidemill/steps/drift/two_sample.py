"""Two-sample tests on binned counts: were two columns drawn from the same distribution?

Every test takes the counts of reference and window over the same bins, conditions on their sum, and
handles ties by construction. The p-values are valid for every distribution.

Sources: rank tests with scores and their permutation variance, Hájek, Šidák & Sen, "Theory of Rank
Tests" (1999), 3.3; Kolmogorov-Smirnov with Stephens' small-sample factor, JRSS B 32 (1970) 115;
Benjamini & Hochberg, JRSS B 57 (1995) 289. See decision 081.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

#: Bins of a chi-squared test with fewer expected rows are merged.
SMALLEST_EXPECTED = 5.0


def mann_whitney_p(reference: Counts, window: Counts) -> float:
    """Mann-Whitney test of a shift in location: two-sided, normal approximation."""
    ranks = _mid_ranks(reference + window)
    return _scores_p(reference, window, ranks - 0.5)


def mood_p(reference: Counts, window: Counts) -> float:
    """Mood test of a change in scale: two-sided, normal approximation."""
    ranks = _mid_ranks(reference + window)
    return _scores_p(reference, window, (ranks - 0.5) ** 2)


def kolmogorov_smirnov_p(reference: Counts, window: Counts) -> float:
    """Kolmogorov-Smirnov test of any change in the distribution; conservative with ties."""
    n, m = int(reference.sum()), int(window.sum())
    if n == 0 or m == 0:
        return 1.0
    root = np.sqrt(n * m / (n + m))
    return float(special.kolmogorov((root + 0.12 + 0.11 / root) * ks_distance(reference, window)))


def chi_squared_p(reference: Counts, window: Counts) -> float:
    """Chi-squared test of homogeneity over categories; Fisher's exact test where two remain.

    Rare categories are merged first, chosen by the sum of both samples, which is conditioned on.
    """
    n, m = int(reference.sum()), int(window.sum())
    if n == 0 or m == 0:
        return 1.0
    reference, window = _merge_rare(reference, window)
    if reference.size < 2:
        return 1.0
    if reference.size == 2:
        return fisher_p(int(reference[0]), n, int(window[0]), m)
    pooled = (reference + window) / (n + m)
    statistic = _pearson(reference, pooled * n) + _pearson(window, pooled * m)
    return float(special.chdtrc(reference.size - 1, statistic))


def fisher_p(reference: int, reference_rows: int, window: int, window_rows: int) -> float:
    """Fisher's exact test that two shares differ: twice the smaller tail."""
    law = (reference_rows + window_rows, reference + window, window_rows)
    if law[1] in (0, law[0]) or window_rows == 0:
        return 1.0
    above = float(stats.hypergeom.sf(window - 1, *law))
    below = float(stats.hypergeom.cdf(window, *law))
    return min(1.0, 2 * min(above, below))


def fisher_greater_p(reference: int, reference_rows: int, window: int, window_rows: int) -> float:
    """Fisher's exact test that the window's share is larger: one-sided."""
    if window == 0:
        return 1.0
    law = (reference_rows + window_rows, reference + window, window_rows)
    return float(stats.hypergeom.sf(window - 1, *law))


def out_of_range_p(below: int, above: int, window_rows: int, reference_rows: int) -> float:
    """Exact test that more window values than chance lie below or above all reference values.

    Under the null hypothesis every order of the N pooled values is equally likely, so the k largest
    all come from the m window values with probability m/N * (m-1)/(N-1) * ... (k factors).
    """
    total = window_rows + reference_rows

    def tail(count: int) -> float:
        log = special.gammaln(window_rows + 1) - special.gammaln(window_rows - count + 1)
        log -= special.gammaln(total + 1) - special.gammaln(total - count + 1)
        return float(np.exp(log))

    return min(1.0, 2 * min(tail(below), tail(above)))


def weighted_bonferroni(p_values: Sequence[float], weights: Sequence[float]) -> float:
    """Combine p-values by the weighted Bonferroni rule, valid under any dependence.

    A larger weight gives a test more of the error budget; weights are scaled to sum to one.
    """
    total = sum(weights)
    if total == 0:
        return 1.0
    scaled = [p * total / weight for p, weight in zip(p_values, weights, strict=True)]
    return float(min([1.0, *scaled]))


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values by Benjamini-Hochberg (false discovery rate), in the order given."""
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values)[::-1]
    size = values.size
    raised = values[order] * size / np.arange(size, 0, -1)
    adjusted = np.empty(size)
    adjusted[order] = np.minimum(1.0, np.minimum.accumulate(raised))
    return [float(p) for p in adjusted]


def ks_distance(reference: Counts, window: Counts) -> float:
    """Kolmogorov-Smirnov distance: the largest difference of the cumulative shares, in [0, 1]."""
    return float(np.abs(np.cumsum(shares(reference)) - np.cumsum(shares(window))).max(initial=0.0))


def total_variation(reference: Counts, window: Counts) -> float:
    """Total variation distance: the share of rows that would have to change bin, in [0, 1]."""
    return float(np.abs(shares(reference) - shares(window)).sum() / 2)


def jensen_shannon(reference: Counts, window: Counts) -> float:
    """Jensen-Shannon distance to base 2, in [0, 1]."""
    p, q = shares(reference), shares(window)
    middle = (p + q) / 2
    divergence = special.rel_entr(p, middle).sum() + special.rel_entr(q, middle).sum()
    return float(np.sqrt(max(divergence, 0.0) / 2 / np.log(2)))


def shares(counts: NDArray[Any]) -> Floats:
    """Divide counts by their sum; all zero where the sum is zero."""
    total = counts.sum()
    return np.asarray(counts / total if total else np.zeros(counts.shape), dtype=np.float64)


def _mid_ranks(pooled: Counts) -> Floats:
    """The middle of each bin's ranks, scaled to [0, 1]."""
    return np.asarray((np.cumsum(pooled) - pooled / 2) / max(int(pooled.sum()), 1))


def _scores_p(reference: Counts, window: Counts, scores: Floats) -> float:
    n, m = int(reference.sum()), int(window.sum())
    total = n + m
    if n == 0 or m == 0:
        return 1.0
    pooled = reference + window
    mean = float(pooled @ scores) / total
    variance = m * n / (total * (total - 1)) * float(pooled @ (scores - mean) ** 2)
    if variance <= 1e-12:
        return 1.0
    z = (float(window @ scores) - m * mean) / np.sqrt(variance)
    return float(2 * special.ndtr(-abs(z)))


def _merge_rare(reference: Counts, window: Counts) -> tuple[Counts, Counts]:
    """Merge bins that are expected to be nearly empty in the smaller sample, or join the rarest."""
    n, m = int(reference.sum()), int(window.sum())
    pooled = reference + window
    order = np.argsort(pooled, kind="stable")
    reference, window, pooled = reference[order], window[order], pooled[order]
    enough = SMALLEST_EXPECTED * (n + m) / min(n, m)
    rare = int(np.count_nonzero(pooled < enough))
    while rare and rare < pooled.size and pooled[:rare].sum() < enough:
        rare += 1
    if rare < 2:
        return reference, window
    starts = np.r_[0, np.arange(rare, pooled.size)]
    return np.add.reduceat(reference, starts), np.add.reduceat(window, starts)


def _pearson(observed: Counts, expected: Floats) -> float:
    return float(((observed - expected) ** 2 / expected).sum())
