"""The Open Inference Protocol, with Triton's client and with raw requests."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

triton = pytest.importorskip("tritonclient.http", reason="Triton's client is not installed")

FLOATS = tuple(f"mean measure {i}" for i in range(6))
ROW = [3.1, 2.9, 3.3, 1.0, 4.2, 2.2]
HOUSE = {"area": [10.5], "side": ["north"], "rooms": [3], "garden": [True]}
TYPES = {"area": "FP64", "side": "BYTES", "rooms": "INT64", "garden": "BOOL"}


@pytest.fixture(scope="module")
def client(served: Any) -> Iterator[Any]:
    with triton.InferenceServerClient(f"127.0.0.1:{served.port}") as made:
        yield made


def houses(**changes: Any) -> dict[str, Any]:
    values = {**HOUSE, **changes}
    return {
        "inputs": [
            {"name": name, "shape": [len(data), 1], "datatype": TYPES[name], "data": data}
            for name, data in values.items()
        ]
    }


def infer(served: Any, model: str, body: Any, **more: Any) -> Any:
    return served.ask(f"/v2/models/{model}/infer", body, **more)


def test_the_client_finds_server_and_models(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("classifier")
    assert client.is_model_ready("classifier", "1")
    assert client.get_server_metadata()["name"] == "tidemill"
    index = client.get_model_repository_index()
    assert {(m["name"], m["state"]) for m in index} >= {("classifier", "READY")}


def test_metadata_lists_inputs_and_outputs(client: Any) -> None:
    found = client.get_model_metadata("regressor", "1")
    kinds = {entry["name"]: entry["datatype"] for entry in found["inputs"]}
    assert kinds == TYPES
    assert [o["name"] for o in found["outputs"]] == ["prediction"]
    image = client.get_model_metadata("pictures")["inputs"]
    assert image == [{"name": "image", "datatype": "FP32", "shape": [-1, 1, 4, 4]}]


@pytest.mark.parametrize("binary", [True, False])
def test_triton_gets_the_native_answer(served: Any, client: Any, binary: bool) -> None:
    rows = np.array([ROW, ROW[::-1]])
    tensor = triton.InferInput("input-0", [2, 6], "FP64")
    tensor.set_data_from_numpy(rows, binary_data=binary)
    wanted = [
        triton.InferRequestedOutput(name, binary_data=binary)
        for name in ("prediction", "probabilities")
    ]
    found = client.infer("classifier", [tensor], outputs=wanted, request_id="mine")
    native = served.ask("/predict", {"instances": rows.tolist()}).json()["predictions"]
    labels = [text.decode() if isinstance(text, bytes) else text
              for text in found.as_numpy("prediction").tolist()]  # fmt: skip
    assert labels == [answer["prediction"] for answer in native]
    known = [list(answer["probabilities"].values()) for answer in native]
    np.testing.assert_allclose(found.as_numpy("probabilities"), known, rtol=1e-6)
    assert found.get_response()["id"] == "mine"


def test_triton_sends_texts_and_booleans_as_bytes(served: Any, client: Any) -> None:
    arrays = {
        "area": np.array([10.5, 2.0]),
        "side": np.array(["north", "south"], dtype=object),
        "rooms": np.array([3, 4]),
        "garden": np.array([True, False]),
    }
    tensors = []
    for name, array in arrays.items():
        tensors.append(triton.InferInput(name, [2, 1], TYPES[name]))
        tensors[-1].set_data_from_numpy(array.reshape(2, 1), binary_data=True)
    found = client.infer("regressor", tensors).as_numpy("prediction")
    assert found.tolist() == [114.5, 206.0]


def test_null_is_a_missing_value_if_the_column_is_nullable(served: Any) -> None:
    good = infer(served, "regressor", houses(rooms=[None]))
    assert good.json()["outputs"][0]["data"] == [111.5]
    bad = infer(served, "regressor", houses(area=[None]))
    assert bad.status == 400
    assert "'area' is missing" in bad.json()["error"]


def test_a_tensor_model_takes_its_tensor_flat_or_shaped(served: Any) -> None:
    pixels = [0.0] * 10 + [1.0, 1.0, 0.0, 0.0, 1.0, 1.0]
    for shape in ([1, 1, 4, 4], [1, 16]):
        tensor = {"name": "image", "shape": shape, "datatype": "FP32", "data": pixels}
        found = infer(served, "pictures", {"inputs": [tensor]})
        assert found.json()["outputs"][0] == {
            "name": "prediction", "datatype": "INT64", "shape": [1], "data": [3],
        }  # fmt: skip


def tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "x", "shape": [1, 6], "datatype": "FP64", "data": ROW, **changes}


@pytest.mark.parametrize(
    ("model", "body", "said"),
    [
        ("classifier", {"inputs": []}, "'inputs' is empty"),
        ("classifier", {}, "missing required field `inputs`"),
        ("classifier", b"{", "not an inference request"),
        ("classifier", {"inputs": [tensor(shape=[1, 5])]}, "has 6 values"),
        ("classifier", {"inputs": [tensor(shape=[1, 5], data=ROW[:5])]}, "Missing"),
        ("classifier", {"inputs": [tensor(datatype="FP99")]}, "datatype 'FP99'"),
        ("classifier", {"inputs": [tensor(data=["a"] * 6)]}, "which is no FP64"),
        ("classifier", {"inputs": [tensor(data=None)]}, "no data"),
        ("classifier", {"inputs": [tensor(shape=[0, 6], data=[])]}, "no rows"),
        ("classifier", {"inputs": [tensor(shape=[-1, 6])]}, "has the shape"),
        ("classifier", {"inputs": [tensor(), tensor()]}, "appears twice"),
        ("classifier", {"inputs": [tensor()], "outputs": [{"name": "odds"}]}, "output 'odds'"),
        ("regressor", houses(side=["west"]), "which the model never saw"),
        ("regressor", houses(area=[1.0, 2.0]), "different numbers of rows"),
        ("pictures", {"inputs": [tensor(name="image", shape=[1, 6])]}, "has the shape"),
    ],
)
def test_invalid_inputs_get_400_with_the_reason(
    served: Any, model: str, body: Any, said: str
) -> None:
    answer = infer(served, model, body)
    assert answer.status == 400
    assert said in answer.json()["error"]


@pytest.mark.parametrize(
    ("length", "announced", "tail", "said"),
    [
        ("12", 48, b"", "not an inference request"),
        ("x", 48, b"", "Inference-Header-Content-Length"),
        ("999999", 48, b"", "Inference-Header-Content-Length"),
        (None, 44, struct.pack("<5d", *ROW[:5]) + b"1234", "no FP64"),
        (None, 48, b"", "bytes; 0 are left"),
        (None, 48, struct.pack("<7d", *ROW, 0.0), "belong to no input"),
    ],
)
def test_binary_tensors_with_a_wrong_size_are_refused(
    served: Any, length: str | None, announced: int, tail: bytes, said: str
) -> None:
    entry = tensor(parameters={"binary_data_size": announced})
    del entry["data"]
    text = msgspec.json.encode({"inputs": [entry]})
    headers = {"Inference-Header-Content-Length": length or str(len(text))}
    answer = infer(served, "classifier", text + tail, headers=headers)
    assert answer.status == 400
    assert said in answer.json()["error"]


def test_an_unknown_model_or_version_gets_the_protocols_404(served: Any) -> None:
    for path in ("/v2/models/oak", "/v2/models/classifier/versions/9/ready"):
        answer = served.ask(path)
        assert answer.status == 404
        assert set(answer.json()) == {"error"}


@given(
    st.lists(st.lists(st.floats(-50, 50, width=32), min_size=6, max_size=6), min_size=1, max_size=4)
)
def test_every_format_of_the_same_rows_gets_the_same_answer(
    served: Any, rows: list[list[float]]
) -> None:
    native = served.ask("/predict", {"instances": rows}).json()["predictions"]
    matrix = [tensor(shape=[len(rows), 6], data=rows)]
    columns = [
        {"name": name, "shape": [len(rows)], "datatype": "FP32", "data": [r[i] for r in rows]}
        for i, name in enumerate(FLOATS)
    ]
    for inputs in (matrix, columns):
        outputs = infer(served, "classifier", {"inputs": inputs}).json()["outputs"]
        assert outputs[0]["data"] == [answer["prediction"] for answer in native]
        known = [p for answer in native for p in answer["probabilities"].values()]
        np.testing.assert_allclose(outputs[1]["data"], known, rtol=1e-6, atol=1e-9)
