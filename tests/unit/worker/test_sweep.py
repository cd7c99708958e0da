"""A distributed training: its trials are jobs, and the best is registered once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tidemill.errors import ProjectError
from tidemill.platform import Platform
from tidemill.settings import Settings
from tidemill.stores.database.database import Database
from tidemill.stores.jobs.jobs import Job, NewJob
from tidemill.stores.model_metrics import model_values
from tidemill.worker.job_kinds import JOB_TAG, WaitForChildren
from tidemill.worker.sweep import fans_out, run_trial
from tidemill.worker.training import run_train

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
]

PROJECT = """
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier
from tidemill import Candidate, Project, sklearn_dataset


def broken(depth: int) -> DecisionTreeClassifier:
    raise ValueError("this candidate never works")


project = Project(
    name="flowers",
    data=sklearn_dataset("iris"),
    target="target",
    candidates=[
        Candidate("logistic", LogisticRegression, {"max_iter": 500}, search={"C": [0.01, 1.0]}),
        Candidate("tree", DecisionTreeClassifier, search={"max_depth": (1, 4)}, trials=3),
        Candidate("broken", broken, search={"depth": [1]}),
    ],
)
"""


@pytest.fixture
def platform(database: Database, mlflow_home: Path) -> Iterator[Platform]:
    (mlflow_home / "flowers.py").write_text(PROJECT)
    opened = Platform.open(
        Settings(
            home=mlflow_home,
            database_url=database.engine.url.render_as_string(hide_password=False),
            fan_out="on",
        )
    )
    yield opened
    opened.close()


def claimed(platform: Platform, job_id: str) -> Job:
    job = platform.jobs.claim(job_id, "w")
    assert job is not None
    return job


def submitted(platform: Platform, **params: Any) -> str:
    project = str(platform.settings.home / "flowers.py")
    return platform.submit(NewJob("train", "flowers", project, params))[0].id


def run_part(platform: Platform, part: Job) -> None:
    """What an attendant does with a trial."""
    job = claimed(platform, part.id)
    try:
        result = run_trial(platform, job, lambda _: None)
    except ProjectError as error:
        platform.jobs.fail(job, error.problem())
    else:
        platform.jobs.succeed(job, result)


def park(platform: Platform, job_id: str) -> list[Job]:
    job = claimed(platform, job_id)
    with pytest.raises(WaitForChildren):
        run_train(platform, job, lambda _: None)
    platform.jobs.wait_for_children(job, "trials")
    return platform.jobs.children(job_id)


def test_trials_are_jobs_and_the_best_is_registered_once(platform: Platform) -> None:
    job_id = submitted(platform)
    parts = park(platform, job_id)
    names = [(part.params["task"]["candidate"], part.params["task"]["number"]) for part in parts]
    trees = [("tree", 1), ("tree", 2), ("tree", 3)]
    assert names == [("logistic", 1), ("logistic", 2), *trees, ("broken", 1)]
    assert platform.jobs.resume_parents() == []
    for part in parts[:3]:
        run_part(platform, part)
    shown = platform.jobs.get(job_id)
    assert shown.progress is not None
    assert (shown.progress["trial"], shown.progress["trials"]) == (3, 6)
    # A trial whose worker died asks the study again, and its first attempt counts as failed.
    lost = claimed(platform, parts[3].id)
    platform.jobs.retry_later(lost, {}, delay=0, counts=False)
    for part in parts[3:]:
        run_part(platform, part)
    assert platform.jobs.get(parts[5].id).state == "failed"
    assert [job.id for job in platform.jobs.resume_parents()] == [job_id]
    result = run_train(platform, claimed(platform, job_id), lambda _: None)
    assert result["candidate"] in ("logistic", "tree")
    client = platform.tracking
    (version,) = client.search_model_versions("name = 'flowers'")
    assert version.tags[JOB_TAG] == job_id
    assert version.tags["tidemill.bundle"]
    runs = client.search_runs([client.get_experiment_by_name("flowers").experiment_id])
    kinds = sorted(run.data.tags["tidemill.kind"] for run in runs)
    assert kinds == ["sweep", *["trial"] * 6]
    statuses = sorted(run.info.status for run in runs)
    assert statuses == ["FAILED", *["FINISHED"] * 6]
    known = model_values(platform.database, model="flowers", version="1").items
    assert {row["metric"]: row["value"] for row in known}["f1_score"] == pytest.approx(
        result["metrics"]["f1_score"]
    )
    values = [run.data.metrics["f1_score"] for run in runs if "f1_score" in run.data.metrics]
    assert result["metrics"]["f1_score"] == pytest.approx(max(values))


def test_a_retried_attempt_does_not_submit_a_trial_twice(platform: Platform) -> None:
    job_id = submitted(platform, only=["logistic"])
    first = park(platform, job_id)
    job = platform.jobs.get(job_id)
    platform.jobs.resume_parents()
    for part in first:
        run_part(platform, part)
    platform.jobs.resume_parents()
    again = claimed(platform, job_id)
    assert run_train(platform, again, lambda _: None)["version"] == "1"
    # Killed after registering, before the row said so: another attempt finds the version.
    platform.jobs.retry_later(again, {}, delay=0, counts=False)
    assert run_train(platform, claimed(platform, job_id), lambda _: None)["version"] == "1"
    assert [part.id for part in platform.jobs.children(job_id)] == [part.id for part in first]
    assert job.params["only"] == ["logistic"]


def test_cancelling_a_training_cancels_its_trials(platform: Platform) -> None:
    job_id = submitted(platform, only=["logistic"])
    parts = park(platform, job_id)
    assert platform.jobs.cancel(job_id).state == "cancelled"
    assert {platform.jobs.get(part.id).state for part in parts} == {"cancelled"}
    assert platform.jobs.resume_parents() == []


def test_when_every_trial_fails_the_training_gives_the_reasons(platform: Platform) -> None:
    job_id = submitted(platform, only=["broken", "tree"], trials=1)
    parts = park(platform, job_id)
    for part in parts:
        job = claimed(platform, part.id)
        platform.jobs.fail(job, {"detail": "ValueError: no luck"})
    platform.jobs.resume_parents()
    with pytest.raises(ProjectError, match="no luck"):
        run_train(platform, claimed(platform, job_id), lambda _: None)


def test_trials_are_distributed_if_the_setting_or_the_database_allows_it(
    platform: Platform,
) -> None:
    job = platform.jobs.get(submitted(platform))
    single = platform.jobs.get(submitted(platform, only=["broken"]))
    assert fans_out(platform, job)
    assert not fans_out(platform, single)
    for wish, expected in (("off", False), ("auto", platform.database.dialect == "postgresql")):
        object.__setattr__(
            platform, "settings", platform.settings.model_copy(update={"fan_out": wish})
        )
        assert fans_out(platform, job) == expected
