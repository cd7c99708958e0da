"""Asking for a training. The answer is a job, within milliseconds, while others train."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from tidemill.api.access import KeyHolder, Trainer
from tidemill.api.shapes import Accepted, JobView, view_job
from tidemill.api.state import platform_of
from tidemill.loop.order import training_job
from tidemill.platform import Platform
from tidemill.steps.parameters import check_params

router = APIRouter(tags=["training"])

ThePlatform = Annotated[Platform, Depends(platform_of)]
Idempotency = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        max_length=255,
        description="The same key again gives the same job again, not a second one.",
    ),
]


class TrainOrder(BaseModel):
    """What to train. Any further field is a parameter of the candidates, `C` or `logistic.C`."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={"examples": [{"model": "ClassificationModel", "C": 0.5, "trials": 4}]},
    )

    candidates: list[str] | None = Field(
        default=None, description="Only these candidates.", min_length=1
    )
    trials: int | None = Field(
        default=None, ge=1, le=10_000, description="Settings to try of each."
    )
    time_limit: float | None = Field(default=None, gt=0, description="Seconds the job may run.")
    memory_limit_mb: int | None = Field(default=None, ge=64, description="Megabytes it may hold.")
    params: dict[str, Any] = Field(
        default={}, description="Parameters, where a name is taken above."
    )


class NamedOrder(TrainOrder):
    """A `TrainOrder` that names its model."""

    model: str | None = Field(
        default=None, description="Which model; may be left out where there is one."
    )


@router.post("/train", status_code=202)
def train(
    order: NamedOrder,
    request: Request,
    response: Response,
    caller: Trainer,
    platform: ThePlatform,
    key: Idempotency = None,
) -> Accepted:
    """Train a model's candidates and register the best."""
    return _submit("train", order.model, order, key, request, response, caller, platform)


@router.post("/models/{name}/train", status_code=202)
def train_model(
    name: str,
    request: Request,
    response: Response,
    caller: Trainer,
    platform: ThePlatform,
    order: TrainOrder | None = None,
    key: Idempotency = None,
) -> Accepted:
    """Train the named model's candidates and register the best."""
    order = order or TrainOrder()
    return _submit("train", name, order, key, request, response, caller, platform)


@router.post("/retrain", status_code=202)
def retrain(
    request: Request,
    response: Response,
    caller: Trainer,
    platform: ThePlatform,
    order: NamedOrder | None = None,
    key: Idempotency = None,
) -> Accepted:
    """Train again in the background, and promote the new version if the gate lets it through."""
    order = order or NamedOrder()
    return _submit("retrain", order.model, order, key, request, response, caller, platform)


@router.get("/train/status/{job_id}")
def training_status(job_id: str, _: KeyHolder, platform: ThePlatform) -> JobView:
    """How far a training is, its metrics, or what went wrong."""
    return view_job(platform.jobs.get(job_id))


def _submit(
    kind: str,
    model: str | None,
    order: TrainOrder,
    key: str | None,
    request: Request,
    response: Response,
    caller: Trainer,
    platform: Platform,
) -> Accepted:
    known = platform.projects.get(model)
    given = {**(order.model_extra or {}), **order.params}
    megabytes = order.memory_limit_mb
    new = training_job(
        kind,
        known,
        check_params(known.project, given),
        only=order.candidates,
        trials=order.trials,
        time_limit=order.time_limit,
        memory_limit=None if megabytes is None else megabytes * 2**20,
        idempotency_key=None if key is None else f"{caller.key_id}:{key}",
        key_id=caller.key_id,
        request_id=request.state.request_id,
    )
    job, created = platform.submit(new)
    response.headers["Location"] = f"/jobs/{job.id}"
    if not created:
        response.headers["Idempotent-Replayed"] = "true"
    return Accepted(
        job_id=job.id,
        status=job.state,
        status_url=f"/train/status/{job.id}",
        events_url=f"/jobs/{job.id}/events",
    )
