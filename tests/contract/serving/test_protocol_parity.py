"""The fast protocol and the ASGI app send the same responses, ids, headers and records.

A query string sends a request through the ASGI app.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.journal_records import read_folder
from tidemill.serving.server.asgi import ServingApp

from .conftest import FLOATS, Answer, Start, Tidemill, make_shelf

ROW = [1.5, 2.0, -3.0, 0.25, 9.0, 4.0]
GOOD = {"features": ROW}
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def both(served: Tidemill, path: str, body: Any, **headers: str) -> tuple[Answer, Answer]:
    fast = served.ask(path, body, headers=headers)
    return fast, served.ask(f"{path}?path=asgi", body, headers=headers)


def comparable(answer: Answer) -> tuple[int, dict[str, str], Any]:
    """The response without what differs between requests."""
    changing = {"date", "x-request-id", "ratelimit"}
    headers = {k: v for k, v in answer.headers.items() if k not in changing}
    body = answer.json()
    for part in (body, *body.get("predictions", [])):
        part.pop("id", None)
    return answer.status, headers, body


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/predict", GOOD),
        ("/predict", dict(zip(FLOATS, ROW, strict=True))),
        ("/predict", {"instances": [ROW, ROW]}),
        ("/predict_batch", {"instances": [ROW, ROW]}),
        ("/models/classifier/predict", GOOD),
        ("/models/regressor/predict", {"area": 1, "side": "north", "rooms": 2, "garden": True}),
        ("/models/regressor/predict", {"area": 1, "side": "x", "rooms": 2, "garden": True}),
        ("/models/nobody/predict", GOOD),
        ("/models/nobody/predict_batch", GOOD),
        ("/predict", {"features": ROW[:3]}),
        ("/predict", b"{"),
        ("/predict", b""),
    ],
)
def test_fast_protocol_and_asgi_app_send_the_same_response(
    served: Tidemill, path: str, body: Any
) -> None:
    fast, ordinary = both(served, path, body)
    assert comparable(fast) == comparable(ordinary)


def test_common_clients_use_the_fast_protocol(
    home: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests as Python's clients send them: keep-alive, and escaped names in the path."""
    make_shelf(home / "shelf", ("classifier",))
    running = start()
    ordinary: list[str] = []
    real = ServingApp._http

    async def noted(self: ServingApp, scope: Any, receive: Any, send: Any) -> None:
        ordinary.append(scope["path"])
        await real(self, scope, receive, send)

    monkeypatch.setattr(ServingApp, "_http", noted)
    headers = {"Connection": "keep-alive", "Accept-Encoding": "gzip, deflate", "Accept": "*/*"}
    for path in ("/predict", "/models/classifier/predict", "/models/%63lassifier/predict"):
        assert running.ask(path, GOOD, headers=headers).status == 200
    assert ordinary == []
    assert running.ask("/predict?x=1", GOOD).status == 200
    assert ordinary == ["/predict"]


def test_the_clients_request_id_is_used_and_returned(served: Tidemill) -> None:
    for answer in both(served, "/predict", GOOD, **{"X-Request-ID": "order-4711"}):
        assert answer.headers["x-request-id"] == "order-4711"
        assert answer.json()["id"] != "order-4711"


@pytest.mark.parametrize("bad", ["", "two words", "a" * 129, 'quote"d', "ümlaut", "a,b"])
def test_an_unsafe_request_id_is_replaced(served: Tidemill, bad: str) -> None:
    for answer in both(
        served, "/predict", GOOD, **{"X-Request-ID": bad.encode().decode("latin-1")}
    ):
        assert answer.headers["x-request-id"] == answer.json()["id"]


def test_a_trace_is_continued(served: Tidemill) -> None:
    for answer in both(served, "/predict", GOOD, traceparent=TRACE):
        assert answer.headers["x-request-id"] == TRACE.split("-")[1]
        assert answer.headers["traceresponse"] == TRACE
    for bad in ("00-0-0-0", TRACE[:-1], "ff" + TRACE[2:], TRACE.replace("4bf9", "XXXX")):
        for answer in both(served, "/predict", GOOD, traceparent=bad):
            assert "traceresponse" not in answer.headers


def test_errors_have_the_request_id_too(served: Tidemill) -> None:
    for path in ("/predict", "/nowhere"):
        for answer in both(served, path, {}, **{"X-Request-ID": "r1"}):
            assert answer.status in (404, 422)
            assert answer.headers["x-request-id"] == "r1"


def test_fast_protocol_and_asgi_app_record_the_same(home: Path, start: Start) -> None:
    make_shelf(home / "shelf")
    running = start()
    batch = {"instances": [ROW, ROW[::-1]]}
    house = {"area": 1.5, "side": "south", "rooms": None, "garden": True}
    asked = [
        *both(running, "/predict", GOOD, **{"X-Request-ID": "r1"}),
        *both(running, "/predict_batch", batch),
        *both(running, "/models/regressor/predict", house),
        *both(running, "/models/pictures/predict", {"image": [0.5] * 16}),
    ]
    running.ask("/predict", {"features": ROW[:2]})
    records = {record.id: record for record in read_folder(home / "journal")}
    assert list(records) == [answer.json()["id"] for answer in asked]
    first, second, many, _, mixed, _, picture, _ = records.values()
    assert (first.model, first.version, first.rows, first.role) == (
        "classifier",
        "1",
        1,
        "champion",
    )
    assert first.inputs() == second.inputs() == [ROW]
    assert first.request_id == "r1"
    assert first.predictions == [asked[0].json()["prediction"]]
    told = asked[0].json()["probabilities"].values()
    kept = first.probability_rows()
    assert kept is not None
    assert kept[0] == pytest.approx(list(told), rel=1e-6)
    assert 0 < first.latency < 5
    assert abs(first.time - second.time) < 10
    assert many.inputs() == batch["instances"]
    assert many.row_ids() == [row["id"] for row in asked[2].json()["predictions"]]
    assert mixed.inputs() == [[1.5, "south", None, True]]
    assert (mixed.predictions, mixed.probabilities) == ([202.5], None)
    assert picture.inputs() == [[0.5] * 16]


def test_no_response_is_sent_before_its_record_is_written(home: Path, start: Start) -> None:
    make_shelf(home / "shelf", ("classifier",))
    running = start()
    for path in ("/predict", "/predict?slow=1"):
        for _ in range(50):
            found = running.ask(path, GOOD).json()["id"]
            assert found in {record.id for record in read_folder(home / "journal")}


def test_a_full_journal_refuses_or_drops_as_configured(home: Path, start: Start) -> None:
    make_shelf(home / "shelf", ("classifier",))
    rows = {"instances": [[float(i), *ROW[1:]] for i in range(3000)]}
    refusing = start(journal_when_full="refuse", journal_max_bytes=1 << 16)
    assert refusing.ask("/predict_batch", rows).status == 200
    for answer in both(refusing, "/predict", GOOD):
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert "journal" in answer.json()["detail"]
    assert refusing.ask("/ready").status == 503
    assert refusing.ask("/ready").json()["journal"] == "refusing"
    dropping = start(journal_when_full="drop", journal_max_bytes=1 << 16)
    for answer in both(dropping, "/predict", GOOD):
        assert answer.status == 200
    text = dropping.ask("/metrics").body.decode()
    assert "tidemill_journal_dropped_total 2.0" in text
    assert "tidemill_journal_full 1.0" in text


def test_recording_can_skip_inputs_a_fraction_or_everything(home: Path, start: Start) -> None:
    make_shelf(home / "shelf")
    running = start(journal_rules="regressor=0, pictures=1:noinputs")
    running.ask("/models/regressor/predict", {"features": [1.0, "north", None, True]})
    for _ in range(2):
        running.ask("/models/pictures/predict", {"image": [0.5] * 16})
    found = list(read_folder(home / "journal"))
    assert [(r.model, r.encoding, r.features) for r in found] == [("pictures", "none", None)] * 2
    silent = start(journal="off", journal_dir=str(home / "other"))
    assert silent.ask("/predict", GOOD).status == 200
    assert silent.ask("/ready").json()["journal"] == "off"
    assert not (home / "other").exists()


def test_requests_are_logged_if_configured(
    home: Path, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    make_shelf(home / "shelf", ("classifier",))
    with caplog.at_level("INFO", "tidemill.access"):
        silent = start()
        silent.ask("/predict", GOOD)
        running = start(access_log="on")
        both(running, "/predict", GOOD, **{"X-Request-ID": "r7"})
        running.ask("/nowhere")
    lines = [record for record in caplog.records if record.name == "tidemill.access"]
    assert [r.getMessage() for r in lines] == ["POST /predict 200"] * 2 + ["GET /nowhere 404"]
    first: Any = lines[0]
    assert (first.request_id, first.client) == ("r7", "127.0.0.1")
    assert first.ms > 0
