"""The wiring of the control plane: builds every store and service from the settings.

platform = Platform.open(Settings())
job, new = platform.submit(NewJob("train", model="iris-classifier"))
"""

from __future__ import annotations

import gc
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from tidemill.errors import UnavailableError
from tidemill.settings import Settings
from tidemill.stores.api_keys import KeyStore
from tidemill.stores.audit import AuditLog
from tidemill.stores.database.database import Database
from tidemill.stores.database.schema import open_database
from tidemill.stores.jobs.broker import JobNotifier
from tidemill.stores.jobs.jobs import Job, Jobs, NewJob
from tidemill.stores.mlflow.connection import (
    connection_problem,
    open_client,
    set_http_timeouts,
    silence_mlflow_output,
)
from tidemill.stores.mlflow.registry import Registry
from tidemill.stores.mlflow.sqlite_store import write_query_statistics
from tidemill.stores.monitoring.results import MonitoringResults
from tidemill.stores.monitoring.triggers import Triggers
from tidemill.stores.predictions.feedback import Feedback
from tidemill.stores.predictions.predictions import Predictions
from tidemill.stores.projects import Projects, project_references
from tidemill.stores.request_log import RequestLog
from tidemill.stores.retraining.contests import Contests

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from tidemill.loop.monitoring.watcher import Watcher
    from tidemill.loop.promotion.transitions import Transition
    from tidemill.loop.retraining.retraining import RetrainingService
    from tidemill.loop.retraining.staleness import StalenessCheck


@dataclass(frozen=True)
class Platform:
    """The stores and services that the API, console, CLI and workers use. Close it when done."""

    settings: Settings
    database: Database
    jobs: Jobs
    audit: AuditLog
    keys: KeyStore
    projects: Projects
    notifier: JobNotifier
    requests: RequestLog
    predictions: Predictions
    feedback: Feedback

    @classmethod
    def open(cls, settings: Settings) -> Platform:
        """Open the stores and check the database's schema.

        The embedded database in the home is migrated automatically; any other only by
        `tidemill migrate`, because others may be using it.

        Raises:
            SettingsError: The database has another schema version, or a URL is not supported.
            UnavailableError: The database cannot be reached.
        """
        settings.make_home()
        database = open_database(settings)
        audit = AuditLog.from_settings(database, settings)
        jobs = Jobs(database)
        return cls(
            settings=settings,
            database=database,
            jobs=jobs,
            audit=audit,
            keys=KeyStore(settings.keys_file, audit.append),
            projects=Projects(project_references(settings.project), settings.model_name),
            notifier=JobNotifier(settings.broker_uri, jobs.mark_sent),
            requests=RequestLog(database),
            predictions=Predictions(database),
            feedback=Feedback(database),
        )

    def submit(self, new: NewJob) -> tuple[Job, bool]:
        """Insert a job with the default limits, and tell a worker.

        Returns:
            The job, and whether it is new.

        Raises:
            ConflictError: The idempotency key was used for a different request.
            UnavailableError: The database cannot be reached; no job was created.
        """
        limited = replace(
            new,
            time_limit=new.time_limit or self.settings.job_time_limit,
            memory_limit=new.memory_limit or self._memory_limit(),
        )
        job, created = self.jobs.submit(limited)
        if created:
            self.notifier.notify(job.id)
        return job, created

    def audit_transition(self, change: Transition, origin: str | None = None) -> None:
        """Write a change of a version's stage to the audit log.

        Args:
            origin: The address or command that requested the change.
        """
        self.audit.append(change.audit_entry(origin))

    @cached_property
    def tracking(self) -> MlflowClient:
        """MLflow's client, opened on first use because importing MLflow takes a second."""
        set_http_timeouts()
        silence_mlflow_output()
        write_query_statistics(self.settings.mlflow_uri)
        client = open_client(self.settings.mlflow_uri, self.settings.registry_uri)
        gc.freeze()  # MLflow's modules stay loaded; collecting garbage among them takes 0.2 s
        return client

    @cached_property
    def registry(self) -> Registry:
        """The registered models and their versions."""
        set_http_timeouts()
        silence_mlflow_output()
        return Registry(self.settings.mlflow_uri, self.settings.registry_uri)

    @cached_property
    def monitoring_results(self) -> MonitoringResults:
        """The results of monitoring checks."""
        return MonitoringResults(self.database)

    @cached_property
    def watcher(self) -> Watcher:
        """The monitoring of models, built on first use because importing it takes a second."""
        from tidemill.loop.monitoring.wiring import make_watcher

        return make_watcher(self, lambda model: self.retraining.advance(model))

    def mlflow_problem(self) -> str | None:
        """Return why MLflow cannot be reached, or None; takes a second at most for each server."""
        uris = {self.settings.mlflow_uri, self.settings.registry_uri or ""}
        return next(filter(None, map(connection_problem, uris)), None)

    def require_mlflow(self) -> MlflowClient:
        """Return MLflow's client after a quick check that MLflow can be reached.

        Raises:
            UnavailableError: It cannot.
        """
        problem = self.mlflow_problem()
        if problem is not None:
            raise UnavailableError(problem, remedy="Start MLflow, or check with `tidemill doctor`.")
        return self.tracking

    @property
    def contests(self) -> Contests:
        return Contests(self.database)

    @property
    def triggers(self) -> Triggers:
        return Triggers(self.database)

    @cached_property
    def retraining(self) -> RetrainingService:
        """Runs retrainings and advances contests."""
        from tidemill.loop.retraining.wiring import make_retraining

        return make_retraining(self)

    @cached_property
    def staleness_check(self) -> StalenessCheck:
        """Compares champions with models trained on newer rows."""
        from tidemill.loop.retraining.wiring import make_staleness_check

        return make_staleness_check(self)

    def close(self) -> None:
        """Write what is still buffered and close every connection."""
        self.requests.close()
        self.notifier.close()
        self.database.close()

    def _memory_limit(self) -> int | None:
        megabytes = self.settings.job_memory_limit_mb
        return None if megabytes is None else megabytes * 2**20
