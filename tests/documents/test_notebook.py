"""The notebook runs from its first cell to its last on a fresh Tidemill, and holds no outputs."""

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
ASKED = 40
SECONDS = 300


def read() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_kept_without_outputs() -> None:
    cells = [cell for cell in read().cells if cell.cell_type == "code"]
    assert cells
    assert not [cell.source for cell in cells if cell.outputs or cell.execution_count]


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[Path]:
    """The home of a Tidemill that trained the gallery's first model and was asked for rows."""
    home = tmp_path / ".tidemill"
    with running(home) as up:
        up.await_text(f"from {MODEL}")
        _ask(up, (home / "key").read_text().strip())
        platform = Platform.open(Settings(home=home))
        try:
            stored = lambda: platform.predictions.count(MODEL) >= ASKED  # noqa: E731
            wait_until(stored, "the predictions to be stored", SECONDS)
        finally:
            platform.close()
        yield home


def _ask(up: Up, key: str) -> None:
    from sklearn.datasets import load_breast_cancer

    rows = load_breast_cancer().data[:ASKED].tolist()
    answer = httpx.post(
        f"{up.api}/predict_batch",
        json={"instances": rows},
        headers={"X-API-Key": key},
        timeout=SECONDS,
    )
    assert answer.status_code == 200, answer.text


@pytest.mark.slow
def test_every_cell_runs_and_says_what_it_is_for(
    asked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nbclient import NotebookClient

    monkeypatch.setenv("TIDEMILL_HOME", str(asked))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    notebook = read()
    NotebookClient(
        notebook, timeout=SECONDS, resources={"metadata": {"path": str(NOTEBOOK.parent)}}
    ).execute()
    said = "\n".join(_words(cell) for cell in notebook.cells if cell.cell_type == "code")
    assert "455 rows to learn from, 114 held out" in said
    assert "malignant" in said
    assert "logistic_regression-3" in said
    assert "champion" in said
    assert f"{ASKED} predictions, 0 with a label" in said
    assert _pictures(notebook) == 3


def _words(cell: Any) -> str:
    found = [output.get("text", "") for output in cell.outputs]
    found += [output.data.get("text/plain", "") for output in cell.outputs if "data" in output]
    return "\n".join(found)


def _pictures(notebook: Any) -> int:
    outputs = [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]
    return sum("image/png" in output.get("data", {}) for output in outputs)
