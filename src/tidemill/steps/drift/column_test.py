"""Compare one column of a window with its histogram of the training data.

A test counts as evidence only when its effect is large enough to matter. `MinimumEffects` sets how
large: `effect` for a distribution, as the share of rows that moved; `fault` for the shares of
missing, unseen and out-of-range values, which usually mean a broken data source.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from tidemill.steps.drift import two_sample
from tidemill.steps.drift.histogram import (
    CategoryHistogram,
    Counts,
    Floats,
    Histogram,
    NumericHistogram,
    as_floats,
    count_bins,
    count_categories,
)
from tidemill.steps.drift.picture_bins import (
    PictureBins,
    category_picture_bins,
    numeric_picture_bins,
)

#: Shares of one column's error budget: most goes to the most common kinds of drift.
WEIGHTS = {
    "mann-whitney": 0.5,
    "mood": 0.2,
    "kolmogorov-smirnov": 0.2,
    "chi-squared": 0.8,
    "missing": 0.05,
    "out of range": 0.05,
    "unseen": 0.1,
}


class MinimumEffects(NamedTuple):
    """The smallest effects that matter, as shares of the window's rows."""

    effect: float
    fault: float


class ColumnTest(NamedTuple):
    """One test on one column: its p-value, its effect, and whether the effect matters."""

    test: str
    p_value: float
    effect: float
    matters: bool


class ColumnComparison(NamedTuple):
    """The result for one column.

    `statistic` is the Kolmogorov-Smirnov distance of numbers, the Jensen-Shannon distance of
    categories; `effect` is the share of rows that moved.
    """

    checks: tuple[ColumnTest, ...]
    statistic: float
    effect: float
    missing_rate: float
    unseen: float
    out_of_range: float
    description: str
    bins: PictureBins

    @property
    def p_value(self) -> float:
        """All tests combined, whatever their effects."""
        return _combined(self.checks)

    @property
    def evidence(self) -> float:
        """All tests combined; those without an effect that matters count as no evidence."""
        return _combined(c if c.matters else c._replace(p_value=1.0) for c in self.checks)

    @property
    def strongest(self) -> ColumnTest:
        """The test with the strongest evidence, of those whose effect matters if any does."""
        return min(self.checks, key=lambda c: (not c.matters, c.p_value / WEIGHTS[c.test]))


def compare_column(histogram: Histogram, values: Any, minimum: MinimumEffects) -> ColumnComparison:
    """Compare a column of the window with its training distribution.

    Args:
        histogram: The column in training.
        values: [rows] the column in the window.
        minimum: Which effects matter.
    """
    if isinstance(histogram, NumericHistogram):
        return _compare_numbers(histogram, as_floats(values), minimum)
    return _compare_categories(histogram, values, minimum)


def _compare_numbers(
    histogram: NumericHistogram, values: Floats, minimum: MinimumEffects
) -> ColumnComparison:
    present = values[~np.isnan(values)]
    present.sort()
    window = count_bins(present, np.asarray(histogram.edges))
    reference = np.asarray(histogram.counts, dtype=np.int64)
    below = int(np.searchsorted(present, histogram.minimum, side="left"))
    above = int(present.size - np.searchsorted(present, histogram.maximum, side="right"))
    distance = two_sample.ks_distance(reference, window)
    outside = _share(below + above, present.size)
    moved = distance >= minimum.effect
    tests = {
        "mann-whitney": two_sample.mann_whitney_p,
        "mood": two_sample.mood_p,
        "kolmogorov-smirnov": two_sample.kolmogorov_smirnov_p,
    }
    checks = [
        ColumnTest(name, test(reference, window), distance, moved) for name, test in tests.items()
    ]
    beyond = two_sample.out_of_range_p(below, above, present.size, histogram.rows)
    checks.append(ColumnTest("out of range", beyond, outside, outside >= minimum.fault))
    missing = values.size - present.size
    checks += _missing(histogram, missing, values.size, minimum)
    return ColumnComparison(
        checks=tuple(checks),
        statistic=distance,
        effect=distance,
        missing_rate=_share(missing, values.size),
        unseen=0.0,
        out_of_range=outside,
        description=_describe_numbers(histogram, present, outside),
        bins=numeric_picture_bins(histogram, present),
    )


def _compare_categories(
    histogram: CategoryHistogram, values: Any, minimum: MinimumEffects
) -> ColumnComparison:
    counts, missing = count_categories(values)
    names, reference, window = _aligned(histogram, counts)
    rows = int(window.sum())
    unseen = sum(count for name, count in counts.items() if name not in histogram.counts)
    expected = histogram.other or histogram.singletons
    effect = two_sample.total_variation(reference, window)
    new = _share(unseen, rows) if not histogram.other else 0.0
    checks = [
        ColumnTest(
            "chi-squared",
            two_sample.chi_squared_p(reference, window),
            effect,
            effect >= minimum.effect,
        ),
        ColumnTest(
            "unseen",
            two_sample.fisher_greater_p(expected, histogram.rows, unseen, rows),
            _share(unseen, rows),
            _share(unseen, rows) >= minimum.fault,
        ),
        *_missing(histogram, missing, rows + missing, minimum),
    ]
    return ColumnComparison(
        checks=tuple(checks),
        statistic=two_sample.jensen_shannon(reference, window),
        effect=effect,
        missing_rate=_share(missing, rows + missing),
        unseen=new,
        out_of_range=0.0,
        description=_describe_categories(names, reference, window, histogram, counts),
        bins=category_picture_bins(names, reference, window),
    )


def _missing(
    histogram: Histogram, missing: int, rows: int, minimum: MinimumEffects
) -> list[ColumnTest]:
    """The test of missing values; none where nothing is missing, as it would cost error budget."""
    if histogram.missing + missing == 0:
        return []
    known = histogram.rows + histogram.missing
    change = abs(_share(missing, rows) - _share(histogram.missing, known))
    p_value = two_sample.fisher_p(histogram.missing, known, missing, rows)
    return [ColumnTest("missing", p_value, change, change >= minimum.fault)]


def _aligned(
    histogram: CategoryHistogram, counts: dict[str, int]
) -> tuple[list[str], Counts, Counts]:
    """Names and both counts; categories too rare for a name in the histogram are merged."""
    new = [name for name in counts if name not in histogram.counts]
    names = [*histogram.counts] + ([] if histogram.other else sorted(new))
    reference = [histogram.counts.get(name, 0) for name in names]
    window = [counts.get(name, 0) for name in names]
    if histogram.other:
        names = [*names, "(others)"]
        reference = [*reference, histogram.other]
        window = [*window, sum(counts[name] for name in new)]
    return names, np.asarray(reference, dtype=np.int64), np.asarray(window, dtype=np.int64)


def _combined(checks: Iterable[ColumnTest]) -> float:
    listed = list(checks)
    return two_sample.weighted_bonferroni(
        [c.p_value for c in listed], [WEIGHTS[c.test] for c in listed]
    )


def _share(count: int, rows: int) -> float:
    return count / rows if rows else 0.0


def _describe_numbers(histogram: NumericHistogram, present: Floats, outside: float) -> str:
    if present.size == 0 or histogram.rows == 0:
        return "there are no values to compare"
    middle = float(np.median(present))
    usual = _median(histogram)
    way = "up" if middle > usual else "down"
    text = f"the median went {way} from {usual:.4g} to {middle:.4g}"
    if middle == usual:
        text = f"the median stayed at {usual:.4g}"
    if histogram.std > 0:
        ratio = float(np.std(present[np.isfinite(present)])) / histogram.std
        text += f", the standard deviation is {ratio:.2f} times that of training"
    return text + (f", {outside:.1%} of rows are out of range" if outside else "")


def _median(histogram: NumericHistogram) -> float:
    """The median of the training values, to within a bin."""
    half = int(np.searchsorted(np.cumsum(histogram.counts), histogram.rows / 2))
    edges = [histogram.minimum, *histogram.edges, histogram.maximum]
    return (edges[half] + edges[half + 1]) / 2


def _describe_categories(
    names: list[str],
    reference: Counts,
    window: Counts,
    histogram: CategoryHistogram,
    counts: dict[str, int],
) -> str:
    if reference.sum() == 0 or window.sum() == 0:
        return "there are no values to compare"
    before, after = two_sample.shares(reference), two_sample.shares(window)
    most = int(np.argmax(np.abs(after - before)))
    text = f"'{names[most]}' went from {before[most]:.1%} to {after[most]:.1%} of rows"
    new = [name for name in counts if name not in histogram.counts]
    if new and not histogram.other:
        shown = ", ".join(f"'{name}'" for name in sorted(new)[:3])
        text += f"; {len(new)} not seen in training ({shown})"
    return text
