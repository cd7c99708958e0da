"""Columns that reveal the target are found, and honest ones are not suspected."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tidemill.signature import Task
from tidemill.steps.data.leaks import find_leaks

ROWS = 400


def suspected(table: dict[str, object], task: Task = "regression") -> list[tuple[str, str]]:
    frame = pd.DataFrame(table)
    return list(find_leaks(frame, [name for name in frame if name != "y"], "y", task))


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(3)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_sum_or_difference_of_two_columns(random: np.random.Generator, sign: int) -> None:
    a, b, c = random.normal(size=(3, ROWS))
    found = suspected({"a": a, "c": c, "b": b, "y": a + sign * 3 * b})
    assert [name for name, _ in found] == ["a"]
    assert "'a' and 'b' together" in found[0][1]


def test_a_column_in_another_unit_is_named_alone(random: np.random.Generator) -> None:
    a, c = random.normal(size=(2, ROWS))
    found = suspected({"fahrenheit": a * 1.8 + 32 + c * 1e-3, "c": c, "y": a})
    assert [name for name, _ in found] == ["fahrenheit"]


def test_gaps_do_not_hide_a_sum(random: np.random.Generator) -> None:
    a, b = random.normal(size=(2, ROWS))
    y = a + b
    assert suspected({"a": np.where(random.random(ROWS) < 0.02, np.nan, a), "b": b, "y": y})


def test_a_good_model_is_no_leak(random: np.random.Generator) -> None:
    a, b = random.normal(size=(2, ROWS))
    assert suspected({"a": a, "b": b, "y": a + b + random.normal(size=ROWS) * 0.1}) == []


def test_a_number_that_separates_two_classes(random: np.random.Generator) -> None:
    y = random.random(ROWS) < 0.4
    separate = np.where(y, 5.0, 0.0) + random.normal(size=ROWS) * 0.5
    overlapping = np.where(y, 1.0, 0.0) + random.normal(size=ROWS)
    found = suspected({"a": separate, "b": overlapping, "y": y}, "classification")
    assert [name for name, _ in found] == ["a"]


def test_categories_that_belong_to_one_class_each(random: np.random.Generator) -> None:
    code = random.integers(0, 6, ROWS)
    y = np.where(code < 3, "no", "yes")
    honest = random.integers(0, 6, ROWS).astype(str)
    table = {"reason": [f"r{value}" for value in code], "honest": honest, "y": y}
    assert [name for name, _ in suspected(table, "classification")] == ["reason"]


def test_a_column_that_is_missing_where_a_class_is(random: np.random.Generator) -> None:
    y = np.where(random.random(ROWS) < 0.3, "left", "stayed")
    value = random.normal(size=ROWS)
    at_random = np.where(random.random(ROWS) < 0.3, np.nan, value)
    table = {"ended": np.where(y == "left", np.nan, value), "age": at_random, "y": y}
    found = suspected(table, "classification")
    assert [name for name, _ in found] == ["ended"]
    assert "missing exactly where 'y' is 'left'" in found[0][1]


@pytest.mark.parametrize("task", ["regression", "classification"])
def test_odd_tables_are_no_error(task: Task) -> None:
    for rows in (0, 1, 25):
        y = [float(i % 2) for i in range(rows)]
        table = {"constant": [1.0] * rows, "empty": [np.nan] * rows, "text": ["a"] * rows, "y": y}
        assert suspected(table, task) == []
