"""The doorbell: what it tells the broker, and what it notes of that."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tidemill.errors import UnavailableError
from tidemill.stores.jobs.broker import Doorbell


def messages(folder: Path) -> list[str]:
    """The ids of jobs that a worker would read, whatever order the file system gives them in."""
    found = [json.loads(path.read_text()) for path in (folder / "in").iterdir()]
    return sorted(each["headers"]["argsrepr"].strip("[]'") for each in found)


def test_jobs_asked_for_together_are_noted_together(tmp_path: Path) -> None:
    noted: list[Sequence[str]] = []
    doorbell = Doorbell(f"filesystem://{tmp_path}", noted.append)
    for job in ("a", "b", "c"):
        doorbell.ring_soon(job)
    doorbell.close()
    assert messages(tmp_path) == ["a", "b", "c"]
    assert [job for jobs in noted for job in jobs] == ["a", "b", "c"]
    assert len(noted) < 3


def test_what_the_broker_did_not_take_is_not_noted(tmp_path: Path) -> None:
    noted: list[Sequence[str]] = []
    doorbell = Doorbell("redis://127.0.0.1:9/0", noted.append)
    doorbell.ring_soon("a")
    doorbell.close()
    assert noted == []


def test_a_note_that_fails_ends_nothing(tmp_path: Path) -> None:
    def told(jobs: Sequence[str]) -> None:
        noted.extend(jobs)
        raise UnavailableError("The database is away.")

    noted: list[str] = []
    doorbell = Doorbell(f"filesystem://{tmp_path}", told)
    doorbell.ring_soon("a")
    while not noted:
        pass
    doorbell.ring_soon("b")
    doorbell.close()
    assert noted == ["a", "b"]
    assert messages(tmp_path) == ["a", "b"]
