"""Challengers: who may see traffic, that it is recorded, and when a canary is taken out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests.watched import NAME, Traffic, shelve, write_project
from tidemill.cli.app import app as cli
from tidemill.errors import NotFoundError, RequestError
from tidemill.loop.promotion.challenge import challenge, end_canary, set_rule
from tidemill.platform import Platform
from tidemill.policies import Challenge
from tidemill.serving.shelf.traffic_rules import TrafficRule, read_traffic
from tidemill.settings import Settings
from tidemill.steps.gate.canary import TrafficSample, check_canary
from tidemill.stores.audit import AuditEntry
from tidemill.stores.mlflow.versions import ModelVersion


class Registry:
    """A model with versions 1 to 3, and a challenger once one was named."""

    challenger: str | None = None

    def by_alias(self, name: str, alias: str) -> ModelVersion | None:
        return ModelVersion(name, self.challenger) if self.challenger else None

    def version(self, name: str, number: str | int) -> ModelVersion:
        if str(number) not in "123":
            raise NotFoundError(f"no version {number}")
        return ModelVersion(name, str(number))

    def set_challenger(self, version: ModelVersion) -> None:
        self.challenger = version.number


def ask(shelf: Path, registry: Registry, **how: Any) -> list[AuditEntry]:
    entries: list[AuditEntry] = []
    challenge(registry, shelf, NAME, actor="me", audit=entries.append, **how)  # type: ignore[arg-type]
    return entries


def test_rule_is_recorded_written_and_removed(tmp_path: Path) -> None:
    registry = Registry()
    set_rule(tmp_path, "other", TrafficRule("shadow"))
    (entry,) = ask(tmp_path, registry, mode="canary", share=0.1, version=2, reason="try it")
    assert (entry.action, entry.version, entry.reason) == ("challenge.canary", "2", "try it")
    assert registry.challenger == "2"
    assert read_traffic(tmp_path)[NAME] == TrafficRule("canary", 0.1)
    (entry,) = ask(tmp_path, registry, mode="off")
    assert entry.action == "challenge.off"
    assert read_traffic(tmp_path) == {"other": TrafficRule("shadow")}


def test_canary_ends_with_its_challenger_and_a_shadow_stays(tmp_path: Path) -> None:
    entries: list[AuditEntry] = []
    set_rule(tmp_path, NAME, TrafficRule("canary", 0.5))
    assert end_canary(tmp_path, NAME, reason="another is challenger", audit=entries.append)
    assert [(e.action, e.subject) for e in entries] == [("challenge.off", NAME)]
    assert read_traffic(tmp_path) == {}
    set_rule(tmp_path, NAME, TrafficRule("shadow"))
    assert not end_canary(tmp_path, NAME, reason="", audit=entries.append)
    assert read_traffic(tmp_path) == {NAME: TrafficRule("shadow")}
    assert len(entries) == 1


def test_without_a_challenger_there_is_no_rule(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no challenger"):
        ask(tmp_path, Registry(), mode="shadow")
    with pytest.raises(NotFoundError, match="no version 9"):
        ask(tmp_path, Registry(), mode="shadow", version=9)
    assert read_traffic(tmp_path) == {}
    ask(tmp_path, Registry(), mode="off")


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5, float("nan")])
def test_share_out_of_range_is_refused(tmp_path: Path, share: float) -> None:
    with pytest.raises(RequestError):
        ask(tmp_path, Registry(), mode="canary", share=share, version=2)


def test_change_that_cannot_be_recorded_is_not_made(tmp_path: Path) -> None:
    def refuse(entry: AuditEntry) -> None:
        raise OSError("the database is away")

    with pytest.raises(OSError, match="away"):
        challenge(Registry(), tmp_path, NAME, mode="shadow", version=2, actor="me", audit=refuse)  # type: ignore[arg-type]
    assert read_traffic(tmp_path) == {}


@pytest.mark.parametrize("words", [[], ["--shadow", "--off"], ["--canary", "0.1", "--shadow"]])
def test_command_needs_one_of_three_modes(words: list[str], home: Path) -> None:
    found = CliRunner().invoke(cli, ["challenge", NAME, *words])
    assert isinstance(found.exception, RequestError)


# The canary's policy


def sample(milliseconds: float, wrong: int, of: int = 400, answers: int = 400) -> TrafficSample:
    losses = np.r_[np.ones(wrong), np.zeros(of - wrong)]
    return TrafficSample(np.full(answers, milliseconds), losses)


def test_slow_or_wrong_canary_ends() -> None:
    policy = Challenge(max_latency=2.0)
    assert check_canary(policy, sample(1.0, 20), sample(1.0, 20)) is None
    assert "p95 latency" in str(check_canary(policy, sample(2.1, 20), sample(1.0, 20)))
    assert "mean loss" in str(check_canary(policy, sample(1.0, 100), sample(1.0, 20)))
    assert check_canary(Challenge(tolerance=0.3), sample(1.0, 100), sample(1.0, 20)) is None


@given(st.integers(0, 199), st.integers(0, 49))
def test_few_rows_give_no_canary_verdict(answers: int, labels: int) -> None:
    canary = TrafficSample(np.full(answers, 1e6), np.ones(labels))
    assert check_canary(Challenge(), canary, sample(1.0, 0)) is None


@given(st.integers(0, 300))
def test_equal_canary_continues(wrong: int) -> None:
    assert check_canary(Challenge(), sample(1.0, wrong), sample(1.0, wrong)) is None


# At a look


@pytest.fixture
def platform(home: Path) -> Iterator[Platform]:
    place = write_project(home.parent)
    opened = Platform.open(Settings(home=home, project=str(place)))
    shelve(opened.settings.shelf)
    yield opened
    opened.close()


def test_monitor_ends_a_bad_canary_and_records_it(platform: Platform) -> None:
    shelf, traffic = platform.settings.shelf, Traffic(platform)
    other = Traffic(platform, version="2", numbers=iter(range(500_000, 600_000)))
    set_rule(shelf, NAME, TrafficRule("canary", 0.3))
    other.label(other.ask(60, role="canary"))
    traffic.label(traffic.ask(100))
    platform.watcher.check(NAME)
    assert read_traffic(shelf)[NAME].mode == "canary"
    other.label(other.ask(100, role="canary"), wrong=0.6)
    traffic.label(traffic.ask(100))
    platform.watcher.check(NAME)
    assert read_traffic(shelf) == {}
    (entry,) = platform.audit.page(action="challenge.off").items
    assert (entry["actor"], entry["subject"], entry["version"]) == ("policy", NAME, "2")
    assert "mean loss" in entry["reason"]
