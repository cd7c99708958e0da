"""Updates a shelf from the registry.

The registry is asked for the versions that should be served. Missing bundles are downloaded,
checked against the registry's digests and installed, and the shelf's state is rewritten. If MLflow
cannot be reached or a bundle is corrupt, the shelf stays as it is and the server keeps serving. A
model that the registry no longer lists is taken off only if that is certain (`missing_models`).

See decision 047.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Literal

import msgspec

from tidemill.errors import BundleError, TidemillError, UnavailableError
from tidemill.loop.sync import missing_models
from tidemill.loop.sync.bundle_fetcher import BundleFetcher, BundleFor, no_bundle
from tidemill.loop.sync.selection import ModelSelection, parse_selection
from tidemill.serving.shelf.shelf import (
    STATE,
    ShelfEntry,
    ShelfState,
    collect_garbage,
    read_state,
    write_state,
)
from tidemill.stores.mlflow.registry import Registry
from tidemill.stores.mlflow.versions import (
    CHALLENGER,
    CHAMPION,
    ModelReference,
    ModelVersion,
    RegisteredModel,
)

logger = logging.getLogger(__name__)

FULL_CHECK_SECONDS = 10.0  # between looking up every version, whether or not its alias has moved
STAMP_SECONDS = 5.0  # between updates of `synced_at` while nothing else changes


@dataclass(frozen=True)
class SyncResult:
    """The result of one update.

    Attributes:
        changed: Whether the shelf's state has changed.
        installed, removed: Bundle folders, relative to the shelf.
    """

    state: ShelfState
    changed: bool = False
    installed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    @property
    def problems(self) -> Mapping[str, str]:
        """Why a model's intended version is not served, by model name."""
        return self.state.problems


@dataclass
class _Update:
    """The new state of the shelf, as far as it is known."""

    models: dict[str, ShelfEntry] = field(default_factory=dict)
    challengers: dict[str, ShelfEntry] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    installed: list[str] = field(default_factory=list)

    def keep(self, name: str, state: ShelfState) -> None:
        self.models[name] = state.models[name]
        if name in state.challengers:
            self.challengers[name] = state.challengers[name]


class ShelfSync:
    """Updates a shelf each time `once` is called.

    Args:
        selection: What should be served.
        keep: Number of versions of a model that stay on disk.
        bundle_for: Creates bundles for versions that have none.
    """

    def __init__(
        self,
        registry: Registry,
        shelf: Path,
        selection: ModelSelection,
        *,
        keep: int = 3,
        bundle_for: BundleFor = no_bundle,
    ) -> None:
        self.registry = registry
        self.shelf = shelf
        self.selection = selection
        self.keep = keep
        self._fetcher = BundleFetcher(registry, shelf, bundle_for)
        self._state = _last_state(shelf)
        self._registry = self._state.registry
        self._lost = self._state == ShelfState() and any(shelf.glob("*/*/manifest.json"))
        self._verified: set[str] = set()
        self._next_full_check = 0.0

    def once(self) -> SyncResult:
        """Update the shelf from the registry.

        Raises:
            UnavailableError: MLflow cannot be reached; the shelf is unchanged.
        """
        full = time.monotonic() >= self._next_full_check
        update = _Update()
        for reference, aliases in self._targets():
            if full or not self._unchanged(reference, aliases):
                self._update(reference, update)
            else:
                update.keep(reference.name, self._state)
        accepted = missing_models.is_accepted(self.shelf)
        if not accepted:
            self._keep_missing(update)
        if full or accepted:
            self._identify(update, accepted)
        if full:
            self._next_full_check = time.monotonic() + FULL_CHECK_SECONDS
        result = self._publish(update)
        if accepted:
            missing_models.forget_acceptance(self.shelf)
        return result

    def _keep_missing(self, update: _Update) -> None:
        """Keep the models that the registry no longer lists, unless their absence is a command."""
        if self._lost and not update.models:
            raise UnavailableError(
                f"{self.shelf / STATE} is lost and the registry lists no model to write it from.",
                remedy=missing_models.REMEDY,
            )
        gone = self._state.models.keys() - update.models.keys()
        if not gone or not (self.selection.every or self.selection.tags):
            return  # the selection names its models, so a name left out is the operator's choice
        problem = missing_models.doubt(self.registry, self._state, gone)
        for name in gone if problem else ():
            update.keep(name, self._state)
            update.problems[name] = str(problem)

    def _identify(self, update: _Update, accepted: bool) -> None:
        """Note which registry the models are from, once it has answered for all of them."""
        kept = self._state.models.keys() & update.problems.keys()
        if accepted or not kept:
            self._registry = self.registry.identity()

    def _targets(self) -> Iterator[tuple[ModelReference, Mapping[str, str] | None]]:
        """Each selected model once, with its aliases if they are already known."""
        seen: set[str] = set()
        listed = ((ModelReference(model.name), model.aliases) for model in self._listed())
        for reference, aliases in chain(((r, None) for r in self.selection.references), listed):
            if reference.name not in seen:
                seen.add(reference.name)
                yield reference, aliases

    def _listed(self) -> list[RegisteredModel]:
        tags = [None] if self.selection.every else self.selection.tags
        return [model for tag in tags for model in self.registry.models(tag)]

    def _unchanged(self, reference: ModelReference, aliases: Mapping[str, str] | None) -> bool:
        """Whether nothing has changed since the last update, as far as the aliases show."""
        name = reference.name
        entry, challenger = self._state.models.get(name), self._state.challengers.get(name)
        if entry is None or name in self._state.problems or entry.folder not in self._verified:
            return False
        if reference.version is not None:
            return entry.version == reference.version and challenger is None
        if aliases is None or self.selection.stage is not None:
            return False
        same = aliases.get(CHALLENGER) == (challenger.version if challenger else None)
        return same and aliases.get(CHAMPION) == entry.version

    def _update(self, reference: ModelReference, update: _Update) -> None:
        """Bring a model's versions to the shelf; if that fails, keep those that are there."""
        name = reference.name
        try:
            version = self.registry.resolve(reference, stage=self.selection.stage)
            update.models[name] = self._entry(version, update, reference.alias)
        except UnavailableError:
            raise
        except TidemillError as error:
            update.problems[name] = str(error)
            if name in self._state.models:
                update.models[name] = self._state.models[name]
        if reference.version is None and name in update.models:
            self._update_challenger(name, update)

    def _update_challenger(self, name: str, update: _Update) -> None:
        """Bring the challenger to the shelf, if there is one; a failure is only logged."""
        try:
            version = self.registry.by_alias(name, CHALLENGER)
            if version is not None and self._fetcher.may_fetch(version):
                update.challengers[name] = self._entry(version, update, CHALLENGER)
        except UnavailableError:
            raise
        except TidemillError as error:
            logger.debug("%s: the challenger cannot be fetched: %s", name, error)

    def _entry(self, version: ModelVersion, update: _Update, alias: str | None) -> ShelfEntry:
        """The version's shelf entry; its bundle is fetched if necessary.

        Raises:
            BundleError: There is no bundle, it is corrupt, or it cannot be downloaded.
        """
        alias = alias or (CHAMPION if CHAMPION in version.aliases else None)
        entry = self._verified_entry(version)
        if entry is None:
            entry = self._fetcher.fetch(version, self._state)
            self._verified.add(entry.folder)
            update.installed.append(entry.folder)
            logger.info("%s: version %s is on the shelf", version.name, version.number)
        return msgspec.structs.replace(entry, alias=alias)

    def _verified_entry(self, version: ModelVersion) -> ShelfEntry | None:
        """The version's entry in the last state, if this process has verified that bundle."""
        for entries in (self._state.models, self._state.challengers):
            entry = entries.get(version.name)
            if entry is None or entry.version != version.number:
                continue
            same = version.digest in (entry.digest, None)
            if same and entry.folder in self._verified and (self.shelf / entry.folder).is_dir():
                return entry
        return None

    def _publish(self, update: _Update) -> SyncResult:
        """Write the state if it has changed, is gone, or was stamped over `STAMP_SECONDS` ago."""
        state = ShelfState(
            default=self._default(update.models),
            models=update.models,
            challengers=update.challengers,
            problems=update.problems,
            synced_at=time.time(),
            registry=self._registry,
        )
        before = self._state
        changed = state != msgspec.structs.replace(before, synced_at=state.synced_at)
        recent = state.synced_at - before.synced_at < STAMP_SECONDS
        if not changed and recent and (self.shelf / STATE).exists():
            return SyncResult(before)
        write_state(self.shelf, state)
        self._state, self._lost = state, False
        removed: list[str] = []
        if changed:
            _log_changes(before, state)
            removed = collect_garbage(self.shelf, state, keep=self.keep)
            self._verified.difference_update(removed)
        return SyncResult(state, changed, tuple(update.installed), tuple(removed))

    def _default(self, models: Mapping[str, ShelfEntry]) -> str | None:
        """The configured default; else the present one, so that a new model does not replace it."""
        if self.selection.default is not None or not models:
            return self.selection.default
        if self._state.default in models:
            return self._state.default
        return next(iter(models))


def sync_once(registry: Registry, shelf: Path, words: Sequence[str] | Literal["all"]) -> SyncResult:
    """Update a shelf once; see `parse_selection` for the words.

    Raises:
        NotFoundError: A word is not a valid model reference.
        UnavailableError: MLflow cannot be reached; the shelf is unchanged.
    """
    return ShelfSync(registry, shelf, parse_selection([] if words == "all" else words)).once()


def _last_state(shelf: Path) -> ShelfState:
    try:
        return read_state(shelf)
    except BundleError as error:
        logger.warning("the shelf's state is created again: %s", error)
        return ShelfState()


def _log_changes(before: ShelfState, state: ShelfState) -> None:
    for name, problem in state.problems.items():
        if before.problems.get(name) != problem:
            logger.warning("%s: %s", name, problem)
    for name, entry in state.models.items():
        old = before.models.get(name)
        if old is None or old.version != entry.version:
            logger.info("%s: version %s is to be served", name, entry.version)
