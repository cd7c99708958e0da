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
    "above",
    [
        pytest.param(None, id="always, which the test in its own process finds"),
        pytest.param(0.01, id="on rows other than zeros, which the limit of a run ends"),
    ],
)
def test_an_endless_model_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, above: float | None
) -> None:
    monkeypatch.setattr(onnx_models, "RUN_SECONDS", 0.3)
    path = classifier(tmp_path / "b").model_path
    path.write_bytes(hang(path.read_bytes(), above=above))
    with pytest.raises(ExportError, match=r"refused: .*did not finish within 0\.3 s"):
        compile_onnx(path, None, (), "y", None)
