"""Train and retrain models. The response is a job, which a worker runs."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from tidemill.api.dependencies import Caller, KeyHolder, PlatformDep, Trainer
from tidemill.api.schemas import JobAccepted, JobView, PathText, job_view
from tidemill.errors import ConflictError
from tidemill.loop.retraining.jobs import JOB_FIELDS
from tidemill.loop.training.submit import training_job
from tidemill.platform import Platform
from tidemill.steps.search.parameters import check_params
from tidemill.stores.database.queries import json_safe
from tidemill.stores.jobs.jobs import Job, NewJob, idempotency_conflict
from tidemill.stores.monitoring.triggers import NewTrigger
from tidemill.stores.projects import KnownProject

router = APIRouter(tags=["training"])

MAX_SECONDS = 366 * 86_400
MAX_MEBIBYTES = 2**24  # 16 TiB

Idempotency = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        max_length=255,
        description="A repeated request with the same key returns the same job.",
    ),
]


class TrainRequest(BaseModel):
    """Options of a training. Further fields are parameters of candidates: `C` or `logistic.C`."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={"examples": [{"model": "ClassificationModel", "C": 0.5, "trials": 4}]},
    )

    candidates: list[str] | None = Field(
        default=None, description="Train only these candidates.", min_length=1
    )
    trials: int | None = Field(
        default=None, ge=1, le=10_000, description="Settings to try for each candidate."
    )
    time_limit: float | None = Field(
        default=None, gt=0, le=MAX_SECONDS, description="Time limit of the job in seconds."
    )
    memory_limit_mb: int | None = Field(
        default=None, ge=64, le=MAX_MEBIBYTES, description="Memory limit of the job in MiB."
    )
    params: dict[str, Any] = Field(
        default={}, description="Parameters whose names are taken by the fields above."
    )


class NamedTrainRequest(TrainRequest):
    """A `TrainRequest` with its model."""

    model: str | None = Field(
        default=None, description="The model; optional if only one is configured."
    )


class RetrainRequest(NamedTrainRequest):
    """A `NamedTrainRequest` with a reason."""

    reason: str = Field(
        default="manual retraining",
        min_length=1,
        max_length=2_000,
        description="Reason, recorded with the trigger.",
    )


@router.post("/train", status_code=202)
def train(
    body: NamedTrainRequest,
    request: Request,
    response: Response,
    caller: Trainer,
    platform: PlatformDep,
    key: Idempotency = None,
) -> JobAccepted:
    """Train a model's candidates and register the best."""
    new = _job("train", platform.projects.get(body.model), body, request, caller, key)
    return _accepted(*platform.submit(new), response)


@router.post("/models/{name}/train", status_code=202)
def train_model(
    name: PathText,
    request: Request,
    response: Response,
    caller: Trainer,
    platform: PlatformDep,
    body: TrainRequest | None = None,
    key: Idempotency = None,
) -> JobAccepted:
    """Train the named model's candidates and register the best."""
    known = platform.projects.get(name)
    new = _job("train", known, body or TrainRequest(), request, caller, key)
    return _accepted(*platform.submit(new), response)


@router.post("/retrain", status_code=202)
def retrain(
    request: Request,
    response: Response,
    caller: Trainer,
    platform: PlatformDep,
    body: RetrainRequest | None = None,
    key: Idempotency = None,
) -> JobAccepted:
    """Retrain a model: open a trigger, train new versions, and promote one that proves better.

    409 while the model is being retrained.
    """
    body = body or RetrainRequest()
    known = platform.projects.get(body.model)
    new = _job("retrain", known, body, request, caller, key)
    return _accepted(*_trigger(platform, new, body.reason, caller), response)


@router.get("/train/status/{job_id}")
def training_status(job_id: PathText, _: KeyHolder, platform: PlatformDep) -> JobView:
    """Get a training's progress, its metrics, or its error."""
    return job_view(platform.jobs.get(job_id))


def _job(
    kind: str,
    known: KnownProject,
    body: TrainRequest,
    request: Request,
    caller: Caller,
    key: str | None,
) -> NewJob:
    given = {**(body.model_extra or {}), **body.params}
    megabytes = body.memory_limit_mb
    return training_job(
        kind,
        known,
        check_params(known.project, given),
        only=body.candidates,
        trials=body.trials,
        time_limit=body.time_limit,
        memory_limit=None if megabytes is None else megabytes * 2**20,
        idempotency_key=None if key is None else f"{caller.key_id}:{key}",
        key_id=caller.key_id,
        request_id=request.state.request_id,
        traceparent=request.state.traceparent,
    )


def _trigger(platform: Platform, new: NewJob, reason: str, caller: Caller) -> tuple[Job, bool]:
    """Open a trigger and return its retraining job, and whether the job is new."""
    model = str(new.model)
    fields = ("params", "time_limit", "memory_limit", "key_id", "request_id", "traceparent")
    order = json_safe({name: getattr(new, name) for name in fields})
    key = None if new.idempotency_key is None else f"order:{new.idempotency_key}"
    actions = platform.watcher.trigger_actions
    earlier = None
    try:
        trigger_request = NewTrigger(
            model, "manual", reason, cause_key=key, actor=caller.actor, evidence={JOB_FIELDS: order}
        )
        trigger = actions.request(trigger_request)
    except ConflictError:
        earlier = None if key is None else platform.triggers.by_key(model, key)
        if earlier is None:
            raise
        if earlier.evidence[JOB_FIELDS]["params"] != order["params"]:
            raise idempotency_conflict(f"trigger {earlier.id}") from None
        trigger = earlier if earlier.job_id else actions.retrain(earlier)
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
