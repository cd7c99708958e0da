"""The results of a run: their file format and the figures derived from them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

OURS = "tidemill"
Workload = tuple[str, int, int]  # model, rows per request, connections


@dataclass(frozen=True)
class Sample:
    """One measurement: one endpoint under one workload in one round."""

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
        """CPU time per request in microseconds, over all processes of the server."""
        return self.cpu_seconds / max(1, self.requests) * 1e6

    @property
    def rate(self) -> float:
        """Requests answered per second."""
        return self.requests / self.seconds

    def line(self) -> str:
        """Format the measurement as a progress line."""
        wrong = f", {self.errors} ERRORS" if self.errors else ""
        return (
            f"[{self.round + 1}] {self.model}, {self.rows} rows, {self.connections} connections: "
            f"{self.case} {self.cpu:.1f} us CPU, {self.rate:.0f}/s, "
            f"p50 {self.p50 * 1e3:.2f} ms, p99 {self.p99 * 1e3:.2f} ms{wrong}"
        )


@dataclass
class Results:
    """All results of a run. Cold starts in seconds, memory in bytes, both by server."""

    about: dict[str, Any]
    titles: dict[str, str] = field(default_factory=dict)  # case -> its name in the tables
    versions: dict[str, dict[str, str]] = field(
        default_factory=dict
    )  # server -> package -> version
    failures: dict[str, str] = field(default_factory=dict)  # server -> reason for its exclusion
    cold: dict[str, list[float]] = field(default_factory=dict)
    memory: dict[str, dict[str, int]] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)

    def cases(self) -> list[str]:
        """Return every measured case: Tidemill first, the others in order of measurement."""
        return list(dict.fromkeys(sample.case for sample in self.samples))

    def workloads(self) -> list[Workload]:
        return list(dict.fromkeys(sample.workload for sample in self.samples))

    def main_workloads(self) -> list[Workload]:
        """Return one workload per model and batch size, at 16 connections if measured."""
        found: dict[tuple[str, int], Workload] = {}
        for workload in self.workloads():
            if workload[2] == 16 or workload[:2] not in found:
                found[workload[:2]] = workload
        return list(found.values())

    def has(self, workload: Workload, number: int) -> bool:
        """Return whether that round of the workload has been measured."""
        return any(s.workload == workload and s.round == number for s in self.samples)

    def figure(self, case: str, workload: Workload, of: Callable[[Sample], float]) -> float | None:
        """Return the median of `of` over the rounds; None if the case was not measured."""
        found = [of(s) for s in self._good(case, workload)]
        return median(found) if found else None

    def ratios(
        self, case: str, workload: Workload, of: Callable[[Sample], float] = lambda s: s.cpu
    ) -> list[float]:
        """Return the case's CPU per request (or another figure) over Tidemill's, by round."""
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
    """Load the results that `save` wrote."""
    found = json.loads(path.read_text())
    return Results(**{**found, "samples": [Sample(**sample) for sample in found["samples"]]})
