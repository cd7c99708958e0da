"""From the command line to values: settings with a command's overrides, and the project meant."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from tidemill import logs
from tidemill.errors import ProjectError, SettingsError
from tidemill.project import Project, gallery, load_project
from tidemill.settings import Settings

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", help="Where everything local is kept. [default: .tidemill]"),
]
TrackingOption = Annotated[
    str | None,
    typer.Option(help="MLflow tracking server or store. [default: SQLite in the home]"),
]
ProjectOption = Annotated[
    str | None,
    typer.Option("--project", "-p", help="A project file, or gallery:NAME. [default: project.py]"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")]


def open_settings(
    home: Path | None = None, tracking_uri: str | None = None, **more: Any
) -> Settings:
    """Settings from the environment and tidemill.toml, with what the command line says on top."""
    given = {"home": home, "tracking_uri": tracking_uri, **more}
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise SettingsError(f"Setting '{name}': {first['msg']}.", field=name) from error


def start_logs(settings: Settings, name: str, *, console: bool = False) -> None:
    """Log to the home; the console only where the command draws nothing on it."""
    logs.configure(
        name,
        level=settings.log_level,
        style=settings.log_format,
        folder=settings.log_folder,
        console=console,
    )


def find_project(reference: str | None, settings: Settings) -> Project:
    """The project a command means.

    `reference` may be a file, `gallery:NAME`, or a model's name; None is the configured project or
    ./project.py. The project remembers where it was found in the tag `tidemill.project`, so that
    a later promotion can find it again.
    """
    place = _place(reference, settings)
    project = load_project(place, home=settings.home)
    where = place if place.startswith("gallery:") else str(Path(place).resolve())
    return replace(project, tags={**project.tags, "tidemill.project": where})


def _place(reference: str | None, settings: Settings) -> str:
    default = settings.project or "project.py"
    if reference is None:
        return default
    if reference.startswith("gallery:") or reference.endswith(".py"):
        return reference
    known = {}
    if default.startswith("gallery:") or Path(default).is_file():
        known[load_project(default).name] = default
    for name in gallery():
        known.setdefault(name, f"gallery:{name}")
    if reference in known:
        return known[reference]
    for name in gallery():
        if load_project(f"gallery:{name}").name == reference:
            return f"gallery:{name}"
    raise ProjectError(
        f"No project for '{reference}' is known here.",
        expected=f"a project file, or one of {', '.join(sorted(known))}",
        remedy="Name its file with --project.",
    )
