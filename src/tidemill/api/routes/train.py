"""Asking for a training. The answer is a job, within milliseconds, while others train."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from tidemill.api.access import Caller, KeyHolder, Trainer
from tidemill.api.schemas import JobAccepted, JobView, job_view
from tidemill.api.state import platform_of
from tidemill.errors import ConflictError
from tidemill.loop.monitoring.trigger_actions import ORDER
from tidemill.loop.training.submit import training_job
from tidemill.platform import Platform
from tidemill.steps.search.parameters import check_params
from tidemill.stores.database.pages import json_safe
from tidemill.stores.jobs.jobs import Job, NewJob, idempotency_conflict
from tidemill.stores.monitoring.triggers import NewTrigger
from tidemill.stores.projects import KnownProject

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


class TrainRequest(BaseModel):
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


class NamedTrainRequest(TrainRequest):
    """A `TrainRequest` that names its model."""

    model: str | None = Field(
        default=None, description="Which model; may be left out where there is one."
    )


class RetrainRequest(NamedTrainRequest):
    """A `NamedTrainRequest` with a reason."""

    reason: str = Field(
        default="asked for by hand", min_length=1, max_length=2_000, description="For the record."
    )


@router.post("/train", status_code=202)
def train(
    order: NamedTrainRequest,
    request: Request,
    response: Response,
    caller: Trainer,
    platform: ThePlatform,
    key: Idempotency = None,
) -> JobAccepted:
    """Train a model's candidates and register the best."""
    new = _job("train", platform.projects.get(order.model), order, request, caller, key)
    return _accepted(*platform.submit(new), response)


@router.post("/models/{name}/train", status_code=202)
def train_model(
    name: str,
    request: Request,
    response: Response,
    caller: Trainer,
    platform: ThePlatform,
    order: TrainRequest | None = None,
    key: Idempotency = None,
) -> JobAccepted:
    """Train the named model's candidates and register the best."""
    known = platform.projects.get(name)
    new = _job("train", known, order or TrainRequest(), request, caller, key)
    return _accepted(*platform.submit(new), response)


@router.post("/retrain", status_code=202)
def retrain(
    request: Request,
    response: Response,
    caller: Trainer,
    platform: ThePlatform,
    order: RetrainRequest | None = None,
    key: Idempotency = None,
) -> JobAccepted:
    """Open a trigger: train again in the background, and promote what proves better.

    409 while the model is being retrained.
    """
    order = order or RetrainRequest()
    known = platform.projects.get(order.model)
    new = _job("retrain", known, order, request, caller, key)
    return _accepted(*_trigger(platform, new, order.reason, caller), response)


@router.get("/train/status/{job_id}")
def training_status(job_id: str, _: KeyHolder, platform: ThePlatform) -> JobView:
    """How far a training is, its metrics, or what went wrong."""
    return job_view(platform.jobs.get(job_id))


def _job(
    kind: str,
    known: KnownProject,
    order: TrainRequest,
    request: Request,
    caller: Caller,
    key: str | None,
) -> NewJob:
    given = {**(order.model_extra or {}), **order.params}
    megabytes = order.memory_limit_mb
    return training_job(
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
        traceparent=request.state.traceparent,
    )


def _trigger(platform: Platform, new: NewJob, reason: str, caller: Caller) -> tuple[Job, bool]:
    """The retraining's job, by a trigger as every retraining has one, and whether it is new."""
    model = str(new.model)
    ordered = ("params", "time_limit", "memory_limit", "key_id", "request_id", "traceparent")
    order = json_safe({name: getattr(new, name) for name in ordered})
    key = None if new.idempotency_key is None else f"order:{new.idempotency_key}"
    consequences = platform.watcher.trigger_actions
    earlier = None
    try:
        asked = NewTrigger(
            model, "manual", reason, cause_key=key, actor=caller.actor, evidence={ORDER: order}
        )
        trigger = consequences.ask(asked)
    except ConflictError:
        earlier = None if key is None else platform.triggers.by_key(model, key)
        if earlier is None:
            raise
        if earlier.evidence[ORDER]["params"] != order["params"]:
            raise idempotency_conflict(f"trigger {earlier.id}") from None
        trigger = earlier if earlier.job_id else consequences.retrain(earlier)
    return platform.jobs.get(str(trigger.job_id)), earlier is None


def _accepted(job: Job, created: bool, response: Response) -> JobAccepted:
    response.headers["Location"] = f"/jobs/{job.id}"
    if not created:
        response.headers["Idempotent-Replayed"] = "true"
    return JobAccepted(
        job_id=job.id,
        status=job.state,
        status_url=f"/train/status/{job.id}",
        events_url=f"/jobs/{job.id}/events",
    )
