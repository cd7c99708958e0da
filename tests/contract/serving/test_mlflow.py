"""MLflow's scoring protocol: the same requests to MLflow's scoring server and to ours."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LogisticRegression

from tidemill import Candidate, Project, sklearn_dataset
from tidemill.serving.shelf.shelf import ShelfState, install_bundle, write_state
from tidemill.steps.data.preprocessing import build_pipeline
from tidemill.steps.data.signature_inference import infer_signature
from tidemill.steps.export.bundle_writer import BundleMetadata, HeldOutRows, export_bundle

CITIES = ["Bremen", "Emden", "Husum"]


class Pair(NamedTuple):
    """One model behind MLflow's scoring server and behind ours."""

    name: str
    theirs: Any
    ours: Any
    table: pd.DataFrame
    model: Any = None

    def both(self, body: Any, media: str = "application/json") -> tuple[Any, Any]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": media}
        path = f"/invocations/{self.name}"
        theirs = self.theirs.post("/invocations", content=data, headers=headers)
        ours = self.ours.ask(path, data, headers=headers)
        return (theirs.status_code, theirs.json()), (ours.status, ours.json())


def tables() -> dict[str, tuple[pd.DataFrame, Any, Any, Any]]:
    rng = np.random.default_rng(3)
    numbers = pd.DataFrame(rng.normal(size=(80, 3)), columns=["a", "b", "c"])
    mixed = pd.DataFrame(
        {
            "size": rng.normal(size=80),
            "rooms": rng.integers(1, 6, 80),
            "garden": rng.random(80) > 0.5,
            "city": rng.choice(CITIES, 80),
        }
    )
    small = numbers.astype("float32")
    texts = np.where(numbers.a > 0, "up", "down").astype(object)
    whole = (mixed["rooms"] > 2).astype(int).to_numpy()
    value = mixed["size"].to_numpy() * 3 + mixed["rooms"].to_numpy()
    return {
        "texts": (numbers, texts, LogisticRegression(), "classification"),
        "whole": (mixed, whole, LogisticRegression(), "classification"),
        "floats": (mixed, value, RandomForestRegressor(10, random_state=0), "regression"),
        "single": (small, small["b"].to_numpy(), RandomForestRegressor(5, random_state=0),
                   "regression"),
    }  # fmt: skip


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Pair]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's and Starlette's own
        import mlflow
        from mlflow.pyfunc import scoring_server
        from starlette.testclient import TestClient

    from .conftest import starting

    home = tmp_path_factory.mktemp("mlflow")
    placed, clients, models = {}, {}, {}
    for name, (table, y, estimator, task) in tables().items():
        project = Project(name, sklearn_dataset("iris"), "y", [Candidate("c", type(estimator))])
        model = models[name] = build_pipeline(estimator, table, project).fit(table, y)
        signature = infer_signature(table, y, task, project)
        made = export_bundle(
            model, signature, table, HeldOutRows(table, y), home / name, BundleMetadata(name)
        )
        placed[name] = install_bundle(home / "shelf", name, "1", made.path, made.digest)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            described = mlflow.models.infer_signature(table, model.predict(table))
            folder = str(home / f"{name}-mlflow")
            mlflow.sklearn.save_model(
                model, folder, signature=described, pip_requirements=[],
                serialization_format="cloudpickle",
            )  # fmt: skip
            clients[name] = TestClient(scoring_server.init(mlflow.pyfunc.load_model(folder)))
    write_state(home / "shelf", ShelfState(default="texts", models=placed, synced_at=1.0))
    with starting(Path(home)) as begin:
        ours = begin()
        yield {
            name: Pair(name, clients[name], ours, table, models[name])
            for name, (table, *_) in tables().items()
        }


def forms(table: pd.DataFrame) -> dict[str, Any]:
    split = json.loads(table.to_json(orient="split", double_precision=15))
    records = json.loads(table.to_json(orient="records", double_precision=15))
    columns = {name: [record[name] for record in records] for name in table.columns}
    return {
        "split": {"dataframe_split": split},
        "records": {"dataframe_records": records},
        "instances": {"instances": records},
        "inputs": {"inputs": columns},
        "params": {"dataframe_records": records, "params": {}},
    }


@pytest.mark.parametrize("name", list(tables()))
@pytest.mark.parametrize("form", ["split", "records", "instances", "inputs", "params"])
def test_every_json_format_gets_mlflows_answer(
    pairs: dict[str, Pair], name: str, form: str
) -> None:
    pair = pairs[name]
    theirs, ours = pair.both(forms(pair.table[:7])[form])
    assert theirs[0] == ours[0] == 200
    same(theirs[1], ours[1])


@pytest.mark.parametrize("name", list(tables()))
def test_csv_gets_mlflows_answer(pairs: dict[str, Pair], name: str) -> None:
    body = pairs[name].table[:7].to_csv(index=False).encode()
    theirs, ours = pairs[name].both(body, "text/csv")
    assert theirs[0] == ours[0] == 200
    same(theirs[1], ours[1])


@pytest.mark.parametrize("name", list(tables()))
def test_parquet_gets_the_same_answer(pairs: dict[str, Pair], name: str) -> None:
    pair = pairs[name]
    file = io.BytesIO()
    pair.table[:7].to_parquet(file)
    media = {"Content-Type": "application/vnd.apache.parquet"}
    ours = pair.ours.ask(f"/invocations/{name}", file.getvalue(), headers=media)
    same(pair.ours.ask(f"/invocations/{name}", forms(pair.table[:7])["split"]).json(), ours.json())


@settings(max_examples=25)
@given(st.lists(st.tuples(*[st.floats(-9, 9)] * 3), min_size=1, max_size=5))
def test_any_rows_get_mlflows_answer(pairs: dict[str, Pair], rows: list[tuple[float, ...]]) -> None:
    table = pd.DataFrame(rows, columns=["a", "b", "c"])
    body = {"dataframe_split": {"columns": list(table), "data": [list(r) for r in rows]}}
    theirs, ours = pairs["texts"].both(body)
    same(theirs[1], ours[1])


def test_column_order_and_unknown_columns_do_not_matter(pairs: dict[str, Pair]) -> None:
    pair = pairs["whole"]
    table = pair.table[:5].iloc[:, ::-1].assign(note="x")
    theirs, ours = pair.both(forms(table)["split"])
    assert theirs[0] == ours[0] == 200
    same(theirs[1], ours[1])


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"{}",
        b'{"dataframe_split": {"columns": ["a"], "data": [[1.0]]}}',
        b'{"dataframe_records": [{"a": 1.0, "b": 2.0}]}',
        b'{"dataframe_split": {"columns": ["a","b","c"], "data": [["x", 1.0, 2.0]]}}',
        b'{"instances": [[1,2,3]], "inputs": [[1,2,3]]}',
    ],
)
def test_both_refuse_the_same_input_with_the_same_error(
    pairs: dict[str, Pair], body: bytes
) -> None:
    theirs, ours = pairs["texts"].both(body)
    assert theirs[0] == ours[0] == 400
    assert {"error_code", "message"} <= set(theirs[1])
    assert set(ours[1]) == {"error_code", "message"}


def test_invalid_csv_is_refused(pairs: dict[str, Pair]) -> None:
    for body in (b"", b"a,b,c\n", b"a,b,c\n1,2\n", b'a,b,c\n"1,2,3\n', b"\xff\xfe"):
        answer = pairs["texts"].ours.ask("/invocations", body, headers={"Content-Type": "text/csv"})
        assert answer.status == 400, body
        assert answer.json()["message"]


def test_a_table_with_two_columns_of_one_name_is_refused(pairs: dict[str, Pair]) -> None:
    twice = pa.table([[1.0], [2.0], [3.0], [4.0]], names=["a", "b", "c", "a"])
    file = io.BytesIO()
    pq.write_table(twice, file)
    bodies = {
        "text/csv": b"a,b,c,a\n1,2,3,4\n",
        "application/vnd.apache.parquet": file.getvalue(),
    }
    for media, body in bodies.items():
        answer = pairs["texts"].ours.ask("/invocations", body, headers={"Content-Type": media})
        assert answer.status == 400, media
        assert answer.json()["message"] == "The table has several columns 'a'."


@pytest.mark.parametrize(
    "column",
    [
        pa.array([date(2024, 1, 2)]),
        pa.array([Decimal("1.50")]),
        pa.array([b"\xff"]),
        pa.array([[1.0]]),
        pa.array([{"x": 1}]),
        pa.array(["1.5"]),
        pa.array([float("inf")]),
        pa.array([float("nan")]),
        pa.array([None], pa.null()),
        pa.array([], pa.float64()),
    ],
    ids=lambda column: str(column.type),
)
def test_a_parquet_file_with_other_types_is_refused_without_a_failure(
    pairs: dict[str, Pair], column: Any
) -> None:
    file = io.BytesIO()
    pq.write_table(pa.table([column] * 3, names=["a", "b", "c"]), file)
    media = {"Content-Type": "application/vnd.apache.parquet"}
    answer = pairs["texts"].ours.ask("/invocations", file.getvalue(), headers=media)
    assert answer.status == 400, answer.body
    assert answer.json()["message"]


def test_another_content_type_is_a_415(pairs: dict[str, Pair]) -> None:
    media = {"Content-Type": "text/xml"}
    pair = pairs["texts"]
    theirs = pair.theirs.post("/invocations", content=b"<x/>", headers=media)
    ours = pair.ours.ask("/invocations", b"<x/>", headers=media)
    assert theirs.status_code == ours.status == 415


def test_ping_and_version_answer(pairs: dict[str, Pair]) -> None:
    ours, theirs = pairs["texts"].ours, pairs["texts"].theirs
    assert (ours.ask("/ping").status, theirs.get("/ping").status_code) == (200, 200)
    assert ours.ask("/ping").body == theirs.get("/ping").content == b"\n"
    assert ours.ask("/version").status == 200


def test_a_tensor_is_accepted_as_instances_or_inputs(served: Any) -> None:
    pixels = np.zeros((1, 4, 4))
    pixels[0, 2:, 2:] = 1
    bodies = [
        {"instances": [pixels.tolist()]},
        {"instances": [{"image": pixels.tolist()}]},
        {"inputs": {"image": [pixels.tolist()]}},
        {"inputs": [pixels.ravel().tolist()]},
    ]
    for body in bodies:
        assert served.ask("/invocations/pictures", body).json() == {"predictions": [3]}


def same(theirs: Any, ours: Any) -> None:
    left, right = theirs["predictions"], ours["predictions"]
    if left and isinstance(left[0], float):
        np.testing.assert_allclose(right, left, rtol=1e-6)
    else:
        assert left == right


@pytest.fixture(scope="module")
def tensors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Pair]]:
    """Models that were logged with a tensor signature, converted from MLflow."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's and Starlette's own
        import mlflow.sklearn
        from mlflow.pyfunc import scoring_server
        from starlette.testclient import TestClient

    from tidemill.loop.sync.model_converter import convert
    from tidemill.steps.export.bundle_writer import BundleMetadata, make_example, write_bundle
    from tidemill.stores.mlflow.external_models import read_model_folder

    from .conftest import starting

    home = tmp_path_factory.mktemp("tensors")
    rng = np.random.default_rng(5)
    placed, clients, found = {}, {}, {}
    for name, dtype in (("double", np.float64), ("float", np.float32), ("long", np.int64)):
        X = (rng.normal(size=(60, 4)) * 3).astype(dtype)
        model = LogisticRegression().fit(X, np.where(X[:, 0] > 0, 7, 3))
        folder = home / f"{name}-mlflow"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mlflow.sklearn.save_model(
                model, str(folder), signature=mlflow.models.infer_signature(X, model.predict(X)),
                serialization_format="skops", pip_requirements=[],
            )  # fmt: skip
            clients[name] = TestClient(scoring_server.init(mlflow.pyfunc.load_model(str(folder))))
            made = convert(read_model_folder(folder), home)
        (home / name).mkdir()
        example = make_example(made.rows, made.signature, made.predictions)
        held = write_bundle(
            home / name, made.compiled, made.signature, {}, example, BundleMetadata(name)
        )
        placed[name] = install_bundle(home / "shelf", name, "1", held.path, held.digest)
        found[name] = pd.DataFrame(X[:7])
    write_state(home / "shelf", ShelfState(models=placed, synced_at=1.0))
    with starting(home) as begin:
        ours = begin()
        yield {name: Pair(name, clients[name], ours, found[name]) for name in placed}


@pytest.mark.parametrize("name", ["double", "float", "long"])
@pytest.mark.parametrize("form", ["inputs", "instances"])
def test_a_tensor_signature_gets_mlflows_answer(
    tensors: dict[str, Pair], name: str, form: str
) -> None:
    pair = tensors[name]
    theirs, ours = pair.both({form: pair.table.to_numpy().tolist()})
    assert theirs == ours
    assert ours[0] == 200
    assert set(ours[1]["predictions"]) <= {3, 7}


MIXED = ("size", "rooms", "garden", "city")
mixed_rows = st.lists(
    st.tuples(st.floats(-4, 4), st.integers(1, 6), st.booleans(), st.sampled_from(CITIES)).map(
        lambda values: dict(zip(MIXED, values, strict=True))
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=25)
@given(mixed_rows)
@pytest.mark.parametrize("name", ["whole", "floats"])
def test_every_format_in_every_protocol_gets_the_native_models_answer(
    pairs: dict[str, Pair], name: str, rows: list[dict[str, Any]]
) -> None:
    pair = pairs[name]
    table = pd.DataFrame(rows)
    wanted = pair.model.predict(table).tolist()
    for answers in (*native(pair, rows), *invocations(pair, table), *inferences(pair, table)):
        np.testing.assert_allclose(answers, wanted, rtol=1e-5, atol=1e-9)


def native(pair: Pair, rows: list[dict[str, Any]]) -> Iterator[list[Any]]:
    """The native protocol's answers, by format."""
    path = f"/models/{pair.name}/predict"
    listed = [list(row.values()) for row in rows]
    for form in ({"features": rows[0]}, rows[0], {"features": listed[0]}):
        got = pair.ours.ask(path, form).json()
        assert "prediction" in got, (form, got)
        first = got["prediction"]
        rest = pair.ours.ask(path, {"instances": [form, *listed[1:]]}).json()["predictions"]
        assert rest[0]["prediction"] == first
        yield [answer["prediction"] for answer in rest]
    batch = pair.ours.ask(f"{path}_batch", {"instances": rows}).json()
    yield [answer["prediction"] for answer in batch["predictions"]]


def invocations(pair: Pair, table: pd.DataFrame) -> Iterator[list[Any]]:
    """MLflow's protocol's answers, by format and content type."""
    parquet = io.BytesIO()
    table.to_parquet(parquet)
    bodies = [(json.dumps(body).encode(), "application/json") for body in forms(table).values()]
    bodies.append((table.to_csv(index=False).encode(), "text/csv"))
    bodies.append((parquet.getvalue(), "application/vnd.apache.parquet"))
    for body, media in bodies:
        headers = {"Content-Type": media}
        yield pair.ours.ask(f"/invocations/{pair.name}", body, headers=headers).json()[
            "predictions"
        ]


def inferences(pair: Pair, table: pd.DataFrame) -> Iterator[list[Any]]:
    """The Open Inference Protocol's answers, with tensors in JSON and as bytes."""
    from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

    kinds = {"size": "FP64", "rooms": "INT64", "garden": "BOOL", "city": "BYTES"}
    for binary in (False, True):
        inputs = [InferInput(n, [len(table)], kind) for n, kind in kinds.items()]
        for entry in inputs:
            values = table[entry.name()].to_numpy()
            text = values.dtype.kind in "OUT"
            entry.set_data_from_numpy(values.astype(object) if text else values, binary)
        wanted = [InferRequestedOutput("prediction", binary_data=False)]
        body, length = InferenceServerClient.generate_request_body(inputs, outputs=wanted)
        headers = {"Inference-Header-Content-Length": str(length)} if length else {}
        found = pair.ours.ask(f"/v2/models/{pair.name}/infer", body, headers=headers).json()
        yield found["outputs"][0]["data"]
