"""Write a new project: a Python file that says what to train, and a folder with its rows."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from tidemill.errors import ConflictError, ProjectError
from tidemill.project import Project, Source, gallery, load_project
from tidemill.steps.data.csv_dialect import read_table
from tidemill.steps.data.scaffold import render_project, render_readme
from tidemill.steps.data.table_spec import infer_table_spec, sample_customers

IGNORED = """\
.tidemill/
__pycache__/
data/processed/
logs/
reports/
triggers/
"""
SAMPLE_FILE = "customers.csv"
NO_METRICS: Mapping[str, str] = {}
OTHER_FORMATS = {".parquet", ".feather", ".xls", ".xlsx", ".json", ".jsonl", ".gz", ".zip"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def write_project(
    folder: Path,
    *,
    source: str | None = None,
    target: str | None = None,
    metrics: Mapping[str, str] = NO_METRICS,
) -> list[Path]:
    """Write a project into a new or empty folder, named after it.

    Args:
        source: A CSV file to copy and describe, or the name of a gallery project; None makes up a
            small table of customers.
        target: The column of the table to predict; None guesses it.
        metrics: By task, what the gate of a described table goes by; the usual one otherwise.

    Returns:
        The files written, below `folder`.

    Raises:
        ConflictError: The folder holds something already.
        ProjectError: The name cannot name a model, or there is no such source or target.
    """
    name = _checked_name(folder)
    _refuse_occupied(folder)
    template = (source or "").removeprefix("gallery:")
    if template in gallery():
        return _from_gallery(folder, template, target)
    return _from_table(folder, name, source, target, metrics)


def _checked_name(folder: Path) -> str:
    name = folder.resolve().name
    if not _NAME.fullmatch(name):
        raise ProjectError(
            f"'{name}' cannot name a project.",
            field="name",
            expected="up to 100 letters, digits, dots, dashes and underscores; a letter or digit "
            "comes first",
        )
    return name


def _refuse_occupied(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists():
        raise ConflictError(
            f"{folder} {'is not empty' if folder.is_dir() else 'is a file'}.",
            field="name",
            expected="a new name, or an empty folder",
        )


def _from_gallery(folder: Path, template: str, target: str | None) -> list[Path]:
    if target is not None:
        raise ProjectError(
            f"The gallery's '{template}' has its own target.",
            field="target",
            remedy="Leave --target out, and change the project file afterwards.",
        )
    project = load_project(f"gallery:{template}")
    text = Path(sys.modules[f"tidemill.gallery.{template}"].__file__ or "").read_text("utf-8")
    written = _write(
        folder,
        {
            "project.py": text.replace(f" --project gallery:{template}", ""),
            "README.md": render_readme(project.name, None),
        },
    )
    return written + _made_by(project, folder)


def _made_by(project: Project, folder: Path) -> list[Path]:
    """The raw files that a project makes for itself when they are not there."""
    if not isinstance(project.data, Source) or project.data.at is None:
        return []
    project.data.at(folder).load()
    return sorted(path for path in (folder / "data").rglob("*") if path.is_file())


def _from_table(
    folder: Path, name: str, source: str | None, target: str | None, metrics: Mapping[str, str]
) -> list[Path]:
    file = Path(SAMPLE_FILE) if source is None else _existing(source)
    frame, options = (sample_customers(), {}) if source is None else read_table(file)
    table = infer_table_spec(frame, f"data/{file.name}", target=target, options=options)
    text = render_project(name, table, metrics.get(table.task))
    texts = {"project.py": text, "README.md": render_readme(name, table.row)}
    written = _write(folder, texts)
    copy = folder / table.path
    copy.parent.mkdir()
    if source is None:
        frame.to_csv(copy, index=False)
    else:
        shutil.copyfile(file, copy)
    return [*written, copy]


def _write(folder: Path, texts: dict[str, str]) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    files = {folder / name: text for name, text in {**texts, ".gitignore": IGNORED}.items()}
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")
    return list(files)


def _existing(source: str) -> Path:
    path = Path(source)
    if not path.is_file():
        raise ProjectError(
            f"There is neither a file nor a gallery project '{source}'.",
            field="from",
            expected=f"a CSV file, or one of {', '.join(gallery())}",
        )
    if path.suffix.lower() in OTHER_FORMATS:
        raise ProjectError(
            f"{path.name} is not a CSV file.",
            field="from",
            remedy="Save it as CSV, or start with a plain `tidemill init NAME` and read it in a "
            "function that returns a DataFrame.",
        )
    return path
