"""The broker: a doorbell that Celery rings. It carries a job's id and nothing that could be lost.

    filesystem:///home/.tidemill/broker    one machine, no server
    redis://host:6379/0, amqp://host       any number of machines

What the broker forgets is in the database, where a worker's caretaker finds it.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import urlsplit

from celery import Celery
from kombu.utils.url import maybe_sanitize_url

from tidemill.errors import TidemillError

TASK = "tidemill.run"
QUEUE = "tidemill"
CONNECT_SECONDS = 1.0
PORTS = {"redis": 6379, "rediss": 6379, "amqp": 5672, "amqps": 5671}
# After a failure nobody waits for the broker again for this long; the caretaker looks later.
REST_SECONDS = 2.0
# Jobs that were rung for within so long are noted together: a note is a write to the disk, which
# whoever asks next would wait for.
GATHER_SECONDS = 0.2

log = logging.getLogger(__name__)


def make_celery(url: str) -> Celery:
    """A Celery application on the broker, with one task to be registered under `TASK`."""
    app = Celery("tidemill", set_as_current=False)
    app.conf.update(
        broker_url="filesystem://localhost//" if _is_folder(url) else url,
        broker_transport_options=_transport_options(url),
        broker_connection_timeout=CONNECT_SECONDS,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        task_default_queue=QUEUE,
        task_ignore_result=True,
        # The row says who works on a job. A message that comes twice claims nothing; taking one
        # at a time leaves the others to workers that are free.
        task_acks_late=True,
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
    )
    return app


class Doorbell:
    """Tells workers of a job; never raises and never waits long, because the row is safe.

    Args:
        told: Called with the ids of jobs that `ring_soon` told the broker of, some at a time.
    """

    def __init__(self, url: str, told: Callable[[Sequence[str]], object] | None = None) -> None:
        self._url = url
        self._app = make_celery(url)
        self._outbox = _outbox(url)
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._told = told
        self._calls: SimpleQueue[str | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._rest_until = 0.0

    def __str__(self) -> str:
        return str(maybe_sanitize_url(self._url))

    def ring(self, job_id: str) -> bool:
        """Whether the broker took the message."""
        if time.monotonic() < self._rest_until:
            return False
        try:
            with self._sending:
                self._app.send_task(TASK, args=[job_id], retry=False, ignore_result=True)
                self._deliver()
        except Exception as error:  # whatever a broker's client raises, the row is safe
            self._rest_until = time.monotonic() + REST_SECONDS
            log.warning("the broker was not told of job %s: %s", job_id, error)
            return False
        return True

    def ring_soon(self, job_id: str) -> None:
        """Ring in a thread: a broker that is away keeps nobody waiting."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="doorbell", daemon=True)
                self._thread.start()
        self._calls.put(job_id)

    def problem(self) -> str | None:
        """None when the broker can be reached, else what is wrong; takes a second at most."""
        if self._outbox is not None:
            folder = self._outbox.parent / "in"
            return None if os.access(folder, os.W_OK) else f"{folder} cannot be written to"
        parts = urlsplit(self._url)
        port = parts.port or PORTS.get(parts.scheme, 5672)
        try:
            socket.create_connection((parts.hostname or "localhost", port), CONNECT_SECONDS).close()
        except OSError as error:
            return f"{parts.scheme}://{parts.hostname}:{port} cannot be reached: {error}"
        return None

    def close(self) -> None:
        """Ring for what is still waiting, and let go of the broker."""
        if self._thread is not None:
            self._calls.put(None)
            self._thread.join()
        self._app.close()
        if self._outbox is not None and self._outbox.is_dir():
            self._deliver()
            self._outbox.rmdir()

    def tidy(self, older_than: float = 10.0) -> None:
        """Remove the messages that workers have read, where the broker is a folder."""
        if self._outbox is None:
            return
        for message in (self._outbox.parent / "done").iterdir():
            with suppress(FileNotFoundError):  # another worker tidies too
                if time.time() - message.stat().st_mtime > older_than:
                    message.unlink()

    def _run(self) -> None:
        rung: list[str] = []
        due = 0.0
        while True:
            if rung and time.monotonic() >= due:
                self._tell(rung)
                rung = []
            try:
                job_id = self._calls.get(timeout=max(0.0, due - time.monotonic()) if rung else None)
            except Empty:
                continue
            if job_id is None:
                break
            if self.ring(job_id):
                due = due if rung else time.monotonic() + GATHER_SECONDS
                rung.append(job_id)
        self._tell(rung)

    def _tell(self, rung: list[str]) -> None:
        if self._told is None or not rung:
            return
        try:
            self._told(rung)
        except TidemillError as error:  # they are rung for once more than needed
            log.warning("jobs %s: %s", ", ".join(rung), error)

    def _deliver(self) -> None:
        """Move written messages to where workers look, so that none is read half written."""
        if self._outbox is not None:
            for message in self._outbox.iterdir():
                message.rename(self._outbox.parent / "in" / message.name)


def _is_folder(url: str) -> bool:
    return url.startswith("filesystem:")


def _transport_options(url: str) -> dict[str, Any]:
    if not _is_folder(url):
        return {
            "socket_connect_timeout": CONNECT_SECONDS,
            "socket_timeout": 5.0,
            "socket_keepalive": True,
            "retry_on_timeout": True,
            # How long Redis waits before it gives an unacknowledged message to another worker.
            "visibility_timeout": 24 * 3600,
        }
    folder = Path(urlsplit(url).path)
    for name in ("in", "control", "done"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    outbox = _outbox(url)
    assert outbox is not None
    outbox.mkdir(exist_ok=True)
    return {
        "data_folder_in": str(folder / "in"),
        "data_folder_out": str(outbox),
        "control_folder": str(folder / "control"),
        # Moved within one file system, which is atomic; the caretaker empties the folder.
        "store_processed": True,
        "processed_folder": str(folder / "done"),
        "polling_interval": 0.1,
    }


def _outbox(url: str) -> Path | None:
    """A folder of this process alone, beside the one that workers read."""
    return Path(urlsplit(url).path) / f"out-{os.getpid()}" if _is_folder(url) else None
