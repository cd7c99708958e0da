"""Jobs: whatever happens to workers and messages, each runs once and none is lost."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from tidemill.errors import ConflictError, NotFoundError
from tidemill.stores.database.database import Database, id_source, new_row_id
from tidemill.stores.database.tables import jobs as table
from tidemill.stores.jobs.jobs import FINAL, MAX_ATTEMPTS, Job, Jobs, NewJob


@pytest.fixture
def jobs(database: Database) -> Jobs:
    return Jobs(database)


def submitted(jobs: Jobs, **fields: Any) -> Job:
    return jobs.submit(NewJob("train", **{"model": "iris", **fields}))[0]


def claimed(jobs: Jobs, worker: str = "w1") -> Job:
    job = jobs.claim(submitted(jobs).id, worker)
    assert job is not None
    return job


def silence(database: Database, job: Job, seconds: float) -> None:
    with database.write() as connection:
        changed = table.c.heartbeat - seconds
        connection.execute(update(table).where(table.c.id == job.id).values(heartbeat=changed))


def test_a_job_goes_from_queued_to_succeeded(jobs: Jobs) -> None:
    job = submitted(jobs, params={"C": 1.0})
    assert (job.state, job.attempts, job.params) == ("queued", 0, {"C": 1.0})
    running = jobs.claim(job.id, "w1")
    assert running is not None
    assert (running.state, running.attempts, running.worker) == ("running", 1, "w1")
    assert jobs.heartbeat(running, percent=50.0, stage="fit", progress={"best": 0.9}) == "continue"
    assert jobs.get(job.id).progress == {"best": 0.9}
    done = jobs.succeed(running, {"version": "1", "metrics": {"f1_score": float("nan")}})
    assert done is not None
    assert done.state == "succeeded"
    assert done.result == {"version": "1", "metrics": {"f1_score": None}}
    assert done.finished is not None
    assert jobs.claim(job.id, "w2") is None


def test_only_one_of_many_workers_claims_a_job(jobs: Jobs) -> None:
    job = submitted(jobs)
    got: list[Job | None] = []
    barrier = threading.Barrier(6)

    def claim(name: str) -> None:
        barrier.wait()
        got.append(jobs.claim(job.id, name))

    threads = [threading.Thread(target=claim, args=(f"w{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([job for job in got if job is not None]) == 1


def test_an_idempotency_key_returns_the_same_job(jobs: Jobs) -> None:
    first, new = jobs.submit(NewJob("train", "iris", params={"C": 1}, idempotency_key="k"))
    again, new_again = jobs.submit(NewJob("train", "iris", params={"C": 1}, idempotency_key="k"))
    assert (new, new_again, again.id) == (True, False, first.id)
    with pytest.raises(ConflictError, match=first.id):
        jobs.submit(NewJob("train", "iris", params={"C": 2}, idempotency_key="k"))


def test_concurrent_requests_with_one_idempotency_key_create_one_job(jobs: Jobs) -> None:
    made: list[tuple[Job, bool]] = []
    barrier = threading.Barrier(5)

    def post() -> None:
        barrier.wait()
        made.append(jobs.submit(NewJob("train", "iris", idempotency_key="k")))

    threads = [threading.Thread(target=post) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({job.id for job, _ in made}) == 1
    assert [new for _, new in made].count(True) == 1


def test_a_worker_without_heartbeat_loses_its_job_and_cannot_write_to_it(
    jobs: Jobs, database: Database
) -> None:
    first = claimed(jobs)
    assert jobs.requeue_stalled(10) == []
    silence(database, first, 11)
    assert [(job.id, job.state) for job in jobs.requeue_stalled(10)] == [(first.id, "queued")]
    second = jobs.claim(first.id, "w2")
    assert second is not None
    assert second.attempts == 2
    assert jobs.heartbeat(first, percent=1, stage="fit", progress={}) == "lost"
    assert not jobs.is_current(first)
    assert jobs.succeed(first, {}) is None
    assert jobs.fail(first, {}) is None
    assert jobs.retry_later(first, {}, delay=0, counts=True) is None
    assert jobs.succeed(second, {}) is not None


def test_a_job_that_lost_too_many_workers_fails(jobs: Jobs, database: Database) -> None:
    job = claimed(jobs)
    with database.write() as connection:
        connection.execute(update(table).values(attempts=MAX_ATTEMPTS))
    silence(database, job, 100)
    assert [ended.state for ended in jobs.requeue_stalled(10)] == ["failed"]


def test_a_waiting_job_is_cancelled_at_once_and_a_running_one_on_request(jobs: Jobs) -> None:
    waiting = submitted(jobs)
    assert jobs.cancel(waiting.id).state == "cancelled"
    assert jobs.cancel(waiting.id).state == "cancelled"
    assert jobs.claim(waiting.id, "w1") is None
    running = claimed(jobs)
    assert jobs.cancel(running.id).state == "running"
    assert not jobs.is_current(running)
    assert jobs.heartbeat(running, percent=1, stage="fit", progress={}) == "cancel"
    ended = jobs.mark_cancelled(running)
    assert ended is not None
    assert ended.state == "cancelled"


def test_a_finished_or_unknown_job_cannot_be_cancelled(jobs: Jobs) -> None:
    done = claimed(jobs)
    jobs.succeed(done, {})
    with pytest.raises(ConflictError, match="already succeeded"):
        jobs.cancel(done.id)
    with pytest.raises(NotFoundError):
        jobs.cancel("nothing")


def test_a_cancelled_job_whose_worker_died_is_not_retried(jobs: Jobs, database: Database) -> None:
    job = claimed(jobs)
    jobs.cancel(job.id)
    silence(database, job, 100)
    assert [ended.state for ended in jobs.requeue_stalled(10)] == ["cancelled"]


def test_a_job_to_be_retried_cannot_be_claimed_before_it_is_due(jobs: Jobs) -> None:
    job = claimed(jobs)
    waiting = jobs.retry_later(job, {"detail": "MLflow is down"}, delay=60, counts=False)
    assert waiting is not None
    assert (waiting.state, waiting.waits, waiting.failures) == ("waiting", 1, 0)
    assert jobs.claim(job.id, "w1") is None
    soon = claimed(jobs)
    jobs.retry_later(soon, {"detail": "disk full"}, delay=0, counts=True)
    again = jobs.claim(soon.id, "w1")
    assert again is not None
    assert (again.attempts, again.failures) == (2, 1)


def age(database: Database, job: Job, seconds: float, *columns: str) -> None:
    with database.write() as connection:
        changed = {name: table.c[name] - seconds for name in columns}
        connection.execute(update(table).where(table.c.id == job.id).values(changed))


def test_a_job_whose_message_was_not_sent_is_fetched_once(jobs: Jobs, database: Database) -> None:
    job = submitted(jobs)
    age(database, job, -60, "updated")  # created just now, however slow the machine
    assert jobs.fetch_overdue(10) == []  # the submitting process is about to send the message
    age(database, job, 65, "updated", "not_before")
    assert [found.id for found in jobs.fetch_overdue(10)] == [job.id]
    age(database, job, -60, "sent")
    assert jobs.fetch_overdue(10) == []


def test_a_job_whose_message_was_lost_is_fetched(jobs: Jobs, database: Database) -> None:
    job = submitted(jobs)
    jobs.mark_sent([job.id])
    age(database, job, -60, "sent")
    assert jobs.fetch_overdue(10) == []
    age(database, job, 120, "sent", "not_before")
    assert [found.id for found in jobs.fetch_overdue(10)] == [job.id]


def test_a_job_to_be_retried_is_fetched_when_it_is_due(jobs: Jobs, database: Database) -> None:
    job = submitted(jobs)
    jobs.mark_sent([job.id])
    running = jobs.claim(job.id, "w1")
    assert running is not None
    jobs.retry_later(running, {}, delay=60, counts=False)
    assert jobs.fetch_overdue(10) == []
    age(database, job, 60, "not_before")
    age(database, job, 1, "sent")
    assert [found.id for found in jobs.fetch_overdue(10)] == [job.id]


def test_the_oldest_jobs_are_fetched_first(jobs: Jobs, database: Database) -> None:
    made = [submitted(jobs) for _ in range(4)]
    for number, job in enumerate(made):
        age(database, job, 10 + 10 * number, "updated", "not_before")
    assert [job.id for job in jobs.fetch_overdue(2)] == [made[3].id, made[2].id]


def test_jobs_are_listed_by_page_and_filter(jobs: Jobs) -> None:
    made = [submitted(jobs, model=f"m{n % 2}") for n in range(6)]
    page = jobs.page(model="m1", limit=2)
    assert [job.id for job in page.items] == [made[5].id, made[3].id]
    rest = jobs.page(model="m1", limit=2, cursor=page.next)
    assert [job.id for job in rest.items] == [made[1].id]
    assert rest.next is None
    jobs.cancel(made[0].id)
    assert [job.id for job in jobs.page(state="cancelled").items] == [made[0].id]
    assert jobs.counts() == {"queued": 5, "cancelled": 1}


@given(st.lists(st.integers(1, 2**62), min_size=1, max_size=50))
def test_ids_sort_by_creation_whatever_the_clock_says(moments: list[int]) -> None:
    moment = iter(moments)
    next_id = id_source(lambda: next(moment))
    ids = [next_id() for _ in moments]
    assert {len(each) for each in ids} == {32}
    assert ids == sorted(set(ids))


def test_ids_created_in_threads_are_unique_and_in_each_threads_order() -> None:
    made: list[list[str]] = [[] for _ in range(4)]
    threads = [
        threading.Thread(target=lambda own=own: own.extend(new_row_id() for _ in range(2000)))
        for own in made
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(own == sorted(own) for own in made)
    assert len({each for own in made for each in own}) == 8000


def test_new_ids_sort_after_older_ids_with_milliseconds() -> None:
    earlier = f"{time.time_ns() // 1_000_000:012x}" + "f" * 20
    assert new_row_id() > earlier


class World:
    """One job, three workers and every event that can happen to them."""

    def __init__(self, jobs: Jobs, database: Database) -> None:
        self.jobs, self.database = jobs, database
        self.job = submitted(jobs)
        self.claimed = dict.fromkeys(range(3), self.job)
        self.endings = 0

    def claim(self, worker: int) -> None:
        self.claimed[worker] = self.jobs.claim(self.job.id, f"w{worker}") or self.claimed[worker]

    def heartbeat(self, worker: int) -> None:
        self.jobs.heartbeat(self.claimed[worker], percent=1, stage="fit", progress={})

    def succeed(self, worker: int) -> None:
        self.endings += self.jobs.succeed(self.claimed[worker], {}) is not None

    def fail(self, worker: int) -> None:
        self.endings += self.jobs.fail(self.claimed[worker], {}) is not None

    def retry_later(self, worker: int) -> None:
        self.jobs.retry_later(self.claimed[worker], {}, delay=0, counts=True)

    def die(self, _: int) -> None:
        silence(self.database, self.job, 100)
        self.endings += sum(job.done for job in self.jobs.requeue_stalled(10))

    def cancel(self, _: int) -> None:
        if not self.jobs.get(self.job.id).done:
            self.endings += self.jobs.cancel(self.job.id).done

    def fetch(self, _: int) -> None:
        age(self.database, self.job, 100, "sent", "not_before", "updated")
        self.jobs.fetch_overdue(5)


EVENTS = ["claim", "heartbeat", "succeed", "fail", "retry_later", "die", "cancel", "fetch"]


@given(events=st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(0, 2)), max_size=40))
@settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_in_any_order_of_events_a_job_ends_once_and_never_gets_stuck(
    events: list[tuple[str, int]], jobs: Jobs, database: Database
) -> None:
    world = World(jobs, database)
    for event, worker in events:
        getattr(world, event)(worker)
    now = jobs.get(world.job.id)
    assert world.endings == (1 if now.state in FINAL else 0)
    if not now.done:
        world.die(0)
        assert jobs.get(now.id).done or jobs.claim(now.id, "last") is not None


def test_the_queue_age_is_that_of_the_longest_waiting_job(jobs: Jobs, database: Database) -> None:
    assert jobs.queue_age() == 0.0
    old, taken = submitted(jobs), submitted(jobs)
    jobs.claim(taken.id, "w1")
    with database.write() as connection:
        changed = table.update().values(not_before=table.c.not_before - 60)
        connection.execute(changed.where(table.c.id.in_([old.id])))
    assert 60.0 <= jobs.queue_age() < 3600.0
    jobs.cancel(old.id)
    assert jobs.queue_age() == 0.0
