"""The rows of a contest: the first that were labelled, and that everybody takes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.stores.predictions.test_predictions import PLANTS, record
from tidemill.loop.retraining.contest_bundles import labelled_rows
from tidemill.stores.database.database import Database
from tidemill.stores.predictions.feedback import Feedback, NewLabel
from tidemill.stores.predictions.predictions import Predictions

HELD: dict[str, Any] = {"1": SimpleNamespace(signature=PLANTS)}


@pytest.fixture
def predictions(database: Database) -> Predictions:
    """Twenty rows: the first twelve without inputs, labelled first; all others from behind."""
    store, feedback = Predictions(database), Feedback(database)
    blind: dict[str, Any] = {"features": None, "encoding": "none"}
    store.add([record(n, **blind) for n in range(12)], {("plants", "1"): PLANTS})
    store.add([record(n) for n in range(12, 20)])
    for number in [*range(12), *reversed(range(12, 20))]:
        feedback.add([NewLabel(f"p{number:05d}", "fern")])
    return store


def test_window_starts_with_the_first_labelled_rows(predictions: Predictions) -> None:
    first = predictions.window("plants", labelled=True, since=1010.0, first=4)
    assert first.ids.tolist() == ["p00010", "p00011", "p00018", "p00019"]
    assert predictions.window("plants", first=2).ids.tolist() == ["p00000", "p00001"]


@pytest.mark.parametrize(
    ("since", "most", "found"),
    [
        (0.0, 3, ["p00019", "p00018", "p00017"]),  # of six none has inputs: more are asked for
        (0.0, 100, [f"p000{n}" for n in range(19, 11, -1)]),
        (1014.0, 100, [f"p000{n}" for n in range(19, 13, -1)]),
        (2000.0, 3, []),
    ],
)
def test_labelled_rows_are_the_first_accepted_ones(
    since: float, most: int, found: list[str], predictions: Predictions
) -> None:
    rows = labelled_rows(predictions, "plants", since, HELD, most)
    assert rows.ids == found
    assert rows.frame["height"].tolist() == [float(id[1:]) for id in found]
    assert rows.actual.tolist() == ["fern"] * len(found)
