"""Who becomes champion: through the gate, by a named person's override, or back by a rollback.

    verdict = promote(project, registry, "iris-classifier", actor="cli", audit=record)

Every change is a `Transition`. It is handed to `audit` before anything moves: what cannot be
recorded does not happen. The evidence stays with the version, as an artifact of its run and as
tags, whether the gate opened or not.
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
    """One change of who serves, for the audit log.

    Attributes:
        time: In seconds since the epoch.
        actor: Who: a key's id, a person, or the part of Tidemill that decided.
        action: `promote` through the gate, `override` against or without it, `rollback`, or
            `transition` to a stage other than Production.
        origin: The stage that the version comes from.
        stage: The stage that it goes to.
        replaced: The champion that makes way; None where none does.
        evidence: The verdict, or what else it was decided on; plain values, fit for JSON.
        failed: Why the change did not happen after all; None when this is the record of intent.
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
    """Let the best version of a model, or the one named, try to become champion.

    Without a version, all versions are compared on the metric that their runs recorded, and the
    best one that was not rolled back goes to the gate. There, its bundle and the champion's answer
    the same held-out rows.

    Args:
        project: Gives the gate and the rows; None judges by the default gate, on `rows`.
        metric: Decides in place of the gate's own.
        force: Promote whatever the gate says; what it says is kept all the same.
        reason: Why; needed to force.
        rows: Cleaned rows, with the target, that neither version has seen; in place of the
            project's held-out ones.
        trusted: Types that this machine trusts a native fallback with.

    Returns:
        The verdict; `promoted` says whether the version is champion now.

    Raises:
        GateError: Forced without a reason.
        ConflictError: The version named is the champion already.
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
            raise ConflictError(f"Version {version} of '{name}' is the champion already.")
        why = f"The champion, version {champion.number}, has the best {decisive}: {value:.4g}."
        return _verdict(name, challenger, None, _refusal(why, decisive, gate))
    verdict = _judge(registry, challenger, champion, gate, project, rows, force, trusted)
    promoted = verdict.passed or force
    verdict = _verdict(
        name, challenger, champion, verdict, promoted=promoted, forced=force and not verdict.passed
    )
    store_evidence(registry, challenger, verdict, actor, reason)
    if promoted:
        action: Literal["promote", "override"] = "override" if verdict.forced else "promote"
        evidence = msgspec.to_builtins(verdict)
        set_champion(registry, challenger, champion, action, reason, actor, evidence, audit)
    return verdict


def rollback(
    registry: Registry,
    name: str,
    *,
    reason: str | None = None,
    actor: str = "cli",
    audit: AuditTransition | None = None,
) -> Transition:
    """Make the version that was champion before champion again.

    What is rolled back is marked so that no automatic choice takes it again, until somebody names
    it or rolls back to it.

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
    evidence = {"rolled_back": champion.number}
    done = set_champion(registry, previous, champion, "rollback", reason, actor, evidence, audit)
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
    """Move a version to a stage (or the alias that stands for one) by hand.

    To Production it is an override, which needs a reason; nothing is compared.

    Raises:
        ConflictError: It is there already, it is the champion, or the stage is none.
        GateError: To Production without a reason.
        NotFoundError: There is no such model or version.
    """
    wanted = _stage(stage)
    found = registry.version(name, version)
    if found.stage == wanted:
        raise ConflictError(f"Version {version} of '{name}' is in stage {wanted} already.")
    if wanted == "Production":
        if not (reason or "").strip():
            raise GateError("An override needs a reason.", field="reason")
        champion = registry.by_alias(name, CHAMPION)
        return set_champion(registry, found, champion, "override", reason, actor, {}, audit)
    if found.stage == "Production" and CHAMPION in found.aliases:
        raise ConflictError(
            f"Version {version} of '{name}' is the champion and cannot become {wanted}.",
            remedy="Promote another version first.",
        )
    change = Transition(actor, "transition", name, found.number, found.stage, wanted, reason=reason)

    def move() -> None:
        if wanted == "Staging":
            registry.set_challenger(found)
        else:
            registry.retire(found, wanted)

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
            f"No version of '{name}' has the metric {metric} on record.",
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


def _judge(
    registry: Registry,
    challenger: ModelVersion,
    champion: ModelVersion | None,
    gate: Gate,
    project: Project | None,
    given: pd.DataFrame | None,
    force: bool,
    trusted: Iterable[str],
) -> GateVerdict:
    """The gate's verdict; what keeps it from being reached is a refusal.

    When forced, that goes for anything but an MLflow that cannot be reached.
    """
    stopping: tuple[type[TidemillError], ...] = (BundleError, GateError, NotFoundError)
    if force:
        stopping = (TidemillError,)
    try:
        rows = gather_rows(project, given)
        verdict = compare_versions(
            registry, challenger, champion, rows, gate, project, trusted=trusted
        )
        for version in filter(None, [challenger, champion]):
            record_split(registry, version, rows, project)
    except UnavailableError:
        raise
    except stopping as error:
        return _refusal(str(error), gate.metric or "", gate)
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
    """The evidence as an artifact of the version's run, and in short as its tags."""
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
        logger.warning("the evidence for %s stays in tags alone: %s", version.name, error)
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
    action: Literal["promote", "override", "rollback"],
    reason: str | None,
    actor: str,
    evidence: Mapping[str, Any],
    audit: AuditTransition | None,
) -> Transition:
    change = Transition(
        actor=actor,
        action=action,
        model=version.name,
        version=version.number,
        origin=version.stage,
        stage="Production",
        replaced=champion.number if champion else None,
        reason=reason,
        evidence=evidence,
    )

    def move() -> None:
        registry.set_champion(version)
        if version.tags.get(ROLLED_BACK_TAG):
            registry.set_tags(version, {ROLLED_BACK_TAG: ""})

    return _record(change, move, audit)


def _record(
    change: Transition, move: Callable[[], None], audit: AuditTransition | None
) -> Transition:
    """Record the intent, then do it; a failure is recorded too."""
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
