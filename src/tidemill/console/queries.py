"""Queries that several pages share: models, versions, served models, projects.

They go through the `BackgroundCache`, so that no page waits long for MLflow or the data plane.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from tidemill.console.background_cache import CachedValue
from tidemill.console.page_request import PageRequest
from tidemill.console.traffic import TrafficFigures
from tidemill.errors import UnavailableError
from tidemill.metrics import METRICS
from tidemill.stores.audit import AuditLog
from tidemill.stores.mlflow.versions import CHAMPION, ModelVersion, RegisteredModel
from tidemill.stores.projects import KnownProject

TIMEOUT_SECONDS = 2.0
DECISION_SECONDS = 15.0
CHAMPION_ACTIONS = ("version.promote", "version.override", "version.rollback", "version.transition")


def models(request: PageRequest) -> CachedValue[list[RegisteredModel]]:
    """The registered models."""
    return request.context.cache.get("models", request.context.registered_models)


def versions(request: PageRequest, name: str) -> CachedValue[list[ModelVersion]]:
    """The versions of a model with their metrics, newest first.

    Raises:
        NotFoundError: There is no such model.
    """
    platform = request.context.platform
    read = lambda: platform.registry.versions(name, metrics=True)  # noqa: E731
    return request.context.cache.get(("versions", name), read)


def require_versions(request: PageRequest, name: str) -> list[ModelVersion]:
    """The same for a page with a decision: it waits, because its form is not updated later.

    Raises:
        NotFoundError: There is no such model.
        UnavailableError: MLflow is down.
    """
    read = lambda: request.context.platform.registry.versions(name, metrics=True)  # noqa: E731
    answer = request.context.cache.get(("versions", name), read, patience=DECISION_SECONDS)
    if answer.value is None or answer.problem:
        raise UnavailableError(
            f"MLflow is down. {answer.problem or 'It does not answer.'}",
            remedy="Serving continues; decide once MLflow is back.",
        )
    return answer.value


def served(request: PageRequest) -> CachedValue[dict[str, dict[str, Any]]]:
    """The models that the data plane serves, with its facts about each."""
    url = request.serving_url
    return request.context.cache.get(("served", url), lambda: _served(url))


def traffic(request: PageRequest) -> CachedValue[TrafficFigures]:
    """The data plane's traffic."""
    url = request.serving_url
    return request.context.cache.get(("traffic", url), lambda: request.context.traffic.read(url))


def projects(request: PageRequest) -> CachedValue[dict[str, KnownProject]]:
    """The projects configured here, by model."""
    known = request.context.platform.projects
    return request.context.cache.get("projects", known.all, fresh=20.0)


def champion_of(found: list[ModelVersion] | None) -> ModelVersion | None:
    return next((v for v in found or () if CHAMPION in v.aliases), None)


def shown_metrics(found: list[ModelVersion], most: int = 4) -> list[str]:
    """The first few metrics for a list of versions, the most common ones first."""
    known = {name for version in found for name in version.metrics}
    usual = ("f1_score", "accuracy", "roc_auc", "log_loss", "rmse", "mae", "r2")
    ranked = [name for name in usual if name in known]
    return (ranked + [name for name in METRICS if name in known and name not in usual])[:most]


def best_of(found: list[ModelVersion], metric: str) -> str | None:
    """The number of the version with the best value of a metric."""
    sign = METRICS[metric].sign if metric in METRICS else 1
    having = [v for v in found if metric in v.metrics]
    return max(having, key=lambda v: sign * v.metrics[metric]).number if having else None


def last_decision(audit: AuditLog, model: str) -> dict[str, Any] | None:
    """The newest change of champion in the audit log, with a sentence that describes it."""
    for row in audit.page(subject=model, limit=20).items:
        if row["action"] in CHAMPION_ACTIONS:
            return {**row, "sentence": decision_sentence(row)}
    return None


def decision_sentence(row: Mapping[str, Any]) -> str:
    """A sentence that describes a change of champion."""
    details: Mapping[str, Any] = row["details"]
    number, replaced = row["version"], details.get("replaced")
    over = f" in place of version {replaced}" if replaced else ""
    words = {
        "version.promote": f"Version {number} passed the gate{over}.",
        "version.override": f"Version {number} was made champion{over} by override.",
        "version.rollback": f"Rolled back to version {number}{over}.",
        "version.transition": f"Version {number} was moved to {details.get('to')}.",
    }[row["action"]]
    if details.get("failed"):
        return f"{words[:-1]}, but it failed: {details['failed']}"
    reasons = (details.get("evidence") or {}).get("reasons") or ()
    why = row["reason"] or " ".join(reasons)
    return f"{words} {why}".strip()


def run_link(request: PageRequest, run_id: str | None) -> str | None:
    """The URL of a run in MLflow's UI, if the UI's address is known."""
    base = mlflow_pages(request)
    return f"{base}/#/experiments/0/runs/{run_id}" if base and run_id else None


def mlflow_pages(request: PageRequest) -> str | None:
    settings = request.context.platform.settings
    uri = settings.mlflow_pages or settings.mlflow_uri
    return uri.rstrip("/") if uri.startswith(("http://", "https://")) else None


def _served(url: str) -> dict[str, dict[str, Any]]:
    answer = httpx.get(f"{url}/info", timeout=TIMEOUT_SECONDS).raise_for_status()
    return {model["name"]: model for model in answer.json()["models"]}
