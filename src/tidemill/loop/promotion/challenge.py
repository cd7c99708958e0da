"""What a challenger sees of its champion's traffic: set by a person, taken back by policy.

    challenge(registry, shelf, "churn", mode="canary", share=0.1, actor="cli", audit=audit.append)

The rule goes into the shelf's `traffic.json`, where the data plane takes it up; every change is
recorded before it happens. A canary that is slower, or right less often, than its policy allows is
taken out of the traffic by `end_bad_canary`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import NotFoundError, RequestError
from tidemill.policies import Challenge
from tidemill.serving.shelf.traffic_rules import Mode, TrafficRule, read_traffic, write_traffic
from tidemill.signature import Task
from tidemill.steps.decay.holdout import row_losses
from tidemill.steps.gate.canary import TrafficSample, check_canary
from tidemill.stores.audit import AuditEntry
from tidemill.stores.file_lock import file_lock
from tidemill.stores.mlflow.registry import Registry
from tidemill.stores.mlflow.versions import CHALLENGER, ModelVersion
from tidemill.stores.predictions.predictions import Predictions
from tidemill.stores.predictions.windows import Window

logger = logging.getLogger(__name__)

ROWS = 5000
AppendEntry = Callable[[AuditEntry], object]


@dataclass(frozen=True)
class Challenged:
    """The rule in force now."""

    model: str
    version: str | None
    rule: TrafficRule


@dataclass(frozen=True)
class Standing:
    """What a challenger and its champion answered in the same stretch of time.

    Attributes:
        since: When the challenger's first answer of those looked at was given.
        rows: How many answers of the challenger are looked at, the newest.
    """

    version: str
    since: float
    rows: int
    challenger: TrafficSample
    champion: TrafficSample


def challenge(
    registry: Registry,
    shelf: Path,
    model: str,
    *,
    mode: Mode,
    share: float = 1.0,
    version: str | int | None = None,
    reason: str | None = None,
    actor: str,
    audit: AppendEntry,
    origin: str | None = None,
) -> Challenged:
    """Let a model's challenger see traffic, or none.

    Args:
        mode: shadow (answers for the journal alone), canary (answers callers), or off.
        share: Of the requests, above 0 and at most 1.
        version: Made challenger first; None takes the one that is.

    Raises:
        RequestError: The share is none.
        NotFoundError: There is no such model or version, or no challenger.
        ConflictError: The version is the champion.
    """
    if mode != "off" and not 0 < share <= 1:
        raise RequestError(
            f"A share of {share} is none.", field="share", expected="above 0 and at most 1"
        )
    found = _challenger(registry, model, version)
    if found is None and mode != "off":
        raise NotFoundError(
            f"'{model}' has no challenger.", remedy="Name a version with --version N."
        )
    number = None if found is None else found.number
    rule = TrafficRule() if mode == "off" else TrafficRule(mode, share)
    details = {"share": share if mode != "off" else 0.0}
    audit(AuditEntry(actor, f"challenge.{mode}", model, number, origin, reason, details))
    if found is not None and version is not None:
        registry.set_challenger(found)
    set_rule(shelf, model, rule)
    return Challenged(model, number, rule)


def set_rule(shelf: Path, model: str, rule: TrafficRule) -> None:
    """Replace one model's rule; those of the others stay."""
    with file_lock(shelf / ".traffic.lock"):
        rules = dict(read_traffic(shelf))
        rules.pop(model, None)
        if rule.mode != "off":
            rules[model] = rule
        write_traffic(shelf, rules)


def end_canary(shelf: Path, model: str, *, reason: str, audit: AppendEntry) -> bool:
    """Take a share of the traffic from whoever has it: it was given to another challenger.

    Returns:
        Whether there was one. Shadows stay: whoever is challenger next may be seen beside it.
    """
    if read_traffic(shelf).get(model, TrafficRule()).mode != "canary":
        return False
    audit(AuditEntry("policy", "challenge.off", model, None, "contest", reason, {"share": 0.0}))
    set_rule(shelf, model, TrafficRule())
    return True


def end_bad_canary(
    predictions: Predictions,
    shelf: Path,
    model: str,
    champion: str,
    policy: Challenge,
    audit: AppendEntry,
    *,
    now: Callable[[], float] = time.time,
) -> str | None:
    """Take a canary out of the traffic where its policy says so.

    Args:
        champion: The number of the champion's version.

    Returns:
        Why; None where there is no canary, or nothing is wrong with it.
    """
    if read_traffic(shelf).get(model, TrafficRule()).mode != "canary":
        return None
    found = standing(predictions, model, champion, "canary")
    if found is None:
        return None
    version, verdict = found.version, check_canary(policy, found.challenger, found.champion)
    if verdict is None:
        return None
    details = {"share": 0.0, "rows": found.rows, "time": now()}
    audit(AuditEntry("policy", "challenge.off", model, version, "watch", verdict, details))
    set_rule(shelf, model, TrafficRule())
    logger.warning("%s: the canary, version %s, is out: %s", model, version, verdict)
    return verdict


def standing(
    predictions: Predictions, model: str, champion: str, role: Literal["shadow", "canary"]
) -> Standing | None:
    """How whoever answers in a role does beside the champion; None where nobody answered yet.

    Args:
        champion: The number of the champion's version.
    """
    window = predictions.window(model, role=role, last=ROWS)
    if len(window) == 0:
        return None
    version = str(window.versions[-1])
    own = window.versions == version
    since = float(window.times[own][0])
    before = predictions.window(model, version=champion, since=since, last=ROWS)
    return Standing(
        version,
        since,
        int(own.sum()),
        _sample(predictions, window, own, role, version, since),
        _sample(predictions, before, np.ones(len(before), bool), "champion", champion, since),
    )


def _sample(
    predictions: Predictions,
    window: Window,
    own: NDArray[np.bool_],
    role: str,
    version: str,
    since: float,
) -> TrafficSample:
    """Latencies and losses of one side; `own` says which rows of the window are its own."""
    labelled = window.labelled & own
    task: Task = "classification" if window.labels else "regression"
    losses = row_losses(task, window.actual[labelled], window.outputs[labelled])
    held = predictions.latencies(window.model, role=role, version=version, since=since, last=ROWS)
    return TrafficSample(held, losses)


def _challenger(registry: Registry, model: str, version: str | int | None) -> ModelVersion | None:
    if version is not None:
        return registry.version(model, version)
    return registry.by_alias(model, CHALLENGER)
