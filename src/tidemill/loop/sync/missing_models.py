"""Models on the shelf that the registry no longer lists: deleted, or was the registry lost?

A model is taken off the shelf only if the registry is the one that it came from, and still holds
others or held no others. Everything else needs a person's word: `tidemill models
--accept-missing`. See decision 203.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from tidemill.serving.shelf.shelf import ShelfState, replace_file
from tidemill.stores.mlflow.registry import Registry

ACCEPTED = "accept-missing"  # a file in the shelf, removed by the update that obeys it
REMEDY = (
    "It stays in service. Correct MLflow's address or restore its database; if the models are"
    " really to go, run `tidemill models --accept-missing`."
)


def doubt(registry: Registry, state: ShelfState, gone: Collection[str]) -> str | None:
    """Why the absence of these models is no command to take them off; None if it is one.

    Raises:
        UnavailableError: MLflow cannot be reached.
    """
    identity = registry.identity()
    if state.registry is None or identity != state.registry:
        known, found = state.registry or "unknown", identity or "unknown"
        return (
            "The registry does not list this model, but it is not known to be the registry that it"
            f" came from (that one: {known}; this one: {found}). {REMEDY}"
        )
    if len(gone) > 1 and len(gone) == len(state.models) and not registry.models():
        return f"The registry lists no model at all; it held {len(gone)} before. {REMEDY}"
    return None


def accept_missing(shelf: Path) -> None:
    """Let the next update of the shelf take off whatever the registry does not list."""
    replace_file(shelf / ACCEPTED, b"")


def is_accepted(shelf: Path) -> bool:
    return (shelf / ACCEPTED).exists()


def forget_acceptance(shelf: Path) -> None:
    (shelf / ACCEPTED).unlink(missing_ok=True)
