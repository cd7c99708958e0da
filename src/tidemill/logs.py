"""Logs: readable on the console, JSON in rotated files, one schema for both.

Every module logs through the standard library (`logging.getLogger(__name__)`); structlog renders.
"""

from __future__ import annotations

import io
import logging
import logging.handlers
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import structlog

from tidemill.border import indented, printable, printable_values
from tidemill.errors import SettingsError

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
MAX_BYTES = 10 * 2**20
KEPT_FILES = 5


def configure(
    name: str,
    *,
    level: str = "INFO",
    style: str = "auto",
    folder: Path | None = None,
    stream: TextIO | None = None,
    console: bool = True,
) -> None:
    """Send all logging of this process to the console and to `folder/name.log`.

    Args:
        name: The process ("api", "worker", "train" ...), used for the file and the `process` field.
        level: DEBUG, INFO, WARNING or ERROR.
        style: "console", "json", or "auto": "console" on a terminal, "json" elsewhere.
        folder: The folder of the JSON file, which is rotated at 10 MiB and kept five times; None
            writes no file.
        stream: The console; by default standard output for "json", for log collectors, and
            standard error otherwise.
        console: False to log nothing to the console, for commands that draw progress bars.

    Raises:
        SettingsError: The level or the style is unknown.
    """
    if level.upper() not in LEVELS:
        raise SettingsError(
            f"'{level}' is not a log level.", field="log_level", expected=", ".join(LEVELS)
        )
    if style not in ("auto", "console", "json"):
        raise SettingsError(
            f"'{style}' is not a log format.", field="log_format", expected="auto, console, json"
        )
    out = stream or (sys.stdout if style == "json" else sys.stderr)
    readable = style == "console" or (style == "auto" and out.isatty())
    handlers: list[logging.Handler] = []
    if console:
        handlers.append(_console(out, readable, name))
    if folder is not None:
        folder.mkdir(0o700, parents=True, exist_ok=True)
        handlers.append(_file(folder / f"{name}.log", name))
    _install(handlers or [logging.NullHandler()], level.upper())


def _install(handlers: Sequence[logging.Handler], level: str) -> None:
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)
    # Libraries that log routine work at INFO are limited to warnings.
    for noisy in ("alembic", "mlflow", "matplotlib", "httpx", "httpcore", "urllib3", "git"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
    logging.captureWarnings(True)


def _shared(name: str) -> list[structlog.types.Processor]:
    def add_process(
        _: object, __: str, event: structlog.types.EventDict
    ) -> structlog.types.EventDict:
        event.setdefault("process", name)
        return event

    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        _without_colours,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_process,
    ]


def _without_colours(
    _: object, __: str, event: structlog.types.EventDict
) -> structlog.types.EventDict:
    """Remove uvicorn's coloured copy of the event."""
    event.pop("color_message", None)
    return event


def _console(out: TextIO, readable: bool, name: str) -> logging.Handler:
    handler = logging.StreamHandler(out)
    if readable:
        renderer: structlog.types.Processor = structlog.dev.ConsoleRenderer(
            colors=out.isatty(), exception_formatter=_indented_traceback
        )
        handler.setFormatter(_formatter(name, [renderer]))
    else:
        handler.setFormatter(_json_formatter(name))
    return handler


def _file(path: Path, name: str) -> logging.Handler:
    handler = logging.handlers.RotatingFileHandler(
        path, maxBytes=MAX_BYTES, backupCount=KEPT_FILES, encoding="utf-8", delay=True
    )
    handler.setFormatter(_json_formatter(name))
    return handler


def _json_formatter(name: str) -> logging.Formatter:
    return _formatter(
        name,
        [
            structlog.processors.format_exc_info,
            _printable_exception,
            structlog.processors.JSONRenderer(),
        ],
    )


def _formatter(name: str, last: list[structlog.types.Processor]) -> logging.Formatter:
    remove_meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_shared(name), processors=[remove_meta, _printable, *last]
    )


def _printable(_: object, __: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    """Escape what could forge a line; `exc_info` is formatted later."""
    exception = event.pop("exc_info", None)
    cleaned: dict[str, Any] = printable_values(dict(event))
    return cleaned if exception is None else {**cleaned, "exc_info": exception}


def _printable_exception(
    _: object, __: str, event: structlog.types.EventDict
) -> structlog.types.EventDict:
    if "exception" in event:
        event["exception"] = printable(str(event["exception"]), keep="\n")
    return event


def _indented_traceback(out: TextIO, exception: Any) -> None:
    text = io.StringIO()
    structlog.dev.plain_traceback(text, exception)
    out.write(indented(text.getvalue()))
