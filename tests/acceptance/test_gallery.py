"""Every gallery project, from its data to a served prediction, by command line and HTTP.

One home and one server for all of them: each project is trained and promoted once, by the commands
a user types, and every answer is compared with what the model in MLflow says to the same rows.
MNIST has a file of its own, because it needs PyTorch.
"""

from __future__ import annotations

import csv
import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.acceptance.machine import PATIENCE, Machine, Server
from tests.servers import wait_until
from tidemill.errors import DataError
from tidemill.loop.training.new_project import write_project
from tidemill.loop.training.train import train
from tidemill.project import Project, load_project
from tidemill.steps.data.prepare import PreparedData, prepare
from tidemill.steps.search.search import SearchOptions
from tidemill.stores.mlflow.tracking import Tracking

OWN = ["churn", "orders"]  # projects that `tidemill init` writes
CLASSIFIERS = ["breast_cancer", "wine", "iris", *OWN]
PROJECTS = [*CLASSIFIERS, "california_housing"]

# What each must reach on the rows held out from training.
AT_LEAST = {
    "breast_cancer": {"f1_score": 0.95, "accuracy": 0.95, "recall": 0.95, "roc_auc": 0.98},
    "wine": {"f1_score": 0.95, "accuracy": 0.95},
    "iris": {"accuracy": 0.93, "f1_score": 0.93},
    "california_housing": {"r2": 0.82},
    "churn": {"f1_score": 0.75},
    "orders": {"f1_score": 0.8},
}
AT_MOST = {"california_housing": {"rmse": 0.48, "mae": 0.33}}


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Machine:
    """A machine on which nothing has happened but `tidemill init`."""
    fresh = Machine(tmp_path_factory.mktemp("machine"))
    fresh.home.mkdir()
    shutil.copy(mlflow_template, fresh.home / "mlflow.db")
    fresh.run("init", "churn")
    write_orders(fresh.folder / "orders.csv")
    fresh.run("init", "orders", "--from", "orders.csv")
    return fresh


def write_orders(path: Path) -> None:
    """Somebody's table: mixed columns, gaps, ids, a text target, semicolons, decimal commas."""
    rng = np.random.default_rng(3)
    size = rng.normal(size=300)
    table = pd.DataFrame(
        {
            "Order ID": [f"o-{n}" for n in range(300)],
            "Größe": np.round(size, 3),
            "Farbe": rng.choice(["rot", "grün", None], 300),
            "Eilt": rng.random(300) < 0.5,
            "Ergebnis": np.where(size + rng.normal(scale=0.3, size=300) > 0, "gut", "schlecht"),
        }
    )
    table.to_csv(path, index=False, sep=";", decimal=",")


def reference(machine: Machine, name: str) -> str:
    own = machine.folder / name / "project.py"
    return str(own) if name in OWN else f"gallery:{name}"


def opened(machine: Machine, name: str) -> tuple[Project, PreparedData]:
    """A project with its rows, or a skip that says why they cannot be had."""
    project = load_project(reference(machine, name), home=machine.home)
    try:
        return project, prepare(project)
    except DataError as error:
        if name != "california_housing":
            raise
        pytest.skip(f"California Housing cannot be had: {error.detail}")


def trained(machine: Machine, name: str) -> dict[str, Any]:
    opened(machine, name)
    return machine.train(reference(machine, name))


def heldout(machine: Machine, name: str, rows: int = 25) -> tuple[str, pd.DataFrame]:
    """The model's name, and rows it has not learned from, without gaps."""
    project, data = opened(machine, name)
    return project.name, data.test[list(data.inputs)].dropna().head(rows)


def records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as a request's JSON holds them."""
    read: list[dict[str, Any]] = json.loads(rows.to_json(orient="records", double_precision=15))
    return read


@pytest.fixture(scope="module")
def server(machine: Machine) -> Iterator[Server]:
    """All of the projects' champions behind one address."""
    champions = set()
    for name in PROJECTS:
        try:
            champions.add(trained(machine, name)["model"])
        except pytest.skip.Exception:
            continue
    with machine.serving() as running:
        # A server is ready with its first model; the others follow one by one.
        wait_until(lambda: champions <= running.models(), "all champions in service", PATIENCE)
        yield running


@pytest.mark.parametrize("name", PROJECTS)
def test_training_reaches_its_metrics(machine: Machine, name: str) -> None:
    metrics = trained(machine, name)["metrics"]
    for metric, bound in AT_LEAST.get(name, {}).items():
        assert metrics[metric] >= bound, (metric, metrics)
    for metric, bound in AT_MOST.get(name, {}).items():
        assert metrics[metric] <= bound, (metric, metrics)


@pytest.mark.parametrize("name", PROJECTS)
def test_the_trained_version_passes_the_gate(machine: Machine, name: str) -> None:
    result = trained(machine, name)
    assert result["verdict"]["promoted"] is True
    assert str(result["verdict"]["version"]) == str(result["version"])


def test_the_champion_is_listed_in_production(machine: Machine) -> None:
    result = trained(machine, "iris")
    (version,) = json.loads(machine.run("models", "iris-classifier", "--json"))
    assert str(version["version"]) == str(result["version"])
    assert version["stage"] == "Production"
    assert "champion" in version["aliases"]


@pytest.mark.parametrize("name", ["breast_cancer", "wine"])
def test_the_sweep_leaves_six_comparable_runs(machine: Machine, name: str) -> None:
    runs = machine.runs(trained(machine, name)["model"], "trial")
    settings = set(zip(runs["params.C"].astype(float), runs["params.penalty"], strict=True))
    assert settings == {(C, penalty) for C in (0.1, 1.0, 10.0) for penalty in ("l1", "l2")}
    assert runs["metrics.f1_score"].notna().all()
    assert set(runs["status"]) == {"FINISHED"}


def test_iris_leaves_its_tables_and_two_runs_by_name(machine: Machine) -> None:
    trained(machine, "iris")
    runs = machine.runs("iris-classifier", "trial")
    assert set(runs["tags.mlflow.runName"]) == {"logistic_regression", "random_forest"}
    folder = machine.home / "gallery" / "iris" / "data"
    assert pd.read_csv(folder / "raw" / "Iris.csv").shape == (150, 6)
    parts = [pd.read_csv(folder / "processed" / f"{part}.csv") for part in ("train", "test")]
    assert [part["species"].value_counts().tolist() for part in parts] == [[40] * 3, [10] * 3]
    columns = ["sepal_length", "sepal_width", "petal_length", "petal_width", "species"]
    assert [list(part) for part in parts] == [columns, columns]


def test_california_housing_compares_three_kinds_of_model_and_keeps_the_best(
    machine: Machine,
) -> None:
    result = trained(machine, "california_housing")
    folder = machine.home / "gallery" / "california_housing" / "data" / "processed"
    best = json.loads((folder / "best_model_metrics.json").read_text())
    assert best["metrics"] == pytest.approx(result["metrics"])
    assert {"rmse", "mae", "r2"} <= set(best["metrics"])
    tried = {trial["candidate"]: trial["metrics"]["rmse"] for trial in result["trials"]}
    assert set(tried) == {"ridge", "random_forest", "gradient_boosting"}
    assert best["metrics"]["rmse"] == min(t["metrics"]["rmse"] for t in result["trials"])


@pytest.mark.parametrize("name", PROJECTS)
def test_served_predictions_equal_the_native_models(
    machine: Machine, server: Server, name: str
) -> None:
    model, rows = heldout(machine, name)
    expected = machine.native(model).predict(rows)
    body = server.ask(f"/models/{model}/predict", {"instances": records(rows)})
    answers = [answer["prediction"] for answer in body["predictions"]]
    if name in CLASSIFIERS:
        assert answers == list(expected)
    else:
        assert answers == pytest.approx(list(expected), rel=1e-5)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_served_probabilities_equal_the_native_models(
    machine: Machine, server: Server, name: str
) -> None:
    model, rows = heldout(machine, name)
    native = machine.native(model).get_raw_model()
    expected = native.predict_proba(rows)
    body = server.ask(f"/models/{model}/predict", {"instances": records(rows)})
    for answer, row in zip(body["predictions"], expected, strict=True):
        assert list(answer["probabilities"]) == [str(label) for label in native.classes_]
        assert list(answer["probabilities"].values()) == pytest.approx(row.tolist(), abs=1e-5)
        assert answer["confidence"] == pytest.approx(row.max(), abs=1e-5)


@pytest.mark.parametrize("name", PROJECTS)
def test_one_row_gets_the_same_answer_in_every_request_format(
    machine: Machine, server: Server, name: str
) -> None:
    model, rows = heldout(machine, name, rows=1)
    (row,) = records(rows)
    forms: list[dict[str, Any]] = [{"features": row}, {"features": list(row.values())}, row]
    said = [server.ask(f"/models/{model}/predict", form) for form in forms]
    assert len({json.dumps(answer["prediction"]) for answer in said}) == 1
    assert {answer["model"] for answer in said} == {model}
    assert len({answer["id"] for answer in said}) == len(forms)


def test_iris_takes_named_measurements_and_names_the_species(
    machine: Machine, server: Server
) -> None:
    trained(machine, "iris")
    flower = {"sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": 0.2}
    answer = server.ask("/models/iris-classifier/predict", flower)
    assert answer["prediction"] == "Iris-setosa"
    assert set(answer["probabilities"]) == {"Iris-setosa", "Iris-versicolor", "Iris-virginica"}


def test_missing_values_and_unknown_categories_follow_the_project(
    machine: Machine, server: Server
) -> None:
    model, rows = heldout(machine, "churn", rows=1)
    (row,) = records(rows)
    gap = server.ask(f"/models/{model}/predict", {**row, "age": None})
    assert gap["prediction"] in ("yes", "no")
    url = f"{server.url}/models/{model}/predict"
    refused = server.client.post(url, json={**row, "plan": "golden"})
    assert refused.status_code == 422
    problem = refused.json()
    assert problem["field"] == "plan"
    assert "basic" in problem["expected"]


def test_a_scored_file_has_the_native_predictions(machine: Machine) -> None:
    trained(machine, "churn")
    model, rows = heldout(machine, "churn")
    expected = machine.native(model).predict(rows)
    rows.to_csv(machine.folder / "rows.csv", index=False)
    machine.run("predict", model, "rows.csv", "-o", "scored.csv")
    with (machine.folder / "scored.csv").open(newline="") as file:
        scored = list(csv.DictReader(file))
    assert [row["prediction"] for row in scored] == list(expected)


def test_a_users_own_table_is_served_under_its_own_column_names(
    machine: Machine, server: Server
) -> None:
    trained(machine, "orders")
    body = {"Größe": 2.5, "Farbe": None, "Eilt": True}
    assert server.ask("/models/orders/predict", body)["prediction"] == "gut"
    opposite = server.ask("/models/orders/predict", {**body, "Größe": -2.5})
    assert opposite["prediction"] == "schlecht"


def test_autolog_can_be_switched_on_in_a_project_started_from_iris(machine: Machine) -> None:
    folder = machine.folder / "flowers"
    write_project(folder, source="iris")
    text = (folder / "project.py").read_text()
    assert "autolog=False" in text
    text = text.replace("autolog=False", "autolog=True").replace("iris-classifier", "flowers")
    (folder / "project.py").write_text(text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's own, about what it logs
        train(
            load_project(folder / "project.py"),
            Tracking(machine.store, artifact_root=machine.home / "artifacts"),
            SearchOptions(only=["random_forest"]),
        )
    (run,) = machine.runs("flowers", "trial").to_dict("records")
    assert "metrics.training_score" in run, "what scikit-learn's autolog adds"
    assert (folder / "data" / "processed" / "test.csv").is_file()
