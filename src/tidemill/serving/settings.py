"""The settings of the data plane: one table, read from TIDEMILL_* environment variables.

They are not in `tidemill.settings` because the data plane does not depend on pydantic. A variable
`TIDEMILL_<NAME>_FILE` names a file that contains the value, for secrets.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec
from msgspec import Meta

from tidemill.errors import SettingsError

#: Settings whose variable has a name from another tool.
STANDARD_VARIABLES = {
    "tracking_uri": "MLFLOW_TRACKING_URI",
    "trusted_proxies": "FORWARDED_ALLOW_IPS",
}


class ServingSettings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings of the data plane, with defaults for a single machine."""

    home: Annotated[str, Meta(description="The folder for all local files.")] = ".tidemill"
    shelf_dir: Annotated[
        str | None, Meta(description="The folder of bundles; `shelf` in the home by default.")
    ] = None
    models: Annotated[
        str,
        Meta(description="The models to serve, separated by commas; empty for all on the shelf."),
    ] = ""
    host: Annotated[str, Meta(description="The address to listen on.")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="The port; 0 takes a free one.")] = 8000
    workers: Annotated[
        int, Meta(ge=1, le=128, description="The number of processes that share the port.")
    ] = 1
    auth: Annotated[
        Literal["on", "off"], Meta(description="Whether predictions need an API key.")
    ] = "on"
    keys: Annotated[
        str | None, Meta(description="The keyring file; `keys.json` in the home by default.")
    ] = None
    rate_limit: Annotated[
        str,
        Meta(
            description=(
                "The rate limit of each key, such as `1000/second` or `60/minute`; `off` for none."
            ),
        ),
    ] = "1200000/minute"
    rate_limit_address: Annotated[
        str,
        Meta(description="The rate limit of an address that sends no valid key; `off` for none."),
    ] = "6000/minute"
    max_body: Annotated[int, Meta(ge=1, description="The largest request body, in bytes.")] = (
        16 << 20
    )
    max_rows: Annotated[int, Meta(ge=1, description="The most rows of one request.")] = 100_000
    max_cells: Annotated[
        int,
        Meta(ge=1, description="The most cells of one request: its rows times its columns."),
    ] = 1_000_000
    inline_ms: Annotated[
        float,
        Meta(
            ge=0, description="Models that take longer than this, in milliseconds, run in a thread."
        ),
    ] = 1.0
    batch_rows: Annotated[
        int, Meta(ge=1, description="The most rows of several requests that run together.")
    ] = 256
    queue_rows: Annotated[
        int,
        Meta(
            ge=1,
            description="The most rows that may wait for a busy model before requests get 503.",
        ),
    ] = 16_384
    timeout: Annotated[
        float,
        Meta(gt=0, description="Seconds that a request may wait for a model before it gets 504."),
    ] = 30.0
    threads: Annotated[
        int, Meta(ge=1, description="The number of threads for models that run in one.")
    ] = 2
    keep_alive: Annotated[
        int, Meta(ge=1, description="Seconds until an idle connection is closed.")
    ] = 65
    head_timeout: Annotated[
        float,
        Meta(gt=0, description="Seconds that the head of a request may take to arrive."),
    ] = 10.0
    body_timeout: Annotated[
        float,
        Meta(
            gt=0,
            description=(
                "Seconds that the body of a request may take to arrive, and one more per 16 KiB."
            ),
        ),
    ] = 30.0
    write_timeout: Annotated[
        float,
        Meta(gt=0, description="Seconds that a client may leave its responses unread."),
    ] = 30.0
    max_connections: Annotated[
        int,
        Meta(
            ge=1,
            description=(
                "The most connections of a process; fewer if its limit of open files is low."
            ),
        ),
    ] = 4096
    max_connections_per_address: Annotated[
        int,
        Meta(
            ge=1,
            description="The most of them from one address that is not a trusted proxy.",
        ),
    ] = 512
    grace: Annotated[
        int, Meta(ge=0, description="Seconds that running requests have to finish at a shutdown.")
    ] = 10
    drain: Annotated[
        float,
        Meta(
            ge=0,
            description=(
                "Seconds to keep answering while not ready before a shutdown, so that load "
                "balancers stop sending requests."
            ),
        ),
    ] = 0.0
    poll: Annotated[
        float, Meta(gt=0, description="Seconds between two checks of the shelf's state.")
    ] = 0.25
    ready_requires: Annotated[
        str,
        Meta(description="Dependencies without which /ready is 503: any of `mlflow,redis`."),
    ] = ""
    tracking_uri: Annotated[
        str | None, Meta(description="The MLflow server whose state /ready reports.")
    ] = None
    redis_url: Annotated[
        str | None,
        Meta(description="The Redis whose state /ready reports; the cache's by default."),
    ] = None
    trusted_proxies: Annotated[
        str,
        Meta(
            description="Addresses whose X-Forwarded-For is trusted, separated by commas, or `*`."
        ),
    ] = "127.0.0.1,::1"
    trusted_types: Annotated[
        str,
        Meta(
            description=(
                "Types that skops models may contain besides the built-in list, separated by "
                "commas."
            ),
        ),
    ] = ""
    journal: Annotated[
        Literal["on", "off"], Meta(description="Whether predictions are recorded.")
    ] = "on"
    journal_dir: Annotated[
        str | None, Meta(description="The journal's folder; `journal` in the home by default.")
    ] = None
    journal_max_bytes: Annotated[
        int, Meta(ge=1 << 16, description="The most bytes that the journal may use.")
    ] = 1 << 30
    journal_when_full: Annotated[
        Literal["drop", "refuse"],
        Meta(description="At that size: answer without recording, or answer 503."),
    ] = "drop"
    journal_sample: Annotated[
        float, Meta(ge=0, le=1, description="The fraction of requests that is recorded.")
    ] = 1.0
    journal_inputs: Annotated[
        Literal["on", "off"], Meta(description="Whether inputs are recorded too.")
    ] = "on"
    journal_rules: Annotated[
        str,
        Meta(
            description=(
                "Per model: `name=0.1,other=1:noinputs` (fraction, and whether without inputs)."
            ),
        ),
    ] = ""
    cache: Annotated[
        Literal["auto", "on", "off"],
        Meta(
            description=(
                "Whether repeated inputs are answered from the cache; auto: for models slow enough."
            ),
        ),
    ] = "auto"
    cache_entries: Annotated[
        int, Meta(ge=1, description="The most answers in the cache of a process.")
    ] = 10_000
    cache_url: Annotated[
        str | None, Meta(description="A Redis that shares cached answers between processes.")
    ] = None
    access_log: Annotated[
        Literal["on", "off"], Meta(description="Log a line for every request.")
    ] = "off"
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR"], Meta(description="What is logged.")
    ] = "INFO"
    log_format: Annotated[
        Literal["auto", "console", "json"],
        Meta(description="The format of log lines; auto: json unless the output is a terminal."),
    ] = "console"

    @property
    def shelf(self) -> Path:
        return Path(self.shelf_dir) if self.shelf_dir else Path(self.home) / "shelf"

    @property
    def journal_folder(self) -> Path:
        return Path(self.journal_dir) if self.journal_dir else Path(self.home) / "journal"

    @property
    def keys_file(self) -> Path:
        return Path(self.keys) if self.keys else Path(self.home) / "keys.json"

    @property
    def counts_dir(self) -> Path:
        return Path(self.home) / "metrics"


def load(environ: Mapping[str, str] | None = None, **given: Any) -> ServingSettings:
    """The settings from the environment; values in `given`, unless None, take precedence.

    Raises:
        SettingsError: A value is invalid; names the variable.
    """
    source = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    for name in ServingSettings.__struct_fields__:
        text = given.get(name)
        if text is None:
            text = _read(source, STANDARD_VARIABLES.get(name, f"TIDEMILL_{name.upper()}"))
            text = text.upper() if text and name == "log_level" else text
        if text is not None:
            values[name] = _convert(name, text)
    return ServingSettings(**values)


def variables() -> list[tuple[str, str, str]]:
    """Every setting as (variable, default, description), for the documentation."""
    hints = get_type_hints(ServingSettings, include_extras=True)
    table = []
    for field in msgspec.structs.fields(ServingSettings):
        meta = get_args(hints[field.name])[1]
        default = "" if field.default is None else str(field.default)
        table.append(
            (
                STANDARD_VARIABLES.get(field.name, f"TIDEMILL_{field.name.upper()}"),
                default,
                meta.description or "",
            )
        )
    return table


def _read(environ: Mapping[str, str], variable: str) -> str | None:
    if file := environ.get(f"{variable}_FILE"):
        try:
            return Path(file).read_text().strip()
        except OSError as error:
            raise SettingsError(
                f"{variable}_FILE names {file}, which cannot be read: {error}",
                field=f"{variable}_FILE",
            ) from error
    return environ.get(variable) or None


def _convert(name: str, value: Any) -> Any:
    hint = get_type_hints(ServingSettings, include_extras=True)[name]
    if isinstance(value, Path):
        value = str(value)
    try:
        return msgspec.convert(value, hint, strict=False)
    except msgspec.ValidationError as error:
        variable = STANDARD_VARIABLES.get(name, f"TIDEMILL_{name.upper()}")
        raise SettingsError(
            f"{variable} is {value!r}: {error}.", field=variable, expected=str(error)
        ) from error
