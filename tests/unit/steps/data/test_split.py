"""The held-out rows: the right number of each class, and reproducible."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from tidemill import Candidate, Project
from tidemill.steps.data.fingerprint import fingerprint, row_hashes, seeded_row_hashes
from tidemill.steps.data.split import allocate, split


def project(**options: Any) -> Project:
    given = {"name": "p", "target": "y", "candidates": [Candidate("a", LogisticRegression)]}
    return Project(data=pd.DataFrame, **{**given, **options})


def rows(n: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame({"x": rng.normal(size=n), "y": rng.choice(["a", "b", "c"], n)})


def test_every_row_is_either_trained_on_or_held_out() -> None:
    frame = rows(200)
    parts = split(frame, project())
    assert sorted([*parts.train.index, *parts.test.index]) == list(frame.index)
    assert len(parts.test) == 40


def test_the_split_is_stratified_by_class() -> None:
    frame = rows(1000)
    shares = split(frame, project()).test["y"].value_counts() / frame["y"].value_counts()
    assert shares.between(0.19, 0.21).all()


def test_the_order_of_rows_does_not_matter() -> None:
    frame = rows(300)
    one, other = split(frame, project()), split(frame.sample(frac=1, random_state=1), project())
    assert set(one.test.index) == set(other.test.index)
    assert fingerprint(one.test) == fingerprint(other.test)


def test_the_seed_matters() -> None:
    frame = rows(300)
    assert set(split(frame, project()).test.index) != set(split(frame, project(seed=1)).test.index)


def test_old_rows_stay_on_their_side_when_a_table_grows() -> None:
    old, new = rows(1000), rows(300, seed=9)
    before = set(split(old, project()).test.index)
    grown = pd.concat([old, new], ignore_index=True)
    after = {i for i in split(grown, project()).test.index if i < len(old)}
    assert len(before ^ after) <= 0.1 * len(before)


def test_without_shuffling_the_last_rows_are_held_out() -> None:
    assert list(split(rows(50), project(shuffle=False)).test.index) == list(range(40, 50))


def test_equal_rows_are_split_between_both_sides() -> None:
    frame = pd.DataFrame({"x": [1.0] * 100, "y": ["a", "b"] * 50})
    assert len(split(frame, project()).test) == 20


def test_regression_targets_are_not_stratified() -> None:
    frame = pd.DataFrame({"x": range(100), "y": np.linspace(0, 1, 100)})
    assert len(split(frame, project(test_size=0.25)).test) == 25


@given(counts=st.lists(st.integers(2, 500), min_size=1, max_size=12), share=st.floats(0.01, 0.99))
def test_allocations_add_up_and_leave_a_row_on_either_side(counts: list[int], share: float) -> None:
    parts = allocate(np.array(counts), share)
    assert all(1 <= part <= count - 1 for part, count in zip(parts, counts, strict=True))
    clipped = sum(min(max(count * share, 1), count - 1) for count in counts)
    assert abs(sum(parts) - clipped) <= len(counts)
    assert all(
        abs(part - min(max(count * share, 1), count - 1)) < 1
        for part, count in zip(parts, counts, strict=True)
    )


def test_integer_allocations_are_exact() -> None:
    assert allocate(np.array([50, 50, 50]), 0.2) == [10, 10, 10]
    assert sum(allocate(np.array([357, 212]), 0.2)) == 114


@pytest.mark.parametrize("dtype", ["float32", "int64", "Int64", "float64", object])
def test_a_fingerprint_depends_on_values_not_on_types(dtype: Any) -> None:
    plain = pd.DataFrame({"n": [1.0, 2.0, 3.0], "t": ["a", None, "b"]})
    other = plain.astype({"n": dtype, "t": "category"})
    if dtype is object:
        other["n"] = other["n"].astype("float64")
    assert fingerprint(other) == fingerprint(plain)


@given(
    st.lists(
        st.tuples(st.floats(allow_infinity=False), st.text() | st.none()), min_size=1, max_size=20
    ),
    st.randoms(use_true_random=False),
)
def test_a_fingerprint_depends_on_content_not_on_order(
    values: list[tuple[float, str | None]], random: Any
) -> None:
    frame = pd.DataFrame(values, columns=["n", "t"])
    order = list(range(len(frame)))
    random.shuffle(order)
    assert fingerprint(frame.iloc[order]) == fingerprint(frame)
    assert fingerprint(frame.rename(columns={"n": "m"})) != fingerprint(frame)
    changed = frame.assign(t=frame["t"].astype(object).fillna("") + "!")
    assert fingerprint(changed) != fingerprint(frame)


def test_a_fingerprint_is_the_same_on_every_machine() -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", None]})
    assert fingerprint(frame)[:16] == "192c32ea66b5b69e"


def test_zeros_hash_alike_and_equal_rows_get_different_numbers() -> None:
    frame = pd.DataFrame({"a": [0.0, -0.0, 0.0]})
    assert len(set(row_hashes(frame))) == 1
    assert len(set(seeded_row_hashes(frame, 1))) == 3
