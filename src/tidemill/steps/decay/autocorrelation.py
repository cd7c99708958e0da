"""Autocorrelation time of a sequence of losses: how many rows carry the information of one.

Losses of live rows are rarely independent: hard days follow each other. With an integrated
autocorrelation time tau, the mean of n rows varies like that of n / tau independent ones (their
effective sample size).

Sources: batch means, Flegal & Jones, Ann. Statist. 38 (2010) 1034; the ratio of mean square
successive differences, von Neumann, Ann. Math. Statist. 12 (1941) 367. See decision 174.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: Newest rows that `robust_autocorrelation_time` is usually given, and the fewest it accepts.
AUTOCORRELATION_ROWS = 2_000
MIN_ROBUST_ROWS = 500
#: Independent rows exceed 1 by chance, seldom this much.
CHANCE_RATIO = 1.5


def autocorrelation_time(losses: Floats) -> float:
    """Estimate the integrated autocorrelation time, in rows: 1 or more.

    It is the variance of batch means times the batch size, divided by the variance of single rows.
    There are about as many batches as rows in each.

    Args:
        losses: [rows] in order.

    Examples:
        >>> random = np.random.default_rng(0)
        >>> independent = (random.random(2500) < 0.2).astype(float)
        >>> autocorrelation_time(independent) < 2
        True
        >>> 8 < autocorrelation_time(np.repeat(independent[:250], 10)) < 14
        True
    """
    size = math.isqrt(len(losses))
    variance = float(losses.var())
    if size < 2 or variance <= 0:
        return 1.0
    means = _batch_means(losses, size)
    return float(np.clip(size * means.var(ddof=1) / variance, 1.0, size))


def robust_autocorrelation_time(losses: Floats) -> float:
    """As `autocorrelation_time`, for losses whose mean may have shifted within the sample.

    It uses the differences of neighbouring batch means, of which a level shift affects only one.

    Returns:
        Rows; 1 for fewer than 500 rows, and for values that chance explains.
    """
    size = math.isqrt(len(losses))
    variance = float(losses.var()) if len(losses) >= MIN_ROBUST_ROWS else 0.0
    if variance <= 0:
        return 1.0
    differences = np.diff(_batch_means(losses, size))
    found = size * float(np.mean(differences**2)) / 2 / variance
    return min(found, float(size)) if found > CHANCE_RATIO else 1.0


def _batch_means(losses: Floats, size: int) -> Floats:
    whole = losses[: len(losses) // size * size].reshape(-1, size)
    return np.asarray(whole.mean(axis=1))
