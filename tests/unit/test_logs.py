from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tidemill import logs
from tidemill.errors import SettingsError


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    for handler in before:
        root.addHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(False)


def fail() -> None:
    raise ValueError("the sluice is stuck")


def test_the_file_holds_json_with_fields_and_tracebacks(tmp_path: Path) -> None:
    logs.configure("worker", folder=tmp_path, stream=io.StringIO())
    log = logging.getLogger("tidemill.test")
    log.info("trained", extra={"model": "iris"})
    try:
        fail()
    except ValueError:
        log.exception("failed")
    first, second = (json.loads(x) for x in (tmp_path / "worker.log").read_text().splitlines())
    assert first["event"] == "trained"
    assert (first["level"], first["model"], first["process"]) == ("info", "iris", "worker")
    assert first["logger"] == "tidemill.test"
    assert "the sluice is stuck" in second["exception"]
    assert "in fail" in second["exception"]


def test_the_console_style_is_readable() -> None:
    stream = io.StringIO()
    logs.configure("api", style="console", stream=stream)
    logging.getLogger("x").warning("low tide")
    assert "low tide" in stream.getvalue()
    with pytest.raises(json.JSONDecodeError):
        json.loads(stream.getvalue())


def test_the_console_is_json_without_a_terminal() -> None:
    stream = io.StringIO()
    logs.configure("api", stream=stream)
    logging.getLogger("x").warning("low tide")
    assert json.loads(stream.getvalue())["event"] == "low tide"


def test_the_level_applies_to_every_logger() -> None:
    stream = io.StringIO()
    logs.configure("api", level="warning", stream=stream)
    logging.getLogger("x").info("unheard")
    assert stream.getvalue() == ""
    logs.configure("api", level="DEBUG", stream=stream)
    logging.getLogger("x").debug("heard")
    assert "heard" in stream.getvalue()


def test_files_are_rotated_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_BYTES", 2000)
    monkeypatch.setattr(logs, "KEPT_FILES", 2)
    logs.configure("api", folder=tmp_path, console=False)
    for number in range(200):
        logging.getLogger("x").info("line %d", number)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["api.log", "api.log.1", "api.log.2"]
    assert all(path.stat().st_size <= 2000 for path in tmp_path.iterdir())


@pytest.mark.parametrize(("setting", "value"), [("level", "LOUD"), ("style", "yaml")])
def test_an_unknown_setting_is_named(setting: str, value: str) -> None:
    with pytest.raises(SettingsError, match=value):
        logs.configure("api", **{setting: value})  # type: ignore[arg-type]
