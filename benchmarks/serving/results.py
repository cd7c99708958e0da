"""What a run found: as it is kept on disk, and the figures that are read out of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

OURS = "tidemill"
Workload = tuple[str, int, int]  # model, rows a request, connections


@dataclass(frozen=True)
class Sample:
    """One measurement: one server asked in one form by so many connections in one round."""

    case: str
    model: str
    rows: int
    connections: int
    round: int
    requests: int
    seconds: float
    cpu_seconds: float
    p50: float
    p99: float
    errors: int

    @property
    def workload(self) -> Workload:
        return self.model, self.rows, self.connections

    @property
    def cpu(self) -> float:
        """CPU time a request, in microseconds, over all processes of the server."""
        return self.cpu_seconds / max(1, self.requests) * 1e6

    @property
    def rate(self) -> float:
        """Requests answered a second."""
        return self.requests / self.seconds

    def line(self) -> str:
        """The measurement in one line, for whoever watches the run."""
        wrong = f", {self.errors} ERRORS" if self.errors else ""
        return (
            f"[{self.round + 1}] {self.model}, {self.rows} rows, {self.connections} connections: "
            f"{self.case} {self.cpu:.1f} us CPU, {self.rate:.0f}/s, "
            f"p50 {self.p50 * 1e3:.2f} ms, p99 {self.p99 * 1e3:.2f} ms{wrong}"
        )


@dataclass
class Results:
    """Everything a run found. Cold starts in seconds, memory in bytes, both by server."""

    about: dict[str, Any]
    titles: dict[str, str] = field(default_factory=dict)  # case -> what the tables call it
    versions: dict[str, dict[str, str]] = field(
        default_factory=dict
    )  # server -> package -> version
    failures: dict[str, str] = field(default_factory=dict)  # server -> why it is not in the tables
    cold: dict[str, list[float]] = field(default_factory=dict)
    memory: dict[str, dict[str, int]] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)

    def cases(self) -> list[str]:
        """Every case measured, ours first, the rest as they were given."""
        return list(dict.fromkeys(sample.case for sample in self.samples))

    def workloads(self) -> list[Workload]:
        return list(dict.fromkeys(sample.workload for sample in self.samples))

    def main_workloads(self) -> list[Workload]:
        """One cell for each model and batch size: at 16 connections, where that was measured."""
        found: dict[tuple[str, int], Workload] = {}
        for workload in self.workloads():
            if workload[2] == 16 or workload[:2] not in found:
                found[workload[:2]] = workload
        return list(found.values())

    def has(self, workload: Workload, number: int) -> bool:
        """Whether that round of the cell is already there."""
        return any(s.workload == workload and s.round == number for s in self.samples)

    def figure(self, case: str, workload: Workload, of: Callable[[Sample], float]) -> float | None:
        """The median over the rounds of something about a case; None where it was not measured."""
        found = [of(s) for s in self._good(case, workload)]
        return median(found) if found else None

    def ratios(
        self, case: str, workload: Workload, of: Callable[[Sample], float] = lambda s: s.cpu
    ) -> list[float]:
        """The case's CPU a request (or another figure) over ours, round by round."""
        own = {s.round: of(s) for s in self._good(OURS, workload)}
        return [of(s) / own[s.round] for s in self._good(case, workload) if s.round in own]

    def _good(self, case: str, workload: Workload) -> list[Sample]:
        return [
            s for s in self.samples if s.case == case and s.workload == workload and s.errors == 0
        ]

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")


def load(path: Path) -> Results:
    """The results that `save` wrote."""
    found = json.loads(path.read_text())
    return Results(**{**found, "samples": [Sample(**sample) for sample in found["samples"]]})
