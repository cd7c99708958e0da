"""The models in service: which version answers under which name, and how versions are swapped.

A new version is loaded and tested in a thread while the old one keeps answering; then a single
assignment replaces it. Requests that started with the old version finish with it. See decision 037.
Versions are loaded side by side, and none waits for another: see decision 205.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import quote

from tidemill.errors import (
    BundleError,
    ConflictError,
    DeadlineError,
    NotFoundError,
    TidemillError,
    UnavailableError,
)
from tidemill.serving.http.routes import Request
from tidemill.serving.model.challengers import Challengers
from tidemill.serving.model.predictor import Predictor
from tidemill.serving.shelf.shelf import ShelfEntry, ShelfState, StateWatch
from tidemill.serving.shelf.version_loads import VersionLoads
from tidemill.serving.telemetry.metrics import Metrics

log = logging.getLogger(__name__)
RETRY_SECONDS = 5.0
ENDLESS_SECONDS = 300.0  # before a bundle whose test did not finish is tried again
SWAP_SECONDS = 1.0  # that a poll waits for the versions it loads
READY_SECONDS = 90.0  # after which the server is ready although first versions are being loaded
LoadPredictor = Callable[[str, ShelfEntry], Predictor]


class ModelPool:
    """The predictors by model name.

    Args:
        load: Loads the predictor of a shelf entry; runs in a thread, raises TidemillError.
        names: Models to serve; empty serves everything on the shelf.
        challengers: Loads challengers; None to ignore them.

    Attributes:
        problems: Why a model's intended version is not in service, by model name; under the empty
            name, why the shelf's state cannot be read.
        ready: Set once the shelf has been read and each model is in service or cannot be, or after
            `READY_SECONDS`.
        draining: Set before shutdown: the process still answers, but should get no new clients.
    """

    def __init__(
        self,
        load: LoadPredictor,
        metrics: Metrics,
        names: frozenset[str] = frozenset(),
        challengers: Challengers | None = None,
    ) -> None:
        self._loads = VersionLoads(load)
        self._challengers = challengers
        self._names = names
        self._metrics = metrics
        self._predictors: Mapping[str, Predictor] = {}
        self._default: str | None = None
        self._state = ShelfState()
        self._failures: dict[str, _Failure] = {}  # by model name
        self._started = time.monotonic()
        self._shelf_problem = ""  # why the state cannot be read now
        self.problems: dict[str, str] = {}
        self.ready = asyncio.Event()
        self.draining = False

    @property
    def predictors(self) -> Mapping[str, Predictor]:
        """The versions in service by model name; replaced as a whole, never modified."""
        return self._predictors

    @property
    def failing(self) -> list[str]:
        """The models whose last run did not end in time."""
        return sorted(name for name, found in self._predictors.items() if found.failing)

    @property
    def is_serving(self) -> bool:
        """Whether requests are welcome: models are in service and the process is not draining."""
        return self.ready.is_set() and bool(self._predictors) and not self.draining

    @property
    def state(self) -> ShelfState:
        """The shelf's state as last read."""
        return self._state

    @property
    def default(self) -> str | None:
        """The model that answers requests without a model name; None if there is none."""
        if self._default in self._predictors:
            return self._default
        return next(iter(self._predictors)) if len(self._predictors) == 1 else None

    def find(self, name: str | None, version: str | None = None) -> Predictor:
        """The predictor of a model, or of the default model if no name is given.

        Raises:
            NotFoundError: No such model or version is in service.
            ConflictError: No name is given, and none of several models is the default.
            UnavailableError: The model should be in service but is not, or no model is.
        """
        if name is None:
            name = self._default_name()
        predictor = self._predictors.get(name)
        if predictor is None:
            raise self._not_found(name)
        if version is not None and predictor.version != version:
            raise NotFoundError(
                f"Version {version[:40]} of '{name}' is not in service.",
                field="version",
                expected=f"version {predictor.version}",
            )
        return predictor

    def pick(self, request: Request) -> Predictor:
        """The predictor that answers a prediction request: the champion or its challenger.

        Raises:
            NotFoundError, ConflictError, UnavailableError: As in `find`.
        """
        predictor = self.find(request.params.get("name"))
        split = predictor.traffic_split
        return predictor if split is None else split.pick(request) or predictor

    def install(self, predictor: Predictor) -> None:
        """Put a predictor in service, replacing its model's old version."""
        old = self._predictors.get(predictor.name)
        self._predictors = {**self._predictors, predictor.name: predictor}
        self._metrics.counter("tidemill_model_loads_total").add()
        self._close(old)
        self._mark(predictor, 1.0)
        log.info("serving %s version %s", predictor.name, predictor.version)

    def remove(self, name: str) -> None:
        """Take a model out of service."""
        old = self._predictors.get(name)
        self._predictors = {k: v for k, v in self._predictors.items() if k != name}
        self._close(old)
        log.info("no longer serving %s", name)

    async def watch(self, watch: StateWatch, seconds: float) -> None:
        """Poll the shelf's state forever, every `seconds` seconds."""
        while True:
            try:
                await self.poll(watch)
            except Exception as error:  # the loop must survive any error of a single poll
                log.exception("the shelf's state could not be applied: %s", error)
            await asyncio.sleep(seconds)

    async def poll(self, watch: StateWatch) -> None:
        """Follow the shelf's state: load what has changed, and retry what failed before.

        A state that is missing or cannot be read changes nothing.
        """
        state = await self._read(watch)
        if state is not None:
            self._state = state
        if state is not None or self.problems:
            await self._apply(self._state)
        self._report_shelf()
        if self._challengers is not None:
            await self._challengers.follow(self._state, self._predictors)

    def stop(self) -> None:
        """Give up the versions that are being loaded."""
        self._loads.stop()
        if self._challengers is not None:
            self._challengers.stop()

    async def _read(self, watch: StateWatch) -> ShelfState | None:
        problem, state = "", None
        try:
            state = await asyncio.to_thread(watch.poll)
        except (BundleError, OSError) as error:
            problem = str(error)
        if problem and problem != self._shelf_problem:
            log.error("the models in service stay: %s", problem)
        self._shelf_problem = problem
        return state

    def _report_shelf(self) -> None:
        others = {name: why for name, why in self.problems.items() if name}
        self.problems = {**others, "": self._shelf_problem} if self._shelf_problem else others

    async def _apply(self, state: ShelfState) -> None:
        targets = {n: entry for n, entry in state.models.items() if self._includes(n)}
        self._default = state.default
        problems = {n: why for n, why in state.problems.items() if self._includes(n)}
        for name in self._names - state.models.keys() - problems.keys():
            problems[name] = "It is not on the shelf."
        for name in self._predictors.keys() - targets.keys():
            self.remove(name)
        self._loads.keep(targets)
        self._failures = {n: found for n, found in self._failures.items() if n in targets}
        loading = await self._load(targets)
        self.problems = {**problems, **self._unfinished(loading)}
        if not loading or time.monotonic() > self._started + READY_SECONDS:
            self.ready.set()

    async def _load(self, targets: Mapping[str, ShelfEntry]) -> dict[str, ShelfEntry]:
        """Install the versions that can be loaded within `SWAP_SECONDS`; returns the others."""
        deadline = time.monotonic() + SWAP_SECONDS
        while True:
            loading = {n: entry for n, entry in targets.items() if not self._update(n, entry)}
            if not await self._loads.wait(deadline - time.monotonic()):
                return loading

    def _update(self, name: str, entry: ShelfEntry) -> bool:
        """Whether the version is in service or cannot be at present; else it is being loaded."""
        serving = self._predictors.get(name)
        if serving is not None and _is_loaded(serving, entry):
            self._loads.cancel(name)
            return True
        failure = self._failures.get(name)
        if failure is not None and failure.blocks(entry):
            return True
        try:
            loaded = self._loads.take(name, entry)
        except TidemillError as error:
            self._load_failed(name, entry, error)
            return True
        if loaded is None:
            return False
        self._failures.pop(name, None)
        self.install(loaded)
        return True

    def _unfinished(self, loading: Mapping[str, ShelfEntry]) -> dict[str, str]:
        """Why versions are not in service: they cannot be loaded, or are still being loaded."""
        pending = {n: f"Version {entry.version} is being loaded." for n, entry in loading.items()}
        return pending | {n: f.problem for n, f in self._failures.items()}

    def _includes(self, name: str) -> bool:
        return not self._names or name in self._names

    def _load_failed(self, name: str, entry: ShelfEntry, error: TidemillError) -> None:
        known = self._failures.get(name)
        endless = isinstance(error.__cause__, DeadlineError)
        retry_at = time.monotonic() + (ENDLESS_SECONDS if endless else RETRY_SECONDS)
        self._failures[name] = _Failure(entry.digest, str(error), retry_at)
        if known is not None and known[:2] == (entry.digest, str(error)):
            return
        self._metrics.counter("tidemill_model_refusals_total", model=name).add()
        log.error("version %s of %s cannot be loaded: %s", entry.version, name, error)

    def _close(self, old: Predictor | None) -> None:
        if old is not None:
            self._mark(old, 0.0)
            old.close()

    def _mark(self, predictor: Predictor, value: float) -> None:
        self._metrics.gauge(
            "tidemill_model_loaded", model=predictor.name, version=predictor.version
        ).set(value)

    def _default_name(self) -> str:
        name = self._default
        if name is not None and name in self._predictors:
            return name
        if len(self._predictors) == 1:
            return next(iter(self._predictors))
        if not self._predictors:
            raise self._no_model()
        urls = [f"/models/{quote(n, safe='')}/predict" for n in sorted(self._predictors)[:10]]
        raise ConflictError(
            f"{len(self._predictors)} models are in service and none is the default.",
            field="name",
            expected="a model name in the path",
            remedy=f"Use {', '.join(urls)}.",
        )

    def _not_found(self, name: str) -> TidemillError:
        unknown = not self.ready.is_set() or name in self._state.models
        if name in self.problems or (unknown and self._includes(name)):
            why = self.problems.get(name, "It is being loaded.")
            return UnavailableError(f"The model '{name[:100]}' is not in service: {why}")
        if not self._predictors:
            return self._no_model()
        names = ", ".join(f"'{n}'" for n in sorted(self._predictors)[:20])
        return NotFoundError(
            f"No model named '{name[:100]}' is in service.",
            field="name",
            expected=f"one of {names}",
        )

    def _no_model(self) -> UnavailableError:
        return UnavailableError(
            "No model is in service yet.",
            remedy="Run `tidemill train`, then `tidemill promote`.",
        )


class _Failure(NamedTuple):
    """Why a bundle could not be loaded, and when to try it again (monotonic time)."""

    digest: str
    problem: str
    retry_at: float

    def blocks(self, entry: ShelfEntry) -> bool:
        return self.digest == entry.digest and time.monotonic() < self.retry_at


def _is_loaded(predictor: Predictor, entry: ShelfEntry) -> bool:
    return predictor.version == entry.version and predictor.bundle.digest == entry.digest
