"""Console sessions, and the tickets with which the console calls the data plane."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tidemill import keyring
from tidemill.console.session import MAX_SECONDS, RENEW_SECONDS, Sessions
from tidemill.errors import AccessError
from tidemill.keyring import Keyring
from tidemill.stores.api_keys import WatchedKeyring
from tidemill.stores.ended_sessions import EndedSessions

IDLE = 600.0


class Clock:
    """A clock that tests control."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


class Ring(WatchedKeyring):
    """A keyring that tests modify."""

    def __init__(self, ring: Keyring) -> None:
        super().__init__(Path("nowhere"))
        self.ring = ring

    def current(self) -> Keyring:
        return self.ring


class Ended(EndedSessions):
    """Ended sessions without a database."""

    def __init__(self) -> None:
        self.until: dict[str, float] = {}

    def add(self, nonce: str, until: float) -> None:
        self.until[nonce] = until

    def __contains__(self, nonce: str) -> bool:
        return nonce in self.until


class SessionHarness:
    """A keyring with one key, and the sessions over it."""

    def __init__(self, expires: float | None = None) -> None:
        ring, self.token, self.key = keyring.add(
            keyring.new_keyring(), ("predict",), name="me", expires=expires
        )
        self.ring, self.clock = Ring(ring), Clock()
        self.sessions = Sessions(self.ring, IDLE, Ended(), self.clock)


@pytest.fixture
def harness() -> SessionHarness:
    return SessionHarness()


def test_the_cookie_restores_the_session_that_a_key_opened(harness: SessionHarness) -> None:
    session = harness.sessions.open(harness.token)
    cookie = harness.sessions.cookie(session)
    assert harness.sessions.read(cookie) == session
    assert harness.token.split("_", 2)[2] not in cookie
    assert session.allows("predict")
    assert not session.allows("admin")


@pytest.mark.parametrize("token", ["", "tm_", "tm_12345678_nothing", "anything"])
def test_invalid_keys_open_no_session(harness: SessionHarness, token: str) -> None:
    with pytest.raises(AccessError, match="unknown"):
        harness.sessions.open(token)


def test_a_ticket_opens_no_session(harness: SessionHarness) -> None:
    ticket = harness.sessions.ticket(harness.sessions.open(harness.token))
    with pytest.raises(AccessError):
        harness.sessions.open(ticket)


def test_an_expired_key_opens_no_session_and_ends_its_sessions() -> None:
    harness = SessionHarness(expires=time.time() + 100)
    cookie = harness.sessions.cookie(harness.sessions.open(harness.token))
    assert harness.sessions.read(cookie) is not None
    harness.clock.now += 101
    assert harness.sessions.read(cookie) is None
    with pytest.raises(AccessError):
        harness.sessions.open(harness.token)


@given(st.integers(0, 10_000), st.characters(codec="utf-8"))
def test_a_changed_cookie_is_invalid(place: int, sign: str) -> None:
    harness = SessionHarness()
    cookie = harness.sessions.cookie(harness.sessions.open(harness.token))
    place %= len(cookie)  # which varies, so it cannot be the bound of what is drawn
    assume(sign != cookie[place])
    assert harness.sessions.read(cookie[:place] + sign + cookie[place + 1 :]) is None


@given(st.text())
def test_arbitrary_text_is_not_a_cookie(text: str) -> None:
    assert SessionHarness().sessions.read(text) is None


def test_a_revoked_key_ends_its_sessions(harness: SessionHarness) -> None:
    cookie = harness.sessions.cookie(harness.sessions.open(harness.token))
    harness.ring.ring = keyring.remove(harness.ring.ring, harness.key.id)
    assert harness.sessions.read(cookie) is None


def test_an_idle_session_expires(harness: SessionHarness) -> None:
    session = harness.sessions.open(harness.token)
    harness.clock.now += RENEW_SECONDS + 1
    touched = harness.sessions.touched(session)
    assert touched is not None
    harness.clock.now += IDLE - 2
    assert harness.sessions.read(harness.sessions.cookie(session)) is None
    assert harness.sessions.read(harness.sessions.cookie(touched)) is not None
    harness.clock.now += 3
    assert harness.sessions.read(harness.sessions.cookie(touched)) is None


def test_an_active_session_expires_too(harness: SessionHarness) -> None:
    session = harness.sessions.open(harness.token)
    end = harness.clock.now + MAX_SECONDS
    while harness.clock.now < end - IDLE:
        harness.clock.now += IDLE / 2
        session = harness.sessions.touched(session) or session
        assert harness.sessions.read(harness.sessions.cookie(session)) is not None
    harness.clock.now = end + 1
    session = harness.sessions.touched(session) or session
    assert harness.sessions.read(harness.sessions.cookie(session)) is None


def test_a_fresh_session_is_not_renewed(harness: SessionHarness) -> None:
    assert harness.sessions.touched(harness.sessions.open(harness.token)) is None


def test_signing_out_ends_only_this_session(harness: SessionHarness) -> None:
    first, second = harness.sessions.open(harness.token), harness.sessions.open(harness.token)
    harness.sessions.end(first)
    assert harness.sessions.read(harness.sessions.cookie(first)) is None
    assert harness.sessions.read(harness.sessions.cookie(second)) == second


def test_the_csrf_token_belongs_to_the_session_and_survives_renewal(
    harness: SessionHarness,
) -> None:
    first, second = harness.sessions.open(harness.token), harness.sessions.open(harness.token)
    assert harness.sessions.csrf(first) != harness.sessions.csrf(second)
    harness.clock.now += RENEW_SECONDS + 1
    touched = harness.sessions.touched(first)
    assert touched is not None
    assert harness.sessions.csrf(touched) == harness.sessions.csrf(first)
    assert harness.sessions.csrf(first) not in harness.sessions.cookie(first)


def test_a_ticket_is_valid_until_it_expires(harness: SessionHarness) -> None:
    ticket = harness.sessions.ticket(harness.sessions.open(harness.token))
    found = harness.ring.ring.find(ticket)
    assert found is not None
    assert (found.id, found.scopes) == (harness.key.id, harness.key.scopes)
    assert found.allows("predict", harness.clock.now)
    assert not found.allows("predict", harness.clock.now + 700)
    harness.ring.ring = keyring.remove(harness.ring.ring, harness.key.id)
    assert harness.ring.ring.find(ticket) is None


def test_a_ticket_does_not_outlive_its_key() -> None:
    harness = SessionHarness(expires=time.time() + 10)
    found = harness.ring.ring.find(harness.sessions.ticket(harness.sessions.open(harness.token)))
    assert found is not None
    assert found.expires == harness.key.expires


@given(st.text(max_size=120), st.booleans())
def test_arbitrary_text_is_not_a_ticket(text: str, with_id: bool) -> None:
    harness = SessionHarness()
    start = f"tt_{harness.key.id}_" if with_id else "tt_"
    assert harness.ring.ring.find(start + text) is None


def test_a_tickets_expiry_cannot_be_changed(harness: SessionHarness) -> None:
    ticket = harness.sessions.ticket(harness.sessions.open(harness.token))
    head, until, signature = ticket.rsplit("_", 2)
    assert harness.ring.ring.find(f"{head}_{int(until, 16) + 1:x}_{signature}") is None


def test_a_cookie_is_neither_a_ticket_nor_a_key(harness: SessionHarness) -> None:
    cookie = harness.sessions.cookie(harness.sessions.open(harness.token))
    assert harness.ring.ring.find(cookie) is None
    assert harness.ring.ring.find(f"tt_{cookie.replace('.', '_')}") is None
