"""Several processes behind one port."""

from __future__ import annotations

from collections.abc import Callable

from tidemill.serving import server
from tidemill.serving.settings import ServingSettings


def run(settings: ServingSettings, *, on_started: Callable[[str], None] | None = None) -> None:
    """Serve with as many processes as the settings say, until a signal ends them."""
    server.run(settings, on_started=on_started)
