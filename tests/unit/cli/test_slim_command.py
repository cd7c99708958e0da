"""The `tidemill` command on a slim installation, which only serves."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import pytest

from tidemill.__main__ import CONTROL_PLANE_PACKAGES, main


@pytest.mark.parametrize("missing", CONTROL_PLANE_PACKAGES)
def test_a_slim_installation_is_recognised_by_any_missing_package(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other packages may have installed some of the control plane's dependencies."""
    find = importlib.util.find_spec

    def find_spec(name: str, *more: Any) -> Any:
        return None if name == missing else find(name, *more)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    monkeypatch.setattr(sys, "argv", ["tidemill", "train"])
    with pytest.raises(SystemExit, match="This is the slim installation"):
        main()
