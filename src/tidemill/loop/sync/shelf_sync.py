"""Keeps the shelf what the registry says: a process of its own, beside the server.

    python -m tidemill.loop.sync [MODEL ...]     names, models:/name/3, models:/name@alias,
                                                 tag:KEY=VALUE, all; nothing means all

It asks MLflow a few times a second which versions are wanted, downloads bundles that are not there,
checks them against the registry's digests, places them, and rewrites the shelf's state. When MLflow
cannot be reached, or a bundle is damaged, the shelf stays as it is and the server goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import Literal

import msgspec

from tidemill import logs
from tidemill.errors import BundleError, TidemillError, UnavailableError
from tidemill.loop.sync.bundle_sources import BundleFor, converting, find_converted, no_bundle
from tidemill.loop.sync.selection import ModelSelection, parse_selection
from tidemill.serving.shelf.shelf import (
    ShelfEntry,
    ShelfState,
    collect_garbage,
    folder_name,
    install_bundle,
    open_bundle,
    read_state,
    write_state,
)
from tidemill.settings import Settings
from tidemill.stores.mlflow.connection import set_http_timeouts, silence_mlflow_output
from tidemill.stores.mlflow.registry import Registry
from tidemill.stores.mlflow.versions import (
    CHALLENGER,
    CHAMPION,
    ModelReference,
    ModelVersion,
    RegisteredModel,
)

logger = logging.getLogger(__name__)

INTERVAL = 0.4
THOROUGH_SECONDS = 10.0  # how often every version is asked for, whether or not its alias moved
STAMP_SECONDS = 5.0  # how often the state says that the registry was reached, without a change
RETRY_SECONDS = (1.0, 2.0, 5.0, 15.0, 60.0)  # between tries at a bundle that was refused


@dataclass(frozen=True)
class SyncResult:
    """What one look at the registry came to; `changed` says whether the state was rewritten."""

    state: ShelfState
    changed: bool = False
    placed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    @property
    def problems(self) -> Mapping[str, str]:
        """Why a model's wanted version is not served, by model."""
        return self.state.problems


@dataclass
class _Look:
    """What one look at the registry has come to so far."""

    models: dict[str, ShelfEntry] = field(default_factory=dict)
    challengers: dict[str, ShelfEntry] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    placed: list[str] = field(default_factory=list)

    def carry_over(self, name: str, state: ShelfState) -> None:
        self.models[name] = state.models[name]
        if name in state.challengers:
            self.challengers[name] = state.challengers[name]


@dataclass
class _Failure:
    """A version whose bundle was refused: why, and when to try again."""

    problem: str
    tries: int
    again: float


class ShelfSync:
    """Brings a shelf up to date, as often as `once` is called.

    Args:
        wanted: What should be served.
        default: The model that answers requests that name none; None takes the first there was.
        stage: The stage or alias that plain names mean, as `MODEL_STAGE` says; None for champion.
        challengers: Whether to bring each model's challenger to the shelf too.
        keep: How many versions of a model stay on the disk.
        max_bytes: How much disk the shelf may take, beyond what is served.
        bundle_for: Makes bundles for versions that have none.
    """

    def __init__(
        self,
        registry: Registry,
        shelf: Path,
        wanted: ModelSelection,
        *,
        default: str | None = None,
        stage: str | None = None,
        challengers: bool = True,
        keep: int = 3,
        max_bytes: int = 10 << 30,
        bundle_for: BundleFor = no_bundle,
    ) -> None:
        self.registry = registry
        self.shelf = shelf
        self.wanted = wanted
        self.default = default
        self.stage = stage
        self.challengers = challengers
        self.keep = keep
        self.max_bytes = max_bytes
        self.bundle_for = bundle_for
        self._state = _last_state(shelf)
        self._verified: set[str] = set()
        self._failures: dict[tuple[str, str, str | None], _Failure] = {}
        self._next_thorough = 0.0

    def once(self) -> SyncResult:
        """One look at the registry, and what follows from it.

        Raises:
            UnavailableError: MLflow cannot be reached; the shelf is as it was.
        """
        thorough = time.monotonic() >= self._next_thorough
        look = _Look()
        for reference, aliases in self._targets():
            if thorough or not self._unchanged(reference, aliases):
                self._bring(reference, look)
            else:
                look.carry_over(reference.name, self._state)
        if thorough:
            self._next_thorough = time.monotonic() + THOROUGH_SECONDS
        return self._publish(look)

    def _targets(self) -> Iterator[tuple[ModelReference, Mapping[str, str] | None]]:
        """Each model that is wanted, once; with its aliases where they are known already."""
        seen: set[str] = set()
        listed = ((ModelReference(model.name), model.aliases) for model in self._listed())
        for reference, aliases in chain(((r, None) for r in self.wanted.references), listed):
            if reference.name not in seen:
                seen.add(reference.name)
                yield reference, aliases

    def _listed(self) -> list[RegisteredModel]:
        tags = [None] if self.wanted.every else self.wanted.tags
        return [model for tag in tags for model in self.registry.models(tag)]

    def _unchanged(self, reference: ModelReference, aliases: Mapping[str, str] | None) -> bool:
        """Whether nothing can have changed since the last look, without asking MLflow again."""
        name = reference.name
        entry, challenger = self._state.models.get(name), self._state.challengers.get(name)
        if entry is None or name in self._state.problems or entry.folder not in self._verified:
            return False
        if reference.version is not None:
            return entry.version == reference.version and challenger is None
        if aliases is None or self.stage is not None:
            return False
        awaited = aliases.get(CHALLENGER) if self.challengers else None
        same = awaited == (challenger.version if challenger else None)
        return same and aliases.get(CHAMPION) == entry.version

    def _bring(self, reference: ModelReference, look: _Look) -> None:
        """One model's versions to the shelf; where that fails, what is there goes on."""
        name = reference.name
        try:
            version = self.registry.resolve(reference, stage=self.stage)
            look.models[name] = self._placed(version, look, reference.alias)
        except UnavailableError:
            raise
        except TidemillError as error:
            look.problems[name] = str(error)
            if name in self._state.models:
                look.models[name] = self._state.models[name]
        if self.challengers and reference.version is None and name in look.models:
            self._bring_challenger(name, look)

    def _bring_challenger(self, name: str, look: _Look) -> None:
        """The version that stands by, if there is one; its problems are no problem of the model."""
        try:
            version = self.registry.by_alias(name, CHALLENGER)
            if version is not None and self._has_bundle(version):
                look.challengers[name] = self._placed(version, look, CHALLENGER)
        except UnavailableError:
            raise
        except TidemillError as error:
            logger.debug("%s: the challenger stays away: %s", name, error)

    def _placed(self, version: ModelVersion, look: _Look, alias: str | None) -> ShelfEntry:
        """The version's place on the shelf, after it was brought there where need be.

        Raises:
            NotFoundError, BundleError: There is no bundle, or it is not intact, or out of reach.
        """
        alias = alias or (CHAMPION if CHAMPION in version.aliases else None)
        placed = self._known(version)
        if placed is None:
            placed = self._fetch_patiently(version)
            self._verified.add(placed.folder)
            look.placed.append(placed.folder)
            logger.info("%s: version %s is on the shelf", version.name, version.number)
        return msgspec.structs.replace(placed, alias=alias)

    def _known(self, version: ModelVersion) -> ShelfEntry | None:
        """The version's entry in the last state, if this process checked that very bundle."""
        for entries in (self._state.models, self._state.challengers):
            entry = entries.get(version.name)
            if entry is None or entry.version != version.number:
                continue
            same = version.digest in (entry.digest, None)
            if same and entry.folder in self._verified and (self.shelf / entry.folder).is_dir():
                return entry
        return None

    def _fetch_patiently(self, version: ModelVersion) -> ShelfEntry:
        """Fetch, but leave a bundle that was refused alone for a while."""
        key = (version.name, version.number, version.digest)
        failure = self._failures.get(key)
        if failure is not None and time.monotonic() < failure.again:
            raise BundleError(failure.problem)
        try:
            placed = self._fetch(version)
        except TidemillError as error:
            tries = failure.tries + 1 if failure else 0
            pause = RETRY_SECONDS[min(tries, len(RETRY_SECONDS) - 1)]
            self._failures[key] = _Failure(str(error), tries, time.monotonic() + pause)
            raise BundleError(str(error)) from error
        self._failures.pop(key, None)
        return placed

    def _fetch(self, version: ModelVersion) -> ShelfEntry:
        """What is on the shelf and whole, else a download, checked and placed."""
        if version.digest is not None:
            folder = folder_name(version.name, version.number, version.digest)
            known = ShelfEntry(version.number, folder, version.digest)
            with contextlib.suppress(BundleError):
                open_bundle(self.shelf, known)
                return known
        elif (made := find_converted(self.shelf, self._state, version)) is not None:
            return made
        with tempfile.TemporaryDirectory(prefix="tidemill-sync-") as scratch:
            get = self.bundle_for if version.digest is None else self.registry.fetch_bundle
            held = get(version, Path(scratch))
            return install_bundle(self.shelf, version.name, version.number, held.path, held.digest)

    def _has_bundle(self, version: ModelVersion) -> bool:
        """Whether there is one, or may be."""
        return version.digest is not None or self.bundle_for is not no_bundle

    def _publish(self, look: _Look) -> SyncResult:
        """Write the state where it changed, or where it has not been stamped for a while."""
        state = ShelfState(
            default=self._default(look.models),
            models=look.models,
            challengers=look.challengers,
            problems=look.problems,
            synced_at=time.time(),
        )
        before = self._state
        changed = state != msgspec.structs.replace(before, synced_at=state.synced_at)
        if not changed and state.synced_at - before.synced_at < STAMP_SECONDS:
            return SyncResult(before)
        write_state(self.shelf, state)
        self._state = state
        removed: list[str] = []
        if changed:
            _tell(before, state)
            removed = collect_garbage(self.shelf, state, keep=self.keep, max_bytes=self.max_bytes)
            self._verified.difference_update(removed)
        return SyncResult(state, changed, tuple(look.placed), tuple(removed))

    def _default(self, models: Mapping[str, ShelfEntry]) -> str | None:
        """The one that was set; else the one it was, so that a new model does not take it over."""
        if self.default is not None or not models:
            return self.default
        if self._state.default in models:
            return self._state.default
        return next(iter(models))


def sync_once(
    registry: Registry, shelf: Path, wanted: Sequence[str] | Literal["all"]
) -> SyncResult:
    """Bring a shelf up to date once; see `parse_selection` for the words.

    Raises:
        UnavailableError: MLflow cannot be reached; the shelf is as it was.
    """
    return ShelfSync(registry, shelf, parse_selection([] if wanted == "all" else wanted)).once()


def sync_forever(
    sync: ShelfSync,
    stop: threading.Event,
    *,
    interval: float = INTERVAL,
    tell: Callable[[], None] = lambda: None,
) -> None:
    """Bring the shelf up to date again and again until `stop` is set.

    Whatever goes wrong is told once, and tried again. `tell` is called before each look.
    """
    trouble: str | None = None
    while not stop.is_set():
        started = time.monotonic()
        try:
            tell()
            sync.once()
            if trouble is not None:
                logger.info("the registry can be reached again")
            trouble = None
        except UnavailableError as error:
            if trouble is None:
                logger.warning("the shelf stays as it is: %s", error)
            trouble = str(error)
        except Exception as error:
            if trouble != str(error):
                logger.exception("the shelf could not be brought up to date")
            trouble = str(error)
        stop.wait(max(0.05, interval - (time.monotonic() - started)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Follow the registry until SIGTERM or SIGINT; what the settings say holds.

    Raises:
        NotFoundError: A word names no model.
    """
    parser = argparse.ArgumentParser(prog="python -m tidemill.loop.sync")
    parser.add_argument("models", nargs="*", help="what to serve; nothing means all models")
    parser.add_argument("--interval", type=float, default=INTERVAL, help="seconds between looks")
    parser.add_argument(
        "--trust", action="store_true", help="unpickle and run what is in the registry"
    )
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, _end)
    settings = Settings()
    logs.configure(
        "sync", level=settings.log_level, style=settings.log_format, folder=settings.log_folder
    )
    set_http_timeouts()
    silence_mlflow_output()
    registry = Registry(settings.mlflow_uri, settings.registry_uri)
    sync = ShelfSync(
        registry,
        settings.shelf,
        parse_selection(given.models),
        default=settings.model_name,
        stage=settings.model_stage,
        bundle_for=converting(registry, trust=given.trust or settings.trust_models),
    )
    settings.home.mkdir(parents=True, exist_ok=True)
    alive = settings.home / "sync.alive"  # for health checks
    sync_forever(sync, threading.Event(), interval=given.interval, tell=alive.touch)


def _end(number: int, frame: FrameType | None) -> None:
    """End at once, whatever call is waiting: every step leaves the shelf whole."""
    raise SystemExit(0)


def _last_state(shelf: Path) -> ShelfState:
    try:
        return read_state(shelf)
    except BundleError as error:
        logger.warning("the shelf's state is made anew: %s", error)
        return ShelfState()


def _tell(before: ShelfState, state: ShelfState) -> None:
    for name, problem in state.problems.items():
        if before.problems.get(name) != problem:
            logger.warning("%s: %s", name, problem)
    for name, entry in state.models.items():
        old = before.models.get(name)
        if old is None or old.version != entry.version:
            logger.info("%s: version %s is to be served", name, entry.version)
