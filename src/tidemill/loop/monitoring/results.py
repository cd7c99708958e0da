"""A look as rows of tables, and as the one verdict that people and Prometheus read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from tidemill.loop.monitoring.checks import MonitoringCheck, WindowSpan
from tidemill.steps.decay.cbpe import AccuracyEstimate
from tidemill.steps.decay.check import DecayReport, assess
from tidemill.steps.drift.check import DriftReport, FeatureDrift
from tidemill.steps.retraining.trigger_policy import TriggerDecision

Row = dict[str, Any]


def results_of(look: MonitoringCheck, decision: TriggerDecision) -> list[Row]:
    """Rows of `drift_results`: one for each whole check with its report, one for each feature."""
    rows = []
    said = {
        "why": decision.why,
        "fired": [f"{f.cause}{'' if f.retrains else ' (report)'}" for f in decision.proposals],
    }
    if look.drift is not None and look.drift_span is not None:
        rows += _drift_rows(look.drift, look.drift_span, said)
    if look.decay is not None and look.decay_span is not None:
        rows.append(_decay_row(look.decay, look.decay_span, said))
    if look.estimate is not None and look.drift_span is not None:
        rows.append(_estimate_row(look.estimate, look.drift_span, said))
    if look.sequential is not None:
        details = {**said, "report": {"summary": look.sequential}}
        rows.append({"test": "sequential", "drifted": True, "rows": 0, "details": details})
    return rows


def metrics_of(look: MonitoringCheck) -> list[Row]:
    """Rows of `model_metrics`: the live metric, and accuracy as confidences let expect it."""
    rows = []
    if look.decay is not None and look.decay.value is not None:
        rows.append(_metric(look.decay.metric, look.decay, "live"))
    if look.estimate is not None:
        rows.append(_metric("accuracy", look.estimate, "estimate"))
    return rows


def verdict_of(
    look: MonitoringCheck,
    decision: TriggerDecision,
    metric: str,
    now: float,
    last: Mapping[str, Any] | None,
) -> Row:
    """What is known of the model now: of each check the newest report, and what was decided.

    Args:
        last: The verdict before, of the same version: checks that were not due keep its parts.
    """
    kept = dict(last or {})
    parts: Row = {name: kept.get(name) for name in ("drift", "live", "estimate")}
    scores = dict(kept.get("scores") or {})
    if look.drift is not None:
        parts["drift"] = _drift_part(look.drift, look.drift_span, now)
        scores = {f.name: f.effect for f in _all(look.drift)} or scores
    if look.decay is not None:
        parts["live"] = {**msgspec.to_builtins(look.decay), **_when(look.decay_span, now)}
    if look.estimate is not None:
        parts["estimate"] = {**msgspec.to_builtins(look.estimate), **_when(look.drift_span, now)}
    judgement = assess(
        _again(parts["drift"], DriftReport), _again(parts["live"], DecayReport),
        _again(parts["estimate"], AccuracyEstimate),
    )  # fmt: skip
    alarms = {c: a.reason for c, a in decision.state.alarms.items() if a.raised}
    state = judgement.state
    if "decay" in alarms and not judgement.degraded:
        state = "data moved and model degraded" if judgement.moved else "model degraded"
    return {
        **parts,
        "time": now,
        "checked": now if look.checked else kept.get("checked"),
        "metric": metric,
        "state": state,
        "basis": judgement.basis,
        "summary": judgement.summary or "Nothing was checked yet: too few rows came.",
        "alarms": alarms,
        "why": decision.why,
        "scores": scores,
    }


def _drift_part(report: DriftReport, span: WindowSpan | None, now: float) -> Row:
    short = msgspec.structs.replace(report, features=(), output=None, confidence=None)
    built: Row = msgspec.to_builtins(short)
    return {**built, "drifted": list(report.drifted), **_when(span, now)}


def _again(part: Mapping[str, Any] | None, kind: type[Any]) -> Any:
    return None if part is None else msgspec.convert(part, kind)


def _when(span: WindowSpan | None, now: float) -> Row:
    window = {} if span is None else {"window_start": span.start, "window_end": span.end}
    return {**window, "checked": now}


def _drift_rows(report: DriftReport, span: WindowSpan, said: Row) -> list[Row]:
    whole: Row = {
        "test": "window",
        "drifted": report.moved,
        "rows": report.rows,
        "details": {**said, "report": msgspec.to_builtins(report)},
        **_bounds(span),
    }
    effects = [feature.effect for feature in _all(report)]
    whole["effect"] = max(effects, default=None)
    rows = [whole, *(_feature_row(f, report.rows, span) for f in _all(report))]
    joint = report.multivariate
    if joint is not None:
        rows.append(
            {
                "feature": "(all features together)",
                "test": "classifier",
                "statistic": joint.auc,
                "p_value": joint.p_value,
                "effect": max(0.0, 2 * joint.auc - 1),
                "drifted": joint.moved,
                "rows": report.rows,
                **_bounds(span),
            }
        )
    return rows


def _feature_row(found: FeatureDrift, rows: int, span: WindowSpan) -> Row:
    return {
        "feature": found.name[:255],
        "test": found.test[:64],
        "statistic": found.statistic,
        "p_value": found.p_value,
        "effect": found.effect,
        "drifted": found.drifted,
        "rows": rows,
        "details": {
            "detail": found.detail,
            "p_adjusted": found.p_adjusted,
            "missing_rate": found.missing_rate,
            "unseen": found.unseen,
            "out_of_range": found.out_of_range,
        },
        **_bounds(span),
    }


def _all(report: DriftReport) -> list[FeatureDrift]:
    extra = [part for part in (report.output, report.confidence) if part is not None]
    return [*report.features, *extra]


def _decay_row(report: DecayReport, span: WindowSpan, said: Row) -> Row:
    return {
        "test": "decay",
        "statistic": report.value,
        "p_value": report.p_value,
        "effect": report.loss,
        "drifted": report.degraded,
        "rows": report.rows,
        "details": {**said, "report": msgspec.to_builtins(report)},
        **_bounds(span),
    }


def _estimate_row(estimate: AccuracyEstimate, span: WindowSpan, said: Row) -> Row:
    return {
        "test": "estimate",
        "statistic": estimate.value,
        "effect": estimate.reference - estimate.value,
        "drifted": estimate.degraded,
        "rows": estimate.rows,
        "details": {**said, "report": msgspec.to_builtins(estimate)},
        **_bounds(span),
    }


def _bounds(span: WindowSpan) -> Row:
    return {"window_start": span.start, "window_end": span.end}


def _metric(name: str, found: DecayReport | AccuracyEstimate, source: str) -> Row:
    return {
        "metric": name,
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "rows": found.rows,
        "source": source,
    }
