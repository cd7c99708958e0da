"""Addresses: URLs that hold any name, IPv6, and no proxy for requests to this machine."""

from __future__ import annotations

import contextlib
import http.server
import os
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import create_engine, make_url, text

from tidemill.addresses import (
    LOOPBACK,
    bind_socket,
    bypass_proxies,
    client_network,
    folder_of,
    folder_url,
    http_url,
    open_url,
    plain_address,
)
from tidemill.settings import Settings, sqlite_url

NAMES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1
).filter(lambda name: name not in (".", ".."))
HOSTILE = "a #1?x=50%20 'q\"\n\té&;=+@:\\"


@given(NAMES)
def test_a_url_leads_back_to_its_path_whatever_the_name(name: str) -> None:
    path = Path("/tmp") / name / "x.db"
    assert make_url(sqlite_url(path)).database == str(path)
    assert folder_of(folder_url(path)) == path


def test_a_database_is_opened_in_a_folder_of_any_name(tmp_path: Path) -> None:
    path = tmp_path / HOSTILE / "x.db"
    path.parent.mkdir()
    engine = create_engine(sqlite_url(path))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (x)"))
    engine.dispose()
    opened = sqlite3.connect(path)
    assert opened.execute("SELECT name FROM sqlite_schema").fetchone() == ("t",)
    opened.close()
    assert [p.name for p in tmp_path.iterdir()] == [HOSTILE]


def test_homes_that_differ_after_a_special_character_share_nothing(tmp_path: Path) -> None:
    for name in ("a#{}", "a?{}", "a%2{}", "a b;{}"):
        one, two = (Settings(home=tmp_path / name.format(n)) for n in (1, 2))
        assert folder_of(one.broker_uri) == one.home / "broker"
        assert folder_of(one.broker_uri) != folder_of(two.broker_uri)
        assert one.database_uri != two.database_uri


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("example.org", "http://example.org:80"),
        ("::1", "http://[::1]:80"),
        ("[::1]", "http://[::1]:80"),
        ("2001:db8::1", "http://[2001:db8::1]:80"),
        ("::", "http://[::1]:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("", "http://127.0.0.1:80"),
    ],
)
def test_the_url_of_a_server_on_this_machine(host: str, url: str) -> None:
    assert http_url(host, 80) == url


def has_ipv6() -> bool:
    try:
        bind_socket("::1", 0).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "", "0.0.0.0", "::1", "[::1]", "::"])
def test_a_server_is_reached_at_its_url_and_without_the_proxy(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if ":" in host and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")  # refuses
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(name, "example.org")
    bypass_proxies(host)
    listener = bind_socket(host, 0)
    with serving(listener) as url, open_url(url, 60) as answer:
        assert answer.status == 200
        assert httpx.get(url, timeout=60).status_code == 200
        # As MLflow's client does, in a process that inherits the environment.
        code = f"import requests; print(requests.get({url!r}, timeout=60).status_code)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout == "200\n", done.stderr
    assert os.environ["NO_PROXY"].split(",")[:4] == ["example.org", *LOOPBACK]


@contextlib.contextmanager
def serving(listener: socket.socket) -> Iterator[str]:
    """An HTTP server on a bound socket; its URL."""
    server = http.server.HTTPServer(("", 0), Ok, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    listener.listen()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield http_url(*listener.getsockname()[:2])
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Ok(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::2", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("", ""),
        ("not:an:address", "not:an:address"),
    ],
)
def test_clients_are_counted_by_address_or_64_bit_network(address: str, network: str) -> None:
    assert client_network(address) == network


def test_an_ipv4_client_of_a_socket_for_both_families_has_its_usual_address() -> None:
    assert plain_address("::ffff:10.0.0.1") == "10.0.0.1"
    assert plain_address("::1") == "::1"
