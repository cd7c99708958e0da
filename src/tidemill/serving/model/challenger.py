"""A challenger next to its champion: it answers a copy of the traffic for the journal alone
(shadow), or answers a share of the requests instead of the champion (canary).

A shadow handles the request's body again, in the same protocol, after the champion's response has
left. Copies are queued until the server is idle; on a busy server a few run at intervals. Copies
that do not fit into the queue are dropped and counted. See decision 063.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import time
from collections import deque
from typing import Any

from tidemill.bundle import Bundle
from tidemill.errors import TidemillError
from tidemill.serving.codec.outputs import Outputs
from tidemill.serving.http.batch_commit import BatchCommit
from tidemill.serving.http.routes import Admission, Request, Response
from tidemill.serving.model.batching import BatchItem, LatencyEstimate
from tidemill.serving.model.context import PredictorContext
from tidemill.serving.model.predictor import Predictor
from tidemill.serving.model.runtime import Runtime
from tidemill.serving.shelf.traffic_rules import TrafficRule
from tidemill.serving.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

QUEUE_SIZE = 512  # copied requests that may wait
SHADOW_BATCH = 16  # copied requests that are run at once
IDLE_SECONDS = 0.002  # without a request, after which the server counts as idle
BUSY_SECONDS = 0.05  # between two shadow runs on a busy server
STICKY_HEADER = b"x-request-key"
TIMEOUT_SHARE = 1 / 3  # of the request timeout, so that the champion has the rest


class ChallengerPredictor(Predictor):
    """A challenger's predictor: records answers under its role and counts them separately.

    Attributes:
        open: Number of copied requests being answered.
    """

    def __init__(
        self, name: str, version: str, bundle: Bundle, runtime: Runtime, latency: LatencyEstimate,
        context: PredictorContext,
    ) -> None:  # fmt: skip
        super().__init__(name, version, bundle, runtime, latency, context)
        self._timeout = context.settings.timeout * TIMEOUT_SHARE
        self.open = 0
        self._metrics = context.metrics
        self.take_role("shadow")

    def take_role(self, role: str) -> None:
        """Set the role that metrics are counted under, `shadow` or `canary`."""
        labels = {"model": self.name, "version": self.version, "role": role}
        self._answers = self._metrics.counter("tidemill_role_predictions_total", **labels)
        self._errors = self._metrics.counter("tidemill_role_errors_total", **labels)
        self._seconds = self._metrics.histogram("tidemill_role_seconds", **labels)

    def fell_back(self) -> None:
        """Count a canary request that the champion answered instead."""
        labels = {"model": self.name, "version": self.version}
        self._metrics.counter("tidemill_canary_fallbacks_total", **labels).add()

    def refused(self) -> None:
        """Count a copied request that does not fit this version's signature, or its queue."""
        self._errors.add()

    def _make_response(self, item: BatchItem, outputs: Outputs, start: int, stop: int) -> None:
        try:
            if item.request.shadow:
                outputs.check(start, stop)
            else:
                super()._make_response(item, outputs, start, stop)
        except TidemillError:
            self._errors.add()
            raise

    def _record(self, items: list[BatchItem], outputs: Outputs, now: tuple[float, float]) -> None:
        assert self._recorder is not None
        for role, shadow in (("shadow", True), ("canary", False)):
            of_role = [item for item in items if item.request.shadow is shadow]
            if of_role:
                self._recorder.write(of_role, outputs, role, now)

    def _send(self, item: BatchItem) -> None:
        self._answers.add(item.count)
        if item.response is None:
            self.open -= 1
            self._batch_commit.schedule()
        else:
            self._predictions.add(item.count)
            self._batch_commit.release(item.request, item.response)

    def _fail(self, item: BatchItem, error: TidemillError) -> None:
        if item.request.shadow:
            self.open -= 1
        else:
            self._batch_commit.fail(item.request, error)


class ChallengerTraffic:
    """Applies a traffic rule to a champion and its challenger; implements `TrafficSplit`."""

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
        self._commits = 0
        self._last_run = 0.0
        labels = {"model": challenger.name, "version": challenger.version}
        self._dropped = metrics.counter("tidemill_shadow_dropped_total", **labels)
        self._share = metrics.gauge("tidemill_challenger_share", **labels, role=rule.mode)
        self._share.set(rule.share)
        challenger.take_role(rule.mode)

    def pick(self, request: Request) -> Predictor | None:
        """The challenger, if it answers this request; else None."""
        if request.shadow:
            return self.challenger
        if (
            self.rule.mode != "canary"
            or request.champion_only
            or not is_selected(self.rule, request.admission)
        ):
            return None
        request.canary = self.challenger
        return self.challenger

    def mirror(self, request: Request) -> None:
        """Queue a copy of the request for a shadow, if the rule selects it."""
        if self.rule.mode != "shadow" or not is_selected(self.rule, request.admission):
            return
        if len(self._queue) >= QUEUE_SIZE:
            self._dropped.add()
            return
        self._queue.append(request)
        if self._timer is None:
            self._schedule()

    def state(self) -> dict[str, Any]:
        """The challenger's version and its traffic rule, for the status routes."""
        rule = self.rule
        return {
            "version": self.challenger.version,
            "digest": self.challenger.bundle.digest,
            "mode": rule.mode,
            "share": rule.share,
            "sticky": rule.sticky,
        }

    def close(self) -> None:
        """Stop; queued copies are dropped."""
        if self._timer is not None:
            self._timer.cancel()
        self._dropped.add(len(self._queue))
        self._queue.clear()
        self._share.set(0.0)

    def _schedule(self) -> None:
        self._commits = self._batch_commit.commits
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(IDLE_SECONDS, self._run_if_idle)

    def _run_if_idle(self) -> None:
        """Run some copies if the server is idle, or was busy for `BUSY_SECONDS`."""
        self._timer = None
        now = time.monotonic()
        idle = self._batch_commit.commits == self._commits
        if not self.challenger.open and (idle or now - self._last_run > BUSY_SECONDS):
            self._last_run = now
            self._run()
        if self._queue:
            self._schedule()

    def _run(self) -> None:
        for _ in range(min(SHADOW_BATCH, len(self._queue))):
            request = self._queue.popleft()
            copy = Request(
                request.admission, request.body, request.id, time.monotonic(), _discard, shadow=True
            )
            self.challenger.open += 1
            try:
                request.admission.route.handler(copy)
            except TidemillError:
                self._failed()
            except Exception as error:  # must not escape into the event loop
                log.error("the challenger failed on a copied request", exc_info=error)
                self._failed()

    def _failed(self) -> None:
        self.challenger.open -= 1
        self.challenger.refused()


def _discard(response: Response, block: bytes) -> None:
    """Ignore a shadow's response."""


def is_selected(rule: TrafficRule, admission: Admission) -> bool:
    """Whether a request belongs to the share of traffic that goes to the challenger."""
    if rule.share >= 1.0:
        return True
    if rule.mode == "shadow" or rule.sticky == "none":
        return random.random() < rule.share
    return canary_bucket(_client(rule, admission), admission.params.get("name", "")) < rule.share


def canary_bucket(client: str, model: str) -> float:
    """A number from 0 to 1 that is fixed for each client and model; the canary answers if it is
    below the share."""
    digest = hashlib.blake2b(f"{model}\0{client}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _client(rule: TrafficRule, admission: Admission) -> str:
    if rule.sticky == "header":
        given = admission.head.header(STICKY_HEADER)
        if given is not None:
            return given.decode("latin-1")
    return admission.key_id or admission.head.client
