"""The gate's conditions on the rows that decided a contest or a probation."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from tidemill.loop.retraining.contest_bundles import (
    ContestRows,
    take_rows,
)
from tidemill.project import Project
from tidemill.signature import Task
from tidemill.steps.gate.gate import GateVerdict, VersionEvidence, evaluate_gate
from tidemill.steps.retraining.contest import (
    ContestDecision,
)


@dataclass(frozen=True)
class ContestComparison:
    """Versions compared on rows: their predictions by version number, and the decision."""

    rows: ContestRows
    evidence: dict[str, VersionEvidence]
    decision: ContestDecision


def contest_verdict(
    project: Project, model: str, versions: tuple[str, str], compared: ContestComparison
) -> GateVerdict:
    """Apply the gate's conditions to the rows that decided a contest.

    The comparison with the champion is the contest's; the gate adds the project's minimum metrics,
    parity and latency, and that the winner is not worse on the gate's metric.

    Args:
        versions: The winner, and the champion that it would replace.
    """
    winner, loser = versions
    decision, count = compared.decision, compared.decision.rows
    challenger, champion = (
        take_rows(compared.evidence[version], slice(count)) for version in versions
    )
    task: Task = "regression" if not challenger.labels else "classification"
    truth, gate = compared.rows.actual[:count], project.gate
    alone = evaluate_gate(challenger, None, truth, gate, task)
    both = evaluate_gate(challenger, champion, truth, gate, task)
    against: list[str] = list(alone.reasons) if not alone.passed else []
    if both.comparison is not None and both.comparison.difference < 0:
        against.append(
            f"Its {both.metric} on these rows is {both.comparison.challenger:.4g}, against "
            f"{both.comparison.champion:.4g}."
        )
    passed = not against
    return msgspec.structs.replace(
        both,
        passed=passed,
        reasons=(decision.reason, *against),
        confidence=1 - project.contest.alpha,
        model=model,
        version=winner,
        champion=loser,
        promoted=passed,
    )
