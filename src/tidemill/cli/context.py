"""Options that commands share, and the settings and project that they select."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from tidemill import logs
from tidemill.errors import ProjectError
from tidemill.project import Project, gallery, load_project
from tidemill.settings import Settings, load_settings

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", help="Folder of all local state. [default: .tidemill]"),
]
TrackingOption = Annotated[
    str | None,
    typer.Option(help="MLflow tracking URI. [default: SQLite in the home]"),
]
ProjectOption = Annotated[
    str | None,
    typer.Option("--project", "-p", help="A project file, or gallery:NAME. [default: project.py]"),
]
MlflowStoreOption = Annotated[
    str | None, typer.Option(help="The database behind the MLflow server, if one is used.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")]


def open_settings(
    home: Path | None = None, tracking_uri: str | None = None, **more: Any
) -> Settings:
    """Settings from the environment and tidemill.toml; options of the command line override them.

    Raises:
        SettingsError: A setting has an invalid value.
    """
    given = {"home": home, "tracking_uri": tracking_uri, **more}
    return load_settings(**{name: value for name, value in given.items() if value is not None})


def start_logs(settings: Settings, name: str, *, console: bool = False) -> None:
    """Log to a file in the home, and with `console` to the terminal too.

    Commands that draw progress bars keep logs off the terminal.
    """
    logs.configure(
        name,
        level=settings.log_level,
        style=settings.log_format,
        folder=settings.log_folder,
        console=console,
    )


def find_project(reference: str | None, settings: Settings) -> Project:
    """Load the project that a command names.

    Its source is stored in the tag `tidemill.project`, so that a later promotion finds it again.

    Args:
        reference: A project file, `gallery:NAME`, or a model's name; None for the configured
            project or ./project.py.

    Raises:
        ProjectError: No project matches the reference, or the file is invalid.
    """
    source = _project_source(reference, settings)
    project = load_project(source, home=settings.home)
    location = source if source.startswith("gallery:") else str(Path(source).resolve())
    return replace(project, tags={**project.tags, "tidemill.project": location})


def _project_source(reference: str | None, settings: Settings) -> str:
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
        f"No project found for '{reference}'.",
        expected=f"a project file, or one of {', '.join(sorted(known))}",
        remedy="Pass the project file with --project.",
    )
