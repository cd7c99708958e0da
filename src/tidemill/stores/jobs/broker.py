"""The broker: Celery messages that wake workers. A message carries a job's id and nothing else.

    filesystem:///home/.tidemill/broker    one machine, no server
    redis://host:6379/0, amqp://host       any number of machines

A lost message loses nothing: the job is in the database, where the workers' job pollers find it.
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

from tidemill.addresses import folder_of
from tidemill.errors import TidemillError

TASK = "tidemill.run"
QUEUE = "tidemill"
CONNECT_SECONDS = 1.0
PORTS = {"redis": 6379, "rediss": 6379, "amqp": 5672, "amqps": 5671}
# After a failure no message is sent for this long; job pollers find the jobs meanwhile.
PAUSE_SECONDS = 2.0
# Jobs sent within this time are marked as sent together: marking is a write to the disk, which the
# next request would have to wait for.
BATCH_SECONDS = 0.2

log = logging.getLogger(__name__)


def make_celery(url: str) -> Celery:
    """Return a Celery application on the broker, with one task to be registered under `TASK`."""
    app = Celery("tidemill", set_as_current=False)
    app.conf.update(
        broker_url="filesystem://localhost//" if _is_folder(url) else url,
        broker_transport_options=_transport_options(url),
        broker_connection_timeout=CONNECT_SECONDS,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        task_default_queue=QUEUE,
        task_ignore_result=True,
        # The job's row says which worker has it, so a message that arrives twice claims nothing.
        # Taking one message at a time leaves the others to workers that are free.
        task_acks_late=True,
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
    )
    return app


class JobNotifier:
    """Tells workers of jobs. Never raises and never waits long, because the job's row is safe.

    Args:
        on_sent: Called with the ids of jobs that `notify` has sent, several at a time.
    """

    def __init__(self, url: str, on_sent: Callable[[Sequence[str]], object] | None = None) -> None:
        self._url = url
        self._app = make_celery(url)
        self._outbox = _outbox(url)
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._on_sent = on_sent
        self._queue: SimpleQueue[str | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._paused_until = 0.0

    def __str__(self) -> str:
        return str(maybe_sanitize_url(self._url))

    def send(self, job_id: str) -> bool:
        """Send a message now; whether the broker took it."""
        if time.monotonic() < self._paused_until:
            return False
        try:
            with self._sending:
                self._app.send_task(TASK, args=[job_id], retry=False, ignore_result=True)
                self._deliver()
        except Exception as error:  # any error of the broker's client: the job's row is safe
            self._paused_until = time.monotonic() + PAUSE_SECONDS
            log.warning("the broker was not told of job %s: %s", job_id, error)
            return False
        return True

    def notify(self, job_id: str) -> None:
        """Send a message from a thread; returns at once even when the broker is down."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="job-notifier", daemon=True)
                self._thread.start()
        self._queue.put(job_id)

    def problem(self) -> str | None:
        """Return what is wrong if the broker cannot be reached; takes a second at most."""
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
        """Send the messages that are still queued and close the connection."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
        self._app.close()
        if self._outbox is not None and self._outbox.is_dir():
            self._deliver()
            self._outbox.rmdir()

    def remove_read_messages(self, older_than: float = 10.0) -> None:
        """Delete messages that workers have read, where the broker is a folder.

        Args:
            older_than: Only messages read more than so many seconds ago.
        """
        if self._outbox is None:
            return
        for message in (self._outbox.parent / "done").iterdir():
            with suppress(FileNotFoundError):  # another worker has deleted it
                if time.time() - message.stat().st_mtime > older_than:
                    message.unlink()

    def _run(self) -> None:
        sent: list[str] = []
        due = 0.0
        while True:
            if sent and time.monotonic() >= due:
                self._report_sent(sent)
                sent = []
            try:
                job_id = self._queue.get(timeout=max(0.0, due - time.monotonic()) if sent else None)
            except Empty:
                continue
            if job_id is None:
                break
            if self.send(job_id):
                due = due if sent else time.monotonic() + BATCH_SECONDS
                sent.append(job_id)
        self._report_sent(sent)

    def _report_sent(self, sent: list[str]) -> None:
        if self._on_sent is None or not sent:
            return
        try:
            self._on_sent(sent)
        except TidemillError as error:  # at worst they are sent once more
            log.warning("jobs %s: %s", ", ".join(sent), error)

    def _deliver(self) -> None:
        """Move written messages to the folder workers read, so that none is read half written."""
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
    folder = folder_of(url)
    for name in ("in", "control", "done"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    outbox = _outbox(url)
    assert outbox is not None
    outbox.mkdir(exist_ok=True)
    return {
        "data_folder_in": str(folder / "in"),
        "data_folder_out": str(outbox),
        "control_folder": str(folder / "control"),
        # Moved within one file system, which is atomic; job pollers empty the folder.
        "store_processed": True,
        "processed_folder": str(folder / "done"),
        "polling_interval": 0.1,
    }


def _outbox(url: str) -> Path | None:
    """Return a folder of this process alone, beside the one that workers read."""
    return folder_of(url) / f"out-{os.getpid()}" if _is_folder(url) else None
