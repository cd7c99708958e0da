"""One loaded version of a model: rows in, answers out, together with whoever asks at the same time.

A quick model runs on the event loop at the end of the turn, all requests of the turn in one run. A
slow one, or many rows, run in a thread; what arrives in the meantime forms the next run. So batches
grow with the load, and nobody waits for a timer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import msgspec

from tidemill.bundle import Bundle
from tidemill.errors import DeadlineError, InputError, TidemillError, UnavailableError
from tidemill.serving.codec.outputs import Array, Outputs
from tidemill.serving.codec.request_parsing import Row, read_rows
from tidemill.serving.codec.row_decoder import RowDecoder
from tidemill.serving.codec.tensor_encoder import EncodedRows, TensorEncoder
from tidemill.serving.http.batch_commit import BatchCommit
from tidemill.serving.http.routes import Request
from tidemill.serving.model.batching import (
    BatchItem,
    BatchQueue,
    LatencyEstimate,
    MakeReply,
    concatenate,
    pad_single_row,
)
from tidemill.serving.model.prediction_recorder import PredictionRecorder
from tidemill.serving.model.response_cache import ResponseCache
from tidemill.serving.model.version_cache import VersionCache, should_cache
from tidemill.serving.settings import ServingSettings
from tidemill.serving.telemetry.metrics import Metrics

log = logging.getLogger(__name__)
T = TypeVar("T")
#: Called after every run of a model: its name, version, the requests in it, rows, seconds.
OnRun = Callable[[str, str, list[BatchItem], int, float], None]


class Runtime(Protocol):
    """A compiled model in memory."""

    def run(self, inputs: list[Array]) -> tuple[Array | None, Array | None, Array | None]:
        """Label indices, probabilities and values for arrays as the manifest's inputs say."""
        ...


class TrafficSplit(Protocol):
    """What a champion knows of the challenger beside it."""

    def pick(self, request: Request) -> Predictor | None:
        """Who answers the call in the champion's place; None for the champion itself."""
        ...

    def mirror(self, request: Request) -> None:
        """The champion has answered; its reply leaves at the end of the turn."""
        ...

    def state(self) -> dict[str, Any]:
        """Who the challenger is and what it sees, for people and programs."""
        ...


class PredictorContext(msgspec.Struct, frozen=True):
    """What all predictors of a process share."""

    settings: ServingSettings
    batch_commit: BatchCommit
    metrics: Metrics
    cache: ResponseCache | None
    threads: ThreadPoolExecutor
    on_run: OnRun | None = None  # traces want to know


class Predictor:
    """A version in service.

    Protocols read `name`, `version`, `signature` and `encoder`, keep what they computed for this
    version with `attached`, and hand in rows with `submit` or `submit_row`.
    """

    def __init__(
        self, name: str, version: str, bundle: Bundle, runtime: Runtime, latency: LatencyEstimate,
        context: PredictorContext,
    ) -> None:  # fmt: skip
        self.name = name
        self.version = version
        self.bundle = bundle
        self.signature = bundle.signature
        self.latency = latency
        self.encoder = TensorEncoder(bundle.signature, bundle.manifest.inputs)
        self.decoder = RowDecoder(bundle.signature)
        self.loaded_at = time.time()
        self.traffic_split: TrafficSplit | None = None
        self._runtime = runtime
        self._settings = context.settings
        self._threads = context.threads
        self._batch_commit = context.batch_commit
        self._on_run = context.on_run
        self._attached: dict[str, Any] = {}
        waits = getattr(runtime, "waits", False)  # for another process: never on the loop
        self._inline = -1.0 if waits else context.settings.inline_ms / 1000
        self._batch_rows = context.settings.batch_rows
        self._buffer = self.encoder.new_buffer(max(2, self._batch_rows))
        self._view = memoryview(self._buffer).cast("B")  # type: ignore[arg-type]
        self._row_bytes = self._buffer.itemsize * self.encoder.width
        self._buffered: list[BatchItem] = []
        self._queue = BatchQueue()
        self._cached: list[tuple[BatchItem, Outputs]] = []
        self._running: list[BatchItem] | None = None  # what a thread works on
        self._timer: asyncio.TimerHandle | None = None
        self._timeout = context.settings.timeout
        self._scheduled = False
        journal = context.batch_commit.journal
        self._recorder = (
            PredictionRecorder(journal, name, version, self.encoder, self._buffer)
            if journal
            else None
        )
        self._cache = (
            VersionCache(
                context.cache, (name, version, bundle.digest), latency.seconds(1), context.metrics,
                self._deliver_cached, self._enqueue,
            )
            if context.cache is not None
            and should_cache(context.settings, latency.seconds(1), known=not waits)
            else None
        )  # fmt: skip
        labels = {"model": name}
        self._predictions = context.metrics.counter(
            "model_predictions_total", **labels, version=version
        )
        self._seconds = context.metrics.histogram("tidemill_inference_seconds", **labels)
        self._batches = context.metrics.histogram("tidemill_batch_rows", **labels)
        self._errors = context.metrics.counter("tidemill_inference_errors_total", **labels)

    def attached(self, key: str, build: Callable[[Predictor], T]) -> T:
        """What a protocol keeps for this version: built once, dropped with the version."""
        found: T | None = self._attached.get(key)
        if found is None:
            found = self._attached[key] = build(self)
        return found

    def read_one(self, body: bytes) -> Row | None:
        """The row of a native body, checked; None when the body holds many."""
        row = self.decoder.one(body)
        if row is not None:
            return row
        rows, many = read_rows(self.signature, body)
        return None if many else rows[0]

    def read_many(self, body: bytes) -> EncodedRows:
        """The rows under `instances` of a native body, checked and packed.

        Raises:
            InputError: Something is wrong with a row, or the body holds a single one.
        """
        found = self.decoder.many(body)
        if found is None:
            found, many = read_rows(self.signature, body)
            if not many:
                raise InputError(
                    "The body holds one row.", field="instances", expected='{"instances": [...]}'
                )
        return self.encoder.encode(found)

    def submit_row(self, request: Request, row: Row, finish: MakeReply) -> None:
        """Answer one checked row; see `submit`. Quicker than it for flat models."""
        staged = self._buffered
        if (
            self._cache is not None
            or self._running is not None
            or not self.encoder.flat
            or len(staged) >= self._batch_rows
        ):
            self.submit(request, self.encoder.encode([row]), finish)
            return
        self.encoder.write_row(row, self._view, len(staged) * self._row_bytes)
        if not staged and self._recorder is not None:
            self._recorder.check()  # for all of the turn
        staged.append(BatchItem(request, None, 1, finish))
        self._schedule()

    def submit(self, request: Request, rows: EncodedRows, finish: MakeReply) -> None:
        """Answer checked rows: `finish(call, outputs, start, stop)` will be asked for the reply,
        where the rows' answers are `outputs[start:stop]`.

        Raises:
            UnavailableError: Too many rows wait already, or the journal refuses more.
        """
        if self._recorder is not None:
            self._recorder.check()
        work = BatchItem(request, rows, rows.count, finish)
        if self._cache is not None and self._cache.take(work):
            return
        if self._queue and self._queue.rows + rows.count > self._settings.queue_rows:
            raise UnavailableError(
                f"{self._queue.rows} rows wait for '{self.name}' already.",
                remedy="Ask again shortly.",
            )
        self._enqueue(work)

    def drain(self) -> None:
        """Run what waits; called at the end of a turn."""
        self._scheduled = False
        hits, self._cached = self._cached, []
        for work, outputs in hits:
            self._deliver([work], outputs)
        if self._running is not None:
            return
        if self._buffered:
            works, self._buffered = self._buffered, []
            rows = max(2, len(works)) if self.latency.pad else len(works)
            self._run(works, self.encoder.as_inputs(self._buffer[:rows]), len(works))
        while self._queue and self._running is None:
            works = self._queue.next_batch(self._batch_rows)
            self._run(works, concatenate(works, self.latency.pad), sum(w.count for w in works))

    def run(self, rows: EncodedRows) -> Outputs:
        """Answer rows here and now, on the caller's thread, unrecorded; for tools and tests."""
        arrays = pad_single_row(rows.arrays, rows.count, self.latency.pad)
        outputs = Outputs(*self._runtime.run(arrays)).part(0, rows.count)
        outputs.check(0, rows.count)
        return outputs

    def close(self) -> None:
        """Forget what only this version needs, when another one took its place."""
        if self._cache is not None:
            self._cache.forget()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._batch_commit.add(self)

    def _enqueue(self, work: BatchItem) -> None:
        self._queue.add(work)
        self._schedule()

    def _deliver_cached(self, work: BatchItem, outputs: Outputs) -> None:
        self._cached.append((work, outputs))
        self._schedule()

    def _run(self, works: list[BatchItem], arrays: list[Array], count: int) -> None:
        if self.latency.seconds(count) <= self._inline:
            self._finish(works, arrays, count, *self._timed(arrays))
            return
        self._running = works
        arrays = _own_rows(works, arrays)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._timeout, self._fail_overdue)
        future = loop.run_in_executor(self._threads, self._timed, arrays)
        future.add_done_callback(
            lambda done: self._thread_done(works, arrays, count, done.result())
        )

    def _thread_done(
        self, works: list[BatchItem], arrays: list[Array], count: int,
        result: tuple[Outputs | Exception, float],
    ) -> None:  # fmt: skip
        self._running = None
        if self._timer is not None:
            self._timer.cancel()
        self._finish(works, arrays, count, *result)
        if self._queue or self._buffered:
            self._schedule()

    def _fail_overdue(self) -> None:
        """A thread is at work for long: tell those who waited their time that it was too long."""
        seconds = self._timeout
        moment = time.monotonic() - seconds
        running = [w for w in self._running or () if w.request.started < moment and not w.timed_out]
        for work in (*running, *self._queue.pop_overdue(moment)):
            work.timed_out = True
            self._fail(work, _too_late(self.name, seconds))
        pause = min(1.0, seconds / 4)
        self._timer = asyncio.get_running_loop().call_later(pause, self._fail_overdue)

    def _timed(self, arrays: list[Array]) -> tuple[Outputs | Exception, float]:
        started = time.perf_counter()
        try:
            outputs: Outputs | Exception = Outputs(*self._runtime.run(arrays))
        except Exception as error:  # a model may fail in any way; its requests must be answered
            outputs = error
        return outputs, time.perf_counter() - started

    def _finish(
        self, works: list[BatchItem], arrays: list[Array], count: int,
        outputs: Outputs | Exception, seconds: float,
    ) -> None:  # fmt: skip
        self._seconds.observe(seconds)
        self._batches.observe(count)
        if self._on_run is not None:
            self._on_run(self.name, self.version, works, count, seconds)
        if self._cache is not None:
            self._cache.observe(seconds)
        if isinstance(outputs, Outputs):
            self._deliver(works, outputs)
        elif len(works) == 1 or isinstance(outputs, UnavailableError):
            for work in works:
                self._failed(work, outputs)
        elif self.latency.seconds(count) > self._inline:
            self._queue.requeue(works)
        else:
            self._run_separately(works, arrays)

    def _run_separately(self, works: list[BatchItem], arrays: list[Array]) -> None:
        """A run of several requests failed: let only those fail that made it fail."""
        _own_rows(works, arrays)
        for work in works:
            outputs, _ = self._timed(concatenate([work], self.latency.pad))
            if isinstance(outputs, Outputs):
                self._deliver([work], outputs)
            else:
                self._failed(work, outputs)

    def _failed(self, work: BatchItem, error: Exception) -> None:
        self._errors.add()
        if work.timed_out:
            return
        if isinstance(error, UnavailableError):
            self._fail(work, error)
            return
        log.error("%s %s failed on a request", self.name, self.version, exc_info=error)
        what = f"The model '{self.name}' failed on this request."
        self._fail(work, TidemillError(what, remedy="The server's log says why."))

    def _fail(self, work: BatchItem, error: TidemillError) -> None:
        self._batch_commit.fail(work.request, error)

    def _deliver(self, works: list[BatchItem], outputs: Outputs) -> None:
        """Make the replies, record the predictions, and let both go at the turn's end."""
        answered = self._make_replies(works, outputs)
        if self._recorder is not None and answered:
            try:
                self._record(answered, outputs, (time.time(), time.monotonic()))
            except Exception as error:  # what is not recorded must not leave
                for work in answered:
                    self._failed(work, error)
                return
        for work in answered:
            self._send(work)

    def _make_replies(self, works: list[BatchItem], outputs: Outputs) -> list[BatchItem]:
        """The works that have an answer now; whatever goes wrong for one does not keep others."""
        answered = []
        stop = 0
        for work in works:
            work.start = start = stop
            stop += work.count
            try:
                if not work.timed_out:
                    self._make_reply(work, outputs, start, stop)
                    answered.append(work)
            except TidemillError as error:
                self._fail(work, error)
            except Exception as error:
                self._failed(work, error)
        return answered

    def _make_reply(self, work: BatchItem, outputs: Outputs, start: int, stop: int) -> None:
        outputs.check(start, stop)
        work.response = response = work.make_reply(work.request, outputs, start, stop)
        if self._cache is not None:
            self._cache.keep(work, outputs, start, stop)
            response.headers = (
                *response.headers,
                (b"x-cache", b"HIT" if work.cache_tier else b"MISS"),
            )

    def _record(self, works: list[BatchItem], outputs: Outputs, now: tuple[float, float]) -> None:
        assert self._recorder is not None
        self._recorder.write(works, outputs, "champion", now)

    def _send(self, work: BatchItem) -> None:
        assert work.response is not None
        self._predictions.add(work.count)
        self._batch_commit.release(work.request, work.response)
        if self.traffic_split is not None:
            self.traffic_split.mirror(work.request)


def _own_rows(works: list[BatchItem], arrays: list[Array]) -> list[Array]:
    """The arrays out of the buffer, copied, so that others can use it; and each work its row."""
    if works[0].rows is not None:
        return arrays
    arrays = [array.copy() for array in arrays]
    for i, work in enumerate(works):
        work.rows = EncodedRows(1, [array[i : i + 1] for array in arrays])
    return arrays


def _too_late(name: str, seconds: float) -> DeadlineError:
    return DeadlineError(
        f"'{name}' was too busy to answer within {seconds:g} s.", remedy="Ask again later."
    )
