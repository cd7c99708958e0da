"""The data plane's logs, in the same schema as the control plane's, without structlog."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from tidemill.border import indented, printable, printable_values

#: Attributes of every record; all others were passed as `extra` and are logged.
#: `color_message` is uvicorn's coloured copy of the message.
STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {
    "message", "asctime", "taskName", "color_message",
}  # fmt: skip


class JsonLines(logging.Formatter):
    """One JSON object per line: event, level, logger, timestamp, process, then the extras."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "event": record.getMessage(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "process": "serve",
        }
        line |= {name: value for name, value in vars(record).items() if name not in STANDARD}
        line = printable_values(line)
        if record.exc_info:
            line["exception"] = printable(self.formatException(record.exc_info), keep="\n")
        return msgspec.json.encode(line, enc_hook=lambda value: printable(str(value))).decode()


class PlainLines(logging.Formatter):
    """One printable line per entry, then its traceback, indented."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return indented(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:  # noqa: N802
        return indented(super().formatStack(stack_info))


def configure(level: str, style: Literal["auto", "console", "json"]) -> None:
    """Configure logging to the console.

    Args:
        level: DEBUG, INFO, WARNING or ERROR.
        style: `console`, `json`, or `auto`: `console` on a terminal, `json` elsewhere.
    """
    out = sys.stdout if style == "json" else sys.stderr
    handler = logging.StreamHandler(out)
    if style == "json" or (style == "auto" and not out.isatty()):
        handler.setFormatter(JsonLines())
    else:
        handler.setFormatter(PlainLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)
