"""The job notifier: what it sends to the broker, and which jobs it marks as sent."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tidemill.errors import UnavailableError
from tidemill.stores.jobs.broker import JobNotifier


def messages(folder: Path) -> list[str]:
    """Return the job ids in the messages that a worker would read, sorted."""
    found = [json.loads(path.read_text()) for path in (folder / "in").iterdir()]
    return sorted(each["headers"]["argsrepr"].strip("[]'") for each in found)


def test_jobs_sent_together_are_marked_together(tmp_path: Path) -> None:
    marked: list[Sequence[str]] = []
    notifier = JobNotifier(f"filesystem://{tmp_path}", marked.append)
    for job in ("a", "b", "c"):
        notifier.notify(job)
    notifier.close()
    assert messages(tmp_path) == ["a", "b", "c"]
    assert [job for jobs in marked for job in jobs] == ["a", "b", "c"]
    assert len(marked) < 3


def test_a_job_that_was_not_sent_is_not_marked(tmp_path: Path) -> None:
    marked: list[Sequence[str]] = []
    notifier = JobNotifier("redis://127.0.0.1:9/0", marked.append)
    notifier.notify("a")
    notifier.close()
    assert marked == []


def test_the_notifier_survives_an_error_while_marking(tmp_path: Path) -> None:
    def mark(jobs: Sequence[str]) -> None:
        marked.extend(jobs)
        raise UnavailableError("The database is down.")

    marked: list[str] = []
    notifier = JobNotifier(f"filesystem://{tmp_path}", mark)
    notifier.notify("a")
    while not marked:
        pass
    notifier.notify("b")
    notifier.close()
    assert marked == ["a", "b"]
    assert messages(tmp_path) == ["a", "b"]
