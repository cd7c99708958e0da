"""Token buckets: how many requests pass, and how the table handles many callers."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.errors import SettingsError
from tidemill.serving.http.rate_limits import (
    PROBES,
    SLOTS,
    BucketTable,
    RateLimit,
    RateLimiter,
    TokenBucket,
    parse_rate_limit,
)


@pytest.mark.parametrize(
    ("text", "quota", "window"),
    [
        ("60/minute", 60, 60),
        ("1000 / second", 1000, 1),
        ("5 per 10 seconds", 5, 10),
        ("7/2hours", 7, 7200),
        ("1/DAY", 1, 86400),
    ],
)
def test_rate_limits_are_parsed(text: str, quota: int, window: int) -> None:
    assert parse_rate_limit("p", text) == RateLimit("p", quota, window)


@pytest.mark.parametrize("text", ["off", "none", "", " Off "])
def test_a_rate_limit_can_be_off(text: str) -> None:
    assert parse_rate_limit("p", text) is None
    assert RateLimiter(None, BucketTable()).of("x") is None


@pytest.mark.parametrize("text", ["0/minute", "-1/minute", "x", "5", "5/fortnight", "5/0seconds"])
def test_other_texts_are_rejected(text: str) -> None:
    with pytest.raises(SettingsError, match="is not a rate limit"):
        parse_rate_limit("p", text)


@given(
    st.integers(1, 20), st.integers(1, 100), st.lists(st.floats(0, 30), min_size=1, max_size=200)
)
def test_no_more_requests_pass_than_the_quota_and_the_refill(
    quota: int, window: int, pauses: list[float]
) -> None:
    bucket = TokenBucket(RateLimit("p", quota, window), BucketTable(), "someone")
    now = time.monotonic() + 1
    start, passed = now, 0
    for pause in pauses:
        now += pause
        passed += bucket.take(now)
        assert passed <= quota + (now - start + 1) * quota / window + 1e-6
        left, full_in = reported(bucket)
        assert 0 <= left <= quota
        assert 0 <= full_in <= window + 1
    assert passed >= min(len(pauses), quota)


def reported(bucket: TokenBucket) -> tuple[int, int]:
    line = bucket.lines().decode().split("\r\n")[1]
    left, full_in = (part.partition("=")[2] for part in line.split(";")[1:])
    return int(left), int(full_in)


def test_retry_after_is_the_time_until_the_next_request_passes() -> None:
    bucket = TokenBucket(RateLimit("p", 1, 60), BucketTable(), "someone")
    now = time.monotonic() + 1
    assert bucket.take(now)
    assert not bucket.take(now + 10)
    wait = bucket.retry_after()
    assert wait == 50
    assert not bucket.take(now + 10 + wait - 1)
    assert bucket.take(now + 10 + wait + 0.1)


def test_two_processes_share_the_bucket_of_a_caller(tmp_path: Path) -> None:
    limit = RateLimit("p", 3, 3600)
    now = time.monotonic() + 1
    one, other = (TokenBucket(limit, BucketTable(tmp_path), "someone") for _ in range(2))
    stranger = TokenBucket(limit, BucketTable(tmp_path), "someone else")
    assert [one.take(now), other.take(now), one.take(now), other.take(now)] == [True] * 3 + [False]
    assert stranger.take(now)


def test_two_limits_do_not_share_the_tokens_of_a_caller() -> None:
    table = BucketTable()
    now = time.monotonic() + 1
    one = TokenBucket(RateLimit("key", 1, 60), table, "x")
    other = TokenBucket(RateLimit("address", 1, 60), table, "x")
    assert one.take(now)
    assert other.take(now)


def test_many_callers_do_not_grow_the_table_or_reset_a_busy_caller() -> None:
    table = BucketTable()
    limit = RateLimit("p", 2, 3600)
    busy = TokenBucket(limit, table, "busy")
    assert busy.take(time.monotonic())
    assert busy.take(time.monotonic())
    for number in range(SLOTS // 2):
        TokenBucket(limit, table, f"caller {number}").take(time.monotonic())
        if number % 64 == 0:
            assert not busy.take(time.monotonic())
    assert len(table.values) == SLOTS * 3 + 1


def test_a_bucket_whose_slot_was_taken_claims_another() -> None:
    table = BucketTable()
    bucket = TokenBucket(RateLimit("p", 5, 60), table, "x")
    now = time.monotonic() + 1
    assert bucket.take(now)
    for offset in range(0, SLOTS * 3, 3):
        table.values[offset] = 1.0
    assert PROBES > 1
    assert bucket.take(now)
    assert reported(bucket)[0] == 4


@pytest.mark.parametrize("last", [30 * 86400.0, float("inf")])
@pytest.mark.parametrize("tokens", [5.0, -1e9, float("nan"), 1e9])
def test_a_time_in_the_future_does_not_take_tokens_away(last: float, tokens: float) -> None:
    """A clock of another machine, or a damaged file."""
    table = BucketTable()
    bucket = TokenBucket(RateLimit("key", 10, 60), table, "a")
    now = time.monotonic()
    table.values[bucket._offset + 1] = tokens
    table.values[bucket._offset + 2] = now + last
    assert [bucket.take(now) for _ in range(5)] == [True] * 5
    assert not all(bucket.take(now) for _ in range(6))


def test_a_table_from_before_a_reboot_is_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = RateLimit("key", 1, 60)
    assert TokenBucket(limit, BucketTable(tmp_path), "a").take(time.monotonic())
    assert not TokenBucket(limit, BucketTable(tmp_path), "a").take(time.monotonic())
    monkeypatch.setattr("tidemill.serving.http.rate_limits._boot_id", lambda: "the next start")
    assert TokenBucket(limit, BucketTable(tmp_path), "a").take(0.1)
