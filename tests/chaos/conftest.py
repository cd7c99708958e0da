"""Systems for the chaos tests: embedded, and with their own PostgreSQL and Redis servers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.system import System
from tests.servers import (
    PostgresServer,
    RedisServer,
    fresh_database,
    private_postgres,
    private_redis,
)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def embedded(mlflow_home: Path, stack: ExitStack) -> System:
    """SQLite, a folder as the broker, and MLflow on SQLite."""
    system = System(mlflow_home)
    stack.callback(system.close)
    return system


@contextmanager
def scaled_system(home: Path, stack: ExitStack, **more: Any) -> Iterator[Any]:
    postgres = stack.enter_context(private_postgres())
    redis = stack.enter_context(private_redis())
    url = stack.enter_context(fresh_database(postgres.url))
    system = System(home, database_url=url, broker_url=redis.url, **more)
    stack.callback(system.close)
    yield system, postgres, redis


@pytest.fixture
def scaled(
    mlflow_home: Path, stack: ExitStack
) -> Iterator[tuple[System, PostgresServer, RedisServer]]:
    """Its own PostgreSQL and Redis servers, and MLflow on SQLite."""
    with scaled_system(mlflow_home, stack) as opened:
        yield opened


@pytest.fixture(params=["embedded", "scaled"])
def system(request: pytest.FixtureRequest) -> System:
    opened = request.getfixturevalue(request.param)
    return opened if isinstance(opened, System) else opened[0]
