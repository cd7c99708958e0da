"""The projects that a platform can train, by the names of their models."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tidemill.errors import NotFoundError, ProjectError
from tidemill.project import Project, gallery, load_project

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KnownProject:
    """A project and the reference a worker loads it by: a file, or gallery:NAME."""

    reference: str
    project: Project


class Projects:
    """Loads projects on first use, and reloads a file that has changed.

    Args:
        references: Project files and `gallery:NAME`; `gallery:*` is all that come with Tidemill.
        default: The model that a request without a name means.
    """

    def __init__(self, references: Sequence[str], default: str | None = None) -> None:
        self._references = _expanded(references)
        self._default = default
        self._lock = threading.Lock()
        self._stamps: dict[str, float] = {}
        self._known: dict[str, KnownProject] = {}
        self._broken: dict[str, str] = {}

    def get(self, model: str | None) -> KnownProject:
        """Return the project of a model; for None, that of the default model or the only one.

        Raises:
            NotFoundError: No known project trains this model.
            ProjectError: No model is named and several are known.
        """
        known = self.all()
        name = model or self._default or (next(iter(known)) if len(known) == 1 else None)
        if name is None:
            raise ProjectError(
                "Several models can be trained here; name one.",
                field="model",
                expected=f"one of {', '.join(known)}",
            )
        if name not in known:
            raise self._unknown(name, known)
        return known[name]

    def all(self) -> dict[str, KnownProject]:
        """Return every project that loads, by the name of its model."""
        with self._lock:
            for reference in self._references:
                self._refresh(reference)
            return dict(self._known)

    @property
    def broken(self) -> dict[str, str]:
        """Why projects did not load, by their references."""
        return dict(self._broken)

    def _refresh(self, reference: str) -> None:
        stamp = _stamp(reference)
        if self._stamps.get(reference) == stamp:
            return
        self._stamps[reference] = stamp
        self._broken.pop(reference, None)
        try:
            project = load_project(reference)
        except (ProjectError, ImportError) as error:
            log.warning("the project %s does not load: %s", reference, error)
            self._broken[reference] = str(error)
            return
        self._known[project.name] = KnownProject(reference, project)

    def _unknown(self, name: str, known: dict[str, KnownProject]) -> NotFoundError:
        why = "; ".join(f"{where}: {what}" for where, what in self._broken.items())
        return NotFoundError(
            f"No project here trains a model '{name}'." + (f" ({why})" if why else ""),
            field="model",
            expected=f"one of {', '.join(known)}",
        )


def project_references(setting: str | None) -> list[str]:
    """Return the references in `TIDEMILL_PROJECT`, else ./project.py, else the whole gallery."""
    if setting:
        return [part.strip() for part in setting.split(",") if part.strip()]
    here = Path("project.py")
    return [str(here.absolute())] if here.is_file() else ["gallery:*"]


def _expanded(references: Sequence[str]) -> list[str]:
    found: list[str] = []
    for reference in references:
        if reference == "gallery:*":
            found += [f"gallery:{name}" for name in gallery()]
        elif reference.startswith("gallery:"):
            found.append(reference)
        else:
            found.append(str(Path(reference).expanduser().absolute()))
    return found


def _stamp(reference: str) -> float:
    if reference.startswith("gallery:"):
        return 0.0
    try:
        return Path(reference).stat().st_mtime
    except OSError:
        return -1.0
