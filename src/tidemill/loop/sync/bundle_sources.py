"""Where the bundle of a version comes from that was registered without one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from tidemill.bundle import Bundle
from tidemill.errors import BundleError, NotFoundError
from tidemill.serving.shelf.shelf import ShelfEntry, ShelfState, open_bundle
from tidemill.stores.mlflow.registry import Registry
from tidemill.stores.mlflow.versions import ModelVersion

#: Makes a bundle, in the folder given, for a version that was registered without one.
BundleFor = Callable[[ModelVersion, Path], Bundle]

REGISTERED = "registered"  # what a bundle's source says of the version that it was made of


def no_bundle(version: ModelVersion, into: Path) -> Bundle:
    """What happens to a version without a bundle where nothing can convert it.

    Raises:
        NotFoundError: Always; says what to do.
    """
    raise NotFoundError(
        f"Version {version.number} of '{version.name}' was registered without a bundle.",
        remedy="Train it with `tidemill train`, or promote a version that has one.",
    )


def converting(registry: Registry, *, trust: bool) -> BundleFor:
    """Convert such versions with `tidemill.loop.sync.model_converter`, imported on first use.

    Args:
        trust: Whether what is in the registry may be unpickled and run.
    """

    def bundle_for(version: ModelVersion, into: Path) -> Bundle:
        from tidemill.loop.sync.model_converter import ModelConverter

        return ModelConverter(registry, trust=trust)(version, into)

    return bundle_for


def find_converted(shelf: Path, state: ShelfState, version: ModelVersion) -> ShelfEntry | None:
    """The bundle on the shelf that was made of that very version, if it is still whole."""
    for entries in (state.models, state.challengers):
        entry = entries.get(version.name)
        if entry is None or entry.version != version.number:
            continue
        with contextlib.suppress(BundleError):
            held = open_bundle(shelf, entry)
            if held.manifest.source.get(REGISTERED) == identity_of(version):
                return entry
    return None


def identity_of(version: ModelVersion) -> str:
    """What tells a version from one of the same number in a registry that was made anew."""
    return f"{version.source} at {version.created:.3f}"
