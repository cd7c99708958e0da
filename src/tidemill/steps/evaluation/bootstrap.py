"""Paired bootstrap of two models' metric on the same rows, exact and without a Python loop.

A bootstrap sample of n rows is a vector of counts, one for each row, with a multinomial
distribution. Both models are evaluated on the same sample, so what makes a sample easy or hard
cancels out (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapters 6 and 8).

Every metric except ROC AUC is a function of sums over rows, so a sample's metric needs only
counts @ statistics. Rows with equal statistics (for classifiers, rows with the same truth and the
same two predictions) form one group, and the counts of groups are multinomial too: with few groups,
10,000 samples of 100,000 rows take no longer than of 100.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Finish = Callable[[Floats], Floats]

MAX_BYTES = 64 << 20  # of counts in memory
FEW_GROUPS = 2000  # up to here, drawing the groups' counts is faster than drawing rows
SMALLEST = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class EncodedPredictions:
    """One model's predictions, with labels as indices into a common list.

    Attributes:
        predicted: [rows] label indices or values.
        probabilities: [rows, labels] in the order of `known`; None where there are none.
        known: Indices of the model's labels, in the order of its probabilities.
    """

    predicted: Array
    probabilities: Floats | None = None
    known: tuple[int, ...] = ()


def paired_bootstrap(
    metric: str,
    y: Array,
    one: EncodedPredictions,
    other: EncodedPredictions,
    *,
    resamples: int,
    seed: int,
) -> tuple[Floats, Floats]:
    """Compute the metric of both models on `resamples` samples of the rows, [resamples] each.

    The metric is NaN on samples where it is not defined, such as ROC AUC without both classes.

    Args:
        metric: A name of `tidemill.metrics.METRICS`.
        y: [rows] the truth, label indices or values.
    """
    random = np.random.default_rng(seed)
    if metric == "roc_auc":
        return _bootstrap_auc(y, one, other, resamples, random)
    first, finish = _statistics(metric, y, one)
    second, _ = _statistics(metric, y, other)
    width = first.shape[1]
    groups, sizes = _groups(np.hstack([first, second]))
    results = []
    for counts in _samples(sizes, resamples, random):
        sums = counts @ groups
        results.append((finish(sums[:, :width]), finish(sums[:, width:])))
    ones, others = zip(*results, strict=True)
    return np.concatenate(ones), np.concatenate(others)


def bootstrap(
    metric: str, y: Array, answers: EncodedPredictions, *, resamples: int, seed: int
) -> Floats:
    """Compute the metric of one model on `resamples` samples of the rows; NaN where undefined."""
    random = np.random.default_rng(seed)
    if metric == "roc_auc":
        curves, sizes = _Curves(y, answers), np.ones(len(y), dtype=np.int64)
        steps = _chunks(resamples, 4 * len(y))
        return np.concatenate([curves.areas(_draw_rows(sizes, n, random)) for n in steps])
    statistics, finish = _statistics(metric, y, answers)
    groups, sizes = _groups(statistics)
    return np.concatenate([finish(n @ groups) for n in _samples(sizes, resamples, random)])


def point_value(metric: str, y: Array, answers: EncodedPredictions) -> float:
    """Compute the metric on all rows, defined as in the samples.

    It is NaN where it is not defined, or needs probabilities that the model does not have.
    """
    if metric in ("roc_auc", "log_loss") and answers.probabilities is None:
        return float("nan")
    if metric == "roc_auc":
        return float(_Curves(y, answers).areas(np.ones((1, len(y))))[0])
    statistics, finish = _statistics(metric, y, answers)
    return float(finish(statistics.sum(axis=0, keepdims=True))[0])


# Metrics that are functions of sums over rows: statistics [rows, k], and sums [samples, k] to
# values [samples].


def _statistics(metric: str, y: Array, answers: EncodedPredictions) -> tuple[Floats, Finish]:
    if metric == "accuracy":
        return _columns(np.ones(len(y)), y == answers.predicted), _ratio
    if metric == "log_loss":
        return _columns(np.ones(len(y)), _losses(y, answers)), _ratio
    if metric in ("rmse", "mae", "r2"):
        return _errors(metric, y, answers)
    average = "weighted" if metric.endswith("_weighted") else "macro"
    return _by_class(metric.partition("_")[0], average, y, answers)


def _columns(*columns: Array) -> Floats:
    return np.column_stack([np.asarray(c, dtype=np.float64) for c in columns])


def _ratio(sums: Floats) -> Floats:
    return sums[:, 1] / sums[:, 0]


def _losses(y: Array, answers: EncodedPredictions) -> Floats:
    """-log of the true class's probability, in nats; an unknown class has the smallest float's."""
    assert answers.probabilities is not None
    given = np.zeros(len(y))
    for k, label in enumerate(answers.known):
        given[y == label] = answers.probabilities[y == label, k]
    share = given / np.maximum(answers.probabilities.sum(axis=1), SMALLEST)
    losses: Floats = -np.log(np.clip(share, SMALLEST, 1.0))
    return losses


def _errors(metric: str, y: Array, answers: EncodedPredictions) -> tuple[Floats, Finish]:
    error = y - answers.predicted
    ones = np.ones(len(y))
    if metric == "mae":
        return _columns(ones, np.abs(error)), _ratio
    if metric == "rmse":
        return _columns(ones, error**2), lambda sums: np.sqrt(_ratio(sums))
    centred = y - y.mean()  # the variance does not change, and its sums lose fewer digits
    return _columns(ones, error**2, centred, centred**2), _r2


def _r2(sums: Floats) -> Floats:
    """1 - SSE / SST; where all targets are equal, 1 for perfect predictions and 0 for others."""
    n, sse, total, squares = sums.T
    sst = squares - total**2 / n
    flat = sst <= 1e-12 * np.maximum(squares, 1e-300)
    value = 1 - sse / np.where(flat, 1.0, sst)
    return np.where(flat, np.where(sse == 0, 1.0, 0.0), value)


def _by_class(
    kind: str, average: str, y: Array, answers: EncodedPredictions
) -> tuple[Floats, Finish]:
    """Precision, recall or F1, from each class's true positives, predictions and true rows.

    As in scikit-learn, a ratio with denominator 0 is 0, the macro average is over the classes in
    the truth or the predictions, and the weighted average uses the number of true rows.
    """
    classes = np.union1d(y, answers.predicted)
    true = y[:, None] == classes
    said = answers.predicted[:, None] == classes
    width = len(classes)

    def finish(sums: Floats) -> Floats:
        hits, answered, support = (sums[:, i * width : (i + 1) * width] for i in range(3))
        below = {"precision": answered, "recall": support, "f1": (answered + support) / 2}[kind]
        scores = hits / np.maximum(below, 0.5)
        weights = support if average == "weighted" else (answered + support > 0).astype(float)
        total: Floats = (scores * weights).sum(axis=1) / weights.sum(axis=1)
        return total

    return np.hstack([true & said, said, true]).astype(np.float64), finish


# Samples


def _groups(statistics: Floats) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Distinct statistics, and how many rows have each."""
    groups, sizes = np.unique(statistics, axis=0, return_counts=True)
    return groups, sizes


def _samples(
    sizes: npt.NDArray[np.int64], resamples: int, random: np.random.Generator
) -> Iterator[Floats]:
    """Counts [samples, groups], some samples at a time."""
    rows = int(sizes.sum())
    draw = _draw_groups if len(sizes) <= FEW_GROUPS and len(sizes) < rows else _draw_rows
    for step in _chunks(resamples, max(len(sizes), rows if draw is _draw_rows else 0)):
        yield draw(sizes, step, random)


def _chunks(resamples: int, width: int) -> Iterator[int]:
    """Numbers of samples whose arrays of 8-byte numbers fit in MAX_BYTES."""
    step = max(1, MAX_BYTES // (8 * max(1, width)))
    for start in range(0, resamples, step):
        yield min(step, resamples - start)


def _draw_groups(sizes: npt.NDArray[np.int64], samples: int, random: np.random.Generator) -> Floats:
    rows = int(sizes.sum())
    return random.multinomial(rows, sizes / rows, size=samples).astype(np.float64)


def _draw_rows(sizes: npt.NDArray[np.int64], samples: int, random: np.random.Generator) -> Floats:
    """Draw every row, then count the groups; groups of one row each need no look-up."""
    rows, groups = int(sizes.sum()), len(sizes)
    drawn = random.integers(0, rows, size=(samples, rows))
    if groups < rows:
        drawn = np.repeat(np.arange(groups), sizes)[drawn]
    drawn += np.arange(samples)[:, None] * groups
    counts = np.bincount(drawn.ravel(), minlength=samples * groups)
    return counts.reshape(samples, groups).astype(np.float64)


# ROC AUC


class _Curves:
    """The areas under one model's ROC curves, for any counts of the rows.

    The area is the share of pairs of a positive and a negative row that the score orders correctly;
    ties count half (Hanley & McNeil, Radiology 143, 1982). With rows sorted by score it needs only
    cumulative sums. For several classes it is the mean of one-against-the-rest areas, over the
    classes with rows on both sides.
    """

    def __init__(self, y: Array, answers: EncodedPredictions) -> None:
        assert answers.probabilities is not None
        columns = [1] if len(answers.known) == 2 else range(len(answers.known))
        self._orders = [_Order(y == answers.known[k], answers.probabilities[:, k]) for k in columns]

    def areas(self, counts: Floats) -> Floats:
        """Areas [samples] for counts [samples, rows]; NaN where no class has both kinds of rows."""
        found = np.stack([order.area(counts) for order in self._orders])
        known = ~np.isnan(found)
        total = np.where(known, found, 0.0).sum(axis=0)
        number = known.sum(axis=0)
        return np.where(number > 0, total / np.maximum(number, 1), np.nan)


class _Order:
    """Rows sorted by one score; equal scores form one step."""

    def __init__(self, positive: npt.NDArray[np.bool_], scores: Floats) -> None:
        self._order = np.argsort(scores, kind="stable")
        ranked = scores[self._order]
        self._steps = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
        self._positive = positive[self._order]

    def area(self, counts: Floats) -> Floats:
        ranked = counts[:, self._order]
        above = np.add.reduceat(ranked * self._positive, self._steps, axis=1)
        below = np.add.reduceat(ranked * ~self._positive, self._steps, axis=1)
        lower = np.cumsum(below, axis=1) - below / 2
        pairs = above.sum(axis=1) * below.sum(axis=1)
        right = (above * lower).sum(axis=1)
        return np.where(pairs > 0, right / np.maximum(pairs, 1.0), np.nan)


def _bootstrap_auc(
    y: Array,
    one: EncodedPredictions,
    other: EncodedPredictions,
    resamples: int,
    random: np.random.Generator,
) -> tuple[Floats, Floats]:
    curves = _Curves(y, one), _Curves(y, other)
    sizes = np.ones(len(y), dtype=np.int64)
    ones, others = [], []
    for step in _chunks(resamples, 4 * len(y)):
        counts = _draw_rows(sizes, step, random)
        ones.append(curves[0].areas(counts))
        others.append(curves[1].areas(counts))
    return np.concatenate(ones), np.concatenate(others)
