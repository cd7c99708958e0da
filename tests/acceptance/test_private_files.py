"""Whatever the umask of the shell, the programs create nothing that others can read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    "arguments",
    [
        ["tidemill", "keys", "create", "--scope", "admin"],
        ["tidemill", "migrate"],
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_a_command_makes_files_for_its_user_alone(home: Path, arguments: list[str]) -> None:
    before = os.umask(0)
    try:
        subprocess.run(
            [sys.executable, "-m", *arguments],
            env={**os.environ, "TIDEMILL_HOME": str(home)},
            cwd=home.parent,
            check=True,
            capture_output=True,
        )
    finally:
        os.umask(before)
    found = [home, *home.rglob("*")]
    assert len(found) >= 2
    wide = {str(path): oct(path.stat().st_mode) for path in found if path.stat().st_mode & 0o077}
    assert not wide
