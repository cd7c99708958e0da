"""Build the services of retraining from the control plane's stores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from tidemill.loop.control_plane import ControlPlane
from tidemill.loop.promotion.transitions import AuditTransition, Transition
from tidemill.loop.retraining.contest import ContestService
from tidemill.loop.retraining.probation import ProbationService
from tidemill.loop.retraining.retraining import RetrainingService
from tidemill.loop.retraining.scheduler import RetrainingScheduler
from tidemill.loop.retraining.staleness import StalenessCheck
from tidemill.settings import Settings
from tidemill.stores.mlflow.versions import CHAMPION
from tidemill.stores.monitoring.triggers import Triggers
from tidemill.stores.retraining.contests import Contests


def bundle_folder(settings: Settings) -> Path:
    """Return the folder of the bundles of versions that compete."""
    return settings.home / "contestants"


def make_retraining(plane: ControlPlane) -> RetrainingService:
    """Build the service that runs retrainings and advances contests."""
    contests = ContestService(
        database=plane.database,
        registry=plane.registry,
        predictions=plane.predictions,
        project=lambda model: plane.projects.get(model).project,
        folder=bundle_folder(plane.settings),
        audit=_audit(plane, "contest"),
    )
    return RetrainingService(
        settings=plane.settings,
        contests=contests,
        scheduler=_scheduler(plane),
        probation=ProbationService(contests),
        audit_transition=_audit(plane, "worker"),
        append_entry=plane.audit.append,
    )


def make_staleness_check(plane: ControlPlane) -> StalenessCheck:
    """Build the staleness check."""
    return StalenessCheck(plane.registry, plane.predictions, _run_params(plane))


def _scheduler(plane: ControlPlane) -> RetrainingScheduler:
    run_params = _run_params(plane)

    def champion(model: str) -> str | None:
        found = plane.registry.by_alias(model, CHAMPION)
        return None if found is None else found.number

    @cache  # it does not change, and every check of a model needs it
    def rows_trained(model: str, version: str) -> int:
        run = plane.registry.version(model, version).run_id
        return int(run_params(run).get("rows_train", 0)) if run else 0

    return RetrainingScheduler(
        triggers=Triggers(plane.database),
        contests=Contests(plane.database),
        predictions=plane.predictions,
        jobs=plane.jobs,
        submit=plane.submit,
        project=plane.projects.get,
        champion=champion,
        rows_trained=rows_trained,
    )


def _run_params(plane: ControlPlane) -> Callable[[str], Mapping[str, str]]:
    def run_params(run_id: str) -> Mapping[str, str]:
        params: Mapping[str, str] = plane.tracking.get_run(run_id).data.params
        return params

    return run_params


def _audit(plane: ControlPlane, origin: str) -> AuditTransition:
    def record(change: Transition) -> None:
        plane.audit.append(change.audit_entry(origin))

    return record
