"""The job poller: finds jobs whose worker or message was lost, with or without a broker."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import update

from tests.servers import free_port, wait_until
from tidemill.errors import UnavailableError
from tidemill.platform import Platform
from tidemill.settings import Settings
from tidemill.stores.database.database import Database
from tidemill.stores.database.tables import jobs
from tidemill.stores.jobs.jobs import NewJob
from tidemill.worker.__main__ import Slots
from tidemill.worker.job_poller import JobPoller


@pytest.fixture
def platform(database: Database, home: Path) -> Iterator[Platform]:
    opened = Platform.open(
        Settings(
            home=home,
            database_url=database.engine.url.render_as_string(hide_password=False),
            broker_url=f"redis://127.0.0.1:{free_port()}/0",
        )
    )
    yield opened
    opened.close()


def age(platform: Platform, *columns: str) -> None:
    with platform.database.write() as connection:
        connection.execute(update(jobs).values({name: jobs.c[name] - 60 for name in columns}))


def test_an_idle_worker_runs_jobs_whose_message_was_never_sent(platform: Platform) -> None:
    taken: list[str] = []
    waiting = [platform.submit(NewJob("probe"))[0].id for _ in range(3)]
    age(platform, "updated", "not_before")
    JobPoller(platform, lambda: 0, taken.append).tick()
    assert taken == []
    JobPoller(platform, lambda: 2, taken.append).tick()
    wait_until(lambda: len(taken) == 2, "two jobs to be taken")
    assert set(taken) < set(waiting)


def test_a_job_without_heartbeat_is_run_by_another_worker(platform: Platform) -> None:
    job = platform.jobs.claim(platform.submit(NewJob("probe"))[0].id, "dead")
    assert job is not None
    age(platform, "heartbeat")
    taken: list[str] = []
    poller = JobPoller(platform, lambda: 1, taken.append)
    poller.tick()
    assert platform.jobs.get(job.id).state == "queued"
    age(platform, "updated", "not_before")
    poller.tick()
    wait_until(lambda: taken == [job.id], "the job to be taken")


def test_no_job_counts_as_stalled_right_after_an_outage(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = platform.jobs.claim(platform.submit(NewJob("probe"))[0].id, "alive")
    assert job is not None
    age(platform, "heartbeat")
    poller = JobPoller(platform, lambda: 0, lambda _: None)

    def unavailable(_: float) -> None:
        raise UnavailableError("The database is down.")

    with monkeypatch.context() as patch:
        patch.setattr(platform.jobs, "requeue_stalled", unavailable)
        poller.tick()
    poller.tick()
    assert platform.jobs.get(job.id).state == "running"


def test_a_slot_is_entered_only_when_one_is_free() -> None:
    slots = Slots(1)
    entered = threading.Event()

    def enter() -> None:
        with slots:
            entered.set()

    with slots:
        assert slots.free() == 0
        thread = threading.Thread(target=enter)
        thread.start()
        assert not entered.wait(0.1)
    assert entered.wait(300)
    thread.join()
    assert slots.free() == 1


def test_it_touches_the_file_for_health_checks(platform: Platform) -> None:
    poller = JobPoller(platform, lambda: 0, lambda _: None)
    poller.start()
    try:
        wait_until((platform.settings.home / "worker.alive").exists, "the health check file")
    finally:
        poller.stop()
