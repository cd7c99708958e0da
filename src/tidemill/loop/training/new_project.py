"""Create a new project: a Python file that defines what to train, and a folder with its rows."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidemill.errors import ConflictError, ProjectError
from tidemill.project import Project, Source, gallery, load_project
from tidemill.signature import Task
from tidemill.steps.data.csv_dialect import NO_OPTIONS, read_table
from tidemill.steps.data.scaffold import render_project, render_readme
from tidemill.steps.data.table_spec import TableSpec, infer_table_spec, sample_customers

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


@dataclass(frozen=True)
class NewProject:
    """The files created, and what was inferred about the table; None for a gallery project."""

    files: list[Path]
    table: TableSpec | None = None


@dataclass(frozen=True)
class _Stated:
    """What the user states about a table; None and absent options are inferred."""

    target: str | None
    task: Task | None
    reading: Mapping[str, Any]


def write_project(
    folder: Path,
    *,
    source: str | None = None,
    target: str | None = None,
    task: Task | None = None,
    metrics: Mapping[str, str] = NO_METRICS,
    reading: Mapping[str, Any] = NO_OPTIONS,
) -> NewProject:
    """Create a project in a new or empty folder; the folder's name becomes the project's.

    Args:
        source: A CSV file to copy and describe, or the name of a gallery project; None generates a
            small table of customers.
        target: The column of the table to predict; None infers it.
        task: None infers it from the target's values.
        metrics: The gate's metric by task, for a project made from a table; the task's default
            otherwise.
        reading: Options of `pandas.read_csv` that the user states; the others are inferred.

    Raises:
        ConflictError: The folder is not empty, or is a file.
        ProjectError: The name is not valid, or there is no such source or target.
    """
    name = _checked_name(folder)
    _check_empty(folder)
    template = (source or "").removeprefix("gallery:")
    if template in gallery():
        return NewProject(_from_gallery(folder, template, target))
    return _from_table(folder, name, source, _Stated(target, task, reading), metrics)


def _checked_name(folder: Path) -> str:
    name = folder.resolve().name
    if not _NAME.fullmatch(name):
        raise ProjectError(
            f"'{name}' is not a valid name for a project.",
            field="name",
            expected="up to 100 letters, digits, dots, dashes and underscores, starting with a "
            "letter or digit",
        )
    return name


def _check_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists():
        raise ConflictError(
            f"{folder} {'is not empty' if folder.is_dir() else 'is a file'}.",
            field="name",
            expected="a new name, or the name of an empty folder",
        )


def _from_gallery(folder: Path, template: str, target: str | None) -> list[Path]:
    if target is not None:
        raise ProjectError(
            f"The gallery project '{template}' has its own target.",
            field="target",
            remedy="Omit --target, and change the project file afterwards.",
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
    return written + _generated_files(project, folder)


def _generated_files(project: Project, folder: Path) -> list[Path]:
    """The data files that a project generates if they do not exist."""
    if not isinstance(project.data, Source) or project.data.at is None:
        return []
    project.data.at(folder).load()
    return sorted(path for path in (folder / "data").rglob("*") if path.is_file())


def _from_table(
    folder: Path,
    name: str,
    source: str | None,
    stated: _Stated,
    metrics: Mapping[str, str],
) -> NewProject:
    file = Path(SAMPLE_FILE) if source is None else _existing(source)
    frame, options = (
        (sample_customers(), {}) if source is None else read_table(file, stated.reading)
    )
    table = infer_table_spec(
        frame, f"data/{file.name}", target=stated.target, task=stated.task, options=options
    )
    text = render_project(name, table, metrics.get(table.task))
    texts = {"project.py": text, "README.md": render_readme(name, table.row)}
    written = _write(folder, texts)
    copy = folder / table.path
    copy.parent.mkdir()
    if source is None:
        frame.to_csv(copy, index=False)
    else:
        shutil.copyfile(file, copy)
    return NewProject([*written, copy], table)


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
            f"There is no file and no gallery project '{source}'.",
            field="from",
            expected=f"a CSV file, or one of {', '.join(gallery())}",
        )
    if path.suffix.lower() in OTHER_FORMATS:
        raise ProjectError(
            f"{path.name} is not a CSV file.",
            field="from",
            remedy="Save it as CSV, or run `tidemill init NAME` and read it in a function that "
            "returns a DataFrame.",
        )
    return path
