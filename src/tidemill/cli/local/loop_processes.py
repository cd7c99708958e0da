"""The running loop that `replay` and `demo --drift` need: a server, sync, a worker, and ingest."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import httpx

from tidemill.cli import terminal
from tidemill.cli.local import process_specs
from tidemill.cli.local.greeting import is_answering
from tidemill.cli.local.process_specs import ServerAddresses
from tidemill.cli.local.supervisor import Child, Supervisor
from tidemill.loop.ingest.process import open_ingest
from tidemill.settings import Settings

START_SECONDS = 180.0
#: Between polls of the registry. More frequent polls take a tenth of a core from the trainings.
SYNC_SECONDS = 1.5


def start_processes(
    supervisor: Supervisor,
    settings: Settings,
    at: ServerAddresses,
    *,
    separate_ingest: bool = False,
) -> dict[str, Child]:
    """Start the server, sync and a worker, and return when the server is ready.

    Args:
        separate_ingest: Whether to start a process for ingest as well.
    """
    sync = process_specs.sync(settings, [])
    sync.command = [*sync.command, "--interval", str(SYNC_SECONDS)]
    children = [process_specs.api_server(settings, at), sync, process_specs.worker(settings)]
    if separate_ingest:
        children.append(process_specs.ingest(settings))
    for child in children:
        child.env = {**child.env, "TIDEMILL_API_RATE_LIMIT": "off"}
        supervisor.start(child)
    with terminal.err.status("Starting the server ..."):
        supervisor.wait_until(
            lambda: is_answering(f"{at.api}/ready"), "The server", START_SECONDS, needed=children
        )
    return {child.name: child for child in children}


def open_client(at: ServerAddresses, key: str) -> httpx.Client:
    """An HTTP client of the API with a key."""
    return httpx.Client(base_url=at.api, headers={"X-API-Key": key}, timeout=60.0)


@contextlib.contextmanager
def ingesting(settings: Settings, *, separate_ingest: bool = False) -> Iterator[Callable[[], None]]:
    """A function that stores the journal in the database; does nothing with a separate ingest."""
    if separate_ingest:
        yield lambda: None
        return
    with open_ingest(settings) as (ingest, _):

        def drain() -> None:
            ingest.drain()

        yield drain
