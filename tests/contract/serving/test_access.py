"""Keys, scopes, expiry, revocation and rate limits, in the fast protocol and the ASGI app."""

from __future__ import annotations

import http.client
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from tidemill import keyring
from tidemill.keyring import Keyring, Scope

from .conftest import FLOATS, Start, Tidemill, make_shelf, wait_until

BODY = {"features": [1.0] * len(FLOATS)}
LANES = ("/predict", "/predict?slow=1")


def write(home: Path, ring: Keyring) -> None:
    keyring.save(home / "keys.json", ring)


def add(
    home: Path, ring: Keyring, *scopes: Scope, expires: float | None = None
) -> tuple[Keyring, str]:
    ring, token, _ = keyring.add(ring, scopes, expires=expires)
    write(home, ring)
    return ring, token


@pytest.fixture(params=LANES, ids=["fast", "ordinary"])
def path(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def begin(home: Path, start: Start, **settings: Any) -> Tidemill:
    make_shelf(home / "shelf", ("classifier",))
    return start(auth="on", **settings)


def test_without_a_key_file_the_remedy_names_the_command(
    home: Path, start: Start, path: str
) -> None:
    got = begin(home, start).ask(path, BODY, "tm_abc_def")
    assert got.status == 403
    assert "tidemill keys create" in got.json()["remedy"]


def test_only_a_valid_key_with_the_scope_may_predict(home: Path, start: Start, path: str) -> None:
    ring, good = add(home, keyring.new_keyring(), "predict")
    ring, train = add(home, ring, "train")
    ring, admin = add(home, ring, "admin")
    ring, old = add(home, ring, "predict", expires=time.time() - 1)
    running = begin(home, start)
    assert running.ask(path, BODY, good).status == 200
    assert running.ask(path, BODY, admin).status == 200
    refused = {None: "no API key", "": "not known", "tm_x_y": "not known", good[:-1]: "not known"}
    refused |= {train: "lacks the scope 'predict'", old: "has expired"}
    for key, words in refused.items():
        headers = {} if key is None else {"X-API-Key": key}
        got = running.ask(path, BODY, headers=headers)
        assert (got.status, got.headers["content-type"]) == (403, "application/problem+json")
        assert words in got.json()["detail"]
        assert got.json()["remedy"]


def test_a_bearer_token_is_a_key_too(home: Path, start: Start, path: str) -> None:
    _, good = add(home, keyring.new_keyring(), "predict")
    running = begin(home, start)
    for value in (f"Bearer {good}", f"bearer  {good} "):
        assert running.ask(path, BODY, headers={"Authorization": value}).status == 200
    for value in (f"Basic {good}", "Bearer", f"Bearer {good}x"):
        assert running.ask(path, BODY, headers={"Authorization": value}).status == 403
    both = {"Authorization": f"Bearer {good}", "X-API-Key": "wrong"}
    assert running.ask(path, BODY, headers=both).status == 403


def test_public_paths_need_no_key(home: Path, start: Start) -> None:
    running = begin(home, start)
    for public in ("/health", "/ready", "/info", "/schema", "/metrics", "/openapi.json", "/docs"):
        assert running.ask(public).status == 200, public


def test_a_revoked_key_stops_working_on_an_open_connection(home: Path, start: Start) -> None:
    ring, good = add(home, keyring.new_keyring(), "predict")
    running = begin(home, start)
    body = msgspec.json.encode(BODY)
    request = (
        f"POST /predict HTTP/1.1\r\nHost: t\r\nX-API-Key: {good}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    with running.connect() as connection:

        def status() -> bytes:
            connection.sendall(request)
            return connection.recv(65536)[9:12]

        assert [status() for _ in range(3)] == [b"200"] * 3
        write(home, msgspec.structs.replace(ring, keys=()))
        wait_until(lambda: status() == b"403", "the key to be refused")
        write(home, ring)
        wait_until(lambda: status() == b"200", "the key to be taken again")


def test_a_key_that_expires_stops_working_on_an_open_connection(
    home: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, good = add(home, keyring.new_keyring(), "predict", expires=time.time() + 3600)
    running = begin(home, start)
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=300)
    body, headers = msgspec.json.encode(BODY), {"X-API-Key": good}

    def status() -> int:
        connection.request("POST", "/predict", body, headers)
        got = connection.getresponse()
        got.read()
        return got.status

    assert [status(), status()] == [200, 200]
    later = SimpleNamespace(
        time=lambda: time.time() + 3601, monotonic=lambda: time.monotonic() + 3601
    )
    monkeypatch.setattr("tidemill.serving.http.dispatcher.time", later)
    monkeypatch.setattr("tidemill.serving.http.api_keys.time", later)
    assert status() == 403
    connection.close()


def test_an_unreadable_key_file_rejects_every_key(home: Path, start: Start, path: str) -> None:
    _, good = add(home, keyring.new_keyring(), "predict")
    running = begin(home, start)
    for text in ("{", '{"pepper": "xyz"}', ""):
        (home / "keys.json").write_text(text)
        wait_until(lambda: running.ask(path, BODY, good).status == 403, "the lock-out")


def test_each_key_has_its_own_rate_limit(home: Path, start: Start, path: str) -> None:
    ring, one = add(home, keyring.new_keyring(), "predict")
    _, two = add(home, ring, "predict")
    running = begin(home, start, rate_limit="3/hour")
    left = []
    for _ in range(3):
        got = running.ask(path, BODY, one)
        assert got.status == 200
        assert got.headers["ratelimit-policy"] == '"key";q=3;w=3600'
        left.append(got.headers["ratelimit"])
    assert left[0] == '"key";r=2;t=1200'
    assert [each[:9] for each in left] == ['"key";r=2', '"key";r=1', '"key";r=0']
    over = running.ask(path, BODY, one)
    assert (over.status, over.headers["content-type"]) == (429, "application/problem+json")
    assert 1100 < int(over.headers["retry-after"]) <= 1200
    assert over.headers["ratelimit"].startswith('"key";r=0;t=')
    assert running.ask(path, BODY, two).status == 200
    assert running.ask("/health").status == 200
    assert "tidemill_rate_limited_total 1.0" in running.ask("/metrics").body.decode()


def test_fast_protocol_and_asgi_app_share_a_rate_limit(home: Path, start: Start) -> None:
    _, one = add(home, keyring.new_keyring(), "predict")
    running = begin(home, start, rate_limit="4/hour")
    statuses = [running.ask(LANES[i % 2], BODY, one).status for i in range(6)]
    assert statuses == [200] * 4 + [429] * 2


def test_callers_without_a_key_are_limited_by_address(home: Path, start: Start) -> None:
    _, good = add(home, keyring.new_keyring(), "predict")
    running = begin(home, start, rate_limit_address="2/hour")
    found = [running.ask("/predict", BODY, "wrong") for _ in range(3)]
    assert [a.status for a in found] == [403, 403, 429]
    assert found[0].headers["ratelimit-policy"] == '"address";q=2;w=3600'
    assert running.ask("/predict", BODY, good).status == 200


@pytest.mark.parametrize(("trusted", "shared"), [("127.0.0.1", False), ("10.0.0.1", True)])
def test_the_address_behind_a_trusted_proxy_is_limited(
    home: Path, start: Start, path: str, trusted: str, shared: bool
) -> None:
    make_shelf(home / "shelf", ("classifier",))
    running = start(auth="off", rate_limit="1/hour", trusted_proxies=trusted)
    statuses = [
        running.ask(path, BODY, headers={"X-Forwarded-For": address}).status
        for address in ("192.0.2.1", "192.0.2.2", "192.0.2.1")
    ]
    assert statuses == ([200, 429, 429] if shared else [200, 200, 429])


def test_rate_limits_can_be_turned_off(home: Path, start: Start, path: str) -> None:
    make_shelf(home / "shelf", ("classifier",))
    got = start(rate_limit="off").ask(path, BODY)
    assert got.status == 200
    assert "ratelimit" not in got.headers
