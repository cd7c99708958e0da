"""What people and programs see of watching: routes, metrics, the page, the command."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from tests.servers import serving
from tests.watched import NAME, Traffic, shelve, write_project
from tidemill import keyring
from tidemill.api.app import create_app
from tidemill.cli.app import app as cli
from tidemill.errors import NotFoundError
from tidemill.loop.monitoring.report import find_window, make_report
from tidemill.platform import Platform
from tidemill.settings import Settings


@pytest.fixture
def platform(home: Path) -> Iterator[Platform]:
    place = write_project(home.parent)
    opened = Platform.open(Settings(home=home, project=str(place)))
    shelve(opened.settings.shelf)
    yield opened
    opened.close()


@pytest.fixture
def traffic(platform: Platform) -> Traffic:
    return Traffic(platform)


@pytest.fixture
def client(platform: Platform) -> Iterator[httpx.Client]:
    ring, token, _ = keyring.add(keyring.new_keyring(), ("train",), name="t")
    keyring.save(platform.settings.keys_file, ring)
    headers = {"X-API-Key": token}
    with (
        serving(create_app(platform)) as url,
        httpx.Client(base_url=url, headers=headers, timeout=300) as made,
    ):
        yield made


def hurt(traffic: Traffic) -> None:
    """A window that moved, and labels that say that the model is worse."""
    traffic.label(traffic.ask(300, shift=1.5), wrong=0.4)
    traffic.platform.watcher.check(NAME)


def test_health_lists_the_state_of_each_model(client: httpx.Client, traffic: Traffic) -> None:
    assert client.get("/monitoring/health").json() == {"models": []}
    hurt(traffic)
    (found,) = client.get("/monitoring/health", params={"model": NAME}).json()["models"]
    assert found["state"] == "data moved and model degraded"
    assert found["basis"] == "labels"
    assert set(found["alarms"]) == {"drift", "decay"}
    assert found["live"]["rows"] == 200
    assert found["drift"]["window_start"].endswith("Z")
    assert found["open_triggers"] == 2
    assert client.get("/monitoring/health", params={"model": "other"}).json() == {"models": []}


def test_drift_and_performance_are_listed_by_page(client: httpx.Client, traffic: Traffic) -> None:
    hurt(traffic)
    drifted = client.get("/monitoring/drift", params={"whole": False, "drifted": True}).json()
    assert "shade" in [row["feature"] for row in drifted["items"]]
    first = client.get("/monitoring/drift", params={"limit": 1, "whole": True}).json()
    assert first["next"]
    second = client.get("/monitoring/drift", params={"limit": 1, "cursor": first["next"]}).json()
    assert second["items"][0]["id"] != first["items"][0]["id"]
    (live,) = client.get("/monitoring/performance", params={"model": NAME}).json()["items"]
    assert live["low"] <= live["value"] <= live["high"]
    guesses = client.get("/monitoring/performance", params={"source": "estimate"}).json()
    assert [row["metric"] for row in guesses["items"]] == ["accuracy"]
    refused = client.get("/monitoring/drift", params={"cursor": "x"})
    assert (refused.status_code, refused.json()["field"]) == (422, "cursor")


def test_manual_trigger_retrains_and_a_second_is_refused(
    client: httpx.Client, traffic: Traffic
) -> None:
    order = {"model": NAME, "reason": "new prices"}
    made = client.post("/monitoring/triggers", json=order)
    assert made.status_code == 202
    assert (made.json()["cause"], made.json()["state"]) == ("manual", "retraining")
    assert made.json()["actor"].startswith("key:")
    again = client.post("/monitoring/triggers", json=order)
    assert again.status_code == 409
    assert made.json()["id"] in again.json()["detail"]
    (listed,) = client.get("/monitoring/triggers", params={"model": NAME}).json()["items"]
    assert client.get(f"/monitoring/triggers/{listed['id']}").json() == listed
    refused = client.post(
        f"/monitoring/triggers/{listed['id']}/dismiss", json={"reason": "no longer"}
    )
    assert refused.status_code == 409
    assert client.get("/jobs", params={"kind": "retrain"}).json()["items"]


def test_a_reported_alarm_can_be_dismissed(client: httpx.Client, traffic: Traffic) -> None:
    traffic.ask(300, shift=1.5)
    traffic.platform.watcher.check(NAME)
    (trigger,) = client.get("/monitoring/triggers").json()["items"]
    path = f"/monitoring/triggers/{trigger['id']}/dismiss"
    assert client.post(path, json={"reason": "known"}).json()["state"] == "dismissed"
    assert client.post(path, json={"reason": "known"}).status_code == 409


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"model": "", "reason": "x"}, 422),
        ({"model": NAME}, 422),
        ({"model": NAME, "reason": ""}, 422),
        ({"model": 7, "reason": "x"}, 422),
        ({"model": "nobody", "reason": "x"}, 404),
    ],
)
def test_invalid_requests_are_refused(client: httpx.Client, body: Any, status: int) -> None:
    answer = client.post("/monitoring/triggers", json=body)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


def test_changes_need_the_train_scope(client: httpx.Client, platform: Platform) -> None:
    token, _ = platform.keys.create(("predict",), actor="t", name="p", lifetime=None)
    weak = {"X-API-Key": token}
    order = {"model": NAME, "reason": "x"}
    assert client.post("/monitoring/triggers", json=order, headers=weak).status_code == 403
    assert client.post("/monitoring/check", json={"model": NAME}, headers=weak).status_code == 403


def test_forced_check_returns_the_verdict(client: httpx.Client, traffic: Traffic) -> None:
    traffic.label(traffic.ask(80))
    found = client.post("/monitoring/check", json={"model": NAME}).json()
    assert found["checked_now"] is True
    assert found["state"] == "steady"
    assert found["live"]["rows"] == 80
    assert client.post("/monitoring/check", json={"model": "nobody"}).status_code == 404


def test_prometheus_sees_scores_metrics_and_triggers(
    client: httpx.Client, traffic: Traffic
) -> None:
    hurt(traffic)
    text = client.get("/metrics").text
    score = re.search(rf'tidemill_drift_score{{feature="shade",model="{NAME}"}} (\S+)', text)
    assert score is not None
    assert float(score[1]) > 0.4
    assert f'tidemill_live_metric{{metric="accuracy",model="{NAME}",version="1"}}' in text
    assert f'tidemill_triggers_total{{cause="decay",model="{NAME}"}} 1.0' in text
    assert (
        f'tidemill_model_state{{model="{NAME}",state="data moved and model degraded"}} 1.0' in text
    )
    assert f'tidemill_watch_age_seconds{{model="{NAME}"}}' in text


class Page(HTMLParser):
    """Collects what a page loads, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [str(v) for k, v in attrs if k in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.words += data


def test_report_is_self_contained(traffic: Traffic) -> None:
    hurt(traffic)
    platform = traffic.platform
    page = Page(make_report(platform.monitoring_results, platform.triggers, NAME))
    assert len(page.sources) == 2
    assert all(source.startswith("data:image/svg+xml;base64,") for source in page.sources)
    assert "data moved and model degraded" in page.words
    assert "Retrain because of decay" in page.words
    assert "{{" not in page.words
    assert page.words.index("shade") < page.words.index("leaves")


def test_report_of_a_model_without_a_window(traffic: Traffic) -> None:
    platform = traffic.platform
    with pytest.raises(NotFoundError):
        make_report(platform.monitoring_results, platform.triggers, NAME)
    platform.watcher.check(NAME)
    page = Page(make_report(platform.monitoring_results, platform.triggers, NAME))
    assert "No window was checked yet" in page.words
    with pytest.raises(NotFoundError):
        find_window(platform.monitoring_results, NAME, 7)


def test_reasons_are_escaped_in_the_report(client: httpx.Client, traffic: Traffic) -> None:
    evil = "<script>alert(1)</script> {{summary}}"
    client.post("/monitoring/triggers", json={"model": NAME, "reason": evil})
    traffic.platform.watcher.check(NAME)
    answer = client.get("/monitoring/report", params={"model": NAME})
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert "<script" not in answer.text
    assert evil in Page(answer.text).words


def test_commands_check_once_and_write_the_report(
    traffic: Traffic, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = traffic.platform
    traffic.label(traffic.ask(300))
    monkeypatch.setenv("TIDEMILL_HOME", str(platform.settings.home))
    run = CliRunner().invoke
    looked = run(cli, ["watch", "--once", "--json"])
    assert looked.exit_code == 0, looked.output
    (verdict,) = json.loads(looked.stdout)
    assert (verdict["model"], verdict["state"], verdict["checked_now"]) == (NAME, "steady", True)
    again = run(cli, ["watch", NAME, "--once"])
    assert "plants v1: steady" in again.stdout
    written = run(cli, ["report", NAME, "-o", "out/page.html"])
    assert written.exit_code == 0, written.output
    assert "steady" in Path("out/page.html").read_text()
