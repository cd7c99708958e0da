"""The settings of the control plane, from the environment, `tidemill.toml` and defaults.

The environment takes precedence over the file. Every field is `TIDEMILL_<FIELD>` in the
environment; MLflow's own variables keep their names. A variable with the suffix `_FILE` names a
file that contains the value, as for mounted secrets. The data plane has its own settings in
`tidemill.serving.settings`, because it must not import pydantic.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import ItemsView
from pathlib import Path
from typing import Any, Literal

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from tidemill.addresses import folder_url
from tidemill.errors import SettingsError


class SecretFileSource(PydanticBaseSettingsSource):
    """Values from files named by `TIDEMILL_<FIELD>_FILE`."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return the value of a field; None if no variable names a file for it.

        Raises:
            SettingsError: The file cannot be read.
        """
        for name in environment_variables(field_name, field):
            path = os.environ.get(f"{name}_FILE")
            if path is None:
                continue
            try:
                return Path(path).read_text().rstrip("\r\n"), field_name, False
            except OSError as error:
                raise SettingsError(
                    f"{name}_FILE names {path}, which cannot be read: {error.strerror}",
                    field=f"{name}_FILE",
                ) from error
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        found = {}
        for name, field in self.settings_cls.model_fields.items():
            value, key, _ = self.get_field_value(field, name)
            if value is not None:
                found[key] = value
        return found


def sqlite_url(path: Path) -> str:
    """Return the URL of an SQLite database, whatever characters its path contains."""
    # A tenth of a second, which most commands need not spend.
    from sqlalchemy import URL, make_url

    plain = f"sqlite:///{path}"
    if make_url(plain).database == str(path):
        return plain  # MLflow creates a folder of the name that is in the URL, quoted or not
    return URL.create("sqlite", database=str(path)).render_as_string()


def load_settings(**given: Any) -> Settings:
    """Return the settings; `given` takes precedence over the environment and `tidemill.toml`.

    Raises:
        SettingsError: A setting has an invalid value.
    """
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise SettingsError(f"Setting '{name}': {first['msg']}.", field=name) from error


def environment_variables(name: str, field: FieldInfo) -> list[str]:
    """Return the environment variables of a field, by precedence."""
    alias = field.validation_alias
    others = alias.choices if isinstance(alias, AliasChoices) else []
    own = f"TIDEMILL_{name.upper()}"
    aliases = [other for other in others if isinstance(other, str) and other not in (name, own)]
    return [*aliases, own]


def describe_settings(settings: Settings) -> list[dict[str, str]]:
    """Return every setting's variable, value, source and description (under `words`).

    The values of secrets are masked.
    """
    in_file = _toml_fields(Path(str(settings.model_config.get("toml_file"))))
    return [_describe(settings, name, field, in_file) for name, field in _fields()]


def _fields() -> ItemsView[str, FieldInfo]:
    return Settings.model_fields.items()


def _describe(settings: Settings, name: str, field: FieldInfo, in_file: set[str]) -> dict[str, str]:
    value = getattr(settings, name)
    names = environment_variables(name, field)
    found = next((v for v in names if os.environ.get(v) is not None), None)
    file = next((f"{v}_FILE" for v in names if os.environ.get(f"{v}_FILE") is not None), None)
    source = found or file or ("tidemill.toml" if name in in_file else None)
    if source is None:
        source = (
            "default" if value == field.get_default() or name == "home" else "given at the start"
        )
    return {
        "variable": names[0],
        "value": "" if value is None else str(value),
        "source": source,
        "words": field.description or "",
    }


def _toml_fields(path: Path) -> set[str]:
    if not path.is_file():
        return set()
    with path.open("rb") as file:
        return set(tomllib.load(file))


class Settings(BaseSettings):
    """All settings of the control plane, with defaults that work on one machine."""

    model_config = SettingsConfigDict(
        env_prefix="TIDEMILL_", env_nested_delimiter="__", toml_file="tidemill.toml", extra="ignore"
    )

    home: Path = Field(
        default=Path(".tidemill"), description="The folder for everything stored locally."
    )
    tracking_uri: str | None = Field(
        default=None,
        validation_alias=AliasChoices(
            "tracking_uri", "MLFLOW_TRACKING_URI", "TIDEMILL_TRACKING_URI"
        ),
        description="The MLflow tracking server or store. Default: SQLite in the home.",
    )
    registry_uri: str | None = Field(
        default=None,
        validation_alias=AliasChoices(
            "registry_uri", "MLFLOW_REGISTRY_URI", "TIDEMILL_REGISTRY_URI"
        ),
        description="The MLflow registry, if it is not on the tracking server.",
    )
    model_name: str | None = Field(
        default=None,
        validation_alias=AliasChoices("model_name", "REGISTERED_MODEL_NAME", "TIDEMILL_MODEL_NAME"),
        description="The model to use where a command or request names none.",
    )
    model_stage: str | None = Field(
        default=None,
        validation_alias=AliasChoices("model_stage", "MODEL_STAGE", "TIDEMILL_MODEL_STAGE"),
        description="The stage or alias to serve; Production means the alias champion.",
    )
    project: str | None = Field(
        default=None,
        description="Project files or gallery:NAME, separated by commas; gallery:* means all "
        "projects that come with Tidemill. Default: ./project.py if it exists, else gallery:*.",
    )
    database_url: str | None = Field(
        default=None,
        description="The URL of Tidemill's own database. Default: SQLite in the home.",
    )
    broker_url: str | None = Field(
        default=None,
        description="The broker that tells workers of jobs: redis:// or amqp://. Default: a folder "
        "in the home.",
    )
    limits_url: str = Field(
        default="memory://",
        description="Where rate limits are counted: memory:// for each process separately, "
        "redis:// for all together.",
    )
    api_rate_limit: str = Field(
        default="600/minute",
        description="The rate limit of the control plane for each key, or for each address of "
        "requests without a key; 'off' for no limit.",
    )
    sign_in_rate_limit: str = Field(
        default="10/minute",
        description="How often each address may try to sign in to the console; 'off' for no limit.",
    )
    sign_in_total_rate_limit: str = Field(
        default="120/minute",
        description="How often all addresses together may try to sign in, except for the first "
        "attempt of each; 'off' for no limit.",
    )
    worker_concurrency: int = Field(
        default=2, ge=1, le=64, description="How many jobs a worker runs at the same time."
    )
    worker_preload: bool = Field(
        default=True,
        description="Load the training libraries once per worker, so that jobs start at once. "
        "Without it a worker needs 300 MB less memory and each job takes seconds to start.",
    )
    fan_out: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Run the trials of a training as jobs on all workers; auto does so if the "
        "database is PostgreSQL.",
    )
    job_time_limit: float = Field(
        default=3600.0, gt=0, description="Seconds a job may run, unless the request sets a limit."
    )
    job_memory_limit_mb: int | None = Field(
        default=None, ge=64, description="Megabytes of memory a job may use. Default: no limit."
    )
    job_max_failures: int = Field(
        default=3,
        ge=1,
        description="How many failures outside the model's own code a job may have before it is "
        "no longer retried.",
    )
    worker_lost_after: float = Field(
        default=10.0,
        gt=1,
        description="Seconds without a heartbeat after which a job is given to another worker.",
    )
    api_ready_requires: str = Field(
        default="database",
        description="Services without which /ready returns 503, separated by commas: database, "
        "mlflow, broker.",
    )
    api_max_body: int = Field(
        default=2**20,
        ge=1024,
        description="The largest request body of the control plane, in bytes.",
    )
    api_readers: int = Field(
        default=16,
        ge=1,
        le=32,
        description="How many reading requests the control plane runs at the same time; others "
        "wait. With api_writers at most 36, so that threads remain for live pages.",
    )
    api_writers: int = Field(
        default=12,
        ge=1,
        le=32,
        description="How many writing requests the control plane runs at the same time; others "
        "wait.",
    )
    api_wait: float = Field(
        default=5.0,
        gt=0,
        description="Seconds that a request of the control plane waits for its turn before it is "
        "answered with 503 and Retry-After.",
    )
    database_wait: float = Field(
        default=20.0,
        gt=0,
        description="Seconds that a statement waits for a locked database or table before it "
        "fails; requests get 503.",
    )
    shelf_dir: Path | None = Field(
        default=None,
        description="The data plane's folder of bundles. Default: in the home.",
    )
    journal_dir: Path | None = Field(
        default=None,
        description="The data plane's journal, which ingest drains. Default: in the home.",
    )
    ingest_interval: float = Field(
        default=0.5,
        gt=0,
        description="Seconds between two attempts of ingest to drain the journal.",
    )
    ingest_metrics_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="The port of ingest's own metrics endpoint. Default: none.",
    )
    feedback_wait: float = Field(
        default=7 * 86400.0,
        gt=0,
        description="Seconds that a label waits for its prediction before it expires.",
    )
    retention_days: float = Field(
        default=90.0,
        ge=0,
        description="Days for which predictions are kept; 0 keeps them for ever.",
    )
    retention_rows: int = Field(
        default=10_000_000,
        ge=0,
        description="How many predictions of each model are kept, the newest; 0 keeps all.",
    )
    export_url: str | None = Field(
        default=None,
        description="Where predictions are archived before retention deletes them: a folder or "
        "s3://... Default: they are not archived.",
    )
    watch_every: float = Field(
        default=30.0,
        gt=0,
        description="Seconds between two checks of a model by the monitoring process.",
    )
    webhook_url: str | None = Field(
        default=None,
        description="The URL that is called when a trigger opens or closes. Default: none.",
    )
    webhook_secret: SecretStr | None = Field(
        default=None,
        description="The key that signs webhook requests (HMAC-SHA256).",
    )
    audit_secret: SecretStr | None = Field(
        default=None,
        description="The key that signs the heads of the audit log. Default: a random key in the "
        "home.",
    )
    audit_anchor: Path | None = Field(
        default=None,
        description="A file on another volume, one for each machine, to which every signed head of "
        "the audit log is appended as well. Default: none.",
    )
    trust_models: bool = Field(
        default=False,
        description="Unpickle and run MLflow models not trained by Tidemill, in order to serve "
        "them. Set it only if everyone who can write to the registry is trusted.",
    )
    serving_url: str | None = Field(
        default=None,
        description="The URL at which the console reaches the data plane. Default: the port of "
        "the request.",
    )
    mlflow_pages: str | None = Field(
        default=None,
        description="The URL of MLflow's pages in links. Default: the tracking server's.",
    )
    console: Literal["on", "off"] = Field(
        default="on", description="Whether the console is served at /."
    )
    console_idle: float = Field(
        default=28_800.0,
        ge=60,
        le=86_400,
        description="Seconds without activity after which the console signs a user out.",
    )
    log_level: str = Field(default="INFO", description="DEBUG, INFO, WARNING or ERROR.")
    log_format: str = Field(
        default="auto", description="console, json, or auto: console if the output is a terminal."
    )
    log_files: Literal["on", "off"] = Field(
        default="on",
        description="Whether logs are also written to files in the home; off if a collector reads "
        "stdout.",
    )
    keys: Path | None = Field(
        default=None,
        description="The file of API keys. Default: `keys.json` in the home.",
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
        return (
            init_settings,
            env_settings,
            SecretFileSource(settings_cls),
            TomlConfigSettingsSource(settings_cls),
        )

    @property
    def mlflow_uri(self) -> str:
        """The MLflow tracking URI in use."""
        return self.tracking_uri or sqlite_url(self.home / "mlflow.db")

    def make_home(self) -> None:
        """Create the home folder, which only its user may read."""
        self.home.mkdir(0o700, parents=True, exist_ok=True)

    @property
    def database_uri(self) -> str:
        """The URL of the database in use."""
        return self.database_url or sqlite_url(self.home / "tidemill.db")

    @property
    def broker_uri(self) -> str:
        """The URL of the broker in use."""
        return self.broker_url or folder_url(self.home / "broker")

    @property
    def required_parts(self) -> frozenset[str]:
        """The services without which the control plane is not ready."""
        return frozenset(
            part.strip() for part in self.api_ready_requires.split(",") if part.strip()
        )

    @property
    def artifact_root(self) -> Path:
        return self.home / "artifacts"

    @property
    def shelf(self) -> Path:
        return self.shelf_dir or self.home / "shelf"

    @property
    def journal(self) -> Path:
        return self.journal_dir or self.home / "journal"

    @property
    def triggers(self) -> Path:
        return self.home / "triggers"

    @property
    def keys_file(self) -> Path:
        return self.keys or self.home / "keys.json"

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def log_folder(self) -> Path | None:
        """The folder of log files; None if none are written."""
        return self.logs if self.log_files == "on" else None
