"""Dates and times in every protocol: the model gets the same seconds, or the request is refused."""

from __future__ import annotations

import datetime as dt
import io
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.journal_records import read_folder
from tidemill.bundle import Bundle, Example, ModelInput, ModelOutputs
from tidemill.bundle import RowPrediction as Given
from tidemill.serving.model.scorer import Scorer
from tidemill.serving.shelf import shelf as shelves
from tidemill.serving.shelf.shelf import ShelfState
from tidemill.signature import Column, Signature

from .conftest import Answer, Tidemill, _model, put, starting, write_bundle

NAMES = ("opened", "closed", "stamp", "local")
WEIGHTS = (1.0, 2.0, 3.0, 5.0)
SIGNATURE = Signature(
    "regression",
    "y",
    (
        Column("opened", "datetime", nullable=True, format="iso"),
        Column("closed", "datetime", format="iso zoned"),
        Column("stamp", "datetime", format="milliseconds"),
        Column("local", "datetime", format="%d.%m.%Y %H:%M"),
    ),
)
NOON = 1_717_156_800.0  # 2024-05-31 12:00 UTC
ROW = {
    "opened": "2024-05-31T12:00:00",
    "closed": "2024-05-31T14:00:00+02:00",
    "stamp": int(NOON) * 1000,
    "local": "31.05.2024 12:00",
}
ANSWER = NOON * sum(WEIGHTS)
CSV, PARQUET = "text/csv", "application/vnd.apache.parquet"


def weighted(folder: Path) -> Bundle:
    """The weighted sum of the columns' seconds; missing counts as 0."""
    nodes = [
        helper.make_node("IsNaN", ["n"], ["missing"]),
        helper.make_node("Where", ["missing", "zero", "n"], ["known"]),
        helper.make_node("MatMul", ["known", "weights"], ["value"]),
    ]
    graph = helper.make_graph(
        nodes, "sum", [helper.make_tensor_value_info("n", TensorProto.DOUBLE, [None, 4])],
        [helper.make_tensor_value_info("value", TensorProto.DOUBLE, [None, 1])],
        [helper.make_tensor("zero", TensorProto.DOUBLE, [], [0.0]),
         helper.make_tensor("weights", TensorProto.DOUBLE, [4, 1], WEIGHTS)],
    )  # fmt: skip
    example = Example(((NOON,) * 4, (None, NOON, NOON, 0.0)), (Given(ANSWER), Given(5 * NOON)))
    inputs = [ModelInput("n", "float64", NAMES)]
    return write_bundle(
        folder, SIGNATURE, inputs, ModelOutputs(value="value"), _model(graph), example
    )


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def dated(home: Path) -> Iterator[Tidemill]:
    entry = put(home / "shelf", "dated", "1", weighted(home / "bundle"))
    state = ShelfState(default="dated", models={"dated": entry}, synced_at=time.time())
    shelves.write_state(home / "shelf", state)
    with starting(home) as begin:
        yield begin()


def v2(**columns: tuple[str, list[Any]]) -> dict[str, Any]:
    return {
        "inputs": [
            {"name": name, "datatype": kind, "shape": [len(data), 1], "data": data}
            for name, (kind, data) in columns.items()
        ]
    }


def parquet(**changes: Any) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet as files

    moment = dt.datetime(2024, 5, 31, 12)
    columns = {
        "opened": pa.array([np.datetime64(moment, "ns")], pa.timestamp("ns")),
        "closed": pa.array([moment], pa.timestamp("s", "Europe/Berlin")),
        "stamp": pa.array([int(NOON) * 1000]),
        "local": pa.array([moment], pa.timestamp("ms")),
        **changes,
    }
    sink = io.BytesIO()
    files.write_table(pa.table(columns), sink)
    return sink.getvalue()


def csv(**changes: Any) -> bytes:
    row = {**ROW, **changes}
    return (",".join(row) + "\n" + ",".join(str(value) for value in row.values())).encode()


def test_every_protocol_gives_the_model_the_same_seconds(dated: Tidemill) -> None:
    listed = list(ROW.values())
    native = [ROW, {"features": ROW}, {"features": listed}, {"instances": [listed, ROW]}]
    for body in native:
        answer = dated.ask("/predict", body).json()
        found = answer.get("predictions", [answer])
        assert [each["prediction"] for each in found] == [ANSWER] * len(found)
    scoring = [
        {"dataframe_split": {"columns": list(NAMES), "data": [listed]}},
        {"dataframe_split": {"columns": [*NAMES[::-1], "z"], "data": [[*listed[::-1], 1]]}},
        {"dataframe_records": [ROW]},
        {"instances": [listed]},
        {"inputs": {name: [value] for name, value in ROW.items()}},
    ]
    for body in scoring:
        assert dated.ask("/invocations", body).json() == {"predictions": [ANSWER]}
    for body, media in ((csv(), CSV), (parquet(), PARQUET)):
        found = dated.ask("/invocations", body, headers={"Content-Type": media})
        assert found.json() == {"predictions": [ANSWER]}
    kinds = ("BYTES", "BYTES", "INT64", "BYTES")
    columns = {n: (k, [v]) for (n, v), k in zip(ROW.items(), kinds, strict=True)}
    answer = dated.ask("/v2/models/dated/infer", v2(**columns)).json()
    assert answer["outputs"][0]["data"] == [ANSWER]


def test_the_metadata_names_what_the_protocol_accepts(dated: Tidemill) -> None:
    inputs = dated.ask("/v2/models/dated").json()["inputs"]
    assert [each["datatype"] for each in inputs] == ["BYTES", "BYTES", "INT64", "BYTES"]
    schema = dated.ask("/schema").json()
    columns = schema["request"]["anyOf"][1]["properties"]
    assert columns["closed"]["format"] == "date-time"
    assert "format" not in columns["opened"]  # date-time would need a zone
    assert columns["opened"]["type"] == ["string", "null"]
    assert columns["stamp"]["type"] == ["integer", "string"]
    assert "31.05.2024 12:00" in columns["local"]["description"]


def test_the_examples_of_the_documentation_are_accepted(dated: Tidemill) -> None:
    for body in dated.ask("/schema").json()["examples"].values():
        assert dated.ask("/predict", body).status == 200
    paths = dated.ask("/openapi.json").json()["paths"]
    for path in ("/invocations/dated", "/v2/models/dated/infer"):
        content = paths[path]["post"]["requestBody"]["content"]["application/json"]
        assert dated.ask(path, content["example"]).status == 200, content["example"]


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("opened", "2024-05-31 12:00"),
        ("opened", "2024-05-31T12:00:00.999999999"),
        ("closed", "2024-05-31T12:00Z"),
        ("closed", "2024-05-31 17:30:00 +0530"),
        ("stamp", NOON * 1000),
        ("stamp", str(int(NOON) * 1000 + 999)),
        ("stamp", "2024-05-31T12:00:00Z"),
        ("local", "2024-05-31T12:00:00"),
    ],
)
def test_other_spellings_of_the_same_moment_are_equal(
    dated: Tidemill, name: str, good: Any
) -> None:
    assert dated.ask("/predict", {**ROW, name: good}).json()["prediction"] == ANSWER
    found = dated.ask("/invocations", csv(**{name: good}), headers={"Content-Type": CSV})
    assert found.json() == {"predictions": [ANSWER]}


BAD = [
    ("opened", "2024-05-31T12:00:00Z", "has a zone"),
    ("opened", "2023-02-29", "not a day or time that exists"),
    ("opened", "31.05.2024", "not a date"),
    ("opened", 1_717_156_800, "is a number"),
    ("opened", True, "is true"),
    ("opened", "", "not a date"),
    ("opened", {"day": "2024-05-31"}, "is {"),
    ("closed", "2024-05-31T12:00:00", "has no zone"),
    ("closed", "2024-05-31T12:00:00+25:00", "an offset that no zone has"),
    ("closed", None, "is missing"),
    ("stamp", 1e300, "outside the years"),
    ("stamp", "2024-05-31", "has no zone"),
    ("local", "05/31/2024 12:00", "not a date of this format"),
    ("local", "31.05.2024 24:00", "not a day or time that exists"),
]


@pytest.mark.parametrize(("name", "bad", "why"), BAD)
def test_what_is_no_date_of_the_column_is_refused_by_name(
    dated: Tidemill, name: str, bad: Any, why: str
) -> None:
    answer = dated.ask("/predict", {**ROW, name: bad})
    assert (answer.status, answer.json()["field"]) == (422, name)
    assert why in answer.json()["detail"]
    many = dated.ask("/predict_batch", {"instances": [ROW, {**ROW, name: bad}]})
    assert (many.status, many.json()["field"]) == (422, name)
    scored = dated.ask("/invocations", {"dataframe_records": [{**ROW, name: bad}]})
    assert scored.status == 400
    assert name in scored.json()["message"]


def test_parquet_files_with_and_without_zones_are_told_apart(dated: Tidemill) -> None:
    import pyarrow as pa

    moment = dt.datetime(2024, 5, 31, 12)
    plain, zoned = pa.array([moment]), pa.array([moment], pa.timestamp("us", "UTC"))
    far = pa.array([2**62], pa.timestamp("ms"))
    for changes in ({"opened": zoned}, {"closed": plain}, {"stamp": plain}, {"opened": far}):
        sent = parquet(**changes)
        found = dated.ask("/invocations", sent, headers={"Content-Type": PARQUET})
        assert found.status == 400, changes
    day = parquet(opened=pa.array([moment.date()]), stamp=zoned)
    found = dated.ask("/invocations", day, headers={"Content-Type": PARQUET})
    assert found.json() == {"predictions": [ANSWER - 12 * 3600]}
    texts = parquet(opened=pa.array(["2024-05-31T12:00"]), closed=pa.array([None], pa.string()))
    found = dated.ask("/invocations", texts, headers={"Content-Type": PARQUET})
    assert "closed" in found.json()["message"]


def test_a_missing_date_is_recorded_as_missing_and_others_as_seconds(
    dated: Tidemill, home: Path
) -> None:
    answer: Answer = dated.ask("/predict", {**ROW, "opened": None})
    assert answer.json()["prediction"] == ANSWER - NOON
    record = next(r for r in read_folder(home / "journal") if r.id == answer.json()["id"])
    first, *others = record.inputs()[0]
    assert first is None or first != first
    assert others == [NOON] * 3


def test_the_scorer_without_a_server_answers_alike(home: Path, dated: Tidemill) -> None:
    scorer = Scorer.open(home / "shelf")
    import msgspec

    assert msgspec.json.decode(scorer.answer(msgspec.json.encode(ROW)))["prediction"] == ANSWER
