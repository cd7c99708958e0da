"""How a table is replayed, and the record of what happened."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tidemill.loop.replay.setup import ReplaySetup


@dataclass(frozen=True)
class ReplayPace:
    """How a table is replayed.

    Args:
        batch: Rows in a request.
        delay: A row's label is sent this many rows later.
        check_every: Labels are sent, rows stored and the model checked after this many batches.
    """

    batch: int = 25
    delay: int = 200
    check_every: int = 4

    def as_document(self) -> dict[str, int]:
        """Return the pace as `replay.json` has it."""
        return {"batch": self.batch, "delay": self.delay, "look": self.check_every}


@dataclass(frozen=True)
class ReplayEvent:
    """An event after `row` live rows: a trigger, its end, a failed retraining, or a swap."""

    row: int
    kind: str
    text: str


@dataclass
class ReplayRecord:
    """What was replayed.

    Attributes:
        outputs: [rows] the predictions; None for a row that the server would refuse.
        versions: [rows] which version predicted it.
        sent, labels: Numbers of predictions and labels sent.
        stored, joined: Numbers of them in the database at the end.
        refused: Rows that a version does not accept.
        failed: Requests that were retried.
        retrainings: The row after which each retraining began.
        seconds: Total time of retraining jobs.
        wall: Time of the replay, in seconds.
        interrupted: Whether it ended before the last row; `stopped` says why.
    """

    outputs: list[Any] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)
    events: list[ReplayEvent] = field(default_factory=list)
    sent: int = 0
    labels: int = 0
    stored: int = 0
    joined: int = 0
    refused: int = 0
    failed: int = 0
    retrainings: list[int] = field(default_factory=list)
    seconds: float = 0.0
    wall: float = 0.0
    interrupted: bool = False
    stopped: str | None = None


def answers_of(
    record: ReplayRecord, setup: ReplaySetup
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Return the outputs [rows] with the type of the truth, and which rows have predictions."""
    answered = np.array([value is not None for value in record.outputs], dtype=bool)
    if setup.truth.dtype.kind == "f":
        numbers = [np.nan if value is None else float(value) for value in record.outputs]
        return np.array(numbers), answered
    return np.array(record.outputs, dtype=object), answered
