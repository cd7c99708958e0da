"""Send predictions over HTTP in the background, and count the answers by version."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tidemill.addresses import open_url


def request_prediction(
    url: str, key: str, body: dict[str, Any], timeout: float = 10.0
) -> dict[str, Any]:
    """Request one prediction.

    Raises:
        OSError: The request was refused or could not be delivered.
    """
    headers = {"Content-Type": "application/json", "X-API-Key": key}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with open_url(request, timeout) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


@dataclass
class AnswerCounts:
    """The number of answers of each version, and the requests that failed."""

    versions: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    swapped: threading.Event = field(default_factory=threading.Event)


@contextmanager
def constant_traffic(
    url: str, key: str, body: dict[str, Any], await_version: str
) -> Iterator[AnswerCounts]:
    """Send requests without pause while the block runs.

    `swapped` is set when `await_version` answers for the first time.
    """
    counts, stop = AnswerCounts(), threading.Event()

    def send() -> None:
        while not stop.is_set():
            try:
                version = str(request_prediction(url, key, body)["version"])
            except OSError as error:
                counts.failures.append(str(error))
                continue
            counts.versions[version] += 1
            if version == await_version:
                counts.swapped.set()

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    try:
        yield counts
    finally:
        stop.set()
        thread.join(15)
