"""Build the monitor from the control plane's stores, and find the project of a model."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from tidemill.errors import NotFoundError, ProjectError
from tidemill.loop.control_plane import ControlPlane
from tidemill.loop.monitoring.reference import ChampionReferences
from tidemill.loop.monitoring.trigger_actions import TriggerActions
from tidemill.loop.monitoring.trigger_files import TriggerFiles
from tidemill.loop.monitoring.watcher import Watcher
from tidemill.loop.promotion.challenge import CanaryGuard
from tidemill.project import Project, load_project
from tidemill.stores.mlflow.registry import Registry
from tidemill.stores.monitoring.results import MonitoringResults
from tidemill.stores.monitoring.triggers import Triggers
from tidemill.stores.projects import KnownProject, Projects

#: How long the project that a version names, or that it names none, is cached.
CACHE_SECONDS = 60.0


def make_watcher(
    plane: ControlPlane, advance_retraining: Callable[[str], object] | None
) -> Watcher:
    """Build the monitor; the registry is used only when a bundle or project is not found here."""

    def registry() -> Registry:
        return plane.registry

    settings, triggers = plane.settings, Triggers(plane.database)
    finder = ProjectFinder(plane.projects, registry)
    files = TriggerFiles(settings.triggers, triggers)

    def reference(model: str) -> str:
        return finder.get(model).reference

    return Watcher(
        predictions=plane.predictions,
        references=ChampionReferences(settings.shelf, registry),
        monitoring_results=MonitoringResults(plane.database),
        triggers=triggers,
        trigger_actions=TriggerActions(triggers, plane.submit, plane.jobs.get, reference, files),
        files=files,
        project=finder.project,
        advance_retraining=advance_retraining,
        check_canary=CanaryGuard(plane.predictions, settings.shelf, plane.audit.append).check,
    )


@dataclass
class _CachedReference:
    reference: str | None
    until: float


class ProjectFinder:
    """Finds the project that trains a model: a configured one, or the one its versions name."""

    def __init__(self, projects: Projects, registry: Callable[[], Registry]) -> None:
        self._projects = projects
        self._registry = registry
        self._cached: dict[str, _CachedReference] = {}

    def project(self, model: str) -> Project:
        """Return the project; raises as `get` does."""
        return self.get(model).project

    def get(self, model: str) -> KnownProject:
        """Return the project and its reference.

        Raises:
            NotFoundError: No project is known.
            ProjectError: It does not load, or trains another model.
            UnavailableError: MLflow is needed and cannot be reached.
        """
        try:
            return self._projects.get(model)
        except NotFoundError as error:
            reference = self._from_version(model)
            if reference is None:
                raise error
        project = load_project(reference)
        if project.name != model:
            raise ProjectError(f"{reference} trains '{project.name}', not '{model}'.")
        return KnownProject(reference, project)

    def _from_version(self, model: str) -> str | None:
        held = self._cached.get(model)
        if held is None or held.until < time.monotonic():
            version = self._registry().latest(model)
            place = version.tags.get("tidemill.project")
            held = _CachedReference(place, time.monotonic() + CACHE_SECONDS)
            self._cached[model] = held
        return held.reference
