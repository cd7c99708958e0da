"""An external ONNX model that never ends harms neither the sync process nor other models."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract.serving.conftest import classifier
from tests.contract.serving.test_endless_model import hang
from tidemill.errors import ExportError
from tidemill.loop.sync import onnx_models
from tidemill.loop.sync.onnx_models import compile_onnx


@pytest.mark.parametrize(
    ("above", "where"),
    [
        pytest.param(None, r"model\.onnx cannot be loaded", id="on zeros, in its own process"),
        pytest.param(0.01, "The model", id="on other rows, which the limit of a run ends"),
    ],
)
def test_an_endless_model_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, above: float | None, where: str
) -> None:
    monkeypatch.setattr(onnx_models, "RUN_SECONDS", 0.3)
    path = classifier(tmp_path / "b").model_path
    path.write_bytes(hang(path.read_bytes(), above=above))
    with pytest.raises(ExportError, match=rf"refused: .*{where}.*did not finish within 0\.3 s"):
        compile_onnx(path, None, (), "y", None)
