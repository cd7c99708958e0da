"""Requests generated from the OpenAPI document cause no 5xx."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import serving
from tidemill.api.app import create_app
from tidemill.platform import Platform
from tidemill.settings import Settings

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),
]
CHECKS = "not_a_server_error"


def test_no_generated_request_causes_a_5xx(
    mlflow_home: Path,
) -> None:
    settings = Settings(
        home=mlflow_home, project="gallery:iris", api_rate_limit="off", log_level="ERROR"
    )
    platform = Platform.open(settings)
    key, _ = platform.keys.create(("admin",), actor="test")
    with serving(create_app(platform)) as url:
        command = [sys.executable, "-m", "schemathesis.cli", "run", "--checks", CHECKS]
        command += ["--phases", "examples,coverage,fuzzing", "--max-examples", "5"]
        command += ["-H", f"X-API-Key: {key}", "--suppress-health-check=all", "--seed", "1"]
        command += ["--request-timeout", "120", f"{url}/api/openapi.json"]
        found = subprocess.run(
            command, capture_output=True, text=True, timeout=1200, cwd=mlflow_home, check=False
        )
    platform.close()
    assert found.returncode == 0, found.stdout[-8000:] + found.stderr[-2000:]
