"""The notebook runs completely on a new Tidemill and is stored without outputs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import nbformat
import pytest

from tests.acceptance.test_up import Up, running
from tests.servers import wait_until
from tidemill.platform import Platform
from tidemill.settings import Settings

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "explore.ipynb"
MODEL = "ClassificationModel"
PREDICTIONS = 40
SECONDS = 300


def read() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_stored_without_outputs() -> None:
    cells = [cell for cell in read().cells if cell.cell_type == "code"]
    assert cells
    assert not [cell.source for cell in cells if cell.outputs or cell.execution_count]


@pytest.fixture
def home_with_predictions(tmp_path: Path) -> Iterator[Path]:
    """Yield the home of a Tidemill with the gallery's first model and recorded predictions."""
    home = tmp_path / ".tidemill"
    with running(home) as up:
        up.await_text(f"from {MODEL}")
        _predict(up, (home / "key").read_text().strip())
        platform = Platform.open(Settings(home=home))
        try:
            stored = lambda: platform.predictions.count(MODEL) >= PREDICTIONS  # noqa: E731
            wait_until(stored, "the predictions to be stored", SECONDS)
        finally:
            platform.close()
        yield home


def _predict(up: Up, key: str) -> None:
    from sklearn.datasets import load_breast_cancer

    rows = load_breast_cancer().data[:PREDICTIONS].tolist()
    answer = httpx.post(
        f"{up.api}/predict_batch",
        json={"instances": rows},
        headers={"X-API-Key": key},
        timeout=SECONDS,
    )
    assert answer.status_code == 200, answer.text


@pytest.mark.slow
def test_every_cell_runs_and_prints_its_result(
    home_with_predictions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nbclient import NotebookClient

    monkeypatch.setenv("TIDEMILL_HOME", str(home_with_predictions))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    notebook = read()
    NotebookClient(
        notebook, timeout=SECONDS, resources={"metadata": {"path": str(NOTEBOOK.parent)}}
    ).execute()
    said = "\n".join(_words(cell) for cell in notebook.cells if cell.cell_type == "code")
    assert "455 training rows, 114 held out" in said
    assert "malignant" in said
    assert "logistic_regression-3" in said
    assert "champion" in said
    assert f"{PREDICTIONS} predictions, 0 with a label" in said
    assert _pictures(notebook) == 3


def _words(cell: Any) -> str:
    found = [output.get("text", "") for output in cell.outputs]
    found += [output.data.get("text/plain", "") for output in cell.outputs if "data" in output]
    return "\n".join(found)


def _pictures(notebook: Any) -> int:
    outputs = [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]
    return sum("image/png" in output.get("data", {}) for output in outputs)
