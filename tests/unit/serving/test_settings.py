"""The data plane's settings: typed, described, read from the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidemill.errors import SettingsError
from tidemill.serving.journal.policy import RecordingRule, parse_recording_rules
from tidemill.serving.settings import ServingSettings, load, variables
from tidemill.serving.telemetry.metrics import METRICS


def test_settings_are_read_from_the_environment_with_their_types(tmp_path: Path) -> None:
    found = load(
        {
            "TIDEMILL_PORT": "9000",
            "TIDEMILL_INLINE_MS": "2.5",
            "TIDEMILL_AUTH": "off",
            "TIDEMILL_HOME": str(tmp_path),
            "MLFLOW_TRACKING_URI": "http://mlflow:5000",
            "FORWARDED_ALLOW_IPS": "10.0.0.0/8",
            "TIDEMILL_DATABASE_URL": "not this table's",
        }
    )
    assert (found.port, found.inline_ms, found.auth) == (9000, 2.5, "off")
    assert found.tracking_uri == "http://mlflow:5000"
    assert found.trusted_proxies == "10.0.0.0/8"
    assert found.shelf == tmp_path / "shelf"
    assert found.keys_file == tmp_path / "keys.json"
    assert found.journal_folder == tmp_path / "journal"


def test_arguments_take_precedence_over_the_environment() -> None:
    found = load({"TIDEMILL_PORT": "9000", "TIDEMILL_HOST": "::1"}, port=0, host=None)
    assert (found.port, found.host) == (0, "::1")


def test_folders_can_be_set(tmp_path: Path) -> None:
    found = load({}, shelf_dir=tmp_path / "s", journal_dir=tmp_path / "j", keys=tmp_path / "k")
    assert (found.shelf, found.journal_folder, found.keys_file) == (
        tmp_path / "s", tmp_path / "j", tmp_path / "k",
    )  # fmt: skip


def test_a_secret_can_be_read_from_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "url"
    secret.write_text("redis://:secret@cache:6379\n")
    found = load({"TIDEMILL_CACHE_URL_FILE": str(secret)})
    assert found.cache_url == "redis://:secret@cache:6379"
    with pytest.raises(SettingsError, match="cannot be read"):
        load({"TIDEMILL_CACHE_URL_FILE": str(tmp_path / "absent")})


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "70000"), ("PORT", "x"), ("WORKERS", "0"), ("AUTH", "maybe"), ("POLL", "0")],
)
def test_an_invalid_value_names_its_variable(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"TIDEMILL_{name} is '{value}'") as caught:
        load({f"TIDEMILL_{name}": value})
    assert caught.value.field == f"TIDEMILL_{name}"


def test_every_setting_has_a_description() -> None:
    table = variables()
    assert [name for name, _, _ in table] != []
    assert len(table) == len(ServingSettings.__struct_fields__)
    for variable, _, words in table:
        assert variable.isupper()
        assert words.endswith("."), variable


def test_journal_rules_are_parsed_per_model() -> None:
    general = RecordingRule(0.5, inputs=True)
    assert parse_recording_rules("a=0.1, b=1:noinputs ,c=:noinputs,d=0.2:inputs", general) == {
        "a": RecordingRule(0.1, True),
        "b": RecordingRule(1.0, False),
        "c": RecordingRule(0.5, False),
        "d": RecordingRule(0.2, True),
    }
    for text in ("a", "=1", "a=2", "a=x", "a=1:some"):
        with pytest.raises(SettingsError, match="JOURNAL_RULES"):
            parse_recording_rules(text, general)


def test_every_setting_and_metric_is_documented() -> None:
    page = (Path(__file__).parents[3] / "docs" / "serving.md").read_text()
    for variable, default, words in variables():
        shown = f"`{default}`" if default else ""
        assert f"| `{variable}` | {shown} | {words} |" in page, variable
    for name, (words, _) in METRICS.items():
        assert f"| `{name}` | {words} |" in page, name
