"""Finds the signatures of versions with recorded predictions: on the shelf, else in the registry.

Ingest runs beside the server, so a version's bundle is normally on the same shelf.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from tidemill.bundle import SIGNATURE
from tidemill.errors import TidemillError
from tidemill.serving.shelf.shelf import folder_name
from tidemill.signature import Signature
from tidemill.stores.mlflow.registry import Registry

logger = logging.getLogger(__name__)

RETRY_SECONDS = 60.0
Finder = Callable[[str, str], Signature | None]


class SignatureLookup:
    """Caches the signatures of versions; a version that was not found is looked up again later.

    Args:
        finders: Called in order with (model, version) until one returns a signature.
    """

    def __init__(self, *finders: Finder) -> None:
        self._finders = finders
        self._known: dict[tuple[str, str], Signature] = {}
        self._retry_at: dict[tuple[str, str], float] = {}

    def find(self, model: str, version: str) -> Signature | None:
        """Return the signature of a version; None if it cannot be found now."""
        key = (model, version)
        if key in self._known or time.monotonic() < self._retry_at.get(key, 0.0):
            return self._known.get(key)
        for find in self._finders:
            found = find(model, version)
            if found is not None:
                self._known[key] = found
                return found
        logger.warning("%s: the signature of version %s cannot be found now", model, version)
        self._retry_at[key] = time.monotonic() + RETRY_SECONDS
        return None


def shelf_finder(shelf: Path) -> Finder:
    """Return a finder that searches the bundles of a shelf, newest first."""

    def find(model: str, version: str) -> Signature | None:
        start = shelf / folder_name(model, version, "")
        folders = [f for f in _folders(start.parent) if f.name.startswith(start.name)]
        for folder in sorted(folders, key=lambda f: f.stat().st_mtime, reverse=True):
            try:
                return msgspec.json.decode((folder / SIGNATURE).read_bytes(), type=Signature)
            except (OSError, msgspec.DecodeError, ValueError) as error:
                logger.debug("%s: %s", folder, error)
        return None

    return find


def registry_finder(registry: Callable[[], Registry]) -> Finder:
    """Return a finder that downloads the version's bundle.

    Args:
        registry: Opens the registry on first use, because importing MLflow takes a second.
    """

    def find(model: str, version: str) -> Signature | None:
        try:
            with tempfile.TemporaryDirectory(prefix="tidemill-ingest-") as scratch:
                opened = registry()
                return opened.fetch_bundle(opened.version(model, version), Path(scratch)).signature
        except TidemillError as error:
            logger.debug("%s: version %s: %s", model, version, error)
            return None

    return find


def _folders(parent: Path) -> list[Path]:
    try:
        return [path for path in parent.iterdir() if path.is_dir()]
    except OSError:
        return []
