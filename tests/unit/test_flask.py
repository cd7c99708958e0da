from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tidemill import bundle
from tidemill.errors import BundleError, InputError
from tidemill.flask import blueprint
from tidemill.serving.model.scorer import Scorer
from tidemill.serving.shelf.shelf import ShelfState, install_bundle, write_state

BUNDLE = Path(__file__).parents[1] / "data" / "iris-bundle"
ROW = [5.1, 3.5, 1.4, 0.2]
NAMES = ["sepal_length", "sepal_width", "petal_length", "petal_width"]


@pytest.fixture
def client() -> FlaskClient:
    app = Flask("orchard")
    app.register_blueprint(blueprint(BUNDLE, max_body=4096), url_prefix="/iris")
    return app.test_client()


def test_health_names_the_model(client: FlaskClient) -> None:
    said = client.get("/iris/health").get_json()
    assert (said["status"], said["model"]) == ("ok", "iris")


@pytest.mark.parametrize(
    "body",
    [
        {"features": ROW},
        {"features": dict(zip(NAMES, ROW, strict=True))},
        dict(zip(NAMES, ROW, strict=True)),
    ],
)
def test_every_form_of_one_row_gets_the_same_answer(
    client: FlaskClient, body: dict[str, object]
) -> None:
    answer = client.post("/iris/predict", json=body).get_json()
    assert answer["prediction"] == "setosa"
    assert set(answer["probabilities"]) == {"setosa", "versicolor", "virginica"}
    assert answer["confidence"] == max(answer["probabilities"].values())


def test_many_rows_are_answered_in_order(client: FlaskClient) -> None:
    other = [6.7, 3.0, 5.2, 2.3]
    answer = client.post("/iris/predict", json={"instances": [ROW, other]}).get_json()
    assert [a["prediction"] for a in answer["predictions"]] == ["setosa", "virginica"]


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b'{"features": [1, 2, 3]}', 422, "features"),
        (b'{"features": ["a", 2, 3, 4]}', 422, "sepal_length"),
        (b"{", 400, None),
        (b"", 400, None),
        (b'{"features": [' + b"1," * 4000 + b"1]}", 413, None),
    ],
)
def test_bad_input_gets_a_problem_that_names_the_field(
    client: FlaskClient, body: bytes, status: int, field: str | None
) -> None:
    answer = client.post("/iris/predict", data=body, content_type="application/json")
    assert answer.status_code == status
    assert answer.content_type == "application/problem+json"
    assert json.loads(answer.data).get("field") == field


def test_a_shelf_opens_its_default_or_the_named_model(tmp_path: Path) -> None:
    digest = bundle.read(BUNDLE).digest
    placed = install_bundle(tmp_path, "iris", "7", BUNDLE, digest)
    write_state(tmp_path, ShelfState(default="iris", models={"iris": placed}))
    assert Scorer.open(tmp_path).version == "7"
    assert Scorer.open(tmp_path, "iris").name == "iris"
    with pytest.raises(InputError, match="'oak' is not on the shelf"):
        Scorer.open(tmp_path, "oak")


def test_a_changed_bundle_is_refused(tmp_path: Path) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(BUNDLE, copy)
    (copy / "model.onnx").write_bytes(b"something else")
    with pytest.raises(BundleError, match="does not match the manifest"):
        blueprint(copy)
