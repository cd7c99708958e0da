"""`tidemill jobs` and `tidemill cancel`."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.servers import wait_until
from tidemill.cli import terminal
from tidemill.cli.app import app
from tidemill.platform import Platform
from tidemill.settings import Settings
from tidemill.stores.jobs.jobs import Job, NewJob

runner = CliRunner()


@pytest.fixture
def platform(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    monkeypatch.setattr(terminal.out, "size", (200, 50))
    opened = Platform.open(Settings())
    yield opened
    opened.close()


def tidemill(*words: str) -> str:
    done = runner.invoke(app, list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def begun(platform: Platform) -> Job:
    job = platform.jobs.claim(platform.submit(NewJob("train", "flowers"))[0].id, "w")
    assert job is not None
    progress = {"trial": 2, "trials": 4, "metric": "f1_score", "best": 0.875}
    platform.jobs.heartbeat(job, percent=42.0, stage="fit", progress=progress)
    return job


def test_jobs_are_listed_with_their_progress(platform: Platform) -> None:
    job = begun(platform)
    printed = tidemill("jobs")
    assert job.id[:16] in printed
    assert "42%" in printed
    assert "fit, trial 2 of 4" in printed
    listed = json.loads(tidemill("jobs", "--json"))
    assert [(each["id"], each["state"]) for each in listed] == [(job.id, "running")]


def test_watching_shows_progress_bars_and_ends_with_the_job(platform: Platform) -> None:
    job = begun(platform)
    printed: list[str] = []
    watching = threading.Thread(target=lambda: printed.append(tidemill("jobs", "-w", job.id)))
    watching.start()
    wait_until(watching.is_alive, "the watching")
    platform.jobs.succeed(job, {"version": "7"})
    watching.join(300)
    assert not watching.is_alive()
    assert "100%" in printed[0]
    assert "succeeded" in printed[0]
    assert "version 7" in printed[0]
    assert "━" in printed[0]


def test_a_failed_job_says_why(platform: Platform) -> None:
    platform.jobs.fail(begun(platform), {"detail": "no rows of [red]roses[/]"})
    assert "no rows of [red]roses[/]" in tidemill("jobs", "--watch")


def test_a_job_is_cancelled_by_a_prefix_of_its_id(platform: Platform) -> None:
    waiting, _ = platform.submit(NewJob("train", "flowers"))
    assert "is cancelled" in tidemill("cancel", waiting.id[:16])
    running = begun(platform)
    assert "is being cancelled" in tidemill("cancel", running.id)
    assert platform.jobs.get(running.id).cancel_requested


def test_an_unknown_or_ambiguous_job_id_is_refused(platform: Platform) -> None:
    for _ in range(2):
        platform.submit(NewJob("train", "flowers"))
    for start, words in (("1", "More than one job id"), ("zz", "No job id"), ("%", "No job id")):
        done = runner.invoke(app, ["cancel", start])
        assert done.exit_code != 0
        assert words in str(done.exception)
