"""Compare a canary with the champion: is it worse than its policy allows?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidemill.policies import Challenge

Floats = NDArray[np.float64]

#: One-sided, one in a thousand, because a canary is checked many times.
Z = 3.09
MIN_LABELLED = 50


@dataclass(frozen=True)
class TrafficSample:
    """One version's latencies in milliseconds, and the losses of its labelled rows."""

    milliseconds: Floats
    losses: Floats


def check_canary(policy: Challenge, canary: TrafficSample, champion: TrafficSample) -> str | None:
    """Return why the canary must end, or None.

    Latency counts once both versions made `min_rows` predictions; the loss once both have 50
    labels, and only beyond chance.
    """
    least = min(canary.milliseconds.size, champion.milliseconds.size)
    if least >= policy.min_rows:
        slow, usual = (float(np.quantile(s.milliseconds, 0.95)) for s in (canary, champion))
        if slow > policy.max_latency * usual:
            return (
                f"Its p95 latency is {slow:.3g} ms, the champion's {usual:.3g} ms; "
                f"{policy.max_latency:g} times the champion's is allowed."
            )
    return _worse(policy, canary.losses, champion.losses)


def _worse(policy: Challenge, canary: Floats, champion: Floats) -> str | None:
    if min(canary.size, champion.size) < MIN_LABELLED:
        return None
    more = float(canary.mean() - champion.mean())
    error = math.sqrt(_variance(canary) / canary.size + _variance(champion) / champion.size)
    if more - policy.tolerance <= Z * error:
        return None
    return (
        f"Its mean loss is {canary.mean():.4g} on {canary.size:,} labelled rows, the champion's "
        f"{champion.mean():.4g} on {champion.size:,} in the same time."
    )


def _variance(losses: Floats) -> float:
    """Variance with one more row of the largest loss, so that a lucky sample is not certain."""
    extra = float(losses.max()) if losses.size else 0.0
    return float(np.append(losses, extra).var())
