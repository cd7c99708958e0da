"""One column of a window against its sketch of the training data: checks, effects, a sentence.

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

#: How the error budget of one column is split among its checks. Most goes to what happens most.
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
    """What was found about one column; `statistic` is KS's D, or the Jensen-Shannon distance."""

    checks: tuple[ColumnTest, ...]
    statistic: float
    effect: float
    missing_rate: float
    unseen: float
    out_of_range: float
    story: str
    bars: PictureBins

    @property
    def p_value(self) -> float:
        """All checks combined, whatever their effects."""
        return _combined(self.checks)

    @property
    def evidence(self) -> float:
        """The checks combined, those without an effect that matters counting as no evidence."""
        return _combined(c if c.matters else c._replace(p_value=1.0) for c in self.checks)

    @property
    def strongest(self) -> ColumnTest:
        """The check that says most, among those that matter when there are any."""
        return min(self.checks, key=lambda c: (not c.matters, c.p_value / WEIGHTS[c.test]))


def compare_column(sketch: Histogram, values: Any, limits: MinimumEffects) -> ColumnComparison:
    """A column of the window against its sketch.

    Args:
        sketch: The column in training.
        values: The column in the window, one-dimensional.
        limits: Which effects matter.
    """
    if isinstance(sketch, NumericHistogram):
        return _compare_numbers(sketch, as_floats(values), limits)
    return _compare_categories(sketch, values, limits)


def _compare_numbers(
    sketch: NumericHistogram, values: Floats, limits: MinimumEffects
) -> ColumnComparison:
    present = values[~np.isnan(values)]
    present.sort()
    window = count_bins(present, np.asarray(sketch.edges))
    reference = np.asarray(sketch.counts, dtype=np.int64)
    below = int(np.searchsorted(present, sketch.minimum, side="left"))
    above = int(present.size - np.searchsorted(present, sketch.maximum, side="right"))
    distance = two_sample.ks_distance(reference, window)
    outside = _share(below + above, present.size)
    moved = distance >= limits.effect
    tests = {
        "mann-whitney": two_sample.mann_whitney_p,
        "mood": two_sample.mood_p,
        "kolmogorov-smirnov": two_sample.kolmogorov_smirnov_p,
    }
    checks = [
        ColumnTest(name, test(reference, window), distance, moved) for name, test in tests.items()
    ]
    beyond = two_sample.out_of_range_p(below, above, present.size, sketch.rows)
    checks.append(ColumnTest("out of range", beyond, outside, outside >= limits.fault))
    missing = values.size - present.size
    checks += _missing(sketch, missing, values.size, limits)
    return ColumnComparison(
        checks=tuple(checks),
        statistic=distance,
        effect=distance,
        missing_rate=_share(missing, values.size),
        unseen=0.0,
        out_of_range=outside,
        story=_number_story(sketch, present, outside),
        bars=numeric_picture_bins(sketch, present),
    )


def _compare_categories(
    sketch: CategoryHistogram, values: Any, limits: MinimumEffects
) -> ColumnComparison:
    counts, missing = count_categories(values)
    names, reference, window = _aligned(sketch, counts)
    rows = int(window.sum())
    unseen = sum(count for name, count in counts.items() if name not in sketch.counts)
    expected = sketch.other or sketch.singletons
    effect = two_sample.total_variation(reference, window)
    new = _share(unseen, rows) if not sketch.other else 0.0
    checks = [
        ColumnTest(
            "chi-squared",
            two_sample.chi_squared_p(reference, window),
            effect,
            effect >= limits.effect,
        ),
        ColumnTest(
            "unseen",
            two_sample.fisher_greater_p(expected, sketch.rows, unseen, rows),
            _share(unseen, rows),
            _share(unseen, rows) >= limits.fault,
        ),
        *_missing(sketch, missing, rows + missing, limits),
    ]
    return ColumnComparison(
        checks=tuple(checks),
        statistic=two_sample.jensen_shannon(reference, window),
        effect=effect,
        missing_rate=_share(missing, rows + missing),
        unseen=new,
        out_of_range=0.0,
        story=_category_story(names, reference, window, sketch, counts),
        bars=category_picture_bins(names, reference, window),
    )


def _missing(
    sketch: Histogram, missing: int, rows: int, limits: MinimumEffects
) -> list[ColumnTest]:
    """No check where nothing is missing: it could not find anything, and would cost budget."""
    if sketch.missing + missing == 0:
        return []
    known = sketch.rows + sketch.missing
    change = abs(_share(missing, rows) - _share(sketch.missing, known))
    p_value = two_sample.fisher_p(sketch.missing, known, missing, rows)
    return [ColumnTest("missing", p_value, change, change >= limits.fault)]


def _aligned(sketch: CategoryHistogram, counts: dict[str, int]) -> tuple[list[str], Counts, Counts]:
    """Names and both counts; texts too rare to be named in the sketch are taken together."""
    new = [name for name in counts if name not in sketch.counts]
    names = [*sketch.counts] + ([] if sketch.other else sorted(new))
    reference = [sketch.counts.get(name, 0) for name in names]
    window = [counts.get(name, 0) for name in names]
    if sketch.other:
        names = [*names, "(others)"]
        reference = [*reference, sketch.other]
        window = [*window, sum(counts[name] for name in new)]
    return names, np.asarray(reference, dtype=np.int64), np.asarray(window, dtype=np.int64)


def _combined(checks: Iterable[ColumnTest]) -> float:
    listed = list(checks)
    return two_sample.weighted_bonferroni(
        [c.p_value for c in listed], [WEIGHTS[c.test] for c in listed]
    )


def _share(count: int, rows: int) -> float:
    return count / rows if rows else 0.0


def _number_story(sketch: NumericHistogram, present: Floats, outside: float) -> str:
    if present.size == 0 or sketch.rows == 0:
        return "it has no values to compare"
    middle = float(np.median(present))
    usual = _median(sketch)
    way = "up" if middle > usual else "down"
    story = f"the median went {way} from {usual:.4g} to {middle:.4g}"
    if middle == usual:
        story = f"the median stayed at {usual:.4g}"
    if sketch.std > 0:
        ratio = float(np.std(present[np.isfinite(present)])) / sketch.std
        story += f", the standard deviation is {ratio:.2f} times what it was"
    return story + (f", {outside:.1%} of rows are out of range" if outside else "")


def _median(sketch: NumericHistogram) -> float:
    """The median of the training values, to within a cell."""
    half = int(np.searchsorted(np.cumsum(sketch.counts), sketch.rows / 2))
    edges = [sketch.minimum, *sketch.edges, sketch.maximum]
    return (edges[half] + edges[half + 1]) / 2


def _category_story(
    names: list[str],
    reference: Counts,
    window: Counts,
    sketch: CategoryHistogram,
    counts: dict[str, int],
) -> str:
    if reference.sum() == 0 or window.sum() == 0:
        return "it has no values to compare"
    before, after = two_sample.shares(reference), two_sample.shares(window)
    most = int(np.argmax(np.abs(after - before)))
    story = f"'{names[most]}' went from {before[most]:.1%} to {after[most]:.1%} of rows"
    new = [name for name in counts if name not in sketch.counts]
    if new and not sketch.other:
        shown = ", ".join(f"'{name}'" for name in sorted(new)[:3])
        story += f"; {len(new)} never seen in training ({shown})"
    return story
