"""Experiments and their runs, as MLflow has them. Open to everyone, as a result board is."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from tidemill.api.access import Anyone
from tidemill.api.mlflow_errors import quote, translated_mlflow_errors
from tidemill.api.schemas import Cursor, Filter, Limit, Listing
from tidemill.api.state import platform_of
from tidemill.errors import NotFoundError
from tidemill.platform import Platform

router = APIRouter(tags=["experiments"])

ThePlatform = Annotated[Platform, Depends(platform_of)]
Status = Literal["RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"]


class ExperimentView(BaseModel):
    """One experiment."""

    id: str
    name: str
    created: datetime | None
    updated: datetime | None
    tags: dict[str, str]


class RunView(BaseModel):
    """One run. `parent` is the run of the sweep that a trial belongs to."""

    id: str
    name: str | None
    status: str
    started: datetime | None
    ended: datetime | None
    parent: str | None
    params: dict[str, str]
    metrics: dict[str, float | None]
    tags: dict[str, str] = Field(description="without MLflow's own")


@router.get("/experiments")
def list_experiments(
    _: Anyone,
    platform: ThePlatform,
    name: Annotated[str | None, Query(max_length=255, description="A part of the name.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Listing[ExperimentView]:
    """Experiments, the one that changed last first."""
    client = platform.require_mlflow()
    wanted = None if name is None else f"name ILIKE {quote(f'%{name}%')}"
    with translated_mlflow_errors():
        page = client.search_experiments(
            max_results=limit,
            filter_string=wanted,
            order_by=["last_update_time DESC"],
            page_token=cursor,
        )
    return Listing(items=[_view_experiment(each) for each in page], next=page.token or None)


@router.get("/experiments/{experiment_id}/runs")
def list_runs(
    experiment_id: str,
    _: Anyone,
    platform: ThePlatform,
    status: Status | None = None,
    where: Annotated[
        str | None,
        Query(max_length=2_000, description="MLflow's own: metrics.f1_score > 0.9"),
    ] = None,
    order_by: Annotated[
        str | None, Query(max_length=255, description="metrics.f1_score DESC")
    ] = None,
    parent: Filter = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Listing[RunView]:
    """Runs of an experiment, by its id or its name; the newest first unless ordered otherwise."""
    client = platform.require_mlflow()
    conditions = [
        f"attributes.status = {quote(status)}" if status else None,
        f"tags.`mlflow.parentRunId` = {quote(parent)}" if parent else None,
        where,
    ]
    with translated_mlflow_errors():
        page = client.search_runs(
            [_experiment_id(client, experiment_id)],
            filter_string=" AND ".join(each for each in conditions if each),
            max_results=limit,
            order_by=[order_by or "attributes.start_time DESC"],
            page_token=cursor,
        )
    return Listing(items=[_view_run(each) for each in page], next=page.token or None)


def _experiment_id(client: Any, reference: str) -> str:
    found = client.get_experiment_by_name(reference)
    if found is None and reference.isdigit():
        found = client.get_experiment(reference)
    if found is None:
        raise NotFoundError(f"There is no experiment '{reference}'.", field="experiment_id")
    return str(found.experiment_id)


def _view_experiment(experiment: Any) -> ExperimentView:
    return ExperimentView(
        id=experiment.experiment_id,
        name=experiment.name,
        created=mlflow_time(experiment.creation_time),
        updated=mlflow_time(experiment.last_update_time),
        tags=dict(experiment.tags),
    )


def _view_run(run: Any) -> RunView:
    tags = dict(run.data.tags)
    return RunView(
        id=run.info.run_id,
        name=run.info.run_name,
        status=run.info.status,
        started=mlflow_time(run.info.start_time),
        ended=mlflow_time(run.info.end_time),
        parent=tags.get("mlflow.parentRunId"),
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        tags={name: value for name, value in tags.items() if not name.startswith("mlflow.")},
    )


def mlflow_time(milliseconds: int | None) -> datetime | None:
    """A time as MLflow gives it."""
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)
