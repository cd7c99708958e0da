"""The progress of a training, for the terminal's progress bar and for a job's row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tidemill.metrics import is_better

# Percent when the data are ready, and when every trial has run.
LOADED, TRIALS_DONE = 5.0, 85.0


@dataclass(frozen=True)
class Progress:
    """How far a training is.

    Attributes:
        percent: 0 to 100; never decreases.
        stage: "load", "fit", "export", "register" or "done".
        candidate: What is being fitted or exported.
        trial: The number of the current trial among all `trials`, from 1.
        metric, best: The deciding metric and its best value so far.
    """

    percent: float
    stage: str
    candidate: str | None = None
    trial: int = 0
    trials: int = 0
    metric: str | None = None
    best: float | None = None


OnProgress = Callable[[Progress], None]


class Reporter:
    """Converts the events of a training to `Progress` and passes it to a callback."""

    def __init__(self, on_progress: OnProgress) -> None:
        self._on_progress = on_progress
        self._trials = 0
        self._done = 0
        self._candidate: str | None = None
        self._metric: str | None = None
        self._best: float | None = None

    def loading(self) -> None:
        self._on_progress(Progress(0.0, "load"))

    def planned(self, trials: int, metric: str) -> None:
        """The data are ready, and the number of trials is known."""
        self._trials, self._metric = trials, metric
        self._send(LOADED, "fit")

    def fitting(self, candidate: str) -> None:
        self._candidate = candidate
        self._send(self._share(), "fit", running=1)

    def within(self, share: float) -> None:
        """This share of the running trial, 0 to 1, is complete."""
        self._send(self._share(share), "fit", running=1)

    def fitted(self, value: float | None) -> None:
        """A trial has ended with this metric; None if it failed or was pruned."""
        self._done += 1
        if value is not None and self._metric is not None:
            better = self._best is None or is_better(self._metric, value, self._best)
            self._best = value if better else self._best
        self._send(self._share(), "fit")

    def exporting(self, candidate: str) -> None:
        self._candidate = candidate
        self._send(TRIALS_DONE + 3, "export")

    def registering(self) -> None:
        self._send(TRIALS_DONE + 10, "register")

    def done(self) -> None:
        self._send(100.0, "done")

    def _share(self, running: float = 0.0) -> float:
        return LOADED + (TRIALS_DONE - LOADED) * (self._done + running) / max(self._trials, 1)

    def _send(self, percent: float, stage: str, *, running: int = 0) -> None:
        self._on_progress(
            Progress(
                percent=round(percent, 1),
                stage=stage,
                candidate=self._candidate,
                trial=self._done + running,
                trials=self._trials,
                metric=self._metric,
                best=self._best,
            )
        )
