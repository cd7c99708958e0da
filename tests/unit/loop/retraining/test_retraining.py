"""Retraining and its contest, from labelled predictions in the database to the registry."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import msgspec
import numpy as np
import pandas as pd
import pytest

from tidemill.loop.promotion.promote import promote
from tidemill.loop.promotion.transitions import ROLLED_BACK_TAG
from tidemill.loop.replay.player import ReplayPlayer, ReplayStores
from tidemill.loop.replay.record import ReplayPace
from tidemill.loop.retraining.jobs import (
    read_retraining_params,
    read_retraining_result,
    read_staleness_result,
)
from tidemill.loop.retraining.retraining import RetrainingService
from tidemill.loop.retraining.staleness import parse_settings
from tidemill.loop.training.train import train
from tidemill.platform import Platform
from tidemill.project import Candidate
from tidemill.serving.journal.record_types import JournalRecord
from tidemill.settings import Settings
from tidemill.steps.decay.holdout import read_holdout, row_losses
from tidemill.steps.decay.loss_detector import loss_detector
from tidemill.steps.retraining.monitoring_state import MonitoringState
from tidemill.stores.jobs.jobs import Job, NewJob
from tidemill.stores.mlflow.tracking import Tracking
from tidemill.stores.mlflow.versions import CHAMPION
from tidemill.stores.monitoring.triggers import NewTrigger
from tidemill.stores.predictions.feedback import NewLabel
from tidemill.worker.retraining import run_retrain, run_staleness_check

PROJECT = """
from sklearn.linear_model import LogisticRegression
from tidemill import Candidate, Contest, Gate, Project, csv

project = Project(
    name="tides",
    data=csv("rows.csv"),
    target="level",
    candidates=[Candidate("linear", LogisticRegression, search={"C": [1.0]})],
    gate=Gate(metric="accuracy"),
    contest=Contest(fewest=60, rows=500, challengers=2),
)
"""


def rows(count: int, seed: int, *, turned: bool = False) -> pd.DataFrame:
    """The level follows the moon, or against it once the tide has turned."""
    random = np.random.default_rng(seed)
    moon, wind = random.normal(size=count), random.normal(size=count)
    high = (moon + 0.3 * wind > 0) != turned
    port = random.choice(["Brest", "Cuxhaven"], count)
    level = np.where(high ^ (random.random(count) < 0.05), "high", "low")
    return pd.DataFrame({"moon": moon, "wind": wind, "port": port, "level": level})


class Harbour:
    """A platform with one trained champion, and a way to tell it what turned out to be true."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "project.py"
        settings = Settings(home=folder / "home", project=str(self.file))
        self.platform = Platform.open(settings)
        self.clock = itertools.count()

    def train(self) -> None:
        settings, project = self.platform.settings, self.platform.projects.get("tides").project
        train(project, Tracking(settings.mlflow_uri, artifact_root=settings.artifact_root))
        assert promote(project, self.platform.registry, "tides").promoted

    @property
    def champion(self) -> str:
        found = self.platform.registry.by_alias("tides", CHAMPION)
        assert found is not None
        return found.number

    def live(self, frame: pd.DataFrame) -> None:
        """Predict the rows with the champion, record that, and send the truth."""
        from tidemill.loop.promotion.bundle_evaluation import evaluate_bundle

        held = self.platform.retraining.contests.bundle("tides", self.champion)
        answers = evaluate_bundle(held, frame).predicted
        names = list(held.signature.names)
        records, labels = [], []
        for values, answer, truth in zip(
            frame[names].to_numpy().tolist(), answers, frame["level"], strict=True
        ):
            tick = next(self.clock)
            records.append(
                JournalRecord(f"p{tick:06d}", 1000.0 + tick, "tides", self.champion, 1, "values",
                       [values], [answer], None, 0.001)
            )  # fmt: skip
            labels.append(NewLabel(f"p{tick:06d}", truth))
        self.platform.predictions.add(records, {("tides", self.champion): held.signature})
        self.platform.feedback.add(labels)

    def settle(self) -> None:
        """Send turned rows until no contest is open."""
        for seed in range(30, 40):
            self.platform.retraining.advance("tides")
            if self.platform.contests.opened("tides") is None:
                return
            self.live(rows(200, seed=seed, turned=True))
        raise AssertionError("the contest does not end")

    def job(
        self, cause: str | None = "decay", attempts: int = 1, changed: float | None = 1200.0
    ) -> Job:
        """A retraining job; the alarm that opened its trigger found a change point."""
        params = {}
        if cause is not None:
            opened = self.platform.triggers.open(
                NewTrigger("tides", cause, "it got worse", changed=changed)
            )
            params = {"trigger": opened.id}
        job, _ = self.platform.submit(
            NewJob("retrain", "tides", project=str(self.file), params=params)
        )
        return replace(job, attempts=attempts)

    def retrain(self, job: Job) -> dict[str, Any]:
        return run_retrain(self.platform, job, lambda report: None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Path:
    """The folder of a harbour with its first champion, to be copied."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "project.py").write_text(PROJECT)
    table = rows(400, seed=1)
    table.loc[:9, "wind"] = np.nan  # no later row misses it, and none tells of this port
    table.loc[10:19, "port"] = "Husum"
    table.to_csv(folder / "rows.csv", index=False)
    (folder / "home").mkdir()
    shutil.copy(mlflow_template, folder / "home" / "mlflow.db")
    made = Harbour(folder)
    made.train()
    made.platform.close()
    return folder


@contextmanager
def copied(source: Path, folder: Path) -> Iterator[Harbour]:
    """A harbour of its own with what the other has come to; their artifacts are shared."""
    shutil.copytree(source, folder, dirs_exist_ok=True)
    made = Harbour(folder)
    try:
        yield made
    finally:
        made.platform.close()


@pytest.fixture(scope="module")
def harbour(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harbour]:
    with copied(trained, tmp_path_factory.mktemp("harbour")) as made:
        yield made


@pytest.fixture
def fresh(trained: Path, tmp_path: Path) -> Iterator[Harbour]:
    """A harbour for one test, in which nothing has happened since the training."""
    with copied(trained, tmp_path) as made:
        yield made


def test_retraining_replaces_a_degraded_champion(harbour: Harbour) -> None:
    platform = harbour.platform
    harbour.live(rows(200, seed=2))
    assert harbour.champion == "1"
    # Too soon after the tide turned nothing is trained.
    harbour.live(rows(80, seed=3, turned=True))
    job = harbour.job()
    platform.triggers.start(job.params["trigger"], job.id)
    early = harbour.retrain(job)
    waiting = read_retraining_result(early).postponed
    assert waiting is not None
    assert waiting.needed == 150
    assert 60 <= waiting.rows <= 90
    claimed = platform.jobs.claim(job.id, "worker")
    assert claimed is not None
    platform.jobs.succeed(claimed, early)
    platform.retraining.advance("tides")
    assert platform.triggers.get(job.params["trigger"]).job_id == job.id
    # With more rows the newest models compete, and one that learned from them wins.
    harbour.live(rows(200, seed=4, turned=True))
    platform.retraining.advance("tides")
    job = platform.jobs.get(str(platform.triggers.get(job.params["trigger"]).job_id))
    assert read_retraining_params(job).changed == waiting.changed
    result = harbour.retrain(replace(job, attempts=1))
    assert result["contest"]["state"] == "won", result
    assert harbour.champion != "1"
    trigger = platform.triggers.get(job.params["trigger"])
    assert trigger.state == "promoted"
    contest = platform.contests.by_job(job.id)
    assert contest is not None
    assert contest.winner == harbour.champion
    winner = platform.registry.version("tides", harbour.champion)
    assert winner.tags["tidemill.window"] == "since"
    assert winner.tags["tidemill.gate.verdict"] == "passed"
    # It learned from the newest rows only, and takes all that the first champion took.
    _, wind, port = platform.retraining.contests.bundle("tides", winner.number).signature.columns
    assert wind.nullable
    assert port.categories == ("Brest", "Cuxhaven", "Husum")
    kept = platform.registry.version("tides", "3") if harbour.champion == "2" else winner
    assert kept.tags["tidemill.contest.state"] in ("lost", "won")
    # The same job again, after its worker died, opens nothing new and registers nothing new.
    before = [version.number for version in platform.registry.versions("tides")]
    again = harbour.retrain(replace(job, attempts=2))
    assert again["contest"]["id"] == result["contest"]["id"]
    assert [version.number for version in platform.registry.versions("tides")] == before
    # There is three times as much to learn from: it is retrained once more, and once only.
    harbour.live(rows(600, seed=5, turned=True))
    platform.retraining.advance("tides")
    more = platform.triggers.newest("tides")
    assert more is not None
    assert (more.cause, more.state) == ("labels", "retraining")
    platform.retraining.advance("tides")
    assert platform.triggers.newest("tides") == more
    grown = harbour.retrain(replace(platform.jobs.get(str(more.job_id)), attempts=1))
    assert grown["contest"]["state"] in ("open", "won", "kept")


@pytest.fixture(scope="module")
def retrained(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a harbour whose tide has turned, and whose second champion knows."""
    folder = tmp_path_factory.mktemp("retrained")
    with copied(trained, folder) as made:
        made.live(rows(200, seed=2))
        made.live(rows(280, seed=4, turned=True))
        assert made.retrain(made.job())["contest"]["state"] == "won"
        assert made.champion != "1"
    return folder


@pytest.fixture
def turned(retrained: Path, tmp_path: Path) -> Iterator[Harbour]:
    with copied(retrained, tmp_path) as made:
        yield made


def test_resumed_retraining_uses_the_stored_change_point(fresh: Harbour) -> None:
    """Losses that begin to run again and again leave too few rows since the newest beginning."""
    harbour = fresh
    harbour.live(rows(200, seed=2))
    harbour.live(rows(80, seed=3, turned=True))
    job = harbour.job()
    found = harbour.retrain(replace(job, params={**job.params, "changed": 1100.0}))
    assert read_retraining_result(found).postponed is None
    contest = harbour.platform.contests.by_job(job.id)
    assert contest is not None
    assert (contest.changed, contest.learned) == (1100.0, 180)


def returned(harbour: Harbour, serving: str) -> str | None:
    """Why a replay waits for another version than the one that answers."""
    platform = harbour.platform
    stores = ReplayStores(
        platform.predictions, platform.feedback, platform.jobs, platform.triggers,
        platform.contests,
    )  # fmt: skip
    with httpx.Client() as client:
        setup: Any = SimpleNamespace(project=platform.projects.get("tides").project)
        signature: Any = None
        player = ReplayPlayer(
            setup, ReplayPace(), client, stores, signature, ingest=lambda: None,
            check=lambda: None, champion=lambda: serving,
        )  # fmt: skip
        return player._restored()


def test_former_champion_returns_when_it_is_better_again(turned: Harbour) -> None:
    """The rows that decided were of a spell; those since then are as before."""
    platform, winner = turned.platform, turned.champion
    platform.retraining.advance("tides")
    assert turned.champion == winner  # no row tells yet
    turned.clock = itertools.count(int(time.time()))  # asked after the contest
    turned.live(rows(59, seed=5))
    platform.retraining.advance("tides")
    assert turned.champion == winner  # fewer than the fewest
    turned.live(rows(200, seed=6))
    job = turned.job("decay")
    platform.retraining.advance("tides")
    assert turned.champion == winner  # a retraining is under way, both will be part of it
    platform.triggers.close(job.params["trigger"], "kept champion", {})
    platform.retraining.advance("tides")
    assert turned.champion == "1"
    contest = platform.contests.newest("tides")
    assert contest is not None
    assert (contest.winner, contest.resulting_champion) == (winner, "1")
    assert contest.probation is not None
    assert contest.probation["state"] == "back"
    assert contest.probation["rows"] < 100
    assert f"since the promotion of version {winner}" in contest.probation["reason"]
    (newest, *_) = platform.audit.page(limit=1).items
    assert (newest["action"], newest["version"]) == ("version.promote", "1")
    assert newest["reason"] == contest.probation["reason"]
    assert returned(turned, winner) == contest.probation["reason"]  # a replay tells of it
    assert returned(turned, "1") is None
    # It is over, whatever comes; what was to be learned from more rows is learned all the same.
    turned.live(rows(100, seed=7, turned=True))
    platform.retraining.advance("tides")
    assert turned.champion == "1"
    turned.live(rows(400, seed=8))
    platform.retraining.advance("tides")
    more = platform.triggers.newest("tides")
    assert more is not None
    assert (more.cause, more.state) == ("labels", "retraining")


def test_probation_ends_when_the_champion_is_better(turned: Harbour) -> None:
    platform, winner = turned.platform, turned.champion
    turned.clock = itertools.count(int(time.time()))
    turned.live(rows(200, seed=5, turned=True))
    platform.retraining.advance("tides")
    contest = platform.contests.newest("tides")
    assert contest is not None
    assert contest.probation is not None
    assert contest.probation["state"] == "over"
    assert contest.resulting_champion == turned.champion == winner
    turned.live(rows(200, seed=6))  # too late for the former champion to be back by itself
    platform.retraining.advance("tides")
    assert turned.champion == winner


def test_rolled_back_version_ends_the_probation(turned: Harbour) -> None:
    platform, winner = turned.platform, turned.champion
    former = platform.registry.version("tides", "1")
    platform.registry.set_tags(former, {ROLLED_BACK_TAG: "it was wrong"})
    turned.clock = itertools.count(int(time.time()))
    turned.live(rows(200, seed=5))
    platform.retraining.advance("tides")
    contest = platform.contests.newest("tides")
    assert contest is not None
    assert contest.probation == {"state": "over", "reason": "Version 1 was rolled back."}
    assert turned.champion == winner


def test_second_attempt_discards_versions_and_equal_model_does_not_win(
    harbour: Harbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand, with nothing wrong: no versions are left over, and the champion stays."""
    platform = harbour.platform
    harbour.settle()
    job, champion = harbour.job(cause=None), harbour.champion

    def dies(*_: object) -> None:
        raise RuntimeError("killed")

    before = {version.number for version in platform.registry.versions("tides")}
    with monkeypatch.context() as patch:
        patch.setattr(RetrainingService, "_former_champions", dies)
        with pytest.raises(RuntimeError, match="killed"):
            harbour.retrain(job)
    assert {version.number for version in platform.registry.versions("tides")} > before
    harbour.retrain(replace(job, attempts=2))
    new = {version.number for version in platform.registry.versions("tides")} - before
    contest = platform.contests.by_job(job.id)
    assert contest is not None
    assert new == {c.version for c in contest.challengers if not c.former}
    harbour.settle()
    closed = platform.contests.by_job(job.id)
    assert closed is not None
    assert (closed.state, harbour.champion) == ("kept", champion)
    loser = platform.registry.version("tides", min(new, key=int))
    assert (loser.stage, loser.tags["tidemill.contest.state"]) == ("None", "lost")


def test_staleness_check_finds_an_outdated_champion(
    harbour: Harbour,
) -> None:
    """The first champion has never seen the tide turned; a model from newer rows has."""
    platform = harbour.platform
    params = {"rows": 300}
    job, _ = platform.submit(NewJob("spar", "tides", project=str(harbour.file), params=params))
    before = run_staleness_check(platform, job, lambda report: None)
    assert read_staleness_result(before).outdated is False
    first = platform.registry.version("tides", "1")
    platform.registry.set_champion(first)
    harbour.live(rows(500, seed=20, turned=True))
    found = read_staleness_result(run_staleness_check(platform, job, lambda report: None))
    assert found.outdated is True
    assert found.newer_loss is not None
    assert found.champion_loss is not None
    assert found.newer_loss < 0.5 * found.champion_loss


def test_autocorrelated_losses_are_no_change_point(fresh: Harbour) -> None:
    """Days of forty rows, every fourth of them bad: no run of losses says that things changed."""
    harbour = fresh
    frame = rows(2000, seed=30)
    random, day = np.random.default_rng(31), np.arange(2000) // 40
    wrong = (day % 4 == 3) & (random.random(2000) < 0.5)
    other = np.where(frame["level"] == "high", "low", "high")
    harbour.live(frame.assign(level=np.where(wrong, other, frame["level"])))
    platform = harbour.platform
    held = platform.retraining.contests.bundle("tides", "1")
    holdout = read_holdout(held.profile())
    assert holdout is not None
    window = platform.predictions.window("tides", labelled=True)
    losses = row_losses("classification", window.actual, window.outputs)
    alone = loss_detector(holdout)
    alone.update(losses)
    assert alone.alarm  # it would be a change, if rows said as much as independent ones
    replace(platform.watcher, advance_retraining=None).check("tides")
    row = platform.monitoring_results.get("tides")
    assert row is not None
    state = msgspec.convert(row.state, MonitoringState)
    assert state.detector is not None
    assert state.detector.rows == 2000
    assert state.changed is None


def test_logged_settings_are_parsed() -> None:
    candidate = Candidate("c", object, search={"C": [0.1, 1.0], "depth": [None, 3], "rate": (0, 1)})
    logged = {"C": "0.1", "depth": "None", "rate": "0.25", "other": "x"}
    assert parse_settings(candidate, logged) == {"C": 0.1, "depth": None, "rate": 0.25}
