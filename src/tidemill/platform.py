"""The control plane, wired: settings become stores. The one place that chooses adapters.

platform = Platform.open(Settings())
job, new = platform.submit(NewJob("train", model="iris-classifier"))
"""

from __future__ import annotations

import gc
import socket
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tidemill.errors import UnavailableError
from tidemill.settings import Settings
from tidemill.stores.api_keys import KeyStore
from tidemill.stores.audit import AuditEntry, AuditLog
from tidemill.stores.database.database import Database
from tidemill.stores.database.schema import open_database
from tidemill.stores.jobs.broker import JobNotifier
from tidemill.stores.jobs.jobs import Job, Jobs, NewJob
from tidemill.stores.mlflow.connection import PORTS, open_client, set_http_timeouts
from tidemill.stores.mlflow.output import silence_mlflow_output
from tidemill.stores.mlflow.query_statistics import write_query_statistics
from tidemill.stores.mlflow.registry import Registry
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
    from tidemill.loop.promotion.promote import Transition
    from tidemill.loop.retraining.contest import ContestService
    from tidemill.loop.retraining.growth import RetrainingScheduler
    from tidemill.loop.retraining.probation import ProbationService

PROBE_SECONDS = 1.0


@dataclass(frozen=True)
class Platform:
    """Everything the control plane's faces need. Close it when done."""

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
        """Wire the stores and check the database.

        The embedded database in the home is brought up to date by itself; another one only by
        `tidemill migrate`, because others may be working with it.

        Raises:
            SettingsError: The database is at another schema, or a URL is of an unknown kind.
            UnavailableError: The database cannot be reached.
        """
        settings.home.mkdir(parents=True, exist_ok=True)
        database = open_database(settings)
        secret = settings.audit_secret
        audit = AuditLog(database, settings.home, secret.get_secret_value() if secret else None)
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
        """Accept a job: its row first, then the notifier. Whether it is new comes with it.

        Raises:
            ConflictError: The idempotency key belongs to another request.
            UnavailableError: The database cannot be reached; nothing was accepted.
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
        """Record a change of who serves; what `tidemill.loop.promotion.promote` takes as `audit`.

        Args:
            origin: The address or command the change was asked from.
        """
        details = {
            "from": change.origin,
            "to": change.stage,
            "replaced": change.replaced,
            "evidence": dict(change.evidence),
            "failed": change.failed,
        }
        self.audit.append(
            AuditEntry(
                change.actor,
                f"version.{change.action}",
                subject=change.model,
                version=change.version,
                origin=origin,
                reason=change.reason,
                details=details,
            )
        )

    @cached_property
    def tracking(self) -> MlflowClient:
        """MLflow's client; importing it takes a second, so it is made when first needed."""
        set_http_timeouts()
        silence_mlflow_output()
        write_query_statistics(self.settings.mlflow_uri)
        client = open_client(self.settings.mlflow_uri, self.settings.registry_uri)
        gc.freeze()  # MLflow's modules stay: looking through them for garbage takes 0.2 s each time
        return client

    @cached_property
    def registry(self) -> Registry:
        """The registered models and their versions."""
        set_http_timeouts()
        silence_mlflow_output()
        return Registry(self.settings.mlflow_uri, self.settings.registry_uri)

    @cached_property
    def watching(self) -> MonitoringResults:
        """What checks found."""
        return MonitoringResults(self.database)

    @cached_property
    def watcher(self) -> Watcher:
        """What looks at models; importing it takes a second, so it is made when first needed."""
        from tidemill.loop.monitoring.wiring import make_watcher

        return make_watcher(
            settings=self.settings,
            predictions=self.predictions,
            watching=self.watching,
            triggers=self.triggers,
            submit=self.submit,
            job=self.jobs.get,
            projects=self.projects,
            registry=lambda: self.registry,
            contest=self.contest,
            audit=self.audit.append,
        )

    def mlflow_problem(self) -> str | None:
        """None when MLflow can be reached, else what is wrong; takes a second at most."""
        for uri in {self.settings.mlflow_uri, self.settings.registry_uri or ""}:
            problem = _connection_problem(uri)
            if problem is not None:
                return problem
        return None

    def require_mlflow(self) -> MlflowClient:
        """MLflow's client, after a quick look whether it is there.

        Raises:
            UnavailableError: It is not.
        """
        problem = self.mlflow_problem()
        if problem is not None:
            raise UnavailableError(problem, remedy="Start MLflow, or look with `tidemill doctor`.")
        return self.tracking

    @property
    def contests(self) -> Contests:
        return Contests(self.database)

    @property
    def triggers(self) -> Triggers:
        return Triggers(self.database)

    @property
    def bundles(self) -> Path:
        """Where bundles are kept while their versions compete."""
        return self.settings.home / "contestants"

    @cached_property
    def umpire(self) -> ContestService:
        """Judges the contests between challengers and champions."""
        from tidemill.loop.retraining.contest import ContestService

        return ContestService(
            database=self.database,
            registry=self.registry,
            predictions=self.predictions,
            project=lambda model: self.projects.get(model).project,
            folder=self.bundles,
            audit=partial(self.audit_transition, origin="contest"),
        )

    @cached_property
    def probation(self) -> ProbationService:
        """Watches over promotions that contests led to."""
        from tidemill.loop.retraining.probation import ProbationService

        return ProbationService(self.umpire)

    @cached_property
    def follow_ups(self) -> RetrainingScheduler:
        """Sees to retrainings that wait for more labels."""
        from tidemill.loop.retraining.growth import RetrainingScheduler

        def champion(model: str) -> str | None:
            found = self.registry.by_alias(model, "champion")
            return None if found is None else found.number

        @cache  # it does not change, and every look wants to know
        def learned(model: str, version: str) -> int:
            run = self.registry.version(model, version).run_id
            params = self.tracking.get_run(run).data.params if run else {}
            return int(params.get("rows_train", 0))

        def last_spar(model: str) -> Job | None:
            found = self.jobs.page(model=model, kind="spar", limit=1).items
            return found[0] if found else None

        return RetrainingScheduler(
            triggers=self.triggers,
            contests=self.contests,
            predictions=self.predictions,
            submit=self.submit,
            job=self.jobs.get,
            project=lambda model: self.projects.get(model).project,
            place=lambda model: self.projects.get(model).reference,
            champion=champion,
            last_spar=last_spar,
            learned=learned,
        )

    def contest(self, model: str) -> None:
        """Let a model's challengers compete, or the champion that was beaten before; and retrain
        again where there is more to learn from.

        Raises:
            UnavailableError: MLflow or the database cannot be reached.
        """
        if self.umpire.judge(model) is None and self.follow_ups.follow(model) is None:
            self.probation.judge(model)

    def close(self) -> None:
        """Write what is still buffered and let go of every connection."""
        self.requests.close()
        self.notifier.close()
        self.database.close()

    def _memory_limit(self) -> int | None:
        megabytes = self.settings.job_memory_limit_mb
        return None if megabytes is None else megabytes * 2**20


def _connection_problem(uri: str) -> str | None:
    parts = urlsplit(uri)
    scheme = parts.scheme.partition("+")[0]
    if scheme not in PORTS:
        return None  # a file, which MLflow opens by itself
    address = (parts.hostname or "localhost", parts.port or PORTS[scheme])
    try:
        socket.create_connection(address, timeout=PROBE_SECONDS).close()
    except OSError as error:
        return f"MLflow at {scheme}://{address[0]}:{address[1]} cannot be reached: {error}"
    return None
