"""A version's artifacts besides its bundle: the gate's evidence, metric intervals, plots."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from tidemill.errors import NotFoundError

INTERVALS_FILE = "metric_intervals.json"


def read_evidence(client: Any, run_id: str | None, number: str) -> dict[str, Any]:
    """Return the evidence on which the gate decided about a version.

    Args:
        client: MLflow's client.

    Raises:
        NotFoundError: The gate has never examined the version.
    """
    path = f"gate/evidence-v{number}.json"
    if run_id is None or not _exists(client, run_id, "gate", path):
        raise NotFoundError(f"The gate has never examined version {number}.")
    found: dict[str, Any] = json.loads(_content(client, run_id, path))
    return found


def read_intervals(client: Any, run_id: str | None) -> dict[str, tuple[float, float]]:
    """Return the 95% interval (low, high) of each metric of a run; empty if none are stored."""
    if run_id is None or not _exists(client, run_id, None, INTERVALS_FILE):
        return {}
    found: dict[str, list[float]] = json.loads(_content(client, run_id, INTERVALS_FILE))[
        "intervals"
    ]
    return {metric: (low, high) for metric, (low, high) in found.items()}


def read_picture(client: Any, run_id: str | None, name: str) -> bytes:
    """Return a picture among the artifacts of a run.

    Raises:
        NotFoundError: The run has no picture of that name.
    """
    if run_id is None or not _exists(client, run_id, None, name):
        raise NotFoundError(f"The run has no {name}.")
    return _content(client, run_id, name)


def _exists(client: Any, run_id: str, folder: str | None, path: str) -> bool:
    return any(entry.path == path for entry in client.list_artifacts(run_id, folder))


def _content(client: Any, run_id: str, path: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return Path(client.download_artifacts(run_id, path, folder)).read_bytes()
