"""Open the control plane's stores for one command. Importing this takes about a second."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tidemill.platform import Platform
from tidemill.settings import Settings
from tidemill.stores.mlflow.connection import set_http_timeouts, silence_mlflow_output
from tidemill.stores.mlflow.registry import Registry


@contextmanager
def open_platform(settings: Settings) -> Iterator[Platform]:
    """The platform that the settings describe, closed at the end of the block."""
    platform = Platform.open(settings)
    try:
        yield platform
    finally:
        platform.close()


def open_registry(settings: Settings) -> Registry:
    """The MLflow registry that the settings name; needs no database of Tidemill's own."""
    set_http_timeouts()
    silence_mlflow_output()
    return Registry(settings.mlflow_uri, settings.registry_uri)
