"""What the wiring of a subject needs of the control plane; `tidemill.platform.Platform` has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from tidemill.settings import Settings
from tidemill.stores.audit import AuditLog
from tidemill.stores.database.database import Database
from tidemill.stores.jobs.jobs import Job, Jobs, NewJob
from tidemill.stores.mlflow.registry import Registry
from tidemill.stores.predictions.predictions import Predictions
from tidemill.stores.projects import Projects

if TYPE_CHECKING:
    from mlflow import MlflowClient


class ControlPlane(Protocol):
    """Settings and stores. `registry` and `tracking` load MLflow when first used."""

    @property
    def settings(self) -> Settings: ...
    @property
    def database(self) -> Database: ...
    @property
    def jobs(self) -> Jobs: ...
    @property
    def audit(self) -> AuditLog: ...
    @property
    def projects(self) -> Projects: ...
    @property
    def predictions(self) -> Predictions: ...
    @property
    def registry(self) -> Registry: ...
    @property
    def tracking(self) -> MlflowClient: ...

    def submit(self, new: NewJob) -> tuple[Job, bool]: ...
