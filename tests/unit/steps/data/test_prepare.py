"""Rows are loaded, renamed, converted to kinds and checked."""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from tidemill import Candidate, Project, Tensor, csv
from tidemill.errors import DataError
from tidemill.steps.data.clean import clean
from tidemill.steps.data.column_kinds import as_kind, infer_kind
from tidemill.steps.data.fingerprint import fingerprint
from tidemill.steps.data.prepare import input_matrix, load_frame, prepare, target_array

ROWS = 40


def table(**columns: Any) -> pd.DataFrame:
    """Forty rows: a number, a text, and a target of two classes; more columns as given."""
    rng = np.random.default_rng(0)
    base = {
        "size": rng.normal(size=ROWS),
        "colour": rng.choice(["red", "green"], ROWS),
        "kind": np.where(np.arange(ROWS) % 2, "yes", "no"),
    }
    return pd.DataFrame({**base, **columns})


def project(frame: pd.DataFrame | None = None, **options: Any) -> Project:
    given = {"name": "p", "target": "kind", "candidates": [Candidate("a", LogisticRegression)]}
    return Project(data=lambda: table() if frame is None else frame, **{**given, **options})


def texts(frame: pd.DataFrame, **options: Any) -> str:
    return "\n".join(w.text for w in clean(frame, project(**options)).warnings)


def test_prepare_loads_cleans_and_splits() -> None:
    found = prepare(project())
    assert (found.task, found.inputs) == ("classification", ("size", "colour"))
    assert (len(found.train), len(found.test)) == (32, 8)
    assert found.test["kind"].value_counts().to_dict() == {"yes": 4, "no": 4}
    assert found.kinds == {"size": "number", "colour": "text"}
    assert found.warnings == ()
    assert len(found.fingerprint) == 64
    assert found.test_fingerprint == fingerprint(found.test)


def test_the_source_is_described_by_the_source_or_the_frame() -> None:
    assert prepare(project()).source == "<lambda>"
    frame = table()
    frame.attrs["source"] = "somewhere"
    assert prepare(project(frame)).source == "somewhere"


def test_a_csv_is_loaded_with_the_projects_names(tmp_path: Path) -> None:
    table(Id=range(ROWS)).rename(columns={"size": "Size"}).to_csv(tmp_path / "x.csv", index=False)
    given = project(rename={"Size": "size"}, drop=["Id"])
    given = replace(given, data=csv(tmp_path / "x.csv"))
    found = clean(load_frame(given), given)
    assert list(found.frame.columns) == ["size", "colour", "kind"]


def test_a_data_function_must_return_a_frame() -> None:
    with pytest.raises(DataError, match="returned list"):
        load_frame(replace(project(), data=lambda: [1, 2]))


def test_data_without_rows_are_refused() -> None:
    with pytest.raises(DataError, match="no rows"):
        load_frame(project(table().head(0)))


def test_a_missing_target_names_its_near_matches() -> None:
    with pytest.raises(DataError, match="Did you mean 'Kind'") as caught:
        clean(table().rename(columns={"kind": "Kind"}), project())
    assert caught.value.field == "target"


def test_a_missing_target_without_near_matches_lists_the_columns() -> None:
    with pytest.raises(DataError, match="Columns: size, colour, kind"):
        clean(table(), project(target="zzzzzz"))


@pytest.mark.parametrize("option", [{"drop": ["sise"]}, {"rename": {"sise": "s"}}])
def test_a_column_to_drop_or_rename_must_exist(option: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"'sise' is not in the data.*'size'"):
        clean(table(), project(**option))


def test_duplicate_column_names_are_refused() -> None:
    frame = pd.concat([table(), table()[["size"]]], axis="columns")
    with pytest.raises(DataError, match="Several columns are named 'size'"):
        clean(frame, project())


def test_infinite_values_are_refused_by_column_and_count() -> None:
    frame = table(rate=[np.inf, -np.inf, *range(ROWS - 2)])
    with pytest.raises(DataError, match=r"infinite values in 'rate' \(2\)"):
        clean(frame, project())


def test_rows_without_a_target_are_left_out_with_a_warning() -> None:
    frame = table()
    frame.loc[:2, "kind"] = None
    found = clean(frame, project())
    assert len(found.frame) == ROWS - 3
    assert found.warnings[0].text == "3 rows without a target were left out."


def test_a_target_missing_everywhere_is_refused() -> None:
    with pytest.raises(DataError, match="missing in every row"):
        clean(table(kind=[None] * ROWS), project())


def test_constant_columns_stay_in_the_table_but_are_not_inputs() -> None:
    found = clean(table(same=1.5, empty=[None] * ROWS), project())
    assert found.inputs == ("size", "colour")
    assert {"same", "empty"} <= set(found.frame.columns)
    assert [w.column for w in found.warnings if "only one value" in w.text] == ["same", "empty"]


def test_a_table_without_input_columns_is_refused() -> None:
    with pytest.raises(DataError, match="No input columns are left"):
        clean(table(size=1.0, colour="red"), project())


def test_a_class_with_one_row_is_refused() -> None:
    frame = table()
    frame.loc[0, "kind"] = "maybe"
    with pytest.raises(DataError, match="single row of 'maybe'"):
        clean(frame, project())


def test_a_single_class_is_refused() -> None:
    with pytest.raises(DataError, match="only one class, 'no'"):
        clean(table(kind="no"), project())


def test_numeric_labels_are_shown_as_numbers() -> None:
    with pytest.raises(DataError, match="only one class, 1"):
        clean(table(kind=1), project())
    with pytest.raises(DataError, match="a single row of 2\\."):
        clean(table(kind=[*[0, 1] * 19, 1, 2]), project())


def test_a_class_with_few_rows_is_a_warning() -> None:
    frame = table()
    frame.loc[:3, "kind"] = "maybe"
    assert "Class 'maybe' has only 4 rows" in texts(frame)


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(DataError, match="There are 9 rows"):
        clean(table().head(9), project())


@pytest.mark.parametrize(
    ("columns", "warning"),
    [
        ({"again": table()["size"]}, "'size' and 'again' contain the same values"),
        ({"answer": table()["kind"].map({"yes": 1, "no": 0})}, "'answer' determines the target"),
        ({"Id": range(1, ROWS + 1)}, "'Id' counts the rows"),
        ({"far": table()["size"] * 1e200}, "'far' contains values beyond 1e\\+150"),
        ({"name": [f"n{i}" for i in range(ROWS)]}, "'name' has 40 distinct texts"),
        ({"age": [str(i % 7) for i in range(ROWS - 1)] + ["?"]}, "is '\\?' a missing value"),
        (
            {"code": pd.Series(range(ROWS)).mod(3).astype("category")},
            "'code' has numeric categories",
        ),
    ],
)
def test_doubtful_columns_are_warnings(columns: dict[str, Any], warning: str) -> None:
    import re

    assert re.search(warning, texts(table(**columns)))


def test_repeated_rows_are_a_warning() -> None:
    assert "2 rows repeat an earlier row" in texts(pd.concat([table(), table().head(2)]))


def test_a_quantity_equal_to_an_input_is_a_leak() -> None:
    frame = table(cost=np.linspace(0, 1, ROWS), copy=np.linspace(0, 1, ROWS))
    assert "'copy' determines the target" in texts(frame, target="cost")


@pytest.mark.parametrize(
    ("target", "task"),
    [
        (["a", "b"] * 20, "classification"),
        ([True, False] * 20, "classification"),
        ([0, 1] * 20, "classification"),
        ([1.0, 2.0] * 20, "classification"),
        (list(range(40)), "regression"),
        ([i % 10 for i in range(40)], "regression"),
        ([i % 4 for i in range(40)], "classification"),
        (np.linspace(0, 1, 40), "regression"),
    ],
)
def test_the_task_is_inferred_from_the_target(target: Any, task: str) -> None:
    assert clean(table(kind=target), project()).task == task


def test_whole_number_classes_become_integers_and_quantities_float() -> None:
    classes = clean(table(kind=[1.0, 2.0] * 20), project())
    assert target_array(classes.frame, project()).dtype == "int64"
    quantities = clean(table(kind=range(40)), project())
    assert target_array(quantities.frame, project()).dtype == "float64"


def test_booleans_with_missing_targets_stay_booleans() -> None:
    found = clean(table(kind=[True, False] * 18 + [None] * 4), project())
    assert found.frame["kind"].dtype == "bool"


def test_text_labels_are_plain_strings() -> None:
    assert target_array(table(), project()).dtype.kind == "U"


@pytest.mark.parametrize(
    ("target", "task", "message"),
    [
        (np.linspace(0, 1, ROWS), "classification", "fractions"),
        (["a", "b"] * 20, "regression", "regression needs numbers"),
        ([True, False] * 20, "regression", "regression needs numbers"),
    ],
)
def test_a_target_that_does_not_fit_the_task_is_refused(
    target: Any, task: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        clean(table(kind=target), project(task=task))


@pytest.mark.parametrize(
    ("values", "dtype", "kind", "became"),
    [
        ([True, False], None, "boolean", "bool"),
        ([True, None], None, "boolean", "float64"),
        ([True, None], "boolean", "boolean", "float64"),
        ([1, 2], "uint8", "integer", "int64"),
        ([1, None], "Int64", "integer", "float64"),
        ([1, None], object, "integer", "float64"),
        ([2**70, 1], object, "integer", "float64"),
        ([2**64 - 1, 1], "uint64", "integer", "float64"),
        ([1, 2.5], object, "number", "float64"),
        ([1.5, None], "float32", "number", "float64"),
        ([1, 2], "category", "integer", "int64"),
        ([None, None], object, "number", "float64"),
    ],
)
def test_every_column_becomes_one_of_four_kinds(
    values: list[Any], dtype: Any, kind: str, became: str
) -> None:
    series = pd.Series(values, dtype=dtype, name="c")
    assert (infer_kind(series), str(as_kind(series).dtype)) == (kind, became)


@pytest.mark.parametrize("dtype", [None, "string", "category", object])
def test_missing_texts_become_nan(dtype: Any) -> None:
    series = pd.Series(["a", None], dtype=dtype, name="c")
    found = as_kind(series)
    assert infer_kind(series) == "text"
    assert found[0] == "a"
    assert isinstance(found[1], float)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([datetime.datetime(2024, 1, 1)] * 2, "Convert it to numbers"),
        ([datetime.date(2024, 1, 1)] * 2, "Convert it to numbers"),
        ([datetime.timedelta(1)] * 2, "Convert it to numbers"),
        (["a", 1], r"mixes texts \(1\) and numbers \(1\)"),
        ([[1], [2]], "contains list values"),
        ([b"a", b"b"], "contains bytes"),
        ([1j, 2j], "complex"),
    ],
)
def test_unsupported_columns_are_refused_by_name(values: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        as_kind(pd.Series(values, name="when"))
    assert caught.value.field == "when"


def test_extra_rows_are_appended_with_the_types_of_the_table() -> None:
    base = table(count=range(ROWS))
    extra = table(count=[float(i) for i in range(ROWS)]).assign(more=1).tail(5)
    found = clean(base, project(), extra_rows=extra)
    assert len(found.frame) == ROWS + 5
    assert found.kinds["count"] == "integer"
    assert "more" not in found.frame


def test_extra_rows_without_a_column_are_refused() -> None:
    with pytest.raises(DataError, match="lack colour"):
        clean(table(), project(), extra_rows=table().drop(columns="colour"))


def test_a_tensor_is_a_float32_array_of_its_shape() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.integers(0, 255, (ROWS, 4)).astype("uint8"), columns=list("abcd"))
    frame["kind"] = [1, 2] * 20
    given = project(frame, tensor=Tensor("image", (1, 2, 2)))
    found = prepare(given)
    array = input_matrix(found.test, found.inputs, given)
    assert isinstance(array, np.ndarray)
    assert (array.dtype, array.shape) == (np.float32, (8, 1, 2, 2))


@pytest.mark.parametrize(
    ("size", "value", "message"), [(3, 0.0, "takes 3 columns"), (2, None, "cannot have")]
)
def test_a_tensor_needs_all_its_columns_without_missing_values(
    size: int, value: Any, message: str
) -> None:
    frame = table(colour=[value, *[1.0] * (ROWS - 1)])
    with pytest.raises(DataError, match=message):
        clean(frame, project(tensor=Tensor("t", (size,))))


def test_without_shuffling_training_rows_of_one_class_are_refused() -> None:
    frame = table(kind=["no"] * 35 + ["yes"] * 5)
    with pytest.raises(DataError, match="only one class"):
        prepare(project(frame, shuffle=False))
