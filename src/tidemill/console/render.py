"""Render templates, and format numbers, times and text for them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader
from markupsafe import Markup, escape

from tidemill import __version__
from tidemill.console import charts

#: The symbol of each mark: states differ in shape, not only in colour.
MARKS = {
    "good": "●",
    "busy": "◐",
    "watch": "▲",
    "bad": "■",
    "idle": "○",
}
JOB_MARKS = {
    "queued": "idle",
    "waiting": "watch",
    "running": "busy",
    "succeeded": "good",
    "failed": "bad",
    "cancelled": "idle",
}
STAGE_MARKS = {"Production": "good", "Staging": "busy", "Archived": "idle", "None": "idle"}


def page(template: str, values: Mapping[str, Any]) -> str:
    """Render a template as HTML."""
    return environment().get_template(template).render({"layout": "base.html", **values})


@cache
def environment() -> Environment:
    """The Jinja environment with the console's filters and globals."""
    env = Environment(
        loader=PackageLoader("tidemill.console"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {
        "number": number,
        "share": share,
        "rate": rate,
        "duration": duration,
        "when": when,
        "day": day,
        "path": path,
        "tojson": pretty,
        "short": short,
        "gain": gain,
    }
    env.globals |= {
        "marks": MARKS,
        "job_marks": JOB_MARKS,
        "stage_marks": STAGE_MARKS,
        "charts": charts,
        "asset": asset,
        "version": __version__,
    }
    return env


def asset(name: str) -> str:
    """The URL of a static file; it changes with the content, so browsers may cache it."""
    return f"/console/static/{name}?{hashes()[name]}"


@cache
def hashes() -> dict[str, str]:
    """A hash of the content of each static file."""
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()[:12]
        for file in resources.files("tidemill.console").joinpath("static").iterdir()
    }


def number(value: Any) -> str:
    """A number with three or four significant digits, and thousands separated."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15):
        return f"{int(value):,}".replace(",", "\u202f")
    size = abs(value)
    if size >= 1e6 or size < 0.01:  # four decimals would leave too few significant digits
        return f"{value:.3g}"
    digits = 4 if size < 1 else 3 if size < 10 else 2 if size < 100 else 1
    return f"{value:,.{digits}f}".replace(",", "\u202f")


def rate(value: float | None) -> str:
    """A rate per second."""
    if value is None:
        return "–"
    return (
        f"{value:.0f}"
        if value >= 100 or value == 0
        else f"{value:.1f}"
        if value >= 1
        else f"{value:.2f}"
    )


def share(value: float | None) -> str:
    """A share as a percentage."""
    if value is None:
        return "–"
    percent = 100 * value
    return f"{percent:.0f}%" if percent in (0, 100) or percent >= 10 else f"{percent:.2g}%"


def duration(seconds: float | None) -> str:
    """A duration in a suitable unit."""
    if seconds is None:
        return "–"
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        milliseconds = seconds * 1e3
        return f"{milliseconds:.1f} ms" if milliseconds < 10 else f"{milliseconds:.0f} ms"
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def when(seconds: float | None) -> Markup:
    """A time; a script shows it as `3 min ago`, with the exact time as the tooltip."""
    if seconds is None:
        return Markup("–")
    moment = datetime.fromtimestamp(seconds, UTC)
    iso, shown = moment.isoformat(timespec="seconds"), moment.strftime("%d %b %Y %H:%M UTC")
    return Markup('<time datetime="{}">{}</time>').format(iso, shown)


def day(seconds: float | None) -> str:
    """A time to the second, in UTC, for long lists."""
    if seconds is None:
        return "–"
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def path(value: Any) -> str:
    """A name as one segment of a URL."""
    return quote(str(value), safe="")


def pretty(value: Any) -> Markup:
    """A value as indented JSON."""
    return escape(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def short(value: Any, most: int = 60) -> str:
    text = str(value)
    return text if len(text) <= most else text[: most - 1] + "…"


def gain(value: float | None) -> str:
    """A difference with its sign."""
    if value is None:
        return "–"
    return ("+" if value > 0 else "−" if value < 0 else "±") + number(abs(float(value)))
