"""How far a training has come: for a bar on the console and for a job's row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tidemill.metrics import is_better

LOADED, TRIALS_DONE = 5.0, 85.0  # percent: when the data are ready, when every trial has run


@dataclass(frozen=True)
class Progress:
    """Where a training is.

    Attributes:
        percent: 0 to 100; never falls.
        stage: "load", "fit", "export", "register" or "done".
        candidate, trial: What is being fitted; its number among all `trials`, from 1.
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
    """Turns what has happened into `Progress` and passes it on."""

    def __init__(self, on_progress: OnProgress) -> None:
        self._tell = on_progress
        self._trials = 0
        self._done = 0
        self._candidate: str | None = None
        self._metric: str | None = None
        self._best: float | None = None

    def loading(self) -> None:
        self._tell(Progress(0.0, "load"))

    def planned(self, trials: int, metric: str) -> None:
        """The data are ready, and it is known how much there is to try."""
        self._trials, self._metric = trials, metric
        self._send(LOADED, "fit")

    def fitting(self, candidate: str) -> None:
        self._candidate = candidate
        self._send(self._share(), "fit", running=1)

    def within(self, share: float) -> None:
        """This share of the trial that is running is done."""
        self._send(self._share(share), "fit", running=1)

    def fitted(self, value: float | None) -> None:
        """A trial has ended; None when it failed."""
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
        self._tell(
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
