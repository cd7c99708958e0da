"""Settings: from the environment, from files, from tidemill.toml, each with a description."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidemill.errors import SettingsError
from tidemill.settings import Settings, environment_variables


def test_every_setting_has_a_description() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, f"{name} has no description"
        assert field.description.endswith("."), f"{name}: {field.description}"


def test_the_defaults_work_on_one_machine(home: Path) -> None:
    settings = Settings()
    assert settings.home == home
    assert settings.database_uri == f"sqlite:///{home}/tidemill.db"
    assert settings.mlflow_uri == f"sqlite:///{home}/mlflow.db"
    assert settings.broker_uri == f"filesystem://{home}/broker"
    assert settings.required_parts == {"database"}


def test_the_environment_overrides_the_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home.parent / "tidemill.toml").write_text('worker_concurrency = 3\nlog_level = "DEBUG"\n')
    monkeypatch.setenv("TIDEMILL_WORKER_CONCURRENCY", "5")
    settings = Settings()
    assert (settings.worker_concurrency, settings.log_level) == (5, "DEBUG")


@pytest.mark.parametrize("name", ["MLFLOW_TRACKING_URI", "TIDEMILL_TRACKING_URI"])
def test_mlflows_own_variables_are_read(
    name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "http://mlflow:5000")
    assert Settings().mlflow_uri == "http://mlflow:5000"


def test_a_secret_can_be_read_from_a_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = home.parent / "secret"
    secret.write_text("postgresql://me:pw@db/x\n")
    monkeypatch.setenv("TIDEMILL_DATABASE_URL_FILE", str(secret))
    assert Settings().database_url == "postgresql://me:pw@db/x"
    monkeypatch.setenv("TIDEMILL_DATABASE_URL", "sqlite:///here.db")
    assert Settings().database_url == "sqlite:///here.db"


def test_a_missing_secret_file_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEMILL_AUDIT_SECRET_FILE", "/nowhere/secret")
    with pytest.raises(SettingsError, match="TIDEMILL_AUDIT_SECRET_FILE"):
        Settings()


def test_a_secret_is_not_shown(home: Path) -> None:
    assert "hush" not in repr(Settings(audit_secret="hush"))  # type: ignore[arg-type]


def test_the_variables_of_a_setting_are_known() -> None:
    fields = Settings.model_fields
    assert environment_variables("home", fields["home"]) == ["TIDEMILL_HOME"]
    assert environment_variables("model_stage", fields["model_stage"]) == [
        "MODEL_STAGE",
        "TIDEMILL_MODEL_STAGE",
    ]
