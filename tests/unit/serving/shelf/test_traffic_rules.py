"""Traffic rules: their file, and which requests they select."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.errors import BundleError
from tidemill.serving.http.routes import Admission, RequestHead, Response, Route
from tidemill.serving.model.challenger import canary_bucket, is_selected
from tidemill.serving.shelf.traffic_rules import (
    TrafficRule,
    read_traffic,
    traffic_watch,
    write_traffic,
)

ROUTE = Route("POST", "/predict", lambda request: Response(b""))


def asked(
    key: str | None = None, client: str = "10.0.0.1", header: bytes | None = None
) -> Admission:
    headers = [(b"x-request-key", header)] if header is not None else []
    return Admission(
        ROUTE, RequestHead("POST", "/predict", headers=headers, client=client), key_id=key
    )


def test_rules_survive_the_round_trip_in_the_documented_format(tmp_path: Path) -> None:
    assert read_traffic(tmp_path) == {}
    rules = {
        "m": TrafficRule("canary", 0.25, "header"),
        "n": TrafficRule("shadow"),
        "o": TrafficRule(),
    }
    write_traffic(tmp_path / "shelf", rules)
    assert read_traffic(tmp_path / "shelf") == rules
    assert json.loads((tmp_path / "shelf" / "traffic.json").read_text()) == {
        "format": 1,
        "models": {
            "m": {"mode": "canary", "share": 0.25, "sticky": "header"},
            "n": {"mode": "shadow", "share": 1.0, "sticky": "key"},
            "o": {"mode": "off", "share": 1.0, "sticky": "key"},
        },
    }
    assert [path.name for path in (tmp_path / "shelf").iterdir()] == ["traffic.json"]


def test_omitted_fields_have_defaults(tmp_path: Path) -> None:
    (tmp_path / "traffic.json").write_text('{"models": {"m": {"mode": "canary"}}}')
    assert read_traffic(tmp_path) == {"m": TrafficRule("canary", 1.0, "key")}


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "{}", '{"format": 1}', '{"format": 2, "models": {}}',
        '{"models": {"m": {"mode": "half"}}}',
        '{"models": {"m": {"share": 1.5}}}', '{"models": {"m": {"share": "1"}}}', '"\\ud800"',
    ],
)  # fmt: skip
def test_rules_that_cannot_be_read_are_a_bundle_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "traffic.json").write_text(text)
    with pytest.raises(BundleError, match=r"traffic\.json"):
        read_traffic(tmp_path)


def test_a_share_out_of_range_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="share"):
        write_traffic(tmp_path, {"m": TrafficRule("canary", 1.5)})
    assert not list(tmp_path.iterdir())


def test_a_watch_returns_each_change_once(tmp_path: Path) -> None:
    watch = traffic_watch(tmp_path)
    assert watch.poll() == {}
    assert watch.poll() is None
    write_traffic(tmp_path, {"m": TrafficRule("shadow")})
    assert watch.poll() == {"m": TrafficRule("shadow")}
    assert watch.poll() is None


def test_a_share_selects_about_that_share_of_clients() -> None:
    rule = TrafficRule("canary", 0.2)
    chosen = sum(is_selected(rule, asked(key=f"k{i}")) for i in range(4000))
    assert 640 < chosen < 960  # six standard deviations around 800


@given(caller=st.text(), model=st.text(max_size=20), small=st.floats(0, 1), more=st.floats(0, 1))
def test_a_larger_share_keeps_the_clients_it_had(
    caller: str, model: str, small: float, more: float
) -> None:
    small, large = sorted((small, more))
    assert 0.0 <= canary_bucket(caller, model) < 1.0
    assert canary_bucket(caller, model) == canary_bucket(caller, model)
    if canary_bucket(caller, model) < small:
        assert canary_bucket(caller, model) < large


def test_the_header_takes_precedence_over_the_key_and_the_address() -> None:
    by_header = TrafficRule("canary", 0.5, "header")
    by_key = TrafficRule("canary", 0.5, "key")
    for i in range(50):
        name = f"c{i}"
        same = {
            is_selected(by_header, asked("k", header=name.encode())),
            is_selected(by_header, asked(name)),
            is_selected(by_key, asked(name, header=b"whatever")),
            is_selected(by_key, asked(None, name)),
        }
        assert len(same) == 1


def test_shares_of_zero_and_one_are_certain() -> None:
    for sticky in ("key", "header", "none"):
        assert not any(
            is_selected(TrafficRule("canary", 0.0, sticky), asked(f"{i}")) for i in range(99)
        )
        assert all(
            is_selected(TrafficRule("canary", 1.0, sticky), asked(f"{i}")) for i in range(99)
        )
    assert not any(is_selected(TrafficRule("shadow", 0.0), asked()) for _ in range(99))
