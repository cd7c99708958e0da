"""The parts of watching, put together; and where the project of a model is found."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from tidemill.errors import NotFoundError, ProjectError
from tidemill.loop.monitoring.reference import ChampionReferences
from tidemill.loop.monitoring.trigger_actions import Submit, TriggerActions
from tidemill.loop.monitoring.trigger_files import TriggerFiles
from tidemill.loop.monitoring.watcher import Contest, Watcher
from tidemill.loop.promotion.challenge import end_bad_canary
from tidemill.policies import Challenge
from tidemill.project import Project, load_project
from tidemill.settings import Settings
from tidemill.stores.audit import AuditEntry
from tidemill.stores.jobs.jobs import Job
from tidemill.stores.mlflow.registry import Registry
from tidemill.stores.monitoring.results import MonitoringResults
from tidemill.stores.monitoring.triggers import Triggers
from tidemill.stores.predictions.predictions import Predictions
from tidemill.stores.projects import KnownProject, Projects

#: So long it is remembered where a version says its project is, or that it says nothing.
REMEMBERED_SECONDS = 60.0


def make_watcher(
    *,
    settings: Settings,
    predictions: Predictions,
    watching: MonitoringResults,
    triggers: Triggers,
    submit: Submit,
    job: Callable[[str], Job],
    projects: Projects,
    registry: Callable[[], Registry],
    contest: Contest | None,
    audit: Callable[[AuditEntry], object],
) -> Watcher:
    """A watcher over these stores."""
    finder = ProjectFinder(projects, registry)
    files = TriggerFiles(settings.triggers, triggers)
    trigger_actions = TriggerActions(
        triggers, submit, job, lambda model: finder.get(model).reference, files
    )
    files.ask = trigger_actions.ask

    def watch_canary(model: str, champion: str, policy: Challenge) -> None:
        end_bad_canary(predictions, settings.shelf, model, champion, policy, audit)

    return Watcher(
        predictions=predictions,
        references=ChampionReferences(settings.shelf, registry),
        monitoring_results=watching,
        triggers=triggers,
        trigger_actions=trigger_actions,
        files=files,
        project=finder.project,
        contest=contest,
        guard=watch_canary,
    )


@dataclass
class _Place:
    reference: str | None
    until: float


class ProjectFinder:
    """The project that trains a model: one that is set up here, or where its versions come from."""

    def __init__(self, projects: Projects, registry: Callable[[], Registry]) -> None:
        self._projects = projects
        self._registry = registry
        self._places: dict[str, _Place] = {}

    def project(self, model: str) -> Project:
        """The project; errors as of `get`."""
        return self.get(model).project

    def get(self, model: str) -> KnownProject:
        """The project and its place.

        Raises:
            NotFoundError: Nobody knows one.
            ProjectError: It does not load, or trains another model.
            UnavailableError: Only MLflow could tell, and it cannot be reached.
        """
        try:
            return self._projects.get(model)
        except NotFoundError as error:
            place = self._remembered(model)
            if place is None:
                raise error
        project = load_project(place)
        if project.name != model:
            raise ProjectError(f"{place} trains '{project.name}', not '{model}'.")
        return KnownProject(place, project)

    def _remembered(self, model: str) -> str | None:
        held = self._places.get(model)
        if held is None or held.until < time.monotonic():
            version = self._registry().latest(model)
            place = version.tags.get("tidemill.project")
            held = _Place(place, time.monotonic() + REMEMBERED_SECONDS)
            self._places[model] = held
        return held.reference
