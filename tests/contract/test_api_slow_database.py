"""A locked database holds up neither reading requests nor the server, on both databases."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from tests.servers import serving_api
from tidemill.stores.database.database import Database

# MLflow's own use of SQLAlchemy.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")
POSTS = 60


@contextmanager
def served(database: Database, home: Path, **changes: Any) -> Iterator[tuple[str, dict[str, str]]]:
    with serving_api(database, home, **changes) as (url, key, _):
        yield url, {"X-API-Key": key}


@contextmanager
def locked(database: Database) -> Iterator[None]:
    """Nobody can write jobs: SQLite's write lock, or a lock of the table that allows reading."""
    with database.write() as connection:
        if database.dialect == "postgresql":
            connection.execute(text("LOCK TABLE jobs IN EXCLUSIVE MODE"))
        yield


class Posts:
    """Posts that are sent at the same time, each by a thread, from `start` on."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        self.answers: list[httpx.Response] = []
        self._url, self._headers = url, headers
        self._threads = [threading.Thread(target=self._post) for _ in range(POSTS)]

    def __enter__(self) -> Posts:
        return self

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _post(self) -> None:
        answer = httpx.post(f"{self._url}/train", json={}, headers=self._headers, timeout=300)
        self.answers.append(answer)


def test_reading_requests_are_answered_while_writing_ones_wait(
    database: Database, mlflow_home: Path
) -> None:
    with served(database, mlflow_home, api_wait=300, database_wait=300) as (url, headers):
        assert httpx.get(f"{url}/jobs", headers=headers, timeout=300).status_code == 200
        with Posts(url, headers) as posts, locked(database):  # released before the posts are joined
            posts.start()
            for _ in range(20):
                found = httpx.get(f"{url}/jobs", headers=headers, timeout=100)
                assert found.status_code == 200
            waited = POSTS - len(posts.answers)
        assert waited > 12  # more than the queue of writing requests runs
        assert {answer.status_code for answer in posts.answers} == {202}


def test_requests_that_wait_too_long_are_answered_with_503(
    database: Database, mlflow_home: Path
) -> None:
    with (
        served(database, mlflow_home, api_wait=0.5, database_wait=1, api_writers=2) as (
            url,
            headers,
        ),
        locked(database),
        Posts(url, headers) as posts,
    ):
        posts.start()
    assert {answer.status_code for answer in posts.answers} == {503}
    assert {answer.headers["Retry-After"] for answer in posts.answers} == {"5"}
    assert any("busy" in answer.json()["detail"] for answer in posts.answers)


def test_a_table_that_nobody_can_read_costs_its_own_requests_alone(
    postgres_url: str, mlflow_home: Path
) -> None:
    from tidemill.stores.database.schema import migrate

    database = Database(postgres_url)
    migrate(database)
    with (
        served(database, mlflow_home, api_wait=300, database_wait=2) as (url, headers),
        database.write() as connection,
    ):
        connection.execute(text("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE"))
        with Posts(url, headers) as posts:
            posts.start()
            assert httpx.get(f"{url}/health", timeout=100).status_code == 200
            audit = httpx.get(f"{url}/audit", headers=headers, timeout=100)
            jobs = httpx.get(f"{url}/jobs", headers=headers, timeout=100)
        assert (audit.status_code, jobs.status_code) == (200, 503)
        assert "lock timeout" in jobs.json()["detail"]
        assert {answer.status_code for answer in posts.answers} == {503}
    database.close()
