"""Plays a labelled table through the running loop, and writes down what happened.

Predictions and labels go over HTTP, as any client's would. What the loop does is awaited at defined
points, after each batch: the rows are stored, the model is looked at, a retraining has ended, a new
champion answers. So the result does not depend on how fast the machine is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt

from tidemill.errors import TidemillError, UnavailableError
from tidemill.loop.promotion.bundle_evaluation import accepted_rows
from tidemill.loop.replay.setup import ReplaySetup, requests_of
from tidemill.loop.retraining.jobs import read_retraining_result
from tidemill.signature import Signature
from tidemill.stores.jobs.jobs import Jobs
from tidemill.stores.monitoring.triggers import Triggers
from tidemill.stores.predictions.feedback import Feedback
from tidemill.stores.predictions.label_joins import JOINED
from tidemill.stores.predictions.predictions import Predictions
from tidemill.stores.retraining.contests import Contests

PAUSE = 0.05
JOB_PAUSE = 0.5  # while a job trains, which takes seconds and the processors
PATIENCE = 600.0  # seconds for any one thing that is awaited
LABELS_A_REQUEST = 1000
#: What a server answers that is away, busy or starting.
AGAIN = (429, 502, 503, 504)


@dataclass(frozen=True)
class ReplayPace:
    """How a table is played.

    Args:
        batch: Rows a request.
        delay: So many rows later a row's label comes.
        look: After so many batches labels are sent, rows stored, and the model is looked at.
    """

    batch: int = 25
    delay: int = 200
    look: int = 4


@dataclass(frozen=True)
class ReplayEvent:
    """Something that happened after so many live rows: a trigger, its end, or a swap."""

    row: int
    kind: str
    text: str


@dataclass
class ReplayRecord:
    """What was played.

    Attributes:
        outputs: [rows] the answers; None for a row that the server would refuse.
        versions: [rows] which version answered.
        sent, labels: How many predictions and labels were sent.
        stored, joined: How many of them the database holds in the end.
        retrainings: After which row each retraining began.
        seconds: That retraining jobs took.
        interrupted: Whether rows are left that were not played; `stopped` says why.
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


@dataclass(frozen=True)
class ReplayStores:
    """What the loop keeps, to see how far it is."""

    predictions: Predictions
    feedback: Feedback
    jobs: Jobs
    triggers: Triggers
    contests: Contests


class RefusedError(TidemillError):
    """The server took a request for wrong."""


@dataclass
class ReplayPlayer:
    """Plays one table.

    Attributes:
        client: Asks the server; keeps its connections.
        signature: Of the first champion; rows that it refuses are not sent.
        store: Lets the journal be stored, or gives others time to do it.
        look: One look at the model, and what follows from it.
        champion: The version that should answer.
        attend: Is called while something is awaited.
        tell: Hears how many live rows are done.
    """

    staged: ReplaySetup
    pace: ReplayPace
    client: httpx.Client
    stores: ReplayStores
    signature: Signature
    store: Callable[[], None]
    look: Callable[[], object]
    champion: Callable[[], str]
    attend: Callable[[], None] = lambda: None
    tell: Callable[[int], None] = lambda rows: None
    record: ReplayRecord = field(default_factory=ReplayRecord)

    def __post_init__(self) -> None:
        self._ids: list[str | None] = []
        self._labelled = 0
        self._known: dict[str, str] = {}
        self._serving = self.champion()
        self._jobs: set[str] = set()

    @property
    def model(self) -> str:
        return self.staged.project.name

    @property
    def total(self) -> int:
        """How many live rows there are."""
        return len(self.staged.frame) - self.staged.warmup

    def play(self) -> ReplayRecord:
        """Play all live rows."""
        began = time.monotonic()
        try:
            for number, start in enumerate(range(0, self.total, self.pace.batch), 1):
                stop = min(start + self.pace.batch, self.total)
                self._predict(start, stop)
                if number % self.pace.look == 0:
                    self._label(stop - self.pace.delay)
                    self._await_stored()
                    self._look(stop)
                self.record.wall = time.monotonic() - began
                self.tell(stop)
            self._label(self.total)
            self._await_stored()
            self._patiently(self._count_stored, "the database")
        finally:
            self.record.wall = time.monotonic() - began
        return self.record

    def count(self) -> None:
        """Store what was sent, and count what the database holds; also after an interruption."""
        self.store()
        self._count_stored()

    def _predict(self, start: int, stop: int) -> None:
        """Ask for a batch; the rows that the server would refuse are left out, and counted."""
        rows = slice(self.staged.warmup + start, self.staged.warmup + stop)
        frame = self.staged.frame.iloc[rows]
        good = accepted_rows(frame, self.signature)
        self.record.refused += int((~good).sum())
        answers: dict[str, Any] = {"predictions": [], "version": self._serving}
        if good.any():
            body = {"instances": requests_of(frame[good], self.signature)}
            try:
                answers = self._post(f"/models/{self.model}/predict_batch", body)
                self.record.sent += int(good.sum())
            except RefusedError:  # by a later champion, which takes less than the first
                self.record.refused += int(good.sum())
                good[:] = False
        found = iter(answers["predictions"])
        for taken in good:
            answer = next(found) if taken else {}
            self.record.outputs.append(answer.get("prediction"))
            self.record.versions.append(str(answers["version"]))
            self._ids.append(answer.get("id"))

    def _label(self, upto: int) -> None:
        """Send the labels of the rows before `upto` that have not been sent."""
        while self._labelled < upto:
            first = self._labelled
            last = min(first + LABELS_A_REQUEST, upto)
            truth = self.staged.truth[self.staged.warmup + first : self.staged.warmup + last]
            pairs = zip(self._ids[first:last], truth.tolist(), strict=True)
            labels = [{"id": id, "actual": value} for id, value in pairs if id is not None]
            if labels:
                self._post("/feedback", labels)
            self.record.labels += len(labels)
            self._labelled = last

    def _post(self, path: str, body: Any) -> dict[str, Any]:
        """Ask again while the server is away; what it refuses is an error."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                answer = self.client.post(path, json=body)
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.status_code not in AGAIN:
                break
            self.record.failed += 1
            self._pause(deadline, f"{path} to answer")
        if answer.status_code >= 400:
            raise RefusedError(f"{path} was refused ({answer.status_code}): {answer.text[:500]}")
        found = answer.json()
        return found if isinstance(found, dict) else {"items": found}

    def _await_stored(self) -> None:
        """Until every prediction and label that was sent is in the database."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self.store()
                if self.stores.predictions.count(self.model) >= self.record.sent:
                    return
            except UnavailableError:
                pass
            self._pause(deadline, "the predictions to be stored")

    def _count_stored(self) -> None:
        self.record.stored = self.stores.predictions.count(self.model)
        self.record.joined = self.stores.feedback.counts(self.model).get(JOINED, 0)

    def _look(self, row: int) -> None:
        """One look, the retraining that follows from it, and the swap that follows from that."""
        self._patiently(self.look, "a look at the model")
        changed = self._note(row)
        while (job := self._running()) is not None:
            deadline = time.monotonic() + PATIENCE
            while not self._patiently(lambda: self.stores.jobs.get(job), "a job").done:
                self._pause(deadline, f"job {job} to end", JOB_PAUSE)
            self._count(job, row)
            changed = self._note(row) or changed
        back = self._back()
        if changed or back:  # nothing else crowns anybody here
            wanted = self._patiently(self.champion, "the registry")
            if wanted != self._serving:
                self._await_swap(wanted, row, back)

    def _back(self) -> str | None:
        """Why the former champion was made champion again, if it was and does not answer yet."""
        contest = self._patiently(lambda: self.stores.contests.newest(self.model), "contests")
        if (
            contest is None
            or contest.probation is None
            or contest.resulting_champion != contest.champion
        ):
            return None
        return (
            str(contest.probation["reason"])
            if contest.resulting_champion != self._serving
            else None
        )

    def _patiently(self, ask: Callable[[], Any], what: str) -> Any:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return ask()
            except UnavailableError:
                self._pause(deadline, what)

    def _running(self) -> str | None:
        """A job of the model's that nobody has waited for; the oldest."""
        found = self._patiently(lambda: self.stores.jobs.page(model=self.model), "jobs")
        new = [job.id for job in found.items if job.id not in self._jobs]
        return min(new, default=None)

    def _count(self, job_id: str, row: int) -> None:
        job = self._patiently(lambda: self.stores.jobs.get(job_id), "a job")
        self._jobs.add(job_id)
        self.record.seconds += (job.finished or 0.0) - (job.started or job.finished or 0.0)
        if job.kind != "retrain":
            return
        if job.state != "succeeded":
            said = (job.error or {}).get("detail", job.state)
            self.record.events.append(ReplayEvent(row, "failed", f"The retraining failed: {said}"))
        elif read_retraining_result(job.result).postponed is None:
            self.record.retrainings.append(row)

    def _note(self, row: int) -> bool:
        """Write down which triggers were opened and closed since the last time; whether any was."""
        before_all = dict(self._known)
        found = self._patiently(lambda: self.stores.triggers.page(model=self.model), "triggers")
        for trigger in reversed(found.items):
            before = self._known.get(trigger.id)
            if before is None and trigger.retrains:
                text = f"{trigger.cause}: {trigger.reason}"
                self.record.events.append(ReplayEvent(row, "trigger", text))
            if before != trigger.state and trigger.closed is not None and trigger.retrains:
                detail = (trigger.evidence or {}).get("contest") or {}
                text = f"{trigger.state}. {detail.get('reason', '')}".strip()
                self.record.events.append(ReplayEvent(row, "closed", text))
            self._known[trigger.id] = trigger.state
        return self._known != before_all

    def _await_swap(self, version: str, row: int, why: str | None) -> None:
        deadline = time.monotonic() + PATIENCE
        while self._answering() != version:
            self._pause(deadline, f"version {version} to answer")
        self._serving = version
        self.record.events.append(ReplayEvent(row, "swap", why or f"version {version} answers"))

    def _answering(self) -> str | None:
        try:
            found: Mapping[str, Any] = self.client.get("/ready").json()
        except (httpx.TransportError, ValueError):
            return None
        number = found.get("models", {}).get(self.model)
        return None if number is None else str(number)

    def _pause(self, deadline: float, what: str, pause: float = PAUSE) -> None:
        if time.monotonic() > deadline:
            raise UnavailableError(f"The replay waited {PATIENCE:.0f} s in vain for {what}.")
        self.attend()
        time.sleep(pause)


def answers_of(
    record: ReplayRecord, staged: ReplaySetup
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """The outputs [rows] as the truth is typed, and which rows were answered."""
    answered = np.array([value is not None for value in record.outputs], dtype=bool)
    if staged.truth.dtype.kind == "f":
        numbers = [np.nan if value is None else float(value) for value in record.outputs]
        return np.array(numbers), answered
    return np.array(record.outputs, dtype=object), answered
