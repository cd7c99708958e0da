"""Rate limits: counted in Redis for many processes, or in each process while Redis is down."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.servers import private_redis
from tidemill.errors import SettingsError
from tidemill.stores.rate_limits import RateLimits


def test_a_caller_gets_its_quota_and_no_more() -> None:
    limits = RateLimits("memory://", "3/minute")
    shares = [limits.take("key") for _ in range(5)]
    assert [share.allowed for share in shares if share] == [True, True, True, False, False]
    refused = shares[-1]
    assert refused is not None
    headers = refused.headers()
    assert headers["RateLimit-Policy"] == '"default";q=3;w=60'
    assert headers["RateLimit"].startswith('"default";r=0;t=')
    assert 1 <= int(headers["Retry-After"]) <= 60
    other = limits.take("other")
    assert other is not None
    assert other.allowed
    assert "Retry-After" not in other.headers()


def test_off_means_no_limit() -> None:
    assert RateLimits("memory://", "off").take("key") is None


def test_processes_share_the_count_in_redis(redis_url: str) -> None:
    one, two = (RateLimits(redis_url, "4/minute") for _ in range(2))
    taken = [limits.take("key") for limits in (one, two, one, two, one)]
    assert [share.allowed for share in taken if share] == [True, True, True, True, False]
    assert not one.degraded


def test_without_redis_each_process_counts_for_itself_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with private_redis() as server:
        limits = RateLimits(server.url, "2/minute")
        first = limits.take("key")
        assert first is not None
        assert not limits.degraded
        server.stop()
        shares = [limits.take("key") for _ in range(3)]
        assert limits.degraded
        assert [share.allowed for share in shares if share] == [True, True, False]
        server.start()
        monkeypatch.setattr(limits, "_paused_until", 0.0)
        again = limits.take("key")
        assert again is not None
        assert again.allowed
        assert not limits.degraded


@pytest.mark.parametrize("limit", ["many", "10/fortnight", "-1/minute", ""])
def test_an_invalid_limit_is_rejected(limit: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        RateLimits("memory://", limit)
    assert refusal.value.field == "api_rate_limit"


def test_an_unknown_store_is_rejected() -> None:
    with pytest.raises(SettingsError):
        RateLimits("carrier-pigeon://", "1/minute")


@given(quota=st.integers(1, 20), asked=st.integers(0, 40))
def test_never_more_than_the_quota_is_allowed(quota: int, asked: int) -> None:
    limits = RateLimits("memory://", f"{quota}/hour")
    shares = [limits.take("key") for _ in range(asked)]
    allowed = [share for share in shares if share and share.allowed]
    assert len(allowed) == min(quota, asked)
    assert [share.remaining for share in allowed] == list(
        range(quota - 1, quota - 1 - len(allowed), -1)
    )
