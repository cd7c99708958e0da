"""The control plane over HTTP on both databases: routes, scopes and errors."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from tests.servers import free_port, serving, wait_until
from tidemill.api.app import create_app
from tidemill.loop.retraining.jobs import JOB_FIELDS
from tidemill.platform import Platform
from tidemill.settings import Settings
from tidemill.stores.database.database import Database
from tidemill.stores.jobs.jobs import Job
from tidemill.stores.monitoring.triggers import NewTrigger
from tidemill.stores.retraining.contests import ContestChallenger, NewContest

# MLflow's own use of SQLAlchemy.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")

PROJECT = """
from sklearn.linear_model import LogisticRegression
from tidemill import Candidate, Project, sklearn_dataset

project = Project(
    name="flowers",
    data=sklearn_dataset("iris"),
    target="target",
    candidates=[
        Candidate("logistic", LogisticRegression, params={"max_iter": 200}),
        Candidate("second", LogisticRegression),
    ],
)
"""


@dataclass
class Api:
    """A served control plane with its platform and a client for each kind of caller."""

    platform: Platform
    url: str
    keys: dict[str, str]
    client: httpx.Client

    def ask(self, method: str, path: str, as_: str | None = "admin", **more: Any) -> httpx.Response:
        headers = {**more.pop("headers", {})}
        if as_ is not None:
            headers["X-API-Key"] = self.keys[as_]
        return self.client.request(method, self.url + path, headers=headers, **more)

    def get(self, path: str, as_: str | None = "admin", **more: Any) -> httpx.Response:
        return self.ask("GET", path, as_, **more)

    def post(self, path: str, as_: str | None = "admin", **more: Any) -> httpx.Response:
        return self.ask("POST", path, as_, **more)


@pytest.fixture
def settings(database: Database, mlflow_home: Path) -> Settings:
    (mlflow_home / "flowers.py").write_text(PROJECT)
    return Settings(
        home=mlflow_home,
        database_url=database.engine.url.render_as_string(hide_password=False),
        project=str(mlflow_home / "flowers.py"),
        log_level="ERROR",
    )


@contextmanager
def served(settings: Settings, *scopes: str, **changes: Any) -> Iterator[Api]:
    """A control plane over these settings with a key for each scope."""
    platform = Platform.open(settings.model_copy(update=changes))
    keys = {scope: platform.keys.create((scope,), actor="test")[0] for scope in scopes}
    with serving(create_app(platform)) as url, httpx.Client(timeout=300) as client:
        yield Api(platform, url, keys, client)
    platform.close()


@pytest.fixture
def api(settings: Settings) -> Iterator[Api]:
    with served(settings, "predict", "train", "promote", "admin") as api:
        yield api


def assert_problem(answer: httpx.Response, status: int, field: str | None = None) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == status
    assert problem["title"]
    assert problem["detail"]
    assert answer.headers["x-request-id"]
    if field is not None:
        assert problem["field"] == field
    return problem


def test_a_training_is_accepted_and_its_status_is_available(api: Api) -> None:
    order = {"model": "flowers", "logistic.C": 0.5, "candidates": ["logistic"], "trials": 3}
    answer = api.post("/train", "train", json=order)
    assert answer.status_code == 202
    accepted = answer.json()
    assert answer.headers["location"] == f"/jobs/{accepted['job_id']}"
    assert accepted["status"] == "queued"
    status = api.get(accepted["status_url"], "train").json()
    assert status["status"] == "queued"
    assert status["progress"] == 0.0
    assert status["error"] is None
    assert status["params"] == {
        "overrides": {"logistic": {"C": 0.5}},
        "only": ["logistic"],
        "trials": 3,
    }
    job = api.platform.jobs.get(accepted["job_id"])
    wait_until(lambda: api.platform.jobs.get(job.id).sent, "the broker to be told")
    assert job.project is not None
    assert job.project.endswith("flowers.py")
    assert api.get(f"/jobs/{job.id}").json() == status


def test_the_model_is_optional_if_there_is_only_one(api: Api) -> None:
    assert api.post("/train", json={}).status_code == 202
    assert api.post("/models/flowers/train").status_code == 202
    answer = api.post("/retrain")
    assert api.platform.jobs.get(answer.json()["job_id"]).kind == "retrain"


def test_a_retraining_has_a_trigger_with_its_parameters(api: Api) -> None:
    order = {"logistic.C": 0.5, "candidates": ["logistic"], "reason": "new tariffs"}
    answer = api.post("/retrain", "train", json={**order, "time_limit": 60})
    assert answer.status_code == 202, answer.text
    (trigger,) = api.get("/monitoring/triggers").json()["items"]
    assert (trigger["cause"], trigger["state"]) == ("manual", "retraining")
    assert trigger["reason"] == "new tariffs"
    assert trigger["actor"].startswith("key:")
    assert trigger["job_id"] == answer.json()["job_id"]
    job = api.platform.jobs.get(trigger["job_id"])
    assert job.params == {
        "overrides": {"logistic": {"C": 0.5}},
        "only": ["logistic"],
        "trials": None,
        "trigger": trigger["id"],
        "reason": "new tariffs",
    }
    assert (job.time_limit, job.key_id) == (60, trigger["actor"].removeprefix("key:"))


def test_a_trigger_without_a_job_keeps_its_parameters(api: Api) -> None:
    """As when the API dies between the two."""
    order = {"params": {"trials": 3}, "time_limit": 60.0, "key_id": "abc"}
    new = NewTrigger("flowers", "manual", "new tariffs", evidence={JOB_FIELDS: order})
    trigger = api.platform.triggers.open(new)
    api.platform.watcher.trigger_actions.complete("flowers")
    job = api.platform.jobs.get(str(api.platform.triggers.get(trigger.id).job_id))
    assert (job.kind, job.time_limit, job.key_id) == ("retrain", 60.0, "abc")
    assert job.params == {"trials": 3, "trigger": trigger.id, "reason": "new tariffs"}


def test_a_model_is_retrained_once_at_a_time(api: Api) -> None:
    first = api.post("/retrain").json()["job_id"]
    problem = assert_problem(api.post("/retrain"), 409)
    assert "retraining" in problem["detail"]
    api.post(f"/jobs/{first}/cancel")
    again = api.post("/retrain")
    assert again.status_code == 202, again.text
    assert again.json()["job_id"] != first
    closed = api.get("/monitoring/triggers").json()["items"][1]
    assert (closed["job_id"], closed["state"]) == (first, "failed")


def test_the_same_idempotency_key_gives_the_same_retraining(api: Api) -> None:
    key = {"Idempotency-Key": "nightly"}
    first = api.post("/retrain", json={"trials": 2}, headers=key)
    again = api.post("/retrain", json={"trials": 2}, headers=key)
    assert again.status_code == 202
    assert again.json()["job_id"] == first.json()["job_id"]
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    other = api.post("/retrain", json={"trials": 3}, headers=key)
    assert_problem(other, 409, "Idempotency-Key")


ILL_FORMED: list[tuple[dict[str, Any], str]] = [
    ({"nonsense": 1}, "nonsense"),
    ({"logistic.C": "much"}, "logistic.C"),
    ({"logistic": {"C": -1}}, "logistic.C"),
    ({"C": 1}, "C"),
    ({"third.C": 1}, "third.C"),
    ({"candidates": ["third"]}, "third"),
    ({"candidates": []}, "candidates"),
    ({"trials": 0}, "trials"),
    ({"trials": "many"}, "trials"),
    ({"time_limit": -1}, "time_limit"),
    ({"model": 3}, "model"),
]


def test_an_unknown_or_ill_typed_parameter_is_named(api: Api) -> None:
    for order, name in ILL_FORMED:
        assert_problem(api.post("/train", json=order), 422, name)
    assert api.platform.jobs.counts() == {}


def test_an_unknown_model_is_not_found_and_the_known_ones_are_listed(api: Api) -> None:
    problem = assert_problem(api.post("/train", json={"model": "trees"}), 404, "model")
    assert "flowers" in problem["expected"]


def test_a_malformed_body_is_refused(api: Api) -> None:
    as_json = {"Content-Type": "application/json"}
    assert_problem(api.post("/train", content=b"{", headers=as_json), 400, "body")
    assert_problem(api.post("/train", content=b"\xff\xfe{", headers=as_json), 400)
    assert_problem(api.post("/train", content=b"[1]", headers=as_json), 422, "body")
    assert_problem(api.post("/train", content=b"C=1"), 422, "body")
    assert_problem(api.post("/train", content=b""), 400, "body")


def test_a_body_over_the_limit_is_refused_with_and_without_content_length(api: Api) -> None:
    huge = b'{"x": "' + b"a" * (1 << 20) + b'"}'
    assert_problem(api.post("/train", content=huge), 413, "body")
    pieces = (huge[n : n + 65536] for n in range(0, len(huge), 65536))
    assert_problem(api.post("/train", content=pieces), 413, "body")


def test_the_same_idempotency_key_gives_the_same_job(api: Api) -> None:
    key = {"Idempotency-Key": "abc"}
    first = api.post("/train", json={"logistic.C": 1}, headers=key)
    again = api.post("/train", json={"logistic.C": 1}, headers=key)
    assert first.json() == again.json()
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    other = api.post("/train", json={"logistic.C": 2}, headers=key)
    assert_problem(other, 409, "Idempotency-Key")
    # Another caller's key is another key.
    assert api.post("/train", "train", json={}, headers=key).status_code == 202


PUBLIC = ["/health", "/ready", "/experiments", "/api/openapi.json", "/metrics"]
GUARDED = [
    ("POST", "/train", "train"),
    ("POST", "/models/flowers/train", "train"),
    ("POST", "/retrain", "train"),
    ("POST", "/jobs/x/cancel", "train"),
    ("GET", "/train/status/x", "predict"),
    ("GET", "/jobs", "predict"),
    ("GET", "/models", "predict"),
    ("GET", "/metrics/api", "predict"),
    ("GET", "/metrics/models", "predict"),
    ("GET", "/database/stats", "predict"),
    ("GET", "/logs", "admin"),
    ("GET", "/audit", "admin"),
    ("POST", "/database/clear", "admin"),
]


def test_health_and_experiments_are_public(api: Api) -> None:
    for path in PUBLIC:
        assert api.get(path, None).status_code == 200, path


def test_all_other_routes_need_a_key_with_their_scope(api: Api) -> None:
    lower = {"train": "predict", "admin": "promote"}
    wrong = {"X-API-Key": "tm_x_y"}
    bearer = {"Authorization": f"Bearer {api.keys['admin']}"}
    for method, path, scope in GUARDED:
        assert_problem(api.ask(method, path, None), 403, "X-API-Key")
        assert_problem(api.ask(method, path, None, headers=wrong), 403, "X-API-Key")
        if scope in lower:
            problem = assert_problem(api.ask(method, path, lower[scope]), 403, "X-API-Key")
            assert scope in problem["detail"]
        assert api.ask(method, path, scope).status_code != 403
        assert api.ask(method, path, None, headers=bearer).status_code != 403


def test_every_route_that_changes_something_needs_a_key(api: Api) -> None:
    paths = api.get("/api/openapi.json").json()["paths"]
    for path, verbs in paths.items():
        for verb in verbs.keys() - {"get"}:
            filled = path.replace("{", "").replace("}", "")
            assert api.ask(verb.upper(), filled, None).status_code == 403, f"{verb} {path}"


def test_a_revoked_or_expired_key_is_refused_within_seconds(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, record = api.platform.keys.create(("train",), actor="test")
    brief, _ = api.platform.keys.create(("train",), actor="test", lifetime=3600)
    api.keys |= {"extra": token, "brief": brief}
    wait_until(lambda: api.get("/jobs", "brief").status_code == 200, "the new key to be known")
    api.platform.keys.revoke(record.id, actor="test")
    wait_until(lambda: api.get("/jobs", "extra").status_code == 403, "the key to be gone")
    later = SimpleNamespace(time=lambda: time.time() + 3601)
    monkeypatch.setattr("tidemill.api.dependencies.time", later)
    assert api.get("/jobs", "brief").status_code == 403


def test_jobs_are_listed_by_page_and_filter(api: Api) -> None:
    ids = [api.post("/train", json={}).json()["job_id"] for _ in range(5)]
    page = api.get("/jobs?limit=3").json()
    assert [item["job_id"] for item in page["items"]] == ids[:1:-1]
    rest = api.get(f"/jobs?limit=3&cursor={page['next']}").json()
    assert [item["job_id"] for item in rest["items"]] == ids[1::-1]
    assert rest["next"] is None
    assert api.get("/jobs?state=failed").json()["items"] == []
    assert_problem(api.get("/jobs?state=odd"), 422, "state")
    assert_problem(api.get("/jobs?limit=0"), 422, "limit")
    assert_problem(api.get("/jobs?model=%00"), 400)
    assert_problem(api.get("/logs?cursor=abc"), 422, "cursor")


HOSTILE_CURSORS = [
    "x", "é", "9" * 400, str(2**63), "\U0001f600", "\r\nX: 1", "W10=", "NQ==",
    "eyJvZmZzZXQiOiAxZTk5OX0=", "eyJvZmZzZXQiOiAtMX0=", "e30=", "/w==",
    base64.b64encode(b'{"offset": %d}' % 10**40).decode(),
]  # fmt: skip


def test_what_is_no_cursor_of_a_list_is_refused(api: Api) -> None:
    mlflow = ["/models", "/models/iris/versions", "/experiments", "/experiments/0/runs"]
    for path in [*mlflow, "/audit", "/logs"]:
        for cursor in HOSTILE_CURSORS:
            assert_problem(api.get(path, params={"cursor": cursor}), 422, "cursor")


def test_experiments_are_listed_by_page(api: Api) -> None:
    for name in ("one", "two", "three"):
        api.platform.tracking.create_experiment(name)
    first = api.get("/experiments?limit=2").json()
    rest = api.get("/experiments", params={"limit": 2, "cursor": first["next"]}).json()
    names = [each["name"] for each in [*first["items"], *rest["items"]]]
    assert sorted(names) == ["Default", "one", "three", "two"]


def test_integers_that_no_database_stores_are_refused(api: Api) -> None:
    assert_problem(api.get(f"/logs?status={2**64}"), 422, "status")
    assert api.get(f"/experiments/{'1' * 300}/runs").status_code in (404, 422)
    assert api.get("/experiments/١٢٣/runs").status_code == 404


def test_a_problem_may_quote_a_lone_surrogate(api: Api) -> None:
    body = rb'{"metric": "\ud800", "force": "0"}'
    answer = api.post("/models/iris/promote", content=body)
    assert answer.status_code in (400, 404, 422), answer.text


def test_a_queued_job_is_cancelled_at_once_and_only_once(api: Api) -> None:
    job_id = api.post("/train", json={}).json()["job_id"]
    assert api.post(f"/jobs/{job_id}/cancel").json()["status"] == "cancelled"
    assert api.post(f"/jobs/{job_id}/cancel").json()["status"] == "cancelled"
    assert_problem(api.post("/jobs/none/cancel"), 404, "job_id")


def running(api: Api) -> Job:
    job = api.platform.jobs.claim(api.post("/train", json={}).json()["job_id"], "w")
    assert job is not None
    return job


def test_a_finished_job_cannot_be_cancelled(api: Api) -> None:
    job = running(api)
    api.platform.jobs.succeed(job, {"metrics": {"f1_score": 0.9}})
    assert_problem(api.post(f"/jobs/{job.id}/cancel"), 409)
    status = api.get(f"/train/status/{job.id}").json()
    assert (status["status"], status["progress"], status["metrics"]) == (
        "succeeded",
        1.0,
        {"f1_score": 0.9},
    )


def test_the_event_stream_of_a_job_ends_with_the_job(api: Api) -> None:
    job = running(api)
    headers = {"X-API-Key": api.keys["train"]}
    seen: list[tuple[str, str]] = []
    with api.client.stream("GET", f"{api.url}/jobs/{job.id}/events", headers=headers) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        kind = ""
        for line in stream.iter_lines():
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            elif line.startswith("data: "):
                data = json.loads(line.removeprefix("data: "))
                seen.append((kind, data["stage"]))
                if len(seen) == 1:
                    api.platform.jobs.heartbeat(
                        job, percent=40, stage="fit", progress={"best": 0.9}
                    )
                elif len(seen) == 2:
                    api.platform.jobs.succeed(job, {})
    assert seen == [("progress", "starting"), ("progress", "fit"), ("end", "done")]


def test_requests_are_logged_and_aggregated(api: Api) -> None:
    api.get("/jobs", headers={"X-Request-ID": "trace-me"})
    api.get("/train/status/none")

    def logged() -> dict[str, Any] | None:
        items = api.get("/logs?limit=100").json()["items"]
        return next((item for item in items if item["request_id"] == "trace-me"), None)

    row = wait_until(logged, "the request to be logged")
    assert (row["route"], row["method"], row["status"]) == ("/jobs", "GET", 200)
    assert row["key_id"] in api.keys["admin"]
    assert row["milliseconds"] > 0
    found = api.get("/logs?status=404").json()["items"]
    assert [item["route"] for item in found] == ["/train/status/{job_id}"]
    sums = api.get("/metrics/api?route=/jobs").json()["items"]
    assert sum(item["requests"] for item in sums) >= 1
    text = api.get("/metrics").text
    assert 'http_requests_total{code="200",method="GET",route="/jobs"}' in text
    assert "http_request_duration_seconds_bucket" in text
    assert "training_jobs_active 0.0" in text


def test_clearing_deletes_old_rows_of_named_tables_and_is_audited(api: Api) -> None:
    api.get("/jobs")
    stats = "/database/stats"
    wait_until(lambda: api.get(stats).json()["tables"]["request_log"] > 0, "a logged request")
    cleared = "/database/clear"
    order = {"tables": ["request_log"], "before": "2000-01-01T00:00:00Z", "reason": "tidy"}
    assert api.post(cleared, json=order).json()["deleted"] == {"request_log": 0}
    order["before"] = "2999-01-01T00:00:00Z"
    assert api.post(cleared, json=order).json()["deleted"]["request_log"] > 0
    entry = api.get("/audit?action=database.clear").json()["items"][0]
    assert (entry["subject"], entry["reason"]) == ("request_log", "tidy")
    assert entry["actor"].startswith("key:")
    assert_problem(api.post(cleared, json={**order, "tables": ["audit"]}), 422, "tables")
    assert_problem(api.post(cleared, json={"tables": ["jobs"]}), 422, "before")
    assert api.get("/audit/verify").json()["intact"]


def test_running_jobs_are_never_cleared(api: Api) -> None:
    job = running(api)
    order = {"tables": ["jobs"], "before": "2999-01-01T00:00:00Z"}
    assert api.post("/database/clear", json=order).json()["deleted"] == {"jobs": 0}
    assert api.get(f"/jobs/{job.id}").status_code == 200


def test_open_and_newest_contests_are_never_cleared(api: Api) -> None:
    contests, opened = api.platform.contests, []
    for model in ("wine", "flowers", "flowers", "flowers"):
        new = NewContest(model, "1", (ContestChallenger("2", "all"),), cut=0.0, learned=10)
        opened.append(contests.open(new))
        if len(opened) < 4:
            contests.close(opened[-1].id, "kept", rows=50, decision={})
    order = {"tables": ["contests"], "before": "2999-01-01T00:00:00Z"}
    assert api.post("/database/clear", json=order).json()["deleted"] == {"contests": 2}
    newest = contests.newest("wine")
    assert newest is not None
    assert newest.id == opened[0].id
    assert contests.opened("flowers") == opened[3]


def test_unknown_routes_and_wrong_methods_return_problem_json(api: Api) -> None:
    assert_problem(api.get("/nothing/here"), 404)
    assert_problem(api.ask("DELETE", "/train"), 405)


def test_every_response_has_rate_limit_headers(api: Api) -> None:
    answer = api.get("/jobs", "train")
    assert answer.headers["ratelimit-policy"] == '"default";q=600;w=60'
    assert answer.headers["ratelimit"].startswith('"default";r=59')
    other = api.get("/jobs", "predict")
    assert other.headers["ratelimit"].startswith('"default";r=599')


def test_only_the_caller_over_the_rate_limit_is_refused(settings: Settings) -> None:
    with served(settings, "train", "predict", api_rate_limit="3/minute") as api:
        answers = [api.get("/jobs", "train") for _ in range(5)]
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert_problem(refused, 429)
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.headers["ratelimit"].startswith('"default";r=0')
        assert api.get("/jobs", "predict").status_code == 200
        assert api.get("/health", None).status_code == 200


def test_while_mlflow_is_down_only_its_routes_fail_and_at_once(
    settings: Settings,
) -> None:
    away = f"http://127.0.0.1:{free_port()}"
    with served(settings, "admin", tracking_uri=away) as api:
        # At once: within the client's patience, where MLflow's own retries take minutes.
        for path in ("/experiments", "/models", "/models/flowers"):
            answer = api.get(path)
            assert_problem(answer, 503)
            assert answer.headers["retry-after"]
        assert api.post("/train", json={}).status_code == 202
        ready = api.get("/ready")
        assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
        assert "cannot be reached" in ready.json()["mlflow"]


def test_readiness_fails_while_a_required_mlflow_is_down(settings: Settings) -> None:
    away = f"http://127.0.0.1:{free_port()}"
    with served(settings, tracking_uri=away, api_ready_requires="database, mlflow") as api:
        ready = api.get("/ready", None)
        assert (ready.status_code, ready.json()["status"]) == (503, "unavailable")
