"""Sessions of the console, and the tickets it asks the data plane with."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill import keyring
from tidemill.console.session import MAX_ENDED, MAX_SECONDS, RENEW_SECONDS, Sessions
from tidemill.errors import AccessError
from tidemill.keyring import Keyring
from tidemill.stores.api_keys import WatchedKeyring

IDLE = 600.0


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


class Ring(WatchedKeyring):
    """A keyring that tests change."""

    def __init__(self, ring: Keyring) -> None:
        super().__init__(Path("nowhere"))
        self.ring = ring

    def current(self) -> Keyring:
        return self.ring


class House:
    """A keyring with one key, and the sessions over it."""

    def __init__(self, expires: float | None = None) -> None:
        ring, self.token, self.key = keyring.add(
            keyring.new_keyring(), ("predict",), name="me", expires=expires
        )
        self.ring, self.clock = Ring(ring), Clock()
        self.sessions = Sessions(self.ring, IDLE, self.clock)


@pytest.fixture
def house() -> House:
    return House()


def test_a_key_opens_a_session_that_its_cookie_gives_again(house: House) -> None:
    session = house.sessions.open(house.token)
    cookie = house.sessions.cookie(session)
    assert house.sessions.read(cookie) == session
    assert house.token.rsplit("_", 1)[1] not in cookie
    assert session.allows("predict")
    assert not session.allows("admin")


@pytest.mark.parametrize("token", ["", "tm_", "tm_12345678_nothing", "anything"])
def test_what_is_no_key_opens_nothing(house: House, token: str) -> None:
    with pytest.raises(AccessError, match="unknown"):
        house.sessions.open(token)


def test_a_ticket_opens_no_session(house: House) -> None:
    ticket = house.sessions.ticket(house.sessions.open(house.token))
    with pytest.raises(AccessError):
        house.sessions.open(ticket)


def test_an_expired_key_opens_nothing_and_ends_what_it_opened() -> None:
    house = House(expires=time.time() + 100)
    cookie = house.sessions.cookie(house.sessions.open(house.token))
    assert house.sessions.read(cookie) is not None
    house.clock.now += 101
    assert house.sessions.read(cookie) is None
    with pytest.raises(AccessError):
        house.sessions.open(house.token)


@given(st.data())
def test_a_changed_cookie_is_none(data: st.DataObject) -> None:
    house = House()
    cookie = house.sessions.cookie(house.sessions.open(house.token))
    place = data.draw(st.integers(0, len(cookie) - 1))
    sign = data.draw(st.characters(codec="utf-8").filter(lambda c: c != cookie[place]))
    assert house.sessions.read(cookie[:place] + sign + cookie[place + 1 :]) is None


@given(st.text())
def test_no_text_is_a_cookie(text: str) -> None:
    assert House().sessions.read(text) is None


def test_a_revoked_key_ends_its_sessions(house: House) -> None:
    cookie = house.sessions.cookie(house.sessions.open(house.token))
    house.ring.ring = keyring.remove(house.ring.ring, house.key.id)
    assert house.sessions.read(cookie) is None


def test_a_session_ends_when_nothing_is_done(house: House) -> None:
    session = house.sessions.open(house.token)
    house.clock.now += RENEW_SECONDS + 1
    touched = house.sessions.touched(session)
    assert touched is not None
    house.clock.now += IDLE - 2
    assert house.sessions.read(house.sessions.cookie(session)) is None
    assert house.sessions.read(house.sessions.cookie(touched)) is not None
    house.clock.now += 3
    assert house.sessions.read(house.sessions.cookie(touched)) is None


def test_no_session_lasts_for_ever_however_much_is_done(house: House) -> None:
    session = house.sessions.open(house.token)
    end = house.clock.now + MAX_SECONDS
    while house.clock.now < end - IDLE:
        house.clock.now += IDLE / 2
        session = house.sessions.touched(session) or session
        assert house.sessions.read(house.sessions.cookie(session)) is not None
    house.clock.now = end + 1
    session = house.sessions.touched(session) or session
    assert house.sessions.read(house.sessions.cookie(session)) is None


def test_a_fresh_session_needs_no_new_cookie(house: House) -> None:
    assert house.sessions.touched(house.sessions.open(house.token)) is None


def test_signing_out_ends_the_session_and_no_other(house: House) -> None:
    first, second = house.sessions.open(house.token), house.sessions.open(house.token)
    house.sessions.end(first)
    assert house.sessions.read(house.sessions.cookie(first)) is None
    assert house.sessions.read(house.sessions.cookie(second)) == second


def test_what_was_signed_out_of_is_remembered_within_bounds(house: House) -> None:
    for _ in range(3):
        house.sessions.end(house.sessions.open(house.token))
    house.clock.now += IDLE + 1
    house.sessions.end(house.sessions.open(house.token))
    assert len(house.sessions._ended) == 1
    assert MAX_ENDED >= 1000


def test_the_form_token_is_of_the_session_and_outlives_its_renewal(house: House) -> None:
    first, second = house.sessions.open(house.token), house.sessions.open(house.token)
    assert house.sessions.csrf(first) != house.sessions.csrf(second)
    house.clock.now += RENEW_SECONDS + 1
    touched = house.sessions.touched(first)
    assert touched is not None
    assert house.sessions.csrf(touched) == house.sessions.csrf(first)
    assert house.sessions.csrf(first) not in house.sessions.cookie(first)


def test_a_ticket_stands_for_its_key_until_it_ends(house: House) -> None:
    ticket = house.sessions.ticket(house.sessions.open(house.token))
    found = house.ring.ring.find(ticket)
    assert found is not None
    assert (found.id, found.scopes) == (house.key.id, house.key.scopes)
    assert found.allows("predict", house.clock.now)
    assert not found.allows("predict", house.clock.now + 700)
    house.ring.ring = keyring.remove(house.ring.ring, house.key.id)
    assert house.ring.ring.find(ticket) is None


def test_a_ticket_does_not_outlive_its_key() -> None:
    house = House(expires=time.time() + 10)
    found = house.ring.ring.find(house.sessions.ticket(house.sessions.open(house.token)))
    assert found is not None
    assert found.expires == house.key.expires


@given(st.text(max_size=120), st.booleans())
def test_no_text_is_a_ticket(text: str, with_id: bool) -> None:
    house = House()
    start = f"tt_{house.key.id}_" if with_id else "tt_"
    assert house.ring.ring.find(start + text) is None


def test_a_ticket_cannot_be_made_to_last_longer(house: House) -> None:
    ticket = house.sessions.ticket(house.sessions.open(house.token))
    head, until, signature = ticket.rsplit("_", 2)
    assert house.ring.ring.find(f"{head}_{int(until, 16) + 1:x}_{signature}") is None


def test_a_cookie_is_no_ticket_and_no_key(house: House) -> None:
    cookie = house.sessions.cookie(house.sessions.open(house.token))
    assert house.ring.ring.find(cookie) is None
    assert house.ring.ring.find(f"tt_{cookie.replace('.', '_')}") is None
