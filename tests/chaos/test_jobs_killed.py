"""Jobs whose workers and servers are killed while they run.

In each test every accepted job ends exactly once in a final state; none is lost, and none takes
effect twice.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.chaos.system import LIGHT, LONG, System, kill
from tests.servers import PostgresServer, RedisServer, wait_until

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),
]
Scaled = tuple[System, PostgresServer, RedisServer]


def test_a_worker_killed_during_a_fit_loses_nothing(system: System) -> None:
    first = system.start_worker()
    job_id = system.train(held=True)
    system.wait_for_fit()
    kill(first)
    system.gate.touch()
    system.start_worker()
    (job,) = system.wait_for(job_id)
    assert job.attempts >= 2
    system.assert_one_version_each([job])
    assert system.open_runs() == []


def test_a_worker_killed_just_after_registering_does_not_register_again(embedded: System) -> None:
    first = embedded.start_worker()
    job_id = embedded.train()
    wait_until(embedded.versions, "a version", LONG)
    kill(first)
    if not embedded.job(job_id).done:
        embedded.start_worker()
    embedded.assert_one_version_each(embedded.wait_for(job_id))


def test_an_api_killed_between_row_and_message_loses_nothing(system: System) -> None:
    values = system.settings.model_dump(mode="json", exclude_none=True, exclude={"audit_secret"})
    code = f"""
import os, signal
from tidemill.platform import Platform
from tidemill.settings import Settings
from tidemill.stores.jobs.jobs import NewJob
platform = Platform.open(Settings(**{values!r}))
object.__setattr__(platform.notifier, "send", lambda _: os.kill(os.getpid(), signal.SIGKILL))
platform.submit(NewJob("probe"))
platform.close()  # waits for the notifier's thread, which kills the process
"""
    died = subprocess.run([sys.executable, "-c", code], check=False)
    assert died.returncode == -signal.SIGKILL
    (job,) = system.platform.jobs.page().items
    assert (job.state, job.sent) == ("queued", None)
    system.start_worker(**LIGHT)
    (job,) = system.wait_for(job.id)
    assert (job.state, job.attempts) == ("succeeded", 1)


def test_only_the_trial_of_a_killed_worker_is_retried(scaled: Scaled) -> None:
    system, _, _ = scaled
    first = system.start_worker()
    job_id = system.train("three", held=True)
    system.wait_for_fit(0.1)
    kill(first)
    system.gate.touch()
    for _ in range(2):
        system.start_worker()
    (job,) = system.wait_for(job_id)
    system.assert_one_version_each([job])
    trials = system.platform.jobs.children(job_id)
    assert [trial.state for trial in trials] == ["succeeded"] * 3
    assert trials[0].attempts >= 2
    assert len({trial.result["run_id"] for trial in trials if trial.result}) == 3
    assert system.open_runs() == []


def test_a_worker_that_is_stopped_gives_its_job_back_at_once(system: System) -> None:
    first = system.start_worker(**LIGHT)
    job_id = system.probe(5)
    system.wait_for_stage(job_id, "probe")
    first.terminate()
    assert first.wait(LONG) == 0
    assert system.job(job_id).state == "waiting"
    system.start_worker(**LIGHT)
    (job,) = system.wait_for(job_id)
    assert (job.state, job.attempts, job.failures) == ("succeeded", 2, 0)


def test_two_hundred_jobs_survive_a_kill_every_two_seconds(scaled: Scaled) -> None:
    """A worker is killed only after it has finished a job: where a worker takes more than two
    seconds to start, no job would ever run otherwise. Kills during trainings are tested below.
    """
    system, _, _ = scaled
    workers = [system.start_worker(**LIGHT) for _ in range(4)]
    ids = [system.probe(0.2) for _ in range(200)]
    dice = random.Random(7)
    kills, deadline = 0, time.monotonic() + 3 * LONG
    while system.platform.jobs.counts().get("succeeded", 0) < 200:
        assert time.monotonic() < deadline, system.platform.jobs.counts()
        time.sleep(2)
        done = _ended_by_process(system)
        victims = [index for index, worker in enumerate(workers) if done[worker.pid]]
        if victims:
            index = dice.choice(victims)
            kill(workers[index])
            kills += 1
            workers[index] = system.start_worker(**LIGHT)
    jobs = [system.job(job_id) for job_id in ids]
    assert {job.state for job in jobs} == {"succeeded"}
    assert kills > 3


def _ended_by_process(system: System) -> Counter[int]:
    """Return how many jobs each worker has finished, by its process id."""
    ended = system.platform.jobs.page(state="succeeded", limit=500).items
    return Counter(int(str(job.worker).rpartition(":")[2]) for job in ended)


def test_trainings_survive_kills_at_any_time_and_register_once_each(scaled: Scaled) -> None:
    system, _, _ = scaled
    workers = [system.start_worker() for _ in range(2)]
    ids = [system.train() for _ in range(4)]
    dice = random.Random(11)
    for _ in range(3):
        busy = wait_until(lambda: _busy(system, workers), "a worker at work", LONG)
        if busy == "all done":
            break
        time.sleep(dice.uniform(0.0, 2.0))  # at any point between its first step and its last
        index = dice.choice(busy)
        kill(workers[index])
        workers[index] = system.start_worker()
    system.assert_one_version_each(system.wait_for(*ids, seconds=2 * LONG))
    assert system.open_runs() == []


def _busy(system: System, workers: list[subprocess.Popen[bytes]]) -> list[int] | str:
    """Return the indexes of the workers that run a job."""
    if "queued" not in (counts := system.platform.jobs.counts()) and "running" not in counts:
        return "all done"
    pids = {
        str(job.worker).rpartition(":")[2]
        for job in system.platform.jobs.page(state="running").items
    }
    return [index for index, worker in enumerate(workers) if str(worker.pid) in pids]


def test_cancelling_stops_a_fit_and_frees_the_worker(embedded: System) -> None:
    embedded.start_worker()
    endless = embedded.train("endless")
    embedded.wait_for_stage(endless, "fit")
    embedded.platform.jobs.cancel(endless)
    (job,) = embedded.wait_for(endless)
    assert job.state == "cancelled"
    embedded.assert_one_version_each(embedded.wait_for(embedded.train()))
    wait_until(lambda: embedded.open_runs() == [], "the cancelled run to be closed", LONG)


def test_a_job_that_exceeds_a_limit_fails_and_is_not_retried(embedded: System) -> None:
    embedded.start_worker()
    long = embedded.train(held=True, time_limit=5)
    large = embedded.train(memory_limit=64 << 20)
    jobs = embedded.wait_for(long, large)
    assert [(job.state, job.attempts) for job in jobs] == [("failed", 1), ("failed", 1)]
    assert "longer than its limit of 5 seconds" in str(jobs[0].error)
    assert "its limit is 64 MB" in str(jobs[1].error)


def test_no_process_of_a_killed_worker_survives(embedded: System) -> None:
    worker = embedded.start_worker()
    job_id = embedded.train("endless")
    embedded.wait_for_stage(job_id, "fit")
    started = _descendants(worker.pid)
    assert started
    kill(worker)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started), "their end", LONG)
    embedded.platform.jobs.cancel(job_id)


def _descendants(pid: int) -> set[int]:
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
    found: set[int] = set()
    while new := {child for child, parent in parents.items() if parent in found | {pid}} - found:
        found |= new
    return found
