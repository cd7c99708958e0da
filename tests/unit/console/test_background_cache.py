"""The background cache: shared, bounded, and never slow to answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.servers import wait_until
from tidemill.console.background_cache import MAX_ENTRIES, BackgroundCache
from tidemill.errors import NotFoundError, UnavailableError


@pytest.fixture
def recent() -> Iterator[BackgroundCache]:
    made = BackgroundCache()
    yield made
    made.close()


def test_a_slow_value_is_loading_until_it_arrives(recent: BackgroundCache) -> None:
    may_answer = threading.Event()

    def slow() -> str:
        assert may_answer.wait(300)
        return "here"

    asked = recent.get("slow", slow, patience=0.0)
    assert asked.loading
    may_answer.set()
    assert recent.get("slow", slow, patience=60).value == "here"


def test_a_fresh_value_is_computed_once(recent: BackgroundCache) -> None:
    asked: list[int] = []
    for _ in range(5):
        recent.get("key", lambda: asked.append(1) or "x", fresh=3600, patience=60)
    assert asked == [1]
    recent.clear()
    recent.get("key", lambda: asked.append(1) or "x", fresh=3600, patience=60)
    assert asked == [1, 1]


def test_the_last_value_is_kept_while_its_source_fails(recent: BackgroundCache) -> None:
    def away() -> str:
        raise UnavailableError("MLflow is away.", remedy="Start it.")

    recent.get("key", lambda: "before", patience=60)
    now = recent.get("key", away, fresh=0, patience=60)
    assert now.value == "before"
    assert now.problem == "MLflow is away. Start it."
    assert recent.get("key", lambda: "after", fresh=0, patience=60).problem is None


def test_any_error_is_reported_and_none_is_raised(recent: BackgroundCache) -> None:
    def broken() -> str:
        raise KeyError("inside")

    asked = recent.get("key", broken, patience=60)
    assert asked.problem == "KeyError: 'inside'"
    assert not asked.loading


def test_not_found_is_raised_and_drops_the_last_value(recent: BackgroundCache) -> None:
    def gone() -> str:
        raise NotFoundError("There is no model 'x'.")

    recent.get("key", lambda: "before", patience=60)
    with pytest.raises(NotFoundError, match="no model"):
        recent.get("key", gone, fresh=0, patience=60)


def test_the_number_of_entries_is_bounded(recent: BackgroundCache) -> None:
    for number in range(MAX_ENTRIES + 50):
        recent.get(number, lambda: "x", patience=60)
    assert len(recent._entries) == MAX_ENTRIES


def test_simultaneous_requests_share_one_computation(recent: BackgroundCache) -> None:
    may_answer, asked = threading.Event(), []

    def slow() -> str:
        asked.append(1)
        assert may_answer.wait(300)
        return "x"

    recent.get("key", slow, patience=0.0)
    recent.get("key", slow, patience=0.0, fresh=0)
    may_answer.set()
    wait_until(lambda: recent.get("key", slow, fresh=3600).value == "x", "the answer")
    assert asked == [1]
