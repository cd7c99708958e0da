"""Tests on counts agree with scipy's on rows, and their p-values are what they say."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from tidemill.steps.drift import two_sample
from tidemill.steps.drift.histogram import count_bins, numeric_histogram


def counts_of(reference, window):
    """Both samples counted with each distinct value in a cell of its own."""
    edges = np.asarray(numeric_histogram(np.r_[reference, window], bins=10_000).edges)
    return count_bins(np.sort(reference), edges), count_bins(np.sort(window), edges)


@pytest.fixture
def samples():
    random = np.random.default_rng(3)
    return random.integers(0, 20, 300).astype(float), random.integers(1, 22, 120).astype(float)


def test_location_is_mann_whitney_with_ties(samples):
    expected = stats.mannwhitneyu(*samples, use_continuity=False, method="asymptotic").pvalue

    assert two_sample.mann_whitney_p(*counts_of(*samples)) == pytest.approx(expected, rel=1e-9)


def test_spread_is_mood_without_ties():
    random = np.random.default_rng(4)
    before, after = random.normal(size=200), 1.3 * random.normal(size=150)

    expected = stats.mood(before, after).pvalue
    assert two_sample.mood_p(*counts_of(before, after)) == pytest.approx(expected, rel=1e-6)


def test_distance_is_kolmogorov_smirnov(samples):
    expected = stats.ks_2samp(*samples).statistic

    assert two_sample.ks_distance(*counts_of(*samples)) == pytest.approx(expected)


def test_shape_is_close_to_the_exact_kolmogorov_smirnov_test():
    random = np.random.default_rng(5)
    before, after = random.normal(size=60), random.normal(0.6, 1, size=50)

    exact = stats.ks_2samp(before, after, method="exact").pvalue
    assert two_sample.kolmogorov_smirnov_p(*counts_of(before, after)) == pytest.approx(
        exact, rel=0.35
    )


def test_chi_squared_is_pearson():
    before, after = np.array([50, 30, 20]), np.array([30, 40, 30])

    expected = stats.chi2_contingency([before, after], correction=False).pvalue
    assert two_sample.chi_squared_p(before, after) == pytest.approx(expected)


def test_two_categories_use_fishers_exact_test():
    p_value = two_sample.chi_squared_p(np.array([90, 10]), np.array([40, 20]))

    assert p_value == pytest.approx(stats.fisher_exact([[90, 10], [40, 20]]).pvalue, rel=0.5)


def test_rare_categories_do_not_distort_chi_squared():
    before = np.array([500, 400, *[1] * 60])
    after = np.array([50, 40, *[0] * 55, *[1] * 5])

    assert two_sample.chi_squared_p(before, after) > 0.05


@settings(max_examples=50)
@given(st.integers(0, 50), st.integers(1, 400), st.integers(0, 50), st.integers(1, 400))
def test_shares_are_compared_by_fishers_exact_test(before, n, after, m):
    assume(before <= n and after <= m)
    table = [[before, n - before], [after, m - after]]
    tails = [stats.fisher_exact(table, alternative=side).pvalue for side in ("less", "greater")]

    assert two_sample.fisher_p(before, n, after, m) == pytest.approx(min(1.0, 2 * min(tails)))


def test_one_value_out_of_range_is_likely_but_many_are_not():
    assert two_sample.out_of_range_p(0, 1, 100, 100) == pytest.approx(1.0)
    assert two_sample.out_of_range_p(0, 10, 100, 100) < 0.002
    assert two_sample.out_of_range_p(0, 0, 100, 100) == 1.0


def test_out_of_range_probability_is_exact():
    # The two largest of 5 + 15 values are both from the window: 5/20 * 4/19, two-sided.
    assert two_sample.out_of_range_p(0, 2, 5, 15) == pytest.approx(2 * 5 / 20 * 4 / 19)


def test_adjusted_p_values_are_benjamini_and_hochbergs():
    values = [0.01, 0.5, 0.02, 0.03, 0.9]

    assert two_sample.benjamini_hochberg(values) == pytest.approx(
        stats.false_discovery_control(values, method="bh").tolist()
    )
    assert two_sample.benjamini_hochberg([]) == []


def test_weighted_bonferroni_divides_the_error_budget():
    assert two_sample.weighted_bonferroni([0.01, 0.5], [0.5, 0.5]) == pytest.approx(0.02)
    assert two_sample.weighted_bonferroni([0.01, 0.5], [0.9, 0.1]) == pytest.approx(0.01 / 0.9)
    assert two_sample.weighted_bonferroni([0.9, 0.9], [0.5, 0.5]) == 1.0
    assert two_sample.weighted_bonferroni([], []) == 1.0


def test_distances_are_between_0_and_1():
    same, other = np.array([5, 5, 0]), np.array([0, 0, 9])

    for distance in (
        two_sample.ks_distance,
        two_sample.total_variation,
        two_sample.jensen_shannon,
    ):
        assert distance(same, 3 * same) == pytest.approx(0.0, abs=1e-9)
        assert distance(same, other) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "test",
    [
        two_sample.mann_whitney_p,
        two_sample.mood_p,
        two_sample.kolmogorov_smirnov_p,
        two_sample.chi_squared_p,
    ],
)
def test_nothing_to_compare_is_no_evidence(test):
    nothing, some = np.array([0, 0, 0]), np.array([1, 2, 3])

    assert test(nothing, some) == 1.0
    assert test(some, nothing) == 1.0
    assert test(np.array([7]), np.array([9])) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "test",
    [
        two_sample.mann_whitney_p,
        two_sample.mood_p,
        two_sample.kolmogorov_smirnov_p,
        two_sample.chi_squared_p,
    ],
)
@pytest.mark.parametrize("rows", [40, 400])
def test_p_values_of_unchanged_windows_are_valid(test, rows):
    random = np.random.default_rng(6)
    found = []
    for _ in range(1500):
        counts = random.multinomial(900, [0.5, 0.2, 0.15, 0.1, 0.05])
        window = random.multinomial(rows, [0.5, 0.2, 0.15, 0.1, 0.05])
        found.append(test(counts, window))

    # 1.5% and 7% are four standard errors above 1% and 5%, rounded.
    assert np.mean(np.array(found) <= 0.05) <= 0.073
    assert np.mean(np.array(found) <= 0.01) <= 0.021
