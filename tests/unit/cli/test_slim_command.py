"""The command on an installation that only serves."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import pytest

from tidemill.__main__ import CONTROL_PLANE_PACKAGES, main


@pytest.mark.parametrize("missing", CONTROL_PLANE_PACKAGES)
def test_a_slim_installation_says_so_whatever_else_is_there(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another package may have brought one of those that the control plane needs."""
    find = importlib.util.find_spec

    def find_spec(name: str, *more: Any) -> Any:
        return None if name == missing else find(name, *more)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    monkeypatch.setattr(sys, "argv", ["tidemill", "train"])
    with pytest.raises(SystemExit, match="This is the slim installation"):
        main()
