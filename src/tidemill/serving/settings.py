"""What an operator sets for the data plane: one table, read from TIDEMILL_* in the environment.

Kept apart from `tidemill.settings` because the data plane does without pydantic. A variable
`TIDEMILL_<NAME>_FILE` names a file that holds the value, for secrets.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec
from msgspec import Meta

from tidemill.errors import SettingsError

#: Variables that keep the name other tools gave them.
FOREIGN = {"tracking_uri": "MLFLOW_TRACKING_URI", "trusted_proxies": "FORWARDED_ALLOW_IPS"}


class ServingSettings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings of the data plane, with the default that works on one machine."""

    home: Annotated[str, Meta(description="Where everything local is kept.")] = ".tidemill"
    shelf_dir: Annotated[
        str | None, Meta(description="The folder of bundles; by default `shelf` in the home.")
    ] = None
    models: Annotated[
        str, Meta(description="Names of models to serve, with commas; empty serves the shelf.")
    ] = ""
    host: Annotated[str, Meta(description="The address to listen on.")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="The port; 0 takes a free one.")] = 8000
    workers: Annotated[int, Meta(ge=1, le=128, description="Processes that share the port.")] = 1
    auth: Annotated[
        Literal["on", "off"], Meta(description="Whether predictions need an API key.")
    ] = "on"
    keys: Annotated[
        str | None, Meta(description="The keyring file; by default `keys.json` in the home.")
    ] = None
    rate_limit: Annotated[
        str,
        Meta(description="Each key's share, as `1000/second` or `60/minute`; `off` for none."),
    ] = "1200000/minute"
    rate_limit_address: Annotated[
        str, Meta(description="The share of an address that shows no valid key; `off` for none.")
    ] = "6000/minute"
    max_body: Annotated[int, Meta(ge=1, description="Largest request body, in bytes.")] = 16 << 20
    inline_ms: Annotated[
        float,
        Meta(ge=0, description="Models slower than this many milliseconds run in a thread."),
    ] = 1.0
    batch_rows: Annotated[
        int, Meta(ge=1, description="Most rows of several requests that run together.")
    ] = 256
    queue_rows: Annotated[
        int, Meta(ge=1, description="Rows that may wait for a busy model before 503 is answered.")
    ] = 16_384
    timeout: Annotated[
        float, Meta(gt=0, description="Seconds a request may wait for a model before 504.")
    ] = 30.0
    threads: Annotated[int, Meta(ge=1, description="Threads for models that run in one.")] = 2
    keep_alive: Annotated[int, Meta(ge=1, description="Seconds an idle connection is kept.")] = 65
    grace: Annotated[
        int, Meta(ge=0, description="Seconds that running requests get to end at a shutdown.")
    ] = 10
    drain: Annotated[
        float,
        Meta(
            ge=0,
            description="Seconds to answer on, not ready, before an end: balancers turn away.",
        ),
    ] = 0.0
    poll: Annotated[
        float, Meta(gt=0, description="Seconds between two looks at the shelf's state.")
    ] = 0.25
    ready_requires: Annotated[
        str,
        Meta(description="Parts without which /ready is 503: any of `mlflow,redis`."),
    ] = ""
    tracking_uri: Annotated[
        str | None, Meta(description="The MLflow server that /ready reports on.")
    ] = None
    redis_url: Annotated[
        str | None, Meta(description="The Redis that /ready reports on; by default the cache's.")
    ] = None
    trusted_proxies: Annotated[
        str, Meta(description="Addresses whose X-Forwarded-For is believed, with commas, or `*`.")
    ] = "127.0.0.1,::1"
    trusted_types: Annotated[
        str, Meta(description="Types a skops model may hold beyond the built-in list, with commas.")
    ] = ""
    journal: Annotated[
        Literal["on", "off"], Meta(description="Whether predictions are recorded.")
    ] = "on"
    journal_dir: Annotated[
        str | None, Meta(description="The journal's folder; by default `journal` in the home.")
    ] = None
    journal_max_bytes: Annotated[
        int, Meta(ge=1 << 16, description="Most bytes the journal may hold.")
    ] = 1 << 30
    journal_when_full: Annotated[
        Literal["drop", "refuse"],
        Meta(description="At that size: answer without recording, or answer 503."),
    ] = "drop"
    journal_sample: Annotated[
        float, Meta(ge=0, le=1, description="The share of requests that is recorded.")
    ] = 1.0
    journal_inputs: Annotated[
        Literal["on", "off"], Meta(description="Whether inputs are recorded too.")
    ] = "on"
    journal_rules: Annotated[
        str,
        Meta(description="Per model: `name=0.1,other=1:noinputs` (share, and without inputs)."),
    ] = ""
    cache: Annotated[
        Literal["auto", "on", "off"],
        Meta(description="Answer repeated inputs from memory; auto: for models slow enough."),
    ] = "auto"
    cache_entries: Annotated[int, Meta(ge=1, description="Most answers kept in memory.")] = 10_000
    cache_url: Annotated[
        str | None, Meta(description="A Redis that shares answers between processes.")
    ] = None
    access_log: Annotated[
        Literal["on", "off"], Meta(description="Log a line for every request.")
    ] = "off"
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR"], Meta(description="What is logged.")
    ] = "INFO"
    log_format: Annotated[
        Literal["auto", "console", "json"],
        Meta(description="The form of log lines; auto: json where the console is no terminal."),
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
    """The settings out of the environment; `given` (None means not given) goes before it.

    Raises:
        SettingsError: A value is not what its setting takes; names the variable.
    """
    source = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    for name in ServingSettings.__struct_fields__:
        text = given.get(name)
        if text is None:
            text = _read(source, FOREIGN.get(name, f"TIDEMILL_{name.upper()}"))
            text = text.upper() if text and name == "log_level" else text
        if text is not None:
            values[name] = _convert(name, text)
    return ServingSettings(**values)


def variables() -> list[tuple[str, str, str]]:
    """Every setting as (variable, default, what it does), for the documentation."""
    hints = get_type_hints(ServingSettings, include_extras=True)
    table = []
    for field in msgspec.structs.fields(ServingSettings):
        meta = get_args(hints[field.name])[1]
        default = "" if field.default is None else str(field.default)
        table.append(
            (
                FOREIGN.get(field.name, f"TIDEMILL_{field.name.upper()}"),
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
        variable = FOREIGN.get(name, f"TIDEMILL_{name.upper()}")
        raise SettingsError(
            f"{variable} is {value!r}: {error}.", field=variable, expected=str(error)
        ) from error
