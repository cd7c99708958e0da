"""Brings a version's bundle to the shelf: from the shelf itself, from MLflow, or by conversion."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tidemill.bundle import Bundle
from tidemill.errors import BundleError, NotFoundError, TidemillError
from tidemill.serving.shelf.shelf import (
    ShelfEntry,
    ShelfState,
    folder_name,
    install_bundle,
    open_bundle,
)
from tidemill.stores.mlflow.registry import Registry
from tidemill.stores.mlflow.versions import ModelVersion

logger = logging.getLogger(__name__)

RETRY_SECONDS = (1.0, 2.0, 5.0, 15.0, 60.0)  # before the next attempt at a bundle that failed
REGISTERED = "registered"  # in a converted bundle's source: the version that it was made from

#: Creates a bundle, in a given folder, for a version that was registered without one.
BundleFor = Callable[[ModelVersion, Path], Bundle]


def no_bundle(version: ModelVersion, into: Path) -> Bundle:
    """Refuse a version without a bundle; the default where nothing can convert it.

    Raises:
        NotFoundError: Always.
    """
    raise NotFoundError(
        f"Version {version.number} of '{version.name}' was registered without a bundle.",
        remedy="Train it with `tidemill train`, or promote a version that has one.",
    )


@dataclass
class _Failure:
    """A version whose bundle failed: why, how often, and when to retry (monotonic time)."""

    problem: str
    retries: int
    retry_at: float


class BundleFetcher:
    """Fetches bundles, and retries a failed one with growing pauses.

    Args:
        bundle_for: Creates bundles for versions that have none.
    """

    def __init__(self, registry: Registry, shelf: Path, bundle_for: BundleFor) -> None:
        self._registry = registry
        self._shelf = shelf
        self._bundle_for = bundle_for
        self._failures: dict[tuple[str, str, str | None], _Failure] = {}

    def may_fetch(self, version: ModelVersion) -> bool:
        """Whether the version has a bundle, or can be converted."""
        return version.digest is not None or self._bundle_for is not no_bundle

    def fetch(self, version: ModelVersion, state: ShelfState) -> ShelfEntry:
        """Bring the version's bundle to the shelf; a failed one is not retried for a while.

        Args:
            state: The current state of the shelf, whose bundles are reused.

        Raises:
            BundleError: There is no bundle, it is corrupt, or it cannot be downloaded.
        """
        key = (version.name, version.number, version.digest)
        failure = self._failures.get(key)
        if failure is not None and time.monotonic() < failure.retry_at:
            raise BundleError(failure.problem)
        try:
            entry = self._fetch(version, state)
        except Exception as error:  # a foreign model may fail in any way; others are not affected
            problem = _explain(version, error)
            retries = failure.retries + 1 if failure else 0
            pause = RETRY_SECONDS[min(retries, len(RETRY_SECONDS) - 1)]
            self._failures[key] = _Failure(problem, retries, time.monotonic() + pause)
            raise BundleError(problem) from error
        self._failures.pop(key, None)
        return entry

    def _fetch(self, version: ModelVersion, state: ShelfState) -> ShelfEntry:
        found = self._find(version, state)
        if found is not None:
            return found
        with tempfile.TemporaryDirectory(prefix="tidemill-sync-") as scratch:
            get = self._bundle_for if version.digest is None else self._registry.fetch_bundle
            bundle = get(version, Path(scratch))
            return install_bundle(
                self._shelf, version.name, version.number, bundle.path, bundle.digest
            )

    def _find(self, version: ModelVersion, state: ShelfState) -> ShelfEntry | None:
        """The version's bundle on the shelf, if it is there and intact."""
        if version.digest is None:
            return self._find_converted(version, state)
        folder = folder_name(version.name, version.number, version.digest)
        entry = ShelfEntry(version.number, folder, version.digest)
        with contextlib.suppress(BundleError):
            open_bundle(self._shelf, entry)
            return entry
        return None

    def _find_converted(self, version: ModelVersion, state: ShelfState) -> ShelfEntry | None:
        for entries in (state.models, state.challengers):
            entry = entries.get(version.name)
            if entry is None or entry.version != version.number:
                continue
            with contextlib.suppress(BundleError):
                bundle = open_bundle(self._shelf, entry)
                if bundle.manifest.source.get(REGISTERED) == registration(version):
                    return entry
        return None


def _explain(version: ModelVersion, error: Exception) -> str:
    if isinstance(error, TidemillError):
        return str(error)
    logger.error("version %s of %s failed", version.number, version.name, exc_info=error)
    reason = f"{type(error).__name__}: {error}"
    return f"Version {version.number} of '{version.name}' cannot be fetched: {reason}"


def registration(version: ModelVersion) -> str:
    """Tells a version from one with the same number in a registry that was created again."""
    return f"{version.source} at {version.created:.3f}"
