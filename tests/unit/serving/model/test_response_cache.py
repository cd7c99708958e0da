"""The response cache: it never returns another version's answer, and Redis is optional."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.errors import SettingsError
from tidemill.serving.model.cache_options import CacheOptions
from tidemill.serving.model.response_cache import ResponseCache

SLOW = 0.5  # seconds: a model slower than any Redis


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(main())


def test_an_answer_is_cached_for_the_same_version_and_inputs_only() -> None:
    cache = ResponseCache()
    first, second = cache.scope("m", "1", "aa"), cache.scope("m", "2", "bb")
    cache.put(first, b"in", b"one")
    assert cache.get(first, b"in") == b"one"
    assert cache.get(first, b"other") is None
    assert cache.get(second, b"in") is None
    assert cache.get(cache.scope("m", "1", "cc"), b"in") is None, "same number, another bundle"
    assert cache.get(cache.scope("n", "1", "aa"), b"in") is None
    assert (cache.state().hits, cache.state().misses) == (1, 4)


def test_scopes_with_shifted_parts_are_different() -> None:
    cache = ResponseCache()
    cache.put(cache.scope("m", "11", "d"), b"in", b"wrong")
    assert cache.get(cache.scope("m1", "1", "d"), b"in") is None


@given(
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.binary(max_size=40))),
    entries=st.integers(1, 5),
    limit=st.integers(1, 2000),
)
def test_the_least_recently_used_entry_is_evicted_at_the_limits(
    steps: list[tuple[bool, int, bytes]], entries: int, limit: int
) -> None:
    cache = ResponseCache(CacheOptions(entries=entries, bytes=limit))
    scope = cache.scope("m", "1", "d")
    model: dict[bytes, bytes] = {}  # in the order of use
    for write, number, answer in steps:
        key = bytes([number])
        if write:
            cache.put(scope, key, answer)
            if 16 + 1 + len(answer) + 250 <= limit:
                model.pop(key, None)
                model[key] = answer
            while len(model) > entries or sum(267 + len(v) for v in model.values()) > limit:
                model.pop(next(iter(model)))
        else:
            assert cache.get(scope, key) == model.get(key)
            if key in model:
                model[key] = model.pop(key)
        state = cache.state()
        assert state.entries == len(model)
        assert state.bytes == sum(267 + len(v) for v in model.values()) <= limit


def test_zero_entries_disable_the_memory_tier() -> None:
    cache = ResponseCache(CacheOptions(entries=0))
    scope = cache.scope("m", "1", "d")
    cache.put(scope, b"in", b"out")
    assert cache.get(scope, b"in") is None


def test_entries_of_an_unloaded_version_are_dropped() -> None:
    cache = ResponseCache()
    old, new = cache.scope("m", "1", "a"), cache.scope("m", "2", "b")
    for scope in (old, new):
        cache.put(scope, b"in", b"out")
    cache.forget(old)
    assert cache.get(old, b"in") is None
    assert cache.get(new, b"in") == b"out"
    assert cache.state().entries == 1
    assert cache.state().bytes == 16 + 2 + 3 + 250


def test_a_url_that_is_not_redis_is_a_settings_error() -> None:
    with pytest.raises(SettingsError, match="TIDEMILL_CACHE_URL cannot"):
        ResponseCache(CacheOptions(url="http://127.0.0.1"))


def test_a_url_without_the_redis_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(SettingsError, match=r"tidemill\[redis\]"):
        ResponseCache(CacheOptions(url="redis://127.0.0.1"))


# --- The second tier, on a real Redis and on sockets that misbehave ---


async def until(condition: Callable[[], bool], seconds: float = 300.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def started(url: str, **options: Any) -> AsyncIterator[ResponseCache]:
    """A cache that has measured Redis, or found it down."""
    cache = ResponseCache(CacheOptions(url=url, pause=0.02, **options))
    await cache.start()
    try:
        await until(lambda: cache.state().remote_up or cache.state().remote_errors > 0)
        yield cache
    finally:
        await cache.aclose()


def test_another_process_finds_the_answer_in_redis(redis_url: str) -> None:
    async def main() -> None:
        digest = uuid.uuid4().hex
        async with started(redis_url) as one, started(redis_url) as other:
            ours, theirs = one.scope("m", "1", digest), other.scope("m", "1", digest)
            one.observe(ours, SLOW)
            other.observe(theirs, SLOW)
            assert await other.get_remote(theirs, b"in") is None
            one.put(ours, b"in", b"answer")
            async with asyncio.timeout(300):
                while await other.get_remote(theirs, b"in") is None:
                    await asyncio.sleep(0.005)
            assert other.get(theirs, b"in") == b"answer", "kept in the process too"
            newer = other.scope("m", "2", digest)
            other.observe(newer, SLOW)
            assert await other.get_remote(newer, b"in") is None
            assert other.state().remote_hits == 1
            assert other.state().round_trip is not None

    run(main)


def test_redis_is_used_only_for_models_slower_than_its_round_trip(redis_url: str) -> None:
    async def main() -> None:
        digest = uuid.uuid4().hex
        async with started(redis_url) as cache:
            quick, slow = cache.scope("quick", "1", digest), cache.scope("slow", "1", digest)
            cache.observe(quick, 1e-7)
            cache.observe(slow, SLOW)
            assert not cache.pays_remote(quick)
            assert cache.pays_remote(slow)
            assert not cache.pays_remote(cache.scope("unmeasured", "1", digest))
            cache.put(quick, b"in", b"answer")
            await asyncio.sleep(0.05)
            cache.forget(quick)
            cache.observe(quick, SLOW * 100)
            assert await cache.get_remote(quick, b"in") is None, "it was never sent to Redis"

    run(main)


def test_a_reply_that_belongs_to_another_request_is_a_miss(redis_url: str) -> None:
    async def main() -> None:
        import redis.asyncio as aioredis

        from tidemill.serving.model.response_cache import _redis_key

        async with started(redis_url) as cache:
            scope = cache.scope("m", "1", uuid.uuid4().hex)
            cache.observe(scope, SLOW)
            client = aioredis.Redis.from_url(redis_url)
            await client.set(_redis_key(scope, b"in"), b"tidemill:answer:other|answer", ex=60)
            await client.aclose()
            assert await cache.get_remote(scope, b"in") is None
            assert cache.get(scope, b"in") is None

    run(main)


def test_redis_down_is_a_miss_not_an_error() -> None:
    async def main() -> None:
        async with started("redis://127.0.0.1:1") as cache:
            scope = cache.scope("m", "1", "d")
            cache.observe(scope, SLOW)
            assert not cache.pays_remote(scope)
            assert await cache.get_remote(scope, b"in") is None
            cache.put(scope, b"in", b"answer")
            assert cache.get(scope, b"in") == b"answer"
            state = cache.state()
            assert not state.remote_up
            assert state.round_trip is None
            assert "ConnectionError" in str(state.last_error)

    run(main)


class FakeRedis:
    """A socket that speaks just enough of the protocol, until it stops answering."""

    def __init__(self) -> None:
        self.silent = False
        self.asked = 0
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> FakeRedis:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                words = []
                for _ in range(int(line[1:])):
                    size = int((await reader.readline())[1:])
                    words.append((await reader.readexactly(size + 2))[:-2])
                self.asked += words[0] == b"GET"
                if not self.silent:
                    writer.write(self._answer(words[0]))

    def _answer(self, command: bytes) -> bytes:
        return {b"PING": b"+PONG\r\n", b"GET": b"$-1\r\n"}.get(command, b"+OK\r\n")


def test_an_unresponsive_redis_is_skipped_until_it_answers_again() -> None:
    async def main() -> None:
        async with FakeRedis() as fake, started(fake.url, failures=2, timeout=0.02) as cache:
            scope = cache.scope("m", "1", "d")
            cache.observe(scope, SLOW)
            fake.silent = True
            for _ in range(5):
                async with asyncio.timeout(300):
                    assert await cache.get_remote(scope, b"in") is None
            assert not cache.pays_remote(scope)
            asked = fake.asked
            assert asked <= 2
            for _ in range(20):
                assert await cache.get_remote(scope, b"in") is None
            assert fake.asked == asked, "an open circuit costs no request a wait"
            fake.silent = False
            await until(lambda: cache.pays_remote(scope))
            assert await cache.get_remote(scope, b"in") is None
            assert fake.asked == asked + 1

    run(main)


def test_redis_gets_no_more_time_than_the_model_takes() -> None:
    async def main() -> None:
        async with FakeRedis() as fake, started(fake.url, timeout=3600.0) as cache:
            scope = cache.scope("m", "1", "d")
            cache.observe(scope, 0.05)
            fake.silent = True
            async with asyncio.timeout(300):
                assert await cache.get_remote(scope, b"in") is None
            assert "Timeout" in str(cache.state().last_error)

    run(main)


def test_writes_to_a_slow_redis_do_not_pile_up() -> None:
    async def main() -> None:
        async with FakeRedis() as fake, started(fake.url, max_pending=3) as cache:
            scope = cache.scope("m", "1", "d")
            cache.observe(scope, SLOW)
            fake.silent = True
            before = len(asyncio.all_tasks())
            for n in range(50):
                cache.put(scope, bytes([n]), b"answer")
            assert len(asyncio.all_tasks()) - before <= 3

    run(main)


def test_closing_with_pending_requests_leaves_no_tasks() -> None:
    async def main() -> None:
        async with FakeRedis() as fake:
            async with started(fake.url) as cache:
                scope = cache.scope("m", "1", "d")
                cache.observe(scope, SLOW)
                fake.silent = True
                cache.put(scope, b"in", b"answer")
                asking = asyncio.create_task(cache.get_remote(scope, b"in"))
                await asyncio.sleep(0)
            assert await asking is None
        await until(lambda: len(asyncio.all_tasks()) == 1)

    run(main)
