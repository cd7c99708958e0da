"""Ask the gate for a promotion from the command line, and print its verdict."""

from __future__ import annotations

from typing import Any

from rich.markup import escape

from tidemill.cli import terminal
from tidemill.cli.control_plane import open_platform, open_registry
from tidemill.loop.promotion.promote import promote
from tidemill.project import Project
from tidemill.settings import Settings
from tidemill.steps.gate.gate import GateVerdict


def gate_version(
    settings: Settings, name: str, project: Project | None, **options: Any
) -> GateVerdict:
    """Ask the gate to promote a version, and record a promotion in the audit log.

    Args:
        options: As `loop.promotion.promote.promote` takes them.
    """
    with open_platform(settings) as platform:
        return promote(
            project,
            open_registry(settings),
            name,
            actor="cli",
            audit=platform.audit_transition,
            **options,
        )


def show_verdict(verdict: GateVerdict) -> None:
    """Print the metrics that were compared, the verdict and its reasons."""
    if verdict.metrics:
        other = verdict.champion_metrics or {}
        rows = [[metric, value, other.get(metric)] for metric, value in verdict.metrics.items()]
        columns = ["metric", f"version {verdict.version}", f"champion {verdict.champion or ''}"]
        terminal.print_table(columns, rows, f"On {verdict.rows} held-out rows")
    if (found := verdict.comparison) is not None:
        interval = "" if found.low is None else f" [{found.low:.4f}, {found.high:.4f}]"
        terminal.out.print(
            f"Gain in {verdict.metric}: {found.difference:+.4f}{interval}; "
            f"worse in {found.probability_worse:.1%} of {found.resamples} resamples.",
            markup=False,
        )
    for sentence in (*verdict.reasons, *verdict.notes):
        terminal.out.print(f"  {sentence}", markup=False)
    what = escape(f"{verdict.model} version {verdict.version}")
    if verdict.promoted:
        by = " by override" if verdict.forced else ""
        terminal.out.print(f"[bold green]Promoted[/] {what}{by}.")
    else:
        terminal.out.print(f"[bold yellow]Not promoted[/]: {what}.")
