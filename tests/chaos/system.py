"""A platform on given servers, workers that can be killed, and fits that wait for a file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.servers import wait_until
from tidemill.platform import Platform
from tidemill.settings import Settings
from tidemill.stores.database.database import Database
from tidemill.stores.database.schema import migrate
from tidemill.stores.jobs.jobs import Job, NewJob

PROJECT = '''
import time
from pathlib import Path

from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from tidemill import Candidate, Project, sklearn_dataset


def patient(until: str = "", C: float = 1.0) -> LogisticRegression:
    """A fit that reports its start by a file, and then waits for another file to appear."""
    model = LogisticRegression(C=C, max_iter=200)

    def fit(X, y):
        Path(f"{until}.{C}.begun").touch()
        while not Path(until).exists():
            time.sleep(0.05)
        del model.fit
        return model.fit(X, y)

    if until:
        model.fit = fit
    return model


def endless() -> MLPClassifier:
    """A fit that keeps a core busy for ever."""
    return MLPClassifier((16,), max_iter=10**9, tol=0.0, n_iter_no_change=10**9)


project = Project(
    "flowers",
    sklearn_dataset("iris"),
    "target",
    [
        Candidate("patient", patient),
        Candidate("three", patient, search={"C": [0.1, 1.0, 10.0]}),
        Candidate("endless", endless),
    ],
)
'''
# In seconds; set TIDEMILL_TEST_PATIENCE above 1 on a busy machine.
LONG = 300.0 * float(os.environ.get("TIDEMILL_TEST_PATIENCE", "1"))
# A server that is slow on a busy machine is not down.
PATIENT = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "60"}
# Without the training libraries, which probes do not need.
LIGHT = {"TIDEMILL_WORKER_PRELOAD": "false"}
# Heartbeats are late on a busy machine: for tests in which no worker may count as lost.
UNHURRIED = {"TIDEMILL_WORKER_LOST_AFTER": "120"}


class System:
    """A platform on given servers, with workers that can be killed."""

    def __init__(self, home: Path, **settings: Any) -> None:
        home.mkdir(exist_ok=True)
        self.project = home / "flowers.py"
        self.project.write_text(PROJECT)
        self.settings = Settings(
            home=home, project=str(self.project), worker_lost_after=5.0, **settings
        )
        if self.settings.database_url:
            database = Database(self.settings.database_uri)
            migrate(database)
            database.close()
        self.platform = Platform.open(self.settings)
        self.workers: list[subprocess.Popen[bytes]] = []

    def start_worker(self, **changes: str) -> subprocess.Popen[bytes]:
        values = self.settings.model_dump(
            mode="json", exclude_none=True, exclude={"audit_secret", "model_name", "model_stage"}
        )
        variables = {f"TIDEMILL_{name.upper()}": str(value) for name, value in values.items()}
        with (self.settings.home / f"worker-{len(self.workers)}.log").open("wb") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "tidemill.worker"],
                env={
                    **os.environ,
                    **variables,
                    "TIDEMILL_WORKER_CONCURRENCY": "1",
                    **PATIENT,
                    **changes,
                },
                stdout=log,
                stderr=log,
                cwd=self.settings.home,
            )
        self.workers.append(worker)
        return worker

    @property
    def gate(self) -> Path:
        """The file that waiting fits wait for."""
        return self.settings.home / "go"

    def train(self, candidate: str = "patient", *, held: bool = False, **more: Any) -> str:
        """Submit a training; with `held` its fits wait until the file `gate` exists."""
        overrides = {candidate: {"until": str(self.gate)}} if held else {}
        params = {"overrides": overrides, "only": [candidate]}
        new = NewJob("train", "flowers", str(self.project), params, **more)
        return self.platform.submit(new)[0].id

    def wait_for_fit(self, C: float = 1.0) -> None:
        """Wait until a waiting fit has started."""
        wait_until(Path(f"{self.gate}.{C}.begun").exists, "the fit to begin", LONG)

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
                worker.wait(300)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
        self.platform.close()


def kill(worker: subprocess.Popen[bytes]) -> None:
    """Kill a worker with SIGKILL."""
    worker.kill()
    worker.wait()
