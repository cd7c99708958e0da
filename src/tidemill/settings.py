"""What an operator sets, for the control plane: environment, then `tidemill.toml`, then defaults.

Every field is `TIDEMILL_<FIELD>` in the environment; MLflow's own variables keep their names. The
data plane has its own table in `tidemill.serving.settings`, because it must not import pydantic.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import AliasChoices, Field, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)


class Settings(BaseSettings):
    """All settings of the control plane, with the default that works on one machine."""

    model_config = SettingsConfigDict(
        env_prefix="TIDEMILL_", env_nested_delimiter="__", toml_file="tidemill.toml", extra="ignore"
    )

    home: Path = Field(Path(".tidemill"), description="Where everything local is kept.")
    tracking_uri: str | None = Field(
        None,
        validation_alias=AliasChoices("tracking_uri", "MLFLOW_TRACKING_URI"),
        description="The MLflow tracking server or store; None is SQLite in the home.",
    )
    registry_uri: str | None = Field(
        None,
        validation_alias=AliasChoices("registry_uri", "MLFLOW_REGISTRY_URI"),
        description="The MLflow registry, where it is not the tracking server.",
    )
    model_name: str | None = Field(
        None,
        validation_alias=AliasChoices("model_name", "REGISTERED_MODEL_NAME"),
        description="The model to serve when none is named.",
    )
    model_stage: str | None = Field(
        None,
        validation_alias=AliasChoices("model_stage", "MODEL_STAGE"),
        description="The stage or alias to serve; Production means the alias champion.",
    )
    project: str | None = Field(
        None, description="The project file, or gallery:NAME; None looks for ./project.py."
    )
    database_url: str | None = Field(
        None, description="Tidemill's own database; None is SQLite in the home."
    )
    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR.")
    log_format: str = Field(
        "auto", description="console, json, or auto by whether it is a terminal."
    )

    @field_validator("home")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @property
    def mlflow_uri(self) -> str:
        """The tracking URI in force."""
        return self.tracking_uri or f"sqlite:///{self.home / 'mlflow.db'}"

    @property
    def artifact_root(self) -> Path:
        return self.home / "artifacts"

    @property
    def shelf(self) -> Path:
        return self.home / "shelf"

    @property
    def journal(self) -> Path:
        return self.home / "journal"

    @property
    def keys_file(self) -> Path:
        return self.home / "keys.json"

    @property
    def logs(self) -> Path:
        return self.home / "logs"
