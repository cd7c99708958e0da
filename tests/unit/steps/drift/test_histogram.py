"""Sketches: exact counts, whole ties, small JSON."""

import json

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tidemill.steps.drift.histogram import (
    BINS,
    CategoryHistogram,
    NumericHistogram,
    as_floats,
    category_histogram,
    category_text,
    count_bins,
    numeric_histogram,
    read_histogram,
)

columns = arrays(
    np.float64,
    st.integers(0, 300),
    elements=st.one_of(st.floats(-1e6, 1e6), st.integers(-5, 5).map(float), st.just(float("nan"))),
)


@settings(max_examples=50)
@given(columns)
def test_every_value_is_in_one_bin_or_missing(values):
    sketch = numeric_histogram(values)

    assert sketch.rows + sketch.missing == len(values)
    assert len(sketch.counts) == len(sketch.edges) + 1
    assert list(sketch.edges) == sorted(set(sketch.edges))


@settings(max_examples=50)
@given(columns)
def test_counts_are_those_of_the_values_up_to_each_edge(values):
    sketch = numeric_histogram(values)

    below = np.cumsum(sketch.counts)[:-1]
    assert [int((values <= edge).sum()) for edge in sketch.edges] == below.tolist()


def test_few_distinct_values_have_a_bin_each():
    sketch = numeric_histogram([0.0] * 90 + [1.0] * 9 + [2.0])

    assert sketch.counts == (90, 9, 1)


def test_frequent_value_has_its_own_bin():
    values = np.r_[np.zeros(8000), np.random.default_rng(0).exponential(size=2000)]

    assert 8000 in numeric_histogram(values).counts


def test_many_distinct_values_have_bins_of_equal_counts():
    sketch = numeric_histogram(np.random.default_rng(0).lognormal(size=20_000))

    assert len(sketch.counts) == BINS
    assert set(sketch.counts) == {100}


def test_close_values_far_from_zero_keep_their_bins():
    values = 1.7e15 + np.arange(150)

    assert set(numeric_histogram(values).counts) == {1}


def test_very_large_values_do_not_overflow():
    sketch = numeric_histogram([1e308, -1e308, 0.0])

    assert np.isfinite([sketch.mean, sketch.std, *sketch.edges]).all()


def test_histogram_survives_json_and_stays_small():
    sketch = numeric_histogram(np.random.default_rng(1).normal(size=100_000))
    text = msgspec.json.encode(sketch)

    assert len(text) < 4000
    assert read_histogram(json.loads(text)) == sketch


def test_category_histogram_survives_json():
    sketch = category_histogram(["a", "b", None, "a"])

    assert read_histogram(json.loads(msgspec.json.encode(sketch))) == sketch


@pytest.mark.parametrize("values", [[], [None], [float("nan")] * 3])
def test_empty_column_gives_an_empty_histogram(values):
    sketch = numeric_histogram(values)

    assert (sketch.rows, sketch.missing, sketch.edges) == (0, len(values), ())


def test_rare_categories_are_counted_together():
    texts = ["common"] * 10 + [f"rare {i}" for i in range(5)]
    sketch = category_histogram(texts, keep=2)

    assert sketch == CategoryHistogram(
        counts={"common": 10, "rare 0": 1}, other=4, singletons=5, missing=0
    )
    assert sketch.rows == 15


@pytest.mark.parametrize("values", [[True, False, True], [1.0, 0.0, 1.0], [1, 0, 1]])
def test_boolean_category_does_not_depend_on_its_type(values):
    assert category_histogram(values).counts == {"1": 2, "0": 1}


def test_category_is_its_text():
    assert [category_text(v) for v in ("a", 2, 2.0, 2.5, np.True_)] == ["a", "2", "2", "2.5", "1"]


def test_non_numeric_values_count_as_missing():
    assert np.isnan(as_floats(["x", None, "2"])).tolist() == [True, True, False]
    assert as_floats(pd.Series([1, None], dtype="Int64")).tolist()[0] == 1.0


def test_window_is_counted_on_the_reference_edges():
    sketch = NumericHistogram((1.0, 2.0), (1, 1, 1), 0.0, 3.0, 1.5, 1.0)

    counts = count_bins(np.array([0.5, 1.0, 1.5, 9.0, 9.0]), np.asarray(sketch.edges))
    assert counts.tolist() == [2, 1, 2]
