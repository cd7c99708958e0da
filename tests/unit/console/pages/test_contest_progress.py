"""How the challenger page describes a contest."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from tidemill.console.pages.challenger import contest_values, describe_progress
from tidemill.policies import Contest
from tidemill.steps.retraining.contest import Contestant, ContestDecision, decide_contest
from tidemill.stores.retraining.contests import ContestChallenger, ContestRow

POLICY = Contest(fewest=100, rows=1_000, age="7d")
CHALLENGER = ContestChallenger("2", "since")


def row(decision: ContestDecision | None = None, **more: Any) -> ContestRow:
    values = msgspec.to_builtins(decision) if decision is not None else None
    return ContestRow(
        "flowers", "1", (CHALLENGER,), cut=0.0, learned=120, id="c", opened=1_000.0,
        decision=values, rows=decision.rows if decision else 0, **more,
    )  # fmt: skip


def judged(rows: int, champion: float, challenger: float, seed: int = 0) -> ContestDecision:
    """A contest after `rows` rows with the error rates of champion and challenger."""
    random = np.random.default_rng(seed)
    losses = [(random.random(rows) < share).astype(float) for share in (champion, challenger)]
    return decide_contest(losses[0], {CHALLENGER.name: losses[1]}, POLICY)


@pytest.mark.parametrize(
    ("decision", "words"),
    [
        (judged(60, 0.4, 0.1), "40 more labels before any challenger can win"),
        (judged(300, 0.30, 0.26), "At this rate about"),
        (
            judged(300, 0.2, 0.21, seed=3),
            "not ahead. If no challenger is, the champion stays in 200",
        ),
        (judged(200, 0.9, 0.1), "It won"),
        (judged(400, 0.1, 0.9), "did not win"),
    ],
)
def test_a_challengers_progress_is_described(decision: ContestDecision, words: str) -> None:
    (found,) = decision.contestants
    assert words in describe_progress(found, decision, POLICY)


def test_a_rate_that_is_too_slow_is_described() -> None:
    slow = Contestant(CHALLENGER.name, loss=0.29, better=0.2, worse=0.0)
    decision = ContestDecision("open", 300, 3.0, 0.30, (slow,), "Not decided yet.")
    assert describe_progress(slow, decision, POLICY) == (
        "At this rate about 4200 more labels; 700 are left, so the champion would stay."
    )


def test_evidence_is_a_share_of_the_deciding_amount_and_at_most_one() -> None:
    found = contest_values(row(judged(200, 0.9, 0.1), state="won", winner="2"), POLICY)
    assert found is not None
    assert found["lines"][0].better == 1.0
    assert found["until"] is None


def test_a_contest_without_labels_has_an_end_date() -> None:
    found = contest_values(row(), POLICY)
    assert found is not None
    assert found["decision"] is None
    assert found["until"] == 1_000.0 + 7 * 86_400
    assert found["lines"] == []


def test_without_a_contest_nothing_is_shown() -> None:
    assert contest_values(None, POLICY) is None
