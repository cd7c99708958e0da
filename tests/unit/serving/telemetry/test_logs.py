"""The data plane's log lines have the same fields as the control plane's."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest

from tidemill import logs as control
from tidemill.serving.telemetry import logs


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    for handler in list(root.handlers):
        root.removeHandler(handler)
    for handler in before:
        root.addHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(False)


def line_of(stream: io.StringIO) -> dict[str, object]:
    found: dict[str, object] = json.loads(stream.getvalue().splitlines()[-1])
    return found


def test_both_planes_write_the_same_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = []
    for configure in (
        lambda: logs.configure("INFO", "json"),
        lambda: control.configure("api", style="json"),
    ):
        out = io.StringIO()
        monkeypatch.setattr(sys, "stdout", out)
        configure()
        logging.getLogger("tidemill.access").info(
            "POST %s", "/x", extra={"request_id": "r1", "color_message": "x"}
        )
        lines.append(line_of(out))
    serve, api = lines
    assert serve.keys() == api.keys()
    assert "color_message" not in serve
    assert serve["event"] == api["event"] == "POST /x"
    assert serve["request_id"] == api["request_id"] == "r1"
    assert (serve["level"], serve["process"]) == ("info", "serve")


def test_a_traceback_is_part_of_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    logs.configure("INFO", "json")
    try:
        raise ValueError("the sluice is stuck")
    except ValueError:
        logging.getLogger("x").exception("failed")
    assert "the sluice is stuck" in str(line_of(out)["exception"])


def test_a_value_without_a_json_form_is_written_as_a_string(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    logs.configure("INFO", "json")
    logging.getLogger("x").info("odd", extra={"thing": object})
    assert line_of(out)["thing"] == "<class 'object'>"


def test_a_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    err = io.StringIO()
    monkeypatch.setattr(sys, "stderr", err)
    logs.configure("INFO", "console")
    logging.getLogger("x").info("low tide")
    assert "INFO x: low tide" in err.getvalue()
