"""A loaded version of a model: batches the rows of concurrent requests and runs the model.

A fast model runs on the event loop at the end of a tick, with all requests of the tick in one run.
A slow model, or a large batch, runs in a thread, and the requests that arrive in the meantime form
the next run. So batches grow with the load, and no request waits for a timer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from tidemill.bundle import Bundle
from tidemill.errors import DeadlineError, InputError, TidemillError, UnavailableError
from tidemill.serving.codec.body_limits import BodyLimits
from tidemill.serving.codec.outputs import Array, Outputs
from tidemill.serving.codec.request_parsing import Row, read_rows
from tidemill.serving.codec.row_decoder import RowDecoder
from tidemill.serving.codec.tensor_encoder import EncodedRows, TensorEncoder
from tidemill.serving.http.routes import Request
from tidemill.serving.model.batching import (
    BatchItem,
    BatchQueue,
    LatencyEstimate,
    MakeResponse,
    concatenate,
)
from tidemill.serving.model.context import PredictorContext
from tidemill.serving.model.parsing_threads import LARGE_BODY
from tidemill.serving.model.prediction_recorder import PredictionRecorder
from tidemill.serving.model.run_limits import Overruns
from tidemill.serving.model.runtime import Runtime
from tidemill.serving.model.version_cache import VersionCache, should_cache

log = logging.getLogger(__name__)
SLOW_SECONDS = 0.1  # on the event loop, which answers nobody in the meantime
SLOW_PAUSE_SECONDS, MAX_SLOW_PAUSE_SECONDS = 60.0, 3600.0
T = TypeVar("T")


class TrafficSplit(Protocol):
    """How a champion shares its traffic with its challenger."""

    def pick(self, request: Request) -> Predictor | None:
        """The challenger, if it answers this request instead of the champion; else None."""

    def mirror(self, request: Request) -> None:
        """Copy a request to a shadow challenger; the champion's response leaves with this tick."""

    def state(self) -> dict[str, Any]:
        """The challenger's version and its traffic rule, for the status routes."""


class Predictor:
    """A version in service.

    Protocols read `name`, `version`, `signature` and `encoder`, store what they compute for this
    version with `attached`, and pass rows to `submit` or `submit_row`.

    Attributes:
        traffic_split: The challenger that shares this champion's traffic; None without one.
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
        self.limits = BodyLimits(context.settings.max_rows, context.settings.max_cells)
        self.loaded_at = time.time()
        self.traffic_split: TrafficSplit | None = None
        self._runtime = runtime
        self._settings = context.settings
        self._threads = context.threads
        self._parsing = context.parsing
        self._batch_commit = context.batch_commit
        self._on_run = context.on_run
        self._attached: dict[str, Any] = {}
        # For a process, or for a loop in the graph: never on the event loop.
        self._may_wait = remote = getattr(runtime, "waits", False)
        self._inline = self._inline_limit = -1.0 if remote else context.settings.inline_ms / 1000
        self._inline_pause = SLOW_PAUSE_SECONDS
        self._inline_again = 0.0  # when it may return to the event loop (monotonic)
        self._overruns = Overruns()
        self._overdue = False  # a run in a thread has taken longer than the timeout
        self._own_thread: ThreadPoolExecutor | None = None
        self._batch_rows = context.settings.batch_rows
        self._buffer = self.encoder.new_buffer(max(2, self._batch_rows))
        self._view = memoryview(self._buffer).cast("B")  # type: ignore[arg-type]
        self._row_bytes = self._buffer.itemsize * self.encoder.width
        self._buffered: list[BatchItem] = []
        self._queue = BatchQueue()
        self._cached: list[tuple[BatchItem, Outputs]] = []
        self._running: list[BatchItem] | None = None  # in a thread
        self._timer: asyncio.TimerHandle | None = None
        self._timeout = context.settings.timeout
        self._scheduled = False
        journal = context.batch_commit.journal
        self._recorder: PredictionRecorder | None = None
        if journal:
            self._recorder = PredictionRecorder(journal, name, version, self.encoder, self._buffer)
        self._cache = self._version_cache(context, deterministic=not remote)
        labels = {"model": name}
        self._predictions = context.metrics.counter(
            "model_predictions_total", **labels, version=version
        )
        self._seconds = context.metrics.histogram("tidemill_inference_seconds", **labels)
        self._batches = context.metrics.histogram("tidemill_batch_rows", **labels)
        self._errors = context.metrics.counter("tidemill_inference_errors_total", **labels)
        self._ended = context.metrics.counter("tidemill_model_overruns_total", **labels)

    @property
    def failing(self) -> bool:
        """Whether its last run had to be ended, or has taken longer than the timeout."""
        return self._overdue or self._overruns.count > 0

    def attached(self, key: str, build: Callable[[Predictor], T]) -> T:
        """A value that a protocol stores for this version: built once, dropped with the version."""
        found: T | None = self._attached.get(key)
        if found is None:
            found = self._attached[key] = build(self)
        return found

    def read_one(self, body: bytes) -> Row | None:
        """Parse and check the row of a native body; None if the body holds several.

        Raises:
            InputError, MalformedError: The body does not fit the signature.
        """
        row = self.decoder.one(body)
        if row is not None:
            return row
        rows, many = read_rows(self.signature, body, self.limits)
        return None if many else rows[0]

    def read_many(self, body: bytes) -> EncodedRows:
        """Parse, check and encode the rows under `instances` of a native body.

        Raises:
            InputError: A row does not fit the signature, or the body is not a batch.
            TooLargeError: There are too many rows.
        """
        self.limits.check_json(body)
        rows = self.decoder.many(body)
        if rows is None:
            rows, many = read_rows(self.signature, body, self.limits)
            if not many:
                raise InputError(
                    "The body holds a single row, not a batch.",
                    field="instances",
                    expected='{"instances": [...]}',
                )
        self.limits.check(len(rows), self.encoder.width)
        return self.encoder.encode(rows)

    def submit_body(
        self,
        request: Request,
        read: Callable[[Predictor, bytes], EncodedRows],
        make_response: MakeResponse,
        *,
        may_wait: bool = False,
    ) -> None:
        """Parse the body, in a thread if it is large, and answer its rows; see `submit`.

        Args:
            may_wait: `read` may wait for something: it is called in a thread in any case.

        Raises:
            InputError, MalformedError, UnavailableError: As `read` and `submit`, for a small body.
        """
        if len(request.body) <= LARGE_BODY and not may_wait:
            self.submit(request, self._read(read, request.body), make_response)
            return

        def submit(result: Callable[[], EncodedRows]) -> None:
            try:
                self.submit(request, result(), make_response)
            except Exception as error:  # each request needs a response
                self._batch_commit.fail(request, error)

        self._parsing.run(lambda: self._read(read, request.body), submit)

    def _read(self, read: Callable[[Predictor, bytes], EncodedRows], body: bytes) -> EncodedRows:
        rows = read(self, body)
        self.limits.check(rows.count, self.encoder.width)
        return rows

    def submit_row(self, request: Request, row: Row, make_response: MakeResponse) -> None:
        """Answer one checked row; see `submit`, which is slower for flat models."""
        buffered = self._buffered
        if (
            self._cache is not None
            or self._running is not None
            or not self.encoder.flat
            or len(buffered) >= self._batch_rows
            or self._overruns.count
        ):
            self.submit(request, self.encoder.encode([row]), make_response)
            return
        self.encoder.write_row(row, self._view, len(buffered) * self._row_bytes)
        if not buffered and self._recorder is not None:
            self._recorder.check()  # once for the whole tick
        buffered.append(BatchItem(request, None, 1, make_response))
        self._schedule()

    def submit(self, request: Request, rows: EncodedRows, make_response: MakeResponse) -> None:
        """Answer checked rows, later in this tick or in a later one.

        Args:
            make_response: Called as `make_response(request, outputs, start, stop)` to build the
                response from the answers `outputs[start:stop]`.

        Raises:
            UnavailableError: Too many rows are queued, the journal refuses more, or the model is
                paused because its last run had to be ended.
        """
        self._overruns.check(self.name)
        if self._recorder is not None:
            self._recorder.check()
        item = BatchItem(request, rows, rows.count, make_response)
        if self._cache is not None and self._cache.take(item):
            return
        if self._queue and self._queue.rows + rows.count > self._settings.queue_rows:
            raise UnavailableError(
                f"The queue of '{self.name}' is full with {self._queue.rows} rows.",
                remedy="Retry after a short pause.",
            )
        self._enqueue(item)

    def drain(self) -> None:
        """Run everything pending; called at the end of a tick."""
        self._scheduled = False
        hits, self._cached = self._cached, []
        for item, outputs in hits:
            self._deliver([item], outputs)
        if self._running is not None:
            return
        if self._buffered:
            items, self._buffered = self._buffered, []
            rows = max(2, len(items)) if self.latency.pad else len(items)
            self._run(items, self.encoder.as_inputs(self._buffer[:rows]), len(items))
        while self._queue and self._running is None:
            items = self._queue.next_batch(self._batch_rows)
            self._run(
                items, concatenate(items, self.latency.pad), sum(item.count for item in items)
            )

    def close(self) -> None:
        """Drop this version's cache entries, once another version has replaced it."""
        if self._cache is not None:
            self._cache.forget()

    def _version_cache(
        self, context: PredictorContext, *, deterministic: bool
    ) -> VersionCache | None:
        seconds = self.latency.seconds(1)
        if context.cache is None or not should_cache(
            context.settings, seconds, deterministic=deterministic
        ):
            return None
        version = (self.name, self.version, self.bundle.digest)
        return VersionCache(
            context.cache, version, seconds, context.metrics, self._deliver_cached, self._enqueue
        )

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._batch_commit.add(self)

    def _enqueue(self, item: BatchItem) -> None:
        self._queue.add(item)
        self._schedule()

    def _deliver_cached(self, item: BatchItem, outputs: Outputs) -> None:
        self._cached.append((item, outputs))
        self._schedule()

    def _run(self, items: list[BatchItem], arrays: list[Array], count: int) -> None:
        if self.latency.seconds(count) <= self._inline:
            outputs, seconds = self._timed(arrays)
            if seconds > SLOW_SECONDS:
                self._leave_event_loop(seconds)
            if not isinstance(outputs, DeadlineError):
                self._finish(items, arrays, count, outputs, seconds)
                return
            self._ended.add()
        self._running = items
        arrays = _copy_from_buffer(items, arrays)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._timeout, self._fail_overdue)
        future = loop.run_in_executor(self._executor(), self._timed, arrays)
        future.add_done_callback(
            lambda done: self._thread_done(items, arrays, count, done.result())
        )

    def _leave_event_loop(self, seconds: float) -> None:
        """Use a thread for a while, and for longer each time."""
        log.warning(
            "%s %s took %.1f s on the event loop and runs in a thread for %.0f s",
            self.name, self.version, seconds, self._inline_pause,
        )  # fmt: skip
        self._inline = -1.0
        self._inline_again = time.monotonic() + self._inline_pause
        self._inline_pause = min(2 * self._inline_pause, MAX_SLOW_PAUSE_SECONDS)

    def _executor(self) -> ThreadPoolExecutor:
        """The shared threads, or one of its own for a model that would hold on to one of them."""
        if self._own_thread is None and (self.failing or self._may_wait):
            self._own_thread = ThreadPoolExecutor(1, "model")
        return self._own_thread or self._threads

    def _thread_done(
        self, items: list[BatchItem], arrays: list[Array], count: int,
        result: tuple[Outputs | Exception, float],
    ) -> None:  # fmt: skip
        self._running = None
        self._overdue = False
        if time.monotonic() > self._inline_again:
            self._inline = self._inline_limit
        if self._timer is not None:
            self._timer.cancel()
        if isinstance(result[0], DeadlineError):
            self._overruns.exceeded()
            self._ended.add()
            self._fail_late()
        elif self._overruns.count:
            self._overruns.finished()
        self._finish(items, arrays, count, *result)
        if self._queue or self._buffered:
            self._schedule()

    def _fail_overdue(self) -> None:
        """Fail late requests now and every so often, until the run in a thread ends."""
        self._fail_late()
        pause = min(1.0, self._timeout / 4)
        self._timer = asyncio.get_running_loop().call_later(pause, self._fail_overdue)

    def _fail_late(self) -> None:
        """Fail the requests that have waited longer than the timeout for a model in a thread."""
        seconds = self._timeout
        moment = time.monotonic() - seconds
        running = [i for i in self._running or () if i.request.started < moment and not i.timed_out]
        self._overdue = self._overdue or bool(running)
        for item in (*running, *self._queue.pop_overdue(moment)):
            item.timed_out = True
            self._fail(item, _timeout_error(self.name, seconds))

    def _timed(self, arrays: list[Array]) -> tuple[Outputs | Exception, float]:
        started = time.perf_counter()
        try:
            outputs: Outputs | Exception = Outputs(*self._runtime.run(arrays))
        except Exception as error:  # a model may fail in any way, and each request needs a response
            outputs = error
        return outputs, time.perf_counter() - started

    def _finish(
        self, items: list[BatchItem], arrays: list[Array], count: int,
        outputs: Outputs | Exception, seconds: float,
    ) -> None:  # fmt: skip
        self._seconds.observe(seconds)
        self._batches.observe(count)
        if self._on_run is not None:
            self._on_run(self.name, self.version, items, count, seconds)
        if self._cache is not None:
            self._cache.observe(seconds)
        if isinstance(outputs, Outputs):
            self._deliver(items, outputs)
        elif len(items) == 1 or isinstance(outputs, UnavailableError | DeadlineError):
            for item in items:
                self._fail_on_model_error(item, outputs)
        elif self.latency.seconds(count) > self._inline:
            self._queue.requeue(items)
        else:
            self._run_separately(items, arrays)

    def _run_separately(self, items: list[BatchItem], arrays: list[Array]) -> None:
        """Run the requests of a failed run one by one, so that only those at fault fail."""
        _copy_from_buffer(items, arrays)
        for item in items:
            outputs, _ = self._timed(concatenate([item], self.latency.pad))
            if isinstance(outputs, Outputs):
                self._deliver([item], outputs)
            else:
                self._fail_on_model_error(item, outputs)

    def _fail_on_model_error(self, item: BatchItem, error: Exception) -> None:
        self._errors.add()
        if item.timed_out:
            return
        if isinstance(error, UnavailableError | DeadlineError):
            self._fail(item, error)
            return
        log.error("%s %s failed on a request", self.name, self.version, exc_info=error)
        what = f"The model '{self.name}' failed on this request."
        self._fail(item, TidemillError(what, remedy="The server's log contains the error."))

    def _fail(self, item: BatchItem, error: TidemillError) -> None:
        self._batch_commit.fail(item.request, error)

    def _deliver(self, items: list[BatchItem], outputs: Outputs) -> None:
        """Build the responses and record the predictions; both are committed at the tick's end."""
        answered = self._make_responses(items, outputs)
        if self._recorder is not None and answered:
            try:
                self._record(answered, outputs, (time.time(), time.monotonic()))
            except Exception as error:  # an unrecorded prediction must not leave
                for item in answered:
                    self._fail_on_model_error(item, error)
                return
        for item in answered:
            self._send(item)

    def _make_responses(self, items: list[BatchItem], outputs: Outputs) -> list[BatchItem]:
        """Build the responses; returns the items that have one. One failure affects no others."""
        answered = []
        stop = 0
        for item in items:
            item.start = start = stop
            stop += item.count
            try:
                if not item.timed_out:
                    self._make_response(item, outputs, start, stop)
                    answered.append(item)
            except TidemillError as error:
                self._fail(item, error)
            except Exception as error:
                self._fail_on_model_error(item, error)
        return answered

    def _make_response(self, item: BatchItem, outputs: Outputs, start: int, stop: int) -> None:
        outputs.check(start, stop)
        item.response = response = item.make_response(item.request, outputs, start, stop)
        if self._cache is not None:
            self._cache.keep(item, outputs, start, stop)
            response.headers = (
                *response.headers,
                (b"x-cache", b"HIT" if item.cache_tier else b"MISS"),
            )

    def _record(self, items: list[BatchItem], outputs: Outputs, now: tuple[float, float]) -> None:
        assert self._recorder is not None
        self._recorder.write(items, outputs, "champion", now)

    def _send(self, item: BatchItem) -> None:
        assert item.response is not None
        self._predictions.add(item.count)
        self._batch_commit.release(item.request, item.response)
        if self.traffic_split is not None:
            self.traffic_split.mirror(item.request)


def _copy_from_buffer(items: list[BatchItem], arrays: list[Array]) -> list[Array]:
    """Copy the arrays out of the buffer, so that it can be reused, and give each item its row."""
    if items[0].rows is not None:
        return arrays
    arrays = [array.copy() for array in arrays]
    for i, item in enumerate(items):
        item.rows = EncodedRows(1, [array[i : i + 1] for array in arrays])
    return arrays


def _timeout_error(name: str, seconds: float) -> DeadlineError:
    return DeadlineError(f"'{name}' did not answer within {seconds:g} s.", remedy="Retry later.")
