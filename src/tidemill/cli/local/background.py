"""What replay and the demo of drift start behind the scenes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from tidemill.cli import terminal
from tidemill.cli.local import process_specs
from tidemill.cli.local.greeting import is_answering
from tidemill.cli.local.process_specs import ServerAddresses
from tidemill.cli.local.supervisor import Child, Supervisor

if TYPE_CHECKING:
    from tidemill.settings import Settings

START_SECONDS = 180.0
#: Between looks at the registry; more often than that takes a tenth of a processor from the fits.
SYNC_SECONDS = 1.5


def start(
    supervisor: Supervisor, settings: Settings, at: ServerAddresses, *, apart: bool = False
) -> dict[str, Child]:
    """Start the server, what follows the registry, and a worker; with `apart`, ingest too.

    Returns when the server is ready.
    """
    sync = process_specs.sync(settings, [])
    sync.command = [*sync.command, "--interval", str(SYNC_SECONDS)]
    made = [process_specs.api_server(settings, at), sync, process_specs.worker(settings)]
    if apart:
        made.append(process_specs.ingest(settings))
    for child in made:
        child.env = {**child.env, "TIDEMILL_API_RATE_LIMIT": "off"}
        supervisor.start(child)
    with terminal.err.status("Starting the server ..."):
        supervisor.wait_until(lambda: is_answering(f"{at.api}/ready"), "Serving", START_SECONDS)
    return {child.name: child for child in made}


@contextlib.contextmanager
def client_of(at: ServerAddresses, key: str) -> Iterator[Any]:
    """A client with the key, that keeps its connections."""
    import httpx

    headers = {"X-API-Key": key}
    with httpx.Client(base_url=at.api, headers=headers, timeout=60.0) as client:
        yield client


@contextlib.contextmanager
def storing(settings: Settings, *, apart: bool = False) -> Iterator[Callable[[], None]]:
    """How the journal gets into the database: by ourselves, or by a process of its own."""
    from tidemill.loop.ingest.process import open_ingest

    if apart:
        yield lambda: None
        return
    with open_ingest(settings) as (ingest, _):

        def drain() -> None:
            ingest.drain()

        yield drain
