"""The data plane, wired: the one place that chooses and connects its parts."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tidemill.serving.http.api_keys import ApiKeys
from tidemill.serving.http.batch_commit import BatchCommit
from tidemill.serving.http.dispatcher import Dispatcher
from tidemill.serving.http.rate_limits import BucketTable, RateLimiter, parse_rate_limit
from tidemill.serving.http.routes import Router, ServingProtocol
from tidemill.serving.http.tracing import TracedDispatcher
from tidemill.serving.journal.journal import Journal
from tidemill.serving.journal.policy import JournalOptions, RecordingRule, parse_recording_rules
from tidemill.serving.model.challenger import ChallengerPredictor
from tidemill.serving.model.challengers import Challengers
from tidemill.serving.model.loading import LoadRuntime, load_predictor
from tidemill.serving.model.pool import ModelPool
from tidemill.serving.model.predictor import Predictor, PredictorContext
from tidemill.serving.model.response_cache import CacheOptions, ResponseCache
from tidemill.serving.protocols import inference, mlflow, native, openapi, status
from tidemill.serving.settings import ServingSettings
from tidemill.serving.shelf.shelf import ShelfEntry, StateWatch
from tidemill.serving.shelf.traffic_rules import traffic_watch
from tidemill.serving.telemetry.counters import SharedCounters
from tidemill.serving.telemetry.dependencies import DependencyProbes
from tidemill.serving.telemetry.metrics import Metrics
from tidemill.traces import open_traces

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

PROTOCOLS: tuple[Callable[[Service], ServingProtocol], ...] = (
    native.protocol,
    mlflow.protocol,
    inference.protocol,
)
FIRST_LOAD_SECONDS = 5.0
KEYS_SECONDS = 1.0


class Service:
    """Everything that one process of the data plane has.

    Args:
        registry: Gives what else `/metrics` shows: the control plane's registry, when it is in
            this process; None while it is not there yet.
        describe: The control plane's own OpenAPI document, shown together with the data plane's.
        load_runtime: Loads a compiled model; by default
        `tidemill.serving.model.runtime.load_runtime`.
        worker: A short name of this process, such as `w1`.
    """

    def __init__(
        self,
        settings: ServingSettings,
        *,
        registry: Callable[[], CollectorRegistry | None] | None = None,
        describe: Callable[[], dict[str, Any]] | None = None,
        load_runtime: LoadRuntime | None = None,
        worker: str = "w1",
    ) -> None:
        self.settings = settings
        self._registry = registry
        self._describe = describe
        self._shared = settings.counts_dir if settings.workers > 1 else None
        self.metrics = Metrics(SharedCounters(self._shared))
        self.keys = ApiKeys(settings.keys_file if settings.auth == "on" else None)
        self.probes = DependencyProbes(
            {"mlflow": settings.tracking_uri, "redis": settings.redis_url or settings.cache_url},
            settings.ready_requires,
        )
        self.journal = _journal(settings, worker)
        self.cache = _cache(settings)
        self._threads = ThreadPoolExecutor(settings.threads, "model")
        self._apart = ThreadPoolExecutor(1, "challenger")
        self.traces = open_traces("tidemill-serve")
        self.dispatcher = self._dispatcher(settings)
        self.batch_commit = BatchCommit(
            _call_soon,
            self.dispatcher.send,
            self.dispatcher.error_response,
            self.journal,
            self.dispatcher.handle_error,
        )
        self.models = self._models(settings, load_runtime or _load_runtime(settings))
        self.protocols = [make(self) for make in (*PROTOCOLS, status.protocol)]
        self.dispatcher.router = Router(r for p in self.protocols for r in p.routes)
        self._tasks: list[asyncio.Task[None]] = []
        self.metrics.before_scrape.append(partial(_gauges, self))

    async def start(self) -> None:
        """Begin to follow the shelf, the keys and the other parts; returns when the models that
        load within a few seconds are in service."""
        self.batch_commit.call_soon = asyncio.get_running_loop().call_soon
        if self.cache is not None:
            await self.cache.start()
        watch = StateWatch(self.settings.shelf)
        jobs = [
            self.models.watch(watch, self.settings.poll),
            self.probes.run(),
            self._refresh(),
        ]
        self._tasks = [asyncio.create_task(job) for job in jobs]
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.models.ready.wait(), FIRST_LOAD_SECONDS)

    async def stop(self) -> None:
        """End the background work; every answer has left by now."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.batch_commit.commit()
        if self.journal is not None:
            self.journal.close()
        if self.cache is not None:
            await self.cache.aclose()
        for threads in (self._threads, self._apart):
            threads.shutdown(wait=False, cancel_futures=True)
        if self.traces is not None:
            await asyncio.to_thread(self.traces.close)

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document of all that this process answers."""
        other = self._describe() if self._describe is not None else None
        return openapi.document(self.protocols, other, keys=self.settings.auth == "on")

    def scrape(self) -> bytes:
        """What Prometheus reads; may ask a database, so not on the event loop."""
        return self.metrics.scrape(self._registry() if self._registry is not None else None)

    async def _refresh(self) -> None:
        """Once a second: take up changed keys, give the journal its tick, and bring the numbers up
        to date that other processes may read."""
        while True:
            await asyncio.sleep(KEYS_SECONDS)
            self.keys.refresh()
            if self.journal is not None:
                self.journal.tick()
            if self._shared is not None:
                _gauges(self)

    def _dispatcher(self, settings: ServingSettings) -> Dispatcher:
        callers = parse_rate_limit("key", settings.rate_limit)
        strangers = parse_rate_limit("address", settings.rate_limit_address)
        table = BucketTable(self._shared)
        make = Dispatcher if self.traces is None else partial(TracedDispatcher, self.traces)
        return make(
            Router([]),
            self.keys,
            RateLimiter(callers, table),
            RateLimiter(strangers, table),
            self.metrics,
            access_log=settings.access_log == "on",
        )

    def _models(self, settings: ServingSettings, load_runtime: LoadRuntime) -> ModelPool:
        ran = self.dispatcher.ran if isinstance(self.dispatcher, TracedDispatcher) else None
        context = PredictorContext(
            settings, self.batch_commit, self.metrics, self.cache, self._threads, ran
        )
        wanted = frozenset(n.strip() for n in settings.models.split(",") if n.strip())

        def load(name: str, placed: ShelfEntry) -> Predictor:
            return load_predictor(settings.shelf, name, placed, context, load_runtime)

        return ModelPool(load, self.metrics, wanted, self._challengers(context, load_runtime))

    def _challengers(self, context: PredictorContext, load_runtime: LoadRuntime) -> Challengers:
        """Challengers keep no answers, and have a thread of their own: the champions' stay free."""
        shelf = self.settings.shelf
        apart = msgspec.structs.replace(context, cache=None, threads=self._apart)

        def load(name: str, placed: ShelfEntry) -> ChallengerPredictor:
            return load_predictor(shelf, name, placed, apart, load_runtime, ChallengerPredictor)

        return Challengers(load, traffic_watch(shelf), self.batch_commit, self.metrics)


def _call_soon(callback: Callable[[], None]) -> object:
    return asyncio.get_running_loop().call_soon(callback)


def _load_runtime(settings: ServingSettings) -> LoadRuntime:
    from tidemill.serving.model import runtime

    trusted = frozenset(t.strip() for t in settings.trusted_types.split(",") if t.strip())
    home, seconds = Path(settings.home), settings.timeout
    return partial(runtime.load_runtime, trusted=trusted, home=home, seconds=seconds)


def _journal(settings: ServingSettings, worker: str) -> Journal | None:
    if settings.journal == "off":
        return None
    rule = RecordingRule(settings.journal_sample, settings.journal_inputs == "on")
    options = JournalOptions(
        max_bytes=settings.journal_max_bytes,
        when_full=settings.journal_when_full,
        rule=rule,
        models=parse_recording_rules(settings.journal_rules, rule),
    )
    return Journal(settings.journal_folder, options, writer=worker)


def _cache(settings: ServingSettings) -> ResponseCache | None:
    if settings.cache == "off":
        return None
    return ResponseCache(CacheOptions(entries=settings.cache_entries, url=settings.cache_url))


def _gauges(service: Service) -> None:
    """Bring the numbers that are read rather than counted up to date."""
    metrics, models = service.metrics, service.models
    metrics.gauge("tidemill_models").set(len(models.predictors))
    metrics.gauge("tidemill_shelf_problems").set(len(models.problems))
    metrics.gauge("tidemill_shelf_synced_timestamp_seconds").set(models.state.synced_at)
    _disk(metrics, "shelf", service.settings.shelf)
    if service.journal is not None:
        _disk(metrics, "journal", service.settings.journal_folder)
        journal = service.journal.state()
        metrics.counter("tidemill_journal_records_total").set(journal.records)
        metrics.counter("tidemill_journal_bytes_total").set(journal.bytes)
        metrics.counter("tidemill_journal_dropped_total").set(journal.dropped)
        metrics.counter("tidemill_journal_refused_total").set(journal.refused)
        metrics.gauge("tidemill_journal_folder_bytes").set(journal.folder_bytes)
        metrics.gauge("tidemill_journal_lag_seconds").set(journal.lag_seconds)
        metrics.gauge("tidemill_journal_full").set(journal.full)
    if service.cache is not None:
        cache = service.cache.state()
        metrics.gauge("tidemill_cache_entries").set(cache.entries)
        metrics.counter("tidemill_cache_errors_total").set(cache.remote_errors)


def _disk(metrics: Metrics, name: str, folder: Path) -> None:
    """How much room there is where a folder lies; nothing where it does not exist."""
    with contextlib.suppress(OSError):
        usage = shutil.disk_usage(folder)
        metrics.gauge("tidemill_disk_free_bytes", folder=name).set(usage.free)
        metrics.gauge("tidemill_disk_size_bytes", folder=name).set(usage.total)
