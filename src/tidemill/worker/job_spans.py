"""The spans of a job: one for this attempt at it, and within that one for each of its stages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidemill.stores.jobs.jobs import Job
from tidemill.traces import Traces, fail, open_traces, valid_traceparent

if TYPE_CHECKING:
    from opentelemetry.trace import Span


class JobSpans:
    """Does nothing where traces are not asked for."""

    def __init__(self, job: Job) -> None:
        self._traces: Traces | None = open_traces("tidemill-worker")
        self._name = ""
        self._stage: Span | None = None
        if self._traces is not None:
            self._attempt = self._traces.start(
                f"job {job.kind}",
                valid_traceparent(job.traceparent),
                {
                    "tidemill.job": job.id,
                    "tidemill.model": job.model or "",
                    "tidemill.attempt": job.attempts,
                },
                kind="CONSUMER",
            )

    def enter(self, stage: str) -> None:
        """End the stage before, and begin this one."""
        if self._traces is None or stage == self._name:
            return
        self._leave()
        self._name = stage
        self._stage = self._traces.start(stage, self._attempt)

    def end(self, problem: str | None = None) -> None:
        """End the attempt, and send what is left."""
        if self._traces is None:
            return
        if problem is not None:
            fail(self._attempt, problem)
        self._leave()
        self._attempt.end()
        self._traces.close()

    def _leave(self) -> None:
        if self._stage is not None:
            self._stage.end()
