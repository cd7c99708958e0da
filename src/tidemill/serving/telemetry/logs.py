"""The data plane's log lines, in the schema of the control plane's, without structlog."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

#: What every record carries; whatever else is on one was given as `extra` and is shown.
#: uvicorn repeats some of its messages in colour.
PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {
    "message", "asctime", "taskName", "color_message",
}  # fmt: skip


class JsonLines(logging.Formatter):
    """One JSON object a line: event, level, logger, timestamp, process, then the extras."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "event": record.getMessage(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "process": "serve",
        }
        line |= {name: value for name, value in vars(record).items() if name not in PLAIN}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


def configure(level: str, style: Literal["auto", "console", "json"]) -> None:
    """Log to the console; as JSON when asked to, or where nobody watches.

    Args:
        level: DEBUG, INFO, WARNING or ERROR.
    """
    out = sys.stdout if style == "json" else sys.stderr
    handler = logging.StreamHandler(out)
    if style == "json" or (style == "auto" and not out.isatty()):
        handler.setFormatter(JsonLines())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
