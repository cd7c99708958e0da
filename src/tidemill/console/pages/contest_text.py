"""How a contest between challengers and the champion stands, and what it still needs, in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import msgspec

from tidemill.policies import Contest, seconds
from tidemill.steps.retraining.contest import Contestant, ContestDecision
from tidemill.stores.retraining.contests import ContestRow


@dataclass(frozen=True)
class ContestantProgress:
    """One challenger. `better` and `worse` are shares of the evidence that decides, 0 to 1."""

    name: str
    loss: float
    better: float
    worse: float
    needs: str


def shown(contest: ContestRow | None, policy: Contest) -> dict[str, Any] | None:
    """What a page tells of a contest; None where there was none."""
    if contest is None:
        return None
    decision = (
        msgspec.convert(dict(contest.decision), ContestDecision) if contest.decision else None
    )
    until = contest.opened + seconds(policy.age) if policy.age is not None else None
    return {
        "row": contest,
        "decision": decision,
        "policy": policy,
        "until": until if contest.state == "open" else None,
        "lines": [_line(each, decision, policy) for each in decision.contestants]
        if decision
        else [],
    }


def _line(found: Contestant, decision: ContestDecision, policy: Contest) -> ContestantProgress:
    better, worse = (
        min(max(value / decision.bar, 0.0), 1.0) for value in (found.better, found.worse)
    )
    return ContestantProgress(found.name, found.loss, better, worse, needs(found, decision, policy))


def needs(found: Contestant, decision: ContestDecision, policy: Contest) -> str:
    """What is missing until this challenger has won, or cannot win."""
    if decision.state != "open":
        return "It won." if decision.winner == found.name else "It did not win."
    rows, left = decision.rows, policy.rows - decision.rows
    if rows < policy.fewest:
        return f"{policy.fewest - rows} more labels before anybody can win."
    if found.worse >= decision.bar:
        return "It was found worse than the champion."
    if found.loss >= decision.champion_loss:
        half = policy.rows // 2 - rows
        when = f"in {half} labels" if half > 0 else f"in {left} labels at most"
        return f"It is not ahead; if nobody is, the champion stays {when}."
    if found.better <= 0:
        return f"It is ahead by too little to say; {left} labels are left."
    more = math.ceil((decision.bar - found.better) * rows / found.better)
    if more > left:
        return f"At its pace about {more} more labels; {left} are left, so the champion would stay."
    return f"At its pace about {more} more labels to win."
