"""The models in service: which name is answered by which version, and how that changes.

A version is loaded and tried out in a thread while the old one answers; then one assignment puts it
in its place. Requests that began with the old one end with it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from urllib.parse import quote

from tidemill.errors import ConflictError, NotFoundError, TidemillError, UnavailableError
from tidemill.serving.http.routes import Request
from tidemill.serving.model.challengers import Challengers
from tidemill.serving.model.predictor import Predictor
from tidemill.serving.shelf.shelf import ShelfEntry, ShelfState, StateWatch
from tidemill.serving.telemetry.metrics import Metrics

log = logging.getLogger(__name__)
RETRY_SECONDS = 5.0
Load = Callable[[str, ShelfEntry], Predictor]


class ModelPool:
    """The predictors by name.

    Args:
        load: Makes a predictor of a placed bundle; runs in a thread, raises TidemillError.
        wanted: Names to serve; empty serves all of the shelf.
        challengers: Sets challengers beside the champions; None for none.

    `problems` tells by model name why its wanted version is not in service. `ready` is set when the
    shelf was read once and everything in it is in service or has a problem. `leaving` is set when
    this process is to end soon: it answers still, but nobody should begin to ask it.
    """

    def __init__(
        self,
        load: Load,
        metrics: Metrics,
        wanted: frozenset[str] = frozenset(),
        challengers: Challengers | None = None,
    ) -> None:
        self._load = load
        self._challengers = challengers
        self._wanted = wanted
        self._metrics = metrics
        self._predictors: Mapping[str, Predictor] = {}
        self._default: str | None = None
        self._state = ShelfState()
        self._retry_at = 0.0
        self.problems: dict[str, str] = {}
        self.ready = asyncio.Event()
        self.draining = False

    @property
    def predictors(self) -> Mapping[str, Predictor]:
        """The versions in service by model name; replaced as a whole, never changed."""
        return self._predictors

    @property
    def serves(self) -> bool:
        """Whether there is a model to ask, and will be."""
        return self.ready.is_set() and bool(self._predictors) and not self.draining

    @property
    def state(self) -> ShelfState:
        """The shelf's state as last read."""
        return self._state

    @property
    def default(self) -> str | None:
        """The model that answers where none is named."""
        if self._default in self._predictors:
            return self._default
        return next(iter(self._predictors)) if len(self._predictors) == 1 else None

    def find(self, name: str | None, version: str | None = None) -> Predictor:
        """The predictor of a model; the default one when no name is given.

        Raises:
            NotFoundError: No such model or version is in service.
            ConflictError: No name is given and there are several models.
            UnavailableError: The model is wanted but not in service yet, or nothing is.
        """
        if name is None:
            name = self._default_name()
        predictor = self._predictors.get(name)
        if predictor is None:
            raise self._missing(name)
        if version is not None and predictor.version != version:
            raise NotFoundError(
                f"Version {version[:40]} of '{name}' is not in service; version"
                f" {predictor.version} is.",
                field="version",
            )
        return predictor

    def pick(self, request: Request) -> Predictor:
        """The predictor that answers a request for rows: the champion, or a challenger in its
        place.

        Raises:
            NotFoundError, ConflictError, UnavailableError: As of `find`.
        """
        predictor = self.find(request.params.get("name"))
        companion = predictor.traffic_split
        return predictor if companion is None else companion.pick(request) or predictor

    def install(self, predictor: Predictor) -> None:
        """Put a predictor in service, in place of its model's old version."""
        old = self._predictors.get(predictor.name)
        self._predictors = {**self._predictors, predictor.name: predictor}
        self._metrics.counter("tidemill_model_loads_total").add()
        self._retired(old)
        self._mark(predictor, 1.0)
        log.info("serving %s version %s", predictor.name, predictor.version)

    def remove(self, name: str) -> None:
        """Take a model out of service."""
        old = self._predictors.get(name)
        self._predictors = {k: v for k, v in self._predictors.items() if k != name}
        self._retired(old)
        log.info("no longer serving %s", name)

    async def watch(self, watch: StateWatch, seconds: float) -> None:
        """Follow the shelf's state for ever, looking every `seconds`."""
        while True:
            try:
                await self.poll(watch)
            except Exception as error:  # the watch must outlive whatever one look meets
                log.error("the shelf cannot be followed: %s", error)
                self.problems = {**self.problems, "": str(error)}
            await asyncio.sleep(seconds)

    async def poll(self, watch: StateWatch) -> None:
        """Take up the state if it changed, and try again what failed before."""
        state = await asyncio.to_thread(watch.poll)
        if state is not None:
            self._state = state
        if state is not None or (self.problems and time.monotonic() >= self._retry_at):
            await self._apply(self._state)
            self._retry_at = time.monotonic() + RETRY_SECONDS
        if self._challengers is not None:
            await self._challengers.follow(self._state, self._predictors)

    async def _apply(self, state: ShelfState) -> None:
        targets = {n: p for n, p in state.models.items() if not self._wanted or n in self._wanted}
        self._default = state.default
        problems = {n: why for n, why in state.problems.items() if self._serves(n)}
        for name in self._wanted - state.models.keys() - problems.keys():
            problems[name] = "It is not on the shelf."
        for name, placed in targets.items():
            try:
                await self._bring(name, placed)
            except TidemillError as error:
                problems[name] = str(error)
                self._refused(name, placed, error)
        for name in self._predictors.keys() - targets.keys():
            self.remove(name)
        self.problems = problems
        self.ready.set()

    async def _bring(self, name: str, placed: ShelfEntry) -> None:
        serving = self._predictors.get(name)
        if serving is not None and _is(serving, placed):
            return
        self.install(await asyncio.to_thread(self._load, name, placed))

    def _serves(self, name: str) -> bool:
        return not self._wanted or name in self._wanted

    def _refused(self, name: str, placed: ShelfEntry, error: TidemillError) -> None:
        if self.problems.get(name) == str(error):
            return
        self._metrics.counter("tidemill_model_refusals_total", model=name).add()
        log.error("version %s of %s is refused: %s", placed.version, name, error)

    def _retired(self, old: Predictor | None) -> None:
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
            raise self._nothing()
        urls = [f"/models/{quote(n, safe='')}/predict" for n in sorted(self._predictors)[:10]]
        raise ConflictError(
            f"{len(self._predictors)} models are in service and none is the default.",
            field="name",
            expected="a model in the path",
            remedy=f"Ask {', '.join(urls)}.",
        )

    def _missing(self, name: str) -> TidemillError:
        if name in self.problems or (not self.ready.is_set() and self._serves(name)):
            why = self.problems.get(name, "It is being loaded.")
            return UnavailableError(f"The model '{name[:100]}' is not in service: {why}")
        if not self._predictors:
            return self._nothing()
        names = ", ".join(f"'{n}'" for n in sorted(self._predictors)[:20])
        return NotFoundError(
            f"There is no model '{name[:100]}' here.", field="name", expected=f"one of {names}"
        )

    def _nothing(self) -> UnavailableError:
        return UnavailableError(
            "No model is in service yet.",
            remedy="Train and promote one: `tidemill train`, then `tidemill promote`.",
        )


def _is(predictor: Predictor, placed: ShelfEntry) -> bool:
    return predictor.version == placed.version and predictor.bundle.digest == placed.digest
