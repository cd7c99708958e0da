"""Replay a labelled table through the running loop, and record what happens.

Predictions and labels are sent over HTTP, as by any client. After each batch the replay waits until
the rows are stored, the model is checked, a retraining has ended and a new champion is served. So
the result does not depend on the speed of the machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from tidemill.errors import TidemillError, UnavailableError
from tidemill.loop.promotion.bundle_evaluation import accepted_rows
from tidemill.loop.replay.record import ReplayEvent, ReplayPace, ReplayRecord
from tidemill.loop.replay.setup import ReplaySetup, requests_of
from tidemill.loop.retraining.jobs import read_retraining_result
from tidemill.signature import Signature
from tidemill.stores.jobs.jobs import Jobs
from tidemill.stores.monitoring.triggers import Triggers
from tidemill.stores.predictions.feedback import Feedback
from tidemill.stores.predictions.label_joins import JOINED
from tidemill.stores.predictions.predictions import Predictions
from tidemill.stores.retraining.contests import Contests

PAUSE_SECONDS = 0.05
JOB_PAUSE_SECONDS = 0.5  # a job takes seconds and needs the processors
TIMEOUT_SECONDS = 600.0  # of every single wait
LABELS_PER_REQUEST = 1000
#: Statuses of a server that is unavailable, busy or starting.
RETRY_STATUSES = (429, 502, 503, 504)


@dataclass(frozen=True)
class ReplayStores:
    """The loop's stores, to follow its progress."""

    predictions: Predictions
    feedback: Feedback
    jobs: Jobs
    triggers: Triggers
    contests: Contests


class RefusedError(TidemillError):
    """The server refused a request as invalid."""


@dataclass
class ReplayPlayer:
    """Replays one table.

    Attributes:
        client: Sends the requests.
        signature: Of the first champion; rows that it refuses are not sent.
        ingest: Stores the journal, or waits for another process to do it.
        check: Checks the model, and follows up its triggers.
        champion: Returns the version that should be served.
        while_waiting: Called repeatedly during waits.
        on_progress: Called with the number of live rows done.
    """

    setup: ReplaySetup
    pace: ReplayPace
    client: httpx.Client
    stores: ReplayStores
    signature: Signature
    ingest: Callable[[], None]
    check: Callable[[], object]
    champion: Callable[[], str]
    while_waiting: Callable[[], None] = lambda: None
    on_progress: Callable[[int], None] = lambda rows: None
    record: ReplayRecord = field(default_factory=ReplayRecord)

    def __post_init__(self) -> None:
        self._ids: list[str | None] = []
        self._labelled = 0
        self._known: dict[str, str] = {}
        self._serving = self.champion()
        self._jobs: set[str] = set()

    @property
    def model(self) -> str:
        return self.setup.project.name

    @property
    def total(self) -> int:
        """Number of live rows."""
        return len(self.setup.frame) - self.setup.warmup

    def play(self) -> ReplayRecord:
        """Replay all live rows."""
        began = time.monotonic()
        try:
            for number, start in enumerate(range(0, self.total, self.pace.batch), 1):
                stop = min(start + self.pace.batch, self.total)
                self._predict(start, stop)
                if number % self.pace.check_every == 0:
                    self._label(stop - self.pace.delay)
                    self._await_stored()
                    self._check(stop)
                self.record.wall = time.monotonic() - began
                self.on_progress(stop)
            self._label(self.total)
            self._await_stored()
            self._retry(self._count_stored, "the database")
        finally:
            self.record.wall = time.monotonic() - began
        return self.record

    def count(self) -> None:
        """Store what was sent and count the rows in the database; also after an interruption."""
        self.ingest()
        self._count_stored()

    def _predict(self, start: int, stop: int) -> None:
        """Send a batch, without the rows that the server would refuse, which are counted."""
        rows = slice(self.setup.warmup + start, self.setup.warmup + stop)
        frame = self.setup.frame.iloc[rows]
        good = accepted_rows(frame, self.signature)
        self.record.refused += int((~good).sum())
        answers: dict[str, Any] = {"predictions": [], "version": self._serving}
        if good.any():
            body = {"instances": requests_of(frame[good], self.signature)}
            try:
                answers = self._post(f"/models/{self.model}/predict_batch", body)
                self.record.sent += int(good.sum())
            except RefusedError:  # by a later champion, which accepts fewer values than the first
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
            last = min(first + LABELS_PER_REQUEST, upto)
            truth = self.setup.truth[self.setup.warmup + first : self.setup.warmup + last]
            pairs = zip(self._ids[first:last], truth.tolist(), strict=True)
            labels = [{"id": id, "actual": value} for id, value in pairs if id is not None]
            if labels:
                self._post("/feedback", labels)
            self.record.labels += len(labels)
            self._labelled = last

    def _post(self, path: str, body: Any) -> dict[str, Any]:
        """Send a request, and retry while the server is unavailable.

        Raises:
            RefusedError: The server refused it.
        """
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while True:
            try:
                answer = self.client.post(path, json=body)
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.status_code not in RETRY_STATUSES:
                break
            self.record.failed += 1
            self._pause(deadline, f"{path} to answer")
        if answer.status_code >= 400:
            raise RefusedError(f"{path} was refused ({answer.status_code}): {answer.text[:500]}")
        found = answer.json()
        return found if isinstance(found, dict) else {"items": found}

    def _await_stored(self) -> None:
        """Wait until every prediction sent is in the database."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while True:
            try:
                self.ingest()
                if self.stores.predictions.count(self.model) >= self.record.sent:
                    return
            except UnavailableError:
                pass
            self._pause(deadline, "the predictions to be stored")

    def _count_stored(self) -> None:
        self.record.stored = self.stores.predictions.count(self.model)
        self.record.joined = self.stores.feedback.counts(self.model).get(JOINED, 0)

    def _check(self, row: int) -> None:
        """Check the model; wait for a retraining that follows, and for a new champion."""
        self._retry(self.check, "a check of the model")
        changed = self._record_triggers(row)
        while (job := self._running()) is not None:
            deadline = time.monotonic() + TIMEOUT_SECONDS
            while not self._retry(lambda: self.stores.jobs.get(job), "a job").done:
                self._pause(deadline, f"job {job} to end", JOB_PAUSE_SECONDS)
            self._count(job, row)
            changed = self._record_triggers(row) or changed
        restored = self._restored()
        if changed or restored:  # nothing else changes the champion here
            champion = self._retry(self.champion, "the registry")
            if champion != self._serving:
                self._await_swap(champion, row, restored)

    def _restored(self) -> str | None:
        """Why the former champion became champion again, if it did and is not served yet."""
        contest = self._retry(lambda: self.stores.contests.newest(self.model), "contests")
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

    def _retry(self, call: Callable[[], Any], what: str) -> Any:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while True:
            try:
                return call()
            except UnavailableError:
                self._pause(deadline, what)

    def _running(self) -> str | None:
        """The model's oldest job that was not waited for."""
        found = self._retry(lambda: self.stores.jobs.page(model=self.model), "jobs")
        new = [job.id for job in found.items if job.id not in self._jobs]
        return min(new, default=None)

    def _count(self, job_id: str, row: int) -> None:
        job = self._retry(lambda: self.stores.jobs.get(job_id), "a job")
        self._jobs.add(job_id)
        self.record.seconds += (job.finished or 0.0) - (job.started or job.finished or 0.0)
        if job.kind != "retrain":
            return
        if job.state != "succeeded":
            said = (job.error or {}).get("detail", job.state)
            self.record.events.append(ReplayEvent(row, "failed", f"The retraining failed: {said}"))
        elif read_retraining_result(job.result).postponed is None:
            self.record.retrainings.append(row)

    def _record_triggers(self, row: int) -> bool:
        """Record triggers opened and closed since the last call; return whether there were any."""
        before_all = dict(self._known)
        found = self._retry(lambda: self.stores.triggers.page(model=self.model), "triggers")
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
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while self._answering() != version:
            self._pause(deadline, f"version {version} to be served")
        self._serving = version
        self.record.events.append(ReplayEvent(row, "swap", why or f"version {version} is served"))

    def _answering(self) -> str | None:
        try:
            found: Mapping[str, Any] = self.client.get("/ready").json()
        except (httpx.TransportError, ValueError):
            return None
        number = found.get("models", {}).get(self.model)
        return None if number is None else str(number)

    def _pause(self, deadline: float, what: str, pause: float = PAUSE_SECONDS) -> None:
        if time.monotonic() > deadline:
            raise UnavailableError(
                f"The replay waited {TIMEOUT_SECONDS:.0f} s for {what} and gave up."
            )
        self.while_waiting()
        time.sleep(pause)
