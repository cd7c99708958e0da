"""What an operator sets, for the control plane: environment, then `tidemill.toml`, then defaults.

Every field is `TIDEMILL_<FIELD>` in the environment; MLflow's own variables keep their names. With
`_FILE` behind it a variable names a file that holds the value, as secrets are mounted. The data
plane has its own table in `tidemill.serving.settings`, because it must not import pydantic.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import AliasChoices, Field, SecretStr, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from tidemill.errors import SettingsError


class SecretFileSource(PydanticBaseSettingsSource):
    """Values out of files that `TIDEMILL_<FIELD>_FILE` names."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """The value of one field, None where no variable names a file.

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


def environment_variables(name: str, field: FieldInfo) -> list[str]:
    """The environment variables that set a field, the one that counts first."""
    alias = field.validation_alias
    others = alias.choices if isinstance(alias, AliasChoices) else []
    own = f"TIDEMILL_{name.upper()}"
    foreign = [other for other in others if isinstance(other, str) and other not in (name, own)]
    return [*foreign, own]


def describe_settings(settings: Settings) -> list[dict[str, str]]:
    """Every setting in force: its variable, value, what it does, and where the value is from.

    Secrets are told by whether they are set, never by their value.
    """
    table = _toml(Path(str(settings.model_config.get("toml_file"))))
    return [_sourced(settings, name, field, table) for name, field in Settings.model_fields.items()]


def _sourced(settings: Settings, name: str, field: FieldInfo, table: set[str]) -> dict[str, str]:
    value = getattr(settings, name)
    names = environment_variables(name, field)
    found = next((v for v in names if os.environ.get(v) is not None), None)
    file = next((f"{v}_FILE" for v in names if os.environ.get(f"{v}_FILE") is not None), None)
    source = found or file or ("tidemill.toml" if name in table else None)
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


def _toml(path: Path) -> set[str]:
    if not path.is_file():
        return set()
    with path.open("rb") as file:
        return set(tomllib.load(file))


class Settings(BaseSettings):
    """All settings of the control plane, with the default that works on one machine."""

    model_config = SettingsConfigDict(
        env_prefix="TIDEMILL_", env_nested_delimiter="__", toml_file="tidemill.toml", extra="ignore"
    )

    home: Path = Field(default=Path(".tidemill"), description="Where everything local is kept.")
    tracking_uri: str | None = Field(
        default=None,
        validation_alias=AliasChoices(
            "tracking_uri", "MLFLOW_TRACKING_URI", "TIDEMILL_TRACKING_URI"
        ),
        description="The MLflow tracking server or store; None is SQLite in the home.",
    )
    registry_uri: str | None = Field(
        default=None,
        validation_alias=AliasChoices(
            "registry_uri", "MLFLOW_REGISTRY_URI", "TIDEMILL_REGISTRY_URI"
        ),
        description="The MLflow registry, where it is not the tracking server.",
    )
    model_name: str | None = Field(
        default=None,
        validation_alias=AliasChoices("model_name", "REGISTERED_MODEL_NAME", "TIDEMILL_MODEL_NAME"),
        description="The model to serve when none is named.",
    )
    model_stage: str | None = Field(
        default=None,
        validation_alias=AliasChoices("model_stage", "MODEL_STAGE", "TIDEMILL_MODEL_STAGE"),
        description="The stage or alias to serve; Production means the alias champion.",
    )
    project: str | None = Field(
        default=None,
        description="Project files or gallery:NAME, separated by commas; gallery:* means all that "
        "come with Tidemill. None takes ./project.py, or the gallery where there is none.",
    )
    database_url: str | None = Field(
        default=None, description="Tidemill's own database; None is SQLite in the home."
    )
    broker_url: str | None = Field(
        default=None,
        description="Where workers hear of jobs: redis://, amqp://; None is a folder at home.",
    )
    limits_url: str = Field(
        default="memory://",
        description="Where rate limits are counted: memory:// for one process, redis:// for many.",
    )
    api_rate_limit: str = Field(
        default="600/minute",
        description="What each key, or address without a key, may ask of the control plane; "
        "'off' for no limit.",
    )
    worker_concurrency: int = Field(
        default=2, ge=1, le=64, description="How many jobs one worker process runs at a time."
    )
    worker_preload: bool = Field(
        default=True,
        description="Load the training libraries once in each worker, so that jobs start at once; "
        "without it a worker holds 300 MB less and each job takes seconds to start.",
    )
    fan_out: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Spread the trials of a training over all workers; auto does so on PostgreSQL.",
    )
    job_time_limit: float = Field(
        default=3600.0, gt=0, description="Seconds a job may run, where the request names no limit."
    )
    job_memory_limit_mb: int | None = Field(
        default=None, ge=64, description="Megabytes of memory a job may hold; None for no limit."
    )
    job_max_failures: int = Field(
        default=3,
        ge=1,
        description="How often a job is tried again after faults outside the model's own code.",
    )
    worker_lost_after: float = Field(
        default=10.0,
        gt=1,
        description="Seconds without a heartbeat after which a job is given to another worker.",
    )
    api_ready_requires: str = Field(
        default="database",
        description="Parts without which its /ready says 503, by comma: database, mlflow, broker.",
    )
    api_max_body: int = Field(
        default=2**20, ge=1024, description="The largest request body of the control plane, bytes."
    )
    shelf_dir: Path | None = Field(
        default=None, description="The data plane's folder of bundles; None is in the home."
    )
    journal_dir: Path | None = Field(
        default=None, description="The data plane's journal, which ingest drains; None is at home."
    )
    ingest_interval: float = Field(
        default=0.5, gt=0, description="Seconds between two looks of ingest at the journal."
    )
    ingest_metrics_port: int | None = Field(
        default=None, ge=0, le=65535, description="Where ingest shows metrics; None is nowhere."
    )
    feedback_wait: float = Field(
        default=7 * 86400.0,
        gt=0,
        description="Seconds that a label waits for its prediction before it expires.",
    )
    retention_days: float = Field(
        default=90.0, ge=0, description="Days that predictions are kept; 0 for ever."
    )
    retention_rows: int = Field(
        default=10_000_000,
        ge=0,
        description="How many predictions of a model are kept, the newest; 0 for all.",
    )
    export_url: str | None = Field(
        default=None,
        description="Where predictions go before retention deletes them: a folder, or s3://...",
    )
    watch_every: float = Field(
        default=30.0,
        gt=0,
        description="Seconds between two looks of the watching process at each model.",
    )
    webhook_url: str | None = Field(
        default=None, description="Told of every trigger that opens or closes; None for nobody."
    )
    webhook_secret: SecretStr | None = Field(
        default=None, description="Signs what the webhook is sent (HMAC-SHA256)."
    )
    audit_secret: SecretStr | None = Field(
        default=None,
        description="Signs the audit log's checkpoint; None keeps a secret of its own in the home.",
    )
    trust_models: bool = Field(
        default=False,
        description="Unpickle and run MLflow models of other makers, to serve them, too; only "
        "where everyone who can write to the registry is trusted.",
    )
    serving_url: str | None = Field(
        default=None,
        description="Where the console reaches the data plane; None is the port it came in by.",
    )
    mlflow_pages: str | None = Field(
        default=None,
        description="Where people open MLflow's pages; None is the tracking server itself.",
    )
    console: Literal["on", "off"] = Field(
        default="on", description="Whether the pages for people are shown at /."
    )
    console_idle: float = Field(
        default=28_800.0,
        ge=60,
        le=86_400,
        description="Seconds without a page or an action after which the console signs out.",
    )
    log_level: str = Field(default="INFO", description="DEBUG, INFO, WARNING or ERROR.")
    log_format: str = Field(
        default="auto", description="console, json, or auto by whether it is a terminal."
    )
    log_files: Literal["on", "off"] = Field(
        default="on",
        description="Whether logs are kept in the home too; off where a collector reads stdout.",
    )
    keys: Path | None = Field(
        default=None, description="The keyring file; None is `keys.json` in the home."
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
        """The tracking URI in force."""
        return self.tracking_uri or f"sqlite:///{self.home / 'mlflow.db'}"

    @property
    def database_uri(self) -> str:
        """The URL of the database in force."""
        return self.database_url or f"sqlite:///{self.home / 'tidemill.db'}"

    @property
    def broker_uri(self) -> str:
        """The URL of the broker in force."""
        return self.broker_url or f"filesystem://{self.home / 'broker'}"

    @property
    def required_parts(self) -> frozenset[str]:
        """The parts without which the control plane is not ready."""
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
        """Where each process writes its log file; None where it should write none."""
        return self.logs if self.log_files == "on" else None
