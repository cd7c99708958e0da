"""Promote, roll back, move and challenge versions."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter
from pydantic import BaseModel, Field

from tidemill.api.dependencies import Caller, PlatformDep, Promoter
from tidemill.api.schemas import Name, PathText, VersionText
from tidemill.errors import GateError, NotFoundError
from tidemill.loop.promotion.challenge import challenge
from tidemill.loop.promotion.promote import promote
from tidemill.loop.promotion.transitions import AuditTransition, Transition, rollback, transition
from tidemill.metrics import METRICS
from tidemill.platform import Platform
from tidemill.project import Project

router = APIRouter(tags=["models"])

Reason = Annotated[
    str | None, Field(max_length=2_000, description="Reason, kept in the audit log.")
]


class TransitionRequest(BaseModel):
    """A version and its new stage."""

    name: Name
    version: VersionText
    stage: Literal["None", "Staging", "Production", "Archived", "champion", "challenger"]
    reason: Reason = None


class PromoteRequest(BaseModel):
    """The version to promote; null for the best by the metric."""

    version: VersionText | None = None
    metric: str | None = Field(default=None, description=", ".join(METRICS))
    force: bool = Field(default=False, description="Override the gate; needs a reason.")
    reason: Reason = None


class RollbackRequest(BaseModel):
    """The reason for a rollback."""

    reason: Reason = None


class ChallengeRequest(BaseModel):
    """The traffic that a model's challenger receives."""

    mode: Literal["off", "shadow", "canary"]
    share: float = Field(
        default=1.0, gt=0, le=1, description="The share of callers, 0 to 1, that a canary answers."
    )
    version: VersionText | None = Field(
        default=None,
        description="Make this version challenger first; null for the current challenger.",
    )
    reason: Reason = None


class ChallengeView(BaseModel):
    """The traffic rule in force; running servers apply it within two seconds."""

    model: str
    version: str | None
    mode: str
    share: float


class TransitionView(BaseModel):
    """A completed change of stage."""

    model: str
    version: str
    action: str
    origin: str = Field(description="The version's stage before")
    stage: str
    replaced: str | None = Field(description="The champion that it replaced")
    reason: str | None
    actor: str


@router.post("/models/transition")
def move_version(
    body: TransitionRequest, caller: Promoter, platform: PlatformDep
) -> TransitionView:
    """Move a version to a stage. To Production is an override of the gate and needs a reason."""
    platform.require_mlflow()
    done = transition(
        platform.registry,
        body.name,
        body.version,
        body.stage,
        reason=body.reason,
        actor=caller.actor,
        audit=_audit(platform, caller),
    )
    return _view(done)


@router.post("/models/{name}/promote")
def promote_version(
    name: PathText, caller: Promoter, platform: PlatformDep, body: PromoteRequest | None = None
) -> dict[str, Any]:
    """Promote the best or the given version if the gate allows it; 409 if it does not."""
    body = body or PromoteRequest()
    platform.require_mlflow()
    verdict = promote(
        _project(platform, name),
        platform.registry,
        name,
        metric=body.metric,
        version=body.version,
        force=body.force,
        reason=body.reason,
        actor=caller.actor,
        audit=_audit(platform, caller),
    )
    if not verdict.promoted:
        raise GateError(
            " ".join(verdict.reasons),
            remedy=f"See the evidence at /models/{name}/versions/{verdict.version}/evidence.",
        )
    shown: dict[str, Any] = msgspec.to_builtins(verdict)
    return shown


@router.post("/models/{name}/challenge")
def challenge_champion(
    name: PathText, body: ChallengeRequest, caller: Promoter, platform: PlatformDep
) -> ChallengeView:
    """Run the challenger as a shadow or a canary, or take it out of the traffic."""
    platform.require_mlflow()
    done = challenge(
        platform.registry,
        platform.settings.shelf,
        name,
        mode=body.mode,
        share=body.share,
        version=body.version,
        reason=body.reason,
        actor=caller.actor,
        audit=platform.audit.append,
        origin=caller.address,
    )
    rule = done.rule
    share = 0.0 if rule.mode == "off" else rule.share
    return ChallengeView(model=name, version=done.version, mode=rule.mode, share=share)


@router.post("/models/{name}/rollback")
def roll_back(
    name: PathText, caller: Promoter, platform: PlatformDep, body: RollbackRequest | None = None
) -> TransitionView:
    """Roll back to the previous champion."""
    platform.require_mlflow()
    done = rollback(
        platform.registry,
        name,
        reason=body.reason if body else None,
        actor=caller.actor,
        audit=_audit(platform, caller),
    )
    return _view(done)


def _audit(platform: Platform, caller: Caller) -> AuditTransition:
    return partial(platform.audit_transition, origin=caller.address)


def _project(platform: Platform, name: str) -> Project | None:
    """The model's project; None for a model that another program registered."""
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
