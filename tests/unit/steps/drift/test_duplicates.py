"""Repeated rows count once where training rows never repeat."""

import numpy as np

from tidemill.steps.drift.duplicates import distinct_rows


def table(rows, seed, decimals=None):
    values = np.random.default_rng(seed).normal(size=(2, rows))
    if decimals is not None:
        values = values.round(decimals)
    return {"a": values[0], "b": values[1]}


def take(columns, rows):
    return {name: column[rows] for name, column in columns.items()}


def test_window_without_duplicates_is_unchanged():
    assert distinct_rows(table(500, 1), table(300, 2)) is None


def test_repeated_probe_row_counts_once():
    window = take(table(200, 1), np.r_[np.arange(200), np.zeros(300, dtype=int)])

    assert distinct_rows(window, table(300, 2)).tolist() == list(range(200))


def test_duplicates_of_few_rows_count_once_each():
    drawn = np.random.default_rng(3).integers(0, 100, 500)
    window = take(table(100, 1), drawn)

    assert len(distinct_rows(window, table(300, 2))) == len(set(drawn.tolist()))


def test_duplicates_that_training_has_are_kept():
    reference, window = table(500, 1, decimals=0), table(500, 2, decimals=0)

    assert distinct_rows(window, reference) is None


def test_few_distinct_rows_are_all_kept():
    random = np.random.default_rng(4)
    reference = {name: random.random(500) < 0.5 for name in "abcd"}
    window = {name: np.ones(300, dtype=bool) for name in "abcd"}

    assert distinct_rows(window, reference) is None


def test_chance_duplicates_of_rounded_values_are_kept():
    assert distinct_rows(table(300, 1, decimals=1), table(300, 2, decimals=1)) is None


def test_duplicates_of_texts_and_missing_values_count_once():
    reference = {"t": np.array([f"text {i}" for i in range(100)], dtype=object)}
    window = {"t": np.array(["x", None, "x", None, "y", "x", "x"], dtype=object)}

    assert distinct_rows(window, reference).tolist() == [0, 1, 4]


def test_without_a_sample_of_training_rows_every_row_counts():
    window = take(table(10, 1), np.zeros(200, dtype=int))

    assert distinct_rows(window, {}) is None
    assert distinct_rows({}, table(100, 1)) is None
