"""The status routes: health, readiness, models, metrics, OpenAPI and its page."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.parser import text_string_to_metric_families

from tidemill import keyring
from tidemill.errors import SettingsError
from tidemill.serving.telemetry.metrics import METRICS

from .conftest import FLOATS, Start, Tidemill, make_shelf, wait_until

BODY = {"features": [1.0] * len(FLOATS)}


def test_health_says_that_the_process_answers(served: Tidemill) -> None:
    got = served.ask("/health")
    assert got.status == 200
    assert got.json()["status"] == "ok"
    assert datetime.fromisoformat(got.json()["timestamp"]).tzinfo is not None


def test_ready_lists_every_dependency(served: Tidemill) -> None:
    got = served.ask("/ready")
    found = got.json()
    assert got.status == 200
    assert found["status"] == "ready"
    assert (found["mlflow"], found["redis"]) == ("not configured", "not configured")
    assert found["models"] == {"classifier": "1", "regressor": "1", "pictures": "1"}
    assert found["shelf"]["problems"] == {}
    assert found["journal"] == "ok"


class Peer:
    """A server that sends one line to every client."""

    def __init__(self, line: bytes) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.line = line
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            with connection:
                connection.recv(4096)
                connection.sendall(self.line)


@pytest.fixture
def mlflow() -> Iterator[Peer]:
    peer = Peer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK")
    yield peer
    peer.socket.close()


@pytest.fixture
def redis() -> Iterator[Peer]:
    peer = Peer(b"-NOAUTH Authentication required.\r\n")
    yield peer
    peer.socket.close()


def test_dependencies_are_probed_in_the_background(
    home: Path, start: Start, mlflow: Peer, redis: Peer
) -> None:
    make_shelf(home / "shelf")
    running = start(
        tracking_uri=f"http://127.0.0.1:{mlflow.port}", redis_url=f"redis://127.0.0.1:{redis.port}"
    )
    wait_until(lambda: running.ask("/ready").json()["redis"] == "ok", "the look at redis")
    found = running.ask("/ready").json()
    assert (found["status"], found["mlflow"]) == ("ready", "ok")


@pytest.mark.parametrize(("required", "status"), [("", 200), ("mlflow", 503), ("redis", 503)])
def test_an_unreachable_dependency_matters_only_if_required(
    home: Path, start: Start, required: str, status: int
) -> None:
    make_shelf(home / "shelf")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    running = start(
        tracking_uri=f"http://127.0.0.1:{port}",
        redis_url=f"redis://127.0.0.1:{port}",
        ready_requires=required,
    )
    wait_until(lambda: running.ask("/ready").json()["redis"] == "unreachable", "the look")
    got = running.ask("/ready")
    assert got.status == status
    assert got.json()["status"] == ("degraded" if status == 200 else "unavailable")
    assert running.ask("/predict", BODY).status == 200


def test_a_local_store_is_not_probed(home: Path, start: Start) -> None:
    make_shelf(home / "shelf")
    running = start(tracking_uri="sqlite:///mlflow.db", ready_requires="mlflow")
    assert running.ask("/ready").json()["mlflow"] == "local"
    assert running.ask("/ready").status == 200


def test_an_unknown_required_dependency_is_an_error(start: Start) -> None:
    with pytest.raises(SettingsError, match="unknown name 'kafka'"):
        start(ready_requires="mlflow,kafka")


def test_info_and_schema_describe_the_models(served: Tidemill) -> None:
    info = served.ask("/info").json()
    assert info["default"] == "classifier"
    names = [model["name"] for model in info["models"]]
    assert names == ["classifier", "pictures", "regressor"]
    one = served.ask("/models/regressor/info").json()
    assert one["inputs"][1]["expected"] == "one of 'north', 'south'"
    assert one["run_seconds"] > 0
    schema = served.ask("/schema").json()
    assert schema["model"] == "classifier"
    assert set(schema["examples"]) == {"features", "named features", "named", "instances"}
    assert served.ask("/models/nobody/schema").status == 404
    assert served.ask("/models/nobody/info").status == 404


def test_every_example_of_the_schema_is_answered(served: Tidemill) -> None:
    for name in served.service.models.predictors:
        for body in served.ask(f"/models/{name}/schema").json()["examples"].values():
            assert served.ask(f"/models/{name}/predict", body).status == 200


def metrics(running: Tidemill) -> dict[tuple[str, ...], float]:
    text = running.ask("/metrics").body.decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_count_the_requests(home: Path, start: Start) -> None:
    make_shelf(home / "shelf")
    running = start()
    for _ in range(3):
        running.ask("/predict", BODY)
    running.ask("/predict", {"features": []})
    running.ask("/predict_batch", {"instances": [BODY["features"]] * 40})
    running.ask("/nowhere")
    found = metrics(running)
    assert found["http_requests_total", "200", "POST", "/predict"] == 3
    assert found["http_requests_total", "422", "POST", "/predict"] == 1
    assert found["http_requests_total", "404", "GET", "unmatched"] == 1
    assert found["http_request_duration_seconds_count", "POST", "/predict"] == 4
    assert found["http_request_duration_seconds_bucket", "+Inf", "POST", "/predict"] == 4
    assert found["model_predictions_total", "classifier", "1"] == 43
    assert found["tidemill_batch_rows_sum", "classifier"] == 43
    assert found["tidemill_inference_seconds_count", "classifier"] == 4
    assert found["tidemill_journal_records_total",] == 4
    assert found["tidemill_models",] == 3
    for folder in ("shelf", "journal"):
        free = found["tidemill_disk_free_bytes", folder]
        assert 0 < free <= found["tidemill_disk_size_bytes", folder]
    names = {re.sub(r"_(bucket|count|sum)$", "", name) for name, *_ in found}
    assert names <= METRICS.keys()


def test_metrics_show_another_registry_without_doubling_a_name(home: Path, start: Start) -> None:
    make_shelf(home / "shelf")
    running = start()
    registry = CollectorRegistry()
    Gauge("training_jobs_active", "Jobs that run now", registry=registry).set(2)
    Gauge("tidemill_models", "Of the same name", registry=registry).set(99)
    running.service._registry = lambda: registry
    found = metrics(running)
    assert found["training_jobs_active",] == 2
    assert found["tidemill_models",] == 3


async def control(scope: Any, receive: Any, send: Any) -> None:
    """A control plane that answers the paths that the data plane does not know."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    scope["route"] = type("Route", (), {"path": "/experiments/{id}"})
    await send({"type": "http.response.start", "status": 202, "headers": []})
    await send({"type": "http.response.body", "body": scope["path"].encode()})


def test_other_paths_go_to_the_control_plane(home: Path, start: Start) -> None:
    make_shelf(home / "shelf")
    running = start(control)
    for path in ("/experiments/7", "/models", "/models/classifier/versions"):
        got = running.ask(path)
        assert (got.status, got.body.decode()) == (202, path)
    assert running.ask("/predict", BODY).status == 200
    assert running.ask("/predict", method="GET").status == 405
    assert metrics(running)["http_requests_total", "202", "GET", "/experiments/{id}"] == 3


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "$ref":
                yield inner
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_openapi_describes_every_route(served: Tidemill) -> None:
    document = served.ask("/openapi.json").json()
    schemas = document["components"]["schemas"]
    for reference in references(document):
        assert reference.removeprefix("#/components/schemas/") in schemas
    for protocol in served.service.protocols:
        for route in protocol.routes:
            for name in served.service.models.predictors:
                path = route.path.replace("{name}", name).replace("{version}", "1")
                assert route.method.lower() in document["paths"][path], path


def test_every_operation_has_a_unique_id_and_lists_its_errors(served: Tidemill) -> None:
    document = served.ask("/openapi.json").json()
    operations = [o for item in document["paths"].values() for o in item.values()]
    ids = [operation["operationId"] for operation in operations]
    assert len(set(ids)) == len(ids)
    for operation in operations:
        assert operation["summary"]
        assert "200" in operation["responses"]
        if operation.get("requestBody"):
            assert set(operation["responses"]) >= {"200", "400", "403", "503"}


def test_openapi_merges_the_control_planes_document(home: Path, start: Start) -> None:
    make_shelf(home / "shelf")
    running = start()
    running.service._describe = lambda: {
        "paths": {"/models": {"get": {"summary": "x"}}, "/health": {"get": {"summary": "theirs"}}},
        "components": {"schemas": {"Job": {"type": "object"}}},
    }
    document = running.ask("/openapi.json").json()
    assert document["paths"]["/models"]["get"]["summary"] == "x"
    assert document["paths"]["/health"]["get"]["summary"] != "theirs"
    assert {"Job", "Problem"} <= document["components"]["schemas"].keys()


def test_the_page_shows_every_path_and_loads_nothing(served: Tidemill) -> None:
    got = served.ask("/docs")
    page = got.body.decode()
    assert got.headers["content-type"] == "text/html; charset=utf-8"
    for path in served.ask("/openapi.json").json()["paths"]:
        assert f"<code>{path}</code>" in page
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page)
    assert "<script" not in page
    assert "h&quot;igh" in page or "h\\&quot;igh" in page


@pytest.mark.skipif(
    subprocess.run([sys.executable, "-c", "import schemathesis"], capture_output=True).returncode,
    reason="schemathesis is not installed",
)
@pytest.mark.parametrize(
    ("phases", "examples", "models"),
    [
        ("examples,coverage", "8", ("regressor",)),
        pytest.param(
            "examples,coverage,fuzzing",
            "30",
            ("classifier", "regressor", "pictures"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_schemathesis_finds_no_failure_and_nothing_undocumented(
    home: Path, start: Start, phases: str, examples: str, models: tuple[str, ...]
) -> None:
    make_shelf(home / "shelf", models)
    ring, key, _ = keyring.add(keyring.new_keyring(), ("predict",))
    keyring.save(home / "keys.json", ring)
    running = start(auth="on", rate_limit_address="off")
    checks = "not_a_server_error,status_code_conformance,content_type_conformance"
    checks += ",response_schema_conformance,ignored_auth,unsupported_method"
    command = [sys.executable, "-m", "schemathesis.cli", "run", "--checks", checks]
    command += [
        "--phases",
        phases,
        "--max-examples",
        examples,
        "-H",
        f"X-API-Key: {key}",
        "--suppress-health-check=all",
    ]
    command += [f"http://127.0.0.1:{running.port}/openapi.json"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=500, cwd=home.parent)
    assert found.returncode == 0, found.stdout[-5000:] + found.stderr[-2000:]
