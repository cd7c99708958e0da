"""Where the bundle of a version comes from that was registered without one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from tidemill.bundle import Bundle
from tidemill.errors import BundleError, NotFoundError
from tidemill.serving.shelf.shelf import ShelfEntry, ShelfState, open_bundle
from tidemill.stores.mlflow.registry import Registry
from tidemill.stores.mlflow.versions import Version

#: Makes a bundle, in the folder given, for a version that was registered without one.
BundleFor = Callable[[Version, Path], Bundle]

REGISTERED = "registered"  # what a bundle's source says of the version that it was made of


def no_bundle(version: Version, into: Path) -> Bundle:
    """What happens to a version without a bundle where nothing can convert it.

    Raises:
        NotFoundError: Always; says what to do.
    """
    raise NotFoundError(
        f"Version {version.number} of '{version.name}' was registered without a bundle.",
        remedy="Train it with `tidemill train`, or promote a version that has one.",
    )


def adopting(registry: Registry, *, trust: bool) -> BundleFor:
    """Converts such versions (`tidemill.loop.sync.adopt`); what that needs is imported with the
    first.

    Args:
        trust: Whether what is in the registry may be unpickled and run.
    """

    def bundle_for(version: Version, into: Path) -> Bundle:
        from tidemill.loop.sync.adopt import ModelConverter

        return ModelConverter(registry, trust=trust)(version, into)

    return bundle_for


def made_before(shelf: Path, state: ShelfState, version: Version) -> ShelfEntry | None:
    """The bundle on the shelf that was made of that very version, if it is still whole."""
    for entries in (state.models, state.challengers):
        entry = entries.get(version.name)
        if entry is None or entry.version != version.number:
            continue
        with contextlib.suppress(BundleError):
            held = open_bundle(shelf, entry)
            if held.manifest.source.get(REGISTERED) == registered(version):
                return entry
    return None


def registered(version: Version) -> str:
    """What tells a version from one of the same number in a registry that was made anew."""
    return f"{version.source} at {version.created:.3f}"
