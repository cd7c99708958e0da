"""The notifier: what it tells the broker, and what it notes of that."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tidemill.errors import UnavailableError
from tidemill.stores.jobs.broker import JobNotifier


def messages(folder: Path) -> list[str]:
    """The ids of jobs that a worker would read, whatever order the file system gives them in."""
    found = [json.loads(path.read_text()) for path in (folder / "in").iterdir()]
    return sorted(each["headers"]["argsrepr"].strip("[]'") for each in found)


def test_jobs_asked_for_together_are_noted_together(tmp_path: Path) -> None:
    noted: list[Sequence[str]] = []
    notifier = JobNotifier(f"filesystem://{tmp_path}", noted.append)
    for job in ("a", "b", "c"):
        notifier.notify(job)
    notifier.close()
    assert messages(tmp_path) == ["a", "b", "c"]
    assert [job for jobs in noted for job in jobs] == ["a", "b", "c"]
    assert len(noted) < 3


def test_what_the_broker_did_not_take_is_not_noted(tmp_path: Path) -> None:
    noted: list[Sequence[str]] = []
    notifier = JobNotifier("redis://127.0.0.1:9/0", noted.append)
    notifier.notify("a")
    notifier.close()
    assert noted == []


def test_a_note_that_fails_ends_nothing(tmp_path: Path) -> None:
    def told(jobs: Sequence[str]) -> None:
        noted.extend(jobs)
        raise UnavailableError("The database is away.")

    noted: list[str] = []
    notifier = JobNotifier(f"filesystem://{tmp_path}", told)
    notifier.notify("a")
    while not noted:
        pass
    notifier.notify("b")
    notifier.close()
    assert noted == ["a", "b"]
    assert messages(tmp_path) == ["a", "b"]
