"""Send shadow or canary traffic to a challenger, and end a canary that its policy does not allow.

    challenge(registry, shelf, "churn", mode="canary", share=0.1, actor="cli", audit=audit.append)

The rule is written to the shelf's `traffic.json`, which the data plane follows; every change is
recorded before it is made. `CanaryGuard` ends a canary that is slower, or has a higher loss, than
its policy allows.
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
    """A model's challenger and the traffic rule that applies now."""

    model: str
    version: str | None
    rule: TrafficRule


@dataclass(frozen=True)
class Standing:
    """Latencies and losses of a challenger and the champion over the same time.

    Attributes:
        since: When the first of the challenger's predictions was made.
        rows: The number of the challenger's predictions: its newest.
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
    """Set the traffic of a model's challenger.

    Args:
        mode: shadow (predictions go to the journal only), canary (to the callers), or off.
        share: Share of the requests, above 0 and at most 1.
        version: Becomes challenger first; None takes the present challenger.

    Raises:
        RequestError: The share is out of range.
        NotFoundError: There is no such model or version, or no challenger.
        ConflictError: The version is the champion.
    """
    if mode != "off" and not 0 < share <= 1:
        raise RequestError(
            f"{share} is not a valid share.", field="share", expected="above 0 and at most 1"
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
    """Replace the rule of one model."""
    with file_lock(shelf / ".traffic.lock"):
        rules = dict(read_traffic(shelf))
        rules.pop(model, None)
        if rule.mode != "off":
            rules[model] = rule
        write_traffic(shelf, rules)


def end_canary(shelf: Path, model: str, *, reason: str, audit: AppendEntry) -> bool:
    """End a model's canary, because another version becomes challenger.

    Returns:
        Whether there was one. A shadow rule stays, and applies to the next challenger.
    """
    if read_traffic(shelf).get(model, TrafficRule()).mode != "canary":
        return False
    audit(AuditEntry("policy", "challenge.off", model, None, "contest", reason, {"share": 0.0}))
    set_rule(shelf, model, TrafficRule())
    return True


@dataclass(frozen=True)
class CanaryGuard:
    """Ends canaries that are worse than their policy allows."""

    predictions: Predictions
    shelf: Path
    audit: AppendEntry
    clock: Callable[[], float] = time.time

    def check(self, model: str, champion: str, policy: Challenge) -> str | None:
        """Compare a model's canary with the champion, and end it if it is worse.

        Args:
            champion: The number of the champion's version.

        Returns:
            Why it was ended; None where there is no canary, or it goes on.
        """
        if read_traffic(self.shelf).get(model, TrafficRule()).mode != "canary":
            return None
        found = standing(self.predictions, model, champion, "canary")
        if found is None:
            return None
        reason = check_canary(policy, found.challenger, found.champion)
        if reason is None:
            return None
        details = {"share": 0.0, "rows": found.rows, "time": self.clock()}
        entry = AuditEntry(
            "policy", "challenge.off", model, found.version, "watch", reason, details
        )
        self.audit(entry)
        set_rule(self.shelf, model, TrafficRule())
        logger.warning("%s: ended the canary, version %s: %s", model, found.version, reason)
        return reason


def standing(
    predictions: Predictions, model: str, champion: str, role: Literal["shadow", "canary"]
) -> Standing | None:
    """Compare the version in a role with the champion; None where it made no predictions yet.

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
    """Latencies and losses of one version; `own` marks its rows in the window."""
    labelled = window.labelled & own
    task: Task = "classification" if window.labels else "regression"
    losses = row_losses(task, window.actual[labelled], window.outputs[labelled])
    latencies = predictions.latencies(
        window.model, role=role, version=version, since=since, last=ROWS
    )
    return TrafficSample(latencies, losses)


def _challenger(registry: Registry, model: str, version: str | int | None) -> ModelVersion | None:
    if version is not None:
        return registry.version(model, version)
    return registry.by_alias(model, CHALLENGER)
