"""Classifier two-sample test: can a small model separate window rows from training rows?

It finds what column-by-column tests cannot: a broken correlation, or a small shift in many columns
at once. The model is a ridge classifier on ranks, their squares and pairwise products. Its
leave-one-out score is compared with scores after permuting the labels "training" and "window",
which keeps the p-value valid for any sample size, distribution and choice of features.

Sources: Lopez-Paz & Oquab, "Revisiting Classifier Two-Sample Tests" (ICLR 2017); leave-one-out
predictions of ridge regression, Golub, Heath & Wahba, Technometrics 21 (1979) 215.

See decision 084.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import linalg, special, stats

from tidemill.steps.drift.histogram import Floats

#: Number of pairwise products among the model's inputs; of more pairs, a seeded sample.
PAIRS = 100

#: Weight of each kind of model input: the most common kinds of drift are the easiest to find.
LINEAR, SQUARE, PRODUCT = 1.0, 0.6, 0.5

#: Ridge penalty, as a share of the number of rows.
PENALTY = 0.3

SHUFFLES = 999
FIRST_SHUFFLES = 199


class ClassifierTestResult(msgspec.Struct, frozen=True):
    """How well the model separates window rows from training rows.

    `auc` is the probability that it ranks a window row above a training row: 0.5 where it cannot
    separate them. `moved` says whether that is an alarm.
    """

    auc: float
    p_value: float
    p_adjusted: float
    moved: bool
    reference_rows: int
    window_rows: int


def classifier_test(reference: Floats, window: Floats, seed: int = 0) -> tuple[float, float]:
    """Compute the leave-one-out AUC and its p-value.

    Args:
        reference: [n, d] training rows; NaN where a value is missing, categories as 0/1 columns.
        window: [m, d] rows of the window, the same columns.
        seed: Seed of the choice of pairs and of the permutations.
    """
    random = np.random.default_rng(seed)
    pooled = np.vstack([reference, window])
    inputs = _inputs(pooled, random)
    if inputs.shape[1] == 0 or min(len(reference), len(window)) < 2:
        return 0.5, 1.0
    labels = np.r_[np.zeros(len(reference)), np.ones(len(window))]
    hat = _half_hat(inputs)
    return _auc(hat, labels), _shuffled_p(hat, labels - labels.mean(), random)


def _inputs(pooled: Floats, random: np.random.Generator) -> Floats:
    """Normal scores of the ranks, their squares and products, and indicators of missing values."""
    missing = np.isnan(pooled)
    gaps = missing[:, missing.any(axis=0)].astype(np.float64)
    scores = _normal_scores(pooled)
    blocks = [
        LINEAR * _standard(scores),
        LINEAR * _standard(gaps),
        SQUARE * _standard(scores**2),
        PRODUCT * _standard(_products(scores, random)),
    ]
    return np.hstack(blocks)


def _normal_scores(pooled: Floats) -> Floats:
    """Each column's ranks among the pooled rows, as normal quantiles; 0 where missing.

    Pooled ranks treat both samples alike, which the permutations require, and limit outliers.
    """
    ranks = stats.rankdata(pooled, axis=0, nan_policy="omit")
    present = np.count_nonzero(~np.isnan(pooled), axis=0)
    scores = special.ndtri((ranks - 0.5) / np.maximum(present, 1))
    return np.asarray(np.nan_to_num(scores, nan=0.0, posinf=0.0, neginf=0.0))


def _products(scores: Floats, random: np.random.Generator) -> Floats:
    first, second = np.triu_indices(scores.shape[1], k=1)
    if first.size > PAIRS:
        chosen = random.choice(first.size, PAIRS, replace=False)
        first, second = first[chosen], second[chosen]
    return np.asarray(scores[:, first] * scores[:, second])


def _standard(columns: Floats) -> Floats:
    """Columns scaled to mean 0 and variance 1, without constant ones."""
    spread = columns.std(axis=0)
    varied = spread > 1e-9
    return np.asarray((columns[:, varied] - columns[:, varied].mean(axis=0)) / spread[varied])


def _half_hat(inputs: Floats) -> Floats:
    """The matrix G with G'G = X (X'X + penalty)^-1 X': [d, rows]."""
    rows, width = inputs.shape
    gram = inputs.T @ inputs + PENALTY * rows * np.eye(width)
    lower = linalg.cholesky(gram, lower=True)
    return np.asarray(linalg.solve_triangular(lower, inputs.T, lower=True))


def _auc(hat: Floats, labels: Floats) -> float:
    centred = labels - labels.mean()
    leverage = (hat**2).sum(axis=0)
    left_out = (hat.T @ (hat @ centred) - leverage * centred) / (1 - leverage)
    ranks = stats.rankdata(left_out)
    window = labels == 1
    m, n = int(window.sum()), int((~window).sum())
    return float((ranks[window].sum() - m * (m + 1) / 2) / (m * n))


def _shuffled_p(hat: Floats, centred: Floats, random: np.random.Generator) -> float:
    """The permutation p-value; more permutations are drawn only where the first leave doubt."""
    observed = float(_agreement(hat, centred[:, None])[0])
    shuffled = _shuffle(hat, centred, FIRST_SHUFFLES, random)
    if np.count_nonzero(shuffled >= observed) < FIRST_SHUFFLES // 10:
        more = _shuffle(hat, centred, SHUFFLES - FIRST_SHUFFLES, random)
        shuffled = np.concatenate([shuffled, more])
    above = int(np.count_nonzero(shuffled >= observed))
    if above >= 10:
        return (above + 1) / (shuffled.size + 1)
    return _tail(shuffled, observed)


def _shuffle(
    hat: Floats, centred: Floats, times: int, random: np.random.Generator
) -> NDArray[np.float64]:
    shuffled = random.permuted(np.repeat(centred[None, :], times, axis=0), axis=1)
    return _agreement(hat, shuffled.T)


def _agreement(hat: Floats, centred: Floats) -> Floats:
    """Sum of y_i times its fit from the other rows, without each row's own leverage."""
    fitted = ((hat @ centred) ** 2).sum(axis=0)
    own = (hat**2).sum(axis=0) @ centred**2
    return np.asarray(fitted - own)


def _tail(shuffled: Floats, observed: float) -> float:
    """A p-value below what permutations resolve: Pearson III with their first three moments."""
    spread = float(shuffled.std())
    if spread <= 1e-12:
        return 1.0
    skewness = max(float(stats.skew(shuffled)), 0.05)
    z = (observed - float(shuffled.mean())) / spread
    return float(np.clip(stats.pearson3.sf(z, skewness), 0.0, 1.0))


def one_hot(values: Sequence[str | None], levels: Sequence[str]) -> Floats:
    """[rows, levels] of 0 and 1; NaN in the whole row where the value is missing."""
    column = np.array(["" if v is None else v for v in values], dtype=object)
    gaps = np.array([v is None for v in values])
    encoded = (column[:, None] == np.asarray(levels, dtype=object)[None, :]).astype(np.float64)
    encoded[gaps] = np.nan
    return np.asarray(encoded)
