"""Labels: each has an outcome, which does not depend on when its prediction arrives."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, select

from tests.unit.stores.predictions.test_predictions import PLANTS, record
from tidemill.errors import RequestError
from tidemill.serving.journal.record_types import JournalRecord
from tidemill.signature import Column, Signature
from tidemill.stores.database.database import Database
from tidemill.stores.database.tables import feedback as table
from tidemill.stores.database.tables import predictions as predictions_table
from tidemill.stores.predictions.feedback import Feedback, NewLabel
from tidemill.stores.predictions.label_joins import join_waiting
from tidemill.stores.predictions.prediction_rows import rows_from_record
from tidemill.stores.predictions.predictions import Predictions

SIGNED = {("plants", "1"): PLANTS}


@pytest.fixture
def feedback(database: Database) -> Feedback:
    return Feedback(database)


def arrive(database: Database, *records: JournalRecord, signatures: Any = None) -> None:
    """Store records as ingest does."""
    rows = [row for each in records for row in rows_from_record(each)]
    with database.write() as connection:
        Predictions(database).insert(connection, rows, signatures or SIGNED)
        join_waiting(connection, [row.id for row in rows])


def outcomes(feedback: Feedback, *labels: NewLabel) -> list[str]:
    return [judged.outcome for judged in feedback.add(labels)]


def truth(database: Database) -> dict[str, Any]:
    window = Predictions(database).window("plants")
    return dict(zip(window.ids, window.actual, strict=True))


def test_a_second_label_is_a_duplicate_a_conflict_or_a_correction(
    feedback: Feedback, database: Database
) -> None:
    arrive(database, record(1))
    assert outcomes(feedback, NewLabel("p00001", "moss")) == ["joined"]
    assert outcomes(feedback, NewLabel("p00001", "moss")) == ["duplicate"]
    judged = feedback.add([NewLabel("p00001", "fern")])[0]
    assert judged.outcome == "conflict"
    assert judged.reason == 'The label "moss" was joined before.'
    assert truth(database) == {"p00001": "moss"}
    assert outcomes(feedback, NewLabel("p00001", "fern", replace=True)) == ["joined"]
    assert truth(database) == {"p00001": "fern"}
    assert feedback.counts("plants") == {
        "joined": 1, "duplicate": 1, "conflict": 1, "replaced": 1
    }  # fmt: skip


def test_one_call_may_have_several_labels_of_one_prediction(
    feedback: Feedback, database: Database
) -> None:
    arrive(database, record(1), record(2))
    labels = [
        NewLabel("p00001", "moss"),
        NewLabel("p00001", "fern"),
        NewLabel("p00001", "fern", replace=True),
        NewLabel("p00001", "moss", replace=True),
        NewLabel("p00002", "fern"),
        NewLabel("p00002", "fern"),
    ]
    assert outcomes(feedback, *labels) == [
        "replaced", "conflict", "replaced", "joined", "joined", "duplicate"
    ]  # fmt: skip
    assert truth(database) == {"p00001": "moss", "p00002": "fern"}


def test_a_label_waits_until_its_prediction_arrives(feedback: Feedback, database: Database) -> None:
    assert outcomes(feedback, NewLabel("p00001", "moss")) == ["waiting"]
    assert outcomes(feedback, NewLabel("p00001", "fern")) == ["waiting"]
    assert outcomes(feedback, NewLabel("p00002", "fern")) == ["waiting"]
    arrive(database, record(1))
    assert truth(database) == {"p00001": "moss"}
    assert feedback.counts() == {"joined": 1, "conflict": 1, "waiting": 1}


def test_a_label_that_waits_too_long_expires(feedback: Feedback, database: Database) -> None:
    feedback.add([NewLabel("p00001", "moss")])
    assert feedback.expire(before=1.0) == 0
    assert feedback.expire(before=database.now() + 10) == 1
    arrive(database, record(1))
    assert truth(database) == {"p00001": None}
    assert feedback.page(outcome="expired").items[0]["reason"]


def test_a_label_that_does_not_fit_the_model_is_stored_as_refused(
    feedback: Feedback, database: Database
) -> None:
    arrive(database, record(1))
    judged = feedback.add([NewLabel("p00001", "mos"), NewLabel("p00001", 1)])
    assert [j.outcome for j in judged] == ["refused", "refused"]
    assert judged[0].reason == (
        "The model does not know the label \"mos\". Expected one of 'fern', 'moss'."
    )
    assert truth(database) == {"p00001": None}
    assert [row["actual"] for row in feedback.page(outcome="refused").items] == [1, "mos"]


@pytest.mark.parametrize(
    ("labels", "actual", "kept"),
    [
        ((0, 1), 1.0, 1),
        ((0, 1), "1", 1),
        ((0, 1), True, None),
        ((0, 1), 2, None),
        ((0, 1), "one", None),
        ((False, True), "true", True),
        ((False, True), 1, None),
        (("1", "2"), "1", "1"),
        (("1", "2"), 1, None),
        ((), "2.5", 2.5),
        ((), 3, 3.0),
        ((), "nan", None),
        ((), True, None),
        ((), "much", None),
    ],
)
def test_a_label_is_converted_to_the_models_type(
    labels: tuple[Any, ...], actual: Any, kept: Any, feedback: Feedback, database: Database
) -> None:
    task: Any = "classification" if labels else "regression"
    signature = Signature(task, "y", (Column("a", "number"), Column("b", "number")), labels=labels)
    arrive(database, record(1), signatures={("plants", "1"): signature})
    assert outcomes(feedback, NewLabel("p00001", actual)) == [
        "refused" if kept is None else "joined"
    ]
    found = truth(database)["p00001"]
    assert found == kept
    assert type(found) is type(kept)


def test_without_a_signature_a_label_is_not_converted(
    feedback: Feedback, database: Database
) -> None:
    arrive(database, record(1, version="7"))
    assert outcomes(feedback, NewLabel("p00001", "weed")) == ["joined"]


@pytest.mark.parametrize(
    "label",
    [
        NewLabel("", "moss"),
        NewLabel("x" * 65, "moss"),
        NewLabel("p\0", "moss"),
        NewLabel("p00001", float("nan")),
        NewLabel("p00001", 10**400),
        NewLabel("p00001", "\ud800"),
        NewLabel("p00001", "m" * 1001),
        NewLabel("p00001", None),  # type: ignore[arg-type]
        NewLabel("p00001", ["moss"]),  # type: ignore[arg-type]
    ],
)
def test_an_invalid_label_rejects_the_whole_call(
    label: NewLabel, feedback: Feedback, database: Database
) -> None:
    with pytest.raises(RequestError) as refusal:
        feedback.add([NewLabel("p00002", "moss"), label])
    assert str(refusal.value.field).startswith("1.")
    assert feedback.counts() == {}


def test_a_row_of_a_batch_has_its_own_label(feedback: Feedback, database: Database) -> None:
    batch = record(1, rows=2, features=b"\0" * 16, predictions=["fern", "moss"])
    arrive(database, batch)
    assert outcomes(feedback, NewLabel("p00001-1", "moss")) == ["joined"]
    assert truth(database) == {"p00001-0": None, "p00001-1": "moss"}


def test_concurrent_labels_and_predictions_are_all_joined(
    feedback: Feedback, database: Database
) -> None:
    def label() -> None:
        for start in range(0, 200, 10):
            feedback.add([NewLabel(f"p{n:05d}", "moss") for n in range(start, start + 10)])

    thread = threading.Thread(target=label)
    thread.start()
    for start in range(0, 200, 10):
        arrive(database, *(record(n) for n in range(start, start + 10)))
    thread.join()
    assert feedback.counts() == {"joined": 200}


LABELS = st.builds(
    NewLabel,
    st.sampled_from(["p00000", "p00001", "p00002"]),
    st.sampled_from(["fern", "moss", "weed", 1]),
    st.booleans(),
)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(labels=st.lists(LABELS, max_size=12), places=st.tuples(*[st.integers(0, 12)] * 3))
def test_the_arrival_time_of_a_prediction_does_not_change_its_truth(
    labels: list[NewLabel],
    places: tuple[int, int, int],
    feedback: Feedback,
    database: Database,
) -> None:
    def play(places: tuple[int, ...]) -> list[tuple[Any, ...]]:
        with database.write() as connection:
            connection.execute(delete(table))
            connection.execute(delete(predictions_table))
        for turn in range(13):
            now = [record(n) for n, place in enumerate(places) if place == turn]
            if now:
                arrive(database, *now)
            feedback.add(labels[turn : turn + 1])
        fields = ("prediction_id", "model", "actual", "outcome", "replaces", "reason")
        query = select(*(table.c[name] for name in fields)).order_by(table.c.id)
        with database.read() as connection:
            return [tuple(row) for row in connection.execute(query)]

    assert play(places) == play((0, 0, 0))
