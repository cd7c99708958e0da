"""Bring one version of a model to the local shelf."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tidemill.errors import UnavailableError

if TYPE_CHECKING:
    from tidemill.serving.shelf.shelf import ShelfEntry
    from tidemill.settings import Settings

log = logging.getLogger(__name__)


def shelve(settings: Settings, reference: str) -> tuple[str, ShelfEntry]:
    """The model's name, and its bundle's place on the shelf, fetched if it is not there.

    With MLflow out of reach, what the shelf serves for that name is taken.

    Raises:
        NotFoundError: There is no such model or version, or it has no bundle.
        BundleError: The bundle is gone or damaged.
        UnavailableError: MLflow is out of reach and the shelf has nothing under that name.
    """
    from tidemill.cli.commands.models import open_registry
    from tidemill.serving.shelf.shelf import install_bundle, read_state
    from tidemill.stores.mlflow.versions import parse_reference

    name = parse_reference(reference).name
    try:
        registry = open_registry(settings)
        version = registry.resolve(reference, stage=settings.model_stage)
        with tempfile.TemporaryDirectory() as scratch:
            held = registry.fetch_bundle(version, Path(scratch))
            return name, install_bundle(
                settings.shelf, name, version.number, held.path, held.digest
            )
    except UnavailableError:
        state = read_state(settings.shelf)
        if name not in state.models:
            raise
        log.warning("MLflow is out of reach; the version on the shelf is taken")
        return name, state.models[name]
