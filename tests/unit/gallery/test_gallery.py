"""The gallery's projects: complete, short, and with data in the documented format."""

from __future__ import annotations

import importlib
import logging
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression

from tidemill.errors import DataError
from tidemill.gallery import iris, mnist
from tidemill.loop.training.progress import Reporter
from tidemill.loop.training.trial import fit_and_evaluate
from tidemill.project import Source, gallery, load_project
from tidemill.steps.data.prepare import input_matrix, prepare
from tidemill.steps.search.search import Trial


def test_the_gallery_has_five_projects() -> None:
    assert gallery() == ["breast_cancer", "california_housing", "iris", "mnist", "wine"]


@pytest.mark.parametrize(
    ("name", "model", "candidates"),
    [
        ("breast_cancer", "ClassificationModel", ["logistic_regression"]),
        ("wine", "wine-classifier", ["logistic_regression"]),
        ("iris", "iris-classifier", ["logistic_regression", "random_forest"]),
        ("mnist", "mnist", ["cnn"]),
        (
            "california_housing",
            "california-housing",
            ["ridge", "random_forest", "gradient_boosting"],
        ),
    ],
)
def test_models_and_runs_have_their_published_names(
    name: str, model: str, candidates: list[str]
) -> None:
    project = load_project(f"gallery:{name}")
    assert project.name == model
    assert [candidate.name for candidate in project.candidates] == candidates
    assert project.description
    assert project.gate.minimum


@pytest.mark.parametrize("name", gallery())
def test_gallery_files_are_short_enough_to_read(name: str) -> None:
    module = importlib.import_module(f"tidemill.gallery.{name}")
    assert len(Path(str(module.__file__)).read_text().splitlines()) <= 100


@pytest.mark.parametrize("name", ["breast_cancer", "wine"])
def test_the_sweep_is_six_settings_of_c_and_penalty(name: str) -> None:
    (candidate,) = load_project(f"gallery:{name}").candidates
    assert candidate.search == {"C": [0.1, 1.0, 10.0], "penalty": ["l1", "l2"]}
    assert candidate.parameters() == {"C": 1.0, "penalty": "l2"}


@pytest.mark.parametrize("name", ["breast_cancer", "wine"])
def test_the_penalty_parameter_is_applied(name: str) -> None:
    """A strong L1 penalty leaves most coefficients at zero; L2 leaves none there."""
    (candidate,) = load_project(f"gallery:{name}").candidates
    X, y = load_breast_cancer(return_X_y=True)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    fitted = {p: candidate.build(C=0.1, penalty=p).fit(X, y) for p in ("l1", "l2")}
    assert all(type(model) is LogisticRegression for model in fitted.values())
    assert np.mean(fitted["l1"].coef_ == 0) > 0.5
    assert np.mean(fitted["l2"].coef_ == 0) == 0


def test_the_raw_iris_file_has_kaggles_format(tmp_path: Path) -> None:
    iris.write_raw(tmp_path / "Iris.csv")
    lines = (tmp_path / "Iris.csv").read_text().splitlines()
    assert lines[0] == "Id,SepalLengthCm,SepalWidthCm,PetalLengthCm,PetalWidthCm,Species"
    assert lines[1] == "1,5.1,3.5,1.4,0.2,Iris-setosa"
    assert lines[150] == "150,5.9,3.0,5.1,1.8,Iris-virginica"
    counts = pd.read_csv(tmp_path / "Iris.csv")["Species"].value_counts().to_dict()
    assert counts == {"Iris-setosa": 50, "Iris-versicolor": 50, "Iris-virginica": 50}


def test_iris_generates_its_raw_file_and_is_trained_on_four_measurements(
    tmp_path: Path,
) -> None:
    prepared = prepare(load_project("gallery:iris", home=tmp_path))
    assert (tmp_path / "gallery" / "iris" / "data" / "raw" / "Iris.csv").is_file()
    assert prepared.inputs == ("sepal_length", "sepal_width", "petal_length", "petal_width")
    assert prepared.train["species"].value_counts().tolist() == [40, 40, 40]
    assert prepared.test["species"].value_counts().tolist() == [10, 10, 10]


def test_an_existing_raw_iris_file_is_used(tmp_path: Path) -> None:
    raw = tmp_path / "gallery" / "iris" / "data" / "raw" / "Iris.csv"
    raw.parent.mkdir(parents=True)
    iris.write_raw(raw)
    raw.write_text(raw.read_text().replace("Iris-setosa", "Iris-edited"))
    prepared = prepare(load_project("gallery:iris", home=tmp_path))
    assert "Iris-edited" in set(prepared.train["species"])


def test_california_housing_predicts_a_quantity_from_eight_columns() -> None:
    try:
        prepared = prepare(load_project("gallery:california_housing"))
    except DataError as error:
        pytest.skip(f"California Housing cannot be had: {error.detail}")
    assert prepared.task == "regression"
    assert (len(prepared.inputs), len(prepared.train), len(prepared.test)) == (8, 16512, 4128)


# MNIST


@pytest.fixture
def without_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine that has no copy and no network."""

    def fail() -> pd.DataFrame:
        raise DataError("OpenML's 'mnist_784' could not be fetched.", field="data")

    monkeypatch.setattr(mnist, "openml", lambda name: Source(f"openml:{name}", fail))


def test_mnist_has_one_tensor_input_and_epochs_and_lr_to_set() -> None:
    project = load_project("gallery:mnist")
    assert project.tensor is not None
    assert (project.tensor.name, project.tensor.shape) == ("image", (1, 28, 28))
    accepted = project.candidate("cnn").parameters() or {}
    assert (type(accepted["epochs"]), type(accepted["lr"])) == (int, float)


def test_mnist_keeps_raw_pixels_and_records_their_source(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pixels = np.arange(2 * 784).reshape(2, 784) % 256
    names = [f"pixel{n}" for n in range(1, 785)]
    kept = pd.DataFrame(pixels, columns=names).assign(**{"class": ["7", "0"]})
    monkeypatch.setattr(mnist, "openml", lambda name: Source(name, lambda: kept))
    frame = mnist.images()
    assert frame.attrs["source"] == "openml:mnist_784"
    assert frame["digit"].tolist() == [7, 0]
    assert (frame[names].to_numpy() == pixels).all()


def test_without_internet_access_the_small_digits_are_used_with_a_warning(
    without_mnist: None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        prepared = prepare(load_project("gallery:mnist"))
    assert "8 x 8 digits" in caplog.text
    assert prepared.source.startswith("scikit-learn:digits")
    assert (len(prepared.train), len(prepared.test)) == (1540, 257)
    images = input_matrix(prepared.train, prepared.inputs, load_project("gallery:mnist"))
    assert images.shape == (1540, 1, 28, 28)
    assert (images.min(), images.max()) == (0.0, 255.0)


def test_small_digits_are_scaled_up_unchanged() -> None:
    from sklearn.datasets import load_digits

    small = load_digits()
    frame = mnist.small_images()
    order = np.random.default_rng(0).permutation(len(small.target))
    large = frame.drop(columns="digit").to_numpy().reshape(-1, 28, 28)
    assert (frame["digit"].to_numpy() == small.target[order]).all()
    centres = large[:, 3:27:3, 3:27:3]
    assert (centres == (small.images[order] * 255 / 16).astype("uint8")).all()
    assert large[:, :2].max() == large[:, :, -2:].max() == 0


def test_without_torch_training_fails_and_names_the_extra() -> None:
    code = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name=name)
sys.meta_path.insert(0, Absent())
from tidemill.errors import ProjectError
from tidemill.project import load_project
project = load_project("gallery:mnist")
try:
    project.candidate("cnn").build(epochs=1)
except ProjectError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'tidemill[torch]'" in done.stdout
    assert "torch is not installed" in done.stdout


@pytest.fixture
def torch() -> Iterator[Any]:
    """PyTorch on one thread, seeded: its threads wait for each other on a busy machine.

    Tests that take it are marked slow, because slow tests run where PyTorch is installed.
    """
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield torch
    torch.set_num_threads(before)


@pytest.mark.slow
def test_epochs_and_lr_reach_the_network(torch: Any) -> None:
    built = load_project("gallery:mnist").candidate("cnn").build(epochs=2, lr=0.01)
    assert (built.max_epochs, built.lr) == (2, 0.01)


@pytest.mark.slow
def test_the_network_is_trained_on_raw_pixels_and_has_its_classes(torch: Any) -> None:
    frame = mnist.small_images()
    y = np.array(frame.pop("digit"))
    X = np.array(frame, dtype="float32").reshape(-1, 1, 28, 28)
    network = load_project("gallery:mnist").candidate("cnn").build(epochs=2)
    network.fit(X[:1500], y[:1500])
    assert network.classes_.tolist() == list(range(10))
    probabilities = network.predict_proba(X[1500:])
    assert probabilities.sum(axis=1) == pytest.approx(1.0, abs=1e-5)
    assert np.mean(network.predict(X[1500:]) == y[1500:]) > 0.8


@pytest.mark.slow
def test_fitting_again_starts_from_scratch(torch: Any) -> None:
    frame = mnist.small_images().head(200)
    y = np.array(frame.pop("digit"))
    X = np.array(frame, dtype="float32").reshape(-1, 1, 28, 28)
    network = load_project("gallery:mnist").candidate("cnn").build(epochs=1)
    answers = []
    for _ in range(2):
        torch.manual_seed(0)
        answers.append(network.fit(X, y).predict_proba(X))
    assert answers[0] == pytest.approx(answers[1], abs=1e-6)


@pytest.mark.slow
def test_training_reports_every_epoch(torch: Any) -> None:
    project = replace(load_project("gallery:mnist"), data=mnist.small_images)
    told: list[float] = []
    learned = fit_and_evaluate(
        Trial("cnn", 1, 1, {"epochs": 2}), project, prepare(project), told.append
    )
    assert told == [0.5, 1.0]
    assert learned.params["epochs"] == 2
    assert learned.warnings == ()
    assert learned.evaluation.metrics["accuracy"] > 0.85


def test_progress_advances_within_a_trial() -> None:
    seen: list[float] = []
    report = Reporter(lambda progress: seen.append(progress.percent))
    report.planned(2, "accuracy")
    report.fitting("cnn")
    report.within(0.5)
    report.fitted(0.9)
    assert seen == [5.0, 5.0, 25.0, 45.0]
