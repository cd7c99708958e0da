"""Remove duplicate rows from a window, so that they do not count as independent evidence.

A two-sample test takes every row as an independent draw. Retries, probes and caches break that: 500
rows drawn from 100 distinct ones vary like 100, and the test gives false alarms. So where training
rows are practically never equal, a duplicate counts once (docs/decisions/083).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

#: Above this share of duplicates among training rows, duplicates are normal for the data.
NATURAL_SHARE = 0.02

#: Ratio of equal pairs to the number expected from training above which they are duplicates.
EXCESS = 2.0

#: The first rows, which decide whether all are hashed.
FIRST_ROWS = 20_000


def distinct_rows(
    window: Mapping[str, NDArray[Any]], reference: Mapping[str, NDArray[Any]]
) -> NDArray[np.int64] | None:
    """Return the positions of the rows to keep, in order; None where every row counts.

    Args:
        window: Columns of equal length.
        reference: The same columns of a sample of training rows; empty where there is none.
    """
    rows = len(next(iter(window.values()), ()))
    expected = _pair_probability(reference)
    if expected is None or rows < 2:
        return None
    first_rows = {name: column[:FIRST_ROWS] for name, column in window.items()}
    if not _excessive(_keys(first_rows), expected):
        return None
    _, first = np.unique(_keys(window), return_index=True)
    return np.sort(first)


def _pair_probability(reference: Mapping[str, NDArray[Any]]) -> float | None:
    """An upper estimate of the probability that two training rows are equal; None if many are."""
    rows = len(next(iter(reference.values()), ()))
    if rows < 20:
        return None
    keys = _keys(reference)
    if np.unique(keys).size < rows * (1 - NATURAL_SHARE):
        return None
    return (_equal_pairs(keys) + 3) / (rows * (rows - 1) / 2)


def _excessive(keys: NDArray[np.uint64], probability: float) -> bool:
    expected = probability * keys.size * (keys.size - 1) / 2
    return _equal_pairs(keys) > EXCESS * max(expected, 1.0)


def _equal_pairs(keys: NDArray[np.uint64]) -> float:
    counts = np.unique(keys, return_counts=True)[1].astype(np.float64)
    return float((counts * (counts - 1)).sum() / 2)


def _keys(columns: Mapping[str, NDArray[Any]]) -> NDArray[np.uint64]:
    hashed = pd.util.hash_pandas_object(pd.DataFrame(dict(columns), copy=False), index=False)
    return np.asarray(hashed, dtype=np.uint64)
