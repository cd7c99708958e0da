"""One look at a model: what is due, what is found, what follows, and that it follows once."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.watched import NAME, Traffic, shelve, write_project
from tidemill.errors import ConflictError, NotFoundError
from tidemill.loop.monitoring.reference import ChampionReference, ChampionReferences
from tidemill.loop.monitoring.watcher import Watcher, WatchResult
from tidemill.loop.sync.model_converter import empty_profile
from tidemill.platform import Platform
from tidemill.settings import Settings
from tidemill.steps.decay.loss_detector import loss_detector
from tidemill.stores.model_metrics import model_values
from tidemill.stores.monitoring.triggers import NewTrigger, Trigger


@pytest.fixture
def platform(home: Path, database_url: str) -> Iterator[Platform]:
    place = write_project(home.parent)
    settings = Settings(home=home, database_url=database_url, project=str(place))
    from tidemill.stores.database.database import Database
    from tidemill.stores.database.schema import migrate

    fresh = Database(database_url)
    migrate(fresh)
    fresh.close()
    opened = Platform.open(settings)
    shelve(settings.shelf)
    yield opened
    opened.close()


@pytest.fixture
def traffic(platform: Platform) -> Traffic:
    return Traffic(platform)


def tick(traffic: Traffic, **how: Any) -> WatchResult:
    return watcher_of(traffic).check(NAME, **how)


def watcher_of(traffic: Traffic) -> Watcher:
    return replace(traffic.platform.watcher, advance_retraining=None)


def open_dropped(watcher: Watcher) -> list[Trigger]:
    return watcher.files.open_dropped(watcher.trigger_actions.request)


def opened(traffic: Traffic) -> list[tuple[str, str, bool]]:
    found = traffic.platform.triggers.page(model=NAME).items
    return sorted((t.cause, t.state, t.retrains) for t in found)


def test_nothing_is_checked_before_enough_rows(traffic: Traffic) -> None:
    traffic.ask(299)
    assert not tick(traffic).checked
    traffic.ask(1)
    looked = tick(traffic)
    assert looked.checked
    assert looked.verdict["state"] == "steady"
    assert looked.verdict["drift"]["rows"] == 300
    assert not tick(traffic).checked, "each row is judged once"


def test_model_without_a_champion_is_not_found(traffic: Traffic) -> None:
    with pytest.raises(NotFoundError):
        traffic.platform.watcher.check("nobody")


def test_drift_is_reported_without_a_job_and_cleared(
    traffic: Traffic,
) -> None:
    traffic.ask(300, shift=1.5)
    looked = tick(traffic)
    assert looked.verdict["state"] == "data moved"
    assert looked.verdict["drift"]["drifted"] == ["shade"]
    assert looked.verdict["scores"]["shade"] > 0.4
    assert opened(traffic) == [("drift", "open", False)]
    traffic.ask(300, shift=1.5)
    tick(traffic)
    assert opened(traffic) == [("drift", "open", False)]
    traffic.ask(300)
    tick(traffic)
    assert opened(traffic) == [("drift", "cleared", False)]
    assert traffic.platform.jobs.page(kind="retrain").items == []


class Unprofiled(ChampionReferences):
    """Champions as they are adopted from a registry that others filled."""

    def of(self, model: str) -> ChampionReference:
        return replace(super().of(model), profile=empty_profile())


def test_champion_without_a_profile_gets_no_drift_verdict(traffic: Traffic) -> None:
    references = Unprofiled(traffic.platform.settings.shelf, lambda: traffic.platform.registry)
    watcher = replace(watcher_of(traffic), references=references)
    traffic.label(traffic.ask(300, shift=1.5))
    looked = watcher.check(NAME)
    assert looked.checked
    assert looked.verdict["state"] == "unknown"
    assert "no profile of its training data" in looked.verdict["summary"]
    assert "Train the model" in looked.verdict["summary"]
    assert opened(traffic) == []
    assert not watcher.check(NAME).checked, "the same rows are not looked at again"
    assert watcher.check(NAME, forced=True).verdict["state"] == "unknown"


def test_each_feature_has_a_row_and_the_window_its_report(traffic: Traffic) -> None:
    traffic.ask(300, shift=1.5)
    tick(traffic)
    watching = traffic.platform.monitoring_results
    rows = {row["feature"]: row for row in watching.results(model=NAME, whole=False).items}
    assert set(rows) == {
        "height", "leaves", "shade", "output", "confidence", "(all features together)",
    }  # fmt: skip
    assert rows["shade"]["drifted"]
    assert not rows["height"]["drifted"]
    (whole,) = watching.results(model=NAME, test="window").items
    assert whole["details"]["report"]["features"][0]["name"] == "shade"
    assert whole["details"]["fired"] == ["drift (report)"]


def test_wrong_predictions_retrain_once(traffic: Traffic) -> None:
    traffic.label(traffic.ask(200), wrong=0.4)
    looked = tick(traffic)
    assert looked.verdict["state"] == "model degraded"
    assert "Retrain because of decay" in looked.why
    assert opened(traffic) == [("decay", "retraining", True)]
    (job,) = traffic.platform.jobs.page(kind="retrain").items
    trigger = looked.opened[0]
    assert job.params == {"trigger": trigger.id, "reason": trigger.reason}
    assert job.idempotency_key == f"trigger:{trigger.id}"
    assert str(job.project).endswith("project.py")
    for _ in range(3):
        traffic.label(traffic.ask(200), wrong=0.4)
        assert tick(traffic).opened == ()
    assert len(traffic.platform.jobs.page(kind="retrain").items) == 1


def test_right_predictions_are_no_alarm(traffic: Traffic) -> None:
    for _ in range(4):
        traffic.label(traffic.ask(200))
        looked = tick(traffic)
    assert looked.verdict["state"] == "steady"
    assert looked.verdict["live"]["rows"] == 200
    assert opened(traffic) == []


def test_live_metric_is_stored_with_its_interval(traffic: Traffic) -> None:
    traffic.label(traffic.ask(200))
    tick(traffic)
    (live,) = model_values(traffic.platform.database, model=NAME, source="live").items
    assert live["metric"] == "accuracy"
    assert live["low"] < live["value"] < live["high"]
    traffic.ask(300)
    tick(traffic)
    (estimate,) = model_values(traffic.platform.database, model=NAME, source="estimate").items
    assert abs(estimate["value"] - live["value"]) < 0.1


def test_windows_of_a_new_champion_begin_with_its_rows(traffic: Traffic) -> None:
    traffic.label(traffic.ask(200), wrong=0.4)
    tick(traffic)
    shelve(traffic.platform.settings.shelf, "2")
    assert tick(traffic).verdict["state"] == "unknown"
    traffic.version = "2"
    traffic.label(traffic.ask(200))
    looked = tick(traffic)
    assert looked.version == "2"
    assert looked.verdict["live"]["rows"] == 200
    assert looked.verdict["state"] == "steady"


@pytest.mark.parametrize(("times", "wider"), [(60, True), (1, False)])
def test_new_champion_inherits_the_autocorrelation_time(
    traffic: Traffic, times: int, wider: bool
) -> None:
    for spell in range(600 // times):
        answered = traffic.ask(times)
        traffic.label(answered, wrong=0.8 if (spell % 2 if wider else spell % 10 < 4) else 0.0)
    tick(traffic)
    shelve(traffic.platform.settings.shelf, "2")
    tick(traffic)
    traffic.version = "2"
    traffic.label(traffic.ask(20))
    tick(traffic)
    margins = {version: _margin(traffic, version) for version in ("2", "fresh")}
    assert (margins["2"] > 1.5 * margins["fresh"]) == wider


def _margin(traffic: Traffic, version: str) -> float:
    """Of the detector that the champion has, or that one would have that knew of no spells."""
    if version == "fresh":
        reference = traffic.platform.watcher.references.of(NAME)
        assert reference.holdout is not None
        return loss_detector(reference.holdout).margin
    held = traffic.platform.monitoring_results.get(NAME)
    assert held is not None
    return float(held.state["detector"]["margin"])


def test_returning_champion_is_not_checked_on_its_earlier_rows(traffic: Traffic) -> None:
    traffic.label(traffic.ask(150), wrong=0.9)
    watcher = watcher_of(traffic)
    for version in ("1", "2", "1"):
        shelve(traffic.platform.settings.shelf, version)
        watcher.check(NAME)
    state = traffic.platform.monitoring_results.get(NAME)
    assert state is not None
    assert state.state["detector"] is None
    traffic.label(traffic.ask(200))
    assert watcher.check(NAME).verdict["live"]["rows"] == 200


def test_failed_job_closes_its_trigger_and_is_not_retried(
    traffic: Traffic,
) -> None:
    traffic.label(traffic.ask(200), wrong=0.4)
    tick(traffic)
    jobs = traffic.platform.jobs
    (job,) = jobs.page(kind="retrain").items
    held = jobs.claim(job.id, "w")
    assert held is not None
    jobs.fail(held, {"detail": "no data"})
    tick(traffic)
    (trigger,) = traffic.platform.triggers.page(model=NAME).items
    assert trigger.state == "failed"
    assert trigger.evidence["error"] == {"detail": "no data"}
    traffic.label(traffic.ask(200), wrong=0.4)
    tick(traffic)
    assert len(jobs.page(kind="retrain").items) == 1


def test_successful_job_closes_its_trigger_with_the_gates_reasons(traffic: Traffic) -> None:
    traffic.label(traffic.ask(200), wrong=0.4)
    tick(traffic)
    jobs = traffic.platform.jobs
    (job,) = jobs.page(kind="retrain").items
    held = jobs.claim(job.id, "w")
    assert held is not None
    jobs.succeed(held, {"gate": {"promoted": False, "reasons": ["not better"]}})
    tick(traffic)
    (trigger,) = traffic.platform.triggers.page(model=NAME).items
    assert trigger.state == "kept champion"


def test_missing_job_of_a_trigger_is_submitted_later(traffic: Traffic) -> None:
    trigger = traffic.platform.triggers.open(NewTrigger(NAME, "decay", "it fell", "1", "k"))
    tick(traffic)
    assert traffic.platform.triggers.get(trigger.id).state == "retraining"
    (job,) = traffic.platform.jobs.page(kind="retrain").items
    assert job.params["trigger"] == trigger.id


def test_concurrent_checks_do_not_lose_results(traffic: Traffic) -> None:
    traffic.ask(300, shift=1.5)
    watcher = watcher_of(traffic)
    inside: list[WatchResult] = []

    class Interrupting:
        """Lets another look happen between the reading of the state and its writing."""

        def __getattr__(self, name: str) -> Any:
            return getattr(watcher.monitoring_results, name)

        def save(self, findings: Any) -> Any:
            if not inside:
                inside.append(watcher.check(NAME))
            return watcher.monitoring_results.save(findings)

    disturbed = replace(watcher, monitoring_results=Interrupting())  # type: ignore[arg-type]
    second = disturbed.check(NAME)
    assert inside[0].checked
    assert not second.checked, "the other look has judged these rows"
    assert opened(traffic) == [("drift", "open", False)]


def test_forced_check_takes_the_newest_rows(traffic: Traffic) -> None:
    traffic.label(traffic.ask(80))
    looked = tick(traffic, forced=True)
    assert looked.checked
    assert (looked.verdict["drift"]["rows"], looked.verdict["live"]["rows"]) == (80, 80)


def test_model_without_a_project_is_only_reported(traffic: Traffic) -> None:
    (traffic.platform.settings.home.parent / "project.py").write_text("")
    traffic.label(traffic.ask(500), wrong=0.5)
    looked = replace(
        watcher_of(traffic), project=lambda model: (_ for _ in ()).throw(NotFoundError("none"))
    ).check(NAME)
    assert looked.checked
    assert opened(traffic) == [("decay", "open", False)]


# Trigger files


def drop(traffic: Traffic, name: str, content: str | bytes, *, old: bool = True) -> Path:
    folder = traffic.platform.settings.triggers
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.trigger"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    if old:
        os.utime(path, (1.0, 1.0))
    return path


def answer(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.with_name(f"{path.stem}.answer.json").read_text())
    return found


def test_trigger_file_has_the_final_state(traffic: Traffic) -> None:
    traffic.label(traffic.ask(200), wrong=0.4)
    (trigger,) = tick(traffic).opened
    path = traffic.platform.settings.triggers / f"{trigger.id}.trigger"
    said = json.loads(path.read_text())
    assert (said["model"], said["cause"], said["closed"]) == (NAME, "decay", None)
    open_dropped(watcher_of(traffic))
    assert len(traffic.platform.triggers.page().items) == 1, "its own files ask for nothing"
    traffic.platform.triggers.close(trigger.id, "promoted", {"version": "2"})
    tick(traffic)
    assert json.loads(path.read_text())["state"] == "promoted"


def test_dropped_file_retrains(traffic: Traffic) -> None:
    path = drop(traffic, "prices", '{"model": "plants", "reason": "new prices"}')
    (trigger,) = open_dropped(watcher_of(traffic))
    assert (trigger.cause, trigger.reason, trigger.state) == ("manual", "new prices", "retraining")
    assert answer(path) == {"accepted": True, "trigger": trigger.id}
    assert not path.exists()
    assert open_dropped(watcher_of(traffic)) == []
    second = drop(traffic, "again", '{"model": "plants"}')
    assert open_dropped(watcher_of(traffic)) == []
    assert trigger.id in answer(second)["detail"]
    assert second.with_name("again.refused").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[1, 2]", "not JSON"),
        ('{"reason": "no model"}', "model"),
        ('{"model": 7}', "str"),
        ('{"model": "plants", "mode": "x"}', "mode"),
        ('{"model": "nobody"}', "nobody"),
        (b"\xff\xfe\x00", "not JSON"),
        (b" " * 70_000, "larger than"),
    ],
    ids=["empty", "half", "list", "no model", "number", "unknown", "nobody", "bytes", "large"],
)
def test_invalid_file_gets_an_answer_file(
    traffic: Traffic, content: str | bytes, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = drop(traffic, "odd", content)
    watcher = watcher_of(traffic)
    monkeypatch.setattr(type(traffic.platform), "registry", NoRegistry())
    assert open_dropped(watcher) == []
    said = answer(path)
    assert said["accepted"] is False
    assert reason in said["detail"]
    assert path.with_suffix(".refused").exists()
    assert traffic.platform.triggers.page().items == []


class NoRegistry:
    """A registry that knows no model."""

    def latest(self, name: str) -> Any:
        raise NotFoundError(f"There is no model '{name}'.")


def test_half_written_file_is_not_refused_at_once(traffic: Traffic) -> None:
    path = drop(traffic, "slow", '{"model": "pla', old=False)
    open_dropped(watcher_of(traffic))
    assert path.exists()


def test_second_manual_trigger_is_refused(traffic: Traffic) -> None:
    actions = watcher_of(traffic).trigger_actions
    actions.request(NewTrigger(NAME, "manual", "first"))
    with pytest.raises(ConflictError):
        actions.request(NewTrigger(NAME, "manual", "second"))
