"""Training windows and what is held out; lessons under a project's names."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from tidemill.errors import DataError
from tidemill.project import Candidate, Project
from tidemill.steps.retraining.feedback_data import FeedbackData, clean_with_feedback, cut_at
from tidemill.steps.retraining.training_windows import (
    MIN_ROWS,
    held_out_rows,
    training_windows,
    window_size,
)


@given(st.integers(1, 60_000), st.one_of(st.none(), st.integers(0, 60_000)))
def test_windows_end_with_the_newest_row_and_are_apart(rows: int, since: int | None) -> None:
    found = training_windows(rows, since=since)
    assert (found[0].name, found[0].start) == ("all", 0)
    assert len({window.name for window in found}) == len(found)
    assert {window.end for window in found} == {rows}
    sizes = [w.end - w.start for w in found]
    assert sizes == sorted(sizes, reverse=True)
    assert all(size >= MIN_ROWS for size in sizes[1:])
    changed = since is not None and MIN_ROWS <= rows - since < rows
    assert ("since" in {w.name for w in found}) == changed


def test_the_window_since_the_change_takes_the_place_of_one_like_it() -> None:
    assert [w.name for w in training_windows(20_000, since=17_900)] == ["all", "since"]
    assert [w.name for w in training_windows(20_000, since=19_000)] == ["all", "last-2000", "since"]


def test_the_newest_rows_are_a_window_of_a_longer_table() -> None:
    newest = training_windows(20_000)[-1]
    assert (newest.name, window_size(newest.name)) == ("last-2000", 2_000)
    assert newest.rows().tolist() == list(range(18_000, 20_000))
    assert [w.name for w in training_windows(2_400)] == ["all"]


@given(st.integers(0, 10_000))
def test_at_most_half_is_held_out(rows: int) -> None:
    assert 0 <= held_out_rows(rows) <= rows / 2
    assert held_out_rows(rows) <= 500


times = st.lists(st.integers(0, 20), min_size=1, max_size=80).map(sorted)


@given(times, st.integers(0, 90))
def test_rows_of_one_time_are_not_split(moments: list[int], held: int) -> None:
    asked = np.array(moments, dtype=float)
    cut = cut_at(asked, held)
    learned = int((asked < cut).sum())
    assert cut in asked
    if len(set(moments)) > 1:
        assert 0 < learned < len(moments)


def project() -> Project:
    frame = pd.DataFrame(
        {
            "size": [1.0, 2.0, 3.0, 4.0] * 10,
            "plan": ["a", "b"] * 20,
            "always": ["same"] * 40,
            "left": [True, False] * 20,
        }
    )
    return Project("p", lambda: frame, "left", [Candidate("c", LogisticRegression)])


def lessons(**columns: object) -> FeedbackData:
    frame = pd.DataFrame({"size": [9.0, 8.0], "plan": ["b", None], **columns})
    actual = np.array([True, False], dtype=object)
    return FeedbackData(frame, actual, np.array([5.0, 6.0]), cut=6.0, changed=5.0)


def test_feedback_follows_the_projects_rows_in_its_types() -> None:
    given_lessons = lessons()
    cleaned, own = clean_with_feedback(project(), given_lessons)
    assert (own, len(cleaned.frame)) == (40, 42)
    assert cleaned.inputs == ("size", "plan")  # what always says the same still does
    assert cleaned.frame["left"].tolist()[-2:] == [True, False]
    assert cleaned.frame["size"].tolist()[-2:] == [9.0, 8.0]
    assert (given_lessons.learned, given_lessons.since) == (1, 0)


def test_feedback_without_a_column_is_refused() -> None:
    told = lessons()
    lacking = FeedbackData(told.frame.drop(columns="plan"), told.actual, told.times, told.cut)
    with pytest.raises(DataError, match="no column 'plan'"):
        clean_with_feedback(project(), lacking)
