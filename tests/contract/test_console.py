"""The console over HTTP: pages, sign-in, CSRF protection and scopes."""

from __future__ import annotations

import html
import json
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import httpx
import msgspec
import numpy as np
import pytest

from tests.contract.test_api import PROJECT
from tests.servers import wait_until
from tidemill.api.app import create_app
from tidemill.console import render
from tidemill.console.app import ACTIONS, PAGES
from tidemill.loop.ingest.process import open_ingest
from tidemill.loop.promotion.promote import promote
from tidemill.loop.training.train import train
from tidemill.platform import Platform
from tidemill.policies import Contest
from tidemill.serving.server.asgi import ServingApp
from tidemill.serving.server.server import ServingServer
from tidemill.serving.server.sockets import bind
from tidemill.serving.service import Service
from tidemill.serving.settings import load
from tidemill.serving.shelf.shelf import ShelfState, install_bundle, write_state
from tidemill.serving.shelf.traffic_rules import TrafficRule, read_traffic
from tidemill.settings import Settings
from tidemill.steps.retraining.contest import decide_contest
from tidemill.steps.search.search import SearchOptions
from tidemill.stores.jobs.jobs import Job, NewJob
from tidemill.stores.mlflow.evidence import read_intervals
from tidemill.stores.mlflow.tracking import Tracking
from tidemill.stores.retraining.contests import ContestChallenger, NewContest

# MLflow's own use of SQLAlchemy.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")

SCOPES = ("predict", "train", "promote", "admin")
ROW = {
    "sepal length (cm)": 5.1, "sepal width (cm)": 3.5,
    "petal length (cm)": 1.4, "petal width (cm)": 0.2,
}  # fmt: skip


@dataclass
class Visitor:
    """A browser session over HTTP."""

    client: httpx.Client
    url: str
    key: str = ""

    def sign_in(self) -> httpx.Response:
        return self.client.post(f"{self.url}/console/sign-in", data={"key": self.key})

    def page(self, path: str, **more: Any) -> httpx.Response:
        return self.client.get(f"{self.url}/console{path}", **more)

    @property
    def csrf(self) -> str:
        found = re.search(r'name="csrf" content="([^"]+)"', self.page("/settings").text)
        assert found is not None
        return found[1]

    def send(self, path: str, **fields: str) -> httpx.Response:
        data = {"csrf": self.csrf, **fields}
        return self.client.post(f"{self.url}/console{path}", data=data)

    def ask(self, path: str, body: str | bytes, media: str = "application/json") -> httpx.Response:
        headers = {"X-CSRF-Token": self.csrf, "Content-Type": media}
        return self.client.post(f"{self.url}/console{path}", content=body, headers=headers)


@dataclass
class RunningConsole:
    """Both planes on one port, with one model of two versions."""

    platform: Platform
    url: str
    keys: dict[str, str]
    visitors: list[Visitor] = field(default_factory=list)

    def visitor(self, scope: str | None = "admin") -> Visitor:
        """A new browser session, signed in with a key of the scope; None does not sign in."""
        client = httpx.Client(timeout=300, follow_redirects=True)
        made = Visitor(client, self.url, self.keys[scope] if scope else "")
        self.visitors.append(made)
        if scope:
            assert made.sign_in().status_code == 200
        return made

    def close(self) -> None:
        for visitor in self.visitors:
            visitor.client.close()


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Settings:
    """A home with a model that was trained twice, and whose first version is champion."""
    home = tmp_path_factory.mktemp("console") / ".tidemill"
    home.mkdir()
    shutil.copy(mlflow_template, home / "mlflow.db")
    (home / "flowers.py").write_text(PROJECT)
    made = Settings(
        home=home, project=str(home / "flowers.py"), log_level="ERROR", sign_in_rate_limit="off"
    )
    platform = Platform.open(made)
    project = platform.projects.get("flowers").project
    for only in ("logistic", "second"):
        tracking = Tracking(made.mlflow_uri, artifact_root=made.artifact_root)
        train(project, tracking, SearchOptions(only=[only]))
    promote(
        project, platform.registry, "flowers", version=1, force=True, reason="first",
        audit=platform.audit_transition,
    )  # fmt: skip
    version = platform.registry.version("flowers", 1)
    with tempfile.TemporaryDirectory() as scratch:
        held = platform.registry.fetch_bundle(version, Path(scratch))
        placed = install_bundle(made.shelf, "flowers", "1", held.path, held.digest)
    write_state(made.shelf, ShelfState(models={"flowers": placed}, synced_at=time.time()))
    platform.close()
    return made


@pytest.fixture(scope="module")
def console(settings: Settings) -> Iterator[RunningConsole]:
    platform = Platform.open(settings)
    keys = {scope: platform.keys.create((scope,), actor="test")[0] for scope in SCOPES}
    with both_planes(platform) as url:
        made = RunningConsole(platform, url, keys)
        yield made
        made.close()
    platform.close()


class both_planes:  # noqa: N801
    """Both planes on one port."""

    def __init__(self, platform: Platform) -> None:
        import threading

        serving = load({}, home=str(platform.settings.home), port=0, rate_limit="off", poll=0.05)
        self.listener = bind("127.0.0.1", 0)
        app = ServingApp(Service(serving), create_app(platform))
        self.server = ServingServer(serving, app)
        self.thread = threading.Thread(target=self.server.run, args=([self.listener],))

    def __enter__(self) -> str:
        self.thread.start()
        wait_until(lambda: self.server.started, "the server to start")
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join(300)


def words(answer: httpx.Response) -> str:
    """The text of a page without its tags."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", answer.text)).split())


def eventually(visitor: Visitor, path: str, text: str) -> str:
    """The page's text once it contains `text`: MLflow's data may arrive late."""
    return str(wait_until(lambda: (w := words(visitor.page(path))) and text in w and w, text))


# Signing in


def test_the_root_redirects_to_the_sign_in_page(console: RunningConsole) -> None:
    answer = console.visitor(None).client.get(console.url + "/")
    assert answer.url.path == "/console/sign-in"
    assert "API key" in answer.text


def test_a_key_signs_in_with_a_cookie_hidden_from_scripts_and_other_sites(
    console: RunningConsole,
) -> None:
    visitor = console.visitor(None)
    visitor.key = console.keys["predict"]
    answer = visitor.client.post(
        f"{console.url}/console/sign-in", data={"key": f" {visitor.key} ", "next": "/console/jobs"},
        follow_redirects=False,
    )  # fmt: skip
    assert answer.status_code == 303
    assert answer.headers["location"] == "/console/jobs"
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert "path=/console" in cookie
    assert visitor.key not in cookie
    assert visitor.page("/jobs").status_code == 200


@pytest.mark.parametrize("key", ["", "tm_00000000_wrong", "x" * 5000])
def test_a_wrong_key_is_refused_with_a_message(console: RunningConsole, key: str) -> None:
    visitor = console.visitor(None)
    visitor.key = key
    answer = visitor.sign_in()
    assert answer.status_code == 403
    assert "unknown or has expired" in words(answer)
    assert not visitor.client.cookies


@pytest.mark.parametrize("path", [path for path, _, _ in PAGES])
def test_pages_need_a_session(console: RunningConsole, path: str) -> None:
    filled = re.sub(r"\{\w+\}", "flowers", path)
    stranger = console.visitor(None)
    assert stranger.page(filled).url.path == "/console/sign-in"
    live = stranger.page(filled, headers={"Accept": "text/event-stream"})
    assert live.status_code == 401


@pytest.mark.parametrize("path", [path for path, _, _ in ACTIONS])
def test_actions_need_a_session(console: RunningConsole, path: str) -> None:
    filled = re.sub(r"\{\w+\}", "flowers", path)
    answer = console.visitor(None).client.post(f"{console.url}/console{filled}", data={"csrf": ""})
    assert answer.status_code == 401


@pytest.mark.parametrize(("path", "scope"), [(path, scope) for path, _, scope in ACTIONS if scope])
def test_actions_need_their_scope(console: RunningConsole, path: str, scope: str) -> None:
    filled = re.sub(r"\{\w+\}", "flowers", path)
    other = "train" if scope == "predict" else "predict"
    answer = console.visitor(other).send(filled)
    assert answer.status_code == 403
    assert f"does not have the scope '{scope}'" in words(answer)


@pytest.mark.parametrize("path", [path for path, _, _ in ACTIONS])
def test_actions_need_the_csrf_token(console: RunningConsole, path: str) -> None:
    filled = re.sub(r"\{\w+\}", "flowers", path)
    visitor = console.visitor("admin")
    url = f"{console.url}/console{filled}"
    for data in ({}, {"csrf": "0" * 64}, {"csrf": console.visitor("admin").csrf}):
        answer = visitor.client.post(url, data=data)
        assert answer.status_code == 403
        assert "did not come from a page of this session" in words(answer)
    answer = visitor.client.post(
        url, data={"csrf": visitor.csrf}, headers={"Sec-Fetch-Site": "cross-site"}
    )
    assert answer.status_code == 403


def test_the_session_cookie_is_not_accepted_by_the_api_or_the_data_plane(
    console: RunningConsole,
) -> None:
    visitor = console.visitor("admin")
    cookie = next(iter(visitor.client.cookies.jar)).value
    for path in ("/jobs", "/models/flowers/predict"):
        verb = "GET" if path == "/jobs" else "POST"
        for headers in ({}, {"X-API-Key": str(cookie)}):
            answer = visitor.client.request(verb, console.url + path, headers=headers, json=ROW)
            assert answer.status_code == 403


def test_a_revoked_key_is_signed_out(console: RunningConsole) -> None:
    token, record = console.platform.keys.create(("predict",), actor="test")
    visitor = console.visitor(None)
    visitor.key = token
    wait_until(lambda: visitor.sign_in().status_code == 200, "the new key to be known")
    console.platform.keys.revoke(record.id, actor="test")
    wait_until(lambda: visitor.page("/jobs").url.path == "/console/sign-in", "the sign-out")


def test_signing_out_invalidates_a_copied_cookie(console: RunningConsole) -> None:
    visitor = console.visitor("predict")
    visitor.send("/sign-out")
    assert visitor.page("/jobs").url.path == "/console/sign-in"


# Pages


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/", "passed the gate. first"),
        ("/models", "flowers"),
        ("/models/flowers", "champion"),
        ("/models/flowers/compare", "Parameters that differ"),
        ("/models/flowers/challenger", "Send traffic to a version"),
        ("/models/flowers/challenger/traffic?version=2&share=10", "Start a canary"),
        ("/models/flowers/promote?version=2", "What will change"),
        ("/models/flowers/rollback", "no previous champion"),
        ("/models/flowers/versions/2/stage", "Move version 2"),
        ("/models/flowers/try", "petal width"),
        ("/models/flowers/monitoring", "Triggers"),
        ("/monitoring", "no predictions yet"),
        ("/jobs", "Start a training"),
        ("/train?model=flowers", "searched"),
        ("/audit", "version.promote"),
        ("/audit/verify", "are intact"),
        ("/logs", "Processes"),
        ("/requests", "Duration"),
        ("/settings", "TIDEMILL_HOME"),
    ],
)
def test_every_page_shows_its_content(console: RunningConsole, path: str, text: str) -> None:
    if path == "/train?model=flowers":
        text = "logistic"
    visitor = console.visitor("admin")
    eventually(visitor, path, text)
    answer = visitor.page(path)
    assert answer.status_code == 200
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"
    assert (
        "http://"
        not in re.sub(r'href="http[^"]*"|w3\.org', "", answer.text)
        .replace(console.url, "")
        .replace("redis://", "")
        .split("<table", 1)[0]
    )
    assert "style=" not in answer.text
    assert "<script>" not in answer.text


@pytest.mark.parametrize("scope", SCOPES)
def test_pages_offer_only_what_the_key_may_do(console: RunningConsole, scope: str) -> None:
    visitor = console.visitor(scope)
    model = eventually(visitor, "/models/flowers", "champion")
    assert ("Promote the best" in model) == (scope in ("promote", "admin"))
    assert ("Start a training" in words(visitor.page("/jobs"))) == (scope in ("train", "admin"))
    assert ("Create a key" in words(visitor.page("/settings"))) == (scope == "admin")
    assert (">Audit<" in visitor.page("/").text) == (scope == "admin")


@pytest.mark.parametrize(
    "path", ["/nowhere", "/models/none", "/models/none/compare", "/jobs/none",
             "/models/flowers/compare?a=9", "/models/flowers/versions/1/pictures/secret.png",
             "/models/flowers/versions/9/stage", "/static/none.js"],
)  # fmt: skip
def test_missing_things_show_a_not_found_page(console: RunningConsole, path: str) -> None:
    answer = console.visitor("admin").page(path)
    assert answer.status_code == 404
    assert "Back to the overview" in words(answer) or path.startswith("/static")


@pytest.mark.parametrize("path", ["/requests?status=x", "/audit?since=never", "/jobs?cursor=%00"])
def test_invalid_filters_are_refused_with_a_message(console: RunningConsole, path: str) -> None:
    assert 400 <= console.visitor("admin").page(path).status_code < 500


def test_metrics_are_compared_with_their_intervals(console: RunningConsole) -> None:
    visitor = console.visitor("predict")
    eventually(visitor, "/models/flowers/compare?a=1&b=2", "parameters are equal")
    page = visitor.page("/models/flowers/compare?a=1&b=2").text
    platform = console.platform
    for number in ("1", "2"):
        run = platform.registry.version("flowers", number).run_id
        bounds = read_intervals(platform.tracking, run)
        assert {"accuracy", "f1_score", "log_loss"} <= set(bounds)
        for low, high in bounds.values():
            assert f"<small>{render.number(low)} to {render.number(high)}</small>" in page
    assert re.search('aria-label="accuracy of A [0-9.]+, of B [0-9.]+, with their', page)


def test_missing_pages_are_not_streamed(console: RunningConsole) -> None:
    visitor = console.visitor("admin")
    assert 'id="page">' in visitor.page("/jobs").text
    assert 'id="page" data-still>' in visitor.page("/nowhere").text


def test_pictures_of_a_version_come_from_its_run(console: RunningConsole) -> None:
    answer = console.visitor("predict").page(
        "/models/flowers/versions/1/pictures/confusion_matrix.png"
    )
    assert answer.headers["content-type"] == "image/png"
    assert answer.content.startswith(b"\x89PNG")


def test_static_files_are_cached_until_they_change(console: RunningConsole) -> None:
    visitor = console.visitor("predict")
    found = re.search(r'src="(/console/static/console\.js\?\w{12})"', visitor.page("/jobs").text)
    assert found is not None
    answer = visitor.client.get(console.url + found[1])
    assert "immutable" in answer.headers["cache-control"]
    assert "javascript" in answer.headers["content-type"]


def test_exports_are_downloads(console: RunningConsole) -> None:
    visitor = console.visitor("admin")
    table = visitor.page("/audit/export?action=version.promote")
    assert table.headers["content-disposition"] == 'attachment; filename="audit.csv"'
    assert table.text.splitlines()[0].startswith("seq,time,actor,action")
    lines = visitor.page("/audit/export?as=json&subject=flowers").text.splitlines()
    assert json.loads(lines[0])["subject"] == "flowers"


def test_a_live_page_is_sent_as_events(console: RunningConsole) -> None:
    visitor = console.visitor("admin")
    url = f"{console.url}/console/jobs"
    with visitor.client.stream("GET", url, headers={"Accept": "text/event-stream"}) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines = stream.iter_lines()
        first = next(line for line in lines if line.startswith("data: "))
        visitor.send("/train", model="flowers", kind="train", **{"use.logistic": "yes"})
        assert any("queued" in line for line in lines)
    assert first
    wait_until(lambda: _open_streams(console) == 0, "the stream to be let go")


def _open_streams(console: RunningConsole) -> int:
    names = [r["route"] for r in console.platform.requests.page(limit=5).items]
    return 0 if "/console/live" in names else 1


# Actions


def test_a_row_is_predicted_for_the_user(console: RunningConsole) -> None:
    visitor = console.visitor("predict")
    answer = visitor.ask("/models/flowers/predict", json.dumps({"features": ROW}))
    assert answer.status_code == 200
    assert answer.json()["prediction"] == "setosa"
    refused = visitor.ask("/models/flowers/predict", json.dumps({"features": {**ROW, "x": 1}}))
    assert refused.status_code == 422
    assert refused.json()["field"] == "x"
    assert visitor.ask("/models/flowers/predict", "{").status_code == 400
    assert visitor.ask("/models/..%2Fx/predict", "{}").status_code == 404


def test_lines_of_a_file_are_scored_and_invalid_ones_reported(console: RunningConsole) -> None:
    names = ",".join(ROW)
    body = f"{names}\n5.1,3.5,1.4,0.2\n5.1,tall,1.4,0.2\n6.3,2.9,5.6,1.8\n1,2\n"
    answer = console.visitor("predict").ask("/models/flowers/score", body, "text/csv").json()
    first, second, third, fourth = answer["rows"]
    assert (first["prediction"], third["prediction"]) == ("setosa", "virginica")
    assert set(first["probabilities"]) == set(answer["labels"])
    assert "sepal width" in second["error"]
    assert "cells" in fourth["error"]


def test_a_training_is_submitted_cancelled_and_run_again(console: RunningConsole) -> None:
    visitor = console.visitor("train")
    fields = {"model": "flowers", "kind": "train", "trials": "2", "use.logistic": "yes"}
    answer = visitor.send("/train", **fields, **{"set.logistic.C": "0.5"})
    assert "The training is queued." in words(answer)
    job_id = answer.url.path.rsplit("/", 1)[1]
    job = console.platform.jobs.get(job_id)
    assert job.params == {"overrides": {"logistic": {"C": 0.5}}, "only": ["logistic"], "trials": 2}
    assert job.key_id is not None
    assert job.request_id is not None
    assert "logistic.C" in words(visitor.page(f"/jobs/{job_id}"))
    assert visitor.send(f"/jobs/{job_id}/repeat").status_code == 409
    assert "cancelled" in words(visitor.send(f"/jobs/{job_id}/cancel"))
    again = visitor.send(f"/jobs/{job_id}/repeat")
    repeated = console.platform.jobs.get(again.url.path.rsplit("/", 1)[1])
    assert repeated.params == job.params
    assert repeated.id != job_id
    console.platform.jobs.cancel(repeated.id)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"use.logistic": "yes", "set.logistic.C": "wide"}, "C"),
        ({"use.logistic": "yes", "set.logistic.depth": "3"}, "has no parameter 'depth'"),
        ({"use.logistic": "yes", "trials": "none"}, "is not a valid"),
        ({}, "at least one candidate"),
        ({"use.logistic": "yes", "kind": "probe"}, "not a kind of training"),
    ],
)
def test_an_invalid_form_is_shown_again_as_submitted(
    console: RunningConsole, fields: dict[str, str], text: str
) -> None:
    answer = console.visitor("train").send("/train", **{"model": "flowers", **fields})
    assert answer.status_code == 422
    assert text in words(answer)
    for value in fields.values():
        assert value in answer.text or value == "probe"


def test_promotion_and_rollback_show_what_changes_and_are_audited(console: RunningConsole) -> None:
    visitor, platform = console.visitor("promote"), console.platform
    page = eventually(visitor, "/models/flowers/promote?version=2", "What will change")
    assert "Champion v1 v2" in page
    closed = visitor.send("/models/flowers/promote", version="2")
    assert closed.status_code == 409
    assert "The gate refused version 2" in words(closed)
    assert 'id="page" data-still' in closed.text, "the page that is followed would take its place"
    unreasoned = visitor.send("/models/flowers/promote", version="2", force="yes")
    assert unreasoned.status_code == 409
    assert "needs a reason" in words(unreasoned)
    opened = visitor.send("/models/flowers/promote", version="2", force="yes", reason="to <see>")
    assert "Version 2 is champion now, by override." in words(opened)
    row = platform.audit.page(action="version.override", limit=1).items[0]
    assert row["reason"] == "to <see>"
    assert row["origin"] == "127.0.0.1"
    assert row["actor"].startswith("key:")
    assert "to &lt;see&gt;" in visitor.page("/").text
    asked = eventually(visitor, "/models/flowers/rollback", "Roll back to v1")
    assert "Champion v2 v1" in asked
    back = visitor.send("/models/flowers/rollback", reason="enough")
    assert "Rolled back: version 1 is champion again." in words(back)
    assert platform.audit.page(action="version.rollback", limit=1).items[0]["reason"] == "enough"
    moved = visitor.send("/models/flowers/versions/2/stage", stage="Staging", reason="look")
    assert "Version 2 is in stage Staging now." in words(moved)


def test_a_canary_is_confirmed_started_and_stopped(console: RunningConsole) -> None:
    visitor, platform = console.visitor("promote"), console.platform
    shelf, address = platform.settings.shelf, "/models/flowers/challenger/traffic"
    assert "Receives no traffic" in eventually(visitor, "/models/flowers/challenger", "Receives")
    page = words(visitor.page(f"{address}?version=2&mode=canary&share=12,5 %25"))
    assert "Challenger receives no traffic 12% of the callers, as a canary" in page
    assert "Callers answered by the champion 100% 88%" in page
    assert read_traffic(shelf) == {}
    done = visitor.send(address, version="2", mode="canary", share="12.5", reason="try <it>")
    assert "Version 2 answers 12% of the callers." in words(done)
    assert read_traffic(shelf) == {"flowers": TrafficRule("canary", 0.125)}
    row = platform.audit.page(action="challenge.canary", limit=1).items[0]
    assert (row["version"], row["reason"], row["origin"]) == ("2", "try <it>", "127.0.0.1")
    assert row["details"]["share"] == 0.125
    shown = eventually(visitor, "/models/flowers/challenger", "Challenger v2")
    assert "12% of the callers, as a canary" in shown
    assert "No answers yet" in shown
    page = words(visitor.page(f"{address}?version=2&mode=off"))
    assert "Challenger receives 12% of the callers, as a canary no traffic" in page
    assert "No challenger receives traffic now." in words(visitor.send(address, mode="off"))
    assert read_traffic(shelf) == {}


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ("version=2&share=0", 422, "'0' is not a share of the callers"),
        ("version=2&share=101", 422, "'101' is not a share"),
        ("version=2&share=nan", 422, "'nan' is not a share"),
        ("version=2&share=much", 422, "'much' is not a share"),
        ("version=2", 422, "'' is not a share"),
        ("version=2&share=10&mode=half", 422, "There is no mode 'half'"),
        ("version=1&share=10", 422, "Version 1 is the champion"),
        ("version=9&share=10", 404, "There is no version 9"),
    ],
)
def test_an_invalid_share_changes_nothing(
    console: RunningConsole, query: str, status: int, said: str
) -> None:
    visitor, address = console.visitor("promote"), "/models/flowers/challenger/traffic"
    asked = visitor.page(f"{address}?{query}")
    assert (asked.status_code, said in words(asked)) == (status, True), words(asked)
    sent = visitor.send(address, **dict(parse_qsl(query)))
    assert (sent.status_code, said in words(sent)) == (status, True)
    assert read_traffic(console.platform.settings.shelf) == {}
    if status == 422 and "share" in said:
        assert "Send traffic to a version" in words(asked)


def test_the_overview_shows_the_outcome_of_a_retraining(console: RunningConsole) -> None:
    platform, visitor = console.platform, console.visitor("predict")

    def retrained(result: dict[str, Any]) -> Job:
        asked, _ = platform.jobs.submit(NewJob("retrain", "flowers", project="flowers.py"))
        claimed = platform.jobs.claim(asked.id, "nobody")
        assert claimed is not None
        assert platform.jobs.succeed(claimed, result) is not None
        return asked

    waits = retrained({"postponed": {"rows": 25, "needed": 150, "changed": 0.0}})
    eventually(visitor, "/", "Retraining waiting for more labels")
    page = words(visitor.page(f"/jobs/{waits.id}"))
    assert "25 labelled rows have arrived since the change; retraining starts at 150." in page
    contest = {"id": "x", "state": "open", "reason": "Not decided yet.", "challengers": []}
    job = retrained({"contest": contest})
    new = NewContest("flowers", "1", (), cut=0.0, learned=9, job_id=job.id)
    opened = platform.contests.open(new)
    eventually(visitor, "/", "Retraining contest in progress")
    assert "Contest in progress Not decided yet. See the contest" in words(
        visitor.page(f"/jobs/{job.id}")
    )
    platform.contests.close(opened.id, "won", rows=100, decision={}, winner="2")
    eventually(visitor, "/", "Retraining new champion")
    platform.contests.end_probation(opened.id, {"state": "back", "reason": "Back."})
    eventually(visitor, "/", "Retraining former champion is back")
    kept = retrained({"contest": contest})
    opened = platform.contests.open(replace(new, job_id=kept.id))
    platform.contests.close(opened.id, "kept", rows=100, decision={})
    eventually(visitor, "/", "Retraining kept the champion")


def test_a_contest_shows_its_state_and_what_is_missing(console: RunningConsole) -> None:
    contests, visitor = console.platform.contests, console.visitor("predict")
    challenger = ContestChallenger("2", "since <x>")
    new = NewContest("flowers", "1", (challenger,), cut=0.0, learned=120)
    opened = contests.open(new)
    path = "/models/flowers/challenger"
    page = eventually(visitor, path, "Contest with version 1")
    assert "No labels yet." in page
    assert "Competing: version 2 (since <x>)." in page
    random = np.random.default_rng(0)
    losses = [(random.random(300) < share).astype(float) for share in (0.30, 0.26)]
    decision = decide_contest(losses[0], {challenger.name: losses[1]}, Contest())
    assert decision.state == "open"
    contests.record_progress(opened.id, decision.rows, msgspec.to_builtins(decision))
    page = eventually(visitor, path, "Not decided yet")
    assert "300 of 1 000 at most" in page
    assert re.search(r"At this rate about \d+ more labels", page)
    assert "Send traffic to a version" not in page, "a key that may not promote"
    decision = msgspec.structs.replace(decision, state="kept", reason="The champion stays.")
    contests.close(opened.id, "kept", rows=300, decision=msgspec.to_builtins(decision))
    assert "Last contest" in eventually(visitor, path, "the champion stayed")
    won = contests.open(new)
    decision = msgspec.structs.replace(decision, state="won", winner=challenger.name)
    document = msgspec.to_builtins(decision)
    contests.close(won.id, "won", rows=300, decision=document, winner="2")
    page = eventually(visitor, path, "On probation")
    assert (
        "version 1 becomes champion again if it proves better on up to 2 000 labelled rows" in page
    )
    contests.end_probation(won.id, {"state": "back", "reason": "Version 1 is back <x>."})
    page = eventually(visitor, path, "Version 1 is back <x>.")
    assert "On probation" not in page


def test_a_key_is_created_shown_once_and_revoked(console: RunningConsole) -> None:
    visitor = console.visitor("admin")
    made = visitor.send("/settings/keys", name="ci <x>", expires="30d", **{"scope.train": "yes"})
    token = re.search(r"tm_\w+_[\w-]+", made.text)
    assert token is not None
    record = next(k for k in console.platform.keys.list() if k.name == "ci <x>")
    assert record.scopes == ("train",)
    assert record.expires is not None
    assert token[0] not in visitor.page("/settings").text
    assert visitor.send("/settings/keys", name="none").status_code == 422
    assert "What will change" in words(visitor.page(f"/settings/keys/{record.id}/revoke"))
    gone = visitor.send(f"/settings/keys/{record.id}/revoke", reason="test")
    assert f"Key {record.id} is revoked" in words(gone)
    row = console.platform.audit.page(action="key.revoke", limit=1).items[0]
    assert (row["subject"], row["reason"]) == (record.id, "test")


def test_drift_is_checked_and_shown_by_feature(console: RunningConsole, settings: Settings) -> None:
    visitor = console.visitor("train")
    shifted = [[5.0 + 0.01 * i, 3.0, 6.5 + 0.005 * i, 2.5 + 0.001 * i] for i in range(300)]
    answer = visitor.client.post(
        f"{console.url}/models/flowers/predict_batch", json={"instances": shifted},
        headers={"X-API-Key": console.keys["predict"]},
    )  # fmt: skip
    assert answer.status_code == 200

    def kept() -> bool:
        with open_ingest(settings) as (ingest, _):
            ingest.drain()
        return console.platform.predictions.count("flowers") >= 300

    wait_until(kept, "the predictions to be stored")
    looked = visitor.send("/models/flowers/look")
    page = words(looked)
    assert looked.status_code == 200, page
    assert re.search(r"petal length \(cm\) \d+% moved", page), page
    assert "Summary" in page
    assert 'class="window alarm"' in looked.text
    eventually(visitor, "/monitoring", "moved")
    trigger = console.platform.triggers.page(model="flowers", limit=1).items
    if trigger and trigger[0].state == "open":
        visitor.send(f"/triggers/{trigger[0].id}/dismiss", reason="known")
        assert console.platform.triggers.get(trigger[0].id).state == "dismissed"


# When parts are away


def test_while_mlflow_is_down_pages_show_the_rest(
    console: RunningConsole, settings: Settings
) -> None:
    platform = Platform.open(
        settings.model_copy(update={"tracking_uri": "http://127.0.0.1:9", "registry_uri": None})
    )
    try:
        with both_planes(platform) as url:
            apart = RunningConsole(platform, url, console.keys)
            visitor = apart.visitor("admin")
            said = eventually(visitor, "/", "MLflow is down")
            assert "flowers" in said
            assert "v1 as onnx" in said
            eventually(visitor, "/models/flowers", "MLflow is down")
            assert "petal width" in eventually(visitor, "/models/flowers/try", "petal width")
            refused = visitor.send("/models/flowers/rollback")
            assert refused.status_code == 503
            assert "MLflow" in words(refused)
            apart.close()
    finally:
        platform.close()


def test_the_console_can_be_switched_off(settings: Settings) -> None:
    platform = Platform.open(settings.model_copy(update={"console": "off"}))
    try:
        paths = {getattr(route, "path", "") for route in create_app(platform).routes}
        assert "/console" not in paths
        assert "/" not in paths
    finally:
        platform.close()
