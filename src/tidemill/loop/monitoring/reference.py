"""The champion's version, signature and profile, which live rows are compared with.

A machine that serves has the bundle on its shelf; elsewhere it is fetched from the registry once.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidemill import bundle
from tidemill.errors import BundleError, NotFoundError
from tidemill.serving.shelf.shelf import ShelfEntry, read_state
from tidemill.signature import Signature
from tidemill.steps.decay.holdout import Holdout, read_holdout
from tidemill.stores.mlflow.registry import Registry
from tidemill.stores.mlflow.versions import CHAMPION

#: Champions whose profiles, of up to a megabyte each, are cached.
CACHED = 32


@dataclass(frozen=True)
class ChampionReference:
    """A champion, to compare its live rows with."""

    model: str
    version: str
    digest: str
    signature: Signature
    profile: dict[str, Any]

    @property
    def holdout(self) -> Holdout | None:
        return read_holdout(self.profile)


class ChampionReferences:
    """Finds champions, and caches what was read from their bundles.

    Args:
        registry: Returns the registry, for models that are not on the shelf.
    """

    def __init__(self, shelf: Path, registry: Callable[[], Registry]) -> None:
        self._shelf = shelf
        self._registry = registry
        self._cache: dict[tuple[str, str, str], ChampionReference] = {}

    def of(self, model: str) -> ChampionReference:
        """Return the model's champion.

        Raises:
            NotFoundError: There is no such model, or it has no champion with a bundle.
            BundleError: Its bundle is damaged.
            UnavailableError: It is not on the shelf, and MLflow cannot be reached.
        """
        placed = self._placed(model)
        if placed is not None:
            return self._read(model, placed.version, placed.digest, self._shelf / placed.folder)
        return self._from_registry(model)

    def _placed(self, model: str) -> ShelfEntry | None:
        try:
            return read_state(self._shelf).models.get(model)
        except BundleError:
            return None

    def _from_registry(self, model: str) -> ChampionReference:
        version = self._registry().by_alias(model, CHAMPION)
        if version is None or version.digest is None:
            raise NotFoundError(
                f"'{model}' has no champion to compare with.",
                remedy=f"Promote a version with `tidemill promote {model}`.",
            )
        cached = self._cache.get((model, version.number, version.digest))
        if cached is not None:
            return cached
        with tempfile.TemporaryDirectory(prefix="tidemill-watch-") as scratch:
            fetched = self._registry().fetch_bundle(version, Path(scratch))
            return self._read(model, version.number, version.digest, fetched.path)

    def _read(self, model: str, version: str, digest: str, folder: Path) -> ChampionReference:
        key = (model, version, digest)
        if key not in self._cache:
            found = bundle.read(folder, digest=digest)
            while len(self._cache) >= CACHED:
                self._cache.pop(next(iter(self._cache)))
            self._cache[key] = ChampionReference(
                model, version, digest, found.signature, found.profile()
            )
        return self._cache[key]
