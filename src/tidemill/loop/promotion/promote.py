"""Change the champion: through the gate, by an override with a reason, or by a rollback.

    verdict = promote(project, registry, "iris-classifier", actor="cli", audit=record)

Every change is a `Transition`, recorded with `audit` before it is made: a change that cannot be
recorded does not happen. The evidence is stored with the version, as an artifact of its run and as
tags, whether it passed the gate or not. See decision 046.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import msgspec
import pandas as pd

from tidemill.errors import (
    BundleError,
    ConflictError,
    GateError,
    NotFoundError,
    TidemillError,
    UnavailableError,
)
from tidemill.loop.promotion.evidence import compare_versions, gather_rows, record_split
from tidemill.metrics import METRICS, default_metric
from tidemill.project import Gate, Project
from tidemill.steps.gate.gate import GateVerdict
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

GATE_TAG = "tidemill.gate."
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


@dataclass(frozen=True)
class GateRequest:
    """What a version is compared on: see `promote`."""

    gate: Gate
    project: Project | None
    rows: pd.DataFrame | None
    force: bool
    trusted: Iterable[str]


def promote(
    project: Project | None,
    registry: Registry,
    name: str,
    *,
    metric: str | None = None,
    version: str | int | None = None,
    force: bool = False,
    reason: str | None = None,
    actor: str = "cli",
    rows: pd.DataFrame | None = None,
    audit: AuditTransition | None = None,
    trusted: Iterable[str] = (),
) -> GateVerdict:
    """Promote the best version of a model, or the one named, if it passes the gate.

    Without a version, all versions are compared on the metric that their runs recorded, and the
    best one that was not rolled back goes to the gate. There, its bundle and the champion's predict
    the same held-out rows.

    Args:
        project: Has the gate and the rows; None applies the default gate to `rows`.
        metric: Replaces the gate's metric.
        force: Promote even if the gate refuses; its verdict is stored all the same.
        reason: Needed with `force`.
        rows: Cleaned rows with the target that neither version was trained on; replace the
            project's held-out rows.
        trusted: Types that this machine trusts a native fallback with.

    Returns:
        The verdict; `promoted` says whether the version is champion now.

    Raises:
        GateError: Forced without a reason.
        ConflictError: The version named is already the champion.
        NotFoundError: There is no such model or version, or no version has the metric.
        DataError: The project's data cannot be used.
    """
    if force and not (reason or "").strip():
        raise GateError("An override needs a reason.", field="reason", remedy="Give --reason TEXT.")
    gate = project.gate if project else Gate()
    gate = replace(gate, metric=metric) if metric else gate
    champion = registry.by_alias(name, CHAMPION)
    if version is None:
        challenger, decisive, value = _best(registry, name, gate, project)
    else:
        challenger, decisive, value = registry.version(name, version), gate.metric or "", None
    if champion is not None and challenger.number == champion.number:
        if version is not None:
            raise ConflictError(f"Version {version} of '{name}' is already the champion.")
        refusal = f"The champion, version {champion.number}, has the best {decisive}: {value:.4g}."
        return _verdict(name, challenger, None, _refusal(refusal, decisive, gate))
    request = GateRequest(gate, project, rows, force, trusted)
    verdict = _gate_verdict(registry, challenger, champion, request)
    promoted = verdict.passed or force
    verdict = _verdict(
        name, challenger, champion, verdict, promoted=promoted, forced=force and not verdict.passed
    )
    store_evidence(registry, challenger, verdict, actor, reason)
    if promoted:
        action: Literal["promote", "override"] = "override" if verdict.forced else "promote"
        evidence = msgspec.to_builtins(verdict)
        why = PromotionReason(action, actor, reason, evidence)
        set_champion(registry, challenger, champion, why, audit)
    return verdict


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


def _best(
    registry: Registry, name: str, gate: Gate, project: Project | None
) -> tuple[ModelVersion, str, float]:
    """The version with the best recorded metric, newest first among equals; archived ones too."""
    versions = registry.versions(name, metrics=True)
    metric = gate.metric or _usual_metric(versions, project)
    sign = METRICS[metric].sign
    ranked = [
        (sign * v.metrics[metric], int(v.number), v)
        for v in versions
        if metric in v.metrics and not v.tags.get(ROLLED_BACK_TAG)
    ]
    if not ranked:
        raise NotFoundError(
            f"No version of '{name}' has a recorded metric {metric}.",
            remedy=f"Name one: `tidemill promote {name} --version N --force --reason TEXT`.",
        )
    champion = next((v for v in versions if CHAMPION in v.aliases), None)
    best = max(ranked, key=lambda row: (row[0], row[2] is champion, row[1]))
    return best[2], metric, sign * best[0]


def _usual_metric(versions: list[ModelVersion], project: Project | None) -> str:
    if project is not None and project.task is not None:
        return default_metric(project.task)
    recorded = {name for version in versions for name in version.metrics}
    return "rmse" if "rmse" in recorded and "f1_score" not in recorded else "f1_score"


def _gate_verdict(
    registry: Registry,
    challenger: ModelVersion,
    champion: ModelVersion | None,
    request: GateRequest,
) -> GateVerdict:
    """The gate's verdict; an error that prevents one is a refusal.

    When forced, every error is, except an MLflow that cannot be reached.
    """
    stopping: tuple[type[TidemillError], ...] = (BundleError, GateError, NotFoundError)
    if request.force:
        stopping = (TidemillError,)
    try:
        rows = gather_rows(request.project, request.rows)
        verdict = compare_versions(
            registry, challenger, champion, rows, request.gate, trusted=request.trusted
        )
        for version in filter(None, [challenger, champion]):
            record_split(registry, version, rows)
    except UnavailableError:
        raise
    except stopping as error:
        return _refusal(str(error), request.gate.metric or "", request.gate)
    return verdict


def _refusal(why: str, metric: str, gate: Gate) -> GateVerdict:
    return GateVerdict(
        passed=False,
        reasons=(why,),
        metric=metric,
        rows=0,
        confidence=gate.confidence,
        tolerance=gate.tolerance,
        max_latency_ms=gate.max_latency_ms,
    )


def _verdict(
    name: str,
    challenger: ModelVersion,
    champion: ModelVersion | None,
    verdict: GateVerdict,
    **changes: bool,
) -> GateVerdict:
    return msgspec.structs.replace(
        verdict,
        model=name,
        version=challenger.number,
        champion=champion.number if champion else None,
        **changes,
    )


def store_evidence(
    registry: Registry, version: ModelVersion, verdict: GateVerdict, actor: str, reason: str | None
) -> None:
    """Store the evidence as an artifact of the version's run, and a summary as tags."""
    document = {
        "verdict": msgspec.to_builtins(verdict),
        "bundle": version.digest,
        "run_id": version.run_id,
        "actor": actor,
        "reason": reason,
        "time": time.time(),
    }
    path = f"gate/evidence-v{version.number}.json"
    try:
        where = registry.log_evidence(version, path, document)
    except TidemillError as error:
        logger.warning("the evidence for %s is stored in tags only: %s", version.name, error)
        where = None
    registry.set_tags(version, {GATE_TAG + k: v for k, v in _tags(verdict, where).items()})


def _tags(verdict: GateVerdict, where: str | None) -> dict[str, str]:
    word = "overridden" if verdict.forced else "passed" if verdict.passed else "failed"
    tags = {
        "verdict": word,
        "reason": " ".join(verdict.reasons),
        "metric": verdict.metric,
        "rows": str(verdict.rows),
        "champion": verdict.champion or "",
        "evidence": where or "",
    }
    if verdict.metric in verdict.metrics:
        tags["value"] = f"{verdict.metrics[verdict.metric]:.6g}"
    if (found := verdict.comparison) is not None:
        tags["champion_value"] = f"{found.champion:.6g}"
        tags["difference"] = f"{found.difference:.6g}"
        tags["probability_worse"] = f"{found.probability_worse:.4g}"
        if found.low is not None and found.high is not None:
            tags["interval"] = f"[{found.low:.6g}, {found.high:.6g}]"
    return tags


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
