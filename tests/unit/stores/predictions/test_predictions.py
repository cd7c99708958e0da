"""Predictions in the database: records in, windows out, on both kinds of database."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from tidemill.errors import RequestError
from tidemill.serving.journal.record_types import JournalRecord
from tidemill.signature import Column, Signature, Tensor
from tidemill.stores.database.database import Database
from tidemill.stores.database.tables import predictions as table
from tidemill.stores.predictions.feedback import Feedback, NewLabel
from tidemill.stores.predictions.prediction_rows import rows_from_record
from tidemill.stores.predictions.predictions import Predictions

PLANTS = Signature(
    task="classification",
    target="species",
    columns=(Column("height", "number"), Column("leaves", "integer")),
    labels=("fern", "moss"),
)
PRICES = Signature("regression", "price", (Column("rooms", "number"),))
MIXED = Signature(
    task="classification",
    target="churned",
    columns=(
        Column("age", "number", nullable=True),
        Column("plan", "text", nullable=True),
        Column("app", "boolean"),
        Column("calls", "integer"),
    ),
    labels=(False, True),
)


def record(number: int, **changes: Any) -> JournalRecord:
    """A prediction of `plants`: its height is the number, its leaves twice the number."""
    fields: dict[str, Any] = {
        "id": f"p{number:05d}",
        "time": 1000.0 + number,
        "model": "plants",
        "version": "1",
        "rows": 1,
        "encoding": "f4",
        "features": np.array([number, 2 * number], "<f4").tobytes(),
        "predictions": ["moss" if number % 2 else "fern"],
        "probabilities": np.array([0.25, 0.75], "<f4").tobytes(),
        "latency": 0.002,
    }
    return JournalRecord(**{**fields, **changes})


@pytest.fixture
def predictions(database: Database) -> Predictions:
    return Predictions(database)


def test_a_window_has_what_was_recorded(predictions: Predictions) -> None:
    records = [record(n, sample=0.5) for n in (3, 1, 2)]
    assert predictions.add(records, {("plants", "1"): PLANTS}) == 3
    window = predictions.window("plants")
    assert window.ids.tolist() == ["p00001", "p00002", "p00003"]
    assert window.times.tolist() == [1001.0, 1002.0, 1003.0]
    assert window.versions.tolist() == ["1", "1", "1"]
    expected = pd.DataFrame({"height": [1.0, 2.0, 3.0], "leaves": [2, 4, 6]})
    pd.testing.assert_frame_equal(window.frame, expected)
    assert window.outputs.tolist() == ["moss", "fern", "moss"]
    assert window.confidence.tolist() == [0.75] * 3
    assert window.probabilities is not None
    assert window.probabilities.tolist() == [[0.25, 0.75]] * 3
    assert window.labels == ("fern", "moss")
    assert window.actual.tolist() == [None] * 3
    assert np.isnan(window.label_times).all()
    assert window.weights.tolist() == [2.0] * 3
    assert window.signature == PLANTS
    assert window.stored.all()


def test_an_empty_window_has_the_same_shape(predictions: Predictions) -> None:
    window = predictions.window("nobody")
    assert (len(window), window.frame, window.probabilities) == (0, None, None)
    assert window.actual.shape == window.times.shape == window.label_times.shape == (0,)
    assert predictions.count("nobody") == 0


def test_windows_are_filtered_by_time_count_version_and_role(predictions: Predictions) -> None:
    predictions.add([record(n) for n in range(10)])
    predictions.add([record(n, version="2", role="canary") for n in range(10, 14)])
    predictions.add([record(n, version="3", role="shadow") for n in range(5)])
    ids = lambda **cut: predictions.window("plants", **cut).ids.tolist()  # noqa: E731
    assert ids(last=2) == ["p00008", "p00009"]
    assert ids(since=1003.0, until=1005.0) == ["p00003", "p00004"]
    assert ids(role="canary", last=1) == ["p00013"]
    assert len(ids(role=None)) == 19
    assert ids(version="2") == []
    assert len(ids(version="2", role=None)) == predictions.count("plants", version="2", role=None)
    assert predictions.count("plants", since=1003.0, until=1005.0) == 2
    assert predictions.models() == ["plants"]


def test_texts_gaps_and_booleans_have_their_training_types(
    predictions: Predictions,
) -> None:
    rows = [[30.5, "basic", True, 1], [None, None, False, 2]]
    one = record(1, rows=2, encoding="values", features=rows, predictions=[True, False])
    predictions.add([one], {("plants", "1"): MIXED})
    frame = predictions.window("plants").frame
    assert frame is not None
    assert [str(dtype) for dtype in frame.dtypes] == ["float64", "object", "bool", "int64"]
    assert frame["age"].isna().tolist() == [False, True]
    assert frame["plan"].isna().tolist() == [False, True]
    assert frame["app"].tolist() == [True, False]
    assert predictions.window("plants").outputs.tolist() == [True, False]


def test_each_row_of_a_batch_is_a_row(predictions: Predictions) -> None:
    features = np.arange(6, dtype="<f8").reshape(3, 2).tobytes()
    likely = np.array([[0.9, 0.1], [0.4, 0.6], [1, 0]], "<f4").tobytes()
    batch = record(
        7, rows=3, encoding="f8", features=features, predictions=["fern", "moss", "fern"],
        probabilities=likely,
    )  # fmt: skip
    predictions.add([batch], {("plants", "1"): PLANTS})
    window = predictions.window("plants")
    assert window.ids.tolist() == ["p00007-0", "p00007-1", "p00007-2"]
    assert window.frame is not None
    assert window.frame["leaves"].tolist() == [1, 3, 5]
    assert window.confidence.round(3).tolist() == [0.9, 0.6, 1.0]


def test_a_regressors_window_has_no_probabilities(predictions: Predictions) -> None:
    one = record(
        1, model="prices", features=np.array([3], "<f4").tobytes(), predictions=[250_000.5],
        probabilities=None,
    )  # fmt: skip
    predictions.add([one], {("prices", "1"): PRICES})
    window = predictions.window("prices")
    assert (window.probabilities, window.labels) == (None, ())
    assert window.outputs.tolist() == [250_000.5]
    assert np.isnan(window.confidence).all()


def test_a_tensor_has_one_column_per_number(predictions: Predictions) -> None:
    digits = Signature(
        "classification", "digit", tensor=Tensor("image", (1, 28, 28)), labels=tuple(range(10))
    )
    image = np.random.default_rng(1).random((2, 784), np.float32)
    one = record(
        1, rows=2, features=image.tobytes(), predictions=[3, 7],
        probabilities=np.eye(10, dtype="<f4")[[3, 7]].tobytes(),
    )  # fmt: skip
    predictions.add([one], {("plants", "1"): digits})
    window = predictions.window("plants")
    assert window.frame is not None
    assert list(window.frame.columns[[0, 783]]) == ["image0", "image783"]
    np.testing.assert_array_equal(window.frame.to_numpy(), image)
    assert predictions.get("p00001-1")[0]["features"] == image[1].tolist()


def test_rows_without_inputs_or_signature_are_in_the_window(
    predictions: Predictions,
) -> None:
    predictions.add([record(1)])
    assert predictions.window("plants").frame is None
    assert predictions.window("plants").outputs.tolist() == ["moss"]
    predictions.add(
        [record(2, encoding="none", features=None), record(3)], {("plants", "1"): PLANTS}
    )
    predictions.add([record(4, version="9")])
    window = predictions.window("plants")
    assert window.stored.tolist() == [True, False, True, False]
    assert window.frame is not None
    assert window.frame["height"].dropna().tolist() == [1.0, 3.0]
    assert window.probabilities is None, "version 9 may have other labels"


def test_an_id_is_stored_once_per_version(
    predictions: Predictions,
) -> None:
    assert predictions.add([record(1), record(2)]) == 2
    again = [record(2, predictions=["fern"]), record(3), record(1, version="2", role="shadow")]
    assert predictions.add(again) == 2
    assert predictions.window("plants").outputs.tolist() == ["moss", "fern", "moss"]
    roles = [row["role"] for row in predictions.get("p00001")]
    assert sorted(roles) == ["champion", "shadow"]


def test_labels_are_part_of_windows(predictions: Predictions, database: Database) -> None:
    predictions.add([record(n) for n in range(6)], {("plants", "1"): PLANTS})
    predictions.add([record(1, version="2", role="shadow")], {("plants", "2"): PLANTS})
    feedback = Feedback(database)
    feedback.add([NewLabel("p00004", "moss")])
    feedback.add([NewLabel("p00001", "fern"), NewLabel("p00002", "fern")])
    window = predictions.window("plants")
    assert window.actual.tolist() == [None, "fern", "fern", None, "moss", None]
    assert window.labelled.tolist() == [False, True, True, False, True, False]
    labelled = predictions.window("plants", labelled=True)
    assert labelled.ids.tolist() == ["p00001", "p00002", "p00004"]
    since = labelled.label_times[0]
    late = predictions.window("plants", labelled_since=since)
    assert set(late.ids) >= {"p00001", "p00002"}
    assert predictions.count("plants", labelled=True) == 3
    assert predictions.count("plants", labelled_since=since + 1) == 0
    shadow = predictions.window("plants", role="shadow", labelled=True)
    assert shadow.actual.tolist() == ["fern"], "a label is of the request, whoever answered it"


def test_pages_list_everything_once(predictions: Predictions) -> None:
    predictions.add([record(n) for n in range(7)], {("plants", "1"): PLANTS})
    for model in ("plants", None):
        seen, cursor = [], None
        while True:
            page = predictions.page(model=model, limit=3, cursor=cursor)
            seen += [row["id"] for row in page.items]
            cursor = page.next
            if cursor is None:
                break
        assert seen == [f"p{n:05d}" for n in reversed(range(7))]
    assert predictions.page(limit=1).items[0]["features"] == {"height": 6.0, "leaves": 12.0}
    with pytest.raises(RequestError):
        predictions.page(cursor="yesterday~")


def test_large_windows_are_built_from_columns(predictions: Predictions) -> None:
    numbers = np.arange(20_000, dtype="<f4").reshape(-1, 2)
    batch = record(
        1, rows=10_000, features=numbers.tobytes(), predictions=["fern"] * 10_000,
        probabilities=None,
    )  # fmt: skip
    predictions.add([batch], {("plants", "1"): PLANTS})
    window = predictions.window("plants")
    assert window.frame is not None
    assert sorted(window.frame["height"]) == list(range(0, 20_000, 2))


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": 2},
        {"rows": 0, "predictions": []},
        {"features": b"\0" * 3},
        {"features": None},
        {"encoding": "values"},
        {"probabilities": b"\0" * 3},
        {"id": "x" * 53},
        {"model": "m\0"},
        {"sample": 0.0},
    ],
)
def test_an_inconsistent_record_is_rejected(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        rows_from_record(record(1, **changes))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.tuples(
            st.none() | st.floats(allow_nan=False, allow_infinity=False),
            st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
            st.booleans(),
            st.integers(-(2**53), 2**53),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_any_values_round_trip(
    rows: list[tuple[Any, ...]], predictions: Predictions, database: Database
) -> None:
    with database.write() as connection:
        connection.execute(delete(table))
    one = record(
        1, rows=len(rows), encoding="values", features=[list(row) for row in rows],
        predictions=["fern"] * len(rows), probabilities=None,
    )  # fmt: skip
    predictions.add([one], {("plants", "1"): MIXED})
    frame = predictions.window("plants").frame
    assert frame is not None
    back = [[None if pd.isna(v) else v for v in row] for row in frame.to_numpy(object)]
    assert back == [list(row) for row in rows]
