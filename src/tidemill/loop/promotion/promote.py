"""Promote a version through the gate, or by an override with a reason.

    verdict = promote(project, registry, "iris-classifier", actor="cli", audit=record)

The evidence is stored with the version, as an artifact of its run and as tags, whether it passed
the gate or not. Rollbacks and other changes are in `tidemill.loop.promotion.transitions`. See
decision 046.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

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
from tidemill.loop.promotion.transitions import (
    ROLLED_BACK_TAG,
    AuditTransition,
    PromotionReason,
    set_champion,
)
from tidemill.metrics import METRICS, default_metric
from tidemill.project import Gate, Project
from tidemill.steps.gate.gate import GateVerdict
from tidemill.stores.mlflow.registry import Registry
from tidemill.stores.mlflow.versions import (
    CHAMPION,
    ModelVersion,
)

logger = logging.getLogger(__name__)

GATE_TAG = "tidemill.gate."


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
