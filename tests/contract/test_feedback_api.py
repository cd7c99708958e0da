"""Labels over HTTP and from files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.contract.test_api import Api, assert_problem, served
from tests.unit.stores.predictions.test_predictions import PLANTS, record
from tidemill.cli.app import app as cli
from tidemill.platform import Platform
from tidemill.settings import Settings

SIGNED = {("plants", "1"): PLANTS}


@pytest.fixture
def settings(home: Path) -> Settings:
    return Settings(home=home, log_level="ERROR")


@pytest.fixture
def api(settings: Settings) -> Any:
    with served(settings, "predict", "train", "admin") as api:
        api.platform.predictions.add([record(n) for n in range(4)], SIGNED)
        yield api


def test_one_label_or_a_list_is_joined(api: Api) -> None:
    one = api.post("/feedback", "predict", json={"id": "p00000", "actual": "fern"})
    assert one.status_code == 200
    assert one.json() == {
        "received": 1,
        "outcomes": {"joined": 1},
        "items": [{"id": "p00000", "outcome": "joined", "reason": None}],
    }
    labels = [
        {"id": "p00000", "actual": "moss"},
        {"id": "p00000", "actual": "moss", "replace": True},
        {"id": "p00001", "actual": "weed"},
        {"id": "later", "actual": "moss"},
        {"id": "p00000", "actual": "moss"},
    ]
    many = api.post("/feedback", "predict", json=labels)
    assert many.status_code == 200
    assert [item["outcome"] for item in many.json()["items"]] == [
        "conflict", "joined", "refused", "waiting", "duplicate"
    ]  # fmt: skip
    told = api.get("/metrics").text
    assert 'tidemill_feedback_labels_total{outcome="joined"} 2.0' in told


def test_a_single_refused_or_conflicting_label_is_an_error(api: Api) -> None:
    refused = api.post("/feedback", json={"id": "p00001", "actual": "weed"})
    assert "'fern', 'moss'" in assert_problem(refused, 422, "actual")["detail"]
    api.post("/feedback", json={"id": "p00001", "actual": "fern"})
    against = api.post("/feedback", json={"id": "p00001", "actual": "moss"})
    assert "replace" in assert_problem(against, 409, "actual")["remedy"]
    assert [row["outcome"] for row in api.get("/feedback").json()["items"]] == [
        "conflict", "joined", "refused"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ([], "body"),
        ({"id": "p00001"}, "0"),
        ({"id": 1, "actual": "fern"}, "0.id"),
        ([{"id": "p00001", "actual": "fern"}, {"id": "x", "actual": None}], "1.actual"),
        ([{"id": "p00001", "actual": ["fern"]}], "0.actual"),
        ([{"id": "p00001", "actual": "fern", "weight": 2}], "0"),
        ([{"id": "x" * 65, "actual": "fern"}], "0.id"),
        ([7], "0"),
        ("fern", "0"),
        ([{"id": "a", "actual": "b"}] * 10_001, "body"),
    ],
)
def test_an_invalid_label_is_named_and_nothing_is_stored(api: Api, body: Any, field: str) -> None:
    assert_problem(api.post("/feedback", json=body), 422, field)
    assert api.platform.feedback.counts() == {}


@pytest.mark.parametrize("text", ['[{"id":"a","actual":NaN}]', '[{"id":"a","actual":1e999}]'])
def test_numbers_outside_json_are_refused(api: Api, text: str) -> None:
    headers = {"Content-Type": "application/json"}
    answer = api.post("/feedback", content=text, headers=headers)
    assert_problem(answer, 422, "0.actual")


def test_labels_need_the_scope_predict_and_reading_them_admin(api: Api) -> None:
    body = {"id": "p00001", "actual": "fern"}
    assert_problem(api.post("/feedback", None, json=body), 403)
    assert_problem(api.post("/feedback", "train", json=body), 403)
    for path in ("/feedback", "/predictions", "/predictions/p00001"):
        assert_problem(api.get(path, "predict"), 403)


def test_a_label_with_a_nul_character_is_refused(api: Api) -> None:
    body = [{"id": "a\0", "actual": "fern"}]
    assert_problem(api.post("/feedback", json=body), 400, "0.id")


@pytest.mark.parametrize(
    "body",
    [
        b'[{"id": "a\xed\xa0\x80", "actual": "fern"}]',
        '[{"id": "a\\ud800", "actual": "fern"}]'.encode("utf-16"),
    ],
    ids=["raw surrogate", "UTF-16"],
)
def test_a_label_with_half_a_surrogate_pair_is_refused_in_any_spelling(
    api: Api, body: bytes
) -> None:
    headers = {"Content-Type": "application/json"}
    assert_problem(api.post("/feedback", content=body, headers=headers), 400, "0.id")


def test_predictions_are_listed_and_found_by_id(api: Api) -> None:
    api.post("/feedback", json={"id": "p00002", "actual": "fern"})
    first = api.get("/predictions", params={"model": "plants", "limit": 3}).json()
    rest = api.get("/predictions", params={"model": "plants", "cursor": first["next"]}).json()
    assert [row["id"] for row in first["items"] + rest["items"]] == [
        "p00003", "p00002", "p00001", "p00000"
    ]  # fmt: skip
    labelled = api.get("/predictions", params={"labelled": True}).json()["items"]
    assert [(row["id"], row["actual"]) for row in labelled] == [("p00002", "fern")]
    (one,) = api.get("/predictions/p00002").json()
    assert one["features"] == {"height": 2.0, "leaves": 4.0}
    assert one["time"].startswith("1970-01-01T00:16:42")
    assert_problem(api.get("/predictions/nobody"), 404)
    assert_problem(api.get("/predictions", params={"cursor": "?"}), 422, "cursor")


def test_a_thousand_labels_are_one_transaction(api: Api) -> None:
    api.platform.predictions.add([record(n) for n in range(10, 1_010)], SIGNED)
    labels = [{"id": f"p{n:05d}", "actual": "moss"} for n in range(10, 1_010)]
    answer = api.post("/feedback", "predict", json=labels)
    assert answer.json()["outcomes"] == {"joined": 1_000}


@pytest.fixture
def filled(settings: Settings) -> Settings:
    platform = Platform.open(settings)
    platform.predictions.add([record(n) for n in range(4)], SIGNED)
    platform.close()
    return settings


def run(settings: Settings, text: str, *words: str) -> Any:
    file = settings.home.parent / "labels.csv"
    file.write_text(text, encoding="utf-8")
    return CliRunner().invoke(cli, ["feedback", str(file), "--home", str(settings.home), *words])


def test_joining_a_label_file_twice_is_safe(filled: Settings) -> None:
    text = "\ufeffid,actual\np00000,fern\np00001,moss\nlater,moss\n"
    first = run(filled, text, "--json")
    assert first.exit_code == 0
    assert json.loads(first.stdout) == {"joined": 2, "waiting": 1, "left_out": 0}
    again = run(filled, text, "--json")
    assert json.loads(again.stdout) == {"duplicate": 2, "waiting": 1, "left_out": 0}


def test_label_columns_can_be_named_and_refusals_are_reported(filled: Settings) -> None:
    text = "prediction_id;x,what\np00000,fern\np00001,weed\n"
    done = run(filled, text, "--id", "prediction_id;x", "--actual", "what")
    assert done.exit_code == 1
    assert "joined" in done.stdout
    assert "Line 3: The model does not know the label" in done.stderr


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        ("id,actual\np00000,fern\n,moss\n", (), "Line 3 has no id"),
        ("id,actual\np00000\n", (), "Line 2 has no actual"),
        ("id,truth\np00000,fern\n", (), "no column 'actual'"),
        ("", (), "no column 'id'"),
        ("id,actual\np00000,fern\n", ("--id", "ids"), "no column 'ids'"),
        ("id,actual\n" + "x" * 65 + ",fern\n", (), "Line 2: "),
    ],
)
def test_an_invalid_line_is_named(
    filled: Settings, text: str, words: tuple[str, ...], said: str
) -> None:
    done = run(filled, text, *words)
    assert said in str(done.exception)
    if "Line 3" in said:
        assert run(filled, text, "--keep-going", "--json").exit_code == 0
