"""MLflow's experiments and runs. No key is needed."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from tidemill.api.dependencies import Anyone, PlatformDep
from tidemill.api.mlflow_queries import mlflow_cursor, mlflow_time, quote, translated_mlflow_errors
from tidemill.api.schemas import Cursor, Filter, Limit, Listing, PageQuery, PathText
from tidemill.errors import NotFoundError

router = APIRouter(tags=["experiments"])

Status = Literal["RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"]


class ExperimentView(BaseModel):
    """One experiment."""

    id: str
    name: str
    created: datetime | None
    updated: datetime | None
    tags: dict[str, str]


class RunView(BaseModel):
    """One run. `parent` is the sweep of a trial."""

    id: str
    name: str | None
    status: str
    started: datetime | None
    ended: datetime | None
    parent: str | None
    params: dict[str, str]
    metrics: dict[str, float | None]
    tags: dict[str, str] = Field(description="Without MLflow's own tags")


class RunQuery(PageQuery):
    """Filters and order of runs."""

    status: Status | None = None
    where: Annotated[
        str | None,
        Field(
            max_length=2_000, description="A filter in MLflow's language: metrics.f1_score > 0.9"
        ),
    ] = None
    order_by: Annotated[
        str | None, Field(max_length=255, description="For example metrics.f1_score DESC.")
    ] = None
    parent: Filter = None


@router.get("/experiments")
def list_experiments(
    _: Anyone,
    platform: PlatformDep,
    name: Annotated[str | None, Query(max_length=255, description="Part of the name.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Listing[ExperimentView]:
    """List experiments, the most recently updated first."""
    client = platform.require_mlflow()
    name_filter = None if name is None else f"name ILIKE {quote(f'%{name}%')}"
    with translated_mlflow_errors():
        page = client.search_experiments(
            max_results=limit,
            filter_string=name_filter,
            order_by=["last_update_time DESC"],
            page_token=mlflow_cursor(cursor),
        )
    return Listing(items=[_view_experiment(each) for each in page], next=page.token or None)


@router.get("/experiments/{experiment_id}/runs")
def list_runs(
    experiment_id: PathText, _: Anyone, platform: PlatformDep, query: Annotated[RunQuery, Query()]
) -> Listing[RunView]:
    """List the runs of an experiment, given by id or name; newest first by default."""
    client = platform.require_mlflow()
    conditions = [
        f"attributes.status = {quote(query.status)}" if query.status else None,
        f"tags.`mlflow.parentRunId` = {quote(query.parent)}" if query.parent else None,
        query.where,
    ]
    with translated_mlflow_errors():
        page = client.search_runs(
            [_experiment_id(client, experiment_id)],
            filter_string=" AND ".join(each for each in conditions if each),
            max_results=query.limit,
            order_by=[query.order_by or "attributes.start_time DESC"],
            page_token=mlflow_cursor(query.cursor),
        )
    return Listing(items=[_view_run(each) for each in page], next=page.token or None)


def _experiment_id(client: Any, reference: str) -> str:
    found = client.get_experiment_by_name(reference)
    if found is None and re.fullmatch("[0-9]{1,18}", reference):
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
