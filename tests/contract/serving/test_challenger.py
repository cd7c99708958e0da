"""A challenger next to its champion: as a shadow, or as a canary."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tidemill.bundle import Bundle
from tidemill.serving.journal.record_types import JournalRecord
from tidemill.serving.journal.segments import read_segment, segments
from tidemill.serving.model import challenger as challengers
from tidemill.serving.model.challenger import canary_bucket
from tidemill.serving.shelf.shelf import ShelfState, write_state
from tidemill.serving.shelf.traffic_rules import TrafficRule, write_traffic

from .conftest import FLOATS, Start, Tidemill, classifier, put, regressor, wait_until

ROW = [1.0] * len(FLOATS)
BODY = {"features": ROW}


@pytest.fixture
def beside(home: Path, tmp_path: Path, start: Start) -> Callable[..., Tidemill]:
    """beside(rule): a server with version 1 as champion and version 2 as challenger."""

    def begin(rule: TrafficRule, challenger: Bundle | None = None, **settings: Any) -> Tidemill:
        shelf = home / "shelf"
        one = put(shelf, "classifier", "1", classifier(tmp_path / "one"))
        made = challenger or classifier(tmp_path / "two", seed=2)
        two = put(shelf, "classifier", "2", made)
        state = ShelfState(models={"classifier": one}, challengers={"classifier": two})
        write_state(shelf, msgspec.structs.replace(state, synced_at=time.time()))
        write_traffic(shelf, {"classifier": rule})
        running = start(**settings)
        if rule.mode != "off" and rule.share > 0:
            wait_until(lambda: info(running)["challenger"], "the challenger")
        return running

    return begin


def info(running: Tidemill) -> Any:
    return running.ask("/models/classifier/info").json()


def records(home: Path, role: str) -> list[JournalRecord]:
    found = []
    for segment in segments(home / "journal"):
        found += [r for r in read_segment(segment.path, 0).records if r.role == role]
    return found


def metric(running: Tidemill, start: str) -> float:
    lines = running.ask("/metrics").body.decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(start))


def test_a_shadows_answers_are_only_recorded(beside: Callable[..., Tidemill], home: Path) -> None:
    running = beside(TrafficRule("shadow"))
    headers = {"X-Request-ID": "mine"}
    one = running.ask("/predict", BODY, headers=headers).json()
    many = running.ask("/predict_batch", {"instances": [ROW, [2.0] * 6]}).json()
    split = {"dataframe_split": {"columns": list(FLOATS), "data": [ROW]}}
    running.ask("/invocations", split)
    tensor = {"name": "x", "datatype": "FP64", "shape": [1, 6], "data": ROW}
    assert running.ask("/v2/models/classifier/infer", {"inputs": [tensor]}).status == 200
    wait_until(lambda: len(records(home, "shadow")) == 4, "four shadows")
    champions = {r.id: r for r in records(home, "champion")}
    shadows = records(home, "shadow")
    assert {r.id for r in shadows} == set(champions)
    assert (one["version"], {r.version for r in shadows}) == ("1", {"2"})
    for shadow in shadows:
        champion = champions[shadow.id]
        assert shadow.features == champion.features
        assert shadow.request_id == champion.request_id
        assert shadow.probabilities != champion.probabilities
        assert shadow.row_ids() == champion.row_ids()
    batch = next(r for r in shadows if r.rows == 2)
    assert batch.row_ids() == [f"{many['id']}-0", f"{many['id']}-1"]
    assert metric(running, 'tidemill_role_predictions_total{model="classifier"') == 5
    assert metric(running, 'model_predictions_total{model="classifier",version="2"') == 0
    text = running.ask("/metrics").body.decode()
    posts = [r for r in text.splitlines() if r.startswith("http_requests_total") and "POST" in r]
    assert sum(float(r.rpartition(" ")[2]) for r in posts) == 4


def test_the_champions_response_is_sent_before_its_shadow_runs(
    beside: Callable[..., Tidemill], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = beside(TrafficRule("shadow"))
    free = threading.Event()
    (companion,) = [p.traffic_split for p in running.service.models.predictors.values()]
    runtime = companion.challenger._runtime  # type: ignore[union-attr]
    original = runtime.run

    class Slow:
        def run(self, inputs: Any) -> Any:
            assert free.wait(300)
            return original(inputs)

    monkeypatch.setattr(companion.challenger, "_runtime", Slow())  # type: ignore[union-attr]
    monkeypatch.setattr(companion.challenger, "_inline", -1.0)  # type: ignore[union-attr]
    for _ in range(3):
        assert running.ask("/predict", BODY).status == 200
    assert not records(home, "shadow")
    free.set()
    wait_until(lambda: len(records(home, "shadow")) == 3, "the shadows")


def test_shadows_that_do_not_fit_the_queue_are_dropped_and_counted(
    beside: Callable[..., Tidemill], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(challengers, "QUEUE_SIZE", 2)
    monkeypatch.setattr(challengers, "IDLE_SECONDS", 0.3)
    running = beside(TrafficRule("shadow"))
    for _ in range(8):
        assert running.ask("/predict", BODY).status == 200
    found = 'tidemill_shadow_dropped_total{model="classifier",version="2"}'
    wait_until(lambda: metric(running, found) + len(records(home, "shadow")) == 8, "all")
    assert metric(running, found) > 0


def test_a_challenger_with_other_inputs_does_not_affect_the_champion(
    beside: Callable[..., Tidemill], tmp_path: Path, home: Path
) -> None:
    running = beside(TrafficRule("shadow"), regressor(tmp_path / "other"))
    assert running.ask("/predict", BODY).status == 200
    errors = 'tidemill_role_errors_total{model="classifier"'
    wait_until(lambda: metric(running, errors) == 1, "the error")
    assert not records(home, "shadow")


def test_a_canary_gets_its_share_of_callers_and_keeps_them(
    beside: Callable[..., Tidemill], home: Path
) -> None:
    running = beside(TrafficRule("canary", 0.5, "header"))
    seen: dict[str, set[str]] = {}
    for name in [f"caller {i}" for i in range(20)] * 2:
        answer = running.ask("/predict", BODY, headers={"X-Request-Key": name}).json()
        seen.setdefault(name, set()).add(answer["version"])
    for name, versions in seen.items():
        assert versions == {"2" if canary_bucket(name, "") < 0.5 else "1"}
    canaries = records(home, "canary")
    assert {r.version for r in canaries} == {"2"}
    assert len(canaries) == sum(2 for v in seen.values() if v == {"2"}) > 0
    assert len(canaries) + len(records(home, "champion")) == 40
    assert metric(running, 'model_predictions_total{model="classifier",version="2"') == len(
        canaries
    )


def test_canaries_work_in_every_protocol(beside: Callable[..., Tidemill], home: Path) -> None:
    running = beside(TrafficRule("canary", 1.0))
    assert running.ask("/predict", BODY).json()["version"] == "2"
    assert running.ask("/predict_batch", {"instances": [ROW]}).json()["version"] == "2"
    tensor = {"name": "x", "datatype": "FP64", "shape": [1, 6], "data": ROW}
    v2 = running.ask("/v2/models/classifier/infer", {"inputs": [tensor]}).json()
    assert v2["model_version"] == "2"
    split = {"dataframe_split": {"columns": list(FLOATS), "data": [ROW]}}
    assert running.ask("/invocations", split).status == 200
    assert len(records(home, "canary")) == 4
    named = running.ask("/v2/models/classifier/versions/1/infer", {"inputs": [tensor]}).json()
    assert named["model_version"] == "1"


@pytest.mark.parametrize("how", ["refuses the row", "fails on it", "fails in a thread"])
def test_the_champion_answers_if_the_canary_fails(
    beside: Callable[..., Tidemill],
    tmp_path: Path,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    other = regressor(tmp_path / "other") if how == "refuses the row" else None
    running = beside(TrafficRule("canary", 1.0), other)
    (companion,) = [p.traffic_split for p in running.service.models.predictors.values()]
    challenger = companion.challenger  # type: ignore[union-attr]

    class Broken:
        def run(self, inputs: Any) -> Any:
            raise RuntimeError("broken")

    if other is None:
        monkeypatch.setattr(challenger, "_runtime", Broken())
        monkeypatch.setattr(challenger, "_inline", -1.0 if "thread" in how else 1.0)
    for body in (BODY, {"instances": [ROW, ROW]}):
        answer = running.ask("/predict", body)
        assert (answer.status, answer.json()["version"]) == (200, "1")
    assert metric(running, 'tidemill_canary_fallbacks_total{model="classifier",version="2"}') == 2
    assert [len(records(home, role)) for role in ("champion", "canary")] == [2, 0]
    refused = running.ask("/predict", {"features": ["x"] * 6})
    assert (refused.status, refused.json()["field"]) == (422, FLOATS[0])
    assert metric(running, 'tidemill_canary_fallbacks_total{model="classifier",version="2"}') == 2


def test_traffic_rules_can_change_while_serving(
    beside: Callable[..., Tidemill], home: Path
) -> None:
    running = beside(TrafficRule("off"))
    assert running.ask("/predict", BODY).json()["version"] == "1"
    shelf = home / "shelf"

    def version() -> str:
        return str(running.ask("/predict", BODY).json()["version"])

    write_traffic(shelf, {"classifier": TrafficRule("canary", 1.0)})
    wait_until(lambda: version() == "2", "the canary")
    (shelf / "traffic.json").write_text("{")  # what cannot be read changes nothing
    time.sleep(0.2)
    assert version() == "2"
    write_traffic(shelf, {"classifier": TrafficRule("canary", 0.0)})
    wait_until(lambda: version() == "1", "the champion")
    assert info(running)["challenger"] is None


def test_a_new_champion_keeps_the_challenger(
    beside: Callable[..., Tidemill], home: Path, tmp_path: Path
) -> None:
    running = beside(TrafficRule("canary", 1.0))
    state = running.service.models.state
    three = put(home / "shelf", "classifier", "3", classifier(tmp_path / "three", seed=3))
    write_state(home / "shelf", msgspec.structs.replace(state, models={"classifier": three}))
    models = running.service.models
    wait_until(lambda: models.predictors["classifier"].version == "3", "the new champion")
    wait_until(lambda: running.ask("/predict", BODY).json()["version"] == "2", "the canary")
    now = msgspec.structs.replace(state, models=state.challengers, challengers={})
    write_state(home / "shelf", now)
    wait_until(lambda: models.predictors["classifier"].version == "2", "its promotion")
    wait_until(lambda: info(running)["challenger"] is None, "no challenger")
    assert running.ask("/predict", BODY).json()["version"] == "2"


def test_a_damaged_challenger_is_not_served(beside: Callable[..., Tidemill], home: Path) -> None:
    running = beside(TrafficRule("off"))
    (folder,) = [p.folder for p in running.service.models.state.challengers.values()]
    model = home / "shelf" / folder / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1])
    write_traffic(home / "shelf", {"classifier": TrafficRule("canary", 1.0)})
    refusals = 'tidemill_model_refusals_total{model="classifier"}'
    wait_until(lambda: metric(running, refusals) == 1, "the refusal")
    assert running.ask("/predict", BODY).json()["version"] == "1"
    assert running.ask("/ready").status == 200
