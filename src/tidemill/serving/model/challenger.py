"""A challenger beside its champion: it answers after it for the journal alone (shadow), or answers
a share of its callers (canary).

A shadowed request is handled anew from its body, in whatever protocol it came, once the champion's
answer has left. It waits until a turn of the loop has gone by without requests; while the server is
busy a few are let through now and then, and what does not fit the queue is dropped and counted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from typing import Any

from tidemill.bundle import Bundle
from tidemill.errors import TidemillError
from tidemill.serving.codec.outputs import Outputs
from tidemill.serving.http.batch_commit import BatchCommit
from tidemill.serving.http.routes import Request, Response
from tidemill.serving.model.batching import BatchItem, LatencyEstimate
from tidemill.serving.model.predictor import Predictor, PredictorContext, Runtime
from tidemill.serving.shelf.traffic_rules import TrafficRule, is_chosen
from tidemill.serving.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

QUEUE = 512  # requests that may wait for a shadow
FEW = 16  # requests that are shadowed at once
IDLE_SECONDS = 0.002  # without a request, until the server counts as idle
BUSY_SECONDS = 0.05  # between two shadow runs of a busy server
PATIENCE = 1 / 3  # of the time limit, so that the champion has the rest


class ChallengerPredictor(Predictor):
    """A challenger in memory; its answers are recorded under their role, and counted apart."""

    def __init__(
        self, name: str, version: str, bundle: Bundle, runtime: Runtime, latency: LatencyEstimate,
        context: PredictorContext,
    ) -> None:  # fmt: skip
        super().__init__(name, version, bundle, runtime, latency, context)
        self._timeout = context.settings.timeout * PATIENCE
        self.open = 0  # shadowed requests that are on their way
        self._metrics = context.metrics
        self.take_role("shadow")

    def take_role(self, role: str) -> None:
        """Count under a role from now on."""
        labels = {"model": self.name, "version": self.version, "role": role}
        self._answers = self._metrics.counter("tidemill_role_predictions_total", **labels)
        self._errors = self._metrics.counter("tidemill_role_errors_total", **labels)
        self._seconds = self._metrics.histogram("tidemill_role_seconds", **labels)

    def fell_back(self) -> None:
        """Count a canary's request that the champion answered after all."""
        labels = {"model": self.name, "version": self.version}
        self._metrics.counter("tidemill_canary_fallbacks_total", **labels).add()

    def refused(self) -> None:
        """Count a shadowed request that does not fit this version, or finds no room."""
        self._errors.add()

    def _make_reply(self, work: BatchItem, outputs: Outputs, start: int, stop: int) -> None:
        try:
            if work.request.shadow:
                outputs.check(start, stop)
            else:
                super()._make_reply(work, outputs, start, stop)
        except TidemillError:
            self._errors.add()
            raise

    def _record(self, works: list[BatchItem], outputs: Outputs, now: tuple[float, float]) -> None:
        assert self._recorder is not None
        for role, shadow in (("shadow", True), ("canary", False)):
            some = [work for work in works if work.request.shadow is shadow]
            if some:
                self._recorder.write(some, outputs, role, now)

    def _send(self, work: BatchItem) -> None:
        self._answers.add(work.count)
        if work.response is None:
            self.open -= 1
            self._batch_commit.schedule()
        else:
            self._predictions.add(work.count)
            self._batch_commit.release(work.request, work.response)

    def _fail(self, work: BatchItem, error: TidemillError) -> None:
        if work.request.shadow:
            self.open -= 1
        else:
            self._batch_commit.fail(work.request, error)


class ChallengerTraffic:
    """The challenger of a champion under a rule; see `tidemill.serving.model.predictor`."""

    def __init__(
        self,
        challenger: ChallengerPredictor,
        rule: TrafficRule,
        batch_commit: BatchCommit,
        metrics: Metrics,
    ) -> None:
        self.challenger = challenger
        self.rule = rule
        self._batch_commit = batch_commit
        self._queue: deque[Request] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._seen = self._ran = 0.0
        labels = {"model": challenger.name, "version": challenger.version}
        self._dropped = metrics.counter("tidemill_shadow_dropped_total", **labels)
        self._share = metrics.gauge("tidemill_challenger_share", **labels, role=rule.mode)
        self._share.set(rule.share)
        challenger.take_role(rule.mode)

    def pick(self, request: Request) -> Predictor | None:
        if request.shadow:
            return self.challenger
        if (
            self.rule.mode != "canary"
            or request.champion_only
            or not is_chosen(self.rule, request.admission)
        ):
            return None
        request.canary = self.challenger
        return self.challenger

    def mirror(self, request: Request) -> None:
        """Have the challenger answer the same, later."""
        if self.rule.mode != "shadow" or not is_chosen(self.rule, request.admission):
            return
        if len(self._queue) >= QUEUE:
            self._dropped.add()
            return
        self._queue.append(request)
        if self._timer is None:
            self._wait()

    def state(self) -> dict[str, Any]:
        rule = self.rule
        return {
            "version": self.challenger.version,
            "digest": self.challenger.bundle.digest,
            "mode": rule.mode,
            "share": rule.share,
            "sticky": rule.sticky,
        }

    def close(self) -> None:
        """End: what waits is dropped."""
        if self._timer is not None:
            self._timer.cancel()
        self._dropped.add(len(self._queue))
        self._queue.clear()
        self._share.set(0.0)

    def _wait(self) -> None:
        self._seen = self._batch_commit.commits
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(IDLE_SECONDS, self._look)

    def _look(self) -> None:
        """Run a few when the server is idle, or has been busy for long."""
        self._timer = None
        now = time.monotonic()
        idle = self._batch_commit.commits == self._seen
        if not self.challenger.open and (idle or now - self._ran > BUSY_SECONDS):
            self._ran = now
            self._run()
        if self._queue:
            self._wait()

    def _run(self) -> None:
        for _ in range(min(FEW, len(self._queue))):
            request = self._queue.popleft()
            again = Request(
                request.admission, request.body, request.id, time.monotonic(), _nobody, shadow=True
            )
            self.challenger.open += 1
            try:
                request.admission.route.handler(again)
            except TidemillError as error:
                self._refused(error)
            except Exception as error:  # a challenger must not end the loop's callback
                log.error("the shadow of a request failed", exc_info=error)
                self._refused(error)

    def _refused(self, error: Exception) -> None:
        self.challenger.open -= 1
        self.challenger.refused()


def _nobody(response: Response, block: bytes) -> None:
    """Takes the answer that nobody waits for."""
