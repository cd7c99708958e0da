"""Jobs while the servers they need are stopped, restarted, emptied or out of disk space.

In each test every accepted job ends exactly once in a final state; none is lost, none takes effect
twice, and the API returns 503 where it must.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.chaos.system import LIGHT, LONG, UNHURRIED, System
from tests.servers import (
    MlflowServer,
    PostgresServer,
    RedisServer,
    private_mlflow,
    serving,
    wait_until,
)
from tidemill.api.app import create_app

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),
]
Scaled = tuple[System, PostgresServer, RedisServer]


def test_a_redis_that_restarts_empty_loses_nothing(
    scaled: Scaled,
) -> None:
    system, _, redis = scaled
    system.start_worker(**LIGHT, **UNHURRIED)
    with serving(create_app(system.platform)) as url:
        key, _ = system.platform.keys.create(("train",), actor="test")
        probes = [system.probe(1) for _ in range(8)]
        wait_until(lambda: system.job(probes[0]).done, "the first job", LONG)
        redis.stop()
        with httpx.Client(headers={"X-API-Key": key}, timeout=300) as client:
            answer = client.post(f"{url}/train", json={"candidates": ["patient"]})
            assert answer.status_code == 202
            later = answer.json()["job_id"]
        time.sleep(10)
        redis.start()
        jobs = system.wait_for(later, *probes)
    assert {job.state for job in jobs} == {"succeeded"}
    assert {job.attempts for job in jobs} == {1}
    system.assert_one_version_each(jobs[:1])


def test_a_postgresql_restart_loses_nothing_and_gives_503_meanwhile(
    scaled: Scaled,
) -> None:
    system, postgres, _ = scaled
    system.start_worker(**LIGHT, **UNHURRIED)
    with serving(create_app(system.platform)) as url, httpx.Client(timeout=300) as client:
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
                client.post(f"{url}/train", json={"candidates": ["patient"]}, headers=headers)
            ),
            "a training to be accepted again",
            LONG,
        )
        jobs = system.wait_for(answer["job_id"], running, queued)
        assert {job.state for job in jobs} == {"succeeded"}
        # The job kept running although no heartbeat could be written.
        assert system.job(running).attempts == 1
        system.assert_one_version_each(jobs[:1])


def _accepted(answer: httpx.Response) -> Any:
    return answer.json() if answer.status_code == 202 else None


def test_jobs_wait_for_mlflow_during_an_outage_and_resume(
    tmp_path: Path, home: Path, stack: ExitStack
) -> None:
    """One job is in its fit when MLflow stops, the other starts during the outage."""
    server: MlflowServer = stack.enter_context(private_mlflow(tmp_path))
    system = System(home, tracking_uri=server.url)
    stack.callback(system.close)
    system.start_worker()
    jobs = [system.train(held=True), system.train()]
    system.wait_for_fit()
    server.stop()
    system.gate.touch()
    stopped = time.monotonic()
    for job_id in jobs:
        waiting = partial(_has_error, system, job_id, "cannot be reached")
        wait_until(waiting, "the job to wait", LONG)
    time.sleep(max(0.0, stopped + 30 - time.monotonic()))
    server.start()
    ended = system.wait_for(*jobs)
    assert {job.failures for job in ended} == {0}
    system.assert_one_version_each(ended)


def _has_error(system: System, job_id: str, text: str) -> bool:
    return text in str(system.job(job_id).error)


@contextmanager
def small_disk(folder: Path) -> Iterator[Callable[[], None]]:
    """Mount a disk of 256 kB at the folder; yields a function that enlarges it."""
    if os.getuid() != 0:
        pytest.skip("a small disk can only be mounted by root")
    folder.mkdir()
    options = "size=256k,mode=0777"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=False
    )
    if done.returncode:
        pytest.skip("a small disk cannot be mounted on this machine")
    try:
        yield (
            lambda: (
                subprocess.run(["mount", "-o", "remount,size=256m", str(folder)], check=True)
                and None
            )
        )
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_fails_the_job_with_the_reason_and_the_next_job_works(
    embedded: System,
) -> None:
    embedded.start_worker()
    with small_disk(embedded.settings.artifact_root) as enlarge_disk:
        (job,) = embedded.wait_for(embedded.train())
        assert job.state == "failed"
        assert job.failures == embedded.settings.job_max_failures - 1
        assert "No space left" in str(job.error)
        assert embedded.versions() == []
        enlarge_disk()
        embedded.assert_one_version_each(embedded.wait_for(embedded.train()))
