"""Keys, scopes, expiry, revocation and rate limits, in the fast protocol and the ASGI app."""

from __future__ import annotations

import asyncio
import http.client
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill import keyring
from tidemill.keyring import Keyring, Scope

from .conftest import FLOATS, Start, Tidemill, make_shelf, starting, wait_read, wait_until

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


class KeySwitch:
    """A server with two keys, each of which can be revoked and added again at once."""

    def __init__(self, home: Path, running: Tidemill) -> None:
        self.home, self.running = home, running
        self.ring, first = add(home, keyring.new_keyring(), "predict")
        self.ring, second = add(home, self.ring, "predict")
        self.tokens = (first, second)
        self.valid = {first, second}

    def set(self, valid: set[str]) -> None:
        """Make these keys the valid ones; returns when the server has read the keyring."""
        self.valid = valid
        keys = [r for r, t in zip(self.ring.keys, self.tokens, strict=True) if t in valid]
        write(self.home, msgspec.structs.replace(self.ring, keys=tuple(keys)))

        async def refresh() -> None:
            self.running.service.keys.refresh()

        loop = self.running.server.servers[0].get_loop()
        asyncio.run_coroutine_threadsafe(refresh(), loop).result(60)


@pytest.fixture(scope="module")
def switch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeySwitch]:
    home = tmp_path_factory.mktemp("home")
    make_shelf(home / "shelf", ("classifier",))
    with starting(home) as begin_server:
        yield KeySwitch(home, begin_server(auth="on", rate_limit_address="off"))


class Exchange(NamedTuple):
    """A request sent in two parts; `before` and `between` toggle the validity of keys."""

    path: str
    key: int
    prefix: str  # line ends before the request
    cut: float  # where the second part begins, as a fraction of the request
    before: int | None
    between: int | None


def raw(exchange: Exchange, token: str) -> tuple[bytes, int]:
    """The bytes of the request and the length of its head, both with the prefix."""
    body = msgspec.json.encode(BODY)
    head = (
        f"{exchange.prefix}POST {exchange.path} HTTP/1.1\r\nHost: t\r\nX-API-Key: {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    return head + body, len(head)


def toggle(switch: KeySwitch, key: int | None) -> None:
    if key is not None:
        switch.set(switch.valid ^ {switch.tokens[key]})


def send(connection: socket.socket, switch: KeySwitch, exchange: Exchange) -> tuple[int, bool]:
    """The status of the response, and whether the key was valid for head and body."""
    token = switch.tokens[exchange.key]
    toggle(switch, exchange.before)
    data, head = raw(exchange, token)
    cut = int(len(data) * exchange.cut)
    connection.sendall(data[:cut])
    wait_read(connection)
    valid = token in switch.valid or cut < head
    if cut < len(data):
        toggle(switch, exchange.between)
        valid = valid and token in switch.valid
        connection.sendall(data[cut:])
    got = connection.recv(65536)
    length = int(got.lower().split(b"content-length: ")[1].split(b"\r")[0])
    while len(got.partition(b"\r\n\r\n")[2]) < length:
        got += connection.recv(65536)
    return int(got[9:12]), valid


toggles = st.sampled_from([None, None, None, 0, 1])
exchanges = st.builds(
    Exchange,
    st.sampled_from(LANES),
    st.integers(0, 1),
    st.sampled_from(["", "", "", "\r\n", "\r\n\r\n"]),
    st.sampled_from([1.0, 1.0, 0.0, 0.2, 0.9, 0.99]),
    toggles,
    toggles,
)


@settings(max_examples=60)
@given(st.lists(exchanges, min_size=2, max_size=12))
def test_a_key_must_be_valid_when_a_request_is_complete(
    switch: KeySwitch, order: list[Exchange]
) -> None:
    switch.set(set(switch.tokens))
    with switch.running.connect() as connection:
        for exchange in order:
            status, valid = send(connection, switch, exchange)
            assert status == (200 if valid else 403), exchange


def test_a_request_that_was_admitted_before_a_revocation_does_not_renew_the_key(
    switch: KeySwitch,
) -> None:
    switch.set(set(switch.tokens))
    revoked = Exchange("/predict", 0, "", 0.9, None, 0)
    later = revoked._replace(cut=1.0, between=None)
    with switch.running.connect() as connection:
        assert send(connection, switch, revoked)[0] == 403
        assert [send(connection, switch, later)[0] for _ in range(3)] == [403] * 3


@pytest.mark.parametrize("pause", [True, False])
def test_a_refused_request_does_not_lend_its_head_to_the_next_one(
    switch: KeySwitch, pause: bool
) -> None:
    """The second request begins after an empty line, so that its head is not learned."""
    switch.set({switch.tokens[0]})
    refused = Exchange("/predict", 1, "", 1.0, None, None)
    valid = Exchange("/predict", 0, "\r\n", 1.0, None, None)
    with switch.running.connect() as connection:
        if pause:
            assert send(connection, switch, refused)[0] == 403
            assert send(connection, switch, valid)[0] == 200
        else:
            data = raw(refused, switch.tokens[1])[0] + raw(valid, switch.tokens[0])[0]
            connection.sendall(data)
            got = b""
            while got.count(b"HTTP/1.1 ") < 2 or not got.endswith(b"}"):
                got += connection.recv(65536)
        assert [send(connection, switch, refused)[0] for _ in range(2)] == [403] * 2


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


def test_keys_stay_valid_while_their_file_cannot_be_read(
    home: Path, start: Start, path: str
) -> None:
    ring, good = add(home, keyring.new_keyring(), "predict")
    running = begin(home, start)
    file = home / "keys.json"

    def state() -> tuple[object, object]:
        body = running.ask("/ready").json()
        return body["keys"], body["status"]

    assert state() == ("ok", "ready")
    for damage in (lambda: file.write_text("{"), lambda: file.write_text(""), file.unlink):
        damage()
        wait_until(lambda: state() == ("stale", "degraded"), "the problem to be reported")
        assert running.ask(path, BODY, good).status == 200
        assert running.ask(path, BODY, "tm_1_unknown").status == 403
        assert "tidemill_keys_stale 1.0" in running.ask("/metrics").body.decode()
        keyring.save(file, ring)
        wait_until(lambda: state() == ("ok", "ready"), "the file to be read again")
    keyring.save(file, msgspec.structs.replace(ring, keys=()))
    wait_until(lambda: running.ask(path, BODY, good).status == 403, "the revocation")


def test_without_a_readable_file_at_the_start_no_key_is_valid(
    home: Path, start: Start, path: str
) -> None:
    ring, good = add(home, keyring.new_keyring(), "predict")
    (home / "keys.json").write_text("{")
    running = begin(home, start)
    assert running.ask(path, BODY, good).status == 403
    assert running.ask("/ready").json()["keys"] == "stale"
    keyring.save(home / "keys.json", ring)
    wait_until(lambda: running.ask(path, BODY, good).status == 200, "the keys to be read")


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
