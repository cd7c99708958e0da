"""What a retraining leads to later: another one, once there is more to learn from."""

from __future__ import annotations

import pytest

from tests.unit.stores.predictions.test_predictions import PLANTS, record
from tidemill.loop.retraining.scheduler import RetrainingScheduler
from tidemill.policies import Contest
from tidemill.project import Candidate, Project, csv
from tidemill.stores.database.database import Database
from tidemill.stores.jobs.jobs import Jobs
from tidemill.stores.monitoring.triggers import Triggers
from tidemill.stores.predictions.feedback import Feedback, NewLabel
from tidemill.stores.predictions.predictions import Predictions
from tidemill.stores.projects import KnownProject
from tidemill.stores.retraining.contests import ContestChallenger, Contests, NewContest

PROJECT = Project(
    "plants",
    csv("none.csv"),
    "kind",
    [Candidate("c", object)],
    contest=Contest(staleness_check=False),
)


def label(database: Database, first: int, last: int) -> None:
    """Predictions of these numbers, with the truth."""
    Predictions(database).add([record(n) for n in range(first, last)], {("plants", "1"): PLANTS})
    Feedback(database).add([NewLabel(f"p{n:05d}", "fern") for n in range(first, last)])


def scheduler_of(database: Database) -> RetrainingScheduler:
    jobs = Jobs(database)
    return RetrainingScheduler(
        triggers=Triggers(database),
        contests=Contests(database),
        predictions=Predictions(database),
        jobs=jobs,
        submit=jobs.submit,
        project=lambda model: KnownProject("project.py", PROJECT),
        champion=lambda model: "2",
        rows_trained=lambda model, version: 0,
    )


def won(database: Database, window: str) -> None:
    """A contest of which nothing says when things changed, won by the model of a window."""
    contests = Contests(database)
    opened = contests.open(
        NewContest("plants", "1", (ContestChallenger("2", window),), cut=1300.0, learned=9000)
    )
    contests.close(opened.id, "won", rows=100, decision={}, winner="2")


def test_model_of_newest_rows_is_retrained_at_three_times_as_many(database: Database) -> None:
    enough = 400
    won(database, "last-200")
    label(database, 0, 300 + enough - 1)
    scheduler = scheduler_of(database)
    assert scheduler.submit_due("plants") is None
    label(database, 300 + enough - 1, 300 + enough)
    opened = scheduler.submit_due("plants")
    assert opened is not None
    assert (opened.cause, opened.state) == ("labels", "retraining")
    assert "The champion was trained on the newest" in opened.reason
    assert scheduler.submit_due("plants") is None  # once


@pytest.mark.parametrize("window", ["all", "since", "former champion", "aged"])
def test_model_of_another_window_is_not_retrained(window: str, database: Database) -> None:
    won(database, window)
    label(database, 0, 1000)
    assert scheduler_of(database).submit_due("plants") is None
