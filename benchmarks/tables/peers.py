"""The tools, and the environment that the peers are installed in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PEERS = ("autogluon", "flaml", "lightgbm")
TOOLS = ("tidemill", *PEERS)
PACKAGES = ("autogluon.tabular[lightgbm,xgboost,catboost]>=1.6", "flaml[automl]", "optuna")


def install(folder: Path) -> str:
    """The Python of the peers' environment, which is made if it does not exist."""
    python = folder / "bin" / "python"
    if not python.is_file():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *PACKAGES], check=True)
    return str(python)
