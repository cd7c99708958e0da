"""Serve a bundle with only the base dependencies, and request predictions for its example.

Run by the interpreter of an environment that holds nothing but `pip install tidemill`; standard
library only, so that the test itself brings nothing along: serve_bundle.py BUNDLE
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

FORBIDDEN = ("mlflow", "pandas", "sklearn", "sqlalchemy", "celery", "fastapi", "pydantic", "typer")


def main(bundle: Path) -> None:
    present = [name for name in FORBIDDEN if importlib.util.find_spec(name)]
    assert not present, f"the base installation holds {present}"
    with tempfile.TemporaryDirectory() as scratch:
        shelf = place(bundle, Path(scratch) / "shelf")
        port = free_port()
        command = [sys.executable, "-m", "tidemill", "serve", "--shelf", str(shelf)]
        command += ["--port", str(port), "--journal", f"{scratch}/journal", "--no-auth"]
        started = time.monotonic()
        with subprocess.Popen(command) as server:
            try:
                wait_ready(f"http://127.0.0.1:{port}/ready", server)
                print(f"ready after {time.monotonic() - started:.2f} s")
                print(f"{check(bundle, port)} passed, 0 failed")
            finally:
                server.terminate()
                assert server.wait(300) == 0, "the server did not end cleanly on SIGTERM"


def place(bundle: Path, shelf: Path) -> Path:
    """A shelf with this one bundle."""
    digest = hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()
    folder = f"iris/1-{digest[:12]}"
    shutil.copytree(bundle, shelf / folder)
    model = {"version": "1", "folder": folder, "digest": digest, "alias": "champion"}
    state = {"format": 1, "default": "iris", "models": {"iris": model}, "synced_at": time.time()}
    (shelf / "state.json").write_text(json.dumps(state))
    return shelf


def check(bundle: Path, port: int) -> int:
    """Check that each example row gets its prediction from training, and bad input a 422."""
    example = json.loads((bundle / "example.json").read_text())
    for row, answer in zip(example["rows"], example["answers"], strict=True):
        got = post(port, {"features": row})
        assert got["prediction"] == answer["prediction"], (row, answer, got)
    assert status_of(port, {"features": ["not a number"]}) == 422, "a bad row was answered"
    return len(example["rows"]) + 1


def status_of(port: int, body: object) -> int:
    try:
        post(port, body)
    except urllib.error.HTTPError as error:
        return error.code
    return 200


def post(port: int, body: object) -> dict[str, object]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/predict",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        found: dict[str, object] = json.load(answer)
        return found


def wait_ready(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert server.poll() is None, f"the server ended with exit {server.returncode}"
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.05)
    raise AssertionError("the server did not become ready in 30 s")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    main(Path(sys.argv[1]))
