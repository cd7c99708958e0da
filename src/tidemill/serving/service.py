"""The data plane, wired: the one place that chooses and connects its parts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tidemill.bundle import Bundle
from tidemill.serving.http.api_keys import ApiKeys
from tidemill.serving.http.batch_commit import BatchCommit
from tidemill.serving.http.dispatcher import Dispatcher
from tidemill.serving.http.rate_limits import BucketTable, RateLimiter, parse_rate_limit
from tidemill.serving.http.responder import Responder
from tidemill.serving.http.routes import Router
from tidemill.serving.journal.journal import Journal
from tidemill.serving.journal.policy import JournalOptions, RecordingRule, parse_recording_rules
from tidemill.serving.model.cache_options import CacheOptions
from tidemill.serving.model.challenger import ChallengerPredictor
from tidemill.serving.model.challengers import Challengers
from tidemill.serving.model.context import PredictorContext
from tidemill.serving.model.loading import LoadRuntime, load_predictor
from tidemill.serving.model.parsing_threads import ParsingThreads
from tidemill.serving.model.pool import ModelPool
from tidemill.serving.model.predictor import Predictor
from tidemill.serving.model.response_cache import ResponseCache
from tidemill.serving.model.run_limits import RUNNING
from tidemill.serving.model.runtime import Runtime, load_runtime
from tidemill.serving.protocols import inference, mlflow, native, openapi, status
from tidemill.serving.sandbox.sandbox import Sandbox, SandboxLimits
from tidemill.serving.settings import ServingSettings
from tidemill.serving.shelf.shelf import ShelfEntry, StateWatch
from tidemill.serving.shelf.traffic_rules import traffic_watch
from tidemill.serving.state_gauges import StateGauges
from tidemill.serving.telemetry.counters import SharedCounters
from tidemill.serving.telemetry.dependencies import DependencyProbes
from tidemill.serving.telemetry.metrics import Metrics
from tidemill.serving.tracing import RunTracer, TracedDispatcher
from tidemill.traces import open_traces

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

FIRST_LOAD_SECONDS = 5.0
KEYS_SECONDS = 1.0


class Service:
    """The parts of one data-plane process, built in order.

    Args:
        registry: Returns the control plane's metrics, shown at `/metrics` too, if it runs in this
            process; None while it is still starting.
        describe: Returns the control plane's OpenAPI document, merged into the data plane's.
        load_runtime: Loads a compiled model; by default `runtime_loader`'s, after a test in a
            process of its own.
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
        self.traces = open_traces("tidemill-serve")
        self._threads = ThreadPoolExecutor(settings.threads, "model")
        self._parsing = ParsingThreads()
        self._challenger_thread = ThreadPoolExecutor(1, "challenger")
        responder = Responder(self.metrics, access_log=settings.access_log == "on")
        self.batch_commit = BatchCommit(responder, self.journal)
        self.models = self._models(settings, load_runtime or _tested_runtime_loader(settings))
        self.protocols = [
            native.protocol(self.models),
            mlflow.protocol(self.models),
            inference.protocol(self.models),
            status.protocol(
                self.models, self.batch_commit, self.probes, self.scrape, self.openapi, self.keys
            ),
        ]
        self.dispatcher = self._dispatcher(settings, responder)
        self._gauges = StateGauges(
            self.metrics, settings, self.models, self.journal, self.cache, self.keys
        )
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start following the shelf, the keys and the dependencies. Returns when the models that
        load within a few seconds are in service."""
        self.batch_commit.start()
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
        """Stop the background work; every response has been sent by now."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.models.stop()
        self.batch_commit.commit()
        RUNNING.end_all()
        if self.journal is not None:
            self.journal.close()
        if self.cache is not None:
            await self.cache.aclose()
        for threads in (self._threads, self._challenger_thread):
            threads.shutdown(wait=False, cancel_futures=True)
        self._parsing.close()
        if self.traces is not None:
            await asyncio.to_thread(self.traces.close)
        self.metrics.counts.close()

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document of everything that this process answers."""
        other = self._describe() if self._describe is not None else None
        return openapi.document(self.protocols, other, keys=self.settings.auth == "on")

    def scrape(self) -> bytes:
        """The text for Prometheus. May query a database, so it must not run on the event loop."""
        self._gauges.update()
        return self.metrics.scrape(self._registry() if self._registry is not None else None)

    async def _refresh(self) -> None:
        """Every second: reload changed keys, let the journal do its periodic work, and update the
        gauges that other processes read."""
        while True:
            await asyncio.sleep(KEYS_SECONDS)
            self.keys.refresh()
            if self.journal is not None:
                self.journal.tick()
            if self._shared is not None:
                self._gauges.update()

    def _dispatcher(self, settings: ServingSettings, responder: Responder) -> Dispatcher:
        callers = parse_rate_limit("key", settings.rate_limit)
        anonymous = parse_rate_limit("address", settings.rate_limit_address)
        table = BucketTable(self._shared)
        make = Dispatcher if self.traces is None else partial(TracedDispatcher, self.traces)
        return make(
            Router(route for protocol in self.protocols for route in protocol.routes),
            self.keys,
            RateLimiter(callers, table),
            RateLimiter(anonymous, table),
            responder,
            self.metrics,
        )

    def _models(self, settings: ServingSettings, load_runtime: LoadRuntime) -> ModelPool:
        on_run = RunTracer(self.traces) if self.traces is not None else None
        context = PredictorContext(
            settings,
            self.batch_commit,
            self.metrics,
            self.cache,
            self._threads,
            self._parsing,
            on_run,
        )
        names = frozenset(n.strip() for n in settings.models.split(",") if n.strip())

        def load(name: str, placed: ShelfEntry) -> Predictor:
            return load_predictor(settings.shelf, name, placed, context, load_runtime)

        return ModelPool(load, self.metrics, names, self._challengers(context, load_runtime))

    def _challengers(self, context: PredictorContext, load_runtime: LoadRuntime) -> Challengers:
        """Challengers cache nothing and have one thread of their own, so champions keep theirs."""
        shelf = self.settings.shelf
        context = msgspec.structs.replace(context, cache=None, threads=self._challenger_thread)

        def load(name: str, placed: ShelfEntry) -> ChallengerPredictor:
            return load_predictor(shelf, name, placed, context, load_runtime, ChallengerPredictor)

        return Challengers(load, traffic_watch(shelf), self.batch_commit, self.metrics)


def runtime_loader(settings: ServingSettings) -> LoadRuntime:
    """Loads compiled models in this process, as the settings say."""
    home, seconds = Path(settings.home), settings.timeout
    return partial(load_runtime, trusted=_trusted(settings), home=home, seconds=seconds)


def _tested_runtime_loader(settings: ServingSettings) -> LoadRuntime:
    """Loads what a process with limits has loaded and run before."""
    load = runtime_loader(settings)
    sandbox = Sandbox(
        Path(settings.home) / "tested", _trusted(settings), SandboxLimits(run=settings.timeout)
    )

    def load_tested(bundle: Bundle) -> Runtime:
        sandbox.test(bundle)
        return load(bundle)

    return load_tested


def _trusted(settings: ServingSettings) -> list[str]:
    return sorted({t.strip() for t in settings.trusted_types.split(",") if t.strip()})


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
