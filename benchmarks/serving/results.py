"""What a run found: as it is kept on disk, and the figures that are read out of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

OURS = "tidemill"
Cell = tuple[str, int, int]  # model, rows a request, connections


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
    def cell(self) -> Cell:
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

    def cells(self) -> list[Cell]:
        return list(dict.fromkeys(sample.cell for sample in self.samples))

    def main_cells(self) -> list[Cell]:
        """One cell for each model and batch size: at 16 connections, where that was measured."""
        found: dict[tuple[str, int], Cell] = {}
        for cell in self.cells():
            if cell[2] == 16 or cell[:2] not in found:
                found[cell[:2]] = cell
        return list(found.values())

    def has(self, cell: Cell, number: int) -> bool:
        """Whether that round of the cell is already there."""
        return any(s.cell == cell and s.round == number for s in self.samples)

    def figure(self, case: str, cell: Cell, of: Callable[[Sample], float]) -> float | None:
        """The median over the rounds of something about a case; None where it was not measured."""
        found = [of(s) for s in self._good(case, cell)]
        return median(found) if found else None

    def ratios(
        self, case: str, cell: Cell, of: Callable[[Sample], float] = lambda s: s.cpu
    ) -> list[float]:
        """The case's CPU a request (or another figure) over ours, round by round."""
        own = {s.round: of(s) for s in self._good(OURS, cell)}
        return [of(s) / own[s.round] for s in self._good(case, cell) if s.round in own]

    def _good(self, case: str, cell: Cell) -> list[Sample]:
        return [s for s in self.samples if s.case == case and s.cell == cell and s.errors == 0]

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")


def load(path: Path) -> Results:
    """The results that `save` wrote."""
    found = json.loads(path.read_text())
    return Results(**{**found, "samples": [Sample(**sample) for sample in found["samples"]]})
