"""Who serves: through the gate, by a named person's override, or back by a rollback."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from tidemill.api.access import Caller, Promoter
from tidemill.api.state import platform_of
from tidemill.errors import GateError, NotFoundError
from tidemill.loop.promotion.challenge import challenge
from tidemill.loop.promotion.promote import (
    AuditTransition,
    Transition,
    promote,
    rollback,
    transition,
)
from tidemill.metrics import METRICS
from tidemill.platform import Platform
from tidemill.project import Project

router = APIRouter(tags=["models"])

ThePlatform = Annotated[Platform, Depends(platform_of)]
Reason = Annotated[str | None, Field(max_length=2_000, description="Why; kept in the audit log.")]


class TransitionRequest(BaseModel):
    """Which version to move where."""

    name: str
    version: str | int
    stage: Literal["None", "Staging", "Production", "Archived", "champion", "challenger"]
    reason: Reason = None


class PromoteRequest(BaseModel):
    """What to let through the gate: a named version, or the best on a metric."""

    version: str | int | None = None
    metric: str | None = Field(default=None, description=", ".join(METRICS))
    force: bool = Field(default=False, description="Whatever the gate says; needs a reason.")
    reason: Reason = None


class RollbackRequest(BaseModel):
    """Why the champion before is to serve again."""

    reason: Reason = None


class ChallengeRequest(BaseModel):
    """What a model's challenger is to see of the traffic."""

    mode: Literal["off", "shadow", "canary"]
    share: float = Field(default=1.0, gt=0, le=1, description="Of the requests.")
    version: str | int | None = Field(
        default=None, description="Made challenger first; null takes the one that is."
    )
    reason: Reason = None


class ChallengeView(BaseModel):
    """The rule in force now; running servers take it up within two seconds."""

    model: str
    version: str | None
    mode: str
    share: float


class TransitionView(BaseModel):
    """A change of stage that took place."""

    model: str
    version: str
    action: str
    origin: str = Field(description="The stage the version comes from")
    stage: str
    replaced: str | None = Field(description="The champion that made way")
    reason: str | None
    actor: str


@router.post("/models/transition")
def move_version(
    order: TransitionRequest, caller: Promoter, platform: ThePlatform
) -> TransitionView:
    """Move a version to a stage by hand; to Production it is an override and needs a reason."""
    platform.require_mlflow()
    done = transition(
        platform.registry,
        order.name,
        order.version,
        order.stage,
        reason=order.reason,
        actor=caller.actor,
        audit=_audit(platform, caller),
    )
    return _view(done)


@router.post("/models/{name}/promote")
def promote_version(
    name: str, caller: Promoter, platform: ThePlatform, order: PromoteRequest | None = None
) -> dict[str, Any]:
    """Let the best version, or the one named, try to become champion; 409 if it may not."""
    order = order or PromoteRequest()
    platform.require_mlflow()
    verdict = promote(
        _project(platform, name),
        platform.registry,
        name,
        metric=order.metric,
        version=order.version,
        force=order.force,
        reason=order.reason,
        actor=caller.actor,
        audit=_audit(platform, caller),
    )
    if not verdict.promoted:
        raise GateError(
            " ".join(verdict.reasons),
            remedy=f"The evidence is at /models/{name}/versions/{verdict.version}/evidence.",
        )
    shown: dict[str, Any] = msgspec.to_builtins(verdict)
    return shown


@router.post("/models/{name}/challenge")
def challenge_champion(
    name: str, order: ChallengeRequest, caller: Promoter, platform: ThePlatform
) -> ChallengeView:
    """Let the challenger answer in the champion's shadow, or a share of the callers, or nobody."""
    platform.require_mlflow()
    done = challenge(
        platform.registry,
        platform.settings.shelf,
        name,
        mode=order.mode,
        share=order.share,
        version=order.version,
        reason=order.reason,
        actor=caller.actor,
        audit=platform.audit.append,
        origin=caller.address,
    )
    rule = done.rule
    share = 0.0 if rule.mode == "off" else rule.share
    return ChallengeView(model=name, version=done.version, mode=rule.mode, share=share)


@router.post("/models/{name}/rollback")
def roll_back(
    name: str, caller: Promoter, platform: ThePlatform, order: RollbackRequest | None = None
) -> TransitionView:
    """Make the version that was champion before champion again."""
    platform.require_mlflow()
    done = rollback(
        platform.registry,
        name,
        reason=order.reason if order else None,
        actor=caller.actor,
        audit=_audit(platform, caller),
    )
    return _view(done)


def _audit(platform: Platform, caller: Caller) -> AuditTransition:
    return partial(platform.audit_transition, origin=caller.address)


def _project(platform: Platform, name: str) -> Project | None:
    """The model's project; None for a model that others registered."""
    try:
        return platform.projects.get(name).project
    except NotFoundError:
        return None


def _view(change: Transition) -> TransitionView:
    return TransitionView(
        model=change.model,
        version=change.version,
        action=change.action,
        origin=change.origin,
        stage=change.stage,
        replaced=change.replaced,
        reason=change.reason,
        actor=change.actor,
    )
