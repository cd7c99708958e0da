"""Retraining jobs and staleness checks: submitting them, their parameters and their results.

A result is stored with its job as JSON; `read_retraining_result` and `read_staleness_result` read
it back. A worker adds nothing to it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from tidemill.stores.jobs.jobs import Job, NewJob
from tidemill.stores.monitoring.triggers import Trigger, Triggers

logger = logging.getLogger(__name__)

RETRAIN, STALENESS_CHECK = "retrain", "staleness_check"
#: The kinds of staleness checks; the second is the former name, which older jobs have.
STALENESS_KINDS = (STALENESS_CHECK, "spar")

#: Key of a trigger's evidence: fields of the job that a person set (`params`, limits, `key_id`).
JOB_FIELDS = "order"

Submit = Callable[[NewJob], tuple[Job, bool]]


class RetrainingParams(msgspec.Struct, frozen=True, omit_defaults=True):
    """Parameters of a retraining job.

    Attributes:
        trigger: The trigger's id; None where a job was submitted without one.
        reason: The trigger's reason.
        changed: The change point, in seconds since the epoch, of a postponed retraining: a resumed
            one must use the same, since losses may start to run high again and again, and rows
            since the newest start may never be enough.
        overrides: Parameters by candidate that are set and not searched.
        trials: Settings to try of each candidate.
        only: Names of the candidates to train; none means all.
    """

    trigger: str | None = None
    reason: str | None = None
    changed: float | None = None
    overrides: dict[str, dict[str, Any]] | None = None
    trials: int | None = None
    only: tuple[str, ...] | None = None


class Postponement(msgspec.Struct, frozen=True):
    """A retraining that has too few labelled rows since the change: how many, and the change."""

    rows: int
    needed: int
    changed: float | None


class OpenedContest(msgspec.Struct, frozen=True):
    """The contest that a retraining opened, as it stood when the job ended."""

    id: str
    state: str
    reason: str
    challengers: tuple[str, ...]


class GateOutcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """The gate's answer for a version that was trained without a contest."""

    promoted: bool
    reasons: tuple[str, ...] = ()


class RetrainingResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """Result of a retraining job. One of `postponed`, `contest` and `gate` is given.

    `version`, `run_id`, `candidate` and `metrics` describe the best new version; a postponed
    retraining has none.
    """

    model: str = ""
    version: str | None = None
    run_id: str | None = None
    candidate: str | None = None
    metrics: dict[str, float | None] = {}
    postponed: Postponement | None = None
    contest: OpenedContest | None = None
    gate: GateOutcome | None = None


class StalenessResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """Result of a staleness check.

    Attributes:
        outdated: Whether the newer model is clearly better.
        champion: The version that was compared.
        rows: The rows that both were compared on.
        champion_loss, newer_loss: The mean losses on them.
        reason: Why there was no comparison.
    """

    outdated: bool = False
    champion: str | None = None
    rows: int = 0
    champion_loss: float | None = None
    newer_loss: float | None = msgspec.field(name="partner_loss", default=None)
    reason: str = ""


def read_retraining_params(job: Job) -> RetrainingParams:
    """Read the parameters of a retraining job."""
    return msgspec.convert(dict(job.params), RetrainingParams)


def read_retraining_result(result: Mapping[str, Any] | None) -> RetrainingResult:
    """Read the result of a retraining job; None, of one that has not ended well, has no fields."""
    return msgspec.convert(dict(result or {}), RetrainingResult)


def read_staleness_result(result: Mapping[str, Any] | None) -> StalenessResult:
    """Read the result of a staleness check."""
    return msgspec.convert(dict(result or {}), StalenessResult)


def submit_retraining(
    submit: Submit,
    triggers: Triggers,
    trigger: Trigger,
    project: str,
    *,
    resumed: Postponement | None = None,
) -> Trigger:
    """Submit a trigger's retraining job; once, however often it is called.

    Args:
        project: The reference that a worker loads the project by.
        resumed: The postponement after which this is the second job of the trigger.

    Returns:
        The trigger, with the job's id.
    """
    fields = dict(trigger.evidence.get(JOB_FIELDS) or {})
    own = RetrainingParams(
        trigger.id, trigger.reason, resumed.changed if resumed is not None else None
    )
    params = {**fields.pop("params", {}), **msgspec.to_builtins(own)}
    key = f"trigger:{trigger.id}" + (":resumed" if resumed is not None else "")
    job, _ = submit(NewJob(RETRAIN, trigger.model, project, params, idempotency_key=key, **fields))
    logger.info("%s: job %s retrains it: %s", trigger.model, job.id, trigger.reason)
    return triggers.start(trigger.id, job.id)
