"""The registered models and versions of MLflow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from tidemill.api.dependencies import KeyHolder, PlatformDep
from tidemill.api.mlflow_queries import mlflow_cursor, mlflow_time, quote, translated_mlflow_errors
from tidemill.api.schemas import Cursor, Listing, PathText
from tidemill.errors import NotFoundError
from tidemill.stores.mlflow.evidence import read_evidence
from tidemill.stores.mlflow.versions import is_version_number

router = APIRouter(tags=["models"])

GATE_TAG = "tidemill.gate."
# Of the newest versions in a model's response; /models/{name}/versions lists all of them.
SHOWN_VERSIONS = 20


class VersionView(BaseModel):
    """One version. `stage` is None, Staging, Production or Archived."""

    model: str
    version: str
    stage: str
    aliases: list[str]
    created: datetime | None
    run_id: str | None
    candidate: str | None
    description: str | None
    bundle: str | None = Field(description="Digest of the bundle")
    metrics: dict[str, float | None]
    gate: dict[str, str] = Field(description="The gate's verdict in short")
    tags: dict[str, str]


class ModelView(BaseModel):
    """One registered model with its newest versions."""

    name: str
    description: str | None
    created: datetime | None
    updated: datetime | None
    aliases: dict[str, str] = Field(description="Version by alias")
    tags: dict[str, str]
    versions: list[VersionView]


@router.get("/models")
def list_models(
    _: KeyHolder,
    platform: PlatformDep,
    name: Annotated[str | None, Query(max_length=255, description="Part of the name.")] = None,
    stage: Annotated[
        str | None, Query(max_length=32, description="Only versions in this stage.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Cursor = None,
) -> Listing[ModelView]:
    """List registered models by name, each with its newest versions, their stages and metrics."""
    client = platform.require_mlflow()
    name_filter = None if name is None else f"name ILIKE {quote(f'%{name}%')}"
    with translated_mlflow_errors():
        page = client.search_registered_models(
            filter_string=name_filter,
            max_results=limit,
            order_by=["name ASC"],
            page_token=mlflow_cursor(cursor),
        )
        versions = {model.name: _newest_versions(client, model.name) for model in page}
        metrics = _metrics_by_run(client, versions)
    views = [_view_model(model, versions[model.name], metrics) for model in page]
    return Listing(items=[_only_stage(view, stage) for view in views], next=page.token or None)


@router.get("/models/{name}")
def get_model(name: PathText, _: KeyHolder, platform: PlatformDep) -> ModelView:
    """Get a model with its newest versions: stages, aliases, metrics, gate verdicts."""
    client = platform.require_mlflow()
    with translated_mlflow_errors():
        model = client.get_registered_model(name)
        versions = _newest_versions(client, name)
        return _view_model(model, versions, _metrics_by_run(client, {name: versions}))


@router.get("/models/{name}/versions")
def list_versions(
    name: PathText,
    _: KeyHolder,
    platform: PlatformDep,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Cursor = None,
) -> Listing[VersionView]:
    """List all versions of a model, newest first."""
    client = platform.require_mlflow()
    with translated_mlflow_errors():
        page = client.search_model_versions(
            f"name = {quote(name)}",
            max_results=limit,
            order_by=["version_number DESC"],
            page_token=mlflow_cursor(cursor),
        )
        if not page and cursor is None:
            client.get_registered_model(name)  # raises if there is no such model
        metrics = _metrics_by_run(client, {name: page})
    return Listing(items=[_view_version(each, metrics) for each in page], next=page.token or None)


@router.get("/models/{name}/versions/{version}/evidence")
def get_evidence(
    name: PathText, version: PathText, _: KeyHolder, platform: PlatformDep
) -> dict[str, Any]:
    """Get all the evidence on which the gate decided about this version."""
    client = platform.require_mlflow()
    with translated_mlflow_errors():
        if not is_version_number(version):
            raise NotFoundError(f"'{name}' has no version {version[:40]}.", field="version")
        found = client.get_model_version(name, version)
        return read_evidence(client, found.run_id, version)


def _newest_versions(client: Any, name: str) -> list[Any]:
    return list(
        client.search_model_versions(
            f"name = {quote(name)}",
            max_results=SHOWN_VERSIONS,
            order_by=["version_number DESC"],
        )
    )


def _metrics_by_run(
    client: Any, versions: Mapping[str, Iterable[Any]]
) -> dict[str, dict[str, float]]:
    """The metrics of the versions' runs, by run id; two queries for any number of versions."""
    run_ids = {v.run_id for found in versions.values() for v in found if v.run_id}
    if not run_ids:
        return {}
    experiments = [found.experiment_id for found in client.search_experiments(max_results=1000)]
    listed = ", ".join(quote(run_id) for run_id in sorted(run_ids))
    runs = client.search_runs(
        experiments, f"attributes.run_id IN ({listed})", max_results=len(run_ids)
    )
    return {run.info.run_id: dict(run.data.metrics) for run in runs}


def _view_model(model: Any, versions: list[Any], metrics: dict[str, dict[str, float]]) -> ModelView:
    return ModelView(
        name=model.name,
        description=model.description or None,
        created=mlflow_time(model.creation_timestamp),
        updated=mlflow_time(model.last_updated_timestamp),
        aliases={alias: str(version) for alias, version in dict(model.aliases).items()},
        tags=dict(model.tags),
        versions=[_view_version(each, metrics) for each in versions],
    )


def _view_version(version: Any, metrics: dict[str, dict[str, float]]) -> VersionView:
    tags = dict(version.tags)
    gate = {name: value for name, value in tags.items() if name.startswith(GATE_TAG)}
    return VersionView(
        model=version.name,
        version=str(version.version),
        stage=tags.get("stage", "None"),
        aliases=list(version.aliases),
        created=mlflow_time(version.creation_timestamp),
        run_id=version.run_id,
        candidate=tags.get("tidemill.candidate"),
        description=version.description or None,
        bundle=tags.get("tidemill.bundle"),
        metrics=dict(metrics.get(version.run_id, {})),
        gate={name.removeprefix(GATE_TAG): value for name, value in gate.items()},
        tags={name: value for name, value in tags.items() if name not in gate},
    )


def _only_stage(view: ModelView, stage: str | None) -> ModelView:
    if stage is None:
        return view
    kept = [version for version in view.versions if version.stage.lower() == stage.lower()]
    return view.model_copy(update={"versions": kept})
