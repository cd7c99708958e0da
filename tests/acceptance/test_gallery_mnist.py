"""MNIST: trained with PyTorch, served without it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.acceptance.machine import Machine
from tidemill.errors import DataError
from tidemill.gallery import mnist
from tidemill.project import load_project, openml
from tidemill.steps.data.prepare import PreparedData, input_matrix, prepare

pytestmark = pytest.mark.slow  # they run where PyTorch is installed, which `make test` does without

ROWS = 50


@pytest.fixture(autouse=True)
def _torch() -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    pytest.importorskip("skorch", reason="skorch is not installed")


def walk(machine: Machine, data: PreparedData, least: float) -> dict[str, Any]:
    """Train, promote and serve; every answer is the native model's. Gives the training's result."""
    project = load_project("gallery:mnist")
    result = machine.train("gallery:mnist", "--set", "cnn.epochs=3")
    assert result["metrics"]["accuracy"] >= least
    images = input_matrix(data.test, data.inputs, project)[:ROWS]
    pixels = data.test[list(data.inputs)].to_numpy()[:ROWS].tolist()
    assert all(0 <= pixel <= 255 for image in pixels for pixel in image)
    native = machine.native("mnist")
    expected = np.asarray(native.predict(np.array(images))).reshape(ROWS).tolist()
    with machine.serving("mnist") as server:
        answers = [server.ask("/predict", {"image": image}) for image in pixels]
        batch = server.ask("/predict", {"instances": pixels})["predictions"]
        assert_torch_is_absent(server.programs())
    assert [answer["prediction"] for answer in answers] == expected
    assert [answer["prediction"] for answer in batch] == expected
    sure = native.get_raw_model().predict_proba(np.array(images)).max(axis=1)
    assert [a["confidence"] for a in answers] == pytest.approx(sure.tolist(), abs=1e-4)
    return result


def assert_torch_is_absent(programs: list[int]) -> None:
    """No process of the server has PyTorch's library mapped."""
    for pid in programs:
        assert "libtorch" not in Path(f"/proc/{pid}/maps").read_text()


def test_mnist_reaches_98_5_percent_in_three_epochs_and_is_served_without_torch(
    tmp_path: Path,
) -> None:
    try:
        openml("mnist_784").load()
    except DataError as error:
        pytest.skip(f"MNIST cannot be had: {error.detail}")
    data = prepare(load_project("gallery:mnist"))
    assert (len(data.train), len(data.test)) == (60_000, 10_000)
    machine = Machine(tmp_path)
    walk(machine, data, least=0.985)
    (run,) = machine.runs("mnist", "trial").to_dict("records")
    assert run["params.dataset_name"] == "openml:mnist_784"
    assert (run["params.epochs"], float(run["params.lr"])) == ("3", 0.002)


def test_without_mnist_the_small_digits_are_used_and_every_run_says_so(
    tmp_path: Path,
) -> None:
    """An empty data home and a proxy that nobody answers at are as good as no network."""
    empty = tmp_path / "no-data"
    machine = Machine(tmp_path / "machine")
    machine.folder.mkdir()
    nobody = "http://127.0.0.1:9"
    machine.environment = {
        "SCIKIT_LEARN_DATA": str(empty), "https_proxy": nobody, "http_proxy": nobody,
        "no_proxy": "localhost",
    }  # fmt: skip
    project = replace(load_project("gallery:mnist"), data=mnist.small_images)
    data = prepare(project)
    walk(machine, data, least=0.9)
    (run,) = machine.runs("mnist", "trial").to_dict("records")
    assert "scikit-learn:digits" in run["params.dataset_name"]
