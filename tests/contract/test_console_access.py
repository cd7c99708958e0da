"""Who gets into the console: sign-outs on several servers, throttled attempts, the docs page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.servers import serving, wait_until
from tidemill.api.app import create_app
from tidemill.platform import Platform
from tidemill.settings import Settings
from tidemill.stores.database.database import Database

# MLflow's own use of SQLAlchemy.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")


@pytest.fixture
def settings(database: Database, mlflow_home: Path) -> Settings:
    return Settings(
        home=mlflow_home,
        database_url=database.engine.url.render_as_string(hide_password=False),
        project="gallery:iris",
        log_level="ERROR",
    )


@contextmanager
def served(settings: Settings, **changes: Any) -> Iterator[tuple[str, Platform]]:
    platform = Platform.open(settings.model_copy(update=changes))
    with serving(create_app(platform)) as url:
        yield url, platform
    platform.close()


def sign_in(url: str, key: str, **more: Any) -> httpx.Response:
    return httpx.post(f"{url}/console/sign-in", data={"key": key}, timeout=60, **more)


def cookie_of(answer: httpx.Response) -> str:
    assert answer.status_code == 303, answer.text
    return next(value for name, value in answer.cookies.items() if "session" in name)


def is_signed_in(url: str, cookie: str) -> bool:
    name = f"tidemill_session_{httpx.URL(url).port}"
    page = httpx.get(f"{url}/console/settings", headers={"Cookie": f"{name}={cookie}"}, timeout=60)
    return page.status_code == 200


def sign_out(url: str, cookie: str) -> None:
    headers = {"Cookie": f"tidemill_session_{httpx.URL(url).port}={cookie}"}
    page = httpx.get(f"{url}/console/settings", headers=headers, timeout=60).text
    found = re.search(r'name="csrf"[^>]*value="([^"]+)"', page)
    assert found
    form = {"csrf": found.group(1)}
    answer = httpx.post(f"{url}/console/sign-out", headers=headers, data=form, timeout=60)
    assert answer.status_code == 303


def test_a_copied_cookie_is_worthless_after_signing_out(settings: Settings) -> None:
    with served(settings) as (first, platform), served(settings) as (second, _):
        key, _ = platform.keys.create(("admin",), actor="test")
        copied, other = cookie_of(sign_in(first, key)), cookie_of(sign_in(first, key))
        assert is_signed_in(first, copied)
        assert is_signed_in(second, copied)
        sign_out(first, copied)
        assert not is_signed_in(first, copied)
        wait_until(lambda: not is_signed_in(second, copied), "the other server to refuse it")
        assert is_signed_in(second, other)
    with served(settings) as (restarted, platform):
        assert not is_signed_in(restarted, copied)
        assert is_signed_in(restarted, other)
        platform.keys.revoke(other.partition(".")[0], actor="test")
        wait_until(lambda: not is_signed_in(restarted, other), "the revoked key to end it")


def test_attempts_of_one_address_do_not_lock_out_another(settings: Settings) -> None:
    changes = {"sign_in_rate_limit": "3/minute", "sign_in_total_rate_limit": "5/minute"}
    with served(settings, **changes) as (url, platform):
        key, _ = platform.keys.create(("admin",), actor="test")

        def attempt(address: str, tried: str = "tm_wrong") -> int:
            return sign_in(url, tried, headers={"X-Forwarded-For": address}).status_code

        assert [attempt("192.0.2.1") for _ in range(4)] == [403, 403, 403, 429]
        assert attempt("192.0.2.1", key) == 429
        assert [attempt("192.0.2.2") for _ in range(3)] == [403, 429, 429]
        assert attempt("192.0.2.3", key) == 303
        assert [attempt("192.0.2.4"), attempt("192.0.2.4", key)] == [403, 429]


def test_the_page_of_the_api_loads_nothing(settings: Settings) -> None:
    with served(settings) as (url, _):
        answer = httpx.get(f"{url}/api/docs", timeout=60)
        document = httpx.get(f"{url}/api/openapi.json", timeout=60).json()
        assert httpx.get(f"{url}/docs").headers["location"] == "/api/docs"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"<(script|link|img|iframe|object)|@import|url\(|src=", answer.text)
    assert all(f"<code>{path}</code>" in answer.text for path in document["paths"])
