#!/usr/bin/env python3
"""Ask for predictions until told to end, and count what failed: load.py URL KEY_FILE OUT [WORKERS]

It learns an example from URL/schema, asks with WORKERS threads (4) over kept connections, and ends
at SIGTERM; then OUT holds the counts as JSON. A request failed when no answer came, or one that is
not 200. A kept connection that the other side closed before the request was sent is opened anew,
as every HTTP client does. Needs Python 3.11 and nothing else; certificates are not checked, because
a rig signs its own.
"""

from __future__ import annotations

import http.client
import json
import signal
import ssl
import sys
import threading
import time
import urllib.parse
from pathlib import Path
from typing import Any


class Load:
    """Threads that ask, and what came of it."""

    def __init__(self, url: str, key: str) -> None:
        self.address = urllib.parse.urlsplit(url)
        self.headers = {"X-API-Key": key, "Content-Type": "application/json"}
        self.over = threading.Event()
        self.lock = threading.Lock()
        self.answered = 0
        self.slowest = 0.0
        self.versions: dict[str, int] = {}
        self.failures: list[str] = []

    def connect(self) -> http.client.HTTPConnection:
        host, port = self.address.hostname or "", self.address.port
        if self.address.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=60)
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return http.client.HTTPSConnection(host, port, timeout=60, context=context)

    def example(self) -> bytes:
        """A body that the model takes, as its schema shows it."""
        connection = self.connect()
        connection.request("GET", "/schema", headers=self.headers)
        schema: dict[str, Any] = json.loads(connection.getresponse().read())
        connection.close()
        return json.dumps(next(iter(schema["examples"].values()))).encode()

    def ask(self, body: bytes) -> None:
        """One thread's work."""
        connection = self.connect()
        while not self.over.is_set():
            began = time.monotonic()
            try:
                connection.request("POST", "/predict", body, self.headers)
                answer = connection.getresponse()
                text = answer.read()
                problem = None if answer.status == 200 else f"{answer.status} {text[:200]!r}"
            except (OSError, http.client.HTTPException) as error:
                text, problem = b"", f"{type(error).__name__}: {error}"
                connection.close()
            self.note(text, problem, time.monotonic() - began)
        connection.close()

    def note(self, text: bytes, problem: str | None, seconds: float) -> None:
        with self.lock:
            self.slowest = max(self.slowest, seconds)
            if problem is not None:
                self.failures.append(f"{time.strftime('%H:%M:%S')} {problem}")
                return
            self.answered += 1
            version = str(json.loads(text).get("version"))
            self.versions[version] = self.versions.get(version, 0) + 1


def main(url: str, key_file: str, out: str, workers: str = "4") -> None:
    load = Load(url, Path(key_file).read_text().strip())
    signal.signal(signal.SIGTERM, lambda *_: load.over.set())
    body = load.example()
    threads = [threading.Thread(target=load.ask, args=(body,)) for _ in range(int(workers))]
    for thread in threads:
        thread.start()
    Path(f"{out}.started").touch()
    load.over.wait()
    for thread in threads:
        thread.join()
    found = {
        "answered": load.answered,
        "failed": len(load.failures),
        "slowest_seconds": round(load.slowest, 3),
        "versions": load.versions,
        "failures": load.failures[:20],
    }
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
