"""Changes of a version's stage: set the champion, roll back, or move a version between stages.

A change is recorded with `audit` before it is made: one that cannot be recorded does not happen.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tidemill.errors import (
    ConflictError,
    GateError,
)
from tidemill.stores.audit import AuditEntry
from tidemill.stores.mlflow.registry import Registry
from tidemill.stores.mlflow.versions import (
    CHAMPION,
    PREVIOUS,
    STAGE_OF_ALIAS,
    STAGES,
    ModelVersion,
    Stage,
)

logger = logging.getLogger(__name__)

ROLLED_BACK_TAG = "tidemill.rolled_back"


@dataclass(frozen=True)
class Transition:
    """A change of a version's stage, for the audit log.

    Attributes:
        time: In seconds since the epoch.
        actor: A key's id, a person, or the part of Tidemill that decided.
        action: `promote` through the gate, `override` against or without it, `rollback`, or
            `transition` to a stage other than Production.
        origin: The version's stage before.
        stage: Its stage after.
        replaced: The champion that is replaced, or None.
        evidence: The verdict, or other grounds; plain values, fit for JSON.
        failed: Why the change failed; None in the record that precedes it.
    """

    actor: str
    action: Literal["promote", "override", "rollback", "transition"]
    model: str
    version: str
    origin: Stage
    stage: Stage
    replaced: str | None = None
    reason: str | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)
    failed: str | None = None
    time: float = field(default_factory=time.time)

    def audit_entry(self, origin: str | None = None) -> AuditEntry:
        """Return the entry of the audit log for this change.

        Args:
            origin: The address or command that requested it.
        """
        details = {
            "from": self.origin,
            "to": self.stage,
            "replaced": self.replaced,
            "evidence": dict(self.evidence),
            "failed": self.failed,
        }
        return AuditEntry(
            self.actor,
            f"version.{self.action}",
            subject=self.model,
            version=self.version,
            origin=origin,
            reason=self.reason,
            details=details,
        )


AuditTransition = Callable[[Transition], object]


@dataclass(frozen=True)
class PromotionReason:
    """Why a version becomes champion: the action, who decided, why, and the evidence for it."""

    action: Literal["promote", "override", "rollback"]
    actor: str
    reason: str | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)


def rollback(
    registry: Registry,
    name: str,
    *,
    reason: str | None = None,
    actor: str = "cli",
    audit: AuditTransition | None = None,
) -> Transition:
    """Make the previous champion champion again.

    The version rolled back is tagged so that it is not chosen automatically again, until it is
    named or rolled back to.

    Raises:
        ConflictError: There is no previous champion.
        NotFoundError: There is no such model.
    """
    champion, previous = registry.by_alias(name, CHAMPION), registry.by_alias(name, PREVIOUS)
    if champion is None or previous is None or champion.number == previous.number:
        raise ConflictError(
            f"'{name}' has no previous champion to go back to.",
            remedy=f"Promote one of its versions with `tidemill promote {name} --version N`.",
        )
    why = PromotionReason("rollback", actor, reason, {"rolled_back": champion.number})
    done = set_champion(registry, previous, champion, why, audit)
    registry.set_tags(champion, {ROLLED_BACK_TAG: reason or "rolled back"})
    return done


def transition(
    registry: Registry,
    name: str,
    version: str | int,
    stage: str,
    *,
    reason: str | None = None,
    actor: str = "cli",
    audit: AuditTransition | None = None,
) -> Transition:
    """Move a version to a stage, or to the alias that stands for one, without a comparison.

    A move to Production is an override and needs a reason.

    Raises:
        ConflictError: It is in that stage already, it is the champion, or there is no such stage.
        GateError: To Production without a reason.
        NotFoundError: There is no such model or version.
    """
    target = _stage(stage)
    found = registry.version(name, version)
    if found.stage == target:
        raise ConflictError(f"Version {version} of '{name}' is in stage {target} already.")
    if target == "Production":
        if not (reason or "").strip():
            raise GateError("An override needs a reason.", field="reason")
        champion = registry.by_alias(name, CHAMPION)
        why = PromotionReason("override", actor, reason)
        return set_champion(registry, found, champion, why, audit)
    if found.stage == "Production" and CHAMPION in found.aliases:
        raise ConflictError(
            f"Version {version} of '{name}' is the champion and cannot become {target}.",
            remedy="Promote another version first.",
        )
    change = Transition(actor, "transition", name, found.number, found.stage, target, reason=reason)

    def move() -> None:
        if target == "Staging":
            registry.set_challenger(found)
        else:
            registry.retire(found, target)

    return _record(change, move, audit)


def set_champion(
    registry: Registry,
    version: ModelVersion,
    champion: ModelVersion | None,
    why: PromotionReason,
    audit: AuditTransition | None,
) -> Transition:
    """Make a version champion in place of `champion`, and record it."""
    change = Transition(
        actor=why.actor,
        action=why.action,
        model=version.name,
        version=version.number,
        origin=version.stage,
        stage="Production",
        replaced=champion.number if champion else None,
        reason=why.reason,
        evidence=why.evidence,
    )

    def move() -> None:
        registry.set_champion(version)
        if version.tags.get(ROLLED_BACK_TAG):
            registry.set_tags(version, {ROLLED_BACK_TAG: ""})

    return _record(change, move, audit)


def _record(
    change: Transition, move: Callable[[], None], audit: AuditTransition | None
) -> Transition:
    """Record the change, then make it; a failure is recorded too."""
    if audit is not None:
        audit(change)
    try:
        move()
    except Exception as error:
        if audit is not None:
            audit(replace(change, failed=str(error), time=time.time()))
        raise
    done = (change.model, change.version, change.stage, change.action, change.actor)
    logger.info("%s: version %s is %s now (%s by %s)", *done)
    return change


def _stage(word: str) -> Stage:
    for stage in STAGES:
        if word.lower() == stage.lower():
            return stage
    if word.lower() in STAGE_OF_ALIAS:
        return STAGE_OF_ALIAS[word.lower()]
    raise ConflictError(
        f"'{word}' is not a stage.", field="stage", expected=f"one of {', '.join(STAGES)}"
    )
