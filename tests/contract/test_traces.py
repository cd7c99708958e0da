"""Traces over OTLP from real processes: requests, model runs, jobs and their stages."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.contract.serving.conftest import FLOATS, make_shelf
from tests.servers import serving, wait_until
from tidemill import traces
from tidemill.api.app import create_app
from tidemill.errors import SettingsError
from tidemill.platform import Platform
from tidemill.settings import Settings
from tidemill.stores.jobs.jobs import NewJob
from tidemill.worker.job_runner import JobRunner

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = f"00-{TRACE}-b7ad6b7169203331-01"
PROJECT = """
from sklearn.linear_model import LogisticRegression
from tidemill import Candidate, Project, sklearn_dataset

candidates = [Candidate("c", LogisticRegression)]
project = Project("flowers", sklearn_dataset("iris"), "target", candidates)
"""


class Receiver:
    """Takes what exporters send; `spans` are (service, span)."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Any]] = []
        taken = self.spans

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                for group in ExportTraceServiceRequest.FromString(body).resource_spans:
                    named = {a.key: a.value.string_value for a in group.resource.attributes}
                    found = [s for scope in group.scope_spans for s in scope.spans]
                    taken.extend((named["service.name"], s) for s in found)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def named(self, service: str) -> dict[str, Any]:
        return {span.name: span for of, span in list(self.spans) if of == service}

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    made = Receiver()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", made.url)
    yield made
    made.close()


def attributes(span: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_prediction_is_a_span_of_its_callers_trace_with_the_models_run_in_it(
    home: Path, receiver: Receiver, workers: str
) -> None:
    make_shelf(home / "shelf", ("classifier",))
    log = home.parent / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "tidemill.serving", "--home", str(home), "--port", "0",
             "--no-auth", "--workers", workers],
            stdout=out, stderr=out, env=dict(os.environ),
        )  # fmt: skip
    try:
        where = wait_until(lambda: log.read_text().partition("serving on http://")[2], "a server")
        connection = http.client.HTTPConnection(where.split()[0], timeout=300)
        for body in ({"features": [1.0] * len(FLOATS)}, {"features": "wrong"}):
            connection.request(
                "POST", "/predict", msgspec.json.encode(body), {"traceparent": CALLER}
            )
            connection.getresponse().read()
        connection.close()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(300)
    answered = [s for _, s in receiver.spans if s.name == "POST /predict"]
    statuses = {attributes(s)["http.response.status_code"]: s for s in answered}
    assert set(statuses) == {200, 422}
    assert {s.trace_id.hex() for s in answered} == {TRACE}
    assert {s.parent_span_id.hex() for s in answered} == {"b7ad6b7169203331"}
    (run,) = [s for _, s in receiver.spans if s.name == "inference"]
    request = statuses[200]
    assert (run.trace_id, run.parent_span_id) == (request.trace_id, request.span_id)
    assert attributes(run)["tidemill.batch.rows"] == 1
    assert request.start_time_unix_nano <= run.end_time_unix_nano <= request.end_time_unix_nano
    assert receiver.named("tidemill-serve")


@pytest.fixture
def settings(mlflow_home: Path) -> Settings:
    (mlflow_home / "flowers.py").write_text(PROJECT)
    return Settings(home=mlflow_home, project=str(mlflow_home / "flowers.py"), log_level="ERROR")


def order(settings: Settings, **headers: str) -> str | None:
    """The traceparent in the row of a job that was asked for over HTTP."""
    platform = Platform.open(settings)
    key, _ = platform.keys.create(("train",), actor="test")
    with serving(create_app(platform)) as url:
        sent = {"X-API-Key": key, **headers}
        answer = httpx.post(f"{url}/train", json={"model": "flowers"}, headers=sent, timeout=300)
    assert answer.status_code == 202, answer.text
    found = platform.jobs.get(answer.json()["job_id"]).traceparent
    platform.close()
    return found


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")
def test_a_request_its_job_and_the_jobs_stages_are_one_trace(
    settings: Settings, receiver: Receiver
) -> None:
    handed = order(settings, traceparent=CALLER)
    assert handed is not None
    light = {"worker_preload": False}  # a probe needs none of the libraries
    platform = Platform.open(settings.model_copy(update=light))
    job, _ = platform.submit(NewJob("probe", params={"seconds": 0.3}, traceparent=handed))
    JobRunner(platform, "w").run(job.id)
    assert platform.jobs.get(job.id).state == "succeeded"
    platform.close()
    work = receiver.named("tidemill-worker")
    attempt, stage = work["job probe"], work["probe"]
    asked = wait_until(lambda: receiver.named("tidemill-api").get("POST /train"), "the API's span")
    assert {s.trace_id.hex() for s in (asked, attempt, stage)} == {TRACE}
    assert asked.parent_span_id.hex() == "b7ad6b7169203331"
    assert attempt.parent_span_id == asked.span_id
    assert stage.parent_span_id == attempt.span_id
    assert attributes(attempt)["tidemill.job"] == job.id


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")
def test_without_traces_a_job_keeps_its_callers_span_and_nothing_else(settings: Settings) -> None:
    assert order(settings, traceparent=CALLER) == CALLER
    assert order(settings, traceparent="00-" + "0" * 32 + "-b7ad6b7169203331-01") is None
    assert order(settings) is None


@pytest.mark.parametrize(
    ("environment", "asked"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"}, False),
    ],
)
def test_the_standard_variables_enable_traces(environment: dict[str, str], asked: bool) -> None:
    assert traces.enabled(environment) is asked


def test_enabling_traces_without_the_extra_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(SettingsError, match="not installed"):
        traces.open_traces("x")
