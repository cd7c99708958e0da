"""The profile's sample of training rows and the window's rows, as numeric matrices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidemill.steps.drift.classifier_test import one_hot
from tidemill.steps.drift.histogram import Floats, as_floats, category_text

#: Rows of a window that the classifier test uses; larger windows are sampled.
ROWS = 1000

#: Categories of a column with a 0/1 column of their own; other rows are all zero.
LEVELS = 10


def joint_sample(profile: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """Return the training rows that a profile samples, by column; empty where there are none.

    All columns have the same rows in the same order, with None where a value is missing.
    """
    entries = {name: profile["columns"][name] for name in names}
    lengths = {len(entry.get("sample", ())) for entry in entries.values()}
    if len(lengths) != 1 or lengths == {0}:
        return {}
    return {
        name: as_floats(entry["sample"])
        if "edges" in entry
        else np.array(entry["sample"], dtype=object)
        for name, entry in entries.items()
    }


def numeric_matrix(
    profile: Mapping[str, Any],
    sample: Mapping[str, NDArray[Any]],
    window: Mapping[str, NDArray[Any]],
    seed: int,
) -> tuple[Floats, Floats]:
    """Encode sample and window as numbers in the same columns: [n, d] and [m, d], m <= ROWS."""
    chosen = _choose(len(next(iter(window.values()))), seed)
    blocks = [
        _block(profile["columns"][name], column, window[name][chosen])
        for name, column in sample.items()
    ]
    return np.hstack([before for before, _ in blocks]), np.hstack([after for _, after in blocks])


def _choose(rows: int, seed: int) -> NDArray[np.int64]:
    if rows <= ROWS:
        return np.arange(rows)
    return np.sort(np.random.default_rng(seed).choice(rows, ROWS, replace=False))


def _block(
    entry: Mapping[str, Any], sample: NDArray[Any], window: NDArray[Any]
) -> tuple[Floats, Floats]:
    if "edges" in entry:
        return sample[:, None], as_floats(window)[:, None]
    levels = list(entry["counts"])[:LEVELS]
    return one_hot(_texts(sample), levels), one_hot(_texts(window), levels)


def _texts(values: NDArray[Any]) -> list[str | None]:
    return [None if _is_missing(value) else category_text(value) for value in values.tolist()]


def _is_missing(value: Any) -> bool:
    return value is None or value != value  # NaN is the one value that differs from itself
