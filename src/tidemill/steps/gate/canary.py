"""Whether a canary is worse than its champion by more than its policy allows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidemill.policies import Challenge

Floats = NDArray[np.float64]

#: One-sided, one in a thousand: a canary is looked at many times.
Z = 3.09
LABELLED = 50


@dataclass(frozen=True)
class TrafficSample:
    """What one side answered: milliseconds of its answers, and losses of its labelled rows."""

    milliseconds: Floats
    losses: Floats


def check_canary(policy: Challenge, canary: TrafficSample, champion: TrafficSample) -> str | None:
    """Why the canary has to go; None while nothing speaks against it.

    Latency counts once both sides gave `min_rows` answers; the metric once both have fifty labels,
    and only beyond what chance explains.
    """
    least = min(canary.milliseconds.size, champion.milliseconds.size)
    if least >= policy.min_rows:
        slow, usual = (float(np.quantile(s.milliseconds, 0.95)) for s in (canary, champion))
        if slow > policy.max_latency * usual:
            return (
                f"Its 95th percentile is {slow:.3g} ms, the champion's {usual:.3g} ms; "
                f"{policy.max_latency:g} times as long is allowed."
            )
    return _worse(policy, canary.losses, champion.losses)


def _worse(policy: Challenge, canary: Floats, champion: Floats) -> str | None:
    if min(canary.size, champion.size) < LABELLED:
        return None
    more = float(canary.mean() - champion.mean())
    error = math.sqrt(_variance(canary) / canary.size + _variance(champion) / champion.size)
    if more - policy.tolerance <= Z * error:
        return None
    return (
        f"Its mean loss is {canary.mean():.4g} on {canary.size:,} labelled rows, the champion's "
        f"{champion.mean():.4g} on {champion.size:,} of the same time."
    )


def _variance(losses: Floats) -> float:
    """With one row more of the mean loss's size, so that no luck looks certain."""
    extra = float(losses.max()) if losses.size else 0.0
    return float(np.append(losses, extra).var())
