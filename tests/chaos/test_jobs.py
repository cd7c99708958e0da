"""Jobs on real servers that are killed, stopped, restarted and filled up in the middle of the work.

In each: every job that was accepted ends exactly once in a final state, none is lost, none takes
effect twice, and the API says 503 where it must.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.servers import (
    MlflowServer,
    PostgresServer,
    RedisServer,
    fresh_database,
    private_mlflow,
    private_postgres,
    private_redis,
    serving,
    wait_until,
)
from tidemill.api.app import create_app
from tidemill.platform import Platform
from tidemill.settings import Settings
from tidemill.stores.database import Database
from tidemill.stores.jobs import Job, NewJob
from tidemill.stores.schema import migrate

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),
]

PROJECT = '''
from sklearn.neural_network import MLPClassifier
from tidemill import Candidate, Project, sklearn_dataset


def network(rounds: int = 2000) -> MLPClassifier:
    """A fit that takes about a second for each thousand rounds."""
    return MLPClassifier((16,), max_iter=rounds, tol=0.0, n_iter_no_change=10**9, random_state=1)


project = Project("flowers", sklearn_dataset("iris"), "target", [Candidate("net", network)])
'''
# Seconds; more on a machine that others keep busy.
LONG = 240.0 * float(os.environ.get("TIDEMILL_TEST_PATIENCE", "1"))


class System:
    """A platform on given servers, with workers that can be killed."""

    def __init__(self, home: Path, **settings: Any) -> None:
        home.mkdir(exist_ok=True)
        self.project = home / "flowers.py"
        self.project.write_text(PROJECT)
        self.settings = Settings(
            home=home, project=str(self.project), worker_lost_after=3.0, **settings
        )
        if self.settings.database_url:
            database = Database(self.settings.database_uri)
            migrate(database)
            database.close()
        self.platform = Platform.open(self.settings)
        self.workers: list[subprocess.Popen[bytes]] = []

    def start_worker(self, **changes: str) -> subprocess.Popen[bytes]:
        held = self.settings.model_dump(
            mode="json", exclude_none=True, exclude={"audit_secret", "model_name", "model_stage"}
        )
        mine = {f"TIDEMILL_{name.upper()}": str(value) for name, value in held.items()}
        with (self.settings.home / f"worker-{len(self.workers)}.log").open("wb") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "tidemill.worker"],
                env={**os.environ, **mine, "TIDEMILL_WORKER_CONCURRENCY": "1", **changes},
                stdout=log,
                stderr=log,
                cwd=self.settings.home,
            )
        self.workers.append(worker)
        return worker

    def train(self, rounds: int = 2000, **more: Any) -> str:
        params = {"overrides": {"net": {"rounds": rounds}}}
        new = NewJob("train", "flowers", str(self.project), params, **more)
        return self.platform.submit(new)[0].id

    def probe(self, seconds: float) -> str:
        return self.platform.submit(NewJob("probe", params={"seconds": seconds}))[0].id

    def job(self, job_id: str) -> Job:
        return self.platform.jobs.get(job_id)

    def wait_for(self, *job_ids: str, seconds: float = LONG) -> list[Job]:
        wait_until(
            lambda: all(self.job(job_id).done for job_id in job_ids),
            f"jobs to end: {[(self.job(j).state, self.job(j).stage) for j in job_ids]}",
            seconds,
        )
        return [self.job(job_id) for job_id in job_ids]

    def wait_for_stage(self, job_id: str, stage: str) -> None:
        wait_until(lambda: self.job(job_id).stage == stage, f"stage {stage}", LONG)

    def versions(self) -> list[Any]:
        return list(self.platform.tracking.search_model_versions("name = 'flowers'"))

    def assert_one_version_each(self, jobs: list[Job]) -> None:
        """Every job succeeded, and each registered exactly one version."""
        assert {job.state for job in jobs} == {"succeeded"}, [job.error for job in jobs]
        tagged = [version.tags["tidemill.job_id"] for version in self.versions()]
        assert sorted(tagged) == sorted(job.id for job in jobs)
        numbers = [str((job.result or {})["version"]) for job in jobs]
        assert sorted(numbers) == sorted(str(version.version) for version in self.versions())

    def open_runs(self) -> list[Any]:
        client = self.platform.tracking
        ids = [experiment.experiment_id for experiment in client.search_experiments()]
        return list(client.search_runs(ids, "attributes.status = 'RUNNING'"))

    def close(self) -> None:
        for worker in self.workers:
            worker.terminate()
        for worker in self.workers:
            try:
                worker.wait(60)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
        self.platform.close()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def embedded(mlflow_home: Path, stack: ExitStack) -> System:
    """SQLite, a folder as broker, MLflow's SQLite."""
    system = System(mlflow_home)
    stack.callback(system.close)
    return system


@contextmanager
def scaled_system(home: Path, stack: ExitStack, **more: Any) -> Iterator[Any]:
    postgres = stack.enter_context(private_postgres())
    redis = stack.enter_context(private_redis())
    url = stack.enter_context(fresh_database(postgres.url))
    system = System(home, database_url=url, broker_url=redis.url, **more)
    stack.callback(system.close)
    yield system, postgres, redis


@pytest.fixture
def scaled(
    mlflow_home: Path, stack: ExitStack
) -> Iterator[tuple[System, PostgresServer, RedisServer]]:
    """PostgreSQL and Redis of its own, MLflow's SQLite."""
    with scaled_system(mlflow_home, stack) as opened:
        yield opened


@pytest.fixture(params=["embedded", "scaled"])
def system(request: pytest.FixtureRequest) -> System:
    opened = request.getfixturevalue(request.param)
    return opened if isinstance(opened, System) else opened[0]


def kill(worker: subprocess.Popen[bytes]) -> None:
    worker.kill()
    worker.wait()


def test_a_worker_killed_in_the_middle_of_a_fit_loses_nothing(system: System) -> None:
    first = system.start_worker()
    job_id = system.train(rounds=20_000)
    system.wait_for_stage(job_id, "fit")
    kill(first)
    system.start_worker()
    (job,) = system.wait_for(job_id)
    assert job.attempts == 2
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
    held = system.settings.model_dump(mode="json", exclude_none=True, exclude={"audit_secret"})
    code = f"""
import os, signal
from tidemill.platform import Platform
from tidemill.settings import Settings
from tidemill.stores.jobs import NewJob
platform = Platform.open(Settings(**{held!r}))
object.__setattr__(platform.doorbell, "ring", lambda _: os.kill(os.getpid(), signal.SIGKILL))
platform.submit(NewJob("train", "flowers", {str(system.project)!r}))
"""
    died = subprocess.run([sys.executable, "-c", code], check=False)
    assert died.returncode == -signal.SIGKILL
    (job,) = system.platform.jobs.page().items
    assert (job.state, job.sent) == ("queued", None)
    system.start_worker()
    system.assert_one_version_each(system.wait_for(job.id))


def test_cancelling_stops_a_fit_and_frees_the_worker(system: System) -> None:
    system.start_worker()
    endless = system.train(rounds=10**9)
    system.wait_for_stage(endless, "fit")
    system.platform.jobs.cancel(endless)
    (job,) = system.wait_for(endless)
    assert job.state == "cancelled"
    system.assert_one_version_each(system.wait_for(system.train()))
    wait_until(lambda: system.open_runs() == [], "the cancelled run to be closed")


def test_a_job_is_ended_at_its_limits_and_not_tried_again(embedded: System) -> None:
    embedded.start_worker()
    long = embedded.train(rounds=10**9, time_limit=5)
    large = embedded.train(memory_limit=64 << 20)
    jobs = embedded.wait_for(long, large)
    assert [(job.state, job.attempts) for job in jobs] == [("failed", 1), ("failed", 1)]
    assert "longer than its limit of 5 seconds" in str(jobs[0].error)
    assert "its limit is 64 MB" in str(jobs[1].error)


def test_a_worker_that_is_told_to_stop_gives_its_job_back_at_once(system: System) -> None:
    first = system.start_worker()
    job_id = system.train(rounds=20_000)
    system.wait_for_stage(job_id, "fit")
    first.terminate()
    assert first.wait(60) == 0
    assert system.job(job_id).state == "waiting"
    system.start_worker()
    system.assert_one_version_each(system.wait_for(job_id))


def test_a_redis_that_comes_back_empty_loses_nothing(
    scaled: tuple[System, PostgresServer, RedisServer],
) -> None:
    system, _, redis = scaled
    system.start_worker(TIDEMILL_WORKER_PRELOAD="false")
    with serving(create_app(system.platform)) as url:
        key, _ = system.platform.keys.create(("train",), actor="test")
        probes = [system.probe(1) for _ in range(8)]
        wait_until(lambda: system.job(probes[0]).done, "the first job", LONG)
        redis.stop()
        with httpx.Client(headers={"X-API-Key": key}, timeout=60) as client:
            answer = client.post(f"{url}/train", json={"net.rounds": 500})
            assert answer.status_code == 202
            later = answer.json()["job_id"]
        time.sleep(10)
        redis.start()
        jobs = system.wait_for(later, *probes)
    assert {job.state for job in jobs} == {"succeeded"}
    assert {job.attempts for job in jobs} == {1}
    system.assert_one_version_each(jobs[:1])


def test_a_postgresql_that_restarts_loses_nothing_and_is_a_503_meanwhile(
    scaled: tuple[System, PostgresServer, RedisServer],
) -> None:
    system, postgres, _ = scaled
    system.start_worker(TIDEMILL_WORKER_PRELOAD="false")
    with serving(create_app(system.platform)) as url, httpx.Client(timeout=60) as client:
        key, _ = system.platform.keys.create(("train",), actor="test")
        headers = {"X-API-Key": key}
        running, queued = (system.probe(seconds) for seconds in (20, 1))
        system.wait_for_stage(running, "probe")
        postgres.stop("immediate")
        refused = client.post(f"{url}/train", json={}, headers=headers)
        assert refused.status_code == 503
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.headers["retry-after"]
        assert client.get(f"{url}/ready").status_code == 503
        assert client.get(f"{url}/health").status_code == 200
        time.sleep(5)
        postgres.start()
        answer = wait_until(
            lambda: _accepted(
                client.post(f"{url}/train", json={"net.rounds": 500}, headers=headers)
            ),
            "a training to be accepted again",
            30,
        )
        jobs = system.wait_for(answer["job_id"], running, queued)
        assert {job.state for job in jobs} == {"succeeded"}
        # The work went on while nobody could write down that it did.
        assert system.job(running).attempts == 1
        system.assert_one_version_each(jobs[:1])


def _accepted(answer: httpx.Response) -> Any:
    return answer.json() if answer.status_code == 202 else None


@pytest.mark.parametrize("when", ["before", "during"])
def test_with_mlflow_away_for_half_a_minute_jobs_wait_and_go_on(
    when: str, tmp_path: Path, home: Path, stack: ExitStack
) -> None:
    server: MlflowServer = stack.enter_context(private_mlflow(tmp_path))
    system = System(home, tracking_uri=server.url)
    stack.callback(system.close)
    system.start_worker()
    if when == "before":
        server.stop()
    jobs = [system.train(rounds=20_000 if when == "during" else 500), system.train(rounds=500)]
    if when == "during":
        system.wait_for_stage(jobs[0], "fit")
        server.stop()
    wait_until(lambda: system.job(jobs[0]).state == "waiting", "the job to wait", LONG)
    assert "cannot be reached" in str(system.job(jobs[0]).error)
    time.sleep(30)
    server.start()
    ended = system.wait_for(*jobs)
    assert {job.failures for job in ended} == {0}
    system.assert_one_version_each(ended)


@contextmanager
def small_disk(folder: Path) -> Iterator[Callable[[], None]]:
    """The folder as a disk of one megabyte; call what is given to make room."""
    if os.getuid() != 0:
        pytest.skip("a small disk can only be mounted by root")
    folder.mkdir()
    options = "size=256k,mode=0777"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=False
    )
    if done.returncode:
        pytest.skip("this machine does not let a small disk be mounted")
    try:
        yield (
            lambda: (
                subprocess.run(["mount", "-o", "remount,size=256m", str(folder)], check=True)
                and None
            )
        )
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_fails_the_job_with_the_reason_and_the_next_one_works(
    embedded: System,
) -> None:
    embedded.start_worker()
    with small_disk(embedded.settings.artifact_root) as make_room:
        (job,) = embedded.wait_for(embedded.train(rounds=500))
        assert job.state == "failed"
        assert job.failures == embedded.settings.job_max_failures - 1
        assert "No space left" in str(job.error)
        assert embedded.versions() == []
        make_room()
        embedded.assert_one_version_each(embedded.wait_for(embedded.train(rounds=500)))


def test_two_hundred_jobs_survive_a_kill_every_two_seconds(
    scaled: tuple[System, PostgresServer, RedisServer],
) -> None:
    system, _, _ = scaled
    light = {"TIDEMILL_WORKER_PRELOAD": "false"}
    workers = [system.start_worker(**light) for _ in range(4)]
    ids = [system.probe(0.2) for _ in range(200)]
    dice = random.Random(7)
    kills, deadline = 0, time.monotonic() + 2 * LONG
    while system.platform.jobs.counts().get("succeeded", 0) < 200:
        assert time.monotonic() < deadline, system.platform.jobs.counts()
        time.sleep(2)
        place = dice.randrange(4)
        kill(workers[place])
        kills += 1
        workers[place] = system.start_worker(**light)
    jobs = [system.job(job_id) for job_id in ids]
    assert {job.state for job in jobs} == {"succeeded"}
    assert sum(job.attempts for job in jobs) <= 200 + kills
    assert kills > 3


def test_a_dozen_trainings_survive_kills_and_each_registers_once(
    scaled: tuple[System, PostgresServer, RedisServer],
) -> None:
    system, _, _ = scaled
    workers = [system.start_worker() for _ in range(2)]
    ids = [system.train(rounds=300) for _ in range(12)]
    dice = random.Random(11)
    deadline = time.monotonic() + 3 * LONG
    while not all(system.job(job_id).done for job_id in ids):
        assert time.monotonic() < deadline, system.platform.jobs.counts()
        time.sleep(20)
        place = dice.randrange(2)
        kill(workers[place])
        workers[place] = system.start_worker()
    system.assert_one_version_each([system.job(job_id) for job_id in ids])
    assert system.open_runs() == []


def test_no_process_of_a_killed_worker_goes_on(embedded: System) -> None:
    worker = embedded.start_worker()
    job_id = embedded.train(rounds=10**9)
    embedded.wait_for_stage(job_id, "fit")
    started = _descendants(worker.pid)
    assert started
    kill(worker)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started), "their end")
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
