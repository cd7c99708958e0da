"""Rows a window repeats: retries, probes and caches must not count as so much independent evidence.

A two-sample test takes every row for a new draw. A client that asks for the same rows again and
again breaks that: 500 rows drawn from 100 distinct ones vary like 100, and a test that believes in
500 cries wolf. So where training rows practically never repeat, a repeated row counts once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

#: Above this share of repeated training rows, repeats are the nature of the data.
NATURAL_SHARE = 0.02

#: How many times the number of equal pairs that training leads one to expect is too many.
EXCESS = 2.0

#: A first look at so many rows decides whether all must be hashed.
FIRST_LOOK = 20_000


def distinct_rows(
    window: Mapping[str, NDArray[Any]], reference: Mapping[str, NDArray[Any]]
) -> NDArray[np.int64] | None:
    """The positions of the rows to keep, in order; None when every row counts.

    Args:
        window: Columns of equal length.
        reference: The same columns of a sample of training rows; empty when there is none.
    """
    rows = len(next(iter(window.values()), ()))
    natural = _pair_chance(reference)
    if natural is None or rows < 2:
        return None
    look = {name: column[:FIRST_LOOK] for name, column in window.items()}
    if not _excessive(_keys(look), natural):
        return None
    _, first = np.unique(_keys(window), return_index=True)
    return np.sort(first)


def _pair_chance(reference: Mapping[str, NDArray[Any]]) -> float | None:
    """An upper estimate of the chance that two training rows are equal; None if many are."""
    rows = len(next(iter(reference.values()), ()))
    if rows < 20:
        return None
    keys = _keys(reference)
    if np.unique(keys).size < rows * (1 - NATURAL_SHARE):
        return None
    return (_equal_pairs(keys) + 3) / (rows * (rows - 1) / 2)


def _excessive(keys: NDArray[np.uint64], chance: float) -> bool:
    expected = chance * keys.size * (keys.size - 1) / 2
    return _equal_pairs(keys) > EXCESS * max(expected, 1.0)


def _equal_pairs(keys: NDArray[np.uint64]) -> float:
    counts = np.unique(keys, return_counts=True)[1].astype(np.float64)
    return float((counts * (counts - 1)).sum() / 2)


def _keys(columns: Mapping[str, NDArray[Any]]) -> NDArray[np.uint64]:
    hashed = pd.util.hash_pandas_object(pd.DataFrame(dict(columns), copy=False), index=False)
    return np.asarray(hashed, dtype=np.uint64)
